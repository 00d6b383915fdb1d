// SPDX-License-Identifier: GPL-2.0

//! Block devices of our own: disks without a request queue, which get bios as the submitter made
//! them.

use super::{
    bdev::split_dev,
    bio::Bio,
    c,
    mem::NoIoScope,
    sysfs::Anchor, //
};
use core::{
    cell::UnsafeCell,
    fmt::Write as _,
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    error::{
        from_err_ptr,
        from_result,
        to_result, //
    },
    fmt,
    module::this_module,
    prelude::*,
    static_lock_class,
    str::NullTerminatedFormatter,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        Arc, //
    },
    time::msecs_to_jiffies,
    types::ScopeGuard, //
};

/// What serves a disk.
pub(crate) trait DiskOps: Send + Sync {
    /// Serves a bio. Process context; may sleep, unless [`Bio::is_nowait`] says otherwise. It may
    /// be called before [`Disk::new`] returns, which looks for partitions.
    fn submit(&self, bio: Bio);
}

/// What a disk can do. Sizes are in bytes or in sectors of 512 bytes, as named.
///
/// Pages under I/O don't change (`STABLE_WRITES`), and there are statistics (`IO_STAT`), always.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Unit of all requests, in bytes: a power of two, from 512 on.
    pub(crate) logical_block_size: u32,
    /// Unit that is written at once, in bytes.
    pub(crate) physical_block_size: u32,
    /// Smallest size that isn't slow, in bytes; 0: the physical block.
    pub(crate) io_min: u32,
    /// Best size, in bytes; 0: not known.
    pub(crate) io_opt: u32,
    /// Bits of a buffer's address and length that must be 0, beside those of [`Limits::buffer_mask`].
    pub(crate) dma_alignment: u32,
    /// The most sectors of a request; bios may still be larger.
    pub(crate) max_sectors: u32,
    /// The most sectors of a discard; 0: no discards.
    pub(crate) max_discard_sectors: u32,
    /// Unit of discards, in bytes.
    pub(crate) discard_granularity: u32,
    /// The most sectors of a request to write zeroes; 0: no such requests.
    pub(crate) max_write_zeroes_sectors: u32,
    /// Whether flushes mean something.
    pub(crate) write_cache: bool,
    /// Whether single writes can be made durable.
    pub(crate) fua: bool,
    /// Whether some part of it has heads that must move.
    pub(crate) rotational: bool,
    /// Whether bios can be refused rather than wait.
    pub(crate) nowait: bool,
    /// Whether it can't be written to.
    pub(crate) read_only: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            logical_block_size: 512,
            physical_block_size: 512,
            io_min: 0,
            io_opt: 0,
            dma_alignment: 0,
            max_sectors: u32::MAX,
            max_discard_sectors: 0,
            discard_granularity: 0,
            max_write_zeroes_sectors: 0,
            write_cache: false,
            fua: false,
            rotational: false,
            nowait: false,
            read_only: false,
        }
    }
}

impl Limits {
    /// Bits of a buffer's address, and of the length of each piece of it, that must be 0 if it is a user's (`O_DIRECT`).
    ///
    /// All pieces are whole blocks. A disk below that can't do with any number of pieces, or with gaps between them, cuts a
    /// bio between two blocks: one of which a block lies in more pieces than it takes, it refuses, as invalid.
    pub(crate) fn buffer_mask(&self) -> u32 {
        self.dma_alignment | self.logical_block_size.saturating_sub(1)
    }

    fn to_queue_limits(self) -> c::queue_limits {
        let mut limits: c::queue_limits = pin_init::zeroed();
        limits.features = c::BLK_FEAT_STABLE_WRITES | c::BLK_FEAT_IO_STAT;
        for (has, feature) in [
            (self.write_cache, c::BLK_FEAT_WRITE_CACHE),
            (self.write_cache && self.fua, c::BLK_FEAT_FUA),
            (self.rotational, c::BLK_FEAT_ROTATIONAL),
            (self.nowait, c::BLK_FEAT_NOWAIT),
        ] {
            if has {
                limits.features |= feature;
            }
        }
        limits.logical_block_size = self.logical_block_size;
        limits.physical_block_size = self.physical_block_size;
        limits.io_min = self.io_min;
        limits.io_opt = self.io_opt;
        limits.dma_alignment = self.buffer_mask();
        limits.max_hw_sectors = self.max_sectors;
        limits.max_segments = u16::MAX;
        limits.max_segment_size = u32::MAX;
        if self.max_discard_sectors != 0 {
            limits.max_hw_discard_sectors = self.max_discard_sectors;
            limits.discard_granularity = self.discard_granularity.max(self.logical_block_size);
            limits.max_discard_segments = 1;
        }
        limits.max_write_zeroes_sectors = self.max_write_zeroes_sectors;
        limits
    }
}

