//! `stolonctl failkeeper`, `removekeeper` and `promote`

use std::time::Duration;

use stolon_model::{KeeperReport, KeeperUid, Role};

use crate::harness::{Ctl, Run};

fn two_keepers() -> Ctl {
    let ctl = Ctl::sqlite();
    ctl.write(include_str!("../../../stolon-model/tests/golden/two_keepers_synchronous.json"));
    ctl
}

/// The keeper of the primary, and another one.
fn keepers(ctl: &Ctl) -> (KeeperUid, KeeperUid) {
    let document = ctl.document();
    let primary = document.cluster.unwrap().status.primary.unwrap();
    let first = document.instances.unwrap()[&primary].spec.keeper_uid.clone();
    let other = document.keepers.unwrap().into_keys().find(|keeper| *keeper != first).unwrap();
    (first, other)
}

#[test]
fn failkeeper_marks_the_keeper_and_nothing_else() {
    let ctl = two_keepers();
    let (primary, _) = keepers(&ctl);
    let mut expected = ctl.document();
    let run = ctl.run(&["failkeeper", primary.as_str()]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""));
    assert!(run.stderr.starts_with("no sentinel leads now"), "{}", run.stderr);
    let mut found = ctl.document();
    let status = &mut found.keepers.as_mut().unwrap().get_mut(&primary).unwrap().status;
    let request = status.fail_request.take().unwrap();
    assert_eq!(request.primary, expected.cluster.as_ref().unwrap().status.primary);
    let age = jiff::Timestamp::now().duration_since(request.made_for.instant());
    assert!(
        age.as_secs().abs() < 60,
        "it carries the moment in which it was made, not that of the document: {age:?}"
    );
    assert_eq!(request.outcome, None);
    expected.keepers.as_mut().unwrap().get_mut(&primary).unwrap().status.force_fail = true;
    let entered = found.cluster.as_mut().unwrap().status.history.take().unwrap();
    assert_eq!(entered[0].what, format!("failkeeper {primary}"));
    assert_eq!(found, expected);
}

#[tokio::test]
async fn removekeeper_deletes_the_keeper_and_its_instance() {
    let ctl = two_keepers();
    let (primary, other) = keepers(&ctl);
    let before = ctl.document();
    ctl.refused(
        &["removekeeper", primary.as_str()],
        1,
        &format!(
            "keeper assigned db is the current cluster master db.\n\
             hint: stolonctl failkeeper {primary} lets another keeper take over first\n"
        ),
    );
    reports(&ctl, &primary).await;
    assert_eq!(ctl.done(&["removekeeper", other.as_str()]), "");
    let after = ctl.document();
    assert!(!after.keepers.as_ref().unwrap().contains_key(&other));
    assert_eq!(after.keepers.unwrap().len(), before.keepers.unwrap().len() - 1);
    let instances = after.instances.unwrap();
    assert_eq!(instances.len(), before.instances.unwrap().len() - 1);
    assert!(instances.values().all(|instance| instance.spec.keeper_uid != other));
}

async fn reports(ctl: &Ctl, keeper: &KeeperUid) {
    let report = KeeperReport { uid: keeper.clone(), ..KeeperReport::default() };
    ctl.store().put_keeper_report(&report, Duration::from_secs(60)).await.unwrap();
}

/// Nobody hears of the primary, and its only standby holds every commit: without it they are lost.
#[test]
fn the_last_copy_is_removed_only_by_those_who_accept_the_loss() {
    let ctl = two_keepers();
    let (primary, other) = keepers(&ctl);
    let before = ctl.document();
    ctl.refused(
        &["removekeeper", other.as_str()],
        1,
        &format!(
            "keeper {other} may have the last copy of what was committed: the master keeper {primary} does not work, \
             and no other keeper can take over\n\
             hint: repair {primary} or {other} first; --accept-data-loss removes {other} all the same\n"
        ),
    );
    assert_eq!(ctl.document(), before);
    assert_eq!(ctl.done(&["removekeeper", other.as_str(), "--accept-data-loss"]), "");
    assert!(!ctl.document().keepers.unwrap().contains_key(&other));
}

#[test]
fn a_keeper_that_does_not_exist_is_answered_with_those_that_do() {
    let ctl = two_keepers();
    for command in ["failkeeper", "removekeeper"] {
        ctl.refused(
            &[command, "keeper9"],
            1,
            "keeper doesn't exist\nhint: there is no keeper \"keeper9\"; the keepers are keeper0, keeper1\n",
        );
    }
    let empty = Ctl::sqlite();
    empty.done(&["init", "-y"]);
    empty.refused(
        &["failkeeper", "keeper9"],
        1,
        "keeper doesn't exist\nhint: no keeper is registered, so not \"keeper9\" either\n",
    );
}

