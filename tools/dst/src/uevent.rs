// SPDX-License-Identifier: GPL-2.0

//! What the kernel tells of devices (uevents): listening to it, and reading it.
//!
//! A message is `ACTION@DEVPATH`, then `KEY=value` as often as needed, each ended by a NUL.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{
    poll,
    PollFd,
    PollFlags,
    Timespec, //
};
use rustix::io::Errno;
use rustix::net::netlink::{
    SocketAddrNetlink,
    KOBJECT_UEVENT, //
};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{
    bind,
    recvfrom,
    socket_with,
    AddressFamily,
    RecvFlags,
    SocketFlags,
    SocketType, //
};
use serde::Serialize;

use crate::error::{
    Error,
    Result, //
};

/// The group of listeners that the kernel sends to; udev sends to another one.
const KERNEL_GROUP: u32 = 1;
/// Room for events while the reader of the output is slow; the kernel's default is a fifth of that.
const RECEIVE_BUFFER: usize = 1 << 20;
/// The kernel's messages have 2 KiB of strings, and a path before them.
const MESSAGE: usize = 8192;

/// What came while one waited for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message(Vec<u8>),
    /// Messages were lost: they came faster than they were read.
    Lost,
    /// Nothing, or nothing to be believed; perhaps the time is over.
    Nothing,
}

/// Where messages come from: the kernel, or a test.
pub trait Uevents {
    /// Waits for a message, for a while at most; `None`: for ever.
    fn next(&mut self, limit: Option<Duration>) -> Result<Heard>;
}

/// A socket that the kernel sends to.
#[derive(Debug)]
pub struct Listener {
    /// The socket; it never blocks.
    socket: OwnedFd,
    /// Room for one message.
    buffer: Vec<u8>,
}

impl Listener {
    /// Begins to listen: messages from now on are kept until they are read.
    pub fn new() -> Result<Self> {
        let listen = || {
            let socket = socket_with(
                AddressFamily::NETLINK,
                SocketType::DGRAM,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                Some(KOBJECT_UEVENT),
            )?;
            // It works without, only that events are lost earlier.
            let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
            bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
            Ok(socket)
        };
        let socket = listen().map_err(|error: Errno| {
            Error::Failed(format!("can't listen to the kernel's events: {error}"))
        })?;
        Ok(Self {
            socket,
            buffer: vec![0; MESSAGE],
        })
    }
}

impl Uevents for Listener {
    fn next(&mut self, limit: Option<Duration>) -> Result<Heard> {
        // A time that does not fit is for ever.
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut wait = [PollFd::new(&self.socket, PollFlags::IN)];
        let waited = poll(&mut wait, limit.as_ref())
            .and_then(|_| recvfrom(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC));
        let (_, len, sender) = match waited {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Heard::Nothing),
            Err(Errno::NOBUFS) => return Ok(Heard::Lost),
            Err(error) => {
                return Err(Error::Failed(format!(
                    "can't listen to the kernel's events any more: {error}"
                )))
            }
        };
        // Another process can send here, too, if it has the rights; the kernel is 0.
        let sender = sender.and_then(|address| SocketAddrNetlink::try_from(address).ok());
        if sender.is_none_or(|sender| sender.pid() != 0) {
            return Ok(Heard::Nothing);
        }
        // A message that does not fit is cut, and is none that is known.
        Ok(match self.buffer.get(..len) {
            Some(message) => Heard::Message(message.to_vec()),
            None => Heard::Lost,
        })
    }
}

/// An event of a storage, in the form that is put into JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When it was read, in UTC.
    pub time: String,
    /// `add`, `remove`, `change`; `overrun`: events were lost.
    pub action: String,
    /// The storage.
    pub storage: Option<String>,
    /// Id of the node, if it is about one.
    pub node: Option<u32>,
    /// The node, as sysfs has it: `L: /dev/sdb`, `R: 192.168.4.80:1025`.
    #[serde(rename = "type")]
    pub type_text: Option<String>,
    /// New state of the node: `up`, `lost`, `failed`; or of the storage: `running`, `stopped`.
    pub state: Option<String>,
    /// New role of the node: `in-sync`, `healing`, `missing`.
    pub role: Option<String>,
    /// New health of the storage: `healthy`, `degraded`, `healing`, `taken-over`.
    pub health: Option<String>,
    /// What happened: `heal-start`, `heal-done`, `heal-interrupted`, `conflict`, `refused`, `replace-start`, `replace-done`,
    /// `replace-interrupted`, `replace-cancelled`.
    pub event: Option<String>,
    /// With `conflict` and `refused`: why the copy is not taken back.
    pub trouble: Option<String>,
    /// The kernel's number of the event.
    pub seqnum: Option<u64>,
    /// What else the module says, without `DST_` and in small letters.
    pub other: BTreeMap<String, String>,
}

