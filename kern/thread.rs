// SPDX-License-Identifier: GPL-2.0

//! Kernel threads, and how one of them sleeps until it is kicked.
//!
//! Context: starting and dropping a [`KThread`] sleeps; [`Parker::unpark`] goes anywhere, hard interrupts included.

use super::{
    c,
    mem::NoIoScope, //
};
use kernel::{
    fmt,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{
            ordering,
            Atomic, //
        },
        SetOnce, //
    },
    task::Task,
    types::NotThreadSafe, //
};

/// A kernel thread, running from its creation on. Dropping it asks it to stop, and waits until it did. Its allocations start
/// no I/O.
///
/// # Invariants
///
/// `task` is a thread made by us that was not stopped yet; it may use `body` until it is stopped.
pub(crate) struct KThread {
    task: ARef<Task>,
    _body: KBox<Body>,
}

/// The threads' nice value: that of the kernel's high-priority workers, which do this work for others.
///
/// Such a thread works for whoever waits for a request. If it had to line up behind tasks that compute, or run after the
/// submitter that it serves, each request would cost one switch more.
const NICE: c_long = -20;

/// What the thread runs, boxed twice for a thin pointer.
type Body = KBox<dyn Fn(&Running) + Send + Sync>;

impl KThread {
    /// Starts a thread that runs `body` once. `prepare` is called with the task before that: the thread doesn't run yet.
    /// `body` is to return when [`Running::should_stop`] says so; it may return earlier.
    pub(crate) fn start(
        name: fmt::Arguments<'_>,
        prepare: impl FnOnce(&ARef<Task>),
        body: impl Fn(&Running) + Send + Sync + 'static,
    ) -> Result<Self> {
        let name = CString::try_from_fmt(name)?;
        let body: Body = KBox::new(body, GFP_KERNEL)?;
        let body = KBox::new(body, GFP_KERNEL)?;
        // SAFETY: The function takes a pointer to a `Body`, which lives until the thread was stopped, by the type
        // invariant. The format takes one string, which is copied.
        let task = unsafe {
            c::kthread_create_on_node(
                Some(Self::main),
                core::ptr::from_ref(&*body).cast_mut().cast(),
                c::NUMA_NO_NODE,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        };
        let task = kernel::error::from_err_ptr(task)?;
        // SAFETY: The task is valid: a thread that was created and not stopped keeps its task. The reference that is
        // taken here keeps it if the thread returns by itself.
        let task = ARef::from(unsafe { &*task.cast_const().cast::<Task>() });
        prepare(&task);
        // SAFETY: The task is valid, as above.
        unsafe { c::set_user_nice(task.as_ptr(), NICE) };
        task.wake_up();
        // INVARIANT: As said above.
        Ok(Self { task, _body: body })
    }

    /// The thread's function.
    ///
    /// # Safety
    ///
    /// `body` points to a [`Body`] that outlives the thread.
    unsafe extern "C" fn main(body: *mut c_void) -> c_int {
        // SAFETY: By the safety requirements of this function.
        let body = unsafe { &*body.cast_const().cast::<Body>() };
        // All of them end what memory reclaim may wait for.
        let _no_io = NoIoScope::new();
        // INVARIANT: This is a kernel thread that was made by kthread_create.
        body(&Running(NotThreadSafe));
        0
    }
}

impl Drop for KThread {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the thread was not stopped yet, and `task` holds a reference.
        unsafe { c::kthread_stop(self.task.as_ptr()) };
    }
}

/// Proof that this is code of a [`KThread`], on its thread.
///
/// # Invariants
///
/// Exists only on a thread that was made by `kthread_create`.
pub(crate) struct Running(NotThreadSafe);

impl Running {
    /// Whether the thread is to return.
    pub(crate) fn should_stop(&self) -> bool {
        // SAFETY: This is a kernel thread by the type invariant.
        unsafe { c::kthread_should_stop() }
    }

    /// Lets others run, if the kernel needs to be asked for that.
    pub(crate) fn yield_now(&self) {
        // SAFETY: No lock is held: a `Running` is only used in process context.
        unsafe { c::dst_cond_resched() };
    }
}

/// What the scheduler may be told about a wake-up: that the waker is about to sleep, so that the other may run where it
/// runs, but after it.
#[derive(Clone, Copy)]
pub(crate) struct WakeHint(c_int);

impl WakeHint {
    /// Nothing is known.
    pub(crate) const NONE: Self = Self(0);

    /// The flags that a wait queue's function was called with.
    pub(super) fn from_flags(flags: c_int) -> Self {
        Self(flags)
    }
}

/// Where one thread sleeps until another kicks it.
///
/// No wake-up is lost: the sleeper announces itself, then looks for work; who brings work makes it visible, then looks
/// for the sleeper. Between each of the two steps is a full barrier. Who finds the thread awake pays one load.
pub(crate) struct Parker {
    task: SetOnce<ARef<Task>>,
    /// Not 0: the thread sleeps or is about to, and nobody has woken it up yet.
    sleeping: Atomic<i32>,
}

impl Parker {
    /// A parker whose thread is told later, by [`Parker::attach`].
    pub(crate) fn new() -> Self {
        Self {
            task: SetOnce::new(),
            sleeping: Atomic::new(0),
        }
    }

    /// Names the one thread that will park here. Before that, and at all but the first call, nobody is woken.
    pub(crate) fn attach(&self, task: &ARef<Task>) {
        self.task.populate(task.clone());
    }

    /// Wakes the thread if it sleeps. Any context.
    ///
    /// What the thread is to see must have been made visible by a fully-ordered atomic operation before.
    pub(crate) fn unpark(&self, hint: WakeHint) {
        if self.sleeping.load(ordering::Relaxed) == 0 || self.sleeping.xchg(0, ordering::Full) == 0
        {
            return;
        }
        let Some(task) = self.task.as_ref() else {
            return;
        };
        let mut entry = c::wait_queue_entry {
            private: task.as_ptr().cast(),
            ..Default::default()
        };
        // SAFETY: Nothing of the entry is used but the task, which is valid: we hold a reference. The flags came from a
        // wait queue that was woken, or are 0.
        unsafe {
            c::default_wake_function(&mut entry, c::TASK_NORMAL, hint.0, core::ptr::null_mut())
        };
    }

    /// Sleeps until [`Parker::unpark`], or until the thread is to stop; not at all unless `idle` says that there is no work.
    /// `idle` must not sleep. May return early: look for work again.
    pub(crate) fn park(&self, running: &Running, idle: impl FnOnce() -> bool) {
        // SAFETY: Changes the state of the current task, which goes back to running below.
        unsafe { c::dst_task_state_idle() };
        self.sleeping.xchg(1, ordering::Full);
        if idle() && !running.should_stop() {
            // SAFETY: Process context, no locks held; the state was set above.
            unsafe { c::schedule() };
        }
        // SAFETY: The state of the current task as it is anyway.
        unsafe { c::dst_task_state_running() };
        self.sleeping.store(0, ordering::Relaxed);
    }
}
