// SPDX-License-Identifier: GPL-2.0

//! What users do with a mirror that runs: copies come and go, wait, and are looked at; it is stopped.

use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
};

use crate::{
    alg_mirror::{
        bit,
        Mask,
        MAX_COPIES, //
    },
    array::Node,
    block_io::BlockIo,
    failure::{
        fail,
        Done, //
    },
    kern::{
        bio::Bio,
        time, //
    },
    meta::{
        head::{
            Back,
            Place,
            Trouble, //
        },
        superblock::Replacement,
        Block,
        BLOCK, //
    },
    superblocks::{
        check_free,
        new_uuid,
        Candidate,
        Superblocks, //
    },
};

use super::{
    log,
    start::place_on,
    Engine,
    MirrorArray, //
};

/// Milliseconds for a clean end: a few flushes and superblocks.
const STOP_MS: u32 = 10_000;

/// Milliseconds until what is on its way to a copy that was removed has ended, before its node is told to fail it.
const DRAIN_MS: u32 = 5_000;

impl MirrorArray {
    /// Serves a bio.
    #[inline]
    pub(crate) fn submit(&self, bio: Bio) {
        self.engine.submit(bio);
    }

    /// The mirror, to be looked at and changed.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
}

impl Drop for MirrorArray {
    /// Ends it, if that can be done in time with a clean end on all copies. Its disk is gone by now, so no request comes
    /// from above. Sleeps, for a bounded time.
    fn drop(&mut self) {
        self.engine.stop();
        // The thread goes, and what it has begun has ended when the pools go.
        drop(self.thread.take());
    }
}

impl Engine {
    fn stop(&self) {
        let mirror = &self.mirror;
        // A twin has nothing to write at its end.
        if mirror.twin.is_none() && !self.stop_cleanly() {
            pr_warn!("the mirror can't be ended cleanly: its copies will be compared when it is started again\n");
        }
        // What still waits for a server would keep the pools. The thread takes back what ends, and begins nothing.
        mirror.ending.store(1, Relaxed);
        mirror.kick();
        while !time::wait(DRAIN_MS / 10, || self.is_drained()) {
            for index in 0..MAX_COPIES {
                let copy = mirror.inner.lock().copy(index);
                if let Some(copy) = copy.filter(|_| mirror.pending(index) != 0) {
                    copy.node.fail_now();
                }
            }
            mirror.kick();
        }
    }

    /// Makes durable what was written, and says so. Gives whether that was done. Nothing may come from above any more; nothing
    /// is copied afterwards. Sleeps, for a bounded time.
    pub(super) fn stop_cleanly(&self) -> bool {
        let mirror = &self.mirror;
        mirror.inner.lock().core.stop();
        mirror.kick();
        let stopped = || mirror.inner.lock().core.is_stopped();
        // Nobody is there to be told.
        let hopeless = || {
            // A server that is lost now leaves the others alone.
            self.look_at_nodes();
            if mirror.hold.is_lost() {
                return true;
            }
            let inner = mirror.inner.lock();
            let targets = inner.targets(inner.core.attached());
            drop(inner);
            targets.0.iter().flatten().all(|copy| copy.node.is_lost())
        };
        time::wait(STOP_MS, || stopped() || hopeless()) && stopped()
    }

    /// Whether nothing of ours is on its way any more.
    pub(crate) fn is_drained(&self) -> bool {
        let mirror = &self.mirror;
        (0..MAX_COPIES).all(|index| mirror.pending(index) == 0)
            && self.owns.used() == 0
            && self.writes.used() == 0
            && self.late_writes.used() == 0
    }

    /// Takes up a node as a copy: one that is missing, or a new one. Gives its number. `replaces`: the copy whose place it
    /// takes.
    #[inline(never)]
    pub(crate) fn add(&self, candidate: &Candidate, replaces: Option<u32>) -> Done<u32> {
        if let Some(from) = replaces {
            self.check_replaceable(from)?;
        }
        let io = BlockIo::new()?;
        let superblocks = Superblocks::read(&io, &candidate.node)?;
        match self.returning(&io, candidate, &superblocks, replaces)? {
            Some(index) => Ok(index),
            None if candidate.discard => fail!(
                EINVAL,
                "{} is no copy of this storage, nothing needs to be given up; add it without --discard",
                candidate.name()
            ),
            None => self.add_new(&io, candidate, &superblocks, replaces),
        }
    }

    /// Writes a log in which nothing is noted: what another storage, or another life of this one, has left on the node
    /// must not be taken for it.
    fn blank(&self, io: &BlockIo, candidate: &Candidate) -> Done {
        let (log, sectors, storage, generation) = {
            let meta = self.mirror.meta.lock();
            let own = meta.superblock()?;
            let Some(log) = own.log() else {
                return Err(EINVAL.into());
            };
            (log, own.sectors(), own.storage(), own.generation())
        };
        let layout = place_on(candidate, log, sectors)?;
        log::blank(io, candidate, &layout, &storage, generation)
    }

