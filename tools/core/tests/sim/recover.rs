// SPDX-License-Identifier: GPL-2.0

//! A storage is made; a head crashes, and another one starts with what it finds.

use dst_core::{
    alg_mirror::{
        bit,
        Config,
        Mask, //
    },
    meta::{
        head::{
            Head as Meta,
            Place, //
        },
        log::{
            Found as FoundLog,
            LogBlock, //
        },
        superblock::{
            Entry,
            New,
            NodeState,
            Superblock, //
        },
        verdict::{
            judge,
            Found,
            Refusal,
            Role,
            Wish, //
        },
        Block,
        Uuid, //
    },
};

use super::{
    disk::{
        empty,
        newest, //
    },
    head::{
        core,
        Core,
        REQUESTS, //
    },
    tell,
    Head,
    World, //
};

/// What a start found out.
pub(super) struct Judged {
    pub(super) roles: Vec<(usize, Role)>,
    reference: Box<Block>,
    source: usize,
    unclean: bool,
    degraded: bool,
    generation: u64,
    epoch: u64,
    /// Data ids that some have, and the reference not yet.
    ahead: Vec<Uuid>,
}

impl Judged {
    /// The superblock that is believed.
    pub(super) fn reference(&self) -> Box<Block> {
        self.reference.clone()
    }

    fn data(&self) -> Uuid {
        Superblock::open(&self.reference)
            .expect("it was sealed")
            .data()
    }
}

impl World {
    /// A new storage on the first disks.
    pub(super) fn make(&mut self) {
        let copies = 2 + self.rng.below(2) as usize;
        let mut block = empty();
        let new = New {
            storage: self.uuid(),
            name: "sim",
            alg: "alg_mirror",
            created: 1,
            block_size: 512,
            sectors: self.shape.sectors,
            log: Some(self.shape.log),
            data: self.uuid(),
        };
        let superblock = Superblock::blank(&mut block, &new).expect("the names are short");
        for index in 0..copies as u32 {
            let entry = Entry {
                uuid: self.uuid(),
                start: 0,
                size: self.shape.sectors,
                seen: superblock.generation(),
                state: NodeState::InSync,
            };
            superblock.set_entry(index, &entry);
        }
        let layout = self.disks[0].layout;
        for (index, disk) in (0..).zip(&mut self.disks[..copies]) {
            for at in 0..self.shape.log.blocks {
                for sequence in 0..2 {
                    let mut bytes = empty();
                    LogBlock::blank(&mut bytes, at, sequence, 1).seal(&superblock.storage());
                    let sector = layout.slot(at, sequence).expect("it is there");
                    disk.write_block(sector, &bytes, 0xff);
                }
            }
            let uuid = superblock.entry(index).expect("it was set").uuid;
            superblock.address(index, uuid, layout.sectors);
            superblock.seal();
            disk.write_block(layout.superblock_b(), superblock.block(), 0xff);
            disk.write_block(layout.superblock_a(), superblock.block(), 0xff);
        }
        assert!(self.start(false));
    }

    /// Disks that say they belong to the storage.
    pub(super) fn members(&self) -> Vec<usize> {
        let has = |disk: &usize| self.disks[*disk].says.is_some();
        (0..self.disks.len()).filter(has).collect()
    }

