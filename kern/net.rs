// SPDX-License-Identifier: GPL-2.0

//! TCP sockets of the kernel, non-blocking throughout.
//!
//! Context: all functions want process context (they take the socket's lock, which may sleep for as long as
//! another task or softirq works on the socket; none waits for the network), save [`Socket::poll`] and
//! [`Remains::gone`], which go anywhere.
//!
//! Locks: `lock_sock` only, which is innermost: whatever lock a caller holds comes before it, and nothing of ours is
//! taken under it. So a [`Sink`] must not end bios, send, or sleep. Over loopback, what is sent runs the other
//! end's receive path in the sender's own softirq, wake functions included: hold no lock across a send that those want.
//!
//! Memory: a send may come from reclaim, so it may use the reserves (`memalloc_noreclaim`, `sk_set_memalloc`) and never
//! starts I/O (`GFP_NOIO`). Creating, accepting and closing run with no I/O allowed. Nothing here allocates to
//! send or receive; TCP's own buffers are TCP's.
//!
//! LSMs: sockets are made with kernel credentials, and sends don't ask the sender's, since any task may be the one
//! whose `submit_bio` sends.

mod addr;
mod receive;

use super::c;
use super::mem::{
    NoIoScope,
    NoReclaimScope, //
};
use super::segments::{
    Direction,
    Segments, //
};
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    prelude::*,
    sync::Arc,
    types::NotThreadSafe, //
};

pub(crate) use addr::{
    Addr,
    NetNs, //
};
pub(crate) use receive::{
    Incoming,
    Sink, //
};

/// A set of poll events.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Events(u32);

impl Events {
    /// No event.
    pub(crate) const NONE: Self = Self(0);
    /// Data, end of data, or an error can be received; a connection can be accepted.
    pub(crate) const IN: Self = Self(c::POLLIN);
    /// There is room to send (a third of the send buffer), or sending fails at once; a connect succeeded.
    pub(crate) const OUT: Self = Self(c::POLLOUT);
    /// The connection is gone in both directions.
    pub(crate) const HUP: Self = Self(c::POLLHUP);
    /// An error is pending.
    pub(crate) const ERR: Self = Self(c::POLLERR);
    /// What a receiver waits for.
    pub(crate) const RECEIVE: Self = Self(c::POLLIN | c::POLLHUP | c::POLLERR | c::POLLRDHUP);

    /// From the kernel's representation.
    pub(crate) const fn from_mask(mask: u32) -> Self {
        Self(mask)
    }

    /// The kernel's representation.
    pub(crate) const fn mask(self) -> u32 {
        self.0
    }

    /// Whether one event of `self` is also in `other`.
    pub(crate) const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Events of `self` or `other`.
    pub(crate) const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Events of `self` that are not in `other`.
    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// How a connection is set up.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// Seconds without a sign of life from the peer after which the connection fails with `ETIMEDOUT`, at least 1:
    /// an idle peer is probed several times in that time, and unacknowledged data wait no longer. Neither does a peer
    /// that leaves its receive window closed with data of ours behind it.
    pub(crate) dead_after_s: u32,
    /// `SO_PRIORITY`; 0: the default.
    pub(crate) priority: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dead_after_s: 15,
            priority: 0,
        }
    }
}

/// A TCP socket. Used through an [`Arc`]; dropping it aborts the connection (RST) unless [`Socket::finish`] was called.
///
/// # Invariants
///
/// `sock` is a valid TCP socket that was made by the kernel for us; this owns it. Its `sk` never changes.
/// It holds its network namespace. It has no file.
pub(crate) struct Socket {
    sock: NonNull<c::socket>,
}

// SAFETY: A `struct socket` belongs to no thread, and all that we call takes the socket's lock or reads single words.
unsafe impl Send for Socket {}
// SAFETY: As above.
unsafe impl Sync for Socket {}

