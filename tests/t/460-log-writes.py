#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 300
"""What a disk holds whose power fails at any flush, by dm-log-writes: below the copies of a mirror, on it, and on a linear storage.

A filesystem is used by a program that syncs its files step by step, and marks the log after each. The log is replayed up to
many flushes and writes with FUA: each time what is there must be a mirror that starts, with a filesystem that is consistent
once it was mounted, and all that was synced before the last mark."""

import os
import random
import sys

sys.path.insert(0, os.environ["TESTS"])
from lib import *
from log_writes import *

MIB = 1 << 20
SIZE = 48 * MIB
DATA = mirror_sectors(SIZE // 512)
MOUNT = f"{TMP}/mount"
DISKS = os.environ["DISKS"].split()
PAGE = 4096
STEPS = 32 if SLOW == 1 else 16
# How many moments of a copy, of two copies, and of what lies on a storage are looked at.
ALONE, BOTH, ABOVE = (24, 9, 10) if SLOW == 1 else (8, 3, 4)
# What is said of a copy on which no superblock is complete yet.
UNMADE = "there is no superblock|half-written|no superblock has the right checksum"

os.makedirs(MOUNT)
load()


class Wrong(Exception):
    """What is found is not what was promised."""


class Work:
    """A program that syncs what it does. After step N all of `states[N]` (path → content) is to stay; and of step N+1 each
    path of `changes[N+1]` may be found as it says: a function of the content, or of None."""

    def __init__(self, seed, mark):
        self.random, self.mark, self.now = random.Random(seed), mark, {}
        self.states, self.changes = [], []

    def data(self, most):
        return self.random.randbytes(self.random.randrange(1, most))

    def run(self, steps):
        os.makedirs(f"{MOUNT}/kept")
        self.sync(MOUNT)
        self.done({})
        actions = [self.create, self.create, self.replace, self.overwrite, self.append, self.create, self.several, self.remove]
        for number in range(1, steps + 1):
            # What nobody asks to be kept: it is on its way to the disk at any time.
            with open(f"{MOUNT}/loose{number % 5}", "wb") as file:
                file.write(self.random.randbytes(100_000))
            self.done(actions[number % len(actions)](number))

    def done(self, changes):
        self.states.append(dict(self.now))
        self.changes.append(changes)
        self.mark(f"step-{len(self.states) - 1}")

    def sync(self, path):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def store(self, name, data):
        """As careful programs write a file: it is the old one or the new one at any time."""
        path, old = f"{MOUNT}/kept/{name}", self.now.get(name)
        with open(f"{MOUNT}/new", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{MOUNT}/new", path)
        self.sync(f"{MOUNT}/kept")
        self.now[name] = data
        return {name: lambda found: found in (old, data)}

    def create(self, number):
        return self.store(f"file{number}", self.data(60_000))

    def several(self, number):
        changes = {}
        for name, data in ("a", self.data(9000)), ("b", self.data(300_000)), ("c", b""):
            changes |= self.store(f"{name}{number}", data)
        return changes

    def choose(self, least=0):
        return self.random.choice([name for name, data in sorted(self.now.items()) if len(data) >= least])

    def replace(self, _):
        return self.store(self.choose(), self.data(60_000))

    def remove(self, _):
        name = self.choose()
        old = self.now.pop(name)
        os.unlink(f"{MOUNT}/kept/{name}")
        self.sync(f"{MOUNT}/kept")
        return {name: lambda found: found in (old, None)}

    def overwrite(self, _):
        name = self.choose(PAGE)
        old = self.now[name]
        new = bytearray(old)
        with open(f"{MOUNT}/kept/{name}", "r+b") as file:
            for page in range(0, len(old) // PAGE, 2):
                piece = self.random.randbytes(PAGE)
                new[page * PAGE : page * PAGE + PAGE] = piece
                file.seek(page * PAGE)
                file.write(piece)
            file.flush()
            os.fdatasync(file.fileno())
        new = self.now[name] = bytes(new)

        def either(found):
            if found is None or len(found) != len(old):
                return False
            return all(found[i : i + PAGE] in (old[i : i + PAGE], new[i : i + PAGE]) for i in range(0, len(old), PAGE))

        return {name: either}

    def append(self, _):
        name = self.choose()
        old = self.now[name]
        self.now[name] = old + self.data(40_000)
        with open(f"{MOUNT}/kept/{name}", "ab") as file:
            file.write(self.now[name][len(old) :])
            file.flush()
            os.fsync(file.fileno())
        return {name: lambda found: found is not None and found.startswith(old)}

    def check(self, step):
        """What is mounted, against what was synced when that step was done."""
        kept = self.states[step]
        changes = self.changes[step + 1] if step + 1 < len(self.changes) else {}
        found = {}
        if not os.path.isdir(f"{MOUNT}/kept"):
            raise Wrong("there is no folder 'kept'")
        for name in os.listdir(f"{MOUNT}/kept"):
            with open(f"{MOUNT}/kept/{name}", "rb") as file:
                found[name] = file.read()
        for name in sorted(kept.keys() | found.keys() | changes.keys()):
            good = changes.get(name, lambda data, name=name: data == kept.get(name))
            if not good(found.get(name)):
                has, want = (f"{len(files[name])} bytes" if name in files else "absent" for files in (found, kept))
                raise Wrong(f"{name} ({has}) is not what was synced when step {step} was over ({want})")


def settled():
    """Nobody looks at new disks any more."""
    run("udevadm", "settle")


def last_step(log, index):
    """The last step that is to stay when all up to that entry is durable, as it needed no more; -1: the first one is not."""
    last = next((entry.index for entry in log.entries[index + 1 :] if entry.orders), len(log.entries))
    return max((int(entry.mark[5:]) for entry in log.entries[:last] if entry.mark and entry.mark.startswith("step-")), default=-1)


def look(disk, work, step):
    """A filesystem as a power cut has left it: mounted, which replays its journal, compared, and examined."""
    try:
        run("mount", "-t", "ext4", disk, MOUNT)
    except AssertionError as error:
        raise Wrong(str(error)) from None
    try:
        if step >= 0:
            work.check(step)
        with open(f"/sys/fs/ext4/{os.path.basename(os.path.realpath(disk))}/errors_count") as file:
            if int(file.read()):
                raise Wrong("the filesystem has found errors")
    finally:
        wait_until(20, lambda: "busy" not in run("umount", MOUNT, check=False), "the filesystem can be unmounted")
    try:
        run("e2fsck", "-fn", disk)
    except AssertionError as error:
        raise Wrong(str(error)) from None


def use(disk, marks):
    """The work on a disk: made, mounted, used, unmounted."""

    def mark(text):
        for each in marks:
            each.mark(text)

    mark("created")
    run("mkfs.ext4", "-q", "-J", "size=4", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", disk)
    run("mount", "-t", "ext4", "-o", "noinit_itable", disk, MOUNT)
    mark("mounted")
    work = Work(1, mark)
    work.run(STEPS)
    run("umount", MOUNT)
    mark("unmounted")
    return work


def assemble(*nodes):
    """Assembles what was replayed. A word of refusal, or None."""
    result = subprocess.run(
        ["dst", "assemble", "crash", *nodes], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120 * SLOW
    )
    return result.stdout.strip() or f"status {result.returncode}" if result.returncode else None


def after_cut(work, step, nodes, mounts=True):
    """Those copies are all that is left: the mirror starts, is healed, and (if `mounts`) has what was synced. How many sectors
    were healed."""
    refusal = assemble(*nodes)
    if refusal:
        raise Wrong(f"not assembled: {refusal}")
    try:
        if "--degraded" not in nodes:
            wait_health("crash", "healthy", 60)
        healed = storage("crash", "healed")
        if mounts:
            look("/dev/dst-crash", work, step)
    finally:
        delete("crash", 30)
    return healed


def test_below_a_mirror():
    """Both copies write down what the work is for them, and so does a disk on the mirror. What follows looks at these logs."""
    global work, logs, upper
    legs = [LogWrites(f"leg{i}", f"/dev/ram{i}", log) for i, log in enumerate(DISKS[:2])]
    dst("create", "crash", "--alg", "alg_mirror", *[leg.path for leg in legs], "--start-array")
    settled()
    device = LogWrites("upper", "/dev/dst-crash", DISKS[2])
    work = use(device.path, [*legs, device])
    device.remove()
    wait_health("crash", "healthy")
    if storage("crash", "left"):
        fail("a copy has left")
    delete("crash", 30)
    for leg in legs:
        leg.remove()
    logs, upper = [Log(leg.log) for leg in legs], Log(device.log)
    print(f"[{[len(log.entries) for log in (*logs, upper)]} entries, {[log.bytes >> 20 for log in (*logs, upper)]} MiB]", end=" ")


def test_on_a_mirror():
    """What was written to the mirror is on each copy; and at any flush there is a filesystem in it."""
    image, marks = Image(upper, SIZE), upper.marks()
    for index in spread(upper.orders(marks["mounted"], marks["unmounted"]), ABOVE // 2):
        image.to(index)
        image.put("/dev/ram2")
        judged(upper, index, lambda: look("/dev/ram2", work, last_step(upper, index)))
    image.to(len(upper.entries) - 1)
    for copy in "/dev/ram0", "/dev/ram1":
        place = differ(DATA * 512, image.memory, copy)
        if place is not None:
            fail(f"the whole log is not what is on {copy}, sector {place}")
    upper.close()


def test_one_copy():
    """Copy 0 is all that is left."""
    log, image = logs[0], Image(logs[0], SIZE)
    marks = log.marks()
    refusals, accepted = 0, False
    # While the mirror is made: refused as long as no superblock is complete, never after that.
    for index in spread(log.orders(0, marks["created"]), 8):
        image.to(index)
        image.put("/dev/ram2")
        refusal = assemble("/dev/ram2", "--degraded")
        if refusal and (accepted or not re.search(UNMADE, refusal)):
            fail(f"{log.entries[index]}: {refusal}")
        if refusal:
            refusals += 1
        else:
            accepted = True
            delete("crash", 30)
    if not refusals or not accepted:
        fail(f"before the mirror was there: {refusals} refusals, accepted: {accepted}")
    # Then it is there; and so is, from the first step on, the filesystem.
    for index in spread(log.orders(marks["created"], marks["mounted"]), 3):
        image.to(index)
        image.put("/dev/ram2")
        judged(log, index, lambda: after_cut(work, -1, ["/dev/ram2", "--degraded"], mounts=False))
    rng = random.Random(2)
    for number, index in enumerate(spread(log.orders(marks["mounted"], marks["unmounted"]), ALONE)):
        image.to(index)
        # A part of what was not flushed may be there, too.
        more = [entry for entry in log.covered(index) if number % 2 and rng.random() < 0.5]
        image.put("/dev/ram2", more)
        judged(log, index, lambda: after_cut(work, last_step(log, index), ["/dev/ram2", "--degraded"]))
    image.to(len(log.entries) - 1)
    place = image.differs("/dev/ram0")
    if place is not None:
        fail(f"the whole log is not what is on the copy, sector {place}")


def judged(log, index, judge):
    try:
        return judge()
    except Wrong as wrong:
        return fail(f"{log.path}, up to {log.entries[index]}, step {last_step(log, index)}: {wrong}")


def test_both_copies():
    """The power of both copies fails, one is ahead of the other."""
    images = [Image(log, SIZE) for log in logs]
    first, last = ([log.marks()[text] for log in logs] for text in ("mounted", "unmounted"))
    moments = [m for m in alike(logs) if all(f < done < next_one < l for f, done, next_one, l in zip(first, *m, last))]
    # Where the next one is a flush, and there is something that it covers.
    apart = [m for m in moments if logs[0].covered(m[0][0]) and logs[1].covered(m[0][1])]
    if len(apart) < BOTH:
        fail(f"{len(apart)} of {len(moments)} moments have anything that is not flushed")
    rng = random.Random(3)
    healed = 0
    places = ["/dev/ram2", "/dev/ram3"]
    for number, (done, next_one) in enumerate(spread(apart, BOTH)):
        # In turn: copy 0 is a flush ahead, copy 1 is, or what is not flushed is there in part on each.
        ahead = number % 3
        for i in 0, 1:
            images[i].to(next_one[i] if ahead == i else done[i])
            more = [] if ahead == i else [entry for entry in logs[i].covered(done[i]) if rng.random() < 0.5]
            images[i].put(places[i], more)
        nodes = places if rng.random() < 0.5 else places[::-1]
        step = max(last_step(log, index) for log, index in zip(logs, done))
        healed += judged(logs[0], done[0], lambda: after_cut(work, step, nodes))
        sector = differ(DATA * 512, *places)
        if sector is not None:
            who = ("copy 0", "copy 1", "none")[ahead]
            fail(f"{logs[0].entries[done[0]]}, {who} was ahead: sector {sector} is different")
    if not healed:
        fail("nothing was healed")
    print(f"[{len(apart)} of {len(moments)} moments, {healed} sectors healed]", end=" ")


def test_what_is_left_out_is_missed():
    """That all of this can fail: without writes on which the last step that made a file has relied (data of that file; then the
    ends of the transactions that name it) something is found to be wrong."""
    log, marks = logs[0], logs[0].marks()
    step = max(n for n in range(1, STEPS + 1) if len(work.states[n].get(f"file{n}", b"")) > 512)
    first, last = marks[f"step-{step - 1}"], marks[f"step-{step}"]
    begin = work.states[step][f"file{step}"][:512]
    entries = log.entries[first:last]
    content = [entry.index for entry in entries if not entry.flags & DISCARD and begin in log.data(entry)]
    commit = [entry.index for entry in entries if entry.flags & FUA and entry.offset < DATA * 512]
    if not content or not commit:
        fail(f"no data ({content}) or no commit ({commit}) of step {step}")
    for without in content, commit:
        image = Image(log, SIZE)
        image.to(last, without)
        image.put("/dev/ram2")
        try:
            after_cut(work, step, ["/dev/ram2", "--degraded"])
        except Wrong as wrong:
            print(f"[{str(wrong).strip()}]", end=" ")
            continue
        fail(f"{[log.entries[i] for i in without]} were left out, and nobody noticed")
    for log in logs:
        log.close()


def test_on_a_linear_storage():
    """The disk is a storage, part of it remote, and what is written to it is written down on another one."""
    blank_ram()
    dst("export", "part", "/dev/ram1", "--listen", "127.0.0.1:12601")
    dst("create", "--no-metadata", "data")
    dst("add", "data", "/dev/ram0", "--size", "4M")
    dst("add", "data", "localhost:12601/part", "--size", f"{SIZE - 4 * MIB}B")
    dst("start", "data")
    # The first of the log is on a RAM disk, the rest elsewhere.
    server = subprocess.Popen(["nbdkit", "--foreground", "--port", "12602", "file", DISKS[2]])
    wait_until(20, lambda: run("ss", "-Hltn", "sport = :12602").strip(), "nbdkit listens")
    dst("create", "--no-metadata", "log")
    dst("add", "log", "/dev/ram3", "--size", "1M")
    dst("add", "log", "localhost:12602")
    dst("start", "log")
    settled()
    device = LogWrites("logged", "/dev/dst-data", "/dev/dst-log")
    above = use(device.path, [device])
    device.remove()
    log = Log(device.log)
    for name, boundary in ("data", 4 * MIB // 512), ("log", MIB // 512):
        writes = [counters(name, "requests", start)["write"] for start in (0, boundary)]
        if not all(writes):
            fail(f"writes to the nodes of {name}: {writes}")
    image, marks = Image(log, SIZE), log.marks()
    for index in spread(log.orders(marks["mounted"], marks["unmounted"]), ABOVE):
        image.to(index)
        image.put("/dev/ram2")
        judged(log, index, lambda: look("/dev/ram2", above, last_step(log, index)))
    image.to(len(log.entries) - 1)
    place = image.differs("/dev/dst-data")
    if place is not None:
        fail(f"the whole log is not what is on the storage, sector {place}")
    print(f"[{len(log.entries)} entries, {log.bytes >> 20} MiB]", end=" ")
    log.close()
    for name in "data", "log":
        delete(name, 30)
    dst("unexport", "part")
    server.terminate()
    server.wait()


def blank_ram():
    for i in range(4):
        run("blkdiscard", "--force", "--quiet", f"/dev/ram{i}")


run("modprobe", "-r", "brd")
run("modprobe", "brd", "rd_nr=4", f"rd_size={SIZE >> 10}")
for i in range(4):
    wait_until(5, lambda: os.path.exists(f"/dev/ram{i}"), f"/dev/ram{i}")
run("modprobe", "dm_log_writes", check=False)
if "log-writes" not in run("dmsetup", "targets"):
    print("no dm-log-writes")
    sys.exit(77)
main(test_below_a_mirror, test_on_a_mirror, test_one_copy, test_both_copies, test_what_is_left_out_is_missed, test_on_a_linear_storage)
