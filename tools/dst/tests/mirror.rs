// SPDX-License-Identifier: GPL-2.0

//! Mirrors, from the command line to the module and back, with a module that exists in memory only.

mod fake;

use dst_core::uapi::*;
use fake::Fake;
use proptest::prelude::*;
use serde_json::Value;

/// A machine with a mirror of a disk and an export that was made once.
fn made_once() -> Fake {
    let fake = Fake::new();
    fake.ok("dst create m --alg alg_mirror /dev/sdb kano:1025 --start-array");
    fake.ok("dst delete m");
    fake
}

/// The flags of the last request to start.
fn last_start(fake: &Fake) -> u32 {
    *fake.state.borrow().starts.last().unwrap()
}

#[test]
fn creating() {
    let fake = Fake::new();
    assert_eq!(
        fake.ok("dst create m --alg alg_mirror /dev/sdb kano:1025 --start-array"),
        "m: created, alg_mirror\n\
         m: node 0 added, L: /dev/sdb, 400.0 KiB at sector 0\n\
         m: node 1 added, R: 192.168.4.80:1025, 400.0 KiB at sector 0\n\
         m: started, /dev/dst-m, 400.0 KiB, healthy\n"
    );
    assert_eq!(last_start(&fake), START_NEW);
    {
        let state = fake.state.borrow();
        assert_eq!(state.storages["m"].create.flags, CREATE_METADATA);
        assert!(state.adds.iter().all(|add| add.flags == 0));
    }
    // In steps: what is started is for the nodes to tell.
    fake.ok("dst create n --alg alg_mirror");
    fake.ok("dst add n /dev/sdc");
    fake.ok("dst start n");
    assert_eq!(last_start(&fake), 0);
    fake.ok("dst stop n");
    fake.ok("dst start n --degraded");
    assert_eq!(last_start(&fake), START_DEGRADED);
}

#[test]
fn metadata_is_for_all_but_those_who_refuse() {
    let fake = Fake::new();
    fake.ok("dst create a /dev/sdb --start-array");
    assert_eq!(last_start(&fake), START_NEW);
    fake.ok("dst create b --metadata /dev/sdc --start-array");
    assert_eq!(last_start(&fake), START_NEW);
    fake.ok("dst create c --no-metadata kano:1025 --start-array");
    assert_eq!(last_start(&fake), 0);
    fake.ok("dst add d --alg alg_mirror nbd://kano/vol");
    fake.ok("dst add e via:1025");
    fake.ok("dst add f via:1025 --no-metadata");
    fake.ok("dst -n g -A alg_linear -a via -p 1025 -R");
    assert_eq!(last_start(&fake), 0);
    let flags = |name: &str| fake.state.borrow().storages[name].create.flags;
    assert_eq!(["a", "b", "d", "e"].map(flags), [CREATE_METADATA; 4]);
    assert_eq!(["c", "f", "g"].map(flags), [0; 3]);
    for (rest, parts) in [
        (
            "--alg alg_mirror --no-metadata",
            ["'--no-metadata'", "leave the option out"],
        ),
        (
            "/dev/sdb --no-metadata --force",
            ["'--force'", "leave it out"],
        ),
        ("--metadata --force", ["required", "<NODE>"]),
        ("--metadata --no-metadata", ["--metadata", "cannot be used"]),
    ] {
        let outcome = fake.run(&format!("dst create x {rest}"));
        assert_eq!(outcome.status, 2, "{rest}");
        for part in parts {
            assert!(outcome.err.contains(part), "{rest}: {outcome:?}");
        }
    }
}

