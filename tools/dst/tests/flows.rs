// SPDX-License-Identifier: GPL-2.0

//! Every subcommand and every original command, from the command line to the module and back, with a
//! module that exists in memory only.

mod fake;

use dst_core::uapi::*;
use fake::{
    socket,
    Fake, //
};

/// How all original commands begin.
const ORIGINAL: &str = "dst -n storage -A alg_linear -f /dev/dst";

#[test]
fn the_original_commands() {
    let fake = Fake::new();
    assert_eq!(
        fake.ok(&format!("{ORIGINAL} -a kano -p 1025")),
        "storage: node 0 added, R: 192.168.4.80:1025, 400.0 KiB at sector 0\n"
    );
    assert_eq!(
        fake.ok(&format!("{ORIGINAL} -d /dev/sdb")),
        "storage: node 1 added, L: /dev/sdb, 400.0 KiB at sector 800\n"
    );
    // The first address of "via" refuses; the second one answers.
    assert_eq!(
        fake.ok(&format!("{ORIGINAL} -a via -p 1025 -R")),
        "storage: node 2 added, R: 192.168.4.81:1025, 1.0 MiB at sector 1600\n\
         storage: started, /dev/dst-storage, 1.8 MiB\n"
    );
    {
        let state = fake.state.borrow();
        let starts: Vec<_> = state.storages["storage"]
            .nodes
            .iter()
            .map(|n| n.start)
            .collect();
        assert_eq!(starts, [0, 800, 1600]);
        assert!(state
            .adds
            .iter()
            .all(|add| (add.start, add.size) == (AUTO, AUTO)));
    }
    assert_eq!(
        fake.ok(&format!("{ORIGINAL} -D")),
        "storage 'storage' deleted\n"
    );
    assert!(fake.state.borrow().storages.is_empty());
}

#[test]
fn the_original_export() {
    let fake = Fake::new();
    assert_eq!(
        fake.ok(&format!("{ORIGINAL} -d /dev/sdb -a 0.0.0.0 -p 1025 -b 16")),
        "/dev/sdb exported as 'storage' at 0.0.0.0:1025\n"
    );
    {
        let state = fake.state.borrow();
        let export = &state.exports["storage"];
        assert_eq!(export.backlog, 16);
        assert_eq!(export.flags, 0);
        assert_eq!(socket(&export.address), "0.0.0.0:1025".parse().unwrap());
        assert!(state.storages.is_empty());
    }
    assert_eq!(
        fake.ok(&format!("{ORIGINAL} -D")),
        "export 'storage' ended\n"
    );
    assert!(fake
        .fail(&format!("{ORIGINAL} -D"))
        .contains("neither a storage nor an export"));
}

#[test]
fn deleting_by_the_original_form_takes_the_storage_first() {
    let fake = Fake::new();
    fake.ok("dst -n x -d /dev/sdc");
    fake.ok("dst -n x -d /dev/sdb -a 0.0.0.0 -p 1025");
    let outcome = fake.run("dst -n x -D");
    assert_eq!(
        (outcome.status, outcome.out.as_str()),
        (0, "storage 'x' deleted\n")
    );
    assert_eq!(
        outcome.err,
        "dst: the export 'x' stays; 'dst unexport x' ends it\n"
    );
    assert_eq!(fake.ok("dst -n x -D"), "export 'x' ended\n");
    fake.ok("dst -n x -d /dev/sdc");
    fake.ok("dst -n x -d /dev/sdb -a 0.0.0.0 -p 1025");
    let own = fake.ok("dst -n x -d /dev/sdb -a 0.0.0.0 -p 1025 -D");
    assert_eq!(own, "export 'x' ended\n");
}

