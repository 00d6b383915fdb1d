// SPDX-License-Identifier: GPL-2.0

//! The mirror's thread: it does what the core wants done, one thing after the other, and never waits for a request.
//!
//! It may sleep for a free piece of a node. A node that is lost, or does not answer, gives them back:
//! [`Engine::look_at_nodes`], which runs elsewhere, sees to that.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Full,
            Relaxed, //
        },
        Arc, //
    },
    time::Jiffies, //
};

use crate::{
    alg_mirror::{
        bit,
        each,
        jobs::{
            Job,
            States, //
        },
        Mask,
        MAX_COPIES, //
    },
    events::Events,
    kern::{
        bio::Status,
        thread::Running,
        time, //
    },
    meta::{
        head::Back,
        Block,
        BLOCK, //
    },
    superblocks::{
        new_block,
        new_uuid, //
    },
};

use super::{
    own::{
        OwnSlot,
        Part,
        What, //
    },
    twin::Answer,
    zero::Zeroing,
    Engine, //
};

/// Milliseconds between two ticks of the core.
const TICK_MS: u32 = 1_000;

/// Milliseconds that a superblock waits, at most, which says that a copy has left: as long as a server is asked why it has
/// ended a connection.
const REASON_MS: u32 = 1_000;

/// Milliseconds between two credits for healing.
const CREDIT_MS: u32 = 100;

/// Seconds until a copy that is away is looked at for the first time.
const LOOK_MIN_S: u32 = 1;

/// Seconds, at most, between two looks at a copy that can't be used: one request in a minute is no load.
const LOOK_MAX_S: u32 = 60;

/// A job that is being done.
struct Doing {
    left: u32,
    ok: Mask,
}

/// A copy that is away.
#[derive(Clone, Copy)]
struct Away {
    /// It was away when it was looked for last.
    missing: bool,
    /// Seconds to the next look; of a copy that is back, seconds that it has been.
    wait: u32,
    /// Seconds to wait after that.
    pause: u32,
    /// A look is under way.
    looking: bool,
}

impl Away {
    const NEW: Self = Self {
        missing: false,
        wait: LOOK_MIN_S,
        pause: LOOK_MIN_S,
        looking: false,
    };
}

/// What only the thread knows.
pub(super) struct Steward {
    pub(super) engine: Arc<Engine>,
    events: Arc<Events>,
    doing: Option<Doing>,
    /// A job that waits: of a twin, for the storage to write its superblocks; else see [`Self::must_ask`].
    asking: Option<Job>,
    /// Until when it waits, in the latter case.
    asking_until: Option<Jiffies>,
    block: KBox<Block>,
    other: KBox<Block>,
    pub(super) zeroing: Zeroing,
    away: [Away; MAX_COPIES as usize],
    next_tick: Jiffies,
    next_credit: Jiffies,
    /// Attached, in sync, and asking, as was told last.
    told: (Mask, Mask, Mask),
}

impl Steward {
    pub(super) fn new(engine: Arc<Engine>, events: Arc<Events>) -> Result<Self> {
        Ok(Self {
            engine,
            events,
            doing: None,
            asking: None,
            asking_until: None,
            block: new_block()?,
            other: new_block()?,
            zeroing: Zeroing::new()?,
            away: [Away::NEW; MAX_COPIES as usize],
            next_tick: time::now(),
            next_credit: time::now(),
            told: (0, 0, 0),
        })
    }

    /// The thread's body.
    pub(super) fn run(&mut self, running: &Running) {
        let mirror = self.engine.mirror.clone();
        let bell = mirror.bell.target();
        while !running.should_stop() {
            // Before the look at anything: who rings after it is heard in the next round.
            bell.rung.xchg(0, Full);
            self.round();
            bell.parker.park(running, || bell.rung.load(Relaxed) == 0);
        }
    }

    fn round(&mut self) {
        let engine = self.engine.clone();
        let mirror = &engine.mirror;
        for slot in mirror.owns.take_all() {
            self.ended(slot);
        }
        for slot in mirror.failed.take_all() {
            engine.read_again(slot);
        }
        for slot in mirror.flushed.take_all() {
            engine.change_flushed(slot);
        }
        self.zero();
        engine.serve_core();
        if mirror.ending.load(Relaxed) != 0 {
            return;
        }
        self.time();
        self.job();
        // Of a storage that is another head's nothing is copied any more: it would fail at once, and be tried again.
        while !mirror.hold.is_lost() {
            let piece = mirror.inner.lock().core.heal_next();
            match piece {
                Some(piece) => self.heal(&piece),
                None => break,
            }
        }
        // What was done may have let others go.
        engine.serve_core();
        self.tell();
    }

