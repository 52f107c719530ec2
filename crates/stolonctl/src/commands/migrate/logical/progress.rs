//! How far the cluster is, table by table (PostgreSQL manual, `pg_subscription_rel`).

use serde::Serialize;
use stolon_postgres::foreign::{ForeignProblem, ForeignSession};
use stolon_postgres::quote::sql_literal;

use super::super::flow::{Database, Flow, databases, each_gently, own_subscription};
use super::super::legacy::trouble;
use super::definitions;

/// A table that does not follow yet.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Its database.
    pub database: String,
    /// Its name.
    pub table: String,
    /// `waits`, `is copied`, `catches up`, `is there`.
    pub state: &'static str,
    /// What the cluster has of it.
    pub bytes: u64,
}

/// The state of a table whose rows are there, and that the worker of its database has not come to yet.
const COPIED: &str = "is there";

/// How far all of them are.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Those that do not follow yet.
    pub tables: Vec<Table>,
    /// How many do.
    pub ready: u64,
    /// How many there are.
    pub total: u64,
    /// What the cluster has of all of them, in bytes.
    pub copied: u64,
    /// What the legacy server has of all of them, in bytes.
    pub bytes: u64,
    /// Databases whose indexes, foreign keys and so on are still to be made.
    pub unfinished: Vec<String>,
    /// Databases that take nothing yet.
    pub unsubscribed: Vec<String>,
    /// What did not work.
    pub problems: Vec<String>,
    /// What was defined anew on the legacy server.
    pub changes: Vec<String>,
}

impl Progress {
    /// Every row is there that was there at the beginning, and what was written since comes.
    pub fn is_copied(&self) -> bool {
        self.tables.is_empty() && self.unsubscribed.is_empty()
    }

    /// Every row is there that was there at the beginning. A table of which that is all has no worker of its own any more, and follows as soon as
    /// the one of its database has come to where the copy ended.
    pub fn has_all_rows(&self) -> bool {
        self.tables.iter().all(|table| table.state == COPIED) && self.unsubscribed.is_empty()
    }

    fn and(mut self, other: Progress) -> Progress {
        self.tables.extend(other.tables);
        self.ready += other.ready;
        self.total += other.total;
        self.copied += other.copied;
        self.bytes += other.bytes;
        self.unfinished.extend(other.unfinished);
        self.unsubscribed.extend(other.unsubscribed);
        self.problems.extend(other.problems);
        self.changes.extend(other.changes);
        self
    }

    /// Whether nothing is to be made any more before a switch.
    pub fn is_complete(&self) -> bool {
        self.is_copied() && self.unfinished.is_empty()
    }
}

/// Whether definitions are compared, too, which takes longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Only how many rows are there.
    Rows,
    /// Also whether something was defined anew on the legacy server since.
    Definitions,
}

/// Look at both sides.
///
/// # Errors
/// One of them does not answer.
pub async fn read(flow: &Flow<'_>, depth: Depth) -> anyhow::Result<Progress> {
    let cannot = |problem: ForeignProblem| trouble("it cannot be told how far the copy is", &problem);
    let session = flow.from.enter(None).await.map_err(cannot)?;
    let databases = databases(&session, &flow.from.question()).await.map_err(cannot)?;
    let parts = each_gently(&databases, async |database| of_database(flow, database, depth).await);
    Ok(parts.await.map_err(cannot)?.into_iter().fold(Progress::default(), Progress::and))
}

async fn of_database(flow: &Flow<'_>, database: &Database, depth: Depth) -> Result<Progress, ForeignProblem> {
    let mut progress = Progress::default();
    let from = flow.from.enter(Some(&database.name)).await?;
    let to = match flow.to.enter(Some(&database.name)).await {
        // `invalid_catalog_name`: it was not made yet.
        Err(problem) if problem.code() == Some("3D000") => {
            progress.unsubscribed.push(database.name.clone());
            return Ok(progress);
        }
        entered => entered?,
    };
    rows_of(flow, &mut progress, database, &from, &to).await?;
    if depth == Depth::Definitions {
        let changes = changes(flow, &from, &to).await?;
        if !changes.is_empty() {
            progress.changes.push(super::schema::changed(database, &changes).message);
        }
    }
    Ok(progress)
}

