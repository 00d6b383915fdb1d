#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 500
"""Servers that die, come back, stop, or are cut off: nothing is lost or doubled, and waiting ends as it was asked for."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.environ["TESTS"])
from lib import *
import nbdserver as nbd
from nbdserver import Server

load()


class Daemon:
    """A userspace server for a file."""

    def __init__(self, kind, port, sectors, within=None):
        self.kind, self.port, self.within = kind, port, within
        self.path = f"{TMP}/daemon-{port}"
        with open(self.path, "wb") as file:
            file.truncate(sectors * 512)
        self.process = None
        self.start()

    def command(self):
        if self.kind == "nbdkit":
            words = ["nbdkit", "--foreground", "--port", str(self.port), "file", self.path]
        else:
            words = ["qemu-nbd", "--persistent", "--shared", "0", "--format", "raw", "--port", str(self.port), self.path]
        return (["ip", "netns", "exec", self.within] if self.within else []) + words

    def start(self):
        wait_until(20, lambda: not self.listening(), f"port {self.port} is free")
        log = open(f"{self.path}.log", "ab")
        self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        wait_until(20, self.listening, f"{self.kind} listens")

    def listening(self):
        command = ["ss", "-Hltn", f"sport = :{self.port}"]
        if self.within:
            command = ["ip", "netns", "exec", self.within] + command
        return run(*command).strip() != ""

    def kill(self):
        self.process.kill()
        self.process.wait()

    def data(self):
        return open(self.path, "rb").read()


class Uevents:
    """The states of nodes, as uevents tell them."""

    def __enter__(self):
        self.path = f"{TMP}/uevents"
        self.file = open(self.path, "w")
        self.process = subprocess.Popen(
            ["udevadm", "monitor", "--kernel", "--property"], stdout=self.file, stderr=subprocess.STDOUT
        )
        wait_until(10, lambda: "KERNEL - the kernel uevent" in open(self.path).read(), "udevadm listens")
        return self

    def states(self, storage):
        states = []
        for event in open(self.path).read().split("\n\n"):
            properties = dict(line.split("=", 1) for line in event.splitlines() if "=" in line)
            if properties.get("DST_STORAGE") == storage and "DST_STATE" in properties:
                states.append(properties["DST_STATE"])
        return states

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.file.close()


def verify(disk, size, depth=16, seed=1):
    """fio's command that writes all of it, in random order and sizes, and verifies it."""
    return ["fio", "--name=x", f"--filename={disk}", "--direct=1", "--ioengine=libaio", f"--iodepth={depth}",
            "--rw=randwrite", "--bsrange=512-64k", f"--size={size}", "--verify=crc32c", "--verify_fatal=1",
            "--verify_interval=512", "--verify_state_save=0", f"--randseed={seed}", "--fsync=64"]


def in_thread(function, *arguments):
    """Runs it aside; gives an object with `result`, `error`, `seconds`, and join()."""

    class Aside(threading.Thread):
        result = error = seconds = None

        def run(self):
            start = time.monotonic()
            try:
                self.result = function(*arguments)
            except BaseException as error:
                self.error = error
            self.seconds = time.monotonic() - start

    aside = Aside(daemon=True)
    aside.start()
    return aside


def over_within(aside, seconds, what):
    aside.join(seconds * SLOW)
    if aside.is_alive():
        fail(f"{what}: not over after {seconds * SLOW} s")


