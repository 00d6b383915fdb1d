// SPDX-License-Identifier: GPL-2.0

//! A running storage: a bio comes in, pieces go out to the nodes.
//!
//! What is here does not change while the disk is there, so that the way of a bio takes no lock and
//! allocates nothing.

use kernel::{
    impl_has_work, new_work,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc, //
    },
    workqueue::{
        Work,
        WorkItem, //
    },
};

use crate::{
    alg::{
        Algorithm,
        Segment, //
    },
    gate::{
        Gate,
        Needs, //
    },
    hold::Hold,
    kern::{
        bdev::BackingDev,
        bio::{
            Bio,
            BioPart,
            BioQueue,
            Op,
            Status, //
        },
        disk::DiskOps,
        lower::{
            DirectSubmit,
            Lower,
            LowerBio, //
        },
        pool::{
            Pool,
            Slot, //
        },
        work, //
    },
    limits::MAX_MIRROR_DISCARD,
    mirror::{
        Engine,
        MirrorArray, //
    },
    node_local::{
        self,
        LocalNode, //
    },
    node_remote::{
        self,
        RemoteNode, //
    },
    request::SECTOR_SHIFT,
    uapi, //
};

/// Writes with a flush before them that can be under way: journals have a few, not many.
const PREFLUSHES: u32 = 32;

/// A node, seen from a request.
#[derive(Clone)]
pub(crate) enum Node {
    /// A local disk.
    Local(Arc<LocalNode>),
    /// An NBD server.
    Remote(Arc<RemoteNode>),
}

impl Node {
    /// The largest piece that the node takes, in sectors.
    #[inline]
    fn max_sectors(&self, op: Op) -> u64 {
        match self {
            Self::Local(_) => node_local::MAX_SECTORS,
            Self::Remote(node) => node.ctx().max_sectors(op),
        }
    }

    /// Sends a piece to `sector` of the node.
    #[inline]
    fn submit(&self, part: BioPart, sector: u64) {
        match self {
            Self::Local(node) => node_local::submit(node, part, sector),
            Self::Remote(node) => node_remote::submit(node, part, sector),
        }
    }

    /// Serves a whole bio, at its own sectors; it is cut to what the node takes. Process context; may sleep for a free
    /// piece.
    pub(crate) fn serve(&self, bio: Bio) {
        self.serve_behind(bio, 0);
    }

    /// The same for a bio whose sector `origin` is the node's first one.
    pub(crate) fn serve_behind(&self, mut bio: Bio, origin: u64) {
        let op = bio.op();
        if op == Op::Flush {
            self.flush(bio.into_part());
            return;
        }
        let max = self.max_sectors(op);
        let mut sector = bio.sector().saturating_sub(origin);
        let mut left = u64::from(bio.bytes() >> SECTOR_SHIFT);
        // As in `Map::spread`.
        let _direct = (left > max).then(DirectSubmit::new);
        while left > max {
            let part = bio.split_front((max << SECTOR_SHIFT) as u32);
            self.submit(part, sector);
            sector += max;
            left -= max;
        }
        self.submit(bio.into_part(), sector);
    }

    /// Pieces that are under way, or wait. Any context.
    pub(crate) fn used(&self) -> u32 {
        match self {
            Self::Local(node) => node.used(),
            Self::Remote(node) => node.used(),
        }
    }

    /// Requests that a local disk has ended so far; `None`: it is a server, which can be left.
    pub(crate) fn ended(&self) -> Option<u64> {
        match self {
            Self::Local(node) => Some(node.ctx().counters.ended()),
            Self::Remote(_) => None,
        }
    }

    /// Whether whoever sends something may sleep until a server is back.
    pub(crate) fn is_stuck(&self) -> bool {
        match self {
            Self::Local(_) => false,
            Self::Remote(node) => self.is_lost() && node.used() >= node.capacity(),
        }
    }

    /// Whether a server that was lost can't be asked.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Local(_) => false,
            Self::Remote(node) => node.ctx().shown(|shown| shown.state != uapi::NODE_UP),
        }
    }

    /// Whether a server that was lost is about to say whether another head has taken over.
    pub(crate) fn is_asking(&self) -> bool {
        match self {
            Self::Local(_) => false,
            Self::Remote(node) => node.ctx().is_asking(),
        }
    }

    /// How often a server was lost.
    #[inline]
    pub(crate) fn losses(&self) -> u64 {
        match self {
            Self::Local(_) => 0,
            Self::Remote(node) => node.ctx().reconnects.load(Relaxed),
        }
    }

    /// Whether a server has been silent for so long that others should not wait for it.
    pub(crate) fn is_slow(&self) -> bool {
        match self {
            Self::Local(_) => false,
            Self::Remote(node) => node.ctx().is_slow(),
        }
    }

    /// Makes [`Self::is_slow`] be told as a change of the node's state.
    pub(crate) fn watch_slowness(&self) {
        if let Self::Remote(node) = self {
            node.ctx().watch_slowness();
        }
    }

    /// Ends the waiting for a server.
    pub(crate) fn fail_now(&self) {
        if let Self::Remote(node) = self {
            node.ctx().fail_now();
        }
    }

    /// Whether a flush would find nothing to flush.
    fn is_clean(&self) -> bool {
        match self {
            Self::Local(node) => node_local::is_clean(node),
            Self::Remote(node) => node_remote::is_clean(node),
        }
    }

    /// Flushes the node.
    fn flush(&self, part: BioPart) {
        match self {
            Self::Local(node) => node_local::flush(node, part),
            Self::Remote(node) => node_remote::flush(node, part),
        }
    }
}

