// SPDX-License-Identifier: GPL-2.0

//! Heads: how one starts, what it asks for, and how it ends.

use std::collections::BTreeSet;

use dst_core::{
    alg_mirror::overlap::Extent,
    proto::fence::{
        Fence,
        Uuid, //
    },
};

use super::{
    super::tell,
    link::{
        Link,
        State, //
    },
    requests::Want,
    wire::{
        Side,
        Stage, //
    },
    Event,
    Fault,
    World,
    SECTORS, //
};

/// The one storage.
const STORAGE: Uuid = [7; 16];

/// Where the superblock is.
pub(super) const SUPERBLOCK: Extent = Extent::new(SECTORS - 1, 1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It announces its epoch.
    Starting,
    /// All servers have let it in. It reads the superblocks once more.
    Reading,
    /// It has begun.
    Running,
    /// Another head has taken over, or it was not let in.
    Fenced,
    /// Its machine is gone.
    Dead,
}

pub(super) struct Head {
    pub(super) epoch: u64,
    pub(super) life: Life,
    /// This is its second attempt to start.
    again: bool,
    pub(super) links: Vec<Link>,
    /// Milliseconds after which a request fails.
    pub(super) timeout: Option<u64>,
    /// Writes that are not over.
    writes: Vec<(usize, u64)>,
    /// Servers that have let it in.
    has: BTreeSet<usize>,
    /// When the last one did.
    complete: u64,
    /// Superblocks that it has still to read.
    unread: usize,
    /// Servers that have its superblock.
    written: Vec<usize>,
}

impl World {
    /// The greatest epoch in the superblocks.
    fn epoch(&self) -> u64 {
        let disks = self.servers.iter().map(|server| &server.disk);
        let versions = disks.map(|disk| disk[SUPERBLOCK.start as usize]);
        let epochs = versions.map(|version| self.oracle.epoch(version));
        epochs.max().unwrap_or(0)
    }

    /// A head starts: it announces its epoch to all servers before it writes anything. `other`: the epoch of the one that
    /// it met the first time.
    pub(super) fn start(&mut self, other: Option<u64>) {
        if !self.plan.takeovers && self.some_head().is_some() {
            // Nothing is promised of two.
            return;
        }
        let next = self.epoch() + 1;
        let epoch = match other {
            Some(other) if next > other => {
                // It has begun.
                return;
            }
            Some(other) => other + 1,
            None => next,
        };
        let mut name = [0; 16];
        name[..8].copy_from_slice(&(self.heads.len() as u64 + 1).to_le_bytes());
        let fence = Fence {
            storage: STORAGE,
            head: name,
            epoch,
        };
        let (now, depth) = (self.now, 2 + self.rng.below(8) as usize);
        let extents = 1 + self.rng.below(depth as u64) as usize;
        let servers = self.servers.len();
        let head = self.heads.len();
        let timeout = self.rng.chance(300);
        let timeout = timeout.then(|| 500 + self.rng.below(7000));
        tell!(self, "head {head} starts, epoch {epoch}");
        self.heads.push(Head {
            epoch,
            life: Life::Starting,
            again: other.is_some(),
            links: (0..servers)
                .map(|_| Link::new(now, depth, extents, fence))
                .collect(),
            timeout,
            writes: Vec::new(),
            has: BTreeSet::new(),
            complete: 0,
            unread: 0,
            written: Vec::new(),
        });
        for link in 0..servers {
            self.arm(head, link);
        }
    }

    /// A server lets a head in, which does not know yet.
    pub(super) fn lets_in(&mut self, server: usize, head: usize) {
        if self.heads[head].has.insert(server) {
            self.heads[head].complete = self.next_event;
        }
    }

    /// A head hears that a server has let it in.
    pub(super) fn let_in(&mut self, head: usize, link: usize, fenced: bool) {
        if !fenced && !self.servers[link].foreign {
            // Three attempts in a row have ended at the question.
            self.tally.unfenced += 1;
            if self.heads[head].life == Life::Starting {
                // Nobody has asked the export to be done with the heads before: nothing is promised.
                self.crash(head);
                return;
            }
        }
        // One without a fence lets in everybody.
        self.lets_in(link, head);
        let this = &self.heads[head];
        let enough = match self.fault {
            Fault::EarlyBegin => this.links.iter().any(|link| link.held),
            _ => this.links.iter().all(|link| link.held),
        };
        if this.life != Life::Starting || !enough {
            return;
        }
        let servers: Vec<usize> = (0..this.links.len())
            .filter(|link| this.links[*link].held)
            .collect();
        self.heads[head].life = Life::Reading;
        self.heads[head].unread = servers.len();
        for server in servers {
            let want = Want::Read {
                extent: SUPERBLOCK,
                floor: vec![0],
                data: Vec::new(),
            };
            self.ask(head, server, want);
        }
    }

    /// A head has read a superblock again, or could not.
    pub(super) fn read_again(&mut self, head: usize, found: Option<u64>) {
        let this = &mut self.heads[head];
        if this.life != Life::Reading {
            return;
        }
        let found = found.map(|version| self.oracle.epoch(version));
        if found.is_none_or(|epoch| epoch >= this.epoch) {
            tell!(self, "head {head}: another one has started");
            let at = self.now;
            self.at(at, Event::Oust { head });
            return;
        }
        this.unread -= 1;
        if this.unread != 0 {
            return;
        }
        this.life = Life::Running;
        self.oracle.begin(head, this.complete);
        self.tally.begun += 1;
        tell!(self, "head {head} begins");
        let at = self.now;
        self.at(at, Event::Submit { head });
    }

