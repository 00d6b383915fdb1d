// SPDX-License-Identifier: GPL-2.0

//! Pages for the data of an export's requests: allocated once, lent out in runs.
//!
//! A [`Span`] that is sent by reference may be dropped before TCP has done with its pages: a page
//! is lent out again only when nobody else holds it, and the search goes on where the last one
//! stopped, so that pages that were given back lately are looked at last.

use super::{
    c,
    segments::{
        Direction,
        Segments, //
    },
    vectors::Vectors, //
};
use core::{
    cell::UnsafeCell,
    ptr::NonNull, //
};
use kernel::{
    new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        Arc,
        SpinLock, //
    },
};

/// The largest block that is asked for at once: 128 KiB, the size of a large request.
const MAX_ORDER: u32 = 5;

/// The most pages that a pool can have: 1 GiB.
const MAX_PAGES: u32 = 1 << 18;

/// Pages per word of the bitmap.
const PER_WORD: u32 = u64::BITS;

/// Pages of order 0, freed on drop.
///
/// # Invariants
///
/// Each page is allocated, and has one reference that is ours.
struct Pages(KVVec<UnsafeCell<NonNull<c::page>>>);

impl Pages {
    /// Allocates `count` pages, as contiguous as they come; sleeps.
    fn new(count: usize) -> Result<Self> {
        let mut pages = Self(KVVec::with_capacity(count, GFP_KERNEL)?);
        let mut order = MAX_ORDER;
        while pages.0.len() < count {
            let left = count - pages.0.len();
            order = order.min(left.ilog2());
            let gfp = match order {
                0 => c::GFP_KERNEL,
                _ => c::GFP_KERNEL | c::__GFP_NORETRY | c::__GFP_NOWARN,
            };
            // SAFETY: This is process context, and may sleep.
            let Some(block) = NonNull::new(unsafe { c::alloc_pages(gfp, order) }) else {
                if order == 0 {
                    return Err(ENOMEM);
                }
                order -= 1;
                continue;
            };
            if order != 0 {
                // SAFETY: The block was allocated just now, with this order, and isn't compound.
                unsafe { c::split_page(block.as_ptr(), order) };
            }
            for index in 0..1usize << order {
                // INVARIANT: After the split each page has a reference of its own.
                // SAFETY: The block has so many pages. The vector has room, so the push can't fail,
                // and no page is lost.
                let page = unsafe { block.add(index) };
                pages.0.push(UnsafeCell::new(page), GFP_KERNEL)?;
            }
        }
        Ok(pages)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        for page in self.0.iter_mut() {
            // SAFETY: By the type invariant. If somebody else holds the page it is freed after
            // that.
            unsafe { c::__free_pages(page.get_mut().as_ptr(), 0) };
        }
    }
}

/// Pages, of which runs are lent out as [`Span`]s.
///
/// # Invariants
///
/// - `vectors` has as many elements as `pages`, and `free` that many bits (the last word may have
///   more, clear ones).
/// - A bit of `free` is set if and only if the page belongs to no [`Span`]. Bits are cleared under
///   the lock only.
/// - A vector is touched by the owner of the page's span only. Which page a place has is changed by
///   its owner only; if it is free it is looked at under the lock.
#[pin_data]
pub(crate) struct PagePool {
    pages: Pages,
    vectors: KVVec<UnsafeCell<c::bio_vec>>,
    free: KVVec<Atomic<u64>>,
    /// Where the next search begins; at most the number of pages.
    #[pin]
    cursor: SpinLock<u32>,
}

// SAFETY: Pages may be used and freed by any thread.
unsafe impl Send for PagePool {}
// SAFETY: By the type invariants each page and each vector has one owner at a time.
unsafe impl Sync for PagePool {}

/// `count` bits from bit `first` on; both together are at most 64.
fn mask(first: u32, count: u32) -> u64 {
    match count {
        0 => 0,
        _ => (u64::MAX >> (PER_WORD - count)) << first,
    }
}

/// The words that hold `count` bits from bit `first` on: index, and mask.
fn words(first: u32, count: u32) -> impl Iterator<Item = (usize, u64)> {
    let end = first + count;
    (first / PER_WORD..end.div_ceil(PER_WORD)).map(move |word| {
        let from = first.max(word * PER_WORD);
        let to = end.min((word + 1) * PER_WORD);
        (word as usize, mask(from % PER_WORD, to - from))
    })
}

