#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 240
"""What no decent client sends: it must cost that client's connection at most, and nobody else anything."""

import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.environ["TESTS"])
import rawnbd as nbd  # pylint: disable=wrong-import-position
from rawnbd import Client, Gone  # pylint: disable=wrong-import-position

SIZE = 64 << 20
SLOW = int(os.environ.get("SLOW", "1"))
DIRECTORY = "/sys/class/misc/dst/exports/disk/"


def sh(*command):
    """Runs a command."""
    subprocess.run(command, check=True)


def shown(name):
    """A number in the export's directory."""
    with open(DIRECTORY + name, encoding="ascii") as file:
        return int(file.read())


def wait_until(what, seconds=20):
    """Waits for something to become true."""
    end = time.monotonic() + seconds * SLOW
    while not what():
        assert time.monotonic() < end, "still not true"
        time.sleep(0.05)


def nobody_left():
    """All connections are gone."""
    wait_until(lambda: shown("clients") == 0)
    assert shown("in_flight") == 0


def requests(structured):
    """Requests that are refused, with the stream in step, and such that cost the connection."""
    with Client() as c:
        size, flags = c.go("disk", structured)
        assert size == SIZE and flags & 1
        c.write(0, b"x" * 4096)
        cases = [
            # (command, offset, length, flags, error, payload)
            (nbd.READ, SIZE, 512, 0, nbd.EINVAL, 0),
            (nbd.READ, SIZE - 512, 1024, 0, nbd.EINVAL, 0),
            (nbd.READ, (1 << 64) - 512, 512, 0, nbd.EINVAL, 0),
            (nbd.READ, (1 << 64) - 512, 1024, 0, nbd.EINVAL, 0),
            (nbd.READ, 1 << 63, 512, 0, nbd.EINVAL, 0),
            (nbd.READ, 0, 0, 0, nbd.EINVAL, 0),
            (nbd.READ, 0, 1, 0, nbd.EINVAL, 0),
            (nbd.READ, 1, 512, 0, nbd.EINVAL, 0),
            (nbd.READ, 0, 0xFFFFFFFF, 0, nbd.EINVAL, 0),
            (nbd.READ, 0, 0x80000000, 0, nbd.EINVAL, 0),
            (nbd.READ, 0, (32 << 20) + 512, 0, nbd.EINVAL, 0),
            (nbd.READ, 0, 512, 0xFFF0, nbd.EINVAL, 0),
            (nbd.WRITE, SIZE, 512, 0, nbd.ENOSPC, 512),
            (nbd.WRITE, SIZE - 512, 1024, 0, nbd.ENOSPC, 1024),
            (nbd.WRITE, (1 << 64) - 512, 4096, 0, nbd.ENOSPC, 4096),
            (nbd.WRITE, 0, 0, 0, nbd.EINVAL, 0),
            (nbd.WRITE, 0, 100, 0, nbd.EINVAL, 100),
            (nbd.WRITE, 3, 70000, 0, nbd.EINVAL, 70000),
            (nbd.WRITE, SIZE, 32 << 20, 0, nbd.ENOSPC, 32 << 20),
            (nbd.FLUSH, 512, 0, 0, nbd.EINVAL, 0),
            (nbd.FLUSH, 0, 512, 0, nbd.EINVAL, 0),
            (nbd.TRIM, SIZE, 512, 0, nbd.EINVAL, 0),
            (nbd.TRIM, 0, 0xFFFFFFFF, 0, nbd.EINVAL, 0),
            (nbd.ZERO, SIZE, 512, 0, nbd.ENOSPC, 0),
            (nbd.ZERO, 512, 0xFFFFFE00, 0, nbd.ENOSPC, 0),
            (nbd.ZERO, 0, 4096, 1 << 4, nbd.EINVAL, 0),
            (nbd.CACHE, 0, 512, 0, nbd.EINVAL, 0),
            (nbd.STATUS, 0, 512, 0, nbd.EINVAL, 0),
        ] + [(command, 0, 512, 0, nbd.EINVAL, 0) for command in (8, 9, 255, 0x100, 0xFFFF)]
        for command, offset, length, flags, expected, payload in cases:
            cookie = c.ask(command, offset, length, flags, b"y" * payload)
            answered, error, _ = c.reply({cookie: length})
            assert (answered, error) == (cookie, expected), (command, offset, length, flags, error)
        # All of them at once, and the replies in any order.
        expected = {}
        for command, offset, length, flags, error, payload in cases:
            if payload <= 70000:
                expected[c.ask(command, offset, length, flags, b"z" * payload)] = error
        for _ in range(len(expected)):
            cookie, error, _ = c.reply()
            assert expected.pop(cookie) == error
        assert c.read(0, 4096) == b"x" * 4096
    for bytes_ in (
        Client.request(nbd.WRITE, 0, (32 << 20) + 1),
        Client.request(nbd.WRITE, 0, 0x80000000),
        Client.request(nbd.WRITE, 0, 0xFFFFFFFF),
        Client.request(nbd.READ, 0, 512, magic=0x25609514),
        b"\0" * 28,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n",
        random.randbytes(1000),
    ):
        with Client() as c:
            c.go("disk", structured)
            try:
                c.send(bytes_)
            except Gone:
                pass
            assert c.is_gone(), bytes_[:28]


