use stolon_model::{ClusterDocument, Document, KeeperActivity};

use super::*;

const DOCUMENT: &str = r#"{"formatVersion":1,"changeTime":"2026-01-02T03:04:05Z","cluster":{"uid":"c","generation":1,"changeTime":"0001-01-01T00:00:00Z","spec":{"initMode":"new"},"status":{"phase":"normal","master":"aa"}},
"keepers":{"k1":{"uid":"k1","status":{"healthy":true}},"k2":{"uid":"k2","status":{"healthy":true}}},
"dbs":{"aa":{"uid":"aa","generation":3,"spec":{"keeperUID":"k1","role":"master","initMode":"none","followers":["bb"]},"status":{"healthy":true,"currentGeneration":3,"systemdID":"7","timelineID":1}},
"bb":{"uid":"bb","generation":2,"spec":{"keeperUID":"k2","role":"standby","initMode":"none","followConfig":{"type":"internal","dbuid":"aa"}},"status":{"healthy":true,"currentGeneration":2,"systemdID":"7","timelineID":1}}},
"proxy":{"generation":1,"spec":{"masterDBUID":"aa"}}}"#;

/// The findings in words, with a leader.
fn judged(change: impl FnOnce(&mut ClusterDocument), reports: &[KeeperReport]) -> Vec<String> {
    let mut document = ClusterDocument::from_json(DOCUMENT).unwrap();
    change(&mut document);
    let cluster = UsableCluster::try_from(document).unwrap();
    let keepers = reports.iter().map(|report| (report.uid.clone(), report.clone())).collect();
    let leader = SentinelUid::from("s");
    let sentinels = [leader.clone()];
    let evidence = Evidence {
        cluster: &cluster,
        keepers: &keepers,
        proxies: &BTreeMap::new(),
        sentinels: &sentinels,
        leader: Some(&leader),
    };
    findings(evidence).iter().map(|it| format!("{}: {it}", it.condition())).collect()
}

fn primary_of(document: &mut ClusterDocument) -> &mut Instance {
    document.instances.as_mut().unwrap().get_mut(&InstanceUid::from("aa")).unwrap()
}

fn synchronous(standbys: &[&str]) -> impl FnOnce(&mut ClusterDocument) {
    let standbys = standbys.iter().map(|uid| InstanceUid::from(*uid)).collect();
    move |document| {
        let primary = primary_of(document);
        primary.spec.synchronous_replication = true;
        primary.spec.synchronous_standbys = Some(standbys);
        primary.status.synchronous_standbys = primary.spec.synchronous_standbys.clone();
    }
}

fn report(in_sync: &[&str]) -> KeeperReport {
    let mut state = stolon_model::PostgresState::default();
    state.synchronous_standbys = Some(in_sync.iter().map(|uid| InstanceUid::from(*uid)).collect());
    KeeperReport { uid: "k1".into(), postgres_state: Some(state), ..KeeperReport::default() }
}

#[test]
fn a_cluster_in_which_everything_works_is_well() {
    assert_eq!(judged(|_| {}, &[]), Vec::<String>::new());
    assert_eq!(judged(synchronous(&["bb"]), &[report(&["bb"])]), Vec::<String>::new());
    assert_eq!(condition(&[]), Condition::Well);
}

#[test]
fn a_standby_in_sync_that_confirms_nothing_holds_commits_up() {
    let mut stalled = report(&["bb"]);
    let pace = |pace| Some([("bb".into(), pace), ("cc".into(), StandbyPace::Stalled)].into());
    let activity = |pace| Some(KeeperActivity { standby_pace: pace, ..KeeperActivity::default() });
    stalled.activity = activity(pace(StandbyPace::Stalled));
    assert_eq!(
        judged(synchronous(&["bb"]), &[stalled.clone()]),
        ["no writes: commits wait for standbys that have confirmed nothing for seconds: k2"]
    );
    stalled.activity = activity(pace(StandbyPace::Behind));
    assert_eq!(judged(synchronous(&["bb"]), &[stalled]), Vec::<String>::new());
}

