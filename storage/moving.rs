// SPDX-License-Identifier: GPL-2.0

//! How a node of a storage without copies takes the place of another one while it is used.
//!
//! | Step | What serves the place of the node |
//! |---|---|
//! | [`Storage::begin_moving`] | a [`twin`] of both nodes instead of the old one; what was sent to that before has ended |
//! | data are copied | the twin: reads come from where the data are, writes go to both |
//! | [`Storage::name_new`] | the same; from here on the new node is the one that counts |
//! | [`Storage::advance_moving`] | the twin, without the old node, which is dropped |
//! | the same | the new node; the twin ends when nothing is under way in it any more |
//!
//! What serves the disk is exchanged as a whole, while no bio is on its way through it ([`Disk::exchange`]), so a bio's
//! way is the same as ever: no lock, no look at whether something is being replaced.
//!
//! [`twin`]: crate::mirror::twin
//! [`Disk::exchange`]: crate::kern::disk::Disk::exchange

use kernel::{
    prelude::*,
    str::CString,
    sync::Arc,
    time::Jiffies, //
};

use crate::{
    array::{
        Node,
        Running,
        Target, //
    },
    block_io::BlockIo,
    failure::{
        fail,
        Done,
        Failure, //
    },
    kern::{
        disk::Limits,
        sysfs::Directory,
        time, //
    },
    limits,
    linear::Unnamed,
    member::{
        block_size,
        sectors,
        Member,
        Place,
        Want, //
    },
    mirror::{
        self,
        Engine,
        MirrorArray,
        Pair, //
    },
    request::SECTOR_SHIFT,
};

use super::{
    Inner,
    Life,
    Storage, //
};

/// Milliseconds, at most, that bios wait while what serves the disk is exchanged. The calls that must return first take no
/// longer than sending, unless all pieces of a lost node are taken.
const EXCHANGE_MS: u32 = 500;

/// Milliseconds that what was sent to the old node before may take to end.
const DRAIN_MS: u32 = 10_000;

/// Milliseconds between two attempts to write superblocks that name another node.
const AGAIN_MS: u32 = 1_000;

/// Milliseconds for which somebody waits who takes a replacement back.
const TAKE_BACK_MS: u32 = 5_000;

/// A node that takes the place of another one.
pub(super) struct Moving {
    /// Both, and what copies from one to the other.
    twin: MirrorArray,
    /// What served the disk while the twin was part of it, since that is no more.
    retired: Option<Arc<Running>>,
    /// When superblocks that could not be written are tried again; `None`: none have failed.
    again: Option<Jiffies>,
}

impl Moving {
    pub(super) fn new(twin: MirrorArray) -> Self {
        Self {
            twin,
            retired: None,
            again: None,
        }
    }

    fn engine(&self) -> &Arc<Engine> {
        self.twin.engine()
    }
}

impl Storage {
    /// Lets a node take the place of the node `old`.
    #[inline(never)]
    pub(super) fn begin_moving(
        &self,
        life: &mut Life,
        id: u32,
        want: Want,
        node: Node,
        old: &Arc<Member>,
    ) -> Done {
        let limits = self.inner.lock().limits;
        let same = self.members(|member| want.is_same(&node, member))?;
        if let Some(same) = same.first() {
            fail!(EEXIST, "{same} is a node of the storage already");
        }
        Self::check_fits(&node, &limits, old)?;
        let pair = Pair {
            name: self.name(),
            origin: old.start,
            sectors: old.size(),
            block_size: limits.logical_block_size,
            old: &old.candidate()?,
            new: &want.candidate(&node)?,
            done: 0,
        };
        if let Some(linear) = &mut life.linear {
            linear.prepare(old.start, old.size(), pair.new)?;
        }
        let twin = mirror::twin(&pair, self.events.clone(), self.hold.clone())?;
        let engine = twin.engine().clone();
        let place = Place {
            start: old.start,
            size: old.size(),
        };
        let new = Member::new(id, place, node, old.gate.clone(), want)?;
        let array = self.array_again(|member| {
            if member.id == old.id {
                Target::Twin(engine.clone())
            } else {
                Self::itself(member)
            }
        })?;
        let before = self.exchange(Running::Single(array))?;
        // From here on the twin is there; what fails ends it as somebody does who changes his mind.
        life.moving = Some(Moving::new(twin));
        // What was said for this must not count when the storage is started again.
        new.settle();
        // Superblocks tell of it when the storage is stopped.
        new.set_waits(life.linear.is_some());
        old.set_copy(Some((engine.clone(), 0)));
        new.set_copy(Some((engine.clone(), 1)));
        let shown = {
            let mut inner = self.inner.lock();
            inner.show_twin(&engine);
            Self::show(life, &mut inner, new)
        };
        // What is on its way to the old node is not known to the twin: it must be over before it is copied.
        let quiet = || is_quiet(&before) && old.node.used() == 0;
        let over = time::wait(DRAIN_MS, quiet);
        engine.begin_copying();
        if let Err(failure) = shown {
            self.undo_moving(life);
            return Err(failure);
        }
        if !over {
            self.undo_moving(life);
            fail!(
                ETIMEDOUT,
                "what was sent to {old} before does not end; see \"dst status\", and try again when it is up"
            );
        }
        Ok(())
    }

