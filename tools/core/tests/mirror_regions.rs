// SPDX-License-Identifier: GPL-2.0

//! What is known of each region, against a model that knows what is true: which writes are in flight, not flushed, or
//! lacking on a copy, and what a crash could find in the log.

use dst_core::alg_mirror::{
    regions::{
        Block,
        Region,
        Regions,
        ACTIVE,
        STALE,
        WRITTEN, //
    },
    Mask, //
};
use proptest::prelude::*;

const COPIES: u32 = 3;
const ALL: Mask = (1 << COPIES) - 1;
const SHIFT: u32 = 3;
const PER_BLOCK: usize = 4;
/// Three blocks, the last of which is not full.
const REGIONS: usize = 10;
const BLOCKS: usize = 3;
const SECTORS: u64 = (REGIONS as u64) << SHIFT;

/// What is true of a region.
#[derive(Clone, Copy, Debug, Default)]
struct Truth {
    /// What should be wanted.
    want: u32,
    in_flight: u32,
    /// The step at which it was written last; 0: all is flushed.
    written: usize,
    /// The step at which each copy was healed; 0: it was not, or that is flushed.
    healed: [usize; COPIES as usize],
    idle: u8,
    /// Nobody came to write since a flush began that was to end it being active.
    resting: bool,
}

impl Truth {
    fn healed(&self) -> Mask {
        (0..COPIES).fold(0, |sum, copy| {
            sum | Mask::from(self.healed[copy as usize] != 0) << copy
        })
    }

    fn not_healed(&mut self, copies: Mask) {
        for copy in (0..COPIES).filter(|copy| copies >> copy & 1 != 0) {
            self.healed[copy as usize] = 0;
        }
    }
}

struct Model {
    regions: Regions<Vec<Region>, Vec<Block>>,
    truth: [Truth; REGIONS],
    /// What a crash can find in each region of the log.
    found: [Vec<u32>; REGIONS],
    /// The block that is being written.
    flying: Option<usize>,
    sequence: [u64; BLOCKS],
    behind: [Mask; BLOCKS],
    /// The step at which the flush under way began.
    flush: Option<usize>,
    /// Extents that wait for the log, and what they miss.
    waiting: Vec<(u64, u64, Mask)>,
    going: Vec<(u64, u64)>,
    step: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, Mask),
    Again(usize),
    Over(usize, Mask),
    Leave(u32, bool),
    Forget(u32),
    Behind(u32),
    Tick,
    FlushBegin(bool),
    FlushEnd(Mask),
    FlushFailed,
    Log(bool, Mask),
    LogDone(Mask, bool),
    Heal(Mask),
}

fn step() -> impl Strategy<Value = Step> {
    let some = || 0..=ALL;
    let few = || prop_oneof![3 => Just(0), 1 => 0..=ALL];
    prop_oneof![
        6 => (0..SECTORS, 1u64..20, few()).prop_map(|(at, len, missing)| {
            Step::Write(at, (at + len).min(SECTORS), missing)
        }),
        6 => any::<usize>().prop_map(Step::Again),
        6 => (any::<usize>(), few()).prop_map(|(nth, lacking)| Step::Over(nth, lacking)),
        1 => (0..COPIES, any::<bool>()).prop_map(|(copy, all)| Step::Leave(copy, all)),
        1 => (0..COPIES).prop_map(Step::Forget),
        1 => (0..COPIES).prop_map(Step::Behind),
        3 => Just(Step::Tick),
        3 => any::<bool>().prop_map(Step::FlushBegin),
        3 => some().prop_map(Step::FlushEnd),
        1 => Just(Step::FlushFailed),
        6 => (any::<bool>(), some()).prop_map(|(urgent, copies)| Step::Log(urgent, copies)),
        6 => (few(), any::<bool>()).prop_map(|(failed, durable)| Step::LogDone(failed, durable)),
        2 => some().prop_map(Step::Heal),
    ]
}

