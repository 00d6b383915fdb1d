// SPDX-License-Identifier: GPL-2.0

//! The right to use an object of a [`Pool`], in its forms: [`Slot`], [`Shared`], [`Lent`], and a
//! [`Stack`] of slots.
//!
//! The pool's own documentation tells how they play together.

use super::pool::{
    Entry,
    Pool,
    HELD,
    LENT,
    PARKED,
    PER_WORD,
    WAITERS, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{
        Deref,
        DerefMut, //
    },
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::sync::atomic::{
    Acquire,
    Atomic,
    Full,
    Relaxed,
    Release, //
};

/// The exclusive right to one object of a pool; dropping it gives the object back. Any context.
///
/// What the object contains isn't dropped then: take out what must not stay.
///
/// # Invariants
///
/// The entry is valid, isn't free, its state is [`HELD`], and there is no other `Slot` or [`Lent`]
/// of it.
pub(crate) struct Slot<C, T>(NonNull<Entry<C, T>>);

// SAFETY: It is the only access to a `T`, and a shared one to a `C`.
unsafe impl<C: Send + Sync, T: Send> Send for Slot<C, T> {}
// SAFETY: A shared slot gives shared access to the `T` and to the `C`.
unsafe impl<C: Send + Sync, T: Send + Sync> Sync for Slot<C, T> {}

impl<C, T> Slot<C, T> {
    #[inline]
    fn entry(&self) -> &Entry<C, T> {
        // SAFETY: By the type invariant.
        unsafe { self.0.as_ref() }
    }

    /// Makes the slot of an object that the caller has just made its own.
    #[inline]
    pub(super) fn new(entry: &Entry<C, T>) -> Self {
        // INVARIANT: The callers, all in this file and in `pool.rs`, change a free, parked or lent
        // object to a held one first.
        Self(NonNull::from(entry))
    }

    /// Gives the object a new cookie: for answers to what was asked before, it is another one.
    #[inline]
    pub(crate) fn renew(&mut self) {
        let generation = self.entry().generation.get();
        // SAFETY: By the type invariant nobody else touches it.
        unsafe { *generation = (*generation).wrapping_add(1) };
    }

    /// The context of the pool.
    #[inline]
    pub(crate) fn ctx(&self) -> &C {
        self.pool().ctx()
    }

    /// The pool that the object belongs to.
    #[inline]
    pub(crate) fn pool(&self) -> &Pool<C, T> {
        // SAFETY: `Pool` is transparent over such a pointer. The pool lives longer than its slots.
        unsafe { &*ptr::from_ref(&self.entry().home).cast::<Pool<C, T>>() }
    }

    /// The object's position in the pool.
    #[inline]
    pub(crate) fn index(&self) -> u32 {
        self.entry().index
    }

    /// The number under which the next `park` or `lend` leaves the object in the pool.
    ///
    /// It changes when the object is given back, or by [`Self::renew`], so an answer that comes late
    /// finds nothing.
    /// Who claimed the object can park it again under the same cookie, for an answer in several
    /// parts. Generation in the upper, index in the lower half.
    #[inline]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: By the type invariant nobody else touches it.
        let generation = unsafe { *self.entry().generation.get() };
        u64::from(generation) << 32 | u64::from(self.index())
    }

    /// Leaves the object in the pool, to be claimed once by the cookie that this returns.
    pub(crate) fn park(self) -> u64 {
        let cookie = self.cookie();
        ManuallyDrop::new(self)
            .entry()
            .state
            .store(PARKED | cookie >> 32, Release);
        cookie
    }

    /// As [`Self::park`], but the object can be read until [`Lent::finish`].
    pub(crate) fn lend(self) -> Lent<C, T> {
        let generation = self.cookie() >> 32;
        self.entry().state.store(LENT | generation, Release);
        // INVARIANT: The state was set just now, and the slot isn't used any more.
        Lent {
            entry: ManuallyDrop::new(self).0,
            generation,
        }
    }

    /// Turns the slot into a right to read that can be multiplied.
    #[inline]
    pub(crate) fn share(self) -> Shared<C, T> {
        let entry = ManuallyDrop::new(self).0;
        // SAFETY: By the type invariant.
        // What was written to the object before is seen by who finds it: `Pool::find_shared`.
        unsafe { &(*entry.as_ptr()).state }.store(HELD + 1, Release);
        // INVARIANT: It is the only one, and counted.
        Shared(entry)
    }

    /// Gives up the slot for a pointer to the object.
    #[inline]
    pub(super) fn into_raw(self) -> *mut kernel::ffi::c_void {
        ManuallyDrop::new(self).0.as_ptr().cast()
    }

    /// Takes up the slot again.
    ///
    /// # Safety
    ///
    /// `raw` comes from [`Self::into_raw`] of this very type, and is used once.
    #[inline]
    pub(super) unsafe fn from_raw(raw: *mut kernel::ffi::c_void) -> Self {
        // SAFETY: It comes from a `NonNull`.
        // INVARIANT: As it was in the slot that was given up.
        Self(unsafe { NonNull::new_unchecked(raw.cast()) })
    }
}

