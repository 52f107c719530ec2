//! `stolonctl recover`: what keepers hold beside a primary that is lost.

use std::time::Duration;

use stolon_model::{
    ClusterDocument, Document, FormerPrimary, KeeperActivity, KeeperReport, KeeperUid, Lsn, PostgresState,
    Served, Timeline,
};

use crate::harness::Ctl;

const TTL: Duration = Duration::from_secs(60);

/// The primary of the golden document is lost, and the other keeper holds the one before it.
async fn lost() -> (Ctl, KeeperUid, KeeperUid) {
    let mut document = ClusterDocument::from_json(include_str!(
        "../../../stolon-model/tests/golden/two_keepers_synchronous.json"
    ))
    .unwrap();
    let cluster = document.cluster.as_mut().unwrap();
    let cluster_uid = cluster.uid.clone();
    let primary = cluster.status.primary.clone().unwrap();
    let instances = document.instances.as_mut().unwrap();
    instances.retain(|uid, _| *uid == primary);
    let lost = instances.get_mut(&primary).unwrap();
    (lost.status.healthy, lost.status.timeline, lost.status.lsn) = (false, Timeline(2), Lsn(0x500_0000));
    let gone = lost.spec.keeper_uid.clone();
    let keepers = document.keepers.as_mut().unwrap();
    keepers.get_mut(&gone).unwrap().status.healthy = false;
    let there = keepers.keys().find(|keeper| **keeper != gone).unwrap().clone();
    cluster.status.formers = Some(vec![FormerPrimary {
        instance: "former".into(),
        keeper: there.clone(),
        timeline: Timeline(2),
        lsn: Lsn(0x400_0000),
        ..FormerPrimary::default()
    }]);
    let ctl = Ctl::sqlite();
    ctl.write(&document.to_json());
    let served = Served {
        cluster_uid: cluster_uid.clone(),
        instance: "former".into(),
        primary_epoch: Some(1),
        generation: 3,
        timeline: Timeline(2),
        lsn: Lsn(0x400_0000),
        ..Served::default()
    };
    let state = PostgresState { uid: "former".into(), generation: 3, ..PostgresState::default() };
    let report = KeeperReport {
        uid: there.clone(),
        cluster_uid,
        info_uid: "1".into(),
        postgres_state: Some(state),
        activity: Some(KeeperActivity { served: Some(served), ..KeeperActivity::default() }),
        ..KeeperReport::default()
    };
    ctl.store().put_keeper_report(&report, TTL).await.unwrap();
    (ctl, there, gone)
}

#[tokio::test]
async fn what_would_be_lost_is_said_before_anything_is_changed() {
    let (ctl, there, gone) = lost().await;
    let before = ctl.document();
    let shown = ctl.done(&["recover"]);
    assert!(shown.contains(&format!("keeper {there} holds db former, a former primary, on timeline 2 up to 0/4000000; going on from it would lose")), "{shown}");
    let asked = ctl.run(&["recover", there.as_str()]);
    assert_eq!(asked.code, Some(1), "{asked:?}");
    assert!(
        asked.stdout.contains(&format!("on keeper {gone}, on timeline 2 at 0/5000000 in its last report")),
        "{asked:?}"
    );
    assert!(
        asked.stdout.contains(
            "lost would be what was committed on timeline 2 after 0/4000000: 16.0 MiB up to 0/5000000"
        ),
        "{asked:?}"
    );
    assert!(asked.stderr.starts_with("nothing was changed\nhint: "), "{asked:?}");
    assert_eq!(ctl.document(), before);

    let done = ctl.run(&["recover", there.as_str(), "--allow-data-loss"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let cluster = ctl.document().cluster.unwrap();
    assert_eq!(cluster.status.primary.unwrap().as_str(), "former");
    let history = cluster.status.history.unwrap();
    let entry = history.last().unwrap();
    assert!(entry.what.starts_with("recover "), "{entry:?}");
    assert!(
        entry.details.iter().flatten().any(|line| line.starts_with("lost is what was committed")),
        "{entry:?}"
    );
}

#[tokio::test]
async fn it_is_refused_where_it_is_not_called_for() {
    let (ctl, _, gone) = lost().await;
    let stderr = format!(
        "keeper {gone} has the master already\nhint: stolonctl status says why it does not work; stolonctl recover shows what others hold\n"
    );
    ctl.refused(&["recover", gone.as_str(), "--allow-data-loss"], 1, &stderr);
    let run = ctl.run(&["recover", "nobody", "--allow-data-loss"]);
    assert!(run.code == Some(1) && run.stderr.starts_with("keeper doesn't exist"), "{run:?}");
    assert_eq!(ctl.run(&["recover", "--allow-data-loss"]).code, Some(2));
}
