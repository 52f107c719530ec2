//! Which instances may take the place of the primary, and why the others may not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use stolon_model::{
    ClusterData, DEFAULT_PRIORITY, EffectiveSpec, Instance, InstanceUid, KeeperReport, KeeperUid,
    UsableCluster,
};

use super::Rejection;
use super::quorum::{rules, suffices};
use super::round::{Kind, Validity, validity};

/// Whether one instance may take the place of the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eligibility {
    /// Uid of the instance.
    pub instance: InstanceUid,
    /// Uid of its keeper.
    pub keeper: KeeperUid,
    /// Why it may not; `None`: it may.
    pub rejection: Option<Rejection>,
}

/// Which instances may take the place of the primary, as far as the cluster data and the reports tell: a sentinel knows in addition
/// which keepers have shown life, and when. Empty without a primary.
pub fn eligibility(cluster: &UsableCluster, reports: &BTreeMap<KeeperUid, KeeperReport>) -> Vec<Eligibility> {
    let data = cluster.data();
    let Some(primary) = data.primary() else { return Vec::new() };
    let too_few = Question::about(primary, data, cluster.spec()).too_few_to_compare();
    let mut judged = eligibility_to_relieve(cluster, reports);
    for instance in &mut judged {
        instance.rejection = instance.rejection.take().or_else(|| too_few.clone());
    }
    judged
}

/// Which instances may take the place of a primary that is stopped in order, and says where it ends.
pub(super) fn eligibility_to_relieve(
    cluster: &UsableCluster,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
) -> Vec<Eligibility> {
    let data = cluster.data();
    let Some(primary) = data.primary() else { return Vec::new() };
    let question = Question::about(primary, data, cluster.spec());
    let of_instance = |instance: &Instance| {
        let keeper = instance.spec.keeper_uid.clone();
        let report = reports.get(&keeper);
        let rejection = question
            .rejection(instance)
            .or_else(|| question.crashes(report))
            .or_else(|| disk_trouble(report));
        Eligibility { instance: instance.uid.clone(), keeper, rejection }
    };
    data.instances.values().filter(|instance| instance.uid != primary.uid).map(of_instance).collect()
}

/// The question which instances may take the place of one primary.
pub(super) struct Question<'a> {
    primary: &'a Instance,
    data: &'a ClusterData,
    spec: &'a EffectiveSpec,
    /// The standbys that hold every acknowledged commit.
    pub holders: BTreeSet<InstanceUid>,
}

impl<'a> Question<'a> {
    pub fn about(primary: &'a Instance, data: &'a ClusterData, spec: &'a EffectiveSpec) -> Self {
        let holders = match primary.quorum() {
            Some(_) if rules(primary).is_empty() => BTreeSet::new(),
            Some(asked) => asked.members().iter().cloned().collect(),
            None => synchronous_holders(primary),
        };
        Question { primary, data, spec, holders }
    }

    /// Where commits wait for a quorum, whether enough of its members work that who is furthest ahead of them holds everything.
    pub fn too_few_to_compare(&self) -> Option<Rejection> {
        self.primary.quorum()?;
        let works = |uid: &InstanceUid| {
            let instance = self.data.instances.get(uid)?;
            let keeper = self.data.keepers.get(&instance.spec.keeper_uid)?;
            let is_whole = validity(self.primary, instance) == Validity::Valid
                && instance.status.timeline == self.primary.status.timeline;
            (is_whole && keeper.status.healthy && instance.status.healthy).then_some(())
        };
        suffices(rules(self.primary), works).err()
    }

    /// Where a candidate stands among others, the best first: who is furthest ahead, among equals who is known to hold everything, and
    /// only then who is preferred by its priority.
    pub fn rank(&self, instance: &Instance) -> impl Ord + use<> {
        let status = &instance.status;
        let is_holder = self.holders.contains(&instance.uid);
        let priority = priority(self.data, instance);
        (Reverse((status.timeline, status.lsn)), !is_holder, Reverse(priority), instance.uid.clone())
    }

