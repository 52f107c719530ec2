//! The program for real: processes, signals, an embedded store; keepers and proxies are stand-ins that report
//! what the cluster data ask of them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stolon_model::*;
use stolon_store::{Backend, ClusterStore, StoreOptions};
use stolon_testkit::postgres::free_port;
use stolon_testkit::{Metrics, wait_for};
use tempfile::TempDir;

/// Far above what any step takes on a busy machine, and below the 20 s for which a dead leader's lease lasts.
const PATIENCE: Duration = Duration::from_secs(15);

const SPEC: &str = r#"{"initMode": "new", "sleepInterval": "300ms", "failInterval": "1500ms", "proxyCheckInterval": "300ms",
    "proxyTimeout": "1s", "convergenceTimeout": "10s"}"#;

/// A store in a directory of its own, and the stand-ins that live in it.
struct Bench {
    directory: TempDir,
    store: Arc<dyn ClusterStore>,
    alive: Arc<Mutex<BTreeSet<KeeperUid>>>,
    published: Arc<Mutex<u64>>,
}

impl Bench {
    fn new() -> Bench {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("store.db").display().to_string();
        let options = StoreOptions::new(Backend::Sqlite, file, "test");
        std::fs::write(directory.path().join("spec.json"), SPEC).unwrap();
        let store = stolon_store::open(&options).unwrap();
        Bench { directory, store, alive: Arc::default(), published: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn sentinel(&self, name: &str, flags: &[&str]) -> Sentinel {
        let log = self.path(&format!("{name}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_stolon-sentinel"))
            .args(["--cluster-name", "test", "--store-backend", "sqlite", "--store-endpoints"])
            .arg(self.path("store.db"))
            .args(flags)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Sentinel { child, log }
    }

    fn sentinel_with_spec(&self, name: &str) -> Sentinel {
        let spec = self.path("spec.json");
        self.sentinel(name, &["--initial-cluster-spec", spec.to_str().unwrap()])
    }

    /// One that makes the cluster, and the address of its metrics.
    fn measured_sentinel(&self) -> (Sentinel, String) {
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let spec = self.path("spec.json");
        let flags = ["--metrics-listen-address", &address, "--initial-cluster-spec", spec.to_str().unwrap()];
        (self.sentinel("sentinel", &flags), address)
    }

    /// A keeper that does at once what is asked of it, and reports it three times per sleep interval.
    fn keeper(&self, name: &str) {
        let uid = KeeperUid::from(name);
        self.alive.lock().unwrap().insert(uid.clone());
        let (store, alive, published) = (self.store.clone(), self.alive.clone(), self.published.clone());
        tokio::spawn(async move {
            while alive.lock().unwrap().contains(&uid) {
                if let Ok(Some(document)) = store.cluster_document().await
                    && let Ok(data) = ClusterData::try_from(document.value)
                {
                    let report = keeper_report(&uid, &data, next(&published));
                    store.put_keeper_report(&report, Duration::from_secs(20)).await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }

    /// The same, without any warning.
    fn silence(&self, name: &str) {
        self.alive.lock().unwrap().remove(&KeeperUid::from(name));
    }

    /// A proxy that cuts its connections at once.
    fn proxy(&self, name: &str) {
        let uid = ProxyUid::from(name);
        let (store, published) = (self.store.clone(), self.published.clone());
        tokio::spawn(async move {
            loop {
                if let Ok(Some(document)) = store.cluster_document().await
                    && let Ok(data) = ClusterData::try_from(document.value)
                {
                    let report = ProxyReport {
                        info_uid: next(&published).to_string().into(),
                        uid: uid.clone(),
                        generation: data.proxy.generation,
                        proxy_timeout: 1_000_000_000,
                        ..ProxyReport::default()
                    };
                    store.put_proxy_report(&report, Duration::from_secs(20)).await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }

    async fn data(&self) -> anyhow::Result<Option<ClusterData>> {
        let document = self.store.cluster_document().await?;
        Ok(document.map(|document| ClusterData::try_from(document.value)).transpose()?)
    }

    /// Wait until the cluster data are as they should be.
    async fn until(&self, what: &str, wanted: impl Fn(&ClusterData) -> bool) -> ClusterData {
        wait_for(what, PATIENCE, async || Ok(self.data().await?.filter(|data| wanted(data)))).await.unwrap()
    }

    /// A cluster with a primary, open proxies, and one complete standby.
    async fn until_complete(&self) -> ClusterData {
        self.until("a complete cluster", |data| {
            data.proxy.spec.primary.is_some()
                && data.instances.len() == 2
                && data.instances.values().all(is_converged)
                && data.instances.values().all(|it| it.spec.init_mode == Some(InstanceInitMode::None))
        })
        .await
    }
}

fn next(published: &Mutex<u64>) -> u64 {
    let mut published = published.lock().unwrap();
    *published += 1;
    *published
}

fn is_converged(instance: &Instance) -> bool {
    instance.status.healthy && instance.status.current_generation == instance.generation
}

fn keeper_report(uid: &KeeperUid, data: &ClusterData, number: u64) -> KeeperReport {
    let state = data.instance_of(uid).map(|instance| PostgresState {
        uid: instance.uid.clone(),
        generation: instance.generation,
        listen_address: "127.0.0.1".into(),
        port: "5432".into(),
        healthy: true,
        system_identifier: "1".into(),
        timeline: Timeline(1),
        lsn: Lsn(number),
        synchronous_standbys: instance.spec.synchronous_standbys.clone(),
        ..PostgresState::default()
    });
    KeeperReport {
        info_uid: number.to_string().into(),
        uid: uid.clone(),
        cluster_uid: data.cluster.uid.clone(),
        boot_uuid: BootUuid::from("be5f542e-c68f-4d6f-9374-b57694afa073"),
        postgres_state: Some(state.unwrap_or_default()),
        ..KeeperReport::default()
    }
}

fn keeper_of(data: &ClusterData) -> String {
    data.primary().map(|primary| primary.spec.keeper_uid.to_string()).unwrap_or_default()
}

/// A process of the program, killed with the test.
struct Sentinel {
    child: Child,
    log: PathBuf,
}

impl Sentinel {
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    async fn until_logged(&self, text: &str) {
        wait_for(text, PATIENCE, async || Ok((self.count(text) > 0).then_some(()))).await.unwrap();
    }

    fn terminate(&self) {
        // The shell's own kill: the program is in a package that a small system lacks.
        let kill = format!("kill -TERM {}", self.child.id());
        let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(status.success());
    }

    async fn until_gone(&mut self) -> ExitStatus {
        wait_for("the end of the process", PATIENCE, async || Ok(self.child.try_wait()?)).await.unwrap()
    }

    fn uid(&self) -> SentinelUid {
        let log = self.log();
        let after = log.split("\"uid\": \"").nth(1).unwrap_or_else(|| panic!("no uid in {log}"));
        after[..8].into()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("==> {}\n{}", self.log.display(), self.log());
        }
    }
}

#[tokio::test]
async fn a_cluster_is_made_from_the_initial_specification_and_fails_over() {
    let bench = Bench::new();
    let sentinel = bench.sentinel_with_spec("sentinel");
    bench.keeper("one");
    bench.keeper("two");
    bench.proxy("p1");
    let data = bench.until_complete().await;
    assert_eq!(stolon_core::sentinel::violations(&data), []);
    assert_eq!(data.cluster.spec.default_su_repl_access_mode, None, "the file is taken as it stands");
    sentinel.until_logged("are admitted from any address").await;
    let old = keeper_of(&data);
    bench
        .until("the proxy is enabled", |data| data.proxy.spec.enabled_proxies == Some(vec!["p1".into()]))
        .await;
    bench.silence(&old);
    let data = bench.until("a failover", |data| keeper_of(data) != old).await;
    assert_eq!(stolon_core::sentinel::violations(&data), []);
    let primary = data.cluster.status.primary.clone();
    bench.until("clients reach the new primary", |data| data.proxy.spec.primary == primary).await;
    sentinel.until_logged("electing db as the new master").await;
    sentinel.until_logged("has not reported for").await;
    assert_eq!(sentinel.count("electing db as the new master"), 1);
}

/// Two sentinels with the same specification make one cluster; when the leader is told to stop, the other one leads long
/// before a lease could have ended, and nothing else changes.
#[tokio::test]
async fn a_leader_that_is_told_to_stop_hands_over_at_once() {
    let bench = Bench::new();
    let sentinels = [bench.sentinel_with_spec("first"), bench.sentinel_with_spec("second")];
    bench.keeper("one");
    bench.keeper("two");
    let data = bench.until_complete().await;
    let leader = wait_for("a leader", PATIENCE, async || Ok(bench.store.leader().await?)).await.unwrap();
    let [mut old, new] = match sentinels {
        [first, second] if first.uid() == leader => [first, second],
        [first, second] => [second, first],
    };
    assert_eq!(old.uid(), leader);
    old.terminate();
    assert!(old.until_gone().await.success(), "exit status 0");
    let successor = new.uid();
    wait_for("the successor", PATIENCE, async || {
        Ok(bench.store.leader().await?.filter(|leader| *leader == successor))
    })
    .await
    .unwrap();
    assert!(!bench.store.sentinel_reports().await.unwrap().contains_key(&leader), "its report is gone");
    let written = bench.data().await.unwrap().unwrap().change_time;
    let after = bench.until("signs of life of the successor", |data| data.change_time != written).await;
    assert_eq!(after.cluster.uid, data.cluster.uid);
    assert_eq!(after.cluster.status, data.cluster.status, "no failover");
    assert_eq!(after.proxy.spec, data.proxy.spec);
    assert!(after.instances.values().all(is_converged));
    bench.silence(&keeper_of(&after));
    bench.until("a failover by the successor", |data| keeper_of(data) != keeper_of(&after)).await;
}

/// Stolon's sentinels judge by these signs of life, too.
#[tokio::test]
async fn the_document_is_written_again_and_again_but_not_without_pause() {
    let bench = Bench::new();
    let _sentinel = bench.sentinel_with_spec("sentinel");
    bench.keeper("one");
    bench.keeper("two");
    let first = bench.until_complete().await.change_time;
    let mut times = BTreeSet::from([first.instant()]);
    wait_for("ten signs of life", PATIENCE, async || {
        times.insert(bench.data().await?.unwrap().change_time.instant());
        Ok((times.len() > 10).then_some(()))
    })
    .await
    .unwrap();
    let (first, last) = (*times.first().unwrap(), *times.last().unwrap());
    let span = last.duration_since(first).as_millis();
    assert!(span >= 10 * 200, "reports that only move positions cause no writes: ten in {span} ms");
    let generations: Vec<_> =
        bench.data().await.unwrap().unwrap().instances.values().map(|it| it.generation).collect();
    assert!(generations.iter().all(|generation| *generation < 6), "it came to rest: {generations:?}");
}

#[tokio::test]
async fn what_an_operator_writes_meanwhile_is_not_lost() {
    let bench = Bench::new();
    let _sentinel = bench.sentinel_with_spec("sentinel");
    bench.keeper("one");
    bench.keeper("two");
    bench.until_complete().await;
    let parameters = Parameters::from([("work_mem".to_owned(), "8MB".to_owned())]);
    wait_for("the operator's write", PATIENCE, async || {
        let read = bench.store.cluster_document().await?.unwrap();
        let mut data = ClusterData::try_from(read.value)?;
        data.cluster.spec.pg_parameters = Some(parameters.clone());
        let expected = stolon_store::Expected::Revision(read.revision);
        Ok(bench.store.compare_and_put_cluster_document(&data.into(), expected).await.ok())
    })
    .await
    .unwrap();
    bench
        .until("the parameters reach every instance", |data| {
            data.instances
                .values()
                .all(|it| it.spec.pg_parameters.as_deref() == Some(&parameters) && is_converged(it))
        })
        .await;
}

#[tokio::test]
async fn cluster_data_that_cannot_be_worked_with_are_named_once_and_kept() {
    let bench = Bench::new();
    let sentinel = bench.sentinel_with_spec("sentinel");
    bench.keeper("one");
    bench.keeper("two");
    let good = bench.until_complete().await;
    let mut bad = ClusterDocument::from(good.clone());
    bad.cluster.as_mut().unwrap().spec.as_mut().unwrap().max_standbys_per_sender = Some(0);
    bench.store.put_cluster_document(&bad).await.unwrap();
    sentinel.until_logged("maxStandbysPerSender must be at least 1").await;
    // Keepers report three times in each of these rounds.
    tokio::time::timeout(Duration::from_secs(1), async {
        loop {
            let stored = bench.store.cluster_document().await.unwrap().unwrap().value;
            assert_eq!(stored, bad, "it is left as it is");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap_err();
    assert_eq!(sentinel.count("maxStandbysPerSender must be at least 1"), 1, "said once");
    bench.store.put_cluster_document(&good.clone().into()).await.unwrap();
    bench.until("rounds again", |data| data.change_time != good.change_time).await;
    sentinel.until_logged("rounds succeed again").await;
}

#[tokio::test]
async fn without_a_cluster_it_waits_and_says_so() {
    let bench = Bench::new();
    let mut sentinel = bench.sentinel("sentinel", &[]);
    sentinel.until_logged("no cluster data available: waiting for stolonctl init").await;
    let spec = ClusterSpec::from_json(SPEC).unwrap();
    let data = ClusterData::initial("c1".into(), spec, Timestamp::ZERO);
    bench.store.put_cluster_document(&data.into()).await.unwrap();
    bench.keeper("one");
    bench.until("a primary", |data| data.cluster.status.phase == Some(Phase::Normal)).await;
    sentinel.terminate();
    assert!(sentinel.until_gone().await.success());
}

#[tokio::test]
async fn why_nothing_happens_is_in_the_log_and_in_the_report() {
    let bench = Bench::new();
    let sentinel = bench.sentinel_with_spec("sentinel");
    sentinel.until_logged("cannot choose initial master: no keepers registered").await;
    wait_for("the reason in the report", PATIENCE, async || {
        let reports = bench.store.sentinel_reports().await?;
        let holds = reports.into_values().filter_map(|report| report.holds).flatten();
        let mut said = holds.filter(|hold| hold.contains("no keepers registered"));
        Ok(said.next())
    })
    .await
    .unwrap();
    assert_eq!(sentinel.count("no keepers registered"), 1, "once, not in every round");
}

/// A new cluster would have the keepers overwrite the databases of the one whose data were lost.
#[tokio::test]
async fn cluster_data_that_vanish_are_no_reason_to_begin_anew() {
    let bench = Bench::new();
    let witness = bench.sentinel_with_spec("witness");
    bench.keeper("one");
    let lost = bench.until("a primary", |data| data.cluster.status.phase == Some(Phase::Normal)).await;
    bench.silence("one");
    for file in ["store.db", "store.db-wal", "store.db-shm"] {
        // Only the first one is always there.
        let _ = std::fs::remove_file(bench.path(file));
    }
    witness.until_logged("are gone from the store: no new cluster is made").await;
    // One that has seen nothing hears of the cluster from its keepers.
    let report = keeper_report(&"one".into(), &lost, next(&bench.published));
    bench.store.put_keeper_report(&report, Duration::from_secs(20)).await.unwrap();
    let newcomer = bench.sentinel_with_spec("newcomer");
    newcomer.until_logged(&format!("the cluster data of cluster {} are gone", lost.cluster.uid)).await;
    assert!(bench.data().await.unwrap().is_none());
    // What was lost is written back, and the cluster goes on.
    bench.store.put_cluster_document(&lost.into()).await.unwrap();
    witness.until_logged("rounds succeed again").await;
}

#[tokio::test]
async fn metrics_have_the_names_that_dashboards_know() {
    let bench = Bench::new();
    let (_sentinel, address) = bench.measured_sentinel();
    bench.keeper("one");
    bench.until("a primary", |data| data.cluster.status.phase == Some(Phase::Normal)).await;
    let text = wait_for("the metrics of a leader", PATIENCE, async || {
        let text = scrape(&address)?;
        Ok(text.contains("\nstolon_sentinel_is_leader 1\n").then_some(text))
    })
    .await
    .unwrap();
    Metrics::parse(&text).unwrap();
    assert!(text.contains("\nstolon_sentinel_leader_count 1\n"), "{text}");
    assert!(text.contains("\nstolon_sentinel_former_primaries 0\n"), "{text}");
    assert!(
        text.contains("stolon_cluster_identifier{cluster_name=\"test\",component=\"sentinel\"} 1"),
        "{text}"
    );
    let last =
        text.lines().find(|line| line.starts_with("stolon_sentinel_last_cluster_check_success_seconds "));
    let last: f64 = last.and_then(|line| line.split(' ').nth(1)).unwrap().parse().unwrap();
    assert!(last > 1.7e9, "seconds since 1970: {last}");
}

#[tokio::test]
async fn failovers_are_counted_and_their_phases_timed() {
    let bench = Bench::new();
    let (_sentinel, address) = bench.measured_sentinel();
    bench.keeper("one");
    bench.keeper("two");
    bench.proxy("p1");
    let old = keeper_of(&bench.until_complete().await);
    const COUNT: &str = "stolon_sentinel_failovers_total{reason=\"keeper_silent\"}";
    let phase = |metrics: &Metrics, what: &str, phase: &str| {
        metrics.value(&format!("stolon_sentinel_failover_duration_seconds_{what}{{phase=\"{phase}\"}}"))
    };
    let before = Metrics::parse(&scrape(&address).unwrap()).unwrap();
    assert_eq!((before.value(COUNT), phase(&before, "count", "takeover")), (Some(0.0), Some(0.0)));
    bench.silence(&old);
    let after = wait_for("the end of the failover", PATIENCE, async || {
        let metrics = Metrics::parse(&scrape(&address)?)?;
        Ok((phase(&metrics, "count", "takeover") == Some(1.0)).then_some(metrics))
    })
    .await
    .unwrap();
    assert_eq!((after.value(COUNT), phase(&after, "count", "detection")), (Some(1.0), Some(1.0)));
    let detection = phase(&after, "sum", "detection").unwrap();
    assert!((1.5..15.0).contains(&detection), "failInterval, and what it takes to notice: {detection}");
    let takeover = phase(&after, "sum", "takeover").unwrap();
    assert!((0.0..15.0).contains(&takeover), "{takeover}");
}

fn scrape(address: &str) -> anyhow::Result<String> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Status 2, one sentence, and no store is touched.
#[test]
fn a_wrong_specification_ends_the_program_before_it_begins() {
    let directory = TempDir::new().unwrap();
    let run = |content: Option<&str>| -> (Option<i32>, String) {
        let file = directory.path().join("spec.json");
        let _ = std::fs::remove_file(&file);
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let store = directory.path().join("store.db");
        let output = Command::new(env!("CARGO_BIN_EXE_stolon-sentinel"))
            .args(["--cluster-name", "test", "--store-backend", "sqlite"])
            .args([Path::new("--store-endpoints"), &store, Path::new("--initial-cluster-spec"), &file])
            .output()
            .unwrap();
        assert!(!store.exists());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let cases = [
        (None, "cannot read provided initial cluster config file"),
        (Some("{\"initMode\": "), "cannot parse provided initial cluster config"),
        (Some("{\"initMode\": \"odd\"}"), "invalid initial cluster: unknown initMode: \"odd\""),
        (Some("{}"), "invalid initial cluster: initMode undefined"),
    ];
    for (content, text) in cases {
        let (status, stderr) = run(content);
        assert_eq!(status, Some(2), "{stderr}");
        assert!(stderr.contains("cannot create sentinel: ") && stderr.contains(text), "{text}: {stderr}");
    }
}
