// SPDX-License-Identifier: GPL-2.0

//! One client's connection.
//!
//! | state        | what is there                        | leads to                                       |
//! |--------------|--------------------------------------|------------------------------------------------|
//! | handshake    | a socket                             | fencing, serving, gone                         |
//! | fencing      | a socket, from which nothing is taken | handshake (nothing of older ones is left), gone |
//! | serving      | a socket, slots, pages               | leaving, draining                              |
//! | leaving      | the same; nothing is received        | draining (all was replied to, or time is up)   |
//! | draining     | slots and pages; requests on the disk | gone (the disk has done them)                 |
//!
//! A connection that has named its storage ([`fence`](crate::proto::fence)) ends the older ones of that storage,
//! whatever their state, and *fencing* waits until the last of them is gone: until the disk has done all that they asked
//! for.
//!
//! Only the export's thread works on a connection, and when that is gone, who stops the export. Requests
//! that end meet it at its [`Ended`], whatever the state.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    end::End, //
    handshake::{
        Agreement,
        Geometry,
        Handshake, //
    },
    intake::{
        Intake,
        Level, //
    },
    reply::Sender,
    request::{
        self,
        release,
        Ended,
        Work, //
    },
    server::Server,
};
use crate::{
    kern::{
        net::{
            Addr,
            Events,
            Socket, //
        },
        span::PagePool,
        time::{
            self,
            Jiffies, //
        }, //
    },
    net_state::{
        Net,
        Watch, //
    },
    proto::fence::{
        Uuid,
        Verdict, //
    },
};

/// Requests that a client can have in flight; more stay in its socket. Linux has up to 128 for a connection.
pub(super) const REQUESTS: u32 = 128;

/// Pages for the data of a connection's requests: 4 MiB, which is 32 requests of 128 KiB.
///
/// Pages that TCP still has to deliver count, too, so this bounds what can be under way to a far client.
pub(super) const PAGES: u32 = 1024;

/// Milliseconds for the last replies to a client that said goodbye.
const LEAVING_MS: u32 = 10_000;

/// Milliseconds after which pages are looked for again, when TCP has them all and there is no memory for others.
const RETRY_MS: u32 = 10;

/// How often requests are received before other connections get their turn.
const ROUNDS: u32 = 8;

/// Events that end a connection whatever else is going on.
const DEATH: Events = Events::HUP.union(Events::ERR);

/// The same, or the client will send no more: what is left of [`Events::RECEIVE`] while nothing is received.
const LEFT: Events = Events::RECEIVE.without(Events::IN);

// The largest piece must fit, or it would wait for ever.
const _: () = assert!(super::intake::PIECE <= PAGES * 4096);

enum State {
    Handshake(KBox<Handshake>),
    Serving(KBox<Serving>),
}

/// One client's connection.
pub(super) struct Connection {
    /// Watches the socket and keeps it; `None`: draining.
    watch: Option<Watch>,
    peer: Addr,
    /// What it writes for, if it said so.
    storage: Option<Uuid>,
    state: State,
}

impl Connection {
    /// Begins the handshake with a client. Sleeps.
    pub(super) fn new(
        net: &Arc<Net>,
        token: u32,
        socket: Socket,
        peer: Addr,
        geometry: Geometry,
    ) -> Result<Self> {
        let state = State::Handshake(KBox::new(Handshake::new(geometry), GFP_KERNEL)?);
        let socket = Arc::new(socket, GFP_KERNEL)?;
        let watch = Watch::new(net, socket, token, Events::RECEIVE)?;
        // The greeting is to be sent.
        net.kick(token);
        Ok(Self {
            watch: Some(watch),
            peer,
            storage: None,
            state,
        })
    }

