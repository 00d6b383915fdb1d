#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The oracle: writes blocks that say who they are, notes down what happened to each write, and decides afterwards what
may be on a storage and on each copy of it.

    oracle.py write DEVICE LOG [--area FIRST:BLOCKS] [--threads N] [--readers N] [--seconds S] [--count N] ...
    oracle.py check LOG [--acked] [--atomic] [--apart] [--settle] [NAME=]COPY...
    oracle.py equal SECTORS COPY...           compares all of that, byte for byte
    oracle.py regions LOG [--since TEXT]      how many regions of 64 KiB were written to (since that note)
    oracle.py note LOG TEXT, acked LOG        puts a note into the log; counts acknowledged writes
    oracle.py selftest                        plants each kind of fault, and must find it

COPY is a disk, an image, or nbd://HOST:PORT/NAME. Status 0: all is well; 1: it is not; 2: wrong usage.

A block has 4 KiB: eight sectors, each of which holds, sixteen times, its block's number, its place in that block, the
sequence number of the write, the writer, and a checksum. The log has a line for each event, written before a request is
submitted and after it has ended, so an event in it is never later (begin) or earlier (end) than what it tells of:

    B WRITER         a run begins: nothing of the earlier ones is under way any more
    S SEQ FIRST N    a write of N blocks is submitted (Z: of zeroes, which name no write)
    A SEQ            it was acknowledged (D: by a write with FUA or O_DSYNC, which is durable by itself)
    E SEQ ERRNO      it failed: each of its sectors may be old or new, but nothing of it may appear later
    F N, G N         a flush is submitted; it was acknowledged
    R, K LBA SEQ...  after a recovery: nothing is under way any more, and a check has found these writes
    N TEXT           a note

# The rule

A write is *durable* if it was acknowledged and a flush that was submitted later was acknowledged, too (P2); with --acked,
for machines that lost no power, if it was acknowledged (P1). A write W is *superseded* in a block by a durable write V that
was submitted after W had ended: by then nobody may see W again (P4: nor may a write that was sent again bring it back).
A write that has not ended is superseded by nothing, it may come last.

- After recovery a sector holds what any submitted write put there that is not superseded. Older: *stale* on this copy; on
  all copies: *lost*. P5 is that of a copy which was away and is believed: it is stale.
- The sectors of a block come from one write, unless one of those that they come from never ended well (P3, per sector);
  --atomic: in any case. Else the block is *torn*.
- Each sector has a right checksum (*damaged*), was written for this place (*misplaced*), by a write that was submitted
  (*foreign*).
- All copies hold the same (*different*), unless --apart says that they are not healed yet.
- While it runs, a read gives a write that is not superseded by one that was acknowledged before the read began (here an
  acknowledgement suffices: nobody lost power), nor by one that another read had already given by then (P3: no way
  back; not with --legs-fail). Without writes in between two reads give the same.
