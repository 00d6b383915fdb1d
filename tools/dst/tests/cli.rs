// SPDX-License-Identifier: GPL-2.0

//! The program itself, without a module: help, completions, the man page, exit statuses, files to install.

use std::path::Path;
use std::process::{
    Command,
    Output,
    Stdio, //
};

/// All subcommands that people see.
const SUBCOMMANDS: [&str; 20] = [
    "create", "assemble", "add", "start", "stop", "delete", "remove", "export", "unexport",
    "status", "list", "stats", "fail-now", "suspend", "resume", "set", "monitor", "discover",
    "apply", "replace",
];

fn dst(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dst"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn out(args: &[&str]) -> String {
    let output = dst(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn err(args: &[&str], status: i32) -> String {
    let output = dst(args);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn help() {
    for help in [out(&["-h"]), out(&["--help"]), out(&["help"])] {
        for name in SUBCOMMANDS {
            assert!(help.contains(&format!("\n  {name} ")), "{name}: {help}");
        }
        for option in [
            "-n ", "-A ", "-a ", "-p ", "-d ", "-b ", "-s ", "-S ", "-R", "-D", "-r", "-f",
        ] {
            assert!(help.contains(&format!("\n  {option}")), "{option}: {help}");
        }
        assert!(!help.contains("completions"));
    }
    for name in SUBCOMMANDS {
        let help = out(&["help", name]);
        assert_eq!(help, out(&[name, "--help"]));
        assert!(help.contains(&format!("Usage: dst {name}")), "{help}");
    }
    assert!(out(&["--version"]).starts_with("dst "));
    assert!(err(&[], 2).contains("Usage:"));
}

#[test]
fn no_module() {
    let missing = "/nonexistent/dst";
    for args in [
        &["status", "-f", missing] as &[&str],
        &["-f", missing, "status"],
        &["list", "--control", missing],
        &[
            "-n",
            "storage",
            "-A",
            "alg_linear",
            "-f",
            missing,
            "-a",
            "kano",
            "-p",
            "1025",
        ],
        &["-n", "storage", "-f", missing, "-D"],
        &["create", "x", "-f", missing],
        &["stats", "-f", missing],
    ] {
        let error = err(args, 1);
        assert!(
            error.starts_with("dst: /nonexistent/dst is missing"),
            "{error}"
        );
        assert!(error.contains("modprobe dst"), "{error}");
    }
    let error = err(&["status", "-f", "/dev/null"], 1);
    assert!(
        error.contains("this is not the control device of DST"),
        "{error}"
    );
    if !Path::new("/dev/dst").exists() {
        let error = err(&["status"], 1);
        assert!(
            error.contains("the kernel module is not loaded; load it with 'modprobe dst'"),
            "{error}"
        );
    }
}

#[test]
fn wrong_command_lines() {
    for (args, parts) in [
        (
            &["frobnicate"] as &[&str],
            ["unrecognized subcommand", "frobnicate"],
        ),
        (&["create"], ["required", "<NAME>"]),
        (&["create", "-x"], ["unexpected argument", "-x"]),
        (&["create", "a/b"], ["'a/b'", "a name is 1 to 27"]),
        (&["create", ".x"], ["'.x'", "a name is 1 to 27"]),
        (
            &["create", "a234567890123456789012345678"],
            ["<NAME>", "a name is 1 to 27"],
        ),
        (
            &["create", "a", "--block-size", "520"],
            ["--block-size", "512, 1024"],
        ),
        (&["add", "a"], ["required", "<NODE>"]),
        (&["assemble", "a"], ["required", "<NODE>"]),
        (&["assemble", "a", "sdb"], ["'sdb'", "neither a disk"]),
        (
            &["create", "a", "/dev/x", "kano:1", "/dev/x"],
            ["'/dev/x' is named twice", "name each node once"],
        ),
        (
            &["assemble", "a", "/x", "--discard", "sdb"],
            ["'sdb' for '--discard", "neither a disk"],
        ),
        (&["suspend", "a", "sdb"], ["'sdb'", "'dst status' shows"]),
        (&["add", "a", "sdb"], ["'sdb'", "neither a disk"]),
        (
            &["add", "a", "nbds://kano/x"],
            ["'nbds://kano/x'", "TLS is not supported yet"],
        ),
        (
            &["add", "a", "/dev/sdb", "--size", "1.5G"],
            ["'1.5G' for '--size", "1536M"],
        ),
        (
            &["add", "a", "/dev/sdb", "--size", "100B"],
            ["'100B' for '--size", "multiple of 512"],
        ),
        (
            &["add", "a", "/dev/sdb", "--timeout", "0"],
            ["'0' for '--timeout", "wait"],
        ),
        (
            &["add", "a", "/dev/sdb", "--depth", "0"],
            ["'0' for '--depth", "1..=1024"],
        ),
        (
            &["add", "a", "/x", "--keepalive", "2h"],
            ["'2h' for '--keepalive", "1s to 1h"],
        ),
        (
            &["add", "a", "/x", "--connect-timeout", "20m"],
            ["'20m' for '--connect-timeout", "at most 10m"],
        ),
        (
            &["export", "a", "/x", "--max-connections", "65"],
            ["'65' for '--max-connections", "1..=64"],
        ),
        (
            &["export", "a", "/x", "--backlog", "4097"],
            ["'4097' for '--backlog", "1..=4096"],
        ),
        (
            &["monitor", "--count", "0"],
            ["'0' for '--count", "from 1 on"],
        ),
        (
            &["stats", "--watch", "0"],
            ["'0' for '--watch'", "at least 1ms"],
        ),
        (&["stats", "/x"], ["'/x' for '[NAME]'", "a name is 1 to 27"]),
        (
            &["set", "a", "timeout"],
            ["'timeout' has no value", "timeout=VALUE"],
        ),
        (
            &["set", "a", "keepalive=0"],
            ["'0' for 'keepalive'", "1s to 1h"],
        ),
        (&["replace", "a", "0"], ["<NEW>", "--cancel"]),
        (
            &["add", "a", "/x", "/y", "--start", "0"],
            ["'--start'", "place one node"],
        ),
        (
            &["export", "a", "/x", "--listen", "::1:10809x"],
            ["--listen", "brackets"],
        ),
        (
            &["export", "a", "/x", "--allow", "10.0.0.1/8"],
            ["--allow", "10.0.0.0/8"],
        ),
        (&["delete"], ["required", "<NAME>"]),
        (&["delete", "a", "--all"], ["--all", "cannot be used"]),
        (
            &["discover", "nbd://kano:0"],
            ["'nbd://kano:0'", "not a port"],
        ),
        (
            &["-n", "a", "-a", "kano", "-p", "0"],
            ["'0' for '-p <PORT>'", "not a port"],
        ),
        (&["-a", "kano"], ["the name is missing", "-n NAME"]),
        (&["-n", "a", "status"], ["original form", "subcommand"]),
        (
            &["-n", "a", "-d", "/x", "-S", "0"],
            ["'0' for '-S <SIZE>'", "at least one"],
        ),
    ] {
        let error = err(args, 2);
        assert!(error.starts_with("dst: "), "{args:?}: {error}");
        for part in parts {
            assert!(error.contains(part), "{args:?}: {part}: {error}");
        }
    }
}

#[test]
fn completions() {
    for (shell, part) in [
        ("bash", "complete -F _dst"),
        ("zsh", "#compdef dst"),
        ("fish", "complete -c dst"),
    ] {
        let text = out(&["completions", shell]);
        assert!(text.contains(part), "{shell}");
        for name in SUBCOMMANDS {
            assert!(text.contains(name), "{shell}: {name}");
        }
    }
    err(&["completions", "tcsh"], 2);
}

#[test]
fn man_page() {
    let page = out(&["man"]);
    for section in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "COMMANDS",
        "EXAMPLES",
        "EXIT STATUS",
        "FILES",
        "SEE ALSO",
        "OPTIONS OF THE ORIGINAL FORM",
    ] {
        assert!(page.contains(&format!("\n.SH {section}\n")), "{section}");
    }
    for name in SUBCOMMANDS {
        let name = name.replace('-', "\\-");
        assert!(page.contains(&format!("\n.SS dst {name}")), "{name}");
    }
    for part in [
        "read\\-policy=POLICY",
        "\\-\\-discard NODE",
        "\n  dst assemble mirror /dev/sdb kano:10809\n",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for option in ["n", "A", "a", "p", "d", "b", "s", "S", "R", "D", "r", "f"] {
        assert!(page.contains(&format!("\n.B \\-{option}")), "{option}");
    }
}

#[test]
fn output_that_nobody_reads() {
    for args in [&["man"] as &[&str], &["completions", "bash"], &["help"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dst"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

#[test]
fn files_to_install() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    let example = dist.join("dst.conf.example");
    let example = example.to_str().unwrap();
    assert!(out(&["apply", "--check", example]).contains("no error"));
    let unit = std::fs::read_to_string(dist.join("dst.service")).unwrap();
    for part in ["dst apply /etc/dst.conf", "dst apply --undo /etc/dst.conf"] {
        assert!(unit.contains(part));
    }
}
