// SPDX-License-Identifier: GPL-2.0

//! The one system call that the standard library lacks. The only unsafe code of the command.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Passes `data` to the driver behind `file`, which reads it and writes its answer back.
///
/// Gives the error number on failure.
///
/// # Panics
///
/// If `command` was made for another length than that of `data`.
pub fn read_write(file: &File, command: u32, data: &mut [u8]) -> Result<(), i32> {
    // `_IOC_SIZE` and `_IOC_DIR` of the command word.
    assert_eq!((command >> 16) & 0x3fff, data.len() as u32);
    assert_eq!(command >> 30, 3);
    let request = libc::c_ulong::from(command);
    // SAFETY:
    // - `file` keeps the descriptor open during the call.
    // - The command word says `_IOWR` and the length of `data`, checked above; a driver of DST copies that
    //   many bytes from and to the pointer, no more, and keeps no reference to them.
    // - `data` is exclusively borrowed, and any bytes are valid in it.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), request, data.as_mut_ptr()) };
    if status >= 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(error.raw_os_error().unwrap_or(libc::EIO))
}
