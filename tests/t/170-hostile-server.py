#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
# Timeout: 400
"""Servers that break the protocol in every way: the client makes a new connection, and the data stay right."""

import os
import sys
import time

sys.path.insert(0, os.environ["TESTS"])
from hostile import *


def test_read_replies():
    with Bench() as b:
        s, p = b.server, b.provoke

        def data(r, at=0, length=None, flags=nbd.DONE):
            length = r.length - at if length is None else length
            return lambda c: c.data_chunk(r, r.offset + at, s.load(r.offset + at, length), flags)

        def send(*parts):
            """A trick: each part takes connection and request and gives bytes."""
            return lambda c, r: c.send(*[part(c, r) for part in parts])

        def good(at, length, flags=0):
            return lambda c, r: c.data_chunk(r, r.offset + at, s.load(r.offset + at, length), flags)

        def hole(at, length, flags=0):
            return lambda c, r: c.hole_chunk(r, r.offset + at, length, flags)

        end = lambda c, r: c.chunk(r, nbd.NONE, flags=nbd.DONE)

        # What is allowed.
        p("chunks in order", send(good(0, 4096), good(4096, 4096, nbd.DONE)), lost=False)
        p("chunks in any order", send(good(4096, 4096), good(1000, 3096), good(0, 1000), end), lost=False)
        p("one byte in a chunk", send(good(1, 8191), good(0, 1), end), lost=False)

        def zero(at, length):
            s.memory[8192 + at : 8192 + at + length] = bytes(length)

        zero(512, 5000)
        p("a hole", send(good(0, 512), hole(512, 5000), good(5512, 8192 - 5512, nbd.DONE)), lost=False)
        zero(0, 8192)
        p("all hole", send(hole(0, 8192, nbd.DONE)), lost=False)
        b.disk.write(8192, os.urandom(8192))

        def slowly(c, r):
            for byte in good(0, 8192, nbd.DONE)(c, r)[:900]:
                c.send(bytes([byte]))
            c.send(good(0, 8192, nbd.DONE)(c, r)[900:])

        p("one byte at a time", slowly, lost=False)

        # Errors, which are the reader's.
        for error, want in (nbd.EIO, 5), (nbd.EPERM, 5), (nbd.ENOMEM, 5), (nbd.EINVAL, 5), (nbd.EOVERFLOW, 5), (777, 5):
            p(f"error {error}", send(lambda c, r, e=error: c.error_chunk(r, e)), lost=False, error=want)
        p("error with a message", send(lambda c, r: c.error_chunk(r, nbd.EIO, b"broken" * 50)), lost=False, error=5)
        p("error behind data", send(good(0, 4096), lambda c, r: c.error_chunk(r, nbd.EIO)), lost=False, error=5)
        p(
            "error at an offset",
            send(
                good(0, 4096),
                lambda c, r: c.chunk(r, nbd.ERROR_OFFSET, struct.pack(">IHQ", nbd.EIO, 0, r.offset + 4096), nbd.DONE),
            ),
            lost=False,
            error=5,
        )
        p("error first, end later", send(lambda c, r: c.error_chunk(r, nbd.EIO, b"x", 0), good(0, 8192), end), lost=None, error=5)

        # What is not.
        p("wrong magic", send(lambda c, r: c.chunk(r, nbd.NONE, flags=nbd.DONE, magic=0x12345678)))
        p("unknown cookie", send(lambda c, r: c.chunk(r, nbd.NONE, flags=nbd.DONE, cookie=r.cookie ^ 0x5555)))
        p("cookie beyond all", send(lambda c, r: c.chunk(r, nbd.NONE, flags=nbd.DONE, cookie=(1 << 64) - 1)))
        p("cookie of a free place", send(lambda c, r: c.chunk(r, nbd.NONE, flags=nbd.DONE, cookie=r.cookie + 1)))
        p("double reply", send(good(0, 8192, nbd.DONE), good(0, 8192, nbd.DONE)))
        p("simple reply to a read", send(lambda c, r: c.simple(r, 0, s.load(r.offset, r.length))))
        p("nothing, done", send(end))
        p("too little", send(good(0, 4096, nbd.DONE)))
        p("a gap", send(good(0, 4096), good(4608, 3584, nbd.DONE)))
        p("twice the same", send(good(0, 4096), good(0, 4096, nbd.DONE)))
        p("overlapping", send(good(0, 4608), good(4096, 4096, nbd.DONE)))
        p("too long", send(lambda c, r: c.data_chunk(r, r.offset, s.load(r.offset, r.length + 512), nbd.DONE)))
        p("before the range", send(lambda c, r: c.data_chunk(r, r.offset - 512, s.load(r.offset - 512, r.length), nbd.DONE)))
        p("behind the range", send(lambda c, r: c.data_chunk(r, r.offset + 512, s.load(r.offset, r.length), nbd.DONE)))
        p("offset that wraps", send(lambda c, r: c.data_chunk(r, (1 << 64) - 4096, bytes(r.length), nbd.DONE)))
        p("empty data", send(lambda c, r: c.data_chunk(r, r.offset, b""), good(0, 8192, nbd.DONE)), lost=None)
        p("data without an offset", send(lambda c, r: c.chunk(r, nbd.DATA, b"1234567", nbd.DONE)))
        p("4 GiB announced", send(lambda c, r: c.chunk(r, nbd.DATA, struct.pack(">Q", r.offset), nbd.DONE, length=0xFFFFFFFF)))
        p("2 GiB announced", send(lambda c, r: c.chunk(r, nbd.DATA, struct.pack(">Q", r.offset), nbd.DONE, length=0x80000000)))
        p("hole too long", send(hole(0, 8193, nbd.DONE)))
        p("hole of 4 GiB", send(hole(0, 0xFFFFFFFF, nbd.DONE)))
        p("empty hole", send(hole(0, 0), good(0, 8192, nbd.DONE)), lost=None)
        p("hole over data", send(good(0, 8192), hole(0, 512, nbd.DONE)))
        p("hole of a wrong size", send(lambda c, r: c.chunk(r, nbd.HOLE, b"x" * 13, nbd.DONE)))
        p("end with a payload", send(lambda c, r: c.chunk(r, nbd.NONE, b"payload", nbd.DONE)))
        p("end that is not the end", send(lambda c, r: c.chunk(r, nbd.NONE), good(0, 8192, nbd.DONE)), lost=None)
        p("unknown chunk", send(lambda c, r: c.chunk(r, 17, b"what?", nbd.DONE)))
        p("unknown error chunk", send(lambda c, r: c.chunk(r, 0x8fff, struct.pack(">IH", 5, 0), nbd.DONE)), lost=None, error=5)
        p("error without a number", send(lambda c, r: c.chunk(r, nbd.ERROR, b"", nbd.DONE)))
        p("error of a wrong length", send(lambda c, r: c.chunk(r, nbd.ERROR, struct.pack(">IH", 5, 500), nbd.DONE)))
        p("error with 64 KiB of message", send(lambda c, r: c.chunk(r, nbd.ERROR, struct.pack(">IH", 5, 65535) + b"x" * 65535, nbd.DONE)), lost=None, error=5)
        p("unknown flags", send(lambda c, r: c.data_chunk(r, r.offset, s.load(r.offset, r.length), 0xFFFF)), lost=None)
        p("garbage", lambda c, r: c.send(random.Random(1).randbytes(4000)))
        p("zeroes", lambda c, r: c.send(bytes(4000)))

        for cut in 0, 1, 4, 19, 20, 21, 27, 28, 29, 4000, 8192 + 27:

            def partly(c, r, cut=cut):
                c.send(good(0, 8192, nbd.DONE)(c, r)[:cut])
                c.close(reset=bool(cut % 2))

            p(f"the end after {cut} bytes", partly)
        p("shutdown", send(lambda c, r: c.error_chunk(r, nbd.ESHUTDOWN)))

        # The answer to a request comes on the next connection, with the cookie of the old one.
        kept = []

        def keep(c, r):
            kept.append(r)
            c.close()

        def stale(c, r):
            if r.cookie == kept[0].cookie:
                fail("a cookie was used again")
            c.send(c.chunk(kept[0], nbd.DATA, struct.pack(">Q", kept[0].offset) + b"X" * kept[0].length, nbd.DONE))

        p("no answer", keep)
        p("the old answer", stale)


