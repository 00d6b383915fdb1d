// SPDX-License-Identifier: GPL-2.0

//! The [queue](SendQueue) of pieces, in the kernel's memory.

use kernel::prelude::*;

use crate::{
    alg_mirror::overlap::Extent,
    proto::Command,
    request::SECTOR_SHIFT,
    send_queue::{
        Aside,
        Memory,
        Note,
        Piece,
        SendQueue, //
    },
};

use super::RemoteSlot;

/// Pieces that wait to be sent.
pub(super) type Queue = SendQueue<InKernel>;

/// Allocated when the queue is made.
pub(super) struct InKernel;

impl Memory for InKernel {
    type Piece = RemoteSlot;
    type Ring = KVec<Option<RemoteSlot>>;
    type Extents = KVec<Extent>;
    type Aside = KBox<Aside<Self>>;
}

impl Piece for RemoteSlot {
    fn changes(&self) -> Option<Extent> {
        match self.command {
            _ if self.note.flushing => None,
            Command::Write | Command::Trim | Command::WriteZeroes => Some(Extent::new(
                self.offset >> SECTOR_SHIFT,
                u64::from(self.length) >> SECTOR_SHIFT,
            )),
            _ => None,
        }
    }

    #[inline]
    fn note(&self) -> &Note {
        &self.note
    }

    #[inline]
    fn note_mut(&mut self) -> &mut Note {
        &mut self.note
    }

    fn renew(&mut self) {
        self.renew();
    }
}

/// An empty queue with `capacity` places. Sleeps.
pub(super) fn queue(capacity: u32) -> Result<Queue> {
    let ring = || -> Result<_> {
        let mut ring = KVec::with_capacity(capacity as usize, GFP_KERNEL)?;
        for _ in 0..capacity {
            ring.push(None, GFP_KERNEL)?;
        }
        Ok(ring)
    };
    // More extents than pieces are rare: it takes several losses, and what was on the first is not sent again.
    let places = || KVec::from_elem(Extent::default(), capacity as usize, GFP_KERNEL);
    let aside = Aside::new([places()?, places()?, places()?], ring()?);
    Ok(Queue::new(ring()?, KBox::new(aside, GFP_KERNEL)?))
}
