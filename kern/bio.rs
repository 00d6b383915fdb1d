// SPDX-License-Identifier: GPL-2.0

//! Requests of the block layer: bios that we got from above.
//!
//! A [`Bio`] is ours until it is ended, and dropping it ends it with an error, so none is ever
//! lost. It is cut into [`BioPart`]s, each of which is a share of the bio and a range of its data.
//! The bio ends when the last share is given up, with the first error that one of them met. That is
//! the block layer's own count (`__bi_remaining`), so a part needs no object beside itself, and a
//! bio that is served in one piece is not even counted.
//!
//! The bio itself and its vectors are never changed: both types have an iterator of their own, as
//! they may have to be sent several times, and to several nodes. Only a [`BioQueue`] notes in a bio
//! what is left of it.

use super::{
    c,
    segments::{
        Direction,
        Segments, //
    },
    vectors::Vectors, //
};
use core::{
    fmt,
    mem::ManuallyDrop,
    ptr::NonNull, //
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::SpinLockIrq, //
};

/// What a bio asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// To read data.
    Read,
    /// To write data.
    Write,
    /// To make durable what was acknowledged before.
    Flush,
    /// To forget data.
    Discard,
    /// To overwrite data with zeroes.
    WriteZeroes,
    /// What we can't do.
    Other,
}

/// How a bio, or a part of it, ended: a `blk_status_t`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(c::blk_status_t);

impl Status {
    pub(crate) const OK: Self = Self(c::BLK_STS_OK as c::blk_status_t);
    pub(crate) const NOTSUPP: Self = Self(c::BLK_STS_NOTSUPP);
    pub(crate) const NOSPC: Self = Self(c::BLK_STS_NOSPC);
    pub(crate) const RESOURCE: Self = Self(c::BLK_STS_RESOURCE);
    pub(crate) const IOERR: Self = Self(c::BLK_STS_IOERR);
    /// Only for bios that must not wait.
    pub(crate) const AGAIN: Self = Self(c::BLK_STS_AGAIN);
    pub(crate) const INVAL: Self = Self(c::BLK_STS_INVAL);
    /// The device has understood the request, and refuses it.
    pub(super) const TARGET: Self = Self(c::BLK_STS_TARGET);

    /// Wraps what a lower device said.
    pub(super) fn from_raw(status: c::blk_status_t) -> Self {
        Self(status)
    }

    /// Whether all went well.
    #[inline]
    pub(crate) fn is_ok(self) -> bool {
        self == Self::OK
    }

    /// The status that stands for `error`.
    pub(crate) fn from_errno(error: Error) -> Self {
        // SAFETY: There are no requirements.
        Self(unsafe { c::errno_to_blk_status(error.to_errno()) })
    }

    /// The error that stands for the status, which is 0 if it isn't one.
    pub(crate) fn to_errno(self) -> i32 {
        // SAFETY: There are no requirements: what isn't known becomes an I/O error.
        unsafe { c::blk_status_to_errno(self.0) }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_errno())
    }
}

impl From<Result> for Status {
    fn from(result: Result) -> Self {
        result.map_or_else(Self::from_errno, |()| Self::OK)
    }
}

/// A range of a bio's data: our own `bvec_iter`.
#[derive(Clone, Copy)]
pub(super) struct Range {
    /// Where it is on the bio's device.
    pub(super) sector: u64,
    pub(super) bytes: u32,
    /// The vector that it begins in.
    pub(super) index: u32,
    /// Where in this vector.
    pub(super) offset: u32,
}

/// Flags that mean something to the submitter only, and must not go further down.
const NOT_FOR_CLONES: c::blk_opf_t = c::REQ_POLLED | c::REQ_ALLOC_CACHE;

fn op(opf: c::blk_opf_t, bytes: u32) -> Op {
    match opf & c::REQ_OP_MASK {
        c::req_op_REQ_OP_READ if bytes != 0 => Op::Read,
        c::req_op_REQ_OP_WRITE if bytes != 0 => Op::Write,
        c::req_op_REQ_OP_WRITE if opf & c::REQ_PREFLUSH != 0 => Op::Flush,
        c::req_op_REQ_OP_DISCARD => Op::Discard,
        c::req_op_REQ_OP_WRITE_ZEROES => Op::WriteZeroes,
        _ => Op::Other,
    }
}

