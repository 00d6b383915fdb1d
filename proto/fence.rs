// SPDX-License-Identifier: GPL-2.0

//! The fence: a private option by which a client says for which storage it writes, and as whom.
//!
//! NBD knows connections and nothing about who is behind them. So a server may still work on a
//! write of a connection that is lost while the same client, or the one that has taken over from
//! it, writes to the same place on a new one; and then the old write may land last. With this
//! option the server ends the older connections of the storage, and answers when nothing of theirs
//! is left on its disk.
//!
//! - A *storage* is what the writes belong to. A *head* is the one machine that writes for it; the
//!   next head has a greater *epoch*.
//! - [`Fence`] is what a client says, [`Known`] and [`claim`] what a server remembers and decides.
//!
//! The option is not reserved by the protocol: its number is random. A server that does not know
//! it answers [`REP_ERR_UNSUP`](super::option::REP_ERR_UNSUP), as to each option that it does not
//! know. One that does answers with [`REP_DST`] before anything else.

use core::fmt;

use zerocopy::{
    big_endian::{
        U32,
        U64, //
    },
    transmute, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes, //
};

/// Option: a [`Fence`].
pub const OPT_DST: u32 = 0x5c1f_93a6;

/// Reply to [`OPT_DST`]: the server knows the option, and this is the newest epoch that it knows of
/// the storage. The acknowledgement or an error follows, perhaps after a wait.
pub const REP_DST: u32 = OPT_DST;

/// What both messages mean.
pub const VERSION: u32 = 1;

/// Bytes of a [`Fence`].
pub const FENCE_LEN: usize = 48;

/// Bytes behind the header of [`REP_DST`].
pub const NEWEST_LEN: usize = 16;

/// A number that names one thing in the whole world.
pub type Uuid = [u8; 16];

/// Names nothing.
const NOBODY: Uuid = [0; 16];

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawFence {
    version: U32,
    reserved: U32,
    storage: Uuid,
    head: Uuid,
    epoch: U64,
}

/// Who is at the client's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// What is written.
    pub storage: Uuid,
    /// Who writes.
    pub head: Uuid,
    /// Which of all heads that the storage has had; the first one has 1.
    pub epoch: u64,
}

/// Why the payload of [`OPT_DST`] is no [`Fence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFence {
    /// A version that is not known here.
    Version(u32),
    /// Nobody, nothing, no epoch, or bits without a meaning.
    Senseless,
}

impl Fence {
    /// Gives its bytes.
    pub fn encode(&self) -> [u8; FENCE_LEN] {
        transmute!(RawFence {
            version: U32::new(VERSION),
            reserved: U32::new(0),
            storage: self.storage,
            head: self.head,
            epoch: U64::new(self.epoch),
        })
    }

    /// Understands its bytes.
    pub fn decode(bytes: [u8; FENCE_LEN]) -> Result<Self, BadFence> {
        let raw: RawFence = transmute!(bytes);
        if raw.version.get() != VERSION {
            return Err(BadFence::Version(raw.version.get()));
        }
        let fence = Self {
            storage: raw.storage,
            head: raw.head,
            epoch: raw.epoch.get(),
        };
        if raw.reserved.get() != 0
            || fence.storage == NOBODY
            || fence.head == NOBODY
            || fence.epoch == 0
        {
            return Err(BadFence::Senseless);
        }
        Ok(fence)
    }
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawNewest {
    version: U32,
    reserved: U32,
    epoch: U64,
}

/// What is behind the header of [`REP_DST`].
pub fn newest(epoch: u64) -> [u8; NEWEST_LEN] {
    transmute!(RawNewest {
        version: U32::new(VERSION),
        reserved: U32::new(0),
        epoch: U64::new(epoch),
    })
}

/// Understands [`newest`]; `None` if it is of another version, or senseless.
pub fn parse_newest(bytes: [u8; NEWEST_LEN]) -> Option<u64> {
    let raw: RawNewest = transmute!(bytes);
    let sound = raw.version.get() == VERSION && raw.reserved.get() == 0 && raw.epoch.get() != 0;
    sound.then(|| raw.epoch.get())
}

/// What a client is told that was refused; see [`Verdict::TakenOver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOver(pub u64);

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(epoch) = self;
        write!(
            f,
            "another head has taken over this storage (epoch {epoch})"
        )
    }
}

/// What a server says to a [`Fence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The client is the newest head, and nothing of the older connections is left.
    Newest,
    /// The client is the newest head; something of the older connections is still on the disk.
    Wait,
    /// A newer head has been here, of this epoch; or another one of the same.
    TakenOver(TakenOver),
    /// More storages are connected than can be remembered.
    NoRoom,
}

/// The newest head that a server has seen of one storage.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    fence: Fence,
    /// When it was last claimed, in claims.
    at: u64,
}

/// Judges a client's [`Fence`] by what is `known`, and takes note of it.
///
/// Never says [`Verdict::Wait`]: see [`admit`]. `is_live` says whether a storage has a
/// connection: such a one is not forgotten. If there is no room for a new storage, the one is
/// forgotten that was not claimed for the longest time. So with as many places as there can be
/// connections there always is room.
pub fn claim(
    known: &mut [Option<Known>],
    fence: &Fence,
    is_live: impl Fn(&Uuid) -> bool,
) -> Verdict {
    let last = known.iter().flatten().map(|known| known.at).max();
    let entry = Known {
        fence: *fence,
        at: last.map_or(0, |last| last.saturating_add(1)),
    };
    let same = known
        .iter_mut()
        .flatten()
        .find(|known| known.fence.storage == fence.storage);
    if let Some(same) = same {
        let Fence { head, epoch, .. } = same.fence;
        // Of two heads with one epoch the first one stays: they did not know of each other.
        if fence.epoch < epoch || (fence.epoch == epoch && fence.head != head) {
            return Verdict::TakenOver(TakenOver(epoch));
        }
        *same = entry;
        return Verdict::Newest;
    }
    let place = known
        .iter_mut()
        .filter(|place| !place.is_some_and(|known| is_live(&known.fence.storage)))
        // Free ones come first.
        .min_by_key(|place| place.map(|known| known.at));
    match place {
        Some(place) => {
            *place = Some(entry);
            Verdict::Newest
        }
        None => Verdict::NoRoom,
    }
}

/// Ends the older connections of the storage for a client that is `claimed` to be the newest head.
///
/// `end_older` ends all other connections of the storage, whatever their state, and says whether anything of theirs can
/// still reach the disk. To be asked again, from [`claim`] on, whenever that may have changed, until the answer is not
/// [`Verdict::Wait`].
pub fn admit(claimed: Verdict, end_older: impl FnOnce() -> bool) -> Verdict {
    match claimed {
        Verdict::Newest if end_older() => Verdict::Wait,
        verdict => verdict,
    }
}
