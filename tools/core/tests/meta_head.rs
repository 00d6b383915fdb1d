// SPDX-License-Identifier: GPL-2.0

//! The superblock of a mirror that runs, and how a copy that was away is judged.

use dst_core::{
    alg_mirror::jobs::States,
    meta::{
        head::*,
        layout::{
            Layout,
            Log, //
        },
        superblock::*,
        Block,
        Uuid,
        BLOCK, //
    },
};

const SECTORS: u64 = 4096;

fn uuid(n: u8) -> Uuid {
    Uuid::random([n; 16])
}

fn empty() -> Box<Block> {
    vec![0u8; BLOCK].try_into().unwrap()
}

fn log() -> Log {
    Log::for_array(2048).unwrap()
}

fn place(copy: u8) -> Place {
    Place {
        uuid: uuid(10 + copy),
        layout: Layout::new(SECTORS, Some(log())).unwrap(),
        seen: 1,
        b_first: false,
    }
}

/// The superblock of another storage.
fn foreign() -> Box<Block> {
    let new = New {
        storage: uuid(2),
        ..new()
    };
    let mut block = empty();
    let superblock = Superblock::blank(&mut block, &new).unwrap();
    let entry = Entry {
        uuid: uuid(11),
        start: 0,
        size: 2048,
        seen: 1,
        state: NodeState::InSync,
    };
    superblock.set_entry(0, &entry).unwrap();
    superblock.address(0, uuid(11), SECTORS);
    superblock.seal();
    block
}

fn new() -> New<'static> {
    New {
        storage: uuid(1),
        name: "data",
        alg: "alg_mirror",
        created: 1,
        block_size: 512,
        sectors: 2048,
        log: Some(log()),
        data: uuid(100),
    }
}

/// A mirror of three copies in sync, of which the first two are here.
fn head() -> Head<Box<Block>> {
    let mut block = empty();
    let superblock = Superblock::blank(&mut block, &new()).unwrap();
    for copy in 0..3 {
        let entry = Entry {
            uuid: uuid(10 + copy),
            start: 0,
            size: 2048,
            seen: 1,
            state: NodeState::InSync,
        };
        superblock.set_entry(u32::from(copy), &entry).unwrap();
    }
    superblock.address(0, uuid(10), SECTORS);
    superblock.seal();
    let mut head = Head::new(superblock, empty(), empty());
    head.places[0] = Some(place(0));
    head.places[1] = Some(place(1));
    head
}

const ALL: States = States {
    in_sync: 0b111,
    healing: 0,
    missing: 0,
    running: true,
    rename: false,
};

/// Without the second copy, under a new data id.
const WITHOUT: States = States {
    in_sync: 0b101,
    missing: 0b010,
    rename: true,
    ..ALL
};

fn never() -> Uuid {
    panic!("the data keep their id")
}

/// The superblock of a copy as it is written there now.
fn superblock(head: &Head<Box<Block>>, copy: u32) -> Box<Block> {
    let mut block = empty();
    head.superblock_of(copy, &mut block).unwrap();
    block
}

fn changed(block: &Block, change: impl FnOnce(&mut Superblock)) -> Box<Block> {
    let mut new = empty();
    let superblock = Superblock::open(block).unwrap().copy_to(&mut new);
    change(superblock);
    superblock.seal();
    new
}

fn look(head: &mut Head<Box<Block>>, block: &Block) -> Back {
    head.look(1, Some(block), Some(block))
}

#[test]
fn what_is_seen_of_a_copy_that_is_not_here_is_not_forgotten() {
    let mut head = head();
    for generation in 2..6 {
        head.next(&ALL, never).unwrap();
        head.saw(0b011);
        let own = head.superblock().unwrap();
        assert_eq!(own.generation(), generation);
        let seen = |copy| own.entry(copy).unwrap().seen;
        // Of those that are here it is told the next time.
        assert_eq!(
            (seen(0), seen(1), seen(2)),
            (generation - 1, generation - 1, 1)
        );
    }
}

