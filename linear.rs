// SPDX-License-Identifier: GPL-2.0

//! The superblocks of a storage whose nodes hold different parts of it: made, judged, and written at start and stop.
//!
//! While it runs nothing is written beside the data. So all that superblocks tell is decided at two moments:
//!
//! - *Start.* The data get a new id, unless a start that was cut off has given one to some of the nodes. The superblocks
//!   are written twice, the next generation each time, on all nodes before the second time begins. So when the storage
//!   runs, each node knows of each other one a generation that no earlier moment had: what is put back is told.
//! - *Stop.* Twice again, without *running*. (And when a node takes the place of another one: [`replace`].)
//!
//! Process context; sleeps.

mod replace;
mod told;

use kernel::prelude::*;

pub(crate) use replace::Unnamed;
pub(crate) use told::{
    told,
    Told, //
};

use replace::Substitute;

use crate::{
    alg::{
        Algorithm,
        Segment, //
    },
    array::Node,
    block_io::BlockIo,
    claim::{
        claimed,
        Claimer, //
    },
    failure::{
        fail,
        Done,
        Failure, //
    },
    kern::time,
    member,
    meta::{
        layout::Layout,
        superblock::{
            Entry,
            New,
            NodeState,
            Superblock,
            MAX_NODES, //
        },
        verdict::{
            self,
            Found, //
        },
        Block,
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

/// Milliseconds that a server may take for a superblock when the storage is stopped.
const STOP_MS: u32 = 10_000;

/// What is asked for.
pub(crate) struct Wish<'a> {
    /// The storage's name.
    pub(crate) name: &'a str,
    /// Its algorithm.
    pub(crate) alg: &'static dyn Algorithm,
    /// Logical block size in bytes.
    pub(crate) block_size: u32,
    /// Where the candidates were put, in their order.
    pub(crate) table: &'a [Segment],
    /// Whether to make a new one; `None`: as the nodes say.
    pub(crate) new: Option<bool>,
    /// The node that waits to take the place of one of the candidates, if there is one.
    pub(crate) waiting: Option<&'a Waiting>,
}

/// A node that waits to take the place of another one.
pub(crate) struct Waiting {
    pub(crate) candidate: Candidate,
    /// First sector of the storage that lies on the other one.
    pub(crate) start: u64,
    /// Sectors that lie there.
    pub(crate) size: u64,
}

/// A node of the storage.
struct Placed {
    node: Node,
    /// Its position among the candidates.
    at: usize,
    /// Its place in the table of the superblock.
    index: u32,
    uuid: Uuid,
    layout: Layout,
    /// The newest generation that is durable on it, as far as is known.
    seen: u64,
    /// Superblock B is written before A, which must not be lost meanwhile.
    b_first: bool,
}

/// The superblock of such a storage, and where it goes.
pub(crate) struct Linear {
    io: BlockIo,
    block: KBox<Block>,
    /// Memory for what is written.
    spare: KBox<Block>,
    /// Those that are new come first: until they have superblocks the old ones must not count on them.
    nodes: KVec<Placed>,
    /// Nothing was written yet.
    fresh: bool,
    /// While a node is replaced.
    substitute: Option<Substitute>,
}

/// Refuses one more node than the superblocks have room for.
pub(crate) fn check_count(nodes: usize) -> Done {
    if nodes > MAX_NODES {
        fail!(
            E2BIG,
            "a storage with metadata has at most {MAX_NODES} nodes; create it with --no-metadata for more"
        );
    }
    Ok(())
}

impl Linear {
    /// Decides what the nodes are: of a new storage, of one that is there, or of one that grows; and lets `claim` announce
    /// that. Only reads.
    pub(crate) fn plan(
        wish: &Wish<'_>,
        candidates: &[Candidate],
        claim: &mut Claimer<'_>,
    ) -> Done<Self> {
        // Of a storage that is made.
        let storage = new_uuid();
        claimed(
            |least| Self::decide(wish, candidates, storage, least),
            Self::identity,
            claim,
        )
    }

    /// The same, for an epoch that is `least` or later.
    fn decide(wish: &Wish<'_>, candidates: &[Candidate], storage: Uuid, least: u64) -> Done<Self> {
        let io = BlockIo::new()?;
        let all = Superblocks::of_all(&io, candidates)?;
        let blank = |(candidate, found): &(&Candidate, &Superblocks)| is_blank(candidate, found);
        let blanks = candidates.iter().zip(&all).filter(blank).count();
        check_count(candidates.len())?;
        if wish.new.unwrap_or(blanks == candidates.len()) {
            if let Some(waiting) = wish.waiting {
                fail!(
                    EINVAL,
                    "{} was to take the place of a node, and a new storage is to be made of the others; remove it first",
                    waiting.candidate.name()
                );
            }
            return Self::make(io, wish, candidates, &all, storage);
        }
        let grows = wish.new.is_none() && blanks != 0;
        let mut linear = Self::assemble(io, wish, candidates, &all, grows)?;
        if grows {
            linear.grow(wish, candidates, &all)?;
        }
        let superblock = Superblock::edit(&mut linear.block);
        superblock.set_epoch(superblock.epoch().max(least));
        superblock.seal();
        linear.check(wish)?;
        Ok(linear)
    }

    /// A new storage.
    #[inline(never)]
    fn make(
        io: BlockIo,
        wish: &Wish<'_>,
        candidates: &[Candidate],
        all: &[Superblocks],
        storage: Uuid,
    ) -> Done<Self> {
        for (candidate, superblocks) in candidates.iter().zip(all) {
            check_free(candidate, superblocks)?;
        }
        let mut block = new_block()?;
        let new = New {
            storage,
            name: wish.name,
            alg: wish.alg.name(),
            created: time::unix_seconds(),
            block_size: wish.block_size,
            sectors: end(wish.table),
            log: None,
            data: new_uuid(),
        };
        let Some(superblock) = Superblock::blank(&mut block, &new) else {
            fail!(ENAMETOOLONG, "the name of the storage is too long");
        };
        superblock.set_epoch(1);
        superblock.seal();
        let mut linear = Self {
            io,
            block,
            spare: new_block()?,
            nodes: KVec::with_capacity(candidates.len(), GFP_KERNEL)?,
            fresh: true,
            substitute: None,
        };
        for at in 0..candidates.len() {
            linear.take_up(wish, candidates, at)?;
        }
        linear.address_first()?;
        Ok(linear)
    }

    /// Puts a candidate into the superblock's table, where the wish says.
    fn take_up(&mut self, wish: &Wish<'_>, candidates: &[Candidate], at: usize) -> Done {
        let (Some(candidate), Some(segment)) = (
            candidates.get(at),
            wish.table
                .iter()
                .find(|segment| segment.node as usize == at),
        ) else {
            return Err(EINVAL.into());
        };
        let layout = layout(
            member::sectors(&candidate.node),
            segment.size,
            candidate.name(),
        )?;
        let uuid = new_uuid();
        let superblock = Superblock::edit(&mut self.block);
        let Some(index) = (0..MAX_NODES as u32).find(|index| superblock.entry(*index).is_none())
        else {
            return check_count(MAX_NODES + 1);
        };
        let entry = Entry {
            uuid,
            start: segment.start,
            size: segment.size,
            seen: 0,
            state: NodeState::InSync,
        };
        superblock.set_entry(index, &entry);
        superblock.set_label(index, candidate.name());
        superblock.seal();
        self.nodes.push(
            Placed {
                node: candidate.node.clone(),
                at,
                index,
                uuid,
                layout,
                seen: 0,
                b_first: false,
            },
            GFP_KERNEL,
        )?;
        Ok(())
    }

    /// The storage that the superblocks tell of. `grows`: nodes that are blank don't count.
    #[inline(never)]
    fn assemble(
        io: BlockIo,
        wish: &Wish<'_>,
        candidates: &[Candidate],
        all: &[Superblocks],
        grows: bool,
    ) -> Done<Self> {
        let mut nodes = KVec::with_capacity(candidates.len(), GFP_KERNEL)?;
        let mut positions = KVec::with_capacity(candidates.len(), GFP_KERNEL)?;
        for (at, (candidate, superblocks)) in candidates.iter().zip(all).enumerate() {
            if !(grows && is_blank(candidate, superblocks)) {
                nodes.push(found(candidate, superblocks), GFP_KERNEL)?;
                positions.push(at, GFP_KERNEL)?;
            }
        }
        let asked = verdict::Wish {
            name: wish.name,
            degraded: false,
        };
        let (assembly, ()) = judge(&nodes, &asked, wish.new.is_some(), |own| {
            (own.alg() == wish.alg.name() && own.log().is_none()).then_some(())
        })?;
        let reference = assembly.reference;
        let mut block = new_block()?;
        let superblock = reference.copy_to(&mut block);
        superblock.advance(assembly.generation);
        // It fits: it is that of a storage.
        let _ = superblock.set_name(wish.name);
        superblock.set_epoch(assembly.epoch.saturating_add(1));
        // If it is not the same on all, a start was cut off: nothing was written under the newest yet. To give them one more
        // for each attempt would fill the history.
        let same = |found: &Found<'_>| {
            found
                .superblock
                .is_ok_and(|own| own.data() == reference.data())
        };
        if nodes.iter().all(same) {
            superblock.rename_data(new_uuid());
        }
        superblock.seal();
        let substitute = match wish.waiting {
            Some(waiting) => Some(Substitute::again(&io, &assembly, waiting)?),
            None => None,
        };
        let mut placed = KVec::with_capacity(candidates.len(), GFP_KERNEL)?;
        for (node, at) in nodes.iter().zip(&positions) {
            let (Ok(own), Some(candidate), Some(superblocks)) =
                (node.superblock, candidates.get(*at), all.get(*at))
            else {
                continue;
            };
            let Some((index, entry)) = reference.find(own.node()) else {
                continue;
            };
            let (a, b) = superblocks.blocks();
            placed.push(
                Placed {
                    node: candidate.node.clone(),
                    at: *at,
                    index,
                    uuid: entry.uuid,
                    layout: layout(node.sectors, entry.size, node.name)?,
                    seen: own.generation(),
                    b_first: Superblock::b_goes_first(a, b),
                },
                GFP_KERNEL,
            )?;
        }
        Ok(Self {
            io,
            block,
            spare: new_block()?,
            nodes: placed,
            fresh: false,
            substitute,
        })
    }

    /// Adds the nodes that are blank.
    #[inline(never)]
    fn grow(&mut self, wish: &Wish<'_>, candidates: &[Candidate], all: &[Superblocks]) -> Done {
        let old = core::mem::replace(
            &mut self.nodes,
            KVec::with_capacity(candidates.len(), GFP_KERNEL)?,
        );
        for (at, (candidate, superblocks)) in candidates.iter().zip(all).enumerate() {
            if is_blank(candidate, superblocks) {
                self.take_up(wish, candidates, at)?;
            }
        }
        for placed in old {
            self.nodes.push(placed, GFP_KERNEL)?;
        }
        let superblock = Superblock::edit(&mut self.block);
        superblock.set_sectors(end(wish.table));
        superblock.seal();
        Ok(())
    }

    /// Checks that the superblock's table is a storage, and that the nodes were put where it says.
    #[inline(never)]
    fn check(&mut self, wish: &Wish<'_>) -> Done {
        let superblock = self.superblock()?;
        let mut table = KVec::with_capacity(self.nodes.len(), GFP_KERNEL)?;
        for (index, entry) in superblock.entries() {
            table.push(
                Segment {
                    start: entry.start,
                    size: entry.size,
                    node: index,
                },
                GFP_KERNEL,
            )?;
        }
        if !wish
            .alg
            .check(&mut table)
            .is_ok_and(|sectors| sectors == superblock.sectors())
        {
            fail!(EUCLEAN, "the superblocks tell of nodes that are no storage");
        }
        let misplaced = self.nodes.iter().any(|placed| {
            let entry = superblock.entry(placed.index);
            let segment = wish
                .table
                .iter()
                .find(|segment| segment.node as usize == placed.at);
            !entry.zip(segment).is_some_and(|(entry, segment)| {
                (entry.start, entry.size) == (segment.start, segment.size)
            })
        });
        if misplaced {
            fail!(
                ESTALE,
                "the nodes belong to {} in another order; delete it, \"dst assemble {0} NODE...\" puts them where they \
                 belong",
                wish.name
            );
        }
        Ok(())
    }

    /// Makes the superblock one that can be opened: it has to be some node's.
    fn address_first(&mut self) -> Done {
        let Some(first) = self.nodes.first() else {
            fail!(EINVAL, "the storage has no node; add one first");
        };
        let (index, uuid, sectors) = (first.index, first.uuid, first.layout.sectors);
        let superblock = Superblock::edit(&mut self.block);
        superblock.address(index, uuid, sectors);
        superblock.seal();
        Ok(())
    }

    fn superblock(&self) -> Result<&Superblock> {
        // It was sealed when it was changed last.
        Superblock::open(&self.block).map_err(|_| EUCLEAN)
    }

    /// The storage, and the epoch of this head.
    pub(crate) fn identity(&self) -> Result<(Uuid, u64)> {
        let superblock = self.superblock()?;
        Ok((superblock.storage(), superblock.epoch()))
    }

    /// Logical block size in bytes.
    pub(crate) fn block_size(&self) -> Result<u32> {
        Ok(self.superblock()?.block_size())
    }

    /// Writes what a storage that runs has on its nodes.
    pub(crate) fn start(&mut self, candidates: &[Candidate]) -> Done {
        if self.fresh {
            self.write(candidates)?;
            self.check_written(candidates)?;
            self.fresh = false;
        }
        self.next(candidates, true)?;
        self.next(candidates, true)
    }

    /// One disk that is reached by two ways would get the data of both.
    #[inline(never)]
    fn check_written(&self, candidates: &[Candidate]) -> Done {
        for placed in &self.nodes {
            let found = Superblocks::read(&self.io, &placed.node)?;
            if found.newest().map(Superblock::node) != Ok(placed.uuid) {
                fail!(
                    EINVAL,
                    "{} does not hold what was written there: it is the same disk as another node; remove one of them",
                    candidates.get(placed.at).map_or("a node", Candidate::name)
                );
            }
        }
        Ok(())
    }

    /// Writes what a storage that was stopped has on its nodes. A node that is lost is not waited for: then it looks as
    /// if it were not stopped cleanly, which is no harm. `done`: sectors that the node has already that takes the place of
    /// another one.
    pub(crate) fn stop(&mut self, done: u64) {
        self.end_waiting();
        let undone = self.take_back();
        if self.nodes.iter().any(|placed| placed.node.is_lost()) {
            pr_warn!("a node is lost: its storage is not marked as stopped\n");
            return;
        }
        self.io.set_limit(STOP_MS);
        for _ in 0..2 {
            if self.next(&[], false).is_err() {
                pr_warn!("the superblocks of a storage that was stopped could not be written\n");
                return;
            }
        }
        if self.note_waiting(false, done).is_err() {
            pr_warn!("what has been copied of a node that is being replaced is copied again at the next start\n");
            if undone {
                self.erase_other();
            }
        }
    }

    /// Writes the next generation on all nodes.
    fn next(&mut self, candidates: &[Candidate], running: bool) -> Done {
        self.advance(running);
        self.write(candidates)
    }

    /// Begins the next generation, in memory.
    fn advance(&mut self, running: bool) {
        let superblock = Superblock::edit(&mut self.block);
        superblock.bump();
        superblock.set_running(running);
        for placed in &self.nodes {
            superblock.set_seen(placed.index, placed.seen);
        }
        superblock.seal();
    }

    /// Writes the superblock on all nodes.
    fn write(&mut self, candidates: &[Candidate]) -> Done {
        for at in 0..self.nodes.len() {
            if let Err(error) = self.write_on(at) {
                let candidate = self.nodes.get(at).and_then(|p| candidates.get(p.at));
                return Err(match candidate {
                    Some(candidate) => cannot(error, candidate, "written to"),
                    None => error.into(),
                });
            }
        }
        Ok(())
    }

    /// Writes it on one of the nodes.
    fn write_on(&mut self, at: usize) -> Result {
        let Some(placed) = self.nodes.get_mut(at) else {
            return Err(EINVAL);
        };
        let superblock = Superblock::open(&self.block).map_err(|_| EUCLEAN)?;
        let own = superblock.copy_to(&mut self.spare);
        own.address(placed.index, placed.uuid, placed.layout.sectors);
        own.seal();
        placed.write(&self.io, own)
    }
}

