// SPDX-License-Identifier: GPL-2.0

//! What an export's thread works on: the listener and the connections.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
};

use super::{
    connection::Connection,
    end::End,
    handshake::Geometry,
    index,
    request::Disk,
    Facts,
    DEAD_AFTER_S,
    LISTENER, //
};
use crate::{
    kern::{
        net::{
            Addr,
            Events,
            Options,
            Socket, //
        },
        time::{
            self,
            Jiffies, //
        },
        trylock::TryLock, //
    },
    net_state::{
        Net,
        Service,
        Watch, //
    },
    proto::fence::{
        self,
        Fence,
        Known,
        Uuid,
        Verdict, //
    },
    request::SECTOR_SHIFT,
};

/// Clients that are accepted before the others get their turn.
const ACCEPTS: u32 = 8;

/// The newest heads of so many storages are remembered at least; of each that has a connection in any case.
const STORAGES: usize = 16;

/// Milliseconds to wait after accepting failed for want of memory.
const PAUSE_MS: u32 = 1000;

/// A place for a connection.
type Place = TryLock<Option<KBox<Connection>>>;

/// What the thread works on.
#[pin_data]
pub(super) struct Server {
    facts: Arc<Facts>,
    places: KVec<Place>,
    disk: Arc<Disk>,
    /// The newest head of each storage that has been here.
    #[pin]
    heads: Mutex<KVec<Option<Known>>>,
    #[pin]
    listener: Mutex<Listener>,
}

struct Listener {
    watch: Option<Watch>,
    /// When to accept again after a failure.
    paused: Option<Jiffies>,
}

