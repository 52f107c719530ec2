//! `stolonctl reinit` and `stolonctl restart`.

use stolon_core::sentinel::{Change, Decision, RemovalReason};
use stolon_model::*;

use crate::world::*;

fn ask(world: &mut World, number: usize, kind: RequestKind) {
    let request = FailRequest {
        uid: "r1".into(),
        primary: world.data.cluster.status.primary.clone(),
        made_for: wall(world.wall_seconds),
        kind: Some(kind),
        instance: uid(number),
        ..FailRequest::default()
    };
    world.keeper(number).status.fail_request = Some(request);
}

fn request(world: &mut World, number: usize) -> FailRequest {
    world.keeper(number).status.fail_request.clone().unwrap()
}

fn removed(decision: &Decision) -> Vec<InstanceUid> {
    let of = |change: &Change| match change {
        Change::InstanceRemoved { instance, because: RemovalReason::Requested, .. } => Some(instance.clone()),
        _ => None,
    };
    decision.changes.iter().filter_map(of).collect()
}

#[test]
fn the_data_of_a_standby_are_made_anew_from_nothing() {
    let mut world = World::normal(3, 3).given(|world| ask(world, 2, RequestKind::Reinit));
    let decision = world.round();
    assert_eq!(removed(&decision), [uid(2)], "{:?}", texts(&decision.changes));
    assert_eq!(request(&mut world, 2).outcome, Some(FailOutcome::Counted));
    let made = world.data.instance_of(&keeper_uid(2)).unwrap();
    assert_ne!(made.uid, uid(2));
    assert!(made.spec.copy_anew, "what is there may be broken: it is not rewound");
    assert_eq!(made.spec.init_mode, Some(InstanceInitMode::Resync));
    let made = made.uid.clone();
    assert_eq!(removed(&world.later(500).round()), [], "once");
    assert!(world.data.instances.contains_key(&made));
}

/// Each of these keeps its data, and the operator is told why.
#[test]
fn data_that_cannot_be_spared_or_were_not_meant_are_kept() {
    let only = |world: &mut World| world.data.cluster.spec.max_standbys_per_sender = Some(1);
    for (name, mut world, number, expected) in [
        ("the primary", World::normal(2, 2), 1, FailOutcome::Nothing),
        ("whom commits wait for", World::synchronous(2, &[2], &[2]).given(only), 2, FailOutcome::Nothing),
    ] {
        ask(&mut world, number, RequestKind::Reinit);
        let decision = world.round();
        assert_eq!(removed(&decision), [], "{name}");
        assert_eq!(request(&mut world, number).outcome, Some(expected), "{name}");
    }
    let mut another = World::normal(2, 2).given(|world| {
        ask(world, 2, RequestKind::Reinit);
        world.keeper(2).status.fail_request.as_mut().unwrap().instance = uid(7);
    });
    assert_eq!(removed(&another.round()), [], "made for the instance before");
    let mut late = World::normal(2, 2).given(|world| ask(world, 2, RequestKind::Reinit));
    late.wall_seconds = 120;
    assert_eq!(removed(&late.round()), [], "made long ago");
    assert_eq!(request(&mut late, 2).outcome, Some(FailOutcome::Lapsed));
    let mut overtaken = World::normal(2, 2).given(|world| {
        ask(world, 2, RequestKind::Reinit);
        world.keeper(2).status.fail_request.as_mut().unwrap().primary = Some(uid(9));
    });
    assert_eq!(removed(&overtaken.round()), [], "made under another primary");
    let mut dead = World::normal(2, 2).given(|world| {
        ask(world, 2, RequestKind::Reinit);
        world.break_db(1);
        world.db(2).status.healthy = false;
        world.down.insert(uid(2));
    });
    assert_eq!(removed(&dead.round()), [], "the primary does not work");
}

#[test]
fn another_standby_takes_the_part_of_the_one_that_is_made_anew() {
    let mut world = World::synchronous(3, &[2], &[2]).given(|world| ask(world, 2, RequestKind::Reinit));
    let decision = world.round();
    assert_eq!(removed(&decision), [uid(2)]);
    assert_eq!(world.db(1).spec.synchronous_standbys, uids(&[3]), "commits wait for the other one");
}

#[test]
fn a_restart_is_over_when_another_server_runs_and_lapses_when_nobody_does_it() {
    let started = |second: i64| Some(wall(second));
    let mut world = World::normal(2, 2).given(|world| {
        ask(world, 2, RequestKind::Restart);
        world.keeper(2).status.fail_request.as_mut().unwrap().started = started(1);
    });
    let with_start = |world: &mut World, second: i64| {
        let mut reports = world.current_reports();
        let report = reports.get_mut(&keeper_uid(2)).unwrap();
        report.activity.as_mut().unwrap().started = started(second);
        reports
    };
    let reports = with_start(&mut world, 1);
    world.round_on(&reports);
    assert_eq!(request(&mut world, 2).outcome, None, "the same server still runs");
    let reports = with_start(&mut world, 9);
    world.later(500).round_on(&reports);
    assert_eq!(request(&mut world, 2).outcome, Some(FailOutcome::Counted));

    let mut lost = World::normal(2, 2).given(|world| ask(world, 2, RequestKind::Restart));
    lost.wall_seconds = 301;
    lost.round();
    assert_eq!(request(&mut lost, 2).outcome, Some(FailOutcome::Lapsed));
}

#[test]
fn a_reload_is_over_when_its_keeper_says_so_and_lapses_when_it_does_not() {
    let mut world = World::normal(2, 2).given(|world| ask(world, 2, RequestKind::Reload));
    for (told, outcome) in [("", None), ("another", None), ("r1", Some(FailOutcome::Counted))] {
        let mut reports = world.later(500).current_reports();
        reports.get_mut(&keeper_uid(2)).unwrap().activity.as_mut().unwrap().reloaded = told.to_owned();
        world.round_on(&reports);
        assert_eq!(request(&mut world, 2).outcome, outcome, "{told:?}");
    }
    let mut lost = World::normal(2, 2).given(|world| ask(world, 2, RequestKind::Reload));
    lost.wall_seconds = 61;
    lost.round();
    assert_eq!(request(&mut lost, 2).outcome, Some(FailOutcome::Lapsed));
}
