//! Rows that flow from one side of a migration to the other by logical replication (PostgreSQL manual, "Logical Replication"): into the
//! cluster before the switch by the logical method, and back to the legacy server after it. In each database a publication and a slot
//! on the side that is written to, and a subscription on the other one, all named after the migration.

use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use secrecy::ExposeSecret;
use stolon_model::{ByteCount, Lsn, Timeline};
use stolon_postgres::conninfo::{Conninfo, Place};
use stolon_postgres::foreign::{self, ForeignProblem, ForeignSession, NO_LIBRARIES};
use stolon_postgres::limit::Limit;
use stolon_postgres::quote::{self, sql_identifier, sql_literal};
use stolon_runtime::Failure;
use tokio::time::Instant;

use super::head::Head;
use super::legacy::{Legacy, trouble};
use super::wait::{Seen, until};

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);
/// How long what waits for workers of the server may take.
const WORKERS_END: Duration = Duration::from_secs(60);

/// So many databases are worked on at the same time: each takes a session on both sides.
const AT_ONCE: usize = 8;
/// Databases whose definitions are dumped at the same time, each with up to three sessions on the legacy server.
pub const GENTLY: usize = 4;
/// So many sequences are asked for in one statement: each takes a lock, and there is room for some thousand (`max_locks_per_transaction`).
const SEQUENCES: usize = 500;

/// For a transaction whose statements hold what passwords are, or are derived from: no log of the server shows them.
pub const UNLOGGED: &str = "SET LOCAL log_statement = none; SET LOCAL log_min_duration_statement = -1; SET LOCAL log_min_error_statement = panic; ";

/// The timeline that a primary writes.
pub const TIMELINE: &str = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int";

/// One side of a migration.
#[derive(Clone, Copy)]
pub enum End<'a> {
    /// The legacy server, behind its fence where there is one.
    Legacy(&'a Legacy),
    /// The head of the cluster.
    Cluster {
        /// Where it is.
        head: &'a Head,
        /// Whose user it is entered as, unless it has one of its own.
        legacy: &'a Legacy,
        /// Where the legacy server is.
        place: &'a Place,
    },
}

impl End<'_> {
    /// A session with a database; none: the usual one.
    ///
    /// # Errors
    /// It does not let us in.
    pub async fn enter(&self, database: Option<&str>) -> Result<ForeignSession, ForeignProblem> {
        match (self, database) {
            (End::Legacy(legacy), None) => legacy.connect_past_fence().await,
            (End::Legacy(legacy), Some(database)) => legacy.database_past_fence(database).await,
            (End::Cluster { head, legacy, place }, database) => head.connect(legacy, place, database).await,
        }
    }

    fn legacy(&self) -> &Legacy {
        match self {
            End::Legacy(legacy) | End::Cluster { legacy, .. } => legacy,
        }
    }

    /// Time for one question, which a signal cuts short.
    pub fn question(&self) -> Limit {
        self.legacy().question()
    }

    /// For people.
    pub fn name(&self) -> &'static str {
        match self {
            End::Legacy(_) => "the legacy server",
            End::Cluster { .. } => "the cluster",
        }
    }

    /// How a program of PostgreSQL connects to one of its databases from here: it reads the password itself.
    pub fn conninfo_for_tools(&self, place: &Place, database: &str) -> Conninfo {
        let who = match self {
            End::Legacy(legacy) => &legacy.conninfo,
            End::Cluster { head, legacy, place } => head.entered_as(legacy, place).0,
        };
        who.with("hostaddr", "").with("host", &place.host).with("port", &place.port).with("dbname", database)
    }

    /// How another server connects to one of its databases. The catalog of that server keeps the password, where superusers alone can
    /// read it.
    fn conninfo(&self, place: &Place, database: &str, name: &str) -> Result<String, ForeignProblem> {
        let (who, password_of) = match self {
            End::Legacy(legacy) => (&legacy.conninfo, place.clone()),
            End::Cluster { head, legacy, place } => head.entered_as(legacy, place),
        };
        let password = foreign::password(who, &password_of, database)?;
        let password = password.as_ref().map_or("", |password| password.expose_secret());
        Ok(quote::conninfo([
            ("host", place.host.as_str()),
            ("port", place.port.as_str()),
            ("dbname", database),
            ("user", who.get("user").unwrap_or_default()),
            ("password", password),
            ("sslmode", who.get("sslmode").unwrap_or_default()),
            ("options", NO_LIBRARIES),
            ("application_name", name),
        ]))
    }
}

/// A database, and the number that its slot has in its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Of the side that it was read from.
    pub oid: String,
    /// Its name.
    pub name: String,
}

