//! The part of a keeper in a planned change of the primary (docs: design/007-hand-over.md).

use stolon_core::keeper::*;
use stolon_model::*;

use crate::given::*;
use crate::world::{World, seconds, serving};

const END: OrderlyEnd = OrderlyEnd { timeline: Timeline(1), checkpoint: Lsn(1000) };

/// A change from `us` to `bb`, or the other way round, at this stage.
fn asks(cluster: &mut ClusterData, from: &str, to: &str, stage: SwitchoverStage) {
    cluster.cluster.status.switchover = Some(Switchover {
        uid: "s1".to_owned(),
        from: Some(from.into()),
        successor: Some(to.into()),
        stage: Some(stage),
        ..Switchover::default()
    });
}

fn primary_with_standby() -> ClusterData {
    let mut cluster = asked(Role::Primary, InstanceInitMode::None);
    add(&mut cluster, "bb", "k3", Role::Standby, InstanceInitMode::None);
    cluster
}

fn answer(world: &World) -> SwitchoverReport {
    world.report().activity.clone().and_then(|activity| activity.switchover).unwrap_or_default()
}

#[test]
fn a_primary_writes_a_checkpoint_once_stops_and_says_where_it_ended() {
    let mut world = serving(primary_with_standby());
    assert!(world.report().activity.as_ref().unwrap().hands_over);
    world.postgres_mut().ended = Some(END);
    let mark = world.mark();
    world.change(|cluster| asks(cluster, "us", "bb", SwitchoverStage::Checkpoint));
    world.run(seconds(20));
    assert_eq!(world.steps_since(mark).matches("checkpoint").count(), 1, "{}", world.steps_since(mark));
    assert!(answer(&world).checkpointed && world.postgres().running);
    assert_eq!(answer(&world).end, None);
    world.change(|cluster| asks(cluster, "us", "bb", SwitchoverStage::Stopping));
    world.run(seconds(20));
    assert!(!world.postgres().running);
    assert_eq!((answer(&world).end, answer(&world).timeline), (Some(Lsn(1000)), Timeline(1)));
}

#[test]
fn a_primary_that_did_not_end_in_order_says_so_and_comes_back_when_it_is_let() {
    let mut world = serving(primary_with_standby());
    world.change(|cluster| asks(cluster, "us", "bb", SwitchoverStage::Stopping));
    world.run(seconds(20));
    assert!(!world.postgres().running);
    assert!(answer(&world).trouble.contains("not end in order"), "{:?}", answer(&world));
    for gone in [
        |cluster: &mut ClusterData| cluster.cluster.status.switchover = None,
        |cluster: &mut ClusterData| {
            asks(cluster, "us", "bb", SwitchoverStage::Stopping);
            let record = cluster.cluster.status.switchover.as_mut().unwrap();
            record.conclude(SwitchoverOutcome::Failed, String::new(), Timestamp::ZERO);
        },
    ] {
        world.change(|cluster| asks(cluster, "us", "bb", SwitchoverStage::Stopping));
        world.run(seconds(20));
        assert!(!world.postgres().running);
        world.change(gone);
        world.run(seconds(20));
        assert!(world.postgres().running && world.postgres().admits_clients());
        assert_eq!(answer(&world), SwitchoverReport::default());
    }
}

/// The store's word is needed to go back, too: it may have been relieved meanwhile.
#[test]
fn a_primary_that_was_stopped_stays_stopped_while_the_store_is_away() {
    let mut world = serving(primary_with_standby());
    world.change(|cluster| asks(cluster, "us", "bb", SwitchoverStage::Stopping));
    world.run(seconds(20));
    world.store = crate::world::Store::Silent;
    world.run(seconds(120));
    assert!(!world.postgres().running, "{:?}", world.log);
}

