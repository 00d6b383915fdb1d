// SPDX-License-Identifier: GPL-2.0

//! A queue with room for a fixed number of things.

use kernel::prelude::*;

/// First in, first out.
///
/// It never grows: whoever fills it knows how many things there are.
///
/// # Invariants
///
/// The `len` items from position `head` on (around the end) are `Some`, all others are `None`.
pub(super) struct Fifo<T> {
    items: KVec<Option<T>>,
    head: usize,
    len: usize,
}

impl<T> Fifo<T> {
    /// An empty queue with room for `capacity` things. Sleeps.
    pub(super) fn new(capacity: usize) -> Result<Self> {
        let mut items = KVec::with_capacity(capacity, GFP_KERNEL)?;
        for _ in 0..capacity {
            items.push(None, GFP_KERNEL)?;
        }
        // INVARIANT: `len` is 0, and all items are `None`.
        Ok(Self {
            items,
            head: 0,
            len: 0,
        })
    }

    /// How many things there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts `item` behind the others; gives it back if there is no room.
    #[inline]
    pub(super) fn push(&mut self, item: T) -> core::result::Result<(), T> {
        let capacity = self.items.len();
        if self.len >= capacity {
            return Err(item);
        }
        // `head < capacity` and `len < capacity`, so that nothing here can wrap.
        let mut at = self.head + self.len;
        if at >= capacity {
            at -= capacity;
        }
        match self.items.get_mut(at) {
            Some(place) => *place = Some(item),
            None => return Err(item),
        }
        self.len += 1;
        Ok(())
    }

    /// Takes the first thing.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        let item = self.items.get_mut(self.head)?.take();
        self.head += 1;
        if self.head >= self.items.len() {
            self.head = 0;
        }
        self.len -= 1;
        item
    }
}
