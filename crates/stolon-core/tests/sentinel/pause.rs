//! `stolonctl pause`: nobody is elected, nothing is removed, and what keeps commits going goes on.

use std::time::Duration;

use stolon_core::sentinel::{Change, Hold};
use stolon_model::*;

use crate::world::*;

/// For so many seconds from the beginning.
fn pause(seconds: i64) -> Option<Pause> {
    let (since, until) = (wall(0), wall(seconds));
    Some(Pause { since, until, operator: "ann@db1".to_owned(), reason: "new switches".to_owned() })
}

fn paused(mut world: World) -> World {
    world.data.cluster.pause = pause(60);
    world
}

/// A second later by all clocks.
fn seconds(world: &mut World, seconds: i64) -> &mut World {
    world.wall_seconds += seconds;
    world.now += Duration::from_secs(seconds as u64);
    world
}

/// A round in each of so many seconds: a sentinel that sees nothing for long judges nobody.
fn wait(world: &mut World, rounds: usize) {
    for _ in 0..rounds {
        seconds(world, 1).round();
    }
}

#[test]
fn a_primary_that_dies_is_replaced_when_the_pause_is_over_and_not_before() {
    let mut world = paused(World::synchronous(2, &[2], &[2]).given(|world| world.silence_keeper(1)));
    let decision = world.round();
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::Paused { .. })), "{:?}", decision.holds);
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::NotReplaced { .. })), "{:?}", decision.holds);
    wait(&mut world, 58);
    let decision = seconds(&mut world, 1).round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
    assert_eq!(decision.wake_at, Some(START + Duration::from_millis(60_001)), "the pause ends unasked");
    let decision = seconds(&mut world, 1).round();
    assert!(
        matches!(
            decision.changes.as_slice(),
            [Change::PauseLapsed { .. }, .., Change::PrimaryElected { .. }]
        ),
        "{:?}",
        texts(&decision.changes)
    );
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
    assert_eq!(world.data.cluster.pause, None, "nobody needs to know its time any more");
}

#[test]
fn a_pause_that_an_operator_ends_or_a_sentinel_of_stolon_drops_is_over_at_once() {
    let mut world = paused(World::synchronous(2, &[2], &[2]).given(|world| world.silence_keeper(1)));
    world.round();
    world.data.cluster.pause = None;
    seconds(&mut world, 1).round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
    assert_eq!(world.memory.pause, None);
}

/// The store went back in time, or the wall clock of this host was wrong by years.
#[test]
fn a_pause_holds_by_its_own_time_whatever_brings_it_back() {
    let dead = || World::synchronous(2, &[2], &[2]).given(|world| world.silence_keeper(1));
    let mut old = paused(dead());
    old.wall_seconds = 3_600;
    old.round();
    assert_eq!(old.data.cluster.status.primary, Some(uid(2)), "an old one lapsed long ago");

    let mut behind = paused(dead());
    behind.data.cluster.pause = pause(60).map(|it| Pause { since: wall(36_000), until: wall(36_060), ..it });
    behind.round();
    wait(&mut behind, 59);
    assert_eq!(behind.data.cluster.status.primary, Some(uid(1)));
    wait(&mut behind, 1);
    assert_eq!(behind.data.cluster.status.primary, Some(uid(2)), "it lasts no longer than it was meant to");
}

#[test]
fn no_instance_and_no_keeper_is_removed() {
    let dead = |world: &mut World| {
        // A former primary, a standby that is not needed, and a keeper that nobody has seen for years.
        world.data.cluster.spec.max_standbys_per_sender = Some(1);
        world.data.cluster.spec.dead_keeper_removal_interval = Some(GoDuration::from_seconds(1));
        world.db(2).spec.role = Some(Role::Primary);
        world.db(2).spec.follow_config = None;
        world.silence_keeper(5);
        world.keeper(5).status.last_healthy_time = Timestamp::ZERO;
    };
    let mut world = paused(World::normal(5, 4).given(dead));
    world.round();
    seconds(&mut world, 1).round();
    assert_eq!((world.data.instances.len(), world.data.keepers.len()), (4, 5));
    world.converge();
    wait(&mut world, 60);
    assert!(!world.data.instances.contains_key(&uid(2)), "the former primary goes when the pause is over");
    assert!(!world.data.keepers.contains_key(&keeper_uid(5)));
}

/// Commits would wait for a standby that is gone; another one takes its part.
#[test]
fn synchronous_standbys_are_exchanged_and_standbys_made() {
    let mut world = paused(World::synchronous(3, &[2], &[2]).given(|world| {
        world.data.keepers.insert(
            keeper_uid(4),
            Keeper { uid: keeper_uid(4), ..world.data.keepers[&keeper_uid(3)].clone() },
        );
        world.data.cluster.spec.max_standbys_per_sender = Some(3);
        world.break_db(2);
    }));
    let decision = world.round();
    assert!(
        decision.changes.iter().any(|change| matches!(change, Change::SynchronousSetChanged { .. })),
        "{:?}",
        texts(&decision.changes)
    );
    assert!(decision.changes.iter().any(|change| matches!(change, Change::StandbyAdded { .. })));
}

#[test]
fn a_request_to_fail_a_keeper_comes_to_nothing_also_when_it_was_under_way() {
    let asked = |world: &mut World| {
        let status = &mut world.keeper(1).status;
        status.force_fail = true;
        status.fail_request =
            Some(FailRequest { uid: "r1".into(), primary: Some(uid(1)), ..FailRequest::default() });
    };
    let outcome = |world: &mut World| world.keeper(1).status.fail_request.clone().unwrap();
    let mut late = paused(World::synchronous(2, &[2], &[2]).given(asked));
    late.round();
    assert_eq!(outcome(&mut late).outcome, Some(FailOutcome::Nothing));
    assert!(outcome(&mut late).because.contains("paused until"), "{}", outcome(&mut late).because);

    // The proxies are closed already.
    let mut early = World::normal(2, 2).given(|world| world.proxy("p1", 1)).given(asked);
    early.round();
    seconds(&mut early, 1).round();
    assert_eq!(early.data.proxy.spec.primary, None);
    early.data.cluster.pause = pause(60);
    seconds(&mut early, 1).round();
    assert_eq!(outcome(&mut early).outcome, Some(FailOutcome::Nothing));
    let generation = early.data.proxy.generation;
    early.proxy("p1", generation);
    seconds(&mut early, 1).round();
    assert_eq!(early.data.proxy.spec.primary, Some(uid(1)), "clients are let in again");
    assert_eq!(early.data.cluster.status.primary, Some(uid(1)));
    early.data.cluster.pause = None;
    seconds(&mut early, 1).round();
    assert_eq!(early.data.cluster.status.primary, Some(uid(1)), "the request does not come back");
}
