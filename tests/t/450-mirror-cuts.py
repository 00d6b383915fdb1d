#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Long: debug
# Timeout: 900
"""The power fails at any moment: two servers with volatile caches write down all that a mirror does on them, in order;
from each of many cuts, what may be left is assembled, heals, and is judged by the oracle.

The load goes on while one copy is lost, comes back and is healed, so cuts fall into writes of the log and of superblocks,
and into healing. Of what was not flushed at a cut all, nothing, or any part is left; the write that was under way may have
been done in part."""

import os
import random
import sys
import threading

sys.path.insert(0, os.environ["TESTS"])
from lib import *
import nbdserver as nbd
from nbdserver import Server
from oracle_rule import Checker, Copy, Log

SIZE = 6 << 20
DATA = mirror_sectors(SIZE // 512) * 512
CUTS = 45 // (3 if SLOW > 1 else 1)
LOG = f"{TMP}/log"

order = threading.Lock()
# (server, command, offset, data, fua, how long the oracle's log was before)
events = []
recording = True

load()


class Recorder(Server):
    """Writes down what changes its data, in one order with the other one."""

    away = False

    def apply(self, request):
        if not recording or request.command not in (nbd.WRITE, nbd.TRIM, nbd.ZEROES, nbd.FLUSH):
            return super().apply(request)
        with order:
            written = os.path.getsize(LOG) if os.path.exists(LOG) else 0
            if request.command == nbd.FLUSH:
                data = None
            else:
                data = request.data if request.command == nbd.WRITE else bytes(request.length)
            events.append((self, request.offset, data, bool(request.flags & nbd.CMD_FUA), written))
            return super().apply(request)

    def lose(self):
        """Clients are cut off, and don't come in."""
        self.away = True
        self.on_connect = self.refuse
        self.drop()

    def refuse(self, connection):
        if self.away:
            raise nbd.Gone
        return False

    def come_back(self):
        self.away = False


def left(server, cut, keep, rng):
    """What is on a server when the power fails before event `cut`."""
    stable, cached = bytearray(SIZE), []

    def apply(chance):
        for at, data, sure in cached:
            if sure or rng.random() < chance:
                stable[at : at + len(data)] = data
        cached.clear()

    for _, offset, data, fua, _ in (event for event in events[:cut] if event[0] is server):
        if data is None:
            apply(1)
        else:
            cached.append((offset, data, fua))
    apply(keep)
    if cut < len(events) and events[cut][0] is server and events[cut][2]:
        _, offset, data, _, _ = events[cut]
        part = rng.randrange(len(data) // 512 + 1) * 512
        stable[offset : offset + part] = data[:part]
    return stable


def check(number, cut, acked, servers):
    """The oracle's judgement of a cut, and both are equal."""
    log = f"{TMP}/cut.log"
    length = events[cut][4] if cut < len(events) else os.path.getsize(LOG)
    with open(LOG, "rb") as whole, open(log, "wb") as part:
        part.write(whole.read(length))
    copies = []
    for i, server in enumerate(servers):
        path = f"{TMP}/cut.{i}"
        with open(path, "wb") as file:
            file.write(server.memory)
        copies.append(Copy(f"copy{i}={path}"))
    checker = Checker(Log(log), copies, acked=acked)
    if not checker.run():
        checker.report()
        fail(f"cut {number}, before event {cut} of {len(events)}")
    if servers[0].memory[:DATA] != servers[1].memory[:DATA]:
        bad = [i for i in range(0, DATA, 512) if servers[0].memory[i : i + 512] != servers[1].memory[i : i + 512]]
        fail(f"cut {number}, before event {cut} of {len(events)}: {len(bad)} sectors differ, the first is {bad[0] // 512}")


def test_cuts():
    global recording
    servers = [Recorder(SIZE, 12501).start(), Recorder(SIZE, 12502).start()]
    places = ["localhost:12501", "localhost:12502"]
    dst("create", "cut", "--alg", "alg_mirror", *places, "--start-array")
    run("udevadm", "settle")
    begin = len(events)
    words = ["--threads", "3", "--readers", "0", "--flush-every", "6", "--rate", "60", "--most", "6", "--zeroes", "4"]
    aside = Load("/dev/dst-cut", LOG, "--area", "128:512", *words)
    aside.goes_on(40)
    servers[1].lose()
    wait_role("cut", ":12502", "missing")
    aside.goes_on(40)
    servers[1].come_back()
    wait_health("cut", "healthy", 60)
    aside.goes_on(20)
    # The other one, too: then the first in the table is behind.
    servers[0].lose()
    wait_role("cut", ":12501", "missing")
    aside.goes_on(20)
    servers[0].come_back()
    wait_health("cut", "healthy", 60)
    aside.goes_on(10)
    print(aside.end(), end="")
    delete("cut")
    recording = False
    print(f"{len(events) - begin} events")

    rng = random.Random(13)
    # Where metadata are written, each cut counts; elsewhere some do.
    metadata = [i for i in range(begin, len(events)) if events[i][2] and events[i][1] >= DATA]
    cuts = rng.sample(metadata, min(len(metadata), CUTS * 2 // 3)) + [rng.randrange(begin, len(events) + 1) for _ in range(CUTS // 3)]
    for number, cut in enumerate(cuts):
        keep = (0, 1, 0.5)[number % 3]
        for server in servers:
            server.memory[:] = left(server, cut, keep, rng)
        nodes = places if rng.random() < 0.5 else places[::-1]
        try:
            dst("assemble", "cut", *nodes)
        except AssertionError as error:
            fail(f"cut {number}, before event {cut} of {len(events)}, {keep} of what was cached is left: {error}")
        wait_health("cut", "healthy", 60)
        delete("cut")
        check(number, cut, keep == 1, servers)
    print(f"{len(cuts)} cuts", end=" ")
    for server in servers:
        server.stop()
        if server.complaints:
            fail(f"{server.complaints}")


main(test_cuts)
