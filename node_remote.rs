// SPDX-License-Identifier: GPL-2.0

//! A remote node: an NBD server, reached over TCP.
//!
//! - This file: the node, its pieces, and the way of a piece from submission to its end.
//! - [`queue`]: the pieces that wait to be sent, in order, and those that wait for [late writes](crate::late).
//! - [`send`]: who sends, and how.
//! - [`receive`]: replies, straight into the caller's pages.
//! - [`link`]: the connection: made, lost, made again; [`handshake`]: its first words.
//! - [`fenced`]: what the server is told of the storage, and what it says of other heads.
//! - [`waits`]: how long requests have waited.
//!
//! # Who owns a piece
//!
//! A piece is a [`Slot`]: it has one owner at a time. The submitter takes it and puts it in the queue;
//! whoever sends takes it from there and *parks* it in its pool under its cookie (a write is *lent* as
//! long as its data are being sent); the reply claims it by that cookie, once. When a connection is lost
//! the network thread claims all that are parked and puts them back at the head of the queue, in the order
//! in which they were submitted.
//!
//! # Locks
//!
//! `queue` (spin) is innermost and never held across a call out. `tx` is only tried. `link` (mutex) is
//! the network thread's own. A bio is ended with none of `queue` and `link`'s socket lock held.

mod about;
mod fenced;
mod handshake;
mod link;
mod queue;
mod receive;
mod send;
mod waits;

pub(crate) use about::{
    state_name,
    Config,
    Reason,
    Shown,
    Unfenced, //
};
pub(crate) use link::{
    serve,
    tick, //
};

use kernel::{
    new_condvar, new_mutex, new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        CondVar,
        Mutex,
        SetOnce,
        SpinLock, //
    },
};

use crate::{
    kern::{
        bio::{
            BioPart,
            Op,
            Status, //
        },
        plug::{
            self,
            PlugEntries,
            Unplug, //
        },
        pool::{
            Pool,
            Slot, //
        },
        time,
        trace,
        trylock::TryLock, //
    },
    net_state::Net,
    proto::{
        self,
        client::ExportInfo,
        pending::Pending,
        Command,
        NbdError, //
    },
    request::{
        Counters,
        FlushState,
        SECTOR_SHIFT, //
    },
    send_queue::Note,
    uapi, //
};

use about::Wanted;
use link::Link;
use queue::Queue;
use send::Sender;

/// Requests that can be in flight unless the user says otherwise: that of nbd.ko and of NVMe/TCP.
pub(crate) const DEFAULT_DEPTH: u32 = 128;

/// Seconds without a sign of life after which a connection is given up, unless the user says otherwise.
pub(crate) const DEFAULT_KEEPALIVE_S: u32 = 15;

/// A remote node: the connection and its pieces.
pub(crate) type RemoteNode = Pool<Remote, RemotePiece>;
/// A piece, owned.
pub(crate) type RemoteSlot = Slot<Remote, RemotePiece>;

/// A piece of a bio on its way to a server and back.
pub(crate) struct RemotePiece {
    /// The share of the bio from above; `None` only while the piece is free.
    part: Option<BioPart>,
    /// What to ask for.
    command: Command,
    /// `CMD_FLAG_*`.
    flags: u16,
    /// Bytes from the export's start.
    offset: u64,
    /// Bytes.
    length: u32,
    /// What the queue knows about it.
    note: Note,
    /// What of the reply has arrived.
    pending: Pending,
}

impl RemotePiece {
    fn free() -> Self {
        Self {
            part: None,
            command: Command::Flush,
            flags: 0,
            offset: 0,
            length: 0,
            note: Note::default(),
            pending: Pending::other(),
        }
    }

    /// What it asks the server for: command, flags, offset and length.
    fn asks(&self) -> (Command, u16, u64, u32) {
        if self.note.flushing {
            return (Command::Flush, 0, 0, 0);
        }
        (self.command, self.flags, self.offset, self.length)
    }

    /// Bytes of data that follow the request's header.
    fn payload(&self) -> u32 {
        match self.command {
            Command::Write if !self.note.flushing => self.length,
            _ => 0,
        }
    }
}

/// What the network thread is asked to do; bits of [`Remote::orders`].
mod order {
    /// End the waiting.
    pub(super) const FAIL_NOW: u32 = 1 << 0;
    /// End everything.
    pub(super) const CLOSE: u32 = 1 << 1;
    /// Sending failed: look at the socket.
    pub(super) const BROKEN: u32 = 1 << 2;
    /// Tell the server something else of the storage, on a new connection.
    pub(super) const RENEW: u32 = 1 << 3;
    /// Another head has taken over the storage, as another of its nodes has heard.
    pub(super) const OUST: u32 = 1 << 4;
}