/// A bio from above, and what is left of its range. It is ended on drop, with an I/O error.
///
/// # Invariants
///
/// `raw` is a valid bio, submitted to a disk of ours, of which we own one share: one call of
/// `bio_endio()`. `rest` lies within the bio's original range; its vectors are there.
pub(crate) struct Bio {
    raw: NonNull<c::bio>,
    rest: Range,
    opf: c::blk_opf_t,
}

// SAFETY: A bio may be worked on, and ended, by any thread.
unsafe impl Send for Bio {}
// SAFETY: Shared access only reads what nobody writes.
unsafe impl Sync for Bio {}

impl Bio {
    /// Takes over a bio.
    ///
    /// # Safety
    ///
    /// `raw` is a valid bio that was given to a disk of ours (or is, in its `bi_iter` and `bi_opf`,
    /// what is left of one), and the caller passes on the duty to end it.
    #[inline]
    pub(super) unsafe fn from_raw(raw: NonNull<c::bio>) -> Self {
        // SAFETY: By the function's requirements.
        let bio = unsafe { raw.as_ref() };
        // INVARIANT: By the function's requirements.
        Self {
            raw,
            rest: Range {
                sector: bio.bi_iter.bi_sector,
                bytes: bio.bi_iter.bi_size,
                index: bio.bi_iter.bi_idx,
                offset: bio.bi_iter.bi_offset,
            },
            opf: bio.bi_opf & !NOT_FOR_CLONES,
        }
    }

    /// What it asks for. A bio with data and a flush before them is a [`Op::Write`]: see
    /// [`Self::is_preflush`].
    #[inline]
    pub(crate) fn op(&self) -> Op {
        // A clone with integrity data or a key would have to allocate. Our disks offer neither.
        if self.opf & (c::REQ_INTEGRITY | c::REQ_ATOMIC) != 0 {
            return Op::Other;
        }
        #[cfg(CONFIG_BLK_INLINE_ENCRYPTION)]
        // SAFETY: By the type invariant.
        if !unsafe { self.raw.as_ref() }.bi_crypt_context.is_null() {
            return Op::Other;
        }
        op(self.opf, self.rest.bytes)
    }

    /// The first sector (of 512 bytes) of what is left.
    #[inline]
    pub(crate) fn sector(&self) -> u64 {
        self.rest.sector
    }

    /// How much is left.
    #[inline]
    pub(crate) fn bytes(&self) -> u32 {
        self.rest.bytes
    }

    /// Whether what was acknowledged before must be durable before this is begun.
    #[inline]
    pub(crate) fn is_preflush(&self) -> bool {
        self.opf & c::REQ_PREFLUSH != 0
    }

    /// Whether the submitter must not sleep: rather end it with [`Status::AGAIN`].
    #[inline]
    pub(crate) fn is_nowait(&self) -> bool {
        self.opf & c::REQ_NOWAIT != 0
    }

    /// Notes that the flush before the data is done: the parts that are cut from here on don't ask
    /// for it.
    #[inline]
    pub(crate) fn clear_preflush(&mut self) {
        self.opf &= !c::REQ_PREFLUSH;
    }

    /// Ends it, or rather what is left of it. Any context, if the parts are ended so.
    pub(crate) fn end(self, status: Status) {
        let raw = ManuallyDrop::new(self).raw;
        // SAFETY: By the type invariant; the share is given up here.
        unsafe { end(raw, status) };
    }

    /// Cuts `bytes` (at most [`Self::bytes`]) off the front. The bio then ends after this part,
    /// too.
    ///
    /// A part of 0 bytes of a bio with [`Self::is_preflush`] is a flush.
    pub(crate) fn split_front(&mut self, bytes: u32) -> BioPart {
        // SAFETY: By the type invariant. It adds the share that the new part owns.
        unsafe { c::dst_bio_share(self.raw.as_ptr()) };
        let front = Range {
            bytes: bytes.min(self.rest.bytes),
            ..self.rest
        };
        self.advance(front.bytes);
        // SAFETY: The share was added above; `front` is a part of what was left.
        unsafe { BioPart::new(self.raw, front, self.opf) }
    }

