//! The election that Stolon's sentinels hold: one key, which is locked by a session of the leader.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::ConsulStore;
use super::reader::Reader;
use super::sessions::{self, Behavior};
use super::transaction::{Outcome, Pair, Step, transact};
use crate::leases::Known;
use crate::leaving::Leaving;
use crate::link::Repeat;
use crate::{BootInstant, Contender, Key, KvStore, Renewal, Selector, StoreError, Tenure, Watch};

/// Of the leader's session, from its last renewal on: Consul lets it live at least that long, and at most twice as long.
const SESSION: Duration = Duration::from_secs(10);
/// How long before the end of its session a leader stops.
const MARGIN: Duration = Duration::from_secs(1);
/// How often the session is renewed; leaves time for a second attempt.
const RENEW_AFTER: Duration = Duration::from_secs(4);
/// Before the next attempt, when somebody else was quicker.
const PAUSE: Duration = Duration::from_millis(100);

/// The name of whoever holds the lock. A key that nobody holds has the name of its last holder.
pub async fn leader(reader: &Reader, place: &Key) -> Result<Option<String>, StoreError> {
    let Some(lock) = read_lock(reader, "reading the leader", place).await? else { return Ok(None) };
    if lock.session.is_none() {
        return Ok(None);
    }
    let name = lock.entry().map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
    Ok(name.ok())
}

async fn read_lock(reader: &Reader, operation: &str, place: &Key) -> Result<Option<Pair>, StoreError> {
    Ok(reader.read(operation, &Selector::Key(place.clone())).await?.pairs.pop())
}

/// A contender for leadership.
pub struct ConsulContender {
    store: ConsulStore,
    place: Key,
    name: String,
    /// Sessions.
    leaving: Leaving,
}

impl ConsulContender {
    pub fn new(store: ConsulStore, place: Key, name: String) -> Self {
        let links = Arc::clone(store.links());
        let leaving = Leaving::new(move |session| {
            let links = Arc::clone(&links);
            async move { sessions::destroy(&links, &session).await }
        });
        ConsulContender { store, place, name, leaving }
    }

    /// A session that can hold the lock. It lives while the entrant does.
    async fn enter(&self, changes: Watch) -> Result<Entrant, StoreError> {
        let asked_at = BootInstant::now();
        let session = sessions::create(self.store.links(), Behavior::Release, SESSION).await?;
        Ok(Entrant {
            reader: self.store.reader().clone(),
            place: self.place.clone(),
            session,
            asked_at,
            changes,
            look: Look::Needless,
            leaving: self.leaving.clone(),
            left: Left::No,
        })
    }
}

#[async_trait]
impl Contender for ConsulContender {
    async fn contend(&self) -> Result<Box<dyn Tenure>, StoreError> {
        self.leaving.end_all().await?;
        loop {
            let mut changes = self.store.watch(vec![Selector::Key(self.place.clone())]);
            loop {
                changes.take();
                let lock = read_lock(self.store.reader(), "looking at the election", &self.place).await?;
                if lock.is_none_or(|lock| lock.session.is_none()) {
                    break;
                }
                changes.changed().await;
            }
            let entrant = self.enter(changes).await?;
            // A repetition finds the lock that the first attempt took: the session is ours alone.
            let steps = [Step::lock(&self.place, self.name.as_bytes(), &entrant.session)];
            let locked = transact(self.store.links(), "standing for election", Repeat::Safe, &steps).await?;
            if matches!(locked, Outcome::Done(_)) && !entrant.held_until().is_past() {
                return Ok(Box::new(entrant));
            }
            drop(entrant);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn withdrawn(&self) {
        self.leaving.withdrawn().await;
    }
}

/// A session that may hold the lock.
struct Entrant {
    reader: Reader,
    place: Key,
    session: String,
    /// When the session was last requested or renewed.
    asked_at: BootInstant,
    /// Of the lock.
    changes: Watch,
    look: Look,
    leaving: Leaving,
    left: Left,
}

/// Whether the lock may have been taken away since it was last looked at.
#[derive(Clone, Copy, PartialEq)]
enum Look {
    Needed,
    Needless,
}

#[derive(PartialEq)]
enum Left {
    Yes,
    No,
}

impl Entrant {
    async fn holds(&self) -> Result<bool, StoreError> {
        let lock = read_lock(&self.reader, "looking at the election", &self.place).await?;
        Ok(lock.is_some_and(|lock| lock.session.as_ref() == Some(&self.session)))
    }
}

#[async_trait]
impl Tenure for Entrant {
    fn held_until(&self) -> BootInstant {
        self.asked_at + (SESSION - MARGIN)
    }

    fn renew_after(&self) -> Duration {
        RENEW_AFTER
    }

    async fn renew(&mut self) -> Result<Renewal, StoreError> {
        // Somebody may have removed the lock itself. The watch does not sleep through that.
        if self.changes.take() {
            self.look = Look::Needed;
        }
        if self.look == Look::Needed {
            if !self.holds().await? {
                return Ok(Renewal::Lost);
            }
            self.look = Look::Needless;
        }
        let asked_at = BootInstant::now();
        match sessions::renew(&self.reader.links, &self.session).await? {
            Known::Yes => {
                self.asked_at = asked_at;
                Ok(Renewal::Extended)
            }
            Known::No => Ok(Renewal::Lost),
        }
    }

    async fn release(&mut self) {
        self.left = Left::Yes;
        self.leaving.release(&self.session).await;
    }
}

impl Drop for Entrant {
    fn drop(&mut self) {
        if self.left == Left::No {
            self.leaving.withdraw(&self.session);
        }
    }
}
