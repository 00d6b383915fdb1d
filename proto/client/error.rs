// SPDX-License-Identifier: GPL-2.0

//! Why handshakes fail, for programs and for people.

use core::fmt;

use super::super::{
    fence::TakenOver,
    option::BlockSizes,
    MAX_NAME, //
};

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// Something else listens there.
    NotNbd,
    /// A server from before 2011.
    OldStyle,
    /// No such export.
    ExportUnknown,
    /// The server does not want to.
    Policy,
    /// The server wants TLS.
    TlsRequired,
    /// The server did not see that block sizes were asked for.
    BlockSizeRequired,
    /// The server is going down.
    Shutdown,
    /// The server can't take so long an option.
    TooBig,
    /// The server said no in another way, with this reply.
    Refused(u32),
    /// The export has no room for one block.
    EmptyExport,
    /// The export's size can't be true.
    SizeTooLarge(u64),
    /// The export's block sizes can't be true, or can't be served.
    Geometry(BlockSizes),
    /// The export's name is longer than [`MAX_NAME`].
    NameTooLong,
    /// Another head has taken over the storage that the client has named.
    TakenOver(TakenOver),
    /// The server closed the connection.
    Closed,
    /// The server broke the protocol.
    Protocol(&'static str),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNbd => write!(f, "no NBD server answers there; check address and port"),
            Self::OldStyle => write!(f, "the NBD server is too old (oldstyle); update it"),
            Self::ExportUnknown => write!(f, "the server has no such export"),
            Self::Policy => write!(f, "the server's policy refuses the export"),
            Self::TlsRequired => write!(f, "the server requires TLS"),
            Self::BlockSizeRequired => write!(f, "the server requires block size negotiation"),
            Self::Shutdown => write!(f, "the server is shutting down"),
            Self::TooBig => write!(f, "the server can't take an export name that long"),
            Self::Refused(kind) => write!(f, "the server refused with reply {kind:#x}"),
            Self::EmptyExport => write!(f, "the export is empty"),
            Self::SizeTooLarge(size) => write!(f, "the server claims a size of {size} bytes"),
            Self::Geometry(b) => write!(
                f,
                "the server claims unusable block sizes (minimum {}, preferred {}, maximum {})",
                b.minimum, b.preferred, b.maximum
            ),
            Self::NameTooLong => write!(f, "the export's name has more than {MAX_NAME} bytes"),
            Self::TakenOver(taken_over) => taken_over.fmt(f),
            Self::Closed => write!(f, "the server closed the connection during the handshake"),
            Self::Protocol(what) => write!(f, "the server broke the protocol: {what}"),
        }
    }
}
