//! The election that Stolon's sentinels hold: one key with a time to live, which its maker rewrites.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::task::TaskTracker;

use super::protocol::{Code, Event, Links, Node, path};
use super::{EtcdV2Store, ask, longer, unexpected};
use crate::http::escape;
use crate::link::Repeat;
use crate::{BootInstant, Changes, Contender, Key, KvStore, News, Renewal, Selector, StoreError, Tenure};

/// All programs that share an election use the same.
const LEASE: Duration = Duration::from_secs(20);
/// How long before the end of its lease in the store a leader stops. The members of etcd must agree about the time that well.
const MARGIN: Duration = Duration::from_secs(2);
/// How often a lease is renewed; leaves time for a second attempt.
const RENEW_AFTER: Duration = Duration::from_millis(6_667);

/// A contender for leadership.
pub struct EtcdV2Contender {
    store: EtcdV2Store,
    place: Key,
    name: String,
    /// Of one attempt at a time: the key of an earlier one must be gone before the next one begins.
    turn: Arc<Mutex<()>>,
    removals: TaskTracker,
}

impl EtcdV2Contender {
    pub fn new(store: EtcdV2Store, place: Key, name: String) -> Self {
        EtcdV2Contender { store, place, name, turn: Arc::default(), removals: TaskTracker::new() }
    }

    /// Make the key. `None`: somebody else leads.
    async fn try_to_win(
        &self,
        turn: &mut Option<OwnedMutexGuard<()>>,
    ) -> Result<Option<Entrant>, StoreError> {
        let mut entrant = Entrant {
            links: Arc::clone(&self.store.links),
            place: self.place.clone(),
            name: self.name.clone(),
            made: None,
            asked_at: BootInstant::now(),
            removed: Removed::No,
            removals: self.removals.clone(),
            turn: turn.take(),
        };
        if entrant.enter().await? {
            return Ok(Some(entrant));
        }
        entrant.removed = Removed::Yes;
        *turn = entrant.turn.take();
        Ok(None)
    }
}

async fn read(links: &Links, operation: &str, place: &Key) -> Result<Option<Node>, StoreError> {
    let path = path(place) + "quorum=true";
    Ok(ask(links, operation, Repeat::Safe, (Method::GET, &path, ""))
        .await?
        .outcome
        .ok()
        .map(|event| event.node))
}

#[async_trait]
impl Contender for EtcdV2Contender {
    async fn contend(&self) -> Result<Box<dyn Tenure>, StoreError> {
        let mut turn = Some(Arc::clone(&self.turn).lock_owned().await);
        let mut changes = self.store.changes(Selector::Key(self.place.clone()));
        loop {
            match self.try_to_win(&mut turn).await? {
                Some(entrant) if !entrant.held_until().is_past() => return Ok(Box::new(entrant)),
                Some(_) => {
                    return Err(StoreError::Timeout {
                        operation: "standing for election".to_owned(),
                        timeout: LEASE,
                        cause: "the lease was over before it could be used".to_owned(),
                    });
                }
                None => may_be_free(&mut changes).await,
            }
        }
    }

    async fn withdrawn(&self) {
        self.removals.close();
        self.removals.wait().await;
    }
}

/// Returns when the key may be gone. That it was rewritten by its maker is no news.
async fn may_be_free(changes: &mut Changes) {
    while let News::Carried { changes, .. } = changes.next().await {
        if changes.iter().any(|change| change.entry.is_none()) {
            return;
        }
    }
}

/// The key of the leader, or of an attempt to make it.
struct Entrant {
    links: Arc<Links>,
    place: Key,
    name: String,
    /// `None`: it is not known that the key was made.
    made: Option<Made>,
    /// When it was made or renewed.
    asked_at: BootInstant,
    removed: Removed,
    removals: TaskTracker,
    turn: Option<OwnedMutexGuard<()>>,
}

/// A key that was made.
#[derive(Clone, Copy)]
struct Made {
    /// Names this key as long as nobody else makes another one.
    created: i64,
    modified: i64,
}

#[derive(PartialEq)]
enum Removed {
    Yes,
    No,
}

