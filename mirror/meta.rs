// SPDX-License-Identifier: GPL-2.0

//! The metadata of a running mirror, in the module's memory.

use kernel::prelude::*;

use crate::{
    failure::Failure,
    meta::{
        head::Head,
        superblock::Superblock,
        Block,
        Damage, //
    },
    superblocks::new_block,
};

/// The superblock as it was written last, and who has it.
pub(crate) type Meta = Head<KBox<Block>>;

/// What is in our own memory was sealed by us.
impl From<Damage> for Error {
    fn from(_: Damage) -> Self {
        EUCLEAN
    }
}

impl From<Damage> for Failure {
    fn from(_: Damage) -> Self {
        EUCLEAN.into()
    }
}

/// Takes over the superblock that is believed.
#[inline(never)]
pub(super) fn new_meta(superblock: &Superblock) -> Result<KBox<Meta>> {
    let (block, spare) = (new_block()?, new_block()?);
    Ok(KBox::new(Meta::new(superblock, block, spare), GFP_KERNEL)?)
}
