// SPDX-License-Identifier: GPL-2.0

//! Where the nodes of a mirror go.

use dst_core::{
    alg::{
        find,
        Algorithm,
        LayoutError,
        Piece,
        Segment, //
    },
    alg_mirror::layout::Mirrored,
};
use proptest::prelude::*;

fn copy(size: u64, node: u32) -> Segment {
    Segment {
        start: 0,
        size,
        node,
    }
}

#[test]
fn it_is_found_and_keeps_copies() {
    assert!(find("alg_mirror").unwrap().has_copies());
    assert!(!find("alg_linear").unwrap().has_copies());
}

#[test]
fn what_can_not_be_a_mirror() {
    assert_eq!(Mirrored.check(&mut []), Err(LayoutError::Empty));
    let mut moved = [
        copy(8, 0),
        Segment {
            start: 8,
            size: 8,
            node: 1,
        },
    ];
    assert_eq!(
        Mirrored.check(&mut moved),
        Err(LayoutError::NotAtZero { start: 8 })
    );
    assert_eq!(
        Mirrored.check(&mut [copy(0, 0)]),
        Err(LayoutError::ZeroSize { start: 0 })
    );
    let mut many: Vec<Segment> = (0..17).map(|node| copy(8, node)).collect();
    assert_eq!(
        Mirrored.check(&mut many),
        Err(LayoutError::TooMany { most: 16 })
    );
    assert_eq!(Mirrored.check(&mut many[..16]), Ok(8));
    for error in [
        LayoutError::NotAtZero { start: 8 },
        LayoutError::TooMany { most: 16 },
    ] {
        assert!(error.to_string().contains(';'), "a remedy: {error}");
    }
}

proptest! {
    #[test]
    fn each_copy_holds_everything(sizes in prop::collection::vec(1u64..1000, 1..=16), sector: u64, sectors: u64) {
        let mut table: Vec<Segment> = sizes.iter().zip(0..).map(|(size, node)| copy(*size, node)).collect();
        let smallest = *sizes.iter().min().unwrap();
        prop_assert_eq!(Mirrored.place(&table, 5), Some(0));
        prop_assert_eq!(Mirrored.check(&mut table), Ok(smallest));
        for sector in [sector, sector % (smallest + 1)] {
            for index in 0..=sizes.len() as u32 {
                let piece = Mirrored.map(&table, sector, sectors, index);
                let there = (index as usize) < sizes.len() && sector < smallest && sectors != 0;
                let sectors = sectors.min(smallest.saturating_sub(sector));
                prop_assert_eq!(piece, there.then_some(Piece { node: index, sector, sectors }));
            }
        }
    }
}
