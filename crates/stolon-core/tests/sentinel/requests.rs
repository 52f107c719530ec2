//! What operators ask for, keepers that come back, primaries that crash or cannot do all that is asked.

use stolon_core::sentinel::{Change, Hold, Memory, PrimaryFault, Rejection, eligibility};
use stolon_model::*;

use crate::world::*;

fn request(world: &mut World, number: usize) {
    let primary = world.data.cluster.status.primary.clone();
    let status = &mut world.keeper(number).status;
    status.force_fail = true;
    status.fail_request =
        Some(FailRequest { uid: "r1".into(), primary, made_for: wall(0), ..FailRequest::default() });
}

fn outcome(world: &mut World, number: usize) -> Option<FailOutcome> {
    world.keeper(number).status.fail_request.as_ref().and_then(|request| request.outcome.clone())
}

fn elections(decision: &stolon_core::sentinel::Decision) -> usize {
    let is_election = |change: &&Change| matches!(change, Change::PrimaryElected { .. });
    decision.changes.iter().filter(is_election).count()
}

#[test]
fn a_request_is_carried_out_once_the_successor_has_shown_life_and_is_told() {
    let mut world = World::synchronous(2, &[2], &[2]).given(|world| request(world, 1));
    let decision = world.round();
    assert_eq!(elections(&decision), 0, "the standby's last report may be older than the request");
    assert!(!world.keeper(1).status.force_fail, "taken");
    let decision = world.later(500).round();
    assert_eq!(elections(&decision), 1);
    assert_eq!(outcome(&mut world, 1), Some(FailOutcome::Replaced));
    world.wall_seconds = 700;
    world.later(500).round();
    assert_eq!(world.keeper(1).status.fail_request, None, "shown for a while only");
}

/// The only standby was stopped one second before: a primary that works is not replaced by one that does not.
#[test]
fn a_standby_that_is_silent_since_the_request_is_not_elected() {
    let mut world = World::normal(2, 2);
    world.round();
    world.silent.insert(keeper_uid(2));
    request(&mut world, 1);
    let two_rounds = 2 * world.data.cluster.spec.effective().sleep_interval.as_secs();
    let mut told = None;
    for second in 0..14 {
        let decision = world.later(1000).round();
        assert_eq!(elections(&decision), 0);
        assert_eq!(world.data.proxy.spec.primary, Some(uid(1)), "clients notice nothing");
        told = told.or(outcome(&mut world, 1).map(|_| second));
    }
    assert_eq!(outcome(&mut world, 1), Some(FailOutcome::Nothing));
    assert!(told.is_some_and(|second| second <= two_rounds + 1), "told after {told:?} s");
    let because = &world.keeper(1).status.fail_request.clone().unwrap().because;
    assert!(because.contains("has not reported since the request"), "{because}");
    assert_eq!(world.memory.request, None);
}

#[test]
fn a_request_lapses_with_its_moment() {
    let mut late = World::synchronous(2, &[2], &[2]).given(|world| {
        request(world, 1);
        world.wall_seconds = 60;
    });
    late.round();
    late.later(500).round();
    assert_eq!(
        (outcome(&mut late, 1), late.data.cluster.status.primary.clone()),
        (Some(FailOutcome::Lapsed), Some(uid(1)))
    );
    let mut overtaken = World::synchronous(2, &[2], &[2]).given(|world| {
        request(world, 1);
        world.keeper(1).status.fail_request.as_mut().unwrap().primary = Some(uid(2));
    });
    overtaken.round();
    overtaken.later(500).round();
    assert_eq!(outcome(&mut overtaken, 1), Some(FailOutcome::Lapsed));
    assert_eq!(overtaken.data.cluster.status.primary, Some(uid(1)));
}

#[test]
fn a_request_about_a_standby_is_told_too() {
    let mut world = World::normal(2, 2).given(|world| request(world, 2));
    world.round();
    assert_eq!(outcome(&mut world, 2), Some(FailOutcome::Counted));
}

/// `removekeeper` right after the keeper's stop: its last report is no sign of life.
#[test]
fn a_removed_keeper_does_not_come_back_by_its_last_report() {
    let mut world =
        World::normal(3, 2).given(|world| world.data.cluster.spec.max_standbys_per_sender = Some(1));
    world.round();
    let reports = world.current_reports();
    world.later(300).round_on(&reports);
    world.data.keepers.remove(&keeper_uid(3));
    for _ in 0..5 {
        let decision = world.later(300).round_on(&reports);
        assert!(!world.data.keepers.contains_key(&keeper_uid(3)), "{:?}", texts(&decision.changes));
    }
    let mut newer = world.current_reports();
    let mut alive = reports[&keeper_uid(3)].clone();
    alive.info_uid = "new".into();
    newer.insert(keeper_uid(3), alive);
    world.later(300).round_on(&newer);
    assert!(world.data.keepers.contains_key(&keeper_uid(3)), "one that works joins again");
}

#[test]
fn a_forgotten_keeper_does_not_come_back_by_its_last_report() {
    let mut world =
        World::normal(3, 2).given(|world| world.data.cluster.spec.max_standbys_per_sender = Some(1));
    let reports = world.current_reports();
    world.round_on(&reports);
    for second in 0..60 {
        let mut now = world.current_reports();
        now.insert(keeper_uid(3), reports[&keeper_uid(3)].clone());
        world.later(1000).round_on(&now);
        // Two days pass on the clock of the wall.
        world.wall_seconds = if second > 30 { 9 * 3600 } else { second };
        world.data.cluster.spec.dead_keeper_removal_interval = Some(GoDuration::from_seconds(3600));
    }
    assert!(!world.data.keepers.contains_key(&keeper_uid(3)));
}

