// SPDX-License-Identifier: GPL-2.0

//! The yardstick: requests and replies of NBD's size, with nothing behind them but the network code.
//!
//! A request is 28 bytes (and the data of a write), a reply 16 bytes (and the data of a read); the data are pages that
//! were allocated before. What an RPC costs here is what no remote node can do without.

use crate::kern::{
    net::{
        Addr,
        Events,
        Incoming,
        NetNs,
        Options,
        Sending,
        Sink,
        Socket, //
    },
    span::{
        PagePool,
        Span, //
    },
    time::Jiffies, //
};
use crate::net_state::{
    Net,
    NetThread,
    Service,
    Watch, //
};
use kernel::{
    new_condvar,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        CondVar,
        Mutex, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// Size of a request's header.
const REQUEST: usize = 28;
/// Size of a reply's header.
const REPLY: usize = 16;
/// In a request's header: whether it is a write.
const WRITE_AT: usize = 7;
/// The most requests in flight.
const DEPTH: u32 = 128;

/// One message under way, sent in as many parts as it takes.
struct Outgoing<const HEAD: usize> {
    head: [u8; HEAD],
    payload: bool,
    sent: usize,
}

impl<const HEAD: usize> Outgoing<HEAD> {
    /// Sends what is left of it.
    fn send(&mut self, to: &mut Sending<'_>, data: &Span, more: bool) -> Result {
        while self.sent < HEAD {
            self.sent += to.bytes(&self.head[self.sent..], more || self.payload)?;
        }
        while self.payload && self.sent < HEAD + data.bytes() as usize {
            self.sent += to.segments(data, (self.sent - HEAD) as u32, true, more)?;
        }
        Ok(())
    }
}

/// Sends `left` messages like `message`. `Ok(false)`: something is left.
fn send_all<const HEAD: usize>(
    socket: &Socket,
    data: &Span,
    message: &mut Outgoing<HEAD>,
    left: &mut u32,
) -> Result<bool> {
    if *left == 0 {
        return Ok(true);
    }
    let mut sending = socket.sending();
    while *left > 0 {
        match message.send(&mut sending, data, *left > 1) {
            Err(EAGAIN) => return Ok(false),
            result => result?,
        }
        message.sent = 0;
        *left -= 1;
    }
    Ok(true)
}

/// Counts messages that are received, and copies their data into pages.
struct Parser<const HEAD: usize> {
    head: [u8; HEAD],
    got: usize,
    /// All messages, or none, have data (apart from writes, which say so).
    payload: bool,
    messages: u32,
    limit: u32,
    data: Span,
}

impl<const HEAD: usize> Parser<HEAD> {
    fn new(payload: bool, bytes: u32, pages: &Arc<PagePool>) -> Result<Self> {
        Ok(Self {
            head: [0; HEAD],
            got: 0,
            payload,
            messages: 0,
            limit: DEPTH,
            data: pages.take(bytes).ok_or(ENOMEM)?,
        })
    }

    fn has_data(&self) -> bool {
        self.payload || (HEAD == REQUEST && self.head[WRITE_AT] != 0)
    }
}

impl<const HEAD: usize> Sink for Parser<HEAD> {
    fn take(&mut self, data: &mut Incoming<'_>) -> bool {
        while data.len() > 0 {
            if self.messages == self.limit {
                return false;
            }
            if self.got < HEAD {
                self.got += data.copy(&mut self.head[self.got..]);
                if self.got < HEAD {
                    continue;
                }
            }
            if self.has_data() {
                let done = (self.got - HEAD) as u32;
                match data.copy_to(&self.data, done, u32::MAX) {
                    Ok(bytes) => self.got += bytes,
                    Err(_) => return false,
                }
                if self.got < HEAD + self.data.bytes() as usize {
                    continue;
                }
            }
            self.messages += 1;
            self.got = 0;
        }
        true
    }
}

/// The server: one connection at a time.
#[pin_data]
pub(crate) struct Server {
    listener: Arc<Socket>,
    write: bool,
    bytes: u32,
    pages: Arc<PagePool>,
    #[pin]
    state: Mutex<ServerState>,
}

struct ServerState {
    watch: Option<Watch>,
    connection: Option<(Watch, Parser<REQUEST>, Outgoing<REPLY>, u32)>,
}

impl Server {
    fn serve(state: &mut ServerState) -> Result {
        let Some((watch, parser, reply, left)) = &mut state.connection else {
            return Ok(());
        };
        watch.socket().receive(parser)?;
        *left += core::mem::take(&mut parser.messages);
        let all = send_all(watch.socket(), &parser.data, reply, left)?;
        // A bound for what is owed: nothing is read while it can't be sent.
        watch.set_interest(if all { Events::RECEIVE } else { Events::OUT });
        Ok(())
    }
}

impl Service for Server {
    fn ready(&self, net: &Arc<Net>, token: u32) {
        let mut state = self.state.lock();
        if token == 1 {
            if Self::serve(&mut state).is_err() {
                state.connection = None;
            }
            return;
        }
        let Ok(Some((socket, _))) = self.listener.accept(&Options::default()) else {
            return;
        };
        let accept = || -> Result<_> {
            let parser = Parser::new(false, self.bytes, &self.pages)?;
            let reply = Outgoing {
                head: [0; REPLY],
                payload: !self.write,
                sent: 0,
            };
            let socket = Arc::new(socket, GFP_KERNEL)?;
            Ok((
                Watch::new(net, socket, 1, Events::RECEIVE)?,
                parser,
                reply,
                0,
            ))
        };
        state.connection = None;
        state.connection = accept().ok();
    }

    fn tick(&self, net: &Arc<Net>, _now: Jiffies) -> Option<Jiffies> {
        self.state.lock().watch = Watch::new(net, self.listener.clone(), 0, Events::IN).ok();
        None
    }
}

/// The client.
#[pin_data]
struct Client {
    /// The requests are made by another task, which the thread wakes, as it is with a block device.
    hop: bool,
    batch: u32,
    #[pin]
    state: Mutex<ClientState>,
    #[pin]
    changed: CondVar,
}

struct ClientState {
    watch: Option<Watch>,
    parser: Parser<REPLY>,
    request: Outgoing<REQUEST>,
    /// To be sent of this batch.
    unsent: u32,
    /// To be answered of this batch.
    unanswered: u32,
    /// To be sent after this batch.
    left: u32,
    result: Result,
}

impl ClientState {
    fn send(&mut self) -> Result {
        let Some(watch) = &self.watch else {
            return Ok(());
        };
        if self.unsent == 0 {
            return Ok(());
        }
        let all = send_all(
            watch.socket(),
            &self.parser.data,
            &mut self.request,
            &mut self.unsent,
        )?;
        watch.set_interest(match all {
            true => Events::RECEIVE,
            false => Events::RECEIVE.union(Events::OUT),
        });
        Ok(())
    }

    fn next_batch(&mut self, batch: u32) -> Result {
        let batch = batch.min(self.left);
        self.left -= batch;
        self.unsent = batch;
        self.unanswered = batch;
        self.send()
    }

    fn serve(&mut self) -> Result {
        self.send()?;
        let Some(watch) = &self.watch else {
            return Ok(());
        };
        watch.socket().receive(&mut self.parser)?;
        self.unanswered -= core::mem::take(&mut self.parser.messages).min(self.unanswered);
        Ok(())
    }
}

impl Service for Client {
    fn ready(&self, _net: &Arc<Net>, _token: u32) {
        let mut state = self.state.lock();
        let mut result = state.serve();
        if result.is_ok() && state.unanswered == 0 && !self.hop {
            result = state.next_batch(self.batch);
        }
        if result.is_err() {
            state.result = result;
        }
        if state.unanswered == 0 || result.is_err() {
            self.changed.notify_all();
        }
    }

    fn tick(&self, _net: &Arc<Net>, _now: Jiffies) -> Option<Jiffies> {
        None
    }
}

/// What to measure.
pub(crate) struct Measure {
    pub(crate) write: bool,
    pub(crate) bytes: u32,
    pub(crate) batch: u32,
    pub(crate) hop: bool,
    pub(crate) count: u32,
}

/// Sends requests over loopback, and returns the nanoseconds that each takes.
pub(crate) fn measure(ns: &NetNs, at: &Addr, what: &Measure) -> Result<u64> {
    let pages = PagePool::new(what.bytes.div_ceil(4096) * 4)?;
    let listener = Arc::new(Socket::listen(ns, at, 1)?, GFP_KERNEL)?;
    let to = listener.local()?;
    let server_pages = pages.clone();
    let server = Arc::pin_init(
        pin_init!(Server {
            listener,
            write: what.write,
            bytes: what.bytes,
            pages: server_pages,
            state <- new_mutex!(ServerState { watch: None, connection: None }, "Server::state"),
        }),
        GFP_KERNEL,
    )?;
    let _server = NetThread::start(fmt!("dst_echo/rpc"), server)?;
    let mut head = [0; REQUEST];
    head[WRITE_AT] = what.write.into();
    let state = ClientState {
        watch: None,
        parser: Parser::new(!what.write, what.bytes, &pages)?,
        request: Outgoing {
            head,
            payload: what.write,
            sent: 0,
        },
        unsent: 0,
        unanswered: 0,
        left: what.count,
        result: Ok(()),
    };
    let client = Arc::pin_init(
        pin_init!(Client {
            hop: what.hop,
            batch: what.batch.clamp(1, DEPTH),
            state <- new_mutex!(state, "Client::state"),
            changed <- new_condvar!("Client::changed"),
        }),
        GFP_KERNEL,
    )?;
    let thread = NetThread::start(fmt!("dst_echo/call"), client.clone())?;
    let socket = Arc::new(Socket::connect(ns, &to, &Options::default())?, GFP_KERNEL)?;
    while !socket.established()? {
        kernel::time::delay::fsleep(kernel::time::Delta::from_millis(1));
    }
    // Until the server has accepted it, too.
    kernel::time::delay::fsleep(kernel::time::Delta::from_millis(50));
    let mut state = client.state.lock();
    state.watch = Some(Watch::new(thread.net(), socket, 0, Events::RECEIVE)?);
    let start = Instant::<Monotonic>::now();
    let mut result = state.next_batch(client.batch);
    while result.is_ok() && (state.left > 0 || state.unanswered > 0) {
        client.changed.wait(&mut state);
        result = state.result;
        if result.is_ok() && what.hop && state.unanswered == 0 {
            result = state.next_batch(client.batch);
        }
    }
    let time = start.elapsed().as_nanos();
    let watch = state.watch.take();
    drop(state);
    drop(watch);
    result?;
    Ok(time as u64 / u64::from(what.count.max(1)))
}
