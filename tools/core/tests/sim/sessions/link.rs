// SPDX-License-Identifier: GPL-2.0

//! A head's side of a server: the connection, made and lost and made again, and the requests that wait for it.
//!
//! What is decided here is the module's (`SendQueue`, `Late`, `QuietTime`, `Fencing`, `ClientHandshake`, `ReplyParser`,
//! `Pending`); this does what `node_remote/` does with it, without threads and pages.

use std::mem;

use dst_core::{
    alg_mirror::overlap::Extent,
    late::{
        Moment,
        QuietTime, //
    },
    proto::{
        client::{
            ClientHandshake,
            Fencing,
            HandshakeError, //
        },
        fence::Fence,
        reply::ReplyParser,
    },
    send_queue::{
        self,
        Aside,
        Mode,
        SendQueue, //
    },
};

use super::{
    super::tell,
    requests::{
        OnHost,
        Piece,
        Place, //
    },
    wire::{
        Conn,
        Side, //
    },
    Event,
    Fault,
    World,
    EXPORT, //
};

/// Milliseconds for one handshake.
const ATTEMPT_MS: u64 = 10_000;

/// The first and the longest pause between two attempts, in milliseconds.
const BACKOFF_MS: [u64; 2] = [50, 2000];

/// Milliseconds between two looks for requests that have waited too long.
const EXPIRY_MS: u64 = 250;

/// Simulated milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Ms(pub(super) u64);

impl Moment for Ms {
    fn later(self, ms: u32) -> Self {
        Self(self.0 + u64::from(ms))
    }

    fn is_reached(self, now: Self) -> bool {
        self.0 <= now.0
    }
}

pub(super) enum State {
    Waiting {
        until: u64,
    },
    Handshake {
        conn: usize,
        talk: Box<ClientHandshake>,
        until: u64,
    },
    Up {
        conn: usize,
        parser: ReplyParser,
        inbox: Vec<u8>,
    },
    /// Another head writes for the storage.
    TakenOver,
    Closed,
}

pub(super) struct Link {
    pub(super) state: State,
    pub(super) queue: SendQueue<OnHost>,
    quiet_time: QuietTime<Ms>,
    pub(super) places: Vec<Place>,
    fencing: Fencing,
    pub(super) fence: Fence,
    /// The server has taken the fence of the connection.
    fenced: bool,
    /// The server has let the head in.
    pub(super) held: bool,
    /// Requests fail until the server is back.
    failing: bool,
    backoff: u64,
    /// When the next tick comes.
    armed: u64,
}

impl Link {
    /// With so many places for requests, and for what they change.
    pub(super) fn new(now: u64, depth: usize, extents: usize, fence: Fence) -> Self {
        let ring = || (0..depth).map(|_| None).collect();
        let places = [(); 3].map(|()| vec![Extent::default(); extents]);
        Self {
            state: State::Waiting { until: now },
            queue: SendQueue::new(ring(), Box::new(Aside::new(places, ring()))),
            quiet_time: QuietTime::new(Ms(now)),
            places: (0..depth).map(|_| Place::Free(0)).collect(),
            fencing: Fencing::new(),
            fence,
            fenced: false,
            held: false,
            failing: false,
            backoff: BACKOFF_MS[0],
            armed: u64::MAX,
        }
    }

