// SPDX-License-Identifier: GPL-2.0

//! Waiting for more: work that a task puts off until it has submitted all that it has.
//!
//! A task that is about to submit many bios has a plug (`blk_start_plug`). What is deferred here is
//! called when it takes the plug off, or goes to sleep. The block layer's own `blk_check_plugged()`
//! allocates; here the entries are part of the owner, one for each task that does so at the same
//! time.

use super::c;
use core::{
    cell::UnsafeCell,
    marker::PhantomPinned, //
};
use kernel::sync::{
    atomic::{
        Acquire,
        Atomic,
        Relaxed,
        Release, //
    },
    Arc, //
};

/// What has work that can be deferred.
pub(crate) trait Unplug: Send + Sync + Sized {
    /// The entries of this owner.
    fn entries(&self) -> &PlugEntries;

    /// Does the work. `scheduling`: the task is on its way to sleep, so this must not sleep, nor
    /// send: wake a thread.
    ///
    /// The call holds a reference to the owner. It should not be the last one, as dropping that may
    /// sleep.
    fn unplug(&self, scheduling: bool);
}

/// The number of tasks that can have work of one owner on their plugs at the same time.
const ENTRIES: usize = 8;

/// Entries for the plugs of [`ENTRIES`] tasks.
pub(crate) struct PlugEntries {
    entries: [Entry; ENTRIES],
    _pin: PhantomPinned,
}

/// # Invariants
///
/// If `busy` is set, the entry belongs to who set it: at first the task that put it on its plug,
/// then that plug, then the callback, which clears it. As long as it is on a plug `raw.data` owns a
/// reference to the owner, which this entry is a part of.
#[repr(C)]
struct Entry {
    raw: UnsafeCell<c::blk_plug_cb>,
    busy: Atomic<bool>,
}

// SAFETY: By the type invariant one party at a time touches an entry.
unsafe impl Send for PlugEntries {}
// SAFETY: As above.
unsafe impl Sync for PlugEntries {}

impl PlugEntries {
    /// Entries that are all free.
    pub(crate) const fn new() -> Self {
        Self {
            entries: [const {
                Entry {
                    raw: UnsafeCell::new(pin_init::zeroed()),
                    busy: Atomic::new(false),
                }
            }; ENTRIES],
            _pin: PhantomPinned,
        }
    }
}

/// Sees to it that [`Unplug::unplug`] of `owner` is called when the current task takes off its
/// plug.
///
/// `false`: the task has no plug, or there is no entry left: act at once. Process context; doesn't
/// sleep.
pub(crate) fn defer<T: Unplug>(owner: &Arc<T>) -> bool {
    let callback: c::blk_plug_cb_fn = Some(unplug::<T>);
    // SAFETY: The pointer is only compared.
    match unsafe { c::dst_plug_find(callback, Arc::as_ptr(owner).cast()) } {
        c::dst_plug_DST_PLUG_NONE => return false,
        c::dst_plug_DST_PLUG_HAS => return true,
        _ => (),
    }
    let free = |entry: &&Entry| {
        !entry.busy.load(Relaxed) && entry.busy.cmpxchg(false, true, Acquire).is_ok()
    };
    let Some(entry) = owner.entries().entries.iter().find(free) else {
        return false;
    };
    // INVARIANT: The reference is given up by the callback, so until that has run the owner, and
    // the entry in it, stays. It stays where it is: it is in an `Arc`.
    let data = Arc::into_raw(owner.clone()).cast_mut().cast();
    // SAFETY: The task has a plug, which only it can take off. The entry is ours, on no list, and
    // stays valid until the callback, as above.
    unsafe { c::dst_plug_add(entry.raw.get(), callback, data) };
    true
}

/// # Safety
///
/// Called by the block layer with an entry that [`defer`] put on a plug, and that it has taken off.
unsafe extern "C" fn unplug<T: Unplug>(raw: *mut c::blk_plug_cb, scheduling: bool) {
    // SAFETY: By the function's requirements the reference is there, and is ours.
    let owner = unsafe { Arc::from_raw((*raw).data.cast::<T>().cast_const()) };
    // SAFETY: `raw` is the first field of an `Entry`, which the owner keeps valid.
    let entry = unsafe { &*raw.cast_const().cast::<Entry>() };
    // INVARIANT: It is on no plug any more, and we don't touch it from here on.
    entry.busy.store(false, Release);
    owner.unplug(scheduling);
}