    /// What a start with these disks would find; without those that the storage does not know any more.
    pub(super) fn judge(
        &self,
        disks: &[usize],
        discard: &[usize],
        degraded: bool,
    ) -> Result<Judged, String> {
        let mut disks = disks.to_vec();
        let mut discard: Vec<usize> = discard.to_vec();
        discard.extend((0..self.disks.len()).filter(|disk| self.is_given_up(*disk)));
        let named = |name: &str| self.disks.iter().position(|disk| disk.name == name);
        loop {
            let blocks: Vec<[Box<Block>; 2]> = disks
                .iter()
                .map(|disk| self.disks[*disk].superblocks())
                .collect();
            let found: Vec<Found<'_>> = disks
                .iter()
                .zip(&blocks)
                .map(|(disk, blocks)| Found {
                    name: self.disks[*disk].name,
                    sectors: self.disks[*disk].layout.sectors,
                    superblock: newest(blocks),
                    discard: discard.contains(disk),
                })
                .collect();
            let wish = Wish {
                name: "sim",
                degraded,
            };
            let assembly = match judge(&found, &wish) {
                Ok(assembly) => assembly,
                Err(Refusal::Removed { name, .. }) => {
                    disks.retain(|disk| Some(*disk) != named(name));
                    continue;
                }
                Err(Refusal::Needless { name }) => {
                    discard.retain(|disk| Some(*disk) != named(name));
                    continue;
                }
                // Two crashes that each leave a superblock on some copies alone can look like this; but a copy that
                // does not count itself as complete can be given up.
                Err(Refusal::Conflict { name, other, .. }) => {
                    let mut both = [named(name), named(other)].into_iter().flatten();
                    let needless = |at: &usize| !discard.contains(at) && !self.is_complete(*at);
                    match both.find(needless) {
                        Some(at) => discard.push(at),
                        None => return Err(format!("{name} and {other} are in conflict")),
                    }
                    continue;
                }
                Err(why) => return Err(why.to_string()),
            };
            let roles = disks.iter().zip(&found);
            let mut reference = empty();
            assembly.reference.copy_to(&mut reference);
            return Ok(Judged {
                roles: roles
                    .map(|(disk, found)| (*disk, assembly.role(found)))
                    .collect(),
                reference,
                source: disks[assembly.source],
                unclean: assembly.unclean,
                degraded: assembly.degraded,
                generation: assembly.generation,
                epoch: assembly.epoch,
                ahead: found
                    .iter()
                    .filter_map(|found| assembly.ahead(found))
                    .collect(),
            });
        }
    }

    /// Whether a disk holds what was written to it alone.
    pub(super) fn is_given_up(&self, disk: usize) -> bool {
        let says = self.disks[disk].says;
        says.is_some_and(|says| self.given_up.contains(&(disk, says.data)))
    }

    /// Whether a disk says of itself that it has all.
    pub(super) fn is_complete(&self, disk: usize) -> bool {
        self.disks[disk].says.is_some_and(|says| says.complete)
    }

    /// The head is gone; what is under way gets through, or not, or in part.
    pub(super) fn crash(&mut self) {
        tell!(self, "crash");
        self.tally.crashes += 1;
        if let Some(head) = &self.head {
            let first = head.core.in_sync() & !head.core.suspended();
            self.first = head.disks[first.trailing_zeros().min(15) as usize];
        }
        self.end_head();
        for at in 0..self.ops.len() {
            if !self.ops[at].applied {
                self.tear(at);
            }
        }
        self.ops.clear();
    }

    fn end_head(&mut self) {
        if let Some(head) = self.head.take() {
            let counters = head.core.counters();
            self.tally.healed += counters.healed;
            self.tally.rescued += counters.rescued;
            self.tally.rewritten += counters.rewritten;
        }
    }

    /// It was ended cleanly.
    pub(super) fn stopped(&mut self) {
        tell!(self, "stopped");
        self.tally.stops += 1;
        self.first = None;
        self.end_head();
        assert!(self.ops.is_empty(), "something is under way after the end");
        let judged = self.judge(&self.members(), &[], false);
        assert!(
            !judged.is_ok_and(|judged| judged.unclean),
            "it was a clean end"
        );
    }

