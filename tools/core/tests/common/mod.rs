// SPDX-License-Identifier: GPL-2.0

//! What the tests of the handshake share.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;

use dst_core::proto::{
    fence::*,
    option::*,
    server::*,
    *, //
};
use proptest::prelude::*;

/// Lengths of transfers.
#[derive(Clone, Debug)]
pub(crate) struct Chunks {
    sizes: Vec<usize>,
    /// A generator of random numbers: a fixed order could starve one side for ever.
    random: u64,
}

impl Chunks {
    /// Everything at once.
    pub(crate) fn whole() -> Self {
        Self {
            sizes: vec![usize::MAX],
            random: 0,
        }
    }

    /// The length of the next transfer, when `available` bytes are there; now and then 0.
    pub(crate) fn next(&mut self, available: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.sizes[(self.random >> 33) as usize % self.sizes.len()].min(available)
    }
}

/// All at once, byte by byte, or anything.
pub(crate) fn chunks() -> impl Strategy<Value = Chunks> {
    prop_oneof![
        Just(vec![usize::MAX]),
        Just(vec![1]),
        prop::collection::vec(prop_oneof![0usize..4, 1usize..40], 1..20).prop_map(|mut sizes| {
            sizes.push(3);
            sizes
        }),
    ]
    .prop_map(|sizes| Chunks { sizes, random: 0 })
}

/// One export.
#[derive(Clone, Debug)]
pub(crate) struct Goods {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) size: u64,
    pub(crate) flags: u16,
    pub(crate) blocks: BlockSizes,
}

impl Goods {
    /// An export with nothing special.
    pub(crate) fn plain(name: &str) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            size: 1 << 20,
            flags: FLAG_SEND_FLUSH,
            blocks: BlockSizes {
                minimum: 512,
                preferred: 4096,
                maximum: 1 << 20,
            },
        }
    }
}

/// The exports of a server. The first one is the default one.
#[derive(Clone, Debug)]
pub(crate) struct Shop(pub(crate) Vec<Goods>);

impl Shop {
    /// Finds an export.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        if name.is_empty() {
            return (!self.0.is_empty()).then_some(0);
        }
        self.0.iter().position(|goods| goods.name == name)
    }
}

impl Exports for Shop {
    fn find(&self, name: &str) -> Option<ExportDescription<'_>> {
        let id = self.position(name)?;
        let goods = &self.0[id];
        Some(ExportDescription {
            id,
            name: &goods.name,
            description: &goods.description,
            size: goods.size,
            flags: goods.flags,
            blocks: goods.blocks,
        })
    }

    fn list(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(|goods| goods.name.as_str())
    }
}

/// Names, short ones above all, so that they meet.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[a-z]{1,2}", 1 => "[a-z]{200,256}", 1 => "\\PC{1,40}"]
}

/// A server with some exports.
pub(crate) fn shop() -> impl Strategy<Value = Shop> {
    let goods = (
        name(),
        prop_oneof![4 => "[a-z ]{0,20}", 1 => "\\PC{200,300}"],
        prop_oneof![65536u64..1 << 20, Just(1 << 50), Just(i64::MAX as u64)],
        any::<u16>(),
        (0u32..17, 0u32..4, 1u32..1000),
    )
        .prop_map(
            |(name, description, size, flags, (minimum, more, factor))| Goods {
                name,
                description,
                size,
                flags,
                blocks: BlockSizes {
                    minimum: 1 << minimum,
                    preferred: 1 << (minimum + more),
                    maximum: factor << 16,
                },
            },
        );
    prop::collection::vec(goods, 0..4).prop_map(Shop)
}

/// One of a few heads of a few storages.
pub(crate) fn fence() -> impl Strategy<Value = Fence> {
    (1u8..4, 1u8..4, 1u64..5).prop_map(|(storage, head, epoch)| Fence {
        storage: [storage; 16],
        head: [head; 16],
        epoch,
    })
}

/// What a driver of the server does about fences: it remembers, and the older connections take some
/// time to go away.
pub(crate) struct Driver {
    known: Vec<Option<Known>>,
    looks: Chunks,
}

