// SPDX-License-Identifier: GPL-2.0

//! The way of a request: a write, a discard, zeroes, a flush.

use core::ops::DerefMut;

use super::{
    bit,
    each,
    overlap::{
        Extent,
        Flight,
        Waiter,
        NOBODY, //
    },
    regions::{
        Block,
        Region, //
    },
    Mask,
    Mirror, //
};

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    extent: Extent,
    /// Copies that it was sent to.
    mask: Mask,
    /// Copies that have it.
    ok: Mask,
    /// It has waited for the log.
    waited: bool,
    /// The next in its list.
    pub(super) next: u32,
    error: bool,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            extent: Extent::default(),
            mask: 0,
            ok: 0,
            waited: false,
            next: NOBODY,
            error: false,
        }
    }
}

/// Whether a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Send it to these copies.
    Go(Mask),
    /// [`Mirror::next_ready`] tells when.
    Wait,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Well.
    Ok,
    /// Badly.
    Error,
    /// [`Mirror::next_ended`] tells when.
    Wait,
}

impl Slot {
    pub(super) fn extent(&self) -> Extent {
        self.extent
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
    /// A request that changes an extent, which is not empty; or, with an empty one, a flush. `id` is free.
    pub fn request_begin(&mut self, id: u32, extent: Extent) -> Begin {
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return Begin::Wait;
        };
        *slot = Slot {
            extent,
            ..Slot::default()
        };
        self.heal.count_request();
        if extent.sectors() != 0 && !self.overlap.begin(id, extent) {
            self.counters.overlaps += 1;
            return Begin::Wait;
        }
        self.admit(id)
    }

