// SPDX-License-Identifier: GPL-2.0

//! The verdict at assembly: whether nodes that were found form a storage, and which of them to believe.
//!
//! It depends on the superblocks alone, not on the order in which the nodes were named.
//!
//! Each state of the data has a name, a random *data id*. It changes whenever a copy leaves the set of those
//! in sync, and when a storage starts without all of them; the older names are remembered. So of two copies,
//! one that has the name of the other among its older ones goes on where the other one stopped; if neither
//! has, both were written to by themselves, and no rule can tell which writes are dispensable.
//!
//! The node with the newest generation among those that hold complete data is the *reference*: its table
//! says who belongs to the storage.

use core::fmt;

use super::{
    superblock::{
        Entry,
        NodeState,
        Superblock, //
    },
    Damage,
    Uuid,
    BLOCK_SECTORS, //
};

pub use super::refusal::{
    Occupied,
    Refusal, //
};

/// A node that was found.
#[derive(Clone, Copy)]
pub struct Found<'a> {
    /// How people name it; different for each.
    pub name: &'a str,
    /// Its sectors.
    pub sectors: u64,
    /// Its superblock, by [`Superblock::newest`].
    pub superblock: Result<&'a Superblock, Damage>,
    /// Whether the user gave up what was written on it alone.
    pub discard: bool,
}

impl fmt::Debug for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found")
            .field("name", &self.name)
            .field("damage", &self.superblock.err())
            .finish_non_exhaustive()
    }
}

/// What the user asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Name of the storage; decides only between storages that have as many of the nodes.
    pub name: &'a str,
    /// Whether to start without nodes that may have newer data.
    pub degraded: bool,
}

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its data are complete.
    InSync,
    /// It lacks what the log says.
    Heal,
    /// Nothing on it is believed: every region that was ever written must be copied.
    HealAll,
    /// It waits to take the place of another one.
    Spare,
}

/// Nodes that form a storage.
#[derive(Clone, Copy)]
pub struct Assembly<'a> {
    /// The superblock that is believed.
    pub reference: &'a Superblock,
    /// Position of the node, among those that were found, that others are copied from after an unclean
    /// stop: the first copy in sync by its place in the table.
    pub source: usize,
    /// The storage was not stopped cleanly: active regions differ.
    pub unclean: bool,
    /// Nodes in sync are missing: the data need a new id before they are written to.
    pub degraded: bool,
    /// The newest generation on any node; the next one is above it.
    pub generation: u64,
    /// The newest epoch on any node.
    pub epoch: u64,
}

impl fmt::Debug for Assembly<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assembly")
            .field("reference", &self.reference.node())
            .field("source", &self.source)
            .field("unclean", &self.unclean)
            .field("degraded", &self.degraded)
            .finish_non_exhaustive()
    }
}

/// How the data of one node are related to those of another one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    Same,
    /// They are what the other one's once were.
    Older,
    /// The other one's are what they once were.
    Newer,
    /// Both went on by themselves.
    Conflict,
}

/// Whether all that was written under the superblock `old` was written before a data id that it has was given up at the
/// generation `until`; else it went on by itself, from a copy of the disk.
///
/// It is if its generation says so. A crash may have left a few newer superblocks on it alone, one each time that a head
/// started. But as long as these count on another copy, nothing was acknowledged that that one does not have; and a head
/// that goes on notices at its next superblock that its copies have got the one before.
fn within(old: &Superblock, until: u64) -> bool {
    let counts_on = |entry: &Entry| {
        entry.state == NodeState::InSync && entry.uuid != old.node() && entry.seen <= until
    };
    old.generation() <= until || old.entries().any(|(_, entry)| counts_on(&entry))
}

/// Whether `new` went on where `old` stopped, or is the same.
pub(super) fn has_stopped(old: &Superblock, new: &Superblock) -> bool {
    match old.data() == new.data() {
        true => within(old, new.generation()),
        false => is_past(old, new),
    }
}

/// Whether the data of `old` are what those of `new` once were.
fn is_past(old: &Superblock, new: &Superblock) -> bool {
    new.history()
        .any(|past| past.data == old.data() && within(old, past.until))
}