#[test]
fn commits_that_wait_come_first() {
    assert_eq!(
        judged(synchronous(&["bb"]), &[report(&[])]),
        ["no writes: commits wait for standbys that are not in sync: k2"]
    );
    assert_eq!(
        judged(synchronous(&[]), &[report(&[])]),
        [
            "no writes: commits wait: no standby can acknowledge them, and minSynchronousStandbys is 1",
            "degraded: no standby could take over now"
        ]
    );
    let nobody_needed = |document: &mut ClusterDocument| {
        synchronous(&[])(document);
        let spec = document.cluster.as_mut().unwrap().spec.as_mut().unwrap();
        spec.min_synchronous_standbys = Some(0);
    };
    assert_eq!(judged(nobody_needed, &[report(&[])]), ["degraded: no standby could take over now"]);
    // What the primary's keeper has not looked at is not known.
    assert_eq!(judged(synchronous(&["bb"]), &[]), Vec::<String>::new());
}

#[test]
fn each_failure_has_its_sentence() {
    let keeper = |document: &mut ClusterDocument, uid: &str| {
        document.keepers.as_mut().unwrap().get_mut(&KeeperUid::from(uid)).unwrap().status.healthy = false;
    };
    let takes_over = "degraded: no standby could take over now";
    assert_eq!(judged(|it| keeper(it, "k1"), &[]), ["no writes: the master keeper k1 does not report"]);
    assert_eq!(judged(|it| keeper(it, "k2"), &[]), ["degraded: keeper k2 does not report", takes_over]);
    assert_eq!(
        judged(|it| primary_of(it).status.healthy = false, &[]),
        ["no writes: PostgreSQL of the master keeper k1 does not work"]
    );
    let closed = |it: &mut ClusterDocument| it.proxy.as_mut().unwrap().spec.primary = None;
    assert_eq!(judged(closed, &[]), ["no writes: the proxies are closed"]);
    let mut troubled = report(&[]);
    troubled.activity = Some(stolon_model::KeeperActivity {
        problem: "no space\nleft".to_owned(),
        ..stolon_model::KeeperActivity::default()
    });
    assert_eq!(judged(|_| {}, &[troubled]), ["degraded: k1: no space left"]);
}

#[test]
fn a_disk_that_takes_nothing_is_named_and_the_primary_s_means_no_writes() {
    let on =
        |keeper: &str, activity| KeeperReport { uid: keeper.into(), activity: Some(activity), ..report(&[]) };
    let with = |fault| stolon_model::KeeperActivity {
        disk: Some(DiskReport {
            fault: Some(fault),
            place: "wal".into(),
            words: "EIO".into(),
            lasting: false,
        }),
        ..stolon_model::KeeperActivity::default()
    };
    assert_eq!(
        judged(|_| {}, &[on("k1", with(DiskFault::Full)), on("k2", with(DiskFault::Hangs))]),
        [
            "no writes: the master keeper k1: the disk for wal is full",
            "degraded: no standby could take over now",
            "degraded: keeper k2: the disk for wal hangs: what is written does not arrive",
        ]
    );
    let fails = "no writes: the master keeper k1: the disk for wal takes nothing: EIO";
    assert_eq!(judged(|_| {}, &[on("k1", with(DiskFault::Fails))]), [fails]);
    let room = |free| stolon_model::KeeperActivity {
        file_systems: Some(vec![FileSystemReport {
            uses: Some(vec!["data".into(), "wal".into()]),
            total_bytes: 10 << 30,
            free_bytes: free,
        }]),
        ..stolon_model::KeeperActivity::default()
    };
    let nearly = "degraded: the file system of k2 for data, wal has only 500.0 MiB left";
    assert_eq!(judged(|_| {}, &[on("k2", room(500 << 20))]), [nearly]);
    assert_eq!(judged(|_| {}, &[on("k2", room(513 << 20))]), Vec::<String>::new());
}

