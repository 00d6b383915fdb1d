// SPDX-License-Identifier: GPL-2.0

//! The server's judgement of a request: what is to be done, or which error it gets.
//!
//! Whatever a client sends, the stream stays in step: every verdict says how many bytes of payload
//! follow the header. Only a write that is too long to be thrown away costs the connection.

use super::{
    option::BlockSizes,
    wire::RequestHeader,
    Command,
    NbdError,
    CMD_FLAG_DF,
    CMD_FLAG_FAST_ZERO,
    CMD_FLAG_FUA,
    CMD_FLAG_NO_HOLE,
    DEFAULT_MAX_PAYLOAD,
    FLAG_READ_ONLY,
    FLAG_SEND_CACHE,
    FLAG_SEND_DF,
    FLAG_SEND_FAST_ZERO,
    FLAG_SEND_FLUSH,
    FLAG_SEND_FUA,
    FLAG_SEND_TRIM,
    FLAG_SEND_WRITE_ZEROES, //
};

/// What a client was told about the export, and has to keep to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes.
    pub size: u64,
    /// `FLAG_*`.
    pub flags: u16,
    /// Block sizes; [`BlockSizes::minimum`] is a power of two.
    pub blocks: BlockSizes,
}

/// A range of the export, in bytes: not empty, aligned, within the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Read. One data chunk is always an allowed answer, so [`CMD_FLAG_DF`] needs no mention.
    Read(Range),
    /// Write the payload: [`Range::length`] bytes, which follow the header.
    Write {
        /// Where.
        range: Range,
        /// Reply after it is on stable storage.
        fua: bool,
    },
    /// Bring all writes that were replied to onto stable storage.
    Flush,
    /// Forget.
    Trim {
        /// Where.
        range: Range,
        /// Reply after it is on stable storage.
        fua: bool,
    },
    /// Write zeroes.
    WriteZeroes {
        /// Where.
        range: Range,
        /// Reply after it is on stable storage.
        fua: bool,
        /// Allocate, make no hole.
        no_hole: bool,
        /// Fail with [`NbdError::NotSup`] if it is not faster than writing.
        fast: bool,
    },
    /// Read ahead; doing nothing is allowed.
    Cache(Range),
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it, then reply.
    Serve(Order),
    /// Throw `payload` bytes away, then reply with `error`.
    Refuse {
        /// The error.
        error: NbdError,
        /// Bytes that follow the header.
        payload: u32,
    },
    /// Finish what is under way, then close the connection. There is no reply.
    Disconnect,
    /// The write is too long to be thrown away; close the connection.
    TooLong,
}

/// Judges a request.
pub fn judge(header: &RequestHeader, limits: &Limits) -> Verdict {
    let command = Command::try_from(header.command);
    let payload = match command {
        Ok(Command::Disconnect) => return Verdict::Disconnect,
        Ok(Command::Write) if header.length > DEFAULT_MAX_PAYLOAD => return Verdict::TooLong,
        Ok(Command::Write) => header.length,
        _ => 0,
    };
    let order = command
        .map_err(|_| NbdError::Inval)
        .and_then(|command| order(command, header, limits));
    match order {
        Ok(order) => Verdict::Serve(order),
        Err(error) => Verdict::Refuse { error, payload },
    }
}

/// Finds out what is to be done.
fn order(command: Command, header: &RequestHeader, limits: &Limits) -> Result<Order, NbdError> {
    let offered = |flag: u16| limits.flags & flag != 0;
    let asked = |flag: u16| header.flags & flag != 0;

    let known = match command {
        Command::Read if offered(FLAG_SEND_DF) => CMD_FLAG_DF,
        Command::WriteZeroes if offered(FLAG_SEND_FAST_ZERO) => {
            CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO
        }
        Command::WriteZeroes => CMD_FLAG_NO_HOLE,
        _ => 0,
    };
    // There are clients that set it on everything, reads included.
    let known = known
        | if offered(FLAG_SEND_FUA) {
            CMD_FLAG_FUA
        } else {
            0
        };
    if asked(!known) {
        return Err(NbdError::Inval);
    }
    let writes = matches!(
        command,
        Command::Write | Command::Trim | Command::WriteZeroes
    );
    if writes && offered(FLAG_READ_ONLY) {
        return Err(NbdError::Perm);
    }
    let needs = match command {
        Command::Flush => FLAG_SEND_FLUSH,
        Command::Trim => FLAG_SEND_TRIM,
        Command::WriteZeroes => FLAG_SEND_WRITE_ZEROES,
        Command::Cache => FLAG_SEND_CACHE,
        _ => 0,
    };
    if limits.flags & needs != needs {
        return Err(NbdError::Inval);
    }
    if command == Command::Flush {
        return if header.offset == 0 && header.length == 0 {
            Ok(Order::Flush)
        } else {
            Err(NbdError::Inval)
        };
    }

    let carries = matches!(command, Command::Read | Command::Write);
    let block = u64::from(limits.blocks.minimum);
    let aligned = (header.offset | u64::from(header.length)) & block.saturating_sub(1) == 0;
    let longest = limits.blocks.maximum.min(DEFAULT_MAX_PAYLOAD);
    if header.length == 0 || !aligned || (carries && header.length > longest) {
        return Err(NbdError::Inval);
    }
    let end = header.offset.checked_add(u64::from(header.length));
    if end.is_none_or(|end| end > limits.size) {
        return Err(match command {
            Command::Write | Command::WriteZeroes => NbdError::NoSpc,
            _ => NbdError::Inval,
        });
    }
    let range = Range {
        offset: header.offset,
        length: header.length,
    };
    let fua = asked(CMD_FLAG_FUA);
    Ok(match command {
        Command::Read => Order::Read(range),
        Command::Write => Order::Write { range, fua },
        Command::Trim => Order::Trim { range, fua },
        Command::WriteZeroes => Order::WriteZeroes {
            range,
            fua,
            no_hole: asked(CMD_FLAG_NO_HOLE),
            fast: asked(CMD_FLAG_FAST_ZERO),
        },
        Command::Cache => Order::Cache(range),
        Command::Flush | Command::Disconnect | Command::BlockStatus => return Err(NbdError::Inval),
    })
}
