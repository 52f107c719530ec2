//! What an operator decides about a store that went back in time. In any case the document is afterwards the newest one for every
//! program, also for those that cannot be asked now.

use std::collections::{BTreeMap, BTreeSet};

use stolon_model::{
    BootUuid, ClusterData, Empty, FAKE_STANDBY, FollowConfig, FollowType, Instance, InstanceInitMode,
    InstanceSpec, InstanceUid, Keeper, KeeperReport, KeeperUid, PostgresState, Role, Served,
    SwitchoverOutcome, Timestamp,
};

use super::ahead::{LEAP, Witnesses, leap};

/// Why the operator's decision cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotSettle {
    /// No keeper has served under newer cluster data, and no sentinel has seen any.
    NobodyAhead,
    /// These keepers have served under newer cluster data, and the operator has not named them.
    NotNamed(Vec<KeeperUid>),
    /// The keeper with the newest data does not hold them any more.
    DataGone(KeeperUid),
    /// The keeper with the newest data does not report.
    Silent(KeeperUid),
    /// The keeper of the document's primary does not hold its data any more: there is nothing to go on from.
    PrimaryGone(KeeperUid),
}

/// Make the cluster go on from the newest data, except for those of the keepers in `given_up`: the keeper that served last gets its
/// instance back as the primary, and all others become its standbys. `wall` is the time now.
///
/// # Errors
/// No program is ahead, or the keeper with the newest data does not report, or holds other data by now.
pub fn take_newest(
    data: &ClusterData,
    witnesses: &Witnesses<'_>,
    given_up: &BTreeSet<KeeperUid>,
    wall: Timestamp,
) -> Result<(KeeperUid, ClusterData), CannotSettle> {
    if witnesses.ahead(data).iter().all(|ahead| given_up.contains(&ahead.keeper)) {
        return Err(CannotSettle::NobodyAhead);
    }
    let mut candidates = witnesses.served(data);
    candidates.retain(|keeper, _| !given_up.contains(keeper));
    for (keeper, served) in &mut candidates {
        bring_up_to_date(served, witnesses.keepers.get(keeper));
    }
    let (keeper, served) = newest_of(&candidates).ok_or(CannotSettle::NobodyAhead)?;
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
    remake_former_primaries(&mut next, data, witnesses);
    Ok((keeper.clone(), next))
}

/// The instance that was elected last holds everything that was acknowledged, however far others have come with reading cluster data: it may have been
/// cut off. Only a standby on a later timeline, under later data, followed an instance that was elected after that and is not known.
///
/// Positions are as old as the keeper's last look, or half a minute if it does not look any more.
fn newest_of(candidates: &BTreeMap<KeeperUid, Served>) -> Option<(&KeeperUid, &Served)> {
    let primaries = candidates.iter().filter(|(_, served)| served.primary_epoch.is_some());
    let primary = primaries.max_by_key(|(_, it)| (it.primary_epoch, it.timeline, it.lsn));
    let standbys = candidates.iter().filter(|(_, served)| served.primary_epoch.is_none());
    let standby = standbys.max_by_key(|(_, it)| (it.epoch, it.timeline, it.lsn));
    let (Some((_, elected)), Some((_, follower))) = (primary, standby) else { return primary.or(standby) };
    let follows_another =
        follower.timeline > elected.timeline && Some(follower.epoch) > elected.primary_epoch;
    if follows_another { standby } else { primary }
}

pub(super) fn make_primary(next: &mut ClusterData, keeper: &KeeperUid, served: &Served) {
    let effective = next.cluster.spec.effective();
    let synchronous = effective.synchronous_replication && effective.role == Role::Primary;
    // The head of a standby cluster follows the primary outside.
    let outside = effective.standby_config.clone().unwrap_or_default();
    let follow_config = (effective.role == Role::Standby).then(|| FollowConfig {
        follow_type: Some(FollowType::External),
        instance_uid: InstanceUid::default(),
        standby_settings: outside.standby_settings,
        archive_recovery_settings: outside.archive_recovery_settings,
    });
    let instance = next.instances.entry(served.instance.clone()).or_insert_with(|| Instance {
        uid: served.instance.clone(),
        generation: served.generation.saturating_add(i64::from(LEAP)),
        ..Instance::default()
    });
    instance.spec = InstanceSpec {
        keeper_uid: keeper.clone(),
        init_mode: Some(InstanceInitMode::None),
        role: Some(effective.role.clone()),
        follow_config,
        followers: Some(Vec::new()),
        synchronous_replication: synchronous,
        synchronous_standbys: synchronous.then(Vec::new),
        external_synchronous_standbys: synchronous.then(|| match effective.min_synchronous_standbys {
            0 => Vec::new(),
            _ => vec![FAKE_STANDBY.to_owned()],
        }),
        ..instance.spec.clone()
    };
    // The document may know it from before its promotion: a former primary on that timeline must not take its place as if nobody had
    // written since.
    let status = &mut instance.status;
    if (served.timeline, served.lsn) > (status.timeline, status.lsn) {
        (status.timeline, status.lsn) = (served.timeline, served.lsn);
    }
    next.cluster.status.primary = Some(served.instance.clone());
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
/// No program is ahead, or other keepers are than those that were named, or the data of the document's primary are gone.
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
    if !unnamed.is_empty() {
        return Err(CannotSettle::NotNamed(unnamed));
    }
    if let Some(primary) = data.primary().filter(|primary| is_gone(primary, witnesses)) {
        return Err(CannotSettle::PrimaryGone(primary.spec.keeper_uid.clone()));
    }
    let mut next = raised(data, witnesses, wall);
    remake_former_primaries(&mut next, data, witnesses);
    Ok(next)
}

