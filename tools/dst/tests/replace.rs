// SPDX-License-Identifier: GPL-2.0

//! `dst replace`, with a module that exists in memory only.

mod fake;

use dst_core::uapi::{
    AddNode,
    CancelReplace,
    Request,
    NODE_FORCE,
    NODE_REPLACE, //
};
use fake::Fake;
use serde_json::Value;

/// A machine with a mirror and a linear storage that run.
fn machine() -> Fake {
    let fake = Fake::new();
    fake.ok("dst create m --alg alg_mirror /dev/sdb kano:1025 --start-array");
    fake.ok("dst create l nbd://kano/vol --start-array");
    fake
}

/// The nodes of a storage, as JSON has them.
fn nodes(fake: &Fake, name: &str) -> Vec<Value> {
    let status: Value =
        serde_json::from_str(&fake.ok(&format!("dst status {name} --json"))).unwrap();
    status["storages"][0]["nodes"].as_array().unwrap().clone()
}

#[test]
fn begins() {
    let fake = machine();
    let said = fake.ok("dst replace m /dev/sdb via:1025 --depth 7 --force");
    assert_eq!(
        said,
        "m: node 2 added, R: 192.168.4.81:1025, 400.0 KiB, healing\n\
         m: it takes the place of node 0 (L: /dev/sdb) when all data are on it; 'dst status m' shows how far \
         that is\n"
    );
    let request: AddNode = *fake.state.borrow().adds.last().unwrap();
    assert_eq!(request.flags, NODE_REPLACE | NODE_FORCE);
    assert_eq!((request.replaces, request.depth), (0, 7));
    let all = nodes(&fake, "m");
    assert_eq!(all[2]["replaces"], 0);
    assert_eq!(all[0]["replaces"], Value::Null);
    let status = fake.ok("dst status m");
    assert!(
        status.contains(
            "takes the place of node 0 when it is in sync; 'dst replace m 2 --cancel' ends that"
        ),
        "{status}"
    );
    // The place of the old one, and no more.
    fake.ok("dst replace l 0 /dev/sdc");
    let all = nodes(&fake, "l");
    assert_eq!(
        (&all[1]["start"], &all[1]["sectors"]),
        (&0.into(), &1600.into())
    );
    fake.ok("dst stop l");
    let status = fake.ok("dst status l");
    let waits = "waits to take the place of node 0; 'dst start l' goes on with that";
    assert!(status.contains(waits), "{status}");
}

#[test]
fn is_cancelled() {
    let fake = machine();
    for which in ["/dev/sdb", "0", "3", "via:1025"] {
        fake.ok("dst replace m 0 via:1025");
        let which = match which {
            "3" => nodes(&fake, "m")[2]["id"].to_string(),
            which => which.into(),
        };
        assert_eq!(
            fake.ok(&format!("dst replace m {which} --cancel")),
            "m: replacement cancelled\n"
        );
        assert_eq!(nodes(&fake, "m").len(), 2);
    }
    assert!(fake
        .fail("dst replace m 0 --cancel")
        .contains("can't cancel the replacement of node 0 (L: /dev/sdb) of storage 'm': it is not being replaced"));
    fake.fault(CancelReplace::NR, libc::EBUSY, "");
    assert!(fake
        .fail("dst replace m 0 --cancel")
        .contains("the new node alone holds all data"));
}

#[test]
fn is_refused() {
    let fake = machine();
    fake.fault(AddNode::NR, libc::ENOSPC, "too small");
    assert_eq!(
        fake.fail("dst replace m 0 via:1025"),
        "dst: can't replace a node of storage 'm' by via:1025: fe80::1: too small\n"
            .replace("fe80::1", "[fe80::1]:1025")
    );
    assert!(fake
        .fail("dst replace m 9 via:1025")
        .contains("no such node"));
    assert!(fake
        .fail("dst replace x 0 via:1025")
        .contains("no storage 'x'"));
    for wrong in [
        "dst replace m",
        "dst replace m 0",
        "dst replace m 0 via:1025 --cancel",
        "dst replace m 0 --cancel --force",
        "dst replace m 0 sdc",
    ] {
        assert_eq!(fake.run(wrong).status, 2, "{wrong}");
    }
}

#[test]
fn stands_in_a_file() {
    let fake = machine();
    let path = std::env::temp_dir().join(format!("dst-replace-{}", std::process::id()));
    std::fs::write(&path, "replace m 0 via:1025\nreplace m 0 --cancel\n").unwrap();
    fake.ok(&format!("dst apply {}", path.display()));
    std::fs::remove_file(&path).unwrap();
    let log = fake.state.borrow().log.clone();
    assert!(log.contains(&CancelReplace::NR));
}
