// SPDX-License-Identifier: GPL-2.0

//! References to this module: as long as one lives, it can't be unloaded.

use super::c;

/// A reference to the module itself.
///
/// # Invariants
///
/// One reference to the module is held.
pub(crate) struct ModuleRef(());

impl ModuleRef {
    /// Takes a reference. Call it only where the module can't be on its way out: in a file operation of
    /// one of its devices, which hold a reference themselves.
    pub(crate) fn get() -> Self {
        // SAFETY: The module's own `struct module` lives as long as this code.
        unsafe { c::__module_get(c::dst_this_module()) };
        // INVARIANT: Just taken.
        Self(())
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant there is a reference to give back.
        unsafe { c::module_put(c::dst_this_module()) };
    }
}
