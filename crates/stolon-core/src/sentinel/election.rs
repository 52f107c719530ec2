//! The election of another primary.
//!
//! The candidate that is furthest ahead wins. In synchronous mode only those are candidates that are known to hold every
//! acknowledged commit. In asynchronous mode clients are cut off first: what they commit on the old primary after
//! the new one was promoted would be lost.

use std::collections::BTreeSet;

use stolon_model::{FollowConfig, FollowType, Instance, InstanceUid, Lsn, Role};

use super::draft::NewPrimary;
use super::eligibility::{Question, disk_trouble};
use super::formers::Returning;
use super::memory::{Handover, Life};
use super::proxy::Awaited;
use super::quorum::Comparison;
use super::round::Round;
use super::wake::{Limit, Wake};
use super::{Hold, PrimaryFault, Rejection};

/// How an attempt to replace the primary ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Replacement {
    /// This instance was elected.
    Elected(InstanceUid),
    /// Nothing was elected yet; the next attempt comes at this moment at the latest.
    Awaited(Wake),
}

/// Whether a successor may be promoted.
enum Promotion {
    Allowed,
    /// It may not, for this reason, at least until then.
    Held(Hold, Wake),
}

impl Round<'_> {
    /// Replace the primary if a standby may take its place and nothing is lost by it.
    pub fn replace(&mut self, primary: &Instance, because: PrimaryFault) -> Replacement {
        let (mut candidates, mut rejected) = self.candidates(primary);
        if let Some(awaited) = self.narrow_by_comparison(primary, &mut candidates, &mut rejected) {
            return awaited;
        }
        let returning = if candidates.is_empty() { self.returning(primary) } else { None };
        let successor = match &returning {
            Some(returning) => returning.former.instance.clone(),
            None if candidates.is_empty() => {
                self.memory.handover = None;
                self.lift_fence(primary);
                let hold = Hold::NoEligibleStandby { primary: primary.uid.clone(), because, rejected };
                let wake = self.let_request_go(&hold);
                self.hold(hold);
                self.show_ways_out(primary);
                return Replacement::Awaited(wake);
            }
            None => candidates.swap_remove(0),
        };
        if !primary.spec.synchronous_replication
            && let Promotion::Held(hold, wake) = self.fence(primary, &successor, &because)
        {
            self.hold(hold);
            return Replacement::Awaited(wake);
        }
        self.remember_demotion(&because);
        if let Some(Returning { former, served }) = &returning {
            self.draft.put_back(former, *served);
        }
        self.elect(primary, &successor, because);
        Replacement::Elected(successor)
    }

    /// Where commits wait for a quorum, only who is furthest ahead of enough of its members is left.
    fn narrow_by_comparison(
        &mut self,
        primary: &Instance,
        candidates: &mut Vec<InstanceUid>,
        rejected: &mut Vec<(InstanceUid, Rejection)>,
    ) -> Option<Replacement> {
        let (holders, why) = match self.compare(primary) {
            Comparison::NotNeeded => return None,
            Comparison::Awaited(standbys) if !candidates.is_empty() => {
                self.draft.stop_receiving(&primary.uid, &standbys);
                let standbys = standbys.into_iter().collect();
                self.hold(Hold::AwaitingPositions { primary: primary.uid.clone(), standbys });
                return Some(Replacement::Awaited(Wake::NEVER));
            }
            Comparison::Final(furthest) => (furthest, Rejection::NotFurthest),
            Comparison::Awaited(_) => (BTreeSet::new(), Rejection::NotSynchronous),
            Comparison::Short(why) => {
                self.draft.let_receive(&primary.uid);
                (BTreeSet::new(), why)
            }
        };
        let (kept, left) = std::mem::take(candidates).into_iter().partition(|uid| holders.contains(uid));
        *candidates = kept;
        let left: Vec<InstanceUid> = left;
        rejected.extend(left.into_iter().map(|uid| (uid, why.clone())));
        None
    }

    /// Who may take the place of `primary`, the best first, and why the others may not.
    pub(super) fn candidates(&self, primary: &Instance) -> (Vec<InstanceUid>, Vec<(InstanceUid, Rejection)>) {
        let question = Question::about(primary, &self.draft, self.seen.spec);
        let mut candidates: Vec<&Instance> = Vec::new();
        let mut rejected = Vec::new();
        for instance in self.draft.instances.values().filter(|instance| instance.uid != primary.uid) {
            let report = || self.seen.view.keepers.get(&instance.spec.keeper_uid).map(|report| &**report);
            let rejection = question
                .rejection(instance)
                .or_else(|| self.went_back(instance))
                .or_else(|| question.crashes(report()))
                .or_else(|| disk_trouble(report()))
                .or_else(|| self.not_seen_since_request(instance))
                .or_else(|| self.not_seen_yet(instance));
            match rejection {
                None => candidates.push(instance),
                Some(rejection) => rejected.push((instance.uid.clone(), rejection)),
            }
        }
        candidates.sort_by_key(|instance| question.rank(instance));
        (candidates.into_iter().map(|instance| instance.uid.clone()).collect(), rejected)
    }

    /// A sentinel that has just begun counts nobody as failed before `failInterval` is over. Who has shown no life to it may have been dead
    /// for long, and a primary that has to go at once, because it keeps crashing, is no reason to elect that one.
    fn not_seen_yet(&self, instance: &Instance) -> Option<Rejection> {
        let sighting = self.memory.keepers.get(&instance.spec.keeper_uid);
        let is_proven = sighting.is_some_and(|sighting| sighting.life == Life::Proven);
        (!is_proven).then_some(Rejection::NotSeenYet)
    }

    /// Asynchronous mode: have the proxies close. Promotion is allowed once no client can commit on the old primary through a proxy, or
    /// the wait has lasted too long.
    fn fence(&mut self, primary: &Instance, successor: &InstanceUid, because: &PrimaryFault) -> Promotion {
        // Whoever works can be waited for.
        let in_order =
            matches!(because, PrimaryFault::ForcedByOperator { .. } | PrimaryFault::DiskFull { .. });
        if in_order && self.memory.handover.as_ref().is_none_or(|handover| handover.from != primary.uid) {
            self.memory.handover = Some(self.handover_now(primary, because));
        }
        self.close_proxies(because);
        let Awaited { proxies, stays, wake } = self.open_proxies_left();
        let shuts = self.fence_primary(primary, because);
        if !proxies.is_empty() || shuts.is_some() {
            // While clients can still commit, what the old primary reports is not its end.
            if let Some(Handover { from, because, .. }) = self.memory.handover.take() {
                self.memory.handover = Some(Handover { from, ..self.handover_now(primary, &because) });
            }
            let successor = successor.clone();
            let hold = match proxies.is_empty() {
                true => Hold::AwaitingClientsOut { successor, keeper: primary.spec.keeper_uid.clone() },
                false => Hold::AwaitingFence { successor, proxies, stays },
            };
            return Promotion::Held(hold, wake.or(shuts.unwrap_or(Wake::NEVER)));
        }
        match in_order {
            true => self.catch_up(primary, successor),
            false => Promotion::Allowed,
        }
    }

    fn close_proxies(&mut self, because: &PrimaryFault) {
        self.draft.close_proxies(because);
        self.note_closed();
    }

    /// A handover that begins now.
    fn handover_now(&self, primary: &Instance, because: &PrimaryFault) -> Handover {
        let looks = self.looks_at(primary);
        let because = because.clone();
        Handover { from: primary.uid.clone(), because, closed_at: self.seen.arrived, looks, final_lsn: None }
    }

    /// How many looks at an instance its keeper has completed; 0 where it does not count them. The last report counts however old it
    /// is: if a late one counted as 0, a look taken before the proxies had closed would seem to be one after it.
    fn looks_at(&self, instance: &Instance) -> u64 {
        let sighting = self.memory.keepers.get(&instance.spec.keeper_uid);
        let report = sighting.and_then(|sighting| sighting.report.as_ref());
        report.and_then(|report| report.activity.as_ref()).map_or(0, |activity| activity.looks)
    }

    /// Whether what the primary reports now was looked at after the last proxy had closed. The look that was under way then may show
    /// less, the next one does not. A keeper that does not count its looks takes one in each sleep interval.
    fn shows_the_end(&self, primary: &Instance, handover: &Handover) -> bool {
        match self.looks_at(primary) {
            0 => {
                let seen = self.memory.keepers.get(&primary.spec.keeper_uid).map(|sighting| sighting.since);
                seen.is_some_and(|seen| seen >= handover.closed_at + self.seen.spec.sleep_interval * 2)
            }
            looks => looks >= handover.looks + 2,
        }
    }

    /// The primary is to be replaced while it works, so nothing needs to be lost. One that does not work is not waited for: operators force
    /// a failure when a primary hangs, and a full disk may end it any time.
    fn catch_up(&mut self, primary: &Instance, successor: &InstanceUid) -> Promotion {
        let (seen, spec) = (self.seen, self.seen.spec);
        let works = seen.working.contains_key(&primary.uid);
        let trouble = self.memory.trouble.get(&primary.uid).filter(|_| !works);
        let patience = trouble.map(|since| seen.limit(*since, spec.sleep_interval * 2));
        if patience.is_some_and(Limit::is_over) {
            return Promotion::Allowed;
        }
        self.note_the_end(primary);
        let Some(handover) = &self.memory.handover else { return Promotion::Allowed };
        let lsn = handover.final_lsn;
        let reached = self.draft.instances.get(successor).map_or(Lsn(0), |instance| instance.status.lsn);
        let bound = spec.proxy_check_interval * 2 + spec.sleep_interval * 3 + spec.fail_interval;
        let limit = seen.limit(self.closed_since(), bound);
        if lsn.is_some_and(|lsn| reached >= lsn) || limit.is_over() {
            return Promotion::Allowed;
        }
        let wake = limit.wake().or(patience.map_or(Wake::NEVER, Limit::wake));
        Promotion::Held(Hold::AwaitingCatchUp { successor: successor.clone(), lsn }, wake)
    }

    /// Remember where the old primary ended, once it shows that.
    fn note_the_end(&mut self, primary: &Instance) {
        let is_new =
            self.memory.handover.as_ref().is_some_and(|handover| {
                handover.final_lsn.is_none() && self.shows_the_end(primary, handover)
            });
        if is_new
            && self.seen.working.contains_key(&primary.uid)
            && let Some(handover) = &mut self.memory.handover
        {
            handover.final_lsn = Some(primary.status.lsn);
        }
    }

    /// Forget a handover from another primary than this one: it is over.
    pub fn forget_handover_of_others(&mut self, primary: &Instance) {
        if self.memory.handover.as_ref().is_some_and(|handover| handover.from != primary.uid) {
            self.memory.handover = None;
        }
    }

    /// One write tells the new primary to promote, the old one that it has no followers, and the proxies to close.
    pub(super) fn elect(&mut self, old: &Instance, successor: &InstanceUid, because: PrimaryFault) {
        self.memory.handover = None;
        self.fulfil_request(successor);
        self.close_proxies(&because);
        self.remember_former(old, successor, &because);
        if self.seen.spec.role == Role::Primary && self.is_head(successor) {
            // It shows what it had flushed itself: nobody comes back in its place.
            self.draft.void_formers();
        }
        let role = self.seen.spec.role.clone();
        let follow = match role {
            Role::Standby => Some(self.outside_primary()),
            _ => None,
        };
        let waits_for = self.wants_synchronous().then(|| successors_list(old, successor));
        let blocks =
            self.seen.spec.min_synchronous_standbys > 0 && waits_for.as_ref().is_some_and(Vec::is_empty);
        let new = NewPrimary { role, follow, waits_for, blocks };
        self.draft.elect(&old.uid, successor, new, because);
    }

    /// How the head of a standby cluster follows the primary outside.
    pub fn outside_primary(&self) -> FollowConfig {
        let config = self.seen.spec.standby_config.clone().unwrap_or_default();
        FollowConfig {
            follow_type: Some(FollowType::External),
            instance_uid: InstanceUid::default(),
            standby_settings: config.standby_settings,
            archive_recovery_settings: config.archive_recovery_settings,
        }
    }
}

/// The new primary waits for all that the old one waited for, and for the old one in its own place: so it acknowledges
/// nothing before its keeper and the sentinel have found out who is there.
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
