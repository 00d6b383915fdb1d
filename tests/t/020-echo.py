#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 120
"""dst_echo.ko: the network code against clients of all manners. Runs in the VM."""

import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time

PORT = 7777
V4 = (socket.AF_INET, "127.0.0.1")
V6 = (socket.AF_INET6, "::1")
# How many times slower than the stock kernel this one is.
SLOW = int(os.environ.get("SLOW", 1))


def load(**parameters):
    subprocess.run(["modprobe", "dst_echo"] + [f"{k}={v}" for k, v in parameters.items()], check=True)


def unload(limit=5.0 * SLOW):
    start = time.monotonic()
    subprocess.run(["rmmod", "dst_echo"], check=True)
    took = time.monotonic() - start
    assert took < limit, f"rmmod took {took:.1f} s"


def connect(where=V4, timeout=30 * SLOW, buffer=None):
    s = socket.socket(where[0])
    s.settimeout(timeout)
    if buffer:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    s.connect((where[1], PORT))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def read_exactly(s, size):
    data = bytearray()
    while len(data) < size:
        part = s.recv(min(65536, size - len(data)))
        assert part, f"the end after {len(data)} of {size} bytes"
        data += part
    return bytes(data)


def thread_time():
    """Clock ticks that the module's threads have used."""
    ticks = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            name, rest = open(f"/proc/{pid}/stat").read().split(") ", 1)
        except OSError:
            continue
        if "(dst_echo/" in name:
            fields = rest.split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks


def assert_idle(what):
    before = thread_time()
    time.sleep(1)
    used = thread_time() - before
    assert used <= 10 * SLOW, f"{what}: the threads used {used} ticks in a second"


def test_hello():
    for where in V4, V6:
        with connect(where) as s:
            s.sendall(b"hello")
            assert read_exactly(s, 5) == b"hello"


def test_sizes():
    """One byte to a megabyte, around the sizes of pages and of the buffer."""
    sizes = [1, 2, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20]
    for where in V4, V6:
        with connect(where) as s:
            for size in sizes:
                data = os.urandom(size)
                sender = threading.Thread(target=s.sendall, args=(data,))
                sender.start()
                assert read_exactly(s, size) == data, f"{size} bytes"
                sender.join()


def test_fragments():
    """Bytes one by one, each in a packet of its own, then in random pieces."""
    with connect() as s:
        data = os.urandom(300)
        for i in range(len(data)):
            s.sendall(data[i : i + 1])
        assert read_exactly(s, len(data)) == data
        data = os.urandom(200000)
        def send():
            at = 0
            while at < len(data):
                size = random.choice([1, 2, 7, 100, 1448, 5000, 20000])
                s.sendall(data[at : at + size])
                at += size
        sender = threading.Thread(target=send)
        sender.start()
        assert read_exactly(s, len(data)) == data
        sender.join()


class Client:
    """One of many connections that send and receive at the same time."""

    def __init__(self, where):
        self.socket = connect(where)
        self.socket.setblocking(False)
        self.data = os.urandom(random.randrange(1, 30000))
        self.sent = self.received = 0
        self.times = 2

    def step(self, events):
        if events & selectors.EVENT_WRITE and self.sent < len(self.data):
            size = random.choice([1, 500, 2000, 10000])
            try:
                self.sent += self.socket.send(self.data[self.sent : self.sent + size])
            except BlockingIOError:
                pass
        if events & selectors.EVENT_READ:
            part = self.socket.recv(65536)
            assert part, "the end in the middle"
            assert part == self.data[self.received : self.received + len(part)]
            self.received += len(part)
        if self.received == len(self.data):
            self.sent = self.received = 0
            self.times -= 1
        return self.times > 0

    def interest(self):
        write = selectors.EVENT_WRITE if self.sent < len(self.data) else 0
        return selectors.EVENT_READ | write


def test_many():
    """Sixty connections at once."""
    selector = selectors.DefaultSelector()
    clients = [Client(random.choice([V4, V6])) for _ in range(60)]
    for c in clients:
        selector.register(c.socket, c.interest(), c)
    left = len(clients)
    while left:
        ready = selector.select(timeout=30 * SLOW)
        assert ready, f"nothing moves, {left} clients are left"
        for key, events in ready:
            c = key.data
            if c.step(events):
                selector.modify(c.socket, c.interest(), c)
            else:
                selector.unregister(c.socket)
                c.socket.close()
                left -= 1


def test_half_close():
    """All that was sent before the end comes back, then the end."""
    for size in 0, 1, 100000:
        with connect() as s:
            data = os.urandom(size)
            sender = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
            sender.start()
            assert read_exactly(s, size) == data
            assert s.recv(1) == b""
            sender.join()


def test_reset():
    """Connections that end with RST, with data under way in both directions, free their places."""
    for _ in range(100):
        s = connect()
        s.sendall(os.urandom(20000))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    test_many()


def test_storm():
    """Connections that end as soon as they are there."""
    for i in range(300):
        s = connect(V4 if i % 2 else V6)
        if i % 3 == 0:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    test_hello()


