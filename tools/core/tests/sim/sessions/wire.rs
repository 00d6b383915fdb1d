// SPDX-License-Identifier: GPL-2.0

//! Connections: bytes on their way, in order, until something cuts it.

use std::collections::VecDeque;

use dst_core::proto::{
    fence::Uuid,
    server::ServerHandshake, //
};

use super::{
    super::tell,
    Event,
    World, //
};

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

enum Packet {
    Bytes(Vec<u8>),
    /// The other side is gone.
    End,
}

/// One direction.
#[derive(Default)]
struct Pipe {
    packets: VecDeque<(u64, Packet)>,
    /// When the last one arrives.
    last: u64,
    /// Nothing more gets through.
    cut: bool,
}

/// What the server's end of a connection is at.
pub(super) enum Stage {
    Handshake(Box<ServerHandshake>),
    Serving,
    /// Closed; the disk has not done all that it asked for.
    Draining,
    Gone,
}

/// A connection.
pub(super) struct Conn {
    pub(super) server: usize,
    /// Which of all that have served the disk.
    pub(super) process: u64,
    pub(super) head: usize,
    /// The server knows no fence.
    pub(super) foreign: bool,
    /// The client has its end.
    pub(super) client: bool,
    pub(super) stage: Stage,
    /// What it writes for, if it said so.
    pub(super) storage: Option<Uuid>,
    /// What has arrived at the server, and was not looked at.
    pub(super) inbox: Vec<u8>,
    /// The end has arrived there, too.
    pub(super) ended: bool,
    /// It was said until when a server without a fence is done with it.
    pub(super) settled: bool,
    up: Pipe,
    down: Pipe,
}

impl Conn {
    pub(super) fn new(server: usize, process: u64, head: usize, foreign: bool) -> Self {
        Self {
            server,
            process,
            head,
            foreign,
            client: true,
            stage: Stage::Handshake(Box::new(ServerHandshake::new())),
            storage: None,
            inbox: Vec::new(),
            ended: false,
            settled: false,
            up: Pipe::default(),
            down: Pipe::default(),
        }
    }

    /// Whether the server takes anything from it.
    pub(super) fn is_served(&self) -> bool {
        matches!(self.stage, Stage::Handshake(_) | Stage::Serving)
    }

    /// Whether it may be done late what it asked for: it is dead, and its server does nothing about that.
    pub(super) fn is_late(&self) -> bool {
        !self.client && self.storage.is_none() && !matches!(self.stage, Stage::Gone)
    }

    fn pipe(&mut self, to: Side) -> &mut Pipe {
        match to {
            Side::Client => &mut self.down,
            Side::Server => &mut self.up,
        }
    }

    /// All that is still on its way to the server: it has come.
    pub(super) fn take_all(&mut self) {
        while let Some((_, packet)) = self.up.packets.pop_front() {
            match packet {
                Packet::Bytes(bytes) => self.inbox.extend(bytes),
                Packet::End => self.ended = true,
            }
        }
    }
}

impl World {
    /// Milliseconds for something to get through.
    pub(super) fn delay(&mut self) -> u64 {
        match self.rng.below(50) {
            0 => self.rng.below(1500),
            1..=5 => self.rng.below(200),
            _ => self.rng.below(4),
        }
    }

    fn push(&mut self, conn: usize, to: Side, delay: u64, packet: Packet) {
        let now = self.now;
        let pipe = self.conns[conn].pipe(to);
        pipe.last = pipe.last.max(now + delay);
        let at = pipe.last;
        pipe.packets.push_back((at, packet));
        self.at(at, Event::Arrive { conn, to });
    }

    pub(super) fn send(&mut self, conn: usize, to: Side, bytes: Vec<u8>) {
        if !self.conns[conn].pipe(to).cut {
            let delay = self.delay();
            self.push(conn, to, delay, Packet::Bytes(bytes));
        }
    }

    /// Nothing more gets through in that direction, perhaps not even what is under way. The side there hears of it, after
    /// a while.
    fn end(&mut self, conn: usize, to: Side) {
        let lossy = self.rng.chance(400);
        let delay = match (self.rng.below(8), to) {
            (0, Side::Client) => self.rng.below(15_000),
            (0 | 1, Side::Server) => self.rng.below(60_000),
            _ => self.delay(),
        };
        let pipe = self.conns[conn].pipe(to);
        if pipe.cut {
            return;
        }
        pipe.cut = true;
        let under_way = pipe.packets.len() as u64;
        if lossy {
            let left = self.rng.below(under_way + 1) as usize;
            let pipe = self.conns[conn].pipe(to);
            pipe.packets.truncate(left);
            pipe.last = pipe.packets.back().map_or(0, |(at, _)| *at);
        }
        self.push(conn, to, delay, Packet::End);
    }

    /// The network loses a connection.
    pub(super) fn cut(&mut self, conn: usize) {
        tell!(self, "connection {conn} is cut");
        self.end(conn, Side::Client);
        self.end(conn, Side::Server);
    }

    /// One side is done with it.
    pub(super) fn abandon(&mut self, conn: usize, by: Side) {
        match by {
            Side::Client => {
                self.conns[conn].client = false;
                self.end(conn, Side::Server);
            }
            Side::Server => self.end(conn, Side::Client),
        }
    }

    pub(super) fn arrive(&mut self, conn: usize, to: Side) {
        let now = self.now;
        let pipe = self.conns[conn].pipe(to);
        if pipe.packets.front().is_none_or(|(at, _)| *at > now) {
            // It was lost.
            return;
        }
        let Some((_, packet)) = pipe.packets.pop_front() else {
            return;
        };
        match to {
            Side::Client if !self.conns[conn].client => {}
            Side::Client => match packet {
                Packet::Bytes(bytes) => self.receive(conn, &bytes),
                Packet::End => self.lost(conn),
            },
            Side::Server if !self.conns[conn].is_served() => {}
            Side::Server => {
                match packet {
                    Packet::Bytes(bytes) => self.conns[conn].inbox.extend(bytes),
                    Packet::End => self.conns[conn].ended = true,
                }
                // It has other things to do.
                let later = match self.rng.below(40) {
                    0 => self.rng.below(2000),
                    _ => self.rng.below(2),
                };
                self.at(now + later, Event::Serve { conn });
            }
        }
    }
}
