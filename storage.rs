// SPDX-License-Identifier: GPL-2.0

//! One storage: its life, from the first node to its deletion.
//!
//! # Locks
//!
//! `life` (mutex) is held over whatever changes the storage's shape, however long that takes: it may wait
//! for a server. `inner` (mutex, inside `life`) is held only to look or to exchange: what shows the state,
//! ends a waiting or changes a timeout takes `inner` alone and never waits for `life`. Nothing is dropped
//! under `inner` that waits for a reader of sysfs. Allocations under `inner` start no I/O: that may wait until a copy has
//! left its mirror, for which `inner` is needed.

mod copies;
mod join;
mod look;
mod metadata;
mod moving;
mod replace;
mod resume;
mod settings;
mod suspend;
mod take_up;

use kernel::{
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        atomic::Atomic,
        Arc,
        Mutex,
        SetOnce, //
    },
};

use moving::Moving;
use resume::Resumed;
use settings::Settings;
use suspend::Overdue;

use crate::{
    alg::Algorithm,
    array::Running,
    claim,
    events::Events,
    failure::{
        fail,
        Done,
        Failure, //
    },
    hold::Hold,
    kern::{
        disk::{
            Disk,
            Limits, //
        },
        mem::NoIoMutex,
        module::ModuleRef,
        sysfs::{
            Device,
            Directory,
            Subsystem, //
        },
        time,
        timer::Timer, //
    },
    linear::Linear,
    member::{
        Member,
        Want, //
    },
    mirror::Engine,
    net_state::NetThread,
    proto::fence::Fence,
    remotes::Remotes,
    uapi,
};

/// A storage.
#[pin_data]
pub(crate) struct Storage {
    name: CString,
    /// The algorithm; until the nodes have told it, if they are to.
    alg: &'static dyn Algorithm,
    /// The nodes are to tell the algorithm, and their places.
    told: bool,
    /// The algorithm that they told.
    found: SetOnce<&'static dyn Algorithm>,
    /// Whether what belongs to it is written on its nodes.
    metadata: bool,
    /// Logical block size that the user asked for, in bytes; 0: the largest of the nodes.
    block_size: u32,
    /// How it names itself to servers, so that they end what older connections of it left behind.
    fence: Fence,
    /// Whether another head has taken it over.
    hold: Arc<Hold>,
    events: Arc<Events>,
    /// For what waits for nodes that are suspended.
    #[pin]
    overdue: Timer<Overdue>,
    /// How it is, as user space was told last.
    health: Atomic<u32>,
    #[pin]
    life: Mutex<Life>,
    #[pin]
    inner: NoIoMutex<Inner>,
}

/// What nodes have become.
struct Assembled {
    /// What serves the disk.
    running: Running,
    /// Sectors of the disk.
    sectors: u64,
    limits: Limits,
    /// The superblocks, of what is no mirror and has some.
    linear: Option<KBox<Linear>>,
    /// A replacement of a node that goes on.
    moving: Option<Resumed>,
}

/// What only changes of shape need.
struct Life {
    /// The thread of the remote nodes; there from the first of them on.
    net: Option<NetThread<Remotes>>,
    next_id: u32,
    deleted: bool,
    /// While a node takes the place of another one, unless the storage is a mirror.
    moving: Option<Moving>,
    /// The superblocks, while a storage runs that has some and is no mirror.
    linear: Option<KBox<Linear>>,
    /// `/sys/devices/NAME`.
    device: Option<Device<Storage>>,
    _module: ModuleRef,
}

/// What everybody looks at.
struct Inner {
    /// In the order of adding.
    members: KVec<Arc<Member>>,
    /// `/sys/devices/NAME/n-START`, in the same order.
    directories: KVec<Directory<Member>>,
    disk: Option<Arc<Disk<Running>>>,
    /// While a mirror runs.
    mirror: Option<Arc<Engine>>,
    /// What servers are told of it, while it runs and has metadata.
    fence: Option<Fence>,
    /// The same as in [`Life::moving`].
    twin: Option<Arc<Engine>>,
    /// Sectors of the disk, while there is one.
    sectors: u64,
    /// Of the disk, while there is one.
    limits: Limits,
    settings: Settings,
}

/// What a storage is to be.
pub(crate) struct Shape<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its algorithm.
    pub(crate) alg: &'static dyn Algorithm,
    /// Whether the nodes tell the algorithm, and their places.
    pub(crate) told: bool,
    /// Whether what belongs to it is written on its nodes.
    pub(crate) metadata: bool,
    /// Logical block size in bytes; 0: the largest of the nodes.
    pub(crate) block_size: u32,
}

