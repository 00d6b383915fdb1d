// SPDX-License-Identifier: GPL-2.0

//! The client's parser of replies, and its rule about when a read is complete.

use std::collections::BTreeMap;

use dst_core::proto::{pending::*, reply::*, wire::*, NbdError};
use proptest::{
    prelude::*,
    sample::Index, //
};

/// What is in memory before a read: nobody may ever see it.
const POISON: u8 = 0xa5;

/// A request of the client, and what the server makes of it.
#[derive(Clone, Debug)]
struct Plan {
    /// `None`: it is no read.
    read: Option<(u64, Vec<u8>)>,
    /// The reply's messages in order: header, and the data behind it.
    messages: Vec<Vec<u8>>,
    error: Option<NbdError>,
}

/// A request under way, as a driver keeps it.
struct Running {
    pending: Pending,
    memory: Vec<u8>,
    /// How often each byte was written; kept apart from the code that is tested.
    written: Vec<u32>,
    end: Option<Result<(), NbdError>>,
}

fn running(plans: &BTreeMap<u64, Plan>, structured: bool) -> BTreeMap<u64, Running> {
    let start = |plan: &Plan| {
        let (pending, len) = match &plan.read {
            Some((offset, data)) => (
                Pending::read(*offset, data.len() as u32, structured),
                data.len(),
            ),
            None => (Pending::other(), 0),
        };
        Running {
            pending,
            memory: vec![POISON; len],
            written: vec![0; len],
            end: None,
        }
    };
    plans
        .iter()
        .map(|(cookie, plan)| (*cookie, start(plan)))
        .collect()
}

/// Receives a stream as a driver does. Stops at an error or at the stream's end.
fn receive(
    running: &mut BTreeMap<u64, Running>,
    structured: bool,
    stream: &[u8],
    sizes: &[usize],
    exactly: bool,
) -> Result<(), Option<ProtocolError>> {
    let mut parser = ReplyParser::new(structured);
    let mut rest = stream;
    let mut sizes = sizes.iter().cycle();
    let mut between = true;
    while !rest.is_empty() {
        let mut n = (*sizes.next().unwrap()).min(rest.len());
        if exactly {
            n = n.min(parser.need());
        }
        assert!(parser.need() > 0);
        assert_eq!(parser.is_between(), between);
        let need = parser.need();
        let fed = parser.feed(&rest[..n]).map_err(Some)?;
        assert!(fed.consumed <= n && (n > need || fed.consumed == n || fed.event.is_some()));
        assert!(fed.event.is_some() || fed.consumed == n);
        rest = &rest[fed.consumed..];
        between = fed.event.is_some() || (between && fed.consumed == 0);
        let Some(event) = fed.event else { continue };
        // A cookie that nobody gave away ends the connection.
        let request = running.get_mut(&event.cookie()).ok_or(None)?;
        let was_over = request.end.is_some();
        let action = request.pending.event(&event).map_err(Some)?;
        assert!(!was_over, "an event for a request that is over");
        match action.fill {
            Fill::Nothing => (),
            Fill::Receive { at, length } => {
                let (at, length) = (at as usize, length as usize);
                // A truncated stream: the rest never comes, and the request does not end.
                let (data, behind) = rest.split_at_checked(length).ok_or(None)?;
                rest = behind;
                request.memory[at..at + length].copy_from_slice(data);
                request.written[at..at + length]
                    .iter_mut()
                    .for_each(|count| *count += 1);
            }
            Fill::Zero { at, length } => {
                let (at, length) = (at as usize, length as usize);
                request.memory[at..at + length].fill(0);
                request.written[at..at + length]
                    .iter_mut()
                    .for_each(|count| *count += 1);
            }
        }
        request.end = action.end;
    }
    Ok(())
}

