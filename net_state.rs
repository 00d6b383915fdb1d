// SPDX-License-Identifier: GPL-2.0

//! The network thread: it sleeps until one of its sockets is ready, or somebody kicks it, and lets its service act.
//!
//! Everything that can become ready has a *token*, a small number that the service gives out. The set of ready tokens is
//! a bitmap: setting a bit needs no memory and no lock, so sockets do it in softirq and whoever else anywhere; and a bit
//! can't dangle. A token that is ready though its owner is gone, or is another one by now, costs a look and no more: so
//! [`Service::ready`] must bear being called for any token at any time.
//!
//! A socket's wake-up says that something changed (an edge). That is not enough: TCP merges segments, a service may stop
//! half-way, and an end may hide behind the last data. So after each [`Service::ready`] the thread asks the watched
//! socket how it stands (its level), and if that is of interest, the token is ready again. Who can't act on what a socket
//! is ready for must take that out of the interest, and put it back later ([`Watch::set_interest`] looks at the level,
//! too), or the thread runs in circles. That includes `HUP` and `ERR`: no event is implied.
//!
//! Each round serves every token that is ready once, in order of their numbers; what becomes ready meanwhile is for the next
//! round. So no source can keep the thread for itself if `ready` bounds its work.
//!
//! Locks: the table of watches (a spin lock, process context) comes before nothing but what a protocol's `poll` takes,
//! and TCP's takes nothing. The wake function takes no lock.

use crate::kern::{
    net::{
        Events,
        Socket, //
    },
    poll::{
        Registration,
        Wake, //
    },
    thread::{
        KThread,
        Parker,
        Running,
        WakeHint, //
    },
    time::{
        self,
        Jiffies, //
    },
    timer::{
        Expire,
        Timer, //
    }, //
};
use kernel::{
    fmt,
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            ordering,
            Atomic, //
        },
        Arc,
        SpinLock, //
    }, //
};

/// Tokens are 0..TOKENS.
pub(crate) const TOKENS: u32 = 1024;

/// Tokens in a word of the bitmap.
const BITS: u32 = u64::BITS;

/// Words in the bitmap.
const WORDS: usize = (TOKENS / BITS) as usize;

/// Bit of the summary that asks for a tick.
const TICK: u32 = BITS - 1;

/// Bit of the summary that says that the timer expired.
const TIMER: u32 = BITS - 2;

/// The bits of the summary that stand for words.
const WORD_BITS: u64 = (1 << WORDS) - 1;

const _: () = assert!(WORDS <= TIMER as usize);

/// What a network thread serves.
pub(crate) trait Service: Send + Sync + 'static {
    /// Something may be ready for `token`: act until that would block, or for a bounded time (then kick the token).
    ///
    /// On the thread. May sleep for a moment (a lock, memory), never waits for the network or a disk.
    fn ready(&self, net: &Arc<Net>, token: u32);

    /// The last answer is due, or [`Net::kick_tick`] was called; also called once at the start. Returns when to be called
    /// next, after `now`.
    fn tick(&self, net: &Arc<Net>, now: Jiffies) -> Option<Jiffies>;
}

/// What the thread looks at before it sleeps.
struct Bell {
    /// One bit for each word of the ready set that may not be zero, [`TICK`] and [`TIMER`].
    summary: Atomic<u64>,
    parker: Parker,
}

impl Bell {
    fn ring(&self, bit: u32, hint: WakeHint) {
        if !set(&self.summary, bit) {
            self.parker.unpark(hint);
        }
    }

    /// Whether there is nothing to do. Misses nothing that was rung for before a full barrier.
    fn is_silent(&self) -> bool {
        self.summary.load(ordering::Relaxed) == 0
    }
}

impl Expire for Bell {
    fn expired(&self) {
        self.ring(TIMER, WakeHint::NONE);
    }
}

/// The ready set of a network thread, and the thread to wake.
#[pin_data]
pub(crate) struct Net {
    /// One bit a token.
    words: [Atomic<u64>; WORDS],
    /// Armed for the service's deadline or an earlier one: deadlines are put off at every request, and then it stays.
    #[pin]
    timer: Timer<Bell>,
    /// The watch of each token.
    #[pin]
    watches: SpinLock<KVec<Option<Arc<Watched>>>>,
}

