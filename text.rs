// SPDX-License-Identifier: GPL-2.0

//! Texts of bounded length, without allocation: reasons and error messages.

use core::fmt;

/// A text of at most `N - 1` bytes, kept with a NUL behind it; what does not fit is cut off.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    /// No text.
    pub const fn none() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    /// The text of `what`.
    pub fn new(what: impl fmt::Display) -> Self {
        let mut text = Self::none();
        // Writing cuts off, but does not fail.
        let _ = fmt::write(&mut text, format_args!("{what}"));
        text
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.bytes
            .get(..self.len)
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
            .unwrap_or("")
    }

    /// The text, padded with NULs.
    pub fn bytes(&self) -> &[u8; N] {
        &self.bytes
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let end = self.len.saturating_add(character.len_utf8());
            // The last byte is the NUL's.
            if end >= N {
                break;
            }
            let mut encoded = [0; 4];
            let encoded = character.encode_utf8(&mut encoded).as_bytes();
            if let Some(room) = self.bytes.get_mut(self.len..end) {
                room.copy_from_slice(encoded);
                self.len = end;
            }
        }
        Ok(())
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
