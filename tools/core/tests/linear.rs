// SPDX-License-Identifier: GPL-2.0

//! The linear algorithm, against oracles that are too slow to be wrong.

use dst_core::{
    alg::*,
    alg_linear::Linear, //
};
use proptest::prelude::*;

/// Where each sector of a small array lies: node and sector there, once for each segment that
/// claims it.
type Owners = Vec<Vec<(u32, u64)>>;

/// Describes a table sector by sector.
fn owners(table: &[Segment]) -> Owners {
    let end = table.iter().map(|s| s.start + s.size).max().unwrap_or(0);
    let mut owners = vec![Vec::new(); end as usize];
    for segment in table {
        for sector in 0..segment.size {
            owners[(segment.start + sector) as usize].push((segment.node, sector));
        }
    }
    owners
}

/// What the check must say.
fn expected(table: &[Segment], owners: &Owners) -> Result<u64, ()> {
    let whole = owners.iter().all(|owners| owners.len() == 1);
    let sizes = table.iter().all(|segment| segment.size != 0);
    if whole && sizes && !table.is_empty() {
        Ok(owners.len() as u64)
    } else {
        Err(())
    }
}

/// Checks that an error tells the truth.
fn is_true(error: LayoutError, table: &[Segment], owners: &Owners) -> bool {
    let claims = |sector: u64| owners.get(sector as usize).map_or(0, Vec::len);
    match error {
        LayoutError::Empty => table.is_empty(),
        LayoutError::ZeroSize { start } => table.iter().any(|s| s.start == start && s.size == 0),
        LayoutError::Hole { from, to } => {
            from < to
                && (from..to).all(|sector| claims(sector) == 0)
                && (from == 0 || claims(from - 1) != 0)
                && (claims(to) != 0 || table.iter().any(|s| s.start == to))
        }
        LayoutError::Overlap { sector } => claims(sector) > 1,
        LayoutError::TooLarge => false,
        // A mirror has these.
        LayoutError::NotAtZero { .. } | LayoutError::TooMany { .. } => false,
    }
}

