//! A store that went back in time: keepers have served under newer cluster data than those that it holds, or sentinels have seen some.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use stolon_model::{
    ClusterData, Instance, KeeperReport, KeeperUid, NewerData, SentinelReport, SentinelUid, Served, Timeline,
    Timestamp,
};

use crate::evidence::{Evidence, evidence};

/// How far a count is raised so that it is above every value that a program knows, although not every program can be asked: no epoch
/// and no generation grows by as much while a program is away. Many such steps stay below 2⁵³, up to which every reader of JSON is
/// exact.
pub(super) const LEAP: u32 = 1 << 20;

/// A keeper that has served under newer cluster data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Uid of the keeper.
    pub keeper: KeeperUid,
    /// The highest point that the keeper served at.
    pub served: Served,
    /// How it is known that this point is newer.
    pub evidence: Evidence,
}

/// A sentinel that has seen newer cluster data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SawNewer {
    /// Uid of the sentinel.
    pub sentinel: SentinelUid,
    /// The highest epoch that the sentinel has seen.
    pub epoch: u64,
}

/// The reports of those that may know of newer cluster data than those in the store.
#[derive(Clone, Copy, Debug)]
pub struct Witnesses<'a> {
    /// The reports of the keepers.
    pub keepers: &'a BTreeMap<KeeperUid, KeeperReport>,
    /// The reports of the sentinels, which remember the last words of keepers that do not report any more.
    pub sentinels: &'a BTreeMap<SentinelUid, SentinelReport>,
}

impl<'a> Witnesses<'a> {
    fn newer(&self, data: &ClusterData) -> impl Iterator<Item = (&'a SentinelUid, &'a NewerData)> {
        let of_cluster = move |newer: &&NewerData| newer.cluster_uid == data.cluster.uid;
        let told = self.sentinels.iter();
        told.filter_map(move |(uid, report)| Some((uid, report.newer.as_ref().filter(of_cluster)?)))
    }

    /// What every keeper of the cluster has served under, as far as it is known.
    pub(super) fn served(&self, data: &ClusterData) -> BTreeMap<KeeperUid, Served> {
        let mut found: BTreeMap<KeeperUid, Served> = BTreeMap::new();
        let told = self.newer(data).flat_map(|(_, newer)| newer.keepers.iter().flatten());
        for (keeper, served) in
            told.filter(|(keeper, _)| !self.keepers.contains_key(*keeper)).chain(by_keeper(self.keepers))
        {
            let is_newer = found.get(keeper).is_none_or(|known| known.epoch < served.epoch);
            if served.cluster_uid == data.cluster.uid && is_newer {
                found.insert(keeper.clone(), served.clone());
            }
        }
        found
    }

    /// The keepers that have served under newer cluster data than these.
    pub fn ahead(&self, data: &ClusterData) -> Vec<Ahead> {
        let told = self.newer(data).flat_map(|(_, newer)| newer.keepers.iter().flatten());
        ahead(data, self.keepers, told)
    }

    /// The sentinels that have seen newer cluster data than these.
    pub fn saw_newer(&self, data: &ClusterData) -> Vec<SawNewer> {
        let known = data.cluster.epoch;
        let of_sentinel = |(uid, newer): (&SentinelUid, &NewerData)| {
            let is_newer = known.is_some_and(|epoch| epoch < newer.epoch);
            is_newer.then(|| SawNewer { sentinel: uid.clone(), epoch: newer.epoch })
        };
        self.newer(data).filter_map(of_sentinel).collect()
    }

    /// The highest epoch in any of these reports.
    pub(super) fn highest_epoch(&self, data: &ClusterData) -> u64 {
        let seen = self.newer(data).map(|(_, newer)| newer.epoch);
        let told = self.newer(data).flat_map(|(_, newer)| newer.keepers.iter().flat_map(BTreeMap::values));
        let reported = by_keeper(self.keepers).map(|(_, served)| served);
        seen.chain([highest_served(data, reported.chain(told))]).max().unwrap_or(0)
    }
}

