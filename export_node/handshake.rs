// SPDX-License-Identifier: GPL-2.0

//! The start of a connection: until the client has chosen the export.

use super::{
    end::End,
    intake::PIECE,
    Facts, //
};
use crate::{
    kern::{
        bdev::BackingDev,
        net::{
            Incoming,
            Sink,
            Socket, //
        },
        time::{
            self,
            Jiffies, //
        }, //
    },
    proto::{
        fence::{
            Fence,
            Verdict, //
        },
        option::BlockSizes,
        request::Limits,
        server::{
            ExportDescription,
            Exports,
            Outcome,
            ServerError,
            ServerHandshake,
            Session, //
        },
        DEFAULT_MAX_PAYLOAD,
        FLAG_CAN_MULTI_CONN,
        FLAG_HAS_FLAGS,
        FLAG_READ_ONLY,
        FLAG_ROTATIONAL,
        FLAG_SEND_DF,
        FLAG_SEND_FLUSH,
        FLAG_SEND_FUA,
        FLAG_SEND_TRIM,
        FLAG_SEND_WRITE_ZEROES, //
    },
};
use kernel::prelude::*;

/// Milliseconds for the whole handshake. It takes a few round trips.
const HANDSHAKE_MS: u32 = 10_000;

/// What is received at a time.
const CHUNK: usize = 128;

/// Preferred block size: the page size of most file systems.
const PREFERRED: u32 = 4096;

/// What clients are told about the disk.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    /// Bytes, whole blocks.
    pub(super) size: u64,
    /// `FLAG_*`.
    pub(super) flags: u16,
    /// Block sizes.
    pub(super) blocks: BlockSizes,
}

impl Geometry {
    /// Asks the disk.
    pub(super) fn of(dev: &BackingDev, read_only: bool) -> Self {
        let minimum = dev.logical_block_size();
        let bytes = dev.sectors().saturating_mul(512);
        let offered = |flag, can: bool| if can { flag } else { 0 };
        Self {
            // A tail that is no whole block could not be reached.
            size: bytes & !u64::from(minimum.saturating_sub(1)),
            flags: FLAG_HAS_FLAGS
                // Flushes are for the block layer to know what to do about; a disk without a cache has none.
                | FLAG_SEND_FLUSH
                | FLAG_SEND_FUA
                // Where the disk can't, we write them; the client saves the sending.
                | FLAG_SEND_WRITE_ZEROES
                | FLAG_SEND_DF
                // All connections share the one open disk, and a flush flushes all of it.
                | FLAG_CAN_MULTI_CONN
                | offered(FLAG_READ_ONLY, read_only)
                | offered(FLAG_ROTATIONAL, dev.rotational())
                | offered(FLAG_SEND_TRIM, dev.max_discard_sectors() != 0),
            blocks: BlockSizes {
                minimum,
                preferred: dev
                    .physical_block_size()
                    .clamp(PREFERRED.max(minimum), PIECE),
                maximum: PIECE,
            },
        }
    }

    /// What requests are held to. Payloads may be longer than what we tell: see [`super::intake`].
    pub(super) fn limits(&self) -> Limits {
        Limits {
            size: self.size,
            flags: self.flags,
            blocks: BlockSizes {
                maximum: DEFAULT_MAX_PAYLOAD,
                ..self.blocks
            },
        }
    }
}

/// The one export that there is, under its name and under the empty one.
struct Offer<'a> {
    facts: &'a Facts,
    geometry: Geometry,
}

impl Exports for Offer<'_> {
    fn find(&self, name: &str) -> Option<ExportDescription<'_>> {
        (name.is_empty() || name == self.facts.name()).then(|| ExportDescription {
            id: 0,
            name: self.facts.name(),
            description: self.facts.path_text(),
            size: self.geometry.size,
            flags: self.geometry.flags,
            blocks: self.geometry.blocks,
        })
    }

    fn list(&self, index: usize) -> Option<&str> {
        (index == 0).then(|| self.facts.name())
    }
}

/// A handshake under way.
pub(super) struct Handshake {
    machine: ServerHandshake,
    geometry: Geometry,
    /// When it must be over.
    deadline: Jiffies,
}

