// SPDX-License-Identifier: GPL-2.0

//! The receiving side of a connection.
//!
//! Headers are parsed in the socket's buffers, the data of writes are copied from there straight into the pages
//! that the disk gets. All of this runs under the socket's lock and does nothing but fill slots: they
//! gather in [`Intake::ready`], and the connection submits them when the lock is gone.
//!
//! A request that finds no free slot or no free pages stays at the door ([`Input::Start`]), and everything
//! behind it in the socket: then the client's sends block, and nothing grows.
//!
//! # Large requests
//!
//! A request of more than [`PIECE`] bytes is worked on in pieces, and alone: it begins when no other request of
//! this connection is left, and nothing behind it is looked at before it is done. Only clients that
//! don't ask for the block sizes send such requests; for them it must work, not be fast. The pieces of a read
//! go one by one, since they are parts of one reply that nothing may come between. Writes are replied to
//! when the last piece ended.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    end::End, //
    fifo::Fifo,
    request::{
        release,
        RequestSlot,
        Requests,
        Work, //
    },
};
use crate::{
    kern::{
        net::{
            Incoming,
            Sink, //
        },
        span::PagePool,
        trace, //
    },
    proto::{
        request::{
            judge,
            Limits,
            Order,
            Verdict, //
        },
        wire::{
            RequestHeader,
            REQUEST_LEN, //
        },
        NbdError,
        CMD_FLAG_DF, //
    },
};

/// The most bytes that are worked on at once, and the maximum payload that clients are told.
///
/// Linux splits requests at 1280 KiB at most, QEMU and the libnbd tools use 256 KiB to 2 MiB unless they are told
/// otherwise; nothing gets faster beyond this.
pub(super) const PIECE: u32 = 1 << 20;

/// Requests that are submitted together. The first one waits while the last one is parsed.
const BATCH: usize = 32;

/// Bytes that are submitted together: the disk should begin while there is more to receive.
const BATCH_BYTES: u32 = 512 << 10;

const _: () = assert!(PIECE % 4096 == 0);

/// A request that wants a slot.
#[derive(Clone, Copy)]
struct Start {
    cookie: u64,
    work: Work,
    offset: u64,
    length: u32,
    then_flush: bool,
}

/// A large request.
#[derive(Clone, Copy)]
struct Large {
    cookie: u64,
    work: Work,
    /// Where the next piece begins.
    offset: u64,
    /// Bytes that are in no piece yet.
    left: u32,
    /// No piece was made yet.
    first: bool,
    /// Pieces that did not end yet.
    pending: u32,
    error: Option<NbdError>,
}

/// What comes next.
enum Input {
    /// A header, of which `have` bytes are there.
    Header {
        bytes: [u8; REQUEST_LEN],
        have: usize,
    },
    /// A request that waits for a slot and pages.
    Start(Start),
    /// The data of a write, of which `have` bytes are there.
    Payload { slot: RequestSlot, have: u32 },
    /// The data of a refused write.
    Discard { left: u32, then: Start },
    /// The next piece of [`Intake::large`], or its end.
    Large,
    /// Nothing.
    Over,
}

impl Input {
    const HEADER: Self = Self::Header {
        bytes: [0; REQUEST_LEN],
        have: 0,
    };
}

/// How things stand after the socket was emptied as far as possible.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// All that was there was taken.
    Dry,
    /// There may be more; the batch is full.
    More,
    /// There may be more, but no slot or no pages for it.
    Blocked,
}

/// The receiving side of a connection.
pub(super) struct Intake {
    requests: Arc<Requests>,
    pages: Arc<PagePool>,
    limits: Limits,
    structured: bool,
    input: Input,
    large: Option<Large>,
    /// What is to be submitted.
    pub(super) ready: Fifo<RequestSlot>,
    /// Bytes in `ready`.
    batch: u32,
    full: bool,
    /// Why nothing more is taken.
    over: Option<End>,
}

impl Intake {
    /// Makes the receiving side of a connection whose requests and pages are these. Sleeps.
    pub(super) fn new(
        requests: Arc<Requests>,
        pages: Arc<PagePool>,
        limits: Limits,
        structured: bool,
    ) -> Result<Self> {
        let ready = Fifo::new(requests.capacity() as usize)?;
        Ok(Self {
            requests,
            pages,
            limits,
            structured,
            input: Input::HEADER,
            large: None,
            ready,
            batch: 0,
            full: false,
            over: None,
        })
    }

    /// The pool of requests.
    pub(super) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Begins a new batch, and tries again what had to wait. Says whether there is any use in receiving.
    pub(super) fn begin(&mut self) -> bool {
        self.batch = 0;
        self.full = false;
        self.step()
    }

