// SPDX-License-Identifier: GPL-2.0

//! What is told of how long healing takes.

use dst_core::alg_mirror::{
    overlap::{
        Extent,
        Flight,
        Waiter, //
    },
    regions::{
        Block,
        Region, //
    },
    write::{
        Begin,
        End,
        Slot, //
    },
    Config,
    Mask,
    Mirror,
    Parts,
    HEAL_SLOTS, //
};

type Core = Mirror<Vec<Slot>, Vec<Flight>, Vec<Waiter>, Vec<Region>, Vec<Block>>;

const REGION: u64 = 512;

/// Four regions of two pieces each, in two blocks of the log.
fn core(in_sync: Mask, healing: Mask, missing: Mask) -> Core {
    let slots = 4 + HEAL_SLOTS as usize;
    let parts = Parts {
        slots: vec![Slot::default(); slots],
        flights: vec![Flight::default(); slots],
        waiters: vec![Waiter::default(); slots],
        regions: vec![Region::default(); 4],
        blocks: vec![Block::default(); 2],
    };
    let config = Config {
        sectors: 4 * REGION,
        region_shift: 9,
        per_block: 2,
        in_sync,
        healing,
        missing,
        degraded: false,
    };
    Mirror::new(parts, &config)
}

/// Does all jobs that there are, on all copies.
fn work(core: &mut Core) {
    while core.next_job().is_some() {
        core.job_done(Mask::MAX);
    }
}

fn running(in_sync: Mask, healing: Mask, missing: Mask) -> Core {
    let mut core = core(in_sync, healing, missing);
    core.begin(None, 0);
    work(&mut core);
    core
}

/// A write to one sector that goes.
fn go(core: &mut Core, id: u32, sector: u64) -> Mask {
    match core.request_begin(id, Extent::new(sector, 1)) {
        Begin::Go(mask) => mask,
        Begin::Wait => {
            work(core);
            let (ready, mask) = core.next_ready().expect("it may go");
            assert_eq!(ready, id);
            mask
        }
    }
}

fn write(core: &mut Core, id: u32, sector: u64) {
    let mask = go(core, id, sector);
    assert_eq!(core.request_end(id, mask), End::Ok);
}

/// Copies all that can be copied: a round may be under way that has passed some of it.
fn heal(core: &mut Core) {
    for _ in 0..2 {
        core.tick();
        core.heal_credit();
        core.heal_credit();
        while let Some(piece) = core.heal_next() {
            core.heal_done(piece.id, true, piece.to);
        }
    }
}

#[test]
fn how_long_healing_takes() {
    let mut core = running(0b001, 0, 0b110);
    write(&mut core, 0, 0);
    write(&mut core, 1, REGION);
    // What is away is not being healed.
    assert_eq!(core.stale_sectors(1), 2 * REGION);
    assert_eq!((core.heal_left(), core.heal_seconds_left()), (0, None));
    for copy in [1, 2] {
        assert!(core.back(copy, false));
    }
    work(&mut core);
    core.tick();
    assert_eq!(core.heal_left(), 4 * REGION, "of both");
    assert_eq!(core.heal_seconds_left(), None, "nothing was copied yet");
    core.set_pace(0, 2560);
    core.heal_credit();
    let piece = core.heal_next().expect("a piece");
    core.heal_done(piece.id, true, piece.to);
    core.tick();
    // Half of it is of the last second.
    let rate = core.heal_rate();
    assert_eq!(rate, piece.extent.sectors());
    assert_eq!(
        core.heal_seconds_left(),
        Some((4 * REGION).div_ceil(rate)),
        "a region counts until all of it is copied"
    );
    core.set_pace(0, 0);
    heal(&mut core);
    work(&mut core);
    core.tick();
    work(&mut core);
    assert_eq!((core.healing(), core.heal_left()), (0, 0));
    assert_eq!(
        core.heal_seconds_left(),
        None,
        "there is nothing to wait for"
    );
}