    /// Notes in the bio itself what is left of it. This is the one place where a bio is changed; parts have their own
    /// ranges.
    fn note(&self) {
        // SAFETY: By the type invariant it is valid, and ours.
        unsafe {
            let raw = self.raw.as_ptr();
            (*raw).bi_iter = c::bvec_iter {
                bi_sector: self.rest.sector,
                bi_size: self.rest.bytes,
                bi_idx: self.rest.index,
                bi_offset: self.rest.offset,
            };
            (*raw).bi_opf &= self.opf | NOT_FOR_CLONES;
        }
    }

    /// Submits what is left to its disk again, as if it came from above: whatever serves that by now gets it. Process
    /// context; may sleep.
    pub(crate) fn submit_again(self) {
        // SAFETY: By the type invariant.
        if unsafe { self.raw.as_ref() }.bi_bdev.is_null() {
            // It is one of our own, which nobody has submitted: the drop ends it.
            return;
        }
        self.note();
        // SAFETY: The bio is valid, says what is left of it, and belongs to a disk, which whoever submitted it keeps open
        // until it ends. Our share goes with it.
        unsafe { c::submit_bio_noacct(ManuallyDrop::new(self).raw.as_ptr()) };
    }

    /// All that is left, as one part.
    #[inline]
    pub(crate) fn into_part(self) -> BioPart {
        let this = ManuallyDrop::new(self);
        // SAFETY: The part takes over the share, and the range.
        unsafe { BioPart::new(this.raw, this.rest, this.opf) }
    }

    /// Moves the start of what is left by `bytes`, at most as many as are left.
    fn advance(&mut self, bytes: u32) {
        let rest = &mut self.rest;
        rest.bytes -= bytes;
        rest.sector += u64::from(bytes >> c::SECTOR_SHIFT);
        if !has_data(self.opf) {
            return;
        }
        let bio = self.raw.as_ptr();
        // In 64 bits, as a vector may be as long as 32 bits allow.
        let mut ahead = u64::from(rest.offset) + u64::from(bytes);
        while ahead != 0 {
            let index = rest.index as usize;
            // SAFETY: By the type invariant the vectors of all that was left are there, this one
            // included: it is behind the last one only if nothing is left, and then `ahead` is 0
            // when it is reached.
            let length = unsafe { (*(*bio).bi_io_vec.add(index)).bv_len };
            if ahead < u64::from(length) {
                break;
            }
            ahead -= u64::from(length);
            rest.index += 1;
        }
        // It is less than the length of a vector.
        rest.offset = ahead as u32;
    }
}

impl Drop for Bio {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; the share is given up here.
        unsafe { end(self.raw, Status::IOERR) };
    }
}

/// Whether bios with these flags have vectors.
fn has_data(opf: c::blk_opf_t) -> bool {
    matches!(
        opf & c::REQ_OP_MASK,
        c::req_op_REQ_OP_READ | c::req_op_REQ_OP_WRITE
    )
}

/// Gives up a share of a bio.
///
/// # Safety
///
/// The caller owns a share of `bio`, which is valid, and doesn't use it any more.
#[inline]
unsafe fn end(bio: NonNull<c::bio>, status: Status) {
    if !status.is_ok() {
        // SAFETY: By the function's requirements the bio is valid until our share is given up.
        unsafe { c::dst_bio_fail(bio.as_ptr(), status.0) };
    }
    // SAFETY: By the function's requirements.
    unsafe { c::bio_endio(bio.as_ptr()) };
}

/// A share of a bio, with a range of its data. It is ended on drop, with an I/O error.
///
/// It is in the statistics of the disk from when it is made until it ends, if they are wanted.
///
/// # Invariants
///
/// `raw` is a valid bio, submitted to a disk of ours, of which we own one share. `range` lies
/// within its range, and, if it has data, its vectors are there. `started` is `Some` if
/// `bdev_start_io_acct()` was called.
pub(crate) struct BioPart {
    raw: NonNull<c::bio>,
    range: Range,
    opf: c::blk_opf_t,
    started: Option<c_ulong>,
}

