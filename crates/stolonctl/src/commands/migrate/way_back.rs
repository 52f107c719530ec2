//! The way back: from the switch on, what is written to the cluster goes to the legacy server too, by logical replication
//! (PostgreSQL manual, "Logical Replication"), so that it can take over again.

use std::time::Duration;

use secrecy::ExposeSecret;
use stolon_model::{ByteCount, Lsn, Migration, Timeline};
use stolon_postgres::conninfo::Place;
use stolon_postgres::foreign::{self, ForeignProblem, ForeignSession};
use stolon_postgres::quote::{self, sql_identifier, sql_literal};
use stolon_runtime::Failure;
use tokio::time::Instant;

use super::head::Head;
use super::legacy::{Legacy, trouble};
use super::wait::{Seen, until};

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// Types that PostgreSQL cannot compare: rows of a table without a key could not be found again by them.
const INCOMPARABLE: &str = "('json', 'xml', 'point', 'line', 'lseg', 'box', 'path', 'polygon', 'circle', 'txid_snapshot', 'pg_snapshot')";

/// Tables of applications whose rows have no key.
const WITHOUT_KEY: &str = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
    AND c.relreplident IN ('d', 'n') AND NOT (c.relreplident = 'd' AND EXISTS \
    (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary))";

/// Whether there is to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// What the cluster writes goes to the legacy server too.
    WayBack,
    /// The legacy server is left behind.
    NoWayBack,
}

/// The way back of one migration.
pub struct WayBack<'a> {
    /// Where it leads.
    pub legacy: &'a Legacy,
    /// Where on the legacy server's side it is connected to.
    pub place: &'a Place,
    /// From where.
    pub head: &'a Head,
    /// Uid of the migration.
    pub uid: &'a str,
    /// The timeline of the cluster on which it was made; none: it was not yet, or is not known.
    timeline: Option<Timeline>,
}

/// How far the legacy server is behind the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// So many bytes of WAL.
    Bytes(u64),
    /// It does not take anything now.
    Idle,
    /// The slots are gone, with what they kept for it; or they are left over from before a failover: meanwhile nobody has kept the catalog
    /// rows that decoding needs.
    Gone,
}

fn gone() -> Failure {
    Failure::new("the way back is gone: the cluster has failed over since the switch")
        .hint("stolonctl migrate finish removes what is left of it")
}

/// The timeline that a primary writes.
const TIMELINE: &str = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int";

/// A database, and the number that its slot has in its name.
struct Database {
    oid: String,
    name: String,
}

