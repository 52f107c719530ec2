//! The whole keeper and cluster data from before what somebody has served under.

use std::collections::BTreeMap;

use stolon_core::keeper::*;
use stolon_model::{
    InstanceInitMode as Init, KeeperActivity, KeeperReport, Lsn, NewerData, Role, SentinelReport, Served,
};

use crate::given::*;
use crate::world::{World, seconds, serving};

/// It was promoted under cluster data that nobody has any more.
#[test]
fn a_standby_with_the_data_of_a_primary_is_reported() {
    let holds_primary_data =
        |world: &World| world.report().activity.as_ref().is_some_and(|activity| activity.holds_primary_data);
    let mut world = World::with(asked(Role::Standby, Init::None), DataKind::Primary);
    world.run(seconds(10));
    assert!(holds_primary_data(&world), "{:?}", world.log);
    assert_eq!(world.report().postgres_state.as_ref().map(|state| state.uid.as_str()), Some("us"));
    world.cluster = asked(Role::Primary, Init::None);
    world.change(|cluster| ours(cluster).generation += 1);
    world.run(seconds(10));
    assert_eq!((world.reported(), holds_primary_data(&world)), ((true, 4), false), "{:?}", world.log);
}

#[test]
fn cluster_data_older_than_what_was_served_under_are_not_followed() {
    let mut served = Served::default();
    (served.cluster_uid, served.epoch, served.instance) = ("c1".into(), 5, "old".into());
    for (epoch, followed) in [(Some(4), false), (Some(5), true), (Some(6), true)] {
        let mut cluster = asked(Role::Standby, Init::Resync);
        cluster.cluster.epoch = epoch;
        let local = complete("old");
        let mut world = World::after(cluster, local, present(DataKind::Primary), Some(served.clone()));
        world.run(seconds(60));
        assert_eq!(world.steps_since(0).contains("copy"), followed, "{epoch:?} {:?}", world.log);
        assert_eq!(world.problem().contains("older"), !followed, "{:?}", world.problem());
        assert!(world.report().activity.as_ref().unwrap().served.is_some(), "the sentinel is told");
    }
}

/// The standby that was elected had been copied moments before, so that it has no WAL from before that; the position that this one wrote
/// down is older, and its last checkpoint is not.
#[test]
fn a_former_primary_is_rewound_where_its_last_checkpoint_lies_in_what_its_source_has() {
    let served = Served {
        cluster_uid: "c1".into(),
        instance: "old".into(),
        lsn: Lsn(0x3FF_FFFF),
        ..Served::default()
    };
    for (checkpoint, way) in [(None, "copy"), (Some(0x3FF_0028), "copy"), (Some(0x400_0028), "rewind")] {
        let mut cluster = asked(Role::Standby, Init::Resync);
        ours(&mut cluster).spec.use_pg_rewind = true;
        let source = cluster.instances.get_mut(&"pp".into()).unwrap();
        source.status.older_wal_file = "000000010000000000000004".into();
        let mut world =
            World::after(cluster, complete("old"), present(DataKind::Primary), Some(served.clone()));
        world.postgres_mut().checkpoint = checkpoint.map(Lsn);
        world.run(seconds(20));
        let steps = world.steps_since(0);
        assert!(steps.split_whitespace().any(|step| step == way), "{checkpoint:x?}: {steps}");
    }
}

/// A keeper that was down while the store went back in time knows of nothing newer: another one does, or a sentinel that remembers it.
#[test]
fn no_older_primary_is_started_while_somebody_has_served_under_newer_cluster_data() {
    let mut cluster = synchronous();
    cluster.cluster.epoch = Some(5);
    let served = Served { cluster_uid: "c1".into(), epoch: 9, instance: "bb".into(), ..Served::default() };
    let mut report = KeeperReport::default();
    report.uid = "k3".into();
    report.activity = Some(KeeperActivity { served: Some(served.clone()), ..KeeperActivity::default() });
    let keepers = BTreeMap::from([("k3".into(), report)]);
    let newer = NewerData {
        cluster_uid: "c1".into(),
        epoch: 9,
        keepers: Some(BTreeMap::from([("k3".into(), served)])),
    };
    let sentinel = SentinelReport { newer: Some(newer), ..SentinelReport::default() };
    let sentinels = BTreeMap::from([("s1".into(), sentinel)]);
    for others in [
        Reports { keepers: keepers.clone(), ..Reports::default() },
        Reports { sentinels, ..Reports::default() },
    ] {
        for kind in [DataKind::Primary, DataKind::Standby] {
            let mut world = World::with(cluster.clone(), kind);
            world.others = Ok(others.clone());
            world.run(seconds(60));
            let steps = world.steps_since(0);
            assert!(!world.postgres().running || world.postgres().in_recovery, "{kind:?}: {steps}");
            assert!(
                world.problem().contains("what keeper k3 served under (epoch 5 after epoch 9)"),
                "{kind:?}"
            );
            // An operator settles, and raises the epoch.
            world.change(|cluster| cluster.cluster.epoch = Some(10));
            world.run(seconds(20));
            assert!(world.postgres().running && !world.postgres().in_recovery, "{kind:?}: {:?}", world.log);
        }
    }
}

/// What our own report said before is on our own disk, and what belongs to another cluster says nothing.
#[test]
fn a_report_of_ours_or_of_another_cluster_keeps_no_primary_down() {
    let mut cluster = synchronous();
    cluster.cluster.epoch = Some(5);
    for (uid, of) in [("k1", "c1"), ("k3", "c2")] {
        let served = Served { cluster_uid: of.into(), epoch: 9, ..Served::default() };
        let mut report = KeeperReport::default();
        report.activity = Some(KeeperActivity { served: Some(served), ..KeeperActivity::default() });
        let mut world = World::with(cluster.clone(), DataKind::Primary);
        world.others = Ok(Reports { keepers: BTreeMap::from([(uid.into(), report)]), ..Reports::default() });
        world.run(seconds(5));
        assert!(world.postgres().running, "{uid} {of}: {:?}", world.log);
    }
}

#[test]
fn reports_that_cannot_be_read_keep_no_primary_down_for_long() {
    let mut world = World::with(synchronous(), DataKind::Primary);
    world.others = Err("broken");
    world.run(seconds(5));
    assert!(!world.postgres().running, "{:?}", world.log);
    assert!(world.problem().contains("the reports of the other keepers cannot be read: broken"));
    world.run(seconds(20));
    assert!(world.postgres().running, "{:?}", world.log);
}

#[test]
fn what_was_served_under_is_remembered_on_the_disk() {
    let mut cluster = asked(Role::Primary, Init::None);
    cluster.cluster.epoch = Some(7);
    let mut world = serving(cluster);
    let served = |world: &World| {
        let file = world.files.iter().rev().find_map(|file| match file {
            StateFile::Served(served) => Some(served.clone()),
            _ => None,
        });
        file.expect("served").epoch
    };
    assert_eq!(served(&world), 7);
    world.change(|cluster| cluster.cluster.epoch = Some(8));
    world.run(seconds(10));
    assert_eq!(served(&world), 8);
    let old = world.cluster.clone();
    world.change(|cluster| {
        cluster.cluster.epoch = Some(6);
        cluster.instances.remove(&"us".into());
    });
    world.run(seconds(30));
    assert!(world.postgres().running, "an older document does not even stop it");
    assert_eq!(served(&world), 8);
    world.change(|cluster| *cluster = old);
    world.run(seconds(30));
    assert_eq!(world.problem(), "");
}
