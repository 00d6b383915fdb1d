// SPDX-License-Identifier: GPL-2.0

//! The verdict at assembly: what happens to nodes, and what must be said about them.

mod nodes;

use dst_core::meta::{
    layout::Log,
    superblock::*,
    verdict::*,
    Damage, //
};

use nodes::*;
use Role::{
    Heal,
    HealAll,
    InSync, //
};

#[test]
fn all_in_sync() {
    let (found, source, unclean, degraded) = verdict(&mirror(), false).unwrap();
    assert_eq!(found, [InSync; 3]);
    assert_eq!(
        (source.as_str(), unclean, degraded),
        ("/dev/a", false, false)
    );
    let found = verdict(&linear(), false).unwrap();
    assert_eq!((found.0, found.3), (vec![InSync; 3], false));
    // Not stopped cleanly, and one superblock was not written any more.
    let [a, b, c] = mirror();
    let run = |own: &mut Superblock| own.set_running(true);
    let found = verdict(&[a, b.after(run), c.after(run)], false).unwrap();
    assert_eq!((found.0, found.2), (vec![InSync; 3], true));
    let [a, b, c] = linear();
    let found = verdict(&[a.after(run), b, c], false).unwrap();
    assert_eq!((found.0, found.2), (vec![InSync; 3], true));
}

#[test]
fn one_is_behind() {
    let [a, b, c] = mirror();
    let gone = leave(1, 101);
    let later = [a.after(&gone), b, c.after(&gone)];
    assert_eq!(roles(&later), [InSync, Heal, InSync]);
    let [a, b, c] = later;
    // A crash came after the first superblock without it: the other one heals what was active.
    let [_, _, old] = mirror();
    assert_eq!(roles(&[a.clone(), b.clone(), old]), [InSync, Heal, Heal]);
    // Without it nothing is missing.
    let found = verdict(&[a.clone(), c.clone()], false).unwrap();
    assert_eq!((found.0, found.3), (vec![InSync; 2], false));
    // It alone would miss writes, and can't know it.
    assert_eq!(
        refused(&[b]),
        "missing: node 0 (last at a) and node 2 (last at c); data may be newer there: name all nodes, or \
         start without by --degraded"
    );
    // It came back, and heals.
    let heal = |own: &mut Superblock| {
        own.set_state(1, NodeState::Healing).unwrap();
    };
    let [_, b, _] = mirror();
    let [a, b, c] = [
        a.after(heal),
        b.after(leave(1, 101)).after(heal),
        c.after(heal),
    ];
    let healing = [a.clone(), b.clone(), c.clone()];
    assert_eq!(roles(&healing), [InSync, Heal, InSync]);
    // Now it knows that it is not complete.
    for degraded in [false, true] {
        assert_eq!(
            verdict(std::slice::from_ref(&b), degraded).unwrap_err(),
            "/dev/b lacks what was written while it was away; name node 0 (last at a) and node 2 (last at c) \
             too"
        );
    }
    // It was the first to be told that another one left: the others are still those to believe.
    let ahead = b.after(leave(2, 102));
    assert_eq!(roles(&[a, ahead, c]), [InSync, Heal, InSync]);
}

#[test]
fn healed() {
    let done = |own: &mut Superblock| {
        own.set_state(1, NodeState::InSync).unwrap();
    };
    let heal = |own: &mut Superblock| {
        leave(1, 101)(own);
        own.set_state(1, NodeState::Healing).unwrap();
    };
    let healing = mirror().map(|disk| disk.after(heal));
    // The superblock that says so is on any one of them, or on two. It is in sync when it says so itself: before that
    // nobody would believe it alone.
    for mask in 1..8 {
        let mut at = 0;
        let disks = healing.clone().map(|disk| {
            at += 1;
            if mask & (1 << (at - 1)) != 0 {
                disk.after(done)
            } else {
                disk
            }
        });
        let told = if mask & 2 != 0 { InSync } else { Heal };
        assert_eq!(roles(&disks), [InSync, told, InSync], "{mask}");
    }
}

#[test]
fn missing_nodes() {
    let [a, b, c] = mirror();
    assert_eq!(
        refused(&[a.clone(), c.clone()]),
        "missing: node 1 (last at b:10809); data may be newer there: name all nodes, or start without by \
         --degraded"
    );
    let found = verdict(&[c, a], true).unwrap();
    assert_eq!((found.0, found.3), (vec![InSync; 2], true));
    let found = verdict(&[b], true).unwrap();
    assert_eq!((found.1.as_str(), found.3), ("/dev/b", true));
    let [_, b, c] = linear();
    for degraded in [false, true] {
        assert_eq!(
            verdict(&[b.clone(), c.clone()], degraded).unwrap_err(),
            "missing: node 0 (last at a); the storage needs all of its nodes, name them all"
        );
    }
    assert_eq!(
        refused(&[]),
        "no node is named; name all nodes of the storage"
    );
}

