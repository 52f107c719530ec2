//! When PostgreSQL is looked at: twice in each interval, and more often for a while after something happened to it, since what was
//! begun shows its effect a little later.

use std::time::Duration;

/// Between looks while what was begun may yet show its effect: a standby that was given another primary streams from it
/// some tens or hundreds of milliseconds later, and synchronous commits wait until the sentinel knows that.
const SOON: Duration = Duration::from_millis(25);
/// Between looks while a standby that commits wait for is behind.
pub(super) const WATCHED: Duration = Duration::from_secs(1);
/// How long that may take.
const SOON_LASTS: Duration = Duration::from_secs(2);

/// The looks.
#[derive(Debug, Default)]
pub(super) struct Looks {
    under_way: Option<UnderWay>,
    due: Duration,
    restless_until: Duration,
    completed: u64,
    /// When the last one began that has ended.
    last_began: Duration,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    began: Duration,
    /// PostgreSQL was changed meanwhile.
    outdated: bool,
    /// It was said that it takes long.
    complained: bool,
}

/// What a look that has ended is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// It shows PostgreSQL as it is.
    Valid,
    /// PostgreSQL was changed while it ran.
    Outdated,
}

impl Looks {
    /// A look begins.
    pub(super) fn begin(&mut self, now: Duration) {
        self.under_way = Some(UnderWay { began: now, outdated: false, complained: false });
    }

    /// The look has ended. `usual` is the pause before the next one when nothing happens.
    pub(super) fn ended(&mut self, now: Duration, usual: Duration) -> Worth {
        let ended = self.under_way.take();
        self.last_began = ended.map_or(now, |look| look.began);
        let outdated = ended.is_some_and(|look| look.outdated);
        self.due = match (outdated, now < self.restless_until) {
            (true, _) => now,
            (false, true) => now + usual.min(SOON),
            (false, false) => now + usual,
        };
        if outdated {
            return Worth::Outdated;
        }
        self.completed += 1;
        Worth::Valid
    }

    /// When the last look began that has ended: what it shows is as old.
    pub(super) fn last_began(&self) -> Duration {
        self.last_began
    }

    /// How many looks showed PostgreSQL as it was.
    pub(super) fn completed(&self) -> u64 {
        self.completed
    }

    /// Nothing shows an effect by itself, since no server runs or what is done leads nowhere: the next look comes after `pause`.
    pub(super) fn calm_down(&mut self, now: Duration, pause: Duration) {
        (self.restless_until, self.due) = (now, now + pause);
    }

    /// Something happened to PostgreSQL: what a look under way finds may be of before, and the next one is due.
    pub(super) fn something_happened(&mut self, now: Duration) {
        self.again(now);
        self.restless_until = now + SOON_LASTS;
    }

    /// What counts is what a look shows that begins from now on. One will do.
    pub(super) fn again(&mut self, now: Duration) {
        if let Some(look) = &mut self.under_way {
            look.outdated = true;
        }
        self.due = now;
    }

    /// Whatever comes of the last look is watched: the next one comes within this pause.
    pub(super) fn within(&mut self, now: Duration, pause: Duration) {
        self.due = self.due.min(now + pause);
    }

    /// Something is about to show: looks follow each other quickly for a while.
    pub(super) fn stay_restless(&mut self, now: Duration) {
        self.restless_until = now + SOON_LASTS;
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether a look is to begin now by itself.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.under_way.is_none() && now >= self.due
    }

    /// True once when the look under way takes longer than `limit`: bad news by itself.
    pub(super) fn takes_long(&mut self, now: Duration, limit: Duration) -> bool {
        match &mut self.under_way {
            Some(look) if !look.complained && now.saturating_sub(look.began) >= limit => {
                look.complained = true;
                true
            }
            _ => false,
        }
    }

    /// When something is due here.
    pub(super) fn wake(&self, limit: Duration) -> Option<Duration> {
        match &self.under_way {
            None => Some(self.due),
            Some(look) => (!look.complained).then(|| look.began + limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_millis(2500);

    #[test]
    fn looks_come_twice_in_an_interval_and_more_often_after_something_happened() {
        let mut looks = Looks::default();
        assert!(looks.is_due(Duration::ZERO));
        looks.begin(Duration::ZERO);
        assert!(!looks.is_due(Duration::from_secs(100)), "one at a time");
        assert_eq!(looks.ended(Duration::ZERO, USUAL), Worth::Valid);
        assert_eq!(looks.wake(USUAL), Some(USUAL));
        looks.something_happened(Duration::from_millis(100));
        assert!(looks.is_due(Duration::from_millis(100)));
        looks.begin(Duration::from_millis(100));
        looks.ended(Duration::from_millis(110), USUAL);
        assert_eq!(looks.wake(USUAL), Some(Duration::from_millis(135)));
        looks.begin(Duration::from_millis(2099));
        looks.ended(Duration::from_millis(2100), USUAL);
        assert_eq!(looks.wake(USUAL), Some(Duration::from_millis(4600)), "calm again");
        looks.something_happened(Duration::from_millis(5000));
        looks.begin(Duration::from_millis(5000));
        looks.ended(Duration::from_millis(5010), USUAL);
        looks.calm_down(Duration::from_millis(5010), USUAL);
        assert_eq!(looks.wake(USUAL), Some(Duration::from_millis(7510)), "nothing runs that could change");
    }

    #[test]
    fn a_look_during_which_postgresql_was_changed_shows_nothing_and_is_repeated() {
        let mut looks = Looks::default();
        looks.begin(Duration::ZERO);
        looks.something_happened(Duration::from_millis(5));
        assert_eq!(looks.ended(Duration::from_millis(10), USUAL), Worth::Outdated);
        assert!(looks.is_due(Duration::from_millis(10)));
    }

    #[test]
    fn a_look_that_takes_long_is_complained_about_once() {
        let mut looks = Looks::default();
        looks.begin(Duration::ZERO);
        assert!(!looks.takes_long(Duration::from_secs(1), Duration::from_secs(2)));
        assert_eq!(looks.wake(Duration::from_secs(2)), Some(Duration::from_secs(2)));
        assert!(looks.takes_long(Duration::from_secs(2), Duration::from_secs(2)));
        assert!(!looks.takes_long(Duration::from_secs(3), Duration::from_secs(2)));
        assert_eq!(looks.wake(Duration::from_secs(2)), None);
    }
}
