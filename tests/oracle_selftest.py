# SPDX-License-Identifier: GPL-2.0
"""The oracle's test of itself: runs on memory that behaves, and on memory with each kind of fault."""

import contextlib
import io
import os
import random
import tempfile
import threading

import oracle
from oracle_rule import BLOCK, Checker, Copy, Log, make_block, make_sector

BLOCKS = 64


class Memory:
    """A device in memory, with a hook for reads and one for writes."""

    def __init__(self):
        self.data = bytearray(BLOCKS * BLOCK)
        self.lock = threading.Lock()
        self.on_read = self.on_write = lambda lba, data: data
        self.blocks = BLOCKS

    def write(self, lba, data, fua=False):
        data = self.on_write(lba, data)
        with self.lock:
            self.data[lba * BLOCK : lba * BLOCK + len(data)] = data

    def zero(self, lba, count):
        self.write(lba, bytes(count * BLOCK))

    def read(self, lba, count):
        with self.lock:
            data = bytes(self.data[lba * BLOCK : (lba + count) * BLOCK])
        return self.on_read(lba, data)

    def flush(self):
        pass


class Scene:
    """A log written by hand, and copies."""

    def __init__(self, folder):
        self.folder, self.log, self.images = folder, os.path.join(folder, "log"), {}
        open(self.log, "w").close()

    def lines(self, *lines):
        with open(self.log, "a") as file:
            file.write("".join(line + "\n" for line in lines))
        return self

    def copy(self, name, blocks):
        """Blocks of a copy: a number is a write's, or the bytes."""
        image = bytearray(BLOCKS * BLOCK)
        for lba, what in blocks.items():
            image[lba * BLOCK : (lba + 1) * BLOCK] = make_block(lba, what, 1) if isinstance(what, int) else what
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(image)
        self.images[name] = path
        return self

    def judge(self, **options):
        """The kinds of faults that are found."""
        copies = [Copy(f"{name}={path}") for name, path in self.images.items()]
        checker = Checker(Log(self.log), copies, **options)
        checker.run()
        self.checker = checker
        return sorted(checker.counts)


# Two writes to block 5, the second one durable, an acknowledged one to 6, one to 7 that was under way.
HISTORY = ["B 1", "S 1 5 1", "A 1", "F a", "G a", "S 2 5 1", "A 2", "F b", "G b", "S 3 6 1", "A 3", "S 4 7 1"]


def half(lba, one, other):
    """A torn block."""
    return b"".join(make_sector(lba, i, one if i < 3 else other, 1) for i in range(8))


def flipped(lba, seq):
    block = bytearray(make_block(lba, seq, 1))
    block[1000] ^= 4
    return bytes(block)


# What is on the copies, the options, and what must be found.
CASES = [
    ("all is there", [{5: 2, 6: 3, 7: 4}] * 2, {}, []),
    ("what was not acknowledged may be old", [{5: 2, 6: 3}] * 2, {}, []),
    ("what was not flushed may be old", [{5: 2}] * 2, {}, []),
    ("unless nobody lost power", [{5: 2}] * 2, {"acked": True}, ["lost"]),
    ("a flushed write is lost", [{5: 1, 6: 3}] * 2, {}, ["lost"]),
    ("and nothing is there instead", [{6: 3}] * 2, {}, ["lost"]),
    ("one copy is stale", [{5: 2, 6: 3}, {5: 1, 6: 3}], {"apart": True}, ["stale"]),
    ("and differs", [{5: 2, 6: 3}, {5: 1, 6: 3}], {}, ["different", "stale"]),
    ("copies differ where both may be", [{5: 2, 7: 4}, {5: 2}], {}, ["different"]),
    ("and do so before healing", [{5: 2, 7: 4}, {5: 2}], {"apart": True}, []),
    ("torn between two that ended", [{5: half(5, 1, 2)}] * 2, {}, ["lost"]),
    ("torn within one that was under way", [{5: 2, 7: make_block(7, 4, 1)[:2048] + bytes(2048)}] * 2, {}, []),
    ("which an atomic device does not do", [{5: 2, 7: make_block(7, 4, 1)[:2048] + bytes(2048)}] * 2, {"atomic": True}, ["torn"]),
    ("torn within an acknowledged one", [{5: 2, 6: make_block(6, 3, 1)[:512] + bytes(3584)}] * 2, {}, ["torn"]),
    ("a bit flipped", [{5: flipped(5, 2)}, {5: 2}], {"apart": True}, ["damaged"]),
    ("a block of another place", [{5: make_block(6, 2, 1)}] * 2, {}, ["misplaced"]),
    ("a block nobody wrote", [{5: 2, 6: 77}] * 2, {}, ["foreign"]),
    ("a block of another writer", [{5: make_block(5, 2, 9)}] * 2, {}, ["foreign"]),
]


