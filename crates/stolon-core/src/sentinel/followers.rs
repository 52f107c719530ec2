//! Who follows whom.

use stolon_model::{FollowConfig, Instance, InstanceUid, Role};

use super::round::{Kind, Round};

/// The instance inside the cluster that `instance` follows.
fn followed(instance: &Instance) -> Option<&InstanceUid> {
    match Kind::of(instance) {
        Kind::Standby => instance.spec.follow_config.as_ref().map(|follow| &follow.instance_uid),
        Kind::Head | Kind::Unknown => None,
    }
}

impl Round<'_> {
    /// Every standby follows the primary.
    pub fn point_standbys_at(&mut self, primary: &InstanceUid) {
        for instance in self.data.instances.values_mut() {
            if instance.uid != *primary && Kind::of(instance) == Kind::Standby {
                let spec = &mut instance.spec;
                spec.role = Some(Role::Standby);
                spec.followers = Some(Vec::new());
                spec.follow_config = Some(FollowConfig::internal(primary.clone()));
                spec.synchronous_replication = false;
                spec.synchronous_standbys = None;
                spec.external_synchronous_standbys = None;
            }
        }
    }

    /// The instance that was the primary when the round began is told who follows the wanted one. Its keeper makes
    /// their replication slots.
    pub fn list_followers(&mut self, primary: &InstanceUid, wanted: &InstanceUid) {
        let followers: Vec<InstanceUid> = self
            .data
            .instances
            .values()
            .filter(|instance| instance.uid != *primary && followed(instance) == Some(wanted))
            .map(|instance| instance.uid.clone())
            .collect();
        if let Some(instance) = self.data.instances.get_mut(primary) {
            instance.spec.followers = Some(followers);
        }
    }
}
