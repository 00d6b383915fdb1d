// SPDX-License-Identifier: GPL-2.0

//! Requests of our own to devices below: a bio that lies in an object of a pool.
//!
//! The object is given away as a [`Slot`] when its bio is submitted, and comes back as one when it
//! ends. So while the block layer has the bio nobody can touch the object, move it, or give it back
//! to its pool: that is why the bio, and what [`Lower`] tells of the object, stay as they are for
//! that long.
//!
//! Nothing is allocated. A clone shares the vectors of the bio from above.

use super::{
    bdev::BackingDev,
    bio::{
        Bio,
        BioPart,
        Op,
        Range,
        Status, //
    },
    c,
    pool::Slot,
    span::Span,
    zeroes::Zeroes, //
};
use core::ptr::NonNull;
use kernel::{
    page::PAGE_SIZE,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};

/// A bio for a device below: a place for it, while it isn't in flight.
pub(crate) struct LowerBio(Opaque<c::bio>);

// SAFETY: While there is a reference to it, it is memory without contents.
unsafe impl Send for LowerBio {}
// SAFETY: As above.
unsafe impl Sync for LowerBio {}

impl LowerBio {
    /// A place for a bio.
    pub(crate) const fn new() -> Self {
        Self(Opaque::uninit())
    }
}

/// An object of a pool that can be submitted to a device below.
///
/// All methods but `end` just point to what the object has: they change nothing.
pub(crate) trait Lower<C>: Sized {
    /// The object's bio.
    fn lower(&mut self) -> &mut LowerBio;

    /// The device that the object is for, kept by the object itself, or by its pool's context.
    /// `None`: it ends with an I/O error.
    fn device<'a>(&'a self, context: &'a C) -> Option<&'a BackingDev>;

    /// The part that [`Slot::submit_part`] submits.
    fn part(&self) -> Option<&BioPart> {
        None
    }

    /// The pages that [`Slot::submit_span`] submits.
    fn span(&self) -> Option<&Span> {
        None
    }

    /// The zeroes that [`Slot::submit_zeroes`] submits, kept as the device is.
    fn zeroes<'a>(&'a self, _context: &'a C) -> Option<&'a Zeroes> {
        None
    }

    /// Takes back the object, whose request has ended.
    ///
    /// Any context, hard interrupts included, and also from within the call that submits. Must not
    /// sleep, nor drop what sleeps then: the last reference to a device, for instance.
    fn end(slot: Slot<C, Self>, status: Status);
}

impl<C, T: Lower<C>> Slot<C, T> {
    /// Submits the object's part to its device, from `sector` on, as it came from above: with its
    /// flags (durability, priority, not to wait) and the submitter's control group.
    ///
    /// Process context; may sleep, as the device below likes.
    pub(crate) fn submit_part(mut self, sector: u64) {
        let bio = self.bio();
        let (Some((src, range, opf)), Some(bdev)) = (self.part().map(BioPart::parts), self.bdev())
        else {
            return T::end(self, Status::IOERR);
        };
        // SAFETY: `bio` is memory for a bio that isn't in use. `src` is valid: the part owns a
        // share of it, and is in `self`. `bdev` is valid until the bio ends, see `bdev`.
        if unsafe { c::dst_bio_clone(bio, src.as_ptr(), bdev, c::GFP_NOIO) } != 0 {
            return T::end(self, Status::RESOURCE);
        }
        // SAFETY: `bio` was initialized.
        unsafe {
            (*bio).bi_opf = opf;
            (*bio).bi_iter = iter(Range { sector, ..range });
        }
        // SAFETY: The bio is complete. Its vectors are those of `src`, which doesn't end before the
        // part does.
        unsafe { self.submit(bio, c::submit_bio_noacct) };
    }

