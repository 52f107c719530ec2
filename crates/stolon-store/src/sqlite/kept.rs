//! Keys that stay as long as this process: their life is extended before it ends. A key that is written anew in time, as
//! those of keepers and proxies are, costs nothing here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::database::{Durability, live_on};
use super::worker::{Effect, Worker};
use crate::{BootInstant, Key, Notice, StoreError};

/// Pause between attempts to extend the life of keys.
const PAUSE: Duration = Duration::from_secs(1);

/// The keys.
pub struct Kept {
    keys: Arc<Keys>,
    keeping: OnceLock<AbortOnDropHandle<()>>,
}

struct Keys {
    worker: Worker,
    put: Mutex<BTreeMap<Key, Put>>,
    added: Notify,
}

/// How a key was put.
#[derive(Clone, Copy)]
struct Put {
    revision: i64,
    ttl: Duration,
    /// A third of its time is left then.
    due: BootInstant,
}

impl Put {
    fn now(revision: i64, ttl: Duration) -> Self {
        Put { revision, ttl, due: BootInstant::now() + ttl * 2 / 3 }
    }
}

impl Kept {
    /// Without keys yet.
    pub fn new(worker: Worker) -> Self {
        let keys = Keys { worker, put: Mutex::default(), added: Notify::new() };
        Kept { keys: Arc::new(keys), keeping: OnceLock::new() }
    }

    /// Keep what was just put. Call inside a tokio runtime.
    pub fn keep(&self, key: Key, revision: i64, ttl: Duration) {
        if self.keys.put().insert(key, Put::now(revision, ttl)).is_none() {
            self.keys.added.notify_one();
        }
        let keys = Arc::clone(&self.keys);
        self.keeping.get_or_init(|| AbortOnDropHandle::new(tokio::spawn(keep_all(keys))));
    }
}

impl Keys {
    fn put(&self) -> MutexGuard<'_, BTreeMap<Key, Put>> {
        self.put.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Extend what is due; returns the next moment at which something is due.
    async fn keep_due(&self) -> Option<BootInstant> {
        let due: Vec<(Key, Put)> = {
            let put = self.put();
            put.iter().filter(|(_, put)| put.due.is_past()).map(|(key, put)| (key.clone(), *put)).collect()
        };
        for (key, put) in due {
            match self.live_on(&key, put).await {
                Ok(true) => {
                    self.put().entry(key).and_modify(|known| {
                        if known.revision == put.revision {
                            *known = Put::now(put.revision, put.ttl);
                        }
                    });
                }
                Ok(false) => self.put().retain(|known, now| *known != key || now.revision != put.revision),
                Err(error) => {
                    tracing::debug!(%error, %key, "a key could not be kept, trying again");
                    return Some(BootInstant::now() + PAUSE);
                }
            }
        }
        self.put().values().map(|put| put.due).min()
    }

    async fn live_on(&self, key: &Key, put: Put) -> Result<bool, StoreError> {
        let operation = "keeping a report";
        let key = key.to_string();
        self.worker
            .run(operation, Effect::Writes, move |database| {
                database.write(operation, Durability::ProcessLoss, Notice::Quiet, |transaction| {
                    Ok(Ok(live_on(transaction, &key, put.revision, put.ttl)?))
                })
            })
            .await
    }
}

/// Keep all keys.
async fn keep_all(keys: Arc<Keys>) {
    loop {
        let due = keys.keep_due().await;
        let added = keys.added.notified();
        match due {
            Some(due) => {
                let _ = tokio::time::timeout(due.remaining(), added).await;
            }
            None => added.await,
        }
    }
}
