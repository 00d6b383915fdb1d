// SPDX-License-Identifier: GPL-2.0

//! The fence: its messages, and what a server remembers of heads.

mod common;

use common::fence;
use dst_core::proto::fence::*;
use proptest::prelude::*;

/// What is remembered, kept in the simplest way: the storage that was claimed last is the last one.
#[derive(Default)]
struct Model(Vec<Fence>);

impl Model {
    fn claim(&mut self, places: usize, fence: &Fence, live: &[u8]) -> Verdict {
        let at = self.0.iter().position(|old| old.storage == fence.storage);
        if let Some(at) = at {
            let old = self.0[at];
            let newer = fence.epoch > old.epoch;
            if !newer && (fence.epoch, fence.head) != (old.epoch, old.head) {
                return Verdict::TakenOver(TakenOver(old.epoch));
            }
            self.0.remove(at);
        } else if self.0.len() == places {
            let idle = self
                .0
                .iter()
                .position(|old| !live.contains(&old.storage[0]));
            let Some(idle) = idle else {
                return Verdict::NoRoom;
            };
            self.0.remove(idle);
        }
        self.0.push(*fence);
        Verdict::Newest
    }
}

proptest! {
    /// A fence is understood as it was meant, byte by byte where the documentation has it.
    #[test]
    fn messages(storage: [u8; 16], head: [u8; 16], epoch: u64) {
        let fence = Fence { storage, head, epoch };
        let bytes = fence.encode();
        let laid_out = [&[0, 0, 0, 1, 0, 0, 0, 0][..], &storage, &head, &epoch.to_be_bytes()];
        prop_assert_eq!(&bytes[..], &laid_out.concat());
        let sound = storage != [0; 16] && head != [0; 16] && epoch != 0;
        prop_assert_eq!(Fence::decode(bytes), if sound { Ok(fence) } else { Err(BadFence::Senseless) });
        prop_assert_eq!(parse_newest(newest(epoch)), (epoch != 0).then_some(epoch));
    }

    /// Any bytes are a fence that comes out as it went in, or none.
    #[test]
    fn any_bytes(mut bytes: [u8; 48], plain: bool, news: [u8; 16]) {
        if plain {
            bytes[..8].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
        }
        match Fence::decode(bytes) {
            Ok(fence) => prop_assert_eq!(fence.encode(), bytes),
            Err(BadFence::Version(version)) => prop_assert_ne!(version, VERSION),
            Err(BadFence::Senseless) => {}
        }
        if let Some(epoch) = parse_newest(news) {
            prop_assert_eq!(newest(epoch), news);
        }
    }

    /// What is remembered is what the model says, with few places and with enough.
    #[test]
    fn remembered(
        places in 1usize..5,
        claims in prop::collection::vec((fence(), prop::collection::vec(1u8..4, 0..4)), 0..60),
    ) {
        let mut known = vec![None; places];
        let mut model = Model::default();
        for (fence, live) in claims {
            let verdict = claim(&mut known, &fence, |storage| live.contains(&storage[0]));
            prop_assert_eq!(verdict, model.claim(places, &fence, &live));
        }
    }
}

#[test]
fn senseless() {
    let fence = Fence {
        storage: [1; 16],
        head: [2; 16],
        epoch: 3,
    };
    for changed in [
        Fence {
            storage: [0; 16],
            ..fence
        },
        Fence {
            head: [0; 16],
            ..fence
        },
        Fence { epoch: 0, ..fence },
    ] {
        assert_eq!(Fence::decode(changed.encode()), Err(BadFence::Senseless));
    }
    let mut reserved = fence.encode();
    reserved[7] = 1;
    assert_eq!(Fence::decode(reserved), Err(BadFence::Senseless));
    for version in [0, 2, u32::MAX] {
        let mut bytes = fence.encode();
        bytes[..4].copy_from_slice(&version.to_be_bytes());
        assert_eq!(Fence::decode(bytes), Err(BadFence::Version(version)));
    }
}
