//! Patches of a specification.

use stolon_model::{ClusterSpec, Document, Patch, PatchError, unknown_fields};

/// What is set after a patch, or the error.
fn patched(stored: &str, patch: &str) -> Result<String, String> {
    let spec = ClusterSpec::from_json(stored).unwrap_or_else(|error| panic!("{stored}: {error}"));
    merge_patch(&spec, patch).map(|spec| compact(&spec)).map_err(|error| error.to_string())
}

fn merge_patch(spec: &ClusterSpec, patch: &str) -> Result<ClusterSpec, PatchError> {
    Patch::parse(patch)?.apply(spec)
}

fn compact(spec: &ClusterSpec) -> String {
    spec.to_json_set_only().replace(['\n', '\t'], "").replace("\": ", "\":")
}

#[test]
fn patches_merge() {
    let two = r#"{"initMode":"new","pgParameters":{"a":"1","b":"2"}}"#;
    let standby =
        r#"{"standbyConfig":{"standbySettings":{"primaryConninfo":"host=a","primarySlotName":"s"}}}"#;
    for (stored, patch, expected) in [
        (
            "{}",
            r#"{"sleepInterval":"2s","maxStandbyLag":12345}"#,
            r#"{"sleepInterval":"2s","maxStandbyLag":12345}"#,
        ),
        (
            r#"{"sleepInterval":"2s","maxStandbyLag":12345}"#,
            r#"{"sleepInterval":null}"#,
            r#"{"maxStandbyLag":12345}"#,
        ),
        (
            r#"{"additionalMasterReplicationSlots":["slot1","slot2"]}"#,
            r#"{"additionalMasterReplicationSlots":["slot3"]}"#,
            r#"{"additionalMasterReplicationSlots":["slot3"]}"#,
        ),
        (
            two,
            r#"{"pgParameters":{"a":null,"c":"3"}}"#,
            r#"{"initMode":"new","pgParameters":{"b":"2","c":"3"}}"#,
        ),
        (
            two,
            r#"{"pgParameters":{"$patch":"replace","work_mem":"16MB"}}"#,
            r#"{"initMode":"new","pgParameters":{"work_mem":"16MB"}}"#,
        ),
        (two, r#"{"pgParameters":null}"#, r#"{"initMode":"new"}"#),
        (two, r#"{"pgParameters":{"$patch":"delete"}}"#, r#"{"initMode":"new"}"#),
        (
            two,
            r#"{"pgParameters":{"$retainKeys":["b","c"],"c":"3"}}"#,
            r#"{"initMode":"new","pgParameters":{"b":"2","c":"3"}}"#,
        ),
        (two, r#"{"$patch":"replace","initMode":"pitr"}"#, r#"{"initMode":"pitr"}"#),
        (two, r#"{"$patch":"delete"}"#, "{}"),
        (two, r#"{"$retainKeys":["INITMODE"]}"#, r#"{"initMode":"new"}"#),
        (two, "null", two),
        (two, "{}", two),
        (two, r#"{"foo":1,"bar":{"x":null}}"#, two),
        // Keys are folded to their canonical spelling before they are merged.
        (
            standby,
            r#"{"standbyConfig":{"standbySettings":{"primaryConnInfo":"host=b"}}}"#,
            r#"{"standbyConfig":{"standbySettings":{"primaryConninfo":"host=b","primarySlotName":"s"}}}"#,
        ),
        (r#"{"sleepInterval":"2s"}"#, r#"{"SLEEPINTERVAL":null}"#, "{}"),
        (
            two,
            r#"{"PGPARAMETERS":{"A":"9"}}"#,
            r#"{"initMode":"new","pgParameters":{"A":"9","a":"1","b":"2"}}"#,
        ),
        // Nulls in a new object leave nothing behind.
        ("{}", r#"{"pgParameters":{"x":null,"y":"1"}}"#, r#"{"pgParameters":{"y":"1"}}"#),
        ("{}", r#"{"pgParameters":{"$patch":"replace","x":null}}"#, "{}"),
        ("{}", r#"{"newConfig":{"locale":null}}"#, r#"{"newConfig":{}}"#),
        // The last of several equal keys wins, objects merge.
        (
            "{}",
            r#"{"pgParameters":{"x":"1"},"pgparameters":{"y":"2"}}"#,
            r#"{"pgParameters":{"x":"1","y":"2"}}"#,
        ),
        (r#"{"usePgrewind":true}"#, r#"{"usePgrewind":false}"#, r#"{"usePgrewind":false}"#),
    ] {
        assert_eq!(patched(stored, patch), Ok(expected.to_owned()), "{stored} + {patch}");
    }
}

#[test]
fn an_empty_list_and_none_stay_apart() {
    let stored = ClusterSpec::from_json(r#"{"pgHBA":["a"]}"#).expect("it is readable");
    assert_eq!(merge_patch(&stored, r#"{"pgHBA":[]}"#).map(|spec| spec.pg_hba), Ok(Some(Vec::new())));
    assert_eq!(merge_patch(&stored, r#"{"pgHBA":null}"#).map(|spec| spec.pg_hba), Ok(None));
    assert_eq!(
        merge_patch(&stored, r#"{"pgHBA":["x",null]}"#).map(|spec| spec.pg_hba),
        Ok(Some(vec!["x".into(), "".into()]))
    );
}

#[test]
fn patches_are_refused_with_a_reason() {
    let invalid = "failed to patch cluster spec: failed to merge patch cluster spec: invalid JSON document: ";
    for patch in ["", "[]", "\"\"", "{\"a\":}", "5"] {
        let error = patched("{}", patch).expect_err(patch);
        assert!(error.starts_with(invalid), "{patch}: {error}");
    }
    let wrong = "failed to patch cluster spec: failed to unmarshal patched cluster spec: maxStandbys: \
                 expected a whole number, found a string (line 1, column 16)";
    assert_eq!(patched("{}", r#"{"maxStandbys":"5"}"#), Err(wrong.to_owned()));
    for patch in
        [r#"{"$patch":"merge it"}"#, r#"{"$retainKeys":"a"}"#, r#"{"$retainKeys":["role"],"initMode":"new"}"#]
    {
        let error = patched("{}", patch).expect_err(patch);
        assert!(
            error.starts_with("failed to patch cluster spec: failed to merge patch cluster spec: "),
            "{error}"
        );
    }
}

#[test]
fn keys_without_meaning_are_found() {
    let text = r#"{"sleepIntervall":"1s","standbySettings":{},"newConfig":{"local":"C"},"$patch":"replace",
        "pgParameters":{"max_conections":"5"},"INITMODE":"new","xyzzy":1}"#;
    let found: Vec<String> =
        unknown_fields(text).expect("it is JSON").iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "sleepIntervall is not a field of a cluster specification and is ignored: did you mean sleepInterval?",
            "standbySettings is not a field of a cluster specification and is ignored",
            "newConfig.local is not a field of a cluster specification and is ignored: did you mean newConfig.locale?",
            "xyzzy is not a field of a cluster specification and is ignored",
        ]
    );
    assert!(unknown_fields("{").is_err());
    let patch = Patch::parse(text).expect("it is a patch");
    assert_eq!(patch.unknown_fields(), unknown_fields(text).expect("it is JSON"));
    assert!(patch.parameters().iter().eq(["max_conections"]));
}
