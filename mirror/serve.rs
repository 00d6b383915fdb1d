// SPDX-License-Identifier: GPL-2.0

//! What is done for requests that had to wait, and for those that wait for a server that does not answer.

use kernel::sync::atomic::Relaxed;

use crate::alg_mirror::{
    bit,
    MAX_COPIES, //
};

use super::{
    write::status,
    Engine, //
};

impl Engine {
    /// Sends what may go, and ends what is over.
    pub(super) fn serve_core(&self) {
        loop {
            let mut inner = self.mirror.inner.lock();
            let Some((id, mask)) = inner.core.next_ready() else {
                break;
            };
            let (slot, targets) = (inner.take_held(id), inner.targets(mask));
            drop(inner);
            if let Some(slot) = slot {
                self.send(slot, &targets);
            }
        }
        loop {
            let mut inner = self.mirror.inner.lock();
            let Some((id, ok)) = inner.core.next_ended() else {
                break;
            };
            let slot = inner.take_held(id);
            inner.shown.forget(id);
            drop(inner);
            if let Some(mut slot) = slot {
                let errno = slot.errno.load(Relaxed);
                let part = slot.part.take();
                drop(slot.flushed.take());
                drop(slot);
                if let Some(part) = part {
                    part.end(status(ok, errno));
                }
            }
        }
    }

    /// Looks again, if a copy could leave, or if the last one is away. Who does it when told so may be kept from it: by
    /// somebody who waits for memory, for which a request of ours may have to end first.
    pub(super) fn look_again(&self) {
        let inner = self.mirror.inner.lock();
        let targets = inner.targets(inner.core.attached());
        let away = inner.core.away();
        drop(inner);
        let mut copies = targets.0.iter().flatten();
        if away != 0 || copies.any(|copy| copy.node.is_lost() || copy.node.is_slow()) {
            self.look_at_nodes();
        }
    }

    /// Looks whether servers of copies are lost: those can leave. What waits for them fails, here. Process context.
    pub(crate) fn look_at_nodes(&self) {
        for index in 0..MAX_COPIES {
            let Some(copy) = self.mirror.inner.lock().copy(index) else {
                continue;
            };
            // First: what is lost from here on is noticed the next time.
            let losses = copy.node.losses();
            let lost = copy.node.is_lost();
            if lost && copy.node.is_asking() {
                // If another head has taken over, what only we have must not be written to any more.
                continue;
            }
            let slow = copy.node.is_slow();
            let mut inner = self.mirror.inner.lock();
            if !lost && !slow && !copy.was_lost() {
                inner.core.set_away(index, false);
                continue;
            }
            let attached = inner.core.attached() & bit(index) != 0;
            let gone = !attached || inner.core.leave(index);
            inner.core.set_away(index, !gone && (lost || slow));
            drop(inner);
            if gone {
                if lost || slow {
                    copy.node.fail_now();
                }
            } else if !lost {
                // It is the last one, and back: whatever it has now is what there is.
                copy.losses.store(losses, Relaxed);
            }
        }
        self.mirror.kick();
    }
}
