//! A store that went back in time, and hosts that did.

use std::collections::{BTreeMap, BTreeSet};

use stolon_core::proxy::Version;
use stolon_core::sentinel::Standing;
use stolon_core::sentinel::{
    Ahead, CannotSettle, Change, Evidence, Hold, Memory, Older, PrimaryFault, Rejection, Witnesses,
    accept_loss, newest, older_than, take_newest,
};
use stolon_model::*;

use crate::world::*;

/// What keeper2 reports after it served db2 in this generation, under this epoch, on this timeline.
fn served(
    world: &mut World,
    epoch: u64,
    generation: i64,
    timeline: u64,
) -> BTreeMap<KeeperUid, KeeperReport> {
    let mut reports = world.current_reports();
    let report = reports.get_mut(&keeper_uid(2)).unwrap();
    report.activity.as_mut().unwrap().served = Some(Served {
        cluster_uid: "cluster1".into(),
        epoch,
        instance: uid(2),
        primary_epoch: Some(epoch),
        generation,
        timeline: Timeline(timeline),
        lsn: Lsn(5000),
    });
    reports
}

/// So far is a count raised that nobody may know a higher value of.
const LEAP: u64 = 1 << 20;

fn nobody() -> BTreeSet<KeeperUid> {
    BTreeSet::new()
}

/// Keepers that report, and no sentinel that holds.
fn keepers_only(keepers: &BTreeMap<KeeperUid, KeeperReport>) -> Witnesses<'_> {
    static NO_SENTINELS: BTreeMap<SentinelUid, SentinelReport> = BTreeMap::new();
    Witnesses { keepers, sentinels: &NO_SENTINELS }
}

fn ahead(data: &ClusterData, keepers: &BTreeMap<KeeperUid, KeeperReport>) -> Vec<Ahead> {
    keepers_only(keepers).ahead(data)
}

/// db1 died, db2 was promoted and served; then the document from before was written back, and keeper1 was started.
fn gone_back(epoch: Option<u64>) -> World {
    World::normal(2, 2).given(|world| {
        world.data.cluster.epoch = epoch;
        world.db(1).status.timeline = Timeline(1);
        world.db(2).status.timeline = Timeline(1);
        world.break_db(1);
    })
}

#[test]
fn nothing_is_decided_on_cluster_data_that_are_older_than_what_was_served() {
    for (epoch, evidence) in
        [(Some(7), Evidence::Epoch { document: 7 }), (None, Evidence::Generation { document: 1 })]
    {
        let mut world = gone_back(epoch);
        let before = without_times(&world.data);
        let reports = served(&mut world, 9, 2, 2);
        let decision = world.round_on(&reports);
        assert_eq!(without_times(&decision.next), before);
        let Some(Hold::StoreWentBack { ahead }) = decision.holds.first() else {
            panic!("{:?}", decision.holds)
        };
        assert_eq!((ahead[0].keeper.clone(), ahead[0].evidence), (keeper_uid(2), evidence));
    }
}

/// The evidence of a keeper that fell silent is not forgotten with its report.
#[test]
fn the_last_words_of_a_silent_keeper_count() {
    let mut world = gone_back(Some(7));
    let reports = served(&mut world, 9, 2, 2);
    world.round_on(&reports);
    world.silent.insert(keeper_uid(2));
    let decision = world.later(500).round();
    assert!(has_hold(&decision, |hold| matches!(hold, Hold::StoreWentBack { .. })), "{:?}", decision.holds);
}

#[test]
fn what_was_served_under_the_same_data_or_older_ones_is_no_evidence() {
    for (epoch, generation) in [(7, 1), (6, 1), (0, 1)] {
        let mut world = gone_back(Some(7));
        let reports = served(&mut world, epoch, generation, 1);
        let decision = world.round_on(&reports);
        assert!(decision.changes.iter().any(|change| matches!(change, Change::PrimaryElected { .. })));
    }
}

