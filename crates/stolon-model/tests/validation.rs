//! What a specification must hold to, and which changes a running cluster takes (docs: "Cluster specification").

use stolon_model::{ClusterSpec, Document, InvalidSpec, Presence, SpecRemark};

fn spec(text: &str) -> ClusterSpec {
    ClusterSpec::from_json(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn message(text: &str) -> Option<String> {
    spec(text).validate().err().map(|error| error.to_string())
}

#[test]
fn every_rule_refuses_with_its_text() {
    for field in [
        "sleepInterval",
        "requestTimeout",
        "convergenceTimeout",
        "initTimeout",
        "syncTimeout",
        "dbWaitReadyTimeout",
        "failInterval",
        "deadKeeperRemovalInterval",
        "proxyCheckInterval",
        "proxyTimeout",
    ] {
        let text = format!(r#"{{"initMode":"new","{field}":"-1ns"}}"#);
        assert_eq!(message(&text), Some(format!("{field} must be positive")));
    }
    for (text, expected) in [
        (r#"{"proxyCheckInterval":"15s"}"#, "proxyCheckInterval should be less than proxyTimeout"),
        (r#"{"proxyTimeout":"5s"}"#, "proxyCheckInterval should be less than proxyTimeout"),
        (r#"{"maxStandbys":0}"#, "maxStandbys must be at least 1"),
        (r#"{"maxStandbysPerSender":0}"#, "maxStandbysPerSender must be at least 1"),
        (r#"{"maxSynchronousStandbys":0}"#, "maxSynchronousStandbys must be at least 1"),
        (
            r#"{"minSynchronousStandbys":2}"#,
            "maxSynchronousStandbys must be greater or equal to minSynchronousStandbys",
        ),
        (r#"{"synchronousQuorum":0}"#, "synchronousQuorum must be at least 1"),
        (r#"{"synchronousQuorum":2}"#, "synchronousQuorum must be lower or equal to maxSynchronousStandbys"),
        ("{}", "initMode undefined"),
        (r#"{"additionalMasterReplicationSlots":["bad"]}"#, "initMode undefined"),
        (
            r#"{"initMode":"new","additionalMasterReplicationSlots":[""]}"#,
            r#"wrong replication slot name: """#,
        ),
        (
            r#"{"initMode":"new","additionalMasterReplicationSlots":["a","badslotname-34223"]}"#,
            r#"wrong replication slot name: "badslotname-34223""#,
        ),
        (
            r#"{"initMode":"new","additionalMasterReplicationSlots":["badslotname\n"]}"#,
            r#"wrong replication slot name: "badslotname\n""#,
        ),
        (
            r#"{"initMode":"new","additionalMasterReplicationSlots":[" badslotname"]}"#,
            r#"wrong replication slot name: " badslotname""#,
        ),
        (
            r#"{"initMode":"new","additionalMasterReplicationSlots":["badslotname "]}"#,
            r#"wrong replication slot name: "badslotname ""#,
        ),
        (
            r#"{"initMode":"new","additionalMasterReplicationSlots":["stolon_c874a3cb"]}"#,
            r#"replication slot name is reserved: "stolon_c874a3cb""#,
        ),
        (
            r#"{"initMode":"new","pgHBA":["local all all trust\nlocal all"]}"#,
            "pgHBA entries cannot contain newline characters",
        ),
        (
            r#"{"initMode":"new","role":"standby","standbyConfig":{}}"#,
            r#"invalid cluster role standby when initMode is "new""#,
        ),
        (r#"{"initMode":"existing"}"#, r#"existingConfig undefined. Required when initMode is "existing""#),
        (r#"{"initMode":"existing","existingConfig":{}}"#, "existingConfig.keeperUID undefined"),
        (r#"{"initMode":"pitr"}"#, r#"pitrConfig undefined. Required when initMode is "pitr""#),
        (r#"{"initMode":"pitr","pitrConfig":{}}"#, "pitrConfig.DataRestoreCommand undefined"),
        (
            r#"{"initMode":"pitr","role":"standby","pitrConfig":{"dataRestoreCommand":"x","recoveryTargetSettings":{}},"standbyConfig":{}}"#,
            "cannot define pitrConfig.RecoveryTargetSettings when required cluster role is standby",
        ),
        (r#"{"initMode":"newer"}"#, r#"unknown initMode: "newer""#),
        (r#"{"initMode":""}"#, r#"unknown initMode: """#),
        (
            r#"{"initMode":"new","defaultSUReplAccessMode":"some"}"#,
            r#"unknown defaultSUReplAccessMode: "some""#,
        ),
        (
            r#"{"initMode":"pitr","role":"standby","pitrConfig":{"dataRestoreCommand":"x"}}"#,
            r#"standbyConfig undefined. Required when cluster role is "standby""#,
        ),
        (r#"{"initMode":"new","role":"primary"}"#, r#"unknown role: "primary""#),
    ] {
        assert_eq!(message(text).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn what_is_odd_but_legal_is_accepted() {
    for text in [
        r#"{"initMode":"new"}"#,
        r#"{"initMode":"new","sleepInterval":0}"#,
        r#"{"initMode":"new","minSynchronousStandbys":0}"#,
        r#"{"initMode":"new","proxyCheckInterval":"14s","proxyTimeout":"14001ms"}"#,
        r#"{"initMode":"new","additionalMasterReplicationSlots":["goodslotname_434432"]}"#,
        r#"{"initMode":"new","pgHBA":["a\r"]}"#,
        r#"{"initMode":"pitr","role":"standby","pitrConfig":{"dataRestoreCommand":"x"},"standbyConfig":{}}"#,
        r#"{"initMode":"existing","existingConfig":{"keeperUID":"a"},"role":"standby","standbyConfig":{}}"#,
        r#"{"initMode":"new","pitrConfig":{},"existingConfig":{}}"#,
    ] {
        assert_eq!(message(text), None, "{text}");
    }
}

#[test]
fn the_first_failure_is_reported() {
    let text = r#"{"initMode":"x","sleepInterval":"-1s","maxStandbys":0,"pgHBA":["\n"]}"#;
    assert_eq!(spec(text).validate(), Err(InvalidSpec::NegativeDuration("sleepInterval")));
    let text = r#"{"initMode":"x","maxStandbys":0,"pgHBA":["\n"]}"#;
    assert_eq!(spec(text).validate(), Err(InvalidSpec::BelowOne("maxStandbys")));
    let text = r#"{"initMode":"x","pgHBA":["\n"]}"#;
    assert_eq!(spec(text).validate(), Err(InvalidSpec::HbaNewline));
}

#[test]
fn what_is_hardly_meant_is_warned_of_and_what_has_no_effect_is_noted() {
    let without_effect = |field, read_with| SpecRemark::FieldWithoutEffect { field, read_with };
    for (text, expected) in [
        (r#"{"initMode":"new"}"#, vec![]),
        (r#"{"initMode":"new","sleepInterval":"0s"}"#, vec![SpecRemark::NoSleep]),
        (
            r#"{"initMode":"existing","existingConfig":{"keeperUID":"a"},"role":"standby","standbyConfig":{}}"#,
            vec![SpecRemark::AdoptionInStandbyCluster],
        ),
        (r#"{"initMode":"pitr","newConfig":{}}"#, vec![without_effect("newConfig", "initMode \"new\"")]),
        (
            r#"{"initMode":"new","pitrConfig":{},"existingConfig":{},"standbyConfig":{}}"#,
            vec![
                without_effect("pitrConfig", "initMode \"pitr\""),
                without_effect("existingConfig", "initMode \"existing\""),
                without_effect("standbyConfig", "role \"standby\""),
            ],
        ),
        (
            r#"{"initMode":"pitr","role":"standby","synchronousReplication":true}"#,
            vec![SpecRemark::SynchronousStandbyCluster],
        ),
        (
            r#"{"initMode":"new","synchronousReplication":true,"minSynchronousStandbys":0}"#,
            vec![SpecRemark::NoSynchronousStandbyNeeded],
        ),
    ] {
        assert_eq!(spec(text).remarks(), expected, "{text}");
    }
    assert!(SpecRemark::NoSleep.is_warning());
    assert!(!without_effect("newConfig", "initMode \"new\"").is_warning());
}

#[test]
fn the_table_says_what_is_checked() {
    let field = |name| ClusterSpec::FIELDS.iter().find(|field| field.name == name).expect(name);
    assert_eq!(field("failInterval").default_json().as_deref(), Some("\"20s\""));
    assert_eq!(field("maxStandbyLag").default_json().as_deref(), Some("1232896"));
    assert_eq!(field("role").default_json().as_deref(), Some("\"master\""));
    assert_eq!(field("pgHBA").default_json(), None);
    assert_eq!(field("proxyTimeout").rules, ["not negative", "greater than `proxyCheckInterval`"]);
    assert_eq!(field("initMode").presence, Presence::Required);
    for field in ClusterSpec::FIELDS {
        assert!(
            field.doc.trim().ends_with('.') && field.doc.len() > 15,
            "{}: one sentence, please",
            field.name
        );
    }
}

#[test]
fn a_running_cluster_takes_these_changes_only() {
    let pitr = r#"{"initMode":"pitr","pitrConfig":{"dataRestoreCommand":"x"}}"#;
    let pitr_standby =
        r#"{"initMode":"pitr","role":"standby","pitrConfig":{"dataRestoreCommand":"x"},"standbyConfig":{}}"#;
    for (old, new, expected) in [
        (r#"{"initMode":"new"}"#, r#"{"initMode":"new","sleepInterval":"1s"}"#, None),
        (r#"{"initMode":"new"}"#, "{}", Some("invalid cluster spec: initMode undefined")),
        (r#"{"initMode":"new"}"#, pitr, Some("cannot change cluster init mode")),
        (pitr, pitr_standby, Some("cannot update a cluster from master role to standby role")),
        (pitr_standby, pitr, None),
        // A stored specification that is invalid can be repaired.
        (r#"{"initMode":"new","maxStandbys":0}"#, r#"{"initMode":"new"}"#, None),
        (r#"{"initMode":"broken"}"#, r#"{"initMode":"new"}"#, None),
        ("{}", r#"{"initMode":"new"}"#, None),
        (r#"{"initMode":"new","maxStandbys":0}"#, pitr, Some("cannot change cluster init mode")),
    ] {
        let refused = spec(old).check_update(&spec(new)).err().map(|refused| refused.to_string());
        assert_eq!(refused.as_deref(), expected, "{old} -> {new}");
    }
}
