// SPDX-License-Identifier: GPL-2.0

//! A copy that takes the place of another one.
//!
//! The new copy is added and healed like any other. The superblocks say whose place it takes, from the moment on in which
//! they name it, so that a crash ends nothing. It is over when one of the two is taken out: the old one when the new one
//! is in sync, or the new one if somebody wants that. [`super::meta`] then says so in the same superblocks that don't
//! name that copy any more.

use kernel::prelude::*;

use crate::{
    alg_mirror::bit,
    failure::{
        fail,
        Done, //
    },
    meta::superblock::Replacement,
};

use super::Engine;

/// Copies by their numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moving {
    /// The copy that goes.
    pub(crate) from: u32,
    /// The copy that comes.
    pub(crate) to: u32,
}

impl Moving {
    /// Whether a copy has a part in it.
    pub(crate) fn has(self, copy: u32) -> bool {
        copy == self.from || copy == self.to
    }
}

impl Engine {
    /// Which copy takes the place of which one. Process context.
    pub(crate) fn replacement(&self) -> Option<Moving> {
        let Replacement { from, to, .. } =
            self.mirror.meta.lock().superblock().ok()?.replacement()?;
        let both = bit(from) | bit(to);
        // The superblock may be behind.
        let members = self.mirror.inner.lock().core.members();
        (members & both == both).then_some(Moving { from, to })
    }

    /// Whether a copy can be replaced; if so, nothing but [`Self::mark_replacement`] is missing.
    pub(super) fn check_replaceable(&self, from: u32) -> Done {
        if self.mirror.inner.lock().core.members() & bit(from) == 0 {
            fail!(ENOENT, "the node is no copy of the mirror");
        }
        if self.replacement().is_some() {
            fail!(
                EBUSY,
                "a node is being replaced already; wait until that is done, or cancel it"
            );
        }
        Ok(())
    }

    /// Says whose place the copy `to` takes, in memory; `None`: nobody's. The next superblocks say it.
    pub(super) fn mark_replacement(&self, from: Option<u32>, to: u32) -> Result {
        self.mirror.meta.lock().change(|superblock| {
            superblock.set_replacement(from.map(|from| Replacement { from, to, done: 0 }));
        })?;
        Ok(())
    }

    /// Whether the copy that comes is in sync, durably: the other one can go.
    pub(crate) fn may_finish_replacement(&self) -> Option<Moving> {
        let moving = self.replacement()?;
        let in_sync = self.mirror.inner.lock().core.in_sync();
        (in_sync & bit(moving.to) != 0).then_some(moving)
    }

    /// Whether something is to be done about a replacement: by the storage, on a worker.
    pub(crate) fn wants_finish(&self) -> bool {
        let over = || self.mirror.twin.is_some() && self.replacement().is_none();
        self.asks() || self.asks_back() || self.may_finish_replacement().is_some() || over()
    }

    /// Takes the old copy out, if the new one is in sync at that very moment; gives which one went. Sleeps, as
    /// [`Self::remove`] does.
    pub(crate) fn finish_replacement(&self) -> Done<Option<u32>> {
        let Some(moving) = self.may_finish_replacement() else {
            return Ok(None);
        };
        self.take_out(moving.from, bit(moving.to))?;
        Ok(Some(moving.from))
    }
}