impl<'a> WayBack<'a> {
    /// That of a migration, as its record says.
    pub fn of(migration: &'a Migration, legacy: &'a Legacy, place: &'a Place, head: &'a Head) -> WayBack<'a> {
        let timeline = Some(migration.way_back_timeline).filter(|timeline| *timeline != Timeline::default());
        WayBack { legacy, place, head, uid: &migration.uid, timeline }
    }

    fn name(&self) -> String {
        name(self.uid)
    }

    fn slot(&self, database: &Database) -> String {
        format!("{}_{}", self.name(), database.oid)
    }

    /// Which slots are its own, and good.
    fn own_slots(&self) -> String {
        let names = self.named_slots();
        match self.timeline {
            None => names,
            Some(Timeline(timeline)) => format!("{names} AND {TIMELINE} = {timeline}"),
        }
    }

    /// Which slots have its name.
    fn named_slots(&self) -> String {
        format!("slot_name LIKE '{}\\_%'", self.name().replace('_', "\\_"))
    }

    async fn in_cluster(&self, database: Option<&str>) -> Result<ForeignSession, ForeignProblem> {
        self.head.connect(self.legacy, self.place, database).await
    }

    /// On the promoted head, before any client writes: what is written from then on is kept for the legacy server. Returns the timeline
    /// on which it is.
    ///
    /// # Errors
    /// The head does not answer, or has no room for the slots.
    pub async fn prepare(&self) -> anyhow::Result<Timeline> {
        let cannot =
            |problem: ForeignProblem| trouble("the way back cannot be made on the cluster", &problem);
        let (limit, name) = (self.legacy.question(), sql_identifier(&self.name()));
        let session = self.in_cluster(None).await.map_err(cannot)?;
        for database in databases(&session, self.legacy).await.map_err(cannot)? {
            let session = self.in_cluster(Some(&database.name)).await.map_err(cannot)?;
            let tables = format!("SELECT format('%I.%I', n.nspname, c.relname) {WITHOUT_KEY} ORDER BY 1");
            let tables = column(&session.rows(&tables, &limit).await.map_err(cannot)?);
            let mut sql: String =
                tables.iter().map(|table| format!("ALTER TABLE {table} REPLICA IDENTITY FULL; ")).collect();
            // So that it is known later which tables had none before.
            let remark = sql_literal(&tables.join("\n"));
            sql.push_str(&format!(
                "CREATE PUBLICATION {name} FOR ALL TABLES; COMMENT ON PUBLICATION {name} IS {remark}"
            ));
            session.rows(&sql, &limit).await.map_err(cannot)?;
            let slot = sql_literal(&self.slot(&database));
            let sql = format!("SELECT pg_create_logical_replication_slot({slot}, 'pgoutput')");
            session.rows(&sql, &limit).await.map_err(cannot)?;
        }
        // In the session from before: a failover meanwhile would have ended it.
        let timeline = session.value(&format!("SELECT {TIMELINE}"), &limit).await.map_err(cannot)?;
        let timeline = timeline.and_then(|text| text.parse().ok()).map(Timeline);
        timeline.ok_or_else(|| Failure::new("the cluster does not say which timeline it writes").into())
    }

    /// On the legacy server, behind its fence: have it take what the cluster writes.
    ///
    /// # Errors
    /// It does not answer, or cannot connect to the head.
    pub async fn subscribe(&self) -> anyhow::Result<()> {
        let cannot =
            |problem: ForeignProblem| trouble("the way back cannot be made on the legacy server", &problem);
        let limit = self.legacy.question();
        let session = self.legacy.connect_past_fence().await.map_err(cannot)?;
        let name = self.name();
        for database in databases(&session, self.legacy).await.map_err(cannot)? {
            let session = self.legacy.database_past_fence(&database.name).await.map_err(cannot)?;
            // The catalog is shared by all databases.
            let known = format!(
                "SELECT count(*) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
                 WHERE d.datname = current_database() AND s.subname = {}",
                sql_literal(&name)
            );
            if session.value(&known, &limit).await.map_err(cannot)?.as_deref() != Some("0") {
                continue;
            }
            let conninfo = sql_literal(&self.conninfo(&database).map_err(cannot)?);
            let (name, slot) = (sql_identifier(&name), sql_literal(&self.slot(&database)));
            // The connection string holds the password: no log of the server shows it.
            let sql = format!(
                "SET LOCAL log_statement = none; SET LOCAL log_min_duration_statement = -1; SET LOCAL log_min_error_statement = panic; \
                 CREATE SUBSCRIPTION {name} CONNECTION {conninfo} PUBLICATION {name} \
                 WITH (create_slot = false, slot_name = {slot}, copy_data = false)"
            );
            session.rows(&sql, &limit).await.map_err(cannot)?;
        }
        Ok(())
    }

    /// How the legacy server connects to the head. Its catalog keeps the password, where superusers alone can read it.
    fn conninfo(&self, database: &Database) -> Result<String, ForeignProblem> {
        let source = &self.legacy.conninfo;
        let password = foreign::password(source, self.place, &database.name)?;
        let password = password.as_ref().map_or("", |password| password.expose_secret());
        let place = self.head.place();
        Ok(quote::conninfo([
            ("host", place.host.as_str()),
            ("port", place.port.as_str()),
            ("dbname", database.name.as_str()),
            ("user", source.get("user").unwrap_or_default()),
            ("password", password),
            ("sslmode", source.get("sslmode").unwrap_or_default()),
            ("application_name", self.name().as_str()),
        ]))
    }

    /// How far the legacy server is behind.
    ///
    /// # Errors
    /// The head does not answer.
    pub async fn lag(&self) -> Result<Lag, ForeignProblem> {
        let sql = format!(
            "SELECT count(*), bool_and(active), max(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn))::bigint \
             FROM pg_replication_slots WHERE {}",
            self.own_slots()
        );
        let session = self.in_cluster(None).await?;
        let rows = session.rows(&sql, &self.legacy.question()).await?;
        let row = rows.first().map(|row| (row.get(0), row.get(1), row.get(2)));
        Ok(match row {
            None | Some((Some("0") | None, ..)) => Lag::Gone,
            Some((_, Some("t"), Some(lag))) => Lag::Bytes(lag.parse().unwrap_or(0)),
            Some(_) => Lag::Idle,
        })
    }

    /// Until the legacy server takes what the cluster writes, and has taken most of it.
    ///
    /// # Errors
    /// The head does not answer, the slots are gone, or it has not by the deadline.
    pub async fn until_near(&self, near: u64, deadline: Instant) -> anyhow::Result<()> {
        until(POLL, deadline, async || {
            let lag = self.lag().await.map_err(|problem| trouble("the cluster cannot be asked", &problem))?;
            Ok(match lag {
                Lag::Bytes(lag) if lag <= near => Seen::Done(()),
                Lag::Gone => return Err(gone().into()),
                Lag::Bytes(lag) => {
                    let lag = ByteCount(lag);
                    Seen::not_yet(
                        Failure::new(format!("the legacy server is {lag} behind"))
                            .hint("nothing was changed; stolonctl migrate status shows how far it is"),
                    )
                }
                Lag::Idle => Seen::not_yet(
                    Failure::new("the legacy server takes nothing from the cluster now")
                        .hint("nothing was changed; the log of the legacy server says why"),
                ),
            })
        })
        .await
    }

    /// Until the legacy server has taken everything before a position of the cluster.
    ///
    /// # Errors
    /// The head does not answer, a slot is gone, or it has not by the deadline.
    pub async fn until_taken(
        &self,
        session: &ForeignSession,
        end: Lsn,
        deadline: Instant,
    ) -> anyhow::Result<()> {
        let sql = format!(
            "SELECT count(*), count(*) FILTER (WHERE confirmed_flush_lsn >= '{end}') FROM pg_replication_slots \
             WHERE {}",
            self.own_slots()
        );
        until(POLL, deadline, async || {
            let rows = session.rows(&sql, &self.legacy.question()).await;
            let rows = rows.map_err(|problem| trouble("the cluster cannot be asked", &problem))?;
            let counts = rows.first().map(|row| (row.get(0).unwrap_or("0"), row.get(1).unwrap_or("0")));
            match counts {
                Some(("0", _)) | None => Err(gone().into()),
                Some((all, taken)) if all == taken => Ok(Seen::Done(())),
                Some(_) => {
                    Ok(Seen::not_yet(Failure::new("the legacy server has not taken everything in time")))
                }
            }
        })
        .await
    }

    /// Sequences are not replicated: the legacy server's go on where those of the cluster are.
    ///
    /// # Errors
    /// Either side does not answer.
    pub async fn carry_sequences(&self) -> anyhow::Result<()> {
        const LIST: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n \
            ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND c.relpersistence = 'p'";
        let cannot = |problem: ForeignProblem| trouble("sequences cannot be carried back", &problem);
        let limit = self.legacy.question();
        let session = self.in_cluster(None).await.map_err(cannot)?;
        for database in databases(&session, self.legacy).await.map_err(cannot)? {
            let from = self.in_cluster(Some(&database.name)).await.map_err(cannot)?;
            let names = column(&from.rows(LIST, &limit).await.map_err(cannot)?);
            if names.is_empty() {
                continue;
            }
            let each = names.iter().map(|name| {
                format!("SELECT {} AS name, last_value, is_called FROM {name}", sql_literal(name))
            });
            let each = each.collect::<Vec<_>>().join(" UNION ALL ");
            let rows = from.rows(&each, &limit).await.map_err(cannot)?;
            let set = rows.iter().map(|row| {
                let text = |at| row.get(at).unwrap_or_default();
                let called = if text(2) == "t" { "true" } else { "false" };
                format!("SELECT setval({}::regclass, {}, {called})", sql_literal(text(0)), text(1))
            });
            let to = self.legacy.database_past_fence(&database.name).await.map_err(cannot)?;
            to.rows(&set.collect::<Vec<_>>().join("; "), &limit).await.map_err(cannot)?;
        }
        Ok(())
    }

    /// Remove its slots from the head alone: a former primary would keep WAL for them for ever.
    ///
    /// # Errors
    /// The head does not answer.
    pub async fn drop_slots(&self) -> anyhow::Result<()> {
        let cannot =
            |problem: ForeignProblem| trouble("the way back cannot be removed from the cluster", &problem);
        let session = self.in_cluster(None).await.map_err(cannot)?;
        let sql = format!("SELECT slot_name FROM pg_replication_slots WHERE {}", self.named_slots());
        for slot in column(&session.rows(&sql, &self.legacy.question()).await.map_err(cannot)?) {
            super::abort::drop_slot(&session, self.legacy, &slot).await?;
        }
        Ok(())
    }

    /// Remove what was made for it on the cluster.
    ///
    /// # Errors
    /// The head does not answer.
    pub async fn remove_from_cluster(&self) -> anyhow::Result<()> {
        let cannot =
            |problem: ForeignProblem| trouble("the way back cannot be removed from the cluster", &problem);
        self.drop_slots().await?;
        let limit = self.legacy.question();
        let session = self.in_cluster(None).await.map_err(cannot)?;
        let name = self.name();
        for database in databases(&session, self.legacy).await.map_err(cannot)? {
            let session = self.in_cluster(Some(&database.name)).await.map_err(cannot)?;
            let remark = format!(
                "SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = {}",
                sql_literal(&name)
            );
            let rows = session.rows(&remark, &limit).await.map_err(cannot)?;
            let Some(row) = rows.first() else { continue };
            let tables = row.get(0).unwrap_or_default().lines();
            let mut sql: String = tables
                .map(|table| format!("ALTER TABLE IF EXISTS {table} REPLICA IDENTITY DEFAULT; "))
                .collect();
            sql.push_str(&format!("DROP PUBLICATION {}", sql_identifier(&name)));
            session.rows(&sql, &limit).await.map_err(cannot)?;
        }
        Ok(())
    }
}

