#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 300
"""Fences: nothing of an older connection, or of an older head, lands after something of a newer one."""

import contextlib
import os
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.environ["TESTS"])
import nbdserver
import rawnbd as nbd
from lib import *
from nbdserver import Server
from rawnbd import Client, Gone

SIZE = 16 << 20
DIRECTORY = "/sys/class/misc/dst/exports/disk/"
STORAGE, HEAD, OTHER = b"s" * 16, b"h" * 16, b"o" * 16


def shown(name):
    """A number in the export's directory."""
    with open(DIRECTORY + name, encoding="ascii") as file:
        return int(file.read())


@contextlib.contextmanager
def exported(disk, *options):
    """An export of a disk."""
    dst("export", "disk", disk, "--listen", "127.0.0.1:10809", *options)
    try:
        yield
    finally:
        dst("unexport", "disk")


@contextlib.contextmanager
def stuck_disk():
    """A disk that can be stopped; gives functions that do that and undo it."""
    subprocess.run(["dmsetup", "create", "stuck"], check=True, text=True, input=f"0 {SIZE // 512} linear /dev/ram0 0\n")
    resume = lambda: run("dmsetup", "resume", "stuck")
    try:
        yield lambda: run("dmsetup", "suspend", "--nolockfs", "stuck"), resume
    finally:
        resume()
        wait_until(10, lambda: subprocess.run(["dmsetup", "remove", "stuck"], check=False).returncode == 0, "dmsetup remove")


def is_newest(replies, epoch):
    """Whether these are the replies to the newest head."""
    return replies == [(nbd.DST, struct.pack(">IIQ", 1, 0, epoch)), (nbd.ACK, b"")]


def is_refused(replies, epoch):
    """Whether these are the replies to one of whom a newer one has taken over."""
    (first, newest), (second, text) = replies
    return ((first, newest, second) == (nbd.DST, struct.pack(">IIQ", 1, 0, epoch), nbd.ERR_POLICY)
            and text.decode() == f"another head has taken over this storage (epoch {epoch})")


def claim(c, head=HEAD, epoch=1, storage=STORAGE):
    """Says who the client is, after the greeting; gives all replies."""
    return c.negotiate(nbd.DST, c.fence(storage, head, epoch))


def connect(head=HEAD, epoch=1, storage=STORAGE, transmission=True):
    """A client that is the newest head."""
    c = Client()
    c.greet()
    replies = claim(c, head, epoch, storage)
    assert is_newest(replies, epoch), replies
    if transmission:
        assert c.negotiate(nbd.GO, c.named("disk"))[-1][0] == nbd.ACK
    return c


def test_newest_head():
    """Who is older is refused, who is as new or newer ends the older ones; others and their storages don't matter."""
    with exported("/dev/ram0"):
        plain = Client()
        plain.go("disk")
        other = connect(HEAD, 1, b"t" * 16)
        first = connect(HEAD, 5)
        first.write(0, b"1" * 4096)
        with Client() as c:
            c.greet()
            assert is_refused(claim(c, OTHER, 4), 5)
            assert is_refused(claim(c, HEAD, 4), 5)
            # They did not know of each other.
            assert is_refused(claim(c, OTHER, 5), 5)
            # The connection goes on.
            assert c.negotiate(nbd.LIST)[-1][0] == nbd.ACK
        assert first.read(0, 4096) == b"1" * 4096
        second = connect(HEAD, 5)
        assert first.is_gone()
        # One that has not chosen the export yet is ended, too.
        third = connect(HEAD, 5, transmission=False)
        assert second.is_gone()
        fourth = connect(HEAD, 5)
        assert third.is_gone()
        fifth = connect(OTHER, 6)
        assert fourth.is_gone()
        with Client() as c:
            c.greet()
            assert is_refused(claim(c, HEAD, 5), 6)
        fifth.write(0, b"5" * 4096)
        for c in (plain, other):
            assert c.read(0, 4096) == b"5" * 4096
        # A storage that has a connection is not forgotten, whoever else comes; one that has none is, at last.
        def crowd():
            for i in range(40):
                connect(storage=b"crowd" + bytes((i,)) * 11).sock.close()

        crowd()
        with Client() as c:
            c.greet()
            assert is_refused(claim(c, HEAD, 5), 6)
        for c in (fifth, other, plain):
            assert c.read(0, 4096) == b"5" * 4096
            c.sock.close()
        wait_until(10, lambda: shown("clients") == 0, "nobody is left")
        crowd()
        connect(HEAD, 1).sock.close()
        wait_until(10, lambda: shown("clients") == 0, "nobody is left")


