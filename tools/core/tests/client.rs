// SPDX-License-Identifier: GPL-2.0

//! The client's side of the handshake, against servers of other kinds: old, wrong and hostile ones.

mod common;

use common::*;
use dst_core::proto::{
    client::*,
    fence::*,
    option::*,
    *, //
};
use proptest::prelude::*;

const FLAGS: u16 = FLAG_HAS_FLAGS | FLAG_SEND_FLUSH | FLAG_SEND_DF;

/// A reply to an option.
fn reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let header = OptionReply {
        option,
        kind,
        length: payload.len() as u32,
    };
    [&header.encode()[..], payload].concat()
}

/// An information about the export.
fn info(kind: u16, payload: &[u8]) -> Vec<u8> {
    reply(OPT_GO, REP_INFO, &[&kind.to_be_bytes(), payload].concat())
}

/// What the server sends after a certain amount of what the client sends.
struct Script(Vec<(Vec<u8>, Vec<u8>)>);

/// Plays a script: checks that the client sends the first of each pair, then sends the second.
fn play(
    client: &mut ClientHandshake,
    script: Script,
    chunks: &mut Chunks,
) -> Result<Progress, HandshakeError> {
    let mut last = Ok(Progress {
        consumed: 0,
        done: None,
    });
    for (question, answer) in script.0 {
        let mut asked = Vec::new();
        while !client.output().is_empty() {
            let n = chunks.next(client.output().len());
            asked.extend_from_slice(&client.output()[..n]);
            client.sent(n);
        }
        assert_eq!(asked, question);
        let mut answer = &answer[..];
        while !answer.is_empty() {
            // Never more than it asks for, as a driver does that has to leave the rest in the
            // socket.
            assert!(client.need() > 0, "the client does not want the rest");
            let n = chunks.next(answer.len().min(client.need()));
            let progress = client.advance(&answer[..n])?;
            assert_eq!(progress.consumed, n);
            answer = &answer[n..];
            last = Ok(progress);
        }
    }
    last
}

/// The answer to [`OPT_EXPORT_NAME`].
fn old_export(no_zeroes: bool) -> Vec<u8> {
    let zeroes = if no_zeroes { 0 } else { ZEROES };
    [&export(1 << 20, FLAGS)[..], &vec![0; zeroes]].concat()
}

/// Client flags, and the two options of a client that looks for `name`.
fn questions(name: &str) -> Vec<u8> {
    questions_behind(name, &[])
}

/// The same with something before the two options.
fn questions_behind(name: &str, first: &[u8]) -> Vec<u8> {
    let go = info_payload(name.as_bytes(), &[INFO_BLOCK_SIZE]);
    [
        &[0, 0, 0, 3][..],
        first,
        &option(OPT_STRUCTURED_REPLY, 0),
        &option(OPT_GO, go.len() as u32),
        &go,
    ]
    .concat()
}

/// Runs a client against answers to its two options.
fn answered(
    answers: &[Vec<u8>],
    chunks: &mut Chunks,
) -> (Result<Progress, HandshakeError>, String) {
    let mut client = ClientHandshake::new("x", true).unwrap();
    let script = Script(vec![
        (Vec::new(), greeting(3).to_vec()),
        (questions("x"), answers.concat()),
    ]);
    let result = play(&mut client, script, chunks);
    (result, client.message().to_string())
}

/// The fence of the tests.
const FENCE: Fence = Fence {
    storage: [1; 16],
    head: [2; 16],
    epoch: 3,
};

/// The same of a client that asks for a fence; gives the client, too.
fn fence_answered(
    answers: &[Vec<u8>],
    chunks: &mut Chunks,
) -> (Result<Progress, HandshakeError>, ClientHandshake) {
    let mut client = ClientHandshake::new("x", true).unwrap();
    client.set_fence(FENCE);
    let first = [&option(OPT_DST, 48)[..], &FENCE.encode()].concat();
    let script = Script(vec![
        (Vec::new(), greeting(3).to_vec()),
        (questions_behind("x", &first), answers.concat()),
    ]);
    (play(&mut client, script, chunks), client)
}

