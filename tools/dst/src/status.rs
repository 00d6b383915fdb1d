// SPDX-License-Identifier: GPL-2.0

//! `dst status` and `dst list`.

use serde::Serialize;

use crate::control::Control;
use crate::discard;
use crate::error::{
    failed,
    Result, //
};
use crate::info::{
    self,
    Export,
    Mirror,
    Node,
    Storage, //
};
use crate::operation::MIRROR_ALG;
use crate::size::{
    human,
    human_ms,
    human_sectors,
    timeout_text, //
};
use crate::table::{
    left,
    right,
    styled,
    Style,
    Table, //
};
use crate::uri::printable;
use crate::world::Context;

/// All that there is.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Storages with their nodes.
    pub storages: Vec<Storage>,
    /// Exports.
    pub exports: Vec<Export>,
}

impl Status {
    /// Reads everything, or only what has the name.
    pub fn read(control: &dyn Control, name: Option<&str>) -> Result<Self> {
        let is_meant = |own: &str| name.is_none_or(|name| name == own);
        let mut storages = info::storages(control)?;
        storages.retain(|storage| is_meant(&storage.name));
        for storage in &mut storages {
            storage.nodes = info::nodes(control, &storage.name)?;
        }
        let mut exports = info::exports(control)?;
        exports.retain(|export| is_meant(&export.name));
        match name {
            Some(name) if storages.is_empty() && exports.is_empty() => failed(format!(
                "there is neither a storage nor an export '{name}'; 'dst list' shows what there is"
            )),
            _ => Ok(Self { storages, exports }),
        }
    }
}

/// Writes a value as JSON for people and programs.
pub fn write_json(context: &mut Context<'_>, value: &impl Serialize) -> Result {
    // The types here can't fail to be put into JSON: no map with keys that are no text.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    writeln!(context.out, "{text}")?;
    Ok(())
}

/// `dst status`.
pub fn status(context: &mut Context<'_>, name: Option<&str>, json: bool) -> Result {
    let control = context.open()?;
    let status = Status::read(control.as_ref(), name)?;
    if json {
        return write_json(context, &status);
    }
    let text = render(&status, context.terminal);
    write!(context.out, "{text}")?;
    Ok(())
}

/// `dst list`.
pub fn list(context: &mut Context<'_>, json: bool) -> Result {
    let control = context.open()?;
    let control = control.as_ref();
    let storages = info::storages(control)?.into_iter().map(|s| s.name);
    let exports = info::exports(control)?.into_iter().map(|e| e.name);
    let (storages, exports): (Vec<_>, Vec<_>) = (storages.collect(), exports.collect());
    if json {
        let value = serde_json::json!({ "storages": storages, "exports": exports });
        return write_json(context, &value);
    }
    for (kind, names) in [("storage", storages), ("export", exports)] {
        for name in names {
            writeln!(context.out, "{kind} {}", printable(&name))?;
        }
    }
    Ok(())
}

/// Puts a status into the form that a person reads.
pub fn render(status: &Status, colour: bool) -> String {
    let mut parts: Vec<String> = status
        .storages
        .iter()
        .map(|storage| render_storage(storage, colour))
        .collect();
    if !status.exports.is_empty() {
        parts.push(render_exports(&status.exports, colour));
    }
    match parts.is_empty() {
        true => "There is no storage and no export. 'dst create', 'dst add' and 'dst export' make \
                 them; dst(8) has examples.\n"
            .into(),
        false => parts.join("\n"),
    }
}

/// Where the column of roles stands: behind that of states.
const ROLE_COLUMN: usize = 6;

