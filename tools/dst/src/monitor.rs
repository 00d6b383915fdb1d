// SPDX-License-Identifier: GPL-2.0

//! `dst monitor`: what happens to storages and nodes, one line for each event.

use std::time::Duration;

use crate::cli::MonitorArgs;
use crate::error::{
    failed,
    Result, //
};
use crate::size::human_ms;
use crate::uevent::{
    date,
    Event,
    Heard, //
};
use crate::uri::printable;
use crate::world::Context;

/// `dst monitor`. The module need not be loaded yet.
pub fn monitor(context: &mut Context<'_>, args: &MonitorArgs) -> Result {
    let mut uevents = context.world.listen()?;
    if !context.quiet {
        context.remark("listening");
    }
    let limit = args.timeout.map(|ms| Duration::from_millis(ms.into()));
    let end = limit.map(|limit| context.world.now().saturating_add(limit));
    let mut seen = 0;
    while args.count.is_none_or(|count| seen < count) {
        let left = end.map(|end| end.saturating_sub(context.world.now()));
        if left.is_some_and(|left| left.is_zero()) {
            return in_time(args, seen);
        }
        let event = match uevents.next(left)? {
            Heard::Nothing => continue,
            Heard::Lost => Event {
                action: "overrun".into(),
                ..Event::default()
            },
            Heard::Message(message) => match Event::read(&message) {
                Some(event) if args.name.is_none() || args.name == event.storage => {
                    seen += 1;
                    event
                }
                _ => continue,
            },
        };
        print(context, event, args.json)?;
    }
    Ok(())
}

/// Writes one event, so that a reader has it at once.
fn print(context: &mut Context<'_>, mut event: Event, json: bool) -> Result {
    event.time = date(context.world.date());
    match json {
        // It can't fail: the keys of its map are text.
        true => {
            let text = serde_json::to_string(&event).unwrap_or_default();
            writeln!(context.out, "{text}")?;
        }
        false => {
            let sentence = printable(&event.sentence());
            writeln!(context.out, "{}  {sentence}", event.time)?;
        }
    }
    context.out.flush()?;
    Ok(())
}

/// Whether there were enough events when the time was over.
fn in_time(args: &MonitorArgs, seen: u64) -> Result {
    let Some(count) = args.count else {
        return Ok(());
    };
    failed(format!(
        "{seen} of {count} events came within {}",
        human_ms(args.timeout.unwrap_or(0).into())
    ))
}
