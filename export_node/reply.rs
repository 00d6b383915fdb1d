// SPDX-License-Identifier: GPL-2.0

//! The sending side of a connection.
//!
//! Replies go out in the order in which their requests ended. Headers are copied, many of them at a time;
//! the data of reads go by reference, and the socket is told that more follows until nothing does.

use kernel::prelude::*;

use super::{
    fifo::Fifo,
    request::{
        release,
        RequestSlot,
        Work, //
    },
};
use crate::{
    kern::{
        net::{
            Sending,
            Socket, //
        },
        trace, //
    },
    proto::{
        wire::{
            data_chunk,
            done_chunk,
            error_chunk,
            SimpleReply,
            DATA_CHUNK_LEN, //
        },
        NbdError, //
    },
};

/// Room for headers that are sent together: the replies to a full batch of writes.
const HEADERS: usize = 1024;

/// The longest header.
const LONGEST: usize = DATA_CHUNK_LEN;

/// The sending side of a connection.
///
/// # Invariants
///
/// `start <= end <= HEADERS`. The bytes between were not sent yet, and go before `data`, which goes before `queue`.
pub(super) struct Sender {
    structured: bool,
    queue: Fifo<RequestSlot>,
    headers: [u8; HEADERS],
    start: usize,
    end: usize,
    /// A read whose data are being sent, and how much of them was sent.
    data: Option<(RequestSlot, u32)>,
}

impl Sender {
    /// Makes one for `capacity` requests. Sleeps.
    pub(super) fn new(structured: bool, capacity: usize) -> Result<Self> {
        Ok(Self {
            structured,
            queue: Fifo::new(capacity)?,
            headers: [0; HEADERS],
            start: 0,
            end: 0,
            data: None,
        })
    }

    /// Replies to a request.
    #[inline]
    pub(super) fn push(&mut self, slot: RequestSlot) {
        // There is room for all requests that there are.
        if let Err(slot) = self.queue.push(slot) {
            release(slot);
        }
    }

    /// Whether everything was sent.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.start == self.end && self.data.is_none() && self.queue.is_empty()
    }

    /// Sends as much as the socket takes. An error is the end of the connection.
    #[inline]
    pub(super) fn run(&mut self, socket: &Socket) -> Result {
        if self.is_idle() {
            return Ok(());
        }
        let result = self.send(socket);
        match result {
            Err(EAGAIN) => Ok(()),
            result => result,
        }
    }

    fn send(&mut self, socket: &Socket) -> Result {
        let mut sending = socket.sending();
        loop {
            self.fill();
            let more = !self.queue.is_empty();
            if let Some(bytes) = self
                .headers
                .get(self.start..self.end)
                .filter(|b| !b.is_empty())
            {
                let sent = sending.bytes(bytes, more || self.data.is_some())?;
                self.start = self.start.saturating_add(sent).min(self.end);
                if self.start != self.end {
                    continue;
                }
            }
            match self.data.take() {
                Some((slot, done)) => self.send_data(&mut sending, slot, done, more)?,
                None if self.queue.is_empty() => return Ok(()),
                None => {}
            }
        }
    }

    /// Sends the data of a read, from byte `done` on.
    fn send_data(
        &mut self,
        sending: &mut Sending<'_>,
        slot: RequestSlot,
        done: u32,
        more: bool,
    ) -> Result {
        let result = match slot.data() {
            Some(span) => sending.segments(span, done, true, more),
            None => Ok(0),
        };
        let sent = match &result {
            Ok(sent) => u32::try_from(*sent).unwrap_or(u32::MAX),
            Err(_) => 0,
        };
        let done = done.saturating_add(sent);
        if done < slot.length {
            self.data = Some((slot, done));
            // A socket that takes nothing without an error would keep us here for ever.
            if sent == 0 {
                return result.and(Err(EAGAIN));
            }
        } else {
            release(slot);
        }
        Ok(())
    }

    /// Puts headers into the buffer until one has data behind it.
    fn fill(&mut self) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        while self.data.is_none() && self.end <= HEADERS - LONGEST {
            let Some(slot) = self.queue.pop() else { break };
            self.header(&slot);
            if slot.data().is_some() {
                self.data = Some((slot, 0));
            } else {
                release(slot);
            }
        }
    }

    /// Puts the header of one reply, or of one piece of it, into the buffer.
    fn header(&mut self, slot: &RequestSlot) {
        let cookie = slot.cookie;
        if slot.last {
            let error = slot.error.map_or(0, NbdError::code);
            trace::export_reply(slot.ctx().name(), cookie, error);
        }
        let read = slot.work == Work::Read;
        match (self.structured, slot.error) {
            (false, error) if slot.first => self.put(&SimpleReply { cookie, error }.encode()),
            // The data of a large read go on.
            (false, _) => {}
            (true, Some(error)) => self.put(&error_chunk(cookie, error)),
            (true, None) if read => {
                self.put(&data_chunk(cookie, slot.offset, slot.length, slot.last));
            }
            (true, None) => self.put(&done_chunk(cookie)),
        }
    }

    fn put(&mut self, header: &[u8]) {
        let end = self.end.saturating_add(header.len());
        if let Some(room) = self.headers.get_mut(self.end..end) {
            room.copy_from_slice(header);
            self.end = end;
        }
    }

    /// Forgets everything: the connection is gone.
    pub(super) fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
        if let Some((slot, _)) = self.data.take() {
            release(slot);
        }
        while let Some(slot) = self.queue.pop() {
            release(slot);
        }
    }
}