#[test]
fn a_new_copy_is_not_forgotten_by_what_was_decided_before() {
    let mut head = head();
    head.join(3, place(3), "/dev/d").unwrap();
    // This was decided before it came: it is not named.
    head.next(&ALL, never).unwrap();
    let entry = head.superblock().unwrap().entry(3).unwrap();
    assert_eq!((entry.uuid, entry.state), (uuid(13), NodeState::Missing));
    assert_eq!(head.superblock().unwrap().label(3), "/dev/d");
    // Now it is. From then on it is gone as soon as it is not.
    let named = States {
        healing: 0b1000,
        ..ALL
    };
    head.next(&named, never).unwrap();
    let entry = head.superblock().unwrap().entry(3).unwrap();
    assert_eq!(entry.state, NodeState::Healing);
    head.next(&ALL, never).unwrap();
    assert_eq!(head.superblock().unwrap().entry(3), None);
}

#[test]
fn a_new_copy_that_does_not_become_one_leaves_nothing() {
    for dismiss in [true, false] {
        let mut head = head();
        head.join(3, place(3), "/dev/d").unwrap();
        match dismiss {
            true => head.dismiss(3),
            false => head.forget(3),
        }
        assert_eq!(head.place(3).is_some(), dismiss);
        head.next(&ALL, never).unwrap();
        assert_eq!(head.superblock().unwrap().entry(3), None);
    }
}

#[test]
fn a_copy_that_was_away_is_back() {
    let mut head = head();
    head.next(&ALL, never).unwrap();
    head.saw(0b011);
    let left = superblock(&head, 1);
    head.next(&WITHOUT, || uuid(101)).unwrap();
    head.saw(0b001);
    assert_eq!(look(&mut head, &left), Back::Good);
    assert_eq!(head.place(1).unwrap().seen, 2);
    // It has an older superblock than it had.
    let older = changed(&left, |own| {
        own.advance(0);
    });
    head.places[1].as_mut().unwrap().seen = 3;
    assert_eq!(look(&mut head, &older), Back::All);
    assert_eq!(head.place(1).unwrap().seen, 3, "what was known counts");
    let other = changed(&left, |own| own.address(1, uuid(99), SECTORS));
    assert!(
        matches!(look(&mut head, &other), Back::Refused(why) if why.text().contains("another node"))
    );
    assert_eq!(head.trouble(1), Some(Trouble::Other));
    assert!(
        matches!(look(&mut head, &empty()), Back::Refused(why) if why.text().contains("damaged"))
    );
}

#[test]
fn what_was_written_on_a_copy_alone_is_not_given_up_because_it_is_old() {
    let mut head = head();
    let first = superblock(&head, 1);
    for _ in 0..5 {
        head.next(&ALL, never).unwrap();
        head.saw(0b011);
    }
    // An image of it was put back, was started by itself, and got a data id that nobody else has.
    let alone = changed(&first, |own| {
        own.set_state(0, NodeState::Missing).unwrap();
        own.set_state(2, NodeState::Missing).unwrap();
        own.rename_data(uuid(150));
        own.bump();
    });
    assert!(
        matches!(look(&mut head, &alone), Back::Refused(why) if why.text().contains("conflict"))
    );
    assert_eq!(head.trouble(1), Some(Trouble::Conflict));
    // The same of one that was being healed.
    let healing = changed(&alone, |own| {
        own.set_state(0, NodeState::InSync).unwrap();
        own.set_state(1, NodeState::Healing).unwrap();
    });
    assert!(
        matches!(look(&mut head, &healing), Back::Refused(why) if why.text().contains("conflict"))
    );
    assert_eq!(
        head.place(1).unwrap().seen,
        6,
        "it says nothing of this storage"
    );
}