/// An instance that is not in the document was removed, or was made later. The timeline tells which, where there is no epoch.
#[test]
fn an_instance_that_is_not_there_is_judged_by_its_timeline() {
    for (epoch, timeline, expected) in [
        (None, 2, Some(Evidence::Timeline { document: Timeline(1) })),
        (None, 1, None),
        (Some(10), 2, None),
        (Some(9), 2, Some(Evidence::Timeline { document: Timeline(1) })),
        (Some(9), 1, None),
    ] {
        let mut world = gone_back(epoch);
        let reports = served(&mut world, 9, 5, timeline);
        world.data.instances.remove(&uid(2));
        let found = ahead(&world.data, &reports);
        assert_eq!(found.first().map(|ahead| ahead.evidence), expected, "timeline {timeline}");
    }
}

#[test]
fn another_cluster_is_no_evidence() {
    let mut world = gone_back(Some(7));
    let reports = served(&mut world, 9, 5, 2);
    world.data.cluster.uid = "cluster2".into();
    assert_eq!(ahead(&world.data, &reports), []);
}

#[test]
fn a_sentinel_that_has_seen_newer_data_needs_no_keeper_to_tell_it() {
    let mut world = World::normal(2, 2).given(|world| world.data.cluster.epoch = Some(9));
    world.round();
    world.data.cluster.epoch = Some(7);
    world.break_db(1);
    let decision = world.later(500).round();
    assert!(has_hold(&decision, |hold| *hold == Hold::DocumentWentBack { epoch: 7, before: 9 }));
    assert_eq!(world.data.cluster.status.primary, Some(uid(1)));
}

#[test]
fn decisions_raise_the_epoch_above_everything_known() {
    let mut world = World::normal(2, 2).given(|world| world.data.cluster.epoch = Some(41));
    world.round();
    assert_eq!(world.data.cluster.epoch, Some(41), "nothing to act on");
    world.break_db(1);
    world.later(500).round();
    assert_eq!(world.data.cluster.epoch, Some(42));
    world.converge();
    world.later(500).round();
    assert_eq!(world.data.cluster.epoch, Some(43));
}

/// Stolon led for a while, and a keeper slept through it that may have served under more than anybody can tell now.
#[test]
fn an_epoch_that_was_dropped_begins_anew_above_those_of_everybody_who_slept() {
    let clock = wall(0).instant().as_second() as u64;
    for (known, expected) in
        [(0, clock), (41, clock), (clock - 3, clock - 3 + LEAP), (clock + 7, clock + 7 + LEAP)]
    {
        let mut world = gone_back(None);
        let reports = served(&mut world, known, 1, 1);
        world.round_on(&reports);
        assert_eq!(world.data.cluster.epoch, Some(expected), "keepers know {known}");
    }
    for (seen, expected) in [(41, clock), (clock + 7, clock + 7 + LEAP)] {
        let mut world = World::normal(2, 2).given(|world| world.data.cluster.epoch = Some(seen));
        world.round();
        world.data.cluster.epoch = None;
        world.break_db(1);
        world.later(500).round();
        assert_eq!(world.data.cluster.epoch, Some(expected), "this sentinel saw {seen}");
    }
}

#[test]
fn the_newest_data_can_be_taken() {
    let mut world = gone_back(Some(7));
    let reports = served(&mut world, 9, 4, 2);
    let (keeper, next) = take_newest(&world.data, &keepers_only(&reports), &nobody(), wall(0)).unwrap();
    assert_eq!(keeper, keeper_uid(2));
    assert_eq!(next.cluster.status.primary, Some(uid(2)));
    let db2 = &next.instances[&uid(2)];
    assert_eq!(db2.spec.role, Some(Role::Primary));
    assert!(db2.generation >= 4 + LEAP as i64, "{}", db2.generation);
    assert_eq!(next.proxy.spec.primary, None, "clients wait until it is ready");
    assert_eq!(ahead(&next, &reports), []);
    world.data = next;
    world.converge();
    let decision = world.later(500).round();
    assert!(!has_hold(&decision, |hold| matches!(hold, Hold::StoreWentBack { .. })));
}

