// SPDX-License-Identifier: GPL-2.0

//! The superblocks, when a node takes the place of another one while the storage runs.
//!
//! Until the new node has all data it is the old one that belongs to the storage, whose superblocks are left alone. Those of
//! the new one say whose place it is to take; when the storage is stopped, how far it is, too, so the next start goes on from
//! there ([`Linear::resume`]). Then the table gets the new node at the place of the old one, and the data a new id: [`Linear::name_new`] writes that twice on all
//! nodes, as at a start, on the new one first, and erases the superblocks of the old one. [`Linear::name_old`] is the same
//! in the other direction, if it can't be ended, or somebody changes his mind.
//!
//! As long as some of the nodes say the one, and some the other, a crash may leave either of the two nodes as the one that
//! counts. So nothing may be acknowledged then that not both have: the [`twin`] sees to that.
//!
//! [`twin`]: crate::mirror::twin

use kernel::{
    prelude::*,
    str::CString, //
};

use crate::{
    block_io::BlockIo,
    failure::{
        fail,
        Done,
        Failure, //
    },
    member,
    meta::{
        self,
        layout::Layout,
        superblock::{
            Entry,
            New,
            NodeState,
            Replacement,
            Superblock, //
        },
        verdict::Assembly,
        waiting::Waiting,
        Damage,
        BLOCK, //
    },
    superblocks::{
        cannot,
        check_free,
        found,
        new_uuid,
        Candidate,
        Superblocks, //
    },
};

use super::{
    layout,
    Linear,
    Placed, //
};

/// Milliseconds that a superblock may take while the storage runs. Then it is tried again later; meanwhile others may look
/// at the storage's shape, and change it.
const RUNNING_MS: u32 = 2_000;

/// What is on a node that belongs to nothing.
static NOTHING: &[u8; BLOCK] = &[0; BLOCK];

/// In the table of the superblock of a node that waits: the node whose place it is to take.
const OLD: u32 = 0;

/// The same: itself.
const NEW: u32 = 1;

/// A node is about to take the place of another one.
pub(super) struct Substitute {
    /// The one that is not among [`Linear::nodes`], with its place in the table.
    other: Placed,
    /// How people name it.
    label: CString,
    /// The superblock in memory names the new one.
    names_new: bool,
    /// Superblocks on nodes may name it.
    told: bool,
    /// The superblocks of the old one are erased.
    erased: bool,
    /// Sectors from the start that the new one had when the storage started.
    done: u64,
}

impl Substitute {
    fn new(candidate: &Candidate, index: u32, layout: Layout) -> Result<Self> {
        Ok(Self {
            other: Placed {
                node: candidate.node.clone(),
                at: usize::MAX,
                index,
                uuid: new_uuid(),
                layout,
                seen: 0,
                b_first: false,
            },
            label: CString::try_from_fmt(fmt!("{}", candidate.name()))?,
            names_new: false,
            told: false,
            erased: false,
            done: 0,
        })
    }

    /// The node that was to take the place of another one when the storage ended. Reads from it.
    pub(super) fn again(
        io: &BlockIo,
        assembly: &Assembly<'_>,
        waiting: &super::Waiting,
    ) -> Done<Self> {
        let candidate = &waiting.candidate;
        let superblocks = Superblocks::read(io, &candidate.node)?;
        let place = (waiting.start, waiting.size);
        let Waiting { index, done } =
            meta::waiting::waiting(assembly, &found(candidate, &superblocks), place)
                .map_err(|refusal| Failure::new(ESTALE, refusal))?;
        let layout = layout(
            member::sectors(&candidate.node),
            waiting.size,
            candidate.name(),
        )?;
        let mut this = Self::new(candidate, index, layout)?;
        let (a, b) = superblocks.blocks();
        this.other.b_first = Superblock::b_goes_first(a, b);
        this.done = done;
        Ok(this)
    }
}

/// Why the superblocks don't name the new node.
pub(crate) enum Unnamed {
    /// It can't be used.
    New(Failure),
    /// Others can't be used now.
    Other(Failure),
}

