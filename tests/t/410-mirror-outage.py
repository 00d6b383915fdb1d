#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Long: debug
# Timeout: 1200
"""Copies of a mirror that fail, are lost, or are slow: no error above while one is left, and they heal by themselves."""

import os
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.environ["TESTS"])
from lib import *

MIB = 32
SECTORS = MIB * 2048
DATA = mirror_sectors(SECTORS)
EIO = 5
# After so many seconds without a write a region is no longer active.
IDLE = 8

run("modprobe", "brd", "rd_nr=4", f"rd_size={MIB << 10}")
for module in "dm_mod", "dm_flakey", "dm_delay":
    run("modprobe", module)
load()


class Bad:
    """A disk over a RAM disk that can be told to fail."""

    def __init__(self, name, backing):
        blank(backing)
        self.name, self.backing, self.path = name, backing, f"/dev/mapper/{name}"
        run("dmsetup", "create", name, "--table", self.table())
        wait_until(10, lambda: os.path.exists(self.path), f"{self.path} is there")

    def table(self, kind=None, first=0, end=SECTORS):
        """What is good, and a range that has that feature of dm-flakey."""
        if not kind:
            return f"0 {SECTORS} linear {self.backing} 0"
        lines = [f"{first} {end - first} flakey {self.backing} {first} 0 86400 1 {kind}"]
        if first:
            lines.insert(0, f"0 {first} linear {self.backing} 0")
        if end != SECTORS:
            lines.append(f"{end} {SECTORS - end} linear {self.backing} {end}")
        return "\n".join(lines)

    def load(self, table):
        # Some requests may be under way: they end first, in the old table.
        run("dmsetup", "suspend", "--nolockfs", self.name)
        subprocess.run(["dmsetup", "load", self.name], input=table, text=True, check=True)
        run("dmsetup", "resume", self.name)

    def become(self, *arguments):
        self.load(self.table(*arguments))

    def delay(self, milliseconds):
        """Writes take longer."""
        self.load(f"0 {SECTORS} delay {self.backing} 0 0 {self.backing} 0 {milliseconds}")

    def suspend(self):
        run("dmsetup", "suspend", "--nolockfs", "--noflush", self.name)

    def resume(self):
        run("dmsetup", "resume", self.name)

    def remove(self):
        wait_until(10, lambda: not subprocess.run(["dmsetup", "remove", self.name], check=False).returncode, "dmsetup remove")


def make(name, *nodes):
    dst("create", name, "--alg", "alg_mirror", *nodes, "--start-array")
    wait_health(name, "healthy", 10)
    return f"/dev/dst-{name}"


def check(name, log, *copies, options=("--acked",)):
    """The oracle's judgement, and all copies are equal from end to end."""
    print(oracle("check", log, "--settle", *options, f"disk=/dev/dst-{name}", *copies), end="")
    oracle("equal", DATA, *copies)


def works_again(direct, offset):
    """What is written is there; until then there may be errors."""
    data = os.urandom(65536)

    def works():
        try:
            direct.write(offset, data)
            return direct.read(offset, len(data)) == data
        except OSError:
            return False

    wait_until(30, works, "it works again")


def healthy_again(name, seconds=90):
    wait_health(name, "healthy", seconds)
    if storage(name, "stale"):
        fail(f"healthy, but {storage(name, 'stale')} sectors are stale")


