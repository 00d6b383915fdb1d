// SPDX-License-Identifier: GPL-2.0

//! Nodes of a storage, and what the verdict makes of them: what its tests share.

#![allow(dead_code, reason = "each test program uses a part of it")]

use dst_core::meta::{
    layout::Log,
    superblock::*,
    verdict::*,
    Block,
    Damage,
    Uuid,
    BLOCK, //
};

pub(crate) const SECTORS: u64 = 4096;

pub(crate) fn uuid(n: u8) -> Uuid {
    Uuid::random([n; 16])
}

/// A node in a test: its superblock as it lies on the disk.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) name: &'static str,
    pub(crate) sectors: u64,
    pub(crate) block: Result<Box<Block>, Damage>,
    pub(crate) discard: bool,
}

impl Disk {
    /// Changes the superblock.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Superblock)) -> Self {
        let old = self.block.unwrap();
        let mut block: Box<Block> = vec![0u8; BLOCK].try_into().unwrap();
        let this = Superblock::open(&old).unwrap().copy_to(&mut block);
        change(this);
        this.seal();
        self.block = Ok(block);
        self
    }

    /// A later state of the data, which another node does not know of.
    pub(crate) fn after(self, change: impl FnOnce(&mut Superblock)) -> Self {
        self.with(|own| {
            change(own);
            own.bump();
        })
    }

    pub(crate) fn damaged(mut self, damage: Damage) -> Self {
        self.block = Err(damage);
        self
    }

    pub(crate) fn discarded(mut self) -> Self {
        self.discard = true;
        self
    }

    pub(crate) fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }
}

/// Three nodes of a new storage, stopped cleanly.
pub(crate) fn three(storage: u8, name: &str, log: Option<Log>) -> [Disk; 3] {
    ["/dev/a", "/dev/b", "/dev/c"].map(|path| {
        let at = u32::from(path.as_bytes()[5] - b'a');
        let new = New {
            storage: uuid(storage),
            name,
            alg: if log.is_some() {
                "alg_mirror"
            } else {
                "alg_linear"
            },
            created: 1,
            block_size: 512,
            sectors: 2048,
            log,
            data: uuid(100),
        };
        let mut block: Box<Block> = vec![0u8; BLOCK].try_into().unwrap();
        let this = Superblock::blank(&mut block, &new).unwrap();
        for (index, label) in (0..).zip(["a", "b:10809", "c"]) {
            let entry = Entry {
                uuid: uuid(storage * 10 + index as u8),
                start: if log.is_some() {
                    0
                } else {
                    u64::from(index) * 2048
                },
                size: 2048,
                seen: 1,
                state: NodeState::InSync,
            };
            this.set_entry(index, &entry).unwrap();
            this.set_label(index, label).unwrap();
        }
        this.address(at, uuid(storage * 10 + at as u8), SECTORS);
        this.seal();
        Disk {
            name: path,
            sectors: SECTORS,
            block: Ok(block),
            discard: false,
        }
    })
}

pub(crate) fn mirror() -> [Disk; 3] {
    three(1, "data", Log::for_array(4080))
}

pub(crate) fn linear() -> [Disk; 3] {
    three(1, "data", None)
}

pub(crate) fn founds(disks: &[Disk]) -> Vec<Found<'_>> {
    let found = disks.iter().map(|disk| Found {
        name: disk.name,
        sectors: disk.sectors,
        superblock: match &disk.block {
            Ok(block) => Superblock::newest(Some(block), Some(block)),
            Err(damage) => Err(*damage),
        },
        discard: disk.discard,
    });
    found.collect()
}

/// All orders of some disks.
pub(crate) fn orders(disks: &[Disk]) -> Vec<Vec<Disk>> {
    if disks.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for at in 0..disks.len() {
        let mut rest = disks.to_vec();
        let one = rest.remove(at);
        for mut order in orders(&rest) {
            order.insert(0, one.clone());
            all.push(order);
        }
    }
    all
}

/// Roles by name, the source, whether it is unclean and degraded; or the sentence.
pub(crate) type Verdict = Result<(Vec<Role>, String, bool, bool), String>;

/// What is made of the disks, in any order.
pub(crate) fn verdict(disks: &[Disk], degraded: bool) -> Verdict {
    let wish = Wish {
        name: "data",
        degraded,
    };
    let mut verdicts: Vec<Verdict> = orders(disks)
        .iter()
        .map(|disks| {
            let found = founds(disks);
            let assembly = judge(&found, &wish).map_err(|refusal| refusal.to_string())?;
            let mut roles: Vec<_> = found
                .iter()
                .map(|found| (found.name, assembly.role(found)))
                .collect();
            roles.sort_by_key(|(name, _)| *name);
            let newest = found.iter().map(|f| f.superblock.unwrap().generation());
            assert_eq!(Some(assembly.generation), newest.max());
            Ok((
                roles.into_iter().map(|(_, role)| role).collect(),
                found[assembly.source].name.to_string(),
                assembly.unclean,
                assembly.degraded,
            ))
        })
        .collect();
    let last = verdicts.pop().unwrap();
    for other in verdicts {
        assert_eq!(other, last, "the order matters");
    }
    if let Err(sentence) = &last {
        // With the errno's prefix it must fit into the message of a request.
        assert!(sentence.len() < 320, "{sentence}");
    }
    last
}

pub(crate) fn roles(disks: &[Disk]) -> Vec<Role> {
    verdict(disks, false).unwrap().0
}

pub(crate) fn refused(disks: &[Disk]) -> String {
    verdict(disks, false).unwrap_err()
}

/// The superblock of those that stay when copy `gone` leaves.
pub(crate) fn leave(gone: u32, data: u8) -> impl Fn(&mut Superblock) {
    move |own| {
        own.set_state(gone, NodeState::Missing).unwrap();
        own.rename_data(uuid(data));
    }
}
