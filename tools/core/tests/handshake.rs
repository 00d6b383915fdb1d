// SPDX-License-Identifier: GPL-2.0

//! Both sides of the handshake, against each other.

mod common;

use common::*;
use dst_core::proto::{
    client::*,
    fence::*,
    option::*,
    server::*,
    *, //
};
use proptest::prelude::*;

/// How a handshake between our two sides ended.
type Ends = (
    Result<ExportInfo, HandshakeError>,
    Result<Outcome, ServerError>,
);

/// Connects both sides; every transfer is as long as `chunks` says. Behind the handshake, both
/// sides send bytes of the transmission phase at once.
fn connect(
    client: &mut ClientHandshake,
    shop: &Shop,
    driver: &mut Driver,
    chunks: &mut Chunks,
) -> Ends {
    let mut server = ServerHandshake::new();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let (mut client_end, mut server_end) = (None, None);
    let mut idle = 0;
    while client_end.is_none() || server_end.is_none() {
        idle += 1;
        assert!(idle < 100_000, "both sides wait");
        let n = chunks.next(client.output().len());
        to_server.extend_from_slice(&client.output()[..n]);
        client.sent(n);
        let n = chunks.next(server.output().len());
        to_client.extend_from_slice(&server.output()[..n]);
        server.sent(n);

        driver.attend(&mut server);
        if server_end.is_none() {
            let n = chunks.next(to_server.len());
            let need = server.need();
            match server.advance(&to_server[..n], shop) {
                Ok(progress) => {
                    assert!(progress.consumed == n || server.need() == 0);
                    assert!(n > need || progress.consumed == n);
                    to_server.drain(..progress.consumed);
                    server_end = progress.outcome.map(Ok);
                }
                Err(error) => {
                    assert_eq!(server.advance(&[], shop), Err(error));
                    server_end = Some(Err(error));
                    client_end = client_end.or(Some(Err(client.closed())));
                }
            }
            if server_end.is_some() {
                to_client.extend_from_slice(b"replies");
            }
        }
        if client_end.is_none() {
            let n = chunks.next(to_client.len());
            let need = client.need();
            match client.advance(&to_client[..n]) {
                Ok(progress) => {
                    assert!(progress.consumed == n || progress.done.is_some());
                    assert!(n > need || progress.consumed == n);
                    to_client.drain(..progress.consumed);
                    if let Some(info) = progress.done {
                        client_end = Some(Ok(info));
                        to_server.extend_from_slice(b"requests");
                    }
                }
                Err(error) => {
                    assert_eq!(client.advance(&[]), Err(error));
                    client_end = Some(Err(error));
                    server_end = server_end.or(Some(Ok(Outcome::Aborted)));
                }
            }
        }
    }
    let ends = (client_end.unwrap(), server_end.unwrap());
    if ends.0.is_ok() {
        // Nobody took what belongs to the transmission phase.
        assert_eq!(to_client, b"replies");
        assert_eq!(to_server, b"requests");
        assert_eq!((client.need(), server.need()), (0, 0));
    }
    ends
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// The two sides agree, at any fragmentation.
    #[test]
    fn agree(
        shop in shop(),
        pick in any::<prop::sample::Index>(),
        stranger in "[a-z]{0,3}",
        known in prop::bool::weighted(0.8),
        structured: bool,
        before in prop::option::of(fence()),
        fence in prop::option::of(fence()),
        mut chunks in chunks(),
    ) {
        let name = match shop.0.get(pick.index(shop.0.len() + 1)) {
            Some(goods) if known => goods.name.clone(),
            _ => stranger,
        };
        let mut client = ClientHandshake::new(&name, structured).unwrap();
        let mut driver = Driver::new(&chunks);
        if let Some(before) = before {
            prop_assert_eq!(driver.claim(&before), Verdict::Newest);
        }
        if let Some(fence) = fence {
            client.set_fence(fence);
        }
        let (client_end, server_end) = connect(&mut client, &shop, &mut driver, &mut chunks);
        prop_assert_eq!(client.knows_fence(), fence.is_some());
        prop_assert!(!client.is_fencing() && !client.is_fence_unanswered());
        if let (Some(before), Some(fence)) = (before, fence) {
            let older = fence.epoch < before.epoch
                || (fence.epoch == before.epoch && fence.head != before.head);
            if fence.storage == before.storage && older {
                let error = HandshakeError::TakenOver(TakenOver(before.epoch));
                prop_assert_eq!(client_end, Err(error));
                prop_assert_eq!(client.message(), error.to_string());
                return Ok(());
            }
        }
        match shop.position(&name) {
            None => {
                prop_assert_eq!(client_end, Err(HandshakeError::ExportUnknown));
                prop_assert_eq!(client.message(), "no such export");
            }
            Some(id) => {
                let goods = &shop.0[id];
                let df = if structured { 0 } else { FLAG_SEND_DF };
                let info = client_end.unwrap();
                prop_assert_eq!(info.size, goods.size);
                prop_assert_eq!(info.flags, (goods.flags | FLAG_HAS_FLAGS) & !df);
                prop_assert_eq!(info.min_block, goods.blocks.minimum.max(512));
                prop_assert_eq!(info.preferred_block, goods.blocks.preferred.max(512));
                prop_assert_eq!(info.max_payload, goods.blocks.maximum);
                prop_assert_eq!(info.structured, structured);
                let session = Session { export: id, structured };
                prop_assert_eq!(server_end, Ok(Outcome::Done(session)));
            }
        }
    }

    /// Whatever the options are, the server answers each of them as the protocol says.
    #[test]
    fn server_answers(
        shop in shop(),
        no_zeroes: bool,
        options in prop::collection::vec(any_option(), 0..12),
        mut chunks in chunks(),
    ) {
        let flags = u32::from(FIXED_NEWSTYLE) | if no_zeroes { u32::from(NO_ZEROES) } else { 0 };
        let mut input = flags.to_be_bytes().to_vec();
        for (number, payload) in &options {
            input.extend(option(*number, payload.len() as u32));
            input.extend(payload);
        }
        let (answers, end) = expected_answers(&shop, &options, no_zeroes);

        let mut server = ServerHandshake::new();
        let mut output = Vec::new();
        let mut found = None;
        let mut rounds = 0;
        let mut input = &input[..];
        let mut driver = Driver::new(&chunks);
        while found.is_none()
            && (!input.is_empty() || !server.output().is_empty() || server.claim().is_some())
        {
            driver.attend(&mut server);
            rounds += 1;
            prop_assert!(rounds < 1_000_000, "the server waits for nothing");
            let n = chunks.next(server.output().len());
            output.extend_from_slice(&server.output()[..n]);
            server.sent(n);
            let n = chunks.next(input.len());
            match server.advance(&input[..n], &shop) {
                Ok(progress) => {
                    input = &input[progress.consumed..];
                    found = progress.outcome.map(Ok);
                }
                Err(error) => found = Some(Err(error)),
            }
        }
        prop_assert_eq!(found, end);
        prop_assert_eq!(&output[..18], &greeting(3));
        prop_assert_eq!(parse_replies(&output[18..], no_zeroes), answers);
    }

    /// Garbage is no export, and costs neither a panic nor memory nor time.
    #[test]
    fn server_survives_garbage(
        shop in shop(),
        good_start: bool,
        parts in prop::collection::vec(garbage(), 0..30),
        mut chunks in chunks(),
    ) {
        let mut input = if good_start { vec![0, 0, 0, 3] } else { Vec::new() };
        input.extend(parts.concat());
        let mut server = ServerHandshake::new();
        let mut rounds = 0;
        let mut input = &input[..];
        let mut driver = Driver::new(&chunks);
        loop {
            driver.attend(&mut server);
            rounds += 1;
            prop_assert!(rounds < 1_000_000);
            prop_assert!(server.output().len() < 1024);
            let n = chunks.next(server.output().len());
            server.sent(n);
            let n = chunks.next(input.len());
            let need = server.need();
            match server.advance(&input[..n], &shop) {
                Ok(progress) => {
                    prop_assert!(progress.consumed <= n);
                    prop_assert!(need != 0 || progress.consumed == 0);
                    input = &input[progress.consumed..];
                    if let Some(outcome) = progress.outcome {
                        if let Outcome::Done(session) = outcome {
                            prop_assert!(session.export < shop.0.len());
                        }
                        break;
                    }
                    if input.is_empty() && server.output().is_empty() && server.claim().is_none() {
                        break;
                    }
                }
                Err(error) => {
                    prop_assert!(!error.to_string().is_empty());
                    break;
                }
            }
        }
    }
}

