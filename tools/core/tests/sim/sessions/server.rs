// SPDX-License-Identifier: GPL-2.0

//! Servers: exports of DST, and others, which know no fence and may do late what a dead connection asked for.

use std::collections::BTreeMap;

use dst_core::{
    alg_mirror::overlap::Extent,
    late::QUIET_MS,
    proto::{
        fence::{
            admit,
            claim,
            Fence,
            Known,
            Verdict,
            OPT_DST, //
        },
        option::BlockSizes,
        request::{
            judge,
            Limits,
            Order,
            Range,
            Verdict as Judgement, //
        },
        server::{
            ExportDescription,
            Exports,
            Outcome, //
        },
        wire::{
            data_chunk,
            RequestHeader,
            SimpleReply,
            REQUEST_LEN, //
        },
        FLAG_HAS_FLAGS,
        FLAG_SEND_FLUSH, //
    },
};

use super::{
    super::tell,
    wire::{
        Conn,
        Side,
        Stage, //
    },
    Event,
    Fault,
    World,
    EXPORT,
    SECTOR,
    SECTORS, //
};

/// What the disk is to do.
enum Work {
    Read(Extent),
    Write { start: u64, versions: Vec<u64> },
    Flush,
}

/// A request on the disk.
struct Op {
    conn: usize,
    cookie: u64,
    work: Work,
    at: u64,
    /// The disk does it when its server without a fence is done with the connection, if ever.
    stuck: bool,
}

impl Op {
    fn extent(&self) -> Extent {
        match &self.work {
            Work::Read(extent) => *extent,
            Work::Write { start, versions } => Extent::new(*start, versions.len() as u64),
            Work::Flush => Extent::default(),
        }
    }
}

/// A disk, and what serves it.
pub(super) struct Server {
    pub(super) is_up: bool,
    pub(super) process: u64,
    /// It knows no fence.
    pub(super) foreign: bool,
    /// It replies to a dead connection's request on the next one.
    pub(super) sloppy: bool,
    known: Vec<Option<Known>>,
    /// The newest head that was let in.
    pub(super) newest: Option<usize>,
    pub(super) disk: Vec<u64>,
    ops: BTreeMap<u64, Op>,
    next_op: u64,
    /// The disk is slow until then.
    pub(super) slow_until: u64,
}

impl Server {
    pub(super) fn new(foreign: bool, sloppy: bool) -> Self {
        Self {
            is_up: true,
            process: 0,
            foreign,
            sloppy,
            known: vec![None; 4],
            newest: None,
            disk: vec![0; SECTORS as usize],
            ops: BTreeMap::new(),
            next_op: 0,
            slow_until: 0,
        }
    }
}

const BLOCKS: BlockSizes = BlockSizes {
    minimum: SECTOR as u32,
    preferred: 4096,
    maximum: 1 << 20,
};

const LIMITS: Limits = Limits {
    size: SECTORS * SECTOR as u64,
    flags: FLAG_HAS_FLAGS | FLAG_SEND_FLUSH,
    blocks: BLOCKS,
};

struct One;

impl Exports for One {
    fn find(&self, name: &str) -> Option<ExportDescription<'_>> {
        (name == EXPORT).then_some(ExportDescription {
            id: 0,
            name: EXPORT,
            description: "",
            size: LIMITS.size,
            flags: LIMITS.flags,
            blocks: BLOCKS,
        })
    }

    fn list(&self, _: usize) -> Option<&str> {
        None
    }
}

/// Renames an option in a message, so that the server's side of the handshake does not know the fence.
fn rename(message: &mut [u8], from: u32, to: u32) {
    if let Some(place) = message.get_mut(8..12) {
        if *place == from.to_be_bytes() {
            place.copy_from_slice(&to.to_be_bytes());
        }
    }
}

/// An option that nobody knows.
const UNKNOWN: u32 = OPT_DST ^ 1;

/// A sector's bytes: its version, and where it belongs.
fn sector_bytes(sector: u64, version: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes[8..16].copy_from_slice(&sector.to_le_bytes());
    bytes
}

/// The bytes of some sectors.
pub(super) fn bytes_of(start: u64, versions: &[u64]) -> Vec<u8> {
    let sectors = (start..).zip(versions);
    sectors
        .flat_map(|(sector, version)| sector_bytes(sector, *version))
        .collect()
}