def test_restart_under_load():
    """SIGKILL for both servers, again and again, under writes that are verified."""
    sectors = 8191
    servers = [Daemon("nbdkit", 11501, sectors), Daemon("qemu", 11502, sectors)]
    dst("create", "--no-metadata", "kill", "localhost:11501", "localhost:11502", "--start-array")
    size = 2 * sectors * 512
    stat = lambda: list(map(int, open("/sys/block/dst-kill/stat").read().split()))
    before = stat()
    starts = 0, sectors
    bytes_before = [counters("kill", "bytes", start) for start in starts]
    requests_before = [counters("kill", "requests", start) for start in starts]
    kills, seed, rng = 0, 0, random.Random(5)
    with Uevents() as uevents:
        while kills < 8:
            seed += 1
            fio = subprocess.Popen(verify("/dev/dst-kill", size, seed=seed), stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
            output = in_thread(lambda: fio.communicate()[0])
            while fio.poll() is None:
                time.sleep(rng.uniform(0.3, 1.5) * SLOW)
                if fio.poll() is not None:
                    break
                server = servers[kills % 2]
                server.kill()
                time.sleep(rng.uniform(0, 0.3))
                server.start()
                kills += 1
                wait_state("kill", "up", starts[0])
                wait_state("kill", "up", starts[1])
            over_within(output, 60, "fio")
            if fio.returncode:
                fail(f"fio: {output.result}")
        for state in "lost", "up":
            wait_until(10, lambda: state in uevents.states("kill"), f"a uevent tells of '{state}'")
    wait_until(10, lambda: all(node("kill", "in_flight", start) == 0 for start in starts), "nothing is in flight")
    with open("/dev/dst-kill", "rb") as disk:
        run("sysctl", "-q", "vm.drop_caches=3")
        if disk.read() != servers[0].data() + servers[1].data():
            fail("the device and what lies behind it differ")
    # Each request counts once, however often it was sent.
    after = stat()
    for kind, column in ("read", 2), ("write", 6):
        at_disk = (after[column] - before[column]) * 512
        at_nodes = sum(counters("kill", "bytes", start)[kind] - old[kind] for start, old in zip(starts, bytes_before))
        if kind == "write" and at_disk != at_nodes:
            fail(f"{at_disk} bytes written to the disk, {at_nodes} to the nodes")
    resent = [node("kill", "resent", start) for start in starts]
    reconnects = [node("kill", "reconnects", start) for start in starts]
    if sum(reconnects) < kills:
        fail(f"{kills} kills, but only {reconnects} new connections")
    if not sum(resent):
        fail("nothing was in flight at any of the kills")
    if sum(resent) > sum(reconnects) * 128:
        fail(f"{resent} requests were sent again, more than there can be")
    if any(node("kill", "errors", start) for start in starts):
        fail("errors reached the device")
    print(f"[{kills} kills, {resent} sent again]", end=" ")
    delete("kill")
    for server in servers:
        server.kill()


def test_reset_under_load():
    """The connection is reset under writes that are verified."""
    server = Daemon("nbdkit", 11503, 8191)
    dst("create", "--no-metadata", "reset", "localhost:11503", "--start-array")
    fio = subprocess.Popen(verify("/dev/dst-reset", 8191 * 512), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = in_thread(lambda: fio.communicate()[0])
    resets = 0
    while fio.poll() is None:
        time.sleep(0.4 * SLOW)
        run("ss", "-K", "dport = :11503")
        resets += 1
    over_within(output, 60, "fio")
    if fio.returncode:
        fail(f"fio: {output.result}")
    if resets < 2 or node("reset", "reconnects") < 1:
        fail(f"{resets} resets, {node('reset', 'reconnects')} new connections")
    with open("/dev/dst-reset", "rb") as disk:
        run("sysctl", "-q", "vm.drop_caches=3")
        if disk.read() != server.data():
            fail("the device and what lies behind it differ")
    print(f"[{node('reset', 'reconnects')} connections, {node('reset', 'resent')} sent again]", end=" ")
    delete("reset")
    server.kill()


def test_late_reader():
    """What a server reads late from a connection that is gone is what was sent, though the page has new data by then."""
    server = Server(1 << 20, 11509)
    gate, late = threading.Event(), []

    def takes_data(connection, request):
        if connection.number == first:
            arrived.set()
            gate.wait()
        return True

    def on_request(connection, request):
        if connection.number == first:
            late.append(request.data)
            return True
        return False

    first, arrived = None, threading.Event()
    server.start()
    dst("create", "--no-metadata", "late", "localhost:11509", "--start-array")
    wait_state("late", "up")
    first = server.count
    server.takes_data, server.on_request = takes_data, on_request
    with Direct("/dev/dst-late") as disk:
        memory = buffer(65536)
        memory[:] = b"O" * 65536
        write = in_thread(os.pwritev, disk.fd, [memory], 0)
        over_within(in_thread(arrived.wait), 10, "the arrival of the write")
        # Its data are in the server's receive queue by now, or on their way there.
        time.sleep(0.5)
        run("ss", "-K", "dport = :11509")
        over_within(write, 10, "the write, on the next connection")
        if write.error or write.result != 65536:
            fail(f"the write: {write.error or write.result}")
        memory[:] = b"N" * 65536
        gate.set()
        wait_until(10, lambda: late, "the server reads on")
        if late[0] != b"O" * 65536:
            fail(f"{late[0].count(b'N')} bytes of the buffer's next content were read as the old write's")
        if disk.read(0, 65536) != b"O" * 65536:
            fail("the write was lost")
    delete("late")
    server.stop()


def test_order():
    """What is sent again is sent in the order of submission, and the newer of two writes stays."""
    server = Server(1 << 20, 11504).start()
    dst("create", "--no-metadata", "order", "localhost:11504", "--start-array")
    disk = Direct("/dev/dst-order")
    held, total = [], 0

    def hold(connection, request):
        held.append((connection, request))
        return True

    for reset in False, True:
        held.clear()
        server.on_request = hold
        old, new = os.urandom(4096), os.urandom(4096)
        writes = []
        # The same place twice, others before and behind; one larger than what a socket takes at once.
        places = [(0, old), (1 << 18, os.urandom(512 << 10)), (4096, os.urandom(8 << 10)), (0, new), (16384, os.urandom(512))]
        for offset, data in places:
            seen = len(held)
            writes.append(in_thread(disk.write, offset, data))
            wait_until(10, lambda: len(held) > seen, "the write arrives")
        sent = [(r.offset, r.length) for _, r in held]
        total += len(sent)
        cookies = [r.cookie for _, r in held]
        held.clear()
        server.drop(reset)
        wait_until(20, lambda: len(held) >= len(sent), f"{sent} arrive again")
        again = [(r.offset, r.length) for _, r in held]
        if again != sent:
            fail(f"sent as {sent}, again as {again}")
        if set(cookies) & {r.cookie for _, r in held}:
            fail("a cookie was used again")
        if any(w.seconds is not None for w in writes):
            fail("a write ended without a reply")
        # Answered from the last to the first, done from the first to the last.
        for connection, request in held:
            server.store(request.offset, request.data)
        for connection, request in reversed(held):
            connection.send(connection.simple(request))
        for write in writes:
            over_within(write, 10, "a write")
            if write.error:
                raise write.error
        server.on_request = None
        if disk.read(0, 4096) != new:
            fail("the older write is there")
        for offset, data in places[1:3]:
            if disk.read(offset, len(data)) != data:
                fail(f"wrong data at {offset}")
    if node("order", "resent") != total:
        fail(f"{node('order', 'resent')} were sent again, not {total}")
    disk.close()
    delete("order")
    server.stop()


def halt(pid):
    """Stops a process, and waits until each of its threads is stopped: one that runs could still answer."""
    os.kill(pid, signal.SIGSTOP)

    def halted():
        stats = [open(f"/proc/{pid}/task/{thread}/stat").read() for thread in os.listdir(f"/proc/{pid}/task")]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    wait_until(10, halted, "the server is stopped")


def test_waiting():
    """It waits by default; a timeout ends the waiting, set before or while waiting; so does fail-now."""
    server = Daemon("nbdkit", 11505, 8192)
    dst("create", "--no-metadata", "wait", "localhost:11505", "--start-array")
    disk = Direct("/dev/dst-wait")
    disk.write(0, b"A" * 4096)
    read = lambda: disk.read(0, 4096)

    def lose():
        server.kill()
        wait_state("wait", "lost")

    def back(state="lost"):
        if node("wait", "state") != state:
            fail(f"state {node('wait', 'state')}, not {state}")
        server.start()
        wait_state("wait", "up", seconds=10)

    def expect_error(aside, low, high, what):
        over_within(aside, high, what)
        if not isinstance(aside.error, OSError) or aside.error.errno != 5:
            fail(f"{what}: {aside.error or 'no error'}")
        if aside.seconds < low:
            fail(f"{what}: ended after {aside.seconds:.1f} s already")

    # For ever.
    lose()
    if not node("wait", "reason"):
        fail("no reason is shown")
    reads = [in_thread(read) for _ in range(5)]
    writes = [in_thread(disk.write, 8192 * i, bytes([i]) * 8192) for i in range(1, 6)]
    time.sleep(5)
    if any(aside.seconds is not None for aside in reads + writes):
        fail("it did not wait")
    if node("wait", "in_flight") != 10:
        fail(f"{node('wait', 'in_flight')} requests wait, not 10")
    back()
    for aside in reads + writes:
        over_within(aside, 10, "a request when the server is back")
        if aside.error:
            raise aside.error
    data = server.data()
    for i in range(1, 6):
        if data[8192 * i : 8192 * (i + 1)] != bytes([i]) * 8192:
            fail("a write was lost")

    # A timeout that is set while they wait.
    lose()
    reads = [in_thread(read) for _ in range(3)]
    write = in_thread(disk.write, 0, b"B" * 4096)
    time.sleep(2)
    dst("set", "wait", "timeout=1s")
    for aside in reads + [write]:
        expect_error(aside, 1, 5, "a timeout set while waiting")
    wait_state("wait", "failed")
    expect_error(in_thread(read), 0, 2, "a request to a node that has failed")
    back("failed")
    disk.write(0, b"C" * 4096)
    if read() != b"C" * 4096:
        fail("wrong data")

    # One that was set before; it ends what waits, not what the server answers in time.
    lose()
    if node("wait", "timeout_ms") != 1000:
        fail("the timeout is not shown")
    expect_error(in_thread(read), 0.8, 5, "a timeout set before")
    back("failed")
    # And one that is taken back.
    dst("set", "wait", "timeout=20s")
    lose()
    aside = in_thread(read)
    dst("set", "wait", "timeout=wait")
    time.sleep(3)
    if aside.seconds is not None:
        fail("it did not wait")

    # fail-now, and the same again on a node that has failed.
    dst("fail-now", "wait")
    expect_error(aside, 0, 3, "fail-now")
    wait_state("wait", "failed")
    dst("fail-now", "wait")
    expect_error(in_thread(read), 0, 2, "a request after fail-now")
    back("failed")
    # It does nothing to a node that is up.
    before = node("wait", "reconnects")
    dst("fail-now", "wait")
    if read() != b"C" * 4096 or node("wait", "reconnects") != before:
        fail("fail-now hurt a node that is up")

    # A server that lives, but doesn't answer.
    halt(server.process.pid)
    dst("set", "wait", "timeout=2s")
    expect_error(in_thread(read), 1.5, 7, "a server that doesn't answer")
    os.kill(server.process.pid, signal.SIGCONT)
    wait_state("wait", "up", seconds=15)
    if read() != b"C" * 4096:
        fail("wrong data")
    # The same by fail-now for this node.
    dst("set", "wait", "timeout=wait")
    halt(server.process.pid)
    aside = in_thread(read)
    wait_until(10, lambda: node("wait", "in_flight") == 1, "the read is under way")
    dst("fail-now", "wait", "n-0")
    expect_error(aside, 0, 5, "fail-now for a server that doesn't answer")
    os.kill(server.process.pid, signal.SIGCONT)
    wait_state("wait", "up", seconds=15)
    if read() != b"C" * 4096:
        fail("wrong data")
    disk.close()
    # The timeout can be given with the node.
    delete("wait")
    dst("create", "--no-metadata", "wait", "localhost:11505", "--timeout", "1s", "--start-array")
    with Direct("/dev/dst-wait") as disk:
        lose()
        expect_error(in_thread(disk.read, 0, 512), 0.8, 5, "a timeout given with the node")
    delete("wait", 20)


def test_silent_death():
    """Packets that vanish: noticed within the keepalive, with and without requests under way."""
    run("ip", "netns", "add", "far")
    run("ip", "link", "add", "v-far", "type", "veth", "peer", "name", "eth0", "netns", "far")
    run("ip", "addr", "add", "10.77.9.1/24", "dev", "v-far")
    run("ip", "link", "set", "v-far", "up")
    run("ip", "-n", "far", "addr", "add", "10.77.9.2/24", "dev", "eth0")
    run("ip", "-n", "far", "link", "set", "eth0", "up")
    run("ip", "-n", "far", "link", "set", "lo", "up")
    server = Daemon("nbdkit", 11506, 8192, "far")

    def drop():
        run("nft", "add table inet silent; add chain inet silent in { type filter hook input priority 0; };"
            " add rule inet silent in ip saddr 10.77.9.2 drop")

    def undrop():
        run("nft", "delete table inet silent")

    def cable(state):
        run("ip", "-n", "far", "link", "set", "eth0", state)

    dst("create", "--no-metadata", "silent", "10.77.9.2:11506", "--start-array", "--keepalive", "3s")
    dst("create", "--no-metadata", "default", "10.77.9.2:11506", "--start-array")
    if node("default", "keepalive_s") != 15:
        fail("the default is not 15 s")
    disk = Direct("/dev/dst-silent")
    for cut, mend in (drop, undrop), (lambda: cable("down"), lambda: cable("up")):
        for loaded in False, True:
            disk.write(0, b"D" * 65536)
            wait_state("silent", "up")
            cut()
            start = time.monotonic()
            asides = [in_thread(disk.write, 65536 * i, b"E" * 65536) for i in range(1, 5)] if loaded else []
            wait_state("silent", "lost", seconds=15)
            took = time.monotonic() - start
            print(f"[{took:.1f} s]", end=" ")
            if took > 8 * SLOW:
                fail(f"noticed only after {took:.1f} s instead of 3 s")
            if any(aside.seconds is not None for aside in asides):
                fail("a write was acknowledged by nobody")
            mend()
            for aside in asides:
                over_within(aside, 15, "a write when the network is back")
                if aside.error:
                    raise aside.error
            wait_state("silent", "up", seconds=15)
    data = server.data()
    if data[:65536] != b"D" * 65536 or data[65536 : 5 * 65536] != b"E" * (4 * 65536):
        fail("wrong data")
    # The default.
    wait_state("default", "up", seconds=20)
    drop()
    start = time.monotonic()
    wait_state("default", "lost", seconds=25)
    took = time.monotonic() - start
    if took > 20 * SLOW:
        fail(f"noticed after {took:.1f} s; the default is 15 s")
    print(f"[default: {took:.1f} s]", end=" ")
    undrop()
    wait_state("default", "up", seconds=20)
    disk.close()
    delete("silent")
    delete("default")
    server.kill()
    run("ip", "netns", "del", "far")


def test_slow_node():
    """A server that doesn't read costs only its own requests."""
    slow = Server(8 << 20, 11507)
    slow.receive_buffer = 4096
    slow.start()
    fast = Server(8 << 20, 11508).start()
    run("modprobe", "brd", "rd_nr=1", f"rd_size={8 << 10}")
    dst("create", "--no-metadata", "slow", "localhost:11507", "localhost:11508", "/dev/ram0", "--start-array")
    disk = Direct("/dev/dst-slow")
    gate = threading.Event()
    slow.on_request = lambda c, r: gate.wait() and False
    writes = [in_thread(disk.write, i << 20, bytes([i + 1]) * (1 << 20)) for i in range(8)]
    wait_until(10, lambda: node("slow", "in_flight") >= 4, "the node has much to do")
    time.sleep(1)
    start = time.monotonic()
    for i in range(20):
        for base in 8 << 20, 16 << 20:
            disk.write(base + i * 8192, bytes([i]) * 8192)
            if disk.read(base + i * 8192, 8192) != bytes([i]) * 8192:
                fail("wrong data")
    took = time.monotonic() - start
    if took > 10 * SLOW:
        fail(f"the other nodes needed {took:.1f} s")
    if any(write.seconds is not None for write in writes):
        fail("a write was acknowledged by nobody")
    gate.set()
    slow.on_request = None
    for write in writes:
        over_within(write, 30, "a write when the server reads on")
        if write.error:
            raise write.error
    for i in range(8):
        if disk.read(i << 20, 1 << 20) != bytes([i + 1]) * (1 << 20):
            fail("wrong data")
    disk.close()
    delete("slow")
    run("modprobe", "-r", "brd")


main(
    test_restart_under_load,
    test_reset_under_load,
    test_late_reader,
    test_order,
    test_waiting,
    test_silent_death,
    test_slow_node,
)