/// The document that is settled knows the new primary from before its promotion, and the primary before it works.
#[test]
fn the_predecessor_of_a_primary_whose_data_were_taken_does_not_take_its_place() {
    let mut world = gone_back(Some(7));
    let reports = served(&mut world, 9, 4, 2);
    let (_, next) = take_newest(&world.data, &keepers_only(&reports), &nobody(), wall(0)).unwrap();
    let status = &next.instances[&uid(2)].status;
    assert_eq!((status.timeline, status.lsn), (Timeline(2), Lsn(5000)));
    world.data = next;
    world.down.clear();
    world.converge();
    world.break_db(2);
    for _ in 0..60 {
        world.later(1000).round();
        assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
    }
}

/// Nobody starts anything while the store is older than what was served.
#[test]
fn who_could_not_work_while_the_store_had_gone_back_is_given_time_once_that_is_settled() {
    let mut world = gone_back(Some(7));
    world.break_db(2);
    let reports = served(&mut world, 9, 4, 2);
    world.round_on(&reports);
    world.data = take_newest(&world.data, &keepers_only(&reports), &nobody(), wall(0)).unwrap().1;
    let given_up = (1..60).find(|_| {
        world.later(1000).round();
        !world.db(2).status.healthy
    });
    assert!(given_up.is_some_and(|second| (20..=22).contains(&second)), "given up after {given_up:?} s");
}

/// Whose data are the newest: (epoch, elected under, timeline, position) of two keepers.
#[test]
fn who_was_elected_last_has_the_newest_data() {
    type Mark = (u64, Option<u64>, u64, u64);
    let table: [(&str, Mark, Mark, usize); 7] = [
        ("the primary's mark is half a minute old", (9, Some(9), 1, 4000), (9, None, 1, 5000), 1),
        ("of two standbys the one that is further", (9, None, 1, 4000), (9, None, 1, 5000), 2),
        ("the primary was cut off", (8, Some(8), 1, 6000), (10, None, 1, 5000), 1),
        (
            "its successor is dead, who followed that one is not",
            (8, Some(8), 1, 6000),
            (10, None, 2, 5000),
            2,
        ),
        ("a deposed primary and the next one", (10, Some(8), 1, 6000), (10, Some(10), 2, 5000), 2),
        ("elected again after its successor's death", (10, Some(10), 1, 6000), (11, Some(8), 2, 5000), 1),
        (
            "a deposed primary and its laggard, the next one is dead",
            (10, Some(8), 1, 6000),
            (10, None, 1, 5000),
            1,
        ),
    ];
    for (story, one, other, newest) in table {
        let mut world = gone_back(Some(7));
        let mut reports = served(&mut world, 9, 4, 2);
        for (number, (epoch, primary_epoch, timeline, lsn)) in [(1, one), (2, other)] {
            reports.get_mut(&keeper_uid(number)).unwrap().activity.as_mut().unwrap().served = Some(Served {
                cluster_uid: "cluster1".into(),
                epoch,
                instance: uid(number),
                primary_epoch,
                generation: 4,
                timeline: Timeline(timeline),
                lsn: Lsn(lsn),
            });
        }
        let taken = take_newest(&world.data, &keepers_only(&reports), &nobody(), wall(0)).unwrap().0;
        assert_eq!(taken, keeper_uid(newest), "{story}");
        let but_for_it = BTreeSet::from([taken]);
        let taken = take_newest(&world.data, &keepers_only(&reports), &but_for_it, wall(0)).unwrap().0;
        assert_eq!(taken, keeper_uid(3 - newest), "{story}; without that one");
    }
}

