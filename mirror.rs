// SPDX-License-Identifier: GPL-2.0

//! A running mirror: what [`alg_mirror`] decides is done here.
//!
//! - This file: what there is.
//! - [`change`]: the way of a bio that changes data, or flushes.
//! - [`read`]: the way of a read.
//! - [`held`]: reads that are served from a write that waits.
//! - [`mod@write`]: its objects.
//! - [`thread`]: the mirror's thread: sends what had to wait, does what the core wants done.
//! - [`serve`]: what the thread does for requests, and who looks after lost nodes.
//! - [`own`]: requests of our own: metadata, and data that are copied to a copy that lacks them.
//! - [`meta`]: the superblock of the storage, as it is now.
//! - [`control`]: what users do with it.
//! - [`replace`]: a copy that takes the place of another one.
//! - [`log`]: the logs of the copies, when it starts.
//! - [`mod@heal`]: a piece of data on its way to copies that lack it.
//! - [`zero`]: zeroes for copies that can't write them by a command, and data for those that can't take them as they are.
//! - [`mod@twin`]: two nodes without metadata, of which one is to take the place of the other one.
//! - [`mod@start`]: from nodes to a mirror: a new one, or one that is assembled.
//!
//! # The way of a bio that changes data
//!
//! It becomes a [`Write`], which has a number for the core. When the core lets it go, each copy gets a [`Leg`]: a clone
//! that shares the bio's vectors, which the node cuts and serves like any bio. The last leg to end tells the core, and
//! ends the bio. Who may not go yet lies in [`Inner::held`] until the core names it; the thread sends it then. A flush
//! goes the same way. Nothing is allocated: there are as many objects as there can be requests.
//!
//! # Locks
//!
//! `inner` (spin, interrupts off) is innermost, and never held across a call out. `meta` (mutex) is the thread's, and
//! that of who changes the table of copies; allocations under it start no I/O, which may need a log written. Neither is held when a bio is sent or ended.

mod change;
mod control;
mod discard;
mod heal;
mod held;
mod log;
mod look;
mod meta;
mod own;
mod read;
mod replace;
mod serve;
mod start;
mod thread;
mod twin;
mod write;
mod zero;

use kernel::{
    new_mutex, new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        SetOnce,
        SpinLockIrq, //
    },
};

use crate::{
    alg_mirror::{
        self,
        bit,
        each,
        overlap::Extent,
        regions,
        write::Slot as CoreSlot,
        Mask,
        HEAL_SLOTS,
        MAX_COPIES, //
    },
    array::Node,
    hold::Hold,
    kern::{
        bio::{
            Bio,
            Op,
            Status, //
        },
        lower::LowerBio,
        mem::NoIoMutex,
        pool::{
            Pool,
            Slot,
            Stack, //
        },
        span::PagePool,
        thread::{
            KThread,
            Parker,
            WakeHint, //
        },
        timer::{
            Expire,
            Timer, //
        },
    },
    limits,
    request::SECTOR_SHIFT,
};

use held::Shown;
use meta::Meta;
use own::Own;
use read::Read;
use twin::Twin;
use write::{
    Leg,
    LegPool,
    Preflush,
    Write,
    WriteSlot, //
};

pub(crate) use start::{
    start,
    Wish, //
};
pub(crate) use twin::{
    twin,
    Pair, //
};

/// Requests that change data, or flush, that can be under way: twice the depth of two nodes.
const WRITES: u32 = 256;

/// Reads that can be under way.
const READS: u32 = 256;

/// Writes with a flush before them that can be under way: journals have a few, not many.
const PREFLUSHES: u32 = 32;

/// All of them; the latter have objects of their own, so that the thread never waits for one.
const ALL_WRITES: u32 = WRITES + PREFLUSHES;

/// Copies that share a pool of legs: as many as make a full pool.
const COPIES_PER_POOL: u32 = 2;

/// Pools of legs.
const LEG_POOLS: usize = (MAX_COPIES / COPIES_PER_POOL) as usize;

/// Requests of our own: to each copy one for metadata, one to look whether it is back, and what is healed.
const OWNS: u32 = 2 * MAX_COPIES + HEAL_SLOTS;