    /// Refuses a node that can't take the place of another one.
    pub(super) fn check_fits(node: &Node, limits: &Limits, old: &Member) -> Done {
        if sectors(node) < old.size() {
            fail!(
                ENOSPC,
                "the node has {} sectors, and {old} holds {} of the storage; take a node that is as large",
                sectors(node),
                old.size()
            );
        }
        if old.node.is_lost() {
            fail!(
                EHOSTDOWN,
                "{old} is lost, and nobody else has its data; replace it when it is up"
            );
        }
        limits::check_joining(node, limits, "take another node")?;
        if (old.start | old.size())
            & u64::from((block_size(node) >> SECTOR_SHIFT).saturating_sub(1))
            != 0
        {
            fail!(
                EINVAL,
                "{old} does not begin and end at blocks of the new node, which have {} bytes; take another node",
                block_size(node)
            );
        }
        Ok(())
    }

    /// Lets something else serve the disk; gives what did.
    fn exchange(&self, running: Running) -> Done<Arc<Running>> {
        let disk = self.inner.lock().disk.clone();
        let Some(disk) = disk else {
            return Err(ENODEV.into());
        };
        match disk.exchange(Arc::new(running, GFP_KERNEL)?, EXCHANGE_MS) {
            Ok(before) => Ok(before),
            Err(_) => fail!(
                EAGAIN,
                "requests wait for a node that is lost; when it is back, or \"dst fail-now\" has ended the waiting, \
                 try again"
            ),
        }
    }

    /// Makes it durable that the new node is the one that holds its place, from now on. Until this has returned both hold
    /// all data. Gives whether there is something to agree to.
    ///
    /// **This is where the switch becomes durable.** Nothing on the nodes of a storage without metadata tells which node
    /// belongs to it: whoever puts it together again names the nodes. So there is nothing to be written but what the
    /// volatile cache of the new node holds. A storage whose nodes have superblocks writes them then, those of all nodes,
    /// with the new node in the table and without the old one. If that fails it is tried again, or taken back.
    fn name_new(&self, life: &mut Life, engine: &Engine) -> core::result::Result<bool, Unnamed> {
        let new = self.members(|member| member.replaces() != 0);
        let new = new.map_err(|error| Unnamed::Other(error.into()))?;
        let Some(node) = new.first() else {
            return Ok(true);
        };
        let flushed = BlockIo::new().and_then(|io| io.flush(&node.node));
        if let Err(error) = flushed {
            let failure = Failure::new(error, fmt!("{node} can't be flushed"));
            return Err(Unnamed::New(failure));
        }
        let Some(linear) = &mut life.linear else {
            return Ok(true);
        };
        self.check_writable().map_err(Unnamed::Other)?;
        if !engine.begin_naming() {
            return Ok(false);
        }
        linear.name_new()?;
        Ok(true)
    }