#[test]
fn nodes_of_others_are_taken_by_force_only() {
    let fake = made_once();
    let error = fake.fail("dst create n --alg alg_mirror /dev/sdb /dev/sdc --start-array");
    assert_eq!(
        error,
        "dst: can't start storage 'n': /dev/sdb is a node of storage 'm'; --force writes over it; \
         storage 'n' was not created\n"
    );
    assert!(fake.state.borrow().storages.is_empty());
    fake.ok("dst create n --alg alg_mirror /dev/sdb /dev/sdc --force --start-array");
    assert_eq!(fake.state.borrow().superblocks["/dev/sdb"], "n");
    fake.ok("dst add n kano:1025 --force");
    let adds = fake.state.borrow().adds.clone();
    assert_eq!(adds.last().map(|add| add.flags), Some(NODE_FORCE));
    fake.fault(AddNode::NR, libc::EEXIST, "");
    let error = fake.fail("dst add n nbd://kano/vol");
    assert!(error.contains("--force takes it"), "{error}");
}

#[test]
fn the_original_form() {
    let fake = Fake::new();
    let original = "dst -n storage -A alg_mirror -f /dev/dst";
    fake.ok(&format!("{original} -a kano -p 1025"));
    assert_eq!(
        fake.ok(&format!("{original} -d /dev/sdb -R")),
        "storage: node 1 added, L: /dev/sdb, 400.0 KiB at sector 0\n\
         storage: started, /dev/dst-storage, 400.0 KiB, healthy\n"
    );
    assert_eq!(last_start(&fake), 0);
    // A copy for a mirror that runs, and one that goes.
    assert_eq!(
        fake.ok(&format!("{original} -a via -p 1025")),
        "storage: node 2 added, R: 192.168.4.81:1025, 1.0 MiB, healing\n"
    );
    fake.ok(&format!("{original} -r -a kano -p 1025"));
    fake.ok(&format!("{original} -D"));
    // The same words put it together again, in another order.
    fake.ok(&format!("{original} -d /dev/sdb"));
    fake.ok(&format!("{original} -a kano -p 1025 -R"));
}

#[test]
fn assembling() {
    let fake = made_once();
    assert_eq!(
        fake.ok("dst assemble m kano:1025 /dev/sdb --depth 16"),
        "m: assembled, alg_mirror\n\
         m: node 0 added, R: 192.168.4.80:1025, 400.0 KiB at sector 0\n\
         m: node 1 added, L: /dev/sdb, 400.0 KiB at sector 400\n\
         m: started, /dev/dst-m, 400.0 KiB, healthy\n"
            .replace("at sector 400", "at sector 800")
    );
    assert_eq!(last_start(&fake), START_ASSEMBLE);
    {
        let state = fake.state.borrow();
        assert_eq!(state.storages["m"].create.flags, CREATE_METADATA);
        assert!(state.adds[2..].iter().all(|add| add.depth == 16));
    }
    let error = fake.fail("dst assemble m /dev/sdb");
    assert!(
        error.contains("can't assemble storage 'm': a storage of that name is there"),
        "{error}"
    );
    assert_eq!(fake.state.borrow().storages.len(), 1);
}

#[test]
fn assembling_is_all_or_nothing() {
    let fake = made_once();
    for (line, part) in [
        (
            "dst assemble m /dev/sdb",
            "missing: node 1 (last at 192.168.4.80:1025/); data may be newer there: name all nodes, or \
             start without by --degraded",
        ),
        ("dst assemble m /dev/sdb /dev/sdc", "one is no node"),
        ("dst assemble m /dev/sdc", "it is no node of a storage"),
        (
            "dst assemble m /dev/nothing dead:1025",
            "can't assemble storage 'm': none of its nodes is there",
        ),
    ] {
        let error = fake.fail(line);
        assert!(error.contains(part), "{line}: {error}");
        assert!(
            error.ends_with("; storage 'm' was not assembled\n"),
            "{line}: {error}"
        );
        assert!(fake.state.borrow().storages.is_empty(), "{line}");
    }
    // What is there but refuses is no node that is missing.
    fake.fault(AddNode::NR, libc::EBUSY, "/dev/sdb: it is in use (mounted)");
    let error = fake.fail("dst assemble m /dev/sdb kano:1025");
    assert!(error.contains("it is in use (mounted); storage"), "{error}");
    // Without a sentence of the module.
    for (errno, part) in [
        (libc::ESTALE, "--degraded"),
        (libc::EEXIST, "--force"),
        (libc::EUCLEAN, "does not fit together"),
    ] {
        fake.fault(Start::NR, errno, "");
        let error = fake.fail("dst assemble m /dev/sdb kano:1025");
        assert!(error.contains(part), "{error}");
    }
    fake.fault(Delete::NR, libc::EBUSY, "");
    let error = fake.fail("dst assemble m /dev/sdb");
    assert!(
        error.contains("the unfinished storage 'm' could not be deleted"),
        "{error}"
    );
}

