#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What the logs on copies of a mirror say, read by the book (docs/on-disk.md). The copies may be in use.

    mirror_log.py BEHIND COPY...    how many regions the copy BEHIND would lack after a crash right now
"""

import struct
import sys

BLOCK, ENTRIES = 4096, 1016
ACTIVE = 1 << 16


def number(block, form, at):
    return struct.unpack_from(form, block, at)[0]


def blocks_from_end(path, first, count):
    """So many blocks of a node, of which the last is the `first` one from its end."""
    with open(path, "rb") as file:
        end = file.seek(0, 2) // BLOCK
        file.seek((end - first - count + 1) * BLOCK)
        data = file.read(count * BLOCK)
    return [data[i : i + BLOCK] for i in range(0, len(data), BLOCK)]


def superblock(path):
    """The newer one of a node, or None."""
    found = [block for block in blocks_from_end(path, 1, 2) if block[:8] == b"DSTSUPER"]
    return max(found, key=lambda block: number(block, "<Q", 80)) if found else None


def place(path):
    """A node's place in the table."""
    return number(superblock(path), "<I", 72)


def log(path):
    """For each block of the log its sequence number and its entries, as the newer slot has them."""
    head = superblock(path)
    if head is None:
        return []
    slots = blocks_from_end(path, 3, 2 * number(head, "<I", 188))
    newer = [max(pair, key=lambda slot: number(slot, "<Q", 16)) for pair in zip(slots[::2], slots[1::2])]
    return [(number(slot, "<Q", 16), struct.unpack_from(f"<{ENTRIES}I", slot, 32)) for slot in newer]


def lacking(copy, *paths):
    """Regions that the copy at this place lacks, or may lack since they are active, as the newest blocks on these nodes have it."""
    which = ACTIVE | 1 << copy
    return sum(bool(entry & which) for blocks in zip(*map(log, paths)) for entry in max(blocks)[1])


if __name__ == "__main__":
    print(lacking(place(sys.argv[1]), *sys.argv[2:]))
