// SPDX-License-Identifier: GPL-2.0

//! The superblock of a mirror that runs, and what is known of the superblocks on its copies.
//!
//! It does no I/O: the driver, and the simulation of one, write what it makes, and tell it what became of that.

use core::ops::DerefMut;

use super::{
    given_up::GivenUp,
    layout::Layout,
    log::LogBlock,
    superblock::{
        Entry,
        NodeState,
        Superblock, //
    },
    verdict::has_stopped,
    Block,
    Damage,
    Uuid, //
};
use crate::alg_mirror::{
    bit,
    jobs::States,
    Mask,
    MAX_COPIES, //
};

/// A copy, as its metadata are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The node's UUID.
    pub uuid: Uuid,
    /// Where things are on it.
    pub layout: Layout,
    /// The newest generation that is durable on it, as far as is known.
    pub seen: u64,
    /// Superblock B is, or may be, damaged or older: it is written before A, which must not be lost meanwhile.
    pub b_first: bool,
}

impl Place {
    /// A node that is found with these superblocks.
    pub fn found(uuid: Uuid, layout: Layout, a: Option<&Block>, b: Option<&Block>) -> Self {
        Self {
            uuid,
            layout,
            // It stays there until something newer is: the older one is written over first.
            seen: Superblock::newest(a, b).map_or(0, Superblock::generation),
            b_first: Superblock::b_goes_first(a, b),
        }
    }

    /// What was known to be durable on the node counts, if what is found is older.
    #[must_use]
    pub fn newer_than(self, known: &Self) -> Self {
        Self {
            seen: self.seen.max(known.seen),
            ..self
        }
    }

    /// The superblock at this sector could not be written. It may be damaged now: it is the first one that is written
    /// next time.
    pub fn failed(&mut self, sector: u64) {
        self.b_first = sector == self.layout.superblock_b();
    }
}

impl States {
    /// What it says of one copy.
    fn of(&self, copy: u32) -> NodeState {
        let mask = bit(copy);
        if self.in_sync & mask != 0 {
            NodeState::InSync
        } else if self.healing & mask != 0 {
            NodeState::Healing
        } else if self.missing & mask != 0 {
            NodeState::Missing
        } else {
            NodeState::Empty
        }
    }
}

/// How a copy that was away is found when it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// As it was left.
    Good,
    /// Older than it was left: nothing on it is believed.
    All,
    /// Not to be believed, and not to be written to.
    Refused(Trouble),
}

/// Why a copy that is back is not taken back: people must do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The storage has no such copy.
    NoCopy,
    /// It has no superblock that can be used.
    Damaged,
    /// It is of another storage.
    Foreign,
    /// It is another node of the storage.
    Other,
    /// Something was written on it alone.
    Conflict,
}

impl Trouble {
    /// What is wrong, and what to do: at most 95 bytes.
    pub fn text(self) -> &'static str {
        match self {
            Self::NoCopy => "it is no copy of this storage",
            Self::Damaged => "its superblock is damaged; remove it, and add it anew",
            Self::Foreign => "it belongs to another storage now",
            Self::Other => "another node of this storage is in its place",
            Self::Conflict => {
                "it was written to without this storage: conflict; 'dst add --discard' gives that up"
            }
        }
    }

    /// As uevents and `dst monitor` name it: only what can be resolved by giving something up is called a conflict.
    pub fn event(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            _ => "refused",
        }
    }
}

/// The superblock as it was written last, and who has it.
pub struct Head<B> {
    block: B,
    /// Memory for the next one: nothing is allocated while the mirror runs.
    spare: B,
    /// The copies that are here, by their place in the table.
    pub places: [Option<Place>; MAX_COPIES as usize],
    /// Why a copy is not taken back; `None`: nothing speaks against it.
    trouble: [Option<Trouble>; MAX_COPIES as usize],
    /// What was given up with a copy since the head began.
    given_up: [Option<GivenUp>; MAX_COPIES as usize],
    /// Copies in the table that no superblock was asked for yet: see [`Self::join`].
    joining: Mask,
    /// The next generation is above this one: some copy has it from a head before.
    above: u64,
}

impl<B: DerefMut<Target = Block>> Head<B> {
    /// Takes over the superblock that is believed. `block`, `spare`: memory, whatever is in it.
    pub fn new(superblock: &Superblock, mut block: B, spare: B) -> Self {
        superblock.copy_to(&mut block);
        Self {
            block,
            spare,
            places: [None; MAX_COPIES as usize],
            trouble: [None; MAX_COPIES as usize],
            given_up: [None; MAX_COPIES as usize],
            joining: 0,
            above: 0,
        }
    }

