// SPDX-License-Identifier: GPL-2.0

//! The server's judgement of requests.

use dst_core::proto::{
    option::BlockSizes,
    request::*,
    wire::RequestHeader,
    *, //
};
use proptest::prelude::*;

const ALL: u16 = FLAG_HAS_FLAGS
    | FLAG_SEND_FLUSH
    | FLAG_SEND_FUA
    | FLAG_SEND_TRIM
    | FLAG_SEND_WRITE_ZEROES
    | FLAG_SEND_DF
    | FLAG_SEND_CACHE
    | FLAG_SEND_FAST_ZERO;

fn limits(size: u64, flags: u16, minimum: u32) -> Limits {
    Limits {
        size,
        flags,
        blocks: BlockSizes {
            minimum,
            preferred: 4096,
            maximum: 1 << 20,
        },
    }
}

fn judged(command: Command, flags: u16, offset: u64, length: u32, limits: &Limits) -> Verdict {
    judge(
        &RequestHeader::new(command, flags, 7, offset, length),
        limits,
    )
}

fn refused(error: NbdError) -> Verdict {
    Verdict::Refuse { error, payload: 0 }
}

#[test]
fn plain_requests_are_served() {
    let limits = limits(1 << 20, ALL, 512);
    let range = Range {
        offset: 512,
        length: 4096,
    };
    for (command, flags, order) in [
        (
            Command::Read,
            CMD_FLAG_DF | CMD_FLAG_FUA,
            Order::Read(range),
        ),
        (Command::Write, 0, Order::Write { range, fua: false }),
        (
            Command::Write,
            CMD_FLAG_FUA,
            Order::Write { range, fua: true },
        ),
        (
            Command::Trim,
            CMD_FLAG_FUA,
            Order::Trim { range, fua: true },
        ),
        (
            Command::WriteZeroes,
            CMD_FLAG_NO_HOLE,
            Order::WriteZeroes {
                range,
                fua: false,
                no_hole: true,
                fast: false,
            },
        ),
        (
            Command::WriteZeroes,
            CMD_FLAG_FAST_ZERO | CMD_FLAG_FUA,
            Order::WriteZeroes {
                range,
                fua: true,
                no_hole: false,
                fast: true,
            },
        ),
        (Command::Cache, 0, Order::Cache(range)),
    ] {
        assert_eq!(
            judged(command, flags, 512, 4096, &limits),
            Verdict::Serve(order)
        );
    }
    assert_eq!(
        judged(Command::Flush, 0, 0, 0, &limits),
        Verdict::Serve(Order::Flush)
    );
    assert_eq!(
        judged(Command::Disconnect, 0xffff, 1, 1, &limits),
        Verdict::Disconnect
    );
}

#[test]
fn what_was_not_offered_is_refused() {
    let none = limits(1 << 20, FLAG_HAS_FLAGS, 512);
    for (command, flags, length) in [
        (Command::Flush, 0, 0),
        (Command::Trim, 0, 512),
        (Command::WriteZeroes, 0, 512),
        (Command::Cache, 0, 512),
        (Command::Read, CMD_FLAG_DF, 512),
        (Command::Read, CMD_FLAG_FUA, 512),
        (Command::BlockStatus, 0, 512),
    ] {
        assert_eq!(
            judged(command, flags, 0, length, &none),
            refused(NbdError::Inval)
        );
    }
    assert_eq!(
        judged(Command::Flush, 0, 0, 512, &limits(1 << 20, ALL, 512)),
        refused(NbdError::Inval)
    );
}

#[test]
fn ends_and_errors() {
    let limits = limits(10 << 9, ALL, 512);
    let write = |offset, length| judged(Command::Write, 0, offset, length, &limits);
    let no_space = |payload| Verdict::Refuse {
        error: NbdError::NoSpc,
        payload,
    };
    assert!(matches!(write(9 << 9, 512), Verdict::Serve(_)));
    assert_eq!(write(9 << 9, 1024), no_space(1024));
    assert_eq!(write(10 << 9, 512), no_space(512));
    assert_eq!(write(!511, 512), no_space(512));
    assert_eq!(
        judged(Command::Read, 0, 10 << 9, 512, &limits),
        refused(NbdError::Inval)
    );
    assert_eq!(
        judged(Command::Read, 0, !511, 1024, &limits),
        refused(NbdError::Inval)
    );
    assert_eq!(
        judged(Command::Read, 0, 0, 0, &limits),
        refused(NbdError::Inval)
    );
    assert_eq!(write(0, DEFAULT_MAX_PAYLOAD + 1), Verdict::TooLong);
    assert_eq!(write(0, u32::MAX), Verdict::TooLong);
    let Verdict::Refuse { error, payload } = write(0, DEFAULT_MAX_PAYLOAD) else {
        panic!("served");
    };
    assert_eq!((error, payload), (NbdError::Inval, DEFAULT_MAX_PAYLOAD));
}

