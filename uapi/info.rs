// SPDX-License-Identifier: GPL-2.0

//! What there is to know: the answers about storages, nodes and exports.

use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

use super::{
    Address,
    Header,
    Request,
    Rule,
    ALG_LEN,
    MAX_RULES,
    NAME_LEN,
    PATH_LEN, //
};

/// [`StorageInfo::state`]: being put together; no disk.
pub const STORAGE_STOPPED: u32 = 0;
/// [`StorageInfo::state`]: its disk is there.
pub const STORAGE_RUNNING: u32 = 1;

abi! {
    /// What there is to know about a storage.
    pub struct StorageInfo {
        /// Header.
        pub header: Header,
        /// In: position in the list, from 0. `ENOENT` behind the last one.
        pub index: u32,
        /// `STORAGE_*`.
        pub state: u32,
        /// The storage's name.
        pub name: [u8; NAME_LEN],
        /// Number of nodes.
        pub nodes: u32,
        /// The algorithm.
        pub alg: [u8; ALG_LEN],
        /// Size.
        pub sectors: u64,
        /// Logical block size in bytes (0 while stopped).
        pub block_size: u32,
        /// How often the disk is open (0 while stopped).
        pub openers: u32,
        /// Device number of the disk (0 while stopped).
        pub major: u32,
        /// Device number of the disk.
        pub minor: u32,
        /// `CREATE_*`.
        pub flags: u32,
        /// `HEALTH_*`.
        pub health: u32,
        /// `READ_*`: which copy serves a read.
        pub read_policy: u32,
        /// Must be zero.
        pub reserved: u32,
        /// The storage's UUID; zeroes: it has none (yet).
        pub uuid: [u8; 16],
        /// Sectors that copies lack, all together, at most.
        pub stale: u64,
        /// Sectors that were copied to copies that lacked them.
        pub healed: u64,
        /// What [`StorageInfo::healed`] was when the present healing, or the last one, began.
        pub healed_before: u64,
        /// Sectors a second that were copied of late.
        pub heal_rate: u64,
        /// Healing is not slowed below this, in sectors a second.
        pub heal_min: u64,
        /// Healing is not faster than this, in sectors a second; 0: no limit.
        pub heal_max: u64,
        /// Writes that waited for an overlapping one.
        pub overlaps: u64,
        /// Writes that waited for the log.
        pub log_waits: u64,
        /// Blocks of the log that were written.
        pub log_writes: u64,
        /// Reads that another copy served after an error.
        pub rescued: u64,
        /// Extents that were written again on a copy that could not read them.
        pub rewritten: u64,
        /// Times that a copy left.
        pub left: u64,
        /// Reads that overlapped a write under way.
        pub read_overlaps: u64,
        /// Reads that were served from a write that waited for copies that are suspended or away.
        pub read_held: u64,
        /// Sectors that are still to be copied to copies that are healing, at most.
        pub heal_left: u64,
        /// Seconds until these are in sync, if copying goes on as it did of late; [`super::UNKNOWN`]: nothing was copied of
        /// late, or there is no such copy.
        pub heal_seconds_left: u64,
    }
}
request!(StorageInfo, 11);

/// [`StorageInfo::health`]: it is no mirror, or not running, and nobody has taken it over.
pub const HEALTH_NONE: u32 = 0;
/// [`StorageInfo::health`]: all copies are in sync.
pub const HEALTH_GOOD: u32 = 1;
/// [`StorageInfo::health`]: a copy is missing.
pub const HEALTH_DEGRADED: u32 = 2;
/// [`StorageInfo::health`]: no copy is missing, but one is brought up to date.
pub const HEALTH_HEALING: u32 = 3;
/// [`StorageInfo::health`]: another head has taken the storage over; all requests fail.
pub const HEALTH_TAKEN_OVER: u32 = 4;

/// [`StorageInfo::read_policy`]: the copy with the fewest requests in flight.
pub const READ_LEAST_PENDING: u32 = 0;
/// [`StorageInfo::read_policy`]: local copies, of these the one with the fewest requests.
pub const READ_LOCAL_FIRST: u32 = 1;
/// [`StorageInfo::read_policy`]: the copy whose last request ended nearest, for disks with heads.
pub const READ_NEAREST: u32 = 2;
/// [`StorageInfo::read_policy`]: each copy in turn.
pub const READ_ROUND_ROBIN: u32 = 3;

/// [`NodeInfo::state`]: usable.
pub const NODE_UP: u32 = 0;
/// [`NodeInfo::state`]: being connected to.
pub const NODE_CONNECTING: u32 = 1;
/// [`NodeInfo::state`]: lost; requests wait until it is back.
pub const NODE_LOST: u32 = 2;
/// [`NodeInfo::state`]: lost, and the waiting was ended; requests fail until it is back.
pub const NODE_FAILED: u32 = 3;

