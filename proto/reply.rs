// SPDX-License-Identifier: GPL-2.0

//! The client's parser of replies.
//!
//! It sees headers only. After an event that announces data, the driver receives these itself,
//! straight into the pages that were asked for, and comes back with the next header. What an event
//! may do to the request that its cookie names is decided by [`super::pending::Pending`].

use core::fmt;

use super::{
    buffer::{
        drain,
        Gather, //
    },
    wire::*,
    NbdError,
    MAX_DRAIN,
    MAX_STRING, //
};

/// How a server broke the protocol. The connection must end; its requests may be repeated on
/// another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// A reply starts with something else.
    BadMagic(u32),
    /// A structured reply that was not negotiated.
    NotNegotiated,
    /// A chunk of this kind was not asked for.
    UnknownChunk(u16),
    /// A chunk of this kind can't have this length.
    ChunkLength {
        /// Its kind.
        kind: u16,
        /// Its length.
        length: u32,
    },
    /// A chunk that must be the last one is not marked as such.
    NotLast,
    /// An error that is none.
    ErrorZero,
    /// A simple reply to a read, where structured ones were negotiated.
    SimpleRead,
    /// Data for a request that is no read.
    UnexpectedData,
    /// Data outside of what was asked for.
    OutOfRange,
    /// Data that were sent twice.
    Overlap,
    /// The reply is said to be complete, but data are missing.
    Short,
    /// The data come in more pieces at once than are kept track of.
    TooFragmented,
    /// A reply to a request that was replied to.
    AfterEnd,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic(magic) => write!(f, "a reply with a wrong magic ({magic:#010x})"),
            Self::NotNegotiated => write!(f, "a structured reply that was not negotiated"),
            Self::UnknownChunk(kind) => write!(f, "an unexpected chunk of kind {kind}"),
            Self::ChunkLength { kind, length } => {
                write!(f, "a chunk of kind {kind} with {length} bytes")
            }
            Self::NotLast => write!(f, "an empty chunk that does not end its reply"),
            Self::ErrorZero => write!(f, "an error chunk without an error"),
            Self::SimpleRead => write!(f, "a simple reply to a read"),
            Self::UnexpectedData => write!(f, "data in the reply to a request that is no read"),
            Self::OutOfRange => write!(f, "data outside of the range that was asked for"),
            Self::Overlap => write!(f, "data that were sent already"),
            Self::Short => write!(f, "a reply that ends before all data were sent"),
            Self::TooFragmented => write!(f, "a reply in too many pieces out of order"),
            Self::AfterEnd => write!(f, "a second reply to one request"),
        }
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A simple reply; if it is the success of a read, the data that were asked for follow.
    Simple {
        /// The request's.
        cookie: u64,
        /// `None`: it succeeded.
        error: Option<NbdError>,
    },
    /// `length` bytes of data follow.
    Data {
        /// The request's.
        cookie: u64,
        /// Where they lie in the export; `offset + length` does not overflow.
        offset: u64,
        /// Their number; not 0.
        length: u32,
        /// They complete the reply.
        last: bool,
    },
    /// A range reads as zeroes; nothing follows.
    Hole {
        /// The request's.
        cookie: u64,
        /// Where it lies in the export; `offset + length` does not overflow.
        offset: u64,
        /// Its number of bytes; not 0.
        length: u32,
        /// It completes the reply.
        last: bool,
    },
    /// The reply is complete.
    Done {
        /// The request's.
        cookie: u64,
    },
    /// The request failed; nothing follows.
    Error {
        /// The request's.
        cookie: u64,
        /// The error.
        error: NbdError,
        /// Where in the export, if the server knows.
        offset: Option<u64>,
        /// It completes the reply.
        last: bool,
    },
}

impl Event {
    /// The request that it belongs to.
    pub const fn cookie(&self) -> u64 {
        match *self {
            Self::Simple { cookie, .. }
            | Self::Data { cookie, .. }
            | Self::Hole { cookie, .. }
            | Self::Done { cookie }
            | Self::Error { cookie, .. } => cookie,
        }
    }
}

/// What [`ReplyParser::feed`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// Bytes taken from the front of the input.
    pub consumed: usize,
    /// A complete header; `None`: more input is needed.
    pub event: Option<Event>,
}

