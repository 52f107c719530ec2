//! Flags, environment, help.

use crate::harness::{Ctl, Run, bare, run};

fn plain(arguments: &[&str]) -> Run {
    let mut command = bare();
    command.args(arguments);
    run(command, "")
}

#[test]
fn help_and_version_need_no_flags() {
    let version = format!("stolonctl version {}\n", stolon_runtime::version());
    for arguments in [&["version"][..], &["--version"], &["version", "surplus"]] {
        assert_eq!(plain(arguments), Run { code: Some(0), stdout: version.clone(), stderr: String::new() });
    }
    for arguments in [&[][..], &["help"], &["--help"], &["-h"]] {
        let run = plain(arguments);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        for command in [
            "init",
            "update",
            "status",
            "spec",
            "promote",
            "failkeeper",
            "removekeeper",
            "clusterdata",
            "playground",
        ] {
            assert!(run.stdout.contains(&format!("\n  {command} ")), "{arguments:?} does not name {command}");
        }
    }
    for command in ["init", "update", "status", "spec", "promote", "failkeeper", "removekeeper"] {
        for arguments in [[command, "--help"], ["help", command]] {
            let run = plain(&arguments);
            assert_eq!(run.code, Some(0), "{arguments:?}");
            assert!(
                run.stdout.contains(&format!("Usage: stolonctl {command}")),
                "{arguments:?}: {}",
                run.stdout
            );
        }
    }
}

#[test]
fn bare_clusterdata_prints_its_help() {
    for arguments in [&["clusterdata"][..], &["clusterdata", "help"]] {
        let run = plain(arguments);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        assert!(run.stdout.contains("  read ") && run.stdout.contains("  write "), "{}", run.stdout);
    }
    let run = plain(&["clusterdata", "raed"]);
    assert_eq!(run.code, Some(0));
    assert_eq!(run.stderr, "unknown command \"raed\" for \"stolonctl clusterdata\"\n");
    assert!(run.stdout.contains("  read "));
}

#[test]
fn every_command_checks_the_common_flags_first() {
    let commands: [&[&str]; 9] = [
        &["init"],
        &["update", "{}"],
        &["status"],
        &["spec"],
        &["promote", "-y"],
        &["failkeeper", "k"],
        &["removekeeper", "k"],
        &["clusterdata", "read"],
        &["clusterdata", "write"],
    ];
    for command in commands {
        for (flags, message) in [
            (&[][..], "cluster name required"),
            (&["--cluster-name=c"], "store backend type required"),
            (&["--cluster-name=c", "--store-backend=kubernetes"], "unspecified kubernetes resource kind"),
            (
                &["--cluster-name=c", "--store-backend=kubernetes", "--kube-resource-kind=x"],
                "wrong kubernetes resource kind: \"x\"",
            ),
            (&["--cluster-name=c", "--store-backend=b"], "Unknown store backend: \"b\""),
        ] {
            let arguments: Vec<&str> = flags.iter().chain(command).copied().collect();
            let run = plain(&arguments);
            assert_eq!(run.code, Some(2), "{arguments:?}: {run:?}");
            assert_eq!(run.stderr.lines().next(), Some(message), "{arguments:?}");
            assert!(run.stderr.contains("\nhint: "), "{arguments:?}: {}", run.stderr);
            assert!(run.stdout.is_empty(), "{arguments:?}: {}", run.stdout);
        }
    }
}

#[test]
fn mistakes_on_the_command_line_are_one_sentence_and_a_hint() {
    for (arguments, message) in [
        (&["statsu"][..], "unknown command \"statsu\" for \"stolonctl\"\nhint: did you mean status?\n"),
        (&["--foo", "status"], "unknown flag: --foo\nhint: see stolonctl --help\n"),
        (
            &["status", "--store-timeout", "5"],
            "invalid argument \"5\" for \"--store-timeout\" flag: time: missing unit in duration \"5\"\n\
             hint: see stolonctl --help\n",
        ),
        (
            &["init", "{initMode:", "new}"],
            "too many arguments\nhint: usage: stolonctl init [--file FILE] [--yes] [SPEC]; put the JSON in single \
             quotes, so that the shell passes it as one argument\n",
        ),
        (
            &["update", "1", "2"],
            "too many arguments\nhint: usage: stolonctl update [--patch] [--file FILE] [SPEC]\n",
        ),
        (&["promote", "1"], "too many arguments\nhint: usage: stolonctl promote [--yes]\n"),
        (&["failkeeper", "1", "2"], "too many arguments\nhint: usage: stolonctl failkeeper KEEPER\n"),
        (&["removekeeper", "1", "2"], "too many arguments\nhint: usage: stolonctl removekeeper KEEPER\n"),
        (&["failkeeper"], "keeper uid required\nhint: stolonctl status lists the keepers\n"),
        (&["removekeeper"], "keeper uid required\nhint: stolonctl status lists the keepers\n"),
        (
            &["completion", "xsh"],
            "no completion for \"xsh\"\nhint: there are scripts for bash, elvish, fish, powershell and zsh\n",
        ),
    ] {
        let run = plain(arguments);
        assert_eq!(
            (run.code, run.stderr.as_str(), run.stdout.as_str()),
            (Some(2), message, ""),
            "{arguments:?}"
        );
    }
}