#[test]
fn placing_and_removing_by_hand() {
    let fake = Fake::new();
    fake.ok(&format!("{ORIGINAL} -a kano -p 1025 -s 800 -S 400"));
    fake.ok(&format!("{ORIGINAL} -d /dev/sdb -s 0 -S 400K"));
    let add = fake.state.borrow().adds[0];
    assert_eq!((add.start, add.size), (800, 400));
    fake.ok(&format!("{ORIGINAL} -R"));
    let busy = fake.fail(&format!("{ORIGINAL} -r -s 0"));
    assert!(busy.contains("'dst stop storage' first"), "{busy}");
    fake.ok("dst stop storage");
    assert_eq!(
        fake.ok(&format!("{ORIGINAL} -r -a kano -p 1025")),
        "storage: node 0 (R: 192.168.4.80:1025) removed\n"
    );
    fake.ok(&format!("{ORIGINAL} -r -d /dev/sdb -s 0"));
    assert!(fake
        .fail(&format!("{ORIGINAL} -r -s 0"))
        .contains("has no node"));
    assert!(fake
        .fail("dst -n nobody -r -s 0")
        .contains("no storage 'nobody'"));
}

#[test]
fn adding_creates_what_is_missing_and_cleans_up() {
    let fake = Fake::new();
    let error = fake.fail("dst add s /dev/nothing");
    assert!(
        error.contains("can't add /dev/nothing to storage 's': there is no such file"),
        "{error}"
    );
    assert!(fake.state.borrow().storages.is_empty());
    fake.ok("dst create s");
    fake.fail("dst add s /dev/nothing");
    assert_eq!(fake.state.borrow().storages.len(), 1, "it was there before");
    let error = fake.fail("dst add s /dev/sdb --alg alg_mirror");
    assert!(
        error.contains("exists with the algorithm alg_linear"),
        "{error}"
    );
    let error = fake.fail("dst add s /dev/sdb --size 801");
    assert!(error.contains("does not fit"), "{error}");
    let error = fake.fail("dst -n t -A alg_none -d /dev/sdb");
    assert!(error.contains("no algorithm 'alg_none'"), "{error}");
}

#[test]
fn creating_is_all_or_nothing() {
    let fake = Fake::new();
    let out =
        fake.ok("dst create s /dev/sdb kano:1025 nbd://kano/vol --block-size 512 --start-array");
    assert!(out.contains("node 2 added, R: 192.168.4.80:10809/vol, 800.0 KiB at sector 1600"));
    assert!(out.ends_with("s: started, /dev/dst-s, 1.6 MiB\n"), "{out}");
    assert_eq!(fake.state.borrow().storages["s"].create.block_size, 512);
    let error = fake.fail("dst create s");
    assert!(error.contains("'dst add s NODE' adds"), "{error}");
    let error = fake.fail("dst create t /dev/sdc kano:1026");
    assert!(
        error.contains("192.168.4.80:1026: nothing listens there"),
        "{error}"
    );
    assert!(error.contains("storage 't' was not created"), "{error}");
    assert_eq!(fake.run("dst create t /dev/sdc kano:1026").out, "");
    fake.fault(
        AddNode::NR,
        libc::ECONNREFUSED,
        "192.168.4.80:1026: connection refused",
    );
    let error = fake.fail("dst add t kano:1026");
    assert!(
        error.contains("'t': 192.168.4.80:1026: connection refused\n"),
        "{error}"
    );
    fake.fault(
        Start::NR,
        libc::EINVAL,
        "no node holds sectors 0 to 7; add one there",
    );
    let error = fake.fail("dst create t /dev/sdc --start-array");
    assert!(
        error.contains("can't start storage 't': no node holds sectors 0 to 7"),
        "{error}"
    );
    assert_eq!(fake.state.borrow().storages.len(), 1);
}

#[test]
fn options_of_nodes() {
    let fake = Fake::new();
    fake.ok(
        "dst add s kano:1025 --timeout 30s --keepalive 5s --depth 32 --connect-timeout 500ms \
         --start 8 --size 16 -q",
    );
    fake.ok("dst add s /dev/sdb --timeout wait");
    let state = fake.state.borrow();
    let [add, plain] = state.adds.as_slice() else {
        panic!()
    };
    assert_eq!((add.timeout_ms, add.connect_ms), (30_000, 500));
    assert_eq!((add.keepalive_s, add.depth), (5, 32));
    assert_eq!((add.start, add.size), (8, 16));
    assert_eq!((plain.timeout_ms, plain.depth), (0, 0));
}

