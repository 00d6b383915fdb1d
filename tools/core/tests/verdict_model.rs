// SPDX-License-Identifier: GPL-2.0

//! The verdict at assembly against a model: a mirror of three copies that lives through starts, losses,
//! healing, crashes in the middle of writing superblocks, splits, and disks put back from backups. Each
//! copy is the set of writes that it holds, so what is believed can be compared with what is true.

use std::collections::BTreeSet;

use dst_core::meta::{
    layout::Log,
    superblock::*,
    verdict::*,
    Block,
    Uuid,
    BLOCK, //
};
use proptest::prelude::*;

const COPIES: usize = 3;
const NAMES: [&str; COPIES] = ["/dev/a", "/dev/b", "/dev/c"];

/// Writes, by number.
type Writes = BTreeSet<u32>;

/// What lies on one disk.
#[derive(Clone)]
struct Disk {
    superblock: Box<Block>,
    data: Writes,
    /// The log: for each copy the writes that it lacks.
    stale: [Writes; COPIES],
}

/// A storage that runs.
struct Head {
    master: Box<Block>,
    /// The log in memory.
    stale: [Writes; COPIES],
}

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    Write,
    /// A copy is lost; superblocks reach only those of the mask if a crash follows.
    Lose(usize, Option<u8>),
    /// A copy that was lost is there again.
    Back(usize),
    /// Everything is copied to a copy that heals; crash as above.
    Healed(usize, Option<u8>),
    Stop,
    Crash,
    /// The copies of the mask are named to be assembled.
    Start {
        mask: u8,
        degraded: bool,
        discard: u8,
    },
    /// Takes a backup of a disk, or puts it back.
    Backup(usize),
    Restore(usize),
}

fn block() -> Box<Block> {
    vec![0u8; BLOCK].try_into().unwrap()
}

struct World {
    disks: [Disk; COPIES],
    backups: [Option<Disk>; COPIES],
    head: Option<Head>,
    /// Numbers for writes and data ids.
    next: u32,
    /// Assemblies that were allowed, to see that the model gets anywhere.
    starts: u32,
}

impl World {
    fn new() -> Self {
        let mut master = block();
        let new = New {
            storage: Uuid::random([1; 16]),
            name: "data",
            alg: "alg_mirror",
            created: 0,
            block_size: 512,
            sectors: 2048,
            log: Log::for_array(4080),
            data: Uuid::random([2; 16]),
        };
        let this = Superblock::blank(&mut master, &new).unwrap();
        for index in 0..COPIES as u32 {
            let entry = Entry {
                uuid: Uuid::random([10 + index as u8; 16]),
                start: 0,
                size: 2048,
                seen: 1,
                state: NodeState::InSync,
            };
            this.set_entry(index, &entry).unwrap();
        }
        let disk = |index: usize| Disk {
            superblock: addressed(&master, index),
            data: Writes::new(),
            stale: Default::default(),
        };
        Self {
            disks: [disk(0), disk(1), disk(2)],
            backups: Default::default(),
            head: None,
            next: 1000,
            starts: 0,
        }
    }

    fn id(&mut self) -> Uuid {
        self.next += 1;
        let mut bytes = [7; 16];
        bytes[..4].copy_from_slice(&self.next.to_le_bytes());
        Uuid::random(bytes)
    }

    /// Changes the superblock on all copies of the set, or crashes before some have it.
    fn superblock(&mut self, crash: Option<u8>, change: impl FnOnce(&mut Superblock)) {
        let Some(mut head) = self.head.take() else {
            return;
        };
        let master = view(&mut head.master);
        change(master);
        master.bump();
        master.seal();
        let held: Vec<usize> = (0..COPIES).filter(|copy| active(master, *copy)).collect();
        for copy in &held {
            if crash.is_none_or(|mask| mask & (1 << copy) != 0) {
                self.disks[*copy].superblock = addressed(&head.master, *copy);
            }
        }
        if crash.is_none() {
            let master = view(&mut head.master);
            let generation = master.generation();
            for copy in held {
                master.set_seen(copy as u32, generation).unwrap();
            }
            self.head = Some(head);
        }
    }

