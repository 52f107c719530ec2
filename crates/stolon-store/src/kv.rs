//! What a backend does: keys, bytes, revisions.

use std::time::Duration;

use async_trait::async_trait;

use crate::{Changes, Contender, StoreError, Watch};

/// A time to live that is shorter counts as this.
pub const MINIMUM_TTL: Duration = Duration::from_secs(20);

/// A key of the store: words joined by `/`. See [`crate::cluster_path`] for how it starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// A key as it stands in the store.
    pub fn new(text: impl Into<String>) -> Self {
        Key(text.into())
    }

    /// The key below this one, cleaned like a path.
    pub fn child(&self, name: &str) -> Self {
        Key(crate::path::join(&self.0, name))
    }

    /// The key as it stands in the store.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The common beginning of all keys below this one.
    pub fn children_prefix(&self) -> String {
        format!("{}/", self.0)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one write of a key. Opaque: only equality means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revision(pub i64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What must be in the store for a compare-and-put to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No such key.
    Absent,
    /// Exactly what was written there.
    Revision(Revision),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Vec<u8>,
    /// The write that put it there.
    pub revision: Revision,
}

/// A set of keys to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// One key.
    Key(Key),
    /// All keys below it.
    Below(Key),
}

impl Selector {
    /// True if the set contains the key.
    pub fn contains(&self, key: &str) -> bool {
        match self {
            Self::Key(own) => own.as_str() == key,
            Self::Below(parent) => {
                key.strip_prefix(parent.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
        }
    }
}

impl From<Selector> for Key {
    /// The key itself, or the one that all selected keys are below.
    fn from(selector: Selector) -> Key {
        match selector {
            Selector::Key(key) | Selector::Below(key) => key,
        }
    }
}

/// A state of the whole store; later ones are greater, unless the store itself went back in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i64);

impl Version {
    /// Before everything that was ever written.
    pub const START: Version = Version(0);
}

/// What was found among the selected keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The keys that were written after the version that was asked from. A store that must read all of them in any case gives all.
    pub changed: Vec<Entry>,
    /// How many keys there are, changed or not.
    pub count: usize,
    /// The state that was looked at.
    pub version: Version,
}

/// Whether others are woken by a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Others are woken.
    Wake,
    /// Others need not be woken and find the change when they next look. Where the store itself carries changes, they get it at once.
    Quiet,
}

/// A report, and what its writer wants to know at the same time.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The key of the report.
    pub key: Key,
    /// The report.
    pub value: Vec<u8>,
    /// See the contract: how long it may outlive its writer.
    pub ttl: Duration,
    /// Whether others are woken.
    pub notice: Notice,
    /// The key to read.
    pub read: Key,
}

/// A store of keys. The promises are those of the crate's documentation. A store may refuse values that are no text, keys
/// that have keys below them, and keys of no document of a cluster (Kubernetes): nothing needs them.
#[async_trait]
pub trait KvStore: Send + Sync + 'static {
    /// The value of a key, linearizable.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError>;

    /// All keys below `parent`, in order, linearizable.
    async fn list(&self, parent: &Key) -> Result<Vec<Entry>, StoreError>;

    /// What was written among the selected keys after `since`, linearizable, in one request.
    async fn look(&self, selector: &Selector, since: Version) -> Result<Look, StoreError>;

    /// Changes of the selected keys as the store itself tells of them: with their values where it can, otherwise as a
    /// request to look. Call inside a tokio runtime.
    fn changes(&self, selector: Selector) -> Changes {
        Changes::woken_by(self.watch(vec![selector]))
    }

    /// Write a report and read another key: one request, as of one moment, where the store can do that.
    async fn publish(&self, publication: Publication) -> Result<Look, StoreError>;

    /// Write, whatever is there. `ttl` below [`MINIMUM_TTL`] is raised to it.
    async fn put(&self, key: &Key, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), StoreError>;

    /// Write if the key is still as expected.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it is not.
    async fn compare_and_put(
        &self,
        key: &Key,
        value: Vec<u8>,
        expected: Expected,
    ) -> Result<Revision, StoreError>;

    /// Remove the key, if there is one.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;

    /// Wake after changes of any of these keys.
    fn watch(&self, selectors: Vec<Selector>) -> Watch;

    /// The leader at `place`: the name that it gave.
    async fn leader(&self, place: &Key) -> Result<Option<String>, StoreError>;

    /// A contender for the leadership at `place`.
    fn contender(&self, place: &Key, name: &str) -> Box<dyn Contender>;

    /// Requests sent so far.
    fn requests(&self) -> u64;
}
