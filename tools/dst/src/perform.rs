// SPDX-License-Identifier: GPL-2.0

//! Carrying out what changes something.

use dst_core::uapi::{
    CancelReplace,
    Delete,
    Export as ExportRequest,
    FailNow,
    Named,
    NodeRef,
    RemoveNode,
    Request,
    ResumeNode,
    SetNode,
    SetStorage,
    Start,
    Stop,
    SuspendNode,
    Unexport,
    ALL_NODES,
    EXPORT_READ_ONLY,
    SET_HEAL_MAX,
    SET_HEAL_MIN,
    SET_KEEPALIVE_S,
    SET_READ_POLICY,
    SET_TIMEOUT_MS,
    START_DEGRADED, //
};

use crate::address::{
    resolve,
    to_module, //
};
use crate::assemble;
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
    Export,
    Operation,
    Setting,
    StorageSetting,
    Targets,
    Which,
    MIRROR_ALG, //
};
use crate::select::select;
use crate::size::{
    human,
    rate_text,
    timeout_text, //
};
use crate::world::Context;

/// Carries operations out, one after the other; ends at the first that fails.
pub fn perform(context: &mut Context<'_>, operations: &[Operation]) -> Result {
    let control = context.open()?;
    let control = control.as_ref();
    for operation in operations {
        match operation {
            Operation::Create(create) => assemble::create(context, control, create)?,
            Operation::Add(add) => assemble::add(context, control, add)?,
            Operation::Assemble(spec) => assemble::assemble(context, control, spec)?,
            Operation::Start(spec) => {
                let flags = if spec.degraded { START_DEGRADED } else { 0 };
                let text = start(control, &spec.name, flags, String::new)?;
                context.say(&text)?;
                discard::tell(context, control, &spec.name, |_| true)?;
            }
            Operation::Stop(name) => {
                named::<Stop>(control, name, Stop)
                    .map_err(|refusal| refused(&refusal, "stop storage", name))?;
                context.say(&format!("{name}: stopped"))?;
            }
            Operation::Delete(targets) => delete(context, control, targets)?,
            Operation::Unexport(targets) => unexport(context, control, targets)?,
            Operation::DeleteEither(name) => delete_either(context, control, name)?,
            Operation::Remove { name, which } => remove(context, control, name, which)?,
            Operation::Replace(spec) => {
                let Meant { id, text, .. } = find(context, control, &spec.name, &spec.which)?;
                assemble::replace(context, control, spec, id, &text)?;
            }
            Operation::CancelReplace { name, which } => {
                cancel_replace(context, control, name, which)?;
            }
            Operation::Export(spec) => export(context, control, spec)?,
            Operation::Set {
                name,
                which,
                settings,
            } => set(context, control, name, which, settings)?,
            Operation::SetStorage { name, settings } => {
                set_storage(context, control, name, settings)?;
            }
            Operation::Suspend { name, which } => suspend(context, control, name, which)?,
            Operation::Resume { name, which } => resume(context, control, name, which)?,
            Operation::FailNow { name, which } => fail_now(context, control, name, which)?,
        }
    }
    Ok(())
}

/// Makes a request that is nothing but a name.
pub(crate) fn named<T: Request>(
    control: &dyn Control,
    name: &str,
    wrap: fn(Named) -> T,
) -> std::result::Result<(), Refusal> {
    named_with(control, name, 0, wrap)
}

/// Makes a request that is nothing but a name and flags.
fn named_with<T: Request>(
    control: &dyn Control,
    name: &str,
    flags: u32,
    wrap: fn(Named) -> T,
) -> std::result::Result<(), Refusal> {
    let mut inner = Named {
        flags,
        ..Named::default()
    };
    if dst_core::uapi::set_text(&mut inner.name, name).is_none() {
        return Err(Refusal {
            errno: libc::EINVAL,
            message: "the name is too long".into(),
        });
    }
    call(control, &mut wrap(inner))
}

