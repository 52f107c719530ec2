//! Election in the file: a row that must be renewed, and a process that can be seen to be gone.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, Transaction, params};

use super::database::{Database, Durability, milliseconds, now};
use super::process::{Life, Process, this_boot};
use super::worker::{Effect, Worker};
use super::{Shared, SqliteStore};
use crate::{BootInstant, Contender, Key, Notice, Renewal, StoreError, Tenure};
use stolon_model::Advise as _;

/// A leader that does not renew for so long (frozen, or its disk hangs) is succeeded.
/// One that has ended is succeeded at once.
const LEASE: Duration = Duration::from_secs(15);
/// How long before a successor may start a leader stops.
const MARGIN: Duration = Duration::from_secs(1);
/// How often a leadership is renewed; leaves time for a second attempt.
const RENEW_AFTER: Duration = Duration::from_secs(7);

/// The row of a place.
struct Holder {
    name: String,
    expires: i64,
    process: Process,
}

impl Holder {
    /// True if its time is over or its process has ended: then the place is free.
    fn is_over(&self) -> bool {
        self.process.boot != this_boot() || self.expires <= now() || self.process.is_gone()
    }
}

fn holder(transaction: &Transaction<'_>, place: &str) -> rusqlite::Result<Option<Holder>> {
    transaction
        .prepare_cached(
            "SELECT name, expires, boot, namespace, pid, started FROM leadership WHERE place = ?1",
        )?
        .query_row([place], |row| {
            Ok(Holder {
                name: row.get(0)?,
                expires: row.get(1)?,
                process: Process {
                    boot: row.get(2)?,
                    namespace: row.get(3)?,
                    pid: row.get(4)?,
                    started: row.get(5)?,
                },
            })
        })
        .optional()
}

/// The leader at `place`.
pub async fn leader(worker: &Worker, place: &Key) -> Result<Option<String>, StoreError> {
    let holder = look(worker, place).await?;
    Ok(holder.filter(|holder| !holder.is_over()).map(|holder| holder.name))
}

async fn look(worker: &Worker, place: &Key) -> Result<Option<Holder>, StoreError> {
    let place = place.to_string();
    let operation = "reading the leader";
    worker
        .run(operation, Effect::Reads, move |database| {
            database.read(operation, |transaction| holder(transaction, &place))
        })
        .await
}

/// A contender for the row.
pub struct SqliteContender {
    store: SqliteStore,
    place: Key,
    name: String,
}

impl SqliteContender {
    pub fn new(store: SqliteStore, place: Key, name: String) -> Self {
        SqliteContender { store, place, name }
    }

    /// Take the row if it is free.
    async fn take(&self, token: &str) -> Result<Taking, StoreError> {
        let (place, name, token) = (self.place.to_string(), self.name.clone(), token.to_owned());
        let operation = "taking the leadership";
        self.store
            .worker()
            .run(operation, Effect::Writes, move |database| {
                database.write(operation, Durability::ProcessLoss, Notice::Wake, |transaction| {
                    if holder(transaction, &place)?.is_some_and(|holder| !holder.is_over()) {
                        return Ok(Ok(Taking::Held));
                    }
                    let this = Process::this();
                    let expires = milliseconds(BootInstant::now() + LEASE);
                    transaction.execute(
                        "INSERT OR REPLACE INTO leadership \
                         (place, name, token, boot, expires, namespace, pid, started) \
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                        params![
                            place,
                            name,
                            token,
                            this.boot,
                            expires,
                            this.namespace,
                            this.pid,
                            this.started
                        ],
                    )?;
                    Ok(Ok(Taking::Taken))
                })
            })
            .await
    }

    /// Returns when the place looks free: its holder resigned, ended, or did not renew.
    async fn wait_until_free(&self) -> Result<(), StoreError> {
        let mut ticks = self.store.shared().signal().subscribe();
        loop {
            let Some(holder) = look(self.store.worker(), &self.place).await? else { return Ok(()) };
            if holder.is_over() {
                return Ok(());
            }
            let until = BootInstant::from_milliseconds(u64::try_from(holder.expires).unwrap_or(0));
            tokio::select! {
                _ = ticks.changed() => {}
                () = tokio::time::sleep(until.remaining()) => {}
                () = ended(&holder.process) => {}
            }
        }
    }
}

