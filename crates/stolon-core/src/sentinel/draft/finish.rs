//! The end of a draft: what every instance copies from the specification, generations, and times.

use std::sync::Arc;

use stolon_model::{
    ClusterData, EffectiveSpec, FollowType, GoDuration, Instance, InstanceSpec, InstanceStatus, Keeper,
    KeeperStatus,
};

use super::Draft;
use crate::sentinel::joined::joined;
use crate::sentinel::round::Kind;
use crate::sentinel::{Change, Weight, check};

impl Draft<'_> {
    /// Copy what keepers need of the cluster's specification into every instance.
    pub fn copy_specification(&mut self, effective: &EffectiveSpec) {
        // The parameters of a cluster that was just made may come from its first instance.
        let mut parameters = Shared::of(&self.data.cluster.spec.pg_parameters);
        let mut lines = Shared::of(&effective.pg_hba);
        for instance in self.data.instances.values_mut() {
            let kind = Kind::of(instance);
            let spec = &mut instance.spec;
            spec.request_timeout = GoDuration::from(effective.request_timeout);
            spec.max_standbys = effective.max_standbys;
            spec.use_pg_rewind = effective.use_pg_rewind;
            parameters.give(&mut spec.pg_parameters);
            lines.give(&mut spec.pg_hba);
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
        for (_, instance, before) in joined(&mut self.data.instances, &self.before.instances) {
            if before.is_some_and(|before| !asks_the_same(&instance.spec, &before.spec)) {
                instance.generation += 1;
            }
        }
    }

    /// Whether the difference from the document that was read needs a write at once.
    pub fn weight(&self) -> Weight {
        // What only is told goes into the history, which is a part of the document.
        let is_told = self.changes.iter().any(|change| matches!(change, Change::LockedOut { .. }));
        match !is_told && differs_in_routine_only(&self.data, self.before) {
            true => Weight::Routine,
            false => Weight::Decisive,
        }
    }

    pub fn raise_epoch(&mut self, epoch: u64) {
        self.data.cluster.epoch = Some(epoch);
    }

    /// The next document and what changed in it.
    pub fn finished(mut self) -> (ClusterData, Vec<Change>) {
        self.stamp();
        debug_assert!(
            check::no_new_violations(self.before, &self.data),
            "a decision must not break a rule: {:?}",
            check::violations(&self.data)
        );
        (self.data, self.changes)
    }

    /// Change times are informational: the wall clock of this sentinel where something differs.
    fn stamp(&mut self) {
        let (before, wall) = (self.before, self.wall);
        let data = &mut self.data;
        data.change_time = wall;
        if data.cluster != before.cluster {
            data.cluster.change_time = wall;
        }
        for (_, keeper, before) in joined(&mut data.keepers, &before.keepers) {
            if before != Some(keeper) {
                keeper.change_time = wall;
            }
        }
        for (_, instance, before) in joined(&mut data.instances, &before.instances) {
            if before != Some(instance) {
                instance.change_time = wall;
            }
        }
        if data.proxy != before.proxy {
            data.proxy.change_time = wall;
        }
    }
}

/// A value of the specification that every instance holds: one copy in memory is enough for all.
struct Shared<'a, T> {
    value: &'a Option<T>,
    /// An instance's copy that is the same.
    copy: Option<Arc<T>>,
}

impl<'a, T: Clone + PartialEq> Shared<'a, T> {
    fn of(value: &'a Option<T>) -> Self {
        Shared { value, copy: None }
    }

    fn give(&mut self, to: &mut Option<Arc<T>>) {
        if let (Some(to), Some(copy)) = (&*to, &self.copy)
            && Arc::ptr_eq(to, copy)
        {
            return;
        }
        if to.as_deref() == self.value.as_ref() {
            // Those of the other instances are this one, as a rule: they need not be compared again.
            self.copy.clone_from(to);
            return;
        }
        if self.copy.is_none() {
            self.copy = self.value.clone().map(Arc::new);
        }
        to.clone_from(&self.copy);
    }
}

/// Null and `[]` mean the same for followers. For all other lists they differ.
fn asks_the_same(next: &InstanceSpec, before: &InstanceSpec) -> bool {
    if next == before {
        return true;
    }
    let comparable = |spec: &InstanceSpec| {
        let mut spec = spec.clone();
        spec.followers.get_or_insert_default();
        spec
    };
    comparable(next) == comparable(before)
}

/// Times and positions change all the time and need no write of their own.
fn differs_in_routine_only(next: &ClusterData, before: &ClusterData) -> bool {
    let ClusterData { change_time, cluster, keepers, instances, proxy } = next;
    *change_time == before.change_time
        && *cluster == before.cluster
        && *proxy == before.proxy
        && keepers.len() == before.keepers.len()
        && instances.len() == before.instances.len()
        && keepers
            .iter()
            .zip(&before.keepers)
            .all(|((uid, keeper), (before_uid, before))| uid == before_uid && is_same_keeper(keeper, before))
        && instances.iter().zip(&before.instances).all(|((uid, instance), (before_uid, before))| {
            uid == before_uid && is_same_instance(instance, before)
        })
}

/// The same but for the time of the last report. Every other field is named, so that no new one is forgotten.
fn is_same_keeper(keeper: &Keeper, before: &Keeper) -> bool {
    let Keeper { uid, generation, change_time, spec, status } = keeper;
    let KeeperStatus {
        healthy,
        last_healthy_time: _,
        boot_uuid,
        postgres_binary_version,
        force_fail,
        fail_request,
        can_be_primary,
        can_be_synchronous_replica,
        http_address,
        zone,
        failover_priority,
        chosen_priority,
    } = status;
    let then = &before.status;
    *uid == before.uid
        && *generation == before.generation
        && *change_time == before.change_time
        && *spec == before.spec
        && *healthy == then.healthy
        && *boot_uuid == then.boot_uuid
        && *postgres_binary_version == then.postgres_binary_version
        && *force_fail == then.force_fail
        && *fail_request == then.fail_request
        && *can_be_primary == then.can_be_primary
        && *can_be_synchronous_replica == then.can_be_synchronous_replica
        && *http_address == then.http_address
        && *zone == then.zone
        && *failover_priority == then.failover_priority
        && *chosen_priority == then.chosen_priority
}

/// The same but for positions and the WAL that is still there. Every other field is named, so that no new one is forgotten.
fn is_same_instance(instance: &Instance, before: &Instance) -> bool {
    let Instance { uid, generation, change_time, spec, status } = instance;
    let InstanceStatus {
        healthy,
        current_generation,
        listen_address,
        port,
        system_identifier,
        timeline,
        lsn: _,
        timelines_history,
        pg_parameters,
        synchronous_standbys,
        older_wal_file: _,
        was_at,
        stores_md5,
        slot_positions: _,
        quorums,
    } = status;
    let then = &before.status;
    *uid == before.uid
        && *generation == before.generation
        && *change_time == before.change_time
        && *spec == before.spec
        && *healthy == then.healthy
        && *current_generation == then.current_generation
        && *listen_address == then.listen_address
        && *port == then.port
        && *system_identifier == then.system_identifier
        && *timeline == then.timeline
        && *timelines_history == then.timelines_history
        && *pg_parameters == then.pg_parameters
        && *synchronous_standbys == then.synchronous_standbys
        && *was_at == then.was_at
        && *quorums == then.quorums
        && *stores_md5 == then.stores_md5
}