def test_malformed():
    """What is no fence is refused and claims nothing, and the connection goes on."""
    good = Client.fence(STORAGE, HEAD, 7)
    with exported("/dev/ram0"):
        first = connect(HEAD, 7)
        with Client() as c:
            c.greet()
            for payload in (b"", good[:47], good + b"x", good[:4], good * 2, bytes(48), b"x" * 60000):
                expected = nbd.ERR_UNSUP if payload == bytes(48) else nbd.ERR_INVALID
                assert c.negotiate(nbd.DST, payload)[-1][0] == expected, payload[:60]
            for payload in (Client.fence(bytes(16), HEAD, 7), Client.fence(STORAGE, bytes(16), 7),
                            Client.fence(STORAGE, HEAD, 0), Client.fence(STORAGE, HEAD, 7, reserved=1)):
                assert [kind for kind, _ in c.negotiate(nbd.DST, payload)] == [nbd.ERR_INVALID], payload
            for version in (0, 2, 0xFFFFFFFF):
                payload = Client.fence(STORAGE, HEAD, 7, version)
                assert [kind for kind, _ in c.negotiate(nbd.DST, payload)] == [nbd.ERR_UNSUP], version
            assert first.read(0, 512)
            # One connection, one storage.
            assert is_newest(claim(c, HEAD, 1, b"m" * 16), 1)
            assert claim(c, HEAD, 7)[-1][0] == nbd.ERR_INVALID
            assert claim(c, HEAD, 2, b"m" * 16)[-1][0] == nbd.ERR_INVALID
            assert c.negotiate(nbd.GO, c.named("disk"))[-1][0] == nbd.ACK
            assert c.read(0, 512) == first.read(0, 512)
        # Ends in its midst, and lengths that are lies.
        for cut in range(0, 64, 7):
            c = Client()
            c.greet()
            c.send((nbd.IHAVEOPT + struct.pack(">II", nbd.DST, 48) + good)[:cut])
            c.reset() if cut % 2 else c.sock.close()
        with Client() as c:
            c.greet()
            c.option(nbd.DST, good, 0xFFFFFFFF)
            assert c.is_gone()
        assert first.read(0, 512)
        first.sock.close()
        wait_until(10, lambda: shown("clients") == 0, "nobody is left")


