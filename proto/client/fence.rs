// SPDX-License-Identifier: GPL-2.0

//! [`OPT_DST`] at the client.

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
    HandshakeError,
    State, //
};

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
