// SPDX-License-Identifier: GPL-2.0

//! What lies on a node: checksum, layout, superblock and log, and what damage does to them.

use dst_core::meta::{
    crc::{
        crc32c,
        Crc, //
    },
    layout::*,
    log::{
        self,
        LogBlock, //
    },
    superblock::*,
    Block,
    Damage,
    Uuid,
    BLOCK,
    BLOCK_SECTORS, //
};
use proptest::prelude::*;

/// A block on the heap.
fn empty() -> Box<Block> {
    vec![0u8; BLOCK].try_into().unwrap()
}

fn uuid(n: u8) -> Uuid {
    Uuid::random([n; 16])
}

/// The checksum, bit by bit.
fn slow_crc(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
        }
    }
    !crc
}

#[test]
fn crc_of_the_standard() {
    // RFC 3720, B.4, and the check value of the CRC catalogue.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(b""), 0);
}

#[test]
fn uuids_read_as_others_do() {
    let uuid = Uuid::random([0xff; 16]);
    assert_eq!(uuid.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert!(Uuid::NONE.is_none() && !uuid.is_none());
}

/// A superblock with every field set, of a mirror of three copies.
fn full() -> Box<Block> {
    let mut block = empty();
    let new = New {
        storage: uuid(1),
        name: "storage",
        alg: "alg_mirror",
        created: 1_234_567_890,
        block_size: 512,
        sectors: 2048,
        log: Log::for_array(4080),
        data: uuid(2),
    };
    let this = Superblock::blank(&mut block, &new).unwrap();
    for index in 0..3u32 {
        let entry = Entry {
            uuid: uuid(10 + index as u8),
            start: 0,
            size: 2048,
            seen: 1,
            state: NodeState::InSync,
        };
        this.set_entry(index, &entry).unwrap();
    }
    this.set_label(1, "a.very.long.name:10809").unwrap();
    this.rename_data(uuid(3));
    this.set_running(true);
    this.set_epoch(77);
    this.set_replacement(Some(Replacement {
        from: 0,
        to: 2,
        done: 8,
    }));
    this.bump();
    this.address(2, uuid(12), 4103);
    this.seal();
    block
}

#[test]
fn superblock_round_trip() {
    let block = full();
    let this = Superblock::open(&block).unwrap();
    assert_eq!((this.storage(), this.node()), (uuid(1), uuid(12)));
    assert_eq!((this.index(), this.node_sectors()), (2, 4096));
    assert_eq!((this.name(), this.alg()), ("storage", "alg_mirror"));
    assert_eq!((this.created(), this.block_size()), (1_234_567_890, 512));
    assert_eq!((this.generation(), this.epoch()), (2, 77));
    assert_eq!(this.data(), uuid(3));
    let past = Past {
        data: uuid(2),
        until: 1,
    };
    assert_eq!(this.history().collect::<Vec<_>>(), [past]);
    assert!(this.is_running());
    assert_eq!(this.log(), Log::for_array(4080));
    assert_eq!(this.nodes(), 3);
    assert_eq!(this.label(1), ".long.name:10809".get(1..).unwrap());
    assert_eq!((this.label(0), this.label(99)), ("", ""));
    let moved = this.replacement().unwrap();
    assert_eq!((moved.from, moved.to, moved.done), (0, 2, 8));
    let (index, entry) = this.find(uuid(11)).unwrap();
    assert_eq!((index, entry.size, entry.seen), (1, 2048, 1));
    assert_eq!(entry.state, NodeState::InSync);
    assert_eq!(this.entries().count(), 3);
    assert!(this.find(uuid(99)).is_none());

    let mut copy = empty();
    let copy = this.copy_to(&mut copy);
    copy.set_state(1, NodeState::Missing).unwrap();
    copy.set_running(false);
    copy.set_replacement(None);
    copy.set_name("other").unwrap();
    copy.seal();
    let copy = Superblock::open(copy.block()).unwrap();
    assert_eq!(copy.name(), "other");
    assert!(!copy.is_running() && copy.replacement().is_none());
    assert_eq!(copy.entry(1).unwrap().state, NodeState::Missing);
    assert_eq!(copy.entry(64), None);
}

#[test]
fn history_forgets_the_oldest() {
    let mut block = full();
    let mut copy = empty();
    let this = Superblock::open(&block).unwrap().copy_to(&mut copy);
    for n in 100..220 {
        this.rename_data(uuid(n));
    }
    let history: Vec<_> = this.history().map(|past| past.data).collect();
    let expected: Vec<_> = (219 - HISTORY as u8..219).rev().map(uuid).collect();
    assert_eq!((this.data(), history), (uuid(219), expected));
    block[0] = 0;
    assert!(Superblock::open(&block).is_err());
}

#[test]
fn every_bit_counts() {
    let mut superblock = full();
    let mut log = full_log(4);
    for bit in 0..BLOCK * 8 {
        let (byte, mask) = (bit / 8, 1 << (bit % 8));
        superblock[byte] ^= mask;
        assert!(Superblock::open(&superblock).is_err(), "bit {bit}");
        superblock[byte] ^= mask;
        log[byte] ^= mask;
        assert!(LogBlock::open(&log, &uuid(1), 3, 0).is_err(), "bit {bit}");
        log[byte] ^= mask;
    }
    assert!(Superblock::open(&superblock).is_ok());
    assert!(LogBlock::open(&log, &uuid(1), 3, 0).is_ok());
}

/// Seals a superblock after changing it; gives what opening it says.
fn reopened(change: impl FnOnce(&mut Block, &mut dyn FnMut(&mut Block))) -> Result<(), Damage> {
    let mut block = full();
    let mut seal = |block: &mut Block| {
        block[8..12].fill(0);
        let crc = slow_crc(&block[..]);
        block[8..12].copy_from_slice(&crc.to_le_bytes());
    };
    change(&mut block, &mut seal);
    seal(&mut block);
    Superblock::open(&block).map(|_| ())
}

#[test]
fn nonsense_with_a_right_checksum() {
    assert_eq!(reopened(|_, _| ()), Ok(()));
    for (at, value, expected) in [
        (12, 3, Damage::Version(3)),
        (25, 1, Damage::Features(1 << 8)),
        (72, 3, Damage::Senseless("index")),
        (64, 1, Damage::Senseless("size of the node")),
        (112, b'/', Damage::Senseless("name")),
        (144, 0, Damage::Senseless("algorithm")),
        (176, 1, Damage::Senseless("block size")),
        (180, 17, Damage::Senseless("number of nodes")),
        (180, 2, Damage::Senseless("index")),
        (184, 3, Damage::Senseless("log")),
        (188, 0, Damage::Senseless("log")),
        (192, 2, Damage::Senseless("replacement")),
        (2304 + 40, 9, Damage::Senseless("state of a node")),
        (2304 + 3 * 56 + 40, 1, Damage::Senseless("table of nodes")),
    ] {
        let found = reopened(|block, _| block[at] = value);
        assert_eq!(found, Err(expected), "{at}");
    }
    // Two nodes of one name; a place beyond all numbers.
    let twins = reopened(|block, _| block.copy_within(2304..2320, 2360));
    assert_eq!(twins, Err(Damage::Senseless("table of nodes")));
    let far = reopened(|block, _| block[2320..2336].fill(0xff));
    assert_eq!(far, Err(Damage::Senseless("place of a node")));
    // Unknown compatible features don't matter.
    assert_eq!(reopened(|block, _| block[16] = 0xff), Ok(()));
}

#[test]
fn torn_superblocks() {
    let old = full();
    let mut new = empty();
    let this = Superblock::open(&old).unwrap().copy_to(&mut new);
    this.bump();
    this.rename_data(uuid(9));
    this.seal();
    for sectors in 0..=8 {
        // A is being written; B is still the old one.
        let mut torn = old.clone();
        torn[..sectors * 512].copy_from_slice(&new[..sectors * 512]);
        let found = Superblock::newest(Some(&torn), Some(&old)).unwrap();
        assert_eq!(found.generation(), if torn == new { 3 } else { 2 });
        // A is written; B is being written.
        let found = Superblock::newest(Some(&new), Some(&torn)).unwrap();
        assert_eq!(found.generation(), 3);
        // A can't be read any more.
        let alone = Superblock::newest(None, Some(&torn));
        assert_eq!(alone.is_ok(), torn == old || torn == new);
    }
    let nothing = empty();
    let newest = |a, b| Superblock::newest(a, b).err();
    assert_eq!(newest(None, None), Some(Damage::Unreadable));
    assert_eq!(
        newest(Some(&nothing), Some(&nothing)),
        Some(Damage::NoMagic)
    );
    let mut bad = old.clone();
    bad[100] ^= 1;
    assert_eq!(newest(Some(&nothing), Some(&bad)), Some(Damage::Checksum));
    assert_eq!(newest(Some(&bad), Some(&old)), None);
    // B is newer: A was put back.
    assert_eq!(
        Superblock::newest(Some(&old), Some(&new))
            .unwrap()
            .generation(),
        3
    );
    // B is of an older storage with many generations.
    let mut other = empty();
    let this = Superblock::open(&old).unwrap().copy_to(&mut other);
    (0..900).for_each(|_| this.bump());
    this.address(2, uuid(50), 4096);
    this.seal();
    let found = Superblock::newest(Some(&new), Some(&other)).unwrap();
    assert_eq!(found.generation(), 3);
}

/// Block 3 of a log, with something in it.
fn full_log(sequence: u64) -> Box<Block> {
    let mut block = empty();
    let this = LogBlock::blank(&mut block, 3, sequence, 9);
    this.fill(|at| at as u32 & log::STALE | log::WRITTEN);
    this.set(5, log::ACTIVE);
    this.set(ENTRIES, 0);
    this.seal(&uuid(1));
    block
}

#[test]
fn log_round_trip() {
    let block = full_log(4);
    let this = LogBlock::open(&block, &uuid(1), 3, 0).unwrap();
    assert_eq!(
        (this.index(), this.sequence(), this.generation()),
        (3, 4, 9)
    );
    assert_eq!(this.entry(5), log::ACTIVE);
    assert_eq!(this.entry(7), 7 | log::WRITTEN);
    assert_eq!(this.entry(ENTRIES), log::UNKNOWN);
    assert_eq!(this.entries().count(), ENTRIES);
    let wrong = |storage, index, slot| LogBlock::open(&block, &storage, index, slot).err();
    assert_eq!(wrong(uuid(2), 3, 0), Some(Damage::Checksum));
    let place = Some(Damage::Senseless("place in the log"));
    assert_eq!((wrong(uuid(1), 2, 0), wrong(uuid(1), 3, 1)), (place, place));
}

#[test]
fn torn_log_blocks() {
    let (old, new, oldest) = (full_log(6), full_log(7), full_log(5));
    for sectors in 0..=8 {
        let mut odd = oldest.clone();
        odd[..sectors * 512].copy_from_slice(&new[..sectors * 512]);
        let mut found = log::Found::default();
        let taken = found.take([&old, &odd], &uuid(1), 3, true).unwrap();
        let expected = if odd == new { 7 } else { 6 };
        assert_eq!(taken.sequence(), expected, "{sectors}");
        assert_eq!(found.sequence(), expected);
        // Nobody can tell whether somebody relied on what was in the other slot.
        let whole = sectors == 0 || odd == new;
        assert_eq!(found.doubt() == 0, whole, "{sectors}");
    }
    let nothing = empty();
    let newest = |slots| log::newest(slots, &uuid(1), 3).map(LogBlock::sequence);
    assert_eq!(newest([&old, &new]), Some(7));
    assert_eq!(newest([&nothing, &new]), None);
    assert_eq!(newest([&old, &nothing]), None);
    // In the wrong slots.
    assert_eq!(newest([&new, &old]), None);
}

#[test]
fn a_damaged_log_is_made_good_by_another_copy() {
    let (old, new, nothing) = (full_log(6), full_log(7), empty());
    let older = full_log(5);
    let take = |found: &mut log::Found, slots, in_sync| {
        let taken = found.take(slots, &uuid(1), 3, in_sync);
        taken.map(LogBlock::sequence)
    };
    let mut found = log::Found::default();
    assert_eq!(found.doubt(), log::UNKNOWN, "nothing was found");
    assert_eq!(take(&mut found, [&old, &nothing], true), Some(6));
    assert_eq!(found.doubt(), log::UNKNOWN);
    // One that is not in sync knows nothing of what others rely on, but its numbers are taken.
    assert_eq!(take(&mut found, [&old, &new], false), None);
    assert_eq!((found.doubt(), found.sequence()), (log::UNKNOWN, 7));
    assert_eq!(take(&mut found, [&old, &new], true), Some(7));
    assert_eq!((found.doubt(), found.sequence()), (0, 7));
    assert_eq!(take(&mut found, [&old, &new], true), None, "it is known");
    // What a damaged copy has beyond it is taken, too.
    let mut found = log::Found::default();
    assert_eq!(take(&mut found, [&old, &older], true), Some(6));
    assert_eq!(take(&mut found, [&nothing, &new], true), Some(7));
    assert_eq!(found.doubt(), 0);
}

/// Sizes in sectors that a node can have, from the least to 8 EiB.
fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![
        4096u64..8192,
        (4096u64..1 << 20),
        (12u32..55, -20i64..20).prop_map(|(shift, near)| {
            (1u64 << shift)
                .saturating_add_signed(near)
                .clamp(4096, 1 << 54)
        }),
        4096u64..=1 << 54,
    ]
}