impl PagePool {
    /// Allocates a pool of `pages` pages, from 1 to [`MAX_PAGES`]; sleeps.
    pub(crate) fn new(pages: u32) -> Result<Arc<Self>> {
        if pages == 0 || pages > MAX_PAGES {
            return Err(EINVAL);
        }
        let mut vectors = KVVec::with_capacity(pages as usize, GFP_KERNEL)?;
        for _ in 0..pages {
            vectors.push(UnsafeCell::new(c::bio_vec::default()), GFP_KERNEL)?;
        }
        let mut free = KVVec::with_capacity(pages.div_ceil(PER_WORD) as usize, GFP_KERNEL)?;
        for (_, mask) in words(0, pages) {
            free.push(Atomic::new(mask), GFP_KERNEL)?;
        }
        // INVARIANT: All pages are free.
        Arc::pin_init(
            try_pin_init!(Self {
                pages: Pages::new(pages as usize)?,
                vectors,
                free,
                cursor <- new_spinlock!(0, "dst_pages"),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// The number of pages.
    pub(crate) fn capacity(&self) -> u32 {
        self.vectors.len() as u32
    }

    /// Lends out pages for `bytes` bytes, if there are enough in one run that nobody else holds.
    ///
    /// Process context; doesn't sleep. Nothing tells when pages come free: try again when a span
    /// was dropped or TCP has got an acknowledgement.
    pub(crate) fn take(self: &Arc<Self>, bytes: u32) -> Option<Span> {
        let count = bytes.div_ceil(PAGE_SIZE as u32);
        let total = self.capacity();
        if count == 0 || count > total {
            return None;
        }
        let mut cursor = self.cursor.lock();
        let mut at = *cursor;
        let mut tried = 0;
        while tried < total {
            if at > total - count {
                tried += total - at;
                at = 0;
                continue;
            }
            let good = self.usable(at, count);
            if good < count {
                tried += good + 1;
                at += good + 1;
                continue;
            }
            for (word, mask) in words(at, count) {
                // The bits are set, and only who holds the lock clears bits.
                self.free.get(word)?.fetch_sub(mask, Acquire);
            }
            *cursor = at + count;
            drop(cursor);
            // INVARIANT: The pages were free, and belong to the span now.
            let mut span = Span {
                pool: self.clone(),
                first: at,
                pages: count,
                bytes,
                vectors: 0,
            };
            span.fill();
            return Some(span);
        }
        None
    }

    /// Replaces the free pages that somebody else still holds by new ones; returns how many.
    ///
    /// The network lets go of a page when it likes to: over loopback a buffer that its receiver has
    /// read may be kept until its CPU has something else to receive. So who waits for pages while
    /// nothing goes on that could give some back might wait for ever. What is replaced belongs to
    /// the network alone from then on, which bounds what it holds by itself.
    ///
    /// Process context; allocates, without starting I/O, and may sleep for that.
    pub(crate) fn replace(&self) -> u32 {
        let mut replaced = 0;
        for at in 0..self.capacity() {
            let Some(word) = self.free.get((at / PER_WORD) as usize) else {
                break;
            };
            let bit = mask(at % PER_WORD, 1);
            let cursor = self.cursor.lock();
            if word.load(Acquire) & bit == 0 || self.usable(at, 1) == 1 {
                continue;
            }
            // INVARIANT: The page was free, and is ours until the bit is set again below.
            word.fetch_sub(bit, Acquire);
            drop(cursor);
            // SAFETY: This is process context, and may sleep.
            let new = NonNull::new(unsafe { c::alloc_pages(c::GFP_NOIO | c::__GFP_NOWARN, 0) });
            if let (Some(new), Some(place)) = (new, self.pages.0.get(at as usize)) {
                // INVARIANT: The new page comes with a reference.
                // SAFETY: The place is ours by the type invariant.
                let old = unsafe { place.get().replace(new) };
                // SAFETY: The reference to the old page was ours, and it is in no place now.
                unsafe { c::__free_pages(old.as_ptr(), 0) };
                replaced += 1;
            }
            word.fetch_add(bit, Release);
            if new.is_none() {
                break;
            }
        }
        replaced
    }

    /// How many of the `count` pages from `first` on are free, and held by nobody else, until the
    /// first that isn't. The lock must be held.
    fn usable(&self, first: u32, count: u32) -> u32 {
        let mut free = 0;
        for (word, mask) in words(first, count) {
            let taken = match self.free.get(word) {
                Some(word) => !word.load(Acquire) & mask,
                None => mask,
            };
            if taken != 0 {
                free += taken.trailing_zeros() - mask.trailing_zeros();
                break;
            }
            free += mask.count_ones();
        }
        let Some(pages) = self.pages.0.get(first as usize..(first + free) as usize) else {
            return 0;
        };
        // SAFETY: So many pointers to valid pages are there. They are free and the lock is held, so
        // that nobody changes them.
        unsafe { c::dst_pages_idle(pages.as_ptr().cast(), free) }
    }
}

/// A run of pages, for `bytes()` bytes; given back on drop. Any context.
///
/// # Invariants
///
/// The `pages` pages of the pool from `first` on, and their vectors, belong to the span. The first
/// `vectors` of these vectors describe `bytes` bytes in the pages.
pub(crate) struct Span {
    pool: Arc<PagePool>,
    first: u32,
    pages: u32,
    bytes: u32,
    vectors: u32,
}

impl Span {
    /// The size in bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The first of the vectors. It may be used as long as the span is there.
    #[inline]
    pub(super) fn table(&self) -> *mut c::bio_vec {
        match self.pool.vectors.get(self.first as usize) {
            Some(vector) => vector.get(),
            None => core::ptr::null_mut(),
        }
    }

    /// The number of vectors; less than 2^16, if the span is smaller than 256 MiB.
    #[inline]
    pub(super) fn vectors(&self) -> u32 {
        self.vectors
    }

    /// Describes the pages by vectors, one for each contiguous run of pages.
    fn fill(&mut self) {
        let range = self.first as usize..(self.first + self.pages) as usize;
        let (Some(pages), Some(table)) = (
            self.pool.pages.0.get(range.clone()),
            self.pool.vectors.get(range),
        ) else {
            return;
        };
        let mut left = self.bytes;
        let mut used = 0;
        let mut vector = c::bio_vec::default();
        let mut next = core::ptr::null_mut();
        // There are at most as many vectors as pages.
        let mut table = table.iter();
        let mut store = |vector| {
            if let Some(place) = table.next() {
                // SAFETY: By the type invariant the vector is ours.
                unsafe { *place.get() = vector };
                used += 1;
            }
        };
        for page in pages {
            // SAFETY: By the type invariant the place is ours.
            let page = unsafe { *page.get() };
            let bytes = left.min(PAGE_SIZE as u32);
            left -= bytes;
            // With this configuration pages are contiguous if their descriptors are.
            if cfg!(CONFIG_SPARSEMEM_VMEMMAP) && page.as_ptr() == next {
                vector.bv_len += bytes;
            } else {
                if vector.bv_len != 0 {
                    store(vector);
                }
                vector = c::bio_vec {
                    bv_page: page.as_ptr(),
                    bv_len: bytes,
                    bv_offset: 0,
                };
            }
            next = page.as_ptr().wrapping_add(1);
        }
        store(vector);
        // INVARIANT: The vectors cover all pages, but of the last one only what is left for it.
        self.vectors = used;
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        for (word, mask) in words(self.first, self.pages) {
            if let Some(word) = self.pool.free.get(word) {
                // INVARIANT: The bits are clear, as the pages were ours until now.
                word.fetch_add(mask, Release);
            }
        }
    }
}

impl Span {
    fn as_vectors(&self) -> Vectors {
        Vectors {
            first: self.table(),
            offset: 0,
            bytes: self.bytes,
        }
    }
}

// SAFETY:
// - `Vectors::iter` covers what is left behind `done`.
// - The vectors and the pages are there as long as the span is. No Rust reference points into the
//   pages.
// - The pages are counted, and come from the page allocator itself.
unsafe impl Segments for Span {
    fn iter(&self, done: u32, direction: Direction) -> c::iov_iter {
        // SAFETY: By the type invariant the vectors cover `bytes`.
        unsafe { self.as_vectors().iter(done, direction) }
    }

    fn bytes(&self) -> u32 {
        self.bytes
    }

    fn splice_ok(&self) -> bool {
        true
    }
}

#[kunit_tests(dst_span)]
mod tests {
    use super::*;

    const PAGE: u32 = PAGE_SIZE as u32;

    /// The number of pages that are lent out.
    fn used(pool: &PagePool) -> u32 {
        let free: u32 = pool
            .free
            .iter()
            .map(|word| word.load(Acquire).count_ones())
            .sum();
        pool.vectors.len() as u32 - free
    }

    #[test]
    fn bits_of_a_run_are_found_across_words() {
        let mut runs = words(60, 70);
        assert_eq!(runs.next(), Some((0, 0xf << 60)));
        assert_eq!(runs.next(), Some((1, u64::MAX)));
        assert_eq!(runs.next(), Some((2, 3)));
        assert_eq!(runs.next(), None);
        assert_eq!(words(64, 64).next(), Some((1, u64::MAX)));
    }

    #[test]
    fn pages_are_lent_once() {
        let pool = PagePool::new(100).unwrap();
        let mut spans = KVec::new();
        for _ in 0..10 {
            spans
                .push(pool.take(10 * PAGE).unwrap(), GFP_KERNEL)
                .unwrap();
        }
        assert_eq!(used(&pool), 100);
        assert!(pool.take(1).is_none());
        let fourth = spans.remove(3).unwrap();
        assert_eq!(fourth.first, 30);
        drop(fourth);
        assert!(pool.take(11 * PAGE).is_none());
        let again = pool.take(9 * PAGE + 1).unwrap();
        assert_eq!(again.first, 30);
        drop(again);
        drop(spans);
        assert_eq!(used(&pool), 0);
        let all = pool.take(100 * PAGE).unwrap();
        assert_eq!(used(&pool), 100);
        drop(all);
        assert!(pool.take(101 * PAGE).is_none());
        assert!(pool.take(0).is_none());
    }

    #[test]
    fn a_page_that_is_held_is_left_alone() {
        let pool = PagePool::new(3).unwrap();
        // SAFETY: The page is valid; the reference is dropped below.
        unsafe { c::dst_get_page((*pool.pages.0[1].get()).as_ptr()) };
        assert!(pool.take(2 * PAGE).is_none());
        let first = pool.take(1).unwrap();
        let last = pool.take(1).unwrap();
        assert_eq!((first.first, last.first), (0, 2));
        assert!(pool.take(1).is_none());
        // SAFETY: The reference was taken above.
        unsafe { c::__free_pages((*pool.pages.0[1].get()).as_ptr(), 0) };
        assert_eq!(pool.take(PAGE).unwrap().first, 1);
    }

    #[test]
    fn a_page_that_is_held_is_replaced() {
        let pool = PagePool::new(3).unwrap();
        assert_eq!(pool.replace(), 0);
        // SAFETY: The places are valid, and nobody changes them now.
        let (old, lent) = unsafe { (*pool.pages.0[1].get(), *pool.pages.0[0].get()) };
        // SAFETY: The pages are valid; the references are dropped below.
        unsafe {
            (
                c::dst_get_page(old.as_ptr()),
                c::dst_get_page(lent.as_ptr()),
            )
        };
        let first = pool.take(1);
        assert!(first.is_none() || first.as_ref().unwrap().first == 2);
        assert_eq!(pool.replace(), 2);
        drop(first);
        assert_eq!(pool.take(3 * PAGE).unwrap().first, 0);
        // SAFETY: The references were taken above.
        unsafe {
            (
                c::__free_pages(old.as_ptr(), 0),
                c::__free_pages(lent.as_ptr(), 0),
            )
        };
    }

    #[test]
    fn vectors_have_the_length_that_was_asked_for() {
        let pool = PagePool::new(40).unwrap();
        for bytes in [1, 512, PAGE - 1, PAGE, PAGE + 1, 33 * PAGE + 512, 40 * PAGE] {
            let span = pool.take(bytes).unwrap();
            let mut sum = 0;
            for index in 0..span.vectors() as usize {
                // SAFETY: There are so many vectors.
                sum += unsafe { (*span.table().add(index)).bv_len };
            }
            assert_eq!(sum, bytes);
            let iter = span.iter(bytes / 2, Direction::Source);
            // SAFETY: The iterator was initialized; `count` isn't in the union.
            let count = unsafe { iter.__bindgen_anon_1.__bindgen_anon_1.as_ref().count };
            assert_eq!(count, (bytes - bytes / 2) as usize);
        }
    }
}