/// What the client asked for, and what it was told.
pub(super) struct Agreement {
    pub(super) structured: bool,
    pub(super) geometry: Geometry,
}

impl Handshake {
    /// Starts one.
    pub(super) fn new(geometry: Geometry) -> Self {
        Self {
            machine: ServerHandshake::new(),
            geometry,
            deadline: time::in_ms(time::now(), HANDSHAKE_MS),
        }
    }

    /// When it must be over. While the client waits for the disk it may take as long as that does.
    pub(super) fn deadline(&self) -> Option<Jiffies> {
        (!self.is_fencing()).then_some(self.deadline)
    }

    /// Whether the client waits until nothing of the older connections of its storage is on the disk.
    pub(super) fn is_fencing(&self) -> bool {
        self.machine.is_fencing()
    }

    /// Whether something is to be sent, instead of being received.
    pub(super) fn is_sending(&self) -> bool {
        !self.machine.output().is_empty()
    }

    /// Goes on as far as possible. `None`: the socket would block, or the client waits for the disk.
    ///
    /// `fence` ends the older connections of a storage, and says how that stands.
    pub(super) fn run(
        &mut self,
        socket: &Socket,
        facts: &Facts,
        mut fence: impl FnMut(&Fence) -> Verdict,
    ) -> core::result::Result<Option<Agreement>, End> {
        loop {
            while self.is_sending() {
                match socket.send(self.machine.output(), false) {
                    Ok(sent) => self.machine.sent(sent),
                    Err(EAGAIN) => return Ok(None),
                    Err(error) => return Err(End::Broken(error)),
                }
            }
            // Not under the socket's lock: it has to do with other sockets.
            if let Some(claim) = self.machine.claim() {
                let waited = self.is_fencing();
                self.machine.judge(fence(&claim));
                match (waited, self.is_fencing()) {
                    (true, true) => return Ok(None),
                    (true, false) => self.deadline = time::in_ms(time::now(), HANDSHAKE_MS),
                    _ => {}
                }
                continue;
            }
            let mut listener = Listener {
                machine: &mut self.machine,
                offer: Offer {
                    facts,
                    geometry: self.geometry,
                },
                outcome: None,
                error: None,
            };
            // It may go on without input.
            listener.advance(&[]);
            let mut received = 0;
            if listener.wants() {
                received = socket.receive(&mut listener).map_err(|error| match error {
                    EPIPE => End::Left,
                    error => End::Broken(error),
                })?;
            }
            let Listener { outcome, error, .. } = listener;
            if let Some(error) = error {
                return Err(End::Handshake(error));
            }
            match outcome {
                Some(Outcome::Done(Session { structured, .. })) => {
                    return Ok(Some(Agreement {
                        structured,
                        geometry: self.geometry,
                    }))
                }
                Some(Outcome::Aborted) => return Err(End::Left),
                None if received == 0 && !self.is_sending() => return Ok(None),
                None => {}
            }
        }
    }
}

/// Feeds the handshake.
struct Listener<'a> {
    machine: &'a mut ServerHandshake,
    offer: Offer<'a>,
    outcome: Option<Outcome>,
    error: Option<ServerError>,
}

impl Listener<'_> {
    fn advance(&mut self, input: &[u8]) {
        match self.machine.advance(input, &self.offer) {
            Ok(progress) => self.outcome = progress.outcome,
            Err(error) => self.error = Some(error),
        }
    }

    fn wants(&self) -> bool {
        self.outcome.is_none() && self.error.is_none() && self.machine.need() != 0
    }
}

impl Sink for Listener<'_> {
    fn take(&mut self, data: &mut Incoming<'_>) -> bool {
        let mut chunk = [0; CHUNK];
        while self.wants() && data.len() != 0 {
            let need = self.machine.need().min(CHUNK);
            let Some(room) = chunk.get_mut(..need) else {
                return false;
            };
            // It takes all of it: it wants at least so much.
            let have = data.copy(room);
            let have = room.get(..have).unwrap_or(&[]);
            match self.machine.advance(have, &self.offer) {
                Ok(progress) => self.outcome = progress.outcome,
                Err(error) => self.error = Some(error),
            }
        }
        self.wants()
    }
}
