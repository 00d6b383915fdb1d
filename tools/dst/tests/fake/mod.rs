// SPDX-License-Identifier: GPL-2.0

//! A module of DST, and a machine around it, that exist in memory only.
//!
//! It answers requests as uapi.rs says, simply: sizes come from tables, and of what is stored on nodes there is
//! only the name of the storage that they belong to. What mirrors alone have is in [`mirror`].

#![allow(dead_code, reason = "each test program uses a part of it")]

mod mirror;

use std::cell::{
    Cell,
    RefCell, //
};
use std::collections::{
    BTreeMap,
    VecDeque, //
};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use dst_command::control::Control;
use dst_command::error::{
    failed,
    Result, //
};
use dst_command::uevent::{
    Heard,
    Uevents, //
};
use dst_command::world::World;
use dst_core::uapi::*;
use zerocopy::{
    FromBytes,
    IntoBytes, //
};

/// What an ioctl gives.
type Answer = std::result::Result<(), i32>;

/// A storage of the fake module.
#[derive(Default)]
pub(crate) struct FakeStorage {
    /// As it was made.
    pub(crate) create: Create,
    /// Its nodes.
    pub(crate) nodes: Vec<NodeInfo>,
    /// Whether it runs.
    pub(crate) running: bool,
    /// How often its disk is open.
    pub(crate) openers: u32,
    /// What is shown of a mirror that runs; its health is made up if it is 0.
    pub(crate) info: StorageInfo,
    /// Ids of nodes that were added with `NODE_FORCE`.
    pub(crate) forced: Vec<u32>,
    /// Ids of nodes that were added with `NODE_DISCARD`.
    pub(crate) discarded: Vec<u32>,
    /// Id of the next node.
    next: u32,
}

