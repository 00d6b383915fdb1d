// SPDX-License-Identifier: GPL-2.0

//! `/sys/class/misc/dst/exports/NAME/`.

use core::fmt::Write;

use kernel::{
    fmt,
    prelude::*,
    sync::atomic::Relaxed, //
};

use super::{
    ExportNode,
    Facts, //
};
use crate::{
    kern::sysfs::{
        Attribute,
        Attributes,
        Text, //
    },
    uapi,
};

/// An attribute that is one line about the export.
macro_rules! show {
    ($name:literal, |$facts:ident| $($what:tt)+) => {
        Attribute {
            name: $name,
            show: Some(|export: &ExportNode, text: &mut Text<'_>| {
                let $facts: &Facts = &export.facts;
                text.write_fmt(fmt!($($what)+)).map_err(|_| EIO)?;
                text.write_str("\n").map_err(|_| EIO)
            }),
            store: None,
        }
    };
}

/// Counters by kind, in the order of `uapi::STAT_*`.
struct Kinds([u64; uapi::STATS]);

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [read, write, flush, discard] = self.0;
        write!(
            f,
            "read {read} write {write} flush {flush} discard {discard}"
        )
    }
}

impl Attributes for ExportNode {
    const LIST: &'static [Attribute<Self>] = &[
        show!(c"device", |facts| "{}", facts.path_text()),
        show!(c"address", |facts| "{}", facts.address),
        show!(c"size", |facts| "{}", facts.sectors.load(Relaxed)),
        show!(c"read_only", |facts| "{}", u32::from(facts.read_only)),
        show!(c"clients", |facts| "{}", facts.connections.load(Relaxed)),
        show!(c"max_clients", |facts| "{}", facts.max_connections),
        show!(c"accepted", |facts| "{}", facts.accepted.load(Relaxed)),
        show!(c"refused", |facts| "{}", facts.refused.load(Relaxed)),
        show!(c"requests", |facts| "{}", Kinds(facts.counters.requests())),
        show!(c"bytes", |facts| "{}", Kinds(facts.counters.bytes())),
        show!(c"errors", |facts| "{}", facts.counters.errors()),
        show!(c"in_flight", |facts| "{}", facts.in_flight()),
    ];
}
