// SPDX-License-Identifier: GPL-2.0

//! What the handshake's messages look like.

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

/// The first bytes of every NBD server: `NBDMAGIC`.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// The next bytes of a newstyle server, and the start of every option: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The next bytes of an oldstyle server.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Start of a reply to an option.
pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flag, of both sides: fixed newstyle.
pub const FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag, of both sides: no zeroes behind the answer to [`OPT_EXPORT_NAME`].
pub const NO_ZEROES: u16 = 1 << 1;

/// Bytes of a server's greeting.
pub const GREETING_LEN: usize = 18;
/// Bytes of an option's header.
pub const OPTION_LEN: usize = 16;
/// Bytes of an option reply's header.
pub const REPLY_LEN: usize = 20;
/// Bytes of the answer to [`OPT_EXPORT_NAME`], without zeroes.
pub const EXPORT_LEN: usize = 10;
/// Zeroes behind the answer to [`OPT_EXPORT_NAME`].
pub const ZEROES: usize = 124;

/// Option: choose an export the old way; no error can be told.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: go away in peace.
pub const OPT_ABORT: u32 = 2;
/// Option: list the exports.
pub const OPT_LIST: u32 = 3;
/// Option: change to TLS.
pub const OPT_STARTTLS: u32 = 5;
/// Option: describe an export.
pub const OPT_INFO: u32 = 6;
/// Option: describe an export and choose it.
pub const OPT_GO: u32 = 7;
/// Option: structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;

/// Reply: done.
pub const REP_ACK: u32 = 1;
/// Reply: one export's name.
pub const REP_SERVER: u32 = 2;
/// Reply: one thing to know of an export.
pub const REP_INFO: u32 = 3;
/// Every reply with this bit is an error.
pub const REP_ERROR_BIT: u32 = 1 << 31;
/// Reply: unknown option.
pub const REP_ERR_UNSUP: u32 = REP_ERROR_BIT | 1;
/// Reply: forbidden.
pub const REP_ERR_POLICY: u32 = REP_ERROR_BIT | 2;
/// Reply: malformed option.
pub const REP_ERR_INVALID: u32 = REP_ERROR_BIT | 3;
/// Reply: not on this platform.
pub const REP_ERR_PLATFORM: u32 = REP_ERROR_BIT | 4;
/// Reply: not without TLS.
pub const REP_ERR_TLS_REQD: u32 = REP_ERROR_BIT | 5;
/// Reply: no such export.
pub const REP_ERR_UNKNOWN: u32 = REP_ERROR_BIT | 6;
/// Reply: the server is going down.
pub const REP_ERR_SHUTDOWN: u32 = REP_ERROR_BIT | 7;
/// Reply: not without [`INFO_BLOCK_SIZE`].
pub const REP_ERR_BLOCK_SIZE_REQD: u32 = REP_ERROR_BIT | 8;
/// Reply: the option is too long.
pub const REP_ERR_TOO_BIG: u32 = REP_ERROR_BIT | 9;

/// Information: size and transmission flags.
pub const INFO_EXPORT: u16 = 0;
/// Information: the export's own name.
pub const INFO_NAME: u16 = 1;
/// Information: a text for humans.
pub const INFO_DESCRIPTION: u16 = 2;
/// Information: block sizes.
pub const INFO_BLOCK_SIZE: u16 = 3;

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawGreeting {
    init: U64,
    option: U64,
    flags: U16,
}

/// A newstyle server's first bytes.
pub fn greeting(flags: u16) -> [u8; GREETING_LEN] {
    transmute!(RawGreeting {
        init: U64::new(INIT_MAGIC),
        option: U64::new(OPTION_MAGIC),
        flags: U16::new(flags),
    })
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawOption {
    magic: U64,
    option: U32,
    length: U32,
}

/// Start of an option.
pub fn option(option: u32, length: u32) -> [u8; OPTION_LEN] {
    transmute!(RawOption {
        magic: U64::new(OPTION_MAGIC),
        option: U32::new(option),
        length: U32::new(length),
    })
}

/// An option's number and length; `None` for the wrong magic.
pub fn parse_option(bytes: [u8; OPTION_LEN]) -> Option<(u32, u32)> {
    let raw: RawOption = transmute!(bytes);
    (raw.magic.get() == OPTION_MAGIC).then(|| (raw.option.get(), raw.length.get()))
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawReply {
    magic: U64,
    option: U32,
    kind: U32,
    length: U32,
}

/// A reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReply {
    /// `OPT_*`.
    pub option: u32,
    /// `REP_*`.
    pub kind: u32,
    /// Bytes behind this header.
    pub length: u32,
}

impl OptionReply {
    /// Gives its bytes.
    pub fn encode(&self) -> [u8; REPLY_LEN] {
        transmute!(RawReply {
            magic: U64::new(REPLY_MAGIC),
            option: U32::new(self.option),
            kind: U32::new(self.kind),
            length: U32::new(self.length),
        })
    }

    /// Understands its bytes; `None` for the wrong magic.
    pub fn decode(bytes: [u8; REPLY_LEN]) -> Option<Self> {
        let raw: RawReply = transmute!(bytes);
        (raw.magic.get() == REPLY_MAGIC).then(|| Self {
            option: raw.option.get(),
            kind: raw.kind.get(),
            length: raw.length.get(),
        })
    }
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawExport {
    size: U64,
    flags: U16,
}

/// Size and transmission flags of an export.
pub fn export(size: u64, flags: u16) -> [u8; EXPORT_LEN] {
    transmute!(RawExport {
        size: U64::new(size),
        flags: U16::new(flags),
    })
}

/// Understands [`export`].
pub fn parse_export(bytes: [u8; EXPORT_LEN]) -> (u64, u16) {
    let raw: RawExport = transmute!(bytes);
    (raw.size.get(), raw.flags.get())
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawBlockSizes {
    minimum: U32,
    preferred: U32,
    maximum: U32,
}

/// Block sizes of an export, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Requests must be multiples of it, and be aligned to it.
    pub minimum: u32,
    /// Requests should be.
    pub preferred: u32,
    /// The longest payload.
    pub maximum: u32,
}

impl BlockSizes {
    /// Gives their bytes.
    pub fn encode(&self) -> [u8; 12] {
        transmute!(RawBlockSizes {
            minimum: U32::new(self.minimum),
            preferred: U32::new(self.preferred),
            maximum: U32::new(self.maximum),
        })
    }

    /// Understands their bytes.
    pub fn decode(bytes: [u8; 12]) -> Self {
        let raw: RawBlockSizes = transmute!(bytes);
        Self {
            minimum: raw.minimum.get(),
            preferred: raw.preferred.get(),
            maximum: raw.maximum.get(),
        }
    }
}
