// SPDX-License-Identifier: GPL-2.0

//! The client's side of the handshake.
//!
//! One round trip after the greeting: the fence, structured replies and the export are asked for
//! together. That is safe, since a server handles options one after the other, and either answer to
//! one leaves the next valid. A server that does not know [`OPT_GO`] costs one more round trip, for
//! [`OPT_EXPORT_NAME`].

mod error;
mod fence;

pub use error::HandshakeError;
pub use fence::Fencing;

use super::{
    buffer::{
        drain,
        Gather,
        Output, //
    },
    fence::{
        parse_newest,
        Fence,
        FENCE_LEN,
        OPT_DST, //
    },
    option::*,
    DEFAULT_MAX_PAYLOAD,
    FLAG_HAS_FLAGS,
    FLAG_SEND_DF,
    MAX_DRAIN,
    MAX_NAME, //
};

/// Sector of the block layer, in bytes: nothing smaller is ever asked for.
const SECTOR: u32 = 512;

/// How many pieces of information about one export are waited for.
///
/// The protocol knows four; the rest is room for its future. A server that has more to say wants to
/// be waited for, not to be used.
const MAX_REPLIES: u32 = 64;

/// Bytes of a server's explanation that are kept.
const MESSAGE_LEN: usize = 96;

/// All that is ever sent: client flags, three options, a name and one information request.
const OUTPUT_LEN: usize =
    4 + (OPTION_LEN + FENCE_LEN) + OPTION_LEN + (OPTION_LEN + 4 + MAX_NAME + 4);

/// What the server said about the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Bytes; at least one block, at most `i64::MAX`.
    pub size: u64,
    /// `FLAG_*`; without [`FLAG_SEND_DF`] if there are no structured replies.
    pub flags: u16,
    /// Requests must be multiples of it, and aligned to it: a power of two in 512..=65536.
    ///
    /// A server that can do less than a sector, or names nothing, counts as 512.
    pub min_block: u32,
    /// Requests should be multiples of it: a power of two, at least [`Self::min_block`].
    pub preferred_block: u32,
    /// The longest read or write: a multiple of [`Self::min_block`].
    pub max_payload: u32,
    /// Reads are answered with structured replies.
    pub structured: bool,
}

impl ExportInfo {
    /// Sectors that can be reached with whole blocks.
    pub const fn sectors(&self) -> u64 {
        // `min_block` is a power of two, and at least a sector.
        (self.size & !(self.min_block as u64 - 1)) / SECTOR as u64
    }
}

/// What [`ClientHandshake::advance`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that belonged to the handshake; the rest belongs to the transmission
    /// phase.
    pub consumed: usize,
    /// The handshake is over, and all of its bytes were sent.
    pub done: Option<ExportInfo>,
}

/// What is being waited for.
#[derive(Clone, Copy)]
enum State {
    /// The first magic. All states but the skipping ones and the last gather a message.
    Init,
    /// The second magic.
    Style,
    /// The handshake flags.
    Flags,
    /// An option reply's header.
    Reply,
    /// The newest epoch that the server knows.
    Newest,
    /// The kind of an information, and then `left` bytes.
    Info { left: u32 },
    /// Size and transmission flags.
    Export,
    /// Block sizes.
    BlockSizes,
    /// Bytes without a meaning before the next option reply.
    Skip { left: u32 },
    /// Bytes without a meaning before [`OPT_EXPORT_NAME`] is sent.
    SkipToOldWay { left: u32 },
    /// The explanation of `error`.
    Message { left: u32, error: HandshakeError },
    /// The answer to [`OPT_EXPORT_NAME`].
    OldExport,
    /// Zeroes behind that answer.
    Zeroes { left: u32 },
    /// Nothing.
    Done(ExportInfo),
    /// Nothing.
    Failed(HandshakeError),
}

/// The client's side of one handshake.
///
/// A driver sends what [`Self::output`] has, reports it with [`Self::sent`], and hands all that
/// arrives to [`Self::advance`], until that says that it is done. If it never receives more than
/// [`Self::need`] bytes at a time, the bytes of the transmission phase stay where they are.
pub struct ClientHandshake {
    state: State,
    output: Output<OUTPUT_LEN>,
    input: Gather<REPLY_LEN>,
    name: [u8; MAX_NAME],
    name_len: usize,
    want_structured: bool,
    structured: bool,
    no_zeroes: bool,
    /// What to say with [`OPT_DST`].
    fence: Option<Fence>,
    /// The newest epoch that the server knows, if it knows the option.
    newest: Option<u64>,
    /// The option that the next reply must answer.
    asked: u32,
    replies: u32,
    export: Option<(u64, u16)>,
    blocks: Option<BlockSizes>,
    message: [u8; MESSAGE_LEN],
    message_len: usize,
}