#[test]
fn nodes_that_are_away_are_left_out() {
    let fake = made_once();
    fake.state
        .borrow_mut()
        .servers
        .remove(&("192.168.4.80:1025".parse().unwrap(), String::new()));
    let outcome = fake.run("dst assemble m /dev/sdb kano:1025");
    assert_eq!(outcome.status, 1);
    let (remark, error) = outcome.err.split_once('\n').unwrap();
    assert_eq!(
        remark,
        "dst: can't add kano:1025 to storage 'm': 192.168.4.80:1025: nothing listens there; is the \
         server running, is the port right?; it is left out, 'dst add m kano:1025' adds it when it is \
         back"
    );
    assert!(error.contains("--degraded"), "{error}");
    let outcome = fake.run("dst assemble m /dev/sdb kano:1025 --degraded");
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert!(outcome.err.contains("it is left out"), "{outcome:?}");
    assert!(
        outcome.out.ends_with("400.0 KiB, degraded\n"),
        "{outcome:?}"
    );
    assert_eq!(last_start(&fake), START_ASSEMBLE | START_DEGRADED);
    assert!(
        fake.ok("dst status m").contains(
            "degraded, 1 copy in sync, another one is not here; 'dst add m NODE' adds it"
        ),
        "{}",
        fake.ok("dst status m")
    );
}

#[test]
fn giving_up_one_side() {
    let fake = made_once();
    fake.ok("dst assemble m /dev/sdb nbd://kano:1025 --discard kano:1025");
    {
        let state = fake.state.borrow();
        let flags: Vec<u32> = state.adds[2..].iter().map(|add| add.flags).collect();
        assert_eq!(flags, [0, NODE_DISCARD]);
    }
    fake.ok("dst delete m");
    let outcome = fake.run("dst assemble m /dev/sdb --discard /dev/sdc");
    assert_eq!(outcome.status, 2);
    assert!(
        outcome
            .err
            .contains("'--discard /dev/sdc': that is none of the nodes"),
        "{outcome:?}"
    );
    // What is to be given up must be there.
    let error = fake.fail("dst assemble m /dev/sdb dead:1025 --discard dead:1025");
    assert!(error.contains("can't add dead:1025"), "{error}");
    assert!(fake.state.borrow().storages.is_empty());
}

#[test]
fn copies_come_and_go_while_it_runs() {
    let fake = Fake::new();
    fake.ok("dst create m --alg alg_mirror /dev/sdb kano:1025 --start-array");
    assert_eq!(
        fake.ok("dst add m nbd://kano/vol"),
        "m: node 2 added, R: 192.168.4.80:10809/vol, 800.0 KiB, healing\n"
    );
    fake.ok("dst remove m /dev/sdb");
    let error = fake.fail("dst remove m kano:1025");
    assert!(
        error.contains("no other copy holds all data; see 'dst status m'"),
        "{error}"
    );
    assert_eq!(fake.state.borrow().storages["m"].nodes.len(), 2);
}

