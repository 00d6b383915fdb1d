#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Measures DST and its rivals in the VM of tests/bench; see docs/performance.md.

bench.py OUTPUT [--quick]: sets up every device, measures each workload on each of them twice (DST first, peers first),
then allocations, then what healing costs, and writes all of that to OUTPUT as JSON. The VM's time counts instructions:
1 ns is one.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

# tests/bench has its folder in PYTHONPATH.
from bench_devices import HEALERS, RAM_DISK, REGION_KIB, block_device, devices, run, say, set_up, wait_for, write

TRACING = Path("/sys/kernel/tracing")
# name: fio's rw, block size in KiB, depth, batch, I/Os. fio's clock has milliseconds: short paths take more I/Os.
WORKLOADS = {
    "r1": ("randread", 4, 1, 1, 5000),
    "r32": ("randread", 4, 32, 1, 5000),
    "r32b8": ("randread", 4, 32, 8, 5000),
    "w1": ("randwrite", 4, 1, 1, 5000),
    "w32": ("randwrite", 4, 32, 1, 5000),
    "w32b8": ("randwrite", 4, 32, 8, 5000),
    "R8": ("randread", 128, 8, 1, 500),
    "W8": ("randwrite", 128, 8, 1, 500),
}
LINEAR = ["r1", "r32", "r32b8", "w1", "w32b8", "R8", "W8"]
LOCAL = ["r1", "r32b8", "w32b8"]
MIRROR = ["r1", "r32b8", "w1", "w32", "w32b8", "W8"]
MIRROR_REMOTE = ["r1", "r32", "w1", "w32", "w32b8", "W8"]
SHORT = 4  # times as many I/Os for the devices without a network
# What each device is measured with. The mirrors have two copies each: on local disks, or one of them remote.
PLAN = {
    "brd": list(WORKLOADS),
    "dst-local": LOCAL,
    "dst": LINEAR,
    "dst-nbdkit": LINEAR,
    "dst-mirror": MIRROR,
    "dst-mirror-remote": MIRROR_REMOTE,
    "dm-linear": LOCAL,
    "nvme-tcp": LINEAR,
    "nbd-nbdkit": LINEAR,
    "nbd-server": LINEAR,
    "md": MIRROR,
    "md-bitmap": MIRROR,
    "md-remote": MIRROR_REMOTE,
    "drbd": MIRROR_REMOTE,
    # Only healed.
    "dst-heal": [],
    "md-heal": [],
    "drbd-heal": [],
}
NETWORKED = {"dst", "dst-nbdkit", "nvme-tcp", "nbd-nbdkit", "nbd-server", "dst-mirror-remote", "md-remote", "drbd"}
# Allocations: device, workload. Differences of a long and a short run, so that what fio does once drops out.
ALLOCATIONS = [
    ("brd", "r32b8"), ("brd", "w32b8"), ("brd", "R8"), ("brd", "W8"),
    ("dm-linear", "r32b8"), ("dst-local", "r32b8"), ("dst-local", "w32b8"),
    ("dst", "r1"), ("dst", "r32b8"), ("dst", "w1"), ("dst", "w32b8"), ("dst", "R8"), ("dst", "W8"),
    ("nvme-tcp", "r1"), ("nvme-tcp", "r32b8"),
    ("dst-mirror", "r1"), ("dst-mirror", "w1"), ("dst-mirror", "w32b8"), ("md-bitmap", "w32b8"),
    ("dst-mirror-remote", "r1"), ("dst-mirror-remote", "w1"), ("dst-mirror-remote", "w32b8"), ("drbd", "w32b8"),
]
# Functions of the network's own buffers, as they stand in a call site or a stack.
NETWORK = re.compile(r"(_*alloc_skb|_*build_skb|_*napi_|kmalloc_reserve|skb_|_*skb_|pskb_|tcp_|sk_|inet_|sock_|page_frag)")

# Healing: what is written while a copy is away, in MiB: two amounts, since their difference has only what grows with
# them. The first is 1 % of the storage. Each write is a region of the log.
DIRTY = (10, 50)
# What is written for a look at requests while healing goes on: more than is healed meanwhile.
DIRTY_BUSY = 256

