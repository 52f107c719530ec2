//! Planned changes of the primary: each stage, and what ends one (docs: design/007-hand-over.md).

use std::collections::BTreeMap;

use stolon_core::sentinel::{Change, Decision, Obstacle, PrimaryFault, Rejection, Unfit, fitness};
use stolon_model::*;

use crate::world::*;

/// What keepers answer, and know.
#[derive(Clone, Default)]
struct Answers {
    of: BTreeMap<KeeperUid, SwitchoverReport>,
    old: Vec<KeeperUid>,
    leaving: Vec<KeeperUid>,
    receives_nothing: Vec<KeeperUid>,
}

fn ask(world: &mut World, change: impl FnOnce(&mut Switchover)) {
    let mut record = Switchover {
        uid: "s1".to_owned(),
        from: world.data.cluster.status.primary.clone(),
        made_for: wall(world.wall_seconds),
        timeout: GoDuration::from_seconds(60),
        ..Switchover::default()
    };
    change(&mut record);
    world.data.cluster.status.switchover = Some(record);
}

fn record(world: &World) -> Switchover {
    world.data.cluster.status.switchover.clone().unwrap()
}

fn round(world: &mut World, answers: &Answers) -> Decision {
    let mut reports = world.current_reports();
    for (keeper, report) in &mut reports {
        let activity = report.activity.as_mut().unwrap();
        activity.hands_over = !answers.old.contains(keeper);
        activity.leaving = answers.leaving.contains(keeper);
        if answers.receives_nothing.contains(keeper) {
            activity.replication_problem = "no route".to_owned();
        }
        activity.switchover = answers.of.get(keeper).cloned();
        report.boot_uuid = "boot1".into();
    }
    world.later(200).round_on(&reports)
}

fn says(answers: &mut Answers, keeper: usize, change: impl FnOnce(&mut SwitchoverReport)) {
    let answer = answers.of.entry(keeper_uid(keeper)).or_default();
    answer.uid = "s1".to_owned();
    change(answer);
}

/// As far as the stage before the last: the primary is asked to stop.
fn stopping(mut world: World) -> (World, Answers) {
    let mut answers = Answers::default();
    world.data.cluster.spec.fail_interval = Some(GoDuration::from_seconds(20));
    world.db(1).status.lsn = Lsn(1000);
    world.db(2).status.lsn = Lsn(900);
    round(&mut world, &answers);
    ask(&mut world, |_| ());
    round(&mut world, &answers);
    assert_eq!(record(&world).stage, Some(SwitchoverStage::Checkpoint), "{:?}", record(&world));
    says(&mut answers, 1, |answer| answer.checkpointed = true);
    round(&mut world, &answers);
    assert_eq!(record(&world).stage, Some(SwitchoverStage::Stopping), "there is no proxy");
    assert_eq!(world.data.proxy.spec.primary, None);
    world.down.insert(uid(1));
    (world, answers)
}

fn elections(decision: &Decision) -> Vec<&PrimaryFault> {
    let because = |change| match change {
        &Change::PrimaryElected { ref because, .. } => Some(because),
        _ => None,
    };
    decision.changes.iter().filter_map(because).collect()
}

#[track_caller]
fn assert_back(world: &World, outcome: SwitchoverOutcome, words: &str) {
    let record = record(world);
    assert_eq!(record.outcome, Some(outcome), "{record:?}");
    assert!(record.because.contains(words), "{record:?}");
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
}

#[test]
fn the_successor_is_elected_when_it_has_more_than_the_end_of_the_old_primary_in_either_mode() {
    for world in [World::normal(2, 2), World::synchronous(2, &[2], &[2])] {
        let (mut world, mut answers) = stopping(world);
        let held = round(&mut world, &answers);
        assert!(elections(&held).is_empty());
        says(&mut answers, 1, |answer| (answer.end, answer.checkpointed) = (Some(Lsn(1100)), false));
        for received in [None, Some(Lsn(1050)), Some(Lsn(1100))] {
            says(&mut answers, 2, |answer| answer.received = received);
            assert!(elections(&round(&mut world, &answers)).is_empty(), "{received:?} is not beyond the end");
            assert_eq!(record(&world).end, Some(Lsn(1100)));
        }
        says(&mut answers, 2, |answer| answer.received = Some(Lsn(1220)));
        let decision = round(&mut world, &answers);
        assert!(matches!(elections(&decision)[..], [PrimaryFault::HandedOver { .. }]));
        assert_eq!(record(&world).outcome, Some(SwitchoverOutcome::Done));
        assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
        assert_eq!(world.data.proxy.spec.primary, None, "clients come later");
        world.wall_seconds = 700;
        round(&mut world, &answers);
        assert_eq!(world.data.cluster.status.switchover, None, "shown for a while only");
    }
}