def test_slow_reader():
    """Who doesn't read is soon not read from; nobody spins; nobody else waits; and nothing is lost."""
    with connect(timeout=1) as s:
        sent = bytearray()
        try:
            while True:
                part = os.urandom(65536)
                sent += part[: s.send(part)]
                assert len(sent) < 64 << 20, "there is no bound"
        except TimeoutError:
            pass
        assert_idle("blocked")
        test_hello()
        s.settimeout(30 * SLOW)
        assert read_exactly(s, len(sent)) == sent
    with connect(buffer=4096) as s:
        data = os.urandom(100000)
        sender = threading.Thread(target=s.sendall, args=(data,))
        sender.start()
        got = bytearray()
        while len(got) < len(data):
            part = s.recv(997)
            assert part
            got += part
        assert got == data
        sender.join()


def test_urgent():
    """Urgent data end the connection; they don't make anyone spin."""
    with connect() as s:
        s.send(b"before")
        assert read_exactly(s, 6) == b"before"
        s.send(b"!", socket.MSG_OOB)
        s.settimeout(5 * SLOW)
        try:
            assert s.recv(10) == b""
        except ConnectionResetError:
            pass
    assert_idle("urgent data")


def test_idle():
    with connect(), connect(V6):
        assert_idle("idle")


def small_buffer():
    """A segment of which only a part fits is served to its end, with no further packet."""
    load(buffer=1000)
    with connect() as s:
        for size in 999, 1000, 1001, 1999, 2000, 2001, 30000:
            data = os.urandom(size)
            s.settimeout(5 * SLOW)
            s.sendall(data)
            assert read_exactly(s, size) == data, f"{size} bytes"
    unload()


def few_places():
    """Who finds no place waits, and gets one as soon as it is free."""
    load(connections=3)
    here = [connect(timeout=10) for _ in range(3)]
    for s in here:
        s.sendall(b"x")
        assert read_exactly(s, 1) == b"x"
    waiting = [connect(timeout=1) for _ in range(3)]
    for s in waiting:
        s.sendall(b"y")
    try:
        assert not waiting[0].recv(1), "served without a place"
        assert False, "ended instead of waiting"
    except TimeoutError:
        pass
    assert_idle("no place")
    for gone, next in zip(here, waiting):
        gone.close()
        next.settimeout(10)
        assert read_exactly(next, 1) == b"y"
    for s in waiting:
        s.close()
    unload()


def unload_under_load():
    """rmmod ends what runs, in bounded time."""
    for _ in range(3):
        load()
        stop = False

        def client():
            while not stop:
                try:
                    with connect(random.choice([V4, V6]), timeout=5) as s:
                        while not stop:
                            s.sendall(os.urandom(50000))
                            read_exactly(s, 50000)
                except (OSError, AssertionError):
                    time.sleep(0.01)

        clients = [threading.Thread(target=client) for _ in range(8)]
        for c in clients:
            c.start()
        blocked = connect(timeout=1)
        try:
            while True:
                blocked.send(bytes(65536))
        except TimeoutError:
            pass
        try:
            # The clients take the processors, too: this much is for a busy machine.
            unload(20.0 * SLOW)
        finally:
            stop = True
            for c in clients:
                c.join()
        blocked.close()


def namespace():
    """Sockets live in the namespace of who loaded the module, and keep it."""
    def ip(*words):
        subprocess.run(["ip", *words], check=True)
    ip("netns", "add", "echo")
    ip("-n", "echo", "link", "set", "lo", "up")
    subprocess.run(["ip", "netns", "exec", "echo", "modprobe", "dst_echo"], check=True)
    try:
        connect()
        assert False, "listens in another namespace"
    except ConnectionRefusedError:
        pass
    say = "import socket; s = socket.create_connection(('127.0.0.1', 7777)); s.send(b'hi'); print(s.recv(2))"
    out = subprocess.run(
        ["ip", "netns", "exec", "echo", "python3", "-c", say], check=True, stdout=subprocess.PIPE
    ).stdout
    assert out == b"b'hi'\n", out
    ip("netns", "del", "echo")
    time.sleep(1)
    unload()


def rpcs():
    """The yardstick runs: a client and a server in the kernel, with all kinds of requests."""
    load(rpcs=64)
    unload()


def run(test):
    start = time.monotonic()
    test()
    print(f"ok {test.__name__} {time.monotonic() - start:.1f} s", flush=True)


def main():
    random.seed(os.environ.get("SEED", 1))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    chosen = sys.argv[1:]
    shared = [
        test_hello, test_sizes, test_fragments, test_many, test_half_close, test_reset, test_storm,
        test_slow_reader, test_urgent, test_idle,
    ]
    own = [small_buffer, few_places, unload_under_load, namespace, rpcs]
    if not chosen or set(chosen) & {t.__name__ for t in shared}:
        load()
        for test in shared:
            if not chosen or test.__name__ in chosen:
                run(test)
        unload()
    for test in own:
        if not chosen or test.__name__ in chosen:
            run(test)


main()
