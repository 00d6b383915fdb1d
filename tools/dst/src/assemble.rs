// SPDX-License-Identifier: GPL-2.0

//! Making storages and adding nodes to them.
//!
//! What fails leaves nothing behind: a storage that was made on the way is deleted again.

use std::os::unix::fs::FileTypeExt;

use dst_core::uapi::{
    AddNode,
    Create as CreateRequest,
    Delete,
    AUTO,
    CREATE_METADATA,
    KIND_LOCAL,
    KIND_REMOTE,
    NODE_DISCARD,
    NODE_FORCE,
    NODE_REPLACE,
    START_ASSEMBLE,
    START_DEGRADED,
    START_NEW, //
};

use crate::address::{
    resolve,
    to_module, //
};
use crate::control::{
    call,
    put,
    Control, //
};
use crate::discard;
use crate::error::{
    failed,
    Error,
    Refusal,
    Result, //
};
use crate::info;
use crate::operation::{
    Add,
    Assemble,
    Create,
    NodeOptions,
    Replace,
    DEFAULT_ALG,
    MIRROR_ALG, //
};
use crate::perform::{
    named,
    start, //
};
use crate::size::human_sectors;
use crate::uri::{
    Node,
    Remote, //
};
use crate::world::{
    Context,
    World, //
};

/// `dst create`.
pub(crate) fn create(context: &mut Context<'_>, control: &dyn Control, spec: &Create) -> Result {
    let name = &spec.name;
    let flags = if spec.metadata { CREATE_METADATA } else { 0 };
    request_storage(control, name, &spec.alg, spec.block_size, flags)?.map_err(|refusal| {
        let why = explain_create(&refusal, name, &spec.alg);
        Error::Failed(format!("can't create storage '{name}': {why}"))
    })?;
    match fill(context, control, spec) {
        Ok(done) => {
            context.say(&format!("{name}: created, {}", spec.alg))?;
            done.iter().try_for_each(|text| context.say(text))
        }
        Err(error) => Err(take_down(control, name, error, "created")),
    }
}

/// Deletes a storage that could not be completed. It was made by this call, so nobody else's work is lost.
fn take_down(control: &dyn Control, name: &str, error: Error, done: &str) -> Error {
    let end = match named(control, name, Delete) {
        Ok(()) => format!("; storage '{name}' was not {done}"),
        Err(refusal) => format!(
            "; the unfinished storage '{name}' could not be deleted: {}",
            refusal.explain(|_| None)
        ),
    };
    match error {
        Error::Failed(text) => Error::Failed(text + &end),
        error => error,
    }
}

/// Adds the nodes of a new storage, and starts it; gives what was done.
fn fill(context: &Context<'_>, control: &dyn Control, spec: &Create) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for node in &spec.nodes {
        let place = Place {
            flags: if spec.force { NODE_FORCE } else { 0 },
            ..Place::default()
        };
        done.push(add_node(
            context,
            control,
            &spec.name,
            node,
            &place,
            &spec.options,
        )?);
    }
    if spec.start {
        let flags = if spec.metadata { START_NEW } else { 0 };
        done.push(start(control, &spec.name, flags, String::new)?);
    }
    Ok(done)
}

/// `dst assemble`.
pub(crate) fn assemble(
    context: &mut Context<'_>,
    control: &dyn Control,
    spec: &Assemble,
) -> Result {
    let name = &spec.name;
    // The algorithm is what the nodes say.
    request_storage(control, name, "", 0, CREATE_METADATA)?.map_err(|refusal| {
        let why = refusal.explain(|errno| match errno {
            libc::EEXIST => Some(format!(
                "a storage of that name is there; 'dst start {name}' starts it, 'dst delete {name}' \
                 takes it down (the data on its nodes stay)"
            )),
            _ => None,
        });
        Error::Failed(format!("can't assemble storage '{name}': {why}"))
    })?;
    let done = match gather(context, control, spec) {
        Ok(done) => done,
        Err(error) => return Err(take_down(control, name, error, "assembled")),
    };
    let alg = info::storage(control, name)?.map_or("?".into(), |storage| storage.alg);
    context.say(&format!("{name}: assembled, {alg}"))?;
    done.iter().try_for_each(|text| context.say(text))?;
    discard::tell(context, control, name, |_| true)
}