#[test]
fn every_address_is_tried() {
    let fake = Fake::new();
    fake.state
        .borrow_mut()
        .silent
        .push("192.168.4.90:1025".parse().unwrap());
    let error = fake.fail("dst add s dead:1025");
    assert_eq!(
        error,
        "dst: can't add dead:1025 to storage 's': 192.168.4.90:1025: no answer in time; is the server \
         up, and is no firewall between?; 192.168.4.91:1025: nothing listens there; is the server \
         running, is the port right?\n"
    );
    let error = fake.fail("dst add s kano:1025/none");
    assert!(
        error.contains("the server has no export 'none'; 'dst discover kano:1025'"),
        "{error}"
    );
    let error = fake.fail("dst add s nobody:1025");
    assert!(
        error.contains("the name 'nobody' can't be resolved: Name or service not known"),
        "{error}"
    );
    // An error that is not the address's own ends the search.
    fake.fault(AddNode::NR, libc::ENOENT, "the server has no such export");
    let error = fake.fail("dst add s dead:1025");
    assert!(!error.contains("192.168.4.91"), "{error}");
    assert!(error.contains("the server has no such export"), "{error}");
}

#[test]
fn removing() {
    let fake = Fake::new();
    fake.ok("dst create s /dev/sdb kano:1025 nbd://kano/vol kano:1025");
    let error = fake.fail("dst remove s kano:1025");
    assert!(error.contains("more than one node"), "{error}");
    assert!(
        error.contains("1 (R: 192.168.4.80:1025 at sector 800)"),
        "{error}"
    );
    fake.ok("dst remove s kano:1025 --start 800");
    fake.ok("dst remove s 3");
    // The one export of that server that is left.
    fake.ok("dst remove s nbd://kano");
    let error = fake.fail("dst remove s /dev/sdz");
    assert!(
        error.contains("no such node; it has 0 (L: /dev/sdb at sector 0)"),
        "{error}"
    );
    fake.ok("dst remove s n-0");
    fake.ok("dst add s /dev/sdb /dev/sdc");
    assert_eq!(fake.ok("dst remove s --all"), "s: all nodes removed\n");
    assert!(fake.state.borrow().storages["s"].nodes.is_empty());
    assert_eq!(fake.run("dst remove s").status, 2);
    assert_eq!(fake.run("dst remove s --all /dev/sdb").status, 2);
}

#[test]
fn exporting() {
    let fake = Fake::new();
    assert_eq!(
        fake.ok(
            "dst export disk /dev/sdb --listen [::]:1025 --read-only --allow 192.168.4.0/24 \
             --allow 2001:db8::/32 --max-connections 4 --backlog 8"
        ),
        "/dev/sdb exported as 'disk' at [::]:1025, read-only\n"
    );
    {
        let state = fake.state.borrow();
        let export = &state.exports["disk"];
        assert_eq!((export.flags, export.nr_rules), (EXPORT_READ_ONLY, 2));
        assert_eq!((export.max_connections, export.backlog), (4, 8));
        assert_eq!((export.rules[0].prefix, export.rules[1].prefix), (24, 32));
        assert_eq!(export.rules[1].network.family, AF_INET6);
    }
    assert!(fake
        .fail("dst export disk /dev/sdb")
        .contains("'dst unexport disk'"));
    assert!(fake.fail("dst export x /dev/none").contains("no such file"));
    fake.fault(Export::NR, libc::EADDRINUSE, "");
    assert!(fake
        .fail("dst export x /dev/sdc")
        .contains("0.0.0.0:10809 is taken"));
    assert!(fake
        .fail("dst unexport x")
        .contains("no export of that name"));
    fake.ok("dst export x /dev/sdc");
    assert_eq!(
        fake.ok("dst unexport --all"),
        "export 'disk' ended\nexport 'x' ended\n"
    );
    assert_eq!(fake.ok("dst unexport --all"), "");
    let many = "--allow ::1 ".repeat(17);
    let outcome = fake.run(&format!("dst export x /dev/sdc {many}"));
    assert_eq!(outcome.status, 2);
    assert!(outcome.err.contains("room for 16 networks"), "{outcome:?}");
}

