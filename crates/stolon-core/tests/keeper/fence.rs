//! A primary that is about to be replaced although its keeper works lets its clients go first, and says so (docs/design/012-lease.md).

use std::time::Duration;

use stolon_model::{ClusterData, InstanceInitMode as Init, Role};

use crate::given::*;
use crate::world::{Store, World, seconds, serving};

fn fenced(cluster: &mut ClusterData) {
    let ours = ours(cluster);
    (ours.spec.fenced, ours.generation) = (true, ours.generation + 1);
}

fn stays(cluster: &mut ClusterData) {
    let ours = ours(cluster);
    (ours.spec.fenced, ours.generation) = (false, ours.generation + 1);
}

fn primary() -> World {
    serving(asked(Role::Primary, Init::None))
}

fn said(world: &World) -> Option<i64> {
    world.report().activity.as_ref().unwrap().fenced
}

fn generation(world: &mut World) -> Option<i64> {
    Some(ours(&mut world.cluster).generation)
}

fn is_shut(world: &World) -> bool {
    !world.postgres().admits_clients()
}

/// Looked at so often, so long apart; it has said it in the end.
fn is_shut_before_it_says_so(world: &mut World, looks: usize, apart: Duration) {
    let generation = generation(world);
    for _ in 0..looks {
        world.run(apart);
        assert!(said(world) == Some(0) || is_shut(world), "{:?}", world.log);
    }
    assert_eq!(said(world), generation, "{:?}", world.log);
}

#[test]
fn clients_are_out_before_it_is_said_and_come_in_again_when_the_primary_stays() {
    for moment in 0..20 {
        let mut world = primary();
        assert_eq!(said(&world), Some(0), "it knows fences");
        let mark = world.mark();
        world.change(fenced);
        is_shut_before_it_says_so(&mut world, 2_000, Duration::from_millis(1));
        assert!(world.steps_since(mark).contains("terminate"));
        assert!(world.postgres().running, "its standbys get everything");
        world.change(stays);
        world.run(Duration::from_millis(moment));
        world.run(seconds(5));
        assert!(!is_shut(&world), "{:?}", world.log);
        assert_eq!(said(&world), Some(0));
    }
}

/// Nobody waits for a server that does not run. One that is started again lets nobody in.
#[test]
fn a_server_that_does_not_run_has_no_clients() {
    let mut world = primary();
    world.server_dies();
    world.ready_takes = seconds(3600);
    world.run(seconds(2));
    world.change(fenced);
    is_shut_before_it_says_so(&mut world, 100, Duration::from_millis(100));
    world.ready_takes = Duration::from_millis(10);
    world.run(seconds(30));
    assert!(is_shut(&world), "{:?}", world.log);
}

/// It is replaced for that. Its clients would hold up the election for as long as the lease lasts.
#[test]
fn a_server_that_does_not_answer_is_killed() {
    let mut world = primary();
    world.postgres_mut().answers = false;
    world.run(seconds(15));
    let mark = world.mark();
    world.change(fenced);
    let generation = generation(&mut world);
    world.run(seconds(8));
    assert!(world.steps_since(mark).contains("kill"), "{:?}", &world.log[mark..]);
    assert_eq!(said(&world), generation, "{:?}", &world.log[mark..]);
}

/// What was fenced and is elected against is deposed, as ever.
#[test]
fn who_was_fenced_is_deposed_and_stays_shut() {
    let mut world = primary();
    world.change(fenced);
    world.run(seconds(2));
    world.change(is_deposed);
    for _ in 0..1_000 {
        world.run(Duration::from_millis(10));
        assert!(is_shut(&world), "{:?}", world.log);
    }
    assert_eq!(said(&world), Some(0));
    world.store = Store::Silent;
    world.run(seconds(60));
    assert!(is_shut(&world), "{:?}", world.log);
}
