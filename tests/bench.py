#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""bench.py [--save-baseline] RAW BASELINE OUT: judges what tests/guest/bench.py measured; see docs/performance.md.

Prints the rows of the benchmark, and the rivals against the baseline file. Status 1: a row is behind its pass column, or
a rival has drifted.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

# A rival that differs more than this from the baseline says that the machine, the kernel or the measure has changed.
TOLERANCE = {
    "brd": 0.05, "dm-linear": 0.05, "nvme-tcp": 0.05, "nbd-nbdkit": 0.20, "nbd-server": 0.20, "md": 0.05, "md-bitmap": 0.08,
    "md-remote": 0.08, "drbd": 0.08,
}
NETWORK_PEERS = ["nvme-tcp", "nbd-nbdkit", "nbd-server"]
# Which RPC of the yardstick belongs to a workload; "r32" has none.
YARDSTICK = {
    "r1": "read 4096 batch 1 thread",
    "r32b8": "read 4096 batch 8 thread",
    "w1": "write 4096 batch 1 thread",
    "w32b8": "write 4096 batch 8 thread",
    "R8": "read 131072 batch 8 thread",
    "W8": "write 131072 batch 8 thread",
}
LABEL = {
    "r1": "4k read QD1",
    "r32": "4k read QD32",
    "r32b8": "4k read QD32 b8",
    "w1": "4k write QD1",
    "w32": "4k write QD32",
    "w32b8": "4k write QD32 b8",
    "R8": "128k read QD8",
    "W8": "128k write QD8",
}


# Devices of ours that are judged by the costs of rivals only: R is for those with one way over the network.
WITHOUT_FLOOR = {"dst-local", "dst-mirror", "dst-mirror-remote"}


@dataclass
class Row:
    name: str
    workload: str
    ours: str
    peers: list
    ratio: float  # pass: at most so many times the best peer
    r: float | None = None  # pass: (device - brd) / floor at most
    stretch_ratio: float | None = None
    stretch_r: float | None = None
    stretch_cost: float | None = None  # thousand instructions at most


NVME = ["nvme-tcp"]
BITMAP = ["md-bitmap"]
REMOTE_MIRRORS = ["md-remote", "drbd"]
ROWS = [
    Row("B1", "r1", "dst-local", ["dm-linear"], 1.05, stretch_ratio=1.0),
    Row("B2", "r32b8", "dst-local", ["dm-linear"], 1.05, stretch_ratio=1.0),
    Row("B2", "w32b8", "dst-local", ["dm-linear"], 1.05, stretch_ratio=1.0),
    Row("B3", "r1", "dst-mirror", ["md"], 1.0, stretch_ratio=0.92),
    Row("B4", "w1", "dst-mirror", BITMAP, 0.9, stretch_cost=18),
    Row("B4", "w32", "dst-mirror", BITMAP, 0.9, stretch_ratio=0.9),
    Row("B4", "w32b8", "dst-mirror", BITMAP, 1.0, stretch_ratio=1.0),
    Row("B5", "r1", "dst", NVME, 0.95, 1.40, stretch_r=1.25),
    Row("B6", "r32", "dst", NVME, 0.90, stretch_ratio=0.70),
    Row("B7", "r32b8", "dst", NVME, 0.95, 1.7, stretch_r=1.35),
    Row("B8", "w1", "dst", NVME, 0.95, stretch_r=1.25),
    Row("B8", "w32b8", "dst", NVME, 0.95, stretch_r=1.35),
    Row("B9", "R8", "dst", NETWORK_PEERS, 0.95, stretch_r=1.3),
    Row("B10", "W8", "dst", NETWORK_PEERS, 0.95, stretch_r=1.3),
    Row("B11", "w1", "dst-mirror-remote", REMOTE_MIRRORS, 0.95, stretch_cost=55),
    Row("B12", "w32b8", "dst-mirror-remote", REMOTE_MIRRORS, 1.0, stretch_cost=33),
    Row("B13", "r1", "dst-mirror-remote", REMOTE_MIRRORS, 1.0, stretch_cost=11),
    Row("B13", "r32", "dst-mirror-remote", REMOTE_MIRRORS, 1.0, stretch_cost=11),
]
# Who is beside whom as allocations are concerned.
ALLOCATION_PEERS = {"dst-local": "dm-linear", "dst": "nvme-tcp", "dst-mirror": "md-bitmap", "dst-mirror-remote": "drbd"}
# What a device of ours is, where a row has no name for it.
KIND = {"dst-local": "local", "dst": "remote", "dst-mirror": "mirror", "dst-mirror-remote": "mirror with a remote copy"}
# Healing: of a storage of which 1 % is dirty, at most so many per cent are copied; a request costs, while healing goes
# on, at most so many times what it costs otherwise.
COPIED, COPIED_STRETCH = 1.2, 1.0
FOREGROUND, FOREGROUND_STRETCH = 1.5, 1.2
HEALING_RIVALS = ["md-heal", "drbd-heal"]
# Who does not heal costs nothing: at least so many MiB a second are healed meanwhile. The default of heal-min is 4.
HEAL_LEAST = 3
# Name, what, workload, limit, stretch.
COUNTS = [
    ("B15", "skb pairs/IO", "r1", 2.05, 2.0),
    ("B15", "skb pairs/IO", "r32b8", 1.5, 1.1),
    ("B16", "packets/IO", "r1", 2.05, None),
    ("B16", "wire bytes/IO", "r1", 4310, None),
    ("B17", "switches/IO", "r1", 3.1, 2.05),
    ("B17", "switches/IO", "r32b8", 0.4, 0.25),
]
COUNTED = {"packets/IO": "packets", "wire bytes/IO": "wire", "switches/IO": "ctx"}
NO_ALLOCATIONS = 0.01


