#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 240
"""What a disk refuses is no failure of it: buffers that it can't do with, commands that it does not have. Nodes that join later,
and those that fail to."""

import fcntl
import os
import struct
import sys
from pathlib import Path

sys.path.insert(0, os.environ["TESTS"])
from lib import *

MIB = 16
SECTORS = MIB * 2048
DATA = mirror_sectors(SECTORS)
EINVAL, EEXIST = 22, 17

run("modprobe", "brd", "rd_nr=4", f"rd_size={MIB << 10}")
run("modprobe", "dm_mod")
load()


class Pieces:
    """A block device, by direct I/O of buffers in pieces that lie in different pages, so that there are gaps between them."""

    def __init__(self, path, flags=0):
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT | flags)

    @staticmethod
    def vectors(sizes, shift=0):
        memory = buffer(8192 * len(sizes))
        return [memory[at * 8192 + shift :][:size] for at, size in enumerate(sizes)]

    def write(self, offset, sizes, shift=0):
        """Writes random data; gives them, or the errno."""
        vectors = self.vectors(sizes, shift)
        for vector in vectors:
            vector[:] = os.urandom(len(vector))
        try:
            put = os.pwritev(self.fd, vectors, offset)
        except OSError as error:
            return error.errno
        if put != sum(sizes):
            fail(f"a write of {sum(sizes)} bytes took {put}")
        return b"".join(vectors)

    def read(self, offset, sizes, shift=0):
        vectors = self.vectors(sizes, shift)
        try:
            os.preadv(self.fd, vectors, offset)
        except OSError as error:
            return error.errno
        return b"".join(vectors)

    def writes(self, offset, sizes, shift=0):
        """It must do that."""
        data = self.write(offset, sizes, shift)
        if isinstance(data, int):
            fail(f"pieces of {sizes} bytes, {shift} behind a page's start: errno {data}")
        return data

    def refuses(self, offset, sizes, shift=0):
        """The block layer must refuse that."""
        if self.write(offset, sizes, shift) != EINVAL or self.read(offset, sizes, shift) != EINVAL:
            fail(f"pieces of {sizes} bytes were not refused")

    def close(self):
        os.close(self.fd)


def null_blk(name, block):
    """A RAM disk that can't do with gaps within a page, as most NVMe disks."""
    if not os.path.exists("/sys/module/null_blk"):
        run("modprobe", "null_blk", "nr_devices=0")
    if not os.path.exists("/sys/kernel/config/nullb"):
        run("mount", "-t", "configfs", "none", "/sys/kernel/config")
    base = f"/sys/kernel/config/nullb/{name}"
    os.mkdir(base)
    values = {"size": MIB, "blocksize": block, "memory_backed": 1, "virt_boundary": 1, "power": 1}
    for file, value in values.items():
        Path(base, file).write_text(str(value), encoding="ascii")
    wait_until(10, lambda: os.path.exists(f"/dev/{name}"), f"/dev/{name} is there")
    return f"/dev/{name}"


def make(name, *nodes):
    dst("create", name, "--alg", "alg_mirror", *nodes, "--start-array")
    wait_health(name, "healthy", 10)
    return f"/dev/dst-{name}"


def no_trouble(name, *copies, left=0):
    """No copy left, but for those that were taken out, and all are equal."""
    if storage(name, "health") != "healthy" or storage(name, "left") != left:
        fail(f"health: {storage(name, 'health')}; {storage(name, 'left')} times a copy left")
    oracle("equal", DATA, f"/dev/dst-{name}", *copies)


