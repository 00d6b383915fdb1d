#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 900
"""The power fails at any moment: two servers with volatile caches write down all that a mirror does on them, in order;
from each of many cuts, what may be left is assembled, heals, and is judged by the oracle.

The load goes on while one copy is lost, or can't write, comes back and is healed, so cuts fall into writes of the log and of
superblocks, and into healing. Of what was not flushed at a cut all, nothing, or any part is left; the write that was under way
may have been done in part.

Then the mirror stays, and its nodes lose their power, one after the other, again and again: disks with volatile caches behind
exports."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.environ["TESTS"])
from lib import *
import nbdserver as nbd
from nbdserver import Server
from oracle_rule import Checker, Copy, Log

SIZE = 6 << 20
DATA = mirror_sectors(SIZE // 512) * 512
CUTS = 45 // (3 if SLOW > 1 else 1)
# How many events from the first error on are cuts, too.
BEHIND = 5
# Power cuts of disks: how many (with the cuts above two hundred; `make soak` wants more), of how many disks, which are cut
# twice in a round.
CYCLES = int(os.environ.get("CYCLES", 154 if SLOW == 1 else 14))
DISKS = 7
# Blocks that a round writes to; rounds until the disks are exchanged for new ones, whose size in MiB.
SPAN, ROUNDS, ROOM = 2048, 4, 34
LOG = f"{TMP}/log"

order = threading.Lock()
# (server, command, offset, data, fua, how long the oracle's log was before)
events = []
# How many there were at each write that a server could not do.
errors = []
recording = True

load()


class Recorder(Server):
    """Writes down what changes its data, in one order with the other one."""

    away = broken = slow = False

    def apply(self, request):
        if not recording or request.command not in (nbd.WRITE, nbd.TRIM, nbd.ZEROES, nbd.FLUSH):
            return super().apply(request)
        if self.slow and request.offset >= DATA:
            time.sleep(0.1)
        with order:
            if self.broken and request.command != nbd.FLUSH:
                errors.append(len(events))
                return nbd.EIO, b""
            written = os.path.getsize(LOG) if os.path.exists(LOG) else 0
            if request.command == nbd.FLUSH:
                data = None
            else:
                data = request.data if request.command == nbd.WRITE else bytes(request.length)
            events.append((self, request.offset, data, bool(request.flags & nbd.CMD_FUA), written))
            return super().apply(request)

    def lose(self):
        """Clients are cut off, and don't come in."""
        self.away = True
        self.on_connect = self.refuse
        self.drop()

    def refuse(self, connection):
        if self.away:
            raise nbd.Gone
        return False

    def come_back(self):
        self.away = False


