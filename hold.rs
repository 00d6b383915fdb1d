// SPDX-License-Identifier: GPL-2.0

//! What each request of a storage looks at first: whether this machine still holds the storage, or another head has taken
//! it over; and whether there is a node for which some must wait.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc, //
    },
};

/// Shared by all that serve a storage. Any context.
pub(crate) struct Hold {
    /// Epoch of the head that has taken over; 0: the storage is held.
    epoch: Atomic<u64>,
    /// Gates that are not open.
    closed: Atomic<u32>,
}

impl Hold {
    /// It is held.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(
            Self {
                epoch: Atomic::new(0),
                closed: Atomic::new(0),
            },
            GFP_KERNEL,
        )?)
    }

    /// Whether another head has taken over: then nothing is served, and nothing is written any more.
    #[inline]
    pub(crate) fn is_lost(&self) -> bool {
        self.epoch.load(Relaxed) != 0
    }

    /// Whether a [gate](crate::gate) of the storage may be closed. That is noticed by requests that begin later.
    #[inline]
    pub(crate) fn has_closed_gates(&self) -> bool {
        self.closed.load(Relaxed) != 0
    }

    /// One more gate is closed.
    pub(crate) fn count_closed(&self) {
        self.closed.fetch_add(1, Full);
    }

    /// One gate is open again.
    pub(crate) fn count_opened(&self) {
        self.closed.fetch_sub(1, Full);
    }

    /// The epoch of the head that has taken over; 0: none has.
    pub(crate) fn lost_to(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// A head of this epoch has taken over.
    pub(crate) fn lose(&self, epoch: u64) {
        // Whoever sees a request fail for this reason must see the reason, too.
        self.epoch.xchg(epoch, Full);
    }

    /// It was stopped; the next start begins anew.
    pub(crate) fn renew(&self) {
        self.epoch.xchg(0, Full);
    }
}
