// SPDX-License-Identifier: GPL-2.0

//! The ioctl ABI of `/dev/dst`, shared by the module and the tools.
//!
//! Every request is one fixed-size structure that begins with a [`Header`]. The caller sets
//! [`Header::size`] and [`Header::version`]; a mismatch ends in `EPROTO` before anything is done, so that
//! an old command never talks past a new module. Whatever fails, the module writes a sentence that says
//! what was wrong, and what to do about it, to [`Header::message`], and then returns the errno.
//!
//! Sizes and positions are in sectors of 512 bytes unless a field says bytes. Strings are UTF-8, padded
//! with NULs to the size of their field, with at least one NUL. All fields are native-endian; padding is
//! explicit and must be zero.

// The kernel builds the traits and their macros as separate crates.
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// Version of this ABI; it grows with every change of a structure's meaning or layout.
pub const ABI_VERSION: u32 = 4;

/// Path of the control device.
pub const CONTROL_PATH: &str = "/dev/dst";

/// Bytes of a name field. The disk is called `dst-NAME`, and the kernel's limit for that is 31 bytes.
pub const NAME_LEN: usize = 28;
/// Bytes of an algorithm's name field.
pub const ALG_LEN: usize = 16;
/// Bytes of a path or NBD export name field.
pub const PATH_LEN: usize = 256;
/// Bytes of the message that explains an error.
pub const MESSAGE_LEN: usize = 200;
/// Networks in the access list of one export.
pub const MAX_RULES: usize = 16;

/// [`AddNode::start`] and [`AddNode::size`]: let the module decide.
pub const AUTO: u64 = u64::MAX;
/// [`StorageInfo::heal_seconds_left`] and [`NodeInfo::given_up`]: nobody knows.
pub const UNKNOWN: u64 = u64::MAX;
/// [`SetNode::node`] and [`NodeRef::node`]: every node of the storage.
pub const ALL_NODES: u32 = u32::MAX;

/// Default TCP port of NBD (IANA).
pub const NBD_PORT: u16 = 10809;

