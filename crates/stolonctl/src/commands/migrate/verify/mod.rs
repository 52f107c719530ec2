//! `stolonctl migrate verify`: whether both sides have the same. Changes nothing.

mod amcheck;
mod checksum;
mod objects;
mod outcome;
mod pair;
mod side;
mod tables;

use std::process::ExitCode;

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use stolon_model::{ClusterData, Migration, MigrationStage};
use stolon_postgres::conninfo::{Conninfo, Place};
use stolon_postgres::quote::sql_literal;
use stolon_runtime::{CommonArgs, Failure, Shutdown};
use tokio_util::sync::CancellationToken;

use super::OutputArgs;
use super::legacy::{self, SourceArgs};
use crate::output::{self, Format};
use crate::pretty::to_tabbed_json;
use crate::stored_cluster::StoredCluster;

pub use objects::definitions_of_database;
use outcome::{Compared, Outcome};
use pair::{Following, Pair};
use side::{Side, Which};
use tables::Sides;

/// Flags of `migrate verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Connection string of the cluster's PostgreSQL, as a superuser and without a password; without it the legacy's user and
    /// passfile at the address of the cluster's primary, or of what is to become it
    #[arg(long, value_name = "CONNINFO")]
    target: Option<String>,

    /// Sessions on each side that sum up tables at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=32))]
    jobs: u8,

    #[command(flatten)]
    output: OutputArgs,
}

/// The answer as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    holds: bool,
    following: bool,
    compared: &'a [Compared],
}

/// Compare both sides. Exit status 0 only if everything holds.
///
/// # Errors
/// The command line is wrong, a server or the store does not answer, or a signal came.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    let format = args.output.format()?;
    let cluster = StoredCluster::open(common)?;
    let stop = shutdown.token();
    let (following, how, compared) = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Failure::new("interrupted").hint("nothing was changed").into()),
        compared = compare(&cluster, args, &stop) => compared?,
    };
    let holds = !compared.is_empty() && compared.iter().all(|row| row.outcome.is_good());
    output::result(&match format {
        Format::Text => text(&how, holds, &compared),
        Format::Json => {
            let following = following != Following::AtRest;
            format!("{}\n", to_tabbed_json(&Answer { holds, following, compared: &compared }))
        }
    })?;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn compare(
    cluster: &StoredCluster,
    args: &Args,
    stop: &CancellationToken,
) -> anyhow::Result<(Following, String, Vec<Compared>)> {
    let document = cluster.workable_document().await?.value;
    let record = document.cluster.as_ref().and_then(|it| it.status.migration.clone());
    let source = args.source.legacy(record.as_ref(), stop)?;
    let data = ClusterData::try_from(document)?;
    let side = |name, conninfo: &Conninfo, which| Side {
        name,
        conninfo: conninfo.clone(),
        which,
        cancel: stop.clone(),
    };
    let old = side("the legacy server", &source.conninfo, Which::Primary);
    let new = match &args.target {
        Some(text) => side("the cluster", &legacy::parse(text, "--target")?, Which::First),
        None => {
            let entered = match record.as_ref().map_or("", |record| record.target.as_str()) {
                "" => source.conninfo.clone(),
                target => legacy::parse(target, "the record's target")?,
            };
            let origin = entered.places().into_iter().next().unwrap_or_else(|| source.first_place());
            side("the cluster", &entered, Which::CopyOf { place: head(&data)?, origin })
        }
    };
    let (following, leads) = following(&old, &new, record.as_ref()).await?;
    let (leader, follower) = match leads {
        Leads::Cluster => (&new, &old),
        Leads::Legacy => (&old, &new),
    };
    let sides = Sides::new(leader, follower, usize::from(args.jobs));
    let compared = compare_servers(&sides, &following, record.as_ref()).await?;
    let how = match following {
        Following::Standby | Following::Subscription { .. } => {
            format!("while {} follows {}", follower.name, leader.name)
        }
        Following::AtRest => "without the one following the other: both as they were".to_owned(),
    };
    Ok((following, how, compared))
}

/// Which side is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    Legacy,
    Cluster,
}

/// Whether the cluster follows the legacy server, or that follows the cluster on the way back after the switch.
async fn following(
    legacy: &Side,
    cluster: &Side,
    record: Option<&Migration>,
) -> anyhow::Result<(Following, Leads)> {
    let session = cluster.connect("postgres").await?;
    if session.value("SELECT pg_is_in_recovery()").await? == "t" {
        return Ok((Following::Standby, Leads::Legacy));
    }
    let at_rest = (Following::AtRest, Leads::Legacy);
    let Some(record) = record.filter(|record| !record.uid.is_empty()) else { return Ok(at_rest) };
    let slots = format!("migration_{}_", record.uid);
    let known = format!(
        "SELECT count(*) > 0 FROM pg_replication_slots WHERE left(slot_name, {}) = {}",
        slots.chars().count(),
        sql_literal(&slots)
    );
    if session.value(&known).await? == "t" {
        return Ok((Following::Subscription { slots }, Leads::Cluster));
    }
    // Rows that come into the cluster do so by slots that have the same names, on the other side.
    if record.is_logical() && legacy.connect("postgres").await?.value(&known).await? == "t" {
        return Ok((Following::Subscription { slots }, Leads::Legacy));
    }
    Ok(at_rest)
}

