//! A standby counts as synchronous only once it holds what was acknowledged before it was waited for.

use stolon_model::*;

use crate::world::*;

/// db1 waits for db2 and, since its last generation, for db3, which streams but is far behind.
fn admitting() -> World {
    World::synchronous(3, &[2, 3], &[2]).given(|world| {
        world.data.cluster.spec.max_synchronous_standbys = Some(2);
        world.in_sync.insert(uid(1), uids(&[2, 3]).unwrap());
        world.db(1).status.lsn = Lsn(1000);
        world.db(2).status.lsn = Lsn(1000);
        world.db(3).status.lsn = Lsn(100);
    })
}

fn known(world: &mut World) -> Option<Vec<InstanceUid>> {
    world.db(1).status.synchronous_standbys.clone()
}

#[test]
fn a_standby_that_lags_is_not_known_to_be_in_sync_whatever_postgresql_shows() {
    let mut world = admitting();
    for _ in 0..5 {
        world.later(1000).round();
        assert_eq!(known(&mut world), uids(&[2]));
    }
    world.break_db(1);
    world.later(1000).round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)), "never the one that lags");
}

#[test]
fn it_is_known_once_it_has_reached_the_position_of_the_second_report() {
    let mut world = admitting();
    world.later(1000).round();
    world.db(1).status.lsn = Lsn(1500);
    world.db(3).status.lsn = Lsn(1200);
    world.later(1000).round();
    assert_eq!(known(&mut world), uids(&[2]), "the first report does not count, the gate is 1500");
    world.db(1).status.lsn = Lsn(9000);
    world.db(3).status.lsn = Lsn(1499);
    world.later(1000).round();
    assert_eq!(known(&mut world), uids(&[2]));
    world.db(3).status.lsn = Lsn(1500);
    world.later(1000).round();
    assert_eq!(known(&mut world), uids(&[2, 3]), "the gate does not move with the primary");
}

#[test]
fn the_same_report_seen_twice_is_one_report() {
    let mut world = admitting();
    world.db(3).status.lsn = Lsn(1000);
    let reports = world.current_reports();
    world.later(100).round_on(&reports);
    world.later(100).round_on(&reports);
    assert_eq!(known(&mut world), uids(&[2]));
}

#[test]
fn a_standby_that_stops_being_in_sync_begins_anew() {
    let mut world = admitting();
    world.later(1000).round();
    world.later(1000).round();
    assert!(!world.memory.admissions.is_empty());
    world.in_sync.insert(uid(1), uids(&[2]).unwrap());
    world.later(1000).round();
    assert!(world.memory.admissions.is_empty());
}

#[test]
fn a_primary_that_lags_behind_its_generation_admits_nobody() {
    let mut world = admitting();
    world.db(3).status.lsn = Lsn(9000);
    world.db(1).generation = 2;
    for _ in 0..5 {
        world.later(1000).round();
    }
    assert_eq!(known(&mut world), uids(&[2]));
}
