// SPDX-License-Identifier: GPL-2.0

//! A node takes the place of another one while the storage is used.

use kernel::prelude::*;

use crate::{
    failure::{
        fail,
        Done, //
    },
    member::{
        Member,
        Want, //
    },
    mirror::Engine,
    uapi,
};

use super::{
    Inner,
    Life,
    Storage, //
};

impl Storage {
    /// Begins to replace a node by a new one; gives the id of that. Waits for a remote node to answer, not for the data.
    pub(crate) fn replace(&self, want: Want, old: u32) -> Done<u32> {
        let mut life = self.life.lock();
        self.check_running(&life)?;
        if want.place.start != uapi::AUTO || want.place.size != uapi::AUTO {
            fail!(
                EINVAL,
                "the new node gets the place of the old one; leave start and size (-s, -S) out"
            );
        }
        let result = match self.mirror() {
            Some(mirror) => {
                let from = self.copy_of(&mirror, old)?;
                self.take_up(&mut life, want, Some(from))
            }
            None => {
                if life.moving.is_some() {
                    fail!(
                        EBUSY,
                        "a node is being replaced already; wait until that is done, or cancel it"
                    );
                }
                let member = self.members(|member| member.id == old)?;
                let Some(member) = member.first() else {
                    fail!(ENOENT, "{} has no such node", self.name());
                };
                self.with_node(&mut life, want, |life, id, want, node| {
                    let begun = self.begin_moving(life, id, want, node, member);
                    if life.moving.is_none() {
                        // Before it is closed: its superblocks are erased.
                        self.conclude(life);
                    }
                    begun
                })
            }
        };
        if let Ok(id) = &result {
            self.show_replacement();
            self.tell_node(|member| member.id == *id, "replace-start");
        }
        drop(life);
        self.events.tell();
        result
    }

    /// Ends a replacement that is under way: the old node stays. `id`: one of the two nodes. Sleeps, until nothing is on
    /// its way to the new one.
    pub(crate) fn cancel_replace(&self, id: u32) -> Done {
        let mut life = self.life.lock();
        self.check_running(&life)?;
        let Some(engine) = self.engine() else {
            fail!(ENOENT, "no node of {} is being replaced", self.name());
        };
        let copy = self.copy_of(&engine, id);
        match engine.replacement() {
            Some(moving) if !copy.is_ok_and(|copy| moving.has(copy)) => {
                fail!(ENOENT, "it is another node that is being replaced");
            }
            Some(_) if life.moving.is_some() => {
                self.take_back(&mut life, &engine)?;
                self.tell_replacing("replace-cancelled");
                self.undo_moving(&mut life);
            }
            Some(moving) => {
                engine.remove(moving.to)?;
                self.tell_replacing("replace-cancelled");
                self.drop_members(&life, |member| member.copy() == Some(moving.to));
                self.show_replacement();
            }
            None => fail!(ENOENT, "no node of {} is being replaced", self.name()),
        }
        drop(life);
        self.events.tell();
        Ok(())
    }

    /// Drops the old node, if the new one has all data. On a worker; sleeps, as [`Self::remove`] does. Gives whether there
    /// is more to do soon.
    pub(crate) fn finish_replacement(&self) -> bool {
        let mut life = self.life.lock();
        let Some(engine) = self.engine().filter(|_| !life.deleted) else {
            return false;
        };
        let done = self.drop_replaced(&mut life, &engine);
        let before = life.moving.is_some();
        let more = self.advance_moving(&mut life);
        let over = before && life.moving.is_none();
        drop(life);
        if done || over {
            self.events.tell();
        }
        more
    }

    /// Drops the old node, if the new one counts. Gives whether it was so far.
    pub(super) fn drop_replaced(&self, life: &mut Life, engine: &Engine) -> bool {
        match engine.finish_replacement() {
            Ok(Some(from)) => {
                self.conclude(life);
                self.drop_members(life, |member| member.copy() == Some(from));
                for member in &self.inner.lock().members {
                    member.set_waits(false);
                }
                self.tell_replacing("replace-done");
                self.show_replacement();
                true
            }
            // It is not yet so far, or something came between: it is looked at again when that changes.
            Ok(None) => false,
            Err(failure) => {
                pr_warn!(
                    "{}: the node that was replaced stays: {}\n",
                    self.name(),
                    failure.message()
                );
                false
            }
        }
    }

    /// Lets the nodes show which of them takes the place of which one.
    pub(super) fn show_replacement(&self) {
        let inner = self.inner.lock();
        let engine = inner.mirror.as_ref().or(inner.twin.as_ref());
        let moving = engine.and_then(|engine| engine.replacement());
        for member in &inner.members {
            let replaces = match moving {
                Some(moving) if member.copy() == Some(moving.to) => inner.id_of(moving.from) + 1,
                None if member.waits() => inner.id_at(member.start).map_or(0, |id| id + 1),
                _ => 0,
            };
            member.set_replaces(replaces);
        }
    }

    /// The number of a node as a copy; `id` may be that of a copy that is not here.
    fn copy_of(&self, mirror: &Engine, id: u32) -> Done<u32> {
        if self.is_mirror() && id & uapi::ABSENT != 0 && id != uapi::ALL_NODES {
            return mirror.absent_copy(id & !uapi::ABSENT);
        }
        let inner = self.inner.lock();
        let member = inner.members.iter().find(|member| member.id == id);
        match member.and_then(|member| member.copy()) {
            Some(copy) => Ok(copy),
            None => fail!(ENOENT, "{} has no such node", self.name()),
        }
    }

    /// Tells user space what has happened to the node that takes the place of another one.
    pub(super) fn tell_replacing(&self, event: &str) {
        self.tell_node(|member| member.replaces() != 0, event);
    }

    /// Tells user space what has happened to the nodes that `which` names.
    fn tell_node(&self, which: impl Fn(&Member) -> bool, event: &str) {
        self.each(|member, directory| {
            if !which(member) {
                return;
            }
            let result = directory.uevent(&[
                fmt!("DST_STORAGE={}", self.name()),
                fmt!("DST_NODE={}", member.id),
                fmt!("DST_TYPE={member}"),
                fmt!("DST_EVENT={event}"),
            ]);
            if result.is_err() {
                pr_warn!("{}: a uevent was lost\n", self.name());
            }
        });
    }

    fn check_running(&self, life: &Life) -> Done {
        if life.deleted {
            return Err(ENOENT.into());
        }
        if self.inner.lock().disk.is_none() {
            fail!(
                EINVAL,
                "{0} does not run; a node is replaced while its storage is used: start {0} first",
                self.name()
            );
        }
        Ok(())
    }
}

impl Inner {
    /// The id of the node that is this copy; of one that is not here, too.
    pub(super) fn id_of(&self, copy: u32) -> u32 {
        let member = self.members.iter().find(|m| m.copy() == Some(copy));
        member.map_or(uapi::ABSENT | copy, |member| member.id)
    }

    /// The id of the node of the storage that begins there.
    fn id_at(&self, start: u64) -> Option<u32> {
        let mut members = self.members.iter();
        let member = members.find(|m| m.start == start && !m.waits());
        member.map(|member| member.id)
    }
}
