// SPDX-License-Identifier: GPL-2.0

//! What requests and replies look like.

use zerocopy::{
    big_endian::{
        U16,
        U32,
        U64, //
    },
    transmute, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes, //
};

use super::{
    Command,
    NbdError, //
};

/// Start of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Bytes of a request's header.
pub const REQUEST_LEN: usize = 28;
/// Bytes of a simple reply's header.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// Bytes of a chunk's header.
pub const CHUNK_LEN: usize = 20;
/// Bytes of a data chunk before its data.
pub const DATA_CHUNK_LEN: usize = 28;
/// Bytes of a hole chunk.
pub const HOLE_CHUNK_LEN: usize = 32;
/// Bytes of an error chunk without a message.
pub const ERROR_CHUNK_LEN: usize = 26;

/// Chunk flag: the reply is complete.
pub const CHUNK_DONE: u16 = 1 << 0;

/// Chunk kind: nothing but its flag.
pub const CHUNK_NONE: u16 = 0;
/// Chunk kind: data at an offset.
pub const CHUNK_OFFSET_DATA: u16 = 1;
/// Chunk kind: zeroes at an offset.
pub const CHUNK_OFFSET_HOLE: u16 = 2;
/// Chunk kind: what is allocated.
pub const CHUNK_BLOCK_STATUS: u16 = 5;
/// Every chunk kind with this bit is an error.
pub const CHUNK_ERROR_BIT: u16 = 1 << 15;
/// Chunk kind: the request failed.
pub const CHUNK_ERROR: u16 = CHUNK_ERROR_BIT | 1;
/// Chunk kind: the request failed at an offset.
pub const CHUNK_ERROR_OFFSET: u16 = CHUNK_ERROR_BIT | 2;

/// The first bytes are not what must stand there: the stream is out of step, or the peer is no NBD
/// peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMagic(pub u32);

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawRequest {
    magic: U32,
    flags: U16,
    command: U16,
    cookie: U64,
    offset: U64,
    length: U32,
}

/// A request.
///
/// [`Self::command`] is the number on the wire, since a server has to answer unknown ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// `CMD_FLAG_*`.
    pub flags: u16,
    /// See [`Command`].
    pub command: u16,
    /// The reply carries it back; nobody but the client gives it a meaning.
    pub cookie: u64,
    /// Bytes from the export's start.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

impl RequestHeader {
    /// Makes a request.
    pub const fn new(command: Command, flags: u16, cookie: u64, offset: u64, length: u32) -> Self {
        Self {
            flags,
            command: command as u16,
            cookie,
            offset,
            length,
        }
    }

    /// Gives its bytes.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        transmute!(RawRequest {
            magic: U32::new(REQUEST_MAGIC),
            flags: U16::new(self.flags),
            command: U16::new(self.command),
            cookie: U64::new(self.cookie),
            offset: U64::new(self.offset),
            length: U32::new(self.length),
        })
    }

    /// Understands its bytes.
    pub fn decode(bytes: &[u8; REQUEST_LEN]) -> Result<Self, BadMagic> {
        let raw: RawRequest = transmute!(*bytes);
        if raw.magic.get() != REQUEST_MAGIC {
            return Err(BadMagic(raw.magic.get()));
        }
        Ok(Self {
            flags: raw.flags.get(),
            command: raw.command.get(),
            cookie: raw.cookie.get(),
            offset: raw.offset.get(),
            length: raw.length.get(),
        })
    }
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawSimple {
    magic: U32,
    error: U32,
    cookie: U64,
}

/// A simple reply; after a read that succeeded, the data follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// The request's.
    pub cookie: u64,
    /// `None`: it succeeded.
    pub error: Option<NbdError>,
}

impl SimpleReply {
    /// Gives its bytes.
    pub fn encode(&self) -> [u8; SIMPLE_REPLY_LEN] {
        transmute!(RawSimple {
            magic: U32::new(SIMPLE_REPLY_MAGIC),
            error: U32::new(self.error.map_or(0, NbdError::code)),
            cookie: U64::new(self.cookie),
        })
    }

