//! Each field of the cluster specification, given what it cannot mean: one clear sentence that names it, a hint, exit status 2, and the
//! cluster data stay as they are.

use serde_json::{Value, json};
use stolon_model::ClusterSpec;
use stolon_model::json::Shape;

use crate::harness::Ctl;

/// What a text cannot say, by the field; `Err`: why every text passes here.
const TEXTS: &[(&str, Result<&[&str], &str>)] = &[
    ("additionalMasterReplicationSlots[]", Ok(&["", "A", "a-b", "stolon_a", "a\n"])),
    ("maxSlotWalKeepSize", Ok(&["", "lots", "-1GB", "10", "1.5GB"])),
    ("newConfig.locale", Ok(&["C\n"])),
    ("newConfig.encoding", Ok(&["UTF8\n"])),
    ("existingConfig.keeperUID", Ok(&["", "A", "a b", "../x", "keeper-1"])),
    ("pitrConfig.dataRestoreCommand", Ok(&["", "  \n"])),
    ("pitrConfig.archiveRecoverySettings.restoreCommand", Err("it is the shell's")),
    ("pitrConfig.recoveryTargetSettings.recoveryTarget", Ok(&["soon", "IMMEDIATE"])),
    ("pitrConfig.recoveryTargetSettings.recoveryTargetLsn", Ok(&["x", "0", "0/x", "0/123456789"])),
    ("pitrConfig.recoveryTargetSettings.recoveryTargetName", Ok(&["a\nb"])),
    ("pitrConfig.recoveryTargetSettings.recoveryTargetTime", Ok(&["2026-01-01\n"])),
    ("pitrConfig.recoveryTargetSettings.recoveryTargetXid", Ok(&["x", "-1", "1.5"])),
    ("pitrConfig.recoveryTargetSettings.recoveryTargetTimeline", Ok(&["first", "-1"])),
    ("standbyConfig.standbySettings.primaryConninfo", Err("libpq reads it when the keeper connects")),
    ("standbyConfig.standbySettings.primarySlotName", Ok(&["A", "a b", "a-b"])),
    ("standbyConfig.standbySettings.recoveryMinApplyDelay", Ok(&["soon", "5 parsecs", "-1"])),
    ("standbyConfig.archiveRecoverySettings.restoreCommand", Err("it is the shell's")),
    ("pgParameters{}", Err("keepers leave out what PostgreSQL does not take: a warning")),
    ("pgHBA[]", Err("keepers leave out what PostgreSQL does not take: a warning")),
];

/// JSON values of another type, absurd ones, and texts that mean nothing here.
fn bad_values(path: &str, shape: Shape) -> Vec<Value> {
    match shape {
        Shape::Bool => vec![json!("yes"), json!(1), json!({})],
        Shape::Integer => vec![json!(-1), json!(1.5), json!("5"), json!(1e30), json!(true)],
        Shape::Duration | Shape::Timestamp => {
            vec![json!("x"), json!("5"), json!("-5s"), json!("999999h"), json!(true), json!([])]
        }
        Shape::Word(_) => vec![json!("paper"), json!(1), json!({})],
        Shape::Text => {
            let said = TEXTS.iter().find(|(field, _)| *field == path);
            let (_, texts) =
                said.unwrap_or_else(|| panic!("say what {path} cannot mean, or why nothing is wrong"));
            let texts = texts.unwrap_or_default().iter().map(|text| json!(text));
            texts.chain([json!(5), json!([]), json!("a\0b")]).collect()
        }
        Shape::List(inner) => {
            let inner = bad_values(&format!("{path}[]"), *inner).into_iter().map(|value| json!([value]));
            inner.chain([json!("x"), json!({ "a": 1 })]).collect()
        }
        Shape::Map(inner) => {
            let inner =
                bad_values(&format!("{path}{{}}"), *inner).into_iter().map(|value| json!({ "x": value }));
            inner.chain([json!("x"), json!([1])]).collect()
        }
        Shape::Document(_) => vec![json!("x"), json!([1]), json!(5)],
    }
}

/// Each field with the names that lead to it.
fn fields(shape: Shape, path: &[&'static str], found: &mut Vec<(Vec<&'static str>, Shape)>) {
    let Shape::Document(fields_of_it) = shape else { return };
    for field in fields_of_it {
        let path = [path, &[field.name]].concat();
        fields(field.shape, &path, found);
        found.push((path, field.shape));
    }
}

