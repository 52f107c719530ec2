//! What idle programs cost, and how that grows with the number of keepers.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::Pid;
use serde_json::{Value, json};
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, StoreKind, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Idle;

/// So many keepers copy their data at the same time.
const BATCH: usize = 4;
/// What happened before the watching is over by then.
const SETTLE: Duration = Duration::from_secs(15);

/// Timings that are measured: `sleepInterval`, `failInterval`, `proxyCheckInterval`, `proxyTimeout`.
struct Timing {
    title: &'static str,
    spec: [&'static str; 4],
    target: Target,
}

/// What the store may be asked at most, in requests a minute.
enum Target {
    AKeeper(f64),
    /// In all, for a cluster of two keepers.
    TwoKeepers(f64),
}

const TIMINGS: [Timing; 2] = [
    Timing { title: "sleepInterval 1s", spec: ["1s", "5s", "1s", "3s"], target: Target::AKeeper(100.0) },
    Timing { title: "default timings", spec: ["5s", "20s", "5s", "15s"], target: Target::TwoKeepers(60.0) },
];

/// Resident memory of a program in MiB.
const MOST_MEMORY: f64 = 8.0;

/// One look at a program.
struct Look {
    /// Resident memory in KiB.
    memory: u64,
    /// User and system time.
    cpu: Duration,
    /// Times that it was woken.
    switches: u64,
    /// Requests to the store.
    requests: f64,
}

/// The cost of one kind of program, of all its processes together.
#[derive(Default)]
struct Cost {
    processes: usize,
    memory: u64,
    most_memory: u64,
    cpu: Duration,
    switches: u64,
    requests: f64,
}

impl Cost {
    fn add(&mut self, before: &Look, after: &Look) {
        self.processes += 1;
        self.memory += after.memory;
        self.most_memory = self.most_memory.max(after.memory);
        self.cpu += after.cpu.saturating_sub(before.cpu);
        self.switches += after.switches.saturating_sub(before.switches);
        self.requests += after.requests - before.requests;
    }

