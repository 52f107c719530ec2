//! The live migration of a legacy PostgreSQL, from start to end, on real data (docs: "Live migration of a PostgreSQL into a highly available cluster").
//!
//! The commands are those that an operator types. Every step says what it does and how long it took, and what
//! it found goes into the table at the end.

mod checks;
mod failover;
mod legacy;
mod physical;
mod progress;
mod restore;
mod steps;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;
use stolon_local::writes::{Writes, Writing};
use stolon_local::{Server, Session, Target};
use stolon_runtime::{Shutdown, UsageError};

use self::checks::{Checks, Fingerprint};
use self::legacy::Legacy;
use self::steps::Steps;
use super::live::Playground;
use super::view::View;

/// Longest time for anything that is waited for.
const LIMIT: Duration = Duration::from_secs(300);
/// Longest time without writes that a switch or a failover may take.
const WITHOUT_WRITES: Duration = Duration::from_secs(60);
/// Exit status after an interruption, as shells define it: 128 plus the number of SIGINT.
const INTERRUPTED: u8 = 130;
/// Longest time for a query.
const QUERY: Duration = Duration::from_secs(120);
/// How long clients write before something is done to the cluster, and after.
const WRITING: Duration = Duration::from_secs(2);

/// Options of `stolonctl playground migration`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How the data come over
    #[arg(long, value_enum, default_value_t = Method::Physical)]
    pub method: Method,

    /// Size of the legacy database: the scale of pgbench, 15 MB each
    #[arg(long, default_value_t = 5, value_name = "SCALE", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub scale: u32,

    /// Give the new cluster no PostgreSQL parameters: the keeper finds out what the data demand
    #[arg(long)]
    pub no_parameters: bool,

    /// Keep the migrated cluster running at the end, until Ctrl-C
    #[arg(long)]
    pub stay: bool,
}

/// How the data come over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// By `stolonctl migrate`, while clients write: a switch, back again, and a second switch
    Physical,
    /// By `stolonctl init` with `initMode` `pitr`, from a server that does not write
    Restore,
}

/// How a migration ended.
enum End {
    Complete,
    Early(anyhow::Error),
    Interrupted,
}

/// Refuse options with which the migration cannot succeed, before anything is made.
///
/// # Errors
/// Too few keepers.
pub fn check(keepers: u16) -> Result<(), UsageError> {
    match keepers {
        0 | 1 => Err(UsageError::new("one keeper cannot survive the loss of its primary")
            .hint("leave --keepers at 2 or more")),
        _ => Ok(()),
    }
}