/// The state of the fake module.
#[derive(Default)]
pub(crate) struct State {
    /// Storages by name.
    pub(crate) storages: BTreeMap<String, FakeStorage>,
    /// Exports, as they were made.
    pub(crate) exports: BTreeMap<String, Export>,
    /// Sizes of local disks, in sectors.
    pub(crate) disks: BTreeMap<String, u64>,
    /// Sizes of what servers export, in sectors; all other addresses refuse connections.
    pub(crate) servers: BTreeMap<(SocketAddr, String), u64>,
    /// Addresses that do not answer.
    pub(crate) silent: Vec<SocketAddr>,
    /// Fails the next requests: number of the request, errno, message.
    pub(crate) faults: Vec<(u32, i32, &'static str)>,
    /// Settings that were made: storage, node, what, value.
    pub(crate) set: Vec<(String, u32, u32, u64)>,
    /// Nodes whose waiting was ended.
    pub(crate) failed_now: Vec<(String, u32)>,
    /// Numbers of all requests.
    pub(crate) log: Vec<u32>,
    /// The requests to add a node.
    pub(crate) adds: Vec<AddNode>,
    /// The flags of all requests to start.
    pub(crate) starts: Vec<u32>,
    /// Settings of storages that were made: storage, what, value.
    pub(crate) set_storage: Vec<(String, u32, u64)>,
    /// Minimum and maximum of healing, by storage.
    pub(crate) pace: BTreeMap<String, (u64, u64)>,
    /// What nodes tell: node, name of its storage.
    pub(crate) superblocks: BTreeMap<String, String>,
    /// What they tell besides: node, algorithm, where it begins.
    pub(crate) told: BTreeMap<String, (String, u64)>,
    /// The version of the interface; 0: the right one.
    pub(crate) abi: u32,
}

/// The fake module and the fake machine.
#[derive(Default)]
pub(crate) struct Fake {
    /// The module.
    pub(crate) state: Rc<RefCell<State>>,
    /// Addresses by name of host.
    pub(crate) hosts: BTreeMap<&'static str, Vec<&'static str>>,
    /// The clock.
    clock: Rc<Cell<Duration>>,
    /// What happens while the command sleeps.
    pub(crate) on_sleep: Option<fn(&mut State)>,
    /// Whether the module is not loaded.
    pub(crate) missing: bool,
    /// What the kernel tells of devices.
    pub(crate) uevents: RefCell<VecDeque<Heard>>,
}

/// What a command line gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Exit status.
    pub(crate) status: u8,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Fake {
    /// A machine with two disks, and a network with two servers.
    pub(crate) fn new() -> Self {
        let fake = Self {
            hosts: BTreeMap::from([
                ("kano", vec!["192.168.4.80"]),
                ("via", vec!["fe80::1", "192.168.4.81"]),
                ("dead", vec!["192.168.4.90", "192.168.4.91"]),
            ]),
            ..Self::default()
        };
        {
            let mut state = fake.state.borrow_mut();
            state.disks.insert("/dev/sdb".into(), 800);
            state.disks.insert("/dev/sdc".into(), 41_943_040);
            for (address, export, sectors) in [
                ("192.168.4.80:1025", "", 800),
                ("192.168.4.80:10809", "vol", 1600),
                ("192.168.4.81:1025", "", 2048),
            ] {
                let address = address.parse().unwrap();
                state.servers.insert((address, export.into()), sectors);
            }
        }
        fake
    }

    /// Executes a command line.
    pub(crate) fn run(&self, line: &str) -> Outcome {
        self.run_on(line, false)
    }

    /// Executes a command line on a terminal or not.
    pub(crate) fn run_on(&self, line: &str, terminal: bool) -> Outcome {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args = line.split_whitespace().map(Into::into);
        let status = dst_command::run(self, args, &mut out, &mut err, terminal);
        Outcome {
            status,
            out: String::from_utf8(out).unwrap(),
            err: String::from_utf8(err).unwrap(),
        }
    }

    /// Executes a command line that must succeed; gives its output.
    pub(crate) fn ok(&self, line: &str) -> String {
        let outcome = self.run(line);
        assert_eq!(outcome.status, 0, "{line}: {outcome:?}");
        outcome.out
    }

    /// Executes a command line that must fail, not by its usage; gives the error.
    pub(crate) fn fail(&self, line: &str) -> String {
        let outcome = self.run(line);
        assert_eq!(outcome.status, 1, "{line}: {outcome:?}");
        assert!(outcome.err.starts_with("dst: "), "{line}: {outcome:?}");
        outcome.err
    }

    /// Makes the next request of a number fail.
    pub(crate) fn fault(&self, nr: u32, errno: i32, message: &'static str) {
        self.state.borrow_mut().faults.push((nr, errno, message));
    }
}

/// A handle of the fake control device.
struct Handle(Rc<RefCell<State>>);

impl Control for Handle {
    fn ioctl(&self, command: u32, data: &mut [u8]) -> Answer {
        assert_eq!((command >> 8) & 0xff, IOCTL_TYPE);
        assert_eq!((command >> 16) & 0x3fff, data.len() as u32);
        self.0.borrow_mut().dispatch(command & 0xff, data)
    }
}

impl World for Fake {
    fn open(&self, path: &Path) -> Result<Box<dyn Control>> {
        if self.missing {
            return failed("/dev/dst is missing");
        }
        assert_eq!(path, Path::new(CONTROL_PATH));
        Ok(Box::new(Handle(self.state.clone())))
    }

    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let Some(addresses) = self.hosts.get(host) else {
            return Err(io::Error::other(
                "failed to lookup address information: Name or service not known",
            ));
        };
        let addresses = addresses.iter().map(|text| text.parse().unwrap());
        Ok(addresses.map(|ip| SocketAddr::new(ip, port)).collect())
    }

    fn now(&self) -> Duration {
        self.clock.get()
    }

    fn sleep(&self, time: Duration) {
        self.clock.set(self.clock.get() + time);
        if let Some(happen) = self.on_sleep {
            happen(&mut self.state.borrow_mut());
        }
    }

