// SPDX-License-Identifier: GPL-2.0

//! What a superblock says of nodes, and of the past.

use super::{
    layout::Log,
    Uuid, //
};

/// What a node is to its storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum NodeState {
    /// There is no such node.
    #[default]
    Empty = 0,
    /// It holds all data that it should.
    InSync = 1,
    /// It is being brought up to date.
    Healing = 2,
    /// It is away, and lacks data.
    Missing = 3,
    /// It waits to take the place of another one.
    Spare = 4,
}

impl NodeState {
    pub(super) const fn new(raw: u8) -> Option<Self> {
        Some(match raw {
            0 => Self::Empty,
            1 => Self::InSync,
            2 => Self::Healing,
            3 => Self::Missing,
            4 => Self::Spare,
            _ => return None,
        })
    }
}

/// A node in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub uuid: Uuid,
    /// First sector of the storage that lies on it.
    pub start: u64,
    /// Sectors of the storage that lie on it.
    pub size: u64,
    /// The newest generation that is known to be durable on it.
    pub seen: u64,
    /// What it is to the storage.
    pub state: NodeState,
}

/// An older state of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// The data id.
    pub data: Uuid,
    /// The last generation that had it.
    pub until: u64,
}

/// A node whose data move to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Index of the node that goes.
    pub from: u32,
    /// Index of the node that comes.
    pub to: u32,
    /// Sectors from the start that have been copied.
    pub done: u64,
}

/// What a new storage begins with.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// The storage's UUID.
    pub storage: Uuid,
    /// Its name.
    pub name: &'a str,
    /// Its algorithm.
    pub alg: &'a str,
    /// When it was made: seconds since 1970.
    pub created: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Sectors of the storage.
    pub sectors: u64,
    /// The log, if it is a mirror.
    pub log: Option<Log>,
    /// The first state of its data.
    pub data: Uuid,
}
