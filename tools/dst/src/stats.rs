// SPDX-License-Identifier: GPL-2.0

//! `dst stats`: counters, and with `--watch` rates.

use std::time::Duration;

use dst_core::uapi::valid_name;
use serde::Serialize;

use crate::cli::{
    self,
    StatsArgs, //
};
use crate::error::{
    usage,
    Result, //
};
use crate::info::Counters;
use crate::size::{
    human,
    parse_ms, //
};
use crate::status::{
    node_role,
    node_state,
    write_json,
    Status, //
};
use crate::table::{
    left,
    right,
    styled,
    Cell,
    Style,
    Table, //
};
use crate::world::Context;

/// The counters of one node or export.
#[derive(Clone, Debug, Serialize)]
struct Line {
    /// Name of the storage or of the export.
    name: String,
    /// Id of the node; an export has none.
    node: Option<u32>,
    /// What it is: `R: 192.168.4.80:1025`, `L: /dev/sdb`, or address and disk of an export.
    #[serde(rename = "type")]
    type_text: String,
    /// State of the node, as in `dst status`; an export has none.
    state: Option<&'static str>,
    /// Clients of the export; a node has none.
    clients: Option<u32>,
    /// State or clients for a person, and how that looks.
    #[serde(skip)]
    shown_state: (String, Style),
    /// Role of the node, if it is a copy of a mirror that runs.
    role: Option<&'static str>,
    /// The role for a person, and how it looks.
    #[serde(skip)]
    shown_role: (String, Style),
    /// Requests in flight or waiting.
    in_flight: u32,
    /// Requests that failed.
    errors: u64,
    /// Finished requests and bytes so far.
    total: Counters,
    /// The same for each second since the last look.
    per_second: Option<Rates>,
}

/// Finished requests and bytes for each second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Rates {
    /// Reads.
    reads: f64,
    /// Bytes read.
    read_bytes: f64,
    /// Writes.
    writes: f64,
    /// Bytes written.
    written_bytes: f64,
    /// Flushes.
    flushes: f64,
    /// Discards and write-zeroes.
    discards: f64,
    /// Bytes discarded or zeroed.
    discarded_bytes: f64,
}

impl Rates {
    /// The difference of two looks, for each second between them. A counter that went back belongs to a
    /// new node of the same name: it counts from 0.
    fn between(old: &Counters, new: &Counters, time: Duration) -> Self {
        let seconds = time.as_secs_f64().max(1e-6);
        let rate = |old: u64, new: u64| new.checked_sub(old).unwrap_or(new) as f64 / seconds;
        Self {
            reads: rate(old.reads, new.reads),
            read_bytes: rate(old.read_bytes, new.read_bytes),
            writes: rate(old.writes, new.writes),
            written_bytes: rate(old.written_bytes, new.written_bytes),
            flushes: rate(old.flushes, new.flushes),
            discards: rate(old.discards, new.discards),
            discarded_bytes: rate(old.discarded_bytes, new.discarded_bytes),
        }
    }
}

/// Takes the counters out of a status.
fn lines(status: &Status) -> Vec<Line> {
    let mut lines = Vec::new();
    for storage in &status.storages {
        for node in &storage.nodes {
            lines.push(Line {
                name: storage.name.clone(),
                node: Some(node.id),
                type_text: node.type_text.clone(),
                state: Some(node.state),
                clients: None,
                shown_state: node_state(node),
                role: node.role,
                shown_role: node_role(node),
                in_flight: node.in_flight,
                errors: node.errors,
                total: node.finished,
                per_second: None,
            });
        }
    }
    for export in &status.exports {
        lines.push(Line {
            name: export.name.clone(),
            node: None,
            type_text: format!("{} at {}", export.path, export.address),
            state: None,
            clients: Some(export.clients),
            shown_state: (format!("{} clients", export.clients), Style::Plain),
            role: None,
            shown_role: (String::new(), Style::Plain),
            in_flight: export.in_flight,
            errors: export.errors,
            total: export.finished,
            per_second: None,
        });
    }
    lines
}

