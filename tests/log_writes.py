# SPDX-License-Identifier: GPL-2.0
"""dm-log-writes: a device that writes down all that is written to it, and a replayer of what it wrote down.

The log holds writes in the order in which they became durable: those with FUA as they end; others, and discards, only
before the flush that covers them. So any beginning of it is what a power cut may leave on a disk whose cache is lost. (The
kernel's Documentation/admin-guide/device-mapper/log-writes.rst describes it.) What comes between a flush and the next one
may also be left in part: see Log.covered.

A plain write that is followed by one with FUA to the same place comes behind that one in the log, as it waits for a flush.
Nothing tells such a pair from one in the other order: who writes a place now this way, now that, is not replayed truly.
"""

import fcntl
import mmap
import os
import struct

from lib import buffer, fail, run, wait_until

SECTOR = 512
MAGIC, VERSION = 0x6A736677736872, 1
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
BLKDISCARD = 0x1277
# struct dm_ioctl: version, size of all, where the message begins, five that are not used here, device, name, UUID. Then
# struct dm_target_msg: the sector of the target, the words.
DM_TARGET_MSG, DM_IOCTL, DM_MESSAGE = 0xC138FD0E, "=3III5IQ128s129s7x", "=Q"
# Without a flag it resumes.
DM_DEV_SUSPEND = 0xC138FD06
# What is read of a log at once, while its entries are looked for.
WINDOW = 256 << 10
# What of an image is put to a device is counted in these.
CHUNK = 64 << 10


class LogWrites:
    """A device /dev/mapper/NAME over `data`, whose writes go to `log`, too."""

    def __init__(self, name, data, log):
        self.name, self.path, self.log = name, f"/dev/mapper/{name}", log
        sectors = run("blockdev", "--getsz", data).strip()
        run("dmsetup", "create", name, "--table", f"0 {sectors} log-writes {data} {log}")

    def mark(self, text):
        """Behind all that is durable by now. A word. (As `dmsetup message` does it, but there are many.)"""
        message = struct.pack(DM_MESSAGE, 0) + f"mark {text}".encode() + b"\0"
        begin = struct.calcsize(DM_IOCTL)
        head = struct.pack(DM_IOCTL, 4, 0, 0, begin + len(message), begin, 0, 0, 0, 0, 0, 0, self.name.encode(), b"")
        with open("/dev/mapper/control", "rb") as control:
            fcntl.ioctl(control, DM_TARGET_MSG, bytearray(head + message))

    def remove(self):
        """Now the log is complete. It says nothing of its own errors but this."""
        if "disabled" in run("dmsetup", "status", self.name):
            fail(f"{self.name}: the log was given up: too small, an error, or no memory")
        wait_until(20, lambda: "failed" not in run("dmsetup", "remove", self.name, check=False), f"{self.name} can be removed")


class Entry:
    """What was done: `offset` and `length` on the device, in bytes; `at` is where in the log its data are."""

    __slots__ = ("index", "offset", "length", "flags", "at", "mark")

    def __init__(self, index, offset, length, flags, at, mark):
        self.index, self.offset, self.length, self.flags, self.at, self.mark = index, offset, length, flags, at, mark

    @property
    def orders(self):
        """Whether it is a flush or has FUA: what waits for it relies on it."""
        return bool(self.flags & (FLUSH | FUA))

    @property
    def kind(self):
        """What it is the same in as the entry that another log has of it."""
        return self.offset, self.length, self.flags & (FLUSH | FUA | DISCARD)

    def __repr__(self):
        return f"entry {self.index} ({self.mark or f'{self.length} bytes at {self.offset}, flags {self.flags:#x}'})"


class Log:
    """A log that is complete: its entries, without their data."""

    def __init__(self, path):
        self.path = path
        # Not by way of the page cache: the log was written past it.
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self.size = os.lseek(self.fd, 0, os.SEEK_END)
        self.window, self.window_at = memoryview(b""), 0
        magic, version, count, unit = struct.unpack_from("<QQQI", self.look(0, SECTOR))
        if (magic, version) != (MAGIC, VERSION) or unit % SECTOR:
            fail(f"{path}: no log: {magic:#x}, version {version}, sectors of {unit}")
        self.entries, at = [], unit
        for index in range(count):
            head = self.look(at, unit)
            sector, sectors, flags, mark_length = struct.unpack_from("<QQQQ", head)
            mark = bytes(head[32 : 32 + mark_length]).decode() if flags & MARK else None
            self.entries.append(Entry(index, sector * unit, sectors * unit, flags, at + unit, mark))
            at += unit + (0 if flags & DISCARD else sectors * unit)
        if at > self.size or not count or self.entries[-1].mark != "dm-log-writes-end":
            fail(f"{path}: the log of {count} entries does not end as it should: {self.entries[-1:]}")
        self.bytes = at

    def look(self, at, length):
        if not self.window_at <= at <= at + length <= self.window_at + len(self.window):
            self.window = buffer(min(WINDOW, self.size - at))
            self.window_at = at
            if os.preadv(self.fd, [self.window], at) < length:
                fail(f"{self.path}: can't be read at {at}")
        return self.window[at - self.window_at :][:length]

    def read(self, entry, into):
        """The data of an entry, into memory that direct I/O can use."""
        if entry.length and os.preadv(self.fd, [into], entry.at) != entry.length:
            fail(f"{self.path}: the data of {entry} can't be read")

    def data(self, entry):
        if not entry.length:
            return b""
        into = buffer(entry.length)
        self.read(entry, into)
        return bytes(into)

    def marks(self):
        """Mark → index."""
        return {entry.mark: entry.index for entry in self.entries if entry.mark}

    def orders(self, first, last):
        """Indices of flushes and writes with FUA in that range."""
        return [entry.index for entry in self.entries[first:last] if entry.orders]

    def covered(self, index):
        """What may be durable in part when all up to `index` is: the plain writes that the next flush covers, unless a write
        with FUA comes before it (they may have waited for that one)."""
        writes = []
        for entry in self.entries[index + 1 :]:
            if entry.flags & FLUSH:
                return writes
            if entry.flags & FUA:
                return []
            if not entry.flags & MARK:
                writes.append(entry)
        return []

    def close(self):
        os.close(self.fd)