/// Pages for them: 128 KiB for each piece of healing, two blocks for each of the others; and as many again, since the
/// network may hold some for a while.
const PAGES: u32 = 2 * (HEAL_SLOTS * 32 + 4 * MAX_COPIES);

/// The core, in memory of ours.
pub(crate) type Core = alg_mirror::Mirror<
    KVVec<CoreSlot>,
    KVVec<alg_mirror::overlap::Flight>,
    KVVec<alg_mirror::overlap::Waiter>,
    KVVec<regions::Region>,
    KVVec<regions::Block>,
>;

/// That memory.
type CoreParts = alg_mirror::Parts<
    KVVec<CoreSlot>,
    KVVec<alg_mirror::overlap::Flight>,
    KVVec<alg_mirror::overlap::Waiter>,
    KVVec<regions::Region>,
    KVVec<regions::Block>,
>;

/// A copy, as requests see it.
struct Copy {
    index: u32,
    node: Node,
    /// Connections that had been lost when it was believed last: what its server had not made durable may be gone with
    /// the next one.
    losses: Atomic<u64>,
}

impl Copy {
    /// Whether the server was lost since it was believed. Any context.
    fn was_lost(&self) -> bool {
        self.losses.load(Relaxed) != self.node.losses()
    }
}

/// What the lock protects.
struct Inner {
    core: KBox<Core>,
    /// By their numbers.
    copies: [Option<Arc<Copy>>; MAX_COPIES as usize],
    /// Requests that wait for the core's word, by their numbers.
    held: KVVec<Option<WriteSlot>>,
    /// How many have waited so far.
    arrivals: u64,
    shown: Shown,
}

impl Inner {
    fn copy(&self, index: u32) -> Option<Arc<Copy>> {
        self.copies.get(index as usize)?.clone()
    }

    /// Whether what a copy says counts. It does not if its server was lost since it was believed last: what that had not made
    /// durable may be gone. Such a copy leaves, unless it is the last one: whatever it has is what there is.
    fn believes(&mut self, copy: &Copy) -> bool {
        if !copy.was_lost() {
            return true;
        }
        let attached = self.core.attached() & bit(copy.index) != 0;
        attached && !self.core.leave(copy.index)
    }

    /// Those of a mask that are believed.
    fn believed(&mut self, mask: Mask) -> Mask {
        let mut believed = mask;
        for index in each(mask) {
            let copy = self.copies.get(index as usize).and_then(Option::as_ref);
            if copy.is_some_and(|copy| !copy.was_lost()) {
                continue;
            }
            let copy = copy.cloned();
            if !copy.is_some_and(|copy| self.believes(&copy)) {
                believed &= !bit(index);
            }
        }
        believed
    }

    /// The copies of a mask.
    fn targets(&self, mask: Mask) -> Targets {
        Targets(core::array::from_fn(|index| {
            (mask & bit(index as u32) != 0)
                .then(|| self.copy(index as u32))
                .flatten()
        }))
    }

    fn hold(&mut self, id: u32, slot: WriteSlot) {
        // There are as many places as objects, and each has its own.
        if let Some(place) = self.held.get_mut(id as usize) {
            *place = Some(slot);
        }
    }

    fn take_held(&mut self, id: u32) -> Option<WriteSlot> {
        self.held.get_mut(id as usize)?.take()
    }
}

/// Copies that something is sent to.
struct Targets([Option<Arc<Copy>>; MAX_COPIES as usize]);

/// Where the thread hears that there is something to do.
struct Bell {
    parker: Parker,
    /// Not 0: it was rung since the thread looked last.
    rung: Atomic<i32>,
}

impl Bell {
    fn ring(&self) {
        if self.rung.load(Relaxed) == 0 && self.rung.xchg(1, Full) == 0 {
            self.parker.unpark(WakeHint::NONE);
        }
    }
}

impl Expire for Bell {
    fn expired(&self) {
        self.ring();
    }
}

