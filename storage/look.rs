// SPDX-License-Identifier: GPL-2.0

//! What is asked of a storage while it may be in the middle of something else: what it is, and to wait no longer.

use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};

use crate::{
    array::Node,
    failure::{
        fail,
        Done, //
    },
    kern::sysfs::Directory,
    member::{
        Member,
        MAX_KEEPALIVE_S, //
    },
    uapi,
};

use super::Storage;

impl Storage {
    /// Calls `act` for a node, or for all ([`uapi::ALL_NODES`]).
    fn for_nodes(&self, id: u32, act: impl Fn(&Member) -> Done) -> Done {
        let inner = self.inner.lock();
        let mut found = id == uapi::ALL_NODES;
        for member in &inner.members {
            if id == uapi::ALL_NODES || member.id == id {
                found = true;
                act(member)?;
            }
        }
        if !found {
            fail!(ENOENT, "{} has no such node", self.name());
        }
        Ok(())
    }

    /// Ends the waiting on a node that is lost or suspended. Named alone, a node that is up but does not answer counts as
    /// lost.
    pub(crate) fn fail_now(&self, id: u32) -> Done {
        if let Some(twin) = &self.inner.lock().twin {
            // Superblocks may wait for the node, and requests for them.
            twin.refuse();
        }
        self.for_nodes(id, |member| {
            let was_suspended = member.gate.fail();
            let Node::Remote(node) = &member.node else {
                if was_suspended || id == uapi::ALL_NODES {
                    return Ok(());
                }
                fail!(
                    EINVAL,
                    "a local node is never waited for, unless it is suspended"
                );
            };
            let lost = node.ctx().shown(|shown| shown.state != uapi::NODE_UP);
            if lost || id != uapi::ALL_NODES {
                node.ctx().fail_now();
            }
            Ok(())
        })
    }

    /// Changes a setting of a node.
    pub(crate) fn set(&self, id: u32, what: u32, value: u64) -> Done {
        let Ok(value) = u32::try_from(value) else {
            fail!(EINVAL, "{value} is too large");
        };
        self.for_nodes(id, |member| {
            let Node::Remote(node) = &member.node else {
                if id == uapi::ALL_NODES {
                    return Ok(());
                }
                fail!(EINVAL, "a local node has no such setting");
            };
            match what {
                uapi::SET_TIMEOUT_MS => node.ctx().set_timeout(value),
                uapi::SET_KEEPALIVE_S if value == 0 || value > MAX_KEEPALIVE_S => {
                    fail!(
                        EINVAL,
                        "keepalive of {value} s is not within 1..={} s",
                        MAX_KEEPALIVE_S
                    );
                }
                uapi::SET_KEEPALIVE_S => node.ctx().keepalive_s.store(value, Relaxed),
                _ => fail!(EINVAL, "unknown setting {what}"),
            }
            Ok(())
        })?;
        // What waits at a gate is judged by the new limit.
        self.events.tell();
        Ok(())
    }

    /// Tells about the storage.
    pub(crate) fn info(&self, out: &mut uapi::StorageInfo) {
        let inner = self.inner.lock();
        // Names have been checked to fit.
        let _ = uapi::set_text(&mut out.name, self.name());
        let _ = uapi::set_text(&mut out.alg, self.alg_name());
        out.nodes = inner.members.len() as u32;
        out.heal_seconds_left = uapi::UNKNOWN;
        (out.heal_min, out.heal_max) = (inner.settings.heal_min, inner.settings.heal_max);
        if self.has_metadata() {
            out.flags = uapi::CREATE_METADATA;
        }
        if let Some(mirror) = &inner.mirror {
            mirror.info(out);
        } else if let Some(twin) = &inner.twin {
            twin.info(out);
            // It is that of the twin, which nobody knows.
            out.uuid = [0; 16];
        }
        out.health = match self.health(inner.mirror.as_deref()) {
            uapi::HEALTH_NONE if inner.twin.is_some() => uapi::HEALTH_HEALING,
            health => health,
        };
        match &inner.disk {
            Some(disk) => {
                let (major, minor) = disk.major_minor();
                out.state = uapi::STORAGE_RUNNING;
                out.sectors = inner.sectors;
                out.block_size = inner.limits.logical_block_size;
                if let (None, Some(fence)) = (&inner.mirror, &inner.fence) {
                    out.uuid = fence.storage;
                }
                out.openers = disk.openers();
                out.major = major;
                out.minor = minor;
            }
            None => {
                out.state = uapi::STORAGE_STOPPED;
                out.sectors = inner
                    .members
                    .iter()
                    .map(|m| m.start.saturating_add(m.size()))
                    .max()
                    .unwrap_or(0);
            }
        }
    }

    /// Tells about the node at `out.index`; `false` behind the last one.
    pub(crate) fn node_info(&self, out: &mut uapi::NodeInfo) -> bool {
        let inner = self.inner.lock();
        match inner.members.get(out.index as usize) {
            Some(member) => {
                member.info(out);
                true
            }
            None => {
                let at = (out.index as usize).saturating_sub(inner.members.len());
                let Some(mirror) = &inner.mirror else {
                    return false;
                };
                let there = mirror.absent_info(at, out);
                if let Some(moving) = mirror.replacement().filter(|_| there) {
                    if out.node == uapi::ABSENT | moving.to {
                        out.replaces = inner.id_of(moving.from) + 1;
                    }
                }
                there
            }
        }
    }

    /// Calls `look` with each node and its directory.
    pub(crate) fn each(&self, mut look: impl FnMut(&Member, &Directory<Member>)) {
        let inner = self.inner.lock();
        for (member, directory) in inner.members.iter().zip(&inner.directories) {
            look(member, directory);
        }
    }
}