/// The PostgreSQL that takes writes, or is to.
fn head(data: &ClusterData) -> Result<Place, Failure> {
    let head = data.primary().or_else(|| data.instances.values().next());
    let status = head.map(|head| &head.status).filter(|status| !status.listen_address.is_empty());
    let status = status.ok_or_else(|| {
        Failure::new("no keeper has reported the address of its PostgreSQL yet")
            .hint("stolonctl migrate status shows how far the copy is; --target names another server")
    })?;
    Ok(Place { host: status.listen_address.clone(), port: status.port.clone() })
}

async fn compare_servers(
    sides: &Sides<'_>,
    following: &Following,
    record: Option<&Migration>,
) -> anyhow::Result<Vec<Compared>> {
    const DATABASES: &str =
        "SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0' ORDER BY 1";
    let first = Pair::open(sides.leader, sides.follower, "postgres", following).await?;
    if *following == Following::Standby {
        first.is_a_copy().await?;
    }
    let mut compared = objects::of_server(&first).await?;
    let databases = first.leader.rows(DATABASES).await?;
    let theirs = first.follower.rows(DATABASES).await?;
    drop(first);
    let names = databases.iter().map(|row| row.get(0).unwrap_or_default());
    // One that is missing is named among the server's.
    let both = names.filter(|name| theirs.iter().any(|other| other.get(0) == Some(name)));
    let each = both.map(|name| compare_database(sides, following, name));
    let found: Vec<_> = stream::iter(each).buffered(DATABASES_AT_ONCE).try_collect().await?;
    compared.extend(found.into_iter().flatten());
    let is_written = matches!(
        record.and_then(|record| record.stage.as_ref()),
        Some(MigrationStage::Promoting | MigrationStage::Switched | MigrationStage::Finishing)
    );
    if is_written && *following == Following::AtRest {
        let why =
            "the cluster takes writes since the switch: a table that differs may only have been written";
        compared.push(Compared::of("", "moment", Outcome::Noted, why));
    }
    Ok(compared)
}

/// What a small database takes is mostly waiting, so several are looked at at the same time. Two sessions each on the side that is written to.
const DATABASES_AT_ONCE: usize = 4;

async fn compare_database(
    sides: &Sides<'_>,
    following: &Following,
    database: &str,
) -> anyhow::Result<Vec<Compared>> {
    let pair = Pair::open(sides.leader, sides.follower, database, following).await?;
    let mut compared = tables::compare(&pair, sides).await?;
    compared.extend(objects::of_database(&pair).await?);
    compared.extend(amcheck::compare(&pair).await?);
    Ok(compared)
}

/// How many differences of one row people are shown.
const SHOWN: usize = 10;

/// Tables that hold are counted, everything else has a line.
fn text(how: &str, holds: bool, compared: &[Compared]) -> String {
    let mut lines = Vec::new();
    let is_table = |row: &&Compared| row.kind == "table" && row.outcome == Outcome::Holds;
    let mut databases: Vec<&str> = compared.iter().map(|row| row.database.as_str()).collect();
    databases.sort_unstable();
    databases.dedup();
    for database in databases {
        let title = if database.is_empty() { "Server" } else { database };
        lines.push(format!("=== {title} ==="));
        let rows: Vec<&Compared> = compared.iter().filter(|row| row.database == database).collect();
        let equal: Vec<&&Compared> = rows.iter().filter(|row| is_table(row)).collect();
        if !equal.is_empty() {
            let sum: u64 = equal.iter().filter_map(|row| row.rows).sum();
            lines.push(format!("{:<8} {} tables with {sum} rows", Outcome::Holds.as_str(), equal.len()));
        }
        for row in rows.into_iter().filter(|row| !is_table(row)) {
            let what = if row.name.is_empty() { row.kind } else { &row.name };
            lines.push(format!("{:<8} {what}: {}", row.outcome.as_str(), row.found));
            lines.extend(row.differences.iter().take(SHOWN).map(|line| format!("           {line}")));
            if row.differences.len() > SHOWN {
                let more = row.differences.len() - SHOWN;
                lines.push(format!("           and {more} more: --output json has them all"));
            }
        }
    }
    lines.push(match holds {
        true => format!("\nEverything holds, {how}."),
        false => format!("\nNot everything holds, {how}."),
    });
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}