/// The head of a standby cluster goes on following the primary outside: it takes no writes.
#[test]
fn the_newest_data_of_a_standby_cluster_stay_those_of_a_standby() {
    let mut world = gone_back(Some(7)).given(|world| world.data.cluster.spec.role = Some(Role::Standby));
    let reports = served(&mut world, 9, 4, 2);
    let (_, next) = take_newest(&world.data, &keepers_only(&reports), &nobody(), wall(0)).unwrap();
    let head = &next.instances[&uid(2)].spec;
    let follows = head.follow_config.as_ref().and_then(|follow| follow.follow_type.clone());
    assert_eq!((head.role.clone(), follows), (Some(Role::Standby), Some(FollowType::External)));
}

/// Only a standby has read on to newer data: the primary that was cut off before is taken all the same.
#[test]
fn the_newest_data_may_be_those_of_a_keeper_that_is_not_ahead() {
    let mut world = gone_back(Some(9));
    let mut reports = served(&mut world, 10, 4, 1);
    let standby =
        reports.get_mut(&keeper_uid(2)).unwrap().activity.as_mut().unwrap().served.as_mut().unwrap();
    standby.primary_epoch = None;
    let primary =
        Served { epoch: 8, instance: uid(1), primary_epoch: Some(8), generation: 1, ..standby.clone() };
    reports.get_mut(&keeper_uid(1)).unwrap().activity.as_mut().unwrap().served = Some(primary);
    assert_eq!(ahead(&world.data, &reports).len(), 1);
    let taken = take_newest(&world.data, &keepers_only(&reports), &nobody(), wall(0)).unwrap().0;
    assert_eq!(taken, keeper_uid(1));
}

/// No client goes to the old primary while another proxy is still where it was, and what the document knows of standbys is outdated.
#[test]
fn what_is_settled_sends_clients_nowhere_and_knows_of_no_standby_in_sync() {
    let mut world = gone_back(Some(7)).given(|world| world.db(1).status.synchronous_standbys = uids(&[2]));
    world.data.cluster.status.switchover = Some(Switchover::default());
    let reports = served(&mut world, 9, 4, 2);
    let witnesses = keepers_only(&reports);
    let settled = accept_loss(&world.data, &witnesses, &BTreeSet::from([keeper_uid(2)]), wall(0)).unwrap();
    for next in [settled, newest(&world.data, None, &witnesses, wall(0))] {
        assert_eq!(next.proxy.spec.primary, None);
        assert_eq!(next.instances[&uid(1)].status.synchronous_standbys, None);
        assert!(!next.instances.contains_key(&uid(2)), "it was the primary since, and is made anew");
        assert_eq!(next.instances[&uid(1)].spec.followers, Some(Vec::new()));
        let record = next.cluster.status.switchover.unwrap();
        assert_eq!(record.outcome, Some(SwitchoverOutcome::Canceled), "nobody goes on with what was begun");
    }
}

/// A store can go back to the same document twice. What programs said of the first settlement is no acknowledgement of the second.
#[test]
fn no_generation_is_settled_twice() {
    let mut world = gone_back(Some(7));
    let named = BTreeSet::from([keeper_uid(2)]);
    let reports = served(&mut world, 9, 4, 2);
    let first = accept_loss(&world.data, &keepers_only(&reports), &named, wall(0)).unwrap();
    // Twelve decisions later the store goes back, and keeper1 is away.
    let epoch = first.cluster.epoch.unwrap() + 12;
    let reports = served(&mut world, epoch, 4, 2);
    let second = accept_loss(&world.data, &keepers_only(&reports), &named, wall(30)).unwrap();
    assert!(second.proxy.generation > first.proxy.generation + 12, "{:?}", second.proxy);
    for (uid, instance) in &first.instances {
        assert!(second.instances[uid].generation > instance.generation + 12, "db {uid}");
    }
}

