//! A primary that is lost right after its election: the former one comes back where nobody else can have acknowledged a commit.

use std::collections::BTreeMap;

use stolon_core::sentinel::{Change, Decision, Hold};
use stolon_model::*;

use crate::world::*;

type Reports = BTreeMap<KeeperUid, KeeperReport>;

/// db1 has failed and db2 was elected, promoted, and works. keeper1 is back, but has not begun to make a standby of what it holds.
fn replaced(mut world: World) -> World {
    world.silence_keeper(1);
    world.round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)), "elected");
    world.silent.clear();
    world.converge();
    promoted(&mut world, 2);
    if world.data.instances.contains_key(&uid(3)) {
        // It follows.
        promoted(&mut world, 3);
    }
    world.later(500).round_holding(1);
    world
}

/// The data of an instance are on timeline 2, which began at 1000.
fn promoted(world: &mut World, number: usize) {
    let fork = TimelineHistoryEntry { timeline: Timeline(1), switch_point: Lsn(1_000), ..Default::default() };
    let status = &mut world.db(number).status;
    (status.timeline, status.lsn, status.timelines_history) = (Timeline(2), Lsn(1_500), Some(vec![fork]));
}

fn primary_on_timeline_one(world: &mut World) {
    for instance in world.data.instances.values_mut() {
        (instance.status.timeline, instance.status.lsn) = (Timeline(1), Lsn(1_000));
    }
}

trait Holding {
    fn reports_holding(&mut self, former: usize) -> Reports;
    fn round_holding(&mut self, former: usize) -> Decision;
}

impl Holding for World {
    /// The keeper of `former` has stopped, and still holds its data, whatever the document gives it.
    fn reports_holding(&mut self, former: usize) -> Reports {
        let mut reports = self.current_reports();
        if let Some(report) = reports.get_mut(&keeper_uid(former)) {
            let state =
                PostgresState { uid: uid(former), generation: 2, healthy: false, ..PostgresState::default() };
            report.postgres_state = Some(state);
            report.activity.get_or_insert_default().served = Some(Served {
                cluster_uid: "cluster1".into(),
                instance: uid(former),
                primary_epoch: Some(0),
                generation: 2,
                timeline: Timeline(1),
                lsn: Lsn(1_040),
                ..Served::default()
            });
        }
        reports
    }

    fn round_holding(&mut self, former: usize) -> Decision {
        let reports = self.reports_holding(former);
        self.round_on(&reports)
    }
}

/// The keeper of db2 is gone for good.
fn successor_is_lost(world: &mut World) -> Decision {
    world.later(500);
    world.silence_keeper(2);
    world.round_holding(1)
}

fn ways_out(decision: &Decision) -> Vec<String> {
    let ways = decision.holds.iter().filter(|hold| matches!(hold, Hold::WayOut(_)));
    ways.map(ToString::to_string).collect()
}

#[test]
fn a_former_primary_comes_back_while_nobody_else_can_have_acknowledged_anything() {
    let mut world = replaced(World::synchronous(2, &[2], &[2]).given(primary_on_timeline_one));
    assert!(!world.data.instances.contains_key(&uid(1)), "its keeper is to make a standby");
    assert!(world.data.instance_of(&keeper_uid(1)).is_some());
    let decision = successor_is_lost(&mut world);
    assert_eq!(decision.next.cluster.status.primary, Some(uid(1)), "{:?}", texts(&decision.holds));
    let back = &decision.next.instances[&uid(1)];
    assert_eq!(
        (back.spec.role.clone(), back.spec.init_mode.clone()),
        (Some(Role::Primary), Some(InstanceInitMode::None))
    );
    assert_eq!(back.generation, 3, "above all that its keeper knows");
    assert_eq!(back.status.lsn, Lsn(1_000));
    assert_eq!(
        back.spec.external_synchronous_standbys,
        Some(vec![FAKE_STANDBY.to_owned()]),
        "nobody follows it yet"
    );
    assert_eq!(decision.next.instances.values().filter(|it| it.spec.keeper_uid == keeper_uid(1)).count(), 1);
    assert_eq!(decision.next.proxy.spec.primary, None);
    let formers = decision.next.cluster.status.formers.as_deref().unwrap();
    assert_eq!(formers.iter().map(|it| (&it.instance, it.complete)).collect::<Vec<_>>(), [(&uid(2), false)]);
}

