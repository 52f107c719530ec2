//! The first instance of a cluster.

use std::sync::Arc;

use stolon_core::sentinel::{Change, Hold};
use stolon_model::*;

use crate::world::*;

fn rich(world: &mut World) {
    let spec = &mut world.data.cluster.spec;
    spec.request_timeout = Some(GoDuration::from_seconds(20));
    spec.max_standbys = Some(40);
    spec.additional_wal_senders = Some(10);
    spec.use_pg_rewind = Some(true);
    spec.synchronous_replication = Some(true);
    spec.pg_parameters = Some([("param01".to_owned(), "value01".to_owned())].into());
}

#[test]
fn without_keepers_nobody_is_chosen_and_the_reason_is_said() {
    let mut world = World::initializing(0).given(rich);
    let before = without_times(&world.data);
    let decision = world.round();
    assert_eq!(without_times(&decision.next), before, "row 0");
    assert_eq!(texts(&decision.holds), ["cannot choose initial master: no keepers registered"]);
}

#[test]
fn the_first_keeper_makes_the_first_instance() {
    for keepers in [1, 2] {
        World::initializing(keepers).given(rich).expect("first instance", |world| {
            world.data.cluster.status.primary = Some(uid(1));
            let spec = InstanceSpec {
                keeper_uid: keeper_uid(1),
                request_timeout: GoDuration::from_seconds(20),
                max_standbys: 40,
                use_pg_rewind: true,
                additional_wal_senders: 10,
                init_mode: Some(InstanceInitMode::New),
                pg_parameters: Some(Arc::new([("param01".to_owned(), "value01".to_owned())].into())),
                role: Some(Role::Primary),
                followers: Some(Vec::new()),
                include_previous_config: true,
                ..InstanceSpec::default()
            };
            let instance = Instance { uid: uid(1), generation: 1, spec, ..Instance::default() };
            world.data.instances.insert(uid(1), instance);
        });
    }
}

/// A keeper that works and may be primary is preferred; any is better than none.
#[test]
fn a_keeper_that_may_be_primary_is_preferred() {
    let mut world = World::initializing(3).given(|world| {
        world.silence_keeper(1);
        world.keeper(2).status.can_be_primary = Some(false);
    });
    world.round();
    assert_eq!(world.db(1).spec.keeper_uid, keeper_uid(3));
    let mut world = World::initializing(1).given(|world| world.keeper(1).status.can_be_primary = Some(false));
    world.round();
    assert_eq!(world.db(1).spec.keeper_uid, keeper_uid(1));
}

/// That nobody can be chosen does not keep keepers from being registered.
#[test]
fn keepers_are_registered_although_nobody_is_chosen() {
    let mut world = World::initializing(1).given(|world| {
        world.data.cluster.spec.init_mode = Some(InitMode::Existing);
        world.data.cluster.spec.existing_config = Some(ExistingConfig { keeper_uid: "other".into() });
    });
    let reports = world.current_reports();
    world.data.keepers.clear();
    let decision = world.round_on(&reports);
    assert_eq!(decision.next.keepers.len(), 1);
    assert!(texts(&decision.holds)[0].contains("keeper \"other\" state not available"));
}

#[test]
fn a_first_instance_that_is_not_made_in_time_is_given_up() {
    World::initializing(2)
        .given(|world| {
            world.round();
        })
        .with_old_timers()
        .expect("given up", |world| {
            world.data.instances.clear();
            world.data.cluster.status.primary = None;
        });
}

#[test]
fn restoring_a_backup_never_takes_too_long() {
    let mut world = World::initializing(2).given(|world| {
        let config = PitrConfig { data_restore_command: "restore %d".into(), ..PitrConfig::default() };
        world.data.cluster.spec.init_mode = Some(InitMode::PointInTimeRecovery);
        world.data.cluster.spec.pitr_config = Some(config);
        world.round();
    });
    world = world.with_old_timers();
    let decision = world.round();
    assert_eq!(decision.next.instances.len(), 1);
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::AwaitingInitialization { .. })));
}

#[test]
fn the_cluster_is_normal_once_the_first_instance_works_and_its_parameters_are_taken_over() {
    let mut world = World::initializing(1);
    world.round();
    world.converge();
    world.db(1).status.pg_parameters =
        Some(Arc::new([("max_connections".to_owned(), "300".to_owned())].into()));
    let decision = world.later(100).round();
    assert!(
        matches!(decision.changes.last(), Some(Change::ClusterInitialized { .. })),
        "{:?}",
        decision.changes
    );
    assert_eq!(decision.next.cluster.status.phase, Some(Phase::Normal));
    assert_eq!(decision.next.cluster.spec.pg_parameters.as_ref().unwrap()["max_connections"], "300");
    let spec = &world.db(1).spec;
    assert_eq!((spec.init_mode.clone(), spec.include_previous_config), (Some(InstanceInitMode::None), false));
    assert_eq!(world.db(1).generation, 2);
}

#[test]
fn a_standby_cluster_is_made_as_one() {
    let mut world = World::initializing(1).given(|world| {
        let spec = &mut world.data.cluster.spec;
        spec.init_mode = Some(InitMode::PointInTimeRecovery);
        spec.pitr_config = Some(PitrConfig { data_restore_command: "x".into(), ..PitrConfig::default() });
        spec.role = Some(Role::Standby);
        let standby_settings =
            StandbySettings { primary_conninfo: "host=a".into(), ..StandbySettings::default() };
        let config = StandbyConfig { standby_settings: Some(standby_settings), ..StandbyConfig::default() };
        spec.standby_config = Some(config);
    });
    world.round();
    let spec = world.db(1).spec.clone();
    assert_eq!(spec.role, Some(Role::Standby));
    let follow = spec.follow_config.unwrap();
    assert_eq!(follow.follow_type, Some(FollowType::External));
    assert_eq!(follow.standby_settings.unwrap().primary_conninfo, "host=a");
}

#[test]
fn what_is_not_understood_is_left_alone() {
    let mut world = World::normal(1, 1)
        .given(|world| world.data.cluster.status.phase = Some(Phase::Unknown("odd".into())));
    let decision = world.round();
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::BrokenDocument { .. })));
    let mut world =
        World::initializing(1).given(|world| world.data.cluster.status.primary = Some("gone".into()));
    let decision = world.round();
    assert!(decision.next.instances.is_empty(), "no crash, no instance");
}