/// The databases of a side that hold something of applications.
///
/// # Errors
/// It does not answer.
pub async fn databases(session: &ForeignSession, limit: &Limit) -> Result<Vec<Database>, ForeignProblem> {
    const SQL: &str =
        "SELECT oid, datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY oid";
    Ok(as_databases(&session.rows(SQL, limit).await?))
}

fn as_databases(rows: &[tokio_postgres::SimpleQueryRow]) -> Vec<Database> {
    let text = |row: &tokio_postgres::SimpleQueryRow, at| row.get(at).unwrap_or_default().to_owned();
    rows.iter().map(|row| Database { oid: text(row, 0), name: text(row, 1) }).collect()
}

/// Do the same in each database, in several at the same time.
///
/// # Errors
/// That of one of them. Those that are under way then are broken off, so that each must be something that can be repeated.
pub async fn each<'d, T, E>(
    databases: &'d [Database],
    work: impl AsyncFn(&'d Database) -> Result<T, E>,
) -> Result<Vec<T>, E> {
    several(databases, AT_ONCE, work).await
}

/// The same for work that costs the servers something, before the switch and without hurry.
///
/// # Errors
/// The same.
pub async fn each_gently<'d, T, E>(
    databases: &'d [Database],
    work: impl AsyncFn(&'d Database) -> Result<T, E>,
) -> Result<Vec<T>, E> {
    several(databases, GENTLY, work).await
}

async fn several<'d, T, E>(
    databases: &'d [Database],
    at_once: usize,
    work: impl AsyncFn(&'d Database) -> Result<T, E>,
) -> Result<Vec<T>, E> {
    stream::iter(databases.iter().map(|database| work(database))).buffered(at_once).try_collect().await
}

/// The name of what is made for a migration.
pub fn name(uid: &str) -> String {
    format!("migration_{uid}")
}

/// Whether a subscription begins with a copy of the rows that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The subscriber has what the publisher had when the slot was made.
    Level,
    /// The subscriber's tables are empty.
    Copying,
}

/// How far the side that follows is behind.
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

impl Lag {
    /// None where nothing is taken.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Lag::Bytes(bytes) => Some(bytes),
            Lag::Idle | Lag::Gone => None,
        }
    }
}

/// From one side to the other.
#[derive(Clone, Copy)]
pub struct Flow<'a> {
    /// The side that is written to.
    pub from: End<'a>,
    /// The side that follows.
    pub to: End<'a>,
    /// Uid of the migration.
    pub uid: &'a str,
    /// The timeline of the side that is written to on which the slots were made: on another one they are not to be trusted. None: that is
    /// not known, or does not matter.
    pub timeline: Option<Timeline>,
}

