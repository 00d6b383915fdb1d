// SPDX-License-Identifier: GPL-2.0

//! The mirror's core, step by step: what the simulation found once, as short as it can be told.

mod small;

use dst_core::alg_mirror::{
    jobs::{
        Job,
        States, //
    },
    overlap::Extent,
    regions::{
        ACTIVE,
        WRITTEN, //
    },
    write::{
        Begin,
        End, //
    },
    Mask, //
};

use small::{
    core,
    go,
    heal,
    running,
    work,
    write,
    Core,
    REGION, //
};

fn superblocks(jobs: &[Job]) -> Vec<(Mask, Mask, Mask)> {
    let states = jobs.iter().filter_map(superblock);
    let states = states.map(|(_, states)| (states.in_sync, states.healing, states.missing));
    states.collect()
}

/// Where a superblock goes, and what it says.
fn superblock(job: &Job) -> Option<(Mask, States)> {
    match *job {
        Job::Superblock { copies, states } => Some((copies, states)),
        _ => None,
    }
}

/// Whether superblocks go to these copies that call those in sync.
fn tells(job: &Job, copies: Mask, in_sync: Mask) -> bool {
    superblock(job).is_some_and(|(to, states)| (to, states.in_sync) == (copies, in_sync))
}

#[test]
fn the_last_copy_may_lose_what_was_not_flushed() {
    let mut core = running(0b01, 0b10, 0);
    write(&mut core, 0, 0);
    let region = Extent::new(0, REGION);
    assert_eq!(core.readable(region), 0b11);
    // It stays, but has lost its power: the other one has more than it.
    assert!(!core.leave(0));
    assert_eq!(core.readable(region), 0b01);
}

#[test]
fn a_copy_is_not_back_while_it_counts() {
    let mut core = running(0b11, 0, 0);
    assert!(core.leave(1));
    assert!(!core.back(1, false), "a crash could believe it");
    let job = core
        .next_job()
        .expect("the superblocks must say that it is away");
    assert!(tells(&job, 0b01, 0b01));
    assert!(!core.back(1, false), "they are not written yet");
    core.job_done(0b01);
    assert!(core.back(1, false));
}

#[test]
fn what_a_copy_says_that_has_left_does_not_count() {
    let mut core = running(0b111, 0, 0);
    write(&mut core, 0, 0);
    core.suspend(1);
    assert_eq!(core.request_begin(0, Extent::default()), Begin::Wait);
    core.resume(1);
    // It may go now, but does not yet. Meanwhile a server loses what was not flushed, and is there again.
    assert!(core.leave(2));
    let (id, mask) = core.next_ready().expect("it may go");
    assert_eq!((id, mask), (0, 0b111));
    assert_eq!(
        core.request_end(id, mask),
        End::Wait,
        "the superblocks call a copy in sync that has lost the write"
    );
    assert_eq!(core.next_ended(), None);
    assert_eq!(superblocks(&work(&mut core)), [(0b011, 0, 0b100)]);
    assert_eq!(core.next_ended(), Some((0, true)));
}

#[test]
fn reads_of_what_is_written_stay_with_a_copy() {
    let mut core = core(0b10, 0b01, 0);
    core.load(0, WRITTEN | 0b01);
    core.begin(None, 0);
    work(&mut core);
    assert_eq!(go(&mut core, 0, REGION + 7), 0b11);
    let extent = Extent::new(REGION + 7, 1);
    assert_eq!(core.read_source(extent, 0), 0b10);
    heal(&mut core);
    work(&mut core);
    assert_eq!(core.in_sync(), 0b11);
    // What is being written may be on the other one only.
    assert_eq!(core.read_source(extent, 0), 0b10);
    core.request_end(0, 0b11);
    assert_eq!(core.read_source(extent, 0), 0b11);
}

#[test]
fn reads_stay_with_the_only_copy_that_could_serve_them() {
    let mut core = core(0b10, 0b01, 0);
    core.load(0, WRITTEN | 0b01);
    core.begin(None, 0);
    work(&mut core);
    // It lacks the region yet, and the write is sent to both.
    assert_eq!(go(&mut core, 0, 7), 0b11);
    let extent = Extent::new(7, 1);
    assert_eq!(core.read_source(extent, 0), 0b10);
    // One that was in sync, left, and is back, is not the first one again because it was before.
    let mut core = running(0b11, 0, 0);
    assert_eq!(go(&mut core, 0, 7), 0b11);
    assert_eq!(core.read_source(extent, 0), 0b01);
    assert_eq!(go(&mut core, 1, 9), 0b11);
    assert_eq!(core.request_end(0, 0b10), End::Wait);
    work(&mut core);
    assert!(core.back(0, false));
    work(&mut core);
    assert_eq!(core.request_begin(2, extent), Begin::Go(0b11));
    assert_eq!(core.read_source(extent, 0), 0b10, "the other one lacks it");
    assert_eq!(core.request_end(1, 0b11), End::Ok);
    heal(&mut core);
    assert_eq!(core.read_source(extent, 0), 0b10);
}

