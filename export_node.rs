// SPDX-License-Identifier: GPL-2.0

//! An export: the NBD server in the kernel, for one local disk (or one of our own).
//!
//! Each export has a thread of its own, which accepts its clients and works on their connections: a disk that is slow,
//! or a storage that has lost a node, holds up its own export and no other, and exports of storages of exports
//! can't wait for each other in one thread. What a client can cost is allocated when it is let in, and bounded:
//! see [`connection`]. All connections share the open disk, so a flush on one covers the writes of all.
//!
//! - [`server`]: what the thread works on. [`access`]: who may connect.
//! - [`handshake`]: until the client has chosen the export.
//! - [`connection`]: one client, from being accepted until the disk has done its last request.
//! - [`intake`]: the receiving side; [`request`]: one request; [`reply`]: the sending side.
//!
//! Locks: `ExportNode::running`, then `Server::listener`; the connections are touched by the thread alone, or by
//! [`ExportNode::stop`] when the thread is gone.

mod access;
mod connection;
mod end;
mod fifo;
mod files;
mod handshake;
mod intake;
mod reply;
mod request;
mod server;

use kernel::{
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex, //
    },
};

use self::{
    access::AccessList,
    handshake::Geometry,
    request::{
        Disk,
        RequestSlot, //
    },
    server::Server, //
};
use crate::{
    failure::{
        fail,
        Done, //
    },
    kern::{
        bdev::BackingDev,
        bio::Status,
        net::{
            Addr,
            NetNs,
            Socket, //
        },
        time::{
            self,
            Jiffies, //
        },
    },
    net_state::NetThread,
    request::{
        Counters,
        SECTOR_SHIFT, //
    },
    uapi, //
};

/// Connections at once, and such that wait to be accepted, unless the user says otherwise.
const DEFAULT_CONNECTIONS: u32 = 16;

/// The most connections that one export can have: their pages are 256 MiB.
const MAX_CONNECTIONS: u32 = 64;

/// The longest backlog; the kernel cuts it to net.core.somaxconn.
const MAX_BACKLOG: u32 = 4096;

/// Seconds without a sign of life, or without reading any of what we send, after which a client is given up.
///
/// Longer than a debugger's pause or a reboot of a switch: a client that is gone costs little.
const DEAD_AFTER_S: u32 = 60;

/// The listener's token; the connections have the ones from 1 on.
const LISTENER: u32 = 0;

/// Lines that are logged in [`LOG_MS`]; what a flood of clients does is in the counters.
const LOG_LINES: u32 = 8;

/// See [`LOG_LINES`].
const LOG_MS: u32 = 5000;

/// What there is to know about an export, also after it was stopped.
struct Facts {
    name: CString,
    path: CString,
    address: Addr,
    read_only: bool,
    access: AccessList,
    max_connections: u32,
    block_size: u32,
    sectors: Atomic<u64>,
    connections: Atomic<u32>,
    accepted: Atomic<u64>,
    refused: Atomic<u64>,
    counters: Counters,
    /// Requests on the disk, by connection.
    in_flight: KVec<Atomic<u32>>,
    /// When the lines began to be counted that were logged since.
    log_since: Atomic<u64>,
    logged: Atomic<u32>,
}

/// The text of a C string that came from UTF-8.
fn text(string: &CStr) -> &str {
    string.to_str().unwrap_or("")
}

impl Facts {
    fn name(&self) -> &str {
        text(&self.name)
    }

    fn path_text(&self) -> &str {
        text(&self.path)
    }

    /// Notes how many requests a connection has on the disk.
    #[inline]
    fn set_in_flight(&self, token: u32, requests: u32) {
        if let Some(place) = self.in_flight.get(index(token)) {
            place.store(requests, Relaxed);
        }
    }

    fn in_flight(&self) -> u32 {
        let each = self.in_flight.iter().map(|place| place.load(Relaxed));
        each.fold(0, u32::saturating_add)
    }