#[test]
fn without_cluster_data_every_command_says_so() {
    let ctl = Ctl::empty();
    let hint = "hint: the store holds no cluster of this name; stolonctl init creates one, --cluster-name, \
                --store-prefix and --store-endpoints say which one is meant\n";
    for (arguments, prefix) in [
        (&["spec"][..], ""),
        (&["status"], ""),
        (&["update", "-p", "{}"], ""),
        (&["promote", "-y"], ""),
        (&["clusterdata", "read"], ""),
        (&["failkeeper", "k"], "cannot get cluster data: "),
        (&["removekeeper", "k"], "cannot get cluster data: "),
    ] {
        let expected = format!("{prefix}nil cluster data: <nil>\n{hint}");
        assert_eq!(
            ctl.run(arguments),
            Run { code: Some(1), stdout: String::new(), stderr: expected },
            "{arguments:?}"
        );
    }
}

/// A mistyped path is not hidden by an empty store; only a command that puts a cluster there makes one.
#[test]
fn without_a_store_every_command_says_so_and_makes_none() {
    let ctl = Ctl::sqlite();
    let sentence = format!(
        ": there is no store in {}: the file does not exist\nhint: --store-endpoints names the file; stolonctl init makes it, and a cluster in \
         it\n",
        ctl.endpoints
    );
    for arguments in [
        &["status"][..],
        &["spec"],
        &["history"],
        &["clusterdata", "read"],
        &["update", "-p", "{}"],
        &["failkeeper", "k"],
        &["pause", "--for", "1m"],
    ] {
        let run = ctl.run(arguments);
        let is_said = run.stderr.starts_with("cannot get ") && run.stderr.ends_with(&sentence);
        assert!(run.code == Some(1) && run.stdout.is_empty() && is_said, "{arguments:?}: {run:?}");
        let made = std::fs::read_dir(std::path::Path::new(&ctl.endpoints).parent().unwrap()).unwrap().count();
        assert_eq!(made, 0, "{arguments:?}");
    }
    ctl.done(&["init", "-y"]);
    ctl.done(&["spec"]);
}

