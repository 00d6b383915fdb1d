// SPDX-License-Identifier: GPL-2.0

//! Reads: one copy serves each; if it can't, another one does, and the copy gets what it could not read from that.

use kernel::sync::{
    atomic::Relaxed,
    Arc, //
};

use crate::{
    alg_mirror::{
        bit,
        each,
        overlap::Extent,
        Mask, //
    },
    array::Node,
    kern::{
        bdev::BackingDev,
        bio::{
            Bio,
            BioPart,
            Status, //
        },
        lower::{
            Lower,
            LowerBio, //
        },
        pool::{
            Shared,
            Slot, //
        },
    },
    uapi,
};

use super::{
    take,
    Copy,
    Engine,
    Inner,
    Mirror, //
};

/// A read.
pub(super) struct Read {
    /// The bio from above; `None` only while the object is free.
    part: Option<BioPart>,
    lower: LowerBio,
    /// The copy that is asked; `None` only while nobody is.
    from: Option<Arc<Copy>>,
    copy: u32,
    /// Copies that could not serve it.
    tried: Mask,
    /// The error of the last of them.
    status: Status,
}

type ReadSlot = Slot<Arc<Mirror>, Read>;

impl Read {
    /// A free object.
    pub(super) const fn free() -> Self {
        Self {
            part: None,
            lower: LowerBio::new(),
            from: None,
            copy: 0,
            tried: 0,
            status: Status::OK,
        }
    }

    fn extent(&self, mirror: &Mirror) -> Extent {
        let part = self.part.as_ref();
        part.map_or(Extent::default(), |part| {
            mirror.extent(part.sector(), part.bytes())
        })
    }
}

impl Lower<Arc<Mirror>> for Read {
    fn lower(&mut self) -> &mut LowerBio {
        &mut self.lower
    }

    fn device<'a>(&'a self, _context: &'a Arc<Mirror>) -> Option<&'a BackingDev> {
        // Nodes submit it.
        None
    }

    fn part(&self) -> Option<&BioPart> {
        self.part.as_ref()
    }

    #[inline]
    fn end(mut slot: Slot<Arc<Mirror>, Self>, status: Status) {
        let copy = slot.copy;
        // That its server was lost may not have been noticed yet.
        let from = slot.from.take();
        let lost = from
            .as_ref()
            .is_some_and(|from| from.was_lost() && !slot.ctx().inner.lock().believes(from));
        // Before the count, which keeps the copy: this must not be the last reference to it.
        drop(from);
        slot.ctx().ended(copy);
        let status = if lost && status.is_ok() {
            Status::IOERR
        } else {
            status
        };
        if status.is_ok() {
            let end = slot.extent(slot.ctx()).end;
            if let Some(head) = slot.ctx().heads.get(copy as usize) {
                head.store(end, Relaxed);
            }
            let part = slot.part.take();
            drop(slot);
            if let Some(part) = part {
                part.end(status);
            }
            return;
        }
        slot.status = status;
        slot.tried |= bit(copy);
        // Another copy is asked from the thread, which may sleep.
        let mirror = slot.ctx().clone();
        mirror.failed.push(slot);
        mirror.kick();
    }
}

impl Engine {
    /// A bio that reads. Process context; may sleep for a free object, unless the bio must not wait.
    #[inline]
    pub(super) fn read(&self, bio: Bio) {
        if let Some((slot, bio)) = take(&self.reads, bio) {
            self.read_with(slot, bio.into_part());
        }
    }

    /// The same, in an object that was taken for it.
    #[inline]
    pub(super) fn read_with(&self, mut slot: ReadSlot, part: BioPart) {
        slot.part = Some(part);
        slot.tried = 0;
        self.read_from_any(slot);
    }