/// The versions in the bytes of some sectors, all of which are what they should be.
pub(super) fn versions_in(start: u64, bytes: &[u8]) -> Vec<u64> {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("there are eight"));
    let sectors = (start..).zip(bytes.chunks(SECTOR));
    sectors
        .map(|(sector, bytes)| {
            assert_eq!(number(&bytes[8..16]), sector, "another sector's data");
            number(&bytes[..8])
        })
        .collect()
}

impl World {
    /// A server looks at a connection.
    pub(super) fn serve(&mut self, conn: usize) {
        let ended = self.conns[conn].ended;
        if ended && self.rng.chance(500) {
            // It was reset: what was not looked at is gone.
            self.conns[conn].inbox.clear();
        }
        if matches!(self.conns[conn].stage, Stage::Handshake(_)) && !ended {
            self.greet(conn);
        }
        if matches!(self.conns[conn].stage, Stage::Serving) {
            self.requests(conn);
        }
        if ended {
            self.close(conn);
        }
    }

    /// Goes on with the handshake.
    fn greet(&mut self, conn: usize) {
        let mut stage = std::mem::replace(&mut self.conns[conn].stage, Stage::Gone);
        let Stage::Handshake(machine) = &mut stage else {
            return;
        };
        let foreign = self.conns[conn].foreign;
        let done = loop {
            while !machine.output().is_empty() {
                let mut output = machine.output().to_vec();
                machine.sent(output.len());
                if foreign {
                    rename(&mut output, UNKNOWN, OPT_DST);
                }
                self.send(conn, Side::Client, output);
            }
            if let Some(fence) = machine.claim() {
                let waited = machine.is_fencing();
                let verdict = self.fence(conn, &fence);
                machine.judge(verdict);
                if waited && machine.is_fencing() {
                    break false;
                }
                continue;
            }
            let inbox = &mut self.conns[conn].inbox;
            let mut input: Vec<u8> = inbox.drain(..machine.need().min(inbox.len())).collect();
            if foreign {
                rename(&mut input, OPT_DST, UNKNOWN);
            }
            let progress = machine.advance(&input, &One).expect("clients are decent");
            match progress.outcome {
                Some(Outcome::Done(session)) => {
                    assert!(session.structured);
                    break true;
                }
                Some(Outcome::Aborted) => unreachable!("no client does that"),
                None if input.is_empty() && machine.output().is_empty() => break false,
                None => {}
            }
        };
        self.conns[conn].stage = if done { Stage::Serving } else { stage };
    }

    /// Ends the older connections of a storage if the client at `conn` is its newest head.
    fn fence(&mut self, conn: usize, fence: &Fence) -> Verdict {
        let Conn {
            server,
            process,
            head,
            ..
        } = self.conns[conn];
        let others: Vec<usize> = (0..self.conns.len())
            .filter(|other| *other != conn)
            .filter(|other| {
                let other = &self.conns[*other];
                other.server == server
                    && other.process == process
                    && !matches!(other.stage, Stage::Gone)
            })
            .collect();
        let claimed = claim(&mut self.servers[server].known, fence, |storage| {
            let mut others = others.iter();
            others.any(|other| self.conns[*other].storage == Some(*storage))
        });
        let claimed = match claimed {
            Verdict::TakenOver(_) if self.fault == Fault::OlderEpoch => Verdict::Newest,
            claimed => claimed,
        };
        let verdict = admit(claimed, || {
            let mut busy = false;
            for other in others {
                if self.fault == Fault::OlderStay
                    || self.conns[other].storage != Some(fence.storage)
                {
                    continue;
                }
                self.close(other);
                busy |= !matches!(self.conns[other].stage, Stage::Gone);
            }
            busy && self.fault != Fault::NoDrain
        });
        tell!(
            self,
            "server {server}: connection {conn} of head {head}, epoch {}: {verdict:?}",
            fence.epoch
        );
        match verdict {
            Verdict::Newest => {
                self.servers[server].newest = Some(head);
                self.lets_in(server, head);
                self.conns[conn].storage = Some(fence.storage);
            }
            Verdict::Wait => {
                self.tally.waits += 1;
                self.conns[conn].storage = Some(fence.storage);
            }
            Verdict::TakenOver(_) => self.tally.refused += 1,
            Verdict::NoRoom => unreachable!("there is one storage"),
        }
        verdict
    }

