// SPDX-License-Identifier: GPL-2.0

//! What was written, what of it was acknowledged, and so what may land on a server's disk.

use std::collections::BTreeSet;

use dst_core::alg_mirror::overlap::Extent;

/// A write. The position of its `version` is the order of submission, of all heads.
pub(super) struct Write {
    pub(super) server: usize,
    pub(super) extent: Extent,
    pub(super) head: usize,
    /// A superblock's.
    pub(super) epoch: Option<u64>,
    /// It has ended: well, or not.
    pub(super) ended: Option<bool>,
    /// Connections that it was sent on.
    pub(super) sent_on: Vec<usize>,
    /// Sectors of which nothing is promised: the late write of one that overlaps, and was lost together with it on a
    /// connection without a fence, has come behind it.
    void: BTreeSet<u64>,
}

pub(super) struct Oracle {
    writes: Vec<Write>,
    /// For each server: the newest version that was acknowledged.
    floor: Vec<Vec<u64>>,
    /// The head that has begun and was the last one that all servers let in, and when that was.
    begun: Option<(usize, u64)>,
}

impl Oracle {
    pub(super) fn new(servers: usize, sectors: u64) -> Self {
        Self {
            writes: Vec::new(),
            floor: vec![vec![0; sectors as usize]; servers],
            begun: None,
        }
    }

    /// A write is submitted; gives its version.
    pub(super) fn submit(
        &mut self,
        server: usize,
        extent: Extent,
        head: usize,
        epoch: Option<u64>,
    ) -> u64 {
        self.writes.push(Write {
            server,
            extent,
            head,
            epoch,
            ended: None,
            sent_on: Vec::new(),
            void: BTreeSet::new(),
        });
        self.writes.len() as u64
    }

    pub(super) fn write(&mut self, version: u64) -> &mut Write {
        &mut self.writes[version as usize - 1]
    }

    /// The epoch of the superblock that has that version.
    pub(super) fn epoch(&self, version: u64) -> u64 {
        let at = (version as usize).checked_sub(1);
        at.and_then(|at| self.writes[at].epoch).unwrap_or(0)
    }

    /// What a read must find, at least.
    pub(super) fn floor(&self, server: usize, extent: &Extent) -> &[u64] {
        &self.floor[server][extent.start as usize..extent.end as usize]
    }

    /// A head has heard that all servers have let it in: the last one at that moment.
    pub(super) fn begin(&mut self, head: usize, at: u64) {
        if self.begun.is_none_or(|(_, before)| before <= at) {
            self.begun = Some((head, at));
        }
    }

    /// A write has ended; `disk` is what its server has.
    pub(super) fn end(&mut self, version: u64, ok: bool, disk: &[u64]) {
        let write = &mut self.writes[version as usize - 1];
        assert_eq!(write.ended, None, "write {version} ends twice");
        write.ended = Some(ok);
        if !ok {
            return;
        }
        for sector in write.extent.start..write.extent.end {
            if write.void.contains(&sector) {
                continue;
            }
            let there = disk[sector as usize];
            assert!(
                there >= version,
                "write {version} is acknowledged, and sector {sector} of server {} has {there}",
                write.server
            );
            let floor = &mut self.floor[write.server][sector as usize];
            *floor = version.max(*floor);
        }
    }

    /// A sector of a write lands on a disk. `late`: its connection is gone, and had no fence. Says whether it undoes what
    /// nothing was promised of.
    pub(super) fn land(&mut self, version: u64, sector: u64, conn: usize, late: bool) -> bool {
        let write = &self.writes[version as usize - 1];
        let (server, head) = (write.server, write.head);
        assert!(
            self.begun.is_none_or(|(begun, _)| begun == head),
            "write {version} of head {head} lands, after head {:?} has begun",
            self.begun
        );
        let floor = &mut self.floor[server][sector as usize];
        if !late {
            assert!(
                *floor <= version,
                "write {version} lands on sector {sector} of server {server}, on {floor} that was acknowledged"
            );
            return false;
        }
        let mut undone = false;
        let newer = self.writes.iter_mut().zip(1..).skip(version as usize);
        for (newer, its) in newer {
            let there = newer.server == server
                && newer.extent.start <= sector
                && sector < newer.extent.end
                && !newer.void.contains(&sector);
            if !there || newer.ended == Some(false) {
                continue;
            }
            if newer.sent_on.contains(&conn) {
                newer.void.insert(sector);
                undone |= newer.ended.is_some();
            } else {
                assert!(
                    newer.ended.is_none(),
                    "write {version} lands late on sector {sector} of server {server}, on {its} that was acknowledged"
                );
            }
        }
        *floor = version.min(*floor);
        undone
    }

    /// Nobody can have lost anything any more.
    pub(super) fn check(&self, server: usize, disk: &[u64]) {
        for (sector, (there, floor)) in disk.iter().zip(&self.floor[server]).enumerate() {
            assert!(
                there >= floor,
                "in the end sector {sector} of server {server} has {there}, and {floor} was acknowledged"
            );
        }
    }
}
