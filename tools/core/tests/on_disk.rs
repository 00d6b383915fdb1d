// SPDX-License-Identifier: GPL-2.0

//! `docs/on-disk.md` says what is written: its tables are read, and compared with what the code writes and reads.

use std::{
    collections::HashMap,
    ops::Range, //
};

use dst_core::{
    alg_mirror::regions,
    meta::{
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
    },
};

const PAGE: &str = include_str!("../../../docs/on-disk.md");

/// The cells of a row of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// The rows of the one table whose last column has this title.
fn table(title: &str) -> Vec<Vec<&'static str>> {
    let heads = |line: &str| cells(line).is_some_and(|cells| cells.last() == Some(&title));
    let lines: Vec<&str> = PAGE.lines().collect();
    let at: Vec<usize> = (0..lines.len()).filter(|at| heads(lines[*at])).collect();
    assert_eq!(at.len(), 1, "tables with the column {title:?}");
    let rows = lines[at[0] + 2..].iter().map_while(|line| cells(line));
    rows.collect()
}

fn code(cell: &str) -> &str {
    let inner = cell.strip_prefix('`').and_then(|s| s.strip_suffix('`'));
    inner.unwrap_or_else(|| panic!("{cell:?} is no code"))
}

/// Where the fields of a table are: first byte and length, by name. They lie one behind the other, from 0 to `end`.
fn fields(title: &str, end: usize) -> HashMap<&'static str, (usize, usize)> {
    let mut next = 0;
    let mut fields = HashMap::new();
    for row in table(title) {
        let (at, size): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
        assert_eq!(at, next, "{}: a hole, or an overlap", row[2]);
        next = at + size;
        assert!(fields.insert(code(row[2]), (at, size)).is_none());
    }
    assert_eq!(next, end, "{title}");
    fields
}

struct Fields {
    fields: HashMap<&'static str, (usize, usize)>,
    seen: Vec<&'static str>,
    base: usize,
}

impl Fields {
    fn new(title: &str, end: usize, base: usize) -> Self {
        Self {
            fields: fields(title, end),
            seen: Vec::new(),
            base,
        }
    }

    fn place(&mut self, name: &'static str) -> Range<usize> {
        self.seen.push(name);
        let (at, size) = self.fields[name];
        self.base + at..self.base + at + size
    }

    fn bytes<'a>(&mut self, block: &'a Block, name: &'static str) -> &'a [u8] {
        &block[self.place(name)]
    }

    /// A field is this number.
    fn is(&mut self, block: &Block, name: &'static str, value: u64) {
        let mut bytes = self.bytes(block, name).to_vec();
        assert!(bytes.len() <= 8, "{name}");
        bytes.resize(8, 0);
        assert_eq!(bytes, value.to_le_bytes(), "{name}");
    }

    fn is_text(&mut self, block: &Block, name: &'static str, value: &str) {
        let bytes = self.bytes(block, name);
        let (text, rest) = bytes.split_at(value.len());
        assert_eq!(text, value.as_bytes(), "{name}");
        assert!(rest.iter().all(|byte| *byte == 0), "{name}");
    }

    fn is_uuid(&mut self, block: &Block, name: &'static str, value: Uuid) {
        assert_eq!(self.bytes(block, name), value.0, "{name}");
    }

    /// Nothing was left out.
    fn all(self) {
        for name in self.fields.keys() {
            assert!(self.seen.contains(name), "{name} was not looked at");
        }
    }
}

fn empty() -> Box<Block> {
    vec![0u8; BLOCK].try_into().unwrap()
}

fn uuid(n: u8) -> Uuid {
    Uuid::random([n; 16])
}

/// The checksum of a block, its field taken as zero, behind `before`.
fn checksum(before: &[u8], block: &Block, field: &Range<usize>) -> u32 {
    let mut copy = block.to_vec();
    copy[field.clone()].fill(0);
    Crc::new().with(before).with(&copy).value()
}

