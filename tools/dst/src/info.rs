// SPDX-License-Identifier: GPL-2.0

//! What the module says about storages, nodes and exports, in the form that is shown and put into JSON.

use dst_core::meta::Uuid;
use dst_core::uapi::{
    self,
    ExportInfo,
    NodeInfo,
    Request,
    StorageInfo, //
};
use serde::Serialize;

use crate::address::{
    from_module,
    Network, //
};
use crate::control::{
    call,
    put,
    Control, //
};
use crate::error::{
    Error,
    Result, //
};
use crate::operation::MIRROR_ALG;
use crate::size::SECTOR;

/// More than any machine has: an end for a list that a confused module never ends.
const MAX_LIST: u32 = 1 << 20;

/// The policies of reads, as they are written.
const POLICIES: [(u32, &str); 4] = [
    (uapi::READ_LEAST_PENDING, "least-pending"),
    (uapi::READ_LOCAL_FIRST, "local-first"),
    (uapi::READ_NEAREST, "nearest"),
    (uapi::READ_ROUND_ROBIN, "round-robin"),
];

/// Writes a policy of reads.
pub fn policy_text(policy: u32) -> &'static str {
    let known = POLICIES.iter().find(|(number, _)| *number == policy);
    known.map_or("unknown", |(_, text)| text)
}

/// Reads a policy of reads.
pub fn parse_policy(text: &str) -> std::result::Result<u32, String> {
    let known = POLICIES.iter().find(|(_, own)| *own == text);
    known.map(|(number, _)| *number).ok_or_else(|| {
        let texts: Vec<&str> = POLICIES.iter().map(|(_, text)| *text).collect();
        format!("there are {}", texts.join(", "))
    })
}

/// A storage.
#[derive(Clone, Debug, Serialize)]
pub struct Storage {
    /// Its name.
    pub name: String,
    /// Its algorithm.
    pub alg: String,
    /// `stopped` or `running`.
    pub state: &'static str,
    /// Path of its disk while it runs.
    pub device: Option<String>,
    /// Device number of its disk while it runs.
    pub device_number: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Logical block size in bytes while it runs.
    pub block_size: Option<u32>,
    /// How often the disk is open.
    pub openers: u32,
    /// Whether what belongs to it is written on its nodes.
    pub metadata: bool,
    /// Its UUID, if it has one.
    pub uuid: Option<String>,
    /// `healthy`, `degraded`, `healing` if it is a mirror that runs; `taken-over` if another head has it.
    pub health: Option<&'static str>,
    /// What only a mirror that runs has.
    pub mirror: Option<Mirror>,
    /// Its nodes.
    pub nodes: Vec<Node>,
}

/// What there is to know about a mirror that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// Which copy serves a read.
    pub read_policy: &'static str,
    /// Bytes that copies lack, all together, at most.
    pub stale: u64,
    /// Bytes that were copied to copies that lacked them.
    pub healed: u64,
    /// Bytes of the present healing, or of the last one, that are copied.
    pub healing_done: u64,
    /// Bytes that are still to be copied to copies that are healing, at most; what missing ones lack is not among them.
    pub healing_left: u64,
    /// Bytes a second that were copied of late.
    pub heal_rate: u64,
    /// Seconds until copies that are healing are in sync, if that goes on so; unknown while nothing is copied.
    pub seconds_left: Option<u64>,
    /// Copying is not slowed below this, in bytes a second.
    pub heal_min: u64,
    /// Copying is not faster than this, in bytes a second; 0: no limit.
    pub heal_max: u64,
    /// Writes that waited for an overlapping one.
    pub overlaps: u64,
    /// Writes that waited for the log.
    pub log_waits: u64,
    /// Blocks of the log that were written.
    pub log_writes: u64,
    /// Reads that overlapped a write under way.
    pub read_overlaps: u64,
    /// Reads that were served from a write that waited for copies that are suspended or away.
    pub read_held: u64,
    /// Reads that another copy served after an error.
    pub rescued: u64,
    /// Extents that were written again on a copy that could not read them.
    pub rewritten: u64,
    /// Times that a copy left.
    pub left: u64,
}

/// A number that the module may not know.
fn known(number: u64) -> Option<u64> {
    (number != uapi::UNKNOWN).then_some(number)
}

