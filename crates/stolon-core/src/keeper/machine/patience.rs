//! How long things are waited for: a primary's restart for its standbys, and the next look while somebody waits.

use std::time::Duration;

use crate::keeper::observation::Patience;
use crate::keeper::step::PendingRestart;

/// Between looks while somebody waits for what is about to happen.
const SOON: Duration = Duration::from_millis(25);
/// The same when it has not happened for a while.
const NOT_SO_SOON: Duration = Duration::from_millis(250);
const SOON_LASTS: Duration = Duration::from_secs(10);
/// How long a primary's restart waits for its standbys to restart first.
const RESTART_PATIENCE: Duration = Duration::from_secs(10);

/// Whether a primary was stopped only to be started again, and does not run yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RestartUnderWay {
    #[default]
    No,
    Yes,
}

/// A restart that waits for others, or is under way.
#[derive(Debug, Default)]
pub(super) struct RestartWait {
    since: Option<Duration>,
    pub(super) under_way: RestartUnderWay,
}

impl RestartWait {
    /// A pass has ended and found that.
    pub(super) fn passed(&mut self, now: Duration, restart: PendingRestart) {
        match restart {
            PendingRestart::Yes => _ = self.since.get_or_insert(now),
            PendingRestart::No => self.since = None,
        }
    }

    /// Whether it may go on waiting.
    pub(super) fn patience(&self, now: Duration) -> Patience {
        match self.since {
            Some(since) if now.saturating_sub(since) > RESTART_PATIENCE => Patience::Spent,
            _ => Patience::Left,
        }
    }
}

/// Somebody waits for what is about to happen here.
#[derive(Debug, Default)]
pub(super) struct Watchfulness {
    since: Option<Duration>,
}

impl Watchfulness {
    /// It is still about to happen: the pause before the next look.
    pub(super) fn pause(&mut self, now: Duration) -> Duration {
        let since = *self.since.get_or_insert(now);
        if now.saturating_sub(since) < SOON_LASTS { SOON } else { NOT_SO_SOON }
    }

    /// Nobody waits any more.
    pub(super) fn over(&mut self) {
        self.since = None;
    }
}

/// So many plans may follow each other without a pause: the longest way to a new instance has fewer.
const MOST_IN_A_ROW: u32 = 20;

/// Plans that each end with a look, on which the next one is made at once. What has no effect would be done again and again.
#[derive(Debug, Default)]
pub(super) struct Haste {
    in_a_row: u32,
}

impl Haste {
    /// A plan has ended, and another one is to follow it at once. Returns the pause before it, when that has become too much.
    pub(super) fn another(&mut self) -> Option<Duration> {
        self.in_a_row = self.in_a_row.saturating_add(1);
        (self.in_a_row > MOST_IN_A_ROW).then_some(NOT_SO_SOON)
    }

    /// A plan led somewhere, or something else is asked.
    pub(super) fn over(&mut self) {
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_planned_again_and_again_is_given_pauses() {
        let mut haste = Haste::default();
        assert!((0..MOST_IN_A_ROW).all(|_| haste.another().is_none()));
        assert_eq!(haste.another(), Some(NOT_SO_SOON));
        assert_eq!(haste.another(), Some(NOT_SO_SOON), "until it is over");
        haste.over();
        assert_eq!(haste.another(), None);
    }

    #[test]
    fn a_restart_waits_for_others_only_so_long() {
        let mut wait = RestartWait::default();
        for (second, restart, patience) in [
            (0, PendingRestart::Yes, Patience::Left),
            (10, PendingRestart::Yes, Patience::Left),
            (11, PendingRestart::Yes, Patience::Spent),
            (12, PendingRestart::No, Patience::Left),
            (13, PendingRestart::Yes, Patience::Left),
        ] {
            let now = Duration::from_secs(second);
            wait.passed(now, restart);
            assert_eq!(wait.patience(now), patience, "{second}");
        }
    }

    #[test]
    fn looks_follow_each_other_quickly_for_a_while() {
        let mut watchful = Watchfulness::default();
        assert_eq!(watchful.pause(Duration::from_secs(100)), SOON);
        assert_eq!(watchful.pause(Duration::from_secs(109)), SOON);
        assert_eq!(watchful.pause(Duration::from_secs(110)), NOT_SO_SOON);
        watchful.over();
        assert_eq!(watchful.pause(Duration::from_secs(111)), SOON);
    }
}