impl Driver {
    /// One with room for more storages than there are.
    pub(crate) fn new(looks: &Chunks) -> Self {
        Self {
            known: vec![None; 8],
            looks: looks.clone(),
        }
    }

    /// Another client is here.
    pub(crate) fn claim(&mut self, fence: &Fence) -> Verdict {
        claim(&mut self.known, fence, |_| false)
    }

    /// Does what is to be done for a handshake.
    pub(crate) fn attend(&mut self, server: &mut ServerHandshake) {
        let Some(fence) = server.claim() else {
            return;
        };
        assert_eq!(server.need(), 0);
        let verdict = match self.claim(&fence) {
            Verdict::Newest if self.looks.next(3) == 0 => Verdict::Wait,
            verdict => verdict,
        };
        server.judge(verdict);
        assert_eq!(server.is_fencing(), verdict == Verdict::Wait);
    }
}

/// The payload of [`OPT_INFO`] and [`OPT_GO`].
pub(crate) fn info_payload(name: &[u8], requests: &[u16]) -> Vec<u8> {
    let mut payload = (name.len() as u32).to_be_bytes().to_vec();
    payload.extend(name);
    payload.extend((requests.len() as u16).to_be_bytes());
    payload.extend(requests.iter().flat_map(|request| request.to_be_bytes()));
    payload
}