def mean(figures, key="kinstr"):
    return sum(f[key] for f in figures) / len(figures)


@dataclass
class Bench:
    raw: dict
    reference: dict
    failed: list = field(default_factory=list)
    missing: list = field(default_factory=list)
    rows: list = field(default_factory=list)

    def cost(self, device, workload, key="kinstr"):
        figures = self.raw["figures"].get(device, {}).get(workload)
        return mean(figures, key) if figures else None

    def above_floor(self, device, workload, floor):
        cost, base = self.cost(device, workload), self.cost("brd", workload)
        return (cost - base) / floor if cost and base and floor else None

    def verdict(self, name, ok, stretch):
        if not ok:
            self.failed.append(name)
            return "BEHIND"
        return "stretch" if stretch else "pass"

    def row(self, row):
        ours = self.cost(row.ours, row.workload)
        peers = {p: c for p in row.peers if (c := self.cost(p, row.workload))}
        label = LABEL[row.workload]
        if ours is None or not peers:
            self.missing.append(f"{row.name} {label}")
            return
        best = min(peers, key=peers.get)
        ratio = ours / peers[best]
        key = YARDSTICK.get(row.workload)
        local = row.ours in WITHOUT_FLOOR
        yardstick = self.above_floor(row.ours, row.workload, None if local else self.raw["floor"].get(key))
        matrix = self.above_floor(row.ours, row.workload, None if local else self.reference.get(row.workload))
        ok = ratio <= row.ratio and (row.r is None or (matrix is not None and matrix <= row.r))
        stretch = (row.stretch_ratio is None or ratio <= row.stretch_ratio) and (
            row.stretch_r is None or (matrix is not None and matrix <= row.stretch_r)) and (
            row.stretch_cost is None or ours <= row.stretch_cost)
        limit = f"<= {row.ratio:.2f}x" + (f", R <= {row.r:.2f}" if row.r else "")
        goal = f"<= {row.stretch_ratio:.2f}x" if row.stretch_ratio else f"R <= {row.stretch_r:.2f}" if row.stretch_r else (
            f"<= {row.stretch_cost}")
        self.rows.append({
            "row": row.name, "workload": label, "dst": ours, "rival": best, "rival_cost": peers[best], "ratio": ratio,
            "R": matrix, "R_yardstick": yardstick, "pass": limit, "stretch": goal,
            "verdict": self.verdict(f"{row.name} {label}", ok, stretch),
        })

    def allocations(self, device, workload):
        """Non-network allocations and sk_buff pairs an I/O."""
        sites = self.raw.get("allocations", {}).get(device, {}).get(workload)
        if sites is None:
            return None
        other = sum(s["each"] for s in sites.values() if not s["network"])
        return other, sites.get("cache: __alloc_skb", {"each": 0.0})["each"]

    def count(self, name, what, workload, limit, stretch):
        if what in COUNTED:
            ours, peer = (self.cost(d, workload, COUNTED[what]) for d in ("dst", "nvme-tcp"))
        else:
            ours, peer = (a[1] if (a := self.allocations(d, workload)) else None for d in ("dst", "nvme-tcp"))
        label = f"{LABEL[workload]}: {what}"
        if ours is None:
            self.missing.append(f"{name} {label}")
            return
        # What a close or a keep-alive adds is far below a hundredth.
        ok, better = round(ours, 2) <= limit, stretch is not None and round(ours, 2) <= stretch
        self.rows.append({
            "row": name, "workload": label, "dst": ours, "rival": "nvme-tcp", "rival_cost": peer, "pass": f"<= {limit}",
            "stretch": f"{stretch}" if stretch else "-", "verdict": self.verdict(f"{name} {label}", ok, better),
        })

    def no_allocations(self):
        measured = self.raw.get("allocations", {})
        for device, peer_name in ALLOCATION_PEERS.items():
            for workload in measured.get(device, {}):
                other, _ = self.allocations(device, workload)
                peer = self.allocations(peer_name, workload)
                label = f"{LABEL[workload]}, {KIND[device]}: allocations/IO"
                self.rows.append({
                    "row": "B14", "workload": label, "dst": abs(other), "rival": peer_name,
                    "rival_cost": peer[0] if peer else None, "pass": f"<= {NO_ALLOCATIONS}", "stretch": "0",
                    "verdict": self.verdict(f"B14 {label}", abs(other) <= NO_ALLOCATIONS, False),
                })
            if not measured.get(device):
                self.missing.append(f"B14 {KIND[device]}")

    def healing(self):
        measured = self.raw.get("healing", {})
        ours = measured.get("dst-heal")
        peers = {name: measured[name] for name in HEALING_RIVALS if measured.get(name)}
        self.missing += [f"B22 {name}" for name in HEALING_RIVALS if name not in peers]
        if not ours or not peers:
            self.missing.append("B22")
            return

        def row(label, figure, limit, goal, judge):
            costs = {name: figure(peer) for name, peer in peers.items()}
            best = min(costs, key=costs.get)
            dst = figure(ours)
            line = {"row": "B22", "dst": dst, "rival": best, "rival_cost": costs[best], "pass": limit, "stretch": goal}
            self.rows.append(line | {"workload": label} | judge(dst, costs[best]))

        label = "healing: kinstr/MiB"
        row(label, lambda h: heal_cost(h["heal"]), "<= 1.00x", "-", lambda dst, best: {
            "ratio": dst / best, "verdict": self.verdict(f"B22 {label}", dst <= best, False)})
        # The first amount is a hundredth of the storage.
        share = "1 % dirty: % copied"
        row(share, lambda h: round(h["heal"][0]["copied"] / h["heal"][0]["dirty"], 2), f"<= {COPIED}", f"<= {COPIED_STRETCH}",
            lambda dst, _: {"verdict": self.verdict(f"B22 {share}", dst <= COPIED, dst <= COPIED_STRETCH)})
        for workload, found in ours["foreground"].items():
            busy = f"{LABEL[workload]} while healing: times idle"
            pace = found["copied"] / found["seconds"]
            heals = found["ended"] or pace >= HEAL_LEAST
            row(busy, lambda h, w=workload: h["foreground"][w]["busy"] / h["foreground"][w]["idle"], f"<= {FOREGROUND}",
                f"<= {FOREGROUND_STRETCH}", lambda dst, _, text=f"B22 {busy} ({pace:.1f} MiB/s are healed)", heals=heals: {
                    "verdict": self.verdict(text, dst <= FOREGROUND and heals, dst <= FOREGROUND_STRETCH)})