    /// The superblock. It can be used: it was sealed when it was changed last.
    pub fn superblock(&self) -> Result<&Superblock, Damage> {
        Superblock::open(&self.block)
    }

    /// A copy that is here.
    pub fn place(&self, copy: u32) -> Option<&Place> {
        self.places.get(copy as usize)?.as_ref()
    }

    /// Why a copy is not taken back, as it was looked at last.
    pub fn trouble(&self, copy: u32) -> Option<Trouble> {
        self.trouble.get(copy as usize).copied().flatten()
    }

    /// What was given up with a copy since the head began.
    pub fn given_up(&self, copy: u32) -> Option<GivenUp> {
        self.given_up.get(copy as usize).copied().flatten()
    }

    /// Notes what was given up with a copy.
    pub fn give_up(&mut self, copy: u32, what: GivenUp) {
        if let Some(known) = self.given_up.get_mut(copy as usize) {
            *known = Some(what);
        }
    }

    /// Changes the superblock, in memory.
    pub fn change(&mut self, change: impl FnOnce(&mut Superblock)) -> Result<(), Damage> {
        let superblock = Superblock::open(&self.block)?.copy_to(&mut self.spare);
        change(superblock);
        superblock.seal();
        core::mem::swap(&mut self.block, &mut self.spare);
        Ok(())
    }

    /// Begins a life of the storage: goes on from the newest `generation` and `epoch` that were found on any node.
    /// `ahead`: data ids that nodes have, and the superblock that is believed not yet; see
    /// [`Assembly::ahead`](super::verdict::Assembly::ahead). Gives whether there are any: the data need a new id then.
    pub fn begin(
        &mut self,
        generation: u64,
        epoch: u64,
        ahead: impl Iterator<Item = Uuid>,
    ) -> Result<bool, Damage> {
        let mut any = false;
        self.change(|superblock| {
            superblock.advance(generation);
            superblock.set_epoch(epoch.saturating_add(1));
            for data in ahead {
                any = true;
                if superblock.data() != data {
                    superblock.rename_data(data);
                }
            }
        })?;
        Ok(any)
    }

    /// Takes up a new copy. What was decided before that does not know of it, and does not forget it: until a superblock
    /// is to name it, or [`Self::forget`] comes, it stays in the table.
    pub fn join(&mut self, copy: u32, place: Place, label: &str) -> Result<(), Damage> {
        self.change(|superblock| {
            let entry = Entry {
                uuid: place.uuid,
                start: 0,
                size: superblock.sectors(),
                seen: 0,
                state: NodeState::Missing,
            };
            superblock.set_entry(copy, &entry);
            superblock.set_label(copy, label);
        })?;
        if let Some(known) = self.places.get_mut(copy as usize) {
            *known = Some(place);
            self.joining |= bit(copy);
        }
        Ok(())
    }

    /// A copy is to be taken out: nothing is kept of one that no superblock was asked for yet. Comes before it is taken out
    /// of the core.
    pub fn dismiss(&mut self, copy: u32) {
        self.joining &= !bit(copy);
    }

    /// A copy is not here any more. One that was to become one does not.
    pub fn forget(&mut self, copy: u32) {
        let at = copy as usize;
        if let Some(known) = self.places.get_mut(at) {
            *known = None;
        }
        if let Some(known) = self.trouble.get_mut(at) {
            *known = None;
        }
        if let Some(known) = self.given_up.get_mut(at) {
            *known = None;
        }
        self.dismiss(copy);
    }

    /// Begins the next generation, with these states of the copies. `name` makes a new data id.
    pub fn next(&mut self, states: &States, name: impl FnOnce() -> Uuid) -> Result<(), Damage> {
        let seen = self.places.map(|place| place.map_or(0, |place| place.seen));
        self.joining &= !(states.in_sync | states.healing | states.missing);
        let (joining, above) = (self.joining, self.above);
        self.change(|superblock| {
            superblock.advance(above);
            if states.rename {
                superblock.rename_data(name());
            }
            superblock.bump();
            superblock.set_running(states.running);
            for (copy, seen) in (0..).zip(seen) {
                let state = states.of(copy);
                match superblock.entry(copy) {
                    None => {}
                    Some(_) if joining & bit(copy) != 0 => {}
                    Some(_) if state == NodeState::Empty => {
                        superblock.set_entry(copy, &Entry::default());
                    }
                    Some(entry) => {
                        superblock.set_state(copy, state);
                        // Of a copy that was never here it is known from others.
                        superblock.set_seen(copy, seen.max(entry.seen));
                    }
                }
            }
            // With one of the two gone there is nothing left to do.
            let over = superblock.replacement().is_some_and(|moving| {
                superblock.entry(moving.from).is_none() || superblock.entry(moving.to).is_none()
            });
            if over {
                superblock.set_replacement(None);
            }
        })
    }

