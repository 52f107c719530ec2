//! The whole keeper when another primary is elected, whatever it is doing then: restarts among it.

use std::sync::Arc;
use std::time::Duration;

use stolon_core::keeper::*;
use stolon_fake::NEEDS_RESTART;
use stolon_model::{GoDuration, InstanceInitMode as Init, Role};

use crate::given::*;
use crate::world::{Store, World, seconds, serving};

/// An asynchronous primary that is asked for something that a restart brings, and may restart by itself.
fn restarting(store: Store) -> World {
    let mut cluster = asked(Role::Primary, Init::None);
    cluster.cluster.spec.automatic_pg_restart = Some(true);
    let mut world = serving(cluster);
    world.stop_takes = seconds(20);
    world.change(|cluster| {
        let parameters = [(NEEDS_RESTART.to_owned(), "1GB".to_owned())];
        let ours = ours(cluster);
        ours.spec.pg_parameters = Some(Arc::new(parameters.into_iter().collect()));
        ours.generation += 1;
    });
    // The change is read.
    world.run(Duration::from_millis(3));
    world.store = store;
    world
}

#[test]
fn a_restart_that_was_begun_is_ended_without_the_store() {
    let mut world = restarting(Store::Answers);
    world.run(seconds(2));
    assert!(world.steps_since(0).ends_with("stop"), "{:?}", world.log);
    world.store = Store::Silent;
    world.run(seconds(60));
    assert!(world.postgres().running && world.postgres().admits_clients(), "{:?}", world.log);
    // What dies afterwards is another matter: it may have been replaced since.
    world.server_dies();
    world.run(seconds(60));
    assert!(!world.postgres().running, "{:?}", world.log);
}

#[test]
fn a_restart_is_not_begun_without_the_stores_present_word() {
    // It reads as old as it may, but no watch tells.
    let mut world = restarting(Store::Answers);
    world.cluster.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(60));
    let mark = world.mark();
    world.store = Store::Silent;
    world.freeze(seconds(3));
    world.run(seconds(60));
    assert!(!world.steps_since(mark).contains("stop"), "{:?}", &world.log[mark..]);
    assert!(world.postgres().running && world.postgres().admits_clients());
    world.store = Store::Answers;
    world.run(seconds(60));
    assert!(world.steps_since(mark).contains("stop"), "{:?}", &world.log[mark..]);
    assert!(world.postgres().running && world.postgres().admits_clients());
}

#[test]
fn a_primary_that_was_replaced_while_it_restarted_does_not_come_back_open() {
    let mut world = restarting(Store::Answers);
    world.run(seconds(2));
    world.change(is_deposed);
    world.run(seconds(10));
    world.store = Store::Silent;
    world.run(seconds(60));
    assert!(!world.postgres().admits_clients(), "{:?}", world.log);
}

#[test]
fn a_primary_that_was_deposed_for_a_moment_lets_clients_in_again() {
    // Whatever it was doing when it was elected again.
    for moment in 0..20 {
        let mut world = serving(asked(Role::Primary, Init::None));
        world.change(is_deposed);
        world.run(Duration::from_millis(moment));
        world.change(is_elected_again);
        world.run(seconds(20));
        assert!(world.postgres().admits_clients(), "{moment} ms: {:?}", world.log);
    }
    for step in ["configure", "reload"] {
        let mut world = serving(asked(Role::Primary, Init::None));
        world.postgres_mut().failures.insert(step.into(), FailureKind::TimedOut);
        world.change(is_deposed);
        world.run(Duration::from_millis(20));
        world.postgres_mut().failures.clear();
        world.change(is_elected_again);
        world.run(seconds(20));
        assert!(world.postgres().admits_clients(), "{step}: {:?}", world.log);
    }
}

#[test]
fn a_primary_that_recovers_is_waited_for_no_longer_once_another_one_was_elected() {
    let mut world = World::with(asked(Role::Primary, Init::None), DataKind::Primary);
    world.ready_takes = seconds(3600);
    world.postgres_mut().answers = false;
    world.run(seconds(10));
    assert!(world.steps_since(0).contains("start ready"), "{:?}", world.log);
    // What else is asked meanwhile is no reason.
    let mark = world.mark();
    world.change(|cluster| ours(cluster).generation += 1);
    world.run(seconds(1));
    assert_eq!(world.steps_since(mark), "read");
    world.change(is_deposed);
    world.run(seconds(1));
    let steps = world.steps_since(mark);
    assert!(steps.contains("called-off") && steps.contains("configure:primary terminate"), "{steps}");
    assert!(!world.postgres().admits_clients(), "{steps}");
}

#[test]
fn a_deposed_primary_whose_clients_cannot_be_locked_out_is_stopped() {
    let kinds = || [FailureKind::Other, FailureKind::TimedOut, FailureKind::DiskFullHere];
    for step in ["check", "configure", "terminate", "reload"] {
        for kind in kinds() {
            let mut cluster = asked(Role::Primary, Init::None);
            cluster.cluster.spec.sleep_interval = Some(GoDuration::from_seconds(1));
            let mut world = serving(cluster);
            world.postgres_mut().failures.insert(step.into(), kind.clone());
            world.change(|cluster| {
                is_deposed(cluster);
                // The binaries are asked about what is new.
                let parameters = [("work_mem".to_owned(), "4MB".to_owned())];
                ours(cluster).spec.pg_parameters = Some(Arc::new(parameters.into_iter().collect()));
            });
            world.run(Duration::from_millis(50));
            assert!(!world.postgres().admits_clients(), "{step} {kind:?}: {:?}", world.log);
            assert!(world.problem().contains("failed"), "{step} {kind:?}: {}", world.problem());
            world.postgres_mut().failures.clear();
            world.run(seconds(40));
            assert!(
                world.postgres().running && !world.postgres().admits_clients(),
                "{step}: {:?}",
                world.log
            );
            assert_eq!(world.problem(), "", "{step}");
        }
    }
}

#[test]
fn a_deposed_primary_of_which_nothing_is_known_is_stopped() {
    let gone = |world: &mut World| world.postgres_mut().data = Data::Unreadable("input/output error".into());
    let refused = |world: &mut World| {
        world.postgres_mut().rejected = vec![RejectedSetting {
            name: "primary_conninfo".into(),
            value: "x".into(),
            message: "no".into(),
            instead: None,
            origin: Origin::Recovery,
        }];
    };
    for (what, hinder) in [("data", &gone as &dyn Fn(&mut World)), ("settings", &refused)] {
        let mut world = serving(asked(Role::Primary, Init::None));
        hinder(&mut world);
        world.change(|cluster| {
            is_deposed(cluster);
            let parameters = [("work_mem".to_owned(), "4MB".to_owned())];
            ours(cluster).spec.pg_parameters = Some(Arc::new(parameters.into_iter().collect()));
        });
        world.run(Duration::from_millis(50));
        assert!(!world.postgres().running, "{what}: {:?}", world.log);
        assert_ne!(world.problem(), "", "{what}");
    }

    // A keeper that was just started does not know what the binaries are, and finds a server.
    let mut cluster = asked(Role::Primary, Init::None);
    is_deposed(&mut cluster);
    let mut world = World::with(cluster, DataKind::Primary);
    world.postgres_mut().running = true;
    world.postgres_mut().version = Err("no such file".into());
    world.run(seconds(1));
    assert!(!world.postgres().running, "{:?}", world.log);
}
