//! What an operator decides when the primary is lost and nobody may take its place by itself (docs: design/013-recover.md).

use stolon_model::{
    ClusterData, FormerPrimary, Instance, InstanceStatus, InstanceUid, KeeperReport, KeeperUid, Phase,
    PostgresState, Served, SwitchoverOutcome, Timestamp, UsableCluster,
};

use super::ahead::Witnesses;
use super::eligibility::{Question, eligibility};
use super::recover_reasons::{Held, Was, WouldBeLost};
use super::round::{Kind, Round};
use super::settle::{make_primary, raised, registered};
use super::spare::primary_works;
use super::{Hold, Rejection};
use crate::timeline::Mark;

/// Why a cluster cannot go on from what a keeper holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotRecover {
    /// The cluster has no primary yet.
    NoPrimary,
    /// The store went back in time: what is newest is not what the document says.
    StoreWentBack,
    /// The primary works, or has `failInterval` to show that it does.
    PrimaryWorks(KeeperUid),
    /// The keeper has the primary.
    HasPrimary,
    /// The keeper does not report.
    Silent,
    /// The keeper holds no complete data of this cluster.
    HoldsNothing,
    /// Another keeper can take over, and loses less.
    AnotherCan(KeeperUid),
}

/// The complete data of a cluster that keepers hold beside the primary, by their last reports; those furthest ahead first.
pub fn held<'a>(data: &ClusterData, report_of: impl Fn(&KeeperUid) -> Option<&'a KeeperReport>) -> Vec<Held> {
    let Some(primary) = data.primary() else { return Vec::new() };
    let others = data.keepers.keys().filter(|keeper| **keeper != primary.spec.keeper_uid);
    let reports = others.filter_map(|keeper| report_of(keeper));
    let found = reports.filter_map(|report| held_by(data, primary, report));
    let mut held: Vec<Held> = found.map(|(held, _)| held).collect();
    held.sort_by(|one, other| (other.timeline, other.lsn).cmp(&(one.timeline, one.lsn)));
    held
}

/// Those of [`held`] that were primaries, and that nobody has made a standby of since: an operator can go on from each of them, or look into it for
/// what its successor lacked.
pub fn former_primaries_held<'a>(
    data: &ClusterData,
    report_of: impl Fn(&KeeperUid) -> Option<&'a KeeperReport>,
) -> impl Iterator<Item = Held> {
    let follows = |uid: &InstanceUid| data.instances.get(uid).is_some_and(|it| Kind::of(it) == Kind::Standby);
    // Most keepers hold a standby: nothing else is looked at of theirs, since this is asked in every round.
    let has_none =
        |report: &&KeeperReport| !report.postgres_state.as_ref().is_some_and(|it| follows(&it.uid));
    let held = held(data, |keeper| report_of(keeper).filter(has_none)).into_iter();
    held.filter(|held| matches!(held.was, Was::Primary { .. }))
}

/// What a keeper holds, and what it has served with it.
fn held_by(data: &ClusterData, primary: &Instance, report: &KeeperReport) -> Option<(Held, Served)> {
    let state = report.postgres_state.as_ref()?;
    let served = served_with(data, report, state)?;
    let former = former_of(data, &state.uid);
    let known = data.instances.get(&state.uid);
    let was_primary = served.primary_epoch.is_some()
        || former.is_some()
        || known.is_some_and(|instance| Kind::of(instance) == Kind::Head);
    let at = Mark { timeline: served.timeline, lsn: served.lsn };
    let marks = [
        former.map(|former| Mark { timeline: former.timeline, lsn: former.lsn }),
        known.map(|instance| Mark::now(&instance.status)),
        state.healthy.then_some(Mark { timeline: state.timeline, lsn: state.lsn }),
    ];
    let at = marks.into_iter().flatten().fold(at, Mark::max);
    let loss = match former {
        Some(former) if former.complete => WouldBeLost::Nothing,
        _ => would_be_lost(&primary.status, at),
    };
    let until = former.map_or(Timestamp::ZERO, |former| former.replaced_at);
    let was = if was_primary { Was::Primary { until } } else { Was::Standby };
    let (keeper, instance) = (report.uid.clone(), state.uid.clone());
    let held = Held { keeper, instance, was, timeline: at.timeline, lsn: at.lsn, loss };
    Some((held, Served { timeline: at.timeline, lsn: at.lsn, ..served }))
}

fn former_of<'d>(data: &'d ClusterData, instance: &InstanceUid) -> Option<&'d FormerPrimary> {
    data.cluster.status.formers.iter().flatten().find(|former| former.instance == *instance)
}

/// What a keeper has served with the data that it holds now; none: they are not whole, or of another cluster, or nobody can tell. The
/// keepers of others do not say what they have served: the document has to know the instance.
fn served_with(data: &ClusterData, report: &KeeperReport, state: &PostgresState) -> Option<Served> {
    let cluster_uid = data.cluster.uid.clone();
    if state.uid.is_empty() || state.generation == 0 || report.cluster_uid != cluster_uid {
        return None;
    }
    let system = data.primary().map(|primary| primary.status.system_identifier.as_str()).unwrap_or_default();
    if !state.system_identifier.is_empty() && !system.is_empty() && state.system_identifier != *system {
        return None;
    }
    let served = report.activity.as_ref().and_then(|activity| activity.served.as_ref());
    let own = served.filter(|it| it.instance == state.uid && it.cluster_uid == cluster_uid);
    let is_known = data.instances.contains_key(&state.uid) || former_of(data, &state.uid).is_some();
    let unsaid = || Served { cluster_uid, instance: state.uid.clone(), ..Served::default() };
    let mut found = own.cloned().or_else(|| is_known.then(unsaid))?;
    found.generation = found.generation.max(state.generation);
    Some(found)
}

