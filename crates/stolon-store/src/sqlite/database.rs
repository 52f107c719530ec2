//! The file as a database: opening it, its tables, and what each operation does in them.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::location::Location;
use super::process::this_boot;
use crate::{BootInstant, Notice, Selector, StoreError};

/// `Stln`, in the header of the file, so that another database is not taken for a store.
const APPLICATION_ID: i32 = 0x5374_6c6e;
const SCHEMA_VERSION: i32 = 1;
const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);
/// For how many writes a removed key is remembered, so that watches see its removal.
const REMOVALS_KEPT: i64 = 10_000;

/// Moments count since boot, hence the column `boot` beside each of them.
const SCHEMA: &str = "
CREATE TABLE entry (
    key TEXT PRIMARY KEY,
    value BLOB,               -- NULL: removed
    revision INTEGER NOT NULL,
    boot TEXT,
    expires INTEGER           -- milliseconds since boot; NULL: never
) WITHOUT ROWID;
CREATE INDEX entry_expires ON entry (expires) WHERE expires IS NOT NULL;
CREATE TABLE counter (revision INTEGER NOT NULL);
CREATE TABLE leadership (
    place TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    token TEXT NOT NULL,
    boot TEXT NOT NULL,
    expires INTEGER NOT NULL, -- milliseconds since boot
    namespace TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL
) WITHOUT ROWID;
";

/// What must survive if the machine loses power just after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The write itself.
    PowerLoss,
    /// The consistency of the file; the last writes may be undone. For what dies with the processes anyway.
    ProcessLoss,
}

/// An open store.
pub struct Database {
    connection: Connection,
    location: Location,
    inode: (u64, u64),
    durability: Durability,
}

impl Database {
    /// Open the file, making it first if there is none.
    pub fn open(location: &Location, wait: Duration) -> Result<Self, StoreError> {
        location
            .create_if_absent(|fresh| {
                let mut connection =
                    Connection::open_with_flags(fresh, FLAGS).map_err(std::io::Error::other)?;
                prepare(&mut connection).map_err(std::io::Error::other)?;
                connection.close().map_err(|(_, error)| std::io::Error::other(error))
            })
            .map_err(|error| cannot_open(location, &error.to_string()))?;
        let inode = inode(location).map_err(|error| cannot_open(location, &error.to_string()))?;
        let connection = Connection::open_with_flags(&location.file, FLAGS)
            .map_err(|error| failure("opening the store", location, &error))?;
        let mut database =
            Database { connection, location: location.clone(), inode, durability: Durability::PowerLoss };
        database.wait_at_most(wait)?;
        prepare(&mut database.connection).map_err(|error| match error {
            Preparation::Foreign => StoreError::configuration(
                format!("{} is a database, but not one of this program", location.file.display()),
                "name another file, or one that does not exist yet, with --store-endpoints",
            ),
            Preparation::Newer(version) => StoreError::configuration(
                format!("{} was made by a newer version (its layout is {version})", location.file.display()),
                "use the same version of all programs of a cluster",
            ),
            Preparation::Unsuitable => StoreError::configuration(
                format!(
                    "the file system of {} cannot share memory between processes",
                    location.file.display()
                ),
                "put the file on a local disk",
            ),
            Preparation::Sqlite(error) => failure("opening the store", location, &error),
        })?;
        Ok(database)
    }

    /// True while the path still names the file that is open here.
    pub fn is_current(&self) -> bool {
        inode(&self.location).is_ok_and(|inode| inode == self.inode)
    }

    /// How long to wait for other processes' transactions.
    pub fn wait_at_most(&self, wait: Duration) -> Result<(), StoreError> {
        self.connection
            .busy_timeout(wait)
            .map_err(|error| failure("setting a timeout", &self.location, &error))
    }

    /// Read from one consistent view.
    pub fn read<T>(
        &mut self,
        operation: &str,
        look: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let look = |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
            let seen = look(&transaction)?;
            transaction.commit()?;
            Ok(seen)
        };
        look(&mut self.connection).map_err(|error| failure(operation, &self.location, &error))
    }

    /// Write, all or nothing. If `change` fails, nothing is written.
    pub fn write<T>(
        &mut self,
        operation: &str,
        durability: Durability,
        notice: Notice,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let location = self.location.clone();
        let fail = |error| failure(operation, &location, &error);
        self.set_durability(durability).map_err(fail)?;
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let changed = change(&transaction).map_err(fail)??;
        remove_expired(&transaction).map_err(fail)?;
        transaction.commit().map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull) => fail(error),
            _ => StoreError::Unknown { operation: operation.to_owned(), cause: error.to_string() },
        })?;
        if notice == Notice::Wake {
            self.announce();
        }
        Ok(changed)
    }

    fn set_durability(&mut self, durability: Durability) -> rusqlite::Result<()> {
        if self.durability != durability {
            let level = match durability {
                Durability::PowerLoss => "FULL",
                Durability::ProcessLoss => "NORMAL",
            };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.durability = durability;
        }
        Ok(())
    }

    /// Tell the other processes: the file's times are what their watches wait for. By path: opening and
    /// closing the file here would drop the locks that SQLite holds on it.
    fn announce(&self) {
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        if let Err(error) = utimensat(CWD, &self.location.file, &times, AtFlags::empty()) {
            tracing::warn!(%error, "cannot wake the other programs; they see the change at their next look");
        }
    }
}

