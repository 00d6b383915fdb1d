#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 600
"""Two heads that start one storage at the same moment: at most one runs, the other one says why not and has written nothing.

The first one reaches its servers by way of gates, at which the second one does its part when the first one is about to
announce itself to a server, or to write to it. The second one is a client of few words, or a storage of this kernel.
"""

import os
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.environ["TESTS"])
import rawnbd as nbd
from lib import *
from rawnbd import Client

BLOCK = 4096
DISKS = "/dev/ram0", "/dev/ram1"
PORTS = 10901, 10902
DIRECT = [f"nbd://127.0.0.1:{port}/{name}" for port, name in zip(PORTS, ("one", "two"))]
# Where the second head writes, on each node, and the data of the storage are not.
MARK = 4 << 20
TAKEN = r"another head has taken over this storage \(epoch %d\); stop it there first, or start it again"


class Gate:
    """Passes on what a client and an export say to each other, and tells what the client is about to do before it does it."""

    def __init__(self, port, target):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", port))
        self.forget()
        threading.Thread(target=self.accept, daemon=True).start()

    def forget(self):
        """Nobody looks any more, and nothing was seen."""
        self.at_claim = self.at_write = None
        # Epochs that were announced, and those of them that the server has acknowledged.
        self.claims, self.held = [], []

    def accept(self):
        while True:
            client = self.listener.accept()[0]
            server = socket.create_connection(("127.0.0.1", self.target))
            for sock in client, server:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            said = []
            for relay in (self.asks, client, server, said), (self.answers, server, client, said):
                threading.Thread(target=self.relay, args=relay, daemon=True).start()

    def relay(self, how, source, sink, said):
        """`said`: the epoch that the client announces."""
        try:
            how(source, sink, said)
        except OSError:
            pass
        for sock in source, sink:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def answers(self, server, client, said):
        acknowledged = struct.pack(">QIII", nbd.OPTION_REPLY, nbd.DST, nbd.ACK, 0)
        first = b""
        while data := server.recv(1 << 16):
            if said and said[0] not in self.held and len(first) < 4096:
                first += data
                if acknowledged in first:
                    self.held.append(said[0])
            client.sendall(data)

    def asks(self, client, server, said):
        def take(length):
            data = b""
            while len(data) < length:
                more = client.recv(length - len(data))
                if not more:
                    raise ConnectionError
                data += more
            return data

        server.sendall(take(4))
        while True:
            head = take(4)
            if head == nbd.IHAVEOPT[:4]:
                head += take(12)
                option, length = struct.unpack(">II", head[8:])
                data = take(length)
                if option == nbd.DST:
                    said += struct.unpack(">Q", data[40:])
                    self.claims += said
                    if self.at_claim:
                        self.at_claim(*said)
            else:
                head += take(24)
                _, _, command, _, _, length = struct.unpack(">IHHQQI", head)
                data = take(length) if command == nbd.WRITE else b""
                if data and self.at_write:
                    self.at_write()
            server.sendall(head + data)


class Rival:
    """The second head. What goes wrong at a gate is kept for `check`."""

    def __init__(self, storage):
        self.storage, self.clients, self.done, self.error = storage, {}, set(), None
        self.lock = threading.Lock()

    def claim(self, which, epoch):
        """Takes an export, and keeps it."""
        client = Client(port=PORTS[which], timeout=60 * SLOW)
        client.greet()
        replies = client.negotiate(nbd.DST, client.fence(self.storage, b"x" * 16, epoch))
        assert replies[-1][0] == nbd.ACK, (which, epoch, replies)
        self.clients[which] = client

    def write(self, which):
        client = self.clients[which]
        assert client.negotiate(nbd.GO, client.named(""))[-1][0] == nbd.ACK
        client.write(MARK, b"r" * BLOCK)

    def once(self, what, act):
        """Does something, if it has not done it; who comes meanwhile waits."""
        with self.lock:
            if what not in self.done:
                self.done.add(what)
                try:
                    act()
                except BaseException as error:
                    self.error = error

    def check(self):
        if self.error:
            raise self.error

    def is_out(self, which):
        return self.clients[which].is_gone(20 * SLOW)

    def leave(self):
        for client in self.clients.values():
            client.sock.close()


def contents(disk):
    with Direct(disk) as direct:
        return b"".join(direct.read(at, 1 << 20) for at in range(0, 16 << 20, 1 << 20))