    /// Does what can be done. `false`: it is gone.
    pub(super) fn ready(&mut self, server: &Server, net: &Arc<Net>, token: u32) -> bool {
        let Some(watch) = &self.watch else {
            return !self.is_drained();
        };
        let socket = watch.socket();
        // As long as we don't receive, nothing else tells.
        if !watch.interest().intersects(Events::IN) && socket.poll().intersects(DEATH) {
            return self.close(server, End::Broken(ECONNRESET));
        }
        if let State::Handshake(handshake) = &mut self.state {
            let waited = handshake.is_fencing();
            // Who has left does not wait any more; as long as we don't receive, we are not told otherwise.
            if waited && socket.poll().intersects(LEFT) {
                return self.close(server, End::Left);
            }
            let storage = &mut self.storage;
            let result = handshake.run(socket, server.facts(), |fence| {
                let verdict = server.fence(token, fence);
                if matches!(verdict, Verdict::Newest | Verdict::Wait) {
                    *storage = Some(fence.storage);
                }
                verdict
            });
            match result {
                Ok(None) => {
                    if waited != handshake.is_fencing() {
                        // Its deadline has changed.
                        net.kick_tick();
                    }
                    // While an answer is to be sent, nothing is received.
                    watch.set_interest(if handshake.is_sending() {
                        Events::OUT.union(DEATH)
                    } else if handshake.is_fencing() {
                        LEFT
                    } else {
                        Events::RECEIVE
                    });
                    return true;
                }
                Ok(Some(agreement)) => match Serving::new(server, net, token, &agreement) {
                    Ok(serving) => self.state = State::Serving(serving),
                    Err(error) => return self.close(server, End::Broken(error)),
                },
                Err(end) => return self.close(server, end),
            }
        }
        let State::Serving(serving) = &mut self.state else {
            return true;
        };
        serving.ended.enter();
        let result = serving.run(server, net, token, socket);
        serving.ended.leave();
        server.facts().set_in_flight(token, serving.in_flight);
        match result {
            Ok(interest) => {
                if interest != watch.interest() {
                    watch.set_interest(interest);
                }
                true
            }
            Err(end) => self.close(server, end),
        }
    }

    /// Whether it writes for this storage, or did.
    pub(super) fn is_of(&self, storage: &Uuid) -> bool {
        self.storage.as_ref() == Some(storage)
    }

    /// Whether it waits until the older connections of its storage are gone.
    pub(super) fn is_fencing(&self) -> bool {
        match &self.state {
            State::Handshake(handshake) => handshake.is_fencing(),
            State::Serving(_) => false,
        }
    }

    /// When [`Self::expire`] must be called.
    pub(super) fn deadline(&self) -> Option<Jiffies> {
        match (&self.watch, &self.state) {
            (None, _) => None,
            (_, State::Handshake(handshake)) => handshake.deadline(),
            (_, State::Serving(serving)) => time::earliest(serving.leaving, serving.retry),
        }
    }

    /// Its deadline has come. `false`: it is gone.
    pub(super) fn expire(&mut self, server: &Server, net: &Net, token: u32, now: Jiffies) -> bool {
        let come = |at: Option<Jiffies>| at.is_some_and(|at| time::reached(at, now));
        let end = match &mut self.state {
            State::Handshake(_) => End::Slow,
            State::Serving(serving) => {
                if come(serving.retry) {
                    serving.retry = None;
                    net.kick(token);
                }
                if !come(serving.leaving) {
                    return true;
                }
                End::Left
            }
        };
        self.close(server, end)
    }

    /// Gives up the socket, and all requests but those on the disk. `false`: it is gone.
    pub(super) fn close(&mut self, server: &Server, end: End) -> bool {
        if let Some(watch) = self.watch.take() {
            server.ended(&self.peer, end);
            let socket = watch.socket().clone();
            drop(watch);
            if let End::Left = end {
                // What was sent is still delivered.
                socket.finish();
            }
        }
        if let State::Serving(serving) = &mut self.state {
            serving.intake.clear();
            serving.sender.clear();
        }
        !self.is_drained()
    }

    /// Whether the disk has done all requests of a connection that was closed.
    pub(super) fn is_drained(&mut self) -> bool {
        match &mut self.state {
            State::Handshake(_) => true,
            State::Serving(serving) => {
                serving.ended.take().for_each(release);
                serving.intake.requests().used() == 0
            }
        }
    }
}

/// A connection in the transmission phase.
struct Serving {
    intake: Intake,
    sender: Sender,
    ended: Arc<Ended>,
    /// Requests on the disk.
    in_flight: u32,
    /// The client said goodbye; when to stop sending.
    leaving: Option<Jiffies>,
    /// When to look for pages.
    retry: Option<Jiffies>,
}

