//! When a verdict would change by itself.

use std::time::Duration;

/// The earliest moment, on the monotonic clock, at which a rule would decide otherwise although nothing else is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wake(Option<Duration>);

impl Wake {
    /// Time alone changes nothing.
    pub const NEVER: Wake = Wake(None);

    /// At this moment.
    pub fn at(moment: Duration) -> Self {
        Wake(Some(moment))
    }

    /// The earlier one of two.
    pub fn or(self, other: Wake) -> Self {
        Wake([self.0, other.0].into_iter().flatten().min())
    }

    /// The moment, if it lies after `now`.
    pub fn after(self, now: Duration) -> Option<Duration> {
        self.0.filter(|moment| *moment > now)
    }
}

/// How far a span of time has run that something may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// It is over.
    Over,
    /// It is over from this moment on.
    Until(Duration),
}

impl Limit {
    /// The limit `span` of what began at `since`, as of `now`. The last moment of the span belongs to it.
    pub fn of(since: Duration, span: Duration, now: Duration) -> Self {
        let end = since.saturating_add(span);
        if now > end { Limit::Over } else { Limit::Until(end.saturating_add(Duration::from_millis(1))) }
    }

    pub fn is_over(self) -> bool {
        self == Limit::Over
    }

    /// When to look at it again.
    pub fn wake(self) -> Wake {
        match self {
            Limit::Over => Wake::NEVER,
            Limit::Until(moment) => Wake::at(moment),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_last_moment_of_a_span_belongs_to_it() {
        let limit = |now| Limit::of(SECOND, SECOND * 2, now);
        assert_eq!(limit(SECOND * 3), Limit::Until(Duration::from_millis(3001)));
        assert!(limit(Duration::from_millis(3001)).is_over());
        assert_eq!(limit(SECOND * 9).wake(), Wake::NEVER, "time changes nothing any more");
    }

    #[test]
    fn the_earliest_moment_to_come_counts() {
        let wake = Wake::at(SECOND * 5).or(Wake::NEVER).or(Wake::at(SECOND * 3));
        assert_eq!(wake.after(SECOND), Some(SECOND * 3));
        assert_eq!(wake.after(SECOND * 3), None, "a moment that has come needs no wake");
    }
}