/// Settings of this connection, and the tables if there are none.
fn prepare(connection: &mut Connection) -> Result<(), Preparation> {
    connection.set_prepared_statement_cache_capacity(24);
    // Small pages in memory, no memory map: programs share machines with databases.
    connection.execute_batch(
        "PRAGMA cache_size = -256; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; \
         PRAGMA synchronous = FULL;",
    )?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Preparation::Unsuitable);
    }
    connection.query_row("PRAGMA wal_autocheckpoint = 256", [], |_| Ok(()))?;
    connection.query_row("PRAGMA journal_size_limit = 2097152", [], |_| Ok(()))?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let application: i32 = transaction.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 && application == 0 {
        transaction.execute_batch(SCHEMA)?;
        // A store that is made anew in the place of an old one goes on above its revisions.
        transaction.execute("INSERT INTO counter VALUES (?1)", [first_revision()])?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    } else if application != APPLICATION_ID {
        return Err(Preparation::Foreign);
    } else if version > SCHEMA_VERSION {
        return Err(Preparation::Newer(version));
    }
    transaction.commit()?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum Preparation {
    #[error("it is another program's database")]
    Foreign,
    #[error("its layout is {0}, which is newer than this program")]
    Newer(i32),
    #[error("its file system cannot share memory between processes")]
    Unsuitable,
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

fn first_revision() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(0)
}

fn inode(location: &Location) -> std::io::Result<(u64, u64)> {
    let file = std::fs::metadata(&location.file)?;
    Ok((file.dev(), file.ino()))
}

fn cannot_open(location: &Location, cause: &str) -> StoreError {
    StoreError::Unreachable {
        cause: format!("{} cannot be opened: {cause}", location.file.display()),
        hint: format!(
            "this program runs as user {}; give the directory {} to the user that runs the keepers, \
             and let the store be made there",
            rustix::process::geteuid().as_raw(),
            location.directory.display()
        ),
    }
}

/// An error of SQLite before anything was committed.
fn failure(operation: &str, location: &Location, error: &rusqlite::Error) -> StoreError {
    let refused = |hint: String| StoreError::Refused {
        operation: operation.to_owned(),
        cause: format!("{}: {error}", location.file.display()),
        hint,
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Timeout {
            operation: operation.to_owned(),
            timeout: Duration::ZERO, // filled in by the caller, who knows it
            cause: format!("another process keeps {} locked", location.file.display()),
        },
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            cannot_open(location, &error.to_string())
        }
        Some(ErrorCode::NotADatabase) => StoreError::configuration(
            format!("{} is not a database of this program", location.file.display()),
            "name another file, or one that does not exist yet, with --store-endpoints",
        ),
        Some(ErrorCode::DiskFull) => refused("make room on that disk".to_owned()),
        Some(ErrorCode::DatabaseCorrupt) => refused(
            "the file is damaged: stop all programs, move it away, and write the cluster data anew"
                .to_owned(),
        ),
        _ => refused(format!("check the disk of {}", location.directory.display())),
    }
}

/// The next revision of this store.
pub fn next_revision(transaction: &Transaction<'_>) -> rusqlite::Result<i64> {
    transaction
        .prepare_cached("UPDATE counter SET revision = revision + 1 RETURNING revision")?
        .query_row([], |row| row.get(0))
}

/// A row of `entry` that is there: not removed, not expired.
pub struct Row {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The write that put it there.
    pub revision: i64,
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row { key: row.get(0)?, value: row.get(1)?, revision: row.get(2)? })
}

