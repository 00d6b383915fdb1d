// SPDX-License-Identifier: GPL-2.0

//! The head: the core, its metadata, and what its driver knows beside them. As in the module, but for real requests.

use dst_core::{
    alg_mirror::{
        jobs::Job,
        overlap::{
            Extent,
            Flight,
            Waiter, //
        },
        regions::{
            Block as LogState,
            Region, //
        },
        write::Slot,
        Config,
        Mask,
        Mirror,
        Parts,
        HEAL_SLOTS,
        MAX_COPIES, //
    },
    meta::{
        head::{
            Back,
            Head as Meta, //
        },
        superblock::Superblock,
        Block, //
    },
};

use super::{
    disk::empty,
    Shape, //
};

pub(crate) type Core = Mirror<Vec<Slot>, Vec<Flight>, Vec<Waiter>, Vec<Region>, Vec<LogState>>;

/// Requests that can be under way.
pub(crate) const REQUESTS: usize = 12;

/// A request that changes data, or a flush.
pub(crate) struct Request {
    pub(crate) extent: Extent,
    pub(crate) version: u64,
    pub(crate) fua: bool,
    /// It was sent.
    pub(crate) sent: bool,
    /// Copies that were asked and have not answered.
    pub(crate) left: u32,
    pub(crate) ok: Mask,
    /// What was acknowledged when a flush came.
    pub(crate) floor: Vec<u64>,
    /// The last copy lost its power meanwhile.
    pub(crate) excused: bool,
}

pub(crate) struct Doing {
    pub(crate) job: Job,
    pub(crate) left: u32,
    pub(crate) ok: Mask,
}

pub(crate) struct Head {
    pub(crate) core: Core,
    /// The superblock as it was written last.
    pub(crate) meta: Meta<Box<Block>>,
    /// The disk that each copy is on.
    pub(crate) disks: [Option<usize>; MAX_COPIES as usize],
    pub(crate) requests: Vec<Option<Request>>,
    pub(crate) doing: Option<Doing>,
    /// A job that the core gave, which was not begun yet.
    pub(crate) next: Option<Job>,
    /// Copies that the last superblock knows.
    pub(crate) known: Mask,
    /// Nothing that it does counts: it works on copies that will be given up.
    pub(crate) stray: bool,
    pub(crate) stopping: bool,
}

pub(crate) fn core(shape: &Shape, config: &Config) -> Core {
    let slots = REQUESTS + HEAL_SLOTS as usize;
    let parts = Parts {
        slots: vec![Slot::default(); slots],
        flights: vec![Flight::default(); slots],
        waiters: vec![Waiter::default(); slots],
        regions: vec![Region::default(); shape.regions],
        blocks: vec![LogState::default(); shape.log.blocks as usize],
    };
    Mirror::new(parts, config)
}

impl Head {
    pub(crate) fn superblock(&self) -> &Superblock {
        self.meta.superblock().expect("it was sealed")
    }

    pub(crate) fn superblock_of(&self, copy: u32) -> Box<Block> {
        let mut block = empty();
        let made = self.meta.superblock_of(copy, &mut block);
        made.expect("a copy has a place");
        block
    }

    pub(crate) fn log_block(&self, block: u32, per_block: usize) -> Box<Block> {
        let mut bytes = empty();
        let entry = |at| match at < per_block {
            true => self.core.entry(block, at),
            false => 0,
        };
        let sequence = self.core.sequence(block);
        let made = self.meta.log_block(block, sequence, &mut bytes, entry);
        made.expect("it was sealed");
        bytes
    }

    /// Takes a copy out, unless it is the last one.
    pub(crate) fn remove(&mut self, copy: u32) -> bool {
        self.meta.dismiss(copy);
        self.core.remove(copy)
    }

    /// Looks at a copy that was away.
    pub(crate) fn look(&mut self, copy: u32, blocks: &[Box<Block>; 2]) -> Back {
        self.meta.look(copy, Some(&blocks[0]), Some(&blocks[1]))
    }

    /// The copy that a disk is.
    pub(crate) fn copy_of(&self, disk: usize) -> Option<u32> {
        let at = self.disks.iter().position(|of| *of == Some(disk))?;
        Some(at as u32)
    }

    /// Ids of requests that are free.
    pub(crate) fn free(&self) -> Option<u32> {
        let at = self.requests.iter().position(Option::is_none)?;
        Some(at as u32)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.requests.iter().all(Option::is_none)
    }
}
