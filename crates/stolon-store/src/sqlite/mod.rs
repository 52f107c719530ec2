//! The embedded store: one SQLite file that many processes of one machine share.
//!
//! * The file's directory must exist and decides who may use the store (`Location::create_if_absent`).
//!   Beside the file SQLite keeps `<file>-wal` and `<file>-shm`.
//! * Writes of the cluster data survive a loss of power; reports and leases survive the loss of processes.
//! * Moments are kept on `CLOCK_BOOTTIME`, together with the boot they belong to. What had a time to live
//!   is gone after a reboot, like the processes that wrote it.
//! * A writer sets the times of the file after its commit; inotify carries that to everybody who watches.
//! * A process that is frozen inside a transaction (a few milliseconds each second) blocks the writers of
//!   all others until it goes on or is killed. Where that matters, use a store that is a service.

mod database;
mod election;
mod location;
mod process;
mod watcher;
mod worker;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::unix::AsyncFd;

use self::database::{Durability, Row};
use self::election::SqliteContender;
use self::location::Location;
use self::watcher::Signal;
use self::worker::{Absent, Effect, Worker};
use crate::kept::{Kept, Prolong};
use crate::leases::Known;
use crate::{
    Contender, Entry, Expected, Key, KvStore, Look, MINIMUM_TTL, Notice, Publication, Revision, Selector,
    StoreError, Version, Waker, Watch,
};
use stolon_model::Advise as _;

/// A store in a file. Clones share one thread and one connection.
#[derive(Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

struct Shared {
    worker: Worker,
    location: Location,
    signal: OnceLock<Signal>,
    /// The keys that stay as long as this process.
    kept: Kept<Prolonger>,
}

impl Shared {
    /// What wakes the watches; begins with the first of them.
    fn signal(&self) -> &Signal {
        self.signal.get_or_init(|| Signal::start(&self.location))
    }
}

impl SqliteStore {
    /// The store in the file that `endpoints` names; the file is made when it is first needed.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: no file is named, its directory does not exist, or it is on a network
    /// file system.
    pub fn new(endpoints: &str, timeout: Duration) -> Result<Self, StoreError> {
        Self::in_file(endpoints, Absent::Made, timeout)
    }

    /// The same, in a file that must exist when the store is first asked.
    ///
    /// # Errors
    /// The same.
    pub fn existing(endpoints: &str, timeout: Duration) -> Result<Self, StoreError> {
        Self::in_file(endpoints, Absent::Refused, timeout)
    }

    fn in_file(endpoints: &str, absent: Absent, timeout: Duration) -> Result<Self, StoreError> {
        let location = Location::from_endpoints(endpoints)?;
        let worker = Worker::start(location.clone(), absent, timeout)?;
        let kept = Kept::new(Prolonger(worker.clone()));
        Ok(SqliteStore { shared: Arc::new(Shared { worker, location, signal: OnceLock::new(), kept }) })
    }

    fn worker(&self) -> &Worker {
        &self.shared.worker
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// Lets keys live on.
struct Prolonger(Worker);

#[async_trait]
impl Prolong for Prolonger {
    async fn live_on(&self, key: &Key, revision: i64, ttl: Duration) -> Result<Known, StoreError> {
        let operation = "keeping a report";
        let key = key.to_string();
        let is_kept = self
            .0
            .run(operation, Effect::Writes, move |database| {
                database.write(operation, Durability::ProcessLoss, Notice::Quiet, |transaction| {
                    Ok(Ok(database::live_on(transaction, &key, revision, ttl)?))
                })
            })
            .await?;
        Ok(if is_kept { Known::Yes } else { Known::No })
    }
}

impl From<Row> for Entry {
    fn from(row: Row) -> Self {
        Entry { key: Key::new(row.key), value: row.value, revision: Revision(row.revision) }
    }
}

#[async_trait]
impl KvStore for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let operation = format!("reading {key}");
        let key = key.to_string();
        self.worker()
            .run(&operation.clone(), Effect::Reads, move |database| {
                database.read(&operation, |transaction| database::get(transaction, &key))
            })
            .await
            .map(|row| row.map(Entry::from))
    }

    async fn list(&self, parent: &Key) -> Result<Vec<Entry>, StoreError> {
        let operation = format!("listing {parent}");
        let prefix = parent.children_prefix();
        self.worker()
            .run(&operation.clone(), Effect::Reads, move |database| {
                database.read(&operation, |transaction| database::list(transaction, &prefix))
            })
            .await
            .map(|rows| rows.into_iter().map(Entry::from).collect())
    }

    async fn look(&self, selector: &Selector, since: Version) -> Result<Look, StoreError> {
        let operation = "looking for changes";
        let selector = selector.clone();
        self.worker()
            .run(operation, Effect::Reads, move |database| {
                database.read(operation, |transaction| database::look(transaction, &selector, since.0))
            })
            .await
            .map(found)
    }