    /// Starts with the disks that are up; gives whether it could.
    pub(super) fn start(&mut self, degraded: bool) -> bool {
        let members = self.members();
        let up: Vec<usize> = members
            .iter()
            .copied()
            .filter(|disk| self.disks[*disk].up && (!degraded || self.rng.chance(600)))
            .collect();
        let truth = match self.judge(&members, &[], false) {
            Ok(truth) => truth,
            Err(why) => {
                self.show();
                panic!("all disks, and no storage: {why}");
            }
        };
        let complete = |disk: usize| truth.roles.contains(&(disk, Role::InSync));
        for (disk, role) in &truth.roles {
            if self.disks[*disk].put_back {
                continue;
            }
            if *role != Role::InSync && self.judge(&[*disk], &[], false).is_ok() {
                self.show();
            }
            assert!(
                *role == Role::InSync || self.judge(&[*disk], &[], false).is_err(),
                "{} is not in sync, and can be started alone",
                self.disks[*disk].name
            );
        }
        // Nobody starts with nothing but an old copy of a disk.
        if !up.iter().any(|disk| complete(*disk))
            && up.iter().any(|disk| self.disks[*disk].put_back)
        {
            return false;
        }
        // Without any that is in sync the user would lose what was acknowledged.
        if degraded && !up.iter().any(|disk| complete(*disk)) {
            return false;
        }
        let judged = match self.judge(&up, &[], degraded) {
            Ok(judged) => judged,
            Err(why) => {
                tell!(self, "can't start with {up:?}: {why}");
                assert!(up.len() < members.len(), "all disks, and no storage: {why}");
                self.tally.waits_for_nodes += 1;
                return false;
            }
        };
        assert!(
            complete(judged.source),
            "{} is believed, and is not in sync",
            self.disks[judged.source].name
        );
        tell!(
            self,
            "start with {:?}, source {}",
            judged.roles,
            judged.source
        );
        if judged.unclean {
            if self.disks[judged.source].lost {
                let disk = &self.disks[judged.source];
                self.oracle.lose(|sector| disk.view(sector));
            }
            if self.first != Some(judged.source) || self.disks.iter().any(|disk| disk.lost) {
                self.oracle.seen.fill(0);
            }
        }
        for (disk, role) in &judged.roles {
            // Others in sync may be believed yet if this start does not get far.
            if *role != Role::InSync || *disk == judged.source {
                self.disks[*disk].lost = false;
            }
        }
        let head = self.assemble(&judged, false);
        self.head = Some(head);
        for disk in &mut self.disks {
            disk.forgot = false;
        }
        self.tally.starts += 1;
        true
    }

    pub(super) fn assemble(&mut self, judged: &Judged, stray: bool) -> Head {
        let reference = Superblock::open(&judged.reference).expect("it was sealed");
        let mut meta = Meta::new(reference, empty(), empty());
        let ahead = meta.begin(
            judged.generation,
            judged.epoch,
            judged.ahead.iter().copied(),
        );
        let ahead = ahead.expect("it was sealed");
        let mut config = Config {
            sectors: self.shape.sectors,
            region_shift: self.shape.log.region_shift,
            per_block: self.shape.per_block,
            in_sync: 0,
            healing: 0,
            missing: 0,
            degraded: judged.degraded,
        };
        let mut all: Mask = 0;
        let mut source = None;
        let mut disks = [None; 16];
        for (disk, role) in &judged.roles {
            let blocks = self.disks[*disk].superblocks();
            let own = newest(&blocks).expect("it was judged");
            let (copy, _) = reference.find(own.node()).expect("it is known");
            match role {
                Role::InSync => config.in_sync |= bit(copy),
                Role::Heal | Role::Spare => config.healing |= bit(copy),
                Role::HealAll => {
                    config.healing |= bit(copy);
                    all |= bit(copy);
                }
            }
            if *disk == judged.source {
                source = Some(copy);
            }
            let layout = self.disks[*disk].layout;
            let (a, b) = (Some(&*blocks[0]), Some(&*blocks[1]));
            meta.places[copy as usize] = Some(Place::found(own.node(), layout, a, b));
            disks[copy as usize] = Some(*disk);
        }
        let members = reference
            .entries()
            .fold(0, |members, (copy, _)| members | bit(copy));
        config.missing = members & !config.in_sync & !config.healing;
        config.degraded |= config.missing != 0 || ahead;
        let mut core = core(&self.shape, &config);
        self.load(judged, &mut core);
        core.begin(source.filter(|_| judged.unclean), all);
        Head {
            core,
            meta,
            disks,
            requests: (0..REQUESTS).map(|_| None).collect(),
            doing: None,
            next: None,
            known: members,
            stray,
            stopping: false,
        }
    }

    /// Reads the logs: of the copies in sync, the newest of each block.
    fn load(&self, judged: &Judged, core: &mut Core) {
        let storage = Superblock::open(&judged.reference)
            .expect("it was sealed")
            .storage();
        for block in 0..self.shape.log.blocks {
            let first = block as usize * self.shape.per_block;
            let mut found = FoundLog::default();
            for (disk, role) in &judged.roles {
                let disk = &self.disks[*disk];
                let slot =
                    |sequence| disk.block(disk.layout.slot(block, sequence).expect("it is there"));
                let slots = [slot(0), slot(1)];
                let slots = [&*slots[0], &*slots[1]];
                let in_sync = *role == Role::InSync;
                if let Some(taken) = found.take(slots, &storage, block, in_sync) {
                    for at in 0..self.shape.per_block {
                        core.load(first + at, taken.entry(at));
                    }
                }
            }
            if found.doubt() != 0 {
                for at in 0..self.shape.per_block {
                    core.load_more(first + at, found.doubt());
                }
            }
            core.load_sequence(block as usize, found.sequence());
        }
    }