/// Who a socket is made for.
fn with_kernel_creds<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: The kernel's credentials are never freed, and the old ones stay referenced by this task's `real_cred` or
    // by whoever overrode them before: they are put back below, in the same function.
    let old = unsafe { c::dst_kernel_creds_enter() };
    let result = f();
    // SAFETY: `old` came from the matching call, on the same task.
    unsafe { c::dst_kernel_creds_leave(old) };
    result
}

impl Socket {
    fn create(ns: &NetNs, at: &Addr, role: c::dst_socket_role) -> Result<Self> {
        let mut sock = core::ptr::null_mut();
        // SAFETY: `ns` holds a reference to the namespace, `sock` is valid for writing.
        to_result(unsafe {
            c::sock_create_kern(
                ns.as_ptr(),
                at.family().into(),
                c::sock_type_SOCK_STREAM as c_int,
                c::IPPROTO_TCP as c_int,
                &mut sock,
            )
        })?;
        // INVARIANT: A new socket, and nobody else has it. `dst_socket_prepare` makes it hold its namespace.
        let socket = Self {
            sock: NonNull::new(sock).ok_or(ENOMEM)?,
        };
        // SAFETY: The socket is neither bound nor connected, and nobody else uses it.
        unsafe { c::dst_socket_prepare(sock, role) };
        Ok(socket)
    }

    /// Starts to connect to `to`. That it is still under way is no error; [`Socket::established`] tells.
    ///
    /// Gives up after two SYNs (3 s), or `dead_after_s` if that is less.
    pub(crate) fn connect(ns: &NetNs, to: &Addr, options: &Options) -> Result<Self> {
        let _no_io = NoIoScope::new();
        with_kernel_creds(|| {
            let socket = Self::create(ns, to, c::dst_socket_role_DST_SOCKET_CONNECTION)?;
            socket.apply(options);
            let mut raw = to.to_raw();
            // SAFETY: The socket is valid by the type invariant, `raw` is an address of the length given.
            match to_result(unsafe {
                c::kernel_connect(
                    socket.as_ptr(),
                    raw.as_mut_ptr(),
                    raw.len(),
                    c::O_NONBLOCK as c_int,
                )
            }) {
                Err(e) if e != EINPROGRESS => Err(e),
                _ => Ok(socket),
            }
        })
    }

    /// Opens a listener. `at` with port 0 lets the kernel choose one ([`Socket::local`] tells).
    ///
    /// `[::]` listens on IPv6 only: what is named is what listens, and rules on networks never meet mapped addresses.
    pub(crate) fn listen(ns: &NetNs, at: &Addr, backlog: u32) -> Result<Self> {
        let _no_io = NoIoScope::new();
        with_kernel_creds(|| {
            let socket = Self::create(ns, at, c::dst_socket_role_DST_SOCKET_LISTENER)?;
            let mut raw = at.to_raw();
            // SAFETY: The socket is valid by the type invariant, `raw` is an address of the length given.
            to_result(unsafe { c::kernel_bind(socket.as_ptr(), raw.as_mut_ptr(), raw.len()) })?;
            let backlog = c_int::try_from(backlog).unwrap_or(c_int::MAX);
            // SAFETY: The socket is valid by the type invariant.
            to_result(unsafe { c::kernel_listen(socket.as_ptr(), backlog) })?;
            Ok(socket)
        })
    }

    /// Takes the next connection that waits at this listener; `None`: there is none.
    ///
    /// Connections that died while they waited are skipped. After an error (`ENOMEM`, `ENFILE`) the listener is still
    /// readable: clear [`Events::IN`] from the interest, and try again later.
    pub(crate) fn accept(&self, options: &Options) -> Result<Option<(Self, Addr)>> {
        /// More dead connections than this are left to the next call.
        const SKIP: usize = 16;

        let _no_io = NoIoScope::new();
        with_kernel_creds(|| {
            for _ in 0..SKIP {
                let mut sock = core::ptr::null_mut();
                // SAFETY: The listener is valid by the type invariant, `sock` is valid for writing.
                match to_result(unsafe {
                    c::kernel_accept(self.as_ptr(), &mut sock, c::O_NONBLOCK as c_int)
                }) {
                    Err(EAGAIN) => return Ok(None),
                    Err(ECONNABORTED) => continue,
                    result => result?,
                }
                // INVARIANT: A new socket, and nobody else has it. Its namespace is the listener's, and it holds it:
                // the reference count is inherited, or made by `dst_socket_prepare`.
                let socket = Self {
                    sock: NonNull::new(sock).ok_or(ENOMEM)?,
                };
                // SAFETY: The socket was accepted just now, and nobody else uses it.
                unsafe { c::dst_socket_prepare(sock, c::dst_socket_role_DST_SOCKET_ACCEPTED) };
                socket.apply(options);
                if let Ok(peer) = socket.peer() {
                    return Ok(Some((socket, peer)));
                }
            }
            Ok(None)
        })
    }