impl Event {
    /// Reads a message; `None`: it is not about a storage.
    pub fn read(message: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(message);
        let mut strings = text.split('\0');
        let (action, path) = strings.next()?.split_once('@')?;
        let mut event = Self {
            action: action.into(),
            ..Self::default()
        };
        let mut ours = false;
        for (key, value) in strings.filter_map(|string| string.split_once('=')) {
            let value = value.to_string();
            match key {
                "SUBSYSTEM" => ours |= value == "dst",
                "SEQNUM" => event.seqnum = value.parse().ok(),
                "DST_STORAGE" => {
                    ours = true;
                    event.storage = Some(value);
                }
                "DST_NODE" => event.node = value.parse().ok(),
                "DST_TYPE" => event.type_text = Some(value),
                "DST_STATE" => event.state = Some(value),
                "DST_ROLE" => event.role = Some(value),
                "DST_HEALTH" => event.health = Some(value),
                "DST_EVENT" => event.event = Some(value),
                "DST_TROUBLE" => event.trouble = Some(value),
                _ => {
                    if let Some(own) = key.strip_prefix("DST_") {
                        event.other.insert(own.to_ascii_lowercase(), value);
                    }
                }
            }
        }
        if event.storage.is_none() {
            // The device is the storage.
            event.storage = path.rsplit('/').next().map(Into::into);
        }
        ours.then_some(event)
    }

    /// The same for a person, without the time.
    pub fn sentence(&self) -> String {
        if self.action == "overrun" {
            return "events were lost: more came than could be written; 'dst status' tells how things are"
                .into();
        }
        let mut words: Vec<String> = Vec::new();
        match self.action.as_str() {
            "add" => words.push("storage added".into()),
            "remove" => words.push("storage removed".into()),
            "change" => {}
            other => words.push(other.into()),
        }
        words.extend(self.event.as_deref().map(|event| match event {
            "heal-start" => "healing begins".into(),
            "heal-done" => "healing is done".into(),
            "heal-interrupted" => "healing is interrupted".into(),
            "replace-start" => "begins to take another node's place".into(),
            "replace-done" => "has taken another node's place".into(),
            "replace-interrupted" => "replacement is interrupted".into(),
            "replace-cancelled" => "replacement is cancelled".into(),
            "conflict" => format!(
                "conflict, written to apart from the others; see 'dst status {}'",
                self.storage.as_deref().unwrap_or_default()
            ),
            "refused" => format!(
                "not taken back: {}",
                self.trouble.as_deref().unwrap_or("see 'dst status'")
            ),
            other => other.to_string(),
        }));
        let role = self.role.as_deref().map(|role| match role {
            "in-sync" => "in sync",
            other => other,
        });
        words.extend(
            [self.state.as_deref(), role, self.health.as_deref()]
                .into_iter()
                .flatten()
                .map(String::from),
        );
        let other = self.other.iter().filter(|(key, _)| *key != "directory");
        words.extend(other.map(|(key, value)| format!("{key}={value}")));
        if words.is_empty() {
            words.push("changed".into());
        }
        let storage = self.storage.as_deref().unwrap_or("?");
        let subject = match (self.node, &self.type_text) {
            (None, _) => storage.to_string(),
            (Some(id), None) => format!("{storage}: node {id}"),
            (Some(id), Some(type_text)) => format!("{storage}: node {id} ({type_text})"),
        };
        format!("{subject}: {}", words.join(", "))
    }
}

/// Writes a time since the beginning of 1970, in UTC: `2026-11-24T21:55:57.042Z`.
pub fn date(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (year, month, day) = civil(seconds / 86400);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        since_1970.subsec_millis()
    )
}

