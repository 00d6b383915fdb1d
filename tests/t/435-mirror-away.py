#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 300
"""Reads of what is being written: they don't turn back. While the last copy of a mirror is away they are served from the write."""

import os
import signal
import sys
import threading

sys.path.insert(0, os.environ["TESTS"])
import nbdserver as nbd
from lib import *

SECTORS = 16 * 2048
DATA = mirror_sectors(SECTORS)
SIZE = 65536
AT = 1 << 20
EIO = 5


def make(name, *nodes):
    dst("create", name, "--alg", "alg_mirror", *nodes, "--start-array")
    wait_health(name, "healthy", 10)
    return Direct(f"/dev/dst-{name}")


def halt(server):
    server.process.send_signal(signal.SIGSTOP)


def data():
    return os.urandom(SIZE)


def part(whole, offset, length):
    return whole[offset : offset + length]


def in_flight(name, port, count):
    copy = copy_of(name, f":{port}")
    wait_until(20, lambda: node(name, "in_flight", copy) >= count, f"{count} requests are at :{port}")


def shows(direct, expected, never=(), offset=AT, seconds=30):
    """A read gives that, in time. One that began before the loss was noticed may wait with it."""

    def served():
        read = Aside(direct.read, offset, len(expected))
        read.join(2 * SLOW)
        if read.result in never:
            fail("a read has turned back")
        return read.result == expected

    wait_until(seconds, served, "a read is served from the write")


class Readers(threading.Thread):
    """Reads again and again, and wants to see the same each time."""

    def __init__(self, direct, expected):
        super().__init__(daemon=True)
        self.direct, self.expected = direct, expected
        self.count, self.wrong, self.go = 0, 0, True
        self.start()

    def run(self):
        while self.go:
            self.wrong += self.direct.read(AT, SIZE) != self.expected
            self.count += 1

    def end(self):
        self.go = False
        self.join(30 * SLOW)
        if self.is_alive() or self.wrong:
            fail(f"of {self.count} reads {self.wrong} did not give what an earlier one had shown")


def on_disk(server, offset, expected):
    with open(server.path, "rb") as file:
        file.seek(offset)
        if file.read(len(expected)) != expected:
            fail("the server has something else")


class Gate(nbd.Server):
    """A server that does, and answers, writes of one place only when it is told to."""

    def __init__(self, port):
        super().__init__(SECTORS * 512, port)
        self.shut, self.kept = False, []
        self.on_request = self.keep
        self.start()

    def keep(self, connection, request):
        if not self.shut or request.command != nbd.WRITE or request.offset != AT:
            return False
        self.kept.append((connection, request))
        return True

    def open(self):
        self.shut = False
        while self.kept:
            self.serve(*self.kept.pop(0))


def test_beside():
    """Both copies are there: reads beside a write give what was before or what comes, and do not turn back."""
    for first in 0, 1:
        servers = [Gate(12411), Gate(12412)]
        direct = make("side", "localhost:12411", "localhost:12412")
        # Else one copy might be idle, and asked only for that reason.
        dst("set", "side", "read-policy=round-robin")
        old, new = data(), data()
        direct.write(AT, old)
        for server in servers:
            server.shut = True
        overlaps, waits = storage("side", "read_overlaps"), storage("side", "log_waits")
        write = Aside(direct.write, AT, new)
        wait_until(20, lambda: all(server.kept for server in servers), "the write is under way on both copies")
        if storage("side", "log_waits") != waits:
            fail("the write waits for the log")
        seen = [Aside(direct.read, AT, SIZE).over(20, "a read beside a write") for _ in range(6)]
        # One copy has it, then both; from the first read of it on there is nothing else.
        for server in servers[first], servers[1 - first]:
            if write.seconds is not None:
                fail("a write was acknowledged that not all copies have")
            server.open()
            seen += [Aside(direct.read, AT, SIZE).over(20, "a read beside a write") for _ in range(6)]
        write.over(20, "the write")
        seen.append(direct.read(AT, SIZE))
        kinds = "".join({old: "o", new: "n"}.get(it, "?") for it in seen)
        if not re.fullmatch("o{6,}n{7,}", kinds):
            fail(f"reads of old and new data, in order: {kinds}")
        if storage("side", "read_overlaps") < overlaps + 12:
            fail(f"read_overlaps: {overlaps} before, {storage('side', 'read_overlaps')} after 12 reads")
        overlaps = storage("side", "read_overlaps")
        for server in servers:
            if bytes(server.memory[AT : AT + SIZE]) != new:
                fail("a copy has something else")
        # Beside it, and behind it, nothing is counted.
        direct.read(AT + SIZE, SIZE)
        direct.read(AT, SIZE)
        if storage("side", "read_overlaps") != overlaps:
            fail("a read is counted that overlaps no write")
        direct.close()
        delete("side")
        for server in servers:
            server.stop()
            if server.complaints:
                fail(f"{server.complaints}")


