//! The logical method: the copy by logical replication beside `pg_dump` and `pg_restore` with as many jobs, switch, rollback.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use stolon_testkit::{Cluster, Foreign, PATIENCE, Plan, QUERY, writes_are_back};
use xtask_bench::statistics::seconds;

use super::{ByteCount, JOBS, LONG, Migration, SETTINGS, fill, nothing_lost, there_and_back, verify};

/// Room for a slot, a sender and a worker of each database, and some more.
fn room(databases: usize) -> String {
    (databases + 8).to_string()
}

/// Subscribers count what they follow by `max_active_replication_origins` since this major, and by `max_replication_slots` before
/// (release notes 18).
const COUNTS_ORIGINS: u16 = 18;

/// A cluster that can take rows.
pub fn plan(options: &Migration) -> Plan {
    let room = room(options.databases);
    let mut parameters = json!({
        "wal_level": "logical",
        "max_logical_replication_workers": room,
        "max_worker_processes": (options.databases + 16).to_string(),
        "max_wal_size": "4GB",
        "shared_buffers": "256MB",
    });
    if options.to >= COUNTS_ORIGINS {
        parameters["max_active_replication_origins"] = json!(room);
    }
    Plan::new(2)
        .major(options.to)
        .spec(json!({ "pgParameters": parameters, "maxStandbys": options.databases + 20 }))
}

/// Measure, and print.
pub async fn run(cluster: &mut Cluster, options: &Migration) -> anyhow::Result<()> {
    println!(
        "\n{} in {} database(s) move from PostgreSQL {} to {} as rows while they are written, and back; seconds",
        ByteCount(options.size),
        options.databases,
        options.from,
        options.to
    );
    let room = room(options.databases);
    let mut settings = format!(
        "{SETTINGS}wal_level = logical\nmax_replication_slots = {room}\nmax_wal_senders = {room}\nmax_worker_processes = {room}\n\
         max_logical_replication_workers = {room}\n"
    );
    if options.from >= COUNTS_ORIGINS {
        settings += &format!("max_active_replication_origins = {room}\n");
    }
    let mut legacy = Foreign::of_major(cluster, options.from, "legacy", &settings).await?;
    legacy.start().await?;
    let target = legacy.server.target();
    fill(&target, options.size).await?;
    more_databases(&legacy, options.databases).await?;

    let dumped = dump_and_restore(cluster, &legacy).await?;
    println!("  pg_dump -j {JOBS}, then pg_restore -j {JOBS}  {}", seconds(dumped));
    cluster.start_services()?;
    cluster.wait_writable(PATIENCE).await?;
    cluster.wait_streaming(1, PATIENCE).await?;
    let writing = legacy.application(&[cluster.proxy()], 2).await?;
    let since = Instant::now();
    writes_are_back(&writing, since).await?;
    let (source, programs) = (legacy.source(), cluster.layout.pg_bin.display().to_string());
    let began = Instant::now();
    let start = ["start", "--yes", "--method", "logical", "--source", &source, "--pg-bin-path", &programs];
    cluster.migrate(&start, LONG).await?;
    let copied = began.elapsed();
    let of_dump = copied.as_secs_f64() / dumped.as_secs_f64();
    println!("  until the cluster follows          {}   {of_dump:.2} of that", seconds(copied));
    verify(cluster, &target).await?;
    println!("  longest pause of a writer so far   {}", seconds(writing.ledger().longest_pause(since)));

    there_and_back(cluster, &writing).await?;
    nothing_lost(writing, &target).await
}

async fn more_databases(legacy: &Foreign, databases: usize) -> anyhow::Result<()> {
    for number in 2..=databases {
        let name = format!("Da\"ta {number}");
        legacy.run(&format!("create database \"{}\"", name.replace('"', "\"\""))).await?;
        let session = legacy.server.target().database(&name).connect(QUERY).await?;
        let sql = "create table t (id serial primary key, note text); \
                   insert into t (note) select 'note ' || i from generate_series(1, 1000) i";
        session.rows(sql, QUERY).await?;
    }
    Ok(())
}

/// The same content by the programs of PostgreSQL alone, into an empty server of the cluster's major.
async fn dump_and_restore(cluster: &mut Cluster, legacy: &Foreign) -> anyhow::Result<Duration> {
    let mut beside = Foreign::create(cluster, "beside", SETTINGS).await?;
    beside.start().await?;
    let jobs = format!("--jobs={JOBS}");
    let dump = beside.server.directory.join("dump");
    let (from, to) = (legacy.server.port.to_string(), beside.server.port.to_string());
    let began = Instant::now();
    let words =
        ["-h", "127.0.0.1", "-p", &from, "-U", "postgres", "-Fd", "-Z0", &jobs, "-d", "postgres", "-f"];
    let mut arguments: Vec<&OsStr> = words.iter().map(|word| (*word).as_ref()).collect();
    arguments.push(dump.as_os_str());
    beside.server.tool("pg_dump", &arguments, "").await?;
    let words = ["-h", "127.0.0.1", "-p", &to, "-U", "postgres", "--no-owner", &jobs, "-d", "postgres"];
    let mut arguments: Vec<&OsStr> = words.iter().map(|word| (*word).as_ref()).collect();
    arguments.push(dump.as_os_str());
    beside.server.tool("pg_restore", &arguments, "").await?;
    let took = began.elapsed();
    let count = "select count(*) from payload1";
    let copied = beside.server.target().connect(QUERY).await?.value(count, LONG).await?;
    ensure!(copied != "0", "pg_restore has brought no row");
    let directory = beside.server.directory.clone();
    beside.stop().await?;
    std::fs::remove_dir_all(&directory).context("the server beside cannot be removed")?;
    Ok(took)
}
