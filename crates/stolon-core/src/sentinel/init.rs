//! The first instance of a cluster.

use std::cmp::Reverse;

use stolon_model::{InitMode, Instance, InstanceInitMode, InstanceSpec, Keeper, KeeperUid, Role};

use super::draft::FoundParameters;
use super::round::{Progress, Round};
use super::wake::Wake;
use super::{BrokenDocument, Hold, UidSource};

impl Round<'_> {
    /// Choose who makes the first instance, then wait until it is made.
    pub fn initialise(&mut self, uids: &mut dyn UidSource) -> Wake {
        let named = self.draft.cluster.status.primary.clone();
        match self.draft.primary().cloned() {
            Some(instance) => return self.await_first(&instance),
            None if named.is_none() => self.choose_first(uids),
            None => {
                self.hold(Hold::BrokenDocument { what: BrokenDocument::PrimaryMissing { primary: named } });
            }
        }
        Wake::NEVER
    }

    fn choose_first(&mut self, uids: &mut dyn UidSource) {
        let (keeper, init_mode) = match &self.seen.spec.init_mode {
            InitMode::New => (self.best_keeper(), InstanceInitMode::New),
            InitMode::PointInTimeRecovery => (self.best_keeper(), InstanceInitMode::PointInTimeRecovery),
            InitMode::Existing => {
                let wanted = self.seen.spec.existing_config.clone().unwrap_or_default().keeper_uid;
                if !self.draft.keepers.contains_key(&wanted) {
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
            init_mode == InstanceInitMode::PointInTimeRecovery && self.seen.spec.role == Role::Standby;
        let spec = InstanceSpec {
            keeper_uid: keeper.clone(),
            init_mode: Some(init_mode.clone()),
            new_config: self.seen.spec.new_config.clone().filter(|_| init_mode == InstanceInitMode::New),
            pitr_config: self
                .seen
                .spec
                .pitr_config
                .clone()
                .filter(|_| init_mode == InstanceInitMode::PointInTimeRecovery),
            role: Some(if follows_outside { Role::Standby } else { Role::Primary }),
            follow_config: follows_outside.then(|| self.outside_primary()),
            followers: Some(Vec::new()),
            include_previous_config: self.seen.spec.merge_pg_parameters,
            ..InstanceSpec::default()
        };
        self.draft.choose_first(uids.instance_uid(), spec, init_mode);
    }

    /// Of the keepers that work and may be primary the one with the highest priority, of these the first by uid; then those that
    /// work; then any. One that failed to make the first instance comes after those like it that have not.
    fn best_keeper(&self) -> Option<KeeperUid> {
        let rank = |keeper: &&Keeper| {
            let status = &keeper.status;
            let failed = self.memory.given_up.iter().position(|uid| *uid == keeper.uid);
            (
                !status.healthy,
                !status.may_be_primary(),
                failed,
                Reverse(status.priority()),
                keeper.uid.clone(),
            )
        };
        self.draft.keepers.values().min_by_key(rank).map(|keeper| keeper.uid.clone())
    }

    fn await_first(&mut self, instance: &Instance) -> Wake {
        let (uid, keeper) = (instance.uid.clone(), instance.spec.keeper_uid.clone());
        // Restoring a backup or adopting data has no limit.
        let limit = match self.seen.spec.init_mode {
            InitMode::New => self.seen.spec.init_timeout,
            _ => std::time::Duration::ZERO,
        };
        let wake = match self.progress(instance, limit) {
            Progress::Failed => {
                self.memory.given_up.retain(|given_up| *given_up != keeper);
                self.memory.given_up.push(keeper.clone());
                self.draft.give_up_first(uid, keeper, limit);
                return Wake::NEVER;
            }
            Progress::Converged if instance.status.healthy => {
                let parameters = match self.seen.spec.merge_pg_parameters {
                    true => FoundParameters::Merged,
                    false => FoundParameters::Ignored,
                };
                self.draft.complete_first(instance, parameters);
                return Wake::NEVER;
            }
            Progress::Converged => Wake::NEVER,
            Progress::Converging(wake) => wake,
        };
        self.hold(Hold::AwaitingInitialization { instance: uid, keeper });
        wake
    }
}
