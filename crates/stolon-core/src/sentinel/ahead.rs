//! A store that went back in time: keepers have served under newer cluster data than those that it holds.
//!
//! What counts as evidence:
//! * The **epoch**, which only sentinels of this project write, and which only grows. A document without one was last written by a
//!   sentinel of Stolon, which drops it: then it says nothing.
//! * The **generation** of an instance, which every sentinel only lets grow, for as long as the document holds the instance.
//! * The **timeline**, only where neither can be compared: the instance is not in the document, which has no epoch. An instance that
//!   was replaced is followed by one that was promoted after it, so that the primary's timeline is not lower.
//!
//! A position alone is none: what the document says about positions is always a little old. Nor is another cluster: it was
//! made anew on purpose.

use std::collections::{BTreeMap, BTreeSet};

use stolon_model::{
    BootUuid, ClusterData, Empty, FAKE_STANDBY, Instance, InstanceInitMode, InstanceSpec, Keeper,
    KeeperReport, KeeperUid, Role, Served, Timeline,
};

/// A keeper that has served under newer cluster data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Which keeper.
    pub keeper: KeeperUid,
    /// The highest point that it served at.
    pub served: Served,
    /// How that is known.
    pub evidence: Evidence,
}

/// How it is known that cluster data are older than what a keeper served under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It served under a higher epoch.
    Epoch {
        /// Of the document; none: Stolon wrote it.
        document: u64,
    },
    /// It served a higher generation of its instance.
    Generation {
        /// Of the document.
        document: i64,
    },
    /// It served on a higher timeline, and the document does not know its instance.
    Timeline {
        /// Of the document's primary.
        document: Timeline,
    },
}

/// The keepers that have served under newer cluster data than these, by the reports that are in the store.
pub fn ahead<'a>(data: &ClusterData, reports: impl IntoIterator<Item = &'a KeeperReport>) -> Vec<Ahead> {
    let of_keeper = |report: &KeeperReport| {
        let served = report.activity.as_ref()?.served.clone()?;
        let evidence = evidence(data, &served)?;
        Some(Ahead { keeper: report.uid.clone(), served, evidence })
    };
    reports.into_iter().filter_map(of_keeper).collect()
}

fn evidence(data: &ClusterData, served: &Served) -> Option<Evidence> {
    if served.cluster_uid != data.cluster.uid {
        return None;
    }
    if let Some(document) = data.cluster.epoch.filter(|epoch| served.epoch > *epoch) {
        return Some(Evidence::Epoch { document });
    }
    match (data.instances.get(&served.instance), data.cluster.epoch) {
        (Some(instance), _) => (served.generation > instance.generation)
            .then_some(Evidence::Generation { document: instance.generation }),
        (None, Some(_)) => None,
        (None, None) => {
            let document = data.primary()?.status.timeline;
            (document != Timeline(0) && served.timeline > document).then_some(Evidence::Timeline { document })
        }
    }
}

/// The epoch of the next document: higher than any that is known.
pub(super) fn next_epoch<'a>(
    data: &ClusterData,
    highest_seen: u64,
    reports: impl IntoIterator<Item = &'a KeeperReport>,
) -> u64 {
    let of_cluster = |served: &&Served| served.cluster_uid == data.cluster.uid;
    let served = reports.into_iter().filter_map(|report| report.activity.as_ref()?.served.as_ref());
    let reported = served.filter(of_cluster).map(|served| served.epoch).max().unwrap_or(0);
    data.cluster.epoch.unwrap_or(0).max(highest_seen).max(reported).saturating_add(1)
}

/// How a document is older than another one of the same cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Older {
    /// Its epoch is lower.
    Epoch {
        /// Its own.
        own: u64,
        /// The other's.
        other: u64,
    },
    /// The generation of an instance is lower.
    Generation {
        /// The keeper of the instance.
        keeper: KeeperUid,
        /// Its own.
        own: i64,
        /// The other's.
        other: i64,
    },
    /// The generation of the proxy section is lower.
    Proxy {
        /// Its own.
        own: i64,
        /// The other's.
        other: i64,
    },
}

/// Whether `data` are older than `other`, which lie in the store.
pub fn older_than(data: &ClusterData, other: &ClusterData) -> Option<Older> {
    if data.cluster.uid != other.cluster.uid {
        return None;
    }
    if let (Some(own), Some(other)) = (data.cluster.epoch, other.cluster.epoch)
        && own < other
    {
        return Some(Older::Epoch { own, other });
    }
    let of_instance = |instance: &Instance| {
        let stored =
            other.instances.get(&instance.uid).filter(|stored| stored.generation > instance.generation)?;
        let keeper = stored.spec.keeper_uid.clone();
        Some(Older::Generation { keeper, own: instance.generation, other: stored.generation })
    };
    data.instances.values().find_map(of_instance).or_else(|| {
        let (own, other) = (data.proxy.generation, other.proxy.generation);
        (own < other).then_some(Older::Proxy { own, other })
    })
}

/// Why the operator's decision cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotSettle {
    /// Nobody has served under newer cluster data.
    NobodyAhead,
    /// These have, and the operator has not named them.
    NotNamed(Vec<KeeperUid>),
    /// The keeper with the newest data does not hold them any more.
    DataGone(KeeperUid),
}

