// SPDX-License-Identifier: GPL-2.0

//! The mirror's world: disks, at most one head that counts, and what is under way between them. That of
//! [`sessions`] is another one.

mod check;
mod disk;
mod driver;
mod events;
mod head;
mod oracle;
mod recover;
mod rng;
pub(crate) mod sessions;

use dst_core::{
    alg_mirror::{
        overlap::Extent,
        Mask, //
    },
    meta::{
        layout::{
            Layout,
            Log, //
        },
        Block,
        Uuid, //
    },
};

use disk::Disk;
use head::Head;
use oracle::{
    sectors,
    Oracle, //
};
use rng::Rng;

/// Sectors of a disk: two MiB of data, and whatever metadata there are.
const DISK_SECTORS: u64 = 4096 + 200;

const NAMES: [&str; 4] = ["/dev/a", "/dev/b", "/dev/c", "/dev/d"];

/// The shape of the storage.
pub(crate) struct Shape {
    sectors: u64,
    log: Log,
    /// Entries of a block that are used: small blocks, so that there are several.
    per_block: usize,
    regions: usize,
}

/// What a disk is asked.
#[derive(Clone)]
pub(crate) enum What {
    Write {
        id: u32,
        extent: Extent,
        version: u64,
        fua: bool,
    },
    Flush {
        id: u32,
    },
    Read {
        extent: Extent,
        /// The least that it may find.
        least: Vec<u64>,
        /// The last write that had come when it began, and those before it that had not gone yet.
        begun: u64,
        waiting: Vec<u64>,
        tried: Mask,
    },
    Log {
        sector: u64,
        block: Box<Block>,
    },
    Superblock {
        /// Where: A, then B; or the other way round.
        sector: u64,
        block: Box<Block>,
        second: bool,
    },
    FlushJob,
    HealRead {
        id: u32,
        extent: Extent,
        to: Mask,
    },
    HealWrite {
        id: u32,
        extent: Extent,
        rest: Mask,
        ok: Mask,
        values: Vec<u64>,
    },
}

/// A request on its way to a disk and back.
#[derive(Clone)]
pub(crate) struct Op {
    disk: usize,
    copy: u32,
    what: What,
    applied: bool,
    /// What was read.
    values: Vec<u64>,
}

/// What happened in all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    seeds: u64,
    writes: u64,
    acknowledged: u64,
    failed: u64,
    flushes: u64,
    reads: u64,
    power_losses: u64,
    link_losses: u64,
    errors: u64,
    left: u64,
    back: u64,
    back_all: u64,
    crashes: u64,
    starts: u64,
    waits_for_nodes: u64,
    splits: u64,
    flips: u64,
    log_flips: u64,
    stops: u64,
    added: u64,
    removed: u64,
    healed: u64,
    rescued: u64,
    rewritten: u64,
    legal_losses: u64,
}

