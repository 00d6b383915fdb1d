// SPDX-License-Identifier: GPL-2.0

//! [`OPT_DST`](super::super::fence::OPT_DST) at the server.

use super::{
    super::{
        fence::{
            newest,
            BadFence,
            Fence,
            Verdict,
            FENCE_LEN,
            REP_DST, //
        },
        option::*, //
    },
    ServerHandshake,
    State, //
};
use crate::text::Text;

impl ServerHandshake {
    /// Who the client says that it is, if it waits for [`Self::judge`].
    ///
    /// The driver is asked to end the older connections of the storage, and to say how that stands:
    /// at once, and again whenever that has changed, until the answer is not [`Verdict::Wait`].
    pub fn claim(&self) -> Option<Fence> {
        match self.state {
            State::Claimed { fence, .. } if self.output.is_empty() => Some(fence),
            _ => None,
        }
    }

    /// Whether the client was told to wait for the older connections of its storage.
    pub fn is_fencing(&self) -> bool {
        matches!(self.state, State::Claimed { told: true, .. })
    }

    /// Answers [`Self::claim`].
    pub fn judge(&mut self, verdict: Verdict) {
        let (Some(fence), State::Claimed { told, .. }) = (self.claim(), self.state) else {
            return;
        };
        let epoch = match verdict {
            Verdict::TakenOver(other) => other.0,
            _ => fence.epoch,
        };
        if !told {
            self.reply(REP_DST, &[&newest(epoch)]);
        }
        match verdict {
            Verdict::Wait => {
                self.state = State::Claimed { fence, told: true };
                return;
            }
            Verdict::Newest => {
                self.fenced = true;
                self.reply(REP_ACK, &[]);
            }
            Verdict::TakenOver(other) => {
                let text = Text::<64>::new(other);
                self.reply(REP_ERR_POLICY, &[text.as_str().as_bytes()]);
            }
            Verdict::NoRoom => self.reply(REP_ERR_PLATFORM, &[b"too many storages"]),
        }
        self.next_option();
    }

    /// Handles the option's header.
    pub(super) fn fence_option(&mut self, left: u32) {
        if left != FENCE_LEN as u32 {
            self.refuse(left, REP_ERR_INVALID, "malformed option");
        } else if self.fenced {
            self.refuse(left, REP_ERR_INVALID, "a second storage for one connection");
        } else {
            self.gather(State::Fence, FENCE_LEN);
        }
    }

    /// Handles the option's payload.
    pub(super) fn fence(&mut self) {
        match Fence::decode(self.input.head()) {
            Ok(fence) => self.state = State::Claimed { fence, told: false },
            Err(BadFence::Version(_)) => {
                self.refuse(0, REP_ERR_UNSUP, "unknown version of the option");
            }
            Err(BadFence::Senseless) => self.refuse(0, REP_ERR_INVALID, "malformed option"),
        }
    }
}