/// It is still in the document, and its successor has been seen promoted, but never ready.
#[test]
fn it_comes_back_before_it_was_taken_out_of_the_document() {
    let mut world = World::synchronous(3, &[2, 3], &[2, 3]).given(primary_on_timeline_one);
    world.silence_keeper(1);
    world.silence_keeper(3);
    world.round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
    promoted(&mut world, 2);
    world.silent.remove(&keeper_uid(1));
    world.keeper(1).status.healthy = true;
    world.later(500);
    world.silence_keeper(2);
    // It runs, behind its gate, and has not reached its generation.
    let decision = world.round();
    assert_eq!(decision.next.cluster.status.primary, Some(uid(1)), "{:?}", texts(&decision.holds));
    let back = &decision.next.instances[&uid(1)];
    assert_eq!(
        back.status.synchronous_standbys, None,
        "whoever had everything before may lack what was shown since"
    );
}

/// What lets somebody else acknowledge a commit, be it for a moment.
#[test]
fn it_stays_out_once_somebody_may_have_acknowledged_something() {
    type Spec = fn(&mut ClusterSpec);
    let cases: [(&str, World, Spec); 4] = [
        ("asynchronous", World::normal(2, 2), |_| {}),
        ("no standby is needed", World::synchronous(2, &[2], &[2]), |spec| {
            spec.min_synchronous_standbys = Some(0);
        }),
        ("left synchronous mode", World::synchronous(2, &[2], &[2]), |spec| {
            spec.synchronous_replication = Some(false);
        }),
        ("another standby acknowledges", World::synchronous(3, &[2], &[2]), |_| {}),
    ];
    for (name, world, change) in cases {
        let mut world =
            world.given(primary_on_timeline_one).given(|world| change(&mut world.data.cluster.spec));
        world = replaced(world);
        // What was true in the meantime counts, not what is true in the end.
        world.data.cluster.spec.synchronous_replication = Some(true);
        world.data.cluster.spec.min_synchronous_standbys = None;
        world.later(500).round_holding(1);
        if world.data.keepers.contains_key(&keeper_uid(3)) {
            world.silence_keeper(3);
        }
        let decision = successor_is_lost(&mut world);
        assert_eq!(decision.next.cluster.status.primary, Some(uid(2)), "{name}");
        let formers = decision.next.cluster.status.formers.clone().unwrap_or_default();
        assert!(formers.iter().any(|it| it.instance == uid(1) && !it.complete), "{name}: {formers:?}");
        let ways = ways_out(&decision);
        assert_eq!(ways.len(), 1, "{name}: {:?}", texts(&decision.holds));
        assert!(ways[0].starts_with("keeper keeper1 holds db db1, the primary until "), "{name}: {ways:?}");
        assert!(ways[0].ends_with("on timeline 1 up to 0/410; stolonctl recover keeper1 says what would be lost by going on from it"), "{name}: {ways:?}");
    }
}

/// One write of the successor's is enough, also when it is blocked again afterwards.
#[test]
fn a_host_that_was_set_back_holds_less_than_it_acknowledged() {
    let mut world = World::synchronous(2, &[2], &[2]).given(primary_on_timeline_one);
    world.db(1).status.was_at = Some(WasAt { timeline: Timeline(1), lsn: Lsn(5_000_000) });
    world = replaced(world);
    assert_eq!(successor_is_lost(&mut world).next.cluster.status.primary, Some(uid(2)));
}