    /// Sets the options of a connection.
    fn apply(&self, options: &Options) {
        let sk = self.sk();
        let dead = options.dead_after_s.clamp(1, 32767);
        let (idle, interval) = ((dead / 3).max(1), (dead / 6).max(1));
        let count = (dead - idle.min(dead))
            .checked_div(interval)
            .unwrap_or(1)
            .max(1);
        let (idle, interval, count) = (idle as c_int, interval as c_int, count as c_int);
        // SAFETY: `sk` is valid by the type invariant. All values are within what TCP takes (1..=32767 s, count
        // 1..=127), so none of these fail: idle and interval by the clamp above, and count is at most 10.
        unsafe {
            c::tcp_sock_set_syncnt(sk, 1);
            c::sock_set_keepalive(sk);
            c::tcp_sock_set_keepidle(sk, idle);
            c::tcp_sock_set_keepintvl(sk, interval);
            c::tcp_sock_set_keepcnt(sk, count);
            c::tcp_sock_set_user_timeout(sk, dead as c_int * 1000);
            if options.priority != 0 {
                c::sock_set_priority(sk, options.priority);
            }
        }
    }

    pub(super) fn as_ptr(&self) -> *mut c::socket {
        self.sock.as_ptr()
    }

    fn sk(&self) -> *mut c::sock {
        // SAFETY: The socket is valid, and its `sk` never changes, by the type invariant.
        unsafe { (*self.as_ptr()).sk }
    }

    fn ops(&self) -> *const c::proto_ops {
        // SAFETY: The socket is valid by the type invariant; `ops` may be replaced while it is in use (by an upper layer
        // protocol), hence the volatile read, as C does. What it points to is static.
        unsafe { core::ptr::addr_of!((*self.as_ptr()).ops).read_volatile() }
    }

    /// Whether the connection stands; `Ok(false)`: it is still being made; an error: why it failed.
    pub(crate) fn established(&self) -> Result<bool> {
        // SAFETY: `sk` is valid by the type invariant.
        let (error, state) = unsafe {
            (
                c::dst_sock_error_take(self.sk()),
                c::dst_sock_state(self.sk()),
            )
        };
        to_result(error)?;
        match state as c_uint {
            c::TCP_SYN_SENT | c::TCP_SYN_RECV => Ok(false),
            c::TCP_ESTABLISHED | c::TCP_CLOSE_WAIT => Ok(true),
            _ => Err(ENOTCONN),
        }
    }

    /// This end's address.
    pub(crate) fn local(&self) -> Result<Addr> {
        // SAFETY: The socket is valid by the type invariant, and the callee writes an address into the storage.
        Addr::from_raw(|raw| unsafe { c::kernel_getsockname(self.as_ptr(), raw) })
    }

    /// The other end's address.
    pub(crate) fn peer(&self) -> Result<Addr> {
        // SAFETY: The socket is valid by the type invariant, and the callee writes an address into the storage.
        Addr::from_raw(|raw| unsafe { c::kernel_getpeername(self.as_ptr(), raw) })
    }

