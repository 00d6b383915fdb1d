// SPDX-License-Identifier: GPL-2.0

//! A node of a linear storage takes the place of another one: what the verdict makes of what a crash leaves, at each
//! moment of the switch, and of its way back. The order of the writes is that of `linear/replace.rs`.

mod nodes;

use dst_core::meta::{
    superblock::*,
    Damage, //
};

use nodes::*;

/// The node that is replaced, and the one that takes its place: nodes of [`Switch`].
const OLD: usize = 0;
const NEW: usize = 3;

/// A storage that runs: three nodes, and a blank one.
struct Switch {
    disks: Vec<Disk>,
    memory: Disk,
    seen: [u64; 4],
}

/// What can be assembled at a moment.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// With the old node.
    old: Result<(), String>,
    /// With the new one.
    new: Result<(), String>,
}

fn is_whole(disks: &[Disk]) -> Result<(), String> {
    verdict(disks, false).map(|(roles, ..)| {
        assert!(roles
            .iter()
            .all(|role| *role == dst_core::meta::verdict::Role::InSync));
    })
}

impl Switch {
    fn new() -> Self {
        let mut disks = linear().to_vec();
        let memory = disks[OLD].clone();
        disks.push(memory.clone().named("/dev/n").damaged(Damage::NoMagic));
        let mut this = Self {
            disks,
            memory,
            seen: [1, 1, 1, 0],
        };
        // It starts.
        this.change(|own| own.rename_data(uuid(101)));
        for _ in 0..2 {
            this.round(&[0, 1, 2], &mut |_| {});
        }
        this
    }

    fn change(&mut self, change: impl FnOnce(&mut Superblock)) {
        self.memory = self.memory.clone().with(change);
    }

    fn uuid(at: usize) -> dst_core::meta::Uuid {
        uuid(10 + at as u8)
    }

    /// The next generation goes to these nodes, one after the other; `look` sees what each write leaves.
    fn round(&mut self, order: &[usize], look: &mut impl FnMut(&Self)) {
        let seen = self.seen;
        let places: Vec<(usize, u32)> = order.iter().map(|at| (*at, place(*at))).collect();
        self.change(|own| {
            own.bump();
            own.set_running(true);
            for (at, index) in &places {
                own.set_seen(*index, seen[*at]).unwrap();
            }
        });
        let generation = self.superblock(&self.memory).generation();
        for (at, index) in places {
            let sealed = self
                .memory
                .clone()
                .with(|own| own.address(index, Self::uuid(at), SECTORS));
            self.disks[at].block = sealed.block;
            self.seen[at] = generation;
            look(self);
        }
    }

    fn superblock<'a>(&self, disk: &'a Disk) -> &'a Superblock {
        Superblock::open(disk.block.as_ref().unwrap()).unwrap()
    }

    /// The table names another node in the first place.
    fn exchange(&mut self, to: usize, data: u8) {
        let seen = self.seen[to];
        self.change(|own| {
            let entry = Entry {
                uuid: Self::uuid(to),
                seen,
                ..own.entry(0).unwrap()
            };
            own.set_entry(0, &entry).unwrap();
            own.set_label(0, if to == OLD { "a" } else { "n" }).unwrap();
            own.address(0, Self::uuid(to), SECTORS);
            own.rename_data(uuid(data));
        });
    }

    fn erase(&mut self, at: usize) {
        self.disks[at].block = Err(Damage::NoMagic);
    }

    fn with(&self, one: usize) -> Vec<Disk> {
        [one, 1, 2].map(|at| self.disks[at].clone()).to_vec()
    }

    fn found(&self) -> Found {
        Found {
            old: is_whole(&self.with(OLD)),
            new: is_whole(&self.with(NEW)),
        }
    }

    /// The storage is started with one of the two.
    fn start(&mut self, with: usize) {
        let newest = self.with(with);
        let newest = newest
            .iter()
            .max_by_key(|disk| self.superblock(disk).generation())
            .unwrap();
        self.memory = newest.clone();
        let data: Vec<_> = self
            .with(with)
            .iter()
            .map(|d| self.superblock(d).data())
            .collect();
        if data.iter().all(|one| *one == data[0]) {
            self.change(|own| own.rename_data(uuid(150)));
        }
        for at in [with, 1, 2] {
            self.seen[at] = self.superblock(&self.disks[at]).generation();
        }
        for _ in 0..2 {
            self.round(&[with, 1, 2], &mut |_| {});
        }
    }

    fn copy(&self) -> Self {
        Self {
            disks: self.disks.clone(),
            memory: self.memory.clone(),
            seen: self.seen,
        }
    }
}