    /// Lets the superblocks name the old node again, if some may name the new one, which has left.
    fn name_old(&self, life: &mut Life, engine: &Engine) -> Done {
        if let Some(linear) = &mut life.linear {
            if linear.may_name_new() {
                self.check_writable()?;
                linear.name_old()?;
            }
        }
        engine.end_naming();
        Ok(())
    }

    /// Refuses to write superblocks that would have to wait, or must not be written.
    fn check_writable(&self) -> Done {
        if self.hold.is_lost() {
            fail!(ESTALE, "another head has taken over the storage");
        }
        let lost = self.members(|member| member.replaces() == 0 && member.node.is_lost())?;
        match lost.first() {
            Some(lost) => fail!(
                EHOSTDOWN,
                "{lost} is lost: its superblocks can't be written until it is back"
            ),
            None => Ok(()),
        }
    }

    /// Superblocks can't be written: it is tried again later.
    fn try_again(&self, life: &mut Life, failure: &Failure) {
        if let Some(moving) = &mut life.moving {
            if moving.again.is_none() {
                pr_warn!(
                    "{}: {}; it is tried again\n",
                    self.name(),
                    failure.message()
                );
            }
            moving.again = Some(time::in_ms(time::now(), AGAIN_MS));
        }
    }

    /// Does what is due of a replacement. Gives whether there is more to do soon, though nothing happens that tells of it.
    pub(super) fn advance_moving(&self, life: &mut Life) -> bool {
        let Some(moving) = &life.moving else {
            return false;
        };
        let engine = moving.engine().clone();
        let (asks, asks_back) = (engine.asks(), engine.asks_back());
        if asks || asks_back {
            if moving
                .again
                .is_some_and(|at| !time::reached(at, time::now()))
            {
                return true;
            }
            let done = match asks_back {
                true => self.name_old(life, &engine).map_err(Unnamed::Other),
                false => self.name_new(life, &engine).map(|named| {
                    if named {
                        // It is told when that has had its effect.
                        engine.agree();
                    }
                }),
            };
            match done {
                Ok(()) => {}
                Err(_) if asks_back && self.hold.is_lost() => engine.refuse(),
                Err(Unnamed::New(failure)) => {
                    pr_warn!("{}: {}\n", self.name(), failure.message());
                    engine.give_up_new();
                }
                Err(Unnamed::Other(failure)) => {
                    self.try_again(life, &failure);
                    return true;
                }
            }
            if let Some(moving) = &mut life.moving {
                moving.again = None;
            }
            return false;
        }
        if engine.replacement().is_some() {
            return false;
        }
        self.settle_moving(life)
    }

    /// Makes the old node the one that counts, whatever superblocks say now: the replacement is to be cancelled.
    pub(super) fn take_back(&self, life: &mut Life, engine: &Engine) -> Done {
        if !life
            .linear
            .as_ref()
            .is_some_and(|linear| linear.may_name_new())
        {
            return Ok(());
        }
        // From here on nothing is acknowledged that the old node does not have, and nothing that only it has.
        engine.give_up_new();
        let mut failed = None;
        time::wait(TAKE_BACK_MS, || {
            failed = self.name_old(life, engine).err();
            failed.is_none()
        });
        match failed {
            None => Ok(()),
            Some(failure) => fail!(
                failure.error,
                "the superblocks can't be written, so nothing is cancelled: {}; try again when that is over",
                failure.message()
            ),
        }
    }

    /// One of the two nodes is out: the other one is to serve the place by itself. Gives whether there is more to do.
    fn settle_moving(&self, life: &mut Life) -> bool {
        let Some(moving) = &mut life.moving else {
            return false;
        };
        if moving.retired.is_none() {
            // The exchange would fail, and hold up all others meanwhile.
            let stuck = self.members(|member| member.node.is_stuck());
            if stuck.is_ok_and(|stuck| !stuck.is_empty()) {
                return true;
            }
            match self
                .array_again(Self::itself)
                .and_then(|array| self.exchange(Running::Single(array)))
            {
                Ok(before) => moving.retired = Some(before),
                Err(_) => return true,
            }
        }
        let engine = moving.engine();
        let idle = moving
            .retired
            .as_ref()
            .is_none_or(|retired| is_quiet(retired));
        if !idle || !engine.is_idle() {
            return true;
        }
        engine.retire();
        if !engine.is_drained() {
            return true;
        }
        self.end_moving(life);
        self.rename_directories(life);
        false
    }

