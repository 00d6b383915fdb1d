// SPDX-License-Identifier: GPL-2.0

//! Two nodes of a storage without copies, while one of them takes the place of the other one.
//!
//! That is a mirror of two copies for the sectors that the old node holds: the old one is in sync, the new one lacks
//! everything. So writes go to both and in one order, reads come from where the data are, copying gives way to requests,
//! and a new node that is lost gets what it missed when it is back. The old node is the last copy in sync until the new
//! one has all data, so its errors, and its outages, are those of the storage, as before; those of the new one are not.
//!
//! # What is different
//!
//! Nothing is written on the nodes but data: log and superblocks are in memory only, and are there at once. What they say
//! is worth nothing after a crash of the head: then the old node is the one that counts, and it got all writes.
//!
//! The new node counts as in sync only when the storage has agreed ([`Engine::agree`]): from then on it may hold what the
//! old one does not, so whoever looks for the data after a crash must find it.
//!
//! A storage with superblocks lets them name the new node then. From the first of them on ([`Engine::begin_naming`]) a
//! crash may leave the new node as the one that counts, so if it leaves, what it lacks is acknowledged only when all
//! superblocks name the old one again ([`Engine::end_naming`]). To the core that is what it is in a mirror: a superblock
//! that calls a copy in sync is being written, or was, and the one that calls it away is not durable yet.
//!
//! # Its beginning and end
//!
//! The old node is suspended at first: what was sent to it before must be over before what it wrote is copied
//! ([`Engine::begin_copying`]). When one of the two is out, the twin only passes on what it is given, until the storage
//! sends that to the node itself; what is under way then ends ([`Engine::is_idle`]).

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

use crate::{
    alg_mirror::{
        bit,
        jobs::Job,
        overlap::Extent,
        Config, //
    },
    events::Events,
    failure::{
        fail,
        Done, //
    },
    hold::Hold,
    kern::{
        bio::{
            BioPart,
            Op,
            Status, //
        },
        pool::{
            Pool,
            Slot, //
        }, //
    },
    meta::{
        layout::{
            Log,
            DATA_UNIT,
            ENTRIES, //
        },
        superblock::{
            Entry,
            New,
            NodeState,
            Replacement,
            Superblock, //
        },
    },
    superblocks::{
        new_block,
        new_uuid,
        Candidate, //
    },
};

use super::{
    meta::{
        new_meta,
        Meta, //
    },
    start::{
        launch,
        parts, //
    },
    Core,
    Engine,
    Mask,
    Mirror,
    MirrorArray, //
};

/// The number of the old node as a copy.
const OLD: u32 = 0;

/// The number of the new one.
const NEW: u32 = 1;

/// Nothing waits for superblocks of the storage.
const NOTHING_WAITS: u32 = 0;
/// The new node has left, and superblocks of the storage may name it: they must name the old one again.
const TAKE_BACK: u32 = 1;
/// They can't: what waits for that fails.
const REFUSED: u32 = 2;

/// What a twin has beside a mirror.
pub(super) struct Twin {
    /// First sector of the storage that lies on the nodes.
    pub(super) origin: u64,
    /// [`NOTHING_WAITS`], [`TAKE_BACK`], [`REFUSED`].
    state: Atomic<u32>,
    /// Superblocks of the storage may name the new node. Set under the core's lock.
    named: Atomic<u32>,
    /// Nobody answers any more.
    ending: Atomic<u32>,
}

/// What has become of a job.
pub(super) enum Answer {
    /// It is none that concerns metadata.
    NoneOfMine,
    /// The storage is asked; it is to be tried again.
    Wait {
        /// It was told that before: to tell it each time would have both wake each other without end.
        told: bool,
    },
    /// It is done on these copies.
    Done(Mask),
}

/// The two nodes.
pub(crate) struct Pair<'a> {
    /// Name of the storage.
    pub(crate) name: &'a str,
    /// First sector of the storage that lies on the nodes.
    pub(crate) origin: u64,
    /// Sectors of the storage that lie on them.
    pub(crate) sectors: u64,
    /// Its logical block size in bytes.
    pub(crate) block_size: u32,
    /// The node that has the data.
    pub(crate) old: &'a Candidate,
    /// The node that is to get them.
    pub(crate) new: &'a Candidate,
    /// Sectors from the start that it has already.
    pub(crate) done: u64,
}

