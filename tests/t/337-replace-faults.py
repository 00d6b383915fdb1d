#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 300
"""A node of a linear storage takes the place of another one, and at the moment of the switch something fails: a flush or a
superblock of the new node, each once; or another head takes over the storage.

Both heads are storages of this kernel, under two names, on its own exports.
"""

import errno
import os
import select
import subprocess
import sys
import time

sys.path.insert(0, os.environ["TESTS"])
import nbdserver
import rawnbd
from lib import *
from nbdserver import Server

KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB
# What is behind it on a node of that size are superblocks: two blocks less, whole MiB.
DATA = 7 * MIB
MAGIC = b"DSTSUPER"
ONE, TWO, THREE = (f"nbd://127.0.0.1:1090{number}/{name}" for number, name in enumerate(("one", "two", "three"), 1))


def content(seed):
    return b"".join(bytes([seed, block % 251]) * (2 * KIB) for block in range(DATA // (4 * KIB)))


def nodes(name):
    return sorted(entry[2:] for entry in os.listdir(f"/sys/devices/{name}") if entry.startswith("n-"))


class Breaking(Server):
    """A server that answers one of the requests that make things durable with an error: the one that comes `nth`."""

    def __init__(self, port):
        super().__init__(SIZE, port)
        self.kind, self.nth, self.seen = None, 0, 0
        self.on_request = self.judge
        self.start()

    def arm(self, kind, nth):
        self.kind, self.nth, self.seen = kind, nth, 0

    def judge(self, connection, request):
        if request.command == self.kind == nbdserver.FLUSH:
            # A write comes behind each flush: so the next one has something to do, and is not left out.
            select.select([connection.socket], [], [], 1)
        superblock = request.command == nbdserver.WRITE and request.offset >= DATA
        if self.kind != ("superblock" if superblock else request.command):
            return False
        self.seen += 1
        if self.seen != self.nth:
            return False
        connection.send(connection.answer(request, errno.EIO))
        return True


def test_new_node_fails():
    """Each flush of the new node, and each write of its superblocks, fails once: the old node goes on, and it is tried again."""
    servers = [Breaking(12401 + number) for number in range(3)]
    old, other, new = servers
    uri = lambda server: f"localhost:{server.port}"
    dst("create", "lin", uri(old), uri(other), "--start-array")
    disk = Direct("/dev/dst-lin")
    number, rounds = 0, {}
    for kind in nbdserver.FLUSH, "superblock":
        nth = 1
        while True:
            number += 1
            disk.write(0, content(number))
            new.memory[DATA:] = bytes(SIZE - DATA)
            new.arm(kind, nth)
            if kind == "superblock" and nth <= 2:
                # Those that say that it waits: then nothing has begun.
                refuse("can't be written to", "replace", "lin", uri(old), uri(new))
                if MAGIC in new.memory[DATA:]:
                    fail(f"{kind} {nth}: a node that was refused looks like one of the storage")
            dst("replace", "lin", uri(old), uri(new))
            # It is told while the superblocks are written; that nothing is under way any more comes later.
            end = time.monotonic() + 60 * SLOW
            while not (nodes("lin") == ["0", str(DATA // 512)] and node("lin", "type").endswith(f":{new.port}")):
                disk.write(64 * KIB, content(number)[64 * KIB : 72 * KIB])
                time.sleep(0.05)
                if time.monotonic() > end:
                    fail(f"{kind} {nth}: the new node does not get there: {dst('status', 'lin')}")
            for server in new, other:
                if MAGIC not in server.memory[DATA:]:
                    fail(f"{kind} {nth}: a node has no superblocks")
            if MAGIC in old.memory[DATA:]:
                fail(f"{kind} {nth}: the old node looks like one of the storage")
            if new.memory[:DATA] != content(number):
                fail(f"{kind} {nth}: the new node does not have all data")
            old.arm(None, 0)
            old, new = new, old
            if old.seen < nth:
                break
            nth += 1
        rounds[kind] = nth - 1
    # What shows that the core's flush behind the copying, and that of the switch, were both tried; and two superblocks of each kind.
    if rounds[nbdserver.FLUSH] < 2 or rounds["superblock"] < 4:
        fail(f"too little of the new node was made to fail: {rounds}")
    print(rounds, end=" ")
    disk.close()
    delete("lin")
    dst("assemble", "lin", uri(other), uri(old))
    with Direct("/dev/dst-lin") as disk:
        if disk.read(0, DATA) != content(number):
            fail("what is on the storage")
    delete("lin")
    for server in servers:
        server.stop()
        if server.complaints:
            fail(f"{server.complaints}")


class Tail:
    """The second node: whether its superblocks can be written."""

    sectors = SIZE // 512

    def table(self, good):
        lines = f"0 {self.sectors} linear /dev/ram1 0"
        if not good:
            tail = self.sectors - 16
            lines = f"0 {tail} linear /dev/ram1 0\n{tail} 16 error"
        return lines

    def create(self):
        subprocess.run(["dmsetup", "create", "two"], input=self.table(True), text=True, check=True)

    def set(self, good):
        subprocess.run(["dmsetup", "load", "two"], input=self.table(good), text=True, check=True)
        run("dmsetup", "suspend", "--noflush", "two")
        run("dmsetup", "resume", "two")

    def remove(self):
        wait_until(10, lambda: not subprocess.run(["dmsetup", "remove", "two"], check=False).returncode, "dmsetup remove")


def claim(port, uuid):
    """A head of another machine claims the storage, and does nothing else."""
    client = rawnbd.Client(port=port)
    client.greet()
    answer = client.negotiate(rawnbd.DST, client.fence(bytes.fromhex(uuid.replace("-", "")), b"x" * 16, 100))[-1][0]
    if answer != rawnbd.ACK:
        fail(f"the claim was answered by {answer}")
    client.sock.close()


def takeover(tail, switching, members, refused):
    """While THREE takes the place of ONE another head takes over; then these members are the storage, the others aren't.
    `switching`: all is copied, and the superblocks that name the new node can't be written on TWO."""
    dst("create", "a", ONE, TWO, "--force", "--start-array")
    uuid = storage("a", "uuid")
    disk = Direct("/dev/dst-a")
    disk.write(0, content(1))
    said = Said()
    if switching:
        tail.set(False)
    if not switching:
        dst("set", "a", "heal-min=0", "heal-max=64K")
    dst("replace", "a", ONE, THREE, "--force")
    if switching:
        wait_until(30, lambda: "can't be written; it is tried again" in said, "superblocks can't be written")
    disk.write(0, content(2))
    disk.flush()
    claim(10902, uuid)
    wait_until(20, lambda: storage("a", "health") == "taken-over", "the older head says so")
    if switching:
        tail.set(True)
    for act in lambda: disk.write(0, content(3)[: 4 * KIB]), disk.flush, lambda: disk.read(0, 4 * KIB):
        Aside(act).over(20, "a request of a fenced head", errno.EIO)
    disk.close()
    dst("assemble", "b", *members)
    with Direct("/dev/dst-b") as new:
        if new.read(0, DATA) != content(2):
            fail("what was acknowledged is not there")
        new.write(0, content(4))
        # The older head ends, in time, and says nothing to any node any more.
        delete("a", 30)
        if new.read(0, DATA) != content(4):
            fail("something of the older head has landed")
    stop("b")
    dst("start", "b")
    delete("b")
    refuse("was removed from storage|was to take the place|does not go on", "assemble", "b", *refused)
    dst("assemble", "b", *reversed(members))
    with Direct("/dev/dst-b") as new:
        if new.read(0, DATA) != content(4):
            fail("what was written is not there any more")
    delete("b")


def test_takeover():
    """Another head takes over while data are copied, and amid the switch: then either node may be the one that counts."""
    run("modprobe", "brd", "rd_nr=3", f"rd_size={SIZE // KIB}")
    run("modprobe", "dm_mod")
    tail = Tail()
    tail.create()
    for number, disk in (1, "/dev/ram0"), (2, "/dev/mapper/two"), (3, "/dev/ram2"):
        dst("export", ("one", "two", "three")[number - 1], disk, "--listen", f"127.0.0.1:1090{number}")
    takeover(tail, False, (ONE, TWO), (THREE, TWO))
    takeover(tail, True, (ONE, TWO), (THREE, TWO))
    takeover(tail, True, (THREE, TWO), (ONE, TWO))
    dst("unexport", "--all")
    tail.remove()


load()
main(test_new_node_fails, test_takeover)