#[test]
fn what_was_written_on_a_copy_alone_is_given_up_by_a_word_only() {
    let mut head = head();
    head.next(&ALL, never).unwrap();
    head.saw(0b011);
    let left = superblock(&head, 1);
    head.next(&WITHOUT, || uuid(101)).unwrap();
    head.saw(0b001);
    let alone = changed(&left, |own| {
        own.set_state(0, NodeState::Missing).unwrap();
        own.set_state(2, NodeState::Missing).unwrap();
        own.rename_data(uuid(150));
        own.advance(40);
    });
    let (a, b) = (Some(&*alone), Some(&*alone));
    assert_eq!(look(&mut head, &alone), Back::Refused(Trouble::Conflict));
    assert!(!head.is_own(1, a, b), "it is not for this storage to erase");
    assert!(head.look_discarding(1, a, b));
    assert_eq!(head.trouble(1), None);
    // What it gets from now on is newer than what it has.
    assert_eq!(head.place(1).unwrap().seen, 40);
    head.next(&WITHOUT, || uuid(102)).unwrap();
    assert!(head.superblock().unwrap().generation() > 40);
    // A copy that is in no conflict has nothing to give up, nor has one that is not of this storage, or damaged.
    let foreign = foreign();
    let nothing = empty();
    for (block, own) in [(&left, true), (&foreign, false), (&nothing, true)] {
        let before = head.trouble(1);
        assert!(!head.look_discarding(1, Some(block), Some(block)));
        assert_eq!(head.trouble(1), before);
        assert_eq!(head.is_own(1, Some(block), Some(block)), own);
    }
    assert_eq!(look(&mut head, &foreign), Back::Refused(Trouble::Foreign));
    // It is called a conflict only if it is one, and what is said of it fits.
    for trouble in [
        Trouble::NoCopy,
        Trouble::Damaged,
        Trouble::Foreign,
        Trouble::Other,
        Trouble::Conflict,
    ] {
        assert_eq!(trouble.event() == "conflict", trouble == Trouble::Conflict);
        assert!(trouble.text().len() < 96, "{}", trouble.text());
    }
    head.forget(1);
    assert_eq!(head.trouble(1), None);
}

#[test]
fn a_copy_may_have_been_told_more_than_others() {
    // Heads crashed, each when its first superblock had reached this copy alone, which counted on the others.
    let mut head = head();
    let told = changed(&superblock(&head, 1), |own| own.advance(9));
    // The next head started without it.
    head.next(&WITHOUT, || uuid(101)).unwrap();
    head.saw(0b001);
    assert_eq!(look(&mut head, &told), Back::Good);
    // What it gets is newer than what it has.
    head.next(&WITHOUT, || uuid(102)).unwrap();
    let own = head.superblock().unwrap();
    assert_eq!(own.generation(), 10);
    assert_eq!(own.history().next().unwrap().until, 9);
    // One that did not count on any other copy went on by itself.
    let alone = changed(&told, |own| {
        for copy in [0, 2] {
            own.set_state(copy, NodeState::Missing).unwrap();
        }
        own.advance(20);
    });
    assert!(matches!(look(&mut head, &alone), Back::Refused(_)));
    // One that knew the others to have newer ones has a part in what nobody here knows of.
    let later = changed(&told, |own| {
        for copy in [0, 2] {
            own.set_seen(copy, 30).unwrap();
        }
        own.advance(31);
    });
    assert!(matches!(look(&mut head, &later), Back::Refused(_)));
}

#[test]
fn a_life_goes_on_from_the_newest() {
    let mut head = head();
    let ahead = head
        .begin(7, 3, [uuid(100), uuid(120)].into_iter())
        .unwrap();
    assert!(ahead);
    let own = head.superblock().unwrap();
    assert_eq!(
        (own.generation(), own.epoch(), own.data()),
        (7, 4, uuid(120))
    );
    assert!(!head.begin(7, 3, [].into_iter()).unwrap());
    head.next(&ALL, never).unwrap();
    assert_eq!(head.superblock().unwrap().generation(), 8);
}
