// SPDX-License-Identifier: GPL-2.0

//! The man page dst(8): what is said of options is taken from the command line's own definition, the rest
//! is written here.

use std::fmt::Write;

use clap::{
    Arg,
    CommandFactory, //
};

use crate::cli::Cli;

/// What the page says before the options.
const HEAD: &str = r#".SH NAME
dst \- set up and watch DST storages and exports
.SH SYNOPSIS
.B dst
.I COMMAND
.RI [ ARGUMENTS ]
.PP
.B dst \-n
.I NAME
.RB [ \-A
.IR ALG ]
.RB [ \-f
.IR PATH ]
.RB [ \-a
.IR ADDR ]
.RB [ \-p
.IR PORT ]
.RB [ \-d
.IR DISK ]
.RB [ \-b
.IR BACKLOG ]
.RB [ \-s
.IR START ]
.RB [ \-S
.IR SIZE ]
.RB [ \-R | \-D | \-r ]
.SH DESCRIPTION
A DST storage is a block device,
.IR /dev/dst\-NAME ,
made of nodes. A node is a disk of this machine or an export of an NBD server, reached over TCP. An algorithm
decides which nodes serve which part of the storage:
.B alg_linear
puts them one behind the other,
.B alg_mirror
keeps a copy of all data on each of them. A storage is put together while it is stopped, and is used while it
runs.
.PP
An export serves a disk of this machine, a storage for example, to others by NBD. Any NBD client can use it.
.PP
The kernel module does the work;
.B dst
tells it what to do and ends. Nothing else needs to run. Only root may use it.
.SS Nodes
A
.I NODE
is the path of a disk
.RI ( /dev/sdb ),
.IB host : port\fR,\fP
.IB host : port / export
or an NBD URI,
.BI nbd:// host : port / export\fR.\fP
Without a port, 10809 is meant; without an export, the server's default. An IPv6 address stands in brackets:
.BR [2001:db8::1]:10809 .
Names are resolved once, by this command; each address is tried in turn until one can be connected to. TLS
.RB ( nbds:// )
is not supported yet.
.SS Sizes, positions, times
A bare number is a number of sectors of 512 bytes. A number with a unit is
.B s
(sectors),
.B B
(bytes),
.BR K ", " M ", " G ", " T " or " P
(powers of 1024). It must be a multiple of 512 bytes. A time is a number of seconds, or has a unit:
.BR 500ms ", " 30s ", " 5m ", " 1h .
.SS Lost nodes
A remote node that is lost is connected to again and again, and its requests wait, by default for ever:
nothing fails while a server is restarted.
.B \-\-timeout
bounds the waiting,
.B dst set
changes that bound at any time, and
.B dst fail\-now
ends the waiting at once.
.SS Metadata
What a node belongs to is written at its end, unless a linear storage is made with
.B \-\-no\-metadata
or by the original form of the command line: these use all of each node, and write nothing. A storage with metadata is
made once, by
.BR "dst create" ,
and put together later by
.BR "dst assemble" ,
which finds out what each node is, in whatever order they are named, and refuses what does not fit. A linear storage
needs all of its nodes.
.PP
If its nodes are exports of DST, the machine that starts it last has it: on an older one that still runs, all of its
requests fail, and
.B dst status
says so.
.SS Mirrors
A mirror goes on without a copy that is lost as long as another one holds all data. It remembers which regions
the copy lacks, and copies these when it is back, while the mirror is used: that is healing.
.PP
A node that
can't be reached is left out if the others know that it lacks data; if it may hold newer data than they do,
.B \-\-degraded
gives these up. Nodes that were written to apart from each other are refused;
.B \-\-discard
.I NODE
gives up what was written on that node alone, and says how much that is. A copy that comes back to a mirror that runs, and
was written to elsewhere meanwhile, is not taken back:
.B dst add
.I NAME NODE
.B \-\-discard
gives that up, and takes it back.
"#;

/// What the page says behind the options.
const TAIL: &str = r#".SH CONFIGURATION FILE
.B dst apply
.I FILE
executes the lines of a file, one after the other. Each line is a subcommand that changes something, with its
arguments, or a command line of the original form; the word
.B dst
before it may be left out. A word with spaces in it stands in quotes;
.B #
begins a comment. The whole file is checked before its first line is executed; the first line that fails ends
it.
.B dst apply \-\-undo
.I FILE
deletes the storages and ends the exports that the file sets up, last one first.
.PP
.I dst.service
applies
.I /etc/dst.conf
when the system starts, and takes it back when it stops. File systems on a storage need the option
.B _netdev
in
.IR /etc/fstab ,
so that they are mounted behind and unmounted before it.
.SH EXIT STATUS
.TP
.B 0
It is done.
.TP
.B 1
It could not be done; the reason is on the standard error.
.TP
.B 2
The command line, or a line of the file for
.BR "dst apply" ,
can't be understood; nothing was done.
.SH ENVIRONMENT
.TP
.B NO_COLOR
If it is set and not empty, there are no colours on a terminal.
.SH FILES
.TP
.I /dev/dst
The control device of the module.
.TP
.I /dev/dst\-NAME
The disk of the storage NAME while it runs.
.TP
.I /dev/disk/by\-dst/NAME
The same, made by udev.
.TP
.I /sys/devices/NAME
The storage NAME in sysfs;
.I n\-START
is the directory of the node that begins at sector START.
.TP
.I /etc/dst.conf
What
.I dst.service
sets up.
.SH EXAMPLES
.SS With subcommands
A storage of a local disk and two remote ones, started at once:
.PP
.EX
dst create storage /dev/sdb kano:10809 nbd://via/vol1 \-\-start\-array
dst assemble storage nbd://via/vol1 /dev/sdb kano:10809
mkfs.xfs /dev/dst\-storage
dst status
.EE
.PP
The servers may be any; with DST on
.IR via :
.PP
.EX
dst export vol1 /dev/sdc \-\-allow 192.168.4.0/24
.EE
.PP
What does a server export, and how busy are the nodes?
.PP
.EX
dst discover via
dst stats storage \-\-watch 2
.EE
.PP
A mirror of a local disk and a remote one, made once, and put together again after a reboot:
.PP
.EX
dst create mirror \-\-alg alg_mirror /dev/sdb kano:10809 \-\-start\-array
dst assemble mirror kano:10809 /dev/sdb
.EE
.PP
Another copy for it while it runs, and one that goes for ever:
.PP
.EX
dst add mirror nbd://via/vol1
dst monitor mirror
dst remove mirror kano:10809
.EE
.PP
A disk is to be exchanged while the storage is used:
.PP
.EX
dst replace storage /dev/sdb /dev/sdd
dst monitor storage \-\-json | jq \-\-unbuffered 'select(.event == "replace\-done")'
.EE
.PP
A server is gone for good: end the waiting, unmount, take the storage down.
.PP
.EX
dst fail\-now storage
umount /mnt
dst delete storage
.EE
.SS The original form
.EX
dst \-n storage \-A alg_linear \-f /dev/dst \-a kano \-p 1025
dst \-n storage \-A alg_linear \-f /dev/dst \-d /dev/sdb
dst \-n storage \-A alg_linear \-f /dev/dst \-a via \-p 1025 \-R
dst \-n storage \-A alg_linear \-f /dev/dst \-D
.EE
.PP
add a remote node, whose size is asked from it; add a local disk; add a last node and start the storage; delete
it. A disk with an address is an export:
.PP
.EX
dst \-n storage \-A alg_linear \-f /dev/dst \-d /dev/sdb \-a 0.0.0.0 \-p 1025 \-b 16
.EE
.SS In scripts
.EX
dst status \-\-json | jq \-r '.storages[].nodes[] | select(.state != "up") | .type'
dst status mirror \-\-json | jq \-e '.storages[0].health == "healthy"'
dst monitor mirror \-\-json | jq \-\-unbuffered 'select(.event == "conflict")'
.EE
.PP
Sizes in JSON are bytes, unless their name says sectors;
.B start
is a sector.
.SH NOTES
NBD without TLS neither encrypts nor authenticates. Use it on a network that you trust or inside a tunnel, and
name the networks that may connect with
.BR \-\-allow .
.PP
What is exported and what is written to it through a storage is one disk: don't mount it on the server too.
.SH SEE ALSO
.BR nbd\-client (8),
.BR nbdkit (1),
.BR qemu\-nbd (8),
.BR nbdinfo (1),
.BR systemd.mount (5)
"#;

/// Gives the page.
pub fn page() -> String {
    let mut command = Cli::command();
    command.build();
    let mut page = format!(
        ".\\\" SPDX-License-Identifier: GPL-2.0\n.TH DST 8 \"\" \"dst {}\" \"System Administration\"\n{HEAD}",
        env!("CARGO_PKG_VERSION")
    );
    page.push_str(".SH COMMANDS\n");
    for sub in command.get_subcommands() {
        if sub.is_hide_set() || sub.get_name() == "help" {
            continue;
        }
        let mut line = format!("dst {}", sub.get_name());
        for arg in sub.get_arguments().filter(|arg| is_own(arg)) {
            line.push(' ');
            line.push_str(&synopsis(arg));
        }
        // A string can be written to without failing; so it is below.
        let _ = writeln!(page, ".SS {}", escape(&line));
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(page, "{}.", text(&about));
        sub.get_arguments()
            .filter(|arg| is_own(arg))
            .for_each(|arg| option(&mut page, arg));
        if let Some(more) = sub.get_after_help() {
            verbatim(&mut page, &more.to_string());
        }
    }
    page.push_str(".SH OPTIONS OF ALL COMMANDS\n");
    for arg in command.get_arguments().filter(|arg| arg.is_global_set()) {
        option(&mut page, arg);
    }
    page.push_str(".SH OPTIONS OF THE ORIGINAL FORM\n");
    for arg in command.get_arguments() {
        let short_only = arg.get_short().is_some() && arg.get_long().is_none();
        if short_only {
            option(&mut page, arg);
        }
    }
    page.push_str(TAIL);
    page
}

/// Whether an argument belongs to the subcommand, and not to all of them.
fn is_own(arg: &Arg) -> bool {
    !arg.is_global_set()
        && !arg.is_hide_set()
        && !matches!(arg.get_id().as_str(), "help" | "version")
}

/// An argument as it stands in the synopsis.
fn synopsis(arg: &Arg) -> String {
    let name = name(arg);
    let many = matches!(arg.get_action(), clap::ArgAction::Append);
    let dots = if many { "..." } else { "" };
    match arg.is_required_set() {
        true => format!("{name}{dots}"),
        false if name.starts_with('[') => format!("{name}{dots}"),
        false => format!("[{name}]{dots}"),
    }
}

/// An argument with its value.
fn name(arg: &Arg) -> String {
    let value = arg
        .get_value_names()
        .and_then(|names| names.first())
        .map(|name| name.as_str())
        .unwrap_or_default();
    let takes = arg.get_num_args().is_some_and(|range| range.takes_values());
    let optional = arg
        .get_num_args()
        .is_some_and(|range| range.min_values() == 0);
    let value = match (takes, optional) {
        (false, _) => String::new(),
        (true, false) => value.to_string(),
        (true, true) => format!("[{value}]"),
    };
    match (arg.get_short(), arg.get_long()) {
        (None, None) => value,
        (Some(short), None) => format!("-{short} {value}").trim_end().into(),
        (None, Some(long)) => format!("--{long} {value}").trim_end().into(),
        (Some(short), Some(long)) => format!("-{short}, --{long} {value}").trim_end().into(),
    }
}

/// An argument with what it does.
fn option(page: &mut String, arg: &Arg) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let mut help = text(&help);
    let defaults: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    if arg.get_num_args().is_some_and(|range| range.takes_values()) && !defaults.is_empty() {
        help.push_str(&text(&format!(" [default: {}]", defaults.join(", "))));
    }
    let _ = writeln!(page, ".TP\n.B {}\n{help}.", escape(&name(arg)));
}

/// Lines that stay as they are: examples, and tables.
fn verbatim(page: &mut String, lines: &str) {
    page.push_str(".PP\n.EX\n");
    for line in lines.lines() {
        page.push_str(&text(line));
        page.push('\n');
    }
    page.push_str(".EE\n");
}

/// Makes text safe within a line of roff.
fn escape(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
}

/// Makes text safe as a line of its own.
fn text(text: &str) -> String {
    let text = escape(text);
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}
