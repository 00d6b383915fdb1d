// SPDX-License-Identifier: GPL-2.0

//! The server's side of the handshake.
//!
//! Options are handled one at a time: no input is taken while an answer waits to be sent, so that a
//! client that sends and never reads costs a fixed amount of memory. Payloads are parsed as they
//! come; the only part of them that is kept is a name that could be one of ours.

mod fence;

use core::fmt;

use super::{
    buffer::{
        drain,
        split_front,
        Gather,
        Output, //
    },
    fence::{
        Fence,
        FENCE_LEN,
        OPT_DST, //
    },
    option::*,
    FLAG_HAS_FLAGS,
    FLAG_SEND_DF,
    MAX_DRAIN,
    MAX_NAME,
    MAX_STRING, //
};

/// Options in one handshake.
///
/// Clients need about four; one that lists the exports and asks for the details of each, a few
/// dozen. One that goes on beyond that wants to hold the connection, not to use it.
pub const MAX_OPTIONS: u32 = 256;

/// The longest payload of an option that has a name in it: the name, and then more information
/// requests than there are kinds of information.
const MAX_PAYLOAD: u32 = 4 + MAX_STRING + 2 + 2 * 1024;

/// The longest text that goes into one answer.
const MAX_TEXT: usize = MAX_NAME;

/// The longest answer to one option: all kinds of information, and the acknowledgement.
const OUTPUT_LEN: usize = 5 * REPLY_LEN + (2 + EXPORT_LEN) + (2 + 12) + 2 * (2 + MAX_TEXT);

const _: () = assert!(MAX_PAYLOAD < MAX_DRAIN);
const _: () =
    assert!(OUTPUT_LEN > REPLY_LEN + 4 + 2 * MAX_TEXT && OUTPUT_LEN > EXPORT_LEN + ZEROES);

/// What a client may know about an export.
#[derive(Clone, Copy, Debug)]
pub struct ExportDescription<'a> {
    /// What [`Session::export`] shall be.
    pub id: usize,
    /// The export's own name; up to [`MAX_NAME`] bytes.
    pub name: &'a str,
    /// A text for humans; what is behind [`MAX_NAME`] bytes is cut off.
    pub description: &'a str,
    /// Bytes.
    pub size: u64,
    /// `FLAG_*`; [`FLAG_HAS_FLAGS`] is added, and [`FLAG_SEND_DF`] taken away without structured
    /// replies.
    pub flags: u16,
    /// Block sizes.
    pub blocks: BlockSizes,
}

/// The exports that a client can find.
pub trait Exports {
    /// Finds an export; the empty name is the default one.
    fn find(&self, name: &str) -> Option<ExportDescription<'_>>;

    /// The name of the export at a position, from 0; `None` behind the last one.
    fn list(&self, index: usize) -> Option<&str>;
}

/// What was agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// [`ExportDescription::id`].
    pub export: usize,
    /// Reads must be answered with structured replies.
    pub structured: bool,
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The transmission phase begins.
    Done(Session),
    /// The client went in peace; close the connection.
    Aborted,
}

/// What [`ServerHandshake::advance`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that belonged to the handshake.
    pub consumed: usize,
    /// The handshake is over, and all of its bytes were sent.
    pub outcome: Option<Outcome>,
}

/// Why the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerError {
    /// The client set flags that nobody offered.
    ClientFlags(u32),
    /// What must be an option is none.
    BadOption,
    /// An option is longer than can be skipped.
    OptionTooLong(u32),
    /// The client goes on and on.
    TooManyOptions,
    /// No such export, asked for in the way that knows no other answer.
    UnknownExport,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientFlags(flags) => write!(f, "unknown client flags {flags:#x}"),
            Self::BadOption => write!(f, "an option with a wrong magic"),
            Self::OptionTooLong(length) => write!(f, "an option of {length} bytes"),
            Self::TooManyOptions => write!(f, "more than {MAX_OPTIONS} options"),
            Self::UnknownExport => write!(f, "an unknown export"),
        }
    }
}

