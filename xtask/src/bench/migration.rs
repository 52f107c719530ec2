//! A live database moves in while it is written, and back: how long nobody could write, what the copy costs beside a bare `pg_basebackup`
//! of the same server, and how fast it is verified. The logical method is measured the same way, beside `pg_dump` and `pg_restore`.

mod logical;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use stolon_model::ByteCount;
use stolon_testkit::local::Target;
use stolon_testkit::local::writes::Writing;
use stolon_testkit::{Cluster, Foreign, PATIENCE, Plan, QUERY, writes_are_back};
use xtask_bench::statistics::seconds;

/// Longest time to fill the server, to copy it, or to read it.
const LONG: Duration = Duration::from_secs(6 * 3600);
/// Rows of about this size fill it.
const ROW: u64 = 1024;
/// Tables that hold them.
const TABLES: u64 = 4;
/// How long the application writes on the cluster before the rollback.
const BETWEEN: Duration = Duration::from_secs(5);

/// What the legacy server is set to: nobody moves one of that size with the settings of initdb.
const SETTINGS: &str = "\
max_wal_size = 4GB
shared_buffers = 256MB
max_connections = 100
";

/// Sessions on each side that `migrate verify` sums with, if nobody says otherwise.
const JOBS: usize = 2;

/// How the database moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Method {
    /// As files, to the same major of PostgreSQL.
    Physical,
    /// As rows, to a newer one.
    Logical,
}

/// How large the database is, and how it moves.
#[derive(Clone, Debug, clap::Args)]
pub struct Migration {
    /// Which method is measured
    #[arg(long, value_enum, default_value = "physical")]
    method: Method,

    /// Logical method: the major version of the legacy server
    #[arg(long, default_value_t = 13, value_name = "MAJOR")]
    from: u16,

    /// Logical method: the major version of the cluster
    #[arg(long, default_value_t = 17, value_name = "MAJOR")]
    to: u16,

    /// Logical method: so many databases; all but one hold a small table and a sequence
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    databases: usize,

    /// Size of the legacy database, for example 1GiB; there is room for four of them on the disk
    #[arg(long, default_value = "1GiB", value_name = "SIZE", value_parser = size)]
    size: u64,

    /// Measure the programs in this directory instead of building them
    #[arg(long, value_name = "DIRECTORY")]
    pub programs: Option<PathBuf>,
}

fn size(text: &str) -> Result<u64, String> {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20)];
    let parsed = units.iter().find_map(|(unit, bytes)| {
        let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        number.checked_mul(*bytes)
    });
    parsed.filter(|bytes| *bytes > 0).ok_or_else(|| "a number with MiB or GiB, for example 16GiB".to_owned())
}

/// Measure, and print a table.
///
/// # Errors
/// The cluster or the server does not work, or a row is lost.
pub async fn measure(options: &Migration, programs: &Path) -> anyhow::Result<()> {
    let plan = match options.method {
        Method::Physical => Plan::new(2).uninitialised(),
        Method::Logical => logical::plan(options),
    };
    let plan = Plan { programs: Some(programs.to_path_buf()), ..plan };
    let mut cluster = Cluster::prepare(&plan).await?;
    let outcome = match options.method {
        Method::Physical => run(&mut cluster, options.size).await,
        Method::Logical => logical::run(&mut cluster, options).await,
    };
    if outcome.is_err() {
        cluster.dump_logs();
    }
    cluster.kill_everything().await;
    outcome
}

async fn run(cluster: &mut Cluster, size: u64) -> anyhow::Result<()> {
    println!("\nA database of {} moves in while it is written, and back; seconds", ByteCount(size));
    let mut legacy = Foreign::create(cluster, "legacy", SETTINGS).await?;
    legacy.start().await?;
    let target = legacy.server.target();
    fill(&target, size).await?;
    let writing = legacy.application(&[cluster.proxy()], 2).await?;
    let since = Instant::now();
    writes_are_back(&writing, since).await?;

    let bare = bare_copy(&legacy).await?;
    println!("  bare pg_basebackup                 {}", seconds(bare));
    cluster.start_services()?;
    copy(cluster, &legacy, bare).await?;
    verify(cluster, &target).await?;
    println!("  longest pause of a writer so far   {}", seconds(writing.ledger().longest_pause(since)));

    there_and_back(cluster, &writing).await?;
    nothing_lost(writing, &target).await
}

