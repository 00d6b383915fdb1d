// SPDX-License-Identifier: GPL-2.0

//! One request of a client, from its header to its reply.
//!
//! Requests are the slots of a pool that each connection has for itself. On the disk a request belongs to
//! the block layer; when that has done it, in whatever context, the request is put on the connection's stack
//! of those that ended, where the export's thread finds it.

use kernel::{
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc, //
    },
};

use crate::{
    kern::{
        bdev::BackingDev,
        bio::{
            Op,
            Status, //
        },
        lower::{
            Lower,
            LowerBio, //
        },
        pool::{
            Pool,
            Slot,
            Stack, //
        },
        span::Span,
        zeroes::Zeroes, //
    },
    net_state::Net,
    proto::NbdError,
    request::SECTOR_SHIFT, //
};

/// The disk of an export, and what it needs to be written to.
pub(super) struct Disk {
    /// The export's name, for the trace.
    name: CString,
    dev: BackingDev,
    zeroes: Zeroes,
}

impl Disk {
    /// Makes one of an open disk. Sleeps.
    pub(super) fn new(name: &str, dev: BackingDev) -> Result<Arc<Self>> {
        let name = CString::try_from_fmt(fmt!("{name}"))?;
        let zeroes = Zeroes::new()?;
        Ok(Arc::new(Self { name, dev, zeroes }, GFP_KERNEL)?)
    }

    /// The export's name.
    pub(super) fn name(&self) -> &CStr {
        &self.name
    }

    /// The open disk.
    pub(super) fn dev(&self) -> &BackingDev {
        &self.dev
    }
}

/// The requests of one connection.
pub(super) type Requests = Pool<Arc<Disk>, Request>;
/// One of them.
pub(super) type RequestSlot = Slot<Arc<Disk>, Request>;

/// Makes the requests of one connection. Sleeps.
pub(super) fn requests(count: u32, disk: &Arc<Disk>, ended: &Arc<Ended>) -> Result<Arc<Requests>> {
    Pool::new(count, disk.clone(), |_| Ok(Request::new(ended)))
}

/// What the end of a request needs to reach the thread. It outlives the connection's pool, since a request is
/// the thread's as soon as it is on the stack.
pub(super) struct Ended {
    net: Arc<Net>,
    token: u32,
    stack: Stack<Arc<Disk>, Request>,
    /// The thread works on this connection, and will look at the stack before it leaves.
    busy: Atomic<bool>,
}

impl Ended {
    /// Makes one for the connection `token`.
    pub(super) fn new(net: &Arc<Net>, token: u32) -> Result<Arc<Self>> {
        Ok(Arc::new(
            Self {
                net: net.clone(),
                token,
                stack: Stack::new(),
                busy: Atomic::new(false),
            },
            GFP_KERNEL,
        )?)
    }

    /// Hands over a request that ended. Any context.
    #[inline]
    fn push(&self, slot: RequestSlot) {
        // The push is a full barrier: either we see that the thread has left, or it sees the request.
        if self.stack.push(slot) && !self.busy.load(Relaxed) {
            self.net.kick(self.token);
        }
    }

    /// The thread begins to work on the connection.
    #[inline]
    pub(super) fn enter(&self) {
        self.busy.store(true, Relaxed);
    }

    /// The thread leaves the connection.
    #[inline]
    pub(super) fn leave(&self) {
        self.busy.xchg(false, Full);
        if !self.stack.is_empty() {
            self.net.kick(self.token);
        }
    }

    /// All requests that ended, in the order in which they did.
    #[inline]
    pub(super) fn take(&self) -> impl Iterator<Item = RequestSlot> {
        self.stack.take_all()
    }
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Read into the span.
    Read,
    /// Write the span.
    Write {
        /// Reply after it is on stable storage.
        fua: bool,
    },
    /// Flush the disk.
    Flush,
    /// Discard the range.
    Trim,
    /// Zero the range.
    WriteZeroes {
        /// Make no hole.
        no_hole: bool,
    },
    /// Nothing: the request was refused.
    Refused(NbdError),
}

impl Work {
    /// How it is counted.
    pub(super) fn op(self) -> Op {
        match self {
            Self::Read => Op::Read,
            Self::Write { .. } => Op::Write,
            Self::Flush => Op::Flush,
            Self::Trim => Op::Discard,
            Self::WriteZeroes { .. } => Op::WriteZeroes,
            Self::Refused(_) => Op::Other,
        }
    }
}

