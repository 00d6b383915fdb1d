// SPDX-License-Identifier: GPL-2.0

//! The arguments of the subcommands.

use std::path::PathBuf;

use clap::{
    Args,
    ValueHint, //
};

use super::parse::{
    alg,
    name,
    which,
    SETTINGS_HELP, //
};
use crate::address::{
    parse_listen,
    parse_network,
    Network, //
};
use crate::operation::{
    NodeOptions,
    Targets,
    Which,
    DEFAULT_ALG, //
};
use crate::size;
use crate::uri::{
    parse_disk,
    parse_node,
    parse_remote,
    Node,
    Remote, //
};

/// Arguments of `dst create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the storage
    #[arg(value_parser = name)]
    pub name: String,
    /// Nodes, in order
    #[arg(value_name = "NODE", value_hint = ValueHint::AnyPath, value_parser = parse_node)]
    pub nodes: Vec<Node>,
    /// alg_linear: the nodes one behind the other; alg_mirror: a copy of all data on each
    #[arg(long, value_name = "NAME", default_value = DEFAULT_ALG, value_parser = alg)]
    pub alg: String,
    /// Write on the nodes what they belong to, so that 'dst assemble' can tell: what it does anyway
    #[arg(long, hide = true)]
    pub metadata: bool,
    /// Don't write on the nodes what they belong to, and use all of each; 'dst assemble' does not know them
    /// then, and a mirror is not possible
    #[arg(long, conflicts_with = "metadata")]
    pub no_metadata: bool,
    /// Logical block size in bytes: 512, 1024, 2048 or 4096 [default: the largest of the nodes]
    #[arg(long, value_name = "BYTES", value_parser = size::parse_block_size)]
    pub block_size: Option<u32>,
    /// Settings of the nodes.
    #[command(flatten)]
    pub options: OptionArgs,
    /// Take nodes that belong to a storage already; that storage loses them
    #[arg(long, requires = "nodes")]
    pub force: bool,
    /// Start the storage
    #[arg(long, requires = "nodes")]
    pub start_array: bool,
}

/// Arguments of `dst assemble`.
#[derive(Debug, Args)]
pub struct AssembleArgs {
    /// Name that the storage is to have
    #[arg(value_parser = name)]
    pub name: String,
    /// The nodes of the storage, in any order
    #[arg(value_name = "NODE", value_hint = ValueHint::AnyPath, value_parser = parse_node, required = true)]
    pub nodes: Vec<Node>,
    /// Start a mirror also without copies that may hold newer data: what only they hold is given up
    #[arg(long)]
    pub degraded: bool,
    /// Give up what was written on that node alone, apart from the others; can be given several times
    #[arg(long, value_name = "NODE", value_hint = ValueHint::AnyPath, value_parser = parse_node)]
    pub discard: Vec<Node>,
    /// Settings of the nodes.
    #[command(flatten)]
    pub options: OptionArgs,
    /// What it does in any case
    #[arg(long, hide = true)]
    pub start_array: bool,
}

/// Arguments of `dst add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Name of the storage
    #[arg(value_parser = name)]
    pub name: String,
    /// Nodes, in order
    #[arg(value_name = "NODE", value_hint = ValueHint::AnyPath, value_parser = parse_node, required = true)]
    pub nodes: Vec<Node>,
    /// Where the node begins in the storage [default: behind the node added last]
    #[arg(long, value_name = "POSITION", value_parser = size::parse_start)]
    pub start: Option<u64>,
    /// How much of the node is used [default: all]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size)]
    pub size: Option<u64>,
    /// Algorithm that the storage must have, or gets if it is made by this [default then: alg_linear]
    #[arg(long, value_name = "NAME", value_parser = alg)]
    pub alg: Option<String>,
    /// If the storage is made by this: don't write on its nodes what they belong to, as with 'dst create'
    #[arg(long)]
    pub no_metadata: bool,
    /// Settings of the nodes.
    #[command(flatten)]
    pub options: OptionArgs,
    /// Take nodes that belong to a storage already; that storage loses them
    #[arg(long)]
    pub force: bool,
    /// Take back copies of a mirror that were written to apart from it: what was written on them alone is given up
    #[arg(long, conflicts_with_all = ["force", "start", "size"])]
    pub discard: bool,
    /// Start the storage afterwards
    #[arg(long)]
    pub start_array: bool,
}

/// Settings of remote nodes.
#[derive(Debug, Args)]
pub struct OptionArgs {
    /// How long requests wait for a remote node before they fail: 30s, 5m, or 'wait' for ever
    #[arg(long, value_name = "TIME", default_value = "wait", value_parser = size::parse_timeout)]
    pub timeout: u32,
    /// How long to wait for the first connection to a remote node, up to 10m [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = size::parse_connect)]
    pub connect_timeout: Option<u32>,
    /// Silence after which a connection is given up, 1s to 1h [default: 15s]
    #[arg(long, value_name = "TIME", value_parser = size::parse_keepalive)]
    pub keepalive: Option<u32>,
    /// Requests that can be in flight to a node, 1 to 1024 [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub depth: Option<u32>,
}

impl OptionArgs {
    /// The settings as the module reads them.
    pub(super) fn options(&self) -> NodeOptions {
        NodeOptions {
            timeout_ms: self.timeout,
            connect_ms: self.connect_timeout.unwrap_or(0),
            keepalive_s: self.keepalive.unwrap_or(0),
            depth: self.depth.unwrap_or(0),
        }
    }
}

/// Names of storages.
#[derive(Debug, Args)]
pub struct Names {
    /// Names of the storages
    #[arg(value_name = "NAME", value_parser = name, required = true)]
    pub names: Vec<String>,
}