def marked(data):
    return data[:MARK] + b"r" * BLOCK + data[MARK + BLOCK :]


def attribute(name, what):
    with open(f"/sys/devices/{name}/{what}", encoding="ascii") as file:
        return file.read().strip()


def exists(name):
    return os.path.exists(f"/sys/devices/{name}")


def assemble(name, nodes):
    """Gives the status, and what was said."""
    words = ["dst", "assemble", name, *nodes]
    result = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120 * SLOW, check=False)
    return result.returncode, result.stdout


def written(name, byte):
    """Writes a block on each part, and each half of a mirror."""
    size = int(run("blockdev", "--getsize64", f"/dev/dst-{name}"))
    with Direct(f"/dev/dst-{name}") as disk:
        for at in 0, size // BLOCK // 2 * BLOCK + (1 << 20), size // BLOCK * BLOCK - BLOCK:
            disk.write(at, byte * BLOCK)
        disk.flush()


def holds(name, byte):
    size = int(run("blockdev", "--getsize64", f"/dev/dst-{name}"))
    with Direct(f"/dev/dst-{name}") as disk:
        for at in 0, size // BLOCK // 2 * BLOCK + (1 << 20), size // BLOCK * BLOCK - BLOCK:
            if disk.read(at, BLOCK) != byte * BLOCK:
                fail(f"{name} has lost what was acknowledged at {at}")


def runs(name, byte):
    """It is the one that runs; it has all that was there, and is used."""
    holds(name, byte)
    written(name, byte)
    wait_until(60, lambda: attribute(name, "health") in ("healthy", "none"), f"{name} is in order")
    holds(name, byte)


def is_refused(code, said, epoch):
    if not code or not re.search(TAKEN % epoch, said):
        fail(f"it was not refused for epoch {epoch}: {code}, {said}")
    if exists("a"):
        fail("a storage was left behind")


def is_out_of_it(code, said):
    """A start that was overtaken: it is refused, or it runs and knows that it has lost."""
    if code:
        if not re.search(r"another head has taken over this storage", said):
            fail(f"the reason was not told: {said}")
        if exists("a"):
            fail("a storage was left behind")
        return
    wait_until(20, lambda: attribute("a", "health") == "taken-over", "it says that it has lost")
    delete("a")


def again(byte):
    """Neither runs. The next start does."""
    code, said = assemble("a", DIRECT)
    if code:
        fail(f"it can't be started any more: {said}")
    runs("a", byte)
    delete("a")


def each(scenario):
    """For both algorithms, and with the servers in both orders. On the slow kernel one will do."""
    for alg, orders in ("alg_linear", (0, 1)), ("alg_mirror", (1, 0)):
        for which in orders[: 1 if SLOW > 1 else 2]:
            dst("create", "a", *DIRECT, "--alg", alg, "--force", "--start-array")
            wait_until(20, lambda: attribute("a", "health") in ("healthy", "none"), "it is in order")
            byte = b"ABCD"[which:which + 1]
            written("a", byte)
            rival = Rival(bytes.fromhex(attribute("a", "uuid").replace("-", "")))
            delete("a")
            for gate in GATES:
                gate.forget()
            scenario(rival, which, byte)
            for gate in GATES:
                gate.forget()
            rival.check()
            rival.leave()


def has_won(rival, which, epoch, byte):
    """The first one runs, with that epoch, and the other one can't write to a server that it had."""
    for gate in GATES:
        assert gate.claims[-1] == epoch, gate.claims
    if not rival.is_out(which):
        fail("the other one can still write")
    runs("a", byte)
    delete("a")


def test_split():
    """Each gets one server. The other one comes no further, so the first one goes on, as the next head."""

    def scenario(rival, which, byte):
        GATES[which].at_claim = lambda epoch: rival.once(0, lambda: rival.claim(which, epoch))
        code, said = assemble("a", GATED)
        rival.check()
        if code:
            fail(f"it was refused: {said}")
        first = GATES[which].claims[0]
        assert first not in GATES[which].held, "the server has let both in"
        has_won(rival, which, first + 1, byte)

    each(scenario)


def test_split_again():
    """Each gets one server, twice. Neither runs, and nothing was written."""

    def scenario(rival, which, byte):
        before = [contents(disk) for disk in DISKS]
        GATES[which].at_claim = lambda epoch: rival.once(epoch, lambda: rival.claim(which, epoch))
        code, said = assemble("a", GATED)
        rival.check()
        is_refused(code, said, GATES[which].claims[0] + 1)
        assert before == [contents(disk) for disk in DISKS], "a start that was refused has written something"
        rival.leave()
        again(byte)

    each(scenario)


