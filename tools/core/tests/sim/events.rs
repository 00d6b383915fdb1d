// SPDX-License-Identifier: GPL-2.0

//! What can happen next.

use dst_core::{
    alg_mirror::{
        bit,
        each,
        overlap::Extent, //
    },
    meta::{
        head::{
            Back,
            Place, //
        },
        superblock::Superblock,
        verdict::Role, //
    },
};

use super::{
    disk::newest,
    tell,
    World, //
};

/// Steps until all is healed, at most.
const REST: usize = 60_000;

impl World {
    /// Something somewhere, most often near the edge of a region.
    fn extent(&mut self) -> Extent {
        let sectors = self.shape.sectors;
        let edge = self.rng.below(self.shape.regions as u64) << self.shape.log.region_shift;
        let start = match self.rng.below(4) {
            0 => self.rng.below(sectors),
            1 => (edge + self.rng.below(8)).min(sectors - 1),
            _ => edge.saturating_sub(self.rng.below(8)).min(sectors - 1),
        };
        let longest = if self.rng.chance(50) { 300 } else { 12 };
        let len = 1 + self.rng.below(longest);
        Extent::new(start, len.min(sectors - start))
    }

    /// One step.
    pub(super) fn event(&mut self) {
        if self.head.is_none() {
            return self.event_without();
        }
        let trouble = self.trouble;
        let weights = [
            120,         // 0: a write
            15,          // 1: a flush
            50,          // 2: a read
            400,         // 3: a disk does something
            400,         // 4: an answer comes
            100,         // 5: what may go, goes
            100,         // 6: jobs
            60,          // 7: healing
            20,          // 8: a second, or a tenth of one
            20,          // 9: the driver looks at the disks
            2 * trouble, // 10: a disk answers with an error
            trouble,     // 11: a disk loses its power
            trouble,     // 12: a link is lost
            12,          // 13: a disk is back
            trouble,     // 14: the head crashes
            1,           // 15: a clean end
            2,           // 16: suspend
            6,           // 17: resume
            1,           // 18: add
            trouble / 3, // 19: remove
            trouble,     // 20: a copy of a disk is made, or put back
            20,          // 21: copies are compared
            trouble / 3, // 22: what waits for a disk is given up
        ];
        let before = self.head().core.in_sync();
        match self.rng.weighted(&weights) {
            0 if !self.head().stopping => {
                let (extent, fua) = (self.extent(), self.rng.chance(100));
                self.submit(extent, fua);
            }
            1 if !self.head().stopping => self.submit(Extent::default(), false),
            2 if !self.head().stopping => {
                let extent = self.extent();
                self.read(extent);
            }
            3 => self.some_disk_acts(),
            4 => self.some_answer(),
            5 => self.serve(),
            6 => self.job(),
            7 => self.heal(),
            8 => self.time(),
            9 => {
                self.look();
                self.returning();
            }
            10 => self.some_error(),
            11 => self.lose_power(),
            12 => self.lose_link(),
            13 => self.come_back(),
            14 => {
                self.crash();
                self.after_crash();
            }
            15 => self.stop(),
            16 => {
                let copy = self.rng.below(4) as u32;
                tell!(self, "copy {copy} is suspended");
                self.head().core.suspend(copy);
                self.unsee();
            }
            17 => {
                let copy = self.rng.below(4) as u32;
                tell!(self, "copy {copy} is resumed");
                self.head().core.resume(copy);
                self.unsee();
            }
            18 => self.add(),
            19 => self.remove(),
            20 => self.backup(),
            21 => {
                let extent = self.extent();
                self.check_copies(extent);
            }
            22 => self.give_up_waiting(),
            _ => {}
        }
        // What a copy that left was seen to have, the others may not have yet.
        let left = |head: &super::Head| before & !head.core.in_sync() != 0;
        if self.head.as_ref().is_some_and(left) {
            self.unsee();
        }
        self.end_if_stopped();
    }

    fn event_without(&mut self) {
        match self.rng.below(10) {
            0..=3 => self.come_back(),
            4 => self.split(),
            5 => {
                self.start(true);
            }
            6 => self.backup(),
            7 if self.rng.chance(200) => self.flip_log(),
            _ => {
                self.start(false);
            }
        }
    }

