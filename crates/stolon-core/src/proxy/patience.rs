//! How long to wait for the store, given how fast it has answered.

use std::time::Duration;

use crate::latency::Latency;

/// The first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// A pause that doubles with each failure in a row, up to `longest`. No [`crate::Backoff`]: the limit changes with the cluster data, and
/// failures of one check that come together count once.
pub(super) fn pause_after(failures: u32, longest: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_PAUSE.saturating_mul(1 << doublings).min(longest)
}

/// What is known of the latency of requests, also of those that brought no answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Patience {
    latency: Latency,
    /// Requests in a row that were given up.
    given_up: u32,
}

impl Patience {
    /// How long to wait for the next answer. A third of the timeout leaves time for another attempt where the store is fast;
    /// where it is slow four times what was seen gives up on nothing that would have come.
    pub fn limit(&self, timeout: Duration) -> Duration {
        let usual = (timeout / 3).max(self.latency.usual() * 4);
        usual.saturating_mul(1 << self.given_up.min(4))
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

    const TIMEOUT: Duration = Duration::from_secs(3);

    #[test]
    fn limits_follow_the_latency_that_is_seen() {
        let mut patience = Patience::default();
        assert_eq!(patience.limit(TIMEOUT), Duration::from_secs(1));
        patience.answered(Duration::from_millis(500));
        assert_eq!(patience.limit(TIMEOUT), Duration::from_secs(2));
        for _ in 0..40 {
            patience.answered(Duration::from_millis(2));
        }
        assert_eq!(patience.limit(TIMEOUT), Duration::from_secs(1));
    }

    #[test]
    fn who_gave_up_waits_longer_the_next_time() {
        let mut patience = Patience::default();
        patience.failed(Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(patience.limit(TIMEOUT), Duration::from_secs(2));
        patience.failed(Duration::from_millis(1), Duration::from_secs(2));
        assert_eq!(patience.limit(TIMEOUT), Duration::from_secs(2), "an early error is not slowness");
        for _ in 0..100 {
            patience.failed(Duration::from_secs(60), Duration::from_secs(2));
        }
        assert_eq!(patience.limit(TIMEOUT), Duration::from_secs(16));
        patience.answered(Duration::from_millis(2));
        assert_eq!(patience.limit(TIMEOUT), Duration::from_secs(1));
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<_> =
            (1..6).map(|failures| pause_after(failures, Duration::from_secs(1)).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1000]);
        assert_eq!(pause_after(u32::MAX, Duration::from_secs(5)), Duration::from_secs(5));
    }
}
