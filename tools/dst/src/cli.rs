// SPDX-License-Identifier: GPL-2.0

//! The command line: the subcommands. The original form is in [`crate::original`].

mod args;
mod parse;

use std::path::PathBuf;

use clap::{
    Parser,
    Subcommand, //
};
use dst_core::uapi::{
    CONTROL_PATH,
    MAX_RULES, //
};

pub use self::args::*;
pub use self::parse::{
    alg,
    name,
    which, //
};
use crate::error::{
    usage,
    Result, //
};
use crate::operation::{
    Add,
    Assemble,
    Create,
    Export,
    Operation,
    Replace,
    Start,
    Which,
    MIRROR_ALG, //
};
use crate::original::Original;
use crate::uri::Node;

/// Sets up and watches DST storages and exports.
///
/// A storage is a block device made of nodes: local disks, and disks of remote machines that are reached
/// by NBD over TCP. An export serves a disk of this machine to others.
#[derive(Debug, Parser)]
#[command(
    name = "dst",
    version,
    override_usage = "dst COMMAND [ARGUMENTS]\n       \
                      dst -n NAME [-A ALG] [-f PATH] [-a ADDR] [-p PORT] [-d DISK] [...]",
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Sizes and positions are sectors of 512 bytes, or have a unit: 20G, 512K, 800s.\n\
                  A NODE is a disk (/dev/sdb), host:port, host:port/export or nbd://host:port/export.\n\
                  'dst help COMMAND' says more; dst(8) has examples."
)]
pub struct Cli {
    /// The original form.
    #[command(flatten)]
    pub original: Original,
    /// The control device of the module
    #[arg(short = 'f', long, help_heading = "Options of all commands", value_name = "PATH", default_value = CONTROL_PATH, global = true)]
    pub control: PathBuf,
    /// Say nothing about what was done
    #[arg(short, long, global = true, help_heading = "Options of all commands")]
    pub quiet: bool,
    /// The subcommand, if it is no original form.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a storage, with nodes if they are named; all or nothing
    #[command(after_help = "\
Examples:
  dst create storage /dev/sdb kano:10809 nbd://via/vol1 --start-array
  dst create mirror --alg alg_mirror /dev/sdb kano:10809 --start-array
  dst create whole --no-metadata /dev/sdb kano:10809 --start-array
At its start, the end of each node gets what it belongs to, unless there is --no-metadata.
A storage is made once; later it is put together again by 'dst assemble'.")]
    Create(CreateArgs),
    /// Put a storage together again, by what its nodes tell of it, and start it; all or nothing
    #[command(after_help = "\
Examples:
  dst assemble storage nbd://via/vol1 /dev/sdb kano:10809
  dst assemble mirror /dev/sdb kano:10809
  dst assemble mirror /dev/sdb kano:10809 --degraded
The order of the nodes does not matter. If the storage is a mirror that can do without a node,
one that can't be reached is left out; 'dst add' adds it when it is back.")]
    Assemble(AssembleArgs),
    /// Add nodes to a storage, or copies to a mirror while it runs; it is made if it does not exist
    #[command(after_help = "\
Examples:
  dst add storage /dev/sdb --start 0 --size 20G
  dst add mirror nbd://via/vol1
  dst add mirror kano:10809 --discard
A new copy of a mirror that runs is brought up to date while the mirror is used.")]
    Add(AddArgs),
    /// Start storages: /dev/dst-NAME appears
    Start(StartArgs),
    /// Stop storages: /dev/dst-NAME goes, the nodes stay
    Stop(Names),
    /// Delete storages, running or not; the data on the nodes stay
    #[command(
        override_usage = "dst delete [OPTIONS] <NAME>...\n       dst delete [OPTIONS] --all"
    )]
    Delete(NamesOrAll),
    /// Remove a node from a storage that is not running, or a copy from a mirror, running or not
    #[command(
        override_usage = "dst remove [OPTIONS] <NAME> <NODE> [--start <POSITION>]\n       \
                               dst remove [OPTIONS] <NAME> --start <POSITION>\n       \
                               dst remove [OPTIONS] <NAME> --all",
        after_help = "\
Examples:
  dst remove storage n-800
  dst remove mirror kano:10809