/// Declares one ABI structure with its derives, and checks that it holds no hidden padding.
macro_rules! abi {
    ($(#[$attr:meta])* pub struct $name:ident { $($(#[$fattr:meta])* pub $field:ident: $ty:ty,)* }) => {
        $(#[$attr])*
        #[repr(C)]
        #[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
        pub struct $name { $($(#[$fattr])* pub $field: $ty,)* }

        impl Default for $name {
            fn default() -> Self {
                <Self as zerocopy::FromZeros>::new_zeroed()
            }
        }
    };
}

abi! {
    /// Start of every request.
    pub struct Header {
        /// Bytes of the whole structure.
        pub size: u32,
        /// [`ABI_VERSION`] of the caller.
        pub version: u32,
        /// Out: a sentence that explains the error.
        pub message: [u8; MESSAGE_LEN],
    }
}

impl Header {
    /// The header of a request of type `T`.
    pub fn of<T>() -> Self {
        Self {
            size: core::mem::size_of::<T>() as u32,
            version: ABI_VERSION,
            message: [0; MESSAGE_LEN],
        }
    }
}

/// A request, with its number.
pub trait Request: FromBytes + IntoBytes + KnownLayout + Immutable + Default + Copy {
    /// The ioctl's number within [`IOCTL_TYPE`].
    const NR: u32;
    /// Gives the header of the request.
    fn header(&mut self) -> &mut Header;
    /// The whole command word: `_IOWR(IOCTL_TYPE, NR, Self)`.
    const COMMAND: u32 =
        (3 << 30) | ((core::mem::size_of::<Self>() as u32) << 16) | (IOCTL_TYPE << 8) | Self::NR;
}

/// The ioctl type ("magic") of DST: `D` with the high bit set, unused in the kernel's list.
pub const IOCTL_TYPE: u32 = 0xd5;

macro_rules! request {
    ($name:ident, $nr:expr) => {
        impl Request for $name {
            const NR: u32 = $nr;
            fn header(&mut self) -> &mut Header {
                &mut self.header
            }
        }
        // `_IOC` has 14 bits for the size.
        const _: () = assert!(core::mem::size_of::<$name>() < 1 << 14);
    };
}

abi! {
    /// An address of the internet families, as `struct sockaddr_in{,6}` has it.
    pub struct Address {
        /// `AF_INET` (2) or `AF_INET6` (10); 0: none.
        pub family: u16,
        /// TCP port, native-endian.
        pub port: u16,
        /// IPv6 scope (interface index); 0 for IPv4.
        pub scope: u32,
        /// Network-order address; IPv4 uses the first four bytes.
        pub bytes: [u8; 16],
    }
}

/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `AF_INET6`.
pub const AF_INET6: u16 = 10;

abi! {
    /// A network of an access list.
    pub struct Rule {
        /// The network; its port is ignored.
        pub network: Address,
        /// Leading bits that must be equal: 0..=32 or 0..=128.
        pub prefix: u32,
        /// Must be zero.
        pub reserved: u32,
    }
}

abi! {
    /// Asks the module for its version.
    pub struct Version {
        /// Header.
        pub header: Header,
        /// Out: [`ABI_VERSION`] of the module.
        pub abi: u32,
        /// Must be zero.
        pub reserved: u32,
        /// Out: the module's version as text.
        pub text: [u8; 32],
    }
}
request!(Version, 0);

/// [`Create::flags`]: what belongs to the storage is written on its nodes. A mirror always does that. If no algorithm is
/// named, the nodes tell it, and their places.
pub const CREATE_METADATA: u32 = 1;

abi! {
    /// Makes an empty storage. `EEXIST` when the name is taken by a storage.
    pub struct Create {
        /// Header.
        pub header: Header,
        /// The storage's name.
        pub name: [u8; NAME_LEN],
        /// The algorithm, e.g. `alg_linear`.
        pub alg: [u8; ALG_LEN],
        /// Logical block size in bytes, a power of two in 512..=4096; 0: the largest of the nodes.
        pub block_size: u32,
        /// `CREATE_*`.
        pub flags: u32,
    }
}
request!(Create, 1);

/// [`AddNode::kind`] and [`NodeInfo::kind`]: a local block device.
pub const KIND_LOCAL: u32 = 1;
/// [`AddNode::kind`] and [`NodeInfo::kind`]: an NBD server.
pub const KIND_REMOTE: u32 = 2;
/// [`NodeInfo::kind`]: a copy of a mirror that runs, of which nothing was added; its path is how it was named last.
pub const KIND_ABSENT: u32 = 3;

/// The id of an absent copy is this and its number; ids of nodes are below.
pub const ABSENT: u32 = 1 << 16;

/// [`AddNode::flags`]: for a start that assembles, or a copy that is back at a mirror that runs: give up what was written on
/// this node alone. What that is tells [`NodeInfo::given_up`] afterwards.
pub const NODE_DISCARD: u32 = 1;
/// [`AddNode::flags`]: for a start that makes a new storage, or a copy for one that runs: overwrite the superblock
/// that the node holds.
pub const NODE_FORCE: u32 = 2;
/// [`AddNode::flags`]: for a storage that runs: the node takes the place of [`AddNode::replaces`].
pub const NODE_REPLACE: u32 = 4;

abi! {
    /// Adds a node to a storage that is not running, or a copy to a mirror that runs.
    ///
    /// With [`NODE_REPLACE`] the data of another node are copied to it while the storage is used; when it has them all,
    /// the other one is dropped. The call returns when that has begun. One node is replaced at a time.
    ///
    /// A remote node is connected to before the call returns, to ask its size; the call gives up after
    /// [`AddNode::connect_ms`].
    pub struct AddNode {
        /// Header.
        pub header: Header,
        /// The storage's name.
        pub name: [u8; NAME_LEN],
        /// [`KIND_LOCAL`] or [`KIND_REMOTE`].
        pub kind: u32,
        /// Where the node's data begin in the storage; [`AUTO`]: behind the node added last.
        pub start: u64,
        /// How many sectors of the node are used; [`AUTO`]: all.
        pub size: u64,
        /// Local: the path of the block device. Remote: the NBD export's name, may be empty.
        pub path: [u8; PATH_LEN],
        /// Remote: the server.
        pub address: Address,
        /// Remote: milliseconds that a request may wait for a lost node before it fails; 0: for ever.
        pub timeout_ms: u32,
        /// Remote: milliseconds that this call waits for the first connection; 0: the default (10 s).
        pub connect_ms: u32,
        /// Remote: seconds without a sign of life after which the connection is given up; 0: default (15).
        pub keepalive_s: u32,
        /// Requests that can be in flight, 1..=1024; 0: the default (128).
        pub depth: u32,
        /// `NODE_*` of this request.
        pub flags: u32,
        /// Out: the node's id, unique within the storage.
        pub node: u32,
        /// With [`NODE_REPLACE`]: the id of the node that goes; [`ABSENT`] and a number: a copy that is not here.
        pub replaces: u32,
        /// Must be zero.
        pub reserved: u32,
    }
}
request!(AddNode, 2);

abi! {
    /// Names a storage (or an export).
    pub struct Named {
        /// Header.
        pub header: Header,
        /// The name.
        pub name: [u8; NAME_LEN],
        /// `START_*` for [`Start`]; else it must be zero.
        pub flags: u32,
    }
}

/// Declares a request that is nothing but a name.
macro_rules! named {
    ($(#[$attr:meta])* $name:ident, $nr:expr) => {
        $(#[$attr])*
        #[repr(transparent)]
        #[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Default)]
        pub struct $name(pub Named);

        impl Request for $name {
            const NR: u32 = $nr;
            fn header(&mut self) -> &mut Header {
                &mut self.0.header
            }
        }
    };
}

/// [`Start`]: a new storage; its nodes must not hold superblocks, unless they were added with [`NODE_FORCE`].
pub const START_NEW: u32 = 1;
/// [`Start`]: the storage that the nodes' superblocks tell of.
pub const START_ASSEMBLE: u32 = 2;
/// [`Start`]: also without copies that may hold newer data.
pub const START_DEGRADED: u32 = 4;

named!(
    /// Starts a storage: its disk `/dev/dst-NAME` appears. `EINVAL` for holes, overlaps, no node.
    ///
    /// If there are superblocks, and neither [`START_NEW`] nor [`START_ASSEMBLE`] is set, nodes that all are
    /// blank are a new storage, and nodes that all hold superblocks are assembled. `ESTALE`, `EEXIST` or
    /// `EUCLEAN` when they don't fit together; `ENOTUNIQ` when copies were written to apart from each other, and
    /// [`NODE_DISCARD`] is needed.
    Start,
    3
);
named!(
    /// Stops a storage: its disk goes; the nodes stay. `EBUSY` while the disk is open.
    Stop,
    4
);
named!(
    /// Deletes a storage, running or not, with its nodes. `EBUSY` while the disk is open.
    Delete,
    5
);

abi! {
    /// Names one node of a storage.
    pub struct NodeRef {
        /// Header.
        pub header: Header,
        /// The storage's name.
        pub name: [u8; NAME_LEN],
        /// The node's id (or [`ALL_NODES`] where the request says so).
        pub node: u32,
    }
}

/// Declares a request that is nothing but a node.
macro_rules! node_ref {
    ($(#[$attr:meta])* $name:ident, $nr:expr) => {
        $(#[$attr])*
        #[repr(transparent)]
        #[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Default)]
        pub struct $name(pub NodeRef);

        impl Request for $name {
            const NR: u32 = $nr;
            fn header(&mut self) -> &mut Header {
                &mut self.0.header
            }
        }
    };
}

node_ref!(
    /// Removes a node (or [`ALL_NODES`]) from a storage that is not running, or a copy from a mirror for ever.
    /// `EBUSY` while a linear storage runs, or for the last copy in sync.
    RemoveNode,
    6
);
node_ref!(
    /// Ends the waiting on a node that is lost or suspended (or [`ALL_NODES`] that are): its waiting requests fail, and so
    /// do new ones until it is back.
    FailNow,
    7
);

/// [`SetNode::what`]: [`AddNode::timeout_ms`].
pub const SET_TIMEOUT_MS: u32 = 1;
/// [`SetNode::what`]: [`AddNode::keepalive_s`]; counts from the next connection on.
pub const SET_KEEPALIVE_S: u32 = 2;

abi! {
    /// Changes a setting of a node (or of [`ALL_NODES`]) while it runs.
    pub struct SetNode {
        /// Header.
        pub header: Header,
        /// The storage's name.
        pub name: [u8; NAME_LEN],
        /// The node's id, or [`ALL_NODES`].
        pub node: u32,
        /// One of `SET_*`.
        pub what: u32,
        /// Must be zero.
        pub reserved: u32,
        /// The new value.
        pub value: u64,
    }
}
request!(SetNode, 8);

/// [`Export::flags`]: clients can't write.
pub const EXPORT_READ_ONLY: u32 = 1;

abi! {
    /// Exports a local block device: an NBD server in the kernel.
    pub struct Export {
        /// Header.
        pub header: Header,
        /// The export's name; clients may also ask for the empty name.
        pub name: [u8; NAME_LEN],
        /// `EXPORT_*`.
        pub flags: u32,
        /// The path of the block device.
        pub path: [u8; PATH_LEN],
        /// The address to listen on.
        pub address: Address,
        /// Connections that may wait to be accepted; 0: the default (16).
        pub backlog: u32,
        /// Connections at once; 0: the default (16).
        pub max_connections: u32,
        /// Number of valid entries in [`Export::rules`]; 0: every network may connect.
        pub nr_rules: u32,
        /// Must be zero.
        pub reserved: u32,
        /// The networks that may connect.
        pub rules: [Rule; MAX_RULES],
    }
}
request!(Export, 9);

named!(
    /// Ends an export: its clients are disconnected, its device is closed.
    Unexport,
    10
);

// The path is named since the host crate includes this file by its path, and would look beside it.
#[path = "uapi/info.rs"]
mod info;

pub use info::*;

node_ref!(
    /// Lets requests wait that must go to this node of a storage that runs, until [`ResumeNode`]. Others go on.
    SuspendNode,
    14
);
node_ref!(
    /// Ends what [`SuspendNode`] began.
    ResumeNode,
    15
);

/// [`SetStorage::what`]: [`StorageInfo::read_policy`].
pub const SET_READ_POLICY: u32 = 1;
/// [`SetStorage::what`]: [`StorageInfo::heal_min`].
pub const SET_HEAL_MIN: u32 = 2;
/// [`SetStorage::what`]: [`StorageInfo::heal_max`].
pub const SET_HEAL_MAX: u32 = 3;

abi! {
    /// Changes a setting of a storage.
    pub struct SetStorage {
        /// Header.
        pub header: Header,
        /// The storage's name.
        pub name: [u8; NAME_LEN],
        /// `SET_*` of this request.
        pub what: u32,
        /// The new value.
        pub value: u64,
    }
}
request!(SetStorage, 16);

node_ref!(
    /// Ends what [`NODE_REPLACE`] began: this node stays, and the one that was to take its place is dropped. The latter
    /// can be named, too. `ENOENT` if the node is not being replaced.
    CancelReplace,
    17
);

node_ref!(
    /// Gives up what was written on a node alone, a copy of a mirror that runs, which is there but is not taken back for that
    /// reason ([`NodeInfo::conflict`]): it is brought up to date. What that is tells [`NodeInfo::given_up`] afterwards.
    /// `EINVAL` if it is in no such conflict, `EAGAIN` if it can't be looked at now.
    DiscardNode,
    18
);

/// Gives the text of a NUL-padded field; `None` when it is not UTF-8 or has no NUL.
pub fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|byte| *byte == 0)?;
    core::str::from_utf8(field.get(..end)?).ok()
}

/// Puts `text` into a NUL-padded field; `None` when it does not fit or holds a NUL.
pub fn set_text(field: &mut [u8], text: &str) -> Option<()> {
    if text.len() >= field.len() || text.as_bytes().contains(&0) {
        return None;
    }
    field.fill(0);
    field
        .get_mut(..text.len())?
        .copy_from_slice(text.as_bytes());
    Some(())
}

/// Whether `name` can name a storage or an export: it becomes a file in `/dev` and in sysfs.
///
/// 1 to 27 bytes of ASCII letters, digits, `.`, `_` and `-`, a letter or digit first.
pub fn valid_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes.len() < NAME_LEN
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && bytes.first().is_some_and(|b| b.is_ascii_alphanumeric())
}