/// Make the cluster go on from the newest data: the keeper that served last gets its instance back as the primary. Everybody else
/// becomes its standby.
///
/// # Errors
/// Nobody is ahead, or the one that is furthest ahead holds other data by now.
pub fn take_newest(
    data: &ClusterData,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
) -> Result<(KeeperUid, ClusterData), CannotSettle> {
    let ahead = ahead(data, reports.values());
    let order = |ahead: &&Ahead| {
        let served = &ahead.served;
        (served.epoch, served.timeline, served.lsn, served.generation)
    };
    let newest = ahead.iter().max_by_key(order).ok_or(CannotSettle::NobodyAhead)?;
    let (keeper, served) = (&newest.keeper, &newest.served);
    let report = reports
        .get(keeper)
        .filter(|report| report.postgres_state.as_ref().is_some_and(|state| state.uid == served.instance));
    let report = report.ok_or_else(|| CannotSettle::DataGone(keeper.clone()))?;
    let mut next = raised(data, reports, &ahead);
    next.instances.retain(|uid, instance| instance.spec.keeper_uid != *keeper || *uid == served.instance);
    if let Some(old) = data.cluster.status.primary.as_ref().and_then(|uid| next.instances.get_mut(uid)) {
        old.spec.followers = Some(Vec::new());
        old.generation += 1;
    }
    next.keepers.entry(keeper.clone()).or_insert_with(|| registered(keeper, &report.boot_uuid));
    let instance = next.instances.entry(served.instance.clone()).or_insert_with(|| Instance {
        uid: served.instance.clone(),
        generation: served.generation.saturating_add(1),
        ..Instance::default()
    });
    let effective = data.cluster.spec.effective();
    let synchronous = effective.synchronous_replication && effective.role == Role::Primary;
    instance.spec = InstanceSpec {
        keeper_uid: keeper.clone(),
        init_mode: Some(InstanceInitMode::None),
        role: Some(Role::Primary),
        follow_config: None,
        followers: Some(Vec::new()),
        synchronous_replication: synchronous,
        synchronous_standbys: synchronous.then(Vec::new),
        external_synchronous_standbys: synchronous.then(|| match effective.min_synchronous_standbys {
            0 => Vec::new(),
            _ => vec![FAKE_STANDBY.to_owned()],
        }),
        ..instance.spec.clone()
    };
    instance.status.synchronous_standbys = None;
    next.cluster.status.primary = Some(served.instance.clone());
    next.proxy.spec.primary = None;
    next.proxy.generation += 1;
    Ok((keeper.clone(), next))
}

/// Go on from the document, although these keepers have served under newer ones: what they hold beyond it is given up.
///
/// # Errors
/// Nobody is ahead, or others are than those that were named.
pub fn accept_loss(
    data: &ClusterData,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
    named: &BTreeSet<KeeperUid>,
) -> Result<ClusterData, CannotSettle> {
    let ahead = ahead(data, reports.values());
    if ahead.is_empty() {
        return Err(CannotSettle::NobodyAhead);
    }
    let unnamed = ahead.iter().map(|ahead| &ahead.keeper).filter(|keeper| !named.contains(keeper));
    let unnamed: Vec<KeeperUid> = unnamed.cloned().collect();
    match unnamed.is_empty() {
        true => Ok(raised(data, reports, &ahead)),
        false => Err(CannotSettle::NotNamed(unnamed)),
    }
}

/// A document that is to be written in the place of `stored`, newer than that one and than everything that anybody has served
/// under: an operator has agreed to lose what lies between.
pub fn newest(
    data: &ClusterData,
    stored: Option<&ClusterData>,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
) -> ClusterData {
    let stored = stored.filter(|stored| stored.cluster.uid == data.cluster.uid);
    let mut next = raised(data, reports, &ahead(data, reports.values()));
    let Some(stored) = stored else { return next };
    next.cluster.epoch = next.cluster.epoch.max(stored.cluster.epoch.map(|epoch| epoch.saturating_add(1)));
    for (uid, instance) in &mut next.instances {
        if let Some(stored) = stored.instances.get(uid) {
            instance.generation = instance.generation.max(stored.generation.saturating_add(1));
        }
    }
    next.proxy.generation = next.proxy.generation.max(stored.proxy.generation.saturating_add(1));
    next
}

/// The same document, newer than everything that anybody has served under: epochs and generations only grow, also where a
/// sentinel of Stolon drops the epoch later.
fn raised(data: &ClusterData, reports: &BTreeMap<KeeperUid, KeeperReport>, ahead: &[Ahead]) -> ClusterData {
    let mut next = data.clone();
    next.cluster.epoch = Some(next_epoch(data, 0, reports.values()));
    for served in ahead.iter().map(|ahead| &ahead.served) {
        if let Some(instance) = next.instances.get_mut(&served.instance) {
            instance.generation = instance.generation.max(served.generation).saturating_add(1);
        }
    }
    next
}

fn registered(keeper: &KeeperUid, boot: &BootUuid) -> Keeper {
    let mut registered =
        Keeper { uid: keeper.clone(), generation: 1, spec: Some(Empty {}), ..Keeper::default() };
    registered.status.healthy = true;
    registered.status.boot_uuid = boot.clone();
    registered
}