#[test]
fn a_document_whose_primary_is_gone_is_nothing_to_go_on_from() {
    for held in [uid(8), InstanceUid::default()] {
        let mut world = gone_back(Some(7));
        let mut reports = served(&mut world, 9, 4, 2);
        reports.get_mut(&keeper_uid(1)).unwrap().postgres_state.as_mut().unwrap().uid = held;
        let settled =
            accept_loss(&world.data, &keepers_only(&reports), &BTreeSet::from([keeper_uid(2)]), wall(0));
        assert_eq!(settled, Err(CannotSettle::PrimaryGone(keeper_uid(1))));
    }
}

/// The document that a new cluster begins with has an epoch like every other one of ours.
#[test]
fn a_store_that_goes_back_to_the_beginning_is_noticed() {
    let first = ClusterData::initial("cluster1".into(), ClusterSpec::default(), wall(0));
    let mut world = World::normal(2, 2);
    let reports = served(&mut world, first.cluster.epoch.unwrap() + 1, 1, 1);
    assert_eq!(ahead(&first, &reports).len(), 1);
}

#[test]
fn an_instance_that_the_document_does_not_know_can_be_taken_too() {
    let mut world = gone_back(None);
    let reports = served(&mut world, 9, 4, 2);
    world.data.instances.remove(&uid(2));
    world.data.keepers.remove(&keeper_uid(2));
    let (_, next) = take_newest(&world.data, &keepers_only(&reports), &nobody(), wall(0)).unwrap();
    assert_eq!(next.cluster.status.primary, Some(uid(2)));
    assert_eq!(next.instances[&uid(2)].spec.keeper_uid, keeper_uid(2));
    assert!(next.keepers.contains_key(&keeper_uid(2)));
    let mut other = reports;
    other.get_mut(&keeper_uid(2)).unwrap().postgres_state.as_mut().unwrap().uid = uid(8);
    let taken = take_newest(&world.data, &keepers_only(&other), &nobody(), wall(0));
    assert_eq!(taken, Err(CannotSettle::DataGone(keeper_uid(2))));
}

#[test]
fn a_loss_is_accepted_by_name_only() {
    let mut world = gone_back(None);
    let mut reports = served(&mut world, 9, 4, 2);
    let activity = reports.get_mut(&keeper_uid(2)).unwrap().activity.as_mut().unwrap();
    activity.served.as_mut().unwrap().primary_epoch = None;
    let witnesses = keepers_only(&reports);
    let unnamed = accept_loss(&world.data, &witnesses, &nobody(), wall(0));
    assert_eq!(unnamed, Err(CannotSettle::NotNamed(vec![keeper_uid(2)])));
    let named = BTreeSet::from([keeper_uid(2)]);
    let mut next = accept_loss(&world.data, &witnesses, &named, wall(0)).unwrap();
    assert_eq!(next.cluster.status.primary, Some(uid(1)), "the document stays as it is");
    next.cluster.epoch = None;
    assert_eq!(ahead(&next, &reports), [], "also after a program of Stolon has dropped the epoch");
    let quiet = world.current_reports();
    let settled = accept_loss(&world.data, &keepers_only(&quiet), &nobody(), wall(0));
    assert_eq!(settled, Err(CannotSettle::NobodyAhead));
}

