//! How long the store takes to answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{
    Changes, Contender, Entry, Expected, Key, KvStore, Look, Publication, Revision, Selector, StoreError,
    Version, Watch,
};

/// Upper bounds in seconds, from a file on this machine to a store that is given up.
const BOUNDS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// How long requests of one kind took, answered or not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latencies {
    counts: [u64; BOUNDS.len() + 1],
    /// Seconds in all.
    pub seconds: f64,
    /// Of them, so many brought no answer, or a refusal. A write that lost against another one is none.
    pub failures: u64,
}

impl Latencies {
    fn note<T>(&mut self, took: Duration, answer: &Result<T, StoreError>) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[bucket] += 1;
        self.seconds += seconds;
        let is_failure = !matches!(answer, Ok(_) | Err(StoreError::Conflict));
        self.failures += u64::from(is_failure);
    }

    /// How many requests there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many requests each range of seconds holds: the upper bound of the range, and the requests that are in no range before it.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        BOUNDS.into_iter().chain([f64::INFINITY]).zip(self.counts)
    }
}

/// Requests, by what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RequestLatencies {
    /// What changes nothing.
    pub reads: Latencies,
    /// What changes something.
    pub writes: Latencies,
}

/// A store whose answers are timed.
pub(crate) struct Timed<K> {
    pub(crate) store: K,
    latencies: Arc<Mutex<RequestLatencies>>,
}

impl<K> Timed<K> {
    pub(crate) fn new(store: K) -> Self {
        Timed { store, latencies: Arc::default() }
    }

    pub(crate) fn latencies(&self) -> RequestLatencies {
        *self.latencies.lock()
    }

    async fn read<T>(&self, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.timed(answer, |latencies| &mut latencies.reads).await
    }

    async fn write<T>(&self, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.timed(answer, |latencies| &mut latencies.writes).await
    }

    async fn timed<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
        kind: fn(&mut RequestLatencies) -> &mut Latencies,
    ) -> Result<T, StoreError> {
        let asked = Instant::now();
        let answer = answer.await;
        kind(&mut self.latencies.lock()).note(asked.elapsed(), &answer);
        answer
    }
}

#[async_trait]
impl<K: KvStore> KvStore for Timed<K> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.read(self.store.get(key)).await
    }

    async fn list(&self, parent: &Key) -> Result<Vec<Entry>, StoreError> {
        self.read(self.store.list(parent)).await
    }

    async fn look(&self, selector: &Selector, since: Version) -> Result<Look, StoreError> {
        self.read(self.store.look(selector, since)).await
    }

    fn changes(&self, selector: Selector) -> Changes {
        self.store.changes(selector)
    }

    async fn publish(&self, publication: Publication) -> Result<Look, StoreError> {
        self.write(self.store.publish(publication)).await
    }

    async fn put(&self, key: &Key, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), StoreError> {
        self.write(self.store.put(key, value, ttl)).await
    }

    async fn compare_and_put(
        &self,
        key: &Key,
        value: Vec<u8>,
        expected: Expected,
    ) -> Result<Revision, StoreError> {
        self.write(self.store.compare_and_put(key, value, expected)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.write(self.store.delete(key)).await
    }

    fn watch(&self, selectors: Vec<Selector>) -> Watch {
        self.store.watch(selectors)
    }

    async fn leader(&self, place: &Key) -> Result<Option<String>, StoreError> {
        self.read(self.store.leader(place)).await
    }

    fn contender(&self, place: &Key, name: &str) -> Box<dyn Contender> {
        self.store.contender(place, name)
    }

    fn requests(&self) -> u64 {
        self.store.requests()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    #[test]
    fn requests_are_counted_in_the_range_of_their_time() {
        let mut latencies = Latencies::default();
        for milliseconds in [0, 1, 30, 700, 9000] {
            let answer = match milliseconds {
                9000 => Err(StoreError::Unreachable { cause: String::new(), hint: String::new() }),
                _ => Ok(()),
            };
            latencies.note(Duration::from_millis(milliseconds), &answer);
        }
        let in_use: Vec<(f64, u64)> = latencies.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(in_use, [(0.001, 2), (0.05, 1), (1.0, 1), (f64::INFINITY, 1)]);
        assert_eq!((latencies.count(), latencies.failures), (5, 1));
        assert!((latencies.seconds - 9.731).abs() < 1e-9, "{}", latencies.seconds);
    }

    #[tokio::test]
    async fn reads_and_writes_are_told_apart_and_a_lost_race_is_no_failure() {
        let store = Timed::new(MemoryStore::new());
        let key = Key::new("a");
        store.put(&key, Vec::new(), None).await.unwrap();
        store.compare_and_put(&key, Vec::new(), Expected::Absent).await.unwrap_err();
        store.get(&key).await.unwrap();
        let RequestLatencies { reads, writes } = store.latencies();
        assert_eq!((reads.count(), writes.count(), reads.failures, writes.failures), (1, 2, 0, 0));
    }
}
