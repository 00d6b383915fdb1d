// SPDX-License-Identifier: GPL-2.0

//! Receiving: `read_sock` offers what is in the socket's queue, buffer by buffer, and a [`Sink`] copies it to where it
//! belongs. There is no copy in between, and one call empties the queue.

use super::super::c;
use super::super::segments::{
    Direction,
    Segments, //
};
use super::Socket;
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    prelude::*, //
};

impl Socket {
    /// Hands what was received to `sink`, until there is no more or the sink stops. Returns how many bytes it took.
    ///
    /// `Ok(0)`: nothing is there now (or the sink stopped at once). Errors come after all data were taken, and again at
    /// each call: `EPIPE` is the peer's end of data. `EPROTO`: urgent data, which nobody has a use for, block the way.
    pub(crate) fn receive<S: Sink>(&self, sink: &mut S) -> Result<usize> {
        let mut actor = Actor {
            sink,
            stopped: false,
        };
        let mut descriptor = c::read_descriptor_t {
            count: 1,
            arg: c::read_descriptor_t__bindgen_ty_1 {
                data: core::ptr::from_mut(&mut actor).cast(),
            },
            ..Default::default()
        };
        let sk = self.sk();
        // SAFETY: `ops` is valid, see there.
        let read_sock = unsafe { (*self.ops()).read_sock }.ok_or(EOPNOTSUPP)?;
        // SAFETY: `sk` is valid by the type invariant.
        unsafe { c::dst_sock_lock(sk) };
        // SAFETY: `sk` is valid and locked. The actor is called synchronously, with the descriptor given here.
        let used = unsafe { read_sock(sk, &mut descriptor, Some(Actor::<S>::take)) };
        let result = if used > 0 || actor.stopped {
            Ok(used.max(0) as usize)
        } else {
            // SAFETY: `sk` is valid and locked: nothing can arrive between read_sock and these.
            to_result(unsafe { c::dst_sock_error_take(sk) }).and_then(|()| {
                // SAFETY: As above.
                let at_end = unsafe { c::dst_sock_at_end(sk) };
                // SAFETY: As above.
                let is_stuck = unsafe { c::dst_sock_is_stuck(sk) };
                if at_end {
                    Err(EPIPE)
                } else if is_stuck {
                    Err(EPROTO)
                } else {
                    to_result(used).map(|()| 0)
                }
            })
        };
        // SAFETY: Locked above.
        unsafe { c::release_sock(sk) };
        result
    }
}

/// Takes in what a socket received.
pub(crate) trait Sink {
    /// Takes from `data` what it can use; what it leaves is offered again. `false`: stop here (what was taken before is
    /// taken). Taking nothing means stop, too.
    ///
    /// Called with the socket's lock held: must not end bios, call the socket, or sleep.
    fn take(&mut self, data: &mut Incoming<'_>) -> bool;
}

/// What is handed through `read_descriptor_t`.
struct Actor<'a, S> {
    sink: &'a mut S,
    stopped: bool,
}

impl<S: Sink> Actor<'_, S> {
    /// The actor of `read_sock`: returns how much of `len` bytes was taken.
    ///
    /// # Safety
    ///
    /// `descriptor.arg.data` points to an `Actor<S>` that nobody else uses during the call; `skb` has `len` bytes of data
    /// from `offset` on, and stays as it is during the call.
    unsafe extern "C" fn take(
        descriptor: *mut c::read_descriptor_t,
        skb: *mut c::sk_buff,
        offset: c_uint,
        len: usize,
    ) -> c_int {
        // SAFETY: By the safety requirements of this function.
        let actor = unsafe { &mut *(*descriptor).arg.data.cast::<Self>() };
        // INVARIANT: By the safety requirements of this function. An sk_buff never has more than 2 GiB.
        let mut data = Incoming {
            skb,
            offset,
            len: len as u32,
            _buffer: PhantomData,
        };
        while !actor.stopped && data.len > 0 {
            let before = data.len;
            actor.stopped = !actor.sink.take(&mut data) || data.len == before;
        }
        if actor.stopped {
            // SAFETY: The descriptor is valid during the call. This ends the loop of read_sock after this buffer.
            unsafe { (*descriptor).count = 0 };
        }
        (len as u32 - data.len) as c_int
    }
}

/// A run of received bytes, in a buffer of the network. Each byte can be taken once, in order.
///
/// # Invariants
///
/// `skb` has `len` bytes of data from `offset` on, for as long as this lives.
pub(crate) struct Incoming<'a> {
    skb: *const c::sk_buff,
    offset: u32,
    len: u32,
    _buffer: PhantomData<&'a c::sk_buff>,
}

impl Incoming<'_> {
    /// How many bytes there are (more may follow in the next buffer).
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Leaves out up to `bytes` bytes; returns how many.
    pub(crate) fn skip(&mut self, bytes: usize) -> usize {
        let bytes = bytes.min(self.len());
        // INVARIANT: What is left ends where it ended before.
        self.offset += bytes as u32;
        self.len -= bytes as u32;
        bytes
    }

    /// Copies as much as fits to the start of `to`; returns how many bytes.
    pub(crate) fn copy(&mut self, to: &mut [u8]) -> usize {
        let bytes = to.len().min(self.len());
        // SAFETY: The data are there by the type invariant, and `to` has room for them. Can't fail for that reason.
        unsafe {
            c::skb_copy_bits(
                self.skb,
                self.offset as c_int,
                to.as_mut_ptr().cast(),
                bytes as c_int,
            )
        };
        self.skip(bytes)
    }

    /// Copies up to `max` bytes into `to` from byte `done` on; returns how many.
    pub(crate) fn copy_to(&mut self, to: &impl Segments, done: u32, max: u32) -> Result<usize> {
        let bytes = self.len.min(max).min(to.bytes().saturating_sub(done));
        let mut iter = to.iter(done, Direction::Dest);
        // SAFETY: The data are there by the type invariant; the iterator has room for them by the safety requirements
        // of `Segments`.
        to_result(unsafe {
            c::skb_copy_datagram_iter(self.skb, self.offset as c_int, &mut iter, bytes as c_int)
        })?;
        Ok(self.skip(bytes as usize))
    }
}
