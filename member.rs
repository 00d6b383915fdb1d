// SPDX-License-Identifier: GPL-2.0

//! A node as part of a storage: its place, its name, what is shown of it.

use kernel::{
    fmt, new_mutex,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        Mutex, //
    },
};

use crate::{
    alg::Segment,
    array::Node,
    failure::{
        fail,
        Done,
        Failure, //
    },
    gate::Gate,
    hold::Hold,
    kern::{
        net::{
            Addr,
            NetNs, //
        },
        time, //
    },
    meta::{
        head::Trouble,
        layout::Layout, //
    },
    mirror::Engine,
    node_local,
    node_remote::{
        self,
        Remote, //
    },
    proto::fence::Fence,
    request::SECTOR_SHIFT,
    superblocks::Candidate,
    uapi,
};

/// The longest time without a sign of life that can be asked for, in seconds: an hour.
pub(crate) const MAX_KEEPALIVE_S: u32 = 3600;

/// The most requests that a node can have in flight: the pool's limit.
const MAX_DEPTH: u32 = 1024;

/// The longest wait for a first connection, in milliseconds.
const MAX_CONNECT_MS: u32 = 600_000;

/// The wait for a first connection unless the user says otherwise, in milliseconds.
const DEFAULT_CONNECT_MS: u32 = 10_000;

/// Where a node shall go; each may be [`uapi::AUTO`].
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// First sector of the storage.
    pub(crate) start: u64,
    /// Sectors.
    pub(crate) size: u64,
}

/// A node that somebody wants to add.
pub(crate) struct Want {
    /// Its place.
    pub(crate) place: Place,
    /// Requests that can be in flight.
    depth: u32,
    /// Path of the device, or name of the NBD export.
    path: CString,
    /// `uapi::NODE_DISCARD`, `uapi::NODE_FORCE`.
    flags: u32,
    /// `None`: a local disk.
    pub(crate) server: Option<Server>,
}

/// How to reach a server.
pub(crate) struct Server {
    /// Its address.
    address: Addr,
    timeout_ms: u32,
    keepalive_s: u32,
    /// How long to wait for the first connection.
    pub(crate) connect_ms: u32,
}

impl Want {
    /// Checks what came from user space.
    pub(crate) fn new(request: &uapi::AddNode) -> Done<Self> {
        let Some(path) = uapi::text(&request.path) else {
            fail!(EINVAL, "the path or export name is not valid text");
        };
        let known = uapi::NODE_DISCARD | uapi::NODE_FORCE | uapi::NODE_REPLACE;
        if request.flags & !known != 0 {
            fail!(EINVAL, "unknown flags {:#x}", request.flags);
        }
        if request.size == 0 {
            fail!(
                EINVAL,
                "a node of 0 sectors is of no use; leave --size (-S) out to take all of it"
            );
        }
        if request.depth > MAX_DEPTH {
            fail!(
                EINVAL,
                "depth {} is not within 1..={MAX_DEPTH}",
                request.depth
            );
        }
        let server = match request.kind {
            uapi::KIND_LOCAL => {
                if path.is_empty() {
                    fail!(EINVAL, "the path of the disk is missing");
                }
                None
            }
            uapi::KIND_REMOTE => Some(Server::new(request)?),
            kind => fail!(EINVAL, "unknown kind of node {kind}"),
        };
        let default_depth = match server {
            Some(_) => node_remote::DEFAULT_DEPTH,
            None => node_local::DEFAULT_DEPTH,
        };
        Ok(Self {
            place: Place {
                start: request.start,
                size: request.size,
            },
            depth: if request.depth == 0 {
                default_depth
            } else {
                request.depth
            },
            path: CString::try_from_fmt(fmt!("{path}"))?,
            flags: request.flags,
            server,
        })
    }

    /// Opens the local disk.
    pub(crate) fn open(&self, id: u32) -> Done<Node> {
        let node = node_local::open(&self.path, self.depth, id).map_err(|error| {
            let path = self.path.to_str().unwrap_or("");
            let why = if error == EBUSY {
                "it is in use (mounted, or part of another device)"
            } else if error == ENOENT || error == ENXIO {
                "there is no such block device"
            } else if error == ENOTBLK {
                "it is no block device; make one of a file with losetup"
            } else if error == EROFS || error == EACCES {
                "it is read-only"
            } else {
                "the kernel refused"
            };
            Failure::new(error, fmt!("{path} can't be opened: {why}"))
        })?;
        Ok(Node::Local(node))
    }

    /// The node, as one that may become a copy.
    pub(crate) fn candidate(&self, node: &Node) -> Result<Candidate> {
        let path = self.path.to_str().unwrap_or("");
        match node {
            Node::Local(_) => candidate(node, fmt!("L: {path}"), self.flags),
            Node::Remote(remote) => {
                let address = remote.ctx().config.address;
                candidate(node, fmt!("R: {address}"), self.flags)
            }
        }
    }

