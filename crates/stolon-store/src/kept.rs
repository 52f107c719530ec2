//! Keys that stay as long as this process: their life is extended before it ends. A key that is written anew in time, as
//! those of keepers and proxies are, costs nothing here.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::leases::Known;
use crate::{BootInstant, Key, StoreError};

/// Pause between attempts to extend the life of keys.
const PAUSE: Duration = Duration::from_secs(1);

/// What makes the life of a key longer.
#[async_trait]
pub trait Prolong: Send + Sync + 'static {
    /// Let the key live so long from now on, if it still holds what was put with this revision.
    async fn live_on(&self, key: &Key, revision: i64, ttl: Duration) -> Result<Known, StoreError>;
}

/// The keys.
pub struct Kept<P: Prolong> {
    keys: Arc<Keys<P>>,
    keeping: OnceLock<AbortOnDropHandle<()>>,
}

struct Keys<P> {
    prolong: P,
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

impl<P: Prolong> Kept<P> {
    /// Without keys yet.
    pub fn new(prolong: P) -> Self {
        let keys = Keys { prolong, put: Mutex::default(), added: Notify::new() };
        Kept { keys: Arc::new(keys), keeping: OnceLock::new() }
    }

    /// The key lives for ever now, or not at all.
    pub fn let_go(&self, key: &Key) {
        self.keys.put().remove(key);
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

impl<P: Prolong> Keys<P> {
    fn put(&self) -> MutexGuard<'_, BTreeMap<Key, Put>> {
        self.put.lock()
    }

    /// Extend what is due; returns the next moment at which something is due.
    async fn keep_due(&self) -> Option<BootInstant> {
        let due: Vec<(Key, Put)> = {
            let put = self.put();
            put.iter().filter(|(_, put)| put.due.is_past()).map(|(key, put)| (key.clone(), *put)).collect()
        };
        for (key, put) in due {
            match self.prolong.live_on(&key, put.revision, put.ttl).await {
                Ok(Known::Yes) => {
                    self.put().entry(key).and_modify(|known| {
                        if known.revision == put.revision {
                            *known = Put::now(put.revision, put.ttl);
                        }
                    });
                }
                Ok(Known::No) => {
                    self.put().retain(|known, now| *known != key || now.revision != put.revision)
                }
                Err(error) => {
                    tracing::debug!(%error, %key, "a key could not be kept, trying again");
                    return Some(BootInstant::now() + PAUSE);
                }
            }
        }
        self.put().values().map(|put| put.due).min()
    }
}

/// Keep all keys.
async fn keep_all<P: Prolong>(keys: Arc<Keys<P>>) {
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
