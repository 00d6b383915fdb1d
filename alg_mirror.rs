// SPDX-License-Identifier: GPL-2.0

//! The mirror: N copies that survive outages and crashes, and heal by themselves.
//!
//! This is the part that decides. It does no I/O, knows no clock, allocates nothing: whoever drives it tells
//! what has happened, and asks what is to be done. All calls are for one lock; those on the way of a request take
//! time that grows with its regions, and but little with what is in flight.
//!
//! - [`overlap`]: extents in flight; overlapping writes reach all copies in the same order.
//! - [`regions`]: what is known of each region of the storage, and its log on the copies.
//! - [`mod@write`]: a write's way from admission to acknowledgement; flushes go along with it.
//! - [`heal`]: what a copy lacks is copied to it.
//! - [`layout`]: where nodes go.
//! - [`jobs`]: what is to be written to the metadata of the copies, and what follows when it is.
//!
//! # What holds
//!
//! 1. Of two overlapping writes one is over on all copies before the other begins.
//! 2. A write goes only when the log on all copies in sync says that its regions are *active*: after a crash one
//!    copy is chosen, and all others get these regions from it.
//! 3. A write or flush is acknowledged only when each copy that the durable superblocks call *in sync* has it.
//!    So when a copy leaves, what it lacks is acknowledged after the superblocks of the others say that it is
//!    missing; its log says by then which regions were active.
//! 4. A copy is called in sync only when nothing is stale on it, durably.
//! 5. The last copy in sync never leaves: what fails on it is an error above.

// The paths are named since the host crate includes this file by its path, and would look beside it.
#[path = "alg_mirror/heal.rs"]
pub mod heal;
#[path = "alg_mirror/jobs.rs"]
pub mod jobs;
#[path = "alg_mirror/layout.rs"]
pub mod layout;
#[path = "alg_mirror/overlap.rs"]
pub mod overlap;
#[path = "alg_mirror/regions.rs"]
pub mod regions;
#[path = "alg_mirror/write.rs"]
pub mod write;

use core::ops::DerefMut;

use heal::Heal;
use jobs::Jobs;
use overlap::{
    Flight,
    Overlap,
    Waiter,
    NOBODY, //
};
use regions::{
    Block,
    Region,
    Regions, //
};
use write::Slot;

/// Copies, one for each bit.
pub type Mask = u16;

/// Copies that there can be.
pub const MAX_COPIES: u32 = Mask::BITS;

/// Slots beside those of requests: pieces of healing under way. Four of 128 KiB keep a disk and a link busy.
pub const HEAL_SLOTS: u32 = 4;

/// The mask of one copy; empty when there can't be such a copy.
pub const fn bit(copy: u32) -> Mask {
    match (1 as Mask).checked_shl(copy) {
        Some(mask) => mask,
        None => 0,
    }
}

/// The copies of a mask.
pub fn each(mask: Mask) -> impl Iterator<Item = u32> {
    (0..MAX_COPIES).filter(move |copy| mask & bit(*copy) != 0)
}

/// Memory that was handed in.
pub trait Memory<T>: DerefMut<Target = [T]> {}
impl<T, M: DerefMut<Target = [T]>> Memory<T> for M {}

/// The memory of a mirror.
pub struct Parts<S, F, W, R, B> {
    /// For each request, and [`HEAL_SLOTS`] more.
    pub slots: S,
    /// As many.
    pub flights: F,
    /// As many.
    pub waiters: W,
    /// One for each region.
    pub regions: R,
    /// One for each block of the log.
    pub blocks: B,
}

