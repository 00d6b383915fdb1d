// SPDX-License-Identifier: GPL-2.0

//! Nodes for which requests wait because somebody wants that.
//!
//! A mirror's core knows that of its copies. Elsewhere the place of a node in the storage has a [gate](crate::gate); while
//! a node takes the place of another one, it is that of both. What the storage itself writes or copies passes no gate.
//!
//! All of this takes `inner` alone, so that what waits can be let go whatever else is going on.

use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
};

use crate::{
    events::Events,
    failure::{
        fail,
        Done, //
    },
    kern::{
        time,
        timer::Expire, //
    },
    member::Member,
    mirror::Engine,
};

use super::Storage;

/// Milliseconds between two looks for requests that have waited too long.
const LOOK_MS: u32 = 250;

/// It is time to look for requests that have waited too long.
pub(super) struct Overdue(Arc<Events>);

impl Overdue {
    /// Lets the worker of `events` look.
    pub(super) fn new(events: &Arc<Events>) -> Self {
        Self(events.clone())
    }
}

impl Expire for Overdue {
    fn expired(&self) {
        self.0.tell();
    }
}

impl Storage {
    /// Lets requests wait that must go to a node.
    pub(crate) fn suspend(&self, id: u32) -> Done {
        let close = |member: &Member| {
            if !member.gate.close() {
                fail!(EALREADY, "the node is suspended already");
            }
            Ok(())
        };
        self.for_running(id, Engine::suspend, close)?;
        // Who has a time limit must be looked after.
        self.events.tell();
        Ok(())
    }

    /// They go on.
    pub(crate) fn resume(&self, id: u32) -> Done {
        let open = |member: &Member| {
            if !member.gate.open() {
                fail!(EALREADY, "the node is not suspended");
            }
            Ok(())
        };
        self.for_running(id, Engine::resume, open)
    }

    /// Calls one of the two for a node of a storage that runs: with the mirror and its number as a copy, or as it is.
    fn for_running(
        &self,
        id: u32,
        copy: impl FnOnce(&Engine, u32) -> Done,
        node: impl FnOnce(&Member) -> Done,
    ) -> Done {
        let inner = self.inner.lock();
        if inner.disk.is_none() {
            fail!(EOPNOTSUPP, "{0} does not run; start {0} first", self.name());
        }
        let member = inner.members.iter().find(|member| member.id == id);
        let Some(member) = member else {
            fail!(ENOENT, "{} has no such node", self.name());
        };
        match &inner.mirror {
            None => node(member),
            Some(mirror) => match member.copy() {
                Some(index) => copy(mirror, index),
                None => fail!(EINVAL, "the node is no copy"),
            },
        }
    }

    /// Ends what waits at gates, if that has waited too long, or if another head has the storage.
    pub(crate) fn look_at_gates(&self) {
        let lost = self.hold.is_lost();
        let mut pause = None;
        let inner = self.inner.lock();
        for member in inner.members.iter().filter(|m| m.gate.is_closed()) {
            let limit = member
                .remote()
                .map_or(0, |remote| remote.timeout_ms.load(Relaxed));
            if lost || limit != 0 && member.gate.waits_longer_than(limit) {
                member.gate.fail();
            } else if limit != 0 {
                pause = Some(limit.min(pause.unwrap_or(LOOK_MS)));
            }
        }
        if let Some(pause) = pause {
            self.overdue.arm(time::in_ms(time::now(), pause));
        }
    }

    /// The disk is about to go: what waits at gates ends.
    pub(super) fn fail_gates(&self) {
        for member in &self.inner.lock().members {
            member.gate.fail();
        }
    }

    /// It is gone: the next start begins with all gates open.
    pub(super) fn open_gates(&self) {
        for member in &self.inner.lock().members {
            member.gate.reset();
        }
    }
}