A copy that was removed is no part of the mirror any more; 'dst add' brings all data to it anew."
    )]
    Remove(RemoveArgs),
    /// Move the data of a node to another one while the storage is used; then the old one is dropped
    #[command(
        override_usage = "dst replace [OPTIONS] <NAME> <NODE> <NEW>\n       \
                               dst replace [OPTIONS] <NAME> <NODE> --cancel",
        after_help = "\
Examples:
  dst replace storage /dev/sdb kano:10809
  dst replace mirror kano:10809 nbd://via/vol1
  dst replace mirror kano:10809 --cancel
The command returns when that has begun; 'dst status' shows how far it is, 'dst monitor' tells
when it is done. The new node must be as large as the part of the storage on the old one. Until
the end the old node has all data. heal-min and heal-max of 'dst set' say how fast it goes.
When the storage is stopped or deleted meanwhile, it goes on at 'dst start', or when 'dst assemble'
is told the new node, too; without metadata it ends."
    )]
    Replace(ReplaceArgs),
    /// Serve a disk of this machine to others by NBD
    Export(ExportArgs),
    /// End exports: their clients are disconnected
    #[command(
        override_usage = "dst unexport [OPTIONS] <NAME>...\n       dst unexport [OPTIONS] --all"
    )]
    Unexport(NamesOrAll),
    /// Show storages, their nodes, and exports
    Status(StatusArgs),
    /// Print the names of storages and exports
    List(JsonArgs),
    /// Show throughput and counters of nodes and exports
    Stats(StatsArgs),
    /// End the waiting on nodes that are lost or suspended: what waits for them fails
    FailNow(FailNowArgs),
    /// Let requests wait that must go to a node; all others go on
    #[command(after_help = "\
Examples:
  dst suspend storage kano:10809
  dst resume storage kano:10809")]
    Suspend(OneNode),
    /// End what suspend began
    Resume(OneNode),
    /// Change settings of nodes, or of a mirror, while they run
    #[command(override_usage = "dst set [OPTIONS] <NAME> [NODE] <KEY=VALUE>...")]
    Set(SetArgs),
    /// Print what happens to storages and nodes, one line for each event
    #[command(after_help = "\
Examples:
  dst monitor
  dst monitor mirror --json | jq 'select(.event == \"heal-done\")'
  dst monitor mirror --count 1 --timeout 10s
'dst: listening' on the standard error says that no event is missed from then on.
It ends by --count, --timeout or a signal.")]
    Monitor(MonitorArgs),
    /// List what an NBD server exports
    Discover(DiscoverArgs),
    /// Execute the lines of a file, each of which is a subcommand
    Apply(ApplyArgs),
    /// Print completions for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the man page dst(8)
    #[command(hide = true)]
    Man,
}

impl Cli {
    /// Refuses a mix of both forms.
    pub fn check(&self) -> Result {
        match self.command.is_some() && self.original != Original::default() {
            true => usage("options of the original form can't be used together with a subcommand"),
            false => Ok(()),
        }
    }
}

