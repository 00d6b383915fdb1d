// SPDX-License-Identifier: GPL-2.0

//! The driver: it does what the core wants, with requests that take their time.

use dst_core::{
    alg_mirror::{
        bit,
        each,
        heal::Piece,
        jobs::Job,
        overlap::Extent,
        write::{
            Begin,
            End, //
        },
        Mask, //
    },
    meta::head::Back,
};

use super::{
    head::Request,
    sectors,
    tell,
    Op,
    What,
    World, //
};

impl World {
    pub(super) fn head(&mut self) -> &mut super::Head {
        self.head.as_mut().expect("there is a head")
    }

    pub(super) fn op(&mut self, copy: u32, what: What) {
        let disk = self.head().disks[copy as usize].expect("a copy is on a disk");
        self.ops.push(Op {
            disk,
            copy,
            what,
            applied: false,
            values: Vec::new(),
        });
    }

    /// A write, or with an empty extent a flush.
    pub(super) fn submit(&mut self, extent: Extent, fua: bool) {
        let Some(id) = self.head().free() else { return };
        let stray = self.head().stray;
        let (version, floor) = if extent.sectors() == 0 {
            (0, self.oracle.floor.clone())
        } else if stray {
            (self.oracle.last + 1, Vec::new())
        } else {
            self.tally.writes += 1;
            (self.oracle.submit(extent), Vec::new())
        };
        tell!(
            self,
            "request {id}: write {version} to {extent:?}, fua {fua}"
        );
        let head = self.head();
        head.requests[id as usize] = Some(Request {
            extent,
            version,
            fua,
            sent: false,
            left: 0,
            ok: 0,
            floor,
            excused: false,
        });
        if let Begin::Go(mask) = head.core.request_begin(id, extent) {
            self.send(id, mask);
        }
    }

    fn send(&mut self, id: u32, mask: Mask) {
        tell!(self, "request {id}: to {mask:#b}");
        // One that was removed meanwhile does not get it.
        let there = |copy: &u32| {
            self.head
                .as_ref()
                .is_some_and(|head| head.disks[*copy as usize].is_some())
        };
        let mask = each(mask)
            .filter(there)
            .fold(0, |mask, copy| mask | bit(copy));
        let request = self.head().requests[id as usize]
            .as_mut()
            .expect("it is there");
        assert_ne!(mask, 0, "a request goes nowhere");
        request.sent = true;
        request.left = mask.count_ones();
        request.ok = 0;
        let what = if request.extent.sectors() == 0 {
            What::Flush { id }
        } else {
            What::Write {
                id,
                extent: request.extent,
                version: request.version,
                fua: request.fua,
            }
        };
        for copy in each(mask) {
            self.op(copy, what.clone());
        }
    }

    /// A copy has done its part of a request, or not.
    fn request_part(&mut self, id: u32, copy: u32, ok: bool) {
        let head = self.head();
        let request = head.requests[id as usize].as_mut().expect("it is there");
        request.left -= 1;
        if ok {
            request.ok |= bit(copy);
        }
        if request.left != 0 {
            return;
        }
        let ok = request.ok;
        let end = head.core.request_end(id, ok);
        tell!(self, "request {id}: over, well on {ok:#b}: {end:?}");
        match end {
            End::Wait => {}
            end => self.answer(id, end == End::Ok),
        }
    }

    /// The request is over for who submitted it.
    fn answer(&mut self, id: u32, ok: bool) {
        tell!(self, "request {id}: answered {ok}");
        let request = self.head().requests[id as usize]
            .take()
            .expect("it is there");
        if self.head().stray {
            return;
        }
        if !ok {
            self.tally.failed += 1;
            return;
        }
        if request.extent.sectors() == 0 {
            self.tally.flushes += 1;
            self.check_flush(&request);
            self.oracle.flushed(&request.floor);
        } else {
            self.tally.acknowledged += 1;
            if request.excused {
                return;
            }
            self.check_write(&request);
            self.oracle
                .acknowledge(request.extent, request.version, request.fua);
        }
    }

    /// Sends what may go, answers what is over.
    pub(super) fn serve(&mut self) {
        while let Some((id, mask)) = self.head().core.next_ready() {
            self.send(id, mask);
        }
        while let Some((id, ok)) = self.head().core.next_ended() {
            self.answer(id, ok);
        }
    }

    pub(super) fn read(&mut self, extent: Extent) {
        let least = sectors(extent).map(|at| self.oracle.least(at)).collect();
        let begun = self.oracle.last;
        let requests = self.head().requests.iter().flatten();
        let waiting = requests.filter(|request| !request.sent);
        let what = What::Read {
            extent,
            least,
            begun,
            waiting: waiting.map(|request| request.version).collect(),
            tried: 0,
        };
        self.read_from_any(extent, 0, what);
    }

    fn read_from_any(&mut self, extent: Extent, tried: Mask, what: What) {
        let core = &mut self.head().core;
        let mask = match core.read_source(extent, tried) {
            // One that is away is waited for.
            0 => core.readable(extent) & core.away() & !core.suspended() & !tried,
            mask => mask,
        };
        let copies: Vec<u32> = each(mask).collect();
        // If all are suspended, or none could: it ends with an error.
        let Some(copy) = self.rng.pick(&copies) else {
            return;
        };
        self.op(copy, what);
    }

