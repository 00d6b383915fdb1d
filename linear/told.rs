// SPDX-License-Identifier: GPL-2.0

//! What a node tells of its storage, before anybody knows which one that is.

use kernel::prelude::*;

use crate::{
    alg::Algorithm,
    array::Node,
    block_io::BlockIo,
    failure::{
        Done,
        Failure, //
    },
    superblocks::Superblocks,
};

/// What a node tells of its storage.
pub(crate) struct Told {
    /// The algorithm's name is known here.
    pub(crate) alg: &'static dyn Algorithm,
    /// First sector of the storage that lies on the node.
    pub(crate) start: u64,
    /// Sectors that lie on it.
    pub(crate) size: u64,
    /// Whether they lie on another node, whose place it is to take.
    pub(crate) waits: bool,
}

/// What a node tells of its storage; `None`: nothing that can be understood. Reads from it; sleeps.
pub(crate) fn told(node: &Node, name: &str) -> Done<Option<Told>> {
    let io = BlockIo::new()?;
    let superblocks = Superblocks::read(&io, node)?;
    let Ok(own) = superblocks.newest() else {
        return Ok(None);
    };
    let Some(alg) = crate::alg::find(own.alg()) else {
        return Err(Failure::new(
            EINVAL,
            format_args!(
                "{name} is of a storage of {}, which this version does not know",
                own.alg()
            ),
        ));
    };
    let entry = own.find(own.node());
    Ok(entry.map(|(_, entry)| Told {
        alg,
        start: entry.start,
        size: entry.size,
        waits: own.waits_for().is_some(),
    }))
}