    /// Takes back a copy that is missing, if the node is one.
    #[inline(never)]
    fn returning(
        &self,
        io: &BlockIo,
        candidate: &Candidate,
        superblocks: &Superblocks,
        replaces: Option<u32>,
    ) -> Done<Option<u32>> {
        let Ok(found) = superblocks.newest() else {
            return Ok(None);
        };
        let (index, back, lacking) = {
            let mut meta = self.mirror.meta.lock();
            let own = meta.superblock()?;
            if own.storage() != found.storage() {
                return Ok(None);
            }
            let Some((index, entry)) = own.find(found.node()) else {
                return Ok(None);
            };
            let Some(log) = own.log() else {
                return Ok(None);
            };
            if replaces == Some(index) {
                fail!(
                    EINVAL,
                    "{} is the node that is to be replaced; \"dst add\" takes it back",
                    candidate.name()
                );
            }
            let layout = place_on(candidate, log, own.sectors())?;
            let (a, b) = superblocks.blocks();
            let place = Place {
                seen: entry.seen,
                ..Place::found(entry.uuid, layout, a, b)
            };
            let Some(known) = meta.places.get_mut(index as usize) else {
                return Ok(None);
            };
            if known.is_some() {
                fail!(EEXIST, "{} is a copy already", candidate.name());
            }
            *known = Some(place);
            let back = match candidate.discard {
                false => Some(meta.look(index, a, b)),
                true => meta.look_discarding(index, a, b).then_some(Back::All),
            };
            (index, back, self.lacking(&meta, found)?)
        };
        let all = match back {
            Some(Back::Good) => false,
            Some(Back::All) => true,
            Some(Back::Refused(why)) => {
                self.forget(index);
                let error = match why {
                    Trouble::Conflict => ENOTUNIQ,
                    _ => ESTALE,
                };
                fail!(error, "{}: {}", candidate.name(), why.text());
            }
            None => {
                self.forget(index);
                fail!(
                    EINVAL,
                    "{} is in no conflict, nothing needs to be given up; add it without --discard",
                    candidate.name()
                );
            }
        };
        if candidate.discard {
            self.note_given_up(io, &candidate.node, index, found, lacking);
        }
        let result = self
            .attach(index, candidate.node.clone())
            .and_then(|()| match replaces {
                Some(_) => self.mark_replacement(replaces, index),
                None => Ok(()),
            });
        if let Err(error) = result {
            self.give_up(index, replaces)?;
            return Err(error.into());
        }
        candidate.node.watch_slowness();
        let attached = {
            let mut inner = self.mirror.inner.lock();
            let attached = inner.core.back(index, all);
            if attached && all {
                inner.core.lack_all(index);
            }
            attached
        };
        self.mirror.kick();
        if !attached {
            self.give_up(index, replaces)?;
            fail!(
                EBUSY,
                "{} can't be taken back now; try again",
                candidate.name()
            );
        }
        Ok(Some(index))
    }

    #[inline(never)]
    fn add_new(
        &self,
        io: &BlockIo,
        candidate: &Candidate,
        superblocks: &Superblocks,
        replaces: Option<u32>,
    ) -> Done<u32> {
        check_free(candidate, superblocks)?;
        self.blank(io, candidate)?;
        let index = {
            let mut meta = self.mirror.meta.lock();
            let own = meta.superblock()?;
            let (Some(log), sectors) = (own.log(), own.sectors()) else {
                return Err(EINVAL.into());
            };
            let layout = place_on(candidate, log, sectors)?;
            let free = (0..MAX_COPIES).find(|index| {
                self.mirror.inner.lock().core.is_free(*index)
                    && meta.place(*index).is_none()
                    && self.mirror.pending(*index) == 0
            });
            let Some(index) = free else {
                match replaces {
                    None => fail!(
                        ENOSPC,
                        "a mirror has at most {MAX_COPIES} copies; remove one first"
                    ),
                    Some(_) => fail!(
                        ENOSPC,
                        "a mirror has at most {MAX_COPIES} copies, and the new node is one more until the other \
                         one is dropped; remove a copy first"
                    ),
                }
            };
            let place = Place {
                uuid: new_uuid(),
                layout,
                seen: 0,
                b_first: false,
            };
            meta.join(index, place, candidate.name())?;
            if let Some(from) = replaces {
                meta.change(|superblock| {
                    superblock.set_replacement(Some(Replacement {
                        from,
                        to: index,
                        done: 0,
                    }));
                })?;
            }
            index
        };
        if let Err(error) = self.attach(index, candidate.node.clone()) {
            self.give_up(index, replaces)?;
            return Err(error.into());
        }
        candidate.node.watch_slowness();
        let added = {
            let mut inner = self.mirror.inner.lock();
            inner.core.add(index)
        };
        self.mirror.kick();
        if !added {
            self.give_up(index, replaces)?;
            fail!(EBUSY, "{} can't be added now; try again", candidate.name());
        }
        Ok(index)
    }

