//! Commits wait for the slowest standby that they wait for: one that stops confirming gives way to one that keeps up.

use stolon_core::sentinel::Hold;
use stolon_model::StandbyPace::{Behind, InStep, Stalled};
use stolon_model::*;

use crate::world::*;

/// db1 waits for these; what its keeper says of each standby.
fn waiting_for(listed: &[usize], paces: &[(usize, StandbyPace)]) -> World {
    World::synchronous(4, listed, listed).given(|world| {
        world.in_sync.insert(uid(1), uids(&[2, 3, 4]).unwrap());
        tell(world, paces);
    })
}

fn tell(world: &mut World, paces: &[(usize, StandbyPace)]) {
    let paces = paces.iter().map(|(number, pace)| (uid(*number), pace.clone())).collect();
    world.standby_pace.insert(uid(1), paces);
}

fn listed(world: &mut World) -> Option<Vec<InstanceUid>> {
    world.db(1).spec.synchronous_standbys.clone()
}

/// The primary does what it was asked for, and reports it.
fn converge(world: &mut World) {
    let primary = world.db(1);
    primary.status.current_generation = primary.generation;
    world.later(1000).round();
}

#[test]
fn a_standby_that_stops_confirming_is_exchanged_once_the_other_holds_everything() {
    let mut world = waiting_for(&[2], &[(2, Stalled), (3, InStep), (4, Behind)]);
    world.round();
    assert_eq!(listed(&mut world), uids(&[2, 3]), "both, until the new one is known to hold everything");
    for _ in 0..4 {
        converge(&mut world);
    }
    assert_eq!(listed(&mut world), uids(&[3]));
    assert_eq!(world.db(1).status.synchronous_standbys, uids(&[3]));
}

#[test]
fn nobody_leaves_whom_nobody_can_replace() {
    let paces = [(2, Stalled), (3, Stalled), (4, Behind)];
    let mut world = waiting_for(&[2], &paces);
    let decision = world.round();
    assert_eq!(listed(&mut world), uids(&[2]));
    let expected = Hold::CommitsWait { primary: uid(1), standbys: vec![uid(2)] };
    assert!(decision.holds.contains(&expected), "{:?}", decision.holds);
    // A minimum of none is no leave to wait for none because of seconds.
    let mut world = waiting_for(&[2], &paces).given(|world| {
        world.data.cluster.spec.min_synchronous_standbys = Some(0);
    });
    world.round();
    assert_eq!(listed(&mut world), uids(&[2]));
}

#[test]
fn of_more_than_the_minimum_one_that_stalls_leaves_at_once() {
    let mut world = waiting_for(&[2, 3], &[(2, Stalled), (3, Behind), (4, Stalled)])
        .given(|world| world.data.cluster.spec.max_synchronous_standbys = Some(2));
    world.round();
    assert_eq!(listed(&mut world), uids(&[3]));
}

/// One that was just made may have hours to catch up.
#[test]
fn a_newcomer_is_taken_once_it_keeps_up_and_let_go_when_it_does_not() {
    let mut world = waiting_for(&[2], &[(2, InStep), (3, Stalled), (4, Stalled)])
        .given(|world| world.data.cluster.spec.max_synchronous_standbys = Some(2));
    world.round();
    assert_eq!(listed(&mut world), uids(&[2]));
    tell(&mut world, &[(2, InStep), (3, Behind), (4, Stalled)]);
    world.later(1000).round();
    assert_eq!(listed(&mut world), uids(&[2, 3]));
    tell(&mut world, &[(2, InStep), (3, Stalled), (4, Stalled)]);
    converge(&mut world);
    assert_eq!(listed(&mut world), uids(&[2]));
    // The only one there is is waited for, however far it is behind.
    let mut world = waiting_for(&[], &[(2, Stalled), (3, Stalled), (4, Stalled)]);
    world.round();
    assert_eq!(listed(&mut world).map_or(0, |listed| listed.len()), 1);
}

#[test]
fn a_keeper_that_tells_nothing_changes_nothing() {
    let mut world = waiting_for(&[2], &[]);
    world.standby_pace.clear();
    world.round();
    assert_eq!(listed(&mut world), uids(&[2]));
}