def case(lines, copies, options):
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(folder).lines(*lines)
        for i, blocks in enumerate(copies):
            scene.copy(f"copy{i}", blocks)
        return scene.judge(**options)


def rules():
    """The judgement after recovery."""
    for name, copies, options, want in CASES:
        found = case(HISTORY, copies, options)
        assert found == want, f"{name}: found {found} instead of {want}"
    # A flush that was submitted before the write had ended covers nothing; one with FUA needs none.
    assert case(["B 1", "S 1 3 1", "F a", "A 1", "G a"], [{}], {}) == []
    assert case(["B 1", "S 1 3 1", "D 1"], [{}], {}) == ["lost"]
    # Two at once: either may be last. One after the other: only the second.
    assert case(["B 1", "S 1 3 1", "S 2 3 1", "A 1", "A 2", "F a", "G a"], [{3: 1}], {}) == []
    assert case(["B 1", "S 1 3 1", "A 1", "S 2 3 1", "A 2", "F a", "G a"], [{3: 1}], {}) == ["lost"]
    # A write that failed may be there, but not come again behind a newer one (P4).
    assert case(["B 1", "S 1 3 1", "E 1 5"], [{3: 1}], {}) == []
    assert case(["B 1", "S 1 3 1", "E 1 5", "S 2 3 1", "D 2"], [{3: 1}], {}) == ["lost"]
    # Zeroes, as a write of them; a line that was cut off.
    assert case(["B 1", "S 1 3 1", "D 1", "Z 2 3 1", "D 2"], [{}], {}) == []
    assert case(["B 1", "S 1 3 1", "D 1", "Z 2 3 1", "D 2"], [{3: 1}], {}) == ["lost"]
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(folder).lines(*HISTORY)
        with open(scene.log, "a") as file:
            file.write("A")
        assert scene.copy("a", {5: 2}).judge() == []


def settled():
    """What was found once must stay, also what nobody was promised."""
    for first, second, want in ((4, 4, []), (0, 0, []), (4, 0, ["lost"]), (0, 4, ["lost"])):
        with tempfile.TemporaryDirectory() as folder:
            scene = Scene(folder).lines(*HISTORY).copy("a", {5: 2, 6: 3, 7: first})
            assert scene.judge() == []
            scene.checker.settle(scene.log)
            scene.lines("B 2", "S 8 9 1")
            found = scene.copy("a", {5: 2, 6: 3, 7: second}).judge()
            assert found == want, f"after {first} {second}: {found}"
    # A mixture, too.
    mixed = make_block(7, 4, 1)[:2048] + bytes(2048)
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(folder).lines(*HISTORY).copy("a", {5: 2, 7: mixed})
        assert scene.judge() == []
        scene.checker.settle(scene.log)
        assert scene.copy("a", {5: 2, 7: mixed}).judge() == []
        assert scene.copy("a", {5: 2, 7: 4}).judge() == ["lost"]


def live(prepare, seed=1, **more):
    """A run on memory; gives the words that were said about faults, and the check of what is left."""
    memory = Memory()
    prepare(memory)
    with tempfile.TemporaryDirectory() as folder:
        log, image = os.path.join(folder, "log"), os.path.join(folder, "image")
        words = ["write", "device", log, "--count", "400", "--threads", "4", "--readers", "2", "--hot", "60", "--seed", str(seed)]
        parsed = []
        hold = oracle.do_write
        oracle.do_write = parsed.append
        try:
            oracle.main(words + [word for pair in more.items() for word in pair])
        finally:
            oracle.do_write = hold
        run = oracle.Run(parsed[0], lambda path: memory)
        with contextlib.redirect_stdout(io.StringIO()):
            run.run()
        with open(image, "wb") as file:
            file.write(memory.data)
        checker = Checker(Log(log), [Copy(image)], acked=True)
        checker.run()
        return " ".join(run.errors), sorted(checker.counts)