def test_drains():
    """The acknowledgement waits for the disk, and the disk alone; others don't notice."""
    with stuck_disk() as (suspend, resume), exported("/dev/mapper/stuck"):
        first = connect()
        suspend()
        first.ask(nbd.WRITE, 0, 4096, 0, b"f" * 4096)
        wait_until(10, lambda: shown("in_flight") == 1, "the write is on the disk")
        second = Client(timeout=60)
        second.greet()
        second.option(nbd.DST, second.fence(STORAGE, HEAD, 1))
        # All in one go, as a client does that is in a hurry.
        second.option(nbd.GO, second.named("disk"))
        assert second.option_reply() == (nbd.DST, nbd.DST, struct.pack(">IIQ", 1, 0, 1))
        assert first.is_gone()
        # Longer than a handshake may take otherwise; another client has its own in the meantime.
        assert not second.is_gone(12)
        with Client() as c:
            assert c.go("disk")[0] == SIZE
        # The next one of the same head takes the place of the one that waits.
        third = Client(timeout=60)
        third.greet()
        third.option(nbd.DST, third.fence(STORAGE, HEAD, 1))
        third.option(nbd.GO, third.named("disk"))
        assert third.option_reply()[1] == nbd.DST
        assert second.is_gone()
        with Client() as c:
            c.greet()
            # A newer head is not spared the wait, and an older one is refused at once.
            c.option(nbd.DST, c.fence(STORAGE, OTHER, 2))
            assert c.option_reply()[1] == nbd.DST
            assert third.is_gone()
            with Client() as old:
                old.greet()
                assert is_refused(claim(old), 2)
            # Who does not want to wait leaves.
            wait_until(10, lambda: shown("clients") == 1, "only the newest is there")
        wait_until(10, lambda: shown("clients") == 0, "it has left")
        fourth = Client(timeout=60)
        fourth.greet()
        fourth.option(nbd.DST, fourth.fence(STORAGE, OTHER, 2))
        fourth.option(nbd.GO, fourth.named("disk"))
        assert fourth.option_reply()[1] == nbd.DST
        assert not fourth.is_gone(0.5)
        resume()
        assert fourth.option_reply() == (nbd.DST, nbd.ACK, b"")
        while fourth.option_reply()[1] != nbd.ACK:
            pass
        assert fourth.read(0, 4096) == b"f" * 4096
        fourth.sock.close()
        # An export can be ended while somebody waits; that takes as long as its disk.
        first = connect(OTHER, 2)
        suspend()
        first.ask(nbd.WRITE, 4096, 4096, 0, b"g" * 4096)
        wait_until(10, lambda: shown("in_flight") == 1, "the write is on the disk")
        with Client() as c:
            c.greet()
            c.option(nbd.DST, c.fence(STORAGE, OTHER, 2))
            assert c.option_reply()[1] == nbd.DST
            end = subprocess.Popen(["dst", "unexport", "disk"])
            assert c.is_gone()
            time.sleep(0.5)
            assert end.poll() is None
            resume()
            assert end.wait(20 * SLOW) == 0
        run("dst", "export", "disk", "/dev/mapper/stuck", "--listen", "127.0.0.1:10809")


class SlowDisk:
    """A storage on a server that keeps the first write that comes to itself until it is told to do it."""

    def __init__(self, port):
        self.server = Server(1 << 20, port)
        self.held, self.gate = threading.Event(), threading.Event()
        self.server.on_request = self.on_request
        self.server.start()
        dst("create", "--no-metadata", "slow", f"localhost:{port}", "--start-array")

    def on_request(self, connection, request):
        if request.command != nbdserver.WRITE or self.held.is_set():
            return False
        self.held.set()

        def late():
            self.gate.wait()
            self.server.serve(connection, request)

        threading.Thread(target=late, daemon=True).start()
        return True

    def done(self):
        """All that was asked for is done."""
        wait_until(20, lambda: node("slow", "in_flight") == 0, "all is done")

    def end(self):
        delete("slow")
        assert not self.server.complaints, self.server.complaints
        self.server.stop()


def test_late_write_without():
    """What the fence is against: without it the late write of a dead connection is the last one."""
    slow = SlowDisk(11900)
    with exported("/dev/dst-slow"):
        first = Client()
        first.go("disk")
        first.ask(nbd.WRITE, 0, 4096, 0, b"a" * 4096)
        assert slow.held.wait(10)
        first.reset()
        with Client() as c:
            c.go("disk")
            c.write(0, b"a" * 4096)
            c.write(0, b"b" * 4096)
            slow.gate.set()
            slow.done()
            assert c.read(0, 4096) == b"a" * 4096
    slow.end()


