// SPDX-License-Identifier: GPL-2.0

//! What can go wrong, in words that say what to do about it.

use std::fmt;
use std::io;

/// Exit status of a failure.
pub const EXIT_FAILURE: u8 = 1;
/// Exit status of a command line that can't be understood.
pub const EXIT_USAGE: u8 = 2;

/// Why the command ends without having done what it was asked for.
#[derive(Debug)]
pub enum Error {
    /// The command line makes no sense.
    Usage(String),
    /// It made sense, but could not be done.
    Failed(String),
    /// Nobody reads the output any more: `dst status | head -1`.
    OutputClosed,
}

/// What most functions here return.
pub type Result<T = ()> = std::result::Result<T, Error>;

impl Error {
    /// Exit status for this error.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Failed(_) => EXIT_FAILURE,
            Self::OutputClosed => 0,
        }
    }

    /// The same error with words put before it.
    pub fn context(self, before: &str) -> Self {
        match self {
            Self::Usage(text) => Self::Usage(format!("{before}: {text}")),
            Self::Failed(text) => Self::Failed(format!("{before}: {text}")),
            Self::OutputClosed => Self::OutputClosed,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) => f.write_str(text),
            Self::OutputClosed => f.write_str("nobody reads the output"),
        }
    }
}

impl From<io::Error> for Error {
    /// An error of writing to the standard output; all others are put in words where they happen.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("can't write to the standard output: {error}")),
        }
    }
}

/// A failure, from anything that is text.
pub fn failed<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Failed(text.into()))
}

/// A usage error, from anything that is text.
pub fn usage<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Usage(text.into()))
}

/// The module's refusal of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error number.
    pub errno: i32,
    /// The module's own explanation; may be empty.
    pub message: String,
}

impl Refusal {
    /// What the module said, or else what `hint` says about the error number, or else what it means in
    /// general.
    pub fn explain(&self, hint: impl Fn(i32) -> Option<String>) -> String {
        if !self.message.is_empty() {
            return self.message.clone();
        }
        if let Some(text) = hint(self.errno) {
            return text;
        }
        let general = match self.errno {
            libc::EPERM | libc::EACCES => "only root may do that (CAP_SYS_ADMIN); use sudo",
            libc::EBUSY => "it is in use",
            libc::ENOTBLK => "it is not a block device",
            libc::EINTR => "interrupted by a signal",
            libc::ENOMEM => "the kernel is short of memory; try again later",
            libc::ETIMEDOUT => "no answer in time; is the server up, and is no firewall between?",
            libc::ECONNREFUSED => {
                "nothing listens there; is the server running, is the port right?"
            }
            libc::ECONNRESET | libc::EPIPE => "the server closed the connection",
            libc::EHOSTUNREACH | libc::ENETUNREACH => "there is no route to the server",
            libc::EAFNOSUPPORT => "this kernel does not speak that address family",
            libc::EADDRINUSE => "the address and port are taken by another program",
            libc::EADDRNOTAVAIL => "this machine does not have that address",
            libc::ENODEV | libc::ENXIO => "there is no such device",
            _ => "",
        };
        let system = io::Error::from_raw_os_error(self.errno);
        if general.is_empty() {
            system.to_string()
        } else {
            general.to_string()
        }
    }

    /// Whether another address of the same server may do better.
    pub fn is_of_address(&self) -> bool {
        matches!(
            self.errno,
            libc::ETIMEDOUT
                | libc::ECONNREFUSED
                | libc::ECONNRESET
                | libc::ECONNABORTED
                | libc::EPIPE
                | libc::EHOSTUNREACH
                | libc::EHOSTDOWN
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::EADDRNOTAVAIL
                | libc::EAFNOSUPPORT
        )
    }
}
