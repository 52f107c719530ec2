//! `edit-spec`, `dsn`, and commands of other tools.

use stolon_model::Document as _;

use crate::harness::{Ctl, Run, bare, run};

/// `edit-spec` with a script for an editor, which gets the file as `$1`.
fn edited(ctl: &Ctl, script: &str, arguments: &[&str], stdin: &str) -> Run {
    let directory = tempfile::tempdir().unwrap();
    let editor = directory.path().join("my editor");
    std::fs::write(&editor, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = bare();
    command.env_remove("VISUAL").env("EDITOR", format!("'{}'", editor.display()));
    command.args(ctl.common()).arg("edit-spec").args(arguments);
    run(command, stdin)
}

#[test]
fn a_specification_is_edited_shown_and_written() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y", r#"{"initMode":"new","failInterval":"20s","pgHBA":[]}"#]);
    let slower = r#"sed -i 's/"20s"/"30s"/' "$1""#;
    let no = edited(&ctl, slower, &[], "no\n");
    assert_eq!((no.code, no.stderr.as_str()), (Some(0), ""));
    assert!(no.stdout.starts_with("failInterval: \"20s\" -> \"30s\"\n"), "{}", no.stdout);
    assert_eq!(ctl.spec().fail_interval.unwrap().to_string(), "20s", "no means no");

    let yes = edited(&ctl, slower, &[], "yes\n");
    assert_eq!((yes.code, yes.stderr.as_str()), (Some(0), ""));
    let spec = ctl.spec();
    assert_eq!(spec.fail_interval.unwrap().to_string(), "30s");
    assert_eq!(spec.pg_hba, Some(Vec::new()), "what was not touched stays");

    let nothing = edited(&ctl, "true", &[], "");
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), "nothing was changed\n"));
}

#[test]
fn what_was_typed_into_the_editor_survives_every_error() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y", r#"{"initMode":"new"}"#]);
    let before = ctl.document();
    let kept = |run: &Run| {
        let line = run.stderr.lines().find(|line| line.starts_with("what you wrote is kept in "));
        let path = line.unwrap_or_else(|| panic!("{run:?}")).rsplit(' ').next().unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        std::fs::remove_file(path).unwrap();
        text
    };
    let wrong = edited(&ctl, r#"echo '{"failInterval":' > "$1""#, &["-y"], "");
    assert_eq!((wrong.code, kept(&wrong).as_str()), (Some(2), "{\"failInterval\":\n"));
    assert!(wrong.stderr.contains("failed to unmarshal cluster spec: "), "{}", wrong.stderr);

    // Another operator is quicker: the editor itself changes the specification.
    let flags = ctl.common().join(" ");
    let program = env!("CARGO_BIN_EXE_stolonctl");
    let race = format!(
        "{program} {flags} update -p '{{\"sleepInterval\":\"3s\"}}' > /dev/null\n\
         echo '{{\"initMode\":\"new\",\"failInterval\":\"9s\"}}' > \"$1\""
    );
    let late = edited(&ctl, &race, &["-y"], "");
    assert_eq!(late.code, Some(1), "{late:?}");
    assert!(kept(&late).contains("9s"));
    assert!(
        late.stderr.contains("somebody else changed the specification meanwhile\nhint: nothing was changed")
    );
    assert_eq!(ctl.spec().fail_interval, None);

    ctl.write(&before.to_json());
    let broken = edited(&ctl, "exit 3", &["-y"], "");
    assert_eq!(broken.code, Some(1));
    assert!(broken.stderr.contains("failed: exit status: 3\nhint: nothing was changed"), "{}", broken.stderr);
    assert_eq!(ctl.document(), before);
}

#[test]
fn connection_strings_name_every_address_the_primary_first() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    let run = ctl.run(&["dsn"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.starts_with("no keeper has reported the address of its PostgreSQL yet\nhint: "));
    ctl.write(
        r#"{"formatVersion":1,"cluster":{"uid":"c","spec":{"initMode":"new"},"status":{"phase":"normal","master":"b"}},"keepers":{"k1":{"uid":"k1"},"k2":{"uid":"k2"},"k3":{"uid":"k3"}},"dbs":{
        "a":{"uid":"a","spec":{"keeperUID":"k1"},"status":{"listenAddress":"::1","port":"5432"}},
        "b":{"uid":"b","spec":{"keeperUID":"k2"},"status":{"listenAddress":"10.0.0.2","port":"5433"}},
        "c":{"uid":"c","spec":{"keeperUID":"k3"}}}}"#,
    );
    let hosts = "10.0.0.2:5433,[::1]:5432";
    for (arguments, expected) in [
        (&["dsn"][..], format!("postgresql://{hosts}/?target_session_attrs=read-write\n")),
        (&["dsn", "--reads"], format!("postgresql://{hosts}/?target_session_attrs=prefer-standby\n")),
        (&["dsn", "--jdbc"], format!("jdbc:postgresql://{hosts}/?targetServerType=primary\n")),
        (
            &["dsn", "--jdbc", "--reads"],
            format!("jdbc:postgresql://{hosts}/?targetServerType=preferSecondary\n"),
        ),
    ] {
        assert_eq!(ctl.done(arguments), expected);
    }
}

#[test]
fn commands_of_other_tools_get_an_answer() {
    let ctl = Ctl::sqlite();
    for command in ["list", "topology", "handover", "failover", "maintenance", "edit-config"] {
        let run = ctl.run(&[command, "whatever"]);
        assert_eq!(run.code, Some(2), "{command}: {run:?}");
        let (sentence, hint) = run.stderr.split_once("\nhint: ").unwrap();
        assert_eq!(sentence, format!("unknown command {command:?} for \"stolonctl\""));
        assert!(!hint.contains("did you mean"), "{command}: {hint}");
        assert!(!hint.contains("init "), "{command}: {hint}");
    }
    assert!(ctl.run(&["statsu"]).stderr.ends_with("hint: did you mean status?\n"));
}

/// Every command that changes the cluster is entered with who gave it and what it changed, and nobody's password.
#[test]
fn history_tells_who_did_what() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    ctl.done(&["update", "--patch", r#"{"failInterval":"10s","pgParameters":{"work_mem":"8MB"}}"#]);
    let secret = r#"{"standbyConfig":{"standbySettings":{"primaryConninfo":"host=a password=secret"}}}"#;
    ctl.run(&["update", "--patch", secret]);
    ctl.refused(
        &["history", "-f", "yaml"],
        2,
        "unrecognised output format yaml\nhint: the formats are text and json\n",
    );
    let text = ctl.done(&["history"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("TIME\t"), "{text}");
    assert!(lines[1].contains("\tinit"), "{text}");
    assert!(lines[2].contains("\tupdate\t"), "{text}");
    assert!(lines[2].ends_with("failInterval: (not set) -> \"10s\""), "{text}");
    assert!(lines[3].trim_start().starts_with("pgParameters.work_mem: (not set) -> \"8MB\""), "{text}");
    assert!(text.contains("primaryConninfo: (changed; it may hold a password)"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    let entries: serde_json::Value = serde_json::from_str(&ctl.done(&["history", "-f", "json"])).unwrap();
    let operator = entries[1]["operator"].as_str().unwrap();
    let host = rustix::system::uname();
    assert!(operator.ends_with(&format!("@{}", host.nodename().to_str().unwrap())), "{operator}");
    assert_eq!(entries[1]["what"], "update");
}
