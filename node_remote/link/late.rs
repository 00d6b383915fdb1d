// SPDX-License-Identifier: GPL-2.0

//! The quiet time: newer writes wait for late ones. When it begins and ends, and what becomes of those that wait.

use kernel::{
    sync::Arc,
    time::Jiffies, //
};

use crate::{
    kern::{
        bio::Status,
        time, //
    },
    late::QUIET_MS,
};

use super::{
    super::{
        finish,
        push,
        Remote,
        RemoteNode,
        RemoteSlot, //
    },
    Link, //
};

impl Link {
    /// There is a connection, on which nothing was sent yet, and nobody can: the caller has the sending half.
    pub(super) fn begin_quiet(&mut self, remote: &Remote) {
        let fenced = remote.shown.lock().fenced;
        let quiet = remote.queue.lock().begin_quiet(fenced);
        self.quiet_until = quiet.then(|| time::in_ms(time::now(), QUIET_MS));
    }

    /// Lets go what is held, if the time is over.
    pub(super) fn end_quiet(&mut self, node: &Arc<RemoteNode>, now: Jiffies) {
        if !self
            .quiet_until
            .is_some_and(|until| time::reached(until, now))
        {
            return;
        }
        self.quiet_until = None;
        let refused = node.ctx().queue.lock().end_quiet();
        if let Some(slot) = refused {
            finish(slot, Status::IOERR);
        }
        push(node);
    }

    /// The connection is lost: what is held goes back, too.
    pub(super) fn take_held_back(&mut self, remote: &Remote) {
        self.quiet_until = None;
        remote.queue.lock().suspend_quiet();
        loop {
            let slot = remote.queue.lock().take_held(|_| true);
            if slot.is_none() {
                return;
            }
            self.take_back(slot);
        }
    }

    /// Fails what is held and has waited for long enough. The connection stays: nothing was sent of them.
    pub(super) fn fail_held(&self, node: &Arc<RemoteNode>, enough: impl Fn(&RemoteSlot) -> bool) {
        loop {
            let Some(slot) = node.ctx().queue.lock().take_held(&enough) else {
                return;
            };
            finish(slot, Status::IOERR);
        }
    }
}