// SAFETY: A bio may be worked on, and ended, by any thread.
unsafe impl Send for BioPart {}
// SAFETY: Shared access only reads what nobody writes.
unsafe impl Sync for BioPart {}

impl BioPart {
    /// # Safety
    ///
    /// The caller passes on a share of `raw`, of which `range` is a part.
    #[inline]
    unsafe fn new(raw: NonNull<c::bio>, range: Range, opf: c::blk_opf_t) -> Self {
        // INVARIANT: By the function's requirements; `start` sees to `started`.
        let mut part = Self {
            raw,
            range,
            opf,
            started: None,
        };
        part.start();
        part
    }

    #[inline]
    fn start(&mut self) {
        // SAFETY: By the type invariant the bio is valid; so is its device, which it was submitted
        // to, until it ends. `jiffies` may be read at any time.
        unsafe {
            let bdev = (*self.raw.as_ptr()).bi_bdev;
            // A flush of our own belongs to no device.
            if !bdev.is_null() && (*(*bdev).bd_queue).limits.features & c::BLK_FEAT_IO_STAT != 0 {
                let now = (&raw const c::jiffies).read_volatile();
                self.started = Some(c::bdev_start_io_acct(bdev, self.opf & c::REQ_OP_MASK, now));
            }
        }
    }

    /// What it asks for.
    #[inline]
    pub(crate) fn op(&self) -> Op {
        op(self.opf, self.range.bytes)
    }

    /// How much it is; 0 for a flush.
    #[inline]
    pub(crate) fn bytes(&self) -> u32 {
        self.range.bytes
    }

    /// Its first sector (of 512 bytes) on the upper device.
    #[inline]
    pub(crate) fn sector(&self) -> u64 {
        self.range.sector
    }

    /// The number of the disk that the bio was submitted to, in the kernel's own form; 0 for a flush of our own.
    pub(super) fn dev(&self) -> u32 {
        // SAFETY: By the type invariant the bio is valid; so is its device, if it has one, until it ends.
        unsafe {
            let bdev = (*self.raw.as_ptr()).bi_bdev;
            if bdev.is_null() {
                0
            } else {
                (*bdev).bd_dev
            }
        }
    }

    /// Whether the data must be durable when it ends.
    #[inline]
    pub(crate) fn fua(&self) -> bool {
        self.opf & c::REQ_FUA != 0
    }

    /// Whether [`Op::WriteZeroes`] must leave the blocks allocated.
    #[inline]
    pub(crate) fn nounmap(&self) -> bool {
        self.opf & c::REQ_NOUNMAP != 0
    }

    /// Whether the submitter must not sleep.
    #[inline]
    pub(crate) fn nowait(&self) -> bool {
        self.opf & c::REQ_NOWAIT != 0
    }

    /// Ends it; the last part ends the bio. Any context.
    #[inline]
    pub(crate) fn end(self, status: Status) {
        ManuallyDrop::new(self).finish(status);
    }

    /// Gives up the share. It is called once, and then `self` isn't used any more.
    #[inline]
    fn finish(&mut self, status: Status) {
        if let Some(started) = self.started.take() {
            let sectors = self.range.bytes >> c::SECTOR_SHIFT;
            // SAFETY: As in `start`, which began what this ends.
            unsafe {
                let bdev = (*self.raw.as_ptr()).bi_bdev;
                c::bdev_end_io_acct(bdev, self.opf & c::REQ_OP_MASK, sectors, started);
            }
        }
        // SAFETY: By the type invariant; the share is given up here.
        unsafe { end(self.raw, status) };
    }

    /// What a clone of this part is made of: the bio, the range of it, operation and flags.
    #[inline]
    pub(super) fn parts(&self) -> (NonNull<c::bio>, Range, c::blk_opf_t) {
        let mut opf = self.opf;
        if self.range.bytes == 0 {
            // An empty part is a flush and nothing else.
            opf &= !c::REQ_FUA;
        }
        (self.raw, self.range, opf)
    }