    fn date(&self) -> Duration {
        Duration::from_millis(1_795_557_357_042) + self.clock.get()
    }

    fn listen(&self) -> Result<Box<dyn Uevents>> {
        Ok(Box::new(FakeKernel {
            heard: self.uevents.take(),
            clock: self.clock.clone(),
        }))
    }
}

/// What a command hears of the kernel, one message each millisecond.
struct FakeKernel {
    heard: VecDeque<Heard>,
    clock: Rc<Cell<Duration>>,
}

impl Uevents for FakeKernel {
    fn next(&mut self, limit: Option<Duration>) -> Result<Heard> {
        let heard = self.heard.pop_front();
        let time = match heard {
            Some(_) => Duration::from_millis(1),
            None => limit.expect("it would wait for ever"),
        };
        self.clock.set(self.clock.get() + time);
        Ok(heard.unwrap_or(Heard::Nothing))
    }
}

/// Reads a request, lets `f` work on it, and writes it back.
fn with<T: Request>(data: &mut [u8], f: impl FnOnce(&mut T) -> Answer) -> Answer {
    let mut request = T::read_from_bytes(data).unwrap();
    let result = f(&mut request);
    data.copy_from_slice(request.as_bytes());
    result
}

/// Gives the text of a field.
fn field(bytes: &[u8]) -> String {
    text(bytes).unwrap().into()
}

/// Gives the address of the interface as the standard library has it.
pub(crate) fn socket(address: &Address) -> SocketAddr {
    dst_command::address::from_module(address).unwrap()
}

impl State {
    /// Answers one request.
    fn dispatch(&mut self, nr: u32, data: &mut [u8]) -> Answer {
        self.log.push(nr);
        let header = Header::read_from_prefix(data).unwrap().0;
        assert_eq!(header.size as usize, data.len());
        assert_eq!(header.version, ABI_VERSION);
        if self.abi != 0 && nr == Version::NR {
            return with(data, |v: &mut Version| {
                v.abi = self.abi;
                set_text(&mut v.text, "9.9.9").unwrap();
                Ok(())
            });
        }
        if self.abi != 0 {
            return Err(libc::EPROTO);
        }
        if let Some(at) = self.faults.iter().position(|fault| fault.0 == nr) {
            let (_, errno, message) = self.faults.remove(at);
            let mut header = header;
            set_text(&mut header.message, message).unwrap();
            header.write_to_prefix(data).unwrap();
            return Err(errno);
        }
        match nr {
            Version::NR => with(data, |v: &mut Version| {
                v.abi = ABI_VERSION;
                Ok(())
            }),
            Create::NR => with(data, |r| self.create(r)),
            AddNode::NR => with(data, |r| self.add(r)),
            Start::NR => with(data, |r: &mut Start| self.start(&mut r.0)),
            Stop::NR => with(data, |r: &mut Stop| {
                let storage = self.storage(&field(&r.0.name))?;
                if storage.openers > 0 {
                    return Err(libc::EBUSY);
                }
                storage.running = false;
                Ok(())
            }),
            Delete::NR => with(data, |r: &mut Delete| self.delete(&field(&r.0.name))),
            RemoveNode::NR => with(data, |r: &mut RemoveNode| {
                let storage = self.storage(&field(&r.0.name))?;
                if storage.running && !storage.can_lose(r.0.node) {
                    return Err(libc::EBUSY);
                }
                let all = r.0.node == ALL_NODES;
                storage.nodes.retain(|node| !all && node.node != r.0.node);
                Ok(())
            }),
            FailNow::NR => with(data, |r: &mut FailNow| {
                let name = field(&r.0.name);
                self.storage(&name)?;
                self.failed_now.push((name, r.0.node));
                Ok(())
            }),
            SetNode::NR => with(data, |r: &mut SetNode| {
                let name = field(&r.name);
                self.storage(&name)?;
                self.set.push((name, r.node, r.what, r.value));
                Ok(())
            }),
            SuspendNode::NR => with(data, |r: &mut SuspendNode| self.suspend(&r.0, 1)),
            ResumeNode::NR => with(data, |r: &mut ResumeNode| self.suspend(&r.0, 0)),
            DiscardNode::NR => with(data, |r: &mut DiscardNode| {
                self.storage(&field(&r.0.name))?.discard(r.0.node)
            }),
            CancelReplace::NR => with(data, |r: &mut CancelReplace| {
                self.storage(&field(&r.0.name))?.cancel_replace(r.0.node)
            }),
            SetStorage::NR => with(data, |r: &mut SetStorage| self.change(r)),
            Export::NR => with(data, |r| self.export(r)),
            Unexport::NR => with(data, |r: &mut Unexport| {
                let gone = self.exports.remove(&field(&r.0.name));
                gone.map(drop).ok_or(libc::ENOENT)
            }),
            StorageInfo::NR => with(data, |r| self.storage_info(r)),
            NodeInfo::NR => with(data, |r| self.node_info(r)),
            ExportInfo::NR => with(data, |r| self.export_info(r)),
            _ => Err(libc::ENOTTY),
        }
    }

