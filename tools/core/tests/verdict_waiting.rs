// SPDX-License-Identifier: GPL-2.0

//! A node that waits to take the place of another one of a linear storage: when it is taken, and when what it has counts.

mod nodes;

use dst_core::meta::{
    superblock::*,
    verdict::*,
    waiting::*,
    Damage, //
};

use nodes::*;

/// Sectors that it has; a region of the copies, but not all.
const DONE: u64 = 512;

/// The node that waits for the place of /dev/a, as the driver writes it when the storage of these nodes was stopped.
fn waits(of: &[Disk]) -> Disk {
    let known = of[0].clone();
    let mut block: Box<dst_core::meta::Block> =
        vec![0u8; dst_core::meta::BLOCK].try_into().unwrap();
    let found = founds(of);
    let reference = found[0].superblock.unwrap();
    let new = New {
        storage: reference.storage(),
        name: reference.name(),
        alg: reference.alg(),
        created: reference.created(),
        block_size: reference.block_size(),
        sectors: reference.sectors(),
        log: None,
        data: reference.data(),
    };
    let own = Superblock::blank(&mut block, &new).unwrap();
    own.advance(reference.generation());
    let old = reference.entry(0).unwrap();
    own.set_entry(0, &old).unwrap();
    let entry = Entry {
        uuid: uuid(99),
        state: NodeState::Spare,
        ..old
    };
    own.set_entry(1, &entry).unwrap();
    own.set_replacement(Some(Replacement {
        from: 0,
        to: 1,
        done: DONE,
    }));
    own.address(1, uuid(99), SECTORS);
    own.seal();
    Disk {
        block: Ok(block),
        name: "/dev/n",
        ..known
    }
}

/// What becomes of it beside these nodes.
fn beside(disks: &[Disk], node: &Disk) -> Result<Waiting, String> {
    let found = founds(disks);
    let wish = Wish {
        name: "data",
        degraded: false,
    };
    let assembly = judge(&found, &wish).unwrap();
    waiting(&assembly, &founds(std::slice::from_ref(node))[0], (0, 2048))
        .map_err(|refusal| refusal.to_string())
}

fn done(disks: &[Disk], node: &Disk) -> u64 {
    let waiting = beside(disks, node).unwrap();
    assert_eq!(waiting.index, 0);
    waiting.done
}

#[test]
fn what_it_has_counts_after_a_clean_stop() {
    let disks = linear();
    let node = waits(&disks);
    assert_eq!(done(&disks, &node), DONE);
    // The order does not matter.
    for order in orders(&disks) {
        assert_eq!(done(&order, &node), DONE);
    }
    // No more than there is.
    let more = node.with(|own| {
        own.set_replacement(Some(Replacement {
            from: 0,
            to: 1,
            done: u64::MAX,
        }));
    });
    assert_eq!(done(&disks, &more), 2048);
}

#[test]
fn what_it_has_does_not_count_if_something_may_have_been_written_since() {
    let disks = linear();
    let node = waits(&disks);
    // A start without it, that was cut off after the first superblock, the next ones, or that went on.
    let started = |own: &mut Superblock| {
        own.rename_data(uuid(101));
        own.bump();
        own.set_running(true);
    };
    for cut in 1..=3 {
        let mut some = disks.clone();
        for disk in &mut some[..cut] {
            *disk = disk.clone().with(started);
        }
        assert_eq!(done(&some, &node), 0, "{cut}");
    }
    // It was stopped after that.
    let stopped = disks.clone().map(|disk| {
        disk.with(|own| {
            started(own);
            own.bump();
            own.set_running(false);
        })
    });
    assert_eq!(done(&stopped, &node), 0);
    // A crash: its own superblock is of the start, as those of the others.
    let running = disks
        .clone()
        .map(|disk| disk.with(|own| own.set_running(true)));
    assert_eq!(done(&running, &waits(&running)), 0);
    assert_eq!(done(&running, &node), 0);
    assert_eq!(
        done(&disks, &node.clone().with(|own| own.set_running(true))),
        0
    );
    // All others were put back to a moment before its superblock.
    assert_eq!(done(&disks, &node.with(|own| own.bump())), 0);
}