def counters():
    ctxt = next(int(line.split()[1]) for line in open("/proc/stat") if line.startswith("ctxt"))
    lo = next(line.split() for line in open("/proc/net/dev") if line.strip().startswith("lo:"))
    return {"ctx": ctxt, "wire": int(lo[1]), "packets": int(lo[2])}


def fio(path, workload, count):
    rw, kib, depth, batch, _ = WORKLOADS[workload]
    block_device(path, 0)
    out = "/run/fio.json"
    run(
        "fio", "--name=t", f"--filename={path}", f"--rw={rw}", f"--bs={kib}k", f"--iodepth={depth}",
        f"--iodepth_batch_submit={batch}", f"--iodepth_batch_complete_max={batch}", "--ioengine=libaio", "--direct=1",
        f"--io_size={count * kib}k", "--size=16M", "--norandommap", "--randrepeat=1", "--thread",
        "--unified_rw_reporting=1", "--output-format=json", f"--output={out}",
    )
    return json.load(open(out))["jobs"][0]["mixed"]


def measure(name, workload, quick):
    count = WORKLOADS[workload][4] * (1 if name in NETWORKED else SHORT) // (5 if quick else 1)
    before = counters()
    job = fio(devices[name], workload, count)
    after = counters()
    ios = job["total_ios"]
    figures = {key: (after[key] - before[key]) / ios for key in before}
    figures["kinstr"] = 1e6 / job["iops"]
    return figures


def measure_all(wanted, workloads, quick):
    """The figures of each device and workload, one for each repetition."""
    result = {}
    ours = [d for d in wanted if d.startswith("dst")]
    peers = [d for d in wanted if not d.startswith("dst")]
    for order in ([ours + peers] if quick else [ours + peers, peers + ours]):
        for name in order:
            if name not in devices:
                continue
            line = f"{name:18}"
            for workload in PLAN[name]:
                if workload not in workloads:
                    continue
                figures = measure(name, workload, quick)
                result.setdefault(name, {}).setdefault(workload, []).append(figures)
                line += f" {workload} {figures['kinstr']:.1f}"
            say(line)
    return result


def histogram(path):
    """Hits of each key of a hist trigger; keys are text, of more than one line."""
    hits, key = {}, []
    for line in path.read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        key.append(line.strip())
        if found := re.search(r"hitcount:\s+(\d+)", line):
            if "{" in key[0]:
                text = " ".join(key).split("}")[0]
                hits[text] = hits.get(text, 0) + int(found.group(1))
            key = []
    return hits


# One key each: the innermost frames of the stack. (Pages have no call site of their own.)
HISTOGRAM = "hist:keys=common_stacktrace:size=2048"
EVENTS = ["kmem/kmalloc", "kmem/kmem_cache_alloc", "kmem/mm_page_alloc"]
# The functions that allocate for others.
ALLOCATOR = re.compile(
    r"(_*alloc_pages|_*alloc_frozen|get_page|get_free_page|_*kmalloc|_*kvmalloc|_*kmem_cache_alloc|kmalloc_reserve_|trace_|event_)")
# Of system calls, libaio's submission and wait are I/O; all else is the start and the end of fio.
SYSTEM_CALL = re.compile(r"(do_syscall_64|x64_sys_call|entry_SYSCALL|__(x64|do|se)_sys_)")
IO_CALL = re.compile(r"__(x64|do|se)_sys_io_(submit|getevents|pgetevents)")
NO_IO = re.compile(r".*(page_fault|mm_fault|do_user_addr_fault|exit_mmap|do_exit|execve)")


def is_io_stack(names):
    """Whether these functions work on an I/O: called by its system calls, by a kernel thread or an interrupt."""
    if any(NO_IO.match(n) for n in names):
        return False
    return any(IO_CALL.match(n) for n in names) or not any(SYSTEM_CALL.match(n) for n in names)


def site(event, key):
    """What allocates: the function's name, and whether it is the network; `None`: it has nothing to do with an I/O."""
    names = re.findall(r"([A-Za-z_][\w.$]*)\+0x", key)
    if not is_io_stack(names):
        return None
    callers = [n for n in names if not ALLOCATOR.match(n) or n == "kmalloc_reserve"]
    if "page" in event:
        return "pages: " + " < ".join(callers[:3]), any(NETWORK.match(n) for n in callers[:6])
    name = callers[0] if callers else key
    kind = "cache" if "cache" in event else "kmalloc"
    return f"{kind}: {symbol(name)}", bool(NETWORK.match(name))