/// A planned change that is over says nothing of a primary that fails later. The old one waits, stopped, for as long as this one is healthy.
#[test]
fn a_successor_that_fails_later_stays_failed() {
    let (mut world, mut answers) = stopping(World::normal(2, 2));
    says(&mut answers, 1, |answer| (answer.end, answer.checkpointed) = (Some(Lsn(1100)), false));
    says(&mut answers, 2, |answer| answer.received = Some(Lsn(1220)));
    round(&mut world, &answers);
    assert_eq!(record(&world).outcome, Some(SwitchoverOutcome::Done));
    world.down.insert(uid(2));
    let has_failed = |world: &mut World| !world.db(2).status.healthy;
    for _ in 0..200 {
        if !has_failed(&mut world) {
            round(&mut world, &answers);
        }
    }
    assert!(has_failed(&mut world));
    for _ in 0..50 {
        round(&mut world, &answers);
        assert!(has_failed(&mut world), "it does not work again: {:?}", world.data.cluster.status);
    }
}

#[test]
fn proxies_are_waited_for_and_told_to_be_gentle() {
    let mut world = World::normal(2, 2);
    let mut answers = Answers::default();
    world.proxy("p1", 1);
    round(&mut world, &answers);
    ask(&mut world, |_| ());
    round(&mut world, &answers);
    says(&mut answers, 1, |answer| answer.checkpointed = true);
    round(&mut world, &answers);
    round(&mut world, &answers);
    assert_eq!(record(&world).stage, Some(SwitchoverStage::Closing));
    assert!(world.data.proxy.spec.handover.is_some());
    let generation = world.data.proxy.generation;
    world.proxy("p1", generation);
    round(&mut world, &answers);
    assert_eq!(record(&world).stage, Some(SwitchoverStage::Stopping));
}

#[test]
fn nobody_is_asked_who_is_not_fit_and_every_reason_is_told() {
    type Given = fn(&mut World, &mut Answers);
    let cases: [(&str, Given); 6] = [
        ("db2: its keeper knows no switchover", |_, answers| answers.old.push(keeper_uid(2))),
        ("the primary cannot hand over: its keeper knows no switchover", |_, answers| {
            answers.old.push(keeper_uid(1));
        }),
        ("db2: its keeper was told to end", |_, answers| answers.leaving.push(keeper_uid(2))),
        ("db2: its keeper was started with --can-be-master=false", |world, _| {
            world.keeper(2).status.can_be_primary = Some(false);
        }),
        ("db2: it is 20000000 bytes behind", |world, _| world.db(1).status.lsn = Lsn(20_000_000)),
        ("no db can take over", |world, _| {
            world.silent.insert(keeper_uid(2));
        }),
    ];
    for (words, given) in cases {
        let mut world = World::normal(2, 2);
        let mut answers = Answers::default();
        given(&mut world, &mut answers);
        round(&mut world, &answers);
        ask(&mut world, |_| ());
        for _ in 0..60 {
            let decision = round(&mut world, &answers);
            assert!(elections(&decision).is_empty(), "{words}");
        }
        assert_back(&world, SwitchoverOutcome::Refused, words);
        assert_eq!(world.data.proxy.spec.primary, Some(uid(1)), "clients notice nothing: {words}");
    }
}

#[test]
fn an_operator_gets_whom_they_want_or_nobody() {
    let mut world = World::normal(3, 3);
    let answers = Answers::default();
    world.db(2).status.lsn = Lsn(100);
    round(&mut world, &answers);
    ask(&mut world, |record| record.to = Some(keeper_uid(3)));
    round(&mut world, &answers);
    assert_eq!(record(&world).successor, Some(uid(3)), "although another one is further ahead");
    for (to, words) in [(keeper_uid(1), "has the primary already"), (keeper_uid(9), "has no db")] {
        ask(&mut world, |record| record.to = Some(to));
        round(&mut world, &answers);
        assert_back(&world, SwitchoverOutcome::Refused, words);
    }
}

#[test]
fn it_lapses_with_its_moment_and_with_its_primary() {
    let mut world = World::normal(2, 2);
    let answers = Answers::default();
    round(&mut world, &answers);
    ask(&mut world, |_| ());
    world.wall_seconds = 60;
    round(&mut world, &answers);
    assert_back(&world, SwitchoverOutcome::Lapsed, "no sentinel was at work");
    ask(&mut world, |record| record.from = Some(uid(2)));
    round(&mut world, &answers);
    assert_back(&world, SwitchoverOutcome::Lapsed, "another primary was elected");
}