    /// Does what is due.
    fn time(&mut self) {
        let mirror = &self.engine.mirror;
        let now = time::now();
        if time::reached(self.next_tick, now) {
            self.next_tick = time::in_ms(now, TICK_MS);
            mirror.inner.lock().core.tick();
            self.engine.look_again();
            self.look_for_copies();
        }
        let mirror = &self.engine.mirror;
        if !mirror.stalled.is_empty() {
            for slot in mirror.stalled.take_all() {
                self.engine.read_from_any(slot);
            }
        }
        if time::reached(self.next_credit, now) {
            self.next_credit = time::in_ms(now, CREDIT_MS);
            mirror.inner.lock().core.heal_credit();
        }
        let healing = mirror.inner.lock().core.is_healing();
        let next = if healing || self.doing.is_some() {
            time::earliest(Some(self.next_tick), Some(self.next_credit))
        } else {
            Some(self.next_tick)
        };
        if let Some(next) = next {
            mirror.bell.arm(next);
        }
    }

    /// Looks at copies that are away: they may be back.
    fn look_for_copies(&mut self) {
        let engine = self.engine.clone();
        let missing = {
            let inner = engine.mirror.inner.lock();
            inner.core.members() & !inner.core.attached()
        };
        for (index, away) in (0..).zip(self.away.iter_mut()) {
            if missing & bit(index) == 0 {
                if away.missing {
                    away.missing = false;
                    away.wait = 0;
                }
                away.wait = away.wait.saturating_add(1);
                if away.wait > LOOK_MAX_S {
                    // It has held out: what was is forgiven.
                    away.pause = LOOK_MIN_S;
                }
                continue;
            }
            if away.looking {
                continue;
            }
            if !away.missing {
                away.missing = true;
                away.wait = away.pause;
            }
            let Some(copy) = engine.mirror.inner.lock().copy(index) else {
                continue;
            };
            // What was sent before it left may still land: it must not land after what heals it.
            if copy.node.is_lost() || engine.mirror.pending(index) != 0 {
                away.wait = away.pause;
                continue;
            }
            away.wait = away.wait.saturating_sub(1);
            if away.wait != 0 {
                continue;
            }
            if engine.mirror.twin.is_some() {
                // There is nothing on it that could be looked at.
                copy.losses.store(copy.node.losses(), Relaxed);
                away.missing = !engine.mirror.inner.lock().core.back(index, false);
                away.pause = (away.pause * 2).min(LOOK_MAX_S);
                away.wait = away.pause;
                continue;
            }
            let place = engine.mirror.meta.lock().place(index).copied();
            if let Some(place) = place {
                away.looking = true;
                // What is lost from here on is noticed.
                copy.losses.store(copy.node.losses(), Relaxed);
                let sector = place.layout.superblock_b();
                let slot = engine.own(index, What::Look(Part::Both), sector, 2 * BLOCK as u32);
                engine.begin(slot, &copy);
            }
        }
    }

    /// The superblocks of a copy that was away were read, or not.
    fn looked(&mut self, mut slot: OwnSlot, part: Part) {
        let copy = slot.copy;
        let mirror = self.engine.mirror.clone();
        let read = slot.status.is_ok();
        slot.status = Status::OK;
        let (a, b) = match part {
            Part::Both => (
                read && slot.read(BLOCK as u32, &mut self.block[..]),
                read && slot.read(0, &mut self.other[..]),
            ),
            Part::A => (read && slot.read(0, &mut self.block[..]), false),
            Part::B => (false, read && slot.read(0, &mut self.other[..])),
        };
        slot.clear();
        drop(slot);
        let next = match part {
            Part::Both => Some(Part::A),
            Part::A => Some(Part::B),
            Part::B => None,
        };
        if let Some(next) = next.filter(|_| !a && !b) {
            self.look_at(copy, next);
            return;
        }
        let (a, b) = (a.then_some(&*self.block), b.then_some(&*self.other));
        let back = (a.is_some() || b.is_some()).then(|| {
            let mut meta = mirror.meta.lock();
            meta.look(copy, a, b)
        });
        let attached = match back {
            Some(Back::Good) => mirror.inner.lock().core.back(copy, false),
            Some(Back::All) => {
                let mut inner = mirror.inner.lock();
                let attached = inner.core.back(copy, true);
                if attached {
                    inner.core.lack_all(copy);
                }
                attached
            }
            Some(Back::Refused(_)) | None => false,
        };
        if let Some(away) = self.away.get_mut(copy as usize) {
            away.looking = false;
            // The next time, if it does not last, or can't be used, is later.
            away.pause = (away.pause * 2).min(LOOK_MAX_S);
            away.wait = away.pause;
            away.missing = !attached;
        }
        if matches!(back, Some(Back::Refused(_))) {
            self.events.tell();
        }
    }

