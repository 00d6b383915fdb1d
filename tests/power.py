#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Power cuts: a mirror of a disk here and a disk on another machine, both VMs, which lose their power at random moments.

    power.py [--rounds N] [--seed N] [--kinds KIND,...]

After each cut the machines boot with the disks as they are, and the mirror is assembled and heals. Then the oracle judges
both disks: no write that was acknowledged is lost (only machines lost power, the disks keep what they have), both hold the
same, and no more was copied than what the log on the disks had called active or stale when the power was cut, which are
regions that were written to lately. All kinds of cuts come in turn, in an order that is drawn by lot; what is drawn follows from
the seed. Kinds:

    head     the machine that has the mirror
    both     both machines at once
    late     the node; the head writes on, and is cut off a moment later: the node's disk is stale then
    node     the node; the head writes on, the node boots, and is healed under load; then the head is cut off
    healing  the head; and again while the mirror heals: what was healed, and noted as that, is not healed once more
    link     frames are lost for some seconds; then the head is cut off
"""

import argparse
import os
import random
import shlex
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cable import Cable  # pylint: disable=wrong-import-position
from mirror_log import lacking  # pylint: disable=wrong-import-position
from oracle_rule import Checker, Copy, Log, append  # pylint: disable=wrong-import-position

TESTS = os.path.dirname(os.path.abspath(__file__))
TMP = os.environ["TMP"]
VM = shlex.split(os.environ.get("VM", f"{TESTS}/vm"))
SLOW = 5 if os.environ.get("KERNEL") == "debug" else 1
SECTORS = 256 << 11
DATA = 254 << 11
# Blocks that a round writes to: 2 MiB.
SPAN = 512
REGION = 128
# Regions that may be copied once more if the connection is lost while they are: as many as are copied at once.
SLACK = 4
# The node's disk in the mirror's table.
NODE = 1
# Seconds after which a machine ends by itself; a node may run through many rounds.
LIMIT = 20000
KINDS = ["head", "late", "healing", "both", "node", "link"]

share = os.path.join(TMP, "share")


def fail(text):
    raise SystemExit(f"FAILED: {text}")


def path(name):
    return os.path.join(share, name)


def clear(*names):
    for name in names:
        if os.path.exists(path(name)):
            os.unlink(path(name))


def touch(name):
    open(path(name), "w").close()


def read(name):
    try:
        with open(path(name)) as file:
            return file.read().split()
    except FileNotFoundError:
        return []


class Machine:
    """A VM; `process` is None while nobody runs it."""

    def __init__(self, name, *words):
        self.name, self.words, self.process, self.boots = name, words, None, 0

    def boot(self, *command):
        self.boots += 1
        self.output = os.path.join(TMP, f"{self.name}.{self.boots}")
        words = [*VM, "--share", share, "--timeout", str(LIMIT), "--log", self.output + ".log", *self.words, "--", *command]
        open(self.output + ".log", "w").close()
        with open(self.output, "w") as file:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)

    def qemu(self):
        """The process that is the machine: VM's script runs it by way of timeout."""
        def children(pid):
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                return list(map(int, file.read().split()))

        for child in children(self.process.pid):
            for grandchild in children(child):
                with open(f"/proc/{grandchild}/comm") as file:
                    if file.read().startswith("qemu"):
                        return grandchild
        return None

    def cut(self):
        """The power is gone."""
        pid = self.qemu()
        if not pid:
            fail(f"{self.name} does not run: {self.tail()}")
        os.kill(pid, signal.SIGKILL)
        self.process.wait(60)
        self.process = None
        self.scan()

    def scan(self):
        """No bug was reported until then."""
        scan = subprocess.run([f"{TESTS}/scan-log", self.output + ".log"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if scan.returncode:
            fail(f"the kernel log of {self.name}: {scan.stdout}")

    def end(self, seconds=120):
        """It ends by itself, and well."""
        try:
            status = self.process.wait(seconds * SLOW)
        except subprocess.TimeoutExpired:
            fail(f"{self.name} does not end: {self.tail()}")
        if status:
            fail(f"{self.name} ended with status {status}: {self.tail()}")
        self.process = None

    def tail(self):
        with open(self.output, errors="replace") as file:
            return "".join(file.readlines()[-60:])

    def wait(self, seconds, condition, what):
        end = time.monotonic() + seconds * SLOW
        while not (value := condition()):
            if self.process.poll() is not None:
                fail(f"{self.name} ended ({self.process.returncode}) before {what}: {self.tail()}")
            if time.monotonic() > end:
                fail(f"not after {seconds * SLOW} s: {what}; health {read('health')}; {self.tail()}")
            time.sleep(0.05)
        return value


class Game:
    """All rounds."""

    def __init__(self, options):
        self.options, self.rng, self.round = options, random.Random(options.seed), 0
        # Regions that the log calls active, or stale on the node, where the head was cut off.
        self.lacks = 0
        os.makedirs(share)
        self.images = [os.path.join(TMP, "head.img"), os.path.join(TMP, "node.img")]
        for image in self.images:
            with open(image, "wb") as file:
                file.truncate(SECTORS * 512)
        self.log = path("log")
        open(self.log, "w").close()
        one, two = os.path.join(TMP, "one"), os.path.join(TMP, "two")
        self.cable = Cable(one, two)
        self.node = Machine("node", "--disk", self.images[1], "--listen", one)
        self.head = Machine("head", "--disk", self.images[0], "--connect", two)

    def acked(self):
        with open(self.log, "rb") as file:
            return sum(line[:2] in (b"A ", b"D ") for line in file)

    def boot_node(self):
        clear("node.ready", "node.stop")
        self.node.boot("tests/guest/power-node")

    def boot_head(self, how="again"):
        clear("assembled", "recovered", "go", "health")
        self.area = f"{256 + self.round * 2 * SPAN % 60000}:{SPAN}"
        self.lacks = self.logged()
        self.head.boot("tests/guest/power-head", how, self.area)

    def logged(self):
        """Regions that the log calls active, or stale on the node. The node's disk may count, or may be behind: the greater."""
        return max(lacking(NODE, self.images[0]), lacking(NODE, *self.images))

    def assembled(self):
        """The head has started the mirror, which lacks no more than what the log says."""
        def told():
            # What was on its way to the node when the head was cut off may come now.
            self.lacks = max(self.lacks, self.logged())
            return read("assembled")

        stale = int(self.head.wait(300, told, "the mirror is assembled")[1])
        if stale > self.lacks * REGION:
            fail(f"{stale} sectors are stale after the start; in the log {self.lacks} regions of {REGION} were active or stale")

    def recover(self):
        """The machines boot, and all is healed; gives what was copied."""
        if not self.node.process:
            self.boot_node()
        self.node.wait(180, lambda: os.path.exists(path("node.ready")), "the node is up")
        if not self.head.process:
            self.boot_head("again" if self.round else "new")
        self.assembled()
        return int(self.head.wait(300, lambda: read("recovered"), "the mirror is healed")[0])

    def judge(self, healed):
        """Nothing is lost, copies are equal, little was copied."""
        log = Log(self.log)
        checker = Checker(log, [Copy("head=" + self.images[0]), Copy("node=" + self.images[1])], acked=True)
        good = checker.run()
        checker.report()
        if not good:
            fail(f"round {self.round}; the log and the disks are in {TMP}")
        if subprocess.run([sys.executable, f"{TESTS}/oracle.py", "equal", str(DATA), *self.images]).returncode:
            fail(f"the copies differ after round {self.round}")
        since = log.since(f"round {self.round - 1}")
        dirty = {lba // 16 for write in log.writes.values() if write.end > since for lba in range(write.first, write.first + write.count)}
        if healed > len(dirty) * REGION:
            fail(f"{healed} sectors were copied; {len(dirty)} regions of {REGION} sectors were written to")
        if healed > (self.lacks + SLACK) * REGION:
            fail(f"{healed} sectors were copied; in the log {self.lacks} regions of {REGION} were active or stale")
        print(f"round {self.round}: {healed} sectors were copied, {len(dirty)} regions of {REGION} had been written to, {self.lacks} "
              "were active or stale", flush=True)
        checker.settle(self.log)

    def writes(self, count):
        want = self.acked() + count
        self.head.wait(120, lambda: self.acked() >= want, f"{count} writes")

    def cut(self, kind):
        """Load, and a cut."""
        append(self.log, f"N round {self.round}")
        touch("go")
        self.writes(60)
        time.sleep(self.rng.uniform(0, 3))
        if kind in ("late", "node"):
            self.node.cut()
            self.writes(60)
            if kind == "node":
                self.boot_node()
                self.head.wait(240, lambda: read("health")[:1] == ["healthy"] and os.path.exists(path("node.ready")), "healed again")
                self.writes(30)
            time.sleep(self.rng.uniform(0, 2))
        elif kind == "link":
            self.cable.cut = True
            time.sleep(self.rng.uniform(1, 20))
            self.cable.cut = False
            self.writes(20)
        elif kind == "both":
            self.node.cut()
        self.head.cut()
        if kind == "healing":
            self.cut_healing()

    def cut_healing(self):
        """The mirror is assembled and heals, slowly; and a cut when some of that is noted, so that it need not be done again."""
        touch("slowly")
        self.boot_head()
        self.assembled()
        first, begin = self.lacks, time.monotonic()
        # Before, what was active still is, healed or not.
        self.head.wait(60, lambda: self.logged() < first - SLACK, "the log says that something is healed")
        print(f"healing: after {time.monotonic() - begin:.0f} s the log says {self.logged()} of {first} regions", flush=True)
        time.sleep(self.rng.uniform(0, 3))
        self.head.cut()
        clear("slowly")
        print(f"healing: {self.logged()} when it is cut off", flush=True)

    def kinds(self):
        """Those that were asked for, again and again; or all, each time in another order."""
        while True:
            yield from self.options.kinds or self.rng.sample(KINDS, len(KINDS))

    def play(self):
        begin, kinds = time.monotonic(), self.kinds()
        for number in range(1, self.options.rounds + 1):
            healed = self.recover()
            if self.round:
                self.judge(healed)
            elif healed:
                fail(f"{healed} sectors of a new mirror were copied")
            self.round = number
            kind = next(kinds)
            print(f"round {number} of {self.options.rounds}: {kind} ({time.monotonic() - begin:.0f} s so far)", flush=True)
            self.cut(kind)
        self.judge(self.recover())
        touch("head.stop")
        self.head.end()
        touch("node.stop")
        self.node.end()

    def close(self):
        for machine in self.head, self.node:
            if machine.process and machine.process.poll() is None and (pid := machine.qemu()):
                os.kill(pid, signal.SIGKILL)
                machine.process.wait(30)
        self.cable.close()


def main():
    parser = argparse.ArgumentParser(usage=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("DST_POWER_SEED") or time.time()))
    parser.add_argument("--kinds", type=lambda text: text.split(","))
    options = parser.parse_args()
    print(f"seed {options.seed} (DST_POWER_SEED={options.seed} draws the same once more)", flush=True)
    game = Game(options)
    try:
        game.play()
    finally:
        game.close()


if __name__ == "__main__":
    main()
