// SPDX-License-Identifier: GPL-2.0

//! Algorithms: which nodes serve which part of a request.
//!
//! An algorithm is pure arithmetic on a table of [`Segment`]s. It allocates nothing, sleeps nowhere and
//! knows neither bios nor sockets, so that the same code runs in the kernel and in tests on the host.
//! Everything here is in sectors of 512 bytes.

use core::fmt;

use crate::{
    alg_linear::Linear,
    alg_mirror::layout::Mirrored, //
};

/// The part of a storage that lies on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First sector of the storage that lies on the node.
    pub start: u64,
    /// Number of sectors; never 0 in a checked table.
    pub size: u64,
    /// The node's position in the storage's own list of nodes.
    pub node: u32,
}

/// One piece of a request: a range on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The node's position in the storage's own list of nodes.
    pub node: u32,
    /// First sector on the node.
    pub sector: u64,
    /// Number of sectors; at least 1, at most what was asked for.
    pub sectors: u64,
}

/// Why nodes can't form an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// There is no node.
    Empty,
    /// A segment has no sector.
    ZeroSize {
        /// Where it starts.
        start: u64,
    },
    /// Nothing lies between `from` and `to`.
    Hole {
        /// First missing sector.
        from: u64,
        /// First sector that is there again.
        to: u64,
    },
    /// Two segments claim `sector`.
    Overlap {
        /// First sector that both claim.
        sector: u64,
    },
    /// The end of a segment is beyond what a sector number can hold.
    TooLarge,
    /// A copy does not begin at sector 0.
    NotAtZero {
        /// Where it begins.
        start: u64,
    },
    /// There are more copies than an algorithm can keep.
    TooMany {
        /// The most that it can.
        most: u32,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the storage has no node; add one first"),
            Self::ZeroSize { start } => write!(f, "the node at sector {start} has no sectors"),
            Self::Hole { from, to } => {
                write!(
                    f,
                    "no node holds sectors {from} to {}; add one there",
                    to - 1
                )
            }
            Self::Overlap { sector } => {
                write!(
                    f,
                    "two nodes claim sector {sector}; change --start (-s) or --size (-S) of one of them"
                )
            }
            Self::TooLarge => write!(f, "a node ends beyond the largest sector number"),
            Self::NotAtZero { start } => write!(
                f,
                "a copy of everything begins at sector 0, not at {start}; leave --start (-s) out"
            ),
            Self::TooMany { most } => {
                write!(f, "there are at most {most} copies; remove a node")
            }
        }
    }
}

/// How nodes are joined.
pub trait Algorithm: Sync {
    /// The name that users give, e.g. `alg_linear`.
    fn name(&self) -> &'static str;

    /// Where the next node of `size` sectors goes when the user names no place, behind `table`.
    ///
    /// `table` is in the order of adding. `None` when the sum exceeds a sector number.
    fn place(&self, table: &[Segment], size: u64) -> Option<u64>;

    /// Sorts `table` by position, checks that it can be an array, and returns the array's size.
    fn check(&self, table: &mut [Segment]) -> Result<u64, LayoutError>;

    /// Whether each node holds a copy of everything: then what is lost on one is on the others, and the nodes
    /// hold what says which of them to believe.
    fn has_copies(&self) -> bool;

    /// The first piece of the `sectors` sectors from `sector` on, in a table that [`Self::check`] passed; of several
    /// copies that with number `copy`, from 0 on.
    ///
    /// `None` when `sector` is beyond the array's end, `sectors` is 0, or there is no such copy.
    fn map(&self, table: &[Segment], sector: u64, sectors: u64, copy: u32) -> Option<Piece>;
}

/// All algorithms; this is the only list of them.
pub static ALGORITHMS: [&dyn Algorithm; 2] = [&Linear, &Mirrored];

/// Finds an algorithm by its name.
pub fn find(name: &str) -> Option<&'static dyn Algorithm> {
    ALGORITHMS
        .iter()
        .copied()
        .find(|algorithm| algorithm.name() == name)
}

/// The names of all algorithms, for messages.
pub struct Names;

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, algorithm) in ALGORITHMS.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{}", algorithm.name())?;
        }
        Ok(())
    }
}
