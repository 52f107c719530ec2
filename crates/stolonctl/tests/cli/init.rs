//! `stolonctl init`

use stolon_model::{AccessMode, ClusterDocument, Document, Timestamp};

use crate::harness::{Ctl, Run, run};

const OVERWRITTEN: &str = "WARNING: The databases managed by the keepers will be overwritten depending on the provided cluster spec.\n";
const NARROWED: &str = "The superuser and the replication user are admitted from the addresses of keepers only (defaultSUReplAccessMode: strict). \
                        Backups and standbys from elsewhere need a line of pgHBA, or, as with Stolon: \
                        stolonctl update --patch '{\"defaultSUReplAccessMode\":\"all\"}'\n";
const REMOVED: &str = "WARNING: The current cluster data will be removed\n";
const QUESTION: &str = "Are you sure you want to continue? [yes/no] ";

#[test]
fn without_arguments_a_new_cluster_is_made() {
    let ctl = Ctl::sqlite();
    assert_eq!(ctl.done(&["init", "-y"]), format!("{OVERWRITTEN}{NARROWED}"));
    let document = ctl.document();
    let cluster = document.cluster.clone().unwrap();
    assert_eq!(cluster.uid.as_str().len(), 8);
    assert_ne!(cluster.change_time, Timestamp::ZERO);
    let golden = include_str!("../../../stolon-model/tests/golden/after_init.json");
    let mut expected = ClusterDocument::from_json(golden).unwrap();
    let section = expected.cluster.as_mut().unwrap();
    section.uid = cluster.uid;
    section.change_time = cluster.change_time;
    // What Stolon's does not say: that an operator agreed, which of several documents is newer, and who made it.
    section.status.history = cluster.status.history;
    assert_eq!(section.status.history.as_ref().unwrap()[0].what, "init");
    section.overwrite_data = true;
    // What a new database gets where nobody has chosen.
    section.spec.as_mut().unwrap().default_su_repl_access_mode = Some(AccessMode::Strict);
    section.epoch = u64::try_from(cluster.change_time.instant().as_second()).ok();
    assert_eq!(ctl.done(&["clusterdata", "read"]), format!("{}\n", expected.to_json()));
}

