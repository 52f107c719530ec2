//! A keeper that is told to end (docs: design/007-hand-over.md).

use std::time::Duration;

use stolon_core::keeper::*;
use stolon_model::*;

use crate::given::*;
use crate::world::{Store, World, seconds, serving};

const PATIENCE: Duration = Duration::from_secs(10);

/// We have the primary, and `bb` of keeper `k3` is well.
fn with_heir() -> ClusterData {
    let mut cluster = asked(Role::Primary, InstanceInitMode::None);
    add(&mut cluster, "bb", "k3", Role::Standby, InstanceInitMode::None);
    let mut keeper = Keeper { uid: "k3".into(), ..Keeper::default() };
    keeper.status.healthy = true;
    cluster.keepers.insert("k3".into(), keeper);
    cluster.instances.get_mut(&InstanceUid::from("bb")).unwrap().status.healthy = true;
    cluster
}

fn record(world: &World, stage: SwitchoverStage) -> Switchover {
    Switchover {
        uid: world.report().boot_uuid.to_string(),
        from: Some("us".into()),
        successor: Some("bb".into()),
        leaving: true,
        stage: Some(stage),
        ..Switchover::default()
    }
}

fn reach(world: &mut World, stage: SwitchoverStage) {
    let record = record(world, stage);
    world.change(|cluster| cluster.cluster.status.switchover = Some(record));
}

fn conclude(world: &mut World, outcome: SwitchoverOutcome) {
    world.change(|cluster| {
        let record = cluster.cluster.status.switchover.as_mut().unwrap();
        record.conclude(outcome, "so it is".to_owned(), Timestamp::ZERO);
    });
}

fn told_to_end(cluster: ClusterData) -> World {
    let mut world = serving(cluster);
    world.tell(Event::EndRequested { patience: PATIENCE });
    world.run(Duration::from_millis(10));
    world
}

fn partings(world: &World) -> Vec<&Parting> {
    let parting = |saying| match saying {
        &Saying::Parts(ref parting) => Some(parting),
        _ => None,
    };
    world.sayings.iter().filter_map(parting).collect()
}

#[test]
fn a_primarys_keeper_says_that_it_leaves_plays_its_part_and_ends_when_it_is_relieved() {
    let mut world = told_to_end(with_heir());
    assert!(world.report().activity.as_ref().unwrap().leaving && !world.ended, "told at once");
    reach(&mut world, SwitchoverStage::Checkpoint);
    world.run(seconds(2));
    assert!(world.steps_since(0).contains("checkpoint") && !world.ended, "{:?}", world.log);
    let end = OrderlyEnd { timeline: Timeline(1), checkpoint: Lsn(1000) };
    world.postgres_mut().ended = Some(end);
    reach(&mut world, SwitchoverStage::Stopping);
    world.run(seconds(2));
    let answer = world.report().activity.clone().and_then(|activity| activity.switchover).unwrap();
    assert!(!world.ended && !world.postgres().running && answer.end == Some(Lsn(1000)), "{answer:?}");
    let reports = world.reports.len();
    world.change(|cluster| {
        let status = &mut cluster.cluster.status;
        status.switchover.as_mut().unwrap().conclude(SwitchoverOutcome::Done, String::new(), Timestamp::ZERO);
        status.primary = Some("bb".into());
    });
    world.run(Duration::from_millis(10));
    assert!(world.ended);
    assert_eq!(partings(&world), [&Parting::Relieved]);
    world.run(seconds(60));
    assert_eq!(world.reports.len(), reports, "nothing more is said");
    assert!(!world.postgres().running);
}

/// Nobody is fit yet.
fn awaits(world: &mut World) {
    let waits = Switchover {
        stage: None,
        because: "db bb catches up".into(),
        ..record(world, SwitchoverStage::Checkpoint)
    };
    world.change(|cluster| cluster.cluster.status.switchover = Some(waits));
}

#[test]
fn what_is_waited_for_is_said_once_and_the_change_goes_on_from_there() {
    let mut world = told_to_end(with_heir());
    awaits(&mut world);
    world.run(seconds(6));
    let said = world.sayings.iter().filter(|it| matches!(it, Saying::AwaitsHeir(_)));
    let said: Vec<_> = said.collect();
    assert_eq!(said, [&Saying::AwaitsHeir("db bb catches up".into())]);
    assert!(!world.ended && world.postgres().running, "clients are served meanwhile");
    reach(&mut world, SwitchoverStage::Checkpoint);
    world.run(seconds(1));
    assert!(!world.ended && world.steps_since(0).contains("checkpoint"), "{:?}", world.log);
    world.change(|cluster| cluster.cluster.status.primary = Some("bb".into()));
    world.run(seconds(1));
    assert_eq!(partings(&world), [&Parting::Relieved]);
}