/// What is being waited for.
#[derive(Clone, Copy)]
enum State {
    /// What simple replies and chunks have in common: the length of the former.
    Head,
    /// The rest of a chunk's header.
    Chunk,
    /// A data chunk's offset.
    Data(ChunkHeader),
    /// A hole chunk's offset and length.
    Hole(ChunkHeader),
    /// An error chunk's fixed part.
    Error(ChunkHeader),
    /// The error's message, `left` bytes; then, if there is one, the offset, and then `tail` bytes.
    Message {
        chunk: ChunkHeader,
        error: NbdError,
        left: u32,
        offset: bool,
        tail: u32,
    },
    /// The error's offset, and then `tail` bytes.
    Offset {
        chunk: ChunkHeader,
        error: NbdError,
        tail: u32,
    },
    /// Bytes without a meaning, and then the event.
    Tail { left: u32, event: Event },
    /// Nothing.
    Failed(ProtocolError),
}

/// The parser of one connection's replies.
pub struct ReplyParser {
    state: State,
    input: Gather<HOLE_CHUNK_LEN>,
    structured: bool,
}

impl ReplyParser {
    /// Starts with a connection's first reply. `structured`: structured replies were negotiated.
    pub const fn new(structured: bool) -> Self {
        Self {
            state: State::Head,
            input: Gather::new(SIMPLE_REPLY_LEN),
            structured,
        }
    }

    /// How many bytes [`Self::feed`] can take now without taking what is not its own: at least 1.
    pub fn need(&self) -> usize {
        match self.state {
            State::Message { left, .. } | State::Tail { left, .. } => left as usize,
            State::Failed(_) => 1,
            _ => self.input.missing(),
        }
    }