    pub(super) fn conn(&self) -> Option<usize> {
        match &self.state {
            State::Handshake { conn, .. } | State::Up { conn, .. } => Some(*conn),
            _ => None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Whether nothing is asked for.
    pub(super) fn is_idle(&self) -> bool {
        let mut places = self.places.iter();
        places.all(|place| matches!(place, Place::Free(_)))
    }

    fn deadline(&self) -> Option<u64> {
        match &self.state {
            State::Waiting { until } | State::Handshake { until, .. } => Some(*until),
            State::Up { .. } => self.quiet_time.until().map(|until| until.0),
            _ => None,
        }
    }

    /// Takes up the request that was parked under a cookie.
    pub(super) fn claim(&mut self, cookie: u64) -> Option<Piece> {
        let place = self.places.get_mut(cookie as u32 as usize)?;
        match mem::replace(place, Place::Held) {
            Place::Parked(piece) if piece.cookie() == cookie => Some(*piece),
            other => {
                *place = other;
                None
            }
        }
    }

    pub(super) fn park(&mut self, piece: Piece) {
        let index = piece.index;
        self.places[index] = Place::Parked(Box::new(piece));
    }
}

impl World {
    pub(super) fn link(&mut self, head: usize, link: usize) -> &mut Link {
        &mut self.heads[head].links[link]
    }

    /// Makes sure that the link is looked at when it has to be.
    pub(super) fn arm(&mut self, head: usize, link: usize) {
        let timeout = self.heads[head].timeout.filter(|_| !self.at_rest);
        let now = self.now;
        let this = self.link(head, link);
        if matches!(this.state, State::TakenOver | State::Closed) {
            return;
        }
        let expiry = timeout.filter(|_| !this.is_idle()).map(|_| now + EXPIRY_MS);
        let Some(at) = this.deadline().into_iter().chain(expiry).min() else {
            return;
        };
        if at < this.armed {
            this.armed = at;
            self.at(at, Event::Tick { head, link });
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, head: usize, link: usize) {
        let now = self.now;
        let this = self.link(head, link);
        this.armed = u64::MAX;
        match &mut this.state {
            State::Waiting { until } if *until <= now => self.connect(head, link),
            State::Handshake { until, talk, .. } if *until <= now => {
                if talk.is_fencing() {
                    *until = now + ATTEMPT_MS;
                } else {
                    self.retry(head, link);
                }
            }
            State::Up { .. } => {
                while self.link(head, link).quiet_time.is_over(Ms(now)) {
                    self.next_quiet(head, link);
                    self.drain(head, link);
                }
            }
            _ => {}
        }
        if !matches!(self.link(head, link).state, State::Closed) {
            self.expire(head, link);
        }
        self.arm(head, link);
    }

    /// Ends the waiting of requests that have waited too long.
    fn expire(&mut self, head: usize, link: usize) {
        let Some(timeout) = self.heads[head].timeout.filter(|_| !self.at_rest) else {
            return;
        };
        let now = self.now;
        let too_long = |piece: &Piece| piece.since + timeout <= now;
        while let Some(piece) = self.link(head, link).queue.take_held(too_long) {
            self.finish_request(head, link, piece, false);
        }
        let sent = self.link(head, link).places.iter();
        let sent = sent.filter(|place| matches!(place, Place::Parked(piece) if too_long(piece)));
        if sent.count() != 0 {
            self.fail_now(head, link);
        }
    }

    /// Ends the waiting.
    pub(super) fn fail_now(&mut self, head: usize, link: usize) {
        tell!(self, "head {head}, link {link}: fail-now");
        if self.link(head, link).is_up() {
            while let Some(piece) = self.link(head, link).queue.take_held(|_| true) {
                self.finish_request(head, link, piece, false);
            }
            if !self.link(head, link).is_idle() {
                self.link(head, link).failing = true;
                self.lose(head, link);
            }
        } else if matches!(self.link(head, link).state, State::Closed) {
        } else {
            self.link(head, link).failing = true;
            self.fail_queued(head, link);
        }
    }

    fn connect(&mut self, head: usize, link: usize) {
        let server = &self.servers[link];
        if !server.is_up || self.is_blocked(head, link) {
            self.retry(head, link);
            return;
        }
        let new = Conn::new(link, server.process, head, server.foreign);
        let conn = self.conns.len();
        self.conns.push(new);
        let until = self.now + ATTEMPT_MS;
        let this = self.link(head, link);
        let fence = this.fence;
        let talk = this
            .fencing
            .begin(EXPORT, Some(fence))
            .expect("it is short");
        this.state = State::Handshake {
            conn,
            talk: Box::new(talk),
            until,
        };
        let at = self.now + self.delay();
        self.at(at, Event::Serve { conn });
    }

    /// The next attempt is later.
    fn retry(&mut self, head: usize, link: usize) {
        if let Some(conn) = self.link(head, link).conn() {
            self.abandon(conn, Side::Client);
        }
        let half = self.link(head, link).backoff / 2;
        let until = self.now + half + self.rng.below(half);
        let this = self.link(head, link);
        this.backoff = (this.backoff * 2).min(BACKOFF_MS[1]);
        this.state = State::Waiting { until };
        self.arm(head, link);
    }

    /// Bytes have come.
    pub(super) fn receive(&mut self, conn: usize, bytes: &[u8]) {
        let Conn { head, server, .. } = self.conns[conn];
        let link = server;
        let this = self.link(head, link);
        if this.conn() != Some(conn) {
            return;
        }
        match &mut this.state {
            State::Handshake { .. } => self.talk(head, link, bytes),
            State::Up { inbox, .. } => {
                inbox.extend(bytes);
                self.replies(head, link);
            }
            _ => {}
        }
        self.arm(head, link);
    }

    /// Goes on with the handshake.
    fn talk(&mut self, head: usize, link: usize, bytes: &[u8]) {
        let end = self.now + ATTEMPT_MS;
        let this = self.link(head, link);
        let State::Handshake { conn, talk, until } = &mut this.state else {
            return;
        };
        let conn = *conn;
        let waited = talk.is_fencing();
        let result = talk.advance(bytes).map(|progress| progress.done);
        this.fencing.note(talk, &result);
        if waited || talk.is_fencing() {
            *until = end;
        }
        match result {
            Ok(done) => {
                let output = talk.output().to_vec();
                talk.sent(output.len());
                let fenced = talk.knows_fence();
                if !output.is_empty() {
                    self.send(conn, Side::Server, output);
                }
                if let Some(export) = done {
                    self.open(head, link, conn, export.structured, fenced);
                }
            }
            Err(HandshakeError::TakenOver(other)) => {
                self.retry(head, link);
                self.taken_over(head, link, other.0);
            }
            Err(error) => {
                tell!(self, "head {head}, link {link}: {error}");
                self.retry(head, link);
            }
        }
    }

    /// Lets requests flow.
    fn open(&mut self, head: usize, link: usize, conn: usize, structured: bool, fenced: bool) {
        tell!(
            self,
            "head {head}, link {link}: up on {conn}, fenced: {fenced}"
        );
        let now = self.now;
        let this = self.link(head, link);
        this.state = State::Up {
            conn,
            parser: ReplyParser::new(structured),
            inbox: Vec::new(),
        };
        this.fenced = fenced;
        this.queue.begin_quiet(fenced);
        if this.quiet_time.connected(Ms(now)) {
            self.next_quiet(head, link);
        }
        while self.fault == Fault::NoHold && self.link(head, link).queue.is_quiet() {
            self.next_quiet(head, link);
        }
        let this = self.link(head, link);
        this.queue.set_mode(Mode::Open);
        this.failing = false;
        this.held = true;
        this.backoff = BACKOFF_MS[0];
        self.settle_soon(link);
        self.let_in(head, link, fenced);
        // If it still is.
        self.drain(head, link);
    }

    fn next_quiet(&mut self, head: usize, link: usize) {
        let this = self.link(head, link);
        let refused = this.queue.next_quiet();
        assert!(refused.is_none(), "the queue has no place");
        let is_quiet = this.queue.is_quiet();
        this.quiet_time.next(is_quiet);
        self.tally.quiet += u64::from(is_quiet);
    }

    /// The client hears of the end of its connection.
    pub(super) fn lost(&mut self, conn: usize) {
        let Conn { head, server, .. } = self.conns[conn];
        let link = server;
        let this = self.link(head, link);
        if this.conn() != Some(conn) {
            return;
        }
        if let State::Handshake { talk, .. } = &this.state {
            let error = Err(talk.closed());
            this.fencing.note(talk, &error);
            self.retry(head, link);
        } else {
            self.lose(head, link);
        }
    }

    /// The connection is lost: what was on it goes back to the queue.
    pub(super) fn lose(&mut self, head: usize, link: usize) {
        let this = self.link(head, link);
        let State::Up { conn, .. } = this.state else {
            return;
        };
        tell!(self, "head {head}, link {link}: lost {conn}");
        self.abandon(conn, Side::Client);
        self.orphan(conn);
        self.tally.lost += 1;
        let fault = self.fault;
        let this = self.link(head, link);
        let mut back = Vec::new();
        for place in &mut this.places {
            match mem::replace(place, Place::Held) {
                Place::Parked(piece) => back.push(*piece),
                other => *place = other,
            }
        }
        let fenced = this.fenced || fault == Fault::FenceForAll;
        for piece in &mut back {
            if fault == Fault::FailedForgotten && this.failing {
                continue;
            }
            this.queue.lost(piece, fenced);
        }
        this.queue.suspend_quiet();
        while let Some(piece) = this.queue.take_held(|_| true) {
            back.push(piece);
        }
        send_queue::in_order(&mut back);
        if fault == Fault::NewestFirst {
            back.reverse();
        }
        let refused = this.queue.put_back(|| back.pop());
        assert!(refused.is_none(), "the queue has no place");
        this.state = State::Closed;
        if this.failing {
            self.fail_queued(head, link);
        }
        self.retry(head, link);
    }

    /// Fails all that waits, and all that comes until the server is back.
    pub(super) fn fail_queued(&mut self, head: usize, link: usize) {
        let this = self.link(head, link);
        this.queue.set_mode(Mode::Failing);
        while let Some(piece) = self.link(head, link).queue.pop() {
            self.finish_request(head, link, piece, false);
        }
    }

    /// The storage is another head's: nothing is sent to the server any more.
    pub(super) fn oust(&mut self, head: usize, link: usize) {
        self.link(head, link).failing = true;
        if self.link(head, link).is_up() {
            self.lose(head, link);
        } else if let Some(conn) = self.link(head, link).conn() {
            self.abandon(conn, Side::Client);
        }
        self.fail_queued(head, link);
        self.link(head, link).state = State::TakenOver;
    }
}
