//! What is entered into the history of a cluster, and what is told of what others entered.

use std::sync::Arc;

use stolon_model::{
    Cluster, ClusterData, ClusterSpec, ClusterUid, HistoryEntry, SentinelUid, SwitchoverOutcome, Timestamp,
    spec_changes,
};

use super::round::Round;
use super::{Change, PrimaryFault, Saying, SwitchoverChange};

impl Round<'_> {
    /// Have it entered, once, that clients of a primary were locked out by its lease. Its keeper tells of it in each report, for a while.
    pub fn note_lockouts(&mut self) {
        for (keeper, report) in &self.seen.fresh {
            let Some(lockout) = report.activity.as_ref().and_then(|it| it.locked_out.as_ref()) else {
                continue;
            };
            let mark = format!("{} {}", report.boot_uuid, lockout.number);
            let history = self.draft.cluster.status.history.as_deref();
            if history.into_iter().flatten().any(|entry| entry.mark == mark) {
                continue;
            }
            let (keeper, lockout) = ((*keeper).clone(), lockout.clone());
            self.draft.note(Change::LockedOut { keeper, lockout, mark });
        }
    }
}

/// Enter what operators ask about later: who was elected, and why.
pub(super) fn record(next: &mut ClusterData, sentinel: &SentinelUid, changes: &[Change], wall: Timestamp) {
    for change in changes {
        let what = match change {
            Change::ClusterInitialized { .. } => "initialized",
            Change::PrimaryElected { because: PrimaryFault::HandedOver { .. }, .. } => "switchover",
            Change::PrimaryElected { .. } => "failover",
            Change::Switchover(SwitchoverChange::Ended { outcome, .. })
                if *outcome != SwitchoverOutcome::Done =>
            {
                "switchover"
            }
            Change::StandbyClusterPromoted { .. } => "promoted",
            Change::PauseLapsed { .. } => "resumed",
            Change::GivenUp { .. } => "given up",
            Change::LockedOut { .. } => "locked out",
            _ => continue,
        };
        let details = vec![change.to_string()];
        let mut entry = HistoryEntry::of_sentinel(wall, sentinel.clone(), what, details);
        if let Change::LockedOut { mark, .. } = change {
            entry.mark.clone_from(mark);
        }
        next.cluster.status.record(entry);
    }
}

/// What was last read of what operators do.
#[derive(Clone, Debug)]
pub(super) struct Audit {
    cluster: ClusterUid,
    spec: ClusterSpec,
    history: Option<Arc<Vec<HistoryEntry>>>,
}

impl Audit {
    pub fn of(cluster: &Cluster) -> Audit {
        Audit {
            cluster: cluster.uid.clone(),
            spec: cluster.spec.clone(),
            history: cluster.status.history.clone(),
        }
    }

    /// What operators did since the last reading, a line each. A change of the specification that came without an entry was made by a
    /// program of Stolon; one that came with a sentinel's is what a new cluster has found of its parameters.
    pub fn read(&mut self, now: &Cluster) -> Vec<Saying> {
        if (&self.spec, &self.history) == (&now.spec, &now.status.history) {
            return Vec::new();
        }
        let before = std::mem::replace(self, Audit::of(now));
        if before.cluster != now.uid {
            return Vec::new();
        }
        let known = before.history.as_deref().map_or(&[][..], Vec::as_slice);
        let entries = now.status.history.as_deref().map_or(&[][..], Vec::as_slice);
        let new: Vec<&HistoryEntry> = entries.iter().filter(|entry| !known.contains(entry)).collect();
        if new.is_empty() && before.spec != now.spec {
            return vec![Saying::SpecificationChanged(spec_changes(&before.spec, &now.spec))];
        }
        let of_operators = new.into_iter().filter(|entry| !entry.operator.is_empty());
        of_operators.cloned().map(Saying::Operated).collect()
    }
}