/// Puts the refusal of a request that is nothing but a name in words.
pub(crate) fn refused(refusal: &Refusal, what: &str, name: &str) -> Error {
    let why = refusal.explain(|errno| {
        Some(match errno {
            libc::ENOENT if what.ends_with("export") => {
                "there is no export of that name; 'dst list' shows what there is".into()
            }
            libc::ENOENT => {
                "there is no storage of that name; 'dst list' shows what there is".into()
            }
            libc::EBUSY => format!(
                "it is in use; unmount /dev/dst-{name}, and end what else has it open: an export, \
                 another storage, swap"
            ),
            libc::EALREADY => "it is done already".into(),
            libc::EINVAL => {
                "it has no node, or its nodes leave a hole or overlap; see 'dst status'".into()
            }
            libc::ESTALE => "its nodes lack data that other nodes may hold; name these too, or start \
                             without them by --degraded"
                .into(),
            libc::ENOTUNIQ => "its nodes were written to apart from each other; 'dst assemble --discard \
                               NODE' gives up all that was written on NODE alone"
                .into(),
            libc::EEXIST => format!(
                "a node belongs to a storage already; 'dst assemble {name} NODE...' uses it, --force of \
                 'dst create' and 'dst add' takes it"
            ),
            libc::EUCLEAN => "what is written on its nodes does not fit together, or is damaged; the \
                              kernel log says more"
                .into(),
            _ => return None,
        })
    });
    Error::Failed(format!("can't {what} '{name}': {why}"))
}

/// Starts a storage, with `START_*`; gives what was done. `discard`: the commands that resolve a conflict of its nodes.
pub(crate) fn start(
    control: &dyn Control,
    name: &str,
    flags: u32,
    discard: impl Fn() -> String,
) -> Result<String> {
    named_with(control, name, flags, Start).map_err(|refusal| {
        let commands = match refusal.errno {
            libc::ENOTUNIQ => discard(),
            _ => String::new(),
        };
        match (refused(&refusal, "start storage", name), commands.as_str()) {
            (Error::Failed(text), commands) if !commands.is_empty() => {
                Error::Failed(format!("{text}: {commands}"))
            }
            (error, _) => error,
        }
    })?;
    let mut text = format!("{name}: started, /dev/dst-{name}");
    if let Some(storage) = info::storage(control, name)? {
        text.push_str(&format!(", {}", human(storage.size as f64)));
        if let Some(health) = storage.health {
            text.push_str(&format!(", {health}"));
        }
    }
    Ok(text)
}

/// Deletes storages. With `--all`, one that is in use is tried again after another one went: storages and
/// exports can stand on each other.
fn delete(context: &mut Context<'_>, control: &dyn Control, targets: &Targets) -> Result {
    let mut left = match targets {
        Targets::Names(names) => {
            for name in names {
                named(control, name, Delete)
                    .map_err(|refusal| refused(&refusal, "delete storage", name))?;
                context.say(&format!("storage '{name}' deleted"))?;
            }
            return Ok(());
        }
        Targets::All => info::storages(control)?,
    };
    loop {
        let before = left.len();
        let mut first_error = None;
        let mut still = Vec::new();
        for storage in left {
            match named(control, &storage.name, Delete) {
                Ok(()) => context.say(&format!("storage '{}' deleted", storage.name))?,
                // Somebody else deleted it.
                Err(refusal) if refusal.errno == libc::ENOENT => {}
                Err(refusal) => {
                    let error = refused(&refusal, "delete storage", &storage.name);
                    first_error.get_or_insert(error);
                    still.push(storage);
                }
            }
        }
        match first_error {
            None => return Ok(()),
            Some(error) if still.len() == before => return Err(error),
            Some(_) => left = still,
        }
    }
}

/// Ends exports.
fn unexport(context: &mut Context<'_>, control: &dyn Control, targets: &Targets) -> Result {
    let (names, all) = match targets {
        Targets::Names(names) => (names.clone(), false),
        Targets::All => (
            info::exports(control)?
                .into_iter()
                .map(|e| e.name)
                .collect(),
            true,
        ),
    };
    for name in &names {
        match named(control, name, Unexport) {
            Ok(()) => context.say(&format!("export '{name}' ended"))?,
            Err(refusal) if all && refusal.errno == libc::ENOENT => {}
            Err(refusal) => return Err(refused(&refusal, "end the export", name)),
        }
    }
    Ok(())
}