const LOG: Log = Log {
    region_shift: 9,
    blocks: 3,
};
const SECTORS: u64 = 0x0009_8765;
const NODE_SECTORS: u64 = 0x0102_0300;
const CREATED: u64 = 0x0011_2233_4455_6677;
const EPOCH: u64 = 0x1122_3344_5566_7788;

fn entry(index: u32) -> Entry {
    Entry {
        uuid: uuid(0x20 + index as u8),
        start: 0x0102_0304_0506_0708 + u64::from(index),
        size: 0x1112_1314_1516_1718,
        seen: 0x2122_2324_2526_2728,
        state: match index {
            0 => NodeState::InSync,
            1 => NodeState::Healing,
            2 => NodeState::Missing,
            _ => NodeState::Spare,
        },
    }
}

/// A superblock whose fields all have values of their own.
fn superblock() -> Box<Block> {
    let mut block = empty();
    let new = New {
        storage: uuid(1),
        name: "storage",
        alg: "alg_mirror",
        created: CREATED,
        block_size: 2048,
        sectors: SECTORS,
        log: Some(LOG),
        data: uuid(2),
    };
    let this = Superblock::blank(&mut block, &new).unwrap();
    this.advance(0x0102_0304_0506_0700);
    this.rename_data(uuid(3));
    this.bump();
    this.rename_data(uuid(4));
    this.bump();
    for index in 0..4 {
        this.set_entry(index, &entry(index)).unwrap();
        this.set_label(index, &format!("label {index}")).unwrap();
    }
    this.set_running(true);
    this.set_epoch(EPOCH);
    this.set_replacement(Some(Replacement {
        from: 3,
        to: 1,
        done: 0x0708_090a_0b0c_0d0e,
    }));
    this.address(2, uuid(0x22), NODE_SECTORS);
    this.seal();
    block
}

#[test]
fn constants() {
    let known = [
        ("BLOCK", BLOCK as u64),
        ("DATA_UNIT", DATA_UNIT),
        ("ENTRIES", ENTRIES as u64),
        ("MAX_LOG_BLOCKS", MAX_LOG_BLOCKS.into()),
        ("MIN_REGION_SHIFT", MIN_REGION_SHIFT.into()),
        ("MAX_REGION_SHIFT", MAX_REGION_SHIFT.into()),
        ("MAX_NODES", MAX_NODES as u64),
        ("MAX_COPIES", MAX_COPIES as u64),
        ("HISTORY", HISTORY as u64),
        ("NAME_LEN", NAME_LEN as u64),
        ("ALG_LEN", ALG_LEN as u64),
        ("LABEL_LEN", LABEL_LEN as u64),
        ("VERSION", VERSION.into()),
        ("INCOMPATIBLE", INCOMPATIBLE),
    ];
    let rows = table("Meaning");
    let rows: Vec<_> = rows.iter().filter(|row| row.len() == 3).collect();
    let told: HashMap<&str, u64> = rows
        .iter()
        .map(|row| (code(row[0]), row[1].parse().unwrap()))
        .collect();
    assert_eq!(told, HashMap::from(known));
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert!(PAGE.contains("`0xe3069283`") && PAGE.contains("`0x82f63b78`"));
}

