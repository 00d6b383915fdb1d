// SPDX-License-Identifier: GPL-2.0

//! Giving up what was written on a copy of a mirror alone: what is said before that, and of what is lost.

use dst_core::uapi::DiscardNode;

use crate::control::Control;
use crate::error::{
    Error,
    Result, //
};
use crate::info::{
    self,
    GivenUp,
    Storage, //
};
use crate::operation::{
    Assemble,
    NodeName,
    Which,
    MIRROR_ALG, //
};
use crate::perform::node_ref;
use crate::select::select;
use crate::size::human;
use crate::uri::{
    printable,
    Node, //
};
use crate::world::Context;

/// What `dst status` says of a copy that is not taken back since it is in conflict.
pub(crate) fn note(storage: &Storage, node: &info::Node) -> String {
    format!(
        "'dst add {} {} --discard' gives up all that was written on it alone",
        storage.name,
        printable(node.spelling())
    )
}

/// The commands that put a mirror together whose nodes were written to apart from each other: each of them gives up one
/// more node.
pub(crate) fn commands(spec: &Assemble) -> String {
    let list = |nodes: &[Node], before: &str| {
        let words = nodes.iter().map(|node| format!(" {before}{node}"));
        words.collect::<String>()
    };
    let degraded = if spec.degraded { " --degraded" } else { "" };
    let line = format!(
        "dst assemble {}{}{degraded}{}",
        spec.name,
        list(&spec.nodes, ""),
        list(&spec.discard, "--discard ")
    );
    let others = spec
        .nodes
        .iter()
        .filter(|node| !spec.discard.contains(node));
    let lines: Vec<String> = others
        .map(|node| format!("'{line} --discard {node}'"))
        .collect();
    lines.join(" or ")
}

/// Gives up what was written on a node alone that a mirror has, but does not take back; `false`: it has no such node.
pub(crate) fn of_copy(
    context: &mut Context<'_>,
    control: &dyn Control,
    name: &str,
    node: &Node,
) -> Result<bool> {
    let Some(storage) = info::storage(control, name)? else {
        return Ok(false);
    };
    let which = Which::One {
        node: Some(NodeName::Node(node.clone())),
        start: None,
    };
    let nodes = info::nodes(control, name)?;
    if storage.alg != MIRROR_ALG || storage.mirror.is_none() {
        return Ok(false);
    }
    let Ok(id) = select(context.world, name, &nodes, &which) else {
        return Ok(false);
    };
    node_ref(control, name, id, DiscardNode)?.map_err(|refusal| {
        let why = refusal.explain(|errno| match errno {
            libc::EINVAL => Some("it is in no conflict, nothing needs to be given up".into()),
            libc::EAGAIN => Some("it can't be asked now; try again when it is up".into()),
            _ => None,
        });
        Error::Failed(format!(
            "can't give up what was written on {node} of storage '{name}': {why}"
        ))
    })?;
    context.say(&format!("{name}: {node} is taken back"))?;
    Ok(true)
}

/// Tells what was given up with the nodes of a storage, or with that one.
pub(crate) fn tell(
    context: &mut Context<'_>,
    control: &dyn Control,
    name: &str,
    of: impl Fn(&info::Node) -> bool,
) -> Result {
    for node in info::nodes(control, name)?.iter().filter(|node| of(node)) {
        if let Some(what) = node.given_up {
            // Whoever wants to hear nothing of what was done is to hear of a loss.
            context.remark(&sentence(name, node, what));
        }
    }
    Ok(())
}

/// What was given up with a node.
fn sentence(name: &str, node: &info::Node, what: GivenUp) -> String {
    let lost = match what.bytes {
        None => "all that was written on it alone".into(),
        Some(0) => "nothing, by its log, that was written on it alone".into(),
        Some(bytes) => format!(
            "up to {} that were written on it alone",
            human(bytes as f64)
        ),
    };
    format!(
        "{name}: given up with {}: {lost} (its superblock had generation {})",
        printable(&node.type_text),
        what.generation
    )
}