def test_remote_outage():
    """A server is killed under load, and comes back: only what was written meanwhile is copied."""
    blank("/dev/ram0")
    server = Daemon(12101, SECTORS)
    disk, log, remote = make("out", "/dev/ram0", "localhost:12101"), f"{TMP}/out.log", ":12101"
    # On the slow kernel one will do.
    for policy in ("least-pending", "round-robin", "local-first")[: 1 if SLOW > 1 else 3]:
        dst("set", "out", f"read-policy={policy}")
        oracle("write", disk, log, "--count", "150", "--readers", "1", "--rate", "100")
        # All regions come to rest.
        time.sleep(IDLE + 2 * (SLOW - 1))
        before = storage("out", "healed")
        # 2 MiB: 32 regions of 64 KiB.
        aside = Load(disk, log, "--area", "1024:512", "--legs-fail", "--rate", "100")
        server.kill()
        wait_role("out", remote, "missing")
        if storage("out", "health") != "degraded":
            fail(f"health: {storage('out', 'health')}")
        aside.goes_on(100)
        if not re.search("degraded", dst("status", "out")) or not re.search("missing", dst("status", "out")):
            fail(f"status: {dst('status', 'out')}")
        stale = storage("out", "stale")
        if not 0 < stale <= 32 * 128:
            fail(f"{stale} sectors are stale; 32 regions were written to")
        server.start()
        healthy_again("out")
        aside.goes_on(20)
        aside.end()
        healed = storage("out", "healed") - before
        print(f"[{policy}: {healed} sectors healed]", end=" ")
        if not 128 <= healed <= 32 * 128:
            fail(f"{healed} sectors were copied; 32 regions were written to")
        check("out", log, "/dev/ram0", server.path, options=("--acked", "--atomic"))
    if counters("out", "bytes", copy_of("out", "/dev/ram0"))["write"] < counters("out", "bytes", copy_of("out", remote))["write"]:
        fail("the local copy got less than the remote one")
    delete("out")
    server.kill()


def test_flapping():
    """A server that comes and goes at random moments, also while it is being healed."""
    blank("/dev/ram0")
    servers = [Daemon(12111, SECTORS), Daemon(12112, SECTORS, "qemu")]
    disk, log, rng = make("flap", "/dev/ram0", "localhost:12111", "localhost:12112"), f"{TMP}/flap.log", random.Random(7)
    aside = Load(disk, log, "--legs-fail", "--rate", "100", "--readers", "2")
    for i in range(8):
        server = servers[i % 2]
        time.sleep(rng.uniform(0, 1.5) * min(SLOW, 2))
        server.kill()
        time.sleep(rng.uniform(0, 1.5) * min(SLOW, 2))
        server.start()
    healthy_again("flap", 180)
    aside.end()
    check("flap", log, "/dev/ram0", servers[0].path, servers[1].path, options=("--acked", "--atomic"))
    delete("flap")
    for server in servers:
        server.kill()


def test_all_cut_at_once():
    """All connections are reset in one moment, again and again: the servers are there, so nobody sees an error."""
    servers = [Daemon(12115, SECTORS), Daemon(12116, SECTORS)]
    disk, log = make("cut", "localhost:12115", "localhost:12116"), f"{TMP}/cut.log"
    aside = Load(disk, log, "--legs-fail", "--readers", "4", "--threads", "4")
    for _ in range(20):
        time.sleep(0.25)
        run("ss", "-K", "dport = :12115 or dport = :12116")
        aside.goes_on(1)
    healthy_again("cut")
    aside.end()
    check("cut", log, *[server.path for server in servers], options=("--acked", "--atomic"))
    delete("cut")
    for server in servers:
        server.kill()


def test_heal_goes_on():
    """Healing that is interrupted goes on where it was."""
    blank("/dev/ram0")
    server = Daemon(12121, SECTORS)
    disk, remote = make("on", "/dev/ram0", "localhost:12121"), ":12121"
    server.kill()
    with Direct(disk) as direct:
        # It is seen to be gone when something is asked for.
        for i in range(16):
            direct.write(i << 20, os.urandom(1 << 20))
    wait_role("on", remote, "missing")
    stale = storage("on", "stale")
    if not 16 * 2048 <= stale <= 17 * 2048:
        fail(f"{stale} sectors are stale after 16 MiB")
    dst("set", "on", "heal-min=0", "heal-max=1M")
    for _ in range(2):
        before = storage("on", "healed")
        server.start()
        wait_until(60, lambda: storage("on", "healed") >= before + 4096, "some of it is healed")
        if storage("on", "health") != "healing":
            fail(f"health: {storage('on', 'health')}")
        if not re.search(r"healing.* of ", dst("status", "on")):
            fail(f"status: {dst('status', 'on')}")
        server.kill()
        wait_role("on", remote, "missing")
    dst("set", "on", "heal-max=0")
    server.start()
    healthy_again("on")
    healed = storage("on", "healed")
    print(f"[{healed} sectors healed, {stale} were stale]", end=" ")
    if not stale <= healed <= stale * 1.3:
        fail(f"{healed} sectors were copied, {stale} were stale")
    oracle("equal", DATA, disk, "/dev/ram0", server.path)
    delete("on")
    server.kill()


