// SPDX-License-Identifier: GPL-2.0

//! The `dst` command; see [`dst_command`].

use std::io::{
    stderr,
    stdout, //
};
use std::process::ExitCode;

use dst_command::world::{
    wants_colour,
    Machine, //
};

fn main() -> ExitCode {
    let status = dst_command::run(
        &Machine::here(),
        std::env::args_os(),
        &mut stdout().lock(),
        &mut stderr().lock(),
        wants_colour(),
    );
    ExitCode::from(status)
}