/// Good answers behind that to [`OPT_DST`].
fn good_rest() -> Vec<Vec<u8>> {
    vec![
        reply(OPT_STRUCTURED_REPLY, REP_ACK, &[]),
        info(INFO_EXPORT, &export(1 << 20, FLAGS)),
        reply(OPT_GO, REP_ACK, &[]),
    ]
}

proptest! {
    /// Whatever a server has against an option that it does not know, it can be used without.
    #[test]
    fn servers_without_fences(
        kind in prop_oneof![Just(REP_ERR_UNSUP), Just(REP_ERR_POLICY), (1u32 << 31)..],
        text in prop::collection::vec(any::<u8>(), 0..300),
        mut chunks in chunks(),
    ) {
        prop_assume!(kind != REP_ERR_SHUTDOWN);
        let answers = [vec![reply(OPT_DST, kind, &text)], good_rest()].concat();
        let (result, client) = fence_answered(&answers, &mut chunks);
        prop_assert!(result.unwrap().done.unwrap().structured);
        prop_assert!(!client.knows_fence() && !client.is_fence_unanswered());
        prop_assert_eq!(client.message(), "");
    }

    /// An acknowledgement counts only from a server that knows what it acknowledges.
    #[test]
    fn servers_with_fences(
        epoch in 1u64..,
        text in "[a-z]{0,120}",
        kind in prop_oneof![Just(REP_ERR_POLICY), Just(REP_ERR_SHUTDOWN), (1u32 << 31)..],
        mut chunks in chunks(),
    ) {
        let known = reply(OPT_DST, REP_DST, &newest(epoch));
        let ack = reply(OPT_DST, REP_ACK, &[]);
        let answers = [vec![known.clone(), ack.clone()], good_rest()].concat();
        let (result, client) = fence_answered(&answers, &mut chunks);
        prop_assert!(result.unwrap().done.is_some() && client.knows_fence());

        let (result, client) = fence_answered(std::slice::from_ref(&known), &mut chunks);
        prop_assert_eq!(result.unwrap().done, None);
        prop_assert!(client.is_fencing() && !client.is_fence_unanswered());
        prop_assert_eq!(client.closed(), HandshakeError::Closed);

        let refusal = reply(OPT_DST, kind, text.as_bytes());
        let (result, client) = fence_answered(&[known.clone(), refusal], &mut chunks);
        prop_assert_eq!(result, Err(match kind {
            REP_ERR_POLICY => HandshakeError::TakenOver(TakenOver(epoch)),
            REP_ERR_SHUTDOWN => HandshakeError::Shutdown,
            kind => HandshakeError::Refused(kind),
        }));
        prop_assert_eq!(client.message(), &text[..text.len().min(96)]);

        for (strange, knows) in [
            (vec![ack.clone()], false),
            (vec![reply(OPT_DST, REP_DST, &newest(epoch)[1..])], false),
            (vec![reply(OPT_DST, REP_DST, &[0; 16])], false),
            (vec![reply(OPT_DST, REP_SERVER, &[])], false),
            (vec![reply(OPT_STRUCTURED_REPLY, REP_ACK, &[])], false),
            (vec![known.clone(), known.clone()], true),
            (vec![known.clone(), reply(OPT_STRUCTURED_REPLY, REP_ACK, &[])], true),
        ] {
            let (result, client) = fence_answered(&strange, &mut chunks);
            prop_assert!(matches!(result, Err(HandshakeError::Protocol(_))), "{result:?}");
            prop_assert_eq!((client.knows_fence(), client.is_fence_unanswered()), (knows, !knows));
        }
    }

    #[test]
    fn fixed_newstyle_in_one_round_trip(
        noise in prop::collection::vec((4u16.., prop::collection::vec(any::<u8>(), 0..50)), 0..20),
        structured: bool,
        mut chunks in chunks(),
    ) {
        let mut answers = vec![match structured {
            true => reply(OPT_STRUCTURED_REPLY, REP_ACK, &[]),
            false => reply(OPT_STRUCTURED_REPLY, REP_ERR_UNSUP, b"what?"),
        }];
        answers.push(info(INFO_NAME, b"x"));
        answers.push(info(INFO_EXPORT, &export(12345 << 9, FLAGS)));
        answers.extend(noise.iter().map(|(kind, payload)| info(*kind, payload)));
        answers.push(reply(OPT_GO, REP_ACK, &[]));
        let done = answered(&answers, &mut chunks).0.unwrap().done.unwrap();
        prop_assert_eq!(done, ExportInfo {
            size: 12345 << 9,
            flags: if structured { FLAGS } else { FLAGS & !FLAG_SEND_DF },
            min_block: 512,
            preferred_block: 4096,
            max_payload: 32 << 20,
            structured,
        });
    }

    #[test]
    fn servers_without_go(
        name in "[a-z]{0,256}",
        no_zeroes: bool,
        structured: bool,
        text in prop::collection::vec(any::<u8>(), 0..300),
        mut chunks in chunks(),
    ) {
        let mut client = ClientHandshake::new(&name, true).unwrap();
        let flags = if no_zeroes { 3 } else { 1 };
        let mut first = questions(&name);
        first[3] = flags;
        let answer = match structured {
            true => reply(OPT_STRUCTURED_REPLY, REP_ACK, &[]),
            false => reply(OPT_STRUCTURED_REPLY, REP_ERR_POLICY, &text),
        };
        let answer = [answer, reply(OPT_GO, REP_ERR_UNSUP, &text)].concat();
        let question = [&option(OPT_EXPORT_NAME, name.len() as u32)[..], name.as_bytes()].concat();
        let end = old_export(no_zeroes);
        let script = Script(vec![
            (Vec::new(), greeting(flags.into()).to_vec()),
            (first, answer),
            (question, end),
        ]);
        let done = play(&mut client, script, &mut chunks).unwrap().done.unwrap();
        prop_assert_eq!((done.size, done.structured), (1 << 20, structured));
        prop_assert_eq!(client.message(), "");
    }

    #[test]
    fn servers_without_options(name in "[a-z]{0,9}", no_zeroes: bool, mut chunks in chunks()) {
        let mut client = ClientHandshake::new(&name, true).unwrap();
        let flags = if no_zeroes { 2 } else { 0 };
        let question = option(OPT_EXPORT_NAME, name.len() as u32);
        let question = [&[0, 0, 0, flags][..], &question, name.as_bytes()].concat();
        let end = old_export(no_zeroes);
        let script = Script(vec![(Vec::new(), greeting(flags.into()).to_vec()), (question, end)]);
        let done = play(&mut client, script, &mut chunks).unwrap().done.unwrap();
        prop_assert_eq!((done.size, done.structured), (1 << 20, false));
        prop_assert_eq!(done.flags, FLAGS & !FLAG_SEND_DF);
    }

    #[test]
    fn refusals(text in "\\PC{0,200}", mut chunks in chunks()) {
        for (kind, expected) in [
            (REP_ERR_UNKNOWN, HandshakeError::ExportUnknown),
            (REP_ERR_POLICY, HandshakeError::Policy),
            (REP_ERR_TLS_REQD, HandshakeError::TlsRequired),
            (REP_ERR_BLOCK_SIZE_REQD, HandshakeError::BlockSizeRequired),
            (REP_ERR_SHUTDOWN, HandshakeError::Shutdown),
            (REP_ERR_TOO_BIG, HandshakeError::TooBig),
            (REP_ERR_INVALID, HandshakeError::Refused(REP_ERR_INVALID)),
            (REP_ERR_PLATFORM, HandshakeError::Refused(REP_ERR_PLATFORM)),
            (0x8000_1234, HandshakeError::Refused(0x8000_1234)),
        ] {
            let answers = [
                reply(OPT_STRUCTURED_REPLY, REP_ERR_TLS_REQD, &[]),
                reply(OPT_GO, kind, text.as_bytes()),
            ];
            let (result, message) = answered(&answers, &mut chunks);
            prop_assert_eq!(result, Err(expected));
            prop_assert!(!expected.to_string().is_empty());
            prop_assert_eq!(message.len(), text.len().min(96));
            prop_assert!(message.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let mut pairs = text.bytes().zip(message.bytes());
            prop_assert!(pairs.all(|(a, b)| a == b || b == b'?'));
        }
    }

    /// An export is accepted only with a geometry that can be used, and then it is sound.
    #[test]
    fn geometry(
        size in prop_oneof![0u64..100_000, any::<u64>(), (1u64 << 63) - 5..(1 << 63) + 5],
        flags: u16,
        sizes in prop::option::of((
            prop_oneof![4 => (0u32..32).prop_map(|n| 1 << n), 1 => any::<u32>()],
            prop_oneof![4 => (0u32..32).prop_map(|n| 1 << n), 1 => any::<u32>()],
            prop_oneof![4 => (0u32..32).prop_map(|n| 1 << n), 1 => any::<u32>(), 1 => 0u32..5000],
        )),
        mut chunks in chunks(),
    ) {
        let mut answers = vec![reply(OPT_STRUCTURED_REPLY, REP_ACK, &[])];
        if let Some((minimum, preferred, maximum)) = sizes {
            let blocks = BlockSizes { minimum, preferred, maximum };
            answers.push(info(INFO_BLOCK_SIZE, &blocks.encode()));
        }
        answers.push(info(INFO_EXPORT, &export(size, flags)));
        answers.push(reply(OPT_GO, REP_ACK, &[]));
        let (minimum, preferred, maximum) = sizes.unwrap_or((512, 4096, 32 << 20));
        let sector = minimum.max(512);
        let sound = flags & 1 != 0
            && size <= i64::MAX as u64
            && size >= u64::from(sector)
            && minimum.is_power_of_two()
            && minimum <= 65536
            && preferred.is_power_of_two()
            && preferred >= minimum
            && maximum >= sector;
        match answered(&answers, &mut chunks).0 {
            Err(error) => {
                prop_assert!(!sound, "{error}");
                if flags & 1 != 0 && sizes.is_none() {
                    let empty = size < 512;
                    prop_assert_eq!(error, match empty {
                        true => HandshakeError::EmptyExport,
                        false => HandshakeError::SizeTooLarge(size),
                    });
                }
            }
            Ok(progress) => {
                prop_assert!(sound);
                let info = progress.done.unwrap();
                prop_assert_eq!((info.size, info.min_block), (size, sector));
                prop_assert_eq!(info.preferred_block, preferred.max(512));
                prop_assert_eq!(info.max_payload, maximum.min(i32::MAX as u32) / sector * sector);
                prop_assert_eq!(info.sectors(), size / u64::from(sector) * u64::from(sector) / 512);
            }
        }
    }

    /// What is no handshake is refused without a panic, and whatever is accepted is sound.
    #[test]
    fn garbage_is_survived(
        good_start: bool,
        parts in prop::collection::vec(answer_garbage(), 0..30),
        mut chunks in chunks(),
        sends: bool,
        fenced: bool,
    ) {
        let mut input = if good_start { greeting(3).to_vec() } else { Vec::new() };
        input.extend(parts.concat());
        let mut client = ClientHandshake::new("x", true).unwrap();
        if fenced {
            client.set_fence(FENCE);
        }
        let mut rest = &input[..];
        let mut idle = 0;
        while !rest.is_empty() && idle < 50 {
            if sends {
                client.sent(chunks.next(client.output().len()));
            }
            prop_assert!(client.output().len() < 512);
            let n = chunks.next(rest.len());
            match client.advance(&rest[..n]) {
                Ok(progress) => {
                    rest = &rest[progress.consumed..];
                    idle = if progress.consumed == 0 { idle + 1 } else { 0 };
                    if let Some(info) = progress.done {
                        prop_assert!(sends && info.sectors() > 0);
                        prop_assert!(info.max_payload >= info.min_block);
                        break;
                    }
                    prop_assert_eq!(progress.consumed, n);
                }
                Err(error) => {
                    prop_assert_eq!(client.closed(), error);
                    break;
                }
            }
        }
    }
}

/// Bytes that look like a server's to various degrees.
fn answer_garbage() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..30);
    let good = || {
        prop_oneof![
            Just(reply(OPT_STRUCTURED_REPLY, REP_ACK, &[])),
            Just(info(INFO_EXPORT, &export(1 << 20, FLAGS))),
            Just(reply(OPT_GO, REP_ACK, &[])),
            Just(reply(OPT_GO, REP_ERR_UNSUP, b"no")),
            Just(reply(OPT_DST, REP_ERR_UNSUP, b"no")),
            Just(reply(OPT_DST, REP_DST, &newest(7))),
            Just(reply(OPT_DST, REP_ACK, &[])),
            Just(export(1 << 20, FLAGS).to_vec()),
            (4u16..9, bytes()).prop_map(|(kind, payload)| info(kind, &payload)),
        ]
    };
    prop_oneof![
        6 => good(),
        1 => bytes(),
        2 => (good(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, value)| {
            let at = at.index(bytes.len());
            bytes[at] = value;
            bytes
        }),
    ]
}

