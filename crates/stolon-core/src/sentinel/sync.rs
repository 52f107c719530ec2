//! Synchronous replication: for which standbys the primary's commits wait, and which of them hold every
//! acknowledged commit.
//!
//! Names as in the documentation: S is `spec.synchronousStandbys` of the primary, T is
//! `status.synchronousStandbys`, R what its keeper just reported to be in sync.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use stolon_model::{FAKE_STANDBY, Instance, InstanceUid, PostgresVersion, Role};

use super::memory::Admission;
use super::reasons::{Change, Hold};
use super::round::Round;

type Set = BTreeSet<InstanceUid>;

/// True when `standby` is in both S and T: commits wait for it, and did so for all that it may miss.
pub(super) fn holds_every_commit(primary: &Instance, standby: &InstanceUid) -> bool {
    set(&primary.spec.synchronous_standbys).contains(standby)
        && set(&primary.status.synchronous_standbys).contains(standby)
}

fn set(list: &Option<Vec<InstanceUid>>) -> Set {
    list.iter().flatten().cloned().collect()
}

fn list(set: &Set) -> Vec<InstanceUid> {
    set.iter().cloned().collect()
}

/// What the algorithm works on, all of it about one primary.
struct Sets {
    wanted: Set,
    in_sync: Set,
    good: Set,
    limits: Limits,
}

/// How many standbys commits wait for.
struct Limits {
    minimum: usize,
    maximum: usize,
    transition: Transition,
}

/// How one set of standbys turns into another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transition {
    /// The old members stay until the new ones are in sync.
    Merge,
    /// At once: PostgreSQL before 9.6 waits for one standby only.
    Replace,
}

/// Bring the sets of `primary` one step further. Its keeper must have reached the generation that names S.
pub(super) fn manage(round: &mut Round<'_>, primary: &Instance, good: &[InstanceUid]) {
    let wanted = round.spec.synchronous_replication && round.spec.role == Role::Primary;
    if !wanted {
        return switch_off(round, primary);
    }
    let mut sets = Sets {
        wanted: set(&primary.spec.synchronous_standbys),
        in_sync: set(&primary.status.synchronous_standbys),
        good: good.iter().cloned().collect(),
        limits: limits(round, primary),
    };
    if sets.in_sync != sets.wanted {
        admit(round, primary, &mut sets);
    }
    round.memory.admissions.retain(|uid, _| sets.wanted.contains(uid) && !sets.in_sync.contains(uid));
    if sets.in_sync == sets.wanted {
        let next = next_set(round, primary, &sets);
        sets.in_sync = &sets.in_sync & &next;
        apply(round, primary, &sets, &next);
    } else {
        let standbys = list(&(&sets.wanted - &sets.in_sync));
        round.hold(Hold::AwaitingSync { primary: primary.uid.clone(), standbys });
        if let Some(primary) = round.next.instances.get_mut(&primary.uid) {
            primary.spec.synchronous_standbys = Some(list(&sets.wanted));
        }
    }
    report_admitted(round, primary, &sets);
    if let Some(primary) = round.next.instances.get_mut(&primary.uid) {
        primary.status.synchronous_standbys = Some(list(&sets.in_sync));
    }
}

fn switch_off(round: &mut Round<'_>, primary: &Instance) {
    if primary.spec.synchronous_replication {
        round.changes.push(Change::SynchronousReplicationOff { primary: primary.uid.clone() });
    }
    round.memory.admissions.clear();
    if let Some(primary) = round.next.instances.get_mut(&primary.uid) {
        primary.spec.synchronous_replication = false;
        primary.spec.synchronous_standbys = None;
        primary.spec.external_synchronous_standbys = None;
        primary.status.synchronous_standbys = None;
    }
}

fn limits(round: &Round<'_>, primary: &Instance) -> Limits {
    let version =
        round.next.keepers.get(&primary.spec.keeper_uid).map(|keeper| &keeper.status.postgres_binary_version);
    if version.is_some_and(waits_for_one_standby_only) {
        return Limits { minimum: 1, maximum: 1, transition: Transition::Replace };
    }
    Limits {
        minimum: round.spec.min_synchronous_standbys.into(),
        maximum: round.spec.max_synchronous_standbys.into(),
        transition: Transition::Merge,
    }
}

/// PostgreSQL 9.6 is the first that waits for several (its release notes, `synchronous_standby_names`).
fn waits_for_one_standby_only(version: &PostgresVersion) -> bool {
    version.major == 9 && version.minor <= 5
}

