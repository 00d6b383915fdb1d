// SPDX-License-Identifier: GPL-2.0

//! Pieces of healing: read from one copy, then written to those that lack them, one after the other.

use crate::{
    alg_mirror::{
        bit,
        each,
        heal::Piece,
        Mask, //
    },
    request::SECTOR_SHIFT,
};

use super::{
    own::{
        OwnSlot,
        What, //
    },
    thread::Steward, //
};

impl Steward {
    /// Begins to copy a piece.
    pub(super) fn heal(&mut self, piece: &Piece) {
        let copy = self.engine.mirror.inner.lock().copy(piece.from);
        let bytes = u32::try_from(piece.extent.sectors() << SECTOR_SHIFT).unwrap_or(0);
        let Some(copy) = copy.filter(|_| bytes != 0) else {
            let mut inner = self.engine.mirror.inner.lock();
            inner.core.heal_done(piece.id, false, 0);
            return;
        };
        let what = What::HealRead {
            id: piece.id,
            to: piece.to,
        };
        let slot = self.engine.own(piece.from, what, piece.extent.start, bytes);
        self.engine.begin(slot, &copy);
    }

    /// Goes on with a piece: writes it to the next copy, or is done with it.
    pub(super) fn heal_on(&mut self, mut slot: OwnSlot, id: u32, rest: Mask, ok: Mask) {
        for index in each(rest) {
            let copy = self.engine.mirror.inner.lock().copy(index);
            if let Some(copy) = copy {
                slot.copy = index;
                slot.what = What::HealWrite {
                    id,
                    rest: rest & !bit(index),
                    ok,
                };
                self.engine.begin(slot, &copy);
                return;
            }
        }
        slot.clear();
        drop(slot);
        let mut inner = self.engine.mirror.inner.lock();
        inner.core.heal_done(id, true, ok);
    }
}