/// One storage with its nodes.
fn render_storage(storage: &Storage, colour: bool) -> String {
    let style = match storage.state {
        "running" => Style::Good,
        _ => Style::Warn,
    };
    let mut head = vec![
        styled(&printable(&storage.name), Style::Bold, colour),
        styled(storage.state, style, colour),
        printable(&storage.alg),
        human(storage.size as f64),
    ];
    if let (Some(device), Some(block)) = (&storage.device, storage.block_size) {
        head.push(printable(device));
        head.push(format!("{block}-byte blocks"));
        head.push(match storage.openers {
            0 => "not open".into(),
            1 => "open".into(),
            times => format!("open {times} times"),
        });
    }
    let mut text = format!("{}\n", head.join("  "));
    if let Some((line, style)) = health_line(storage) {
        text.push_str(&format!("  {}\n", styled(&line, style, colour)));
    }
    if storage.nodes.is_empty() {
        text.push_str(&format!(
            "  no node yet; 'dst add {} NODE' adds one\n",
            storage.name
        ));
        return text;
    }
    let mut heading = vec![
        right("ID"),
        left("NODE"),
        right("START"),
        right("SECTORS"),
        right("SIZE"),
        left("STATE"),
        right("IN FLIGHT"),
        right("ERRORS"),
        right("RECONNECTS"),
    ];
    let roles = storage.nodes.iter().any(|node| node.role.is_some());
    if roles {
        heading.insert(ROLE_COLUMN, left("ROLE"));
    }
    let mut table = Table::new(heading);
    for node in &storage.nodes {
        let (state, style) = node_state(node);
        let errors = match node.errors {
            0 => Style::Plain,
            _ => Style::Bad,
        };
        let mut row = vec![
            right(node.id),
            left(&node.type_text),
            right(node.start),
            right(node.sectors),
            right(human_sectors(node.sectors)),
            left(state).style(style),
            right(node.in_flight),
            right(node.errors).style(errors),
            right(node.reconnects),
        ];
        if roles {
            let (role, style) = node_role(node);
            row.insert(ROLE_COLUMN, left(role).style(style));
        }
        table.row(row);
        if let Some(note) = node_note(storage, node) {
            table.note(&note, style);
        }
        if let Some(trouble) = &node.trouble {
            table.note(trouble, Style::Bad);
        }
        if node.conflict {
            table.note(&discard::note(storage, node), Style::Bad);
        }
        if let Some(note) = replace_note(storage, node) {
            table.note(&note, Style::Warn);
        }
        if node.suspended {
            let what = match node.suspended_failing {
                true => "requests fail, as the waiting was ended",
                false => "what must go to it waits",
            };
            let note = format!(
                "suspended: {what}; 'dst resume {} {}' ends that",
                storage.name, node.id
            );
            table.note(&note, Style::Warn);
        }
    }
    text.push_str(&table.render(2, colour));
    text
}

/// The state of a node, and how it looks.
pub fn node_state(node: &Node) -> (String, Style) {
    let style = match node.state {
        "up" => return ("up".into(), Style::Good),
        "connecting" => Style::Warn,
        _ => Style::Bad,
    };
    (format!("{} {}", node.state, human_ms(node.since_ms)), style)
}

/// The role of a copy, and how it looks.
pub fn node_role(node: &Node) -> (String, Style) {
    let (role, style) = match node.role {
        None => return (String::new(), Style::Plain),
        Some("in-sync") => ("in sync".into(), Style::Good),
        Some("healing") => (format!("healing {} %", percent(node)), Style::Warn),
        Some(other) => (other.to_string(), Style::Bad),
    };
    match node.suspended {
        true => (format!("{role}, suspended"), Style::Warn),
        false => (role, style),
    }
}

/// How much of its data a node has, in percent; 100 only if it lacks nothing.
fn percent(node: &Node) -> u64 {
    if node.stale == 0 {
        return 100;
    }
    let has = u128::from(node.size.saturating_sub(node.stale));
    let percent = (has * 100).checked_div(node.size.into());
    percent.map_or(0, |percent| percent as u64)
}