impl Entrant {
    /// Make the key. False: somebody else leads.
    async fn enter(&mut self) -> Result<bool, StoreError> {
        let operation = "standing for election";
        let fields = format!("value={}&ttl={}", escape(&self.name), LEASE.as_secs());
        let path = path(&self.place);
        let form = format!("{fields}&prevExist=false");
        let mut made = ask(&self.links, operation, Repeat::Safe, (Method::PUT, &path, &form)).await?.outcome;
        if let Err(Code::NodeExists) = made {
            let Some(node) = read(&self.links, operation, &self.place).await? else { return Ok(false) };
            if node.value() != Some(&self.name) {
                return Ok(false);
            }
            // An earlier attempt made it, without an answer.
            self.asked_at = BootInstant::now();
            let form = format!("{fields}&prevExist=true&prevIndex={}", node.modified_index);
            made = ask(&self.links, operation, Repeat::Safe, (Method::PUT, &path, &form)).await?.outcome;
        }
        match made {
            Ok(Event { node, .. }) => {
                self.made = Some(Made { created: node.created_index, modified: node.modified_index });
                Ok(true)
            }
            Err(Code::NodeExists | Code::CompareFailed | Code::KeyNotFound) => Ok(false),
            Err(code) => Err(unexpected(operation.to_owned(), code)),
        }
    }
}

/// Remove the key if it is still the one that was made; the name tells where that is not known.
async fn remove(links: &Links, place: &Key, name: &str, made: Option<Made>) -> Result<(), StoreError> {
    let operation = "leaving the election";
    loop {
        let Some(node) = read(links, operation, place).await? else { return Ok(()) };
        let is_ours = match made {
            Some(made) => node.created_index == made.created,
            None => node.value() == Some(name),
        };
        if !is_ours {
            return Ok(());
        }
        let path = format!("{}prevIndex={}", path(place), node.modified_index);
        match ask(links, operation, Repeat::Safe, (Method::DELETE, &path, "")).await?.outcome {
            // A late renewal came between the two.
            Err(Code::CompareFailed) => {}
            _ => return Ok(()),
        }
    }
}

#[async_trait]
impl Tenure for Entrant {
    fn held_until(&self) -> BootInstant {
        self.asked_at + (LEASE - MARGIN)
    }

    fn renew_after(&self) -> Duration {
        RENEW_AFTER
    }

    async fn renew(&mut self) -> Result<Renewal, StoreError> {
        let operation = "renewing the leadership";
        let Some(made) = self.made else { return Ok(Renewal::Lost) };
        let asked_at = BootInstant::now();
        let form = longer(made.modified, LEASE);
        match ask(&self.links, operation, Repeat::Safe, (Method::PUT, &path(&self.place), &form))
            .await?
            .outcome
        {
            Ok(event) => {
                self.made = Some(Made { modified: event.node.modified_index, ..made });
                self.asked_at = asked_at;
                Ok(Renewal::Extended)
            }
            Err(Code::CompareFailed) => match read(&self.links, operation, &self.place).await? {
                // An earlier renewal, whose answer did not come. The next one is due at once.
                Some(node) if node.created_index == made.created => {
                    self.made = Some(Made { modified: node.modified_index, ..made });
                    Err(unexpected(operation.to_owned(), Code::CompareFailed))
                }
                _ => Ok(Renewal::Lost),
            },
            Err(_) => Ok(Renewal::Lost),
        }
    }

    async fn release(&mut self) {
        self.removed = Removed::Yes;
        if let Err(error) = remove(&self.links, &self.place, &self.name, self.made).await {
            tracing::warn!(%error, "the leadership ends with its lease");
        }
    }
}

impl Drop for Entrant {
    fn drop(&mut self) {
        if self.removed == Removed::Yes {
            return;
        }
        let (links, place, made) = (Arc::clone(&self.links), self.place.clone(), self.made);
        let name = std::mem::take(&mut self.name);
        let turn = self.turn.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let removal = async move {
                if let Err(error) = remove(&links, &place, &name, made).await {
                    tracing::debug!(%error, "a campaign ends with its lease");
                }
                drop(turn);
            };
            self.removals.spawn_on(removal, &runtime);
        }
    }
}
