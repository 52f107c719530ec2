//! The store in memory: for tests, and the plainest reading of the contract.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    BootInstant, Contender, Entry, Expected, Key, KvStore, Look, MINIMUM_TTL, Notice, Publication, Renewal,
    Revision, Selector, StoreError, Tenure, Version, Waker, Watch,
};

/// A store that lives as long as its clones, which share it.
#[derive(Clone, Default)]
pub struct MemoryStore {
    session: Arc<Session>,
}

/// Stands for a process: the keys that it put with a time to live end some time after it does.
#[derive(Default)]
struct Session {
    state: Arc<Mutex<State>>,
}

impl Session {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn number(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let number = self.number();
        for stored in self.state().entries.values_mut() {
            if let Life::OfSession { session, ttl } = stored.life
                && session == number
            {
                stored.life = Life::Until(BootInstant::now() + ttl);
            }
        }
    }
}

#[derive(Default)]
struct State {
    revision: i64,
    requests: u64,
    entries: BTreeMap<String, Stored>,
    watches: Vec<(Vec<Selector>, Waker)>,
}

struct Stored {
    value: Vec<u8>,
    revision: Revision,
    life: Life,
}

/// How long a key stays.
#[derive(Clone, Copy, PartialEq)]
enum Life {
    ForEver,
    OfSession { session: usize, ttl: Duration },
    Until(BootInstant),
}

impl Stored {
    fn is_over(&self) -> bool {
        matches!(self.life, Life::Until(end) if end.is_past())
    }

    fn entry(&self, key: &str) -> Entry {
        Entry { key: Key::new(key), value: self.value.clone(), revision: self.revision }
    }
}

impl State {
    fn write(&mut self, key: &str, value: Vec<u8>, life: Life, notice: Notice) -> Revision {
        self.revision += 1;
        let revision = Revision(self.revision);
        self.entries.insert(key.to_owned(), Stored { value, revision, life });
        if notice == Notice::Wake {
            self.wake(key);
        }
        revision
    }

    fn look(&self, selector: &Selector, since: Version) -> Look {
        let selected: Vec<_> = self.entries.iter().filter(|(key, _)| selector.contains(key)).collect();
        let newer = selected.iter().filter(|(_, stored)| stored.revision.0 > since.0);
        Look {
            changed: newer.map(|(key, stored)| stored.entry(key)).collect(),
            count: selected.len(),
            version: Version(self.revision),
        }
    }

    fn remove(&mut self, key: &str) {
        if self.entries.remove(key).is_some() {
            self.revision += 1;
            self.wake(key);
        }
    }

    fn wake(&mut self, key: &str) {
        self.watches.retain(|(_, waker)| !waker.is_abandoned());
        for (selectors, waker) in &self.watches {
            if selectors.iter().any(|selector| selector.contains(key)) {
                waker.wake();
            }
        }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another client of the same store, as another process is one.
    pub fn another_client(&self) -> Self {
        MemoryStore { session: Arc::new(Session { state: Arc::clone(&self.session.state) }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.session.state()
    }

    fn life(&self, ttl: Option<Duration>) -> Life {
        match ttl {
            None => Life::ForEver,
            Some(ttl) => Life::OfSession { session: self.session.number(), ttl: ttl.max(MINIMUM_TTL) },
        }
    }

    /// The state as a request sees it: counted, without what has expired.
    fn request(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.requests += 1;
        let gone: Vec<String> =
            state.entries.iter().filter(|(_, stored)| stored.is_over()).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| state.remove(key));
        state
    }
}

#[async_trait]
impl KvStore for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        Ok(self.request().entries.get(key.as_str()).map(|stored| stored.entry(key.as_str())))
    }

    async fn list(&self, parent: &Key) -> Result<Vec<Entry>, StoreError> {
        Ok(self.request().look(&Selector::Below(parent.clone()), Version::START).changed)
    }

    async fn look(&self, selector: &Selector, since: Version) -> Result<Look, StoreError> {
        Ok(self.request().look(selector, since))
    }

    async fn publish(&self, publication: Publication) -> Result<Look, StoreError> {
        let Publication { key, value, ttl, notice, read } = publication;
        let mut state = self.request();
        state.write(key.as_str(), value, self.life(Some(ttl)), notice);
        Ok(state.look(&Selector::Key(read), Version::START))
    }

    async fn put(&self, key: &Key, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), StoreError> {
        self.request().write(key.as_str(), value, self.life(ttl), Notice::Wake);
        Ok(())
    }

    async fn compare_and_put(
        &self,
        key: &Key,
        value: Vec<u8>,
        expected: Expected,
    ) -> Result<Revision, StoreError> {
        let mut state = self.request();
        let found = match state.entries.get(key.as_str()) {
            Some(stored) => Expected::Revision(stored.revision),
            None => Expected::Absent,
        };
        if found != expected {
            return Err(StoreError::Conflict);
        }
        Ok(state.write(key.as_str(), value, Life::ForEver, Notice::Wake))
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.request().remove(key.as_str());
        Ok(())
    }

    fn watch(&self, selectors: Vec<Selector>) -> Watch {
        let (waker, watch) = Watch::new();
        self.state().watches.push((selectors, waker));
        watch
    }

    async fn leader(&self, place: &Key) -> Result<Option<String>, StoreError> {
        let mut entrants = self.list(place).await?;
        entrants.sort_by_key(|entrant| entrant.revision.0);
        Ok(entrants.first().map(|leader| String::from_utf8_lossy(&leader.value).into_owned()))
    }

    fn contender(&self, place: &Key, name: &str) -> Box<dyn Contender> {
        Box::new(MemoryContender { store: self.clone(), place: place.clone(), name: name.to_owned() })
    }

    fn requests(&self) -> u64 {
        self.state().requests
    }
}

struct MemoryContender {
    store: MemoryStore,
    place: Key,
    name: String,
}

/// A place in the queue; the first one leads.
struct Entrant {
    store: MemoryStore,
    key: Key,
}

#[async_trait]
impl Contender for MemoryContender {
    async fn contend(&self) -> Result<Box<dyn Tenure>, StoreError> {
        let mut changes = self.store.watch(vec![Selector::Below(self.place.clone())]);
        let key = {
            let mut state = self.store.request();
            let key = self.place.child(&format!("{:020}", state.revision + 1));
            state.write(key.as_str(), self.name.clone().into_bytes(), Life::ForEver, Notice::Wake);
            key
        };
        let entrant = Entrant { store: self.store.clone(), key };
        loop {
            let queue = self.store.list(&self.place).await?;
            match queue.iter().position(|entry| entry.key == entrant.key) {
                Some(0) => return Ok(Box::new(entrant)),
                Some(_) => changes.changed().await,
                None => return Err(StoreError::Conflict),
            }
        }
    }
}

#[async_trait]
impl Tenure for Entrant {
    fn held_until(&self) -> BootInstant {
        BootInstant::NEVER
    }

    fn renew_after(&self) -> Duration {
        Duration::from_millis(100)
    }

    async fn renew(&mut self) -> Result<Renewal, StoreError> {
        Ok(match self.store.get(&self.key).await? {
            Some(_) => Renewal::Extended,
            None => Renewal::Lost,
        })
    }

    async fn release(&mut self) {
        self.store.request().remove(self.key.as_str());
    }
}

impl Drop for Entrant {
    fn drop(&mut self) {
        self.store.state().remove(self.key.as_str());
    }
}
