// SPDX-License-Identifier: GPL-2.0

//! What a storage does with a mirror.

use kernel::{
    prelude::*,
    sync::{
        atomic::Full,
        Arc, //
    },
};

use crate::{
    array::Running,
    events::health_name,
    failure::{
        fail,
        Done, //
    },
    kern::disk::Limits,
    member::Member,
    mirror::{
        self,
        Engine, //
    },
    uapi,
};

use super::{
    Assembled,
    Storage, //
};

impl Storage {
    /// Whether it keeps copies.
    pub(crate) fn is_mirror(&self) -> bool {
        self.alg().has_copies()
    }

    /// The mirror, if one runs.
    pub(crate) fn mirror(&self) -> Option<Arc<Engine>> {
        self.inner.lock().mirror.clone()
    }

    /// What copies data from one node to another, if there is such a thing: the mirror, or a twin.
    pub(crate) fn engine(&self) -> Option<Arc<Engine>> {
        let inner = self.inner.lock();
        inner.mirror.clone().or_else(|| inner.twin.clone())
    }

    /// Makes a mirror of the nodes, or finds out which one they are.
    pub(super) fn assemble_mirror(
        &self,
        flags: u32,
        members: &[Arc<Member>],
        sectors: u64,
        limits: Limits,
    ) -> Done<Assembled> {
        let mut candidates = KVec::with_capacity(members.len(), GFP_KERNEL)?;
        for member in members {
            candidates.push(member.candidate()?, GFP_KERNEL)?;
        }
        let new = match flags & (uapi::START_NEW | uapi::START_ASSEMBLE) {
            0 => None,
            flags => Some(flags == uapi::START_NEW),
        };
        let wish = mirror::Wish {
            name: self.name(),
            alg: self.alg_name(),
            block_size: limits.logical_block_size,
            sectors,
            new,
            degraded: flags & uapi::START_DEGRADED != 0,
        };
        let started = mirror::start(
            &wish,
            &candidates,
            &mut |storage, epoch| self.claim(members, storage, epoch),
            self.events.clone(),
            self.hold.clone(),
        )?;
        let engine = started.array.engine();
        for (member, copy) in members.iter().zip(&started.copies) {
            member.set_copy(Some((engine.clone(), *copy)));
            member.set_size(started.sectors);
        }
        let limits = Limits {
            logical_block_size: limits.logical_block_size.max(started.block_size),
            ..limits
        };
        Ok(Assembled {
            running: Running::Mirror(started.array),
            sectors: started.sectors,
            limits,
            linear: None,
            moving: None,
        })
    }

    /// The nodes are copies of no mirror any more.
    pub(super) fn forget_copies(&self) {
        for member in &self.inner.lock().members {
            member.set_copy(None);
        }
    }

    /// Gives up what was written on a copy alone, that is not taken back for that reason.
    pub(crate) fn discard(&self, id: u32) -> Done {
        // So it is not removed meanwhile.
        let life = self.life.lock();
        let (mirror, copy) = {
            let inner = self.inner.lock();
            let Some(mirror) = inner.mirror.clone() else {
                fail!(
                    EOPNOTSUPP,
                    "{} is no mirror that runs; nothing on its nodes can be given up",
                    self.name()
                );
            };
            let member = inner.members.iter().find(|member| member.id == id);
            match member.map(|member| member.copy()) {
                Some(Some(copy)) => (mirror, copy),
                Some(None) => fail!(EINVAL, "the node is no copy"),
                None => fail!(ENOENT, "{} has no such node", self.name()),
            }
        };
        // Not under `inner`: it reads from the node.
        mirror.discard(copy)?;
        drop(life);
        self.events.tell();
        Ok(())
    }

    /// How it is: `uapi::HEALTH_*`.
    pub(crate) fn health(&self, mirror: Option<&Engine>) -> u32 {
        match mirror {
            _ if self.hold.is_lost() => uapi::HEALTH_TAKEN_OVER,
            Some(mirror) => mirror.health(),
            None => uapi::HEALTH_NONE,
        }
    }

    /// Tells user space how it is, if that has changed.
    pub(crate) fn tell_health(&self, health: u32) {
        // Who changes the storage holds `life`, and tells again when that is done.
        let Some(life) = self.life.try_lock() else {
            return;
        };
        if self.health.xchg(health, Full) == health {
            return;
        }
        if let Some(device) = &life.device {
            let name = health_name(health);
            if device.uevent(&[fmt!("DST_HEALTH={name}")]).is_err() {
                pr_warn!("{}: a uevent was lost\n", self.name());
            }
        }
    }
}