def test_taken_between():
    """A server that the first one has is taken while it waits for the other one. It takes that back, or is refused."""

    def scenario(rival, which, byte):
        other = 1 - which
        before = [contents(disk) for disk in DISKS]

        def take(epoch):
            wait_until(20, lambda: epoch in GATES[other].held, "the first one has the other server")
            rival.claim(other, epoch + 1)

        GATES[which].at_claim = lambda epoch: rival.once(0, lambda: take(epoch))
        code, said = assemble("a", GATED)
        rival.check()
        first = GATES[which].claims[0]
        print(f"[{'refused' if code else 'taken back'}]", end=" ")
        if code:
            is_refused(code, said, first + 1)
            assert before == [contents(disk) for disk in DISKS], "a start that was refused has written something"
            rival.leave()
            again(byte)
            return
        # The other one had not written its epoch: it had just been started, or never was.
        has_won(rival, other, first + 2, byte)

    each(scenario)


def test_taken_before_it_writes():
    """Both servers are taken when the first one has announced itself, and is about to write."""

    def scenario(rival, which, byte):
        before = [contents(disk) for disk in DISKS]

        def take():
            for one in (0, 1) if which else (1, 0):
                rival.claim(one, GATES[0].claims[-1] + 1)
                rival.write(one)

        for gate in GATES:
            gate.at_write = lambda: rival.once(0, take)
        code, said = assemble("a", GATED)
        rival.check()
        assert rival.clients, "nothing was written"
        is_out_of_it(code, said)
        for one in 0, 1:
            assert rival.clients[one].read(MARK, BLOCK) == b"r" * BLOCK, "the other one has lost a write"
        assert [marked(data) for data in before] == [contents(disk) for disk in DISKS], "something late was written"
        rival.leave()
        again(byte)

    each(scenario)


def test_taken_while_it_writes():
    """Another storage takes over when the first one has written to one server, perhaps, and not to the other one."""

    def scenario(rival, which, byte):
        said = []

        def take():
            said.append(assemble("b", DIRECT[::-1]))

        GATES[which].at_write = lambda: rival.once(0, take)
        code, why = assemble("a", GATED)
        wait_until(60, lambda: said, "the other one has started")
        if said[0][0]:
            fail(f"the other one was refused: {said[0][1]}")
        is_out_of_it(code, why)
        runs("b", byte)
        delete("b")
        again(byte)

    each(scenario)


def test_race():
    """Two storages are started at once, by chance in any order."""

    def scenario(_, which, byte):
        tally = []
        for _ in range(3):
            pair = {"a": DIRECT, "b": DIRECT[::-1]}
            starts = {name: Aside(assemble, name, nodes) for name, nodes in pair.items()}
            results = {name: start.over(120, f"the start of {name}") for name, start in starts.items()}
            for name, (code, said) in results.items():
                if code and not re.search("another head has (taken over|started) this storage", said):
                    fail(f"{name}: the reason was not told: {said}")
                if bool(code) == exists(name):
                    fail(f"{name}: {code}, {said}")
            up = lambda: [name for name in results if exists(name) and attribute(name, "health") != "taken-over"]
            wait_until(20, lambda: len(up()) <= 1, "at most one runs")
            for name in up():
                runs(name, byte)
                if up() != [name]:
                    fail(f"{name} was taken over, but the other one does not run")
            tally.append("".join(up()) or "-")
            for name in results:
                if exists(name):
                    delete(name)
        print(f"[{' '.join(tally)}]", end=" ")
        again(byte)

    each(scenario)


def test_end():
    """The exports have no client any more."""
    dst("unexport", "--all")


run("modprobe", "brd", "rd_nr=2", "rd_size=16384")
load()
for name, disk, port in zip(("one", "two"), DISKS, PORTS):
    dst("export", name, disk, "--listen", f"127.0.0.1:{port}")
GATES = [Gate(port + 10, port) for port in PORTS]
GATED = [f"nbd://127.0.0.1:{port + 10}/{name}" for port, name in zip(PORTS, ("one", "two"))]
main(test_split, test_split_again, test_taken_between, test_taken_before_it_writes, test_taken_while_it_writes, test_race,
     test_end)
