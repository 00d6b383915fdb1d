// SPDX-License-Identifier: GPL-2.0

//! The requests to a server that wait to be sent, in the order of submission, and those that wait [`Aside`]. No kernel in
//! here.
//!
//! What a connection loses goes back to the head, in its order, before anything newer. Then, too, a write that was never
//! sent may have to wait for [late ones](crate::late): out of the order, so that others pass it.

use core::ops::DerefMut;

use crate::{
    alg_mirror::overlap::Extent,
    late::Late,
    sort, //
};

/// What the queue does with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Keeps it until it can be sent.
    Open,
    /// Refuses it: the waiting for the server was ended, or the node is.
    Failing,
}

/// What the queue knows about a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Note {
    /// Position in the order of submission.
    pub order: u64,
    /// It was sent on an earlier connection.
    pub resent: bool,
    /// It was held for late writes.
    pub held: bool,
    /// It was answered, and needs a flush behind it, which is what is asked for now. If the connection is lost before
    /// that is answered, it is asked for itself again: the server may have lost its power, and with that what it had not
    /// made durable.
    pub flushing: bool,
}

/// A request, owned.
pub trait Piece {
    /// What it changes, in sectors of the export. The server is done with that of which it is asked for the flush.
    fn changes(&self) -> Option<Extent>;

    /// What is known about it.
    fn note(&self) -> &Note;

    /// The same, to be changed.
    fn note_mut(&mut self) -> &mut Note;

    /// Gives it a new cookie: no reply to what was sent of it so far answers it.
    fn renew(&mut self);
}

/// What a queue is made of: memory with as many places as there are requests.
pub trait Memory: Sized {
    /// The requests.
    type Piece: Piece;
    /// Places for them.
    type Ring: DerefMut<Target = [Option<Self::Piece>]>;
    /// Places for what they change.
    type Extents: DerefMut<Target = [Extent]>;
    /// In memory of its own: what each request touches stays together.
    type Aside: DerefMut<Target = Aside<Self>>;
}

/// A ring of requests. There are no more requests than places, so it can't overflow.
pub struct SendQueue<M: Memory> {
    ring: M::Ring,
    head: usize,
    len: usize,
    next_order: u64,
    mode: Mode,
    /// Newer writes wait for late ones.
    quiet: bool,
    aside: M::Aside,
}

/// Writes that wait for late ones: out of the ring, so that others pass them.
pub struct Aside<M: Memory> {
    late: Late<M::Extents>,
    /// In the order of submission; the first `count` are some.
    held: M::Ring,
    count: usize,
    /// Requests that were held.
    total: u64,
}

impl<M: Memory> Aside<M> {
    /// Nothing is late, nothing waits. All of `held` is `None`.
    pub fn new(places: [M::Extents; 3], held: M::Ring) -> Self {
        Self {
            late: Late::new(places),
            held,
            count: 0,
            total: 0,
        }
    }

    /// Keeps a request that has to wait; gives it back if it has not.
    fn sift(&mut self, mut piece: M::Piece) -> Option<M::Piece> {
        let waits = match piece.changes() {
            // The late one does the same.
            Some(_) if piece.note().resent => false,
            Some(extent) => self.late.must_wait(extent),
            None => false,
        };
        if !waits {
            return Some(piece);
        }
        let note = piece.note_mut();
        self.total += u64::from(!note.held);
        note.held = true;
        match self.held.get_mut(self.count) {
            Some(free) => {
                *free = Some(piece);
                self.count += 1;
                None
            }
            // There are as many places as requests, so this can't be.
            None => Some(piece),
        }
    }

    /// Takes the newest one for which `wanted` says so.
    fn take(&mut self, wanted: impl Fn(&M::Piece) -> bool) -> Option<M::Piece> {
        let held = self.held.get_mut(..self.count)?;
        let wanted = |place: &Option<M::Piece>| place.as_ref().is_some_and(&wanted);
        let at = held.iter().rposition(wanted)?;
        let behind = held.get_mut(at..)?;
        let piece = behind.first_mut()?.take();
        behind.rotate_left(1);
        self.count -= 1;
        piece
    }
}

impl<M: Memory> SendQueue<M> {
    /// An empty queue. All of `ring` is `None`.
    pub fn new(ring: M::Ring, aside: M::Aside) -> Self {
        Self {
            ring,
            head: 0,
            len: 0,
            next_order: 0,
            mode: Mode::Open,
            quiet: false,
            aside,
        }
    }

    /// Whether nothing waits that can be sent.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether something is certain to be sent next.
    pub fn has_next(&self) -> bool {
        // In the quiet time what waits may turn out to be held.
        !self.quiet && self.len != 0
    }

