// SPDX-License-Identifier: GPL-2.0

//! A node: a disk with a volatile cache, which keeps the number of the write that each sector holds, and metadata as
//! they are.

use std::collections::BTreeMap;

use dst_core::meta::{
    layout::Layout,
    superblock::{
        NodeState,
        Superblock, //
    },
    Block,
    Damage,
    Uuid,
    BLOCK, //
};

use super::rng::Rng;

/// Bytes of a sector.
const SECTOR: usize = 512;

#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) name: &'static str,
    /// Where things would be on it.
    pub(crate) layout: Layout,
    durable: Vec<u64>,
    /// What was written since, oldest first.
    cache: BTreeMap<u64, Vec<u64>>,
    /// Metadata, which are always durable at once, by their first sector.
    meta: BTreeMap<u64, Box<Block>>,
    /// It answers.
    pub(crate) up: bool,
    /// The driver knows that it is not.
    pub(crate) noticed: bool,
    /// It has lost something since the driver has seen it last.
    pub(crate) forgot: bool,
    /// Something that was written to it got lost, and was not healed since.
    pub(crate) lost: bool,
    /// An old copy of it was put back: it knows nothing of what came after.
    pub(crate) put_back: bool,
    /// Counts changes of the superblocks.
    pub(crate) changes: u64,
    /// What its superblock says, if it has one that can be used.
    pub(crate) says: Option<Says>,
}

/// What a disk says of itself.
#[derive(Clone, Copy)]
pub(crate) struct Says {
    /// The data id.
    pub(crate) data: Uuid,
    /// It has all.
    pub(crate) complete: bool,
}

pub(crate) fn empty() -> Box<Block> {
    vec![0u8; BLOCK].try_into().unwrap()
}

impl Disk {
    pub(crate) fn new(name: &'static str, layout: Layout, sectors: u64) -> Self {
        Self {
            name,
            layout,
            durable: vec![0; sectors as usize],
            cache: BTreeMap::new(),
            meta: BTreeMap::new(),
            up: true,
            noticed: false,
            forgot: false,
            lost: false,
            put_back: false,
            changes: 0,
            says: None,
        }
    }

    /// What a read finds.
    pub(crate) fn view(&self, sector: u64) -> u64 {
        match self.cache.get(&sector).and_then(|versions| versions.last()) {
            Some(newest) => *newest,
            None => self.durable[sector as usize],
        }
    }

    /// What is there whatever happens.
    pub(crate) fn durable(&self, sector: u64) -> u64 {
        let cached = self.cache.get(&sector).into_iter().flatten();
        cached.fold(self.durable[sector as usize], |least, version| {
            least.min(*version)
        })
    }

    pub(crate) fn write(&mut self, sector: u64, version: u64, fua: bool) {
        if fua {
            self.cache.remove(&sector);
            self.durable[sector as usize] = version;
        } else {
            self.cache.entry(sector).or_default().push(version);
        }
    }

    pub(crate) fn flush(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.cache) {
            if let Some(newest) = versions.last() {
                self.durable[sector as usize] = *newest;
            }
        }
    }

    /// Of each sector that was not flushed, some version is left.
    pub(crate) fn lose_power(&mut self, rng: &mut Rng) {
        self.lost |= !self.cache.is_empty();
        self.forgot |= !self.cache.is_empty();
        for (sector, versions) in std::mem::take(&mut self.cache) {
            let at = rng.below(versions.len() as u64 + 1) as usize;
            if at != 0 {
                self.durable[sector as usize] = versions[at - 1];
            }
        }
    }

    pub(crate) fn block(&self, sector: u64) -> Box<Block> {
        self.meta.get(&sector).cloned().unwrap_or_else(empty)
    }

    /// Writes a block of metadata: those of its sectors that `arrive` says.
    pub(crate) fn write_block(&mut self, sector: u64, block: &Block, arrive: u8) {
        let place = self.meta.entry(sector).or_insert_with(empty);
        for at in (0..BLOCK / SECTOR).filter(|at| arrive >> at & 1 != 0) {
            let range = at * SECTOR..(at + 1) * SECTOR;
            place[range.clone()].copy_from_slice(&block[range]);
        }
        // What was cut off is not made whole by a later write that is cut off, too, and has its other half in common.
        if arrive != 0 && arrive != 0xff {
            place[arrive.trailing_zeros() as usize * SECTOR] ^= 1;
        }
        if sector >= self.layout.superblock_b() {
            self.put_back = false;
            self.changed();
        }
    }

    /// A superblock has changed.
    fn changed(&mut self) {
        self.changes += 1;
        let blocks = self.superblocks();
        self.says = newest(&blocks).ok().map(|own| {
            let entry = own.find(own.node());
            Says {
                data: own.data(),
                complete: entry.is_some_and(|(_, entry)| entry.state == NodeState::InSync),
            }
        });
    }

    /// Flips a bit somewhere in a block that counts.
    pub(crate) fn flip(&mut self, sector: u64, rng: &mut Rng) {
        let bit = rng.below(BLOCK as u64 * 8) as usize;
        let place = self.meta.entry(sector).or_insert_with(empty);
        place[bit / 8] ^= 1 << (bit % 8);
        if sector >= self.layout.superblock_b() {
            self.changed();
        }
    }

    /// Superblocks A and B.
    pub(crate) fn superblocks(&self) -> [Box<Block>; 2] {
        [
            self.block(self.layout.superblock_a()),
            self.block(self.layout.superblock_b()),
        ]
    }

    /// Erases both superblocks.
    pub(crate) fn wipe(&mut self) {
        self.meta.clear();
        self.changed();
    }
}

/// The superblock that counts.
pub(crate) fn newest(blocks: &[Box<Block>; 2]) -> Result<&Superblock, Damage> {
    Superblock::newest(Some(&blocks[0]), Some(&blocks[1]))
}
