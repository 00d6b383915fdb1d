// SPDX-License-Identifier: GPL-2.0

//! `dst discover`: what an NBD server exports, asked from user space.
//!
//! Fixed newstyle handshake, `NBD_OPT_LIST`, then `NBD_OPT_INFO` for each export, then `NBD_OPT_ABORT`. No
//! transmission phase is entered, so nothing can happen to the data. Everything that the server says is
//! bounded, in size and in time.

use std::io::{
    Read,
    Write, //
};
use std::net::{
    SocketAddr,
    TcpStream, //
};
use std::time::{
    Duration,
    Instant, //
};

use serde::Serialize;

use crate::address::resolve;
use crate::cli::DiscoverArgs;
use crate::error::{
    failed,
    Result, //
};
use crate::size::human;
use crate::status::write_json;
use crate::table::{
    left,
    right,
    styled,
    Style,
    Table, //
};
use crate::uri::{
    printable,
    Remote, //
};
use crate::world::Context;

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OLDSTYLE: u64 = 0x0000_4202_8186_1253;
const REPLY: u64 = 0x0003_e889_0455_65a9;
/// Handshake flag of the server, and of the client.
const FIXED_NEWSTYLE: u16 = 1;

const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
/// Set in the types of all errors.
const REP_ERROR: u32 = 1 << 31;

const INFO_EXPORT: u16 = 0;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;

/// The longest string that the protocol allows (4096), doubled for name and description, and headers.
const MAX_REPLY: u32 = 16384;
/// More exports than a person wants to read; a server that lists more is broken, or hostile.
const MAX_EXPORTS: usize = 10_000;
/// More kinds of information on one export than the protocol has.
const MAX_INFOS: usize = 32;

/// Transmission flags, with the names by which they are shown.
const FLAGS: [(u16, &str); 10] = [
    (1 << 1, "read-only"),
    (1 << 2, "flush"),
    (1 << 3, "fua"),
    (1 << 4, "rotational"),
    (1 << 5, "trim"),
    (1 << 6, "write-zeroes"),
    (1 << 7, "df"),
    (1 << 8, "multi-conn"),
    (1 << 10, "cache"),
    (1 << 11, "fast-zero"),
];

/// An export of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Its name; empty: the default export.
    pub name: String,
    /// What the server says about it.
    pub description: String,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// What it can do.
    pub flags: Vec<&'static str>,
    /// Its block sizes in bytes: the least, the preferred, the largest of one request.
    pub block_sizes: Option<[u32; 3]>,
    /// Why the server does not say more.
    pub error: Option<String>,
}

/// `dst discover`.
pub fn discover(context: &mut Context<'_>, args: &DiscoverArgs) -> Result {
    let host = &args.host;
    let limit = Duration::from_millis(args.timeout.into());
    let mut errors = Vec::new();
    for address in resolve(context.world, host)? {
        match ask(address, &host.export, limit) {
            Ok(found) => return show(context, host, address, &found, args.json),
            Err(error) => errors.push(format!("{address}: {error}")),
        }
    }
    failed(errors.join("; "))
}

/// Asks a server for one export, or for all if `export` is empty. An error is a sentence.
pub fn ask(
    address: SocketAddr,
    export: &str,
    limit: Duration,
) -> std::result::Result<Vec<Found>, String> {
    let end = Instant::now() + limit;
    let stream =
        TcpStream::connect_timeout(&address, limit).map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => {
                "nothing listens there; is the server running, is the port right?".into()
            }
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => {
                "no answer in time; is the server up, and is no firewall between?".to_string()
            }
            _ => error.to_string(),
        })?;
    // Options are small and each waits for its reply. It works without, only slower.
    let _ = stream.set_nodelay(true);
    let mut talk = Talk { stream, end };
    talk.handshake()?;
    let found = match export {
        "" => talk.list()?,
        name => vec![Found {
            name: name.into(),
            ..Found::default()
        }],
    };
    let mut complete = Vec::with_capacity(found.len());
    for export in found {
        complete.push(talk.info(export)?);
    }
    // The answers are there; how the server takes the goodbye does not matter.
    let _ = talk.option(OPT_ABORT, &[]);
    Ok(complete)
}

/// The negotiation with a server.
struct Talk {
    /// The connection.
    stream: TcpStream,
    /// When the whole negotiation must have ended.
    end: Instant,
}

/// What the functions of the negotiation give; an error is a sentence.
type Answer<T = ()> = std::result::Result<T, String>;

