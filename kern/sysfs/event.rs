// SPDX-License-Identifier: GPL-2.0

//! The strings that a uevent carries.

use super::Text;
use core::ptr;
use kernel::{
    fmt,
    prelude::*, //
};

/// Room for the strings of one uevent. The kernel has 2048 bytes, of which it takes some itself.
pub(super) const EVENT_BYTES: usize = 640;

/// The most strings that one uevent can carry; the kernel has 64, of which it takes some itself.
const EVENT_STRINGS: usize = 16;

/// The strings of a uevent.
///
/// # Invariants
///
/// Of `strings`, the first `count` point to C strings in the buffer behind `free`, and the others
/// are null. `count` is less than `EVENT_STRINGS`.
pub(super) struct Event<'a> {
    free: &'a mut [u8],
    strings: [*mut c_char; EVENT_STRINGS],
    count: usize,
}

impl<'a> Event<'a> {
    pub(super) fn new(buffer: &'a mut [u8]) -> Self {
        Self {
            free: buffer,
            strings: [ptr::null_mut(); EVENT_STRINGS],
            count: 0,
        }
    }

    /// Adds the string that `write` writes.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut Text<'_>) -> fmt::Result) -> Result {
        if self.count + 1 >= EVENT_STRINGS {
            return Err(E2BIG);
        }
        let free = core::mem::take(&mut self.free);
        let mut text = Text::new(free).map_err(|_| E2BIG)?;
        write(&mut text)?;
        if text.is_cut() {
            return Err(E2BIG);
        }
        let len = text.finish();
        let (string, rest) = free.split_at_mut_checked(len + 1).ok_or(E2BIG)?;
        string[len] = 0;
        // A key, no line feed (in `/sys/.../uevent` and in udev's database a line is a string), no
        // early end.
        if !matches!(string.iter().position(|&b| b == b'='), Some(1..))
            || string[..len].iter().any(u8::is_ascii_control)
        {
            return Err(EINVAL);
        }
        // INVARIANT: It ends in NUL, and there is room for one more null.
        self.strings[self.count] = string.as_mut_ptr().cast();
        self.count += 1;
        self.free = rest;
        Ok(())
    }

    /// The list of strings, followed by null, for as long as the event is borrowed.
    pub(super) fn list(&mut self) -> *mut *mut c_char {
        self.strings.as_mut_ptr()
    }
}