def fragments(structured):
    """Headers and data in pieces and in bulk."""
    data = random.randbytes(8192)
    with Client() as c:
        c.go("", structured)
        stream = b"".join((
            c.request(nbd.WRITE, 4096, 8192, 0, 101), data,
            c.request(nbd.READ, 4096, 8192, 0, 102),
            c.request(99, 0, 0, 0, 103),
            c.request(nbd.FLUSH, 0, 0, 0, 104),
        ))
        # One byte at a time around the headers.
        cuts = sorted(set(range(0, 40)) | set(range(8180, 8300)) | {len(stream)})
        last = 0
        for cut in cuts:
            c.send(stream[last:cut])
            last = cut
        lengths = {102: 8192}
        seen = {}
        for _ in range(4):
            cookie, error, got = c.reply(lengths)
            seen[cookie] = (error, got)
        assert seen[101][0] == 0 and seen[104][0] == 0 and seen[103][0] == nbd.EINVAL
        assert seen[102][0] == 0 and len(seen[102][1]) == 8192
        assert c.read(4096, 8192) == data
        # A read right behind the data of a write, in one segment: it is served at once.
        for _ in range(20):
            start = time.monotonic()
            c.send(c.request(nbd.WRITE, 0, 4096, 0, 1) + data[:4096] + c.request(nbd.READ, 4096, 4096, 0, 2))
            assert sorted(c.reply({2: 4096})[0] for _ in range(2)) == [1, 2]
            assert time.monotonic() - start < 2 * SLOW


def goodbyes():
    """Ends of connections at every byte of the handshake and of a request."""
    hello = struct.pack(">I", 3)
    go = nbd.IHAVEOPT + struct.pack(">II", nbd.GO, 10) + Client.named("disk")
    stream = hello + go + Client.request(nbd.WRITE, 0, 4096) + b"a" * 4096
    early = list(range(0, len(hello + go) + 29))
    for at in early + [len(stream) - 1, len(stream)]:
        for how in ("close", "reset", "half"):
            c = Client()
            c.send(stream[:at])
            if how == "reset":
                c.reset()
            elif how == "half":
                c.sock.shutdown(socket.SHUT_WR)
                assert c.is_gone()
                c.sock.close()
            else:
                c.sock.close()
    nobody_left()
    # Half-closed with requests under way: they are answered.
    with Client() as c:
        c.go("disk", True)
        cookies = {c.ask(nbd.READ, 4096 * i, 4096) for i in range(20)}
        c.sock.shutdown(socket.SHUT_WR)
        assert {c.reply()[0] for _ in range(20)} == cookies
        assert c.is_gone()
    # The same with a goodbye in words, and nothing behind it counts.
    with Client() as c:
        c.go("disk", True)
        cookies = {c.ask(nbd.READ, 4096 * i, 4096) for i in range(20)}
        c.send(c.request(nbd.DISC) + b"garbage" * 10)
        assert {c.reply()[0] for _ in range(20)} == cookies
        assert c.is_gone()
    # Reset amid the data of a write.
    for _ in range(10):
        c = Client()
        c.go("disk")
        c.send(c.request(nbd.WRITE, 0, 1 << 20) + b"b" * 300000)
        c.reset()
    nobody_left()


def handshakes():
    """Strange handshakes."""
    with Client() as c:
        assert c.greet() & 3 == 3
        for option in (0, 4, 9, 10, 11, 0x7FFFFFFF, 0xFFFFFFFF, nbd.STARTTLS):
            assert c.negotiate(option)[-1][0] == nbd.ERR_UNSUP
            assert c.negotiate(option, b"x" * 1000)[-1][0] == nbd.ERR_UNSUP
        assert c.negotiate(nbd.LIST, b"x")[-1][0] == nbd.ERR_INVALID
        assert c.negotiate(nbd.STRUCTURED, b"x")[-1][0] == nbd.ERR_INVALID
        names = [data[4:] for kind, data in c.negotiate(nbd.LIST) if kind == nbd.SERVER]
        assert names == [b"disk"]
        for payload in (b"", b"\0", b"\0\0\0\1", struct.pack(">I", 0xFFFFFFFF) + b"disk\0\0",
                        struct.pack(">I", 5) + b"disk\0\0", struct.pack(">I", 4) + b"disk\0\7"):
            for option in (nbd.INFO, nbd.GO):
                assert c.negotiate(option, payload)[-1][0] & 0x80000000, payload
        for name in ("dis", "diskk", "disk\0", "\0", "d" * 4096, "%s%n", b"\xff\xfe"):
            assert c.negotiate(nbd.INFO, c.named(name))[-1][0] == nbd.ERR_UNKNOWN, name
        assert c.negotiate(nbd.INFO, c.named("d" * 4097))[-1][0] == nbd.ERR_TOO_BIG
        assert c.negotiate(nbd.INFO, c.named("disk", range(100)))[-1][0] == nbd.ACK
        assert c.negotiate(nbd.ABORT)[-1][0] == nbd.ACK
        assert c.is_gone()
    # The old way.
    for flags, zeroes in ((3, 0), (1, 124)):
        with Client() as c:
            c.greet(flags)
            c.option(nbd.EXPORT_NAME, b"disk")
            size, _ = struct.unpack(">QH", c.receive(10))
            assert size == SIZE and c.receive(zeroes) == bytes(zeroes)
            assert len(c.read(0, 4096)) == 4096
    for bad in (
        lambda c: c.send(struct.pack(">I", 0x80000003)),
        lambda c: c.send(b"SSH-2.0-OpenSSH_9.9\r\n"),
        lambda c: (c.greet(), c.option(nbd.EXPORT_NAME, b"other")),
        lambda c: (c.greet(), c.option(nbd.EXPORT_NAME, b"x", 0xFFFFFFFF)),
        lambda c: (c.greet(), c.option(77, b"x", 0xFFFFFFFF)),
        lambda c: (c.greet(), c.option(nbd.GO, b"x", 0x80000000)),
        lambda c: (c.greet(), c.send(b"IHAVEOPX" + bytes(8))),
        lambda c: (c.greet(), [c.negotiate(77) for _ in range(300)]),
    ):
        with Client() as c:
            try:
                bad(c)
            except Gone:
                continue
            assert c.is_gone()
    nobody_left()


