// SPDX-License-Identifier: GPL-2.0

//! What a storage does with what is written on its nodes.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::{
    alg::{
        Algorithm,
        Segment, //
    },
    array::{
        Node,
        Running, //
    },
    failure::{
        fail,
        Done, //
    },
    kern::disk::Limits,
    limits,
    linear::{
        self,
        Linear,
        Told,
        Waiting, //
    },
    member::{
        Keeps,
        Member,
        Want, //
    },
    meta::Uuid,
    node_remote::Unfenced,
    proto::fence::Fence,
    uapi,
};

use super::{
    Assembled,
    Storage, //
};

/// Milliseconds until all servers have ended what older heads had on them: as long as a disk may take.
const CLAIM_MS: u32 = 30_000;

impl Storage {
    /// The algorithm.
    pub(super) fn alg(&self) -> &'static dyn Algorithm {
        self.found.as_ref().copied().unwrap_or(self.alg)
    }

    /// Whether what belongs to it is written on its nodes.
    pub(crate) fn has_metadata(&self) -> bool {
        self.metadata
    }

    /// What is written on its nodes.
    pub(super) fn keeps(&self) -> Keeps {
        match (self.is_mirror(), self.metadata) {
            (true, _) => Keeps::Log,
            (false, true) => Keeps::Superblocks,
            (false, false) => Keeps::Nothing,
        }
    }

    /// Where a node tells that it belongs, if the nodes are to tell that, and it is not the same for all. Reads from it.
    #[inline(never)]
    pub(super) fn ask(&self, node: &Node, want: &Want) -> Done<Option<Told>> {
        if !self.told {
            return Ok(None);
        }
        let candidate = want.candidate(node)?;
        let Some(told) = linear::told(node, candidate.name())? else {
            // The start refuses it, and knows why.
            return Ok(None);
        };
        // The first one decides. If others tell another algorithm they are of another storage, which the start says.
        self.found.populate(told.alg);
        Ok((!self.is_mirror()).then_some(told))
    }

    /// Announces to all servers that this machine writes for the storage, as the head of that epoch, and waits until they
    /// have ended what older ones had on them. Gives the epoch of another head that holds it.
    ///
    /// A server that knows no fence takes note of nothing.
    #[inline(never)]
    pub(super) fn claim(
        &self,
        members: &[Arc<Member>],
        storage: Uuid,
        epoch: u64,
    ) -> Done<Option<u64>> {
        let fence = Fence {
            storage: storage.0,
            head: self.fence.head,
            epoch,
        };
        let remotes = || members.iter().filter_map(|member| member.remote());
        let mut rounds = KVec::with_capacity(members.len(), GFP_KERNEL)?;
        for remote in remotes() {
            rounds.push(remote.renew(Some(fence)), GFP_KERNEL)?;
        }
        let mut other = None;
        for (remote, round) in remotes().zip(&rounds) {
            match remote.wait_fenced(*round, CLAIM_MS) {
                Ok(()) => {}
                Err(Unfenced::TakenOver(epoch)) => other = other.max(Some(epoch)),
                Err(Unfenced::Away(error, reason)) => {
                    fail!(error, "{}: {}", remote.config.address, reason.as_str());
                }
            }
        }
        if other.is_none() {
            self.inner.lock().fence = Some(fence);
        } else {
            self.release();
        }
        Ok(other)
    }

    /// Announces nothing any more: servers are only looked at. Nothing of ours may be in flight.
    pub(super) fn release(&self) {
        if !self.metadata {
            return;
        }
        let mut inner = self.inner.lock();
        inner.fence = None;
        for remote in inner.members.iter().filter_map(|member| member.remote()) {
            remote.renew(None);
        }
        self.hold.renew();
    }

    /// If another head has taken over, all nodes follow the one that has heard of it.
    pub(crate) fn follow(&self) {
        // Looked at under the lock: when it is stopped nobody follows any more.
        let inner = self.inner.lock();
        if self.hold.is_lost() {
            for remote in inner.members.iter().filter_map(|member| member.remote()) {
                remote.oust();
            }
        }
    }

    /// Makes a storage of the nodes, or finds out which one they are.
    #[inline(never)]
    pub(super) fn assemble_linear(
        &self,
        flags: u32,
        members: &[Arc<Member>],
        mut table: KVec<Segment>,
    ) -> Done<Assembled> {
        let mut candidates = KVec::with_capacity(members.len(), GFP_KERNEL)?;
        for member in members {
            candidates.push(member.candidate()?, GFP_KERNEL)?;
        }
        let new = match flags & (uapi::START_NEW | uapi::START_ASSEMBLE) {
            0 => None,
            flags => Some(flags == uapi::START_NEW),
        };
        // What is to be assembled may be a part: then the superblocks tell what is missing.
        let checked = match new {
            Some(false) => None,
            _ => Some(self.check(&mut table)?),
        };
        let limits = limits::stack(members, self.block_size, false)?;
        let waits = self.members(|member| member.waits())?;
        let waits = waits.first();
        // Before anything is announced: what is refused must not take the storage from a head that runs.
        let old = match waits {
            Some(new) => Some(self.check_resumable(new, members, &limits)?),
            None => None,
        };
        let waiting = match waits {
            Some(new) => Some(Waiting {
                candidate: new.candidate()?,
                start: new.start,
                size: new.size(),
            }),
            None => None,
        };
        let all = self.members(|_| true)?;
        let wish = linear::Wish {
            name: self.name(),
            alg: self.alg(),
            block_size: limits.logical_block_size,
            table: &table,
            new,
            waiting: waiting.as_ref(),
        };
        let mut linear = Linear::plan(&wish, &candidates, &mut |storage, epoch| {
            self.claim(&all, storage, epoch)
        })?;
        let sectors = match checked {
            Some(sectors) => sectors,
            None => self.check(&mut table)?,
        };
        let block_size = limits.logical_block_size.max(linear.block_size()?);
        let limits = Limits {
            logical_block_size: block_size,
            ..limits
        };
        linear.start(&candidates)?;
        let moving = match waits.zip(old) {
            Some((new, old)) => match self.resume_moving(&mut linear, new, old, block_size) {
                Ok(resumed) => Some(resumed),
                Err(failure) => {
                    let done = linear.moved().unwrap_or(0);
                    linear.stop(done);
                    return Err(failure);
                }
            },
            None => None,
        };
        let array = self.array(members, table, |member| match &moving {
            Some(moving) => moving.target(member),
            None => Self::itself(member),
        })?;
        Ok(Assembled {
            running: Running::Single(array),
            sectors,
            limits,
            linear: Some(KBox::new(linear, GFP_KERNEL)?),
            moving,
        })
    }
}
