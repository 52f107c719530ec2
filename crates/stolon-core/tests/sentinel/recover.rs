//! What an operator can go on from when nobody may take over by himself.

use std::collections::BTreeMap;

use stolon_core::sentinel::{
    CannotRecover, Held, Was, Witnesses, WouldBeLost, former_primaries_held, held, recover, violations,
};
use stolon_model::*;

use crate::world::*;

/// db2 is the primary, on timeline 2 from 1000 to 1500, and its keeper is lost. keeper1 holds db1, the primary before; keeper3 has db3, a
/// standby that has not followed db2.
fn lost() -> (World, BTreeMap<KeeperUid, KeeperReport>) {
    let mut world = World::normal(3, 3);
    world.data.cluster.epoch = Some(5);
    world.data.instances.remove(&uid(1));
    world.data.cluster.status.primary = Some(uid(2));
    let fork = TimelineHistoryEntry { timeline: Timeline(1), switch_point: Lsn(1_000), ..Default::default() };
    let primary = world.db(2);
    primary.spec.role = Some(Role::Primary);
    primary.spec.follow_config = None;
    primary.spec.followers = Some(vec![uid(3)]);
    primary.status.timelines_history = Some(vec![fork]);
    (primary.status.timeline, primary.status.lsn) = (Timeline(2), Lsn(1_500));
    let standby = world.db(3);
    standby.spec.follow_config = Some(FollowConfig::internal(uid(2)));
    (standby.status.timeline, standby.status.lsn) = (Timeline(1), Lsn(900));
    world.data.cluster.status.formers = Some(vec![FormerPrimary {
        instance: uid(1),
        keeper: keeper_uid(1),
        timeline: Timeline(1),
        lsn: Lsn(1_000),
        replaced_at: wall(0),
        ..FormerPrimary::default()
    }]);
    world.silence_keeper(2);
    world.db(2).status.healthy = false;
    let mut reports = world.current_reports();
    let report = reports.get_mut(&keeper_uid(1)).unwrap();
    report.postgres_state = Some(PostgresState { uid: uid(1), generation: 4, ..PostgresState::default() });
    report.activity.as_mut().unwrap().served = Some(Served {
        cluster_uid: "cluster1".into(),
        instance: uid(1),
        primary_epoch: Some(2),
        epoch: 4,
        generation: 4,
        timeline: Timeline(1),
        lsn: Lsn(1_100),
    });
    (world, reports)
}

fn recovered(
    world: &World,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
    keeper: usize,
) -> Result<(Held, ClusterData), CannotRecover> {
    let sentinels = BTreeMap::new();
    let witnesses = Witnesses { keepers: reports, sentinels: &sentinels };
    recover(&world.data.clone().try_into().unwrap(), &witnesses, &keeper_uid(keeper), wall(60))
}

#[test]
fn what_keepers_hold_is_told_with_what_would_be_lost() {
    let (world, reports) = lost();
    let all = held(&world.data, |keeper| reports.get(keeper));
    let loss = |from| WouldBeLost::Since { timeline: Timeline(2), from: Lsn(from), to: Lsn(1_500) };
    let expected = [
        (keeper_uid(1), Was::Primary { until: wall(0) }, Lsn(1_100), loss(1_000)),
        (keeper_uid(3), Was::Standby, Lsn(900), loss(1_000)),
    ];
    let found = all.iter().map(|it| (it.keeper.clone(), it.was, it.lsn, it.loss)).collect::<Vec<_>>();
    assert_eq!(found, expected);
    assert_eq!(
        all[0].loss.to_string(),
        "what was committed on timeline 2 after 0/3E8: 500 B up to 0/5DC, and whatever the primary did after its last report"
    );
}

/// Everybody knows the new document for the newest one, the former primary starts as it is, and the lost one is to follow it.
#[test]
fn the_cluster_goes_on_from_what_a_keeper_holds() {
    let (world, reports) = lost();
    let (held, next) = recovered(&world, &reports, 1).unwrap();
    assert_eq!(held.instance, uid(1));
    assert_eq!(violations(&next), []);
    assert_eq!(next.cluster.status.primary, Some(uid(1)));
    assert!(next.cluster.epoch > world.data.cluster.epoch);
    let primary = &next.instances[&uid(1)];
    assert_eq!((primary.spec.role.clone(), &primary.spec.keeper_uid), (Some(Role::Primary), &keeper_uid(1)));
    assert_eq!(primary.spec.init_mode, Some(InstanceInitMode::None));
    assert!(primary.generation > 4 && primary.status.current_generation != primary.generation);
    assert_eq!(next.proxy.spec.primary, None);
    assert!(next.proxy.generation > world.data.proxy.generation);
    let lost = &next.instances[&uid(2)];
    assert_eq!(
        (lost.spec.role.clone(), lost.spec.followers.clone()),
        (Some(Role::Primary), Some(Vec::new()))
    );
    let formers = next.cluster.status.formers.unwrap();
    assert_eq!(formers.len(), 1);
    assert_eq!((&formers[0].instance, formers[0].given_up_from), (&uid(2), Some(Lsn(1_000))));
}

