// SPDX-License-Identifier: GPL-2.0

//! Extents in flight against an oracle that only knows the order of arrival.

use dst_core::alg_mirror::overlap::{
    Extent,
    Flight,
    Overlap,
    Waiter, //
};
use proptest::prelude::*;

/// As many ids as there are.
const IDS: usize = 24;

/// What is under way, by its order of arrival.
#[derive(Clone, Copy, Debug)]
struct Live {
    id: u32,
    extent: Extent,
    goes: bool,
}

/// All that is under way or waits, oldest first: an extent goes when it overlaps no older one.
#[derive(Default)]
struct Oracle(Vec<Live>);

impl Oracle {
    /// Lets go what may, and gives the ids, oldest first.
    fn settle(&mut self) -> Vec<u32> {
        let mut gone = Vec::new();
        for at in 0..self.0.len() {
            let (older, rest) = self.0.split_at_mut(at);
            let this = &mut rest[0];
            if !this.goes && older.iter().all(|old| !old.extent.overlaps(&this.extent)) {
                this.goes = true;
                gone.push(this.id);
            }
        }
        gone
    }

    fn free(&self) -> Option<u32> {
        (0..IDS as u32).find(|id| self.0.iter().all(|live| live.id != *id))
    }

    fn under_way(&self) -> Vec<Live> {
        self.0.iter().filter(|live| live.goes).copied().collect()
    }
}

fn new(ids: usize) -> Overlap<Vec<Flight>, Vec<Waiter>> {
    Overlap::new(vec![Flight::default(); ids], vec![Waiter::default(); ids])
}

#[derive(Clone, Debug)]
enum Step {
    Begin(u64, u64),
    /// One of those under way, by its rank among them.
    End(usize),
}

fn steps(sectors: u64, longest: u64) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..sectors, 1..longest).prop_map(|(start, len)| Step::Begin(start, len)),
        2 => any::<usize>().prop_map(Step::End),
    ];
    prop::collection::vec(step, 1..300)
}

fn run(steps: Vec<Step>) {
    let mut overlap = new(IDS);
    let mut oracle = Oracle::default();
    let end = |overlap: &mut Overlap<_, _>, oracle: &mut Oracle, nth: usize| {
        let under_way = oracle.under_way();
        let Some(over) = under_way.get(nth % under_way.len().max(1)) else {
            return;
        };
        oracle.0.retain(|live| live.id != over.id);
        let mut woken = Vec::new();
        overlap.end(over.extent, |id| woken.push(id));
        assert_eq!(woken, oracle.settle(), "who goes when {over:?} is over");
    };
    for step in steps {
        match step {
            Step::Begin(start, len) => {
                let Some(id) = oracle.free() else { continue };
                let extent = Extent::new(start, len);
                oracle.0.push(Live {
                    id,
                    extent,
                    goes: false,
                });
                let goes = overlap.begin(id, extent);
                assert_eq!(goes, oracle.settle() == [id], "whether {extent:?} goes");
            }
            Step::End(nth) => end(&mut overlap, &mut oracle, nth),
        }
        let under_way = oracle.under_way();
        for (at, one) in under_way.iter().enumerate() {
            for other in &under_way[at + 1..] {
                assert!(!one.extent.overlaps(&other.extent));
            }
        }
        assert_eq!(overlap.is_empty(), under_way.is_empty());
    }
    // Nobody starves: all come to their end.
    while !oracle.0.is_empty() {
        assert!(!oracle.under_way().is_empty(), "all wait: {:?}", oracle.0);
        end(&mut overlap, &mut oracle, 0);
    }
    assert!(overlap.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Dense: nearly all overlap.
    #[test]
    fn dense(steps in steps(16, 8)) {
        run(steps);
    }

    /// Sparse: chains of overlapping ones, with large ones across many.
    #[test]
    fn sparse(steps in steps(200, 40)) {
        run(steps);
    }

    /// Whatever is ended: what is not under way changes nothing.
    #[test]
    fn strangers(extents in prop::collection::vec((0u64..64, 1u64..16), 1..16), stranger in (0u64..64, 0u64..16)) {
        let mut overlap = new(IDS);
        let mut under_way = Vec::new();
        for (id, (start, len)) in (0..).zip(extents) {
            let extent = Extent::new(start, len);
            if overlap.begin(id, extent) {
                under_way.push(extent);
            }
        }
        let stranger = Extent::new(stranger.0, stranger.1);
        if !under_way.contains(&stranger) {
            overlap.end(stranger, |id| panic!("{id} goes"));
        }
        let first = under_way.first().copied();
        prop_assert!(!overlap.begin(IDS as u32 - 1, first.unwrap()), "it is under way yet");
    }
}

#[test]
fn the_end_of_sector_numbers() {
    let mut overlap = new(3);
    let last = Extent::new(u64::MAX - 8, 100);
    assert_eq!(last.sectors(), 8);
    assert!(overlap.begin(0, last));
    assert!(!overlap.begin(1, Extent::new(0, u64::MAX)));
    assert!(
        !overlap.begin(2, Extent::new(5, 1)),
        "it overlaps one that waits"
    );
    let mut woken = Vec::new();
    overlap.end(last, |id| woken.push(id));
    assert_eq!(woken, [1]);
}

/// Writers all over a region that is always busy: the one across all of it gets its turn.
#[test]
fn a_large_one_does_not_starve() {
    let mut overlap = new(8);
    for id in 0..4 {
        assert!(overlap.begin(id, Extent::new(u64::from(id) * 8, 8)));
    }
    assert!(!overlap.begin(4, Extent::new(0, 32)));
    for id in 0..3 {
        overlap.end(Extent::new(id * 8, 8), |id| panic!("{id} goes"));
        // Who comes later comes later.
        assert!(!overlap.begin(5 + id as u32, Extent::new(id * 8, 8)));
    }
    let mut woken = Vec::new();
    overlap.end(Extent::new(24, 8), |id| woken.push(id));
    assert_eq!(woken, [4]);
    overlap.end(Extent::new(0, 32), |id| woken.push(id));
    assert_eq!(woken, [4, 5, 6, 7]);
}