/// A structured reply to a read, in any order if there are few pieces, with holes, errors and
/// different ends.
fn structured_read() -> impl Strategy<Value = (u64, Plan)> {
    (
        any::<u64>(),
        prop_oneof![0u64..1 << 20, (u64::MAX - (1 << 20))..u64::MAX - 5000],
        prop::collection::vec((1usize..300, any::<bool>(), any::<u8>()), 1..20),
        prop::option::of(any::<u64>()),
        prop_oneof![Just(NbdError::Io), Just(NbdError::Shutdown)],
        prop::option::weighted(0.2, (any::<Index>(), 0usize..300, 0usize..10, 0u16..4)),
        any::<bool>(),
    )
        .prop_map(|(cookie, offset, pieces, shuffle, error, fails, own_end)| {
            let mut chunks = Vec::new();
            let mut data = Vec::new();
            for (len, hole, fill) in &pieces {
                let at = offset + data.len() as u64;
                let bytes: Vec<u8> = match hole {
                    true => vec![0; *len],
                    false => (0..*len).map(|n| fill.wrapping_add(n as u8)).collect(),
                };
                chunks.push(match hole {
                    true => hole_chunk(cookie, at, *len as u32, false).to_vec(),
                    false => [&data_chunk(cookie, at, *len as u32, false)[..], &bytes].concat(),
                });
                data.extend(bytes);
            }
            // Every second piece first: as many separate ranges as the client has to keep track of.
            if let Some(mut seed) = shuffle {
                if chunks.len() <= 2 * MAX_SPANS {
                    for last in (1..chunks.len()).rev() {
                        chunks.swap(last, (seed % (last as u64 + 1)) as usize);
                        seed = seed.rotate_right(7) ^ 0x9e37;
                    }
                }
            }
            let failed = fails.is_some();
            if let Some((at, message, tail, kind)) = fails {
                let at = at.index(chunks.len() + 1);
                // Not all of the data come if it fails, and an unknown kind of error is one, too.
                chunks.truncate(at);
                let kind = CHUNK_ERROR_BIT | (kind + 1);
                let mut payload = error.code().to_be_bytes().to_vec();
                payload.extend((message as u16).to_be_bytes());
                payload.extend(vec![b'!'; message]);
                if kind == CHUNK_ERROR_OFFSET {
                    payload.extend((offset + 1).to_be_bytes());
                }
                payload.extend(vec![7; tail]);
                let header = ChunkHeader {
                    flags: 0,
                    kind,
                    cookie,
                    length: payload.len() as u32,
                };
                chunks.push([&header.encode()[..], &payload].concat());
            }
            if own_end {
                chunks.push(done_chunk(cookie).to_vec());
            } else {
                // The flag that ends the reply, and others, which mean nothing.
                let last = chunks.last_mut().unwrap();
                last[4] |= 0x80;
                last[5] |= 1;
            }
            let plan = Plan {
                read: Some((offset, data)),
                messages: chunks,
                error: failed.then_some(error),
            };
            (cookie, plan)
        })
}

/// A simple reply to a read.
fn simple_read() -> impl Strategy<Value = (u64, Plan)> {
    let data = prop::collection::vec(any::<u8>(), 1..2000);
    (
        any::<u64>(),
        any::<u64>(),
        data,
        prop::option::weighted(0.2, Just(NbdError::Io)),
    )
        .prop_map(|(cookie, offset, data, error)| {
            let mut message = SimpleReply { cookie, error }.encode().to_vec();
            if error.is_none() {
                message.extend(&data);
            }
            let plan = Plan {
                read: Some((offset, data)),
                messages: vec![message],
                error,
            };
            (cookie, plan)
        })
}

/// A reply to something else.
fn other(structured: bool) -> impl Strategy<Value = (u64, Plan)> {
    (
        any::<u64>(),
        any::<bool>(),
        prop::option::of(Just(NbdError::NoSpc)),
    )
        .prop_map(move |(cookie, simple, error)| {
            let message = match error {
                _ if simple || !structured => SimpleReply { cookie, error }.encode().to_vec(),
                Some(error) => error_chunk(cookie, error).to_vec(),
                None => done_chunk(cookie).to_vec(),
            };
            let plan = Plan {
                read: None,
                messages: vec![message],
                error,
            };
            (cookie, plan)
        })
}

