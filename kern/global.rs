// SPDX-License-Identifier: GPL-2.0

//! Values of which the module has one, and which are made when it is loaded.

/// Makes a private module `$name` with the functions `set`, `get` and `take` for one value of type `$type`.
///
/// `set` belongs into the module's init function. The value lives until `take`.
macro_rules! global {
    ($(#[$attr:meta])* $name:ident: $type:ty) => {
        $(#[$attr])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            use kernel::sync::atomic::{
                Acquire,
                Atomic,
                Full,
                Release, //
            };

            kernel::sync::global_lock! {
                // SAFETY: `set` initializes it once; nobody else touches it before `READY` says so.
                unsafe(uninit) static VALUE: Mutex<Option<$type>> = None;
            }

            /// Somebody has begun to initialize `VALUE`.
            static BEGUN: Atomic<bool> = Atomic::new(false);
            /// `VALUE` is initialized.
            static READY: Atomic<bool> = Atomic::new(false);

            /// Sets the value; gives it back if another is being set.
            pub(super) fn set(value: $type) -> core::result::Result<(), $type> {
                if !BEGUN.xchg(true, Full) {
                    // SAFETY: This is reached once, thanks to `BEGUN`.
                    unsafe { VALUE.init() };
                    READY.store(true, Release);
                }
                if !READY.load(Acquire) {
                    return Err(value);
                }
                let old = VALUE.lock().replace(value);
                drop(old);
                Ok(())
            }

            /// The value.
            pub(super) fn get() -> Option<$type> {
                if READY.load(Acquire) {
                    VALUE.lock().clone()
                } else {
                    None
                }
            }

            /// Takes the value out.
            pub(super) fn take() -> Option<$type> {
                if READY.load(Acquire) {
                    VALUE.lock().take()
                } else {
                    None
                }
            }
        }
    };
}
pub(crate) use global;
