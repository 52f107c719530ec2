//! Verdicts: which keepers and instances work, and whether the primary must be replaced.

use std::collections::{BTreeMap, BTreeSet};

use stolon_model::{DiskFault, Instance, KeeperUid};

use super::eligibility::unexpected_restarts;
use super::joined::joined;
use super::memory::{Demotion, Refused};
use super::round::{Progress, Round};
use super::wake::{Limit, Wake};
use super::{Hold, KeeperFault, PrimaryFault, Rejection};
use crate::timeline::Mark;

/// Whether the primary may stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The primary may stay, at least until then.
    Stays(Wake),
    /// The primary may stay although it has not reached its generation in time, at least until then.
    Spared(Hold, Wake),
    /// The primary must be replaced.
    Goes(PrimaryFault),
}

impl Round<'_> {
    /// A keeper has failed when it was silent for longer than `failInterval`, when evidence says so, or when an operator asked for a failure, once.
    pub fn judge_keepers(&mut self) -> Wake {
        let mut faults = BTreeMap::new();
        let mut wake = Wake::NEVER;
        for uid in self.draft.keepers.keys() {
            let Some(since) = self.silent_since(uid) else { continue };
            let limit = self.seen.limit(since, self.seen.spec.fail_interval);
            wake = wake.or(limit.wake());
            if limit.is_over() {
                faults.insert(uid.clone(), KeeperFault::Silent { silent_for: self.seen.elapsed(since) });
            }
        }
        for (uid, verdict) in &self.memory.refused {
            let Refused { witnesses, within, .. } = verdict.clone();
            faults.insert(uid.clone(), KeeperFault::Refused { witnesses, within });
        }
        let forced = self.take_requests().into_iter().map(|uid| (uid, KeeperFault::ForcedByOperator));
        faults.extend(forced);
        self.draft.judge_keepers(&faults);
        wake
    }

    /// An instance works unless it was in trouble for longer than `failInterval` or its keeper has failed.
    pub fn judge_instances(&mut self) -> Wake {
        let mut failed = BTreeSet::new();
        let mut wake = Wake::NEVER;
        for (uid, instance, trouble) in joined(&self.draft.instances, &self.memory.trouble) {
            let limit = trouble.map(|since| self.seen.limit(*since, self.seen.spec.fail_interval));
            wake = wake.or(limit.map_or(Wake::NEVER, Limit::wake));
            if limit.is_some_and(Limit::is_over) || !self.keeper_is_healthy(instance) {
                failed.insert(uid.clone());
            }
        }
        self.draft.judge_instances(&failed);
        wake
    }

    /// Whether the primary may stay.
    pub fn judge_primary(&self, primary: &Instance) -> Verdict {
        let keeper = primary.spec.keeper_uid.clone();
        if self.is_requested(primary) {
            return Verdict::Goes(PrimaryFault::ForcedByOperator { keeper });
        }
        if let Some(begun) = self.memory.handover.as_ref().filter(|handover| handover.from == primary.uid) {
            return Verdict::Goes(begun.because.clone());
        }
        if self.keeper_of(primary).is_none() {
            return Verdict::Goes(PrimaryFault::KeeperUnknown { keeper });
        }
        if let Some(Refused { witnesses, within, .. }) = self.memory.refused.get(&keeper).cloned() {
            let quiet_for = self.quiet_for(&keeper);
            return Verdict::Goes(PrimaryFault::KeeperRefused { keeper, witnesses, within, quiet_for });
        }
        if !self.keeper_is_healthy(primary) {
            let since = self.silent_since(&keeper);
            let silent_for = since.map(|since| self.seen.elapsed(since)).unwrap_or_default();
            return Verdict::Goes(PrimaryFault::KeeperSilent { keeper, silent_for });
        }
        if !primary.status.healthy {
            let since = self.memory.trouble.get(&primary.uid).copied();
            let down_for = since.map(|since| self.seen.elapsed(since)).unwrap_or_default();
            return Verdict::Goes(PrimaryFault::InstanceDown { keeper, down_for });
        }
        let restarts = unexpected_restarts(self.seen.fresh.get(&keeper).copied());
        if restarts > self.seen.spec.max_restarts_per_minute {
            return Verdict::Goes(PrimaryFault::KeepsCrashing { keeper, restarts });
        }
        if self.disk_is_full(&keeper) && !self.candidates(primary).0.is_empty() {
            return Verdict::Goes(PrimaryFault::DiskFull { keeper });
        }
        // A server that does not run yet shows where its recovery begins, not where it ends.
        if self.seen.working.contains_key(&primary.uid)
            && let Some(Rejection::WentBack { own, before }) = self.went_back(primary)
            && self.somebody_holds_more(primary)
        {
            return Verdict::Goes(PrimaryFault::WentBack { keeper, own, before });
        }
        match self.progress(primary, self.seen.spec.convergence_timeout) {
            Progress::Converged => Verdict::Stays(Wake::NEVER),
            Progress::Converging(wake) => Verdict::Stays(wake),
            Progress::Failed => self.judge_late(primary),
        }
    }

    /// Whether there has been no room for longer than `failInterval` by its keeper's word. A disk that takes nothing at all shows as a
    /// PostgreSQL that does not work.
    fn disk_is_full(&self, keeper: &KeeperUid) -> bool {
        let activity = self.seen.fresh.get(keeper).and_then(|report| report.activity.as_ref());
        let disk = activity.and_then(|activity| activity.disk.as_ref());
        disk.is_some_and(|disk| disk.lasting && disk.fault == Some(DiskFault::Full))
    }

    /// Whether another instance is ahead of the primary, on the same timeline.
    fn somebody_holds_more(&self, primary: &Instance) -> bool {
        let own = Mark::now(&primary.status);
        let others = self.draft.instances.values().filter(|instance| instance.uid != primary.uid);
        others
            .map(|other| Mark::now(&other.status))
            .any(|other| other.timeline == own.timeline && other.is_missed_at(own))
    }

    /// A primary that works and has not reached its generation in time is replaced, unless that would not help.
    fn judge_late(&self, primary: &Instance) -> Verdict {
        let keeper = primary.spec.keeper_uid.clone();
        let activity = self.seen.fresh.get(&keeper).and_then(|report| report.activity.as_ref());
        if let Some(hindrance) = activity.and_then(|activity| activity.hindrance.clone()) {
            let hold = Hold::Hindered { primary: primary.uid.clone(), keeper, hindrance };
            return Verdict::Spared(hold, Wake::NEVER);
        }
        let generation = primary.generation;
        if let Some(wake) = self.pause_before_next_demotion() {
            let hold = Hold::NotDemotedAgain { primary: primary.uid.clone(), keeper, generation };
            return Verdict::Spared(hold, wake);
        }
        let within = self.seen.spec.convergence_timeout;
        Verdict::Goes(PrimaryFault::NotConverged { keeper, generation, within })
    }

    /// A primary that works but does not reach its generation has met the same specification as the one before it:
    /// replacing it again and again does not help, so the pauses grow. `None` if there is no pause, or if it is over.
    fn pause_before_next_demotion(&self) -> Option<Wake> {
        let demotion = self.memory.demotion.as_ref()?;
        if demotion.spec != self.draft.cluster.spec {
            return None;
        }
        let pause = self.seen.spec.convergence_timeout.saturating_mul(1 << demotion.count.min(10));
        match self.seen.limit(demotion.at, pause) {
            Limit::Over => None,
            limit => Some(limit.wake()),
        }
    }

    /// Remember that a working primary was replaced.
    pub fn remember_demotion(&mut self, because: &PrimaryFault) {
        if let PrimaryFault::NotConverged { .. } = because {
            let spec = self.draft.cluster.spec.clone();
            let count = match &self.memory.demotion {
                Some(demotion) if demotion.spec == spec => demotion.count.saturating_add(1),
                _ => 1,
            };
            self.memory.demotion = Some(Demotion { spec, at: self.seen.now.monotonic, count });
        }
    }
}
