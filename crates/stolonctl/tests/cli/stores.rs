//! The same commands on every store, and what they say when the store is not there.

use std::time::{Duration, Instant};

use serde_json::json;
use stolon_testkit::etcd::Etcd;
use stolon_testkit::kubernetes::ApiServer;

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

/// Two contexts of one file, each with a namespace of its own.
fn contexts(server: &str) -> String {
    json!({
        "current-context": "here",
        "clusters": [{ "name": "one", "cluster": { "server": server } }],
        "contexts": [
            { "name": "here", "context": { "cluster": "one", "namespace": "shop" } },
            { "name": "there", "context": { "cluster": "one", "namespace": "archive" } },
            { "name": "nowhere", "context": { "cluster": "two" } },
        ],
    })
    .to_string()
}

/// As kubectl finds it: by a flag, a variable, or the file in the home directory.
#[test]
fn a_kubeconfig_a_context_and_a_namespace_lead_to_a_cluster_in_kubernetes() {
    let api = ApiServer::start().expect("an API server");
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join(".kube/config");
    std::fs::create_dir(home.path().join(".kube")).expect("a directory");
    std::fs::write(&file, contexts(&api.url())).expect("a kubeconfig file");
    let file = file.display().to_string();
    let ctl = |flags: &[&str], variable: (&str, &str), words: &[&str]| {
        let mut command = bare();
        command.env_remove("KUBECONFIG").env_remove("HOME").env(variable.0, variable.1);
        command.args(["--cluster-name", CLUSTER, "--store-backend", "kubernetes"]);
        command.args(["--kube-resource-kind", "configmap"]).args(flags).args(words);
        run(command, "")
    };
    let at_home = ("HOME", home.path().to_str().expect("a path"));
    let made = |flags: &[&str], interval: &str| {
        let spec = format!(r#"{{"initMode":"new","failInterval":"{interval}"}}"#);
        let run = ctl(flags, at_home, &["init", "-y", &spec]);
        assert_eq!(run.code, Some(0), "{run:?}");
    };
    made(&[], "11s");
    made(&["--kube-context", "there"], "12s");
    made(&["--kube-namespace", "third"], "13s");

    let kubeconfig = ["--kubeconfig", &file];
    let elsewhere = ("HOME", "/nonexistent");
    for (flags, variable, interval) in [
        (&[][..], at_home, "11s"),
        (&[], ("KUBECONFIG", &*file), "11s"),
        (&kubeconfig, elsewhere, "11s"),
        (&["--kube-context", "there"], at_home, "12s"),
        (&["--kube-namespace", "archive"], at_home, "12s"),
        (&["--kube-context", "there", "--kube-namespace", "shop"], at_home, "11s"),
        (&["--kube-namespace", "third"], ("KUBECONFIG", &*file), "13s"),
        (&[], ("STOLONCTL_KUBECONFIG", &*file), "11s"),
    ] {
        let run = ctl(flags, variable, &["spec"]);
        assert!(run.stdout.contains(&format!("\"failInterval\": \"{interval}\"")), "{flags:?}: {run:?}");
    }
    let run = ctl(&["--kube-context", "nowhere"], at_home, &["spec"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("no cluster \"two\"") && run.stderr.contains("hint: "), "{run:?}");
    let run = ctl(&["--kube-namespace", "empty"], at_home, &["spec"]);
    assert_eq!(run.code, Some(1), "{run:?}");
}
