#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 300
"""A server without a fence does what a dead connection had asked for: no newer write is undone by that, as newer ones of
the same place wait for a time. Nothing else does."""

import os
import struct
import sys
import time

sys.path.insert(0, os.environ["TESTS"])
from lib import *
import nbdserver as nbd
from nbdserver import Server

MIB = 1 << 20
KIB = 1 << 10
EIO = 5
# Seconds: QUIET_MS. A clock of the kernel that ticks 100 times a second is that much behind, at most.
QUIET = 5 - 0.02
# What has to happen within that time may be too slow once.
TRIES = 5
CHANGES = nbd.WRITE, nbd.TRIM, nbd.ZEROES

load()


class Late(Server):
    """A server that keeps some requests to itself, without an answer, and does them when it is told to."""

    def __init__(self, port, size=MIB):
        super().__init__(size, port)
        # Places whose next change is kept; what was kept; when that was done.
        self.keep, self.kept, self.late_at = set(), [], None
        # When each connection was told the last word of its handshake: the client can't have used it before.
        self.opened = {}
        self.on_connect, self.on_request = self.greet, self.request
        self.start()

    def greet(self, connection):
        def send(data):
            self.opened[connection.number] = time.monotonic()
            connection.send(data)

        connection.handshake(send)
        return True

    def request(self, _, request):
        if request.command not in CHANGES or request.offset not in self.keep:
            return False
        self.keep.remove(request.offset)
        self.kept.append(request)
        return True

    def receive(self, *acts):
        """Gets requests that it does not answer, each by a function and the offset that this is called with."""
        self.kept.clear()
        asides = []
        for act, offset, *more in acts:
            self.keep.add(offset)
            asides.append(Aside(act, offset, *more))
            wait_until(20, lambda: offset not in self.keep, f"a request for {offset} arrives")
        return asides

    def do_late(self):
        for request in self.kept:
            self.apply(request)
        self.late_at = time.monotonic()

    def mark(self):
        return len(self.log)

    def changes(self, since, offset, length):
        """The requests that have changed something there."""
        ends = offset + length
        return [r for r in self.log[since:] if r.command in CHANGES and r.offset < ends and offset < r.offset + r.length]

    def check_held(self, since, offset, length):
        """The changes there since then, each of which has come a quiet time after the next connection. `None`: they were too
        early for the late write (which the machine has taken too long for)."""
        found = self.changes(since, offset, length)
        if not found:
            fail(f"nothing was written to {offset}")
        opened = min(time for number, time in self.opened.items() if number > self.kept[0].connection)
        for request in found:
            after = request.time - opened
            if after < QUIET:
                fail(f"{request} came {after:.2f} s after the next connection, and is newer than a late write")
        return found if min(request.time for request in found) > self.late_at else None


def held(name, start=0):
    """Requests that wait now, and how often one did."""
    now, total = re.fullmatch(r"now (\d+) total (\d+)", node(name, "held", start)).groups()
    return int(now), int(total)


def wait_held(name, asides):
    """Each of them is held, or over. `False`: some are over already."""
    wait_until(20, lambda: held(name)[0] >= sum(aside.seconds is None for aside in asides), f"{len(asides)} requests are held")
    return held(name)[0] == len(asides)


def until_conclusive(test):
    """Runs it until all that has to happen within the quiet time did, which it says."""
    for _ in range(TRIES):
        if test():
            return
    fail(f"{TRIES} times what should happen within {QUIET} s took longer")


