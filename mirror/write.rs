// SPDX-License-Identifier: GPL-2.0

//! The objects of a request that changes data, or flushes: the request, a copy's share of it, and a flush before it.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};

use crate::{
    alg_mirror::{
        bit,
        Mask, //
    },
    kern::{
        bdev::BackingDev,
        bio::{
            Bio,
            BioPart,
            Op,
            Status, //
        },
        lower::{
            Lower,
            LowerBio, //
        },
        pool::{
            Pool,
            Shared,
            Slot, //
        },
    },
};

use super::Mirror;

/// A request that changes data, or a flush.
pub(super) struct Write {
    /// The bio from above; `None` only while the object is free.
    pub(super) part: Option<BioPart>,
    /// What the first object of its pool is called by the core.
    pub(super) first_id: u32,
    /// In the lower half the copies that have it, in the upper half those that can't do such a thing, or not as it is.
    pub(super) result: Atomic<u32>,
    /// The first error that a copy gave, as an errno, or 0.
    pub(super) errno: Atomic<i32>,
    /// While it is held: its place in the order of those that have been; 0: no read is served from it.
    pub(super) arrival: u64,
    /// Of a write whose flush is done: what keeps an object for it.
    pub(super) flushed: Option<Slot<Arc<Mirror>, Preflush>>,
}

pub(super) type WriteSlot = Slot<Arc<Mirror>, Write>;
pub(super) type SharedWrite = Shared<Arc<Mirror>, Write>;
pub(super) type LegPool = Pool<Arc<Mirror>, Leg>;

/// What of a [`Write`] one copy does.
pub(super) struct Leg {
    pub(super) write: Option<SharedWrite>,
    pub(super) copy: u32,
    pub(super) lower: LowerBio,
}

impl Write {
    pub(super) const fn free(first_id: u32) -> Self {
        Self {
            part: None,
            first_id,
            result: Atomic::new(0),
            errno: Atomic::new(0),
            arrival: 0,
            flushed: None,
        }
    }
}

/// The number that the core knows a request by.
pub(super) trait Numbered {
    fn id(&self) -> u32;
}

impl Numbered for WriteSlot {
    #[inline]
    fn id(&self) -> u32 {
        self.first_id + self.index()
    }
}

/// Where in [`Write::result`] the copies are that can't do such a thing.
pub(super) const UNABLE_SHIFT: u32 = Mask::BITS;

/// How a request ends. A command that a copy can't do is no error of the copy: the block layer does it another way.
pub(super) fn status(ok: bool, errno: i32) -> Status {
    if errno == EOPNOTSUPP.to_errno() {
        Status::NOTSUPP
    } else if ok {
        Status::OK
    } else if errno == 0 {
        Status::IOERR
    } else {
        Status::from_errno(Error::from_errno(errno))
    }
}

impl Lower<Arc<Mirror>> for Leg {
    fn lower(&mut self) -> &mut LowerBio {
        &mut self.lower
    }

    fn device<'a>(&'a self, _context: &'a Arc<Mirror>) -> Option<&'a BackingDev> {
        // Nodes submit it.
        None
    }

    fn part(&self) -> Option<&BioPart> {
        self.write.as_ref()?.part.as_ref()
    }

    #[inline]
    fn end(mut slot: Slot<Arc<Mirror>, Self>, status: Status) {
        let Some(write) = slot.write.take() else {
            return;
        };
        slot.ctx().ended(slot.copy);
        let copy = bit(slot.copy);
        drop(slot);
        // Each copy has bits of its own, and sets one of them once.
        if status.is_ok() {
            write.result.fetch_add(u32::from(copy), Relaxed);
        } else {
            let changes = |part: &BioPart| part.op() == Op::Write;
            let invalid = status == Status::INVAL && write.part.as_ref().is_some_and(changes);
            if invalid || status == Status::NOTSUPP {
                let unable = u32::from(copy) << UNABLE_SHIFT;
                write.result.fetch_add(unable, Relaxed);
            }
            if status != Status::NOTSUPP {
                // The first one counts.
                let _ = write.errno.cmpxchg(0, status.to_errno(), Relaxed);
            }
        }
        if let Some(slot) = write.release() {
            Mirror::finish(slot);
        }
    }
}

/// A write that waits for the flush before it.
pub(super) struct Preflush {
    pub(super) flush: LowerBio,
    pub(super) data: Option<Bio>,
}

impl Lower<Arc<Mirror>> for Preflush {
    fn lower(&mut self) -> &mut LowerBio {
        &mut self.flush
    }

    fn device<'a>(&'a self, _context: &'a Arc<Mirror>) -> Option<&'a BackingDev> {
        // It goes to all copies, by way of the mirror.
        None
    }

    fn end(mut slot: Slot<Arc<Mirror>, Self>, status: Status) {
        if !status.is_ok() {
            let bio = slot.data.take();
            drop(slot);
            if let Some(bio) = bio {
                bio.end(status);
            }
            return;
        }
        // The next step may sleep, this context may not.
        let mirror = slot.ctx().clone();
        mirror.flushed.push(slot);
        mirror.kick();
    }
}
