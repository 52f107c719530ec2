//! The live migration of a legacy PostgreSQL, from start to end, on real data (docs: "Live migration of a PostgreSQL into a highly available cluster").
//!
//! The commands are those that an operator types. Every step says what it does and how long it took, and what
//! it found goes into the table at the end.

mod checks;
mod legacy;
mod progress;
mod steps;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;
use stolon_local::writes::Writes;
use stolon_local::{Server, Session, Target, kill_tree};
use stolon_model::KeeperUid;
use stolon_runtime::{Shutdown, UsageError};

use self::checks::{Checks, Fingerprint};
use self::legacy::Legacy;
use self::progress::Progress;
use self::steps::Steps;
use super::live::{Playground, until_writable};
use super::view::View;

/// Longest time for anything that is waited for.
const LIMIT: Duration = Duration::from_secs(300);
/// Longest time without writes that a failover may take.
const WITHOUT_WRITES: Duration = Duration::from_secs(60);
/// Exit status after an interruption, as shells define it: 128 plus the number of SIGINT.
const INTERRUPTED: u8 = 130;
/// Longest time for a query.
const QUERY: Duration = Duration::from_secs(120);
/// How long clients write before the primary is taken away, and after.
const WRITING: Duration = Duration::from_secs(2);

/// Options of `stolonctl playground migration`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
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
    let end = tokio::select! {
        () = stop.cancelled() => End::Interrupted,
        outcome = migrate(&mut playground, args, &mut checks, &mut legacy) => {
            outcome.map_or_else(End::Early, |()| End::Complete)
        }
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

async fn migrate(
    playground: &mut Playground,
    args: &Args,
    checks: &mut Checks,
    running: &mut Option<Legacy>,
) -> anyhow::Result<()> {
    let mut steps = Steps::new(&playground.layout.logs());
    steps.begin(&format!("legacy PostgreSQL with pgbench data, scale {}", args.scale));
    let legacy = running.insert(Legacy::start(&playground.layout).await?);
    legacy.fill(&playground.layout, args.scale).await?;
    let before = Fingerprint::take(&legacy.application()).await?;
    steps.end(&format!("{}, {}", before.summary(), legacy.describe().await?));

    steps.begin("sentinel, keepers and proxy, waiting for a cluster");
    playground.start_programs(None)?;
    all_keepers_report(playground).await?;
    steps.end("all keepers report");

    initialise(playground, args, legacy, &mut steps).await?;

    steps.begin("copying");
    let target = playground.proxy_target();
    let mut progress = Progress::new();
    let copied = progress.follow(&playground.store, until_writable(&target));
    within(LIMIT, "the database to take writes", copied).await?;
    steps.end("the database takes writes through the proxy");

    checks_after_copy(&target, &before, args, checks, &mut steps).await?;
    let standbys = usize::from(playground.args.keepers) - 1;
    steps.begin("second keeper");
    let streaming = progress.follow(&playground.store, until_streaming(&target, standbys));
    let streaming = within(LIMIT, "the standbys to stream", streaming).await;
    checks.await_end("second keeper", "streams from the primary", streaming)?;
    steps.end(&format!("{standbys} streaming"));

    make_synchronous(playground, &mut steps).await?;
    let old = lose_primary(playground, checks, &mut steps).await?;
    compare_once_more(playground, &before, old, checks, &mut steps).await
}

/// `stolonctl init` and `stolonctl update --patch`, as the documentation gives them.
async fn initialise(
    playground: &mut Playground,
    args: &Args,
    legacy: &Legacy,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    let port = legacy.server.port.to_string();
    let spec = json!({
        "initMode": "pitr",
        "pitrConfig": {
            "dataRestoreCommand": format!(
                "PGPASSWORD={} {} -D %d -P -h 127.0.0.1 -p {port} -U stolon -X stream --checkpoint=fast",
                playground.layout.credentials.superuser_password,
                playground.layout.pg_bin.join("pg_basebackup").display(),
            ),
            "archiveRecoverySettings": { "restoreCommand": "echo 1" },
        },
    });
    steps.begin("stolonctl init --yes '{\"initMode\":\"pitr\",\"pitrConfig\":{\"dataRestoreCommand\":\"… pg_basebackup …\"}}'");
    steps::stolonctl(&playground.layout, &["init", "--yes", &spec.to_string()]).await?;
    steps.end("done");

    let mut patch = json!({
        "sleepInterval": "1s",
        "requestTimeout": "5s",
        "failInterval": "5s",
        "proxyCheckInterval": "1s",
        "proxyTimeout": "3s",
        "usePgrewind": true,
    });
    if !args.no_parameters {
        patch["pgParameters"] = json!({
            "max_connections": "300",
            "max_prepared_transactions": "100",
            "shared_preload_libraries": "pg_stat_statements",
        });
    }
    steps.begin(&format!("stolonctl update --patch '{patch}'"));
    steps::stolonctl(&playground.layout, &["update", "--patch", &patch.to_string()]).await?;
    steps.end("done");
    Ok(())
}

async fn checks_after_copy(
    target: &Target,
    before: &Fingerprint,
    args: &Args,
    checks: &mut Checks,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    steps.begin("comparing row counts and checksums through the proxy");
    let application = target.database(legacy::DATABASE);
    let copy = Fingerprint::take(&application).await?;
    before.compare(&copy, "after the copy", checks);
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
    steps.end("done");
    Ok(())
}

/// Let commits wait for a standby, so that a failover can lose nothing. With `minSynchronousStandbys` 0 the cluster
/// goes on with the one keeper that is left when the other one is lost.
async fn make_synchronous(playground: &mut Playground, steps: &mut Steps) -> anyhow::Result<()> {
    let patch = json!({ "synchronousReplication": true, "minSynchronousStandbys": 0 }).to_string();
    steps.begin(&format!("stolonctl update --patch '{patch}'"));
    steps::stolonctl(&playground.layout, &["update", "--patch", &patch]).await?;
    let store = playground.store.clone();
    within(LIMIT, "a synchronous standby", async {
        loop {
            if let Ok(view) = View::look(&store).await
                && let Some(primary) = view.data.as_ref().and_then(|data| data.primary())
                && primary.status.current_generation >= primary.generation
                && primary.status.synchronous_standbys.iter().flatten().next().is_some()
                && primary.spec.synchronous_replication
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await?;
    steps.end("a standby is in sync");
    Ok(())
}

/// `kill -9` of the primary's whole process tree under writing clients. Returns the number of its keeper, which
/// runs a standby in the end.
async fn lose_primary(
    playground: &mut Playground,
    checks: &mut Checks,
    steps: &mut Steps,
) -> anyhow::Result<usize> {
    let target = playground.proxy_target();
    let (primary, number) = primary(playground).await?;
    steps.begin(&format!("kill -9 of {primary} and its PostgreSQL, under writing clients"));
    let writes = Writes {
        target: target.clone(),
        clients: 4,
        pause: Duration::from_millis(2),
        limit: Duration::from_secs(20),
    };
    steps.say(&format!("{} clients write for {} s before the kill", writes.clients, WRITING.as_secs()));
    let writing = writes.start().await?;
    tokio::time::sleep(WRITING).await;
    let pid = playground.supervisor.pid(primary.as_str()).context("the primary's keeper does not run")?;
    playground.supervisor.hold(primary.as_str());
    let killed = kill_tree(Some(pid), &playground.layout.keeper_directory(number)).await;
    let died = Instant::now();
    let promised = writing.acknowledged();
    steps.say(&format!("{killed} processes killed, waiting for writes to come back"));
    let back = async {
        while writing.last_acknowledged().is_none_or(|last| last < died) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if let Err(error) = within(WITHOUT_WRITES, "writes to come back", back).await {
        let error = error.context(format!("the last answer to a client was: {}", writing.last_failure()));
        checks.await_end("failover", "", Err(error))?;
    }
    steps.say(&format!("writes are back, clients go on for {} s", WRITING.as_secs()));
    tokio::time::sleep(WRITING).await;
    let ledger = writing.stop().await;
    let gap = ledger.longest_gap(died).map_or(Duration::ZERO, |(before, after)| after - before);
    steps.end(&format!("{:.1} s without writes", gap.as_secs_f64()));

    let verdict = ledger.check(&target).await?;
    checks.note(
        "failover",
        &format!("{:.1} s without writes, at most {}", gap.as_secs_f64(), WITHOUT_WRITES.as_secs()),
        gap <= WITHOUT_WRITES,
    );
    checks.note(
        "acknowledged rows",
        &format!(
            "{} promised ({promised} before the kill), {} lost, {} of {} doubtful ones present",
            verdict.acknowledged,
            verdict.lost.len(),
            verdict.unknown_present,
            ledger.unknown.len()
        ),
        verdict.lost.is_empty() && verdict.unexpected.is_empty() && promised > 0,
    );
    let (successor, _) = self::primary(playground).await?;
    checks.note("new primary", &format!("{successor}, before it was {primary}"), successor != primary);
    rejoin(playground, &primary, checks, steps).await?;
    Ok(number)
}

async fn rejoin(
    playground: &mut Playground,
    old: &KeeperUid,
    checks: &mut Checks,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    steps.begin(&format!("{old} comes back"));
    playground.supervisor.release(old.as_str())?;
    let target = playground.proxy_target();
    let standbys = usize::from(playground.args.keepers) - 1;
    let streaming = within(LIMIT, "the old primary to stream", until_streaming(&target, standbys)).await;
    checks.await_end("old primary", "is a standby of the new one", streaming)?;
    steps.end("it streams from the new primary");
    Ok(())
}

/// The data on the new primary, and on the old one, which is a standby now.
async fn compare_once_more(
    playground: &Playground,
    before: &Fingerprint,
    old: usize,
    checks: &mut Checks,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    steps.begin("comparing once more, on the new primary and on the old one");
    let new = playground.proxy_target().database(legacy::DATABASE);
    before.compare(&Fingerprint::take(&new).await?, "after the failover", checks);
    let session = new.connect(QUERY).await?;
    let (next, last) = (
        session.value("select nextval('orders_id_seq')", QUERY).await?,
        session.value("select max(id) from orders", QUERY).await?,
    );
    let goes_on = matches!((next.parse::<i64>(), last.parse::<i64>()), (Ok(next), Ok(last)) if next > last);
    checks.note("orders_id_seq", &format!("goes on with {next}, the last id is {last}"), goes_on);
    let written = session.value("select pg_current_wal_lsn()", QUERY).await?;
    let old = playground.keeper_target(old)?.database(legacy::DATABASE);
    within(LIMIT, "the old primary to replay what the new one wrote", until_replayed(&old, &written)).await?;
    before.compare(&Fingerprint::take(&old).await?, "on the old primary", checks);
    steps.end("done");
    Ok(())
}

/// The keeper with the primary, and its number.
async fn primary(playground: &Playground) -> anyhow::Result<(KeeperUid, usize)> {
    let view = View::look(&playground.store).await?;
    let keeper = view.primary_keeper().context("there is no primary")?.clone();
    let number = keeper.as_str().trim_start_matches("keeper").parse().context("an unknown keeper")?;
    Ok((keeper, number))
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