/// What all requests of a mirror share.
#[pin_data]
pub(crate) struct Mirror {
    #[pin]
    inner: SpinLockIrq<Inner>,
    #[pin]
    bell: Timer<Bell>,
    #[pin]
    meta: NoIoMutex<KBox<Meta>>,
    /// Requests of our own that have ended.
    owns: Stack<Arc<Mirror>, Own>,
    /// Reads that failed on a copy.
    failed: Stack<Arc<Mirror>, Read>,
    /// Reads for which there is no copy but suspended ones.
    stalled: Stack<Arc<Mirror>, Read>,
    /// Requests for zeroes that some copies can't do, and writes that some can't take as they are.
    unable: Stack<Arc<Mirror>, Write>,
    /// Writes whose flush is done.
    flushed: Stack<Arc<Mirror>, Preflush>,
    /// Requests in flight on each copy.
    pending: [Atomic<u32>; MAX_COPIES as usize],
    /// Where on each copy the last read ended.
    heads: [Atomic<u64>; MAX_COPIES as usize],
    /// `uapi::READ_*`.
    policy: Atomic<u32>,
    turn: Atomic<u32>,
    /// Not all copies can write zeroes by a command, so that is refused.
    no_zeroes: Atomic<bool>,
    /// Not 0: nothing is begun any more.
    ending: Atomic<i32>,
    /// Whether another head has taken the storage over.
    hold: Arc<Hold>,
    /// Of a [`mod@twin`]: what there is beside the mirror.
    twin: Option<Twin>,
}

impl Mirror {
    #[inline(never)]
    fn new(
        core: KBox<Core>,
        meta: KBox<Meta>,
        hold: Arc<Hold>,
        twin: Option<Twin>,
    ) -> Result<Arc<Self>> {
        let mut held = KVVec::with_capacity(ALL_WRITES as usize, GFP_KERNEL)?;
        for _ in 0..ALL_WRITES {
            held.push(None, GFP_KERNEL)?;
        }
        let inner = Inner {
            core,
            copies: [const { None }; MAX_COPIES as usize],
            held,
            arrivals: 0,
            shown: Shown::new(),
        };
        Arc::pin_init(
            pin_init!(Self {
                inner <- new_spinlock_irq!(inner, "dst::mirror::inner"),
                bell <- Timer::new(Bell {
                    parker: Parker::new(),
                    rung: Atomic::new(0),
                }),
                meta <- NoIoMutex::new(new_mutex!(meta, "dst::mirror::meta")),
                owns: Stack::new(),
                failed: Stack::new(),
                stalled: Stack::new(),
                unable: Stack::new(),
                flushed: Stack::new(),
                pending: [const { Atomic::new(0) }; MAX_COPIES as usize],
                heads: [const { Atomic::new(0) }; MAX_COPIES as usize],
                policy: Atomic::new(crate::uapi::READ_LEAST_PENDING),
                turn: Atomic::new(0),
                no_zeroes: Atomic::new(false),
                ending: Atomic::new(0),
                hold,
                twin,
            }),
            GFP_KERNEL,
        )
    }

    /// The first sector from above that lies on the copies.
    #[inline]
    fn origin(&self) -> u64 {
        self.twin.as_ref().map_or(0, |twin| twin.origin)
    }

    /// Where sectors from above are on the copies.
    #[inline]
    fn extent(&self, sector: u64, bytes: u32) -> Extent {
        let start = sector.saturating_sub(self.origin());
        Extent::new(start, u64::from(bytes >> SECTOR_SHIFT))
    }

    /// Wakes the thread. Any context.
    fn kick(&self) {
        self.bell.target().ring();
    }

    /// A request begins on a copy.
    #[inline]
    fn begins(&self, copy: u32) {
        if let Some(pending) = self.pending.get(copy as usize) {
            pending.fetch_add(1, Relaxed);
        }
    }

    /// It has ended.
    #[inline]
    fn ended(&self, copy: u32) {
        if let Some(pending) = self.pending.get(copy as usize) {
            pending.fetch_sub(1, Relaxed);
        }
    }

    /// Requests in flight on a copy.
    fn pending(&self, copy: u32) -> u32 {
        self.pending
            .get(copy as usize)
            .map_or(0, |pending| pending.load(Relaxed))
    }
}

