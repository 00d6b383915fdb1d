// SPDX-License-Identifier: GPL-2.0

//! What every request to a node has in common: its counters, and who must be flushed.
//!
//! Each node has its own [`Pool`](crate::kern::pool::Pool) of preallocated pieces, so that a node that is
//! lost can't take the pieces of the others. A piece holds a share of the bio from above
//! ([`BioPart`](crate::kern::bio::BioPart)); the bio ends when its last share does. Nothing here
//! allocates, sleeps or takes a lock; all of it may run in interrupt context.

use kernel::sync::atomic::{
    Acquire,
    Atomic,
    Full,
    Relaxed,
    Release, //
};

use crate::kern::bio::{
    Op,
    Status, //
};
use crate::uapi;

/// Sectors are 512 bytes, whatever the block size.
pub(crate) const SECTOR_SHIFT: u32 = 9;

/// Gives the counter of `op`.
fn stat(op: Op) -> usize {
    match op {
        Op::Read => uapi::STAT_READ,
        Op::Write => uapi::STAT_WRITE,
        Op::Flush => uapi::STAT_FLUSH,
        Op::Discard | Op::WriteZeroes | Op::Other => uapi::STAT_DISCARD,
    }
}

/// Counters of a node or an export.
pub(crate) struct Counters {
    requests: [Atomic<u64>; uapi::STATS],
    bytes: [Atomic<u64>; uapi::STATS],
    errors: Atomic<u64>,
}

impl Counters {
    /// All zero.
    pub(crate) const fn new() -> Self {
        Self {
            requests: [const { Atomic::new(0) }; uapi::STATS],
            bytes: [const { Atomic::new(0) }; uapi::STATS],
            errors: Atomic::new(0),
        }
    }

    /// Counts a finished request of `bytes` bytes.
    #[inline]
    pub(crate) fn finished(&self, op: Op, bytes: u32, status: Status) {
        if status == Status::NOTSUPP {
            // It can't do that, and the submitter knows another way: nothing is wrong with it.
            return;
        }
        if !status.is_ok() {
            self.errors.add(1, Relaxed);
            return;
        }
        let index = stat(op);
        if let (Some(requests), Some(sum)) = (self.requests.get(index), self.bytes.get(index)) {
            requests.add(1, Relaxed);
            if index != uapi::STAT_FLUSH {
                sum.add(u64::from(bytes), Relaxed);
            }
        }
    }

    /// Finished requests by kind.
    pub(crate) fn requests(&self) -> [u64; uapi::STATS] {
        core::array::from_fn(|i| self.requests.get(i).map_or(0, |n| n.load(Relaxed)))
    }

    /// Finished bytes by kind.
    pub(crate) fn bytes(&self) -> [u64; uapi::STATS] {
        core::array::from_fn(|i| self.bytes.get(i).map_or(0, |n| n.load(Relaxed)))
    }

    /// Requests that have ended, well or not.
    pub(crate) fn ended(&self) -> u64 {
        let requests = self.requests();
        requests
            .iter()
            .fold(self.errors(), |sum, kind| sum.wrapping_add(*kind))
    }

    /// Requests that failed.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }
}

/// Whether a node holds written data that no flush has covered yet.
///
/// A write counts from its completion on: a flush must cover the writes that were answered before it was
/// asked for, and no others. So a flush may be left out if nothing was completed since the last flush
/// *began*, and that one has ended well.
pub(crate) struct FlushState {
    /// A write ended since a flush began (or a flush failed).
    dirty: Atomic<bool>,
    /// Flushes under way.
    flushing: Atomic<u32>,
}

impl FlushState {
    /// Nothing to flush... as far as we know: what was written before us is unknown, so a first flush is
    /// passed on.
    pub(crate) const fn new() -> Self {
        Self {
            dirty: Atomic::new(true),
            flushing: Atomic::new(0),
        }
    }

    /// A write (or zeroing, or discard) has ended well; call it before its bio is ended.
    #[inline]
    pub(crate) fn wrote(&self) {
        if !self.dirty.load(Relaxed) {
            self.dirty.store(true, Release);
        }
    }

    /// Whether there is nothing to flush.
    pub(crate) fn is_clean(&self) -> bool {
        // Look at `dirty` on both sides of `flushing`: a flush that failed in between has set `dirty`
        // before it left `flushing`, one that began in between was in `flushing` before it cleared `dirty`.
        !self.dirty.load(Acquire) && self.flushing.load(Acquire) == 0 && !self.dirty.load(Acquire)
    }

    /// Begins a flush; `false` if there is nothing to flush, and then [`Self::end`] must not be called.
    pub(crate) fn begin(&self) -> bool {
        if self.is_clean() {
            return false;
        }
        self.flushing.fetch_add(1, Full);
        self.dirty.xchg(false, Full);
        true
    }

    /// Ends a flush that [`Self::begin`] began.
    pub(crate) fn end(&self, ok: bool) {
        if !ok {
            self.dirty.store(true, Release);
        }
        self.flushing.fetch_sub(1, Full);
    }
}