/// A connection's requests with their replies: whether structured, the plans, and the stream,
/// interleaved.
fn session() -> impl Strategy<Value = (bool, BTreeMap<u64, Plan>, Vec<Vec<u8>>)> {
    let plans = prop_oneof![
        2 => prop::collection::vec(prop_oneof![3 => structured_read(), 1 => other(true)], 1..8)
            .prop_map(|plans| (true, plans)),
        1 => prop::collection::vec(prop_oneof![3 => simple_read(), 1 => other(false)], 1..8)
            .prop_map(|plans| (false, plans)),
    ];
    (plans, prop::collection::vec(any::<Index>(), 160)).prop_map(|((structured, plans), picks)| {
        let plans: BTreeMap<u64, Plan> = plans.into_iter().collect();
        let mut queues: Vec<_> = plans.values().map(|plan| plan.messages.iter()).collect();
        let mut stream = Vec::new();
        for pick in picks {
            let at = pick.index(queues.len());
            match queues[at].next() {
                Some(message) => stream.push(message.clone()),
                None => {
                    stream.extend(queues.swap_remove(at).cloned());
                    if queues.is_empty() {
                        break;
                    }
                }
            }
        }
        stream.extend(queues.into_iter().flatten().cloned());
        (structured, plans, stream)
    })
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![usize::MAX]),
        Just(vec![1]),
        prop::collection::vec(1usize..60, 1..10),
    ]
}

/// A change of a stream: its kind, two messages or places, and a value.
type Mutation = (u8, Index, Index, u8);

fn mutation() -> impl Strategy<Value = Mutation> {
    (0u8..7, any::<Index>(), any::<Index>(), any::<u8>())
}

/// Changes a stream of messages as a hostile server, or a bad one, would.
fn mutate(stream: &mut Vec<Vec<u8>>, (kind, at, other, value): Mutation) {
    if stream.is_empty() {
        return;
    }
    let (at, to) = (at.index(stream.len()), other.index(stream.len()));
    match kind {
        0 => drop(stream.remove(at)),
        1 => stream.insert(to, stream[at].clone()),
        2 => stream.swap(at, to),
        3 => {
            let len = other.index(stream[at].len() + 1);
            stream[at].truncate(len);
        }
        // Headers are where it hurts.
        _ => {
            let len = stream[at].len().min(32);
            if len != 0 {
                let byte = &mut stream[at][other.index(len)];
                *byte = if kind == 4 {
                    value
                } else {
                    *byte ^ 1 << (value % 8)
                };
            }
        }
    }
}

