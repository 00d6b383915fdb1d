// SPDX-License-Identifier: GPL-2.0

//! Finding the node that the user means among those that a storage has.

use std::fs::canonicalize;
use std::net::SocketAddr;

use dst_core::uapi::ALL_NODES;

use crate::address::resolve;
use crate::error::{
    failed,
    Result, //
};
use crate::info;
use crate::operation::{
    NodeName,
    Which, //
};
use crate::uri::{
    printable,
    Node,
    Remote, //
};
use crate::world::World;

/// Gives the id of the one node that is meant, or [`ALL_NODES`].
pub fn select(
    world: &dyn World,
    storage: &str,
    nodes: &[info::Node],
    which: &Which,
) -> Result<u32> {
    let Which::One { node, start } = which else {
        return Ok(ALL_NODES);
    };
    let mut found: Vec<&info::Node> = nodes
        .iter()
        .filter(|candidate| start.is_none_or(|start| candidate.start == start))
        .collect();
    match node {
        None => {}
        Some(NodeName::Id(id)) => found.retain(|candidate| candidate.id == *id),
        Some(NodeName::Node(Node::Local(path))) => {
            found.retain(|candidate| is_disk(candidate, path));
        }
        Some(NodeName::Node(Node::Remote(remote))) => keep_remote(world, &mut found, remote)?,
    }
    match found.as_slice() {
        [one] => Ok(one.id),
        [] if nodes.is_empty() => failed(format!("storage '{storage}' has no node")),
        [] => failed(format!(
            "storage '{storage}' has no such node; it has {}",
            listed(nodes.iter())
        )),
        several => failed(format!(
            "that can be more than one node of storage '{storage}': {}; name it by its id",
            listed(several.iter().copied())
        )),
    }
}

/// Lists nodes within a sentence.
fn listed<'a>(nodes: impl Iterator<Item = &'a info::Node>) -> String {
    let texts: Vec<String> = nodes
        .map(|node| {
            let type_text = printable(&node.type_text);
            format!("{} ({type_text} at sector {})", node.id, node.start)
        })
        .collect();
    texts.join(", ")
}

/// Whether `node` is the disk at `path`, by whatever name it was added.
fn is_disk(node: &info::Node, path: &str) -> bool {
    let Some(own) = node.path.as_deref() else {
        return false;
    };
    own == path
        || match (canonicalize(own), canonicalize(path)) {
            (Ok(own), Ok(path)) => own == path,
            _ => false,
        }
}

/// Keeps the nodes that are on the server, and of these the ones with the export's name. The empty name
/// means any export if none was added by the empty name.
fn keep_remote(world: &dyn World, found: &mut Vec<&info::Node>, remote: &Remote) -> Result {
    let addresses = resolve(world, remote)?;
    found.retain(|node| {
        let address = node.address.as_deref().and_then(|text| text.parse().ok());
        address.is_some_and(|own: SocketAddr| {
            // A scope is written as a name or a number, or left out; port and address decide.
            addresses
                .iter()
                .any(|address| address.ip() == own.ip() && address.port() == own.port())
        })
    });
    let is_named = |node: &info::Node| node.export.as_deref() == Some(&remote.export);
    if !remote.export.is_empty() || found.iter().any(|node| is_named(node)) {
        found.retain(|node| is_named(node));
    }
    Ok(())
}
