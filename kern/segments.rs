// SPDX-License-Identifier: GPL-2.0

//! Data in memory as the network sees it: pages that something else owns, walked by an `iov_iter`.
//!
//! This is the seam between what holds data (`BioPart`, `Span`) and the sockets, so that neither knows the other.

use super::c;

/// Which way the data go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The memory is read: a send (`ITER_SOURCE`).
    Source,
    /// The memory is written: a receive (`ITER_DEST`).
    Dest,
}

/// A run of bytes in pages.
///
/// # Safety
///
/// - [`Segments::iter`] returns an iterator of the direction asked for, that covers at most
///   `self.bytes() - done` bytes (nothing, if `done` is past the end).
/// - All that the iterator refers to (the bio_vecs and the pages that they name) stays valid, and may be
///   accessed in that direction, for as long as `self` is borrowed. For [`Direction::Dest`] nothing in Rust
///   holds a reference into the pages.
/// - If [`Segments::splice_ok`] says `true`, each page may be handed to the network stack by reference
///   (`sendpages_ok`: reference-counted, not slab).
pub(crate) unsafe trait Segments {
    /// An iterator over the bytes from `done` on.
    fn iter(&self, done: u32, direction: Direction) -> c::iov_iter;

    /// How many bytes there are in all.
    fn bytes(&self) -> u32;

    /// Whether all pages may be sent by reference.
    fn splice_ok(&self) -> bool;
}

/// Fills `length` bytes from `at` on with zeroes, as far as there are so many. Any context.
pub(crate) fn zero(data: &impl Segments, at: u32, length: u32) {
    let mut iter = data.iter(at, Direction::Dest);
    // SAFETY: By the requirements of `Segments` the iterator's memory is valid, and may be written to. The
    // call writes no further than the iterator reaches.
    unsafe { c::iov_iter_zero(length as usize, &mut iter) };
}

/// Copies `bytes` to the start of the data, as far as there is room. Any context.
pub(crate) fn put(data: &impl Segments, bytes: &[u8]) {
    let mut iter = data.iter(0, Direction::Dest);
    // SAFETY: By the requirements of `Segments` the iterator's memory is valid, and may be written to. The call writes
    // no further than the iterator reaches, and reads no further than `bytes`.
    unsafe { c::_copy_to_iter(bytes.as_ptr().cast(), bytes.len(), &mut iter) };
}

/// Copies as many bytes as `to` has from `from`, from its byte `at` on, as far as there are so many. Any context.
pub(crate) fn copy(from: &impl Segments, at: u32, to: &impl Segments) {
    // Small enough for any stack.
    let mut bytes = [0u8; 256];
    let mut source = from.iter(at, Direction::Source);
    let mut dest = to.iter(0, Direction::Dest);
    loop {
        // SAFETY: By the requirements of `Segments` the iterators' memory is valid, and that of `dest` may be written to.
        // The calls go no further than the iterators and `bytes` reach.
        let copied = unsafe {
            let got = c::_copy_from_iter(bytes.as_mut_ptr().cast(), bytes.len(), &mut source);
            c::_copy_to_iter(bytes.as_ptr().cast(), got, &mut dest)
        };
        if copied < bytes.len() {
            return;
        }
    }
}

/// Copies the data from `at` on to `bytes`, as far as there are so many; gives how many. Any context.
pub(crate) fn get(data: &impl Segments, at: u32, bytes: &mut [u8]) -> usize {
    let mut iter = data.iter(at, Direction::Source);
    // SAFETY: By the requirements of `Segments` the iterator's memory is valid. The call reads no further than the
    // iterator reaches, and writes no further than `bytes`.
    unsafe { c::_copy_from_iter(bytes.as_mut_ptr().cast(), bytes.len(), &mut iter) }
}