    /// Submits a read into, or a write from, the object's pages.
    ///
    /// Process context; may sleep, as the device below likes.
    pub(crate) fn submit_span(mut self, write: bool, fua: bool, sector: u64) {
        let bio = self.bio();
        let Some((table, vectors, bytes)) = self
            .span()
            .map(|span| (span.table(), span.vectors(), span.bytes()))
        else {
            return T::end(self, Status::IOERR);
        };
        let (Some(bdev), Ok(vectors)) = (self.bdev(), u16::try_from(vectors)) else {
            return T::end(self, Status::IOERR);
        };
        let opf = match (write, fua) {
            (false, _) => c::req_op_REQ_OP_READ,
            (true, false) => c::req_op_REQ_OP_WRITE | c::REQ_SYNC | c::REQ_IDLE,
            (true, true) => c::req_op_REQ_OP_WRITE | c::REQ_SYNC | c::REQ_IDLE | c::REQ_FUA,
        };
        // SAFETY: `bio` is memory for a bio that isn't in use; the span, which is in `self`, has so
        // many vectors, for so many bytes. `bdev` is valid until the bio ends, see `bdev`.
        unsafe {
            c::bio_init(bio, bdev, table, vectors, opf);
            (*bio).bi_vcnt = vectors;
            (*bio).bi_iter.bi_size = bytes;
            (*bio).bi_iter.bi_sector = sector;
        }
        // SAFETY: The bio is complete.
        unsafe { self.submit(bio, c::submit_bio) };
    }

    /// Submits a write of `bytes` zeroes, at most [`Zeroes::MAX_BYTES`] and whole sectors, for devices that can't do
    /// with [`Op::WriteZeroes`].
    ///
    /// Process context; may sleep, as the device below likes.
    pub(crate) fn submit_zeroes(mut self, sector: u64, bytes: u32) {
        let bio = self.bio();
        // The vectors stay valid for as long as the device does, see `bdev`.
        let table = self.zeroes(self.ctx()).map(Zeroes::table);
        let (Some(table), Some(bdev)) = (table, self.bdev()) else {
            return T::end(self, Status::IOERR);
        };
        if bytes > Zeroes::MAX_BYTES {
            return T::end(self, Status::INVAL);
        }
        let vectors = bytes.div_ceil(PAGE_SIZE as u32) as u16;
        // SAFETY: `bio` is memory for a bio that isn't in use; so many vectors are there, for at least so many bytes.
        // They are only read: the size of the data is in the iterator. `bdev` is valid until the bio ends, see `bdev`.
        unsafe {
            let opf = c::req_op_REQ_OP_WRITE | c::REQ_SYNC | c::REQ_IDLE;
            c::bio_init(bio, bdev, table, vectors, opf);
            (*bio).bi_vcnt = vectors;
            (*bio).bi_iter.bi_size = bytes;
            (*bio).bi_iter.bi_sector = sector;
        }
        // SAFETY: The bio is complete.
        unsafe { self.submit(bio, c::submit_bio) };
    }

    /// Submits a request without data: a flush, or to discard or zero `sectors` sectors.
    ///
    /// What is more than 32 bits of bytes can say ends as invalid: the caller splits it. `nounmap`
    /// is for zeroes only: leave the blocks allocated. Process context; may sleep, as the device
    /// below likes.
    pub(crate) fn submit_empty(mut self, op: Op, sector: u64, sectors: u64, nounmap: bool) {
        let bio = self.bio();
        let Some(bdev) = self.bdev() else {
            return T::end(self, Status::IOERR);
        };
        let opf = match op {
            Op::Flush => c::req_op_REQ_OP_WRITE | c::REQ_PREFLUSH | c::REQ_SYNC,
            Op::Discard => c::req_op_REQ_OP_DISCARD,
            Op::WriteZeroes if nounmap => c::req_op_REQ_OP_WRITE_ZEROES | c::REQ_NOUNMAP,
            Op::WriteZeroes => c::req_op_REQ_OP_WRITE_ZEROES,
            Op::Read | Op::Write | Op::Other => return T::end(self, Status::NOTSUPP),
        };
        let (sector, sectors) = if op == Op::Flush {
            (0, 0)
        } else {
            (sector, sectors)
        };
        let bytes = sectors.checked_mul(1 << c::SECTOR_SHIFT).map(u32::try_from);
        let Some(Ok(bytes)) = bytes else {
            return T::end(self, Status::INVAL);
        };
        // SAFETY: `bio` is memory for a bio that isn't in use. `bdev` is valid until the bio ends,
        // see `bdev`.
        unsafe {
            c::bio_init(bio, bdev, core::ptr::null_mut(), 0, opf);
            (*bio).bi_iter.bi_size = bytes;
            (*bio).bi_iter.bi_sector = sector;
        }
        // SAFETY: The bio is complete.
        unsafe { self.submit(bio, c::submit_bio) };
    }

