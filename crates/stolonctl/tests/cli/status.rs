//! `stolonctl status`

use std::time::Duration;

use stolon_model::{
    ClusterDocument, Document, FollowConfig, InstanceUid, KeeperActivity, KeeperReport, KeeperUid, Lsn,
    PendingParameter, PostgresState, PostgresVersion, ProxyReport, Role, SentinelReport, SentinelUid,
    SlotReport, Timeline, Timestamp,
};

use crate::harness::{Ctl, Run};

const TTL: Duration = Duration::from_secs(600);

const DOCUMENT: &str = r#"{"formatVersion":1,"changeTime":"0001-01-01T00:00:00Z","cluster":{"uid":"27be116e","generation":1,"changeTime":"0001-01-01T00:00:00Z","spec":{"initMode":"new"},"status":{"phase":"normal","master":"548f3fed"}},
"keepers":{"keeper1":{"uid":"keeper1","status":{"healthy":true}},"keeper2":{"uid":"keeper2","status":{"healthy":true}}},
"dbs":{"548f3fed":{"uid":"548f3fed","generation":3,"spec":{"keeperUID":"keeper1","requestTimeout":"10s","followers":["85ac816c"]},"status":{"healthy":true,"currentGeneration":3,"listenAddress":"127.0.0.1","port":"45431"}},
"85ac816c":{"uid":"85ac816c","generation":2,"spec":{"keeperUID":"keeper2","requestTimeout":"10s","followers":[]},"status":{"healthy":true,"currentGeneration":2,"listenAddress":"127.0.0.1","port":"45432"}}},
"proxy":{}}"#;

const TEXT: &str = "=== Active sentinels ===\n\
\n\
ID\t\tLEADER\n\
70834425\ttrue\n\
\n\
=== Active proxies ===\n\
\n\
ID\n\
237367e2\n\
\n\
=== Keepers ===\n\
\n\
UID\tHEALTHY\tPG LISTENADDRESS\tPG HEALTHY\tPG WANTEDGENERATION\tPG CURRENTGENERATION\n\
keeper1\ttrue\t127.0.0.1:45431\t\ttrue\t\t3\t\t\t3\t\n\
keeper2\ttrue\t127.0.0.1:45432\ttrue\t2\t2\t\n\
\n\
=== Cluster Info ===\n\
\n\
Master Keeper: keeper1\n\
\n\
===== Keepers/DB tree =====\n\
\n\
keeper1 (master)\n\
└─keeper2\n\
\n\
=== Instances ===\n\
\n\
KEEPER\tROLE\tSTATE\tREPLICATION\tTIMELINE\tPOSITION\tLAG\tVERSION\tUPTIME\n\
keeper1\tmaster\trunning\t-\t\t-\t\t-\t\t-\t-\t-\n\
keeper2\tstandby\trunning\tasync\t\t-\t\t-\t\t-\t-\t-\n\
\n\
=== Failover ===\n\
\n\
if the primary failed now: nobody could take over\n\
keeper2 could not: the cluster data do not say what it follows\n\
\n";

const JSON: &str = r#"{
	"sentinels": [
		{
			"uid": "70834425",
			"leader": true
		}
	],
	"proxies": [
		{
			"uid": "237367e2",
			"generation": 2
		}
	],
	"keepers": [
		{
			"uid": "keeper1",
			"listen_address": "127.0.0.1:45431",
			"healthy": true,
			"pg_healthy": true,
			"pg_wanted_generation": 3,
			"pg_current_generation": 3,
			"role": "master"
		},
		{
			"uid": "keeper2",
			"listen_address": "127.0.0.1:45432",
			"healthy": true,
			"pg_healthy": true,
			"pg_wanted_generation": 2,
			"pg_current_generation": 2,
			"role": "standby",
			"replication": "async"
		}
	],
	"cluster": {
		"available": true,
		"master_keeper_uid": "keeper1",
		"master_db_uid": "548f3fed",
		"failover": {
			"ready": false,
			"rejected": [
				{
					"keeper_uid": "keeper2",
					"reason": "the cluster data do not say what it follows"
				}
			],
			"sentence": "if the primary failed now: nobody could take over"
		}
	}
}
"#;

