// SPDX-License-Identifier: GPL-2.0

//! Arrays of `bio_vec`s, as the data of bios and spans are described.

use super::{
    c,
    segments::Direction, //
};

/// A run of bytes in `bio_vec`s, from `offset` in the first one on.
#[derive(Clone, Copy)]
pub(super) struct Vectors {
    pub(super) first: *const c::bio_vec,
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

impl Vectors {
    /// An iterator over the bytes from `done` on.
    ///
    /// # Safety
    ///
    /// From `first` on there are vectors with at least `offset` and `bytes` bytes together.
    pub(super) unsafe fn iter(mut self, done: u32, direction: Direction) -> c::iov_iter {
        let done = done.min(self.bytes);
        let count = self.bytes - done;
        let mut iter = c::iov_iter::default();
        let mut segments = 0;
        let mut offset = 0;
        if count != 0 {
            // SAFETY: There are more bytes than these, by the function's requirements.
            unsafe { self.skip(done) };
            offset = self.offset;
            // SAFETY: As above.
            segments = unsafe { self.count(count) };
        }
        let direction = match direction {
            Direction::Source => c::ITER_SOURCE,
            Direction::Dest => c::ITER_DEST,
        };
        // SAFETY: There are so many vectors.
        unsafe { c::iov_iter_bvec(&mut iter, direction, self.first, segments, count as usize) };
        iter.iov_offset = offset as usize;
        iter
    }

    /// Moves the start by `done`, which is less than all bytes.
    ///
    /// # Safety
    ///
    /// As that of [`Self::iter`].
    unsafe fn skip(&mut self, done: u32) {
        let mut ahead = u64::from(self.offset) + u64::from(done);
        loop {
            // SAFETY: There are more bytes than `done`, so the vector is there.
            let length = u64::from(unsafe { (*self.first).bv_len });
            if ahead < length {
                break;
            }
            ahead -= length;
            // SAFETY: As above: it is followed by another one.
            self.first = unsafe { self.first.add(1) };
        }
        self.offset = ahead as u32;
        self.bytes -= done;
    }

    /// The number of vectors that hold the first `bytes`, which isn't 0.
    ///
    /// # Safety
    ///
    /// As that of [`Self::iter`].
    unsafe fn count(&self, bytes: u32) -> usize {
        let end = u64::from(self.offset) + u64::from(bytes);
        let mut reached = 0;
        let mut vectors = 0;
        while reached < end {
            // SAFETY: The end isn't reached yet, so there is another one.
            reached += u64::from(unsafe { (*self.first.add(vectors)).bv_len });
            vectors += 1;
        }
        vectors
    }

    /// Whether all pages may be sent by reference.
    ///
    /// # Safety
    ///
    /// As that of [`Self::iter`].
    pub(super) unsafe fn splice_ok(self) -> bool {
        let (mut vector, mut offset, mut left) = (self.first, self.offset, self.bytes);
        while left != 0 {
            // SAFETY: There are bytes left, so the vector is there.
            let length = unsafe { (*vector).bv_len } - offset;
            let here = length.min(left);
            // SAFETY: The vector is valid and has so many bytes behind `offset`.
            if here != 0 && !unsafe { c::dst_bvec_sendpage_ok(vector, offset, here) } {
                return false;
            }
            left -= here;
            offset = 0;
            // SAFETY: It is read only if there are bytes left, hence vectors.
            vector = unsafe { vector.add(1) };
        }
        true
    }
}
