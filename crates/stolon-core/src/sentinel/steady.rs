//! The cluster has a primary: keep it, or replace it.

use stolon_model::{Instance, InstanceUid, Role};

use super::round::{Progress, Round};
use super::{BrokenDocument, Change, Hold, RemovalReason, UidSource};

impl Round<'_> {
    /// The order counts: later steps see what earlier ones did.
    pub fn keep_steady(&mut self, uids: &mut dyn UidSource) {
        self.forget_dead_keepers();
        let named = self.data.cluster.status.primary.clone();
        let Some(primary) = self.data.primary().cloned() else {
            return self
                .hold(Hold::BrokenDocument { what: BrokenDocument::PrimaryMissing { primary: named } });
        };
        self.forget_handover_of_others(&primary);
        self.forget_request_of_others(&primary);
        let elected = match self.primary_fault(&primary) {
            None => None,
            Some(because) => self.replace(&primary, because),
        };
        if elected.is_none() {
            self.guide_proxies(&primary);
            self.promote_standby_cluster(&primary.uid);
            let converged = self.progress(&primary, self.spec.convergence_timeout) == Progress::Converged;
            if primary.status.healthy && converged && self.keeper_is_healthy(&primary) {
                self.tend_standbys(&primary, uids);
            } else {
                self.hold(Hold::AwaitingPrimary {
                    primary: primary.uid.clone(),
                    keeper: primary.spec.keeper_uid.clone(),
                    generation: primary.generation,
                    current: primary.status.current_generation,
                });
            }
        }
        self.list_followers(&primary.uid, elected.as_ref().unwrap_or(&primary.uid));
    }

    /// `stolonctl promote`: the head of a standby cluster becomes a primary, whether it is healthy or not.
    fn promote_standby_cluster(&mut self, primary: &InstanceUid) {
        if self.spec.role != Role::Primary {
            return;
        }
        let Some(instance) = self.data.instances.get_mut(primary) else { return };
        let was_standby = instance.spec.role != Some(Role::Primary);
        instance.spec.role = Some(Role::Primary);
        instance.spec.follow_config = None;
        if was_standby {
            self.change(Change::StandbyClusterPromoted { instance: primary.clone() });
        }
    }

    /// Around a primary that works and does what is asked of it.
    fn tend_standbys(&mut self, primary: &Instance, uids: &mut dyn UidSource) {
        self.remove_unusable(primary);
        let census = self.count_standbys(primary);
        self.mark_ready(&census.good);
        if self.wants_synchronous() {
            self.choose_synchronous_standbys(primary, &census.good);
        } else {
            self.leave_synchronous_mode(&primary.uid);
        }
        self.adjust_standbys(primary, &census, uids);
        self.point_standbys_at(&primary.uid);
    }

    /// Take an instance from its keeper. The keeper is free for another one afterwards.
    pub fn remove_instance(&mut self, uid: &InstanceUid, because: RemovalReason) {
        if let Some(instance) = self.data.instances.remove(uid) {
            let keeper = instance.spec.keeper_uid;
            self.change(Change::InstanceRemoved { instance: uid.clone(), keeper, because });
        }
    }
}