    /// What a head does that does not count.
    pub(super) fn stray_event(&mut self) {
        match self.rng.below(8) {
            0 => {
                let extent = self.extent();
                let shift = self.shape.log.region_shift;
                let regions = extent.start >> shift..((extent.end - 1) >> shift) + 1;
                let mut written = regions.map(|region| {
                    let start = (region << shift) as usize;
                    let end = ((region + 1) << shift).min(self.shape.sectors) as usize;
                    self.oracle.floor[start..end]
                        .iter()
                        .any(|floor| *floor != 0)
                });
                // Other regions would not be healed: nobody but the stray one knows them.
                if written.all(|written| written) {
                    drop(written);
                    self.submit(extent, false);
                }
            }
            1 | 2 => self.some_disk_acts(),
            3 | 4 => self.some_answer(),
            5 => self.serve(),
            6 => self.job(),
            _ => self.time(),
        }
    }

    fn some_disk_acts(&mut self) {
        let can: Vec<usize> = (0..self.ops.len())
            .filter(|at| !self.ops[*at].applied && self.disks[self.ops[*at].disk].up)
            .collect();
        if let Some(at) = self.rng.pick(&can) {
            if self.rng.chance(100) {
                // A part first.
                self.tear(at);
            } else {
                self.apply(at);
            }
        }
    }

    fn some_answer(&mut self) {
        let can: Vec<usize> = (0..self.ops.len())
            .filter(|at| self.ops[*at].applied && self.disks[self.ops[*at].disk].up)
            .collect();
        if let Some(at) = self.rng.pick(&can) {
            self.complete(at, true);
        }
    }

    fn some_error(&mut self) {
        let can: Vec<usize> = (0..self.ops.len())
            .filter(|at| !self.ops[*at].applied && self.disks[self.ops[*at].disk].up)
            .collect();
        if let Some(at) = self.rng.pick(&can) {
            tell!(
                self,
                "{} gives an error",
                self.disks[self.ops[at].disk].name
            );
            self.tally.errors += 1;
            self.tear(at);
            // Whoever saw what it has now may see another copy next.
            self.unsee();
            self.complete(at, false);
        }
    }

    fn time(&mut self) {
        let kind = self.rng.below(8);
        let core = &mut self.head().core;
        match kind {
            0..=2 => core.heal_credit(),
            // As long as regions stay active.
            3 => (0..6).for_each(|_| core.tick()),
            _ => core.tick(),
        }
    }

    fn some_disk(&mut self, up: bool) -> Option<usize> {
        let disks: Vec<usize> = (0..self.disks.len())
            .filter(|disk| self.disks[*disk].up == up)
            .collect();
        self.rng.pick(&disks)
    }

    fn lose_power(&mut self) {
        if let Some(at) = self.some_disk(true) {
            tell!(self, "{} loses its power", self.disks[at].name);
            self.tally.power_losses += 1;
            self.cut(at);
            self.disks[at].lose_power(&mut self.rng);
        }
    }

    fn lose_link(&mut self) {
        if let Some(at) = self.some_disk(true) {
            tell!(self, "{} is lost", self.disks[at].name);
            self.tally.link_losses += 1;
            self.cut(at);
        }
    }

    /// What was on its way gets through, or not; if it comes back in time, it is sent again.
    fn cut(&mut self, disk: usize) {
        self.disks[disk].up = false;
        self.disks[disk].noticed = false;
        self.unsee();
        for at in 0..self.ops.len() {
            if self.ops[at].disk == disk {
                if !self.ops[at].applied {
                    self.tear(at);
                }
                self.ops[at].applied = false;
            }
        }
    }

    fn come_back(&mut self) {
        let Some(at) = self.some_disk(false) else {
            return;
        };
        // The driver must know that something got lost before it goes on with the disk.
        if self.head.is_some() && self.disks[at].forgot {
            return;
        }
        tell!(self, "{} is back", self.disks[at].name);
        self.disks[at].up = true;
    }

    fn after_crash(&mut self) {
        if self.rng.chance(300) {
            for at in 0..self.disks.len() {
                if self.rng.chance(600) {
                    tell!(self, "{} loses its power", self.disks[at].name);
                    self.disks[at].lose_power(&mut self.rng);
                    self.disks[at].up = self.rng.chance(500);
                }
            }
        }
        if self.rng.chance(300) {
            self.flip();
        }
        while self.rng.chance(300) {
            self.flip_log();
        }
    }

