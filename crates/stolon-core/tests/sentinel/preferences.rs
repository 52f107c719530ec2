//! Whom operators prefer: priorities, which never count against data, and zones.

use stolon_core::sentinel::{Rejection, eligibility, fitness};
use stolon_model::StandbyPace::{Behind, InStep};
use stolon_model::*;

use crate::world::*;

/// Position, priority by the flag, priority by an operator.
type Standby = (u64, Option<u32>, Option<u32>);

fn standbys(world: &mut World, of: &[Standby]) {
    for (index, (lsn, by_flag, chosen)) in of.iter().enumerate() {
        world.db(index + 2).status.lsn = Lsn(*lsn);
        let status = &mut world.keeper(index + 2).status;
        (status.failover_priority, status.chosen_priority) = (*by_flag, *chosen);
    }
}

#[test]
fn a_priority_decides_among_equals_and_never_against_data() {
    let cases: [(&str, [Standby; 2], Option<usize>); 8] = [
        ("nobody is preferred", [(10, None, None), (10, None, None)], Some(2)),
        ("the higher one", [(10, Some(1), None), (10, Some(2), None)], Some(3)),
        ("the default is 1", [(10, None, None), (10, Some(2), None)], Some(3)),
        ("who has more comes first", [(11, Some(1), None), (10, Some(99), None)], Some(2)),
        ("an operator's word counts", [(10, Some(5), Some(1)), (10, Some(2), None)], Some(3)),
        ("zero is never", [(11, Some(0), None), (10, None, None)], Some(3)),
        ("nor by an operator's word", [(10, None, Some(0)), (11, None, Some(0))], None),
        ("who may take it back", [(10, Some(0), Some(1)), (9, None, None)], Some(2)),
    ];
    for (name, of, expected) in cases {
        let mut world = World::normal(3, 3).given(|world| standbys(world, &of));
        world.break_db(1);
        (0..4).for_each(|_| _ = world.later(300).round());
        assert_eq!(world.data.cluster.status.primary, Some(uid(expected.unwrap_or(1))), "{name}");
    }
    let mut world = World::normal(2, 2).given(|world| standbys(world, &[(10, Some(0), None)]));
    let reports = world.current_reports();
    let judged = eligibility(&world.data.clone().try_into().unwrap(), &reports);
    assert_eq!(judged[0].rejection, Some(Rejection::PriorityZero));
}

/// In synchronous mode, too: who does not hold everything is not elected however much it is preferred.
#[test]
fn a_priority_makes_nobody_synchronous() {
    let mut world = World::synchronous(3, &[2], &[2]);
    world.keeper(3).status.failover_priority = Some(9);
    world.break_db(1);
    world.round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
}

#[test]
fn nobody_gets_the_primary_back_by_a_priority_alone() {
    let mut world =
        World::normal(3, 3).given(|world| standbys(world, &[(10, Some(9), None), (10, None, None)]));
    world.keeper(1).status.chosen_priority = Some(0);
    for _ in 0..20 {
        world.later(1000).round();
    }
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
}

/// In a planned change whoever is chosen receives everything before it is elected.
#[test]
fn a_planned_change_goes_to_who_is_preferred() {
    let mut world =
        World::normal(3, 3).given(|world| standbys(world, &[(11, Some(1), None), (10, Some(2), None)]));
    world.db(1).status.lsn = Lsn(11);
    let mut reports = world.current_reports();
    reports.values_mut().for_each(|report| report.activity.as_mut().unwrap().hands_over = true);
    let fit = fitness(&world.data.clone().try_into().unwrap(), &reports, None).unwrap();
    assert_eq!(fit.instance, uid(3));
}

#[test]
fn the_first_instance_goes_to_who_is_preferred() {
    let mut world = World::initializing(3);
    world.keeper(1).status.failover_priority = Some(0);
    world.keeper(3).status.failover_priority = Some(2);
    world.round();
    assert_eq!(world.data.primary().map(|it| it.spec.keeper_uid.clone()), Some(keeper_uid(3)));
}

/// db1 waits for one of db2 to db4, whose keepers stand in these zones.
fn in_zones(listed: &[usize], zones: [&str; 4], paces: &[(usize, StandbyPace)]) -> World {
    World::synchronous(4, listed, listed).given(|world| {
        for (index, zone) in zones.into_iter().enumerate() {
            world.keeper(index + 1).status.zone = zone.to_owned();
        }
        world.in_sync.insert(uid(1), uids(&[2, 3, 4]).unwrap());
        let paces = paces.iter().map(|(number, pace)| (uid(*number), pace.clone())).collect();
        world.standby_pace.insert(uid(1), paces);
    })
}

#[test]
fn commits_wait_for_a_standby_in_another_zone_where_one_keeps_up() {
    let all = &[(2, InStep), (3, InStep), (4, InStep)][..];
    let cases: [(&str, &[usize], [&str; 4], &[(usize, StandbyPace)], &[usize]); 7] = [
        ("a new one", &[], ["a", "a", "a", "b"], all, &[4]),
        ("an exchange", &[2], ["a", "a", "a", "b"], all, &[4]),
        ("it lags", &[2], ["a", "a", "a", "b"], &[(2, InStep), (3, InStep), (4, Behind)], &[2]),
        ("one is there already", &[3], ["a", "a", "b", "b"], all, &[3]),
        ("the same zone", &[2], ["a", "a", "a", "a"], all, &[2]),
        ("a zone that is not named", &[2], ["a", "a", "", ""], all, &[2]),
        ("the primary's is not named", &[2], ["", "a", "b", "c"], all, &[2]),
    ];
    for (name, listed, zones, paces, expected) in cases {
        let mut world = in_zones(listed, zones, paces);
        for _ in 0..8 {
            world.converge();
            world.later(1000).round();
        }
        assert_eq!(world.db(1).spec.synchronous_standbys, uids(expected), "{name}");
        assert_eq!(world.db(1).status.synchronous_standbys, uids(expected), "{name}");
    }
}

/// The old one stays until the new one holds everything.
#[test]
fn an_exchange_for_a_zone_goes_by_way_of_both() {
    let mut world = in_zones(&[2], ["a", "a", "a", "b"], &[(2, InStep), (4, InStep)]);
    world.round();
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[2, 4]));
    assert_eq!(world.db(1).status.synchronous_standbys, uids(&[2]));
}

/// Of two, one elsewhere is enough.
#[test]
fn one_of_several_stands_elsewhere() {
    let paces = [(2, InStep), (3, InStep), (4, InStep)];
    let mut world = in_zones(&[2, 3], ["a", "a", "a", "b"], &paces)
        .given(|world| world.data.cluster.spec.max_synchronous_standbys = Some(2));
    for _ in 0..8 {
        world.converge();
        world.later(1000).round();
    }
    let listed = world.db(1).spec.synchronous_standbys.clone().unwrap();
    assert!(listed.len() == 2 && listed.contains(&uid(4)), "{listed:?}");
}

/// An election goes by what is there.
#[test]
fn a_zone_elects_nobody() {
    let mut world = World::normal(3, 3);
    for (number, zone, lsn) in [(1, "a", 12), (2, "b", 10), (3, "a", 11)] {
        world.keeper(number).status.zone = zone.to_owned();
        world.db(number).status.lsn = Lsn(lsn);
    }
    world.break_db(1);
    (0..4).for_each(|_| _ = world.later(300).round());
    assert_eq!(world.data.cluster.status.primary, Some(uid(3)));
}
