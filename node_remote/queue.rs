// SPDX-License-Identifier: GPL-2.0

//! The pieces that wait to be sent, in the order of submission.

use kernel::prelude::*;

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
    mode: Mode,
    next_order: u64,
}

impl Queue {
    /// An empty queue with `capacity` places.
    pub(super) fn new(capacity: u32) -> Result<Self> {
        let mut ring = KVec::with_capacity(capacity as usize, GFP_KERNEL)?;
        for _ in 0..capacity {
            ring.push(None, GFP_KERNEL)?;
        }
        Ok(Self {
            ring,
            head: 0,
            len: 0,
            mode: Mode::Open,
            next_order: 0,
        })
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets what happens to pieces from now on.
    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Puts a new piece at the end; gives it back if the queue refuses it.
    #[must_use]
    pub(super) fn push(&mut self, mut slot: RemoteSlot) -> Option<RemoteSlot> {
        if self.mode == Mode::Failing {
            return Some(slot);
        }
        slot.order = self.next_order;
        self.next_order += 1;
        let place = self.place(self.len);
        self.put(place, slot)
    }

    /// Puts a piece that was sent before at the head, with the order it has.
    #[must_use]
    pub(super) fn push_front(&mut self, slot: RemoteSlot) -> Option<RemoteSlot> {
        let place = self.place(self.ring.len() - 1);
        let refused = self.put(place, slot);
        if refused.is_none() {
            self.head = place;
        }
        refused
    }

    /// Takes the piece at the head.
    pub(super) fn pop(&mut self) -> Option<RemoteSlot> {
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