/// Adds the nodes that are there, and starts the storage that they tell of; gives what was done.
///
/// Whether it can do without a node that is not there is for the module to judge: it sees what the others
/// know of that one.
fn gather(
    context: &mut Context<'_>,
    control: &dyn Control,
    spec: &Assemble,
) -> Result<Vec<String>> {
    let name = &spec.name;
    let mut done = Vec::new();
    for node in &spec.nodes {
        let discard = spec.discard.contains(node);
        let place = Place {
            flags: if discard { NODE_DISCARD } else { 0 },
            ..Place::default()
        };
        match add_node(context, control, name, node, &place, &spec.options) {
            Ok(text) => done.push(text),
            Err(NotAdded {
                error,
                absent: true,
            }) if !discard => context.remark(&format!(
                "{error}; it is left out, 'dst add {name} {node}' adds it when it is back"
            )),
            Err(NotAdded { error, .. }) => return Err(error),
        }
    }
    if done.is_empty() {
        return failed(format!(
            "can't assemble storage '{name}': none of its nodes is there"
        ));
    }
    let degraded = if spec.degraded { START_DEGRADED } else { 0 };
    done.push(start(control, name, START_ASSEMBLE | degraded, || {
        discard::commands(spec)
    })?);
    Ok(done)
}

/// `dst add`: the storage is made if it does not exist.
pub(crate) fn add(context: &mut Context<'_>, control: &dyn Control, spec: &Add) -> Result {
    let name = &spec.name;
    let alg = spec.alg.as_deref().unwrap_or(DEFAULT_ALG);
    let metadata = spec.metadata || alg == MIRROR_ALG;
    let flags = if metadata { CREATE_METADATA } else { 0 };
    let made = match request_storage(control, name, alg, 0, flags)? {
        Ok(()) => true,
        Err(refusal) if refusal.errno == libc::EEXIST => {
            check_alg(control, name, spec.alg.as_deref())?;
            false
        }
        Err(refusal) => {
            let why = explain_create(&refusal, name, alg);
            return failed(format!("can't create storage '{name}': {why}"));
        }
    };
    let place = Place {
        start: spec.start.unwrap_or(AUTO),
        size: spec.size.unwrap_or(AUTO),
        flags: match (spec.force, spec.discard) {
            (true, _) => NODE_FORCE,
            (false, true) => NODE_DISCARD,
            (false, false) => 0,
        },
        replaces: 0,
    };
    for node in &spec.nodes {
        if spec.discard && discard::of_copy(context, control, name, node)? {
            continue;
        }
        match add_node(context, control, name, node, &place, &spec.options) {
            Ok(text) => context.say(&text)?,
            Err(NotAdded { error, .. }) => {
                if made && info::nodes(control, name).is_ok_and(|nodes| nodes.is_empty()) {
                    // The error of the node is what matters; an empty storage that stays does no harm.
                    let _ = named(control, name, Delete);
                }
                return Err(error);
            }
        }
    }
    match spec.discard {
        true => discard::tell(context, control, name, |_| true),
        false => Ok(()),
    }
}

/// `dst replace`: `old` is the id of the node that goes, `text` the same in words.
pub(crate) fn replace(
    context: &mut Context<'_>,
    control: &dyn Control,
    spec: &Replace,
    old: u32,
    text: &str,
) -> Result {
    let force = if spec.force { NODE_FORCE } else { 0 };
    let place = Place {
        flags: NODE_REPLACE | force,
        replaces: old,
        ..Place::default()
    };
    let name = &spec.name;
    let done = add_node(context, control, name, &spec.new, &place, &spec.options)?;
    context.say(&done)?;
    context.say(&format!(
        "{name}: it takes the place of {text} when all data are on it; 'dst status {name}' shows how far that is"
    ))
}

