// SPDX-License-Identifier: GPL-2.0

//! Healing by the mirror's core, step by step.

mod small;

use dst_core::alg_mirror::{
    overlap::Extent,
    regions::WRITTEN,
    write::End, //
};

use small::{
    core,
    heal,
    work, //
};

/// Sectors that are copied in `credits` tenths of a second with these limits, and with requests if it is `busy`.
fn copied(min: u64, max: u64, busy: bool, credits: u32) -> u64 {
    let mut core = core(0b01, 0b10, 0);
    for region in 0..4 {
        core.load(region, WRITTEN | 0b10);
    }
    core.begin(None, 0);
    work(&mut core);
    core.set_pace(min, max);
    let mut sectors = 0;
    for _ in 0..credits {
        if busy {
            core.read_source(Extent::new(0, 1), 0);
        }
        core.heal_credit();
        while let Some(piece) = core.heal_next() {
            sectors += piece.extent.sectors();
            core.heal_done(piece.id, true, piece.to);
        }
    }
    sectors
}

#[test]
fn the_pace_is_within_a_piece_of_the_maximum_and_of_the_minimum() {
    // A piece has up to 256 sectors; what the last one was too large is paid back.
    for (pace, credits) in [(10, 600), (100, 50), (100, 150), (1000, 10), (3000, 3)] {
        let right = pace * u64::from(credits) / 10;
        for (min, max, busy) in [(0, pace, false), (pace, 0, true), (pace, 4 * pace, true)] {
            let off = copied(min, max, busy, credits).abs_diff(right);
            assert!(off < 256, "off by {off}: {min} to {max}, busy: {busy}");
        }
    }
}

#[test]
fn a_maximum_counts_from_the_moment_on_in_which_it_is_set() {
    let mut core = core(0b01, 0b10, 0);
    core.lack_all(1);
    core.begin(None, 0);
    work(&mut core);
    core.set_pace(0, 100);
    let piece = core.heal_next().expect("a piece");
    core.heal_done(piece.id, true, piece.to);
    assert!(core.heal_next().is_none(), "no credit was given");
}

#[test]
fn a_failed_write_spoils_the_healing_of_its_region() {
    let mut core = core(0b01, 0b10, 0);
    core.load(0, WRITTEN | 0b10);
    core.begin(None, 0);
    work(&mut core);
    core.heal_credit();
    let first = core.heal_next().expect("a piece");
    assert_eq!(first.extent, Extent::new(0, 256));
    // It waits for the piece, and the second piece does not wait for it.
    core.request_begin(0, Extent::new(7, 1));
    core.heal_done(first.id, true, 0b10);
    core.heal_credit();
    core.heal_credit();
    let second = core.heal_next().expect("a piece");
    work(&mut core);
    let (_, mask) = core.next_ready().expect("the write may go");
    assert_eq!(mask, 0b11);
    // The copy that stays could not write it, the other one did.
    assert_eq!(core.request_end(0, 0b10), End::Error);
    core.heal_done(second.id, true, 0b10);
    assert_eq!(core.readable(Extent::new(7, 1)), 0b01);
    let pieces = heal(&mut core);
    assert_eq!(pieces.len(), 2, "it is healed again: {pieces:?}");
}

#[test]
fn what_a_source_gives_that_has_left_does_not_count() {
    let mut core = core(0b011, 0b100, 0);
    core.load(0, WRITTEN | 0b100);
    core.begin(None, 0);
    work(&mut core);
    core.tick();
    core.heal_credit();
    let piece = core.heal_next().expect("a region is stale");
    assert_eq!((piece.from, piece.to), (0, 0b100));
    // The server loses what was not flushed, is there again, and answers the read that is sent again.
    assert!(core.leave(0));
    core.heal_done(piece.id, true, 0b100);
    work(&mut core);
    assert_ne!(
        core.stale_sectors(2),
        0,
        "old data have come from a copy that has left"
    );
    let from: Vec<_> = heal(&mut core).iter().map(|piece| piece.from).collect();
    assert_eq!(from, [1, 1]);
    core.tick();
    work(&mut core);
    assert_eq!(core.stale_sectors(2), 0);
}