def test_late_write():
    """The same with a storage as the client: the newer write is the last one."""
    slow = SlowDisk(11901)
    with exported("/dev/dst-slow"):
        dst("create", "--no-metadata", "top", "nbd://127.0.0.1:10809/disk", "--start-array")
        assert node("top", "fenced") == 1
        with Direct("/dev/dst-top") as disk:
            first = threading.Thread(target=disk.write, args=(0, b"a" * 4096), daemon=True)
            first.start()
            assert slow.held.wait(10)
            run("ss", "-K", "dport = :10809")
            wait_until(10, lambda: "busy" in str(node("top", "reason")), "it waits for the server's disk")
            # Longer than an attempt may take otherwise.
            time.sleep(12)
            assert first.is_alive() and node("top", "state") == "lost" and node("top", "reconnects") == 1
            assert len([r for r in slow.server.log if r.command == nbdserver.WRITE]) == 1
            slow.gate.set()
            first.join(20)
            assert not first.is_alive() and node("top", "state") == "up"
            disk.write(0, b"b" * 4096)
            slow.done()
            assert disk.read(0, 4096) == b"b" * 4096
            assert bytes(slow.server.memory[:4096]) == b"b" * 4096
            written = [r.data[:1] for r in slow.server.log if r.command == nbdserver.WRITE]
            assert written == [b"a", b"a", b"b"], written
        # Its own fence is no wait that can't be ended.
        slow.held.clear()
        slow.gate.clear()
        with Direct("/dev/dst-top") as disk:
            errors = []

            def write():
                try:
                    disk.write(0, b"c" * 4096)
                except OSError as error:
                    errors.append(error.errno)

            last = threading.Thread(target=write, daemon=True)
            last.start()
            assert slow.held.wait(10)
            run("ss", "-K", "dport = :10809")
            wait_until(10, lambda: "busy" in str(node("top", "reason")), "it waits for the server's disk")
            dst("fail-now", "top", "n-0")
            last.join(20)
            assert errors == [5], errors
            slow.gate.set()
            wait_state("top", "up")
        delete("top")
    slow.end()


def test_taken_over():
    """Another head takes over: the old one's requests fail, it says why, and does not come again."""
    seen = []

    def listen(connection, option, data):
        if option == nbdserver.OPT_DST:
            seen.append(struct.unpack(">II16s16sQ", data))
        return False

    # This server knows no fence, but hears which storage it is.
    ear = Server(8 << 20, 11902)
    ear.on_option = listen
    ear.start()
    with exported("/dev/ram0"):
        dst("create", "--no-metadata", "old", "localhost:11902", "nbd://127.0.0.1:10809/disk", "--start-array")
        at = (8 << 20) // 512
        assert node("old", "fenced", 0) == 0 and node("old", "fenced", at) == 1
        (version, reserved, storage, head, epoch), = seen
        assert (version, reserved, epoch) == (1, 0, 1) and storage != head
        with Direct("/dev/dst-old") as disk:
            disk.write(8 << 20, b"o" * 4096)
            new = connect(OTHER, 2, storage)
            new.write(0, b"n" * 4096)
            wait_state("old", "failed", at)
            assert node("old", "reason", at) == "another head has taken over this storage (epoch 2)"
            for act in (lambda: disk.read(8 << 20, 4096), lambda: disk.write(8 << 20, b"o" * 4096)):
                try:
                    act()
                    fail("a request of an old head was done")
                except OSError as error:
                    assert error.errno == 5, error
            # The other node goes on.
            disk.write(0, b"e" * 4096)
            accepted = shown("accepted")
            time.sleep(3)
            assert shown("accepted") == accepted and shown("clients") == 1
            if "another head has taken over this storage (epoch 2)" not in dst("status", "old"):
                fail(f"no reason in: {dst('status', 'old')}")
            dst("fail-now", "old", f"n-{at}")
        assert new.read(0, 4096) == b"n" * 4096
        delete("old")
        # Two storages of one machine are two storages, and two heads.
        dst("create", "--no-metadata", "a", "localhost:11902")
        dst("create", "--no-metadata", "b", "localhost:11902")
        assert len({told[2] for told in seen}) == len({told[3] for told in seen}) == 3, seen
        delete("a")
        delete("b")
        new.sock.close()
    # A server that says so to one who comes for the first time.
    ear.on_option = lambda c, option, data: option == nbdserver.OPT_DST and not c.send(
        c.option(option, nbdserver.REP_DST, struct.pack(">IIQ", 1, 0, 9)) + c.option(option, 0x80000002, b"no"))
    refuse(r"another head has taken over this storage \(epoch 9\)", "create", "--no-metadata", "late", "localhost:11902")
    ear.stop()


