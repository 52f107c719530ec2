//! What has no place in the cluster any more: dead keepers, former primaries, instances that cannot follow.

use stolon_model::{Instance, InstanceUid, Lsn};

use super::classify::{Kind, Validity, kind, validity};
use super::reasons::{Change, Rejection, RemovalReason};
use super::round::Round;

/// Forget keepers without instance that nobody has seen for long. The only rule that reads the wall clock.
pub(super) fn dead_keepers(round: &mut Round<'_>) {
    let limit = round.spec.dead_keeper_removal_interval;
    let now = round.now.wall.instant();
    let dead: Vec<_> = round
        .next
        .keepers
        .values()
        .filter(|keeper| round.next.instance_of(&keeper.uid).is_none())
        .filter(|keeper| {
            let unseen = now.duration_since(keeper.status.last_healthy_time.instant());
            std::time::Duration::try_from(unseen).is_ok_and(|unseen| unseen > limit)
        })
        .map(|keeper| keeper.uid.clone())
        .collect();
    for keeper in dead {
        round.next.keepers.remove(&keeper);
        round.changes.push(Change::KeeperForgotten { keeper });
    }
}

/// Remove what cannot follow `primary`. Its keeper, if it works, gets a new standby to make in the same round.
pub(super) fn useless_instances(round: &mut Round<'_>, primary: &Instance) {
    let verdicts: Vec<_> = round
        .next
        .instances
        .values()
        .filter(|instance| instance.uid != primary.uid)
        .filter_map(|instance| Some((instance.uid.clone(), verdict(round, instance, primary)?)))
        .collect();
    for (uid, because) in verdicts {
        round.remove_instance(&uid, because);
    }
}

fn verdict(round: &Round<'_>, instance: &Instance, primary: &Instance) -> Option<RemovalReason> {
    if kind(instance) == Kind::Primary {
        return Some(RemovalReason::FormerPrimary);
    }
    match validity(instance, primary) {
        Validity::Invalid(Rejection::OtherSystem) => Some(RemovalReason::OtherSystem),
        Validity::Invalid(_) => Some(RemovalReason::OtherBranch),
        _ if cannot_sync(round, instance, primary) => Some(RemovalReason::MissingWal),
        _ => None,
    }
}

/// So many reports in a row must show the same position before a standby counts as stuck.
const STALLED_REPORTS: u32 = 10;

fn cannot_sync(round: &Round<'_>, instance: &Instance, primary: &Instance) -> bool {
    let stalled = round.memory.stalls.get(&instance.uid).is_some_and(|stall| stall.count > STALLED_REPORTS);
    let Some(oldest) = wal_name_without_timeline(&primary.status.older_wal_file) else { return false };
    stalled
        && kind(instance) == Kind::Standby
        && instance.generation != 1
        && instance.status.healthy
        && instance.status.lsn != primary.status.lsn
        && wal_name(instance.status.lsn).as_str() < oldest
}

/// The name of the WAL file that holds a position, without its timeline. Segments are taken to be 16 MiB.
fn wal_name(lsn: Lsn) -> String {
    const SEGMENT: u64 = 16 * 1024 * 1024;
    format!("{:08X}{:08X}", lsn.0 >> 32, (lsn.0 & 0xFFFF_FFFF) / SEGMENT)
}

fn wal_name_without_timeline(file: &str) -> Option<&str> {
    let is_wal_file = file.len() == 24 && file.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    if is_wal_file { file.get(8..) } else { None }
}

/// Remove one instance; a shorthand for rules in other files.
pub(super) fn remove_all(round: &mut Round<'_>, uids: &[InstanceUid], because: RemovalReason) {
    for uid in uids {
        round.remove_instance(uid, because);
    }
}
