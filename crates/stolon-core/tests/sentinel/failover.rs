//! Replacing the primary in asynchronous mode.

use stolon_core::sentinel::{Change, Hold, PrimaryFault, Rejection};
use stolon_model::*;

use crate::world::*;

fn broken_primary(world: &mut World) {
    world.break_db(1);
}

#[test]
fn nothing_changes_while_all_is_well() {
    World::normal(2, 2).expect_unchanged("row 4");
}

#[test]
fn a_standby_takes_over_from_a_dead_primary() {
    World::normal(2, 2).given(broken_primary).expect("row 5", |world| elected(world, 1, 2));
    World::normal(2, 2)
        .given(|world| {
            world.silence_keeper(1);
            world.db(1).status.healthy = false;
        })
        .expect("keeper silent", |world| elected(world, 1, 2));
    World::normal(2, 2)
        .given(|world| world.db(1).status.current_generation = 5)
        .with_old_timers()
        .expect("convergence failed", |world| elected(world, 1, 2));
}

#[test]
fn afterwards_the_old_primary_is_made_anew_and_clients_are_let_in() {
    World::normal(2, 2)
        .given(|world| {
            world.data.cluster.status.primary = Some(uid(2));
            world.data.proxy.spec.primary = None;
            world.db(2).spec.role = Some(Role::Primary);
            world.db(2).spec.follow_config = None;
            world.db(2).generation = 2;
            world.db(2).status.current_generation = 2;
            world.db(1).spec.followers = Some(Vec::new());
            world.break_db(1);
        })
        .expect("row 6", |world| {
            let mut standby = world.data.instances.remove(&uid(1)).unwrap();
            standby.uid = uid(3);
            standby.spec.role = Some(Role::Standby);
            standby.spec.init_mode = Some(InstanceInitMode::Resync);
            standby.spec.follow_config = Some(FollowConfig::internal(uid(2)));
            standby.status = InstanceStatus::default();
            world.data.instances.insert(uid(3), standby);
            world.db(2).spec.followers = uids(&[3]);
            world.db(2).generation = 3;
            world.data.proxy.spec.primary = Some(uid(2));
            world.data.proxy.generation = 2;
        });
}

#[test]
fn who_was_never_complete_is_not_elected() {
    let mut world = World::normal(2, 2).given(|world| {
        world.break_db(1);
        world.db(2).status.current_generation = 0;
    });
    let before = without_times(&world.data);
    let decision = world.round();
    assert_eq!(without_times(&decision.next), before, "row 7");
    let Some(Hold::NoEligibleStandby { rejected, .. }) = decision.holds.first() else {
        panic!("{:?}", decision.holds)
    };
    assert_eq!(rejected, &[(uid(2), Rejection::NeverReported)]);
}

/// Stolon sorts the other way round and takes the one that is furthest behind.
#[test]
fn the_one_that_is_furthest_ahead_is_elected() {
    let mut world = World::normal(3, 3).given(|world| {
        world.break_db(1);
        world.db(1).status.lsn = Lsn(2000);
        world.db(2).status.lsn = Lsn(1500);
        world.db(3).status.lsn = Lsn(2000);
    });
    world.round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(3)));
}

#[test]
fn the_lag_limit_is_exact() {
    for (lag, electable) in [(1_232_896, true), (1_232_897, false)] {
        let mut world = World::normal(2, 2).given(|world| {
            world.break_db(1);
            world.db(1).status.lsn = Lsn(5_000_000);
            world.db(2).status.lsn = Lsn(5_000_000 - lag);
        });
        world.round();
        assert_eq!(world.data.cluster.status.primary == Some(uid(2)), electable, "lag {lag}");
    }
}

/// Synchronous mode is wanted but not reached: the lag limit still holds.
#[test]
fn the_lag_limit_holds_until_the_primary_itself_is_synchronous() {
    let mut world = World::normal(3, 3).given(|world| {
        world.data.cluster.spec.synchronous_replication = Some(true);
        world.break_db(1);
        world.db(1).status.lsn = Lsn(1 << 40);
        world.db(2).status.lsn = Lsn(5);
        world.db(3).status.lsn = Lsn(1 << 40);
    });
    world.round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(3)));
    let mut world = World::normal(2, 2).given(|world| {
        world.data.cluster.spec.synchronous_replication = Some(true);
        world.break_db(1);
        world.db(1).status.lsn = Lsn(1 << 40);
        world.db(2).status.lsn = Lsn(5);
    });
    world.round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)), "too far behind");
}

#[test]
fn only_the_same_timeline_is_electable() {
    for (timeline, electable) in [(1, false), (2, true), (3, false)] {
        let mut world = World::normal(2, 2).given(|world| {
            world.break_db(1);
            world.db(1).status.timeline = Timeline(2);
            world.db(2).status.timeline = Timeline(timeline);
        });
        world.round();
        assert_eq!(world.data.cluster.status.primary == Some(uid(2)), electable, "timeline {timeline}");
    }
}

#[test]
fn who_must_not_be_primary_is_not_elected() {
    World::normal(2, 2)
        .given(|world| {
            world.break_db(1);
            world.keeper(2).status.can_be_primary = Some(false);
        })
        .expect_unchanged("forbidden");
}