    /// Whether the node is the same as a node of a storage: the same export of the same server.
    pub(crate) fn is_same(&self, node: &Node, member: &Member) -> bool {
        match (node, &member.node) {
            (Node::Remote(own), Node::Remote(other)) => {
                let (own, other) = (&own.ctx().config, &other.ctx().config);
                own.address == other.address && *own.export == *other.export
            }
            // A local disk is opened by one node only.
            _ => false,
        }
    }

    /// How to reach the server.
    pub(crate) fn config(
        &self,
        storage: &str,
        id: u32,
        server: &Server,
        fence: Option<Fence>,
        hold: Option<Arc<Hold>>,
    ) -> Result<node_remote::Config> {
        Ok(node_remote::Config {
            address: server.address,
            id,
            storage: CString::try_from_fmt(fmt!("{storage}"))?,
            export: CString::try_from_fmt(fmt!("{}", self.path.to_str().unwrap_or("")))?,
            ns: NetNs::current(),
            timeout_ms: server.timeout_ms,
            keepalive_s: server.keepalive_s,
            depth: self.depth,
            fence,
            hold,
        })
    }
}

impl Server {
    fn new(request: &uapi::AddNode) -> Done<Self> {
        let keepalive_s = match request.keepalive_s {
            0 => node_remote::DEFAULT_KEEPALIVE_S,
            s if s <= MAX_KEEPALIVE_S => s,
            s => fail!(
                EINVAL,
                "keepalive of {s} s is not within 1..={MAX_KEEPALIVE_S} s"
            ),
        };
        let connect_ms = match request.connect_ms {
            0 => DEFAULT_CONNECT_MS,
            ms => ms.min(MAX_CONNECT_MS),
        };
        Ok(Self {
            address: address(&request.address)?,
            timeout_ms: request.timeout_ms,
            keepalive_s,
            connect_ms,
        })
    }
}

/// Understands an address of the ABI.
pub(crate) fn address(raw: &uapi::Address) -> Done<Addr> {
    if raw.port == 0 {
        fail!(EINVAL, "port 0 is not valid; NBD's is {}", uapi::NBD_PORT);
    }
    match Addr::from_uapi(raw) {
        Some(address) => Ok(address),
        None => fail!(
            EAFNOSUPPORT,
            "address family {} is neither IPv4 nor IPv6",
            raw.family
        ),
    }
}

/// A node of a storage.
#[pin_data]
pub(crate) struct Member {
    /// Unique within the storage.
    pub(crate) id: u32,
    /// First sector of the storage that lies on it.
    pub(crate) start: u64,
    /// Sectors that are used.
    size: Atomic<u64>,
    /// The node.
    pub(crate) node: Node,
    /// Where requests for its place wait while it is suspended, unless it is a copy of a mirror. Two nodes of which one
    /// takes the other one's place have one gate.
    pub(crate) gate: Arc<Gate>,
    /// Path of the device, or name of the NBD export.
    path: CString,
    /// `uapi::NODE_DISCARD`, `uapi::NODE_FORCE`: for the first start.
    flags: Atomic<u32>,
    /// [`uapi::NodeInfo::replaces`].
    replaces: Atomic<u32>,
    /// Whether it is none of the storage's nodes yet: it waits to take the place of the one with the same start.
    waits: Atomic<u32>,
    /// The mirror that runs, and the node's number as a copy of it.
    #[pin]
    copy: Mutex<Option<(Arc<Engine>, u32)>>,
    /// The state of which user space was told last.
    announced: Atomic<u32>,
    /// The role, and the trouble, of which user space was told last.
    announced_role: Atomic<u32>,
}

/// In [`Member::announced_role`]: one more than the [`Trouble`], from this bit on; 0: there is none.
const TROUBLE_SHIFT: u32 = 8;

/// What user space is to be told of a node.
pub(crate) struct News {
    /// `uapi::NODE_*`.
    pub(crate) state: u32,
    /// What has happened to the copy, as `dst monitor` names it.
    pub(crate) event: Option<&'static str>,
    /// Why it is not taken back, if that is what has happened.
    pub(crate) trouble: Option<Trouble>,
}

