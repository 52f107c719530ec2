//! The election of a primary: whether the present one must go, who may follow it, and what that changes.

use std::cmp::Reverse;

use stolon_model::{FAKE_STANDBY, Instance, InstanceUid, Role};

use super::classify::{Kind, State, Validity, kind, state, validity};
use super::convergence::{Progress, is_over, progress};
use super::fence::{Fence, fence};
use super::init::outside;
use super::memory::Demotion;
use super::reasons::{Change, Hold, PrimaryFault, Rejection};
use super::round::Round;
use super::{proxy, sync};

/// What became of the question who is the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The primary stays.
    Stays,
    /// The primary is to go, and first clients are kept away from it.
    Fencing,
    /// Another one was elected.
    Elected,
}

/// Replace `primary` if it must go and somebody may follow.
pub(super) fn decide(round: &mut Round<'_>, primary: &Instance) -> Outcome {
    let Some(fault) = fault(round, primary) else {
        round.memory.handover = None;
        return Outcome::Stays;
    };
    if is_futile(round, primary, &fault) {
        return Outcome::Stays;
    }
    let successor = match successor(round, primary) {
        Ok(successor) => successor,
        Err(rejected) => {
            round.memory.handover = None;
            let primary = primary.uid.clone();
            round.hold(Hold::NoEligibleStandby { primary, because: fault, rejected });
            return Outcome::Stays;
        }
    };
    match fence(round, primary, &successor, &fault) {
        Fence::Pending => Outcome::Fencing,
        Fence::Complete => {
            elect(round, primary, &successor, fault);
            Outcome::Elected
        }
    }
}

/// Why the primary must go; none: it may stay.
fn fault(round: &mut Round<'_>, primary: &Instance) -> Option<PrimaryFault> {
    let timeout = round.spec.convergence_timeout;
    if !primary.status.healthy {
        return Some(health_fault(round, primary));
    }
    let late = progress(primary, timeout, &round.memory, round.now) == Progress::Failed;
    late.then(|| PrimaryFault::NotConverged {
        keeper: primary.spec.keeper_uid.clone(),
        generation: primary.generation,
        within: timeout,
    })
}

fn health_fault(round: &Round<'_>, primary: &Instance) -> PrimaryFault {
    let keeper = primary.spec.keeper_uid.clone();
    let since_last = |since: std::time::Duration| round.now.monotonic.saturating_sub(since);
    let Some(known) = round.next.keepers.get(&keeper) else {
        return PrimaryFault::KeeperUnknown { keeper };
    };
    if round.forced.contains(&keeper) {
        return PrimaryFault::ForcedByOperator { keeper };
    }
    if !known.status.healthy {
        let silent_for =
            round.memory.keepers.get(&keeper).map_or_else(Default::default, |seen| since_last(seen.since));
        return PrimaryFault::KeeperSilent { keeper, silent_for };
    }
    let down_for = round.memory.trouble.get(&primary.uid).copied().map_or_else(Default::default, since_last);
    PrimaryFault::InstanceDown { keeper, down_for }
}

/// True when a working primary was replaced already because it did not do what the same specification demands:
/// the next one would meet that too. It is tried again ever more rarely.
fn is_futile(round: &mut Round<'_>, primary: &Instance, fault: &PrimaryFault) -> bool {
    if !matches!(fault, PrimaryFault::NotConverged { .. }) {
        return false;
    }
    let Some(last) = round.memory.demotion.clone() else { return false };
    let pause = round.spec.convergence_timeout * 2u32.saturating_pow(last.count.min(10));
    if last.spec != round.next.cluster.spec || is_over(last.at, pause, round.now) {
        return false;
    }
    round.wake_at(last.at + pause);
    round.hold(Hold::NotDemotedAgain {
        primary: primary.uid.clone(),
        keeper: primary.spec.keeper_uid.clone(),
        generation: primary.generation,
    });
    true
}

/// The best instance that may take the place of `primary`, or why each of the others may not.
fn successor(round: &Round<'_>, primary: &Instance) -> Result<InstanceUid, Vec<(InstanceUid, Rejection)>> {
    let mut eligible = Vec::new();
    let mut rejected = Vec::new();
    for instance in round.next.instances.values().filter(|instance| instance.uid != primary.uid) {
        match rejection(round, primary, instance) {
            None => eligible.push(instance),
            Some(why) => rejected.push((instance.uid.clone(), why)),
        }
    }
    let known_in_sync = primary.status.synchronous_standbys.clone().unwrap_or_default();
    eligible.sort_by_key(|instance| {
        // A former primary was allowed to be one, whatever its keeper says now: the last resort.
        let forbidden = may_be_primary(round, instance) == May::Not;
        (
            forbidden,
            Reverse(instance.status.lsn),
            !known_in_sync.contains(&instance.uid),
            instance.uid.clone(),
        )
    });
    eligible.first().map(|best| best.uid.clone()).ok_or(rejected)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    Be,
    Not,
}

