// SPDX-License-Identifier: GPL-2.0

//! Preallocated objects that are owned by exactly one party at a time.
//!
//! A [`Pool`] makes all its objects when it is made. A [`Slot`] is the exclusive right to one of
//! them: it is taken, worked with, and given back by dropping it. On the way it may be left in the
//! pool under a number, its cookie, that travels to another machine and comes back with the answer
//! ([`Slot::park`]), also while its owner still reads it ([`Slot::lend`]). Whoever brings the
//! cookie gets the object, once ([`Pool::claim`]).
//!
//! # How a slot can do without a reference count
//!
//! A slot holds a plain pointer to the pool. [`Pool`]'s `Drop` waits until it has all objects
//! itself, so the pool can't go away while there is a slot. Giving an object back is one
//! compare-and-exchange on a word of the bitmap, and that is the last time that the pool is
//! touched. Only when somebody waits for an object, which the same word says, a lock is taken: then
//! `Drop` takes it once, too, after it has got all objects, so whoever gave back the last one has
//! left the lock by then.
//!
//! # States of an object
//!
//! | state   | who may touch the object           | leads to                                    |
//! |---------|------------------------------------|---------------------------------------------|
//! | free    | nobody                             | held (`try_take`, `take`)                   |
//! | held    | the owner of its [`Slot`]          | free (drop), parked (`park`), lent (`lend`) |
//! | shared  | the owners of [`Shared`]s, to read | held (the last `release`)                   |
//! | lent    | the owner of its [`Lent`], to read | parked (`finish`), replied (`claim`)        |
//! | replied | the owner of its [`Lent`], to read | held (`finish`)                             |
//! | parked  | nobody                             | held (`claim`, `claim_any`)                 |
//!
//! The bitmap tells free from the others; the rest is in the object's own state word.

use super::c;
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        SpinLockIrq, //
    },
};

pub(crate) use super::slot::{
    Lent,
    Shared,
    Slot,
    Stack, //
};

/// Objects per word of the bitmap. The upper half of a word is for [`WAITERS`].
pub(super) const PER_WORD: u32 = 32;

/// Number of words of the bitmap.
const WORDS: usize = 32;

/// Set in every word of the bitmap while somebody waits for an object.
pub(super) const WAITERS: u64 = 1 << 63;

/// The part of a word that says which objects are free.
const FREE: u64 = (1 << PER_WORD) - 1;

/// The most objects that a pool can have.
pub(crate) const MAX_CAPACITY: u32 = PER_WORD * WORDS as u32;

/// State word: free, or held by a [`Slot`]; plus the number of [`Shared`]s.
pub(super) const HELD: u64 = 0;
/// State word: parked; the lower half is the generation.
pub(super) const PARKED: u64 = 1 << 62;
/// State word: lent; the lower half is the generation.
pub(super) const LENT: u64 = 2 << 62;
/// State word: lent, and a reply came; the lower half is its code.
pub(super) const REPLIED: u64 = 3 << 62;
/// The part of a state word that tells the states apart.
const KIND: u64 = 3 << 62;

/// One object, and what the pool knows about it.
pub(super) struct Entry<C, T> {
    /// [`HELD`], [`PARKED`], [`LENT`] or [`REPLIED`].
    pub(super) state: Atomic<u64>,
    /// Upper half of the cookie. Only the owner of the slot touches it.
    pub(super) generation: UnsafeCell<u32>,
    /// Position in the pool.
    pub(super) index: u32,
    /// The next one in a [`Stack`]. Only the owner of the slot, or of the stack's list, touches it.
    pub(super) next: UnsafeCell<*mut Entry<C, T>>,
    pub(super) home: NonNull<Inner<C, T>>,
    pub(super) value: UnsafeCell<T>,
}

/// A task that waits for an object; lies on that task's stack. The lock of [`Inner::waiting`]
/// protects it.
struct Waiter<C, T> {
    task: *mut c::task_struct,
    next: *mut Waiter<C, T>,
    granted: *mut Entry<C, T>,
}

/// Tasks that wait for an object, the first one first.
///
/// # Invariants
///
/// `first` is null, or heads a list of valid waiters, whose last one is `last`. [`WAITERS`] is set
/// in all words of the bitmap if the list isn't empty.
struct Waiting<C, T> {
    first: *mut Waiter<C, T>,
    last: *mut Waiter<C, T>,
}

