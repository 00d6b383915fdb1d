// SPDX-License-Identifier: GPL-2.0

//! The log of a mirror: for each region, which copies lack what was written there.
//!
//! Each block of the log has two slots on a node. They are written in turn, the slot of a sequence number
//! is its lowest bit, so a write that is cut off leaves the block before it whole. The checksum covers the
//! storage's UUID too: what another storage has left at the same place is never taken for this one's.

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
    layout::ENTRIES,
    Block,
    Damage,
    Uuid,
    BLOCK, //
};

/// How a block of the log begins: "DSTL".
pub const MAGIC: u32 = u32::from_le_bytes(*b"DSTL");

/// Of an entry: copy `i` lacks what was written to the region, for each bit `i` that is set.
pub const STALE: u32 = 0xffff;
/// Of an entry: writes were in flight or not yet flushed on all copies; after a crash these may differ.
pub const ACTIVE: u32 = 1 << 16;
/// Of an entry: something was written to the region. Others need no copying.
pub const WRITTEN: u32 = 1 << 17;
/// The entry of a region of which nothing is known: neither slot could be read.
pub const UNKNOWN: u32 = ACTIVE | WRITTEN;

/// A block of the log, in the memory that it is read to and written from.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct LogBlock {
    magic: U32,
    crc: U32,
    index: U32,
    reserved: U32,
    sequence: U64,
    generation: U64,
    entries: [U32; ENTRIES],
}

const _: () = assert!(core::mem::size_of::<LogBlock>() == BLOCK);

impl LogBlock {
    /// Makes `block` a block of the log whose regions were never written. [`Self::seal`] comes last.
    pub fn blank(block: &mut Block, index: u32, sequence: u64, generation: u64) -> &mut Self {
        block.fill(0);
        let this: &mut Self = zerocopy::transmute_mut!(block);
        this.magic = U32::new(MAGIC);
        this.index = U32::new(index);
        this.sequence = U64::new(sequence);
        this.generation = U64::new(generation);
        this
    }

    /// Sets all entries, by their position in the block.
    pub fn fill(&mut self, mut entry: impl FnMut(usize) -> u32) {
        for (at, raw) in self.entries.iter_mut().enumerate() {
            *raw = U32::new(entry(at));
        }
    }

    /// Sets one entry; nothing happens behind the last one.
    pub fn set(&mut self, at: usize, entry: u32) {
        if let Some(raw) = self.entries.get_mut(at) {
            *raw = U32::new(entry);
        }
    }

    /// Computes the checksum. The block can be written now.
    pub fn seal(&mut self, storage: &Uuid) {
        self.crc = U32::new(self.checksum(storage));
    }

    fn checksum(&self, storage: &Uuid) -> u32 {
        let (before, rest) = self.as_bytes().split_at(4);
        let (_, behind) = rest.split_at(4);
        Crc::new()
            .with(&storage.0)
            .with(before)
            .with(&[0; 4])
            .with(behind)
            .value()
    }

    /// Understands block `index` of a storage's log, as it was read from `slot` (0 or 1).
    pub fn open<'a>(
        block: &'a Block,
        storage: &Uuid,
        index: u32,
        slot: u64,
    ) -> Result<&'a Self, Damage> {
        let this: &Self = zerocopy::transmute_ref!(block);
        if this.magic.get() != MAGIC {
            return Err(Damage::NoMagic);
        }
        if this.crc.get() != this.checksum(storage) {
            return Err(Damage::Checksum);
        }
        // Whole, but written to another place than it was meant for.
        if this.index.get() != index || this.sequence() & 1 != slot {
            return Err(Damage::Senseless("place in the log"));
        }
        Ok(this)
    }

    /// The number of the write that this is, counted for each block of the log.
    pub fn sequence(&self) -> u64 {
        self.sequence.get()
    }

    /// The superblock's generation when it was written.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Which block of the log it is.
    pub fn index(&self) -> u32 {
        self.index.get()
    }

    /// The entry at a position; that of an unknown region behind the last one.
    pub fn entry(&self, at: usize) -> u32 {
        self.entries.get(at).map_or(UNKNOWN, |raw| raw.get())
    }

    /// The entries.
    pub fn entries(&self) -> impl Iterator<Item = u32> + '_ {
        self.entries.iter().map(|raw| raw.get())
    }
}

/// What was found so far of a block of the log, on one copy after the other.
///
/// A write goes only when its regions are active in the block on each copy in sync, so the newest block of any of them
/// knows of all that may be under way: if it was read whole. Of a slot that is damaged nobody can tell whether its write
/// was cut off, and nobody relied on it; or whether it was durable, and a bit has flipped since. Then what is left is
/// the block before, in which a region may be missing. So one copy in sync is needed of which both slots are good; if
/// there is none, all regions of the block count as active, whatever the best slot says of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// One more than the sequence number of the block that is believed; 0: there is none yet.
    believed: u64,
    /// The highest sequence number on any copy.
    newest: u64,
    /// Both slots were good on a copy in sync.
    sure: bool,
}

impl Found {
    /// Takes both slots of block `index` as they were read from a copy. Gives the block if it is to be taken over: it is
    /// newer than what was believed so far, and of a copy in sync.
    pub fn take<'a>(
        &mut self,
        slots: [&'a Block; 2],
        storage: &Uuid,
        index: u32,
        in_sync: bool,
    ) -> Option<&'a LogBlock> {
        let [even, odd] = open(slots, storage, index);
        self.sure |= in_sync && even.is_some() && odd.is_some();
        let found = newer(even, odd)?;
        self.newest = self.newest.max(found.sequence());
        let number = found.sequence().saturating_add(1);
        if !in_sync || number <= self.believed {
            return None;
        }
        self.believed = number;
        Some(found)
    }

    /// The next number for the block is above this one.
    pub fn sequence(&self) -> u64 {
        self.newest
    }

    /// What is added to each entry that was taken over, when all copies were looked at.
    pub fn doubt(&self) -> u32 {
        match self.sure {
            true => 0,
            false => UNKNOWN,
        }
    }
}

/// Both slots of block `index`, if they are good.
fn open<'a>(slots: [&'a Block; 2], storage: &Uuid, index: u32) -> [Option<&'a LogBlock>; 2] {
    let [even, odd] = slots;
    [
        LogBlock::open(even, storage, index, 0).ok(),
        LogBlock::open(odd, storage, index, 1).ok(),
    ]
}

fn newer<'a>(even: Option<&'a LogBlock>, odd: Option<&'a LogBlock>) -> Option<&'a LogBlock> {
    match (even, odd) {
        (Some(even), Some(odd)) if odd.sequence() > even.sequence() => Some(odd),
        (Some(even), _) => Some(even),
        (None, odd) => odd,
    }
}

/// Of both slots of block `index`, as they were read, the one that counts if both are good; else what the copy may have
/// been told can't be known.
pub fn newest<'a>(slots: [&'a Block; 2], storage: &Uuid, index: u32) -> Option<&'a LogBlock> {
    match open(slots, storage, index) {
        [Some(even), Some(odd)] => newer(Some(even), Some(odd)),
        _ => None,
    }
}