impl Placed {
    /// Writes its superblock.
    fn write(&mut self, io: &BlockIo, own: &Superblock) -> Result {
        let mut places = [self.layout.superblock_a(), self.layout.superblock_b()];
        if self.b_first {
            places.reverse();
        }
        for sector in places {
            if let Err(error) = io.write(&self.node, sector, own.block()) {
                // It may be damaged now: until it is whole again the other one is to stay as it is.
                self.b_first = sector == self.layout.superblock_b();
                return Err(error);
            }
        }
        self.seen = own.generation();
        self.b_first = false;
        Ok(())
    }
}

/// Where the last node ends, in sectors; the table was checked.
fn end(table: &[Segment]) -> u64 {
    table
        .iter()
        .map(|segment| segment.start.saturating_add(segment.size))
        .max()
        .unwrap_or(0)
}

/// Where things lie on a node of which `used` sectors are used.
fn layout(sectors: u64, used: u64, name: &str) -> Done<Layout> {
    match Layout::new(sectors, None) {
        Ok(layout) if layout.data >= used => Ok(layout),
        Ok(layout) => fail!(
            ENOSPC,
            "{name} has room for {} sectors of data, not {used}; the rest is for superblocks",
            layout.data
        ),
        Err(too_small) => Err(Failure::new(ENOSPC, format_args!("{name}: {too_small}"))),
    }
}
