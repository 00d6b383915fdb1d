// SPDX-License-Identifier: GPL-2.0

//! The module's tracepoints.
//!
//! They appear in `/sys/kernel/tracing/events/dst/` while the module is loaded; `dst_trace.h`
//! describes their fields. While nobody listens, each costs one no-op instruction: the kernel
//! patches it into a jump when somebody does. All of them may be called in any context, under any
//! lock.

use super::{
    bio::{
        BioPart,
        Status, //
    },
    c, //
};
use crate::proto::wire::RequestHeader;
use kernel::prelude::*;

/// Declares, for each tracepoint of `dst_trace.h` that is named, an unsafe function that calls it
/// if it is on.
///
/// The kernel's macro of this purpose finds names in the kernel's own bindings only.
macro_rules! declare_tracepoints {
    ($($(#[$attr:meta])* $point:ident($($name:ident: $type:ty),* $(,)?);)*) => {$(
        $(#[$attr])*
        #[inline(always)]
        unsafe fn $point(get: impl FnOnce() -> ($($type,)*)) {
            kernel::macros::paste! {
                // SAFETY: The key belongs to a tracepoint that C defined; asking for its state is always allowed.
                let on = unsafe {
                    kernel::jump_label::static_branch_unlikely!(
                        c::[<__tracepoint_ $point>],
                        c::tracepoint,
                        key
                    )
                };
                if on {
                    let ($($name,)*) = get();
                    // SAFETY: The requirements of this function are those of the one that is called.
                    unsafe { c::[<rust_do_trace_ $point>]($($name),*) };
                }
            }
        }
    )*};
}

declare_tracepoints! {
    /// # Safety
    ///
    /// None: all is passed by value.
    dst_piece_start(dev: u32, node: u32, cookie: u64, op: u8, sector: u64, bytes: u32);

    /// # Safety
    ///
    /// None: all is passed by value.
    dst_piece_end(dev: u32, node: u32, cookie: u64, op: u8, sector: u64, bytes: u32, error: c_int);

    /// # Safety
    ///
    /// `name`, `from` and `to` must be C strings.
    dst_link(name: *const c_char, node: u32, from: *const c_char, to: *const c_char, error: c_int);

    /// # Safety
    ///
    /// `name` must be a C string.
    dst_export_request(
        name: *const c_char,
        cookie: u64,
        command: u16,
        flags: u16,
        offset: u64,
        length: u32,
    );

    /// # Safety
    ///
    /// `name` must be a C string.
    dst_export_reply(name: *const c_char, cookie: u64, error: c_int);
}

/// A piece of a request goes to node number `node` of its storage (`dst_piece_start`).
#[inline(always)]
pub(crate) fn piece_start(node: u32, cookie: u64, part: &BioPart) {
    let get = || {
        (
            part.dev(),
            node,
            cookie,
            part.op() as u8,
            part.sector(),
            part.bytes(),
        )
    };
    // SAFETY: There is nothing to require.
    unsafe { dst_piece_start(get) };
}

/// A node has answered (`dst_piece_end`).
#[inline(always)]
pub(crate) fn piece_end(node: u32, cookie: u64, part: &BioPart, status: Status) {
    let get = || {
        let op = part.op() as u8;
        (
            part.dev(),
            node,
            cookie,
            op,
            part.sector(),
            part.bytes(),
            status.to_errno(),
        )
    };
    // SAFETY: There is nothing to require.
    unsafe { dst_piece_end(get) };
}

/// The link of node number `node` of the storage `name` went from one state to another (`dst_link`), because of
/// `error`: a negative error number, or 0.
pub(crate) fn link(name: &CStr, node: u32, from: &CStr, to: &CStr, error: i32) {
    let get = || {
        (
            name.as_char_ptr(),
            node,
            from.as_char_ptr(),
            to.as_char_ptr(),
            error,
        )
    };
    // SAFETY: All three are C strings, which live until the call returns.
    unsafe { dst_link(get) };
}

/// The export `name` received a request (`dst_export_request`).
#[inline(always)]
pub(crate) fn export_request(name: &CStr, r: &RequestHeader) {
    let get = || {
        (
            name.as_char_ptr(),
            r.cookie,
            r.command,
            r.flags,
            r.offset,
            r.length,
        )
    };
    // SAFETY: `name` is a C string, which lives until the call returns.
    unsafe { dst_export_request(get) };
}

/// The export `name` answers the request `cookie` (`dst_export_reply`) with 0 or an NBD error number.
#[inline(always)]
pub(crate) fn export_reply(name: &CStr, cookie: u64, error: u32) {
    // SAFETY: `name` is a C string, which lives until the call returns.
    unsafe { dst_export_reply(|| (name.as_char_ptr(), cookie, error as c_int)) };
}
