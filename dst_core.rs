// SPDX-License-Identifier: GPL-2.0

//! DST: a block device made of local disks and remote machines.
//!
//! A *storage* is a disk, `/dev/dst-NAME`, whose sectors lie on *nodes*: local disks, and NBD servers that
//! are reached over TCP. An *algorithm* says where. An *export* is an NBD server for a local disk, or for
//! a storage, so that storages form trees. All of it is configured through `/dev/dst`.
//!
//! Arrows point one way: control and sysfs → storages and exports → nodes → network thread → `kern`. Only `kern`
//! has unsafe code. `alg`, `late`, `proto`, `send_queue`, `text` and `uapi` know no kernel: the tools and the host's
//! tests share them.

pub mod alg;
pub mod alg_linear;
pub mod alg_mirror;
mod array;
mod block_io;
mod claim;
mod control;
mod events;
mod export_node;
mod failure;
mod gate;
mod hold;
mod kern;
pub mod late;
mod limits;
mod linear;
mod member;
pub mod meta;
mod mirror;
mod net_state;
mod node_local;
mod node_remote;
pub mod proto;
mod registry;
mod remotes;
mod request;
pub mod send_queue;
mod shared;
pub mod sort;
mod storage;
mod superblocks;
mod sysfs;
pub mod text;
pub mod uapi;

use kernel::{
    miscdevice::{
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    sync::Arc, //
};

use control::Control;
use kern::{
    sysfs::{
        Anchor,
        Directory,
        Subsystem, //
    },
    work::ModuleQueue, //
};
use registry::Registry;
use shared::Shared;

/// What `dst --version` shows of the module.
pub(crate) const VERSION: &str = "0.1.0";

module! {
    type: Dst,
    name: "dst",
    authors: ["The DST authors"],
    description: "Block device made of local disks and remote machines",
    license: "GPL",
}

/// The loaded module. Its fields go in this order when it is unloaded; by then nothing is configured, as
/// each storage and export holds a reference to the module.
struct Dst {
    _unset: Unset,
    _exports: Directory<()>,
    _control: Arc<MiscDeviceRegistration<Control>>,
    _queue: ModuleQueue,
    _subsystem: Arc<Subsystem>,
}

/// Makes the module's things unknown, when it is dropped.
struct Unset;

impl Drop for Unset {
    fn drop(&mut self) {
        Shared::clear();
    }
}

impl kernel::Module for Dst {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let subsystem = Subsystem::new(c"dst")?;
        let queue = ModuleQueue::new()?;
        let registry = Registry::new(subsystem.clone())?;
        let options = MiscDeviceOptions { name: c"dst" };
        let control = Arc::pin_init(MiscDeviceRegistration::register(options), GFP_KERNEL)?;
        let misc = Anchor::misc(&subsystem, control.clone())?;
        let exports = Directory::add(&misc, c"exports", Arc::new((), GFP_KERNEL)?)?;
        Shared {
            registry,
            exports: exports.anchor().clone(),
        }
        .set()?;
        Ok(Self {
            _unset: Unset,
            _exports: exports,
            _control: control,
            _queue: queue,
            _subsystem: subsystem,
        })
    }
}