    /// Locks the socket to send several things at once. See [`Sending`].
    pub(crate) fn sending(&self) -> Sending<'_> {
        let _no_reclaim = NoReclaimScope::new();
        // SAFETY: `sk` is valid by the type invariant.
        unsafe { c::dst_sock_lock_to_send(self.sk()) };
        // INVARIANT: Locked just now.
        Sending {
            socket: self,
            _no_reclaim,
            _not_send: NotThreadSafe,
        }
    }

    /// Sends a copy of `bytes`; `more`: something follows at once. Returns how much went into the send buffer;
    /// `EAGAIN`: none.
    pub(crate) fn send(&self, bytes: &[u8], more: bool) -> Result<usize> {
        self.sending().bytes(bytes, more)
    }

    /// Sends `data` from byte `done` on, by reference if `share` and if the pages allow it, else by copy. As
    /// [`Socket::send`] otherwise.
    ///
    /// Pages sent by reference are used until the peer acknowledged them, which may be after `data` is gone: they must
    /// not change in a way that matters, see [`Remains::gone`] and [`Socket::leaves_kernel`].
    pub(crate) fn send_segments(
        &self,
        data: &impl Segments,
        done: u32,
        share: bool,
        more: bool,
    ) -> Result<usize> {
        self.sending().segments(data, done, share, more)
    }

    /// Whether all that a connected socket sends leaves this kernel for certain: the route ends at hardware. Over
    /// loopback and veth the peer's receive queue refers to the very pages that were sent by reference. Task context.
    pub(crate) fn leaves_kernel(&self) -> bool {
        // SAFETY: `sk` is valid by the type invariant.
        unsafe { c::dst_sock_leaves(self.sk()) }
    }

    /// What could be done now, as poll(2) tells. Any context. When it lacks [`Events::OUT`], the queue of waiters is
    /// told once there is room.
    pub(crate) fn poll(&self) -> Events {
        // Without a poll table nothing is registered.
        self.poll_with(core::ptr::null_mut())
    }

    /// Calls the protocol's poll function.
    pub(super) fn poll_with(&self, table: *mut c::poll_table) -> Events {
        // SAFETY: `ops` is valid, see there.
        let Some(poll) = (unsafe { (*self.ops()).poll }) else {
            return Events::ERR;
        };
        // SAFETY: The socket is valid by the type invariant. TCP's poll functions hand the file to the table's queue
        // function, and do nothing else with it; ours ignores it.
        Events(unsafe { poll(core::ptr::null_mut(), self.as_ptr(), table) })
    }

    /// Ends both directions in order: what was sent is still delivered, then the peer sees the end.
    pub(crate) fn shutdown(&self) {
        let _no_io = NoIoScope::new();
        let how = c::sock_shutdown_cmd_SHUT_RDWR;
        // SAFETY: The socket is valid by the type invariant. It can only fail with ENOTCONN: nothing is left to do then.
        unsafe { c::kernel_sock_shutdown(self.as_ptr(), how) };
    }

    /// When this is dropped, what was sent is to be delivered in the background instead of being thrown away. Only for
    /// data that were copied: pages that were sent by reference would be used for as long as that takes.
    pub(crate) fn finish(&self) {
        // SAFETY: `sk` is valid by the type invariant.
        unsafe { c::dst_socket_linger(self.sk()) };
    }

    /// Aborts the connection at once, whoever else still has the socket: RST to the peer, unsent data are thrown away,
    /// every other user gets `ECONNABORTED`, `EPIPE` or the end.
    pub(crate) fn abort(&self) {
        let _no_io = NoIoScope::new();
        // SAFETY: `sk` is valid by the type invariant. It can only fail with ENOENT: closed already.
        unsafe { c::tcp_abort(self.sk(), ECONNABORTED.to_errno().wrapping_neg()) };
    }

    /// [`Socket::abort`], and a handle that tells when the last page that was sent is free of it.
    pub(crate) fn close(this: Arc<Self>) -> Remains {
        this.abort();
        let sk = this.sk();
        // SAFETY: `sk` is valid by the type invariant.
        unsafe { c::dst_sock_hold(sk) };
        // INVARIANT: The reference was taken above, and the socket was aborted: it sends nothing any more.
        Remains { sk }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Nothing that closing allocates may wait for I/O that may wait for us.
        let _no_io = NoIoScope::new();
        // SAFETY: We own the socket by the type invariant. Nobody polls it: a registration holds an `Arc` of this.
        unsafe { c::sock_release(self.as_ptr()) };
    }
}