    /// Counts a request that ended.
    #[inline]
    fn count(&self, slot: &RequestSlot) {
        let status = match slot.error {
            None => Status::OK,
            Some(_) => Status::IOERR,
        };
        self.counters.finished(slot.work.op(), slot.length, status);
    }

    /// Whether one more line may be logged now. Only the thread asks.
    fn may_log(&self) -> bool {
        let now = time::now();
        let since = self.log_since.load(Relaxed) as Jiffies;
        if time::reached(time::in_ms(since, LOG_MS), now) {
            self.log_since.store(now as u64, Relaxed);
            self.logged.store(0, Relaxed);
        }
        let logged = self.logged.load(Relaxed);
        self.logged.store(logged.saturating_add(1), Relaxed);
        logged < LOG_LINES
    }
}

/// A connection's place in tables, by its token.
fn index(token: u32) -> usize {
    token.wrapping_sub(LISTENER + 1) as usize
}

/// What an export has while it runs.
struct Running {
    thread: NetThread<Server>,
    server: Arc<Server>,
}

/// An export.
#[pin_data(PinnedDrop)]
pub(crate) struct ExportNode {
    facts: Arc<Facts>,
    #[pin]
    running: Mutex<Option<Running>>,
}

impl ExportNode {
    /// Opens the disk, and serves it. Process context, of the process whose network namespace it shall listen in.
    pub(crate) fn start(request: &uapi::Export) -> Done<Arc<Self>> {
        let Some(name) = uapi::text(&request.name).filter(|name| uapi::valid_name(name)) else {
            fail!(EINVAL, "the export's name is not valid");
        };
        let Some(path) = uapi::text(&request.path).filter(|path| !path.is_empty()) else {
            fail!(EINVAL, "the path of the disk is not valid");
        };
        if request.flags & !uapi::EXPORT_READ_ONLY != 0 || request.reserved != 0 {
            fail!(EINVAL, "flags that this module does not know");
        }
        let max_connections = match request.max_connections {
            0 => DEFAULT_CONNECTIONS,
            wanted @ 1..=MAX_CONNECTIONS => wanted,
            wanted => fail!(
                EINVAL,
                "{wanted} connections are too many; an export has at most {MAX_CONNECTIONS}"
            ),
        };
        let backlog = match request.backlog {
            0 => DEFAULT_CONNECTIONS,
            wanted => wanted.min(MAX_BACKLOG),
        };
        let Some(rules) = request.rules.get(..request.nr_rules as usize) else {
            fail!(EINVAL, "the access list has too many networks");
        };
        let access = match AccessList::new(rules) {
            Ok(access) => access,
            Err(what) => fail!(EINVAL, "{what}"),
        };
        let Some(address) = Addr::from_uapi(&request.address) else {
            fail!(EINVAL, "the address to listen on is neither IPv4 nor IPv6");
        };
        let c_name = CString::try_from_fmt(fmt!("{name}"))?;
        let c_path = CString::try_from_fmt(fmt!("{path}"))?;

        let read_only = request.flags & uapi::EXPORT_READ_ONLY != 0;
        let disk = Disk::new(name, open(&c_path, !read_only)?)?;
        let socket = Arc::new(listen(&address, backlog)?, GFP_KERNEL)?;
        // The port may have been left to the kernel.
        let address = socket.local().unwrap_or(address);

        let read_only = read_only || disk.dev().read_only();
        let geometry = Geometry::of(disk.dev(), read_only);
        let mut in_flight = KVec::with_capacity(max_connections as usize, GFP_KERNEL)?;
        for _ in 0..max_connections {
            in_flight.push(Atomic::new(0), GFP_KERNEL)?;
        }
        let facts = Arc::new(
            Facts {
                name: c_name,
                path: c_path,
                address,
                read_only,
                access,
                max_connections,
                block_size: disk.dev().logical_block_size(),
                sectors: Atomic::new(geometry.size >> SECTOR_SHIFT),
                connections: Atomic::new(0),
                accepted: Atomic::new(0),
                refused: Atomic::new(0),
                counters: Counters::new(),
                in_flight,
                log_since: Atomic::new(time::now() as u64),
                logged: Atomic::new(0),
            },
            GFP_KERNEL,
        )?;
        let server = Server::new(facts.clone(), disk)?;
        let export = Arc::pin_init(
            pin_init!(Self {
                facts,
                running <- new_mutex!(None, "dst::export::running"),
            }),
            GFP_KERNEL,
        )?;
        let thread = NetThread::start(fmt!("dst-x-{name}"), server.clone())?;
        server.open(thread.net(), socket)?;
        *export.running.lock() = Some(Running { thread, server });
        Ok(export)
    }