    /// Whether the input may end here: between two replies, or between a header and its data.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Head) && self.input.all().is_empty()
    }

    /// Takes bytes up to the end of the next header. After an error, the connection is of no more
    /// use.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed, ProtocolError> {
        let mut rest = input;
        let event = loop {
            match self.step(&mut rest) {
                Ok(Step::Again) => (),
                Ok(Step::Starved) => break None,
                Ok(Step::Complete(event)) => {
                    self.gather(State::Head, SIMPLE_REPLY_LEN);
                    break Some(event);
                }
                Err(error) => {
                    self.state = State::Failed(error);
                    return Err(error);
                }
            }
        };
        Ok(Fed {
            consumed: input.len().saturating_sub(rest.len()),
            event,
        })
    }

    /// Starts to wait for `len` new bytes.
    fn gather(&mut self, state: State, len: usize) {
        self.state = state;
        self.input.restart(len);
    }

    /// Starts to wait for the header's next bytes, `len` in all.
    fn extend(&mut self, state: State, more: usize) -> Step {
        self.state = state;
        self.input.extend(more);
        Step::Again
    }

    fn step(&mut self, rest: &mut &[u8]) -> Result<Step, ProtocolError> {
        match &mut self.state {
            State::Failed(error) => return Err(*error),
            State::Tail { left, event } => {
                return Ok(if drain(rest, left) {
                    Step::Complete(*event)
                } else {
                    Step::Starved
                });
            }
            State::Message {
                chunk,
                error,
                left,
                offset,
                tail,
            } => {
                if !drain(rest, left) {
                    return Ok(Step::Starved);
                }
                let (chunk, error, tail) = (*chunk, *error, *tail);
                if *offset {
                    self.gather(State::Offset { chunk, error, tail }, 8);
                } else {
                    self.state = State::Tail {
                        left: tail,
                        event: failed(&chunk, error, None),
                    };
                }
                return Ok(Step::Again);
            }
            _ => (),
        }
        if !self.input.take(rest) {
            return Ok(Step::Starved);
        }
        match self.state {
            State::Head => self.head(),
            State::Chunk => self.chunk(),
            State::Data(chunk) => Ok(Step::Complete(Event::Data {
                cookie: chunk.cookie,
                offset: data_offset(self.input.head()),
                // At least 9, checked when the state was entered.
                length: chunk.length.saturating_sub(8),
                last: is_last(&chunk),
            })
            .in_range()?),
            State::Hole(chunk) => {
                let (offset, length) = hole_range(self.input.head());
                if length == 0 {
                    return Err(wrong_length(&chunk));
                }
                Step::Complete(Event::Hole {
                    cookie: chunk.cookie,
                    offset,
                    length,
                    last: is_last(&chunk),
                })
                .in_range()
            }
            State::Error(chunk) => {
                let (code, message) = error_fields(self.input.head());
                let error = NbdError::from_code(code).ok_or(ProtocolError::ErrorZero)?;
                let message = u32::from(message);
                let offset = chunk.kind == CHUNK_ERROR_OFFSET;
                // The fixed part and, if there is one, the offset.
                let fixed = if offset { 14 } else { 6 };
                let tail = chunk
                    .length
                    .checked_sub(fixed)
                    .and_then(|left| left.checked_sub(message))
                    .filter(|_| message <= MAX_STRING)
                    .ok_or(wrong_length(&chunk))?;
                self.state = State::Message {
                    chunk,
                    error,
                    left: message,
                    offset,
                    tail,
                };
                Ok(Step::Again)
            }
            State::Offset { chunk, error, tail } => {
                let offset = u64::from_be_bytes(self.input.head());
                self.state = State::Tail {
                    left: tail,
                    event: failed(&chunk, error, Some(offset)),
                };
                Ok(Step::Again)
            }
            // Handled above.
            State::Message { .. } | State::Tail { .. } | State::Failed(_) => Ok(Step::Again),
        }
    }

    /// Handles what simple replies and chunks have in common.
    fn head(&mut self) -> Result<Step, ProtocolError> {
        if let Ok(reply) = SimpleReply::decode(&self.input.head()) {
            return Ok(Step::Complete(Event::Simple {
                cookie: reply.cookie,
                error: reply.error,
            }));
        }
        match u32::from_be_bytes(self.input.head()) {
            CHUNK_MAGIC if !self.structured => Err(ProtocolError::NotNegotiated),
            CHUNK_MAGIC => Ok(self.extend(State::Chunk, CHUNK_LEN - SIMPLE_REPLY_LEN)),
            magic => Err(ProtocolError::BadMagic(magic)),
        }
    }

    /// Handles a chunk's header.
    fn chunk(&mut self) -> Result<Step, ProtocolError> {
        let chunk = ChunkHeader::decode(&self.input.head())
            .map_err(|error| ProtocolError::BadMagic(error.0))?;
        // Flags that are unknown must be ignored.
        match chunk.kind {
            CHUNK_NONE if chunk.length != 0 => Err(wrong_length(&chunk)),
            CHUNK_NONE if !is_last(&chunk) => Err(ProtocolError::NotLast),
            CHUNK_NONE => Ok(Step::Complete(Event::Done {
                cookie: chunk.cookie,
            })),
            CHUNK_OFFSET_DATA if chunk.length < 9 => Err(wrong_length(&chunk)),
            CHUNK_OFFSET_DATA => Ok(self.extend(State::Data(chunk), DATA_CHUNK_LEN - CHUNK_LEN)),
            CHUNK_OFFSET_HOLE if chunk.length != 12 => Err(wrong_length(&chunk)),
            CHUNK_OFFSET_HOLE => Ok(self.extend(State::Hole(chunk), HOLE_CHUNK_LEN - CHUNK_LEN)),
            kind if kind & CHUNK_ERROR_BIT != 0 => {
                // An unknown kind of error is an error, and has the fields of the known ones.
                if chunk.length > MAX_DRAIN || chunk.length < 6 {
                    return Err(wrong_length(&chunk));
                }
                Ok(self.extend(State::Error(chunk), ERROR_CHUNK_LEN - CHUNK_LEN))
            }
            kind => Err(ProtocolError::UnknownChunk(kind)),
        }
    }
}

/// What one step achieved.
enum Step {
    /// Another step is possible.
    Again,
    /// More input is needed.
    Starved,
    /// A header is complete.
    Complete(Event),
}

impl Step {
    /// Refuses a range whose end no number can hold.
    fn in_range(self) -> Result<Self, ProtocolError> {
        match self {
            Self::Complete(
                Event::Data { offset, length, .. } | Event::Hole { offset, length, .. },
            ) if offset.checked_add(u64::from(length)).is_none() => Err(ProtocolError::OutOfRange),
            step => Ok(step),
        }
    }
}

fn is_last(chunk: &ChunkHeader) -> bool {
    chunk.flags & CHUNK_DONE != 0
}

fn wrong_length(chunk: &ChunkHeader) -> ProtocolError {
    ProtocolError::ChunkLength {
        kind: chunk.kind,
        length: chunk.length,
    }
}

fn failed(chunk: &ChunkHeader, error: NbdError, offset: Option<u64>) -> Event {
    Event::Error {
        cookie: chunk.cookie,
        error,
        offset,
        last: is_last(chunk),
    }
}
