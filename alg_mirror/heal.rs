// SPDX-License-Identifier: GPL-2.0

//! Healing: what a copy lacks is copied to it, while requests go on.
//!
//! A slot takes a region that is stale on some copies and walks through it, piece by piece. A piece is in flight like a
//! write, so that an overlapping write comes before or after it, never amid it; and as the copies that are healed get
//! all writes, the region is equal when the last piece is done. A flush makes that durable ([`super::regions`]), then
//! the log forgets that it was stale.
//!
//! A copy that could not read an extent gets it from another one in the same way. The copy counts as in sync
//! meanwhile, so the log must say that the region is active, as for a write.
//!
//! # Pace
//!
//! As long as there are no requests it goes as fast as it can, up to the maximum. While there are, one piece is in flight
//! at a time, and what may be copied in a tenth of a second shrinks by an eighth each time, down to the minimum.

use core::ops::DerefMut;

use super::{
    bit,
    each,
    overlap::{
        Extent,
        Flight,
        Waiter, //
    },
    regions::{
        Block,
        Region, //
    },
    write::Slot,
    List,
    Mask,
    Mirror,
    HEAL_SLOTS, //
};

/// Sectors of a piece, at most: 128 KiB, which a disk serves in one go, and which holds up a write for a moment only.
const PIECE: u64 = 256;

/// Extents that wait to be written again on a copy that could not read them. More are dropped: whoever reads them finds
/// them again.
const REWRITES: usize = 8;

/// The minimum unless somebody says otherwise, in sectors a second: 4 MiB, little for a disk, and a TiB in three days.
pub const DEFAULT_MIN: u64 = 8192;

/// Credits in a second.
const CREDITS: u64 = 10;

/// A piece that is to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its number.
    pub id: u32,
    /// What.
    pub extent: Extent,
    /// The copy that has it.
    pub from: u32,
    /// The copies that lack it.
    pub to: Mask,
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// A region is healed.
    Region(usize),
    /// A copy gets what it could not read.
    Rewrite,
}

/// What a slot works on.
#[derive(Clone, Copy, Debug)]
struct Walk {
    task: Task,
    /// The piece in flight, or the next one.
    extent: Extent,
    /// Where it ends.
    end: u64,
    to: Mask,
    from: u32,
    /// Copies that could not read the piece.
    bad: Mask,
    /// The piece is in flight, or waits for what it overlaps.
    active: bool,
}

/// Seconds that `left` sectors take at `rate` sectors a second; `None`: nobody knows, as nothing is copied.
pub fn seconds_left(left: u64, rate: u64) -> Option<u64> {
    (rate != 0).then(|| left.div_ceil(rate))
}

/// What is being healed.
pub(super) struct Heal {
    walks: [Option<Walk>; HEAL_SLOTS as usize],
    /// Pieces that may go.
    ready: List,
    /// Pieces that were given away.
    flying: u32,
    rewrites: [Option<(u32, Extent)>; REWRITES],
    /// All regions were looked at: the next round begins with a tick.
    round_over: bool,
    min: u64,
    max: u64,
    /// Sectors that may be copied until the next credit.
    budget: u64,
    /// Sectors that were copied beyond the budget, since pieces are whole: the next credits pay for them.
    debt: u64,
    /// Sectors for the next credit while there are requests.
    allowance: u64,
    /// Requests since the last credit.
    requests: u32,
    /// There were requests before the last credit.
    busy: bool,
    /// Sectors that were copied since the last tick.
    copied: u64,
    /// Sectors a second, smoothed; 0 until something was copied for a whole second.
    rate: u64,
    /// Something was copied in the second before the last tick.
    begun: bool,
}

impl Heal {
    pub(super) fn new() -> Self {
        Self {
            walks: [None; HEAL_SLOTS as usize],
            ready: List::new(),
            flying: 0,
            rewrites: [None; REWRITES],
            round_over: false,
            min: DEFAULT_MIN,
            max: 0,
            budget: u64::MAX,
            debt: 0,
            allowance: u64::MAX,
            requests: 0,
            busy: false,
            copied: 0,
            rate: 0,
            begun: false,
        }
    }

