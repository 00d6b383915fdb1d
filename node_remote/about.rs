// SPDX-License-Identifier: GPL-2.0

//! How a node is to be reached, and what is shown of it.

use kernel::{
    prelude::*,
    str::CString,
    sync::Arc,
    time::Jiffies, //
};

use crate::{
    hold::Hold,
    kern::net::{
        Addr,
        NetNs, //
    },
    proto::fence::Fence,
    text::Text,
    uapi, //
};

/// Where a remote node is, and how it is to be reached.
pub(crate) struct Config {
    /// The node's number in its storage.
    pub(crate) id: u32,
    /// The storage's name.
    pub(crate) storage: CString,
    /// The server.
    pub(crate) address: Addr,
    /// The NBD export's name.
    pub(crate) export: CString,
    /// The network namespace of who added the node.
    pub(crate) ns: NetNs,
    /// See [`uapi::AddNode::timeout_ms`].
    pub(crate) timeout_ms: u32,
    /// See [`uapi::AddNode::keepalive_s`].
    pub(crate) keepalive_s: u32,
    /// Requests that can be in flight.
    pub(crate) depth: u32,
    /// What the server is told of the storage at first, so that it ends older connections of it.
    pub(crate) fence: Option<Fence>,
    /// Who is told that another head has taken over, if that counts for the whole storage.
    pub(crate) hold: Option<Arc<Hold>>,
}

/// What is shown of the connection; see `uapi::NODE_*`.
pub(crate) struct Shown {
    /// `uapi::NODE_*`.
    pub(crate) state: u32,
    /// Since when.
    pub(crate) since: Jiffies,
    /// Why it is not up, or was lost last.
    pub(crate) reason: Reason,
    /// The first connection has ended in an error that waiting won't mend.
    pub(crate) refused: Option<Error>,
    /// Before the last connection was up, the server has ended what was on older ones.
    pub(crate) fenced: bool,
    /// The connection was lost, and the server was not asked yet whether that is since another head has taken over.
    pub(super) asking: bool,
    /// Epoch of the head that has taken over; 0: none has.
    pub(super) taken_over: u64,
    /// What [`super::Wanted::round`] was for the connection that is up, or was refused.
    pub(super) round: u32,
    /// Nothing of the node is in use any more: its thread may forget it.
    pub(crate) closed: bool,
}

/// What the server is to be told of the storage.
pub(super) struct Wanted {
    /// Who writes for which storage; `None`: nothing is said.
    pub(super) fence: Option<Fence>,
    /// Counts the changes.
    pub(super) round: u32,
}

/// Why a server did not let this head have the storage.
pub(crate) enum Unfenced {
    /// A head of this epoch has it.
    TakenOver(u64),
    /// It could not be reached in time.
    Away(Error, Reason),
}

/// Why a node is not up.
pub(crate) type Reason = Text<96>;

/// A state's name, as sysfs, uevents and the trace have it.
pub(crate) fn state_name(state: u32) -> &'static CStr {
    match state {
        uapi::NODE_UP => c"up",
        uapi::NODE_CONNECTING => c"connecting",
        uapi::NODE_LOST => c"lost",
        uapi::NODE_FAILED => c"failed",
        _ => c"unknown",
    }
}
