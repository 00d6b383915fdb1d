// SPDX-License-Identifier: GPL-2.0

//! How long requests have waited, and for what.

use kernel::{
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::Jiffies, //
};

use crate::{
    kern::time,
    late::QUIET_MS, //
};

use super::Remote;

/// Milliseconds after which a server that does not answer is not waited for, if there are others that have the same
/// data: longer than a disk takes to wake up.
const SLOW_MS: u32 = 10_000;

// Who waits for late writes must not be taken for slow before that time is over.
const _: () = assert!(QUIET_MS < SLOW_MS);

/// Whether what began then has waited for at least so many milliseconds; 0: nothing began.
fn waited(started: &Atomic<usize>, ms: u32, now: Jiffies) -> bool {
    let started = started.load(Relaxed);
    started != 0 && time::reached(time::in_ms(started, ms), now)
}

impl Remote {
    /// Changes how long a request may wait, in milliseconds; 0: for ever. Counts at once.
    pub(crate) fn set_timeout(&self, ms: u32) {
        self.timeout_ms.store(ms, Relaxed);
        self.net.kick_tick();
    }

    /// Tells from now on, as a change of what is shown, when the server is slow.
    pub(crate) fn watch_slowness(&self) {
        self.slow_watched.store(true, Relaxed);
        self.net.kick_tick();
    }

    /// Whether a request has waited for longer than [`SLOW_MS`] for the server. Process context.
    pub(crate) fn is_slow(&self) -> bool {
        let now = time::now();
        // What was held for a new connection has waited for us.
        let held = self.shown(|shown| {
            !shown.fenced && !time::reached(time::in_ms(shown.since, SLOW_MS + QUIET_MS), now)
        });
        let ms = if held { SLOW_MS + QUIET_MS } else { SLOW_MS };
        self.waits_longer_than(ms, now)
    }

    /// Whether a request has waited for at least so many milliseconds.
    pub(super) fn waits_longer_than(&self, ms: u32, now: Jiffies) -> bool {
        self.started.iter().any(|started| waited(started, ms, now))
    }

    /// The same for the piece with that index.
    pub(super) fn waits_for(&self, index: u32, ms: u32, now: Jiffies) -> bool {
        let started = self.started.get(index as usize);
        started.is_some_and(|started| waited(started, ms, now))
    }

    /// Requests that are held for late writes now, and how often one was.
    pub(crate) fn held(&self) -> (usize, u64) {
        self.queue.lock().held()
    }
}