/// A server and the connection to it.
#[pin_data]
pub(crate) struct Remote {
    /// How to reach it.
    pub(crate) config: Config,
    /// See [`uapi::AddNode::timeout_ms`]; can be changed at any time.
    pub(crate) timeout_ms: Atomic<u32>,
    /// See [`uapi::AddNode::keepalive_s`]; counts from the next connection on.
    pub(crate) keepalive_s: Atomic<u32>,
    /// Whether somebody is told when it is slow.
    slow_watched: Atomic<bool>,
    /// What was done with it.
    pub(crate) counters: Counters,
    /// Connections that were lost.
    pub(crate) reconnects: Atomic<u64>,
    /// Requests that were sent again.
    pub(crate) resent: Atomic<u64>,
    /// What the server said of the export, when it was first reached.
    pub(crate) export: SetOnce<ExportInfo>,
    flush: FlushState,
    net: Arc<Net>,
    token: u32,
    /// `order::*`.
    orders: Atomic<u32>,
    /// The thread waits for `tx`: who holds it kicks the thread after letting it go.
    tx_wanted: Atomic<bool>,
    /// What is shown has changed.
    news: Atomic<bool>,
    /// When each piece was submitted, in jiffies; 0: the piece is free.
    started: KVec<Atomic<usize>>,
    tx: TryLock<Sender>,
    #[pin]
    queue: SpinLock<Queue>,
    #[pin]
    link: Mutex<Link>,
    #[pin]
    shown: Mutex<Shown>,
    #[pin]
    wanted: Mutex<Wanted>,
    #[pin]
    changed: CondVar,
    #[pin]
    plug: PlugEntries,
}

/// Makes a node that is not connected yet; `token` is its number at the thread behind `net`.
pub(crate) fn new(config: Config, net: Arc<Net>, token: u32) -> Result<Arc<RemoteNode>> {
    let depth = config.depth;
    let mut started = KVec::with_capacity(depth as usize, GFP_KERNEL)?;
    for _ in 0..depth {
        started.push(Atomic::new(0), GFP_KERNEL)?;
    }
    let queue = queue::queue(depth)?;
    let link = Link::new(depth)?;
    let fence = config.fence;
    let remote = pin_init!(Remote {
        timeout_ms: Atomic::new(config.timeout_ms),
        keepalive_s: Atomic::new(config.keepalive_s),
        config,
        slow_watched: Atomic::new(false),
        counters: Counters::new(),
        reconnects: Atomic::new(0),
        resent: Atomic::new(0),
        export: SetOnce::new(),
        flush: FlushState::new(),
        net,
        token,
        orders: Atomic::new(0),
        tx_wanted: Atomic::new(false),
        news: Atomic::new(false),
        started,
        tx: TryLock::new(Sender::new()),
        queue <- new_spinlock!(queue, "dst::remote::queue"),
        link <- new_mutex!(link, "dst::remote::link"),
        shown <- new_mutex!(
            Shown {
                state: uapi::NODE_CONNECTING,
                since: time::now(),
                reason: Reason::none(),
                refused: None,
                fenced: false,
                asking: false,
                taken_over: 0,
                round: 0,
                closed: false,
            },
            "dst::remote::shown"
        ),
        wanted <- new_mutex!(Wanted { fence, round: 0 }, "dst::remote::wanted"),
        changed <- new_condvar!("dst::remote::changed"),
        plug: PlugEntries::new(),
    });
    Pool::new(depth, remote, |_| Ok(RemotePiece::free()))
}

/// Sends a piece of a read, write, discard or write-zeroes to `sector` of the export.
///
/// Sleeps until a piece is free, unless the bio says `REQ_NOWAIT`.
pub(crate) fn submit(node: &Arc<RemoteNode>, part: BioPart, sector: u64) {
    let remote = node.ctx();
    let flags = if part.fua() && remote.has(proto::FLAG_SEND_FUA) {
        proto::CMD_FLAG_FUA
    } else {
        0
    };
    let needed = match part.op() {
        Op::Discard => proto::FLAG_SEND_TRIM,
        Op::WriteZeroes => proto::FLAG_SEND_WRITE_ZEROES,
        _ => 0,
    };
    if needed != 0 && !remote.has(needed) {
        // It is a copy beside others that can.
        part.end(Status::NOTSUPP);
        return;
    }
    let (command, flags) = match part.op() {
        Op::Read => (Command::Read, 0),
        Op::Write => (Command::Write, flags),
        Op::Discard => (Command::Trim, flags),
        Op::WriteZeroes if part.nounmap() => {
            (Command::WriteZeroes, flags | proto::CMD_FLAG_NO_HOLE)
        }
        Op::WriteZeroes => (Command::WriteZeroes, flags),
        Op::Flush | Op::Other => {
            part.end(Status::NOTSUPP);
            return;
        }
    };
    start(node, part, command, flags, sector << SECTOR_SHIFT);
}