impl Talk {
    /// Reads a number of bytes, before the end of the time.
    fn read<const N: usize>(&mut self) -> Answer<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Fills a buffer, before the end of the time.
    fn fill(&mut self, mut buffer: &mut [u8]) -> Answer {
        while !buffer.is_empty() {
            let left = self.end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("the server did not answer in time".into());
            }
            let read = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(buffer));
            match read {
                Ok(0) => {
                    return Err(
                        "the server closed the connection; does it let this machine in?".into(),
                    )
                }
                Ok(n) => buffer = &mut buffer[n..],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Sends bytes.
    fn send(&mut self, bytes: &[u8]) -> Answer {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("the server did not answer in time".into());
        }
        self.stream
            .set_write_timeout(Some(left))
            .and_then(|()| self.stream.write_all(bytes))
            .map_err(|error| error.to_string())
    }

    /// Sends an option.
    fn option(&mut self, option: u32, data: &[u8]) -> Answer {
        let mut bytes = Vec::with_capacity(16 + data.len());
        bytes.extend(IHAVEOPT.to_be_bytes());
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.send(&bytes)
    }

    /// Reads a reply to an option: its type and its data.
    fn reply(&mut self, option: u32) -> Answer<(u32, Vec<u8>)> {
        let magic = u64::from_be_bytes(self.read()?);
        let about = u32::from_be_bytes(self.read()?);
        let kind = u32::from_be_bytes(self.read()?);
        let length = u32::from_be_bytes(self.read()?);
        if magic != REPLY || about != option {
            return Err(
                "the server breaks the NBD protocol: that is no reply to the option".into(),
            );
        }
        if length > MAX_REPLY {
            return Err(format!(
                "the server breaks the NBD protocol: a reply of {length} bytes"
            ));
        }
        let mut data = vec![0; length as usize];
        self.fill(&mut data)?;
        Ok((kind, data))
    }

    /// Exchanges greetings.
    fn handshake(&mut self) -> Answer {
        let magic = u64::from_be_bytes(self.read()?);
        if magic != NBDMAGIC {
            return Err("what listens there is no NBD server".into());
        }
        match u64::from_be_bytes(self.read()?) {
            IHAVEOPT => {}
            OLDSTYLE => {
                return Err("the server speaks only the old style of NBD, which has no list".into())
            }
            _ => return Err("what listens there is no NBD server".into()),
        }
        let flags = u16::from_be_bytes(self.read()?);
        if flags & FIXED_NEWSTYLE == 0 {
            return Err(
                "the server is too old: it does not speak the fixed newstyle of NBD".into(),
            );
        }
        self.send(&u32::from(FIXED_NEWSTYLE).to_be_bytes())
    }

    /// Asks for the names of all exports. A server that keeps its list to itself is asked for the default
    /// export only.
    fn list(&mut self) -> Answer<Vec<Found>> {
        self.option(OPT_LIST, &[])?;
        let mut found = Vec::new();
        loop {
            let (kind, data) = self.reply(OPT_LIST)?;
            match kind {
                REP_ACK => return Ok(found),
                REP_SERVER => {
                    let (length, rest) = data.split_first_chunk().ok_or(SHORT)?;
                    let length = u32::from_be_bytes(*length) as usize;
                    let (name, description) = rest.split_at_checked(length).ok_or(SHORT)?;
                    found.push(Found {
                        name: String::from_utf8_lossy(name).into(),
                        description: String::from_utf8_lossy(description).into(),
                        ..Found::default()
                    });
                    if found.len() > MAX_EXPORTS {
                        return Err(format!("the server lists more than {MAX_EXPORTS} exports"));
                    }
                }
                _ if kind & REP_ERROR != 0 => {
                    let error = explain(kind, &data);
                    return Ok(vec![Found {
                        error: Some(format!("the server does not list its exports ({error})")),
                        ..Found::default()
                    }]);
                }
                _ => {
                    return Err(
                        "the server breaks the NBD protocol: a strange reply to LIST".into(),
                    )
                }
            }
        }
    }

