//! The rules of the wire format, one table each (docs: "Wire format").

use stolon_model::{
    ClusterDocument, ClusterSpec, Document, GoDuration, InstanceSpec, KeeperReport, Timestamp,
};

/// What a specification is stored as, or the message of the error.
fn stored(text: &str) -> Result<String, String> {
    ClusterSpec::from_json(text).map(|spec| spec.to_json()).map_err(|error| error.kind.to_string())
}

/// The four fields that are always written, in their places between the given parts.
fn frame(before: &str, between: &str, after_init_mode: &str, hba: &str) -> String {
    format!(
        "{{{before}\"additionalWalSenders\":null,\"additionalMasterReplicationSlots\":null{between}\
         {after_init_mode},\"pgHBA\":{hba},\"automaticPgRestart\":null}}"
    )
}

#[test]
fn decoding_follows_go() {
    let bare = |before: &str| frame(before, "", "", "null");
    let after = |part: &str| frame("", "", part, "null");
    for (rule, text, expected) in [
        (
            "D1",
            r#"{"initmode":"new","SLEEPINTERVAL":"3s"}"#,
            frame(r#""sleepInterval":"3s","#, "", r#","initMode":"new""#, "null"),
        ),
        ("D1", "{\"\u{17F}leepInterval\":\"3s\"}", bare(r#""sleepInterval":"3s","#)),
        (
            "D1",
            r#"{"standbyConfig":{"standbySettings":{"primaryConnInfo":"h"}}}"#,
            after(r#","standbyConfig":{"standbySettings":{"primaryConninfo":"h"}}"#),
        ),
        ("D1", r#"{"pgParameters":{"A":"1","a":"2"}}"#, after(r#","pgParameters":{"A":"1","a":"2"}"#)),
        ("D2", r#"{"foo":1,"newConfig":{"bar":[{}]}}"#, after(r#","newConfig":{}"#)),
        ("D3", r#"{"sleepInterval":"1s","sleepinterval":"2s"}"#, bare(r#""sleepInterval":"2s","#)),
        (
            "D3",
            r#"{"newConfig":{"locale":"C"},"newConfig":{"encoding":"UTF8"}}"#,
            after(r#","newConfig":{"locale":"C","encoding":"UTF8"}"#),
        ),
        (
            "D3",
            r#"{"pgParameters":{"a":"1"},"pgParameters":{"b":"2","a":"3"}}"#,
            after(r#","pgParameters":{"a":"3","b":"2"}"#),
        ),
        ("D3", r#"{"pgHBA":["a","b"],"pgHBA":["c"]}"#, frame("", "", "", r#"["c"]"#)),
        ("D4", r#"{"sleepInterval":null,"pgHBA":null,"newConfig":null,"role":null}"#, bare("")),
        ("D4", r#"{"newConfig":{"locale":"C","locale":null}}"#, after(r#","newConfig":{"locale":"C"}"#)),
        ("D4", r#"{"sleepInterval":"1s","sleepInterval":null}"#, bare("")),
        ("D5", r#"{"pgHBA":["a",null]}"#, frame("", "", "", r#"["a",""]"#)),
        ("D5", r#"{"pgParameters":{"x":null}}"#, after(r#","pgParameters":{"x":""}"#)),
        (
            "D9",
            r#"{"pgHBA":["\ud800","\ud800\u0041","\ud83d\ude00","\udc00x"]}"#,
            frame("", "", "", "[\"\u{FFFD}\",\"\u{FFFD}A\",\"😀\",\"\u{FFFD}x\"]"),
        ),
        ("D10", "null", bare("")),
        (
            "N3",
            r#"{"pgHBA":["a && <b> \u2028\u2029 \u0001\b\f\n\r\t\"\\/ é \u007f"]}"#,
            frame(
                "",
                "",
                "",
                "[\"a \\u0026\\u0026 \\u003cb\\u003e \\u2028\\u2029 \\u0001\\u0008\\u000c\\n\\r\\t\\\"\\\\/ é \u{7f}\"]",
            ),
        ),
        (
            "N4",
            r#"{"maxStandbys":0,"usePgrewind":false,"newConfig":{"locale":"","dataChecksums":false},"pgParameters":{}}"#,
            frame(r#""maxStandbys":0,"#, r#","usePgrewind":false"#, r#","newConfig":{}"#, "null"),
        ),
        ("N4", r#"{"initMode":"","role":""}"#, frame("", "", r#","initMode":"","role":"""#, "null")),
        ("N5", r#"{"pgHBA":[]}"#, frame("", "", "", "[]")),
    ] {
        assert_eq!(stored(text), Ok(expected), "{rule}: {text}");
    }
}

#[test]
fn decoding_refuses_what_go_refuses() {
    for (rule, text, message) in [
        ("D6", r#"{"maxStandbys":5.0}"#, "5.0 is not a whole number from 0 to 65535"),
        ("D6", r#"{"maxStandbys":1e3}"#, "1e3 is not a whole number from 0 to 65535"),
        ("D6", r#"{"maxStandbys":70000}"#, "70000 is not a whole number from 0 to 65535"),
        ("D6", r#"{"maxStandbys":-1}"#, "-1 is not a whole number from 0 to 65535"),
        ("D6", r#"{"maxStandbys":"5"}"#, "expected a whole number, found a string"),
        ("D6", r#"{"usePgrewind":"true"}"#, "expected true or false, found a string"),
        ("D6", r#"{"usePgrewind":1}"#, "expected true or false, found a number"),
        ("D7", r#"{"newConfig":[]}"#, "expected an object, found an array"),
        ("D7", r#"{"pgHBA":"x"}"#, "expected an array, found a string"),
        ("D7", r#"{"pgParameters":{"x":5}}"#, "expected a string, found a number"),
        ("D7", "[]", "expected an object, found an array"),
        ("D7", "{} {}", "there is text after the end of the JSON value"),
        ("D7", "", "unexpected end of JSON input, a value is missing"),
        (
            "D7",
            "{\"pgHBA\":[\"a\u{1}\"]}",
            "a control character inside a string must be written as an escape",
        ),
        ("D8", r#"{"sleepInterval":5}"#, "time: missing unit in duration \"5\""),
        ("D8", r#"{"sleepInterval":true}"#, "time: invalid duration \"true\""),
        ("D8", r#"{"sleepInterval":"5\u0073"}"#, "time: unknown unit \"\\\\u\" in duration \"5\\\\u0073\""),
    ] {
        assert_eq!(stored(text), Err(message.to_owned()), "{rule}: {text}");
    }
    let null = InstanceSpec::from_json(r#"{"requestTimeout":null}"#).expect_err("D8");
    assert_eq!(null.kind.to_string(), "time: invalid duration \"null\"");
    assert_eq!(null.path, "requestTimeout");
}

#[test]
fn plain_words_differ_from_pointers() {
    let status = |text: &str| ClusterDocument::from_json(text).map(|document| document.to_json());
    let rest = r#""keepers":null,"dbs":null,"proxy":null}"#;
    let head = r#"{"formatVersion":0,"changeTime":"0001-01-01T00:00:00Z","cluster":{"changeTime":"0001-01-01T00:00:00Z","status":"#;
    for (given, written) in [
        (r#"{"phase":"","master":""}"#, "{}"),
        (r#"{"master":"a","master":null}"#, r#"{"master":"a"}"#),
        (r#"{"master":"a","master":""}"#, "{}"),
        (r#"{"phase":"later"}"#, r#"{"phase":"later"}"#),
        ("null", "{}"),
    ] {
        let text = format!(r#"{{"cluster":{{"status":{given}}}}}"#);
        assert_eq!(status(&text), Ok(format!("{head}{written}}},{rest}")), "{given}");
    }
}

#[test]
fn entries_of_maps_that_are_null_are_left_out() {
    let document = ClusterDocument::from_json(r#"{"keepers":{"a":null},"dbs":{}}"#).expect("it is readable");
    assert_eq!(document.keepers.map(|keepers| keepers.len()), Some(0));
    assert_eq!(document.instances.map(|instances| instances.len()), Some(0));
}

#[test]
fn booleans_behind_pointers_are_written_when_false() {
    let report = KeeperReport::from_json(r#"{"canBeMaster":false}"#).expect("it is readable");
    assert_eq!(report.to_json(), r#"{"postgresBinaryVersion":{"Maj":0,"Min":0},"canBeMaster":false}"#);
}

#[test]
fn bytes_that_are_no_utf8_become_replacement_characters() {
    let spec = ClusterSpec::from_json_bytes(b"{\"pgHBA\":[\"a\xFFb\"]}").expect("it is readable");
    assert_eq!(spec.pg_hba, Some(vec!["a\u{FFFD}b".to_owned()]));
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    assert!(ClusterSpec::from_json(&"[".repeat(1_000_000)).is_err());
    assert!(ClusterSpec::from_json(&"{\"a\":".repeat(1_000_000)).is_err());
}

#[test]
fn places_are_exact() {
    let text = "{\n\t\"newConfig\": {\"locale\": \"é\", \"dataChecksums\": 5}\n}";
    let error = ClusterSpec::from_json(text).expect_err("a number is no boolean");
    assert_eq!((error.position.line, error.position.column), (2, 48));
    assert_eq!(
        error.to_string(),
        "newConfig.dataChecksums: expected true or false, found a number (line 2, column 48)"
    );
    let error = ClusterSpec::from_json(r#"{"pgHBA":["a",{}]}"#).expect_err("an object is no string");
    assert_eq!(error.path, "pgHBA[1]");
}

#[test]
fn durations_are_written_as_go_does() {
    for (nanoseconds, text) in [
        (0, "0s"),
        (1, "1ns"),
        (1000, "1µs"),
        (1500, "1.5µs"),
        (1_000_000, "1ms"),
        (1_500_000, "1.5ms"),
        (100_000_000, "100ms"),
        (1_000_000_000, "1s"),
        (1_100_000_000, "1.1s"),
        (60_000_000_000, "1m0s"),
        (90_000_000_000, "1m30s"),
        (300_000_000_000, "5m0s"),
        (3_600_000_000_000, "1h0m0s"),
        (3_661_500_000_000, "1h1m1.5s"),
        (172_800_000_000_000, "48h0m0s"),
        (5_400_500_000_000, "1h30m0.5s"),
        (-1_500_000_000, "-1.5s"),
        (999_999_999, "999.999999ms"),
        (i64::MAX, "2562047h47m16.854775807s"),
        (i64::MIN, "-2562047h47m16.854775808s"),
    ] {
        assert_eq!(GoDuration(nanoseconds).to_string(), text);
        assert_eq!(text.parse(), Ok(GoDuration(nanoseconds)), "{text}");
    }
}

#[test]
fn durations_are_read_as_go_does() {
    const SECOND: i64 = 1_000_000_000;
    for (text, nanoseconds) in [
        ("5s", 5 * SECOND),
        ("1.5h", 5400 * SECOND),
        (".5s", SECOND / 2),
        ("5.s", 5 * SECOND),
        ("1h1h", 7200 * SECOND),
        ("+5s", 5 * SECOND),
        ("-5s", -5 * SECOND),
        ("0", 0),
        ("-0", 0),
        ("+0", 0),
        ("1us", 1000),
        ("1µs", 1000),
        ("1μs", 1000),
        ("14001ms", 14_001_000_000),
        ("0.9ns", 0),
        ("1s1ns", SECOND + 1),
        ("00001s", SECOND),
        ("0.100000000000000000000h", 360 * SECOND),
        ("9223372036854775807ns", i64::MAX),
        ("0.9223372036854775807h", 3_320_413_933_267),
    ] {
        assert_eq!(text.parse(), Ok(GoDuration(nanoseconds)), "{text}");
    }
    for (text, message) in [
        ("", r#"time: invalid duration """#),
        ("5", r#"time: missing unit in duration "5""#),
        ("1d", r#"time: unknown unit "d" in duration "1d""#),
        ("1H", r#"time: unknown unit "H" in duration "1H""#),
        ("1 s", r#"time: unknown unit " s" in duration "1 s""#),
        ("1e3s", r#"time: unknown unit "e" in duration "1e3s""#),
        ("-", r#"time: invalid duration "-""#),
        (".", r#"time: invalid duration ".""#),
        (".s", r#"time: invalid duration ".s""#),
        ("s", r#"time: invalid duration "s""#),
        (" 5s", r#"time: invalid duration " 5s""#),
        ("9223372036854775808ns", r#"time: invalid duration "9223372036854775808ns""#),
        ("99999999999999999999999s", r#"time: invalid duration "99999999999999999999999s""#),
        ("1é", r#"time: unknown unit "\xc3\xa9" in duration "1\xc3\xa9""#),
    ] {
        let error = text.parse::<GoDuration>().expect_err(text);
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn timestamps() {
    for text in [
        "0001-01-01T00:00:00Z",
        "2026-11-22T08:36:43.108862188Z",
        "2024-01-01T10:00:00+02:00",
        "2024-02-29T23:59:59.5-11:30",
        "2024-03-05T10:15:27.902113Z",
    ] {
        assert_eq!(text.parse::<Timestamp>().map(|time| time.to_string()), Ok(text.to_owned()));
    }
    for (text, written) in [
        ("2024-01-01T10:00:00.500000Z", "2024-01-01T10:00:00.5Z"),
        ("2024-01-01T10:00:00.1234567899Z", "2024-01-01T10:00:00.123456789Z"),
        ("2024-01-01T10:00:00+00:00", "2024-01-01T10:00:00Z"),
    ] {
        assert_eq!(text.parse::<Timestamp>().map(|time| time.to_string()), Ok(written.to_owned()));
    }
    for text in [
        "",
        "2024-01-01",
        "2024-01-01 10:00:00Z",
        "2024-01-01t10:00:00Z",
        "2024-01-01T10:00:00",
        "2024-13-01T10:00:00Z",
        "2023-02-29T10:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T10:00:00.Z",
        "2024-01-01T10:00:00,5Z",
        "2024-01-01T10:00:00+2:00",
        "2024-01-01T10:00:00+24:00",
        "2024-01-01T10:00:00+01:75",
        "2024-01-01T10:00:00Zx",
    ] {
        assert!(text.parse::<Timestamp>().is_err(), "{text}");
    }
    assert!(Timestamp::ZERO.is_never());
}
