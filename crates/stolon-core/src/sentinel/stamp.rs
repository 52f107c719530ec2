//! What every decision ends with: values of the cluster specification, generations, times of change.

use stolon_model::{ClusterData, FollowType, GoDuration, InstanceSpec, Timestamp};

use super::Urgency;
use super::classify::{Kind, kind};
use super::round::Round;

/// Give every instance the values of the cluster specification, and a new generation to those that changed.
pub(super) fn instances(round: &mut Round<'_>) {
    let spec = &round.spec;
    for instance in round.next.instances.values_mut() {
        let instance_kind = kind(instance);
        let wanted = &mut instance.spec;
        wanted.request_timeout = GoDuration::from(spec.request_timeout);
        wanted.max_standbys = spec.max_standbys;
        wanted.use_pg_rewind = spec.use_pg_rewind;
        wanted.pg_parameters = spec.pg_parameters.clone();
        wanted.pg_hba = spec.pg_hba.clone();
        wanted.additional_wal_senders = spec.additional_wal_senders;
        if let (Some(follow), Some(outside)) = (&mut wanted.follow_config, &spec.standby_config)
            && follow.follow_type == Some(FollowType::External)
        {
            follow.standby_settings = outside.standby_settings.clone();
            follow.archive_recovery_settings = outside.archive_recovery_settings.clone();
        }
        wanted.additional_replication_slots = match instance_kind {
            Kind::Primary => spec.additional_primary_replication_slots.clone(),
            Kind::Standby | Kind::Neither => None,
        };
        let Some(before) = round.before.instances.get(&instance.uid) else { continue };
        if normal(&before.spec) != normal(&instance.spec) {
            instance.generation = before.generation + 1;
        } else {
            instance.spec = before.spec.clone();
        }
    }
}

/// Shapes that mean the same become equal. `pgHBA` keeps its: null and `[]` differ.
fn normal(spec: &InstanceSpec) -> InstanceSpec {
    InstanceSpec {
        followers: Some(spec.followers.clone().unwrap_or_default()),
        pg_parameters: spec.pg_parameters.clone().filter(|parameters| !parameters.is_empty()),
        ..spec.clone()
    }
}

/// How soon a decision must be written.
pub(super) fn urgency(before: &ClusterData, next: &ClusterData) -> Urgency {
    if without_what_always_moves(before) == without_what_always_moves(next) {
        Urgency::Routine
    } else {
        Urgency::AtOnce
    }
}

fn without_what_always_moves(cluster: &ClusterData) -> ClusterData {
    let mut cluster = cluster.clone();
    cluster.change_time = Timestamp::ZERO;
    for keeper in cluster.keepers.values_mut() {
        keeper.status.last_healthy_time = Timestamp::ZERO;
    }
    for instance in cluster.instances.values_mut() {
        instance.status.lsn = Default::default();
        instance.status.older_wal_file = String::new();
    }
    cluster
}

/// Note when what has changed. Informational only.
pub(super) fn change_times(before: &ClusterData, next: &mut ClusterData, now: Timestamp) {
    next.change_time = now;
    if next.cluster != before.cluster {
        next.cluster.change_time = now;
    }
    if next.proxy != before.proxy {
        next.proxy.change_time = now;
    }
    for (uid, keeper) in &mut next.keepers {
        if before.keepers.get(uid) != Some(keeper) {
            keeper.change_time = now;
        }
    }
    for (uid, instance) in &mut next.instances {
        if before.instances.get(uid) != Some(instance) {
            instance.change_time = now;
        }
    }
}