impl Command {
    /// The operations that the subcommand comes down to; `None`: it changes nothing.
    pub fn operations(self) -> Result<Option<Vec<Operation>>> {
        let operations = match self {
            Self::Create(args) => vec![Operation::Create(create(args)?)],
            Self::Assemble(args) => vec![Operation::Assemble(assemble(args)?)],
            Self::Add(args) => {
                each_once(&args.nodes)?;
                if args.nodes.len() > 1 && (args.start.is_some() || args.size.is_some()) {
                    return usage(
                        "'--start' and '--size' place one node; add the others by themselves",
                    );
                }
                let mut operations = vec![Operation::Add(Add {
                    name: args.name.clone(),
                    alg: args.alg,
                    metadata: !args.no_metadata,
                    nodes: args.nodes,
                    start: args.start,
                    size: args.size,
                    options: args.options.options(),
                    force: args.force,
                    discard: args.discard,
                })];
                if args.start_array {
                    operations.push(Operation::Start(Start {
                        name: args.name,
                        degraded: false,
                    }));
                }
                operations
            }
            Self::Start(args) => args
                .names
                .into_iter()
                .map(|name| {
                    Operation::Start(Start {
                        name,
                        degraded: args.degraded,
                    })
                })
                .collect(),
            Self::Stop(args) => args.names.into_iter().map(Operation::Stop).collect(),
            Self::Delete(args) => vec![Operation::Delete(args.targets())],
            Self::Unexport(args) => vec![Operation::Unexport(args.targets())],
            Self::Remove(args) => vec![Operation::Remove {
                name: args.name,
                which: match (args.node, args.start) {
                    (None, None) => Which::All,
                    (Some(Which::One { node, start }), at) => {
                        if start.is_some() && at.is_some() && start != at {
                            return usage("'--start' and n-START name different nodes");
                        }
                        Which::One {
                            node,
                            start: at.or(start),
                        }
                    }
                    (_, start) => Which::One { node: None, start },
                },
            }],
            Self::Replace(args) => vec![match args.new {
                None => Operation::CancelReplace {
                    name: args.name,
                    which: args.node,
                },
                Some(new) => Operation::Replace(Replace {
                    name: args.name,
                    which: args.node,
                    new,
                    options: args.options.options(),
                    force: args.force,
                }),
            }],
            Self::Export(args) => {
                if args.allow.len() > MAX_RULES {
                    return usage(format!(
                        "'--allow' is given {} times; an export has room for {MAX_RULES} networks",
                        args.allow.len()
                    ));
                }
                vec![Operation::Export(Export {
                    name: args.name,
                    disk: args.disk,
                    listen: args.listen,
                    read_only: args.read_only,
                    allow: args.allow,
                    max_connections: args.max_connections.unwrap_or(0),
                    backlog: args.backlog.unwrap_or(0),
                })]
            }
            Self::FailNow(args) => vec![Operation::FailNow {
                name: args.name,
                which: args.node.unwrap_or(Which::All),
            }],
            Self::Suspend(args) => vec![Operation::Suspend {
                name: args.name,
                which: args.node,
            }],
            Self::Resume(args) => vec![Operation::Resume {
                name: args.name,
                which: args.node,
            }],
            Self::Set(args) => parse::settings(&args.name, &args.what)?,
            Self::Status(_)
            | Self::List(_)
            | Self::Stats(_)
            | Self::Discover(_)
            | Self::Monitor(_)
            | Self::Apply(_)
            | Self::Completions { .. }
            | Self::Man => return Ok(None),
        };
        Ok(Some(operations))
    }
}

/// A disk can be one node only. (Whether two servers have the same one is not seen here.)
fn each_once(nodes: &[Node]) -> Result<()> {
    for (at, node) in nodes.iter().enumerate() {
        if matches!(node, Node::Local(_)) && nodes[..at].contains(node) {
            return usage(format!("'{node}' is named twice; name each node once"));
        }
    }
    Ok(())
}

/// `dst create`.
fn create(args: CreateArgs) -> Result<Create> {
    each_once(&args.nodes)?;
    let mirror = args.alg == MIRROR_ALG;
    if mirror && args.no_metadata {
        return usage(format!(
            "'--no-metadata': a mirror ('--alg {MIRROR_ALG}') keeps on its nodes which of them are in \
             sync; leave the option out"
        ));
    }
    if args.force && args.no_metadata {
        return usage(
            "'--force' takes nodes that belong to another storage; with '--no-metadata' nodes are not \
             looked at, leave it out",
        );
    }
    Ok(Create {
        name: args.name,
        alg: args.alg,
        metadata: !args.no_metadata,
        block_size: args.block_size.unwrap_or(0),
        nodes: args.nodes,
        options: args.options.options(),
        force: args.force,
        start: args.start_array,
    })
}

/// `dst assemble`.
fn assemble(args: AssembleArgs) -> Result<Assemble> {
    each_once(&args.nodes)?;
    if let Some(node) = args.discard.iter().find(|node| !args.nodes.contains(node)) {
        return usage(format!(
            "'--discard {node}': that is none of the nodes that are named; name it among them too, in the \
             same way"
        ));
    }
    Ok(Assemble {
        name: args.name,
        nodes: args.nodes,
        discard: args.discard,
        options: args.options.options(),
        degraded: args.degraded,
    })
}
