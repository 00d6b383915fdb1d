// SPDX-License-Identifier: GPL-2.0

//! The superblock: who a node is, and what it knows of the other nodes of its storage.
//!
//! A node has two superblocks with the same content. B is written after A is durable, so a write that is
//! cut off leaves one of them whole. A storage keeps one superblock in memory; [`Superblock::address`] and
//! [`Superblock::seal`] make it that of one node before it is written there.
//!
//! What lies at the positions of magic, checksum and version, and how the checksum is made, stays the same
//! in all versions of the format.

use zerocopy::{
    little_endian::{
        U32,
        U64, //
    },
    IntoBytes, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes, //
};

use super::{
    crc::Crc,
    layout::{
        Layout,
        Log, //
    },
    set_text,
    text,
    Block,
    Damage,
    Uuid,
    BLOCK, //
};
use crate::uapi::valid_name;

pub use super::entry::{
    Entry,
    New,
    NodeState,
    Past,
    Replacement, //
};

/// How a superblock begins.
pub const MAGIC: [u8; 8] = *b"DSTSUPER";
/// Version of the format.
pub const VERSION: u32 = 2;
/// Features without which a node can't be used, as far as this version knows them: none yet.
pub const INCOMPATIBLE: u64 = 0;

/// Nodes that the table has room for.
pub const MAX_NODES: usize = 32;
/// Copies that a mirror can have: an entry of the log has a bit for each.
pub const MAX_COPIES: usize = 16;
/// Older states of the data that are remembered.
pub const HISTORY: usize = 74;
/// Bytes of a storage's name.
pub const NAME_LEN: usize = 32;
/// Bytes of an algorithm's name.
pub const ALG_LEN: usize = 16;
/// Bytes of a node's label.
pub const LABEL_LEN: usize = 15;

/// [`Superblock::is_running`]: the storage was not stopped cleanly.
const RUNNING: u32 = 1 << 0;
/// [`Superblock::replacement`]: there is none.
const NOBODY: u32 = u32::MAX;

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawEntry {
    uuid: Uuid,
    start: U64,
    size: U64,
    seen: U64,
    state: u8,
    label: [u8; LABEL_LEN],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawPast {
    data: Uuid,
    until: U64,
}

/// A superblock, in the memory that it is read to and written from.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Superblock {
    magic: [u8; 8],
    crc: U32,
    version: U32,
    compatible: U64,
    incompatible: U64,
    storage: Uuid,
    node: Uuid,
    node_sectors: U64,
    index: U32,
    flags: U32,
    generation: U64,
    epoch: U64,
    data: Uuid,
    name: [u8; NAME_LEN],
    alg: [u8; ALG_LEN],
    created: U64,
    sectors: U64,
    block_size: U32,
    nodes: U32,
    region_shift: U32,
    log_blocks: U32,
    replace_from: U32,
    replace_to: U32,
    replace_done: U64,
    reserved: [u8; 320],
    history: [RawPast; HISTORY],
    table: [RawEntry; MAX_NODES],
}

const _: () = assert!(core::mem::size_of::<Superblock>() == BLOCK);
const _: () = assert!(core::mem::offset_of!(Superblock, table) == 2304);

impl Superblock {
    /// Makes `block` the superblock of a new storage without nodes, of generation 1.
    ///
    /// `None` if a name is too long.
    pub fn blank<'a>(block: &'a mut Block, new: &New<'_>) -> Option<&'a mut Self> {
        block.fill(0);
        let this: &mut Self = zerocopy::transmute_mut!(block);
        this.magic = MAGIC;
        this.version = U32::new(VERSION);
        this.storage = new.storage;
        this.generation = U64::new(1);
        this.data = new.data;
        set_text(&mut this.name, new.name)?;
        set_text(&mut this.alg, new.alg)?;
        this.created = U64::new(new.created);
        this.sectors = U64::new(new.sectors);
        this.block_size = U32::new(new.block_size);
        if let Some(log) = new.log {
            this.region_shift = U32::new(log.region_shift);
            this.log_blocks = U32::new(log.blocks);
        }
        this.set_replacement(None);
        Some(this)
    }

    /// Understands a block.
    pub fn open(block: &Block) -> Result<&Self, Damage> {
        let this: &Self = zerocopy::transmute_ref!(block);
        if this.magic != MAGIC {
            return Err(Damage::NoMagic);
        }
        if this.crc.get() != this.checksum() {
            return Err(Damage::Checksum);
        }
        this.check()?;
        Ok(this)
    }

