// SPDX-License-Identifier: GPL-2.0

//! What only mirrors have, and what is stored on nodes.

use dst_core::alg_mirror::heal::seconds_left;
use dst_core::uapi::*;

use super::{
    field,
    socket,
    Answer,
    FakeStorage,
    State, //
};

/// Generation and sectors that each copy gives up.
const GIVEN_UP: (u64, u64) = (14, 384);

/// The name by which a node's superblock is kept.
pub(crate) fn label(node: &NodeInfo) -> String {
    match node.kind {
        KIND_LOCAL => field(&node.path),
        _ => format!("{}/{}", socket(&node.address), field(&node.path)),
    }
}

impl FakeStorage {
    /// Whether it is a mirror.
    pub(super) fn is_mirror(&self) -> bool {
        field(&self.create.alg) == "alg_mirror"
    }

    /// Where the node is that is to be replaced, and its size, if it can be.
    pub(super) fn may_replace(&self, request: &AddNode) -> Result<Option<(u64, u64)>, i32> {
        if !self.running {
            return Err(libc::EINVAL);
        }
        if self.nodes.iter().any(|node| node.replaces != 0) {
            return Err(libc::EBUSY);
        }
        let mut nodes = self.nodes.iter();
        let old = nodes.find(|node| node.node == request.replaces);
        let old = old.ok_or(libc::ENOENT)?;
        Ok(Some((old.start, old.size)))
    }

    /// Ends the replacement of a node, or by one.
    pub(super) fn cancel_replace(&mut self, id: u32) -> Answer {
        let part =
            |node: &NodeInfo| node.replaces != 0 && (node.node == id || node.replaces == id + 1);
        let at = self.nodes.iter().position(part).ok_or(libc::ENOENT)?;
        self.nodes.remove(at);
        Ok(())
    }

    /// Whether a copy can be removed while it runs.
    pub(super) fn can_lose(&self, id: u32) -> bool {
        let mut others = self.nodes.iter().filter(|node| node.node != id);
        self.is_mirror() && others.any(|node| node.role == ROLE_IN_SYNC)
    }

    /// Lets a mirror run; gives its size.
    pub(super) fn begin_mirror(&mut self) -> Option<u64> {
        let size = self.nodes.iter().map(|node| node.size).min()?;
        for node in &mut self.nodes {
            node.start = 0;
            node.size = size;
            node.role = match self.discarded.contains(&node.node) {
                true => ROLE_HEALING,
                false => ROLE_IN_SYNC,
            };
            node.uuid = [node.node as u8 + 1; 16];
            if self.discarded.contains(&node.node) {
                (node.given_up_generation, node.given_up) = GIVEN_UP;
            }
        }
        self.running = true;
        Some(size)
    }

    /// Gives up what was written on a copy alone.
    pub(super) fn discard(&mut self, id: u32) -> Answer {
        let mut nodes = self.nodes.iter_mut();
        let node = nodes.find(|node| node.node == id).ok_or(libc::ENOENT)?;
        if node.conflict == 0 {
            return Err(libc::EINVAL);
        }
        node.conflict = 0;
        node.trouble.fill(0);
        node.role = ROLE_HEALING;
        (node.given_up_generation, node.given_up) = GIVEN_UP;
        Ok(())
    }

    /// What a mirror is.
    pub(super) fn mirror_info(&self, request: &mut StorageInfo) {
        request.sectors = self.nodes.iter().map(|node| node.size).min().unwrap_or(0);
        if !self.running {
            return;
        }
        let has = |role| self.nodes.iter().any(|node| node.role == role);
        let info = &self.info;
        request.health = match info.health {
            HEALTH_NONE if has(ROLE_MISSING) => HEALTH_DEGRADED,
            HEALTH_NONE if has(ROLE_HEALING) => HEALTH_HEALING,
            HEALTH_NONE => HEALTH_GOOD,
            health => health,
        };
        request.uuid = [0xd5; 16];
        request.read_policy = info.read_policy;
        request.stale = self.nodes.iter().map(|node| node.stale).sum();
        request.healed = info.healed;
        request.heal_rate = info.heal_rate;
        request.healed_before = info.healed_before;
        let healing = self.nodes.iter().filter(|node| node.role == ROLE_HEALING);
        let left = healing.fold(0, |sum: u64, node| sum.saturating_add(node.stale));
        request.heal_left = left;
        request.heal_seconds_left = seconds_left(left, info.heal_rate)
            .filter(|_| has(ROLE_HEALING))
            .unwrap_or(UNKNOWN);
        request.heal_min = info.heal_min;
        request.heal_max = info.heal_max;
        request.overlaps = info.overlaps;
        request.left = info.left;
    }
}

