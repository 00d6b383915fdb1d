// SPDX-License-Identifier: GPL-2.0

//! Telling user space of changes: uevents, sent from a worker, since sending one allocates and sleeps.
//!
//! The worker is also who lets copies leave whose server is lost. Memory reclaim may wait for that (swap on a mirror), so
//! allocations here start no I/O.

use kernel::{
    impl_has_work, new_mutex, new_work,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
    workqueue::{
        Work,
        WorkItem, //
    },
};

use crate::{
    kern::{
        mem::NoIoScope,
        work, //
    },
    member::News,
    node_remote::state_name,
    storage::Storage,
    uapi, //
};

/// A role's name, as sysfs and uevents have it.
pub(crate) fn role_name(role: u32) -> &'static str {
    match role {
        uapi::ROLE_IN_SYNC => "in-sync",
        uapi::ROLE_HEALING => "healing",
        uapi::ROLE_MISSING => "missing",
        _ => "none",
    }
}

/// A health's name, as sysfs and uevents have it.
pub(crate) fn health_name(health: u32) -> &'static str {
    match health {
        uapi::HEALTH_GOOD => "healthy",
        uapi::HEALTH_DEGRADED => "degraded",
        uapi::HEALTH_HEALING => "healing",
        uapi::HEALTH_TAKEN_OVER => "taken-over",
        _ => "none",
    }
}

/// The events of one storage.
#[pin_data]
pub(crate) struct Events {
    /// `None` when it is deleted.
    #[pin]
    storage: Mutex<Option<Arc<Storage>>>,
    #[pin]
    work: Work<Events>,
    /// Ends a replacement: that takes longer than what is to be told may wait.
    #[pin]
    finish: Work<Events, FINISH>,
}

/// Milliseconds between two attempts to end a replacement.
const FINISH_MS: i64 = 50;

/// The number of [`Events::finish`] among the works.
const FINISH: u64 = 1;

impl_has_work! {
    impl HasWork<Self> for Events { self.work }
    impl HasWork<Self, FINISH> for Events { self.finish }
}

impl Events {
    /// Of a storage that is yet to be made.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                storage <- new_mutex!(None, "dst::events::storage"),
                work <- new_work!("dst::events::work"),
                finish <- new_work!("dst::events::finish"),
            }),
            GFP_KERNEL,
        )
    }

    /// Begins to tell of `storage`.
    pub(crate) fn watch(&self, storage: &Arc<Storage>) {
        *self.storage.lock() = Some(storage.clone());
    }

    /// Tells no more.
    pub(crate) fn end(&self) {
        let storage = self.storage.lock().take();
        drop(storage);
    }

    /// A node's state has changed. Any context.
    pub(crate) fn tell(self: &Arc<Self>) {
        // It is no error if it is queued already: it looks at all nodes.
        work::enqueue::<_, 0>(self.clone());
    }
}

impl WorkItem<FINISH> for Events {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let _no_io = NoIoScope::new();
        let storage = this.storage.lock().clone();
        if storage.is_some_and(|storage| storage.finish_replacement()) {
            // Nothing will tell when it is worth another look.
            fsleep(Delta::from_millis(FINISH_MS));
            work::enqueue::<_, FINISH>(this);
        }
    }
}

impl WorkItem for Events {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let _no_io = NoIoScope::new();
        let storage = this.storage.lock().clone();
        if let Some(storage) = storage {
            let engine = storage.engine();
            // Before copies leave: what is lost for this reason is not lost alone.
            storage.follow();
            storage.look_at_gates();
            if let Some(mirror) = &engine {
                // Copies whose server is lost leave, and what waits for them fails.
                mirror.look_at_nodes();
            }
            storage.each(|member, directory| {
                let news = member.news();
                if let Some(News {
                    state,
                    event,
                    trouble,
                }) = news
                {
                    let state = state_name(state).to_str().unwrap_or("");
                    // If there is no event, or no trouble, the state is told once more.
                    let (key, event) = match event {
                        Some(event) => ("EVENT", event),
                        None => ("STATE", state),
                    };
                    let (why_key, why) = match trouble {
                        Some(trouble) => ("TROUBLE", trouble.text()),
                        None => ("STATE", state),
                    };
                    let result = directory.uevent(&[
                        fmt!("DST_STORAGE={}", storage.name()),
                        fmt!("DST_NODE={}", member.id),
                        fmt!("DST_TYPE={member}"),
                        fmt!("DST_STATE={state}"),
                        fmt!("DST_ROLE={}", role_name(member.role())),
                        fmt!("DST_{key}={event}"),
                        fmt!("DST_{why_key}={why}"),
                    ]);
                    if result.is_err() {
                        pr_warn!("{}: a uevent was lost\n", storage.name());
                    }
                }
            });
            let mirror = storage.mirror();
            let health = storage.health(mirror.as_deref());
            if mirror.is_some() || health == uapi::HEALTH_TAKEN_OVER {
                storage.tell_health(health);
            }
            if let Some(engine) = &engine {
                if engine.wants_finish() {
                    work::enqueue::<_, FINISH>(this.clone());
                }
            }
        }
    }
}
