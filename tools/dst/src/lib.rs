// SPDX-License-Identifier: GPL-2.0

//! The `dst` command: it sets up and watches DST storages and exports.
//!
//! A command line, of the original form ([`original`]) or with a subcommand ([`cli`]), comes down to
//! [`operation`]s, which [`perform`] carries out by requests to the module ([`control`]). What only looks
//! is in [`status`], [`stats`], [`monitor`] and [`discover`]. All that the command needs of the machine is
//! behind [`world::World`], so that tests can put a module of their own there.

// The workspace's lints are the kernel's, which has no floats; rates for people may have them.
#![expect(clippy::float_arithmetic)]

pub mod address;
pub mod apply;
mod assemble;
pub mod cli;
pub mod control;
mod discard;
pub mod discover;
pub mod error;
pub mod info;
pub mod ioctl;
pub mod manual;
pub mod monitor;
pub mod operation;
pub mod original;
pub mod perform;
pub mod select;
pub mod size;
pub mod stats;
pub mod status;
pub mod table;
pub mod uevent;
pub mod uri;
pub mod world;

use std::ffi::OsString;
use std::io::Write;

use clap::error::ErrorKind;
use clap::{
    CommandFactory,
    Parser, //
};

use crate::cli::{
    Cli,
    Command, //
};
use crate::error::{
    Result,
    EXIT_USAGE, //
};
use crate::world::{
    Context,
    World, //
};

/// Executes one command line, its own name first; gives the exit status.
pub fn run(
    world: &dyn World,
    args: impl IntoIterator<Item = OsString>,
    out: &mut dyn Write,
    err: &mut dyn Write,
    terminal: bool,
) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return explain_usage(&error, out, err),
    };
    let control = cli.control.clone();
    let mut context = Context {
        world,
        control: &control,
        out,
        err,
        terminal,
        quiet: cli.quiet,
    };
    let result = execute(&mut context, cli);
    let flushed = context.out.flush().map_err(Into::into);
    match result.and(flushed) {
        Ok(()) => 0,
        Err(error) => {
            if error.status() != 0 {
                context.remark(&error.to_string());
            }
            error.status()
        }
    }
}

/// Prints help, or what is wrong with the command line.
fn explain_usage(error: &clap::Error, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let text = error.render().to_string();
    // There is nobody to tell that it could not be written.
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = write!(out, "{text}");
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = write!(err, "{text}");
            EXIT_USAGE
        }
        _ => {
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let _ = write!(err, "dst: {text}");
            EXIT_USAGE
        }
    }
}

/// Executes a command line that was read.
fn execute(context: &mut Context<'_>, cli: Cli) -> Result {
    cli.check()?;
    let Some(command) = cli.command else {
        let operations = cli.original.operations()?;
        return perform::perform(context, &operations);
    };
    match command {
        Command::Status(args) => status::status(context, args.name.as_deref(), args.json),
        Command::List(args) => status::list(context, args.json),
        Command::Stats(args) => stats::stats(context, args),
        Command::Discover(args) => discover::discover(context, &args),
        Command::Apply(args) => apply::apply(context, &args),
        Command::Monitor(args) => monitor::monitor(context, &args),
        Command::Completions { shell } => {
            // The generator panics when it can't write, and a closed pipe is no reason for that.
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "dst", &mut text);
            context.out.write_all(&text)?;
            Ok(())
        }
        Command::Man => {
            write!(context.out, "{}", manual::page())?;
            Ok(())
        }
        changing => match changing.operations()? {
            Some(operations) => perform::perform(context, &operations),
            None => Ok(()),
        },
    }
}
