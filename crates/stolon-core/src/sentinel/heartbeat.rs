//! Who has shown life: reports of keepers and proxies against what is remembered of them.
//!
//! Only the change of a report's `infoUID` proves life. Reports are judged by age, not by rounds, since rounds
//! come whenever something happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stolon_model::{
    ClusterData, EffectiveSpec, InstanceUid, KeeperReport, KeeperUid, PostgresState, ProxyReport, ProxyUid,
};

use super::memory::{KeeperSighting, Life, Memory, ProxySighting, Stall};
use super::{Now, View, convergence, proxy};

/// What one look at the view shows.
#[derive(Debug)]
pub(super) struct Sightings {
    /// This sentinel never looked before: nothing it sees proves anything.
    pub first: FirstLook,
    /// Keepers whose report is not older than the sleep interval.
    pub fresh: BTreeMap<KeeperUid, KeeperReport>,
    /// Proxies that may hold connections.
    pub proxies: BTreeMap<ProxyUid, ActiveProxy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstLook {
    Yes,
    No,
}

/// A proxy that may hold connections.
#[derive(Clone, Debug)]
pub(super) struct ActiveProxy {
    pub report: ProxyReport,
    /// Since when its report has not changed.
    pub since: Duration,
}

impl ActiveProxy {
    /// By itself it closes everything when its last good check is that long ago.
    pub fn timeout(&self) -> Duration {
        Duration::from_nanos(self.report.proxy_timeout.max(0) as u64)
    }
}

impl Sightings {
    /// What the keeper's fresh report says about an instance, whether that works or not.
    pub fn state_of(&self, keeper: &KeeperUid, instance: &InstanceUid) -> Option<&PostgresState> {
        self.fresh.get(keeper)?.postgres_state.as_ref().filter(|state| &state.uid == instance)
    }