    /// Lets a request go that has no overlapping one before it, or puts it behind the gate.
    pub(super) fn admit(&mut self, id: u32) -> Begin {
        let mask = self.attached();
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return Begin::Wait;
        };
        let extent = slot.extent;
        let changes = extent.sectors() != 0;
        let mut ready = self.jobs.is_running() && mask & self.suspended == 0;
        if changes {
            let missing = self.members & !mask;
            let logged = self.regions.write_begin(extent.start, extent.end, missing);
            if !logged && !slot.waited {
                slot.waited = true;
                self.counters.log_waits += 1;
            }
            ready &= logged;
        }
        if !ready {
            self.gated.push(&mut self.slots, id);
            return Begin::Wait;
        }
        slot.mask = mask;
        if changes {
            self.regions.write_goes(extent.start, extent.end);
        }
        Begin::Go(mask)
    }

    /// Looks again at all that is behind a gate.
    pub(super) fn look_again(&mut self) {
        let mut gated = self.gated.take();
        while let Some(id) = gated.pop(&mut self.slots) {
            if self.is_heal(id) {
                self.admit_heal(id);
            } else if let Begin::Go(_) = self.admit(id) {
                self.ready.push(&mut self.slots, id);
            }
        }
        let mut leaving = self.leaving.take();
        while let Some(id) = leaving.pop(&mut self.slots) {
            let done = self
                .slots
                .get(id as usize)
                .is_none_or(|slot| self.is_held(slot));
            if done {
                self.ended.push(&mut self.slots, id);
            } else {
                self.leaving.push(&mut self.slots, id);
            }
        }
    }

    /// A request that may be sent now, and to which copies.
    pub fn next_ready(&mut self) -> Option<(u32, Mask)> {
        let id = self.ready.pop(&mut self.slots)?;
        let mask = self.slots.get(id as usize).map_or(0, |slot| slot.mask);
        Some((id, mask))
    }

    /// Whether it can be acknowledged: each copy that counts as in sync, whatever a crash leaves behind, has it.
    ///
    /// A copy that came in sync without having been asked has it by its healing, which waited for it.
    fn is_held(&self, slot: &Slot) -> bool {
        let healed = self.in_sync & !slot.mask;
        self.jobs.in_sync() & !slot.ok & !healed == 0
    }

    /// A request is over on all copies that it was sent to: well on `ok`, badly on the others.
    pub fn request_end(&mut self, id: u32, ok: Mask) -> End {
        let attached = self.attached();
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return End::Error;
        };
        // What a copy says that has left does not count: it may have lost its power before it did this, and with that what
        // it had said before; and superblocks may call it in sync yet. One that has left, and is attached again, is called
        // that by none (see `back`) until it has been healed, which waits for writes, and makes durable what it had lost.
        let ok = ok & slot.mask & attached;
        let failed = slot.mask & !ok;
        slot.ok = ok;
        let (extent, sent) = (slot.extent, slot.mask);
        let good = ok & self.in_sync;
        let changes = extent.sectors() != 0;
        // If all have failed, one stays: what is on it now is the truth.
        let truth = match good {
            0 => each(sent & self.in_sync).next().map_or(0, bit),
            good => good,
        };
        if changes {
            // Copies that left, came or failed meanwhile lack it. Where nobody who counts has it, so do those who
            // have it: they are not to differ from the one that stays.
            let has = if good == 0 { truth } else { ok };
            self.regions.write_end(
                extent.start,
                extent.end,
                self.members & !has & !self.in_sync,
            );
        }
        let mut left = 0;
        for copy in each(self.attached() & failed & !truth) {
            if self.leave(copy) {
                left |= bit(copy);
            }
        }
        if good == 0 && changes {
            self.heal
                .spoil(self.regions.range(extent.start, extent.end));
            // Copies in sync that were not asked, or have it, differ from the truth now.
            for copy in each(self.in_sync & !truth) {
                self.leave(copy);
            }
        } else if changes {
            // One that came in sync while this was under way has it by its healing.
            for copy in each(self.in_sync & !ok & !left & sent) {
                self.leave(copy);
            }
        }
        if changes {
            self.overlap_end(extent);
        }
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return End::Error;
        };
        slot.error = good == 0;
        if good == 0 {
            return End::Error;
        }
        let slot = *slot;
        if self.is_held(&slot) {
            return End::Ok;
        }
        self.leaving.push(&mut self.slots, id);
        End::Wait
    }

    /// Ends an extent in flight; those that waited for it go, or come to the gate.
    pub(super) fn overlap_end(&mut self, extent: Extent) {
        let Self {
            overlap,
            gated,
            slots,
            ..
        } = self;
        let before = gated.last;
        overlap.end(extent, |id| gated.push(slots, id));
        if gated.last != before {
            self.look_again();
        }
    }

    /// A request that can be acknowledged now; `true`: with success.
    pub fn next_ended(&mut self) -> Option<(u32, bool)> {
        let id = self.ended.pop(&mut self.slots)?;
        let error = self.slots.get(id as usize).is_none_or(|slot| slot.error);
        Some((id, !error))
    }

    /// Copies that can serve a read of these sectors.
    pub fn readable(&self, extent: Extent) -> Mask {
        let all = if self.healing == 0 {
            self.in_sync
        } else {
            let stale = self.regions.stale_in(extent.start, extent.end);
            self.in_sync | self.healing & !stale
        };
        match all & !self.suspended {
            0 => all,
            some => some,
        }
    }

    /// Copies of which one can serve a read of these sectors now; none: they are suspended, or away.
    ///
    /// While a write is under way there, it is always the same one: the write is seen by all reads from a time on, as on a
    /// single disk. After a crash that copy is the one that is believed. The same where nothing was ever written.
    ///
    /// `tried`: copies that could not serve it.
    pub fn read_source(&mut self, extent: Extent, tried: Mask) -> Mask {
        self.heal.count_request();
        let all = self.readable(extent) & !self.avoided & !tried;
        if all & all.wrapping_sub(1) == 0 {
            if tried == 0 && self.healing != 0 {
                let busy = self.overlap.is_busy(&extent);
                if self.away != 0 && (busy || !self.regions.is_written_to(extent.start, extent.end))
                {
                    return 0;
                }
                // As soon as it is healed here another one can serve it, too, which may not have yet what this one gives.
                if busy {
                    self.first = self.serves_first(all);
                }
            }
            return all;
        }
        // What was never written differs between the copies; it should not seem to change.
        let stable = self.regions.is_written_to(extent.start, extent.end);
        let busy = self.overlap.is_busy(&extent);
        if busy {
            self.counters.read_overlaps += 1;
        }
        if stable && !busy {
            return all;
        }
        if self.away != 0 && tried == 0 {
            // It goes on to be the one that serves these.
            return 0;
        }
        let first = self.serves_first(all);
        if tried == 0 {
            // One that could not read something goes on to serve what else is being written.
            self.first = first;
        }
        first
    }

    /// The one of these copies that serves reads while writes are under way.
    ///
    /// It stays the same when another one comes in sync, which may not have yet what this one was seen to have. As soon as
    /// nothing is under way it is the one that would be believed after a crash.
    fn serves_first(&self, all: Mask) -> Mask {
        // If the write fails, what one in sync has is what is.
        let complete = match all & self.in_sync {
            0 => all,
            complete => complete,
        };
        if self.first & complete != 0 && !self.overlap.is_empty() {
            return self.first;
        }
        let best = match complete & self.jobs.durably_in_sync() {
            0 => complete,
            sure => sure,
        };
        best & best.wrapping_neg()
    }

    /// What a request that is under way, or waits, changes.
    pub fn extent(&self, id: u32) -> Extent {
        self.slots
            .get(id as usize)
            .map_or(Extent::default(), Slot::extent)
    }

    /// A read was served from a write that waits.
    pub fn count_held_read(&mut self) {
        self.counters.read_held += 1;
    }

    /// A copy could not read; gives the others that can. If there are any, the copy gets from them what it lost.
    pub fn read_failed(&mut self, copy: u32, extent: Extent) -> Mask {
        let others = self.readable(extent) & !bit(copy);
        if others != 0 {
            self.counters.rescued += 1;
            self.heal.rewrite(copy, extent);
        }
        others
    }

    /// A request that went to no copy, or can't be acknowledged, ends with an error.
    pub(super) fn fail(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(id as usize) {
            slot.error = true;
        }
        self.ended.push(&mut self.slots, id);
    }

    pub(super) fn begin_slot(&mut self, id: u32, extent: Extent) {
        if let Some(slot) = self.slots.get_mut(id as usize) {
            *slot = Slot {
                extent,
                ..Slot::default()
            };
        }
    }
}