impl<C, T> Deref for Slot<C, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant this is the only access.
        unsafe { &*self.entry().value.get() }
    }
}

impl<C, T> DerefMut for Slot<C, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant this is the only access.
        unsafe { &mut *self.entry().value.get() }
    }
}

impl<C, T> Drop for Slot<C, T> {
    #[inline]
    fn drop(&mut self) {
        self.renew();
        let home = self.entry().home;
        let index = self.index();
        let bit = 1u64 << (index % PER_WORD);
        // SAFETY: The pool lives at least until one of the two calls below has given back the
        // object.
        let Some(word) = (unsafe { home.as_ref() })
            .words
            .get((index / PER_WORD) as usize)
        else {
            return;
        };
        let mut old = word.load(Relaxed);
        while old & WAITERS == 0 {
            match word.cmpxchg(old, old | bit, Release) {
                // The pool may be gone now.
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
        // SAFETY: We own the object, and don't touch it any more.
        unsafe { home.as_ref().give_back_to_waiter(self.0) };
    }
}

/// One of several rights to read an object; the last one to be given up becomes a [`Slot`] again. Any context.
///
/// # Invariants
///
/// The entry is valid, isn't free, and its state is the number of its `Shared`s (of kind [`HELD`]). There is no [`Slot`]
/// and no [`Lent`] of it.
pub(crate) struct Shared<C, T>(NonNull<Entry<C, T>>);

// SAFETY: It gives shared access to a `T` and a `C`; the last one becomes a slot, wherever it is given up.
unsafe impl<C: Send + Sync, T: Send + Sync> Send for Shared<C, T> {}
// SAFETY: As above.
unsafe impl<C: Send + Sync, T: Send + Sync> Sync for Shared<C, T> {}

impl<C, T> Shared<C, T> {
    /// Makes one more right to an object that the caller has just counted one more right to.
    pub(super) fn new(entry: &Entry<C, T>) -> Self {
        // INVARIANT: The only caller, `Pool::find_shared`, has found it shared, and has counted this one.
        Self(NonNull::from(entry))
    }

    #[inline]
    fn entry(&self) -> &Entry<C, T> {
        // SAFETY: By the type invariant.
        unsafe { self.0.as_ref() }
    }

    /// One more right.
    #[inline]
    pub(crate) fn another(&self) -> Self {
        // INVARIANT: It is counted. There is one already, so it can't become a slot meanwhile.
        self.entry().state.fetch_add(1, Relaxed);
        Self(self.0)
    }

    /// Gives up the right. Whoever gives up the last one owns the object.
    #[inline]
    pub(crate) fn release(self) -> Option<Slot<C, T>> {
        let entry = ManuallyDrop::new(self).0;
        // SAFETY: By the type invariant, until the subtraction.
        let left = unsafe { &(*entry.as_ptr()).state }.fetch_sub(1, Full);
        // INVARIANT: That was the last one: the state is `HELD`, and nobody else has a right to the entry.
        (left == HELD + 1).then(|| Slot(entry))
    }
}

impl<C, T> Deref for Shared<C, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant nobody has more than shared access.
        unsafe { &*self.entry().value.get() }
    }
}

impl<C, T> Drop for Shared<C, T> {
    fn drop(&mut self) {
        // INVARIANT: `self` isn't used any more.
        drop(Self(self.0).release());
    }
}

/// An object that can be claimed while it is still read; see [`Slot::lend`].
///
/// # Invariants
///
/// The entry is valid, isn't free, and its state is [`LENT`] with `generation`, or `REPLIED`.
/// There is no `Slot` and no other `Lent` of it.
pub(crate) struct Lent<C, T> {
    entry: NonNull<Entry<C, T>>,
    generation: u64,
}

// SAFETY: It gives shared access to a `T` to which nobody else has access, and will become a slot
// again.
unsafe impl<C: Send + Sync, T: Send> Send for Lent<C, T> {}