fn relation(one: &Superblock, other: &Superblock) -> Relation {
    if one.data() == other.data() {
        return Relation::Same;
    }
    match (is_past(one, other), is_past(other, one)) {
        (true, false) => Relation::Older,
        (false, true) => Relation::Newer,
        // Both: no honest history looks like that.
        _ => Relation::Conflict,
    }
}

/// Whether a node says of itself that its data are complete.
fn is_complete(own: &Superblock) -> bool {
    own.find(own.node())
        .is_some_and(|(_, entry)| entry.state == NodeState::InSync)
}

/// What a node is for, by a reference that it does not contradict.
fn role(reference: &Superblock, own: &Superblock, discard: bool) -> Role {
    let Some((_, entry)) = reference.find(own.node()) else {
        return Role::HealAll;
    };
    if entry.state == NodeState::Spare {
        return Role::Spare;
    }
    // Older than what it is known to have held: a copy of the disk was put back.
    if discard || own.generation() < entry.seen {
        return Role::HealAll;
    }
    let data = relation(own, reference);
    match (entry.state, data, reference.log()) {
        // Nobody believes it alone unless it says so itself: nobody is to count on it, either.
        (NodeState::InSync, Relation::Same, Some(_)) if !is_complete(own) => Role::Heal,
        (NodeState::InSync, Relation::Same, _) => Role::InSync,
        // A linear storage changes the id for all nodes or none; a crash came between.
        (NodeState::InSync, Relation::Older | Relation::Newer, None) => Role::InSync,
        _ => Role::Heal,
    }
}

impl Assembly<'_> {
    /// What a node is for that [`judge`] was given.
    pub fn role(&self, found: &Found<'_>) -> Role {
        match found.superblock {
            Ok(own) => role(self.reference, own, found.discard),
            // It was refused.
            Err(_) => Role::HealAll,
        }
    }

    /// The data id of a node that is ahead of the reference, as a crash leaves it that comes when the first superblock with
    /// a new id has reached that node alone. It must become one of the older ids before the data get the next one; else
    /// both would seem to have gone on by themselves.
    pub fn ahead(&self, found: &Found<'_>) -> Option<Uuid> {
        let own = found.superblock.ok().filter(|_| !found.discard)?;
        (relation(own, self.reference) == Relation::Newer).then(|| own.data())
    }
}

/// A node with a superblock.
#[derive(Clone, Copy)]
struct Node<'a> {
    /// Position among those that were found.
    at: usize,
    name: &'a str,
    sectors: u64,
    own: &'a Superblock,
    discard: bool,
}

/// All nodes with a superblock.
fn nodes<'f, 'a: 'f>(found: &'f [Found<'a>]) -> impl Iterator<Item = Node<'a>> + Clone + 'f {
    found.iter().enumerate().filter_map(|(at, found)| {
        Some(Node {
            at,
            name: found.name,
            sectors: found.sectors,
            own: found.superblock.ok()?,
            discard: found.discard,
        })
    })
}

/// Of several nodes one to talk about, whatever their order.
fn first<'a>(nodes: impl Iterator<Item = Node<'a>>) -> Option<Node<'a>> {
    nodes.min_by_key(|node| node.name)
}

