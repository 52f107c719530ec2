//! What an operator decides about a store that went back in time. Whatever that is, the document is the newest for everybody
//! afterwards, also for those who cannot be asked now.

use std::collections::{BTreeMap, BTreeSet};

use stolon_model::{
    BootUuid, ClusterData, Empty, FAKE_STANDBY, Instance, InstanceInitMode, InstanceSpec, InstanceUid,
    Keeper, KeeperReport, KeeperUid, PostgresState, Role, Served, Timestamp,
};

use super::ahead::{Ahead, LEAP, Witnesses, leap, rank};

/// Why the operator's decision cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotSettle {
    /// Nobody has served under newer cluster data, or seen some.
    NobodyAhead,
    /// These have served, and the operator has not named them.
    NotNamed(Vec<KeeperUid>),
    /// The keeper with the newest data does not hold them any more.
    DataGone(KeeperUid),
    /// The keeper with the newest data does not report.
    Silent(KeeperUid),
}

/// Make the cluster go on from the newest data, those of keepers apart that are `given_up`: the keeper that served last gets its
/// instance back as the primary. Everybody else becomes its standby. `wall` is the time now.
///
/// # Errors
/// Nobody is ahead, or the one that is furthest ahead does not report, or holds other data by now.
pub fn take_newest(
    data: &ClusterData,
    witnesses: &Witnesses<'_>,
    given_up: &BTreeSet<KeeperUid>,
    wall: Timestamp,
) -> Result<(KeeperUid, ClusterData), CannotSettle> {
    let mut ahead = witnesses.ahead(data);
    for ahead in &mut ahead {
        bring_up_to_date(&mut ahead.served, witnesses.keepers.get(&ahead.keeper));
    }
    let kept = ahead.iter().filter(|ahead| !given_up.contains(&ahead.keeper));
    let Ahead { keeper, served, .. } =
        kept.max_by_key(|ahead| rank(&ahead.served)).ok_or(CannotSettle::NobodyAhead)?;
    let report = witnesses.keepers.get(keeper).ok_or_else(|| CannotSettle::Silent(keeper.clone()))?;
    if state_of(&served.instance, report).is_none() {
        return Err(CannotSettle::DataGone(keeper.clone()));
    }
    let mut next = raised(data, witnesses, wall);
    next.instances.retain(|uid, instance| instance.spec.keeper_uid != *keeper || *uid == served.instance);
    if let Some(old) = data.cluster.status.primary.as_ref().and_then(|uid| next.instances.get_mut(uid)) {
        old.spec.followers = Some(Vec::new());
    }
    next.keepers.entry(keeper.clone()).or_insert_with(|| registered(keeper, &report.boot_uuid));
    make_primary(&mut next, keeper, served);
    Ok((keeper.clone(), next))
}

fn make_primary(next: &mut ClusterData, keeper: &KeeperUid, served: &Served) {
    let effective = next.cluster.spec.effective();
    let synchronous = effective.synchronous_replication && effective.role == Role::Primary;
    let instance = next.instances.entry(served.instance.clone()).or_insert_with(|| Instance {
        uid: served.instance.clone(),
        generation: served.generation.saturating_add(i64::from(LEAP)),
        ..Instance::default()
    });
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
}

/// The keeper's PostgreSQL may have gone further while the keeper followed no cluster data.
fn bring_up_to_date(served: &mut Served, report: Option<&KeeperReport>) {
    let state = report.and_then(|report| state_of(&served.instance, report));
    if let Some(state) = state.filter(|state| state.timeline == served.timeline) {
        served.lsn = served.lsn.max(state.lsn);
    }
}

fn state_of<'a>(instance: &InstanceUid, report: &'a KeeperReport) -> Option<&'a PostgresState> {
    report.postgres_state.as_ref().filter(|state| state.uid == *instance)
}

/// Go on from the document, although these keepers have served under newer ones: what they hold beyond it is given up. No name is
/// needed where only sentinels have seen newer ones. `wall` is the time now.
///
/// # Errors
/// Nobody is ahead, or others are than those that were named.
pub fn accept_loss(
    data: &ClusterData,
    witnesses: &Witnesses<'_>,
    named: &BTreeSet<KeeperUid>,
    wall: Timestamp,
) -> Result<ClusterData, CannotSettle> {
    let ahead = witnesses.ahead(data);
    if ahead.is_empty() && witnesses.saw_newer(data).is_empty() {
        return Err(CannotSettle::NobodyAhead);
    }
    let unnamed = ahead.iter().map(|ahead| &ahead.keeper).filter(|keeper| !named.contains(keeper));
    let unnamed: Vec<KeeperUid> = unnamed.cloned().collect();
    match unnamed.is_empty() {
        true => Ok(raised(data, witnesses, wall)),
        false => Err(CannotSettle::NotNamed(unnamed)),
    }
}

/// A document that is to be written in the place of `stored`, newer than that one and than everything that anybody has served
/// under: an operator has agreed to lose what lies between. `wall` is the time now.
pub fn newest(
    data: &ClusterData,
    stored: Option<&ClusterData>,
    witnesses: &Witnesses<'_>,
    wall: Timestamp,
) -> ClusterData {
    let mut next = data.clone();
    if let Some(stored) = stored.filter(|stored| stored.cluster.uid == data.cluster.uid) {
        next.cluster.epoch = next.cluster.epoch.max(stored.cluster.epoch);
        for (uid, instance) in &mut next.instances {
            let generation = stored.instances.get(uid).map_or(0, |stored| stored.generation);
            instance.generation = instance.generation.max(generation);
        }
        next.proxy.generation = next.proxy.generation.max(stored.proxy.generation);
    }
    raised(&next, witnesses, wall)
}

/// The same document, newer than everything that anybody has seen or served under: epoch and generations leap, also above what keepers
/// and proxies know that are away. The generations count where a program of Stolon drops the epoch later.
fn raised(data: &ClusterData, witnesses: &Witnesses<'_>, wall: Timestamp) -> ClusterData {
    let mut next = data.clone();
    let known = data.cluster.epoch.unwrap_or(0).max(witnesses.highest_epoch(data));
    next.cluster.epoch = Some(leap(known, wall));
    let mut served: BTreeMap<InstanceUid, i64> = BTreeMap::new();
    for Ahead { served: Served { instance, generation, .. }, .. } in witnesses.ahead(data) {
        let highest = served.entry(instance).or_default();
        *highest = generation.max(*highest);
    }
    for (uid, instance) in &mut next.instances {
        let known = served.get(uid).copied().unwrap_or_default();
        instance.generation = instance.generation.max(known).saturating_add(i64::from(LEAP));
    }
    next.proxy.generation = next.proxy.generation.saturating_add(i64::from(LEAP));
    next
}

fn registered(keeper: &KeeperUid, boot: &BootUuid) -> Keeper {
    let mut registered =
        Keeper { uid: keeper.clone(), generation: 1, spec: Some(Empty {}), ..Keeper::default() };
    registered.status.healthy = true;
    registered.status.boot_uuid = boot.clone();
    registered
}