/// Migrate, check, and print the checks. Exit status 0 only if all of them held.
///
/// # Errors
/// A step could not be done at all.
pub async fn run(mut playground: Playground, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    let stop = shutdown.token();
    let (mut checks, mut legacy) = (Checks::default(), None);
    let events = tell_events(&mut playground);
    let migration = async {
        match args.method {
            Method::Physical => physical::migrate(&mut playground, args, &mut checks, &mut legacy).await,
            Method::Restore => restore::migrate(&mut playground, args, &mut checks, &mut legacy).await,
        }
    };
    let end = tokio::select! {
        () = stop.cancelled() => End::Interrupted,
        outcome = migration => outcome.map_or_else(End::Early, |()| End::Complete),
    };
    match &end {
        End::Complete => playground.screen.say(&checks.table()),
        End::Early(error) => {
            playground.screen.say(&format!("\nthe migration ended early: {error:#}"));
            report_troubles(&mut playground).await;
            playground.screen.say(&checks.table());
        }
        End::Interrupted => playground.screen.say("\nthe migration was interrupted"),
    }
    let held = checks.all_held() && matches!(end, End::Complete);
    if held && args.stay {
        playground
            .screen
            .say(&format!("\nthe cluster runs on until Ctrl-C: {}", playground.proxy_target().uri()));
        stop.cancelled().await;
    }
    playground.stop(shutdown).await;
    events.abort();
    if let Some(legacy) = legacy {
        legacy.stop().await;
    }
    if let End::Interrupted = end {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    playground.screen.say(if held { "the migration succeeded" } else { "the migration did NOT succeed" });
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Four clients that know these addresses of the database.
fn clients(doors: Vec<Target>) -> Writes {
    Writes { doors, clients: 4, pause: Duration::from_millis(2), limit: Duration::from_secs(20) }
}

/// Wait until a row is acknowledged after a moment.
async fn until_acknowledged(writing: &Writing, since: Instant) -> anyhow::Result<()> {
    let acknowledged = async {
        while writing.last_acknowledged().is_none_or(|last| last < since) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(WITHOUT_WRITES, "writes to come back", acknowledged)
        .await
        .with_context(|| format!("the last answer to a client was: {}", writing.last_failure()))
}

/// Timings with which a failover is quick to watch, and what the operator knows of the legacy server's parameters.
fn timings_and_parameters(args: &Args) -> serde_json::Value {
    let mut spec = json!({
        "sleepInterval": "1s",
        "requestTimeout": "5s",
        "failInterval": "5s",
        "proxyCheckInterval": "1s",
        "proxyTimeout": "3s",
    });
    if !args.no_parameters {
        spec["pgParameters"] = json!({
            "max_connections": "300",
            "max_prepared_transactions": "100",
            "shared_preload_libraries": "pg_stat_statements",
        });
    }
    spec
}

/// A server with data, which runs until `running` is dropped, and what it holds.
async fn start_legacy<'r>(
    playground: &Playground,
    args: &Args,
    steps: &mut Steps,
    running: &'r mut Option<Legacy>,
) -> anyhow::Result<(&'r Legacy, Fingerprint)> {
    steps.begin(&format!("legacy PostgreSQL with pgbench data, scale {}", args.scale));
    let legacy = running.insert(Legacy::start(&playground.layout).await?);
    legacy.fill(&playground.layout, args.scale).await?;
    let holds = Fingerprint::take(&legacy.application()).await?;
    steps.end(&format!("{}, {}", holds.summary(), legacy.describe().await?));
    Ok((legacy, holds))
}

async fn start_programs(playground: &mut Playground, steps: &mut Steps) -> anyhow::Result<()> {
    steps.begin("sentinel, keepers and proxy, waiting for a cluster");
    playground.start_programs(None)?;
    all_keepers_report(playground).await?;
    steps.end("all keepers report");
    Ok(())
}

/// What the legacy server had been tuned for still holds.
async fn check_settings(application: &Target, args: &Args, checks: &mut Checks) -> anyhow::Result<()> {
    let session = application.connect(QUERY).await?;
    for (name, least) in [("max_connections", 300), ("max_prepared_transactions", 100)] {
        let value = session.value(&format!("show {name}"), QUERY).await?;
        let holds = value.parse::<i64>().is_ok_and(|value| value >= least);
        let origin = if args.no_parameters { "nobody gave it" } else { "as patched" };
        checks.note(name, &format!("{value}, at least {least} ({origin})"), holds);
    }
    let extension = session.value("select count(*) from pg_stat_statements", QUERY).await;
    let found = match &extension {
        Ok(count) => format!("works, {count} statements"),
        Err(error) => format!("{error:#}"),
    };
    checks.note("extension pg_stat_statements", &found, extension.is_ok());
    Ok(())
}

async fn all_keepers_report(playground: &Playground) -> anyhow::Result<()> {
    // Keepers publish nothing before there is a cluster; their lock shows that they are up.
    let locked = async {
        for number in 1..=usize::from(playground.args.keepers) {
            let state = playground.layout.keeper_directory(number).join("keeperstate");
            while !state.exists() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    within(Duration::from_secs(30), "the keepers to come up", locked).await
}

async fn until_streaming(target: &Target, wanted: usize) {
    // A base backup streams too, under the same name, but does not replay.
    let query =
        "select count(*) from pg_stat_replication where state = 'streaming' and replay_lsn is not null";
    let mut session: Option<Session> = None;
    loop {
        if session.is_none() {
            session = target.connect(QUERY).await.ok();
        }
        if let Some(open) = &session {
            match open.value(query, QUERY).await {
                Ok(count) if count.parse::<usize>().is_ok_and(|count| count >= wanted) => return,
                Ok(_) => {}
                Err(_) => session = None,
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Wait until a standby has replayed everything before a position.
async fn until_replayed(standby: &Target, lsn: &str) {
    let query = format!("select pg_is_in_recovery() and pg_last_wal_replay_lsn() >= '{lsn}'");
    loop {
        if let Ok(session) = standby.connect(QUERY).await
            && session.value(&query, QUERY).await.is_ok_and(|answer| answer == "t")
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn within(limit: Duration, what: &str, done: impl Future<Output = ()>) -> anyhow::Result<()> {
    match tokio::time::timeout(limit, done).await {
        Ok(()) => Ok(()),
        Err(_) => bail!("{what}: not within {} s", limit.as_secs()),
    }
}

/// Print what happens to programs while the steps go on.
fn tell_events(playground: &mut Playground) -> tokio::task::JoinHandle<()> {
    let (_, none) = tokio::sync::mpsc::unbounded_channel();
    let mut events = std::mem::replace(&mut playground.events, none);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            println!("    {}", event.replace('\n', "\n    "));
        }
    })
}

/// The problems that keepers report, for a migration that got stuck.
async fn report_troubles(playground: &mut Playground) {
    if let Ok(view) = View::look(&playground.store).await {
        let lines = view.lines(true).join("\n");
        playground.screen.say(&lines);
    }
    for number in 1..=usize::from(playground.args.keepers) {
        let log = playground.layout.log(&format!("keeper{number}"));
        let end = stolon_local::tail(&log, 8).join("\n  ");
        playground.screen.say(&format!("{}:\n  {end}", log.display()));
    }
}

/// A server that is migrated from lies beside the cluster.
fn legacy_server(layout: &stolon_local::Layout, port: u16) -> Server {
    Server {
        directory: layout.directory.join("legacy"),
        pg_bin: layout.pg_bin.clone(),
        account: layout.account.clone(),
        port,
        password: stolon_runtime::new_uid8(),
    }
}