    /// A request begins.
    pub(super) fn count_request(&mut self) {
        self.requests = self.requests.saturating_add(1);
    }

    /// A second has passed.
    pub(super) fn tick(&mut self) {
        self.round_over = false;
        self.rate = match self.rate {
            // Amid a second it began: that tells nothing of the speed, the next one all that is known.
            0 if !self.begun => 0,
            0 => self.copied,
            // Half of it is new: three seconds tell the speed, and a moment's pause is not a stop.
            rate => rate / 2 + self.copied / 2,
        };
        self.begun = self.copied != 0;
        self.copied = 0;
    }

    /// There may be more to heal.
    pub(super) fn begin_round(&mut self) {
        self.round_over = false;
    }

    /// A copy shall get what it could not read.
    pub(super) fn rewrite(&mut self, copy: u32, extent: Extent) {
        let known = self
            .rewrites
            .iter()
            .flatten()
            .any(|old| *old == (copy, extent));
        if known {
            return;
        }
        if let Some(free) = self.rewrites.iter_mut().find(|place| place.is_none()) {
            *free = Some((copy, extent));
        }
    }

    /// A copy has left: it gets nothing more, and what was read from it may be old. (It may have lost what it had not made
    /// durable before it was asked.)
    pub(super) fn leave(&mut self, copy: u32) {
        for walk in self.walks.iter_mut().flatten() {
            walk.to &= !bit(copy);
            if walk.active && walk.from == copy {
                walk.to = 0;
            }
        }
        for rewrite in &mut self.rewrites {
            if rewrite.is_some_and(|(of, _)| of == copy) {
                *rewrite = None;
            }
        }
    }

    /// What was copied already of these regions, first and behind the last, may not be what the source has now.
    pub(super) fn spoil(&mut self, (first, last): (usize, usize)) {
        for walk in self.walks.iter_mut().flatten() {
            if matches!(walk.task, Task::Region(region) if (first..last).contains(&region)) {
                walk.to = 0;
            }
        }
        self.round_over = false;
    }

    pub(super) fn wants(&self) -> bool {
        !self.ready.is_empty() || self.rewrites.iter().any(Option::is_some)
    }

    fn is_idle(&self) -> bool {
        self.walks.iter().all(Option::is_none) && self.rewrites.iter().all(Option::is_none)
    }

    fn walk(&mut self, slot: usize) -> Option<&mut Walk> {
        self.walks.get_mut(slot)?.as_mut()
    }

    /// The most that a credit allows.
    fn most(&self) -> u64 {
        match self.max {
            0 => u64::MAX,
            max => (max / CREDITS).max(1),
        }
    }