/// A switch, and a rollback some seconds later.
async fn there_and_back(cluster: &Cluster, writing: &Writing) -> anyhow::Result<()> {
    switch(cluster, writing, "switch").await?;
    tokio::time::sleep(BETWEEN).await;
    switch(cluster, writing, "rollback").await
}

/// Whatever was promised to the writers is on the legacy server in the end.
async fn nothing_lost(writing: Writing, legacy: &Target) -> anyhow::Result<()> {
    let verdict = writing.stop().await.check(legacy).await?;
    let (lost, doubled, strange) = (verdict.lost.len(), verdict.doubled.len(), verdict.unexpected.len());
    println!(
        "  of {} promised rows: {lost} lost, {doubled} doubled, {strange} from nowhere",
        verdict.acknowledged
    );
    ensure!((lost, doubled, strange) == (0, 0, 0), "rows were lost, doubled or invented");
    Ok(())
}

async fn fill(target: &Target, size: u64) -> anyhow::Result<()> {
    let session = target.connect(QUERY).await?;
    let rows = size / ROW / TABLES;
    for table in 1..=TABLES {
        let sql = format!(
            "create table payload{table} (id bigint primary key, data text not null); \
             insert into payload{table} select i, repeat(md5(i::text), 30) from generate_series(1, {rows}) i"
        );
        session.rows(&sql, LONG).await?;
        session.rows(&format!("vacuum (analyze, freeze) payload{table}"), LONG).await?;
    }
    session.rows("checkpoint", LONG).await.map(drop)
}

/// The same copy without anything of ours.
async fn bare_copy(legacy: &Foreign) -> anyhow::Result<Duration> {
    let (port, copy) = (legacy.server.port.to_string(), legacy.server.directory.join("bare"));
    let words = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-X", "stream", "-c", "fast", "-D"];
    let mut arguments: Vec<&OsStr> = words.iter().map(|word| (*word).as_ref()).collect();
    arguments.push(copy.as_os_str());
    let began = Instant::now();
    legacy.server.tool("pg_basebackup", &arguments, "").await?;
    let took = began.elapsed();
    std::fs::remove_dir_all(&copy).context("the bare copy cannot be removed")?;
    Ok(took)
}

/// `migrate start`, until the cluster follows and has its own standby.
async fn copy(cluster: &Cluster, legacy: &Foreign, bare: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    let observer = tokio::spawn(watch_copy(legacy.server.target()));
    cluster.migrate_start(legacy, &[], LONG).await?;
    let follows = began.elapsed();
    let seen = tokio::time::timeout(PATIENCE, observer).await.context("the copy was not seen")???;
    let of_bare = |took: Duration| took.as_secs_f64() / bare.as_secs_f64();
    println!("  the copy by migrate start          {}   {:.2} of that", seconds(seen), of_bare(seen));
    println!("  until the cluster follows          {}   {:.2} of that", seconds(follows), of_bare(follows));
    cluster.wait_streaming(1, LONG).await?;
    println!("  until its own standby streams      {}", seconds(began.elapsed()));
    Ok(())
}

