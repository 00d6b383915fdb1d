// SPDX-License-Identifier: GPL-2.0

//! What newer writes wait for, against a model that knows each sector.

use dst_core::{
    alg_mirror::overlap::Extent,
    late::Late, //
};
use proptest::prelude::*;

/// Sectors of the model.
const SECTORS: usize = 200;

/// What happens to a node.
#[derive(Clone, Debug)]
enum Step {
    /// The connection is lost with these writes on it; it had a fence or not.
    Lose(Vec<Extent>, bool),
    /// There is one again.
    Connect(bool),
    /// A newer write.
    Write(Extent),
    /// A quiet time is over.
    Next,
}

fn extents() -> impl Strategy<Value = Extent> {
    (0..SECTORS as u64 - 1, 1u64..24)
        .prop_map(|(start, sectors)| Extent::new(start, sectors.min(SECTORS as u64 - start)))
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (prop::collection::vec(extents(), 0..6), any::<bool>())
            .prop_map(|(lost, fenced)| Step::Lose(lost, fenced)),
        2 => any::<bool>().prop_map(Step::Connect),
        8 => extents().prop_map(Step::Write),
        1 => Just(Step::Next),
    ]
}

/// The model: a note for each sector.
struct Model {
    timed: Vec<bool>,
    fresh: Vec<bool>,
    held: Vec<bool>,
    unfenced: bool,
}

impl Model {
    fn new() -> Self {
        Self {
            timed: vec![false; SECTORS],
            fresh: vec![false; SECTORS],
            held: vec![false; SECTORS],
            unfenced: false,
        }
    }

    fn must_wait(&mut self, extent: &Extent) -> bool {
        let range = extent.start as usize..extent.end as usize;
        let waits = range
            .clone()
            .any(|at| self.timed[at] || self.fresh[at] || self.held[at]);
        if waits {
            self.held[range].fill(true);
        }
        waits
    }

    fn is_any(&self) -> bool {
        self.timed.iter().chain(&self.fresh).any(|late| *late)
    }
}

fn late(places: usize) -> Late<Vec<Extent>> {
    Late::new([(); 3].map(|()| vec![Extent::default(); places]))
}

