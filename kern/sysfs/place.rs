// SPDX-License-Identifier: GPL-2.0

//! What devices and directories are made of: places in sysfs, and the memory of the C objects.

use super::{
    super::c,
    event::{
        Event,
        EVENT_BYTES, //
    }, //
};
use core::{
    ffi::c_void,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    fmt,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Completion,
        Mutex,
        Refcount, //
    },
    types::Opaque, //
};

/// The bus to which all our devices belong. A device on no bus and in no class would send no
/// uevents.
///
/// # Invariants
///
/// `inner` is registered, and pinned.
#[pin_data(PinnedDrop)]
pub(super) struct Bus {
    #[pin]
    pub(super) inner: Opaque<c::bus_type>,
}

impl Bus {
    fn new(name: &'static CStr) -> impl PinInit<Self, Error> {
        // INVARIANT: There is a `Bus` only if the registration succeeds.
        try_pin_init!(Self {
            inner <- Opaque::try_ffi_init(|slot: *mut c::bus_type| {
                let mut bus: c::bus_type = pin_init::zeroed();
                bus.name = name.as_char_ptr();
                // SAFETY: The slot may be written to.
                unsafe { slot.write(bus) };
                // SAFETY: The bus is initialized, and its name lives for ever. It stays in place
                // until it is unregistered by the drop.
                to_result(unsafe { c::bus_register(slot) })
            }),
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Bus {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the bus is registered.
        unsafe { c::bus_unregister(self.inner.get()) };
    }
}

/// What all our devices and directories have in common. The module has exactly one, and drops it
/// last.
///
/// Dropping it waits until nobody refers to any of our objects.
#[pin_data(PinnedDrop)]
pub(crate) struct Subsystem {
    #[pin]
    pub(super) bus: Bus,
    /// Held from looking whether a name is free until it is taken.
    #[pin]
    pub(super) adding: Mutex<()>,
    /// How many nodes there are, and one for this itself.
    objects: Refcount,
    /// Done when `objects` is 0.
    #[pin]
    released: Completion,
}

// SAFETY: A bus may be registered, used and unregistered by any task; the other fields are `Send`.
unsafe impl Send for Subsystem {}
// SAFETY: Nothing but a pointer to the bus is taken through a shared reference; the other fields
// are `Sync`.
unsafe impl Sync for Subsystem {}

impl Subsystem {
    /// Registers the subsystem: `/sys/bus/NAME`, and `SUBSYSTEM=NAME` in the uevents of devices.
    pub(crate) fn new(name: &'static CStr) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                bus <- Bus::new(name),
                adding <- new_mutex!((), "Subsystem::adding"),
                objects: Refcount::new(1),
                released <- Completion::new(),
            }),
            GFP_KERNEL,
        )
    }

