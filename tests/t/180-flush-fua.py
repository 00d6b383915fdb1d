#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 300
"""What was flushed is at every node; FUA, flushes before data, and the errors of all of that."""

import os
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.environ["TESTS"])
from lib import *
import nbdserver as nbd
from nbdserver import Server

MIB = 1 << 20
port = 11800

load()


class Volatile(Server):
    """A server with a cache that a cut of power empties."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.stable = bytearray(self.size)
        self.cached = []
        self.order = threading.Lock()

    def apply(self, request):
        with self.order:
            error, data = super().apply(request)
            if error:
                return error, data
            if request.command in (nbd.WRITE, nbd.TRIM, nbd.ZEROES):
                new = request.data if request.command == nbd.WRITE else bytes(request.length)
                if request.flags & nbd.CMD_FUA:
                    self.stable[request.offset : request.offset + len(new)] = new
                    # An older write of the same place must not come up again with a later flush.
                    self.cached.append((request.offset, new))
                else:
                    self.cached.append((request.offset, new))
            elif request.command == nbd.FLUSH:
                for offset, new in self.cached:
                    self.stable[offset : offset + len(new)] = new
                self.cached.clear()
            return error, data

    def cut(self):
        """The power fails, and comes back."""
        with self.order:
            lost = len(self.cached)
            self.cached.clear()
            self.memory[:] = self.stable
            return lost


def make(name, sizes, flags=None, kind=Server):
    """A storage of as many servers."""
    global port
    servers = []
    for i, size in enumerate(sizes):
        port += 1
        servers.append(kind(size, port, flags[i] if flags else nbd.ALL_FLAGS).start())
    dst("create", "--no-metadata", name, *[f"localhost:{s.port}" for s in servers], "--start-array")
    # What reads the partition table, and udev, are done.
    run("udevadm", "settle")
    return servers


def end(name, servers):
    delete(name)
    for server in servers:
        server.stop()
        if server.complaints:
            fail(f"{name}: {server.complaints}")


def commands(server, since=0):
    return [r.command for r in server.log[since:] if r.command in (nbd.WRITE, nbd.FLUSH, nbd.TRIM, nbd.ZEROES)]


def marks(servers):
    return [len(s.log) for s in servers]


def test_flush_reaches_the_dirty():
    servers = make("f", [MIB] * 3)
    with Direct("/dev/dst-f") as disk:
        for touched in [0], [1], [2], [0, 2], [0, 1, 2], [1]:
            since = marks(servers)
            for i in touched:
                disk.write(i * MIB + 8192, os.urandom(4096))
            disk.flush()
            for i in touched:
                if commands(servers[i], since[i])[-2:] != [nbd.WRITE, nbd.FLUSH]:
                    fail(f"written to {touched}; at node {i}: {servers[i].log[since[i]:]}")
        # A write across a boundary dirties both; so do discards and zeroes.
        for command in (
            lambda: disk.write(MIB - 512, os.urandom(1024)),
            lambda: run("blkdiscard", "--offset", MIB - 4096, "--length", 8192, "/dev/dst-f"),
            lambda: run("blkdiscard", "--zeroout", "--offset", MIB - 4096, "--length", 8192, "/dev/dst-f"),
        ):
            since = marks(servers)
            command()
            disk.flush()
            for i in 0, 1:
                if len(commands(servers[i], since[i])) < 2 or commands(servers[i], since[i])[-1] != nbd.FLUSH:
                    fail(f"at node {i}: {servers[i].log[since[i]:]}")
        # Reads dirty nothing, and what a flush has covered needs no other one.
        disk.flush()
        since = marks(servers)
        disk.read(0, 65536)
        disk.flush()
        if any(nbd.FLUSH in commands(s, n) for s, n in zip(servers, since)):
            fail("flushed without need")
        # A write that comes while a flush is under way needs the next one.
        gate = threading.Event()
        servers[0].on_request = lambda c, r: r.command == nbd.FLUSH and gate.wait() and False
        disk.write(0, os.urandom(512))
        since = marks(servers)
        flush = threading.Thread(target=disk.flush)
        flush.start()
        wait_until(10, lambda: commands(servers[0], since[0]) == [nbd.FLUSH], "the flush is under way")
        threading.Timer(0.5, gate.set).start()
        with Direct("/dev/dst-f") as other:
            other.write(8192, os.urandom(512))
            flush.join()
            other.flush()
        servers[0].on_request = None
        if commands(servers[0], since[0]) != [nbd.FLUSH, nbd.WRITE, nbd.FLUSH]:
            fail(f"{servers[0].log[since[0]:]}")
    end("f", servers)


def test_fua():
    """Directly where the server has it, by a flush behind the write where not; both within one write."""
    servers = make("fua", [MIB] * 3, [nbd.ALL_FLAGS, nbd.ALL_FLAGS & ~nbd.SEND_FUA, nbd.ALL_FLAGS & ~nbd.SEND_FLUSH & ~nbd.SEND_FUA])
    # O_DSYNC: the kernel sends a write with FUA, and a flush when that is over.
    with Direct("/dev/dst-fua", os.O_DSYNC) as disk, Direct("/dev/dst-fua") as plain:
        for shift in 0, 512:
            # So that a flush would be seen.
            plain.write(0, os.urandom(512))
            gate = threading.Event()
            servers[1].on_request = lambda c, r: r.command == nbd.FLUSH and gate.wait() and False
            since = marks(servers)
            write = threading.Thread(target=disk.write, args=(MIB - 4096, os.urandom(8192), shift))
            write.start()
            wait_until(10, lambda: nbd.FLUSH in commands(servers[1], since[1]), "the flush behind the write")
            time.sleep(0.3)
            first, second = servers[0].log[since[0] :], servers[1].log[since[1] :]
            if [(r.command, r.flags) for r in first] != [(nbd.WRITE, nbd.CMD_FUA)]:
                fail(f"the server that has FUA got {first}; the write was over before the other server's flush, or not FUA")
            if [(r.command, r.flags) for r in second] != [(nbd.WRITE, 0), (nbd.FLUSH, 0)]:
                fail(f"the server that has none got {second}")
            gate.set()
            write.join(10 * SLOW)
            if write.is_alive() or nbd.FLUSH not in commands(servers[0], since[0]):
                fail("the write does not end with the flush")
            servers[1].on_request = None
        since = marks(servers)
        disk.write(2 * MIB + 4096, os.urandom(4096))
        third = servers[2].log[since[2] :]
        if [(r.command, r.flags) for r in third] != [(nbd.WRITE, 0)]:
            fail(f"the server that has nothing got {third}")
        # An error of that flush is an error of the write; so is one of a write with FUA.
        for i, command in (1, nbd.FLUSH), (1, nbd.WRITE), (0, nbd.WRITE):
            servers[i].on_request = lambda c, r, command=command: (
                r.command == command and (c.send(c.answer(r, nbd.EIO)) or True)
            )
            try:
                disk.write(i * MIB + 65536, os.urandom(512))
                fail("the error was lost")
            except OSError as error:
                if error.errno != 5:
                    raise
            servers[i].on_request = None
    # FUA for zeroes and discards: nothing that isn't advertised (the servers complain of that).
    end("fua", servers)


def test_flush_errors():
    """The error of one node is the error of the flush; the next one asks that node again."""
    servers = make("e", [MIB] * 2)
    with Direct("/dev/dst-e") as disk:
        for bad in 0, 1:
            for error, want in (nbd.EIO, 5), (nbd.ENOSPC, 28):
                servers[bad].on_request = lambda c, r, e=error: r.command == nbd.FLUSH and (c.send(c.answer(r, e)) or True)
                disk.write(MIB - 512, os.urandom(1024))
                try:
                    disk.flush()
                    fail("the error was lost")
                except OSError as oserror:
                    if oserror.errno not in (5, want):
                        raise
                servers[bad].on_request = None
                since = len(servers[bad].log)
                disk.flush()
                if commands(servers[bad], since) != [nbd.FLUSH]:
                    fail("the node that failed was not asked again")
        if node("e", "errors", 0) != 2 or node("e", "errors", 2048) != 2:
            fail("the errors were not counted")
    end("e", servers)


def test_no_flush():
    """A server without flushes gets none, and the others get theirs."""
    servers = make("n", [MIB] * 2, [nbd.ALL_FLAGS & ~nbd.SEND_FLUSH & ~nbd.SEND_FUA, nbd.ALL_FLAGS])
    with Direct("/dev/dst-n") as disk:
        since = marks(servers)
        disk.write(MIB - 512, os.urandom(1024))
        disk.flush()
        if commands(servers[0], since[0]) != [nbd.WRITE]:
            fail(f"{servers[0].log[since[0]:]}")
        if commands(servers[1], since[1]) != [nbd.WRITE, nbd.FLUSH]:
            fail(f"{servers[1].log[since[1]:]}")
    end("n", servers)


def test_flush_of_a_lost_node():
    """A flush waits for a node that is lost, and is sent again; it is no success when the waiting is ended."""
    servers = make("l", [MIB] * 2)
    with Direct("/dev/dst-l") as disk:
        disk.write(0, os.urandom(4096))
        disk.write(MIB, os.urandom(4096))
        held = []
        servers[1].on_request = lambda c, r: r.command == nbd.FLUSH and (held.append(r) or True)
        results = []

        def flush():
            try:
                disk.flush()
                results.append(0)
            except OSError as error:
                results.append(error.errno)

        thread = threading.Thread(target=flush)
        thread.start()
        wait_until(10, lambda: held, "the flush arrives")
        servers[1].drop()
        wait_until(10, lambda: len(held) == 2, "the flush arrives again")
        if results:
            fail("it was over before its answer")
        servers[1].on_request = None
        servers[1].drop()
        thread.join(20 * SLOW)
        if results != [0]:
            fail(f"results {results}")
        disk.write(MIB, os.urandom(4096))
        servers[1].stop()
        wait_state("l", "lost", 2048)
        results.clear()
        thread = threading.Thread(target=flush)
        thread.start()
        time.sleep(1)
        if results:
            fail("a flush of a lost node was over at once")
        dst("fail-now", "l")
        thread.join(10 * SLOW)
        if results != [5]:
            fail(f"results {results}")
        servers[1].start()
        wait_state("l", "up", 2048)
        since = len(servers[1].log)
        disk.flush()
        if commands(servers[1], since) != [nbd.FLUSH]:
            fail("the flush that failed was not made up for")
    end("l", servers)


def holds(server, offset, data):
    """It has that, also if its power fails now."""
    place = slice(offset, offset + len(data))
    if server.memory[place] != data or server.stable[place] != data:
        fail(f"a write with FUA was acknowledged, and what it wrote to {offset} is not there")


def test_power_fails_before_the_flush():
    """FUA by a flush, and the server loses its power between the two: that it flushes later does not bring back the write."""
    (server,) = make("cut", [MIB], [nbd.ALL_FLAGS & ~nbd.SEND_FUA], Volatile)
    with Direct("/dev/dst-cut", os.O_DSYNC) as disk:
        # The flush is under way.
        data, since, resent = os.urandom(8192), len(server.log), node("cut", "resent")
        server.on_request = lambda c, r: r.command == nbd.FLUSH
        write = Aside(disk.write, 65536, data)
        wait_until(10, lambda: commands(server, since) == [nbd.WRITE, nbd.FLUSH], "the flush behind the write")
        server.cut()
        server.on_request = None
        server.drop()
        write.over(30, "the write")
        holds(server, 65536, data)
        if node("cut", "resent") != resent + 1:
            fail(f"{node('cut', 'resent') - resent} requests were sent again, not the write alone")
    end("cut", [server])


def test_power_fails_before_the_flush_is_sent():
    """The same while the flush waits behind what the server does not read; then the write goes first, as it is the oldest."""
    global port
    port += 1
    server = Volatile(32 * MIB, port, nbd.ALL_FLAGS & ~nbd.SEND_FUA)
    server.receive_buffer = 64 << 10
    server.start()
    dst("create", "--no-metadata", "full", f"localhost:{port}", "--start-array")
    run("udevadm", "settle")
    with Direct("/dev/dst-full", os.O_DSYNC) as disk, Direct("/dev/dst-full") as plain:
        answer, gone, since = threading.Event(), threading.Event(), len(server.log)

        def once(connection, request):
            if request.command != nbd.WRITE:
                return False
            error, _ = server.apply(request)
            answer.wait()
            connection.send(connection.answer(request, error))
            gone.wait()
            return True

        server.on_request = once
        data = os.urandom(4096)
        write = Aside(disk.write, 4096, data)
        wait_until(10, lambda: commands(server, since) == [nbd.WRITE], "the write arrives")
        # More than all buffers take.
        others = [Aside(plain.write, i * MIB, bytes([i]) * MIB) for i in range(1, 17)]
        wait_until(20, lambda: node("full", "in_flight") >= 1 + len(others), "the others wait")
        answer.set()
        # If the answer takes longer it is lost, and all is as usual.
        time.sleep(0.5)
        server.on_request = None
        since = len(server.log)
        server.cut()
        server.drop()
        gone.set()
        write.over(60, "the write")
        for other in others:
            other.over(60, "a write behind it")
        holds(server, 4096, data)
        first = server.log[since]
        if (first.command, first.offset) != (nbd.WRITE, 4096):
            fail(f"what was sent again began with {first}, which is newer than the write")
    end("full", [server])


def test_power_fails_before_the_flush_of_a_mirror():
    """The same of all copies at once, of which one is the last in sync."""
    global port
    servers = []
    for _ in range(2):
        port += 1
        servers.append(Volatile(24 * MIB, port, nbd.ALL_FLAGS & ~nbd.SEND_FUA).start())
    dst("create", "m", "--alg", "alg_mirror", *[f"localhost:{s.port}" for s in servers], "--start-array")
    wait_health("m", "healthy")
    run("udevadm", "settle")
    with Direct("/dev/dst-m", os.O_DSYNC) as disk:
        # The log knows the region.
        disk.write(0, os.urandom(4096))
        data, since = os.urandom(8192), marks(servers)
        for server in servers:
            server.on_request = lambda c, r: r.command == nbd.FLUSH
        write = Aside(disk.write, 16384, data)

        def answered(server, since):
            places = [r.offset if r.command == nbd.WRITE else None for r in server.log[since:] if r.command != nbd.READ]
            return 16384 in places and None in places[places.index(16384) :]

        wait_until(20, lambda: all(map(answered, servers, since)), "the flushes behind the writes")
        for server in servers:
            server.cut()
            server.on_request = None
        for server in servers:
            server.drop()
        write.over(60, "the write")
        if disk.read(16384, 8192) != data:
            fail("a write with FUA was acknowledged, and is lost")
        wait_health("m", "healthy")
        for server in servers:
            holds(server, 16384, data)
    end("m", servers)


def test_filesystems():
    """What was synced survives that every server loses all that it had not flushed; flushes come before data."""
    for type in "ext4", "xfs":
        flags = [nbd.ALL_FLAGS, nbd.ALL_FLAGS & ~nbd.SEND_FUA, nbd.ALL_FLAGS]
        # Boundaries in the middle of things.
        servers = make("fs", [24 * MIB + 512, 17 * MIB + 1536, 40 * MIB], flags, Volatile)
        mount = f"{TMP}/mount"
        os.makedirs(mount, exist_ok=True)
        if type == "ext4":
            run("mkfs.ext4", "-q", "-J", "size=4", "/dev/dst-fs")
        else:
            run("mkfs.xfs", "-q", "-f", "--unsupported", "-l", "size=13m", "/dev/dst-fs")
        run("mount", "/dev/dst-fs", mount)
        contents = {}
        for i in range(30):
            name = f"{mount}/dir{i % 3}/file{i}"
            os.makedirs(os.path.dirname(name), exist_ok=True)
            contents[name] = os.urandom(1000 + 40000 * (i % 4))
            with open(name, "wb") as file:
                file.write(contents[name])
                file.flush()
                os.fsync(file.fileno())
            if i % 5 == 0:
                os.rename(name, name + ".renamed")
                contents[name + ".renamed"] = contents.pop(name)
                directory = os.open(os.path.dirname(name), os.O_RDONLY)
                os.fsync(directory)
                os.close(directory)
        # And what nobody asked to be kept.
        for i in range(20):
            with open(f"{mount}/unsynced{i}", "wb") as file:
                file.write(os.urandom(10000))
        # All at once, with nobody there to flush: the mount goes with errors.
        for server in servers:
            server.on_request = lambda c, r: c.close() or True
            server.drop()
        for server in servers:
            server.stop()
        dst("fail-now", "fs")
        wait_until(10, lambda: node("fs", "state") == "failed", "the nodes have failed")
        subprocess.run(["umount", "-f", mount], check=False, timeout=60 * SLOW)
        subprocess.run(["umount", "-l", mount], check=False, stderr=subprocess.DEVNULL)
        delete("fs", 30)
        lost = sum(server.cut() for server in servers)
        for server in servers:
            server.on_request = None
            server.start()
        dst("create", "--no-metadata", "fs", *[f"localhost:{s.port}" for s in servers], "--start-array")
        run("mount", "/dev/dst-fs", mount)
        for name, data in contents.items():
            if open(name, "rb").read() != data:
                fail(f"{type}: {name} is not what was synced")
        run("umount", mount)
        if type == "ext4":
            run("e2fsck", "-fn", "/dev/dst-fs")
        else:
            run("xfs_repair", "-n", "/dev/dst-fs")
        flushes = [sum(r.command == nbd.FLUSH for r in s.log) for s in servers]
        fuas = [sum(r.flags & nbd.CMD_FUA for r in s.log) for s in servers]
        if not flushes[0] or fuas[1]:
            fail(f"flushes {flushes}, FUA {fuas}")
        print(f"[{type}: {lost} writes lost, {flushes} flushes, {fuas} FUA]", end=" ")
        end("fs", servers)


def test_flush_before_data():
    """A journal's commit comes after the flush before it, at every node; looked at in the order of a journal's log."""
    servers = make("j", [20 * MIB, 20 * MIB])
    mount = f"{TMP}/mount"
    os.makedirs(mount, exist_ok=True)
    run("mkfs.ext4", "-q", "-J", "size=4", "/dev/dst-j")
    run("mount", "-o", "commit=600", "/dev/dst-j", mount)
    # Every flush takes time; what is sent with a flush before it must not overtake any of them.
    waiting, broken = {}, []

    def watch(server):
        def on_request(connection, request):
            if request.command == nbd.FLUSH:
                waiting[server] = time.monotonic() + 0.3
                time.sleep(0.3)
                waiting.pop(server, None)
            elif request.command == nbd.WRITE and request.flags & nbd.CMD_FUA and waiting:
                broken.append(request)
            return False

        server.on_request = on_request

    for server in servers:
        watch(server)
    since = marks(servers)
    for i in range(5):
        with open(f"{mount}/file{i}", "wb") as file:
            file.write(os.urandom(5 * MIB))
            file.flush()
            os.fsync(file.fileno())
    fuas = sum(r.flags & nbd.CMD_FUA for s, n in zip(servers, since) for r in s.log[n:])
    flushes = [commands(s, n).count(nbd.FLUSH) for s, n in zip(servers, since)]
    if not fuas or not all(flushes):
        fail(f"nothing to look at: {fuas} FUA, {flushes} flushes")
    if broken:
        fail(f"commit blocks were sent while a flush before them was under way: {broken[:5]}")
    for server in servers:
        server.on_request = None
    run("umount", mount)
    end("j", servers)


main(
    test_flush_reaches_the_dirty,
    test_fua,
    test_flush_errors,
    test_no_flush,
    test_flush_of_a_lost_node,
    test_power_fails_before_the_flush,
    test_power_fails_before_the_flush_is_sent,
    test_power_fails_before_the_flush_of_a_mirror,
    test_flush_before_data,
    test_filesystems,
)