impl Linear {
    /// Takes a node as the one that is to take the place of the node at `start`, which has `size` sectors of the storage.
    /// What it holds of another storage is erased, if that is wanted. Sleeps.
    #[inline(never)]
    pub(crate) fn prepare(&mut self, start: u64, size: u64, candidate: &Candidate) -> Done {
        let old = self.superblock()?.entries().find(|(_, entry)| {
            // Each place is one node's.
            (entry.start, entry.size) == (start, size)
        });
        let Some((index, _)) = old else {
            fail!(ENOENT, "the superblocks don't know the node");
        };
        let layout = layout(member::sectors(&candidate.node), size, candidate.name())?;
        let found = Superblocks::read(&self.io, &candidate.node)?;
        check_free(candidate, &found)?;
        if !matches!(found.newest(), Err(Damage::NoMagic)) {
            // What is on it is written over from now on: it must not look like a node of another storage.
            for sector in [layout.superblock_a(), layout.superblock_b()] {
                self.io
                    .write(&candidate.node, sector, NOTHING)
                    .map_err(|error| cannot(error, candidate, "written to"))?;
            }
        }
        self.substitute = Some(Substitute::new(candidate, index, layout)?);
        self.resume()
            .map_err(|error| cannot(error, candidate, "written to"))
    }

    /// Sectors from the start that the node has already that takes the place of another one; `None`: there is none.
    pub(crate) fn moved(&self) -> Option<u64> {
        self.substitute.as_ref().map(|substitute| substitute.done)
    }

    /// The storage runs, and a node is about to take the place of another one: that one's superblocks say so, and that
    /// nothing is known of what it has. Sleeps.
    pub(crate) fn resume(&mut self) -> Result {
        self.note_waiting(true, 0)?;
        self.io.set_limit(RUNNING_MS);
        self.io.set_patient(true);
        Ok(())
    }

    /// Writes on the new node, if there is one, whose place it is to take, and how many sectors both nodes have, durably.
    pub(super) fn note_waiting(&mut self, running: bool, done: u64) -> Result {
        let Some(substitute) = &mut self.substitute else {
            return Ok(());
        };
        let other = &mut substitute.other;
        let known = Superblock::open(&self.block).map_err(|_| EUCLEAN)?;
        let old = known.entry(other.index).ok_or(EUCLEAN)?;
        if other.node.is_lost() {
            return Err(EHOSTDOWN);
        }
        let new = New {
            storage: known.storage(),
            name: known.name(),
            alg: known.alg(),
            created: known.created(),
            block_size: known.block_size(),
            sectors: known.sectors(),
            log: None,
            data: known.data(),
        };
        let own = Superblock::blank(&mut self.spare, &new).ok_or(EUCLEAN)?;
        own.advance(known.generation());
        own.set_epoch(known.epoch());
        own.set_running(running);
        // A table of its own: whoever believes it knows the other nodes from their superblocks.
        own.set_entry(OLD, &old);
        own.set_label(OLD, known.label(other.index));
        let entry = Entry {
            uuid: other.uuid,
            seen: 0,
            state: NodeState::Spare,
            ..old
        };
        own.set_entry(NEW, &entry);
        own.set_label(NEW, substitute.label.to_str().unwrap_or(""));
        own.set_replacement(Some(Replacement {
            from: OLD,
            to: NEW,
            done,
        }));
        own.address(NEW, other.uuid, other.layout.sectors);
        own.seal();
        other.write(&self.io, own)
    }

    /// Whether superblocks may name the new node.
    pub(crate) fn may_name_new(&self) -> bool {
        self.substitute.as_ref().is_some_and(|s| s.told)
    }

    /// Lets the superblocks of all nodes name the new node instead of the old one. If that fails some may, and some not;
    /// it can be tried again, or taken back by [`Self::name_old`]. Sleeps, for a bounded time.
    pub(crate) fn name_new(&mut self) -> core::result::Result<(), Unnamed> {
        let Some(substitute) = &mut self.substitute else {
            return Ok(());
        };
        substitute.told = true;
        if !substitute.names_new {
            self.exchange().map_err(Unnamed::Other)?;
        }
        for _ in 0..2 {
            if let Err((at, failure)) = self.next_running() {
                return Err(match at {
                    0 => Unnamed::New(failure),
                    _ => Unnamed::Other(failure),
                });
            }
        }
        self.erase_other();
        Ok(())
    }

