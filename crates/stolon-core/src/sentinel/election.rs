//! The election of another primary.
//!
//! The candidate that is furthest ahead wins. In synchronous mode only those are candidates that are known to hold every
//! acknowledged commit. In asynchronous mode clients are cut off first: what they commit on the old primary after
//! the new one was promoted would be lost.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use stolon_model::{FAKE_STANDBY, FollowConfig, FollowType, Instance, InstanceUid, Lsn, Role};

use super::memory::Handover;
use super::proxy::Awaited;
use super::round::{Kind, Progress, Round, Validity, validity};
use super::{Change, Hold, PrimaryFault, Rejection};

/// What clients can still reach.
enum Fence {
    /// No proxy sends anybody to the old primary.
    Closed,
    /// These may.
    Waiting(Awaited),
}

impl Round<'_> {
    /// Replace the primary if somebody may take its place and nothing is lost by it; returns who was elected.
    pub fn replace(&mut self, primary: &Instance, because: PrimaryFault) -> Option<InstanceUid> {
        let (candidates, rejected) = self.candidates(primary);
        let Some(successor) = candidates.first().cloned() else {
            self.memory.handover = None;
            self.hold(Hold::NoEligibleStandby { primary: primary.uid.clone(), because, rejected });
            return None;
        };
        if !primary.spec.synchronous_replication && !self.is_fenced(primary, &successor, &because) {
            return None;
        }
        self.remember_demotion(&because);
        self.elect(primary, &successor, because);
        Some(successor)
    }

    /// Who may take the place of `primary`, the best first, and why the others may not.
    fn candidates(&mut self, primary: &Instance) -> (Vec<InstanceUid>, Vec<(InstanceUid, Rejection)>) {
        let synchronous = synchronous_holders(primary);
        let instances: Vec<Instance> =
            self.data.instances.values().filter(|instance| instance.uid != primary.uid).cloned().collect();
        let mut candidates: Vec<&Instance> = Vec::new();
        let mut rejected = Vec::new();
        for instance in &instances {
            match self.rejection(primary, instance, &synchronous) {
                None => candidates.push(instance),
                Some(rejection) => rejected.push((instance.uid.clone(), rejection)),
            }
        }
        candidates.sort_by_key(|instance| {
            (Reverse(instance.status.lsn), !synchronous.contains(&instance.uid), instance.uid.clone())
        });
        (candidates.into_iter().map(|instance| instance.uid.clone()).collect(), rejected)
    }

    fn rejection(
        &mut self,
        primary: &Instance,
        instance: &Instance,
        synchronous: &BTreeSet<InstanceUid>,
    ) -> Option<Rejection> {
        if Kind::of(instance) == Kind::Unknown {
            return Some(Rejection::FollowsNothing);
        }
        match validity(primary, instance) {
            Validity::Valid => {}
            Validity::Unknown => return Some(Rejection::NeverReported),
            Validity::OtherSystem => return Some(Rejection::OtherSystem),
            Validity::OtherBranch => return Some(Rejection::OtherBranch),
        }
        if !self.keeper_is_healthy(instance) {
            return Some(Rejection::KeeperFailed);
        }
        if self.progress(instance, self.convergence_limit(instance)) != Progress::Converged {
            let (generation, current) = (instance.generation, instance.status.current_generation);
            return Some(Rejection::NotConverged { generation, current });
        }
        if !instance.status.healthy {
            return Some(Rejection::Unhealthy);
        }
        let (own, of_primary) = (instance.status.timeline, primary.status.timeline);
        if own != of_primary {
            return Some(Rejection::OtherTimeline { own, primary: of_primary });
        }
        if self.keeper_of(instance).and_then(|keeper| keeper.status.can_be_primary) == Some(false) {
            return Some(Rejection::Forbidden);
        }
        if primary.spec.synchronous_replication {
            return (!synchronous.contains(&instance.uid)).then_some(Rejection::NotSynchronous);
        }
        let (bytes, limit) = (primary.status.lsn.ahead_of(instance.status.lsn), self.spec.max_standby_lag);
        (bytes > i64::from(limit)).then_some(Rejection::Lag { bytes, limit })
    }

    /// Asynchronous mode: true once nobody can commit on the old primary through a proxy, or the wait has lasted too long.
    fn is_fenced(&mut self, primary: &Instance, successor: &InstanceUid, because: &PrimaryFault) -> bool {
        let forced = matches!(because, PrimaryFault::ForcedByOperator { .. });
        if forced && self.memory.handover.as_ref().is_none_or(|handover| handover.from != primary.uid) {
            let info_uid =
                self.working.get(&primary.uid).map(|working| working.info_uid.clone()).unwrap_or_default();
            self.memory.handover = Some(Handover { from: primary.uid.clone(), info_uid, final_lsn: None });
        }
        match self.fence(because) {
            Fence::Closed if !forced => true,
            Fence::Closed => self.has_caught_up(primary, successor),
            Fence::Waiting(Awaited { proxies, until }) => {
                self.restart_handover(primary);
                self.deadlines.extend(until);
                self.hold(Hold::AwaitingFence { successor: successor.clone(), proxies });
                false
            }
        }
    }

    /// Take the primary away from the proxies, and see who has not let go of it yet.
    fn fence(&mut self, because: &PrimaryFault) -> Fence {
        self.close_proxies(because);
        let waiting = self.open_proxies_left();
        if waiting.proxies.is_empty() { Fence::Closed } else { Fence::Waiting(waiting) }
    }

    fn close_proxies(&mut self, because: &PrimaryFault) {
        if self.data.proxy.spec.primary.take().is_some() {
            self.data.proxy.generation += 1;
            let generation = self.data.proxy.generation;
            self.change(Change::ProxiesClosed { generation, because: because.clone() });
        }
        self.note_closed();
    }

    /// While clients can still commit, what the old primary reports is not its end.
    fn restart_handover(&mut self, primary: &Instance) {
        let info_uid = self.working.get(&primary.uid).map(|working| working.info_uid.clone());
        if let (Some(handover), Some(info_uid)) = (&mut self.memory.handover, info_uid) {
            handover.info_uid = info_uid;
            handover.final_lsn = None;
        }
    }

    /// An operator wants another primary while this one works: nothing needs to be lost. One that does not work is not
    /// waited for: operators help themselves with a forced failure when a primary hangs.
    fn has_caught_up(&mut self, primary: &Instance, successor: &InstanceUid) -> bool {
        let bound =
            self.spec.proxy_check_interval * 2 + self.spec.sleep_interval * 3 + self.spec.fail_interval;
        let working = self.working.get(&primary.uid).map(|working| working.info_uid.clone());
        let patience = self.spec.sleep_interval * 2;
        if let (None, Some(since)) = (&working, self.memory.trouble.get(&primary.uid).copied())
            && self.is_over(since, patience)
        {
            return true;
        }
        let Some(handover) = &mut self.memory.handover else { return true };
        match working {
            Some(info_uid) if info_uid != handover.info_uid && handover.final_lsn.is_none() => {
                handover.final_lsn = Some(primary.status.lsn);
            }
            _ => {}
        }
        let lsn = handover.final_lsn;
        let reached = self.data.instances.get(successor).map_or(Lsn(0), |instance| instance.status.lsn);
        let caught_up = lsn.is_some_and(|lsn| reached >= lsn);
        if caught_up || self.closed_for_longer_than(bound) {
            return true;
        }
        self.hold(Hold::AwaitingCatchUp { successor: successor.clone(), lsn });
        false
    }

    fn closed_for_longer_than(&mut self, bound: Duration) -> bool {
        let since = self.memory.closed.map_or(self.now.monotonic, |closed| closed.since);
        self.is_over(since, bound)
    }

    /// An orderly replacement is over once another instance is the primary.
    pub fn forget_handover_of_others(&mut self, primary: &Instance) {
        if self.memory.handover.as_ref().is_some_and(|handover| handover.from != primary.uid) {
            self.memory.handover = None;
        }
    }

    /// One write tells the new primary to promote, the old one that nobody follows it, and the proxies to close.
    fn elect(&mut self, old: &Instance, successor: &InstanceUid, because: PrimaryFault) {
        self.memory.handover = None;
        if let Some(instance) = self.data.instances.get_mut(&old.uid) {
            instance.spec.followers = Some(Vec::new());
        }
        self.data.cluster.status.primary = Some(successor.clone());
        self.close_proxies(&because);
        let role = self.spec.role.clone();
        let follow = match role {
            Role::Standby => Some(self.outside_primary()),
            _ => None,
        };
        let waits_for = self.wants_synchronous().then(|| successors_list(old, successor));
        let minimum = self.spec.min_synchronous_standbys;
        let Some(instance) = self.data.instances.get_mut(successor) else { return };
        let spec = &mut instance.spec;
        spec.role = Some(role);
        spec.follow_config = follow;
        spec.synchronous_replication = waits_for.is_some();
        spec.external_synchronous_standbys =
            waits_for.as_ref().map(|standbys| match standbys.is_empty() && minimum > 0 {
                true => vec![FAKE_STANDBY.to_owned()],
                false => Vec::new(),
            });
        spec.synchronous_standbys = waits_for;
        let (keeper, lsn) = (spec.keeper_uid.clone(), instance.status.lsn);
        self.change(Change::PrimaryElected {
            from: old.uid.clone(),
            to: successor.clone(),
            keeper,
            lsn,
            because,
        });
    }

    /// How the head of a standby cluster follows the primary outside.
    pub fn outside_primary(&self) -> FollowConfig {
        let config = self.spec.standby_config.clone().unwrap_or_default();
        FollowConfig {
            follow_type: Some(FollowType::External),
            instance_uid: InstanceUid::default(),
            standby_settings: config.standby_settings,
            archive_recovery_settings: config.archive_recovery_settings,
        }
    }
}

/// Those that hold every acknowledged commit: known to be in sync, and waited for ever since.
pub(super) fn synchronous_holders(primary: &Instance) -> BTreeSet<InstanceUid> {
    let known: BTreeSet<&InstanceUid> = primary.status.synchronous_standbys.iter().flatten().collect();
    primary.spec.synchronous_standbys.iter().flatten().filter(|uid| known.contains(uid)).cloned().collect()
}

/// The new primary waits for all that the old one waited for, and for the old one in its own place: so it acknowledges
/// nothing before its keeper and the sentinel have sorted out who is there.
fn successors_list(old: &Instance, successor: &InstanceUid) -> Vec<InstanceUid> {
    let mut standbys: Vec<InstanceUid> = old.spec.synchronous_standbys.clone().unwrap_or_default();
    for standby in &mut standbys {
        if standby == successor {
            *standby = old.uid.clone();
        }
    }
    standbys.sort();
    standbys
}