fn by_keeper<R: Borrow<KeeperReport>>(
    reports: &BTreeMap<KeeperUid, R>,
) -> impl Iterator<Item = (&KeeperUid, &Served)> {
    reports
        .iter()
        .filter_map(|(uid, report)| Some((uid, report.borrow().activity.as_ref()?.served.as_ref()?)))
}

fn highest_served<'a>(data: &ClusterData, served: impl Iterator<Item = &'a Served>) -> u64 {
    let of_cluster = served.filter(|served| served.cluster_uid == data.cluster.uid);
    of_cluster.map(|served| served.epoch).max().unwrap_or(0)
}

/// The keepers that have served under newer cluster data than these, by their reports, and by what is `told` of those that do not
/// report any more.
pub(super) fn ahead<'a, R: Borrow<KeeperReport>>(
    data: &ClusterData,
    reports: &'a BTreeMap<KeeperUid, R>,
    told: impl Iterator<Item = (&'a KeeperUid, &'a Served)>,
) -> Vec<Ahead> {
    let told = told.filter(|(uid, _)| !reports.contains_key(*uid));
    let primary = primary_timeline(data, reports);
    let mut found: BTreeMap<&KeeperUid, Ahead> = BTreeMap::new();
    for (keeper, served) in by_keeper(reports).chain(told) {
        let Some(evidence) = evidence(data, primary, served) else { continue };
        if found.get(keeper).is_none_or(|known| known.served.epoch < served.epoch) {
            found.insert(keeper, Ahead { keeper: keeper.clone(), served: served.clone(), evidence });
        }
    }
    found.into_values().collect()
}

/// The timeline of the document's primary, by the document or, if that is newer, by its own report: a document about which nothing is
/// decided is not brought up to date.
fn primary_timeline<R: Borrow<KeeperReport>>(
    data: &ClusterData,
    reports: &BTreeMap<KeeperUid, R>,
) -> Timeline {
    let Some(primary) = data.primary() else { return Timeline(0) };
    let report = reports.get(&primary.spec.keeper_uid);
    let state = report.and_then(|report| report.borrow().postgres_state.as_ref());
    let reported = state.filter(|state| state.uid == primary.uid).map(|state| state.timeline);
    primary.status.timeline.max(reported.unwrap_or_default())
}

/// The epoch of the next document, where `known` is the highest that was reported.
pub(super) fn next_epoch(data: &ClusterData, known: u64, wall: Timestamp) -> u64 {
    match data.cluster.epoch {
        Some(epoch) => epoch.max(known).saturating_add(1),
        None => leap(known, wall),
    }
}

/// The highest epoch that a sentinel knows of, by its own memory and by what keepers have said.
pub(super) fn known_epoch<'a, R: Borrow<KeeperReport> + 'a>(
    data: &ClusterData,
    seen: u64,
    reports: &'a BTreeMap<KeeperUid, R>,
    told: impl Iterator<Item = (&'a KeeperUid, &'a Served)>,
) -> u64 {
    seen.max(highest_served(data, by_keeper(reports).chain(told).map(|(_, served)| served)))
}

/// An epoch above every one that any program may know. A program that was away may know a higher one than those that can be asked,
/// because a program of Stolon wrote since then and dropped it. The wall clock (seconds since 1970) is above that one if all clocks
/// were right when epochs were made from them; the leap is above it if a program is left that saw nearly the same, whatever the
/// clocks say.
pub(super) fn leap(known: u64, wall: Timestamp) -> u64 {
    let seconds = u64::try_from(wall.instant().as_second()).unwrap_or(0);
    known.saturating_add(u64::from(LEAP)).max(seconds)
}

/// How a document is older than another one of the same cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Older {
    /// Its epoch is lower.
    Epoch {
        /// That of the older document.
        own: u64,
        /// That of the other document.
        other: u64,
    },
    /// The generation of an instance is lower.
    Generation {
        /// The keeper of the instance.
        keeper: KeeperUid,
        /// That of the older document.
        own: i64,
        /// That of the other document.
        other: i64,
    },
    /// The generation of the proxy section is lower.
    Proxy {
        /// That of the older document.
        own: i64,
        /// That of the other document.
        other: i64,
    },
}

/// Whether `data` are older than `other`, which are in the store.
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