def test_silent():
    """A server that is there and does not answer is out of the mirror after 10 s, and heals when it goes on; or is removed."""
    servers = [Daemon(12141, SECTORS), Daemon(12142, SECTORS)]
    disk, log, remote = make("mute", "localhost:12141", "localhost:12142"), f"{TMP}/mute.log", ":12142"
    aside = Load(disk, log, "--area", "1024:512", "--legs-fail", "--rate", "100", "--readers", "1")
    servers[1].process.send_signal(signal.SIGSTOP)
    with Direct(disk) as direct:
        Aside(direct.write, 0, b"m" * 65536).over(30, "a write that one of two servers does not answer")
        if node("mute", "reconnects", copy_of("mute", ":12141")) or storage("mute", "left") != 1:
            fail("the other copy was lost, too")
    wait_role("mute", remote, "missing")
    if storage("mute", "health") != "degraded":
        fail(f"health: {storage('mute', 'health')}")
    aside.goes_on(50)
    servers[1].process.send_signal(signal.SIGCONT)
    healthy_again("mute")
    aside.goes_on(20)
    aside.end()
    oracle("equal", DATA, disk, *[server.path for server in servers])
    # Now nobody waits until it leaves.
    aside = Load(disk, log, "--area", "1024:512", "--legs-fail", "--rate", "100", "--readers", "1")
    servers[1].process.send_signal(signal.SIGSTOP)
    Aside(dst, "remove", "mute", "localhost:12142").over(30, "dst remove of a copy that does not answer")
    wait_health("mute", "healthy")
    aside.goes_on(50)
    aside.end()
    servers[1].kill()
    check("mute", log, servers[0].path, options=("--acked", "--atomic"))
    delete("mute")
    servers[0].kill()


def test_all_lost():
    """The last copy is waited for, and the one that was behind is no substitute; fail-now ends the waiting."""
    servers = [Daemon(12131, SECTORS), Daemon(12132, SECTORS)]
    disk = make("all", "localhost:12131", "localhost:12132")
    direct = Direct(disk)
    direct.write(0, b"1" * 65536)
    servers[0].kill()
    direct.write(0, b"2" * 65536)
    wait_role("all", ":12131", "missing")
    servers[1].kill()
    wait_state("all", "lost", copy_of("all", ":12132"))
    read, write = Aside(direct.read, 0, 4096), Aside(direct.write, 1 << 20, b"3" * 65536)
    # The one that lacks the second write.
    servers[0].start()
    wait_state("all", "up", copy_of("all", ":12131"))
    time.sleep(4 * SLOW)
    if read.seconds is not None or write.seconds is not None:
        fail(f"something was answered without the last copy: {read.result and read.result[:1]}")
    if node("all", "role", copy_of("all", ":12131")) == "in-sync":
        fail("a copy that lacks a write is in sync")
    servers[1].start()
    if read.over(30, "the read") != b"2" * 4096:
        fail("a write was lost")
    write.over(30, "the write")
    healthy_again("all")
    oracle("equal", DATA, disk, servers[0].path, servers[1].path)

    # Both at once; fail-now, and a time limit.
    for way in "fail-now", "timeout":
        if way == "timeout":
            dst("set", "all", "timeout=3s")
        for server in servers:
            server.kill()
        # The read is of none of these: it would be served from the write.
        asides = [Aside(direct.write, i << 20, b"4" * 65536) for i in range(4)] + [Aside(direct.read, 8 << 20, 4096)]
        if way == "fail-now":
            time.sleep(3 * SLOW)
            if any(aside.seconds is not None for aside in asides):
                fail("something did not wait")
            dst("fail-now", "all")
        for i, aside in enumerate(asides):
            aside.over(30, f"{way}, {'the read' if i == 4 else f'write {i}'}", EIO)
        Aside(direct.read, 0, 4096).over(10, "a read when all have failed", EIO)
        for server in servers:
            server.start()
        works_again(direct, 2 << 20)
        healthy_again("all")
        oracle("equal", DATA, disk, servers[0].path, servers[1].path)
    direct.close()
    delete("all")
    for server in servers:
        server.kill()


