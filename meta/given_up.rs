// SPDX-License-Identifier: GPL-2.0

//! What is lost when it is given up what was written on a copy alone.
//!
//! A copy that went on without others notes in its log what these lack. So what it notes of those whose data are to stay is
//! what they don't have: no more than that is lost.

use super::{
    log,
    superblock::{
        NodeState,
        Superblock, //
    },
    Block,
    Uuid,
    BLOCK, //
};

/// What was given up with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The generation of its superblock.
    pub generation: u64,
    /// Sectors, at most, that were written on it alone; `None`: its log does not tell.
    pub sectors: Option<u64>,
}

/// The bits, in the log of the copy with the superblock `own`, of the copies `kept`; 0: it does not know that these lack
/// something, so its log says nothing of that.
pub fn lacking(own: &Superblock, kept: impl Iterator<Item = Uuid>) -> u32 {
    kept.filter_map(|node| own.find(node))
        .filter(|(_, entry)| entry.state != NodeState::InSync)
        .fold(0, |mask, (index, _)| {
            mask | 1u32.checked_shl(index).unwrap_or(0) & log::STALE
        })
}

/// Sectors, at most, that one of the copies `lacking` lacks; `bytes`: the whole log, as it was read from the copy with the
/// superblock `own`, with both slots of each block.
pub fn sectors(own: &Superblock, lacking: u32, bytes: &[u8]) -> Option<u64> {
    let shape = own.log().filter(|_| lacking != 0)?;
    let mut regions = 0u64;
    for (index, pair) in (0..).zip(bytes.chunks_exact(2 * BLOCK)) {
        let (even, odd) = pair.split_at(BLOCK);
        let (Ok(even), Ok(odd)) = (<&Block>::try_from(even), <&Block>::try_from(odd)) else {
            continue;
        };
        let found = log::newest([even, odd], &own.storage(), index)?;
        let some = found.entries().filter(|entry| entry & lacking != 0);
        regions = regions.saturating_add(some.count() as u64);
    }
    let most = regions.saturating_mul(1u64.checked_shl(shape.region_shift)?);
    Some(most.min(own.sectors()))
}