impl Storage {
    /// Makes an empty storage, and its directory in sysfs.
    pub(crate) fn new(subsystem: &Arc<Subsystem>, shape: &Shape<'_>) -> Done<Arc<Self>> {
        let &Shape {
            name,
            alg,
            told,
            metadata,
            block_size,
        } = shape;
        if block_size != 0 && !(block_size.is_power_of_two() && (512..=4096).contains(&block_size))
        {
            fail!(
                EINVAL,
                "block size {block_size} is not a power of two between 512 and 4096"
            );
        }
        let name = CString::try_from_fmt(fmt!("{name}"))?;
        let events = Events::new()?;
        let hold = Hold::new()?;
        let overdue = Overdue::new(&events);
        let storage = Arc::pin_init(
            pin_init!(Self {
                name,
                alg,
                told,
                found: SetOnce::new(),
                metadata: metadata || alg.has_copies(),
                block_size,
                // Nothing on the nodes says which storage this is. So it is a new one each time, and this is the
                // only head that it ever has.
                fence: Fence {
                    storage: time::random_bytes(),
                    // Not that of the machine: of two that are started of the same nodes, under two names, one must lose.
                    head: time::random_bytes(),
                    epoch: 1,
                },
                hold,
                events,
                overdue <- Timer::new(overdue),
                health: Atomic::new(uapi::HEALTH_NONE),
                life <- new_mutex!(
                    Life {
                        net: None,
                        next_id: 0,
                        deleted: false,
                        moving: None,
                        linear: None,
                        device: None,
                        _module: ModuleRef::get(),
                    },
                    "dst::storage::life"
                ),
                inner <- NoIoMutex::new(new_mutex!(
                    Inner {
                        members: KVec::new(),
                        directories: KVec::new(),
                        disk: None,
                        mirror: None,
                        fence: None,
                        twin: None,
                        sectors: 0,
                        limits: Limits::default(),
                        settings: Settings::new(),
                    },
                    "dst::storage::inner"
                )),
            }),
            GFP_KERNEL,
        )?;
        let device =
            Device::register(subsystem, &storage.name, storage.clone()).map_err(|error| {
                if error == EEXIST {
                    Failure::new(
                        EEXIST,
                        fmt!(
                            "/sys/devices/{} exists already; choose another name",
                            storage.name()
                        ),
                    )
                } else {
                    error.into()
                }
            })?;
        storage.life.lock().device = Some(device);
        storage.events.watch(&storage);
        Ok(storage)
    }

    /// The name.
    pub(crate) fn name(&self) -> &str {
        self.name.to_str().unwrap_or("")
    }