- What a check has settled stays: later checks and runs take it for a durable write.
"""

import argparse
import errno
import fcntl
import mmap
import os
import random
import signal
import stat
import struct
import sys
import threading
import time

from oracle_rule import BLOCK, SECTOR, Bad, Checker, Copy, Log, Write, append, beginning, candidates, contents, make_block

BLKZEROOUT = 0x127F


class Device:
    """What a writer writes to. One for each thread."""

    def __init__(self, path):
        flags = os.O_RDWR | (os.O_DIRECT if stat.S_ISBLK(os.stat(path).st_mode) else 0)
        self.fd, self.fua = os.open(path, flags), os.open(path, flags | os.O_DSYNC)
        self.blocks = os.lseek(self.fd, 0, os.SEEK_END) // BLOCK
        self.direct = flags & os.O_DIRECT
        self.memory = mmap.mmap(-1, 64 * BLOCK)

    def write(self, lba, data, fua=False):
        self.memory[: len(data)] = data
        put = os.pwritev(self.fua if fua else self.fd, [memoryview(self.memory)[: len(data)]], lba * BLOCK)
        if put != len(data):
            raise OSError(errno.EIO, f"a write of {len(data)} bytes took {put}")

    def zero(self, lba, count):
        if self.direct:
            fcntl.ioctl(self.fd, BLKZEROOUT, struct.pack("=QQ", lba * BLOCK, count * BLOCK))
        else:
            self.write(lba, bytes(count * BLOCK))

    def read(self, lba, count):
        got = os.preadv(self.fd, [memoryview(self.memory)[: count * BLOCK]], lba * BLOCK)
        if got != count * BLOCK:
            raise OSError(errno.EIO, f"a read of {count * BLOCK} bytes gave {got}")
        return self.memory[: count * BLOCK]

    def flush(self):
        os.fsync(self.fd)


class Run:
    """A run of writers and readers on a device."""

    def __init__(self, options, opener=Device):
        self.options, self.opener = options, opener
        self.lock, self.over = threading.Lock(), threading.Event()
        open(options.log, "ab").close()
        log = Log(options.log)
        self.writer = options.writer or 1 + log.last % 65535
        self.at, self.seq, self.flushes = log.lines, log.last, 0
        self.file = os.open(options.log, os.O_WRONLY | os.O_APPEND)
        self.note(f"B {self.writer}")
        first, count = options.area or (0, opener(options.device).blocks)
        self.first, self.blocks = first, count
        start, table = beginning(), log.blocks()
        self.live = {lba: candidates(table.get(lba, [start]), True)[0] for lba in range(first, first + count)}
        self.writes = log.writes
        # For each block: writes under way, writes that began, what reads gave since then, and when zeroes were written last.
        self.busy, self.begun, self.settled, self.failed, self.zeroed = {}, {}, {}, set(), {}
        self.errors, self.reads, self.written, self.slowest = [], 0, 0, 0.0
        # Where the next write goes that is to go where nothing was written.
        self.fresh = first

    def note(self, line):
        """Adds to the log; the caller has the lock."""
        os.write(self.file, (line + "\n").encode())
        self.at += 1
        return self.at - 1

    def wrong(self, text):
        with self.lock:
            self.errors.append(text)
        self.over.set()

    def begin(self, first, count, zero):
        with self.lock:
            self.seq += 1
            at = self.note(f"{'Z' if zero else 'S'} {self.seq} {first} {count}")
            write = self.writes[self.seq] = Write(self.seq, first, count, zero, self.writer, at)
            for lba in range(first, first + count):
                self.live[lba].append(write)
                self.busy[lba] = self.busy.get(lba, 0) + 1
                self.begun[lba] = self.begun.get(lba, 0) + 1
                if zero:
                    self.zeroed[lba] = at
            return write

    def end(self, write, error, fua=False):
        with self.lock:
            write.end = self.note(f"E {write.seq} {error}" if error else f"{'D' if fua else 'A'} {write.seq}")
            write.acked = not error
            self.written += 1
            for lba in range(write.first, write.first + write.count):
                self.busy[lba] -= 1
                if error:
                    self.failed.add(lba)
                else:
                    self.visible(lba, write)

    def visible(self, lba, write):
        """Nobody may see what had ended before this one began."""
        self.live[lba] = [event for event in self.live[lba] if event is write or event.end >= write.begin]

    def pick(self, rng):
        count = min(rng.choice((1, 1, 1, 2, 4, self.options.most)), self.blocks)
        span = self.blocks
        if rng.random() * 100 < self.options.hot:
            span = min(span, 32)
        return self.first + rng.randrange(max(1, span - count + 1)), count

    def behind(self, count):
        """Where so many blocks come after those that were given before; from the beginning again when the area is full."""
        with self.lock:
            if self.fresh + count > self.first + self.blocks:
                self.fresh = self.first
            self.fresh += count
            return self.fresh - count

    def one(self, device, rng):
        """One request of a writer."""
        dice = rng.random()
        if dice < 1 / self.options.flush_every:
            return self.flush(device)
        first, count = self.pick(rng)
        if self.options.append and rng.random() * 100 < self.options.append:
            first = self.behind(count)
        zero = rng.random() * 100 < self.options.zeroes
        fua = not zero and rng.random() * 100 < self.options.fua
        write, error = self.begin(first, count, zero), 0
        try:
            if zero:
                device.zero(first, count)
            else:
                data = b"".join(make_block(lba, write.seq, self.writer) for lba in range(first, first + count))
                device.write(first, data, fua)
        except OSError as failure:
            error = failure.errno or errno.EIO
            if not self.options.errors:
                self.wrong(f"write {write.seq} of {count} blocks at block {first}: {failure}")
        self.end(write, error, fua)

    def flush(self, device):
        with self.lock:
            self.flushes += 1
            number = f"{self.at}.{self.flushes}"
            self.note(f"F {number}")
        try:
            device.flush()
        except OSError as failure:
            if not self.options.errors:
                self.wrong(f"a flush: {failure}")
            return
        with self.lock:
            self.note(f"G {number}")

    def look(self, device, rng):
        """One request of a reader."""
        first, count = self.pick(rng)
        lbas = range(first, first + count)
        with self.lock:
            began = self.at
            may = {lba: list(self.live[lba]) for lba in lbas}
            quiet = {lba: self.begun.get(lba, 0) for lba in lbas if not self.busy.get(lba) and lba not in self.failed}
        try:
            data = device.read(first, count)
        except OSError as failure:
            if not self.options.errors:
                self.wrong(f"a read of {count} blocks at block {first}: {failure}")
            return
        for lba in lbas:
            try:
                found = contents(data[(lba - first) * BLOCK :][:BLOCK], lba)
            except Bad as bad:
                with self.lock:
                    alone = lba in quiet and quiet[lba] == self.begun.get(lba, 0)
                if bad.kind == "damaged" and not alone:
                    continue
                self.wrong(f"{bad.kind}: a read of block {lba}: {bad}")
                return
            with self.lock:
                text = self.judge(lba, found, may[lba], began, quiet.get(lba))
            if text:
                self.wrong(text)
                return
        with self.lock:
            self.reads += 1

    def judge(self, lba, found, may, began, quiet):
        for place, (seq, _) in enumerate(found):
            write = self.writes.get(seq)
            if any(event.value(place) == seq for event in may):
                continue
            if write and write.covers(lba) and write.begin >= began:
                continue
            # Zeroes name no write. They may have been written over by now, and so be nothing that is there to be seen.
            if not seq and self.zeroed.get(lba, -1) >= began:
                continue
            newest = max(may, key=lambda event: event.begin)
            return f"stale: a read of block {lba}: sector {place} holds {write or 'zeroes'}, after {newest} had been seen"
        if quiet is not None and quiet == self.begun.get(lba, 0):
            before = self.settled.get(lba)
            if before and before[0] == quiet and before[1] != found:
                return f"different: two reads of block {lba} without a write between: {before[1]}, then {found}"
            self.settled[lba] = quiet, found
        seqs = {seq for seq, _ in found}
        if not self.options.legs_fail and len(seqs) == 1 and (write := self.writes.get(seqs.pop())) and write.covers(lba):
            self.visible(lba, write)
        return None

    def work(self, number, what):
        rng = random.Random(self.options.seed * 1000 + number)
        device = self.opener(self.options.device)
        pause = self.options.threads / self.options.rate if self.options.rate else 0
        while not self.over.is_set():
            if self.options.count and self.written >= self.options.count:
                return
            start = time.monotonic()
            try:
                what(device, rng)
            except BaseException as failure:
                self.wrong(f"the oracle itself: {failure!r}")
                raise
            took = time.monotonic() - start
            self.slowest = max(self.slowest, took)
            if pause > took:
                self.over.wait(pause - took)

    def run(self):
        """Gives whether all was well."""
        options = self.options
        writers = [threading.Thread(target=self.work, args=(i, self.one)) for i in range(options.threads)]
        readers = [threading.Thread(target=self.work, args=(100 + i, self.look)) for i in range(options.readers)]
        start = time.monotonic()
        for thread in writers + readers:
            thread.start()
        while any(thread.is_alive() for thread in writers) and not self.over.is_set():
            if options.seconds and time.monotonic() - start > options.seconds:
                break
            time.sleep(0.05)
        self.over.set()
        for thread in writers + readers:
            thread.join()
        if not self.errors:
            self.flush(self.opener(options.device))
        print(f"oracle: {self.written} writes, {self.flushes} flushes, {self.reads} reads in {time.monotonic() - start:.1f} s, the "
              f"slowest {self.slowest:.1f} s", flush=True)
        for text in self.errors:
            print(f"  {text}", flush=True)
        return not self.errors


def area(text):
    first, count = text.split(":")
    return int(first), int(count)


def write_options(parser):
    parser.add_argument("device")
    parser.add_argument("log")
    parser.add_argument("--area", type=area, help="FIRST:BLOCKS; all of it by default")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0, help="by default until SIGTERM comes")
    parser.add_argument("--count", type=int, default=0, help="writes")
    parser.add_argument("--rate", type=float, default=0, help="writes a second, at most")
    parser.add_argument("--most", type=int, default=16, help="blocks of the largest write")
    parser.add_argument("--hot", type=float, default=30, help="percent in the first 32 blocks, where writes overlap")
    parser.add_argument("--append", type=float, default=0, help="percent of the writes that go behind all of these before")
    parser.add_argument("--flush-every", type=float, default=20, help="writes, on the average")
    parser.add_argument("--fua", type=float, default=10, help="percent of the writes")
    parser.add_argument("--zeroes", type=float, default=2, help="percent of the writes")
    parser.add_argument("--errors", action="store_true", help="errors are no fault")
    parser.add_argument("--legs-fail", action="store_true", help="a read may go back if a copy fails")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--writer", type=int, default=0)


def main(arguments=None):
    parser = argparse.ArgumentParser(usage=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    write_options(commands.add_parser("write"))
    check = commands.add_parser("check")
    check.add_argument("log")
    for option in "acked", "atomic", "apart", "settle":
        check.add_argument("--" + option, action="store_true")
    check.add_argument("copies", nargs="+")
    equal = commands.add_parser("equal")
    equal.add_argument("sectors", type=int)
    equal.add_argument("copies", nargs="+")
    regions = commands.add_parser("regions")
    regions.add_argument("log")
    regions.add_argument("--since", default="")
    note = commands.add_parser("note")
    note.add_argument("log")
    note.add_argument("text")
    commands.add_parser("acked").add_argument("log")
    commands.add_parser("selftest")
    options = parser.parse_args(arguments)
    return globals()["do_" + options.command](options)


def do_write(options):
    run = Run(options)
    for number in signal.SIGTERM, signal.SIGINT:
        signal.signal(number, lambda *_: run.over.set())
    return 0 if run.run() else 1


def do_check(options):
    checker = Checker(Log(options.log), [Copy(text) for text in options.copies], options.acked, options.atomic, options.apart)
    good = checker.run()
    checker.report()
    if good and options.settle:
        checker.settle(options.log)
    return 0 if good else 1


def do_equal(options):
    copies, step, wrong = [Copy(text) for text in options.copies], 1 << 20, []
    for offset in range(0, options.sectors * SECTOR, step):
        length = min(step, options.sectors * SECTOR - offset)
        first = copies[0].read(offset, length)
        for copy in copies[1:]:
            other = copy.read(offset, length)
            if other != first:
                bad = [i for i in range(0, length, SECTOR) if other[i : i + SECTOR] != first[i : i + SECTOR]]
                wrong.append(f"{copy.name} differs from {copies[0].name} in {len(bad)} sectors from {(offset + bad[0]) // SECTOR} to "
                             f"{(offset + bad[-1]) // SECTOR}")
    for text in wrong[:20]:
        print(text)
    return 1 if wrong else 0


def do_regions(options):
    log = Log(options.log)
    since, regions = log.since(options.since) if options.since else -1, set()
    for write in log.writes.values():
        if write.end > since:
            regions |= set(range(write.first // 16, (write.first + write.count - 1) // 16 + 1))
    print(len(regions))
    return 0


def do_note(options):
    append(options.log, f"N {options.text}")
    return 0


def do_acked(options):
    with open(options.log, "rb") as file:
        print(sum(line[:2] in (b"A ", b"D ") for line in file))
    return 0


def do_selftest(_):
    import oracle_selftest  # pylint: disable=import-outside-toplevel

    return oracle_selftest.main()


if __name__ == "__main__":
    sys.exit(main())
