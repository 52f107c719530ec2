//! Documents as the Go programs wrote them come back byte for byte.

use stolon_model::{
    ClusterData, ClusterDocument, ClusterSpec, ClusterUid, Document, InitMode, KeeperReport, ProxyReport,
    SentinelReport,
};

/// Read, write, read again: the same bytes, and the same value.
fn survives<D: Document + PartialEq + std::fmt::Debug>(text: &str) -> D {
    let document = D::from_json(text).expect("a golden document is readable");
    assert_eq!(document.to_json(), text);
    assert_eq!(D::from_json(&document.to_json_indented()).expect("the indented form is readable"), document);
    document
}

#[test]
fn after_init() {
    let text = include_str!("golden/after_init.json");
    let document: ClusterDocument = survives(text);
    let data = ClusterData::try_from(document).expect("there is a cluster");
    let spec = ClusterSpec { init_mode: Some(InitMode::New), ..ClusterSpec::default() };
    let mut made = ClusterData::initial(ClusterUid::from("27be116e"), spec, data.cluster.change_time);
    assert_eq!(made.cluster.epoch.take(), u64::try_from(data.cluster.change_time.instant().as_second()).ok());
    assert_eq!(ClusterDocument::from(made).to_json(), text);
}

#[test]
fn first_primary_chosen() {
    let entry = include_str!("golden/first_primary_chosen.json");
    let before =
        r#"{"formatVersion":1,"changeTime":"0001-01-01T00:00:00Z","cluster":null,"keepers":null,"dbs":"#;
    let _: ClusterDocument = survives(&format!("{before}{entry},\"proxy\":null}}"));
}

#[test]
fn two_keepers_synchronous() {
    let document: ClusterDocument = survives(include_str!("golden/two_keepers_synchronous.json"));
    let data = ClusterData::try_from(document.clone()).expect("there is a cluster");
    assert_eq!(data.keepers.len(), 2);
    assert_eq!(data.primary().map(|primary| primary.uid.as_str()), Some("0e9d8c7b"));
    assert_eq!(data.cluster.spec.validate().map(|spec| spec.synchronous_replication), Ok(true));
    assert_eq!(ClusterDocument::from(data), document);
}

#[test]
fn standby_cluster() {
    let document: ClusterDocument = survives(include_str!("golden/standby_cluster.json"));
    let data = ClusterData::try_from(document).expect("there is a cluster");
    assert!(data.cluster.spec.validate().is_ok());
}

#[test]
fn reports() {
    let _: KeeperReport = survives(include_str!("golden/keeper_report_new.json"));
    let healthy: KeeperReport = survives(include_str!("golden/keeper_report_healthy.json"));
    let state = healthy.postgres_state.expect("it has a state");
    assert_eq!(state.lsn.to_string(), "0/3000060");
    assert_eq!(state.synchronous_standbys, Some(Vec::new()));
    let _: SentinelReport = survives(include_str!("golden/sentinel_report.json"));
    let _: ProxyReport = survives(include_str!("golden/proxy_report.json"));
}

#[test]
fn what_a_keeper_served_under_is_read_and_written() {
    let report: KeeperReport = survives(include_str!("golden/keeper_report_served.json"));
    let activity = report.activity.expect("it says what it is doing");
    let served = activity.served.expect("it says what it served under");
    assert_eq!((activity.restarts, served.epoch, served.generation, served.timeline.0), (2, 41, 5, 3));
    assert_eq!((served.instance.as_str(), served.lsn.to_string()), ("548f3fed", "0/3000060".to_owned()));
}

#[test]
fn an_epoch_that_stolon_dropped_is_no_epoch() {
    let text = include_str!("golden/after_init.json");
    let mut data = ClusterDocument::from_json(text)
        .and_then(|document| Ok(ClusterData::try_from(document).expect("there is a cluster")))
        .expect("a golden document is readable");
    assert_eq!(data.cluster.epoch, None);
    data.cluster.epoch = Some(41);
    let written = ClusterDocument::from(data.clone()).to_json();
    assert_eq!(
        written,
        text.replacen(
            r#""status":{"phase":"initializing"}"#,
            r#""status":{"phase":"initializing"},"epoch":41"#,
            1
        )
    );
    assert_eq!(ClusterDocument::from_json(&written).map(ClusterData::try_from), Ok(Ok(data)));
}

#[test]
fn specification_for_people() {
    let spec = ClusterSpec::from_json(
        r#"{"initMode":"new","pgHBA":[],"pgParameters":{"max_connections":"100","wal_level":"replica"}}"#,
    )
    .expect("it is readable");
    let with_defaults =
        include_str!("golden/spec_with_defaults.json").replace("\"pgHBA\": null", "\"pgHBA\": []");
    assert_eq!(spec.to_json_with_defaults(), with_defaults);
    assert_eq!(
        spec.to_json_set_only(),
        "{\n\t\"initMode\": \"new\",\n\t\"pgParameters\": {\n\t\t\"max_connections\": \"100\",\n\t\t\"wal_level\": \
         \"replica\"\n\t}\n}"
    );
    assert_eq!(ClusterSpec::default().to_json_set_only(), "{}");
}

#[test]
fn defaults_are_the_same_in_both_forms() {
    let spec = ClusterSpec::from_json(r#"{"initMode":"new"}"#).expect("it is readable");
    assert_eq!(spec.with_defaults().effective(), spec.effective());
    assert_eq!(spec.with_defaults().with_defaults(), spec.with_defaults());
}