def test_read_error():
    """A copy that can't read some of it: another one serves, and what can't be read is written again."""
    bad = [Bad("bad0", "/dev/ram0"), Bad("bad1", "/dev/ram1")]
    disk, log = make("read", bad[0].path, bad[1].path), f"{TMP}/read.log"
    dst("set", "read", "read-policy=round-robin")
    oracle("write", disk, log, "--count", "200", "--readers", "0", "--area", "1024:1024")
    bad[0].become("error_reads", 8192, 16384)
    # What it can't read is nothing that anybody wrote, so a rewrite is seen.
    with Direct("/dev/ram0") as spoilt, Direct("/dev/ram1") as good, Direct(disk) as direct:
        places = range(8192 * 512, 10240 * 512, 65536)
        for at in places:
            spoilt.write(at, b"#" * 65536)
        for at in places:
            want = good.read(at, 65536)

            def rewritten():
                if Aside(direct.read, at, 65536).over(30, "a read that one copy can't serve") != want:
                    fail(f"wrong data at {at}")
                return spoilt.read(at, 65536) == want

            wait_until(30, rewritten, f"what could not be read at {at} is written again")
    oracle("check", log, "--acked", f"disk={disk}")
    rescued, rewritten = storage("read", "rescued"), storage("read", "rewritten")
    if not rescued or not rewritten:
        fail(f"{rescued} reads rescued, {rewritten} extents rewritten")
    # Under load, too.
    oracle("write", disk, log, "--count", "100", "--readers", "2", "--area", "1024:1024")
    bad[0].become()
    healthy_again("read")
    check("read", log, "/dev/ram0", "/dev/ram1")
    # On both: an error, and no hang; what can be read is read.
    for disk_ in bad:
        disk_.become("error_reads", 8192, 16384)
    with Direct(disk) as direct:
        Aside(direct.read, 8192 * 512, 65536).over(30, "a read that no copy can serve", EIO)
        Aside(direct.read, 0, 65536).over(30, "another read")
    for disk_ in bad:
        disk_.become()
    healthy_again("read")
    check("read", log, "/dev/ram0", "/dev/ram1")
    delete("read")
    for disk_ in bad:
        disk_.remove()


def test_write_error():
    """A copy that can't write leaves without an error, and is healed when it can; when none can, there are errors."""
    bad = [Bad("bad0", "/dev/ram0"), Bad("bad1", "/dev/ram1")]
    disk, log = make("write", bad[0].path, bad[1].path), f"{TMP}/write.log"
    for which in 0, 1:
        aside = Load(disk, log, "--area", "1024:512", "--legs-fail", "--rate", "100")
        bad[which].become("error_writes")
        wait_role("write", bad[which].path, "missing")
        aside.goes_on(50)
        if storage("write", "health") != "degraded":
            fail(f"health: {storage('write', 'health')}")
        bad[which].become()
        healthy_again("write", 120)
        aside.end()
        check("write", log, "/dev/ram0", "/dev/ram1")
    # A single bad place is enough.
    aside = Load(disk, log, "--area", "1024:512", "--legs-fail", "--rate", "100")
    bad[0].become("error_writes", 8192, 8200)
    wait_until(60, lambda: storage("write", "health") != "healthy", "a copy leaves")
    bad[0].become()
    healthy_again("write", 120)
    aside.end()
    check("write", log, "/dev/ram0", "/dev/ram1")
    # Both, but for the metadata: errors, and no hang.
    for disk_ in bad:
        disk_.become("error_writes", 8192, 16384)
    with Direct(disk) as direct:
        Aside(direct.write, 8192 * 512, b"x" * 65536).over(60, "a write that no copy can take", EIO)
        Aside(direct.write, 20000 * 512, b"y" * 4096).over(60, "a write elsewhere")
        Aside(direct.read, 8192 * 512, 4096).over(60, "a read")
    for disk_ in bad:
        disk_.become()
    with Direct(disk) as direct:
        direct.write(20000 * 512, bytes(4096))
        direct.write(8192 * 512, direct.read(8192 * 512, 65536))
    healthy_again("write", 120)
    oracle("equal", DATA, disk, "/dev/ram0", "/dev/ram1")
    # All of both: neither hangs, nor does taking it down.
    for disk_ in bad:
        disk_.become("error_writes")
    words = ["--errors", "--count", "40", "--readers", "1", "--area", "3000:512"]
    Aside(oracle, "write", disk, f"{TMP}/errors.log", *words).over(60, "writes that no copy can take")
    for disk_ in bad:
        disk_.become()
    delete("write", 60)
    for disk_ in bad:
        disk_.remove()


