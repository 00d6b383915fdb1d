#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 120
"""Exports of disks that fail, that have large blocks, that can't zero or discard: what clients are told."""

import contextlib
import os
import subprocess
import sys

sys.path.insert(0, os.environ["TESTS"])
import rawnbd as nbd  # pylint: disable=wrong-import-position
from rawnbd import Client  # pylint: disable=wrong-import-position

MIB = 1 << 20
TMP = os.environ["TMP"]


def sh(*command, stdin=None):
    """Runs a command."""
    subprocess.run(command, check=True, input=stdin, text=True)


@contextlib.contextmanager
def exported(disk, *options):
    """An export of a disk."""
    sh("dst", "export", "disk", disk, "--listen", "127.0.0.1:10809", *options)
    try:
        yield
    finally:
        sh("dst", "unexport", "disk")


def shown(name):
    """What the export's directory shows."""
    with open("/sys/class/misc/dst/exports/disk/" + name, encoding="ascii") as file:
        return file.read().strip()


def broken():
    """The third and fourth MiB of the disk fail."""
    sh("dmsetup", "create", "broken", stdin=
       "0 4096 linear /dev/ram0 0\n4096 4096 error\n8192 57344 linear /dev/ram0 8192\n")
    with exported("/dev/mapper/broken"):
        for structured in (False, True):
            with Client() as c:
                c.go("disk", structured)
                c.write(0, b"s" * 4096)
                for command, payload in ((nbd.READ, 0), (nbd.WRITE, 4096)):
                    assert c.call(command, 2 * MIB, 4096, 0, bytes(payload))[0] == nbd.EIO
                    assert c.call(command, 2 * MIB - 512, 1024, 0, bytes(min(payload, 1024)))[0] == nbd.EIO
                # Good requests among bad ones.
                bad = {c.ask(nbd.READ, 2 * MIB + 4096 * i, 4096): i for i in range(10)}
                good = {c.ask(nbd.READ, 0, 4096): i for i in range(10)}
                for _ in range(20):
                    cookie, error, data = c.reply(dict.fromkeys(good, 4096))
                    assert (error == nbd.EIO) if cookie in bad else (data == b"s" * 4096)
                # Large requests: the first piece fails, or a later one.
                assert c.call(nbd.READ, 2 * MIB, 4 * MIB)[0] == nbd.EIO
                assert c.call(nbd.WRITE, 2 * MIB, 4 * MIB, 0, bytes(4 * MIB))[0] == nbd.EIO
                assert c.call(nbd.WRITE, MIB // 2, 4 * MIB, 0, b"l" * (4 * MIB))[0] == nbd.EIO
                assert c.read(0, 4096) == b"s" * 4096
                if structured:
                    cookie = c.ask(nbd.READ, 0, 4 * MIB)
                    answered, error, _ = c.reply()
                    assert (answered, error) == (cookie, nbd.EIO)
                    assert c.read(0, 4096) == b"s" * 4096
                else:
                    # Simple replies can't tell an error behind data, so the connection must end.
                    c.ask(nbd.READ, 0, 4 * MIB)
                    assert c.is_gone()
        assert int(shown("errors")) > 30
    sh("dmsetup", "remove", "broken")


def zeroes():
    """A RAM disk can't zero blocks: zeroes are written."""
    with exported("/dev/ram0"):
        with Client() as c:
            size, flags = c.go("disk", True)
            assert flags & (1 << 6)
            c.write(0, b"z" * (8 * MIB))
            for offset, length, flag in ((512, 512, 0), (4096, 3 * MIB + 512, nbd.FUA), (6 * MIB, MIB, nbd.NO_HOLE)):
                assert c.call(nbd.ZERO, offset, length, flag)[0] == 0
                assert c.read(offset, length) == bytes(length)
                assert c.read(offset - 512, 512) == b"z" * 512
                assert c.read(offset + length, 512) == b"z" * 512
            assert c.call(nbd.ZERO, 0, size)[0] == 0
            assert c.read(8 * MIB - 4096, 4096) == bytes(4096)


def blocks():
    """A disk with blocks of 4096 bytes, and a size that is no multiple of a page to the client's mind."""
    sh("truncate", "-s", str(16 * MIB), TMP + "/image")
    sh("losetup", "-b", "4096", "/dev/loop1", TMP + "/image")
    with exported("/dev/loop1"):
        with Client() as c:
            c.greet()
            infos = dict((data[:2], data[2:]) for kind, data in c.negotiate(nbd.INFO, c.named("disk", (3,)))
                         if kind == nbd.REP_INFO)
            assert infos[b"\0\3"][:8] == bytes((0, 0, 16, 0, 0, 0, 16, 0)), infos
        with Client() as c:
            size, _ = c.go("disk")
            assert size == 16 * MIB
            c.write(4096, b"q" * 8192)
            for offset, length in ((512, 4096), (0, 512), (4096, 4608), (0, MIB + 512), (0, 4 * MIB + 2048)):
                for command in (nbd.READ, nbd.WRITE, nbd.ZERO, nbd.TRIM):
                    data = b"w" * length if command == nbd.WRITE else b""
                    assert c.call(command, offset, length, 0, data)[0] == nbd.EINVAL
            assert c.read(0, 12288) == bytes(4096) + b"q" * 8192
    sh("losetup", "-d", "/dev/loop1")


def sizes():
    """A tail that is no whole block, and a disk that is read-only by itself."""
    sh("truncate", "-s", str(MIB + 512), TMP + "/odd")
    sh("losetup", "-r", "/dev/loop1", TMP + "/odd")
    with exported("/dev/loop1", "--read-only"):
        assert shown("read_only") == "1"
        with Client() as c:
            size, flags = c.go("disk", True)
            assert size == MIB + 512 and flags & 2
            assert len(c.read(MIB, 512)) == 512
            assert c.call(nbd.READ, MIB, 1024)[0] == nbd.EINVAL
            for command in (nbd.WRITE, nbd.TRIM, nbd.ZERO):
                assert c.call(command, 0, 512, 0, bytes(512) if command == nbd.WRITE else b"")[0] == nbd.EPERM
            assert c.call(nbd.FLUSH)[0] == 0
    sh("losetup", "-d", "/dev/loop1")


def durable():
    """What was flushed, or written with FUA, is there after a power cut; what was not may be gone."""
    base = "/sys/kernel/config/nullb/power/"
    sh("modprobe", "null_blk", "nr_devices=0")
    if not os.path.exists("/sys/kernel/config/nullb"):
        sh("mount", "-t", "configfs", "none", "/sys/kernel/config")
    os.mkdir(base)
    for name, value in (("size", 64), ("memory_backed", 1), ("cache_size", 32), ("power", 1)):
        with open(base + name, "w", encoding="ascii") as file:
            file.write(str(value))
    with exported("/dev/power"):
        with Client() as c:
            c.go("disk", True)
            for i in range(64):
                c.write(4096 * i, b"f" * 4096)
            assert c.call(nbd.FLUSH)[0] == 0
            for i in range(64, 128):
                c.write(4096 * i, b"u" * 4096, nbd.FUA)
            c.write(MIB, b"u" * (2 * MIB), nbd.FUA)
            assert c.call(nbd.ZERO, 0, 4096, nbd.FUA)[0] == 0
            c.write(8 * MIB, b"n" * MIB)
    for value in "01":
        with open(base + "power", "w", encoding="ascii") as file:
            file.write(value)
    with exported("/dev/power"):
        with Client() as c:
            c.go("disk", True)
            assert c.read(0, 4096 * 64) == bytes(4096) + b"f" * (4096 * 63)
            assert c.read(4096 * 64, 4096 * 64) == b"u" * (4096 * 64)
            assert c.read(MIB, 2 * MIB) == b"u" * (2 * MIB)
            # The test would show nothing on a disk that keeps everything.
            assert b"n" not in c.read(8 * MIB, MIB)
    os.rmdir(base)


def main():
    """The test."""
    sh("modprobe", "brd", "rd_nr=1", "rd_size=32768")
    sh("modprobe", "loop")
    sh("modprobe", "dst")
    for case in (broken, zeroes, blocks, sizes, durable):
        print(case.__name__, flush=True)
        case()


main()