def test_buffers():
    """Buffers whose pieces are no whole blocks are refused before any disk sees them; others are not."""
    server = Daemon(12171, SECTORS)
    for block in 4096, 512:
        disk = null_blk(f"gaps{block}", block)
        path = make("gaps", disk, "localhost:12171")
        pieces = Pieces(path)
        pieces.refuses(0, [block // 2] * 16)
        pieces.refuses(0, [512, 4096, 4096, 3584] if block == 4096 else [256, 512, 256])
        # Blocks that are not aligned in memory: of two pages each has a part.
        pieces.refuses(0, [block], block // 2)
        for sizes in [block] * 16, [4096, 8 * 512 if block == 4096 else 512, 4096]:
            data = pieces.writes(1 << 20, sizes)
            if pieces.read(1 << 20, sizes) != data:
                fail("other data were read")
        if block == 512:
            for shift in 512, 1024, 3584:
                pieces.writes(2 << 20, [512] * 8, shift)
        pieces.close()
        no_trouble("gaps", disk, server.path)
        for node_ in disk, ":12171":
            if node("gaps", "errors", copy_of("gaps", node_)):
                fail(f"errors of {node_}")
        delete("gaps")
        # A linear storage has the same limits.
        dst("create", "line", "--no-metadata", disk, "--start-array")
        pieces = Pieces("/dev/dst-line")
        pieces.refuses(0, [block // 2] * 16)
        pieces.writes(0, [block] * 16)
        if node("line", "errors"):
            fail("the disk of a linear storage was asked")
        pieces.close()
        delete("line")
        run("dd", "if=/dev/zero", f"of={server.path}", "bs=1M", f"count={MIB}", "conv=notrunc", "status=none")
    server.kill()


class Changing:
    """A disk over another one, which becomes one that can do less than it has said."""

    def __init__(self, name, backing):
        blank(backing)
        self.name, self.backing, self.path = name, backing, f"/dev/mapper/{name}"
        run("dmsetup", "create", name, "--table", f"0 {SECTORS} linear {backing} 0")
        wait_until(10, lambda: os.path.exists(self.path), f"{self.path} is there")

    def become(self, backing):
        run("dmsetup", "suspend", "--nolockfs", self.name)
        run("dd", f"if={self.backing}", f"of={backing}", "bs=1M", "oflag=direct", "status=none")
        run("dmsetup", "load", self.name, "--table", f"0 {SECTORS} linear {backing} 0")
        run("dmsetup", "resume", self.name)
        self.backing = backing

    def remove(self):
        run("dmsetup", "remove", "--retry", self.name)


def test_invalid():
    """A write that a copy calls invalid, as it can't do with the pieces, is done another way; also if all copies do so."""
    disks = [Changing(f"less{i}", f"/dev/ram{i}") for i in range(2)]
    server = Daemon(12172, SECTORS)
    path = make("less", disks[0].path, disks[1].path, "localhost:12172")
    eights = [512] * 8
    # The disks do the first block, and refuse what follows.
    some = [4096] + eights * 3
    # More than goes at once.
    large = [4096] * 60 + eights * 4
    copies = [disks[0].path, disks[1].path, server.path]
    for way in "one", "two", "all":
        if way == "all":
            dst("remove", "less", "localhost:12172")
            copies.pop()
        else:
            disks[way == "two"].become(null_blk(f"less-{way}", 4096))
        for flags in 0, os.O_DSYNC:
            pieces = Pieces(path, flags)
            for offset, sizes in (0, eights), (1 << 20, some), (2 << 20, large):
                data = pieces.writes(offset, sizes)
                with Direct(path) as direct:
                    if any(direct.read(offset, len(data)) != data for _ in range(4)):
                        fail("other data were read")
                # A read may go to any copy: one that can do with the buffer serves it.
                if way != "all" and any(pieces.read(offset, sizes) != data for _ in range(4)):
                    fail("other data were read, or none")
            if way == "all" and pieces.read(0, eights) != EINVAL:
                fail("a read that no copy can do with")
            pieces.close()
        no_trouble("less", *copies, left=way == "all")
        if storage("less", "rewritten"):
            fail(f"{storage('less', 'rewritten')} extents were rewritten, though no disk has lost anything")
    delete("less")
    for disk in disks:
        disk.remove()
    server.kill()


def scsi(count):
    """SCSI disks that can discard, and write zeroes."""
    run("modprobe", "scsi_debug", f"add_host={count}", "per_host_store=1", "dev_size_mb=16", "delay=0", "lbpu=1", "lbpws=1")
    where = "/sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*/block/sd*"
    wait_until(120, lambda: len(glob.glob(where)) == count, f"{count} SCSI disks are there")
    run("udevadm", "settle")
    entries = sorted(glob.glob(where))
    for entry in entries:
        for limit in "discard_max_bytes", "write_zeroes_max_bytes":
            if Path(entry, "queue", limit).read_text(encoding="ascii") == "0\n":
                fail(f"{limit} of {entry}: the test shows nothing")
    return entries


def refuse_commands(entry):
    """UNMAP, WRITE SAME (10), WRITE SAME (16): invalid opcode."""
    lun = entry.split("/")[-3]
    for code in 0x42, 0x41, 0x93:
        text = f"2 1 {code:#x} 0x0 0x0 0x2 0x5 0x20 0x0"
        Path(f"/sys/kernel/debug/scsi_debug/{lun}/error").write_text(text, encoding="ascii")
    return "/dev/" + os.path.basename(entry)


def test_commands():
    """SCSI disks that find out that they can't discard, or write zeroes, when they are asked to."""
    if not os.path.ismount("/sys/kernel/debug"):
        run("mount", "-t", "debugfs", "none", "/sys/kernel/debug")
    entries = scsi(6)
    for which in "one", "all":
        pair = [entries.pop(), entries.pop()]
        paths = ["/dev/" + os.path.basename(entry) for entry in pair]
        blank(*paths)
        for entry in pair[: 1 if which == "one" else 2]:
            refuse_commands(entry)
        path = make("scsi", *paths)
        with Direct(path) as direct:
            direct.write(0, os.urandom(8 << 20))
        # With, and without, leave to unmap.
        zero = ["fallocate", "--punch-hole"] if which == "one" else ["blkdiscard", "--zeroout"]
        run(*zero, "--offset", 4096, "--length", 3 << 20, path)
        no_trouble("scsi", *paths)
        with Direct(path) as direct:
            if direct.read(4096, 3 << 20) != bytes(3 << 20):
                fail("no zeroes")
        # It may say that it can't.
        run("blkdiscard", "--offset", 6 << 20, "--length", 1 << 20, path, check=False)
        if storage("scsi", "health") != "healthy" or storage("scsi", "left"):
            fail(f"health after a discard: {storage('scsi', 'health')}")
        for where in paths:
            if node("scsi", "errors", copy_of("scsi", where)):
                fail(f"errors of {where}")
        delete("scsi")

    # The block layer, and an export, write the zeroes themselves if they hear that the disk can't.
    paths = [refuse_commands(entry) for entry in entries]
    dst("export", "zero", paths[1], "--listen", "127.0.0.1:12173")
    for name, where in ("line", paths[0]), ("net", "nbd://127.0.0.1:12173/zero"):
        dst("create", name, "--no-metadata", where, "--start-array")
        with Direct(f"/dev/dst-{name}") as direct:
            direct.write(0, os.urandom(4 << 20))
            run("blkdiscard", "--zeroout", "--length", 3 << 20, f"/dev/dst-{name}")
            if direct.read(0, 3 << 20) != bytes(3 << 20):
                fail("no zeroes")
        run("blkdiscard", "--offset", 3 << 20, "--length", 1 << 20, f"/dev/dst-{name}", check=name == "net")
        if node(name, "errors"):
            fail(f"errors of {where}")
        delete(name)
    dst("unexport", "zero")
    wait_until(10, lambda: not subprocess.run(["modprobe", "-r", "scsi_debug"], check=False).returncode, "scsi_debug goes")


def test_join():
    """A local disk joins remote ones, which need no alignment at all."""
    servers = [Daemon(12174, SECTORS), Daemon(12175, SECTORS)]
    blank("/dev/ram2", "/dev/ram3")
    make("join", "localhost:12174", "localhost:12175")
    dst("add", "join", "/dev/ram2")
    wait_health("join", "healthy")
    dst("replace", "join", "localhost:12174", "/dev/ram3")
    wait_until(30, lambda: not storage("join", "nodes").count("12174") and len(copies("join")) == 3, "it is replaced")
    wait_health("join", "healthy")
    with Direct("/dev/dst-join") as direct:
        direct.write(0, os.urandom(1 << 20))
    no_trouble("join", "/dev/ram2", "/dev/ram3", servers[1].path, left=1)
    delete("join")
    blank("/dev/ram2")
    dst("create", "join", "--no-metadata", "localhost:12174", "--start-array")
    dst("replace", "join", "localhost:12174", "/dev/ram2")
    wait_until(30, lambda: len(copies("join")) == 1 and "ram2" in dst("status", "join"), "it is replaced")
    delete("join")
    for server in servers:
        server.kill()


def copies(name):
    return glob.glob(f"/sys/devices/{name}/n-*")


class Failing:
    """Allocations of this thread that fail; see fault-injection.rst."""

    MANY = 1 << 20

    def __init__(self):
        for kind in "failslab", "fail_page_alloc":
            Path(f"/sys/kernel/debug/{kind}/ignore-gfp-wait").write_text("N", encoding="ascii")
            Path(f"/sys/kernel/debug/{kind}/verbose").write_text("0", encoding="ascii")
        self.file = os.open("/proc/thread-self/fail-nth", os.O_RDWR)
        self.control = os.open("/dev/dst", os.O_RDWR)
        text = Path(os.environ["TESTS"], "../uapi.rs").read_text(encoding="ascii")
        self.version = int(re.search(r"ABI_VERSION: u32 = (\d+)", text).group(1))

    def add(self, name, path, nth):
        """Adds a local disk (AddNode in uapi.rs); the allocation of that number fails. Gives the errno, and how many there were."""
        size, automatic = 568, (1 << 64) - 1
        head = struct.pack("=II200s28sIQQ256s", size, self.version, b"", name.encode(), 1, automatic, automatic, path.encode())
        request = bytearray(head.ljust(size, b"\0"))
        number, errno = f"{nth}".encode(), 0
        os.pwrite(self.file, number, 0)
        try:
            fcntl.ioctl(self.control, 0xC000D500 | size << 16 | 2, request)
        except OSError as error:
            errno = error.errno
        left = int(os.pread(self.file, 32, 0))
        os.pwrite(self.file, b"0", 0)
        return errno, nth - left

    def close(self):
        os.close(self.file)
        os.close(self.control)

    def last_of(self, count, name, path, undo, check):
        """Lets each of the last `count` allocations fail, one at a time; gives how many of the attempts failed. (What is
        allocated for the debugging of memory, or for this process, does not make one fail.)"""
        errno, allocations = self.add(name, path, self.MANY)
        if errno:
            fail(f"add: errno {errno}")
        undo()
        failed = 0
        for nth in range(max(1, allocations - count), allocations + 1):
            errno, _ = self.add(name, path, nth)
            if errno == EEXIST:
                fail("an attempt that failed has left something behind")
            if errno:
                failed += 1
                check()
            else:
                undo()
        print(f"[{failed} of {count} attempts failed]", end=" ")
        if not failed:
            fail("nothing has failed")


def test_failed_add():
    """Whatever fails in "dst add" (here: memory), the storage is as it was."""
    if not os.path.exists("/sys/kernel/debug/failslab"):
        print("[no failslab]", end=" ")
        return
    failing = Failing()
    blank("/dev/ram0", "/dev/ram1")
    path = make("mem", "/dev/ram0")

    def is_free():
        try:
            os.close(os.open("/dev/ram1", os.O_RDWR | os.O_EXCL))
            return True
        except OSError:
            return False

    def alone(health="healthy"):
        wait_until(10, is_free, "the node is closed")
        if len(copies("mem")) != 1 or storage("mem", "health") != health:
            fail(f"{len(copies('mem'))} copies are shown; {storage('mem', 'health')}")

    def ends_well():
        dst("add", "mem", "/dev/ram1")
        wait_health("mem", "healthy")
        if len(json.loads(dst("status", "mem", "--json"))["storages"][0]["nodes"]) != 2:
            fail("a copy was left behind")
        with Direct(path) as direct:
            direct.write(0, os.urandom(1 << 20))
        oracle("equal", DATA, path, "/dev/ram0", "/dev/ram1")

    failing.last_of(30, "mem", "/dev/ram1", lambda: dst("remove", "mem", "/dev/ram1"), alone)
    ends_well()

    def without():
        delete("mem")
        dst("assemble", "mem", "/dev/ram0", "--degraded")

    # One that comes back.
    without()
    failing.last_of(16, "mem", "/dev/ram1", without, lambda: alone("degraded"))
    ends_well()
    delete("mem")
    failing.close()


main(test_buffers, test_invalid, test_commands, test_join, test_failed_add)