impl Serving {
    /// Allocates all that the connection will ever need. Sleeps.
    fn new(
        server: &Server,
        net: &Arc<Net>,
        token: u32,
        agreement: &Agreement,
    ) -> Result<KBox<Self>> {
        let ended = Ended::new(net, token)?;
        let requests = request::requests(REQUESTS, server.disk(), &ended)?;
        let pages = PagePool::new(PAGES)?;
        let structured = agreement.structured;
        let serving = Self {
            intake: Intake::new(requests, pages, agreement.geometry.limits(), structured)?,
            sender: Sender::new(structured, REQUESTS as usize)?,
            ended,
            in_flight: 0,
            leaving: None,
            retry: None,
        };
        Ok(KBox::new(serving, GFP_KERNEL)?)
    }

    /// Receives, submits, replies, until all of that would block. Returns what to wait for.
    fn run(
        &mut self,
        server: &Server,
        net: &Net,
        token: u32,
        socket: &Socket,
    ) -> core::result::Result<Events, End> {
        let mut level = Level::More;
        let mut rounds = ROUNDS;
        loop {
            self.collect(server)?;
            self.sender.run(socket).map_err(End::Broken)?;
            if self.leaving.is_some() || level == Level::Dry {
                break;
            }
            if rounds == 0 {
                net.kick(token);
                break;
            }
            rounds -= 1;
            level = self.receive(net, socket)?;
            let submitted = self.submit(server);
            if level == Level::Blocked && !submitted && (self.is_busy() || !self.intake.relieve()) {
                break;
            }
        }
        let sent = self.sender.is_idle();
        let busy = self.is_busy();
        let mut interest = DEATH;
        if !sent {
            interest = interest.union(Events::OUT);
        }
        if self.leaving.is_some() {
            if !busy {
                return Err(End::Left);
            }
        } else if level != Level::Blocked {
            interest = interest.union(Events::RECEIVE);
        } else if !busy && self.retry.is_none() {
            // TCP has the pages, and there is no memory for others.
            self.retry = Some(time::in_ms(time::now(), RETRY_MS));
            net.kick_tick();
        }
        Ok(interest)
    }

    /// Whether something is going on that gives back slots or pages.
    fn is_busy(&self) -> bool {
        self.in_flight != 0 || !self.sender.is_idle()
    }

    /// Takes what arrived.
    fn receive(&mut self, net: &Net, socket: &Socket) -> core::result::Result<Level, End> {
        if self.intake.begin() {
            match socket.receive(&mut self.intake) {
                Ok(_) => {}
                Err(EPIPE) => self.leave(net),
                Err(error) => return Err(End::Broken(error)),
            }
        }
        match self.intake.level() {
            // It may wait for its replies.
            Err(End::Left) => {
                self.leave(net);
                Ok(Level::Dry)
            }
            level => level,
        }
    }

    /// The client said goodbye, or will send no more: reply to what it asked for, then go.
    fn leave(&mut self, net: &Net) {
        if self.leaving.is_none() {
            self.leaving = Some(time::in_ms(time::now(), LEAVING_MS));
            net.kick_tick();
        }
    }

    /// Sends to the disk what was received. Says whether there was something.
    fn submit(&mut self, server: &Server) -> bool {
        let any = !self.intake.ready.is_empty();
        while let Some(mut slot) = self.intake.ready.pop() {
            if let Work::Refused(error) = slot.work {
                slot.error = Some(error);
                server.facts().count(&slot);
                self.sender.push(slot);
                continue;
            }
            self.in_flight = self.in_flight.saturating_add(1);
            request::submit(slot);
        }
        any
    }

    /// Takes what the disk has done.
    fn collect(&mut self, server: &Server) -> core::result::Result<(), End> {
        let mut result = Ok(());
        for slot in self.ended.take() {
            let Some(slot) = request::proceed(slot) else {
                continue;
            };
            self.in_flight = self.in_flight.saturating_sub(1);
            server.facts().count(&slot);
            match self.intake.settle(slot) {
                Ok(Some(slot)) => self.sender.push(slot),
                Ok(None) => {}
                Err(end) => result = Err(end),
            }
        }
        result
    }
}