def heal_cost(heals):
    """Thousand instructions for each MiB that is copied: the difference of much and little, without what is done once."""
    little, much = heals[0], heals[-1]
    return (much["kinstr"] - little["kinstr"]) / (much["copied"] - little["copied"])


def number(value, digits=2):
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if digits == 1 else f"{value:.2f}"


def print_table(rows):
    head = ["row", "workload", "DST", "rival", "", "ratio", "R", "R echo", "pass", "stretch", "verdict"]
    table = [head]
    for r in rows:
        instructions = "ratio" in r
        table.append([
            r["row"], r["workload"], number(r["dst"], 1 if instructions else 2), number(r["rival_cost"], 1 if instructions else 2),
            r["rival"], number(r.get("ratio")), number(r.get("R")), number(r.get("R_yardstick")), r["pass"], r["stretch"],
            r["verdict"],
        ])
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def print_costs(raw):
    print("\nThousand instructions an I/O (mean; the second run's difference in per cent):")
    workloads = list(LABEL)
    print(f"{'':18}" + "".join(f"{LABEL[w]:>18}" for w in workloads))
    for device, figures in raw["figures"].items():
        cells = ""
        for w in workloads:
            text = "-"
            if w in figures:
                text = f"{mean(figures[w]):.1f}"
                if len(figures[w]) > 1:
                    first, second = figures[w][0]["kinstr"], figures[w][1]["kinstr"]
                    text += f" {100 * (second / first - 1):+.1f}%"
            cells += f"{text:>18}"
        print(f"{device:18}{cells}")
    floor = "".join(f"{raw['floor'][YARDSTICK[w]]:.1f}".rjust(18) if YARDSTICK.get(w) in raw["floor"] else f"{'-':>18}" for w in workloads)
    print(f"{'echo (floor)':18}{floor}")


