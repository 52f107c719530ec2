//! The election of another primary.
//!
//! The candidate that is furthest ahead wins. In synchronous mode only those are candidates that are known to hold every
//! acknowledged commit. In asynchronous mode clients are cut off first: what they commit on the old primary after
//! the new one was promoted would be lost.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use stolon_model::{FAKE_STANDBY, FollowConfig, FollowType, Instance, InstanceUid, Lsn, Role};

use super::eligibility::Question;
use super::memory::Handover;
use super::proxy::Awaited;
use super::round::Round;
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
            self.let_request_go(primary, &because, &rejected);
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
    fn candidates(&self, primary: &Instance) -> (Vec<InstanceUid>, Vec<(InstanceUid, Rejection)>) {
        let question = Question::about(primary, &self.data, &self.spec);
        let mut candidates: Vec<&Instance> = Vec::new();
        let mut rejected = Vec::new();
        for instance in self.data.instances.values().filter(|instance| instance.uid != primary.uid) {
            let report = self.view.keepers.get(&instance.spec.keeper_uid);
            let rejection = question
                .rejection(instance)
                .or_else(|| self.went_back(instance))
                .or_else(|| question.crashes(report))
                .or_else(|| self.not_seen_since_request(instance));
            match rejection {
                None => candidates.push(instance),
                Some(rejection) => rejected.push((instance.uid.clone(), rejection)),
            }
        }
        candidates.sort_by_key(|instance| {
            let status = &instance.status;
            let is_holder = question.holders.contains(&instance.uid);
            (Reverse((status.timeline, status.lsn)), !is_holder, instance.uid.clone())
        });
        (candidates.into_iter().map(|instance| instance.uid.clone()).collect(), rejected)
    }

    /// Asynchronous mode: true once nobody can commit on the old primary through a proxy, or the wait has lasted too long.
    fn is_fenced(&mut self, primary: &Instance, successor: &InstanceUid, because: &PrimaryFault) -> bool {
        let forced = matches!(because, PrimaryFault::ForcedByOperator { .. });
        if forced && self.memory.handover.as_ref().is_none_or(|handover| handover.from != primary.uid) {
            let (closed_at, looks) = (self.arrived, self.looks_at(primary));
            self.memory.handover =
                Some(Handover { from: primary.uid.clone(), closed_at, looks, final_lsn: None });
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
        let (closed_at, looks) = (self.arrived, self.looks_at(primary));
        if let Some(handover) = &mut self.memory.handover {
            *handover = Handover { from: handover.from.clone(), closed_at, looks, final_lsn: None };
        }
    }

    /// How many looks at an instance its keeper has completed; 0 where it does not count them. The last report counts however old it
    /// is: were a late one 0, a look taken before the proxies had closed would seem to be one after it.
    fn looks_at(&self, instance: &Instance) -> u64 {
        let sighting = self.memory.keepers.get(&instance.spec.keeper_uid);
        let report = sighting.and_then(|sighting| sighting.report.as_ref());
        report.and_then(|report| report.activity.as_ref()).map_or(0, |activity| activity.looks)
    }

    /// Whether what the primary reports now was looked at after the last proxy had closed. The look that was under way then may show
    /// less, the one after it does not. A keeper that does not count its looks takes one in each sleep interval.
    fn shows_the_end(&self, primary: &Instance, handover: &Handover) -> bool {
        match self.looks_at(primary) {
            0 => {
                let seen = self.memory.keepers.get(&primary.spec.keeper_uid).map(|sighting| sighting.since);
                seen.is_some_and(|seen| seen >= handover.closed_at + self.spec.sleep_interval * 2)
            }
            looks => looks >= handover.looks + 2,
        }
    }

    /// An operator wants another primary while this one works: nothing needs to be lost. One that does not work is not
    /// waited for: operators help themselves with a forced failure when a primary hangs.
    fn has_caught_up(&mut self, primary: &Instance, successor: &InstanceUid) -> bool {
        let bound =
            self.spec.proxy_check_interval * 2 + self.spec.sleep_interval * 3 + self.spec.fail_interval;
        let works = self.working.contains_key(&primary.uid);
        let patience = self.spec.sleep_interval * 2;
        if !works
            && let Some(since) = self.memory.trouble.get(&primary.uid).copied()
            && self.is_over(since, patience)
        {
            return true;
        }
        let Some(mut handover) = self.memory.handover.clone() else { return true };
        if works && handover.final_lsn.is_none() && self.shows_the_end(primary, &handover) {
            handover.final_lsn = Some(primary.status.lsn);
        }
        let lsn = handover.final_lsn;
        self.memory.handover = Some(handover);
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
        self.fulfil_request(successor);
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