/// `-D` of the original form: the storage of that name, or else the export.
fn delete_either(context: &mut Context<'_>, control: &dyn Control, name: &str) -> Result {
    match named(control, name, Delete) {
        Ok(()) => {
            context.say(&format!("storage '{name}' deleted"))?;
            if info::exports(control)?.iter().any(|e| e.name == name) {
                context.remark(&format!(
                    "the export '{name}' stays; 'dst unexport {name}' ends it"
                ));
            }
            Ok(())
        }
        Err(refusal) if refusal.errno == libc::ENOENT => match named(control, name, Unexport) {
            Ok(()) => context.say(&format!("export '{name}' ended")),
            Err(refusal) if refusal.errno == libc::ENOENT => failed(format!(
                "there is neither a storage nor an export '{name}'; 'dst list' shows what there is"
            )),
            Err(refusal) => Err(refused(&refusal, "end the export", name)),
        },
        Err(refusal) => Err(refused(&refusal, "delete storage", name)),
    }
}

/// A node that the user meant, or all of them.
struct Meant {
    /// Its id, or [`ALL_NODES`].
    id: u32,
    /// The same in words.
    text: String,
    /// Whether requests for it wait, or fail, until it is resumed.
    suspended: bool,
    /// Its storage.
    storage: info::Storage,
}

/// Finds the node that is meant.
fn find(context: &Context<'_>, control: &dyn Control, name: &str, which: &Which) -> Result<Meant> {
    let Some(storage) = info::storage(control, name)? else {
        return failed(format!(
            "there is no storage '{name}'; 'dst list' shows what there is"
        ));
    };
    let nodes = info::nodes(control, name)?;
    let id = select(context.world, name, &nodes, which)?;
    let node = nodes.iter().find(|node| node.id == id);
    let text = match node {
        Some(node) => format!("node {id} ({})", node.type_text),
        None => "all nodes".into(),
    };
    let suspended = node.is_some_and(|node| node.suspended);
    Ok(Meant {
        id,
        text,
        suspended,
        storage,
    })
}

/// Makes a request that is nothing but a node.
pub(crate) fn node_ref<T: Request>(
    control: &dyn Control,
    name: &str,
    node: u32,
    wrap: fn(NodeRef) -> T,
) -> Result<std::result::Result<(), Refusal>> {
    let mut inner = NodeRef {
        node,
        ..NodeRef::default()
    };
    put(&mut inner.name, name)?;
    Ok(call(control, &mut wrap(inner)))
}

/// Removes nodes.
fn remove(context: &mut Context<'_>, control: &dyn Control, name: &str, which: &Which) -> Result {
    let Meant {
        id, text, storage, ..
    } = find(context, control, name, which)?;
    node_ref(control, name, id, RemoveNode)?.map_err(|refusal| {
        let why = refusal.explain(|errno| match errno {
            libc::EBUSY if storage.alg == MIRROR_ALG => Some(format!(
                "no other copy holds all data; see 'dst status {name}'"
            )),
            libc::EBUSY => Some(format!("the storage runs; 'dst stop {name}' first")),
            _ => None,
        });
        Error::Failed(format!("can't remove {text} of storage '{name}': {why}"))
    })?;
    context.say(&format!("{name}: {text} removed"))
}

/// Ends a replacement.
fn cancel_replace(
    context: &mut Context<'_>,
    control: &dyn Control,
    name: &str,
    which: &Which,
) -> Result {
    let Meant { id, text, .. } = find(context, control, name, which)?;
    node_ref(control, name, id, CancelReplace)?.map_err(|refusal| {
        let why = refusal.explain(|errno| match errno {
            libc::ENOENT => Some("it is not being replaced".into()),
            libc::EBUSY => Some(format!(
                "the new node alone holds all data; see 'dst status {name}'"
            )),
            _ => None,
        });
        Error::Failed(format!(
            "can't cancel the replacement of {text} of storage '{name}': {why}"
        ))
    })?;
    context.say(&format!("{name}: replacement cancelled"))
}