/// Takes the steps with so many places. With enough of them what waits is exact; with fewer it is more, never less.
fn check(steps: Vec<Step>, places: usize, exact: bool) -> Result<(), TestCaseError> {
    let mut late = late(places);
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Lose(lost, fenced) => {
                for extent in lost {
                    late.lost(extent, fenced);
                    model.fresh[extent.start as usize..extent.end as usize].fill(true);
                    model.unfenced |= !fenced;
                }
            }
            Step::Connect(fenced) => {
                late.connected(fenced);
                model.held.fill(false);
                if fenced && !model.unfenced {
                    model.timed.fill(false);
                    model.fresh.fill(false);
                }
                prop_assert_eq!(late.is_any(), model.is_any());
            }
            Step::Write(extent) => {
                let waits = late.must_wait(extent);
                if exact {
                    prop_assert_eq!(waits, model.must_wait(&extent), "{:?}", extent);
                } else {
                    prop_assert!(waits || !model.must_wait(&extent), "{:?}", extent);
                    if waits {
                        // It was held, whatever the model thinks of that.
                        model.held[extent.start as usize..extent.end as usize].fill(true);
                    }
                }
            }
            Step::Next => {
                late.next();
                model.timed = model.fresh;
                model.fresh = vec![false; SECTORS];
                model.held.fill(false);
                model.unfenced &= model.timed.contains(&true);
                prop_assert_eq!(late.is_any(), model.timed.contains(&true));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn with_enough_places_it_is_exact(steps in prop::collection::vec(steps(), 1..60)) {
        check(steps, SECTORS, true)?;
    }

    #[test]
    fn with_few_places_nothing_is_missed(steps in prop::collection::vec(steps(), 1..60), places in 1usize..6) {
        check(steps, places, false)?;
    }
}

#[test]
fn neighbours_pass() {
    let mut late = late(8);
    late.lost(Extent::new(8, 8), false);
    late.connected(false);
    assert!(late.is_any());
    assert!(!late.must_wait(Extent::new(0, 8)));
    assert!(!late.must_wait(Extent::new(16, 8)));
    assert!(late.must_wait(Extent::new(15, 4)));
    // It overlaps nothing late, but the one before.
    assert!(late.must_wait(Extent::new(18, 4)));
    assert!(late.must_wait(Extent::new(21, 1)));
    assert!(!late.must_wait(Extent::new(22, 1)));
}

#[test]
fn huge_ones() {
    let mut late = late(2);
    // A discard as large as can be, at the end of the largest export.
    late.lost(Extent::new((1 << 54) - (1 << 22), 1 << 22), false);
    late.lost(Extent::new(u64::MAX - 8, u64::MAX), false);
    late.connected(false);
    assert!(late.is_any());
    assert!(late.must_wait(Extent::new((1 << 54) - 1, 1)));
    assert!(!late.must_wait(Extent::new((1 << 54) - (1 << 22) - 8, 8)));
    assert!(late.must_wait(Extent::new(u64::MAX - 1, 1)));
}

#[test]
fn the_closest_become_one() {
    let mut late = late(3);
    for start in [1000, 0, 100] {
        late.lost(Extent::new(start, 8), false);
    }
    // 8 sectors lie between this one and the one before; nothing else is that close.
    late.lost(Extent::new(1016, 8), false);
    late.connected(false);
    assert!(late.is_any());
    assert!(late.must_wait(Extent::new(1010, 1)));
    assert!(!late.must_wait(Extent::new(50, 1)));
    // The next one finds two that are closer to each other than it is to any.
    late.lost(Extent::new(1 << 30, 8), false);
    late.connected(false);
    assert!(late.is_any());
    assert!(late.must_wait(Extent::new(50, 1)));
    assert!(!late.must_wait(Extent::new(500, 1)));
    assert!(!late.must_wait(Extent::new(5000, 1)));
}

#[test]
fn a_fence_counts_for_connections_that_had_it() {
    let mut late = late(4);
    late.lost(Extent::new(0, 8), true);
    late.connected(true);
    assert!(!late.is_any());
    assert!(!late.must_wait(Extent::new(0, 8)));
    // The server had one, and the next one has none.
    late.lost(Extent::new(0, 8), true);
    late.connected(false);
    assert!(late.is_any());
    assert!(late.must_wait(Extent::new(0, 8)));
    // The old server had none: the new one's fence says nothing of it.
    late.lost(Extent::new(16, 8), false);
    late.connected(true);
    assert!(late.is_any());
    assert!(late.must_wait(Extent::new(16, 8)));
    late.next();
    late.next();
    late.connected(false);
    assert!(!late.is_any());
}

#[test]
fn what_was_held_is_not_late() {
    let mut late = late(4);
    late.lost(Extent::new(0, 8), false);
    late.connected(false);
    assert!(late.is_any());
    assert!(late.must_wait(Extent::new(4, 8)));
    // The connection is lost before that was sent.
    late.connected(false);
    assert!(late.is_any());
    assert!(!late.must_wait(Extent::new(8, 8)));
    assert!(late.must_wait(Extent::new(0, 1)));
}

#[test]
fn later_losses_take_no_time_from_the_first() {
    let mut late = late(4);
    late.lost(Extent::new(0, 8), false);
    late.connected(false);
    late.next();
    late.lost(Extent::new(16, 8), false);
    late.connected(false);
    assert!(late.must_wait(Extent::new(0, 8)) && late.must_wait(Extent::new(16, 8)));
    // That of the first is over.
    late.next();
    assert!(!late.must_wait(Extent::new(0, 8)) && late.must_wait(Extent::new(16, 8)));
    late.next();
    assert!(!late.is_any() && !late.must_wait(Extent::new(16, 8)));
}