def traced(path, workload, count):
    triggers = {event: TRACING / "events" / event / "trigger" for event in EVENTS}
    for trigger in triggers.values():
        write(trigger, HISTOGRAM)
    job = fio(path, workload, count)
    hits = {}
    for event in triggers:
        for key, count in histogram(TRACING / "events" / event / "hist").items():
            if found := site(event, key):
                name, network = found
                hits[name] = (hits.get(name, (0, False))[0] + count, network)
    for trigger in triggers.values():
        write(trigger, "!" + HISTOGRAM)
    return job["total_ios"], hits


def allocations(name, workload, quick):
    """Allocations per I/O of each site."""
    path, kib = devices[name], WORKLOADS[workload][1]
    short, long = (1000, 9000) if kib == 4 else (200, 1700)
    if quick:
        long = 2 * short
    ios_long, hits_long = traced(path, workload, long)
    ios_short, hits_short = traced(path, workload, short)
    result = {}
    for key, (count, network) in hits_long.items():
        each = (count - hits_short.get(key, (0, False))[0]) / (ios_long - ios_short)
        if abs(each) >= 0.0005:
            result[key] = {"each": each, "network": network}
    return result


def allocations_all(wanted, workloads, quick):
    result = {}
    for name, workload in ALLOCATIONS:
        if name in devices and name in wanted and (name == "brd" or workload in workloads):
            result.setdefault(name, {})[workload] = allocations(name, workload, quick)
    # What fio and the RAM disk allocate themselves.
    for name, workloads in result.items():
        for workload, sites in workloads.items():
            base = result.get("brd", {}).get({"r1": "r32b8", "w1": "w32b8"}.get(workload, workload), {})
            if name != "brd":
                for key, value in base.items():
                    if key in sites:
                        sites[key]["each"] -= value["each"]
            say(f"allocations {name} {workload}: " + ", ".join(
                f"{key} {value['each']:.2f}" for key, value in sites.items() if abs(value["each"]) >= 0.005))
    return result


def executed():
    """Instructions that all tasks have executed: of the time, what was not idle."""
    cpu = next(line.split() for line in open("/proc/schedstat") if line.startswith("cpu0 "))
    return int(cpu[7])


def dirty(path, mib):
    """Writes at random, a whole region at a time, none twice."""
    run(
        "fio", "--name=t", f"--filename={path}", "--rw=randwrite", f"--bs={REGION_KIB}k", f"--io_size={mib}m",
        f"--size={RAM_DISK - 64}m", "--ioengine=libaio", "--direct=1", "--randrepeat=1", "--thread", "--output=/dev/null",
    )


def heal_once(healer, mib):
    healer.away()
    dirty(healer.path, mib)
    before, started = executed(), time.monotonic()
    healer.back()
    wait_for(healer.is_healed, "healing")
    # A task's time is counted when it stops.
    time.sleep(0.01)
    return {"dirty": mib, "copied": healer.copied(), "kinstr": (executed() - before) / 1000,
            "seconds": time.monotonic() - started}


def requests_done(path):
    """Reads and writes of a disk that have ended, and when that was."""
    fields = Path("/sys/block", path.split("/")[-1], "stat").read_text().split()
    return int(fields[0]) + int(fields[4]), time.monotonic()


def cost_now(path, until):
    """What an I/O costs from now on, for two seconds at most, while `until` is false; and how long that was."""
    ios, started = requests_done(path)
    for _ in range(40):
        time.sleep(0.05)
        if until():
            break
    after, ended = requests_done(path)
    return 1e6 * (ended - started) / max(1, after - ios), ended - started