def test_simple_replies():
    with Bench(structured=False) as b:
        s, p = b.server, b.provoke
        p("right", lambda c, r: c.send(c.simple(r, 0, s.load(r.offset, r.length))), lost=False)
        p("error", lambda c, r: c.send(c.simple(r, nbd.EIO)), lost=False, error=5)
        p("wrong magic", lambda c, r: c.send(c.simple(r, 0, bytes(r.length), magic=1)))
        p("structured reply", lambda c, r: c.send(c.data_chunk(r, r.offset, s.load(r.offset, r.length), nbd.DONE)))
        p("unknown cookie", lambda c, r: c.send(c.simple(r, 0, bytes(r.length), cookie=99)))
        p("double reply", lambda c, r: c.send(c.simple(r, 0, s.load(r.offset, r.length)), c.simple(r, 0, bytes(r.length))))
        p("shutdown", lambda c, r: c.send(c.simple(r, nbd.ESHUTDOWN)))

        def short(c, r):
            c.send(c.simple(r, 0, s.load(r.offset, r.length - 1)))
            c.close()

        p("a byte too little", short)
        p("a byte too much", lambda c, r: c.send(c.simple(r, 0, s.load(r.offset, r.length) + b"X")), lost=None)


def test_early_replies():
    """A reply to a write comes while its data are still being sent, and then these are read."""
    limits = open("/proc/sys/net/ipv4/tcp_wmem").read()
    run("sysctl", "-q", "net.ipv4.tcp_wmem=4096 16384 16384")
    try:
        with Bench() as b:
            s = b.server

            def early(name, reply, **more):
                s.takes_data = lambda c, r: False

                def trick(c, r):
                    s.takes_data = lambda c, r: True
                    c.send(reply(c, r))
                    time.sleep(0.3)
                    r.data = c.read(r.length)
                    s.apply(r)

                b.provoke(f"early: {name}", trick, command=nbd.WRITE, length=SIZE // 2, early=True, **more)

            early("all right", lambda c, r: c.simple(r), lost=None)
            early("error", lambda c, r: c.simple(r, nbd.EIO), lost=None, error=5)
            early("shutdown", lambda c, r: c.simple(r, nbd.ESHUTDOWN))
            # Nonsense is no answer, however early it comes.
            early("data", lambda c, r: c.data_chunk(r, r.offset, bytes(512), nbd.DONE))
            early("a hole", lambda c, r: c.hole_chunk(r, r.offset, 512, nbd.DONE))
    finally:
        run("sysctl", "-q", f"net.ipv4.tcp_wmem={limits}")


def test_write_replies():
    for structured in True, False:
        with Bench(structured=structured) as b:
            s, p = b.server, b.provoke

            def write(trick, name, **more):
                p(f"write: {name}", trick, command=nbd.WRITE, **more)

            def after(reply):
                """The write is done, then answered in some way."""

                def trick(c, r):
                    s.apply(r)
                    c.send(reply(c, r))

                return trick

            write(lambda c, r: c.send(c.simple(r, nbd.ENOSPC)), "no space", lost=False, error=28)
            write(lambda c, r: c.send(c.simple(r, nbd.EPERM)), "not allowed", lost=False, error=5)
            write(lambda c, r: c.send(c.simple(r, nbd.EIO)), "error", lost=False, error=5)
            write(lambda c, r: c.send(c.simple(r, nbd.ESHUTDOWN)), "shutdown")
            write(after(lambda c, r: c.simple(r, cookie=r.cookie + (1 << 32))), "unknown cookie")
            write(after(lambda c, r: c.simple(r) + c.simple(r)), "double reply")
            write(after(lambda c, r: c.simple(r, magic=0)), "wrong magic")
            if structured:
                write(after(lambda c, r: c.chunk(r, nbd.NONE, flags=nbd.DONE)), "structured", lost=False)
                write(lambda c, r: c.send(c.error_chunk(r, nbd.ENOSPC)), "structured error", lost=False, error=28)
                write(after(lambda c, r: c.data_chunk(r, r.offset, bytes(512), nbd.DONE)), "data")
                write(after(lambda c, r: c.hole_chunk(r, r.offset, 512, nbd.DONE)), "a hole")
            else:
                write(after(lambda c, r: c.chunk(r, nbd.NONE, flags=nbd.DONE)), "structured")
            for cut in 0, 1, 8, 15:
                write(lambda c, r, cut=cut: (c.send(c.simple(r)[:cut]), c.close()), f"the end after {cut} bytes")
            p("flush: error", lambda c, r: c.send(c.simple(r, nbd.EIO)), command=nbd.FLUSH, lost=False, error=5)
            p("flush: shutdown", lambda c, r: c.send(c.simple(r, nbd.ESHUTDOWN)), command=nbd.FLUSH)
            p("flush: the end", lambda c, r: c.close(), command=nbd.FLUSH)


def test_early_reply():
    """The reply to a write comes before its data were taken."""
    with Bench() as b:
        b.server.takes_data = lambda connection, request: request.length < 65536

        def right(c, r):
            c.send(c.simple(r))
            time.sleep(0.3)
            r.data = c.read(r.length)
            b.server.apply(r)

        # Nobody may see the write's end before all of its data are on their way; the server has them when it reads on.
        data = os.urandom(SIZE)
        before = b.reconnects()
        b.server.on_request = lambda c, r: r.command == nbd.WRITE and r.length >= 65536 and (right(c, r) or True)
        b.disk.write(0, data)
        wait_until(10, lambda: bytes(b.server.memory) == data, "the data arrive")

        def error(c, r):
            c.send(c.simple(r, nbd.ENOSPC))
            c.read(r.length)

        b.server.on_request = lambda c, r: r.command == nbd.WRITE and r.length >= 65536 and (error(c, r) or True)
        try:
            b.disk.write(0, bytes(SIZE))
            fail("the error was lost")
        except OSError as oserror:
            if oserror.errno != 28:
                raise
        if b.reconnects() != before:
            fail(f"the connection was given up: {node(b.name, 'reason')}")

        # An early reply, then the end, before all data went out: it must not be believed.
        seen = []

        def leave(c, r):
            if r.command != nbd.WRITE or r.length < 65536 or seen:
                return False
            seen.append(r)
            c.send(c.simple(r))
            time.sleep(0.3)
            c.close(reset=True)
            return True

        wmem = open("/proc/sys/net/ipv4/tcp_wmem").read()
        run("sysctl", "-q", "net.ipv4.tcp_wmem=4096 16384 65536")
        try:
            b.server.stop()
            b.server.receive_buffer = 4096
            b.server.start()
            b.disk.read(0, 512)
            b.server.takes_data = lambda connection, request: request.length < 65536 or bool(seen)
            b.server.on_request = leave
            data = os.urandom(SIZE)
            b.disk.write(0, data)
            if bytes(b.server.memory) != data:
                fail("a write was acknowledged that the server did not take")
        finally:
            run("sysctl", "-q", f"net.ipv4.tcp_wmem={wmem.strip()}")


def test_out_of_order():
    """Many requests in flight, answered in random order, in random pieces."""
    for structured in True, False:
        with Bench(structured=structured) as b:
            held, lock, rng = [], threading.Lock(), random.Random(7)

            def on_request(c, r):
                with lock:
                    held.append((c, r, b.server.apply(r)))
                return True

            b.server.on_request = on_request
            stop = []

            def answer():
                while not stop:
                    time.sleep(0.02)
                    with lock:
                        now, held[:] = list(held), []
                    rng.shuffle(now)
                    for c, r, (error, data) in now:
                        try:
                            reply = c.answer(r, error, data)
                            at = rng.randrange(1, len(reply) + 1)
                            c.send(reply[:at])
                            c.send(reply[at:])
                        except OSError:
                            pass

            thread = threading.Thread(target=answer)
            thread.start()
            run("fio", "--name=x", f"--filename=/dev/dst-{b.name}", "--direct=1", "--ioengine=libaio", "--iodepth=16",
                "--rw=randrw", "--bsrange=512-32k", f"--size={SIZE}", "--verify=crc32c", "--verify_fatal=1",
                "--verify_interval=512", "--verify_state_save=0")
            if b.reconnects():
                fail(f"the connection was given up: {node(b.name, 'reason')}")
            b.server.on_request = None
            stop.append(1)
            thread.join()


def test_merged_segment():
    """Two replies, and a half, in one segment: each is served at once, none waits for the next packet."""
    with Bench() as b:
        held = []
        b.server.on_request = lambda c, r: r.command == nbd.READ and (held.append((c, r)) or True)
        results = {}

        def read(offset):
            with Direct(f"/dev/dst-{b.name}") as disk:
                results[offset] = disk.read(offset, 4096)

        threads = [threading.Thread(target=read, args=(offset,)) for offset in (0, 65536, 131072)]
        for thread in threads:
            thread.start()
        wait_until(10, lambda: len(held) == 3, "three reads are in flight")
        c = held[0][0]
        replies = [c.data_chunk(r, r.offset, b.server.load(r.offset, r.length), nbd.DONE) for _, r in held]
        start = time.monotonic()
        c.send(replies[0], replies[1], replies[2][:10])
        wait_until(5, lambda: len(results) == 2, "two reads are answered by one segment")
        if held[2][1].offset in results:
            fail("a read was ended without its data")
        c.send(replies[2][10:])
        for thread in threads:
            thread.join()
        for offset, data in results.items():
            if data != b.server.load(offset, 4096):
                fail("wrong data")
        b.server.on_request = None


def test_handshake():
    """The end in every byte of the handshake, for a node that was up; then it is well again."""
    with Bench() as b:
        whole = []
        b.server.on_connect = lambda c: c.handshake(lambda data: (whole.append(data), c.send(data))) or True
        b.server.drop()
        b.disk.read(0, 512)
        length = sum(map(len, whole))
        if length < 80:
            fail(f"the handshake has only {length} bytes")
        cuts = list(range(length))
        random.Random(3).shuffle(cuts)

        def cut_at(left):
            def on_connect(c):
                room = [left]

                def send(data):
                    c.send(data[: room[0]])
                    if len(data) > room[0]:
                        raise nbd.Gone
                    room[0] -= len(data)

                c.handshake(send)
                return True

            return on_connect

        step = 1 if SLOW == 1 else 5
        for left in cuts[::step]:
            seen = b.server.count
            state = {"cut": cut_at(left)}

            def on_connect(c):
                trick = state.pop("cut", None)
                return trick(c) if trick else False

            b.server.on_connect = on_connect
            b.server.drop(reset=bool(left % 2))
            if b.disk.read(4096, 4096) != bytes(b.server.memory[4096:8192]):
                fail("wrong data")
            if state or b.server.count < seen + 2:
                fail(f"cut at {left}: the client came back only {b.server.count - seen} times")


def test_bad_handshakes():
    """Wrong answers in the handshake: at first an error that says what is wrong, later another attempt."""

    def exchange(c, *answers):
        """The greeting, then an answer for each option of the client."""
        c.send(b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 3))
        c.read(4)
        for answer in answers:
            option = nbd.OPT_DST
            while option == nbd.OPT_DST:
                _, option, length = struct.unpack(">8sII", c.read(16))
                c.read(length)
                if option == nbd.OPT_DST:
                    c.send(c0.option(option, 0x80000001))
            c.send(answer(option))
        time.sleep(0.2)
        raise nbd.Gone

    def info(size, flags=nbd.ALL_FLAGS, block=None):
        def answer(option):
            parts = c0.option(option, 3, struct.pack(">HQH", 0, size, flags))
            if block:
                parts += c0.option(option, 3, struct.pack(">HIII", 3, *block))
            return parts + c0.option(option, 1)

        return answer

    class Any:
        option = nbd.Connection.option

    c0 = Any()
    ack = lambda option: c0.option(option, 1)
    unsupported = lambda option: c0.option(option, 0x80000001)
    tricks = {
        "garbage": lambda c: c.send(random.Random(5).randbytes(300)) or time.sleep(0.2) or c.close(),
        "http": lambda c: c.send(b"HTTP/1.1 400 Bad Request\r\n\r\n") or time.sleep(0.2) or c.close(),
        "old style": lambda c: c.send(b"NBDMAGIC" + bytes.fromhex("00420281861253") + bytes(140)) or time.sleep(0.2) or c.close(),
        "not fixed": lambda c: c.send(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 0)) or time.sleep(0.2) or c.close(),
        "wrong reply magic": lambda c: exchange(c, lambda o: b"X" * 20, ack),
        "reply to another option": lambda c: exchange(c, lambda o: c0.option(o + 1, 1), ack),
        "a reply of 4 GiB": lambda c: exchange(c, lambda o: struct.pack(">QIII", 0x3E889045565A9, o, 1, 0xFFFFFFFF), ack),
        "no export information": lambda c: exchange(c, ack, ack),
        "short information": lambda c: exchange(c, ack, lambda o: c0.option(o, 3, b"\0\0\1") + c0.option(o, 1)),
        "empty information": lambda c: exchange(c, ack, lambda o: c0.option(o, 3, b"") + c0.option(o, 1)),
        "size 0": lambda c: exchange(c, ack, info(0)),
        "size 511": lambda c: exchange(c, ack, info(511)),
        "size beyond 63 bits": lambda c: exchange(c, ack, info((1 << 64) - 512)),
        "no flags": lambda c: exchange(c, ack, info(SIZE, 0)),
        "block size 0": lambda c: exchange(c, ack, info(SIZE, block=(0, 4096, 1 << 25))),
        "block size 3": lambda c: exchange(c, ack, info(SIZE, block=(3, 4096, 1 << 25))),
        "block size 2 GiB": lambda c: exchange(c, ack, info(SIZE, block=(1 << 31, 1 << 31, 1 << 31))),
        "block size 128 KiB": lambda c: exchange(c, ack, info(SIZE, block=(1 << 17, 1 << 17, 1 << 25))),
        "preferred below minimum": lambda c: exchange(c, ack, info(SIZE, block=(4096, 512, 1 << 25))),
        "maximum 0": lambda c: exchange(c, ack, info(SIZE, block=(512, 4096, 0))),
        "maximum below minimum": lambda c: exchange(c, ack, info(SIZE, block=(4096, 4096, 512))),
        "needs TLS": lambda c: exchange(c, unsupported, lambda o: c0.option(o, 0x80000005)),
        "policy": lambda c: exchange(c, unsupported, lambda o: c0.option(o, 0x80000002)),
        "unknown error": lambda c: exchange(c, unsupported, lambda o: c0.option(o, 0x8000FFFF)),
        "read-only": lambda c: exchange(c, ack, info(SIZE, nbd.ALL_FLAGS | nbd.READ_ONLY)),
        "silence": lambda c: time.sleep(1),
    }
    global PORT
    PORT += 1
    server = Server(SIZE, PORT).start()
    for name, trick in tricks.items():
        server.on_connect = lambda c, trick=trick: trick(c) or True
        start = time.monotonic()
        refuse(".", "create", "--no-metadata", "bad", f"localhost:{PORT}", "--connect-timeout", "700ms")
        took = time.monotonic() - start
        if took > 5 * SLOW:
            fail(f"{name}: the command took {took:.1f} s")
        if os.path.exists("/sys/devices/bad"):
            fail(f"{name}: a storage was left behind")
    server.stop()
    # The same for a node that was up, one after the other, and then it is up again.
    with Bench() as b:
        for name, trick in list(tricks.items()):
            state = [trick]
            b.server.on_connect = lambda c: (state.pop()(c) or True) if state else False
            b.server.drop()
            if b.disk.read(0, 4096) != bytes(b.server.memory[:4096]):
                fail(f"{name}: wrong data")
            if state:
                fail(f"{name}: the client did not come back")


