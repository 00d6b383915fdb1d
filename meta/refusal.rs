// SPDX-License-Identifier: GPL-2.0

//! Why nodes do not form a storage, in sentences that name the node and the remedy.

use core::fmt;

use super::{
    superblock::{
        NodeState,
        Superblock, //
    },
    Damage, //
};

/// Why a storage can't be assembled.
#[derive(Clone, Copy)]
pub enum Refusal<'a> {
    /// No node was named.
    Nothing,
    /// A node has no superblock that can be used.
    Damaged {
        /// The node.
        name: &'a str,
        /// What is wrong with the superblock.
        damage: Damage,
    },
    /// Most nodes are of one storage, this one is of another.
    Foreign {
        /// The node.
        name: &'a str,
        /// The name of its storage.
        theirs: &'a str,
        /// The name of the storage that most nodes are of.
        storage: &'a str,
    },
    /// Two storages have as many nodes each.
    Mixed {
        /// A node of the one.
        name: &'a str,
        /// The name of its storage.
        storage: &'a str,
        /// A node of the other one.
        other: &'a str,
        /// The name of its storage.
        theirs: &'a str,
    },
    /// Two nodes say that they are the same one.
    Duplicate {
        /// One of them.
        name: &'a str,
        /// The other one.
        other: &'a str,
    },
    /// A node has another size than when it became one.
    Size {
        /// The node.
        name: &'a str,
        /// Sectors then.
        had: u64,
        /// Sectors now.
        has: u64,
    },
    /// A node was removed from the storage, or replaced.
    Removed {
        /// The node.
        name: &'a str,
        /// The storage's name.
        storage: &'a str,
    },
    /// A node waits to take the place of another one, and was named without that, or among those that are used.
    Waits {
        /// The node.
        name: &'a str,
        /// The storage's name.
        storage: &'a str,
    },
    /// A node waits to take the place of one that the storage does not have any more.
    Unneeded {
        /// The node.
        name: &'a str,
        /// The storage's name.
        storage: &'a str,
    },
    /// A node has taken the place of another one, which goes on without it.
    Moved {
        /// The node.
        name: &'a str,
        /// The storage's name.
        storage: &'a str,
    },
    /// A node was written to by itself, and so were others.
    Conflict {
        /// The node.
        name: &'a str,
        /// A node of the others.
        other: &'a str,
        /// Whether one side can be given up.
        mirror: bool,
    },
    /// A node was to be given up that is in no conflict.
    Needless {
        /// The node.
        name: &'a str,
    },
    /// All nodes were to be given up.
    AllDiscarded,
    /// A node of a linear storage holds older data than it did before.
    PutBack {
        /// The node.
        name: &'a str,
    },
    /// None of the nodes has complete data.
    Stale {
        /// The newest of them.
        name: &'a str,
        /// What it knows of the others.
        knows: &'a Superblock,
    },
    /// Nodes that may have newer data are missing.
    Missing {
        /// Who knows of them.
        knows: &'a Superblock,
        /// Bit `i`: the node at place `i` of its table.
        missing: u64,
    },
}

/// A node that is to become one of a new storage is one of a storage already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupied<'a> {
    /// The node.
    pub name: &'a str,
    /// The name of its storage; `None`: the superblock is damaged.
    pub storage: Option<&'a str>,
}

/// A node that is not here, as its storage knew it.
struct Absent<'a> {
    knows: &'a Superblock,
    index: u32,
}

impl fmt::Display for Absent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.index)?;
        let label = self.knows.label(self.index);
        if label.is_empty() {
            return Ok(());
        }
        f.write_str(" (last at ")?;
        for c in label.chars() {
            // It comes from a disk; a terminal must not obey it.
            let c = if c.is_control() { '?' } else { c };
            fmt::Write::write_char(f, c)?;
        }
        f.write_str(")")
    }
}

/// Some nodes within a sentence; all of them would be too long.
struct Absents<'a> {
    knows: &'a Superblock,
    missing: u64,
}

/// How many nodes a sentence names.
const NAMED: usize = 3;

impl fmt::Display for Absents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bit = |index: &u32| self.missing.checked_shr(*index).unwrap_or(0) & 1 != 0;
        let count = self.missing.count_ones() as usize;
        for (at, index) in (0..64).filter(bit).take(NAMED).enumerate() {
            if at != 0 {
                f.write_str(if at + 1 == count { " and " } else { ", " })?;
            }
            let knows = self.knows;
            write!(f, "{}", Absent { knows, index })?;
        }
        match count.checked_sub(NAMED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}

