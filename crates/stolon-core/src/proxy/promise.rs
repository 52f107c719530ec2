//! What the sentinel was told of this proxy, and how long it relies on that.

use std::time::Duration;

use super::{Claim, Timings};

/// The published reports, as far as deadlines follow from them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Promise {
    /// The timeout that holds: the last confirmed one, or a lower one that may have been published since.
    timeout: Duration,
    /// The last confirmed publication.
    lease: Option<Lease>,
    /// The publication under way.
    sending: Option<Sending>,
    /// What was last published, or was to be published.
    attempted: Option<Claim>,
}

/// A confirmed publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lease {
    /// The start of the publication plus the timeout that it named, or less where a lower timeout was published since.
    until: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sending {
    claim: Claim,
    at: Duration,
    limit: Duration,
}

/// What the sentinel certainly knew of this proxy when a reading of the cluster data began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Cover {
    /// The timeout that held then.
    timeout: Duration,
}

/// How a publication ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// How long it took.
    pub took: Duration,
    /// The limit of the publication.
    pub limit: Duration,
}

impl Promise {
    pub fn new() -> Self {
        Promise { timeout: Timings::INITIAL.timeout, lease: None, sending: None, attempted: None }
    }

    /// The timeout that holds now.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// True while a publication is under way.
    pub fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// True if exactly this was published last, or was to be published.
    pub fn was_attempted(&self, claim: Claim) -> bool {
        self.attempted == Some(claim)
    }

    /// True while the sentinel certainly knows of this proxy.
    pub fn is_in_force(&self, now: Duration) -> bool {
        self.lease.is_some_and(|lease| now < lease.until)
    }

    /// A publication begins. From now on the sentinel may go by a lower timeout, so that it holds at once; a higher one
    /// holds when it is confirmed.
    pub fn begin(&mut self, now: Duration, claim: Claim, limit: Duration) {
        self.timeout = self.timeout.min(claim.timeout);
        if let Some(lease) = &mut self.lease {
            lease.until = lease.until.min(now.saturating_add(claim.timeout));
        }
        self.attempted = Some(claim);
        self.sending = Some(Sending { claim, at: now, limit });
    }

    /// The publication is confirmed.
    pub fn taken(&mut self, now: Duration) -> Option<Sent> {
        let sending = self.sending.take()?;
        self.timeout = sending.claim.timeout;
        self.lease = Some(Lease { until: sending.at.saturating_add(sending.claim.timeout) });
        Some(sending.ended(now))
    }

    /// The outcome of the publication is unknown.
    pub fn refused(&mut self, now: Duration) -> Option<Sent> {
        Some(self.sending.take()?.ended(now))
    }

    /// What covers a reading of the cluster data that begins now; `None`: another reading is needed before anything opens.
    pub fn cover(&self, now: Duration) -> Option<Cover> {
        self.is_in_force(now).then_some(Cover { timeout: self.timeout })
    }

    /// Until when clients may be forwarded by a reading that began at `read_at`.
    ///
    /// A sentinel that has moved on without this proxy saw its report for twice the timeout without a change, and it saw the
    /// report that covers the reading or a later one: so the reading's start plus the timeout that held then is early enough.
    /// That nothing is forwarded beyond the last confirmed publication is more than the sentinel asks for.
    pub fn deadline(&self, read_at: Duration, cover: Option<Cover>) -> Option<Duration> {
        let timeout = cover?.timeout.min(self.timeout);
        Some(read_at.saturating_add(timeout).min(self.lease?.until))
    }
}

impl Sending {
    fn ended(self, now: Duration) -> Sent {
        Sent { took: now.saturating_sub(self.at), limit: self.limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn claim(timeout: u64) -> Claim {
        Claim { generation: 1, timeout: seconds(timeout) }
    }

    /// Confirmed at the moment it began.
    fn published(promise: &mut Promise, at: u64, timeout: u64) {
        promise.begin(seconds(at), claim(timeout), seconds(1));
        promise.taken(seconds(at)).unwrap();
    }

    #[test]
    fn a_reading_is_covered_only_by_a_publication_confirmed_before_it_and_in_force() {
        let mut promise = Promise::new();
        assert_eq!(promise.cover(seconds(0)), None);
        promise.begin(seconds(10), claim(3), seconds(1));
        assert_eq!(promise.cover(seconds(11)), None);
        promise.taken(seconds(12)).unwrap();
        assert!(promise.cover(seconds(12)).is_some());
        assert_eq!(promise.cover(seconds(13)), None, "counted from its start, not from its confirmation");
        assert_eq!(promise.deadline(seconds(12), None), None);
    }

    #[test]
    fn the_deadline_is_that_of_the_earlier_of_reading_and_publication() {
        let mut promise = Promise::new();
        published(&mut promise, 10, 15);
        let cover = promise.cover(seconds(12));
        assert_eq!(promise.deadline(seconds(12), cover), Some(seconds(25)));
        published(&mut promise, 20, 15);
        assert_eq!(promise.deadline(seconds(12), cover), Some(seconds(27)));
    }

    #[test]
    fn a_lower_timeout_holds_when_its_publication_begins_however_that_ends() {
        let mut promise = Promise::new();
        published(&mut promise, 10, 3600);
        let cover = promise.cover(seconds(10));
        promise.begin(seconds(20), claim(2), seconds(1));
        assert_eq!(promise.deadline(seconds(10), cover), Some(seconds(12)));
        promise.refused(seconds(21)).unwrap();
        assert_eq!(promise.timeout(), seconds(2));
        assert_eq!(promise.cover(seconds(21)).map(|cover| cover.timeout), Some(seconds(2)));
        assert_eq!(promise.cover(seconds(22)), None);
    }

    #[test]
    fn a_higher_timeout_holds_for_readings_that_begin_after_its_confirmation() {
        let mut promise = Promise::new();
        published(&mut promise, 10, 3);
        let before = promise.cover(seconds(11));
        promise.begin(seconds(11), claim(60), seconds(1));
        assert_eq!(promise.timeout(), seconds(3));
        promise.taken(seconds(12)).unwrap();
        assert_eq!(promise.deadline(seconds(11), before), Some(seconds(14)));
        assert_eq!(promise.deadline(seconds(12), promise.cover(seconds(12))), Some(seconds(71)));
    }
}
