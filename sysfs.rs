// SPDX-License-Identifier: GPL-2.0

//! `/sys/devices/STORAGE/` and `/sys/devices/STORAGE/n-START/`.
//!
//! All numbers are in sectors of 512 bytes unless the file's name says otherwise.

use core::fmt::Write;

use kernel::{
    fmt,
    prelude::*, //
};

use crate::{
    events::{
        health_name,
        role_name, //
    },
    failure::Failure,
    kern::sysfs::{
        Attribute,
        Attributes,
        Text, //
    },
    member::Member,
    meta::Uuid,
    node_remote::{
        state_name,
        Remote, //
    },
    storage::Storage,
    uapi,
};

/// Writes one line.
fn line(text: &mut Text<'_>, what: fmt::Arguments<'_>) -> Result {
    writeln!(text, "{what}").map_err(|_| EIO)
}

/// Writes a UUID.
fn uuid(text: &mut Text<'_>, uuid: [u8; 16]) -> Result {
    writeln!(text, "{}", Uuid(uuid)).map_err(|_| EIO)
}

/// An attribute that is only read.
const fn read_only<T>(name: &'static CStr, show: fn(&T, &mut Text<'_>) -> Result) -> Attribute<T> {
    Attribute {
        name,
        show: Some(show),
        store: None,
    }
}

/// Names of `uapi::READ_*`.
const POLICIES: [&str; 4] = ["least-pending", "local-first", "nearest", "round-robin"];

/// All about a storage; too large for the stack of somebody who may be deep in it already.
fn storage_info(storage: &Storage) -> Result<KBox<uapi::StorageInfo>> {
    let mut info = KBox::new(uapi::StorageInfo::default(), GFP_KERNEL)?;
    storage.info(&mut info);
    Ok(info)
}

/// Changes a setting of a storage.
fn set(storage: &Storage, what: u32, value: u64) -> Result {
    storage
        .set_storage(what, value)
        .map_err(|failure: Failure| failure.error)
}

/// An attribute that is one field of [`uapi::StorageInfo`].
macro_rules! storage_field {
    ($name:literal, $field:ident) => {
        read_only($name, |storage: &Storage, text| {
            let info = storage_info(storage)?;
            line(text, fmt!("{}", info.$field))
        })
    };
}

/// An attribute that is a limit of healing, in KiB a second.
macro_rules! heal_limit {
    ($name:literal, $field:ident, $what:expr) => {
        Attribute {
            name: $name,
            show: Some(|storage: &Storage, text| {
                let info = storage_info(storage)?;
                line(text, fmt!("{}", info.$field / SECTORS_PER_KIB))
            }),
            store: Some(|storage: &Storage, value| {
                let kib = value.trim().parse::<u64>().map_err(|_| EINVAL)?;
                let sectors = kib.checked_mul(SECTORS_PER_KIB).ok_or(EINVAL)?;
                set(storage, $what, sectors)
            }),
        }
    };
}

/// Sectors of a KiB.
const SECTORS_PER_KIB: u64 = 2;

impl Attributes for Storage {
    const LIST: &'static [Attribute<Self>] = &[
        read_only(c"alg", |storage, text| {
            line(text, fmt!("{}", storage.alg_name()))
        }),
        read_only(c"name", |storage, text| {
            line(text, fmt!("{}", storage.name()))
        }),
        read_only(c"nodes", |storage, text| {
            write!(text, "sectors (start [size]): ").map_err(|_| EIO)?;
            let mut separator = "";
            storage.each(|member, _| {
                // A text that is full stays as it is.
                let _ = write!(text, "{separator}{} [{}]", member.start, member.size());
                separator = " | ";
            });
            line(text, fmt!(""))
        }),
        read_only(c"state", |storage, text| {
            let mut info = uapi::StorageInfo::default();
            storage.info(&mut info);
            let state = match info.state {
                uapi::STORAGE_RUNNING => "running",
                _ => "stopped",
            };
            line(text, fmt!("{state}"))
        }),
        read_only(c"health", |storage, text| {
            let info = storage_info(storage)?;
            line(text, fmt!("{}", health_name(info.health)))
        }),
        read_only(c"uuid", |storage, text| {
            uuid(text, storage_info(storage)?.uuid)
        }),
        Attribute {
            name: c"read_policy",
            show: Some(|storage, text| {
                let policy = storage_info(storage)?.read_policy;
                let name = POLICIES.get(policy as usize).unwrap_or(&"unknown");
                line(text, fmt!("{name}"))
            }),
            store: Some(|storage, value| {
                let policy = POLICIES.iter().position(|name| *name == value.trim());
                let policy = policy.ok_or(EINVAL)? as u64;
                set(storage, uapi::SET_READ_POLICY, policy)
            }),
        },
        heal_limit!(c"heal_min", heal_min, uapi::SET_HEAL_MIN),
        heal_limit!(c"heal_max", heal_max, uapi::SET_HEAL_MAX),
        storage_field!(c"stale", stale),
        storage_field!(c"healed", healed),
        read_only(c"heal_done", |storage, text| {
            let info = storage_info(storage)?;
            line(
                text,
                fmt!("{}", info.healed.saturating_sub(info.healed_before)),
            )
        }),
        storage_field!(c"heal_left", heal_left),
        storage_field!(c"heal_rate", heal_rate),
        read_only(c"heal_seconds_left", |storage, text| {
            match storage_info(storage)?.heal_seconds_left {
                uapi::UNKNOWN => line(text, fmt!("")),
                seconds => line(text, fmt!("{seconds}")),
            }
        }),
        storage_field!(c"overlaps", overlaps),
        storage_field!(c"log_waits", log_waits),
        storage_field!(c"log_writes", log_writes),
        storage_field!(c"read_overlaps", read_overlaps),
        storage_field!(c"read_held", read_held),
        storage_field!(c"rescued", rescued),
        storage_field!(c"rewritten", rewritten),
        storage_field!(c"left", left),
        Attribute {
            name: c"remove_all_nodes",
            show: None,
            // Whatever is written.
            store: Some(|storage, _| {
                storage.remove(uapi::ALL_NODES).map_err(|failure: Failure| {
                    pr_warn!("{}: {}\n", storage.name(), failure.message());
                    failure.error
                })
            }),
        },
    ];
}

