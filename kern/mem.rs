// SPDX-License-Identifier: GPL-2.0

//! Allocation scopes.

use super::c;
use kernel::types::NotThreadSafe;

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
