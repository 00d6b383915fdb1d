// SPDX-License-Identifier: GPL-2.0

//! A node becomes one of a storage.

use kernel::{
    prelude::*,
    str::CString,
    sync::Arc, //
};

use crate::{
    array::Node,
    failure::{
        fail,
        Done, //
    },
    gate::Gate,
    kern::sysfs::Directory,
    limits, linear,
    member::{
        usable,
        Member,
        Place,
        Want, //
    },
    sort, uapi,
};

use super::{
    Inner,
    Life,
    Storage, //
};

impl Storage {
    /// Opens or connects to a node, and gives it its place; gives its id. `replaces`: the copy whose place it takes.
    pub(super) fn take_up(&self, life: &mut Life, want: Want, replaces: Option<u32>) -> Done<u32> {
        self.with_node(life, want, |life, id, want, node| {
            self.place(life, id, want, node, replaces)
        })
    }

    /// Opens or connects to a node, and lets `take` do something with it; gives its id. It is closed if that fails.
    pub(super) fn with_node(
        &self,
        life: &mut Life,
        want: Want,
        take: impl FnOnce(&mut Life, u32, Want, Node) -> Done,
    ) -> Done<u32> {
        let id = life.next_id;
        let node = match &want.server {
            None => want.open(id)?,
            Some(server) => Node::Remote(self.connect(life, &want, server)?),
        };
        let result = take(life, id, want, node.clone());
        match (&result, &node) {
            (Ok(()), _) => life.next_id += 1,
            (Err(_), Node::Remote(node)) => Self::disconnect(life, node),
            (Err(_), Node::Local(_)) => {}
        }
        result.map(|()| id)
    }

    /// Gives a node its place in the storage, and its directory in sysfs.
    #[inline(never)]
    fn place(&self, life: &Life, id: u32, want: Want, node: Node, replaces: Option<u32>) -> Done {
        let told = self.ask(&node, &want)?;
        let waits = told.as_ref().is_some_and(|told| told.waits);
        let told = told.map(|told| Place {
            start: told.start,
            size: told.size,
        });
        let mut size = match told {
            Some(place) => place.size,
            None => usable(&node, want.place.size, self.block_size, self.keeps())?,
        };
        let mirror = self.mirror();
        if mirror.is_some() {
            if !matches!(want.place.start, uapi::AUTO | 0) {
                fail!(
                    EINVAL,
                    "a copy of everything begins at sector 0; leave --start (-s) out"
                );
            }
            let (sectors, limits) = {
                let inner = self.inner.lock();
                (inner.sectors, inner.limits)
            };
            limits::check_joining(
                &node,
                &limits,
                "stop the storage, then start it with the node",
            )?;
            size = sectors;
        }
        let candidate = want.candidate(&node)?;
        let mut inner = self.inner.lock();
        let mut table = KVec::with_capacity(inner.members.len(), GFP_KERNEL)?;
        for member in inner.members.iter().filter(|member| !member.waits()) {
            table.push(member.segment(0), GFP_KERNEL)?;
        }
        if self.has_metadata() && !self.is_mirror() && !waits {
            linear::check_count(table.len() + 1)?;
        }
        if self.told {
            // They were named in any order.
            sort::by_key(&mut table, |segment| segment.start);
        }
        let start = match told.map_or(want.place.start, |place| place.start) {
            uapi::AUTO => self.alg().place(&table, size),
            start => start.checked_add(size).map(|_| start),
        };
        let Some(start) = start else {
            fail!(
                EOVERFLOW,
                "the node would end beyond the largest sector number"
            );
        };
        let place = Place { start, size };
        // Of two nodes of which one takes the other one's place either may be named first.
        let pair = inner
            .members
            .iter()
            .find(|other| other.start == start && other.waits() != waits);
        let gate = match pair {
            Some(other) => other.gate.clone(),
            None => Gate::new(self.hold.clone())?,
        };
        let member = Member::new(id, place, node, gate, want)?;
        member.set_waits(waits);
        Self::show(life, &mut inner, member.clone())?;
        drop(inner);
        let Some(mirror) = mirror else {
            self.show_replacement();
            return Ok(());
        };
        // Last: a copy of which nobody can be told must not be one.
        match mirror.add(&candidate, replaces) {
            Ok(index) => member.set_copy(Some((mirror, index))),
            Err(failure) => {
                drop(self.take_member(|member| member.id == id));
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Puts a node into the list, and makes its directory in sysfs.
    pub(super) fn show(life: &Life, inner: &mut Inner, member: Arc<Member>) -> Done {
        let Some(device) = &life.device else {
            return Err(ENODEV.into());
        };
        let start = member.start;
        // Two nodes with one START: the second is n-START-1. Which numbers are taken depends on what was
        // removed; sysfs knows. After that nothing may fail: a directory is not dropped under `inner`.
        inner.members.reserve(1, GFP_KERNEL)?;
        inner.directories.reserve(1, GFP_KERNEL)?;
        let mut index = 0;
        let directory = loop {
            let name = match index {
                0 => CString::try_from_fmt(fmt!("n-{start}"))?,
                index => CString::try_from_fmt(fmt!("n-{start}-{index}"))?,
            };
            match Directory::add(device.anchor(), &name, member.clone()) {
                Err(EEXIST) if index <= inner.members.len() => index += 1,
                result => break result?,
            }
        };
        inner.directories.push(directory, GFP_KERNEL)?;
        inner.members.push(member, GFP_KERNEL)?;
        Ok(())
    }
}
