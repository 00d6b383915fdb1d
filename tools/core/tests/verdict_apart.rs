// SPDX-License-Identifier: GPL-2.0

//! The verdict at assembly: copies that went apart, and words of copies that nobody counted on.

mod nodes;

use dst_core::meta::{
    superblock::*,
    verdict::*, //
};

use nodes::*;
use Role::{
    Heal,
    HealAll,
    InSync, //
};

#[test]
fn what_reached_only_copies_that_do_not_count() {
    let heal = |copy, own: &mut Superblock| own.set_state(copy, NodeState::Healing).unwrap();
    // After a crash a head began to copy from a to c, without b; only c got to know that. Then one began to copy from b to a,
    // and only a got to know it. Neither got to a copy that it counts, so nothing was written.
    let [a, b, c] = mirror();
    let c_alone = c.clone().after(|own| {
        leave(1, 101)(own);
        heal(2, own);
    });
    let a_alone = a.clone().after(|own| {
        leave(2, 102)(own);
        heal(0, own);
    });
    assert_eq!(
        roles(&[a_alone.clone(), b.clone(), c_alone.clone()]),
        [Heal, InSync, Heal]
    );
    // As soon as the one that it counts is not here, it may have got it; or if it has.
    assert!(refused(&[b.clone(), c_alone.clone()]).contains("lacks what was written"));
    let a_too = a.after(|own| {
        leave(1, 101)(own);
        heal(2, own);
    });
    assert_eq!(roles(&[a_too, b, c_alone.clone()]), [InSync, Heal, Heal]);
    // A head that knew what c says has decided for b since, and crashed, too.
    let [a, b, _] = mirror();
    let a_later = a.after(|own| {
        own.rename_data(uuid(101));
        own.bump();
        leave(2, 103)(own);
        heal(0, own);
    });
    assert_eq!(roles(&[a_later, b, c_alone]), [Heal, InSync, Heal]);
}

#[test]
fn what_reached_only_copies_that_do_not_count_and_a_split() {
    // A head went on without c, which only a got to know; then it left a, and only c got to know that: as b, that it counted
    // on, did not, nothing was written.
    let [a, b, c] = mirror();
    let a = a.after(leave(2, 101));
    let left = |own: &mut Superblock| {
        leave(2, 101)(own);
        own.bump();
        leave(0, 102)(own);
        own.set_seen(0, 2).unwrap();
        own.set_state(2, NodeState::Healing).unwrap();
    };
    let c = c.after(left);
    assert_eq!(
        roles(&[a.clone(), b.clone(), c.clone()]),
        [InSync, Heal, Heal]
    );
    // Then b was started alone. Who gives that up has a storage: b never knew what c says.
    let alone = |own: &mut Superblock| {
        leave(0, 103)(own);
        own.set_state(2, NodeState::Missing).unwrap();
    };
    let split = b.clone().after(alone);
    let sentence = refused(&[a.clone(), split.clone(), c.clone()]);
    assert!(sentence.contains("written to apart"), "{sentence}");
    let given_up = |b: &Disk| [a.clone(), b.clone().discarded(), c.clone()];
    assert_eq!(roles(&given_up(&split)), [InSync, HealAll, Heal]);
    // If b was told before, c says the truth: what was written to b and c is not on a.
    let told = b.clone().after(left);
    let more = c.clone().after(|own| own.rename_data(uuid(104)));
    let sees = c.clone().with(|own| {
        own.set_seen(1, 2).unwrap();
    });
    let knew = [
        (told.clone(), c.clone()),
        (told.clone().after(alone), c.clone()),
        // The last superblock did not reach it, but that before called a away, too.
        (told.after(alone), more),
        // It was left at more than it went on from: it is an old copy of the disk, and may have known all.
        (split.clone(), sees),
        // It had got further than a with the id that both had: why, nobody can tell.
        (b.after(|_| ()).after(alone), c.clone()),
    ];
    for (b, c) in knew {
        let sentence = refused(&[a.clone(), b.discarded(), c]);
        assert!(sentence.contains("lacks what was written"), "{sentence}");
    }
    // An old copy of a, which c saw with more, is not believed, whatever became of what c says.
    let [old, ..] = mirror();
    let sentence = refused(&[old, split.discarded(), c]);
    assert!(sentence.contains("lacks what was written"), "{sentence}");
}

#[test]
fn split_brain() {
    let [a, b, c] = mirror();
    let ab = |own: &mut Superblock| leave(2, 101)(own);
    let alone = |own: &mut Superblock| {
        leave(0, 102)(own);
        own.set_state(1, NodeState::Missing).unwrap();
    };
    let [a, b] = [a.after(ab), b.after(ab)];
    let c = c.after(alone);
    let split = [a.clone(), b.clone(), c.clone()];
    // Neither side has more generations: whatever is chosen, it is the same in every order.
    let sentence = refused(&split);
    assert!(
        sentence.contains("were written to apart from each other; 'dst assemble --discard NODE'"),
        "{sentence}"
    );
    for (name, part) in [
        ("/dev/c", "/dev/a and /dev/c"),
        ("/dev/a", "/dev/c and /dev/"),
    ] {
        // One side has a newer generation; it is no better for that.
        let newer = split.clone().map(|disk| match disk.name == name {
            true => disk.after(|_| ()).after(|_| ()),
            false => disk,
        });
        let sentence = refused(&newer);
        assert!(sentence.starts_with(part), "{sentence}");
    }
    // The user decides, either way.
    let lost = [a.clone(), b.clone(), c.clone().discarded()];
    assert_eq!(roles(&lost), [InSync, InSync, HealAll]);
    let lost = [a.clone().discarded(), b.clone().discarded(), c.clone()];
    assert_eq!(roles(&lost), [HealAll, HealAll, InSync]);
    // Half a decision is none.
    let half = [a.clone().discarded(), b.clone(), c.clone()];
    assert!(refused(&half).starts_with("/dev/b and /dev/c were written to apart"));
    // One side alone does not know of the other.
    let found = verdict(&[a.clone(), b.clone()], false).unwrap();
    assert_eq!(found.0, [InSync; 2]);
    assert_eq!(
        refused(&[
            a.clone().discarded(),
            b.clone().discarded(),
            c.clone().discarded()
        ]),
        "--discard gives up every node; keep the one whose data are to stay"
    );
    let [x, y, z] = mirror();
    assert_eq!(
        refused(&[x, y.discarded(), z]),
        "/dev/b is in no conflict, nothing needs to be given up; assemble without --discard /dev/b"
    );
}

#[test]
fn forgotten_history_is_a_conflict() {
    let [a, b, c] = mirror();
    let many = |count: u8| {
        move |own: &mut Superblock| {
            own.set_state(1, NodeState::Missing).unwrap();
            (0..count).for_each(|n| own.rename_data(uuid(110 + n)));
        }
    };
    let known = [
        a.clone().after(many(HISTORY as u8)),
        b.clone(),
        c.clone().after(many(HISTORY as u8)),
    ];
    assert_eq!(roles(&known), [InSync, Heal, InSync]);
    let forgotten = [
        a.after(many(HISTORY as u8 + 1)),
        b,
        c.after(many(HISTORY as u8 + 1)),
    ];
    assert!(refused(&forgotten).contains("apart from each other"));
}
