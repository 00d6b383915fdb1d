// SPDX-License-Identifier: GPL-2.0

//! What is known of each region: which copies lack something there, and whether they may differ.
//!
//! There are up to three versions of an entry: what is *wanted*, what is being written to the log (*flying*),
//! and what is *durable* there. A write may go when both the durable and the flying entry say that its
//! region is active: whichever of them a crash leaves behind says so.

use core::ops::DerefMut;

use super::Mask;

/// Of an entry: the copies that lack what was written.
pub const STALE: u32 = 0xffff;
/// Of an entry: writes are in flight, or not yet flushed on all copies.
pub const ACTIVE: u32 = 1 << 16;
/// Of an entry: the region was written to at some time.
pub const WRITTEN: u32 = 1 << 17;

/// Ticks without a write after which a region is no longer active: writers that pause for a few seconds
/// don't pay for the log again.
const IDLE_TICKS: u8 = 5;

/// A region.
#[derive(Clone, Copy, Debug, Default)]
pub struct Region {
    want: u32,
    durable: u32,
    flying: u32,
    /// Writes in flight.
    writes: u16,
    /// Copies that were brought up to date here, but were not flushed since.
    healed: Mask,
    /// Ticks since the last write; at most [`IDLE_TICKS`].
    age: u8,
    /// A flush is under way that began after its last write.
    flushing: bool,
    /// A flush is under way that began after it was healed.
    sealing: bool,
}

/// A block of the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Block {
    /// Copies whose log lacks the newest content.
    behind: Mask,
    /// Being written.
    flying: bool,
    /// Entries differ from what is written, or being written.
    changed: bool,
    /// A write waits for it.
    urgent: bool,
    sequence: u64,
}

/// All regions.
pub struct Regions<R, B> {
    regions: R,
    blocks: B,
    /// Entries in a block.
    per_block: usize,
    /// A region has `1 << shift` sectors.
    shift: u32,
    /// Regions that are active, as is wanted.
    active: usize,
    /// Regions where each copy lacks something, as is wanted.
    stale: [usize; 16],
    /// Where the search for what is stale goes on.
    cursor: usize,
    /// A write may wait for a block.
    urgent: bool,
    /// Something may have been healed since the last flush began.
    healed: bool,
}

