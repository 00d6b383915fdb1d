#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 300
"""Everything that a client can ask an export for, with both kinds of replies, against a copy in memory."""

import os
import random
import subprocess
import sys

import nbd

SIZE = 64 << 20
DISK = "/dev/loop0"


def sh(*command):
    """Runs a command."""
    subprocess.run(command, check=True)


def handle(structured, export="disk"):
    """A libnbd client that checks nothing itself."""
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.set_strict_mode(0)
    h.set_export_name(export)
    h.connect_tcp("127.0.0.1", "10809")
    return h


def errno_of(call, *args):
    """The errno with which a call fails."""
    try:
        call(*args)
    except nbd.Error as error:
        return error.errnum
    return None


def both(structured):
    """All commands on one connection."""
    h = handle(structured)
    assert h.get_structured_replies_negotiated() == structured
    assert h.get_size() == SIZE
    assert h.can_flush() and h.can_fua() and h.can_multi_conn() and h.can_trim() and h.can_zero()
    assert h.can_df() == structured and not h.is_read_only()
    assert h.get_block_size(nbd.SIZE_MINIMUM) == 512
    rng = random.Random(structured)
    copy = bytearray(h.pread(SIZE // 2, 0)) + bytearray(h.pread(SIZE // 2, SIZE // 2))

    def write(offset, length, flags=0):
        data = rng.randbytes(length)
        h.pwrite(data, offset, flags)
        copy[offset:offset + length] = data

    def read(offset, length, flags=0):
        assert h.pread(length, offset, flags) == copy[offset:offset + length], (offset, length)

    # Every alignment within a page, from one sector to more than two pages.
    for first in range(8):
        for sectors in (1, 2, 7, 8, 9, 15, 16, 17):
            write((4 << 20) + 512 * first, 512 * sectors)
            read((4 << 20) + 512 * first, 512 * sectors)
    # Around the sizes where something changes: a page, a piece, what the protocol allows.
    for length in (4096, 65536, (1 << 20) - 512, 1 << 20, (1 << 20) + 512, 3 << 20, (4 << 20) + 4096, 32 << 20):
        for offset in (0, 512, SIZE - length):
            write(offset, length, nbd.CMD_FLAG_FUA)
            read(offset, length)
    for _ in range(60):
        length = 512 * rng.randrange(1, 600)
        offset = 512 * rng.randrange(0, (SIZE - length) // 512)
        write(offset, length, rng.choice((0, nbd.CMD_FLAG_FUA)))
        length = 512 * rng.randrange(1, 600)
        read(512 * rng.randrange(0, (SIZE - length) // 512), length)
    h.flush()
    for flags in (0, nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE):
        offset, length = 512 * rng.randrange(0, 1000), 512 * rng.randrange(1, 30000)
        h.zero(length, offset, flags)
        copy[offset:offset + length] = bytes(length)
        read(offset, length)
    for flags in (0, nbd.CMD_FLAG_FUA):
        # A loop device on tmpfs gives zeroes after a discard of whole pages.
        h.trim(1 << 20, 8 << 20, flags)
        copy[8 << 20:9 << 20] = bytes(1 << 20)
        read(8 << 20, 1 << 20)
        write(8 << 20, 1 << 20)
    if structured:
        read(512, 65536, nbd.CMD_FLAG_DF)
        read(0, 1 << 20, nbd.CMD_FLAG_DF)
        assert errno_of(h.pread, 2 << 20, 0, nbd.CMD_FLAG_DF) == 75

    # What can't be done is refused, and the connection goes on.
    inval, nospc = 22, 28
    assert errno_of(h.pread, 512, SIZE) == inval
    assert errno_of(h.pread, 1024, SIZE - 512) == inval
    assert errno_of(h.pwrite, bytes(512), SIZE) == nospc
    assert errno_of(h.pwrite, bytes(1024), SIZE - 512) == nospc
    assert errno_of(h.pwrite, bytes(32 << 20), SIZE - 512) == nospc
    assert errno_of(h.zero, 1024, SIZE - 512) == nospc
    assert errno_of(h.trim, 1024, SIZE - 512) == inval
    assert errno_of(h.pread, 512, (1 << 64) - 512) == inval
    assert errno_of(h.pwrite, bytes(512), (1 << 63)) == nospc
    for call in (h.pread, h.zero, h.trim):
        assert errno_of(call, 511, 0) == inval
        assert errno_of(call, 512, 1) == inval
        assert errno_of(call, 0, 0) == inval
    assert errno_of(h.pwrite, bytes(513), 0) == inval
    assert errno_of(h.pwrite, bytes(512), 256) == inval
    assert errno_of(h.cache, 512, 0) == inval
    assert errno_of(h.zero, 512, 0, nbd.CMD_FLAG_FAST_ZERO) == inval
    assert errno_of(h.pread, 512, 0, 1 << 9) == inval
    # Some set FUA on reads.
    read(0, 4096, nbd.CMD_FLAG_FUA)

    # Many at once: reads and writes of disjoint places in any order.
    places = list(range(0, 200))
    rng.shuffle(places)
    buffers, cookies = [], []
    for place in places:
        at, length = (16 << 20) + place * 131072, 512 * rng.randrange(1, 256)
        if rng.random() < 0.5:
            data = rng.randbytes(length)
            copy[at:at + length] = data
            cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), at))
        else:
            buffer = nbd.Buffer(length)
            buffers.append((buffer, at, length))
            cookies.append(h.aio_pread(buffer, at))
    while cookies:
        h.poll(-1)
        cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]
    for buffer, at, length in buffers:
        assert buffer.to_bytearray() == copy[at:at + length]
    for at in range(0, SIZE, 32 << 20):
        read(at, 32 << 20)
    h.flush()
    h.shutdown()
    with open(DISK, "rb") as disk:
        fd = disk.fileno()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert disk.read() == copy


def main():
    """The test."""
    sh("mount", "-t", "tmpfs", "none", os.environ["TMP"])
    image = os.environ["TMP"] + "/disk"
    sh("truncate", "-s", str(SIZE), image)
    sh("modprobe", "loop")
    sh("losetup", DISK, image)
    sh("modprobe", "dst")
    sh("dst", "export", "disk", DISK, "--listen", "127.0.0.1:10809")
    try:
        for structured in (False, True):
            both(structured)
        h = handle(True, "")
        assert h.get_size() == SIZE
        h.shutdown()
        try:
            handle(True, "other")
            sys.exit("an export that is not there was found")
        except nbd.Error as error:
            assert "no such export" in str(error).lower() or error.errnum == 2, error
        directory = "/sys/class/misc/dst/exports/disk/"
        with open(directory + "errors", encoding="ascii") as file:
            assert int(file.read()) > 30
        with open(directory + "in_flight", encoding="ascii") as file:
            assert int(file.read()) == 0
    finally:
        sh("dst", "unexport", "disk")
        sh("losetup", "-d", DISK)


main()