def foreground(healer, workload):
    """What an I/O costs while a copy is there, and while it is healed."""
    rw, kib = WORKLOADS[workload][:2]
    healer.away()
    dirty(healer.path, DIRTY_BUSY)
    load = subprocess.Popen([
        "fio", "--name=t", f"--filename={healer.path}", f"--rw={rw}", f"--bs={kib}k", "--iodepth=1", "--ioengine=libaio",
        "--direct=1", "--size=16M", "--norandommap", "--randrepeat=1", "--thread", "--time_based", "--runtime=600",
        "--output=/dev/null",
    ])
    before = requests_done(healer.path)[0]
    wait_for(lambda: requests_done(healer.path)[0] > before + 100, "fio", 0.05)
    healer.back()
    copied = healer.copied()
    busy, seconds = cost_now(healer.path, healer.is_healed)
    copied = healer.copied() - copied
    ended = healer.is_healed()
    load.terminate()
    load.wait()
    wait_for(healer.is_healed, "healing")
    idle = 1e6 / fio(healer.path, workload, 2 * WORKLOADS[workload][4])["iops"]
    return {"idle": idle, "busy": busy, "copied": copied, "seconds": seconds, "ended": ended}


def heal_all(wanted, workloads):
    """What healing costs, and what requests cost meanwhile."""
    result = {}
    for name, recipe in HEALERS.items():
        if name not in wanted:
            continue
        try:
            healer = recipe()
            # Whatever is done for the first time only.
            heal_once(healer, 1)
            result[name] = {
                "heal": [heal_once(healer, mib) for mib in DIRTY],
                "foreground": {w: foreground(healer, w) for w in ("r1", "w1") if w in workloads},
            }
        except (subprocess.CalledProcessError, OSError) as error:
            say(f"can't heal {name}: {error}")
            continue
        say(name, json.dumps(result[name]))
    return result


def floor(rpcs):
    """The yardstick: RPCs of NBD's sizes over the same network code, with no block device."""
    run("dmesg", "--clear")
    if subprocess.run(["modprobe", "dst_echo", f"rpcs={rpcs}"]).returncode != 0:
        return {}
    result = {}
    pattern = r"rpc (read|write) (\d+) batch (\d+) (task|thread): (\d+) ns"
    for kind, size, batch, hop, each in re.findall(pattern, run("dmesg")):
        result[f"{kind} {size} batch {batch} {hop}"] = int(each) / 1000
    run("rmmod", "dst_echo")
    say("floor", json.dumps(result))
    return result


def symbol(name):
    """A Rust symbol's path, roughly: the identifiers of the v0 mangling, in their order."""
    if not name.startswith("_R"):
        return name
    words, at = [], 2
    while at < len(name):
        found = re.compile(r"(?<![A-Za-z0-9]s)(\d+)_?").match(name, at)
        if found and 0 < int(found.group(1)) <= len(name) - found.end():
            word = name[found.end() : found.end() + int(found.group(1))]
            at = found.end() + int(found.group(1))
            if re.fullmatch(r"[A-Za-z_]\w*", word):
                words.append(word)
        elif name[at] in "sCB" and (skipped := re.compile(r"[sCB][0-9a-zA-Z]*_").match(name, at)):
            # A disambiguator, or what was there before.
            at = skipped.end()
        else:
            at += 1
    return "::".join(words[-4:]) or name


def sampled_stacks(work):
    """Calls `work`, and counts each (thread, stack) that samples meet.

    Three clocks, each of another period: nothing is random here, and one clock alone would keep step with the I/Os.
    """
    clocks = "profile:us:47, profile:us:59, profile:us:71"
    program = f'BEGIN {{ printf("ready\\n") }} {clocks} {{ @[comm, kstack(perf, 60)] = count(); }}'
    log = Path("/run/bpftrace.json")
    with log.open("w") as out:
        tracer = subprocess.Popen(["bpftrace", "-q", "-f", "json", "-e", program], stdout=out)
    while "ready" not in log.read_text():
        time.sleep(0.5)
    work()
    tracer.send_signal(2)
    tracer.wait()
    stacks = {}
    for line in log.read_text().splitlines():
        message = json.loads(line) if line else {}
        if message.get("type") != "map":
            continue
        for key, hits in message["data"].get("@", {}).items():
            comm, _, stack = key.replace("\\n", "\n").replace("\\t", "").partition(",")
            frames = tuple(symbol(f.split()[1].split("+")[0]) for f in stack.splitlines() if len(f.split()) > 1)
            stacks[(comm, frames)] = stacks.get((comm, frames), 0) + hits
    return stacks


def is_io(comm, frames):
    """Not the tracer, not the start and the end of fio, not its user space, nor the time when nobody has work."""
    if comm == "fio":
        return any("sys_io_" in f for f in frames)
    return comm not in ("bpftrace", "python3", "cat") and not any("idle" in f for f in frames) and bool(frames)


