//! Whether WAL gets to the archive: PostgreSQL goes on without, keeps what was not archived, and says so in its log alone.

use std::time::Duration;

use stolon_model::{ArchiverFault, ArchiverReport, Timestamp};

/// `pg_stat_archiver` of a server that archives, and what waits for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archiver {
    /// How often the command failed since the statistics began.
    pub failures: u64,
    /// The file for which it failed last; empty: it never did.
    pub last_failed: String,
    /// Whether nothing was archived since.
    pub last_run: LastRun,
    /// When a file was archived last.
    pub last_archived_at: Option<Timestamp>,
    /// What waits.
    pub backlog: Option<Backlog>,
}

/// What the last run of the archive command came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastRun {
    /// The file was archived, or there was no run yet.
    #[default]
    Succeeded,
    /// It was not.
    Failed,
}

/// Files that are ready to be archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// How many, as far as they were counted.
    pub files: u64,
    /// Which one comes first.
    pub first: String,
    /// Since when that one is ready.
    pub since: Timestamp,
    /// For how long.
    pub age: Duration,
}

/// PostgreSQL tries a file three times, a second apart, before it waits for a minute (PostgreSQL source, `pgarch.c`).
const FAILS_AFTER: Duration = Duration::from_secs(10);
/// A command that does not fail either hangs, is not set, or does not keep up with what is written.
const WAITS_AFTER: Duration = Duration::from_secs(300);

impl Archiver {
    /// What is wrong. A failure that another run makes good is nothing.
    pub fn fault(&self) -> Option<ArchiverFault> {
        let backlog = self.backlog.as_ref()?;
        match self.last_run {
            LastRun::Failed if backlog.age >= FAILS_AFTER => Some(ArchiverFault::Fails),
            _ => (backlog.age >= WAITS_AFTER).then_some(ArchiverFault::Waits),
        }
    }

    /// For the report.
    pub(super) fn report(&self) -> ArchiverReport {
        let backlog = self.backlog.as_ref();
        ArchiverReport {
            fault: self.fault(),
            waiting_files: backlog.map_or(0, |backlog| backlog.files),
            first_waiting: backlog.map(|backlog| backlog.first.clone()).unwrap_or_default(),
            waiting_since: backlog.map(|backlog| backlog.since),
            failures: self.failures,
            last_failed: self.last_failed.clone(),
            last_archived_at: self.last_archived_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_when_it_lasts_and_so_does_a_wait_without_one() {
        use ArchiverFault::{Fails, Waits};
        use LastRun::{Failed, Succeeded};
        for (last_run, age, expected) in [
            (Failed, None, None),
            (Failed, Some(9), None),
            (Failed, Some(10), Some(Fails)),
            (Failed, Some(1000), Some(Fails)),
            (Succeeded, Some(10), None),
            (Succeeded, Some(299), None),
            (Succeeded, Some(300), Some(Waits)),
        ] {
            let backlog = age.map(|age| Backlog {
                files: 1,
                first: "000000010000000000000001".into(),
                since: Timestamp::default(),
                age: Duration::from_secs(age),
            });
            let archiver = Archiver { last_run, backlog, ..Archiver::default() };
            assert_eq!(archiver.fault(), expected, "{last_run:?} {age:?}");
        }
    }
}