/// A standby that may not be elected by itself becomes the primary, too.
#[test]
fn a_standby_is_gone_on_from_as_well() {
    let (world, reports) = lost();
    let (_, next) = recovered(&world, &reports, 3).unwrap();
    assert_eq!(next.cluster.status.primary, Some(uid(3)));
    let primary = &next.instances[&uid(3)].spec;
    assert_eq!((primary.role.clone(), primary.follow_config.clone()), (Some(Role::Primary), None));
}

/// In synchronous mode it acknowledges nothing before somebody else has it all.
#[test]
fn in_synchronous_mode_commits_wait_for_a_standby() {
    let (mut world, reports) = lost();
    world.data.cluster.spec.synchronous_replication = Some(true);
    let (_, next) = recovered(&world, &reports, 1).unwrap();
    let spec = &next.instances[&uid(1)].spec;
    assert_eq!(spec.external_synchronous_standbys, Some(vec![FAKE_STANDBY.to_owned()]));
}

#[test]
fn it_is_refused_where_it_is_not_called_for() {
    type Alter = fn(&mut World, &mut BTreeMap<KeeperUid, KeeperReport>);
    fn works(world: &mut World) {
        world.db(2).status.healthy = true;
        world.keeper(2).status.healthy = true;
    }
    let cases: [(&str, usize, CannotRecover, Alter); 9] = [
        ("it has it", 2, CannotRecover::HasPrimary, |_, _| {}),
        ("the primary works", 1, CannotRecover::PrimaryWorks(keeper_uid(2)), |world, reports| {
            works(world);
            reports.insert(keeper_uid(2), KeeperReport::default());
        }),
        ("there is no primary", 1, CannotRecover::NoPrimary, |world, _| {
            world.data.cluster.status.phase = Some(Phase::Initializing);
        }),
        ("it does not report", 1, CannotRecover::Silent, |_, reports| _ = reports.remove(&keeper_uid(1))),
        ("it is half made", 1, CannotRecover::HoldsNothing, |_, reports| {
            let report = reports.get_mut(&keeper_uid(1)).unwrap();
            report.postgres_state.as_mut().unwrap().generation = 0;
        }),
        ("its data are another cluster's", 1, CannotRecover::HoldsNothing, |world, reports| {
            world.data.cluster.status.formers = None;
            let activity = reports.get_mut(&keeper_uid(1)).unwrap().activity.as_mut().unwrap();
            activity.served.as_mut().unwrap().cluster_uid = "cluster0".into();
        }),
        ("another database", 1, CannotRecover::HoldsNothing, |world, reports| {
            world.db(2).status.system_identifier = "7".into();
            let report = reports.get_mut(&keeper_uid(1)).unwrap();
            report.postgres_state.as_mut().unwrap().system_identifier = "8".into();
        }),
        ("the store went back", 1, CannotRecover::StoreWentBack, |world, _| {
            world.data.cluster.epoch = Some(3)
        }),
        ("another can", 1, CannotRecover::AnotherCan(keeper_uid(3)), |world, _| {
            world.db(3).status.timeline = Timeline(2);
            world.db(3).status.lsn = Lsn(1_500);
        }),
    ];
    for (name, keeper, expected, alter) in cases {
        let (mut world, mut reports) = lost();
        alter(&mut world, &mut reports);
        assert_eq!(recovered(&world, &reports, keeper).map(|_| ()), Err(expected), "{name}");
    }
    // Its report is gone: nobody knows that the document is wrong where no sentinel leads.
    let (mut world, reports) = lost();
    works(&mut world);
    assert!(recovered(&world, &reports, 1).is_ok());
}

/// A second operator does not take away at once what the first one has just chosen.
#[test]
fn two_operators_do_not_undo_each_other() {
    let (mut world, reports) = lost();
    world.data = recovered(&world, &reports, 1).unwrap().1;
    assert_eq!(recovered(&world, &reports, 3).map(|_| ()), Err(CannotRecover::PrimaryWorks(keeper_uid(1))));
}

#[test]
fn former_primaries_count_while_their_data_are_there_unchanged() {
    type Given = fn(&mut World, &mut BTreeMap<KeeperUid, KeeperReport>);
    let cases: [(&str, usize, Given); 5] = [
        ("its data are there", 1, |_, _| {}),
        ("it is still in the document, deposed", 1, |world, _| {
            let deposed = World::normal(1, 1).db(1).clone();
            world.data.instances.insert(uid(1), deposed);
        }),
        ("it follows its successor by now", 0, |world, _| {
            let mut standby = world.db(3).clone();
            (standby.uid, standby.spec.keeper_uid) = (uid(1), keeper_uid(1));
            world.data.instances.insert(uid(1), standby);
        }),
        ("its keeper has made another instance", 0, |_, reports| {
            reports.get_mut(&keeper_uid(1)).unwrap().postgres_state.as_mut().unwrap().uid = uid(7);
        }),
        ("its keeper does not report", 0, |_, reports| {
            reports.remove(&keeper_uid(1));
        }),
    ];
    for (case, expected, given) in cases {
        let (mut world, mut reports) = lost();
        given(&mut world, &mut reports);
        let found: Vec<_> = former_primaries_held(&world.data, |keeper| reports.get(keeper)).collect();
        assert_eq!(found.len(), expected, "{case}: {found:?}");
        assert!(found.iter().all(|held| held.instance == uid(1)), "{case}: {found:?}");
    }
}
