// SPDX-License-Identifier: GPL-2.0

//! Where requests wait for a node that is suspended, unless it is a copy of a mirror.
//!
//! A bio waits as it is, before it takes anything of the node: it is linked to the others by a field of its own. So as
//! many wait as there are, nothing is allocated, no piece is held, and whoever has submitted one goes on, to other nodes
//! for instance. One that must not wait ends with `BLK_STS_AGAIN`.
//!
//! When the gate is opened a worker submits them to their disk again. So they take the way that new ones take, whatever
//! has changed meanwhile: the node may be another one.
//!
//! A gate is looked at only while one of the storage is closed ([`Hold::has_closed_gates`]). Requests that passed it
//! before it was closed are not called back.
//!
//! # Locks
//!
//! `state` (spin, process context) is held while a bio is put into a queue or taken out, never across a call out.

use kernel::{
    impl_has_work, new_spinlock, new_work,
    prelude::*,
    sync::{
        Arc,
        SpinLock, //
    },
    time::Jiffies,
    workqueue::{
        Work,
        WorkItem, //
    },
};

use crate::{
    hold::Hold,
    kern::{
        bio::{
            Bio,
            BioQueue,
            Status, //
        },
        time,
        work, //
    },
    uapi, //
};

/// What a gate does with a bio.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Lets it pass.
    Open,
    /// Keeps it.
    Closed,
    /// Ends it with an error: the waiting was ended.
    Failing,
}

/// Which nodes a bio needs.
pub(crate) enum Needs {
    /// That of the gate.
    One,
    /// The one behind it in the storage, too.
    Next,
    /// All of them.
    All,
}

struct State {
    mode: Mode,
    /// Bios that wait.
    waiting: u32,
    /// When the first of them came.
    since: Jiffies,
}

/// The way to a node's place in a storage.
#[pin_data]
pub(crate) struct Gate {
    hold: Arc<Hold>,
    #[pin]
    state: SpinLock<State>,
    // Whoever submits them again may have to wait for a node. So they are taken in this order: those behind need that
    // node, too, or wait for it in good company.
    #[pin]
    one: BioQueue,
    #[pin]
    next: BioQueue,
    #[pin]
    all: BioQueue,
    #[pin]
    work: Work<Gate>,
}

impl_has_work! {
    impl HasWork<Self> for Gate { self.work }
}

impl Gate {
    /// An open gate.
    pub(crate) fn new(hold: Arc<Hold>) -> Result<Arc<Self>> {
        let state = State {
            mode: Mode::Open,
            waiting: 0,
            since: 0,
        };
        Arc::pin_init(
            pin_init!(Self {
                hold,
                state <- new_spinlock!(state, "dst::gate::state"),
                one <- BioQueue::new(),
                next <- BioQueue::new(),
                all <- BioQueue::new(),
                work <- new_work!("dst::gate::work"),
            }),
            GFP_KERNEL,
        )
    }

    /// Gives back a bio that may pass; else it waits here, or was ended. Process context.
    pub(crate) fn pass(&self, bio: Bio, needs: Needs) -> Option<Bio> {
        let mut state = self.state.lock();
        let status = match state.mode {
            Mode::Open => return Some(bio),
            Mode::Closed if bio.is_nowait() => Status::AGAIN,
            Mode::Closed => {
                if state.waiting == 0 {
                    state.since = time::now();
                }
                state.waiting = state.waiting.saturating_add(1);
                let queue = match needs {
                    Needs::One => &self.one,
                    Needs::Next => &self.next,
                    Needs::All => &self.all,
                };
                queue.push(bio);
                return None;
            }
            Mode::Failing => Status::IOERR,
        };
        drop(state);
        bio.end(status);
        None
    }

    /// Makes all bios wait that come from now on; `false` if they do, or fail, already.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.state.lock();
        if state.mode != Mode::Open {
            return false;
        }
        state.mode = Mode::Closed;
        self.hold.count_closed();
        true
    }

    /// Lets all pass, and sends on those that wait; `false` if the gate is open.
    pub(crate) fn open(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        if state.mode == Mode::Open {
            return false;
        }
        state.mode = Mode::Open;
        self.hold.count_opened();
        drop(state);
        work::enqueue::<_, 0>(self.clone());
        true
    }

    /// Ends those that wait with an error, and those that come before the gate is opened; `false` if it is open.
    pub(crate) fn fail(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        if state.mode == Mode::Open {
            return false;
        }
        state.mode = Mode::Failing;
        drop(state);
        work::enqueue::<_, 0>(self.clone());
        true
    }

    /// Opens the gate when there is no disk any more: what waits ends with an error. Process context.
    pub(crate) fn reset(self: &Arc<Self>) {
        if self.fail() {
            while let Some((bio, _)) = self.take() {
                bio.end(Status::IOERR);
            }
            self.open();
        }
    }

    /// Whether bios wait, or would.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().mode == Mode::Closed
    }

    /// Whether a bio has waited for at least so many milliseconds.
    pub(crate) fn waits_longer_than(&self, ms: u32) -> bool {
        let state = self.state.lock();
        state.waiting != 0 && time::reached(time::in_ms(state.since, ms), time::now())
    }

    /// What is shown: [`uapi::NodeInfo::suspended`], and how many bios wait.
    pub(crate) fn shown(&self) -> (u32, u32) {
        let state = self.state.lock();
        let suspended = match state.mode {
            Mode::Open => 0,
            Mode::Closed => uapi::SUSPENDED,
            Mode::Failing => uapi::SUSPENDED_FAILING,
        };
        (suspended, state.waiting)
    }

    /// Takes the next bio that needn't wait any more, and says whether it may pass.
    fn take(&self) -> Option<(Bio, bool)> {
        let mut state = self.state.lock();
        if state.mode == Mode::Closed {
            return None;
        }
        let bio = (self.one.pop())
            .or_else(|| self.next.pop())
            .or_else(|| self.all.pop())?;
        state.waiting = state.waiting.saturating_sub(1);
        Some((bio, state.mode == Mode::Open))
    }
}

impl WorkItem for Gate {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        // If the gate is closed meanwhile, what is submitted comes back to it, and this ends.
        while let Some((bio, passes)) = this.take() {
            if passes {
                bio.submit_again();
            } else {
                bio.end(Status::IOERR);
            }
        }
    }
}