impl State {
    /// Reads what nodes tell, refuses what does not fit, and writes it anew.
    pub(super) fn believe(&mut self, request: &mut Named) -> Answer {
        let name = field(&request.name);
        let storage = self.storages.get_mut(&name).ok_or(libc::ENOENT)?;
        if storage.create.flags & CREATE_METADATA == 0 {
            return Ok(());
        }
        let mut refuse = |errno, text: &str| {
            set_text(&mut request.header.message, text).unwrap();
            Err(errno)
        };
        let known = |node: &&NodeInfo| {
            let forced = storage.forced.contains(&node.node);
            !forced && self.superblocks.contains_key(&label(node))
        };
        let old: Vec<String> = storage.nodes.iter().filter(known).map(label).collect();
        let assemble = match request.flags & (START_NEW | START_ASSEMBLE) {
            START_NEW => false,
            START_ASSEMBLE => true,
            _ => !old.is_empty(),
        };
        let theirs = old.first().map(|old| self.superblocks[old].clone());
        match (assemble, &theirs) {
            (false, Some(theirs)) => {
                return refuse(
                    libc::EEXIST,
                    &format!(
                        "{} is a node of storage '{theirs}'; --force writes over it",
                        old[0]
                    ),
                );
            }
            (true, None) => return refuse(libc::EUCLEAN, "it is no node of a storage"),
            (true, Some(_)) if old.len() < storage.nodes.len() => {
                return refuse(libc::EUCLEAN, "one is no node of a storage");
            }
            (true, Some(theirs)) => {
                let mut all = self.superblocks.iter().filter(|(_, own)| *own == theirs);
                let missing = all.find(|(label, _)| !old.contains(label));
                let alg = self.told[&old[0]].0.clone();
                if let Some((missing, _)) = missing {
                    if alg != "alg_mirror" {
                        let text = format!(
                            "missing: node 1 (last at {missing}); the storage needs all of its nodes, \
                             name them all"
                        );
                        return refuse(libc::ESTALE, &text);
                    }
                    if request.flags & START_DEGRADED == 0 {
                        let text = format!(
                            "missing: node 1 (last at {missing}); data may be newer there: name all \
                             nodes, or start without by --degraded"
                        );
                        return refuse(libc::ESTALE, &text);
                    }
                    storage.info.health = HEALTH_DEGRADED;
                }
                set_text(&mut storage.create.alg, &alg).unwrap();
                for node in &mut storage.nodes {
                    node.start = self.told[&label(node)].1;
                }
            }
            (false, None) => {}
        }
        let alg = field(&storage.create.alg);
        for node in &storage.nodes {
            self.superblocks.insert(label(node), name.clone());
            self.told.insert(label(node), (alg.clone(), node.start));
        }
        Ok(())
    }

    /// Suspends or resumes a node.
    pub(super) fn suspend(&mut self, request: &NodeRef, suspended: u32) -> Answer {
        let storage = self.storage(&field(&request.name))?;
        if !storage.running {
            return Err(libc::EOPNOTSUPP);
        }
        let mut nodes = storage.nodes.iter_mut();
        let node = nodes
            .find(|node| node.node == request.node)
            .ok_or(libc::ENODEV)?;
        if node.suspended == suspended {
            return Err(libc::EALREADY);
        }
        node.suspended = suspended;
        Ok(())
    }

    /// Changes a setting of a storage.
    pub(super) fn change(&mut self, request: &SetStorage) -> Answer {
        let name = field(&request.name);
        if !self.storage(&name)?.is_mirror() {
            return Err(libc::EOPNOTSUPP);
        }
        let pace = self.pace.entry(name.clone()).or_default();
        let (min, max) = match request.what {
            SET_HEAL_MIN => (request.value, pace.1),
            SET_HEAL_MAX => (pace.0, request.value),
            _ => *pace,
        };
        if max != 0 && min > max {
            return Err(libc::EINVAL);
        }
        *pace = (min, max);
        self.set_storage.push((name, request.what, request.value));
        Ok(())
    }
}