/// What is being waited for.
#[derive(Clone, Copy)]
enum State {
    /// The client's flags.
    Flags,
    /// An option's header.
    Option,
    /// The length of a name, in an option whose payload has `left` more bytes.
    NameLength { left: u32 },
    /// The rest of a name, and then `left` bytes; `requests`: information requests follow it.
    Name {
        name: u32,
        left: u32,
        requests: bool,
    },
    /// The number of information requests, and then `left` bytes.
    Count { left: u32 },
    /// `count` information requests.
    Requests { count: u32 },
    /// What [`OPT_DST`] says.
    Fence,
    /// For the driver's verdict; `told`: the client knows that it has to wait.
    Claimed { fence: Fence, told: bool },
    /// Bytes without a meaning, before `reply`.
    Drain {
        left: u32,
        reply: u32,
        text: &'static str,
    },
    /// The answer being sent, before the list goes on with this export.
    Listing(usize),
    /// The last answer being sent.
    Ending(Outcome),
    /// Nothing.
    Failed(ServerError),
}

/// The server's side of one handshake.
///
/// A driver sends what [`Self::output`] has, reports it with [`Self::sent`], and calls
/// [`Self::advance`] when all of it was sent, and whenever something arrives, until that has an
/// outcome. If it never receives more than [`Self::need`] bytes at a time, the bytes of the
/// transmission phase stay where they are. How long a client may take is the driver's to decide.
/// While there is a [`Self::claim`] nothing goes on before the driver has judged it.
pub struct ServerHandshake {
    state: State,
    output: Output<OUTPUT_LEN>,
    input: Gather<FENCE_LEN>,
    option: u32,
    options: u32,
    name: [u8; MAX_NAME],
    /// Bytes of the name so far, those that had no room included.
    name_len: usize,
    wants_name: bool,
    wants_description: bool,
    structured: bool,
    no_zeroes: bool,
    /// The older connections of the client's storage are gone.
    fenced: bool,
}

impl Default for ServerHandshake {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerHandshake {
    /// Starts with the greeting.
    pub fn new() -> Self {
        let mut output = Output::new();
        // It fits; the assertions above say so.
        let _ = output.push(&greeting(FIXED_NEWSTYLE | NO_ZEROES));
        Self {
            state: State::Flags,
            output,
            input: Gather::new(4),
            option: 0,
            options: 0,
            name: [0; MAX_NAME],
            name_len: 0,
            wants_name: false,
            wants_description: false,
            structured: false,
            no_zeroes: false,
            fenced: false,
        }
    }

    /// What is to be sent now.
    pub fn output(&self) -> &[u8] {
        self.output.pending()
    }

    /// The first `n` bytes of [`Self::output`] were sent.
    pub fn sent(&mut self, n: usize) {
        self.output.sent(n);
    }

    /// How many bytes [`Self::advance`] would take now; 0 while output is pending, and in the end.
    pub fn need(&self) -> usize {
        if !self.output.is_empty() {
            return 0;
        }
        match self.state {
            State::Name { name, .. } => name as usize,
            State::Drain { left, .. } => left as usize,
            State::Claimed { .. } | State::Listing(_) | State::Ending(_) | State::Failed(_) => 0,
            _ => self.input.missing(),
        }
    }

    /// Takes what arrived. After an error, the connection must be closed.
    pub fn advance(
        &mut self,
        input: &[u8],
        exports: &impl Exports,
    ) -> Result<Progress, ServerError> {
        let mut rest = input;
        while self.output.is_empty() {
            match self.step(&mut rest, exports) {
                Ok(true) => (),
                Ok(false) => break,
                Err(error) => {
                    self.state = State::Failed(error);
                    return Err(error);
                }
            }
        }
        Ok(Progress {
            consumed: input.len().saturating_sub(rest.len()),
            outcome: match self.state {
                State::Ending(outcome) if self.output.is_empty() => Some(outcome),
                _ => None,
            },
        })
    }