/// Whatever was decided, nobody holds what he knows against it: neither a keeper that was away and served under more than those
/// that could be asked, nor a proxy that has seen more.
#[test]
fn what_was_settled_is_the_newest_for_everybody() {
    let mut world = gone_back(Some(7));
    let reports = served(&mut world, 9, 4, 2);
    let named = BTreeSet::from([keeper_uid(2)]);
    let witnesses = keepers_only(&reports);
    let mut away = reports[&keeper_uid(2)].activity.as_ref().unwrap().served.clone().unwrap();
    let proxy =
        ClusterData { proxy: ProxySection { generation: 500, ..Default::default() }, ..world.data.clone() };
    let seen = Version { epoch: Some(19), ..Version::of(&proxy) };
    for mut next in [
        take_newest(&world.data, &witnesses, &nobody(), wall(0)).unwrap().1,
        accept_loss(&world.data, &witnesses, &named, wall(0)).unwrap(),
        newest(&world.data, None, &witnesses, wall(0)),
    ] {
        (away.epoch, away.generation) = (19, 30);
        for number in [1, 2] {
            away.instance = uid(number);
            let report = KeeperReport {
                uid: keeper_uid(3),
                cluster_uid: "cluster1".into(),
                activity: Some(KeeperActivity { served: Some(away.clone()), ..KeeperActivity::default() }),
                ..KeeperReport::default()
            };
            let reports = BTreeMap::from([(keeper_uid(3), report)]);
            assert_eq!(ahead(&next, &reports), [], "db{number}");
            assert!(!Version::of(&next).is_older_than(&seen));
            let epoch = next.cluster.epoch.take();
            // One that is to be made anew is judged by its timeline then.
            if next.instances.contains_key(&uid(number)) {
                assert_eq!(
                    ahead(&next, &reports),
                    [],
                    "db{number} after a program of Stolon dropped the epoch"
                );
            }
            assert!(!Version::of(&next).is_older_than(&seen));
            next.cluster.epoch = epoch;
        }
    }
}

/// What a sentinel holds on to can be lifted, although the keeper that it knows of is dead and its report is gone.
#[test]
fn the_last_words_of_a_dead_keeper_can_be_given_up() {
    let mut world = gone_back(Some(7));
    let reports = served(&mut world, 9, 2, 2);
    world.round_on(&reports);
    world.silent.insert(keeper_uid(2));
    let held = world.later(500).round();
    let Some(Hold::StoreWentBack { ahead }) = held.holds.first() else { panic!("{:?}", held.holds) };
    let keepers = ahead.iter().map(|ahead| (ahead.keeper.clone(), ahead.served.clone())).collect();
    let newer =
        NewerData { cluster_uid: "cluster1".into(), epoch: world.memory.epoch, keepers: Some(keepers) };
    let sentinel = SentinelReport { uid: "s1".into(), newer: Some(newer), ..SentinelReport::default() };
    let sentinels = BTreeMap::from([("s1".into(), sentinel)]);
    let keepers = world.current_reports();
    let witnesses = Witnesses { keepers: &keepers, sentinels: &sentinels };
    let taken = take_newest(&world.data, &witnesses, &nobody(), wall(0));
    assert_eq!(taken, Err(CannotSettle::Silent(keeper_uid(2))));
    let unnamed = accept_loss(&world.data, &witnesses, &nobody(), wall(0));
    assert_eq!(unnamed, Err(CannotSettle::NotNamed(vec![keeper_uid(2)])));
    world.data = accept_loss(&world.data, &witnesses, &BTreeSet::from([keeper_uid(2)]), wall(0)).unwrap();
    assert_eq!(witnesses.ahead(&world.data), [], "a sentinel that died then holds nothing up");
    let decision = world.later(500).round();
    assert!(!has_hold(&decision, |hold| matches!(hold, Hold::StoreWentBack { .. })), "{:?}", decision.holds);
}

/// What a sentinel alone remembers is lifted by the same decision, and by nothing that is not asked for.
#[test]
fn what_a_sentinel_has_seen_can_be_given_up() {
    let mut world = World::normal(2, 2).given(|world| world.data.cluster.epoch = Some(9));
    world.standing = Standing::Follower;
    world.round();
    world.standing = Standing::Leader;
    world.data.cluster.epoch = Some(7);
    let held = world.later(500).round();
    assert!(has_hold(&held, |hold| matches!(hold, Hold::DocumentWentBack { .. })), "seen before it led");
    let newer = NewerData { cluster_uid: "cluster1".into(), epoch: world.memory.epoch, keepers: None };
    let sentinel = SentinelReport { uid: "s1".into(), newer: Some(newer), ..SentinelReport::default() };
    let sentinels = BTreeMap::from([("s1".into(), sentinel)]);
    let keepers = world.current_reports();
    let witnesses = Witnesses { keepers: &keepers, sentinels: &sentinels };
    assert_eq!(witnesses.saw_newer(&world.data)[0].epoch, 9);
    world.data = accept_loss(&world.data, &witnesses, &nobody(), wall(0)).unwrap();
    assert_eq!(witnesses.saw_newer(&world.data), []);
    let decision = world.later(500).round();
    assert!(
        !has_hold(&decision, |hold| matches!(hold, Hold::DocumentWentBack { .. })),
        "{:?}",
        decision.holds
    );
    assert_eq!(accept_loss(&world.data, &witnesses, &nobody(), wall(0)), Err(CannotSettle::NobodyAhead));
}