impl Server {
    /// Makes one that serves nobody yet. Sleeps.
    pub(super) fn new(facts: Arc<Facts>, disk: Arc<Disk>) -> Result<Arc<Self>> {
        let count = facts.max_connections as usize;
        let mut places = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            places.push(TryLock::new(None), GFP_KERNEL)?;
        }
        let mut heads = KVec::with_capacity(count.max(STORAGES), GFP_KERNEL)?;
        for _ in 0..count.max(STORAGES) {
            heads.push(None, GFP_KERNEL)?;
        }
        Arc::pin_init(
            pin_init!(Self {
                facts,
                places,
                disk,
                heads <- new_mutex!(heads, "dst::export::heads"),
                listener <- new_mutex!(
                    Listener { watch: None, paused: None },
                    "dst::export::listener"
                ),
            }),
            GFP_KERNEL,
        )
    }

    /// Accepts clients from here on, on the thread whose `net` this is.
    pub(super) fn open(&self, net: &Arc<Net>, socket: Arc<Socket>) -> Result {
        let watch = Watch::new(net, socket, LISTENER, Events::IN)?;
        self.listener.lock().watch = Some(watch);
        // It may have been ready before the watch was in its place.
        net.kick(LISTENER);
        Ok(())
    }

    /// Stops listening, disconnects all clients, and waits for the disk to do what they asked for. The thread must be
    /// gone: then nobody accepts clients, and nobody else works on those that are there.
    pub(super) fn shut(&self) {
        let watch = self.listener.lock().watch.take();
        drop(watch);
        self.disconnect();
    }

    /// What there is to know.
    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The disk.
    pub(super) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Takes note of the end of a connection.
    pub(super) fn ended(&self, peer: &Addr, end: End) {
        let facts = &self.facts;
        facts.connections.fetch_sub(1, Relaxed);
        if end.is_violation() {
            facts.refused.add(1, Relaxed);
        }
        if !matches!(end, End::Left | End::Stopped) && facts.may_log() {
            pr_info!("export {}: client {peer} is gone: {end}\n", facts.name());
        }
    }

    /// Accepts clients.
    fn accept(&self, net: &Arc<Net>) {
        let mut listener = self.listener.lock();
        let Listener { watch, paused } = &mut *listener;
        let Some(watch) = watch else { return };
        let options = Options {
            dead_after_s: DEAD_AFTER_S,
            ..Options::default()
        };
        for _ in 0..ACCEPTS {
            match watch.socket().accept(&options) {
                Ok(Some((socket, peer))) => self.admit(net, socket, peer),
                Ok(None) => return,
                Err(_) => {
                    // The listener stays readable.
                    watch.set_interest(Events::NONE);
                    *paused = Some(time::in_ms(time::now(), PAUSE_MS));
                    net.kick_tick();
                    return;
                }
            }
        }
    }

    /// Lets a client in, or drops its socket, which resets the connection.
    fn admit(&self, net: &Arc<Net>, socket: Socket, peer: Addr) {
        let facts = &self.facts;
        let refused = || {
            facts.refused.add(1, Relaxed);
        };
        if !facts.access.allows(&peer) {
            refused();
            if facts.may_log() {
                pr_info!("export {}: {peer} may not connect\n", facts.name());
            }
            return;
        }
        for (place, token) in self.places.iter().zip(LISTENER + 1..) {
            let Some(mut place) = place.try_lock().filter(|place| place.is_none()) else {
                continue;
            };
            let geometry = Geometry::of(self.disk.dev(), facts.read_only);
            facts.sectors.store(geometry.size >> SECTOR_SHIFT, Relaxed);
            let connection = Connection::new(net, token, socket, peer, geometry)
                .and_then(|connection| Ok(KBox::new(connection, GFP_KERNEL)?));
            match connection {
                Ok(connection) => {
                    *place = Some(connection);
                    facts.connections.add(1, Relaxed);
                    facts.accepted.add(1, Relaxed);
                    // It has a deadline.
                    net.kick_tick();
                }
                Err(_) => refused(),
            }
            return;
        }
        refused();
        if facts.may_log() {
            let max = facts.max_connections;
            pr_info!(
                "export {}: {peer} is one more than {max} connections\n",
                facts.name()
            );
        }
    }

    /// Judges who the client at `token` says that it is. If it is the newest head of its storage, all other connections
    /// of that are ended; [`Verdict::Wait`] as long as the disk has not done all that they asked for.
    ///
    /// On the thread, which has the connection's place; may be asked any number of times.
    pub(super) fn fence(&self, token: u32, claim: &Fence) -> Verdict {
        let others = || {
            let places = self.places.iter().zip(LISTENER + 1..);
            places.filter(move |(_, other)| *other != token)
        };
        let is_live = |storage: &Uuid| {
            others().any(|(place, _)| {
                // Nobody else works on the connections. If somebody did, nothing would be known of this one.
                place.try_lock().is_none_or(|place| {
                    let connection = place.as_ref();
                    connection.is_some_and(|connection| connection.is_of(storage))
                })
            })
        };
        let end_older = || {
            let mut busy = false;
            for (place, other) in others() {
                let Some(mut place) = place.try_lock() else {
                    busy = true;
                    continue;
                };
                let Some(connection) = place.as_mut() else {
                    continue;
                };
                if !connection.is_of(&claim.storage) {
                    continue;
                }
                if connection.close(self, End::Fenced) {
                    busy = true;
                } else {
                    *place = None;
                    self.facts.set_in_flight(other, 0);
                }
            }
            busy
        };
        // No longer under the lock: to end a connection has to do with its socket.
        let claimed = fence::claim(&mut self.heads.lock(), claim, is_live);
        fence::admit(claimed, end_older)
    }

    /// A connection is gone: those that wait for that look again.
    fn vacated(&self, net: &Net, token: u32) {
        self.facts.set_in_flight(token, 0);
        for (place, token) in self.places.iter().zip(LISTENER + 1..) {
            let place = place.try_lock();
            let connection = place.as_deref().and_then(Option::as_ref);
            if connection.is_some_and(|connection| connection.is_fencing()) {
                net.kick(token);
            }
        }
    }

    /// See [`Self::shut`].
    fn disconnect(&self) {
        for place in &self.places {
            if let Some(connection) = place.try_lock().as_deref_mut().and_then(Option::as_mut) {
                connection.close(self, End::Stopped);
            }
        }
        for (place, token) in self.places.iter().zip(LISTENER + 1..) {
            let Some(mut place) = place.try_lock() else {
                continue;
            };
            let mut wait_ms = 1;
            while place
                .as_mut()
                .is_some_and(|connection| !connection.is_drained())
            {
                fsleep(Delta::from_millis(wait_ms));
                wait_ms = 20.min(wait_ms * 2);
            }
            *place = None;
            self.facts.set_in_flight(token, 0);
        }
    }
}

impl Service for Server {
    fn ready(&self, net: &Arc<Net>, token: u32) {
        if token == LISTENER {
            self.accept(net);
            return;
        }
        let place = self.places.get(index(token)).and_then(TryLock::try_lock);
        let Some(mut place) = place else { return };
        let Some(connection) = place.as_mut() else {
            return;
        };
        if !connection.ready(self, net, token) {
            *place = None;
            drop(place);
            self.vacated(net, token);
        }
    }

    fn tick(&self, net: &Arc<Net>, now: Jiffies) -> Option<Jiffies> {
        let mut next = None;
        {
            let mut listener = self.listener.lock();
            let Listener { watch, paused } = &mut *listener;
            if let (Some(watch), Some(at)) = (watch, *paused) {
                if time::reached(at, now) {
                    *paused = None;
                    watch.set_interest(Events::IN);
                }
            }
            next = time::earliest(next, *paused);
        }
        for (place, token) in self.places.iter().zip(LISTENER + 1..) {
            let Some(mut place) = place.try_lock() else {
                continue;
            };
            let Some(connection) = place.as_mut() else {
                continue;
            };
            let come = |at| time::reached(at, now);
            if connection.deadline().is_some_and(come) && !connection.expire(self, net, token, now)
            {
                *place = None;
                drop(place);
                self.vacated(net, token);
                continue;
            }
            next = time::earliest(next, connection.deadline());
        }
        next
    }
}
