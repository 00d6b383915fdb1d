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
    late::Moment,
};

use super::{
    super::{
        finish,
        push,
        Remote,
        RemoteNode,
        RemoteSlot, //
    },
    Link,
    State, //
};

impl Moment for Jiffies {
    fn later(self, ms: u32) -> Self {
        time::in_ms(self, ms)
    }

    fn is_reached(self, now: Self) -> bool {
        time::reached(self, now)
    }
}

impl Link {
    /// There is a connection, on which nothing was sent yet, and nobody can: the caller has the sending half.
    pub(super) fn begin_quiet(&mut self, remote: &Remote) {
        let fenced = remote.shown.lock().fenced;
        remote.queue.lock().begin_quiet(fenced);
        if self.quiet_time.connected(time::now()) {
            self.next_quiet(remote);
        }
    }

    /// Lets go what is held, if its time is over.
    pub(super) fn end_quiet(&mut self, node: &Arc<RemoteNode>, now: Jiffies) {
        while self.is_up() && self.quiet_time.is_over(now) {
            self.next_quiet(node.ctx());
            push(node);
        }
    }

    /// When newer writes have waited for long enough, or for the next late ones, if there is a connection.
    pub(super) fn quiet_end(&self) -> Option<Jiffies> {
        self.quiet_time.until().filter(|_| self.is_up())
    }

    fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    fn next_quiet(&mut self, remote: &Remote) {
        let mut queue = remote.queue.lock();
        let refused = queue.next_quiet();
        let quiet = queue.is_quiet();
        drop(queue);
        self.quiet_time.next(quiet);
        if let Some(slot) = refused {
            finish(slot, Status::IOERR);
        }
    }

    /// The connection is lost: what is held goes back, too.
    pub(super) fn take_held_back(&mut self, remote: &Remote) {
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
