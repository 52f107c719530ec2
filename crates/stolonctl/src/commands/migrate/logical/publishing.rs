//! What the logical method makes on the legacy server, which everybody goes on writing to, and how it goes again without a trace.
//!
//! The order is such that no update fails meanwhile: an empty publication whose remark says which tables had another replica identity, those
//! tables one by one, each with a lock that nobody waits for long, then all tables into the publication. It goes in the other direction.

use std::collections::BTreeSet;
use std::time::Duration;

use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_postgres::quote::{sql_identifier, sql_literal};
use stolon_runtime::Failure;
use tokio::time::Instant;

use super::super::abort::drop_slot;
use super::super::facts::Slot;
use super::super::flow::{Database, Flow, column, databases, name};
use super::super::identities::{self, Identity};
use super::super::legacy::{Legacy, trouble};
use super::super::wait::{Seen, until};
use crate::output;

/// SQLSTATE `lock_not_available`: `lock_timeout` passed.
const NOT_AVAILABLE: &str = "55P03";
/// How long writers may have to wait behind us.
const LOCKING: &str = "1s";
/// Between two attempts at a lock.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a table may stay locked by others.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a slot waits for transactions that were begun before.
const TRANSACTIONS: Duration = Duration::from_secs(3600);

/// Tables of users: partitions each by itself. What is of an extension comes with it.
const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1";

/// Publish a database, and keep what is written to it for the cluster. Can be repeated.
///
/// # Errors
/// The legacy server does not answer, a table is locked all the time, or there is no room for a slot.
pub async fn publish(flow: &Flow<'_>, legacy: &Legacy, database: &Database) -> anyhow::Result<()> {
    let what = format!("database {} cannot be published by the legacy server", database.name);
    let cannot = |problem: ForeignProblem| trouble(&what, &problem);
    let limit = legacy.question();
    let session = flow.from.enter(Some(&database.name)).await.map_err(cannot)?;
    let publication = sql_identifier(&flow.name());
    let identities = match identities::of_publication(&session, &limit, &flow.name()).await.map_err(cannot)? {
        Some(identities) => identities,
        None => {
            let needed = identities::needed(&session, &limit).await.map_err(cannot)?;
            let sql =
                format!("CREATE PUBLICATION {publication}; {}", identities::remark(&publication, &needed));
            session.rows(&sql, &limit).await.map_err(cannot)?;
            needed
        }
    };
    let missing = identities::needed(&session, &limit).await.map_err(cannot)?;
    let missing: BTreeSet<&str> = missing.iter().map(|identity| identity.table.as_str()).collect();
    for identity in identities.iter().filter(|identity| missing.contains(identity.table.as_str())) {
        gently(&session, legacy, identity, &identity.take_whole_rows()).await?;
    }
    let tables = column(&session.rows(TABLES, &limit).await.map_err(cannot)?);
    if !tables.is_empty() {
        let sql = format!("ALTER PUBLICATION {publication} SET TABLE ONLY {}", tables.join(", ONLY "));
        session.rows(&sql, &legacy.within(PATIENCE)).await.map_err(cannot)?;
    }
    let slot = flow.slot(database);
    if Slot::look(&session, legacy, &slot).await.map_err(cannot)? == Slot::Absent {
        let sql = format!("SELECT pg_create_logical_replication_slot({}, 'pgoutput')", sql_literal(&slot));
        session.rows(&sql, &legacy.within(TRANSACTIONS)).await.map_err(cannot)?;
    }
    output::note(&format!("database {} is published: {} tables", database.name, tables.len()));
    Ok(())
}

/// Change a table for which everybody has to wait: no attempt waits for long, since others queue behind it.
async fn gently(
    session: &ForeignSession,
    legacy: &Legacy,
    identity: &Identity,
    sql: &str,
) -> anyhow::Result<()> {
    let sql = format!("SET LOCAL lock_timeout = '{LOCKING}'; {sql}");
    let what = format!("the replica identity of table {} cannot be changed", identity.table);
    until(PAUSE, Instant::now() + PATIENCE, async || match session.rows(&sql, &legacy.question()).await {
        Ok(_) => Ok(Seen::Done(())),
        Err(problem) if problem.code() == Some(NOT_AVAILABLE) => Ok(Seen::not_yet(trouble(&what, &problem))),
        Err(problem) => Err(trouble(&what, &problem).into()),
    })
    .await
}

