# SPDX-License-Identifier: GPL-2.0
"""The devices that tests/guest/bench.py measures: how DST and its rivals are set up in the VM, and how a copy of a mirror
is taken away and brought back."""

import os
import re
import subprocess
import time
from pathlib import Path

NVMET = Path("/sys/kernel/config/nvmet")
# Of DRBD's tools, what the in-tree module needs; tests/bench puts it there.
DRBD = Path("/mnt/share/drbd")

# RAM disks, in MiB: what is not written takes no memory.
RAM_DISK = 1024
# A region of the log, for storages of this size.
REGION_KIB = 64

# Path of each device that is set up.
devices = {}


def say(*words):
    print(*words, flush=True)


def run(*words, **options):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def block_device(path, seconds=20):
    """Waits for it: fio would make a plain file."""
    for _ in range(seconds * 10 + 1):
        if Path(path).is_block_device():
            return path
        time.sleep(0.1)
    raise SystemExit(f"no block device {path}")


def no_scheduler(path):
    scheduler = Path("/sys/block", path.split("/")[-1], "queue/scheduler")
    if scheduler.exists() and "none" in scheduler.read_text():
        scheduler.write_text("none")


def dm_linear(backing):
    sectors = Path("/sys/block", backing.split("/")[-1], "size").read_text().strip()
    run("modprobe", "dm_mod")
    run("dmsetup", "create", "--noudevsync", "--noudevrules", "bench", "--table", f"0 {sectors} linear {backing} 0")
    return block_device("/dev/dm-0")


def nvme_tcp(backing, name="bench", number=1):
    for m in "nvmet", "nvmet-tcp", "nvme-tcp":
        run("modprobe", m)
    if not NVMET.exists():
        run("mount", "-t", "configfs", "none", "/sys/kernel/config")
    before = set(Path("/sys/block").glob("nvme[0-9]n1"))
    subsystem, port, service = NVMET / "subsystems" / name, NVMET / "ports" / str(number), str(4419 + number)
    (subsystem / "namespaces/1").mkdir(parents=True)
    port.mkdir()
    write(subsystem / "attr_allow_any_host", "1")
    write(subsystem / "namespaces/1/device_path", backing)
    write(subsystem / "namespaces/1/enable", "1")
    for key, value in {"traddr": "127.0.0.1", "trtype": "tcp", "trsvcid": service, "adrfam": "ipv4"}.items():
        write(port / f"addr_{key}", value)
    os.symlink(subsystem, port / "subsystems" / name)
    run("nvme", "connect", "-t", "tcp", "-a", "127.0.0.1", "-s", service, "-n", name, "-i", "1")
    time.sleep(2)
    new = set(Path("/sys/block").glob("nvme[0-9]n1")) - before
    if len(new) != 1:
        raise OSError(f"nvme connect made {len(new)} disks")
    path = block_device(f"/dev/{new.pop().name}")
    no_scheduler(path)
    return path


