//! The decision table: situations with the document that must come of them, by the numbers that they have in the behaviour
//! that this sentinel keeps (0 to 31), and further scenarios (A1 to A30). Rows that stand elsewhere are named here.
//!
//! | Row | Test |
//! |---|---|
//! | 0 | `initialise::without_keepers_nobody_is_chosen_and_the_reason_is_said` |
//! | 1, 2 | `initialise::the_first_keeper_makes_the_first_instance` |
//! | 3 | `initialise::a_first_instance_that_is_not_made_in_time_is_given_up` |
//! | 4 | `failover::nothing_changes_while_all_is_well` |
//! | 5 | `failover::a_standby_takes_over_from_a_dead_primary`, with a silent keeper too |
//! | 6 | `failover::afterwards_the_old_primary_is_made_anew_and_clients_are_let_in` |
//! | 7 | `failover::who_was_never_complete_is_not_elected` |
//! | 8 | `more::a_primary_that_does_not_converge_is_replaced_like_one_that_is_dead` |
//! | 9, 12 | `standbys::a_free_keeper_is_left_alone_while_there_are_enough_standbys` |
//! | 14 | `synchronous::specification_values_reach_every_instance` |
//! | 15, 28 | `more::who_follows_an_asynchronous_primary_begins_synchronous_mode_blocked_unless_none_is_demanded` |
//! | 16 | `synchronous::synchronous_mode_begins_with_the_standby_that_is_there` (what the row's caption promises) |
//! | 17, 20, 24, 25, 27 | `synchronous::only_those_that_hold_every_commit_are_elected` |
//! | 18, 19, 21, 22, 30 | `synchronous::the_set_of_standbys_to_wait_for` |
//! | 26, A23 | `synchronous::who_may_not_be_synchronous_is_not_added_but_may_stay` |
//! | 10, 11, 13, 23, 29, 31 | here |
//! | active proxies, five cases | `proxies::what_is_remembered_of_proxies` |
//! | A1 | `failover::the_one_that_is_furthest_ahead_is_elected` |
//! | A2, A6 | `synchronous::of_several_synchronous_standbys_the_best_is_elected`, `…a_dead_synchronous_primary_stays_synchronous` |
//! | A3, A4, A5 | `failover::the_lag_limit_…`, `failover::only_the_same_timeline_is_electable` |
//! | A7, A8 | `standbys::more_standbys_than_wanted_are_no_reason_for_more`, `…slow_standbys_are_not_made_again_and_again` |
//! | A9, A10, A20 | `rounds::a_new_sentinel_decides_nothing_…`, `…an_outage_of_the_store_…`, `…a_refused_write_loses_nothing` |
//! | A11, A15 | `proxies::without_proxies_the_generation_stands_still`, `…an_election_while_proxies_are_closed_…` |
//! | A12, A13 | `failover::an_instance_without_keeper_has_failed`, `…without_a_timer_nothing_has_failed` |
//! | A16, A17, A21 | `standbys::a_standby_that_lacks_wal_is_made_anew`, `…copies_of_something_else_…`, `…of_too_many_the_worst_goes_…` |
//! | A18 | `timeline::tests::branches_differ_as_their_histories_do` |
//! | A22, A24, A27, A28, A29 | `more` |
//! | A14, A19, A25, A26 | here |
//! | A30 | `documents` of the conformance suite of stores: a stored `null` is no document, and is replaced |
//!
//! Defects of Stolon that are mended, with the test that fails without it:
//!
//! | Defect | Test |
//! |---|---|
//! | of several standbys the one furthest behind is taken | A1, A2, `synchronous::the_newcomer_is_the_one_that_is_furthest_ahead` |
//! | the limit of lag is ignored while synchronous mode is wanted and not reached | A3 |
//! | a standby counts as synchronous while it lags | `admission`, and end to end `acknowledged_commits` |
//! | more standbys than wanted make one on every free keeper | A7 |
//! | copies under way do not count, so that more are begun | A8 |
//! | a new leader acts on what another one stored | A9 |
//! | an outage of the store counts as silence of the keepers | A10 |
//! | what was learned is lost with a write that is refused | A20 |
//! | an instance of which nothing is remembered is a crash | A13 |
//! | without proxies their generation grows for ever | A11 |
//! | the first primary is made anywhere | `initialise::a_keeper_that_may_be_primary_is_preferred` |
//! | an election of leaders is over after an error | `elections` of the conformance suite, and `etcd` |
//! | a primary that does not converge is replaced back and forth | `failover::a_primary_that_cannot_do_what_is_asked_…` |
//! | a standby is promoted while proxies forward to the old primary | `failover::proxies_are_closed_before_the_promotion` |
//! | proxies open before the promotion | `proxies::proxies_open_when_the_primary_is_ready_…` |
//! | documents that contradict themselves are a crash | A12, `initialise::what_is_not_understood_is_left_alone`, `corners::a_document_that_contradicts_itself_…` |
//! | a proxy forwards on what it read long ago | `forwarding` of the proxy |
//! | who is surplus is a matter of chance | `synchronous::when_the_maximum_is_lowered_the_best_stays`, A21 |
//! | stolonctl gives up after one conditional write | `stored_cluster` of stolonctl |
//! | keepers are not registered when nobody can be chosen | `initialise::keepers_are_registered_although_nobody_is_chosen` |
//!
//! Kept: nobody else is elected before a new synchronous primary has reported
//! (`synchronous::after_an_election_nobody_else_is_elected_before_the_new_primary_reports`), and the default limit of lag (A4).