    /// Takes the requests that have come.
    fn requests(&mut self, conn: usize) {
        let server = self.conns[conn].server;
        loop {
            let inbox = &self.conns[conn].inbox;
            let Some(bytes) = inbox.first_chunk::<REQUEST_LEN>() else {
                return;
            };
            let header = RequestHeader::decode(bytes).expect("clients are decent");
            let Judgement::Serve(order) = judge(&header, &LIMITS) else {
                panic!("a request that is refused: {header:?}");
            };
            let extent = |range: Range| {
                let sector = SECTOR as u64;
                Extent::new(range.offset / sector, u64::from(range.length) / sector)
            };
            let (work, length) = match order {
                Order::Read(range) => (Work::Read(extent(range)), 0),
                Order::Flush => (Work::Flush, 0),
                Order::Write { range, .. } => {
                    let end = REQUEST_LEN + range.length as usize;
                    let Some(data) = inbox.get(REQUEST_LEN..end) else {
                        return;
                    };
                    let start = extent(range).start;
                    let versions = versions_in(start, data);
                    (Work::Write { start, versions }, data.len())
                }
                order => panic!("no client asks for that: {order:?}"),
            };
            self.conns[conn].inbox.drain(..REQUEST_LEN + length);
            let slow = self.servers[server].slow_until > self.now;
            let takes = match (slow, self.rng.below(30)) {
                (true, 0..=20) => self.rng.below(8000),
                (_, 0) => self.rng.below(1000),
                _ => self.rng.below(15),
            };
            let mut op = Op {
                conn,
                cookie: header.cookie,
                work,
                at: self.now + takes,
                stuck: false,
            };
            let extent = op.extent();
            let this = &mut self.servers[server];
            // What one connection asks for of one place is done in its order.
            for other in this.ops.values().filter(|other| other.conn == conn) {
                if other.extent().overlaps(&extent) {
                    op.at = op.at.max(other.at);
                }
            }
            let (id, at) = (this.next_op, op.at);
            this.next_op += 1;
            this.ops.insert(id, op);
            self.at(at, Event::Disk { server, op: id });
        }
    }

    /// The disk is done with a request, if it was not given up.
    pub(super) fn disk(&mut self, server: usize, id: u64) {
        let ops = &mut self.servers[server].ops;
        if ops.get(&id).is_none_or(|op| op.stuck) {
            return;
        }
        let Some(op) = ops.remove(&id) else { return };
        self.land(server, &op);
        let conn = op.conn;
        match self.conns[conn].stage {
            Stage::Serving => {
                let reply = self.reply(server, &op);
                self.send(conn, Side::Client, reply);
            }
            Stage::Draining => self.close(conn),
            _ => {}
        }
    }

    fn reply(&self, server: usize, op: &Op) -> Vec<u8> {
        match &op.work {
            Work::Read(extent) => {
                let sector = SECTOR as u64;
                let (offset, length) = (extent.start * sector, extent.sectors() * sector);
                let mut reply = data_chunk(op.cookie, offset, length as u32, true).to_vec();
                let disk = &self.servers[server].disk;
                let versions = &disk[extent.start as usize..extent.end as usize];
                reply.extend(bytes_of(extent.start, versions));
                reply
            }
            _ => {
                let cookie = op.cookie;
                SimpleReply {
                    cookie,
                    error: None,
                }
                .encode()
                .to_vec()
            }
        }
    }

    /// What was written is on the disk now.
    fn land(&mut self, server: usize, op: &Op) {
        let Work::Write { start, versions } = &op.work else {
            return;
        };
        let late = self.conns[op.conn].is_late();
        self.tally.late += u64::from(late);
        tell!(
            self,
            "server {server}: {versions:?} from sector {start} on, of connection {}{}",
            op.conn,
            if late { ", late" } else { "" }
        );
        let head = self.conns[op.conn].head;
        let fenced = self.conns[op.conn].storage.is_some();
        if let Some(newest) = self.servers[server].newest.filter(|_| fenced) {
            assert_eq!(
                newest, head,
                "a head lands something on server {server}, which has let in another one"
            );
        }
        for (sector, version) in (*start..).zip(versions) {
            let undone = self.oracle.land(*version, sector, op.conn, late);
            self.tally.undone += u64::from(undone);
            self.servers[server].disk[sector as usize] = *version;
        }
    }

