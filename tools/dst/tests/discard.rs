// SPDX-License-Identifier: GPL-2.0

//! Giving up what was written on a copy alone, from the command line to the module and back.

mod fake;

use dst_core::uapi::*;
use fake::Fake;
use serde_json::Value;

/// A machine with a mirror of a disk and an export that was made once.
fn made_once() -> Fake {
    let fake = Fake::new();
    fake.ok("dst create m --alg alg_mirror /dev/sdb kano:1025 --start-array");
    fake.ok("dst delete m");
    fake
}

#[test]
fn what_is_given_up_is_told() {
    let fake = made_once();
    for quiet in ["", " -q"] {
        let outcome = fake.run(&format!(
            "dst assemble m /dev/sdb kano:1025 --discard kano:1025{quiet}"
        ));
        assert_eq!(outcome.status, 0, "{outcome:?}");
        assert_eq!(
            outcome.err,
            "dst: m: given up with R: 192.168.4.80:1025: up to 192.0 KiB that were written on it alone (its \
             superblock had generation 14)\n"
        );
        fake.ok("dst delete m -q");
    }
    assert_eq!(fake.run("dst assemble m /dev/sdb kano:1025").err, "");
    for (sectors, part) in [
        (UNKNOWN, ": all that was written on it alone ("),
        (0, ": nothing, by its log, that was written on it alone ("),
    ] {
        fake.ok("dst stop m");
        {
            let mut state = fake.state.borrow_mut();
            let node = &mut state.storage("m").unwrap().nodes[0];
            (node.given_up_generation, node.given_up) = (3, sectors);
        }
        let outcome = fake.run("dst start m");
        assert!(outcome.err.contains(part), "{outcome:?}");
    }
    let status: Value = serde_json::from_str(&fake.ok("dst status m --json")).unwrap();
    let nodes = &status["storages"][0]["nodes"];
    assert_eq!(nodes[0]["given_up"]["generation"], 3);
    assert_eq!(nodes[0]["given_up"]["bytes"], 0);
    assert_eq!(nodes[1]["given_up"], Value::Null);
}

#[test]
fn a_refusal_names_the_commands_that_give_something_up() {
    let fake = made_once();
    let text = "L: /dev/sdb and R: 192.168.4.80:1025 were written to apart";
    fake.fault(Start::NR, libc::ENOTUNIQ, text);
    let error = fake.fail("dst assemble m /dev/sdb nbd://kano:1025 --degraded");
    assert_eq!(
        error,
        format!(
            "dst: can't start storage 'm': {text}: \
             'dst assemble m /dev/sdb kano:1025 --degraded --discard /dev/sdb' or \
             'dst assemble m /dev/sdb kano:1025 --degraded --discard kano:1025'; storage 'm' was not assembled\n"
        )
    );
    fake.fault(Start::NR, libc::ENOTUNIQ, text);
    let error = fake.fail("dst assemble m /dev/sdb kano:1025 --discard /dev/sdb");
    assert!(
        error.contains(
            "apart: 'dst assemble m /dev/sdb kano:1025 --discard /dev/sdb --discard kano:1025'; storage"
        ),
        "{error}"
    );
}

#[test]
fn a_copy_in_conflict_is_taken_back_by_a_word_only() {
    let fake = Fake::new();
    fake.ok("dst create m --alg alg_mirror /dev/sdb kano:1025 nbd://kano/vol --start-array");
    {
        let mut state = fake.state.borrow_mut();
        let node = &mut state.storage("m").unwrap().nodes[2];
        (node.role, node.conflict) = (ROLE_MISSING, 1);
        set_text(&mut node.trouble, "it was written to: conflict").unwrap();
    }
    let out = fake.ok("dst status m");
    let note = "      'dst add m 192.168.4.80:10809/vol --discard' gives up all that was written on it alone\n";
    assert!(out.contains(note), "{out}");
    let error = fake.fail("dst add m kano:1025 --discard");
    assert!(error.contains("it is in no conflict"), "{error}");
    let outcome = fake.run("dst add m 192.168.4.80:10809/vol --discard");
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert_eq!(outcome.out, "m: 192.168.4.80:10809/vol is taken back\n");
    assert!(
        outcome
            .err
            .contains("given up with R: 192.168.4.80:10809/vol: up to 192.0 KiB"),
        "{outcome:?}"
    );
    assert!(!fake.ok("dst status m").contains("--discard"));
    // One that is not here is added, and that gives it up.
    fake.ok("dst add m /dev/sdc --discard");
    let adds = fake.state.borrow().adds.clone();
    assert_eq!(adds.last().map(|add| add.flags), Some(NODE_DISCARD));
    assert_eq!(fake.run("dst add m /dev/sdc --discard --force").status, 2);
}
