// SPDX-License-Identifier: GPL-2.0

//! Sending: by the submitter itself where it can, by the network thread where the socket was full.
//!
//! Whoever has queued a piece tries to become the sender. The sender takes what is queued, whoever queued
//! it: headers of requests without data go out together, the data of writes by reference.

use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
};

use crate::{
    kern::{
        net::{
            Events,
            Socket, //
        },
        pool::Lent,
    },
    net_state::Watch,
    proto::{
        client::ExportInfo,
        pending::Pending,
        wire::{
            RequestHeader,
            REQUEST_LEN, //
        },
        Command,
        NbdError, //
    },
};

use super::{
    complete,
    order,
    receive::AGAIN,
    Remote,
    RemoteNode,
    RemotePiece,
    RemoteSlot, //
};

/// Headers that go out in one send: fewer bytes than a segment has on any network, and as many requests
/// as submitters usually batch.
const BATCH: usize = 32;

/// A connection that may carry requests.
struct Up {
    socket: Arc<Socket>,
    watch: Arc<Watch>,
    /// Structured replies were negotiated.
    structured: bool,
    /// Data may be sent by reference: once this connection is gone, no receiver refers to their pages. Else a server in
    /// this kernel could write what is in a page by the time it reads, long after the request was sent again,
    /// answered, and its page used for something else.
    share: bool,
}

/// A write whose data are being sent.
struct Payload {
    piece: Lent<Remote, RemotePiece>,
    done: u32,
}

/// The sending half of a connection.
pub(super) struct Sender {
    up: Option<Up>,
    headers: [u8; BATCH * REQUEST_LEN],
    /// Bytes of `headers` that are valid.
    filled: usize,
    /// Bytes of `headers` that were sent.
    sent: usize,
    /// The data that follow the headers.
    payload: Option<Payload>,
    /// The thread was asked to tell when the socket takes bytes again.
    waiting: bool,
}

impl Sender {
    /// No connection.
    pub(super) fn new() -> Self {
        Self {
            up: None,
            headers: [0; BATCH * REQUEST_LEN],
            filled: 0,
            sent: 0,
            payload: None,
            waiting: false,
        }
    }

    /// Lets requests flow over a new connection.
    pub(super) fn open(&mut self, socket: Arc<Socket>, watch: Arc<Watch>, export: &ExportInfo) {
        *self = Self::new();
        self.up = Some(Up {
            share: socket.leaves_kernel(),
            socket,
            watch,
            structured: export.structured,
        });
    }

    /// Stops the flow. A write that was being sent is parked like all others; it is given back only if a
    /// reply had come before all of its data were sent, which is not believed.
    pub(super) fn close(&mut self) -> Option<RemoteSlot> {
        let payload = self.payload.take();
        *self = Self::new();
        payload?.piece.finish().map(|(slot, _early)| slot)
    }

    /// Tells the server that the client goes, if there is nothing half sent. There is no reply to this.
    pub(super) fn say_goodbye(&mut self) {
        if let (Some(up), true, None) = (&self.up, self.sent == self.filled, &self.payload) {
            let goodbye = RequestHeader::new(Command::Disconnect, 0, 0, 0, 0);
            // It is a courtesy: the end of the connection says the same.
            let _ = up.socket.send(&goodbye.encode(), false);
        }
    }

    /// Sends what is queued. `true`: all of it went, and there may be more by now; `false`: it can't go on.
    pub(super) fn drain(&mut self, node: &RemoteNode) -> bool {
        let remote = node.ctx();
        if self.up.is_none() {
            return false;
        }
        loop {
            match self.send(node) {
                Ok(()) => {}
                Err(EAGAIN) => {
                    if self.wait_writable() {
                        continue;
                    }
                    return false;
                }
                Err(_) => {
                    // The thread finds out what it was, and makes a new connection.
                    remote.order(order::BROKEN);
                    return false;
                }
            }
            if !self.fill(node) {
                self.writable_again();
                return true;
            }
        }
    }

    /// Sends what was begun. All of it went if this returns `Ok`.
    fn send(&mut self, node: &RemoteNode) -> Result {
        let Some(up) = &self.up else {
            return Err(ENOTCONN);
        };
        while let Some(bytes) = self.headers.get(self.sent..self.filled) {
            if bytes.is_empty() {
                break;
            }
            let more = self.payload.is_some() || node.ctx().queue.lock().has_next();
            self.sent += up.socket.send(bytes, more)?;
        }
        while let Some(payload) = &mut self.payload {
            let Some(part) = payload.piece.part.as_ref() else {
                return Err(EINVAL);
            };
            if payload.done < part.bytes() {
                let more = node.ctx().queue.lock().has_next();
                let sent = up
                    .socket
                    .send_segments(part, payload.done, up.share, more)?;
                // A send never takes more than it was given.
                payload.done += sent as u32;
                continue;
            }
            if let Some(payload) = self.payload.take() {
                match payload.piece.finish() {
                    // The receiver gives the connection up for this; then the request is sent again.
                    Some((slot, code)) if code == AGAIN => {
                        slot.park();
                    }
                    Some((slot, code)) => complete(node.ctx(), slot, NbdError::from_code(code)),
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Takes the next requests from the queue; `false` if there is none.
    fn fill(&mut self, node: &RemoteNode) -> bool {
        let remote = node.ctx();
        let Some(up) = &self.up else { return false };
        self.filled = 0;
        self.sent = 0;
        while self.payload.is_none() && self.filled < self.headers.len() {
            let Some(mut slot) = remote.queue.lock().pop() else {
                break;
            };
            let (command, flags, offset, length) = slot.asks();
            slot.pending = match command {
                Command::Read => Pending::read(offset, length, up.structured),
                _ => Pending::other(),
            };
            // Reads may be answered in pieces: nbd-server takes the flag against that for a wish to be answered as by an
            // older server, which nobody understands who has agreed to structured replies.
            let header = RequestHeader::new(command, flags, slot.cookie(), offset, length);
            let end = self.filled + REQUEST_LEN;
            if let Some(room) = self.headers.get_mut(self.filled..end) {
                room.copy_from_slice(&header.encode());
            }
            self.filled = end;
            if slot.note.resent {
                remote.resent.add(1, Relaxed);
            }
            if slot.payload() != 0 {
                self.payload = Some(Payload {
                    piece: slot.lend(),
                    done: 0,
                });
            } else {
                // Parked before it is sent: the reply may be here before `send` returns.
                slot.park();
            }
        }
        self.filled != 0
    }

    /// Asks to be told when the socket takes bytes again; `true` if it does already.
    fn wait_writable(&mut self) -> bool {
        let Some(up) = &self.up else { return false };
        if !self.waiting {
            self.waiting = true;
            up.watch.set_interest(Events::RECEIVE.union(Events::OUT));
        }
        // Asked after the interest is set: a change from here on wakes the thread.
        up.socket.poll().intersects(Events::OUT)
    }

    /// The socket has taken everything.
    fn writable_again(&mut self) {
        if let (true, Some(up)) = (self.waiting, &self.up) {
            up.watch.set_interest(Events::RECEIVE);
            self.waiting = false;
        }
    }
}
