// SPDX-License-Identifier: GPL-2.0

//! A local disk as a node.
//!
//! Each piece becomes a bio on the disk: a clone that lives in the preallocated piece and shares the
//! vectors of the bio from above. Its end may come in interrupt context.

use kernel::{
    prelude::*,
    str::CStr,
    sync::Arc, //
};

use crate::{
    kern::{
        bdev::BackingDev,
        bio::{
            BioPart,
            Op,
            Status, //
        },
        lower::{
            Lower,
            LowerBio, //
        },
        pool::{
            Pool,
            Slot, //
        },
        trace,
    },
    request::{
        Counters,
        FlushState,
        SECTOR_SHIFT, //
    },
};

/// Requests that can be in flight unless the user says otherwise: as many as a SATA disk's queue, four times.
pub(crate) const DEFAULT_DEPTH: u32 = 128;

/// A local disk.
pub(crate) struct Local {
    /// The node's number in its storage.
    id: u32,
    /// The open disk.
    pub(crate) dev: BackingDev,
    /// What was done with it.
    pub(crate) counters: Counters,
    flush: FlushState,
}

/// A piece of a bio on its way to a local disk and back.
pub(crate) struct LocalPiece {
    part: Option<BioPart>,
    lower: LowerBio,
}

/// A local node: the disk and its pieces.
pub(crate) type LocalNode = Pool<Local, LocalPiece>;

/// Opens the disk at `path` for reading and writing, exclusively.
pub(crate) fn open(path: &CStr, depth: u32, id: u32) -> Result<Arc<LocalNode>> {
    let dev = BackingDev::open(path, true)?;
    Pool::new(
        depth,
        Local {
            id,
            dev,
            counters: Counters::new(),
            flush: FlushState::new(),
        },
        |_| {
            Ok(LocalPiece {
                part: None,
                lower: LowerBio::new(),
            })
        },
    )
}

/// Sends a piece of a read, write, discard or write-zeroes to `sector` of the disk.
///
/// Sleeps until a piece is free, unless the bio says `REQ_NOWAIT`.
#[inline]
pub(crate) fn submit(node: &LocalNode, part: BioPart, sector: u64) {
    if let Some((slot, part)) = take(node, part) {
        begin(slot, part).submit_part(sector);
    }
}

/// Flushes the disk, if it holds anything to flush.
pub(crate) fn flush(node: &LocalNode, part: BioPart) {
    if !node.ctx().flush.begin() {
        part.end(Status::OK);
        return;
    }
    match take(node, part) {
        Some((slot, part)) => begin(slot, part).submit_empty(Op::Flush, 0, 0, false),
        None => node.ctx().flush.end(false),
    }
}

/// Whether a flush would find nothing to flush.
pub(crate) fn is_clean(node: &LocalNode) -> bool {
    node.ctx().flush.is_clean()
}

/// Takes a free piece, or ends `part` if there is none and it must not wait.
#[inline]
fn take(node: &LocalNode, part: BioPart) -> Option<(Slot<Local, LocalPiece>, BioPart)> {
    match node.try_take() {
        Some(slot) => Some((slot, part)),
        None if part.nowait() => {
            part.end(Status::AGAIN);
            None
        }
        None => Some((node.take(), part)),
    }
}

#[inline]
fn begin(mut slot: Slot<Local, LocalPiece>, part: BioPart) -> Slot<Local, LocalPiece> {
    trace::piece_start(slot.ctx().id, slot.cookie(), &part);
    slot.part = Some(part);
    slot
}

impl Lower<Local> for LocalPiece {
    fn lower(&mut self) -> &mut LowerBio {
        &mut self.lower
    }

    fn device<'a>(&'a self, context: &'a Local) -> Option<&'a BackingDev> {
        Some(&context.dev)
    }

    fn part(&self) -> Option<&BioPart> {
        self.part.as_ref()
    }

    #[inline]
    fn end(mut slot: Slot<Local, Self>, status: Status) {
        let Some(part) = slot.part.take() else { return };
        let local = slot.ctx();
        let op = part.op();
        trace::piece_end(local.id, slot.cookie(), &part, status);
        local.counters.finished(op, part.bytes(), status);
        match op {
            Op::Read => {}
            Op::Flush => local.flush.end(status.is_ok()),
            _ => local.flush.wrote(),
        }
        // The piece goes back first: whoever the bio's end lets go on may want it.
        drop(slot);
        part.end(status);
    }
}

/// The largest piece that a disk takes, in sectors: what fits into the 32 bits of a bio's size, rounded
/// down to the largest block size.
pub(crate) const MAX_SECTORS: u64 = ((u32::MAX as u64) >> SECTOR_SHIFT) & !7;