/// Shows one thing of a node's [`uapi::NodeInfo`].
fn info<R>(member: &Member, look: impl FnOnce(&uapi::NodeInfo) -> R) -> Result<R> {
    // It is too large for the stack of somebody who may be deep in it already.
    let mut info = KBox::new(uapi::NodeInfo::default(), GFP_KERNEL)?;
    member.info(&mut info);
    Ok(look(&info))
}

/// Counters by kind, in the order of `uapi::STAT_*`.
fn counters(text: &mut Text<'_>, all: [u64; uapi::STATS]) -> Result {
    let [read, write, flush, discard] = all;
    line(
        text,
        fmt!("read {read} write {write} flush {flush} discard {discard}"),
    )
}

/// An attribute that is one field of [`uapi::NodeInfo`].
macro_rules! field {
    ($name:literal, $field:ident) => {
        read_only($name, |member: &Member, text| {
            let value = info(member, |info| info.$field)?;
            line(text, fmt!("{value}"))
        })
    };
}

impl Attributes for Member {
    const LIST: &'static [Attribute<Self>] = &[
        read_only(c"type", |member, text| line(text, fmt!("{member}"))),
        read_only(c"size", |member, text| {
            line(text, fmt!("{}", member.size()))
        }),
        read_only(c"start", |member, text| {
            line(text, fmt!("{}", member.start))
        }),
        read_only(c"state", |member, text| {
            line(
                text,
                fmt!("{}", state_name(member.state()).to_str().unwrap_or("")),
            )
        }),
        read_only(c"role", |member, text| {
            line(text, fmt!("{}", role_name(member.role())))
        }),
        field!(c"stale", stale),
        field!(c"suspended", suspended),
        read_only(c"replaces", |member, text| {
            match member.replaces().checked_sub(1) {
                Some(id) => line(text, fmt!("{id}")),
                None => line(text, fmt!("")),
            }
        }),
        read_only(c"uuid", |member, text| {
            uuid(text, info(member, |info| info.uuid)?)
        }),
        read_only(c"trouble", |member, text| {
            let trouble = info(member, |info| info.trouble)?;
            line(text, fmt!("{}", uapi::text(&trouble).unwrap_or("")))
        }),
        read_only(c"reason", |member, text| {
            let reason = info(member, |info| info.reason)?;
            line(text, fmt!("{}", uapi::text(&reason).unwrap_or("")))
        }),
        read_only(c"fenced", |member, text| {
            line(text, fmt!("{}", u32::from(member.is_fenced())))
        }),
        read_only(c"requests", |member, text| {
            counters(text, info(member, |info| info.requests)?)
        }),
        read_only(c"bytes", |member, text| {
            counters(text, info(member, |info| info.bytes)?)
        }),
        field!(c"id", node),
        field!(c"in_flight", in_flight),
        field!(c"depth", depth),
        field!(c"errors", errors),
        field!(c"reconnects", reconnects),
        field!(c"resent", resent),
        read_only(c"held", |member, text| {
            let (now, total) = member.remote().map_or((0, 0), Remote::held);
            line(text, fmt!("now {now} total {total}"))
        }),
        field!(c"timeout_ms", timeout_ms),
        field!(c"keepalive_s", keepalive_s),
        field!(c"block_size_bytes", block_size),
        field!(c"device_size", device_size),
    ];
}