    /// Lets the superblocks of all nodes name the old node again, if some may name the new one. That waits again, or has none.
    /// It can be tried again if it fails. Sleeps, for a bounded time.
    pub(crate) fn name_old(&mut self) -> Done {
        if !self.may_name_new() {
            return Ok(());
        }
        if self.substitute.as_ref().is_some_and(|s| s.names_new) {
            self.exchange()?;
        }
        for _ in 0..2 {
            self.next_running().map_err(|(_, failure)| failure)?;
        }
        // It waits again.
        if self.note_waiting(true, 0).is_err() {
            self.erase_other();
        }
        if let Some(substitute) = &mut self.substitute {
            substitute.told = false;
            substitute.erased = false;
        }
        Ok(())
    }

    /// The replacement is over: the superblocks name one of the two nodes, and the other one is closed.
    pub(crate) fn conclude(&mut self) {
        if self.substitute.as_ref().is_some_and(|s| !s.erased) {
            self.erase_other();
        }
        self.substitute = None;
    }

    /// What takes too long is failed from now on: there is nobody any more whom that could harm.
    pub(crate) fn end_waiting(&mut self) {
        self.io.set_patient(false);
        if self.io.is_busy() {
            for placed in &self.nodes {
                placed.node.fail_now();
            }
            if let Some(substitute) = &self.substitute {
                substitute.other.node.fail_now();
            }
        }
    }

    /// The superblock in memory names the old node again. Gives whether some on nodes may name the new one.
    pub(super) fn take_back(&mut self) -> bool {
        if self.substitute.as_ref().is_some_and(|s| s.names_new) && self.exchange().is_err() {
            pr_warn!("a replacement of a node can't be taken back\n");
        }
        self.may_name_new()
    }

    /// The two nodes change places: among the nodes, and in the table of the superblock, which is not written yet. What is
    /// written on from now on names the data by a new id.
    fn exchange(&mut self) -> Done {
        let Some(substitute) = &mut self.substitute else {
            return Err(EINVAL.into());
        };
        let index = substitute.other.index;
        let own = Superblock::edit(&mut self.block);
        let label = CString::try_from_fmt(fmt!("{}", own.label(index)))?;
        let at = self.nodes.iter().position(|placed| placed.index == index);
        let (Some(mut entry), Some(at)) = (own.entry(index), at) else {
            return Err(EINVAL.into());
        };
        // It is the first one that is written to: what counts on it must be there when others count on it.
        self.nodes.swap(0, at);
        let Some(first) = self.nodes.first_mut() else {
            return Err(EINVAL.into());
        };
        core::mem::swap(first, &mut substitute.other);
        entry.uuid = first.uuid;
        entry.seen = first.seen;
        own.set_entry(index, &entry);
        own.set_label(index, substitute.label.to_str().unwrap_or(""));
        own.rename_data(new_uuid());
        own.seal();
        substitute.label = label;
        substitute.names_new = !substitute.names_new;
        self.address_first()
    }

    /// Writes the next generation on all nodes; if that fails it says on which one.
    fn next_running(&mut self) -> core::result::Result<(), (usize, Failure)> {
        self.advance(true);
        for at in 0..self.nodes.len() {
            if let Err(error) = self.write_on(at) {
                let index = self.nodes.get(at).map_or(0, |placed| placed.index);
                let label = self.superblock().map_or("", |own| own.label(index));
                return Err((
                    at,
                    Failure::new(
                        error,
                        fmt!("the superblocks of node {index} (at {label}) can't be written"),
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Erases the superblocks of the node that is not one of the storage, if it is there. Without them it can't be taken
    /// for one; with them the others say that it is none.
    pub(super) fn erase_other(&mut self) {
        let Some(substitute) = &mut self.substitute else {
            return;
        };
        let other = &mut substitute.other;
        if other.node.is_lost() {
            pr_warn!("a node that the storage has no more use for is lost: its superblocks are not erased\n");
            return;
        }
        other.b_first = false;
        let [a, b] = [other.layout.superblock_a(), other.layout.superblock_b()];
        let erase = |sector| self.io.write(&other.node, sector, NOTHING);
        match erase(a).and_then(|()| erase(b)) {
            Ok(()) => substitute.erased = substitute.names_new,
            Err(_) => pr_warn!("the superblocks of a node that the storage has no more use for could not be erased\n"),
        }
    }
}
