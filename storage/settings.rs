// SPDX-License-Identifier: GPL-2.0

//! What the user says about reading and healing: `dst set`. It is kept until the storage is deleted, for each mirror, and each
//! replacement of a node, that begins.

use kernel::prelude::*;

use crate::{
    alg_mirror::heal::DEFAULT_MIN,
    failure::{
        fail,
        Done, //
    },
    mirror::Engine,
    uapi,
};

use super::Storage;

/// All settings.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    /// `uapi::READ_*`.
    policy: u32,
    /// The least that is copied, in sectors a second, while there are requests.
    pub(super) heal_min: u64,
    /// The most; none: 0.
    pub(super) heal_max: u64,
}

impl Settings {
    /// Those that count unless the user says otherwise.
    pub(super) fn new() -> Self {
        Self {
            policy: uapi::READ_LEAST_PENDING,
            heal_min: DEFAULT_MIN,
            heal_max: 0,
        }
    }

    /// Lets what copies go by them.
    pub(super) fn apply(&self, engine: &Engine) {
        engine.set_policy(self.policy);
        engine.set_pace(self.heal_min, self.heal_max);
    }
}

impl Storage {
    /// Changes a setting of the storage: `uapi::SET_*` of [`uapi::SetStorage`].
    pub(crate) fn set_storage(&self, what: u32, value: u64) -> Done {
        // All under the lock: what starts meanwhile must not miss it.
        let mut inner = self.inner.lock();
        let mut new = inner.settings;
        match what {
            uapi::SET_READ_POLICY if !self.is_mirror() => fail!(
                EOPNOTSUPP,
                "{} is no mirror: all that is on it is on one node, from which it is read",
                self.name()
            ),
            uapi::SET_READ_POLICY => match u32::try_from(value) {
                Ok(policy) if policy <= uapi::READ_ROUND_ROBIN => new.policy = policy,
                _ => fail!(EINVAL, "there is no read policy {value}"),
            },
            uapi::SET_HEAL_MIN => new.heal_min = value,
            uapi::SET_HEAL_MAX => new.heal_max = value,
            _ => fail!(EINVAL, "unknown setting {what}"),
        }
        if new.heal_max != 0 && new.heal_min > new.heal_max {
            fail!(
                EINVAL,
                "healing can't be at least {} and at most {} sectors a second; set the other limit first",
                new.heal_min,
                new.heal_max
            );
        }
        inner.settings = new;
        if let Some(engine) = inner.mirror.as_ref().or(inner.twin.as_ref()) {
            new.apply(engine);
        }
        Ok(())
    }
}
