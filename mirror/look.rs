// SPDX-License-Identifier: GPL-2.0

//! What is told of a mirror, and of its copies.

use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};

use crate::{
    alg_mirror::{
        bit,
        each,
        Mask, //
    },
    failure::{
        fail,
        Done, //
    },
    meta::head::Trouble,
    text::Text,
    uapi,
};

use super::Engine;

impl Engine {
    /// What a copy is: `uapi::ROLE_*`.
    pub(crate) fn role(&self, index: u32) -> u32 {
        let inner = self.mirror.inner.lock();
        let mask = bit(index);
        if inner.core.in_sync() & mask != 0 {
            uapi::ROLE_IN_SYNC
        } else if inner.core.healing() & mask != 0 {
            uapi::ROLE_HEALING
        } else if inner.core.members() & mask != 0 {
            uapi::ROLE_MISSING
        } else {
            uapi::ROLE_NONE
        }
    }

    /// What must be done something about, of a copy that is away.
    pub(crate) fn trouble(&self, index: u32) -> Option<Trouble> {
        let meta = self.mirror.meta.lock();
        let away = self.role(index) == uapi::ROLE_MISSING;
        meta.trouble(index).filter(|_| away)
    }

    /// Tells about a copy.
    pub(crate) fn copy_info(&self, index: u32, out: &mut uapi::NodeInfo) {
        out.role = self.role(index);
        let trouble = self.trouble(index);
        out.trouble = *Text::<96>::new(trouble.map_or("", Trouble::text)).bytes();
        out.conflict = u32::from(trouble == Some(Trouble::Conflict));
        {
            let meta = self.mirror.meta.lock();
            if let Some(place) = meta.place(index) {
                out.uuid = place.uuid.0;
            }
            if let Some(what) = meta.given_up(index) {
                out.given_up_generation = what.generation;
                out.given_up = what.sectors.unwrap_or(uapi::UNKNOWN);
            }
        }
        let inner = self.mirror.inner.lock();
        out.stale = inner.core.stale_sectors(index);
        out.suspended = u32::from(inner.core.suspended() & bit(index) != 0);
    }

    /// Tells about the copy that is the `nth` of those of which no node is here; `false` behind the last one.
    pub(crate) fn absent_info(&self, nth: usize, out: &mut uapi::NodeInfo) -> bool {
        let meta = self.mirror.meta.lock();
        let members = self.mirror.inner.lock().core.members();
        let mut absent = each(members).filter(|copy| meta.place(*copy).is_none());
        let (Some(index), Ok(own)) = (absent.nth(nth), meta.superblock()) else {
            return false;
        };
        out.node = uapi::ABSENT | index;
        out.kind = uapi::KIND_ABSENT;
        out.state = uapi::NODE_LOST;
        out.role = uapi::ROLE_MISSING;
        out.size = own.sectors();
        if let Some(entry) = own.entry(index) {
            out.uuid = entry.uuid.0;
        }
        // It is shorter than the field.
        let _ = uapi::set_text(&mut out.path, own.label(index));
        out.stale = self.mirror.inner.lock().core.stale_sectors(index);
        true
    }

    /// Gives the number of a copy of which no node is here, if it is one.
    pub(crate) fn absent_copy(&self, index: u32) -> Done<u32> {
        if self.mirror.meta.lock().place(index).is_some()
            || self.mirror.inner.lock().core.members() & bit(index) == 0
        {
            fail!(ENOENT, "there is no such node");
        }
        Ok(index)
    }

    /// `uapi::HEALTH_*`.
    pub(crate) fn health(&self) -> u32 {
        let inner = self.mirror.inner.lock();
        let core = &inner.core;
        if core.members() & !core.attached() != 0 {
            uapi::HEALTH_DEGRADED
        } else if core.healing() != 0 {
            uapi::HEALTH_HEALING
        } else {
            uapi::HEALTH_GOOD
        }
    }

    /// Tells about the mirror.
    pub(crate) fn info(&self, out: &mut uapi::StorageInfo) {
        out.health = self.health();
        out.read_policy = self.mirror.policy.load(Relaxed);
        if let Ok(superblock) = self.mirror.meta.lock().superblock() {
            out.uuid = superblock.storage().0;
        }
        let inner = self.mirror.inner.lock();
        let core = &inner.core;
        let counters = core.counters();
        let lacking: Mask = core.members() & !core.in_sync();
        out.stale = each(lacking).fold(0, |sum: u64, copy| {
            sum.saturating_add(core.stale_sectors(copy))
        });
        out.healed = counters.healed;
        out.healed_before = counters.healed_before;
        out.heal_rate = core.heal_rate();
        out.heal_left = core.heal_left();
        out.heal_seconds_left = core.heal_seconds_left().unwrap_or(uapi::UNKNOWN);
        (out.heal_min, out.heal_max) = core.pace();
        out.overlaps = counters.overlaps;
        out.log_waits = counters.log_waits;
        out.log_writes = counters.log_writes;
        out.read_overlaps = counters.read_overlaps;
        out.read_held = counters.read_held;
        out.rescued = counters.rescued;
        out.rewritten = counters.rewritten;
        out.left = counters.left;
    }
}
