// SPDX-License-Identifier: GPL-2.0

//! The connection: made, lost, made again. Everything here runs in the network thread.
//!
//! ```text
//!             +-----------------------------------------------------------+
//!             v                                                           |
//!         Waiting --> Connecting --> Handshake --> Opening --> Up         |
//!             ^            |             |            |         |         |
//!             +------------+-------------+            +--> Stopping --> Draining
//!                                                                         |
//!                                                                         v
//!                                                                       Closed
//! ```
//!
//! *Opening* and *Stopping* wait for the submitter that may be sending; *Draining* waits until no page of
//! a request is referenced by the old socket: only then may such a request end, or be sent again. From
//! *Handshake* a way leads to *TakenOver*: the storage is another head's, and all requests fail from then on.
//!
//! - [`lost`]: what becomes of the requests when there is no connection; [`late`]: when there is one again.

mod late;
mod lost;

use core::mem;

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Full,
            Relaxed, //
        },
        Arc, //
    },
    time::Jiffies, //
};

use crate::{
    kern::{
        net::{
            Events,
            Options,
            Remains,
            Socket, //
        },
        time, //
    },
    late::QuietTime,
    net_state::Watch,
    proto::client::{
        ClientHandshake,
        ExportInfo,
        Fencing,
        HandshakeError, //
    },
    send_queue::Mode,
    uapi, //
};

use super::{
    handshake::{
        accept,
        errno,
        explain,
        Talker, //
    },
    order,
    push,
    receive::Receiver,
    Reason,
    Remote,
    RemoteNode,
    RemoteSlot, //
};

/// Milliseconds for one attempt to connect, and for one handshake: a server that needs longer is as good
/// as lost, and the next attempt may find a better one.
const ATTEMPT_MS: u32 = 10_000;

/// The first pause between two attempts, in milliseconds: a server that is restarted is back that fast.
const BACKOFF_MIN_MS: u32 = 50;

/// The longest pause between two attempts, in milliseconds: nobody likes to wait longer for a server that
/// is back, and one packet in two seconds is no load.
const BACKOFF_MAX_MS: u32 = 2_000;

/// Milliseconds between two looks at things that don't tell when they are ready: pages that a network
/// card holds, a submitter that is still sending.
const LOOK_MS: u32 = 2;

/// Milliseconds between two looks for requests that have waited too long.
const EXPIRY_MS: u32 = 250;

/// A socket that is watched. The fields drop in this order: the watch goes before its socket.
struct Connection {
    watch: Arc<Watch>,
    socket: Arc<Socket>,
}

enum State {
    /// For the next attempt.
    Waiting {
        until: Jiffies,
    },
    Connecting {
        to: Connection,
        until: Jiffies,
    },
    Handshake {
        with: Connection,
        until: Jiffies,
    },
    /// The handshake is over.
    Opening {
        with: Connection,
        export: ExportInfo,
    },
    Up {
        with: Connection,
    },
    /// Lost.
    Stopping {
        with: Connection,
    },
    Draining {
        remains: Remains,
    },
    /// Another head writes for the storage.
    TakenOver,
    Closed,
}

/// The thread's side of a node.
pub(super) struct Link {
    state: State,
    receiver: Receiver,
    /// What was said and heard so far, during a handshake.
    talk: Option<ClientHandshake>,
    fencing: Fencing,
    /// Places for the pieces that go back to the queue.
    back: KVec<RemoteSlot>,
    backoff_ms: u32,
    /// The waiting was ended: requests fail until the server is back.
    failing: bool,
    /// The node is on its way out.
    closing: bool,
    /// The server is to be told something else of the storage, on a new connection.
    renew: bool,
    /// The connection was ended for that, and nobody was told.
    quiet: bool,
    /// Another head has taken over, as another node has heard.
    ousted: bool,
    /// What [`super::about::Wanted::round`] was when the handshake began.
    round: u32,
    /// The server has let this head have the storage, in this round.
    held: bool,
    /// It was up once.
    was_up: bool,
    /// When to look for requests that have waited too long.
    expiry: Jiffies,
    quiet_time: QuietTime<Jiffies>,
}

impl Link {
    /// A node that is connected to as soon as its thread hears of it.
    pub(super) fn new(depth: u32) -> Result<Self> {
        Ok(Self {
            state: State::Waiting { until: time::now() },
            receiver: Receiver::new(false),
            talk: None,
            fencing: Fencing::new(),
            back: KVec::with_capacity(depth as usize, GFP_KERNEL)?,
            backoff_ms: BACKOFF_MIN_MS,
            failing: false,
            closing: false,
            renew: false,
            quiet: false,
            ousted: false,
            round: 0,
            held: false,
            was_up: false,
            expiry: time::now(),
            quiet_time: QuietTime::new(time::now()),
        })
    }

