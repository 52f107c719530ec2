//! Rules that must hold for any cluster data, whoever wrote them.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};

use stolon_model::{ClusterData, InstanceUid, KeeperUid, Phase};

/// A rule that a document breaks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// The phase is normal, but the elected primary is not in `dbs`.
    PrimaryMissing(Option<InstanceUid>),
    /// An instance is in the charge of a keeper that is not in `keepers`.
    KeeperMissing(InstanceUid, KeeperUid),
    /// A keeper is in charge of several instances.
    SeveralInstances(KeeperUid),
    /// The uid of an object differs from its key.
    WrongKey(String),
    /// Proxies are sent to an instance that is not in `dbs`.
    ProxyTargetMissing(InstanceUid),
    /// Proxies are sent to an instance that is not the elected primary.
    ProxyTargetNotPrimary(InstanceUid),
    /// An instance waits for itself.
    WaitsForItself(InstanceUid),
    /// A list that must be sorted is not.
    Unsorted(InstanceUid),
}

impl Display for Violation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::PrimaryMissing(Some(uid)) => write!(f, "db {uid} is named as the master but is not in dbs"),
            Self::PrimaryMissing(None) => f.write_str("the phase is normal but no master is named"),
            Self::KeeperMissing(instance, keeper) => {
                write!(f, "db {instance} belongs to keeper {keeper}, which is not in keepers")
            }
            Self::SeveralInstances(keeper) => write!(f, "keeper {keeper} has more than one db"),
            Self::WrongKey(key) => write!(f, "the object with the key {key} has another uid"),
            Self::ProxyTargetMissing(uid) => write!(f, "proxies are sent to db {uid}, which is not in dbs"),
            Self::ProxyTargetNotPrimary(uid) => {
                write!(f, "proxies are sent to db {uid}, which is not the master")
            }
            Self::WaitsForItself(uid) => write!(f, "db {uid} waits for itself"),
            Self::Unsorted(uid) => write!(f, "a list of db {uid} is not sorted"),
        }
    }
}

/// The rules that a document breaks; none for one that only sentinels wrote.
pub fn violations(data: &ClusterData) -> Vec<Violation> {
    let mut found = Vec::new();
    let status = &data.cluster.status;
    let wants_primary = status.phase == Some(Phase::Normal) || status.primary.is_some();
    if wants_primary && data.primary().is_none() {
        found.push(Violation::PrimaryMissing(status.primary.clone()));
    }
    let mut by_keeper: BTreeMap<&KeeperUid, usize> = BTreeMap::new();
    for (uid, instance) in &data.instances {
        let keeper = &instance.spec.keeper_uid;
        *by_keeper.entry(keeper).or_default() += 1;
        if !data.keepers.contains_key(keeper) {
            found.push(Violation::KeeperMissing(uid.clone(), keeper.clone()));
        }
        if instance.uid != *uid {
            found.push(Violation::WrongKey(uid.to_string()));
        }
        let waited_for = instance.spec.synchronous_standbys.iter().flatten();
        if waited_for.clone().any(|standby| standby == uid) {
            found.push(Violation::WaitsForItself(uid.clone()));
        }
        if !waited_for.is_sorted() || !instance.spec.followers.iter().flatten().is_sorted() {
            found.push(Violation::Unsorted(uid.clone()));
        }
    }
    let several = by_keeper.into_iter().filter(|(_, count)| *count > 1);
    found.extend(several.map(|(keeper, _)| Violation::SeveralInstances(keeper.clone())));
    let strangers = data.keepers.iter().filter(|(uid, keeper)| keeper.uid != **uid);
    found.extend(strangers.map(|(uid, _)| Violation::WrongKey(uid.to_string())));
    if let Some(target) = &data.proxy.spec.primary {
        if !data.instances.contains_key(target) {
            found.push(Violation::ProxyTargetMissing(target.clone()));
        } else if status.primary.as_ref() != Some(target) {
            found.push(Violation::ProxyTargetNotPrimary(target.clone()));
        }
    }
    found
}

/// True when `next` breaks no rule that `before` did not break already.
pub(super) fn no_new_violations(before: &ClusterData, next: &ClusterData) -> bool {
    let known = violations(before);
    violations(next).iter().all(|violation| known.contains(violation))
}