/// How a mirror is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Sectors of the storage.
    pub sectors: u64,
    /// Regions have `1 << region_shift` sectors.
    pub region_shift: u32,
    /// Entries in a block of the log.
    pub per_block: usize,
    /// Copies that belong to it and are there with complete data.
    pub in_sync: Mask,
    /// Copies that are there and lack something.
    pub healing: Mask,
    /// Copies that belong to it and are away.
    pub missing: Mask,
    /// Copies are away that may be in sync: the data need a new name.
    pub degraded: bool,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Writes that waited for an overlapping one.
    pub overlaps: u64,
    /// Writes that waited for the log.
    pub log_waits: u64,
    /// Blocks of the log that were written.
    pub log_writes: u64,
    /// Reads that overlapped a write under way.
    pub read_overlaps: u64,
    /// Reads that were served from a write that waited.
    pub read_held: u64,
    /// Reads that another copy served after an error.
    pub rescued: u64,
    /// Extents that were written again on a copy that could not read them.
    pub rewritten: u64,
    /// Sectors that were copied.
    pub healed: u64,
    /// What that was when the healing began that is going on, or was the last one.
    pub healed_before: u64,
    /// Times that a copy left.
    pub left: u64,
}

/// The state of a mirror.
pub struct Mirror<S, F, W, R, B> {
    slots: S,
    /// The slots from this one on are for healing.
    heal_from: u32,
    overlap: Overlap<F, W>,
    regions: Regions<R, B>,
    sectors: u64,
    /// Copies that belong to it.
    members: Mask,
    /// Copies whose data are complete.
    in_sync: Mask,
    /// Copies that get all writes, and lack something yet.
    healing: Mask,
    /// Copies that get no requests for now.
    suspended: Mask,
    /// The last copy in sync, while its server is away.
    away: Mask,
    /// The copies of both: no read goes there as long as there is another way.
    avoided: Mask,
    /// The copy that serves reads of what is being written.
    first: Mask,
    /// Granted by the overlaps, but something else is not ready yet.
    gated: List,
    /// To be sent.
    ready: List,
    /// Over, but the superblocks don't say yet what they must.
    leaving: List,
    /// To be acknowledged.
    ended: List,
    heal: Heal,
    jobs: Jobs,
    counters: Counters,
}

/// A list of slots, in order.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

impl List {
    const fn new() -> Self {
        Self {
            first: NOBODY,
            last: NOBODY,
        }
    }

    fn is_empty(&self) -> bool {
        self.first == NOBODY
    }

    fn push(&mut self, slots: &mut [Slot], id: u32) {
        if let Some(slot) = slots.get_mut(id as usize) {
            slot.next = NOBODY;
        }
        match slots.get_mut(self.last as usize) {
            Some(last) => last.next = id,
            None => self.first = id,
        }
        self.last = id;
    }

    fn pop(&mut self, slots: &mut [Slot]) -> Option<u32> {
        let id = self.first;
        let slot = slots.get_mut(id as usize)?;
        self.first = slot.next;
        slot.next = NOBODY;
        if self.first == NOBODY {
            self.last = NOBODY;
        }
        Some(id)
    }

    /// Takes all, to look at each of them again.
    fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }
}

