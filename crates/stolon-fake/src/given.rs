//! Situations: cluster data that ask something of keeper `k1`, whose instance is `us`, beside the primary `pp` of keeper `k2`.

use std::time::Duration;

use stolon_core::keeper::{
    Advertised, Beginning, Data, DataKind, Identity, LocalState, Predecessor, Present, RewindCredentials,
    StoreCommands, SyncAfterCrash, Transport, User,
};
use stolon_core::postgres::Version;
use stolon_model::{
    BootUuid, ClusterData, ClusterSpec, ClusterUid, FollowConfig, InitMode, Instance, InstanceInitMode,
    InstanceUid, Keeper, KeeperUid, Phase, PitrConfig, Role, Timestamp,
};

/// The version of binaries and data.
pub const V15: Version = Version { major: 15, minor: 4 };
/// The system identifier of the cluster.
pub const SYSTEM: &str = "7000000000000000001";

/// Keeper `k1`, in the boot that the cluster data know.
pub fn identity() -> Identity {
    let user = |name: &str| User {
        name: name.into(),
        method: "md5".into(),
        local_method: "md5".into(),
        transport: Transport::Any,
    };
    Identity {
        keeper: "k1".into(),
        boot: "boot".into(),
        listen_address: "127.0.0.1".into(),
        port: "5432".into(),
        superuser: user("su"),
        rewind_credentials: RewindCredentials::Present,
        replication: user("repl"),
        rewinder: None,
        commands: StoreCommands::All,
        sync_after_crash: SyncAfterCrash::EachFile,
    }
}

/// Keeper `k1` begins with `local` as its `dbstate`.
pub fn beginning(local: LocalState) -> Beginning {
    Beginning {
        identity: identity(),
        advertised: Advertised {
            address: "10.0.0.1".into(),
            port: "5432".into(),
            http_address: "10.0.0.1:8008".into(),
            can_be_primary: true,
            can_be_synchronous_replica: true,
            failover_priority: 1,
            zone: String::new(),
        },
        cluster: ClusterUid::default(),
        local,
        proven: None,
        served: None,
        predecessor: Predecessor::Unknown,
        pledged: Duration::ZERO,
    }
}

/// The `dbstate` of a complete instance `uid`, which has reached its second generation.
pub fn complete(uid: &str) -> LocalState {
    LocalState { uid: uid.into(), generation: 2, ..LocalState::default() }
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

/// Another instance, in its third generation.
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

/// Instance `us`.
///
/// # Panics
/// Nothing is asked of us.
pub fn ours(cluster: &mut ClusterData) -> &mut Instance {
    cluster.instances.get_mut(&InstanceUid::from("us")).expect("instance us")
}

/// `pp` was elected in our place.
pub fn is_deposed(cluster: &mut ClusterData) {
    cluster.cluster.status.primary = Some("pp".into());
    ours(cluster).generation += 1;
}

/// Data of the cluster.
pub fn present(kind: DataKind) -> Data {
    Data::Present(Present { version: V15, kind, system_identifier: SYSTEM.into() })
}
