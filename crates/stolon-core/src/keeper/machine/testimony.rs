//! What others report to have served under, before a primary is started here: a keeper that was down while the store went back in time
//! knows of nothing newer itself.

use std::time::Duration;

use stolon_model::{ClusterData, Explained, KeeperUid};

use super::Machine;
use super::course::{Awaits, Pursuit};
use super::orders::{FRESH, LEAST_INTERVAL};
use crate::keeper::event::{Effect, Reports};
use crate::keeper::goal::OlderThanServed;
use crate::keeper::step::Step;
use crate::sentinel::{Ahead, Witnesses};

/// A store that answers, but for the reports, keeps a primary from its start no longer than this: two limits of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// The reports of the others, and how old they are.
#[derive(Debug, Default)]
pub(super) struct Testimony {
    asked: Option<Duration>,
    heard: Option<Heard>,
    /// So long do answers take. One that takes far longer, because the process was frozen meanwhile, hardly counts.
    latency: Duration,
    /// The store has not given them since then.
    missing_since: Option<Duration>,
}

#[derive(Debug)]
struct Heard {
    as_of: Duration,
    reports: Box<Reports>,
}

/// What is known of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// They are to be read.
    Unread,
    /// Nobody has served under anything newer, or nobody can be asked.
    Nothing,
    /// This keeper has.
    Newer(Box<Ahead>),
}

impl Testimony {
    /// They are to be read now; false while they are being read.
    fn ask(&mut self, now: Duration) -> bool {
        let begins = self.asked.is_none();
        self.asked.get_or_insert(now);
        begins
    }

    fn read(&mut self, now: Duration, read: Result<Box<Reports>, String>) -> Result<(), String> {
        let asked = self.asked.take().unwrap_or(now);
        self.latency = now.saturating_sub(asked).min(2 * self.latency + LEAST_INTERVAL);
        match read {
            Ok(reports) => {
                self.heard = Some(Heard { as_of: asked, reports });
                self.missing_since = None;
                Ok(())
            }
            Err(why) => {
                self.missing_since.get_or_insert(now);
                Err(why)
            }
        }
    }

    /// Nothing is begun for which they would be needed: those of many keepers take room.
    pub(super) fn forget(&mut self) {
        self.heard = None;
    }

    /// What the others say about these cluster data.
    fn about(&self, data: &ClusterData, us: &KeeperUid, now: Duration) -> Finding {
        let limit = FRESH + 2 * self.latency;
        let fresh = self.heard.as_ref().filter(|heard| now.saturating_sub(heard.as_of) <= limit);
        let Some(Heard { reports, .. }) = fresh else {
            let given_up = self.missing_since.is_some_and(|since| now.saturating_sub(since) >= PATIENCE);
            return if given_up { Finding::Nothing } else { Finding::Unread };
        };
        let witnesses = Witnesses { keepers: &reports.keepers, sentinels: &reports.sentinels };
        // What we have served under ourselves is on our own disk.
        let newer = witnesses.ahead(data).into_iter().find(|ahead| ahead.keeper != *us);
        newer.map_or(Finding::Nothing, |ahead| Finding::Newer(Box::new(ahead)))
    }
}

impl Machine {
    /// Whether the others may know of something that forbids this step.
    pub(super) fn finding_before(&self, step: &Step) -> Finding {
        let Pursuit::Course(course) = &self.pursuit else { return Finding::Nothing };
        match self.orders.data() {
            // What is made anew is older than nothing; and without the store's present word little enough is started.
            Some(data) if course.makes_primary(step) && !course.making && self.orders.doubt().is_none() => {
                self.testimony.about(data, &self.identity.keeper, self.now)
            }
            _ => Finding::Nothing,
        }
    }

    /// Reads the reports of the others, unless they are being read.
    pub(super) fn read_reports(&mut self) {
        if self.testimony.ask(self.now) {
            self.ask_for(Effect::ReadReports);
        }
    }

    /// They were read, or could not be.
    pub(super) fn reports_read(&mut self, read: Result<Box<Reports>, String>) {
        let outcome = self.testimony.read(self.now, read);
        let Pursuit::Course(course) = &mut self.pursuit else { return };
        let Awaits::Reports(step) = &course.awaits else { return };
        let step = step.clone();
        match outcome {
            Ok(()) => {
                course.steps.push_front(step);
                course.awaits = Awaits::Nothing;
            }
            Err(why) => {
                let sentence = format!("the reports of the other keepers cannot be read: {why}");
                self.troubled(&Explained::new(sentence));
            }
        }
    }
}

/// Why no primary is started.
pub(super) fn complaint(ahead: &Ahead) -> Explained {
    let OlderThanServed { they, we } = OlderThanServed::by(ahead.evidence, &ahead.served);
    let sentence = format!(
        "the cluster data are older than what keeper {} served under ({they} after {we}): the store went back in time, so no primary is started here",
        ahead.keeper
    );
    Explained::new(sentence).with_hint("choose with stolonctl settle")
}

#[cfg(test)]
mod tests {
    use stolon_model::{ClusterSpec, Timestamp};

    use super::*;

    #[test]
    fn reports_that_cannot_be_read_are_waited_for_only_so_long() {
        let data = ClusterData::initial("c1".into(), ClusterSpec::default(), Timestamp::ZERO);
        let us = KeeperUid::from("us");
        let mut testimony = Testimony::default();
        for (second, finding) in [(0, Finding::Unread), (9, Finding::Unread), (10, Finding::Nothing)] {
            let now = Duration::from_secs(second);
            assert!(testimony.ask(now));
            assert!(!testimony.ask(now), "one reading at a time");
            assert!(testimony.read(now, Err("no answer".into())).is_err());
            assert_eq!(testimony.about(&data, &us, now), finding, "{second}");
        }
        testimony.ask(Duration::from_secs(11));
        testimony.read(Duration::from_secs(11), Ok(Box::default())).unwrap();
        assert_eq!(testimony.about(&data, &us, Duration::from_secs(12)), Finding::Nothing);
        assert_eq!(testimony.about(&data, &us, Duration::from_secs(13)), Finding::Unread, "too old");
    }
}
