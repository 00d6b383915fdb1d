// SPDX-License-Identifier: GPL-2.0

//! What was submitted, acknowledged, flushed and seen; and what may be read therefore.

use dst_core::alg_mirror::overlap::Extent;

/// Writes are numbered in the order of their coming. Overlapping ones reach all copies in that order, so of each
/// sector a greater number is a newer state.
pub(crate) struct Oracle {
    /// The last number.
    pub(crate) last: u64,
    /// The newest write that was submitted, for each sector.
    pub(crate) submitted: Vec<u64>,
    /// The least that a read may find: what was acknowledged.
    pub(crate) floor: Vec<u64>,
    /// The least that is there whatever loses its power.
    pub(crate) durable: Vec<u64>,
    /// The newest that was read.
    pub(crate) seen: Vec<u64>,
    /// How often something acknowledged was lost, legally.
    pub(crate) losses: u64,
}

pub(crate) fn sectors(extent: Extent) -> std::ops::Range<usize> {
    extent.start as usize..extent.end as usize
}

impl Oracle {
    pub(crate) fn new(sectors: usize) -> Self {
        Self {
            last: 0,
            submitted: vec![0; sectors],
            floor: vec![0; sectors],
            durable: vec![0; sectors],
            seen: vec![0; sectors],
            losses: 0,
        }
    }

    pub(crate) fn submit(&mut self, extent: Extent) -> u64 {
        self.last += 1;
        self.submitted[sectors(extent)].fill(self.last);
        self.last
    }

    pub(crate) fn acknowledge(&mut self, extent: Extent, version: u64, fua: bool) {
        for at in sectors(extent) {
            self.floor[at] = self.floor[at].max(version);
            if fua {
                self.durable[at] = self.durable[at].max(version);
            }
        }
    }

    /// A flush is acknowledged that began when `floor` was acknowledged.
    pub(crate) fn flushed(&mut self, floor: &[u64]) {
        for (durable, floor) in self.durable.iter_mut().zip(floor) {
            *durable = (*durable).max(*floor);
        }
    }

    /// All that counted have lost what was not durable there; `left` is what they hold.
    pub(crate) fn lose(&mut self, left: impl Fn(u64) -> u64) {
        for (at, floor) in self.floor.iter_mut().enumerate() {
            let left = left(at as u64).max(self.durable[at]);
            if left < *floor {
                *floor = left;
                self.losses += 1;
            }
        }
        self.seen.fill(0);
    }

    /// The least that a read that begins now may find.
    pub(crate) fn least(&self, sector: usize) -> u64 {
        self.floor[sector].max(self.seen[sector])
    }
}
