//! What is true of any cluster data that a sentinel has written.

use std::collections::BTreeMap;

use stolon_model::{ClusterData, FAKE_STANDBY, FollowType, Instance, InstanceUid, KeeperUid, Phase, Role};

/// Something that cluster data must never say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A key and the uid below it differ.
    #[error("the entry {key} carries the uid {uid}")]
    WrongKey {
        /// The key.
        key: String,
        /// The uid.
        uid: String,
    },
    /// The cluster runs, but without an existing primary.
    #[error("the phase is normal, but the master is not in dbs")]
    NoPrimary,
    /// An instance belongs to a keeper that is not registered.
    #[error("db {instance} belongs to keeper {keeper}, which is not registered")]
    UnknownKeeper {
        /// The instance.
        instance: InstanceUid,
        /// Its keeper.
        keeper: KeeperUid,
    },
    /// A keeper has several instances.
    #[error("keeper {keeper} has more than one db: {first} and {second}")]
    KeeperOfSeveral {
        /// The keeper.
        keeper: KeeperUid,
        /// One instance.
        first: InstanceUid,
        /// Another one.
        second: InstanceUid,
    },
    /// Generations start at 1 and keepers cannot be ahead of them.
    #[error("db {instance} has generation {generation} and reports {current}")]
    Generation {
        /// The instance.
        instance: InstanceUid,
        /// Wanted.
        generation: i64,
        /// Reported.
        current: i64,
    },
    /// A list is not in order or has an entry twice.
    #[error("{list} of {owner} is not sorted")]
    NotSorted {
        /// The list's name on the wire.
        list: &'static str,
        /// Whose list.
        owner: String,
    },
    /// An instance follows another one that does not exist, or itself.
    #[error("db {instance} follows {followed}, which is not there")]
    FollowsNobody {
        /// The instance.
        instance: InstanceUid,
        /// Whom it follows.
        followed: InstanceUid,
    },
    /// Clients are sent to an instance that is not the primary.
    #[error("clients are sent to db {destination}, which is not the master")]
    ProxyAstray {
        /// Where they are sent.
        destination: InstanceUid,
    },
    /// A synchronous primary without lists, or lists on an instance whose commits do not wait.
    #[error(
        "db {instance}: synchronousReplication and the lists of synchronous standbys contradict each other"
    )]
    SynchronousLists {
        /// The instance.
        instance: InstanceUid,
    },
    /// A name other than the one that blocks commits.
    #[error("db {instance} waits for the unknown standby {name}")]
    ForeignStandby {
        /// The instance.
        instance: InstanceUid,
        /// The name.
        name: String,
    },
    /// A primary waits for itself.
    #[error("db {instance} waits for itself")]
    WaitsForItself {
        /// The instance.
        instance: InstanceUid,
    },
}

/// Everything that is wrong with `cluster`; empty when all is well.
pub fn violations(cluster: &ClusterData) -> Vec<Violation> {
    let mut found = Vec::new();
    for (key, keeper) in &cluster.keepers {
        if key != &keeper.uid {
            found.push(Violation::WrongKey { key: key.to_string(), uid: keeper.uid.to_string() });
        }
    }
    if cluster.cluster.status.phase == Some(Phase::Normal) && cluster.primary().is_none() {
        found.push(Violation::NoPrimary);
    }
    assignments(cluster, &mut found);
    for (key, instance) in &cluster.instances {
        if key != &instance.uid {
            found.push(Violation::WrongKey { key: key.to_string(), uid: instance.uid.to_string() });
        }
        generation(instance, &mut found);
        follows(cluster, instance, &mut found);
        synchronous(instance, &mut found);
    }
    let proxy = &cluster.proxy.spec;
    sorted("enabledProxies", "proxy", proxy.enabled_proxies.as_deref(), &mut found);
    if proxy.primary.is_some() && proxy.primary != cluster.cluster.status.primary {
        let destination = proxy.primary.clone().unwrap_or_default();
        found.push(Violation::ProxyAstray { destination });
    }
    found
}

fn assignments(cluster: &ClusterData, found: &mut Vec<Violation>) {
    let mut owners = BTreeMap::new();
    for instance in cluster.instances.values() {
        let keeper = &instance.spec.keeper_uid;
        if !cluster.keepers.contains_key(keeper) {
            found.push(Violation::UnknownKeeper { instance: instance.uid.clone(), keeper: keeper.clone() });
        }
        if let Some(first) = owners.insert(keeper.clone(), instance.uid.clone()) {
            let (keeper, second) = (keeper.clone(), instance.uid.clone());
            found.push(Violation::KeeperOfSeveral { keeper, first, second });
        }
    }
}

fn generation(instance: &Instance, found: &mut Vec<Violation>) {
    let (generation, current) = (instance.generation, instance.status.current_generation);
    if generation < 1 || current > generation || current < 0 {
        found.push(Violation::Generation { instance: instance.uid.clone(), generation, current });
    }
}

fn follows(cluster: &ClusterData, instance: &Instance, found: &mut Vec<Violation>) {
    sorted("followers", instance.uid.as_str(), instance.spec.followers.as_deref(), found);
    let Some(follow) = &instance.spec.follow_config else { return };
    if follow.follow_type != Some(FollowType::Internal) {
        return;
    }
    let followed = follow.instance_uid.clone();
    if followed == instance.uid || !cluster.instances.contains_key(&followed) {
        found.push(Violation::FollowsNobody { instance: instance.uid.clone(), followed });
    }
}

fn synchronous(instance: &Instance, found: &mut Vec<Violation>) {
    let (spec, uid) = (&instance.spec, &instance.uid);
    sorted("synchronousStandbys", uid.as_str(), spec.synchronous_standbys.as_deref(), found);
    sorted(
        "status.synchronousStandbys",
        uid.as_str(),
        instance.status.synchronous_standbys.as_deref(),
        found,
    );
    let has_lists = spec.synchronous_standbys.is_some() || spec.external_synchronous_standbys.is_some();
    let standby_waits = spec.synchronous_replication && spec.role == Some(Role::Standby);
    if spec.synchronous_replication != has_lists || standby_waits {
        found.push(Violation::SynchronousLists { instance: uid.clone() });
    }
    if spec.synchronous_standbys.iter().flatten().any(|standby| standby == uid) {
        found.push(Violation::WaitsForItself { instance: uid.clone() });
    }
    for name in spec.external_synchronous_standbys.iter().flatten().filter(|name| *name != FAKE_STANDBY) {
        found.push(Violation::ForeignStandby { instance: uid.clone(), name: name.clone() });
    }
}

fn sorted<T: Ord>(list: &'static str, owner: &str, items: Option<&[T]>, found: &mut Vec<Violation>) {
    let items = items.unwrap_or_default();
    if !items.windows(2).all(|pair| matches!(pair, [first, second] if first < second)) {
        found.push(Violation::NotSorted { list, owner: owner.to_owned() });
    }
}