impl Flow<'_> {
    /// The name of the publications and subscriptions.
    pub fn name(&self) -> String {
        name(self.uid)
    }

    /// The name of the slot of a database of the side that is written to.
    pub fn slot(&self, database: &Database) -> String {
        format!("{}_{}", self.name(), database.oid)
    }

    fn in_slots(&self, what: &str) -> String {
        format!("SELECT {what} FROM pg_replication_slots WHERE {}", self.own_slots())
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
    pub fn named_slots(&self) -> String {
        format!("slot_name LIKE '{}\\_%'", self.name().replace('_', "\\_"))
    }

    fn gone(&self) -> Failure {
        match self.from {
            End::Cluster { .. } => {
                Failure::new("the way back is gone: the cluster has failed over since the switch")
                    .hint("stolonctl migrate finish removes what is left of it")
            }
            End::Legacy(_) => Failure::new(
                "the replication slots on the legacy server are gone, with what they kept for the cluster",
            )
            .hint("stolonctl migrate abort, and begin anew"),
        }
    }

    fn cannot_ask(&self, problem: &ForeignProblem) -> Failure {
        trouble(&format!("{} cannot be asked", self.from.name()), problem)
    }

    /// Have the side that follows take what one database of the other one publishes. It may do so already. `as_keepers`: how it connects,
    /// where that is not as we do.
    ///
    /// # Errors
    /// It does not answer, or cannot connect to the other side.
    pub async fn subscribe(
        &self,
        database: &Database,
        place: &Place,
        begin: Begin,
        as_keepers: Option<&Conninfo>,
    ) -> Result<(), ForeignProblem> {
        let limit = self.to.legacy().within(WORKERS_END);
        let session = self.to.enter(Some(&database.name)).await?;
        let name = self.name();
        if is_subscribed(&session, &limit, &name).await? {
            return Ok(());
        }
        let conninfo = match as_keepers {
            Some(theirs) => theirs
                .with("dbname", &database.name)
                .with("application_name", &name)
                .with("options", NO_LIBRARIES)
                .to_string(),
            None => self.from.conninfo(place, &database.name, &name)?,
        };
        let (conninfo, slot) = (sql_literal(&conninfo), sql_literal(&self.slot(database)));
        let (name, copies) = (sql_identifier(&name), begin == Begin::Copying);
        // The connection string holds the password.
        let sql = format!(
            "{UNLOGGED}CREATE SUBSCRIPTION {name} CONNECTION {conninfo} PUBLICATION {name} \
             WITH (create_slot = false, slot_name = {slot}, copy_data = {copies})"
        );
        session.rows(&sql, &limit).await.map(drop)
    }

    /// How far the side that follows is behind.
    ///
    /// # Errors
    /// The other one does not answer.
    pub async fn lag(&self) -> Result<Lag, ForeignProblem> {
        let sql = self.in_slots(
            "count(*), bool_and(active), max(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn))::bigint",
        );
        let session = self.from.enter(None).await?;
        let rows = session.rows(&sql, &self.from.question()).await?;
        let row = rows.first().map(|row| (row.get(0), row.get(1), row.get(2)));
        Ok(match row {
            None | Some((Some("0") | None, ..)) => Lag::Gone,
            Some((_, Some("t"), Some(lag))) => Lag::Bytes(lag.parse().unwrap_or(0)),
            Some(_) => Lag::Idle,
        })
    }

    /// Until the side that follows takes what the other one writes, and has taken most of it.
    ///
    /// # Errors
    /// The other one does not answer, the slots are gone, or it has not by the deadline.
    pub async fn until_near(&self, near: u64, deadline: Instant) -> anyhow::Result<()> {
        let (from, to) = (self.from.name(), self.to.name());
        until(POLL, deadline, async || {
            Ok(match self.lag().await.map_err(|problem| self.cannot_ask(&problem))? {
                Lag::Bytes(lag) if lag <= near => Seen::Done(()),
                Lag::Gone => return Err(self.gone().into()),
                Lag::Bytes(lag) => Seen::not_yet(
                    Failure::new(format!("{to} is {} behind", ByteCount(lag)))
                        .hint("nothing was changed; stolonctl migrate status shows how far it is"),
                ),
                Lag::Idle => Seen::not_yet(
                    Failure::new(format!("{to} takes nothing from {from} now"))
                        .hint(format!("nothing was changed; the log of {to} says why")),
                ),
            })
        })
        .await
    }

    /// Until the side that follows has taken everything before a position of the other one. `session`: with that one.
    ///
    /// # Errors
    /// It does not answer, a slot is gone, or not everything is taken by the deadline.
    pub async fn until_taken(
        &self,
        session: &ForeignSession,
        end: Lsn,
        deadline: Instant,
    ) -> anyhow::Result<()> {
        let sql = self.in_slots(&format!("count(*), count(*) FILTER (WHERE confirmed_flush_lsn >= '{end}')"));
        until(POLL, deadline, async || {
            let rows = session.rows(&sql, &self.from.question()).await;
            let rows = rows.map_err(|problem| self.cannot_ask(&problem))?;
            match rows.first().map(|row| (row.get(0).unwrap_or("0"), row.get(1).unwrap_or("0"))) {
                Some(("0", _)) | None => Err(self.gone().into()),
                Some((all, taken)) if all == taken => Ok(Seen::Done(())),
                Some(_) => {
                    let late = format!("{} has not taken everything in time", self.to.name());
                    Ok(Seen::not_yet(Failure::new(late)))
                }
            }
        })
        .await
    }

    /// Sequences are not replicated: those of the side that follows go on where those of the other one are, or so many values later.
    ///
    /// # Errors
    /// Either side does not answer.
    pub async fn carry_sequences(&self, margin: u32) -> anyhow::Result<()> {
        let session = self.from.enter(None).await.map_err(cannot_carry)?;
        let databases = databases(&session, &self.from.question()).await.map_err(cannot_carry)?;
        drop(session);
        each(&databases, async |database| {
            let from = self.from.enter(Some(&database.name)).await.map_err(cannot_carry)?;
            let to = self.to.enter(Some(&database.name)).await.map_err(cannot_carry)?;
            self.carry_sequences_of(&from, &to, margin).await
        })
        .await
        .map(drop)
    }

    /// The same in one database, which sessions on both sides are with.
    ///
    /// # Errors
    /// Either side does not answer.
    pub async fn carry_sequences_of(
        &self,
        from: &ForeignSession,
        to: &ForeignSession,
        margin: u32,
    ) -> anyhow::Result<()> {
        const LIST: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n \
            ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND c.relpersistence = 'p' ORDER BY 1";
        let limit = self.from.question();
        let names = column(&from.rows(LIST, &limit).await.map_err(cannot_carry)?);
        for names in names.chunks(SEQUENCES) {
            let each = names.iter().map(|name| {
                format!("SELECT {} AS name, last_value, is_called FROM {name}", sql_literal(name))
            });
            let each = each.collect::<Vec<_>>().join(" UNION ALL ");
            let rows = from.rows(&each, &self.from.question()).await.map_err(cannot_carry)?;
            let set = rows.iter().map(|row| {
                let text = |at| row.get(at).unwrap_or_default();
                set_sequence(text(0), text(1), text(2) == "t", margin)
            });
            let set = set.collect::<Vec<_>>().join("; ");
            to.rows(&set, &self.from.question()).await.map_err(cannot_carry)?;
        }
        Ok(())
    }
}

