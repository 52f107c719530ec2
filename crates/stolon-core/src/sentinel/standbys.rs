//! How many standbys there are, who makes them, and whom they follow.

use stolon_model::{FollowConfig, Instance, InstanceInitMode, InstanceSpec, InstanceUid, KeeperUid, Role};

use super::classify::{Kind, Standbys, kind};
use super::reasons::{Change, Hold, RemovalReason};
use super::removal::remove_all;
use super::round::Round;

/// A standby that works once is complete: its keeper must never copy it again under the same uid.
pub(super) fn settle(round: &mut Round<'_>, good: &[InstanceUid]) {
    for uid in good {
        let Some(instance) = round.next.instances.get_mut(uid) else { continue };
        if instance.spec.init_mode != Some(InstanceInitMode::None) {
            instance.spec.init_mode = Some(InstanceInitMode::None);
            let (instance, keeper) = (uid.clone(), instance.spec.keeper_uid.clone());
            round.changes.push(Change::StandbyReady { instance, keeper });
        }
    }
}

/// Remove what is too much, or have made what is too little.
pub(super) fn balance(round: &mut Round<'_>, primary: &InstanceUid, sets: &Standbys) {
    let wanted = usize::from(round.spec.max_standbys_per_sender);
    if sets.good.len() >= wanted {
        remove_surplus(round, primary, sets, sets.good.len() - wanted);
    } else {
        let under_way = sets.good.len() + sets.converging.len() + sets.in_progress.len();
        add(round, primary, wanted.saturating_sub(under_way));
    }
}

/// Synchronous standbys are never surplus. Of the others the least advanced goes first, then the highest uid.
fn remove_surplus(round: &mut Round<'_>, primary: &InstanceUid, sets: &Standbys, surplus: usize) {
    let synchronous = round
        .next
        .instances
        .get(primary)
        .and_then(|primary| primary.spec.synchronous_standbys.clone())
        .unwrap_or_default();
    let idle: Vec<_> = round
        .next
        .instances
        .values()
        .filter(|instance| kind(instance) == Kind::Standby && &instance.uid != primary)
        .filter(|instance| !sets.good.contains(&instance.uid) && !synchronous.contains(&instance.uid))
        .map(|instance| instance.uid.clone())
        .collect();
    remove_all(round, &idle, RemovalReason::NotNeeded);
    let mut removable: Vec<_> = sets
        .good
        .iter()
        .filter(|uid| !synchronous.contains(uid))
        .filter_map(|uid| round.next.instances.get(uid))
        .map(|instance| (instance.status.lsn, std::cmp::Reverse(instance.uid.clone())))
        .collect();
    removable.sort();
    let least: Vec<_> = removable.into_iter().take(surplus).map(|(_, uid)| uid.0).collect();
    remove_all(round, &least, RemovalReason::Surplus);
}

fn add(round: &mut Round<'_>, primary: &InstanceUid, missing: usize) {
    let free = free_keepers(round);
    if missing > 0 && free.is_empty() && round.next.instances.len() == 1 {
        round.hold(Hold::NoFreeKeeper);
    }
    for keeper in free.into_iter().take(missing) {
        let uid = round.uids.instance_uid();
        let instance = Instance {
            uid: uid.clone(),
            generation: 1,
            spec: InstanceSpec {
                keeper_uid: keeper.clone(),
                init_mode: Some(InstanceInitMode::Resync),
                role: Some(Role::Standby),
                follow_config: Some(FollowConfig::internal(primary.clone())),
                followers: Some(Vec::new()),
                ..InstanceSpec::default()
            },
            ..Instance::default()
        };
        round.next.instances.insert(uid.clone(), instance);
        round.changes.push(Change::StandbyAdded { instance: uid, keeper });
    }
}

/// Keepers that work and have nothing to do; those that may become primaries first.
fn free_keepers(round: &Round<'_>) -> Vec<KeeperUid> {
    let mut free: Vec<_> = round
        .next
        .keepers
        .values()
        .filter(|keeper| keeper.status.healthy && round.next.instance_of(&keeper.uid).is_none())
        .map(|keeper| (keeper.status.can_be_primary == Some(false), keeper.uid.clone()))
        .collect();
    free.sort();
    free.into_iter().map(|(_, uid)| uid).collect()
}

/// Every standby follows `primary` and nothing else.
pub(super) fn point_at(round: &mut Round<'_>, primary: &InstanceUid) {
    for instance in round.next.instances.values_mut() {
        if &instance.uid == primary || kind(instance) != Kind::Standby {
            continue;
        }
        let spec = &mut instance.spec;
        spec.role = Some(Role::Standby);
        spec.followers = Some(Vec::new());
        spec.follow_config = Some(FollowConfig::internal(primary.clone()));
        spec.synchronous_replication = false;
        spec.synchronous_standbys = None;
        spec.external_synchronous_standbys = None;
    }
}