impl Member {
    /// Gives a node its place.
    pub(crate) fn new(
        id: u32,
        place: Place,
        node: Node,
        gate: Arc<Gate>,
        want: Want,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                id,
                start: place.start,
                size: Atomic::new(place.size),
                node,
                gate,
                path: want.path,
                flags: Atomic::new(want.flags),
                replaces: Atomic::new(0),
                waits: Atomic::new(0),
                copy <- new_mutex!(None, "dst::member::copy"),
                announced: Atomic::new(uapi::NODE_UP),
                announced_role: Atomic::new(uapi::ROLE_NONE),
            }),
            GFP_KERNEL,
        )
    }

    /// Its part of the storage; `index` is its number there.
    pub(crate) fn segment(&self, index: u32) -> Segment {
        Segment {
            start: self.start,
            size: self.size(),
            node: index,
        }
    }

    /// Sectors that are used.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Relaxed)
    }

    /// Sets how many sectors are used.
    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size, Relaxed);
    }

    /// Sets which node's place it takes: [`uapi::NodeInfo::replaces`].
    pub(crate) fn set_replaces(&self, replaces: u32) {
        self.replaces.store(replaces, Relaxed);
    }

    /// Which node's place it takes: [`uapi::NodeInfo::replaces`].
    pub(crate) fn replaces(&self) -> u32 {
        self.replaces.load(Relaxed)
    }

    /// Whether it is none of the storage's nodes yet: it waits to take the place of the one with the same start. A copy of a
    /// mirror never does.
    pub(crate) fn waits(&self) -> bool {
        self.waits.load(Relaxed) != 0
    }

    /// Sets whether it waits.
    pub(crate) fn set_waits(&self, waits: bool) {
        self.waits.store(waits.into(), Relaxed);
    }

    /// Its number as a copy of a mirror that runs.
    pub(crate) fn copy(&self) -> Option<u32> {
        self.copy.lock().as_ref().map(|(_, copy)| *copy)
    }

    /// Makes it a copy of a mirror that runs, or none.
    pub(crate) fn set_copy(&self, copy: Option<(Arc<Engine>, u32)>) {
        let old = core::mem::replace(&mut *self.copy.lock(), copy);
        // Not under the lock: it may be the last reference to the mirror.
        drop(old);
    }

    /// What it is to a mirror that runs: `uapi::ROLE_*`.
    pub(crate) fn role(&self) -> u32 {
        match &*self.copy.lock() {
            Some((mirror, copy)) => mirror.role(*copy),
            None => uapi::ROLE_NONE,
        }
    }

    /// The node, as one that may become a copy.
    pub(crate) fn candidate(&self) -> Result<Candidate> {
        candidate(&self.node, self, self.flags.load(Relaxed))
    }

    /// A start with it went well: what was said for that must not count for the next one.
    pub(crate) fn settle(&self) {
        self.flags.store(0, Relaxed);
    }

    /// The server, if it is one.
    pub(crate) fn remote(&self) -> Option<&Remote> {
        match &self.node {
            Node::Local(_) => None,
            Node::Remote(node) => Some(node.ctx()),
        }
    }

    /// `uapi::NODE_*`.
    pub(crate) fn state(&self) -> u32 {
        match &self.node {
            Node::Local(_) => uapi::NODE_UP,
            Node::Remote(node) => node.ctx().shown(|shown| shown.state),
        }
    }

    /// Whether nothing that was sent to the node before the last connection can still get to its disk.
    pub(crate) fn is_fenced(&self) -> bool {
        match &self.node {
            Node::Local(_) => true,
            Node::Remote(node) => node.ctx().shown(|shown| shown.fenced),
        }
    }

    /// What user space was not told of yet. From now on it was.
    pub(crate) fn news(&self) -> Option<News> {
        let state = self.state();
        let role = self.role();
        let trouble = match &*self.copy.lock() {
            Some((mirror, copy)) => mirror.trouble(*copy),
            None => None,
        };
        let now = role | trouble.map_or(0, |why| (why as u32 + 1) << TROUBLE_SHIFT);
        let told = self.announced.xchg(state, Full);
        let before = self.announced_role.xchg(now, Full);
        let trouble = trouble.filter(|_| before >> TROUBLE_SHIFT != now >> TROUBLE_SHIFT);
        let event = match (before & ((1 << TROUBLE_SHIFT) - 1), role) {
            _ if trouble.is_some() => trouble.map(Trouble::event),
            (before, uapi::ROLE_HEALING) if before != role => Some("heal-start"),
            (uapi::ROLE_HEALING | uapi::ROLE_MISSING, uapi::ROLE_IN_SYNC) => Some("heal-done"),
            (uapi::ROLE_HEALING, uapi::ROLE_MISSING) if self.replaces() != 0 => {
                Some("replace-interrupted")
            }
            (uapi::ROLE_HEALING, uapi::ROLE_MISSING) => Some("heal-interrupted"),
            _ => None,
        };
        (told != state || before != now).then_some(News {
            state,
            event,
            trouble,
        })
    }

    /// Tells all about it.
    pub(crate) fn info(&self, out: &mut uapi::NodeInfo) {
        out.node = self.id;
        out.start = self.start;
        out.size = self.size();
        // Both came from fields of this size.
        let _ = uapi::set_text(&mut out.path, self.path.to_str().unwrap_or(""));
        out.device_size = sectors(&self.node);
        out.block_size = block_size(&self.node);
        let counters = match &self.node {
            Node::Local(node) => {
                out.kind = uapi::KIND_LOCAL;
                out.state = uapi::NODE_UP;
                out.depth = node.capacity();
                out.in_flight = node.used();
                &node.ctx().counters
            }
            Node::Remote(node) => {
                let remote = node.ctx();
                out.kind = uapi::KIND_REMOTE;
                out.depth = node.capacity();
                out.in_flight = node.used();
                out.address = remote.config.address.to_uapi();
                out.timeout_ms = remote.timeout_ms.load(Relaxed);
                out.keepalive_s = remote.keepalive_s.load(Relaxed);
                out.reconnects = remote.reconnects.load(Relaxed);
                out.resent = remote.resent.load(Relaxed);
                remote.shown(|shown| {
                    out.state = shown.state;
                    out.since_ms = time::ms_since(shown.since);
                    out.reason = *shown.reason.bytes();
                });
                &remote.counters
            }
        };
        if let Some((mirror, copy)) = &*self.copy.lock() {
            mirror.copy_info(*copy, out);
        }
        let (state, waiting) = self.gate.shown();
        out.suspended = out.suspended.max(state);
        out.in_flight = out.in_flight.saturating_add(waiting);
        out.replaces = self.replaces();
        out.errors = counters.errors();
        out.requests = counters.requests();
        out.bytes = counters.bytes();
    }
}