/// Whatever ends it before the election: clients are sent to the old primary again once it works.
#[test]
fn everything_goes_back_before_the_election() {
    type Given = fn(&mut World, &mut Answers);
    let cases: [(&str, Given); 7] = [
        ("clients could not write for 10s", |_, _| ()),
        ("keeper2: it cannot", |_, answers| says(answers, 2, |answer| answer.trouble = "it cannot".into())),
        ("keeper1: not in order", |_, answers| {
            says(answers, 1, |answer| answer.trouble = "not in order".into());
        }),
        ("its host was set back", |_, answers| says(answers, 1, |answer| answer.end = Some(Lsn(800)))),
        ("stolonctl failkeeper", |world, _| world.keeper(1).status.force_fail = true),
        ("clients could not write", |_, answers| {
            // Of another one, and of another timeline.
            says(answers, 1, |answer| answer.end = Some(Lsn(1100)));
            says(answers, 2, |answer| {
                (answer.received, answer.timeline) = (Some(Lsn(2000)), Timeline(7));
            });
        }),
        ("clients could not write", |_, answers| {
            says(answers, 1, |answer| answer.end = Some(Lsn(1100)));
            says(answers, 2, |answer| (answer.received, answer.uid) = (Some(Lsn(2000)), "s0".into()));
        }),
    ];
    for (words, given) in cases {
        let (mut world, mut answers) = stopping(World::normal(2, 2));
        given(&mut world, &mut answers);
        for _ in 0..52 {
            let decision = round(&mut world, &answers);
            assert!(elections(&decision).is_empty() || words.contains("failkeeper"), "{words}");
            if record(&world).outcome.is_some() {
                break;
            }
        }
        if words.contains("failkeeper") {
            assert!(record(&world).because.contains(words), "{:?}", record(&world));
            continue;
        }
        assert_back(&world, SwitchoverOutcome::Failed, words);
        world.down.clear();
        world.later(2000);
        round(&mut world, &answers);
        round(&mut world, &answers);
        assert_eq!(world.data.proxy.spec.primary, Some(uid(1)), "{words}");
        assert_eq!(world.data.proxy.spec.handover, None);
    }
}

/// A primary that was stopped for this has its whole `failInterval` to start again.
#[test]
fn a_primary_that_was_stopped_in_vain_is_not_replaced_for_that() {
    let (mut world, answers) = stopping(World::normal(2, 2));
    for second in 0..28 {
        world.later(800);
        let decision = round(&mut world, &answers);
        assert!(elections(&decision).is_empty(), "after {second} s: {:?}", texts(&decision.changes));
    }
    assert_back(&world, SwitchoverOutcome::Failed, "clients could not write");
    for _ in 0..8 {
        world.later(800);
        round(&mut world, &answers);
    }
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)), "it has failed by now, as any other");
}

/// What was written down by a sentinel that is gone is gone on with; reports that were there before count for nothing.
#[test]
fn another_sentinel_goes_on_and_believes_no_report_that_was_there_before() {
    let (mut world, mut answers) = stopping(World::normal(2, 2));
    says(&mut answers, 1, |answer| answer.end = Some(Lsn(1100)));
    says(&mut answers, 2, |answer| answer.received = Some(Lsn(1220)));
    world.memory = stolon_core::sentinel::Memory::default();
    let mut reports = world.current_reports();
    for (keeper, report) in &mut reports {
        let activity = report.activity.as_mut().unwrap();
        activity.hands_over = true;
        activity.switchover = answers.of.get(keeper).cloned();
    }
    for _ in 0..5 {
        let decision = world.later(200).round_on(&reports);
        assert!(elections(&decision).is_empty(), "nobody has shown life");
    }
    let decision = round(&mut world, &answers);
    assert_eq!(elections(&decision).len(), 1, "{:?}", texts(&decision.holds));
}

#[test]
fn a_keeper_that_is_told_to_end_asks_once() {
    let mut world = World::normal(2, 2);
    let mut answers = Answers::default();
    round(&mut world, &answers);
    answers.leaving.push(keeper_uid(1));
    round(&mut world, &answers);
    let asked = record(&world);
    assert!(asked.leaving && asked.uid == "boot1", "{asked:?}");
    assert_eq!(asked.stage, Some(SwitchoverStage::Checkpoint));
    world.silent.insert(keeper_uid(2));
    for _ in 0..40 {
        world.later(800);
        round(&mut world, &answers);
    }
    assert_eq!(record(&world).outcome, Some(SwitchoverOutcome::Failed));
    let concluded = record(&world);
    round(&mut world, &answers);
    assert_eq!(record(&world), concluded, "it does not begin again");
    let mut alone = World::normal(1, 1);
    round(&mut alone, &answers);
    round(&mut alone, &answers);
    assert_back(&alone, SwitchoverOutcome::Refused, "there is no other one");
}

