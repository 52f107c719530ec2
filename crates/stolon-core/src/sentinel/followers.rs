//! Who follows whom, from the point of view of the followed: the primary keeps a slot for each of them.

use stolon_model::{FollowType, InstanceUid};

use super::round::Round;

/// The followers of `former`, the primary at the beginning of the round, are those that follow the primary at
/// its end: none after an election.
pub(super) fn update(round: &mut Round<'_>, former: &InstanceUid) {
    let Some(primary) = round.next.cluster.status.primary.clone() else { return };
    let followers: Vec<_> = round
        .next
        .instances
        .values()
        .filter(|instance| &instance.uid != former)
        .filter(|instance| {
            instance.spec.follow_config.as_ref().is_some_and(|follow| {
                follow.follow_type == Some(FollowType::Internal) && follow.instance_uid == primary
            })
        })
        .map(|instance| instance.uid.clone())
        .collect();
    if let Some(former) = round.next.instances.get_mut(former) {
        former.spec.followers = Some(followers);
    }
}