/// `dst stats`.
pub fn stats(context: &mut Context<'_>, args: StatsArgs) -> Result {
    let (name, interval) = read_args(&args)?;
    let control = context.open()?;
    let control = control.as_ref();
    let name = name.as_deref();
    let Some(interval) = interval else {
        let lines = lines(&Status::read(control, name)?);
        if args.json {
            return write_json(context, &serde_json::json!({ "stats": lines }));
        }
        let text = render_totals(&lines, context.terminal);
        write!(context.out, "{text}")?;
        return Ok(());
    };
    let mut old = lines(&Status::read(control, name)?);
    let mut then = context.world.now();
    let mut looks = 0;
    loop {
        context.world.sleep(interval);
        let mut new = lines(&Status::read(control, name)?);
        let now = context.world.now();
        let time = now.saturating_sub(then);
        for line in &mut new {
            let before = old
                .iter()
                .find(|old| old.name == line.name && old.node == line.node);
            // What was not there before has no rate yet.
            line.per_second = before.map(|old| Rates::between(&old.total, &line.total, time));
        }
        if args.json {
            let value = serde_json::json!({ "seconds": time.as_secs_f64(), "stats": new });
            writeln!(context.out, "{value}")?;
        } else {
            let clear = if context.terminal { "\x1b[H\x1b[J" } else { "" };
            let text = render_rates(&new, context.terminal);
            write!(context.out, "{clear}{text}")?;
        }
        context.out.flush()?;
        looks += 1;
        if args.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        if !context.terminal && !args.json {
            writeln!(context.out)?;
        }
        (old, then) = (new, now);
    }
}

/// Gives the name and the interval. `--watch storage` has its value optional and takes the name for it;
/// that is put right here.
fn read_args(args: &StatsArgs) -> Result<(Option<String>, Option<Duration>)> {
    let mut name = args.name.clone();
    let interval = match &args.watch {
        None => None,
        Some(text) => match parse_ms(text) {
            Ok(ms) => Some(Duration::from_millis(ms.into())),
            Err(_) if name.is_none() && valid_name(text) && !is_number(text) => {
                name = Some(text.clone());
                Some(Duration::from_secs(1))
            }
            Err(error) => return usage(format!("invalid value '{text}' for '--watch': {error}")),
        },
    };
    match name.as_deref().map(|text| (text, cli::name(text))) {
        Some((text, Err(why))) => usage(format!("invalid value '{text}' for '[NAME]': {why}")),
        _ => Ok((name, interval)),
    }
}

/// Whether it was meant as a time, as no other letter stands in it.
fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// Writes the name of a line: `storage 0`.
fn label(line: &Line) -> String {
    match line.node {
        Some(id) => format!("{} {id}", line.name),
        None => line.name.clone(),
    }
}

/// What is shown when there is nothing to count.
const NOTHING: &str = "There is no node and no export.\n";

/// Whether any line is of a copy of a mirror.
fn has_roles(lines: &[Line]) -> bool {
    lines.iter().any(|line| line.role.is_some())
}

/// A table with a heading, and with a last column for roles if there are any.
fn table(roles: bool, mut heading: Vec<Cell>) -> Table {
    if roles {
        heading.push(left("ROLE"));
    }
    Table::new(heading)
}

/// Totals since the node or the export exists.
fn render_totals(lines: &[Line], colour: bool) -> String {
    if lines.is_empty() {
        return NOTHING.into();
    }
    let roles = has_roles(lines);
    let mut table = table(
        roles,
        vec![
            left("NAME"),
            left("NODE"),
            right("READS"),
            right("READ"),
            right("WRITES"),
            right("WRITTEN"),
            right("FLUSHES"),
            right("DISCARDS"),
            right("IN FLIGHT"),
            right("ERRORS"),
            left("STATE"),
        ],
    );
    for line in lines {
        let total = &line.total;
        let (state, style) = &line.shown_state;
        let mut row = vec![
            left(label(line)),
            left(&line.type_text),
            right(total.reads),
            right(human(total.read_bytes as f64)),
            right(total.writes),
            right(human(total.written_bytes as f64)),
            right(total.flushes),
            right(total.discards),
            right(line.in_flight),
            right(line.errors),
            left(state).style(*style),
        ];
        if roles {
            let (role, style) = &line.shown_role;
            row.push(left(role).style(*style));
        }
        table.row(row);
    }
    table.render(0, colour)
}

