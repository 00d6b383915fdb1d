// SPDX-License-Identifier: GPL-2.0

//! Sessions: heads and servers, the connections between them, and what is sent again when those are lost.
//!
//! Heads write to few sectors of one or two servers. Connections are slow, and are cut, at either end or both; servers
//! end and come back; disks are slow; heads crash, and others take over. Servers are exports of DST, which have the fence,
//! or others, which do late what a dead connection had asked for, as late as it is promised to do no harm. The oracle
//! knows what was acknowledged, and so what may land.

mod head;
mod link;
mod oracle;
mod requests;
mod server;
mod wire;

use std::collections::{
    BTreeMap,
    BTreeSet, //
};

use super::{
    rng::Rng,
    tell, //
};
use head::{
    Head,
    Life, //
};
use oracle::Oracle;
use server::Server;
use wire::{
    Conn,
    Side, //
};

/// Sectors of a server's disk: few, so that writes meet. The last one is the superblock.
const SECTORS: u64 = 13;

/// Bytes of a sector.
const SECTOR: usize = 512;

const EXPORT: &str = "a";

/// A rule that is broken on purpose: the simulation must find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None is.
    None,
    /// An export does not wait for what older connections have on the disk.
    NoDrain,
    /// An export does not end older connections.
    OlderStay,
    /// An export lets in a head with an older epoch.
    OlderEpoch,
    /// Newer writes don't wait for late ones.
    NoHold,
    /// A fence counts also for connections that had none.
    FenceForAll,
    /// A write that has ended with an error is not taken for one that may be late.
    FailedForgotten,
    /// A server without a fence takes longer than is promised to do no harm.
    TooLate,
    /// What is sent again is sent in the wrong order.
    NewestFirst,
    /// A request keeps its cookie, and so does the next one in its place.
    SameCookie,
    /// A head begins before all servers have let it in.
    EarlyBegin,
}

/// All of them.
pub(crate) const FAULTS: [Fault; 10] = [
    Fault::NoDrain,
    Fault::OlderStay,
    Fault::OlderEpoch,
    Fault::NoHold,
    Fault::FenceForAll,
    Fault::FailedForgotten,
    Fault::TooLate,
    Fault::NewestFirst,
    Fault::SameCookie,
    Fault::EarlyBegin,
];

#[derive(Clone, Copy)]
enum Event {
    /// Something comes to an end of a connection.
    Arrive { conn: usize, to: Side },
    /// A server looks at a connection.
    Serve { conn: usize },
    /// A disk is done with a request.
    Disk { server: usize, op: u64 },
    /// A server without a fence is done with a dead connection.
    Settle { conn: usize },
    /// A server is back.
    Back { server: usize },
    /// Time has passed for a link.
    Tick { head: usize, link: usize },
    /// A head asks for something.
    Submit { head: usize },
    /// A head has heard that another one has taken over.
    Oust { head: usize },
    /// A head starts, perhaps for the second time.
    Start { other: Option<u64> },
    /// A head and a server can reach each other again.
    Unblock { head: usize, server: usize },
    /// Something goes wrong.
    Trouble,
}

/// What the world is like.
struct Plan {
    /// Heads take over from others that run. All servers have the fence.
    takeovers: bool,
    /// Some servers have none, or sometimes.
    foreign: bool,
    /// Writes are submitted also where others are not over yet.
    overlapping: bool,
    /// Milliseconds between two requests of a head, at most.
    pause: u64,
    /// Milliseconds between two troubles, at most.
    calm: u64,
}

macro_rules! tally {
    ($($field:ident),*) => {
        /// What happened in all.
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct Tally {
            $($field: u64,)*
        }

        impl Tally {
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }

            /// Whether all of it happened, if there was time for it.
            pub(crate) fn is_rich(&self) -> bool {
                self.seeds < 500 || [$(self.$field),*].iter().all(|count| *count != 0)
            }
        }
    };
}

tally!(
    seeds,
    writes,
    acknowledged,
    failed,
    reads,
    lost,
    resent,
    held,
    quiet,
    late,
    undone,
    strange,
    waits,
    begun,
    fenced,
    refused,
    unfenced,
    restarts,
    replaced,
    crashes
);

pub(crate) struct World {
    rng: Rng,
    trace: bool,
    /// Simulated milliseconds.
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    fault: Fault,
    plan: Plan,
    servers: Vec<Server>,
    conns: Vec<Conn>,
    heads: Vec<Head>,
    /// Heads and servers that can't reach each other.
    blocked: BTreeSet<(usize, usize)>,
    oracle: Oracle,
    tally: Tally,
    /// Nothing goes wrong any more, and nothing new is asked for.
    at_rest: bool,
}