def test_all_errors():
    """Both copies fail all that they are asked for: errors, and no hang. When they are good again the mirror is, too."""
    bad = [Bad("bad0", "/dev/ram0"), Bad("bad1", "/dev/ram1")]
    disk, log = make("none", bad[0].path, bad[1].path), f"{TMP}/none.log"
    oracle("write", disk, log, "--count", "100", "--readers", "1", "--area", "1024:512")
    for disk_ in bad:
        disk_.load(f"0 {SECTORS} error")
    with Direct(disk) as direct:
        asides = [Aside(direct.read, 0, 4096), Aside(direct.read, 1024 * 4096, 65536)]
        # Where it was written to before, and where not, so that the log must be written first.
        asides += [Aside(direct.write, 1600 * 4096, b"e" * 65536), Aside(direct.write, 16 << 20, b"e" * 65536)]
        for i, aside in enumerate(asides):
            aside.over(30, f"request {i} when both copies fail", EIO)
        words = ["--errors", "--count", "40", "--readers", "1", "--area", "1024:512"]
        Aside(oracle, "write", disk, log, *words).over(60, "a load when both copies fail")
        Aside(dst, "status", "none").over(20, "dst status")
        for disk_ in bad:
            disk_.become()
        works_again(direct, 16 << 20)
    healthy_again("none", 120)
    oracle("write", disk, log, "--count", "50", "--readers", "1", "--area", "1024:512")
    check("none", log, "/dev/ram0", "/dev/ram1")
    delete("none")
    # What they know of each other is right, too.
    dst("assemble", "none", *[disk_.path for disk_ in bad])
    wait_health("none", "healthy", 10)
    check("none", log, "/dev/ram0", "/dev/ram1")
    delete("none")
    for disk_ in bad:
        disk_.remove()


def test_end_without_servers():
    """The servers are dead, or silent: the mirror can be ended, and what was active is compared when it is assembled."""
    servers = [Daemon(12151, SECTORS), Daemon(12152, SECTORS)]
    disk, nodes = make("end", "localhost:12151", "localhost:12152"), ("localhost:12151", "localhost:12152")
    for way, command in ("dead", stop), ("silent", delete):
        newest = os.urandom(1 << 20)
        with Direct(disk) as direct:
            direct.write(1 << 20, os.urandom(1 << 20))
            if way == "dead":
                # The last one that is left has more than the other one.
                servers[0].kill()
                direct.write(1 << 20, newest)
                wait_role("end", ":12151", "missing")
            else:
                direct.write(1 << 20, newest)
        for server in servers:
            server.process.send_signal(signal.SIGSTOP)
        if way == "dead":
            servers[1].kill()
            wait_state("end", "lost", copy_of("end", ":12152"))
        Aside(command, "end").over(30, f"the end of a mirror whose servers are {way}")
        for server in servers:
            server.kill()
        if way == "silent":
            # Nothing tells of this but that a write was under way there not long ago.
            with open(servers[1].path, "r+b") as file:
                file.seek(1 << 20)
                file.write(b"#" * (1 << 20))
        for server in servers:
            server.start()
        if way == "dead":
            delete("end")
        dst("assemble", "end", *nodes)
        healthy_again("end")
        healed = storage("end", "healed")
        if not 16 * 128 <= healed <= 17 * 128:
            fail(f"{way}: {healed} sectors were copied; 16 regions were active")
        with Direct(disk) as direct:
            if direct.read(1 << 20, 1 << 20) != newest:
                fail(f"{way}: what was written last is lost")
        oracle("equal", DATA, disk, *[server.path for server in servers])
    delete("end")
    for server in servers:
        server.kill()


