# SPDX-License-Identifier: GPL-2.0
"""What the oracle writes into blocks, what its log tells, and the judgement; oracle.py has the rule."""

import mmap
import os
import stat
import struct
import subprocess
import sys
import tempfile
import zlib

BLOCK, SECTOR, SECTORS = 4096, 512, 8
HEADER = struct.Struct("<4sHBxQQI")
MAGIC = b"ORCL"
NEVER = float("inf")


def make_sector(lba, place, seq, writer):
    """What a write puts into a sector."""
    header = HEADER.pack(MAGIC, writer, place, lba, seq, 0)
    return (header + struct.pack("<I", zlib.crc32(header))) * 16


def make_block(lba, seq, writer):
    """What a write puts into a block; 0 writes zeroes."""
    if not seq:
        return bytes(BLOCK)
    return b"".join(make_sector(lba, place, seq, writer) for place in range(SECTORS))


class Bad(Exception):
    """A sector that no write made; `kind` is damaged, misplaced or foreign."""

    def __init__(self, kind, text):
        super().__init__(text)
        self.kind = kind


def understand(data, lba, place):
    """The sequence number and the writer of a sector; (0, 0) for zeroes."""
    if data == bytes(SECTOR):
        return 0, 0
    magic, writer, its_place, its_lba, seq, _ = HEADER.unpack(data[: HEADER.size])
    crc = struct.unpack_from("<I", data, HEADER.size)[0]
    if magic != MAGIC or crc != zlib.crc32(data[: HEADER.size]) or data != data[:32] * 16:
        raise Bad("damaged", f"sector {place} has a wrong checksum, it begins with {bytes(data[:16]).hex()}")
    if (its_lba, its_place) != (lba, place):
        raise Bad("misplaced", f"sector {place} is sector {its_place} of block {its_lba} of write {seq}")
    return seq, writer


def contents(data, lba):
    """The (seq, writer) of each sector of a block."""
    first = understand(data[:SECTOR], lba, 0)
    if data == make_block(lba, *first):
        return [first] * SECTORS
    return [understand(data[i * SECTOR : (i + 1) * SECTOR], lba, i) for i in range(SECTORS)]


class Write:
    """A write, or what a check has found (`found`: a number for each sector)."""

    __slots__ = "seq", "first", "count", "zero", "writer", "begin", "end", "acked", "durable", "found"

    def __init__(self, seq, first, count, zero, writer, begin):
        self.seq, self.first, self.count, self.zero, self.writer, self.begin = seq, first, count, zero, writer, begin
        self.end, self.acked, self.durable, self.found = NEVER, False, False, None

    def value(self, place):
        """What it put into a sector of each block."""
        if self.found is not None:
            return self.found[place]
        return 0 if self.zero else self.seq

    def covers(self, lba):
        return self.first <= lba < self.first + self.count

    def __str__(self):
        what = "the beginning" if self.begin < 0 else f"the check at line {self.begin}" if self.found else f"write {self.seq}"
        ended = "" if self.found or self.begin < 0 else " (never ended)" if self.end == NEVER else \
            f" (lines {self.begin} to {self.end}{', durable' if self.durable else ', acknowledged' if self.acked else ', failed or cut off'})"
        return what + ended


def beginning():
    """Everything was zero."""
    start = Write(0, 0, 1 << 62, True, 0, -1)
    start.end, start.acked, start.durable = -1, True, True
    return start


class Log:
    """What the log tells."""

    def __init__(self, path):
        self.writes, self.known, self.notes = {}, {}, []
        self.last, self.lines, writer = 0, 0, 0
        flushes, latest, open_writes = {}, -1, set()
        with open(path, "rb") as file:
            data = file.read()
        # The last line may be cut off: what it was to tell of had not begun, or nobody was told that it had ended.
        for line in data[: data.rfind(b"\n") + 1].decode().splitlines():
            at, (kind, *words) = self.lines, line.split()
            self.lines += 1
            if kind in "SZ":
                seq, first, count = map(int, words)
                self.writes[seq] = Write(seq, first, count, kind == "Z", writer, at)
                self.last = max(self.last, seq)
                open_writes.add(seq)
            elif kind in "ADE":
                write = self.writes[int(words[0])]
                write.end, write.acked, write.durable = at, kind != "E", kind == "D"
                open_writes.discard(write.seq)
            elif kind == "F":
                flushes[words[0]] = at
            elif kind == "G":
                latest = max(latest, flushes.get(words[0], -1))
            elif kind == "K":
                lba, *seqs = map(int, words)
                found = Write(0, lba, 1, False, 0, at)
                found.end, found.acked, found.durable = at, True, True
                found.found = seqs * SECTORS if len(seqs) == 1 else seqs
                self.known[lba] = found
            elif kind == "N":
                self.notes.append((at, " ".join(words)))
            if kind in "BR":
                writer = int(words[0]) if kind == "B" else writer
                for seq in open_writes:
                    self.writes[seq].end = at
                open_writes.clear()
        for write in self.writes.values():
            write.durable |= write.acked and write.end < latest

    def blocks(self):
        """Each block that was written to, with what may count there, oldest first."""
        table = {}
        start = beginning()
        for write in self.writes.values():
            for lba in range(write.first, write.first + write.count):
                table.setdefault(lba, [start]).append(write)
        for lba, found in self.known.items():
            table.setdefault(lba, [start]).append(found)
        return table

    def since(self, text):
        """The line of the last note with that text."""
        return max((at for at, note in self.notes if note == text), default=-1)