    /// Takes a job, and perhaps begins it later.
    pub(super) fn job(&mut self) {
        let head = self.head();
        if head.doing.is_none() && head.next.is_none() {
            let Some(job) = head.core.next_job() else {
                return;
            };
            head.next = Some(job);
            tell!(self, "job: {job:?}");
            if self.rng.chance(300) {
                return;
            }
        }
        let Some(job) = self.head().next.take() else {
            return;
        };
        self.begin_job(job);
    }

    fn begin_job(&mut self, job: Job) {
        let per_block = self.shape.per_block;
        let name = self.uuid();
        let layout = self.disks[0].layout;
        let copies = match job {
            Job::Log { copies, block } => {
                let head = self.head();
                let bytes = head.log_block(block, per_block);
                let sector = layout
                    .slot(block, head.core.sequence(block))
                    .expect("it is there");
                for copy in each(copies) {
                    let block = bytes.clone();
                    self.op(copy, What::Log { sector, block });
                }
                copies
            }
            Job::Superblock { copies, states } => {
                let next = self.head().meta.next(&states, || name);
                next.expect("it was sealed");
                for copy in each(copies) {
                    let block = self.head().superblock_of(copy);
                    let b_first = self.b_first(copy);
                    let sector = if b_first {
                        layout.superblock_b()
                    } else {
                        layout.superblock_a()
                    };
                    let second = false;
                    self.op(
                        copy,
                        What::Superblock {
                            sector,
                            block,
                            second,
                        },
                    );
                }
                copies
            }
            Job::Flush { copies } => {
                for copy in each(copies) {
                    self.op(copy, What::FlushJob);
                }
                copies
            }
        };
        assert_ne!(copies, 0, "a job for nobody");
        self.head().doing = Some(super::head::Doing {
            job,
            left: copies.count_ones(),
            ok: 0,
        });
    }

    fn b_first(&mut self, copy: u32) -> bool {
        let place = self.head().meta.place(copy);
        place.is_some_and(|place| place.b_first)
    }

    fn job_part(&mut self, copy: u32, ok: bool) {
        let head = self.head();
        let doing = head.doing.as_mut().expect("a job is being done");
        doing.left -= 1;
        if ok {
            doing.ok |= bit(copy);
        }
        if doing.left != 0 {
            return;
        }
        let (ok, job) = (doing.ok, doing.job);
        head.doing = None;
        let mut healed = Vec::new();
        if let Job::Superblock { copies, states } = job {
            head.meta.saw(ok);
            if states.in_sync & copies & !ok == 0 {
                head.known = states.in_sync | states.healing | states.missing;
                // What they lost is healed, or was: nobody believes them meanwhile.
                for copy in each(states.healing) {
                    healed.extend(head.disks[copy as usize]);
                }
            }
        }
        head.core.job_done(ok);
        for disk in healed {
            self.disks[disk].lost = false;
        }
        tell!(self, "job: done on {ok:#b}");
    }

    pub(super) fn heal(&mut self) {
        let Some(piece) = self.head().core.heal_next() else {
            return;
        };
        tell!(self, "heal: {piece:?}");
        let Piece {
            id,
            extent,
            from,
            to,
        } = piece;
        self.op(from, What::HealRead { id, extent, to });
    }

    fn heal_on(&mut self, id: u32, extent: Extent, rest: Mask, ok: Mask, values: Vec<u64>) {
        // One that was removed meanwhile does not get it.
        let head = self.head();
        let there = |copy: &u32| head.disks[*copy as usize].is_some();
        let Some(copy) = each(rest).find(there) else {
            tell!(self, "heal {id}: done on {ok:#b}");
            self.head().core.heal_done(id, true, ok);
            return;
        };
        let what = What::HealWrite {
            id,
            extent,
            rest: rest & !bit(copy),
            ok,
            values,
        };
        self.op(copy, what);
    }

    /// An answer has come.
    pub(super) fn complete(&mut self, at: usize, ok: bool) {
        let op = self.ops.remove(at);
        let copy = op.copy;
        match op.what {
            What::Write { id, .. } | What::Flush { id } => self.request_part(id, copy, ok),
            What::Read {
                extent,
                least,
                begun,
                waiting,
                tried,
            } => {
                if ok {
                    self.tally.reads += 1;
                    let bind = |version: u64| version <= begun && !waiting.contains(&version);
                    self.check_read(copy, extent, &least, bind, &op.values);
                    return;
                }
                let tried = tried | bit(copy);
                let others = self.head().core.read_failed(copy, extent);
                if others & !tried != 0 {
                    // What it finds does not bind later ones: they may go to the copy that failed again.
                    let what = What::Read {
                        extent,
                        least,
                        begun: 0,
                        waiting,
                        tried,
                    };
                    self.read_from_any(extent, tried, what);
                }
            }
            What::Superblock {
                sector,
                block,
                second: false,
            } if ok => {
                let layout = self.disks[0].layout;
                let sector = layout.superblock_a() + layout.superblock_b() - sector;
                let second = true;
                self.op(
                    copy,
                    What::Superblock {
                        sector,
                        block,
                        second,
                    },
                );
            }
            What::Superblock { sector, .. } => {
                if !ok {
                    if let Some(place) = &mut self.head().meta.places[copy as usize] {
                        place.failed(sector);
                    }
                }
                self.job_part(copy, ok);
            }
            What::Log { .. } | What::FlushJob => self.job_part(copy, ok),
            What::HealRead { id, extent, to } if ok => self.heal_on(id, extent, to, 0, op.values),
            What::HealRead { id, .. } => {
                tell!(self, "heal {id}: can't be read");
                self.head().core.heal_done(id, false, 0);
            }
            What::HealWrite {
                id,
                extent,
                rest,
                ok: had,
                values,
            } => {
                let had = if ok { had | bit(copy) } else { had };
                self.heal_on(id, extent, rest, had, values);
            }
        }
    }

