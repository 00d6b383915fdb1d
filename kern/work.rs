// SPDX-License-Identifier: GPL-2.0

//! A workqueue of our own.
//!
//! The queues that the system shares may not be used by what memory reclaim waits for, and waiting
//! for everything on them would wait for strangers too. The items are those of
//! [`kernel::workqueue`].

use super::c;
use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    fmt,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        Arc, //
    },
    workqueue::{
        HasWork,
        Queue,
        WorkItem, //
    },
};

/// A workqueue with a rescuer thread (`WQ_MEM_RECLAIM`), whose items run on any CPU (`WQ_UNBOUND`).
///
/// Dropping it runs what is queued, waits for it, and destroys the queue. It must therefore not be
/// dropped by one of its own items: an item that holds the last reference to the queue's owner
/// would wait for itself. An item that queues itself again without end would keep the drop waiting
/// for as long.
///
/// # Invariants
///
/// `queue` points to a workqueue that we allocated, which lives as long as this.
pub(crate) struct OwnQueue {
    queue: NonNull<c::workqueue_struct>,
}

// SAFETY: A workqueue may be used, and destroyed, by any task.
unsafe impl Send for OwnQueue {}
// SAFETY: A workqueue has its own locks; through a shared reference there is only `Queue`, which is
// `Sync`.
unsafe impl Sync for OwnQueue {}

impl OwnQueue {
    /// Allocates a queue, which is called `name` in the list of threads (cut to 31 bytes by the
    /// kernel). Sleeps.
    ///
    /// At most `max_active` items run at the same time; 0 takes the kernel's default.
    pub(crate) fn new(name: fmt::Arguments<'_>, max_active: u16) -> Result<Self> {
        let name = CString::try_from_fmt(name)?;
        let flags = c::wq_flags_WQ_MEM_RECLAIM | c::wq_flags_WQ_UNBOUND;
        // SAFETY: The format takes exactly one argument, a C string; the kernel copies what it
        // formats. Exactly one of WQ_PERCPU and WQ_UNBOUND is set.
        let queue = unsafe {
            c::alloc_workqueue_noprof(
                c"%s".as_char_ptr(),
                flags,
                c_int::from(max_active),
                name.as_char_ptr(),
            )
        };
        // INVARIANT: A non-null answer is a workqueue of our own.
        Ok(Self {
            queue: NonNull::new(queue).ok_or(ENOMEM)?,
        })
    }
}

impl Deref for OwnQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        // SAFETY: By the type invariant the queue is valid, and it stays so while `self` is
        // borrowed.
        unsafe { Queue::from_raw(self.queue.as_ptr()) }
    }
}

impl Drop for OwnQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the queue is valid and ours; nobody can queue to it any
        // more, since that takes a reference to `self`. The call waits until all items have run.
        unsafe { c::destroy_workqueue(self.queue.as_ptr()) };
    }
}

/// The module's queue: a `struct workqueue_struct *`, or 0.
static QUEUE: Atomic<usize> = Atomic::new(0);

/// Keeps the module's queue; the module has one, and drops it last: that waits for all items.
///
/// # Invariants
///
/// [`QUEUE`] points to `queue` while this lives.
pub(crate) struct ModuleQueue {
    queue: Option<OwnQueue>,
}

impl ModuleQueue {
    /// Makes the module's queue.
    pub(crate) fn new() -> Result<Self> {
        let queue = OwnQueue::new(fmt!("dst"), 0)?;
        // INVARIANT: Set here, and until the drop.
        QUEUE.store(queue.queue.as_ptr() as usize, Release);
        Ok(Self { queue: Some(queue) })
    }
}

impl Drop for ModuleQueue {
    fn drop(&mut self) {
        // Runs what is queued, which may queue more: the pointer stays until then.
        drop(self.queue.take());
        QUEUE.store(0, Release);
    }
}

/// Queues `item` at the module's queue; does nothing if it is queued already. Any context.
///
/// Whoever calls this is in use, so that the module can't be unloaded: a storage holds a reference to the
/// module, an item is waited for by the drop of [`ModuleQueue`].
pub(crate) fn enqueue<T, const ID: u64>(item: Arc<T>)
where
    T: WorkItem<ID, Pointer = Arc<T>> + HasWork<T, ID> + Send + Sync + 'static,
{
    let queue = QUEUE.load(Acquire) as *const c::workqueue_struct;
    if queue.is_null() {
        return;
    }
    // SAFETY: By the invariant of `ModuleQueue` the pointer is to a queue that lives, since that is dropped
    // last, when nobody is left who could call this, but for items, for which its drop waits.
    let queue = unsafe { Queue::from_raw(queue) };
    drop(queue.enqueue(item));
}