    /// Why an instance may not, by the document alone.
    pub fn rejection(&self, instance: &Instance) -> Option<Rejection> {
        if Kind::of(instance) == Kind::Unknown {
            return Some(Rejection::FollowsNothing);
        }
        let returns = self.may_return(instance);
        match validity(self.primary, instance) {
            Validity::Valid => {}
            Validity::OtherBranch if returns => {}
            Validity::Unknown => return Some(Rejection::NeverReported),
            Validity::OtherSystem => return Some(Rejection::OtherSystem),
            Validity::OtherBranch => return Some(Rejection::OtherBranch),
        }
        let keeper = self.data.keepers.get(&instance.spec.keeper_uid);
        if !keeper.is_some_and(|keeper| keeper.status.healthy) {
            return Some(Rejection::KeeperFailed);
        }
        let (generation, current) = (instance.generation, instance.status.current_generation);
        // One that is about to be compared has said where it ends once it has reached it.
        if generation != current && !instance.spec.stops_receiving {
            return Some(Rejection::NotConverged { generation, current });
        }
        if !instance.status.healthy {
            return Some(Rejection::Unhealthy);
        }
        let (own, primary) = (instance.status.timeline, self.primary.status.timeline);
        if own != primary && !returns {
            return Some(Rejection::OtherTimeline { own, primary });
        }
        if keeper.and_then(|keeper| keeper.status.can_be_primary) == Some(false) {
            return Some(Rejection::Forbidden);
        }
        if keeper.is_some_and(|keeper| keeper.status.priority() == 0) {
            return Some(Rejection::PriorityZero);
        }
        if self.primary.spec.synchronous_replication {
            return (!returns && !self.holders.contains(&instance.uid)).then_some(Rejection::NotSynchronous);
        }
        let (bytes, limit) =
            (self.primary.status.lsn.ahead_of(instance.status.lsn), self.spec.max_standby_lag);
        (bytes > i64::from(limit)).then_some(Rejection::Lag { bytes, limit })
    }

    /// Whether an instance may hold everything that the primary committed, whether or not it works at the moment.
    pub fn may_hold_everything(&self, instance: &Instance) -> bool {
        let is_complete = validity(self.primary, instance) == Validity::Valid;
        let is_synchronous = self.primary.spec.synchronous_replication;
        self.may_return(instance) || is_complete && (!is_synchronous || self.holders.contains(&instance.uid))
    }

    /// A deposed primary that its successor waits for, in synchronous mode. It has not followed the successor, since a former primary
    /// is only made a standby under another uid, so it has acknowledged nothing of it, and the successor has acknowledged
    /// nothing to any client: everything that was ever acknowledged is here.
    fn may_return(&self, instance: &Instance) -> bool {
        let waits_for =
            |uid: &InstanceUid| self.primary.spec.synchronous_standbys.iter().flatten().any(|it| it == uid);
        self.primary.spec.synchronous_replication
            && self.primary.spec.synchronous_quorum == 0
            && Kind::of(instance) == Kind::Head
            && instance.spec.follow_config.is_none()
            && waits_for(&instance.uid)
    }

    /// Whether a PostgreSQL ends so often that electing it would not help.
    pub fn crashes(&self, report: Option<&KeeperReport>) -> Option<Rejection> {
        let restarts = unexpected_restarts(report);
        (restarts > self.spec.max_restarts_per_minute).then_some(Rejection::KeepsCrashing { restarts })
    }
}

/// The standbys that hold every acknowledged commit: known to be in sync, and waited for ever since.
pub(super) fn synchronous_holders(primary: &Instance) -> BTreeSet<InstanceUid> {
    let known: BTreeSet<&InstanceUid> = primary.status.synchronous_standbys.iter().flatten().collect();
    primary.spec.synchronous_standbys.iter().flatten().filter(|uid| known.contains(uid)).cloned().collect()
}

/// The priority of an instance's keeper.
pub(super) fn priority(data: &ClusterData, instance: &Instance) -> u32 {
    let keeper = data.keepers.get(&instance.spec.keeper_uid);
    keeper.map_or(DEFAULT_PRIORITY, |keeper| keeper.status.priority())
}

/// A server whose disk is full cannot even write the end of its recovery, and one whose disk hangs never comes to it.
pub(super) fn disk_trouble(report: Option<&KeeperReport>) -> Option<Rejection> {
    let disk = report?.activity.as_ref()?.disk.as_ref()?;
    Some(Rejection::Disk { fault: disk.fault.clone()? })
}

/// How often PostgreSQL ended unexpectedly within the minute before the report.
pub(super) fn unexpected_restarts(report: Option<&KeeperReport>) -> u32 {
    report.and_then(|report| report.activity.as_ref()).map_or(0, |activity| activity.restarts)
}