    /// Undoes what was done for a copy that the core has not taken up.
    fn give_up(&self, index: u32, replaces: Option<u32>) -> Result {
        self.forget(index);
        if replaces.is_some() {
            self.mark_replacement(None, index)?;
        }
        Ok(())
    }

    /// Forgets where a copy is.
    fn forget(&self, index: u32) {
        self.mirror.meta.lock().forget(index);
        let copy = {
            let mut inner = self.mirror.inner.lock();
            inner.copies.get_mut(index as usize).and_then(Option::take)
        };
        // Not under the lock: it may be the last reference to a disk.
        drop(copy);
    }

    /// Takes out a copy for ever; what lies on it is of no storage any more.
    pub(crate) fn remove(&self, index: u32) -> Done {
        self.check_lets_go(index)?;
        self.take_out(index, 0)
    }

    /// Refuses a copy whose disk has stopped ending requests: nobody can take those back, since it may still use their
    /// memory, and whoever waits for them would hold up all others. Sleeps, for a bounded time.
    fn check_lets_go(&self, index: u32) -> Done {
        let Some(copy) = self.mirror.inner.lock().copy(index) else {
            return Ok(());
        };
        let Some(before) = copy.node.ended() else {
            return Ok(());
        };
        let pending = || self.mirror.pending(index);
        if time::wait(DRAIN_MS, || {
            pending() == 0 || copy.node.ended() != Some(before)
        }) {
            return Ok(());
        }
        fail!(
            EBUSY,
            "its disk holds on to {} requests, and has ended none for {} s; try again when it goes on",
            pending(),
            DRAIN_MS / 1000
        );
    }

    /// The same, but only while the copies `others` are in sync.
    pub(super) fn take_out(&self, index: u32, others: Mask) -> Done {
        self.mirror.meta.lock().dismiss(index);
        let removed = {
            let mut inner = self.mirror.inner.lock();
            inner.core.in_sync() & others == others && inner.core.remove(index)
        };
        self.mirror.kick();
        if !removed {
            fail!(
                EBUSY,
                "it is the last copy that is in sync; add another one, and wait until it is healed"
            );
        }
        // What lies on it is erased when the others say that it is none of them: not before, or a crash would leave a
        // storage that misses it.
        let told = || self.mirror.twin.is_some() || self.mirror.inner.lock().core.is_told();
        if !time::wait(STOP_MS, told) {
            pr_warn!("the superblocks could not be written: a copy that was removed may be missed after a crash\n");
        }
        let Some(copy) = self.mirror.inner.lock().copy(index) else {
            self.forget(index);
            return Ok(());
        };
        let drained = || self.mirror.pending(index) == 0;
        if !time::wait(DRAIN_MS, drained) {
            copy.node.fail_now();
            // A local disk that holds on to requests: there is nothing else to do but wait.
            while !drained() {
                fsleep(Delta::from_millis(10));
            }
        }
        if !copy.node.is_lost() && self.wipe(index, &copy.node).is_err() {
            pr_warn!("the superblocks of a copy that was removed could not be erased\n");
        }
        self.forget(index);
        Ok(())
    }

    /// Erases both superblocks of a copy, unless they are not what this storage has left there.
    fn wipe(&self, index: u32, node: &Node) -> Result {
        const NOTHING: &Block = &[0; BLOCK];
        let Some(Place { layout, .. }) = self.mirror.meta.lock().place(index).copied() else {
            return Ok(());
        };
        let io = BlockIo::new()?;
        let superblocks = Superblocks::read(&io, node)?;
        let (a, b) = superblocks.blocks();
        if !self.mirror.meta.lock().is_own(index, a, b) {
            return Ok(());
        }
        io.write(node, layout.superblock_a(), NOTHING)?;
        io.write(node, layout.superblock_b(), NOTHING)
    }

    /// From now on requests that must go to a copy wait.
    pub(crate) fn suspend(&self, index: u32) -> Done {
        let mut inner = self.mirror.inner.lock();
        let already = inner.core.suspended() & bit(index) != 0;
        inner.core.suspend(index);
        drop(inner);
        if already {
            fail!(EALREADY, "the node is suspended already");
        }
        Ok(())
    }

    /// They go on.
    pub(crate) fn resume(&self, index: u32) -> Done {
        let mut inner = self.mirror.inner.lock();
        let suspended = inner.core.suspended() & bit(index) != 0;
        inner.core.resume(index);
        drop(inner);
        self.mirror.kick();
        if !suspended {
            fail!(EALREADY, "the node is not suspended");
        }
        Ok(())
    }

    /// Which copy serves reads: `uapi::READ_*`.
    pub(crate) fn set_policy(&self, policy: u32) {
        self.mirror.policy.store(policy, Relaxed);
    }

    /// How fast a copy is healed, in sectors a second; see [`crate::uapi::StorageInfo`].
    pub(crate) fn set_pace(&self, min: u64, max: u64) {
        self.mirror.inner.lock().core.set_pace(min, max);
        self.mirror.kick();
    }
}
