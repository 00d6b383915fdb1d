// SPDX-License-Identifier: GPL-2.0

//! From nodes to a mirror that runs: a new one, or the one that their superblocks tell of.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::{
    alg_mirror::{
        bit,
        overlap::{
            Flight,
            Waiter, //
        },
        regions::{
            Block as LogState,
            Region, //
        },
        write,
        Config,
        Mask,
        Parts,
        HEAL_SLOTS,
        MAX_COPIES, //
    },
    block_io::BlockIo,
    claim::{
        claim_new,
        claimed,
        Claimer, //
    },
    events::Events,
    failure::{
        fail,
        Done,
        Failure, //
    },
    hold::Hold,
    kern::{
        thread::KThread,
        time,
        trylock::TryLock, //
    },
    member,
    meta::{
        head::Place,
        layout::{
            Layout,
            Log,
            ENTRIES, //
        },
        superblock::{
            Entry,
            New,
            NodeState,
            Superblock, //
        },
        verdict::{
            self,
            Role, //
        },
        Uuid, //
    },
    superblocks::{
        cannot,
        check_free,
        found,
        is_blank,
        judge,
        new_block,
        new_uuid,
        Candidate,
        Superblocks, //
    },
};

use super::{
    discard,
    log,
    meta::{
        new_meta,
        Meta, //
    },
    thread::Steward,
    twin::Twin,
    Core,
    CoreParts,
    Engine,
    Mirror,
    MirrorArray,
    ALL_WRITES, //
};

/// What is asked for.
pub(crate) struct Wish<'a> {
    /// The storage's name.
    pub(crate) name: &'a str,
    /// Its algorithm's name.
    pub(crate) alg: &'a str,
    /// Logical block size in bytes.
    pub(crate) block_size: u32,
    /// Sectors of a new storage.
    pub(crate) sectors: u64,
    /// Whether to make a new one; `None`: as the nodes say.
    pub(crate) new: Option<bool>,
    /// Whether to start without copies that may hold newer data.
    pub(crate) degraded: bool,
}

/// A copy of a mirror that is about to run.
pub(super) struct Copy {
    pub(super) index: u32,
    /// Position among the candidates.
    pub(super) at: usize,
    pub(super) place: Place,
    pub(super) role: Role,
}

/// A mirror that is about to run.
pub(super) struct Plan {
    pub(super) meta: KBox<Meta>,
    pub(super) copies: KVec<Copy>,
    pub(super) log: Log,
    sectors: u64,
    /// Position among the candidates of the copy that is believed.
    source: usize,
    unclean: bool,
    degraded: bool,
}

impl Plan {
    /// The storage, and the epoch of this head.
    fn identity(&self) -> Result<(Uuid, u64)> {
        let superblock = self.meta.superblock()?;
        Ok((superblock.storage(), superblock.epoch()))
    }
}

/// A mirror that runs.
pub(crate) struct Started {
    pub(crate) array: MirrorArray,
    /// Sectors of the storage.
    pub(crate) sectors: u64,
    /// Logical block size in bytes.
    pub(crate) block_size: u32,
    /// For each candidate the number of its copy.
    pub(crate) copies: KVec<u32>,
}

/// Starts a mirror. Reads from, and writes to, all nodes; sleeps.
pub(crate) fn start(
    wish: &Wish<'_>,
    candidates: &[Candidate],
    claim: &mut Claimer<'_>,
    events: Arc<Events>,
    hold: Arc<Hold>,
) -> Done<Started> {
    let io = BlockIo::new()?;
    let found = Superblocks::of_all(&io, candidates)?;
    let mut nodes = candidates.iter().zip(&found);
    let blank = nodes.all(|(candidate, found)| is_blank(candidate, found));
    let plan = if wish.new.unwrap_or(blank) {
        make(&io, wish, candidates, &found, claim)?
    } else {
        let mut plan = claimed(
            |least| {
                let found = Superblocks::of_all(&io, candidates)?;
                assemble(wish, candidates, &found, least)
            },
            Plan::identity,
            claim,
        )?;
        discard::note(&io, candidates, &mut plan)?;
        plan
    };
    run(&io, wish, candidates, plan, events, hold)
}