impl Model {
    fn new(loaded: &[u32]) -> Self {
        let mut regions = Regions::new(
            vec![Region::default(); REGIONS],
            vec![Block::default(); BLOCKS],
            PER_BLOCK,
            SHIFT,
        );
        let mut truth = [Truth::default(); REGIONS];
        let mut found = [const { Vec::new() }; REGIONS];
        for (at, (truth, found)) in truth.iter_mut().zip(&mut found).enumerate() {
            let entry = loaded[at];
            regions.load(at, entry);
            truth.want = entry;
            // The log of another copy may be older.
            found.extend([0, entry]);
        }
        regions.load_sequence(1, 7);
        Self {
            regions,
            truth,
            found,
            flying: None,
            sequence: [0, 7, 0],
            behind: [0; BLOCKS],
            flush: None,
            waiting: Vec::new(),
            going: Vec::new(),
            step: 1,
        }
    }

    fn range(start: u64, end: u64) -> std::ops::Range<usize> {
        (start >> SHIFT) as usize..((end - 1) >> SHIFT) as usize + 1
    }

    fn block(at: usize) -> std::ops::Range<usize> {
        at * PER_BLOCK..((at + 1) * PER_BLOCK).min(REGIONS)
    }

    /// Whether the log says what a write needs, whatever a crash finds.
    fn logged(&self, start: u64, end: u64) -> bool {
        let both = ACTIVE | WRITTEN;
        self.found[Self::range(start, end)]
            .iter()
            .all(|found| found.iter().all(|entry| entry & both == both))
    }

    fn write(&mut self, start: u64, end: u64, missing: Mask) {
        for truth in &mut self.truth[Self::range(start, end)] {
            truth.want |= ACTIVE | WRITTEN | u32::from(missing);
            truth.idle = 0;
            truth.resting = false;
        }
        let logged = self.logged(start, end);
        let goes = self.regions.write_begin(start, end, missing);
        assert_eq!(goes, logged, "a write to {start}..{end}");
        assert_eq!(self.regions.may_write(start, end), logged);
        if !goes {
            self.waiting.push((start, end, missing));
            return;
        }
        self.regions.write_goes(start, end);
        self.going.push((start, end));
        for truth in &mut self.truth[Self::range(start, end)] {
            truth.in_flight += 1;
            truth.written = self.step;
        }
    }

    fn over(&mut self, nth: usize, lacking: Mask) {
        if self.going.is_empty() {
            return;
        }
        let (start, end) = self.going.remove(nth % self.going.len());
        self.regions.write_end(start, end, lacking);
        for truth in &mut self.truth[Self::range(start, end)] {
            truth.in_flight -= 1;
            truth.written = self.step;
            truth.idle = 0;
            truth.want |= u32::from(lacking);
            truth.not_healed(lacking);
        }
    }

    fn flush_begin(&mut self, now: bool) {
        if self.flush.is_some() {
            return;
        }
        let idle = |truth: &Truth| {
            truth.in_flight == 0 && truth.want & ACTIVE != 0 && (now || truth.idle >= 5)
        };
        let mut any = false;
        for truth in &mut self.truth {
            truth.resting = idle(truth);
            any |= truth.resting || truth.healed() != 0;
        }
        assert_eq!(self.regions.flush_begin(now), any);
        self.flush = Some(self.step);
    }

    fn flush_end(&mut self, copies: Mask) {
        let Some(since) = self.flush.take() else {
            return;
        };
        self.regions.flush_end(copies);
        for truth in &mut self.truth {
            for copy in (0..COPIES as usize).filter(|copy| copies >> copy & 1 != 0) {
                let at = &mut truth.healed[copy];
                if *at != 0 && *at < since {
                    *at = 0;
                    truth.want &= !(1 << copy);
                }
            }
            if truth.in_flight == 0 && truth.written < since {
                truth.written = 0;
            }
            if truth.resting && truth.in_flight == 0 {
                assert_eq!(truth.written, 0);
                truth.want &= !ACTIVE;
            }
        }
    }

