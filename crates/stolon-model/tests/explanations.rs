//! What a person is told about a text that cannot be read.

use stolon_model::{ClusterSpec, Document};

/// As it is shown: the hint on a line of its own.
fn explain(text: &str) -> String {
    let explained = ClusterSpec::from_json(text).expect_err(text).explain(text);
    match explained.hint {
        Some(hint) => format!("{}\nhint: {hint}", explained.sentence),
        None => explained.sentence,
    }
}

#[test]
fn the_line_a_caret_and_a_hint() {
    assert_eq!(
        explain("{\n  \"sleepInterval\": \"3s\",\n}"),
        "unexpected '}', expected a key in double quotes (line 3, column 1)\n  }\n  ^\n\
         hint: remove the comma before it: the last entry has none"
    );
    assert_eq!(
        explain(
            r#"{"failInterval":"10s","pgParameters":{"max_prepared_transactions":"100","max_connections":"1000"}"#
        ),
        "unexpected end of JSON input, ',' or '}' is missing (line 1, column 98)\n  \
         …{\"max_prepared_transactions\":\"100\",\"max_connections\":\"1000\"}\n  \
         \u{20}                                                            ^\n\
         hint: the text stops before everything is closed: add } at its end"
    );
    assert_eq!(
        explain(r#"{"sleepInterval":5}"#),
        "sleepInterval: time: missing unit in duration \"5\" (line 1, column 18)\n  {\"sleepInterval\":5}\n  \
         \u{20}                ^\nhint: write the unit too, for example \"5s\" (units: ns, us, ms, s, m, h)"
    );
}

#[test]
fn hints() {
    for (text, hint) in [
        ("", "give a JSON object"),
        ("  \n ", "give a JSON object"),
        ("{initMode:new}", "a shell may have removed them"),
        ("{'initMode':'new'}", "a shell may have removed them"),
        (r#"{'initMode':"new"}"#, "double quotes"),
        (r#"{"initMode":'new'}"#, "double quotes"),
        (r#"{"initMode":new}"#, r#"put it in double quotes: "new""#),
        (r#"{initMode:"new"}"#, r#"put it in double quotes: "initMode""#),
        (r#"{"usePgrewind":True}"#, "write true in lower case"),
        (r#"{"usePgrewind":None}"#, "write null"),
        (r#"{"initMode":"new",}"#, "remove the comma before it"),
        (r#"{"pgHBA":["a",]}"#, "remove the comma before it"),
        (r#"{"pgHBA":["a","#, "remove the comma at the end and add ]}"),
        (r#"{"a":1,,"b":2}"#, "one comma too many"),
        (r#"{"initMode":}"#, "a value is missing"),
        (r#"{"initMode":"#, "a value is missing"),
        (r#"{"initMode":"new" "role":"master"}"#, "a comma is missing before it"),
        (r#"{"initMode"="new"}"#, "separated by ':'"),
        (r#"{"initMode":"new"}}"#, "too many: remove it"),
        (r#"{"initMode":"new"} {}"#, "one JSON object only"),
        (r#"{"initMode":"new"#, "a string is not closed"),
        ("{\"initMode\":\"new\n\"}", "missing before it"),
        (r#"{"pgHBA":["a"}"#, "a ']' is missing before it"),
        (r#"{"pgParameters":{"a":"b"]"#, "a '}' is missing before it"),
        (r#"{"a":"\d"}"#, "a backslash is written"),
        ("{“initMode”:\"new\"}", "typographic quotes"),
        ("\u{feff}{\"a\":1}", "byte order mark"),
        ("// x\n{\"a\":1}", "no comments"),
        (r#"{"sleepInterval":"1d"}"#, "days are written in hours"),
        (r#"{"maxStandbys":"5"}"#, "write 5 without quotes"),
        (r#"{"pgParameters":{"max_connections":1000}}"#, r#"write it in double quotes: "1000""#),
        (r#"{"pgParameters":{"fsync":true}}"#, r#"write it in double quotes: "true""#),
        (r#"{"usePgrewind":"on"}"#, "write true, without quotes"),
        (r#"{"pgHBA":"local all all trust"}"#, "square brackets"),
        (r#"{"pgParameters":["a"]}"#, "an object is written"),
    ] {
        let explained = explain(text);
        let given = explained.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap_or("");
        assert!(given.contains(hint), "{text}\n{explained}");
    }
}

#[test]
fn a_long_line_is_cut_to_what_a_terminal_shows() {
    let text = format!(r#"{{"pgHBA":["{}",5,"{}"]}}"#, "é".repeat(500), "x".repeat(500));
    let explained = explain(&text);
    let lines: Vec<&str> = explained.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 125), "{explained}");
    let caret = lines[2].chars().position(|c| c == '^').expect("there is a caret");
    assert_eq!(lines[1].chars().nth(caret), Some('5'));
}
