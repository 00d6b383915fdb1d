// SPDX-License-Identifier: GPL-2.0

//! Every key of what `--json` prints is described in `docs/json.md`.

mod fake;

use std::collections::BTreeSet;

use dst_command::uevent::Event;
use fake::Fake;
use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/json.md");

/// Collects the keys of all objects.
fn keys(value: &Value, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                all.insert(key.clone());
                keys(value, all);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| keys(value, all)),
        _ => {}
    }
}

#[test]
fn each_key_is_described() {
    let fake = Fake::new();
    fake.ok("dst create m --alg alg_mirror /dev/sdb kano:1025 --start-array");
    fake.ok("dst export disk /dev/sdc");
    let mut all = BTreeSet::new();
    for command in ["status", "list", "stats", "stats --watch 1 --count 1"] {
        let text = fake.ok(&format!("dst {command} --json"));
        keys(&serde_json::from_str(&text).unwrap(), &mut all);
    }
    keys(&serde_json::to_value(Event::default()).unwrap(), &mut all);
    for key in ["seconds_left", "trouble", "per_second", "seqnum"] {
        assert!(all.contains(key), "{key}");
    }
    all.retain(|key| !PAGE.contains(&format!("`{key}`")));
    assert!(all.is_empty(), "not described: {all:?}");
}