use std::sync::Arc;
use std::time::Duration;

use stolon_core::sentinel::{Change, Hold, Memory, RemovalReason};
use stolon_model::*;

use crate::world::*;

/// A standby of db1 that its keeper is to make.
fn new_standby(number: usize) -> Instance {
    let mut spec = World::normal(1, 1).db(1).spec.clone();
    spec.keeper_uid = keeper_uid(number);
    spec.init_mode = Some(InstanceInitMode::Resync);
    spec.role = Some(Role::Standby);
    spec.follow_config = Some(FollowConfig::internal(uid(1)));
    spec.followers = Some(Vec::new());
    Instance { uid: uid(number), generation: 1, spec, ..Instance::default() }
}

#[test]
fn row_10_a_standby_that_does_not_come_gets_a_companion() {
    World::normal(3, 2)
        .given(|world| {
            world.data.cluster.spec.max_standbys_per_sender = Some(1);
            world.db(2).status.current_generation = 0;
        })
        .with_old_timers()
        .expect("row 10", |world| {
            world.data.instances.insert(uid(3), new_standby(3));
            world.db(1).spec.followers = uids(&[2, 3]);
            world.db(1).generation = 2;
        });
}

#[test]
fn row_11_the_one_that_did_not_come_is_given_up() {
    World::normal(3, 3)
        .given(|world| {
            world.data.cluster.spec.max_standbys_per_sender = Some(1);
            world.db(1).generation = 2;
            world.db(1).status.current_generation = 2;
            world.db(2).status.current_generation = 0;
        })
        .with_old_timers()
        .expect("row 11", |world| {
            world.data.instances.remove(&uid(2));
            world.db(1).spec.followers = uids(&[3]);
            world.db(1).generation = 3;
        });
}

#[test]
fn row_13_a_keeper_that_is_dead_for_days_is_forgotten_with_its_place_among_the_followers() {
    World::normal(2, 1)
        .given(|world| {
            world.silence_keeper(2);
            world.keeper(2).status.last_healthy_time = "2026-11-18T04:00:00Z".parse().unwrap();
            world.db(1).spec.followers = uids(&[2]);
        })
        .expect("row 13", |world| {
            world.data.keepers.remove(&keeper_uid(2));
            world.db(1).spec.followers = uids(&[]);
            world.db(1).generation = 2;
        });
}

#[test]
fn row_23_the_bad_one_goes_once_the_good_one_is_known_to_be_in_sync() {
    World::synchronous(3, &[2, 3], &[2, 3])
        .given(|world| {
            world.in_sync.insert(uid(1), vec![uid(3)]);
            world.break_db(2);
        })
        .expect("row 23", |world| {
            world.db(1).spec.synchronous_standbys = uids(&[3]);
            world.db(1).status.synchronous_standbys = uids(&[3]);
            world.db(1).generation = 2;
        });
}

#[test]
fn row_29_demanding_nobody_does_not_change_who_is_electable() {
    World::synchronous(2, &[2], &[2])
        .given(|world| {
            world.data.cluster.spec.min_synchronous_standbys = Some(0);
            world.break_db(1);
        })
        .expect("row 29", |world| {
            elected(world, 1, 2);
            let new = world.db(2);
            new.spec.synchronous_replication = true;
            new.spec.synchronous_standbys = uids(&[1]);
            new.spec.external_synchronous_standbys = Some(Vec::new());
        });
}