/// One request, or one piece of a large one.
pub(super) struct Request {
    lower: LowerBio,
    ended: Arc<Ended>,
    /// The data of a read or write.
    pub(super) span: Option<Span>,
    /// What is to be done.
    pub(super) work: Work,
    /// Flush the disk after this.
    pub(super) then_flush: bool,
    /// Bytes that zeroes were written to, or are being; `None`: the disk was asked to zero its blocks itself.
    zeroed: Option<u32>,
    /// The client's.
    pub(super) cookie: u64,
    /// First byte on the disk.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) length: u32,
    /// It is the first piece.
    pub(super) first: bool,
    /// It is the last piece.
    pub(super) last: bool,
    /// How it ended.
    pub(super) error: Option<NbdError>,
}

impl Request {
    /// Makes one for a pool.
    fn new(ended: &Arc<Ended>) -> Self {
        Self {
            lower: LowerBio::new(),
            ended: ended.clone(),
            span: None,
            work: Work::Flush,
            then_flush: false,
            zeroed: None,
            cookie: 0,
            offset: 0,
            length: 0,
            first: true,
            last: true,
            error: None,
        }
    }

    /// Bytes of data that belong into its reply.
    #[inline]
    pub(super) fn data(&self) -> Option<&Span> {
        match (self.work, self.error) {
            (Work::Read, None) => self.span.as_ref(),
            _ => None,
        }
    }
}

/// Gives a request back, and its pages. (What a slot holds stays in it otherwise.)
#[inline]
pub(super) fn release(mut slot: RequestSlot) {
    slot.span = None;
}

/// Sends a request to the disk. Sleeps if the disk's queue is full.
#[inline]
pub(super) fn submit(mut slot: RequestSlot) {
    let sector = slot.offset >> SECTOR_SHIFT;
    let sectors = u64::from(slot.length >> SECTOR_SHIFT);
    match slot.work {
        Work::Read => slot.submit_span(false, false, sector),
        Work::Write { fua } => slot.submit_span(true, fua, sector),
        Work::Trim => slot.submit_empty(Op::Discard, sector, sectors, false),
        Work::WriteZeroes { .. } if slot.ctx().dev.max_write_zeroes_sectors() == 0 => {
            write_zeroes(slot, 0);
        }
        Work::WriteZeroes { no_hole } => {
            slot.zeroed = None;
            slot.submit_empty(Op::WriteZeroes, sector, sectors, no_hole);
        }
        Work::Flush => slot.submit_empty(Op::Flush, 0, 0, false),
        // It has nothing to do on the disk, and never gets here.
        Work::Refused(_) => Request::end(slot, Status::OK),
    }
}

/// Goes on with a request that ended; gives it back if there is nothing left to do on the disk.
#[inline]
pub(super) fn proceed(mut slot: RequestSlot) -> Option<RequestSlot> {
    match (slot.work, slot.error, slot.zeroed) {
        // It can't; sometimes a disk finds that out when it is asked to.
        (Work::WriteZeroes { .. }, Some(NbdError::NotSup), None) => {
            write_zeroes(slot, 0);
            return None;
        }
        (Work::WriteZeroes { .. }, None, Some(done)) if done < slot.length => {
            write_zeroes(slot, done);
            return None;
        }
        // It is a hint, and this disk can't take it.
        (Work::Trim, Some(NbdError::NotSup), _) => slot.error = None,
        _ => {}
    }
    if slot.then_flush && slot.error.is_none() {
        slot.then_flush = false;
        slot.submit_empty(Op::Flush, 0, 0, false);
        return None;
    }
    Some(slot)
}

/// Writes zeroes from byte `done` of the request on, as many as go at once.
#[cold]
fn write_zeroes(mut slot: RequestSlot, done: u32) {
    let bytes = slot.length.saturating_sub(done).min(Zeroes::MAX_BYTES);
    let sector = slot.offset.saturating_add(u64::from(done)) >> SECTOR_SHIFT;
    slot.zeroed = Some(done.saturating_add(bytes));
    slot.error = None;
    slot.submit_zeroes(sector, bytes);
}

impl Lower<Arc<Disk>> for Request {
    fn lower(&mut self) -> &mut LowerBio {
        &mut self.lower
    }

    fn device<'a>(&'a self, disk: &'a Arc<Disk>) -> Option<&'a BackingDev> {
        Some(&disk.dev)
    }

    fn zeroes<'a>(&'a self, disk: &'a Arc<Disk>) -> Option<&'a Zeroes> {
        Some(&disk.zeroes)
    }

    fn span(&self) -> Option<&Span> {
        self.span.as_ref()
    }

    #[inline]
    fn end(mut slot: RequestSlot, status: Status) {
        slot.error = error(status);
        let ended = slot.ended.clone();
        ended.push(slot);
    }
}

/// What a client is told about the end of its request.
fn error(status: Status) -> Option<NbdError> {
    match status {
        Status::OK => None,
        Status::NOSPC => Some(NbdError::NoSpc),
        Status::NOTSUPP => Some(NbdError::NotSup),
        Status::RESOURCE => Some(NbdError::NoMem),
        _ => Some(NbdError::Io),
    }
}
