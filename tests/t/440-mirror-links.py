#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Long: debug
# Timeout: 900
"""Links to a mirror's copies that are cut, slow, or lose packets at random under writers that overlap: in the end all
copies are equal, and hold what was acknowledged."""

import os
import random
import sys
import time

sys.path.insert(0, os.environ["TESTS"])
from lib import *

MIB = 32
SECTORS = MIB * 2048
DATA = mirror_sectors(SECTORS)
# Each kind of fault twice, and two more; once on the slow kernel.
ROUNDS = 14 if SLOW == 1 else 6

run("modprobe", "brd", "rd_nr=4", f"rd_size={MIB << 10}")
for module in "sch_netem", "nft_chain_nat":
    subprocess.run(["modprobe", module], check=False)
load()


class Site:
    """A machine that has a copy: a network namespace with an export of the kernel."""

    def __init__(self, number):
        self.name, self.cable, self.number = f"site{number}", f"v-site{number}", number
        self.disk, self.host = f"/dev/ram{number}", f"10.77.{number}.2"
        self.address = f"{self.host}:{12400 + number}"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "addr", "add", f"10.77.{number}.1/24", "dev", self.cable)
        run("ip", "link", "set", self.cable, "up")
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("ip", "addr", "add", f"{self.host}/24", "dev", "eth0")
        self.inside("ip", "link", "set", "eth0", "up")
        blank(self.disk)
        self.export()

    def inside(self, *words):
        return run("ip", "netns", "exec", self.name, *words)

    def export(self):
        self.inside("dst", "export", self.name, self.disk, "--listen", self.address)

    # Faults, each with what ends it.

    def drop_from(self):
        """What the site says gets lost."""
        table = f"from{self.number}"
        run("nft", f"add table inet {table}; add chain inet {table} in {{ type filter hook input priority 0; }};"
            f" add rule inet {table} in ip saddr {self.host} drop")
        return lambda: run("nft", f"delete table inet {table}")

    def drop_to(self):
        """What the site is told gets lost."""
        table = f"to{self.number}"
        run("nft", f"add table inet {table}; add chain inet {table} out {{ type filter hook output priority 0; }};"
            f" add rule inet {table} out ip daddr {self.host} drop")
        return lambda: run("nft", f"delete table inet {table}")

    def unplug(self):
        self.inside("ip", "link", "set", "eth0", "down")
        return lambda: self.inside("ip", "link", "set", "eth0", "up")

    def bad_line(self):
        """Slow, and packets get lost and overtake each other, both ways."""
        words = ["root", "netem", "delay", "30ms", "20ms", "loss", "3%", "reorder", "20%", "duplicate", "1%"]
        run("tc", "qdisc", "add", "dev", self.cable, *words)
        self.inside("tc", "qdisc", "add", "dev", "eth0", *words)

        def end():
            run("tc", "qdisc", "del", "dev", self.cable, "root")
            self.inside("tc", "qdisc", "del", "dev", "eth0", "root")

        return end

    def reset(self):
        """Its connections are reset."""
        run("ss", "-K", "dst", self.host)
        return lambda: None

    def restart(self):
        """The export ends, and comes back."""
        self.inside("dst", "unexport", self.name)
        return self.export


FAULTS = [Site.drop_from, Site.drop_to, Site.unplug, Site.bad_line, Site.reset, Site.restart]


def test_links():
    sites = [Site(number) for number in (1, 2, 3)]
    dst("create", "links", "--alg", "alg_mirror", *[site.address + "/" + site.name for site in sites], "--keepalive", "3s",
        "--start-array")
    rng, log, counts = random.Random(11), f"{TMP}/log", {}
    aside = Load("/dev/dst-links", log, "--threads", "6", "--readers", "2", "--hot", "60", "--legs-fail", "--rate", "150", "--area",
                 "512:2048")
    for number in range(ROUNDS):
        victims = rng.sample(sites, rng.choice((1, 1, 1, 2, 3)))
        ends = []
        for site in victims:
            # Each of them at least twice.
            fault = FAULTS[number % len(FAULTS)] if site is victims[0] else rng.choice(FAULTS)
            counts[fault.__name__] = counts.get(fault.__name__, 0) + 1
            ends.append(fault(site))
        time.sleep(rng.uniform(0, 5) * min(SLOW, 2))
        rng.shuffle(ends)
        for end in ends:
            end()
        # Now and then the next one comes before all is well again.
        if rng.random() < 0.6:
            aside.goes_on(20, 120)
    wait_health("links", "healthy", 180)
    aside.goes_on(20)
    print(aside.end(60), counts, f"{storage('links', 'healed')} sectors healed, {storage('links', 'overlaps')} writes waited for others")
    if not storage("links", "overlaps"):
        fail("no write overlapped another one")
    print(oracle("check", log, "--acked", "--atomic", "disk=/dev/dst-links", *[site.disk for site in sites]))
    oracle("equal", DATA, *[site.disk for site in sites])
    delete("links", 30)
    for site in sites:
        run("dst", "unexport", site.name)
        run("ip", "netns", "del", site.name)


def test_thread_sleeps():
    """The connection is lost when all requests that a copy can have are taken, so the mirror's thread waits for one, and the
    server can't be asked for the reason. The copy leaves in time all the same, not when the attempt to ask is given up."""
    blank("/dev/ram0")
    site, depth = Site(1), 4
    dst("create", "full", "--alg", "alg_mirror", "/dev/ram0", f"{site.address}/{site.name}", "--depth", depth, "--start-array")
    wait_health("full", "healthy")
    run("udevadm", "settle")
    local, remote = copy_of("full", "/dev/ram0"), copy_of("full", site.address)
    written = lambda: counters("full", "requests", local)["write"]
    with Direct("/dev/dst-full") as disk:
        # The log knows this region, and not the other one.
        disk.write(0, bytes(4096))
        end = site.drop_to()
        asides = [Aside(disk.write, i * 4096, os.urandom(4096)) for i in range(depth)]
        wait_until(20, lambda: node("full", "in_flight", remote) == depth, "all requests to the copy are taken")
        before = written()
        asides.append(Aside(disk.write, 16 << 20, os.urandom(4096)))
        wait_until(20, lambda: written() > before, "the first copy has the log")
        site.reset()
        wait_until(20, lambda: node("full", "state", remote) != "up", "the connection is lost")
        why = node("full", "reason", remote)
        wait_role("full", site.address, "missing")
        if node("full", "reason", remote) != why:
            fail(f"it left when the next attempt to connect was over: {node('full', 'reason', remote)}")
        for aside in asides:
            aside.over(30, "a write")
        end()
        # The attempt that is under way need not be waited for.
        site.reset()
        wait_health("full", "healthy")
    oracle("equal", DATA, "/dev/ram0", site.disk)
    delete("full", 30)
    run("dst", "unexport", site.name)
    run("ip", "netns", "del", site.name)


main(test_thread_sleeps, test_links)
