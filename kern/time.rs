// SPDX-License-Identifier: GPL-2.0

//! Time in jiffies, and random numbers.

use kernel::time::{
    delay::fsleep,
    Delta, //
};

use super::c;

pub(crate) use kernel::time::{
    msecs_to_jiffies,
    Jiffies, //
};

/// Milliseconds between two looks of [`wait`]: what it is for takes about as long, or much longer.
const LOOK_MS: i64 = 2;

/// The time now. It wraps: compare with [`reached`], never with `<`.
pub(crate) fn now() -> Jiffies {
    // SAFETY: `jiffies` is valid as long as the kernel runs; a volatile read of a word can't be torn.
    unsafe { core::ptr::addr_of!(c::jiffies).read_volatile() }
}

/// Whether `deadline` is not after `now`. True answers need less than half of the counter's range between them.
pub(crate) fn reached(deadline: Jiffies, now: Jiffies) -> bool {
    remaining(deadline, now) == 0
}

/// Jiffies from `now` to `deadline`; 0 if it is reached.
pub(crate) fn remaining(deadline: Jiffies, now: Jiffies) -> Jiffies {
    let left = deadline.wrapping_sub(now);
    if left > Jiffies::MAX / 2 {
        0
    } else {
        left
    }
}

/// `now` plus `ms` milliseconds, rounded up, and at least one jiffy later.
pub(crate) fn in_ms(now: Jiffies, ms: u32) -> Jiffies {
    now.wrapping_add(msecs_to_jiffies(ms).max(1))
}

/// The earlier one of two deadlines.
pub(crate) fn earliest(a: Option<Jiffies>, b: Option<Jiffies>) -> Option<Jiffies> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if remaining(b, a) == 0 { b } else { a }),
        (a, b) => a.or(b),
    }
}

/// A random number, good enough for keys. Any context.
pub(crate) fn random_u32() -> u32 {
    // SAFETY: May be called at any time, in any context.
    unsafe { c::get_random_u32() }
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    // SAFETY: May be called at any time, in any context.
    let seconds = unsafe { c::ktime_get_real_seconds() };
    u64::try_from(seconds).unwrap_or(0)
}

/// Random bytes, good enough for names that are unique in the whole world. Any context.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: May be called at any time, in any context; `bytes` has that length.
    unsafe { c::get_random_bytes(bytes.as_mut_ptr().cast(), N) };
    bytes
}

/// Milliseconds since `then`.
pub(crate) fn ms_since(then: Jiffies) -> u64 {
    // SAFETY: The function is pure.
    unsafe { c::jiffies64_to_msecs(now().wrapping_sub(then) as u64) }
}

/// Waits until something is so, for `ms` milliseconds at most; gives whether it is. Looks once at least. Process context;
/// sleeps.
pub(crate) fn wait(ms: u32, mut is_so: impl FnMut() -> bool) -> bool {
    let end = in_ms(now(), ms);
    while !is_so() {
        if reached(end, now()) {
            return false;
        }
        fsleep(Delta::from_millis(LOOK_MS));
    }
    true
}