    /// Makes the object's bio an empty flush of our own, to be cut and served like one from above: the object
    /// comes back when that has ended.
    pub(crate) fn into_flush(mut self) -> Bio {
        let bio = self.bio();
        // SAFETY: `bio` is memory for a bio that isn't in use. It belongs to no device, as nothing submits it.
        unsafe {
            let opf = c::req_op_REQ_OP_WRITE | c::REQ_PREFLUSH | c::REQ_SYNC;
            c::bio_init(bio, core::ptr::null_mut(), core::ptr::null_mut(), 0, opf);
        }
        // SAFETY: It is complete, and has no data.
        unsafe { self.into_bio(bio) }
    }

    /// Makes the object's bio a clone of its part ([`Lower::part`]), to be cut and served like one from above: the
    /// object comes back when that has ended. It waits where the part must not, and is in no statistics.
    pub(crate) fn into_clone(mut self) -> core::result::Result<Bio, Self> {
        let bio = self.bio();
        let Some((src, range, opf)) = self.part().map(BioPart::parts) else {
            return Err(self);
        };
        let no_device = core::ptr::null_mut();
        // SAFETY: `bio` is memory for a bio that isn't in use. `src` is valid: the part owns a share of it, and what the
        // object knows it by is not changed before `end` takes up the slot. The clone belongs to no device, as nothing
        // submits it.
        let result = unsafe { c::bio_init_clone(no_device, bio, src.as_ptr(), c::GFP_NOIO) };
        if result != 0 {
            return Err(self);
        }
        // SAFETY: `bio` was initialized just now.
        unsafe {
            (*bio).bi_opf = opf & !c::REQ_NOWAIT;
            (*bio).bi_iter = iter(range);
        }
        // SAFETY: It is complete, and its vectors are those of `src`, which doesn't end before the part does.
        Ok(unsafe { self.into_bio(bio) })
    }

    /// Makes the object's bio a read into, or a write from, the object's pages ([`Lower::span`]), to be cut and served
    /// like one from above: the object comes back when that has ended.
    pub(crate) fn into_span(
        mut self,
        write: bool,
        fua: bool,
        sector: u64,
    ) -> core::result::Result<Bio, Self> {
        let bio = self.bio();
        let span = self.span();
        let Some((table, vectors, bytes)) =
            span.map(|span| (span.table(), span.vectors(), span.bytes()))
        else {
            return Err(self);
        };
        let Ok(vectors) = u16::try_from(vectors) else {
            return Err(self);
        };
        let opf = match (write, fua) {
            (false, _) => c::req_op_REQ_OP_READ,
            (true, false) => c::req_op_REQ_OP_WRITE | c::REQ_SYNC | c::REQ_IDLE,
            (true, true) => c::req_op_REQ_OP_WRITE | c::REQ_SYNC | c::REQ_IDLE | c::REQ_FUA,
        };
        // SAFETY: `bio` is memory for a bio that isn't in use; the span, which is in `self`, has so many vectors, for so
        // many bytes. It belongs to no device, as nothing submits it.
        unsafe {
            c::bio_init(bio, core::ptr::null_mut(), table, vectors, opf);
            (*bio).bi_vcnt = vectors;
            (*bio).bi_iter.bi_size = bytes;
            (*bio).bi_iter.bi_sector = sector;
        }
        // SAFETY: It is complete, and its vectors are those of the span, which stays in the object.
        Ok(unsafe { self.into_bio(bio) })
    }