fn sentinel(uid: &str) -> SentinelReport {
    SentinelReport { uid: uid.into(), ..SentinelReport::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_are_those_that_scripts_know() {
    let ctl = Ctl::sqlite();
    ctl.write(DOCUMENT);
    let store = ctl.store();
    let leadership = store.campaign(SentinelUid::from("70834425")).elected().await;
    store.put_sentinel_report(&sentinel("70834425"), TTL).await.unwrap();
    let proxy = ProxyReport { uid: "237367e2".into(), generation: 2, ..ProxyReport::default() };
    store.put_proxy_report(&proxy, TTL).await.unwrap();
    assert_eq!(ctl.done(&["status"]), TEXT);
    assert_eq!(ctl.done(&["status", "--format", "text", "ignored"]), TEXT);
    assert_eq!(ctl.done(&["status", "-f", ""]), TEXT);
    assert_eq!(ctl.done(&["status", "-f", "json"]), JSON);

    // Others that do not lead.
    store.put_sentinel_report(&sentinel("80834425"), TTL).await.unwrap();
    let text = ctl.done(&["status"]);
    assert!(text.contains("ID\t\tLEADER\n70834425\ttrue\n80834425\tfalse\n"), "{text}");

    // The leader says why it waits.
    let mut report = sentinel("70834425");
    report.holds = Some(vec!["waiting for <you>".to_owned()]);
    store.put_sentinel_report(&report, TTL).await.unwrap();
    let text = ctl.done(&["status"]);
    assert!(text.ends_with("\n\n=== Activity and problems ===\n\ncluster: waiting for <you>\n\n"), "{text}");
    let json = ctl.done(&["status", "-f", "json"]);
    assert!(json.contains("\"problems\": [\n\t\t\t\"waiting for \\u003cyou\\u003e\"\n"), "{json}");
    leadership.resign().await;
}

#[test]
fn an_empty_cluster_has_empty_sections() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    let text = ctl.done(&["status"]);
    let ours = text.find("=== Activity").unwrap();
    assert_eq!(
        &text[..ours],
        "=== Active sentinels ===\n\nNo active sentinels\n\n=== Active proxies ===\n\nNo active proxies\n\n\
         === Keepers ===\n\nNo keepers available\n\nNo cluster available\n\n"
    );
    assert_eq!(
        &text[ours..],
        "=== Activity and problems ===\n\n\
         cluster: no sentinel runs, so nothing is decided: start stolon-sentinel\n\
         cluster: no keeper reports: start stolon-keeper on the machines that are to hold the data\n\n"
    );
    let json: serde_json::Value = serde_json::from_str(&ctl.done(&["status", "-f", "json"])).unwrap();
    assert_eq!(json["sentinels"], serde_json::json!([]));
    assert_eq!(json["cluster"]["master_keeper_uid"], "");
    assert_eq!(json["cluster"]["available"], true);
}

#[test]
fn keepers_without_primary_are_followed_directly_by_its_absence() {
    let ctl = Ctl::sqlite();
    let mut document = ClusterDocument::from_json(DOCUMENT).unwrap();
    document.cluster.as_mut().unwrap().status.primary = None;
    let instances = document.instances.as_mut().unwrap();
    instances.remove(&"548f3fed".into());
    let standby = instances.get_mut(&"85ac816c".into()).unwrap();
    standby.status = Default::default();
    ctl.write(&document.to_json());
    let text = ctl.broken(&["status"]);
    assert!(
        text.contains(
            "keeper1\ttrue\t(no db assigned)\tfalse\t\t0\t\t\t0\t\n\
             keeper2\ttrue\t(unknown)\tfalse\t2\t0\t\nNo cluster available\n\n"
        ),
        "{text}"
    );
}

#[test]
fn the_tree_may_be_deep_and_broken() {
    let ctl = Ctl::sqlite();
    let db = |uid: &str, followers: &str| {
        format!(
            r#""{uid}":{{"uid":"{uid}","spec":{{"keeperUID":"k{uid}","requestTimeout":"10s","followers":[{followers}]}},"status":{{"healthy":true}}}}"#
        )
    };
    let dbs = [
        db("1", r#""2","3""#),
        db("2", r#""4","5""#),
        db("3", r#""6","9","1""#),
        db("4", ""),
        db("5", ""),
        db("6", ""),
    ]
    .join(",");
    ctl.write(&format!(
        r#"{{"formatVersion":1,"cluster":{{"spec":{{"initMode":"new"}},"status":{{"master":"1"}}}},"keepers":{{"k1":{{"status":{{"healthy":true}}}}}},"dbs":{{{dbs}}}}}"#
    ));
    let text = ctl.broken(&["status"]);
    assert!(
        text.contains("=====\n\nk1 (master)\n├─k2\n│ ├─k4\n│ └─k5\n└─k3\n  ├─k6\n\n"),
        "an unknown follower and a loop are skipped: {text}"
    );
}

#[test]
fn a_primary_that_the_document_does_not_hold_is_no_crash_and_no_success() {
    let ctl = Ctl::sqlite();
    ctl.write(
        r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new"},"status":{"phase":"normal","master":"1"}}}"#,
    );
    let text = ctl.broken(&["status"]);
    assert!(text.contains("Master Keeper: \n"), "{text}");
    assert!(
        text.contains(
            "cluster: the cluster data are broken: db 1 is named as the master but is not in dbs\n"
        ),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&ctl.broken(&["status", "-f", "json"])).unwrap();
    assert_eq!(json["cluster"]["master_db_uid"], "1");
    assert_eq!(json["cluster"]["available"], false, "there are no dbs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keepers_say_what_they_do_and_what_troubles_them() {
    let ctl = Ctl::sqlite();
    ctl.write(DOCUMENT);
    let report = |uid: &str, activity| KeeperReport {
        uid: KeeperUid::from(uid),
        info_uid: "1".into(),
        activity: Some(activity),
        ..KeeperReport::default()
    };
    let problem = "max_conections is not a parameter of PostgreSQL 15: did you mean max_connections?";
    let first = KeeperActivity {
        parameter_problems: Some(vec![problem.to_owned()]),
        pending_restart: true,
        pending_parameters: Some(vec![
            PendingParameter {
                name: "max_connections".into(),
                in_force: "100".into(),
                wanted: Some("200".into()),
            },
            PendingParameter { name: "wal_level".into(), in_force: "logical".into(), wanted: None },
        ]),
        ..KeeperActivity::default()
    };
    let second = KeeperActivity {
        step: "base backup".to_owned(),
        bytes_done: 12 << 20,
        bytes_total: 48 << 20,
        problem: "cannot reach keeper1:\nconnection refused".to_owned(),
        ..KeeperActivity::default()
    };
    let store = ctl.store();
    store.put_keeper_report(&report("keeper1", first), TTL).await.unwrap();
    store.put_keeper_report(&report("keeper2", second), TTL).await.unwrap();
    let stranger = KeeperActivity { problem: "wrong password".to_owned(), ..KeeperActivity::default() };
    store.put_keeper_report(&report("keeper3", stranger), TTL).await.unwrap();

    let text = ctl.done(&["status"]);
    let ours = format!(
        "=== Activity and problems ===\n\n\
         keeper1: {problem}\n\
         keeper1: PostgreSQL must be restarted for max_connections (100 → 200), wal_level (logical → its default): \
         stolonctl restart, or set automaticPgRestart\n\
         keeper2: base backup, 12.0 MiB of 48.0 MiB (25%)\n\
         keeper2: problem: cannot reach keeper1: connection refused\n\
         cluster: no sentinel runs, so nothing is decided: start stolon-sentinel\n\
         cluster: keeper3, which is not registered: problem: wrong password\n\n"
    );
    assert!(text.ends_with(&ours), "{text}");
    let json: serde_json::Value = serde_json::from_str(&ctl.done(&["status", "-f", "json"])).unwrap();
    assert_eq!(
        json["keepers"][0]["activity"],
        serde_json::json!({
            "parameter_problems": [problem],
            "pending_restart": true,
            "pending_parameters": [
                {"name": "max_connections", "in_force": "100", "wanted": "200"},
                {"name": "wal_level", "in_force": "logical", "wanted": null},
            ],
        })
    );
    assert_eq!(json["keepers"][1]["activity"]["bytes_total"], 48 << 20);
    assert_eq!(json["keepers"][1]["activity"]["step"], "base backup");
}

/// Of two synchronous standbys one is in sync and 5 MiB behind, the other one is being copied; a fourth keeper has no instance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_are_shown_with_role_lag_timeline_version_and_uptime() {
    let ctl = Ctl::sqlite();
    let mut document = ClusterDocument::from_json(DOCUMENT).unwrap();
    let keepers = document.keepers.as_mut().unwrap();
    for uid in ["keeper3", "keeper4"] {
        let mut keeper = keepers[&KeeperUid::from("keeper2")].clone();
        keeper.uid = uid.into();
        keepers.insert(uid.into(), keeper);
    }
    let instances = document.instances.as_mut().unwrap();
    let mut third = instances[&InstanceUid::from("85ac816c")].clone();
    third.uid = "cc".into();
    third.spec.keeper_uid = "keeper3".into();
    third.status.healthy = false;
    instances.insert("cc".into(), third);
    let primary = instances.get_mut(&InstanceUid::from("548f3fed")).unwrap();
    primary.spec.synchronous_replication = true;
    primary.spec.synchronous_standbys = Some(vec!["85ac816c".into(), "cc".into()]);
    ctl.write(&document.to_json());

    let started = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(76);
    let report = |uid: &str, instance: &str, lsn: u64| KeeperReport {
        uid: uid.into(),
        info_uid: "1".into(),
        postgres_binary_version: PostgresVersion { major: 16, minor: 4, ..PostgresVersion::default() },
        postgres_state: Some(PostgresState {
            uid: instance.into(),
            healthy: true,
            timeline: Timeline(3),
            lsn: Lsn(lsn),
            synchronous_standbys: Some(vec!["85ac816c".into()]),
            ..PostgresState::default()
        }),
        activity: Some(KeeperActivity {
            started: Some(Timestamp::utc(started)),
            ..KeeperActivity::default()
        }),
        ..KeeperReport::default()
    };
    let mut copying = report("keeper3", "cc", 0);
    copying.postgres_state.as_mut().unwrap().healthy = false;
    copying.activity = Some(KeeperActivity { step: "base backup".to_owned(), ..KeeperActivity::default() });
    let store = ctl.store();
    for report in
        [report("keeper1", "548f3fed", 0x150_0000), report("keeper2", "85ac816c", 0x100_0000), copying]
    {
        store.put_keeper_report(&report, TTL).await.unwrap();
    }
    let text = ctl.done(&["status"]);
    let section: String =
        text.split("=== Instances ===\n\n").nth(1).unwrap().split_inclusive('\n').take(4).collect();
    assert_eq!(
        section,
        "KEEPER\tROLE\tSTATE\t\tREPLICATION\tTIMELINE\tPOSITION\tLAG\tVERSION\tUPTIME\n\
         keeper1\tmaster\trunning\t\t-\t\t3\t\t0/1500000\t-\t16.4\t3d 4h\n\
         keeper2\tstandby\trunning\t\tsync\t\t3\t\t0/1000000\t5.0 MiB\t16.4\t3d 4h\n\
         keeper3\tstandby\tbase backup\tlate\t\t-\t\t-\t\t-\t16.4\t-\n",
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&ctl.done(&["status", "-f", "json"])).unwrap();
    let keeper = &json["keepers"][1];
    assert_eq!(keeper["lag_bytes"], 5 << 20);
    assert_eq!(keeper["timeline"], 3);
    assert_eq!(keeper["replication"], "sync");
    assert_eq!(json["keepers"][3].get("role"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_are_shown_with_whom_they_are_for_and_what_they_hold() {
    let ctl = Ctl::sqlite();
    ctl.write(DOCUMENT);
    let slot = |name: &str, held: u64, left: Option<u64>, wal_status: &str| SlotReport {
        name: name.to_owned(),
        active: wal_status == "reserved",
        held_bytes: Some(held),
        left_bytes: left,
        wal_status: wal_status.to_owned(),
        ..SlotReport::default()
    };
    let activity = KeeperActivity {
        slots: Some(vec![
            slot("stolon_85ac816c", 830 << 20, Some(170 << 20), "extended"),
            slot("backup", 512, None, "reserved"),
            slot("stolon_gone", 0, Some(0), "lost"),
        ]),
        ..KeeperActivity::default()
    };
    let report = KeeperReport {
        uid: "keeper1".into(),
        info_uid: "1".into(),
        activity: Some(activity),
        ..KeeperReport::default()
    };
    ctl.store().put_keeper_report(&report, TTL).await.unwrap();
    let text = ctl.done(&["status"]);
    let section: String =
        text.split("=== Replication slots ===\n\n").nth(1).unwrap().split_inclusive('\n').take(4).collect();
    assert_eq!(
        section,
        "KEEPER\tSLOT\t\tOF\tSTATE\t\tHOLDS\t\tLEFT\n\
         keeper1\tstolon_85ac816c\tkeeper2\tnobody streams\t830.0 MiB\t170.0 MiB\n\
         keeper1\tbackup\t\t-\tstreaming\t512 B\t\t-\n\
         keeper1\tstolon_gone\t-\tlost\t\t0 B\t\t0 B\n",
        "{text}"
    );
    let sentence = "cluster: the replication slot stolon_85ac816c of keeper1 holds 830.0 MiB of WAL: after another 170.0 MiB keeper2 \
                    lacks WAL, and is copied anew when it is back\n";
    assert!(text.contains(sentence), "{text}");
    let json: serde_json::Value = serde_json::from_str(&ctl.done(&["status", "-f", "json"])).unwrap();
    let expected = serde_json::json!({
        "name": "stolon_85ac816c", "keeper": "keeper2", "active": false, "held_bytes": 830 << 20, "left_bytes": 170 << 20,
        "wal_status": "extended"
    });
    assert_eq!(json["keepers"][0]["slots"][0], expected);
    assert_eq!(json["keepers"][1].get("slots"), None);
}

#[test]
fn it_says_why_there_is_no_failover() {
    let ctl = Ctl::sqlite();
    let mut document = ClusterDocument::from_json(DOCUMENT).unwrap();
    let keepers = document.keepers.as_mut().unwrap();
    keepers.get_mut(&"keeper1".into()).unwrap().status.healthy = false;
    keepers.get_mut(&"keeper2".into()).unwrap().status.can_be_primary = Some(false);
    let standby = document.instances.as_mut().unwrap().get_mut(&"85ac816c".into()).unwrap();
    standby.spec.role = Some(Role::Standby);
    standby.spec.follow_config = Some(FollowConfig::internal("548f3fed".into()));
    standby.status.current_generation = standby.generation;
    standby.status.healthy = true;
    ctl.write(&document.to_json());
    let text = ctl.done(&["status"]);
    assert!(
        text.ends_with(
            "cluster: the master keeper keeper1 does not report\n\
             cluster: keeper2 cannot take over: its keeper was started with --can-be-master=false\n\n"
        ),
        "{text}"
    );
    document.instances.as_mut().unwrap().remove(&"85ac816c".into());
    ctl.write(&document.to_json());
    let text = ctl.done(&["status"]);
    assert!(
        text.ends_with("cluster: the master keeper keeper1 does not report, and there is no standby that could take over\n\n"),
        "{text}"
    );
}

#[test]
fn failures_are_failures_in_both_formats() {
    let ctl = Ctl::empty();
    let stderr = "nil cluster data: <nil>\nhint: the store holds no cluster of this name; stolonctl init creates one, \
                  --cluster-name, --store-prefix and --store-endpoints say which one is meant\n";
    assert_eq!(ctl.run(&["status"]), Run { code: Some(1), stdout: String::new(), stderr: stderr.to_owned() });
    let run = ctl.run(&["status", "-f", "json"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(1), stderr));
    let answer: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(answer["error"], "nil cluster data: <nil>");
    let run = ctl.run(&["status", "-f", "yaml"]);
    let stderr = "unrecognised output format yaml\nhint: the formats are text and json\n".to_owned();
    assert_eq!(run, Run { code: Some(2), stdout: String::new(), stderr });
}

/// A sentinel leads, and the proxies are sent to the primary.
async fn with_leader(ctl: &Ctl, document: &ClusterDocument) -> stolon_store::Leadership {
    ctl.write(&document.to_json());
    let store = ctl.store();
    store.put_sentinel_report(&sentinel("70834425"), TTL).await.unwrap();
    store.campaign(SentinelUid::from("70834425")).elected().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_go_by_the_exit_status_of_a_check() {
    let ctl = Ctl::empty();
    let check = |arguments: &[&str]| {
        let run = ctl.run(&[&["status", "--check"], arguments].concat());
        assert_eq!(run.stderr, "");
        (run.code, run.stdout)
    };
    let (code, text) = check(&[]);
    assert_eq!(code, Some(3), "there is no cluster: {text}");
    assert!(text.starts_with("not known\nnil cluster data: <nil>\nhint: "), "{text}");

    let mut document = ClusterDocument::from_json(DOCUMENT).unwrap();
    let primary = document.cluster.as_ref().unwrap().status.primary.clone();
    document.proxy.as_mut().unwrap().spec.primary = primary;
    document.instances.as_mut().unwrap().remove(&"85ac816c".into());
    let leadership = with_leader(&ctl, &document).await;
    assert_eq!(check(&[]), (Some(0), "well\n".to_owned()));

    let keepers = document.keepers.as_mut().unwrap();
    keepers.get_mut(&"keeper2".into()).unwrap().status.healthy = false;
    ctl.write(&document.to_json());
    assert_eq!(check(&[]), (Some(1), "degraded\nkeeper keeper2 does not report\n".to_owned()));

    let primary = document.instances.as_mut().unwrap().get_mut(&"548f3fed".into()).unwrap();
    primary.spec.role = Some(Role::Primary);
    primary.spec.synchronous_replication = true;
    ctl.write(&document.to_json());
    let waits = "commits wait: no standby can acknowledge them, and minSynchronousStandbys is 1";
    let (code, json) = check(&["-f", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &answer["condition"]), (Some(2), &"no writes".into()));
    assert_eq!(answer["findings"], serde_json::json!([waits, "keeper keeper2 does not report"]));
    let text = ctl.done(&["status"]);
    assert!(text.contains(&format!("=== Activity and problems ===\n\ncluster: {waits}\n")), "{text}");
    leadership.resign().await;
}

#[test]
fn a_status_that_is_watched_is_shown_again_until_it_is_interrupted() {
    use std::io::BufRead as _;
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    let mut command = crate::harness::bare();
    command.args(ctl.common()).args(["status", "--watch"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let titles = lines.map(Result::unwrap).filter(|line| line == "=== Active sentinels ===");
    assert_eq!(titles.take(2).count(), 2);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