/// Makes a new mirror.
#[inline(never)]
fn make(
    io: &BlockIo,
    wish: &Wish<'_>,
    candidates: &[Candidate],
    found: &[Superblocks],
    claim: &mut Claimer<'_>,
) -> Done<Plan> {
    for (candidate, superblocks) in candidates.iter().zip(found) {
        check_free(candidate, superblocks)?;
    }
    let Some(log) = Log::for_array(wish.sectors) else {
        fail!(EINVAL, "a storage of no sectors can't be made");
    };
    let mut block = new_block()?;
    let new = New {
        storage: new_uuid(),
        name: wish.name,
        alg: wish.alg,
        created: time::unix_seconds(),
        block_size: wish.block_size,
        sectors: wish.sectors,
        log: Some(log),
        data: new_uuid(),
    };
    let Some(superblock) = Superblock::blank(&mut block, &new) else {
        fail!(ENAMETOOLONG, "the name of the storage is too long");
    };
    superblock.set_epoch(1);
    claim_new(claim, superblock.storage(), superblock.epoch())?;
    let mut copies = KVec::with_capacity(candidates.len(), GFP_KERNEL)?;
    for (index, (at, candidate)) in (0..).zip(candidates.iter().enumerate()) {
        let layout = place_on(candidate, log, wish.sectors)?;
        let uuid = new_uuid();
        let entry = Entry {
            uuid,
            start: 0,
            size: wish.sectors,
            seen: superblock.generation(),
            state: NodeState::InSync,
        };
        if superblock.set_entry(index, &entry).is_none() {
            fail!(E2BIG, "a mirror has at most {MAX_COPIES} copies");
        }
        superblock.set_label(index, candidate.name());
        copies.push(
            Copy {
                index,
                at,
                place: Place {
                    uuid,
                    layout,
                    seen: superblock.generation(),
                    b_first: false,
                },
                role: Role::InSync,
            },
            GFP_KERNEL,
        )?;
    }
    let storage = superblock.storage();
    let generation = superblock.generation();
    for copy in &copies {
        if let Some(candidate) = candidates.get(copy.at) {
            log::blank(io, candidate, &copy.place.layout, &storage, generation)?;
            superblock.address(copy.index, copy.place.uuid, copy.place.layout.sectors);
            superblock.seal();
            for sector in [
                copy.place.layout.superblock_a(),
                copy.place.layout.superblock_b(),
            ] {
                io.write(&candidate.node, sector, superblock.block())
                    .map_err(|error| cannot(error, candidate, "written to"))?;
            }
        }
    }
    let meta = new_meta(superblock)?;
    // One disk that is reached by two ways would be a mirror of nothing.
    for copy in &copies {
        let Some(candidate) = candidates.get(copy.at) else {
            continue;
        };
        let found = Superblocks::read(io, &candidate.node)?;
        if found.newest().map(Superblock::node) != Ok(copy.place.uuid) {
            fail!(
                EINVAL,
                "{} does not hold what was written there: it is the same disk as another node; remove one of them",
                candidate.name()
            );
        }
    }
    Ok(Plan {
        meta,
        copies,
        log,
        sectors: wish.sectors,
        source: 0,
        unclean: false,
        degraded: false,
    })
}

/// Where things go on a node that becomes a copy.
pub(super) fn place_on(candidate: &Candidate, log: Log, sectors: u64) -> Done<Layout> {
    let layout = match Layout::new(member::sectors(&candidate.node), Some(log)) {
        Ok(layout) => layout,
        Err(too_small) => {
            return Err(Failure::new(
                ENOSPC,
                format_args!("{}: {too_small}", candidate.name()),
            ));
        }
    };
    if layout.data < sectors {
        fail!(
            ENOSPC,
            "{} has room for {} sectors, the storage has {sectors}; take a larger node",
            candidate.name(),
            layout.data
        );
    }
    Ok(layout)
}

/// Finds out which mirror the nodes are of.
#[inline(never)]
fn assemble(
    wish: &Wish<'_>,
    candidates: &[Candidate],
    all: &[Superblocks],
    least: u64,
) -> Done<Plan> {
    let mut nodes = KVec::with_capacity(candidates.len(), GFP_KERNEL)?;
    for (candidate, superblocks) in candidates.iter().zip(all) {
        nodes.push(found(candidate, superblocks), GFP_KERNEL)?;
    }
    let asked = verdict::Wish {
        name: wish.name,
        degraded: wish.degraded,
    };
    let (assembly, log) = judge(&nodes, &asked, wish.new.is_some(), |own| {
        own.log().filter(|_| own.alg() == wish.alg)
    })?;
    let reference = assembly.reference;
    let mut copies = KVec::with_capacity(nodes.len(), GFP_KERNEL)?;
    for (at, (node, superblocks)) in nodes.iter().zip(all).enumerate() {
        let (Ok(own), Ok(layout)) = (node.superblock, Layout::new(node.sectors, Some(log))) else {
            continue;
        };
        let (a, b) = superblocks.blocks();
        let Some((index, _)) = reference.find(own.node()) else {
            continue;
        };
        if index >= MAX_COPIES || layout.data < reference.sectors() {
            fail!(
                EUCLEAN,
                "{} has a superblock that can't be right",
                node.name
            );
        }
        copies.push(
            Copy {
                index,
                at,
                place: Place::found(own.node(), layout, a, b),
                role: assembly.role(node),
            },
            GFP_KERNEL,
        )?;
    }
    let mut meta = new_meta(reference)?;
    let ahead = meta.begin(
        assembly.generation,
        assembly.epoch,
        nodes.iter().filter_map(|node| assembly.ahead(node)),
    )?;
    // It fits: it is that of the storage.
    meta.change(|superblock| {
        let _ = superblock.set_name(wish.name);
        let epoch = superblock.epoch().max(least);
        superblock.set_epoch(epoch);
    })?;
    Ok(Plan {
        meta,
        copies,
        log,
        sectors: reference.sectors(),
        source: assembly.source,
        unclean: assembly.unclean,
        degraded: assembly.degraded || ahead,
    })
}