#[test]
fn a_successor_says_what_it_received_once_nothing_more_comes() {
    let mut world = World::with(asked(Role::Standby, InstanceInitMode::None), DataKind::Standby);
    world.run(seconds(10));
    world.postgres_mut().lsn = 900;
    world.change(|cluster| asks(cluster, "pp", "us", SwitchoverStage::Stopping));
    world.run(seconds(5));
    assert_eq!(answer(&world), SwitchoverReport::default(), "it still receives");
    let published = world.mark();
    world.postgres_mut().lsn = 1120;
    world.postgres_mut().receiver = WalReceiver::Absent(None);
    world.run(seconds(5));
    assert_eq!(answer(&world).received, Some(Lsn(1120)), "{:?}", &world.log[published..]);
    world.postgres_mut().receiver = WalReceiver::Streaming;
    world.run(seconds(10));
    assert_eq!(answer(&world).received, None, "something comes again");
}

#[test]
fn one_that_was_relieved_stays_stopped_only_while_its_successor_is_well() {
    let relieved = |change: fn(&mut ClusterData)| {
        let mut cluster = primary_with_standby();
        asks(&mut cluster, "us", "bb", SwitchoverStage::Stopping);
        let mut keeper = Keeper { uid: "k3".into(), ..Keeper::default() };
        keeper.status.healthy = true;
        cluster.keepers.insert("k3".into(), keeper);
        cluster.instances.get_mut(&InstanceUid::from("bb")).unwrap().status.healthy = true;
        cluster.cluster.status.primary = Some("bb".into());
        let record = cluster.cluster.status.switchover.as_mut().unwrap();
        record.conclude(SwitchoverOutcome::Done, String::new(), Timestamp::ZERO);
        change(&mut cluster);
        goal(&cluster)
    };
    assert_eq!(relieved(|_| ()), Goal::Stop(StopReason::HandedOver));
    let others: [fn(&mut ClusterData); 5] = [
        |cluster| cluster.keepers.get_mut(&KeeperUid::from("k3")).unwrap().status.healthy = false,
        |cluster| cluster.instances.get_mut(&InstanceUid::from("bb")).unwrap().status.healthy = false,
        |cluster| cluster.cluster.status.primary = Some("us".into()),
        |cluster| cluster.cluster.status.switchover = None,
        |cluster| {
            cluster.cluster.status.switchover.as_mut().unwrap().outcome = Some(SwitchoverOutcome::Failed);
        },
    ];
    for (index, change) in others.into_iter().enumerate() {
        assert!(matches!(relieved(change), Goal::Reach(_)), "case {index}");
    }
}

/// Our data are those of a primary that was stopped in order, and we are asked to follow `pp` under another uid.
fn to_follow(fork: u64, change: fn(&mut Observation)) -> Plan {
    let mut cluster = asked(Role::Standby, InstanceInitMode::Resync);
    let source = cluster.instances.get_mut(&InstanceUid::from("pp")).unwrap();
    source.status.timeline = Timeline(2);
    source.status.timelines_history = Some(vec![TimelineHistoryEntry {
        timeline: Timeline(1),
        switch_point: Lsn(fork),
        reason: String::new(),
    }]);
    let mut seen = Observation { local: complete("before"), ended: Some(END), ..here(DataKind::Primary) };
    change(&mut seen);
    plan(&goal(&cluster), &seen)
}

#[test]
fn data_that_their_source_has_whole_follow_it_without_a_rewind() {
    assert_eq!(words(&to_follow(1120, |_| ())), "examine mark as-rewound again");
    for (fork, change) in [
        (1000, (|_| ()) as fn(&mut Observation)),
        (1120, |seen| seen.ended = None),
        (1120, |seen| seen.ended = Some(OrderlyEnd { timeline: Timeline(2), ..END })),
        (1120, |seen| seen.server = Server::Running(None)),
    ] {
        let plan = to_follow(fork, change);
        assert_eq!(words(&plan), "stop examine mark copy again");
    }
    let half_made = to_follow(1120, |seen| {
        seen.local = LocalState { initializing: true, ..complete("us") };
    });
    assert!(words(&half_made).contains("copy"), "{}", words(&half_made));
}