/// db2 is there and not fit, and the keeper of db1 is told to end.
fn told_to_end(mut world: World, given: impl FnOnce(&mut World, &mut Answers)) -> (World, Answers) {
    let mut answers = Answers::default();
    round(&mut world, &answers);
    given(&mut world, &mut answers);
    round(&mut world, &answers);
    answers.leaving.push(keeper_uid(1));
    round(&mut world, &answers);
    (world, answers)
}

/// What passes by itself is waited for as long as the keeper that asks waits, without a write, and the change begins with the report that shows it.
#[test]
fn a_keeper_that_is_told_to_end_waits_for_who_is_about_to_be_fit() {
    type Given = fn(&mut World, &mut Answers);
    let starts: Given = |world, _| {
        world.down.insert(uid(2));
    };
    let asynchronous: [(&str, Given, Given); 6] = [
        (
            "bytes behind",
            |world, _| world.db(1).status.lsn = Lsn(20_000_000),
            |world, _| {
                world.db(2).status.lsn = Lsn(19_999_990);
            },
        ),
        (
            "generation",
            |world, _| world.db(2).generation = 2,
            |world, _| {
                world.db(2).status.current_generation = 2;
            },
        ),
        ("does not work", starts, |world, _| world.down.clear()),
        (
            "never reported it as complete",
            |world, _| world.db(2).status.current_generation = 0,
            |world, _| {
                world.db(2).status.current_generation = 1;
            },
        ),
        (
            "timeline",
            |world, _| world.db(1).status.timeline = Timeline(2),
            |world, _| {
                world.db(2).status.timeline = world.db(1).status.timeline;
            },
        ),
        (
            "it receives no WAL",
            |_, answers| answers.receives_nothing.push(keeper_uid(2)),
            |_, answers| {
                answers.receives_nothing.clear();
            },
        ),
    ];
    for (words, given, passes) in asynchronous {
        let (mut world, mut answers) = told_to_end(World::normal(2, 2), given);
        let waits = record(&world);
        assert!(
            waits.is_open() && waits.stage.is_none() && waits.because.contains(words),
            "{words}: {waits:?}"
        );
        for _ in 0..40 {
            world.db(1).status.lsn.0 += 1;
            let decision = round(&mut world, &answers);
            assert!(decision.holds.iter().any(|hold| hold.to_string().contains(words)), "{words}");
            assert_eq!(record(&world), waits, "a record that is written again with each figure");
        }
        passes(&mut world, &mut answers);
        round(&mut world, &answers);
        let begun = record(&world);
        assert_eq!(begun.stage, Some(SwitchoverStage::Checkpoint), "{words}: {begun:?}");
        assert!(begun.because.is_empty(), "{begun:?}");
    }
    let (mut world, answers) = told_to_end(World::synchronous(3, &[3], &[3]), |_, answers| {
        answers.leaving.push(keeper_uid(3));
    });
    assert!(record(&world).because.contains("is not known to hold"), "{:?}", record(&world));
    world.db(1).spec.synchronous_standbys = uids(&[2]);
    world.db(1).status.synchronous_standbys = uids(&[2]);
    round(&mut world, &answers);
    assert_eq!(record(&world).stage, Some(SwitchoverStage::Checkpoint), "{:?}", record(&world));
}

/// What cannot pass is not waited for, whatever else may; and who has gone, or asked in another run, is not either.
#[test]
fn a_keeper_that_is_told_to_end_does_not_wait_for_what_never_comes() {
    type Given = fn(&mut World, &mut Answers);
    let cases: [(&str, Given); 6] = [
        ("can-be-master", |world, _| world.keeper(2).status.can_be_primary = Some(false)),
        ("priority", |world, _| world.keeper(2).status.failover_priority = Some(0)),
        ("told to end", |_, answers| answers.leaving.push(keeper_uid(2))),
        ("a keeper of Stolon's", |_, answers| answers.old.push(keeper_uid(2))),
        ("silent", |world, _| world.silence_keeper(2)),
        ("gone with its report", |world, _| {
            world.silent.insert(keeper_uid(2));
        }),
    ];
    for (case, given) in cases {
        let (world, _) = told_to_end(World::normal(2, 2), |world, answers| {
            world.db(1).status.lsn = Lsn(20_000_000);
            given(world, answers);
        });
        let refused = record(&world);
        assert_eq!(refused.outcome, Some(SwitchoverOutcome::Refused), "{case}: {refused:?}");
    }
    let (mut paused, answers) = told_to_end(World::normal(2, 2), |world, _| {
        world.db(1).status.lsn = Lsn(20_000_000);
    });
    let now = paused.wall_seconds;
    paused.data.cluster.pause =
        Some(Pause { since: wall(now), until: wall(now + 3_600), ..Pause::default() });
    round(&mut paused, &answers);
    assert_back(&paused, SwitchoverOutcome::Refused, "paused");
}