    /// Makes room where nothing that goes on will: TCP has all pages. Says whether there is any use in trying again.
    #[cold]
    pub(super) fn relieve(&self) -> bool {
        self.pages.replace() != 0
    }

    /// How things stand; an error if the client said something after which there is nothing more to say.
    pub(super) fn level(&self) -> core::result::Result<Level, End> {
        Ok(match (&self.input, self.over) {
            (_, Some(end)) => return Err(end),
            _ if self.full => Level::More,
            (Input::Start(_) | Input::Large, _) => Level::Blocked,
            _ => Level::Dry,
        })
    }

    /// Takes a request that ended; gives it back if it is to be replied to.
    #[inline]
    pub(super) fn settle(
        &mut self,
        slot: RequestSlot,
    ) -> core::result::Result<Option<RequestSlot>, End> {
        if slot.first && slot.last {
            return Ok(Some(slot));
        }
        self.settle_piece(slot)
    }

    /// The same for a piece of a large request.
    #[cold]
    fn settle_piece(
        &mut self,
        mut slot: RequestSlot,
    ) -> core::result::Result<Option<RequestSlot>, End> {
        let Some(large) = &mut self.large else {
            // Not reached: there is a large request until its last piece ended.
            release(slot);
            return Ok(None);
        };
        large.pending = large.pending.saturating_sub(1);
        if slot.work == Work::Read {
            if slot.error.is_some() {
                if !self.structured && !slot.first {
                    // Data are expected in this place, and an error can't be told.
                    release(slot);
                    return Err(End::HalfRead);
                }
                slot.last = true;
            }
            if slot.last {
                self.large = None;
                self.input = Input::HEADER;
            }
            return Ok(Some(slot));
        }
        large.error = large.error.or(slot.error);
        if large.left != 0 || large.pending != 0 {
            release(slot);
            return Ok(None);
        }
        slot.error = large.error;
        slot.first = true;
        slot.last = true;
        self.large = None;
        self.input = Input::HEADER;
        Ok(Some(slot))
    }

    /// Drops all that was received and not submitted.
    pub(super) fn clear(&mut self) {
        if let Input::Payload { slot, .. } = core::mem::replace(&mut self.input, Input::Over) {
            release(slot);
        }
        while let Some(slot) = self.ready.pop() {
            release(slot);
        }
    }

    /// Ends the taking.
    fn end(&mut self, end: End) -> Input {
        self.over = Some(end);
        Input::Over
    }

    /// Judges a request.
    fn header(&mut self, bytes: &[u8; REQUEST_LEN]) -> Input {
        let header = match RequestHeader::decode(bytes) {
            Ok(header) => header,
            Err(bad) => return self.end(End::BadMagic(bad.0)),
        };
        let start = |work, length, then_flush| {
            Input::Start(Start {
                cookie: header.cookie,
                work,
                offset: header.offset,
                length,
                then_flush,
            })
        };
        let refuse = |error| Start {
            cookie: header.cookie,
            work: Work::Refused(error),
            offset: 0,
            length: 0,
            then_flush: false,
        };
        trace::export_request(self.requests.ctx().name(), &header);
        match judge(&header, &self.limits) {
            Verdict::Serve(order) => match order {
                Order::Read(range) if range.length > PIECE => {
                    if header.flags & CMD_FLAG_DF != 0 {
                        return Input::Start(refuse(NbdError::Overflow));
                    }
                    self.large(&header, Work::Read)
                }
                Order::Write { range, fua } if range.length > PIECE => {
                    self.large(&header, Work::Write { fua })
                }
                Order::Read(range) => start(Work::Read, range.length, false),
                Order::Write { range, fua } => start(Work::Write { fua }, range.length, false),
                Order::Flush => start(Work::Flush, 0, false),
                Order::Trim { range, fua } => start(Work::Trim, range.length, fua),
                Order::WriteZeroes {
                    range,
                    fua,
                    no_hole,
                    ..
                } => start(Work::WriteZeroes { no_hole }, range.length, fua),
                // We don't offer it.
                Order::Cache(_) => Input::Start(refuse(NbdError::Inval)),
            },
            Verdict::Refuse { error, payload } => Input::Discard {
                left: payload,
                then: refuse(error),
            },
            Verdict::Disconnect => self.end(End::Left),
            Verdict::TooLong => self.end(End::TooLong(header.length)),
        }
    }

