// SPDX-License-Identifier: GPL-2.0

//! Requests of our own: metadata, and data on their way from one copy to others.
//!
//! They are begun on the mirror's thread, end anywhere, and go back to the thread then. Each reads into, or is written
//! from, pages of its own.

use kernel::{
    sync::Arc,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    alg_mirror::Mask,
    kern::{
        bdev::BackingDev,
        bio::{
            BioPart,
            Status, //
        },
        lower::{
            Lower,
            LowerBio, //
        },
        pool::Slot,
        segments,
        span::Span, //
    },
};

use super::{
    Copy,
    Engine,
    Mirror, //
};

/// What a request is for.
#[derive(Clone, Copy)]
pub(super) enum What {
    /// A block of the log.
    Log,
    /// A superblock: the first one, then, in the same object, the other one, at `other`.
    Superblock { other: u64, second: bool },
    /// A flush.
    Flush,
    /// The superblocks of a copy that was away: both at once; if that fails each alone, first A.
    Look(Part),
    /// Data are read for copies that lack them.
    HealRead { id: u32, to: Mask },
    /// They are written to one copy after the other: `rest` is still to come, `ok` have them.
    HealWrite { id: u32, rest: Mask, ok: Mask },
    /// Zeroes for a copy that can't write them by a command, or data for one that can't take them as they lie in memory.
    Zeroes { fua: bool },
}

/// What of a copy's superblocks is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// B and A, which lie in this order.
    Both,
    /// A alone.
    A,
    /// B alone.
    B,
}

/// A request of our own.
pub(super) struct Own {
    lower: LowerBio,
    span: Option<Span>,
    pub(super) what: What,
    pub(super) copy: u32,
    /// First sector on the copy.
    pub(super) sector: u64,
    pub(super) status: Status,
}

/// The right to a request.
pub(super) type OwnSlot = Slot<Arc<Mirror>, Own>;

impl Own {
    /// A free object.
    pub(super) const fn free() -> Self {
        Self {
            lower: LowerBio::new(),
            span: None,
            what: What::Flush,
            copy: 0,
            sector: 0,
            status: Status::OK,
        }
    }

    /// Copies what was read; gives whether there was as much.
    pub(super) fn read(&self, at: u32, data: &mut [u8]) -> bool {
        self.span
            .as_ref()
            .is_some_and(|span| segments::get(span, at, data) == data.len())
    }

    /// Sets what is written.
    pub(super) fn write(&self, data: &[u8]) {
        if let Some(span) = &self.span {
            segments::put(span, data);
        }
    }

    /// Sets zeroes to be written.
    pub(super) fn zero(&self) {
        if let Some(span) = &self.span {
            segments::zero(span, 0, span.bytes());
        }
    }

    /// Sets what is written: that of a request, from byte `at` on.
    pub(super) fn copy(&self, part: &BioPart, at: u32) {
        if let Some(span) = &self.span {
            segments::copy(part, at, span);
        }
    }

    /// Gives back the pages.
    pub(super) fn clear(&mut self) {
        drop(self.span.take());
    }
}

impl Lower<Arc<Mirror>> for Own {
    fn lower(&mut self) -> &mut LowerBio {
        &mut self.lower
    }

    fn device<'a>(&'a self, _context: &'a Arc<Mirror>) -> Option<&'a BackingDev> {
        // Nodes submit it.
        None
    }

    fn span(&self) -> Option<&Span> {
        self.span.as_ref()
    }

    fn end(mut slot: OwnSlot, status: Status) {
        slot.status = status;
        let mirror = slot.ctx().clone();
        mirror.ended(slot.copy);
        mirror.owns.push(slot);
        mirror.kick();
    }
}

impl Engine {
    /// Takes an object for a request of so many bytes. On the thread.
    pub(super) fn own(&self, copy: u32, what: What, sector: u64, bytes: u32) -> OwnSlot {
        // There are enough for all that can be under way at once.
        let mut slot = self.owns.take();
        slot.what = what;
        slot.copy = copy;
        slot.sector = sector;
        slot.span = (bytes != 0).then(|| self.span(bytes));
        slot
    }

    /// Takes pages. Those that the network holds are left to it, and replaced, as soon as there is memory.
    fn span(&self, bytes: u32) -> Span {
        loop {
            if let Some(span) = self.pages.take(bytes) {
                return span;
            }
            if self.pages.replace() == 0 {
                fsleep(Delta::from_millis(1));
            }
        }
    }

    /// Sends a request to its copy. On the thread; may sleep for a free piece.
    pub(super) fn begin(&self, slot: OwnSlot, copy: &Copy) {
        if self.mirror.hold.is_lost() {
            // Not even to nodes that only we have: what they lack must be known when they are back.
            self.mirror.begins(copy.index);
            Own::end(slot, Status::IOERR);
            return;
        }
        let (write, fua) = match slot.what {
            What::Log | What::Superblock { .. } => (true, true),
            What::HealWrite { .. } => (true, false),
            What::Zeroes { fua } => (true, fua),
            What::Look(_) | What::HealRead { .. } => (false, false),
            What::Flush => {
                self.mirror.begins(copy.index);
                copy.node.serve(slot.into_flush());
                return;
            }
        };
        let sector = slot.sector;
        self.mirror.begins(copy.index);
        match slot.into_span(write, fua, sector) {
            Ok(bio) => copy.node.serve(bio),
            Err(slot) => Own::end(slot, Status::IOERR),
        }
    }
}
