//! Verdicts: which keepers and instances count as working, and whether the primary must go.

use stolon_model::{Instance, KeeperUid};

use super::eligibility::unexpected_restarts;
use super::memory::Demotion;
use super::round::{Progress, Round};
use super::{Change, Hold, KeeperFault, PrimaryFault};

impl Round<'_> {
    /// A keeper has failed when it was silent for longer than `failInterval`, or when an operator says so, once.
    pub fn judge_keepers(&mut self) {
        let uids: Vec<KeeperUid> = self.data.keepers.keys().cloned().collect();
        for uid in uids {
            let fail_interval = self.spec.fail_interval;
            let silent_since = self.silent_since(&uid);
            let silent = silent_since.is_some_and(|since| self.is_over(since, fail_interval));
            let silent_for = silent_since.map(|since| self.elapsed(since)).unwrap_or_default();
            let wall = self.now.wall;
            let forced = self.take_request(&uid);
            let Some(keeper) = self.data.keepers.get_mut(&uid) else { continue };
            let status = &mut keeper.status;
            let was_healthy = std::mem::replace(&mut status.healthy, !silent && !forced);
            if status.healthy || status.last_healthy_time.is_never() {
                status.last_healthy_time = wall;
            }
            if forced {
                self.change(Change::KeeperFailed { keeper: uid, because: KeeperFault::ForcedByOperator });
            } else if silent && was_healthy {
                self.change(Change::KeeperFailed {
                    keeper: uid,
                    because: KeeperFault::Silent { silent_for },
                });
            } else if !silent && !was_healthy {
                self.change(Change::KeeperRecovered { keeper: uid });
            }
        }
    }

    /// An instance works unless it was in trouble for longer than `failInterval` or its keeper has failed.
    pub fn judge_instances(&mut self) {
        let instances: Vec<Instance> = self.data.instances.values().cloned().collect();
        for instance in instances {
            let fail_interval = self.spec.fail_interval;
            let troubled = match self.memory.trouble.get(&instance.uid).copied() {
                Some(since) => self.is_over(since, fail_interval),
                None => false,
            };
            let healthy = !troubled && self.keeper_is_healthy(&instance);
            let (uid, keeper) = (instance.uid, instance.spec.keeper_uid);
            let Some(stored) = self.data.instances.get_mut(&uid) else { continue };
            let was_healthy = std::mem::replace(&mut stored.status.healthy, healthy);
            let reported_before = stored.status.current_generation != 0;
            match (was_healthy, healthy) {
                (true, false) => self.change(Change::InstanceFailed { instance: uid, keeper }),
                (false, true) if reported_before => {
                    self.change(Change::InstanceRecovered { instance: uid, keeper })
                }
                _ => {}
            }
        }
    }

    /// Why the primary must go; none when it may stay.
    pub fn primary_fault(&mut self, primary: &Instance) -> Option<PrimaryFault> {
        let keeper = primary.spec.keeper_uid.clone();
        if self.is_being_replaced(primary) {
            return Some(PrimaryFault::ForcedByOperator { keeper });
        }
        if self.keeper_of(primary).is_none() {
            return Some(PrimaryFault::KeeperUnknown { keeper });
        }
        if !self.keeper_is_healthy(primary) {
            let silent_for = self.silent_since(&keeper).map(|since| self.elapsed(since)).unwrap_or_default();
            return Some(PrimaryFault::KeeperSilent { keeper, silent_for });
        }
        if !primary.status.healthy {
            let since = self.memory.trouble.get(&primary.uid).copied().unwrap_or(self.now.monotonic);
            return Some(PrimaryFault::InstanceDown { keeper, down_for: self.elapsed(since) });
        }
        let restarts = unexpected_restarts(self.fresh.get(&keeper).copied());
        if restarts > self.spec.max_restarts_per_minute {
            return Some(PrimaryFault::KeepsCrashing { keeper, restarts });
        }
        if self.progress(primary, self.spec.convergence_timeout) == Progress::Failed
            && !self.is_hindered(primary)
            && !self.is_spared(primary)
        {
            let (generation, within) = (primary.generation, self.spec.convergence_timeout);
            return Some(PrimaryFault::NotConverged { keeper, generation, within });
        }
        None
    }

    fn is_being_replaced(&self, primary: &Instance) -> bool {
        self.is_requested(primary)
            || self.memory.handover.as_ref().is_some_and(|handover| handover.from == primary.uid)
    }

    /// A primary that works and cannot do all that is asked of it, where a successor would meet the same.
    fn is_hindered(&mut self, primary: &Instance) -> bool {
        let keeper = primary.spec.keeper_uid.clone();
        let activity = self.fresh.get(&keeper).and_then(|report| report.activity.as_ref());
        let Some(hindrance) = activity.and_then(|activity| activity.hindrance.clone()) else { return false };
        self.hold(Hold::Hindered { primary: primary.uid.clone(), keeper, hindrance });
        true
    }

    /// A primary that works but does not do what is asked of it meets the same specification as the one before it:
    /// replacing it again and again helps nobody, so the pauses grow.
    fn is_spared(&mut self, primary: &Instance) -> bool {
        let Some(demotion) = self.memory.demotion.clone() else { return false };
        if demotion.spec != self.data.cluster.spec {
            return false;
        }
        let pause = self.spec.convergence_timeout.saturating_mul(1 << demotion.count.min(10));
        if self.is_over(demotion.at, pause) {
            return false;
        }
        self.hold(Hold::NotDemotedAgain {
            primary: primary.uid.clone(),
            keeper: primary.spec.keeper_uid.clone(),
            generation: primary.generation,
        });
        true
    }

    /// Remember that a working primary was replaced.
    pub fn remember_demotion(&mut self, because: &PrimaryFault) {
        if let PrimaryFault::NotConverged { .. } = because {
            let spec = self.data.cluster.spec.clone();
            let count = match &self.memory.demotion {
                Some(demotion) if demotion.spec == spec => demotion.count.saturating_add(1),
                _ => 1,
            };
            self.memory.demotion = Some(Demotion { spec, at: self.now.monotonic, count });
        }
    }
}
