//! Servers that end by themselves: how often, and when the next one is started.

use std::collections::VecDeque;
use std::time::Duration;

use crate::Backoff;

/// A server that lived shorter than this is not started again at once.
const LIVES_WELL: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Ends are counted within this time; the report says how many there were.
const WINDOW: Duration = Duration::from_secs(60);
/// More are not remembered: any budget is exceeded by then.
const MOST: usize = 1000;

/// The server's unexpected ends.
#[derive(Debug)]
pub(super) struct Deaths {
    started: Option<Duration>,
    recent: VecDeque<Duration>,
    pauses: Backoff,
}

impl Deaths {
    pub(super) fn new() -> Self {
        Deaths { started: None, recent: VecDeque::new(), pauses: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE) }
    }

    /// A server was started.
    pub(super) fn started(&mut self, now: Duration) {
        self.started = Some(now);
    }

    /// It was stopped by our own will.
    pub(super) fn stopped(&mut self) {
        self.started = None;
    }

    /// It ended without being asked to. Returns the pause before it is started again: none for one that had lived for a while; one
    /// that dies again and again is given longer and longer ones.
    pub(super) fn died(&mut self, now: Duration) -> Duration {
        self.recent.push_back(now);
        if self.recent.len() > MOST {
            self.recent.pop_front();
        }
        let lived = self.started.take().map_or(LIVES_WELL, |started| now.saturating_sub(started));
        if lived >= LIVES_WELL {
            self.pauses.reset();
            return Duration::ZERO;
        }
        self.pauses.next_pause()
    }

    /// Ends within the last minute.
    pub(super) fn within_a_minute(&self, now: Duration) -> u32 {
        let recent = self.recent.iter().filter(|at| now.saturating_sub(**at) < WINDOW).count();
        u32::try_from(recent).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_server_that_lived_is_started_at_once_and_one_that_does_not_live_is_given_pauses() {
        let mut deaths = Deaths::new();
        // Started at, died at, pause.
        for (started, died, pause) in
            [(0, 3000, 0), (3000, 4000, 200), (4200, 4300, 400), (5000, 5001, 800), (6000, 9000, 0)]
        {
            deaths.started(at(started));
            assert_eq!(deaths.died(at(died)), at(pause), "{started} {died}");
        }
        deaths.started(at(9000));
        assert_eq!(deaths.died(at(9001)), at(200), "a good life begins the pauses anew");
    }

    #[test]
    fn ends_count_for_a_minute() {
        let mut deaths = Deaths::new();
        for second in [0, 10, 20] {
            deaths.died(Duration::from_secs(second));
        }
        for (second, count) in [(20, 3), (59, 3), (60, 2), (75, 1), (80, 0)] {
            assert_eq!(deaths.within_a_minute(Duration::from_secs(second)), count, "{second}");
        }
    }

    #[test]
    fn a_server_that_we_stopped_has_not_lived_short() {
        let mut deaths = Deaths::new();
        deaths.started(at(0));
        deaths.stopped();
        assert_eq!(deaths.died(at(1)), Duration::ZERO);
    }
}
