// SPDX-License-Identifier: GPL-2.0

//! Zeroes to be written, for devices that can't make them.

use super::c;
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// How many vectors there are: enough for 1 MiB, which takes a device long enough to make the next request negligible.
const VECTORS: usize = 256;

/// Vectors that describe nothing but zeroes. All of them refer to the one page of zeroes that the kernel has.
///
/// # Invariants
///
/// Each of the `VECTORS` vectors covers the kernel's page of zeroes, which is never freed nor written to.
pub(crate) struct Zeroes(KVec<c::bio_vec>);

// SAFETY: The page belongs to no thread.
unsafe impl Send for Zeroes {}
// SAFETY: A shared reference only reads.
unsafe impl Sync for Zeroes {}

impl Zeroes {
    /// The most bytes that one request can write.
    pub(crate) const MAX_BYTES: u32 = (VECTORS * PAGE_SIZE) as u32;

    /// Makes the vectors. Sleeps.
    pub(crate) fn new() -> Result<Self> {
        let mut vectors = KVec::with_capacity(VECTORS, GFP_KERNEL)?;
        for _ in 0..VECTORS {
            let vector = c::bio_vec {
                // SAFETY: It may be asked for at any time.
                bv_page: unsafe { c::dst_zero_page() },
                bv_len: PAGE_SIZE as u32,
                bv_offset: 0,
            };
            vectors.push(vector, GFP_KERNEL)?;
        }
        // INVARIANT: It was made so just now.
        Ok(Self(vectors))
    }

    /// The first vector, for requests that only read them.
    pub(super) fn table(&self) -> *mut c::bio_vec {
        self.0.as_ptr().cast_mut()
    }
}
