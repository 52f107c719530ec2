//! `register`, with a real Consul.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stolon_testkit::consul::Consul;
use stolon_testkit::http;

use crate::harness::{Ctl, bare};

const PATIENCE: Duration = Duration::from_secs(60);

/// Cluster data with a primary and a standby; whether the standby is healthy.
fn document(standby_is_healthy: bool) -> String {
    let instance = |uid: &str, role: &str, healthy: bool, port: &str| {
        json!({
            "uid": uid, "generation": 1,
            "spec": { "keeperUID": format!("keeper-of-{uid}"), "role": role },
            "status": { "healthy": healthy, "listenAddress": "127.0.0.1", "port": port },
        })
    };
    let data = json!({
        "formatVersion": 1,
        "cluster": { "uid": "c", "generation": 1, "spec": { "initMode": "new" }, "status": { "master": "db1" } },
        "keepers": {},
        "dbs": {
            "db1": instance("db1", "master", true, "45431"),
            "db2": instance("db2", "standby", standby_is_healthy, "45432"),
            "db3": instance("db3", "standby", false, "45433"),
        },
        "proxy": {},
    });
    data.to_string()
}

/// A program, ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn register(ctl: &Ctl, consul: &Consul, arguments: &[&str]) -> Running {
    let mut command = bare();
    command.args(ctl.common()).args(["register", "--sleep-interval", "1"]);
    command.args(["--register-endpoints", &consul.endpoint()]).args(arguments);
    Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// The ids, tags and ports that the catalogue holds of the cluster, by id.
async fn services(consul: &Consul) -> Vec<(String, Vec<String>, u64)> {
    let asked = http(consul.client_port(), "GET", "/v1/catalog/service/test?consistent", "").await;
    let all: Vec<Value> = serde_json::from_str(&asked.unwrap().1).unwrap();
    let word = |text: &Value| text.as_str().unwrap().to_owned();
    let tags = |service: &Value| service["ServiceTags"].as_array().unwrap().iter().map(word).collect();
    let of = |service: &Value| {
        (word(&service["ServiceID"]), tags(service), service["ServicePort"].as_u64().unwrap())
    };
    let mut all: Vec<_> = all.iter().map(of).collect();
    all.sort();
    all
}

async fn wait_for(consul: &Consul, expected: &[(&str, &[&str], u64)]) {
    let expected: Vec<(String, Vec<String>, u64)> = expected
        .iter()
        .map(|(id, tags, port)| ((*id).to_owned(), tags.iter().map(|tag| (*tag).to_owned()).collect(), *port))
        .collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = services(consul).await;
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "expected {expected:?}, found {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_instances_are_registered_and_stay_when_it_ends() {
    let consul = Consul::single().await.unwrap();
    let ctl = Ctl::sqlite();
    tokio::task::block_in_place(|| ctl.write(&document(true)));
    let left = json!({ "ID": "old", "Name": "test", "Port": 1, "Address": "127.0.0.1" }).to_string();
    http(consul.client_port(), "PUT", "/v1/agent/service/register", &left).await.unwrap();
    let mut running = register(&ctl, &consul, &["--register-master", "--tag-slave-as", "slave,ro"]);
    wait_for(&consul, &[("db1", &["master"], 45431), ("db2", &["slave", "ro"], 45432)]).await;
    let checks = http(consul.client_port(), "GET", "/v1/agent/checks", "").await.unwrap().1;
    assert!(checks.contains("service:db2"), "{checks}");
    tokio::task::block_in_place(|| ctl.write(&document(false)));
    wait_for(&consul, &[("db1", &["master"], 45431)]).await;
    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = tokio::task::block_in_place(|| running.0.wait()).unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(services(&consul).await.len(), 1, "what is registered stays");

    // Another one changes tags in place, and leaves the primary to the proxies.
    tokio::task::block_in_place(|| ctl.write(&document(true)));
    let _another = register(&ctl, &consul, &["--tag-slave-as", "ro"]);
    wait_for(&consul, &[("db2", &["ro"], 45432)]).await;
}

#[test]
fn what_makes_no_sense_is_refused() {
    let ctl = Ctl::sqlite();
    for (arguments, said) in [
        (
            ["--register-backend", "zookeeper"],
            "unknown register backend: \"zookeeper\"\nhint: the only one is consul\n",
        ),
        (
            ["--register-endpoints", "127.0.0.1:8500"],
            "--register-endpoints \"127.0.0.1:8500\" is no http or https URL\nhint: for example http://127.0.0.1:8500\n",
        ),
        (
            ["--register-endpoints", "http://a:1,http://b:1"],
            "cannot reach a catalogue: consul does not support multiple endpoints: http://a:1,http://b:1\n\
             hint: --register-endpoints: give the agent of this machine, which knows the servers\n",
        ),
    ] {
        ctl.refused(&["register", arguments[0], arguments[1]], 2, said);
    }
}
