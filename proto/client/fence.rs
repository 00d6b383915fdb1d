// SPDX-License-Identifier: GPL-2.0

//! [`OPT_DST`] at the client: in one handshake, and whether to ask in the next one.

use super::{
    super::{
        fence::{
            Fence,
            TakenOver,
            NEWEST_LEN,
            OPT_DST,
            REP_DST, //
        },
        option::*, //
    },
    ClientHandshake,
    ExportInfo,
    HandshakeError,
    State, //
};

/// Attempts that fail in a row at the question for a fence, before one goes without it.
///
/// A server may break on an option that it does not know, though none is known that does. But to do without
/// a fence is a risk, so once is not enough: the server may have ended just then, or the connection.
const FENCE_TRIES: u32 = 3;

/// What is known of a server's fence.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fencing {
    /// It has one, or had: it is asked for in any case.
    known: bool,
    /// Attempts that failed at the question.
    failures: u32,
}

impl Fencing {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self {
            known: false,
            failures: 0,
        }
    }

    /// Begins a handshake for the export called `export`.
    pub fn begin(
        &mut self,
        export: &str,
        fence: Option<Fence>,
    ) -> Result<ClientHandshake, HandshakeError> {
        let mut talk = ClientHandshake::new(export, true)?;
        if !self.known && self.failures >= FENCE_TRIES {
            // If this fails, too, the question was not the reason.
            self.failures = 0;
        } else if let Some(fence) = fence {
            talk.set_fence(fence);
        }
        Ok(talk)
    }

    /// Takes note of how a handshake goes. Says of one that failed whether that may be for the question.
    ///
    /// A server that says nothing is not among those: it may be busy with what the fence is for.
    pub fn note(
        &mut self,
        talk: &ClientHandshake,
        result: &Result<Option<ExportInfo>, HandshakeError>,
    ) -> bool {
        self.known |= talk.knows_fence();
        match result {
            Err(HandshakeError::Closed | HandshakeError::Protocol(_))
                if talk.is_fence_unanswered() =>
            {
                self.failures = self.failures.saturating_add(1);
                true
            }
            Ok(None) => false,
            Ok(Some(_)) | Err(_) => {
                self.failures = 0;
                false
            }
        }
    }
}

impl ClientHandshake {
    /// Asks for a fence, too: to be called at the start.
    pub fn set_fence(&mut self, fence: Fence) {
        self.fence = Some(fence);
    }

    /// Whether the server knows fences.
    pub fn knows_fence(&self) -> bool {
        self.newest.is_some()
    }

    /// Whether the server waits for what older connections have on its disk. That takes as long as
    /// the disk does.
    pub fn is_fencing(&self) -> bool {
        self.asked == OPT_DST && self.knows_fence() && matches!(self.state, State::Reply)
    }

    /// Whether the server was asked for a fence, and has not said so much as that it knows no such
    /// option. If that is how a handshake fails, the question may be the reason.
    pub fn is_fence_unanswered(&self) -> bool {
        self.asked == OPT_DST && !self.knows_fence()
    }

    /// The option that is asked behind [`OPT_DST`].
    pub(super) fn behind_fence(&self) -> u32 {
        if self.want_structured {
            OPT_STRUCTURED_REPLY
        } else {
            OPT_GO
        }
    }

    /// Handles the header of a reply to [`OPT_DST`].
    pub(super) fn fence_reply(&mut self, kind: u32, left: u32) -> Result<(), HandshakeError> {
        match (kind, self.newest) {
            (REP_DST, None) if left == NEWEST_LEN as u32 => {
                self.gather(State::Newest, NEWEST_LEN);
                return Ok(());
            }
            (REP_ACK, Some(_)) => {}
            (REP_ERR_SHUTDOWN, _) => {
                self.fail(HandshakeError::Shutdown, left);
                return Ok(());
            }
            (REP_ERR_POLICY, Some(epoch)) => {
                self.fail(HandshakeError::TakenOver(TakenOver(epoch)), left);
                return Ok(());
            }
            (kind, Some(_)) if kind & REP_ERROR_BIT != 0 => {
                self.fail(HandshakeError::Refused(kind), left);
                return Ok(());
            }
            // It knows no fence, and the export may be there without one.
            (kind, None) if kind & REP_ERROR_BIT != 0 => {}
            _ => {
                return Err(HandshakeError::Protocol(
                    "a strange reply to the fence option",
                ))
            }
        }
        self.asked = self.behind_fence();
        self.state = State::Skip { left };
        Ok(())
    }
}
