// SPDX-License-Identifier: GPL-2.0

//! What becomes of the requests when the connection is lost, or when nobody waits for it any more.

use core::mem;

use kernel::{
    prelude::*,
    sync::{
        atomic::Full,
        Arc, //
    },
};

use crate::{
    kern::{
        bio::Status,
        net::Socket,
        time, //
    },
    proto::fence::TakenOver,
    send_queue::{
        self,
        Mode, //
    },
    uapi, //
};

use super::{
    super::{
        finish,
        Reason,
        RemoteNode,
        RemoteSlot, //
    },
    wanted_tx,
    Connection,
    Link,
    State, //
};

impl Link {
    /// The connection is lost: nothing is sent from here on.
    pub(super) fn lose(&mut self, node: &Arc<RemoteNode>, reason: Reason) {
        let remote = node.ctx();
        let State::Up { with } = mem::replace(&mut self.state, State::Closed) else {
            return;
        };
        // Ends a send that is under way, too.
        with.socket.shutdown();
        if self.quiet {
            self.state = State::Stopping { with };
            return;
        }
        let state = if self.failing {
            uapi::NODE_FAILED
        } else {
            uapi::NODE_LOST
        };
        {
            let mut shown = remote.shown.lock();
            shown.asking = shown.fenced && remote.config.hold.is_some() && !self.failing;
        }
        remote.show(state, Some(reason));
        // Whoever finds that it was lost must see that it is, and is about to be asked: the message may take its time.
        remote.reconnects.fetch_add(1, Full);
        if !self.closing && !self.ousted {
            pr_warn!("{}: lost: {}\n", remote.config.address, reason.as_str());
        }
        self.state = State::Stopping { with };
    }

    /// Takes all requests back that were on the connection.
    pub(super) fn stop(&mut self, node: &Arc<RemoteNode>, with: Connection) -> bool {
        let remote = node.ctx();
        let Some(mut tx) = wanted_tx(remote) else {
            self.state = State::Stopping { with };
            return false;
        };
        let early = tx.close();
        drop(tx);
        let fenced = remote.shown.lock().fenced;
        self.take_back(early);
        let partial = self.receiver.take_partial();
        self.take_back(partial);
        let mut from = 0;
        while let Some(slot) = node.claim_any(from) {
            from = slot.index() + 1;
            self.take_back(Some(slot));
        }
        // Of these the flush was not sent. It would not do without the write.
        loop {
            let slot = remote.queue.lock().take_flushing();
            if slot.is_none() {
                break;
            }
            self.take_back(slot);
        }
        for slot in self.back.iter_mut() {
            remote.queue.lock().lost(slot, fenced);
        }
        // These were not sent.
        self.take_held_back(remote);
        send_queue::in_order(&mut self.back);
        let refused = remote.queue.lock().put_back(|| self.back.pop());
        if let Some(slot) = refused {
            finish(slot, Status::IOERR);
        }
        let Connection { watch, socket } = with;
        drop(watch);
        self.state = State::Draining {
            remains: Socket::close(socket),
        };
        true
    }

    pub(super) fn take_back(&mut self, slot: Option<RemoteSlot>) {
        if let Some(slot) = slot {
            // There are as many places as pieces.
            if let Err(refused) = self.back.push_within_capacity(slot) {
                finish(refused.0, Status::IOERR);
            }
        }
    }

    /// Ends the waiting: at once if nothing is on a connection, else when that is gone.
    pub(super) fn end_waiting(&mut self, node: &Arc<RemoteNode>, reason: Reason) {
        let remote = node.ctx();
        match &self.state {
            State::Up { .. } => {
                // For these the server is not to blame.
                self.fail_held(node, |_| true);
                if node.used() != 0 {
                    self.failing = true;
                    self.lose(node, reason);
                }
            }
            State::Closed => {}
            State::Stopping { .. } | State::Draining { .. } => {
                self.failing = true;
                remote.show(uapi::NODE_FAILED, Some(reason));
            }
            _ => {
                self.failing = true;
                self.fail_queued(node);
                remote.show(uapi::NODE_FAILED, None);
            }
        }
    }

    /// Fails all that waits, and all that comes until the server is back.
    pub(super) fn fail_queued(&mut self, node: &Arc<RemoteNode>) {
        let remote = node.ctx();
        remote.queue.lock().set_mode(Mode::Failing);
        loop {
            let Some(slot) = remote.queue.lock().pop() else {
                return;
            };
            finish(slot, Status::IOERR);
        }
    }

    /// What is said to the server of the storage has changed: nothing of what was before counts.
    pub(super) fn begin_anew(&mut self, node: &Arc<RemoteNode>) -> bool {
        self.renew = false;
        self.failing = false;
        self.talk = None;
        node.ctx().queue.lock().set_mode(Mode::Open);
        self.state = State::Waiting { until: time::now() };
        true
    }

    /// Another node of the storage has heard that another head has taken over. This one need not be asked.
    pub(super) fn follow(&mut self, node: &Arc<RemoteNode>) {
        let hold = node.ctx().config.hold.as_ref();
        let epoch = hold.map_or(0, |hold| hold.lost_to());
        self.taken_over(node, TakenOver(epoch));
    }

    /// The storage is another head's now: nothing of ours may get to the server any more, however long it
    /// is asked. So nobody asks.
    pub(super) fn taken_over(&mut self, node: &Arc<RemoteNode>, other: TakenOver) {
        let remote = node.ctx();
        let reason = Reason::new(other);
        pr_warn!("{}: {}\n", remote.config.address, reason.as_str());
        if let Some(hold) = remote.config.hold.as_ref().filter(|_| self.held) {
            // First: what fails from here on must not be taken for the loss of one node.
            hold.lose(other.0);
        }
        self.failing = true;
        self.fail_queued(node);
        self.state = State::TakenOver;
        {
            // Both at once: somebody may wait for the first connection.
            let mut shown = remote.shown.lock();
            shown.refused = Some(ESTALE);
            shown.reason = reason;
            shown.asking = false;
            shown.taken_over = other.0;
            shown.round = self.round;
        }
        remote.show(uapi::NODE_FAILED, None);
    }
}