#[test]
fn row_31_who_demands_nobody_is_not_blocked_for_want_of_somebody() {
    World::synchronous(2, &[], &[])
        .given(|world| {
            world.data.cluster.spec.min_synchronous_standbys = Some(0);
            world.keeper(2).status.can_be_synchronous_replica = Some(false);
            world.db(1).spec.external_synchronous_standbys = Some(vec![FAKE_STANDBY.to_owned()]);
        })
        .expect("row 31", |world| {
            world.db(1).spec.external_synchronous_standbys = Some(Vec::new());
            world.db(1).generation = 2;
        });
}

/// Stolon lets clients in at once. They would only meet a primary that does not work.
#[test]
fn a14_proxies_wait_for_a_primary_that_works() {
    let mut world = World::normal(1, 1).given(|world| {
        world.data.proxy.spec.primary = None;
        world.proxy("p1", 1);
        world.break_db(1);
    });
    let decision = world.round();
    assert_eq!(world.data.proxy.spec.primary, None);
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::NotOpened { .. })), "{:?}", decision.holds);
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::NoEligibleStandby { .. })));
}

#[test]
fn a19_a_standby_of_an_unknown_system_may_be_ours_but_one_of_a_known_system_is_not() {
    for (primary, standby, removed) in
        [("1", "2", true), ("1", "", false), ("", "2", true), ("1", "1", false)]
    {
        let mut world = World::normal(2, 2).given(|world| {
            world.db(1).status.system_identifier = primary.into();
            world.db(2).status.system_identifier = standby.into();
        });
        let decision = world.round();
        let is_removed = decision.changes.iter().any(|change| {
            matches!(change, Change::InstanceRemoved { because: RemovalReason::OtherSystem, .. })
        });
        assert_eq!(is_removed, removed, "primary {primary:?}, standby {standby:?}");
    }
}

/// A report counts for one sleep interval; only a new one proves life.
#[test]
fn a25_only_a_new_report_proves_life() {
    let mut world = World::normal(2, 2);
    world.data.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(5));
    let reports = world.current_reports();
    world.round_on(&reports);
    let is_troubled = |world: &World| world.memory.trouble.contains_key(&uid(1));
    for (milliseconds, troubled) in [(0, false), (2000, false), (2000, false), (1500, true)] {
        world.later(milliseconds).round_on(&reports);
        assert_eq!(is_troubled(&world), troubled, "after {milliseconds} ms more");
    }
    world.later(100).round();
    assert!(!is_troubled(&world), "a new report");

    // A new leader knows nothing of life in its first round, and believes no old report in its second.
    let reports = world.current_reports();
    world.memory = Memory::default();
    world.later(100).round_on(&reports);
    assert!(!is_troubled(&world), "first round");
    world.later(100).round_on(&reports);
    assert!(is_troubled(&world), "second round");
    world.later(100).round();
    assert!(!is_troubled(&world));
}

/// However long the backup takes.
#[test]
fn a26_a_standby_cluster_is_restored_from_a_backup() {
    let mut world = World::initializing(1).given(|world| {
        let spec = &mut world.data.cluster.spec;
        spec.init_mode = Some(InitMode::PointInTimeRecovery);
        spec.pitr_config =
            Some(PitrConfig { data_restore_command: "restore %d".into(), ..PitrConfig::default() });
        spec.role = Some(Role::Standby);
        spec.standby_config = Some(StandbyConfig::default());
        spec.pg_parameters = Some([("old".to_owned(), "1".to_owned())].into());
        spec.merge_pg_parameters = Some(true);
    });
    world.round();
    let first = world.db(1).spec.clone();
    assert_eq!(
        (first.role, first.init_mode),
        (Some(Role::Standby), Some(InstanceInitMode::PointInTimeRecovery))
    );
    assert_eq!(first.follow_config.unwrap().follow_type, Some(FollowType::External));
    world.now += Duration::from_secs(100_000);
    let mut world = world.with_old_timers();
    world.round();
    assert_eq!(world.data.instances.len(), 1, "it never takes too long");

    world.converge();
    world.break_db(1);
    world.later(100).round();
    assert_eq!(world.data.cluster.status.phase, Some(Phase::Initializing), "it does not work yet");
    world.down.clear();
    world.converge();
    world.db(1).status.pg_parameters =
        Some(Arc::new([("max_connections".to_owned(), "300".to_owned())].into()));
    world.later(100).round();
    assert_eq!(world.data.cluster.status.phase, Some(Phase::Normal));
    let parameters = world.data.cluster.spec.pg_parameters.clone().unwrap();
    assert_eq!(parameters, [("max_connections".to_owned(), "300".to_owned())].into(), "replaced");
}
