//! Further rows of the table of situations.

use stolon_core::sentinel::Change;
use stolon_model::*;

use crate::world::*;

fn fake() -> Option<Vec<String>> {
    Some(vec![FAKE_STANDBY.to_owned()])
}

#[test]
fn a_primary_that_does_not_converge_is_replaced_like_one_that_is_dead() {
    World::normal(2, 2)
        .given(|world| world.db(1).status.current_generation = 0)
        .with_old_timers()
        .expect("row 8", |world| elected(world, 1, 2));
}

/// A29: without a limit nothing fails.
#[test]
fn convergence_may_be_given_all_the_time_in_the_world() {
    World::normal(2, 2)
        .given(|world| {
            world.data.cluster.spec.convergence_timeout = Some(GoDuration(0));
            world.db(1).status.current_generation = 0;
        })
        .with_old_timers()
        .expect_unchanged("convergenceTimeout 0");
}

/// The specification asks for synchronous mode, but the primary died before it did.
#[test]
fn who_follows_an_asynchronous_primary_begins_synchronous_mode_blocked_unless_none_is_demanded() {
    for (row, minimum, names) in [("row 15", 1, fake()), ("row 28", 0, Some(Vec::new()))] {
        World::normal(2, 2)
            .given(|world| {
                world.data.cluster.spec.synchronous_replication = Some(true);
                world.data.cluster.spec.min_synchronous_standbys = Some(minimum);
                world.break_db(1);
            })
            .expect(row, |world| {
                elected(world, 1, 2);
                let new = world.db(2);
                new.spec.synchronous_replication = true;
                new.spec.synchronous_standbys = Some(Vec::new());
                new.spec.external_synchronous_standbys = names;
            });
    }
}

/// A22: of surplus standbys those stay that commits wait for.
#[test]
fn a_bad_synchronous_standby_is_kept_while_another_bad_one_is_not() {
    let mut world = World::synchronous(4, &[2], &[2]).given(|world| {
        world.data.cluster.spec.max_standbys_per_sender = Some(1);
        world.break_db(2);
        world.break_db(4);
    });
    world.round();
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[2, 3]));
    assert!(world.data.instances.contains_key(&uid(2)) && !world.data.instances.contains_key(&uid(4)));
}

/// A24: the third instance follows the old primary until the new one is there.
#[test]
fn others_follow_the_new_primary_once_it_works() {
    let mut world = World::normal(3, 3).given(|world| {
        world.break_db(1);
        world.db(2).status.lsn = Lsn(2);
    });
    world.round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
    world.later(500).round();
    assert_eq!(world.db(3).spec.follow_config, Some(FollowConfig::internal(uid(1))), "not yet");
    world.db(2).status.current_generation = 2;
    world.later(500).round();
    assert_eq!(world.db(3).spec.follow_config, Some(FollowConfig::internal(uid(2))));
    assert!(!world.data.instances.contains_key(&uid(1)));
    let made_anew = world.data.instance_of(&keeper_uid(1)).expect("its keeper works").clone();
    assert_eq!(made_anew.spec.init_mode, Some(InstanceInitMode::Resync));
    let mut followers = vec![uid(3), made_anew.uid];
    followers.sort();
    assert_eq!(world.db(2).spec.followers, Some(followers));
}

/// A27: adopted data starts as a primary, also in a standby cluster.
#[test]
fn adopted_data_start_as_a_primary_even_in_a_standby_cluster() {
    let mut world = World::initializing(2).given(|world| {
        let spec = &mut world.data.cluster.spec;
        spec.init_mode = Some(InitMode::Existing);
        spec.existing_config = Some(ExistingConfig { keeper_uid: keeper_uid(2) });
        spec.role = Some(Role::Standby);
        spec.standby_config = Some(StandbyConfig::default());
    });
    let decision = world.round();
    let is_warning = |change: &Change| matches!(change, Change::AdoptedAsPrimary { .. });
    assert!(decision.changes.iter().any(is_warning), "it is said: {:?}", decision.changes);
    let first = world.data.instance_of(&keeper_uid(2)).expect("on the keeper that has the data").spec.clone();
    assert_eq!((first.role, first.follow_config), (Some(Role::Primary), None));
    assert_eq!(first.init_mode, Some(InstanceInitMode::Existing));
}

/// A28: `stolonctl promote` while the head of the standby cluster is dead; the limit of lag holds.
#[test]
fn promote_while_the_head_is_dead_elects_a_primary_within_the_limit_of_lag() {
    for (lsn, elected) in [(5, false), (1 << 40, true)] {
        let mut world = World::normal(2, 2).given(|world| {
            world.data.cluster.spec.synchronous_replication = Some(true);
            world.db(1).spec.role = Some(Role::Standby);
            let outside = FollowConfig { follow_type: Some(FollowType::External), ..FollowConfig::default() };
            world.db(1).spec.follow_config = Some(outside);
            world.db(1).status.lsn = Lsn(1 << 40);
            world.db(2).status.lsn = Lsn(lsn);
            world.break_db(1);
        });
        let decision = world.round();
        let is_elected =
            decision.changes.iter().any(|change| matches!(change, Change::PrimaryElected { .. }));
        assert_eq!(is_elected, elected, "at {lsn}");
        if elected {
            let new = world.db(2).spec.clone();
            assert_eq!((new.role, new.follow_config), (Some(Role::Primary), None));
            assert_eq!(new.external_synchronous_standbys, fake());
        }
    }
}

/// Switching synchronous mode between old and new primaries keeps all lists in the shapes that others expect.
#[test]
fn lists_have_the_shapes_that_stolon_writes() {
    let mut world = World::normal(3, 2).given(|world| {
        world.data.cluster.spec.additional_primary_replication_slots = Some(Vec::new());
        world.data.cluster.spec.pg_hba = Some(Vec::new());
    });
    world.round();
    let (primary, standby) = (world.db(1).clone(), world.db(3).clone());
    assert_eq!(primary.spec.additional_replication_slots, Some(Vec::new()));
    assert_eq!((primary.spec.synchronous_standbys, primary.status.synchronous_standbys), (None, None));
    assert_eq!(standby.spec.followers, Some(Vec::new()), "never null");
    assert_eq!(standby.spec.additional_replication_slots, None);
    assert_eq!(standby.spec.pg_hba.as_deref(), Some(&Vec::new()), "null and [] differ");
    let document = ClusterDocument::from(world.data.clone()).to_json();
    assert!(document.contains(r#""status":{"synchronousStandbys":null}"#), "{document}");
}