    /// Sends a read to the copy that the policy says.
    pub(super) fn read_from_any(&self, mut slot: ReadSlot) {
        let extent = slot.extent(&self.mirror);
        let mut inner = self.mirror.inner.lock();
        let shown = inner.shown.overlaps(&extent);
        let mask = match shown {
            true => 0,
            false => inner.core.read_source(extent, slot.tried),
        };
        if mask == 0 {
            // What can serve it may be suspended, or away.
            let able = inner.core.readable(extent) & !slot.tried;
            let waits = able & inner.core.suspended() != 0;
            let away = inner.copy((able & inner.core.away()).trailing_zeros());
            let part = slot.part.as_ref();
            let part = part.filter(|_| shown || waits || away.is_some());
            let (served, sent) = part.map_or((false, None), |part| {
                self.read_held(&mut inner, part, &extent)
            });
            drop(inner);
            if let Some(write) = sent.and_then(Shared::release) {
                Mirror::finish(write);
            }
            if served {
                let part = slot.part.take();
                drop(slot);
                if let Some(part) = part {
                    part.end(Status::OK);
                }
            } else if shown || waits {
                self.mirror.stalled.push(slot);
            } else if let Some(copy) = away {
                self.read_from(slot, &copy);
            } else {
                end(slot);
            }
            return;
        }
        let copy = self.mirror.choose(&inner, mask, extent.start);
        drop(inner);
        match copy {
            Some(copy) => self.read_from(slot, &copy),
            None => end(slot),
        }
    }

    fn read_from(&self, mut slot: ReadSlot, copy: &Arc<Copy>) {
        slot.copy = copy.index;
        slot.from = Some(copy.clone());
        self.mirror.begins(copy.index);
        match slot.into_clone() {
            Ok(bio) => copy.node.serve_behind(bio, self.mirror.origin()),
            Err(slot) => Read::end(slot, Status::RESOURCE),
        }
    }

    /// Lets another copy serve a read that failed. On the thread.
    pub(super) fn read_again(&self, slot: ReadSlot) {
        let extent = slot.extent(&self.mirror);
        let others = {
            let mut inner = self.mirror.inner.lock();
            match slot.status {
                // It has lost nothing: it can't do with the buffer.
                Status::INVAL => inner.core.readable(extent) & !slot.tried,
                _ => inner.core.read_failed(slot.copy, extent),
            }
        };
        if others & !slot.tried == 0 {
            end(slot);
        } else {
            self.read_from_any(slot);
        }
    }
}

/// Ends a read that no copy can serve.
fn end(mut slot: ReadSlot) {
    let status = match slot.status {
        Status::OK => Status::IOERR,
        status => status,
    };
    let part = slot.part.take();
    slot.status = Status::OK;
    drop(slot);
    if let Some(part) = part {
        part.end(status);
    }
}

impl Mirror {
    /// Chooses one of several copies for a read from `sector` on.
    #[inline]
    fn choose(&self, inner: &Inner, mask: Mask, sector: u64) -> Option<Arc<Copy>> {
        if mask & mask.wrapping_sub(1) == 0 {
            return inner.copy(mask.trailing_zeros());
        }
        let index = match self.policy.load(Relaxed) {
            uapi::READ_ROUND_ROBIN => {
                let turn = self.turn.fetch_add(1, Relaxed);
                let nth = turn.checked_rem(mask.count_ones()).unwrap_or(0);
                each(mask).nth(nth as usize)
            }
            uapi::READ_NEAREST => each(mask).min_by_key(|copy| {
                let head = self.heads.get(*copy as usize);
                let distance = head.map_or(0, |head| head.load(Relaxed).abs_diff(sector));
                (distance, self.pending(*copy))
            }),
            policy => {
                let local = |copy: u32| {
                    let copy = inner.copies.get(copy as usize);
                    let node = copy.and_then(|copy| copy.as_ref()).map(|copy| &copy.node);
                    matches!(node, Some(Node::Local(_)))
                };
                let prefer_local = policy == uapi::READ_LOCAL_FIRST;
                each(mask).min_by_key(|copy| {
                    // Of two that are equal, the local one is nearer.
                    let far = !local(*copy);
                    (prefer_local && far, self.pending(*copy), far)
                })
            }
        };
        inner.copy(index?)
    }
}