/// Flushes the server, if it can and if there is anything to flush.
pub(crate) fn flush(node: &Arc<RemoteNode>, part: BioPart) {
    let remote = node.ctx();
    // A server without the command has no volatile cache that it knows of: nbd.ko's reading, too.
    if !remote.has(proto::FLAG_SEND_FLUSH) || !remote.flush.begin() {
        part.end(Status::OK);
        return;
    }
    if !start(node, part, Command::Flush, 0, 0) {
        remote.flush.end(false);
    }
}

/// Whether a flush would find nothing to flush.
pub(crate) fn is_clean(node: &RemoteNode) -> bool {
    !node.ctx().has(proto::FLAG_SEND_FLUSH) || node.ctx().flush.is_clean()
}

/// Takes a piece and queues it; `false` if there was none and the bio must not wait.
fn start(node: &Arc<RemoteNode>, part: BioPart, command: Command, flags: u16, offset: u64) -> bool {
    let remote = node.ctx();
    let mut slot = match node.try_take() {
        Some(slot) => slot,
        None if part.nowait() => {
            part.end(Status::AGAIN);
            return false;
        }
        None => node.take(),
    };
    let length = match command {
        Command::Flush => 0,
        _ => part.bytes(),
    };
    slot.command = command;
    slot.flags = flags;
    slot.offset = offset;
    slot.length = length;
    slot.note = Note::default();
    trace::piece_start(remote.config.id, slot.cookie(), &part);
    slot.part = Some(part);
    if let Some(started) = remote.started.get(slot.index() as usize) {
        // 0 means free; a request at jiffy 0 is one jiffy older than it says.
        started.store(time::now().max(1), Relaxed);
    }
    enqueue(remote, slot);
    if !plug::defer(node) {
        push(node);
    }
    true
}

/// Puts a piece at the queue's end, or ends it if the node takes none.
fn enqueue(remote: &Remote, slot: RemoteSlot) {
    let refused = remote.queue.lock().push(slot);
    if let Some(slot) = refused {
        finish(slot, Status::IOERR);
    }
}

/// Sends what is queued, unless somebody does already.
fn push(node: &RemoteNode) {
    let remote = node.ctx();
    loop {
        let Some(mut tx) = remote.tx.try_lock() else {
            // The holder looks at the queue again when it is done.
            return;
        };
        let more = tx.drain(node);
        drop(tx);
        if remote.tx_wanted.load(Relaxed) {
            remote.net.kick(remote.token);
            return;
        }
        if !more || remote.queue.lock().is_empty() {
            return;
        }
    }
}

/// The reply to a piece is there.
fn complete(remote: &Remote, mut slot: RemoteSlot, error: Option<NbdError>) {
    let flush_after = error.is_none()
        && !slot.note.flushing
        && slot.command != Command::Flush
        && slot.flags & proto::CMD_FLAG_FUA == 0
        && slot.part.as_ref().is_some_and(|part| part.fua())
        && remote.has(proto::FLAG_SEND_FLUSH);
    if flush_after {
        // FUA for a server that has none: the write is durable when a flush behind it is.
        slot.note.flushing = true;
        slot.note.resent = false;
        // A second answer to the write is none to the flush.
        slot.renew();
        enqueue(remote, slot);
        return;
    }
    let status = match error {
        None => Status::OK,
        Some(NbdError::NoSpc) => Status::NOSPC,
        Some(NbdError::NotSup) => Status::NOTSUPP,
        Some(_) => Status::IOERR,
    };
    finish(slot, status);
}

/// Ends a piece and gives it back.
fn finish(mut slot: RemoteSlot, status: Status) {
    let Some(part) = slot.part.take() else { return };
    let remote = slot.ctx();
    if let Some(started) = remote.started.get(slot.index() as usize) {
        started.store(0, Relaxed);
    }
    let op = part.op();
    trace::piece_end(remote.config.id, slot.cookie(), &part, status);
    remote.counters.finished(op, part.bytes(), status);
    match op {
        Op::Read => {}
        Op::Flush => remote.flush.end(status.is_ok()),
        _ => remote.flush.wrote(),
    }
    // The piece goes back first: whoever the bio's end lets go on may want it.
    drop(slot);
    part.end(status);
}

