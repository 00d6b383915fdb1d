// SPDX-License-Identifier: GPL-2.0

//! Allocation scopes, and a lock that has one.

use super::c;
use core::ops::{
    Deref,
    DerefMut, //
};
use kernel::{
    prelude::*,
    sync::{
        Mutex,
        MutexGuard, //
    },
    types::NotThreadSafe, //
};

/// While this lives, allocations of this thread start no I/O.
pub(crate) struct NoIoScope {
    flags: u32,
    _not_send: NotThreadSafe,
}

impl NoIoScope {
    /// Opens the scope.
    pub(crate) fn new() -> Self {
        Self {
            // SAFETY: The call only sets a flag of the current task.
            flags: unsafe { c::dst_memalloc_noio_save() },
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for NoIoScope {
    fn drop(&mut self) {
        // SAFETY: `flags` is what the matching save returned, on this thread: the type is not `Send`.
        unsafe { c::dst_memalloc_noio_restore(self.flags) };
    }
}

/// While this lives, allocations of this thread neither wait for reclaim nor enter it, and may use the reserves: for
/// what helps to free memory, such as sending pages that are being written back.
pub(crate) struct NoReclaimScope {
    flags: u32,
    _not_send: NotThreadSafe,
}

impl NoReclaimScope {
    /// Opens the scope.
    pub(crate) fn new() -> Self {
        Self {
            // SAFETY: The call only sets a flag of the current task.
            flags: unsafe { c::dst_memalloc_noreclaim_save() },
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for NoReclaimScope {
    fn drop(&mut self) {
        // SAFETY: `flags` is what the matching save returned, on this thread: the type is not `Send`.
        unsafe { c::dst_memalloc_noreclaim_restore(self.flags) };
    }
}

/// A mutex under which allocations start no I/O.
///
/// For what is needed to go on with I/O: memory reclaim may write to a disk of ours (swap), or wait for a filesystem that
/// does, and a request of that may need the lock before it can end.
#[pin_data]
pub(crate) struct NoIoMutex<T> {
    #[pin]
    mutex: Mutex<T>,
}

/// The right to what a [`NoIoMutex`] protects.
pub(crate) struct NoIoGuard<'a, T> {
    /// Goes first.
    data: MutexGuard<'a, T>,
    _scope: NoIoScope,
}

impl<T> NoIoMutex<T> {
    /// Makes one of a mutex, which `new_mutex!` makes.
    pub(crate) fn new(mutex: impl PinInit<Mutex<T>>) -> impl PinInit<Self> {
        pin_init!(Self { mutex <- mutex })
    }

    /// Waits for the lock, and takes it. Process context; sleeps.
    pub(crate) fn lock(&self) -> NoIoGuard<'_, T> {
        NoIoGuard {
            data: self.mutex.lock(),
            _scope: NoIoScope::new(),
        }
    }
}

impl<T> Deref for NoIoGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T: Unpin> DerefMut for NoIoGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}