    /// Begins a large request.
    fn large(&mut self, header: &RequestHeader, work: Work) -> Input {
        self.large = Some(Large {
            cookie: header.cookie,
            work,
            offset: header.offset,
            left: header.length,
            first: true,
            pending: 0,
            error: None,
        });
        Input::Large
    }

    /// Goes on without input, as far as possible. Says whether input is wanted now.
    #[inline]
    fn step(&mut self) -> bool {
        match self.input {
            Input::Start(start) => {
                let Some(slot) = self.slot(start.work, start.length) else {
                    return false;
                };
                self.fill(slot, &start, true, true);
                true
            }
            Input::Large => self.step_large(),
            Input::Over => false,
            _ => true,
        }
    }

    /// Makes the next piece of a large request.
    #[cold]
    fn step_large(&mut self) -> bool {
        let Some(mut large) = self.large.filter(|large| large.left != 0) else {
            return false;
        };
        let alone = large.first || large.work == Work::Read;
        if alone && self.requests.used() != 0 {
            return false;
        }
        let length = large.left.min(PIECE);
        let Some(slot) = self.slot(large.work, length) else {
            return false;
        };
        let start = Start {
            cookie: large.cookie,
            work: large.work,
            offset: large.offset,
            length,
            then_flush: false,
        };
        let first = large.first;
        large.first = false;
        large.left = large.left.saturating_sub(length);
        // The range was judged: it does not wrap.
        large.offset = large.offset.wrapping_add(u64::from(length));
        large.pending = large.pending.saturating_add(1);
        self.large = Some(large);
        self.fill(slot, &start, first, large.left == 0);
        matches!(self.input, Input::Payload { .. })
    }

    /// Takes a slot, and pages for `length` bytes if there are data.
    #[inline]
    fn slot(&self, work: Work, length: u32) -> Option<RequestSlot> {
        let mut slot = self.requests.try_take()?;
        if matches!(work, Work::Read | Work::Write { .. }) {
            slot.span = Some(self.pages.take(length)?);
        }
        Some(slot)
    }

    /// Makes a request of a slot.
    #[inline]
    fn fill(&mut self, mut slot: RequestSlot, start: &Start, first: bool, last: bool) {
        slot.cookie = start.cookie;
        slot.work = start.work;
        slot.offset = start.offset;
        slot.length = start.length;
        slot.then_flush = start.then_flush;
        slot.first = first;
        slot.last = last;
        slot.error = None;
        if matches!(start.work, Work::Write { .. }) {
            self.input = Input::Payload { slot, have: 0 };
        } else {
            self.submit(slot);
        }
    }

    /// A request is complete: to the disk with it.
    #[inline]
    fn submit(&mut self, slot: RequestSlot) {
        self.batch = self.batch.saturating_add(slot.length);
        // There is room for all slots that there are.
        if let Err(slot) = self.ready.push(slot) {
            release(slot);
        }
        self.full = self.ready.len() >= BATCH || self.batch >= BATCH_BYTES;
        self.input = match self.large {
            Some(_) => Input::Large,
            None => Input::HEADER,
        };
    }
}

impl Sink for Intake {
    fn take(&mut self, data: &mut Incoming<'_>) -> bool {
        while !self.full {
            match &mut self.input {
                Input::Header { bytes, have } => {
                    let Some(room) = bytes.get_mut(*have..) else {
                        return false;
                    };
                    *have = have.saturating_add(data.copy(room));
                    if *have < REQUEST_LEN {
                        return true;
                    }
                    let bytes = *bytes;
                    self.input = self.header(&bytes);
                }
                Input::Payload { slot, have } => {
                    let missing = slot.length.saturating_sub(*have);
                    let copied = match &slot.span {
                        Some(span) => data.copy_to(span, *have, missing),
                        None => Ok(0),
                    };
                    match copied {
                        // At most `missing`.
                        Ok(copied) => *have = have.saturating_add(copied as u32),
                        Err(error) => {
                            self.over = Some(End::Broken(error));
                            return false;
                        }
                    }
                    if *have < slot.length {
                        return true;
                    }
                    if let Input::Payload { slot, .. } =
                        core::mem::replace(&mut self.input, Input::Over)
                    {
                        self.submit(slot);
                    }
                }
                Input::Discard { left, then } => {
                    // `skip` gives at most `left`.
                    *left = left.saturating_sub(data.skip(*left as usize) as u32);
                    if *left != 0 {
                        return true;
                    }
                    self.input = Input::Start(*then);
                }
                Input::Start(_) | Input::Large | Input::Over => {
                    if !self.step() {
                        return false;
                    }
                }
            }
        }
        false
    }
}
