// SPDX-License-Identifier: GPL-2.0

//! Receiving: replies are parsed in the socket's buffers, data go straight into the caller's pages.
//!
//! All of this runs under the socket's lock, where no bio may be ended: the end of a bio can lead to a new
//! one, which wants to send on the same socket. So finished pieces are collected, and ended afterwards.

use kernel::prelude::*;

use crate::{
    kern::{
        net::{
            Incoming,
            Sink,
            Socket, //
        },
        pool::Claim,
        segments, //
    },
    proto::{
        pending::Fill,
        reply::{
            Event,
            ProtocolError,
            ReplyParser, //
        },
        wire::DATA_CHUNK_LEN,
        NbdError, //
    },
};

use super::{
    complete,
    Reason,
    RemoteNode,
    RemoteSlot, //
};

/// Replies that are collected before they are ended: as many as one sender batches.
const BATCH: usize = 32;

/// Bytes of headers that are looked at in one go: the longest header that is followed by data.
const PEEK: usize = DATA_CHUNK_LEN;

/// Data of a read that are arriving.
struct Data {
    slot: RemoteSlot,
    /// Bytes from the piece's start.
    at: u32,
    /// Bytes that are still to come in this run.
    left: u32,
    /// How the piece ends when they are there; `None`: more runs follow.
    end: Option<Option<NbdError>>,
}

/// The receiving half of a connection.
pub(super) struct Receiver {
    parser: ReplyParser,
    data: Option<Data>,
    done: [Option<(RemoteSlot, Option<NbdError>)>; BATCH],
    used: usize,
    error: Option<Reason>,
    /// A reply has arrived on this connection.
    pub(super) heard: bool,
}

impl Receiver {
    /// For a new connection.
    pub(super) fn new(structured: bool) -> Self {
        Self {
            parser: ReplyParser::new(structured),
            data: None,
            done: [const { None }; BATCH],
            used: 0,
            error: None,
            heard: false,
        }
    }

    /// Receives what there is, and ends what is complete. `Err`: the connection is of no more use.
    pub(super) fn receive(
        &mut self,
        node: &RemoteNode,
        socket: &Socket,
    ) -> core::result::Result<(), Reason> {
        loop {
            let result = socket.receive(&mut Parse {
                receiver: self,
                node,
            });
            let full = self.used == BATCH;
            self.end_done(node);
            if let Some(reason) = self.error.take() {
                return Err(reason);
            }
            match result {
                // Stopped for want of places, not of bytes.
                Ok(_) if full => {}
                Ok(0) | Err(EAGAIN) => return Ok(()),
                Ok(_) => {}
                Err(EPIPE) => return Err(Reason::new("the server closed the connection")),
                Err(error) => return Err(Reason::new(Lost(error))),
            }
        }
    }

    /// Takes the piece whose data were arriving when the connection was lost.
    pub(super) fn take_partial(&mut self) -> Option<RemoteSlot> {
        self.data.take().map(|data| data.slot)
    }

    /// Ends the collected pieces.
    fn end_done(&mut self, node: &RemoteNode) {
        for place in self.done.iter_mut().take(self.used) {
            if let Some((slot, error)) = place.take() {
                complete(node.ctx(), slot, error);
            }
        }
        self.used = 0;
    }

    /// Collects a piece whose reply is complete.
    fn ended(&mut self, slot: RemoteSlot, error: Option<NbdError>) {
        self.heard = true;
        if let Some(place) = self.done.get_mut(self.used) {
            *place = Some((slot, error));
            self.used += 1;
        } else {
            // `take` stops before this can be: put it back, it is sent again on the next connection.
            slot.park();
            self.fail("more replies than places");
        }
    }

    fn fail(&mut self, reason: impl core::fmt::Display) {
        self.error = Some(Reason::new(reason));
    }

    /// Handles as much of `data` as it can; `false` to stop.
    fn take(&mut self, node: &RemoteNode, data: &mut Incoming<'_>) -> bool {
        while data.len() != 0 {
            if self.used == BATCH {
                return false;
            }
            let more = if self.data.is_some() {
                self.payload(data)
            } else {
                self.header(node, data)
            };
            if let Err(reason) = more {
                self.error = Some(reason);
                return false;
            }
        }
        true
    }