/// An option with its payload: mostly sound, now and then not.
pub(crate) fn any_option() -> impl Strategy<Value = (u32, Vec<u8>)> {
    let short =
        || prop_oneof![6 => "[a-z]{0,2}", 1 => "[a-z]{240,270}", 1 => Just("é\0".to_string())];
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let requests = || prop::collection::vec(0u16..6, 0..6);
    prop_oneof![
        4 => (short(), requests()).prop_map(|(n, r)| (OPT_INFO, info_payload(n.as_bytes(), &r))),
        1 => (short(), requests()).prop_map(|(n, r)| (OPT_GO, info_payload(n.as_bytes(), &r))),
        1 => (bytes(), requests()).prop_map(|(n, r)| (OPT_INFO, info_payload(&n, &r))),
        1 => bytes().prop_map(|payload| (OPT_GO, payload)),
        1 => (4000usize..5000).prop_map(|n| (OPT_INFO, info_payload(&vec![b'x'; n], &[]))),
        1 => (3000usize..4000).prop_map(|n| (OPT_INFO, info_payload(b"a", &vec![3; n]))),
        1 => (short(), requests(), any::<prop::sample::Index>()).prop_map(|(n, r, cut)| {
            let mut payload = info_payload(n.as_bytes(), &r);
            payload.truncate(cut.index(payload.len()));
            (OPT_INFO, payload)
        }),
        1 => (short(), 1usize..4).prop_map(|(n, more)| {
            let mut payload = info_payload(n.as_bytes(), &[3]);
            payload.extend(vec![0; more]);
            (OPT_INFO, payload)
        }),
        3 => Just((OPT_LIST, Vec::new())),
        1 => bytes().prop_map(|payload| (OPT_LIST, payload)),
        2 => Just((OPT_STRUCTURED_REPLY, Vec::new())),
        1 => bytes().prop_map(|payload| (OPT_STRUCTURED_REPLY, payload)),
        1 => Just((OPT_STARTTLS, Vec::new())),
        2 => (9u32.., bytes()),
        4 => fence().prop_map(|fence| (OPT_DST, fence.encode().to_vec())),
        1 => bytes().prop_map(|payload| (OPT_DST, payload)),
        1 => (fence(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(fence, at, value)| {
            let mut payload = fence.encode().to_vec();
            let at = at.index(payload.len());
            payload[at] = value;
            (OPT_DST, payload)
        }),
        1 => (fence(), 0usize..100).prop_map(|(fence, len)| {
            let mut payload = fence.encode().to_vec();
            payload.resize(len, 0);
            (OPT_DST, payload)
        }),
        1 => (60_000usize..65_536).prop_map(|n| (0x1234_5678, vec![0; n])),
        1 => short().prop_map(|name| (OPT_EXPORT_NAME, name.into_bytes())),
        1 => bytes().prop_map(|payload| (OPT_ABORT, payload)),
    ]
}

/// A reply as the tests see it: option, kind, payload. Explanations are left out.
pub(crate) type Reply = (u32, u32, Vec<u8>);

/// What the server must answer, and how it must end.
pub(crate) fn expected_answers(
    shop: &Shop,
    options: &[(u32, Vec<u8>)],
    no_zeroes: bool,
) -> (Vec<Reply>, Option<Result<Outcome, ServerError>>) {
    let mut replies = Vec::new();
    let mut structured = false;
    let mut heads = BTreeMap::new();
    let mut fenced = false;
    for (number, payload) in options {
        let mut reply = |kind: u32, payload: &[u8]| replies.push((*number, kind, payload.to_vec()));
        let flags = |goods: &Goods| {
            let df = if structured { 0 } else { FLAG_SEND_DF };
            (goods.flags | FLAG_HAS_FLAGS) & !df
        };
        match *number {
            OPT_EXPORT_NAME => {
                let name = std::str::from_utf8(payload).ok();
                let Some(id) = name.and_then(|name| shop.position(name)) else {
                    return (replies, Some(Err(ServerError::UnknownExport)));
                };
                let mut end = export(shop.0[id].size, flags(&shop.0[id])).to_vec();
                end.extend(vec![0; if no_zeroes { 0 } else { ZEROES }]);
                reply(0, &end);
                let session = Session {
                    export: id,
                    structured,
                };
                return (replies, Some(Ok(Outcome::Done(session))));
            }
            OPT_ABORT => {
                reply(REP_ACK, &[]);
                return (replies, Some(Ok(Outcome::Aborted)));
            }
            OPT_LIST | OPT_STRUCTURED_REPLY if !payload.is_empty() => reply(REP_ERR_INVALID, &[]),
            OPT_LIST => {
                for goods in &shop.0 {
                    let name = cut(&goods.name);
                    reply(
                        REP_SERVER,
                        &[&(name.len() as u32).to_be_bytes(), name].concat(),
                    );
                }
                reply(REP_ACK, &[]);
            }
            OPT_STRUCTURED_REPLY => {
                structured = true;
                reply(REP_ACK, &[]);
            }
            OPT_INFO | OPT_GO => match parse_info(payload) {
                Err(kind) => reply(kind, &[]),
                Ok((name, requests)) => {
                    let name = std::str::from_utf8(&name).ok();
                    let Some(id) = name.and_then(|name| shop.position(name)) else {
                        reply(REP_ERR_UNKNOWN, &[]);
                        continue;
                    };
                    let goods = &shop.0[id];
                    let mut info = |kind: u16, payload: &[u8]| {
                        reply(REP_INFO, &[&kind.to_be_bytes(), payload].concat());
                    };
                    info(0, &export(goods.size, flags(goods)));
                    info(3, &goods.blocks.encode());
                    if requests.contains(&1) {
                        info(1, cut(&goods.name));
                    }
                    if requests.contains(&2) {
                        info(2, cut(&goods.description));
                    }
                    reply(REP_ACK, &[]);
                    if *number == OPT_GO {
                        let session = Session {
                            export: id,
                            structured,
                        };
                        return (replies, Some(Ok(Outcome::Done(session))));
                    }
                }
            },
            OPT_DST => match payload.as_slice().try_into().map(judge_fence) {
                Err(_) => reply(REP_ERR_INVALID, &[]),
                Ok(_) if fenced => reply(REP_ERR_INVALID, &[]),
                Ok(Err(kind)) => reply(kind, &[]),
                Ok(Ok((storage, head, epoch))) => {
                    let newest = heads.entry(storage).or_insert((epoch, head));
                    if epoch > newest.0 {
                        *newest = (epoch, head);
                    }
                    let state = [&[0, 0, 0, 1, 0, 0, 0, 0][..], &newest.0.to_be_bytes()].concat();
                    reply(0x5c1f_93a6, &state);
                    if *newest == (epoch, head) {
                        reply(REP_ACK, &[]);
                        fenced = true;
                    } else {
                        reply(REP_ERR_POLICY, &[]);
                    }
                }
            },
            _ => reply(REP_ERR_UNSUP, &[]),
        }
    }
    (replies, None)
}

/// Storage, head and epoch of the payload of [`OPT_DST`], or the error that it deserves.
fn judge_fence(payload: [u8; 48]) -> Result<([u8; 16], [u8; 16], u64), u32> {
    if payload[..4] != [0, 0, 0, 1] {
        return Err(REP_ERR_UNSUP);
    }
    let storage = payload[8..24].try_into().unwrap();
    let head = payload[24..40].try_into().unwrap();
    let epoch = u64::from_be_bytes(payload[40..].try_into().unwrap());
    if payload[4..8] != [0; 4] || storage == [0; 16] || head == [0; 16] || epoch == 0 {
        return Err(REP_ERR_INVALID);
    }
    Ok((storage, head, epoch))
}

/// The longest part of a text that is allowed in an answer.
fn cut(text: &str) -> &[u8] {
    let end = (0..=MAX_NAME.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    &text.as_bytes()[..end.unwrap()]
}

/// Understands the payload of [`OPT_INFO`], or gives the error that it deserves.
fn parse_info(payload: &[u8]) -> Result<(Vec<u8>, Vec<u16>), u32> {
    if payload.len() > 4 + 4096 + 2 + 2048 {
        return Err(REP_ERR_TOO_BIG);
    }
    let (len, rest) = payload.split_at_checked(4).ok_or(REP_ERR_INVALID)?;
    let len = u32::from_be_bytes(len.try_into().unwrap()) as usize;
    if len > 4096 {
        return Err(REP_ERR_TOO_BIG);
    }
    let (name, rest) = rest.split_at_checked(len).ok_or(REP_ERR_INVALID)?;
    let (count, requests) = rest.split_at_checked(2).ok_or(REP_ERR_INVALID)?;
    let count = u16::from_be_bytes(count.try_into().unwrap()) as usize;
    if requests.len() != 2 * count {
        return Err(REP_ERR_INVALID);
    }
    let requests = requests
        .chunks(2)
        .map(|r| u16::from_be_bytes(r.try_into().unwrap()))
        .collect();
    Ok((name.to_vec(), requests))
}

/// Takes the server's output apart. The answer to [`OPT_EXPORT_NAME`] has no header and comes last.
pub(crate) fn parse_replies(mut output: &[u8], no_zeroes: bool) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !output.is_empty() {
        let header = output
            .first_chunk()
            .and_then(|header| OptionReply::decode(*header));
        let Some(header) = header else {
            assert_eq!(
                output.len(),
                EXPORT_LEN + if no_zeroes { 0 } else { ZEROES }
            );
            replies.push((OPT_EXPORT_NAME, 0, output.to_vec()));
            break;
        };
        let (payload, rest) = output[REPLY_LEN..].split_at(header.length as usize);
        output = rest;
        let payload = if header.kind & REP_ERROR_BIT != 0 {
            assert!(payload.is_ascii() && !payload.is_empty());
            Vec::new()
        } else {
            payload.to_vec()
        };
        replies.push((header.option, header.kind, payload));
    }
    replies
}

/// Bytes that look like options to various degrees.
pub(crate) fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..30);
    prop_oneof![
        bytes(),
        (0u32..12, 0u32..60, bytes())
            .prop_map(|(number, length, bytes)| { [&option(number, length)[..], &bytes].concat() }),
        (0u32..12, bytes()).prop_map(|(number, bytes)| {
            [&option(number, bytes.len() as u32)[..], &bytes].concat()
        }),
        (any_option(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut o, at, value)| {
            o.1.truncate(6000);
            let mut bytes = [&option(o.0, o.1.len() as u32)[..], &o.1].concat();
            let at = at.index(bytes.len());
            bytes[at] = value;
            bytes
        }),
    ]
}
