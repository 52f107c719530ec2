//! What reports make of keepers and instances: who is registered, who works, and what instances say.

use std::time::Duration;

use stolon_model::{Instance, InstanceUid, Keeper, KeeperStatus, KeeperUid, PostgresState};

use super::convergence::is_over;
use super::memory::Life;
use super::reasons::{Change, KeeperFault};
use super::round::Round;

/// Register new keepers, take over what every keeper says about itself, and judge it.
pub(super) fn keepers(round: &mut Round<'_>) {
    let unknown: Vec<_> =
        round.sightings.fresh.keys().filter(|uid| !round.next.keepers.contains_key(uid)).cloned().collect();
    for uid in unknown {
        let status = KeeperStatus { healthy: true, ..KeeperStatus::default() };
        let keeper = Keeper {
            uid: uid.clone(),
            generation: 1,
            spec: Some(stolon_model::Empty::default()),
            status,
            ..Keeper::default()
        };
        round.next.keepers.insert(uid.clone(), keeper);
        round.changes.push(Change::KeeperRegistered { keeper: uid });
    }
    let uids: Vec<_> = round.next.keepers.keys().cloned().collect();
    for uid in uids {
        take_over_report(round, &uid);
        judge_keeper(round, &uid);
    }
}

/// The last proven report counts even when it is no longer fresh: the round that saw it first may not have
/// written anything.
fn take_over_report(round: &mut Round<'_>, uid: &KeeperUid) {
    let Some(keeper) = round.next.keepers.get_mut(uid) else { return };
    let Some(sighting) = round.memory.keepers.get(uid).filter(|sighting| sighting.life == Life::Proven)
    else {
        return;
    };
    let Some(report) = &sighting.report else { return };
    let status = &mut keeper.status;
    status.can_be_primary = report.can_be_primary;
    status.can_be_synchronous_replica = report.can_be_synchronous_replica;
    status.postgres_binary_version = report.postgres_binary_version.clone();
    if status.boot_uuid != report.boot_uuid {
        if !status.boot_uuid.is_empty() {
            round.changes.push(Change::KeeperRestarted { keeper: uid.clone() });
        }
        status.boot_uuid = report.boot_uuid.clone();
    }
}

fn judge_keeper(round: &mut Round<'_>, uid: &KeeperUid) {
    let silent_since = silent_since(round, uid);
    let deadline = silent_since + round.spec.fail_interval;
    let Some(keeper) = round.next.keepers.get_mut(uid) else { return };
    let status = &mut keeper.status;
    let was_healthy = status.healthy;
    let mut fault = is_silent(silent_since, round.spec.fail_interval, round.now.monotonic).then(|| {
        let silent_for = round.now.monotonic.saturating_sub(silent_since) + round.spec.sleep_interval;
        KeeperFault::Silent { silent_for }
    });
    if status.force_fail {
        status.force_fail = false;
        round.forced.insert(uid.clone());
        fault = Some(KeeperFault::ForcedByOperator);
    }
    status.healthy = fault.is_none();
    if status.healthy || status.last_healthy_time.is_never() {
        status.last_healthy_time = round.now.wall;
    }
    match fault {
        Some(because) if was_healthy => {
            round.changes.push(Change::KeeperFailed { keeper: uid.clone(), because });
        }
        None if !was_healthy => round.changes.push(Change::KeeperRecovered { keeper: uid.clone() }),
        _ => {}
    }
    round.wake_at(deadline);
}

/// When the last report of a keeper became too old, possibly in the future.
fn silent_since(round: &Round<'_>, uid: &KeeperUid) -> Duration {
    let since = round.memory.keepers.get(uid).map_or(round.now.monotonic, |sighting| sighting.since);
    since + round.spec.sleep_interval
}

fn is_silent(silent_since: Duration, fail_interval: Duration, now: Duration) -> bool {
    now > silent_since && now - silent_since > fail_interval
}

/// Take over what keepers say about their instances, and judge those.
pub(super) fn instances(round: &mut Round<'_>) {
    let uids: Vec<_> = round.next.instances.keys().cloned().collect();
    for uid in uids {
        take_over_state(round, &uid);
        judge_instance(round, &uid);
    }
}

fn take_over_state(round: &mut Round<'_>, uid: &InstanceUid) {
    let Some(instance) = round.next.instances.get_mut(uid) else { return };
    let sighting = round.memory.keepers.get(&instance.spec.keeper_uid);
    let state = sighting
        .filter(|sighting| sighting.life == Life::Proven)
        .and_then(|sighting| sighting.report.as_ref())
        .and_then(|report| report.postgres_state.as_ref())
        .filter(|state| &state.uid == uid);
    let Some(state) = state else { return };
    copy_state(instance, state);
}

/// Address, port and generation are valid even while the instance does not work, the rest is not.
fn copy_state(instance: &mut Instance, state: &PostgresState) {
    let status = &mut instance.status;
    status.listen_address = state.listen_address.clone();
    status.port = state.port.clone();
    status.current_generation = state.generation;
    if state.healthy {
        status.system_identifier = state.system_identifier.clone();
        status.timeline = state.timeline;
        status.lsn = state.lsn;
        status.timelines_history = state.timelines_history.clone().filter(|history| !history.is_empty());
        status.pg_parameters = state.pg_parameters.clone().filter(|parameters| !parameters.is_empty());
        status.older_wal_file = state.older_wal_file.clone();
    }
}

/// An instance that was never reported to work counts as healthy until failInterval has passed: "healthy" means
/// something only together with its generation.
fn judge_instance(round: &mut Round<'_>, uid: &InstanceUid) {
    let trouble = round.memory.trouble.get(uid).copied();
    let Some(instance) = round.next.instances.get(uid) else { return };
    let keeper_uid = instance.spec.keeper_uid.clone();
    let keeper_works = round.next.keepers.get(&keeper_uid).is_some_and(|keeper| keeper.status.healthy);
    let failed = trouble.is_some_and(|since| {
        round.now.monotonic > since && is_over(since, round.spec.fail_interval, round.now)
    });
    let healthy = keeper_works && !failed;
    let was_healthy = instance.status.healthy;
    let was_known = instance.status.current_generation != 0;
    if let Some(instance) = round.next.instances.get_mut(uid) {
        instance.status.healthy = healthy;
    }
    let (instance, keeper) = (uid.clone(), keeper_uid);
    match (was_healthy, healthy) {
        (true, false) => round.changes.push(Change::InstanceFailed { instance, keeper }),
        (false, true) if was_known => round.changes.push(Change::InstanceRecovered { instance, keeper }),
        _ => {}
    }
    if let Some(since) = trouble {
        round.wake_at(since + round.spec.fail_interval);
    }
}