/// Makes a twin. What comes to it waits until [`Engine::begin_copying`]. Sleeps.
#[inline(never)]
pub(crate) fn twin(pair: &Pair<'_>, events: Arc<Events>, hold: Arc<Hold>) -> Done<MirrorArray> {
    let Some(log) = Log::for_array(pair.sectors) else {
        fail!(EINVAL, "the node holds nothing");
    };
    let meta = meta(pair, log)?;
    let config = Config {
        sectors: pair.sectors,
        region_shift: log.region_shift,
        per_block: ENTRIES,
        in_sync: bit(OLD),
        healing: bit(NEW),
        missing: 0,
        degraded: false,
    };
    let mut core = KBox::new(Core::new(parts(pair.sectors, log)?, &config), GFP_KERNEL)?;
    core.lack_from(NEW, pair.done);
    core.begin(None, 0);
    core.suspend(OLD);
    core.ask_first(bit(NEW));
    let twin = Twin {
        origin: pair.origin,
        state: Atomic::new(NOTHING_WAITS),
        named: Atomic::new(0),
        ending: Atomic::new(0),
    };
    let nodes = [(OLD, pair.old), (NEW, pair.new)];
    launch(
        pair.name,
        core,
        meta,
        hold,
        Some(twin),
        nodes.into_iter(),
        events,
    )
}

/// What the superblocks would say, if there were any.
fn meta(pair: &Pair<'_>, log: Log) -> Done<KBox<Meta>> {
    let mut block = new_block()?;
    let new = New {
        storage: new_uuid(),
        name: pair.name,
        alg: "alg_mirror",
        created: 0,
        block_size: pair.block_size,
        sectors: pair.sectors,
        log: Some(log),
        data: new_uuid(),
    };
    let Some(superblock) = Superblock::blank(&mut block, &new) else {
        fail!(ENAMETOOLONG, "the name of the storage is too long");
    };
    let uuid = new_uuid();
    for (index, uuid, state) in [
        (OLD, uuid, NodeState::InSync),
        (NEW, new_uuid(), NodeState::Healing),
    ] {
        let entry = Entry {
            uuid,
            start: 0,
            size: pair.sectors,
            seen: 0,
            state,
        };
        superblock.set_entry(index, &entry);
    }
    superblock.set_replacement(Some(Replacement {
        from: OLD,
        to: NEW,
        done: 0,
    }));
    // A node on which it would fit.
    let data = pair.sectors.checked_next_multiple_of(DATA_UNIT);
    let Some(data) = data.filter(|data| *data < u64::MAX / 2) else {
        fail!(EFBIG, "the node is too large");
    };
    superblock.address(OLD, uuid, data + log.sectors() + DATA_UNIT);
    superblock.seal();
    Ok(new_meta(superblock)?)
}

impl Engine {
    /// Serves a part of a bio, as [`Self::submit`] does a bio.
    pub(crate) fn submit_part(&self, part: BioPart) {
        let extent = self.mirror.extent(part.sector(), part.bytes());
        match part.op() {
            Op::Read => {
                if let Some((slot, part)) = take_for(&self.reads, part) {
                    self.read_with(slot, part);
                }
            }
            Op::Other => part.end(Status::NOTSUPP),
            Op::WriteZeroes if self.mirror.no_zeroes.load(Relaxed) => part.end(Status::NOTSUPP),
            op => {
                let extent = if op == Op::Flush {
                    Extent::default()
                } else {
                    extent
                };
                if let Some((slot, part)) = take_for(&self.writes, part) {
                    self.change_with(slot, part, extent);
                }
            }
        }
    }

    /// Nothing that did not come by the twin is under way on the old node any more: requests go, and data are copied.
    pub(crate) fn begin_copying(&self) {
        self.mirror.inner.lock().core.resume(OLD);
        self.mirror.kick();
    }

    /// Ends copying. Gives how many sectors from the start the new node has, durably, as the old one does: what only one of
    /// them still has after a power failure must not count. Nothing may come from above any more. Sleeps, for a bounded time.
    pub(crate) fn end_copying(&self) -> u64 {
        match self.stop_cleanly() {
            true => self.mirror.inner.lock().core.complete_to(NEW),
            false => 0,
        }
    }