    /// Whether a piece may be begun.
    fn may_begin(&self) -> bool {
        let most = if self.busy || self.requests != 0 {
            1
        } else {
            HEAL_SLOTS
        };
        self.flying < most && self.budget != 0
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
    pub(super) fn is_heal(&self, id: u32) -> bool {
        id >= self.heal_from
    }

    fn heal_slot(&self, id: u32) -> usize {
        id.saturating_sub(self.heal_from) as usize
    }

    /// Sets the least and the most that is copied, in sectors a second; no most: 0.
    pub fn set_pace(&mut self, min: u64, max: u64) {
        self.heal.min = min;
        self.heal.max = max;
        // From now on, not from the next credit: a whole disk may be copied before that.
        self.heal.budget = self.heal.budget.min(self.heal.most());
    }

    /// The least and the most that is copied, in sectors a second.
    pub fn pace(&self) -> (u64, u64) {
        (self.heal.min, self.heal.max)
    }

    /// Sectors a second that were copied of late.
    pub fn heal_rate(&self) -> u64 {
        self.heal.rate
    }

    /// Sectors that are still to be copied: what all copies that are healing lack, at most. What is away counts when it is
    /// back.
    pub fn heal_left(&self) -> u64 {
        each(self.healing).fold(0, |sum: u64, copy| {
            sum.saturating_add(self.stale_sectors(copy))
        })
    }

    /// Seconds until copies that are healing lack nothing, if that goes on as it did of late; `None`: nothing was copied of
    /// late, or there is no such copy.
    pub fn heal_seconds_left(&self) -> Option<u64> {
        match self.healing {
            0 => None,
            _ => seconds_left(self.heal_left(), self.heal.rate),
        }
    }

    /// Whether something is being healed, or is to be.
    pub fn is_healing(&self) -> bool {
        self.healing != 0 || !self.heal.is_idle()
    }

    /// A tenth of a second has passed: what may be copied in the next one.
    pub fn heal_credit(&mut self) {
        let heal = &mut self.heal;
        heal.busy = heal.requests != 0;
        heal.requests = 0;
        heal.allowance = if heal.busy {
            let shrunk = match heal.allowance {
                u64::MAX => heal.rate / CREDITS,
                allowance => allowance - allowance / 8,
            };
            shrunk.max(heal.min / CREDITS).max(1)
        } else {
            u64::MAX
        };
        let credit = heal.most().min(heal.allowance);
        heal.budget = credit.saturating_sub(heal.debt);
        heal.debt = heal.debt.saturating_sub(credit);
    }

    /// The next piece to be copied, if one may be.
    pub fn heal_next(&mut self) -> Option<Piece> {
        loop {
            if let Some(id) = self.heal.ready.pop(&mut self.slots) {
                match self.launch(id) {
                    Some(piece) => return Some(piece),
                    None => continue,
                }
            }
            if !self.jobs.may_heal() || !self.heal.may_begin() {
                return None;
            }
            let resting = |walk: &Option<Walk>| walk.is_some_and(|walk| !walk.active);
            let slot = match self.heal.walks.iter().position(resting) {
                Some(slot) => slot,
                None => {
                    let slot = self.heal.walks.iter().position(Option::is_none)?;
                    let walk = self.find_rewrite().or_else(|| self.find_stale())?;
                    if let Some(place) = self.heal.walks.get_mut(slot) {
                        *place = Some(walk);
                    }
                    slot
                }
            };
            self.step(slot);
        }
    }

    /// An extent that a copy could not read.
    fn find_rewrite(&mut self) -> Option<Walk> {
        let place = self
            .heal
            .rewrites
            .iter_mut()
            .find(|place| place.is_some())?;
        let (copy, extent) = place.take()?;
        // It may have left, or lack it anyway.
        let to = bit(copy) & self.in_sync & !self.suspended;
        Some(Walk {
            task: Task::Rewrite,
            extent: Extent::new(extent.start, 0),
            end: extent.end.min(self.sectors),
            to,
            from: copy,
            bad: bit(copy),
            active: false,
        })
    }

    /// A region that a copy lacks.
    fn find_stale(&mut self) -> Option<Walk> {
        let copies = self.healing & !self.suspended;
        if copies == 0 || self.heal.round_over || self.in_sync & !self.suspended == 0 {
            return None;
        }
        loop {
            let Some((region, to)) = self.regions.next_stale(copies) else {
                self.heal.round_over = true;
                return None;
            };
            let mut walks = self.heal.walks.iter().flatten();
            if walks.any(|walk| walk.task == Task::Region(region)) {
                continue;
            }
            let (start, end) = self.regions.sectors(region);
            return Some(Walk {
                task: Task::Region(region),
                extent: Extent::new(start, 0),
                end: end.min(self.sectors),
                to,
                from: 0,
                bad: 0,
                active: false,
            });
        }
    }

    /// Goes on with the next piece of a slot.
    fn step(&mut self, slot: usize) {
        let id = self.heal_from.saturating_add(slot as u32);
        let Some(walk) = self.heal.walk(slot) else {
            return;
        };
        let start = walk.extent.end;
        let extent = Extent::new(start, walk.end.saturating_sub(start).min(PIECE));
        if walk.to == 0 || extent.sectors() == 0 {
            let done = *walk;
            self.end_walk(slot, &done);
            return;
        }
        walk.extent = extent;
        walk.active = true;
        if walk.task != Task::Rewrite {
            walk.bad = 0;
        }
        self.begin_slot(id, extent);
        if self.overlap.begin(id, extent) {
            self.gated.push(&mut self.slots, id);
            self.look_again();
        }
    }

    fn end_walk(&mut self, slot: usize, walk: &Walk) {
        if let Some(place) = self.heal.walks.get_mut(slot) {
            *place = None;
        }
        match walk.task {
            Task::Region(region) if walk.to != 0 => {
                self.regions.healed(region, walk.to);
                // The flush that makes it durable is for many regions; the next tick asks for it.
            }
            Task::Region(_) => {}
            Task::Rewrite if walk.to != 0 => self.counters.rewritten += 1,
            Task::Rewrite => {}
        }
    }

    /// Lets a piece go that no overlapping request is before; or not yet.
    pub(super) fn admit_heal(&mut self, id: u32) {
        let slot = self.heal_slot(id);
        let Some(walk) = self.heal.walk(slot) else {
            return;
        };
        let (task, extent) = (walk.task, walk.extent);
        if task == Task::Rewrite {
            let missing = self.members & !self.attached();
            if !self.regions.write_begin(extent.start, extent.end, missing) {
                self.gated.push(&mut self.slots, id);
                return;
            }
            self.regions.write_goes(extent.start, extent.end);
        }
        self.heal.ready.push(&mut self.slots, id);
    }

    /// Gives away a piece that may go; `None`: it is not wanted any more.
    fn launch(&mut self, id: u32) -> Option<Piece> {
        let slot = self.heal_slot(id);
        let sources = self.in_sync & !self.suspended;
        let attached = self.attached();
        let walk = self.heal.walk(slot)?;
        walk.to &= attached;
        let from = each(sources & !walk.bad & !walk.to).next();
        let (Some(from), true) = (from, walk.to != 0) else {
            // Nobody has it, or nobody lacks it: the rest of the region waits for another round.
            walk.to = 0;
            self.land(id);
            return None;
        };
        walk.from = from;
        let piece = Piece {
            id,
            extent: walk.extent,
            from,
            to: walk.to,
        };
        self.heal.flying += 1;
        let sectors = piece.extent.sectors();
        let heal = &mut self.heal;
        heal.debt = heal
            .debt
            .saturating_add(sectors.saturating_sub(heal.budget));
        heal.budget = heal.budget.saturating_sub(sectors);
        Some(piece)
    }

    /// A piece is over: what waited for it may go. The next one is begun when there is a budget for it.
    fn land(&mut self, id: u32) {
        let slot = self.heal_slot(id);
        let Some(walk) = self.heal.walk(slot) else {
            return;
        };
        walk.active = false;
        let walk = *walk;
        if walk.task == Task::Rewrite {
            self.regions
                .write_end(walk.extent.start, walk.extent.end, 0);
        }
        if walk.to == 0 || walk.extent.end >= walk.end {
            self.end_walk(slot, &walk);
        }
        self.overlap_end(walk.extent);
    }

    /// A piece was read, or not, and is on `ok` now.
    pub fn heal_done(&mut self, id: u32, read_ok: bool, ok: Mask) {
        let slot = self.heal_slot(id);
        self.heal.flying = self.heal.flying.saturating_sub(1);
        let Some(walk) = self.heal.walk(slot) else {
            return;
        };
        if !read_ok {
            let from = walk.from;
            walk.bad |= bit(from);
            let extent = walk.extent;
            // The same piece, from another copy; if there is none, `launch` says so. The one that could not read it
            // gets it, too, as soon as somebody has it; unless two that can't read it are to help each other.
            let task = walk.task;
            if task != Task::Rewrite && self.in_sync & bit(from) != 0 {
                self.heal.rewrite(from, extent);
            }
            self.heal.ready.push(&mut self.slots, id);
            return;
        }
        let failed = walk.to & !ok;
        walk.to &= ok;
        let extent = walk.extent;
        let copied = extent.sectors() * u64::from(walk.to.count_ones());
        self.counters.healed = self.counters.healed.saturating_add(copied);
        self.heal.copied = self.heal.copied.saturating_add(copied);
        for copy in each(failed & self.attached()) {
            self.leave(copy);
        }
        self.land(id);
    }
}