/// What a client makes of a server's first bytes.
fn first_bytes(bytes: &[u8]) -> Result<Progress, HandshakeError> {
    ClientHandshake::new("", true).unwrap().advance(bytes)
}

#[test]
fn others() {
    let oldstyle = b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53";
    assert_eq!(first_bytes(oldstyle), Err(HandshakeError::OldStyle));
    assert_eq!(first_bytes(b"SSH-2.0-OpenSSH"), Err(HandshakeError::NotNbd));
    assert_eq!(
        first_bytes(b"NBDMAGICHTTP/1.0"),
        Err(HandshakeError::NotNbd)
    );
}

#[test]
fn answers_before_questions() {
    let early = [
        &greeting(3)[..],
        &reply(OPT_STRUCTURED_REPLY, REP_ACK, &[]),
        &info(INFO_EXPORT, &export(1 << 20, FLAGS)),
        &reply(OPT_GO, REP_ACK, &[]),
    ]
    .concat();
    assert!(matches!(
        first_bytes(&early),
        Err(HandshakeError::Protocol(_))
    ));
}

#[test]
fn strange_answers() {
    let mut chunks = Chunks::whole();
    let acknowledged = reply(OPT_STRUCTURED_REPLY, REP_ACK, &[]);
    let mut endless = vec![acknowledged.clone()];
    endless.extend((0..100).map(|_| info(77, &[])));
    let mut too_long = reply(OPT_GO, REP_INFO, &[]);
    too_long[16..20].copy_from_slice(&(MAX_DRAIN + 1).to_be_bytes());
    for strange in [
        endless,
        vec![acknowledged.clone(), too_long],
        // Acknowledged, but without a size.
        vec![acknowledged.clone(), reply(OPT_GO, REP_ACK, &[])],
        vec![acknowledged.clone(), reply(OPT_GO, REP_ACK, b"x")],
        vec![acknowledged.clone(), reply(OPT_GO, REP_SERVER, &[])],
        vec![acknowledged.clone(), reply(OPT_GO, REP_INFO, b"x")],
        vec![acknowledged.clone(), info(INFO_EXPORT, b"123456789")],
        vec![
            acknowledged.clone(),
            info(INFO_BLOCK_SIZE, b"1234567890123"),
        ],
        vec![reply(OPT_LIST, REP_ACK, &[])],
        vec![reply(OPT_STRUCTURED_REPLY, REP_INFO, &[])],
        vec![vec![0; 20]],
    ] {
        let (result, _) = answered(&strange, &mut chunks);
        assert!(
            matches!(result, Err(HandshakeError::Protocol(_))),
            "{result:?}"
        );
    }
}

#[test]
fn closed_connections() {
    let mut client = ClientHandshake::new("x", true).unwrap();
    assert_eq!(client.closed(), HandshakeError::Closed);
    client.advance(&greeting(0)).unwrap();
    client.sent(usize::MAX);
    assert_eq!(client.closed(), HandshakeError::ExportUnknown);
    client.advance(&[0; 9]).unwrap();
    assert_eq!(client.closed(), HandshakeError::ExportUnknown);
}

#[test]
fn names() {
    assert!(ClientHandshake::new(&"x".repeat(256), true).is_ok());
    let error = ClientHandshake::new(&"x".repeat(257), true).err();
    assert_eq!(error, Some(HandshakeError::NameTooLong));
}
