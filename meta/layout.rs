// SPDX-License-Identifier: GPL-2.0

//! Where on a node everything lies.
//!
//! A node of S sectors, rounded down to whole blocks:
//!
//! ```text
//! | data ... | unused | log | superblock B (S - 16) | superblock A (S - 8) |
//! ```
//!
//! The data begin at sector 0 and end at a whole MiB. Superblock A is always the last block, so it is found
//! without knowing anything; the log, which only a mirror has, ends where superblock B begins.

use core::fmt;

use super::BLOCK_SECTORS;

/// Sectors that both superblocks take.
const SUPERBLOCKS: u64 = 2 * BLOCK_SECTORS;

/// What the size of the data is a multiple of, in sectors: 1 MiB, so that no block size and no stripe of a
/// disk below is cut.
pub const DATA_UNIT: u64 = 2048;

/// Regions that one block of the log describes.
pub const ENTRIES: usize = 1016;

/// The most blocks of a log. With two slots of each, 2 MiB: the least that a node must have at all.
pub const MAX_LOG_BLOCKS: u32 = 256;

/// The smallest region: 64 KiB, as power of two of sectors. Smaller ones make the log larger than the
/// writes that they save while healing.
pub const MIN_REGION_SHIFT: u32 = 7;

/// The largest region that any sector number needs, as power of two of sectors.
pub const MAX_REGION_SHIFT: u32 = 63;

/// A node is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// Its sectors.
    pub sectors: u64,
    /// Sectors that it must have.
    pub least: u64,
}

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it has {} sectors; at least {} are needed, take a larger one",
            self.sectors, self.least
        )
    }
}

/// The shape of a mirror's log; the same on all copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Sectors of a region, as power of two.
    pub region_shift: u32,
    /// Blocks, each of which has two slots.
    pub blocks: u32,
}

impl Log {
    /// The log for an array of at most `sectors` sectors: the smallest regions with which it fits.
    ///
    /// `None` for an array of no sectors, or of more than a log can describe (there is none).
    pub fn for_array(sectors: u64) -> Option<Self> {
        let most = u64::from(MAX_LOG_BLOCKS) * ENTRIES as u64;
        let region_shift =
            (MIN_REGION_SHIFT..=MAX_REGION_SHIFT).find(|shift| regions(sectors, *shift) <= most)?;
        let blocks = regions(sectors, region_shift).div_ceil(ENTRIES as u64);
        let blocks = u32::try_from(blocks).ok().filter(|blocks| *blocks != 0)?;
        Some(Self {
            region_shift,
            blocks,
        })
    }

    /// Whether the numbers can be those of a log.
    pub fn is_valid(&self) -> bool {
        (MIN_REGION_SHIFT..=MAX_REGION_SHIFT).contains(&self.region_shift)
            && (1..=MAX_LOG_BLOCKS).contains(&self.blocks)
    }

    /// Whether it has an entry for every sector of an array.
    pub fn covers(&self, sectors: u64) -> bool {
        regions(sectors, self.region_shift) <= u64::from(self.blocks) * ENTRIES as u64
    }

    /// The block and the entry in it that describe a sector; `None` beyond the log's end.
    pub fn place(&self, sector: u64) -> Option<(u32, usize)> {
        let region = sector.checked_shr(self.region_shift)?;
        let block = u32::try_from(region / ENTRIES as u64).ok()?;
        let entry = usize::try_from(region % ENTRIES as u64).ok()?;
        (block < self.blocks).then_some((block, entry))
    }

    /// Sectors that the log takes on a node.
    pub fn sectors(&self) -> u64 {
        u64::from(self.blocks) * 2 * BLOCK_SECTORS
    }
}

/// Regions of `sectors` sectors; the last one may be cut.
fn regions(sectors: u64, shift: u32) -> u64 {
    match sectors.checked_sub(1) {
        Some(last) => last.checked_shr(shift).unwrap_or(0).saturating_add(1),
        None => 0,
    }
}

/// Where things lie on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Sectors of the node, rounded down to whole blocks.
    pub sectors: u64,
    /// Sectors of data, from sector 0 on.
    pub data: u64,
    /// First sector of the log; where superblock B is, if there is no log.
    pub log_start: u64,
    /// The log.
    pub log: Option<Log>,
}

impl Layout {
    /// The layout of a node of `sectors` sectors with a given log, or without one.
    pub fn new(sectors: u64, log: Option<Log>) -> Result<Self, TooSmall> {
        let logged = log.map_or(0, |log| log.sectors());
        let taken = SUPERBLOCKS + logged;
        let too_small = TooSmall {
            sectors,
            least: DATA_UNIT + taken,
        };
        let whole = sectors - sectors % BLOCK_SECTORS;
        let log_start = whole.checked_sub(taken).ok_or(too_small)?;
        let data = log_start - log_start % DATA_UNIT;
        if data == 0 {
            return Err(too_small);
        }
        Ok(Self {
            sectors: whole,
            data,
            log_start,
            log,
        })
    }

    /// The layout of a new copy of a mirror, if it were the smallest one.
    pub fn mirror(sectors: u64) -> Result<Self, TooSmall> {
        // More than the data will be, by less than a log's size. Below a size at which regions double, the smaller data
        // may need the larger log.
        let most = sectors.saturating_sub(SUPERBLOCKS);
        match Log::for_array(most) {
            Some(log) => {
                let layout = Self::new(sectors, Some(log))?;
                match Log::for_array(layout.data) {
                    Some(finer) if finer.blocks > log.blocks => Self::new(sectors, Some(finer)),
                    _ => Ok(layout),
                }
            }
            None => Err(TooSmall {
                sectors,
                least: DATA_UNIT + SUPERBLOCKS + 2 * BLOCK_SECTORS,
            }),
        }
    }

    /// First sector of superblock A.
    pub fn superblock_a(&self) -> u64 {
        // It has been checked that both superblocks fit.
        self.sectors.saturating_sub(BLOCK_SECTORS)
    }

    /// First sector of superblock B.
    pub fn superblock_b(&self) -> u64 {
        self.sectors.saturating_sub(SUPERBLOCKS)
    }

    /// First sector of the slot that a block of the log is written to under a sequence number.
    pub fn slot(&self, block: u32, sequence: u64) -> Option<u64> {
        let log = self.log?;
        let slot = u64::from(block) * 2 + (sequence & 1);
        (block < log.blocks).then(|| self.log_start.saturating_add(slot * BLOCK_SECTORS))
    }
}

/// Where the superblocks of a node of `sectors` sectors are, whatever it holds: A, then B.
///
/// `None`: the node has no room for any.
pub fn superblocks(sectors: u64) -> Option<[u64; 2]> {
    let whole = sectors - sectors % BLOCK_SECTORS;
    let b = whole.checked_sub(SUPERBLOCKS)?;
    Some([b + BLOCK_SECTORS, b])
}