    /// Finds a storage.
    pub(crate) fn storage(&mut self, name: &str) -> std::result::Result<&mut FakeStorage, i32> {
        self.storages.get_mut(name).ok_or(libc::ENOENT)
    }

    fn create(&mut self, request: &mut Create) -> Answer {
        let name = field(&request.name);
        let known = match field(&request.alg).as_str() {
            "alg_linear" | "alg_mirror" => true,
            // As the superblocks say.
            "" => request.flags & CREATE_METADATA != 0,
            _ => false,
        };
        if !known {
            return Err(libc::EINVAL);
        }
        if self.storages.contains_key(&name) {
            return Err(libc::EEXIST);
        }
        let storage = FakeStorage {
            create: *request,
            ..FakeStorage::default()
        };
        self.storages.insert(name, storage);
        Ok(())
    }

    fn add(&mut self, request: &mut AddNode) -> Answer {
        self.adds.push(*request);
        let path = field(&request.path);
        let device_size = match request.kind {
            KIND_LOCAL => *self.disks.get(&path).ok_or(libc::ENOENT)?,
            _ => {
                let address = socket(&request.address);
                if self.silent.contains(&address) {
                    return Err(libc::ETIMEDOUT);
                }
                if !self.servers.keys().any(|(own, _)| *own == address) {
                    return Err(libc::ECONNREFUSED);
                }
                *self.servers.get(&(address, path)).ok_or(libc::ENOENT)?
            }
        };
        let storage = self.storage(&field(&request.name))?;
        let replaces = request.flags & NODE_REPLACE != 0;
        let old = if replaces {
            storage.may_replace(request)?
        } else {
            None
        };
        if storage.running && !storage.is_mirror() && !replaces {
            return Err(libc::EBUSY);
        }
        let size = match request.size {
            AUTO if old.is_some() => old.map_or(0, |(_, size)| size),
            AUTO => device_size,
            size => size,
        };
        if size > device_size {
            return Err(libc::ENOSPC);
        }
        let last = storage.nodes.last();
        let behind = last.map_or(0, |node| node.start + node.size);
        let behind = if storage.is_mirror() { 0 } else { behind };
        if request.flags & NODE_FORCE != 0 {
            storage.forced.push(storage.next);
        }
        if request.flags & NODE_DISCARD != 0 {
            storage.discarded.push(storage.next);
        }
        request.node = storage.next;
        storage.next += 1;
        storage.nodes.push(NodeInfo {
            node: request.node,
            kind: request.kind,
            depth: match request.depth {
                0 => 128,
                depth => depth,
            },
            replaces: if replaces { request.replaces + 1 } else { 0 },
            start: match request.start {
                AUTO if old.is_some() => old.map_or(0, |(start, _)| start),
                AUTO => behind,
                start => start,
            },
            size,
            device_size,
            path: request.path,
            address: request.address,
            timeout_ms: request.timeout_ms,
            keepalive_s: match request.keepalive_s {
                0 => 15,
                s => s,
            },
            block_size: 512,
            role: match storage.running {
                true => ROLE_HEALING,
                false => ROLE_NONE,
            },
            stale: if storage.running { size } else { 0 },
            ..NodeInfo::default()
        });
        Ok(())
    }