/// Asks the module to make a storage.
fn request_storage(
    control: &dyn Control,
    name: &str,
    alg: &str,
    block_size: u32,
    flags: u32,
) -> Result<std::result::Result<(), Refusal>> {
    let mut request = CreateRequest {
        block_size,
        flags,
        ..CreateRequest::default()
    };
    put(&mut request.name, name)?;
    put(&mut request.alg, alg)?;
    Ok(call(control, &mut request))
}

/// Says why a storage can't be made.
fn explain_create(refusal: &Refusal, name: &str, alg: &str) -> String {
    refusal.explain(|errno| match errno {
        libc::EEXIST => Some(format!(
            "it exists; 'dst add {name} NODE' adds nodes to it, 'dst delete {name}' deletes it"
        )),
        libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP => Some(format!(
            "the module has no algorithm '{alg}', or does not accept the name"
        )),
        _ => None,
    })
}

/// Refuses to add to a storage that has another algorithm than the one that the user named.
fn check_alg(control: &dyn Control, name: &str, alg: Option<&str>) -> Result {
    let (Some(alg), Some(storage)) = (alg, info::storage(control, name)?) else {
        return Ok(());
    };
    if storage.alg == alg {
        return Ok(());
    }
    failed(format!(
        "storage '{name}' exists with the algorithm {}, not {alg}; delete it first, or name that one",
        storage.alg
    ))
}

/// Where a node is put, and how.
struct Place {
    /// Where it begins; [`AUTO`]: behind the node added last.
    start: u64,
    /// How much of it is used; [`AUTO`]: all.
    size: u64,
    /// `NODE_*`.
    flags: u32,
    /// With [`NODE_REPLACE`]: the id of the node that goes.
    replaces: u32,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            start: AUTO,
            size: AUTO,
            flags: 0,
            replaces: 0,
        }
    }
}

/// Why a node was not added.
struct NotAdded {
    /// The reason.
    error: Error,
    /// Whether it is not there at all; it may be back later.
    absent: bool,
}

impl NotAdded {
    /// The same with words put before it.
    fn context(self, before: &str) -> Self {
        Self {
            error: self.error.context(before),
            ..self
        }
    }
}

impl From<Error> for NotAdded {
    fn from(error: Error) -> Self {
        Self {
            error,
            absent: false,
        }
    }
}

impl From<NotAdded> for Error {
    fn from(not_added: NotAdded) -> Self {
        not_added.error
    }
}

/// Adds one node; gives what was done.
fn add_node(
    context: &Context<'_>,
    control: &dyn Control,
    name: &str,
    node: &Node,
    place: &Place,
    options: &NodeOptions,
) -> std::result::Result<String, NotAdded> {
    let mut request = AddNode {
        start: place.start,
        size: place.size,
        timeout_ms: options.timeout_ms,
        connect_ms: options.connect_ms,
        keepalive_s: options.keepalive_s,
        depth: options.depth,
        flags: place.flags,
        replaces: place.replaces,
        ..AddNode::default()
    };
    put(&mut request.name, name)?;
    let result = match node {
        Node::Local(path) => add_local(control, request, path),
        Node::Remote(remote) => add_remote(context.world, control, request, remote),
    };
    let doing = match place.flags & NODE_REPLACE {
        0 => format!("can't add {node} to storage '{name}'"),
        _ => format!("can't replace a node of storage '{name}' by {node}"),
    };
    let id = result.map_err(|error| error.context(&doing))?;
    let nodes = info::nodes(control, name)?;
    let text = match nodes.iter().find(|node| node.id == id) {
        Some(node) => {
            let size = human_sectors(node.sectors);
            match node.role {
                Some(role) => format!("{}, {size}, {role}", node.type_text),
                None => format!("{}, {size} at sector {}", node.type_text, node.start),
            }
        }
        None => node.to_string(),
    };
    Ok(format!("{name}: node {id} added, {text}"))
}

