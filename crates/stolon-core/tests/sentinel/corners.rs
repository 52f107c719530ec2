//! Corners where several rules meet, each with what went wrong there.

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_core::sentinel::{Change, Hold, Life, Memory, Standing};
use stolon_model::*;

use crate::world::*;

/// A standby that left the list and came back has missed what was acknowledged in between, so the position that it
/// had to reach the first time says nothing. Otherwise it could be elected and acknowledged commits were lost.
#[test]
fn a_standby_that_is_listed_again_must_catch_up_again() {
    let mut world = World::synchronous(3, &[2, 3], &[2]).given(|world| {
        world.data.cluster.spec.max_synchronous_standbys = Some(2);
        world.in_sync.insert(uid(1), uids(&[2, 3]).unwrap());
        world.db(1).status.lsn = Lsn(1000);
        world.db(2).status.lsn = Lsn(1000);
        world.db(3).status.lsn = Lsn(500);
    });
    world.round();
    world.later(1000).round();
    assert!(!world.memory.admissions.is_empty(), "its gate is 1000");
    // Its keeper is cut off, its PostgreSQL goes on streaming: it leaves the list.
    world.silence_keeper(3);
    world.later(1000).round();
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[2]));
    // What is acknowledged now it has only in part when it comes back.
    world.silent.clear();
    world.db(1).status.lsn = Lsn(9000);
    world.db(2).status.lsn = Lsn(9000);
    world.db(3).status.lsn = Lsn(1000);
    world.converge();
    world.later(1000).round();
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[2, 3]), "listed again");
    world.converge();
    world.later(1000).round();
    assert_eq!(world.db(1).status.synchronous_standbys, uids(&[2]));
    world.break_db(1);
    world.break_db(2);
    world.later(1000).round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)), "nobody that lacks commits is elected");
}

/// The records that were there when a sentinel began prove nothing, also when its first write was refused.
#[test]
fn a_refused_first_write_makes_nobody_alive() {
    let mut world = World::normal(2, 2);
    let (data, nothing) = (world.data.clone(), Memory::default());
    world.memory = nothing.clone();
    let reports = world.current_reports();
    let first = world.round_on(&reports);
    world.memory = first.memory_of_refused_write(&nothing);
    world.data = data;
    world.later(100).round_on(&reports);
    assert!(world.memory.keepers.values().all(|sighting| sighting.life == Life::Unproven));
}

/// A keeper that cannot make the first instance must not be chosen again and again while there are others.
#[test]
fn after_a_failed_initialisation_another_keeper_tries() {
    let mut world = World::initializing(3);
    for expected in [1, 2, 3, 1] {
        world.later(1000).round();
        let chosen = world.data.instances.values().next().unwrap();
        assert_eq!(chosen.spec.keeper_uid, keeper_uid(expected));
        world = world.with_old_timers();
        world.later(1000).round();
        assert!(world.data.instances.is_empty(), "given up");
    }
}

/// A change of the specification does not turn a base backup under way into a failure.
#[test]
fn a_first_copy_may_go_on_when_the_specification_changes() {
    let mut world = World::normal(5, 1).given(|world| {
        world.data.cluster.spec.max_standbys_per_sender = Some(1);
    });
    world.round();
    assert_eq!(world.data.instances.len(), 2);
    let parameters = BTreeMap::from([("work_mem".to_owned(), "8MB".to_owned())]);
    world.data.cluster.spec.pg_parameters = Some(parameters);
    for _ in 0..100 {
        world.later(1000).round();
        let generation = world.db(1).generation;
        world.db(1).status.current_generation = generation;
        assert_eq!(world.data.instances.len(), 2, "no second standby is begun");
    }
}

/// A follower that was frozen knows no more than a sentinel that was just started.
#[test]
fn who_takes_over_after_a_gap_begins_anew() {
    let mut world = World::normal(2, 2).given(|world| world.standing = Standing::Follower);
    world.round();
    world.standing = Standing::Leader;
    world.db(1).status.healthy = false;
    let decision = world.later(60_000).round();
    assert!(has_hold(&decision, |hold| *hold == Hold::FirstRound), "{:?}", decision.holds);
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
}