def test_cut():
    """A write was sent, then the connection is lost."""
    server = Daemon(12401, SECTORS)
    direct = make("away", "localhost:12401")
    old, new, newer = data(), data(), data()
    direct.write(AT, old)
    waits, held = storage("away", "log_waits"), storage("away", "read_held")
    halt(server)
    write = Aside(direct.write, AT, new)
    in_flight("away", 12401, 1)
    if storage("away", "log_waits") != waits:
        fail("the write waits for the log, so it is none that was sent")
    server.kill()
    wait_state("away", "lost", copy_of("away", ":12401"))
    shows(direct, new)
    # It has been noticed: nothing waits any more.
    if Aside(direct.read, AT + 12288, 8192).over(10, "a read of a part of it") != part(new, 12288, 8192):
        fail("a part of it is wrong")
    if storage("away", "read_held") < held + 2:
        fail(f"read_held: {held} before, {storage('away', 'read_held')} after two reads")
    # What nobody has in memory waits, and so does what only begins in it.
    none, more = Aside(direct.read, 0, 4096), Aside(direct.read, AT + SIZE - 4096, 8192)
    # A newer one hides it.
    last = Aside(direct.write, AT, newer)
    shows(direct, newer, (old,))
    time.sleep(2)
    for aside in write, none, more, last:
        if aside.seconds is not None:
            fail("something was answered that only the copy has")
    readers = Readers(direct, newer)
    wait_until(20, lambda: readers.count > 20, "reads keep working")
    server.start()
    write.over(30, "the write")
    last.over(30, "the write behind it")
    none.over(30, "a read of something else")
    if more.over(30, "a read that begins in it") != part(newer, SIZE - 4096, 4096) + bytes(4096):
        fail("a read that waited is wrong")
    seen = readers.count
    wait_until(20, lambda: readers.count > seen + 20, "reads go on")
    readers.end()
    on_disk(server, AT, newer)
    held = storage("away", "read_held")
    if direct.read(AT, SIZE) != newer or storage("away", "read_held") != held:
        fail("a read was not served by the copy")
    direct.close()
    delete("away")
    server.kill()


def test_log():
    """The first write to a region waits for the log, which waits for the copy."""
    server = Daemon(12402, SECTORS)
    direct = make("log", "localhost:12402")
    server.kill()
    wait_state("log", "lost", copy_of("log", ":12402"))
    waits, new = storage("log", "log_waits"), data()
    write = Aside(direct.write, AT, new)
    wait_until(20, lambda: storage("log", "log_waits") > waits, "the write waits for the log")
    shows(direct, new)
    readers = Readers(direct, new)
    server.start()
    write.over(30, "the write")
    readers.end()
    on_disk(server, AT, new)
    direct.close()
    delete("log")
    server.kill()


def test_silent():
    """The server is there, and does not answer."""
    server = Daemon(12403, SECTORS)
    direct = make("mute", "localhost:12403")
    old, new = data(), data()
    direct.write(AT, old)
    halt(server)
    write = Aside(direct.write, AT, new)
    shows(direct, new, seconds=60)
    if node("mute", "state", copy_of("mute", ":12403")) != "up" or write.seconds is not None:
        fail("the server was not silent")
    readers = Readers(direct, new)
    wait_until(20, lambda: readers.count > 20, "reads keep working")
    server.process.send_signal(signal.SIGCONT)
    write.over(30, "the write")
    readers.end()
    on_disk(server, AT, new)
    # The same when it is suspended: that need not be noticed first.
    halt(server)
    newer = data()
    write = Aside(direct.write, AT, newer)
    in_flight("mute", 12403, 1)
    dst("suspend", "mute", "localhost:12403")
    if Aside(direct.read, AT, SIZE).over(5, "a read while the copy is suspended") != newer:
        fail("it is not what was written")
    server.process.send_signal(signal.SIGCONT)
    write.over(30, "a write that was sent before")
    dst("resume", "mute", "localhost:12403")
    if Aside(direct.read, AT, SIZE).over(20, "a read") != newer:
        fail("a read has turned back")
    direct.close()
    delete("mute")
    server.kill()