impl<C, T> Lent<C, T> {
    /// Ends the reading. `None`: the object is parked. Otherwise its reply came early: it is ours
    /// again, and here is the code that [`Pool::claim`] got.
    pub(crate) fn finish(self) -> Option<(Slot<C, T>, u32)> {
        let (entry, generation) = (self.entry, self.generation);
        let _ = ManuallyDrop::new(self);
        // SAFETY: By the type invariant. Once the exchange succeeds it isn't touched any more.
        let state = unsafe { &(*entry.as_ptr()).state };
        let replied = state
            .cmpxchg(LENT | generation, PARKED | generation, Release)
            .err()?;
        // SAFETY: It is still valid, as the state is `REPLIED`, which only we change.
        let entry = unsafe { entry.as_ref() };
        entry.state.store(HELD, Relaxed);
        Some((Slot::new(entry), replied as u32))
    }
}

impl<C, T> Deref for Lent<C, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant nobody writes to it.
        unsafe { &*(*self.entry.as_ptr()).value.get() }
    }
}

impl<C, T> Drop for Lent<C, T> {
    fn drop(&mut self) {
        // INVARIANT: `self` isn't used any more.
        drop(
            Lent {
                entry: self.entry,
                generation: self.generation,
            }
            .finish(),
        );
    }
}

/// Slots that wait for a thread: put there in any context, without a lock, and taken all at once.
///
/// # Invariants
///
/// `head` is null or the first of a list of entries, linked by `next`, to which there is no other
/// right: each is as if in a [`Slot`].
pub(crate) struct Stack<C, T> {
    head: Atomic<*mut Entry<C, T>>,
    /// An atomic pointer is `Send` and `Sync` whatever it points to; see below for what the stack
    /// is.
    _slots: PhantomData<*mut Entry<C, T>>,
}

// SAFETY: It is as good as the slots in it.
unsafe impl<C: Send + Sync, T: Send> Send for Stack<C, T> {}
// SAFETY: It gives no access to the objects but by handing out their slots, each once.
unsafe impl<C: Send + Sync, T: Send> Sync for Stack<C, T> {}

impl<C, T> Stack<C, T> {
    /// An empty stack.
    pub(crate) const fn new() -> Self {
        // INVARIANT: There is no entry.
        Self {
            head: Atomic::new(ptr::null_mut()),
            _slots: PhantomData,
        }
    }

    /// Puts a slot on the stack. Returns whether it is the only one there: time to wake who takes
    /// them.
    pub(crate) fn push(&self, slot: Slot<C, T>) -> bool {
        let entry = ManuallyDrop::new(slot).0;
        let mut head = self.head.load(Relaxed);
        loop {
            // SAFETY: The right to the entry is ours until the exchange succeeds.
            unsafe { *(*entry.as_ptr()).next.get() = head };
            // INVARIANT: The right moves from the slot to the stack.
            match self.head.cmpxchg(head, entry.as_ptr(), Full) {
                Ok(_) => return head.is_null(),
                Err(now) => head = now,
            }
        }
    }

    /// Whether there is no slot at this moment.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Acquire).is_null()
    }

    /// Takes all slots, the one that was put there first first.
    pub(crate) fn take_all(&self) -> Taken<C, T> {
        let mut from = if self.is_empty() {
            ptr::null_mut()
        } else {
            // INVARIANT: The stack is empty, the rights to its entries move to `Taken`.
            self.head.xchg(ptr::null_mut(), Acquire)
        };
        let mut first = ptr::null_mut();
        while !from.is_null() {
            // SAFETY: By the type invariant of `Stack`, and as the list is ours now.
            let next = unsafe { (*from).next.get() };
            // SAFETY: As above. This turns the list around.
            unsafe { (first, from) = (from, next.replace(first)) };
        }
        Taken { first }
    }
}

impl<C, T> Drop for Stack<C, T> {
    fn drop(&mut self) {
        drop(self.take_all());
    }
}

/// Slots that were taken from a [`Stack`]. Dropping it gives back those that are left.
///
/// # Invariants
///
/// As those of [`Stack`], for `first`.
pub(crate) struct Taken<C, T> {
    first: *mut Entry<C, T>,
}

// SAFETY: It is as good as the slots in it.
unsafe impl<C: Send + Sync, T: Send> Send for Taken<C, T> {}

impl<C, T> Iterator for Taken<C, T> {
    type Item = Slot<C, T>;

    fn next(&mut self) -> Option<Slot<C, T>> {
        let entry = NonNull::new(self.first)?;
        // SAFETY: By the type invariant.
        self.first = unsafe { *(*entry.as_ptr()).next.get() };
        // INVARIANT: The right moves from the list to the slot.
        Some(Slot(entry))
    }
}

impl<C, T> Drop for Taken<C, T> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}
