//! How long an operator's pause holds.

use std::time::Duration;

use stolon_model::{Pause, Timestamp};

/// How long a pause lasts if nobody says.
pub const USUAL: Duration = Duration::from_secs(60 * 60);
/// No pause lasts longer, whatever the cluster data say: a cluster that nobody watches must not be forgotten in it.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a pause still holds; `None`: it has lapsed.
///
/// It ends at its time by the wall clock, so that an old one lapses that a store brings back which went back in time. Whoever has known
/// it for `known_for` does not let it last longer than it was meant to, whatever the clocks of two hosts make of its times.
pub fn left(pause: &Pause, wall: Timestamp, known_for: Duration) -> Option<Duration> {
    let span = |from: Timestamp, to: Timestamp| {
        Duration::try_from(to.instant().duration_since(from.instant())).unwrap_or(Duration::ZERO)
    };
    let meant = span(pause.since, pause.until).min(LONGEST);
    let left = span(wall, pause.until).min(meant.saturating_sub(known_for));
    (!left.is_zero()).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_at_its_time_and_lasts_no_longer_than_it_was_meant_to() {
        let at =
            |seconds: i64| Timestamp::utc(jiff::Timestamp::from_second(1_800_000_000 + seconds).unwrap());
        let pause = |since, until| Pause { since: at(since), until: at(until), ..Pause::default() };
        let day = LONGEST.as_secs();
        for (name, pause, wall, known_for, expected) in [
            ("begun", pause(0, 60), 0, 0, Some(60)),
            ("half over", pause(0, 60), 30, 30, Some(30)),
            ("over", pause(0, 60), 60, 60, None),
            ("an old one that comes back", pause(0, 60), 86_400, 0, None),
            ("a clock behind the operator's", pause(0, 60), -86_400, 0, Some(60)),
            ("the same, a while later", pause(0, 60), -86_350, 50, Some(10)),
            ("the same, in the end", pause(0, 60), -86_340, 60, None),
            ("a clock that was set back", pause(0, 60), -3_600, 59, Some(1)),
            ("a clock ahead of the operator's", pause(0, 60), 50, 0, Some(10)),
            ("longer than any may be", pause(0, 90 * 86_400), 0, 0, Some(day)),
            ("backwards", pause(60, 0), -60, 0, None),
        ] {
            let left = left(&pause, at(wall), Duration::from_secs(known_for));
            assert_eq!(left, expected.map(Duration::from_secs), "{name}");
        }
        assert_eq!(super::left(&Pause::default(), at(0), Duration::ZERO), None, "nothing was said");
    }
}