#[test]
fn who_does_not_hold_it_any_more_or_must_not_serve_does_not_come_back() {
    type Alter = fn(&mut World, &mut Reports);
    fn of_keeper1(reports: &mut Reports) -> &mut KeeperReport {
        reports.get_mut(&keeper_uid(1)).unwrap()
    }
    let cases: [(&str, Alter); 6] = [
        ("it was overwritten", |_, reports| {
            of_keeper1(reports).postgres_state.as_mut().unwrap().uid = "db3".into();
        }),
        ("it is gone", |_, reports| {
            of_keeper1(reports).postgres_state.as_mut().unwrap().uid = InstanceUid::default();
        }),
        ("its keeper is silent", |_, reports| _ = reports.remove(&keeper_uid(1))),
        ("its disk is full", |_, reports| {
            let disk = DiskReport { fault: Some(DiskFault::Full), ..DiskReport::default() };
            of_keeper1(reports).activity.as_mut().unwrap().disk = Some(disk);
        }),
        ("it may not be a primary", |_, reports| of_keeper1(reports).can_be_primary = Some(false)),
        ("its host was set back", |_, reports| {
            let served = of_keeper1(reports).activity.as_mut().unwrap().served.as_mut().unwrap();
            served.timeline = Timeline(0);
        }),
    ];
    for (name, alter) in cases {
        let mut world = replaced(World::synchronous(2, &[2], &[2]).given(primary_on_timeline_one));
        world.later(500);
        world.silence_keeper(2);
        let mut reports = world.reports_holding(1);
        alter(&mut world, &mut reports);
        let decision = world.round_on(&reports);
        assert_eq!(decision.next.cluster.status.primary, Some(uid(2)), "{name}");
    }
}

/// The head of a standby cluster takes no writes: whoever was the head before has nothing less than the primary outside.
#[test]
fn the_former_head_of_a_standby_cluster_comes_back() {
    let world = World::normal(2, 2).given(primary_on_timeline_one).given(|world| {
        let spec = &mut world.data.cluster.spec;
        spec.role = Some(Role::Standby);
        spec.init_mode = Some(InitMode::PointInTimeRecovery);
        spec.pitr_config = Some(PitrConfig { data_restore_command: "true".into(), ..PitrConfig::default() });
        spec.standby_config = Some(StandbyConfig::default());
        let head = &mut world.db(1).spec;
        head.role = Some(Role::Standby);
        head.follow_config =
            Some(FollowConfig { follow_type: Some(FollowType::External), ..FollowConfig::default() });
    });
    let mut world = replaced(world);
    assert!(!world.data.instances.contains_key(&uid(1)));
    let decision = successor_is_lost(&mut world);
    assert_eq!(decision.next.cluster.status.primary, Some(uid(1)), "{:?}", texts(&decision.holds));
    let back = &decision.next.instances[&uid(1)].spec;
    assert_eq!(back.role, Some(Role::Standby));
    assert_eq!(back.follow_config.as_ref().and_then(|it| it.follow_type.clone()), Some(FollowType::External));
}

#[test]
fn a_pause_keeps_it_out() {
    let mut world = replaced(World::synchronous(2, &[2], &[2]).given(primary_on_timeline_one));
    world.data.cluster.pause = Some(Pause { since: wall(0), until: wall(3_600), ..Pause::default() });
    let decision = successor_is_lost(&mut world);
    assert_eq!(decision.next.cluster.status.primary, Some(uid(2)));
}

/// What an operator has given up is named when it comes back, once.
#[test]
fn what_was_given_up_is_named_when_it_comes_back() {
    let mut world = World::normal(2, 2).given(primary_on_timeline_one);
    world.data.cluster.epoch = Some(5);
    world.data.cluster.status.formers = Some(vec![FormerPrimary {
        instance: uid(9),
        keeper: keeper_uid(2),
        timeline: Timeline(2),
        lsn: Lsn(1_500),
        given_up_from: Some(Lsn(1_000)),
        ..FormerPrimary::default()
    }]);
    let mut named = Vec::new();
    for _ in 0..3 {
        let mut reports = world.later(500).current_reports();
        let report = reports.get_mut(&keeper_uid(2)).unwrap();
        report.postgres_state =
            Some(PostgresState { uid: uid(9), generation: 2, ..PostgresState::default() });
        report.activity.as_mut().unwrap().served = Some(Served {
            cluster_uid: "cluster1".into(),
            instance: uid(9),
            epoch: 4,
            timeline: Timeline(2),
            lsn: Lsn(3_048),
            ..Served::default()
        });
        let changes = world.round_on(&reports).changes;
        named.extend(changes.into_iter().filter(|change| matches!(change, Change::GivenUp { .. })));
    }
    assert_eq!(named.len(), 1);
    assert!(
        named[0].to_string().contains("timeline 2 from 0/3E8 to 0/BE8 (2.0 KiB) is lost"),
        "{}",
        named[0]
    );
    // When its keeper has made something else of it, there is nothing to remember.
    world.later(500).round();
    assert_eq!(world.data.cluster.status.formers, None);
}
