// SPDX-License-Identifier: GPL-2.0

//! What a storage can do: what all of its nodes can.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::{
    array::Node,
    failure::{
        fail,
        Done, //
    },
    kern::disk::Limits,
    member::{
        block_size,
        Member, //
    },
    proto,
    request::SECTOR_SHIFT,
};

/// The largest logical block size, in bytes: a page, as the page cache of every kernel can.
const MAX_BLOCK: u32 = 4096;

/// The largest request that we ask for, in sectors. It is no limit: larger ones are cut. 4 MiB is what
/// keeps a 10 Gbit/s link busy for 3 ms.
const MAX_SECTORS: u32 = 4 << (20 - SECTOR_SHIFT);

/// The largest discard, in sectors: 2 GiB, which every command can express.
const MAX_DISCARD: u32 = 1 << (31 - SECTOR_SHIFT);

/// What one node can do.
struct Abilities {
    physical: u32,
    /// Bits of a buffer's address and length that must be 0.
    dma_alignment: u32,
    io_min: u32,
    io_opt: u32,
    /// Sectors; 0: it can't.
    discard: u32,
    /// Bytes.
    granularity: u32,
    /// Sectors; 0: it can't.
    zeroes: u32,
    volatile: bool,
    rotational: bool,
    nowait: bool,
}

impl Abilities {
    fn of(node: &Node) -> Self {
        match node {
            Node::Local(node) => {
                let dev = &node.ctx().dev;
                Self {
                    physical: dev.physical_block_size(),
                    dma_alignment: dev.dma_alignment(),
                    io_min: dev.io_min(),
                    io_opt: dev.io_opt(),
                    discard: dev.max_discard_sectors(),
                    granularity: dev.discard_granularity(),
                    zeroes: dev.max_write_zeroes_sectors(),
                    volatile: dev.write_cache(),
                    rotational: dev.rotational(),
                    nowait: dev.nowait(),
                }
            }
            Node::Remote(node) => {
                let remote = node.ctx();
                let block = remote.block_size();
                let can = |flag| if remote.has(flag) { MAX_DISCARD } else { 0 };
                Self {
                    physical: block,
                    dma_alignment: 0,
                    io_min: block,
                    io_opt: 0,
                    discard: can(proto::FLAG_SEND_TRIM),
                    granularity: block,
                    zeroes: can(proto::FLAG_SEND_WRITE_ZEROES),
                    volatile: remote.has(proto::FLAG_SEND_FLUSH),
                    rotational: remote.has(proto::FLAG_ROTATIONAL),
                    nowait: true,
                }
            }
        }
    }
}

/// The largest discard of a mirror, in sectors: 64 MiB, as the core looks at each region of it at once.
pub(crate) const MAX_MIRROR_DISCARD: u32 = 64 << (20 - SECTOR_SHIFT);

/// Whether the node can write zeroes by a command, as far as it says.
pub(crate) fn writes_zeroes(node: &Node) -> bool {
    Abilities::of(node).zeroes != 0
}

/// Refuses a node that can't take what is sent to a storage that runs: the limits of its disk don't change any more.
/// `remedy`: what is to be done then.
///
/// Which commands it can do does not matter: a mirror writes zeroes where they can't be made, and a discard is only a hint.
/// But a volatile cache must have been told of: else nobody sends flushes. A mirror always does.
pub(crate) fn check_joining(node: &Node, limits: &Limits, remedy: &str) -> Done {
    let able = Abilities::of(node);
    if block_size(node) > limits.logical_block_size {
        fail!(
            EINVAL,
            "the node has blocks of {} bytes; those of the storage have {}",
            block_size(node),
            limits.logical_block_size
        );
    }
    let lacks = if able.volatile && !limits.write_cache {
        "has a volatile cache"
    } else if able.dma_alignment & !limits.buffer_mask() != 0 {
        "needs other buffers"
    } else {
        return Ok(());
    };
    fail!(
        EOPNOTSUPP,
        "the node {lacks}, unlike those that are there; {remedy}"
    )
}

/// Joins the limits of all nodes. `wanted`: the block size that the user asked for, in bytes, or 0.
pub(crate) fn stack(members: &[Arc<Member>], wanted: u32, mirror: bool) -> Done<Limits> {
    let largest = members
        .iter()
        .map(|m| block_size(&m.node))
        .max()
        .unwrap_or(512);
    if wanted != 0 && wanted < largest {
        fail!(
            EINVAL,
            "a node has blocks of {largest} bytes; the storage can't have {wanted}"
        );
    }
    let block = largest.max(wanted);
    if block > MAX_BLOCK {
        fail!(
            EINVAL,
            "a node has blocks of {block} bytes; the most that can be used is {MAX_BLOCK}"
        );
    }
    let unit = u64::from(block >> SECTOR_SHIFT);
    for member in members {
        // A power of two, and at least 1.
        if (member.start | member.size()) & (unit - 1) != 0 {
            fail!(
                EINVAL,
                "{member} has {} sectors from {} on, which is not aligned to the blocks of {block} bytes; \
                 create the storage with this block size (--block-size), or cut nodes (--size, -S)",
                member.size(),
                member.start
            );
        }
    }
    let mut limits = Limits {
        logical_block_size: block,
        physical_block_size: block,
        io_min: block,
        io_opt: 0,
        dma_alignment: 0,
        max_sectors: MAX_SECTORS,
        max_discard_sectors: MAX_DISCARD,
        discard_granularity: block,
        max_write_zeroes_sectors: MAX_DISCARD,
        write_cache: false,
        fua: false,
        rotational: false,
        nowait: true,
        read_only: false,
    };
    for member in members {
        let node = Abilities::of(&member.node);
        limits.physical_block_size = limits.physical_block_size.max(node.physical);
        limits.dma_alignment |= node.dma_alignment;
        limits.io_min = limits.io_min.max(node.io_min);
        limits.io_opt = limits.io_opt.max(node.io_opt);
        limits.max_discard_sectors = limits.max_discard_sectors.min(node.discard);
        limits.discard_granularity = limits.discard_granularity.max(node.granularity);
        limits.max_write_zeroes_sectors = limits.max_write_zeroes_sectors.min(node.zeroes);
        limits.write_cache |= node.volatile;
        limits.rotational |= node.rotational;
        limits.nowait &= node.nowait;
    }
    if mirror {
        // A copy that has one may be added later. Flushes of those that have none cost nothing.
        limits.write_cache = true;
        let most = limits.max_discard_sectors.min(MAX_MIRROR_DISCARD);
        limits.max_discard_sectors = most;
        limits.max_write_zeroes_sectors = limits.max_write_zeroes_sectors.min(MAX_MIRROR_DISCARD);
    }
    // Each node does it, or gets a flush behind the write.
    limits.fua = limits.write_cache;
    if limits.max_discard_sectors == 0 {
        limits.discard_granularity = 0;
    }
    Ok(limits)
}