#[test]
fn wal_that_does_not_get_to_the_archive_is_named_with_since_when_and_what_to_do() {
    let on = |fault, waiting_files| KeeperReport {
        uid: "k1".into(),
        activity: Some(KeeperActivity {
            archiver: Some(ArchiverReport {
                fault,
                waiting_files,
                first_waiting: "000000010000000000000003".into(),
                waiting_since: Some("2026-01-02T03:04:05Z".parse().unwrap()),
                failures: 3,
                last_failed: "000000010000000000000003".into(),
                last_archived_at: None,
            }),
            ..KeeperActivity::default()
        }),
        ..report(&[])
    };
    let begin = "degraded: keeper k1: WAL is not archived: 000000010000000000000003 has waited since 2026-01-02T03:04:05Z";
    let end = "; until then pg_wal grows, and recovery to a point in time ends before this file";
    let fails = "; archive_command or archive_library failed last for 000000010000000000000003: see PostgreSQL's log, and mend it";
    let waits = "; archive_command or archive_library hangs, does not keep up, or is not set: look at what it waits for";
    assert_eq!(judged(|_| {}, &[on(Some(ArchiverFault::Fails), 1)]), [format!("{begin}{fails}{end}")]);
    let others = ", and 8 files after it";
    assert_eq!(
        judged(|_| {}, &[on(Some(ArchiverFault::Waits), 9)]),
        [format!("{begin}{others}{waits}{end}")]
    );
    assert_eq!(judged(|_| {}, &[on(None, 1)]), Vec::<String>::new());
}

#[test]
fn slots_that_are_about_to_be_let_go_are_named_with_whom_they_are_for() {
    let slot = |name: &str, held: u64, left| SlotReport {
        name: name.to_owned(),
        held_bytes: Some(held << 20),
        left_bytes: left,
        ..SlotReport::default()
    };
    let mut holding = report(&[]);
    holding.activity = Some(stolon_model::KeeperActivity {
        slots: Some(vec![
            slot("stolon_bb", 65, Some(64 << 20)),
            slot("backup", 100, Some(0)),
            slot("stolon_far", 64, Some(64 << 20)),
            slot("unbounded", 1 << 30, None),
        ]),
        ..stolon_model::KeeperActivity::default()
    });
    assert_eq!(
        judged(|_| {}, &[holding]),
        [
            "degraded: the replication slot stolon_bb of k1 holds 65.0 MiB of WAL: after another 64.0 MiB k2 lacks WAL, and is \
                 copied anew when it is back",
            "degraded: the replication slot backup of k1 holds 100.0 MiB of WAL: after another 0 B whoever uses it lacks WAL"
        ]
    );
}

#[test]
fn nobody_decides_without_a_sentinel_that_leads() {
    let cluster = UsableCluster::try_from(ClusterDocument::from_json(DOCUMENT).unwrap()).unwrap();
    let changed = "the cluster data were changed last at 2026-01-02T03:04:05Z";
    for (sentinels, expected) in [
        (&[][..], "no sentinel runs, so nothing is decided: start stolon-sentinel"),
        (&["a".into()][..], "the only sentinel does not lead, so nothing is decided"),
        (&["a".into(), "b".into()][..], "none of 2 sentinels leads, so nothing is decided"),
    ] {
        let evidence = Evidence {
            cluster: &cluster,
            keepers: &BTreeMap::new(),
            proxies: &BTreeMap::new(),
            sentinels,
            leader: None,
        };
        let found = findings(evidence);
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [format!("{expected}; {changed}")]
        );
    }
}

#[test]
fn a_proxy_that_turns_clients_away_is_named_with_where_it_cannot_connect_to() {
    let report = |uid: &str, unreachable: &str| {
        let uid = ProxyUid::from(uid);
        (uid.clone(), ProxyReport { uid, unreachable: unreachable.to_owned(), ..ProxyReport::default() })
    };
    let proxies = [report("a", ""), report("b", "10.0.0.7:5432")].into();
    let found: Vec<Finding> = cannot_reach(&proxies).collect();
    assert_eq!(condition(&found), Condition::Degraded);
    assert_eq!(
        found.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["proxy b cannot connect to 10.0.0.7:5432 and turns clients away: its log says why"]
    );
}