/// One key.
pub fn get(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<Row>> {
    transaction
        .prepare_cached(
            "SELECT key, value, revision FROM entry WHERE key = ?1 AND value IS NOT NULL \
             AND (expires IS NULL OR boot = ?2 AND expires > ?3)",
        )?
        .query_row(params![key, this_boot(), now()], row)
        .optional()
}

/// All keys that begin with `prefix`, which ends in a slash.
pub fn list(transaction: &Transaction<'_>, prefix: &str) -> rusqlite::Result<Vec<Row>> {
    transaction
        .prepare_cached(
            "SELECT key, value, revision FROM entry WHERE key > ?1 AND key < ?2 AND value IS NOT NULL \
             AND (expires IS NULL OR boot = ?3 AND expires > ?4) ORDER BY key",
        )?
        .query_map(params![prefix, after(prefix), this_boot(), now()], row)?
        .collect()
}

/// What was written after `since` at these keys, how many of them there are, and the state that this is of.
pub fn look(
    transaction: &Transaction<'_>,
    selector: &Selector,
    since: i64,
) -> rusqlite::Result<(Vec<Row>, usize, i64)> {
    let (first, last) = match selector {
        Selector::Key(key) => (key.to_string(), key.to_string()),
        Selector::Below(parent) => (parent.children_prefix(), after(&parent.children_prefix())),
    };
    let rows: Vec<Row> = transaction
        .prepare_cached(
            "SELECT key, CASE WHEN revision > ?5 THEN value ELSE x'' END, revision FROM entry \
             WHERE key >= ?1 AND key <= ?2 AND value IS NOT NULL \
             AND (expires IS NULL OR boot = ?3 AND expires > ?4) ORDER BY key",
        )?
        .query_map(params![first, last, this_boot(), now(), since], row)?
        .filter(|found| found.as_ref().map_or(true, |found| selector.contains(&found.key)))
        .collect::<rusqlite::Result<_>>()?;
    let count = rows.len();
    let version =
        transaction.prepare_cached("SELECT revision FROM counter")?.query_row([], |row| row.get(0))?;
    Ok((rows.into_iter().filter(|row| row.revision > since).collect(), count, version))
}

/// Extend the life of a key that nobody has written since. False: it was written, or it is gone.
pub fn live_on(
    transaction: &Transaction<'_>,
    key: &str,
    revision: i64,
    ttl: Duration,
) -> rusqlite::Result<bool> {
    let expires = milliseconds(BootInstant::now() + ttl);
    let rows = transaction
        .prepare_cached(
            "UPDATE entry SET expires = ?3 WHERE key = ?1 AND revision = ?2 AND value IS NOT NULL \
             AND boot = ?4 AND expires > ?5",
        )?
        .execute(params![key, revision, expires, this_boot(), now()])?;
    Ok(rows > 0)
}

/// Write a key; gives its new revision.
pub fn put(
    transaction: &Transaction<'_>,
    key: &str,
    value: &[u8],
    ttl: Option<Duration>,
) -> rusqlite::Result<i64> {
    let revision = next_revision(transaction)?;
    let expires = ttl.map(|ttl| milliseconds(BootInstant::now() + ttl));
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO entry (key, value, revision, boot, expires) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![key, value, revision, expires.map(|_| this_boot()), expires])?;
    Ok(revision)
}

/// Remove a key.
pub fn delete(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<()> {
    if get(transaction, key)?.is_some() {
        let revision = next_revision(transaction)?;
        transaction
            .prepare_cached(
                "UPDATE entry SET value = NULL, expires = NULL, boot = NULL, revision = ?2 WHERE key = ?1",
            )?
            .execute(params![key, revision])?;
    }
    Ok(())
}

/// The newest revision of a key, removals included.
pub fn newest_at(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<i64> {
    transaction
        .prepare_cached("SELECT coalesce(max(revision), 0) FROM entry WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
}

/// The newest revision among all keys that begin with `prefix`, which ends in a slash, removals included.
pub fn newest_below(transaction: &Transaction<'_>, prefix: &str) -> rusqlite::Result<i64> {
    transaction
        .prepare_cached("SELECT coalesce(max(revision), 0) FROM entry WHERE key > ?1 AND key < ?2")?
        .query_row([prefix, after(prefix).as_str()], |row| row.get(0))
}

/// The first text above everything that begins with `prefix`, which ends in a slash.
fn after(prefix: &str) -> String {
    format!("{}0", prefix.trim_end_matches('/')) // '0' follows '/'
}

fn remove_expired(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let expired: i64 = transaction
        .prepare_cached(
            "SELECT count(*) FROM entry WHERE expires IS NOT NULL AND (boot <> ?1 OR expires <= ?2)",
        )?
        .query_row(params![this_boot(), now()], |row| row.get(0))?;
    if expired == 0 {
        return Ok(());
    }
    let revision = next_revision(transaction)?;
    transaction
        .prepare_cached(
            "UPDATE entry SET value = NULL, expires = NULL, boot = NULL, revision = ?3 \
             WHERE expires IS NOT NULL AND (boot <> ?1 OR expires <= ?2)",
        )?
        .execute(params![this_boot(), now(), revision])?;
    transaction
        .prepare_cached("DELETE FROM entry WHERE value IS NULL AND revision < ?1")?
        .execute([revision - REMOVALS_KEPT])?;
    Ok(())
}

/// The present moment, in the form of the tables.
pub fn now() -> i64 {
    milliseconds(BootInstant::now())
}

/// A moment, in the form of the tables.
pub fn milliseconds(moment: BootInstant) -> i64 {
    i64::try_from(moment.milliseconds()).unwrap_or(i64::MAX)
}
