// SPDX-License-Identifier: GPL-2.0

//! What the module has one of, for those that C calls without telling them where they are.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::{
    kern::{
        global::global,
        sysfs::Anchor, //
    },
    registry::Registry, //
};

/// The module's own.
pub(crate) struct Shared {
    /// All storages and exports.
    pub(crate) registry: Arc<Registry>,
    /// `/sys/class/misc/dst/exports`.
    pub(crate) exports: Anchor,
}

global! {
    /// Where it is kept.
    place: Arc<Shared>
}

impl Shared {
    /// Makes it known.
    pub(crate) fn set(self) -> Result {
        place::set(Arc::new(self, GFP_KERNEL)?).map_err(|_| EBUSY)
    }

    /// Gives it to who needs it.
    pub(crate) fn get() -> Option<Arc<Self>> {
        place::get()
    }

    /// Makes it unknown.
    pub(crate) fn clear() {
        drop(place::take());
    }
}
