#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Writes across the boundaries of nodes by direct I/O, at every alignment of 512 bytes, and looks for each sector.

    cuts.py [--all] [--block BYTES] DEVICE START:SECTORS:PATH[:SKIP]...

PATH is what lies behind the node (a disk or a file), START and SECTORS its place in DEVICE, SKIP the sectors before it
at PATH. Every write has a pattern of its own in each sector. It is read back through the device at once, and directly
from the nodes: around the boundary after each length, all of them at the end. Buffers lie at all offsets of 512 bytes
within a page; some are lists of odd pieces.
"""

import argparse
import mmap
import os
import random
import struct
import sys

LENGTHS = [*range(1, 10), 15, 16, 17, 31, 33, 64, 65, 128]
LIMIT = 128


class Node:
    def __init__(self, text):
        start, sectors, path, *skip = text.split(":")
        self.start, self.sectors, self.path = int(start), int(sectors), path
        self.skip = int(skip[0]) if skip else 0
        # Not O_DIRECT for files: tmpfs and odd sizes.
        flags = os.O_DIRECT if os.path.realpath(path).startswith("/dev/") else 0
        self.fd = os.open(path, os.O_RDONLY | flags)

    @property
    def end(self):
        return self.start + self.sectors

    def read(self, sector, sectors):
        """Sectors of the storage, from behind it."""
        memory = mmap.mmap(-1, sectors * 512)
        got = os.preadv(self.fd, [memory], (sector - self.start + self.skip) * 512)
        assert got == sectors * 512, f"{self.path}: {got} bytes of {sectors} sectors at {sector}"
        return memory[:]


class Checker:
    def __init__(self, device, nodes, unit):
        self.device = os.open(device, os.O_RDWR | os.O_DIRECT)
        self.nodes, self.unit = nodes, unit
        self.size = nodes[-1].end
        self.number = 0
        # One page more, for buffers that don't begin at a page.
        self.out = memoryview(mmap.mmap(-1, LIMIT * 512 + 8192))
        self.back = memoryview(mmap.mmap(-1, LIMIT * 512 + 8192))
        self.random = random.Random(1)
        self.writes = 0
        # Far nodes have sectors nobody touches: only what is near the boundaries is kept.
        self.model = {}

    def stamp(self, view, sector, sectors):
        """A pattern that names the sector and the write, at both ends of each sector and between."""
        for i in range(sectors):
            self.number += 1
            mark = struct.pack("<QQ", sector + i, self.number)
            at = i * 512
            view[at : at + 512] = mark * 32
            self.model[sector + i] = mark

    def vectors(self, view, length, shift):
        """The buffer as one piece, or as several that meet within pages."""
        view = view[shift : shift + length]
        if self.writes % 3 or length < 2048:
            return [view]
        pieces, at = [], 0
        while at < length and len(pieces) < 60:
            size = min(length - at, 512 * self.random.choice([1, 2, 3, 5, 7, 8, 9, 13]))
            size = size if size % (self.unit * 512) == 0 else min(length - at, self.unit * 512)
            pieces.append(view[at : at + size])
            at += size
        if at < length:
            pieces.append(view[at:])
        return pieces

    def write(self, sector, sectors):
        length = sectors * 512
        # The alignment in memory moves on with each write, so that it meets every alignment on the device.
        shift = self.writes % 8 * 512 if self.unit == 1 else 0
        self.stamp(self.out[shift:], sector, sectors)
        put = os.pwritev(self.device, self.vectors(self.out, length, shift), sector * 512)
        assert put == length, f"wrote {put} of {length} bytes at sector {sector}"
        shift = (self.writes * 3 + 1) % 8 * 512 if self.unit == 1 else 0
        got = os.preadv(self.device, self.vectors(self.back, length, shift), sector * 512)
        assert got == length, f"read {got} of {length} bytes at sector {sector}"
        self.writes += 1
        self.compare(self.back[shift : shift + length], sector, f"read back of {sectors} sectors")

    def compare(self, data, sector, what):
        wrong = []
        for i in range(len(data) // 512):
            mark = self.model.get(sector + i)
            if mark is not None and data[i * 512 : i * 512 + 512] != mark * 32:
                wrong.append(sector + i)
        if wrong:
            first = wrong[0]
            found = bytes(data[(first - sector) * 512 : (first - sector) * 512 + 512])
            raise SystemExit(
                f"{what} at sector {sector}: wrong sectors {wrong[:20]}; {first} should hold "
                f"{struct.unpack('<QQ', self.model[first])}, holds {struct.unpack('<QQ', found[:16])} at its start "
                f"and {struct.unpack('<QQ', found[-16:])} at its end"
            )

    def behind(self, sector, end):
        """Compares what lies behind the nodes."""
        sector, end = max(sector, 0), min(end, self.size)
        for node in self.nodes:
            low, high = max(sector, node.start), min(end, node.end)
            if low < high:
                self.compare(node.read(low, high - low), low, f"{node.path} itself")

    def boundary(self, at, lengths):
        for length in lengths:
            if length % self.unit:
                continue
            # From just before the boundary to just behind it.
            for before in range(0, length + 1, self.unit):
                start = at - before
                if start >= 0 and start + length <= self.size:
                    self.write(start, length)
            self.behind(at - LIMIT - 8, at + LIMIT + 8)

    def everything(self):
        """All sectors that were ever written, from behind each node and through the device."""
        sectors = sorted(self.model)
        run = []
        for sector in sectors + [None]:
            if run and (sector != run[-1] + 1 or len(run) == LIMIT):
                self.behind(run[0], run[-1] + 1)
                first = run[0] - run[0] % self.unit
                count = (run[-1] - first) // self.unit * self.unit + self.unit
                view = memoryview(mmap.mmap(-1, count * 512))
                assert os.preadv(self.device, [view], first * 512) == count * 512
                self.compare(view, first, "the device at the end")
                run = []
            run.append(sector)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true", help="every length up to 64 KiB")
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("device")
    parser.add_argument("nodes", nargs="+")
    args = parser.parse_args()
    nodes = sorted((Node(text) for text in args.nodes), key=lambda node: node.start)
    checker = Checker(args.device, nodes, args.block // 512)
    lengths = range(1, LIMIT + 1) if args.all else LENGTHS
    for node in nodes[1:]:
        checker.boundary(node.start, lengths)
    assert checker.writes, "there was nothing to write"
    checker.everything()
    print(f"{args.device}: {len(nodes)} nodes, {checker.writes} writes, {len(checker.model)} sectors are right")


if __name__ == "__main__":
    sys.exit(main())