def print_healing(raw):
    for name, found in raw.get("healing", {}).items():
        for heal in found["heal"]:
            print(f"{name}: {heal['dirty']} MiB dirty, {heal['copied']:.1f} MiB copied, {heal['kinstr'] / 1000:.1f} million "
                  f"instructions, {heal['seconds']:.1f} s")
        for workload, cost in found["foreground"].items():
            rest = " (healing ended meanwhile)" if cost["ended"] else ""
            print(f"{name}: {LABEL[workload]} {cost['idle']:.1f}, while healing {cost['busy']:.1f} thousand instructions, "
                  f"{cost['copied']:.1f} MiB copied in {cost['seconds']:.1f} s{rest}")


def drift(raw, baseline):
    """The rivals' figures that differ from the baseline by more than their tolerance."""
    away = []
    for device, workloads in baseline.get("figures", {}).items():
        for workload, cost in workloads.items():
            figures = raw["figures"].get(device, {}).get(workload)
            if figures and abs(mean(figures) / cost - 1) > TOLERANCE[device]:
                away.append(f"{device} {LABEL[workload]}: {mean(figures):.1f}, baseline {cost:.1f}")
    return away


def save(path, baseline, raw, environment):
    baseline["environment"] = environment
    # What was not measured stays as it is.
    for device in TOLERANCE:
        for workload, figures in raw["figures"].get(device, {}).items():
            baseline["figures"].setdefault(device, {})[workload] = round(mean(figures), 2)
    path.write_text(json.dumps(baseline, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--save-baseline", action="store_true")
    parser.add_argument("--qemu", default="")
    parser.add_argument("raw", type=Path)
    parser.add_argument("baseline", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    raw = json.loads(arguments.raw.read_text())
    baseline = json.loads(arguments.baseline.read_text())
    environment = raw["environment"] | ({"qemu": arguments.qemu} if arguments.qemu else {})
    bench = Bench(raw, baseline["matrix_floor"])
    for row in ROWS:
        bench.row(row)
    bench.healing()
    bench.no_allocations()
    for count in COUNTS:
        bench.count(*count)
    print_table(bench.rows)
    print_costs(raw)
    print_healing(raw)
    away = drift(raw, baseline)
    if arguments.save_baseline:
        save(arguments.baseline, baseline, raw, environment)
        away = []
    arguments.out.write_text(json.dumps({
        "environment": environment, "rows": bench.rows, "behind": bench.failed, "missing": bench.missing, "drift": away,
        "measured": raw,
    }, indent=1) + "\n")
    for title, lines in ("behind the pass column", bench.failed), ("not measured", bench.missing), (
            "rivals away from the baseline", away):
        if lines:
            print(f"\n{title}:\n  " + "\n  ".join(lines))
    if not bench.failed and not bench.missing and not away:
        print("\nAll rows pass.")
    sys.exit(1 if bench.failed or bench.missing or away else 0)


main()
