// SPDX-License-Identifier: GPL-2.0

//! Why connections end.

use kernel::{
    fmt,
    prelude::*, //
};

use crate::proto::server::ServerError;

/// Why a connection ended.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// The client left.
    Left,
    /// The export is being stopped.
    Stopped,
    /// A newer connection of the same storage is here.
    Fenced,
    /// The socket failed, or memory was short.
    Broken(Error),
    /// The client took too long for the handshake.
    Slow,
    /// The client broke the protocol of the handshake.
    Handshake(ServerError),
    /// There is no request where one must be.
    BadMagic(u32),
    /// A write has so many bytes that they can't be thrown away.
    TooLong(u32),
    /// The disk failed amid the reply to a large read, and NBD's simple replies know no way to say so.
    HalfRead,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => write!(f, "it left"),
            Self::Stopped => write!(f, "the export was stopped"),
            Self::Fenced => write!(f, "a newer connection of its storage has taken over"),
            Self::Broken(error) => write!(f, "error {}", error.to_errno()),
            Self::Slow => write!(f, "the handshake took too long"),
            Self::Handshake(error) => write!(f, "it sent {error}"),
            Self::BadMagic(magic) => write!(f, "it sent no request, but {magic:#010x}"),
            Self::TooLong(length) => write!(f, "it sent a write of {length} bytes"),
            Self::HalfRead => write!(f, "the disk failed amid a reply"),
        }
    }
}

impl End {
    /// Whether the client is to blame.
    pub(super) fn is_violation(self) -> bool {
        matches!(
            self,
            Self::Slow | Self::Handshake(_) | Self::BadMagic(_) | Self::TooLong(_)
        )
    }
}