impl<S, F, W, R, B> Mirror<S, F, W, R, B>
where
    S: DerefMut<Target = [Slot]>,
    F: DerefMut<Target = [Flight]>,
    W: DerefMut<Target = [Waiter]>,
    R: DerefMut<Target = [Region]>,
    B: DerefMut<Target = [Block]>,
{
    /// A mirror that has not begun: the log comes by [`Self::load`], then [`Self::begin`].
    pub fn new(parts: Parts<S, F, W, R, B>, config: &Config) -> Self {
        let count = u32::try_from(parts.slots.len()).unwrap_or(0);
        let in_sync = config.in_sync;
        let healing = config.healing & !in_sync;
        Self {
            slots: parts.slots,
            heal_from: count.saturating_sub(HEAL_SLOTS),
            overlap: Overlap::new(parts.flights, parts.waiters),
            regions: Regions::new(
                parts.regions,
                parts.blocks,
                config.per_block,
                config.region_shift,
            ),
            sectors: config.sectors,
            members: in_sync | healing | config.missing,
            in_sync,
            healing,
            suspended: 0,
            away: 0,
            avoided: 0,
            first: 0,
            gated: List::new(),
            ready: List::new(),
            leaving: List::new(),
            ended: List::new(),
            heal: Heal::new(),
            jobs: Jobs::new(in_sync, config.degraded),
            counters: Counters::default(),
        }
    }

    /// Takes over an entry of the log, as it was found on the copy that is believed.
    pub fn load(&mut self, region: usize, entry: u32) {
        self.regions.load(region, entry);
    }

    /// An entry says more than what was taken over, or nothing was.
    pub fn load_more(&mut self, region: usize, entry: u32) {
        self.regions.load_more(region, entry);
    }

    /// Takes over the number of the newest write of a block of the log, on whichever copy it was found.
    pub fn load_sequence(&mut self, block: usize, sequence: u64) {
        self.regions.load_sequence(block, sequence);
    }

    /// A copy on which nothing is believed holds something of its own in a region, or may.
    pub fn load_lacking(&mut self, region: usize, copy: u32) {
        self.regions.lack(region, copy);
    }

    /// Takes nothing on a copy for what it should be.
    pub fn lack_all(&mut self, copy: u32) {
        self.lack_from(copy, 0);
    }

    /// Takes nothing on a copy for what it should be, from a sector on; what lies before it has.
    pub fn lack_from(&mut self, copy: u32, sector: u64) {
        self.regions.lack_from(copy, sector);
        self.heal.begin_round();
    }

    /// Sectors from the start of which a copy lacks nothing, and no copy will; what was not flushed does not count.
    pub fn complete_to(&self, copy: u32) -> u64 {
        let end = self.regions.lacks_from(copy).unwrap_or(self.sectors);
        end.min(self.sectors)
    }

    /// Begins. What was active is stale on copies that are away; `source`, after an unclean stop: on all but this one,
    /// which is in sync. `all`: copies on which nothing is believed.
    ///
    /// No write goes before the superblocks say that the storage runs.
    pub fn begin(&mut self, source: Option<u32>, all: Mask) {
        // What their healing has left in the log: see `jobs`.
        for copy in each(self.in_sync) {
            self.regions.forget(copy);
        }
        for copy in each(self.members) {
            let behind = self.in_sync & bit(copy) == 0;
            let other = source.is_some_and(|source| source != copy);
            if behind || other {
                self.regions.leave(copy, all & bit(copy) != 0);
            }
            if self.attached() & bit(copy) != 0 {
                // Which copy the newest log was on is not remembered.
                self.regions.log_behind(copy);
            }
        }
        if let Some(source) = source {
            for copy in each(self.in_sync & !bit(source)) {
                if self.regions.stale(copy) != 0 {
                    self.in_sync &= !bit(copy);
                    self.healing |= bit(copy);
                }
            }
        }
        if source.is_some() || all != 0 {
            self.jobs.log_first();
        }
        self.jobs.change();
    }

    /// Copies that get all writes.
    pub fn attached(&self) -> Mask {
        self.in_sync | self.healing
    }

    /// Copies whose data are complete.
    pub fn in_sync(&self) -> Mask {
        self.in_sync
    }

    /// Copies that are brought up to date.
    pub fn healing(&self) -> Mask {
        self.healing
    }

    /// Copies that belong to it.
    pub fn members(&self) -> Mask {
        self.members
    }

    /// Copies that get no requests for now.
    pub fn suspended(&self) -> Mask {
        self.suspended
    }

    /// The last copy in sync, if its server is away; else none.
    pub fn away(&self) -> Mask {
        self.away
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sectors, at most, that a copy lacks.
    pub fn stale_sectors(&self, copy: u32) -> u64 {
        let regions = self.regions.stale(copy) as u64;
        let most = regions.saturating_mul(1 << self.regions.sector_shift());
        most.min(self.sectors)
    }

    /// A copy failed, or is lost: it leaves, unless it is the last one in sync. Gives whether it left.
    pub fn leave(&mut self, copy: u32) -> bool {
        let mask = bit(copy);
        if self.attached() & mask == 0 {
            return false;
        }
        if self.in_sync & !mask == 0 {
            // What was not flushed may be gone from it: those that are healed from it are not to have more.
            for other in each(self.healing) {
                self.regions.leave(other, false);
                self.heal.leave(other);
            }
            self.heal.begin_round();
            return false;
        }
        self.in_sync &= !mask;
        self.healing &= !mask;
        self.suspended &= !mask;
        self.set_away(copy, false);
        self.first &= !mask;
        self.regions.leave(copy, false);
        self.heal.leave(copy);
        self.counters.left += 1;
        self.jobs.leave(mask);
        self.look_again();
        true
    }

    /// A copy that was away is back. `all`: nothing on it is believed. Gives whether it is attached now; if not, perhaps
    /// later, when the superblocks say that it is away.
    pub fn back(&mut self, copy: u32, all: bool) -> bool {
        let mask = bit(copy);
        // While a crash may leave superblocks that call it in sync, it must not have a part in what is acknowledged.
        let counts = self.jobs.in_sync() & mask != 0;
        if self.members & mask == 0 || self.attached() & mask != 0 || counts {
            return false;
        }
        if all {
            self.regions.leave(copy, true);
            self.jobs.fresh(mask);
        }
        self.regions.log_behind(copy);
        if self.healing == 0 {
            self.counters.healed_before = self.counters.healed;
        }
        self.healing |= mask;
        self.heal.begin_round();
        self.jobs.change();
        true
    }

    /// Whether a new copy can get this number: there is none, and no superblock names the one that there was.
    pub fn is_free(&self, copy: u32) -> bool {
        let taken = self.members | self.jobs.in_sync() | self.jobs.gone();
        bit(copy) & !taken != 0
    }

    /// A new copy, with nothing on it. Gives whether its number was free.
    pub fn add(&mut self, copy: u32) -> bool {
        if !self.is_free(copy) {
            return false;
        }
        self.members |= bit(copy);
        self.back(copy, true)
    }

    /// Takes a copy out for ever, unless it is the last one in sync. Gives whether it is out.
    ///
    /// Requests that are with it may still end.
    pub fn remove(&mut self, copy: u32) -> bool {
        if self.members & bit(copy) == 0 || self.attached() & bit(copy) != 0 && !self.leave(copy) {
            return false;
        }
        self.members &= !bit(copy);
        self.suspended &= !bit(copy);
        self.set_away(copy, false);
        self.jobs.remove(bit(copy));
        self.look_again();
        true
    }

    /// From now on requests that must be sent to a copy wait.
    pub fn suspend(&mut self, copy: u32) {
        self.suspended |= bit(copy) & self.members;
        self.avoided = self.suspended | self.away;
    }

    /// They go on.
    pub fn resume(&mut self, copy: u32) {
        self.suspended &= !bit(copy);
        self.avoided = self.suspended | self.away;
        // Another one may have served what is being written meanwhile; this one may be believed after a crash.
        self.first = 0;
        self.heal.begin_round();
        self.look_again();
    }

    /// The server of the last copy in sync, which can't leave, is away, or is there again. While it is away reads go to
    /// others if these are sure to hold the same; what is being written is not sure.
    pub fn set_away(&mut self, copy: u32, away: bool) {
        let mask = bit(copy);
        self.away = if away && self.in_sync == mask {
            mask
        } else {
            self.away & !mask
        };
        self.avoided = self.suspended | self.away;
    }

    /// A second has passed.
    pub fn tick(&mut self) {
        self.regions.tick();
        self.jobs.tick();
        self.heal.tick();
    }

    /// Prepares for a clean end: no more requests come. [`Self::is_stopped`] tells when all is written.
    pub fn stop(&mut self) {
        self.jobs.stop();
    }
}