/// What serves a segment.
#[derive(Clone)]
pub(crate) enum Target {
    /// A node.
    Node(Node),
    /// Two nodes, of which one is to take the place of the other one.
    Twin(Arc<Engine>),
}

impl Target {
    #[inline]
    fn max_sectors(&self, op: Op) -> u64 {
        match self {
            Self::Node(node) => node.max_sectors(op),
            Self::Twin(_) => MAX_TWIN_SECTORS,
        }
    }

    #[inline]
    fn submit(&self, part: BioPart, sector: u64) {
        match self {
            Self::Node(node) => node.submit(part, sector),
            // It knows where its segment begins.
            Self::Twin(engine) => engine.submit_part(part),
        }
    }

    /// Whether a flush is certain to find nothing to flush.
    fn is_clean(&self) -> bool {
        match self {
            Self::Node(node) => node.is_clean(),
            Self::Twin(_) => false,
        }
    }

    fn flush(&self, part: BioPart) {
        match self {
            Self::Node(node) => node.flush(part),
            Self::Twin(engine) => engine.submit_part(part),
        }
    }
}

/// The largest piece that a twin takes, in sectors: it looks at each region of it at once.
const MAX_TWIN_SECTORS: u64 = MAX_MIRROR_DISCARD as u64;

/// The nodes and how the algorithm joins them.
pub(crate) struct Map {
    alg: &'static dyn Algorithm,
    /// Sorted; checked by the algorithm.
    table: KVec<Segment>,
    /// What [`Segment::node`] counts.
    nodes: KVec<Target>,
    /// Their gates.
    gates: KVec<Arc<Gate>>,
    hold: Arc<Hold>,
}

impl Map {
    /// Joins `nodes`, each of which has a gate, as `table` says; the algorithm must have passed `table`.
    pub(crate) fn new(
        alg: &'static dyn Algorithm,
        table: KVec<Segment>,
        nodes: KVec<Target>,
        gates: KVec<Arc<Gate>>,
        hold: Arc<Hold>,
    ) -> Self {
        Self {
            alg,
            table,
            nodes,
            gates,
            hold,
        }
    }

    /// Lets a bio pass the gate of its next node, or keeps it there.
    #[cold]
    fn pass(&self, bio: Bio, node: u32, needs: Needs) -> Option<Bio> {
        match self.gates.get(node as usize) {
            Some(gate) => gate.pass(bio, needs),
            None => Some(bio),
        }
    }

    /// Lets a bio pass that begins with a flush, or keeps it at the first gate behind which there is something to flush.
    #[cold]
    fn pass_all(&self, mut bio: Bio) -> Option<Bio> {
        for (node, gate) in self.nodes.iter().zip(&self.gates) {
            if !node.is_clean() {
                bio = gate.pass(bio, Needs::All)?;
            }
        }
        Some(bio)
    }

    /// Cuts a bio and sends its pieces. Process context; may sleep for a free piece.
    #[inline]
    fn spread(&self, mut bio: Bio) {
        let op = bio.op();
        let mut sector = bio.sector();
        let mut left = u64::from(bio.bytes() >> SECTOR_SHIFT);
        let mut direct = None;
        loop {
            let found = self
                .alg
                .map(&self.table, sector, left, 0)
                .and_then(|piece| {
                    self.nodes
                        .get(piece.node as usize)
                        .map(|node| (node, piece))
                });
            let Some((node, piece)) = found else {
                // Beyond the end: the block layer has checked it, so this is a bug somewhere.
                bio.end(Status::IOERR);
                return;
            };
            if self.hold.has_closed_gates() {
                let needs = match piece.sectors < left {
                    true => Needs::Next,
                    false => Needs::One,
                };
                match self.pass(bio, piece.node, needs) {
                    Some(passed) => bio = passed,
                    None => return,
                }
            }
            let sectors = piece.sectors.min(node.max_sectors(op));
            if sectors == left {
                node.submit(bio.into_part(), piece.sector);
                return;
            }
            // More than one piece: they are dispatched at once, not when we return, since we may wait
            // for a free piece, which those that are not dispatched can't become.
            direct.get_or_insert_with(DirectSubmit::new);
            // At most what fits into the bio's 32 bits, as it is less than `left`.
            let part = bio.split_front((sectors << SECTOR_SHIFT) as u32);
            node.submit(part, piece.sector);
            sector += sectors;
            left -= sectors;
        }
    }

