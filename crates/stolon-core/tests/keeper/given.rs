//! Situations to plan for.

use stolon_core::keeper::*;
pub use stolon_fake::given::*;
use stolon_fake::word;
use stolon_model::{ClusterData, FollowConfig, FollowType, InstanceInitMode, Role};

pub fn external() -> FollowConfig {
    let mut follow = FollowConfig::default();
    follow.follow_type = Some(FollowType::External);
    follow
}

/// We are the primary again.
pub fn is_elected_again(cluster: &mut ClusterData) {
    cluster.cluster.status.primary = Some("us".into());
    ours(cluster).generation += 1;
}

/// A synchronous primary with one standby.
pub fn synchronous() -> ClusterData {
    let mut cluster = asked(Role::Primary, InstanceInitMode::None);
    add(&mut cluster, "bb", "k3", Role::Standby, InstanceInitMode::None);
    let spec = &mut ours(&mut cluster).spec;
    spec.synchronous_replication = true;
    spec.synchronous_standbys = Some(vec!["bb".into()]);
    spec.followers = Some(vec!["bb".into()]);
    cluster
}

pub fn goal(cluster: &ClusterData) -> Goal {
    Goal::of(&cluster.clone().try_into().unwrap(), &identity())
}

/// A keeper that has nothing.
pub fn nothing() -> Observation {
    Observation {
        version: V15,
        local: LocalState::default(),
        data: Data::Absent,
        demands: None,
        wal_level: WalLevel::default(),
        ended: None,
        checkpoint_tried: None,
        reloaded: None,
        server: Server::Stopped,
        applied: None,
        gate: Gate::Open,
        lease: Lease::Unlimited,
        refusals: Refusals::new(),
        refused_hba: Default::default(),
        slots_on_disk: Default::default(),
        room_for_slots: None,
        position: None,
        alter_system: AlterSystem::Refused,
        attempt: Attempt::default(),
        restart_patience: Patience::Left,
    }
}

/// Our instance is here and stopped.
pub fn here(kind: DataKind) -> Observation {
    Observation { local: complete("us"), data: present(kind), ..nothing() }
}

pub fn live(kind: DataKind) -> Live {
    Live { in_recovery: kind == DataKind::Standby, ..Live::default() }
}

/// Our instance is here and runs, with the configuration that `goal` wants.
pub fn running(kind: DataKind, goal: &Goal) -> Observation {
    let mut seen = here(kind);
    let start = plan(goal, &seen);
    seen.applied = start.steps.iter().find_map(|step| match step {
        Step::Configure { config, .. } => Some((**config).clone()),
        _ => None,
    });
    seen.gate = gate_after(&start).unwrap_or_default();
    seen.server = Server::Running(Some(live(kind)));
    seen
}

pub fn gate_after(plan: &Plan) -> Option<Gate> {
    plan.steps.iter().rev().find_map(|step| match step {
        Step::SetGate(gate) => Some(*gate),
        _ => None,
    })
}

/// The steps as words, short enough for tables.
pub fn words(plan: &Plan) -> String {
    let mut words: Vec<String> = plan.steps.iter().filter_map(word).collect();
    if plan.trouble.is_some() {
        words.push("trouble".into());
    }
    words.join(" ")
}

pub fn planned(cluster: &ClusterData, seen: &Observation) -> String {
    words(&plan(&goal(cluster), seen))
}
