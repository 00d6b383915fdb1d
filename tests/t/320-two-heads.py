#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 300
"""Two heads on one set of exports: the older one is fenced, says so, and loses nothing that it had acknowledged.

Both heads are storages of this kernel, under two names; tests/host has the same with two machines.
"""

import errno
import fcntl
import os
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.environ["TESTS"])
import rawnbd as nbd
from lib import *
from log_writes import DM_DEV_SUSPEND, DM_IOCTL
from rawnbd import Client

BLOCK = 4096
ONE, TWO = "nbd://127.0.0.1:10901/one", "nbd://127.0.0.1:10902/two"


class Writer(threading.Thread):
    """Writes a number to one block after the other, and flushes, until a write fails."""

    def __init__(self, path, blocks, step=1):
        super().__init__(daemon=True)
        self.path, self.blocks, self.step = path, blocks, step
        self.acknowledged, self.error = {}, None
        self.count = 0

    def run(self):
        fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        memory = buffer(BLOCK)
        try:
            while True:
                self.count += 1
                block = self.count * self.step % self.blocks
                memory[:] = struct.pack(">Q", self.count) * (BLOCK // 8)
                os.pwrite(fd, memory, block * BLOCK)
                if self.count % 4 == 0:
                    os.fsync(fd)
                self.acknowledged[block] = self.count
        except OSError as error:
            self.error = error.errno
        finally:
            os.close(fd)

    def check(self, disk):
        """All that was acknowledged is there; what was under way when it failed may be."""
        for block, number in self.acknowledged.items():
            found = struct.unpack(">Q", disk.read(block * BLOCK, BLOCK)[:8])[0]
            if found != number and not (found == self.count and block == self.count * self.step % self.blocks):
                fail(f"block {block}: {found} instead of {number}, which was acknowledged")


def health(name):
    with open(f"/sys/devices/{name}/health", encoding="ascii") as file:
        return file.read().strip()


def nodes(name):
    return [entry for entry in os.listdir(f"/sys/devices/{name}") if entry.startswith("n-")]


def told(name, attribute):
    """An attribute of each node."""
    values = []
    for entry in nodes(name):
        with open(f"/sys/devices/{name}/{entry}/{attribute}", encoding="ascii") as file:
            values.append(file.read().strip())
    return values


def fails(act):
    try:
        act()
    except OSError as error:
        assert error.errno == errno.EIO, error
        return
    fail("a request of a fenced head was done")


def is_fenced(name):
    """The head says that it was fenced, in each way."""
    wait_until(20, lambda: told(name, "state") == ["failed"] * len(nodes(name)), f"the nodes of {name} are failed")
    assert health(name) == "taken-over"
    for reason in told(name, "reason"):
        assert reason.startswith("another head has taken over this storage (epoch "), reason
    assert "taken over by another machine" in dst("status", name)


def test_takeover(alg):
    dst("create", "a", ONE, TWO, "--alg", alg, "--force", "--start-array")
    blocks = int(run("blockdev", "--getsize64", "/dev/dst-a")) // BLOCK
    assert told("a", "fenced") == ["1", "1"]
    writer = Writer("/dev/dst-a", blocks, blocks // 7)
    writer.start()
    wait_until(20, lambda: writer.count > 50, "it writes")
    # To look at the nodes, and to be refused, disturbs nobody.
    refuse("missing", "assemble", "b", TWO)
    dst("discover", "127.0.0.1:10901")
    before = writer.count
    wait_until(20, lambda: writer.count > before + 50, "it still writes")
    assert told("a", "reconnects") == ["0", "0"] and told("a", "state") == ["up", "up"]
    with open(f"{TMP}/events", "w", encoding="ascii") as events:
        monitor = subprocess.Popen(["dst", "monitor", "a"], stdout=events, stderr=subprocess.STDOUT)
        time.sleep(0.5)
        dst("assemble", "b", TWO, ONE)
        writer.join(20 * SLOW)
        assert not writer.is_alive() and writer.error == errno.EIO, writer.error
        is_fenced("a")
        wait_until(10, lambda: "taken-over" in open(f"{TMP}/events", encoding="ascii").read(), "an event tells of it")
        monitor.kill()
    with Direct("/dev/dst-b") as new:
        writer.check(new)
        for block in range(0, blocks, blocks // 5):
            new.write(block * BLOCK, b"n" * BLOCK)
        with Direct("/dev/dst-a") as old:
            for block in range(0, blocks, blocks // 5):
                fails(lambda: old.write(block * BLOCK, b"o" * BLOCK))
            fails(lambda: old.read(0, BLOCK))
            fails(lambda: os.fsync(old.fd))
        for block in range(0, blocks, blocks // 5):
            assert new.read(block * BLOCK, BLOCK) == b"n" * BLOCK
    # The old head ends, in time, and says nothing to the nodes any more.
    begin = time.monotonic()
    delete("a")
    assert time.monotonic() - begin < 10 * SLOW
    with Direct("/dev/dst-b") as new:
        new.write(0, b"m" * BLOCK)
    # The old head wrote until the last moment: what was active is made equal first.
    wait_until(30, lambda: health("b") in ("healthy", "none"), "the new head's copies are equal")
    assert told("b", "reconnects") == ["0", "0"]
    # It takes the storage back.
    dst("assemble", "a", ONE, TWO)
    is_fenced("b")
    with Direct("/dev/dst-a") as old, Direct("/dev/dst-b") as new:
        assert old.read(0, BLOCK) == b"m" * BLOCK
        fails(lambda: new.write(0, b"x" * BLOCK))
        old.write(0, b"l" * BLOCK)
    # A head that was stopped can be started again when the other one has ended.
    stop("b")
    delete("a")
    refuse("storage a|names|are of the storage", "start", "b")
    delete("b")
    dst("assemble", "b", ONE, TWO)
    with Direct("/dev/dst-b") as new:
        assert new.read(0, BLOCK) == b"l" * BLOCK
    stop("b")
    dst("start", "b")
    delete("b")


def test_linear():
    test_takeover("alg_linear")


def test_suspended():
    """What waits for a node that the fenced head has suspended ends, too."""
    dst("create", "a", ONE, "/dev/ram2", "--force", "--start-array")
    writer = Writer("/dev/dst-a", 16)
    writer.start()
    wait_until(20, lambda: writer.count > 10, "it writes")
    dst("suspend", "a", "0")
    last = int(run("blockdev", "--getsize64", "/dev/dst-a")) // BLOCK - 1
    waiting = Writer("/dev/dst-a", last + 1, last)
    dst("suspend", "a", "1")
    waiting.start()
    wait_until(20, lambda: all(int(waits) > 0 for waits in told("a", "in_flight")), "writes wait for both nodes")
    answer, client = claim(10901, uuid_of("a"), b"x" * 16, 100)
    assert answer == nbd.ACK
    for thread in (writer, waiting):
        thread.join(20 * SLOW)
        assert not thread.is_alive(), "a write of a fenced head waits"
    client.sock.close()
    assert writer.error == waiting.error == errno.EIO, (writer.error, waiting.error)
    delete("a")


def test_mirror():
    test_takeover("alg_mirror")
    # The copies are equal where something was written.
    with Direct("/dev/ram0") as one, Direct("/dev/ram1") as two:
        assert one.read(0, BLOCK) == two.read(0, BLOCK) == b"l" * BLOCK


def test_private_copy():
    """A head that has a copy for itself does not go on with that."""
    dst("create", "a", "/dev/ram2", ONE, TWO, "--alg", "alg_mirror", "--force", "--start-array")
    wait_until(20, lambda: health("a") == "healthy", "all is in sync")
    writer = Writer("/dev/dst-a", 1024)
    writer.start()
    wait_until(20, lambda: writer.count > 50, "it writes")
    dst("assemble", "b", ONE, TWO, "--degraded")
    writer.join(20 * SLOW)
    assert writer.error == errno.EIO, writer.error
    wait_until(20, lambda: health("a") == "taken-over", "it says so")
    with Direct("/dev/dst-b") as new:
        writer.check(new)
        new.write(0, b"n" * BLOCK)
        with Direct("/dev/dst-a") as old:
            fails(lambda: old.write(0, b"o" * BLOCK))
            fails(lambda: old.read(0, BLOCK))
    delete("a")
    delete("b")
    # Its copy was not written to after that, and heals.
    dst("assemble", "b", "/dev/ram2", ONE, TWO)
    wait_until(60, lambda: health("b") == "healthy", "it is healed")
    with Direct("/dev/dst-b") as new:
        assert new.read(0, BLOCK) == b"n" * BLOCK
    delete("b")
    with Direct("/dev/ram2") as disk:
        assert disk.read(0, BLOCK) == b"n" * BLOCK


def resume(name):
    """Ends `dmsetup suspend`."""
    size = struct.calcsize(DM_IOCTL)
    head = struct.pack(DM_IOCTL, 4, 0, 0, size, size, 0, 0, 0, 0, 0, 0, name.encode(), b"")
    with open("/dev/mapper/control", "rb") as control:
        fcntl.ioctl(control, DM_DEV_SUSPEND, bytearray(head))


def taken_over_amid_a_write():
    """Another head takes over while a write with FUA waits for the private copy, and ends there when the exports are lost: it
    is found out by what they had answered. Gives whether they told the reason in time."""
    dst("create", "a", "/dev/mapper/own", ONE, TWO, "--alg", "alg_mirror", "--force", "--start-array")
    disk = Direct("/dev/dst-a", os.O_DSYNC)
    disk.write(0, b"o" * BLOCK)
    wait_until(20, lambda: told("a", "in_flight") == ["0"] * 3, "nothing is under way")
    run("dmsetup", "suspend", "--noflush", "--nolockfs", "own")
    write = Aside(disk.write, 0, b"p" * BLOCK)
    wait_until(20, lambda: sorted(told("a", "in_flight")) == ["0", "0", "1"], "the write waits for the private copy")
    # So that the question why takes some time.
    run("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "60ms")
    new = Aside(dst, "assemble", "b", ONE, TWO, "--degraded")
    end = time.monotonic() + 20 * SLOW
    while sorted(told("a", "state")) != ["lost", "lost", "up"]:
        assert time.monotonic() < end, "the exports are not lost"
    lost = time.monotonic()
    # A process would take too long on a slow kernel.
    resume("own")
    while health("a") != "taken-over":
        assert time.monotonic() < end, "it does not hear the reason"
    took = time.monotonic() - lost
    new.over(20, "the other head starts")
    run("tc", "qdisc", "del", "dev", "lo", "root")
    # A server is waited for up to a second.
    in_time = took < 0.9
    write.over(20, "the write", errno.EIO if in_time else getattr(write.error, "errno", None))
    disk.close()
    with Direct("/dev/dst-b") as disk:
        assert disk.read(0, BLOCK) in (b"o" * BLOCK, b"p" * BLOCK)
        disk.write(0, b"n" * BLOCK)
    delete("a")
    delete("b")
    print(f"[{took:.2f} s]", end=" ")
    return in_time


def test_write_to_private_copy():
    """A copy that is found to be lost, by what it had answered, is no reason either to go on with the private one."""
    run("dmsetup", "create", "own", "--table", "0 32768 linear /dev/ram2 0")
    if not any(taken_over_amid_a_write() for _ in range(10)):
        fail("the reason was never told in time")
    dst("assemble", "b", "/dev/mapper/own", ONE, TWO)
    wait_until(60, lambda: health("b") == "healthy", "it is healed")
    delete("b")
    with Direct("/dev/ram2") as disk:
        assert disk.read(0, BLOCK) == b"n" * BLOCK
    run("dmsetup", "remove", "--retry", "own")


def uuid_of(name):
    with open(f"/sys/devices/{name}/uuid", encoding="ascii") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


def claim(port, storage, head, epoch):
    """Another head, which claims a storage and does nothing else; gives the last reply and the client."""
    client = Client(port=port)
    client.greet()
    return client.negotiate(nbd.DST, client.fence(storage, head, epoch))[-1][0], client


def test_claims():
    """A claim of the same epoch, of a head that is gone, and of one that runs."""
    dst("create", "a", ONE, TWO, "--force", "--start-array")
    storage = uuid_of("a")
    with Direct("/dev/dst-a") as disk:
        disk.write(0, b"a" * BLOCK)
    # Another head of the same epoch is refused, and the head goes on.
    answer, client = claim(10901, storage, b"x" * 16, 1)
    client.sock.close()
    assert answer == nbd.ERR_POLICY
    with Direct("/dev/dst-a") as disk:
        disk.write(0, b"b" * BLOCK)
    assert told("a", "reconnects") == ["0", "0"]
    delete("a")
    # Another head has claimed the next epoch on one node only, and has come no further.
    answer, client = claim(10902, storage, b"x" * 16, 2)
    assert answer == nbd.ACK
    client.sock.close()
    dst("assemble", "a", TWO, ONE)
    with Direct("/dev/dst-a") as disk:
        assert disk.read(0, BLOCK) == b"b" * BLOCK
    # Each of two that claim: the one who is later wins, and the first one says that it has lost.
    answer, client = claim(10901, storage, b"x" * 16, 100)
    assert answer == nbd.ACK
    is_fenced("a")
    delete("a")
    dst("assemble", "a", TWO, ONE)
    client.sock.close()
    with Direct("/dev/dst-a") as disk:
        assert disk.read(0, BLOCK) == b"b" * BLOCK
    delete("a")


def test_end():
    """The exports have no client any more."""
    dst("unexport", "--all")


for module in "dm_mod", "sch_netem":
    run("modprobe", module)
run("modprobe", "brd", "rd_nr=3", "rd_size=16384")
load()
dst("export", "one", "/dev/ram0", "--listen", "127.0.0.1:10901")
dst("export", "two", "/dev/ram1", "--listen", "127.0.0.1:10902")
main(test_linear, test_suspended, test_mirror, test_private_copy, test_write_to_private_copy, test_claims, test_end)