    /// The superblock of one copy, as it is to be written there; `None`: it is not here.
    pub fn superblock_of(&self, copy: u32, block: &mut Block) -> Option<()> {
        let place = self.place(copy)?;
        let superblock = self.superblock().ok()?.copy_to(block);
        superblock.address(copy, place.uuid, place.layout.sectors);
        superblock.seal();
        Some(())
    }

    /// A block of the log, as it is to be written.
    pub fn log_block(
        &self,
        index: u32,
        sequence: u64,
        block: &mut Block,
        entry: impl FnMut(usize) -> u32,
    ) -> Result<(), Damage> {
        let superblock = self.superblock()?;
        let log = LogBlock::blank(block, index, sequence, superblock.generation());
        log.fill(entry);
        log.seal(&superblock.storage());
        Ok(())
    }

    /// The current generation is durable on these copies.
    pub fn saw(&mut self, copies: Mask) {
        let Ok(generation) = self.superblock().map(Superblock::generation) else {
            return;
        };
        for (copy, place) in (0..).zip(self.places.iter_mut()) {
            if let Some(place) = place.as_mut().filter(|_| copies & bit(copy) != 0) {
                place.seen = generation;
                place.b_first = false;
            }
        }
    }

    /// Looks at a copy that was away by its superblocks A and B, as far as they could be read. What it gets from now on is
    /// newer than what it has.
    pub fn look(&mut self, copy: u32, a: Option<&Block>, b: Option<&Block>) -> Back {
        let back = self.judge(copy, a, b);
        self.note(copy, back, a, b);
        back
    }

    /// The same of a copy that is in conflict, and of which the user gives up what was written on it alone: nothing on it is
    /// believed, as with [`Back::All`]. `false`: it is in no conflict, and nothing has changed.
    pub fn look_discarding(&mut self, copy: u32, a: Option<&Block>, b: Option<&Block>) -> bool {
        let conflict = self.judge(copy, a, b) == Back::Refused(Trouble::Conflict);
        if conflict {
            self.note(copy, Back::All, a, b);
        }
        conflict
    }

    /// Whether what lies on a copy is what this storage has left there: superblocks of others, and of a copy that was
    /// written to alone, are not for this one to erase.
    pub fn is_own(&self, copy: u32, a: Option<&Block>, b: Option<&Block>) -> bool {
        matches!(
            self.judge(copy, a, b),
            Back::Good | Back::All | Back::Refused(Trouble::Damaged)
        )
    }

    /// Notes how a copy was found.
    fn note(&mut self, copy: u32, back: Back, a: Option<&Block>, b: Option<&Block>) {
        let trouble = match back {
            Back::Refused(why) => Some(why),
            Back::Good | Back::All => None,
        };
        if let Some(known) = self.trouble.get_mut(copy as usize) {
            *known = trouble;
        }
        let place = self.places.get_mut(copy as usize).and_then(Option::as_mut);
        if let Some(place) = place.filter(|_| trouble.is_none()) {
            let found = Place::found(place.uuid, place.layout, a, b);
            self.above = self.above.max(found.seen);
            *place = found.newer_than(place);
        }
    }

    fn judge(&self, copy: u32, a: Option<&Block>, b: Option<&Block>) -> Back {
        let (Some(place), Ok(own)) = (self.place(copy), self.superblock()) else {
            return Back::Refused(Trouble::NoCopy);
        };
        let Ok(found) = Superblock::newest(a, b) else {
            return Back::Refused(Trouble::Damaged);
        };
        if found.storage() != own.storage() {
            return Back::Refused(Trouble::Foreign);
        }
        if found.node() != place.uuid {
            return Back::Refused(Trouble::Other);
        }
        // First of all: what was written on it alone is not given up because it is old, too.
        if !has_stopped(found, own) {
            return Back::Refused(Trouble::Conflict);
        }
        match found.generation() < place.seen {
            true => Back::All,
            false => Back::Good,
        }
    }
}