#[test]
fn one_sector_that_cannot_be_read_does_not_change_who_serves_others() {
    let mut core = running(0b11, 0b100, 0);
    let (bad, other) = (Extent::new(7, 1), Extent::new(9, 1));
    assert_eq!(go(&mut core, 0, 7), 0b111);
    assert_eq!(core.request_begin(1, other), Begin::Go(0b111));
    assert_eq!(core.read_source(bad, 0), 0b01);
    assert_eq!(core.read_source(bad, 0b01), 0b10);
    assert_eq!(core.read_source(other, 0), 0b01);
}

#[test]
fn a_copy_that_is_back_in_time_serves_reads_as_before() {
    let mut core = running(0b11, 0, 0);
    assert_eq!(go(&mut core, 0, 7), 0b11);
    let extent = Extent::new(7, 1);
    core.suspend(0);
    assert_eq!(core.read_source(extent, 0), 0b10);
    // After a crash it would be believed.
    core.resume(0);
    assert_eq!(core.read_source(extent, 0), 0b01);
}

#[test]
fn reads_of_what_is_written_go_to_a_copy_in_sync() {
    let mut core = running(0b01, 0b10, 0);
    write(&mut core, 0, 7);
    assert_eq!(go(&mut core, 1, 7), 0b11);
    let extent = Extent::new(7, 1);
    core.suspend(0);
    assert_eq!(core.read_source(extent, 0), 0b10);
    core.resume(0);
    assert_eq!(core.read_source(extent, 0), 0b01);
    // The one that stays fails, and so does the write: what it has is what is.
    assert_eq!(core.request_end(1, 0b10), End::Error);
}

#[test]
fn beside_a_last_copy_that_is_away_only_what_is_sure_is_read() {
    let mut core = core(0b01, 0b10, 0);
    core.load(0, WRITTEN);
    core.load(1, WRITTEN | 0b10);
    core.begin(None, 0);
    work(&mut core);
    core.set_away(1, true);
    assert_eq!(core.away(), 0, "it can leave");
    core.set_away(0, true);
    assert_eq!(go(&mut core, 0, 7), 0b11);
    let reads = [(7, 0), (8, 0b10), (REGION, 0), (2 * REGION, 0)];
    for (sector, copies) in reads {
        assert_eq!(core.read_source(Extent::new(sector, 1), 0), copies);
    }
    assert_eq!(core.request_end(0, 0b11), End::Ok);
    heal(&mut core);
    work(&mut core);
    assert_eq!((core.in_sync(), core.away()), (0b11, 0));
}

#[test]
fn what_one_log_says_is_not_on_all_copies() {
    let mut core = core(0b11, 0, 0);
    core.load(0, WRITTEN | ACTIVE);
    core.begin(None, 0);
    work(&mut core);
    let begin = core.request_begin(0, Extent::new(0, 1));
    assert_eq!(begin, Begin::Wait, "the log of the other copy may be older");
    let job = core.next_job();
    assert!(
        matches!(
            job,
            Some(Job::Log {
                block: 0,
                copies: 0b11
            })
        ),
        "{job:?}"
    );
}

#[test]
fn after_a_crash_the_log_comes_before_the_superblocks() {
    let mut core = core(0b11, 0b100, 0);
    core.load(0, WRITTEN | ACTIVE);
    core.begin(Some(0), 0);
    assert_eq!(core.healing(), 0b110);
    let jobs = work(&mut core);
    assert!(matches!(jobs[0], Job::Log { block: 0, .. }), "{jobs:?}");
    assert_eq!(superblocks(&jobs), [(0b001, 0b110, 0)]);
}

#[test]
fn a_new_copy_is_named_when_the_log_says_what_it_lacks() {
    let mut core = core(0b01, 0, 0);
    core.load(0, WRITTEN);
    core.load(3, WRITTEN);
    core.begin(None, 0);
    work(&mut core);
    assert!(core.add(1));
    let jobs = work(&mut core);
    let logs = jobs
        .iter()
        .take_while(|job| superblocks(&[**job]) != [(0b01, 0b10, 0)]);
    let logs = logs.filter(|job| matches!(job, Job::Log { .. }));
    assert_eq!(logs.count(), 2, "{jobs:?}");
    let told = jobs.iter().find(|job| match job {
        Job::Superblock { copies, .. } => copies & 0b10 != 0,
        _ => false,
    });
    assert_eq!(
        told.map(|job| superblocks(&[*job])),
        Some(vec![(0b01, 0b10, 0)])
    );
}