/// Rates since the last look, and their sum for each storage of several nodes.
fn render_rates(lines: &[Line], colour: bool) -> String {
    if lines.is_empty() {
        return NOTHING.into();
    }
    let roles = has_roles(lines);
    let mut table = table(
        roles,
        vec![
            left("NAME"),
            left("NODE"),
            right("READ/s"),
            right("READS/s"),
            right("WRITTEN/s"),
            right("WRITES/s"),
            right("FLUSHES/s"),
            right("DISCARDS/s"),
            right("IN FLIGHT"),
            right("ERRORS"),
            left("STATE"),
        ],
    );
    for line in lines {
        let rates = line.per_second.unwrap_or_default();
        let (state, style) = &line.shown_state;
        let mut row = vec![
            left(label(line)),
            left(&line.type_text),
            right(human(rates.read_bytes)),
            right(format!("{:.0}", rates.reads)),
            right(human(rates.written_bytes)),
            right(format!("{:.0}", rates.writes)),
            right(format!("{:.0}", rates.flushes)),
            right(format!("{:.0}", rates.discards)),
            right(line.in_flight),
            right(line.errors),
            left(state).style(*style),
        ];
        if roles {
            let (role, style) = &line.shown_role;
            row.push(left(role).style(*style));
        }
        table.row(row);
    }
    let sum = |field: fn(&Rates) -> f64| -> f64 {
        let nodes = lines.iter().filter(|line| line.node.is_some());
        nodes
            .filter_map(|line| line.per_second.as_ref())
            .map(field)
            .sum()
    };
    let mut text = table.render(0, colour);
    if lines.iter().filter(|line| line.node.is_some()).count() > 1 {
        let total = format!(
            "all nodes: read {}/s in {:.0}/s, written {}/s in {:.0}/s",
            human(sum(|rates| rates.read_bytes)),
            sum(|rates| rates.reads),
            human(sum(|rates| rates.written_bytes)),
            sum(|rates| rates.writes),
        );
        text.push_str(&styled(&total, Style::Bold, colour));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: Option<&str>, watch: Option<&str>) -> StatsArgs {
        StatsArgs {
            name: name.map(String::from),
            watch: watch.map(String::from),
            count: None,
            json: false,
        }
    }

    #[test]
    fn rates() {
        let old = Counters {
            reads: 10,
            read_bytes: 4096,
            writes: 50,
            ..Counters::default()
        };
        let new = Counters {
            reads: 30,
            read_bytes: 8192,
            writes: 5,
            ..Counters::default()
        };
        let rates = Rates::between(&old, &new, Duration::from_secs(2));
        assert_eq!(
            (rates.reads, rates.read_bytes, rates.writes),
            (10.0, 2048.0, 2.5)
        );
    }

    #[test]
    fn watch_takes_no_name_away() {
        let s = Duration::from_secs;
        let read = |name, watch| read_args(&args(name, watch));
        assert_eq!(read(None, None).unwrap(), (None, None));
        assert_eq!(
            read(Some("x"), Some("2")).unwrap(),
            (Some("x".into()), Some(s(2)))
        );
        assert_eq!(
            read(None, Some("x")).unwrap(),
            (Some("x".into()), Some(s(1)))
        );
        assert_eq!(read(None, Some("1")).unwrap(), (None, Some(s(1))));
        assert!(read(Some("x"), Some("y")).is_err());
        assert!(read(None, Some("0")).is_err());
        assert!(read(Some("0"), Some("1")).is_ok());
        assert!(read(Some("/x"), None).is_err());
    }
}
