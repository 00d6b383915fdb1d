// SPDX-License-Identifier: GPL-2.0

//! What a server is told of the storage, and what it says of other heads.

use kernel::{
    prelude::*,
    sync::atomic::Relaxed,
    time::{
        delay::fsleep,
        Delta,
        Jiffies, //
    },
};

use crate::{
    kern::time,
    proto::fence::Fence,
    uapi, //
};

use super::{
    order,
    Reason,
    Remote,
    Unfenced, //
};

/// Milliseconds in which a server that ended a connection is asked why, before its node counts as lost alone.
const ASK_MS: u32 = 1000;

impl Remote {
    /// Tells the server something else of the storage, on a new connection. Gives what [`Self::wait_fenced`] waits for.
    ///
    /// Nothing may be in flight. Ends the state in which another head has taken over.
    pub(crate) fn renew(&self, fence: Option<Fence>) -> u32 {
        let round = {
            let mut wanted = self.wanted.lock();
            wanted.fence = fence;
            wanted.round = wanted.round.wrapping_add(1);
            wanted.round
        };
        self.shown.lock().taken_over = 0;
        self.order(order::RENEW);
        round
    }

    /// Whether the connection was lost just now, and may have been since another head has taken over: the server knows
    /// that, and is about to be asked.
    pub(crate) fn is_asking(&self) -> bool {
        let shown = self.shown.lock();
        shown.asking && !time::reached(time::in_ms(shown.since, ASK_MS), time::now())
    }

    /// Tells, as a change of what is shown, if it was not asked in time: then the node counts as lost alone. Gives until
    /// when there is time yet.
    pub(super) fn end_asking(&self, now: Jiffies) -> Option<Jiffies> {
        let mut shown = self.shown.lock();
        let end = Some(time::in_ms(shown.since, ASK_MS)).filter(|_| shown.asking)?;
        if !time::reached(end, now) {
            return Some(end);
        }
        shown.asking = false;
        self.news.store(true, Relaxed);
        None
    }

    /// Fails all requests: another head has taken over the storage.
    pub(crate) fn oust(&self) {
        self.order(order::OUST);
    }

    /// Waits until the connection of that round is up, at most `ms` milliseconds.
    pub(crate) fn wait_fenced(&self, round: u32, ms: u32) -> core::result::Result<(), Unfenced> {
        let end = time::in_ms(time::now(), ms);
        loop {
            {
                let shown = self.shown.lock();
                if shown.round == round {
                    if shown.taken_over != 0 {
                        return Err(Unfenced::TakenOver(shown.taken_over));
                    }
                    if shown.state == uapi::NODE_UP {
                        return Ok(());
                    }
                }
                if time::reached(end, time::now()) {
                    let reason = match shown.reason.as_str() {
                        "" => Reason::new("no answer"),
                        _ => shown.reason,
                    };
                    return Err(Unfenced::Away(ETIMEDOUT, reason));
                }
            }
            fsleep(Delta::from_millis(1));
        }
    }
}