    /// Gives the object away until its bio, which nothing submits, was ended.
    ///
    /// # Safety
    ///
    /// `bio` is the object's own, and was set up but for its end.
    unsafe fn into_bio(self, bio: *mut c::bio) -> Bio {
        // SAFETY: By the function's requirements. A `Bio` is ended once; `end` takes up the slot then. A pointer to a
        // field of an object isn't null.
        unsafe {
            (*bio).bi_end_io = Some(end::<C, T>);
            (*bio).bi_private = self.into_raw();
            Bio::from_raw(NonNull::new_unchecked(bio))
        }
    }

    /// The device that the object is for.
    ///
    /// It stays valid until the request ends: what [`Lower::device`] borrows it from is not changed
    /// before that. The object isn't touched by anyone while its bio is in flight, and the pool's
    /// context, which lives longer than the slots, is only ever shared.
    fn bdev(&self) -> Option<*mut c::block_device> {
        self.device(self.ctx()).map(BackingDev::as_ptr)
    }

    fn bio(&mut self) -> *mut c::bio {
        self.lower().0.get()
    }

    /// Gives the object away until its bio has ended.
    ///
    /// # Safety
    ///
    /// `bio` is the object's own, and was set up but for its end. `submit` is a function that
    /// submits a bio.
    #[inline]
    unsafe fn submit(self, bio: *mut c::bio, submit: unsafe extern "C" fn(*mut c::bio)) {
        // SAFETY: By the function's requirements. Each bio that is submitted ends once; `end` takes
        // up the slot.
        unsafe {
            (*bio).bi_end_io = Some(end::<C, T>);
            (*bio).bi_private = self.into_raw();
            submit(bio);
        }
    }
}

fn iter(range: Range) -> c::bvec_iter {
    c::bvec_iter {
        bi_sector: range.sector,
        bi_size: range.bytes,
        bi_idx: range.index,
        bi_offset: range.offset,
    }
}

/// How a bio has ended.
///
/// That they can't discard, or write zeroes by a command, many SCSI disks find out when they are asked the first time. They
/// say then that the target refuses it, which is no failure of the disk, as there is another way.
fn status(bio: &c::bio) -> Status {
    let status = Status::from_raw(bio.bi_status);
    match bio.bi_opf & c::REQ_OP_MASK {
        c::req_op_REQ_OP_DISCARD | c::req_op_REQ_OP_WRITE_ZEROES if status == Status::TARGET => {
            Status::NOTSUPP
        }
        _ => status,
    }
}

/// `bi_end_io` of all our bios.
///
/// # Safety
///
/// `bio` was submitted by [`Slot::submit`] with the same type, and has ended.
unsafe extern "C" fn end<C, T: Lower<C>>(bio: *mut c::bio) {
    // SAFETY: By the function's requirements; the block layer doesn't touch the bio after this
    // call.
    let (slot, status) = unsafe {
        let ended = ((*bio).bi_private, status(&*bio));
        c::bio_uninit(bio);
        ended
    };
    // SAFETY: It was put there by `into_raw`, and each bio ends once.
    T::end(unsafe { Slot::from_raw(slot) }, status);
}

/// While this lives, bios that this task submits are served at once.
///
/// Within `submit_bio` the block layer else queues them until that has returned. Who sleeps there
/// for what only those bios can give back would sleep for ever.
pub(crate) struct DirectSubmit {
    queued: Option<NonNull<c::bio_list>>,
    _not_send: NotThreadSafe,
}

impl DirectSubmit {
    /// Begins it.
    pub(crate) fn new() -> Self {
        // SAFETY: Without a list the block layer uses one of its own. The task's list is set again
        // on drop, before the function returns that owns it: guards live no longer than the
        // functions that make them, or are leaked and then leave the task without a list, as it is
        // outside `submit_bio`.
        let queued = unsafe { c::dst_bio_list_swap(core::ptr::null_mut()) };
        Self {
            queued: NonNull::new(queued),
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for DirectSubmit {
    fn drop(&mut self) {
        if let Some(queued) = self.queued {
            // SAFETY: It is the task's own list: the guard can't be sent.
            unsafe { c::dst_bio_list_swap(queued.as_ptr()) };
        }
    }
}