    /// Sets what happens to requests from now on.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Puts a new request, or one that was answered and needs a flush, at the end; gives it back if the queue refuses it.
    #[must_use]
    pub fn push(&mut self, mut piece: M::Piece) -> Option<M::Piece> {
        if self.mode == Mode::Failing {
            return Some(piece);
        }
        if !piece.note().flushing {
            // Else it keeps its own: it may have to be sent itself again.
            piece.note_mut().order = self.next_order;
            self.next_order += 1;
        }
        let place = self.place(self.len);
        self.put(place, piece)
    }

    /// Puts a request that was taken before at the head, with the order it has.
    #[must_use]
    fn push_front(&mut self, piece: M::Piece) -> Option<M::Piece> {
        let place = self.place(self.ring.len() - 1);
        let refused = self.put(place, piece);
        if refused.is_none() {
            self.head = place;
        }
        refused
    }

    /// Takes the request at the head; in the quiet time, the first one that needn't wait.
    pub fn pop(&mut self) -> Option<M::Piece> {
        let piece = self.take_first()?;
        if self.quiet {
            return self.sift(piece);
        }
        Some(piece)
    }

    #[cold]
    fn sift(&mut self, mut piece: M::Piece) -> Option<M::Piece> {
        loop {
            let goes = self.aside.sift(piece);
            if goes.is_some() {
                return goes;
            }
            piece = self.take_first()?;
        }
    }

    /// A request had no answer when its connection was lost, which had a fence or not ([`Late::lost`]). It goes
    /// [back](Self::put_back), or ends.
    pub fn lost(&mut self, piece: &mut M::Piece, fenced: bool) {
        piece.note_mut().resent = true;
        // A reply from the old connection must not answer it.
        piece.renew();
        if let Some(extent) = piece.changes() {
            self.aside.late.lost(extent, fenced);
        }
        // It was answered, so it is not late. It is no longer certain to be there.
        piece.note_mut().flushing = false;
    }

    /// Takes a request whose flush was not sent: it is older than those before it.
    pub fn take_flushing(&mut self) -> Option<M::Piece> {
        let at = (0..self.len).find(|ahead| {
            let piece = self.ring.get(self.place(*ahead));
            piece
                .and_then(Option::as_ref)
                .is_some_and(|piece| piece.note().flushing)
        })?;
        // Those before it move up.
        for ahead in (0..at).rev() {
            let (from, to) = (self.place(ahead), self.place(ahead + 1));
            self.ring.swap(from, to);
        }
        self.take_first()
    }

    /// Puts requests that were taken before at the head, the last one first: they are [in their order](in_order).
    #[must_use]
    pub fn put_back(&mut self, mut last: impl FnMut() -> Option<M::Piece>) -> Option<M::Piece> {
        while let Some(piece) = last() {
            let refused = self.push_front(piece);
            if refused.is_some() {
                return refused;
            }
        }
        None
    }

    /// There is a connection again: [`Late::connected`]. Nothing may have been sent on it yet.
    pub fn begin_quiet(&mut self, fenced: bool) {
        self.aside.late.connected(fenced);
        self.quiet = self.aside.late.is_any();
    }

    /// Whether newer writes wait for late ones.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A quiet time is over: [`Late::next`]. What was held is next, in its order, or is held again.
    #[must_use]
    pub fn next_quiet(&mut self) -> Option<M::Piece> {
        self.aside.late.next();
        self.quiet = self.aside.late.is_any();
        while let Some(piece) = self.aside.take(|_| true) {
            // It is older than all that is in the ring.
            let refused = self.push_front(piece);
            if refused.is_some() {
                return refused;
            }
        }
        None
    }

    /// There is no connection, so nothing can be sent: whoever needs what is held takes it.
    pub fn suspend_quiet(&mut self) {
        self.quiet = false;
    }

    /// Takes a request that is held and for which `wanted` says so, the newest one first.
    pub fn take_held(&mut self, wanted: impl Fn(&M::Piece) -> bool) -> Option<M::Piece> {
        self.aside.take(wanted)
    }

    /// Requests that are held now, and that were so far.
    pub fn held(&self) -> (usize, u64) {
        (self.aside.count, self.aside.total)
    }

    fn take_first(&mut self) -> Option<M::Piece> {
        if self.len == 0 {
            return None;
        }
        let piece = self.ring.get_mut(self.head)?.take();
        self.head = self.place(1);
        self.len -= 1;
        piece
    }

    /// The place that is `ahead` places behind the head, wrapping.
    fn place(&self, ahead: usize) -> usize {
        let place = self.head + ahead;
        if place >= self.ring.len() {
            place - self.ring.len()
        } else {
            place
        }
    }

    fn put(&mut self, place: usize, piece: M::Piece) -> Option<M::Piece> {
        match self.ring.get_mut(place) {
            Some(free @ None) => {
                *free = Some(piece);
                self.len += 1;
                None
            }
            // A full ring: there are as many places as requests, so this can't be.
            _ => Some(piece),
        }
    }
}

/// Puts what goes [back](SendQueue::put_back) into its order.
pub fn in_order<P: Piece>(back: &mut [P]) {
    sort::by_key(back, |piece| piece.note().order);
}
