// SPDX-License-Identifier: GPL-2.0

//! What both forms of the command line come down to: a list of operations.

use crate::address::Network;
use crate::uri::{
    Node,
    Remote, //
};

/// The algorithm when none is named.
pub const DEFAULT_ALG: &str = "alg_linear";
/// The algorithm that writes each sector to every node, and always has metadata.
pub const MIRROR_ALG: &str = "alg_mirror";

/// One thing for the module to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make a new storage, with nodes; all or nothing.
    Create(Create),
    /// Add nodes to a storage, which is made if it does not exist.
    Add(Add),
    /// Put a storage together again, by what its nodes tell of it; all or nothing.
    Assemble(Assemble),
    /// Start a storage.
    Start(Start),
    /// Stop a storage.
    Stop(String),
    /// Delete storages.
    Delete(Targets),
    /// End exports.
    Unexport(Targets),
    /// Delete the storage of that name, or else end the export of that name.
    DeleteEither(String),
    /// Remove nodes from a storage.
    Remove {
        /// The storage.
        name: String,
        /// Which nodes.
        which: Which,
    },
    /// Let a node take the place of another one while the storage is used.
    Replace(Replace),
    /// End what [`Operation::Replace`] began.
    CancelReplace {
        /// The storage.
        name: String,
        /// Which node stays, or which one does not come.
        which: Which,
    },
    /// Export a disk.
    Export(Export),
    /// Change settings of nodes.
    Set {
        /// The storage.
        name: String,
        /// Which nodes.
        which: Which,
        /// The settings.
        settings: Vec<Setting>,
    },
    /// Change settings of a storage.
    SetStorage {
        /// The storage.
        name: String,
        /// The settings.
        settings: Vec<StorageSetting>,
    },
    /// Let requests wait that must go to a node.
    Suspend {
        /// The storage.
        name: String,
        /// Which node.
        which: Which,
    },
    /// End what [`Operation::Suspend`] began.
    Resume {
        /// The storage.
        name: String,
        /// Which node.
        which: Which,
    },
    /// End the waiting on nodes that are lost or suspended.
    FailNow {
        /// The storage.
        name: String,
        /// Which nodes.
        which: Which,
    },
}

/// Several storages, or several exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Those of these names.
    Names(Vec<String>),
    /// All that there are.
    All,
}

/// See [`Operation::Create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Name of the storage.
    pub name: String,
    /// Its algorithm.
    pub alg: String,
    /// Whether what belongs to the storage is written on its nodes.
    pub metadata: bool,
    /// Its logical block size; 0: the largest of the nodes.
    pub block_size: u32,
    /// Its nodes, in order.
    pub nodes: Vec<Node>,
    /// Settings of the nodes.
    pub options: NodeOptions,
    /// Whether to write over what nodes tell of storages that they belong to.
    pub force: bool,
    /// Whether to start it.
    pub start: bool,
}

/// See [`Operation::Assemble`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assemble {
    /// Name that the storage is to have.
    pub name: String,
    /// Its nodes, in any order.
    pub nodes: Vec<Node>,
    /// Those of them whose own writes are given up.
    pub discard: Vec<Node>,
    /// Settings of the nodes.
    pub options: NodeOptions,
    /// Whether to start it without copies that may hold newer data.
    pub degraded: bool,
}

/// See [`Operation::Start`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Name of the storage.
    pub name: String,
    /// Whether to start it without copies that may hold newer data.
    pub degraded: bool,
}

/// See [`Operation::Add`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// Name of the storage.
    pub name: String,
    /// The algorithm that it must have, if the user named one.
    pub alg: Option<String>,
    /// If it is made: whether what belongs to it is written on its nodes; a mirror always does that.
    pub metadata: bool,
    /// The nodes, in order.
    pub nodes: Vec<Node>,
    /// Where the node begins, in sectors; behind the last one if not said. For one node only.
    pub start: Option<u64>,
    /// How many sectors of the node are used; all if not said. For one node only.
    pub size: Option<u64>,
    /// Settings of the nodes.
    pub options: NodeOptions,
    /// Whether to write over what nodes tell of storages that they belong to.
    pub force: bool,
    /// Whether to give up what was written on them alone.
    pub discard: bool,
}

/// See [`Operation::Replace`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replace {
    /// Name of the storage.
    pub name: String,
    /// The node that goes.
    pub which: Which,
    /// The node that comes.
    pub new: Node,
    /// Settings of the node that comes.
    pub options: NodeOptions,
    /// Whether to write over what the node tells of a storage that it belongs to.
    pub force: bool,
}

/// Settings of a node; 0: the module's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeOptions {
    /// Milliseconds that requests wait for the node when it is lost; 0: for ever.
    pub timeout_ms: u32,
    /// Milliseconds to wait for the first connection.
    pub connect_ms: u32,
    /// Seconds of silence after which the connection is given up.
    pub keepalive_s: u32,
    /// Requests in flight.
    pub depth: u32,
}

/// See [`Operation::Export`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Name of the export.
    pub name: String,
    /// Path of the disk.
    pub disk: String,
    /// Where to listen.
    pub listen: Remote,
    /// Whether clients can't write.
    pub read_only: bool,
    /// Who may connect; empty: everybody.
    pub allow: Vec<Network>,
    /// Connections at once; 0: the module's default.
    pub max_connections: u32,
    /// Connections that may wait to be accepted; 0: the module's default.
    pub backlog: u32,
}

/// Which nodes of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Every one.
    All,
    /// The one that matches all that is said.
    One {
        /// Its name, as when it was added, or its id, or `n-START`.
        node: Option<NodeName>,
        /// Where it begins, in sectors.
        start: Option<u64>,
    },
}

/// The name of a node that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeName {
    /// The number that `dst status` shows.
    Id(u32),
    /// A disk or an export.
    Node(Node),
}

/// A setting of a node that can be changed while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// See [`NodeOptions::timeout_ms`].
    TimeoutMs(u32),
    /// See [`NodeOptions::keepalive_s`].
    KeepaliveS(u32),
}

/// A setting of a storage that can be changed while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageSetting {
    /// Which copy serves a read: one of `READ_*`.
    ReadPolicy(u32),
    /// Healing is not slowed below so many sectors a second.
    HealMin(u64),
    /// Healing is not faster than so many sectors a second; 0: no limit.
    HealMax(u64),
}
