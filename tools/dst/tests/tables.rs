// SPDX-License-Identifier: GPL-2.0

//! What status, list and stats print.

mod fake;

use dst_core::uapi::*;
use fake::{
    Fake,
    State, //
};
use serde_json::Value;

/// A machine with a storage of three nodes, one of them lost, a stopped storage and an export.
fn busy_machine() -> Fake {
    let fake = Fake::new();
    fake.ok("dst create storage kano:1025 /dev/sdb nbd://kano/vol --timeout 30s --start-array");
    fake.ok("dst create empty");
    fake.ok("dst export disk /dev/sdc --read-only --allow 192.168.4.0/24");
    {
        let mut state = fake.state.borrow_mut();
        let storage = state.storage("storage").unwrap();
        storage.openers = 1;
        let lost = &mut storage.nodes[0];
        lost.state = NODE_LOST;
        lost.since_ms = 12_345;
        lost.in_flight = 3;
        lost.errors = 2;
        lost.reconnects = 7;
        lost.timeout_ms = 0;
        set_text(&mut lost.reason, "Connection reset by peer").unwrap();
        storage.nodes[1].requests = [10, 20, 3, 4];
        storage.nodes[1].bytes = [40_960, 81_920, 0, 4096];
    }
    fake
}

const STATUS: &str = "\
empty  stopped  alg_linear  0 B
  no node yet; 'dst add empty NODE' adds one

storage  running  alg_linear  1.6 MiB  /dev/dst-storage  512-byte blocks  open
  ID  NODE                       START  SECTORS       SIZE  STATE     IN FLIGHT  ERRORS  RECONNECTS
   0  R: 192.168.4.80:1025           0      800  400.0 KiB  lost 12s          3       2           7
      Connection reset by peer; requests wait until it is back; 'dst fail-now storage 0' ends the waiting
   1  L: /dev/sdb                  800      800  400.0 KiB  up                0       0           0
   2  R: 192.168.4.80:10809/vol   1600     1600  800.0 KiB  up                0       0           0

EXPORT  ADDRESS        DEVICE        SIZE  ACCESS  CLIENTS  IN FLIGHT  ERRORS  NETWORKS
disk    0.0.0.0:10809  /dev/sdc  20.0 GiB  ro         0/16          0       0  192.168.4.0/24
";

#[test]
fn status() {
    let fake = busy_machine();
    assert_eq!(fake.ok("dst status"), STATUS);
    let one = fake.ok("dst status storage");
    assert!(
        STATUS.contains(&one) && one.starts_with("storage  running"),
        "{one}"
    );
    assert!(fake.ok("dst status disk").starts_with("EXPORT"));
    assert!(fake
        .fail("dst status nobody")
        .contains("neither a storage nor an export 'nobody'"));
    assert_eq!(
        fake.ok("dst list"),
        "storage empty\nstorage storage\nexport disk\n"
    );
    assert!(Fake::new()
        .ok("dst status")
        .contains("no storage and no export"));
    assert_eq!(Fake::new().ok("dst list"), "");
}

#[test]
fn notes_on_nodes_that_are_not_up() {
    for (state, timeout_ms, reason, part) in [
        (NODE_LOST, 30_000, "", "requests wait for 30s, then fail"),
        (
            NODE_CONNECTING,
            0,
            "refused",
            "refused; requests wait until it is back",
        ),
        (NODE_FAILED, 0, "", "      requests fail until it is back"),
    ] {
        let fake = busy_machine();
        {
            let mut fields = fake.state.borrow_mut();
            let node = &mut fields.storage("storage").unwrap().nodes[2];
            node.state = state;
            node.timeout_ms = timeout_ms;
            set_text(&mut node.reason, reason).unwrap();
        }
        let out = fake.ok("dst status storage");
        assert!(out.contains(part), "{out}");
    }
}