def test_last_of_two():
    """One copy has left, the other one is away; the one that is behind is back before it."""
    servers = [Daemon(12404, SECTORS), Daemon(12405, SECTORS)]
    direct = make("two", "localhost:12404", "localhost:12405")
    old, new = data(), data()
    direct.write(AT, old)
    servers[0].kill()
    direct.write(AT, old)
    wait_role("two", ":12404", "missing")
    halt(servers[1])
    write = Aside(direct.write, AT, new)
    in_flight("two", 12405, 1)
    servers[1].kill()
    wait_state("two", "lost", copy_of("two", ":12405"))
    shows(direct, new)
    readers = Readers(direct, new)
    servers[0].start()
    wait_state("two", "up", copy_of("two", ":12404"))
    seen = readers.count
    wait_until(20, lambda: readers.count > seen + 20, "reads keep working")
    time.sleep(2)
    if write.seconds is not None:
        fail("a write was acknowledged without the last copy")
    servers[1].start()
    write.over(30, "the write")
    wait_health("two", "healthy")
    readers.end()
    for server in servers:
        on_disk(server, AT, new)
    oracle("equal", DATA, "/dev/dst-two", *[server.path for server in servers])
    direct.close()
    delete("two")
    for server in servers:
        server.kill()


def test_given_up():
    """The waiting is ended: the write fails, and nobody is served from it, or waits for it, any more."""
    server = Daemon(12406, SECTORS)
    direct = make("fail", "localhost:12406")
    old, new = data(), data()
    direct.write(AT, old)
    server.kill()
    wait_state("fail", "lost", copy_of("fail", ":12406"))
    write = Aside(direct.write, AT, new)
    shows(direct, new)
    more = Aside(direct.read, AT + SIZE - 4096, 8192)
    dst("fail-now", "fail")
    write.over(30, "the write", EIO)
    more.over(30, "a read that waited for it", EIO)
    Aside(direct.read, AT, SIZE).over(30, "a read after that", EIO)
    server.start()
    wait_state("fail", "up", copy_of("fail", ":12406"))
    held = storage("fail", "read_held")
    # It had not been sent.
    if Aside(direct.read, AT, SIZE).over(30, "a read") != old or storage("fail", "read_held") != held:
        fail("a write that failed is served")
    direct.write(AT, new)
    on_disk(server, AT, new)
    direct.close()
    delete("fail")
    server.kill()


def test_zeroes_that_nobody_wrote():
    """One copy can't write zeroes by a command, and the other one fails to: they must not be taken for written."""
    unable, failing = (nbd.Server(SECTORS * 512, port).start() for port in (12511, 12512))
    direct = make("zero", "localhost:12511", "localhost:12512")
    direct.write(AT, data())

    def answers(server, error):
        def act(connection, request):
            wanted = request.command == nbd.ZEROES
            return wanted and (connection.send(connection.answer(request, error)) or True)

        server.on_request = act

    answers(unable, 95)
    answers(failing, EIO)
    run("blkdiscard", "--zeroout", "--offset", AT, "--length", SIZE, "/dev/dst-zero")
    if direct.read(AT, SIZE) != bytes(SIZE):
        fail("zeroes were acknowledged that are not there")
    if not storage("zero", "left"):
        fail("the copy that failed has not left, so nothing was tried")
    failing.on_request = None
    wait_health("zero", "healthy")
    for server in unable, failing:
        if server.memory[AT : AT + SIZE] != bytes(SIZE):
            fail("a copy lacks the zeroes")
    direct.close()
    delete("zero")
    for server in unable, failing:
        server.stop()


load()
main(test_beside, test_cut, test_log, test_silent, test_last_of_two, test_given_up, test_zeroes_that_nobody_wrote)