#[test]
fn an_older_document_is_told_from_a_newer_one() {
    let mut newer = World::normal(2, 2).data;
    let older = newer.clone();
    assert_eq!(older_than(&older, &newer), None);
    newer.proxy.generation += 1;
    assert_eq!(older_than(&older, &newer), Some(Older::Proxy { own: 1, other: 2 }));
    newer.instances.get_mut(&uid(2)).unwrap().generation = 5;
    assert_eq!(
        older_than(&older, &newer),
        Some(Older::Generation { keeper: keeper_uid(2), own: 1, other: 5 })
    );
    assert_eq!(older_than(&newer, &older), None);
}

/// A standby that was restarted shows how far it has replayed, which is less than what it had received. Nothing is lost: it is a candidate
/// again as soon as it has replayed that.
#[test]
fn a_standby_that_replays_after_a_restart_is_a_candidate_in_the_end() {
    let mut world = World::synchronous(2, &[2], &[2]).given(|world| {
        world.db(1).status.lsn = Lsn(10_000_000);
        world.db(2).status.lsn = Lsn(10_000_000);
    });
    world.in_sync.insert(uid(1), vec![uid(2)]);
    world.round();
    world.break_db(1);
    for replayed in [2_000_000, 6_000_000, 9_000_000] {
        world.db(2).status.lsn = Lsn(replayed);
        world.later(500).round();
        assert_eq!(world.data.cluster.status.primary, Some(uid(1)), "{replayed}");
    }
    world.db(2).status.lsn = Lsn(9_999_000);
    world.later(500).round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
}

/// A virtual machine that was restored from a snapshot acknowledges what it no longer has.
#[test]
fn a_standby_that_was_set_back_is_no_candidate() {
    for (lost, electable) in [(600 * 1024, false), (8 * 1024, true)] {
        let mut world = World::synchronous(2, &[2], &[2]).given(|world| {
            world.db(1).status.lsn = Lsn(10_000_000);
            world.db(2).status.lsn = Lsn(10_000_000);
        });
        world.in_sync.insert(uid(1), vec![uid(2)]);
        world.round();
        world.db(2).status.lsn = Lsn(10_000_000 - lost);
        world.break_db(1);
        let decision = world.later(500).round();
        assert_eq!(world.data.cluster.status.primary == Some(uid(2)), electable, "lost {lost}");
        let set_back = has_hold(&decision, |hold| match hold {
            Hold::NoEligibleStandby { rejected, .. } => matches!(rejected[0].1, Rejection::WentBack { .. }),
            _ => false,
        });
        assert_eq!(set_back, !electable, "{:?}", decision.holds);
    }
}

/// A host is set back just as the primary fails: its standby is elected by its last words, and its keeper does not promote it
/// (`a_standby_that_lacks_what_it_was_elected_for_is_not_promoted`). Another standby that holds more takes over; in synchronous mode only the
/// former primary is known to hold everything.
#[test]
fn who_was_set_back_before_it_was_promoted_is_replaced() {
    for (mut world, successor) in [(World::synchronous(3, &[2], &[2]), 1), (World::normal(3, 3), 3)] {
        for number in 1..=3 {
            world.db(number).status.lsn = Lsn(10_000_000);
        }
        world.in_sync.insert(uid(1), vec![uid(2)]);
        world.round();
        world.break_db(1);
        world.later(500).round();
        assert_eq!(world.data.cluster.status.primary, Some(uid(2)));
        if successor == 1 {
            world.down.remove(&uid(1));
            world.db(1).status.current_generation = world.db(1).generation;
        }
        world.db(2).status.lsn = Lsn(5_000_000);
        let because = (0..4).find_map(|_| {
            let changes = world.later(500).round().changes;
            changes.into_iter().find_map(|change| match change {
                Change::PrimaryElected { to, because, .. } => Some((to, because)),
                _ => None,
            })
        });
        let (own, before) = (Lsn(5_000_000), Lsn(10_000_000));
        let expected = PrimaryFault::WentBack { keeper: keeper_uid(2), own, before };
        assert_eq!(because, Some((uid(successor), expected)));
    }
}