/// Checks that nothing overlaps and that each sector of the data has its entry.
fn check_layout(sectors: u64) -> Result<(), TestCaseError> {
    let layout = Layout::mirror(sectors).unwrap();
    let log = layout.log.unwrap();
    prop_assert!(log.is_valid() && log.covers(layout.data));
    prop_assert!(layout.data > 0 && layout.data % DATA_UNIT == 0);
    prop_assert!(layout.data <= layout.log_start);
    prop_assert!(layout.log_start - layout.data < DATA_UNIT);
    prop_assert_eq!(layout.log_start + log.sectors(), layout.superblock_b());
    prop_assert_eq!(layout.superblock_b() + BLOCK_SECTORS, layout.superblock_a());
    prop_assert_eq!(layout.superblock_a() + BLOCK_SECTORS, layout.sectors);
    prop_assert!(sectors - layout.sectors < BLOCK_SECTORS);
    prop_assert_eq!(
        superblocks(sectors),
        Some([layout.superblock_a(), layout.superblock_b()])
    );
    // Entries begin with the first one, go up, and end before the log does.
    prop_assert_eq!(log.place(0), Some((0, 0)));
    let (block, entry) = log.place(layout.data - 1).unwrap();
    prop_assert!(block < log.blocks && entry < ENTRIES);
    let region = u64::from(block) * ENTRIES as u64 + entry as u64;
    prop_assert_eq!(region, (layout.data - 1) >> log.region_shift);
    prop_assert_eq!(log.place(u64::MAX), None);
    // Regions are as small as they can be.
    if log.region_shift > MIN_REGION_SHIFT {
        let smaller = Log {
            region_shift: log.region_shift - 1,
            blocks: MAX_LOG_BLOCKS,
        };
        prop_assert!(!smaller.covers(sectors - 2 * BLOCK_SECTORS));
    }
    // Slots lie side by side in the log.
    let last = layout.slot(log.blocks - 1, 1).unwrap();
    prop_assert_eq!(layout.slot(0, 8), Some(layout.log_start));
    prop_assert_eq!(layout.slot(0, 7), Some(layout.log_start + BLOCK_SECTORS));
    prop_assert_eq!(last + BLOCK_SECTORS, layout.superblock_b());
    prop_assert_eq!(layout.slot(log.blocks, 0), None);
    // Without a log there is more room for data, never less.
    let linear = Layout::new(sectors, None).unwrap();
    prop_assert!(linear.data >= layout.data && linear.slot(0, 0).is_none());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn layouts(sectors in sizes()) {
        check_layout(sectors)?;
    }

    /// A node that is larger than the smallest one holds the array too, with the same log.
    #[test]
    fn unequal_copies(small in sizes(), more in sizes()) {
        let layout = Layout::mirror(small).unwrap();
        let other = Layout::new(small + more, layout.log).unwrap();
        prop_assert!(other.data >= layout.data);
    }

    #[test]
    fn layouts_of_anything(sectors: u64, shift: u32, blocks: u32, sector: u64) {
        let log = Log { region_shift: shift, blocks };
        let _ = (log.covers(sectors), log.place(sector), log.sectors(), log.is_valid());
        let _ = superblocks(sectors);
        let tiny = sectors % 6000;
        for size in [sectors, tiny] {
            if let Ok(layout) = Layout::new(size, Some(log)) {
                prop_assert!(layout.data <= layout.log_start);
                let _ = layout.slot(shift, sector);
            }
            match Layout::mirror(size) {
                Ok(layout) => prop_assert!(layout.data >= DATA_UNIT),
                Err(error) => {
                    prop_assert!(size < error.least && !error.to_string().is_empty());
                }
            }
        }
    }

    #[test]
    fn crc_is_that_of_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..300), cut: prop::sample::Index) {
        prop_assert_eq!(crc32c(&bytes), slow_crc(&bytes));
        let (before, behind) = bytes.split_at(cut.index(bytes.len() + 1));
        prop_assert_eq!(Crc::new().with(before).with(behind).value(), crc32c(&bytes));
    }

    /// Whatever lies on a disk: no panic, and what is understood is whole.
    #[test]
    fn any_block(seed: u64, magic: bool, crc: bool) {
        let mut block = empty();
        let mut state = seed;
        for byte in block.iter_mut() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        if magic {
            block[..8].copy_from_slice(&MAGIC);
        }
        if crc {
            block[12..16].copy_from_slice(&VERSION.to_le_bytes());
            block[24..32].fill(0);
            block[8..12].fill(0);
            let crc = slow_crc(&block[..]);
            block[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        let error = Superblock::open(&block).err().unwrap();
        prop_assert!(!error.to_string().is_empty());
        prop_assert_eq!(error == Damage::NoMagic, !magic);
        prop_assert_eq!(matches!(error, Damage::Senseless(_)), magic && crc);
        prop_assert!(LogBlock::open(&block, &uuid(1), 0, 0).is_err());
    }

    /// Any settings come back as they were made.
    #[test]
    fn superblocks_round_trip(
        nodes in prop::collection::vec((any::<[u8; 16]>(), 0u64..1 << 40, 1u64..1 << 40, any::<u64>(), 1u8..5), 1..=MAX_NODES),
        name in "[A-Za-z0-9][A-Za-z0-9._-]{0,26}",
        sectors in 1u64..1 << 54,
        epoch: u64,
        label in "\\PC{0,30}",
    ) {
        let mut block = empty();
        let new = New {
            storage: uuid(1), name: &name, alg: "alg_linear", created: epoch, block_size: 4096, sectors,
            log: None, data: uuid(2),
        };
        let this = Superblock::blank(&mut block, &new).unwrap();
        let mut entries = Vec::new();
        for (index, (bytes, start, size, seen, state)) in nodes.into_iter().enumerate() {
            let mut uuid = Uuid(bytes);
            uuid.0[0] = index as u8 + 1;
            let state = [NodeState::InSync, NodeState::Healing, NodeState::Missing, NodeState::Spare]
                [usize::from(state) - 1];
            let entry = Entry { uuid, start, size, seen, state };
            this.set_entry(index as u32, &entry).unwrap();
            this.set_label(index as u32, &label).unwrap();
            entries.push(entry);
        }
        this.set_epoch(epoch);
        this.address(0, entries[0].uuid, 8192);
        this.seal();
        let block = *this.block();
        let this = Superblock::open(&block).unwrap();
        let found: Vec<_> = this.entries().map(|(_, entry)| entry).collect();
        prop_assert_eq!(found, entries);
        prop_assert_eq!((this.name(), this.sectors(), this.epoch()), (name.as_str(), sectors, epoch));
        prop_assert!(label.ends_with(this.label(0)) && this.label(0).len() <= LABEL_LEN);
        prop_assert_eq!(this.replacement(), None);
    }
}

#[test]
fn layouts_at_the_edges() {
    for sectors in [4096, 4097, 1 << 31, (1 << 31) + 1, 1 << 41, 1 << 54] {
        check_layout(sectors).unwrap();
    }
    // 2 MiB is the least that a mirror takes whatever the log; what is less may do, or is refused in words.
    assert_eq!(Layout::mirror(4096).unwrap().data, 2048);
    assert_eq!(Layout::mirror(2080).unwrap().data, 2048);
    let error = Layout::mirror(2079).unwrap_err();
    assert_eq!(error.least, 2080);
    assert_eq!(
        error.to_string(),
        "it has 2079 sectors; at least 2080 are needed, take a larger one"
    );
    assert_eq!(superblocks(15), None);
    assert_eq!(Log::for_array(0), None);
    assert_eq!(
        Layout::mirror(u64::MAX).unwrap().log.unwrap().region_shift,
        47
    );
}

#[test]
fn names_that_do_not_fit() {
    let mut block = empty();
    let new = New {
        storage: uuid(1),
        name: "a-name-of-more-than-thirty-two-bytes",
        alg: "alg_linear",
        created: 0,
        block_size: 512,
        sectors: 1,
        log: None,
        data: uuid(2),
    };
    assert!(Superblock::blank(&mut block, &new).is_none());
}