def slow():
    """Clients that say nothing, or one byte now and then, or never read; another one works on meanwhile."""
    with Client() as good:
        good.go("disk", True)
        silent = [Client() for _ in range(6)]
        drip = Client()
        deaf = Client(timeout=60)
        deaf.go("disk", True)
        stop = threading.Event()

        def dripping():
            stream = struct.pack(">I", 3) + nbd.IHAVEOPT + struct.pack(">II", 77, 4000) + bytes(4000)
            for i in range(len(stream)):
                if stop.is_set():
                    return
                try:
                    drip.send(stream[i:i + 1])
                except Gone:
                    return
                time.sleep(0.5)

        def shouting():
            try:
                for i in range(4000):
                    deaf.send(deaf.request(nbd.READ, 0, 65536, 0, i))
            except (Gone, OSError):
                pass

        threads = [threading.Thread(target=dripping), threading.Thread(target=shouting)]
        for thread in threads:
            thread.start()
        start = time.monotonic()
        while time.monotonic() - start < 13:
            then = time.monotonic()
            good.read(0, 4096)
            assert time.monotonic() - then < 5 * SLOW
            time.sleep(0.05)
        for client in silent + [drip]:
            assert client.is_gone(10 * SLOW)
        stop.set()
        deaf.reset()
        for thread in threads:
            thread.join()
        for client in silent + [drip]:
            client.sock.close()
        # A connection's end is noticed a little after it.
        wait_until(lambda: shown("clients") == 1)
        good.read(0, 4096)
    nobody_left()


def flood():
    """More connections than there may be: those that are in go on, the others are refused, and then there is room."""
    limit = shown("max_clients")
    refused = shown("refused")
    inside = []
    for _ in range(limit):
        c = Client()
        c.go("disk")
        inside.append(c)
    for _ in range(200):
        try:
            with Client() as c:
                assert c.is_gone()
        except ConnectionError:
            pass
    for c in inside:
        c.read(0, 4096)
        c.sock.close()
    assert shown("refused") >= refused + 200
    nobody_left()
    with Client() as c:
        c.go("disk")
        c.read(0, 4096)


def fuzz():
    """Requests with random bits turned over."""
    rng = random.Random(1)
    for _ in range(60):
        with Client() as c:
            c.go("disk", rng.random() < 0.5)
            try:
                for i in range(40):
                    request = bytearray(c.request(rng.randrange(8), 512 * rng.randrange(1 << 17), 512 * rng.randrange(64), 0, i))
                    for _ in range(rng.randrange(3)):
                        request[rng.randrange(4, 28)] ^= 1 << rng.randrange(8)
                    c.send(bytes(request))
                    if request[7] == nbd.WRITE and request[6] == 0:
                        length, = struct.unpack(">I", request[24:])
                        c.send(bytes(min(length, 1 << 20)))
            except Gone:
                pass
    nobody_left()


def main():
    """The test."""
    sh("modprobe", "brd", "rd_nr=1", f"rd_size={SIZE >> 10}")
    sh("modprobe", "dst")
    sh("dst", "export", "disk", "/dev/ram0", "--listen", "127.0.0.1:10809")
    try:
        for case in (lambda: requests(False), lambda: requests(True), lambda: fragments(False), lambda: fragments(True),
                     goodbyes, handshakes, flood, fuzz, slow):
            start = time.monotonic()
            case()
            print(f"{getattr(case, '__name__', case)}: {time.monotonic() - start:.1f} s", flush=True)
    finally:
        sh("dst", "unexport", "disk")


main()