    fn log(&mut self, urgent: bool, copies: Mask) {
        if self.flying.is_some() {
            return;
        }
        let Some(block) = self.regions.next_block(urgent, copies) else {
            if !urgent {
                assert!(self.behind.iter().all(|behind| behind & copies == 0));
            }
            return;
        };
        self.flying = Some(block);
        self.sequence[block] += 1;
        assert_eq!(self.regions.sequence(block), self.sequence[block]);
        for (at, index) in Self::block(block).enumerate() {
            let entry = self.regions.entry(block, at);
            assert_eq!(
                entry, self.truth[index].want,
                "region {index}: what is written"
            );
            self.found[index].push(entry);
        }
    }

    fn log_done(&mut self, failed: Mask, durable: bool) {
        let Some(block) = self.flying.take() else {
            return;
        };
        self.regions
            .block_done(block, ALL & !failed, failed, durable);
        // It is on none as long as it is not on all that must have it.
        let behind = if durable { 0 } else { self.behind[block] };
        self.behind[block] = behind | failed;
        if durable {
            for index in Self::block(block) {
                let found = &mut self.found[index];
                let newest = found.pop();
                found.clear();
                found.extend(newest);
            }
        }
    }

    fn heal(&mut self, copies: Mask) {
        let Some((at, stale)) = self.regions.next_stale(copies) else {
            return;
        };
        let truth = &mut self.truth[at];
        let lacks = (truth.want & STALE) as Mask & !truth.healed() & copies;
        assert_eq!(stale, lacks, "region {at} is to be healed");
        self.regions.healed(at, stale);
        // The flush that counts is the next one, for all of them.
        let healed = truth.healed() | stale;
        for copy in (0..COPIES).filter(|copy| healed >> copy & 1 != 0) {
            truth.healed[copy as usize] = self.step;
        }
    }

    fn leave(&mut self, copy: u32, all: bool) {
        self.regions.leave(copy, all);
        for truth in &mut self.truth {
            truth.not_healed(1 << copy);
            // What is not flushed, or in flight, may be lost there.
            let lacks = truth.written != 0 || truth.in_flight != 0;
            if truth.want & if all { WRITTEN } else { ACTIVE } != 0 {
                truth.want |= 1 << copy;
            } else {
                assert!(!lacks);
            }
        }
    }

    fn forget(&mut self, copy: u32) {
        // The core lets it leave first.
        self.leave(copy, false);
        self.regions.forget(copy);
        for truth in &mut self.truth {
            truth.want &= !(1 << copy);
        }
        for behind in &mut self.behind {
            *behind &= !(1 << copy);
        }
    }

    fn take(&mut self, step: &Step) {
        self.step += 1;
        match *step {
            Step::Write(start, end, missing) => self.write(start, end, missing),
            Step::Again(nth) if !self.waiting.is_empty() => {
                let (start, end, missing) = self.waiting.remove(nth % self.waiting.len());
                self.write(start, end, missing);
            }
            Step::Again(_) => {}
            Step::Over(nth, lacking) => self.over(nth, lacking),
            Step::Leave(copy, all) => self.leave(copy, all),
            Step::Forget(copy) => self.forget(copy),
            Step::Behind(copy) => {
                self.regions.log_behind(copy);
                // A write that is under way may have left the copy out.
                self.behind
                    .iter_mut()
                    .for_each(|behind| *behind |= 1 << copy);
            }
            Step::Tick => {
                self.regions.tick();
                for truth in &mut self.truth {
                    let idle = truth.want & ACTIVE != 0 && truth.in_flight == 0;
                    truth.idle = (truth.idle + u8::from(idle)).min(5);
                }
            }
            Step::FlushBegin(now) => self.flush_begin(now),
            Step::FlushEnd(copies) => self.flush_end(copies),
            Step::FlushFailed => {
                if self.flush.take().is_some() {
                    self.regions.flush_failed();
                }
            }
            Step::Log(urgent, copies) => self.log(urgent, copies),
            Step::LogDone(failed, durable) => self.log_done(failed, durable),
            Step::Heal(copies) => self.heal(copies),
        }
        self.check();
    }