    /// Does all that can be done now.
    fn serve(&mut self, node: &Arc<RemoteNode>) {
        let remote = node.ctx();
        let orders = remote.orders.xchg(0, Full);
        if orders & order::CLOSE != 0 {
            self.closing = true;
        }
        if orders & order::RENEW != 0 {
            self.renew = true;
            self.ousted = false;
            self.held = false;
        }
        if orders & order::OUST != 0 && !self.renew {
            self.ousted = true;
        }
        if orders & order::FAIL_NOW != 0 {
            self.end_waiting(node, Reason::new("the waiting was ended by fail-now"));
        }
        if orders & order::BROKEN != 0 {
            if let State::Up { with } = &self.state {
                // Replies that came before the end count, and the socket knows what the end was.
                let socket = with.socket.clone();
                let reason = match self.receiver.receive(node, &socket) {
                    Err(reason) => reason,
                    Ok(()) => Reason::new("the server closed the connection"),
                };
                self.lose(node, reason);
            }
        }
        while self.step(node) {}
    }

    /// Does one step; `false` if there is something to wait for.
    fn step(&mut self, node: &Arc<RemoteNode>) -> bool {
        let now = time::now();
        match mem::replace(&mut self.state, State::Closed) {
            State::Closed => false,
            State::Waiting { .. } | State::TakenOver if self.closing => {
                self.closed(node);
                false
            }
            State::Waiting { .. }
            | State::Connecting { .. }
            | State::Handshake { .. }
            | State::TakenOver
                if self.renew =>
            {
                self.begin_anew(node)
            }
            State::TakenOver => {
                self.state = State::TakenOver;
                false
            }
            State::Waiting { .. } | State::Connecting { .. } | State::Handshake { .. }
                if self.ousted =>
            {
                self.follow(node);
                true
            }
            State::Waiting { until } if !time::reached(until, now) => {
                self.state = State::Waiting { until };
                false
            }
            State::Waiting { .. } => self.connect(node),
            State::Connecting { to, until } => self.connecting(node, to, until),
            State::Handshake { with, until } => self.handshake(node, with, until),
            State::Opening { with, export } => self.open(node, with, export),
            State::Up { with } if self.closing || self.renew || self.ousted => {
                if let Some(mut tx) = node.ctx().tx.try_lock() {
                    tx.say_goodbye();
                }
                self.state = State::Up { with };
                self.quiet = self.renew && !self.closing;
                let why = match self.closing {
                    true => "the node was removed",
                    false => "another head has taken over this storage",
                };
                self.lose(node, Reason::new(why));
                true
            }
            State::Up { with } => {
                let result = self.receiver.receive(node, &with.socket);
                self.state = State::Up { with };
                if self.receiver.heard {
                    self.backoff_ms = BACKOFF_MIN_MS;
                }
                match result {
                    Ok(()) => {
                        push(node);
                        false
                    }
                    Err(reason) => {
                        self.lose(node, reason);
                        true
                    }
                }
            }
            State::Stopping { with } => self.stop(node, with),
            State::Draining { remains } if !remains.gone() => {
                self.state = State::Draining { remains };
                false
            }
            State::Draining { .. } => {
                if self.failing || self.closing || self.ousted {
                    self.fail_queued(node);
                }
                self.pause(now);
                true
            }
        }
    }

    /// Begins an attempt.
    fn connect(&mut self, node: &Arc<RemoteNode>) -> bool {
        let remote = node.ctx();
        let options = Options {
            dead_after_s: remote.keepalive_s.load(Relaxed),
            ..Options::default()
        };
        let connected = Socket::connect(&remote.config.ns, &remote.config.address, &options)
            .and_then(|socket| {
                let socket = Arc::new(socket, GFP_KERNEL)?;
                let interest = Events::RECEIVE.union(Events::OUT);
                let watch = Watch::new(&remote.net, socket.clone(), remote.token, interest)?;
                let watch = Arc::new(watch, GFP_KERNEL)?;
                Ok(Connection { watch, socket })
            });
        match connected {
            Ok(to) => {
                self.state = State::Connecting {
                    to,
                    until: time::in_ms(time::now(), ATTEMPT_MS),
                };
                true
            }
            Err(error) => self.retry(node, Reason::new(explain(error)), Some(error)),
        }
    }