/// Judges the nodes that were found for a storage.
///
/// It changes nothing: a driver writes superblocks only after it has decided to start.
pub fn judge<'a>(found: &[Found<'a>], wish: &Wish<'_>) -> Result<Assembly<'a>, Refusal<'a>> {
    damaged(found)?;
    let all = nodes(found);
    let storage = storage(all.clone(), wish)?;
    let waits = |node: &Node<'_>| node.own.log().is_none() && node.own.waits_for().is_some();
    if let Some(node) = first(all.clone().filter(waits)) {
        return Err(Refusal::Waits {
            name: node.name,
            storage: storage.name(),
        });
    }
    duplicate(all.clone())?;
    if let Some(node) = first(all.clone().filter(|node| resized(node))) {
        return Err(Refusal::Size {
            name: node.name,
            had: node.own.node_sectors(),
            has: node.sectors,
        });
    }
    let reference = reference(all.clone())?;
    let stranger = |node: &Node<'_>| reference.own.find(node.own.node()).is_none();
    if let Some(node) = first(all.clone().filter(stranger)) {
        return Err(Refusal::Removed {
            name: node.name,
            storage: storage.name(),
        });
    }
    conflict(all.clone(), &reference)?;
    if reference.own.log().is_none() {
        stale(all.clone(), &reference)?;
    }
    let source = source(all.clone(), &reference)?;
    let degraded = missing(all.clone(), &reference, wish)?;
    let in_sync = |node: &Node<'_>| role(reference.own, node.own, node.discard) == Role::InSync;
    Ok(Assembly {
        reference: reference.own,
        source,
        unclean: all
            .clone()
            .any(|node| in_sync(&node) && node.own.is_running()),
        degraded,
        generation: all
            .clone()
            .map(|node| node.own.generation())
            .max()
            .unwrap_or(0),
        epoch: all.map(|node| node.own.epoch()).max().unwrap_or(0),
    })
}

/// Refuses nodes without a superblock that can be used.
fn damaged<'a>(found: &[Found<'a>]) -> Result<(), Refusal<'a>> {
    if found.is_empty() {
        return Err(Refusal::Nothing);
    }
    let damaged = found.iter().filter_map(|found| {
        let damage = found.superblock.err()?;
        Some((found.name, damage))
    });
    match damaged.min_by_key(|(name, _)| *name) {
        Some((name, damage)) => Err(Refusal::Damaged { name, damage }),
        None => Ok(()),
    }
}

/// Decides which storage is meant, and refuses nodes of others.
fn storage<'a>(
    nodes: impl Iterator<Item = Node<'a>> + Clone,
    wish: &Wish<'_>,
) -> Result<&'a Superblock, Refusal<'a>> {
    let votes = |storage: Uuid| {
        let own = nodes.clone().filter(|node| node.own.storage() == storage);
        let named = own.clone().any(|node| node.own.name() == wish.name);
        (own.count(), named)
    };
    let best = nodes.clone().map(|node| votes(node.own.storage())).max();
    let mine = first(
        nodes
            .clone()
            .filter(|node| Some(votes(node.own.storage())) == best),
    )
    .ok_or(Refusal::Nothing)?;
    let foreign = first(
        nodes
            .clone()
            .filter(|node| node.own.storage() != mine.own.storage()),
    );
    let Some(foreign) = foreign else {
        return Ok(mine.own);
    };
    if Some(votes(foreign.own.storage())) == best {
        return Err(Refusal::Mixed {
            name: mine.name,
            storage: mine.own.name(),
            other: foreign.name,
            theirs: foreign.own.name(),
        });
    }
    Err(Refusal::Foreign {
        name: foreign.name,
        theirs: foreign.own.name(),
        storage: mine.own.name(),
    })
}

/// Refuses two nodes that say they are the same one.
fn duplicate<'a>(nodes: impl Iterator<Item = Node<'a>> + Clone) -> Result<(), Refusal<'a>> {
    let twin = |node: &Node<'a>| {
        let (own, at) = (node.own.node(), node.at);
        nodes
            .clone()
            .filter(move |other| other.at != at && other.own.node() == own)
    };
    let one = first(nodes.clone().filter(|node| twin(node).next().is_some()));
    let other = one.and_then(|one| first(twin(&one)));
    match (one, other) {
        (Some(one), Some(other)) => Err(Refusal::Duplicate {
            name: one.name,
            other: other.name,
        }),
        _ => Ok(()),
    }
}

/// Whether a node has not the size any more that its superblock says.
fn resized(node: &Node<'_>) -> bool {
    node.sectors - node.sectors % BLOCK_SECTORS != node.own.node_sectors()
}

/// Whether a node has a later superblock of the same history.
fn is_later(node: &Superblock, other: &Superblock) -> bool {
    match relation(node, other) {
        Relation::Same => node.generation() > other.generation(),
        Relation::Newer => true,
        Relation::Older | Relation::Conflict => false,
    }
}

