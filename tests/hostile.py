# SPDX-License-Identifier: GPL-2.0
"""A storage with one scripted server behind it, for the tests of servers that misbehave."""

import os
import random
import struct
import sys
import threading
import time

sys.path.insert(0, os.environ["TESTS"])
from lib import *
import nbdserver as nbd
from nbdserver import Server

SIZE = 1 << 20
PORT = 11700

load()


class Bench:
    """A storage with one server behind it."""

    def __init__(self, structured=True, **options):
        global PORT
        PORT += 1
        self.name = f"h{PORT}"
        self.server = Server(SIZE, PORT, structured=structured, **options).start()
        self.server.memory[:] = random.Random(PORT).randbytes(SIZE)
        dst("create", "--no-metadata", self.name, f"localhost:{PORT}", "--start-array", "--keepalive", "3s")
        self.disk = Direct(f"/dev/dst-{self.name}")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.server.on_request = self.server.on_connect = None
            self.check()
            if self.server.complaints:
                fail(f"{self.server.complaints}")
        self.disk.close()
        delete(self.name)
        self.server.stop()

    def reconnects(self):
        return node(self.name, "reconnects")

    def check(self):
        """All is well again."""
        for offset, length in (0, SIZE), (512, 4096), (SIZE - 512, 512):
            if self.disk.read(offset, length) != bytes(self.server.memory[offset : offset + length]):
                fail(f"{self.name}: wrong data at {offset}")
        wait_state(self.name, "up")
        wait_until(5, lambda: node(self.name, "in_flight") == 0, "nothing is in flight")

    def provoke(self, what, trick, command=nbd.READ, lost=True, offset=8192, length=8192, error=None, early=False):
        """One request of that kind is answered by `trick` (once); the device must give the right result.

        `lost`: whether the connection must be given up for it; None if it may (and then the error needn't arrive).
        `early`: the server answers before it has read the data of a write, so they are there a moment later only.
        """
        before = self.reconnects()
        done = []

        def on_request(connection, request):
            if done or request.command != command:
                return False
            done.append(request)
            trick(connection, request)
            return True

        self.server.on_request = on_request
        failure = None
        try:
            if command == nbd.READ:
                # Filled with something else before, so that what is missing shows.
                got = self.disk.read(offset, length)
                if got != bytes(self.server.memory[offset : offset + length]):
                    fail(f"{what}: wrong data")
            elif command == nbd.WRITE:
                data = os.urandom(length)
                self.disk.write(offset, data)
                written = lambda: self.server.memory[offset : offset + length] == data
                if early:
                    wait_until(10, written, f"{what}: the data arrive")
                elif not written():
                    fail(f"{what}: acknowledged, but not written")
            elif command == nbd.FLUSH:
                # So that there is something to flush.
                self.disk.write(offset, bytes(self.server.memory[offset : offset + 512]))
                self.disk.flush()
        except OSError as oserror:
            failure = oserror.errno
        if failure != error and not (lost is None and failure in (None, error)):
            fail(f"{what}: error {failure} instead of {error}")
        if not done:
            fail(f"{what}: the request never came")
        self.server.on_request = None
        # Another request: who comes late with an end of the connection has done so by then.
        if self.disk.read(0, 512) != bytes(self.server.memory[:512]):
            fail(f"{what}: wrong data afterwards")
        if lost is True:
            wait_until(10, lambda: self.reconnects() > before, f"{what}: the connection is given up")
        elif lost is False and self.reconnects() != before:
            fail(f"{what}: the connection was given up: {node(self.name, 'reason')}")