#[test]
fn a_document_that_cannot_be_worked_with_is_no_crash() {
    let ctl = Ctl::sqlite();
    for (document, message) in [
        (
            r#"{"formatVersion":2,"cluster":{"spec":{"initMode":"new"}}}"#,
            "unsupported cluster data format version 2",
        ),
        (r#"{"formatVersion":1}"#, "clusterdata validation failed: the document has no cluster"),
        (
            r#"{"formatVersion":1,"cluster":{}}"#,
            "clusterdata validation failed: the cluster has no specification",
        ),
    ] {
        ctl.write(document);
        for arguments in [
            &["spec"][..],
            &["status"],
            &["update", "-p", "{}"],
            &["promote", "-y"],
            &["clusterdata", "read"],
        ] {
            let run = ctl.run(arguments);
            assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{arguments:?} on {document}");
            assert_eq!(run.stderr.lines().next(), Some(message), "{arguments:?} on {document}");
            assert!(run.stderr.contains("\nhint: "));
        }
    }
}

#[test]
fn promote_makes_a_standby_cluster_take_writes() {
    let ctl = Ctl::sqlite();
    ctl.write(include_str!("../../../stolon-model/tests/golden/standby_cluster.json"));
    let question = "Are you sure you want to continue? [yes/no] ";
    let run = ctl.run_with(&["promote"], "no\n");
    assert_eq!(run, Run { code: Some(0), stdout: format!("{question}exiting\n"), stderr: String::new() });
    assert_eq!(ctl.spec().role, Some(Role::Standby));
    let mut expected = ctl.document();
    let run = ctl.run_with(&["promote"], "yes\n");
    assert_eq!(run, Run { code: Some(0), stdout: question.to_owned(), stderr: String::new() });
    expected.cluster.as_mut().unwrap().spec.as_mut().unwrap().role = Some(Role::Primary);
    let mut found = ctl.document();
    let history = found.cluster.as_mut().unwrap().status.history.take().unwrap();
    assert_eq!(history[0].details, Some(vec!["role: \"standby\" -> \"master\"".to_owned()]));
    assert_eq!(found, expected);
    let run = ctl.run(&["promote", "--yes"]);
    let said = "cluster spec role already set to master\n".to_owned();
    assert_eq!(run, Run { code: Some(0), stdout: String::new(), stderr: said });
}

#[test]
fn a_pause_says_who_why_and_until_when_and_is_ended() {
    let ctl = two_keepers();
    let run = ctl.run(&["pause", "--for", "90m", "--reason", "new\nswitches"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""));
    assert!(run.stderr.starts_with("the cluster is paused until "), "{}", run.stderr);
    let pause = ctl.document().cluster.unwrap().pause.unwrap();
    assert_eq!(pause.until.instant().duration_since(pause.since.instant()).as_secs(), 90 * 60);
    assert_eq!(pause.reason, "new switches");
    assert!(pause.operator.contains('@'), "{}", pause.operator);

    let status = ctl.run(&["status"]);
    let first = status.stdout.lines().next().unwrap();
    assert_eq!(first, format!("the cluster is paused {pause}: nobody would be elected now"));
    let check = ctl.run(&["status", "--check"]);
    assert!(check.stdout.contains(first), "{}", check.stdout);
    assert_ne!(check.code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&ctl.run(&["status", "-f", "json"]).stdout).unwrap();
    assert_eq!(json["cluster"]["paused"]["reason"], "new switches");

    let resumed = ctl.run(&["resume"]);
    assert_eq!((resumed.code, resumed.stderr), (Some(0), format!("the pause {pause} is over\n")));
    assert_eq!(ctl.document().cluster.unwrap().pause, None);
    assert_eq!(ctl.run(&["resume"]).stderr, "the cluster is not paused\n");
    let history = ctl.document().cluster.unwrap().status.history.unwrap();
    let commands: Vec<&str> = history.iter().map(|entry| entry.what.as_str()).collect();
    assert_eq!(commands, [format!("pause {pause}").as_str(), "resume"]);
}

#[test]
fn a_pause_is_neither_endless_nor_nothing() {
    let ctl = two_keepers();
    let hint = "hint: --for 1h0m0s is the default; a pause can be asked for again before it is over\n";
    let told = format!("a pause lasts longer than nothing and at most a day\n{hint}");
    ctl.refused(&["pause", "--for", "0s"], 2, &told);
    let endless = ctl.run(&["pause", "--for", "25h"]);
    assert_eq!(endless.code, Some(2), "{}", endless.stderr);
    assert!(endless.stderr.contains("longer than a day"), "{}", endless.stderr);
    assert_eq!(ctl.document().cluster.unwrap().pause, None);
}

#[test]
fn what_may_not_be_restarted_or_made_anew_is_refused_before_anything_is_written() {
    let ctl = two_keepers();
    let (primary, other) = keepers(&ctl);
    let before = ctl.document();
    let master = format!(
        "keeper {primary} has the master, whose data the others copy\n\
         hint: stolonctl failkeeper {primary} has another keeper take over first\n"
    );
    ctl.refused(&["reinit", primary.as_str()], 1, &master);
    ctl.refused(&["restart", "--all", other.as_str()], 2, "either KEEPER or --all\n");
    let silent = format!(
        "the PostgreSQL of keeper {other} does not answer\n\
         hint: its keeper starts it by itself; stolonctl status shows what keeps it from that\n"
    );
    ctl.refused(&["restart", other.as_str()], 1, &silent);
    assert_eq!(ctl.document(), before);
    let idle = ctl.run(&["restart", "--all", "--if-pending"]);
    assert_eq!(idle.code, Some(0));
    assert_eq!(idle.stderr.matches("nothing waits for a restart").count(), 2, "{}", idle.stderr);

    ctl.run(&["pause"]);
    for command in [&["reinit", other.as_str()][..], &["restart", "--all"]] {
        let refused = ctl.run(command);
        assert_eq!(refused.code, Some(1), "{command:?}");
        assert!(refused.stderr.starts_with("the cluster is paused until "), "{}", refused.stderr);
    }
}

#[test]
fn a_priority_is_chosen_shown_and_taken_back() {
    let ctl = two_keepers();
    let (primary, other) = keepers(&ctl);
    let shown = || ctl.done(&["priority"]);
    assert!(shown().contains(&format!("{other}: 1, by its flag\n")), "{}", shown());
    ctl.done(&["priority", other.as_str(), "7"]);
    assert!(shown().contains(&format!("{other}: 7, chosen by an operator\n")), "{}", shown());
    assert!(ctl.done(&["status", "-f", "json"]).contains("\"failover_priority\": 7"));
    ctl.done(&["priority", primary.as_str(), "0"]);
    assert!(
        shown().contains(&format!("{primary}: 0, chosen by an operator, never the master\n")),
        "{}",
        shown()
    );
    for keeper in [&primary, &other] {
        ctl.done(&["priority", keeper.as_str(), "default"]);
    }
    assert_eq!(shown().matches(": 1, by its flag\n").count(), 2, "{}", shown());
    assert!(!ctl.done(&["status"]).contains("PRIORITY"), "nothing is preferred, nothing is shown");
    for word in ["-1", "high", "4294967296"] {
        assert_eq!(ctl.run(&["priority", other.as_str(), "--", word]).code, Some(2), "{word}");
    }
    assert_eq!(ctl.run(&["priority", other.as_str()]).code, Some(2));
    assert_eq!(ctl.run(&["priority", "nobody", "1"]).code, Some(1));
}