    fn print(&self, name: &str, watched: Duration) {
        let minutes = watched.as_secs_f64() / 60.0;
        let each = self.processes.max(1) as f64;
        println!(
            "    {name:<10} {:>5} {:>14.1} {:>14.1} {:>14.1} {:>12.1} {:>10.2} {:>12.1}",
            self.processes,
            self.requests / minutes,
            self.requests / minutes / each,
            self.memory as f64 / 1024.0 / each,
            self.most_memory as f64 / 1024.0,
            self.cpu.as_secs_f64() / watched.as_secs_f64() * 100.0 / each,
            self.switches as f64 / watched.as_secs_f64() / each,
        );
    }
}

/// Programs of a cluster with the ports of their metrics.
struct Programs {
    cluster: Cluster,
    names: Vec<(String, u16)>,
}

/// Measure every number of keepers, and print tables.
pub async fn measure(options: &Idle, programs: &Path) -> anyhow::Result<()> {
    let stores = match options.etcd {
        true => vec![StoreKind::Etcd],
        false => vec![StoreKind::Etcd, StoreKind::Sqlite],
    };
    for store in stores {
        let mut requests = Vec::new();
        for &keepers in &options.keepers {
            let plan = Plan {
                programs: Some(programs.to_path_buf()),
                ..Plan::new(keepers).store(store).spec(light(keepers))
            };
            let mut running = Programs::start(&plan).await?;
            let outcome = running.measure(&plan, Duration::from_secs(options.seconds)).await;
            if outcome.is_err() {
                running.cluster.dump_logs();
            }
            running.cluster.kill_everything().await;
            requests.push((keepers, outcome?));
        }
        print_growth(store, &requests);
    }
    Ok(())
}

/// How the requests grow with the number of keepers, for each of the timings.
fn print_growth(store: StoreKind, requests: &[(usize, Vec<f64>)]) {
    for (number, timing) in TIMINGS.iter().enumerate() {
        let a_keeper: Vec<f64> =
            requests.iter().map(|(keepers, all)| all[number] / *keepers as f64).collect();
        let figures: Vec<String> = requests
            .iter()
            .zip(&a_keeper)
            .map(|((keepers, _), figure)| format!("{keepers} keepers {figure:.1}"))
            .collect();
        // What the sentinel and the proxy ask is shared by more keepers: the figure of each must fall.
        let verdict = if a_keeper.is_sorted_by(|one, next| next <= one) { "linear" } else { "NOT linear" };
        println!(
            "\n  store {store:?}, {}: requests a minute and keeper: {}: {verdict}",
            timing.title,
            figures.join(", ")
        );
    }
}

fn print_target(what: &str, figure: f64, most: f64) {
    let verdict = if figure <= most { "met" } else { "NOT met" };
    println!("    target: {what} at most {most:.0}: {figure:.1}, {verdict}");
}

/// Instances that leave the machine to the programs that are measured.
fn light(keepers: usize) -> Value {
    json!({
        "maxStandbys": keepers.max(20),
        "maxStandbysPerSender": keepers.max(3),
        "pgParameters": {
            "autovacuum": "off",
            "fsync": "off",
            "max_connections": "20",
            "max_parallel_workers": "0",
            "max_wal_size": "64MB",
            "shared_buffers": "1MB",
            "wal_receiver_status_interval": "60s",
        },
    })
}

impl Programs {
    /// All programs, and every standby streams. Standbys come a few at a time: they share one disk.
    async fn start(plan: &Plan) -> anyhow::Result<Self> {
        let progress = spinner(format!("{} keepers, {:?}: starting", plan.keepers, plan.store));
        let mut cluster = Cluster::prepare(plan).await?;
        let mut names = Vec::new();
        for name in cluster.services() {
            let port = cluster.ports.take()?;
            cluster.add_flag(&name, "--metrics-listen-address", &format!("127.0.0.1:{port}"))?;
            names.push((name, port));
        }
        let mut running = Programs { cluster, names };
        let outcome = running.start_all(plan.keepers, &progress).await;
        progress.finish_and_clear();
        if let Err(error) = outcome {
            running.cluster.dump_logs();
            running.cluster.kill_everything().await;
            return Err(error);
        }
        Ok(running)
    }

    async fn start_all(&mut self, keepers: usize, progress: &ProgressBar) -> anyhow::Result<()> {
        for name in ["sentinel1", "keeper1", "proxy1"] {
            self.cluster.start_service(name)?;
        }
        self.cluster.wait_writable(PATIENCE).await?;
        let mut started = 1;
        while started < keepers {
            let batch = BATCH.min(keepers - started);
            for number in started + 1..=started + batch {
                self.cluster.start_service(&format!("keeper{number}"))?;
            }
            started += batch;
            progress.set_message(format!("{started} of {keepers} keepers started"));
            self.cluster.wait_streaming(started - 1, PATIENCE * 3).await?;
        }
        Ok(())
    }

    /// Returns the requests a minute of each of the timings.
    async fn measure(&mut self, plan: &Plan, watched: Duration) -> anyhow::Result<Vec<f64>> {
        let mut requests = Vec::new();
        for Timing { title, spec: [sleep, fail, check, timeout], target } in &TIMINGS {
            self.cluster
                .patch(json!({
                    "sleepInterval": sleep, "failInterval": fail,
                    "proxyCheckInterval": check, "proxyTimeout": timeout,
                }))
                .await?;
            let progress = spinner(format!("{} keepers, {:?}, {title}", plan.keepers, plan.store));
            sleep_with(&progress, "settling", SETTLE).await;
            let (before, served) = (self.look().await?, self.served_by_etcd().await?);
            sleep_with(&progress, "watching", watched).await;
            let (after, served_then) = (self.look().await?, self.served_by_etcd().await?);
            progress.finish_and_clear();
            println!(
                "\n  {} keepers, store {:?}, {title}, watched for {} s",
                plan.keepers,
                plan.store,
                watched.as_secs()
            );
            let all = self.print(&before, &after, watched);
            let a_minute = all.requests / watched.as_secs_f64() * 60.0;
            match target {
                Target::AKeeper(most) => {
                    print_target("requests a minute and keeper", a_minute / plan.keepers as f64, *most);
                }
                Target::TwoKeepers(most) if plan.keepers == 2 => {
                    print_target("requests a minute", a_minute, *most);
                }
                Target::TwoKeepers(_) => {}
            }
            print_target("MiB a program", all.most_memory as f64 / 1024.0, MOST_MEMORY);
            requests.push(a_minute);
            if let (Some(before), Some(after)) = (served, served_then) {
                let a_minute = (after - before) / watched.as_secs_f64() * 60.0;
                println!("    etcd received {a_minute:.1} messages a minute");
            }
            self.is_quiet(plan.keepers).await?;
        }
        Ok(requests)
    }