    /// Ends the export: disconnects its clients, waits until the disk has done what they asked for, closes it.
    ///
    /// Takes as long as the disk does. May be called again, and then waits for the first call.
    pub(crate) fn stop(&self) {
        let mut running = self.running.lock();
        if let Some(Running { thread, server }) = running.take() {
            drop(thread);
            server.shut();
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.facts.name()
    }

    /// Its name.
    pub(crate) fn c_name(&self) -> &CStr {
        &self.facts.name
    }

    /// Tells what there is to know. Leaves the header and the index as they are.
    pub(crate) fn info(&self, out: &mut uapi::ExportInfo) {
        let facts = &*self.facts;
        let (rules, nr_rules) = facts.access.rules();
        out.flags = if facts.read_only {
            uapi::EXPORT_READ_ONLY
        } else {
            0
        };
        // Both fit: they came from fields of these sizes.
        let _ = uapi::set_text(&mut out.name, facts.name());
        let _ = uapi::set_text(&mut out.path, facts.path_text());
        out.connections = facts.connections.load(Relaxed);
        out.address = facts.address.to_uapi();
        out.sectors = facts.sectors.load(Relaxed);
        out.block_size = facts.block_size;
        out.max_connections = facts.max_connections;
        out.accepted = facts.accepted.load(Relaxed);
        out.refused = facts.refused.load(Relaxed);
        out.requests = facts.counters.requests();
        out.bytes = facts.counters.bytes();
        out.errors = facts.counters.errors();
        out.in_flight = facts.in_flight();
        out.nr_rules = nr_rules;
        out.rules = *rules;
    }
}

#[pinned_drop]
impl PinnedDrop for ExportNode {
    fn drop(self: Pin<&mut Self>) {
        self.stop();
    }
}

/// Opens the disk, or says why that can't be done.
fn open(name: &CStr, write: bool) -> Done<BackingDev> {
    let path = text(name);
    match BackingDev::open(name, write) {
        Ok(dev) => Ok(dev),
        Err(ENOENT) => fail!(ENOENT, "there is no {path}; name a block device"),
        Err(ENOTBLK) => fail!(
            ENOTBLK,
            "{path} is no block device; make one of a file with losetup"
        ),
        Err(EBUSY) => fail!(
            EBUSY,
            "{path} is in use: mounted, or part of something else"
        ),
        Err(error @ (EROFS | EACCES | EPERM)) => {
            fail!(error, "{path} can only be read: export it read-only")
        }
        Err(error) => fail!(error, "{path} can't be opened: error {}", error.to_errno()),
    }
}

/// Listens in the network namespace of the current process, or says why that can't be done.
fn listen(address: &Addr, backlog: u32) -> Done<Socket> {
    match Socket::listen(&NetNs::current(), address, backlog) {
        Ok(socket) => Ok(socket),
        Err(EADDRINUSE) => fail!(EADDRINUSE, "{address} is in use: choose another port"),
        Err(EADDRNOTAVAIL) => fail!(EADDRNOTAVAIL, "{address} is no address of this machine"),
        Err(error) => fail!(
            error,
            "can't listen on {address}: error {}",
            error.to_errno()
        ),
    }
}