impl ClientHandshake {
    /// Starts a handshake for the export called `export`.
    pub fn new(export: &str, want_structured: bool) -> Result<Self, HandshakeError> {
        let mut name = [0; MAX_NAME];
        name.get_mut(..export.len())
            .ok_or(HandshakeError::NameTooLong)?
            .copy_from_slice(export.as_bytes());
        Ok(Self {
            state: State::Init,
            output: Output::new(),
            input: Gather::new(8),
            name,
            name_len: export.len(),
            want_structured,
            structured: false,
            no_zeroes: false,
            fence: None,
            newest: None,
            asked: 0,
            replies: 0,
            export: None,
            blocks: None,
            message: [0; MESSAGE_LEN],
            message_len: 0,
        })
    }

    /// What is to be sent now.
    pub fn output(&self) -> &[u8] {
        self.output.pending()
    }

    /// The first `n` bytes of [`Self::output`] were sent.
    pub fn sent(&mut self, n: usize) {
        self.output.sent(n);
    }

    /// How many bytes [`Self::advance`] would take now; 0 when the handshake is over.
    pub fn need(&self) -> usize {
        match self.state {
            State::Done(_) | State::Failed(_) => 0,
            State::Skip { left }
            | State::SkipToOldWay { left }
            | State::Message { left, .. }
            | State::Zeroes { left } => left as usize,
            _ => self.input.missing(),
        }
    }

    /// The server's own words about why it refused, for humans: printable ASCII, empty if it said
    /// nothing.
    pub fn message(&self) -> &str {
        self.message
            .get(..self.message_len)
            .and_then(|text| core::str::from_utf8(text).ok())
            .unwrap_or("")
    }

    /// What it means that the server closed the connection now.
    pub fn closed(&self) -> HandshakeError {
        match self.state {
            State::Failed(error) | State::Message { error, .. } => error,
            // There is no other way to say this to one who asks the old way.
            State::OldExport => HandshakeError::ExportUnknown,
            _ => HandshakeError::Closed,
        }
    }

