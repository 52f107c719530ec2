//! The same commands on every store, and what they say when the store is not there.

use std::time::{Duration, Instant};

use stolon_testkit::etcd::Etcd;

use crate::harness::{CLUSTER, Ctl, bare, run};

/// Each kind of access once.
fn every_command(ctl: &Ctl) {
    ctl.done(&["init", "-y", r#"{"initMode":"new","failInterval":"7s"}"#]);
    assert_eq!(
        ctl.done(&["spec"]),
        "{\n\t\"failInterval\": \"7s\",\n\t\"initMode\": \"new\",\n\t\"defaultSUReplAccessMode\": \"strict\"\n}\n"
    );
    ctl.done(&["update", "--patch", r#"{"failInterval":null}"#]);
    assert_eq!(
        ctl.done(&["spec"]),
        "{\n\t\"initMode\": \"new\",\n\t\"defaultSUReplAccessMode\": \"strict\"\n}\n"
    );
    assert!(ctl.done(&["status"]).contains("No keepers available"));
    ctl.write(include_str!("../../../stolon-model/tests/golden/two_keepers_synchronous.json"));
    assert_eq!(ctl.run(&["failkeeper", "keeper0"]).code, Some(0));
    assert!(ctl.done(&["status"]).contains("Master Keeper: "));
    assert_eq!(ctl.run(&["promote", "-y"]).code, Some(0));
}

#[test]
fn every_command_works_on_sqlite() {
    every_command(&Ctl::sqlite());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_works_on_etcd_and_none_hangs_without_it() {
    let etcd = Etcd::single().await.expect("etcd");
    let ctl = Ctl::etcd(etcd.endpoints());
    every_command(&ctl);
    concurrent_updates(&ctl);

    etcd.pause(0).expect("etcd is frozen");
    unreachable_store(&ctl.common());
    etcd.resume(0).expect("etcd goes on");
}

#[test]
fn concurrent_updates_all_land() {
    let ctl = Ctl::sqlite();
    ctl.done(&["init", "-y"]);
    concurrent_updates(&ctl);
}

/// Each writes a parameter of its own, again and again; none may be lost.
fn concurrent_updates(ctl: &Ctl) {
    const WRITERS: usize = 3;
    const ROUNDS: usize = 3;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let patch = format!(r#"{{"pgParameters":{{"app.w{writer}r{round}":"x"}}}}"#);
                    ctl.done(&["update", "--patch", &patch]);
                }
            });
        }
    });
    let parameters = ctl.spec().pg_parameters.unwrap();
    let landed = parameters.keys().filter(|name| name.starts_with("app.w")).count();
    assert_eq!(landed, WRITERS * ROUNDS, "{parameters:?}");
}

#[test]
fn nothing_hangs_when_nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Connections are taken by the kernel, and nobody ever answers.
    unreachable_store(&flags(&address.to_string()));
    drop(listener);
    // Now they are refused.
    unreachable_store(&flags(&address.to_string()));
}

fn flags(endpoint: &str) -> Vec<String> {
    vec![
        format!("--cluster-name={CLUSTER}"),
        "--store-backend=etcdv3".to_owned(),
        format!("--store-endpoints={endpoint}"),
    ]
}

/// Every command ends soon after the timeout, with a sentence on stderr and exit status 1.
fn unreachable_store(flags: &[String]) {
    /// Far above the timeout of 500 ms, far below a hang; a busy machine may be slow.
    const SOON: Duration = Duration::from_secs(20);
    let commands: [&[&str]; 9] = [
        &["status"],
        &["status", "-f", "json"],
        &["spec"],
        &["update", "-p", "{}"],
        &["init", "-y"],
        &["promote", "-y"],
        &["failkeeper", "k"],
        &["removekeeper", "k"],
        &["clusterdata", "read"],
    ];
    for arguments in commands {
        let mut command = bare();
        command.args(flags).arg("--store-timeout=500ms").args(arguments);
        let started = Instant::now();
        let run = run(command, "");
        assert!(started.elapsed() < SOON, "{arguments:?} took {:?}", started.elapsed());
        assert_eq!(run.code, Some(1), "{arguments:?}: {run:?}");
        assert!(run.stderr.starts_with("cannot get "), "{arguments:?}: {run:?}");
        let once = run.stderr.matches("cannot get cluster data: ").count();
        assert!(once <= 1, "{arguments:?}: {run:?}");
        if arguments.contains(&"json") {
            let answer: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON on stdout");
            assert!(answer["error"].as_str().unwrap().starts_with("cannot get "), "{}", run.stdout);
        } else {
            assert_eq!(run.stdout, "", "{arguments:?}");
        }
    }
}

#[test]
fn a_store_that_cannot_be_is_bad_input() {
    for (endpoints, backend) in
        [("http://a:1,https://b:2", "etcdv3"), ("ftp://a:1", "etcdv3"), ("", "sqlite")]
    {
        let mut command = bare();
        command.args(["--cluster-name=c", "status"]);
        command.args([format!("--store-backend={backend}"), format!("--store-endpoints={endpoints}")]);
        let run = run(command, "");
        assert_eq!(run.code, Some(2), "{endpoints}: {run:?}");
        assert!(run.stderr.starts_with("cannot create kv store: "), "{endpoints}: {}", run.stderr);
        assert_eq!(run.stderr.matches("cannot create kv store").count(), 1, "{endpoints}: {}", run.stderr);
        assert!(run.stderr.contains("\nhint: "), "{endpoints}: {}", run.stderr);
    }
}

/// What of an endpoint is not used is said, also by a command that then fails for another reason.
#[test]
fn what_is_not_used_of_the_flags_is_said() {
    let mut command = bare();
    command.args(["--cluster-name=c", "status", "--store-backend=etcdv3", "--store-timeout=200ms"]);
    command.args(["--store-endpoints=http://me@127.0.0.1:1/path", "--store-skip-tls-verify"]);
    let run = run(command, "");
    assert_eq!(run.code, Some(1), "{run:?}");
    for words in ["the user in this endpoint is not used", "the path in this endpoint", "the TLS flags"] {
        assert!(run.stderr.contains(&format!("warning: {words}")), "{words}: {}", run.stderr);
    }
}