    fn write(&mut self, head: usize, server: usize, extent: Extent, epoch: Option<u64>) {
        let version = self.oracle.submit(server, extent, head, epoch);
        self.heads[head].writes.push((server, version));
        if !self.ask(head, server, Want::Write { extent, version }) {
            // There was no place for it.
            self.heads[head].writes.pop();
            return;
        }
        self.tally.writes += 1;
    }

    pub(super) fn write_over(&mut self, head: usize, server: usize, version: u64, ok: bool) {
        let this = &mut self.heads[head];
        this.writes.retain(|(_, other)| *other != version);
        if ok && self.oracle.epoch(version) != 0 {
            this.written.push(server);
        }
    }

    /// Writes the superblocks that a head has not written; says whether it has all.
    fn is_written(&mut self, head: usize) -> bool {
        let mut all = true;
        for server in 0..self.servers.len() {
            let this = &self.heads[head];
            if this.written.contains(&server) {
                continue;
            }
            all = false;
            let mut writes = this.writes.iter();
            if !writes.any(|(its, _)| *its == server) {
                self.write(head, server, SUPERBLOCK, Some(this.epoch));
            }
        }
        all
    }

    /// A head asks for something.
    pub(super) fn submit(&mut self, head: usize) {
        if self.heads[head].life != Life::Running || self.at_rest {
            return;
        }
        if !self.is_written(head) {
            let at = self.now + 10;
            self.at(at, Event::Submit { head });
            return;
        }
        let server = self.rng.below(self.servers.len() as u64) as usize;
        let start = self.rng.below(SECTORS - 1);
        let sectors = (1 + self.rng.below(4)).min(SECTORS - 1 - start);
        let extent = Extent::new(start, sectors);
        match self.rng.below(10) {
            0..=6 => {
                let oracle = &mut self.oracle;
                let mut writes = self.heads[head].writes.iter();
                let overlaps = writes.any(|(its, version)| {
                    *its == server && oracle.write(*version).extent.overlaps(&extent)
                });
                if self.plan.overlapping || !overlaps {
                    self.write(head, server, extent, None);
                }
            }
            7 | 8 => {
                let floor = self.oracle.floor(server, &extent).to_vec();
                let want = Want::Read {
                    extent,
                    floor,
                    data: Vec::new(),
                };
                self.ask(head, server, want);
            }
            _ => {
                self.ask(head, server, Want::Flush);
            }
        }
        let at = self.now + self.rng.below(self.plan.pause);
        self.at(at, Event::Submit { head });
    }

    /// A server says that another head has taken over.
    pub(super) fn taken_over(&mut self, head: usize, link: usize, other: u64) {
        tell!(
            self,
            "head {head}, link {link}: taken over by epoch {other}"
        );
        let this = &self.heads[head];
        let (life, again) = (this.life, this.again);
        self.oust(head, link);
        match life {
            Life::Starting | Life::Reading => {
                self.end_head(head, Life::Fenced);
                if !again {
                    let at = self.now + 1000 + self.rng.below(1000);
                    self.at(at, Event::Start { other: Some(other) });
                }
            }
            _ => {
                self.tally.fenced += 1;
                let at = self.now + self.rng.below(20);
                self.at(at, Event::Oust { head });
            }
        }
    }

    /// A head ends, and all of its links.
    pub(super) fn end_head(&mut self, head: usize, life: Life) {
        if matches!(self.heads[head].life, Life::Dead | Life::Fenced) {
            return;
        }
        tell!(self, "head {head}: {life:?}");
        self.heads[head].life = life;
        for link in 0..self.servers.len() {
            if life == Life::Dead {
                if let Some(conn) = self.heads[head].links[link].conn() {
                    self.abandon(conn, Side::Client);
                    self.orphan(conn);
                }
                self.heads[head].links[link].state = State::Closed;
            } else {
                self.oust(head, link);
            }
        }
    }

    /// A server has forgotten all heads: those that have not heard of the newest, or that nobody else can have heard of,
    /// would be let in before others. Nothing is promised of those.
    pub(super) fn forget_others(&mut self, server: usize) {
        for head in 0..self.heads.len() {
            let is_newest = self.servers[server].newest == Some(head);
            if !is_newest || self.heads[head].written.len() != self.servers.len() {
                self.end_head(head, Life::Dead);
            }
        }
    }

    /// A head crashes; another one starts, or it itself.
    pub(super) fn crash(&mut self, head: usize) {
        self.tally.crashes += 1;
        self.end_head(head, Life::Dead);
        for conn in 0..self.conns.len() {
            let it = &self.conns[conn];
            if it.storage.is_none() && !matches!(it.stage, Stage::Handshake(_)) {
                // Without a fence who starts it again has to see to it that the servers are done.
                self.settle(conn);
            }
        }
        let at = self.now + self.rng.below(3000);
        self.at(at, Event::Start { other: None });
    }
}