    /// The same, only if it works.
    pub fn healthy_state_of(&self, keeper: &KeeperUid, instance: &InstanceUid) -> Option<&PostgresState> {
        self.state_of(keeper, instance).filter(|state| state.healthy)
    }
}

/// Take a look and remember it. Decides nothing: every sentinel does this, whether it leads or not.
pub(super) fn look(view: &View<'_>, memory: &Memory, now: Now) -> (Memory, Sightings) {
    let spec = view.cluster.cluster.spec.effective();
    let (mut memory, first) = continue_or_begin(view, memory);
    if let Some(last_read) = memory.last_read {
        forgive_gap(&mut memory, &spec, now, now.monotonic.saturating_sub(last_read));
    }
    memory.last_read = Some(now.monotonic);
    let fresh = look_at_keepers(view, &spec, &mut memory, now, first);
    let proxies = look_at_proxies(view, &mut memory, now);
    let sightings = Sightings { first, fresh, proxies };
    if first == FirstLook::No {
        look_at_instances(view, &spec, &mut memory, &sightings, now);
    }
    convergence::track(view.cluster, &mut memory, now);
    proxy::remember_closing(view.cluster, &mut memory, now);
    (memory, sightings)
}

fn continue_or_begin(view: &View<'_>, memory: &Memory) -> (Memory, FirstLook) {
    let uid = &view.cluster.cluster.uid;
    if memory.cluster_uid.as_ref() == Some(uid) && memory.last_read.is_some() {
        return (memory.clone(), FirstLook::No);
    }
    (Memory { cluster_uid: Some(uid.clone()), ..Memory::default() }, FirstLook::Yes)
}

/// A pause between two looks above which the difference counts as blindness.
pub(super) fn longest_pause(spec: &EffectiveSpec) -> Duration {
    (spec.sleep_interval * 2).max(Duration::from_millis(500))
}

/// Time during which this sentinel saw nothing does not count against anybody, and after such a time everybody
/// gets two sleep intervals to be seen again before a verdict.
fn forgive_gap(memory: &mut Memory, spec: &EffectiveSpec, now: Now, pause: Duration) {
    let Some(blind) = pause.checked_sub(longest_pause(spec)).filter(|blind| !blind.is_zero()) else { return };
    let shifted = |since: Duration| (since + blind).min(now.monotonic);
    let second_look = (now.monotonic + spec.sleep_interval * 2).saturating_sub(spec.fail_interval);
    for sighting in memory.keepers.values_mut() {
        let earliest = second_look.saturating_sub(spec.sleep_interval);
        sighting.since = shifted(sighting.since).max(earliest);
    }
    for since in memory.trouble.values_mut() {
        *since = shifted(*since).max(second_look);
    }
    for convergence in memory.convergence.values_mut() {
        convergence.since = shifted(convergence.since);
    }
    for sighting in memory.proxies.values_mut() {
        sighting.since = shifted(sighting.since);
    }
    if let Some(closed) = &mut memory.closed {
        closed.since = shifted(closed.since);
    }
}

fn look_at_keepers(
    view: &View<'_>,
    spec: &EffectiveSpec,
    memory: &mut Memory,
    now: Now,
    first: FirstLook,
) -> BTreeMap<KeeperUid, KeeperReport> {
    let mut fresh = BTreeMap::new();
    let reports = view.keepers.values().filter(|report| report.cluster_uid == view.cluster.cluster.uid);
    for report in reports {
        let known = memory.keepers.get(&report.uid);
        let is_known = known
            .and_then(|sighting| sighting.report.as_ref())
            .is_some_and(|known| known.info_uid == report.info_uid);
        if !is_known {
            let life = if first == FirstLook::Yes { Life::Unproven } else { Life::Proven };
            let sighting = KeeperSighting { report: Some(report.clone()), life, since: now.monotonic };
            memory.keepers.insert(report.uid.clone(), sighting);
        }
        let Some(sighting) = memory.keepers.get(&report.uid) else { continue };
        let age = now.monotonic.saturating_sub(sighting.since);
        if sighting.life == Life::Proven && age <= spec.sleep_interval {
            fresh.insert(report.uid.clone(), report.clone());
        }
    }
    for keeper in view.cluster.keepers.keys() {
        memory.keepers.entry(keeper.clone()).or_insert(KeeperSighting {
            report: None,
            life: Life::Unproven,
            since: now.monotonic,
        });
    }
    fresh
}

/// Records that are gone are of proxies that have closed; unknown proxies may hold connections.
fn look_at_proxies(view: &View<'_>, memory: &mut Memory, now: Now) -> BTreeMap<ProxyUid, ActiveProxy> {
    let present: BTreeSet<_> = view.proxies.values().map(|report| report.uid.clone()).collect();
    memory.proxies.retain(|uid, _| present.contains(uid));
    let mut active = BTreeMap::new();
    for report in view.proxies.values() {
        let unchanged =
            memory.proxies.get(&report.uid).filter(|known| known.report.info_uid == report.info_uid);
        let since = unchanged.map_or(now.monotonic, |known| known.since);
        memory.proxies.insert(report.uid.clone(), ProxySighting { report: report.clone(), since });
        let proxy = ActiveProxy { report: report.clone(), since };
        if now.monotonic.saturating_sub(since) <= proxy.timeout() * 2 {
            active.insert(report.uid.clone(), proxy);
        }
    }
    active
}

/// Since when each instance has not been reported to work, and whose position does not move.
fn look_at_instances(
    view: &View<'_>,
    spec: &EffectiveSpec,
    memory: &mut Memory,
    sightings: &Sightings,
    now: Now,
) {
    let instances = &view.cluster.instances;
    memory.trouble.retain(|uid, _| instances.contains_key(uid));
    memory.stalls.retain(|uid, _| instances.contains_key(uid));
    for (uid, instance) in instances {
        let keeper = &instance.spec.keeper_uid;
        let Some(report) = sightings.fresh.get(keeper) else {
            let since = memory.keepers.get(keeper).map_or(now.monotonic, |sighting| sighting.since);
            memory.trouble.entry(uid.clone()).or_insert(since + spec.sleep_interval);
            continue;
        };
        let Some(state) = report.postgres_state.as_ref().filter(|state| &state.uid == uid) else {
            memory.trouble.entry(uid.clone()).or_insert(now.monotonic);
            continue;
        };
        if state.healthy {
            memory.trouble.remove(uid);
        } else {
            memory.trouble.entry(uid.clone()).or_insert(now.monotonic);
        }
        count_stall(view.cluster, uid, state, spec, memory, now);
    }
}

fn count_stall(
    cluster: &ClusterData,
    uid: &InstanceUid,
    state: &PostgresState,
    spec: &EffectiveSpec,
    memory: &mut Memory,
    now: Now,
) {
    match memory.stalls.get_mut(uid).filter(|stall| stall.lsn == state.lsn) {
        Some(stall) => {
            if now.monotonic.saturating_sub(stall.counted_at) >= spec.sleep_interval {
                stall.count += 1;
                stall.counted_at = now.monotonic;
            }
        }
        None => {
            let same_as_stored =
                cluster.instances.get(uid).is_some_and(|known| known.status.lsn == state.lsn);
            let stall = Stall { lsn: state.lsn, count: u32::from(same_as_stored), counted_at: now.monotonic };
            memory.stalls.insert(uid.clone(), stall);
        }
    }
}
