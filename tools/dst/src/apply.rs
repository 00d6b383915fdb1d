// SPDX-License-Identifier: GPL-2.0

//! `dst apply`: a file of subcommands, one in each line.
//!
//! The whole file is read and checked before its first line is executed. Words are separated by spaces; a
//! word with spaces stands in quotes; `#` begins a comment.

use std::io::Read;
use std::path::Path;

use clap::Parser;
use dst_core::uapi::CONTROL_PATH;

use crate::cli::{
    ApplyArgs,
    Cli, //
};
use crate::error::{
    failed,
    usage,
    Error,
    Result, //
};
use crate::info;
use crate::operation::{
    Operation,
    Targets, //
};
use crate::perform::perform;
use crate::world::Context;

/// The operations of one line of the file.
#[derive(Debug)]
struct Line {
    /// Its number, from 1.
    number: usize,
    /// What it says to do.
    operations: Vec<Operation>,
}

/// `dst apply`.
pub fn apply(context: &mut Context<'_>, args: &ApplyArgs) -> Result {
    let shown = args.file.display().to_string();
    let lines = read_lines(&read_file(&args.file)?, &shown, context.control)?;
    if args.check {
        return context.say(&format!(
            "{shown}: {} lines to execute, no error",
            lines.len()
        ));
    }
    if args.undo {
        return undo(context, &lines);
    }
    for line in &lines {
        perform(context, &line.operations)
            .map_err(|error| error.context(&format!("{shown}:{}", line.number)))?;
    }
    Ok(())
}

/// Reads the file.
fn read_file(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text).map(|_| text),
        _ => std::fs::read_to_string(path),
    };
    read.or_else(|error| failed(format!("can't read {}: {error}", path.display())))
}

/// Reads all lines; `shown` names the file in errors, `control` is the control device that is used.
fn read_lines(text: &str, shown: &str, control: &Path) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let words = split(line).map_err(|why| Error::Usage(format!("{shown}:{number}: {why}")))?;
        if words.is_empty() {
            continue;
        }
        let operations = read_line(words, control)
            .map_err(|error| error.context(&format!("{shown}:{number}")))?;
        lines.push(Line { number, operations });
    }
    Ok(lines)
}

/// Reads one line.
fn read_line(words: Vec<String>, control: &Path) -> Result<Vec<Operation>> {
    // A line may begin with the command's own name, so that commands can be pasted.
    let own = words.first().is_some_and(|word| word == "dst");
    let words = words.into_iter().skip(usize::from(own));
    let cli = Cli::try_parse_from(std::iter::once("dst".into()).chain(words)).map_err(|error| {
        let text = error.render().to_string();
        // The first line says what is wrong; the others repeat the usage.
        let first = text.lines().next().unwrap_or_default();
        Error::Usage(first.strip_prefix("error: ").unwrap_or(first).into())
    })?;
    cli.check()?;
    if cli.control != Path::new(CONTROL_PATH) && cli.control != control {
        return usage(
            "all lines use one control device; name it with 'dst apply --control PATH FILE'",
        );
    }
    match cli.command {
        None => cli.original.operations(),
        Some(command) => match command.operations()? {
            Some(operations) => Ok(operations),
            None => usage("only subcommands that change something can stand in a file"),
        },
    }
}

/// Splits a line into words.
fn split(line: &str) -> std::result::Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    match quote {
        Some(quote) => Err(format!("the quote {quote} is not closed")),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

/// Takes back what the lines set up, last one first. What is gone already is no error; what can't be taken
/// back is told, and the rest is taken back nevertheless.
fn undo(context: &mut Context<'_>, lines: &[Line]) -> Result {
    let control = context.open()?;
    let mut storages: Vec<String> = info::storages(control.as_ref())?
        .into_iter()
        .map(|storage| storage.name)
        .collect();
    let mut exports: Vec<String> = info::exports(control.as_ref())?
        .into_iter()
        .map(|export| export.name)
        .collect();
    drop(control);
    let mut first_error = None;
    for operation in lines
        .iter()
        .rev()
        .flat_map(|line| line.operations.iter().rev())
    {
        let (names, name) = match operation {
            Operation::Create(create) => (&mut storages, &create.name),
            Operation::Assemble(spec) => (&mut storages, &spec.name),
            Operation::Add(add) => (&mut storages, &add.name),
            Operation::Export(export) => (&mut exports, &export.name),
            _ => continue,
        };
        let Some(at) = names.iter().position(|own| own == name) else {
            continue;
        };
        names.swap_remove(at);
        let targets = Targets::Names(vec![name.clone()]);
        let reverse = match operation {
            Operation::Export(_) => Operation::Unexport(targets),
            _ => Operation::Delete(targets),
        };
        if let Err(error) = perform(context, &[reverse]) {
            match first_error {
                None => first_error = Some(error),
                Some(_) => context.remark(&error.to_string()),
            }
        }
    }
    first_error.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (line, words) in [
            ("", vec![]),
            ("  # a comment", vec![]),
            ("add x  /dev/sdb # b", vec!["add", "x", "/dev/sdb"]),
            (
                "add 'a b' \"c#'d\" e#f ''",
                vec!["add", "a b", "c#'d", "e#f", ""],
            ),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
        assert!(split("add 'x").is_err());
    }

    #[test]
    fn files() {
        let text = "# two nodes\n\ncreate s /dev/sdb nbd://kano/x\ndst start s\n-n s -D\n";
        let lines = read_lines(text, "f", Path::new("/dev/dst")).unwrap();
        let numbers: Vec<usize> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [3, 4, 5]);
        for (text, part) in [
            ("\nadd", "f:2: "),
            ("frobnicate", "unrecognized subcommand 'frobnicate'"),
            ("status", "f:1: only subcommands that change"),
            ("apply x", "only subcommands that change"),
            ("add s sdb", "neither a disk"),
            ("-n s", "nothing to do"),
            ("--help", "f:1: "),
            ("-n s -f /dev/other -D", "one control device"),
        ] {
            let error = read_lines(text, "f", Path::new("/dev/dst")).unwrap_err();
            assert_eq!(error.status(), 2);
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