    async fn publish(&self, publication: Publication) -> Result<Look, StoreError> {
        let Publication { key, value, ttl, notice, read } = publication;
        let (operation, name, ttl) = (format!("writing {key}"), key.to_string(), ttl.max(MINIMUM_TTL));
        let (revision, look) = self
            .worker()
            .run(&operation.clone(), Effect::Writes, move |database| {
                database.write(&operation, Durability::ProcessLoss, notice, |transaction| {
                    let revision = database::put(transaction, &name, &value, Some(ttl))?;
                    Ok(Ok((revision, database::look(transaction, &Selector::Key(read), 0)?)))
                })
            })
            .await?;
        self.shared.kept.keep(key, revision, ttl);
        Ok(found(look))
    }

    async fn put(&self, key: &Key, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), StoreError> {
        let operation = format!("writing {key}");
        let name = key.to_string();
        let ttl = ttl.map(|ttl| ttl.max(MINIMUM_TTL));
        let durability = if ttl.is_some() { Durability::ProcessLoss } else { Durability::PowerLoss };
        let revision = self
            .worker()
            .run(&operation.clone(), Effect::Writes, move |database| {
                database.write(&operation, durability, Notice::Wake, |transaction| {
                    Ok(Ok(database::put(transaction, &name, &value, ttl)?))
                })
            })
            .await?;
        if let Some(ttl) = ttl {
            self.shared.kept.keep(key.clone(), revision, ttl);
        }
        Ok(())
    }

    async fn compare_and_put(
        &self,
        key: &Key,
        value: Vec<u8>,
        expected: Expected,
    ) -> Result<Revision, StoreError> {
        let operation = format!("writing {key}");
        let key = key.to_string();
        self.worker()
            .run(&operation.clone(), Effect::Writes, move |database| {
                database.write(&operation, Durability::PowerLoss, Notice::Wake, |transaction| {
                    let found = match database::get(transaction, &key)? {
                        Some(row) => Expected::Revision(Revision(row.revision)),
                        None => Expected::Absent,
                    };
                    if found != expected {
                        return Ok(Err(StoreError::Conflict));
                    }
                    Ok(Ok(Revision(database::put(transaction, &key, &value, None)?)))
                })
            })
            .await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let operation = format!("removing {key}");
        let key = key.to_string();
        self.worker()
            .run(&operation.clone(), Effect::Writes, move |database| {
                database.write(&operation, Durability::PowerLoss, Notice::Wake, |transaction| {
                    database::delete(transaction, &key)?;
                    Ok(Ok(()))
                })
            })
            .await
    }

    fn watch(&self, selectors: Vec<Selector>) -> Watch {
        let ticks = self.shared.signal().subscribe();
        let store = self.clone();
        Watch::by_task(|waker| watch(store, selectors, ticks, waker))
    }

    async fn leader(&self, place: &Key) -> Result<Option<String>, StoreError> {
        election::leader(self.worker(), place).await
    }

    fn contender(&self, place: &Key, name: &str) -> Box<dyn Contender> {
        Box::new(SqliteContender::new(self.clone(), place.clone(), name.to_owned()))
    }

    fn requests(&self) -> u64 {
        self.worker().requests()
    }
}

fn found((rows, count, version): (Vec<Row>, usize, i64)) -> Look {
    let changed = rows.into_iter().map(Entry::from).collect();
    Look { changed, count, version: Version(version) }
}

/// A descriptor that can be waited for. tokio's warning is about descriptors that are closed while they are
/// registered; an owned one cannot be, and the replacement would need `unsafe`.
#[allow(deprecated)]
fn when_readable(descriptor: std::os::fd::OwnedFd) -> std::io::Result<AsyncFd<std::os::fd::OwnedFd>> {
    AsyncFd::new(descriptor)
}

/// Wake whenever the newest revision among the selected keys is another one.
async fn watch(
    store: SqliteStore,
    selectors: Vec<Selector>,
    mut ticks: tokio::sync::watch::Receiver<u64>,
    waker: Waker,
) {
    let selectors = Arc::new(selectors);
    let mut last = None;
    let mut failing = false;
    loop {
        match newest(&store, &selectors).await {
            // The first look is later than the call that made the watch, so it always wakes.
            Ok(newest) if last != Some(newest) => {
                last = Some(newest);
                failing = false;
                waker.wake();
            }
            Ok(_) => failing = false,
            Err(error) => {
                if !failing {
                    let error = error.explained().on_one_line();
                    tracing::warn!(
                        error,
                        "cannot look for changes of the store, trying again at the next sign of one"
                    );
                }
                failing = true;
                last = None;
            }
        }
        if ticks.changed().await.is_err() {
            return;
        }
    }
}

async fn newest(store: &SqliteStore, selectors: &Arc<Vec<Selector>>) -> Result<i64, StoreError> {
    let operation = "looking for changes";
    let selectors = Arc::clone(selectors);
    store
        .worker()
        .run(operation, Effect::Reads, move |database| {
            database.read(operation, |transaction| {
                let mut newest = selectors.iter().map(|selector| match selector {
                    Selector::Key(key) => database::newest_at(transaction, key.as_str()),
                    Selector::Below(parent) => database::newest_below(transaction, &parent.children_prefix()),
                });
                newest.try_fold(0, |most: i64, revision| Ok(most.max(revision?)))
            })
        })
        .await
}