/// The store went back to when an earlier run of the keeper was told to end, or the run was killed while it waited.
#[test]
fn what_an_earlier_run_asked_for_lapses() {
    let (mut world, mut answers) = told_to_end(World::normal(2, 2), |world, _| {
        world.db(1).status.lsn = Lsn(20_000_000);
    });
    answers.leaving.clear();
    world.db(2).status.lsn = Lsn(20_000_000);
    round(&mut world, &answers);
    assert_back(&world, SwitchoverOutcome::Lapsed, "in an earlier run");
    ask(&mut world, |record| (record.leaving, record.uid) = (true, "boot0".into()));
    answers.leaving.push(keeper_uid(1));
    round(&mut world, &answers);
    assert_back(&world, SwitchoverOutcome::Lapsed, "in an earlier run");
    round(&mut world, &answers);
    assert_eq!(record(&world).uid, "boot1", "the run that leaves now asks for itself");
}

#[test]
fn a_primary_that_fails_by_itself_is_replaced_as_ever() {
    let mut world = World::normal(2, 2);
    let answers = Answers::default();
    round(&mut world, &answers);
    ask(&mut world, |_| ());
    round(&mut world, &answers);
    world.silent.insert(keeper_uid(1));
    let mut elected = 0;
    for _ in 0..40 {
        world.later(800);
        elected += elections(&round(&mut world, &answers)).len();
    }
    assert_eq!(elected, 1);
    assert_eq!(record(&world).outcome, Some(SwitchoverOutcome::Failed));
}

/// What `--dry-run` says is what a sentinel would do, by the same rules.
#[test]
fn a_dry_run_judges_as_the_sentinel_does() {
    let mut world = World::normal(3, 3);
    world.db(2).status.lsn = Lsn(50);
    let mut reports = world.current_reports();
    reports.values_mut().for_each(|report| report.activity.as_mut().unwrap().hands_over = true);
    let judge = |world: &World, reports: &BTreeMap<_, _>, to: Option<&KeeperUid>| {
        fitness(&world.data.clone().try_into().unwrap(), reports, to)
    };
    assert_eq!(judge(&world, &reports, None).unwrap().keeper, keeper_uid(2));
    assert_eq!(judge(&world, &reports, Some(&keeper_uid(3))).unwrap().keeper, keeper_uid(3));
    assert_eq!(judge(&world, &reports, Some(&keeper_uid(1))), Err(Obstacle::IsPrimary(keeper_uid(1))));
    reports.get_mut(&keeper_uid(3)).unwrap().activity.as_mut().unwrap().hands_over = false;
    let why = vec![
        (uid(2), Rejection::CannotHandOver(Unfit::NotWanted)),
        (uid(3), Rejection::CannotHandOver(Unfit::OldKeeper)),
    ];
    assert_eq!(judge(&world, &reports, Some(&keeper_uid(3))), Err(Obstacle::Nobody(why)));
    world.db(1).status.healthy = false;
    assert_eq!(judge(&world, &reports, None), Err(Obstacle::PrimaryNotReady));
}

/// The last thing that a keeper does that ends in good order.
#[test]
fn nobody_waits_for_a_keeper_that_has_taken_its_report_along() {
    for (keeper, words) in [(1, "the primary's keeper does not report"), (2, "its keeper was told to end")] {
        let (mut world, answers) = stopping(World::normal(2, 2));
        world.silent.insert(keeper_uid(keeper));
        round(&mut world, &answers);
        assert_back(&world, SwitchoverOutcome::Failed, words);
    }
    let mut world = World::normal(2, 2);
    let answers = Answers::default();
    round(&mut world, &answers);
    world.silent.insert(keeper_uid(2));
    ask(&mut world, |_| ());
    round(&mut world, &answers);
    assert_back(&world, SwitchoverOutcome::Refused, "its keeper was told to end");
}
