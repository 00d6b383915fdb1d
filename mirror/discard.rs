// SPDX-License-Identifier: GPL-2.0

//! Giving up what was written on a copy alone, as its user asks for.

use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};

use crate::{
    alg_mirror::{
        bit,
        each, //
    },
    array::Node,
    block_io::BlockIo,
    failure::{
        fail,
        Done, //
    },
    kern::time,
    meta::{
        given_up::{
            self,
            GivenUp, //
        },
        layout::Layout,
        superblock::Superblock,
        verdict::Role, //
    },
    superblocks::{
        Candidate,
        Superblocks, //
    },
};

use super::{
    log,
    meta::Meta,
    start::Plan,
    Engine, //
};

/// Milliseconds until what is on its way to a copy that is missing has ended: it is a look at its superblocks.
const LOOK_MS: u32 = 5_000;

/// Reads what is given up with the copy that has the superblock `own`; `lacking`: see [`given_up::lacking`].
fn read(io: &BlockIo, node: &Node, layout: &Layout, own: &Superblock, lacking: u32) -> GivenUp {
    let shape = layout.log.filter(|_| lacking != 0);
    let bytes = shape.and_then(|shape| {
        let mut bytes = log::area(shape).ok()?;
        io.read(node, layout.log_start, &mut bytes).ok()?;
        Some(bytes)
    });
    GivenUp {
        generation: own.generation(),
        // If it can't be read, nobody knows.
        sectors: bytes.and_then(|bytes| given_up::sectors(own, lacking, &bytes)),
    }
}

/// Notes what is given up at a start.
#[inline(never)]
pub(super) fn note(io: &BlockIo, candidates: &[Candidate], plan: &mut Plan) -> Result {
    let Plan { meta, copies, .. } = plan;
    for copy in copies.iter() {
        let Some(candidate) = candidates.get(copy.at).filter(|c| c.discard) else {
            continue;
        };
        let superblocks = Superblocks::read(io, &candidate.node)?;
        if let Ok(own) = superblocks.newest() {
            let kept = copies.iter().filter(|copy| copy.role == Role::InSync);
            let lacking = given_up::lacking(own, kept.map(|copy| copy.place.uuid));
            let what = read(io, &candidate.node, &copy.place.layout, own, lacking);
            meta.give_up(copy.index, what);
        }
    }
    Ok(())
}

impl Engine {
    /// Which bits in the log of a copy tell what those that are in sync lack.
    pub(super) fn lacking(&self, meta: &Meta, found: &Superblock) -> Result<u32> {
        let own = meta.superblock()?;
        let in_sync = self.mirror.inner.lock().core.in_sync();
        let kept = each(in_sync).filter_map(|copy| own.entry(copy));
        Ok(given_up::lacking(found, kept.map(|entry| entry.uuid)))
    }

    /// Notes what is given up with a copy that comes back; before anything is written to it.
    pub(super) fn note_given_up(
        &self,
        io: &BlockIo,
        node: &Node,
        index: u32,
        found: &Superblock,
        lacking: u32,
    ) {
        let place = self.mirror.meta.lock().place(index).copied();
        if let Some(place) = place {
            let what = read(io, node, &place.layout, found, lacking);
            self.mirror.meta.lock().give_up(index, what);
        }
    }

    /// Gives up what was written alone on a copy that is here, and not taken back for that reason: it is brought up to date.
    #[inline(never)]
    pub(crate) fn discard(&self, index: u32) -> Done {
        let mirror = &self.mirror;
        let copy = {
            let inner = mirror.inner.lock();
            let missing = inner.core.members() & !inner.core.attached();
            inner.copy(index).filter(|_| missing & bit(index) != 0)
        };
        let Some(copy) = copy else {
            fail!(
                EINVAL,
                "the node is in no conflict, nothing needs to be given up"
            );
        };
        // What was sent before it left may still land: it must not land after what heals it.
        if copy.node.is_lost() || !time::wait(LOOK_MS, || mirror.pending(index) == 0) {
            fail!(
                EAGAIN,
                "the node can't be asked now; try again when it is up"
            );
        }
        // What is lost from here on is noticed.
        copy.losses.store(copy.node.losses(), Relaxed);
        let io = BlockIo::new()?;
        let superblocks = Superblocks::read(&io, &copy.node)?;
        let (a, b) = superblocks.blocks();
        if a.is_none() && b.is_none() {
            fail!(
                EAGAIN,
                "the superblocks of the node can't be read; see the kernel log"
            );
        }
        let Ok(found) = superblocks.newest() else {
            fail!(
                EINVAL,
                "the superblock of the node is damaged; remove it, and add it anew"
            );
        };
        let lacking = self.lacking(&mirror.meta.lock(), found)?;
        if !mirror.meta.lock().look_discarding(index, a, b) {
            fail!(
                EINVAL,
                "the node is in no conflict, nothing needs to be given up"
            );
        }
        self.note_given_up(&io, &copy.node, index, found, lacking);
        let attached = {
            let mut inner = mirror.inner.lock();
            let attached = inner.core.back(index, true);
            if attached {
                inner.core.lack_all(index);
            }
            attached
        };
        mirror.kick();
        if !attached {
            fail!(EAGAIN, "the node can't be taken back now; try again");
        }
        Ok(())
    }
}