// SAFETY: The pointers are to tasks that sleep until they are taken off the list, and to objects
// that may be sent.
unsafe impl<C: Send + Sync, T: Send> Send for Waiting<C, T> {}

#[pin_data]
pub(super) struct Inner<C, T> {
    /// A bit that is set is a free object.
    pub(super) words: [Atomic<u64>; WORDS],
    word_count: u32,
    /// Takes the number of a CPU to one of a word: one less than a power of two.
    start_mask: u32,
    capacity: u32,
    entries: KVVec<Entry<C, T>>,
    #[pin]
    waiting: SpinLockIrq<Waiting<C, T>>,
    #[pin]
    context: C,
}

/// Preallocated objects of type `T`, with a context that they share.
///
/// # Invariants
///
/// The pointer is to an initialized, pinned `Inner` in memory of a [`KBox`], all of whose entries
/// point back to it. It is freed by this object's `Drop` only, when that has got hold of all
/// entries.
#[repr(transparent)]
pub(crate) struct Pool<C, T>(NonNull<Inner<C, T>>, PhantomData<Inner<C, T>>);

// SAFETY: The objects move between threads (`T: Send`), never are two at one of them. The context
// is shared.
unsafe impl<C: Send + Sync, T: Send> Send for Pool<C, T> {}
// SAFETY: As above.
unsafe impl<C: Send + Sync, T: Send> Sync for Pool<C, T> {}

/// The answer to [`Pool::claim`].
pub(crate) enum Claim<C, T> {
    /// The object was parked, and is the caller's now.
    Slot(Slot<C, T>),
    /// Its owner still reads it. It will find the reply when it is done.
    Early,
    /// No object waits under this cookie.
    Unknown,
}

impl<C, T> Pool<C, T> {
    /// Makes a pool of `capacity` objects, from 1 to [`MAX_CAPACITY`]; sleeps.
    ///
    /// `make` gets the index of each one.
    pub(crate) fn new<E>(
        capacity: u32,
        context: impl PinInit<C, E>,
        mut make: impl FnMut(u32) -> Result<T>,
    ) -> Result<Arc<Self>>
    where
        Error: From<E>,
    {
        if capacity == 0 || capacity > MAX_CAPACITY {
            return Err(EINVAL);
        }
        let mut entries = KVVec::with_capacity(capacity as usize, GFP_KERNEL)?;
        for index in 0..capacity {
            entries.push(
                Entry {
                    state: Atomic::new(HELD),
                    generation: UnsafeCell::new(0),
                    index,
                    next: UnsafeCell::new(ptr::null_mut()),
                    home: NonNull::dangling(),
                    value: UnsafeCell::new(make(index)?),
                },
                GFP_KERNEL,
            )?;
        }
        let inner = KBox::try_pin_init::<Error>(
            try_pin_init!(Inner {
                words: core::array::from_fn(|word| Atomic::new(word_of(capacity, word as u32))),
                word_count: capacity.div_ceil(PER_WORD),
                start_mask: (1 << capacity.div_ceil(PER_WORD).checked_ilog2().unwrap_or(0)) - 1,
                capacity,
                entries,
                // INVARIANT: The list is empty.
                waiting <- new_spinlock_irq!(
                    Waiting { first: ptr::null_mut(), last: ptr::null_mut() },
                    "dst_pool"
                ),
                context <- context,
            }? Error),
            GFP_KERNEL,
        )?;
        // SAFETY: The pinned contents aren't moved out of the box: only `Drop` takes it up again,
        // in order to drop it.
        let inner = NonNull::from(Box::leak(unsafe { Pin::into_inner_unchecked(inner) }));
        // SAFETY: Nobody else knows the new object yet. `entries` isn't pinned.
        for entry in unsafe { &mut (*inner.as_ptr()).entries }.iter_mut() {
            entry.home = inner;
        }
        // INVARIANT: It was made so just now.
        Ok(Arc::new(Self(inner, PhantomData), GFP_KERNEL)?)
    }

    fn inner(&self) -> &Inner<C, T> {
        // SAFETY: By the type invariant. There is no mutable reference to it but that of the
        // constructor.
        unsafe { self.0.as_ref() }
    }

    /// The context that all objects share.
    pub(crate) fn ctx(&self) -> &C {
        &self.inner().context
    }

    /// The number of objects.
    pub(crate) fn capacity(&self) -> u32 {
        self.inner().capacity
    }

