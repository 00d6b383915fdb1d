// SPDX-License-Identifier: GPL-2.0

//! Where sockets live: addresses and network namespaces.

use super::super::c;
use crate::uapi;
use core::net::{
    IpAddr,
    Ipv6Addr,
    SocketAddr,
    SocketAddrV6, //
};
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    fmt,
    prelude::*, //
};

/// The address of one end of a connection: IPv4 or IPv6, port, and for IPv6 the scope (interface index).
///
/// Displayed as `192.168.4.80:1025`, `[::1]:1025` or `[fe80::1%2]:1025`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addr(SocketAddr);

impl Addr {
    /// An address; `scope` is ignored for IPv4.
    pub(crate) fn new(ip: IpAddr, port: u16, scope: u32) -> Self {
        Self(match ip {
            IpAddr::V4(_) => SocketAddr::new(ip, port),
            IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)),
        })
    }

    /// Understands an address of the control interface; `None` if its family is another one.
    pub(crate) fn from_uapi(raw: &uapi::Address) -> Option<Self> {
        let ip = match raw.family {
            uapi::AF_INET => {
                let [a, b, c, d, ..] = raw.bytes;
                IpAddr::from([a, b, c, d])
            }
            uapi::AF_INET6 => IpAddr::from(raw.bytes),
            _ => return None,
        };
        Some(Self::new(ip, raw.port, raw.scope))
    }

    /// As the control interface has it.
    pub(crate) fn to_uapi(self) -> uapi::Address {
        let mut raw = uapi::Address {
            family: self.family(),
            port: self.port(),
            scope: self.scope(),
            bytes: [0; 16],
        };
        match self.ip() {
            IpAddr::V4(ip) => raw.bytes[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => raw.bytes = ip.octets(),
        }
        raw
    }

    /// The address without the port.
    pub(crate) fn ip(&self) -> IpAddr {
        self.0.ip()
    }

    /// The TCP port.
    pub(crate) fn port(&self) -> u16 {
        self.0.port()
    }

    /// The interface index of a link-local IPv6 address; else 0.
    pub(crate) fn scope(&self) -> u32 {
        match self.0 {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        }
    }

    /// `AF_INET` or `AF_INET6`.
    pub(crate) fn family(&self) -> u16 {
        (match self.0 {
            SocketAddr::V4(_) => c::AF_INET,
            SocketAddr::V6(_) => c::AF_INET6,
        }) as u16
    }

    /// As the kernel wants it.
    pub(super) fn to_raw(self) -> RawAddr {
        let mut raw = RawAddr([0; 28]);
        raw.0[0..2].copy_from_slice(&self.family().to_ne_bytes());
        raw.0[2..4].copy_from_slice(&self.port().to_be_bytes());
        match self.0 {
            SocketAddr::V4(v4) => raw.0[4..8].copy_from_slice(&v4.ip().octets()),
            SocketAddr::V6(v6) => {
                raw.0[8..24].copy_from_slice(&v6.ip().octets());
                raw.0[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            }
        }
        raw
    }

    /// From what `get` writes into a `sockaddr_storage`; it returns the length, or an error.
    pub(super) fn from_raw(get: impl FnOnce(*mut c::sockaddr) -> c_int) -> Result<Self> {
        /// `struct sockaddr_storage`.
        #[repr(C, align(8))]
        struct Storage([u8; 128]);

        let mut storage = Storage([0; 128]);
        let length = get(core::ptr::from_mut(&mut storage).cast());
        to_result(length)?;
        let raw = storage.0;
        let port = u16::from_be_bytes([raw[2], raw[3]]);
        match u16::from_ne_bytes([raw[0], raw[1]]).into() {
            c::AF_INET => Ok(Self::new(
                IpAddr::from([raw[4], raw[5], raw[6], raw[7]]),
                port,
                0,
            )),
            c::AF_INET6 => {
                let mut ip = [0; 16];
                ip.copy_from_slice(&raw[8..24]);
                let scope = u32::from_ne_bytes([raw[24], raw[25], raw[26], raw[27]]);
                Ok(Self::new(Ipv6Addr::from(ip).into(), port, scope))
            }
            _ => Err(EAFNOSUPPORT),
        }
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(&self.0, f)
    }
}

/// `struct sockaddr_in` or `struct sockaddr_in6`, byte by byte.
#[repr(C, align(8))]
pub(super) struct RawAddr([u8; 28]);

impl RawAddr {
    /// To be given to C together with [`RawAddr::len`].
    pub(super) fn as_mut_ptr(&mut self) -> *mut c::sockaddr_unsized {
        core::ptr::from_mut(self).cast()
    }

    /// Enough for both kinds: C takes a `sockaddr_in` with something behind it.
    pub(super) fn len(&self) -> c_int {
        self.0.len() as c_int
    }
}

/// A network namespace.
///
/// # Invariants
///
/// Owns a reference to the namespace.
pub(crate) struct NetNs(NonNull<c::net>);

// SAFETY: References to a namespace belong to no thread.
unsafe impl Send for NetNs {}
// SAFETY: A shared reference allows for nothing but taking another reference.
unsafe impl Sync for NetNs {}

impl NetNs {
    /// The one of the current process. Process context.
    pub(crate) fn current() -> Self {
        // SAFETY: The current task has a namespace: it is not exiting, since it runs our code.
        let net = unsafe { c::dst_current_net_get() };
        // INVARIANT: The call took a reference.
        // SAFETY: A namespace is never null.
        Self(unsafe { NonNull::new_unchecked(net) })
    }

    pub(super) fn as_ptr(&self) -> *mut c::net {
        self.0.as_ptr()
    }
}

impl Clone for NetNs {
    fn clone(&self) -> Self {
        // SAFETY: The namespace is valid by the type invariant.
        unsafe { c::dst_net_get(self.as_ptr()) };
        // INVARIANT: The call took a reference.
        Self(self.0)
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant.
        unsafe { c::dst_net_put(self.as_ptr()) };
    }
}