/// What becomes of the request, after how many milliseconds it has ended, and why.
#[test]
fn nobody_waits_longer_than_there_is_something_to_wait_for() {
    type Course = fn(&mut World);
    let refused = Parting::Refused("so it is".into());
    let cases: [(&str, Course, u64, Parting); 8] = [
        ("no sentinel", |_| (), 1000, Parting::NotAsked),
        (
            "refused",
            |world| {
                reach(world, SwitchoverStage::Checkpoint);
                conclude(world, SwitchoverOutcome::Refused);
            },
            0,
            refused.clone(),
        ),
        (
            "failed after the stop",
            |world| {
                reach(world, SwitchoverStage::Stopping);
                world.run(seconds(2));
                conclude(world, SwitchoverOutcome::Failed);
            },
            2000,
            refused,
        ),
        ("nobody gets fit", awaits, 10_000, Parting::NobodyInTime("db bb catches up".into())),
        ("hangs", |world| reach(world, SwitchoverStage::Stopping), 10_000, Parting::TimeIsOver),
        (
            "dropped by a sentinel that does not know it",
            |world| {
                reach(world, SwitchoverStage::Checkpoint);
                world.run(seconds(3));
                world.change(|cluster| cluster.cluster.status.switchover = None);
            },
            3000,
            Parting::TakenBack,
        ),
        (
            "the store goes away",
            |world| {
                reach(world, SwitchoverStage::Stopping);
                world.run(seconds(1));
                world.store = Store::Silent;
            },
            10_000,
            Parting::TimeIsOver,
        ),
        (
            "another primary was elected",
            |world| world.change(|cluster| cluster.cluster.status.primary = Some("bb".into())),
            0,
            Parting::Relieved,
        ),
    ];
    for (name, course, ends, parting) in cases {
        let mut world = told_to_end(with_heir());
        let told = world.now;
        course(&mut world);
        while !world.ended && world.now < told + seconds(20) {
            world.run(Duration::from_millis(10));
        }
        let took = world.now.saturating_sub(told);
        assert!(took.as_millis().abs_diff(u128::from(ends)) < 50, "{name}: {took:?}");
        assert_eq!(partings(&world), [&parting], "{name}");
        let running = world.postgres().running;
        world.run(seconds(60));
        assert_eq!(world.postgres().running, running, "{name}: nothing is begun any more");
    }
}

/// A change that an operator has begun is waited for, too.
#[test]
fn a_change_that_is_under_way_already_will_do() {
    let mut world = serving(with_heir());
    let theirs = Switchover { uid: "s1".into(), ..record(&world, SwitchoverStage::Stopping) };
    world.change(|cluster| cluster.cluster.status.switchover = Some(theirs));
    world.run(seconds(1));
    world.tell(Event::EndRequested { patience: PATIENCE });
    world.run(seconds(5));
    assert!(!world.ended);
    world.change(|cluster| cluster.cluster.status.primary = Some("bb".into()));
    world.run(seconds(1));
    assert_eq!(partings(&world), [&Parting::Relieved]);
}

#[test]
fn a_second_request_ends_the_waiting() {
    let mut world = told_to_end(with_heir());
    reach(&mut world, SwitchoverStage::Stopping);
    world.tell(Event::StopRequested);
    let (mark, reports) = (world.mark(), world.reports.len());
    world.run(seconds(60));
    assert_eq!((world.steps_since(mark), world.reports.len()), (String::new(), reports));
}

#[test]
fn nobody_is_asked_where_nobody_can_take_over() {
    let alone = |cluster: &mut ClusterData| {
        cluster.instances.remove(&InstanceUid::from("bb"));
    };
    let cases: [(fn(&mut ClusterData), Duration, NoHandOver); 5] = [
        (alone, PATIENCE, NoHandOver::Nobody),
        (
            |cluster| cluster.keepers.get_mut(&KeeperUid::from("k3")).unwrap().status.healthy = false,
            PATIENCE,
            NoHandOver::Nobody,
        ),
        (|cluster| cluster.cluster.pause = Some(Pause::default()), PATIENCE, NoHandOver::Paused),
        (|_| (), Duration::ZERO, NoHandOver::TurnedOff),
        (|cluster| cluster.cluster.status.primary = Some("bb".into()), PATIENCE, NoHandOver::NoPrimary),
    ];
    for (change, patience, why) in cases {
        let mut world = serving(with_heir());
        world.change(change);
        world.run(Duration::from_millis(100));
        world.tell(Event::EndRequested { patience });
        assert!(world.ended && world.sayings.contains(&Saying::NoHandOver(why)), "{:?}", world.sayings);
        assert!(!world.report().activity.as_ref().unwrap().leaving);
    }
    let mut starting = serving(with_heir());
    starting.change(|cluster| {
        cluster.instances.get_mut(&InstanceUid::from("bb")).unwrap().status.healthy = false
    });
    starting.run(Duration::from_millis(100));
    starting.tell(Event::EndRequested { patience: PATIENCE });
    assert!(!starting.ended, "whether it is about to be fit is for the sentinel to say");
    let mut away = serving(with_heir());
    away.store = Store::Silent;
    away.run(seconds(30));
    away.tell(Event::EndRequested { patience: PATIENCE });
    assert!(away.ended && away.sayings.contains(&Saying::NoHandOver(NoHandOver::StoreAway)));
    let mut standby = World::with(asked(Role::Standby, InstanceInitMode::None), DataKind::Standby);
    standby.run(seconds(10));
    standby.tell(Event::EndRequested { patience: PATIENCE });
    assert!(standby.ended);
}