#[test]
fn superblock_fields() {
    let block = superblock();
    let this = Superblock::open(&block).unwrap();
    let mut fields = Fields::new("Meaning in a superblock", BLOCK, 0);
    assert_eq!(fields.bytes(&block, "magic"), MAGIC);
    assert!(PAGE.contains(&format!("`{}`", std::str::from_utf8(&MAGIC).unwrap())));
    let crc = fields.place("crc");
    fields.is(&block, "crc", checksum(&[], &block, &crc).into());
    fields.is(&block, "version", VERSION.into());
    fields.is_uuid(&block, "storage", uuid(1));
    fields.is_uuid(&block, "node", uuid(0x22));
    fields.is(&block, "node_sectors", NODE_SECTORS);
    fields.is(&block, "index", 2);
    fields.is(&block, "flags", 1);
    fields.is(&block, "generation", 0x0102_0304_0506_0702);
    fields.is(&block, "epoch", EPOCH);
    fields.is_uuid(&block, "data", uuid(4));
    fields.is_text(&block, "name", "storage");
    fields.is_text(&block, "alg", "alg_mirror");
    fields.is(&block, "created", CREATED);
    fields.is(&block, "sectors", SECTORS);
    fields.is(&block, "block_size", 2048);
    fields.is(&block, "nodes", 4);
    fields.is(&block, "region_shift", LOG.region_shift.into());
    fields.is(&block, "log_blocks", LOG.blocks.into());
    fields.is(&block, "replace_from", 3);
    fields.is(&block, "replace_to", 1);
    fields.is(&block, "replace_done", 0x0708_090a_0b0c_0d0e);
    let history = fields.place("history");
    let table = fields.place("table");
    assert_eq!(history.len(), HISTORY * 24);
    assert_eq!(table.len(), MAX_NODES * 56);

    // What nobody sets.
    let change = |at: usize, to: u8| {
        let mut block = superblock();
        block[at] = to;
        let sum = checksum(&[], &block, &crc);
        block[crc.clone()].copy_from_slice(&sum.to_le_bytes());
        Superblock::open(&block).map(|_| ())
    };
    for at in fields.place("compatible") {
        assert_eq!(change(at, 0xff), Ok(()), "compatible");
    }
    for at in fields.place("reserved") {
        assert_eq!(change(at, 0xff), Ok(()), "reserved");
    }
    let incompatible = fields.place("incompatible");
    for (n, at) in incompatible.enumerate() {
        let bit = 1u64 << (8 * n);
        assert_eq!(change(at, 1), Err(Damage::Features(bit)), "incompatible");
    }
    let version = fields.place("version");
    assert_eq!(change(version.start, 1), Err(Damage::Version(1)));
    assert_eq!(this.generation(), 0x0102_0304_0506_0702);
    fields.all();
}

#[test]
fn superblock_history() {
    let block = superblock();
    let place = fields("Meaning in a superblock", BLOCK)["history"];
    let each = place.1 / HISTORY;
    let expected = [
        (uuid(3), 0x0102_0304_0506_0701),
        (uuid(2), 0x0102_0304_0506_0700),
        (Uuid::NONE, 0),
    ];
    for (n, (data, until)) in expected.into_iter().enumerate() {
        let mut past = Fields::new("Meaning of a past data id", each, place.0 + n * each);
        past.is_uuid(&block, "data", data);
        past.is(&block, "until", until);
        past.all();
    }
}

#[test]
fn superblock_table() {
    let block = superblock();
    let place = fields("Meaning in a superblock", BLOCK)["table"];
    let each = place.1 / MAX_NODES;
    for index in 0..4u32 {
        let base = place.0 + index as usize * each;
        let mut node = Fields::new("Meaning of a node", each, base);
        let told = entry(index);
        node.is_uuid(&block, "uuid", told.uuid);
        node.is(&block, "start", told.start);
        node.is(&block, "size", told.size);
        node.is(&block, "seen", told.seen);
        node.is(&block, "state", told.state as u64);
        node.is_text(&block, "label", &format!("label {index}"));
        node.all();
    }
    let states = [
        NodeState::Empty,
        NodeState::InSync,
        NodeState::Healing,
        NodeState::Missing,
        NodeState::Spare,
    ];
    let rows = table("Meaning of a state");
    let told: Vec<(u8, &str)> = rows
        .iter()
        .map(|row| (row[0].parse().unwrap(), code(row[1])))
        .collect();
    let names: Vec<String> = states.iter().map(|state| format!("{state:?}")).collect();
    let known: Vec<(u8, &str)> = states
        .iter()
        .map(|state| *state as u8)
        .zip(names.iter().map(String::as_str))
        .collect();
    assert_eq!(told, known);
}