    /// Takes bytes of a read.
    fn payload(&mut self, data: &mut Incoming<'_>) -> core::result::Result<(), Reason> {
        let Some(mut run) = self.data.take() else {
            return Ok(());
        };
        let Some(part) = run.slot.part.as_ref() else {
            return Err(Reason::new("data for a request that is over"));
        };
        match data.copy_to(part, run.at, run.left) {
            Ok(copied) => {
                let copied = copied as u32;
                run.at = run.at.saturating_add(copied);
                run.left = run.left.saturating_sub(copied);
            }
            Err(error) => {
                self.data = Some(run);
                return Err(Reason::new(Lost(error)));
            }
        }
        if run.left != 0 {
            self.data = Some(run);
        } else {
            self.settle(run.slot, run.end);
        }
        Ok(())
    }

    /// Takes bytes of a header, and acts if it is complete.
    fn header(
        &mut self,
        node: &RemoteNode,
        data: &mut Incoming<'_>,
    ) -> core::result::Result<(), Reason> {
        let mut bytes = [0; PEEK];
        let want = self.parser.need().min(PEEK);
        let Some(room) = bytes.get_mut(..want) else {
            return Ok(());
        };
        let got = data.copy(room);
        // Never more than the parser needs, so that all of it is consumed.
        let fed = self
            .parser
            .feed(room.get(..got).unwrap_or(&[]))
            .map_err(Reason::new)?;
        let Some(event) = fed.event else {
            return Ok(());
        };
        let mut slot = match node.claim(event.cookie(), early_code(&event)) {
            Claim::Slot(slot) => slot,
            // Its data are still being sent.
            Claim::Early => {
                return match event {
                    Event::Data { .. } | Event::Hole { .. } => {
                        Err(Reason::new(ProtocolError::UnexpectedData))
                    }
                    _ if early_code(&event) == AGAIN => Err(Reason::new(NbdError::Shutdown)),
                    // Whoever sends them ends it.
                    _ => Ok(()),
                };
            }
            Claim::Unknown => {
                return Err(Reason::new(format_args!(
                    "a reply to a request that was not made (cookie {:#x})",
                    event.cookie()
                )))
            }
        };
        let action = match slot.pending.event(&event) {
            Ok(action) => action,
            Err(error) => {
                slot.park();
                return Err(Reason::new(error));
            }
        };
        let end = action.end.map(|result| result.err());
        if end == Some(Some(NbdError::Shutdown)) {
            // The server goes down in order; the request is for its successor.
            slot.park();
            return Err(Reason::new(NbdError::Shutdown));
        }
        match action.fill {
            Fill::Nothing => self.settle(slot, end),
            Fill::Receive { at, length } => {
                self.data = Some(Data {
                    slot,
                    at,
                    left: length,
                    end,
                });
            }
            Fill::Zero { at, length } => {
                if let Some(part) = slot.part.as_ref() {
                    segments::zero(part, at, length);
                }
                self.settle(slot, end);
            }
        }
        Ok(())
    }

    /// A run of a reply is handled: the piece is over, or waits for the next one.
    fn settle(&mut self, slot: RemoteSlot, end: Option<Option<NbdError>>) {
        match end {
            Some(error) => self.ended(slot, error),
            None => {
                slot.park();
            }
        }
    }
}

/// What is left with a write whose reply is none, or says that the server goes: whoever sends its data
/// leaves the request to the next connection.
pub(super) const AGAIN: u32 = NbdError::Shutdown.code();

/// What is left with a write whose reply comes before all of its data were sent: the error's number, 0 if
/// there is none, or [`AGAIN`].
fn early_code(event: &Event) -> u32 {
    match event {
        Event::Simple { error, .. } => error.map_or(0, NbdError::code),
        Event::Done { .. } => 0,
        Event::Error { error, .. } => error.code(),
        // Nonsense, for which the connection is given up.
        Event::Data { .. } | Event::Hole { .. } => AGAIN,
    }
}

/// A socket's error, for people.
struct Lost(Error);

impl core::fmt::Display for Lost {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(super::handshake::explain(self.0))
    }
}

/// The sink of one call to the socket.
struct Parse<'a> {
    receiver: &'a mut Receiver,
    node: &'a RemoteNode,
}

impl Sink for Parse<'_> {
    fn take(&mut self, data: &mut Incoming<'_>) -> bool {
        self.receiver.take(self.node, data)
    }
}
