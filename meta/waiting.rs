// SPDX-License-Identifier: GPL-2.0

//! The verdict on a node that waits to take the place of another one in a storage without copies.
//!
//! While the storage runs its superblock says that, and no more. When the storage is stopped it says how much it has.

use super::{
    refusal::Refusal,
    superblock::Entry,
    verdict::{
        has_stopped,
        Assembly,
        Found, //
    },
};

/// What a node that waits to take the place of another one has of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The place of the other one in the table of the reference.
    pub index: u32,
    /// Sectors from the start that need not be copied again.
    pub done: u64,
}

/// Judges a node that waits to take the place of one of those that were accepted, which has those sectors of the storage
/// (first, number); it was not among them.
///
/// What it has counts only if nothing was written since its superblock was: if that was the last one before the storage was
/// stopped, as all others were. Each start has a generation of its own, so it is told whether there was one without the node.
///
/// It may say that it has taken the place already. If the others have gone on from there without it, that was taken back.
pub fn waiting<'a>(
    assembly: &Assembly<'a>,
    found: &Found<'a>,
    place: (u64, u64),
) -> Result<Waiting, Refusal<'a>> {
    let reference = assembly.reference;
    let name = found.name;
    let own = found
        .superblock
        .map_err(|damage| Refusal::Damaged { name, damage })?;
    let storage = reference.name();
    if own.storage() != reference.storage() {
        return Err(Refusal::Foreign {
            name,
            theirs: own.name(),
            storage,
        });
    }
    let at_place = |entry: &Entry| (entry.start, entry.size) == place;
    let Some((replacement, other)) = own.waits_for() else {
        if !has_stopped(own, reference) {
            return Err(Refusal::Moved { name, storage });
        }
        let mut entries = reference.entries();
        let old = entries.find(|(_, entry)| at_place(entry));
        let (index, _) = old.ok_or(Refusal::Unneeded { name, storage })?;
        return Ok(Waiting { index, done: 0 });
    };
    let old = reference.find(other.uuid);
    let (index, entry) = old
        .filter(|(_, entry)| at_place(entry) && at_place(&other))
        .ok_or(Refusal::Unneeded { name, storage })?;
    let last = own.data() == reference.data()
        && own.generation() == assembly.generation
        && !assembly.unclean
        && !own.is_running();
    Ok(Waiting {
        index,
        done: match last {
            true => replacement.done.min(entry.size),
            false => 0,
        },
    })
}