    fn put(&self) {
        if self.objects.dec_and_test() {
            self.released.complete_all();
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Subsystem {
    fn drop(self: Pin<&mut Self>) {
        self.put();
        self.released.wait_for_completion();
    }
}

/// The memory of a C object with a reference count, and what its callbacks need. Its release frees
/// it.
///
/// # Invariants
///
/// - `object` is at the front.
/// - While attributes of the object are registered, `data` points to the live `T` that their table
///   is for.
/// - `subsystem` points to a live subsystem, which counts this node.
#[repr(C)]
pub(super) struct Node<K> {
    object: Opaque<K>,
    data: *const c_void,
    subsystem: NonNull<Subsystem>,
}

impl<K> Node<K> {
    /// Allocates a node whose object is all zeros, for the caller to initialize, or to pass to
    /// [`Self::free`].
    pub(super) fn allocate<T>(subsystem: &Arc<Subsystem>, data: &Arc<T>) -> Result<*mut K> {
        let node = KBox::new(
            Self {
                object: Opaque::zeroed(),
                data: Arc::as_ptr(data).cast(),
                subsystem: NonNull::from(&**subsystem),
            },
            GFP_KERNEL,
        )?;
        // INVARIANT: Now it counts this; its drop waits for `free`.
        subsystem.objects.inc();
        Ok(KBox::into_raw(node).cast())
    }

    /// # Safety
    ///
    /// `object` must come from [`Self::allocate`], and nobody may use it any more.
    unsafe fn free(object: *mut K) {
        // SAFETY: By the requirements, and since the object is at the front.
        let node = unsafe { KBox::from_raw(object.cast::<Self>()) };
        let subsystem = node.subsystem;
        drop(node);
        // SAFETY: By the type invariant the subsystem has counted the node until now.
        unsafe { subsystem.as_ref() }.put();
    }

    /// # Safety
    ///
    /// `object` must come from [`Self::allocate`] with a `T`, and attributes of it be registered
    /// for all of `'a`.
    pub(super) unsafe fn data<'a, T>(object: *mut K) -> &'a T {
        // SAFETY: By the requirements, and by the type invariants.
        unsafe { &*(*object.cast::<Self>()).data.cast::<T>() }
    }
}

/// # Safety
///
/// For the driver core only, when the last reference to a device of ours is gone.
pub(super) unsafe extern "C" fn release_device(dev: *mut c::device) {
    // SAFETY: Only devices from `Node::allocate` have this release function, and there are no
    // references any more.
    unsafe { Node::free(dev) };
}

/// # Safety
///
/// For the kobject core only, when the last reference to a directory of ours is gone.
pub(super) unsafe extern "C" fn release_directory(kobj: *mut c::kobject) {
    // SAFETY: Only kobjects from `Node::allocate` have a type with this release function, and there
    // are no references any more.
    unsafe { Node::free(kobj) };
}

/// A place in sysfs below which something can be put.
///
/// # Invariants
///
/// The object in it is registered. So is all that is above it.
pub(super) enum Place {
    /// `/sys/devices/NAME`
    Device {
        dev: NonNull<c::device>,
        subsystem: Arc<Subsystem>,
    },
    /// A directory below another place. `path` begins below the place's device.
    Directory {
        kobj: NonNull<c::kobject>,
        path: KVec<u8>,
        parent: Anchor,
    },
    /// The directory of our misc device.
    Misc {
        dev: NonNull<c::device>,
        subsystem: Arc<Subsystem>,
        _registration: Arc<dyn Send + Sync>,
    },
}

// SAFETY: The C objects have reference counts and locks of their own, and may be used by any task.
unsafe impl Send for Place {}
// SAFETY: As above.
unsafe impl Sync for Place {}

impl Place {
    pub(super) fn subsystem(&self) -> &Arc<Subsystem> {
        match self {
            Place::Device { subsystem, .. } | Place::Misc { subsystem, .. } => subsystem,
            Place::Directory { parent, .. } => parent.0.subsystem(),
        }
    }

    /// The device in whose directory this place is, or is that of.
    fn device(&self) -> *mut c::device {
        match self {
            Place::Device { dev, .. } | Place::Misc { dev, .. } => dev.as_ptr(),
            Place::Directory { parent, .. } => parent.0.device(),
        }
    }

    /// The place as a kobject.
    pub(super) fn kobject(&self) -> *mut c::kobject {
        match self {
            // SAFETY: By the type invariant the device is valid; only the address of a field is
            // taken.
            Place::Device { dev, .. } | Place::Misc { dev, .. } => unsafe {
                &raw mut (*dev.as_ptr()).kobj
            },
            Place::Directory { kobj, .. } => kobj.as_ptr(),
        }
    }

    pub(super) fn path(&self) -> Option<&[u8]> {
        match self {
            Place::Device { .. } | Place::Misc { .. } => None,
            Place::Directory { path, .. } => Some(path),
        }
    }

    /// Sends a uevent `change`.
    pub(super) fn uevent(&self, strings: &[fmt::Arguments<'_>]) -> Result {
        let mut buffer = [0; EVENT_BYTES];
        let mut event = Event::new(&mut buffer);
        if let Some(path) = self.path() {
            event.add(|text| {
                text.push(b"DST_DIRECTORY=");
                text.push(path);
                Ok(())
            })?;
        }
        for &string in strings {
            event.add(|text| fmt::Write::write_fmt(text, string))?;
        }
        // SAFETY: By the type invariant the device is registered. The strings end in NUL, their
        // list in null.
        to_result(unsafe {
            c::kobject_uevent_env(
                &raw mut (*self.device()).kobj,
                c::kobject_action_KOBJ_CHANGE,
                event.list(),
            )
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self {
            Place::Device { dev, .. } => {
                // SAFETY: By the type invariant the device is registered, and this was the last
                // user: what is below holds an anchor. With the registration, our reference ends.
                unsafe {
                    c::device_del(dev.as_ptr());
                    c::put_device(dev.as_ptr());
                }
            }
            Place::Directory { kobj, .. } => {
                // SAFETY: As above.
                unsafe {
                    c::kobject_del(kobj.as_ptr());
                    c::kobject_put(kobj.as_ptr());
                }
            }
            Place::Misc { .. } => {}
        }
    }
}

/// Keeps a place in sysfs registered, for those who put something below it.
#[derive(Clone)]
pub(crate) struct Anchor(pub(super) Arc<Place>);

impl Anchor {
    /// The directory of our misc device, which stays registered as long as this, or a directory
    /// below, lives.
    pub(crate) fn misc<M: MiscDevice + 'static>(
        subsystem: &Arc<Subsystem>,
        registration: Arc<MiscDeviceRegistration<M>>,
    ) -> Result<Self> {
        // SAFETY: A registered misc device has a device, and the pointer to it does not change.
        let dev = unsafe { (*registration.as_raw()).this_device };
        let place = Place::Misc {
            dev: NonNull::new(dev).ok_or(ENODEV)?,
            subsystem: subsystem.clone(),
            _registration: registration,
        };
        // INVARIANT: The misc device is registered for as long as we hold its registration.
        Ok(Self(Arc::new(place, GFP_KERNEL)?))
    }

    /// The device, to be the parent of another one; valid as long as this is held.
    pub(in crate::kern) fn as_raw(&self) -> *mut c::device {
        self.0.device()
    }
}
