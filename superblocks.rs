// SPDX-License-Identifier: GPL-2.0

//! Nodes that may become part of a storage, and the superblocks that are found on them.

use kernel::{
    prelude::*,
    str::CString, //
};

use crate::{
    array::Node,
    block_io::BlockIo,
    failure::{
        fail,
        Done,
        Failure, //
    },
    kern::time,
    member,
    meta::{
        layout,
        superblock::Superblock,
        verdict::{
            self,
            Assembly,
            Found,
            Refusal, //
        },
        Block,
        Damage,
        Uuid, //
    },
};

/// A node that may become a part of a storage.
pub(crate) struct Candidate {
    pub(crate) node: Node,
    /// How people name it.
    pub(crate) name: CString,
    /// What was written on it alone is given up.
    pub(crate) discard: bool,
    /// A superblock that it holds is overwritten.
    pub(crate) force: bool,
}

impl Candidate {
    pub(crate) fn name(&self) -> &str {
        self.name.to_str().unwrap_or("")
    }
}

/// The superblocks of a node, as they were read.
pub(crate) struct Superblocks {
    a: KBox<Block>,
    b: KBox<Block>,
    /// Which of them could be read.
    read: [bool; 2],
}

impl Superblocks {
    /// Reads them. A node that can't be read has none that can be used.
    pub(crate) fn read(io: &BlockIo, node: &Node) -> Result<Self> {
        let (mut a, mut b) = (new_block()?, new_block()?);
        let read = match layout::superblocks(member::sectors(node)) {
            Some([at_a, at_b]) => [
                io.read(node, at_a, &mut a[..]).is_ok(),
                io.read(node, at_b, &mut b[..]).is_ok(),
            ],
            None => [false; 2],
        };
        Ok(Self { a, b, read })
    }

    /// Reads those of several nodes.
    pub(crate) fn of_all(io: &BlockIo, candidates: &[Candidate]) -> Result<KVec<Self>> {
        let mut all = KVec::with_capacity(candidates.len(), GFP_KERNEL)?;
        for candidate in candidates {
            all.push(Self::read(io, &candidate.node)?, GFP_KERNEL)?;
        }
        Ok(all)
    }

    pub(crate) fn newest(&self) -> core::result::Result<&Superblock, Damage> {
        let (a, b) = self.blocks();
        Superblock::newest(a, b)
    }

    /// A and B, as far as they could be read.
    pub(crate) fn blocks(&self) -> (Option<&Block>, Option<&Block>) {
        let [a, b] = self.read;
        (a.then_some(&*self.a), b.then_some(&*self.b))
    }
}

/// A node for the verdict.
pub(crate) fn found<'a>(candidate: &'a Candidate, superblocks: &'a Superblocks) -> Found<'a> {
    Found {
        name: candidate.name(),
        sectors: member::sectors(&candidate.node),
        superblock: superblocks.newest(),
        discard: candidate.discard,
    }
}

/// Whether a node tells of no storage, or what it tells does not count.
pub(crate) fn is_blank(candidate: &Candidate, superblocks: &Superblocks) -> bool {
    candidate.force || matches!(superblocks.newest(), Err(Damage::NoMagic))
}

/// Refuses a node that belongs to a storage already.
pub(crate) fn check_free(candidate: &Candidate, superblocks: &Superblocks) -> Done {
    if candidate.force {
        return Ok(());
    }
    verdict::check_free(&found(candidate, superblocks))
        .map_err(|occupied| Failure::new(EEXIST, occupied))
}

/// Which storage nodes are of, and which of them to believe. `fits`: what is to be known of a storage of the algorithm that
/// is asked for; `None` refuses another one. `any_name`: it gets the name that is asked for, whatever it was called.
pub(crate) fn judge<'a, T>(
    nodes: &[Found<'a>],
    asked: &verdict::Wish<'_>,
    any_name: bool,
    fits: impl FnOnce(&Superblock) -> Option<T>,
) -> Done<(Assembly<'a>, T)> {
    let assembly = match verdict::judge(nodes, asked) {
        Ok(assembly) => assembly,
        Err(refusal) => {
            // One side of a conflict of copies can be given up; nodes of another storage have no other side.
            let has_log = |own: &Superblock| own.log().is_some();
            let are_copies = nodes.iter().any(|node| node.superblock.is_ok_and(has_log));
            let error = match refusal {
                Refusal::Conflict { .. } if are_copies => ENOTUNIQ,
                _ => ESTALE,
            };
            return Err(Failure::new(error, refusal));
        }
    };
    let reference = assembly.reference;
    let Some(known) = fits(reference) else {
        fail!(
            EINVAL,
            "the nodes are of the storage {}, which is {}; name that algorithm",
            reference.name(),
            reference.alg()
        );
    };
    if !any_name && reference.name() != asked.name {
        return Err(Failure::new(
            EEXIST,
            format_args!(
                "the nodes are of the storage {}; \"dst assemble {0}\" uses them, --force overwrites them",
                reference.name()
            ),
        ));
    }
    Ok((assembly, known))
}

/// The error of a node that does not do what it was asked for.
pub(crate) fn cannot(error: Error, candidate: &Candidate, what: &str) -> Failure {
    Failure::new(
        error,
        fmt!("{} can't be {what}; see the kernel log", candidate.name()),
    )
}

/// A UUID that nothing else has.
pub(crate) fn new_uuid() -> Uuid {
    Uuid::random(time::random_bytes())
}

/// An empty block.
pub(crate) fn new_block() -> Result<KBox<Block>> {
    // Where it is to be: it is too large for the stack.
    KBox::init(pin_init::init_zeroed(), GFP_KERNEL)
}
