//! Changes of instances.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stolon_model::{
    Challenge, FAKE_STANDBY, FollowConfig, Instance, InstanceInitMode, InstanceSpec, InstanceUid, KeeperUid,
    Phase, PostgresState, Role, WasAt,
};

use super::Draft;
use crate::sentinel::joined::joined;
use crate::sentinel::round::Kind;
use crate::sentinel::{Change, PrimaryFault, RemovalReason};

/// What becomes of the parameters that the first instance was found with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sentinel) enum FoundParameters {
    /// They become the cluster's.
    Merged,
    Ignored,
}

/// What is asked of an elected instance.
#[derive(Clone, Debug)]
pub(in crate::sentinel) struct NewPrimary {
    pub role: Role,
    /// Whom the head of a standby cluster follows.
    pub follow: Option<FollowConfig>,
    /// The standbys that commits wait for; none in asynchronous mode.
    pub waits_for: Option<Vec<InstanceUid>>,
    /// Whether commits block until there is such a standby.
    pub blocks: bool,
}

impl Draft<'_> {
    /// What the keeper of an instance is to answer; none: nothing.
    pub fn challenge(&mut self, challenge: Option<Challenge>) {
        if self.data.cluster.status.challenge != challenge {
            self.data.cluster.status.challenge = challenge;
        }
    }

    /// Take over what is reported about instances: `state` gives the last report about one.
    pub fn observe<'s>(&mut self, state: impl Fn(&Instance) -> Option<&'s PostgresState>) {
        for instance in self.data.instances.values_mut() {
            if let Some(state) = state(instance) {
                copy_state(instance, state);
            }
        }
    }

    /// Where standbys will be that their keepers have not begun, by what `state` says of the keeper: where only instances are admitted
    /// (`defaultSUReplAccessMode` `strict`), whom they copy has to know it before.
    pub fn foresee<'s>(&mut self, state: impl Fn(&Instance) -> Option<&'s PostgresState>) {
        for instance in self.data.instances.values_mut() {
            let is_begun = instance.status.current_generation != 0;
            if !is_begun
                && Kind::of(instance) == Kind::Standby
                && let Some(state) = state(instance)
            {
                update(&mut instance.status.listen_address, &state.listen_address);
                update(&mut instance.status.port, &state.port);
            }
        }
    }

    /// Write down where those were whose host was set back, so that also the next sentinel knows it.
    pub fn note_set_back(&mut self, back: &BTreeMap<InstanceUid, WasAt>) {
        for (_, instance, was_at) in joined(&mut self.data.instances, back) {
            if instance.status.was_at.as_ref() != was_at {
                instance.status.was_at = was_at.cloned();
            }
        }
    }

    /// Write down for every instance whether it works: those in `failed` do not.
    pub fn judge_instances(&mut self, failed: &BTreeSet<InstanceUid>) {
        let failed = failed.iter().map(|uid| (uid, ()));
        for (uid, stored, failure) in joined(&mut self.data.instances, failed) {
            let healthy = failure.is_none();
            let was_healthy = std::mem::replace(&mut stored.status.healthy, healthy);
            let reported_before = stored.status.current_generation != 0;
            let (instance, keeper) = (uid.clone(), stored.spec.keeper_uid.clone());
            match (was_healthy, healthy) {
                (true, false) => self.changes.push(Change::InstanceFailed { instance, keeper }),
                (false, true) if reported_before => {
                    self.changes.push(Change::InstanceRecovered { instance, keeper });
                }
                _ => {}
            }
        }
    }

    /// Give the first instance of the cluster to a keeper.
    pub fn choose_first(&mut self, uid: InstanceUid, spec: InstanceSpec, init_mode: InstanceInitMode) {
        let keeper = spec.keeper_uid.clone();
        self.data.instances.insert(uid.clone(), made_anew(uid.clone(), spec));
        self.data.cluster.status.primary = Some(uid.clone());
        if init_mode == InstanceInitMode::Existing && self.data.cluster.spec.role == Some(Role::Standby) {
            self.note(Change::AdoptedAsPrimary { instance: uid.clone() });
        }
        self.note(Change::InitialInstanceChosen { instance: uid, keeper, init_mode });
    }

    /// Take the first instance from its keeper, which has not made it within `after`.
    pub fn give_up_first(&mut self, instance: InstanceUid, keeper: KeeperUid, after: Duration) {
        self.data.instances.clear();
        self.data.cluster.status.primary = None;
        self.note(Change::InitializationGivenUp { instance, keeper, after });
    }

    /// The first instance is there: the cluster is a normal one from now on.
    pub fn complete_first(&mut self, instance: &Instance, parameters: FoundParameters) {
        if let Some(stored) = self.data.instances.get_mut(&instance.uid) {
            stored.spec.init_mode = Some(InstanceInitMode::None);
            stored.spec.include_previous_config = false;
        }
        if parameters == FoundParameters::Merged {
            self.data.cluster.spec.pg_parameters = instance.status.pg_parameters.as_deref().cloned();
        }
        self.data.cluster.status.phase = Some(Phase::Normal);
        let keeper = instance.spec.keeper_uid.clone();
        self.note(Change::ClusterInitialized { instance: instance.uid.clone(), keeper });
    }

    /// Have a primary let its clients go, because it is to be replaced.
    pub fn fence(&mut self, uid: &InstanceUid, because: &PrimaryFault) {
        if let Some(instance) = self.data.instances.get_mut(uid)
            && !std::mem::replace(&mut instance.spec.fenced, true)
        {
            let (keeper, because) = (instance.spec.keeper_uid.clone(), because.clone());
            self.note(Change::Fenced { instance: uid.clone(), keeper, because });
        }
    }

    /// The primary stays after all.
    pub fn let_in(&mut self, uid: &InstanceUid) {
        if let Some(instance) = self.data.instances.get_mut(uid)
            && std::mem::take(&mut instance.spec.fenced)
        {
            let keeper = instance.spec.keeper_uid.clone();
            self.note(Change::LetIn { instance: uid.clone(), keeper });
        }
    }

    /// Make `to` the primary in the place of `from`, which loses its followers.
    pub fn elect(&mut self, from: &InstanceUid, to: &InstanceUid, new: NewPrimary, because: PrimaryFault) {
        if let Some(instance) = self.data.instances.get_mut(from) {
            instance.spec.followers = Some(Vec::new());
            instance.spec.fenced = false;
        }
        self.data.cluster.status.primary = Some(to.clone());
        let Some(instance) = self.data.instances.get_mut(to) else { return };
        let spec = &mut instance.spec;
        spec.role = Some(new.role);
        spec.fenced = false;
        spec.follow_config = new.follow;
        spec.synchronous_replication = new.waits_for.is_some();
        spec.external_synchronous_standbys = new.waits_for.as_ref().map(|_| fake_standby(new.blocks));
        spec.synchronous_standbys = new.waits_for;
        spec.synchronous_quorum = 0;
        spec.stops_receiving = false;
        // One that was the primary before may know who had everything then. Its successor may have shown more since.
        instance.status.synchronous_standbys = None;
        instance.status.quorums = None;
        let (keeper, lsn) = (spec.keeper_uid.clone(), instance.status.lsn);
        self.note(Change::PrimaryElected { from: from.clone(), to: to.clone(), keeper, lsn, because });
    }

    /// Make the head of a standby cluster a primary that takes writes.
    pub fn promote_standby_cluster(&mut self, primary: &InstanceUid) {
        let Some(instance) = self.data.instances.get_mut(primary) else { return };
        let was_standby = instance.spec.role != Some(Role::Primary);
        instance.spec.role = Some(Role::Primary);
        instance.spec.follow_config = None;
        if was_standby {
            self.note(Change::StandbyClusterPromoted { instance: primary.clone() });
        }
    }

    /// Have a keeper make a standby of `primary`.
    pub fn add_standby(&mut self, uid: InstanceUid, keeper: KeeperUid, primary: &InstanceUid) {
        let spec = InstanceSpec {
            keeper_uid: keeper.clone(),
            init_mode: Some(InstanceInitMode::Resync),
            role: Some(Role::Standby),
            follow_config: Some(FollowConfig::internal(primary.clone())),
            followers: Some(Vec::new()),
            ..InstanceSpec::default()
        };
        self.data.instances.insert(uid.clone(), made_anew(uid.clone(), spec));
        self.note(Change::StandbyAdded { instance: uid, keeper });
    }

    /// Have a keeper make another standby of `primary`, from nothing, in the place of its own.
    pub fn make_anew(
        &mut self,
        old: &InstanceUid,
        new: InstanceUid,
        keeper: KeeperUid,
        primary: &InstanceUid,
    ) {
        self.remove_instance(old, RemovalReason::Requested);
        self.add_standby(new.clone(), keeper, primary);
        if let Some(instance) = self.data.instances.get_mut(&new) {
            instance.spec.copy_anew = true;
        }
    }

    /// Note that these standbys are complete: they need not be made again.
    pub fn mark_ready(&mut self, good: &BTreeSet<InstanceUid>) {
        for (uid, instance, is_good) in joined(&mut self.data.instances, good.iter().map(|uid| (uid, ()))) {
            if is_good.is_none() {
                continue;
            }
            let before = instance.spec.init_mode.replace(InstanceInitMode::None);
            if before == Some(InstanceInitMode::Resync) {
                let keeper = instance.spec.keeper_uid.clone();
                self.changes.push(Change::StandbyReady { instance: uid.clone(), keeper });
            }
        }
    }

    /// Take an instance from its keeper, which is free for another one afterwards.
    pub fn remove_instance(&mut self, uid: &InstanceUid, because: RemovalReason) {
        if let Some(instance) = self.data.instances.remove(uid) {
            let keeper = instance.spec.keeper_uid;
            self.note(Change::InstanceRemoved { instance: uid.clone(), keeper, because });
        }
    }

    /// Have every standby follow the primary.
    pub fn point_standbys_at(&mut self, primary: &InstanceUid) {
        for instance in self.data.instances.values_mut() {
            if instance.uid != *primary && Kind::of(instance) == Kind::Standby {
                let spec = &mut instance.spec;
                spec.role = Some(Role::Standby);
                spec.followers = Some(Vec::new());
                let before = spec.follow_config.replace(FollowConfig::internal(primary.clone()));
                // To another one than it was compared for it may say what it holds.
                spec.stops_receiving &= before == spec.follow_config;
                spec.synchronous_replication = false;
                spec.synchronous_quorum = 0;
                spec.synchronous_standbys = None;
                spec.external_synchronous_standbys = None;
            }
        }
    }

    /// Tell an instance who follows it.
    pub fn list_followers(&mut self, of: &InstanceUid, followers: Vec<InstanceUid>) {
        if let Some(instance) = self.data.instances.get_mut(of) {
            instance.spec.followers = Some(followers);
        }
    }
}

