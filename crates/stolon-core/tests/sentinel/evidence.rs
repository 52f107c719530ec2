//! A store that went back in time, and hosts that did.

use std::collections::{BTreeMap, BTreeSet};

use stolon_core::sentinel::{
    CannotSettle, Change, Evidence, Hold, Older, Rejection, accept_loss, ahead, older_than, take_newest,
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
        generation,
        timeline: Timeline(timeline),
        lsn: Lsn(5000),
    });
    reports
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
    for (epoch, timeline, expected) in
        [(None, 2, Some(Evidence::Timeline { document: Timeline(1) })), (None, 1, None), (Some(9), 2, None)]
    {
        let mut world = gone_back(epoch);
        let reports = served(&mut world, 9, 5, timeline);
        world.data.instances.remove(&uid(2));
        let found = ahead(&world.data, reports.values());
        assert_eq!(found.first().map(|ahead| ahead.evidence), expected, "timeline {timeline}");
    }
}

#[test]
fn another_cluster_is_no_evidence() {
    let mut world = gone_back(Some(7));
    let reports = served(&mut world, 9, 5, 2);
    world.data.cluster.uid = "cluster2".into();
    assert_eq!(ahead(&world.data, reports.values()), []);
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
    let mut world = World::normal(2, 2);
    world.round();
    assert_eq!(world.data.cluster.epoch, None, "nothing to act on");
    world.break_db(1);
    let reports = served(&mut world, 41, 1, 1);
    world.later(500).round_on(&reports);
    assert_eq!(world.data.cluster.epoch, Some(42), "a sentinel of Stolon had dropped it");
    world.converge();
    world.later(500).round();
    assert_eq!(world.data.cluster.epoch, Some(43));
}

#[test]
fn the_newest_data_can_be_taken() {
    let mut world = gone_back(Some(7));
    let reports = served(&mut world, 9, 4, 2);
    let (keeper, next) = take_newest(&world.data, &reports).unwrap();
    assert_eq!(keeper, keeper_uid(2));
    assert_eq!(next.cluster.status.primary, Some(uid(2)));
    assert_eq!(next.cluster.epoch, Some(10));
    let db2 = &next.instances[&uid(2)];
    assert_eq!((db2.spec.role.clone(), db2.generation), (Some(Role::Primary), 5));
    assert_eq!(next.proxy.spec.primary, None, "clients wait until it is ready");
    assert_eq!(ahead(&next, reports.values()), []);
    world.data = next;
    world.converge();
    let decision = world.later(500).round();
    assert!(!has_hold(&decision, |hold| matches!(hold, Hold::StoreWentBack { .. })));
}

#[test]
fn an_instance_that_the_document_does_not_know_can_be_taken_too() {
    let mut world = gone_back(None);
    let reports = served(&mut world, 9, 4, 2);
    world.data.instances.remove(&uid(2));
    world.data.keepers.remove(&keeper_uid(2));
    let (_, next) = take_newest(&world.data, &reports).unwrap();
    assert_eq!(next.cluster.status.primary, Some(uid(2)));
    assert_eq!(next.instances[&uid(2)].spec.keeper_uid, keeper_uid(2));
    assert!(next.keepers.contains_key(&keeper_uid(2)));
    let mut other = reports;
    other.get_mut(&keeper_uid(2)).unwrap().postgres_state.as_mut().unwrap().uid = uid(8);
    assert_eq!(take_newest(&world.data, &other), Err(CannotSettle::DataGone(keeper_uid(2))));
}

#[test]
fn a_loss_is_accepted_by_name_only() {
    let mut world = gone_back(None);
    let reports = served(&mut world, 9, 4, 2);
    let nobody = BTreeSet::new();
    assert_eq!(accept_loss(&world.data, &reports, &nobody), Err(CannotSettle::NotNamed(vec![keeper_uid(2)])));
    let mut next = accept_loss(&world.data, &reports, &BTreeSet::from([keeper_uid(2)])).unwrap();
    assert_eq!(next.cluster.status.primary, Some(uid(1)), "the document stays as it is");
    next.cluster.epoch = None;
    assert_eq!(ahead(&next, reports.values()), [], "also after a sentinel of Stolon has dropped the epoch");
    let quiet = world.current_reports();
    assert_eq!(accept_loss(&world.data, &quiet, &nobody), Err(CannotSettle::NobodyAhead));
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
