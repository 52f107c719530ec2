//! The latency of the store, as sentinels and proxies reckon with it. A keeper only judges the answer at hand, see its orders.

use std::time::Duration;

/// A request that took longer says that this process was stopped meanwhile, and nothing about the store.
const CEILING: Duration = Duration::from_secs(5);

/// How long requests to the store take: the longest of the last ones, forgotten by and by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Latency {
    usual: Duration,
}

impl Latency {
    /// Note how long a request took.
    pub fn note(&mut self, took: Duration) {
        self.usual = took.min(CEILING).max(self.usual * 7 / 8);
    }

    /// How long a request usually takes at the most.
    pub fn usual(self) -> Duration {
        self.usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_request_counts_and_is_forgotten_by_and_by() {
        let mut latency = Latency::default();
        latency.note(Duration::from_secs(60));
        assert_eq!(latency.usual(), CEILING, "a process that was stopped for a minute has no slow store");
        for _ in 0..100 {
            latency.note(Duration::from_millis(20));
        }
        assert_eq!(latency.usual(), Duration::from_millis(20));
    }
}
