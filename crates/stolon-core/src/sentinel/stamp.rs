//! The end of a round: what every instance copies from the specification, generations, and times.

use stolon_model::{ClusterData, FollowType, GoDuration, InstanceSpec};

use super::round::{Kind, Round};

impl Round<'_> {
    /// Copy what keepers need of the cluster's specification into every instance.
    pub fn copy_specification(&mut self) {
        let effective = &self.spec;
        for instance in self.data.instances.values_mut() {
            let kind = Kind::of(instance);
            let spec = &mut instance.spec;
            spec.request_timeout = GoDuration::from(effective.request_timeout);
            spec.max_standbys = effective.max_standbys;
            spec.use_pg_rewind = effective.use_pg_rewind;
            spec.pg_parameters.clone_from(&effective.pg_parameters);
            spec.pg_hba.clone_from(&effective.pg_hba);
            spec.additional_wal_senders = effective.additional_wal_senders;
            spec.additional_replication_slots = match kind {
                Kind::Head => effective.additional_primary_replication_slots.clone(),
                Kind::Standby | Kind::Unknown => None,
            };
            let outside =
                spec.follow_config.as_mut().filter(|follow| follow.follow_type == Some(FollowType::External));
            if let (Some(follow), Some(config)) = (outside, &effective.standby_config) {
                follow.standby_settings.clone_from(&config.standby_settings);
                follow.archive_recovery_settings.clone_from(&config.archive_recovery_settings);
            }
        }
    }

    /// Raise the generation of each instance of which something else is asked than before.
    pub fn count_generations(&mut self) {
        let before = self.before();
        for (uid, instance) in &mut self.data.instances {
            let Some(before) = before.instances.get(uid) else { continue };
            if comparable(&before.spec) != comparable(&instance.spec) {
                instance.generation += 1;
            }
        }
    }

    /// Change times are informational: the wall clock of this sentinel where something differs.
    pub fn stamp(&mut self) {
        let (before, wall) = (self.before(), self.now.wall);
        let data = &mut self.data;
        data.change_time = wall;
        if data.cluster != before.cluster {
            data.cluster.change_time = wall;
        }
        for (uid, keeper) in &mut data.keepers {
            if before.keepers.get(uid) != Some(keeper) {
                keeper.change_time = wall;
            }
        }
        for (uid, instance) in &mut data.instances {
            if before.instances.get(uid) != Some(instance) {
                instance.change_time = wall;
            }
        }
        if data.proxy != before.proxy {
            data.proxy.change_time = wall;
        }
    }
}

/// Null and `[]` mean the same for followers. For all other lists they differ.
fn comparable(spec: &InstanceSpec) -> InstanceSpec {
    let mut spec = spec.clone();
    spec.followers = Some(spec.followers.unwrap_or_default());
    spec
}

/// `data` with the times and positions of `before`, which change all the time and need no write of their own.
pub(super) fn without_routine(data: &ClusterData, before: &ClusterData) -> ClusterData {
    let mut data = data.clone();
    for (uid, keeper) in &mut data.keepers {
        if let Some(before) = before.keepers.get(uid) {
            keeper.status.last_healthy_time = before.status.last_healthy_time;
        }
    }
    for (uid, instance) in &mut data.instances {
        if let Some(before) = before.instances.get(uid) {
            instance.status.lsn = before.status.lsn;
            instance.status.older_wal_file.clone_from(&before.status.older_wal_file);
        }
    }
    data
}