impl Unplug for RemoteNode {
    fn entries(&self) -> &PlugEntries {
        &self.ctx().plug
    }

    fn unplug(&self, from_schedule: bool) {
        let remote = self.ctx();
        if from_schedule {
            // The task is about to sleep on something else: no place to send from.
            remote.net.kick(remote.token);
        } else {
            push(self);
        }
    }
}

impl Remote {
    /// Whether the server has all of `flags` (`proto::FLAG_*`).
    pub(crate) fn has(&self, flags: u16) -> bool {
        self.export
            .as_ref()
            .is_some_and(|e| e.flags & flags == flags)
    }

    /// Sectors that the export has; 0 before the first connection.
    pub(crate) fn sectors(&self) -> u64 {
        self.export.as_ref().map_or(0, ExportInfo::sectors)
    }

    /// Logical block size in bytes, at least 512.
    pub(crate) fn block_size(&self) -> u32 {
        self.export.as_ref().map_or(512, |export| export.min_block)
    }

    /// The largest piece that the server takes, in sectors.
    pub(crate) fn max_sectors(&self, op: Op) -> u64 {
        let block = self.block_size();
        let bytes = match op {
            Op::Read | Op::Write => self
                .export
                .as_ref()
                .map_or(proto::DEFAULT_MAX_PAYLOAD, |export| export.max_payload),
            // Their length has 32 bits and no payload.
            _ => u32::MAX,
        };
        // The block size is a power of two.
        u64::from((bytes & !(block - 1)).max(block)) >> SECTOR_SHIFT
    }

    /// The number of the node at its thread.
    pub(crate) fn token(&self) -> u32 {
        self.token
    }

    /// Whether what is shown has changed since the last call.
    pub(crate) fn take_news(&self) -> bool {
        self.news.load(Relaxed) && self.news.xchg(false, Full)
    }

    /// Asks the thread to do something.
    fn order(&self, order: u32) {
        let mut old = self.orders.load(Relaxed);
        while let Err(now) = self.orders.cmpxchg(old, old | order, Full) {
            old = now;
        }
        self.net.kick(self.token);
    }

    /// Ends the waiting: what waits fails now, and new requests fail until the server is back.
    ///
    /// A connection that is up but has requests in flight is cut: its server does not answer.
    pub(crate) fn fail_now(&self) {
        self.order(order::FAIL_NOW);
    }

    /// What is shown of the connection.
    pub(crate) fn shown<R>(&self, look: impl FnOnce(&Shown) -> R) -> R {
        look(&self.shown.lock())
    }

    /// Sets what is shown.
    fn show(&self, state: u32, reason: Option<Reason>) {
        let mut shown = self.shown.lock();
        if shown.state != state {
            trace::link(
                &self.config.storage,
                self.config.id,
                state_name(shown.state),
                state_name(state),
                0,
            );
            shown.state = state;
            shown.since = time::now();
            self.news.store(true, Relaxed);
        }
        if let Some(reason) = reason {
            shown.reason = reason;
        }
        drop(shown);
        self.changed.notify_all();
    }

    /// Waits for the first connection; gives the reason and the error if there is none.
    ///
    /// Process context; sleeps up to `ms` milliseconds, or until a signal.
    pub(crate) fn wait_up(&self, ms: u32) -> core::result::Result<(), (Error, Reason)> {
        let mut left = kernel::time::msecs_to_jiffies(ms);
        let mut shown = self.shown.lock();
        loop {
            if shown.state == uapi::NODE_UP {
                return Ok(());
            }
            if let Some(error) = shown.refused {
                return Err((error, shown.reason));
            }
            use kernel::sync::CondVarTimeoutResult as Woken;
            match self.changed.wait_interruptible_timeout(&mut shown, left) {
                Woken::Woken { jiffies } => left = jiffies,
                Woken::Timeout if shown.state == uapi::NODE_UP => return Ok(()),
                Woken::Timeout => {
                    let reason = if shown.reason.as_str().is_empty() {
                        Reason::new("no answer")
                    } else {
                        shown.reason
                    };
                    return Err((ETIMEDOUT, reason));
                }
                Woken::Signal { .. } => return Err((EINTR, Reason::new("interrupted"))),
            }
        }
    }

    /// Ends everything: what waits fails, the connection goes, and nothing of the node is in use any more
    /// when this returns. Process context; sleeps. Bounded by the network card giving back the pages that
    /// it still holds.
    pub(crate) fn close(&self) {
        self.order(order::CLOSE);
        let mut shown = self.shown.lock();
        while !shown.closed {
            self.changed.wait(&mut shown);
        }
    }
}