async fn rows_of(
    flow: &Flow<'_>,
    progress: &mut Progress,
    database: &Database,
    from: &ForeignSession,
    to: &ForeignSession,
) -> Result<(), ForeignProblem> {
    let (limit, name) = (flow.from.question(), sql_literal(&flow.name()));
    let ours = own_subscription(&flow.name());
    let state = format!(
        "SELECT (SELECT count(*) FROM pg_subscription s WHERE {ours}), (SELECT count(*) FROM pg_namespace WHERE nspname = {name}), \
         current_setting('server_version_num')::int / 10000"
    );
    let rows = to.rows(&state, &limit).await?;
    let text = |at| rows.first().and_then(|row| row.get(at)).unwrap_or_default();
    if text(0) == "0" {
        progress.unsubscribed.push(database.name.clone());
        return Ok(());
    }
    if text(1) != "0" {
        progress.unfinished.push(database.name.clone());
    }
    let tables = format!(
        "SELECT r.srrelid::regclass, r.srsubstate, pg_table_size(r.srrelid) FROM pg_subscription_rel r \
         JOIN pg_subscription s ON s.oid = r.srsubid WHERE {ours} ORDER BY 1"
    );
    for row in to.rows(&tables, &limit).await? {
        let bytes = row.get(2).and_then(|text| text.parse().ok()).unwrap_or(0);
        progress.total += 1;
        progress.copied += bytes;
        let state = match row.get(1).unwrap_or_default() {
            "r" => {
                progress.ready += 1;
                continue;
            }
            "i" => "waits",
            "d" => "is copied",
            "s" => COPIED,
            _ => "catches up",
        };
        let table = row.get(0).unwrap_or_default().to_owned();
        progress.tables.push(Table { database: database.name.clone(), table, state, bytes });
    }
    let bytes = format!(
        "SELECT coalesce(sum(pg_table_size(prrelid)), 0) FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = {name}"
    );
    progress.bytes +=
        from.value(&bytes, &limit).await?.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    if text(2).parse::<u32>().is_ok_and(|major| major >= 15) {
        let failed = format!(
            "SELECT apply_error_count + sync_error_count FROM pg_stat_subscription_stats t JOIN pg_subscription s ON s.oid = t.subid WHERE {ours}"
        );
        let failed = to.value(&failed, &limit).await?.filter(|count| count != "0");
        if let Some(count) = failed {
            progress.problems.push(format!(
                "rows of database {} could not be taken {count} times; the log of the cluster's PostgreSQL says why",
                database.name
            ));
        }
    }
    Ok(())
}

/// What was defined anew on the legacy server since the schema was copied.
///
/// # Errors
/// One of the servers does not answer.
pub async fn changes(
    flow: &Flow<'_>,
    from: &ForeignSession,
    to: &ForeignSession,
) -> Result<Vec<String>, ForeignProblem> {
    let limit = flow.from.question();
    let sql = format!(
        "SELECT obj_description(s.oid, 'pg_subscription') FROM pg_subscription s WHERE {}",
        own_subscription(&flow.name())
    );
    let known = to.value(&sql, &limit).await?.and_then(|text| definitions::remarked(&text));
    let Some(known) = known else { return Ok(Vec::new()) };
    Ok(definitions::changes(&known, &definitions::read(from, &limit).await?))
}

/// What keeps the cluster from taking over, by what it has and has not.
///
/// # Errors
/// A server does not answer.
pub async fn obstacles(flow: &Flow<'_>) -> anyhow::Result<Vec<String>> {
    let progress = read(flow, Depth::Definitions).await?;
    let mut obstacles = progress.changes.clone();
    if !progress.is_complete() {
        obstacles.push(format!(
            "the copy is not complete: {} of {} tables follow; stolonctl migrate start goes on with it",
            progress.ready, progress.total
        ));
    }
    Ok(obstacles)
}

/// For people, in a line.
pub fn sentence(progress: &Progress) -> String {
    let busy: Vec<String> = progress
        .tables
        .iter()
        .filter(|table| table.state != "waits")
        .map(|table| table.table.clone())
        .collect();
    let now = if busy.is_empty() { String::new() } else { format!(", now {}", super::schema::shown(&busy)) };
    format!("{} of {} tables follow{now}", progress.ready, progress.total)
}