/// A table of small segments: some placed by the algorithm, some by hand, in any order.
fn small_table() -> impl Strategy<Value = Vec<Segment>> {
    let node = (
        any::<u8>(),
        0u64..6,
        prop_oneof![4 => 1u64..7, 1 => Just(0)],
    );
    prop::collection::vec(node, 0..9).prop_map(|nodes| {
        let mut table: Vec<Segment> = Vec::new();
        for (index, (how, start, size)) in nodes.into_iter().enumerate() {
            // Mostly behind the others, so that whole arrays are not too rare.
            let start = if how < 230 {
                Linear.place(&table, size).unwrap()
            } else {
                start * 3
            };
            table.push(Segment {
                start,
                size,
                node: index as u32,
            });
        }
        table
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Every sector of a checked array maps to the place where the oracle sees it; what is no array
    /// is refused.
    #[test]
    fn small(table in small_table(), order in any::<prop::sample::Index>()) {
        let mut table = table;
        let owners = owners(&table);
        let expected = expected(&table, &owners);
        if !table.is_empty() {
            let by = order.index(table.len());
            table.rotate_left(by);
        }
        match Linear.check(&mut table) {
            Err(error) => {
                prop_assert!(expected.is_err());
                prop_assert!(is_true(error, &table, &owners), "{error:?}");
                prop_assert!(!error.to_string().is_empty());
            }
            Ok(size) => {
                prop_assert_eq!(Ok(size), expected);
                prop_assert!(table.windows(2).all(|pair| pair[0].start <= pair[1].start));
                for start in 0..size {
                    for sectors in 1..=size - start {
                        // Cut the request into pieces, as a bio is cut.
                        let mut at = start;
                        while at < start + sectors {
                            let left = start + sectors - at;
                            let piece = Linear.map(&table, at, left, 0).unwrap();
                            prop_assert!((1..=left).contains(&piece.sectors));
                            for offset in 0..piece.sectors {
                                let owner = owners[(at + offset) as usize][0];
                                prop_assert_eq!(owner, (piece.node, piece.sector + offset));
                            }
                            // A piece ends at a seam, or with the request.
                            let end = at + piece.sectors;
                            let seam = end == start + sectors || owners[end as usize][0].1 == 0;
                            prop_assert!(seam);
                            at = end;
                        }
                    }
                    prop_assert_eq!(Linear.map(&table, start, 0, 0), None);
                }
                prop_assert_eq!(Linear.map(&table, size, 1, 0), None);
                prop_assert_eq!(Linear.map(&table, u64::MAX, 1, 0), None);
            }
        }
    }

    /// Sizes beyond 2 TiB, up to the largest sector number.
    #[test]
    fn large(
        sizes in prop::collection::vec(
            prop_oneof![
                1u64..10,
                (1u64 << 32) - 5..(1 << 32) + 5,
                1u64 << 40..1 << 62,
                u64::MAX - 20..=u64::MAX,
            ],
            1..6,
        ),
        order in any::<prop::sample::Index>(),
        at in any::<u64>(),
        near in 0u64..4,
        sectors in any::<u64>(),
    ) {
        let mut table = Vec::new();
        let mut end = 0u128;
        for (node, size) in sizes.iter().enumerate() {
            let fits = end + u128::from(*size) <= u128::from(u64::MAX);
            let place = Linear.place(&table, *size);
            prop_assert_eq!(place, fits.then_some(end as u64));
            let Some(start) = place else { break };
            table.push(Segment { start, size: *size, node: node as u32 });
            end += u128::from(*size);
        }
        let by = order.index(table.len());
        table.rotate_left(by);
        prop_assert_eq!(Linear.check(&mut table), Ok(end as u64));

        let seams: Vec<u64> = table.iter().map(|segment| segment.start).collect();
        let interesting = seams
            .iter()
            .flat_map(|seam| [seam.saturating_sub(near), seam.saturating_add(near)])
            .chain([at, at % end as u64, end as u64 - 1, end as u64]);
        for sector in interesting {
            let piece = Linear.map(&table, sector, sectors, 0);
            let owner = table.iter().find(|s| {
                s.start <= sector && u128::from(sector) < u128::from(s.start) + u128::from(s.size)
            });
            match owner {
                Some(owner) if sectors != 0 => {
                    let sector = sector - owner.start;
                    let piece = piece.unwrap();
                    prop_assert_eq!(piece.node, owner.node);
                    prop_assert_eq!(piece.sector, sector);
                    prop_assert_eq!(piece.sectors, sectors.min(owner.size - sector));
                }
                _ => prop_assert_eq!(piece, None),
            }
        }
    }

    /// Tables of any numbers neither panic nor pass with an end that no number can hold.
    #[test]
    fn wild(
        table in prop::collection::vec((any::<u64>(), any::<u64>()), 0..5),
        sector: u64,
        sectors: u64,
    ) {
        let mut table: Vec<Segment> = table
            .into_iter()
            .map(|(start, size)| Segment { start, size, node: 0 })
            .collect();
        prop_assert!(Linear.check(&mut table).is_err() || table.len() == 1);
        let _ = Linear.map(&table, sector, sectors, 0);
        let _ = Linear.place(&table, sector);
    }
}

#[test]
fn ends_beyond_numbers_are_refused() {
    let mut table = [
        Segment {
            start: 0,
            size: u64::MAX,
            node: 0,
        },
        Segment {
            start: u64::MAX,
            size: 1,
            node: 1,
        },
    ];
    assert_eq!(Linear.check(&mut table), Err(LayoutError::TooLarge));
    assert_eq!(Linear.place(&table[..1], 0), Some(u64::MAX));
    assert_eq!(Linear.place(&table[..1], 1), None);
}

#[test]
fn found_by_name() {
    assert_eq!(
        find("alg_linear").map(|algorithm| algorithm.name()),
        Some("alg_linear")
    );
    assert!(find("linear").is_none() && find("").is_none());
}
