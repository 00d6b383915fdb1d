// SPDX-License-Identifier: GPL-2.0

//! What is said to be lost when it is given up what was written on a copy alone.

use dst_core::meta::{
    given_up::*,
    layout::{
        Layout,
        Log,
        ENTRIES, //
    },
    log::{
        LogBlock,
        ACTIVE,
        WRITTEN, //
    },
    superblock::*,
    Block,
    Uuid,
    BLOCK, //
};
use proptest::prelude::*;

fn uuid(n: u8) -> Uuid {
    Uuid::random([n; 16])
}

const STORAGE: u8 = 1;
const SECTORS: u64 = 3 * (ENTRIES as u64) * 128 - 100;

fn empty() -> Box<Block> {
    vec![0u8; BLOCK].try_into().unwrap()
}

/// The superblock of copy 1 of 4: it calls copies 0 and 2 missing, and copy 3 in sync.
fn own() -> Box<Block> {
    let log = Log::for_array(SECTORS).unwrap();
    let new = New {
        storage: uuid(STORAGE),
        name: "data",
        alg: "alg_mirror",
        created: 1,
        block_size: 512,
        sectors: SECTORS,
        log: Some(log),
        data: uuid(100),
    };
    let mut block = empty();
    let superblock = Superblock::blank(&mut block, &new).unwrap();
    for copy in 0..4 {
        let entry = Entry {
            uuid: uuid(10 + copy),
            start: 0,
            size: SECTORS,
            seen: 1,
            state: match copy {
                0 | 2 => NodeState::Missing,
                _ => NodeState::InSync,
            },
        };
        superblock.set_entry(copy.into(), &entry).unwrap();
    }
    let node = SECTORS + 8192;
    Layout::new(node, Some(log)).unwrap();
    superblock.address(1, uuid(11), node);
    superblock.seal();
    block
}

/// A log of three blocks, whose newer slots have these entries.
fn log_of(entry: impl Fn(usize) -> u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in 0..3u32 {
        for sequence in [6, 5] {
            let mut block = empty();
            let log = LogBlock::blank(&mut block, index, sequence, 1);
            // What the older slot says does not count.
            log.fill(|at| match sequence {
                6 => entry(index as usize * ENTRIES + at),
                _ => !0,
            });
            log.seal(&uuid(STORAGE));
            bytes.extend(&block[..]);
        }
    }
    bytes
}

#[test]
fn whose_bits_count() {
    let block = own();
    let own = Superblock::open(&block).unwrap();
    let of = |kept: &[u8]| lacking(own, kept.iter().map(|copy| uuid(10 + copy)));
    assert_eq!(of(&[0]), 0b001);
    assert_eq!(of(&[0, 2, 3]), 0b101);
    // It does not know that these lack anything, or that there is such a copy.
    assert_eq!(of(&[3, 77]), 0);
    assert_eq!(sectors(own, 0, &log_of(|_| !0)), None);
}

#[test]
fn a_log_that_can_not_be_read_tells_nothing() {
    let block = own();
    let own = Superblock::open(&block).unwrap();
    let mut bytes = log_of(|at| u32::from(at == 5));
    assert_eq!(sectors(own, 1, &bytes), Some(128));
    bytes[2 * BLOCK + 100] ^= 1;
    assert_eq!(sectors(own, 1, &bytes), None);
    // All of it, and no more than the storage has.
    assert_eq!(sectors(own, 1, &log_of(|_| 1)), Some(SECTORS));
}

proptest! {
    #[test]
    fn regions_are_counted(
        lacks in prop::collection::btree_map(0usize..3 * ENTRIES - 1, 0u32..16, 0..40),
        mask in prop_oneof![Just(0b001u32), Just(0b100), Just(0b101)],
    ) {
        let block = own();
        let own = Superblock::open(&block).unwrap();
        let bytes = log_of(|at| ACTIVE | WRITTEN | lacks.get(&at).copied().unwrap_or(0));
        let count = lacks.values().filter(|lacking| *lacking & mask != 0).count() as u64;
        prop_assert_eq!(sectors(own, mask, &bytes), Some(count * 128));
    }
}
