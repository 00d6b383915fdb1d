// SPDX-License-Identifier: GPL-2.0

//! The codec: what is written is read back, and the bytes are the protocol's.

use dst_core::proto::{
    option,
    wire::*,
    Command,
    NbdError,
    UnknownCommand, //
};
use proptest::prelude::*;

const ERRORS: [NbdError; 8] = [
    NbdError::Perm,
    NbdError::Io,
    NbdError::NoMem,
    NbdError::Inval,
    NbdError::NoSpc,
    NbdError::Overflow,
    NbdError::NotSup,
    NbdError::Shutdown,
];

#[test]
fn request_bytes() {
    let header = RequestHeader::new(
        Command::WriteZeroes,
        0x0102,
        0x1112_1314_1516_1718,
        0x2122_2324_2526_2728,
        0x3132_3334,
    );
    let bytes = [
        0x25, 0x60, 0x95, 0x13, 0x01, 0x02, 0, 6, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
        0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x31, 0x32, 0x33, 0x34,
    ];
    assert_eq!(header.encode(), bytes);
}

#[test]
fn reply_bytes() {
    let reply = SimpleReply {
        cookie: 0x1112_1314_1516_1718,
        error: Some(NbdError::NoSpc),
    };
    let bytes = [
        0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
    ];
    assert_eq!(reply.encode(), bytes);

    let hole = hole_chunk(
        0x1112_1314_1516_1718,
        0x2122_2324_2526_2728,
        0x3132_3334,
        false,
    );
    let bytes = [
        0x66, 0x8e, 0x33, 0xef, 0, 0, 0, 2, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0, 0,
        0, 12, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x31, 0x32, 0x33, 0x34,
    ];
    assert_eq!(hole, bytes);

    let data = data_chunk(1, 2, 0x100, true);
    let bytes = [
        0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 8, 0, 0, 0, 0, 0, 0,
        0, 2,
    ];
    assert_eq!(data, bytes);

    let done = [
        0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0,
    ];
    assert_eq!(done_chunk(3), done);

    let error = error_chunk(4, NbdError::Shutdown);
    let bytes = [
        0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0, 108, 0,
        0,
    ];
    assert_eq!(error, bytes);
}

#[test]
fn option_bytes() {
    assert_eq!(&option::greeting(3), b"NBDMAGICIHAVEOPT\0\x03");
    assert_eq!(&option::option(7, 0x102), b"IHAVEOPT\0\0\0\x07\0\0\x01\x02");
    let reply = option::OptionReply {
        option: 7,
        kind: option::REP_ERR_UNKNOWN,
        length: 1,
    };
    let bytes = [
        0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0x80, 0, 0, 6, 0, 0, 0, 1,
    ];
    assert_eq!(reply.encode(), bytes);
}

#[test]
fn errors() {
    // The errno of Linux.
    assert_eq!(ERRORS.map(NbdError::code), [1, 5, 12, 22, 28, 75, 95, 108]);
    for error in ERRORS {
        assert_eq!(NbdError::from_code(error.code()), Some(error));
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(NbdError::from_code(0), None);
}

#[test]
fn commands() {
    for number in 0..=u16::MAX {
        match Command::try_from(number) {
            Ok(command) => assert_eq!(command as u16, number),
            Err(UnknownCommand(unknown)) => assert!(unknown == number && number > 7),
        }
    }
}

proptest! {
    #[test]
    fn request(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) {
        let header = RequestHeader { flags, command, cookie, offset, length };
        prop_assert_eq!(RequestHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn request_from_bytes(bytes: [u8; REQUEST_LEN]) {
        prop_assert!(RequestHeader::decode(&bytes).is_err());
        let mut bytes = bytes;
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        prop_assert_eq!(RequestHeader::decode(&bytes).unwrap().encode(), bytes);
    }

    #[test]
    fn simple_reply(cookie: u64, code in prop_oneof![0u32..128, any::<u32>()]) {
        let error = NbdError::from_code(code);
        if let Some(error) = error {
            let known = ERRORS.iter().any(|known| known.code() == code);
            prop_assert_eq!(error.code(), if known { code } else { 22 });
        }
        let reply = SimpleReply { cookie, error };
        prop_assert_eq!(SimpleReply::decode(&reply.encode()), Ok(reply));
        let wrong = [&[0x66], &reply.encode()[1..]].concat();
        prop_assert!(SimpleReply::decode(&wrong.try_into().unwrap()).is_err());
    }

    #[test]
    fn chunk(flags: u16, kind: u16, cookie: u64, length: u32) {
        let chunk = ChunkHeader { flags, kind, cookie, length };
        prop_assert_eq!(ChunkHeader::decode(&chunk.encode()), Ok(chunk));
        let wrong = [&[0x67], &chunk.encode()[1..]].concat();
        prop_assert!(ChunkHeader::decode(&wrong.try_into().unwrap()).is_err());
    }

    #[test]
    fn options(number: u32, kind: u32, length: u32, size: u64, flags: u16, blocks: [u32; 3]) {
        let parsed = option::parse_option(option::option(number, length));
        prop_assert_eq!(parsed, Some((number, length)));
        let reply = option::OptionReply { option: number, kind, length };
        prop_assert_eq!(option::OptionReply::decode(reply.encode()), Some(reply));
        prop_assert_eq!(option::parse_export(option::export(size, flags)), (size, flags));
        let [minimum, preferred, maximum] = blocks;
        let blocks = option::BlockSizes { minimum, preferred, maximum };
        prop_assert_eq!(option::BlockSizes::decode(blocks.encode()), blocks);
    }
}