#[test]
fn colours_on_a_terminal_only() {
    let fake = busy_machine();
    assert!(!fake.run("dst status").out.contains('\x1b'));
    let out = fake.run_on("dst status", true).out;
    assert!(out.contains("\x1b[32mrunning\x1b[0m"), "{out}");
    assert!(out.contains("\x1b[1;31mlost 12s\x1b[0m"), "{out}");
    assert!(!fake.run_on("dst status --json", true).out.contains('\x1b'));
}

#[test]
fn json() {
    let fake = busy_machine();
    let status: Value = serde_json::from_str(&fake.ok("dst status --json")).unwrap();
    let storage = &status["storages"][1];
    assert_eq!(storage["name"], "storage");
    assert_eq!(storage["state"], "running");
    assert_eq!(storage["device"], "/dev/dst-storage");
    assert_eq!(storage["size"], 3200 * 512);
    let node = &storage["nodes"][2];
    assert_eq!(node["type"], "R: 192.168.4.80:10809/vol");
    assert_eq!(node["address"], "192.168.4.80:10809");
    assert_eq!(node["export"], "vol");
    assert_eq!(node["path"], Value::Null);
    assert_eq!(node["timeout_ms"], 30_000);
    assert_eq!(storage["nodes"][1]["finished"]["written_bytes"], 81_920);
    assert_eq!(status["storages"][0]["device"], Value::Null);
    assert_eq!(status["exports"][0]["allow"][0], "192.168.4.0/24");
    let list: Value = serde_json::from_str(&fake.ok("dst list --json")).unwrap();
    assert_eq!(list["storages"][1], "storage");
    let nothing: Value = serde_json::from_str(&Fake::new().ok("dst status --json")).unwrap();
    assert_eq!(nothing["storages"].as_array().unwrap().len(), 0);
}

#[test]
fn totals() {
    let fake = busy_machine();
    let out = fake.ok("dst stats storage");
    let line = out.lines().nth(2).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(
        words,
        [
            "storage", "1", "L:", "/dev/sdb", "10", "40.0", "KiB", "20", "80.0", "KiB", "3", "4",
            "0", "0", "up"
        ]
    );
    assert_eq!(out.lines().count(), 4);
    assert!(fake.ok("dst stats").contains("/dev/sdc at 0.0.0.0:10809"));
    let value: Value = serde_json::from_str(&fake.ok("dst stats storage --json")).unwrap();
    assert_eq!(value["stats"][1]["total"]["reads"], 10);
    assert_eq!(value["stats"][0]["state"], "lost");
    assert!(fake.fail("dst stats nobody").contains("neither"));
    assert!(Fake::new()
        .ok("dst stats")
        .contains("no node and no export"));
}

/// Half a second of work on the second node.
fn work(state: &mut State) {
    let node = &mut state.storage("storage").unwrap().nodes[1];
    node.requests[STAT_READ] += 50;
    node.bytes[STAT_READ] += 512 * 1024;
    node.requests[STAT_WRITE] += 5;
}

#[test]
fn watching() {
    let mut fake = busy_machine();
    fake.on_sleep = Some(work);
    let out = fake.ok("dst stats storage --watch 500ms --count 2");
    let looks: Vec<_> = out.split("\n\n").collect();
    assert_eq!(looks.len(), 2, "{out}");
    for look in looks {
        let line = look.lines().nth(2).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[4..9], ["1.0", "MiB", "100", "0", "B"], "{line}");
        assert!(
            look.contains("all nodes: read 1.0 MiB/s in 100/s, written 0 B/s in 10/s"),
            "{look}"
        );
    }
    let out = fake.ok("dst stats --watch storage --count 1 --json");
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["seconds"], 1.0);
    assert_eq!(value["stats"][1]["per_second"]["reads"], 50.0);
    let out = fake
        .run_on("dst stats storage --watch=1 --count 1", true)
        .out;
    assert!(out.starts_with("\x1b[H\x1b[J"), "{out:?}");
    assert_eq!(fake.run("dst stats storage --count 1").status, 2);
}