/// A specification in which the field is read.
fn around(path: &[&str], value: Value) -> Value {
    let pitr = json!({ "initMode": "pitr", "pitrConfig": { "dataRestoreCommand": "true" } });
    let mut spec = match path[0] {
        "existingConfig" => json!({ "initMode": "existing" }),
        "pitrConfig" => pitr,
        "standbyConfig" => {
            let mut spec = pitr;
            spec["role"] = json!("standby");
            spec
        }
        _ => json!({ "initMode": "new" }),
    };
    let mut place = &mut spec;
    for name in path {
        place = &mut place[*name];
    }
    *place = value;
    spec
}

/// What is wrong with how the command took it; none: it did as it should.
fn fault(ctl: &Ctl, field: &str, arguments: &[&str]) -> Option<String> {
    let before = ctl.document();
    let run = ctl.run(arguments);
    let last = run.stderr.trim_end().lines().last().unwrap_or_default();
    let fault = match run.code {
        Some(2) if ctl.document() != before => "the cluster data are others now",
        Some(2) if !run.stdout.is_empty() => "it prints something",
        Some(2) if !last.starts_with("hint: ") => "it gives no hint",
        Some(2) if !run.stderr.to_lowercase().contains(&field.to_lowercase()) => "it does not name the field",
        Some(2) => return None,
        _ => "it is not refused with exit status 2",
    };
    Some(format!("{fault}: {arguments:?}\n    {:?}", run))
}

#[test]
fn what_a_field_cannot_mean_is_refused() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    let mut found = Vec::new();
    fields(<ClusterSpec as stolon_model::json::Decode>::SHAPE, &[], &mut found);
    assert!(found.len() > 40, "{}", found.len());
    let mut faults = Vec::new();
    for (path, shape) in found {
        let field = path.last().unwrap();
        for value in bad_values(&path.join("."), shape) {
            let spec = around(&path, value).to_string();
            faults.extend(fault(&ctl, field, &["init", "--yes", &spec]));
            // What is only read when a cluster is made can be wrong in it already, or is refused for being changed.
            if path.len() == 1 && shape_is_plain(shape) {
                let patch: Value = serde_json::from_str(&spec).unwrap();
                let patch = json!({ *field: patch[*field] }).to_string();
                faults.extend(fault(&ctl, field, &["update", "--patch", &patch]));
            }
        }
    }
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

fn shape_is_plain(shape: Shape) -> bool {
    matches!(shape, Shape::Bool | Shape::Integer | Shape::Duration | Shape::Text)
}

#[test]
fn targets_that_exclude_each_other_are_refused_and_so_is_a_specification_that_is_none() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    let two = json!({
        "initMode": "pitr",
        "pitrConfig": {
            "dataRestoreCommand": "true",
            "recoveryTargetSettings": { "recoveryTargetLsn": "0/3000000", "recoveryTargetName": "before" },
        },
    });
    ctl.refused(
        &["init", "--yes", &two.to_string()],
        2,
        "invalid cluster spec: pitrConfig.recoveryTargetSettings names more than one target: recoveryTargetLsn, recoveryTargetName\n\
         hint: leave one of them\n",
    );
    for text in ["", " ", "{", "[]", "5", "\"x\"", "null", "{}", "{\"initMode\":\"new\"}}", "\u{0}"] {
        let run = ctl.run_with(&["init", "--yes", "--file", "-"], text);
        let last = run.stderr.trim_end().lines().last().unwrap_or_default();
        assert!(
            run.code == Some(2) && last.starts_with("hint: ") && run.stdout.is_empty(),
            "{text:?}: {run:?}"
        );
    }
}

#[test]
fn what_is_wrong_already_keeps_nothing_else_from_being_changed() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    let stored = ctl.done(&["clusterdata", "read"]);
    let wrong = stored.replace("\"initMode\":\"new\"", "\"initMode\":\"new\",\"syncTimeout\":\"999999h\"");
    assert_ne!(stored, wrong);
    ctl.write(&wrong);
    ctl.done(&["update", "--patch", r#"{"failInterval":"7s"}"#]);
    assert!(ctl.done(&["spec"]).contains("\"syncTimeout\": \"999999h0m0s\""));
}

#[test]
fn an_entry_of_pg_hba_that_is_no_line_is_warned_about() {
    let ctl = Ctl::sqlite();
    for (line, is_warned) in [
        ("hallo", true),
        ("host all all md5", true),
        ("local all all", true),
        ("host all all 10.0.0.0/8 md5", false),
        ("local all all peer", false),
        ("# host", false),
        ("include_if_exists more.conf", false),
    ] {
        let spec = json!({ "initMode": "new", "pgHBA": [line] }).to_string();
        let run = ctl.run(&["init", "--yes", &spec]);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(run.stderr.contains("is no line of pg_hba.conf"), is_warned, "{run:?}");
        let strict = ctl.run(&["init", "--yes", "--strict", &spec]);
        assert_eq!(strict.code == Some(2), is_warned, "{strict:?}");
    }
}