/// Take those into T that are in sync and have passed the gate; give newcomers up that cannot get there.
fn admit(round: &mut Round<'_>, primary: &Instance, sets: &mut Sets) {
    sets.in_sync = &sets.in_sync & &sets.wanted;
    let reported = round.reported_in_sync(primary);
    for uid in &sets.wanted - &sets.in_sync {
        if passes_gate(round, primary, &uid) && reported.contains(&uid) {
            sets.in_sync.insert(uid);
        }
    }
    let pending = &sets.wanted - &sets.in_sync;
    let hopeless = |uid: &InstanceUid| !round.next.instances.contains_key(uid) || !sets.good.contains(uid);
    if pending.iter().any(hopeless) {
        sets.wanted = sets.in_sync.clone();
    }
}

/// True when `standby` has reached the position that the primary had when it certainly waited for it already.
fn passes_gate(round: &mut Round<'_>, primary: &Instance, standby: &InstanceUid) -> bool {
    let keeper = &primary.spec.keeper_uid;
    let Some(report) = round.sightings.fresh.get(keeper) else { return false };
    let Some(state) = round.sightings.healthy_state_of(keeper, &primary.uid) else { return false };
    let primary_uid = primary.uid.clone();
    let known =
        round.memory.admissions.get(standby).filter(|admission| admission.primary() == &primary.uid).cloned();
    let admission = match known {
        None => Admission::Awaited { primary: primary_uid, info_uid: report.info_uid.clone() },
        Some(Admission::Awaited { info_uid, .. }) if info_uid != report.info_uid => {
            Admission::Gate { primary: primary_uid, lsn: state.lsn }
        }
        Some(known) => known,
    };
    round.memory.admissions.insert(standby.clone(), admission.clone());
    let Admission::Gate { lsn, .. } = admission else { return false };
    round
        .next
        .instances
        .get(standby)
        .and_then(|instance| round.sightings.healthy_state_of(&instance.spec.keeper_uid, standby))
        .is_some_and(|state| state.lsn >= lsn)
}

/// The next S, given that S and T are equal.
fn next_set(round: &Round<'_>, primary: &Instance, sets: &Sets) -> Set {
    let Limits { minimum, maximum, transition } = sets.limits;
    let existing: Set =
        sets.wanted.iter().filter(|uid| round.next.instances.contains_key(uid)).cloned().collect();
    let ranked = |uids: &Set| -> Vec<InstanceUid> {
        let mut uids: Vec<_> = uids.iter().filter_map(|uid| round.next.instances.get(uid)).collect();
        uids.sort_by_key(|instance| (Reverse(instance.status.lsn), instance.uid.clone()));
        uids.into_iter().map(|instance| instance.uid.clone()).collect()
    };
    let mut next: Set = ranked(&(&existing & &sets.good)).into_iter().take(maximum).collect();
    for candidate in ranked(&sets.good) {
        if next.len() < maximum && may_join(round, primary, &candidate) {
            next.insert(candidate);
        }
    }
    for previous in ranked(&existing) {
        if next.len() < minimum {
            next.insert(previous);
        }
    }
    if transition == Transition::Merge && !next.is_subset(&sets.wanted) {
        next.extend(existing);
    }
    next
}

fn may_join(round: &Round<'_>, primary: &Instance, candidate: &InstanceUid) -> bool {
    round.next.instances.get(candidate).is_some_and(|instance| {
        let keeper = round.next.keepers.get(&instance.spec.keeper_uid);
        instance.status.timeline == primary.status.timeline
            && keeper.is_some_and(|keeper| keeper.status.can_be_synchronous_replica != Some(false))
    })
}

fn apply(round: &mut Round<'_>, primary: &Instance, sets: &Sets, next: &Set) {
    let blocked = next.len() < sets.limits.minimum;
    let was_blocked =
        primary.spec.external_synchronous_standbys.as_ref().is_some_and(|names| !names.is_empty());
    let uid = primary.uid.clone();
    let before = primary.spec.synchronous_standbys.clone().unwrap_or_default();
    let after = list(next);
    if before != after {
        let (primary, from, to) = (uid.clone(), before, after.clone());
        round.changes.push(Change::SynchronousSetChanged { primary, from, to });
    }
    match (was_blocked, blocked) {
        (false, true) => {
            let minimum = round.spec.min_synchronous_standbys;
            round.changes.push(Change::CommitsBlocked { primary: uid.clone(), minimum });
        }
        (true, false) => round.changes.push(Change::CommitsUnblocked { primary: uid.clone() }),
        _ => {}
    }
    if let Some(primary) = round.next.instances.get_mut(&uid) {
        primary.spec.synchronous_replication = true;
        primary.spec.synchronous_standbys = Some(after);
        primary.spec.external_synchronous_standbys =
            Some(if blocked { vec![FAKE_STANDBY.to_owned()] } else { Vec::new() });
    }
}

fn report_admitted(round: &mut Round<'_>, primary: &Instance, sets: &Sets) {
    let before = set(&primary.status.synchronous_standbys);
    for instance in &sets.in_sync - &before {
        round.changes.push(Change::StandbyInSync { instance });
    }
}
