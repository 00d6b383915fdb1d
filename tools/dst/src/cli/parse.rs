// SPDX-License-Identifier: GPL-2.0

//! Reading the words of a command line that are neither sizes nor nodes to be added.

use dst_core::uapi::{
    valid_name,
    ALG_LEN, //
};

use crate::error::{
    usage,
    Result, //
};
use crate::info;
use crate::operation::{
    NodeName,
    Operation,
    Setting,
    StorageSetting,
    Which,
    DEFAULT_ALG, //
};
use crate::size;
use crate::uri::parse_node;

/// Checks the name of a storage or of an export.
pub fn name(text: &str) -> std::result::Result<String, String> {
    if valid_name(text) {
        return Ok(text.into());
    }
    Err(
        "a name is 1 to 27 ASCII letters, digits, '.', '_' and '-', the first a letter or a digit"
            .into(),
    )
}

/// Checks the name of an algorithm; the module knows which ones there are.
pub fn alg(text: &str) -> std::result::Result<String, String> {
    if !text.is_empty() && text.len() < ALG_LEN && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.into());
    }
    Err(format!(
        "an algorithm has a name of 1 to {} letters, such as {DEFAULT_ALG}",
        ALG_LEN - 1
    ))
}

/// Reads the name of a node that exists.
pub fn which(text: &str) -> std::result::Result<Which, String> {
    if let Ok(id) = text.parse() {
        return Ok(Which::One {
            node: Some(NodeName::Id(id)),
            start: None,
        });
    }
    // As in sysfs; nodes with one START have an index there, and are told apart by id here.
    if let Some(start) = text.strip_prefix("n-").and_then(|rest| rest.parse().ok()) {
        return Ok(Which::One {
            node: None,
            start: Some(start),
        });
    }
    let node = parse_node(text).map_err(|error| {
        format!("{error}; or the node's id that 'dst status' shows, or n-START")
    })?;
    Ok(Which::One {
        node: Some(NodeName::Node(node)),
        start: None,
    })
}

/// What `dst set` can set.
pub(super) const SETTINGS_HELP: &str = "\
Settings of remote nodes:
  timeout=TIME|wait   how long requests wait for the node before they fail; counts at once
  keepalive=TIME      silence after which a connection is given up, 1s to 1h; counts from the
                      next connection on

Settings of a mirror that runs, and of any storage while a node of it is replaced:
  read-policy=POLICY  which copy serves a read: least-pending (that with the fewest requests),
                      local-first, nearest (for disks with heads), round-robin
  heal-min=SIZE       healing (copying to a copy that lacks data) is not slowed below that much
                      a second by other requests; 0: no bound [default: 4M]
  heal-max=SIZE       healing is not faster than that; 0: no bound [default: 0]
They count until the storage is stopped.

Examples:
  dst set storage timeout=30s
  dst set storage kano:10809 timeout=wait keepalive=10
  dst set storage read-policy=local-first heal-min=10M heal-max=200M";

/// The settings, within a sentence.
const SETTINGS: &str = "there are timeout=TIME|wait, keepalive=TIME, read-policy=POLICY, \
                        heal-min=SIZE and heal-max=SIZE";

/// The keys of all settings.
const KEYS: [&str; 5] = [
    "timeout",
    "keepalive",
    "read-policy",
    "heal-min",
    "heal-max",
];

/// One setting.
enum Any {
    /// Of nodes.
    Node(Setting),
    /// Of the storage.
    Storage(StorageSetting),
}

/// Reads a setting.
fn setting(text: &str) -> Result<Any> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let node = |setting| Any::Node(setting);
    let storage = |setting| Any::Storage(setting);
    let read = match key {
        "timeout" => size::parse_timeout(value).map(|ms| node(Setting::TimeoutMs(ms))),
        "keepalive" => size::parse_keepalive(value).map(|s| node(Setting::KeepaliveS(s))),
        "read-policy" => info::parse_policy(value).map(|p| storage(StorageSetting::ReadPolicy(p))),
        "heal-min" => size::parse_rate(value).map(|rate| storage(StorageSetting::HealMin(rate))),
        "heal-max" => size::parse_rate(value).map(|rate| storage(StorageSetting::HealMax(rate))),
        _ => return usage(format!("unknown setting '{text}'; {SETTINGS}")),
    };
    read.or_else(|error| usage(format!("invalid value '{value}' for '{key}': {error}")))
}

/// Reads what stands behind the name in `dst set`: a node, perhaps, and settings.
pub(super) fn settings(name: &str, what: &[String]) -> Result<Vec<Operation>> {
    let mut texts = what;
    let mut node = None;
    if let Some((first, rest)) = what.split_first() {
        if KEYS.contains(&first.as_str()) {
            return usage(format!(
                "'{first}' has no value; write {first}=VALUE: {SETTINGS}"
            ));
        }
        if !first.contains('=') {
            let parsed = which(first)
                .or_else(|error| usage(format!("invalid value '{first}' for '[NODE]': {error}")))?;
            node = Some((first, parsed));
            texts = rest;
        }
    }
    if texts.is_empty() {
        return usage(format!("no setting is given; {SETTINGS}"));
    }
    let (mut of_nodes, mut of_storage) = (Vec::new(), Vec::new());
    for text in texts {
        match (setting(text)?, &node) {
            (Any::Node(setting), _) => of_nodes.push(setting),
            (Any::Storage(setting), None) => of_storage.push(setting),
            (Any::Storage(_), Some((node, _))) => {
                return usage(format!(
                    "'{text}' is a setting of the storage, not of a node; leave '{node}' out"
                ))
            }
        }
    }
    check_rates(&of_storage)?;
    let mut operations = Vec::new();
    if !of_nodes.is_empty() {
        operations.push(Operation::Set {
            name: name.into(),
            which: node.map_or(Which::All, |(_, which)| which),
            settings: of_nodes,
        });
    }
    if !of_storage.is_empty() {
        operations.push(Operation::SetStorage {
            name: name.into(),
            settings: of_storage,
        });
    }
    Ok(operations)
}

/// Refuses bounds of healing that leave nothing between them.
fn check_rates(settings: &[StorageSetting]) -> Result {
    let (mut min, mut max) = (0, 0);
    for setting in settings {
        match *setting {
            StorageSetting::HealMin(rate) => min = rate,
            StorageSetting::HealMax(rate) => max = rate,
            StorageSetting::ReadPolicy(_) => {}
        }
    }
    match max != 0 && min > max {
        true => usage(format!(
            "'heal-min={}' is more than 'heal-max={}'; give a smaller one, or heal-max=0: no bound",
            size::rate_text(min),
            size::rate_text(max)
        )),
        false => Ok(()),
    }
}