def test_servers_without():
    """Servers that know no such option are used without a fence, also such that break on it."""
    with open(f"{TMP}/image", "wb") as file:
        file.truncate(8 << 20)
    servers = {
        11910: ["nbdkit", "--foreground", "--port", "11910", "file", f"{TMP}/image"],
        11911: ["qemu-nbd", "--persistent", "--format=raw", "--port=11911", f"{TMP}/image"],
        # It may compute for seconds in a handshake, now and then longer than an attempt may take. With -d it would serve the
        # first one only; without, it is a daemon.
        11912: ["nbd-server", "-C", "/dev/null", "127.0.0.1@11912", f"{TMP}/image"],
    }
    for port, command in servers.items():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(20, lambda: run("ss", "-Hltn", f"sport = :{port}"), f"{command[0]} listens")
        dst("create", "--no-metadata", "plain", f"localhost:{port}", "--connect-timeout", "60s")
        assert node("plain", "state") == "up" and node("plain", "fenced") == 0 and node("plain", "reconnects") == 0
        dst("start", "plain")
        with Direct("/dev/dst-plain") as disk:
            disk.write(4096, b"p" * 4096)
            assert disk.read(4096, 4096) == b"p" * 4096
        delete("plain")
        process.kill()
        process.wait()
    run("pkill", "nbd-server")

    questions = []
    asked = lambda: sum(questions)

    def breaks(how):
        """An answer to the option that ends the connection."""

        def on_option(connection, option, data):
            if option != nbdserver.OPT_DST:
                return False
            questions.append(1)
            if how:
                connection.send(how)
                time.sleep(0.2)
            raise nbdserver.Gone

        return on_option

    server = Server(1 << 20, 11913)
    for how in (b"", b"x" * 20, bytes(7), struct.pack(">QIII", 0x3E889045565A9, nbdserver.OPT_DST, 1, 0)):
        questions.clear()
        server.on_option = breaks(how)
        if not server.socket:
            server.start()
        dst("create", "--no-metadata", "breaks", "localhost:11913", "--start-array")
        assert node("breaks", "fenced") == 0 and asked() == 3, (how, asked())
        with Direct("/dev/dst-breaks") as disk:
            disk.write(0, b"q" * 4096)
            # The server may be another one by now: it is asked again.
            server.drop()
            disk.write(0, b"r" * 4096)
            assert asked() == 6, (how, asked())
        delete("breaks")
    server.stop()

    # One that has a fence is never used without, however often the connection ends at the question.
    server = Server(1 << 20, 11914)
    server.on_option = lambda c, option, data: option == nbdserver.OPT_DST and not c.send(
        c.option(option, nbdserver.REP_DST, struct.pack(">IIQ", 1, 0, 1)) + c.option(option, 1))
    good = server.on_option
    server.start()
    dst("create", "--no-metadata", "knows", "localhost:11914", "--start-array")
    assert node("knows", "fenced") == 1
    with Direct("/dev/dst-knows") as disk:
        questions.clear()
        server.on_option = breaks(b"")
        server.drop()
        wait_until(30, lambda: asked() >= 7, "it asks again and again")
        assert node("knows", "state") == "lost"
        server.on_option = good
        wait_state("knows", "up")
        assert node("knows", "fenced") == 1
        disk.write(0, b"k" * 4096)
    delete("knows")
    server.stop()


run("modprobe", "brd", "rd_nr=1", f"rd_size={SIZE >> 10}")
load()
main(
    test_newest_head,
    test_malformed,
    test_drains,
    test_late_write_without,
    test_late_write,
    test_taken_over,
    test_servers_without,
)
