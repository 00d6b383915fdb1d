// SPDX-License-Identifier: GPL-2.0

//! What is to be written to the metadata of the copies, in order, one thing at a time.
//!
//! Superblocks go before all else: what a copy lacks may be noted in the log only when the superblocks of the others
//! say that the copy is away. So a log that calls a copy stale which the superblocks call in sync is what its healing
//! has left behind, and can be ignored.

use core::ops::DerefMut;

use super::{
    bit,
    each,
    overlap::{
        Flight,
        Waiter, //
    },
    regions::{
        Block,
        Region, //
    },
    write::Slot,
    Mask,
    Mirror, //
};

/// What a superblock says of the copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States {
    /// They hold all data.
    pub in_sync: Mask,
    /// They are brought up to date.
    pub healing: Mask,
    /// They are away.
    pub missing: Mask,
    /// Whether the storage runs.
    pub running: bool,
    /// The data get a new name first: a copy has left that knows the old one.
    pub rename: bool,
}

/// Something that is to be done on copies, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// A block of the log is to be written: [`Mirror::entry`] and [`Mirror::sequence`] say what.
    Log {
        /// Which one.
        block: u32,
        /// The copies.
        copies: Mask,
    },
    /// A new generation of superblocks is to be written.
    Superblock {
        /// The copies.
        copies: Mask,
        /// What it says.
        states: States,
    },
    /// What the copies hold is to be made durable.
    Flush {
        /// The copies.
        copies: Mask,
    },
}

impl Job {
    fn copies(&self) -> Mask {
        match self {
            Self::Log { copies, .. } | Self::Superblock { copies, .. } | Self::Flush { copies } => {
                *copies
            }
        }
    }
}

/// What has been written, and what is to be.
pub(super) struct Jobs {
    doing: Option<Job>,
    /// Copies that the durable superblocks call in sync.
    in_sync: Mask,
    /// Of these, those that lack nothing any more, but whose own superblock does not say so yet: see [`Mirror::whole`].
    announced: Mask,
    /// Copies that may have been told the present name of the data while they were in sync.
    named: Mask,
    /// The data need a new name in any case.
    rename: bool,
    /// The durable superblocks say that the storage runs.
    running: bool,
    /// The superblocks must be written anew.
    changed: bool,
    /// Before the superblocks the log is written, from this block on: see [`Self::log_first`].
    log_first: Option<usize>,
    /// Copies that have come without anything on them, which the superblocks don't name yet as being healed.
    fresh: Mask,
    /// Copies that were taken out, which the superblocks name yet. Until they don't, the log says what these copies lack:
    /// a crash may leave them as copies.
    gone: Mask,
    /// Copies that come in sync only when somebody has agreed: see [`Mirror::asks`].
    ask: Mask,
    /// Of these, those for which that was done, and has not had its effect.
    agreed: Mask,
    /// A job failed on the last copy: nothing is done until some time has passed.
    stuck: bool,
    /// It is time for a flush that lets regions rest.
    flush_due: bool,
    /// It is time to write what nobody waits for.
    log_due: bool,
    stopping: bool,
    stopped: bool,
}

impl Jobs {
    /// `in_sync`: as the superblocks say.
    pub(super) fn new(in_sync: Mask, rename: bool) -> Self {
        Self {
            doing: None,
            in_sync,
            announced: 0,
            named: in_sync,
            rename,
            running: false,
            changed: false,
            log_first: None,
            fresh: 0,
            gone: 0,
            ask: 0,
            agreed: 0,
            stuck: false,
            flush_due: false,
            log_due: false,
            stopping: false,
            stopped: false,
        }
    }

    /// The superblocks must say something else.
    pub(super) fn change(&mut self) {
        self.changed = true;
    }

    /// The log comes before the superblocks. After a crash the copies may hold different ones, and the superblocks may be
    /// about to name as in sync only copies with an older one.
    pub(super) fn log_first(&mut self) {
        self.log_first = Some(0);
    }

    /// A copy has come with nothing on it. It is named as being healed when the log says what it lacks, not before: then a
    /// crash makes it one that lacks what the log says.
    pub(super) fn fresh(&mut self, copies: Mask) {
        self.fresh |= copies;
        self.log_due = true;
    }

    /// A copy has left.
    pub(super) fn leave(&mut self, copies: Mask) {
        self.agreed &= !copies;
        self.fresh &= !copies;
        self.changed = true;
    }

    /// A copy was taken out.
    pub(super) fn remove(&mut self, copies: Mask) {
        self.gone |= copies;
        self.changed = true;
    }

    /// Copies that were taken out, which the superblocks may name yet.
    pub(super) fn gone(&self) -> Mask {
        self.gone
    }

    /// Whether writes may go: the durable superblocks say that the storage runs.
    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// Whether healing may go on: there is no end in sight.
    pub(super) fn may_heal(&self) -> bool {
        self.running && !self.stopping
    }

    /// Copies that must not come in sync yet.
    fn unasked(&self) -> Mask {
        self.ask & !self.agreed
    }