/// Lets requests wait that must go to a node.
fn suspend(context: &mut Context<'_>, control: &dyn Control, name: &str, which: &Which) -> Result {
    let Meant {
        id, text, storage, ..
    } = find(context, control, name, which)?;
    node_ref(control, name, id, SuspendNode)?.map_err(|refusal| {
        let why = refusal.explain(|errno| cannot_suspend(errno, &storage));
        Error::Failed(format!("can't suspend {text} of storage '{name}': {why}"))
    })?;
    context.say(&format!(
        "{name}: {text} suspended; 'dst resume {name} {id}' ends that"
    ))
}

/// Ends what [`suspend`] began.
fn resume(context: &mut Context<'_>, control: &dyn Control, name: &str, which: &Which) -> Result {
    let Meant {
        id, text, storage, ..
    } = find(context, control, name, which)?;
    node_ref(control, name, id, ResumeNode)?.map_err(|refusal| {
        let why = refusal.explain(|errno| match errno {
            libc::EALREADY => Some("it is not suspended".into()),
            _ => cannot_suspend(errno, &storage),
        });
        Error::Failed(format!("can't resume {text} of storage '{name}': {why}"))
    })?;
    context.say(&format!("{name}: {text} resumed"))
}

/// What errors of suspending a node mean if the module does not explain them.
fn cannot_suspend(errno: i32, storage: &info::Storage) -> Option<String> {
    match errno {
        libc::EALREADY => Some("it is suspended already".into()),
        libc::EINVAL | libc::EOPNOTSUPP => Some(format!(
            "the storage does not run; 'dst start {0}' first",
            storage.name
        )),
        _ => None,
    }
}

/// Ends the waiting on nodes that are lost or suspended.
fn fail_now(context: &mut Context<'_>, control: &dyn Control, name: &str, which: &Which) -> Result {
    let meant = find(context, control, name, which)?;
    let Meant { id, text, .. } = &meant;
    node_ref(control, name, *id, FailNow)?.map_err(|refusal| {
        let why = refusal.explain(|errno| match errno {
            libc::EINVAL => Some("it is neither lost nor suspended".into()),
            libc::EOPNOTSUPP => Some("a local disk is never waited for".into()),
            _ => None,
        });
        Error::Failed(format!(
            "can't end the waiting on {text} of storage '{name}': {why}"
        ))
    })?;
    context.say(&match *id {
        ALL_NODES => format!(
            "{name}: nothing waits for nodes that are lost or suspended any more, until they are back"
        ),
        _ if meant.suspended => {
            format!("{name}: nothing waits for {text} any more, until it is resumed")
        }
        _ => format!("{name}: nothing waits for {text} any more, until it is back"),
    })
}

/// Changes settings of nodes.
fn set(
    context: &mut Context<'_>,
    control: &dyn Control,
    name: &str,
    which: &Which,
    settings: &[Setting],
) -> Result {
    let Meant { id, text, .. } = find(context, control, name, which)?;
    for setting in settings {
        let (what, value, words) = match *setting {
            Setting::TimeoutMs(ms) => (SET_TIMEOUT_MS, ms, format!("timeout={}", timeout_text(ms))),
            Setting::KeepaliveS(s) => (SET_KEEPALIVE_S, s, format!("keepalive={s}s")),
        };
        let mut request = SetNode {
            node: id,
            what,
            value: value.into(),
            ..SetNode::default()
        };
        put(&mut request.name, name)?;
        call(control, &mut request).map_err(|refusal| {
            let why = refusal.explain(|errno| match errno {
                libc::EINVAL => Some("the module does not accept that value".into()),
                libc::EOPNOTSUPP => Some("a local disk has no such setting".into()),
                _ => None,
            });
            Error::Failed(format!(
                "can't set {words} for {text} of storage '{name}': {why}"
            ))
        })?;
        context.say(&format!("{name}: {words} for {text}"))?;
    }
    Ok(())
}