impl Net {
    fn new() -> Result<Arc<Self>> {
        let mut watches = KVec::with_capacity(TOKENS as usize, GFP_KERNEL)?;
        for _ in 0..TOKENS {
            watches.push(None, GFP_KERNEL)?;
        }
        Arc::pin_init(
            pin_init!(Self {
                words: [const { Atomic::new(0) }; WORDS],
                timer <- Timer::new(Bell {
                    summary: Atomic::new(0),
                    parker: Parker::new(),
                }),
                watches <- new_spinlock!(watches, "Net::watches"),
            }),
            GFP_KERNEL,
        )
    }

    /// Makes `token` ready. Any context. All that the caller wrote before is seen by the [`Service::ready`] that follows.
    pub(crate) fn kick(&self, token: u32) {
        self.kick_with(token, WakeHint::NONE);
    }

    fn kick_with(&self, token: u32, hint: WakeHint) {
        let Some(word) = self.words.get((token / BITS) as usize) else {
            return;
        };
        // If the bit was set, who set it does (or has done) the rest. The operation is fully ordered all the same: the
        // thread that clears the bit after this must see what we wrote before.
        if !set(word, token % BITS) {
            self.bell().ring(token / BITS, hint);
        }
    }

    /// Asks for a [`Service::tick`] as soon as possible. Any context.
    pub(crate) fn kick_tick(&self) {
        self.bell().ring(TICK, WakeHint::NONE);
    }

    fn bell(&self) -> &Bell {
        self.timer.target()
    }

    /// Makes `token` ready again if its socket is ready for what it is watched for.
    fn check_level(&self, token: u32) {
        let ready = match self.watches.lock().get(token as usize) {
            Some(Some(watched)) => watched.is_ready(),
            _ => false,
        };
        if ready {
            self.kick(token);
        }
    }

    /// Serves what is ready now, each token once. Returns the summary.
    fn round<S: Service>(self: &Arc<Self>, service: &S) -> u64 {
        // Fully ordered, as is taking a word below: words that are filled from here on set their summary bit again.
        let summary = self.bell().summary.xchg(0, ordering::Full);
        for index in bits(summary & WORD_BITS) {
            let Some(word) = self.words.get(index as usize) else {
                continue;
            };
            for bit in bits(word.xchg(0, ordering::Full)) {
                let token = index * BITS + bit;
                service.ready(self, token);
                self.check_level(token);
            }
        }
        summary
    }

    /// The thread.
    fn run<S: Service>(self: &Arc<Self>, service: &S, running: &Running) {
        let bell = self.bell();
        let mut deadline = service.tick(self, time::now());
        // When the timer expires, if it is armed.
        let mut armed = None;
        while !running.should_stop() {
            let summary = match bell.is_silent() {
                true => 0,
                false => self.round(service),
            };
            if summary & (1 << TIMER) != 0 {
                armed = None;
            }
            let mut tick = summary & (1 << TICK) != 0;
            if let Some(at) = deadline {
                tick |= time::reached(at, time::now());
            }
            if tick {
                let now = time::now();
                // One that is reached already would mean to run in circles.
                deadline = service.tick(self, now).map(|at| {
                    if time::reached(at, now) {
                        now.wrapping_add(1)
                    } else {
                        at
                    }
                });
            }
            if let Some(at) = deadline {
                if armed.is_none_or(|armed| time::reached(at, armed)) && armed != deadline {
                    self.timer.arm(at);
                    armed = deadline;
                }
            }
            if bell.is_silent() {
                bell.parker.park(running, || bell.is_silent());
            } else {
                running.yield_now();
            }
        }
    }
}

/// Sets a bit; returns whether it was set. Fully ordered.
fn set(word: &Atomic<u64>, bit: u32) -> bool {
    let bit = 1 << bit;
    let mut old = word.load(ordering::Relaxed);
    while let Err(now) = word.cmpxchg(old, old | bit, ordering::Full) {
        old = now;
    }
    old & bit != 0
}

/// The numbers of the bits that are set, ascending.
fn bits(mut word: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros());
        word &= word.wrapping_sub(1);
        bit
    })
}

