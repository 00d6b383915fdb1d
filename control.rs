// SPDX-License-Identifier: GPL-2.0

//! `/dev/dst`: ioctls of the root user.

use kernel::{
    fs::File,
    ioctl::_IOC_SIZE,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    prelude::*,
    sync::Arc,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use crate::{
    failure::{
        Done,
        Failure, //
    },
    kern::cap,
    member::Want,
    shared::Shared,
    uapi::{
        self,
        Request, //
    },
};

/// An open `/dev/dst`.
pub(crate) struct Control {
    shared: Arc<Shared>,
}

#[vtable]
impl MiscDevice for Control {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        cap::require_admin()?;
        let shared = Shared::get().ok_or(ENODEV)?;
        Ok(KBox::new(Self { shared }, GFP_KERNEL)?)
    }

    fn ioctl(this: &Self, _file: &File, command: u32, arg: usize) -> Result<isize> {
        // Again: the file may have been passed on to somebody.
        cap::require_admin()?;
        this.dispatch(command, arg)
    }

    #[cfg(CONFIG_COMPAT)]
    fn compat_ioctl(this: &Self, file: &File, command: u32, arg: usize) -> Result<isize> {
        // Every structure has the same layout for both.
        Self::ioctl(this, file, command, arg)
    }
}

impl Control {
    fn dispatch(&self, command: u32, arg: usize) -> Result<isize> {
        let registry = &self.shared.registry;
        match command {
            uapi::Version::COMMAND => call(arg, |r: &mut uapi::Version| {
                r.abi = uapi::ABI_VERSION;
                // It is shorter than the field.
                let _ = uapi::set_text(&mut r.text, crate::VERSION);
                Ok(())
            }),
            uapi::Create::COMMAND => call(arg, |r: &mut uapi::Create| registry.create(r)),
            uapi::AddNode::COMMAND => call(arg, |r: &mut uapi::AddNode| {
                let storage = registry.storage(&r.name)?;
                r.node = match r.flags & uapi::NODE_REPLACE {
                    0 => storage.add(Want::new(r)?)?,
                    _ => storage.replace(Want::new(r)?, r.replaces)?,
                };
                Ok(())
            }),
            uapi::Start::COMMAND => call(arg, |r: &mut uapi::Start| {
                registry.storage(&r.0.name)?.start(r.0.flags)
            }),
            uapi::Stop::COMMAND => call(arg, |r: &mut uapi::Stop| {
                registry.storage(&r.0.name)?.stop()
            }),
            uapi::Delete::COMMAND => call(arg, |r: &mut uapi::Delete| registry.delete(&r.0.name)),
            uapi::RemoveNode::COMMAND => call(arg, |r: &mut uapi::RemoveNode| {
                registry.storage(&r.0.name)?.remove(r.0.node)
            }),
            uapi::FailNow::COMMAND => call(arg, |r: &mut uapi::FailNow| {
                registry.storage(&r.0.name)?.fail_now(r.0.node)
            }),
            uapi::SetNode::COMMAND => call(arg, |r: &mut uapi::SetNode| {
                registry.storage(&r.name)?.set(r.node, r.what, r.value)
            }),
            uapi::Export::COMMAND => call(arg, |r: &mut uapi::Export| {
                registry.export(&self.shared.exports, r)
            }),
            uapi::Unexport::COMMAND => {
                call(arg, |r: &mut uapi::Unexport| registry.unexport(&r.0.name))
            }
            uapi::StorageInfo::COMMAND => call(arg, |r: &mut uapi::StorageInfo| {
                match registry.storage_at(r.index) {
                    Some(storage) => storage.info(r),
                    None => return Err(ENOENT.into()),
                }
                Ok(())
            }),
            uapi::NodeInfo::COMMAND => call(arg, |r: &mut uapi::NodeInfo| {
                end_of_list(registry.storage(&r.name)?.node_info(r))
            }),
            uapi::ExportInfo::COMMAND => call(arg, |r: &mut uapi::ExportInfo| {
                end_of_list(registry.export_info(r))
            }),
            uapi::SuspendNode::COMMAND => call(arg, |r: &mut uapi::SuspendNode| {
                registry.storage(&r.0.name)?.suspend(r.0.node)
            }),
            uapi::ResumeNode::COMMAND => call(arg, |r: &mut uapi::ResumeNode| {
                registry.storage(&r.0.name)?.resume(r.0.node)
            }),
            uapi::SetStorage::COMMAND => call(arg, |r: &mut uapi::SetStorage| {
                registry.storage(&r.name)?.set_storage(r.what, r.value)
            }),
            uapi::CancelReplace::COMMAND => call(arg, |r: &mut uapi::CancelReplace| {
                registry.storage(&r.0.name)?.cancel_replace(r.0.node)
            }),
            uapi::DiscardNode::COMMAND => call(arg, |r: &mut uapi::DiscardNode| {
                registry.storage(&r.0.name)?.discard(r.0.node)
            }),
            _ if (command >> 8) & 0xff == uapi::IOCTL_TYPE => mismatch(command, arg),
            _ => Err(ENOTTY),
        }
    }
}

fn end_of_list(there: bool) -> Done {
    if there {
        Ok(())
    } else {
        Err(ENOENT.into())
    }
}

/// Reads a request, acts, and writes the request back with what it has become.
// Each has a frame of its own: one for all of them would be too large for a kernel's stack.
#[inline(never)]
fn call<R: Request>(arg: usize, act: impl FnOnce(&mut R) -> Done) -> Result<isize> {
    let mut request = KBox::new(R::default(), GFP_KERNEL)?;
    let size = core::mem::size_of::<R>();
    let (mut reader, mut writer) = UserSlice::new(UserPtr::from_addr(arg), size).reader_writer();
    reader.read_slice(request.as_mut_bytes())?;
    let header = *request.header();
    // Whoever asks for the version must be told it, in any case.
    let same = header.version == uapi::ABI_VERSION || R::NR == uapi::Version::NR;
    let result = if !same || header.size as usize != size {
        Err(other_version(header.version))
    } else {
        act(&mut request)
    };
    let failure = result.err();
    let message = failure.as_ref().map_or("", Failure::message);
    // It was cut to fit.
    let _ = uapi::set_text(&mut request.header().message, message);
    writer.write_slice(request.as_bytes())?;
    match failure {
        None => Ok(0),
        Some(failure) => Err(failure.error),
    }
}

fn other_version(version: u32) -> Failure {
    Failure::new(
        EPROTO,
        fmt!(
            "the module speaks version {} of the control interface, the command version {version}; \
             install both from the same release",
            uapi::ABI_VERSION
        ),
    )
}

/// Tells the user of a request that we don't know, as far as it has a place for that.
fn mismatch(command: u32, arg: usize) -> Result<isize> {
    let header = core::mem::size_of::<uapi::Header>();
    if _IOC_SIZE(command) >= header {
        return call_header(arg, header);
    }
    Err(EPROTO)
}

fn call_header(arg: usize, size: usize) -> Result<isize> {
    let mut header = uapi::Header::of::<uapi::Header>();
    let (mut reader, mut writer) = UserSlice::new(UserPtr::from_addr(arg), size).reader_writer();
    reader.read_slice(zerocopy::IntoBytes::as_mut_bytes(&mut header))?;
    let failure = other_version(header.version);
    // It was cut to fit.
    let _ = uapi::set_text(&mut header.message, failure.message());
    writer.write_slice(zerocopy::IntoBytes::as_bytes(&header))?;
    Err(failure.error)
}
