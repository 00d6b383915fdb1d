// SPDX-License-Identifier: GPL-2.0

//! Talking to the module: requests go through `/dev/dst`.

use std::fs::{
    File,
    OpenOptions, //
};
use std::io;
use std::path::Path;

use dst_core::uapi::{
    self,
    Header,
    Request,
    Version,
    ABI_VERSION,
    CONTROL_PATH, //
};
use zerocopy::IntoBytes;

use crate::error::{
    Error,
    Refusal,
    Result, //
};
use crate::ioctl;
use crate::uri::printable;

/// The way to the module: the real one, or one that a test made up.
pub trait Control {
    /// Passes the bytes of one request and lets the answer be written over them; an error is an errno.
    fn ioctl(&self, command: u32, data: &mut [u8]) -> std::result::Result<(), i32>;
}

/// The control device.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens the control device.
    pub fn open(path: &Path) -> Result<Self> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Ok(Self(file)),
            Err(error) => Err(Error::Failed(cant_open(path, &error))),
        }
    }
}

impl Control for Device {
    fn ioctl(&self, command: u32, data: &mut [u8]) -> std::result::Result<(), i32> {
        ioctl::read_write(&self.0, command, data)
    }
}

/// Says why the control device can't be opened.
fn cant_open(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    match error.raw_os_error() {
        Some(libc::ENOENT) if path == Path::new(CONTROL_PATH) => format!(
            "{shown} is missing: the kernel module is not loaded; load it with 'modprobe dst'"
        ),
        Some(libc::ENOENT) => format!(
            "{shown} is missing; the control device of DST is {CONTROL_PATH}, and it is there once the \
             kernel module is loaded ('modprobe dst')"
        ),
        Some(libc::ENODEV | libc::ENXIO) => format!(
            "nothing is behind {shown}: the kernel module is not loaded; load it with 'modprobe dst'"
        ),
        Some(libc::EACCES | libc::EPERM) => {
            format!("no permission to open {shown}: only root may; use sudo")
        }
        _ => format!("can't open {shown}: {error}"),
    }
}

/// Makes a request.
pub fn call<T: Request>(
    control: &dyn Control,
    request: &mut T,
) -> std::result::Result<(), Refusal> {
    *request.header() = Header::of::<T>();
    let Err(errno) = control.ioctl(T::COMMAND, request.as_mut_bytes()) else {
        return Ok(());
    };
    let mut refusal = Refusal {
        errno,
        message: uapi::text(&request.header().message)
            .map(printable)
            .unwrap_or_default(),
    };
    // EPROTO can also be a server's fault; a module of another version refuses every request, whatever it
    // asks for. ENOTTY: this module, or a wholly other driver, does not know the request at all.
    if matches!(errno, libc::EPROTO | libc::ENOTTY) {
        if let Some(message) = version_mismatch(control, errno) {
            refusal.message = message;
        }
    }
    Err(refusal)
}

/// Compares the module's version with that of this command; gives a text when they don't fit.
fn version_mismatch(control: &dyn Control, errno: i32) -> Option<String> {
    let mut request = Version::default();
    *request.header() = Header::of::<Version>();
    let answer = control.ioctl(Version::COMMAND, request.as_mut_bytes());
    let module = match answer {
        Ok(()) if request.abi == ABI_VERSION && errno == libc::EPROTO => return None,
        Ok(()) => format!(
            "the loaded module is version {} (interface {})",
            printable(uapi::text(&request.text).unwrap_or("?")),
            request.abi
        ),
        Err(libc::ENOTTY) => return Some("this is not the control device of DST".into()),
        Err(libc::EPROTO) => "the loaded module has another interface".into(),
        Err(_) => return None,
    };
    Some(format!(
        "{module}, this command is version {} (interface {ABI_VERSION}); install both from the same \
         release and load the module anew ('modprobe -r dst; modprobe dst')",
        env!("CARGO_PKG_VERSION")
    ))
}

/// Puts text into a field; what does not fit was refused when the command line was read, or is refused
/// here.
pub fn put(field: &mut [u8], text: &str) -> Result {
    uapi::set_text(field, text).ok_or_else(|| {
        Error::Usage(format!(
            "'{}' is too long; the limit is {} bytes",
            printable(text),
            field.len() - 1
        ))
    })
}