fn made_anew(uid: InstanceUid, spec: InstanceSpec) -> Instance {
    Instance { uid, generation: 1, spec, ..Instance::default() }
}

/// The further names that commits wait for: one that no standby has, if commits are to block.
pub(super) fn fake_standby(blocks: bool) -> Vec<String> {
    if blocks { vec![FAKE_STANDBY.to_owned()] } else { Vec::new() }
}

/// Address and generation hold even while an instance does not work; the rest is what was seen when it did.
fn copy_state(instance: &mut Instance, state: &PostgresState) {
    let status = &mut instance.status;
    update(&mut status.listen_address, &state.listen_address);
    update(&mut status.port, &state.port);
    status.current_generation = state.generation;
    if !state.healthy {
        return;
    }
    update(&mut status.system_identifier, &state.system_identifier);
    status.timeline = state.timeline;
    status.lsn = state.lsn;
    update(&mut status.timelines_history, &state.timelines_history);
    update(&mut status.pg_parameters, &state.pg_parameters);
    update(&mut status.older_wal_file, &state.older_wal_file);
    update(&mut status.stores_md5, &state.stores_md5);
    update(&mut status.slot_positions, &state.slot_positions);
}

/// Most values are what they were: a comparison is cheaper than a copy.
fn update<T: Clone + PartialEq>(to: &mut T, from: &T) {
    if to != from {
        to.clone_from(from);
    }
}
