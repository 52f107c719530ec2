//! Values that are hashed once, when they are made: states of a model are hashed far more often than their parts change.

use std::fmt::{Debug, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A shared value with the hash of what it prints. Two with the same hash count as equal, as they do for the checker, which knows states by their hashes only.
#[derive(Clone)]
pub(crate) struct Hashed<T> {
    value: Arc<T>,
    hash: u64,
}

struct Feed(DefaultHasher);

impl std::fmt::Write for Feed {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl<T: Debug> Hashed<T> {
    pub fn new(value: T) -> Self {
        let mut feed = Feed(DefaultHasher::new());
        // Hashing cannot fail.
        let _ = write!(feed, "{value:?}");
        Hashed { value: Arc::new(value), hash: feed.0.finish() }
    }
}

impl<T> Deref for Hashed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> PartialEq for Hashed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl<T> Eq for Hashed<T> {}

impl<T> Hash for Hashed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl<T: Debug> Debug for Hashed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.value.fmt(f)
    }
}
