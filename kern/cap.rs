// SPDX-License-Identifier: GPL-2.0

//! Capability checks.

use super::c;
use kernel::prelude::*;

/// Fails with `EPERM` unless the current task may administer the whole system (`CAP_SYS_ADMIN` in
/// the initial user namespace: being root of a container is not enough).
///
/// A success is remembered by the kernel as a use of privilege, so ask only when the privilege is
/// needed. Process context.
pub(crate) fn require_admin() -> Result {
    // SAFETY: `capable` only looks at, and marks, the current task. `CAP_SYS_ADMIN` is a valid
    // capability.
    if unsafe { c::capable(c::CAP_SYS_ADMIN as c_int) } {
        Ok(())
    } else {
        Err(EPERM)
    }
}