def runs():
    """While it runs."""
    assert live(lambda memory: None) == ("", []), "a device that behaves"
    # Writes that overlap are not put in order by this memory, but each is whole: nothing is wrong either.
    kept, rng = {}, random.Random(2)

    def stale_reads(memory):
        def on_read(lba, data):
            old = kept.get((lba, len(data)))
            kept.setdefault((lba, len(data)), data)
            return data if old is None else old

        memory.on_read = on_read

    # As many writes as it takes for readers to come back to some place, however the threads are scheduled.
    assert "stale" in live(stale_reads, **{"--count": "4000"})[0], "reads that give old data"

    def lost_write(memory):
        def on_write(lba, data):
            return b"" if rng.random() < 0.3 else data

        memory.on_write = on_write

    said, counts = live(lost_write)
    assert "stale" in said or "lost" in counts, f"writes that go nowhere: {said} {counts}"

    def wrong_bits(memory):
        memory.on_write = lambda lba, data: data[:-1] + b"x" if rng.random() < 0.5 else data

    said, counts = live(wrong_bits)
    assert "damaged" in said or "damaged" in counts, f"{said} {counts}"

    def failing(memory):
        def on_write(lba, data):
            if rng.random() < 0.02:
                raise OSError(5, "planted")
            return data

        memory.on_write = on_write

    assert "planted" in live(failing)[0], "an error is a fault"
    flip(False)
    flip(True)


def flip(legs):
    """Two copies that differ where a write is under way, read in turn: there must be no way back."""
    parser = oracle.argparse.ArgumentParser()
    oracle.write_options(parser)
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log")
        options = parser.parse_args(["device", log] + (["--legs-fail"] if legs else []))
        run = oracle.Run(options, lambda path: Memory())
        write = run.begin(3, 1, False)
        run.end(write, 0)
        newer = run.begin(3, 1, False)

        def read(seq):
            return run.judge(3, [(seq, run.writer)] * 8, list(run.live[3]), run.at, None)

        assert read(write.seq) is None
        assert read(newer.seq) is None
        back = read(write.seq)
        assert (back is None) == legs, f"old after new: {back}"
        run.end(newer, 0)
        assert "stale" in read(write.seq)
        # And without a write between: two that were there at once.
        one, two = run.begin(4, 1, False), run.begin(4, 1, False)
        run.end(one, 0)
        run.end(two, 0)
        judge = lambda seq: run.judge(4, [(seq, run.writer)] * 8, list(run.live[4]), run.at, run.begun[4])
        assert judge(one.seq) is None
        assert judge(one.seq) is None
        assert "different" in judge(two.seq)


def zeroes_in_passing():
    """A read may show zeroes that were written, and written over, while it was under way; but none that were not."""
    parser = oracle.argparse.ArgumentParser()
    oracle.write_options(parser)
    with tempfile.TemporaryDirectory() as folder:
        run = oracle.Run(parser.parse_args(["device", os.path.join(folder, "log")]), lambda path: Memory())

        def whole(zero):
            write = run.begin(3, 1, zero)
            run.end(write, 0)

        def read():
            return run.judge(3, [(0, 0)] * 8, may, began, None)

        whole(False)
        whole(True)
        whole(False)
        began, may = run.at, list(run.live[3])
        assert "stale" in read()
        whole(False)
        assert "stale" in read()
        whole(True)
        assert read() is None
        whole(False)
        assert read() is None, "zeroes were there for a moment"


def torn_reads():
    """Half a sector of a write is no fault while that is under way, but is one when nothing is."""
    memory = Memory()
    parser = oracle.argparse.ArgumentParser()
    oracle.write_options(parser)
    with tempfile.TemporaryDirectory() as folder:
        options = parser.parse_args(["device", os.path.join(folder, "log"), "--area", "3:1", "--most", "1"])
        run = oracle.Run(options, lambda path: memory)
        write = run.begin(3, 1, False)
        memory.data[3 * BLOCK : 3 * BLOCK + 100] = make_block(3, write.seq, run.writer)[:100]
        run.look(memory, random.Random(1))
        assert not run.errors, run.errors
        run.end(write, 0)
        run.look(memory, random.Random(1))
        assert "damaged" in run.errors[0]


def main():
    for test in rules, settled, runs, zeroes_in_passing, torn_reads:
        test()
        print(f"- {test.__name__}: the oracle finds what is planted", flush=True)
    return 0