    fn check(&mut self) {
        for (at, truth) in self.truth.iter().enumerate() {
            let (start, end) = self.regions.sectors(at);
            let lacks = (truth.want & STALE) as Mask & !truth.healed();
            assert_eq!(
                self.regions.stale_in(start, end),
                lacks,
                "region {at} lacks"
            );
            if truth.in_flight != 0 || truth.written != 0 {
                assert!(self.logged(start, end), "region {at} is active in the log");
            }
        }
        for copy in 0..COPIES {
            let stale = self
                .truth
                .iter()
                .filter(|truth| truth.want >> copy & 1 != 0);
            assert_eq!(self.regions.stale(copy), stale.count(), "stale on {copy}");
        }
        let behind = self.behind.iter().fold(0, |sum, behind| sum | behind);
        assert_eq!(self.regions.behind(), behind);
        if self.regions.is_written(ALL) {
            assert!(self.flying.is_none() && behind == 0);
            for (at, truth) in self.truth.iter().enumerate() {
                for found in &self.found[at] {
                    assert_eq!(*found, truth.want, "region {at} is written");
                }
            }
        }
        if self.regions.is_quiet() {
            assert!(self.truth.iter().all(|truth| truth.written == 0));
        }
    }

    /// What waits goes, what is active comes to rest, and all of it gets into the log.
    fn rest(&mut self) {
        self.take(&Step::LogDone(0, true));
        self.take(&Step::FlushEnd(ALL));
        // Twice: a flush may have ended that began before a write came that waits.
        for _ in 0..2 {
            for _ in 0..self.waiting.len() {
                self.take(&Step::Again(0));
            }
            for _ in 0..BLOCKS {
                self.take(&Step::Log(true, ALL));
                self.take(&Step::LogDone(0, true));
            }
        }
        for _ in 0..self.waiting.len() {
            self.take(&Step::Again(0));
        }
        assert!(self.waiting.is_empty(), "{:?} still waits", self.waiting);
        while !self.going.is_empty() {
            self.take(&Step::Over(0, 0));
        }
        for _ in 0..5 {
            self.take(&Step::Tick);
        }
        while self.regions.next_stale(ALL).is_some() {}
        for _ in 0..REGIONS {
            self.take(&Step::Heal(ALL));
        }
        self.take(&Step::FlushBegin(false));
        self.take(&Step::FlushEnd(ALL));
        assert!(self.regions.is_quiet());
        for _ in 0..BLOCKS {
            self.take(&Step::Log(false, ALL));
            self.take(&Step::LogDone(0, true));
        }
        assert!(self.regions.is_written(ALL));
        assert!(self.regions.next_block(false, ALL).is_none());
        assert!(self.regions.next_block(true, ALL).is_none());
        for found in &self.found {
            assert!(found.iter().all(|entry| entry & (ACTIVE | STALE) == 0));
        }
    }
}

fn entries() -> impl Strategy<Value = Vec<u32>> {
    let entry = prop_oneof![
        3 => Just(0),
        2 => (0..=u32::from(ALL)).prop_map(|stale| stale | WRITTEN),
        1 => (0..=u32::from(ALL)).prop_map(|stale| stale | WRITTEN | ACTIVE),
    ];
    prop::collection::vec(entry, REGIONS)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_known_is_true(loaded in entries(), steps in prop::collection::vec(step(), 1..200)) {
        let mut model = Model::new(&loaded);
        model.check();
        for step in &steps {
            model.take(step);
        }
        model.rest();
    }
}

/// A write that finds its region on its way into the log does not have it written twice.
#[test]
fn a_write_waits_for_the_log_write_under_way() {
    let mut model = Model::new(&[0; REGIONS]);
    model.take(&Step::Write(0, 1, 0));
    model.take(&Step::Log(true, ALL));
    model.take(&Step::Write(1, 2, 0));
    model.take(&Step::Again(0));
    model.take(&Step::LogDone(0, true));
    model.take(&Step::Again(0));
    model.take(&Step::Again(0));
    assert_eq!(model.going.len(), 2);
    assert!(
        model.regions.next_block(true, ALL).is_none(),
        "it is written again"
    );
    assert!(model.regions.is_written(ALL));
}