def test_slow_copy():
    """A copy that is slow makes writes slow, and reads only if it must serve them."""
    bad = [Bad("bad0", "/dev/ram0"), Bad("bad1", "/dev/ram1")]
    disk, log = make("slow", bad[0].path, bad[1].path), f"{TMP}/slow.log"
    bad[1].delay(200)
    oracle("write", disk, log, "--count", "40", "--readers", "1", "--area", "1024:512")
    if storage("slow", "health") != "healthy":
        fail("a slow copy left")
    bad[1].become()
    check("slow", log, "/dev/ram0", "/dev/ram1")
    with Direct(disk) as direct:
        direct.write(0, b"s" * (1 << 20))
        for which in 0, 1:
            bad[which].suspend()
            writes = [Aside(direct.write, (8 << 20) + i * 65536, b"t" * 65536) for i in range(4)]
            name = copy_of("slow", bad[which].path)
            wait_until(20, lambda: node("slow", "in_flight", name), "the writes are at the copy that is stuck")
            # They are over on the other one.
            time.sleep(1)
            # One after the other: of many at once, the least busy copy could be the one with four stuck writes.
            for i in range(20):
                read = Aside(direct.read, i * 4096, 4096)
                if read.over(20, "a read that the other copy can serve") != b"s" * 4096:
                    fail("wrong data")
            if any(write.seconds is not None for write in writes):
                fail("a write was acknowledged that one copy has not")
            in_time = Aside(dst, "status", "slow")
            in_time.over(20, "dst status")
            bad[which].resume()
            for write in writes:
                write.over(30, "a write when the copy goes on")
    if storage("slow", "health") != "healthy":
        fail("a slow copy left")
    oracle("equal", DATA, disk, "/dev/ram0", "/dev/ram1")
    delete("slow")
    for disk_ in bad:
        disk_.remove()


def test_held():
    """A disk that ends nothing any more. A local copy can't be removed then, which is said, in time. If it is behind an export
    the copy leaves, writes go on, and it can be removed."""
    local, far = Bad("local", "/dev/ram1"), Bad("far", "/dev/ram2")
    try:
        held(local, far)
    finally:
        # Or nothing that uses them could be ended.
        for disk in local, far:
            disk.resume()
    dst("unexport", "far")
    for disk in local, far:
        disk.remove()


def held(local, far):
    blank("/dev/ram0")
    dst("export", "far", far.path, "--listen", "127.0.0.1:12110")
    uri, remote = "nbd://127.0.0.1:12110/far", ":12110"
    disk, log = make("held", "/dev/ram0", local.path, uri), f"{TMP}/held.log"
    with Direct(disk) as direct:
        direct.write(0, b"h" * 65536)
        local.suspend()
        write = Aside(direct.write, 0, b"i" * 65536)
        wait_until(20, lambda: node("held", "in_flight", copy_of("held", local.path)), "the write is at the disk")
        refused = Aside(refuse, "holds on to [0-9]+ requests, and has ended none for 5 s", "remove", "held", local.path)
        refused.over(20, "a removal that is refused")
        if write.seconds is not None:
            fail("a write was acknowledged that one copy has not")
        local.resume()
        write.over(30, "the write")
        if storage("held", "health") != "healthy":
            fail("a copy left")
        dst("remove", "held", local.path)
    load = Load(disk, log, "--area", "1024:512", "--legs-fail", "--rate", "100")
    far.suspend()
    wait_role("held", remote, "missing", 60)
    load.goes_on(50)
    Aside(dst, "remove", "held", uri).over(30, "the removal of a server that does not answer")
    load.goes_on(50)
    load.end()
    far.resume()
    dst("add", "held", uri, "--force")
    healthy_again("held")
    check("held", log, "/dev/ram0", "/dev/ram2")
    delete("held")


main(
    test_remote_outage,
    test_flapping,
    test_all_cut_at_once,
    test_heal_goes_on,
    test_silent,
    test_all_lost,
    test_read_error,
    test_write_error,
    test_all_errors,
    test_end_without_servers,
    test_slow_copy,
    test_held,
)
