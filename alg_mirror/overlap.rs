// SPDX-License-Identifier: GPL-2.0

//! Extents in flight: of two that overlap, the one that came first goes first.
//!
//! Those that are under way never overlap, so they lie in an array, sorted, where a new one finds its
//! neighbours by bisection. Those that wait are few, or there is a reason to be slow: they are a list in the
//! order of arrival, and each counts the earlier ones that it overlaps.

use core::ops::DerefMut;

/// No slot.
pub const NOBODY: u32 = u32::MAX;

/// Sectors from `start` up to, but without, `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The first sector.
    pub start: u64,
    /// The first sector behind it; not before `start`.
    pub end: u64,
}

impl Extent {
    /// `sectors` sectors from `start` on, as far as sector numbers reach.
    pub const fn new(start: u64, sectors: u64) -> Self {
        Self {
            start,
            end: start.saturating_add(sectors),
        }
    }

    /// How many sectors it has.
    pub const fn sectors(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether both have a sector in common.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// An extent under way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flight {
    extent: Extent,
}

/// An extent that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    extent: Extent,
    /// Earlier ones that it overlaps, under way or waiting.
    blockers: u32,
    /// The next in the order of arrival.
    next: u32,
}

impl Default for Waiter {
    fn default() -> Self {
        Self {
            extent: Extent::default(),
            blockers: 0,
            next: NOBODY,
        }
    }
}

/// All extents in flight.
///
/// `F` has as many places as there can be extents; so has `W`, where each id has its own.
pub struct Overlap<F, W> {
    /// The first `count` are sorted, and don't overlap.
    flights: F,
    count: usize,
    waiters: W,
    first: u32,
    last: u32,
}

impl<F, W> Overlap<F, W>
where
    F: DerefMut<Target = [Flight]>,
    W: DerefMut<Target = [Waiter]>,
{
    /// Nothing is in flight.
    pub fn new(flights: F, waiters: W) -> Self {
        Self {
            flights,
            count: 0,
            waiters,
            first: NOBODY,
            last: NOBODY,
        }
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether one that is under way overlaps it.
    pub fn is_busy(&self, extent: &Extent) -> bool {
        self.count != 0 && self.conflicts(extent) != 0
    }

    fn under_way(&self) -> &[Flight] {
        self.flights.get(..self.count).unwrap_or(&[])
    }

    /// Where an extent with this start would be.
    fn position(&self, start: u64) -> usize {
        let flights = self.under_way();
        // Most writers go forwards: look at the end first.
        match flights.last() {
            Some(last) if last.extent.start < start => flights.len(),
            _ => flights.partition_point(|flight| flight.extent.start < start),
        }
    }

    /// How many under way it overlaps.
    fn conflicts(&self, extent: &Extent) -> u32 {
        let flights = self.under_way();
        let at = self.position(extent.start);
        let before = at
            .checked_sub(1)
            .and_then(|before| flights.get(before))
            .is_some_and(|flight| flight.extent.overlaps(extent));
        let mut conflicts = u32::from(before);
        for flight in flights.get(at..).unwrap_or(&[]) {
            if !flight.extent.overlaps(extent) {
                break;
            }
            conflicts += 1;
        }
        conflicts
    }

    /// `false` if there is no room, which can't be as long as there are no more extents than ids.
    fn insert(&mut self, extent: Extent) -> bool {
        let at = self.position(extent.start);
        let end = self.count + 1;
        let Some(room) = self.flights.get_mut(at..end) else {
            return false;
        };
        let len = room.len();
        room.copy_within(..len - 1, 1);
        if let Some(place) = room.first_mut() {
            *place = Flight { extent };
        }
        self.count = end;
        true
    }

    /// An extent that is not empty arrives, with an id that has none. `true`: it may go; else it waits.
    pub fn begin(&mut self, id: u32, extent: Extent) -> bool {
        let mut blockers = self.conflicts(&extent);
        let mut at = self.first;
        while let Some(waiter) = self.waiters.get(at as usize) {
            if waiter.extent.overlaps(&extent) {
                blockers += 1;
            }
            at = waiter.next;
        }
        if blockers == 0 {
            return self.insert(extent);
        }
        let Some(place) = self.waiters.get_mut(id as usize) else {
            return false;
        };
        *place = Waiter {
            extent,
            blockers,
            next: NOBODY,
        };
        match self.waiters.get_mut(self.last as usize) {
            Some(last) => last.next = id,
            None => self.first = id,
        }
        self.last = id;
        false
    }

    /// An extent that went is over. `go` is called with the id of each that may go now, in order.
    pub fn end(&mut self, extent: Extent, mut go: impl FnMut(u32)) {
        let at = self.position(extent.start);
        let Some(rest) = self.flights.get_mut(at..self.count) else {
            return;
        };
        match rest.first() {
            Some(flight) if flight.extent == extent => {}
            _ => return,
        }
        rest.copy_within(1.., 0);
        self.count -= 1;
        let (mut before, mut at) = (NOBODY, self.first);
        while let Some(waiter) = self.waiters.get_mut(at as usize) {
            let next = waiter.next;
            if waiter.extent.overlaps(&extent) {
                waiter.blockers = waiter.blockers.saturating_sub(1);
            }
            if waiter.blockers != 0 {
                (before, at) = (at, next);
                continue;
            }
            let extent = waiter.extent;
            match self.waiters.get_mut(before as usize) {
                Some(before) => before.next = next,
                None => self.first = next,
            }
            if self.last == at {
                self.last = before;
            }
            self.insert(extent);
            go(at);
            at = next;
        }
    }
}
