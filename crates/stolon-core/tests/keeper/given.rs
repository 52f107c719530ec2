//! Situations to plan for.

use std::collections::BTreeSet;

use stolon_core::keeper::*;
use stolon_core::postgres::Version;
use stolon_model::{
    BootUuid, ClusterData, ClusterSpec, ClusterUid, FollowConfig, FollowType, InitMode, Instance,
    InstanceInitMode, InstanceUid, Keeper, KeeperUid, Phase, PitrConfig, Role, Timestamp,
};

pub const V15: Version = Version { major: 15, minor: 4 };
pub const SYSTEM: &str = "7000000000000000001";

pub fn identity() -> Identity {
    let user = |name: &str| User { name: name.into(), method: "md5".into(), local_method: "md5".into() };
    Identity {
        keeper: "k1".into(),
        boot: "boot".into(),
        listen_address: "127.0.0.1".into(),
        port: "5432".into(),
        superuser: user("su"),
        rewind_credentials: RewindCredentials::Present,
        replication: user("repl"),
    }
}

/// A cluster whose primary `pp` another keeper runs, and in which we are known.
pub fn cluster() -> ClusterData {
    let mut spec = ClusterSpec::default();
    spec.init_mode = Some(InitMode::New);
    let mut cluster = ClusterData::initial(ClusterUid::from("c1"), spec, Timestamp::ZERO);
    cluster.cluster.status.phase = Some(Phase::Normal);
    cluster.cluster.overwrite_data = true;
    cluster.cluster.status.primary = Some("pp".into());
    let mut keeper = Keeper::default();
    keeper.uid = "k1".into();
    keeper.status.boot_uuid = BootUuid::from("boot");
    cluster.keepers.insert(KeeperUid::from("k1"), keeper);
    add(&mut cluster, "pp", "k2", Role::Primary, InstanceInitMode::None);
    cluster
}

pub fn add(cluster: &mut ClusterData, uid: &str, keeper: &str, role: Role, mode: InstanceInitMode) {
    let mut instance = Instance::default();
    instance.uid = InstanceUid::from(uid);
    instance.generation = 3;
    instance.spec.keeper_uid = keeper.into();
    instance.spec.max_standbys = 20;
    instance.spec.additional_wal_senders = 5;
    instance.spec.role = Some(role);
    instance.spec.init_mode = Some(mode);
    instance.status.listen_address = "10.0.0.2".into();
    instance.status.port = "5432".into();
    instance.status.system_identifier = SYSTEM.into();
    cluster.instances.insert(instance.uid.clone(), instance);
}

/// What is asked of us: instance `us`.
pub fn asked(role: Role, mode: InstanceInitMode) -> ClusterData {
    let mut cluster = cluster();
    let primary = role == Role::Primary;
    add(&mut cluster, "us", "k1", role, mode.clone());
    if primary {
        cluster.cluster.status.primary = Some("us".into());
    } else {
        ours(&mut cluster).spec.follow_config = Some(FollowConfig::internal("pp".into()));
    }
    if mode == InstanceInitMode::PointInTimeRecovery {
        let mut pitr = PitrConfig::default();
        pitr.data_restore_command = "restore to %d".into();
        ours(&mut cluster).spec.pitr_config = Some(pitr);
    }
    if mode == InstanceInitMode::Resync {
        ours(&mut cluster).spec.follow_config = Some(FollowConfig::internal("pp".into()));
    }
    cluster
}

pub fn ours(cluster: &mut ClusterData) -> &mut Instance {
    cluster.instances.get_mut(&InstanceUid::from("us")).unwrap()
}

pub fn external() -> FollowConfig {
    let mut follow = FollowConfig::default();
    follow.follow_type = Some(FollowType::External);
    follow
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
        server: Server::Stopped,
        applied: None,
        gate: Gate::Open,
        refusals: Refusals::new(),
        refused_hba: Default::default(),
        slots_on_disk: Default::default(),
        alter_system: AlterSystem::Refused,
        attempt: Attempt::default(),
        restart_patience: Patience::Left,
    }
}

pub fn present(kind: DataKind) -> Data {
    Data::Present(Present { version: V15, kind, system_identifier: SYSTEM.into() })
}

/// Our instance is here and stopped.
pub fn here(kind: DataKind) -> Observation {
    let local = LocalState { uid: "us".into(), generation: 2, ..LocalState::default() };
    Observation { local, data: present(kind), ..nothing() }
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

fn word(step: &Step) -> Option<String> {
    Some(match step {
        Step::Stop => "stop".into(),
        Step::SetGate(Gate::Closed) => "gate".into(),
        Step::SetGate(Gate::Open) => return None,
        Step::MarkInitializing(_) => "mark".into(),
        Step::SetAside { instance, .. } => format!("aside:{instance}"),
        Step::Wipe(_) => "wipe".into(),
        Step::InitDb(_) => "initdb".into(),
        Step::Restore(_) => "restore".into(),
        Step::ExamineSource { .. } => "examine".into(),
        Step::BaseBackup { .. } => "copy".into(),
        Step::Rewind { .. } => "rewind".into(),
        Step::CheckSettings { .. } => "check".into(),
        Step::CommentOut(_) => "comment".into(),
        Step::Configure { config, merge } => {
            let mode = match config.recovery.mode {
                RecoveryMode::None => "primary",
                RecoveryMode::Standby => "standby",
                RecoveryMode::Recovery => "recovery",
            };
            let merged = if *merge == ConfigMerge::WithExisting { "+merged" } else { "" };
            format!("configure:{mode}{merged}")
        }
        Step::Start(_) => "start".into(),
        Step::WaitReady(_) => "ready".into(),
        Step::WaitRecoveryEnd(_) => "recovered".into(),
        Step::CaptureParameters => "capture".into(),
        Step::SetUpRoles => "roles".into(),
        Step::Finish(_) => "finish".into(),
        Step::Reload => "reload".into(),
        Step::Promote => "promote".into(),
        Step::EnsureSlots(slots) if slots.is_empty() => "slots".into(),
        Step::EnsureSlots(slots) => {
            format!(
                "slots:{}",
                slots.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",")
            )
        }
        Step::TerminateClients => "terminate".into(),
        Step::Commit(generation) => format!("commit:{generation}"),
        Step::Reobserve => "again".into(),
    })
}