impl Mirror {
    /// Takes the module's answer apart.
    fn new(info: &StorageInfo) -> Self {
        let bytes = |sectors: u64| sectors.saturating_mul(SECTOR);
        Self {
            read_policy: policy_text(info.read_policy),
            stale: bytes(info.stale),
            healed: bytes(info.healed),
            healing_done: bytes(info.healed.saturating_sub(info.healed_before)),
            heal_rate: bytes(info.heal_rate),
            healing_left: bytes(info.heal_left),
            seconds_left: known(info.heal_seconds_left),
            heal_min: bytes(info.heal_min),
            heal_max: bytes(info.heal_max),
            overlaps: info.overlaps,
            log_waits: info.log_waits,
            log_writes: info.log_writes,
            read_overlaps: info.read_overlaps,
            read_held: info.read_held,
            rescued: info.rescued,
            rewritten: info.rewritten,
            left: info.left,
        }
    }
}

/// A node of a storage.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Its number within the storage.
    pub id: u32,
    /// `local` or `remote`.
    pub kind: &'static str,
    /// As sysfs has it: `L: /dev/sdb`, `R: 192.168.4.80:1025`.
    #[serde(rename = "type")]
    pub type_text: String,
    /// Local: path of the device.
    pub path: Option<String>,
    /// Remote: address and port.
    pub address: Option<String>,
    /// Remote: name of the NBD export.
    pub export: Option<String>,
    /// `up`, `connecting`, `lost`, `failed`.
    pub state: &'static str,
    /// Milliseconds in that state.
    pub since_ms: u64,
    /// Why it is not up, or was lost last.
    pub reason: String,
    /// `in-sync`, `healing`, `missing` if it is a copy of a mirror that runs.
    pub role: Option<&'static str>,
    /// Id of the node whose place it takes, if it does.
    pub replaces: Option<u32>,
    /// Whether requests for it wait until it is resumed.
    pub suspended: bool,
    /// Whether they fail meanwhile, as the waiting was ended.
    pub suspended_failing: bool,
    /// Its UUID, if it has one.
    pub uuid: Option<String>,
    /// Bytes that it lacks, at most.
    pub stale: u64,
    /// Why it is no copy in sync, if something must be done about that.
    pub trouble: Option<String>,
    /// Whether that is because it was written to apart from the others: `dst add --discard` gives that up.
    pub conflict: bool,
    /// What was given up with it since the storage was started.
    pub given_up: Option<GivenUp>,
    /// Where it begins in the storage, in sectors.
    pub start: u64,
    /// Used size in bytes.
    pub size: u64,
    /// Used size in sectors.
    pub sectors: u64,
    /// Size of the node in sectors, used or not.
    pub device_sectors: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Milliseconds that requests wait for it when it is lost; 0: for ever.
    pub timeout_ms: u32,
    /// Seconds of silence after which the connection is given up.
    pub keepalive_s: u32,
    /// Requests that can be in flight.
    pub depth: u32,
    /// Requests in flight or waiting.
    pub in_flight: u32,
    /// Requests that failed.
    pub errors: u64,
    /// Connections that were lost and made again.
    pub reconnects: u64,
    /// Requests that were sent again.
    pub resent: u64,
    /// Finished requests and bytes.
    pub finished: Counters,
}

/// What was written on a copy alone, and was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GivenUp {
    /// The generation of its superblock.
    pub generation: u64,
    /// Bytes, at most; `None`: its log does not tell.
    pub bytes: Option<u64>,
}

/// An export.
#[derive(Clone, Debug, Serialize)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// Path of the disk.
    pub path: String,
    /// Address and port that it listens on.
    pub address: String,
    /// Size in bytes.
    pub size: u64,
    /// Size in sectors.
    pub sectors: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Whether clients can't write.
    pub read_only: bool,
    /// Clients connected.
    pub clients: u32,
    /// Clients that can be connected at once.
    pub max_clients: u32,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections refused or ended for breaking the protocol.
    pub refused: u64,
    /// Networks that may connect; empty: every one.
    pub allow: Vec<String>,
    /// Requests being worked on.
    pub in_flight: u32,
    /// Requests that failed.
    pub errors: u64,
    /// Finished requests and bytes.
    pub finished: Counters,
}

/// Counters of finished requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards and write-zeroes.
    pub discards: u64,
    /// Bytes discarded or zeroed.
    pub discarded_bytes: u64,
}

