// SPDX-License-Identifier: GPL-2.0

//! From nodes to what serves the disk.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::{
    alg::Segment,
    array::{
        Array,
        Map,
        Node,
        Running,
        Target, //
    },
    failure::{
        fail,
        Done,
        Failure, //
    },
    kern::sysfs::Directory,
    limits,
    member::{
        Member,
        Server,
        Want, //
    },
    net_state::NetThread,
    node_remote::{
        self,
        RemoteNode, //
    },
    remotes::Remotes,
    request::SECTOR_SHIFT,
    uapi,
};

use super::{
    Assembled,
    Life,
    Storage, //
};

impl Storage {
    /// Lets the algorithm join the nodes.
    pub(super) fn assemble(&self, flags: u32) -> Done<Assembled> {
        let new = uapi::START_NEW | uapi::START_ASSEMBLE;
        if flags & !(new | uapi::START_DEGRADED) != 0 || flags & new == new {
            fail!(EINVAL, "unknown flags {flags:#x}");
        }
        if flags & !uapi::START_NEW != 0 && !self.has_metadata() {
            fail!(
                EINVAL,
                "nothing about {} is on its nodes: it can't be assembled, nor start degraded; \
                 add all nodes, in their order, and start it",
                self.name()
            );
        }
        if flags & uapi::START_DEGRADED != 0 && !self.is_mirror() {
            fail!(
                EINVAL,
                "a storage of {} needs all of its nodes; it can't start degraded",
                self.alg_name()
            );
        }
        let members = self.members(|member| !member.waits())?;
        let mut table = Self::places(&members)?;
        if self.has_metadata() && !self.is_mirror() {
            return self.assemble_linear(flags, &members, table);
        }
        let sectors = self.check(&mut table)?;
        let limits = limits::stack(&members, self.block_size, self.is_mirror())?;
        if self.is_mirror() {
            return self.assemble_mirror(flags, &members, sectors, limits);
        }
        let array = self.array(&members, table, Self::itself)?;
        Ok(Assembled {
            running: Running::Single(array),
            sectors,
            limits,
            linear: None,
            moving: None,
        })
    }

    /// The nodes that `which` names.
    pub(super) fn members(&self, which: impl Fn(&Member) -> bool) -> Result<KVec<Arc<Member>>> {
        let inner = self.inner.lock();
        let mut members = KVec::with_capacity(inner.members.len(), GFP_KERNEL)?;
        for member in inner.members.iter().filter(|member| which(member)) {
            members.push(member.clone(), GFP_KERNEL)?;
        }
        Ok(members)
    }

    /// The places of nodes, in their order.
    fn places(members: &[Arc<Member>]) -> Result<KVec<Segment>> {
        let mut table = KVec::with_capacity(members.len(), GFP_KERNEL)?;
        for (index, member) in (0..).zip(members) {
            table.push(member.segment(index), GFP_KERNEL)?;
        }
        Ok(table)
    }

    /// Checks that a table can be a storage, and sorts it; gives its size.
    pub(super) fn check(&self, table: &mut [Segment]) -> Done<u64> {
        let sectors = match self.alg().check(table) {
            Ok(sectors) => sectors,
            Err(error) => return Err(Failure::new(EINVAL, error)),
        };
        // The kernel counts bytes in 63 bits.
        if sectors > (i64::MAX as u64) >> SECTOR_SHIFT {
            fail!(
                EFBIG,
                "the storage would have {sectors} sectors, more than Linux can address"
            );
        }
        Ok(sectors)
    }

    /// A node that serves its place by itself.
    pub(super) fn itself(member: &Member) -> Target {
        Target::Node(member.node.clone())
    }

    /// What serves a storage of these nodes that is no mirror; `target` says what serves the place of a node.
    pub(super) fn array(
        &self,
        members: &[Arc<Member>],
        table: KVec<Segment>,
        target: impl Fn(&Member) -> Target,
    ) -> Result<Array> {
        let mut nodes = KVec::with_capacity(members.len(), GFP_KERNEL)?;
        let mut gates = KVec::with_capacity(members.len(), GFP_KERNEL)?;
        for member in members {
            nodes.push(target(member), GFP_KERNEL)?;
            gates.push(member.gate.clone(), GFP_KERNEL)?;
        }
        let hold = self.hold.clone();
        Array::new(Map::new(self.alg(), table, nodes, gates, hold))
    }

    /// The same, of a storage that runs.
    pub(super) fn array_again(&self, target: impl Fn(&Member) -> Target) -> Done<Array> {
        let members = self.members(|_| true)?;
        let mut table = Self::places(&members)?;
        self.check(&mut table)?;
        Ok(self.array(&members, table, target)?)
    }

    /// Makes a connection to a remote node, the thread first if there is none yet.
    #[inline(never)]
    pub(super) fn connect(
        &self,
        life: &mut Life,
        want: &Want,
        server: &Server,
    ) -> Done<Arc<RemoteNode>> {
        if life.net.is_none() {
            let remotes = Remotes::new(self.events.clone())?;
            life.net = Some(NetThread::start(fmt!("dst-{}", self.name()), remotes)?);
        }
        let Some(thread) = &life.net else {
            return Err(EINVAL.into());
        };
        // Without metadata nothing on the nodes says which storage it is; with some, nothing is said before it runs: to
        // look at nodes must not disturb whoever writes to them.
        let (fence, hold) = match self.metadata {
            false => (Some(self.fence), None),
            true => (self.inner.lock().fence, Some(self.hold.clone())),
        };
        let config = want.config(self.name(), life.next_id, server, fence, hold)?;
        let node = thread
            .service()
            .add(|token| node_remote::new(config, thread.net().clone(), token))?;
        let remote = node.ctx();
        thread.net().kick(remote.token());
        if let Err((error, reason)) = remote.wait_up(server.connect_ms) {
            Self::disconnect(life, &node);
            fail!(error, "{}: {}", remote.config.address, reason.as_str());
        }
        Ok(node)
    }

    /// Ends a remote node.
    pub(super) fn disconnect(life: &Life, node: &Arc<RemoteNode>) {
        node.ctx().close();
        if let Some(thread) = &life.net {
            thread.service().remove(node.ctx().token());
        }
    }

    /// Takes out the nodes that `which` names, and ends them; gives their number.
    pub(super) fn drop_members(&self, life: &Life, which: impl Fn(&Member) -> bool) -> usize {
        let mut dropped = 0;
        while let Some((directory, member)) = self.take_member(&which) {
            drop(directory);
            if let Node::Remote(node) = &member.node {
                Self::disconnect(life, node);
            }
            drop(member);
            dropped += 1;
        }
        dropped
    }

    /// Takes a node that `which` names out of the list. What it gives waits for readers of sysfs when it is dropped.
    pub(super) fn take_member(
        &self,
        which: impl Fn(&Member) -> bool,
    ) -> Option<(Option<Directory<Member>>, Arc<Member>)> {
        let mut inner = self.inner.lock();
        let index = inner.members.iter().position(|member| which(member))?;
        let member = inner.members.remove(index).ok()?;
        Some((inner.directories.remove(index).ok(), member))
    }
}