#[test]
fn options_are_limited() {
    let shop = Shop(Vec::new());
    let mut server = ServerHandshake::new();
    server.sent(18);
    server.advance(&[0, 0, 0, 3], &shop).unwrap();
    let mut options = 0;
    let error = loop {
        match server.advance(&option(OPT_STRUCTURED_REPLY, 0), &shop) {
            Ok(progress) => assert_eq!(progress.consumed, 16),
            Err(error) => break error,
        }
        server.sent(usize::MAX);
        options += 1;
        assert!(options <= MAX_OPTIONS, "no limit");
    };
    assert_eq!((error, options), (ServerError::TooManyOptions, MAX_OPTIONS));
}

#[test]
fn unread_answers_stop_the_input() {
    let shop = Shop(Vec::new());
    let mut server = ServerHandshake::new();
    let flags_and_option = [&[0, 0, 0, 3][..], &option(OPT_LIST, 0)].concat();
    let progress = server.advance(&flags_and_option, &shop).unwrap();
    assert_eq!((progress.consumed, server.need()), (0, 0));
    server.sent(17);
    assert_eq!(
        server.advance(&flags_and_option, &shop).unwrap().consumed,
        0
    );
    server.sent(1);
    assert_eq!(server.need(), 4);
    assert_eq!(
        server.advance(&flags_and_option, &shop).unwrap().consumed,
        20
    );
}