/// Changes settings of a storage.
fn set_storage(
    context: &mut Context<'_>,
    control: &dyn Control,
    name: &str,
    settings: &[StorageSetting],
) -> Result {
    for (setting, asked) in in_order(settings) {
        let (what, value, words) = match setting {
            StorageSetting::ReadPolicy(policy) => (
                SET_READ_POLICY,
                policy.into(),
                format!("read-policy={}", info::policy_text(policy)),
            ),
            StorageSetting::HealMin(rate) => {
                (SET_HEAL_MIN, rate, format!("heal-min={}", rate_text(rate)))
            }
            StorageSetting::HealMax(rate) => {
                (SET_HEAL_MAX, rate, format!("heal-max={}", rate_text(rate)))
            }
        };
        let mut request = SetStorage {
            what,
            value,
            ..SetStorage::default()
        };
        put(&mut request.name, name)?;
        call(control, &mut request).map_err(|refusal| {
            let why = refusal.explain(|errno| match errno {
                libc::ENOENT => {
                    Some("there is no storage of that name; 'dst list' shows what there is".into())
                }
                libc::EINVAL => Some(
                    "the module does not accept that value; heal-min must not be above heal-max"
                        .into(),
                ),
                libc::EOPNOTSUPP => Some(format!("only a mirror ({MIRROR_ALG}) has that setting")),
                _ => None,
            });
            Error::Failed(format!("can't set {words} for storage '{name}': {why}"))
        })?;
        if asked {
            context.say(&format!("{name}: {words}"))?;
        }
    }
    Ok(())
}

/// The settings in an order in which the module takes them: between two of them the minimum must not be above the
/// maximum, whatever both were before. With each whether it was asked for.
fn in_order(settings: &[StorageSetting]) -> Vec<(StorageSetting, bool)> {
    let is_min = |setting: &StorageSetting| matches!(setting, StorageSetting::HealMin(_));
    let is_max = |setting: &StorageSetting| matches!(setting, StorageSetting::HealMax(_));
    let mut ordered: Vec<_> = settings.iter().map(|setting| (*setting, true)).collect();
    if settings.iter().any(is_min) && settings.iter().any(is_max) {
        // No minimum is below each maximum.
        ordered.insert(0, (StorageSetting::HealMin(0), false));
        ordered.sort_by_key(|(setting, asked)| *asked && is_min(setting));
    }
    ordered
}

/// Exports a disk.
fn export(context: &mut Context<'_>, control: &dyn Control, spec: &Export) -> Result {
    let doing = format!("can't export {} as '{}'", spec.disk, spec.name);
    let addresses = resolve(context.world, &spec.listen).map_err(|error| error.context(&doing))?;
    let Some(address) = addresses.first().copied() else {
        return failed(format!("{doing}: '{}' has no address", spec.listen.host));
    };
    let mut request = ExportRequest {
        flags: if spec.read_only { EXPORT_READ_ONLY } else { 0 },
        address: to_module(address),
        backlog: spec.backlog,
        max_connections: spec.max_connections,
        nr_rules: spec.allow.len() as u32,
        ..ExportRequest::default()
    };
    put(&mut request.name, &spec.name)?;
    put(&mut request.path, &spec.disk)?;
    for (rule, network) in request.rules.iter_mut().zip(&spec.allow) {
        *rule = network.to_rule();
    }
    call(control, &mut request).map_err(|refusal| {
        let why = refusal.explain(|errno| match errno {
            libc::EEXIST => Some(format!(
                "there is an export of that name; end it with 'dst unexport {}', or choose another name",
                spec.name
            )),
            libc::EADDRINUSE => Some(format!(
                "{address} is taken by another program; choose another port"
            )),
            _ => assemble::disk_hint(errno, &spec.disk),
        });
        Error::Failed(format!("{doing}: {why}"))
    })?;
    let access = if spec.read_only { ", read-only" } else { "" };
    context.say(&format!(
        "{} exported as '{}' at {address}{access}",
        spec.disk, spec.name
    ))
}