/// The one thing that must hold, whatever the server sent.
fn assert_no_leak(running: &BTreeMap<u64, Running>) {
    for request in running.values() {
        if request.end == Some(Ok(())) {
            assert!(
                request.written.iter().all(|count| *count == 1),
                "a read with holes in it"
            );
        }
        assert!(
            request.written.iter().all(|count| *count <= 1),
            "a byte that came twice"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Every legal stream gives every request what the server meant for it.
    #[test]
    fn legal_streams((structured, plans, stream) in session(), sizes in sizes(), exactly: bool) {
        let mut running = running(&plans, structured);
        let end = receive(&mut running, structured, &stream.concat(), &sizes, exactly);
        prop_assert_eq!(end, Ok(()));
        for (cookie, request) in &running {
            let plan = &plans[cookie];
            let end = request.end.expect("a request without an end");
            prop_assert_eq!(end, plan.error.map_or(Ok(()), Err));
            if let (Ok(()), Some((_, data))) = (end, &plan.read) {
                prop_assert!(&request.memory == data);
            }
        }
        assert_no_leak(&running);
    }

    /// No stream can panic, or complete a read that has a hole.
    #[test]
    fn mutated_streams(
        (structured, plans, stream) in session(),
        mutations in prop::collection::vec(mutation(), 1..4),
        sizes in sizes(),
        negotiated in prop::bool::weighted(0.9),
    ) {
        let mut stream = stream;
        for mutation in mutations {
            mutate(&mut stream, mutation);
        }
        let mut running = running(&plans, structured);
        let structured = structured && negotiated;
        let end = receive(&mut running, structured, &stream.concat(), &sizes, false);
        if let Err(Some(error)) = end {
            prop_assert!(!error.to_string().is_empty());
        }
        assert_no_leak(&running);
    }

    /// Noise.
    #[test]
    fn noise(structured: bool, bytes in prop::collection::vec(any::<u8>(), 0..200), chunk: bool) {
        let mut parser = ReplyParser::new(structured);
        let magic = if chunk { CHUNK_MAGIC } else { SIMPLE_REPLY_MAGIC };
        let bytes = [&magic.to_be_bytes(), &bytes[..]].concat();
        let mut rest = &bytes[..];
        while let Ok(fed) = parser.feed(rest) {
            rest = &rest[fed.consumed..];
            if rest.is_empty() {
                break;
            }
        }
    }

    /// The coverage tracker, against one counter for each byte.
    #[test]
    fn coverage(length in 0u32..60, adds in prop::collection::vec((0u32..64, 0u32..12), 0..40)) {
        let mut coverage = Coverage::new(length);
        let mut bytes = vec![false; length as usize];
        for (start, count) in adds {
            let range = start as usize..(start + count) as usize;
            let fits = count != 0 && range.end <= bytes.len();
            let overlap = fits && bytes[range.clone()].iter().any(|byte| *byte);
            match coverage.add(start, count) {
                Ok(()) => {
                    prop_assert!(fits && !overlap);
                    bytes[range].fill(true);
                }
                Err(ProtocolError::OutOfRange) => prop_assert!(!fits),
                Err(ProtocolError::Overlap) => prop_assert!(overlap),
                Err(ProtocolError::TooFragmented) => {
                    prop_assert!(fits && !overlap);
                    let runs = bytes.split(|byte| !byte).filter(|run| !run.is_empty()).count();
                    prop_assert_eq!(runs, MAX_SPANS);
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
            prop_assert_eq!(coverage.is_complete(), bytes.iter().all(|byte| *byte));
        }
    }
}

/// Feeds one message to a fresh parser.
fn parse(structured: bool, message: &[u8]) -> Result<Option<Event>, ProtocolError> {
    ReplyParser::new(structured)
        .feed(message)
        .map(|fed| fed.event)
}

/// A chunk with any payload.
fn chunk(flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let header = ChunkHeader {
        flags,
        kind,
        cookie: 1,
        length: payload.len() as u32,
    };
    [&header.encode()[..], payload].concat()
}

#[test]
fn malformed_chunks() {
    let length = |kind, length| Err(ProtocolError::ChunkLength { kind, length });
    let hole = |size: u32| [&[0; 8][..], &size.to_be_bytes()].concat();
    for (message, expected) in [
        (chunk(1, CHUNK_NONE, &[0]), length(CHUNK_NONE, 1)),
        (chunk(0, CHUNK_NONE, &[]), Err(ProtocolError::NotLast)),
        (
            chunk(1, CHUNK_OFFSET_DATA, &[0; 8]),
            length(CHUNK_OFFSET_DATA, 8),
        ),
        (
            chunk(1, CHUNK_OFFSET_HOLE, &[0; 11]),
            length(CHUNK_OFFSET_HOLE, 11),
        ),
        (
            chunk(1, CHUNK_OFFSET_HOLE, &hole(0)),
            length(CHUNK_OFFSET_HOLE, 12),
        ),
        (
            chunk(1, CHUNK_BLOCK_STATUS, &[0; 12]),
            Err(ProtocolError::UnknownChunk(5)),
        ),
        (chunk(1, 3, &[]), Err(ProtocolError::UnknownChunk(3))),
        (
            chunk(1, CHUNK_ERROR, &[0; 6]),
            Err(ProtocolError::ErrorZero),
        ),
        (
            chunk(1, CHUNK_ERROR, &[0, 0, 0, 5, 0]),
            length(CHUNK_ERROR, 5),
        ),
        // The message would be longer than the chunk.
        (
            chunk(1, CHUNK_ERROR, &[0, 0, 0, 5, 0, 1]),
            length(CHUNK_ERROR, 6),
        ),
        (
            chunk(1, CHUNK_ERROR_OFFSET, &[0, 0, 0, 5, 0, 0, 0]),
            length(CHUNK_ERROR_OFFSET, 7),
        ),
        (
            data_chunk(1, u64::MAX, 1, true).to_vec(),
            Err(ProtocolError::OutOfRange),
        ),
        (
            hole_chunk(1, u64::MAX - 1, 2, true).to_vec(),
            Err(ProtocolError::OutOfRange),
        ),
        (vec![0; 16], Err(ProtocolError::BadMagic(0))),
    ] {
        assert_eq!(parse(true, &message), expected, "{message:x?}");
    }
    assert_eq!(
        parse(false, &done_chunk(1)),
        Err(ProtocolError::NotNegotiated)
    );
    let long = ChunkHeader {
        flags: 1,
        kind: CHUNK_ERROR,
        cookie: 1,
        length: u32::MAX,
    };
    assert_eq!(parse(true, &long.encode()), length(CHUNK_ERROR, u32::MAX));
}

#[test]
fn error_offsets() {
    let message = [
        &chunk(0, CHUNK_ERROR_OFFSET, &[])[..16],
        &[
            0, 0, 0, 17, 0, 0, 0, 28, 0, 3, b'a', b'b', b'c', 0, 0, 0, 0, 0, 0, 0x30, 0x39,
        ],
    ]
    .concat();
    let expected = Event::Error {
        cookie: 1,
        error: NbdError::NoSpc,
        offset: Some(12345),
        last: false,
    };
    assert_eq!(parse(true, &message), Ok(Some(expected)));
}

#[test]
fn replies_that_do_not_fit_their_request() {
    let data = |offset, length, last| Event::Data {
        cookie: 0,
        offset,
        length,
        last,
    };
    let simple = Event::Simple {
        cookie: 0,
        error: None,
    };
    let done = Event::Done { cookie: 0 };
    let read = || Pending::read(1000, 100, true);
    for (mut request, events, expected) in [
        (
            read(),
            vec![data(999, 10, false)],
            ProtocolError::OutOfRange,
        ),
        (
            read(),
            vec![data(1091, 10, false)],
            ProtocolError::OutOfRange,
        ),
        (
            read(),
            vec![data(1000 + (1 << 32), 10, false)],
            ProtocolError::OutOfRange,
        ),
        (
            read(),
            vec![data(1000, 10, false), data(1009, 10, false)],
            ProtocolError::Overlap,
        ),
        (read(), vec![data(1000, 99, true)], ProtocolError::Short),
        (read(), vec![done], ProtocolError::Short),
        (
            read(),
            vec![data(1000, 100, true), done],
            ProtocolError::AfterEnd,
        ),
        (read(), vec![simple], ProtocolError::SimpleRead),
        (
            Pending::other(),
            vec![data(0, 1, true)],
            ProtocolError::UnexpectedData,
        ),
        (
            Pending::other(),
            vec![simple, simple],
            ProtocolError::AfterEnd,
        ),
        (
            Pending::other(),
            vec![done, simple],
            ProtocolError::AfterEnd,
        ),
    ] {
        let (last, first) = events.split_last().unwrap();
        for event in first {
            request.event(event).unwrap();
        }
        assert_eq!(request.event(last), Err(expected));
    }
}

#[test]
fn errors_win() {
    let mut request = Pending::read(0, 8, true);
    let failed = Event::Error {
        cookie: 0,
        error: NbdError::Io,
        offset: None,
        last: false,
    };
    assert_eq!(request.event(&failed).unwrap().end, None);
    let data = Event::Data {
        cookie: 0,
        offset: 0,
        length: 8,
        last: true,
    };
    let action = Action {
        fill: Fill::Receive { at: 0, length: 8 },
        end: Some(Err(NbdError::Io)),
    };
    assert_eq!(request.event(&data), Ok(action));
}