/// Clients are cut off before the promotion, so that nothing they are told is committed is lost.
#[test]
fn proxies_are_closed_before_the_promotion() {
    let mut world = World::normal(2, 2).given(|world| {
        world.proxy("p1", 1);
        world.data.proxy.spec.enabled_proxies = Some(vec!["p1".into()]);
        world.break_db(1);
    });
    let decision = world.round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)), "not yet");
    assert_eq!((world.data.proxy.spec.primary.clone(), world.data.proxy.generation), (None, 2));
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::AwaitingFence { .. })), "{:?}", decision.holds);
    let decision = world.later(100).round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)), "p1 has not said yet that it has closed");
    assert!(decision.wake_at.is_some(), "the wait has an end");
    world.proxy("p1", 2);
    world.later(100).round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
    assert_eq!((world.data.proxy.spec.primary.clone(), world.data.proxy.generation), (None, 2));
}

#[test]
fn a_proxy_that_says_nothing_delays_the_promotion_only_for_so_long() {
    let mut world = World::normal(2, 2).given(|world| {
        world.proxy("p1", 1);
        world.break_db(1);
    });
    for _ in 0..20 {
        world.later(1000).round();
    }
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
    assert_eq!(world.data.proxy.spec.primary, None, "but clients wait until it is known to have closed");
}

/// A13: an instance of which nothing is remembered has just begun to converge.
#[test]
fn without_a_timer_nothing_has_failed() {
    World::normal(2, 2)
        .given(|world| world.db(1).status.current_generation = 5)
        .expect_unchanged("converging");
}

/// A12: no crash.
#[test]
fn an_instance_without_keeper_has_failed() {
    World::normal(2, 2)
        .given(|world| {
            world.data.keepers.remove(&keeper_uid(1));
            world.silent.insert(keeper_uid(1));
        })
        .expect("A12", |world| {
            elected(world, 1, 2);
            world.db(1).status.healthy = false;
        });
}

/// 6.5: forced, once; in asynchronous mode the standby first gets all that the old primary has.
#[test]
fn a_forced_failure_loses_nothing() {
    let mut world = World::normal(2, 2).given(|world| {
        world.proxy("p1", 1);
        world.keeper(1).status.force_fail = true;
        world.db(1).status.lsn = Lsn(500);
        world.db(2).status.lsn = Lsn(400);
    });
    world.round();
    assert!(!world.keeper(1).status.force_fail, "consumed");
    world.later(100).round();
    assert_eq!(world.data.proxy.spec.primary, None);
    let generation = world.data.proxy.generation;
    world.proxy("p1", generation);
    world.db(1).status.lsn = Lsn(600);
    let decision = world.later(500).round();
    assert!(
        has_hold(&decision, |hold| matches!(hold, Hold::AwaitingCatchUp { lsn: Some(Lsn(600)), .. })),
        "{:?}",
        decision.holds
    );
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
    world.db(2).status.lsn = Lsn(600);
    world.later(500).round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
}

#[test]
fn a_forced_failure_without_successor_changes_nothing() {
    let mut world = World::normal(1, 1).given(|world| world.keeper(1).status.force_fail = true);
    let decision = world.round();
    assert!(has_hold(&decision, |hold| matches!(
        hold,
        Hold::NoEligibleStandby { because: PrimaryFault::ForcedByOperator { .. }, .. }
    )));
    assert!(!world.keeper(1).status.force_fail);
    assert!(world.memory.handover.is_none());
}

/// A specification that nobody can apply must not send the primary back and forth.
#[test]
fn a_primary_that_cannot_do_what_is_asked_is_not_replaced_again_and_again() {
    let mut world =
        World::normal(2, 2).given(|world| world.db(1).status.current_generation = 5).with_old_timers();
    let decision = world.round();
    let is_election = |change: &Change| matches!(change, Change::PrimaryElected { .. });
    assert!(decision.changes.iter().any(is_election));
    // Now db1 does what is asked of it, and could be elected; db2 does not. Its 30 seconds are over long before the pause is.
    world.db(1).status.current_generation = world.db(1).generation;
    for second in 1..=70 {
        let decision = world.later(1000).round();
        assert_eq!(decision.changes.iter().any(is_election), second == 61, "after {second} s");
    }
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
}

#[test]
fn the_head_of_a_standby_cluster_is_replaced_by_another_head() {
    let mut world = World::normal(2, 2).given(|world| {
        let spec = &mut world.data.cluster.spec;
        spec.init_mode = Some(InitMode::Existing);
        spec.existing_config = Some(ExistingConfig { keeper_uid: keeper_uid(1) });
        spec.role = Some(Role::Standby);
        spec.standby_config = Some(StandbyConfig::default());
        spec.synchronous_replication = Some(true);
        world.db(1).spec.role = Some(Role::Standby);
        let outside = FollowConfig { follow_type: Some(FollowType::External), ..FollowConfig::default() };
        world.db(1).spec.follow_config = Some(outside);
        world.break_db(1);
    });
    world.round();
    let head = world.db(2).spec.clone();
    assert_eq!(head.role, Some(Role::Standby));
    assert_eq!(head.follow_config.unwrap().follow_type, Some(FollowType::External));
    assert!(!head.synchronous_replication);
}

#[test]
fn a_standby_cluster_is_promoted_even_if_its_head_is_ill() {
    let mut world = World::normal(1, 1).given(|world| {
        world.db(1).spec.role = Some(Role::Standby);
        let outside = FollowConfig { follow_type: Some(FollowType::External), ..FollowConfig::default() };
        world.db(1).spec.follow_config = Some(outside);
        world.break_db(1);
    });
    let decision = world.round();
    assert!(decision.changes.iter().any(|change| matches!(change, Change::StandbyClusterPromoted { .. })));
    assert_eq!(
        (world.db(1).spec.role.clone(), world.db(1).spec.follow_config.clone()),
        (Some(Role::Primary), None)
    );
}