/// Bit `i` for each node at place `i` of a table whose data are complete.
fn complete(knows: &Superblock) -> u64 {
    let complete = knows
        .entries()
        .filter(|(_, entry)| entry.state == NodeState::InSync);
    complete.fold(0, |mask, (index, _)| {
        mask | 1u64.checked_shl(index).unwrap_or(0)
    })
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Nothing => write!(f, "no node is named; name all nodes of the storage"),
            Self::Damaged { name, damage } => {
                write!(f, "{name}: {damage}; ")?;
                f.write_str(match damage {
                    Damage::NoMagic => {
                        "it is no node of a storage, or has another size now; leave it out, or add it to \
                         the storage when that runs"
                    }
                    Damage::Checksum | Damage::Senseless(_) => {
                        "it is half-written or damaged; leave it out, and add it anew when the storage runs"
                    }
                    Damage::Version(_) | Damage::Features(_) => {
                        "a newer version of DST wrote it; use that one"
                    }
                    Damage::Unreadable => "see the kernel log; leave it out if the disk is bad",
                })
            }
            Self::Foreign {
                name,
                theirs,
                storage,
            } => write!(
                f,
                "{name} is a node of another storage, '{theirs}', than the other nodes, which are of \
                 '{storage}'; leave it out"
            ),
            Self::Mixed {
                name,
                storage,
                other,
                theirs,
            } => write!(
                f,
                "{name} is a node of storage '{storage}', {other} one of another storage, '{theirs}'; name \
                 nodes of one storage only"
            ),
            Self::Duplicate { name, other } => write!(
                f,
                "{name} and {other} are the same node: one disk under two names, or one is a copy of the \
                 other; leave one of them out"
            ),
            Self::Size { name, had, has } => write!(
                f,
                "{name} has {has} sectors, but had {had} as a node of the storage; give it its size back, \
                 or leave it out"
            ),
            Self::Removed { name, storage } => write!(
                f,
                "{name} was removed from storage '{storage}' or replaced; leave it out, or add it anew when \
                 the storage runs"
            ),
            Self::Waits { name, storage } => write!(
                f,
                "{name} was to take the place of another node of storage '{storage}', and lacks data of that; 'dst \
                 assemble {storage} NODE...' with both of them goes on, or leave it out"
            ),
            Self::Moved { name, storage } => write!(
                f,
                "{name} may have taken the place of another node of storage '{storage}', and have newer data; leave that \
                 one out, or if it is the one that counts, this one"
            ),
            Self::Unneeded { name, storage } => write!(
                f,
                "{name} was to take the place of a node that storage '{storage}' does not have any more; leave it out"
            ),
            Self::Conflict {
                name,
                other,
                mirror: true,
            } => write!(
                f,
                "{name} and {other} were written to apart from each other; 'dst assemble --discard NODE' \
                 gives up all that was written on NODE alone"
            ),
            Self::Conflict {
                name,
                other,
                mirror: false,
            } => write!(
                f,
                "{name} does not go on where {other} stopped: one of them was put back from a backup; put \
                 all nodes back to one moment"
            ),
            Self::Needless { name } => write!(
                f,
                "{name} is in no conflict, nothing needs to be given up; assemble without --discard {name}"
            ),
            Self::AllDiscarded => write!(
                f,
                "--discard gives up every node; keep the one whose data are to stay"
            ),
            Self::PutBack { name } => write!(
                f,
                "{name} holds older data than it did before: it was put back from a backup; put all nodes \
                 back to one moment"
            ),
            Self::Stale { name, knows } => {
                let missing = complete(knows);
                write!(f, "{name} lacks what was written while it was away")?;
                if missing == 0 {
                    return f.write_str("; name a node whose data are complete too");
                }
                write!(f, "; name {} too", Absents { knows, missing })
            }
            Self::Missing { knows, missing } => {
                write!(f, "missing: {}; ", Absents { knows, missing })?;
                f.write_str(if knows.log().is_none() {
                    "the storage needs all of its nodes, name them all"
                } else {
                    "data may be newer there: name all nodes, or start without by --degraded"
                })
            }
        }
    }
}

impl fmt::Debug for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Occupied<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match self.storage {
            Some(storage) => write!(
                f,
                "{name} is a node of storage '{storage}'; 'dst assemble {storage} NODE...' uses it, --force \
                 writes over it"
            ),
            None => write!(
                f,
                "{name} has a damaged superblock of DST: it may be a node of a storage; --force writes over it"
            ),
        }
    }
}
