//! The permission to destroy data. Only the two functions here make one.

use stolon_model::InstanceUid;

use super::goal::{Follow, InstanceGoal, InstanceRole, Make, OtherData};
use super::observation::{Data, Observation};

/// The permission to destroy what stands at PGDATA, for the sake of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestroyWarrant {
    instance: InstanceUid,
    ground: Ground,
}

/// Why data may be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The cluster data assigns another instance, which is to be made anew.
    AssignedAnew,
    /// The wanted instance was being made, and is not complete.
    HalfMade,
}

impl DestroyWarrant {
    /// For which instance.
    pub fn instance(&self) -> &InstanceUid {
        &self.instance
    }

    /// On what ground.
    pub fn ground(&self) -> Ground {
        self.ground
    }
}

/// The cluster data assigns an instance that is not the one here and says how to make it.
pub fn assigned_anew(goal: &InstanceGoal, seen: &Observation) -> Option<DestroyWarrant> {
    let other = seen.local.uid != goal.uid;
    (other && is_made_anew(goal))
        .then(|| DestroyWarrant { instance: goal.uid.clone(), ground: Ground::AssignedAnew })
}

/// The instance here was being made and never became complete, or was complete and vanished before anybody used it; and the cluster
/// data says how to make it.
pub fn half_made(goal: &InstanceGoal, seen: &Observation) -> Option<DestroyWarrant> {
    // What never reached a generation never held anybody's data, and the sentinel does not miss it: it waits for it to be made. Nor does it
    // miss a copy that it has not counted as complete, since the store was out of reach perhaps; one that was elected is a primary.
    let is_copy = matches!(goal.make, Make::Resync { .. })
        && matches!(goal.role, InstanceRole::Standby(Follow::Internal(_)));
    let vanished = (seen.local.generation == 0 || is_copy) && seen.data == Data::Absent;
    let half = seen.local.uid == goal.uid && (seen.local.initializing || vanished);
    (half && is_made_anew(goal))
        .then(|| DestroyWarrant { instance: goal.uid.clone(), ground: Ground::HalfMade })
}

/// The instance of another cluster that stands here, whole or damaged, and that nobody agreed to lose.
pub fn to_set_aside(goal: &InstanceGoal, seen: &Observation) -> Option<InstanceUid> {
    let is_foreign = match (&goal.make, &seen.data) {
        (_, Data::Absent) | (Make::Nothing | Make::Adopt | Make::Unknown(_) | Make::NotAllowed(_), _) => {
            false
        }
        (Make::New(_) | Make::Restore(_), _) => true,
        (Make::Resync { source: Some(source), .. }, Data::Present(present)) => {
            source.status.system_identifier != present.system_identifier
        }
        // Nobody can tell that it is not an old copy of the same data.
        (Make::Resync { .. }, _) => false,
    };
    // What never reached a generation never held anybody's data.
    let was_in_use = !seen.local.initializing && seen.local.generation > 0;
    let is_kept = goal.other_data == OtherData::SetAside && is_foreign && was_in_use;
    (is_kept && seen.local.uid != goal.uid).then(|| seen.local.uid.clone())
}

fn is_made_anew(goal: &InstanceGoal) -> bool {
    matches!(goal.make, Make::New(_) | Make::Restore(_) | Make::Resync { .. })
}
