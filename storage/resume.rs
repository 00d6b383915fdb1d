// SPDX-License-Identifier: GPL-2.0

//! A replacement of a node, of a storage without copies, that was under way when the storage was stopped.
//!
//! The superblock of the new node says whose place it is to take. It is a node that *waits* ([`Member::waits`]): it has no
//! place of its own. At the start both become a twin before there is a disk, so nothing is written to the old one alone. What
//! the new one has then is told by [`Linear::moved`].

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::{
    array::Target,
    failure::{
        fail,
        Done, //
    },
    kern::disk::Limits,
    linear::Linear,
    member::Member,
    mirror::{
        self,
        MirrorArray,
        Pair, //
    },
    superblocks::cannot,
};

use super::{
    moving::Moving,
    Life,
    Storage, //
};

/// A replacement that goes on, as the storage starts.
pub(super) struct Resumed {
    twin: MirrorArray,
    old: Arc<Member>,
    new: Arc<Member>,
}

impl Resumed {
    /// What serves the place of a node.
    pub(super) fn target(&self, member: &Member) -> Target {
        if member.id == self.old.id {
            Target::Twin(self.twin.engine().clone())
        } else {
            Storage::itself(member)
        }
    }
}

impl Storage {
    /// Finds the node whose place `new` waits for; refuses one that can't take it.
    pub(super) fn check_resumable<'a>(
        &self,
        new: &Member,
        members: &'a [Arc<Member>],
        limits: &Limits,
    ) -> Done<&'a Arc<Member>> {
        if self.members(|member| member.waits())?.len() != 1 {
            fail!(
                EINVAL,
                "several nodes wait to take the place of others: only one at a time can; remove all but one of them"
            );
        }
        let place = (new.start, new.size());
        let Some(old) = members.iter().find(|old| (old.start, old.size()) == place) else {
            fail!(
                EINVAL,
                "{new} was to take the place of another node, which is not there, and lacks data of that; name that one, too, or \
                 leave this one out"
            );
        };
        Self::check_fits(&new.node, limits, old)?;
        Ok(old)
    }

    /// Goes on with a replacement that was under way when the storage was stopped. The superblocks of all others are
    /// those of a storage that runs, by now.
    #[inline(never)]
    pub(super) fn resume_moving(
        &self,
        linear: &mut Linear,
        new: &Arc<Member>,
        old: &Arc<Member>,
        block_size: u32,
    ) -> Done<Resumed> {
        let candidate = new.candidate()?;
        linear
            .resume()
            .map_err(|error| cannot(error, &candidate, "written to"))?;
        let pair = Pair {
            name: self.name(),
            origin: old.start,
            sectors: old.size(),
            block_size,
            old: &old.candidate()?,
            new: &candidate,
            done: linear.moved().unwrap_or(0),
        };
        let twin = mirror::twin(&pair, self.events.clone(), self.hold.clone())?;
        Ok(Resumed {
            twin,
            old: old.clone(),
            new: new.clone(),
        })
    }

    /// Both nodes are those of a replacement from now on, and data are copied.
    pub(super) fn adopt(&self, life: &mut Life, resumed: Resumed) {
        let Resumed { twin, old, new } = resumed;
        let engine = twin.engine().clone();
        life.moving = Some(Moving::new(twin));
        old.set_copy(Some((engine.clone(), 0)));
        new.set_copy(Some((engine.clone(), 1)));
        self.inner.lock().show_twin(&engine);
        engine.begin_copying();
    }
}
