//! Which instances follow which.

use stolon_model::{Instance, InstanceUid};

use super::round::{Kind, Round};

/// The instance inside the cluster that `instance` follows.
fn followed(instance: &Instance) -> Option<&InstanceUid> {
    match Kind::of(instance) {
        Kind::Standby => instance.spec.follow_config.as_ref().map(|follow| &follow.instance_uid),
        Kind::Head | Kind::Unknown => None,
    }
}

/// Whether `instance` follows this one.
pub(super) fn follows(instance: &Instance, primary: &InstanceUid) -> bool {
    followed(instance) == Some(primary)
}

impl Round<'_> {
    /// Tell the instance that was the primary when the round began who follows the wanted one. Its keeper makes
    /// their replication slots.
    pub fn list_followers(&mut self, primary: &InstanceUid, wanted: &InstanceUid) {
        let follows = |instance: &&Instance| instance.uid != *primary && follows(instance, wanted);
        let followers = self.draft.instances.values().filter(follows);
        let followers = followers.map(|instance| instance.uid.clone()).collect();
        self.draft.list_followers(primary, followers);
    }
}