#[test]
fn suspending() {
    let fake = Fake::new();
    fake.ok("dst create m --alg alg_mirror /dev/sdb kano:1025 --start-array");
    assert_eq!(
        fake.ok("dst suspend m kano:1025"),
        "m: node 1 (R: 192.168.4.80:1025) suspended; 'dst resume m 1' ends that\n"
    );
    let status = fake.ok("dst status m");
    assert!(status.contains("in sync, suspended"), "{status}");
    assert!(status.contains("'dst resume m 1' ends that"), "{status}");
    assert!(fake.fail("dst suspend m 1").contains(
        "can't suspend node 1 (R: 192.168.4.80:1025) of storage 'm': it is suspended already"
    ));
    assert_eq!(
        fake.ok("dst resume m 1"),
        "m: node 1 (R: 192.168.4.80:1025) resumed\n"
    );
    assert!(fake.fail("dst resume m 1").contains("it is not suspended"));
    fake.ok("dst stop m");
    assert!(fake.fail("dst suspend m 1").contains("'dst start m' first"));
    fake.ok("dst create l /dev/sdc");
    assert!(fake.fail("dst suspend l 0").contains("'dst start l' first"));
    fake.ok("dst start l");
    fake.ok("dst suspend l 0");
    let status = fake.ok("dst status l");
    assert!(status.contains("what must go to it waits"), "{status}");
    let mut state = fake.state.borrow_mut();
    state.storages.get_mut("l").unwrap().nodes[0].suspended = SUSPENDED_FAILING;
    drop(state);
    let status = fake.ok("dst status l");
    assert!(status.contains("suspended: requests fail"), "{status}");
    fake.ok("dst resume l 0");
    assert!(fake.fail("dst suspend x 0").contains("no storage 'x'"));
    assert!(fake.fail("dst resume m 7").contains("no such node"));
    assert_eq!(fake.run("dst suspend m").status, 2);
}

#[test]
fn in_a_file() {
    let fake = made_once();
    let path = std::env::temp_dir().join(format!("dst-mirror-{}", std::process::id()));
    let file = path.to_str().unwrap();
    let text = "assemble m kano:1025 /dev/sdb --timeout 5m\nset m read-policy=nearest\n\
                create l --metadata nbd://kano/vol --start-array\nsuspend m 0\nresume m 0\n";
    std::fs::write(&path, text).unwrap();
    fake.ok(&format!("dst apply {file}"));
    assert_eq!(
        fake.ok(&format!("dst apply {file} --undo")),
        "storage 'l' deleted\nstorage 'm' deleted\n"
    );
    std::fs::write(&path, "monitor m\n").unwrap();
    let outcome = fake.run(&format!("dst apply {file}"));
    assert!(outcome.err.contains("only subcommands that change"));
    std::fs::remove_file(&path).unwrap();
}

/// A mirror of three copies: one in sync, one that is brought up to date, one that is away.
fn wounded() -> Fake {
    let fake = Fake::new();
    fake.ok("dst create m --alg alg_mirror /dev/sdb kano:1025 nbd://kano/vol --start-array");
    {
        let mut state = fake.state.borrow_mut();
        let storage = state.storage("m").unwrap();
        storage.openers = 1;
        storage.info.healed = 1200;
        storage.info.heal_rate = 100;
        storage.info.heal_max = 2048;
        storage.info.read_policy = READ_NEAREST;
        storage.info.left = 3;
        storage.nodes[1].role = ROLE_HEALING;
        storage.nodes[1].stale = 460;
        let away = &mut storage.nodes[2];
        away.role = ROLE_MISSING;
        away.stale = 64;
        away.state = NODE_LOST;
        away.since_ms = 12_000;
        set_text(&mut away.reason, "Connection reset by peer").unwrap();
    }
    fake
}

const STATUS: &str = "\
m  running  alg_mirror  400.0 KiB  /dev/dst-m  512-byte blocks  open
  degraded, 1 of 3 copies in sync, healing 600.0 KiB of 830.0 KiB, 50.0 KiB/s, 5s left
  ID  NODE                       START  SECTORS       SIZE  STATE     ROLE          IN FLIGHT  ERRORS  RECONNECTS
   0  L: /dev/sdb                    0      800  400.0 KiB  up        in sync               0       0           0
   1  R: 192.168.4.80:1025           0      800  400.0 KiB  up        healing 42 %          0       0           0
   2  R: 192.168.4.80:10809/vol      0      800  400.0 KiB  lost 12s  missing               0       0           0
      Connection reset by peer; it lacks up to 32.0 KiB, which are copied to it when it is back