    /// Waits until the connection is there.
    fn connecting(&mut self, node: &Arc<RemoteNode>, to: Connection, until: Jiffies) -> bool {
        if self.closing {
            drop(to);
            return self.retry(node, Reason::none(), None);
        }
        match to.socket.established() {
            Ok(true) => {}
            Ok(false) if !time::reached(until, time::now()) => {
                self.state = State::Connecting { to, until };
                return false;
            }
            Ok(false) => {
                drop(to);
                return self.retry(node, Reason::new(explain(ETIMEDOUT)), None);
            }
            Err(error) => {
                drop(to);
                // The first time, somebody waits who may have another address to try.
                return self.retry(node, Reason::new(explain(error)), Some(error));
            }
        }
        to.watch.set_interest(Events::RECEIVE);
        let fence = {
            let wanted = node.ctx().wanted.lock();
            self.round = wanted.round;
            wanted.fence
        };
        let export = node.ctx().config.export.to_str().unwrap_or("");
        match self.fencing.begin(export, fence) {
            Ok(talk) => {
                self.talk = Some(talk);
                self.state = State::Handshake {
                    with: to,
                    until: time::in_ms(time::now(), ATTEMPT_MS),
                };
                true
            }
            Err(error) => {
                drop(to);
                self.refuse(node, error, "", false)
            }
        }
    }

    /// Goes on with the handshake.
    fn handshake(&mut self, node: &Arc<RemoteNode>, with: Connection, until: Jiffies) -> bool {
        let Some(mut talk) = self.talk.take().filter(|_| !self.closing) else {
            drop(with);
            return self.retry(node, Reason::none(), None);
        };
        let waited = talk.is_fencing();
        let result = Talker::new(&mut talk).go_on(&with.socket);
        let may_help = self.fencing.note(&talk, &result);
        let waits = talk.is_fencing();
        let until = if waited || waits {
            // It takes as long as the server's disk does. If the server is gone, the socket says so.
            time::in_ms(time::now(), ATTEMPT_MS)
        } else {
            until
        };
        match result {
            Err(error) => {
                let message = Reason::new(talk.message());
                drop(with);
                self.refuse(node, error, message.as_str(), may_help)
            }
            Ok(Some(export)) => match accept(node.ctx(), &export) {
                Ok(()) => {
                    node.ctx().shown.lock().fenced = talk.knows_fence();
                    self.receiver = Receiver::new(export.structured);
                    self.state = State::Opening { with, export };
                    true
                }
                Err((error, reason)) => {
                    drop(with);
                    self.retry(node, reason, Some(error))
                }
            },
            Ok(None) if time::reached(until, time::now()) => {
                drop(with);
                let reason =
                    Reason::new("the server does not finish the handshake; is it an NBD server?");
                self.retry(node, reason, None)
            }
            Ok(None) => {
                if waits && !waited {
                    let reason = "the server's disk is still busy with what was sent to it before";
                    node.ctx().shown.lock().reason = Reason::new(reason);
                }
                let blocked = !talk.output().is_empty();
                let interest = if blocked {
                    Events::RECEIVE.union(Events::OUT)
                } else {
                    Events::RECEIVE
                };
                with.watch.set_interest(interest);
                self.talk = Some(talk);
                self.state = State::Handshake { with, until };
                false
            }
        }
    }

    /// Lets requests flow.
    fn open(&mut self, node: &Arc<RemoteNode>, with: Connection, export: ExportInfo) -> bool {
        let remote = node.ctx();
        let Some(mut tx) = wanted_tx(remote) else {
            self.state = State::Opening { with, export };
            return false;
        };
        self.begin_quiet(remote);
        tx.open(with.socket.clone(), with.watch.clone(), &export);
        drop(tx);
        remote.queue.lock().set_mode(Mode::Open);
        self.failing = false;
        self.was_up = true;
        self.quiet = false;
        self.held = true;
        self.state = State::Up { with };
        {
            let mut shown = remote.shown.lock();
            shown.round = self.round;
            shown.asking = false;
        }
        remote.show(uapi::NODE_UP, None);
        true
    }

    /// The attempt failed; `may_help`: another one may do better, even if this was the first.
    fn refuse(
        &mut self,
        node: &Arc<RemoteNode>,
        error: HandshakeError,
        message: &str,
        may_help: bool,
    ) -> bool {
        if let HandshakeError::TakenOver(taken_over) = error {
            self.taken_over(node, taken_over);
            return true;
        }
        let reason = if message.is_empty() {
            Reason::new(error)
        } else {
            Reason::new(format_args!("{error} (\"{message}\")"))
        };
        let refused = errno(&error).filter(|_| !may_help);
        self.retry(node, reason, refused)
    }