/// Positions are not written at once. What was reported last counts in an election all the same, or the second best
/// would win whenever the best one's report is a moment too old.
#[test]
fn last_words_count_in_an_election() {
    let mut world = World::normal(3, 3).given(|world| {
        world.data.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(1));
        world.data.cluster.spec.fail_interval = Some(GoDuration::from_seconds(5));
    });
    world.round();
    let stored = world.data.clone();
    world.db(1).status.lsn = Lsn(2000);
    world.db(2).status.lsn = Lsn(2000);
    world.db(3).status.lsn = Lsn(1500);
    let reports = world.current_reports();
    world.data = stored.clone();
    world.later(300).round_on(&reports);
    // That round had nothing to write but positions, so it wrote nothing.
    world.data = stored;
    world.break_db(1);
    world.db(3).status.lsn = Lsn(1500);
    let mut later = world.current_reports();
    later.insert(keeper_uid(2), reports[&keeper_uid(2)].clone());
    world.later(1100).round_on(&later);
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)), "it was at 2000, db3 at 1500");
}

/// A sentinel is not woken to find out that a report has merely become older than the sleep interval.
#[test]
fn nobody_wakes_for_the_age_of_a_report() {
    let mut world = World::normal(2, 2);
    let decision = world.round();
    let fail_interval = Duration::from_secs(20);
    assert!(decision.wake_at.unwrap() > world.now + fail_interval, "{:?}", decision.wake_at);
}

/// Operators use a forced failure against a primary that hangs: it has no end to wait for.
#[test]
fn a_forced_failure_of_a_primary_that_does_not_work_waits_for_no_position() {
    let mut world = World::normal(2, 2).given(|world| {
        world.proxy("p1", 1);
        world.break_db(1);
        world.keeper(1).status.force_fail = true;
    });
    world.round();
    world.later(100).round();
    assert_eq!(world.data.proxy.spec.primary, None);
    let generation = world.data.proxy.generation;
    world.proxy("p1", generation);
    world.later(200).round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
}

/// Clients can commit until the last proxy has closed: what the primary reports before is not its end.
#[test]
fn a_report_from_before_the_fence_is_not_the_end_of_the_old_primary() {
    let mut world = World::normal(2, 2).given(|world| {
        world.proxy("p1", 1);
        world.keeper(1).status.force_fail = true;
    });
    world.round();
    world.later(100).round();
    world.db(1).status.lsn = Lsn(600);
    world.db(2).status.lsn = Lsn(600);
    let reports = world.current_reports();
    world.later(300).round_on(&reports);
    let generation = world.data.proxy.generation;
    world.proxy("p1", generation);
    let decision = world.later(300).round_on(&reports);
    assert!(
        has_hold(&decision, |hold| matches!(hold, Hold::AwaitingCatchUp { lsn: None, .. })),
        "{:?}",
        decision.holds
    );
    let decision = world.later(300).round();
    assert!(decision.changes.iter().any(|change| matches!(change, Change::PrimaryElected { .. })));
}

/// The look that was under way when the last proxy closed may have been begun before, the one after it was not. That the primary's
/// reports are late at that moment changes nothing: its last one tells how many looks there were.
#[test]
fn a_late_report_makes_no_look_a_later_one() {
    for (looks_since, elected) in [(0, false), (1, false), (2, true)] {
        let mut world = World::normal(2, 2).given(|world| {
            world.proxy("p1", 1);
            world.keeper(1).status.force_fail = true;
        });
        world.round();
        world.later(100).round();
        let last = world.current_reports();
        world.later(100).round_on(&last);
        let decision = world.later(6000).round_on(&last);
        assert!(
            has_hold(&decision, |hold| matches!(hold, Hold::AwaitingFence { .. })),
            "{:?}",
            decision.holds
        );
        let looks = last[&keeper_uid(1)].activity.as_ref().unwrap().looks;
        world.proxy("p1", world.data.proxy.generation);
        let mut reports = world.current_reports();
        reports.get_mut(&keeper_uid(1)).unwrap().activity.as_mut().unwrap().looks = looks + looks_since;
        let decision = world.later(300).round_on(&reports);
        let is_election = |change: &Change| matches!(change, Change::PrimaryElected { .. });
        assert_eq!(decision.changes.iter().any(is_election), elected, "{looks_since}: {:?}", decision.holds);
    }
}

/// A document that contradicts itself is left as it is, keepers included.
#[test]
fn a_document_that_contradicts_itself_is_not_touched() {
    let mut world = World::normal(2, 1).given(|world| {
        world.data.cluster.status.primary = Some("gone".into());
        world.silence_keeper(2);
        world.keeper(2).status.last_healthy_time = Timestamp::ZERO;
        world.data.cluster.spec.max_standbys = Some(7);
    });
    let before = without_times(&world.data);
    let decision = world.round();
    assert_eq!(without_times(&decision.next), before);
    assert!(decision.changes.is_empty());
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::BrokenDocument { .. })));
}
