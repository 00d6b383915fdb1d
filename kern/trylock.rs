// SPDX-License-Identifier: GPL-2.0

//! A lock that is only ever tried: who fails leaves the work to the holder.
//!
//! Unlike a mutex it never sleeps, and unlike a spin lock its holder may. It has no owner that lockdep
//! could track, and needs none: nobody waits for it, so it can't be part of a deadlock.

use core::{
    cell::UnsafeCell,
    ops::{
        Deref,
        DerefMut, //
    },
};

use kernel::sync::atomic::{
    Atomic,
    Full, //
};

/// Data that one party at a time may use, without waiting.
///
/// The protocol of a user who must not lose work: publish the work, then [`TryLock::try_lock`]; on
/// failure leave. The holder, after dropping the guard, looks for work once more. Both the taking and
/// the release are full memory barriers, so one of the two sees it.
///
/// # Invariants
///
/// At most one [`TryGuard`] exists at a time; `busy` is true while it does.
pub(crate) struct TryLock<T> {
    busy: Atomic<bool>,
    data: UnsafeCell<T>,
}

// SAFETY: The lock hands out its data to one party at a time, so that all that is asked of `T` is that it
// may move between threads.
unsafe impl<T: Send> Send for TryLock<T> {}
// SAFETY: As above.
unsafe impl<T: Send> Sync for TryLock<T> {}

impl<T> TryLock<T> {
    /// A free lock around `data`.
    pub(crate) const fn new(data: T) -> Self {
        Self {
            busy: Atomic::new(false),
            data: UnsafeCell::new(data),
        }
    }

    /// Takes the lock unless somebody holds it. Any context; never waits.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<TryGuard<'_, T>> {
        if self.busy.xchg(true, Full) {
            return None;
        }
        // INVARIANT: `busy` was false, so there is no other guard, and it is true from now on.
        Some(TryGuard { lock: self })
    }
}

/// Access to the data of a [`TryLock`].
#[must_use = "the lock is released at once when the guard is dropped"]
pub(crate) struct TryGuard<'a, T> {
    lock: &'a TryLock<T>,
}

impl<T> Deref for TryGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the invariant of `TryLock` this is the only guard, and it is borrowed shared.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for TryGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the invariant of `TryLock` this is the only guard, and it is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for TryGuard<'_, T> {
    fn drop(&mut self) {
        // A full barrier, not a plain release: the holder looks for new work right after this.
        self.lock.busy.xchg(false, Full);
    }
}