#[test]
fn log_fields() {
    let mut block = empty();
    let storage = uuid(7);
    let sequence = 0x0102_0304_0506_0709;
    let this = LogBlock::blank(&mut block, 0x0a0b_0c0d, sequence, 0x1112_1314_1516_1718);
    this.fill(|at| 0x8000_0000 | at as u32);
    this.seal(&storage);
    let mut fields = Fields::new("Meaning in a block of the log", BLOCK, 0);
    fields.is(&block, "magic", log::MAGIC.into());
    assert_eq!(&block[..4], b"DSTL");
    assert!(PAGE.contains("`DSTL`"));
    let crc = fields.place("crc");
    fields.is(&block, "crc", checksum(&storage.0, &block, &crc).into());
    fields.is(&block, "index", 0x0a0b_0c0d);
    fields.is(&block, "reserved", 0);
    fields.is(&block, "sequence", sequence);
    fields.is(&block, "generation", 0x1112_1314_1516_1718);
    let entries = fields.place("entries");
    assert_eq!(entries.len(), 4 * ENTRIES);
    for (at, raw) in block[entries].chunks(4).enumerate() {
        assert_eq!(raw, (0x8000_0000 | at as u32).to_le_bytes());
    }
    fields.all();
    assert!(LogBlock::open(&block, &storage, 0x0a0b_0c0d, 1).is_ok());
    assert!(LogBlock::open(&block, &storage, 0x0a0b_0c0d, 0).is_err());
}

#[test]
fn log_bits() {
    let rows = table("Meaning of an entry");
    let told: HashMap<&str, u32> = rows
        .iter()
        .map(|row| {
            let bits = code(row[0]).strip_prefix("0x").unwrap();
            (code(row[1]), u32::from_str_radix(bits, 16).unwrap())
        })
        .collect();
    let known = [
        ("STALE", log::STALE),
        ("ACTIVE", log::ACTIVE),
        ("WRITTEN", log::WRITTEN),
    ];
    assert_eq!(told, HashMap::from(known));
    // The core has them once more.
    assert_eq!(
        (log::STALE, log::ACTIVE, log::WRITTEN),
        (regions::STALE, regions::ACTIVE, regions::WRITTEN)
    );
    assert_eq!(log::UNKNOWN, log::ACTIVE | log::WRITTEN);
}

#[test]
fn places() {
    assert_eq!(BLOCK_SECTORS, 8);
    for sectors in [100_000u64, 100_001, 100_007, 1 << 33] {
        let layout = Layout::new(sectors, Some(LOG)).unwrap();
        let whole = sectors / 8 * 8;
        let log_start = whole - 16 - 16 * u64::from(LOG.blocks);
        assert_eq!(layout.superblock_a(), whole - 8);
        assert_eq!(layout.superblock_b(), whole - 16);
        assert_eq!(superblocks(sectors), Some([whole - 8, whole - 16]));
        assert_eq!(layout.log_start, log_start);
        assert_eq!(layout.data, log_start / 2048 * 2048);
        for (block, sequence) in [(0, 0), (0, 1), (2, 6), (2, 7)] {
            let slot = log_start + 8 * (2 * u64::from(block) + sequence % 2);
            assert_eq!(layout.slot(block, sequence), Some(slot));
        }
        assert_eq!(layout.slot(LOG.blocks, 0), None);
    }
    // Entry e of block k describes region 1016 k + e.
    let region = 1016 * 2 + 5;
    assert_eq!(LOG.place(region << LOG.region_shift), Some((2, 5)));
    // The smallest shift with which the regions fit into 256 blocks, and as many blocks as they need.
    let most = 256 * 1016;
    for (sectors, shift, blocks) in [
        (1, 7, 1),
        (1016 << 7, 7, 1),
        ((1016 << 7) + 1, 7, 2),
        (most << 7, 7, 256),
        ((most << 7) + 1, 8, 129),
    ] {
        let log = Log::for_array(sectors).unwrap();
        assert_eq!((log.region_shift, log.blocks), (shift, blocks), "{sectors}");
    }
}
