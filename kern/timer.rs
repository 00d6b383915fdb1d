// SPDX-License-Identifier: GPL-2.0

//! Timers of jiffies precision, for deadlines that are mostly moved or met before they come.

use super::c;
use core::marker::PhantomPinned;
use kernel::{
    c_str,
    prelude::*,
    static_lock_class,
    time::Jiffies,
    types::Opaque, //
};

/// Who is told when a [`Timer`] expires.
pub(crate) trait Expire: Send + Sync {
    /// The timer has expired. Softirq: must not sleep.
    fn expired(&self);
}

/// A timer, and what it tells. Arming costs about as much as taking a lock; expired timers cost a softirq.
///
/// Dropping it (process context) waits for [`Expire::expired`] if that runs.
///
/// # Invariants
///
/// `raw` is an initialized timer that is pinned, whose function is [`Self::expire`].
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Timer<T: Expire> {
    // First, so that a pointer to it is one to the whole.
    #[pin]
    raw: Opaque<c::timer_list>,
    target: T,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A timer belongs to no thread, and its target is `Send`.
unsafe impl<T: Expire> Send for Timer<T> {}
// SAFETY: The timer's functions lock it, and its target is `Sync`.
unsafe impl<T: Expire> Sync for Timer<T> {}

impl<T: Expire> Timer<T> {
    /// A timer that is not armed.
    pub(crate) fn new(target: T) -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: Initialized here, and pinned.
            // SAFETY: The slot is valid for writing, and pinned from here on; name and class are static.
            raw <- Opaque::ffi_init(|slot| unsafe {
                c::timer_init_key(
                    slot,
                    Some(Self::expire),
                    0,
                    c_str!("dst_timer").as_char_ptr(),
                    static_lock_class!().as_ptr(),
                )
            }),
            target,
            _pin: PhantomPinned,
        })
    }

    /// What is told.
    pub(crate) fn target(&self) -> &T {
        &self.target
    }

    /// Makes the timer expire at `at`, and not at the time set before, if it has not expired yet. Any context.
    pub(crate) fn arm(&self, at: Jiffies) {
        // SAFETY: The timer is initialized by the type invariant.
        unsafe { c::mod_timer(self.raw.get(), at) };
    }

    /// The timer's function.
    ///
    /// # Safety
    ///
    /// `raw` is the first field of a `Timer<T>`.
    unsafe extern "C" fn expire(raw: *mut c::timer_list) {
        // SAFETY: By the safety requirements of this function. The whole lives: its drop waits for this.
        let this = unsafe { &*raw.cast_const().cast::<Self>() };
        this.target.expired();
    }
}

#[pinned_drop]
impl<T: Expire> PinnedDrop for Timer<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The timer is initialized by the type invariant. Nobody arms it any more.
        unsafe { c::timer_shutdown_sync(self.raw.get()) };
    }
}