";

#[test]
fn status() {
    let fake = wounded();
    assert_eq!(fake.ok("dst status m"), STATUS);
    {
        let mut state = fake.state.borrow_mut();
        let storage = state.storage("m").unwrap();
        storage.info.heal_rate = 0;
        let away = &mut storage.nodes[2];
        (away.state, away.role) = (NODE_UP, ROLE_IN_SYNC);
        let text = "written to apart from node 0; 'dst assemble --discard' gives that up";
        set_text(&mut storage.nodes[1].trouble, text).unwrap();
    }
    let out = fake.ok("dst status m");
    assert!(
        out.contains(
            "  healing 600.0 KiB of 830.0 KiB, 0 B/s, time left unknown, 2 of 3 copies in sync\n"
        ),
        "{out}"
    );
    assert!(
        out.contains(
            "      written to apart from node 0; 'dst assemble --discard' gives that up\n"
        ),
        "{out}"
    );
    {
        let mut state = fake.state.borrow_mut();
        let healed = &mut state.storage("m").unwrap().nodes[1];
        (healed.role, healed.stale) = (ROLE_IN_SYNC, 0);
    }
    let out = fake.ok("dst status m");
    assert!(
        out.contains("\n  healthy, 3 of 3 copies in sync\n"),
        "{out}"
    );
    fake.state.borrow_mut().storage("m").unwrap().openers = 0;
    fake.ok("dst stop m");
    for node in &mut fake.state.borrow_mut().storage("m").unwrap().nodes {
        node.role = ROLE_NONE;
    }
    let out = fake.ok("dst status m");
    assert!(!out.contains("ROLE") && !out.contains("copies"), "{out}");
}

#[test]
fn what_is_said_of_nodes_that_are_away() {
    for (role, stale, part) in [
        (ROLE_MISSING, 0, "is brought up to date when it is back"),
        (ROLE_HEALING, 8, "healing goes on when it is back"),
        (ROLE_IN_SYNC, 0, "requests wait until it is back"),
    ] {
        let fake = wounded();
        {
            let mut state = fake.state.borrow_mut();
            let away = &mut state.storage("m").unwrap().nodes[2];
            (away.role, away.stale) = (role, stale);
        }
        let out = fake.ok("dst status m");
        assert!(out.contains(part), "{out}");
    }
}

#[test]
fn colours() {
    let out = wounded().run_on("dst status m", true).out;
    for part in [
        "\x1b[1;31mdegraded,",
        "\x1b[32min sync",
        "\x1b[33mhealing 42 %",
    ] {
        assert!(out.contains(part), "{out}");
    }
}

#[test]
fn json() {
    let fake = wounded();
    let status: Value = serde_json::from_str(&fake.ok("dst status m --json")).unwrap();
    let storage = &status["storages"][0];
    assert_eq!(storage["metadata"], true);
    assert_eq!(storage["uuid"], "d5d5d5d5-d5d5-d5d5-d5d5-d5d5d5d5d5d5");
    assert_eq!(storage["health"], "degraded");
    let mirror = &storage["mirror"];
    assert_eq!(mirror["read_policy"], "nearest");
    assert_eq!(mirror["stale"], 524 * 512);
    assert_eq!(mirror["healed"], 1200 * 512);
    assert_eq!(mirror["heal_rate"], 100 * 512);
    assert_eq!(mirror["heal_max"], 1 << 20);
    assert_eq!(mirror["seconds_left"], 5);
    assert_eq!(mirror["healing_done"], 1200 * 512);
    assert_eq!(mirror["healing_left"], 460 * 512);
    assert_eq!(mirror["left"], 3);
    let node = &storage["nodes"][1];
    assert_eq!(node["role"], "healing");
    assert_eq!(node["stale"], 460 * 512);
    assert_eq!(node["suspended"], false);
    assert_eq!(node["uuid"], "02020202-0202-0202-0202-020202020202");
    assert_eq!(node["trouble"], Value::Null);
    fake.ok("dst create l /dev/sdc --start-array");
    let status: Value = serde_json::from_str(&fake.ok("dst status l --json")).unwrap();
    let storage = &status["storages"][0];
    for key in ["uuid", "health", "mirror"] {
        assert_eq!(storage[key], Value::Null, "{key}");
    }
    assert_eq!(storage["nodes"][0]["role"], Value::Null);
}