def test_other_export():
    """What comes back smaller, or can do less, is not taken; what is larger is used at its old size."""
    with Bench() as b:
        b.server.size = SIZE - 512
        b.server.drop()
        wait_until(15, lambda: "shrank" in node(b.name, "reason"), "the shrunken export is noticed")
        if node(b.name, "state") == "up":
            fail("it was taken")
        b.server.size = SIZE
        if b.disk.read(SIZE - 4096, 4096) != bytes(b.server.memory[-4096:]):
            fail("wrong data")
        b.server.flags &= ~nbd.SEND_FLUSH
        b.server.drop()
        wait_until(15, lambda: "less" in node(b.name, "reason"), "the lost ability is noticed")
        b.server.flags |= nbd.SEND_FLUSH
        b.disk.read(0, 512)
        wait_state(b.name, "up")
        b.server.memory += bytes(SIZE)
        b.server.size = 2 * SIZE
        b.server.drop()
        b.disk.read(SIZE - 512, 512)
        if int(run("blockdev", "--getsize64", f"/dev/dst-{b.name}")) != SIZE:
            fail("the disk changed its size")
        # Replies of the other kind are negotiated anew with each connection.
        b.server.structured = False
        b.server.drop()
        b.server.size = SIZE


main(
    test_read_replies, test_simple_replies,
    test_early_replies,
    test_write_replies,
    test_early_reply,
    test_out_of_order,
    test_merged_segment,
    test_handshake,
    test_bad_handshakes,
    test_other_export,
)