#[test]
fn starting_stopping_deleting() {
    let fake = Fake::new();
    fake.ok("dst create a /dev/sdb --start-array");
    fake.ok("dst create b /dev/sdc");
    assert!(fake.fail("dst start a").contains("done already"));
    assert_eq!(fake.ok("dst start b"), "b: started, /dev/dst-b, 20.0 GiB\n");
    assert_eq!(fake.ok("dst stop a b"), "a: stopped\nb: stopped\n");
    fake.ok("dst start a");
    fake.state.borrow_mut().storage("a").unwrap().openers = 1;
    for line in ["dst stop a", "dst delete a", "dst -n a -D"] {
        assert!(
            fake.fail(line).contains("in use; unmount /dev/dst-a"),
            "{line}"
        );
    }
    assert!(fake.fail("dst delete --all").contains("'a'"));
    assert_eq!(fake.state.borrow().storages.len(), 1);
    fake.state.borrow_mut().storage("a").unwrap().openers = 0;
    fake.ok("dst delete a");
    assert!(fake
        .fail("dst delete a")
        .contains("no storage of that name"));
    assert!(fake
        .fail("dst start nobody")
        .contains("no storage of that name"));
    fake.ok("dst create e");
    assert!(fake.fail("dst start e").contains("it has no node"));
}

#[test]
fn deleting_a_tree() {
    let fake = Fake::new();
    fake.ok("dst create a /dev/sdb --start-array");
    fake.ok("dst create b /dev/dst-a --start-array");
    fake.ok("dst create c /dev/dst-b --start-array");
    fake.ok("dst export x /dev/dst-c");
    fake.fail("dst delete --all");
    fake.ok("dst unexport --all");
    assert_eq!(
        fake.ok("dst delete --all"),
        "storage 'c' deleted\nstorage 'b' deleted\nstorage 'a' deleted\n"
    );
}

#[test]
fn settings() {
    let fake = Fake::new();
    fake.ok("dst create s /dev/sdb kano:1025");
    assert_eq!(
        fake.ok("dst set s kano:1025 timeout=30s keepalive=20"),
        "s: timeout=30s for node 1 (R: 192.168.4.80:1025)\n\
         s: keepalive=20s for node 1 (R: 192.168.4.80:1025)\n"
    );
    assert_eq!(
        fake.ok("dst set s timeout=wait"),
        "s: timeout=wait for all nodes\n"
    );
    let set = [
        ("s".to_string(), 1, SET_TIMEOUT_MS, 30_000),
        ("s".to_string(), 1, SET_KEEPALIVE_S, 20),
        ("s".to_string(), ALL_NODES, SET_TIMEOUT_MS, 0),
    ];
    assert_eq!(fake.state.borrow().set, set);
    for (rest, part) in [
        ("depth=3", "unknown setting 'depth=3'"),
        ("1", "no setting is given"),
        ("timeout=0", "fail-now"),
        ("sdb timeout=1s", "invalid value 'sdb'"),
        ("timeout=1s kano:1025", "unknown setting 'kano:1025'"),
    ] {
        let outcome = fake.run(&format!("dst set s {rest}"));
        assert_eq!(outcome.status, 2, "{rest}");
        assert!(outcome.err.contains(part), "{rest}: {outcome:?}");
    }
}

#[test]
fn failing_now() {
    let fake = Fake::new();
    fake.ok("dst create s /dev/sdb kano:1025");
    fake.ok("dst fail-now s");
    fake.ok("dst fail-now s kano:1025");
    let asked = [("s".to_string(), ALL_NODES), ("s".to_string(), 1)];
    assert_eq!(fake.state.borrow().failed_now, asked);
    assert!(fake.fail("dst fail-now t").contains("no storage 't'"));
    fake.fault(FailNow::NR, libc::EOPNOTSUPP, "");
    assert!(fake.fail("dst fail-now s 0").contains("never waited for"));
}