    /// The algorithm's name.
    pub(crate) fn alg_name(&self) -> &'static str {
        self.alg().name()
    }

    /// Adds a node; gives its id. Waits for a remote node to answer. To a mirror that runs it is added as a copy.
    pub(crate) fn add(&self, want: Want) -> Done<u32> {
        let mut life = self.life.lock();
        if life.deleted || self.mirror().is_none() {
            self.check_stopped(&life)?;
        }
        let result = self.take_up(&mut life, want, None);
        drop(life);
        self.events.tell();
        result
    }

    /// Makes the disk appear. `flags`: `uapi::START_*`.
    pub(crate) fn start(&self, flags: u32) -> Done {
        let mut life = self.life.lock();
        self.check_stopped(&life)?;
        let assembled = self.assemble(flags);
        if assembled.is_err() {
            // Then that is why, whatever has failed.
            let other = self.hold.lost_to();
            self.release();
            if other != 0 {
                return claim::refuse(other);
            }
        }
        let Assembled {
            running,
            sectors,
            limits,
            linear,
            moving,
        } = assembled?;
        // Before there is a disk, too; if there will be none both end together.
        if let Some(resumed) = moving {
            self.adopt(&mut life, resumed);
        }
        let Some(device) = &life.device else {
            return Err(ENODEV.into());
        };
        let mirror = match &running {
            Running::Single(_) => None,
            Running::Mirror(mirror) => Some(mirror.engine().clone()),
        };
        // Before there is a disk: who waits for a node must be able to see that, and to end it.
        {
            let mut inner = self.inner.lock();
            if let Some(mirror) = &mirror {
                inner.settings.apply(mirror);
            }
            inner.mirror = mirror;
        }
        // Not under `inner`: looking for partitions reads from nodes, which may be lost by now.
        let disk = Arc::new(running, GFP_KERNEL)
            .map_err(Error::from)
            .and_then(|running| {
                let disk = Disk::new(
                    fmt!("dst-{}", self.name()),
                    running,
                    sectors,
                    &limits,
                    device.anchor(),
                )?;
                Ok(Arc::new(disk, GFP_KERNEL)?)
            });
        let disk = match disk {
            Ok(disk) => disk,
            Err(error) => {
                let mirror = self.inner.lock().mirror.take();
                drop(mirror);
                self.end_moving(&mut life);
                self.forget_copies();
                self.release();
                fail!(error, "the disk dst-{} can't be made", self.name());
            }
        };
        let mut inner = self.inner.lock();
        inner.sectors = sectors;
        inner.limits = limits;
        inner.disk = Some(disk);
        for member in &inner.members {
            member.settle();
        }
        drop(inner);
        self.show_replacement();
        Self::tell(device, "running");
        life.linear = linear;
        // What was lost meanwhile was told when nobody listened.
        self.events.tell();
        Ok(())
    }

    /// Makes the disk go; `EBUSY` while it is open.
    pub(crate) fn stop(&self) -> Done {
        let mut life = self.life.lock();
        if self.inner.lock().disk.is_none() {
            fail!(EINVAL, "{} does not run", self.name());
        }
        self.take_disk(&mut life)?;
        if let Some(device) = &life.device {
            Self::tell(device, "stopped");
        }
        Ok(())
    }

    /// Tells user space that the storage has changed its state.
    fn tell(device: &Device<Self>, state: &str) {
        if device.uevent(&[fmt!("DST_STATE={state}")]).is_err() {
            pr_warn!("{}: a uevent was lost\n", state);
        }
    }

    /// Ends the disk, if there is one.
    fn take_disk(&self, life: &mut Life) -> Done {
        let disk = {
            let mut inner = self.inner.lock();
            if let Some(disk) = &inner.disk {
                if disk.claim_idle().is_err() {
                    fail!(
                        EBUSY,
                        "/dev/dst-{} is in use (mounted, exported or open); unmount or close it first",
                        self.name()
                    );
                }
            }
            inner.sectors = 0;
            (inner.disk.take(), inner.mirror.take())
        };
        // Not under `inner`: the last I/O may wait for a lost node. The disk goes first: with it the mirror ends.
        let (disk, mirror) = disk;
        self.prepare_end(life);
        self.fail_gates();
        drop(disk);
        self.open_gates();
        self.abandon_moving(life);
        self.forget_copies();
        drop(mirror);
        self.release();
        Ok(())
    }

    /// Ends everything; `EBUSY` while the disk is open. Nothing of the storage is in use afterwards.
    pub(crate) fn delete(&self) -> Done {
        let mut life = self.life.lock();
        if life.deleted {
            return Err(ENOENT.into());
        }
        self.take_disk(&mut life)?;
        life.deleted = true;
        self.events.end();
        self.drop_members(&life, |_| true);
        // Every node is closed, the thread has nothing to do any more.
        drop(life.net.take());
        let device = life.device.take();
        drop(life);
        // A reader of sysfs may hold `inner`, so this waits without locks.
        drop(device);
        Ok(())
    }

    /// Removes a node, or all of them ([`uapi::ALL_NODES`]); `EBUSY` while the storage runs, unless it is a mirror that
    /// has another copy in sync.
    pub(crate) fn remove(&self, id: u32) -> Done {
        let life = self.life.lock();
        if let Some(mirror) = self.mirror().filter(|_| id != uapi::ALL_NODES) {
            if id & uapi::ABSENT != 0 {
                mirror.remove(mirror.absent_copy(id & !uapi::ABSENT)?)?;
                self.show_replacement();
                return Ok(());
            }
            let copy = {
                let inner = self.inner.lock();
                let member = inner.members.iter().find(|member| member.id == id);
                member.map(|member| member.copy())
            };
            let Some(copy) = copy else {
                fail!(ENOENT, "{} has no such node", self.name());
            };
            if let Some(copy) = copy {
                let moving = mirror.replacement();
                mirror.remove(copy)?;
                if moving.is_some_and(|moving| moving.has(copy)) {
                    self.tell_replacing("replace-cancelled");
                }
            }
            self.drop_members(&life, |member| member.id == id);
            self.show_replacement();
            drop(life);
            self.events.tell();
            return Ok(());
        }
        self.check_stopped(&life)?;
        if self.drop_members(&life, |member| id == uapi::ALL_NODES || member.id == id) == 0
            && id != uapi::ALL_NODES
        {
            fail!(ENOENT, "{} has no such node", self.name());
        }
        self.show_replacement();
        Ok(())
    }

    fn check_stopped(&self, life: &Life) -> Done {
        if life.deleted {
            return Err(ENOENT.into());
        }
        if self.inner.lock().disk.is_some() {
            fail!(
                EBUSY,
                "{0} runs; stop it first: \"dst stop {0}\"",
                self.name()
            );
        }
        Ok(())
    }
}
