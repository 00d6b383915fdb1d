// SPDX-License-Identifier: GPL-2.0

//! What the command needs of the machine that it runs on, so that tests can replace the machine.

use std::io::{
    self,
    IsTerminal,
    Write, //
};
use std::net::{
    SocketAddr,
    ToSocketAddrs, //
};
use std::path::Path;
use std::time::{
    Duration,
    Instant,
    SystemTime,
    UNIX_EPOCH, //
};

use crate::control::{
    Control,
    Device, //
};
use crate::error::Result;
use crate::uevent::{
    Listener,
    Uevents, //
};

/// The machine.
pub trait World {
    /// Opens the control device.
    fn open(&self, path: &Path) -> Result<Box<dyn Control>>;
    /// Gives the addresses of a host, best first.
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
    /// Waits.
    fn sleep(&self, time: Duration);
    /// Time since the beginning of 1970, in UTC.
    fn date(&self) -> Duration;
    /// Begins to listen to what the kernel tells of devices.
    fn listen(&self) -> Result<Box<dyn Uevents>>;
}

/// The real machine.
#[derive(Debug)]
pub struct Machine(Instant);

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        Self(Instant::now())
    }
}

impl World for Machine {
    fn open(&self, path: &Path) -> Result<Box<dyn Control>> {
        Ok(Box::new(Device::open(path)?))
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }

    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn date(&self) -> Duration {
        let date = SystemTime::now().duration_since(UNIX_EPOCH);
        date.unwrap_or_default()
    }

    fn listen(&self) -> Result<Box<dyn Uevents>> {
        Ok(Box::new(Listener::new()?))
    }
}

/// Where the command runs, and where its output goes.
pub struct Context<'a> {
    /// The machine.
    pub world: &'a dyn World,
    /// The control device.
    pub control: &'a Path,
    /// Results.
    pub out: &'a mut dyn Write,
    /// Remarks that are no results.
    pub err: &'a mut dyn Write,
    /// Whether results go to a person's terminal.
    pub terminal: bool,
    /// Whether to say nothing about what was done.
    pub quiet: bool,
}

impl Context<'_> {
    /// Opens the control device.
    pub fn open(&self) -> Result<Box<dyn Control>> {
        self.world.open(self.control)
    }

    /// Says what was done.
    pub fn say(&mut self, text: &str) -> Result {
        if !self.quiet {
            writeln!(self.out, "{text}")?;
        }
        Ok(())
    }

    /// Remarks something that is no result and no error.
    pub fn remark(&mut self, text: &str) {
        // The remark is a courtesy; there is nobody to tell that it could not be written.
        let _ = writeln!(self.err, "dst: {text}");
    }
}

/// Whether the standard output is a terminal that wants colours.
pub fn wants_colour() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal()
        && !set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