    /// Copies that a superblock may call in sync that a crash leaves behind.
    pub(super) fn in_sync(&self) -> Mask {
        match self.doing {
            Some(Job::Superblock { states, .. }) => self.in_sync | states.in_sync,
            _ => self.in_sync,
        }
    }

    /// Copies that all durable superblocks call in sync, their own included.
    pub(super) fn durably_in_sync(&self) -> Mask {
        self.in_sync & !self.announced
    }

    /// A second has passed.
    pub(super) fn tick(&mut self) {
        self.stuck = false;
        self.flush_due = true;
        self.log_due = true;
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
        self.flush_due = true;
        self.log_due = true;
    }

    /// Whether there may be something to begin that does not wait for a tick.
    pub(super) fn wants(&self, urgent: bool) -> bool {
        self.doing.is_none() && !self.stuck && (self.changed || urgent && self.running)
    }
}

impl<S, F, W, R, B> Mirror<S, F, W, R, B>
where
    S: DerefMut<Target = [Slot]>,
    F: DerefMut<Target = [Flight]>,
    W: DerefMut<Target = [Waiter]>,
    R: DerefMut<Target = [Region]>,
    B: DerefMut<Target = [Block]>,
{
    /// What is to be done next, if nothing is being done. [`Self::job_done`] tells when it is.
    pub fn next_job(&mut self) -> Option<Job> {
        if self.jobs.doing.is_some() || self.jobs.stuck || self.jobs.stopped {
            return None;
        }
        let job = self.find_job()?;
        self.jobs.doing = Some(job);
        Some(job)
    }

    fn find_job(&mut self) -> Option<Job> {
        if let Some(from) = self.jobs.log_first {
            if let Some(block) = self.regions.next_changed(from) {
                return self.log(block);
            }
            self.jobs.log_first = None;
        }
        if self.jobs.changed {
            return Some(self.superblock(true, 0));
        }
        if !self.jobs.running {
            return None;
        }
        let copies = self.attached();
        if let Some(block) = self.regions.next_block(true, copies) {
            return self.log(block);
        }
        if self.jobs.flush_due {
            self.jobs.flush_due = false;
            if self.regions.flush_begin(self.jobs.stopping) {
                return Some(Job::Flush { copies });
            }
        }
        if self.jobs.log_due {
            if let Some(block) = self.regions.next_block(false, copies) {
                return self.log(block);
            }
            self.jobs.log_due = false;
        }
        let named = self.jobs.fresh & !self.regions.behind();
        if named != 0 {
            self.jobs.fresh &= !named;
            return Some(self.superblock(true, 0));
        }
        let whole = self.whole() & !self.jobs.unasked();
        if whole != 0 {
            return Some(self.superblock(true, whole));
        }
        let quiet = self.regions.is_quiet() && self.regions.is_written(copies);
        (self.jobs.stopping && quiet && self.overlap.is_empty()).then(|| self.superblock(false, 0))
    }

    fn log(&mut self, block: usize) -> Option<Job> {
        self.counters.log_writes += 1;
        Some(Job::Log {
            block: u32::try_from(block).ok()?,
            copies: self.attached(),
        })
    }

    /// `promoted`: copies that come in sync. They are told when all others have been.
    fn superblock(&mut self, running: bool, promoted: Mask) -> Job {
        let told = self.jobs.announced & self.whole();
        let in_sync = self.in_sync | promoted | told;
        let healing = self.healing & !in_sync & !self.jobs.fresh;
        let jobs = &mut self.jobs;
        jobs.changed = false;
        // Once for each copy that left, however often the writing fails.
        let rename = jobs.rename || jobs.named & !in_sync != 0;
        jobs.rename = false;
        jobs.named = in_sync;
        Job::Superblock {
            copies: self.in_sync | told | healing,
            states: States {
                in_sync,
                healing,
                missing: self.members & !in_sync & !healing,
                running,
                rename,
            },
        }
    }

    /// Copies that lack nothing any more. They come in sync by two superblocks.
    ///
    /// The first one goes to the others. A crash then leaves some that say so and some that don't; but it does not say so
    /// itself, so nobody believes it. When all that were in sync so far say so, the second one goes to it, too; from then
    /// on it may be the one that goes on alone. So whoever it leaves behind knows it by name: a copy that is behind, and
    /// says of itself that it is in sync, is missing another one that has more, and is not started by itself.
    ///
    /// One that counts may be the one that is left, so its log must be complete, too.
    fn whole(&self) -> Mask {
        let healing = self.healing & !self.regions.behind() & !self.jobs.fresh;
        each(healing).fold(0, |whole, copy| match self.regions.stale(copy) {
            0 => whole | bit(copy),
            _ => whole,
        })
    }

    /// From now on these copies come in sync only when [`Self::agree`] has been called, each time.
    pub fn ask_first(&mut self, copies: Mask) {
        self.jobs.ask |= copies;
    }

    /// Copies that lack nothing any more, and wait for [`Self::agree`]. Requests go on meanwhile.
    pub fn asks(&self) -> Mask {
        match self.jobs.running {
            true => self.whole() & self.jobs.unasked(),
            false => 0,
        }
    }

    /// A crash may leave the copy as one that counts from now on, if it asks; else `false`. So if it leaves, what it lacks
    /// is acknowledged only when the next superblock is done.
    pub fn may_count(&mut self, copy: u32) -> bool {
        let asks = self.asks() & bit(copy);
        self.jobs.in_sync |= asks;
        asks != 0
    }

    /// The copy may come in sync, unless it leaves before.
    pub fn agree(&mut self, copy: u32) {
        self.jobs.agreed |= self.healing & self.jobs.ask & bit(copy);
    }

    /// Superblocks are durable on `ok` that call these copies in sync. Those that have got it themselves are it now.
    fn promote(&mut self, in_sync: Mask, ok: Mask) {
        let promoted = in_sync & self.whole() & ok;
        self.healing &= !promoted;
        self.in_sync |= promoted;
        if promoted != 0 {
            // It is not the last one any more, and can leave.
            for copy in each(self.away) {
                self.set_away(copy, false);
            }
        }
        self.jobs.agreed &= !promoted;
        self.jobs.announced = in_sync & self.whole();
        // The others are told next; what was spoiled meanwhile must not be called in sync.
        self.jobs.changed |= in_sync & !self.in_sync != 0;
    }

    /// The job that was given last was done on `ok`, durably, and failed on the other copies.
    pub fn job_done(&mut self, ok: Mask) {
        let Some(job) = self.jobs.doing else {
            return;
        };
        let ok = ok & job.copies();
        for copy in each(job.copies() & !ok & self.attached()) {
            self.leave(copy);
        }
        // What counts is on all copies that a crash may leave behind as being in sync.
        let failed = self.in_sync & job.copies() & !ok != 0;
        let durable = !failed && self.jobs.in_sync & !ok == 0;
        match job {
            Job::Superblock { states, .. } => {
                let States {
                    in_sync,
                    healing,
                    missing,
                    running,
                    ..
                } = states;
                if !failed {
                    let gone = self.jobs.gone & !(in_sync | healing | missing);
                    self.jobs.gone &= !gone;
                    for copy in each(gone) {
                        self.regions.forget(copy);
                    }
                    self.jobs.in_sync = in_sync;
                    self.jobs.running = running;
                    self.promote(in_sync, ok);
                    // A copy that failed at the end is noted as away, like any other one.
                    self.jobs.stopped = !running && !self.jobs.changed;
                } else {
                    // It may be there, nevertheless.
                    self.jobs.in_sync |= in_sync;
                    self.jobs.changed = true;
                }
            }
            Job::Log { block, copies } => {
                let block = block as usize;
                if !failed && self.jobs.log_first.is_some() {
                    self.jobs.log_first = Some(block.saturating_add(1));
                }
                self.regions.block_done(block, ok, copies & !ok, durable);
            }
            Job::Flush { .. } if !failed => self.regions.flush_end(ok),
            Job::Flush { .. } => self.regions.flush_failed(),
        }
        if failed {
            self.jobs.stuck = true;
            self.fail_waiting();
        } else if matches!(job, Job::Flush { .. }) {
            self.jobs.log_due = true;
            self.jobs.flush_due |= self.jobs.stopping;
        }
        self.jobs.doing = None;
        self.look_again();
    }

    /// The metadata of the last copy in sync can't be written: what waits for that fails, as what is written to the copy
    /// itself does.
    fn fail_waiting(&mut self) {
        let mut gated = self.gated.take();
        while let Some(id) = gated.pop(&mut self.slots) {
            let Some(extent) = self.slots.get(id as usize).map(Slot::extent) else {
                continue;
            };
            if self.is_heal(id) {
                self.gated.push(&mut self.slots, id);
                continue;
            }
            self.fail(id);
            if extent.sectors() != 0 {
                self.overlap_end(extent);
            }
        }
        let mut leaving = self.leaving.take();
        while let Some(id) = leaving.pop(&mut self.slots) {
            self.fail(id);
        }
    }

    /// Whether the durable superblocks say all that they should.
    pub fn is_told(&self) -> bool {
        !self.jobs.changed && !matches!(self.jobs.doing, Some(Job::Superblock { .. }))
    }

    /// An entry of a block of the log that is being written.
    pub fn entry(&self, block: u32, at: usize) -> u32 {
        self.regions.entry(block as usize, at)
    }

    /// The number of the write of a block of the log that is being written.
    pub fn sequence(&self, block: u32) -> u64 {
        self.regions.sequence(block as usize)
    }

    /// Whether the durable superblocks say that it was stopped cleanly.
    pub fn is_stopped(&self) -> bool {
        self.jobs.stopped
    }

    /// Whether something may be there for [`Self::next_ready`], [`Self::next_ended`], [`Self::next_job`] or
    /// [`Self::heal_next`]. Cheap.
    pub fn wants_service(&self) -> bool {
        !self.ready.is_empty()
            || !self.ended.is_empty()
            || self.heal.wants()
            || self.jobs.wants(self.regions.is_urgent())
    }
}