/// The mirror, and the objects of its requests.
pub(crate) struct Engine {
    mirror: Arc<Mirror>,
    writes: Arc<Pool<Arc<Mirror>, Write>>,
    /// For writes whose flush is done: as many as there can be.
    late_writes: Arc<Pool<Arc<Mirror>, Write>>,
    legs: [SetOnce<Arc<LegPool>>; LEG_POOLS],
    reads: Arc<Pool<Arc<Mirror>, Read>>,
    preflushes: Arc<Pool<Arc<Mirror>, Preflush>>,
    owns: Arc<Pool<Arc<Mirror>, Own>>,
    pages: Arc<PagePool>,
}

impl Engine {
    #[inline(never)]
    fn new(mirror: Arc<Mirror>) -> Result<Arc<Self>> {
        let writes = Pool::new(WRITES, mirror.clone(), |_| Ok(Write::free(0)))?;
        let late_writes = Pool::new(PREFLUSHES, mirror.clone(), |_| Ok(Write::free(WRITES)))?;
        let preflushes = Pool::new(PREFLUSHES, mirror.clone(), |_| {
            Ok(Preflush {
                flush: LowerBio::new(),
                data: None,
            })
        })?;
        Ok(Arc::new(
            Self {
                writes,
                late_writes,
                legs: [const { SetOnce::new() }; LEG_POOLS],
                reads: Pool::new(READS, mirror.clone(), |_| Ok(Read::free()))?,
                preflushes,
                owns: Pool::new(OWNS, mirror.clone(), |_| Ok(Own::free()))?,
                pages: PagePool::new(PAGES)?,
                mirror,
            },
            GFP_KERNEL,
        )?)
    }

    /// Takes up a copy: from here on the core may name it. Process context; allocates.
    fn attach(&self, index: u32, node: Node) -> Result {
        let pool = self
            .legs
            .get((index / COPIES_PER_POOL) as usize)
            .ok_or(ENOSPC)?;
        if pool.as_ref().is_none() {
            pool.populate(Pool::new(
                ALL_WRITES * COPIES_PER_POOL,
                self.mirror.clone(),
                |_| {
                    Ok(Leg {
                        write: None,
                        copy: 0,
                        lower: LowerBio::new(),
                    })
                },
            )?);
        }
        if !limits::writes_zeroes(&node) {
            // It may have joined copies that do.
            self.mirror.no_zeroes.store(true, Relaxed);
        }
        let losses = Atomic::new(node.losses());
        let copy = Arc::new(
            Copy {
                index,
                node,
                losses,
            },
            GFP_KERNEL,
        )?;
        let mut inner = self.mirror.inner.lock();
        if let Some(place) = inner.copies.get_mut(index as usize) {
            *place = Some(copy);
        }
        Ok(())
    }

    /// Serves a bio. Process context; may sleep for a free object, unless the bio must not wait.
    pub(crate) fn submit(&self, bio: Bio) {
        if self.mirror.hold.is_lost() {
            bio.end(Status::IOERR);
            return;
        }
        match bio.op() {
            Op::Read => self.read(bio),
            Op::Other => bio.end(Status::NOTSUPP),
            Op::WriteZeroes if self.mirror.no_zeroes.load(Relaxed) => bio.end(Status::NOTSUPP),
            Op::Flush => self.change(bio, Extent::default()),
            _ if bio.is_preflush() => self.flush_first(bio),
            _ => {
                let extent = self.mirror.extent(bio.sector(), bio.bytes());
                self.change(bio, extent);
            }
        }
    }
}

/// Takes an object for a bio; ends it if there is none and it must not wait.
#[inline]
fn take<T>(pool: &Pool<Arc<Mirror>, T>, bio: Bio) -> Option<(Slot<Arc<Mirror>, T>, Bio)> {
    match pool.try_take() {
        Some(slot) => Some((slot, bio)),
        None if bio.is_nowait() => {
            bio.end(Status::AGAIN);
            None
        }
        None => Some((pool.take(), bio)),
    }
}

/// A mirror and its thread.
pub(crate) struct MirrorArray {
    /// Goes first: it uses the engine.
    thread: Option<KThread>,
    engine: Arc<Engine>,
}
