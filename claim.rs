// SPDX-License-Identifier: GPL-2.0

//! How a head becomes the one that writes for a storage: it announces its epoch to all servers before it writes anything.
//!
//! To read superblocks disturbs nobody. What they tell decides whether there is anything to start, and as which epoch.
//! When all servers have ended what older heads had on them, the superblocks are read once more: the older head may have
//! written to them until then. What was found the second time counts.

use kernel::{
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    },
};

use crate::{
    failure::{
        fail,
        Done, //
    },
    kern::time,
    meta::Uuid,
};

/// Milliseconds in which a head that was just started writes its epoch to its nodes.
const START_MS: u32 = 1000;

/// Announces storage and epoch to all servers; gives the epoch of another head, if one has claimed the storage already.
pub(crate) type Claimer<'a> = dyn FnMut(Uuid, u64) -> Done<Option<u64>> + 'a;

/// Refuses to start what another head holds.
pub(crate) fn refuse<T>(epoch: u64) -> Done<T> {
    fail!(
        ESTALE,
        "another head has taken over this storage (epoch {epoch}); stop it there first, or start it again to take it \
         back"
    );
}

/// Announces a storage that nobody else knows.
pub(crate) fn claim_new(claim: &mut Claimer<'_>, storage: Uuid, epoch: u64) -> Done {
    match claim(storage, epoch)? {
        None => Ok(()),
        Some(other) => refuse(other),
    }
}

/// Makes a plan, announces it, and makes it again.
///
/// `plan` gets the least epoch that it may have, `identity` gives a plan's storage and epoch.
pub(crate) fn claimed<P>(
    mut plan: impl FnMut(u64) -> Done<P>,
    identity: impl Fn(&P) -> Result<(Uuid, u64)>,
    claim: &mut Claimer<'_>,
) -> Done<P> {
    let (storage, mut epoch) = identity(&plan(0)?)?;
    if let Some(other) = claim(storage, epoch)? {
        // A head that runs has its epoch in the superblocks, and was seen there. So this one has just been started, or its
        // start has failed.
        // If two have got a part of the servers each, they should not meet again.
        let more = time::random_u32().checked_rem(START_MS).unwrap_or(0);
        fsleep(Delta::from_millis(i64::from(START_MS + more)));
        let (_, next) = identity(&plan(0)?)?;
        if next > other {
            return refuse(other);
        }
        epoch = other.saturating_add(1);
        if let Some(other) = claim(storage, epoch)? {
            return refuse(other);
        }
    }
    let plan = plan(epoch)?;
    if identity(&plan)? != (storage, epoch) {
        fail!(
            ESTALE,
            "another head has started this storage at the same time; stop it there first, or start it again to take it \
             over"
        );
    }
    Ok(plan)
}