/// Arguments of `dst start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Names of the storages
    #[arg(value_name = "NAME", value_parser = name, required = true)]
    pub names: Vec<String>,
    /// Start a mirror also without copies that may hold newer data: what only they hold is given up
    #[arg(long)]
    pub degraded: bool,
}

/// Names of storages or of exports, or all of them.
#[derive(Debug, Args)]
pub struct NamesOrAll {
    /// Names, as 'dst list' shows them
    #[arg(value_name = "NAME", value_parser = name, required_unless_present = "all")]
    pub names: Vec<String>,
    /// All that there are
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
}

impl NamesOrAll {
    /// The same as an operation has it.
    pub(super) fn targets(self) -> Targets {
        match self.all {
            true => Targets::All,
            false => Targets::Names(self.names),
        }
    }
}

/// Arguments of `dst remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Name of the storage
    #[arg(value_parser = name)]
    pub name: String,
    /// The node: as when it was added, or its id, or n-START
    #[arg(value_parser = which, required_unless_present_any = ["all", "start"])]
    pub node: Option<Which>,
    /// The node that begins at this position of the storage
    #[arg(long, value_name = "POSITION", value_parser = size::parse_start)]
    pub start: Option<u64>,
    /// Every node of a storage that is stopped
    #[arg(long, conflicts_with_all = ["node", "start"])]
    pub all: bool,
}

/// Arguments of `dst replace`.
#[derive(Debug, Args)]
pub struct ReplaceArgs {
    /// Name of the storage
    #[arg(value_parser = name)]
    pub name: String,
    /// The node that goes: as when it was added, or its id, or n-START
    #[arg(value_parser = which)]
    pub node: Which,
    /// The node that takes its place
    #[arg(value_name = "NEW", value_hint = ValueHint::AnyPath, value_parser = parse_node, required_unless_present = "cancel")]
    pub new: Option<Node>,
    /// End a replacement that is under way: the old node stays, and the new one is dropped
    #[arg(long, conflicts_with_all = ["new", "force"])]
    pub cancel: bool,
    /// Settings of the new node.
    #[command(flatten)]
    pub options: OptionArgs,
    /// Take a node that belongs to a storage already; that storage loses it
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `dst export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Name of the export; clients may also ask for the empty name
    #[arg(value_parser = name)]
    pub name: String,
    /// Path of the block device, which can be that of a storage
    #[arg(value_parser = parse_disk, value_hint = ValueHint::AnyPath)]
    pub disk: String,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR[:PORT]", default_value = "0.0.0.0:10809", value_parser = parse_listen)]
    pub listen: Remote,
    /// Clients can't write
    #[arg(long)]
    pub read_only: bool,
    /// Network or address that may connect; can be given 16 times [default: every network]
    #[arg(long, value_name = "NET[/PREFIX]", value_parser = parse_network)]
    pub allow: Vec<Network>,
    /// Connections at once, 1 to 64 [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_connections: Option<u32>,
    /// Connections that may wait to be accepted, 1 to 4096 [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub backlog: Option<u32>,
}

/// Arguments of `dst status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Storage or export [default: all]
    #[arg(value_parser = name)]
    pub name: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `dst list`.
#[derive(Debug, Args)]
pub struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `dst stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Storage or export [default: all]
    pub name: Option<String>,
    /// Show rates, again and again, at this interval [default: 1s]
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1")]
    pub watch: Option<String>,
    /// End after so many looks [default: goes on until it is interrupted]
    #[arg(long, value_name = "N", requires = "watch", value_parser = size::parse_count)]
    pub count: Option<u64>,
    /// Print JSON; with --watch one object in each line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `dst fail-now`.
#[derive(Debug, Args)]
pub struct FailNowArgs {
    /// Name of the storage
    #[arg(value_parser = name)]
    pub name: String,
    /// The node: as when it was added, or its id, or n-START [default: every node that is lost or suspended]
    #[arg(value_parser = which)]
    pub node: Option<Which>,
}

/// Arguments of `dst suspend` and `dst resume`.
#[derive(Debug, Args)]
pub struct OneNode {
    /// Name of the storage
    #[arg(value_parser = name)]
    pub name: String,
    /// The node: as when it was added, or its id, or n-START
    #[arg(value_parser = which)]
    pub node: Which,
}

/// Arguments of `dst monitor`.
#[derive(Debug, Args)]
pub struct MonitorArgs {
    /// Storage, which need not exist yet [default: all]
    #[arg(value_parser = name)]
    pub name: Option<String>,
    /// Print JSON, one object in each line
    #[arg(long)]
    pub json: bool,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = size::parse_count)]
    pub count: Option<u64>,
    /// End after that time; with --count: fail if there were fewer events by then
    #[arg(long, value_name = "TIME", value_parser = size::parse_ms)]
    pub timeout: Option<u32>,
}

/// Arguments of `dst set`.
#[derive(Debug, Args)]
#[command(after_help = SETTINGS_HELP)]
pub struct SetArgs {
    /// Name of the storage
    #[arg(value_parser = name)]
    pub name: String,
    /// A node [default: every remote node] and settings of nodes; or settings of a mirror
    #[arg(value_name = "[NODE] KEY=VALUE", required = true)]
    pub what: Vec<String>,
}

/// Arguments of `dst discover`.
#[derive(Debug, Args)]
pub struct DiscoverArgs {
    /// The server: HOST, HOST:PORT or an NBD URI; with the name of an export only that one is asked for
    #[arg(value_parser = parse_remote)]
    pub host: Remote,
    /// How long to wait for the server
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = size::parse_ms)]
    pub timeout: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `dst apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The file; '-': the standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Check the file and do nothing
    #[arg(long, conflicts_with = "undo")]
    pub check: bool,
    /// Delete the storages and end the exports that the file sets up, last one first
    #[arg(long)]
    pub undo: bool,
}