#[test]
fn a_log_write_counts_when_all_have_it_that_count() {
    let mut core = running(0b11, 0, 0);
    assert_eq!(core.request_begin(0, Extent::new(0, 1)), Begin::Wait);
    assert!(matches!(core.next_job(), Some(Job::Log { .. })));
    core.job_done(0b10);
    assert_eq!(core.in_sync(), 0b10);
    assert!(
        core.next_ready().is_none(),
        "a crash could believe the other one"
    );
    let jobs = work(&mut core);
    assert_eq!(superblocks(&jobs[..1])[0].0, 0b10);
    assert!(matches!(jobs[1], Job::Log { .. }));
    assert_eq!(core.next_ready(), Some((0, 0b10)));
}

#[test]
fn the_end_notes_who_failed() {
    let mut core = running(0b11, 0, 0);
    core.stop();
    let last = |job: Job| superblock(&job).is_some_and(|(_, states)| !states.running);
    while !core.next_job().is_some_and(last) {
        core.job_done(Mask::MAX);
    }
    core.job_done(0b01);
    assert!(!core.is_stopped());
    let jobs = work(&mut core);
    assert!(core.is_stopped());
    assert_eq!(superblocks(&jobs).last(), Some(&(0b01, 0, 0b10)));
}

#[test]
fn a_copy_counts_when_its_log_is_complete() {
    let mut core = running(0b01, 0, 0b10);
    assert!(core.back(1, false));
    // It lacks nothing but the log, which nobody waits for.
    assert_eq!(superblocks(&work(&mut core)), [(0b01, 0b10, 0)]);
    core.tick();
    let jobs = work(&mut core);
    assert!(
        matches!(jobs[..2], [Job::Log { .. }, Job::Log { .. }]),
        "{jobs:?}"
    );
    // It is told when the other one is.
    assert_eq!(superblocks(&jobs), [(0b11, 0, 0); 2]);
}

#[test]
fn a_copy_is_told_that_it_counts_when_the_others_know_it() {
    let mut core = running(0b11, 0, 0b100);
    assert!(core.back(2, false));
    work_until(&mut core, |job| tells(job, 0b011, 0b111));
    // What is acknowledged from now on it must have: a crash may make it one of those that are believed.
    assert_eq!(core.request_begin(0, Extent::new(0, 1)), Begin::Wait);
    core.job_done(0b011);
    assert_eq!(core.in_sync(), 0b011, "it does not say so itself");
    let job = core.next_job().expect("it is told, too");
    assert!(tells(&job, 0b111, 0b111));
    core.job_done(0b111);
    assert_eq!(core.in_sync(), 0b111);
}

#[test]
fn a_copy_that_fails_when_it_is_told_does_not_count() {
    let mut core = running(0b01, 0, 0b10);
    assert!(core.back(1, false));
    work_until(&mut core, |job| tells(job, 0b11, 0b11));
    core.job_done(0b01);
    assert_eq!((core.in_sync(), core.attached()), (0b01, 0b01));
    let job = core.next_job().and_then(|job| superblock(&job));
    let (_, states) = job.expect("it may have got it: the superblocks say that it is away");
    assert_eq!((states.in_sync, states.missing), (0b01, 0b10));
    assert!(states.rename);
}

#[test]
fn what_a_removed_copy_lacks_is_in_the_log_until_nobody_knows_it() {
    let mut core = core(0b001, 0b010, 0);
    core.load(0, WRITTEN | ACTIVE | 0b010);
    core.begin(Some(0), 0);
    let Some(Job::Log { block: 0, .. }) = core.next_job() else {
        panic!("after a crash the log comes first");
    };
    core.job_done(0b011);
    assert!(core.remove(1));
    // The log is written anew, but the superblocks still name it.
    let mut log = None;
    while let Some(job) = core.next_job() {
        match job {
            Job::Log { block: 0, .. } => log = Some(core.entry(0, 0)),
            Job::Superblock { .. } => break,
            _ => {}
        }
        core.job_done(0b001);
    }
    assert_eq!(core.stale_sectors(1), REGION, "{log:?}");
    assert!(!core.add(1), "its place is not free yet");
    assert!(!core.is_free(1) && core.is_free(2) && !core.is_free(16));
    core.job_done(0b001);
    assert_eq!(core.stale_sectors(1), 0);
    assert!(core.is_free(1));
    assert!(core.add(1));
}

#[test]
fn a_copy_counts_when_those_that_counted_know_it() {
    let mut core = running(0b01, 0, 0b10);
    assert!(core.back(1, false));
    let promotes = |job: &Job| superblock(job).is_some_and(|(_, states)| states.in_sync == 0b11);
    work_until(&mut core, promotes);
    // The one that was in sync fails: alone, it would believe that nobody else is.
    core.job_done(0b00);
    assert_eq!(core.in_sync(), 0b01, "it can't leave");
    core.tick();
    work(&mut core);
    core.tick();
    work(&mut core);
    assert_eq!(core.in_sync(), 0b11);
}