impl<R, B> Regions<R, B>
where
    R: DerefMut<Target = [Region]>,
    B: DerefMut<Target = [Block]>,
{
    /// Nothing was ever written. A block of the log has `per_block` entries, a region `1 << shift` sectors.
    pub fn new(regions: R, blocks: B, per_block: usize, shift: u32) -> Self {
        Self {
            regions,
            blocks,
            per_block: per_block.max(1),
            shift,
            active: 0,
            stale: [0; 16],
            cursor: 0,
            urgent: false,
            healed: false,
        }
    }

    /// Whether a write may wait for a block.
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Takes over an entry as it was read from the log of one copy. That of another one may be older: nothing is durable
    /// before it is written anew.
    pub fn load(&mut self, at: usize, entry: u32) {
        self.set(at, entry & (STALE | ACTIVE | WRITTEN));
    }

    /// Adds something to an entry that was taken over.
    pub fn load_more(&mut self, at: usize, entry: u32) {
        let want = self.regions.get(at).map_or(0, |region| region.want);
        self.load(at, want | entry);
    }

    /// A copy has something else in a region: it counts as written, and the copy lacks it.
    pub fn lack(&mut self, at: usize, copy: u32) {
        let bit = 1u32.checked_shl(copy).unwrap_or(0) & STALE;
        let want = self.regions.get(at).map_or(0, |region| region.want);
        self.set(at, want | WRITTEN | bit);
    }

    /// The same in all regions from `sector` on; in all others it has what others have.
    pub fn lack_from(&mut self, copy: u32, sector: u64) {
        // Of a region in the midst of which it lies nothing is believed.
        let first = usize::try_from(sector >> self.shift).unwrap_or(usize::MAX);
        for at in 0..self.regions.len() {
            if at < first {
                self.load_more(at, WRITTEN);
            } else {
                self.lack(at, copy);
            }
        }
    }

    /// The first sector of the first region where a copy lacks something, or any may lose something with its power.
    pub fn lacks_from(&self, copy: u32) -> Option<u64> {
        let bit = 1u32.checked_shl(copy).unwrap_or(0) & STALE | ACTIVE;
        let at = self
            .regions
            .iter()
            .position(|region| region.want & bit != 0)?;
        Some(self.sectors(at).0)
    }

    /// Takes over the number of the newest write of a block of the log.
    pub fn load_sequence(&mut self, block: usize, sequence: u64) {
        if let Some(block) = self.blocks.get_mut(block) {
            block.sequence = sequence;
        }
    }

    /// The regions that have sectors of it: first, and the one behind the last.
    pub fn range(&self, start: u64, end: u64) -> (usize, usize) {
        let last = end.saturating_sub(1) >> self.shift;
        let count = self.regions.len();
        let clamp = |at: u64| usize::try_from(at).map_or(count, |at| at.min(count));
        (clamp(start >> self.shift), clamp(last.saturating_add(1)))
    }

    /// First and last sector of a region, the latter as far as sector numbers go.
    pub fn sectors(&self, at: usize) -> (u64, u64) {
        let at = at as u64;
        let edge = |at: u64| at.saturating_mul(1 << self.shift);
        (edge(at), edge(at.saturating_add(1)))
    }

    /// Sectors of a region, as power of two.
    pub fn sector_shift(&self) -> u32 {
        self.shift
    }

    fn block_of(&self, at: usize) -> usize {
        at / self.per_block
    }

    /// The regions of a block.
    fn in_block(&mut self, block: usize) -> &mut [Region] {
        let first = block.saturating_mul(self.per_block).min(self.regions.len());
        let end = first.saturating_add(self.per_block).min(self.regions.len());
        self.regions.get_mut(first..end).unwrap_or(&mut [])
    }

    /// Changes what is wanted; keeps all sums.
    fn set(&mut self, at: usize, entry: u32) {
        let block = self.block_of(at);
        let Some(region) = self.regions.get_mut(at) else {
            return;
        };
        let old = region.want;
        region.want = entry;
        let changed = old ^ entry;
        if changed == 0 {
            return;
        }
        if changed & ACTIVE != 0 {
            match entry & ACTIVE {
                0 => self.active = self.active.saturating_sub(1),
                _ => self.active += 1,
            }
        }
        if changed & STALE != 0 {
            for (copy, count) in self.stale.iter_mut().enumerate() {
                let bit = 1 << copy;
                if changed & bit != 0 {
                    match entry & bit {
                        0 => *count = count.saturating_sub(1),
                        _ => *count += 1,
                    }
                }
            }
        }
        // While it is flying, the difference to that decides.
        let seen = self.blocks.get(block).is_some_and(|block| block.flying);
        let against = if seen { region.flying } else { region.durable };
        if entry != against {
            if let Some(block) = self.blocks.get_mut(block) {
                block.changed = true;
            }
        }
    }

    /// A write to these sectors begins; `missing` don't get it. `false`: it must wait for the log.
    pub fn write_begin(&mut self, start: u64, end: u64, missing: Mask) -> bool {
        let (first, last) = self.range(start, end);
        let mut ready = true;
        for at in first..last {
            let Some(region) = self.regions.get_mut(at) else {
                break;
            };
            region.age = 0;
            region.flushing = false;
            let want = region.want | ACTIVE | WRITTEN | u32::from(missing);
            if want != region.want {
                self.set(at, want);
            }
            ready &= self.is_active(at, true);
        }
        ready
    }

    /// Whether all of these sectors are active in the log, whatever happens.
    pub fn may_write(&self, start: u64, end: u64) -> bool {
        let (first, last) = self.range(start, end);
        (first..last).all(|at| {
            self.regions.get(at).is_some_and(|region| {
                let flying = self.blocks.get(self.block_of(at)).is_some_and(|b| b.flying);
                region.is_active(flying)
            })
        })
    }

    fn is_active(&mut self, at: usize, ask: bool) -> bool {
        let block = self.block_of(at);
        let (Some(region), Some(block)) = (self.regions.get(at), self.blocks.get_mut(block)) else {
            return true;
        };
        // What is on its way into the log need not be written twice.
        let asked = block.flying && says_active(region.flying);
        let active = region.is_active(block.flying);
        if !active && !asked && ask {
            block.urgent = true;
            block.changed = true;
            self.urgent = true;
        }
        active
    }

    /// Counts a write that goes.
    pub fn write_goes(&mut self, start: u64, end: u64) {
        let (first, last) = self.range(start, end);
        for region in self.regions.get_mut(first..last).unwrap_or(&mut []) {
            region.writes = region.writes.saturating_add(1);
        }
    }

    /// A write that went is over; `lacking` didn't get it.
    pub fn write_end(&mut self, start: u64, end: u64, lacking: Mask) {
        let (first, last) = self.range(start, end);
        for at in first..last {
            let Some(region) = self.regions.get_mut(at) else {
                break;
            };
            region.writes = region.writes.saturating_sub(1);
            region.age = 0;
            region.healed &= !lacking;
            let want = region.want | u32::from(lacking);
            self.set(at, want);
        }
    }

    /// A copy leaves: what may differ is stale on it. `all`: so is everything that was ever written.
    pub fn leave(&mut self, copy: u32, all: bool) {
        let which = if all { WRITTEN } else { ACTIVE };
        let bit = 1u32.checked_shl(copy).unwrap_or(0) & STALE;
        for at in 0..self.regions.len() {
            let Some(region) = self.regions.get_mut(at) else {
                break;
            };
            region.healed &= !(bit as Mask);
            if region.want & which != 0 && region.want & bit == 0 {
                let want = region.want | bit;
                self.set(at, want);
            }
        }
    }

    /// Forgets what a copy lacks: it is no copy any more.
    pub fn forget(&mut self, copy: u32) {
        let bit = 1u32.checked_shl(copy).unwrap_or(0) & STALE;
        for at in 0..self.regions.len() {
            let want = self.regions.get(at).map_or(0, |region| region.want);
            if want & bit != 0 {
                self.set(at, want & !bit);
            }
        }
        for block in self.blocks.iter_mut() {
            block.behind &= !(bit as Mask);
        }
    }

    /// Regions where a copy lacks something.
    pub fn stale(&self, copy: u32) -> usize {
        self.stale.get(copy as usize).copied().unwrap_or(0)
    }

    /// Copies that lack something in these sectors.
    pub fn stale_in(&self, start: u64, end: u64) -> Mask {
        let (first, last) = self.range(start, end);
        let regions = self.regions.get(first..last).unwrap_or(&[]);
        // The mask is the lower half of the entry.
        regions.iter().fold(0, |sum, region| {
            sum | ((region.want & STALE) as Mask & !region.healed)
        })
    }

    /// Whether each of these regions was written to at some time.
    pub fn is_written_to(&self, start: u64, end: u64) -> bool {
        let (first, last) = self.range(start, end);
        let regions = self.regions.get(first..last).unwrap_or(&[]);
        regions.iter().all(|region| region.want & WRITTEN != 0)
    }

    /// The next region where one of `copies` lacks something, and which of them; it is not found again in this
    /// round. A round is over when `None` comes.
    pub fn next_stale(&mut self, copies: Mask) -> Option<(usize, Mask)> {
        if self.stale.iter().all(|count| *count == 0) {
            self.cursor = 0;
            return None;
        }
        let from = self.cursor;
        for (at, region) in self.regions.iter().enumerate().skip(from) {
            let stale = (region.want & STALE) as Mask & copies & !region.healed;
            if stale != 0 {
                self.cursor = at + 1;
                return Some((at, stale));
            }
        }
        self.cursor = 0;
        None
    }

    /// Copies hold all of the region, but perhaps not durably.
    pub fn healed(&mut self, at: usize, copies: Mask) {
        self.healed = true;
        if let Some(region) = self.regions.get_mut(at) {
            region.healed |= copies & (region.want & STALE) as Mask;
            region.sealing = false;
        }
    }

    /// A second has passed.
    pub fn tick(&mut self) {
        if self.active != 0 {
            for region in self.regions.iter_mut() {
                if region.want & ACTIVE != 0 && region.writes == 0 && region.age < IDLE_TICKS {
                    region.age += 1;
                }
            }
        }
    }

    /// Begins a flush of all copies: gives whether it would change anything. `now`: don't wait until regions are idle.
    pub fn flush_begin(&mut self, now: bool) -> bool {
        if self.active == 0 && !self.healed {
            return false;
        }
        self.healed = false;
        let mut any = false;
        for region in self.regions.iter_mut() {
            let idle = region.writes == 0
                && region.want & ACTIVE != 0
                && (now || region.age >= IDLE_TICKS);
            region.flushing = idle;
            region.sealing = region.healed != 0;
            any |= idle || region.sealing;
        }
        any
    }

    /// The flush has ended well on `copies`, which are all that are attached: what was written before it is equal.
    pub fn flush_end(&mut self, copies: Mask) {
        for at in 0..self.regions.len() {
            let Some(region) = self.regions.get_mut(at) else {
                break;
            };
            let mut want = region.want;
            if region.flushing && region.writes == 0 {
                want &= !ACTIVE;
            }
            region.flushing = false;
            if region.sealing {
                want &= !u32::from(region.healed & copies);
                region.healed &= !copies;
            }
            region.sealing = false;
            let healed = region.healed != 0;
            let changed = want != region.want;
            self.healed |= healed;
            if changed {
                self.set(at, want);
            }
        }
    }

    /// The flush failed.
    pub fn flush_failed(&mut self) {
        self.healed = true;
        for region in self.regions.iter_mut() {
            region.flushing = false;
            region.sealing = false;
        }
    }

    /// Whether no region is active.
    pub fn is_quiet(&self) -> bool {
        self.active == 0
    }

    /// A copy's log lacks everything.
    pub fn log_behind(&mut self, copy: u32) {
        let bit = Mask::try_from(1u32.checked_shl(copy).unwrap_or(0)).unwrap_or(0);
        for block in self.blocks.iter_mut() {
            block.behind |= bit;
        }
    }

    /// Copies whose log lacks something.
    pub fn behind(&self) -> Mask {
        self.blocks.iter().fold(0, |sum, block| sum | block.behind)
    }

    /// Whether the log on all of `copies` says what is wanted.
    pub fn is_written(&self, copies: Mask) -> bool {
        self.blocks
            .iter()
            .all(|block| !block.flying && !block.changed && block.behind & copies == 0)
    }

    /// A block of the log to be written; `urgent`: only one for which a write waits.
    pub fn next_block(&mut self, urgent: bool, copies: Mask) -> Option<usize> {
        if urgent && !self.urgent {
            return None;
        }
        let found = self.blocks.iter().position(|block| {
            let wanted = if urgent {
                block.urgent
            } else {
                block.changed || block.behind & copies != 0
            };
            wanted && !block.flying
        });
        if urgent && found.is_none() {
            self.urgent = false;
        }
        self.take_block(found?)
    }

    /// A block of the log, not before this one, that says something else than what is wanted.
    pub fn next_changed(&mut self, from: usize) -> Option<usize> {
        let wanted = |block: &Block| block.changed && !block.flying;
        let rest = self.blocks.iter().skip(from);
        let at = rest.zip(from..).find(|(block, _)| wanted(block))?.1;
        self.take_block(at)
    }

    fn take_block(&mut self, at: usize) -> Option<usize> {
        let block = self.blocks.get_mut(at)?;
        block.flying = true;
        block.changed = false;
        block.urgent = false;
        block.sequence = block.sequence.saturating_add(1);
        for region in self.in_block(at) {
            region.flying = region.want;
        }
        Some(at)
    }

    /// What is to be written to a block that [`Self::next_block`] named.
    pub fn entry(&self, block: usize, at: usize) -> u32 {
        let index = block.saturating_mul(self.per_block).saturating_add(at);
        self.regions.get(index).map_or(0, |region| region.flying)
    }

    /// The number of the newest write of a block.
    pub fn sequence(&self, block: usize) -> u64 {
        self.blocks.get(block).map_or(0, |block| block.sequence)
    }

    /// A block was written on `ok`, not on `failed`. `durable`: on all that must have it.
    pub fn block_done(&mut self, at: usize, ok: Mask, failed: Mask, durable: bool) {
        let mut changed = false;
        if durable {
            for region in self.in_block(at) {
                region.durable = region.flying;
                changed |= region.want != region.durable;
            }
        } else {
            for region in self.in_block(at) {
                // Either of them may be there.
                region.durable &= region.flying;
                changed |= region.want != region.durable;
            }
        }
        let Some(block) = self.blocks.get_mut(at) else {
            return;
        };
        block.flying = false;
        block.changed |= changed;
        // As long as it is not on all that must have it, it is on none.
        let ok = if durable { ok } else { 0 };
        block.behind = (block.behind & !ok) | failed;
        block.urgent |= !durable;
        block.changed |= changed || !durable;
        self.urgent |= block.urgent;
    }
}

impl Region {
    fn is_active(&self, flying: bool) -> bool {
        let sure = if flying {
            self.durable & self.flying
        } else {
            self.durable
        };
        says_active(sure)
    }
}

/// Whether an entry says what a write needs.
const fn says_active(entry: u32) -> bool {
    entry & (ACTIVE | WRITTEN) == ACTIVE | WRITTEN
}