def md(path, bitmap, *copies):
    run("modprobe", "raid1")
    run("mdadm", "--create", path, "--run", "--level=1", f"--raid-devices={len(copies)}", "--assume-clean", *bitmap, *copies,
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return block_device(path)


class Drbd:
    """Both nodes in one kernel, protocol C."""

    SETUP = DRBD / "drbdsetup-84"

    def __init__(self, name, minor, first, second, port):
        """It takes this minor number and this port, and the next ones."""
        # It must not call tools that are not there.
        run("modprobe", "drbd", "usermode_helper=/bin/true")
        Path("/var/lib/drbd").mkdir(exist_ok=True)
        self.minor = minor
        self.ends = [
            (f"{name}a", str(minor), first, port, port + 1),
            (f"{name}b", str(minor + 1), second, port + 1, port),
        ]
        for _, number, disk, _, _ in self.ends:
            run(DRBD / "drbdmeta", "--force", number, "v08", disk, "internal", "create-md", input="yes\n")
        for resource, number, disk, _, _ in self.ends:
            run(self.SETUP, "new-resource", resource)
            run(self.SETUP, "new-minor", resource, number, "0")
            run(self.SETUP, "attach", number, disk, disk, "internal")
        self.connect()
        time.sleep(2)
        run(self.SETUP, "new-current-uuid", "--clear-bitmap", str(minor))
        time.sleep(1)
        run(self.SETUP, "primary", str(minor))
        time.sleep(1)
        self.path = block_device(f"/dev/drbd{minor}")

    def connect(self):
        for resource, _, _, port, peer in self.ends:
            run(self.SETUP, "connect", resource, f"ipv4:127.0.0.1:{port}", f"ipv4:127.0.0.1:{peer}", "--protocol=C",
                "--max-buffers=8000", "--max-epoch-size=8000")

    def disconnect(self):
        for _, _, _, port, peer in self.ends:
            run(self.SETUP, "disconnect", f"ipv4:127.0.0.1:{port}", f"ipv4:127.0.0.1:{peer}", "--force")

    def state(self):
        """`cs`, `ds`, and the KiB that are out of sync, of the first node."""
        text = Path("/proc/drbd").read_text()
        part = re.search(rf"^ *{self.minor}: (.*?)(?=^ *\d+: |\Z)", text, re.MULTILINE | re.DOTALL).group(1)
        find = lambda pattern: re.search(pattern, part).group(1)
        return find(r"cs:(\S+)"), find(r"ds:(\S+)"), int(find(r"oos:(\d+)"))


def nbdkit(port):
    run("nbdkit", "--ipaddr", "127.0.0.1", "--port", str(port), "memory", "64M")
    time.sleep(1)


def nbd_nbdkit():
    nbdkit(10810)
    run("nbd-client", "127.0.0.1", "10810", "/dev/nbd1")
    time.sleep(1)
    return block_device("/dev/nbd1")


def nbd_server(backing):
    write("/run/nbd.conf", f"[generic]\nallowlist=true\nport=10811\n[x]\nexportname={backing}\n")
    run("nbd-server", "-C", "/run/nbd.conf", "-M", "1")
    time.sleep(2)
    run("nbd-client", "-N", "x", "127.0.0.1", "10811", "/dev/nbd0")
    time.sleep(1)
    return block_device("/dev/nbd0")


def dst(name, node):
    run("dst", "create", "--no-metadata", name, node)
    run("dst", "start", name)
    return block_device(f"/dev/dst-{name}")


def export(name, backing, port):
    run("dst", "export", name, backing, "--listen", f"127.0.0.1:{port}")
    return f"nbd://127.0.0.1:{port}/{name}"


def dst_nbdkit():
    nbdkit(10813)
    return dst("kit", "nbd://127.0.0.1:10813")


def dst_mirror(name, *copies):
    run("dst", "create", name, *copies, "--alg", "alg_mirror", "--force", "--start-array")
    return block_device(f"/dev/dst-{name}")


def wait_for(condition, what, pause=0.5):
    for _ in range(int(300 / pause)):
        if condition():
            return
        time.sleep(pause)
    raise SystemExit(f"waited too long: {what}")


class DstHealer:
    """A mirror of DST, one copy of which is an export that comes and goes."""

    def __init__(self, first, second):
        self.second = second
        self.path = dst_mirror("heal", first, export("heal", second, 10815))
        self.before = 0

    def attribute(self, name):
        return Path("/sys/devices/heal", name).read_text().strip()

    def wait(self, health):
        wait_for(lambda: self.attribute("health") == health, f"dst is {health}", 0.02)

    def away(self):
        # What was written a short time ago counts as dirty, too; and a copy that was away a minute ago is looked at later.
        time.sleep(75)
        run("dst", "unexport", "heal")
        self.wait("degraded")

    def back(self):
        # It counts from the start of the storage.
        self.before = self.healed()
        export("heal", self.second, 10815)
        self.wait("healing")

    def is_healed(self):
        return self.attribute("health") == "healthy"

    def healed(self):
        return int(self.attribute("healed")) / 2048

    def copied(self):
        """MiB that were copied since the copy came back."""
        return self.healed() - self.before


class MdHealer:
    """An array of md, with a bitmap as fine as DST's log, one copy of which is removed and added again."""

    def __init__(self, first, second):
        self.remote = nvme_tcp(second, "heal", 3)
        self.path = md("/dev/md4", ["--bitmap=internal", f"--bitmap-chunk={REGION_KIB}K"], first, self.remote)
        self.before = 0
        # As fast as it can.
        write("/proc/sys/dev/raid/speed_limit_max", "100000000")

    def manage(self, what):
        run("mdadm", self.path, what, self.remote, stderr=subprocess.DEVNULL)

    def written(self):
        return int(Path("/sys/block", self.remote.split("/")[-1], "stat").read_text().split()[6]) / 2048

    def away(self):
        # The bitmap is cleaned some time after the last write.
        time.sleep(30)
        self.manage("--fail")
        time.sleep(1)
        self.manage("--remove")

    def back(self):
        self.before = self.written()
        self.manage("--re-add")

    def is_healed(self):
        md = Path("/sys/block", self.path.split("/")[-1], "md")
        return (md / "degraded").read_text().strip() == "0" and (md / "sync_action").read_text().strip() == "idle"

    def copied(self):
        return self.written() - self.before


class DrbdHealer(Drbd):
    """DRBD, the second node of which is away for a while. Its bitmap knows of 4 KiB."""

    def __init__(self, first, second):
        super().__init__("h", 6, first, second, 7790)
        for _, number, _, _, _ in self.ends:
            # As fast as it can, without a plan for what its network could take.
            run(self.SETUP, "disk-options", number, "--c-plan-ahead=0", "--resync-rate=4000000k")
        self.dirty = 0

    def away(self):
        time.sleep(5)
        self.disconnect()
        wait_for(lambda: self.state()[0] == "StandAlone", "drbd is alone")

    def back(self):
        self.dirty = self.state()[2]
        self.connect()
        wait_for(lambda: self.state()[0] not in ("StandAlone", "Unconnected", "WFConnection"), "drbd is connected", 0.02)

    def is_healed(self):
        return self.state()[:2] == ("Connected", "UpToDate/UpToDate")

    def copied(self):
        return (self.dirty - self.state()[2]) / 1024


HEALERS = {
    "dst-heal": lambda: DstHealer("/dev/ram18", "/dev/ram19"),
    "md-heal": lambda: MdHealer("/dev/ram20", "/dev/ram21"),
    "drbd-heal": lambda: DrbdHealer("/dev/ram22", "/dev/ram23"),
}


def set_up(wanted):
    run("modprobe", "brd", "rd_nr=24", f"rd_size={RAM_DISK * 1024}")
    run("modprobe", "nbd", "nbds_max=2")
    run("modprobe", "dst")
    recipes = {
        "brd": lambda: "/dev/ram0",
        "dst-local": lambda: dst("local", "/dev/ram1"),
        "dst": lambda: dst("remote", export("bench", "/dev/ram2", 10812)),
        "dst-nbdkit": dst_nbdkit,
        "dst-mirror": lambda: dst_mirror("mirror", "/dev/ram6", "/dev/ram7"),
        "dst-mirror-remote": lambda: dst_mirror("far", "/dev/ram8", export("copy", "/dev/ram9", 10814)),
        "dm-linear": lambda: dm_linear("/dev/ram3"),
        "nvme-tcp": lambda: nvme_tcp("/dev/ram4"),
        "nbd-nbdkit": nbd_nbdkit,
        "nbd-server": lambda: nbd_server("/dev/ram5"),
        "md": lambda: md("/dev/md1", ["--bitmap=none"], "/dev/ram10", "/dev/ram11"),
        "md-bitmap": lambda: md("/dev/md2", ["--bitmap=internal"], "/dev/ram12", "/dev/ram13"),
        "md-remote": lambda: md("/dev/md3", ["--bitmap=internal"], "/dev/ram14", nvme_tcp("/dev/ram15", "mirror", 2)),
        "drbd": lambda: Drbd("r", 4, "/dev/ram16", "/dev/ram17", 7788).path,
    }
    for name, recipe in recipes.items():
        if name not in wanted:
            continue
        try:
            path = recipe()
        except (subprocess.CalledProcessError, OSError) as error:
            # The table then lacks it, and says so.
            say(f"can't set up {name}: {error}")
            continue
        no_scheduler(path)
        # Every RAM disk has its pages, so that reads copy and writes don't allocate.
        run("dd", "if=/dev/urandom", f"of={path}", "bs=1M", "count=16", "oflag=direct", "status=none")
        devices[name] = path
        say(f"{name}: {path}")