/// Nobody holds more than a primary that was set back: it stays.
#[test]
fn a_primary_that_was_set_back_stays_unless_somebody_holds_more() {
    for (theirs, stays) in [(10_000_000, false), (5_100_000, true)] {
        let mut world = World::normal(2, 2);
        world.db(1).status.lsn = Lsn(10_000_000);
        world.db(2).status.lsn = Lsn(theirs);
        world.round();
        world.db(1).status.lsn = Lsn(5_000_000);
        for _ in 0..3 {
            world.later(500).round();
        }
        assert_eq!(world.data.cluster.status.primary, Some(uid(if stays { 1 } else { 2 })), "{theirs}");
    }
}

/// It lost what it had acknowledged: until it has been waited for and has caught up, it is none of those that hold every commit.
#[test]
fn a_standby_in_sync_that_was_set_back_is_admitted_anew() {
    let mut world = World::synchronous(2, &[2], &[2]).given(|world| {
        world.db(1).status.lsn = Lsn(10_000_000);
        world.db(2).status.lsn = Lsn(10_000_000);
    });
    world.in_sync.insert(uid(1), vec![uid(2)]);
    world.round();
    assert_eq!(world.db(1).status.synchronous_standbys, uids(&[2]));
    world.db(2).status.lsn = Lsn(9_000_000);
    world.later(500).round();
    let primary = world.db(1);
    assert_eq!(
        (&primary.spec.synchronous_standbys, &primary.status.synchronous_standbys),
        (&uids(&[2]), &uids(&[]))
    );
    world.db(2).status.lsn = Lsn(9_900_000);
    world.later(500).round();
    assert_eq!(
        world.db(1).status.synchronous_standbys,
        uids(&[]),
        "it is there again, but what of what it acknowledged since?"
    );
    for _ in 0..4 {
        world.db(2).status.lsn = Lsn(10_000_000);
        world.later(500).round();
    }
    assert_eq!(world.db(1).status.synchronous_standbys, uids(&[2]));
}

/// The next sentinel finds a document in which the position is the lower one already.
#[test]
fn where_a_standby_was_before_it_was_set_back_outlives_the_sentinel() {
    let mut world = World::normal(2, 2).given(|world| {
        world.db(1).status.lsn = Lsn(10_000_000);
        world.db(2).status.lsn = Lsn(10_000_000);
    });
    world.round();
    world.db(2).status.lsn = Lsn(9_000_000);
    world.later(500).round();
    world.db(2).status.lsn = Lsn(9_000_000);
    world.memory = Memory::default();
    world.later(500).round();
    world.later(500).round();
    world.break_db(1);
    let decision = world.later(500).round();
    let (own, before) = (Lsn(9_000_000), Lsn(10_000_000));
    assert!(
        has_hold(&decision, |hold| matches!(hold, Hold::NoEligibleStandby { rejected, .. }
            if *rejected == [(uid(2), Rejection::WentBack { own, before })])),
        "{:?}",
        decision.holds
    );
    world.db(2).status.lsn = before;
    world.later(500).round();
    assert_eq!(world.data.cluster.status.primary, Some(uid(2)), "it has caught up");
    assert_eq!(world.db(2).status.was_at, None);
}