/// For how long the legacy server shows a base backup.
async fn watch_copy(legacy: Target) -> anyhow::Result<Duration> {
    const SQL: &str = "select count(*) from pg_stat_progress_basebackup";
    let session = legacy.connect(QUERY).await?;
    let mut began = None;
    loop {
        match (session.value(SQL, QUERY).await?.as_str(), began) {
            ("0", Some(began)) => return Ok(Instant::now() - began),
            ("0", None) => {}
            (_, known) => began = known.or_else(|| Some(Instant::now())),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `migrate verify` under writes, beside a sequential read of the same tables on both sides at once: by one session on each side, and by as many as
/// `migrate verify` has. A read counts the values of a column, so it makes out each row and hashes nothing.
async fn verify(cluster: &Cluster, legacy: &Target) -> anyhow::Result<()> {
    let head = cluster.instance(cluster.primary().await?);
    let mut reads = Vec::new();
    for sessions in [1, JOBS] {
        let began = Instant::now();
        let bytes = tokio::try_join!(read(legacy, sessions), read(&head, sessions))?.0;
        reads.push((sessions, bytes, began.elapsed()));
    }
    let began = Instant::now();
    let answer = verified_by(cluster).await?;
    let verified = began.elapsed();
    let compared = answer["compared"].as_array().context("verify compared nothing")?;
    let tables = compared.iter().filter(|row| row["kind"] == "table" && row["outcome"] == "holds").count();
    ensure!(tables as u64 > TABLES, "verify found {answer:#}");
    let rate = |bytes: u64, took: Duration| ByteCount((bytes as f64 / took.as_secs_f64()) as u64);
    for (sessions, bytes, took) in &reads {
        println!(
            "  sequential read, {sessions} session(s) a side   {}   {} a second and side",
            seconds(*took),
            rate(*bytes, *took)
        );
    }
    println!("  migrate verify, {JOBS} sessions a side     {}", seconds(verified));
    for (sessions, _, took) in &reads {
        let percent = 100.0 * took.as_secs_f64() / verified.as_secs_f64();
        println!("    {percent:.0} % of the rate of the read by {sessions} session(s) a side");
    }
    Ok(())
}

/// The answer of `migrate verify`, whose exit status also speaks of roles, which a cluster has of its own.
async fn verified_by(cluster: &Cluster) -> anyhow::Result<Value> {
    let mut command = cluster.layout.stolonctl();
    command.args(["migrate", "verify", "--output", "json", "--jobs", &JOBS.to_string()]);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(LONG, output).await.context("verify does not end")??;
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| format!("verify gives no JSON: {said}"))
}

/// Read all tables, so many at the same time; returns their size.
async fn read(target: &Target, sessions: usize) -> anyhow::Result<u64> {
    let tables: Vec<u64> = (1..=TABLES).collect();
    let each = tables.chunks(tables.len().div_ceil(sessions)).map(|some| read_some(target, some));
    Ok(futures::future::try_join_all(each).await?.iter().sum())
}

/// Read some tables, one after the other.
async fn read_some(target: &Target, tables: &[u64]) -> anyhow::Result<u64> {
    let session = target.connect(QUERY).await?;
    session.rows("set max_parallel_workers_per_gather = 0; set enable_indexonlyscan = off", QUERY).await?;
    let mut bytes = 0;
    for table in tables {
        session.rows(&format!("select count(data) from payload{table}"), LONG).await?;
        let size = session.value(&format!("select pg_table_size('payload{table}')"), QUERY).await?;
        bytes += size.parse::<u64>()?;
    }
    Ok(bytes)
}

/// A switch in either direction: for how long nobody could write, by the command and by the writers.
async fn switch(cluster: &Cluster, writing: &Writing, command: &str) -> anyhow::Result<()> {
    let asked = Instant::now();
    let answer = cluster.migrate(&[command], PATIENCE).await?;
    writes_are_back(writing, Instant::now()).await?;
    let measured = answer["figures"]["downtime_seconds"].as_f64().context("nothing was measured")?;
    println!(
        "  {command:<8}, nobody could write       {}   the writers saw {}, the whole command took {}",
        seconds(Duration::from_secs_f64(measured)),
        seconds(writing.ledger().longest_pause(asked)),
        seconds(asked.elapsed()),
    );
    let parts = answer["did"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(parts) = parts.clone().find(|line| line.starts_with("of these")) {
        println!("    {parts}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(size("16GiB"), Ok(16 << 30));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        for wrong in ["", "16", "GiB", "0GiB", "-1GiB", "1.5GiB", "99999999999999GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