    /// Tells what the superblocks say.
    pub(super) fn show(&self) {
        for disk in &self.disks {
            for block in &disk.superblocks() {
                tell!(self, "{}: {}", disk.name, shown(block));
            }
        }
    }

    /// A bit of a slot of the log flips, on whichever disk: nobody notices before the next start.
    pub(super) fn flip_log(&mut self) {
        let members = self.members();
        let Some(at) = self.rng.pick(&members) else {
            return;
        };
        let block = self.rng.below(u64::from(self.shape.log.blocks)) as u32;
        let slot = self.disks[at].layout.slot(block, self.rng.below(2));
        tell!(self, "a bit of the log of {} flips", self.disks[at].name);
        self.tally.log_flips += 1;
        self.disks[at].flip(slot.expect("it is there"), &mut self.rng);
    }

    /// A bit of one superblock flips: another one must do.
    pub(super) fn flip(&mut self) {
        let members = self.members();
        let Some(at) = self.rng.pick(&members) else {
            return;
        };
        let blocks = self.disks[at].superblocks();
        if blocks.iter().any(|block| Superblock::open(block).is_err()) {
            return;
        }
        let generation = |at: usize| Superblock::open(&blocks[at]).map(Superblock::generation);
        if generation(0) != generation(1) {
            return;
        }
        self.tally.flips += 1;
        let layout = self.disks[at].layout;
        let sector = match self.rng.chance(500) {
            true => layout.superblock_a(),
            false => layout.superblock_b(),
        };
        tell!(self, "a bit of {} flips", self.disks[at].name);
        self.disks[at].flip(sector, &mut self.rng);
    }

    /// Somebody starts a copy alone that is not in sync, and writes to it. That must show when all are there again.
    pub(super) fn split(&mut self) {
        let members = self.members();
        let Ok(truth) = self.judge(&members, &[], false) else {
            return;
        };
        let mut old = truth.roles.iter().filter(|(_, role)| *role != Role::InSync);
        let Some((disk, _)) = old.next().copied() else {
            return;
        };
        if self.is_given_up(disk) || truth.roles.len() < members.len() {
            return;
        }
        // Its own superblock may know better.
        let Ok(judged) = self.judge(&[disk], &[], true) else {
            return;
        };
        tell!(self, "{} is started alone", self.disks[disk].name);
        let before = judged.data();
        let head = self.assemble(&judged, true);
        self.head = Some(head);
        for _ in 0..self.rng.below(60) {
            self.stray_event();
        }
        self.crash();
        self.disks[disk].lost = false;
        self.trusted = None;
        // Perhaps that of a life before this one, which was cut off, and whose rest came now.
        let after = self.disks[disk].says.map_or(before, |says| says.data);
        if before == after {
            // It had written nothing yet.
            return;
        }
        self.tally.splits += 1;
        assert!(
            self.judge(&members, &[], false).is_err(),
            "{} was written to alone, and nobody minds",
            self.disks[disk].name
        );
        self.given_up.push((disk, after));
        if let Err(why) = self.judge(&members, &[], false) {
            self.show();
            panic!(
                "{} is given up, and no storage is left: {why}",
                self.disks[disk].name
            );
        }
    }
}

pub(super) fn shown(block: &Block) -> String {
    match Superblock::open(block) {
        Err(damage) => damage.to_string(),
        Ok(own) => {
            let past: Vec<String> = own
                .history()
                .map(|past| format!("{:.4}..{}", past.data.to_string(), past.until))
                .collect();
            let entries: Vec<String> = own
                .entries()
                .map(|(index, entry)| format!("{index} {:?} {}", entry.state, entry.seen))
                .collect();
            let (data, generation) = (own.data().to_string(), own.generation());
            format!("{generation} {data:.4} {past:?} {entries:?}")
        }
    }
}
