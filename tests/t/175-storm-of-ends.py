#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 400
"""A server that ends the connection again and again, at any point, under a load that is compared with a model."""

import os
import sys

sys.path.insert(0, os.environ["TESTS"])
from hostile import *

WORKERS, OPERATIONS = 8, 150


def worker(bench, number, failures):
    """Reads and writes one part of the device, and knows what must be in it."""
    size = SIZE // WORKERS
    base = number * size
    rng = random.Random(number)
    model = bytearray(bench.server.memory[base : base + size])
    try:
        for step in range(OPERATIONS):
            length = 512 * rng.randint(1, 64)
            at = 512 * rng.randrange((size - length) // 512 + 1)
            if rng.random() < 0.5:
                data = rng.randbytes(length)
                bench.disk.write(base + at, data)
                model[at : at + length] = data
                where, got = "the server", bench.server.load(base + at, length)
            else:
                where, got = "what was read", bench.disk.read(base + at, length)
            if got != model[at : at + length]:
                wrong = next(i for i in range(length) if got[i] != model[at + i])
                fail(f"worker {number}, step {step}: {where} is wrong at {base + at}+{wrong} of {length}")
        if bench.disk.read(base, size) != model:
            fail(f"worker {number}: wrong at the end")
    except (AssertionError, OSError) as error:
        failures.append(str(error))


def test_storm_of_ends():
    """What is acknowledged is written, and what is read is right, however often and wherever a connection ends."""
    for structured in True, False:
        with Bench(structured=structured) as b:
            rng = random.Random(11)

            def on_request(c, r):
                if rng.random() >= 0.03:
                    return False
                # Done or not: the client, which gets less than the whole reply, must send it again.
                if rng.random() < 0.5:
                    b.server.apply(r)
                reply = c.answer(r, 0, b.server.load(r.offset, r.length) if r.command == nbd.READ else b"")
                c.send(reply[: rng.randrange(len(reply))])
                c.close(reset=rng.random() < 0.5)
                return True

            b.server.on_request = on_request
            failures = []
            workers = [threading.Thread(target=worker, args=(b, n, failures), daemon=True) for n in range(WORKERS)]
            for thread in workers:
                thread.start()
            for thread in workers:
                thread.join(180 * SLOW)
                if thread.is_alive():
                    fail("a worker hangs")
            if failures:
                fail("\n".join(failures))
            if b.reconnects() < 10:
                fail(f"only {b.reconnects()} ends")
            if node(b.name, "errors"):
                fail("errors reached the device")
            print(f"[{b.reconnects()} ends, {node(b.name, 'resent')} sent again]", end=" ")


main(test_storm_of_ends)