#[test]
fn ends_to_the_byte() {
    let limits = limits(1000, ALL, 1);
    let read = |offset, length| judged(Command::Read, 0, offset, length, &limits);
    assert!(matches!(read(0, 1000), Verdict::Serve(_)));
    assert!(matches!(read(999, 1), Verdict::Serve(_)));
    assert_eq!(read(0, 1001), refused(NbdError::Inval));
    assert_eq!(read(1000, 1), refused(NbdError::Inval));
}

#[test]
fn read_only() {
    let limits = limits(1 << 20, ALL | FLAG_READ_ONLY, 512);
    for (command, payload) in [
        (Command::Write, 512),
        (Command::Trim, 0),
        (Command::WriteZeroes, 0),
    ] {
        let verdict = Verdict::Refuse {
            error: NbdError::Perm,
            payload,
        };
        assert_eq!(judged(command, 0, 0, 512, &limits), verdict);
    }
    assert!(matches!(
        judged(Command::Read, 0, 0, 512, &limits),
        Verdict::Serve(_)
    ));
}

#[test]
fn four_kilobyte_sectors() {
    let limits = limits(1 << 20, ALL, 4096);
    assert_eq!(
        judged(Command::Read, 0, 0, 512, &limits),
        refused(NbdError::Inval)
    );
    assert_eq!(
        judged(Command::Trim, 0, 512, 4096, &limits),
        refused(NbdError::Inval)
    );
    assert!(matches!(
        judged(Command::Read, 0, 4096, 4096, &limits),
        Verdict::Serve(_)
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Whatever is served is sound; whatever is not served leaves the stream in step.
    #[test]
    fn only_sound_requests_are_served(
        flags in prop_oneof![3 => 0u16..32, 1 => any::<u16>()],
        command in 0u16..10,
        offset in prop_oneof![(0u64..40).prop_map(|n| n << 9), any::<u64>()],
        length in prop_oneof![(0u32..40).prop_map(|n| n << 9), any::<u32>()],
        size in prop_oneof![(0u64..40).prop_map(|n| n << 9), any::<u64>()],
        offered in prop_oneof![Just(ALL), any::<u16>()],
        shift in 0u32..17,
    ) {
        let limits = limits(size, offered, 1 << shift);
        let header = RequestHeader { flags, command, cookie: 0, offset, length };
        let carried = if command == Command::Write as u16 { length } else { 0 };
        let mut range = None;
        match judge(&header, &limits) {
            Verdict::Disconnect => prop_assert_eq!(command, 2),
            Verdict::TooLong => prop_assert!(carried > DEFAULT_MAX_PAYLOAD),
            Verdict::Refuse { payload, .. } => prop_assert_eq!(payload, carried),
            Verdict::Serve(order) => {
                let mut writes = true;
                let number = match order {
                    Order::Read(r) => { range = Some(r); writes = false; 0 }
                    Order::Write { range: r, .. } => { range = Some(r); 1 }
                    Order::Flush => { writes = false; 3 }
                    Order::Trim { range: r, .. } => { range = Some(r); 4 }
                    Order::Cache(r) => { range = Some(r); writes = false; 5 }
                    Order::WriteZeroes { range: r, .. } => { range = Some(r); 6 }
                };
                prop_assert_eq!(number, command);
                prop_assert!(!writes || offered & FLAG_READ_ONLY == 0);
                prop_assert!(flags & !31 == 0);
            }
        }
        if let Some(range) = range {
            prop_assert_eq!((range.offset, range.length), (offset, length));
            prop_assert!(length != 0);
            prop_assert!(u128::from(offset) + u128::from(length) <= u128::from(size));
            prop_assert_eq!(offset % (1 << shift), 0);
            prop_assert_eq!(length % (1 << shift), 0);
        }
    }
}