/// Remove from the legacy server what was made there to fill the cluster. Nothing was: nothing is done. `subscriber`: the system identifier
/// of the cluster, which slots for the copy of single tables have in their names.
///
/// # Errors
/// The server does not answer, or a table is locked all the time.
pub async fn withdraw(legacy: &Legacy, uid: &str, subscriber: Option<&str>) -> anyhow::Result<()> {
    let cannot = |problem: ForeignProblem| {
        trouble("what was made to fill the cluster cannot be removed from the legacy server", &problem)
    };
    let limit = legacy.question();
    let session = legacy.connect_past_fence().await.map_err(cannot)?;
    for slot in slots(&session, legacy, uid, subscriber).await.map_err(cannot)? {
        drop_slot(&session, legacy, &slot).await?;
    }
    let name = name(uid);
    let publication = sql_identifier(&name);
    for database in databases(&session, &limit).await.map_err(cannot)? {
        let session = legacy.database_past_fence(&database.name).await.map_err(cannot)?;
        let changed = identities::of_publication(&session, &limit, &name).await.map_err(cannot)?;
        let Some(identities) = changed else { continue };
        let published = format!(
            "SELECT prrelid::regclass FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = {}",
            sql_literal(&name)
        );
        let tables = column(&session.rows(&published, &limit).await.map_err(cannot)?);
        if !tables.is_empty() {
            let sql = format!("ALTER PUBLICATION {publication} DROP TABLE ONLY {}", tables.join(", ONLY "));
            session.rows(&sql, &legacy.within(PATIENCE)).await.map_err(cannot)?;
        }
        for identity in &identities {
            // Somebody may have given it a better one meanwhile, or removed it.
            let is_ours = format!(
                "SELECT count(*) FROM pg_class WHERE oid = to_regclass({}) AND relreplident = 'f'",
                sql_literal(&identity.table)
            );
            if session.value(&is_ours, &limit).await.map_err(cannot)?.as_deref() == Some("1") {
                gently(&session, legacy, identity, &identity.give_back()).await?;
            }
        }
        session.rows(&format!("DROP PUBLICATION {publication}"), &limit).await.map_err(cannot)?;
    }
    Ok(())
}

async fn slots(
    session: &ForeignSession,
    legacy: &Legacy,
    uid: &str,
    subscriber: Option<&str>,
) -> Result<Vec<String>, ForeignProblem> {
    let of_tables =
        subscriber.map(|identifier| format!("OR slot_name ~ '^pg_[0-9]+_sync_[0-9]+_{identifier}$'"));
    let sql = format!(
        "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'logical' AND (slot_name ~ '^{}_[0-9]+$' {})",
        name(uid),
        of_tables.unwrap_or_default()
    );
    Ok(column(&session.rows(&sql, &legacy.question()).await?))
}

/// The migrations that have something on the legacy server to fill a cluster, by their uid: for whoever lost the record.
///
/// # Errors
/// The server does not answer.
pub async fn found(session: &ForeignSession, legacy: &Legacy) -> anyhow::Result<Vec<String>> {
    let cannot = |problem: ForeignProblem| trouble("the legacy server cannot be asked", &problem);
    let limit = legacy.question();
    let mut uids = Vec::new();
    for database in databases(session, &limit).await.map_err(cannot)? {
        let session = legacy.database_past_fence(&database.name).await.map_err(cannot)?;
        let sql = "SELECT substr(pubname, 11) FROM pg_publication WHERE pubname ~ '^migration_[0-9a-f]+$'";
        uids.extend(column(&session.rows(sql, &limit).await.map_err(cannot)?));
    }
    let sql = "SELECT split_part(slot_name, '_', 2) FROM pg_replication_slots \
        WHERE slot_type = 'logical' AND slot_name ~ '^migration_[0-9a-f]+_[0-9]+$'";
    uids.extend(column(&session.rows(sql, &limit).await.map_err(cannot)?));
    uids.sort_unstable();
    uids.dedup();
    Ok(uids)
}

/// There is too little room on the legacy server for what has to be made there.
///
/// # Errors
/// The server does not answer.
pub async fn room(session: &ForeignSession, legacy: &Legacy, needed: usize) -> anyhow::Result<Vec<Failure>> {
    let cannot = |problem: ForeignProblem| trouble("the legacy server cannot be asked", &problem);
    let mut lacking = Vec::new();
    for (setting, taken) in [
        ("max_replication_slots", "SELECT count(*) FROM pg_replication_slots"),
        ("max_wal_senders", "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'"),
    ] {
        let sql = format!("SELECT current_setting('{setting}')::int - ({taken})");
        let free = session.value(&sql, &legacy.question()).await.map_err(cannot)?;
        let free: i64 = free.and_then(|text| text.parse().ok()).unwrap_or(0);
        if usize::try_from(free).unwrap_or(0) < needed {
            lacking.push(
                Failure::new(format!(
                    "{setting} of the legacy server leaves {free}, and {needed} are needed"
                ))
                .hint("raise it there, which needs a restart"),
            );
        }
    }
    Ok(lacking)
}
