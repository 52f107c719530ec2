//! The real program: signals, limits, flags, and the stores that several processes share.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use stolon_store::{Backend, ClusterStore, StoreOptions};
use stolon_testkit::etcd::Etcd;
use support::{Client, Cluster, Server, eventually, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PROGRAM: &str = env!("CARGO_BIN_EXE_stolon-proxy");

/// A proxy as a child process; killed when dropped.
struct Process {
    child: Child,
    address: SocketAddr,
    log: std::path::PathBuf,
}

impl Process {
    /// Through a shell that runs `preparation` first.
    fn start(directory: &Path, preparation: &str, flags: &[&str]) -> Process {
        let port = free_port();
        let log = directory.join(format!("proxy-{port}.log"));
        let child = Command::new("sh")
            .args(["-c", &format!("{preparation}\nexec \"$0\" \"$@\""), PROGRAM])
            .args(flags)
            .args(["--port", &port.to_string()])
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Process { child, address: SocketAddr::from(([127, 0, 0, 1], port)), log }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn exit(&mut self) -> ExitStatus {
        eventually("the exit", async || match self.child.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err(std::fs::read_to_string(&self.log).unwrap()),
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn store(backend: Backend, endpoints: &str) -> Arc<dyn ClusterStore> {
    stolon_store::open(&StoreOptions::new(backend, endpoints, "test")).unwrap()
}

/// A cluster on SQLite with the primary `a` and the standby `b`, and an admitted proxy.
struct Site {
    _directory: tempfile::TempDir,
    store: Arc<dyn ClusterStore>,
    cluster: Cluster,
    a: Server,
    _b: Server,
    proxy: Process,
}

async fn site(preparation: &str, further: &[&str]) -> Site {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("store");
    let file = file.to_str().unwrap();
    let store = store(Backend::Sqlite, file);
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let mut cluster = Cluster::new(&[("db1", a.address), ("db2", b.address)]);
    cluster.write(&*store).await;
    let flags = ["--cluster-name=test", "--store-backend=sqlite", "--store-endpoints", file];
    let proxy = Process::start(directory.path(), preparation, &[&flags, further].concat());
    cluster.admit(&*store, "db1", 1).await;
    Site { _directory: directory, store, cluster, a, _b: b, proxy }
}

#[tokio::test]
async fn a_thawed_proxy_forwards_nothing_to_the_primary_of_before() {
    let Site { store, cluster, a, proxy, .. } = &mut site("", &[]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let (mut client, _) = Client::connect(proxy.address).await;
        assert_eq!(client.ask("early").await.unwrap(), "a early");
        clients.push(client);
    }
    proxy.signal(Signal::STOP);
    for client in &mut clients {
        client.say("late").await.unwrap();
    }
    // What a sentinel does once the proxy's time is over: first nowhere, then to the new primary.
    let over = stolon_runtime::BootInstant::now() + Duration::from_millis(2500);
    cluster.primary = None;
    cluster.write(&**store).await;
    cluster.primary = Some("db2");
    cluster.write(&**store).await;
    eventually("the end of the proxy's time", async || match over.is_past() {
        true => Ok(()),
        false => Err("not yet".to_owned()),
    })
    .await;
    proxy.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.end().await, (String::new(), Some(ErrorKind::ConnectionReset)));
    }
    assert_eq!(Client::connect(proxy.address).await.1, "b");
    assert!(!a.received().contains("late"), "{}", a.received());
}

/// Each level is written with those above it and without those below.
#[tokio::test]
async fn the_log_has_what_its_level_asks_for() {
    for (level, debug, info) in [("debug", true, true), ("info", false, true), ("warn", false, false)] {
        let Site { proxy, .. } = &mut site("", &["--log-level", level]).await;
        Client::connect(proxy.address).await;
        proxy.signal(Signal::TERM);
        assert!(proxy.exit().await.success());
        let log = std::fs::read_to_string(&proxy.log).unwrap();
        assert_eq!((log.contains("DEBUG"), log.contains("INFO")), (debug, info), "{level}: {log}");
    }
}

#[tokio::test]
async fn too_few_file_descriptors_make_clients_wait_and_spare_the_store() {
    let Site { store, proxy, .. } = &mut site("ulimit -n 64", &[]).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        clients.push(Client { stream: tokio::io::BufReader::new(stream) });
    }
    let waiting = clients.split_off(16);
    for client in &mut clients {
        assert_eq!(client.line().await.unwrap(), "a");
    }
    let report = async || store.proxy_reports().await.unwrap().into_values().next().unwrap();
    let before = report().await.info_uid;
    eventually("further publications", async || match report().await.info_uid != before {
        true => Ok(()),
        false => Err("none".to_owned()),
    })
    .await;
    assert_eq!(clients[0].ask("still").await.unwrap(), "a still");
    drop(clients);
    for mut client in waiting {
        assert_eq!(client.line().await.unwrap(), "a");
    }
}

#[tokio::test]
async fn sigterm_and_sigint_end_the_program_in_good_order() {
    for (preparation, signal) in [("", Signal::TERM), ("", Signal::INT), ("trap '' TERM INT", Signal::TERM)] {
        let site = &mut site(preparation, &["--drain-timeout=50ms"]).await;
        let (mut client, _) = Client::connect(site.proxy.address).await;
        site.proxy.signal(signal);
        assert_eq!(client.end().await.1, Some(ErrorKind::ConnectionReset));
        assert_eq!(site.proxy.exit().await.code(), Some(0));
        assert!(site.store.proxy_reports().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn readiness_is_forwarding() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut site = site("", &["--metrics-listen-address", &address]).await;
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(&address).await.map_err(|error| error.to_string())?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(answer)
    };
    let ready = async |status: &'static str| {
        eventually(status, async || {
            let answer = get("/readyz").await?;
            if answer.starts_with(status) { Ok(answer) } else { Err(answer) }
        })
        .await
    };
    ready("HTTP/1.1 200").await;
    let (_client, _) = Client::connect(site.proxy.address).await;
    let metrics = get("/metrics").await.unwrap();
    stolon_testkit::Metrics::parse(&metrics).unwrap();
    for line in [
        "stolon_cluster_identifier{cluster_name=\"test\",component=\"proxy\"} 1\n",
        "\nstolon_proxy_connections 1\n",
        "\nstolon_proxy_forwarding 1\n",
        "\nstolon_store_requests_total ",
    ] {
        assert!(metrics.contains(line), "{line:?} is not in {metrics}");
    }
    site.cluster.primary = None;
    site.cluster.write(&*site.store).await;
    let answer = ready("HTTP/1.1 503").await;
    assert!(answer.ends_with("the cluster has no primary for clients now\n"), "{answer}");

    let flags = [
        "--cluster-name=c",
        "--store-backend=sqlite",
        "--store-endpoints=/tmp/none",
        "--metrics-listen-address",
    ];
    let second = Command::new(PROGRAM).args(flags).arg(&address).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("\tFATAL\t") && text.contains("cannot serve metrics at"), "{text}");
}

#[tokio::test]
async fn a_paused_etcd_closes_everything_and_a_resumed_one_opens() {
    let etcd = Etcd::single().await.unwrap();
    let store = store(Backend::Etcdv3, &etcd.endpoints());
    let directory = tempfile::tempdir().unwrap();
    let a = Server::start("a").await;
    let mut cluster = Cluster::new(&[("db1", a.address)]);
    cluster.write(&*store).await;
    let endpoints = etcd.endpoints();
    let flags = ["--cluster-name=test", "--store-backend=etcdv3", "--store-endpoints", endpoints.as_str()];
    let mut proxy = Process::start(directory.path(), "", &flags);
    cluster.admit(&*store, "db1", 1).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    etcd.pause(0).unwrap();
    assert_eq!(client.end().await.1, Some(ErrorKind::ConnectionReset));
    etcd.resume(0).unwrap();
    let (mut client, _) = Client::connect(proxy.address).await;
    assert_eq!(client.ask("back").await.unwrap(), "a back");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.exit().await.code(), Some(0));
    assert!(store.proxy_reports().await.unwrap().is_empty());
}

