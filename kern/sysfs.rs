// SPDX-License-Identifier: GPL-2.0

//! Directories in sysfs, with attributes that reach Rust data.
//!
//! A [`Device`] is `/sys/devices/NAME`; a [`Directory`] lies below one, below another directory, or
//! below our misc device. Both show their data, an [`Arc`], as the files of its [`Attributes`].
//!
//! What is dropped first does not matter. The drop of a `Device` or a `Directory` takes its
//! attributes away, waits for those in use, and lets the data go. The directory itself goes away
//! with the last thing in it: whoever puts something below holds an [`Anchor`]. The memory of the C
//! object goes with its reference count, which others may share; the [`Subsystem`], dropped last,
//! waits for that, since the code that frees it is in this module.
//!
//! Lock order: `Subsystem::adding`, then what sysfs locks. No lock is held while something is
//! removed.

mod attribute;
mod event;
mod place;

pub(crate) use attribute::{
    Attribute,
    Attributes,
    Text, //
};
pub(crate) use place::{
    Anchor,
    Subsystem, //
};

use super::c;
use attribute::Table;
use core::ptr::{
    self,
    NonNull, //
};
use kernel::{
    error::to_result,
    fmt,
    prelude::*,
    sync::{
        Arc,
        UniqueArc, //
    },
    types::ScopeGuard, //
};
use place::{
    release_device,
    Node,
    Place, //
};

/// The longest name that a lookup can find.
const NAME_MAX: usize = 255;

/// A device without parent: `/sys/devices/NAME`, on our bus, with attributes that show `T`.
///
/// Userspace hears of it (uevents `add`, `remove`) when its attributes are all there, and when the
/// directory goes.
///
/// Dropping it waits for attribute functions that run: not to be done by one of them, nor with a
/// lock held that one of them takes. See the [module](self) for the order of drops.
///
/// # Invariants
///
/// `anchor` is of a device whose node's data is `_data`.
pub(crate) struct Device<T: Attributes> {
    anchor: Anchor,
    /// What the attributes reach, for as long as they are there.
    _data: Arc<T>,
}

impl<T: Attributes> Device<T> {
    /// Registers the device `name`.
    ///
    /// Fails with `EEXIST` if there is something of that name in `/sys/devices`, ours or not, and
    /// with `EINVAL` if it can't be a file name. (Should another driver take the name at the same
    /// moment, then it is `EEXIST` as well, but the kernel log complains.)
    pub(crate) fn register(subsystem: &Arc<Subsystem>, name: &CStr, data: Arc<T>) -> Result<Self> {
        check_name(name)?;
        let place = UniqueArc::new_uninit(GFP_KERNEL)?;
        let dev: *mut c::device = Node::allocate(subsystem, &data)?;
        // SAFETY: The device is all zeros, and nobody else knows it yet. From here on its memory
        // belongs to its reference count, of which one is ours. Bus and table outlive the device.
        unsafe {
            c::device_initialize(dev);
            (*dev).release = Some(release_device);
            (*dev).bus = subsystem.bus.inner.get();
            (*dev).groups = Table::<T>::groups();
            c::dst_device_set_pm_not_required(dev);
        }
        // SAFETY: The reference is ours.
        let put = ScopeGuard::new(|| unsafe { c::put_device(dev) });
        // SAFETY: The device is initialized; the format takes exactly one argument, a C string.
        to_result(unsafe { c::dev_set_name(dev, c"%s".as_char_ptr(), name.as_char_ptr()) })?;
        {
            let _adding = subsystem.adding.lock();
            // SAFETY: An initialized device belongs to the set of all devices, which is always
            // registered: a device without parent is put there.
            unsafe { check_free((*(*dev).kobj.kset).kobj.sd, name) }?;
            // SAFETY: The device is complete. Its attributes may be used from here on: the node's
            // data is alive, as we hold it, and of the table's type.
            to_result(unsafe { c::device_add(dev) })?;
        }
        put.dismiss();
        // INVARIANT: The device is registered. Above it there is nothing that could go away.
        let place = place.write(Place::Device {
            // SAFETY: `Node::allocate` returns no null.
            dev: unsafe { NonNull::new_unchecked(dev) },
            subsystem: subsystem.clone(),
        });
        // INVARIANT: `data` was given to the node.
        Ok(Self {
            anchor: Anchor(place.into()),
            _data: data,
        })
    }