def left(server, cut, keep, rng):
    """What is on a server when the power fails before event `cut`."""
    stable, cached = bytearray(SIZE), []

    def apply(chance):
        for at, data, sure in cached:
            if sure or rng.random() < chance:
                stable[at : at + len(data)] = data
        cached.clear()

    for _, offset, data, fua, _ in (event for event in events[:cut] if event[0] is server):
        if data is None:
            apply(1)
        else:
            cached.append((offset, data, fua))
    apply(keep)
    if cut < len(events) and events[cut][0] is server and events[cut][2]:
        _, offset, data, _, _ = events[cut]
        part = rng.randrange(len(data) // 512 + 1) * 512
        stable[offset : offset + part] = data[:part]
    return stable


def check(number, cut, acked, servers):
    """The oracle's judgement of a cut, and both are equal."""
    log = f"{TMP}/cut.log"
    length = events[cut][4] if cut < len(events) else os.path.getsize(LOG)
    with open(LOG, "rb") as whole, open(log, "wb") as part:
        part.write(whole.read(length))
    copies = []
    for i, server in enumerate(servers):
        path = f"{TMP}/cut.{i}"
        with open(path, "wb") as file:
            file.write(server.memory)
        copies.append(Copy(f"copy{i}={path}"))
    checker = Checker(Log(log), copies, acked=acked)
    if not checker.run():
        checker.report()
        fail(f"cut {number}, before event {cut} of {len(events)}")
    if servers[0].memory[:DATA] != servers[1].memory[:DATA]:
        bad = [i for i in range(0, DATA, 512) if servers[0].memory[i : i + 512] != servers[1].memory[i : i + 512]]
        fail(f"cut {number}, before event {cut} of {len(events)}: {len(bad)} sectors differ, the first is {bad[0] // 512}")


def test_cuts():
    global recording
    servers = [Recorder(SIZE, 12501).start(), Recorder(SIZE, 12502).start()]
    places = ["localhost:12501", "localhost:12502"]
    dst("create", "cut", "--alg", "alg_mirror", *places, "--start-array")
    run("udevadm", "settle")
    begin = len(events)
    words = ["--threads", "3", "--readers", "0", "--flush-every", "6", "--rate", "60", "--most", "6", "--zeroes", "4"]
    aside = Load("/dev/dst-cut", LOG, "--area", "128:512", *words)
    aside.goes_on(40)
    servers[1].lose()
    wait_role("cut", ":12502", "missing")
    aside.goes_on(40)
    servers[1].come_back()
    wait_health("cut", "healthy", 60)
    aside.goes_on(20)
    # The other one, too: then the first in the table is behind.
    servers[0].lose()
    wait_role("cut", ":12501", "missing")
    aside.goes_on(20)
    servers[0].come_back()
    wait_health("cut", "healthy", 60)
    aside.goes_on(10)
    # It is there, but can't write. Whoever acknowledges too early has time for it while the other one is told.
    servers[0].broken = servers[1].slow = True
    wait_role("cut", ":12501", "missing")
    servers[1].slow = False
    aside.goes_on(20)
    servers[0].broken = False
    wait_health("cut", "healthy", 60)
    aside.goes_on(10)
    print(aside.end(), end="")
    delete("cut")
    recording = False
    print(f"{len(events) - begin} events")

    rng = random.Random(13)
    # Where metadata are written, each cut counts; elsewhere some do.
    metadata = [i for i in range(begin, len(events)) if events[i][2] and events[i][1] >= DATA]
    cuts = rng.sample(metadata, min(len(metadata), CUTS * 2 // 3)) + [rng.randrange(begin, len(events) + 1) for _ in range(CUTS // 3)]
    cuts = [(cut, (0, 1, 0.5)[number % 3]) for number, cut in enumerate(cuts)]
    # Right after what one of them could not do: where the other one has all of it, that must be there.
    cuts += [(cut, 1) for cut in range(errors[0], errors[0] + BEHIND)]
    for number, (cut, keep) in enumerate(cuts):
        for server in servers:
            server.memory[:] = left(server, cut, keep, rng)
        nodes = places if rng.random() < 0.5 else places[::-1]
        try:
            dst("assemble", "cut", *nodes)
        except AssertionError as error:
            fail(f"cut {number}, before event {cut} of {len(events)}, {keep} of what was cached is left: {error}")
        wait_health("cut", "healthy", 60)
        delete("cut")
        check(number, cut, keep == 1, servers)
    print(f"{len(cuts)} cuts", end=" ")
    for server in servers:
        server.stop()
        if server.complaints:
            fail(f"{server.complaints}")


class Volatile:
    """A disk with a volatile cache, and an export of it, which lose their power.

    What null_blk has on the disk itself is overwritten there, past the cache: only what is written for the first time, or was
    not flushed since, can be lost."""

    def __init__(self, number):
        self.name, self.port = f"volatile{number}", 12510 + number
        self.path, self.root = f"/dev/{self.name}", f"/sys/kernel/config/nullb/{self.name}"
        os.mkdir(self.root)
        # Half of them know no FUA.
        for what in ("size", ROOM), ("blocksize", 512), ("memory_backed", 1), ("cache_size", 4), ("fua", number % 2):
            self.set(*what)
        self.on()

    def set(self, attribute, value):
        with open(f"{self.root}/{attribute}", "w", encoding="ascii") as file:
            file.write(str(value))

    def on(self):
        self.set("power", 1)
        dst("export", self.name, self.path, "--listen", f"127.0.0.1:{self.port}")

    def off(self, disk_first=False):
        """What was not flushed is gone. `disk_first`: there are errors before the connection is lost."""
        if disk_first:
            self.set("power", 0)
        dst("unexport", self.name)
        self.set("power", 0)

    def end(self):
        self.off()
        os.rmdir(self.root)


def volatile_disks():
    """New ones, and a RAM disk."""
    run("modprobe", "-r", "brd", check=False)
    run("modprobe", "brd", "rd_nr=1", f"rd_size={ROOM << 10}")
    disks = [Volatile(number) for number in range(DISKS)]
    # They lose what was not flushed, and only that.
    for disk in disks[:2]:
        with Direct(disk.path) as direct:
            direct.write(0, b"1" * 4096)
            direct.flush()
            direct.write(4096, b"2" * 4096)
        disk.off()
        disk.on()
        with Direct(disk.path) as direct:
            if direct.read(0, 8192) != b"1" * 4096 + bytes(4096):
                fail(f"{disk.name} has no volatile cache, or no other one")
            direct.write(0, bytes(4096))
            direct.flush()
    return disks


def written(path, first):
    """The blocks from that one on in which there is something."""
    with Direct(path) as direct:
        data = b"".join(direct.read((first + at) * 4096, SPAN * 1024) for at in range(0, SPAN, SPAN // 4))
    return {at for at in range(SPAN) if data[at * 4096 : at * 4096 + 512] != bytes(512)}


def nothing_under_way():
    with open("/sys/block/dst-cycle/inflight", encoding="ascii") as file:
        return file.read().split() == ["0", "0"]


def cut_power(disks, area, rng, load):
    """Each of them loses its power, and once more. Gives how many blocks the cuts have cost that were looked at."""
    lost = 0
    # A third time would be looked for late: a mirror is slower and slower to look at a copy that does not stay.
    for number, disk in enumerate(rng.sample(disks, DISKS) + rng.sample(disks, DISKS)):
        name = copy_of("cycle", f":{disk.port}")
        wait_until(60, lambda: node("cycle", "role", name) != "missing", f"{disk.name} is a copy again")
        time.sleep(rng.uniform(0, 0.3))
        left = storage("cycle", "left")
        # Where there are few cuts, each may be one of those that cost nothing.
        looked_at = number % 3 == 0 or SLOW > 1
        if looked_at:
            # Nothing is under way at the cut, and it comes before the mirror thinks of a flush by itself.
            load.process.send_signal(signal.SIGSTOP)
            wait_until(10, nothing_under_way, "the load stands still")
        disk.off(rng.random() < 0.5)
        if looked_at:
            disk.set("power", 1)
            lost += len(written("/dev/ram0", area) - written(disk.path, area))
            load.process.send_signal(signal.SIGCONT)
        disk.on()
        wait_until(60, lambda: storage("cycle", "left") > left, f"the mirror knows that {disk.name} has lost its power")
    return lost


def test_power_cycles():
    """The mirror lives, disks of its copies lose their power at any moment. It notices, and they get what may be lost."""
    run("modprobe", "null_blk", "nr_devices=0")
    if not os.path.isdir("/sys/kernel/config/nullb"):
        run("mount", "-t", "configfs", "none", "/sys/kernel/config")
    cycles, rng = 0, random.Random(17)
    while cycles < CYCLES:
        cycles += power_cycles(rng, min(ROUNDS, -(-(CYCLES - cycles) // (2 * DISKS))))
    # udev may have one of the disks open, to look at what is on it.
    wait_until(20, lambda: subprocess.run(["modprobe", "-r", "null_blk"], check=False).returncode == 0, "null_blk goes")
    print(f"{cycles} power cuts", end=" ")


def power_cycles(rng, rounds):
    """So many rounds with new disks. Gives how many power cuts there were."""
    disks, log = volatile_disks(), f"{TMP}/cycles.log"
    places = ["/dev/ram0"] + [f"localhost:{disk.port}" for disk in disks]
    words = ["--threads", "2", "--most", "4", "--append", "70", "--hot", "60", "--flush-every", "12", "--rate", "30", "--legs-fail"]
    if os.path.exists(log):
        os.unlink(log)
    lost = healed = 0
    for number in range(rounds):
        if number:
            dst("assemble", "cycle", *places)
        else:
            dst("create", "cycle", "--alg", "alg_mirror", *places, "--start-array")
        dst("set", "cycle", "read-policy=round-robin")
        aside = Load("/dev/dst-cycle", log, "--area", f"{number * SPAN}:{SPAN}", "--seed", number + 1, *words)
        lost += cut_power(disks, number * SPAN, rng, aside)
        wait_health("cycle", "healthy", 90)
        aside.goes_on(10)
        aside.end()
        if not 0 < storage("cycle", "healed") <= 2 * DISKS * SPAN // 16 * 128:
            fail(f"{storage('cycle', 'healed')} sectors were healed after {2 * DISKS} cuts; {SPAN // 16} regions were written to")
        healed += storage("cycle", "healed")
        delete("cycle", 30)
    # Now nobody gives them back what was not flushed.
    for disk in disks:
        disk.off()
        disk.on()
    copies = ["/dev/ram0"] + [disk.path for disk in disks]
    print(oracle("check", log, "--acked", *copies), end="")
    oracle("equal", mirror_sectors(ROOM << 11), *copies)
    for disk in disks:
        disk.end()
    print(f"[{lost} blocks lost in the cuts that were looked at, {healed} sectors healed]", end=" ")
    if not lost:
        fail("no cut has cost anything")
    return rounds * 2 * DISKS


main(test_cuts, test_power_cycles)
