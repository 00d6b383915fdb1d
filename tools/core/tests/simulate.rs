// SPDX-License-Identifier: GPL-2.0

//! Two worlds in which everything that can fail does, and an oracle that knows what must be there afterwards. Everything
//! follows from a seed.
//!
//! - A mirror, whole: its core, its metadata, its driver, nodes that lose power, links and bits, heads that crash at any
//!   moment.
//! - Sessions: what is sent again on the next connection, servers with and without a fence, heads that take over.
//!
//! Two runs of each: seeds that found something once, and the first ones, of the mirror as many as a minute takes. They
//! are always the same, so what fails does for a change. `make simulate` is for finding more.
//!
//! - `DST_SEED=n`: that seed only (of the world whose test is named: `other_seeds` or `other_sessions`); with
//!   `DST_SIM_TRACE=1` it tells what happens, and of a mirror with `DST_SIM_SECTOR=n` what is in a sector.
//! - `DST_SIM_SECONDS=n`: how long to go on with other seeds (0: for ever); `DST_SIM_FROM=n`: from this one on (else behind
//!   the first ones).
//! - `DST_SIM_ALL=1`: tells of seeds that fail, and goes on.

mod sim;

use std::{
    fmt::Debug,
    panic::catch_unwind,
    sync::atomic::{
        AtomicBool,
        Ordering::Relaxed, //
    },
    time::{
        Duration,
        Instant, //
    },
};

use sim::sessions::{
    self,
    Fault,
    FAULTS, //
};

/// A kind of world.
trait Worlds {
    /// What happened in all.
    type Tally: Default + Debug;

    /// The test that runs one seed.
    const TEST: &'static str;

    /// The first seeds, always the same ones.
    const FIRST: u64;

    fn run(seed: u64, trace: bool) -> Self::Tally;
    fn add(sum: &mut Self::Tally, more: &Self::Tally);
    fn is_rich(sum: &Self::Tally) -> bool;
}

struct Mirrors;

impl Worlds for Mirrors {
    type Tally = sim::Tally;

    const TEST: &'static str = "other_seeds";

    /// A minute's work for one processor.
    const FIRST: u64 = 25_000;

    fn run(seed: u64, trace: bool) -> sim::Tally {
        sim::run(seed, trace)
    }

    fn add(sum: &mut sim::Tally, more: &sim::Tally) {
        sum.add(more);
    }

    fn is_rich(sum: &sim::Tally) -> bool {
        sum.is_rich()
    }
}

struct Sessions;

impl Worlds for Sessions {
    type Tally = sessions::Tally;

    const TEST: &'static str = "other_sessions";

    /// Ten seconds' work.
    const FIRST: u64 = 25_000;

    fn run(seed: u64, trace: bool) -> sessions::Tally {
        sessions::run(seed, trace, Fault::None)
    }

    fn add(sum: &mut sessions::Tally, more: &sessions::Tally) {
        sum.add(more);
    }

    fn is_rich(sum: &sessions::Tally) -> bool {
        sum.is_rich()
    }
}

/// Seeds that fail when something is taken away again that was wrong once. What a seed does changes with the simulation:
/// these are of the day when it was put right.
const REGRESSIONS: &[u64] = &[
    6994,
    1_008_409,
    3_012_074,
    3_030_576,
    4_242_462_144,
    380_415_586_945,
    771_900_002_630,
    933_460_945_392,
];

/// A seed has failed: who goes on for ever ends, too.
static FAILED: AtomicBool = AtomicBool::new(false);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run<W: Worlds>(seed: u64, sum: &mut W::Tally) {
    match catch_unwind(|| W::run(seed, false)) {
        Ok(tally) => W::add(sum, &tally),
        Err(_) if number("DST_SIM_ALL").is_some() => println!("FAILED {seed} ({})", W::TEST),
        Err(_) => {
            FAILED.store(true, Relaxed);
            panic!(
                "seed {seed} fails; to see it again:\n    \
                 DST_SEED={seed} DST_SIM_TRACE=1 scripts/build-tools test --release -p dst-core --test simulate {} -- --nocapture",
                W::TEST
            )
        }
    }
}

/// Whether only what somebody asks for is to be run.
fn is_asked() -> bool {
    ["DST_SEED", "DST_SIM_SECONDS", "DST_SIM_FROM"]
        .into_iter()
        .any(|name| number(name).is_some())
}

fn first<W: Worlds>() {
    let mut sum = W::Tally::default();
    if is_asked() {
        return;
    }
    (0..W::FIRST).for_each(|seed| run::<W>(seed, &mut sum));
    println!("{sum:?}");
    assert!(W::is_rich(&sum), "not all happened that can: {sum:?}");
}

fn others<W: Worlds>() {
    if let Some(seed) = number("DST_SEED") {
        let trace = number("DST_SIM_TRACE").is_some_and(|trace| trace != 0);
        println!("{:?}", W::run(seed, trace));
        return;
    }
    if !is_asked() {
        return;
    }
    let seconds = number("DST_SIM_SECONDS").unwrap_or(0);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut seed = number("DST_SIM_FROM").unwrap_or(W::FIRST);
    let mut sum = W::Tally::default();
    while (seconds == 0 || Instant::now() < end) && !FAILED.load(Relaxed) {
        run::<W>(seed, &mut sum);
        seed = seed.wrapping_add(1);
        if seconds == 0 && seed % 1000 == 0 {
            println!("{}: {seed} seeds: {sum:?}", W::TEST);
        }
    }
    println!("{}: up to seed {seed}: {sum:?}", W::TEST);
    assert!(W::is_rich(&sum), "not all happened that can: {sum:?}");
}

#[test]
fn seeds_that_failed() {
    let mut sum = sim::Tally::default();
    if !is_asked() {
        REGRESSIONS
            .iter()
            .for_each(|seed| run::<Mirrors>(*seed, &mut sum));
    }
}

#[test]
fn first_seeds() {
    first::<Mirrors>();
}

#[test]
fn other_seeds() {
    others::<Mirrors>();
}

#[test]
fn first_sessions() {
    first::<Sessions>();
}

#[test]
fn other_sessions() {
    others::<Sessions>();
}

/// Each rule is broken once: a simulation that does not notice shows nothing.
#[test]
fn broken_sessions() {
    if is_asked() {
        return;
    }
    for fault in FAULTS {
        let fails = |seed: &u64| catch_unwind(|| sessions::run(*seed, false, fault)).is_err();
        let found = (0..Sessions::FIRST).find(fails);
        println!("{fault:?}: found by seed {found:?}");
        assert!(found.is_some(), "nothing tells of {fault:?}");
    }
}