    /// Of a node's superblocks A and B, as they were read, the one that counts; `None`: it could not be
    /// read.
    ///
    /// A is written first. So if both are whole but not of one node of one storage, B is what another
    /// storage left there.
    pub fn newest<'a>(a: Option<&'a Block>, b: Option<&'a Block>) -> Result<&'a Self, Damage> {
        let open = |block: Option<&'a Block>| block.map_or(Err(Damage::Unreadable), Self::open);
        match (open(a), open(b)) {
            (Ok(a), Ok(b)) => {
                let same = (a.storage, a.node) == (b.storage, b.node);
                Ok(if same && b.generation() > a.generation() {
                    b
                } else {
                    a
                })
            }
            // A later version may have written A alone so far: what it knows must not be lost.
            (Err(too_new @ (Damage::Version(_) | Damage::Features(_))), _) => Err(too_new),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            (Err(a), Err(b)) => Err(if b.depth() > a.depth() { b } else { a }),
        }
    }

    /// Whether of a node's superblocks, as far as they could be read, B is written first: it is not the only good one, nor
    /// the newer one. So a write that is cut off leaves what counts now, or what counts next.
    pub fn b_goes_first(a: Option<&Block>, b: Option<&Block>) -> bool {
        let open = |block: Option<&Block>| {
            block.and_then(|block| Self::open(block).ok().map(Self::identity))
        };
        match (open(a), open(b)) {
            (Some((of_a, a)), Some((of_b, b))) => of_a != of_b || b < a,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    fn identity(&self) -> ((Uuid, Uuid), u64) {
        ((self.storage, self.node), self.generation())
    }

    /// The superblock in memory of ours, to change it further: nothing is checked. It must be sealed again.
    pub fn edit(block: &mut Block) -> &mut Self {
        zerocopy::transmute_mut!(block)
    }

    /// Copies a superblock, to change it.
    pub fn copy_to<'a>(&self, block: &'a mut Block) -> &'a mut Self {
        block.copy_from_slice(self.as_bytes());
        zerocopy::transmute_mut!(block)
    }

    /// Computes the checksum. The block can be written now.
    pub fn seal(&mut self) {
        self.crc = U32::new(self.checksum());
    }

    /// The block, to be written.
    pub fn block(&self) -> &Block {
        zerocopy::transmute_ref!(self)
    }

    fn checksum(&self) -> u32 {
        let (before, rest) = self.as_bytes().split_at(8);
        let (_, behind) = rest.split_at(4);
        Crc::new().with(before).with(&[0; 4]).with(behind).value()
    }

    /// Checks that the content makes sense.
    fn check(&self) -> Result<(), Damage> {
        let sense = |good: bool, field| match good {
            true => Ok(()),
            false => Err(Damage::Senseless(field)),
        };
        if self.version.get() != VERSION {
            return Err(Damage::Version(self.version.get()));
        }
        let unknown = self.incompatible.get() & !INCOMPATIBLE;
        if unknown != 0 {
            return Err(Damage::Features(unknown));
        }
        sense(!self.storage.is_none(), "storage UUID")?;
        sense(!self.node.is_none(), "node UUID")?;
        sense(!self.data.is_none(), "data id")?;
        sense(self.generation() != 0, "generation")?;
        sense(valid_name(self.name()), "name")?;
        let graphic = self.alg().bytes().all(|byte| byte.is_ascii_graphic());
        sense(graphic && !self.alg().is_empty(), "algorithm")?;
        let block_size = self.block_size();
        let sizes = 512..=4096;
        sense(
            block_size.is_power_of_two() && sizes.contains(&block_size),
            "block size",
        )?;
        let log = self.log();
        let shape = (self.region_shift.get(), self.log_blocks.get());
        sense(
            log.map_or(shape == (0, 0), |log| {
                log.is_valid() && log.covers(self.sectors())
            }),
            "log",
        )?;
        let most = log.map_or(MAX_NODES, |_| MAX_COPIES);
        sense((1..=most).contains(&self.nodes()), "number of nodes")?;
        sense((self.index() as usize) < self.nodes(), "index")?;
        let layout = Layout::new(self.node_sectors(), log);
        sense(
            layout.is_ok_and(|layout| layout.sectors == self.node_sectors()),
            "size of the node",
        )?;
        sense(self.sectors() != 0, "size")?;
        let replacement = self
            .replacement()
            .is_none_or(|r| (r.from.max(r.to) as usize) < self.nodes() && r.from != r.to);
        sense(replacement, "replacement")?;
        self.check_table().map_err(Damage::Senseless)
    }