    /// Looks at one superblock of a copy that was away.
    fn look_at(&mut self, index: u32, part: Part) {
        let engine = self.engine.clone();
        let copy = engine.mirror.inner.lock().copy(index);
        let place = engine.mirror.meta.lock().place(index).copied();
        if let (Some(copy), Some(place)) = (copy, place) {
            let sector = match part {
                Part::A => place.layout.superblock_a(),
                Part::Both | Part::B => place.layout.superblock_b(),
            };
            let slot = engine.own(index, What::Look(part), sector, BLOCK as u32);
            engine.begin(slot, &copy);
        } else if let Some(away) = self.away.get_mut(index as usize) {
            // It was taken out; another one may get its number.
            away.looking = false;
        }
    }

    /// Whether what a copy has answered counts: see [`Inner::believes`].
    ///
    /// [`Inner::believes`]: super::Inner::believes
    fn believes(&self, copy: u32) -> bool {
        let mut inner = self.engine.mirror.inner.lock();
        let copy = inner.copy(copy);
        copy.is_none_or(|copy| inner.believes(&copy))
    }

    /// Begins a job, if none is being done.
    fn job(&mut self) {
        while self.doing.is_none() {
            let engine = self.engine.clone();
            let next = || engine.mirror.inner.lock().core.next_job();
            let Some(job) = self.asking.take().or_else(next) else {
                return;
            };
            if self.must_ask(&job) {
                // It is looked at again as soon as a server has answered.
                self.asking = Some(job);
                return;
            }
            match engine.job_in_memory(&job) {
                None | Some(Answer::NoneOfMine) => {}
                Some(Answer::Wait { told }) => {
                    self.asking = Some(job);
                    if !told {
                        self.events.tell();
                    }
                    return;
                }
                Some(Answer::Done(copies)) => {
                    engine.mirror.inner.lock().core.job_done(copies);
                    continue;
                }
            }
            let begun = match job {
                Job::Log { block, copies } => self.write_log(block, copies),
                Job::Superblock { copies, states } => self.write_superblocks(&states, copies),
                Job::Flush { copies } => self.flush(copies),
            };
            if begun == 0 {
                engine.mirror.inner.lock().core.job_done(0);
                return;
            }
            self.doing = Some(Doing { left: begun, ok: 0 });
        }
    }

    /// Whether a job makes a history of its own out of what is left, while a server that has ended its connection may be
    /// about to say that another head has taken over. A copy that only we have must not be written to then; and however a
    /// copy was found to be lost, what is acknowledged without it waits for this job.
    fn must_ask(&mut self, job: &Job) -> bool {
        if !matches!(job, Job::Superblock { states, .. } if states.rename) {
            return false;
        }
        let copies = self.engine.mirror.inner.lock().targets(Mask::MAX);
        let mut copies = copies.0.iter().flatten();
        if !copies.any(|copy| copy.node.is_lost() && copy.node.is_asking()) {
            self.asking_until = None;
            return false;
        }
        // A server that comes and goes does not hold it up for longer.
        let now = time::now();
        let until = *self
            .asking_until
            .get_or_insert_with(|| time::in_ms(now, REASON_MS));
        let waits = !time::reached(until, now);
        if !waits {
            self.asking_until = None;
        }
        waits
    }

    fn write_log(&mut self, block: u32, copies: Mask) -> u32 {
        let engine = self.engine.clone();
        let sequence = {
            let meta = engine.mirror.meta.lock();
            let inner = engine.mirror.inner.lock();
            let sequence = inner.core.sequence(block);
            let entry = |at| inner.core.entry(block, at);
            if meta
                .log_block(block, sequence, &mut self.block, entry)
                .is_err()
            {
                return 0;
            }
            sequence
        };
        let mut begun = 0;
        for index in each(copies) {
            let copy = engine.mirror.inner.lock().copy(index);
            let place = engine.mirror.meta.lock().place(index).copied();
            let sector = place.and_then(|place| place.layout.slot(block, sequence));
            if let (Some(copy), Some(sector)) = (copy, sector) {
                let slot = engine.own(index, What::Log, sector, BLOCK as u32);
                slot.write(&self.block[..]);
                begun += 1;
                engine.begin(slot, &copy);
            }
        }
        begun
    }

