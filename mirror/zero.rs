// SPDX-License-Identifier: GPL-2.0

//! Zeroes for copies that can't write them by a command, and data for those that can't take them as they lie in memory.
//!
//! Many disks say that they can write zeroes, until they are asked the first time. By then other copies hold zeroes, so the
//! request can't be refused: those that can't get ordinary writes, before the request ends. From then on the mirror says no
//! to such commands, and the block layer writes the zeroes itself.
//!
//! That a write is invalid a disk says if its data lie in too many pieces, or with gaps that its hardware can't do. What
//! users give us is not like that ([`Limits::buffer_mask`](crate::kern::disk::Limits::buffer_mask)), but other drivers may
//! stand above. It is no failure of the copy; but some of the write may be done, there and elsewhere, so it can't just end
//! either. Such a copy gets the data from pages of our own.

use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};

use crate::{
    alg_mirror::{
        bit,
        each,
        overlap::Extent,
        Mask, //
    },
    kern::bio::Op,
    request::SECTOR_SHIFT,
};

use super::{
    own::What,
    thread::Steward,
    write::{
        WriteSlot,
        UNABLE_SHIFT, //
    },
    Mirror,
    ALL_WRITES, //
};

/// Sectors of one write: 128 KiB, what pages are kept for.
const PIECE: u64 = 256;

/// A request whose zeroes, or data, are being written.
struct Now {
    write: WriteSlot,
    /// Copies that still have to get them; the first one is at it.
    rest: Mask,
    /// Where it goes on, and where the request begins and ends, in sectors.
    at: u64,
    start: u64,
    end: u64,
}

/// What the thread knows of such requests: it serves one after the other.
pub(super) struct Zeroing {
    now: Option<Now>,
    waiting: KVec<WriteSlot>,
}

impl Zeroing {
    /// With places for all requests that there can be.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            now: None,
            waiting: KVec::with_capacity(ALL_WRITES as usize, GFP_KERNEL)?,
        })
    }
}

impl Now {
    fn new(write: WriteSlot) -> Self {
        let part = write.part.as_ref();
        let Extent { start, end } = part.map_or(Extent::default(), |part| {
            write.ctx().extent(part.sector(), part.bytes())
        });
        Self {
            rest: (write.result.load(Relaxed) >> UNABLE_SHIFT) as Mask,
            write,
            at: start,
            start,
            end,
        }
    }

    /// The first copy has them all, or never will.
    fn next_copy(&mut self, good: bool) {
        let copy = each(self.rest).next().map_or(0, bit);
        self.rest &= !copy;
        self.at = self.start;
        if good {
            self.write.result.fetch_add(u32::from(copy), Relaxed);
        }
    }

    /// All copies that can have them do: the request ends.
    fn finish(self) {
        let done = self.write.result.load(Relaxed) as Mask;
        self.write.result.store(u32::from(done), Relaxed);
        Mirror::finish(self.write);
    }
}

impl Steward {
    /// Begins with the next request, if there is one and none is being served.
    pub(super) fn zero(&mut self) {
        for slot in self.engine.mirror.unable.take_all() {
            // There are as many places as objects; without the zeroes, the copies leave.
            if let Err(refused) = self.zeroing.waiting.push_within_capacity(slot) {
                Now::new(refused.0).finish();
            }
        }
        while self.zeroing.now.is_none() {
            let Some(write) = self.zeroing.waiting.pop() else {
                return;
            };
            self.zeroing.now = Some(Now::new(write));
            self.zero_on();
        }
    }

    /// A copy has got a piece, or not.
    pub(super) fn zeroed(&mut self, good: bool) {
        if let Some(now) = self.zeroing.now.as_mut() {
            if good {
                now.at = now.at.saturating_add(PIECE);
            } else {
                now.next_copy(false);
            }
        }
        self.zero_on();
    }

    /// Writes the next piece.
    fn zero_on(&mut self) {
        let Some(mut now) = self.zeroing.now.take() else {
            return;
        };
        while let Some(index) = each(now.rest).next() {
            if now.at >= now.end {
                now.next_copy(true);
                continue;
            }
            let copy = {
                let inner = self.engine.mirror.inner.lock();
                let attached = inner.core.attached() & bit(index) != 0;
                inner.copy(index).filter(|_| attached)
            };
            let Some(copy) = copy else {
                now.next_copy(false);
                continue;
            };
            let fua = now.write.part.as_ref().is_some_and(|part| part.fua());
            // 128 KiB at most.
            let bytes = (now.end.saturating_sub(now.at).min(PIECE) << SECTOR_SHIFT) as u32;
            let slot = self.engine.own(index, What::Zeroes { fua }, now.at, bytes);
            match now.write.part.as_ref() {
                // Bytes of a bio: it has less than 4 GiB.
                Some(part) if part.op() == Op::Write => {
                    slot.copy(
                        part,
                        (now.at.saturating_sub(now.start) << SECTOR_SHIFT) as u32,
                    );
                }
                _ => slot.zero(),
            }
            self.zeroing.now = Some(now);
            self.engine.begin(slot, &copy);
            return;
        }
        now.finish();
    }
}