/// A node's place in the table.
fn place(at: usize) -> u32 {
    match at {
        NEW => 0,
        at => at as u32,
    }
}

/// Neither is lost, and only one of them once the other one has been started.
fn check_start(switch: &Switch) {
    for (with, other) in [(OLD, NEW), (NEW, OLD)] {
        if is_whole(&switch.with(with)).is_ok() {
            let mut started = switch.copy();
            started.start(with);
            assert_eq!(is_whole(&started.with(with)), Ok(()));
            let sentence = is_whole(&started.with(other)).unwrap_err();
            let name = &started.disks[other].name;
            assert!(
                sentence.contains(name) || sentence.contains("put back"),
                "{sentence}"
            );
        }
    }
}

/// All moments of a switch, and of a way back; `true`: with the old node it is whole, with the new one.
fn moments(switch: &mut Switch, order: &[usize], to: usize, data: u8) -> Vec<(bool, bool)> {
    let mut moments = Vec::new();
    switch.exchange(to, data);
    for _ in 0..2 {
        switch.round(order, &mut |now| {
            let found = now.found();
            moments.push((found.old.is_ok(), found.new.is_ok()));
            check_start(now);
            // Named together with the others, one of the two is refused, and named.
            let all = is_whole(&now.disks).unwrap_err();
            assert!(all.contains("/dev/a") || all.contains("/dev/n"), "{all}");
        });
    }
    moments
}

#[test]
fn the_switch() {
    let mut switch = Switch::new();
    let before = switch.found();
    assert_eq!(before.old, Ok(()));
    assert!(before
        .new
        .unwrap_err()
        .starts_with("/dev/n: there is no superblock"));
    let found = moments(&mut switch, &[NEW, 1, 2], NEW, 102);
    let both = (true, true);
    let new = (false, true);
    assert_eq!(found, [both, new, new, new, new, new]);
    let old = switch.found().old.unwrap_err();
    assert!(
        old.starts_with("/dev/a was removed from storage 'data' or replaced"),
        "{old}"
    );
    switch.erase(OLD);
    let old = switch.found().old.unwrap_err();
    assert!(old.starts_with("/dev/a: there is no superblock"), "{old}");
    // Of the moment before the switch, on one of the others: that is known.
    let before = Switch::new();
    switch.disks[1] = before.disks[1].clone();
    let back = switch.found().new.unwrap_err();
    assert!(back.starts_with("/dev/b holds older data"), "{back}");
}

#[test]
fn the_way_back() {
    // However far the switch has come.
    for written in 1..=6 {
        let mut switch = Switch::new();
        switch.exchange(NEW, 102);
        let mut cut = None;
        let mut count = 0;
        for _ in 0..2 {
            switch.round(&[NEW, 1, 2], &mut |now| {
                count += 1;
                if count == written {
                    cut = Some(now.copy());
                }
            });
        }
        let mut switch = cut.unwrap();
        if written == 6 {
            switch.erase(OLD);
        }
        let found = moments(&mut switch, &[OLD, 1, 2], OLD, 103);
        let after = switch.found();
        assert_eq!(after.old, Ok(()), "{written}");
        let new = after.new.unwrap_err();
        assert!(new.starts_with("/dev/n was removed"), "{new}");
        // There is always one that is the storage; the new one is it no more when all is written once.
        assert!(
            found.iter().all(|(old, new)| *old || *new),
            "{written}: {found:?}"
        );
        assert!(
            found[2..].iter().all(|found| *found == (true, false)),
            "{written}: {found:?}"
        );
        switch.erase(NEW);
        assert_eq!(switch.found().old, Ok(()));
    }
}

#[test]
fn a_storage_of_one_node() {
    // Until the old node is erased both are the storage, of the same moment.
    let mut switch = Switch::new();
    switch.change(|own| {
        for index in 1..3 {
            let empty = Entry {
                state: NodeState::Empty,
                ..own.entry(index).unwrap()
            };
            own.set_entry(index, &empty).unwrap();
        }
    });
    switch.round(&[OLD], &mut |_| {});
    let one = |switch: &Switch, at: usize| is_whole(&switch.disks[at..=at]);
    assert_eq!(one(&switch, OLD), Ok(()));
    switch.exchange(NEW, 102);
    for _ in 0..2 {
        switch.round(&[NEW], &mut |now| {
            assert_eq!((one(now, OLD), one(now, NEW)), (Ok(()), Ok(())));
            let both = [OLD, NEW].map(|at| now.disks[at].clone());
            let sentence = is_whole(&both).unwrap_err();
            assert!(sentence.starts_with("/dev/a was removed"), "{sentence}");
        });
    }
    switch.erase(OLD);
    assert!(one(&switch, OLD).is_err());
}