/// Whether a node knows that another one lacks data, although that one does not know it.
fn distrusts(node: &Superblock, other: &Superblock) -> bool {
    is_later(node, other) && !counts_on(node, other)
}

/// Whether a node calls another one in sync. A crash may come when its superblock has reached it alone; it counts on the
/// other one then.
fn counts_on(node: &Superblock, other: &Superblock) -> bool {
    node.find(other.node()).is_some_and(|(_, entry)| {
        entry.state == NodeState::InSync && entry.seen <= other.generation()
    })
}

/// The data ids that a superblock knows, newest first, with the last generation of each.
fn lineage(own: &Superblock) -> impl Iterator<Item = (Uuid, u64)> + '_ {
    let past = own.history().map(|past| (past.data, past.until));
    core::iter::once((own.data(), own.generation())).chain(past)
}

/// Whether `split`, which is given up, went on by itself from what `other` has, too, and so without ever having got what
/// `node` says; `seen`: the newest generation that `node` knows to be durable on it.
///
/// Ids are put in front, and only the last ones are forgotten. So who remembers one from before that of `node`, and not
/// that one, never had it: the newest that both remember is where `split` turned off. It had got that far at least, or it is
/// an old copy of a disk, which may have known more. And if `other` was at that id then, or beyond, nothing that was
/// acknowledged before is only on `split`: an id is given up before a copy is left behind.
fn turned_off(split: &Superblock, node: &Superblock, other: &Superblock, seen: u64) -> bool {
    let knows = |own: &Superblock, data: Uuid| lineage(own).any(|(had, _)| had == data);
    let last = lineage(split).find(|(data, _)| knows(node, *data));
    last.is_some_and(|(data, until)| {
        let covers = |(had, to): (Uuid, u64)| had == data && until <= to;
        data != node.data() && seen <= until && lineage(other).any(covers)
    })
}

/// Whether what a node says of another one does not matter, though it is later than that one.
fn is_void<'a>(
    node: &Superblock,
    other: &Superblock,
    nodes: impl Iterator<Item = Node<'a>> + Clone,
) -> bool {
    // A head that knew what it says has decided for the other one since.
    let outdated = nodes
        .clone()
        .any(|later| !later.discard && is_later(later.own, node) && counts_on(later.own, other));
    // It does not count itself, and none of those that it counts has got what it has: the head crashed before, and nothing
    // was acknowledged that relied on it.
    let knows = |entry: Entry| {
        let here = nodes.clone().find(|here| here.own.node() == entry.uuid);
        here.is_none_or(|here| {
            if here.discard {
                return !turned_off(here.own, node, other, entry.seen);
            }
            let same = here.own.data() == node.data();
            // One that was put back may have known it.
            here.own.generation() < entry.seen
                || is_later(here.own, node)
                || same && here.own.generation() == node.generation()
        })
    };
    let idle = || {
        let mut complete = node
            .entries()
            .filter(|(_, entry)| entry.state == NodeState::InSync);
        !is_complete(node) && !complete.any(|(_, entry)| knows(entry))
    };
    // That it had more once is true, whatever became of the head that saw it.
    let was_put_back = || {
        node.find(other.node())
            .is_some_and(|(_, entry)| other.generation() < entry.seen)
    };
    outdated || !was_put_back() && idle()
}

/// Finds the node that is believed.
fn reference<'a>(nodes: impl Iterator<Item = Node<'a>> + Clone) -> Result<Node<'a>, Refusal<'a>> {
    let kept = nodes.clone().filter(|node| !node.discard);
    let knows = |own: &Superblock| {
        first(
            kept.clone()
                .filter(|node| distrusts(node.own, own) && !is_void(node.own, own, nodes.clone())),
        )
    };
    let newest = kept.clone().max_by_key(|node| {
        let own = node.own;
        let complete = is_complete(own);
        let trusted = complete && knows(own).is_none();
        (trusted, complete, own.generation(), own.data(), own.node())
    });
    let Some(node) = newest else {
        return Err(Refusal::AllDiscarded);
    };
    match knows(node.own) {
        None if is_complete(node.own) => Ok(node),
        known => Err(Refusal::Stale {
            name: node.name,
            knows: known.unwrap_or(node).own,
        }),
    }
}

