// SPDX-License-Identifier: GPL-2.0

//! Requests, from when they are asked for to their end.

use dst_core::{
    alg_mirror::overlap::Extent,
    proto::{
        pending::{
            Fill,
            Pending, //
        },
        wire::RequestHeader,
        Command, //
    },
    send_queue::{
        self,
        Aside,
        Memory,
        Note, //
    },
};

use super::{
    super::tell,
    head::SUPERBLOCK,
    link::State,
    server::{
        bytes_of,
        versions_in, //
    },
    wire::Side,
    Fault,
    World,
    SECTOR, //
};

/// What a request wants.
#[derive(Clone)]
pub(super) enum Want {
    Write {
        extent: Extent,
        version: u64,
    },
    Read {
        extent: Extent,
        /// The least that it may find.
        floor: Vec<u64>,
        data: Vec<u8>,
    },
    Flush,
}

/// A request.
pub(super) struct Piece {
    want: Want,
    pub(super) index: usize,
    generation: u32,
    /// Its cookie never changes: that is a fault.
    faulty: bool,
    note: Note,
    pending: Pending,
    pub(super) since: u64,
}

impl Piece {
    pub(super) fn cookie(&self) -> u64 {
        u64::from(self.generation) << 32 | self.index as u64
    }

    fn extent(&self) -> Extent {
        match &self.want {
            Want::Write { extent, .. } | Want::Read { extent, .. } => *extent,
            Want::Flush => Extent::default(),
        }
    }
}

impl send_queue::Piece for Piece {
    fn changes(&self) -> Option<Extent> {
        match self.want {
            Want::Write { extent, .. } => Some(extent),
            _ => None,
        }
    }

    fn note(&self) -> &Note {
        &self.note
    }

    fn note_mut(&mut self) -> &mut Note {
        &mut self.note
    }

    fn renew(&mut self) {
        self.generation += u32::from(!self.faulty);
    }
}

pub(super) struct OnHost;

impl Memory for OnHost {
    type Piece = Piece;
    type Ring = Vec<Option<Piece>>;
    type Extents = Vec<Extent>;
    type Aside = Box<Aside<Self>>;
}

/// A place for a request.
pub(super) enum Place {
    Free(u32),
    /// It is in the queue.
    Held,
    /// It was sent.
    Parked(Box<Piece>),
}

impl World {
    /// Sends what can be sent.
    pub(super) fn drain(&mut self, head: usize, link: usize) {
        let State::Up { conn, .. } = self.link(head, link).state else {
            return;
        };
        while let Some(mut piece) = self.link(head, link).queue.pop() {
            let extent = piece.extent();
            let (offset, length) = (
                extent.start * SECTOR as u64,
                extent.sectors() as u32 * SECTOR as u32,
            );
            let (command, payload) = match &piece.want {
                Want::Write { extent, version } => {
                    let versions = vec![*version; extent.sectors() as usize];
                    self.oracle.write(*version).sent_on.push(conn);
                    (Command::Write, bytes_of(extent.start, &versions))
                }
                Want::Read { .. } => (Command::Read, Vec::new()),
                Want::Flush => (Command::Flush, Vec::new()),
            };
            piece.pending = match command {
                Command::Read => Pending::read(offset, length, true),
                _ => Pending::other(),
            };
            self.tally.resent += u64::from(piece.note.resent);
            let header = RequestHeader::new(command, 0, piece.cookie(), offset, length);
            let mut bytes = header.encode().to_vec();
            bytes.extend(payload);
            tell!(
                self,
                "head {head}, link {link}: {command:?} {extent:?} on {conn}, cookie {:#x}, resent: {}",
                piece.cookie(),
                piece.note.resent
            );
            self.link(head, link).park(piece);
            self.send(conn, Side::Server, bytes);
        }
    }

    /// Takes the replies that have come.
    pub(super) fn replies(&mut self, head: usize, link: usize) {
        loop {
            let this = self.link(head, link);
            let State::Up { parser, inbox, .. } = &mut this.state else {
                return;
            };
            let fed = parser.feed(inbox).expect("servers are decent");
            inbox.drain(..fed.consumed);
            let Some(event) = fed.event else { return };
            let Some(mut piece) = this.claim(event.cookie()) else {
                self.tally.strange += 1;
                tell!(self, "head {head}, link {link}: a strange reply {event:?}");
                self.lose(head, link);
                return;
            };
            let action = match piece.pending.event(&event) {
                Ok(action) => action,
                Err(error) => {
                    tell!(self, "head {head}, link {link}: {error}");
                    self.link(head, link).park(piece);
                    self.lose(head, link);
                    return;
                }
            };
            if let (Fill::Receive { at, length }, Want::Read { data, .. }) =
                (action.fill, &mut piece.want)
            {
                let State::Up { inbox, .. } = &mut self.link(head, link).state else {
                    return;
                };
                assert_eq!(at, 0, "all of it is sent at once");
                data.extend(inbox.drain(..length as usize));
            }
            let end = action.end.expect("all of it is sent at once");
            end.expect("no disk fails");
            self.finish_request(head, link, piece, true);
        }
    }

    /// A request is over.
    pub(super) fn finish_request(&mut self, head: usize, link: usize, piece: Piece, ok: bool) {
        // The next one in its place is another one.
        let next = piece.generation + u32::from(!piece.faulty);
        self.link(head, link).places[piece.index] = Place::Free(next);
        if piece.note.held {
            self.tally.held += 1;
        }
        match piece.want {
            Want::Write { version, .. } => {
                tell!(self, "write {version}: over, ok: {ok}");
                let disk = &self.servers[link].disk;
                self.oracle.end(version, ok, disk);
                self.tally.acknowledged += u64::from(ok);
                self.tally.failed += u64::from(!ok);
                self.write_over(head, link, version, ok);
            }
            Want::Read { extent, data, .. } if extent == SUPERBLOCK => {
                let found = ok.then(|| versions_in(extent.start, &data)[0]);
                self.read_again(head, found);
            }
            Want::Read {
                extent,
                floor,
                data,
            } if ok => {
                self.tally.reads += 1;
                let now = self.oracle.floor(link, &extent);
                let found = versions_in(extent.start, &data);
                for ((found, floor), now) in found.iter().zip(&floor).zip(now) {
                    assert!(
                        found >= floor.min(now),
                        "a read of {extent:?} finds {found}, and {floor} was acknowledged"
                    );
                }
                assert_eq!(found.len() as u64, extent.sectors());
            }
            _ => {}
        }
    }

    /// Asks for something. Says whether there was a place for it.
    pub(super) fn ask(&mut self, head: usize, link: usize, want: Want) -> bool {
        let faulty = self.fault == Fault::SameCookie;
        let since = self.now;
        let this = self.link(head, link);
        let free = this.places.iter().enumerate();
        let free = free.filter_map(|(index, place)| match place {
            Place::Free(generation) => Some((index, *generation)),
            _ => None,
        });
        let Some((index, generation)) = free.min() else {
            return false;
        };
        this.places[index] = Place::Held;
        let piece = Piece {
            want,
            index,
            generation,
            faulty,
            note: Note::default(),
            pending: Pending::other(),
            since,
        };
        let refused = this.queue.push(piece);
        if let Some(piece) = refused {
            self.finish_request(head, link, piece, false);
        }
        self.drain(head, link);
        self.arm(head, link);
        true
    }
}
