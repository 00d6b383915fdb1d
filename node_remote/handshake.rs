// SPDX-License-Identifier: GPL-2.0

//! The handshake on its socket, and what errors mean.

use kernel::prelude::*;

use crate::{
    kern::net::{
        Incoming,
        Sink,
        Socket, //
    },
    proto::{
        client::{
            ClientHandshake,
            ExportInfo,
            HandshakeError, //
        },
        FLAG_READ_ONLY,
        FLAG_SEND_FLUSH,
        FLAG_SEND_FUA,
        FLAG_SEND_TRIM,
        FLAG_SEND_WRITE_ZEROES, //
    },
};

use super::{
    Reason,
    Remote, //
};

/// What the array was told that the export can do, and what requests are made of.
const RELIED_ON: u16 = FLAG_SEND_FLUSH | FLAG_SEND_FUA | FLAG_SEND_TRIM | FLAG_SEND_WRITE_ZEROES;

/// Compares the export with what it was, or takes note of it.
pub(super) fn accept(
    remote: &Remote,
    export: &ExportInfo,
) -> core::result::Result<(), (Error, Reason)> {
    if export.flags & FLAG_READ_ONLY != 0 {
        return Err((EROFS, Reason::new("the export is read-only")));
    }
    if !remote.export.populate(*export) {
        // Not the first connection: what the array was built on must still hold.
        let first = remote.export.as_ref().unwrap_or(export);
        if export.size < first.size {
            return Err((
                EINVAL,
                Reason::new(format_args!(
                    "the export shrank from {} to {} bytes",
                    first.size, export.size
                )),
            ));
        }
        if export.min_block > first.min_block
            || export.max_payload < first.max_payload
            || first.flags & !export.flags & RELIED_ON != 0
        {
            return Err((
                EINVAL,
                Reason::new("the export can do less than before (flags or block sizes)"),
            ));
        }
    }
    Ok(())
}

/// The handshake's end of the socket.
pub(super) struct Talker<'a> {
    talk: &'a mut ClientHandshake,
    done: Option<ExportInfo>,
    error: Option<HandshakeError>,
}

impl<'a> Talker<'a> {
    /// Goes on with `talk`.
    pub(super) fn new(talk: &'a mut ClientHandshake) -> Self {
        Self {
            talk,
            done: None,
            error: None,
        }
    }

    /// Sends and receives what can be; gives the export when the handshake is over.
    pub(super) fn go_on(
        &mut self,
        socket: &Socket,
    ) -> core::result::Result<Option<ExportInfo>, HandshakeError> {
        loop {
            while !self.talk.output().is_empty() {
                match socket.send(self.talk.output(), false) {
                    Ok(sent) => self.talk.sent(sent),
                    Err(EAGAIN) => return Ok(None),
                    Err(_) => return Err(self.talk.closed()),
                }
            }
            if self.done.is_some() {
                return Ok(self.done);
            }
            let received = socket.receive(self);
            if let Some(error) = self.error {
                return Err(error);
            }
            match received {
                Ok(0) | Err(EAGAIN) if self.done.is_none() => return Ok(None),
                Ok(_) => {}
                Err(_) => return Err(self.talk.closed()),
            }
        }
    }
}

impl Sink for Talker<'_> {
    fn take(&mut self, data: &mut Incoming<'_>) -> bool {
        let mut bytes = [0; 64];
        while data.len() != 0 {
            // Never more than belongs to the handshake.
            let want = self.talk.need().min(bytes.len());
            let Some(room) = bytes.get_mut(..want) else {
                return false;
            };
            if room.is_empty() {
                return false;
            }
            let got = data.copy(room);
            match self.talk.advance(room.get(..got).unwrap_or(&[])) {
                Ok(progress) => self.done = progress.done,
                Err(error) => {
                    self.error = Some(error);
                    return false;
                }
            }
            if self.done.is_some() || !self.talk.output().is_empty() {
                return false;
            }
        }
        true
    }
}

/// What a handshake's error means, for programs; `None`: another attempt may succeed.
pub(super) fn errno(error: &HandshakeError) -> Option<Error> {
    match error {
        HandshakeError::Closed | HandshakeError::Shutdown => None,
        HandshakeError::ExportUnknown => Some(ENOENT),
        HandshakeError::Policy => Some(EACCES),
        HandshakeError::TlsRequired => Some(EPROTONOSUPPORT),
        HandshakeError::TakenOver(_) => Some(ESTALE),
        _ => Some(EPROTO),
    }
}

/// What a socket's error means, for people.
pub(super) fn explain(error: Error) -> &'static str {
    if error == ECONNREFUSED {
        "connection refused; does the server run, and on this port?"
    } else if error == ETIMEDOUT {
        "no answer from the server's address; check address, network and firewall"
    } else if error == ECONNRESET || error == EPIPE {
        "the server closed the connection"
    } else if error == EHOSTUNREACH || error == ENETUNREACH {
        "no route to the server; check address and network"
    } else if error == EADDRNOTAVAIL {
        "no local address that could reach the server"
    } else if error == ENOMEM {
        "out of memory"
    } else {
        "the connection failed"
    }
}
