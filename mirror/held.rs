// SPDX-License-Identifier: GPL-2.0

//! Reads of what is not written yet: while all copies that could serve a read are suspended, or the only one is away, a
//! write that waits for them can, as long as it is in memory anyway.
//!
//! What a read has shown must not be taken back. So from then on, until the write is over, each read that overlaps it is
//! served from it, or waits. What can take it back is what ends the write otherwise: an error, or a crash of this machine.
//!
//! Such a write waits in [`Inner::held`], or was sent: then its object is shared by those who send it, and is found in its
//! pool. So nothing needs to be noted of a write while all goes well.

use crate::{
    alg_mirror::overlap::Extent,
    kern::{
        bio::{
            BioPart,
            Op, //
        },
        segments, //
    },
    request::SECTOR_SHIFT,
};

use super::{
    write::{
        SharedWrite,
        WriteSlot, //
    },
    Core,
    Engine,
    Inner,
    ALL_WRITES,
    WRITES, //
};

/// Bytes of a read that is served so, at most: it is copied under a lock, with interrupts off.
const MAX_BYTES: u32 = 64 << 10;

/// Writes that are shown before they are written, at most. Reads of others wait.
const MAX_SHOWN: usize = 16;

/// Writes that reads have shown, by their numbers.
pub(super) struct Shown {
    writes: [Option<(u32, Extent)>; MAX_SHOWN],
    count: usize,
}

impl Shown {
    pub(super) const fn new() -> Self {
        Self {
            writes: [None; MAX_SHOWN],
            count: 0,
        }
    }

    /// Whether one of them overlaps an extent.
    #[inline]
    pub(super) fn overlaps(&self, extent: &Extent) -> bool {
        self.count != 0
            && self
                .writes
                .iter()
                .flatten()
                .any(|(_, shown)| shown.overlaps(extent))
    }

    /// Remembers one; `false`: there is no place.
    fn add(&mut self, id: u32, extent: Extent) -> bool {
        if self.writes.iter().flatten().any(|(known, _)| *known == id) {
            return true;
        }
        let free = self.writes.iter_mut().find(|place| place.is_none());
        match free {
            Some(place) => {
                *place = Some((id, extent));
                self.count += 1;
                true
            }
            None => false,
        }
    }

    /// A write is over. Gives whether it was one of them: reads may wait for that.
    #[inline]
    pub(super) fn forget(&mut self, id: u32) -> bool {
        if self.count == 0 {
            return false;
        }
        let place = self
            .writes
            .iter_mut()
            .find(|place| place.is_some_and(|(known, _)| known == id));
        match place {
            Some(place) => {
                *place = None;
                self.count -= 1;
                true
            }
            None => false,
        }
    }
}

impl Inner {
    /// Keeps a request that may not go yet, and that reads may be served from.
    pub(super) fn hold_new(&mut self, id: u32, mut slot: WriteSlot) {
        self.arrivals += 1;
        slot.arrival = self.arrivals;
        self.hold(id, slot);
    }
}

impl Engine {
    /// Serves a read of `extent` from the last write that overlaps it and is not over yet, if that covers it; gives whether it
    /// did.
    ///
    /// If there is a write with it, that must be released without the lock, and finished if that was the last share of it.
    pub(super) fn read_held(
        &self,
        inner: &mut Inner,
        read: &BioPart,
        extent: &Extent,
    ) -> (bool, Option<SharedWrite>) {
        let Inner {
            core, held, shown, ..
        } = inner;
        let held = held.iter().enumerate();
        let last = held
            .filter_map(|(id, slot)| Some((id as u32, slot.as_ref()?)))
            .filter(|(id, slot)| slot.arrival != 0 && core.extent(*id).overlaps(extent))
            .max_by_key(|(_, slot)| slot.arrival);
        if let Some((id, write)) = last {
            // If it covers the read it overlaps all others that do, and those that were sent came before it.
            let part = write.part.as_ref();
            let served = part.is_some_and(|write| show(core, shown, id, write, read, extent));
            return (served, None);
        }
        // None of those that were sent overlaps another one: there is one that covers the read, or none.
        let sent = (0..ALL_WRITES)
            .filter(|id| core.extent(*id).overlaps(extent))
            .find_map(|id| Some((id, self.find_sent(id)?)));
        let Some((id, write)) = sent else {
            return (false, None);
        };
        let part = write.part.as_ref();
        let served = part.is_some_and(|write| show(core, shown, id, write, read, extent));
        (served, Some(write))
    }

    /// A write that copies have, or that waits for their servers. What the core says of its number is of this very write: it
    /// is not over as long as there is a share of it.
    fn find_sent(&self, id: u32) -> Option<SharedWrite> {
        match id.checked_sub(WRITES) {
            None => self.writes.find_shared(id),
            Some(index) => self.late_writes.find_shared(index),
        }
    }
}

/// Serves a read from a write, if that has all of it, and there is a place to remember that.
fn show(
    core: &mut Core,
    shown: &mut Shown,
    id: u32,
    write: &BioPart,
    read: &BioPart,
    extent: &Extent,
) -> bool {
    let has = core.extent(id);
    let covers = has.start <= extent.start && extent.end <= has.end;
    if !covers || write.op() != Op::Write || read.bytes() > MAX_BYTES {
        return false;
    }
    // Bytes of a bio: it has less than 4 GiB.
    let at = (extent.start.saturating_sub(has.start) << SECTOR_SHIFT) as u32;
    if !shown.add(id, has) {
        return false;
    }
    segments::copy(write, at, read);
    core.count_held_read();
    true
}