    /// The number of objects that aren't free at this moment.
    pub(crate) fn used(&self) -> u32 {
        let inner = self.inner();
        let words = inner.words.iter().take(inner.word_count as usize);
        let free: u32 = words
            .map(|word| (word.load(Relaxed) & FREE).count_ones())
            .sum();
        inner.capacity - free.min(inner.capacity)
    }

    /// Takes a free object, if there is one. Any context, lock-free.
    #[inline]
    pub(crate) fn try_take(&self) -> Option<Slot<C, T>> {
        self.inner().try_take()
    }

    /// Takes a free object; sleeps until there is one, in the order of coming.
    ///
    /// The sleep doesn't count as load and can't be interrupted.
    #[inline]
    pub(crate) fn take(&self) -> Slot<C, T> {
        match self.inner().try_take() {
            Some(slot) => slot,
            None => self.inner().wait(),
        }
    }

    /// Takes up the object that was parked under `cookie`. Any context, lock-free.
    ///
    /// The cookie may be anything: it comes from another machine. If the object is lent, `reply` is
    /// kept for [`Lent::finish`]. Either happens once for each time the object was parked or lent.
    pub(crate) fn claim(&self, cookie: u64, reply: u32) -> Claim<C, T> {
        let Some(entry) = self.inner().entries.get(cookie as u32 as usize) else {
            return Claim::Unknown;
        };
        let generation = cookie >> 32;
        let mut state = entry.state.load(Relaxed);
        loop {
            let new = match state.wrapping_sub(generation) {
                PARKED => HELD,
                LENT => REPLIED | u64::from(reply),
                _ => return Claim::Unknown,
            };
            match entry.state.cmpxchg(state, new, Acquire) {
                Ok(_) if new == HELD => return Claim::Slot(Slot::new(entry)),
                Ok(_) => return Claim::Early,
                Err(now) => state = now,
            }
        }
    }

    /// Gives one more right to read the object at an index, if it is shared at this moment. Any context, lock-free.
    ///
    /// Whoever gets it may become the one who gives up the last right, so [`Shared::release`] it as all others do.
    pub(crate) fn find_shared(&self, index: u32) -> Option<Shared<C, T>>
    where
        T: Sync,
    {
        let entry = self.inner().entries.get(index as usize)?;
        let mut state = entry.state.load(Relaxed);
        // Without a right there is a `Slot`, or nobody.
        while state & KIND == HELD && state != HELD {
            match entry.state.cmpxchg(state, state + 1, Acquire) {
                Ok(_) => return Some(Shared::new(entry)),
                Err(now) => state = now,
            }
        }
        None
    }

    /// Takes up the first parked object at or behind index `from`. Any context, lock-free.
    pub(crate) fn claim_any(&self, from: u32) -> Option<Slot<C, T>> {
        let entries = self.inner().entries.get(from as usize..)?;
        entries.iter().find_map(|entry| {
            let mut state = entry.state.load(Relaxed);
            while state & KIND == PARKED {
                match entry.state.cmpxchg(state, HELD, Acquire) {
                    Ok(_) => return Some(Slot::new(entry)),
                    Err(now) => state = now,
                }
            }
            None
        })
    }
}

/// The initial contents of word `word`: all objects are free.
fn word_of(capacity: u32, word: u32) -> u64 {
    let count = capacity.saturating_sub(word * PER_WORD).min(PER_WORD);
    (1 << count) - 1
}

impl<C, T> Inner<C, T> {
    #[inline]
    fn try_take(&self) -> Option<Slot<C, T>> {
        // Each CPU starts at a word of its own, so that they seldom meet.
        // SAFETY: There are no requirements; a wrong number does no harm.
        let start = unsafe { c::raw_smp_processor_id() } & self.start_mask;
        let mut at = start;
        loop {
            if let Some(slot) = self.take_from(at) {
                return Some(slot);
            }
            at = at.wrapping_add(1);
            if at >= self.word_count {
                at = 0;
            }
            if at == start {
                return None;
            }
        }
    }

    #[inline]
    fn take_from(&self, at: u32) -> Option<Slot<C, T>> {
        let word = self.words.get(at as usize)?;
        let mut old = word.load(Relaxed);
        while old & FREE != 0 {
            let bit = old.trailing_zeros();
            match word.cmpxchg(old, old & (old - 1), Acquire) {
                Ok(_) => {
                    let entry = self.entries.get((at << PER_WORD.ilog2() | bit) as usize)?;
                    // INVARIANT: The bit was set, and we cleared it: the object was free, and is
                    // ours now.
                    return Some(Slot::new(entry));
                }
                Err(now) => old = now,
            }
        }
        None
    }

