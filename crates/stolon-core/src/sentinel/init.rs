//! The first instance of a cluster.

use stolon_model::{InitMode, Instance, InstanceInitMode, InstanceSpec, Keeper, KeeperUid, Phase, Role};

use super::round::{Progress, Round};
use super::{BrokenDocument, Change, Hold, UidSource};

impl Round<'_> {
    /// Choose who makes the first instance, then wait until it is made.
    pub fn initialise(&mut self, uids: &mut dyn UidSource) {
        let named = self.data.cluster.status.primary.clone();
        match self.data.primary().cloned() {
            Some(instance) => self.await_first(&instance),
            None if named.is_none() => self.choose_first(uids),
            None => {
                self.hold(Hold::BrokenDocument { what: BrokenDocument::PrimaryMissing { primary: named } })
            }
        }
    }

    fn choose_first(&mut self, uids: &mut dyn UidSource) {
        let (keeper, init_mode) = match &self.spec.init_mode {
            InitMode::New => (self.best_keeper(), InstanceInitMode::New),
            InitMode::PointInTimeRecovery => (self.best_keeper(), InstanceInitMode::PointInTimeRecovery),
            InitMode::Existing => {
                let wanted = self.spec.existing_config.clone().unwrap_or_default().keeper_uid;
                if !self.data.keepers.contains_key(&wanted) {
                    return self.hold(Hold::KeeperNotAvailable { keeper: wanted });
                }
                (Some(wanted), InstanceInitMode::Existing)
            }
            InitMode::Unknown(word) => {
                let init_mode = word.clone();
                return self.hold(Hold::BrokenDocument { what: BrokenDocument::InitMode { init_mode } });
            }
        };
        let Some(keeper) = keeper else { return self.hold(Hold::NoKeepers) };
        let follows_outside =
            init_mode == InstanceInitMode::PointInTimeRecovery && self.spec.role == Role::Standby;
        let spec = InstanceSpec {
            keeper_uid: keeper.clone(),
            init_mode: Some(init_mode.clone()),
            new_config: self.spec.new_config.clone().filter(|_| init_mode == InstanceInitMode::New),
            pitr_config: self
                .spec
                .pitr_config
                .clone()
                .filter(|_| init_mode == InstanceInitMode::PointInTimeRecovery),
            role: Some(if follows_outside { Role::Standby } else { Role::Primary }),
            follow_config: follows_outside.then(|| self.outside_primary()),
            followers: Some(Vec::new()),
            include_previous_config: self.spec.merge_pg_parameters,
            ..InstanceSpec::default()
        };
        let uid = uids.instance_uid();
        let instance = Instance { uid: uid.clone(), generation: 1, spec, ..Instance::default() };
        self.data.instances.insert(uid.clone(), instance);
        self.data.cluster.status.primary = Some(uid.clone());
        if init_mode == InstanceInitMode::Existing && self.spec.role == Role::Standby {
            self.change(Change::AdoptedAsPrimary { instance: uid.clone() });
        }
        self.change(Change::InitialInstanceChosen { instance: uid, keeper, init_mode });
    }

    /// Of the keepers that work and may be primary the first by uid; then those that work; then any. One that failed to
    /// make the first instance comes after those like it that have not.
    fn best_keeper(&self) -> Option<KeeperUid> {
        let rank = |keeper: &&Keeper| {
            let status = &keeper.status;
            let failed = self.memory.given_up.iter().position(|uid| *uid == keeper.uid);
            (!status.healthy, status.can_be_primary == Some(false), failed, keeper.uid.clone())
        };
        self.data.keepers.values().min_by_key(rank).map(|keeper| keeper.uid.clone())
    }

    fn await_first(&mut self, instance: &Instance) {
        let (uid, keeper) = (instance.uid.clone(), instance.spec.keeper_uid.clone());
        // Restoring a backup or adopting data has no limit.
        let limit = match self.spec.init_mode {
            InitMode::New => self.spec.init_timeout,
            _ => std::time::Duration::ZERO,
        };
        match self.progress(instance, limit) {
            Progress::Converged if instance.status.healthy => self.complete(instance),
            Progress::Converged | Progress::Converging => {
                self.hold(Hold::AwaitingInitialization { instance: uid, keeper });
            }
            Progress::Failed => {
                self.data.instances.clear();
                self.data.cluster.status.primary = None;
                self.memory.given_up.retain(|given_up| *given_up != keeper);
                self.memory.given_up.push(keeper.clone());
                self.change(Change::InitializationGivenUp { instance: uid, keeper, after: limit });
            }
        }
    }

    fn complete(&mut self, instance: &Instance) {
        let uid = instance.uid.clone();
        if let Some(stored) = self.data.instances.get_mut(&uid) {
            stored.spec.init_mode = Some(InstanceInitMode::None);
            stored.spec.include_previous_config = false;
        }
        if self.spec.merge_pg_parameters {
            self.data.cluster.spec.pg_parameters.clone_from(&instance.status.pg_parameters);
            self.spec.pg_parameters.clone_from(&instance.status.pg_parameters);
        }
        self.data.cluster.status.phase = Some(Phase::Normal);
        let keeper = instance.spec.keeper_uid.clone();
        self.change(Change::ClusterInitialized { instance: uid, keeper });
    }
}