/// Whether the keeper of an instance holds another one by now, or nothing although the instance was complete.
fn is_gone(instance: &Instance, witnesses: &Witnesses<'_>) -> bool {
    let report = witnesses.keepers.get(&instance.spec.keeper_uid);
    let held = report.and_then(|report| report.postgres_state.as_ref()).map(|state| &state.uid);
    let was_complete = instance.status.current_generation != 0;
    held.is_some_and(|held| *held != instance.uid && (was_complete || !held.is_empty()))
}

/// A document that is to be written in the place of `stored`, newer than that one and than everything that any keeper has served
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
    let mut next = raised(&next, witnesses, wall);
    remake_former_primaries(&mut next, data, witnesses);
    next
}

/// The same document, newer than everything that any program has seen or served under: epoch and generations leap, also above what keepers
/// and proxies know that are away. The generations count where a program of Stolon drops the epoch later. They are not below the epoch,
/// which every settlement raises above the one before it: a store that goes back twice to the same document would otherwise be given the
/// same generations twice, and what a proxy or keeper has said of the first would be taken for an acknowledgement of the second.
///
/// Clients go nowhere until every proxy has let go of where it is, and which standbys have caught up is found out anew: the document
/// does not know what was acknowledged since.
pub(super) fn raised(data: &ClusterData, witnesses: &Witnesses<'_>, wall: Timestamp) -> ClusterData {
    let mut next = data.clone();
    let known = data.cluster.epoch.unwrap_or(0).max(witnesses.highest_epoch(data));
    let epoch = leap(known, wall);
    next.cluster.epoch = Some(epoch);
    let above = |generation: i64| {
        let leapt = generation.saturating_add(i64::from(LEAP));
        leapt.max(i64::try_from(epoch).unwrap_or(i64::MAX))
    };
    let mut served: BTreeMap<InstanceUid, i64> = BTreeMap::new();
    for Served { instance, generation, .. } in witnesses.served(data).into_values() {
        let highest = served.entry(instance).or_default();
        *highest = generation.max(*highest);
    }
    for (uid, instance) in &mut next.instances {
        let known = served.get(uid).copied().unwrap_or_default();
        instance.generation = above(instance.generation.max(known));
        instance.status.synchronous_standbys = None;
        instance.status.quorums = None;
        instance.spec.stops_receiving = false;
    }
    next.proxy.generation = above(next.proxy.generation);
    next.proxy.spec.primary = None;
    // What anybody was told of meanwhile is not known either.
    next.cluster.status.void_formers();
    // Whoever plays a part in it does so by what was known before.
    if let Some(record) = next.cluster.status.switchover.as_mut().filter(|record| record.is_open()) {
        record.conclude(SwitchoverOutcome::Canceled, "the store had gone back in time".to_owned(), wall);
    }
    next
}

/// An instance that the document calls a standby, and that was elected since, cannot become a standby as it is: it is taken out, so
/// that its keeper is given a new one to make of the same data.
fn remake_former_primaries(next: &mut ClusterData, data: &ClusterData, witnesses: &Witnesses<'_>) {
    let was_elected = |served: &Served| {
        let is_primary = next.cluster.status.primary.as_ref() == Some(&served.instance);
        let role = data.instances.get(&served.instance).and_then(|instance| instance.spec.role.as_ref());
        served.primary_epoch.is_some() && !is_primary && role == Some(&Role::Standby)
    };
    let former = witnesses.served(data).into_values().filter(was_elected).map(|served| served.instance);
    let former: BTreeSet<InstanceUid> = former.collect();
    next.instances.retain(|uid, _| !former.contains(uid));
    for instance in next.instances.values_mut() {
        let lists = [&mut instance.spec.followers, &mut instance.spec.synchronous_standbys];
        for list in lists.into_iter().flatten() {
            list.retain(|uid| !former.contains(uid));
        }
    }
}

pub(super) fn registered(keeper: &KeeperUid, boot: &BootUuid) -> Keeper {
    let mut registered =
        Keeper { uid: keeper.clone(), generation: 1, spec: Some(Empty {}), ..Keeper::default() };
    registered.status.healthy = true;
    registered.status.boot_uuid = boot.clone();
    registered
}