def profile(name, workload, out):
    """Says where the instructions of an I/O go, in thousand."""
    rw, kib, depth, batch, count = WORKLOADS[workload]
    count *= 3 if kib == 4 else 2
    cost = 1e6 / fio(devices[name], workload, count)["iops"]
    stacks = sampled_stacks(lambda: fio(devices[name], workload, count))
    title = f"{name} {rw} {kib}k QD{depth} b{batch}: {cost:.1f} kinstr/IO"
    tell_profile(title, cost, stacks, f"{name}.{workload}", out)


def profile_heal(name, out):
    """Says where the instructions of healing go, in thousand for each MiB."""
    healer = HEALERS[name]()
    heal_once(healer, 1)
    figures = heal_once(healer, DIRTY[1])
    healer.away()
    dirty(healer.path, DIRTY[1])

    def work():
        healer.back()
        wait_for(healer.is_healed, "healing")

    cost = figures["kinstr"] / figures["copied"]
    tell_profile(f"{name}: {cost:.0f} kinstr/MiB", cost, sampled_stacks(work), f"{name}.heal", out)


def tell_profile(title, cost, stacks, name, out):
    stacks = {k: v for k, v in stacks.items() if is_io(*k)}
    total = sum(stacks.values())
    print(f"\n### {title}, {total} samples", file=out)
    tables = {"thread": {}, "self": {}, "with callees": {}}
    for (comm, frames), hits in stacks.items():
        keys = [("thread", comm), ("self", f"{comm:15.15} {frames[0]}")]
        keys += [("with callees", f"{comm:15.15} {frame}") for frame in set(frames)]
        for table, key in keys:
            tables[table][key] = tables[table].get(key, 0) + hits
    for table_title, table in tables.items():
        print(f"--- {table_title} (thousand)", file=out)
        for key, hits in sorted(table.items(), key=lambda item: -item[1])[: 80 if table_title == "self" else 200]:
            print(f"{hits / total * cost:8.2f} {key}", file=out)
    out.flush()
    with open(f"{out.name}.{name}.stacks", "w") as raw:
        for (comm, frames), hits in sorted(stacks.items(), key=lambda item: -item[1]):
            print(f"{hits / total * cost:.3f} {comm};{';'.join(reversed(frames))}", file=raw)


def environment():
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "kernel": platform.release(),
        "cpu": cpu.group(1) if cpu else "",
        "fio": run("fio", "--version").strip(),
        "cmdline": " ".join(w for w in Path("/proc/cmdline").read_text().split() if w in ("nokaslr", "mitigations=off")),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", help="devices, with commas")
    parser.add_argument("--profile", help="a file for the profile, instead of the measurements")
    parser.add_argument("--workloads", help="with commas: measure, or profile, these only")
    parser.add_argument("--no-allocations", action="store_true")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else list(PLAN)
    workloads = arguments.workloads.split(",") if arguments.workloads else [*WORKLOADS, "heal"]
    if unknown := (set(wanted) - set(PLAN)) | (set(workloads) - set(WORKLOADS) - {"heal"}):
        sys.exit(f"no such device or workload: {', '.join(unknown)}")
    set_up(wanted)
    # Daemons that would copy pages, or watch them, meanwhile.
    for path, value in ("kernel/mm/transparent_hugepage/enabled", "never"), ("module/damon_stat/parameters/enabled", "N"):
        if Path("/sys", path).exists():
            write(Path("/sys", path), value)
    if arguments.profile:
        with open(arguments.profile, "w") as out:
            for name in wanted:
                for workload in PLAN[name]:
                    if name in devices and workload in workloads:
                        say(f"profile {name} {workload}")
                        profile(name, workload, out)
                if name in HEALERS and "heal" in workloads:
                    say(f"profile {name}")
                    profile_heal(name, out)
        return
    result = {"environment": environment(), "floor": floor(1000 if arguments.quick else 4000)}
    result["figures"] = measure_all(wanted, workloads, arguments.quick)
    if not arguments.no_allocations:
        result["allocations"] = allocations_all(wanted, workloads, arguments.quick)
    if "heal" in workloads:
        result["healing"] = heal_all(wanted, workloads)
    write(arguments.output, json.dumps(result, indent=1) + "\n")


main()