    /// Flushes all nodes. Process context; may sleep for a free piece.
    fn flush(&self, mut bio: Bio) {
        let _direct = DirectSubmit::new();
        for node in &self.nodes {
            node.flush(bio.split_front(0));
        }
        bio.end(Status::OK);
    }
}

/// A write that waits for the flush before it.
struct Preflush {
    flush: LowerBio,
    data: Option<Bio>,
}

/// Bios whose flush is done, and who sends them on.
#[pin_data]
struct Deferred {
    map: Arc<Map>,
    #[pin]
    bios: BioQueue,
    /// Bios that wait for their flush, or are on their way from there to the nodes.
    busy: Atomic<u32>,
    #[pin]
    work: Work<Deferred>,
}

impl_has_work! {
    impl HasWork<Self> for Deferred { self.work }
}

impl WorkItem for Deferred {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        while let Some(bio) = this.bios.pop() {
            this.map.spread(bio);
            this.busy.fetch_sub(1, Release);
        }
    }
}

impl Lower<Arc<Deferred>> for Preflush {
    fn lower(&mut self) -> &mut LowerBio {
        &mut self.flush
    }

    fn device<'a>(&'a self, _context: &'a Arc<Deferred>) -> Option<&'a BackingDev> {
        // It goes to all nodes, by way of the map.
        None
    }

    fn end(mut slot: Slot<Arc<Deferred>, Self>, status: Status) {
        let Some(bio) = slot.data.take() else { return };
        let deferred = slot.ctx().clone();
        drop(slot);
        if !status.is_ok() {
            bio.end(status);
            deferred.busy.fetch_sub(1, Release);
            return;
        }
        // The next step may sleep, this context may not.
        deferred.bios.push(bio);
        // It is no error if it is queued already: it takes all bios that it finds.
        work::enqueue(deferred);
    }
}

/// A running storage.
pub(crate) struct Array {
    map: Arc<Map>,
    preflush: Arc<Pool<Arc<Deferred>, Preflush>>,
}

impl Array {
    /// Makes the running side of a storage.
    pub(crate) fn new(map: Map) -> Result<Self> {
        let map = Arc::new(map, GFP_KERNEL)?;
        let shared = map.clone();
        let deferred = Arc::pin_init(
            pin_init!(Deferred {
                map: shared,
                bios <- BioQueue::new(),
                busy: Atomic::new(0),
                work <- new_work!("dst::Deferred::work"),
            }),
            GFP_KERNEL,
        )?;
        let preflush = Pool::new(PREFLUSHES, deferred, |_| {
            Ok(Preflush {
                flush: LowerBio::new(),
                data: None,
            })
        })?;
        Ok(Self { map, preflush })
    }

    /// A write that must come after a flush: first that, then the write.
    fn flush_first(&self, mut bio: Bio) {
        let mut slot = match self.preflush.try_take() {
            Some(slot) => slot,
            None if bio.is_nowait() => {
                bio.end(Status::AGAIN);
                return;
            }
            None => self.preflush.take(),
        };
        bio.clear_preflush();
        self.preflush.ctx().busy.fetch_add(1, Relaxed);
        slot.data = Some(bio);
        self.map.flush(slot.into_flush());
    }
}

impl Array {
    /// Whether nothing comes from here any more, once no bios come from above.
    pub(crate) fn is_quiet(&self) -> bool {
        self.preflush.ctx().busy.load(Acquire) == 0
    }
}

/// What serves the disk of a storage.
pub(crate) enum Running {
    /// Each sector is on one node.
    Single(Array),
    /// Each sector is on several nodes.
    Mirror(MirrorArray),
}

impl DiskOps for Running {
    #[inline]
    fn submit(&self, bio: Bio) {
        match self {
            Self::Single(array) => array.submit(bio),
            Self::Mirror(mirror) => mirror.submit(bio),
        }
    }
}

impl Array {
    #[inline]
    fn submit(&self, mut bio: Bio) {
        let hold = &self.map.hold;
        if hold.is_lost() {
            bio.end(Status::IOERR);
            return;
        }
        if hold.has_closed_gates() && (bio.op() == Op::Flush || bio.is_preflush()) {
            // As a whole: what is kept must not keep one of the objects for such bios.
            match self.map.pass_all(bio) {
                Some(passed) => bio = passed,
                None => return,
            }
        }
        match bio.op() {
            Op::Flush => self.map.flush(bio),
            Op::Other => bio.end(Status::NOTSUPP),
            _ if bio.is_preflush() => self.flush_first(bio),
            _ => self.map.spread(bio),
        }
    }
}