/// Exit status, stdout, stderr.
fn run(environment: &[(&str, &str)], flags: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(PROGRAM).envs(environment.iter().copied()).args(flags).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn bad_input_exits_with_2_and_says_what_to_do() {
    let valid = ["--cluster-name=c", "--store-backend=sqlite", "--store-endpoints=/tmp/none"];
    for (environment, flags, expected) in [
        (&[][..], &["--prot=1"][..], "unknown flag: --prot\nhint: did you mean --port?\n"),
        (
            &[("STPROXY_STORE_TIMEOUT", "5")],
            &[],
            "invalid value \"5\" for STPROXY_STORE_TIMEOUT: time: missing unit in duration \"5\"\n\
             hint: see stolon-proxy --help\n",
        ),
        (&[("STPROXY_CLUSTER_NAME", "")], &[], "cluster name required"),
        (&[("STPROXY_CLUSTER_NAME", "c")], &[], "store backend type required"),
        (
            &[("STPROXY_STORE_BACKEND", "kubernetes")],
            &["--cluster-name=c", "--kube-resource-kind=configmap"],
            "missing required env variable \"POD_NAME\"",
        ),
        (
            &[("STPROXY_STORE_BACKEND", "consul")],
            &["--cluster-name=c", "--store-endpoints=a:1,b:2"],
            "consul does not support multiple endpoints",
        ),
        (&[("STPROXY_STORE_BACKEND", "consul")], &["--store-backend=x"], "cluster name required"),
        (
            &[],
            &[valid[0], valid[1], valid[2], "--tcp-keepalive-idle=-1"],
            "tcp keepalive idle value must be greater or equal to 0",
        ),
    ] {
        let (code, _, stderr) = run(environment, flags);
        assert_eq!(code, Some(2), "{flags:?}: {stderr}");
        assert!(stderr.contains(expected), "{stderr:?} does not contain {expected:?}");
    }
}

#[test]
fn help_and_version_are_on_stdout() {
    let (code, stdout, stderr) = run(&[], &["--help"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for part in ["--stop-listening", "--store-endpoints", "--kubeconfig", "STPROXY_CLUSTER_NAME"] {
        assert!(stdout.contains(part), "{stdout}");
    }
    assert!(!stdout.contains("--debug "), "{stdout}");
    assert!(!stdout.contains("--debug\n"), "{stdout}");
    let expected = format!("stolon-proxy version {}\n", stolon_runtime::version());
    assert_eq!(run(&[], &["--version"]), (Some(0), expected, String::new()));
    let (_, _, stderr) = run(&[], &["--debug"]);
    assert!(
        stderr.starts_with("Flag --debug has been deprecated, use --log-level=debug instead\n"),
        "{stderr}"
    );
    let (_, _, stderr) = run(&[("STPROXY_DEBUG", "true")], &[]);
    assert!(!stderr.contains("deprecated"), "{stderr}");
}