class Bench:
    """A storage of one such server."""

    def __init__(self, name, port, prepare=None):
        self.name, self.server = name, Late(port)
        if prepare:
            prepare(self.server)
        dst("create", "--no-metadata", name, f"localhost:{port}", "--start-array")
        run("udevadm", "settle")
        self.disk = Direct(f"/dev/dst-{name}")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.disk.close()
            delete(self.name)
            self.server.stop()
            if self.server.complaints:
                fail(f"{self.server.complaints}")

    def write(self, offset, letter, length=8 * KIB):
        self.disk.write(offset, letter * length)

    def discard(self, offset, *options):
        run("blkdiscard", "--force", *options, "--offset", offset, "--length", 8 * KIB, f"/dev/dst-{self.name}")

    def zero(self, offset):
        self.discard(offset, "--zeroout")

    def data(self, offset, length=8 * KIB):
        return bytes(self.server.memory[offset : offset + length])

    def lose(self, *acts):
        """The connection is lost with these requests on it; on the next one they are done. Gives a mark in the log."""
        asides = self.server.receive(*acts)
        count, since = self.server.count, self.server.mark()
        self.server.drop()
        for aside in asides:
            aside.over(20, "a request that is sent again")
        again = [r for r in self.server.log[since:] if r.command in CHANGES]
        if [(r.command, r.offset, r.length, r.data) for r in again] != [
            (r.command, r.offset, r.length, r.data) for r in self.server.kept
        ]:
            fail(f"{self.server.kept} was sent again as {again}")
        if self.server.count == count:
            fail("there is no new connection")
        return self.server.mark()


def test_newer_waits():
    """Newer changes of the place wait; others, reads and flushes don't. In the end the newest is there."""
    with Bench("late", 12001) as b:
        a, c, d, elsewhere = 64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB
        # Each kind, as the old one and as the newer one. (The ioctls for discard and zeroes exclude each other.)
        rounds = [
            [(b.write, a, b"o"), (b.write, c, b"o"), (b.discard, d)],
            [(b.write, a, b"n"), (b.write, d, b"n"), (b.zero, c)],
            {a: b"n", c: b"\0", d: b"n"},
        ], [
            [(b.write, a, b"o"), (b.write, c, b"o"), (b.zero, d)],
            [(b.write, a, b"n"), (b.write, d, b"n"), (b.discard, c)],
            {a: b"n", c: b"\0", d: b"n"},
        ]

        def once(old, newer, result):
            since = b.lose(*old)
            asides = [Aside(*act) for act in newer]
            inside = wait_held("late", asides)
            b.write(elsewhere, b"e")
            b.disk.flush()
            if inside and b.disk.read(a, 8 * KIB) != b"o" * 8 * KIB:
                fail("what was sent again is not there")
            b.server.do_late()
            for aside in asides:
                aside.over(30, "a newer request")
            # All is over before anything is found to be wrong with it.
            found = [b.server.check_held(since, offset, 8 * KIB) for offset in result]
            for offset, letter in result.items():
                if b.data(offset) != letter * 8 * KIB:
                    fail(f"at {offset}: the late request has undone the newer one")
            if not inside or None in found:
                return False
            first = min(requests[0].time for requests in found)
            passed = [r for r in b.server.log[since:] if r.time < first]
            for command in nbd.READ, nbd.FLUSH, nbd.WRITE:
                if command not in [r.command for r in passed]:
                    fail(f"a {nbd.COMMANDS[command]} of another kind or place has waited, too: {b.server.log[since:]}")
            return True

        for words in rounds:
            until_conclusive(lambda: once(*words))
        if held("late")[0] or held("late")[1] < 6:
            fail(f"held: {node('late', 'held')}")
        # The time is over: nothing waits any more.
        total = held("late")[1]
        b.write(a, b"x")
        if held("late") != (0, total):
            fail("it waited again")


