// SPDX-License-Identifier: GPL-2.0

//! The verdict on a node that waits to take the place of another one in a storage without copies.
//!
//! While the storage runs its superblock says that, and no more. When the storage is stopped it says how much it has.

use super::{
    refusal::Refusal,
    verdict::{
        Assembly,
        Found, //
    }, //
};

/// What a node that waits to take the place of another one has of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The place of the other one in the table of the reference.
    pub index: u32,
    /// Sectors from the start that need not be copied again.
    pub done: u64,
}

/// Judges a node that waits to take the place of one of those that were accepted; it was not among them.
///
/// What it has counts only if nothing was written since its superblock was: if that was the last one before the storage was
/// stopped, as all others were. Each start has a generation of its own, so it is told whether there was one without the node.
pub fn waiting<'a>(assembly: &Assembly<'a>, found: &Found<'a>) -> Result<Waiting, Refusal<'a>> {
    let reference = assembly.reference;
    let own = found.superblock.map_err(|damage| Refusal::Damaged {
        name: found.name,
        damage,
    })?;
    if own.storage() != reference.storage() {
        return Err(Refusal::Foreign {
            name: found.name,
            theirs: own.name(),
            storage: reference.name(),
        });
    }
    let unneeded = Refusal::Unneeded {
        name: found.name,
        storage: reference.name(),
    };
    let (replacement, other) = own.waits_for().ok_or(unneeded)?;
    let (index, entry) = reference.find(other.uuid).ok_or(unneeded)?;
    if (entry.start, entry.size) != (other.start, other.size) {
        return Err(unneeded);
    }
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