class Image:
    """What is on a device after the first entries of a log: replayed in memory, forwards only, and put to devices."""

    def __init__(self, log, size):
        self.log, self.size, self.next = log, size, 0
        self.memory = memoryview(mmap.mmap(-1, size))
        self.chunks = set()

    def apply(self, entry):
        end = entry.offset + entry.length
        if end > self.size:
            fail(f"{self.log.path}: {entry} is behind the end of a device of {self.size} bytes")
        if entry.flags & DISCARD:
            self.memory[entry.offset : end] = bytes(entry.length)
        elif entry.length:
            self.log.read(entry, self.memory[entry.offset : end])
        self.chunks.update(range(entry.offset // CHUNK, -(-end // CHUNK)))

    def to(self, index, without=()):
        """Replays all up to that entry, itself included; but those of `without`."""
        for entry in self.log.entries[self.next : index + 1]:
            if entry.index not in without:
                self.apply(entry)
        self.next = max(self.next, index + 1)

    def put(self, device, more=()):
        """The device, a RAM disk, becomes this image; with these entries on top, which the image itself does not get."""
        fd = os.open(device, os.O_RDWR | os.O_DIRECT)
        try:
            if os.lseek(fd, 0, os.SEEK_END) != self.size:
                fail(f"{device} has not {self.size} bytes")
            # Gives its memory back, and then it holds zeroes.
            fcntl.ioctl(fd, BLKDISCARD, struct.pack("<QQ", 0, self.size))
            for first, last in runs(self.chunks):
                self.write(fd, first * CHUNK, self.memory[first * CHUNK : min(last * CHUNK, self.size)])
            for entry in more:
                data = buffer(entry.length)
                if not entry.flags & DISCARD:
                    self.log.read(entry, data)
                self.write(fd, entry.offset, data)
        finally:
            os.close(fd)

    def write(self, fd, offset, data):
        if os.pwritev(fd, [data], offset) != len(data):
            fail(f"{len(data)} bytes at {offset} can't be written")

    def differs(self, device):
        """Where a device holds something else: the first sector, or None."""
        return differ(self.size, self.memory, device)


def differ(size, *things, step=1 << 20):
    """The first sector in which two devices, or a device and memory, of so many bytes differ, or None."""
    fds = [os.open(thing, os.O_RDONLY | os.O_DIRECT) if isinstance(thing, str) else None for thing in things]
    memory = buffer(step)

    def read(thing, fd, offset, length):
        if fd is None:
            return bytes(thing[offset : offset + length])
        if os.preadv(fd, [memory[:length]], offset) != length:
            fail(f"{thing} can't be read at {offset}")
        return bytes(memory[:length])

    try:
        for offset in range(0, size, step):
            length = min(step, size - offset)
            one, other = (read(thing, fd, offset, length) for thing, fd in zip(things, fds))
            if one != other:
                starts = range(0, length, SECTOR)
                return (offset + next(i for i in starts if one[i : i + SECTOR] != other[i : i + SECTOR])) // SECTOR
        return None
    finally:
        for fd in fds:
            if fd is not None:
                os.close(fd)


def runs(numbers, most=16):
    """Runs of neighbours: (first, behind the last), none longer than `most`."""
    first = last = None
    for number in sorted(numbers):
        if first is not None and number == last and last - first < most:
            last += 1
            continue
        if first is not None:
            yield first, last
        first, last = number, number + 1
    if first is not None:
        yield first, last


def spread(things, count):
    """So many of them, evenly, the first and the last one included."""
    if len(things) <= count:
        return list(things)
    return [things[round(i * (len(things) - 1) / (count - 1))] for i in range(count)]


def alike(logs):
    """Of two devices that get the same flushes and writes with FUA: the moments at which the same ones are done on both, and the
    next one is the same, too. For each the indices of the last one in both logs, and those of the next one. (At others, some
    that were under way at once have ended in another order.)"""
    sequences = [[entry for entry in log.entries if entry.orders] for log in logs]
    balance, moments = {}, []
    for n, pair in enumerate(zip(*sequences)):
        if n and not balance and pair[0].kind == pair[1].kind:
            moments.append((tuple(sequence[n - 1].index for sequence in sequences), tuple(entry.index for entry in pair)))
        for entry, sign in zip(pair, (1, -1)):
            balance[entry.kind] = balance.get(entry.kind, 0) + sign
            if not balance[entry.kind]:
                del balance[entry.kind]
    if balance or len(sequences[0]) != len(sequences[1]):
        fail(f"not the same flushes and writes with FUA: {[len(s) for s in sequences]}, {list(balance.items())[:5]}")
    return moments
