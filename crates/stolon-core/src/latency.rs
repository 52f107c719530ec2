//! The latency of the store, as all programs reckon with it. What a keeper reads is judged by the answer at hand, see its orders.

use std::time::Duration;

/// A request that took longer says that this process was stopped meanwhile, and nothing about the store.
const CEILING: Duration = Duration::from_secs(5);

/// How long requests to the store take: the longest of the last ones, forgotten by and by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Latency {
    usual: Duration,
}

impl Latency {
    /// Note how long a request took that the store has answered. How long one waits for a store that is away says nothing about the next
    /// answer, and with a long latency the next outage would pass for silence of keepers.
    pub fn note(&mut self, took: Duration) {
        self.usual = took.min(CEILING).max(self.usual * 7 / 8);
    }

    /// How long a request usually takes at the most.
    pub fn usual(self) -> Duration {
        self.usual
    }
}

/// What is known of the latency of requests, also of those that brought no answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Patience {
    latency: Latency,
    /// Requests in a row that were given up.
    given_up: u32,
}

impl Patience {
    /// How long to wait for the next answer. `usual` is to leave time for another attempt where the store is fast; where it is slow
    /// four times what was seen gives up on nothing that would have come.
    pub fn limit(&self, usual: Duration) -> Duration {
        let usual = usual.max(self.latency.usual() * 4);
        usual.saturating_mul(1 << self.given_up.min(4))
    }

    /// The slowest answer of late.
    pub fn slowest(&self) -> Duration {
        self.latency.usual()
    }

    /// An answer came after `took`.
    pub fn answered(&mut self, took: Duration) {
        self.latency.note(took);
        self.given_up = 0;
    }

    /// No good answer came for `took`, of at most `limit`. An error that came early says nothing about latency.
    pub fn failed(&mut self, took: Duration, limit: Duration) {
        if took >= limit {
            self.given_up = self.given_up.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_secs(1);

    #[test]
    fn limits_follow_the_latency_that_is_seen() {
        let mut patience = Patience::default();
        assert_eq!(patience.limit(USUAL), Duration::from_secs(1));
        patience.answered(Duration::from_millis(500));
        assert_eq!(patience.limit(USUAL), Duration::from_secs(2));
        for _ in 0..40 {
            patience.answered(Duration::from_millis(2));
        }
        assert_eq!(patience.limit(USUAL), Duration::from_secs(1));
    }

    #[test]
    fn who_gave_up_waits_longer_the_next_time() {
        let mut patience = Patience::default();
        patience.failed(Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(patience.limit(USUAL), Duration::from_secs(2));
        patience.failed(Duration::from_millis(1), Duration::from_secs(2));
        assert_eq!(patience.limit(USUAL), Duration::from_secs(2), "an early error is not slowness");
        for _ in 0..100 {
            patience.failed(Duration::from_secs(60), Duration::from_secs(2));
        }
        assert_eq!(patience.limit(USUAL), Duration::from_secs(16));
        patience.answered(Duration::from_millis(2));
        assert_eq!(patience.limit(USUAL), Duration::from_secs(1));
    }

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