    /// What keeps `/sys/devices/NAME` there: for what lies below.
    pub(crate) fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// Sends a uevent `change` with `strings`, each `KEY=value`, beside what the kernel adds.
    ///
    /// Fails with `E2BIG` if they are more than 14 or longer than 500 bytes, with `EINVAL` if one
    /// has no key. Sleeps.
    pub(crate) fn uevent(&self, strings: &[fmt::Arguments<'_>]) -> Result {
        self.anchor.0.uevent(strings)
    }
}

impl<T: Attributes> Drop for Device<T> {
    fn drop(&mut self) {
        // SAFETY: The device is registered, with this table. When the call returns, its attributes
        // are not in use and can't be used any more, so `_data` may go.
        unsafe { c::sysfs_remove_groups(self.anchor.0.kobject(), Table::<T>::groups()) };
    }
}

/// A directory below a [`Device`], another directory or the misc device, with attributes that show
/// `T`.
///
/// Of its coming and going userspace hears only by [`Directory::uevent`]: it is no device.
///
/// Dropping it waits for attribute functions that run: not to be done by one of them, nor with a
/// lock held that one of them takes. See the [module](self) for the order of drops.
///
/// # Invariants
///
/// `anchor` is of a directory whose node's data is `_data`.
pub(crate) struct Directory<T: Attributes> {
    anchor: Anchor,
    /// What the attributes reach, for as long as they are there.
    _data: Arc<T>,
}

impl<T: Attributes> Directory<T> {
    /// Makes the directory `name` below `parent`.
    ///
    /// Fails with `EEXIST` if there is something of that name, be it an attribute of the parent,
    /// and with `EINVAL` if it can't be a file name.
    pub(crate) fn add(parent: &Anchor, name: &CStr, data: Arc<T>) -> Result<Self> {
        check_name(name)?;
        let path = join(parent.0.path(), name)?;
        let place = UniqueArc::new_uninit(GFP_KERNEL)?;
        let subsystem = parent.0.subsystem();
        let kobj: *mut c::kobject = Node::allocate(subsystem, &data)?;
        // SAFETY: The kobject is all zeros, and nobody else knows it yet. From here on its memory
        // belongs to its reference count, of which one is ours.
        unsafe { c::kobject_init(kobj, Table::<T>::KOBJECT) };
        // SAFETY: The reference is ours.
        let put = ScopeGuard::new(|| unsafe { c::kobject_put(kobj) });
        {
            let _adding = subsystem.adding.lock();
            let above = parent.0.kobject();
            // SAFETY: By the type invariant of `Place` the parent is registered: it has a
            // directory.
            unsafe { check_free((*above).sd, name) }?;
            // SAFETY: The kobject is initialized, the parent registered, and the format takes
            // exactly one argument, a C string. The attributes may be used from here on: the node's
            // data is alive, as we hold it, and of the table's type.
            to_result(unsafe {
                c::kobject_add(kobj, above, c"%s".as_char_ptr(), name.as_char_ptr())
            })?;
        }
        put.dismiss();
        // INVARIANT: The directory is registered; all above is kept so by the parent.
        let place = place.write(Place::Directory {
            // SAFETY: `Node::allocate` returns no null.
            kobj: unsafe { NonNull::new_unchecked(kobj) },
            path,
            parent: parent.clone(),
        });
        // INVARIANT: `data` was given to the node.
        Ok(Self {
            anchor: Anchor(place.into()),
            _data: data,
        })
    }

    /// What keeps the directory there: for what lies below.
    pub(crate) fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// Sends a uevent `change` of the device above, with `DST_DIRECTORY=` and the path from there
    /// to this directory, and with `strings`, as [`Device::uevent`] does.
    ///
    /// (The driver core lets only devices send uevents.)
    pub(crate) fn uevent(&self, strings: &[fmt::Arguments<'_>]) -> Result {
        self.anchor.0.uevent(strings)
    }
}

impl<T: Attributes> Drop for Directory<T> {
    fn drop(&mut self) {
        // SAFETY: The directory is registered, with this table. When the call returns, its
        // attributes are not in use and can't be used any more, so `_data` may go.
        unsafe { c::sysfs_remove_groups(self.anchor.0.kobject(), Table::<T>::groups()) };
    }
}

/// The path `above/name`, or `name` alone, byte for byte.
fn join(above: Option<&[u8]>, name: &CStr) -> Result<KVec<u8>> {
    let mut path = KVec::new();
    if let Some(above) = above {
        path.extend_from_slice(above, GFP_KERNEL)?;
        path.push(b'/', GFP_KERNEL)?;
    }
    path.extend_from_slice(name.to_bytes(), GFP_KERNEL)?;
    Ok(path)
}

/// Fails with `EINVAL` unless `name` can be the name of a file that people can handle.
fn check_name(name: &CStr) -> Result {
    let bytes = name.to_bytes();
    let bad = matches!(bytes, b"" | b"." | b"..")
        || bytes.len() > NAME_MAX
        || bytes.iter().any(|&b| b == b'/' || b.is_ascii_control());
    if bad {
        Err(EINVAL)
    } else {
        Ok(())
    }
}

/// Fails with `EEXIST` if the directory `parent` of sysfs has something called `name`: if it were
/// only tried, sysfs would dump the stack.
///
/// # Safety
///
/// `parent` must be a directory of sysfs, or null.
unsafe fn check_free(parent: *mut c::kernfs_node, name: &CStr) -> Result {
    if parent.is_null() {
        return Err(ENOENT);
    }
    // SAFETY: By the requirements; no directory in which we look is divided into namespaces.
    let there = unsafe { c::kernfs_find_and_get_ns(parent, name.as_char_ptr(), ptr::null()) };
    if there.is_null() {
        return Ok(());
    }
    // SAFETY: The lookup gave us a reference.
    unsafe { c::kernfs_put(there) };
    Err(EEXIST)
}
