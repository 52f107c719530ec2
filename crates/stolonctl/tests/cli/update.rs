//! `stolonctl update`

use crate::harness::Ctl;

fn initialized() -> Ctl {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    ctl
}

/// What was set since, in one line.
fn set(ctl: &Ctl) -> String {
    let spec: serde_json::Value = serde_json::from_str(&ctl.done(&["spec"])).unwrap();
    let mut object = spec.as_object().unwrap().clone();
    object.remove("initMode");
    // `init` has written it.
    object.remove("defaultSUReplAccessMode");
    serde_json::Value::Object(object).to_string()
}

/// Nothing is written, and nobody finds it in the history.
#[test]
fn a_specification_that_is_updated_to_itself_stays_untouched() {
    let ctl = initialized();
    ctl.done(&["update", "-p", r#"{"maxStandbyLag":7,"pgParameters":{"work_mem":"8MB"}}"#]);
    let before = ctl.document();
    let whole = ctl.done(&["spec"]);
    for arguments in [
        &["update", whole.as_str()][..],
        &["update", "-p", "{}"],
        &["update", "-p", r#"{"maxStandbyLag":7}"#],
        &["update", "-p", r#"{"pgParameters":{"work_mem":"8MB","log_statement":null}}"#],
    ] {
        assert_eq!(ctl.done(arguments), "", "{arguments:?}");
        assert_eq!(ctl.document(), before, "{arguments:?}");
    }
    ctl.done(&["update", "-p", r#"{"maxStandbyLag":8}"#]);
    assert_ne!(ctl.document(), before);
}

#[test]
fn patches_follow_one_another() {
    let ctl = initialized();
    for (patch, expected) in [
        (
            r#"{"sleepInterval":"2s","maxStandbyLag":12345}"#,
            r#"{"maxStandbyLag":12345,"sleepInterval":"2s"}"#,
        ),
        (r#"{"sleepInterval":null}"#, r#"{"maxStandbyLag":12345}"#),
        ("null", r#"{"maxStandbyLag":12345}"#),
        ("{}", r#"{"maxStandbyLag":12345}"#),
        (r#"{"maxStandbyLag":null}"#, "{}"),
        (
            r#"{"additionalMasterReplicationSlots":["slot1","slot2"]}"#,
            r#"{"additionalMasterReplicationSlots":["slot1","slot2"]}"#,
        ),
        (
            r#"{"additionalMasterReplicationSlots":["slot3"]}"#,
            r#"{"additionalMasterReplicationSlots":["slot3"]}"#,
        ),
        (r#"{"additionalMasterReplicationSlots":null}"#, "{}"),
        (r#"{"pgParameters":{"work_mem":null}}"#, "{}"),
        (
            r#"{"pgParameters":{"work_mem":"8MB","log_statement":"all"}}"#,
            r#"{"pgParameters":{"log_statement":"all","work_mem":"8MB"}}"#,
        ),
        (r#"{"pgParameters":{"log_statement":null}}"#, r#"{"pgParameters":{"work_mem":"8MB"}}"#),
        (
            r#"{"pgParameters":{"$patch":"replace","maintenance_work_mem":"16MB"}}"#,
            r#"{"pgParameters":{"maintenance_work_mem":"16MB"}}"#,
        ),
        (
            r#"{"pgparameters":{"maintenance_work_mem":"32MB"}}"#,
            r#"{"pgParameters":{"maintenance_work_mem":"32MB"}}"#,
        ),
    ] {
        ctl.done(&["update", "-p", patch]);
        assert_eq!(set(&ctl), expected, "{patch}");
    }
}

#[test]
fn the_documented_spelling_changes_what_is_stored_every_time() {
    let ctl = Ctl::sqlite();
    ctl.done(&[
        "init",
        "-y",
        r#"{"initMode":"pitr","role":"standby","pitrConfig":{"dataRestoreCommand":"x"},"standbyConfig":{}}"#,
    ]);
    for host in ["a", "b", "c"] {
        let patch =
            format!(r#"{{"standbyConfig":{{"standbySettings":{{"primaryConnInfo":"host={host}"}}}}}}"#);
        ctl.done(&["update", "--patch", &patch]);
        let settings = ctl.spec().standby_config.unwrap().standby_settings.unwrap();
        assert_eq!(settings.primary_conninfo, format!("host={host}"));
    }
}

#[test]
fn a_replacement_forgets_what_it_does_not_mention() {
    let ctl = initialized();
    ctl.done(&["update", "-p", r#"{"failInterval":"7s"}"#]);
    ctl.done(&["update", r#"{"initMode":"new","pgHBA":[]}"#]);
    assert_eq!(ctl.spec().fail_interval, None);
    assert_eq!(ctl.spec().pg_hba, Some(Vec::new()));
    ctl.refused(
        &["update", r#"{"failInterval":"7s"}"#],
        2,
        "Cannot update cluster spec: invalid cluster spec: initMode undefined\n\
         hint: give initMode \"new\", \"existing\" or \"pitr\"; a full replacement must repeat the stored one\n",
    );
    ctl.refused(
        &["update", "null"],
        2,
        "Cannot update cluster spec: invalid cluster spec: initMode undefined\n\
         hint: give initMode \"new\", \"existing\" or \"pitr\"; a full replacement must repeat the stored one\n",
    );
}

#[test]
fn exactly_one_source_is_taken() {
    let ctl = initialized();
    ctl.refused(
        &["update"],
        2,
        "no cluster spec provided as argument and no file provided (--file/-f option)\n\
         hint: for example: stolonctl update --patch '{\"failInterval\":\"10s\"}'\n",
    );
    ctl.refused(
        &["update", "{}", "-f", "-"],
        2,
        "only one of cluster spec provided as argument or file must provided (--file/-f option)\n\
         hint: leave one of them out\n",
    );
    let run = ctl.run_with(&["update", "-pf", "-"], r#"{"failInterval":"8s"}"#);
    let shown = "failInterval: (not set) -> \"8s\"\n";
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(0), shown, ""));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("patch.json").display().to_string();
    std::fs::write(&file, r#"{"maxStandbys":6}"#).unwrap();
    ctl.done(&["update", "--patch", "--file", &file]);
    assert_eq!(set(&ctl), r#"{"failInterval":"8s","maxStandbys":6}"#);
}

#[test]
fn what_cannot_be_a_patch_is_refused() {
    let ctl = initialized();
    let merge = "failed to patch cluster spec: failed to merge patch cluster spec: invalid JSON document: ";
    let decode = "failed to patch cluster spec: failed to unmarshal patched cluster spec: ";
    for (patch, prefix, part) in [
        ("", merge, "hint: give a JSON object"),
        ("[]", merge, "a patch is an object, this is an array"),
        ("\"\"", merge, "a patch is an object, this is a string"),
        (r#"{"a":"#, merge, "a value is missing after the last ':'"),
        (r#"{"maxStandbys":"6"}"#, decode, "write 6 without quotes"),
        (r#"{"failInterval":"1d"}"#, decode, "time: unknown unit \"d\" in duration \"1d\""),
    ] {
        let before = ctl.done(&["clusterdata", "read"]);
        let run = ctl.run(&["update", "--patch", patch]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{patch}: {run:?}");
        assert!(run.stderr.starts_with(prefix), "{patch}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{patch}: no {part:?} in {}", run.stderr);
        assert_eq!(ctl.done(&["clusterdata", "read"]), before);
    }
    let run = ctl.run(&["update", r#"{"initMode":"new","maxStandbys":70000}"#]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.starts_with(
        "failed to unmarshal cluster spec: maxStandbys: 70000 is not a whole number from 0 to 65535"
    ));
}

#[test]
fn a_running_cluster_does_not_take_every_change() {
    let ctl = initialized();
    ctl.refused(
        &["update", r#"{"initMode":"existing","existingConfig":{"keeperUID":"k"}}"#],
        2,
        "Cannot update cluster spec: cannot change cluster init mode\n\
         hint: repeat the stored initMode, or make the cluster anew with stolonctl init\n",
    );
    let run = ctl.run(&["update", "-p", r#"{"role":"standby","standbyConfig":{}}"#]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.starts_with("Cannot update cluster spec: "), "{}", run.stderr);
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y", r#"{"initMode":"pitr","pitrConfig":{"dataRestoreCommand":"x"}}"#]);
    ctl.refused(
        &["update", "-p", r#"{"role":"standby","standbyConfig":{}}"#],
        2,
        "Cannot update cluster spec: cannot update a cluster from master role to standby role\n\
         hint: make the cluster anew with stolonctl init, initMode \"pitr\" and role \"standby\"\n",
    );
}

#[test]
fn an_invalid_stored_specification_can_be_repaired() {
    let ctl = initialized();
    let broken = ctl
        .done(&["clusterdata", "read"])
        .replace(r#""initMode":"new""#, r#""maxStandbys":0,"initMode":"new""#);
    ctl.write(&broken);
    let run = ctl.run(&["spec"]);
    assert_eq!(run.code, Some(1));
    assert_eq!(
        run.stderr,
        "clusterdata validation failed: maxStandbys must be at least 1\n\
         hint: the stored specification is invalid; stolonctl update with a valid one repairs it\n"
    );
    ctl.done(&["update", "-p", r#"{"maxStandbys":null}"#]);
    assert_eq!(set(&ctl), "{}");
}

#[test]
fn the_patch_of_the_migration_guide_works_and_its_missing_brace_is_pointed_at() {
    let ctl = initialized();
    let patch = r#"{"failInterval":"10s","requestTimeout":"5s","sleepInterval":"3s","pgParameters":{"max_prepared_transactions":"100","max_conections":"1000"}}"#;
    let cut = patch.strip_suffix('}').unwrap();
    let before = ctl.done(&["clusterdata", "read"]);
    let run = ctl.run(&["update", "--patch", cut]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("unexpected end of JSON input"), "{}", run.stderr);
    assert!(
        run.stderr.ends_with("hint: the text stops before everything is closed: add } at its end\n"),
        "{}",
        run.stderr
    );
    assert_eq!(ctl.done(&["clusterdata", "read"]), before);

    let run = ctl.run(&["update", "--patch", patch]);
    assert_eq!(run.code, Some(0));
    assert!(run.stderr.contains("did you mean max_connections?"), "{}", run.stderr);
    assert_eq!(ctl.spec().pg_parameters.unwrap().get("max_conections").map(String::as_str), Some("1000"));
}

/// The keepers run PostgreSQL 15, as the cluster data say.
fn with_keepers() -> Ctl {
    let ctl = Ctl::sqlite();
    ctl.write(include_str!("../../../stolon-model/tests/golden/two_keepers_synchronous.json"));
    ctl
}

const MAX_CONECTIONS: &str =
    "max_conections is not a parameter of PostgreSQL 15: did you mean max_connections?";

#[test]
fn wrong_parameters_are_named_in_the_keepers_words() {
    let ctl = with_keepers();
    let run = ctl.run(&["update", "-p", r#"{"pgParameters":{"max_conections":"1000","work_mem":"8MB"}}"#]);
    assert_eq!(run.code, Some(0));
    assert_eq!(run.stderr, format!("warning: {MAX_CONECTIONS}\n"));
    assert!(ctl.spec().pg_parameters.unwrap().contains_key("max_conections"), "stored all the same");
    // Nothing on stderr: it is not repeated when something else changes.
    ctl.done(&["update", "-p", r#"{"failInterval":"9s"}"#]);

    let spec = r#"{"initMode":"new","pgParameters":{"max_connections":"many"}}"#;
    let run = ctl.run(&["init", "-y", spec]);
    assert_eq!(run.code, Some(0));
    assert!(run.stderr.starts_with("warning: max_connections"), "{}", run.stderr);
}

#[test]
fn with_strict_wrong_parameters_are_refused() {
    let ctl = with_keepers();
    let refusal = format!(
        "warning: {MAX_CONECTIONS}\nrefused because of --strict: 1 warning\n\
         hint: nothing was changed; correct the specification, or leave --strict out\n"
    );
    ctl.refused(&["update", "--strict", "-p", r#"{"pgParameters":{"max_conections":"1000"}}"#], 2, &refusal);
    ctl.refused(
        &["init", "-y", "--strict", r#"{"initMode":"new","pgParameters":{"max_conections":"1"}}"#],
        2,
        &refusal,
    );
    assert_eq!(
        ctl.done(&["update", "--strict", "-p", r#"{"pgParameters":{"max_connections":"1000"}}"#]),
        "pgParameters.max_connections: \"200\" -> \"1000\"\n"
    );
}

#[test]
fn without_a_keeper_only_what_no_version_accepts_is_named() {
    let ctl = initialized();
    // Gone since PostgreSQL 13, and new in 17: some version accepts each.
    ctl.done(&[
        "update",
        "-p",
        r#"{"pgParameters":{"wal_keep_segments":"8","summarize_wal":"on","my.own":"x"}}"#,
    ]);
    let run = ctl.run(&["update", "-p", r#"{"pgParameters":{"max_conections":"1000"}}"#]);
    assert_eq!(run.code, Some(0));
    assert!(
        run.stderr.starts_with("warning: max_conections is not a parameter of PostgreSQL "),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains(
            "did you mean max_connections? (no keeper has reported its version yet; no PostgreSQL from "
        ),
        "{}",
        run.stderr
    );
}

#[test]
fn a_parameter_of_postgresql_at_the_top_level_is_told_where_it_belongs() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    let run = ctl.run(&["update", "--patch", r#"{"work_mem":"16MB"}"#]);
    assert_eq!(
        run.stderr,
        "warning: work_mem is not a field of a cluster specification and is ignored: a parameter of PostgreSQL \
         belongs in pgParameters: {\"pgParameters\":{\"work_mem\":\"…\"}}\n"
    );
    assert_eq!(ctl.run(&["update", "--strict", "--patch", r#"{"work_mem":"16MB"}"#]).code, Some(2));
}