/// What `private_data` of a disk points to.
///
/// # Invariants
///
/// `data` is changed only by who has set `exchanging`, and only while the disk's queue is frozen: no call of
/// [`DiskOps::submit`] is under way then, nor does one begin.
struct Private<T> {
    data: UnsafeCell<Arc<T>>,
    exchanging: Atomic<bool>,
    /// Whether nobody may open the disk any more; changed under `open_mutex`.
    claimed: Atomic<bool>,
}

/// A block device that users see; it goes away on drop, which sleeps until all calls of
/// [`DiskOps::submit`] have returned. What serves it is let go of after that.
///
/// # Invariants
///
/// `disk` was added with the operations of this type, and is taken away by `Drop` only. Its
/// `private_data` is `private`.
pub(crate) struct Disk<T: DiskOps> {
    disk: NonNull<c::gendisk>,
    private: KBox<Private<T>>,
    _data: PhantomData<T>,
    /// The directory that it is in stays until it is gone.
    _parent: Anchor,
}

// SAFETY: A disk may be taken away by any thread, `T` may be dropped by it.
unsafe impl<T: DiskOps> Send for Disk<T> {}
// SAFETY: Shared access uses functions of the block layer that lock, and a `Sync` object.
unsafe impl<T: DiskOps> Sync for Disk<T> {}

impl<T: DiskOps> Disk<T> {
    const OPERATIONS: c::block_device_operations = c::block_device_operations {
        submit_bio: Some(Self::submit_callback),
        open: Some(Self::open_callback),
        owner: this_module::<crate::LocalModule>().as_ptr(),
        poll_bio: None,
        release: None,
        ioctl: None,
        compat_ioctl: None,
        check_events: None,
        unlock_native_capacity: None,
        getgeo: None,
        set_read_only: None,
        free_disk: None,
        swap_slot_free_notify: None,
        report_zones: None,
        devnode: None,
        get_unique_id: None,
        pr_ops: ptr::null(),
        alternative_gpt_sector: None,
    };

    /// Makes a disk of `sectors` sectors of 512 bytes, below `parent` in sysfs. Sleeps.
    ///
    /// It is there, and was looked at for partitions, when this returns.
    pub(crate) fn new(
        name: fmt::Arguments<'_>,
        data: Arc<T>,
        sectors: u64,
        limits: &Limits,
        parent: &Anchor,
    ) -> Result<Self> {
        let private = KBox::new(
            // INVARIANT: Nobody exchanges anything yet.
            Private {
                data: UnsafeCell::new(data),
                exchanging: Atomic::new(false),
                claimed: Atomic::new(false),
            },
            GFP_KERNEL,
        )?;
        let mut queue_limits = limits.to_queue_limits();
        // SAFETY: The limits are valid for the call; the key is static.
        let disk = from_err_ptr(unsafe {
            c::__blk_alloc_disk(
                &mut queue_limits,
                c::NUMA_NO_NODE,
                static_lock_class!().as_ptr(),
            )
        })?;
        let unwind = ScopeGuard::new(move || {
            // SAFETY: The disk was allocated above, and was not added.
            unsafe { c::put_disk(disk) }
        });
        // SAFETY: Nobody else knows the disk yet. The operations are static; `private` lives as
        // long as `Self`.
        unsafe {
            (*disk).fops = &Self::OPERATIONS;
            (*disk).private_data = (&raw const *private).cast_mut().cast();
            let mut text = NullTerminatedFormatter::new(&mut (*disk).disk_name).ok_or(EINVAL)?;
            text.write_fmt(name).map_err(|_| ENAMETOOLONG)?;
            c::set_capacity(disk, sectors);
            if limits.read_only {
                c::set_disk_ro(disk, true);
            }
        }
        // SAFETY: The disk is complete; the parent is valid, and the driver core takes a reference
        // to it.
        to_result(unsafe { c::device_add_disk(parent.as_raw(), disk, ptr::null_mut()) })?;
        unwind.dismiss();
        // SAFETY: `__blk_alloc_disk` returned no error, so the pointer isn't null.
        let disk = unsafe { NonNull::new_unchecked(disk) };
        // INVARIANT: It was added just now.
        Ok(Self {
            disk,
            private,
            _data: PhantomData,
            _parent: parent.clone(),
        })
    }

