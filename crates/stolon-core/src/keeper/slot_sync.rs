//! Logical slots that survive a failover (docs/design/014-logical-slots.md): what a server is asked for besides the slots themselves.

use std::collections::BTreeSet;

use stolon_model::{
    ClusterData, EffectiveSpec, FAKE_STANDBY, Instance, InstanceUid, Parameters, Role, replication_name,
};

use super::goal::{Follow, InstanceRole};
use super::observation::Live;
use super::slots::{Failover, SlotKind};

/// Whether logical slots are copied to standbys, and what this instance has to do with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SlotSync {
    /// They are not.
    #[default]
    Off,
    /// This is a standby that copies them.
    Copies,
    /// This is the primary: consumers are sent what the standbys of these slots have flushed.
    Holds(BTreeSet<String>),
}

/// The database that a standby asks for slots in: every cluster has it, and every user may connect to it where the access rules admit that.
pub const DATABASE: &str = "postgres";

/// Names the physical slots whose standbys must have flushed what consumers of logical slots with `failover` are sent.
pub(super) const SYNCHRONIZED_SLOTS: &str = "synchronized_standby_slots";

impl SlotSync {
    pub(super) fn of(
        cluster: &ClusterData,
        spec: &EffectiveSpec,
        instance: &Instance,
        role: &InstanceRole,
    ) -> Self {
        // PostgreSQL copies slots from a primary alone (manual, "Replication Slot Synchronization").
        if !spec.sync_logical_slots || spec.role != Role::Primary {
            return Self::Off;
        }
        match role {
            InstanceRole::Primary(_) => Self::Holds(waited_for(cluster, instance)),
            InstanceRole::Standby(Follow::Internal(_) | Follow::Stopped(_)) => Self::Copies,
            InstanceRole::Standby(_) => Self::Off,
        }
    }

    /// The parameters that stand for it, where PostgreSQL knows them. A slot that is named and does not exist stops every consumer, which is what
    /// those want whose commits nobody may acknowledge; the others are made before they are named.
    pub(super) fn parameters(&self) -> Parameters {
        let on = |name: &str| (name.to_owned(), "on".to_owned());
        match self {
            Self::Off => Parameters::new(),
            Self::Copies => [on("hot_standby_feedback"), on("sync_replication_slots")].into_iter().collect(),
            Self::Holds(slots) => {
                let names: Vec<&str> = slots.iter().map(String::as_str).collect();
                [(SYNCHRONIZED_SLOTS.to_owned(), names.join(", "))].into_iter().collect()
            }
        }
    }
}

/// In synchronous mode those that commits wait for, and nobody else: only they can be elected, and whoever may be elected has everything that
/// consumers were sent. Otherwise those that work by the cluster data, so that one that is down holds up nobody for longer than it takes to see that.
fn waited_for(cluster: &ClusterData, primary: &Instance) -> BTreeSet<String> {
    let works = |uid: &&InstanceUid| {
        let follower = cluster.instances.get(*uid);
        follower.is_some_and(|it| it.status.healthy && it.status.current_generation == it.generation)
    };
    match primary.spec.synchronous_replication {
        true => {
            let listed = primary.spec.synchronous_standbys.iter().flatten().map(replication_name);
            // Commits wait in vain: whoever comes back instead of this primary lacks what it flushed.
            let external = primary.spec.external_synchronous_standbys.iter().flatten();
            listed.chain(external.filter(|name| *name == FAKE_STANDBY).cloned()).collect()
        }
        false => primary.spec.followers.iter().flatten().filter(works).map(replication_name).collect(),
    }
}

/// Slots that a standby has of its time as a primary, and that are in the way of the copies of the same name.
pub(super) fn stale(sync: &SlotSync, live: &Live) -> BTreeSet<String> {
    if *sync != SlotSync::Copies || !live.in_recovery {
        return BTreeSet::new();
    }
    let own = live
        .slots
        .iter()
        .filter(|slot| slot.kind == SlotKind::Logical && slot.failover == Failover::Wanted && !slot.active);
    own.map(|slot| slot.name.clone()).collect()
}
