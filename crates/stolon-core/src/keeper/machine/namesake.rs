//! A uid belongs to one data directory. Two keepers that report under one uid would take turns in the cluster data, and each
//! turn would restart the database; so a keeper that finds a living namesake refuses to go on.

use std::time::Duration;

use stolon_model::{BootUuid, InfoUid, KeeperReport};

use crate::Backoff;
use crate::keeper::event::Exit;
use crate::keeper::say::Saying;

/// Between looks at a report that may be a living namesake's.
const POLL: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Who reported last from our data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// No keeper ever worked there: a report under its uid is somebody else's.
    None,
    /// A keeper that left no note of its boot, such as Stolon's.
    Unknown,
    /// This boot.
    Boot(BootUuid),
}

impl Predecessor {
    /// Whether a report may be a namesake's.
    fn is_foreign(&self, report: &KeeperReport) -> bool {
        match self {
            Predecessor::None => true,
            Predecessor::Unknown => false,
            Predecessor::Boot(boot) => report.boot_uuid != *boot,
        }
    }
}

/// Watches over the first two reports.
///
/// Before the first, a report of somebody else that changes while we look is a living namesake's; one that does not change for two
/// sleep intervals was left by a keeper that is gone. Before the second: two namesakes that start together have both found nothing
/// before the first. Whoever wrote last finds its own report. One that has an instance does not yield to one that has none.
#[derive(Debug)]
pub(super) struct NamesakeWatch {
    predecessor: Predecessor,
    stage: Stage,
    backoff: Backoff,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was looked at.
    Begin,
    /// A foreign report was found; waiting until then whether it changes.
    Waiting { seen: InfoUid, until: Duration, next: Duration },
    /// The store did not answer; asking again then.
    Retrying { next: Duration },
    /// The note for the next keeper is being written.
    Noting,
    /// The first report may go out.
    First,
    /// It went out; who wrote last?
    Second,
    /// We are alone.
    Alone,
}

/// What is to happen before a report.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Permission {
    /// Nothing: publish.
    Granted,
    /// Read our own report in the store; answered by [`NamesakeWatch::read`].
    ReadFirst,
    /// Leave the note for the next keeper; answered by [`NamesakeWatch::noted`].
    NoteFirst,
    /// Wait until then, or for what is under way.
    Wait(Option<Duration>),
}

/// What a reading means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Ask again for permission.
    Nothing,
    /// The same, and this is worth saying.
    Say(Saying),
    /// A namesake lives, and we are the one to yield.
    Yield(Exit),
}

impl NamesakeWatch {
    pub(super) fn new(predecessor: Predecessor) -> Self {
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        NamesakeWatch { predecessor, stage: Stage::Begin, backoff }
    }

    /// Whether a report may go out now.
    pub(super) fn permission(&self, now: Duration) -> Permission {
        match &self.stage {
            Stage::Begin | Stage::Second => Permission::ReadFirst,
            Stage::Waiting { next, .. } | Stage::Retrying { next } if now >= *next => Permission::ReadFirst,
            Stage::Waiting { next, .. } | Stage::Retrying { next } => Permission::Wait(Some(*next)),
            Stage::Noting => Permission::NoteFirst,
            Stage::First | Stage::Alone => Permission::Granted,
        }
    }

    /// What stands in the store under our uid. `silence`: how long a living keeper may stay silent.
    pub(super) fn read(
        &mut self,
        now: Duration,
        read: Result<Option<Box<KeeperReport>>, String>,
        us: Us<'_>,
        silence: Duration,
    ) -> Found {
        if self.stage == Stage::Second {
            return self.second(read, us);
        }
        let report = match read {
            Err(error) => {
                self.stage = Stage::Retrying { next: now + self.backoff.next_pause() };
                return Found::Say(Saying::CannotLookForNamesake(error));
            }
            Ok(report) => report.filter(|report| self.predecessor.is_foreign(report)),
        };
        match (report, &mut self.stage) {
            (None, _) => self.stage = Stage::Noting,
            (Some(report), Stage::Waiting { seen, .. }) if *seen != report.info_uid => {
                return Found::Yield(namesake(&report));
            }
            (Some(_), Stage::Waiting { until, .. }) if now >= *until => self.stage = Stage::Noting,
            (Some(_), Stage::Waiting { until, next, .. }) => *next = (now + POLL).min(*until),
            (Some(report), _) => {
                let until = now + silence;
                let next = (now + POLL).min(until);
                self.stage = Stage::Waiting { seen: report.info_uid.clone(), until, next };
                return Found::Say(Saying::PerhapsNamesake { within: silence });
            }
        }
        Found::Nothing
    }

    fn second(&mut self, read: Result<Option<Box<KeeperReport>>, String>, us: Us<'_>) -> Found {
        self.stage = Stage::Alone;
        // Without an answer there is nothing to go by; the report that follows will not reach the store either.
        let Ok(Some(report)) = read else { return Found::Nothing };
        let other_has_instance = report.postgres_state.as_ref().is_some_and(|state| !state.uid.is_empty());
        let they_yield = us.has_instance && !other_has_instance;
        match report.boot_uuid == *us.boot || they_yield {
            true => Found::Nothing,
            false => Found::Yield(namesake(&report)),
        }
    }

    /// The note is written.
    pub(super) fn noted(&mut self) {
        self.stage = Stage::First;
    }

    /// A report is in the store.
    pub(super) fn reported(&mut self) {
        if self.stage == Stage::First {
            self.stage = Stage::Second;
        }
    }
}

/// What of us decides who yields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Us<'a> {
    pub(super) boot: &'a BootUuid,
    pub(super) has_instance: bool,
}

fn namesake(report: &KeeperReport) -> Exit {
    let state = report.postgres_state.as_ref().filter(|state| !state.listen_address.is_empty());
    Exit::Namesake { address: state.map(|state| format!("{}:{}", state.listen_address, state.port)) }
}

#[cfg(test)]
#[path = "namesake_tests.rs"]
mod tests;
