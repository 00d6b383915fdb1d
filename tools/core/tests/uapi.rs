// SPDX-License-Identifier: GPL-2.0

//! The ioctl ABI: its layout must never change by accident.

use std::{
    collections::BTreeSet,
    mem::{
        offset_of,
        size_of, //
    },
};

use dst_core::uapi::*;
use proptest::prelude::*;

/// Number, size and command word of a request, and whether a default one is zeroed and has its
/// header first.
fn describe<R: Request>() -> (u32, usize, u32) {
    let mut request = R::default();
    assert!(request.as_bytes().iter().all(|byte| *byte == 0));
    *request.header() = Header::of::<R>();
    let mut start = (size_of::<R>() as u32).to_ne_bytes().to_vec();
    start.extend(ABI_VERSION.to_ne_bytes());
    assert!(request.as_bytes().starts_with(&start));
    (R::NR, size_of::<R>(), R::COMMAND)
}

#[test]
fn layout() {
    let requests = [
        describe::<Version>(),
        describe::<Create>(),
        describe::<AddNode>(),
        describe::<Start>(),
        describe::<Stop>(),
        describe::<Delete>(),
        describe::<RemoveNode>(),
        describe::<FailNow>(),
        describe::<SetNode>(),
        describe::<Export>(),
        describe::<Unexport>(),
        describe::<StorageInfo>(),
        describe::<NodeInfo>(),
        describe::<ExportInfo>(),
        describe::<SuspendNode>(),
        describe::<ResumeNode>(),
        describe::<SetStorage>(),
        describe::<CancelReplace>(),
        describe::<DiscardNode>(),
    ];
    let sizes = [
        248, 260, 568, 240, 240, 240, 240, 240, 256, 1048, 240, 448, 920, 1152, 240, 240, 248, 240,
        240,
    ];
    for (number, (request, size)) in requests.iter().zip(sizes).enumerate() {
        // `_IOWR(0xd5, NR, size)`.
        let command = 0xc000_d500 | (size as u32) << 16 | number as u32;
        assert_eq!(*request, (number as u32, size, command));
    }
    let commands: BTreeSet<u32> = requests.iter().map(|request| request.2).collect();
    assert_eq!(commands.len(), requests.len());

    assert_eq!(size_of::<Header>(), 208);
    assert_eq!(size_of::<Address>(), 24);
    assert_eq!(size_of::<Rule>(), 32);
}

#[test]
fn offsets() {
    assert_eq!(offset_of!(Header, version), 4);
    assert_eq!(offset_of!(Header, message), 8);
    assert_eq!(offset_of!(Create, alg), 236);
    assert_eq!(offset_of!(AddNode, start), 240);
    assert_eq!(offset_of!(AddNode, address), 512);
    assert_eq!(offset_of!(AddNode, node), 556);
    assert_eq!(offset_of!(AddNode, replaces), 560);
    assert_eq!(offset_of!(SetNode, value), 248);
    assert_eq!(offset_of!(Export, rules), 536);
    assert_eq!(offset_of!(Create, flags), 256);
    assert_eq!(offset_of!(SetStorage, value), 240);
    assert_eq!(offset_of!(StorageInfo, sectors), 264);
    assert_eq!(offset_of!(StorageInfo, flags), 288);
    assert_eq!(offset_of!(StorageInfo, uuid), 304);
    assert_eq!(offset_of!(StorageInfo, left), 408);
    assert_eq!(offset_of!(StorageInfo, read_held), 424);
    assert_eq!(offset_of!(StorageInfo, heal_seconds_left), 440);
    assert_eq!(offset_of!(NodeInfo, requests), 608);
    assert_eq!(offset_of!(NodeInfo, role), 768);
    assert_eq!(offset_of!(NodeInfo, trouble), 800);
    assert_eq!(offset_of!(NodeInfo, replaces), 896);
    assert_eq!(offset_of!(NodeInfo, given_up), 912);
    assert_eq!(offset_of!(ExportInfo, rules), 640);
}

proptest! {
    #[test]
    fn text_round_trip(string in "\\PC{0,40}", len in 0usize..48) {
        let mut field = vec![0xaa; len];
        let before = field.clone();
        match set_text(&mut field, &string) {
            Some(()) => {
                prop_assert!(string.len() < len);
                prop_assert_eq!(text(&field), Some(string.as_str()));
                prop_assert!(field[string.len()..].iter().all(|byte| *byte == 0));
            }
            None => {
                prop_assert!(string.len() >= len);
                prop_assert_eq!(field, before);
            }
        }
    }

    #[test]
    fn text_of_anything(field in prop::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..12)) {
        match (text(&field), field.iter().position(|byte| *byte == 0)) {
            (Some(found), Some(end)) => prop_assert_eq!(found.as_bytes(), &field[..end]),
            (Some(_), None) => prop_assert!(false, "text without an end"),
            (None, Some(end)) => prop_assert!(std::str::from_utf8(&field[..end]).is_err()),
            (None, None) => (),
        }
    }

    #[test]
    fn text_with_nul(before in "[a-z]{0,3}", after in "[a-z]{0,3}") {
        prop_assert_eq!(set_text(&mut [0; 16], &format!("{before}\0{after}")), None);
    }

    #[test]
    fn good_names(name in "[A-Za-z0-9][A-Za-z0-9._-]{0,26}") {
        prop_assert!(valid_name(&name));
        prop_assert!(set_text(&mut [0; NAME_LEN], &name).is_some());
    }

    #[test]
    fn bad_names(name in prop_oneof![
        "", "[._-][a-z]{0,3}", "[a-z]{1,3}[^A-Za-z0-9._-][a-z]{0,3}", "[a-z]{28,40}",
    ]) {
        prop_assert!(!valid_name(&name), "{name:?}");
    }
}
