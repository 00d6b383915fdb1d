// SPDX-License-Identifier: GPL-2.0

//! `dst monitor`: with a kernel that is a list of messages, and as a program.

mod fake;

use std::io::{
    BufRead,
    BufReader,
    Read, //
};
use std::process::{
    Command,
    Stdio, //
};
use std::time::Duration;

use dst_command::uevent::Heard;
use fake::Fake;
use serde_json::Value;

/// A message of the kernel.
fn message(head: &str, strings: &str) -> Heard {
    let text = format!("{head}\0{}\0", strings.replace(';', "\0"));
    Heard::Message(text.into_bytes())
}

/// A machine on which much happens.
fn busy() -> Fake {
    let fake = Fake::new();
    fake.uevents.borrow_mut().extend([
        message("add@/devices/virtual/block/loop0", "SUBSYSTEM=block"),
        message(
            "add@/devices/m",
            "ACTION=add;DEVPATH=/devices/m;SUBSYSTEM=dst;SEQNUM=7",
        ),
        Heard::Nothing,
        message(
            "change@/devices/other",
            "SUBSYSTEM=dst;DST_STATE=running;SEQNUM=8",
        ),
        message(
            "change@/devices/m",
            "SUBSYSTEM=dst;DST_DIRECTORY=n-0-1;DST_STORAGE=m;DST_NODE=1;DST_TYPE=R: 192.168.4.80:1025;\
             DST_STATE=lost;DST_ROLE=missing;SEQNUM=9",
        ),
        Heard::Lost,
        message(
            "change@/devices/m",
            "SUBSYSTEM=dst;DST_EVENT=heal-start;DST_HEALTH=healing;SEQNUM=12",
        ),
        message(
            "change@/devices/m",
            "SUBSYSTEM=dst;DST_TYPE=L: \x1b[2J;DST_NODE=0;DST_STATE=up",
        ),
    ]);
    fake
}

#[test]
fn lines() {
    let outcome = busy().run("dst monitor m --timeout 10s");
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert_eq!(outcome.err, "dst: listening\n");
    assert_eq!(
        outcome.out,
        "2026-11-24T21:55:57.044Z  m: storage added\n\
         2026-11-24T21:55:57.047Z  m: node 1 (R: 192.168.4.80:1025): lost, missing\n\
         2026-11-24T21:55:57.048Z  events were lost: more came than could be written; 'dst status' tells \
         how things are\n\
         2026-11-24T21:55:57.049Z  m: healing begins, healing\n\
         2026-11-24T21:55:57.050Z  m: node 0 (L: \\u{1b}[2J): up\n"
    );
    let all = busy().run("dst monitor --timeout 10s -q");
    assert!(all.out.contains("  other: running\n"), "{all:?}");
    assert_eq!(all.err, "");
}

#[test]
fn json() {
    let out = busy().ok("dst monitor m --json --count 3");
    let events: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 4);
    assert_eq!(events[0]["action"], "add");
    assert_eq!(events[0]["storage"], "m");
    assert_eq!(events[0]["node"], Value::Null);
    assert_eq!(events[1]["time"], "2026-11-24T21:55:57.047Z");
    assert_eq!(events[1]["node"], 1);
    assert_eq!(events[1]["type"], "R: 192.168.4.80:1025");
    assert_eq!(events[1]["state"], "lost");
    assert_eq!(events[1]["role"], "missing");
    assert_eq!(events[1]["seqnum"], 9);
    assert_eq!(events[1]["other"]["directory"], "n-0-1");
    assert_eq!(events[2]["action"], "overrun");
    assert_eq!(events[3]["event"], "heal-start");
    assert_eq!(events[3]["health"], "healing");
}

#[test]
fn ends() {
    let out = busy().ok("dst monitor --count 1");
    assert_eq!(out.lines().count(), 1);
    let error = busy().run("dst monitor m --count 9 --timeout 2s");
    assert_eq!(error.status, 1);
    assert!(
        error.err.ends_with("dst: 4 of 9 events came within 2s\n"),
        "{error:?}"
    );
    // Events of others do not make it go on for ever.
    let fake = Fake::new();
    for _ in 0..1000 {
        let noise = message("add@/devices/x", "SUBSYSTEM=block");
        fake.uevents.borrow_mut().push_back(noise);
    }
    fake.ok("dst monitor --timeout 100ms");
    for (rest, part) in [
        ("--count 0", "--count"),
        ("--timeout 0", "'0' for '--timeout"),
        ("a/b", "a name is 1 to 27"),
    ] {
        let outcome = fake.run(&format!("dst monitor {rest}"));
        assert_eq!(outcome.status, 2, "{rest}");
        assert!(outcome.err.contains(part), "{rest}: {outcome:?}");
    }
}

/// The real program on the real kernel: it listens, without a module, and ends.
#[test]
fn the_program() {
    let output = Command::new(env!("CARGO_BIN_EXE_dst"))
        .args(["monitor", "nobody", "--timeout", "100ms"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"");
    assert_eq!(output.stderr, b"dst: listening\n");

    let mut child = Command::new(env!("CARGO_BIN_EXE_dst"))
        .args(["monitor", "nobody"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    err.read_line(&mut line).unwrap();
    assert_eq!(line, "dst: listening\n");
    std::thread::sleep(Duration::from_millis(50));
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(killed.success());
    let status = child.wait().unwrap();
    assert!(!status.success() || status.code() == Some(0));
    let mut rest = String::new();
    err.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}