    /// The directory of a node that has taken the place of another one, `n-START-1`, becomes `n-START`.
    fn rename_directories(&self, life: &Life) {
        let Some(device) = &life.device else { return };
        let mut inner = self.inner.lock();
        let Inner {
            members,
            directories,
            ..
        } = &mut *inner;
        let mut old = None;
        for (member, directory) in members.iter().zip(directories) {
            let made = CString::try_from_fmt(fmt!("n-{}", member.start))
                .and_then(|name| Directory::add(device.anchor(), &name, member.clone()));
            // All others are called so already.
            if let Ok(new) = made {
                old = Some(core::mem::replace(directory, new));
            }
        }
        drop(inner);
        // Somebody may read its files, under `inner`.
        drop(old);
    }

    /// The twin ends. Nothing is sent to it any more.
    pub(super) fn end_moving(&self, life: &mut Life) {
        let twin = self.inner.lock().twin.take();
        if twin.is_some() {
            self.forget_copies();
        }
        if let Some(moving) = life.moving.take() {
            drop(moving.retired);
            drop(moving.twin);
        }
        drop(twin);
    }

    /// Ends a replacement that has begun: the old node stays.
    pub(super) fn undo_moving(&self, life: &mut Life) {
        let Some(engine) = life.moving.as_ref().map(|moving| moving.engine().clone()) else {
            return;
        };
        let Some(moving) = engine.replacement() else {
            return;
        };
        if engine.remove(moving.to).is_ok() {
            self.conclude(life);
            self.drop_members(life, |member| member.copy() == Some(moving.to));
        }
        self.show_replacement();
        // The rest is done elsewhere if it takes long.
        time::wait(EXCHANGE_MS, || !self.settle_moving(life));
    }

    /// Lets go of the node that the superblocks don't name.
    pub(super) fn conclude(&self, life: &mut Life) {
        if let Some(linear) = &mut life.linear {
            linear.conclude();
        }
    }

    /// The disk is about to go. What waits for superblocks must end before; later nobody is there who could write them.
    pub(super) fn prepare_end(&self, life: &mut Life) {
        let Some(engine) = life.moving.as_ref().map(|moving| moving.engine().clone()) else {
            return;
        };
        // What was agreed to is not taken back: the new node may have what the old one does not.
        self.drop_replaced(life, &engine);
        if engine.asks_back() && self.name_old(life, &engine).is_err() {
            pr_warn!(
                "{}: requests fail, as superblocks can't be written\n",
                self.name()
            );
        }
        engine.refuse_all();
    }

    /// The disk is gone, and superblocks say that the storage was stopped, with the old node. If there are some the new node
    /// stays, and the next start goes on with the replacement; else it ends.
    pub(super) fn abandon_moving(&self, life: &mut Life) {
        let goes_on = life.linear.is_some();
        let mut done = 0;
        if let Some(moving) = &life.moving {
            if goes_on && !self.hold.is_lost() {
                done = moving.engine().end_copying();
            }
            if !goes_on {
                self.tell_replacing("replace-cancelled");
            }
        }
        let moved = life.moving.is_some();
        self.end_moving(life);
        if let Some(mut linear) = life.linear.take() {
            if self.hold.is_lost() {
                linear.end_waiting();
            } else {
                linear.stop(done);
            }
        }
        if moved && !goes_on {
            self.drop_members(life, |member| member.replaces() != 0);
        }
    }
}

impl Inner {
    /// Lets everybody see what copies.
    pub(super) fn show_twin(&mut self, engine: &Arc<Engine>) {
        self.settings.apply(engine);
        self.twin = Some(engine.clone());
    }
}

/// Whether nothing of what served a disk is on its way to nodes any more that does not count as being there.
fn is_quiet(running: &Running) -> bool {
    match running {
        Running::Single(array) => array.is_quiet(),
        Running::Mirror(_) => true,
    }
}
