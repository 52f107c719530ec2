//! What programs cost that have nothing to do.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Pid;
use stolon_testkit::{Cluster, PATIENCE, Plan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Options;

const NAMES: [&str; 4] = ["sentinel1", "keeper1", "keeper2", "proxy1"];

/// One look at a program.
struct Look {
    /// Resident memory in KiB.
    memory: u64,
    /// User and system time.
    cpu: Duration,
    /// Times that it was woken.
    switches: u64,
    /// Requests to the store.
    requests: Option<f64>,
}

/// Measure and print.
pub async fn measure(options: &Options, programs: &Path) -> anyhow::Result<()> {
    let plan = Plan { programs: Some(programs.to_path_buf()), ..Plan::new(2).store(options.store()) };
    let mut cluster = Cluster::prepare(&plan).await?;
    let mut ports = Vec::new();
    for name in NAMES {
        let port = cluster.ports.take()?;
        cluster.add_flag(name, "--metrics-listen-address", &format!("127.0.0.1:{port}"))?;
        cluster.start_service(name)?;
        ports.push(port);
    }
    cluster.wait_writable(PATIENCE).await?;
    cluster.wait_streaming(1, PATIENCE).await?;
    let settle = Duration::from_secs(10);
    tokio::time::sleep(settle).await;

    let watched = Duration::from_secs(options.idle_seconds);
    let mut before = Vec::new();
    for (name, port) in NAMES.iter().zip(&ports) {
        before.push(look(&cluster, name, *port).await?);
    }
    tokio::time::sleep(watched).await;
    let minutes = watched.as_secs_f64() / 60.0;
    println!("\nIdle programs, watched for {} s", watched.as_secs());
    println!(
        "  {:<12} {:>12} {:>8} {:>14} {:>22}",
        "", "memory MiB", "cpu %", "wakes a second", "store requests a min"
    );
    for ((name, port), before) in NAMES.iter().zip(&ports).zip(before) {
        let after = look(&cluster, name, *port).await?;
        println!(
            "  {name:<12} {:>12.1} {:>8.2} {:>14.1} {:>22}",
            after.memory as f64 / 1024.0,
            (after.cpu - before.cpu).as_secs_f64() / watched.as_secs_f64() * 100.0,
            (after.switches - before.switches) as f64 / watched.as_secs_f64(),
            match (before.requests, after.requests) {
                (Some(before), Some(after)) => format!("{:.0}", (after - before) / minutes),
                _ => "not told".to_owned(),
            },
        );
    }
    cluster.kill_everything().await;
    Ok(())
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
        requests: store_requests(port).await.with_context(|| format!("the metrics of {name}"))?,
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
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let line = text.lines().find(|line| line.contains("store_requests") && !line.starts_with('#'));
    line.and_then(|line| line.split_whitespace().last()).map(str::parse).transpose().context("no number")
}