    /// Understands its bytes.
    pub fn decode(bytes: &[u8; SIMPLE_REPLY_LEN]) -> Result<Self, BadMagic> {
        let raw: RawSimple = transmute!(*bytes);
        if raw.magic.get() != SIMPLE_REPLY_MAGIC {
            return Err(BadMagic(raw.magic.get()));
        }
        Ok(Self {
            cookie: raw.cookie.get(),
            error: NbdError::from_code(raw.error.get()),
        })
    }
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawChunk {
    magic: U32,
    flags: U16,
    kind: U16,
    cookie: U64,
    length: U32,
}

/// Start of a chunk of a structured reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// [`CHUNK_DONE`] or nothing.
    pub flags: u16,
    /// `CHUNK_*`.
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// Bytes behind this header.
    pub length: u32,
}

impl ChunkHeader {
    const fn new(last: bool, kind: u16, cookie: u64, length: u32) -> Self {
        Self {
            flags: if last { CHUNK_DONE } else { 0 },
            kind,
            cookie,
            length,
        }
    }

    fn raw(&self) -> RawChunk {
        RawChunk {
            magic: U32::new(CHUNK_MAGIC),
            flags: U16::new(self.flags),
            kind: U16::new(self.kind),
            cookie: U64::new(self.cookie),
            length: U32::new(self.length),
        }
    }

    /// Gives its bytes.
    pub fn encode(&self) -> [u8; CHUNK_LEN] {
        transmute!(self.raw())
    }

    /// Understands its bytes.
    pub fn decode(bytes: &[u8; CHUNK_LEN]) -> Result<Self, BadMagic> {
        let raw: RawChunk = transmute!(*bytes);
        if raw.magic.get() != CHUNK_MAGIC {
            return Err(BadMagic(raw.magic.get()));
        }
        Ok(Self {
            flags: raw.flags.get(),
            kind: raw.kind.get(),
            cookie: raw.cookie.get(),
            length: raw.length.get(),
        })
    }
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawData {
    chunk: RawChunk,
    offset: U64,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawHole {
    chunk: RawChunk,
    offset: U64,
    length: U32,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawError {
    chunk: RawChunk,
    error: U32,
    message_length: U16,
}

/// What stands before the `length` bytes that were read at `offset`.
///
/// `length` is at most [`super::DEFAULT_MAX_PAYLOAD`] for every request that [`super::request`]
/// lets pass; the chunk's own length has no room for the last 8 of all `u32`s.
pub fn data_chunk(cookie: u64, offset: u64, length: u32, last: bool) -> [u8; DATA_CHUNK_LEN] {
    transmute!(RawData {
        chunk: ChunkHeader::new(last, CHUNK_OFFSET_DATA, cookie, length.saturating_add(8)).raw(),
        offset: U64::new(offset),
    })
}

/// A chunk that says: the `length` bytes at `offset` are zeroes.
pub fn hole_chunk(cookie: u64, offset: u64, length: u32, last: bool) -> [u8; HOLE_CHUNK_LEN] {
    transmute!(RawHole {
        chunk: ChunkHeader::new(last, CHUNK_OFFSET_HOLE, cookie, 12).raw(),
        offset: U64::new(offset),
        length: U32::new(length),
    })
}

/// The chunk that ends a reply and says no more.
pub fn done_chunk(cookie: u64) -> [u8; CHUNK_LEN] {
    ChunkHeader::new(true, CHUNK_NONE, cookie, 0).encode()
}

/// The chunk that ends a reply with an error.
pub fn error_chunk(cookie: u64, error: NbdError) -> [u8; ERROR_CHUNK_LEN] {
    transmute!(RawError {
        chunk: ChunkHeader::new(true, CHUNK_ERROR, cookie, 6).raw(),
        error: U32::new(error.code()),
        message_length: U16::new(0),
    })
}

/// The offset of a data chunk, from the bytes before its data.
pub(super) fn data_offset(bytes: [u8; DATA_CHUNK_LEN]) -> u64 {
    let raw: RawData = transmute!(bytes);
    raw.offset.get()
}

/// The offset and length of a hole chunk.
pub(super) fn hole_range(bytes: [u8; HOLE_CHUNK_LEN]) -> (u64, u32) {
    let raw: RawHole = transmute!(bytes);
    (raw.offset.get(), raw.length.get())
}

/// The error's number and the message's length, from the fixed bytes of an error chunk.
pub(super) fn error_fields(bytes: [u8; ERROR_CHUNK_LEN]) -> (u32, u16) {
    let raw: RawError = transmute!(bytes);
    (raw.error.get(), raw.message_length.get())
}