fn would_be_lost(primary: &InstanceStatus, at: Mark) -> WouldBeLost {
    let (timeline, to) = (primary.timeline, primary.lsn);
    let mut forks = primary.timelines_history.iter().flatten();
    let fork = forks.find(|fork| fork.timeline == at.timeline).map(|fork| fork.switch_point);
    match if at.timeline == timeline { Some(at.lsn) } else { fork } {
        Some(from) => WouldBeLost::Since { timeline, from: from.min(to), to },
        None => WouldBeLost::Unknown { timeline, to },
    }
}

/// Make the cluster go on from what `keeper` holds, which becomes the primary; the lost one is to follow it when it comes back. Also returns
/// what is given up. `wall` is the time now.
///
/// # Errors
/// Why it cannot.
pub fn recover(
    cluster: &UsableCluster,
    witnesses: &Witnesses<'_>,
    keeper: &KeeperUid,
    wall: Timestamp,
) -> Result<(Held, ClusterData), CannotRecover> {
    let data = cluster.data();
    let is_normal = data.cluster.status.phase == Some(Phase::Normal);
    let primary = data.primary().filter(|_| is_normal).ok_or(CannotRecover::NoPrimary)?;
    let reports = witnesses.keepers;
    if !witnesses.ahead(data).is_empty() || !witnesses.saw_newer(data).is_empty() {
        return Err(CannotRecover::StoreWentBack);
    }
    if primary_works(cluster, reports) {
        return Err(CannotRecover::PrimaryWorks(primary.spec.keeper_uid.clone()));
    }
    if primary.spec.keeper_uid == *keeper {
        return Err(CannotRecover::HasPrimary);
    }
    if let Some(another) = eligibility(cluster, reports).into_iter().find(|it| it.rejection.is_none()) {
        return Err(CannotRecover::AnotherCan(another.keeper));
    }
    let report = reports.get(keeper).ok_or(CannotRecover::Silent)?;
    let (held, served) = held_by(data, primary, report).ok_or(CannotRecover::HoldsNothing)?;
    let mut data = data.clone();
    if let Some(record) = &mut data.cluster.status.switchover {
        record.conclude(SwitchoverOutcome::Failed, "an operator has given the primary up".to_owned(), wall);
    }
    let mut next = raised(&data, witnesses, wall);
    next.instances.retain(|uid, instance| instance.spec.keeper_uid != *keeper || *uid == held.instance);
    next.keepers.entry(keeper.clone()).or_insert_with(|| registered(keeper, &report.boot_uuid));
    make_primary(&mut next, keeper, &served);
    give_up(&mut next, primary, &held, wall);
    Ok((held, next))
}

/// The lost primary has no followers any more, and stays in the document as a former one. As any other primary the new one has
/// `failInterval` to show that it works: until then no second operator takes it for lost.
fn give_up(next: &mut ClusterData, primary: &Instance, held: &Held, wall: Timestamp) {
    if let Some(lost) = next.instances.get_mut(&primary.uid) {
        lost.spec.followers = Some(Vec::new());
    }
    if let Some(instance) = next.instances.get_mut(&held.instance) {
        instance.status.healthy = true;
    }
    if let Some(keeper) = next.keepers.get_mut(&held.keeper) {
        keeper.status.healthy = true;
    }
    let formers = next.cluster.status.formers.get_or_insert_default();
    formers.retain(|former| former.keeper != held.keeper && former.keeper != primary.spec.keeper_uid);
    formers.push(FormerPrimary {
        given_up_from: held.loss.from(),
        ..FormerPrimary::of(primary, &held.instance, wall)
    });
}

impl Round<'_> {
    /// Nobody may take the place of `primary`: say what there is that an operator could go on from. Who may be about to become fit is no
    /// way out.
    pub fn show_ways_out(&mut self, primary: &Instance) {
        let reports = &self.seen.fresh;
        let question = Question::about(primary, &self.draft, self.seen.spec);
        let is_lasting = |held: &Held| match self.draft.instances.get(&held.instance) {
            Some(instance) if Kind::of(instance) == Kind::Standby => matches!(
                question.rejection(instance),
                Some(
                    Rejection::NotSynchronous
                        | Rejection::NotFurthest
                        | Rejection::TooFewToCompare { .. }
                        | Rejection::OtherBranch
                        | Rejection::OtherTimeline { .. }
                        | Rejection::Lag { .. }
                )
            ),
            _ => true,
        };
        let ways = held(&self.draft, |keeper| reports.get(keeper).copied());
        let ways: Vec<Held> = ways.into_iter().filter(is_lasting).collect();
        ways.into_iter().for_each(|way| self.hold(Hold::WayOut(way)));
    }
}