    fn start(&mut self, request: &mut Named) -> Answer {
        self.starts.push(request.flags);
        let name = &field(&request.name);
        if self.storage(name)?.running {
            return Err(libc::EALREADY);
        }
        self.believe(request)?;
        let storage = self.storage(name)?;
        if storage.is_mirror() {
            let size = storage.begin_mirror().ok_or(libc::EINVAL)?;
            self.disks.insert(format!("/dev/dst-{name}"), size);
            return Ok(());
        }
        let mut ranges: Vec<_> = storage.nodes.iter().map(|n| (n.start, n.size)).collect();
        ranges.sort_unstable();
        let mut end = 0;
        for (start, size) in ranges {
            if start != end {
                return Err(libc::EINVAL);
            }
            end += size;
        }
        if end == 0 {
            return Err(libc::EINVAL);
        }
        storage.running = true;
        self.disks.insert(format!("/dev/dst-{name}"), end);
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Answer {
        let disk = format!("/dev/dst-{name}");
        let exported = self.exports.values().any(|e| field(&e.path) == disk);
        let mut storages = self.storages.values();
        let used = storages.any(|s| s.nodes.iter().any(|n| field(&n.path) == disk));
        if self.storage(name)?.openers > 0 || exported || used {
            return Err(libc::EBUSY);
        }
        self.storages.remove(name);
        self.disks.remove(&disk);
        Ok(())
    }

    fn export(&mut self, request: &mut Export) -> Answer {
        let name = field(&request.name);
        if self.exports.contains_key(&name) {
            return Err(libc::EEXIST);
        }
        if !self.disks.contains_key(&field(&request.path)) {
            return Err(libc::ENOENT);
        }
        self.exports.insert(name, *request);
        Ok(())
    }

    fn storage_info(&self, request: &mut StorageInfo) -> Answer {
        let mut storages = self.storages.values();
        let storage = storages.nth(request.index as usize).ok_or(libc::ENOENT)?;
        request.name = storage.create.name;
        request.alg = storage.create.alg;
        request.nodes = storage.nodes.len() as u32;
        request.flags = storage.create.flags;
        request.sectors = storage.nodes.iter().map(|node| node.size).sum();
        if storage.is_mirror() {
            storage.mirror_info(request);
        }
        if storage.running {
            request.state = STORAGE_RUNNING;
            request.block_size = 512;
            request.openers = storage.openers;
            (request.major, request.minor) = (252, 0);
        }
        Ok(())
    }

    fn node_info(&mut self, request: &mut NodeInfo) -> Answer {
        let storage = self.storage(&field(&request.name))?;
        let node = storage
            .nodes
            .get(request.index as usize)
            .ok_or(libc::ENOENT)?;
        let (name, index) = (request.name, request.index);
        *request = *node;
        request.name = name;
        request.index = index;
        Ok(())
    }

    fn export_info(&self, request: &mut ExportInfo) -> Answer {
        let mut exports = self.exports.values();
        let export = exports.nth(request.index as usize).ok_or(libc::ENOENT)?;
        request.name = export.name;
        request.flags = export.flags;
        request.path = export.path;
        request.address = export.address;
        request.sectors = self.disks[&field(&export.path)];
        request.block_size = 512;
        request.max_connections = match export.max_connections {
            0 => 16,
            n => n,
        };
        request.nr_rules = export.nr_rules;
        request.rules = export.rules;
        Ok(())
    }
}
