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

impl FromIterator<Wake> for Wake {
    fn from_iter<I: IntoIterator<Item = Wake>>(wakes: I) -> Self {
        wakes.into_iter().fold(Wake::NEVER, Wake::or)
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