    fn stop(&mut self) {
        // Its disk is gone by then: no request is under way.
        if self.head().is_idle() && !self.head().stopping {
            tell!(self, "it is to end");
            self.head().stopping = true;
            self.head().core.stop();
        }
    }

    fn end_if_stopped(&mut self) {
        let Some(head) = &self.head else { return };
        if head.stopping && head.core.is_stopped() {
            self.ops
                .retain(|op| matches!(op.what, super::What::Superblock { .. }));
            self.stopped();
        }
    }

    /// Disks of the storage that the head does not have.
    fn returning(&mut self) {
        for at in self.members() {
            if !self.disks[at].up || self.head().copy_of(at).is_some() || self.head().stopping {
                continue;
            }
            let blocks = self.disks[at].superblocks();
            let Ok(found) = newest(&blocks) else { continue };
            let layout = self.disks[at].layout;
            let head = self.head();
            let Some((copy, entry)) = head.superblock().find(found.node()) else {
                // The one that forgets it may have reached one of two places only, which is written to again first: if that is
                // cut off, the other one counts, and knows it.
                let told = head.known & !head.core.members() == 0;
                let judged = self.judge(&self.members(), &[], false);
                // No durable superblock knows it, either.
                if told
                    && judged.is_ok_and(|judged| judged.roles.iter().all(|(disk, _)| *disk != at))
                {
                    self.disks[at].wipe();
                }
                continue;
            };
            let member = head.core.members() & bit(copy) != 0;
            if head.meta.place(copy).is_some() || !member {
                continue;
            }
            let found = Place::found(entry.uuid, layout, Some(&blocks[0]), Some(&blocks[1]));
            head.meta.places[copy as usize] = Some(Place {
                seen: entry.seen,
                ..found
            });
            head.disks[copy as usize] = Some(at);
            let back = head.look(copy, &blocks);
            if let Back::Refused(_) = back {
                let given_up = self.is_given_up(at) || !self.is_complete(at);
                assert!(given_up, "copy {copy} is refused");
                tell!(self, "copy {copy} is given up");
                let head = self.head();
                head.meta.forget(copy);
                head.disks[copy as usize] = None;
                assert!(head.remove(copy));
                continue;
            }
            if !head.core.back(copy, back == Back::All) {
                head.meta.forget(copy);
                head.disks[copy as usize] = None;
                continue;
            }
            tell!(self, "copy {copy} was not there at the start: {back:?}");
            self.tally.back += 1;
            self.tally.back_all += u64::from(back == Back::All);
        }
    }

    /// Copies that were added, and whose disk never heard of it, are taken out again.
    fn remove_unborn(&mut self) {
        for copy in 0..16 {
            let head = self.head();
            let absent =
                head.core.members() & bit(copy) != 0 && head.disks[copy as usize].is_none();
            let Some(entry) = head.superblock().entry(copy).filter(|_| absent) else {
                continue;
            };
            let born = self.members().iter().any(|at| {
                let blocks = self.disks[*at].superblocks();
                newest(&blocks).is_ok_and(|own| own.node() == entry.uuid)
            });
            if !born {
                tell!(self, "copy {copy} was never born");
                assert!(self.head().remove(copy));
            }
        }
    }

    fn add(&mut self) {
        let blank: Vec<usize> = (0..self.disks.len())
            .filter(|at| self.disks[*at].up)
            .filter(|at| {
                self.head
                    .as_ref()
                    .is_some_and(|head| head.copy_of(*at).is_none())
            })
            .filter(|at| newest(&self.disks[*at].superblocks()).is_err())
            .collect();
        let Some(at) = self.rng.pick(&blank) else {
            return;
        };
        if self.head().stopping {
            return;
        }
        let (uuid, layout) = (self.uuid(), self.disks[at].layout);
        let head = self.head();
        let free = |copy: &u32| head.core.is_free(*copy) && head.meta.place(*copy).is_none();
        let Some(copy) = (0..16).find(free) else {
            return;
        };
        let place = Place {
            uuid,
            layout,
            seen: 0,
            b_first: false,
        };
        head.meta.join(copy, place, "").expect("it was sealed");
        assert!(head.core.add(copy));
        head.disks[copy as usize] = Some(at);
        self.tally.added += 1;
        self.disks[at].lost = false;
        tell!(self, "{} is added as copy {copy}", self.disks[at].name);
    }