#[test]
fn client_flags_that_nobody_offered() {
    let shop = Shop(Vec::new());
    let mut server = ServerHandshake::new();
    server.sent(18);
    assert_eq!(
        server.advance(&[0, 0, 0, 7], &shop),
        Err(ServerError::ClientFlags(7))
    );
}

#[test]
fn absurd_option() {
    let shop = Shop(Vec::new());
    for length in [MAX_DRAIN + 1, 1 << 31, u32::MAX] {
        let mut server = ServerHandshake::new();
        server.sent(18);
        server.advance(&[0, 0, 0, 3], &shop).unwrap();
        let error = server.advance(&option(77, length), &shop);
        assert_eq!(error, Err(ServerError::OptionTooLong(length)));
    }
}

#[test]
fn list_of_many() {
    let goods = (0..500)
        .map(|n| Goods::plain(&format!("disk{n}")))
        .collect();
    let shop = Shop(goods);
    let mut server = ServerHandshake::new();
    server.sent(18);
    let input = [&[0, 0, 0, 3][..], &option(OPT_LIST, 0)].concat();
    let mut progress = server.advance(&input, &shop).unwrap();
    assert_eq!(progress.consumed, 20);
    let mut output = Vec::new();
    while !server.output().is_empty() {
        output.extend_from_slice(server.output());
        server.sent(usize::MAX);
        progress = server.advance(&[], &shop).unwrap();
    }
    assert_eq!(progress.outcome, None);
    let replies = parse_replies(&output, true);
    assert_eq!(replies.len(), 501);
    assert_eq!(replies[499].2, b"\0\0\0\x07disk499");
    assert_eq!(replies[500].1, REP_ACK);
}
