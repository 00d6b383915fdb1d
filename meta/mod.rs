// SPDX-License-Identifier: GPL-2.0

//! What DST writes on a node beside the data: superblocks and the log of a mirror.
//!
//! Blocks are looked at where they lie: memory is handed in as blocks of [`BLOCK`] bytes, and a
//! [`superblock::Superblock`] or [`log::LogBlock`] is a view of one. So nothing of 4 KiB is ever put on a
//! stack, nothing is allocated, and no input can make the code panic. `docs/on-disk.md` is the description
//! for people; the constants here and the one there must agree, which a test checks.
//!
//! - [`layout`]: where on a node everything lies.
//! - [`superblock`]: who the node is, and what it knows of the others.
//! - [`log`]: which regions differ between the copies of a mirror.
//! - [`crc`]: the checksum of both.
//! - [`given_up`]: what is lost if what was written on a copy alone is given up.
//! - [`head`]: the superblock of a mirror that runs, and who has it.
//! - [`verdict`]: whether nodes that were found form a storage, and which of them to believe.

use core::fmt;

use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes, //
};

pub mod crc;
mod entry;
pub mod given_up;
pub mod head;
pub mod layout;
pub mod log;
mod refusal;
pub mod superblock;
pub mod verdict;
pub mod waiting;

/// Bytes of a superblock and of a block of the log: what most disks write as one piece.
pub const BLOCK: usize = 4096;

/// Sectors of a [`BLOCK`].
pub const BLOCK_SECTORS: u64 = 8;

/// The memory of one block.
pub type Block = [u8; BLOCK];

/// Names a storage, a node, or a state of the data, in the whole world.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
)]
#[repr(transparent)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Names nothing.
    pub const NONE: Self = Self([0; 16]);

    /// Makes a name of random bytes, with the bits that RFC 9562 gives a fixed value.
    pub const fn random(mut bytes: [u8; 16]) -> Self {
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
        *version = *version & 0x0f | 0x40;
        *variant = *variant & 0x3f | 0x80;
        Self(bytes)
    }

    /// Whether it names nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Why a block can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It does not begin as such a block does: it was never written, or was written over.
    NoMagic,
    /// The checksum is not that of the content: a write was cut off, or the medium is bad.
    Checksum,
    /// A later version of the format.
    Version(u32),
    /// Features that this version does not know, and must know to use the node.
    Features(u64),
    /// The checksum is right, but this field can't be.
    Senseless(&'static str),
    /// It could not be read.
    Unreadable,
}

impl Damage {
    /// How much was understood; of two damages the one with more tells more.
    const fn depth(self) -> u8 {
        match self {
            Self::NoMagic => 0,
            Self::Unreadable => 1,
            Self::Checksum => 2,
            Self::Senseless(_) => 3,
            Self::Version(_) => 4,
            Self::Features(_) => 5,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMagic => write!(f, "there is no superblock of DST"),
            Self::Checksum => write!(f, "no superblock has the right checksum"),
            Self::Version(version) => write!(f, "the superblock has format version {version}"),
            Self::Features(bits) => write!(f, "the superblock needs unknown features {bits:#x}"),
            Self::Senseless(field) => write!(f, "the superblock has a senseless {field}"),
            Self::Unreadable => write!(f, "the superblock can't be read"),
        }
    }
}

/// The text of a field: up to the first NUL, or the whole field.
fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|byte| *byte == 0);
    let text = match end {
        Some(end) => field.get(..end)?,
        None => field,
    };
    core::str::from_utf8(text).ok()
}

/// Puts text into a field; `None` if it does not fit.
fn set_text(field: &mut [u8], text: &str) -> Option<()> {
    field.fill(0);
    field
        .get_mut(..text.len())?
        .copy_from_slice(text.as_bytes());
    Some(())
}