/// A thread with its service. Dropping it stops the thread and waits for its end: not from that thread itself.
///
/// The thread has a reference to the service, and watches have one to the [`Net`]: the service must not own this.
pub(crate) struct NetThread<S: Service> {
    // Goes first: when the rest is dropped the thread is gone.
    _thread: KThread,
    net: Arc<Net>,
    service: Arc<S>,
}

impl<S: Service> NetThread<S> {
    /// Starts the thread. It does nothing but a first [`Service::tick`] until something is ready.
    pub(crate) fn start(name: fmt::Arguments<'_>, service: Arc<S>) -> Result<Self> {
        let net = Net::new()?;
        let thread = KThread::start(name, |task| net.bell().parker.attach(task), {
            let (net, service) = (net.clone(), service.clone());
            move |running| net.run(&*service, running)
        })?;
        Ok(Self {
            _thread: thread,
            net,
            service,
        })
    }

    /// What is to be kicked.
    pub(crate) fn net(&self) -> &Arc<Net> {
        &self.net
    }

    /// What is served.
    pub(crate) fn service(&self) -> &Arc<S> {
        &self.service
    }
}

/// A socket that is watched.
struct Watched {
    net: Arc<Net>,
    socket: Arc<Socket>,
    token: u32,
    /// Mask of [`Events`].
    interest: Atomic<u32>,
}

impl Watched {
    fn interest(&self) -> Events {
        Events::from_mask(self.interest.load(ordering::Relaxed))
    }

    /// Whether the socket is ready for what is of interest.
    fn is_ready(&self) -> bool {
        let interest = self.interest();
        interest != Events::NONE && self.socket.poll().intersects(interest)
    }
}

impl Wake for Arc<Watched> {
    fn wake(&self, events: Events, hint: WakeHint) {
        if events.intersects(self.interest()) {
            self.net.kick_with(self.token, hint);
        }
    }
}

/// Makes a token ready whenever a socket is ready for something of interest. Holds the socket.
///
/// Drop it (process context) to end that; the token may be ready once more.
pub(crate) struct Watch {
    registration: Pin<KBox<Registration<Arc<Watched>>>>,
}

impl Watch {
    /// Watches `socket`. A token has one watch at most (`EBUSY`). Process context.
    pub(crate) fn new(
        net: &Arc<Net>,
        socket: Arc<Socket>,
        token: u32,
        interest: Events,
    ) -> Result<Self> {
        let watched = Arc::new(
            Watched {
                net: net.clone(),
                socket: socket.clone(),
                token,
                interest: Atomic::new(interest.mask()),
            },
            GFP_KERNEL,
        )?;
        let watch = Self {
            registration: Registration::new(socket, watched.clone())?,
        };
        let taken = match net.watches.lock().get_mut(token as usize) {
            Some(slot) if slot.is_none() => {
                *slot = Some(watched);
                Ok(())
            }
            Some(_) => Err(EBUSY),
            None => Err(EINVAL),
        };
        // (Dropping the watch after an error leaves the other one of that token in the table.)
        taken?;
        net.check_level(token);
        Ok(watch)
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &Arc<Socket> {
        self.registration.socket()
    }

    /// What the socket is watched for.
    pub(crate) fn interest(&self) -> Events {
        self.registration.target().interest()
    }

    /// Changes what the socket is watched for. If it is ready for what is new, so is the token. Any context.
    pub(crate) fn set_interest(&self, interest: Events) {
        let watched = self.registration.target();
        // Fully ordered: an event either sees the new interest, or is seen by the poll below.
        let old = watched.interest.xchg(interest.mask(), ordering::Full);
        let new = interest.without(Events::from_mask(old));
        if new != Events::NONE && watched.socket.poll().intersects(new) {
            watched.net.kick(watched.token);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let watched = self.registration.target();
        let mut watches = watched.net.watches.lock();
        let removed = match watches.get_mut(watched.token as usize) {
            Some(slot) if slot.as_ref().is_some_and(|w| Arc::ptr_eq(w, watched)) => slot.take(),
            _ => None,
        };
        drop(watches);
        // Not the last reference, but out of the lock anyway.
        drop(removed);
    }
}