    /// What is on its way to a disk fails.
    pub(super) fn fail(&mut self, disk: usize) {
        while let Some(at) = self.ops.iter().position(|op| op.disk == disk) {
            if !self.ops[at].applied {
                self.tear(at);
            }
            self.complete(at, false);
        }
    }

    /// The driver looks at disks: those that are lost leave, those that are back are looked at.
    pub(super) fn look(&mut self) {
        for disk in 0..self.disks.len() {
            let Some(copy) = self.head().copy_of(disk) else {
                continue;
            };
            let up = self.disks[disk].up;
            let core = &mut self.head().core;
            let attached = core.attached() & bit(copy) != 0;
            if !up {
                let left = !attached || core.leave(copy);
                core.set_away(copy, !left);
                self.disks[disk].noticed = true;
                self.disks[disk].forgot = false;
                if !left && self.disks[disk].lost {
                    tell!(self, "the last copy, {copy}, has lost its power");
                    self.lose(disk);
                }
                if left {
                    if attached {
                        tell!(self, "copy {copy} leaves");
                    }
                    self.tally.left += u64::from(attached);
                    self.fail(disk);
                }
                continue;
            }
            core.set_away(copy, false);
            let member = core.members() & bit(copy) != 0;
            if attached || !member || self.ops.iter().any(|op| op.disk == disk) {
                continue;
            }
            let blocks = self.disks[disk].superblocks();
            let back = self.head().look(copy, &blocks);
            tell!(self, "copy {copy} is back: {back:?}");
            if let Back::Refused(_) = back {
                // It left before it was told who it is: the user takes it out.
                // Or it has still what it was given up for.
                let known = super::disk::newest(&blocks).is_ok();
                let given_up = self.is_given_up(disk) || !self.is_complete(disk);
                if known && !given_up {
                    let own = super::recover::shown(self.head().superblock().block());
                    tell!(self, "the storage: {own}");
                    self.show();
                }
                assert!(!known || given_up, "copy {copy} is refused");
                assert!(self.head().remove(copy));
            } else {
                self.tally.back += 1;
                self.tally.back_all += u64::from(back == Back::All);
                // What it has lost is still lost: a crash may come before the superblocks say that it lacks something.
                self.head().core.back(copy, back == Back::All);
            }
        }
        self.forget();
    }

    /// What was not durable on a disk is lost, for all.
    fn lose(&mut self, disk: usize) {
        let disk = &mut self.disks[disk];
        disk.lost = false;
        self.oracle.lose(|sector| disk.view(sector));
        let floor = &self.oracle.floor;
        let head = self.head.as_mut().expect("there is a head");
        for request in head.requests.iter_mut().flatten() {
            // It may have been there already; nobody can tell.
            request.excused = !request.fua;
            for (mine, floor) in request.floor.iter_mut().zip(floor) {
                *mine = (*mine).min(*floor);
            }
        }
        self.unsee();
    }

    /// What was read may be read no more: reads under way, too, need only find what was acknowledged.
    pub(super) fn unsee(&mut self) {
        self.oracle.seen.fill(0);
        for op in &mut self.ops {
            if let What::Read {
                extent,
                least,
                begun,
                ..
            } = &mut op.what
            {
                // And what they find does not bind later ones.
                *begun = 0;
                for (at, least) in sectors(*extent).zip(least) {
                    *least = (*least).min(self.oracle.floor[at]);
                }
            }
        }
    }

    /// Copies that were removed go when nothing is on its way to them, and no superblock knows them any more.
    fn forget(&mut self) {
        for copy in 0..16 {
            let head = self.head();
            let Some(disk) = head.disks[copy as usize] else {
                continue;
            };
            let known = head.known | head.core.members();
            let busy = head.doing.is_some() || head.next.is_some();
            if known & bit(copy) != 0 || busy || self.ops.iter().any(|op| op.disk == disk) {
                continue;
            }
            tell!(self, "copy {copy} is forgotten");
            let head = self.head();
            head.disks[copy as usize] = None;
            head.meta.forget(copy);
            self.disks[disk].wipe();
        }
    }
}
