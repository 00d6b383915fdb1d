// SPDX-License-Identifier: GPL-2.0

//! What must hold.

use dst_core::{
    alg_mirror::{
        each,
        overlap::Extent, //
    },
    meta::verdict::Role, //
};

use super::{
    head::Request,
    sectors,
    tell,
    What,
    World, //
};

impl World {
    /// Disks that a start would count as in sync if the head crashed now.
    fn trusted(&mut self) -> Vec<usize> {
        let changes = self.disks.iter().map(|disk| disk.changes).sum();
        match &self.trusted {
            Some((then, disks)) if *then == changes => disks.clone(),
            _ => {
                let members = self.members();
                let judged = self.judge(&members, &[], false);
                let roles = match judged {
                    Ok(assembly) => assembly.roles,
                    Err(why) => {
                        self.show();
                        panic!("all disks, and no storage: {why}");
                    }
                };
                let in_sync = roles.iter().filter(|(_, role)| *role == Role::InSync);
                let disks: Vec<usize> = in_sync.map(|(disk, _)| *disk).collect();
                self.trusted = Some((changes, disks.clone()));
                disks
            }
        }
    }

    /// P1, P5: a write is acknowledged: whoever counts, whatever a crash leaves, has it.
    pub(super) fn check_write(&mut self, request: &Request) {
        for at in self.trusted() {
            let disk = &self.disks[at];
            if disk.lost {
                continue;
            }
            for sector in request.extent.start..request.extent.end {
                let has = match request.fua {
                    true => disk.durable(sector),
                    false => disk.view(sector),
                };
                assert!(
                    has >= request.version,
                    "P1: {} counts as in sync, and has {has} of the acknowledged write {} to {sector}",
                    disk.name,
                    request.version
                );
            }
        }
    }

    /// P2: a flush is acknowledged.
    pub(super) fn check_flush(&mut self, request: &Request) {
        for at in self.trusted() {
            let disk = &self.disks[at];
            let has = |(sector, floor): (usize, &u64)| disk.durable(sector as u64) >= *floor;
            if !request.floor.iter().enumerate().all(has) {
                self.show();
            }
            for (sector, floor) in request.floor.iter().enumerate() {
                let has = disk.durable(sector as u64);
                assert!(
                    has >= *floor,
                    "P2: {} counts as in sync, and has {has} of the flushed write {floor} to {sector}",
                    disk.name
                );
            }
        }
    }

    /// P3: a read finds what was acknowledged, or newer; and never older than what was read before.
    pub(super) fn check_read(
        &mut self,
        copy: u32,
        extent: Extent,
        least: &[u64],
        binds: impl Fn(u64) -> bool,
        values: &[u64],
    ) {
        if self.head().stray {
            return;
        }
        tell!(self, "read {extent:?} from {copy}: {values:?}");
        for ((at, value), least) in sectors(extent).zip(values).zip(least) {
            let most = self.oracle.submitted[at];
            assert!(
                (*least..=most).contains(value),
                "P3: copy {copy} gives {value} of sector {at}, not {least} to {most}"
            );
            // A write that went later than the read does not bind others: it may have gone to the copy of this one first.
            if binds(*value) {
                self.oracle.seen[at] = self.oracle.seen[at].max(*value);
            }
        }
    }

    /// All copies that can serve a read give what they should, and where nothing is in flight, the same.
    pub(super) fn check_copies(&mut self, extent: Extent) {
        let Some(head) = &self.head else { return };
        let mut busy: Vec<Extent> = Vec::new();
        for request in head.requests.iter().flatten() {
            if request.extent.sectors() != 0 {
                busy.push(request.extent);
            }
        }
        for op in &self.ops {
            match op.what {
                What::HealWrite { extent, .. } => busy.push(extent),
                What::HealRead { extent, .. } => busy.push(extent),
                _ => {}
            }
        }
        for sector in extent.start..extent.end {
            let one = Extent::new(sector, 1);
            let at = sector as usize;
            if self.oracle.submitted[at] == 0 {
                continue;
            }
            let mut first = None;
            for copy in each(head.core.readable(one)) {
                let Some(disk) = head.disks[copy as usize] else {
                    panic!("copy {copy} is nowhere");
                };
                let disk = &self.disks[disk];
                // The driver does not know yet that it has lost its power.
                if !disk.up || disk.lost {
                    continue;
                }
                let has = disk.view(sector);
                assert!(
                    has >= self.oracle.floor[at],
                    "{} has {has} in sector {sector}, where {} was acknowledged",
                    disk.name,
                    self.oracle.floor[at]
                );
                if busy.iter().any(|other| other.overlaps(&one)) {
                    continue;
                }
                match first {
                    None => first = Some((disk.name, has)),
                    Some((other, value)) => assert_eq!(
                        has, value,
                        "{} and {other} differ in sector {sector}",
                        disk.name
                    ),
                }
            }
        }
    }

    /// When all is healed: each copy has all.
    pub(super) fn check_whole(&mut self) {
        let all = Extent::new(0, self.shape.sectors);
        self.check_copies(all);
        let head = self.head();
        let disks: Vec<usize> = each(head.core.members())
            .map(|copy| head.disks[copy as usize].expect("it is there"))
            .collect();
        for sector in 0..self.shape.sectors {
            let at = sector as usize;
            if self.oracle.submitted[at] == 0 {
                continue;
            }
            for disk in &disks {
                let disk = &self.disks[*disk];
                let has = disk.view(sector);
                assert!(
                    has >= self.oracle.floor[at] && has >= self.oracle.durable[at],
                    "{} has {has} in sector {sector} at the end, where {} was acknowledged",
                    disk.name,
                    self.oracle.floor[at]
                );
            }
        }
    }
}