def test_partly():
    """What overlaps in part waits, and what is newer than that behind it; also if the connection is lost again."""
    with Bench("part", 12002) as b:

        def once():
            since = b.lose((b.write, 16 * KIB, b"o"))
            asides = []
            for offset, letter in (20 * KIB, b"p"), (24 * KIB, b"q"), (28 * KIB, b"r"):
                asides.append(Aside(b.write, offset, letter))
                wait_held("part", asides)
            # Its neighbour, and one beside all.
            b.write(8 * KIB, b"l")
            b.write(36 * KIB, b"m")
            inside = held("part")[0] == 3
            count = b.server.count
            b.server.drop()
            wait_until(20, lambda: b.server.count > count and node("part", "state") == "up", "there is another connection")
            b.write(44 * KIB, b"k")
            # It was behind them in the queue, and has passed them.
            inside = inside and held("part")[0] == 3
            b.server.do_late()
            for aside in asides:
                aside.over(30, "a newer write")
            found = b.server.check_held(since, 16 * KIB, 20 * KIB)
            want = b"l" * 8 + b"o" * 4 + b"p" * 4 + b"q" * 4 + b"r" * 8 + b"m" * 8 + b"k" * 8
            if b.data(8 * KIB, 44 * KIB)[:: KIB] != want:
                fail(f"in the end there is {b.data(8 * KIB, 44 * KIB)[::KIB]}")
            if not found or not inside:
                return False
            letters = [r.data[:1] for r in b.server.log[since:] if r.command == nbd.WRITE]
            if letters != [b"l", b"m", b"k", b"p", b"q", b"r"]:
                fail(f"the order is {letters}")
            return True

        until_conclusive(once)


def test_ended():
    """The old write has ended with an error: the newer one waits all the same. And that can be ended, too."""
    with Bench("end", 12003) as b:

        def once():
            (aside,) = b.server.receive((b.write, 0, b"o"))
            dst("fail-now", "end", "n-0")
            aside.over(20, "fail-now", EIO)
            wait_state("end", "up")
            since, count, losses = b.server.mark(), b.server.count, node("end", "reconnects")
            limited = Aside(b.write, 0, b"1")
            inside = wait_held("end", [limited])
            dst("set", "end", "timeout=500ms")
            limited.join(20 * SLOW)
            dst("set", "end", "timeout=wait")
            failed = Aside(b.write, 4 * KIB, b"2")
            inside = inside and limited.error and wait_held("end", [failed])
            dst("fail-now", "end", "n-0")
            failed.join(20 * SLOW)
            newer = Aside(b.write, 0, b"n", 4 * KIB)
            inside = inside and failed.error and wait_held("end", [newer])
            b.server.do_late()
            newer.over(30, "the newer write")
            found = b.server.check_held(since, 0, 4 * KIB)
            if b.data(0, 4 * KIB) != b"n" * 4 * KIB:
                fail("the late write has undone the newer one")
            if not found or not inside:
                return False
            for aside in limited, failed:
                aside.over(0, "a write that is held", EIO)
            if [r.data[:1] for r in found] != [b"n"]:
                fail(f"what has ended was sent: {found}")
            # The server had no part in that.
            if b.server.count != count or node("end", "reconnects") != losses or node("end", "state") != "up":
                fail("the connection was given up for what was held")
            return True

        until_conclusive(once)


def test_fence():
    """A server that has taken the fence is done with it; one that comes after it without a fence may be another one."""
    fence = lambda c, option, data: option == nbd.OPT_DST and not c.send(
        c.option(option, nbd.REP_DST, struct.pack(">IIQ", 1, 0, 1)) + c.option(option, 1))
    with Bench("fence", 12004, lambda server: setattr(server, "on_option", fence)) as b:
        assert node("fence", "fenced") == 1
        b.lose((b.write, 0, b"o"))
        b.write(0, b"n")
        if held("fence") != (0, 0):
            fail(f"held: {node('fence', 'held')}")

        def once():
            b.server.on_option = fence
            b.server.drop()
            wait_until(20, lambda: node("fence", "fenced") == 1 and node("fence", "state") == "up", "it has a fence")
            asides = b.server.receive((b.write, 0, b"o"))
            b.server.on_option = None
            b.server.drop()
            asides[0].over(20, "the write that is sent again")
            assert node("fence", "fenced") == 0
            since = b.server.mark()
            newer = Aside(b.write, 0, b"n")
            inside = wait_held("fence", [newer])
            b.server.do_late()
            newer.over(30, "the newer write")
            return b.server.check_held(since, 0, 8 * KIB) and inside

        until_conclusive(once)