/// As sysfs shows its type: `L: /dev/sdb` or `R: 192.168.4.80:1025`.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Node::Local(_) => write!(f, "L: {}", self.path.to_str().unwrap_or("")),
            Node::Remote(node) => write!(f, "R: {}", node.ctx().config.address),
        }
    }
}

/// A node that may become a copy; `name` is how people name it.
fn candidate(node: &Node, name: impl fmt::Display, flags: u32) -> Result<Candidate> {
    Ok(Candidate {
        node: node.clone(),
        name: CString::try_from_fmt(fmt!("{name}"))?,
        discard: flags & uapi::NODE_DISCARD != 0,
        force: flags & uapi::NODE_FORCE != 0,
    })
}

/// Sectors that a node has.
pub(crate) fn sectors(node: &Node) -> u64 {
    match node {
        Node::Local(node) => node.ctx().dev.sectors(),
        Node::Remote(node) => node.ctx().sectors(),
    }
}

/// Logical block size of a node, in bytes.
pub(crate) fn block_size(node: &Node) -> u32 {
    match node {
        Node::Local(node) => node.ctx().dev.logical_block_size(),
        Node::Remote(node) => node.ctx().block_size(),
    }
}

/// What a storage keeps on its nodes beside the data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Nothing: nodes are used as a whole.
    Nothing,
    /// Superblocks.
    Superblocks,
    /// Superblocks, and the log of a mirror.
    Log,
}

/// How many sectors of a node are used, if the user wants `size` of them; `block` is the storage's block size in
/// bytes, or 0.
pub(crate) fn usable(node: &Node, size: u64, block: u32, keeps: Keeps) -> Done<u64> {
    let whole = sectors(node);
    let layout = match keeps {
        Keeps::Nothing => None,
        Keeps::Superblocks => Some(Layout::new(whole, None)),
        Keeps::Log => Some(Layout::mirror(whole)),
    };
    let has = match layout {
        None => whole,
        Some(Ok(layout)) => layout.data,
        Some(Err(too_small)) if keeps == Keeps::Superblocks => {
            return Err(Failure::new(
                ENOSPC,
                format_args!(
                    "the node is too small for metadata: {too_small}, or create the storage with --no-metadata"
                ),
            ));
        }
        Some(Err(too_small)) => {
            return Err(Failure::new(
                ENOSPC,
                format_args!("the node is too small: {too_small}"),
            ));
        }
    };
    let block = u64::from(block.max(block_size(node)) >> SECTOR_SHIFT);
    if size == uapi::AUTO {
        // The block size is a power of two, and at least a sector.
        let whole = has & !(block - 1);
        if whole == 0 {
            fail!(EINVAL, "the node has no room: {has} sectors");
        }
        return Ok(whole);
    }
    if size > has {
        let rest = match has == whole {
            true => "",
            false => "; the rest is for metadata",
        };
        fail!(
            ENOSPC,
            "the node has only {has} sectors, not {size}; give a smaller --size (-S){rest}"
        );
    }
    Ok(size)
}
