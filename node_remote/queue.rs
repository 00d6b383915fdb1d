// SPDX-License-Identifier: GPL-2.0

//! The pieces that wait to be sent, in the order of submission, and those that wait [`Aside`].

use kernel::prelude::*;

use crate::{
    alg_mirror::overlap::Extent,
    late::Late, //
};

use super::RemoteSlot;

/// What the queue does with a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Keeps it until it can be sent.
    Open,
    /// Refuses it: the waiting for the server was ended, or the node is.
    Failing,
}

/// A ring of pieces. There are no more pieces than places, so it can't overflow.
pub(super) struct Queue {
    ring: KVec<Option<RemoteSlot>>,
    head: usize,
    len: usize,
    next_order: u64,
    mode: Mode,
    /// Newer writes wait for late ones.
    quiet: bool,
    // In memory of its own: what each request touches stays together.
    aside: KBox<Aside>,
}

/// Writes that wait for late ones: out of the ring, so that others pass them.
struct Aside {
    late: Late<KVec<Extent>>,
    /// In the order of submission; as many places as pieces.
    held: KVec<RemoteSlot>,
    /// Pieces that were held.
    total: u64,
}

impl Aside {
    /// Keeps a piece that has to wait; gives it back if it has not.
    fn sift(&mut self, mut slot: RemoteSlot) -> Option<RemoteSlot> {
        let waits = match slot.changes() {
            // The late one does the same.
            Some(_) if slot.resent => false,
            Some(extent) => self.late.must_wait(extent),
            None => false,
        };
        if !waits {
            return Some(slot);
        }
        self.total += u64::from(!slot.held);
        slot.held = true;
        match self.held.push_within_capacity(slot) {
            Ok(()) => None,
            // There are as many places as pieces, so this can't be.
            Err(refused) => Some(refused.0),
        }
    }
}

impl Queue {
    /// An empty queue with `capacity` places.
    pub(super) fn new(capacity: u32) -> Result<Self> {
        let mut ring = KVec::with_capacity(capacity as usize, GFP_KERNEL)?;
        for _ in 0..capacity {
            ring.push(None, GFP_KERNEL)?;
        }
        // More extents than pieces are rare: it takes several losses, and what was on the first is not sent again.
        let places = || KVec::from_elem(Extent::default(), capacity as usize, GFP_KERNEL);
        let aside = Aside {
            late: Late::new([places()?, places()?, places()?]),
            held: KVec::with_capacity(capacity as usize, GFP_KERNEL)?,
            total: 0,
        };
        Ok(Self {
            ring,
            head: 0,
            len: 0,
            next_order: 0,
            mode: Mode::Open,
            quiet: false,
            aside: KBox::new(aside, GFP_KERNEL)?,
        })
    }

    /// Whether nothing waits that can be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether something is certain to be sent next.
    pub(super) fn has_next(&self) -> bool {
        // In the quiet time what waits may turn out to be held.
        !self.quiet && self.len != 0
    }

    /// Sets what happens to pieces from now on.
    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Puts a new piece, or one that was answered and needs a flush, at the end; gives it back if the queue refuses it.
    #[must_use]
    pub(super) fn push(&mut self, mut slot: RemoteSlot) -> Option<RemoteSlot> {
        if self.mode == Mode::Failing {
            return Some(slot);
        }
        if !slot.flushing {
            // Else it keeps its own: it may have to be sent itself again.
            slot.order = self.next_order;
            self.next_order += 1;
        }
        let place = self.place(self.len);
        self.put(place, slot)
    }

    /// Puts a piece that was taken before at the head, with the order it has.
    #[must_use]
    pub(super) fn push_front(&mut self, slot: RemoteSlot) -> Option<RemoteSlot> {
        let place = self.place(self.ring.len() - 1);
        let refused = self.put(place, slot);
        if refused.is_none() {
            self.head = place;
        }
        refused
    }

    /// Takes the piece at the head; in the quiet time, the first one that needn't wait.
    pub(super) fn pop(&mut self) -> Option<RemoteSlot> {
        let slot = self.take_first()?;
        if self.quiet {
            return self.sift(slot);
        }
        Some(slot)
    }

    #[cold]
    fn sift(&mut self, mut slot: RemoteSlot) -> Option<RemoteSlot> {
        loop {
            let goes = self.aside.sift(slot);
            if goes.is_some() {
                return goes;
            }
            slot = self.take_first()?;
        }
    }

    /// A piece that changes those sectors had no answer when its connection was lost: [`Late::lost`].
    pub(super) fn note_late(&mut self, extent: Extent, fenced: bool) {
        self.aside.late.lost(extent, fenced);
    }

    /// There is a connection again: [`Late::connected`]. Nothing may have been sent on it yet.
    pub(super) fn begin_quiet(&mut self, fenced: bool) {
        self.aside.late.connected(fenced);
        self.quiet = self.aside.late.is_any();
    }

    /// Whether newer writes wait for late ones.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A quiet time is over: [`Late::next`]. What was held is next, in its order, or is held again.
    #[must_use]
    pub(super) fn next_quiet(&mut self) -> Option<RemoteSlot> {
        self.aside.late.next();
        self.quiet = self.aside.late.is_any();
        while let Some(slot) = self.aside.held.pop() {
            // It is older than all that is in the ring.
            let refused = self.push_front(slot);
            if refused.is_some() {
                return refused;
            }
        }
        None
    }

    /// There is no connection, so nothing can be sent: whoever needs what is held takes it.
    pub(super) fn suspend_quiet(&mut self) {
        self.quiet = false;
    }

    /// Takes a piece that is held and for which `wanted` says so, the newest one first.
    pub(super) fn take_held(&mut self, wanted: impl Fn(&RemoteSlot) -> bool) -> Option<RemoteSlot> {
        let at = self.aside.held.iter().rposition(wanted)?;
        self.aside.held.remove(at).ok()
    }

    /// Takes a piece whose flush was not sent: it is older than those before it.
    pub(super) fn take_flushing(&mut self) -> Option<RemoteSlot> {
        let at = (0..self.len).find(|ahead| {
            let slot = self.ring.get(self.place(*ahead));
            slot.and_then(Option::as_ref)
                .is_some_and(|slot| slot.flushing)
        })?;
        // Those before it move up.
        for ahead in (0..at).rev() {
            let (from, to) = (self.place(ahead), self.place(ahead + 1));
            self.ring.swap(from, to);
        }
        self.take_first()
    }

    /// Pieces that are held now, and that were so far.
    pub(super) fn held(&self) -> (usize, u64) {
        (self.aside.held.len(), self.aside.total)
    }

    fn take_first(&mut self) -> Option<RemoteSlot> {
        if self.len == 0 {
            return None;
        }
        let slot = self.ring.get_mut(self.head)?.take();
        self.head = self.place(1);
        self.len -= 1;
        slot
    }

    /// The place that is `ahead` places behind the head, wrapping.
    fn place(&self, ahead: usize) -> usize {
        let place = self.head + ahead;
        if place >= self.ring.len() {
            place - self.ring.len()
        } else {
            place
        }
    }

    fn put(&mut self, place: usize, slot: RemoteSlot) -> Option<RemoteSlot> {
        match self.ring.get_mut(place) {
            Some(free @ None) => {
                *free = Some(slot);
                self.len += 1;
                None
            }
            // A full ring: there are as many places as pieces, so this can't be.
            _ => Some(slot),
        }
    }
}