    /// Does one step; says whether another one may be possible.
    fn step(&mut self, rest: &mut &[u8], exports: &impl Exports) -> Result<bool, ServerError> {
        match &mut self.state {
            State::Ending(_) | State::Claimed { .. } => return Ok(false),
            State::Failed(error) => return Err(*error),
            State::Listing(index) => {
                let index = *index;
                self.list(index, exports);
                return Ok(true);
            }
            State::Drain { left, reply, text } => {
                let (reply, text) = (*reply, *text);
                if !drain(rest, left) {
                    return Ok(false);
                }
                self.reply(reply, &[text.as_bytes()]);
                self.next_option();
                return Ok(true);
            }
            State::Name { name, .. } => {
                let before = *rest;
                let complete = drain(rest, name);
                let taken = before.len().saturating_sub(rest.len());
                self.keep_name(before.get(..taken).unwrap_or(&[]));
                if !complete {
                    return Ok(false);
                }
            }
            _ => {
                if !self.input.take(rest) {
                    return Ok(false);
                }
            }
        }
        match self.state {
            State::Flags => {
                let flags = u32::from_be_bytes(self.input.head());
                if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
                    return Err(ServerError::ClientFlags(flags));
                }
                self.no_zeroes = flags & u32::from(NO_ZEROES) != 0;
                self.next_option();
            }
            State::Option => self.option()?,
            State::NameLength { left } => {
                let name = u32::from_be_bytes(self.input.head());
                if name > MAX_STRING {
                    self.refuse(left, REP_ERR_TOO_BIG, "the export's name is too long");
                } else {
                    match left.checked_sub(name).filter(|left| *left >= 2) {
                        Some(left) => {
                            self.state = State::Name {
                                name,
                                left,
                                requests: true,
                            }
                        }
                        None => self.refuse(left, REP_ERR_INVALID, "malformed option"),
                    }
                }
            }
            State::Name {
                left,
                requests: true,
                ..
            } => {
                // `left` is at least 2.
                let left = left.saturating_sub(2);
                self.gather(State::Count { left }, 2);
            }
            State::Name { .. } => self.export_name(exports)?,
            State::Count { left } => {
                let count = u32::from(u16::from_be_bytes(self.input.head()));
                if count.checked_mul(2) != Some(left) {
                    self.refuse(left, REP_ERR_INVALID, "malformed option");
                } else {
                    self.requests(count, exports);
                }
            }
            State::Requests { count } => {
                match u16::from_be_bytes(self.input.head()) {
                    INFO_NAME => self.wants_name = true,
                    INFO_DESCRIPTION => self.wants_description = true,
                    // Size and block sizes are always told, and unknown kinds must be ignored.
                    _ => (),
                }
                self.requests(count.saturating_sub(1), exports);
            }
            State::Fence => self.fence(),
            // Handled above.
            State::Claimed { .. }
            | State::Drain { .. }
            | State::Listing(_)
            | State::Ending(_)
            | State::Failed(_) => (),
        }
        Ok(true)
    }

    /// Waits for `len` bytes.
    fn gather(&mut self, state: State, len: usize) {
        self.state = state;
        self.input.restart(len);
    }

    /// Waits for an option.
    fn next_option(&mut self) {
        self.gather(State::Option, OPTION_LEN);
    }

    /// Refuses the option as soon as the rest of its payload is gone.
    fn refuse(&mut self, left: u32, reply: u32, text: &'static str) {
        self.state = State::Drain { left, reply, text };
    }

    /// Handles an option's header.
    fn option(&mut self) -> Result<(), ServerError> {
        let (option, left) = parse_option(self.input.head()).ok_or(ServerError::BadOption)?;
        if left > MAX_DRAIN {
            return Err(ServerError::OptionTooLong(left));
        }
        self.options = self.options.saturating_add(1);
        if self.options > MAX_OPTIONS {
            return Err(ServerError::TooManyOptions);
        }
        self.option = option;
        self.name_len = 0;
        self.wants_name = false;
        self.wants_description = false;
        match option {
            OPT_EXPORT_NAME if left > MAX_STRING => return Err(ServerError::UnknownExport),
            OPT_EXPORT_NAME => {
                self.state = State::Name {
                    name: left,
                    left: 0,
                    requests: false,
                }
            }
            OPT_INFO | OPT_GO if left > MAX_PAYLOAD => {
                self.refuse(left, REP_ERR_TOO_BIG, "the option is too long");
            }
            OPT_INFO | OPT_GO => match left.checked_sub(4) {
                Some(left) => self.gather(State::NameLength { left }, 4),
                None => self.refuse(left, REP_ERR_INVALID, "malformed option"),
            },
            OPT_ABORT => {
                // Whatever comes with it, the client will send no more.
                self.reply(REP_ACK, &[]);
                self.state = State::Ending(Outcome::Aborted);
            }
            OPT_LIST | OPT_STRUCTURED_REPLY if left != 0 => {
                self.refuse(left, REP_ERR_INVALID, "the option takes no data");
            }
            OPT_LIST => self.state = State::Listing(0),
            OPT_STRUCTURED_REPLY => {
                self.structured = true;
                self.reply(REP_ACK, &[]);
                self.next_option();
            }
            OPT_DST => self.fence_option(left),
            _ => self.refuse(left, REP_ERR_UNSUP, "unknown option"),
        }
        Ok(())
    }