fn crashing(world: &mut World, number: usize, restarts: u32) -> Vec<String> {
    let mut reports = world.current_reports();
    reports.get_mut(&keeper_uid(number)).unwrap().activity.as_mut().unwrap().restarts = restarts;
    texts(&world.round_on(&reports).changes)
}

#[test]
fn a_primary_that_keeps_crashing_is_replaced_where_somebody_can() {
    for (restarts, replaced) in [(3, false), (4, true)] {
        let mut world = World::synchronous(2, &[2], &[2]);
        crashing(&mut world, 1, restarts);
        assert_eq!(world.data.cluster.status.primary == Some(uid(2)), replaced, "{restarts} restarts");
    }
    let mut alone = World::normal(1, 1);
    crashing(&mut alone, 1, 9);
    assert_eq!(alone.data.cluster.status.primary, Some(uid(1)));
    assert_eq!(alone.data.proxy.spec.primary, Some(uid(1)), "better a primary that crashes than none");
}

#[test]
fn a_standby_that_keeps_crashing_is_no_candidate() {
    let mut world = World::normal(2, 2).given(|world| world.break_db(1));
    crashing(&mut world, 2, 9);
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
}

/// A new sentinel counts nobody as failed yet, and the primary has to go at once.
#[test]
fn a_standby_that_has_shown_no_life_to_a_new_sentinel_does_not_take_over() {
    let mut world = World::normal(2, 2).given(|world| world.memory = Memory::default());
    // The last report of keeper2 is there still.
    let last_words = world.current_reports();
    world.round_on(&last_words);
    let mut reports = world.later(1000).current_reports();
    reports.get_mut(&keeper_uid(1)).unwrap().activity.as_mut().unwrap().restarts = 9;
    reports.insert(keeper_uid(2), last_words[&keeper_uid(2)].clone());
    let decision = world.round_on(&reports);
    assert!(
        has_hold(&decision, |hold| matches!(hold, Hold::NoEligibleStandby { rejected, .. }
            if *rejected == [(uid(2), Rejection::NotSeenYet)])),
        "{:?}",
        decision.holds
    );
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
    world.later(1000);
    crashing(&mut world, 1, 9);
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)), "keeper2 reports");
}

#[test]
fn a_slot_that_cannot_be_made_is_no_reason_to_replace_a_primary_that_works() {
    for hindrance in [Hindrance::Slot, Hindrance::StateFile] {
        let mut world =
            World::normal(2, 2).given(|world| world.db(1).status.current_generation = 5).with_old_timers();
        let mut reports = world.current_reports();
        reports.get_mut(&keeper_uid(1)).unwrap().activity.as_mut().unwrap().hindrance = Some(hindrance);
        let decision = world.round_on(&reports);
        assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
        assert!(has_hold(&decision, |hold| matches!(hold, Hold::Hindered { .. })), "{:?}", decision.holds);
    }
}

/// db1 was deposed by db2, which died before anybody was in sync with it: db2 has acknowledged nothing that db1 lacks.
fn second_failure() -> World {
    World::synchronous(2, &[2], &[2]).given(|world| {
        world.data.cluster.status.primary = Some(uid(2));
        world.data.proxy.spec.primary = None;
        let old = world.db(1);
        old.spec.followers = Some(Vec::new());
        let new = world.db(2);
        new.spec.role = Some(Role::Primary);
        new.spec.follow_config = None;
        new.spec.synchronous_replication = true;
        new.spec.synchronous_standbys = uids(&[1]);
        new.spec.external_synchronous_standbys = Some(Vec::new());
        new.status.synchronous_standbys = None;
        new.status.timeline = Timeline(2);
        world.db(1).status.timeline = Timeline(1);
        world.silence_keeper(2);
        world.db(2).status.healthy = false;
    })
}

#[test]
fn a_deposed_primary_that_its_dead_successor_waited_for_takes_over_again() {
    let mut world = second_failure();
    let decision = world.round();
    assert_eq!(elections(&decision), 1, "{:?}", decision.holds);
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[2]), "and waits for the other one in turn");
}

#[test]
fn a_deposed_primary_that_nobody_waited_for_does_not() {
    let mut world = second_failure().given(|world| world.db(2).spec.synchronous_standbys = uids(&[]));
    let decision = world.round();
    assert_eq!(elections(&decision), 0);
    let mut gone = second_failure().given(|world| world.break_db(1));
    assert_eq!(elections(&gone.round()), 0, "one that does not work cannot either");
}

#[test]
fn eligibility_says_what_an_election_would() {
    let mut world = World::normal(3, 3).given(|world| {
        world.break_db(1);
        world.db(1).status.lsn = Lsn(9_000_000);
        world.db(2).status.lsn = Lsn(9_000_000);
        world.db(3).status.lsn = Lsn(1);
    });
    let reports = world.current_reports();
    let cluster = world.data.clone().try_into().unwrap();
    let found = eligibility(&cluster, &reports);
    let rejections: Vec<_> = found.iter().map(|it| (it.instance.clone(), it.rejection.clone())).collect();
    let lag = Rejection::Lag { bytes: 8_999_999, limit: 1_232_896 };
    assert_eq!(rejections, [(uid(2), None), (uid(3), Some(lag))]);
    world.round_on(&reports);
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
}

#[test]
fn a_forced_failure_without_anybody_says_why() {
    let mut world = World::normal(1, 1).given(|world| request(world, 1));
    let decision = world.round();
    assert!(has_hold(&decision, |hold| matches!(
        hold,
        Hold::NoEligibleStandby { because: PrimaryFault::ForcedByOperator { .. }, .. }
    )));
    assert_eq!(outcome(&mut world, 1), Some(FailOutcome::Nothing));
}