#[test]
fn a_cluster_that_exists_is_replaced_by_another_one() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    let first = ctl.document().cluster.unwrap().uid;
    let run = ctl.run_with(&["init", r#"{"initMode":"new","failInterval":"7s"}"#], "yes\n");
    assert_eq!(
        run,
        Run {
            code: Some(0),
            stdout: format!("{REMOVED}{OVERWRITTEN}{NARROWED}{QUESTION}"),
            stderr: String::new()
        }
    );
    assert_ne!(ctl.document().cluster.unwrap().uid, first);
    let spec = "{\n\t\"failInterval\": \"7s\",\n\t\"initMode\": \"new\",\n\t\"defaultSUReplAccessMode\": \"strict\"\n}\n";
    assert_eq!(ctl.done(&["spec"]), spec);
}

#[test]
fn only_a_new_database_has_its_users_admitted_from_keepers_alone_and_only_where_nobody_has_chosen() {
    let ctl = Ctl::sqlite();
    for (spec, mode, is_said) in [
        (r#"{"initMode":"new"}"#, Some(AccessMode::Strict), true),
        (r#"{"initMode":"new","defaultSUReplAccessMode":null}"#, Some(AccessMode::Strict), true),
        (r#"{"initMode":"new","defaultSUReplAccessMode":"all"}"#, Some(AccessMode::All), false),
        (r#"{"initMode":"new","defaultSUReplAccessMode":"strict"}"#, Some(AccessMode::Strict), false),
        (r#"{"initMode":"existing","existingConfig":{"keeperUID":"keeper1"}}"#, None, false),
        (r#"{"initMode":"pitr","pitrConfig":{"dataRestoreCommand":"true"}}"#, None, false),
    ] {
        let said = ctl.done(&["init", "-y", spec]);
        assert_eq!(ctl.spec().default_su_repl_access_mode, mode, "{spec}");
        assert_eq!(said.ends_with(NARROWED), is_said, "{spec}: {said}");
    }
    // What it says to get the old behaviour back does so.
    ctl.done(&["init", "-y"]);
    let (_, patch) = NARROWED.split_once("--patch '").unwrap();
    ctl.done(&["update", "--patch", patch.trim_end().trim_end_matches('\'')]);
    assert_eq!(ctl.spec().default_su_repl_access_mode, Some(AccessMode::All));
}

#[test]
fn only_yes_and_no_are_answers() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    let stored = ctl.done(&["clusterdata", "read"]);
    let warnings = format!("{REMOVED}{OVERWRITTEN}{NARROWED}");
    let again = "Please enter 'yes' or 'no'\n";
    let end_of_input = "error reading input: EOF\n\
                        hint: nothing was changed; answer yes or no, or give --yes to go on without the question\n";
    for (stdin, code, answers, stderr) in [
        ("no\n", 0, format!("{QUESTION}exiting\n"), ""),
        (
            "y\nYES\nyes \nyes\r\n\nno\n",
            0,
            format!("{}{QUESTION}exiting\n", format!("{QUESTION}{again}").repeat(5)),
            "",
        ),
        ("", 1, QUESTION.to_owned(), end_of_input),
        ("yes", 1, QUESTION.to_owned(), end_of_input),
        ("maybe\n", 1, format!("{QUESTION}{again}{QUESTION}"), end_of_input),
    ] {
        let run = ctl.run_with(&["init"], stdin);
        let expected =
            Run { code: Some(code), stdout: format!("{warnings}{answers}"), stderr: stderr.to_owned() };
        assert_eq!(run, expected, "{stdin:?}");
        assert_eq!(ctl.done(&["clusterdata", "read"]), stored, "{stdin:?}");
    }
}

#[test]
fn yes_from_a_pipe_that_never_ends_is_taken() {
    let ctl = Ctl::sqlite();
    let mut shell = std::process::Command::new("bash");
    let program = env!("CARGO_BIN_EXE_stolonctl");
    let flags = ctl.common().join(" ");
    shell
        .args(["-ec", &format!("/usr/bin/yes yes | {program} {flags} init '{{\"initMode\":\"new\"}}' 2>&1")]);
    assert_eq!(run(shell, "").code, Some(0));
    ctl.done(&["spec"]);
}

#[test]
fn the_specification_comes_from_a_file_or_from_standard_input() {
    let ctl = Ctl::sqlite();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("spec.json").display().to_string();
    std::fs::write(&file, "{\n  \"initMode\": \"new\",\n  \"maxStandbys\": 7\n}\n").unwrap();
    ctl.done(&["init", "-y", "-f", &file]);
    assert_eq!(ctl.spec().max_standbys, Some(7));
    ctl.done(&["init", "-y", "--file", &file, r#"{"initMode":"new","maxStandbys":8}"#]);
    assert_eq!(ctl.spec().max_standbys, Some(8), "the argument wins");
    let run = ctl.run_with(&["init", "-y", "-f", "-"], r#"{"initMode":"new","maxStandbys":9}"#);
    assert_eq!(run.code, Some(0));
    assert_eq!(ctl.spec().max_standbys, Some(9));

    ctl.refused_with(
        &["init", "-f", "-"],
        r#"{"initMode":"new"}"#,
        2,
        "the question before init cannot be answered: standard input is the cluster specification\n\
         hint: nothing was changed; add --yes, or give the specification as an argument or in a file\n",
    );
    ctl.refused(
        &["init", "-y", "-f", "/no/such/file"],
        2,
        "cannot read file: open /no/such/file: no such file or directory\n\
         hint: give the name of a readable file, or - for standard input\n",
    );
    std::fs::write(&file, b"\xff{}").unwrap();
    let run = ctl.run(&["init", "-y", "-f", &file]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("is not valid UTF-8 (byte 1 on)"), "{}", run.stderr);
}

#[test]
fn a_wrong_specification_is_refused_before_the_question() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    let no_init_mode = "invalid cluster spec: initMode undefined\nhint: give initMode \"new\", \"existing\" or \"pitr\"; a full replacement must repeat the stored one\n";
    for (spec, stderr) in [
        ("{}", no_init_mode),
        ("null", no_init_mode),
        (
            r#"{"initMode":"pitr"}"#,
            "invalid cluster spec: pitrConfig undefined. Required when initMode is \"pitr\"\n\
             hint: add it, or choose another initMode: docs/cluster-specification.md has each field\n",
        ),
        (
            r#"{"initMode":"new","role":"standby"}"#,
            "invalid cluster spec: invalid cluster role standby when initMode is \"new\"\n\
             hint: a standby cluster is made with initMode \"pitr\"\n",
        ),
        (
            r#"{"initMode":"new","proxyCheckInterval":"15s"}"#,
            "invalid cluster spec: proxyCheckInterval should be less than proxyTimeout\n\
             hint: fields that are not set count with their defaults: stolonctl spec --defaults shows them\n",
        ),
    ] {
        ctl.refused_with(&["init", spec], "yes\n", 2, stderr);
        assert_eq!(ctl.run(&["init", spec]).stdout, "", "no question about {spec}");
    }
}

#[test]
fn malformed_json_is_answered_with_the_place_and_a_hint() {
    let ctl = Ctl::sqlite();
    for (spec, parts) in [
        (r#"{"initMode":"new""#, ["unexpected end of JSON input", "add } at its end"]),
        ("", ["unexpected end of JSON input", "hint: give a JSON object"]),
        (r#"{"initMode":new}"#, ["(line 1, column 13)", "put it in double quotes: \"new\""]),
        ("{initMode:new}", ["(line 1, column 2)", "put the whole text in single quotes"]),
        (
            r#"{"initMode":"new","failInterval":5}"#,
            ["time: missing unit in duration \"5\"", "write the unit too"],
        ),
        (r#"{"initMode":"new","maxStandbys":"7"}"#, ["expected a whole number", "write 7 without quotes"]),
        ("{\"initMode\":\"new\",\n\"maxStandbys\":1.5}", ["maxStandbys", "(line 2, column 15)"]),
    ] {
        let run = ctl.run(&["init", "-y", spec]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{spec}: {run:?}");
        assert!(run.stderr.starts_with("failed to unmarshal cluster spec: "), "{spec}: {}", run.stderr);
        for part in parts {
            assert!(run.stderr.contains(part), "{spec}: no {part:?} in {}", run.stderr);
        }
    }
    let run = ctl.run(&["init", "-y", r#"{"initMode":new}"#]);
    let caret = run.stderr.lines().nth(2).unwrap();
    assert_eq!(run.stderr.lines().nth(1), Some(r#"  {"initMode":new}"#));
    assert_eq!(caret, format!("{}^", " ".repeat(14)));
    assert_eq!(ctl.run(&["spec"]).code, Some(1), "nothing was written");
}

#[test]
fn keys_that_nobody_reads_are_named_and_with_strict_refused() {
    let ctl = Ctl::empty();
    let spec = r#"{"initMode":"new","failIntervall":"7s","newConfig":{"local":"C"}}"#;
    let warnings = "warning: failIntervall is not a field of a cluster specification and is ignored: did you mean failInterval?\n\
                    warning: newConfig.local is not a field of a cluster specification and is ignored: did you mean newConfig.locale?\n";
    ctl.refused(
        &["init", "-y", "--strict", spec],
        2,
        &format!("{warnings}refused because of --strict: 2 warnings\nhint: nothing was changed; correct the specification, or leave --strict out\n"),
    );
    assert_eq!(ctl.run(&["spec"]).code, Some(1), "nothing was written");
    let run = ctl.run(&["init", "-y", spec]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), warnings));
    assert_eq!(ctl.spec().fail_interval, None);
}

#[test]
fn an_unreadable_old_document_stops_init() {
    let ctl = Ctl::sqlite();
    ctl.write(r#"{"formatVersion":9}"#);
    assert_eq!(
        ctl.done(&["init", "-y"]),
        format!("{REMOVED}{OVERWRITTEN}{NARROWED}"),
        "another format version does not matter"
    );
    ctl.done(&["spec"]);
}

/// As guides for Stolon have it; the option for the WAL in its spelling of today, and in that of PostgreSQL 9.
#[test]
fn the_command_of_the_migration_guide_works() {
    for (option, stderr) in [
        ("-X stream", ""),
        (
            "-x",
            "warning: dataRestoreCommand: pg_basebackup has no option -x since PostgreSQL 10: write -X stream\n",
        ),
    ] {
        let ctl = Ctl::sqlite();
        let command = format!(
            "PGPASSWORD=secret pg_basebackup -D /stolon-data/postgres/ -P -h legacydbhost -U stolon {option}"
        );
        let spec = format!(
            r#"{{"initMode":"pitr","pitrConfig":{{"dataRestoreCommand":"{command}", "archiveRecoverySettings":{{"restoreCommand": "echo 1"}}}}}}"#
        );
        let run = ctl.run_with(&["init", &spec], &"yes\n".repeat(1000));
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), stderr), "{option}");
        let pitr = ctl.spec().pitr_config.unwrap();
        assert_eq!(pitr.data_restore_command, command);
        assert_eq!(pitr.archive_recovery_settings.unwrap().restore_command, "echo 1");
    }
}
