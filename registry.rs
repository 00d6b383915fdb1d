// SPDX-License-Identifier: GPL-2.0

//! All storages and exports.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

use crate::{
    alg,
    export_node::ExportNode,
    failure::{
        fail,
        Done,
        Failure, //
    },
    kern::{
        module::ModuleRef,
        sysfs::{
            Anchor,
            Directory,
            Subsystem, //
        }, //
    },
    storage::{
        self,
        Storage, //
    },
    uapi,
};

/// An export and its directory in sysfs; the directory goes first.
struct Exported {
    directory: Directory<ExportNode>,
    export: Arc<ExportNode>,
    module: ModuleRef,
}

/// What is configured.
#[pin_data]
pub(crate) struct Registry {
    subsystem: Arc<Subsystem>,
    #[pin]
    storages: Mutex<KVec<Arc<Storage>>>,
    #[pin]
    exports: Mutex<KVec<Exported>>,
    /// Held over making and ending: two at once could take one name.
    #[pin]
    changing: Mutex<()>,
}

/// Checks a name that came from user space.
pub(crate) fn name(field: &[u8]) -> Done<&str> {
    match uapi::text(field) {
        Some(name) if uapi::valid_name(name) => Ok(name),
        _ => fail!(
            EINVAL,
            "a name has 1 to {} letters, digits, '.', '_' or '-', a letter or digit first",
            uapi::NAME_LEN - 1
        ),
    }
}

impl Registry {
    /// Nothing is configured.
    pub(crate) fn new(subsystem: Arc<Subsystem>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                subsystem,
                storages <- new_mutex!(KVec::new(), "dst::registry::storages"),
                exports <- new_mutex!(KVec::new(), "dst::registry::exports"),
                changing <- new_mutex!((), "dst::registry::changing"),
            }),
            GFP_KERNEL,
        )
    }

    /// Makes an empty storage.
    pub(crate) fn create(&self, request: &uapi::Create) -> Done {
        let name = name(&request.name)?;
        let mut wanted = uapi::text(&request.alg).unwrap_or("");
        if request.flags & !uapi::CREATE_METADATA != 0 {
            fail!(EINVAL, "unknown flags {:#x}", request.flags);
        }
        let metadata = request.flags & uapi::CREATE_METADATA != 0;
        // Without a name it is what the nodes tell; until they do, it counts as a mirror.
        let told = metadata && wanted.is_empty();
        if told {
            wanted = "alg_mirror";
        }
        let Some(algorithm) = alg::find(wanted) else {
            return Err(Failure::new(
                EINVAL,
                format_args!(
                    "there is no algorithm \"{wanted}\"; there are {}",
                    alg::Names
                ),
            ));
        };
        let _changing = self.changing.lock();
        if self.find(name).is_some() {
            fail!(
                EEXIST,
                "there is a storage {name} already; \"dst start\" starts it, \"dst add\" adds nodes to it, \
                 \"dst delete\" takes it down"
            );
        }
        let storage = Storage::new(
            &self.subsystem,
            &storage::Shape {
                name,
                alg: algorithm,
                told,
                metadata,
                block_size: request.block_size,
            },
        )?;
        if let Err(error) = self.storages.lock().push(storage.clone(), GFP_KERNEL) {
            storage.delete()?;
            return Err(error.into());
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<Arc<Storage>> {
        let storages = self.storages.lock();
        storages
            .iter()
            .find(|storage| storage.name() == name)
            .cloned()
    }

    /// Finds the storage that a request names.
    pub(crate) fn storage(&self, field: &[u8]) -> Done<Arc<Storage>> {
        let name = name(field)?;
        match self.find(name) {
            Some(storage) => Ok(storage),
            None => fail!(
                ENOENT,
                "there is no storage {name}; \"dst list\" shows what there is"
            ),
        }
    }

    /// The storage at a place of the list.
    pub(crate) fn storage_at(&self, index: u32) -> Option<Arc<Storage>> {
        self.storages.lock().get(index as usize).cloned()
    }

    /// Deletes a storage.
    pub(crate) fn delete(&self, field: &[u8]) -> Done {
        // Without `changing`: ending a storage may take long, and must not keep others waiting.
        let storage = self.storage(field)?;
        storage.delete()?;
        let mut storages = self.storages.lock();
        let gone = storages
            .iter()
            .position(|other| Arc::ptr_eq(other, &storage))
            .and_then(|index| storages.remove(index).ok());
        drop(storages);
        drop(gone);
        Ok(())
    }

    /// Exports a device.
    pub(crate) fn export(&self, anchor: &Anchor, request: &uapi::Export) -> Done {
        let name = name(&request.name)?;
        let _changing = self.changing.lock();
        if self
            .exports
            .lock()
            .iter()
            .any(|other| other.export.name() == name)
        {
            fail!(
                EEXIST,
                "there is an export {name} already; \"dst unexport\" ends it, or choose another name"
            );
        }
        let export = ExportNode::start(request)?;
        let result = self.publish(anchor, &export);
        if result.is_err() {
            export.stop();
        }
        result
    }

    fn publish(&self, anchor: &Anchor, export: &Arc<ExportNode>) -> Done {
        let directory = Directory::add(anchor, export.c_name(), export.clone())?;
        let mut exports = self.exports.lock();
        exports.reserve(1, GFP_KERNEL)?;
        exports.push(
            Exported {
                directory,
                export: export.clone(),
                module: ModuleRef::get(),
            },
            GFP_KERNEL,
        )?;
        Ok(())
    }

    /// Ends an export.
    pub(crate) fn unexport(&self, field: &[u8]) -> Done {
        let name = name(field)?;
        let exported = {
            let mut exports = self.exports.lock();
            let index = exports.iter().position(|other| other.export.name() == name);
            index.and_then(|index| exports.remove(index).ok())
        };
        let Some(Exported {
            directory,
            export,
            module,
        }) = exported
        else {
            fail!(
                ENOENT,
                "there is no export {name}; \"dst list\" shows what there is"
            );
        };
        drop(directory);
        // It may wait for a disk, but nobody else waits for it.
        export.stop();
        drop(export);
        drop(module);
        Ok(())
    }

    /// Tells about the export at `out.index`; `false` behind the last one.
    pub(crate) fn export_info(&self, out: &mut uapi::ExportInfo) -> bool {
        let export = {
            let exports = self.exports.lock();
            exports
                .get(out.index as usize)
                .map(|other| other.export.clone())
        };
        export.is_some_and(|export| {
            export.info(out);
            true
        })
    }
}
