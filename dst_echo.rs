// SPDX-License-Identifier: GPL-2.0

//! `dst_echo.ko`: a TCP echo server in the kernel, made of the same sources as DST's network code, to test just that.
//!
//! What arrives is sent back, byte by byte in order, through a buffer of fixed size for each connection: a client that
//! doesn't read its echo soon finds that the server doesn't read either. After the setup nothing is allocated for data.

// The wrappers serve the driver; this uses a part of each.
#[expect(dead_code, reason = "the driver uses all of it")]
#[path = "kern"]
mod kern {
    //! Those wrappers that the network code needs, and pages to send.

    pub(crate) mod c;
    pub(crate) mod mem;
    pub(crate) mod net;
    pub(crate) mod poll;
    pub(crate) mod segments;
    pub(crate) mod span;
    pub(crate) mod thread;
    pub(crate) mod time;
    pub(crate) mod timer;
    mod vectors;
}
#[expect(dead_code, reason = "the driver uses all of it")]
mod net_state;
#[path = "dst_echo_rpc.rs"]
mod rpc;
pub mod uapi;

use core::net::{
    IpAddr,
    Ipv6Addr, //
};
use kern::net::{
    Addr,
    Events,
    Incoming,
    NetNs,
    Options,
    Sink,
    Socket, //
};
use kern::time::{
    self,
    Jiffies, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use net_state::{
    Net,
    NetThread,
    Service,
    Watch, //
};

module! {
    type: EchoModule,
    name: "dst_echo",
    authors: ["The DST authors"],
    description: "TCP echo server on DST's network code",
    license: "GPL",
    params: {
        port: u16 {
            default: 7777,
            description: "TCP port to listen on, IPv4 and IPv6; 0: none",
        },
        connections: u32 {
            default: 64,
            description: "Connections at once; more wait to be accepted",
        },
        buffer: u32 {
            default: 65536,
            description: "Bytes of buffer for each connection",
        },
        rpcs: u32 {
            default: 0,
            description: "Measure, at load, what so many RPCs cost, and print that",
        },
    },
}

/// How long to wait after accepting failed for want of memory.
const ACCEPT_RETRY_MS: u32 = 100;

/// Bytes that were received and not sent yet.
struct Ring {
    bytes: KVVec<u8>,
    start: usize,
    used: usize,
}

impl Ring {
    fn new(size: usize) -> Result<Self> {
        Ok(Self {
            bytes: KVVec::from_elem(0, size, GFP_KERNEL)?,
            start: 0,
            used: 0,
        })
    }

    /// The first run of bytes that are used.
    fn front(&self) -> &[u8] {
        let end = (self.start + self.used).min(self.bytes.len());
        &self.bytes[self.start..end]
    }

    /// Takes away bytes of [`Ring::front`].
    fn consume(&mut self, bytes: usize) {
        self.used -= bytes;
        self.start += bytes;
        if self.start == self.bytes.len() || self.used == 0 {
            self.start = 0;
        }
    }

    fn is_full(&self) -> bool {
        self.used == self.bytes.len()
    }
}

impl Sink for Ring {
    fn take(&mut self, data: &mut Incoming<'_>) -> bool {
        while data.len() > 0 && !self.is_full() {
            let size = self.bytes.len();
            let (from, to) = match self.start + self.used {
                end if end < size => (end, size),
                end => (end - size, self.start),
            };
            self.used += data.copy(&mut self.bytes[from..to]);
        }
        !self.is_full()
    }
}

/// A place for a connection.
struct Place {
    ring: Ring,
    connection: Option<Connection>,
}

struct Connection {
    watch: Watch,
    /// The peer sends no more.
    ended: bool,
}

impl Place {
    /// Moves data until that would block. `false`: the connection is over.
    fn serve(&mut self) -> bool {
        let Some(connection) = &mut self.connection else {
            return true;
        };
        let socket = connection.watch.socket();
        // Bounded: a round receives no more than the buffer has room for. The level check brings us back.
        if !connection.ended && !self.ring.is_full() {
            match socket.receive(&mut self.ring) {
                Ok(_) => {}
                Err(EPIPE) => connection.ended = true,
                Err(_) => return false,
            }
        }
        let mut blocked = false;
        while self.ring.used > 0 && !blocked {
            match socket.send(self.ring.front(), false) {
                Ok(sent) => self.ring.consume(sent),
                Err(EAGAIN) => blocked = true,
                Err(_) => return false,
            }
        }
        if connection.ended && self.ring.used == 0 {
            // The last bytes and our end are still to be delivered.
            socket.finish();
            return false;
        }
        let mut interest = Events::NONE;
        if !connection.ended && !self.ring.is_full() {
            interest = Events::RECEIVE;
        }
        if blocked {
            interest = interest.union(Events::OUT);
        }
        connection.watch.set_interest(interest);
        true
    }
}

/// How the listener is watched.
struct Listening {
    watch: Option<Watch>,
    /// When to try again after accepting failed.
    retry: Option<Jiffies>,
}

impl Listening {
    fn pause(&mut self, retry: Option<Jiffies>) {
        self.retry = retry;
        if let Some(watch) = &self.watch {
            watch.set_interest(Events::NONE);
        }
    }

    fn resume(&mut self) {
        self.retry = None;
        if let Some(watch) = &self.watch {
            watch.set_interest(Events::IN);
        }
    }
}

/// A listener and its connections. Token 0 is the listener, the others are the places.
#[pin_data]
struct Echo {
    listener: Arc<Socket>,
    #[pin]
    listening: Mutex<Listening>,
    places: KVec<Arc<Mutex<Place>>>,
}

impl Echo {
    fn new(ns: &NetNs, at: &Addr, connections: u32, buffer: u32) -> Result<Arc<Self>> {
        let connections = connections.clamp(1, net_state::TOKENS - 1);
        let mut places = KVec::with_capacity(connections as usize, GFP_KERNEL)?;
        for _ in 0..connections {
            let place = Place {
                ring: Ring::new(buffer.max(1) as usize)?,
                connection: None,
            };
            let place = Arc::pin_init(new_mutex!(place, "Echo::places"), GFP_KERNEL)?;
            places.push(place, GFP_KERNEL)?;
        }
        Arc::pin_init(
            try_pin_init!(Self {
                listener: Arc::new(Socket::listen(ns, at, 128)?, GFP_KERNEL)?,
                listening <- new_mutex!(Listening { watch: None, retry: None }, "Echo::listening"),
                places,
            }),
            GFP_KERNEL,
        )
    }

    /// Accepts what there is place for. `Err`: try again later.
    fn accept(&self, net: &Arc<Net>) -> Result {
        for (token, place) in (1..).zip(&self.places) {
            let mut place = place.lock();
            if place.connection.is_some() {
                continue;
            }
            let Some((socket, _)) = self.listener.accept(&Options::default())? else {
                return Ok(());
            };
            let socket = Arc::new(socket, GFP_KERNEL)?;
            place.ring.start = 0;
            place.ring.used = 0;
            place.connection = Some(Connection {
                watch: Watch::new(net, socket, token, Events::RECEIVE)?,
                ended: false,
            });
        }
        // All places are taken: until one is free, nobody is accepted.
        self.listening.lock().pause(None);
        Ok(())
    }
}

impl Service for Echo {
    fn ready(&self, net: &Arc<Net>, token: u32) {
        if token == 0 {
            if self.accept(net).is_err() {
                let retry = time::in_ms(time::now(), ACCEPT_RETRY_MS);
                self.listening.lock().pause(Some(retry));
                net.kick_tick();
            }
            return;
        }
        let Some(place) = self.places.get(token as usize - 1) else {
            return;
        };
        let mut place = place.lock();
        if !place.serve() {
            let over = place.connection.take();
            drop(place);
            drop(over);
            self.listening.lock().resume();
        }
    }

    fn tick(&self, net: &Arc<Net>, now: Jiffies) -> Option<Jiffies> {
        let mut listening = self.listening.lock();
        if listening.watch.is_none() {
            listening.watch = Watch::new(net, self.listener.clone(), 0, Events::IN).ok();
            return listening
                .watch
                .is_none()
                .then(|| time::in_ms(now, ACCEPT_RETRY_MS));
        }
        if listening.retry.is_some_and(|at| time::reached(at, now)) {
            listening.resume();
        }
        listening.retry
    }
}

/// The loaded module: the IPv4 and the IPv6 server.
struct EchoModule {
    _threads: [NetThread<Echo>; 2],
}

impl kernel::Module for EchoModule {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let ns = NetNs::current();
        measure(&ns, *module_parameters::rpcs.value_ref())?;
        let start = |ip: IpAddr, name: &str| {
            let port = *module_parameters::port.value_ref();
            let connections = *module_parameters::connections.value_ref();
            let buffer = *module_parameters::buffer.value_ref();
            let echo = Echo::new(&ns, &Addr::new(ip, port, 0), connections, buffer)?;
            pr_info!("listening on {}\n", echo.listener.local()?);
            NetThread::start(fmt!("dst_echo/{name}"), echo)
        };
        Ok(Self {
            _threads: [
                start(IpAddr::from([0, 0, 0, 0]), "4")?,
                start(Ipv6Addr::UNSPECIFIED.into(), "6")?,
            ],
        })
    }
}

/// Prints what RPCs of some kinds cost, as a table.
fn measure(ns: &NetNs, rpcs: u32) -> Result {
    if rpcs == 0 {
        return Ok(());
    }
    let at = Addr::new(IpAddr::from([127, 0, 0, 1]), 0, 0);
    for (bytes, count) in [(4096, rpcs), (131072, rpcs / 8)] {
        for write in [false, true] {
            for batch in [1, 8, 32] {
                for hop in [false, true] {
                    let ns_each = rpc::measure(
                        ns,
                        &at,
                        &rpc::Measure {
                            write,
                            bytes,
                            batch,
                            hop,
                            count,
                        },
                    )?;
                    let kind = if write { "write" } else { "read" };
                    let hop = if hop { "task" } else { "thread" };
                    pr_info!("rpc {kind} {bytes} batch {batch} {hop}: {ns_each} ns\n");
                }
            }
        }
    }
    Ok(())
}