/// What is left of a socket that was closed.
///
/// # Invariants
///
/// Owns a reference to `sk`, which was aborted.
pub(crate) struct Remains {
    sk: *mut c::sock,
}

// SAFETY: References to a `struct sock` belong to no thread.
unsafe impl Send for Remains {}
// SAFETY: All that is done through a shared reference is reading single words.
unsafe impl Sync for Remains {}

impl Remains {
    /// Whether the network has let go of all that was sent by reference. Any context.
    ///
    /// Over loopback the receiving socket may still hold what it has not read yet: see [`Socket::leaves_kernel`].
    pub(crate) fn gone(&self) -> bool {
        // SAFETY: `sk` is valid by the type invariant.
        !unsafe { c::dst_sock_tx_pending(self.sk) }
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant.
        unsafe { c::dst_sock_put(self.sk) };
    }
}

/// A socket that is locked to send. One lock for several parts is cheaper than one for each, and what arrives
/// meanwhile waits until this is dropped: don't keep it, and call nothing else of the socket while it lives.
///
/// # Invariants
///
/// The socket is locked by this task.
pub(crate) struct Sending<'a> {
    socket: &'a Socket,
    _no_reclaim: NoReclaimScope,
    _not_send: NotThreadSafe,
}

impl Sending<'_> {
    /// As [`Socket::send`].
    pub(crate) fn bytes(&mut self, bytes: &[u8], more: bool) -> Result<usize> {
        let vec = c::kvec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let mut message = c::msghdr::default();
        // SAFETY: `vec` and what it names are valid until this function returns; the message does not leave it.
        // A source is only read.
        unsafe { c::iov_iter_kvec(&mut message.msg_iter, c::ITER_SOURCE, &vec, 1, bytes.len()) };
        // SAFETY: The iterator covers this many valid bytes, and no reference is asked to be kept.
        unsafe { self.message(&mut message, bytes.len(), more, 0) }
    }

    /// As [`Socket::send_segments`].
    pub(crate) fn segments(
        &mut self,
        data: &impl Segments,
        done: u32,
        share: bool,
        more: bool,
    ) -> Result<usize> {
        let bytes = data.bytes().saturating_sub(done) as usize;
        let mut message = c::msghdr {
            msg_iter: data.iter(done, Direction::Source),
            ..Default::default()
        };
        let splice = if share && data.splice_ok() {
            c::MSG_SPLICE_PAGES
        } else {
            0
        };
        // SAFETY: By the safety requirements of `Segments`, the iterator covers this many bytes, valid while `data` is
        // borrowed, and pages may be sent by reference when `splice_ok` says so.
        unsafe { self.message(&mut message, bytes, more, splice) }
    }

    /// Sends a message.
    ///
    /// # Safety
    ///
    /// The message's iterator is a source of `bytes` valid bytes; with `MSG_SPLICE_PAGES` in `flags`, of pages that may be
    /// referenced.
    unsafe fn message(
        &mut self,
        message: &mut c::msghdr,
        bytes: usize,
        more: bool,
        flags: u32,
    ) -> Result<usize> {
        let more = if more { c::MSG_MORE } else { 0 };
        message.msg_flags = c::MSG_DONTWAIT | c::MSG_NOSIGNAL | more | flags;
        // SAFETY: The socket is locked by the type invariant. The message is valid by the safety requirements of this
        // function.
        let sent = unsafe { c::tcp_sendmsg_locked(self.socket.sk(), message, bytes) };
        if sent < 0 {
            Err(Error::from_errno(sent))
        } else {
            Ok(sent as usize)
        }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        // SAFETY: The socket is locked by this task, by the type invariant.
        unsafe { c::release_sock(self.socket.sk()) };
    }
}
