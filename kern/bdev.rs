// SPDX-License-Identifier: GPL-2.0

//! Block devices of others, opened for ourselves.

use super::c;
use core::ptr::NonNull;
use kernel::{
    error::from_err_ptr,
    prelude::*, //
};

/// A block device that is open for ourselves alone; closed on drop, which sleeps.
///
/// # Invariants
///
/// `file` is what `bdev_file_open_by_path()` returned for `bdev`, with the address of `holder` as
/// holder. It is closed by `Drop` only, so `bdev`, its disk and its queue are valid as long as this
/// object is.
pub(crate) struct BackingDev {
    file: NonNull<c::file>,
    bdev: NonNull<c::block_device>,
    /// Its address tells this opening from all others, those of our own module included.
    _holder: KBox<u8>,
}

// SAFETY: The device may be used and closed by any thread.
unsafe impl Send for BackingDev {}
// SAFETY: Shared access reads plain values, and submits bios, which any number of threads may do.
unsafe impl Sync for BackingDev {}

impl BackingDev {
    /// Opens the device at `path`, to write to it if `write` is set. Sleeps.
    ///
    /// Errors: `ENOENT`, `ENXIO`: there is none; `ENOTBLK`: it is no block device; `EBUSY`: it is
    /// mounted, part of an array, or a node already; `EACCES`, `EROFS`: it can't be written to.
    pub(crate) fn open(path: &CStr, write: bool) -> Result<Self> {
        let holder = KBox::new(0u8, GFP_KERNEL)?;
        let mode = if write {
            c::BLK_OPEN_READ | c::BLK_OPEN_WRITE
        } else {
            c::BLK_OPEN_READ
        };
        // SAFETY: `path` is a string. `holder` lives until the file is closed; it is only compared.
        let file = from_err_ptr(unsafe {
            c::bdev_file_open_by_path(
                path.as_char_ptr(),
                mode,
                (&raw const *holder).cast_mut().cast(),
                core::ptr::null(),
            )
        })?;
        // SAFETY: `file` was returned just now, so it is the file of a block device.
        let bdev = unsafe { c::file_bdev(file) };
        let (Some(file), Some(bdev)) = (NonNull::new(file), NonNull::new(bdev)) else {
            return Err(ENODEV);
        };
        // INVARIANT: So it was opened.
        Ok(Self {
            file,
            bdev,
            _holder: holder,
        })
    }

    pub(super) fn as_ptr(&self) -> *mut c::block_device {
        self.bdev.as_ptr()
    }

    /// Reads one of the queue's limits. They may change while we look, which gives the old or the
    /// new value.
    fn limit<V>(&self, get: impl FnOnce(*const c::queue_limits) -> *const V) -> V
    where
        V: Copy,
    {
        // SAFETY: By the type invariant the queue is valid.
        let limits = unsafe { &raw const (*(*self.as_ptr()).bd_queue).limits };
        // SAFETY: `get` returns a pointer to a field, which is a plain number.
        unsafe { get(limits).read_volatile() }
    }

    fn has(&self, feature: c::blk_features_t) -> bool {
        // SAFETY: The pointer is to valid limits.
        self.limit(|limits| unsafe { &raw const (*limits).features }) & feature != 0
    }

    /// The size in sectors of 512 bytes.
    pub(crate) fn sectors(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { (&raw const (*self.as_ptr()).bd_nr_sectors).read_volatile() }
    }

    /// The unit of all requests, in bytes.
    pub(crate) fn logical_block_size(&self) -> u32 {
        // SAFETY: The pointer is to valid limits; so in the methods that follow.
        self.limit(|limits| unsafe { &raw const (*limits).logical_block_size })
    }

    /// The unit that the device writes at once, in bytes.
    pub(crate) fn physical_block_size(&self) -> u32 {
        // SAFETY: As above.
        self.limit(|limits| unsafe { &raw const (*limits).physical_block_size })
    }

    /// The smallest size of a request that isn't slow, in bytes.
    pub(crate) fn io_min(&self) -> u32 {
        // SAFETY: As above.
        self.limit(|limits| unsafe { &raw const (*limits).io_min })
    }

    /// The best size of a request, in bytes; 0 if the device doesn't say.
    pub(crate) fn io_opt(&self) -> u32 {
        // SAFETY: As above.
        self.limit(|limits| unsafe { &raw const (*limits).io_opt })
    }

    /// Bits of a buffer's address and length that must be 0.
    pub(crate) fn dma_alignment(&self) -> u32 {
        // SAFETY: As above.
        self.limit(|limits| unsafe { &raw const (*limits).dma_alignment })
    }

    /// The most sectors of one discard; 0: the device can't discard.
    pub(crate) fn max_discard_sectors(&self) -> u32 {
        // SAFETY: As above.
        self.limit(|limits| unsafe { &raw const (*limits).max_discard_sectors })
    }

    /// The unit of discards, in bytes.
    pub(crate) fn discard_granularity(&self) -> u32 {
        // SAFETY: As above.
        self.limit(|limits| unsafe { &raw const (*limits).discard_granularity })
    }

    /// The most sectors of one request to write zeroes; 0: the device can't do it by itself.
    pub(crate) fn max_write_zeroes_sectors(&self) -> u32 {
        // SAFETY: As above.
        self.limit(|limits| unsafe { &raw const (*limits).max_write_zeroes_sectors })
    }

    /// Whether the device has a volatile cache, so that flushes mean something.
    pub(crate) fn write_cache(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { c::dst_bdev_write_cache(self.as_ptr()) }
    }

    /// Whether the device's heads must move.
    pub(crate) fn rotational(&self) -> bool {
        self.has(c::BLK_FEAT_ROTATIONAL)
    }

    /// Whether the device can tell rather than wait.
    pub(crate) fn nowait(&self) -> bool {
        self.has(c::BLK_FEAT_NOWAIT)
    }

    /// Whether the device can't be written to.
    pub(crate) fn read_only(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { c::dst_bdev_read_only(self.as_ptr()) }
    }
}

/// Takes the kernel's own form of a device number apart.
pub(super) fn split_dev(dev: c::dev_t) -> (u32, u32) {
    (dev >> c::MINORBITS, dev & ((1 << c::MINORBITS) - 1))
}

impl Drop for BackingDev {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; it isn't used any more.
        unsafe { c::bdev_fput(self.file.as_ptr()) };
    }
}
