//! How slow the store is.

use std::time::Duration;

/// No request takes longer than the store's own limit; what took longer was this process being stopped.
const CEILING: Duration = Duration::from_secs(5);

/// How long requests to the store take: the longest of the last ones, forgotten by and by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Latency {
    usual: Duration,
}

impl Latency {
    /// A request took so long.
    pub fn note(&mut self, took: Duration) {
        self.usual = took.min(CEILING).max(self.usual.mul_f64(0.9));
    }

    /// What a request usually takes at the most.
    pub fn usual(&self) -> Duration {
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