/// Memory for the core of a mirror.
pub(super) fn parts(sectors: u64, log: Log) -> Result<CoreParts> {
    let slots = (ALL_WRITES + HEAL_SLOTS) as usize;
    let last = sectors.saturating_sub(1) >> log.region_shift;
    let regions = usize::try_from(last.saturating_add(1))?;
    Ok(Parts {
        slots: log::memory::<write::Slot>(slots)?,
        flights: log::memory::<Flight>(slots)?,
        waiters: log::memory::<Waiter>(slots)?,
        regions: log::memory::<Region>(regions)?,
        blocks: log::memory::<LogState>(log.blocks as usize)?,
    })
}

/// Makes the core of a plan, and tells it what the logs say.
#[inline(never)]
fn core(io: &BlockIo, candidates: &[Candidate], plan: &Plan) -> Done<KBox<Core>> {
    let mut in_sync: Mask = 0;
    let mut healing: Mask = 0;
    let mut all: Mask = 0;
    let mut source = None;
    for copy in &plan.copies {
        match copy.role {
            Role::InSync => in_sync |= bit(copy.index),
            Role::Heal | Role::Spare => healing |= bit(copy.index),
            Role::HealAll => {
                healing |= bit(copy.index);
                all |= bit(copy.index);
            }
        }
        if copy.at == plan.source {
            source = Some(copy.index);
        }
    }
    let members = plan
        .meta
        .superblock()?
        .entries()
        .fold(0, |members, (index, _)| members | bit(index));
    let config = Config {
        sectors: plan.sectors,
        region_shift: plan.log.region_shift,
        per_block: ENTRIES,
        in_sync,
        healing,
        missing: members & !in_sync & !healing,
        // A copy that is not here may be an old image that was put back, and may be started alone, too.
        degraded: plan.degraded || members & !in_sync & !healing != 0,
    };
    let parts = parts(plan.sectors, plan.log)?;
    let mut core = KBox::new(Core::new(parts, &config), GFP_KERNEL)?;
    log::load(io, candidates, plan, &mut core)?;
    core.begin(source.filter(|_| plan.unclean), all);
    Ok(core)
}

/// Lets it run.
#[inline(never)]
fn run(
    io: &BlockIo,
    wish: &Wish<'_>,
    candidates: &[Candidate],
    plan: Plan,
    events: Arc<Events>,
    hold: Arc<Hold>,
) -> Done<Started> {
    let core = core(io, candidates, &plan)?;
    let Plan {
        mut meta,
        copies,
        sectors,
        ..
    } = plan;
    let mut numbers = KVec::with_capacity(candidates.len(), GFP_KERNEL)?;
    for at in 0..candidates.len() {
        let copy = copies.iter().find(|copy| copy.at == at);
        numbers.push(copy.map_or(u32::MAX, |copy| copy.index), GFP_KERNEL)?;
    }
    for copy in &copies {
        if let Some(place) = meta.places.get_mut(copy.index as usize) {
            *place = Some(copy.place);
        }
    }
    let block_size = meta.superblock()?.block_size();
    let nodes = copies.iter().filter_map(|copy| {
        let candidate = candidates.get(copy.at)?;
        Some((copy.index, candidate))
    });
    let array = launch(wish.name, core, meta, hold, None, nodes, events)?;
    Ok(Started {
        array,
        sectors,
        block_size,
        copies: numbers,
    })
}

/// Lets a core run, with these nodes as copies.
pub(super) fn launch<'a>(
    name: &str,
    core: KBox<Core>,
    meta: KBox<Meta>,
    hold: Arc<Hold>,
    twin: Option<Twin>,
    nodes: impl Iterator<Item = (u32, &'a Candidate)>,
    events: Arc<Events>,
) -> Done<MirrorArray> {
    let mirror = Mirror::new(core, meta, hold, twin)?;
    let engine = Engine::new(mirror)?;
    for (index, candidate) in nodes {
        candidate.node.watch_slowness();
        engine.attach(index, candidate.node.clone())?;
    }
    let steward = TryLock::new(Steward::new(engine.clone(), events)?);
    let bell = engine.mirror.clone();
    let thread = KThread::start(
        fmt!("dst-m-{name}"),
        |task| bell.bell.target().parker.attach(task),
        move |running| {
            // Nobody else knows it.
            if let Some(mut steward) = steward.try_lock() {
                steward.run(running);
            }
        },
    )?;
    Ok(MirrorArray {
        thread: Some(thread),
        engine,
    })
}
