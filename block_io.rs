// SPDX-License-Identifier: GPL-2.0

//! Reading and writing on a node for ourselves, one request at a time, before a storage runs.
//!
//! Process context; sleeps. A server that does not answer in time ([`LIMIT_MS`] unless said otherwise) is not waited for: its
//! node is told to fail what waits for it. A local disk is waited for as long as it takes.
//!
//! While the storage runs that would fail requests of others, too. Then [`BlockIo::set_patient`] leaves the request under
//! way; until it has ended everything else fails with `ETIMEDOUT`.

use kernel::{
    prelude::*,
    sync::Arc,
    time::{
        delay::fsleep,
        Delta, //
    },
};

use crate::{
    array::Node,
    kern::{
        bdev::BackingDev,
        bio::Status,
        lower::{
            Lower,
            LowerBio, //
        },
        pool::{
            Pool,
            Slot, //
        },
        segments,
        span::{
            PagePool,
            Span, //
        },
        time, //
    },
    request::SECTOR_SHIFT,
};

/// Bytes of one request: large enough that a log of 2 MiB takes 16 of them.
const CHUNK: usize = 128 << 10;

/// Pages that there are: of two requests, as the network may hold those of the one before.
const PAGES: u32 = 64;

/// Milliseconds that a node may take for one request.
const LIMIT_MS: u32 = 30_000;

/// The one request.
struct Io {
    lower: LowerBio,
    span: Option<Span>,
    status: Status,
}

impl Lower<()> for Io {
    fn lower(&mut self) -> &mut LowerBio {
        &mut self.lower
    }

    fn device<'a>(&'a self, _context: &'a ()) -> Option<&'a BackingDev> {
        // Nodes submit it.
        None
    }

    fn span(&self) -> Option<&Span> {
        self.span.as_ref()
    }

    fn end(mut slot: Slot<(), Self>, status: Status) {
        // Whoever waits takes the object again, and finds this.
        slot.status = status;
    }
}

/// Memory for requests of our own.
pub(crate) struct BlockIo {
    pool: Arc<Pool<(), Io>>,
    pages: Arc<PagePool>,
    limit_ms: u32,
    /// Nothing is failed that takes too long.
    patient: bool,
}

impl BlockIo {
    /// Allocates it.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            limit_ms: LIMIT_MS,
            patient: false,
            pool: Pool::new(1, (), |_| {
                Ok(Io {
                    lower: LowerBio::new(),
                    span: None,
                    status: Status::OK,
                })
            })?,
            pages: PagePool::new(PAGES)?,
        })
    }

    /// From now on a server is waited for so many milliseconds.
    pub(crate) fn set_limit(&mut self, ms: u32) {
        self.limit_ms = ms;
    }

    /// From now on what takes too long is left alone, or not.
    pub(crate) fn set_patient(&mut self, patient: bool) {
        self.patient = patient;
    }

    /// Whether a request that took too long is under way yet.
    pub(crate) fn is_busy(&self) -> bool {
        self.pool.used() != 0
    }

    /// The object of the one request.
    fn object(&self) -> Result<Slot<(), Io>> {
        if self.patient {
            self.pool.try_take().ok_or(ETIMEDOUT)
        } else {
            Ok(self.pool.take())
        }
    }

    /// Reads from `sector` on; `data` has whole blocks of the node.
    pub(crate) fn read(&self, node: &Node, sector: u64, data: &mut [u8]) -> Result {
        let mut at = sector;
        for chunk in data.chunks_mut(CHUNK) {
            let slot = self.transfer(node, at, chunk.len(), None)?;
            let got = slot
                .span
                .as_ref()
                .map_or(0, |span| segments::get(span, 0, chunk));
            if got != chunk.len() {
                return Err(EIO);
            }
            at += (chunk.len() >> SECTOR_SHIFT) as u64;
        }
        self.drop_span()
    }

    /// Writes from `sector` on, durably; `data` has whole blocks of the node.
    pub(crate) fn write(&self, node: &Node, sector: u64, data: &[u8]) -> Result {
        let mut at = sector;
        for chunk in data.chunks(CHUNK) {
            drop(self.transfer(node, at, chunk.len(), Some(chunk))?);
            at += (chunk.len() >> SECTOR_SHIFT) as u64;
        }
        self.drop_span()
    }

    /// Makes durable what was written.
    pub(crate) fn flush(&self, node: &Node) -> Result {
        self.drop_span()?;
        node.serve(self.object()?.into_flush());
        match self.wait(node)?.status {
            Status::OK => Ok(()),
            status => Err(Error::from_errno(status.to_errno())),
        }
    }

    /// Does one request; gives its object when it has ended well.
    fn transfer(
        &self,
        node: &Node,
        sector: u64,
        bytes: usize,
        data: Option<&[u8]>,
    ) -> Result<Slot<(), Io>> {
        self.drop_span()?;
        let mut slot = self.object()?;
        let span = self.span(u32::try_from(bytes)?)?;
        if let Some(data) = data {
            segments::put(&span, data);
        }
        slot.span = Some(span);
        let write = data.is_some();
        match slot.into_span(write, write, sector) {
            Ok(bio) => node.serve(bio),
            Err(_) => return Err(EIO),
        }
        let slot = self.wait(node)?;
        if slot.status.is_ok() {
            Ok(slot)
        } else {
            Err(Error::from_errno(slot.status.to_errno()))
        }
    }

    /// Waits until the request has ended.
    fn wait(&self, node: &Node) -> Result<Slot<(), Io>> {
        let end = time::in_ms(time::now(), self.limit_ms);
        while !time::reached(end, time::now()) {
            if let Some(slot) = self.pool.try_take() {
                return Ok(slot);
            }
            fsleep(Delta::from_micros(200));
        }
        if !self.patient {
            node.fail_now();
        }
        self.object()
    }

    /// Takes pages; those that the network holds are left to it.
    fn span(&self, bytes: u32) -> Result<Span> {
        if let Some(span) = self.pages.take(bytes) {
            return Ok(span);
        }
        self.pages.replace();
        self.pages.take(bytes).ok_or(ENOMEM)
    }

    /// Gives back the pages of the last request.
    fn drop_span(&self) -> Result {
        let mut slot = self.object()?;
        drop(slot.span.take());
        Ok(())
    }
}
