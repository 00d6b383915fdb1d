// SPDX-License-Identifier: GPL-2.0

//! Errors that tell people what to do.

use kernel::prelude::*;

use crate::{
    text::Text,
    uapi, //
};

/// What is said about an error.
pub(crate) type Message = Text<{ uapi::MESSAGE_LEN }>;

/// An error and a sentence about it.
pub(crate) struct Failure {
    /// What the caller of the ioctl gets.
    pub(crate) error: Error,
    /// What was wrong, and what to do; `None`: the error says it all.
    message: Option<KBox<Message>>,
}

impl Failure {
    /// An error with a sentence.
    pub(crate) fn new(error: Error, message: impl core::fmt::Display) -> Self {
        Self {
            error,
            // An error without its sentence is still an error.
            message: KBox::new(Message::new(message), GFP_KERNEL).ok(),
        }
    }

    /// What was wrong, and what to do; may be empty.
    pub(crate) fn message(&self) -> &str {
        self.message.as_ref().map_or("", |message| message.as_str())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            message: None,
        }
    }
}

impl From<kernel::alloc::AllocError> for Failure {
    fn from(error: kernel::alloc::AllocError) -> Self {
        Error::from(error).into()
    }
}

/// The result of a control operation.
pub(crate) type Done<T = ()> = core::result::Result<T, Failure>;

/// Ends the function with a [`Failure`].
macro_rules! fail {
    ($error:expr, $($text:tt)+) => {
        return Err($crate::failure::Failure::new($error, kernel::prelude::fmt!($($text)+)))
    };
}
pub(crate) use fail;