    /// Takes what arrived. After an error, the connection is of no more use.
    pub fn advance(&mut self, input: &[u8]) -> Result<Progress, HandshakeError> {
        let mut rest = input;
        let result = loop {
            match self.step(&mut rest) {
                Ok(true) => (),
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = result {
            self.state = State::Failed(error);
            return Err(error);
        }
        Ok(Progress {
            consumed: input.len().saturating_sub(rest.len()),
            done: match self.state {
                State::Done(info) => Some(info),
                _ => None,
            },
        })
    }

    /// Does one step; says whether another one is possible.
    fn step(&mut self, rest: &mut &[u8]) -> Result<bool, HandshakeError> {
        match &mut self.state {
            State::Done(_) => return Ok(false),
            State::Failed(error) => return Err(*error),
            State::Skip { left } => {
                if !drain(rest, left) {
                    return Ok(false);
                }
                self.gather(State::Reply, REPLY_LEN);
                return Ok(true);
            }
            State::SkipToOldWay { left } => {
                if !drain(rest, left) {
                    return Ok(false);
                }
                self.ask_old_way()?;
                return Ok(true);
            }
            State::Zeroes { left } => {
                if !drain(rest, left) {
                    return Ok(false);
                }
                self.finish()?;
                return Ok(true);
            }
            State::Message { left, error } => {
                let error = *error;
                let before = *rest;
                let complete = drain(rest, left);
                let taken = before.len().saturating_sub(rest.len());
                self.keep_message(before.get(..taken).unwrap_or(&[]));
                return if complete { Err(error) } else { Ok(false) };
            }
            _ => (),
        }
        if !self.input.take(rest) {
            return Ok(false);
        }
        match self.state {
            State::Init => {
                if u64::from_be_bytes(self.input.head()) != INIT_MAGIC {
                    return Err(HandshakeError::NotNbd);
                }
                self.gather(State::Style, 8);
            }
            State::Style => match u64::from_be_bytes(self.input.head()) {
                OPTION_MAGIC => self.gather(State::Flags, 2),
                OLDSTYLE_MAGIC => return Err(HandshakeError::OldStyle),
                _ => return Err(HandshakeError::NotNbd),
            },
            State::Flags => self.greet(u16::from_be_bytes(self.input.head()))?,
            State::Reply => self.reply()?,
            State::Newest => {
                let newest = parse_newest(self.input.head());
                self.newest = Some(newest.ok_or(HandshakeError::Protocol("a strange fence"))?);
                self.gather(State::Reply, REPLY_LEN);
            }
            State::Info { left } => match u16::from_be_bytes(self.input.head()) {
                INFO_EXPORT if left == 10 => self.gather(State::Export, EXPORT_LEN),
                INFO_BLOCK_SIZE if left == 12 => self.gather(State::BlockSizes, 12),
                INFO_EXPORT | INFO_BLOCK_SIZE => {
                    return Err(HandshakeError::Protocol("information of a wrong length"))
                }
                _ => self.state = State::Skip { left },
            },
            State::Export => {
                self.export = Some(parse_export(self.input.head()));
                self.gather(State::Reply, REPLY_LEN);
            }
            State::BlockSizes => {
                self.blocks = Some(BlockSizes::decode(self.input.head()));
                self.gather(State::Reply, REPLY_LEN);
            }
            State::OldExport => {
                self.export = Some(parse_export(self.input.head()));
                let left = if self.no_zeroes { 0 } else { ZEROES as u32 };
                self.state = State::Zeroes { left };
            }
            // Handled above.
            State::Skip { .. }
            | State::SkipToOldWay { .. }
            | State::Zeroes { .. }
            | State::Message { .. }
            | State::Done(_)
            | State::Failed(_) => (),
        }
        Ok(true)
    }

    /// Waits for `len` bytes.
    fn gather(&mut self, state: State, len: usize) {
        self.state = state;
        self.input.restart(len);
    }

    /// Queues bytes.
    ///
    /// There is room for all that is ever sent, unless the server answers what was not sent yet.
    fn push(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        self.output
            .push(bytes)
            .ok_or(HandshakeError::Protocol("an answer before the question"))
    }

    /// Queues the export's name.
    fn push_name(&mut self) -> Result<(), HandshakeError> {
        let name = self.name.get(..self.name_len).unwrap_or(&[]);
        self.output
            .push(name)
            .ok_or(HandshakeError::Protocol("an answer before the question"))
    }

    /// Answers the greeting.
    fn greet(&mut self, server: u16) -> Result<(), HandshakeError> {
        self.no_zeroes = server & NO_ZEROES != 0;
        // Flags that the server did not set must not be set, and unknown ones mean nothing.
        let flags = u32::from(server & (FIXED_NEWSTYLE | NO_ZEROES));
        self.push(&flags.to_be_bytes())?;
        if server & FIXED_NEWSTYLE == 0 {
            return self.ask_old_way();
        }
        if let Some(fence) = self.fence {
            self.push(&option(OPT_DST, FENCE_LEN as u32))?;
            self.push(&fence.encode())?;
        }
        if self.want_structured {
            self.push(&option(OPT_STRUCTURED_REPLY, 0))?;
        }
        self.asked = match self.fence {
            Some(_) => OPT_DST,
            None => self.behind_fence(),
        };
        // At most MAX_NAME, so the sums can't overflow.
        let name_len = self.name_len as u32;
        self.push(&option(OPT_GO, 4 + name_len + 4))?;
        self.push(&name_len.to_be_bytes())?;
        self.push_name()?;
        self.push(&1u16.to_be_bytes())?;
        self.push(&INFO_BLOCK_SIZE.to_be_bytes())?;
        self.gather(State::Reply, REPLY_LEN);
        Ok(())
    }

    /// Asks for the export with [`OPT_EXPORT_NAME`].
    fn ask_old_way(&mut self) -> Result<(), HandshakeError> {
        self.export = None;
        self.blocks = None;
        self.push(&option(OPT_EXPORT_NAME, self.name_len as u32))?;
        self.push_name()?;
        self.gather(State::OldExport, EXPORT_LEN);
        Ok(())
    }

    /// Handles an option reply's header.
    fn reply(&mut self) -> Result<(), HandshakeError> {
        let reply = OptionReply::decode(self.input.head()).ok_or(HandshakeError::Protocol(
            "an option reply with a wrong magic",
        ))?;
        if reply.option != self.asked {
            return Err(HandshakeError::Protocol(
                "a reply to an option that was not sent",
            ));
        }
        self.replies = self.replies.saturating_add(1);
        if self.replies > MAX_REPLIES {
            return Err(HandshakeError::Protocol("too many option replies"));
        }
        let left = reply.length;
        if left > MAX_DRAIN {
            return Err(HandshakeError::Protocol("an option reply that is too long"));
        }
        if reply.kind == REP_ACK && left != 0 {
            return Err(HandshakeError::Protocol("an acknowledgement with data"));
        }
        if self.asked == OPT_DST {
            return self.fence_reply(reply.kind, left);
        }
        if self.asked == OPT_STRUCTURED_REPLY {
            match reply.kind {
                REP_ACK => self.structured = true,
                // Whatever it is that forbids structured replies, the export may be there without
                // them.
                kind if kind & REP_ERROR_BIT != 0 => (),
                _ => {
                    return Err(HandshakeError::Protocol(
                        "a strange reply to structured replies",
                    ))
                }
            }
            self.asked = OPT_GO;
            self.state = State::Skip { left };
            return Ok(());
        }
        let error = match reply.kind {
            REP_ACK => {
                return match self.export {
                    Some(_) => self.finish(),
                    None => Err(HandshakeError::Protocol("an export without a size")),
                }
            }
            REP_INFO => {
                let left = left
                    .checked_sub(2)
                    .ok_or(HandshakeError::Protocol("information of a wrong length"))?;
                self.gather(State::Info { left }, 2);
                return Ok(());
            }
            REP_ERR_UNSUP => {
                self.state = State::SkipToOldWay { left };
                return Ok(());
            }
            REP_ERR_UNKNOWN => HandshakeError::ExportUnknown,
            REP_ERR_POLICY => HandshakeError::Policy,
            REP_ERR_TLS_REQD => HandshakeError::TlsRequired,
            REP_ERR_BLOCK_SIZE_REQD => HandshakeError::BlockSizeRequired,
            REP_ERR_SHUTDOWN => HandshakeError::Shutdown,
            REP_ERR_TOO_BIG => HandshakeError::TooBig,
            kind if kind & REP_ERROR_BIT != 0 => HandshakeError::Refused(kind),
            _ => return Err(HandshakeError::Protocol("an unknown kind of option reply")),
        };
        self.fail(error, left);
        Ok(())
    }

    /// Fails as soon as the server's explanation is there, or as much of it as is kept.
    fn fail(&mut self, error: HandshakeError, left: u32) {
        self.state = State::Message {
            left: left.min(MESSAGE_LEN as u32),
            error,
        };
    }

    /// Keeps a part of the server's explanation; nothing that could play with a terminal.
    fn keep_message(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(slot) = self.message.get_mut(self.message_len) {
                let printable = byte.is_ascii_graphic() || *byte == b' ';
                *slot = if printable { *byte } else { b'?' };
                self.message_len += 1;
            }
        }
    }

    /// Judges what the server said.
    fn finish(&mut self) -> Result<(), HandshakeError> {
        if !self.output.is_empty() {
            return Err(HandshakeError::Protocol("an answer before the question"));
        }
        let (size, mut flags) = self
            .export
            .ok_or(HandshakeError::Protocol("an export without a size"))?;
        if flags & FLAG_HAS_FLAGS == 0 {
            return Err(HandshakeError::Protocol("an export without valid flags"));
        }
        if !self.structured {
            // There are servers that set it nevertheless.
            flags &= !FLAG_SEND_DF;
        }
        if i64::try_from(size).is_err() {
            return Err(HandshakeError::SizeTooLarge(size));
        }
        let (min_block, preferred_block, max_payload) = geometry(self.blocks)?;
        let info = ExportInfo {
            size,
            flags,
            min_block,
            preferred_block,
            max_payload,
            structured: self.structured,
        };
        if info.sectors() == 0 {
            return Err(HandshakeError::EmptyExport);
        }
        self.state = State::Done(info);
        Ok(())
    }
}

/// Checks block sizes, and makes them fit for sectors: minimum, preferred, maximum.
fn geometry(blocks: Option<BlockSizes>) -> Result<(u32, u32, u32), HandshakeError> {
    let Some(blocks) = blocks else {
        return Ok((SECTOR, 4096, DEFAULT_MAX_PAYLOAD));
    };
    let error = HandshakeError::Geometry(blocks);
    if !blocks.minimum.is_power_of_two()
        || blocks.minimum > 65536
        || !blocks.preferred.is_power_of_two()
        || blocks.preferred < blocks.minimum
    {
        return Err(error);
    }
    let min_block = blocks.minimum.max(SECTOR);
    // A maximum that is no multiple breaks the protocol, but the part of it that is one can be
    // used.
    let max_payload = blocks.maximum.min(i32::MAX as u32) & !(min_block - 1);
    if max_payload == 0 {
        return Err(error);
    }
    Ok((min_block, blocks.preferred.max(min_block), max_payload))
}