fn may_be_primary(round: &Round<'_>, instance: &Instance) -> May {
    let keeper = round.next.keepers.get(&instance.spec.keeper_uid);
    match keeper.and_then(|keeper| keeper.status.can_be_primary) {
        Some(false) => May::Not,
        _ => May::Be,
    }
}

/// Why `instance` may not take the place of `primary`; none: it may.
fn rejection(round: &Round<'_>, primary: &Instance, instance: &Instance) -> Option<Rejection> {
    let waits_for_standbys = primary.spec.synchronous_replication;
    let kind = kind(instance);
    match validity(instance, primary) {
        Validity::Unknown => return Some(Rejection::NeverReported),
        Validity::Invalid(why) => return Some(why),
        Validity::Valid => {}
    }
    let state = state(round, instance);
    if kind == Kind::Neither {
        return Some(Rejection::FollowsNothing);
    }
    if state == State::Failed && !keeper_works(round, instance) {
        return Some(Rejection::KeeperFailed);
    }
    if state == State::Failed && !instance.status.healthy {
        return Some(Rejection::Unhealthy);
    }
    if state != State::Good {
        let (generation, current) = (instance.generation, instance.status.current_generation);
        return Some(Rejection::NotConverged { generation, current });
    }
    if instance.status.timeline != primary.status.timeline {
        let (own, primary) = (instance.status.timeline, primary.status.timeline);
        return Some(Rejection::OtherTimeline { own, primary });
    }
    // What the primary's commits wait for counts, not what the specification says: until the primary waits,
    // the limit of lag is the only protection there is.
    let bytes = primary.status.lsn.ahead_of(instance.status.lsn);
    let limit = round.spec.max_standby_lag;
    if !waits_for_standbys && bytes > i64::from(limit) {
        return Some(Rejection::Lag { bytes, limit });
    }
    if kind == Kind::Standby && may_be_primary(round, instance) == May::Not {
        return Some(Rejection::Forbidden);
    }
    if waits_for_standbys && !sync::holds_every_commit(primary, &instance.uid) {
        return Some(Rejection::NotSynchronous);
    }
    None
}

fn keeper_works(round: &Round<'_>, instance: &Instance) -> bool {
    round.next.keepers.get(&instance.spec.keeper_uid).is_some_and(|keeper| keeper.status.healthy)
}

fn elect(round: &mut Round<'_>, old: &Instance, to: &InstanceUid, because: PrimaryFault) {
    remember_demotion(round, &because);
    round.memory.handover = None;
    proxy::close(round, &because);
    if let Some(old) = round.next.instances.get_mut(&old.uid) {
        old.spec.followers = Some(Vec::new());
    }
    let cluster_role = round.spec.role.clone();
    let wants_sync = round.spec.synchronous_replication && cluster_role == Role::Primary;
    let minimum = round.spec.min_synchronous_standbys;
    let follow_config = (cluster_role == Role::Standby).then(|| outside(round));
    round.next.cluster.status.primary = Some(to.clone());
    let Some(new) = round.next.instances.get_mut(to) else { return };
    new.spec.role = Some(cluster_role);
    new.spec.follow_config = follow_config;
    new.spec.synchronous_replication = wants_sync;
    if wants_sync {
        let inherited = inherited_standbys(old, to);
        let blocked = inherited.is_empty() && minimum > 0;
        new.spec.external_synchronous_standbys =
            Some(if blocked { vec![FAKE_STANDBY.to_owned()] } else { Vec::new() });
        new.spec.synchronous_standbys = Some(inherited);
    } else {
        new.spec.synchronous_standbys = None;
        new.spec.external_synchronous_standbys = None;
    }
    let (keeper, lsn) = (new.spec.keeper_uid.clone(), new.status.lsn);
    let (from, to) = (old.uid.clone(), to.clone());
    round.changes.push(Change::PrimaryElected { from, to, keeper, lsn, because });
}

/// The new primary waits for whom the old one waited for, and for the old one in place of itself.
fn inherited_standbys(old: &Instance, new: &InstanceUid) -> Vec<InstanceUid> {
    let mut standbys = old.spec.synchronous_standbys.clone().unwrap_or_default();
    for standby in &mut standbys {
        if standby == new {
            *standby = old.uid.clone();
        }
    }
    standbys.sort();
    standbys.dedup();
    standbys
}

fn remember_demotion(round: &mut Round<'_>, because: &PrimaryFault) {
    if !matches!(because, PrimaryFault::NotConverged { .. }) {
        return;
    }
    let spec = round.next.cluster.spec.clone();
    let count = match &round.memory.demotion {
        Some(last) if last.spec == spec => last.count + 1,
        _ => 1,
    };
    round.memory.demotion = Some(Demotion { spec, at: round.now.monotonic, count });
}