#[test]
fn kubernetes_that_is_not_there_is_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config");
    let run = || {
        let kubeconfig = format!("--kubeconfig={}", config.display());
        let kind = "--kube-resource-kind=configmap";
        plain(&["status", "--cluster-name=c", "--store-backend=kubernetes", kind, &kubeconfig])
    };
    let absent = run();
    assert_eq!(absent.code, Some(2), "{}", absent.stderr);
    assert!(absent.stderr.contains("No such file") && absent.stderr.contains("hint: "), "{}", absent.stderr);
    let server = "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]";
    let context = "contexts: [{name: a, context: {cluster: a}}]";
    std::fs::write(&config, format!("current-context: a\n{server}\n{context}\n")).unwrap();
    let silent = run();
    assert_eq!(silent.code, Some(1), "{}", silent.stderr);
    let said = silent.stderr.contains("cannot reach the store: http://127.0.0.1:1: ");
    assert!(said && silent.stderr.contains("hint: check that "), "{}", silent.stderr);
}

#[test]
fn every_store_that_is_a_service_says_that_it_is_not_there() {
    for backend in ["etcdv3", "etcdv2", "etcd", "consul"] {
        let backend = format!("--store-backend={backend}");
        let run = plain(&["status", "--cluster-name=c", &backend, "--store-endpoints=127.0.0.1:1"]);
        assert_eq!(run.code, Some(1), "{backend}: {}", run.stderr);
        let said = run.stderr.contains("cannot reach the store: http://127.0.0.1:1: ");
        assert!(said && run.stderr.contains("hint: check that "), "{backend}: {}", run.stderr);
    }
}

#[test]
fn common_flags_stand_before_or_after_the_command_or_in_the_environment() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "--yes"]);
    let spec = ctl.done(&["spec"]);
    let flags = ctl.common();

    let mut after = bare();
    after.arg("spec").args(&flags);
    let mut between = bare();
    between.args(&flags[..1]).arg("spec").args(&flags[1..]);
    let mut environment = bare();
    environment.arg("spec");
    for flag in &flags {
        let (name, value) = flag.trim_start_matches("--").split_once('=').unwrap();
        environment.env(format!("STOLONCTL_{}", name.to_uppercase().replace('-', "_")), value);
    }
    let mut both = bare();
    both.args(&flags).arg("spec").env("STOLONCTL_CLUSTER_NAME", "another").env("STOLONCTL_STORE_TIMEOUT", "");
    for command in [after, between, environment, both] {
        let described = format!("{command:?}");
        let run = run(command, "");
        assert_eq!(run, Run { code: Some(0), stdout: spec.clone(), stderr: String::new() }, "{described}");
    }

    let mut wrong = bare();
    wrong.args(&flags).arg("spec").env("STOLONCTL_STORE_TIMEOUT", "5");
    let run = run(wrong, "");
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.starts_with("invalid value \"5\" for STOLONCTL_STORE_TIMEOUT: "), "{}", run.stderr);
}

#[test]
fn completion_knows_commands_and_common_flags() {
    for (shell, sign) in
        [("bash", "complete -F"), ("zsh", "#compdef stolonctl"), ("fish", "complete -c stolonctl")]
    {
        let run = plain(&["completion", shell]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{shell}");
        for part in [sign, "failkeeper", "store-backend"] {
            assert!(run.stdout.contains(part), "{shell} completion without {part}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut shell = std::process::Command::new("bash");
    let program = env!("CARGO_BIN_EXE_stolonctl");
    shell.args(["-c", &format!("'{program}' completion bash | true; exit ${{PIPESTATUS[0]}}")]);
    assert_eq!(run(shell, ""), Run { code: Some(0), stdout: String::new(), stderr: String::new() });
}