    /// The server gives up a connection, but for what the disk has to do for it.
    fn close(&mut self, conn: usize) {
        let server = self.conns[conn].server;
        if self.conns[conn].is_served() {
            self.conns[conn].inbox.clear();
            self.abandon(conn, Side::Server);
        }
        let busy = self.servers[server].ops.values().any(|op| op.conn == conn);
        self.conns[conn].stage = if busy { Stage::Draining } else { Stage::Gone };
        if busy {
            return;
        }
        // Who waits for that looks again.
        let now = self.now;
        for other in 0..self.conns.len() {
            let Conn { server: its, .. } = self.conns[other];
            match &self.conns[other].stage {
                Stage::Handshake(machine) if its == server && machine.is_fencing() => {
                    self.at(now, Event::Serve { conn: other });
                }
                _ => {}
            }
        }
    }

    /// The client is gone: some of what the server has of it may be done late.
    pub(super) fn orphan(&mut self, conn: usize) {
        let server = self.conns[conn].server;
        if self.conns[conn].storage.is_some() {
            return;
        }
        for op in self.servers[server].ops.values_mut() {
            op.stuck |= op.conn == conn && self.rng.chance(500);
        }
    }

    /// There is a connection to the server: it is soon done with those before.
    pub(super) fn settle_soon(&mut self, server: usize) {
        let soon = match self.fault {
            Fault::TooLate => u64::from(QUIET_MS) * 2,
            _ => u64::from(QUIET_MS),
        };
        for conn in 0..self.conns.len() {
            let it = &mut self.conns[conn];
            if it.server == server && it.is_late() && !it.settled {
                it.settled = true;
                let at = self.now + self.rng.below(soon);
                self.at(at, Event::Settle { conn });
            }
        }
    }

    /// The server is done with a dead connection now.
    pub(super) fn settle(&mut self, conn: usize) {
        if self.conns[conn].is_late() {
            self.conns[conn].take_all();
            if matches!(self.conns[conn].stage, Stage::Serving) {
                self.requests(conn);
            }
            self.finish(conn, 800);
            self.conns[conn].stage = Stage::Gone;
        }
    }

    /// Of what a connection has on the disk so many of a thousand are done, and no others will be.
    fn finish(&mut self, conn: usize, of_thousand: u64) {
        let server = self.conns[conn].server;
        let it = &self.conns[conn];
        let sloppy = self.servers[server].sloppy && it.foreign && !it.client;
        let ids: Vec<u64> = {
            let ops = self.servers[server].ops.iter();
            ops.filter(|(_, op)| op.conn == conn)
                .map(|(id, _)| *id)
                .collect()
        };
        for id in ids {
            let Some(op) = self.servers[server].ops.remove(&id) else {
                continue;
            };
            if self.rng.chance(of_thousand) {
                self.land(server, &op);
                if sloppy && self.rng.chance(300) {
                    self.reply_elsewhere(server, &op);
                }
            }
        }
    }

    /// Sends a reply on the newest connection, which has not asked for it.
    fn reply_elsewhere(&mut self, server: usize, op: &Op) {
        let conn = (0..self.conns.len()).rev().find(|conn| {
            let conn = &self.conns[*conn];
            conn.server == server && conn.client && matches!(conn.stage, Stage::Serving)
        });
        if let Some(conn) = conn {
            tell!(
                self,
                "server {server} replies to {:#x} on {conn}",
                op.cookie
            );
            let reply = self.reply(server, op);
            self.send(conn, Side::Client, reply);
        }
    }

    /// A server ends, at once or in order, and forgets all. When it is back it may be one of another kind.
    pub(super) fn stop(&mut self, server: usize, in_order: bool, foreign: bool) {
        tell!(self, "server {server} ends");
        for conn in 0..self.conns.len() {
            if self.conns[conn].server == server {
                if in_order && self.conns[conn].is_late() {
                    self.settle(conn);
                }
                self.finish(conn, if in_order { 1000 } else { 500 });
                if self.conns[conn].is_served() {
                    self.abandon(conn, Side::Server);
                }
                self.conns[conn].stage = Stage::Gone;
            }
        }
        let this = &mut self.servers[server];
        this.is_up = false;
        this.process += 1;
        this.foreign = foreign;
        this.known.fill(None);
        this.newest = None;
        let at = self.now + self.rng.below(3000);
        self.at(at, Event::Back { server });
    }

    /// Another process serves the disk from now on. The old one, which has no fence, goes on with what it has.
    pub(super) fn replace(&mut self, server: usize) {
        let this = &mut self.servers[server];
        this.process += 1;
        this.foreign = !this.foreign;
        tell!(
            self,
            "server {server}: another process, foreign: {}",
            self.servers[server].foreign
        );
        for conn in 0..self.conns.len() {
            if self.conns[conn].server == server && self.conns[conn].client {
                self.lost(conn);
            }
        }
    }
}