enum Taking {
    Taken,
    Held,
}

/// Returns when the process has ended; never if that cannot be seen.
async fn ended(process: &Process) {
    match process.life() {
        Life::Gone => {}
        Life::Running(descriptor) => match super::when_readable(descriptor) {
            Ok(descriptor) => drop(descriptor.readable().await),
            Err(_) => std::future::pending().await,
        },
        Life::Hidden => std::future::pending().await,
    }
}

#[async_trait]
impl Contender for SqliteContender {
    async fn contend(&self) -> Result<Box<dyn Tenure>, StoreError> {
        loop {
            self.wait_until_free().await?;
            let mut tenure = SqliteTenure {
                worker: self.store.worker().clone(),
                _store: std::sync::Arc::clone(self.store.shared()),
                place: self.place.to_string(),
                token: uuid::Uuid::new_v4().to_string(),
                held_until: BootInstant::now() + (LEASE - MARGIN),
                released: Released::No,
            };
            match self.take(&tenure.token).await? {
                Taking::Taken => return Ok(Box::new(tenure)),
                Taking::Held => tenure.released = Released::Yes,
            }
        }
    }
}

/// The row, while this process holds it.
struct SqliteTenure {
    worker: Worker,
    _store: std::sync::Arc<Shared>,
    place: String,
    token: String,
    held_until: BootInstant,
    released: Released,
}

#[derive(PartialEq)]
enum Released {
    Yes,
    No,
}

const RELEASING: &str = "giving up the leadership";

fn release(database: &mut Database, place: &str, token: &str) -> Result<(), StoreError> {
    database.write(RELEASING, Durability::ProcessLoss, Notice::Wake, |transaction| {
        transaction.execute("DELETE FROM leadership WHERE place = ?1 AND token = ?2", [place, token])?;
        Ok(Ok(()))
    })
}

#[async_trait]
impl Tenure for SqliteTenure {
    fn held_until(&self) -> BootInstant {
        self.held_until
    }

    fn renew_after(&self) -> Duration {
        RENEW_AFTER
    }

    async fn renew(&mut self) -> Result<Renewal, StoreError> {
        let (place, token) = (self.place.clone(), self.token.clone());
        let started = BootInstant::now();
        let operation = "renewing the leadership";
        let renewed = self
            .worker
            .run(operation, Effect::Writes, move |database| {
                database.write(operation, Durability::ProcessLoss, Notice::Quiet, |transaction| {
                    let expires = milliseconds(BootInstant::now() + LEASE);
                    let rows = transaction
                        .prepare_cached(
                            "UPDATE leadership SET expires = ?3 \
                             WHERE place = ?1 AND token = ?2 AND boot = ?4 AND expires > ?5",
                        )?
                        .execute(params![place, token, expires, this_boot(), now()])?;
                    Ok(Ok(rows))
                })
            })
            .await?;
        if renewed == 0 {
            return Ok(Renewal::Lost);
        }
        self.held_until = started + (LEASE - MARGIN);
        Ok(Renewal::Extended)
    }

    async fn release(&mut self) {
        let (place, token) = (self.place.clone(), self.token.clone());
        let released = self
            .worker
            .run(RELEASING, Effect::Writes, move |database| release(database, &place, &token))
            .await;
        match released {
            Ok(()) => self.released = Released::Yes,
            Err(error) => {
                tracing::warn!(error = error.explained().on_one_line(), "the leadership ends with its lease");
            }
        }
    }
}

impl Drop for SqliteTenure {
    fn drop(&mut self) {
        if self.released == Released::No {
            let (place, token) = (std::mem::take(&mut self.place), std::mem::take(&mut self.token));
            self.worker.run_later(move |database| release(database, &place, &token));
        }
    }
}