    fn check_table(&self) -> Result<(), &'static str> {
        for (at, raw) in self.table.iter().enumerate() {
            let Some(state) = NodeState::new(raw.state) else {
                return Err("state of a node");
            };
            if state == NodeState::Empty {
                continue;
            }
            if at >= self.nodes() || raw.uuid.is_none() {
                return Err("table of nodes");
            }
            if raw.start.get().checked_add(raw.size.get()).is_none() {
                return Err("place of a node");
            }
            let before = self.table.iter().take(at);
            if before
                .filter(|other| other.state != 0)
                .any(|other| other.uuid == raw.uuid)
            {
                return Err("table of nodes");
            }
        }
        Ok(())
    }

    /// Makes it the superblock of the node at `index`, which has `node_sectors` sectors.
    pub fn address(&mut self, index: u32, node: Uuid, node_sectors: u64) {
        self.index = U32::new(index);
        self.node = node;
        self.node_sectors = U64::new(node_sectors - node_sectors % super::BLOCK_SECTORS);
    }

    /// Begins the next generation.
    pub fn bump(&mut self) {
        // One for each nanosecond since the big bang: it does not end.
        self.generation = U64::new(self.generation().saturating_add(1));
    }

    /// Goes on from a generation that another node has, if that is newer.
    pub fn advance(&mut self, generation: u64) {
        self.generation = U64::new(self.generation().max(generation));
    }

    /// Gives the data another name: whoever has the old one only lacks what is written from now on. The
    /// next [`Self::bump`] belongs to it.
    pub fn rename_data(&mut self, data: Uuid) {
        self.history.rotate_right(1);
        if let Some(newest) = self.history.first_mut() {
            *newest = RawPast {
                data: self.data,
                until: self.generation,
            };
        }
        self.data = data;
    }

    /// Says whether the storage runs; what runs was not stopped cleanly.
    pub fn set_running(&mut self, running: bool) {
        let flags = self.flags.get() & !RUNNING;
        self.flags = U32::new(flags | if running { RUNNING } else { 0 });
    }

    /// Sets the epoch of the head.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = U64::new(epoch);
    }

    /// Gives the storage another name; `None`: it is too long.
    pub fn set_name(&mut self, name: &str) -> Option<()> {
        set_text(&mut self.name, name)
    }

    /// Sets the size of the storage.
    pub fn set_sectors(&mut self, sectors: u64) {
        self.sectors = U64::new(sectors);
    }

    /// Says which node's data are moving.
    pub fn set_replacement(&mut self, replacement: Option<Replacement>) {
        let (from, to, done) = match replacement {
            Some(r) => (r.from, r.to, r.done),
            None => (NOBODY, NOBODY, 0),
        };
        self.replace_from = U32::new(from);
        self.replace_to = U32::new(to);
        self.replace_done = U64::new(done);
    }

    /// Puts a node into the table, and clears its label; `None`: there is no room at that index.
    pub fn set_entry(&mut self, index: u32, entry: &Entry) -> Option<()> {
        let raw = self.table.get_mut(index as usize)?;
        *raw = RawEntry {
            uuid: entry.uuid,
            start: U64::new(entry.start),
            size: U64::new(entry.size),
            seen: U64::new(entry.seen),
            state: entry.state as u8,
            label: [0; LABEL_LEN],
        };
        if entry.state != NodeState::Empty {
            self.nodes = U32::new(self.nodes.get().max(index + 1));
        }
        Some(())
    }

    /// Changes what a node is; `None`: there is no such node.
    pub fn set_state(&mut self, index: u32, state: NodeState) -> Option<()> {
        self.table.get_mut(index as usize)?.state = state as u8;
        Some(())
    }

    /// Says that a node is known to hold a generation; `None`: there is no such node.
    pub fn set_seen(&mut self, index: u32, generation: u64) -> Option<()> {
        self.table.get_mut(index as usize)?.seen = U64::new(generation);
        Some(())
    }

    /// Says how people name a node, for sentences about it while it is away; the end counts if it is long.
    pub fn set_label(&mut self, index: u32, label: &str) -> Option<()> {
        let raw = self.table.get_mut(index as usize)?;
        let mut from = label.len().saturating_sub(LABEL_LEN);
        while !label.is_char_boundary(from) {
            from += 1;
        }
        set_text(&mut raw.label, label.get(from..)?)
    }

    /// The storage.
    pub fn storage(&self) -> Uuid {
        self.storage
    }

    /// The node that it was read from.
    pub fn node(&self) -> Uuid {
        self.node
    }

    /// The node's place in the table.
    pub fn index(&self) -> u32 {
        self.index.get()
    }

    /// Sectors of the node, rounded down to whole blocks.
    pub fn node_sectors(&self) -> u64 {
        self.node_sectors.get()
    }

    /// The storage's name.
    pub fn name(&self) -> &str {
        text(&self.name).unwrap_or("")
    }

    /// The algorithm's name.
    pub fn alg(&self) -> &str {
        text(&self.alg).unwrap_or("")
    }

    /// When the storage was made: seconds since 1970.
    pub fn created(&self) -> u64 {
        self.created.get()
    }

    /// Sectors of the storage.
    pub fn sectors(&self) -> u64 {
        self.sectors.get()
    }

    /// Logical block size in bytes.
    pub fn block_size(&self) -> u32 {
        self.block_size.get()
    }

    /// Counts the superblocks of the storage.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// The epoch of the head that wrote it.
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// The state of the data.
    pub fn data(&self) -> Uuid {
        self.data
    }

    /// Older states of the data, newest first.
    pub fn history(&self) -> impl Iterator<Item = Past> + '_ {
        let known = self.history.iter().filter(|past| !past.data.is_none());
        known.map(|past| Past {
            data: past.data,
            until: past.until.get(),
        })
    }

    /// Whether the storage runs, or was not stopped cleanly.
    pub fn is_running(&self) -> bool {
        self.flags.get() & RUNNING != 0
    }

    /// The log; a storage that has one is a mirror.
    pub fn log(&self) -> Option<Log> {
        (self.log_blocks.get() != 0).then(|| Log {
            region_shift: self.region_shift.get(),
            blocks: self.log_blocks.get(),
        })
    }

    /// The node whose data move.
    pub fn replacement(&self) -> Option<Replacement> {
        (self.replace_from.get() != NOBODY).then(|| Replacement {
            from: self.replace_from.get(),
            to: self.replace_to.get(),
            done: self.replace_done.get(),
        })
    }

    /// If the node waits to take the place of another one: what is known of that.
    pub fn waits_for(&self) -> Option<(Replacement, Entry)> {
        let (index, own) = self.find(self.node())?;
        let replacement = self.replacement().filter(|r| r.to == index)?;
        let other = self.entry(replacement.from)?;
        (own.state == NodeState::Spare && (own.start, own.size) == (other.start, other.size))
            .then_some((replacement, other))
    }

    /// Places of the table that are in use, empty ones between them included.
    pub fn nodes(&self) -> usize {
        self.nodes.get() as usize
    }

    /// The node at a place of the table.
    pub fn entry(&self, index: u32) -> Option<Entry> {
        let raw = self.table.get(index as usize)?;
        Some(raw.get()).filter(|entry| entry.state != NodeState::Empty)
    }

    /// All nodes, with their places in the table.
    pub fn entries(&self) -> impl Iterator<Item = (u32, Entry)> + '_ {
        let all = (0..).zip(self.table.iter().map(RawEntry::get));
        all.filter(|(_, entry)| entry.state != NodeState::Empty)
    }

    /// Finds a node in the table.
    pub fn find(&self, node: Uuid) -> Option<(u32, Entry)> {
        self.entries().find(|(_, entry)| entry.uuid == node)
    }

    /// How people named a node; may be empty.
    pub fn label(&self, index: u32) -> &str {
        let raw = self.table.get(index as usize);
        raw.and_then(|raw| text(&raw.label)).unwrap_or("")
    }
}

impl RawEntry {
    fn get(&self) -> Entry {
        Entry {
            uuid: self.uuid,
            start: self.start.get(),
            size: self.size.get(),
            seen: self.seen.get(),
            // Checked when it was opened, or set by us.
            state: NodeState::new(self.state).unwrap_or_default(),
        }
    }
}