#[test]
fn put_back() {
    // Copies that hold older superblocks than they are known to have held.
    let on = |own: &mut Superblock| {
        let generation = own.generation();
        (0..3).for_each(|index| own.set_seen(index, generation - 1).unwrap());
    };
    let [a, b, c] = mirror().map(|disk| disk.after(on).after(on).after(on));
    let [_, old, _] = mirror();
    assert_eq!(
        roles(&[a.clone(), old.clone(), c.clone()]),
        [InSync, HealAll, InSync]
    );
    // One generation behind is a crash.
    let [_, late, _] = mirror().map(|disk| disk.after(on).after(on));
    assert_eq!(roles(&[a.clone(), late, c.clone()]), [InSync; 3]);
    // The same of a copy that was known to be behind.
    let gone = leave(1, 101);
    let [a, c] = [a.after(&gone), c.after(&gone)];
    assert_eq!(roles(&[a.clone(), b, c.clone()]), [InSync, Heal, InSync]);
    assert_eq!(roles(&[a, old, c]), [InSync, HealAll, InSync]);
    // Of a linear storage no other node has the data.
    let [a, _, c] = linear().map(|disk| disk.after(on).after(on).after(on));
    let [_, old, _] = linear();
    assert_eq!(
        refused(&[a, old, c]),
        "/dev/b holds older data than it did before: it was put back from a backup; put all nodes back to \
         one moment"
    );
}

#[test]
fn strangers() {
    let [a, b, c] = mirror();
    let [x, y, _] = three(2, "other", Log::for_array(4080));
    let (x, y) = (x.named("/dev/x"), y.named("/dev/y"));
    assert_eq!(
        refused(&[a.clone(), b.clone(), x.clone()]),
        "/dev/x is a node of another storage, 'other', than the other nodes, which are of 'data'; leave it out"
    );
    // As many of each: the name decides, and without that nothing does.
    assert!(refused(&[a.clone(), x.clone()]).starts_with("/dev/x is a node of another storage"));
    let [p, ..] = three(3, "third", Log::for_array(4080));
    assert_eq!(
        refused(&[p.named("/dev/p"), x.clone()]),
        "/dev/p is a node of storage 'third', /dev/x one of another storage, 'other'; name nodes of one \
         storage only"
    );
    assert!(refused(&[a.clone(), x, y]).starts_with("/dev/a is a node of another storage, 'data'"));
    assert_eq!(
        refused(&[a.clone(), b.clone(), b.clone().named("/dev/bb"), c.clone()]),
        "/dev/b and /dev/bb are the same node: one disk under two names, or one is a copy of the other; \
         leave one of them out"
    );
    let without = |own: &mut Superblock| {
        own.set_entry(1, &Entry::default()).unwrap();
        own.rename_data(uuid(101));
    };
    assert_eq!(
        refused(&[a.after(without), b, c.after(without)]),
        "/dev/b was removed from storage 'data' or replaced; leave it out, or add it anew when the storage runs"
    );
    // A node that was told to go is no node any more, by itself either.
    let [_, b, _] = linear();
    assert!(refused(&[b.after(without)]).starts_with("/dev/b lacks"));
}

#[test]
fn damage() {
    for (damage, part) in [
        (
            Damage::NoMagic,
            "there is no superblock of DST; it is no node",
        ),
        (
            Damage::Checksum,
            "no superblock has the right checksum; it is half-written",
        ),
        (
            Damage::Senseless("log"),
            "the superblock has a senseless log; it is half-written",
        ),
        (
            Damage::Version(2),
            "the superblock has format version 2; a newer version of DST",
        ),
        (
            Damage::Features(4),
            "the superblock needs unknown features 0x4; a newer",
        ),
        (
            Damage::Unreadable,
            "the superblock can't be read; see the kernel log",
        ),
    ] {
        let [a, b, c] = mirror();
        let sentence = refused(&[a, b.damaged(damage), c]);
        assert!(
            sentence.starts_with(&format!("/dev/b: {part}")),
            "{sentence}"
        );
    }
    let [a, mut b, c] = mirror();
    b.sectors = 8192;
    assert_eq!(
        refused(&[a.clone(), b.clone(), c.clone()]),
        "/dev/b has 8192 sectors, but had 4096 as a node of the storage; give it its size back, or leave it \
         out"
    );
    // What is less than a block does not count.
    b.sectors = 4103;
    assert_eq!(roles(&[a, b, c]), [InSync; 3]);
}

#[test]
fn spares_and_newcomers() {
    let spare = |own: &mut Superblock| {
        own.set_state(2, NodeState::Spare).unwrap();
    };
    let [a, b, c] = mirror().map(|disk| disk.after(spare));
    assert_eq!(
        roles(&[a.clone(), b.clone(), c.clone()]),
        [InSync, InSync, Role::Spare]
    );
    assert_eq!(roles(&[a, b]), [InSync; 2]);
    assert!(refused(&[c]).starts_with("/dev/c lacks"));
    // The node that comes of a linear storage is no loss when it does not.
    let coming = |own: &mut Superblock| {
        own.set_state(2, NodeState::Healing).unwrap();
    };
    let [a, b, c] = linear().map(|disk| disk.after(coming));
    assert_eq!(roles(&[a.clone(), b.clone(), c]), [InSync, InSync, Heal]);
    assert_eq!(roles(&[a, b]), [InSync; 2]);
}

#[test]
fn taken_for_a_new_storage() {
    let [a, ..] = mirror();
    fn sentence(disk: &Disk) -> Result<(), Occupied<'_>> {
        check_free(&founds(std::slice::from_ref(disk))[0])
    }
    assert_eq!(
        sentence(&a).unwrap_err().to_string(),
        "/dev/a is a node of storage 'data'; 'dst assemble data NODE...' uses it, --force writes over it"
    );
    let broken = a.clone().damaged(Damage::Checksum);
    assert_eq!(sentence(&broken).unwrap_err().storage, None);
    assert!(sentence(&a.clone().damaged(Damage::NoMagic)).is_ok());
    assert!(sentence(&a.damaged(Damage::Unreadable)).is_ok());
}
