// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers over the kernel's C interfaces: the only unsafe code, the only user of bindings.

pub(crate) mod bdev;
pub(crate) mod bio;
pub(crate) mod c;
pub(crate) mod cap;
pub(crate) mod disk;
pub(crate) mod global;
pub(crate) mod lower;
pub(crate) mod mem;
pub(crate) mod module;
pub(crate) mod net;
pub(crate) mod plug;
pub(crate) mod poll;
pub(crate) mod pool;
mod pool_tests;
pub(crate) mod segments;
mod slot;
pub(crate) mod span;
pub(crate) mod sysfs;
pub(crate) mod thread;
pub(crate) mod time;
pub(crate) mod timer;
pub(crate) mod trace;
pub(crate) mod trylock;
mod vectors;
pub(crate) mod work;
pub(crate) mod zeroes;
