//! The number of standbys.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use stolon_model::{Instance, InstanceUid, KeeperUid};

use super::round::{Kind, Progress, Round, Validity, validity};
use super::wake::Wake;
use super::{Hold, RemovalReason, UidSource};

/// The standbys at one moment of a round.
#[derive(Clone, Debug, Default)]
pub(super) struct Census {
    /// Standbys that work and do what is asked of them.
    pub good: BTreeSet<InstanceUid>,
    /// How many still do what was asked of them, or are being made.
    pub under_way: usize,
    /// When one of these is given up.
    pub wake: Wake,
}

impl Round<'_> {
    /// Count the standbys beside a working primary.
    pub fn count_standbys(&self, primary: &Instance) -> Census {
        let mut census = Census::default();
        let standbys = self.draft.instances.values().filter(|instance| Kind::of(instance) == Kind::Standby);
        for instance in standbys.filter(|instance| self.keeper_is_healthy(instance)) {
            let validity = validity(primary, instance);
            match (validity, self.progress(instance, self.convergence_limit(instance))) {
                (Validity::Valid, Progress::Converged) if instance.status.healthy => {
                    census.good.insert(instance.uid.clone());
                }
                (Validity::Valid | Validity::Unknown, Progress::Converging(wake)) => {
                    census.under_way += 1;
                    census.wake = census.wake.or(wake);
                }
                _ => {}
            }
        }
        census
    }

    /// Remove surplus standbys, or have more made.
    pub fn adjust_standbys(&mut self, primary: &InstanceUid, census: &Census, uids: &mut dyn UidSource) {
        let wanted = usize::from(self.seen.spec.max_standbys_per_sender);
        match census.good.len().checked_sub(wanted) {
            Some(_) if self.is_paused() => {}
            Some(surplus) => self.remove_surplus(primary, &census.good, surplus),
            None => self.add_standbys(primary, census, wanted, uids),
        }
    }

    /// Members of the synchronous set always stay.
    fn remove_surplus(&mut self, primary: &InstanceUid, good: &BTreeSet<InstanceUid>, surplus: usize) {
        let waited_for =
            self.draft.instances.get(primary).map(|instance| &instance.spec.synchronous_standbys);
        let waited_for: BTreeSet<&InstanceUid> = waited_for.into_iter().flatten().flatten().collect();
        let standbys = self.draft.instances.values().filter(|instance| Kind::of(instance) == Kind::Standby);
        let spared = standbys.filter(|instance| !waited_for.contains(&instance.uid));
        let (mut good, bad): (Vec<_>, Vec<_>) = spared.partition(|instance| good.contains(&instance.uid));
        good.sort_by_key(|instance| (instance.status.lsn, Reverse(&instance.uid)));
        good.truncate(surplus);
        let not_needed = bad.into_iter().map(|instance| (instance.uid.clone(), RemovalReason::NotNeeded));
        let too_many = good.into_iter().map(|instance| (instance.uid.clone(), RemovalReason::Surplus));
        let removed: Vec<(InstanceUid, RemovalReason)> = not_needed.chain(too_many).collect();
        for (uid, because) in removed {
            self.draft.remove_instance(&uid, because);
        }
    }

    fn add_standbys(
        &mut self,
        primary: &InstanceUid,
        census: &Census,
        wanted: usize,
        uids: &mut dyn UidSource,
    ) {
        let missing = wanted.saturating_sub(census.good.len() + census.under_way);
        if missing == 0 {
            return;
        }
        let mut keepers = self.free_keepers();
        keepers.truncate(missing);
        if keepers.is_empty() && census.good.is_empty() && census.under_way == 0 {
            self.hold(Hold::NoFreeKeeper);
        }
        for keeper in keepers {
            self.draft.add_standby(uids.instance_uid(), keeper, primary);
        }
    }

    /// Keepers that work and have no instance: those that may become primary first.
    fn free_keepers(&self) -> Vec<KeeperUid> {
        let mut free = self.keepers_without_instance();
        free.retain(|keeper| keeper.status.healthy);
        free.sort_by_key(|keeper| (!keeper.status.may_be_primary(), &keeper.uid));
        free.into_iter().map(|keeper| keeper.uid.clone()).collect()
    }
}