def candidates(events, acked=False):
    """Those that are not superseded, and the newest of those that supersede."""
    newest = None
    for event in events:
        if (event.durable or acked and event.acked) and (newest is None or event.begin > newest.begin):
            newest = event
    return [event for event in events if event.end >= newest.begin or event is newest], newest


class Copy:
    """What lies on a copy."""

    def __init__(self, text):
        name, _, path = text.rpartition("=") if not text.startswith("nbd") else ("", "", text)
        self.name = name or path
        if path.startswith("nbd"):
            whole = tempfile.NamedTemporaryFile(prefix="oracle.")
            subprocess.run(["nbdcopy", path, whole.name], check=True)
            self.keep, path = whole, whole.name
        self.fd = os.open(path, os.O_RDONLY)
        self.direct = stat.S_ISBLK(os.fstat(self.fd).st_mode)
        if self.direct:
            # The page cache knows nothing of what a storage writes below it.
            os.close(self.fd)
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECT)

    def read(self, offset, length):
        memory = mmap.mmap(-1, (length + BLOCK - 1) & -BLOCK)
        got = os.preadv(self.fd, [memoryview(memory)[:length]], offset)
        if got != length:
            raise SystemExit(f"{self.name}: a read of {length} bytes at {offset} gave {got}")
        return memory[:length]


class Checker:
    """Compares copies with a log."""

    def __init__(self, log, copies, acked=False, atomic=False, apart=False):
        self.log, self.copies, self.acked, self.atomic, self.apart = log, copies, acked, atomic, apart
        self.faults, self.counts, self.found = [], {}, {}

    def fault(self, kind, lba, text):
        self.faults.append(f"{kind}: block {lba}: {text}")
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def block(self, lba, data, events):
        """Judges a block on one copy; gives whether it is behind, and what should be there."""
        fresh, newest = candidates(events, self.acked)
        found = contents(data, lba)
        by_value = {event.value(0): event for event in events if event.found is None}
        behind, sources = None, set()
        for place, (seq, writer) in enumerate(found):
            write = by_value.get(seq)
            right = [event for event in fresh if event.value(place) == seq]
            if seq and (write is None and not right or write and write.writer != writer):
                raise Bad("foreign", f"sector {place} is of write {seq} of writer {writer}, which was never submitted")
            if not right:
                behind = f"sector {place} holds {write or 'zeroes'}; {newest} is there no more"
                break
            sources.add((seq, any(event.acked for event in right)))
        if not behind and len({seq for seq, _ in sources}) > 1 and (self.atomic or all(acked for _, acked in sources)):
            if not any(event.found for event in fresh):
                raise Bad("torn", f"its sectors are of writes {[seq for seq, _ in found]}")
        self.found[lba] = [seq for seq, _ in found]
        return behind

    def run(self):
        """Judges everything."""
        table = self.log.blocks()
        for lba in sorted(table):
            events, behind, datas = table[lba], {}, []
            for copy in self.copies:
                data = copy.read(lba * BLOCK, BLOCK)
                datas.append(data)
                try:
                    late = self.block(lba, data, events)
                except Bad as bad:
                    self.fault(bad.kind, lba, f"on {copy.name}: {bad}")
                else:
                    if late:
                        behind[copy.name] = late
            everywhere = len(behind) == len(self.copies)
            for name, text in behind.items():
                self.fault("lost" if everywhere else "stale", lba, f"on {name}: {text}")
            if not self.apart and any(data != datas[0] for data in datas):
                names = [c.name for c, data in zip(self.copies, datas) if data != datas[0]]
                self.fault("different", lba, f"{', '.join(names)} from {self.copies[0].name}")
        return not self.faults

    def report(self):
        acked = sum(write.acked for write in self.log.writes.values())
        durable = sum(write.durable for write in self.log.writes.values())
        print(f"oracle: {len(self.log.writes)} writes, {acked} acknowledged, {durable} durable; {len(self.found)} blocks on "
              f"{', '.join(copy.name for copy in self.copies)}")
        for fault in self.faults[:20]:
            print(f"  {fault}")
        if self.faults:
            print("oracle: " + ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items())))
        else:
            print("oracle: nothing is lost, stale, torn or different")
        sys.stdout.flush()

    def settle(self, path):
        """Writes down what was found."""
        lines = ["R"]
        for lba, seqs in sorted(self.found.items()):
            lines.append(f"K {lba} {' '.join(map(str, seqs if len(set(seqs)) > 1 else seqs[:1]))}")
        append(path, "\n".join(lines))


def append(path, line):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, (line + "\n").encode())
    os.close(fd)
