// SPDX-License-Identifier: GPL-2.0

//! Late writes: what a server without a fence may still do for a connection that is gone. No kernel in here.
//!
//! A write that was on a connection when that was lost is sent again, or has ended with an error. But the server may
//! have received it, and may do it at any time. The same write once more does no harm; a newer one of the same place
//! would be undone. So where such a write has been, newer ones wait until the server has had the time to be done.
//!
//! - What waits is what changes the place and was never sent. What is sent again does what the late write does.
//! - A newer one also waits for those before it that wait, if it overlaps them: their order stays.
//! - A server that has taken the fence is done with what came on connections that had it, too.

use core::{
    mem,
    ops::DerefMut, //
};

use crate::alg_mirror::overlap::Extent;

/// Milliseconds for which newer writes wait, from the moment at which there is a connection again. What is lost with
/// later connections does not make it longer: else a connection that is lost again and again would let them wait for ever.
///
/// The server lives then, and has as long for what it had received: some requests (as many as the node's depth), on a
/// disk that works. That is a matter of milliseconds, and of a second or two where the disk is very busy. It can't be
/// right for every server; one that recovers from an error of its disk takes longer, and to wait for that would be
/// worse for more users. It is also what a filesystem may keep data for before it writes them (the commit interval of
/// ext4): nobody notices it as an outage who did not notice the one before.
pub const QUIET_MS: u32 = 5_000;

/// Sectors, as extents that are sorted and have something between them. Full: the closest ones become one.
///
/// `E` are the places.
struct Extents<E> {
    places: E,
    count: usize,
}

/// What becomes one extent if there is no place for one more.
enum Closest {
    /// The new one, and that before it, which ends here.
    Before(u64),
    /// The new one, and that behind it, which begins here.
    Behind(u64),
    /// The one with that number, and the next.
    Pair(usize),
}

impl<E: DerefMut<Target = [Extent]>> Extents<E> {
    fn new(places: E) -> Self {
        Self { places, count: 0 }
    }

    fn clear(&mut self) {
        self.count = 0;
    }

    fn used(&self) -> &[Extent] {
        self.places.get(..self.count).unwrap_or(&[])
    }

    fn overlaps(&self, extent: &Extent) -> bool {
        let used = self.used();
        let at = used.partition_point(|known| known.end <= extent.start);
        used.get(at).is_some_and(|known| known.overlaps(extent))
    }

    /// Adds the sectors of an extent that is not empty; if there is no place left, some more.
    fn add(&mut self, mut extent: Extent) {
        loop {
            let used = self.used();
            // Those that it overlaps or touches.
            let from = used.partition_point(|known| known.end < extent.start);
            let to = used.partition_point(|known| known.start <= extent.end);
            if from < to {
                self.unite(from, to, extent);
                return;
            }
            if self.insert(from, extent) {
                return;
            }
            match self.closest(from, &extent) {
                Some(Closest::Before(end)) => extent.start = end,
                Some(Closest::Behind(start)) => extent.end = start,
                Some(Closest::Pair(at)) => self.unite(at, at + 2, extent_of(self.used(), at)),
                // There are no places at all.
                None => return,
            }
        }
    }

    /// Makes one extent of those from `from` to before `to`, and another one.
    fn unite(&mut self, from: usize, to: usize, extent: Extent) {
        let Some(run) = self.places.get_mut(from..self.count) else {
            return;
        };
        let last = extent_of(run, (to - from).saturating_sub(1));
        if let Some(first) = run.first_mut() {
            first.start = first.start.min(extent.start);
            first.end = last.end.max(extent.end);
        }
        if let Some(behind) = run.get_mut(1..) {
            let gone = (to - from).saturating_sub(1).min(behind.len());
            behind.rotate_left(gone);
            self.count -= gone;
        }
    }

    /// Puts an extent at a place; `false` if all are taken.
    fn insert(&mut self, at: usize, extent: Extent) -> bool {
        let Some(run) = self.places.get_mut(at..=self.count) else {
            return false;
        };
        run.rotate_right(1);
        if let Some(first) = run.first_mut() {
            *first = extent;
        }
        self.count += 1;
        true
    }