/// Refuses nodes that were written to by themselves, unless they are given up.
fn conflict<'a>(
    nodes: impl Iterator<Item = Node<'a>> + Clone,
    reference: &Node<'a>,
) -> Result<(), Refusal<'a>> {
    let at_odds = |node: &Node<'_>| match relation(node.own, reference.own) {
        Relation::Same | Relation::Older => false,
        // It saw a copy leave that the reference still counts on; what is not complete is copied to anyway.
        Relation::Newer => reference.own.log().is_some() && is_complete(node.own),
        Relation::Conflict => true,
    };
    if let Some(node) = first(nodes.clone().filter(|n| !n.discard && at_odds(n))) {
        return Err(Refusal::Conflict {
            name: node.name,
            other: reference.name,
            mirror: reference.own.log().is_some(),
        });
    }
    let needless = |node: &Node<'_>| node.discard && !at_odds(node);
    match first(nodes.filter(needless)) {
        Some(node) => Err(Refusal::Needless { name: node.name }),
        None => Ok(()),
    }
}

/// Refuses a node of a linear storage that is older than it is known to have been: no other one holds what
/// it lacks.
fn stale<'a>(
    nodes: impl Iterator<Item = Node<'a>>,
    reference: &Node<'a>,
) -> Result<(), Refusal<'a>> {
    let complete = |node: &Node<'_>| {
        let entry = reference.own.find(node.own.node());
        entry.is_some_and(|(_, entry)| entry.state == NodeState::InSync)
    };
    let all = |node: &Node<'_>| role(reference.own, node.own, false) == Role::HealAll;
    match first(nodes.filter(|node| complete(node) && all(node))) {
        Some(node) => Err(Refusal::PutBack { name: node.name }),
        None => Ok(()),
    }
}

/// Finds the copy in sync with the lowest place in the table, that knows itself that it is in sync: if others are to be copied
/// from one whose superblock calls it incomplete, and the next superblock reaches but them, nobody is left who is believed.
fn source<'a>(
    nodes: impl Iterator<Item = Node<'a>>,
    reference: &Node<'a>,
) -> Result<usize, Refusal<'a>> {
    nodes
        .filter(|node| role(reference.own, node.own, node.discard) == Role::InSync)
        .filter(|node| is_complete(node.own))
        .filter_map(|node| Some((reference.own.find(node.own.node())?.0, node.at)))
        .min()
        .map(|(_, at)| at)
        .ok_or(Refusal::Stale {
            name: reference.name,
            knows: reference.own,
        })
}

/// Refuses to start without nodes that may have newer data, unless the user asks for that; tells whether
/// there are any.
fn missing<'a>(
    nodes: impl Iterator<Item = Node<'a>> + Clone,
    reference: &Node<'a>,
    wish: &Wish<'_>,
) -> Result<bool, Refusal<'a>> {
    let mut missing = 0u64;
    for (index, entry) in reference.own.entries() {
        let here = nodes.clone().any(|node| node.own.node() == entry.uuid);
        if entry.state == NodeState::InSync && !here {
            missing |= 1u64.checked_shl(index).unwrap_or(0);
        }
    }
    let mirror = reference.own.log().is_some();
    if missing != 0 && !(mirror && wish.degraded) {
        return Err(Refusal::Missing {
            knows: reference.own,
            missing,
        });
    }
    Ok(missing != 0)
}

/// Refuses to take a node for a new storage that is one of a storage already.
pub fn check_free<'a>(found: &Found<'a>) -> Result<(), Occupied<'a>> {
    match found.superblock {
        Ok(own) => Err(Occupied {
            name: found.name,
            storage: Some(own.name()),
        }),
        // What can't be read is told when it is written to.
        Err(Damage::NoMagic | Damage::Unreadable) => Ok(()),
        Err(_) => Err(Occupied {
            name: found.name,
            storage: None,
        }),
    }
}
