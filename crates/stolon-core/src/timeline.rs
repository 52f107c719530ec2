//! Timelines: whether the histories of two instances went different ways (PostgreSQL manual, "Timelines").

use std::cmp::Ordering;

use stolon_model::{InstanceStatus, Lsn, Timeline, TimelineHistoryEntry, WasAt};

/// In bytes: 33 blocks of 8 KiB, all as whole pages, and twice that for good measure (PostgreSQL, `XLR_MAX_BLOCK_ID`).
const LARGEST_RECORD: u64 = 512 * 1024;

/// How far an instance was at its furthest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Its timeline.
    pub timeline: Timeline,
    /// Its position there.
    pub lsn: Lsn,
}

impl From<&WasAt> for Mark {
    fn from(at: &WasAt) -> Self {
        Mark { timeline: at.timeline, lsn: at.lsn }
    }
}

impl Mark {
    /// Where an instance is by its last report.
    pub fn now(status: &InstanceStatus) -> Self {
        Mark { timeline: status.timeline, lsn: status.lsn }
    }

    /// By all that the document knows.
    pub fn of(status: &InstanceStatus) -> Self {
        let own = Mark::now(status);
        status.was_at.as_ref().map_or(own, |before| own.max(before.into()))
    }

    /// Whether an instance that was here holds less at `now`: it was set back with its host. What was received in the middle of a record
    /// does not count: it is not shown any more after a restart.
    ///
    /// A standby shows what it has received, and after a restart only what it has replayed, until it streams again: one that had much left
    /// to replay seems set back although it holds everything. That passes, since it replays what it holds whether or not there is a primary,
    /// and costs no time: a promotion would have to wait for the same replay. The two cannot be told apart before it is over (PostgreSQL,
    /// functions `pg_last_wal_receive_lsn` and `pg_last_wal_replay_lsn`).
    pub fn is_missed_at(self, now: Mark) -> bool {
        match now.timeline.cmp(&self.timeline) {
            Ordering::Less => true,
            Ordering::Equal => self.lsn.0.saturating_sub(now.lsn.0) > LARGEST_RECORD,
            Ordering::Greater => false,
        }
    }
}

/// Where an instance stands: its timeline, its position, and the last forks in its past.
#[derive(Clone, Copy, Debug)]
pub struct Branch<'a> {
    /// Timeline of the instance.
    pub timeline: Timeline,
    /// Its position on that timeline.
    pub lsn: Lsn,
    /// The forks in its past that it reports: at most the last two.
    pub history: &'a [TimelineHistoryEntry],
}

impl<'a> From<&'a InstanceStatus> for Branch<'a> {
    fn from(status: &'a InstanceStatus) -> Self {
        Branch {
            timeline: status.timeline,
            lsn: status.lsn,
            history: status.timelines_history.as_deref().unwrap_or_default(),
        }
    }
}

impl Branch<'_> {
    fn fork_of(&self, timeline: Timeline) -> Option<Lsn> {
        self.history.iter().find(|entry| entry.timeline == timeline).map(|entry| entry.switch_point)
    }
}

/// True when `instance` holds WAL that is no part of the history of `reference`, so that it cannot follow it
/// without being rewound or copied again. What the reported histories do not show counts as the same branch.
pub fn is_different_branch(reference: Branch<'_>, instance: Branch<'_>) -> bool {
    if reference.timeline < instance.timeline {
        return true;
    }
    if reference.timeline == instance.timeline {
        if instance.timeline.0 <= 1 {
            return false;
        }
        let previous = Timeline(instance.timeline.0 - 1);
        return match (reference.fork_of(previous), instance.fork_of(previous)) {
            (Some(reference), Some(instance)) => reference != instance,
            _ => false,
        };
    }
    reference.fork_of(instance.timeline).is_some_and(|fork| fork < instance.lsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(entries: &[(u64, u64)]) -> Vec<TimelineHistoryEntry> {
        entries
            .iter()
            .map(|&(timeline, switch_point)| TimelineHistoryEntry {
                timeline: Timeline(timeline),
                switch_point: Lsn(switch_point),
                reason: "no recovery target specified".into(),
            })
            .collect()
    }

    /// One side of a comparison: timeline, position, forks.
    type Side<'a> = (u64, u64, &'a [(u64, u64)]);

    #[test]
    fn branches_differ_as_their_histories_do() {
        let cases: [(Side<'_>, Side<'_>, bool); 9] = [
            ((1, 900, &[]), (1, 1000, &[]), false),
            ((1, 900, &[]), (2, 800, &[(1, 700)]), true),
            ((3, 900, &[(2, 500)]), (3, 900, &[(2, 500)]), false),
            ((3, 900, &[(2, 500)]), (3, 900, &[(2, 501)]), true),
            ((3, 900, &[(2, 500)]), (3, 900, &[]), false),
            ((2, 2000, &[(1, 900)]), (1, 900, &[]), false),
            ((2, 2000, &[(1, 900)]), (1, 901, &[]), true),
            ((4, 2000, &[(3, 900), (2, 800)]), (1, 5000, &[]), false),
            ((0, 0, &[]), (0, 0, &[]), false),
        ];
        for (reference, instance, different) in cases {
            let histories = (history(reference.2), history(instance.2));
            let reference_branch =
                Branch { timeline: Timeline(reference.0), lsn: Lsn(reference.1), history: &histories.0 };
            let instance_branch =
                Branch { timeline: Timeline(instance.0), lsn: Lsn(instance.1), history: &histories.1 };
            assert_eq!(
                is_different_branch(reference_branch, instance_branch),
                different,
                "{reference:?} against {instance:?}"
            );
        }
    }
}