/// Remove what was made for it on the legacy server. Nothing was: nothing is done.
///
/// # Errors
/// The server does not answer.
pub async fn remove_from_legacy(legacy: &Legacy, uid: &str) -> anyhow::Result<()> {
    let cannot =
        |problem: ForeignProblem| trouble("the way back cannot be removed from the legacy server", &problem);
    let limit = legacy.question();
    let session = legacy.connect_past_fence().await.map_err(cannot)?;
    let where_it_is = format!(
        "SELECT d.oid, d.datname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE s.subname = {}",
        sql_literal(&name(uid))
    );
    let name = sql_identifier(&name(uid));
    for row in session.rows(&where_it_is, &limit).await.map_err(cannot)? {
        let session = legacy.database_past_fence(row.get(1).unwrap_or_default()).await.map_err(cannot)?;
        for sql in [
            format!("ALTER SUBSCRIPTION {name} DISABLE"),
            format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"),
            format!("DROP SUBSCRIPTION {name}"),
        ] {
            session.rows(&sql, &limit).await.map_err(cannot)?;
        }
    }
    Ok(())
}

/// The name of everything that is made for it.
fn name(uid: &str) -> String {
    format!("migration_{uid}")
}

/// Why there can be no way back, by what the legacy server holds: tables whose rows could not be found again, and large objects.
///
/// # Errors
/// It does not answer.
pub async fn obstacles(session: &ForeignSession, legacy: &Legacy) -> Result<Vec<String>, ForeignProblem> {
    let mut found = Vec::new();
    let limit = legacy.question();
    for database in databases(session, legacy).await? {
        let session = legacy.database_past_fence(&database.name).await?;
        let tables = format!(
            "SELECT format('%I.%I', n.nspname, c.relname) {WITHOUT_KEY} AND EXISTS (SELECT FROM pg_attribute a \
             JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             AND t.typname IN {INCOMPARABLE}) ORDER BY 1"
        );
        for table in column(&session.rows(&tables, &limit).await?) {
            found.push(format!(
                "table {table} of database {} has no key, and a column that cannot be compared",
                database.name
            ));
        }
        let large = session.value("SELECT count(*) FROM pg_largeobject_metadata", &limit).await?;
        if large.as_deref() != Some("0") {
            found.push(format!("database {} holds large objects, which are not replicated", database.name));
        }
    }
    Ok(found)
}

/// The databases that hold something of applications.
async fn databases(session: &ForeignSession, legacy: &Legacy) -> Result<Vec<Database>, ForeignProblem> {
    const SQL: &str =
        "SELECT oid, datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY oid";
    let rows = session.rows(SQL, &legacy.question()).await?;
    let text = |row: &tokio_postgres::SimpleQueryRow, at| row.get(at).unwrap_or_default().to_owned();
    Ok(rows.iter().map(|row| Database { oid: text(row, 0), name: text(row, 1) }).collect())
}

fn column(rows: &[tokio_postgres::SimpleQueryRow]) -> Vec<String> {
    rows.iter().filter_map(|row| row.get(0)).map(str::to_owned).collect()
}