    /// Waits for the next attempt. `refused`: if this was the first one, there is no point in another.
    fn retry(&mut self, node: &Arc<RemoteNode>, reason: Reason, refused: Option<Error>) -> bool {
        let remote = node.ctx();
        let now = time::now();
        self.pause(now);
        if self.closing {
            return true;
        }
        if mem::take(&mut self.quiet) {
            // The server is not there for the connection that was to take the place of the one before.
            remote.reconnects.add(1, Relaxed);
            remote.show(uapi::NODE_LOST, None);
        }
        let mut shown = remote.shown.lock();
        shown.reason = reason;
        if mem::take(&mut shown.asking) {
            remote.news.store(true, Relaxed);
        }
        if !self.was_up {
            shown.refused = refused;
            drop(shown);
            remote.changed.notify_all();
        }
        true
    }

    /// Sets the time of the next attempt, each later than the one before, and at random so that many
    /// nodes don't come at once.
    fn pause(&mut self, now: Jiffies) {
        let half = self.backoff_ms / 2;
        let jitter = time::random_u32().checked_rem(half).unwrap_or(0);
        self.state = State::Waiting {
            until: time::in_ms(now, half + jitter),
        };
        self.backoff_ms = (self.backoff_ms * 2).min(BACKOFF_MAX_MS);
    }

    /// Nothing of the node is in use any more.
    fn closed(&mut self, node: &Arc<RemoteNode>) {
        self.fail_queued(node);
        self.state = State::Closed;
        let remote = node.ctx();
        remote.shown.lock().closed = true;
        remote.changed.notify_all();
    }

    /// Ends the waiting of requests that have waited too long. Gives the time of the next look.
    fn expire(&mut self, node: &Arc<RemoteNode>, now: Jiffies) -> Option<Jiffies> {
        let remote = node.ctx();
        let timeout_ms = remote.timeout_ms.load(Relaxed);
        let watched = remote.slow_watched.load(Relaxed);
        if timeout_ms == 0 && !watched || self.failing || self.closing {
            return None;
        }
        if !time::reached(self.expiry, now) {
            return Some(self.expiry);
        }
        let pause = match timeout_ms {
            0 => EXPIRY_MS,
            timeout_ms => EXPIRY_MS.min(timeout_ms),
        };
        self.expiry = time::in_ms(now, pause);
        if watched && remote.is_slow() {
            // Who watches looks at what is to be done.
            remote.news.store(true, Relaxed);
        }
        if timeout_ms != 0 {
            self.fail_held(node, |slot| remote.waits_for(slot.index(), timeout_ms, now));
        }
        if timeout_ms != 0 && remote.waits_longer_than(timeout_ms, now) {
            let reason = Reason::new(format_args!("no answer within {timeout_ms} ms"));
            self.end_waiting(node, reason);
            while self.step(node) {}
        }
        Some(self.expiry)
    }

    /// When to look again without being called.
    fn deadline(&self, now: Jiffies) -> Option<Jiffies> {
        match &self.state {
            State::Waiting { until }
            | State::Connecting { until, .. }
            | State::Handshake { until, .. } => Some(*until),
            State::Draining { .. } => Some(time::in_ms(now, LOOK_MS)),
            // A sender that is done kicks the thread.
            State::Opening { .. } | State::Stopping { .. } => None,
            State::Up { .. } | State::TakenOver | State::Closed => None,
        }
    }
}

/// Something happened to the node's socket, or somebody wants something. Says whether a tick is wanted.
pub(crate) fn serve(node: &Arc<RemoteNode>) -> bool {
    let mut link = node.ctx().link.lock();
    link.serve(node);
    !matches!(link.state, State::Up { .. }) || link.quiet_time.until().is_some()
}

/// Time has passed. Gives the time of the next call.
pub(crate) fn tick(node: &Arc<RemoteNode>, now: Jiffies) -> Option<Jiffies> {
    let mut link = node.ctx().link.lock();
    link.end_quiet(node, now);
    if link.deadline(now).is_some() {
        while link.step(node) {}
    }
    let expiry = link.expire(node, now);
    let expiry = time::earliest(link.quiet_end(), expiry);
    // Told from here: who else would look may sleep until what waits for the server has failed.
    let expiry = time::earliest(node.ctx().end_asking(now), expiry);
    time::earliest(link.deadline(time::now()), expiry)
}

/// Takes the sending half, or makes sure that the thread is kicked when it is free.
fn wanted_tx(remote: &Remote) -> Option<crate::kern::trylock::TryGuard<'_, super::Sender>> {
    // Before the try: who lets go after a failed try sees it.
    remote.tx_wanted.xchg(true, Full);
    let tx = remote.tx.try_lock()?;
    remote.tx_wanted.store(false, Relaxed);
    Some(tx)
}
