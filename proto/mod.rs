// SPDX-License-Identifier: GPL-2.0

//! NBD, without input or output.
//!
//! Nothing here knows a socket: drivers hand in bytes that arrived and take bytes to be sent, at
//! any fragmentation. So the same code runs in the kernel module and under the tests and fuzzers of
//! the host. It allocates nothing, its memory has fixed bounds, and no input can make it panic.
//!
//! - [`wire`]: what requests and replies look like.
//! - [`option`]: what the handshake's messages look like.
//! - [`client`], [`server`]: the two sides of the handshake; [`fence`]: our own option in it.
//! - [`request`]: the server's judgement of a request.
//! - [`reply`]: the client's parser of replies; [`pending`]: what a reply may do to its request.
//!
//! The protocol: <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

use core::fmt;

mod buffer;
pub mod client;
pub mod fence;
pub mod option;
pub mod pending;
pub mod reply;
pub mod request;
pub mod server;
pub mod wire;

/// Transmission flag: the flags are valid; always set.
pub const FLAG_HAS_FLAGS: u16 = 1 << 0;
/// Transmission flag: writes fail.
pub const FLAG_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: [`Command::Flush`] works.
pub const FLAG_SEND_FLUSH: u16 = 1 << 2;
/// Transmission flag: [`CMD_FLAG_FUA`] works.
pub const FLAG_SEND_FUA: u16 = 1 << 3;
/// Transmission flag: seeking costs.
pub const FLAG_ROTATIONAL: u16 = 1 << 4;
/// Transmission flag: [`Command::Trim`] works.
pub const FLAG_SEND_TRIM: u16 = 1 << 5;
/// Transmission flag: [`Command::WriteZeroes`] works.
pub const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: [`CMD_FLAG_DF`] works; only with structured replies.
pub const FLAG_SEND_DF: u16 = 1 << 7;
/// Transmission flag: a flush on one connection covers the writes of all.
pub const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: [`Command::Cache`] works.
pub const FLAG_SEND_CACHE: u16 = 1 << 10;
/// Transmission flag: [`CMD_FLAG_FAST_ZERO`] works.
pub const FLAG_SEND_FAST_ZERO: u16 = 1 << 11;

/// Command flag: reply after the data is on stable storage.
pub const CMD_FLAG_FUA: u16 = 1 << 0;
/// Command flag of write-zeroes: allocate, make no hole.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Command flag of read: reply with one chunk.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag of block-status: one extent is enough.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Command flag of write-zeroes: fail if it is not faster than writing.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

/// The longest string that the protocol allows.
pub const MAX_STRING: u32 = 4096;

/// The longest export name that this implementation uses: the ioctl ABI has no room for more.
pub const MAX_NAME: usize = 256;

/// The longest payload that a peer must expect when nothing else was negotiated (the protocol's
/// number).
pub const DEFAULT_MAX_PAYLOAD: u32 = 32 << 20;

/// The longest option or option reply that is read to its end in order to stay in step.
///
/// Sixteen times the longest string: nothing legitimate is longer, and what is costs the peer its
/// connection instead of costing us the reading.
pub const MAX_DRAIN: u32 = 64 << 10;

const _: () = assert!(MAX_DRAIN > 2 * MAX_STRING && MAX_NAME < MAX_STRING as usize);

/// What a client can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Read.
    Read = 0,
    /// Write; the data follow the header.
    Write = 1,
    /// The client goes; there is no reply.
    Disconnect = 2,
    /// Bring all writes that were replied to onto stable storage.
    Flush = 3,
    /// Forget.
    Trim = 4,
    /// Read ahead.
    Cache = 5,
    /// Write zeroes.
    WriteZeroes = 6,
    /// Tell what is allocated.
    BlockStatus = 7,
}

/// A command's number that has no [`Command`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCommand(pub u16);

impl TryFrom<u16> for Command {
    type Error = UnknownCommand;

    fn try_from(number: u16) -> Result<Self, UnknownCommand> {
        Ok(match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            _ => return Err(UnknownCommand(number)),
        })
    }
}

/// Why a server failed a request.
///
/// The protocol has these eight and no more; their numbers are those of Linux on most machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NbdError {
    /// The export is read-only.
    Perm = 1,
    /// The medium failed.
    Io = 5,
    /// The server has no memory.
    NoMem = 12,
    /// The request is malformed.
    Inval = 22,
    /// The export is full, or the request is behind its end.
    NoSpc = 28,
    /// The reply does not fit into one chunk.
    Overflow = 75,
    /// The server can't, or not fast.
    NotSup = 95,
    /// The server is going down.
    Shutdown = 108,
}

impl NbdError {
    /// The number on the wire.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// What a number on the wire means: 0 is success, and what the protocol does not know is
    /// `EINVAL`.
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => None,
            1 => Some(Self::Perm),
            5 => Some(Self::Io),
            12 => Some(Self::NoMem),
            28 => Some(Self::NoSpc),
            75 => Some(Self::Overflow),
            95 => Some(Self::NotSup),
            108 => Some(Self::Shutdown),
            _ => Some(Self::Inval),
        }
    }
}

impl fmt::Display for NbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perm => "operation not permitted",
            Self::Io => "input/output error",
            Self::NoMem => "the server is out of memory",
            Self::Inval => "invalid request",
            Self::NoSpc => "no space left",
            Self::Overflow => "the reply is too large",
            Self::NotSup => "not supported",
            Self::Shutdown => "the server is shutting down",
        })
    }
}