/// Does jobs until one is given that is wanted.
fn work_until(core: &mut Core, wanted: impl Fn(&Job) -> bool) {
    for _ in 0..20 {
        match core.next_job() {
            Some(job) if wanted(&job) => return,
            Some(_) => core.job_done(Mask::MAX),
            None => core.tick(),
        }
    }
    panic!("it never comes");
}

#[test]
fn what_a_copy_has_already_is_not_copied_again() {
    for (have, regions) in [(0, 0), (REGION - 1, 0), (REGION, 1), (2 * REGION + 1, 2)] {
        let mut core = core(0b01, 0b10, 0);
        core.lack_from(1, have);
        core.begin(None, 0);
        assert_eq!(core.complete_to(1), regions * REGION);
        let all = core.stale_sectors(1);
        core.lack_all(1);
        assert_eq!(core.stale_sectors(1), all + regions * REGION);
    }
    // It loses something before that: only what lies before is complete.
    let mut core = core(0b01, 0b10, 0);
    core.ask_first(0b10);
    core.lack_from(1, 3 * REGION);
    core.begin(None, 0);
    work(&mut core);
    assert_eq!(core.complete_to(1), 3 * REGION);
    core.leave(1);
    work(&mut core);
    write(&mut core, 0, REGION);
    assert_eq!(core.complete_to(1), REGION);
    // What the other one may lose with its power does not count, either.
    write(&mut core, 0, 0);
    assert_eq!(core.complete_to(1), 0);
    // All of it.
    assert!(core.back(1, false));
    for _ in 0..8 {
        heal(&mut core);
        work(&mut core);
    }
    assert_eq!(core.asks(), 0b10);
    core.stop();
    for _ in 0..20 {
        work(&mut core);
    }
    assert!(core.is_stopped());
    assert_eq!(core.complete_to(1), 4 * REGION);
}

#[test]
fn a_copy_that_has_to_ask_counts_when_somebody_agrees() {
    let mut core = core(0b01, 0b10, 0);
    core.ask_first(0b10);
    core.lack_all(1);
    core.begin(None, 0b10);
    work(&mut core);
    heal(&mut core);
    for _ in 0..4 {
        heal(&mut core);
        work(&mut core);
    }
    assert_eq!((core.asks(), core.in_sync()), (0b10, 0b01));
    // Meanwhile requests go on, and wait for the log as ever.
    write(&mut core, 0, 3 * REGION);
    assert_eq!(superblocks(&work(&mut core)), []);
    assert_eq!(core.asks(), 0b10);
    core.agree(1);
    assert_eq!(core.asks(), 0);
    let jobs = work(&mut core);
    assert_eq!(superblocks(&jobs).first(), Some(&(0b11, 0, 0)));
    assert_eq!(core.in_sync(), 0b11);
    // It has to ask each time.
    assert!(core.leave(1));
    assert_eq!(superblocks(&work(&mut core)), [(0b01, 0, 0b10)]);
    assert!(core.back(1, false));
    for _ in 0..4 {
        heal(&mut core);
        work(&mut core);
    }
    assert_eq!((core.asks(), core.in_sync()), (0b10, 0b01));
    // What was agreed to is void when it leaves before that has had its effect.
    core.agree(1);
    assert!(core.leave(1));
    work(&mut core);
    assert!(core.back(1, false));
    for _ in 0..4 {
        heal(&mut core);
        work(&mut core);
    }
    assert_eq!((core.asks(), core.in_sync()), (0b10, 0b01));
}

#[test]
fn what_a_copy_lacks_that_may_count_waits_for_the_superblocks() {
    let mut core = core(0b01, 0b10, 0);
    core.ask_first(0b10);
    core.begin(None, 0);
    work(&mut core);
    for _ in 0..4 {
        heal(&mut core);
        work(&mut core);
    }
    assert_eq!(core.asks(), 0b10);
    assert!(core.may_count(1));
    let mask = go(&mut core, 0, 0);
    assert_eq!(mask, 0b11);
    assert_eq!(core.request_end(0, 0b01), End::Wait);
    assert!(!core.back(1, false), "a crash could believe it");
    assert!(!core.may_count(1), "it has left");
    let job = core
        .next_job()
        .expect("the superblocks must say that it is away");
    assert!(tells(&job, 0b01, 0b01));
    assert_eq!(core.next_ended(), None);
    // They can't be written: the write fails. Later they can.
    core.job_done(0);
    assert_eq!(core.next_ended(), Some((0, false)));
    assert!(!core.back(1, false), "a crash could believe it");
    core.tick();
    assert_eq!(superblocks(&work(&mut core)), [(0b01, 0, 0b10)]);
    assert!(core.back(1, false));
}