/// Adds a local disk; gives the node's id.
fn add_local(
    control: &dyn Control,
    mut request: AddNode,
    path: &str,
) -> std::result::Result<u32, NotAdded> {
    request.kind = KIND_LOCAL;
    put(&mut request.path, path)?;
    call(control, &mut request).map_err(|refusal| NotAdded {
        error: Error::Failed(
            refusal.explain(|errno| disk_hint(errno, path).or_else(|| node_hint(errno))),
        ),
        absent: matches!(refusal.errno, libc::ENOENT | libc::ENXIO | libc::ENODEV),
    })?;
    Ok(request.node)
}

/// Adds an export of a server, by the first of its addresses that can be connected to; gives the node's id.
fn add_remote(
    world: &dyn World,
    control: &dyn Control,
    mut request: AddNode,
    remote: &Remote,
) -> std::result::Result<u32, NotAdded> {
    request.kind = KIND_REMOTE;
    put(&mut request.path, &remote.export)?;
    let addresses = resolve(world, remote).map_err(|error| NotAdded {
        error,
        absent: true,
    })?;
    let mut errors = Vec::new();
    let mut absent = true;
    for address in &addresses {
        let mut attempt = AddNode {
            address: to_module(*address),
            ..request
        };
        let refusal = match call(control, &mut attempt) {
            Ok(()) => return Ok(attempt.node),
            Err(refusal) => refusal,
        };
        let why = refusal.explain(|errno| match errno {
            libc::ENOENT => Some(format!(
                "the server has no export '{0}'; 'dst discover {1}:{2}' lists what it has",
                remote.export, remote.host, remote.port
            )),
            libc::EPROTO => Some("what listens there does not speak NBD as it should".into()),
            libc::EACCES | libc::EPERM => Some("the server refuses this machine".into()),
            _ => node_hint(errno),
        });
        // One address that the user wrote need not be repeated, nor one that the module named.
        let known = addresses.len() == 1 && address.ip().to_string() == remote.host;
        let shown = address.to_string();
        errors.push(match known || why.starts_with(&shown) {
            true => why,
            false => format!("{shown}: {why}"),
        });
        if !refusal.is_of_address() {
            absent = refusal.errno == libc::ENOENT;
            break;
        }
    }
    Err(NotAdded {
        error: Error::Failed(errors.join("; ")),
        absent,
    })
}

/// What errors of adding a node mean if the module does not explain them.
fn node_hint(errno: i32) -> Option<String> {
    Some(match errno {
        libc::EBUSY => "the storage runs; stop it first ('dst stop'), unless it is a mirror".into(),
        libc::ENOSPC | libc::EFBIG | libc::ERANGE | libc::EOVERFLOW => {
            "the size does not fit: the node is smaller".into()
        }
        libc::EEXIST => {
            "it is a node of a storage already; --force takes it, and that storage loses it".into()
        }
        libc::EINVAL => "start or size does not suit the storage or the node's block size".into(),
        libc::ELOOP | libc::EDEADLK => "the storage would become a part of itself".into(),
        _ => return None,
    })
}

/// What errors of opening a disk mean if the module does not explain them.
pub(crate) fn disk_hint(errno: i32, path: &str) -> Option<String> {
    let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
    match (errno, kind) {
        (libc::ENOENT, Err(_)) => Some("there is no such file".into()),
        (libc::ENOTBLK | libc::EINVAL, Ok(kind)) if kind.is_file() => Some(format!(
            "it is a file, not a block device; 'losetup --find --show {path}' makes a device of it"
        )),
        (libc::ENOTBLK, _) => Some("it is not a block device".into()),
        (libc::EBUSY, Ok(kind)) if kind.is_block_device() => {
            Some("it is in use: mounted, or part of something else".into())
        }
        (libc::EROFS | libc::EACCES, _) => Some("it is read-only".into()),
        _ => None,
    }
}
