//! When a report goes out: in every interval, and at once when something happened that others wait for.

use std::time::Duration;

use stolon_model::KeeperReport;

use super::orders::Pace;
use crate::Backoff;
use crate::latency::Patience;

/// The publication of reports.
#[derive(Debug)]
pub(super) struct Publisher {
    under_way: Option<Sent>,
    /// The report that was tried last.
    published: Option<KeeperReport>,
    due: Duration,
    backoff: Backoff,
    patience: Patience,
}

/// A report on its way to the store.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Duration,
    limit: Duration,
}

/// Whether something happened that a report could tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Perhaps,
    None,
}

impl Publisher {
    pub(super) fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        Publisher {
            under_way: None,
            published: None,
            due: Duration::ZERO,
            backoff,
            patience: Patience::default(),
        }
    }

    /// Whether a report could be wanted now, so that it is worth the making.
    pub(super) fn may_want(&self, now: Duration, news: News) -> bool {
        self.under_way.is_none() && (now >= self.due || news == News::Perhaps)
    }

    /// Whether `report` is to go out now.
    pub(super) fn wants(&mut self, now: Duration, report: &KeeperReport) -> bool {
        if self.under_way.is_some() || now >= self.due {
            return self.under_way.is_none();
        }
        let Some(last) = &mut self.published else { return true };
        if let (Some(last), Some(activity)) = (&mut last.activity, &report.activity) {
            // The count grows with what others wait for, and falls by itself.
            last.restarts = activity.restarts;
        }
        !last.says_the_same_as(report)
    }

    /// It goes out. Returns when to give it up.
    pub(super) fn begins(&mut self, now: Duration, report: &KeeperReport, pace: Pace) -> Duration {
        let limit = self.limit(pace);
        self.under_way = Some(Sent { at: now, limit });
        self.published = Some(report.clone());
        limit
    }

    /// A report that hangs because the store was away must be given up, and followed by the next one, before sentinels that read the store
    /// again take the silence for a failure. They leave two sleep intervals for that at least; the pause before the next report takes one
    /// more at most. A store that is slow gets longer, but for that.
    fn limit(&self, pace: Pace) -> Duration {
        let longest = pace.fail.saturating_sub(pace.sleep * 3).max(pace.sleep);
        let limit = self.patience.limit(pace.sleep / 2).min(longest.max(self.patience.slowest() * 2));
        Duration::from_millis(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
    }

    /// The store has it.
    pub(super) fn taken(&mut self, now: Duration, interval: Duration) {
        if let Some(sent) = self.under_way.take() {
            self.patience.answered(now.saturating_sub(sent.at).min(sent.limit));
        }
        self.backoff = Backoff::new(interval / 10, interval);
        self.due = now + interval;
    }

    /// The store does not have it, or nobody knows.
    pub(super) fn refused(&mut self, now: Duration) {
        if let Some(sent) = self.under_way.take() {
            self.patience.failed(now.saturating_sub(sent.at), sent.limit);
        }
        self.due = now + self.backoff.next_pause();
    }

    /// When the next one is due if nothing happens before; none while one is under way.
    pub(super) fn due(&self) -> Option<Duration> {
        self.under_way.is_none().then_some(self.due)
    }
}

#[cfg(test)]
mod tests {
    use stolon_model::{KeeperActivity, Lsn, PostgresState, Served};

    use super::*;

    const PACE: Pace = Pace {
        sleep: Duration::from_secs(1),
        request: Duration::from_secs(10),
        fail: Duration::from_secs(6),
    };

    fn report(change: impl FnOnce(&mut PostgresState, &mut KeeperActivity)) -> KeeperReport {
        let (mut state, mut activity) = (PostgresState::default(), KeeperActivity::default());
        activity.served = Some(Served::default());
        change(&mut state, &mut activity);
        let mut report = KeeperReport::default();
        (report.postgres_state, report.activity) = (Some(state), Some(activity));
        report
    }

    #[test]
    fn what_others_wait_for_goes_out_at_once_and_positions_with_the_next_interval() {
        let mut publisher = Publisher::new();
        let first = report(|_, _| ());
        assert!(publisher.wants(Duration::ZERO, &first));
        publisher.begins(Duration::ZERO, &first, PACE);
        publisher.taken(Duration::ZERO, Duration::from_secs(5));
        let moved = report(|state, activity| {
            state.lsn = Lsn(9);
            state.older_wal_file = "000000010000000000000001".into();
            activity.bytes_done = 7;
            activity.served.as_mut().unwrap().lsn = Lsn(9);
        });
        let healthy = report(|state, _| state.healthy = true);
        let step = report(|_, activity| activity.step = "promoting".into());
        for (second, what, wanted) in
            [(1, &first, false), (1, &moved, false), (1, &healthy, true), (1, &step, true), (5, &first, true)]
        {
            assert_eq!(publisher.wants(Duration::from_secs(second), what), wanted, "{second} {what:?}");
        }
    }

    #[test]
    fn only_one_is_under_way_and_a_refused_one_is_tried_again_soon() {
        let mut publisher = Publisher::new();
        let (first, other) = (report(|_, _| ()), report(|state, _| state.healthy = true));
        publisher.begins(Duration::ZERO, &first, PACE);
        assert!(!publisher.wants(Duration::from_secs(100), &other));
        assert_eq!(publisher.due(), None);
        publisher.refused(Duration::from_secs(100));
        assert!(!publisher.wants(Duration::from_secs(100), &first), "the same after a pause");
        assert!(publisher.wants(Duration::from_secs(100), &other), "news at once");
        assert!(publisher.wants(publisher.due().unwrap(), &first));
    }

    /// The limits of reports that are answered, or given up, after so many milliseconds each.
    #[test]
    fn a_limit_follows_the_latency_and_leaves_time_for_the_next_report() {
        let slow = Pace { fail: Duration::from_secs(3), ..PACE };
        for (pace, answers, limits) in [
            // An outage, then the store is back.
            (PACE, &[None, None, None, None, Some(2), Some(2)][..], &[500, 1000, 2000, 3000, 3000, 500][..]),
            // A store that takes long.
            (PACE, &[Some(400), Some(400), Some(2)], &[500, 1600, 1600]),
            (slow, &[None, None, Some(900), Some(900), None], &[500, 1000, 1000, 1800, 1800]),
        ] {
            let mut publisher = Publisher::new();
            for (answer, limit) in answers.iter().zip(limits) {
                let given = publisher.begins(Duration::ZERO, &report(|_, _| ()), pace);
                assert_eq!(given.as_millis(), *limit, "{answers:?}");
                match answer {
                    Some(after) => publisher.taken(Duration::from_millis(*after), pace.sleep),
                    None => publisher.refused(given),
                }
            }
        }
    }
}