    fn remove(&mut self) {
        let copies: Vec<u32> = each(self.head().core.members()).collect();
        let head = self.head();
        if copies.len() < 3 || head.stopping {
            return;
        }
        let Some(copy) = self.rng.pick(&copies) else {
            return;
        };
        if self.head().remove(copy) {
            tell!(self, "copy {copy} is removed");
            self.unsee();
            self.tally.removed += 1;
        }
    }

    /// A copy of a disk is made; or put back, if that can be found out.
    fn backup(&mut self) {
        let Some((at, old)) = self.backup.take() else {
            let at = self.rng.below(self.disks.len() as u64) as usize;
            let mut copy = self.disks[at].clone();
            copy.lose_power(&mut self.rng);
            self.backup = Some((at, copy));
            return;
        };
        let members = self.members();
        let old_blocks = old.superblocks();
        let Ok(truth) = self.judge(&members, &[], false) else {
            return;
        };
        let Ok(own) = newest(&old_blocks) else { return };
        let reference = truth.reference();
        let known = Superblock::open(&reference).expect("it was sealed");
        let seen = known.find(own.node()).map_or(0, |(_, entry)| entry.seen);
        let away = truth.roles.contains(&(at, Role::Heal)) && !self.disks[at].up;
        // The last copy is waited for, not looked at, even if a crash would leave it behind: it is not to be changed meanwhile.
        let waits = self.head.as_ref().is_some_and(|head| {
            let attached = |copy| head.core.attached() & bit(copy) != 0;
            head.copy_of(at).is_some_and(attached)
        });
        let noticed = self.disks[at].noticed && !waits;
        if away && own.generation() < seen && noticed && !self.is_given_up(at) {
            tell!(self, "an old copy of {} is put back", self.disks[at].name);
            let changes = self.disks[at].changes;
            self.disks[at] = old;
            self.disks[at].changes = changes + 1;
            self.disks[at].put_back = true;
            self.disks[at].up = false;
            self.disks[at].noticed = true;
        }
    }

    /// The user does not want to wait for disks any more.
    fn give_up_waiting(&mut self) {
        if let Some(at) = self.some_disk(false) {
            if self.disks[at].noticed || !self.disks[at].lost {
                self.fail(at);
            }
        }
    }

    /// Nothing goes wrong any more: all must come to rest, healed and equal.
    pub(super) fn come_to_rest(&mut self) {
        tell!(self, "nothing goes wrong any more");
        for step in 0.. {
            assert!(step < REST, "it does not come to rest");
            self.step += 1;
            if self.head.is_none() {
                self.disks.iter_mut().for_each(|disk| disk.up = true);
                assert!(self.start(false));
            }
            if step % 64 == 0 {
                self.look();
                self.disks.iter_mut().for_each(|disk| disk.up = true);
                self.returning();
                self.remove_unborn();
                for copy in 0..16 {
                    self.head().core.resume(copy);
                }
            }
            self.some_disk_acts();
            self.some_answer();
            self.serve();
            self.job();
            self.heal();
            if self.rng.chance(100) {
                self.time();
            }
            self.end_if_stopped();
            let Some(head) = &self.head else { continue };
            let whole = head.core.in_sync() == head.core.members();
            let there = each(head.core.members()).all(|copy| head.disks[copy as usize].is_some());
            if whole && there && head.is_idle() && self.ops.is_empty() && !head.stopping {
                break;
            }
        }
        self.check_whole();
        self.head().stopping = true;
        self.head().core.stop();
        for step in 0.. {
            assert!(step < REST, "it does not end");
            self.some_disk_acts();
            self.some_answer();
            self.serve();
            self.job();
            // A piece may wait to be told that nobody wants it any more.
            self.heal();
            if self.rng.chance(100) {
                self.time();
            }
            self.end_if_stopped();
            if self.head.is_none() {
                break;
            }
        }
        assert!(self.start(false));
        assert_eq!(self.head().core.in_sync(), self.head().core.members());
        self.check_whole();
    }
}