    /// The vectors of the range.
    fn vectors(&self) -> Vectors {
        if !has_data(self.opf) {
            return Vectors {
                first: core::ptr::null(),
                offset: 0,
                bytes: 0,
            };
        }
        // SAFETY: By the type invariant the vector is there (or, if there is no data, it isn't
        // read).
        let first = unsafe {
            (*self.raw.as_ptr())
                .bi_io_vec
                .add(self.range.index as usize)
        };
        Vectors {
            first,
            offset: self.range.offset,
            bytes: self.range.bytes,
        }
    }
}

impl Drop for BioPart {
    fn drop(&mut self) {
        self.finish(Status::IOERR);
    }
}

// SAFETY:
// - `Vectors::iter` covers what is left of the range behind `done`.
// - The vectors and their pages are there until the bio ends, which the part prevents. They belong
//   to the submitter, and no Rust reference points into them.
// - `Vectors::splice_ok` asks `sendpage_ok()` for each page.
unsafe impl Segments for BioPart {
    fn iter(&self, done: u32, direction: Direction) -> c::iov_iter {
        // SAFETY: By the type invariant the vectors cover the range.
        unsafe { self.vectors().iter(done, direction) }
    }

    fn bytes(&self) -> u32 {
        if has_data(self.opf) {
            self.range.bytes
        } else {
            0
        }
    }

    fn splice_ok(&self) -> bool {
        // SAFETY: By the type invariant the vectors cover the range.
        unsafe { self.vectors().splice_ok() }
    }
}

/// Bios that a thread will take up later, the first one first. Any context.
#[pin_data]
pub(crate) struct BioQueue {
    #[pin]
    list: SpinLockIrq<BioList>,
}

/// # Invariants
///
/// `first` is null, or heads a list, linked by `bi_next`, of bios of which each is what [`Bio`] was
/// made of, and of which the list owns the share. `last` is its last one.
struct BioList {
    first: *mut c::bio,
    last: *mut c::bio,
}

// SAFETY: It is as good as the bios in it.
unsafe impl Send for BioList {}

impl BioQueue {
    /// An empty queue.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: There is no bio.
            list <- new_spinlock_irq!(
                BioList { first: core::ptr::null_mut(), last: core::ptr::null_mut() },
                "dst_bio_queue"
            ),
        })
    }

    /// Puts a bio at the end. Returns whether it is the only one there.
    pub(crate) fn push(&self, bio: Bio) -> bool {
        let bio = ManuallyDrop::new(bio);
        let raw = bio.raw.as_ptr();
        bio.note();
        // SAFETY: By the type invariant of `Bio` it is valid, and ours.
        unsafe { (*raw).bi_next = core::ptr::null_mut() };
        let mut list = self.list.lock();
        let only = list.first.is_null();
        if only {
            list.first = raw;
        } else {
            // SAFETY: By the type invariant.
            unsafe { (*list.last).bi_next = raw };
        }
        // INVARIANT: It is the last one now, and the share of `bio` is the list's.
        list.last = raw;
        only
    }

    /// Takes the first bio.
    pub(crate) fn pop(&self) -> Option<Bio> {
        let mut list = self.list.lock();
        let raw = NonNull::new(list.first)?;
        // SAFETY: By the type invariant the bio is valid, and ours.
        unsafe {
            list.first = (*raw.as_ptr()).bi_next;
            (*raw.as_ptr()).bi_next = core::ptr::null_mut();
        }
        drop(list);
        // SAFETY: `push` saw to this, and the share passes from the list to the caller.
        Some(unsafe { Bio::from_raw(raw) })
    }
}

impl Drop for BioList {
    fn drop(&mut self) {
        while let Some(raw) = NonNull::new(self.first) {
            // SAFETY: By the type invariant; the share is given up with the `Bio`.
            unsafe {
                self.first = (*raw.as_ptr()).bi_next;
                drop(Bio::from_raw(raw));
            }
        }
    }
}