    /// Lets nobody open the disk any more, or fails with `EBUSY` if it is open. Sleeps.
    pub(crate) fn claim_idle(&self) -> Result {
        let disk = self.disk.as_ptr();
        // SAFETY: By the type invariant.
        unsafe { c::mutex_lock(&raw mut (*disk).open_mutex) };
        let idle = self.openers() == 0;
        if idle {
            self.private.claimed.store(true, Relaxed);
        }
        // SAFETY: The lock was taken above.
        unsafe { c::mutex_unlock(&raw mut (*disk).open_mutex) };
        if idle {
            Ok(())
        } else {
            Err(EBUSY)
        }
    }

    /// Lets something else serve the disk from now on; gives what has served it so far, whose calls of
    /// [`DiskOps::submit`] have all returned. What those have begun may still be under way.
    ///
    /// Bios wait meanwhile, for `ms` milliseconds at most: if the calls have not returned by then, or somebody else is
    /// at it, nothing is changed, and `data` is given back. Process context; sleeps.
    pub(crate) fn exchange(&self, data: Arc<T>, ms: u32) -> core::result::Result<Arc<T>, Arc<T>> {
        if self.private.exchanging.xchg(true, Full) {
            return Err(data);
        }
        let result = {
            // What is allocated while bios wait must not wait for a bio.
            let _no_io = NoIoScope::new();
            // SAFETY: By the type invariant the disk is there, and so is its queue.
            let queue = unsafe { (*self.disk.as_ptr()).queue };
            let limit = msecs_to_jiffies(ms);
            // SAFETY: The queue is valid. It is let go below, by this task.
            let frozen = unsafe {
                c::blk_freeze_queue_start(queue);
                c::blk_mq_freeze_queue_wait_timeout(queue, limit) > 0
            };
            let result = if frozen {
                // SAFETY: The queue is frozen, and `exchanging` was set by us: by the invariant of `Private` nobody else
                // reads or changes it now.
                let place = unsafe { &mut *self.private.data.get() };
                Ok(core::mem::replace(place, data))
            } else {
                Err(data)
            };
            // SAFETY: It was frozen above, by this task.
            unsafe { c::blk_mq_unfreeze_queue_nomemrestore(queue) };
            result
        };
        self.private.exchanging.store(false, Release);
        result
    }

    /// How often the disk, or a partition of it, is open.
    pub(crate) fn openers(&self) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { c::dst_disk_openers(self.disk.as_ptr()) }
    }

    /// Major and minor number.
    pub(crate) fn major_minor(&self) -> (u32, u32) {
        // SAFETY: By the type invariant; the number is given to the disk when it is added.
        split_dev(unsafe { (*(*self.disk.as_ptr()).part0).bd_dev })
    }

    /// # Safety
    ///
    /// Called by the block layer with a bio for a disk of this type, which it gives away.
    unsafe extern "C" fn submit_callback(bio: *mut c::bio) {
        // SAFETY: By the function's requirements. Until this returns the disk can't go away, nor
        // can what serves it.
        let (bio, private) = unsafe {
            let private = (*(*(*bio).bi_bdev).bd_disk)
                .private_data
                .cast::<Private<T>>();
            (Bio::from_raw(NonNull::new_unchecked(bio)), &*private)
        };
        // SAFETY: The block layer holds the queue's usage counter until this returns, so the queue isn't frozen: by the
        // invariant of `Private` nobody changes it.
        let data = unsafe { &*private.data.get() };
        data.submit(bio);
    }

    /// # Safety
    ///
    /// Called by the block layer under `open_mutex`, for a disk of this type that is there.
    unsafe extern "C" fn open_callback(disk: *mut c::gendisk, _mode: c::blk_mode_t) -> c_int {
        // SAFETY: By the function's requirements. `Drop` takes the same mutex before it makes the
        // disk go away.
        let private = unsafe { &*(*disk).private_data.cast::<Private<T>>() };
        from_result(|| {
            if private.claimed.load(Relaxed) {
                Err(EBUSY)
            } else {
                Ok(0)
            }
        })
    }
}

impl<T: DiskOps> Drop for Disk<T> {
    fn drop(&mut self) {
        // After the first call nobody can open the disk, no bio reaches it, and all calls of
        // `submit` have returned; so `private` can be dropped, though users may still have the disk
        // open.
        // SAFETY: By the type invariant.
        unsafe {
            c::del_gendisk(self.disk.as_ptr());
            c::put_disk(self.disk.as_ptr());
        }
    }
}
