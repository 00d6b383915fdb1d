// SPDX-License-Identifier: GPL-2.0

//! Being told when a socket is ready, as epoll does it: through the protocol's `poll` function, with our own poll table.
//!
//! The entry on the socket's wait queue stays there as long as the registration lives. Its function runs under the
//! queue's lock, in softirq or wherever the socket's state changes.
//!
//! Why no `POLLFREE`: that is sent by wait queues that may vanish while somebody polls them. A socket's wait queue is part
//! of the `struct socket`, which lives as long as the [`Socket`]; a registration holds an [`Arc`] of it, and takes its
//! entries off the queue before it lets go.

use super::c;
use super::net::{
    Events,
    Socket, //
};
use super::thread::WakeHint;
use core::cell::Cell;
use core::marker::PhantomPinned;
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// Who is told.
pub(crate) trait Wake: Send + Sync {
    /// The socket may be ready for `events`. Any context (softirq mostly), under the wait queue's spin lock with
    /// interrupts off: must not sleep, nor poll, nor take a lock that is ever held around calls of a socket.
    fn wake(&self, events: Events, hint: WakeHint);
}

/// A wait queue entry, or room for one.
///
/// # Invariants
///
/// `head`, if any, is the queue that `entry` is on.
struct Entry {
    entry: Opaque<c::wait_queue_entry>,
    head: Cell<Option<NonNull<c::wait_queue_head>>>,
}

impl Entry {
    fn new() -> Self {
        // INVARIANT: On no queue.
        Self {
            entry: Opaque::zeroed(),
            head: Cell::new(None),
        }
    }
}

/// How many queues a socket's poll function may name. TCP names one.
const HEADS: usize = 2;

/// A registration on a socket.
///
/// # Invariants
///
/// Pinned. Each entry with a head is on that queue, which belongs to `socket`; its `private` points to `target`.
/// Nothing but construction and drop touches `entries`, apart from the queue (under its lock).
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<W: Wake> {
    entries: [Entry; HEADS],
    target: W,
    socket: Arc<Socket>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: `target` is `Send`, and the entries are bound to no thread: the queue's lock guards them.
unsafe impl<W: Wake> Send for Registration<W> {}
// SAFETY: `target` is `Sync`; through a shared reference the entries are not accessible.
unsafe impl<W: Wake> Sync for Registration<W> {}

/// A poll table that knows whose it is.
#[repr(C)]
struct Table<'a> {
    table: c::poll_table,
    entries: &'a [Entry; HEADS],
    func: c::wait_queue_func_t,
    target: *mut c_void,
    overflow: bool,
}

impl<W: Wake> Registration<W> {
    /// Registers `target` for whatever happens on `socket`, from now on: look at its state after that.
    pub(crate) fn new(socket: Arc<Socket>, target: W) -> Result<Pin<KBox<Self>>> {
        // INVARIANT: No entry is on a queue.
        let this = KBox::pin_init(
            pin_init!(Self {
                entries: [Entry::new(), Entry::new()],
                target,
                socket,
                _pin: PhantomPinned,
            }),
            GFP_KERNEL,
        )?;
        let mut table = Table {
            table: c::poll_table {
                _qproc: Some(Self::queue),
                _key: !0,
            },
            entries: &this.entries,
            func: Some(Self::wake),
            target: core::ptr::from_ref(&this.target).cast_mut().cast(),
            overflow: false,
        };
        // `queue` gets the table that is the first field of ours, and no other one.
        this.socket
            .poll_with(core::ptr::from_mut(&mut table).cast());
        if table.overflow {
            // Those that are on a queue go off it again.
            return Err(EOPNOTSUPP);
        }
        Ok(this)
    }

    /// Whom this tells.
    pub(crate) fn target(&self) -> &W {
        &self.target
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// The poll table's queue function: puts an entry on `head`.
    ///
    /// # Safety
    ///
    /// `table` is the first field of a [`Table`], and `head` is a valid wait queue that lives as long as the socket.
    unsafe extern "C" fn queue(
        _file: *mut c::file,
        head: *mut c::wait_queue_head,
        table: *mut c::poll_table,
    ) {
        // SAFETY: By the safety requirements of this function; the table is on the stack of `new`, which waits.
        let table = unsafe { &mut *table.cast::<Table<'_>>() };
        let Some(entry) = table.entries.iter().find(|e| e.head.get().is_none()) else {
            table.overflow = true;
            return;
        };
        let raw = entry.entry.get();
        // SAFETY: The entry is on no queue, so nobody else accesses it.
        unsafe {
            (*raw).func = table.func;
            (*raw).private = table.target;
        }
        // INVARIANT: This is the queue that the entry is put on now. It belongs to the socket.
        entry.head.set(NonNull::new(head));
        // SAFETY: The queue is valid, and the entry is pinned and stays until it is taken off the queue in drop.
        unsafe { c::add_wait_queue(head, raw) };
    }

    /// The wait queue entry's function. Returns 0: others on the queue are woken as well.
    ///
    /// # Safety
    ///
    /// `entry` was put on the queue by [`Self::queue`], and is on it; `key` is null or poll events.
    unsafe extern "C" fn wake(
        entry: *mut c::wait_queue_entry,
        _mode: c_uint,
        flags: c_int,
        key: *mut c_void,
    ) -> c_int {
        // SAFETY: `private` points to the target of a registration, which lives as long as its entry is on a queue.
        let target = unsafe { &*(*entry).private.cast_const().cast::<W>() };
        // The key is a number in a pointer. Without one, anything may have happened.
        let mask = key as usize as u32;
        let events = Events::from_mask(if mask == 0 { !0 } else { mask });
        target.wake(events, WakeHint::from_flags(flags));
        0
    }
}

#[pinned_drop]
impl<W: Wake> PinnedDrop for Registration<W> {
    fn drop(self: Pin<&mut Self>) {
        for entry in &self.entries {
            if let Some(head) = entry.head.get() {
                // SAFETY: The entry is on that queue, which is valid as `socket` lives, by the type invariants. The queue's
                // lock makes this wait for a function that runs; it is never called again.
                unsafe { c::remove_wait_queue(head.as_ptr(), entry.entry.get()) };
            }
        }
    }
}