#[test]
fn the_module_explains() {
    let fake = Fake::new();
    fake.fault(
        Create::NR,
        libc::EINVAL,
        "there is no algorithm 'x'; there is alg_linear\x1b[2J",
    );
    let error = fake.fail("dst create s --alg x");
    assert_eq!(
        error,
        "dst: can't create storage 's': there is no algorithm 'x'; there is alg_linear\\u{1b}[2J\n"
    );
    fake.fault(StorageInfo::NR, libc::EPERM, "");
    assert!(fake.fail("dst status").contains("only root may"));
    // Of another version.
    fake.state.borrow_mut().abi = 7;
    let error = fake.fail("dst status");
    assert!(
        error.contains("the loaded module is version 9.9.9 (interface 7)"),
        "{error}"
    );
    assert!(error.contains("modprobe -r dst"), "{error}");
    fake.state.borrow_mut().abi = 0;
    // EPROTO of a server is no matter of versions.
    fake.fault(AddNode::NR, libc::EPROTO, "");
    let error = fake.fail("dst add s 192.168.4.80:1025");
    assert!(error.contains("does not speak NBD"), "{error}");
}

#[test]
fn applying_a_file() {
    let fake = Fake::new();
    let path = std::env::temp_dir().join(format!("dst-apply-{}", std::process::id()));
    let file = path.to_str().unwrap();
    let text = "# a tree\ncreate a /dev/sdb --start-array\n\nexport x /dev/dst-a --read-only\n\
                dst -n b -A alg_linear -f /dev/dst -d /dev/sdc -R\n";
    std::fs::write(&path, text).unwrap();
    assert!(fake
        .ok(&format!("dst apply {file} --check"))
        .contains("3 lines to execute"));
    assert!(fake.state.borrow().storages.is_empty());
    fake.ok(&format!("dst apply {file}"));
    assert_eq!(fake.ok("dst list"), "storage a\nstorage b\nexport x\n");
    let again = fake.fail(&format!("dst apply {file}"));
    assert!(
        again.starts_with(&format!("dst: {file}:2: can't create storage 'a'")),
        "{again}"
    );
    fake.ok("dst create other");
    assert_eq!(
        fake.ok(&format!("dst apply {file} --undo")),
        "storage 'b' deleted\nexport 'x' ended\nstorage 'a' deleted\n"
    );
    assert_eq!(fake.ok("dst list"), "storage other\n");
    assert_eq!(fake.ok(&format!("dst apply {file} --undo")), "");
    // Nothing is done when any line is wrong.
    std::fs::write(&path, "create a\ncreate b --alg\n").unwrap();
    let outcome = fake.run(&format!("dst apply {file}"));
    assert_eq!(outcome.status, 2);
    assert!(
        outcome.err.starts_with(&format!("dst: {file}:2: ")),
        "{outcome:?}"
    );
    assert_eq!(fake.ok("dst list"), "storage other\n");
    std::fs::remove_file(&path).unwrap();
    assert!(fake
        .fail(&format!("dst apply {file}"))
        .contains("can't read"));
}

#[test]
fn a_linear_storage_is_assembled_in_any_order() {
    let fake = Fake::new();
    fake.ok("dst create l /dev/sdb /dev/sdc nbd://kano/vol --start-array");
    fake.ok("dst delete l");
    let error = fake.fail("dst assemble l nbd://kano/vol /dev/sdc");
    assert!(
        error.contains("missing: node 1 (last at /dev/sdb); the storage needs all of its nodes"),
        "{error}"
    );
    assert!(fake.state.borrow().storages.is_empty());
    let text = fake.ok("dst assemble l nbd://kano/vol /dev/sdb /dev/sdc");
    assert!(text.starts_with("l: assembled, alg_linear\n"), "{text}");
    let starts: Vec<u64> = {
        let state = fake.state.borrow();
        state.storages["l"].nodes.iter().map(|n| n.start).collect()
    };
    assert_eq!(starts, [800 + 41_943_040, 0, 800]);
}