/// Lives through one world, in which a rule may be broken.
pub(crate) fn run(seed: u64, trace: bool, fault: Fault) -> Tally {
    let mut rng = Rng::new(seed);
    let takeovers = rng.chance(400);
    let foreign = !takeovers && rng.chance(700);
    let plan = Plan {
        takeovers,
        foreign,
        overlapping: rng.chance(500),
        pause: [20, 100, 400][rng.below(3) as usize],
        calm: [700, 2000, 6000][rng.below(3) as usize],
    };
    let servers = 1 + rng.below(2);
    let servers: Vec<Server> = (0..servers)
        .map(|_| Server::new(foreign && rng.chance(700), rng.chance(300)))
        .collect();
    let lasts = 10_000 + rng.below(40_000);
    let mut world = World {
        rng,
        trace,
        now: 0,
        events: BTreeMap::new(),
        next_event: 0,
        fault,
        plan,
        oracle: Oracle::new(servers.len(), SECTORS),
        servers,
        conns: Vec::new(),
        heads: Vec::new(),
        blocked: BTreeSet::new(),
        tally: Tally::default(),
        at_rest: false,
    };
    world.at(0, Event::Start { other: None });
    world.at(1000, Event::Trouble);
    world.live(lasts);
    world.come_to_rest();
    world.tally.seeds = 1;
    world.tally
}

impl World {
    /// What is shown with all that happens.
    fn clock(&self) -> u64 {
        self.now
    }

    /// Something will happen.
    fn at(&mut self, at: u64, event: Event) {
        self.events.insert((at, self.next_event), event);
        self.next_event += 1;
    }

    /// Lets so many milliseconds go by.
    fn live(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(first) = self
            .events
            .first_entry()
            .filter(|first| first.key().0 < end)
        {
            let ((at, _), event) = first.remove_entry();
            self.now = at;
            self.happen(event);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { conn, to } => self.arrive(conn, to),
            Event::Serve { conn } => self.serve(conn),
            Event::Disk { server, op } => self.disk(server, op),
            Event::Settle { conn } => self.settle(conn),
            Event::Back { server } => self.servers[server].is_up = true,
            Event::Tick { head, link } => self.tick(head, link),
            Event::Submit { head } => self.submit(head),
            Event::Oust { head } => self.end_head(head, Life::Fenced),
            Event::Start { other } => self.start(other),
            Event::Unblock { head, server } => {
                self.blocked.remove(&(head, server));
            }
            Event::Trouble => self.trouble(),
        }
    }

    /// Whether a head can't reach a server.
    fn is_blocked(&self, head: usize, server: usize) -> bool {
        self.blocked.contains(&(head, server))
    }

    /// A head that counts, if there is one.
    fn some_head(&mut self) -> Option<usize> {
        let heads = self.heads.iter().enumerate();
        let alive = heads.filter(|(_, head)| !matches!(head.life, Life::Fenced | Life::Dead));
        let alive: Vec<usize> = alive.map(|(head, _)| head).collect();
        self.rng.pick(&alive)
    }

    /// A head and a server lose each other for a while.
    fn part(&mut self, head: usize, server: usize) {
        tell!(self, "head {head} and server {server} lose each other");
        self.blocked.insert((head, server));
        if let Some(conn) = self.heads[head].links[server].conn() {
            self.cut(conn);
        }
        let at = self.now + self.rng.below(8000);
        self.at(at, Event::Unblock { head, server });
    }

    /// Something goes wrong.
    fn trouble(&mut self) {
        if self.at_rest {
            return;
        }
        let server = self.rng.below(self.servers.len() as u64) as usize;
        let Some(head) = self.some_head() else {
            let at = self.now + 1000;
            self.at(at, Event::Start { other: None });
            self.at(at + 1, Event::Trouble);
            return;
        };
        let weights = [30, 10, 8, 10, 4, 8, 8, 8];
        match self.rng.weighted(&weights) {
            0 => {
                if let Some(conn) = self.heads[head].links[server].conn() {
                    self.cut(conn);
                }
            }
            1 => self.part(head, server),
            2 if self.servers[server].is_up => {
                self.tally.restarts += 1;
                if self.plan.takeovers {
                    self.forget_others(server);
                }
                let in_order = self.rng.chance(300);
                let was = self.servers[server].foreign;
                let foreign = self.plan.foreign && self.rng.chance(300) != was;
                self.stop(server, in_order, foreign);
            }
            3 => self.servers[server].slow_until = self.now + self.rng.below(5000),
            4 => self.fail_now(head, server),
            5 => self.crash(head),
            6 if self.plan.takeovers => {
                // Perhaps two at once; and the older one may be cut off just then.
                for _ in 0..1 + self.rng.below(2) {
                    let at = self.now + self.rng.below(30);
                    self.at(at, Event::Start { other: None });
                }
                if self.rng.chance(500) {
                    self.part(head, server);
                }
            }
            7 if self.servers[server].foreign && self.servers[server].is_up => {
                self.tally.replaced += 1;
                self.replace(server);
            }
            _ => {}
        }
        let at = self.now + self.rng.below(self.plan.calm);
        self.at(at, Event::Trouble);
    }

    /// Nothing goes wrong any more: all that was asked for comes to an end, and what was acknowledged is there.
    fn come_to_rest(&mut self) {
        tell!(self, "comes to rest");
        self.at_rest = true;
        self.blocked.clear();
        self.live(100_000);
        for (at, head) in self.heads.iter().enumerate() {
            for (server, link) in head.links.iter().enumerate() {
                if head.life != Life::Dead {
                    let idle = link.is_idle() && link.queue.is_empty();
                    assert!(idle, "head {at} still waits for server {server}");
                }
                if head.life == Life::Running {
                    let up = link.is_up();
                    assert!(up, "head {at} has no connection to server {server}");
                }
            }
        }
        for (at, server) in self.servers.iter().enumerate() {
            self.oracle.check(at, &server.disk);
        }
    }
}
