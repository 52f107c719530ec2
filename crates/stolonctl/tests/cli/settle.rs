//! `stolonctl settle`, and older documents that `clusterdata write` refuses.

use std::time::Duration;

use stolon_model::{
    ClusterDocument, Document, KeeperActivity, KeeperReport, KeeperUid, NewerData, PostgresState,
    SentinelReport, Served,
};

use crate::harness::Ctl;

const TTL: Duration = Duration::from_secs(60);

/// What the standby's keeper would tell if it had served under newer cluster data than those in the store.
fn newer(document: &ClusterDocument) -> (KeeperUid, Served) {
    let cluster = document.cluster.as_ref().unwrap();
    let mut instances = document.instances.as_ref().unwrap().values();
    let standby = instances.find(|it| Some(&it.uid) != cluster.status.primary.as_ref()).unwrap();
    let served = Served {
        cluster_uid: cluster.uid.clone(),
        epoch: 9,
        instance: standby.uid.clone(),
        primary_epoch: Some(9),
        generation: standby.generation + 3,
        timeline: standby.status.timeline,
        lsn: standby.status.lsn,
    };
    (standby.spec.keeper_uid.clone(), served)
}

fn cluster() -> Ctl {
    let ctl = Ctl::sqlite();
    ctl.write(include_str!("../../../stolon-model/tests/golden/two_keepers_synchronous.json"));
    ctl
}

/// The standby's keeper has served under newer cluster data than those in the store, and reports that.
async fn gone_back() -> (Ctl, KeeperUid) {
    let ctl = cluster();
    let (keeper, served) = newer(&ctl.document());
    let state = PostgresState { uid: served.instance.clone(), ..PostgresState::default() };
    let report = KeeperReport {
        uid: keeper.clone(),
        cluster_uid: served.cluster_uid.clone(),
        info_uid: "1".into(),
        postgres_state: Some(state),
        activity: Some(KeeperActivity { served: Some(served), ..KeeperActivity::default() }),
        ..KeeperReport::default()
    };
    ctl.store().put_keeper_report(&report, TTL).await.unwrap();
    (ctl, keeper)
}

/// A sentinel holds because of what it knows; nobody else tells of it.
async fn held(ctl: &Ctl, epoch: u64, keepers: Vec<(KeeperUid, Served)>) {
    let cluster_uid = ctl.document().cluster.unwrap().uid;
    let keepers = Some(keepers.into_iter().collect());
    let newer = Some(NewerData { cluster_uid, epoch, keepers });
    let report = SentinelReport { uid: "s1".into(), newer, ..SentinelReport::default() };
    ctl.store().put_sentinel_report(&report, TTL).await.unwrap();
}

const SETTLED: &str = "nobody has served under newer cluster data than those in the store\n";

#[tokio::test]
async fn the_newest_data_are_taken() {
    let (ctl, keeper) = gone_back().await;
    let before = ctl.document();
    let shown = ctl.run(&["settle"]);
    assert_eq!(shown.code, Some(1));
    assert!(shown.stdout.starts_with(&format!("{keeper}: db ")), "{}", shown.stdout);
    assert!(shown.stdout.contains(", master under epoch 9\n"), "{}", shown.stdout);
    assert!(shown.stderr.contains("--take-newest"), "{}", shown.stderr);
    assert_eq!(ctl.document(), before, "it only shows");
    let run = ctl.run(&["settle", "--take-newest"]);
    assert_eq!((run.code, run.stderr), (Some(0), format!("the newest data are those of keeper {keeper}\n")));
    let document = ctl.document();
    let primary = document.cluster.unwrap().status.primary.unwrap();
    assert_eq!(document.instances.unwrap()[&primary].spec.keeper_uid, keeper);
    assert_eq!(document.proxy.unwrap().spec.primary, None);
    assert_eq!(ctl.done(&["settle"]), SETTLED);
    assert_eq!(ctl.run(&["settle", "--take-newest"]).code, Some(1), "there is nothing to settle");
}

#[tokio::test]
async fn a_loss_must_be_accepted_by_name() {
    let (ctl, keeper) = gone_back().await;
    let before = ctl.document();
    for other in [vec!["--accept-data-loss", "keeper9"], vec!["--accept-data-loss"]] {
        let run = ctl.run(&[vec!["settle"], other].concat());
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.stderr.contains(keeper.as_str()), "{run:?}");
        assert_eq!(ctl.document(), before);
    }
    assert_eq!(ctl.run(&["settle", "--accept-data-loss", keeper.as_str()]).code, Some(0));
    assert_eq!(ctl.done(&["settle"]), SETTLED);
    let (before, after) = (before.cluster.unwrap(), ctl.document().cluster.unwrap());
    assert_eq!(after.status.primary, before.status.primary);
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap();
    assert!(after.epoch.is_some_and(|epoch| (now - 600..=now).contains(&epoch)), "{:?}", after.epoch);
}

/// The keeper that was furthest will never come back. Its report is gone, and a sentinel remembers it.
#[tokio::test]
async fn what_a_dead_keeper_held_is_given_up_by_name() {
    let ctl = cluster();
    let (keeper, served) = newer(&ctl.document());
    held(&ctl, 9, vec![(keeper.clone(), served)]).await;
    let run = ctl.run(&["settle", "--take-newest"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.starts_with(&format!("keeper {keeper} has served last and does not report\n")),
        "{run:?}"
    );
    assert_eq!(ctl.run(&["settle", "--accept-data-loss", keeper.as_str()]).code, Some(0));
    assert_eq!(ctl.done(&["settle"]), SETTLED, "the sentinel's word is outdated now");
}

#[tokio::test]
async fn what_only_a_sentinel_has_seen_needs_no_name() {
    let ctl = cluster();
    let mut document = ctl.document();
    document.cluster.as_mut().unwrap().epoch = Some(7);
    ctl.write(&document.to_json());
    held(&ctl, 9, Vec::new()).await;
    let shown = ctl.run(&["settle"]);
    assert_eq!((shown.code, shown.stdout.as_str()), (Some(1), "sentinel s1: cluster data of epoch 9\n"));
    let run = ctl.run_with(&["clusterdata", "write", "--yes"], &document.to_json());
    assert!(run.stderr.contains("sentinel s1 has seen a newer one"), "{run:?}");
    assert_eq!(ctl.done(&["settle", "--accept-data-loss"]), "");
    assert_eq!(ctl.done(&["settle"]), SETTLED);
}

#[tokio::test]
async fn an_older_document_is_written_only_by_those_who_accept_the_loss() {
    let (ctl, _) = gone_back().await;
    let saved = ctl.document();
    let run = ctl.run_with(&["clusterdata", "write", "--yes"], &saved.to_json());
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("--allow-data-loss"), "{}", run.stderr);
    assert_eq!(ctl.document(), saved, "nothing was written");
    let run = ctl.run_with(&["clusterdata", "write", "--yes", "--allow-data-loss"], &saved.to_json());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(ctl.done(&["settle"]), SETTLED, "it is the newest now");
    let mut older = saved;
    older.cluster.as_mut().unwrap().epoch = Some(3);
    let run = ctl.run_with(&["clusterdata", "write", "--yes"], &older.to_json());
    assert_eq!(run.code, Some(1), "{}", run.stderr);
}
