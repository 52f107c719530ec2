//! Fence, then promote: in asynchronous mode no proxy may reach the old primary when the new one is promoted,
//! or what clients commit in between would be acknowledged and lost. In synchronous mode the standbys that the
//! old primary waits for are the fence.

use std::time::Duration;

use stolon_model::{InfoUid, Instance, InstanceUid, Lsn, ProxyUid};

use super::convergence::is_over;
use super::memory::Handover;
use super::proxy;
use super::reasons::{Hold, PrimaryFault};
use super::round::Round;

/// Whether the successor may be promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fence {
    Pending,
    Complete,
}

/// Keep clients away from `primary` before `successor` is promoted.
pub(super) fn fence(
    round: &mut Round<'_>,
    primary: &Instance,
    successor: &InstanceUid,
    fault: &PrimaryFault,
) -> Fence {
    let fence = if primary.spec.synchronous_replication {
        Fence::Complete
    } else if closed_for_too_long(round, patience(round)) {
        Fence::Complete
    } else {
        await_proxies(round, successor, fault)
            .unwrap_or_else(|| await_catch_up(round, primary, successor, fault))
    };
    if fence == Fence::Pending {
        keep_operators_wish(round, primary);
    }
    fence
}

/// How long clients stay cut off for the sake of a fence.
fn patience(round: &Round<'_>) -> Duration {
    round.spec.proxy_check_interval * 2 + round.spec.sleep_interval
}

fn closed_for_too_long(round: &mut Round<'_>, limit: Duration) -> bool {
    if round.before.proxy.spec.primary.is_some() {
        return false;
    }
    let Some(closed) = round.memory.closed else { return false };
    if round.forced.is_empty() || round.memory.handover.is_none() {
        round.wake_at(closed.since + limit);
        return is_over(closed.since, limit, round.now);
    }
    // A handover gives the two instances time for their reports.
    let limit = limit + round.spec.sleep_interval * 3;
    round.wake_at(closed.since + limit);
    is_over(closed.since, limit, round.now)
}

/// Close the proxies and wait for those that may hold connections to the old primary; none: nobody does.
fn await_proxies(round: &mut Round<'_>, successor: &InstanceUid, fault: &PrimaryFault) -> Option<Fence> {
    let generation = round.next.proxy.generation;
    let closed = round.next.proxy.spec.primary.is_none();
    let mut waiting: Vec<ProxyUid> = Vec::new();
    let mut deadlines = Vec::new();
    for (uid, active) in &round.sightings.proxies {
        if closed && active.report.generation == generation {
            continue;
        }
        if is_over(active.since, active.timeout(), round.now) {
            continue;
        }
        deadlines.push(active.since + active.timeout());
        waiting.push(uid.clone());
    }
    if waiting.is_empty() {
        return None;
    }
    for deadline in deadlines {
        round.wake_at(deadline);
    }
    proxy::close(round, fault);
    round.hold(Hold::AwaitingFence { successor: successor.clone(), proxies: waiting });
    Some(Fence::Pending)
}

/// When the operator replaces a working primary, the successor first gets all that the old one has. Clients must
/// be cut off already, or there would be no end to it.
fn await_catch_up(
    round: &mut Round<'_>,
    primary: &Instance,
    successor: &InstanceUid,
    fault: &PrimaryFault,
) -> Fence {
    let cut_off = round.before.proxy.spec.primary.is_none() && !round.sightings.proxies.is_empty();
    let (PrimaryFault::ForcedByOperator { .. }, true, Some((report, lsn))) =
        (fault, cut_off, working_report(round, primary))
    else {
        return Fence::Complete;
    };
    let mut handover = match round.memory.handover.clone() {
        Some(handover) if handover.from == primary.uid => handover,
        _ => Handover { from: primary.uid.clone(), info_uid: report.clone(), final_lsn: None },
    };
    if handover.final_lsn.is_none() && handover.info_uid != report {
        handover.final_lsn = Some(lsn);
    }
    let final_lsn = handover.final_lsn;
    let reached = round
        .next
        .instances
        .get(successor)
        .is_some_and(|successor| final_lsn.is_some_and(|lsn| successor.status.lsn >= lsn));
    round.memory.handover = Some(handover);
    if reached {
        return Fence::Complete;
    }
    round.hold(Hold::AwaitingCatchUp { successor: successor.clone(), lsn: final_lsn });
    Fence::Pending
}

/// The last report of a primary that works, and where it stood; none: it does not, or is silent.
fn working_report(round: &Round<'_>, primary: &Instance) -> Option<(InfoUid, Lsn)> {
    let sighting = round.memory.keepers.get(&primary.spec.keeper_uid)?;
    if is_over(sighting.since, round.spec.sleep_interval * 3, round.now) {
        return None;
    }
    let report = sighting.report.as_ref()?;
    let state = report.postgres_state.as_ref()?;
    (state.healthy && state.uid == primary.uid).then(|| (report.info_uid.clone(), state.lsn))
}

/// The operator's wish is one shot. It must last until the election that it asks for.
fn keep_operators_wish(round: &mut Round<'_>, primary: &Instance) {
    let keeper = &primary.spec.keeper_uid;
    if round.forced.contains(keeper)
        && let Some(keeper) = round.next.keepers.get_mut(keeper)
    {
        keeper.status.force_fail = true;
    }
}