fn cannot_carry(problem: ForeignProblem) -> Failure {
    trouble("sequences cannot be carried over", &problem)
}

/// Has a sequence go on where another one is. One that gave no value yet gives its first one.
fn set_sequence(name: &str, last: &str, is_called: bool, margin: u32) -> String {
    let name = sql_literal(name);
    if !is_called || margin == 0 {
        return format!("SELECT setval({name}::regclass, {last}, {is_called})");
    }
    format!(
        "SELECT setval(seqrelid, greatest(seqmin, least(seqmax, {last}::numeric + {margin} * seqincrement))::bigint, true) \
         FROM pg_sequence WHERE seqrelid = {name}::regclass"
    )
}

/// Which row of `pg_subscription s` is that of this name in this database. The catalog is shared by all databases.
pub fn own_subscription(name: &str) -> String {
    format!(
        "s.subname = {} AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
        sql_literal(name)
    )
}

/// Whether this database subscribes to what a migration publishes.
///
/// # Errors
/// The server does not answer.
pub async fn is_subscribed(
    session: &ForeignSession,
    limit: &Limit,
    name: &str,
) -> Result<bool, ForeignProblem> {
    let known = format!("SELECT count(*) FROM pg_subscription s WHERE {}", own_subscription(name));
    Ok(session.value(&known, limit).await?.as_deref() != Some("0"))
}

/// Have the subscriptions of a migration on a side take nothing any more. There are none: nothing is done.
///
/// # Errors
/// The side does not answer.
pub async fn stop_taking(end: End<'_>, uid: &str) -> anyhow::Result<()> {
    let name = sql_identifier(&name(uid));
    in_subscriptions(end, uid, &[format!("ALTER SUBSCRIPTION {name} DISABLE")]).await
}

/// Remove the subscriptions of a migration from a side. There are none: nothing is done. The slots stay.
///
/// # Errors
/// The side does not answer.
pub async fn unsubscribe(end: End<'_>, uid: &str) -> anyhow::Result<()> {
    let name = sql_identifier(&name(uid));
    let statements = [
        format!("ALTER SUBSCRIPTION {name} DISABLE"),
        format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"),
        format!("DROP SUBSCRIPTION {name}"),
    ];
    in_subscriptions(end, uid, &statements).await
}

/// In each database of a side that has a subscription of a migration.
async fn in_subscriptions(end: End<'_>, uid: &str, statements: &[String]) -> anyhow::Result<()> {
    let what = format!("subscriptions of {} cannot be changed", end.name());
    let cannot = |problem: ForeignProblem| trouble(&what, &problem);
    let limit = end.legacy().within(WORKERS_END);
    let session = end.enter(None).await.map_err(cannot)?;
    let where_it_is = format!(
        "SELECT d.oid, d.datname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE s.subname = {}",
        sql_literal(&name(uid))
    );
    let databases = as_databases(&session.rows(&where_it_is, &limit).await.map_err(cannot)?);
    drop(session);
    let changed = each(&databases, async |database| {
        let session = end.enter(Some(&database.name)).await?;
        for sql in statements {
            session.rows(sql, &end.legacy().within(WORKERS_END)).await?;
        }
        Ok::<(), ForeignProblem>(())
    });
    Ok(changed.await.map(drop).map_err(cannot)?)
}

/// The first column.
pub fn column(rows: &[tokio_postgres::SimpleQueryRow]) -> Vec<String> {
    rows.iter().filter_map(|row| row.get(0)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_goes_on_where_the_other_one_is() {
        assert_eq!(set_sequence("public.s", "7", true, 0), "SELECT setval('public.s'::regclass, 7, true)");
        let unused = "SELECT setval('public.s'::regclass, 1, false)";
        assert_eq!(set_sequence("public.s", "1", false, 32), unused, "the first value is not skipped");
        let later = set_sequence("public.s", "7", true, 32);
        assert!(
            later.contains("7::numeric + 32 * seqincrement") && later.contains("least(seqmax"),
            "{later}"
        );
    }
}