    /// Asks for everything about one export.
    fn info(&mut self, mut export: Found) -> Answer<Found> {
        let mut data = Vec::new();
        data.extend((export.name.len() as u32).to_be_bytes());
        data.extend(export.name.as_bytes());
        data.extend(2_u16.to_be_bytes());
        data.extend(INFO_BLOCK_SIZE.to_be_bytes());
        data.extend(INFO_DESCRIPTION.to_be_bytes());
        self.option(OPT_INFO, &data)?;
        for _ in 0..MAX_INFOS {
            let (kind, data) = self.reply(OPT_INFO)?;
            match kind {
                REP_ACK => return Ok(export),
                REP_INFO => read_info(&mut export, &data)?,
                _ if kind & REP_ERROR != 0 => {
                    export.error.get_or_insert_with(|| explain(kind, &data));
                    return Ok(export);
                }
                _ => {
                    return Err(
                        "the server breaks the NBD protocol: a strange reply to INFO".into(),
                    )
                }
            }
        }
        Err("the server does not end its reply to INFO".into())
    }
}

/// Said of data that end too early.
const SHORT: &str = "the server breaks the NBD protocol: a reply is too short";

/// Reads one piece of information on an export.
fn read_info(export: &mut Found, data: &[u8]) -> Answer {
    let (kind, rest) = data.split_first_chunk().ok_or(SHORT)?;
    match u16::from_be_bytes(*kind) {
        INFO_EXPORT => {
            let (size, rest) = rest.split_first_chunk().ok_or(SHORT)?;
            let (flags, _) = rest.split_first_chunk().ok_or(SHORT)?;
            let flags = u16::from_be_bytes(*flags);
            export.size = Some(u64::from_be_bytes(*size));
            export.flags = FLAGS
                .iter()
                .filter(|(bit, _)| flags & bit != 0)
                .map(|(_, name)| *name)
                .collect();
        }
        INFO_DESCRIPTION => export.description = String::from_utf8_lossy(rest).into(),
        INFO_BLOCK_SIZE => {
            let mut sizes = [0; 3];
            let mut rest = rest;
            for size in &mut sizes {
                let (bytes, after) = rest.split_first_chunk().ok_or(SHORT)?;
                *size = u32::from_be_bytes(*bytes);
                rest = after;
            }
            export.block_sizes = Some(sizes);
        }
        // Servers may tell what was not asked for.
        _ => {}
    }
    Ok(())
}

/// Puts an error reply in words.
fn explain(kind: u32, data: &[u8]) -> String {
    let text = match kind & !REP_ERROR {
        1 => "not supported by the server",
        2 => "forbidden by the server",
        3 => "the server calls the request invalid",
        4 => "not supported on the server's platform",
        5 => "the server asks for TLS, which is not supported yet",
        6 => "no such export",
        7 => "the server is shutting down",
        8 => "the server asks for its block sizes to be used",
        9 => "the server calls the request too big",
        _ => "an unknown error",
    };
    match String::from_utf8_lossy(data).trim() {
        "" => text.into(),
        message => format!("{text}: {message}"),
    }
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    /// The server as it was named.
    host: &'a str,
    /// The address that answered.
    address: String,
    /// Its exports.
    exports: &'a [Found],
}

/// Prints what was found.
fn show(
    context: &mut Context<'_>,
    host: &Remote,
    address: SocketAddr,
    found: &[Found],
    json: bool,
) -> Result {
    if json {
        let report = Report {
            host: &host.host,
            address: address.to_string(),
            exports: found,
        };
        return write_json(context, &report);
    }
    if found.is_empty() {
        return context.say(&format!("{address} exports nothing"));
    }
    let mut table = Table::new(vec![
        left("EXPORT"),
        right("SIZE"),
        right("BYTES"),
        left("BLOCKS"),
        left("FLAGS"),
        left("DESCRIPTION"),
    ]);
    for export in found {
        let name = match export.name.as_str() {
            "" => "(default)",
            name => name,
        };
        let number = |size: Option<u64>, text: fn(u64) -> String| size.map_or("-".into(), text);
        table.row(vec![
            left(name).style(Style::Bold),
            right(number(export.size, |size| human(size as f64))),
            right(number(export.size, |size| size.to_string())),
            left(
                export
                    .block_sizes
                    .map_or("-".into(), |[least, preferred, largest]| {
                        format!("{least}/{preferred}/{}", human(largest.into()))
                    }),
            ),
            left(match export.flags.is_empty() {
                true => "-".into(),
                false => export.flags.join(","),
            }),
            left(&export.description),
        ]);
        if let Some(error) = &export.error {
            table.note(error, Style::Warn);
        }
    }
    let head = printable(&format!("{} ({address})", host.host));
    writeln!(
        context.out,
        "{}",
        styled(&head, Style::Bold, context.terminal)
    )?;
    let text = table.render(2, context.terminal);
    write!(context.out, "{text}")?;
    Ok(())
}
