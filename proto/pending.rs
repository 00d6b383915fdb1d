// SPDX-License-Identifier: GPL-2.0

//! What a reply may do to the request that it answers.
//!
//! The rule that keeps memory safe: a read ends well only if every byte was sent exactly once. Else
//! its pages would show what was in them before.

use super::reply::{
    Event,
    ProtocolError, //
};
use super::NbdError;

/// Separate ranges of one read that are kept track of.
///
/// Servers send the pieces of a reply in order, and pieces that touch count as one; so one range is
/// what happens, however many pieces there are. Eight leave room for servers that read in parallel.
pub const MAX_SPANS: usize = 8;

/// A range of a request: from `start` to `end`, the latter excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

/// Which bytes of a read were sent.
#[derive(Clone, Debug)]
pub struct Coverage {
    length: u32,
    /// The first `used` are sorted, not empty, and neither overlap nor touch.
    spans: [Span; MAX_SPANS],
    used: usize,
}

impl Coverage {
    /// Starts with nothing, of `length` bytes.
    pub const fn new(length: u32) -> Self {
        Self {
            length,
            spans: [Span { start: 0, end: 0 }; MAX_SPANS],
            used: 0,
        }
    }

    /// Whether every byte was sent.
    pub fn is_complete(&self) -> bool {
        let whole = Span {
            start: 0,
            end: self.length,
        };
        self.length == 0 || (self.used == 1 && self.spans.first() == Some(&whole))
    }

    /// Notes that `length` bytes from `start` on are sent.
    pub fn add(&mut self, start: u32, length: u32) -> Result<(), ProtocolError> {
        let end = start
            .checked_add(length)
            .filter(|end| *end <= self.length && length != 0)
            .ok_or(ProtocolError::OutOfRange)?;
        let at = self.used().partition_point(|span| span.start < start);
        let before = at
            .checked_sub(1)
            .and_then(|before| self.used().get(before))
            .copied();
        let after = self.used().get(at).copied();
        if before.is_some_and(|span| span.end > start) || after.is_some_and(|span| span.start < end)
        {
            return Err(ProtocolError::Overlap);
        }
        let before = before.filter(|span| span.end == start);
        let after = after.filter(|span| span.start == end);
        let new = Span {
            start: before.map_or(start, |span| span.start),
            end: after.map_or(end, |span| span.end),
        };
        // Everything that the new span swallows, or nothing.
        let from = at.saturating_sub(usize::from(before.is_some()));
        let to = at.saturating_add(usize::from(after.is_some()));
        self.replace(from, to, new)
    }

    fn used(&self) -> &[Span] {
        self.spans.get(..self.used).unwrap_or(&[])
    }

    /// Puts `new` in the place of the spans from `from` to `to`: none, one or two.
    fn replace(&mut self, from: usize, to: usize, new: Span) -> Result<(), ProtocolError> {
        if from == to {
            let used = self.used.saturating_add(1);
            self.spans
                .get_mut(from..used)
                .ok_or(ProtocolError::TooFragmented)?
                .rotate_right(1);
            self.used = used;
        } else if to.saturating_sub(from) == 2 {
            if let Some(spans) = self.spans.get_mut(from..self.used) {
                spans.rotate_left(1);
                self.used = self.used.saturating_sub(1);
            }
        }
        if let Some(span) = self.spans.get_mut(from) {
            *span = new;
        }
        Ok(())
    }
}

/// What the driver has to do with a request's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Nothing.
    Nothing,
    /// Receive the next `length` bytes to `at` bytes from the request's start.
    Receive {
        /// Where; `at + length` is at most the request's length.
        at: u32,
        /// How many.
        length: u32,
    },
    /// Put zeroes there.
    Zero {
        /// Where; `at + length` is at most the request's length.
        at: u32,
        /// How many.
        length: u32,
    },
}

/// What an event means for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// First this.
    pub fill: Fill,
    /// Then, when all bytes of [`Self::fill`] are in place, the request ends with this; `None`: it
    /// goes on.
    pub end: Option<Result<(), NbdError>>,
}

/// What is known of a request's reply.
///
/// It belongs to one connection: a request that is sent again gets a new one.
#[derive(Clone, Debug)]
pub struct Pending {
    offset: u64,
    /// `None`: it is no read.
    coverage: Option<Coverage>,
    structured: bool,
    error: Option<NbdError>,
    over: bool,
}

impl Pending {
    /// A read was sent. `structured`: structured replies were negotiated.
    pub const fn read(offset: u64, length: u32, structured: bool) -> Self {
        Self {
            offset,
            coverage: Some(Coverage::new(length)),
            structured,
            error: None,
            over: false,
        }
    }

    /// Something else was sent.
    pub const fn other() -> Self {
        Self {
            offset: 0,
            coverage: None,
            structured: false,
            error: None,
            over: false,
        }
    }

    /// Decides what an event with this request's cookie means for it.
    ///
    /// After an error the connection must end; the request is not over, and can be sent on another
    /// one.
    pub fn event(&mut self, event: &Event) -> Result<Action, ProtocolError> {
        if self.over {
            return Err(ProtocolError::AfterEnd);
        }
        match *event {
            Event::Simple { error, .. } => self.simple(error),
            Event::Data {
                offset,
                length,
                last,
                ..
            } => {
                let at = self.cover(offset, length)?;
                self.act(Fill::Receive { at, length }, last)
            }
            Event::Hole {
                offset,
                length,
                last,
                ..
            } => {
                let at = self.cover(offset, length)?;
                self.act(Fill::Zero { at, length }, last)
            }
            Event::Done { .. } => self.act(Fill::Nothing, true),
            Event::Error { error, last, .. } => {
                // The first one counts, as it came first.
                self.error = self.error.or(Some(error));
                self.act(Fill::Nothing, last)
            }
        }
    }

    /// Decides what a simple reply means.
    fn simple(&mut self, error: Option<NbdError>) -> Result<Action, ProtocolError> {
        let Some(coverage) = &mut self.coverage else {
            // It may follow an error chunk, at least in theory.
            self.error = self.error.or(error);
            return self.act(Fill::Nothing, true);
        };
        if self.structured {
            return Err(ProtocolError::SimpleRead);
        }
        let mut fill = Fill::Nothing;
        if error.is_none() {
            let length = coverage.length;
            coverage.add(0, length)?;
            fill = Fill::Receive { at: 0, length };
        }
        self.error = error;
        self.act(fill, true)
    }

    /// Notes that a range of the export was sent, and gives its place in the request.
    fn cover(&mut self, offset: u64, length: u32) -> Result<u32, ProtocolError> {
        let coverage = self
            .coverage
            .as_mut()
            .ok_or(ProtocolError::UnexpectedData)?;
        let at = offset
            .checked_sub(self.offset)
            .and_then(|at| u32::try_from(at).ok())
            .ok_or(ProtocolError::OutOfRange)?;
        coverage.add(at, length)?;
        Ok(at)
    }

    /// Ends the request if this was the last event, and nothing is missing.
    fn act(&mut self, fill: Fill, last: bool) -> Result<Action, ProtocolError> {
        if !last {
            return Ok(Action { fill, end: None });
        }
        let complete = self.coverage.as_ref().is_none_or(Coverage::is_complete);
        let result = match self.error {
            Some(error) => Err(error),
            None if complete => Ok(()),
            None => return Err(ProtocolError::Short),
        };
        self.over = true;
        Ok(Action {
            fill,
            end: Some(result),
        })
    }
}