    /// Changes every word of the bitmap.
    fn mark(&self, waiters: bool) {
        for word in self.words.iter().take(self.word_count as usize) {
            let mut old = word.load(Relaxed);
            loop {
                let new = if waiters {
                    old | WAITERS
                } else {
                    old & !WAITERS
                };
                match word.cmpxchg(old, new, Relaxed) {
                    Ok(_) => break,
                    Err(now) => old = now,
                }
            }
        }
    }

    #[cold]
    fn wait(&self) -> Slot<C, T> {
        // SAFETY: There are no requirements.
        let task = unsafe { c::get_current() };
        let waiter = UnsafeCell::new(Waiter {
            task,
            next: ptr::null_mut(),
            granted: ptr::null_mut(),
        });
        let this = waiter.get();

        let mut waiting = self.waiting.lock();
        if waiting.first.is_null() {
            // INVARIANT: From here on whoever gives back an object must take the lock, where it
            // finds us.
            self.mark(true);
        }
        // What was given back before the word was marked is found here.
        if let Some(slot) = self.try_take() {
            if waiting.first.is_null() {
                self.mark(false);
            }
            return slot;
        }
        if waiting.first.is_null() {
            waiting.first = this;
        } else {
            // SAFETY: By the type invariant `last` is valid; the lock protects it.
            unsafe { (*waiting.last).next = this };
        }
        // INVARIANT: `this` is valid until it is taken off the list: we don't return before that.
        waiting.last = this;
        drop(waiting);

        let granted = loop {
            // SAFETY: The state is set back below. Between the two only a spinlock is taken.
            unsafe { c::dst_task_state_idle() };
            let waiting = self.waiting.lock();
            // SAFETY: `this` is valid, and the lock is held.
            let granted = unsafe { (*this).granted };
            drop(waiting);
            if let Some(granted) = NonNull::new(granted) {
                break granted;
            }
            // SAFETY: This is process context: the caller may sleep.
            unsafe { c::io_schedule() };
        };
        // SAFETY: There are no requirements.
        unsafe { c::dst_task_state_running() };
        // SAFETY: An object lives as long as its owner has not given it back.
        // INVARIANT: Who gave it back passed it on to us.
        Slot::new(unsafe { granted.as_ref() })
    }

    /// Gives back an object when somebody waits.
    ///
    /// # Safety
    ///
    /// The caller owns the object, and gives up its ownership.
    #[cold]
    pub(super) unsafe fn give_back_to_waiter(&self, entry: NonNull<Entry<C, T>>) {
        let mut waiting = self.waiting.lock();
        // SAFETY: The object is valid until the lock is released: `Pool`'s `Drop` takes it.
        let index = unsafe { entry.as_ref() }.index;
        let Some(first) = NonNull::new(waiting.first) else {
            let bit = 1u64 << (index % PER_WORD);
            if let Some(word) = self.words.get((index / PER_WORD) as usize) {
                word.fetch_add(bit, Release);
            }
            return;
        };
        // SAFETY: By the type invariant it is a valid waiter, whom the lock protects.
        unsafe {
            waiting.first = (*first.as_ptr()).next;
            (*first.as_ptr()).granted = entry.as_ptr();
            // The task can't leave the loop in `wait()`, and so can't exit, before the lock is
            // released.
            c::wake_up_process((*first.as_ptr()).task);
        }
        if waiting.first.is_null() {
            waiting.last = ptr::null_mut();
            self.mark(false);
        }
    }
}

impl<C, T> Drop for Pool<C, T> {
    fn drop(&mut self) {
        let mut mine = 0;
        let mut pause = 1;
        while mine < self.capacity() {
            while let Some(slot) = self.try_take().or_else(|| self.claim_any(0)) {
                let _ = ManuallyDrop::new(slot);
                mine += 1;
            }
            if mine < self.capacity() {
                // SAFETY: This is process context.
                unsafe { c::msleep(pause) };
                pause = (pause * 2).min(100);
            }
        }
        // Who gave back an object under the lock has left it now.
        drop(self.inner().waiting.lock());
        // SAFETY: By the type invariant. There is no slot any more, hence no other user.
        drop(unsafe { KBox::from_raw(self.0.as_ptr()) });
    }
}
