//! When a report goes out: in every interval, and at once when something happened that others wait for.

use std::time::Duration;

use stolon_model::KeeperReport;

use crate::Backoff;

/// The publication of reports.
#[derive(Debug)]
pub(super) struct Publisher {
    under_way: bool,
    /// The report that was tried last.
    published: Option<KeeperReport>,
    due: Duration,
    backoff: Backoff,
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
        Publisher { under_way: false, published: None, due: Duration::ZERO, backoff }
    }

    /// Whether a report could be wanted now, so that it is worth the making.
    pub(super) fn may_want(&self, now: Duration, news: News) -> bool {
        !self.under_way && (now >= self.due || news == News::Perhaps)
    }

    /// Whether `report` is to go out now.
    pub(super) fn wants(&mut self, now: Duration, report: &KeeperReport) -> bool {
        if self.under_way || now >= self.due {
            return !self.under_way;
        }
        let Some(last) = &mut self.published else { return true };
        if let (Some(last), Some(activity)) = (&mut last.activity, &report.activity) {
            // The count grows with what others wait for, and falls by itself.
            last.restarts = activity.restarts;
        }
        !last.says_the_same_as(report)
    }

    /// It goes out.
    pub(super) fn begins(&mut self, report: &KeeperReport) {
        self.under_way = true;
        self.published = Some(report.clone());
    }

    /// The store has it.
    pub(super) fn taken(&mut self, now: Duration, interval: Duration) {
        self.under_way = false;
        self.backoff = Backoff::new(interval / 10, interval);
        self.due = now + interval;
    }

    /// The store does not have it, or nobody knows.
    pub(super) fn refused(&mut self, now: Duration) {
        self.under_way = false;
        self.due = now + self.backoff.next_pause();
    }

    /// When the next one is due if nothing happens before; none while one is under way.
    pub(super) fn due(&self) -> Option<Duration> {
        (!self.under_way).then_some(self.due)
    }
}

#[cfg(test)]
mod tests {
    use stolon_model::{KeeperActivity, Lsn, PostgresState, Served};

    use super::*;

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
        publisher.begins(&first);
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
        publisher.begins(&first);
        assert!(!publisher.wants(Duration::from_secs(100), &other));
        assert_eq!(publisher.due(), None);
        publisher.refused(Duration::from_secs(100));
        assert!(!publisher.wants(Duration::from_secs(100), &first), "the same after a pause");
        assert!(publisher.wants(Duration::from_secs(100), &other), "news at once");
        assert!(publisher.wants(publisher.due().unwrap(), &first));
    }
}
