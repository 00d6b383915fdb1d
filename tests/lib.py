# SPDX-License-Identifier: GPL-2.0
"""What the tests in Python share; see lib.sh for what a test is given."""

import glob
import json
import mmap
import os
import re
import subprocess
import sys
import threading
import time
import traceback

TESTS = os.environ["TESTS"]
TMP = os.environ["TMP"]
SLOW = int(os.environ.get("SLOW", "1"))


def fail(text):
    raise AssertionError(text)


def run(*command, check=True, timeout=120):
    """Runs a command; gives what it printed."""
    result = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout * SLOW
    )
    if check and result.returncode:
        fail(f"{' '.join(map(str, command))}: status {result.returncode}: {result.stdout}")
    return result.stdout


def dst(*arguments, **options):
    """The command; it must succeed."""
    return run("dst", *arguments, **options)


def refuse(pattern, *arguments):
    """The command must fail, with words that match."""
    result = subprocess.run(
        ["dst", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120 * SLOW
    )
    if not result.returncode:
        fail(f"dst {arguments} was expected to fail: {result.stdout}")
    if not re.search(pattern, result.stdout):
        fail(f"dst {arguments}: no '{pattern}' in: {result.stdout}")


def delete(name, seconds=10):
    """Deletes a storage. udev may have a new disk open for a moment, to look at what is on it."""
    when_free("delete", name, seconds)


def stop(name, seconds=10):
    """The same for stopping it."""
    when_free("stop", name, seconds)


def when_free(command, name, seconds):
    """A command that is refused while the disk is in use."""

    def done():
        result = subprocess.run(["dst", command, name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode and "in use" not in result.stdout:
            fail(f"dst {command} {name}: {result.stdout}")
        return not result.returncode

    wait_until(seconds, done, f"dst {command} {name}")


def load():
    run("modprobe", "dst")


def unload():
    wait_until(20, lambda: subprocess.run(["modprobe", "-r", "dst"], check=False).returncode == 0, "unload")


def wait_until(seconds, condition, what):
    """Waits for something to become true, and gives it."""
    end = time.monotonic() + seconds * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            fail(f"still not true after {seconds * SLOW} s: {what}")
        time.sleep(0.05)


def node(storage, attribute, start=0):
    """An attribute of a node, as sysfs has it."""
    with open(f"/sys/devices/{storage}/n-{start}/{attribute}") as file:
        text = file.read().strip()
    return int(text) if text.isdigit() else text


def counters(storage, attribute, start=0):
    """`requests` or `bytes` of a node, by kind."""
    words = node(storage, attribute, start).split()
    return dict(zip(words[::2], map(int, words[1::2])))


def wait_state(storage, state, start=0, seconds=30):
    wait_until(seconds, lambda: node(storage, "state", start) == state, f"{storage} n-{start} is {state}")


def buffer(size, shift=0):
    """Memory for direct I/O that begins `shift` bytes behind a page's start."""
    memory = mmap.mmap(-1, (size + shift + 4095) & ~4095)
    return memoryview(memory)[shift : shift + size]


class Direct:
    """A block device, by direct I/O."""

    def __init__(self, path, flags=0):
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT | flags)

    def read(self, offset, length, shift=0):
        data = buffer(length, shift)
        got = os.preadv(self.fd, [data], offset)
        if got != length:
            fail(f"a read of {length} bytes at {offset} gave {got}")
        return bytes(data)

    def write(self, offset, data, shift=0):
        memory = buffer(len(data), shift)
        memory[:] = data
        put = os.pwritev(self.fd, [memory], offset)
        if put != len(data):
            fail(f"a write of {len(data)} bytes at {offset} took {put}")

    def flush(self):
        os.fsync(self.fd)

    def close(self):
        os.close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def storage(name, attribute):
    """An attribute of a storage, as sysfs has it."""
    with open(f"/sys/devices/{name}/{attribute}") as file:
        text = file.read().strip()
    return int(text) if text.isdigit() else text


def copy_of(name, what):
    """What stands behind `n-` of the node whose type ends like that; for node() and its like."""
    for entry in os.listdir(f"/sys/devices/{name}"):
        if entry.startswith("n-") and open(f"/sys/devices/{name}/{entry}/type").read().strip().endswith(str(what)):
            return entry[2:]
    return fail(f"{name} has no node {what}")


def wait_health(name, health, seconds=60):
    wait_until(seconds, lambda: storage(name, "health") == health, f"{name} is {health}")


def wait_role(name, what, role, seconds=30):
    wait_until(seconds, lambda: node(name, "role", copy_of(name, what)) == role, f"{what} is {role}")


def mirror_sectors(sectors):
    """What a mirror has whose smallest copy has so many (meta/layout.rs)."""
    shift = 7
    while -(-(sectors - 16) >> shift) > 256 * 1016:
        shift += 1
    blocks = -(-(((sectors - 17) >> shift) + 1) // 1016)
    return (sectors // 8 * 8 - 16 - blocks * 16) // 2048 * 2048


def blank(*devices):
    """Nothing is left on them. (What a mirror never wrote to may differ between its copies.)"""
    for device in devices:
        run("blkdiscard", "--zeroout", "--force", "--quiet", device)


class Daemon:
    """A server of user space (nbdkit or qemu) for a file, which can be killed and started again."""

    def __init__(self, port, sectors, kind="nbdkit", within=None):
        self.kind, self.port, self.within = kind, port, within
        self.path, self.process = f"{TMP}/daemon-{port}", None
        with open(self.path, "wb") as file:
            file.truncate(sectors * 512)
        self.start()

    def words(self):
        if self.kind == "nbdkit":
            words = ["nbdkit", "--foreground", "--port", str(self.port), "file", self.path]
        else:
            words = ["qemu-nbd", "--persistent", "--shared", "0", "--format", "raw", "--discard", "unmap", "--port", str(self.port),
                     self.path]
        return (["ip", "netns", "exec", self.within] if self.within else []) + words

    def listening(self):
        prefix = ["ip", "netns", "exec", self.within] if self.within else []
        return run(*prefix, "ss", "-Hltn", f"sport = :{self.port}").strip() != ""

    def start(self):
        wait_until(20, lambda: not self.listening(), f"port {self.port} is free")
        log = open(f"{self.path}.log", "ab")
        self.process = subprocess.Popen(self.words(), stdout=log, stderr=log)
        wait_until(20, self.listening, f"{self.kind} listens")

    def kill(self):
        self.process.kill()
        self.process.wait()


class Aside(threading.Thread):
    """Runs something aside: `result`, `error`, and `seconds`, which is None until it is over."""

    def __init__(self, function, *arguments):
        super().__init__(daemon=True)
        self.result = self.error = self.seconds = None
        self.call = lambda: function(*arguments)
        self.start()

    def run(self):
        start = time.monotonic()
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error
        self.seconds = time.monotonic() - start

    def over(self, seconds, what, error=None):
        """It is over within that time; well, or with that errno."""
        self.join(seconds * SLOW)
        if self.is_alive():
            fail(f"{what}: not over after {seconds * SLOW} s")
        if error is None and self.error:
            raise self.error
        if error is not None and getattr(self.error, "errno", None) != error:
            fail(f"{what}: {self.error or 'no error'}")
        return self.result


class Load:
    """The oracle's load on a disk, in a process of its own; see oracle.py."""

    def __init__(self, device, log, *options):
        self.log = str(log)
        before = self.acked()
        self.output = open(self.log + ".out", "w+")
        words = [sys.executable, f"{TESTS}/oracle.py", "write", device, log, *options]
        self.process = subprocess.Popen([str(word) for word in words], stdout=self.output, stderr=subprocess.STDOUT)
        wait_until(30, lambda: self.acked() >= before + 20 or self.process.poll() is not None, "the load is under way")

    def acked(self):
        if not os.path.exists(self.log):
            return 0
        with open(self.log, "rb") as file:
            return sum(line[:2] in (b"A ", b"D ") for line in file)

    def goes_on(self, count=20, seconds=60):
        """So many more writes are acknowledged."""
        end = self.acked() + count
        wait_until(seconds, lambda: self.acked() >= end or self.process.poll() is not None, "the load goes on")
        if self.process.poll():
            self.end()

    def stop(self):
        self.process.terminate()

    def end(self, seconds=30):
        """Ends it; nothing may have been wrong."""
        self.stop()
        try:
            self.process.wait(seconds * SLOW)
        except subprocess.TimeoutExpired:
            fail(f"the load is not over after {seconds * SLOW} s")
        self.output.seek(0)
        text = self.output.read()
        if self.process.returncode:
            fail(f"the load saw something wrong: {text}")
        return text


def oracle(*words):
    """A command of the oracle; it must succeed."""
    return run(sys.executable, f"{TESTS}/oracle.py", *words)


class Said:
    """What the kernel says from now on. Nothing is cleared: the runner looks for reports of bugs."""

    def __init__(self):
        self.mark = f"dst-test: from {time.time()} on"
        with open("/dev/kmsg", "w", encoding="ascii") as file:
            file.write(self.mark + "\n")

    def __contains__(self, text):
        return text in run("dmesg").partition(self.mark)[2]


def give_up():
    """Ends what waits for servers, so that what comes after a test that failed finds no trouble."""
    listing = subprocess.run(["dst", "list", "--json"], stdout=subprocess.PIPE, text=True, check=False, timeout=30)
    try:
        names = [s if isinstance(s, str) else s["name"] for s in json.loads(listing.stdout)["storages"]]
    except (ValueError, KeyError):
        return
    for name in names:
        # Not by the names of their directories: copies begin at the same sector.
        for path in glob.glob(f"/sys/devices/{name}/n-*/id"):
            with open(path, encoding="ascii") as file:
                number = file.read().strip()
            subprocess.run(["dst", "fail-now", name, number], check=False, timeout=30, stderr=subprocess.DEVNULL)


def main(*tests):
    """Runs tests in order, or those that are named on the command line, each with its name and its time."""
    for test in tests:
        if sys.argv[1:] and test.__name__ not in sys.argv[1:]:
            continue
        start = time.monotonic()
        print(f"- {test.__name__}", end=" ", flush=True)
        try:
            test()
        except BaseException:
            sys.stdout.flush()
            traceback.print_exc()
            sys.stderr.flush()
            try:
                give_up()
            finally:
                # Not by way of the interpreter's end: threads may wait for servers.
                os._exit(1)
        print(f"({time.monotonic() - start:.1f} s)", flush=True)
    unload()