#[test]
fn it_is_refused_where_it_does_not_belong() {
    let disks = linear();
    let node = waits(&disks);
    // As one of the nodes, whether its counterpart is there or not.
    let mut all = disks.to_vec();
    all.push(node.clone());
    let sentence = "/dev/n was to take the place of another node of storage 'data', and lacks data of that; 'dst assemble \
                    data NODE...' with both of them goes on, or leave it out";
    assert_eq!(refused(&all), sentence);
    all.remove(0);
    assert_eq!(refused(&all), sentence);
    assert_eq!(refused(std::slice::from_ref(&node)), sentence);
    assert!(check_free(&founds(std::slice::from_ref(&node))[0]).is_err());
    // Beside a storage that is another one, or does not have the other node any more, or has it at another place.
    let other = three(2, "data", None);
    assert_eq!(
        beside(&other, &node).unwrap_err(),
        "/dev/n is a node of another storage, 'data', than the other nodes, which are of 'data'; leave it out"
    );
    let gone = "/dev/n was to take the place of a node that storage 'data' does not have any more; leave it out";
    let unknown = node.clone().with(|own| {
        let entry = own.entry(0).unwrap();
        own.set_entry(
            0,
            &Entry {
                uuid: uuid(77),
                ..entry
            },
        )
        .unwrap();
    });
    assert_eq!(beside(&disks, &unknown).unwrap_err(), gone);
    let elsewhere = node.clone().with(|own| {
        for index in 0..2 {
            let entry = own.entry(index).unwrap();
            own.set_entry(index, &Entry { start: 8, ..entry }).unwrap();
        }
    });
    assert_eq!(beside(&disks, &elsewhere).unwrap_err(), gone);
    assert!(beside(&disks, &node.damaged(Damage::Checksum))
        .unwrap_err()
        .starts_with("/dev/n: "));
    // Whose place it waits for, by its superblock, is not the one that it was put beside.
    let found = founds(&disks);
    let wish = Wish {
        name: "data",
        degraded: false,
    };
    let assembly = judge(&found, &wish).unwrap();
    let node = waits(&disks);
    let other = waiting(
        &assembly,
        &founds(std::slice::from_ref(&node))[0],
        (2048, 2048),
    );
    assert_eq!(other.unwrap_err().to_string(), gone);
}

#[test]
fn it_may_have_taken_the_place_already() {
    let disks = linear();
    let switched = |own: &mut Superblock| {
        let old = own.entry(0).unwrap();
        own.set_entry(
            0,
            &Entry {
                uuid: uuid(99),
                ..old
            },
        )
        .unwrap();
        own.address(0, uuid(99), SECTORS);
        own.rename_data(uuid(101));
        own.bump();
    };
    let node = disks[0].clone().named("/dev/n").with(switched);
    // Its superblock is the newest one: nobody knows whether it counts.
    assert_eq!(
        beside(&disks, &node).unwrap_err(),
        "/dev/n may have taken the place of another node of storage 'data', and have newer data; leave that one out, or if \
         it is the one that counts, this one"
    );
    // That was taken back.
    let back = disks.map(|disk| {
        disk.with(|own| {
            own.rename_data(uuid(101));
            own.bump();
            own.rename_data(uuid(102));
            own.bump();
        })
    });
    assert_eq!(beside(&back, &node), Ok(Waiting { index: 0, done: 0 }));
}

#[test]
fn only_a_spare_that_is_to_come_waits() {
    let node = waits(&linear());
    let of = |disk: &Disk| {
        founds(std::slice::from_ref(disk))[0]
            .superblock
            .unwrap()
            .waits_for()
    };
    let (replacement, old) = of(&node).unwrap();
    assert_eq!((replacement.done, old.uuid), (DONE, uuid(10)));
    for state in [NodeState::InSync, NodeState::Healing, NodeState::Missing] {
        assert_eq!(
            of(&node.clone().with(|own| own.set_state(1, state).unwrap())),
            None
        );
    }
    assert_eq!(
        of(&node.clone().with(|own| own.set_replacement(None))),
        None
    );
    // The other way round; and one with another place.
    let swapped = Replacement {
        from: 1,
        to: 0,
        done: 0,
    };
    assert_eq!(
        of(&node.clone().with(|own| own.set_replacement(Some(swapped)))),
        None
    );
    let moved = node.with(|own| {
        let entry = own.entry(1).unwrap();
        own.set_entry(1, &Entry { start: 8, ..entry }).unwrap();
    });
    assert_eq!(of(&moved), None);
}