#[test]
fn stats() {
    let fake = wounded();
    let out = fake.ok("dst stats m");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].ends_with("STATE     ROLE"), "{out}");
    assert!(lines[2].ends_with("up        healing 42 %"), "{out}");
    let value: Value = serde_json::from_str(&fake.ok("dst stats m --json")).unwrap();
    assert_eq!(value["stats"][2]["role"], "missing");
    fake.ok("dst export x /dev/sdc");
    let out = fake.ok("dst stats --watch 1 --count 1");
    assert!(out.contains("ROLE") && out.contains("0 clients\n"), "{out}");
}

proptest! {
    /// Whatever the numbers are, status neither fails nor promises what is not so.
    #[test]
    fn any_numbers(
        stale in any::<u64>(),
        healed in any::<u64>(),
        rate in prop_oneof![Just(0u64), any::<u64>()],
        size in any::<u64>(),
        role in 0u32..6,
        health in 0u32..6,
    ) {
        let fake = wounded();
        {
            let mut state = fake.state.borrow_mut();
            let storage = state.storage("m").unwrap();
            storage.info.healed = healed;
            storage.info.heal_rate = rate;
            storage.info.health = health;
            let node = &mut storage.nodes[1];
            (node.role, node.stale, node.size) = (role, stale.min(1 << 60), size.min(1 << 60));
        }
        let out = fake.ok("dst status m");
        let taken_over = health == HEALTH_TAKEN_OVER;
        prop_assert_eq!(out.contains("taken over by another machine: all requests fail"), taken_over);
        if role == ROLE_HEALING && stale > 0 && !taken_over {
            prop_assert!(!out.contains("healing 100 %"));
            prop_assert_eq!(out.contains("time left unknown"), rate == 0);
        }
        serde_json::from_str::<Value>(&fake.ok("dst status m --json")).unwrap();
    }

    /// What is written as settings arrives.
    #[test]
    fn any_rates(rates in prop::collection::vec((0u64..1 << 40, 0u64..1 << 40, any::<[bool; 2]>()), 1..4)) {
        let fake = Fake::new();
        fake.ok("dst create m --alg alg_mirror");
        for (min, more, [limited, max_first]) in rates {
            let max = if limited { min + more } else { 0 };
            let (min_word, max_word) = (format!("heal-min={min}"), format!("heal-max={max}s/s"));
            // Whatever they were before.
            fake.ok(&match max_first {
                true => format!("dst set m {max_word} {min_word}"),
                false => format!("dst set m {min_word} {max_word}"),
            });
            prop_assert_eq!(fake.state.borrow().pace["m"], (min, max));
        }
    }

    /// Words that are no settings are told from those that are, without a crash.
    #[test]
    fn any_settings(words in prop::collection::vec("[a-z0-9=:/.-]{1,12}", 1..4)) {
        let fake = Fake::new();
        fake.ok("dst create m --alg alg_mirror");
        let outcome = fake.run(&format!("dst set m {}", words.join(" ")));
        prop_assert!(outcome.status <= 2);
        prop_assert_eq!(outcome.status == 0, outcome.err.is_empty());
    }
}