/// Index of reads in [`NodeInfo::requests`] and [`NodeInfo::bytes`].
pub const STAT_READ: usize = 0;
/// Index of writes.
pub const STAT_WRITE: usize = 1;
/// Index of flushes (their bytes stay 0).
pub const STAT_FLUSH: usize = 2;
/// Index of discards and write-zeroes.
pub const STAT_DISCARD: usize = 3;
/// Kinds of counters.
pub const STATS: usize = 4;

/// [`NodeInfo::role`]: it is no copy of a mirror that runs.
pub const ROLE_NONE: u32 = 0;
/// [`NodeInfo::role`]: it holds all data.
pub const ROLE_IN_SYNC: u32 = 1;
/// [`NodeInfo::role`]: it is brought up to date.
pub const ROLE_HEALING: u32 = 2;
/// [`NodeInfo::role`]: it gets no writes, and lacks data.
pub const ROLE_MISSING: u32 = 3;

/// [`NodeInfo::suspended`]: requests wait.
pub const SUSPENDED: u32 = 1;
/// [`NodeInfo::suspended`]: the waiting was ended, so requests fail.
pub const SUSPENDED_FAILING: u32 = 2;

abi! {
    /// What there is to know about a node.
    pub struct NodeInfo {
        /// Header.
        pub header: Header,
        /// In: the storage's name.
        pub name: [u8; NAME_LEN],
        /// In: position in the list, from 0. `ENOENT` behind the last one.
        pub index: u32,
        /// The node's id.
        pub node: u32,
        /// `KIND_*`.
        pub kind: u32,
        /// `NODE_*`.
        pub state: u32,
        /// Requests that can be in flight.
        pub depth: u32,
        /// Where the node's data begin in the storage.
        pub start: u64,
        /// Sectors that are used.
        pub size: u64,
        /// Sectors that the node has.
        pub device_size: u64,
        /// Path of the device, or name of the NBD export.
        pub path: [u8; PATH_LEN],
        /// The server.
        pub address: Address,
        /// See [`super::AddNode::timeout_ms`].
        pub timeout_ms: u32,
        /// See [`super::AddNode::keepalive_s`].
        pub keepalive_s: u32,
        /// Logical block size in bytes.
        pub block_size: u32,
        /// Requests in flight or waiting.
        pub in_flight: u32,
        /// Requests that failed.
        pub errors: u64,
        /// Connections that were lost and made again.
        pub reconnects: u64,
        /// Requests that were sent again on a new connection.
        pub resent: u64,
        /// Milliseconds that the node has been in its state.
        pub since_ms: u64,
        /// Finished requests, by `STAT_*`.
        pub requests: [u64; STATS],
        /// Finished bytes, by `STAT_*`.
        pub bytes: [u64; STATS],
        /// Why the node is not up, or was lost last.
        pub reason: [u8; 96],
        /// `ROLE_*`.
        pub role: u32,
        /// Whether requests for it wait ([`super::SuspendNode`]): 0, [`SUSPENDED`], [`SUSPENDED_FAILING`].
        pub suspended: u32,
        /// The node's UUID; zeroes: it has none (yet).
        pub uuid: [u8; 16],
        /// Sectors that it lacks, at most.
        pub stale: u64,
        /// Why it is no copy in sync, if something must be done about that.
        pub trouble: [u8; 96],
        /// The id of the node whose place it takes, and 1; 0: none.
        pub replaces: u32,
        /// Whether [`NodeInfo::trouble`] is that it was written to apart from the others: 0 or 1. [`super::DiscardNode`]
        /// ends that.
        pub conflict: u32,
        /// The generation of its superblock that was given up with what was written on it alone, since the storage was
        /// started; 0: nothing was.
        pub given_up_generation: u64,
        /// Sectors, at most, that were written on it alone, and given up; [`super::UNKNOWN`]: its log does not tell.
        pub given_up: u64,
    }
}
request!(NodeInfo, 12);

abi! {
    /// What there is to know about an export.
    pub struct ExportInfo {
        /// Header.
        pub header: Header,
        /// In: position in the list, from 0. `ENOENT` behind the last one.
        pub index: u32,
        /// `EXPORT_*`.
        pub flags: u32,
        /// The export's name.
        pub name: [u8; NAME_LEN],
        /// Clients connected.
        pub connections: u32,
        /// Path of the device.
        pub path: [u8; PATH_LEN],
        /// Address it listens on.
        pub address: Address,
        /// Size in sectors.
        pub sectors: u64,
        /// Logical block size in bytes.
        pub block_size: u32,
        /// Connections at once.
        pub max_connections: u32,
        /// Connections accepted so far.
        pub accepted: u64,
        /// Connections refused, by the access list or the limit, or ended for breaking the protocol.
        pub refused: u64,
        /// Finished requests, by `STAT_*`.
        pub requests: [u64; STATS],
        /// Finished bytes, by `STAT_*`.
        pub bytes: [u64; STATS],
        /// Requests that failed.
        pub errors: u64,
        /// Requests being worked on.
        pub in_flight: u32,
        /// Number of valid entries in [`ExportInfo::rules`].
        pub nr_rules: u32,
        /// The networks that may connect.
        pub rules: [Rule; MAX_RULES],
    }
}
request!(ExportInfo, 13);