    /// Keeps a part of a name. A name that has no room is counted, and found by nobody.
    fn keep_name(&mut self, mut part: &[u8]) {
        let room = self.name.get_mut(self.name_len..).unwrap_or(&mut []);
        self.name_len = self.name_len.saturating_add(part.len());
        let part = split_front(&mut part, room.len());
        for (to, from) in room.iter_mut().zip(part) {
            *to = *from;
        }
    }

    /// Waits for `count` more information requests, or answers.
    fn requests(&mut self, count: u32, exports: &impl Exports) {
        if count != 0 {
            self.gather(State::Requests { count }, 2);
        } else {
            self.info(exports);
        }
    }

    /// Answers [`OPT_INFO`] and [`OPT_GO`].
    fn info(&mut self, exports: &impl Exports) {
        self.next_option();
        let Some(found) = find(&self.name, self.name_len, exports) else {
            self.reply(REP_ERR_UNKNOWN, &[b"no such export"]);
            return;
        };
        let size = export(found.size, self.flags(&found));
        self.reply(REP_INFO, &[&INFO_EXPORT.to_be_bytes(), &size]);
        self.reply(
            REP_INFO,
            &[&INFO_BLOCK_SIZE.to_be_bytes(), &found.blocks.encode()],
        );
        if self.wants_name {
            let name = cut(found.name);
            self.reply(REP_INFO, &[&INFO_NAME.to_be_bytes(), name]);
        }
        if self.wants_description {
            let text = cut(found.description);
            self.reply(REP_INFO, &[&INFO_DESCRIPTION.to_be_bytes(), text]);
        }
        self.reply(REP_ACK, &[]);
        if self.option == OPT_GO {
            self.end(&found);
        }
    }

    /// Answers [`OPT_EXPORT_NAME`].
    fn export_name(&mut self, exports: &impl Exports) -> Result<(), ServerError> {
        let found = find(&self.name, self.name_len, exports).ok_or(ServerError::UnknownExport)?;
        self.push(&export(found.size, self.flags(&found)));
        if !self.no_zeroes {
            self.push(&[0; ZEROES]);
        }
        self.end(&found);
        Ok(())
    }

    /// Enters the transmission phase when the answer was sent.
    fn end(&mut self, found: &ExportDescription<'_>) {
        self.state = State::Ending(Outcome::Done(Session {
            export: found.id,
            structured: self.structured,
        }));
    }

    /// An export's transmission flags for this client.
    fn flags(&self, found: &ExportDescription<'_>) -> u16 {
        let forbidden = if self.structured { 0 } else { FLAG_SEND_DF };
        (found.flags | FLAG_HAS_FLAGS) & !forbidden
    }

    /// Names one export, or ends the list.
    fn list(&mut self, index: usize, exports: &impl Exports) {
        match exports.list(index) {
            Some(name) => {
                let name = cut(name);
                // At most MAX_TEXT, so it fits.
                let len = name.len() as u32;
                self.reply(REP_SERVER, &[&len.to_be_bytes(), name]);
                self.state = State::Listing(index.saturating_add(1));
            }
            None => {
                self.reply(REP_ACK, &[]);
                self.next_option();
            }
        }
    }

    /// Queues bytes.
    ///
    /// Nothing is queued unless everything before was sent, and then there is room for every
    /// answer.
    fn push(&mut self, bytes: &[u8]) {
        let fits = self.output.push(bytes);
        debug_assert!(fits.is_some());
    }

    /// Queues a reply to the option.
    fn reply(&mut self, kind: u32, parts: &[&[u8]]) {
        let length = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
        self.push(
            &OptionReply {
                option: self.option,
                kind,
                length,
            }
            .encode(),
        );
        for part in parts {
            self.push(part);
        }
    }
}

/// Finds the export that the client named.
fn find<'a>(
    name: &[u8; MAX_NAME],
    len: usize,
    exports: &'a impl Exports,
) -> Option<ExportDescription<'a>> {
    exports.find(core::str::from_utf8(name.get(..len)?).ok()?)
}

/// As much of a text as fits, in whole characters.
fn cut(text: &str) -> &[u8] {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.as_bytes().get(..end).unwrap_or(&[])
}
