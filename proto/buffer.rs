// SPDX-License-Identifier: GPL-2.0

//! Fixed memory for both directions of a handshake.

/// Bytes that wait to be sent.
pub(super) struct Output<const N: usize> {
    bytes: [u8; N],
    /// What lies before it was sent.
    start: usize,
    /// What lies behind it was never written. `start <= end <= N`.
    end: usize,
}

impl<const N: usize> Output<N> {
    /// Makes an empty one.
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; N],
            start: 0,
            end: 0,
        }
    }

    /// Adds `bytes`; `None`, with nothing added, when they do not fit.
    #[must_use]
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<()> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        let end = self.end.checked_add(bytes.len())?;
        self.bytes.get_mut(self.end..end)?.copy_from_slice(bytes);
        self.end = end;
        Some(())
    }

    /// What is to be sent.
    pub(super) fn pending(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or(&[])
    }

    /// Drops the first `n` pending bytes.
    pub(super) fn sent(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
    }

    /// Whether everything was sent.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// A message of a known length that is being gathered from fragments.
pub(super) struct Gather<const N: usize> {
    bytes: [u8; N],
    have: usize,
    /// The message's length. `have <= want <= N`.
    want: usize,
}

impl<const N: usize> Gather<N> {
    /// Starts with a message of `want` bytes.
    pub(super) const fn new(want: usize) -> Self {
        Self {
            bytes: [0; N],
            have: 0,
            want,
        }
    }

    /// Starts again, with a message of `want` bytes.
    pub(super) fn restart(&mut self, want: usize) {
        self.have = 0;
        self.want = want.min(N);
    }

    /// The message turned out to have `more` bytes.
    pub(super) fn extend(&mut self, more: usize) {
        self.want = self.want.saturating_add(more).min(N);
    }

    /// How many bytes are missing.
    pub(super) fn missing(&self) -> usize {
        self.want.saturating_sub(self.have)
    }

    /// Takes from the front of `input` what is missing; says whether the message is complete.
    pub(super) fn take(&mut self, input: &mut &[u8]) -> bool {
        let taken = split_front(input, self.missing());
        let end = self.have.saturating_add(taken.len());
        if let Some(room) = self.bytes.get_mut(self.have..end) {
            room.copy_from_slice(taken);
            self.have = end;
        }
        self.missing() == 0
    }

    /// The message's first bytes. Zeroes stand where nothing was gathered.
    pub(super) fn head<const M: usize>(&self) -> [u8; M] {
        const { assert!(M <= N) };
        let mut head = [0; M];
        for (to, from) in head.iter_mut().zip(self.bytes.iter()) {
            *to = *from;
        }
        head
    }

    /// Everything gathered.
    pub(super) fn all(&self) -> &[u8] {
        self.bytes.get(..self.have).unwrap_or(&[])
    }
}

/// Takes up to `n` bytes from the front of `input`.
pub(super) fn split_front<'a>(input: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (front, rest) = input.split_at_checked(n).unwrap_or((*input, &[]));
    *input = rest;
    front
}

/// Takes up to `left` bytes from the front of `input`, and `left` down; says whether nothing is
/// left.
pub(super) fn drain(input: &mut &[u8], left: &mut u32) -> bool {
    let want = usize::try_from(*left).unwrap_or(usize::MAX);
    let taken = split_front(input, want).len();
    // `taken <= left`, so it fits.
    *left = left.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
    *left == 0
}