    /// Whether the new node is complete, and waits for [`Self::agree`].
    pub(crate) fn asks(&self) -> bool {
        self.mirror.twin.is_some() && self.mirror.inner.lock().core.asks() & bit(NEW) != 0
    }

    /// Lets the new node leave, as if a write to it had failed: it is brought up to date anew when it can be used.
    pub(crate) fn give_up_new(&self) {
        self.mirror.inner.lock().core.leave(NEW);
        self.mirror.kick();
    }

    /// The new node may count as in sync: after a crash it is found. If it has been lost meanwhile nothing comes of it.
    pub(crate) fn agree(&self) {
        self.mirror.inner.lock().core.agree(NEW);
        self.mirror.kick();
    }

    /// Superblocks of the storage are about to name the new node. `false`: it has left, or lacks something; they must not.
    pub(crate) fn begin_naming(&self) -> bool {
        let Some(twin) = &self.mirror.twin else {
            return false;
        };
        // If it leaves behind this, that waits for `end_naming`.
        let mut inner = self.mirror.inner.lock();
        let may = inner.core.may_count(NEW);
        if may {
            twin.named.store(1, Relaxed);
        }
        may
    }

    /// Whether the new node has left, and requests wait for [`Self::end_naming`].
    pub(crate) fn asks_back(&self) -> bool {
        let twin = self.mirror.twin.as_ref();
        twin.is_some_and(|twin| twin.state.load(Relaxed) == TAKE_BACK)
    }

    /// All superblocks of the storage name the old node, durably. The new one must have left.
    pub(crate) fn end_naming(&self) {
        if let Some(twin) = &self.mirror.twin {
            twin.named.xchg(0, Full);
            let _ = twin.state.cmpxchg(TAKE_BACK, NOTHING_WAITS, Full);
        }
        self.mirror.kick();
    }

    /// The superblocks can't be written now: what waits for [`Self::end_naming`] fails.
    pub(crate) fn refuse(&self) {
        if let Some(twin) = &self.mirror.twin {
            let _ = twin.state.cmpxchg(TAKE_BACK, REFUSED, Full);
        }
        self.mirror.kick();
    }

    /// The same, whenever something waits for that from now on.
    pub(crate) fn refuse_all(&self) {
        if let Some(twin) = &self.mirror.twin {
            twin.ending.xchg(1, Full);
        }
        self.mirror.kick();
    }

    /// Whether nothing that came from above is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.writes.used() == 0
            && self.reads.used() == 0
            && self.late_writes.used() == 0
            && self.preflushes.used() == 0
    }

    /// Begins nothing more by itself. Nothing may come from above any more.
    pub(crate) fn retire(&self) {
        self.mirror.ending.store(1, Relaxed);
        self.mirror.kick();
    }

    /// Does what a job asks for, as far as it concerns metadata: they are in memory. `None`: this is no twin. On the thread.
    pub(super) fn job_in_memory(&self, job: &Job) -> Option<Answer> {
        let twin = self.mirror.twin.as_ref()?;
        Some(match *job {
            Job::Flush { .. } => Answer::NoneOfMine,
            Job::Log { copies, .. } => Answer::Done(copies),
            Job::Superblock { copies, states } => {
                if states.in_sync & bit(NEW) == 0 && twin.named.load(Relaxed) != 0 {
                    let refused = twin.ending.load(Relaxed) != 0
                        || twin.state.cmpxchg(REFUSED, NOTHING_WAITS, Full).is_ok();
                    if refused {
                        return Some(Answer::Done(0));
                    }
                    let told = twin.state.xchg(TAKE_BACK, Full) == TAKE_BACK;
                    return Some(Answer::Wait { told });
                }
                twin.state.xchg(NOTHING_WAITS, Full);
                // If it can't be changed it is as it was: who belongs to the twin is known by the core, too.
                let _ = self.mirror.meta.lock().next(&states, new_uuid);
                Answer::Done(copies)
            }
        })
    }
}

/// Takes an object for a part; ends it if there is none and it must not wait.
fn take_for<T>(
    pool: &Pool<Arc<Mirror>, T>,
    part: BioPart,
) -> Option<(Slot<Arc<Mirror>, T>, BioPart)> {
    match pool.try_take() {
        Some(slot) => Some((slot, part)),
        None if part.nowait() => {
            part.end(Status::AGAIN);
            None
        }
        None => Some((pool.take(), part)),
    }
}