    /// Returns the cost of all programs together.
    fn print(&self, before: &[Look], after: &[Look], watched: Duration) -> Cost {
        println!(
            "    {:<10} {:>5} {:>14} {:>14} {:>14} {:>12} {:>10} {:>12}",
            "", "", "requests/min", "each", "MiB each", "MiB at most", "cpu % each", "wakes/s each"
        );
        let mut all = Cost::default();
        for kind in ["keeper", "sentinel", "proxy"] {
            let mut cost = Cost::default();
            for (((name, _), before), after) in self.names.iter().zip(before).zip(after) {
                if name.starts_with(kind) {
                    cost.add(before, after);
                    all.add(before, after);
                }
            }
            cost.print(kind, watched);
        }
        all.print("all", watched);
        all
    }

    async fn look(&self) -> anyhow::Result<Vec<Look>> {
        let mut looks = Vec::new();
        for (name, port) in &self.names {
            looks.push(look(&self.cluster, name, *port).await?);
        }
        Ok(looks)
    }

    /// Figures of a cluster that was not idle are worth nothing.
    async fn is_quiet(&self, keepers: usize) -> anyhow::Result<()> {
        let primary = self.cluster.primary().await?;
        ensure!(primary == 1, "a failover came in between: keeper{primary} is the primary");
        self.cluster.wait_streaming(keepers - 1, QUERY).await
    }

    /// All messages that clients sent to etcd, those of streams included.
    async fn served_by_etcd(&self) -> anyhow::Result<Option<f64>> {
        let Some(etcd) = &self.cluster.server.etcd else { return Ok(None) };
        let text = metrics(etcd.client_port(0)).await?;
        let lines = text.lines().filter(|line| line.starts_with("grpc_server_msg_received_total{"));
        let counts = lines.filter_map(|line| line.split_whitespace().last()?.parse::<f64>().ok());
        Ok(Some(counts.sum()))
    }
}

fn spinner(message: String) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {prefix} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

async fn sleep_with(progress: &ProgressBar, what: &'static str, span: Duration) {
    for second in 0..span.as_secs() {
        progress.set_prefix(format!("{what} {second}/{} s", span.as_secs()));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn look(cluster: &Cluster, name: &str, port: u16) -> anyhow::Result<Look> {
    let pid = cluster.process(name)?.pid();
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim_start_matches(':').split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    Ok(Look {
        memory: field("VmRSS"),
        cpu: cpu(pid)?,
        switches: field("voluntary_ctxt_switches"),
        requests: wait_for(name, QUERY, async || store_requests(port).await).await?,
    })
}

/// User and system time of a process: fields 14 and 15 of its `stat`, in hundredths of a second on every Linux.
fn cpu(pid: Pid) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let ticks: u64 =
        fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// The counter of requests that every program has among its metrics.
async fn store_requests(port: u16) -> anyhow::Result<Option<f64>> {
    let text = metrics(port).await?;
    let line = text.lines().find(|line| line.contains("store_requests") && !line.starts_with('#'));
    line.and_then(|line| line.split_whitespace().last()).map(str::parse).transpose().context("no number")
}

async fn metrics(port: u16) -> anyhow::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
