//! The number of standbys.

use std::cmp::Reverse;

use stolon_model::{FollowConfig, Instance, InstanceInitMode, InstanceSpec, InstanceUid, KeeperUid, Role};

use super::round::{Condition, Kind, Progress, Round, Validity, validity};
use super::{Change, Hold, RemovalReason, UidSource};

/// The standbys at one moment of a round.
#[derive(Clone, Debug)]
pub(super) struct Census {
    pub good: Vec<InstanceUid>,
    /// Standbys that still do what was asked of them, or are being made.
    pub under_way: usize,
}

impl Round<'_> {
    /// Count the standbys beside a working primary.
    pub fn count_standbys(&mut self, primary: &Instance) -> Census {
        let good = self.instances_in(primary, Kind::Standby, Condition::Good);
        let converging = self.instances_in(primary, Kind::Standby, Condition::Converging).len();
        let instances: Vec<Instance> = self.data.instances.values().cloned().collect();
        let mut being_made = 0;
        for instance in instances.iter().filter(|instance| Kind::of(instance) == Kind::Standby) {
            let limit = self.convergence_limit(instance);
            if validity(primary, instance) == Validity::Unknown
                && self.keeper_is_healthy(instance)
                && self.progress(instance, limit) == Progress::Converging
            {
                being_made += 1;
            }
        }
        Census { good, under_way: converging + being_made }
    }

    /// A standby that works need not be made again.
    pub fn mark_ready(&mut self, good: &[InstanceUid]) {
        for uid in good {
            let Some(instance) = self.data.instances.get_mut(uid) else { continue };
            let spec = &mut instance.spec;
            let was_made = spec.init_mode == Some(InstanceInitMode::Resync);
            spec.init_mode = Some(InstanceInitMode::None);
            if was_made {
                let (instance, keeper) = (uid.clone(), spec.keeper_uid.clone());
                self.change(Change::StandbyReady { instance, keeper });
            }
        }
    }

    /// Remove surplus standbys, or have more made.
    pub fn adjust_standbys(&mut self, primary: &Instance, census: &Census, uids: &mut dyn UidSource) {
        let wanted = usize::from(self.spec.max_standbys_per_sender);
        if census.good.len() >= wanted {
            self.remove_surplus(primary, &census.good, census.good.len() - wanted);
        } else {
            let missing = wanted.saturating_sub(census.good.len() + census.under_way);
            self.add_standbys(primary, missing, census, uids);
        }
    }

    /// Members of the synchronous set always stay.
    fn remove_surplus(&mut self, primary: &Instance, good: &[InstanceUid], surplus: usize) {
        let waited_for: Vec<InstanceUid> = self
            .data
            .instances
            .get(&primary.uid)
            .and_then(|instance| instance.spec.synchronous_standbys.clone())
            .unwrap_or_default();
        let spared: Vec<&Instance> = self
            .data
            .instances
            .values()
            .filter(|instance| Kind::of(instance) == Kind::Standby && !waited_for.contains(&instance.uid))
            .collect();
        let not_needed: Vec<InstanceUid> = spared
            .iter()
            .filter(|instance| !good.contains(&instance.uid))
            .map(|instance| instance.uid.clone())
            .collect();
        let mut too_many: Vec<&&Instance> =
            spared.iter().filter(|instance| good.contains(&instance.uid)).collect();
        too_many.sort_by_key(|instance| (instance.status.lsn, Reverse(instance.uid.clone())));
        let too_many: Vec<InstanceUid> =
            too_many.into_iter().take(surplus).map(|instance| instance.uid.clone()).collect();
        for uid in not_needed {
            self.remove_instance(&uid, RemovalReason::NotNeeded);
        }
        for uid in too_many {
            self.remove_instance(&uid, RemovalReason::Surplus);
        }
    }

    fn add_standbys(
        &mut self,
        primary: &Instance,
        missing: usize,
        census: &Census,
        uids: &mut dyn UidSource,
    ) {
        let keepers: Vec<KeeperUid> = self.free_keepers().into_iter().take(missing).collect();
        if missing > 0 && keepers.is_empty() && census.good.is_empty() && census.under_way == 0 {
            self.hold(Hold::NoFreeKeeper);
        }
        for keeper in keepers {
            let uid = uids.instance_uid();
            let spec = InstanceSpec {
                keeper_uid: keeper.clone(),
                init_mode: Some(InstanceInitMode::Resync),
                role: Some(Role::Standby),
                follow_config: Some(FollowConfig::internal(primary.uid.clone())),
                followers: Some(Vec::new()),
                ..InstanceSpec::default()
            };
            let instance = Instance { uid: uid.clone(), generation: 1, spec, ..Instance::default() };
            self.data.instances.insert(uid.clone(), instance);
            self.change(Change::StandbyAdded { instance: uid, keeper });
        }
    }

    /// Keepers that work and have no instance: those that may become primary first.
    fn free_keepers(&self) -> Vec<KeeperUid> {
        let mut free: Vec<_> = self
            .data
            .keepers
            .values()
            .filter(|keeper| keeper.status.healthy && self.data.instance_of(&keeper.uid).is_none())
            .collect();
        free.sort_by_key(|keeper| (keeper.status.can_be_primary == Some(false), keeper.uid.clone()));
        free.into_iter().map(|keeper| keeper.uid.clone()).collect()
    }
}