/// How a mirror that runs is, and how that looks.
fn health_line(storage: &Storage) -> Option<(String, Style)> {
    let health = storage.health?;
    if health == "taken-over" {
        return Some((
            format!(
                "taken over by another machine: all requests fail; 'dst delete {}' ends it here, the data \
                 are there",
                storage.name
            ),
            Style::Bad,
        ));
    }
    let mirror = storage.mirror.as_ref()?;
    let style = match health {
        "healthy" => Style::Good,
        "healing" => Style::Warn,
        _ => Style::Bad,
    };
    if storage.alg != MIRROR_ALG {
        // A node is being replaced.
        let text = healing_text(mirror).replace("healing", "replacing:");
        return Some((text, style));
    }
    let count = |role: Option<&str>| {
        let nodes = storage.nodes.iter();
        nodes
            .filter(|node| node.role.is_some() && role.is_none_or(|role| node.role == Some(role)))
            .count()
    };
    let (in_sync, all) = (count(Some("in-sync")), count(None));
    let copies = match health == "degraded" && in_sync == all {
        true => format!(
            "{in_sync} {} in sync, another one is not here; 'dst add {} NODE' adds it",
            if in_sync == 1 { "copy" } else { "copies" },
            storage.name
        ),
        false => format!("{in_sync} of {all} copies in sync"),
    };
    let healing = count(Some("healing")) != 0;
    let mut parts = vec![];
    if health != "healing" {
        parts.extend([health.to_string(), copies.clone()]);
    }
    if healing || health == "healing" {
        parts.push(healing_text(mirror));
    }
    if health == "healing" {
        parts.push(copies);
    }
    Some((parts.join(", "), style))
}

/// How far healing is.
fn healing_text(mirror: &Mirror) -> String {
    let left = mirror.healing_left;
    let left_time = match mirror.seconds_left {
        Some(seconds) => format!("{} left", human_ms(seconds.saturating_mul(1000))),
        None => "time left unknown".into(),
    };
    format!(
        "healing {} of {}, {}/s, {left_time}",
        human(mirror.healing_done as f64),
        human(mirror.healing_done.saturating_add(left) as f64),
        human(mirror.heal_rate as f64)
    )
}

/// What there is to say about a node that is not up, and what can be done.
fn node_note(storage: &Storage, node: &Node) -> Option<String> {
    let what = match (node.state, node.role, node.timeout_ms) {
        ("up", _, _) => return None,
        (_, Some("missing"), _) => match node.stale {
            0 => "it is brought up to date when it is back".into(),
            bytes => format!(
                "it lacks up to {}, which are copied to it when it is back",
                human(bytes as f64)
            ),
        },
        (_, Some("healing"), _) => "healing goes on when it is back".into(),
        ("failed", _, _) => "requests fail until it is back".into(),
        (_, _, 0) => format!(
            "requests wait until it is back; 'dst fail-now {} {}' ends the waiting",
            storage.name, node.id
        ),
        (_, _, ms) => format!("requests wait for {}, then fail", timeout_text(ms)),
    };
    Some(match node.reason.as_str() {
        "" => what,
        reason => format!("{reason}; {what}"),
    })
}

/// What there is to say about a node that takes the place of another one.
fn replace_note(storage: &Storage, node: &Node) -> Option<String> {
    let old = node.replaces?;
    if storage.device.is_none() {
        return Some(format!(
            "waits to take the place of node {old}; 'dst start {}' goes on with that",
            storage.name
        ));
    }
    Some(format!(
        "takes the place of node {old} when it is in sync; 'dst replace {} {} --cancel' ends that",
        storage.name, node.id
    ))
}

/// All exports.
fn render_exports(exports: &[Export], colour: bool) -> String {
    let mut table = Table::new(vec![
        left("EXPORT"),
        left("ADDRESS"),
        left("DEVICE"),
        right("SIZE"),
        left("ACCESS"),
        right("CLIENTS"),
        right("IN FLIGHT"),
        right("ERRORS"),
        left("NETWORKS"),
    ]);
    for export in exports {
        let errors = match export.errors {
            0 => Style::Plain,
            _ => Style::Bad,
        };
        table.row(vec![
            left(&export.name).style(Style::Bold),
            left(&export.address),
            left(&export.path),
            right(human(export.size as f64)),
            left(if export.read_only { "ro" } else { "rw" }),
            right(format!("{}/{}", export.clients, export.max_clients)),
            right(export.in_flight),
            right(export.errors).style(errors),
            left(match export.allow.is_empty() {
                true => "all".into(),
                false => export.allow.join(", "),
            }),
        ]);
    }
    table.render(0, colour)
}
