// SPDX-License-Identifier: GPL-2.0

//! A small mirror for tests of its core, step by step.

#![allow(dead_code, reason = "each test program uses a part of it")]

use dst_core::alg_mirror::{
    heal::Piece,
    jobs::Job,
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

pub(crate) type Core = Mirror<Vec<Slot>, Vec<Flight>, Vec<Waiter>, Vec<Region>, Vec<Block>>;

pub(crate) const REGION: u64 = 512;

/// Four regions of two pieces each, in two blocks of the log.
pub(crate) fn core(in_sync: Mask, healing: Mask, missing: Mask) -> Core {
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
pub(crate) fn work(core: &mut Core) -> Vec<Job> {
    let mut done = Vec::new();
    while let Some(job) = core.next_job() {
        done.push(job);
        core.job_done(Mask::MAX);
    }
    done
}

pub(crate) fn running(in_sync: Mask, healing: Mask, missing: Mask) -> Core {
    let mut core = core(in_sync, healing, missing);
    core.begin(None, 0);
    work(&mut core);
    core
}

/// A write to one sector that goes.
pub(crate) fn go(core: &mut Core, id: u32, sector: u64) -> Mask {
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

pub(crate) fn write(core: &mut Core, id: u32, sector: u64) {
    let mask = go(core, id, sector);
    assert_eq!(core.request_end(id, mask), End::Ok);
}

/// Copies all that can be copied: a round may be under way that has passed some of it.
pub(crate) fn heal(core: &mut Core) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for _ in 0..2 {
        core.tick();
        core.heal_credit();
        core.heal_credit();
        while let Some(piece) = core.heal_next() {
            core.heal_done(piece.id, true, piece.to);
            pieces.push(piece);
        }
    }
    pieces
}