impl Tally {
    fn fields(&mut self) -> [&mut u64; 25] {
        [
            &mut self.seeds,
            &mut self.writes,
            &mut self.acknowledged,
            &mut self.failed,
            &mut self.flushes,
            &mut self.reads,
            &mut self.power_losses,
            &mut self.link_losses,
            &mut self.errors,
            &mut self.left,
            &mut self.back,
            &mut self.back_all,
            &mut self.crashes,
            &mut self.starts,
            &mut self.waits_for_nodes,
            &mut self.splits,
            &mut self.flips,
            &mut self.log_flips,
            &mut self.stops,
            &mut self.added,
            &mut self.removed,
            &mut self.healed,
            &mut self.rescued,
            &mut self.rewritten,
            &mut self.legal_losses,
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let mut other = *other;
        for (sum, more) in self.fields().into_iter().zip(other.fields()) {
            *sum += *more;
        }
    }

    /// Whether all of it happened, if there was time for it.
    pub(crate) fn is_rich(&self) -> bool {
        let mut copy = *self;
        self.seeds < 200 || copy.fields().into_iter().all(|count| *count != 0)
    }
}

pub(crate) struct World {
    rng: Rng,
    trace: bool,
    step: u64,
    shape: Shape,
    disks: Vec<Disk>,
    oracle: Oracle,
    head: Option<Head>,
    ops: Vec<Op>,
    tally: Tally,
    /// Disks that a start would count as in sync, by the number of changes at which that was found out.
    trusted: Option<(u64, Vec<usize>)>,
    /// How often what goes wrong does, in this world.
    trouble: u64,
    /// Disks that were written to alone, and the id that the data got by that.
    given_up: Vec<(usize, Uuid)>,
    /// The disk that served reads of what was being written when the head crashed.
    first: Option<usize>,
    /// An old copy of a disk.
    backup: Option<(usize, Disk)>,
    /// A sector that is of interest, and what is in it.
    watched: Option<u64>,
    watch: Vec<u64>,
}

/// Tells what happens, if that is wanted.
macro_rules! tell {
    ($world:expr, $($arg:tt)*) => {
        if $world.trace {
            println!("{:5} {}", $world.clock(), format_args!($($arg)*));
        }
    };
}
pub(crate) use tell;

/// Lives through one world.
pub(crate) fn run(seed: u64, trace: bool) -> Tally {
    let mut rng = Rng::new(seed);
    let (region_shift, blocks, sectors) = match rng.below(3) {
        0 => (9, 2, 1900),
        1 => (7, 3, 700),
        _ => (7, 1, 200),
    };
    let log = Log {
        region_shift,
        blocks,
    };
    let shape = Shape {
        sectors,
        log,
        per_block: 2,
        regions: (sectors as usize).div_ceil(1 << region_shift),
    };
    let layout = Layout::new(DISK_SECTORS, Some(log)).expect("it is large enough");
    let disks = NAMES.map(|name| Disk::new(name, layout, sectors));
    let steps = 300 + rng.below(1500);
    let trouble = [0, 1, 3, 10][rng.below(4) as usize];
    let mut world = World {
        rng,
        trace,
        step: 0,
        shape,
        disks: disks.into(),
        oracle: Oracle::new(sectors as usize),
        head: None,
        ops: Vec::new(),
        tally: Tally::default(),
        trusted: None,
        trouble,
        given_up: Vec::new(),
        first: None,
        backup: None,
        watched: std::env::var("DST_SIM_SECTOR")
            .ok()
            .and_then(|sector| sector.parse().ok()),
        watch: Vec::new(),
    };
    world.make();
    for _ in 0..steps {
        world.step += 1;
        world.event();
        world.watch();
    }
    world.come_to_rest();
    world.tally.seeds = 1;
    world.tally.legal_losses = world.oracle.losses;
    world.tally
}

impl World {
    /// What is shown with all that happens.
    fn clock(&self) -> u64 {
        self.step
    }

    /// Tells how a sector changes that is of interest.
    fn watch(&mut self) {
        if let Some(sector) = self.watched {
            let now: Vec<u64> = self.disks.iter().map(|disk| disk.view(sector)).collect();
            if now != self.watch {
                tell!(self, "sector {sector}: {now:?}");
                self.watch = now;
            }
        }
    }

    fn uuid(&mut self) -> Uuid {
        let (a, b) = (self.rng.next(), self.rng.next());
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&a.to_le_bytes());
        bytes[8..].copy_from_slice(&b.to_le_bytes());
        Uuid::random(bytes)
    }

    /// A disk does what it is asked.
    fn apply(&mut self, at: usize) {
        let op = &mut self.ops[at];
        let disk = &mut self.disks[op.disk];
        match &op.what {
            What::Write {
                extent,
                version,
                fua,
                ..
            } => {
                for sector in extent.start..extent.end {
                    disk.write(sector, *version, *fua);
                }
            }
            What::Flush { .. } | What::FlushJob => disk.flush(),
            What::Read { extent, .. } | What::HealRead { extent, .. } => {
                op.values = (extent.start..extent.end)
                    .map(|sector| disk.view(sector))
                    .collect();
            }
            What::Log { sector, block } | What::Superblock { sector, block, .. } => {
                disk.write_block(*sector, block, 0xff);
            }
            What::HealWrite { extent, values, .. } => {
                for (sector, value) in (extent.start..extent.end).zip(values) {
                    disk.write(sector, *value, false);
                }
            }
        }
        op.applied = true;
    }

    /// Some of what it is asked gets through.
    fn tear(&mut self, at: usize) {
        let op = &self.ops[at];
        let disk = &mut self.disks[op.disk];
        let whole = self.rng.below(3);
        let arrives = |rng: &mut Rng| match whole {
            0 => false,
            1 => rng.chance(500),
            _ => true,
        };
        match &op.what {
            What::Write {
                extent,
                version,
                fua,
                ..
            } => {
                for sector in extent.start..extent.end {
                    if arrives(&mut self.rng) {
                        disk.write(sector, *version, *fua);
                    }
                }
            }
            What::HealWrite { extent, values, .. } => {
                for (sector, value) in (extent.start..extent.end).zip(values) {
                    if arrives(&mut self.rng) {
                        disk.write(sector, *value, false);
                    }
                }
            }
            What::Log { sector, block } | What::Superblock { sector, block, .. } => {
                let mask = (0..8).fold(0, |mask, at| mask | u8::from(arrives(&mut self.rng)) << at);
                disk.write_block(*sector, block, mask);
            }
            What::Flush { .. } | What::FlushJob if arrives(&mut self.rng) => disk.flush(),
            _ => {}
        }
    }
}