    fn happen(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match *event {
            Event::Write => self.write(),
            Event::Lose(copy, crash) => {
                let id = self.id();
                let Some(head) = &mut self.head else {
                    return Ok(());
                };
                let master = view(&mut head.master);
                let was = state(master, copy);
                let others = (0..COPIES).filter(|c| *c != copy);
                let left = others
                    .filter(|c| state(master, *c) == NodeState::InSync)
                    .count();
                if left > 0 && active(master, copy) {
                    self.superblock(crash, |master| {
                        master.set_state(copy as u32, NodeState::Missing).unwrap();
                        if was == NodeState::InSync {
                            master.rename_data(id);
                        }
                    });
                }
            }
            Event::Back(copy) => {
                let Some(head) = &mut self.head else {
                    return Ok(());
                };
                if state(view(&mut head.master), copy) == NodeState::Missing {
                    self.stop(true);
                    self.start(7, false, 0)?;
                }
            }
            Event::Healed(copy, crash) => {
                let Some(head) = &mut self.head else {
                    return Ok(());
                };
                let master = view(&mut head.master);
                if state(master, copy) != NodeState::Healing {
                    return Ok(());
                }
                let source = (0..COPIES).find(|c| state(master, *c) == NodeState::InSync);
                let source = self.disks[source.unwrap()].data.clone();
                // Only what the log says is copied.
                let stale = std::mem::take(&mut head.stale[copy]);
                for write in stale {
                    let there = source.contains(&write);
                    let data = &mut self.disks[copy].data;
                    let _ = if there {
                        data.insert(write)
                    } else {
                        data.remove(&write)
                    };
                }
                self.log();
                // A copy needs the whole log before it is one in sync.
                if let Some(head) = &self.head {
                    self.disks[copy].stale = head.stale.clone();
                }
                self.superblock(crash, |master| {
                    master.set_state(copy as u32, NodeState::InSync).unwrap();
                });
            }
            Event::Stop => self.stop(true),
            Event::Crash => self.head = None,
            Event::Start {
                mask,
                degraded,
                discard,
            } => {
                if self.head.is_none() {
                    self.start(mask, degraded, discard)?;
                }
            }
            Event::Backup(copy) => {
                if self.head.is_none() {
                    self.backups[copy] = Some(self.disks[copy].clone());
                }
            }
            Event::Restore(copy) => {
                if let (None, Some(disk)) = (&self.head, &self.backups[copy]) {
                    // A backup as old as what is there can't be told from it.
                    let generation =
                        |disk: &Disk| Superblock::open(&disk.superblock).unwrap().generation();
                    if generation(disk) + 1 < generation(&self.disks[copy]) {
                        self.disks[copy] = disk.clone();
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts the log on the copies in sync.
    fn log(&mut self) {
        let Some(head) = &mut self.head else { return };
        let master = view(&mut head.master);
        for copy in 0..COPIES {
            if state(master, copy) == NodeState::InSync {
                self.disks[copy].stale = head.stale.clone();
            }
        }
    }

    fn write(&mut self) {
        self.next += 1;
        let Some(head) = &mut self.head else { return };
        let master = view(&mut head.master);
        for copy in 0..COPIES {
            if active(master, copy) {
                self.disks[copy].data.insert(self.next);
            } else {
                head.stale[copy].insert(self.next);
            }
        }
        self.log();
    }

    fn stop(&mut self, clean: bool) {
        self.log();
        self.superblock(None, |master| master.set_running(!clean));
        self.head = None;
    }

    fn start(&mut self, mask: u8, degraded: bool, discard: u8) -> Result<(), TestCaseError> {
        let disks = self.disks.clone();
        let here: Vec<usize> = (0..COPIES).filter(|c| mask & (1 << c) != 0).collect();
        let found = |order: &[usize]| -> Vec<Found<'_>> {
            let found = order.iter().map(|copy| Found {
                name: NAMES[*copy],
                sectors: 4096,
                superblock: Superblock::open(&disks[*copy].superblock),
                discard: discard & (1 << copy) != 0,
            });
            found.collect()
        };
        let wish = Wish {
            name: "data",
            degraded,
        };
        let list = found(&here);
        let assembly = judge(&list, &wish);
        // The order does not matter.
        for turn in 1..here.len() {
            let mut order = here.clone();
            order.rotate_left(turn);
            let other = found(&order);
            match (judge(&other, &wish), &assembly) {
                (Ok(other), Ok(assembly)) => {
                    prop_assert_eq!(order[other.source], here[assembly.source]);
                    prop_assert_eq!(other.reference.node(), assembly.reference.node());
                }
                (Err(other), Err(refusal)) => {
                    prop_assert_eq!(other.to_string(), refusal.to_string());
                }
                _ => prop_assert!(false, "the order matters"),
            }
        }
        let Ok(assembly) = assembly else {
            return Ok(());
        };
        self.starts += 1;
        let mut head = Head {
            master: block(),
            stale: disks[here[assembly.source]].stale.clone(),
        };
        let source = &disks[here[assembly.source]].data;
        let everything: Writes = disks
            .iter()
            .flat_map(|disk| disk.data.iter().copied())
            .collect();
        let master = assembly.reference.copy_to(&mut head.master);
        for (at, copy) in here.iter().copied().enumerate() {
            let role = assembly.role(&list[at]);
            let own = Superblock::open(&disks[copy].superblock).unwrap();
            let data = &disks[copy].data;
            match role {
                Role::InSync => prop_assert_eq!(data, source, "{} is not in sync", NAMES[copy]),
                Role::Heal => {
                    // What the log does not name must be the same.
                    let differ: Writes = data.symmetric_difference(source).copied().collect();
                    prop_assert!(
                        differ.is_subset(&head.stale[copy]),
                        "{} won't heal",
                        NAMES[copy]
                    );
                }
                Role::HealAll => head.stale[copy] = everything.clone(),
                Role::Spare => prop_assert!(false),
            }
            let state = match role {
                Role::InSync => NodeState::InSync,
                _ => NodeState::Healing,
            };
            master.set_state(copy as u32, state).unwrap();
            master.set_seen(copy as u32, own.generation()).unwrap();
        }
        for copy in (0..COPIES).filter(|copy| !here.contains(copy)) {
            master.set_state(copy as u32, NodeState::Missing).unwrap();
        }
        while master.generation() < assembly.generation {
            master.bump();
        }
        self.head = Some(head);
        let id = self.id();
        // A copy that is not here may be an old image that was put back, and may be started alone, too.
        let degraded = assembly.degraded || here.len() < COPIES;
        self.log();
        self.superblock(None, |master| {
            master.set_running(true);
            if degraded {
                master.rename_data(id);
            }
        });
        // Once more, so that all know that all have it: only then may anything be written.
        self.superblock(None, |_| ());
        Ok(())
    }
}

/// The superblock in memory.
fn view(block: &mut Box<Block>) -> &mut Superblock {
    zerocopy::transmute_mut!(&mut **block)
}

/// A superblock as it is written to a copy.
fn addressed(master: &Block, copy: usize) -> Box<Block> {
    let mut own = Box::new(*master);
    let this = view(&mut own);
    this.address(copy as u32, Uuid::random([10 + copy as u8; 16]), 4096);
    this.seal();
    own
}

fn state(master: &Superblock, copy: usize) -> NodeState {
    master.entry(copy as u32).unwrap().state
}

/// Whether writes go to a copy.
fn active(master: &Superblock, copy: usize) -> bool {
    matches!(state(master, copy), NodeState::InSync | NodeState::Healing)
}

fn event() -> impl Strategy<Value = Event> {
    let copy = 0..COPIES;
    let crash = prop_oneof![3 => Just(None), 1 => (0u8..8).prop_map(Some)];
    let start = (
        prop_oneof![1u8..8, Just(7)],
        any::<bool>(),
        prop_oneof![3 => Just(0u8), 1 => 1u8..7],
    );
    prop_oneof![
        4 => Just(Event::Write),
        2 => (copy.clone(), crash.clone()).prop_map(|(copy, crash)| Event::Lose(copy, crash)),
        1 => copy.clone().prop_map(Event::Back),
        2 => (copy.clone(), crash).prop_map(|(copy, crash)| Event::Healed(copy, crash)),
        1 => Just(Event::Stop),
        1 => Just(Event::Crash),
        4 => start.prop_map(|(mask, degraded, discard)| Event::Start { mask, degraded, discard }),
        1 => copy.clone().prop_map(Event::Backup),
        1 => copy.prop_map(Event::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happened: copies that are believed to be in sync are equal, and what the log names is all
    /// that others lack.
    #[test]
    fn what_is_believed_is_true(events in prop::collection::vec(event(), 0..60)) {
        let mut world = World::new();
        for event in &events {
            world.happen(event)?;
        }
    }
}

#[test]
fn the_model_starts() {
    let mut world = World::new();
    let start = |mask, degraded, discard| Event::Start {
        mask,
        degraded,
        discard,
    };
    for event in [
        start(7, false, 0),
        Event::Write,
        Event::Lose(1, None),
        Event::Write,
        Event::Back(1),
        Event::Healed(1, None),
        Event::Stop,
        start(3, false, 0),
        start(3, true, 0),
        Event::Write,
        Event::Crash,
        start(4, true, 0),
        Event::Write,
        Event::Stop,
        start(7, false, 0),
        start(7, false, 4),
    ] {
        world.happen(&event).unwrap();
    }
    assert_eq!(world.starts, 5);
}
