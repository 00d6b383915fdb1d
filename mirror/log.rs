// SPDX-License-Identifier: GPL-2.0

//! The logs of the copies, as they are when a mirror starts.

use kernel::prelude::*;

use crate::{
    block_io::BlockIo,
    failure::Done,
    meta::{
        layout::{
            Layout,
            Log,
            ENTRIES, //
        },
        log::{
            self,
            Found,
            LogBlock, //
        },
        verdict::Role,
        Block,
        Uuid,
        BLOCK, //
    },
    request::SECTOR_SHIFT,
    superblocks::{
        cannot,
        Candidate, //
    },
};

use super::{
    start::{
        Copy,
        Plan, //
    },
    Core, //
};

/// Memory for `count` objects.
pub(super) fn memory<T: Default>(count: usize) -> Result<KVVec<T>> {
    let mut memory = KVVec::with_capacity(count, GFP_KERNEL)?;
    for _ in 0..count {
        memory.push(T::default(), GFP_KERNEL)?;
    }
    Ok(memory)
}

/// Writes a log that says that nothing was ever written.
pub(super) fn blank(
    io: &BlockIo,
    candidate: &Candidate,
    layout: &Layout,
    storage: &Uuid,
    generation: u64,
) -> Done {
    let Some(log) = layout.log else { return Ok(()) };
    let mut area = area(log)?;
    for (slot, bytes) in (0u64..).zip(area.chunks_exact_mut(BLOCK)) {
        let Ok(block) = <&mut Block>::try_from(bytes) else {
            continue;
        };
        // Slots lie in pairs; the odd one is the newer of both.
        let index = u32::try_from(slot / 2).map_err(Error::from)?;
        LogBlock::blank(block, index, slot & 1, generation).seal(storage);
    }
    io.write(&candidate.node, layout.log_start, &area)
        .map_err(|error| cannot(error, candidate, "written to"))
}

/// Memory for the whole log of a node.
pub(super) fn area(log: Log) -> Result<KVVec<u8>> {
    let bytes = usize::try_from(log.sectors() << SECTOR_SHIFT)?;
    Ok(KVVec::from_elem(0, bytes, GFP_KERNEL)?)
}

/// Reads the logs of all copies: of those in sync, the newest of each block is believed; see [`Found`].
#[inline(never)]
pub(super) fn load(io: &BlockIo, candidates: &[Candidate], plan: &Plan, core: &mut Core) -> Done {
    let storage = plan.meta.superblock()?.storage();
    let mut found = memory::<Found>(plan.log.blocks as usize)?;
    let mut bytes = area(plan.log)?;
    for copy in &plan.copies {
        let Some(candidate) = candidates.get(copy.at) else {
            continue;
        };
        let start = copy.place.layout.log_start;
        if io.read(&candidate.node, start, &mut bytes).is_err() {
            // It leaves as soon as it is written to; the others know as much.
            pr_warn!("the log of {} can't be read\n", candidate.name());
            continue;
        }
        let in_sync = matches!(copy.role, Role::InSync);
        let pairs = bytes.chunks_exact(2 * BLOCK).zip(found.iter_mut());
        for (block, (pair, found)) in pairs.enumerate() {
            let (even, odd) = pair.split_at(BLOCK);
            let (Ok(even), Ok(odd)) = (<&Block>::try_from(even), <&Block>::try_from(odd)) else {
                continue;
            };
            let index = u32::try_from(block).map_err(Error::from)?;
            if let Some(taken) = found.take([even, odd], &storage, index, in_sync) {
                for (at, entry) in taken.entries().enumerate() {
                    core.load(block * ENTRIES + at, entry);
                }
            }
        }
    }
    for (block, found) in found.iter().enumerate() {
        let doubt = found.doubt();
        if doubt != 0 {
            pr_warn!("block {block} of the log is damaged: its regions count as active\n");
            for at in 0..ENTRIES {
                core.load_more(block * ENTRIES + at, doubt);
            }
        }
        core.load_sequence(block, found.sequence());
    }
    for copy in &plan.copies {
        if let (Role::HealAll, Some(candidate)) = (copy.role, candidates.get(copy.at)) {
            load_lacking(io, candidate, copy, &storage, &mut bytes, core);
        }
    }
    Ok(())
}

/// Reads the log of a copy on which nothing is believed: where it has written by itself, it has something else.
fn load_lacking(
    io: &BlockIo,
    candidate: &Candidate,
    copy: &Copy,
    storage: &Uuid,
    bytes: &mut [u8],
    core: &mut Core,
) {
    if io
        .read(&candidate.node, copy.place.layout.log_start, bytes)
        .is_err()
    {
        core.lack_all(copy.index);
        return;
    }
    for (block, pair) in bytes.chunks_exact(2 * BLOCK).enumerate() {
        let (even, odd) = pair.split_at(BLOCK);
        let (Ok(even), Ok(odd)) = (<&Block>::try_from(even), <&Block>::try_from(odd)) else {
            continue;
        };
        let index = u32::try_from(block).unwrap_or(u32::MAX);
        let found = log::newest([even, odd], storage, index);
        for at in 0..ENTRIES {
            let entry = found.map_or(log::UNKNOWN, |found| found.entry(at));
            if entry & (log::ACTIVE | log::WRITTEN) != 0 {
                core.load_lacking(block * ENTRIES + at, copy.index);
            }
        }
    }
}