    /// What has the least between it, with a new extent that would go to place `at`.
    fn closest(&self, at: usize, extent: &Extent) -> Option<Closest> {
        let used = self.used();
        let before = at.checked_sub(1).and_then(|before| used.get(before));
        let behind = used.get(at);
        let pairs = used.windows(2).enumerate().filter_map(|(at, pair)| {
            let [one, next] = pair else { return None };
            Some((next.start.saturating_sub(one.end), Closest::Pair(at)))
        });
        let before = before.map(|known| {
            let gap = extent.start.saturating_sub(known.end);
            (gap, Closest::Before(known.end))
        });
        let behind = behind.map(|known| {
            let gap = known.start.saturating_sub(extent.end);
            (gap, Closest::Behind(known.start))
        });
        let all = before.into_iter().chain(behind).chain(pairs);
        all.min_by_key(|(gap, _)| *gap).map(|(_, closest)| closest)
    }
}

/// The extent with that number; an empty one if there is none.
fn extent_of(extents: &[Extent], at: usize) -> Extent {
    extents.get(at).copied().unwrap_or_default()
}

/// What may be written late to a node, and what waits for that.
///
/// `E` are places for extents; where there are too few of them more has to wait, never less.
pub struct Late<E> {
    /// Where a late write may land whose quiet time has begun.
    timed: Extents<E>,
    /// Where one may land that was lost since then: its time counts from the newest connection.
    fresh: Extents<E>,
    /// What those write that wait.
    held: Extents<E>,
    /// Not all of `timed` and `fresh` was on connections with a fence.
    unfenced: bool,
}

impl<E: DerefMut<Target = [Extent]>> Late<E> {
    /// Nothing is late. Each of the three has at least one place.
    pub fn new(places: [E; 3]) -> Self {
        let [timed, fresh, held] = places.map(Extents::new);
        Self {
            timed,
            fresh,
            held,
            unfenced: false,
        }
    }

    /// Whether something may be late.
    pub fn is_any(&self) -> bool {
        !self.timed.used().is_empty() || !self.fresh.used().is_empty()
    }

    /// The connection was lost on which a write, discard or write-zeroes was that had no answer yet; `fenced`: before
    /// that connection the server had taken the fence.
    pub fn lost(&mut self, extent: Extent, fenced: bool) {
        self.fresh.add(extent);
        self.unfenced |= !fenced;
    }

    /// There is a connection again, before which the server has taken the fence or not. Nothing waits yet.
    pub fn connected(&mut self, fenced: bool) {
        self.held.clear();
        if fenced && !self.unfenced {
            self.timed.clear();
            self.fresh.clear();
        }
    }

    /// Whether a write, discard or write-zeroes that was never sent has to wait. Then it is taken note of.
    pub fn must_wait(&mut self, extent: Extent) -> bool {
        let waits = self.timed.overlaps(&extent)
            || self.fresh.overlaps(&extent)
            || self.held.overlaps(&extent);
        if waits {
            self.held.add(extent);
        }
        waits
    }

    /// The quiet time is over, or has not begun: now that of what was lost last does, as of the newest connection.
    /// Whoever waits asks again.
    pub fn next(&mut self) {
        self.held.clear();
        self.timed.clear();
        mem::swap(&mut self.timed, &mut self.fresh);
        self.unfenced &= self.is_any();
    }
}

/// A moment on a clock, which may wrap.
pub trait Moment: Copy {
    /// So many milliseconds later, or a little more.
    fn later(self, ms: u32) -> Self;

    /// Whether it is not after `now`.
    fn is_reached(self, now: Self) -> bool;
}

/// When quiet times begin and end.
pub struct QuietTime<T> {
    /// Until when newer writes wait for late ones of the oldest connections.
    until: Option<T>,
    /// Since when there is a connection, or was.
    up_since: T,
}

impl<T: Moment> QuietTime<T> {
    /// None, and no connection so far.
    pub fn new(now: T) -> Self {
        Self {
            until: None,
            up_since: now,
        }
    }

    /// There is a connection again. Says whether it is time for [`Late::next`]: a time that has begun on an earlier
    /// connection goes on.
    pub fn connected(&mut self, now: T) -> bool {
        self.up_since = now;
        self.is_over(now) || self.until.is_none()
    }

    /// [`Late::next`] was called, and something may be late then, or not.
    pub fn next(&mut self, is_any: bool) {
        self.until = is_any.then(|| self.up_since.later(QUIET_MS));
    }

    /// Whether one is over: as long as there is a connection, it is time for [`Late::next`].
    pub fn is_over(&self, now: T) -> bool {
        self.until.is_some_and(|until| until.is_reached(now))
    }

    /// When the one that has begun ends.
    pub fn until(&self) -> Option<T> {
        self.until
    }
}
