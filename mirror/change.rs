// SPDX-License-Identifier: GPL-2.0

//! The way of a bio that changes data, or flushes, from the core's word to its end.

use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
};

use crate::{
    alg_mirror::{
        overlap::Extent,
        write::{
            Begin,
            End, //
        },
        Mask, //
    },
    kern::{
        bio::{
            Bio,
            BioPart,
            Op,
            Status, //
        },
        lower::{
            DirectSubmit,
            Lower, //
        },
        pool::Slot,
    },
};

use super::{
    take,
    write::{
        status,
        Leg,
        Numbered,
        Preflush,
        WriteSlot,
        UNABLE_SHIFT, //
    },
    Engine,
    Mirror,
    SetOnce,
    Targets,
    COPIES_PER_POOL, //
};

impl Mirror {
    /// All copies have answered. Any context.
    pub(super) fn finish(mut slot: WriteSlot) {
        let mirror = slot.ctx().clone();
        let id = slot.id();
        let result = slot.result.load(Relaxed);
        let (mut ok, unable) = (result as Mask, (result >> UNABLE_SHIFT) as Mask);
        let mut errno = slot.errno.load(Relaxed);
        let op = slot.part.as_ref().map(BioPart::op);
        // With FUA too what a copy says counts only if its server was not lost meanwhile.
        let durable = op == Some(Op::Flush) || slot.part.as_ref().is_some_and(BioPart::fua);
        // Some may have done a part of it, so it is not left to the block layer to do it another way.
        let differs = match op {
            Some(Op::WriteZeroes) => {
                if unable != 0 {
                    mirror.no_zeroes.store(true, Relaxed);
                }
                true
            }
            Some(Op::Write) => ok != 0 || errno != 0,
            _ => false,
        };
        if unable != 0 && differs {
            mirror.unable.push(slot);
            mirror.kick();
            return;
        }
        if ok != 0 && op == Some(Op::Discard) {
            // A discard is a hint, which needs not be taken.
            ok |= unable;
        }
        if ok == 0 && unable != 0 {
            // Nobody did it, so nothing has changed; the block layer knows another way.
            ok = unable;
            errno = EOPNOTSUPP.to_errno();
        } else if errno == EOPNOTSUPP.to_errno() {
            errno = 0;
        }
        let mut inner = mirror.inner.lock();
        if durable {
            ok &= inner.believed(ok);
        }
        let shown = inner.shown.forget(id);
        let done = match inner.core.request_end(id, ok) {
            End::Wait => {
                // It is on the copies that reads are served from.
                slot.arrival = 0;
                // It ends with this later, unless all goes well.
                slot.errno.store(errno, Relaxed);
                inner.hold(id, slot);
                None
            }
            end => {
                let part = slot.part.take();
                drop(slot.flushed.take());
                Some((slot, part, end == End::Ok))
            }
        };
        let wants = inner.core.wants_service() || shown;
        drop(inner);
        if let Some((slot, Some(part), ok)) = done {
            // The object goes back first: whoever the bio's end lets go on may want it.
            drop(slot);
            part.end(status(ok, errno));
        }
        if wants {
            mirror.kick();
        }
    }
}

impl Engine {
    /// A bio that changes the data of an extent; or, with an empty one, a flush.
    pub(super) fn change(&self, bio: Bio, extent: Extent) {
        if let Some((slot, bio)) = take(&self.writes, bio) {
            self.change_with(slot, bio.into_part(), extent);
        }
    }

    /// The same, in an object that was taken for it.
    #[inline]
    pub(super) fn change_with(&self, mut slot: WriteSlot, part: BioPart, extent: Extent) {
        slot.part = Some(part);
        slot.result.store(0, Relaxed);
        slot.errno.store(0, Relaxed);
        let id = slot.id();
        let mut inner = self.mirror.inner.lock();
        match inner.core.request_begin(id, extent) {
            Begin::Go(mask) => {
                let targets = inner.targets(mask);
                drop(inner);
                self.send(slot, &targets);
            }
            Begin::Wait => {
                inner.hold_new(id, slot);
                drop(inner);
                self.mirror.kick();
            }
        }
    }

    /// Sends a request to copies. Process context; may sleep for free pieces.
    pub(super) fn send(&self, slot: WriteSlot, targets: &Targets) {
        let flush = slot.part.as_ref().is_none_or(|part| part.op() == Op::Flush);
        // We may wait for a free piece, which what is not dispatched can't become.
        let _direct = DirectSubmit::new();
        let write = slot.share();
        for copy in targets.0.iter().flatten() {
            let Some(pool) = self
                .legs
                .get((copy.index / COPIES_PER_POOL) as usize)
                .and_then(SetOnce::as_ref)
            else {
                continue;
            };
            // There are as many as requests, for each copy.
            let mut leg = pool.take();
            leg.copy = copy.index;
            leg.write = Some(write.another());
            self.mirror.begins(copy.index);
            let clone = if flush {
                Ok(leg.into_flush())
            } else {
                leg.into_clone()
            };
            match clone {
                Ok(bio) => copy.node.serve_behind(bio, self.mirror.origin()),
                Err(leg) => Leg::end(leg, Status::RESOURCE),
            }
        }
        if let Some(slot) = write.release() {
            Mirror::finish(slot);
        }
    }

    /// A write that must come after a flush: first that, then the write.
    pub(super) fn flush_first(&self, bio: Bio) {
        let Some((mut slot, mut bio)) = take(&self.preflushes, bio) else {
            return;
        };
        bio.clear_preflush();
        slot.data = Some(bio);
        self.change(slot.into_flush(), Extent::default());
    }

    /// A write whose flush is done. On the thread; does not wait for an object.
    pub(super) fn change_flushed(&self, mut slot: Slot<Arc<Mirror>, Preflush>) {
        let Some(bio) = slot.data.take() else {
            return;
        };
        // There are as many as objects of the flushes, and this one is kept until the write has ended.
        let mut write = self.late_writes.take();
        write.flushed = Some(slot);
        let extent = self.mirror.extent(bio.sector(), bio.bytes());
        self.change_with(write, bio.into_part(), extent);
    }
}