    fn write_superblocks(&mut self, states: &States, copies: Mask) -> u32 {
        let engine = self.engine.clone();
        if engine.mirror.meta.lock().next(states, new_uuid).is_err() {
            return 0;
        }
        let mut begun = 0;
        for index in each(copies) {
            let copy = engine.mirror.inner.lock().copy(index);
            let place = {
                let meta = engine.mirror.meta.lock();
                let made = meta.superblock_of(index, &mut self.block);
                meta.place(index).copied().filter(|_| made.is_some())
            };
            if let (Some(copy), Some(place)) = (copy, place) {
                let (a, b) = (place.layout.superblock_a(), place.layout.superblock_b());
                let (first, other) = if place.b_first { (b, a) } else { (a, b) };
                let what = What::Superblock {
                    other,
                    second: false,
                };
                let slot = engine.own(index, what, first, BLOCK as u32);
                slot.write(&self.block[..]);
                begun += 1;
                engine.begin(slot, &copy);
            }
        }
        begun
    }

    fn flush(&mut self, copies: Mask) -> u32 {
        let mut begun = 0;
        for index in each(copies) {
            let copy = self.engine.mirror.inner.lock().copy(index);
            if let Some(copy) = copy {
                let slot = self.engine.own(index, What::Flush, 0, 0);
                begun += 1;
                self.engine.begin(slot, &copy);
            }
        }
        begun
    }

    /// A request of our own has ended.
    fn ended(&mut self, mut slot: OwnSlot) {
        let good = slot.status.is_ok();
        let copy = slot.copy;
        if let What::Zeroes { .. } = slot.what {
            slot.clear();
            drop(slot);
            // A request waits for it, even at the end.
            self.zeroed(good);
            return;
        }
        if self.engine.mirror.ending.load(Relaxed) != 0 {
            slot.clear();
            return;
        }
        match slot.what {
            What::Superblock {
                other,
                second: false,
            } if good => {
                // The other one is written when the first one is durable.
                let first = slot.sector;
                slot.what = What::Superblock {
                    other: first,
                    second: true,
                };
                slot.sector = other;
                let to = self.engine.mirror.inner.lock().copy(copy);
                match to {
                    Some(to) => self.engine.begin(slot, &to),
                    None => self.did(slot, false),
                }
            }
            What::Superblock { .. } if !good => {
                let mut meta = self.engine.mirror.meta.lock();
                let place = meta.places.get_mut(copy as usize).and_then(Option::as_mut);
                if let Some(place) = place {
                    place.failed(slot.sector);
                }
                drop(meta);
                self.did(slot, false);
            }
            What::Log | What::Superblock { .. } | What::Flush => self.did(slot, good),
            What::Look(part) => self.looked(slot, part),
            What::Zeroes { .. } => {}
            What::HealRead { id, to } if good && self.believes(copy) => {
                self.heal_on(slot, id, to, 0)
            }
            What::HealRead { id, .. } => {
                slot.clear();
                drop(slot);
                let mut inner = self.engine.mirror.inner.lock();
                inner.core.heal_done(id, false, 0);
            }
            What::HealWrite { id, rest, ok } => {
                let ok = if good { ok | bit(copy) } else { ok };
                self.heal_on(slot, id, rest, ok);
            }
        }
    }

    /// A copy has done its part of the job, or failed.
    fn did(&mut self, mut slot: OwnSlot, good: bool) {
        let good = good && self.believes(slot.copy);
        let (copy, superblock) = (slot.copy, matches!(slot.what, What::Superblock { .. }));
        slot.clear();
        drop(slot);
        let Some(doing) = &mut self.doing else { return };
        if good {
            doing.ok |= bit(copy);
        }
        doing.left -= 1;
        if doing.left != 0 {
            return;
        }
        let ok = doing.ok;
        self.doing = None;
        let mirror = &self.engine.mirror;
        if superblock {
            mirror.meta.lock().saw(ok);
        }
        mirror.inner.lock().core.job_done(ok);
    }

    /// Tells of changes.
    fn tell(&mut self) {
        let now = {
            let inner = self.engine.mirror.inner.lock();
            (
                inner.core.attached(),
                inner.core.in_sync(),
                inner.core.asks(),
            )
        };
        if now != self.told {
            self.told = now;
            self.events.tell();
        }
    }
}

impl Drop for Steward {
    fn drop(&mut self) {
        // What came after the last round.
        for mut slot in self.engine.mirror.owns.take_all() {
            slot.clear();
        }
    }
}
