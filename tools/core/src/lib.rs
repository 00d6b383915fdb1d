// SPDX-License-Identifier: GPL-2.0

//! The parts of DST that need no kernel: the same files that the module is made of.
//!
//! Here they are built for tools, tests and fuzzers. What is not `core` does not get in.

#![no_std]
#![forbid(unsafe_code)]

#[path = "../../../alg.rs"]
pub mod alg;
#[path = "../../../alg_linear.rs"]
pub mod alg_linear;
#[path = "../../../alg_mirror.rs"]
pub mod alg_mirror;
#[path = "../../../late.rs"]
pub mod late;
#[path = "../../../meta/mod.rs"]
pub mod meta;
#[path = "../../../proto/mod.rs"]
pub mod proto;
#[path = "../../../send_queue.rs"]
pub mod send_queue;
#[path = "../../../sort.rs"]
pub mod sort;
#[path = "../../../text.rs"]
pub mod text;
#[path = "../../../uapi.rs"]
pub mod uapi;