/// Year, month and day of a number of days since the beginning of 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from the first of March of the year 0: a leap day is the last of its year. 400 years have 146097
    // days; March to July, and August to December, have 153 days.
    let days = days + 719_468;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = days / 146_097 * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Puts a message together.
    fn message(head: &str, strings: &[&str]) -> Vec<u8> {
        let mut bytes = format!("{head}\0").into_bytes();
        for string in strings {
            bytes.extend(string.as_bytes());
            bytes.push(0);
        }
        bytes
    }

    #[test]
    fn sentences() {
        for (head, strings, sentence) in [
            (
                "change@/devices/m",
                &[
                    "ACTION=change",
                    "DEVPATH=/devices/m",
                    "SUBSYSTEM=dst",
                    "DST_DIRECTORY=n-0",
                    "DST_STORAGE=m",
                    "DST_NODE=1",
                    "DST_TYPE=R: 192.168.4.80:1025",
                    "DST_STATE=lost",
                    "DST_ROLE=missing",
                    "SEQNUM=77",
                ] as &[&str],
                "m: node 1 (R: 192.168.4.80:1025): lost, missing",
            ),
            (
                "change@/devices/m",
                &[
                    "SUBSYSTEM=dst",
                    "DST_EVENT=heal-start",
                    "DST_HEALTH=healing",
                ],
                "m: healing begins, healing",
            ),
            (
                "change@/devices/m",
                &["SUBSYSTEM=dst", "DST_NODE=2", "DST_EVENT=conflict"],
                "m: node 2: conflict, written to apart from the others; see 'dst status m'",
            ),
            (
                "change@/devices/m",
                &[
                    "SUBSYSTEM=dst",
                    "DST_NODE=0",
                    "DST_ROLE=in-sync",
                    "DST_NEW=1",
                ],
                "m: node 0: in sync, new=1",
            ),
            (
                "change@/devices/m",
                &[
                    "SUBSYSTEM=dst",
                    "DST_NODE=2",
                    "DST_ROLE=missing",
                    "DST_EVENT=refused",
                    "DST_TROUBLE=it belongs to another storage now",
                ],
                "m: node 2: not taken back: it belongs to another storage now, missing",
            ),
            ("add@/devices/m", &["SUBSYSTEM=dst"], "m: storage added"),
            ("change@/devices/m", &["SUBSYSTEM=dst"], "m: changed"),
            (
                "change@/devices/m",
                &["SUBSYSTEM=dst", "DST_STATE=stopped"],
                "m: stopped",
            ),
            (
                "change@/devices/virtual/x",
                &["DST_STORAGE=m", "DST_STATE=running"],
                "m: running",
            ),
        ] {
            let event = Event::read(&message(head, strings)).unwrap();
            assert_eq!(event.sentence(), sentence);
        }
    }

    #[test]
    fn of_others() {
        for (head, strings) in [
            (
                "add@/devices/virtual/block/dst-m",
                &["SUBSYSTEM=block"] as &[&str],
            ),
            ("add@/module/dst", &["SUBSYSTEM=module"]),
            ("libudev", &["SUBSYSTEM=dst"]),
            ("", &[]),
        ] {
            assert_eq!(Event::read(&message(head, strings)), None, "{head}");
        }
        assert_eq!(Event::read(b""), None);
    }

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_795_557_357, "2026-11-24T21:55:57.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(date(Duration::from_secs(seconds)), text);
        }
        assert!(date(Duration::from_millis(42)).ends_with(".042Z"));
    }

    proptest! {
        #[test]
        fn days_follow_each_other(day in 0u64..200_000) {
            let (year, month, of_month) = civil(day);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let days = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let next = match (month, of_month) {
                (12, 31) => (year + 1, 1, 1),
                (_, last) if last == days => (year, month + 1, 1),
                _ => (year, month, of_month + 1),
            };
            prop_assert!((1..=days).contains(&of_month));
            prop_assert_eq!(civil(day + 1), next);
        }

        #[test]
        fn garbage(message in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(event) = Event::read(&message) {
                event.sentence();
            }
        }

        #[test]
        fn what_is_said_is_read(
            node in prop::option::of(any::<u32>()),
            state in prop::option::of("[a-z]{1,8}"),
            others in prop::collection::btree_map("[A-Z]{9,12}", "[ -~]{0,20}", 0..4),
        ) {
            let mut strings = vec!["SUBSYSTEM=dst".to_string()];
            strings.extend(node.map(|node| format!("DST_NODE={node}")));
            strings.extend(state.iter().map(|state| format!("DST_STATE={state}")));
            strings.extend(others.iter().map(|(key, value)| format!("DST_{key}={value}")));
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            let event = Event::read(&message("change@/devices/a.b", &strings)).unwrap();
            prop_assert_eq!(event.storage.as_deref(), Some("a.b"));
            prop_assert_eq!(event.node, node);
            prop_assert_eq!(event.state, state);
            let others: BTreeMap<_, _> = others
                .into_iter()
                .map(|(key, value)| (key.to_ascii_lowercase(), value))
                .collect();
            prop_assert_eq!(event.other, others);
        }
    }
}