impl Counters {
    /// Takes the module's arrays apart.
    fn new(requests: &[u64; uapi::STATS], bytes: &[u64; uapi::STATS]) -> Self {
        Self {
            reads: requests[uapi::STAT_READ],
            read_bytes: bytes[uapi::STAT_READ],
            writes: requests[uapi::STAT_WRITE],
            written_bytes: bytes[uapi::STAT_WRITE],
            flushes: requests[uapi::STAT_FLUSH],
            discards: requests[uapi::STAT_DISCARD],
            discarded_bytes: bytes[uapi::STAT_DISCARD],
        }
    }
}

/// Gives the text of a field; what is not text is shown as a question mark.
fn text(field: &[u8]) -> String {
    uapi::text(field).unwrap_or("?").to_string()
}

/// Gives the text of a UUID, if it is one.
fn uuid(bytes: [u8; 16]) -> Option<String> {
    (bytes != [0; 16]).then(|| Uuid(bytes).to_string())
}

/// Reads a list, entry by entry, until the module says that there is no more.
fn list<T: Request>(control: &dyn Control, what: &str, entry: impl Fn(u32) -> T) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for index in 0..MAX_LIST {
        let mut request = entry(index);
        match call(control, &mut request) {
            Ok(()) => all.push(request),
            Err(refusal) if refusal.errno == libc::ENOENT => break,
            Err(refusal) => {
                let why = refusal.explain(|_| None);
                return Err(Error::Failed(format!(
                    "can't read the list of {what}: {why}"
                )));
            }
        }
    }
    Ok(all)
}

/// Gives all storages without their nodes.
pub fn storages(control: &dyn Control) -> Result<Vec<Storage>> {
    let list = list(control, "storages", |index| StorageInfo {
        index,
        ..StorageInfo::default()
    })?;
    let mut storages: Vec<Storage> = list.iter().map(Storage::new).collect();
    // The list may have changed while it was read.
    storages.sort_by(|a, b| a.name.cmp(&b.name));
    storages.dedup_by(|a, b| a.name == b.name);
    Ok(storages)
}

/// Gives one storage without its nodes.
pub fn storage(control: &dyn Control, name: &str) -> Result<Option<Storage>> {
    Ok(storages(control)?
        .into_iter()
        .find(|storage| storage.name == name))
}

/// Gives the nodes of a storage, in the order of their places.
pub fn nodes(control: &dyn Control, name: &str) -> Result<Vec<Node>> {
    let mut request = NodeInfo::default();
    put(&mut request.name, name)?;
    let list = list(control, "nodes", move |index| {
        let mut entry = request;
        entry.index = index;
        entry
    })?;
    let mut nodes: Vec<Node> = list.iter().map(Node::new).collect();
    nodes.sort_by_key(|node| (node.start, node.id));
    nodes.dedup_by_key(|node| node.id);
    Ok(nodes)
}

/// Gives all exports.
pub fn exports(control: &dyn Control) -> Result<Vec<Export>> {
    let list = list(control, "exports", |index| ExportInfo {
        index,
        ..ExportInfo::default()
    })?;
    let mut exports: Vec<Export> = list.iter().map(Export::new).collect();
    exports.sort_by(|a, b| a.name.cmp(&b.name));
    exports.dedup_by(|a, b| a.name == b.name);
    Ok(exports)
}

impl Storage {
    /// Takes the module's answer apart.
    fn new(info: &StorageInfo) -> Self {
        let name = text(&info.name);
        let running = info.state == uapi::STORAGE_RUNNING;
        Self {
            alg: text(&info.alg),
            state: match info.state {
                uapi::STORAGE_STOPPED => "stopped",
                uapi::STORAGE_RUNNING => "running",
                _ => "unknown",
            },
            device: running.then(|| format!("/dev/dst-{name}")),
            device_number: running.then(|| format!("{}:{}", info.major, info.minor)),
            size: info.sectors.saturating_mul(SECTOR),
            sectors: info.sectors,
            block_size: running.then_some(info.block_size),
            openers: info.openers,
            metadata: info.flags & uapi::CREATE_METADATA != 0,
            uuid: uuid(info.uuid),
            health: match info.health {
                uapi::HEALTH_NONE => None,
                uapi::HEALTH_GOOD => Some("healthy"),
                uapi::HEALTH_DEGRADED => Some("degraded"),
                uapi::HEALTH_HEALING => Some("healing"),
                uapi::HEALTH_TAKEN_OVER => Some("taken-over"),
                _ => Some("unknown"),
            },
            mirror: (running
                && match info.health {
                    uapi::HEALTH_NONE => false,
                    // Of another storage: a node is being replaced.
                    uapi::HEALTH_HEALING => true,
                    _ => text(&info.alg) == MIRROR_ALG,
                })
            .then(|| Mirror::new(info)),
            nodes: Vec::new(),
            name,
        }
    }
}

