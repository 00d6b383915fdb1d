// SPDX-License-Identifier: GPL-2.0

//! The C names: those of `kernel::bindings`, and those generated from `bindings.h`.

#![allow(
    clippy::all,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports,
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks
)]

pub(crate) use kernel::bindings::*;

include!(concat!(env!("DST_OBJ"), "/bindings_generated.rs"));