def test_mirror():
    """A copy that has left with a write on its way, and comes back: what heals it waits, too, and makes it equal."""
    servers = [Late(port, 16 * MIB) for port in (12005, 12006)]
    good, bad = servers
    dst("create", "mirror", "--alg", "alg_mirror", "localhost:12005", "localhost:12006", "--start-array")
    wait_health("mirror", "healthy")
    place, length = 256 * KIB, 8 * KIB
    start = copy_of("mirror", ":12006")
    with Direct("/dev/dst-mirror") as disk:
        def once():
            losses = node("mirror", "reconnects", start)
            (aside,) = bad.receive((disk.write, place, b"o" * length))
            since = bad.mark()
            bad.drop()
            aside.over(20, "the write, on one copy")
            wait_state("mirror", "up", start)
            wait_until(60, lambda: held("mirror", start)[0] or bad.changes(since, place, length), "the copy is healed")
            bad.do_late()
            newer = Aside(disk.write, place, b"n" * length)
            newer.over(60, "the newer write")
            wait_health("mirror", "healthy")
            found = bad.check_held(since, place, length)
            copies = [bytes(server.memory[place : place + length]) for server in servers]
            if copies != [b"n" * length] * 2:
                fail(f"the copies hold {[copy[:1] for copy in copies]}")
            # It is not taken for a server that does not answer.
            if node("mirror", "reconnects", start) != losses + 1:
                fail("the copy has left again")
            return found

        until_conclusive(once)
    delete("mirror")
    for server in servers:
        server.stop()
        if server.complaints:
            fail(f"{server.complaints}")


def test_mirror_ends():
    """A copy is removed, or the mirror deleted, while what heals the copy is held: that ends in time, and then all is over."""

    def once(port, act):
        servers = [Late(port, 16 * MIB), Late(port + 1, 16 * MIB)]
        bad, place, length = servers[1], 256 * KIB, 8 * KIB
        dst("create", "held", "--alg", "alg_mirror", f"localhost:{port}", f"localhost:{port + 1}", "--start-array")
        wait_health("held", "healthy")
        start = copy_of("held", f":{port + 1}")
        with Direct("/dev/dst-held") as disk:
            (aside,) = bad.receive((disk.write, place, b"o" * length))
            since = bad.mark()
            bad.drop()
            aside.over(20, "the write, on one copy")
        wait_until(60, lambda: held("held", start)[0] or bad.changes(since, place, length), "the copy is healed")
        if act == "unanswered":
            # When its time has come the server says nothing.
            bad.keep.add(place)
        inside = held("held", start)[0] != 0
        if act == "delete":
            Aside(delete, "held").over(30, "dst delete when a write is held")
        else:
            Aside(dst, "remove", "held", f"localhost:{port + 1}").over(30, "dst remove when a write is held")
        end = bad.mark()
        if act != "delete":
            wait_health("held", "healthy")
            with Direct("/dev/dst-held") as disk:
                disk.write(place, b"n" * length)
                disk.flush()
                if disk.read(place, length) != b"n" * length:
                    fail("the mirror does not go on")
            delete("held")
        wait_until(20, lambda: not bad.connections, "the server is left alone")
        if bad.changes(end, 0, 16 * MIB):
            fail(f"{act}: after the end the server is asked for {bad.changes(end, 0, 16 * MIB)}")
        if act == "remove" and any(bad.memory[-8 * KIB :]):
            fail("the superblocks are not erased")
        for server in servers:
            server.stop()
            if server.complaints:
                fail(f"{server.complaints}")
        return inside

    for port, act in (12021, "remove"), (12023, "unanswered"), (12025, "delete"):
        start = time.monotonic()
        until_conclusive(lambda: once(port, act))
        print(f"[{act}: {time.monotonic() - start:.1f} s]", end=" ", flush=True)


main(
    test_newer_waits,
    test_partly,
    test_ended,
    test_fence,
    test_mirror,
    test_mirror_ends,
)