impl Node {
    /// How it is named on a command line.
    pub fn spelling(&self) -> &str {
        self.type_text
            .split_once(": ")
            .map_or(self.type_text.as_str(), |(_, name)| name)
    }

    /// Takes the module's answer apart.
    fn new(info: &NodeInfo) -> Self {
        let path = text(&info.path);
        let remote = info.kind == uapi::KIND_REMOTE;
        let address = from_module(&info.address)
            .filter(|_| remote)
            .map(|address| address.to_string());
        let absent = info.kind == uapi::KIND_ABSENT;
        let type_text = match (&address, path.as_str()) {
            _ if absent => format!("not here: {path}"),
            (Some(address), "") => format!("R: {address}"),
            (Some(address), export) => format!("R: {address}/{export}"),
            (None, path) => format!("L: {path}"),
        };
        Self {
            id: info.node,
            kind: match info.kind {
                uapi::KIND_REMOTE => "remote",
                uapi::KIND_ABSENT => "absent",
                _ => "local",
            },
            type_text,
            path: (!remote && !absent).then(|| path.clone()),
            address,
            export: remote.then_some(path),
            state: match info.state {
                uapi::NODE_UP => "up",
                uapi::NODE_CONNECTING => "connecting",
                uapi::NODE_LOST => "lost",
                uapi::NODE_FAILED => "failed",
                _ => "unknown",
            },
            since_ms: info.since_ms,
            reason: text(&info.reason),
            role: match info.role {
                uapi::ROLE_NONE => None,
                uapi::ROLE_IN_SYNC => Some("in-sync"),
                uapi::ROLE_HEALING => Some("healing"),
                uapi::ROLE_MISSING => Some("missing"),
                _ => Some("unknown"),
            },
            replaces: info.replaces.checked_sub(1),
            suspended: info.suspended != 0,
            suspended_failing: info.suspended == uapi::SUSPENDED_FAILING,
            uuid: uuid(info.uuid),
            stale: info.stale.saturating_mul(SECTOR),
            trouble: Some(text(&info.trouble)).filter(|trouble| !trouble.is_empty()),
            conflict: info.conflict != 0,
            given_up: (info.given_up_generation != 0).then(|| GivenUp {
                generation: info.given_up_generation,
                bytes: known(info.given_up).map(|sectors| sectors.saturating_mul(SECTOR)),
            }),
            start: info.start,
            size: info.size.saturating_mul(SECTOR),
            sectors: info.size,
            device_sectors: info.device_size,
            block_size: info.block_size,
            timeout_ms: info.timeout_ms,
            keepalive_s: info.keepalive_s,
            depth: info.depth,
            in_flight: info.in_flight,
            errors: info.errors,
            reconnects: info.reconnects,
            resent: info.resent,
            finished: Counters::new(&info.requests, &info.bytes),
        }
    }
}

impl Export {
    /// Takes the module's answer apart.
    fn new(info: &ExportInfo) -> Self {
        let rules = info.rules.iter().take(info.nr_rules as usize);
        Self {
            name: text(&info.name),
            path: text(&info.path),
            address: from_module(&info.address).map_or("?".into(), |address| address.to_string()),
            size: info.sectors.saturating_mul(SECTOR),
            sectors: info.sectors,
            block_size: info.block_size,
            read_only: info.flags & uapi::EXPORT_READ_ONLY != 0,
            clients: info.connections,
            max_clients: info.max_connections,
            accepted: info.accepted,
            refused: info.refused,
            allow: rules.filter_map(Network::text_of).collect(),
            in_flight: info.in_flight,
            errors: info.errors,
            finished: Counters::new(&info.requests, &info.bytes),
        }
    }
}
