//! One round: the working state that the steps of [`super::reconcile`] share.

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_model::{
    ClusterData, EffectiveSpec, FollowType, InfoUid, Instance, InstanceInitMode, InstanceUid, Keeper,
    KeeperReport, KeeperUid, ProxyUid, Role, Served,
};

use super::ahead::{ahead, known_epoch, next_epoch};
use super::memory::{Convergence, Memory};
use super::{Change, Decision, Hold, Now, Standing, View, Weight};
use crate::timeline::is_different_branch;

/// A fresh report of a working instance, as of this round.
#[derive(Clone, Debug)]
pub(super) struct Working {
    pub info_uid: InfoUid,
    /// Standbys that PostgreSQL shows in sync.
    pub in_sync: Vec<InstanceUid>,
}

/// Whether an instance does what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Converged,
    Converging,
    Failed,
}

/// Whether an instance may serve beside the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    Unknown,
    OtherSystem,
    OtherBranch,
    Valid,
}

/// How an instance of known validity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Good,
    Converging,
    Failed,
}

pub(super) struct Round<'a> {
    pub view: &'a View<'a>,
    pub spec: EffectiveSpec,
    /// The moment that is judged: the view shows everything that was written before it.
    pub now: Now,
    /// When the view had been read: what it shows may be as new as this.
    pub arrived: Duration,
    pub is_first: bool,
    pub memory: Memory,
    pub data: ClusterData,
    /// Fresh reports by keeper.
    pub fresh: BTreeMap<KeeperUid, &'a KeeperReport>,
    /// Instances whose keeper has freshly reported that they work.
    pub working: BTreeMap<InstanceUid, Working>,
    /// Proxies that may be forwarding.
    pub active_proxies: Vec<ProxyUid>,
    pub changes: Vec<Change>,
    pub holds: Vec<Hold>,
    /// Moments at which the verdict could change by itself.
    pub deadlines: Vec<Duration>,
}

impl<'a> Round<'a> {
    pub fn begin(view: &'a View<'a>, memory: &Memory, now: Now) -> Self {
        let arrived = now.monotonic.max(view.read_at);
        let now = Now { monotonic: view.read_at, ..now };
        let cluster = &view.cluster.data().cluster;
        let same_cluster = memory.cluster_uid.as_ref() == Some(&cluster.uid);
        let spec = view.cluster.spec().clone();
        let takes_over = view.standing == Standing::Leader && !memory.led;
        let blindly = takes_over && memory.gap(now.monotonic, view.usual_delay, &spec).is_some();
        let mut memory = match (same_cluster, blindly) {
            (true, false) => memory.clone(),
            (true, true) => memory.after_blindness(),
            (false, _) => Memory::default(),
        };
        let is_first = memory.last_read.is_none();
        memory.cluster_uid = Some(cluster.uid.clone());
        memory.leave_out_gap(now.monotonic, view.usual_delay, &spec);
        memory.last_read = Some(now.monotonic);
        Round {
            view,
            spec,
            now,
            arrived,
            is_first,
            memory,
            data: view.cluster.data().clone(),
            fresh: BTreeMap::new(),
            working: BTreeMap::new(),
            active_proxies: Vec::new(),
            changes: Vec::new(),
            holds: Vec::new(),
            deadlines: Vec::new(),
        }
    }

    /// The first round only watches: what another leader stored may be minutes or days old.
    pub fn first(mut self) -> Decision {
        self.hold(Hold::FirstRound);
        self.pass_through()
    }

    /// Remember, but leave the document as it is.
    pub fn pass_through(mut self) -> Decision {
        self.data = self.before().clone();
        self.changes.clear();
        self.finish()
    }

    pub fn finish(mut self) -> Decision {
        self.remember_convergence();
        let weight = match super::stamp::without_routine(&self.data, self.before()) == *self.before() {
            true => Weight::Routine,
            false => Weight::Decisive,
        };
        if weight == Weight::Decisive {
            let known = known_epoch(self.before(), self.memory.epoch, self.view.keepers, self.last_words());
            self.data.cluster.epoch = Some(next_epoch(self.before(), known, self.now.wall));
        }
        self.memory.epoch = self.memory.epoch.max(self.before().cluster.epoch.unwrap_or(0));
        self.stamp();
        debug_assert!(
            super::check::no_new_violations(self.before(), &self.data),
            "a decision must not break a rule: {:?}",
            super::violations(&self.data)
        );
        let now = self.now.monotonic;
        let wake_at = self.deadlines.iter().copied().filter(|deadline| *deadline > now).min();
        self.memory.led = self.view.standing == Standing::Leader;
        Decision {
            next: self.data,
            memory: self.memory,
            changes: self.changes,
            holds: self.holds,
            weight,
            wake_at,
        }
    }

    /// The document as it was read.
    pub fn before(&self) -> &'a ClusterData {
        self.view.cluster.data()
    }

    /// Whether the cluster data are older than what was seen or served before: then nothing is decided on them.
    pub fn store_went_back(&mut self) -> bool {
        let ahead = ahead(self.before(), self.view.keepers, self.last_words());
        if !ahead.is_empty() {
            self.hold(Hold::StoreWentBack { ahead });
            return true;
        }
        let before = self.memory.epoch;
        let older = self.before().cluster.epoch.filter(|epoch| *epoch < before);
        if let Some(epoch) = older {
            self.hold(Hold::DocumentWentBack { epoch, before });
        }
        older.is_some()
    }

    /// What keepers served under that do not report any more, as they said it last.
    fn last_words(&self) -> impl Iterator<Item = (&KeeperUid, &Served)> {
        let silent = self.memory.keepers.iter().filter(|(uid, _)| !self.view.keepers.contains_key(*uid));
        silent.filter_map(|(uid, sighting)| {
            Some((uid, sighting.report.as_ref()?.activity.as_ref()?.served.as_ref()?))
        })
    }

    pub fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    pub fn hold(&mut self, hold: Hold) {
        self.holds.push(hold);
    }

    /// True when more than `limit` has passed since `since`; otherwise remembers when it will have.
    pub fn is_over(&mut self, since: Duration, limit: Duration) -> bool {
        let end = since.saturating_add(limit);
        if self.now.monotonic > end {
            return true;
        }
        self.deadlines.push(end + Duration::from_millis(1));
        false
    }

    pub fn elapsed(&self, since: Duration) -> Duration {
        self.now.monotonic.saturating_sub(since)
    }

    pub fn keeper_of(&self, instance: &Instance) -> Option<&Keeper> {
        self.data.keepers.get(&instance.spec.keeper_uid)
    }

    pub fn keeper_is_healthy(&self, instance: &Instance) -> bool {
        self.keeper_of(instance).is_some_and(|keeper| keeper.status.healthy)
    }

    /// Commits should wait for standbys. A standby cluster never does that.
    pub fn wants_synchronous(&self) -> bool {
        self.spec.synchronous_replication && self.spec.role == Role::Primary
    }

    /// Whether an instance does what is asked of it within `timeout`; zero waits for ever.
    pub fn progress(&mut self, instance: &Instance, timeout: Duration) -> Progress {
        if instance.status.current_generation == instance.generation {
            return Progress::Converged;
        }
        let since = match self.memory.convergence.get(&instance.uid) {
            Some(entry) if entry.generation == instance.generation => entry.since,
            _ => self.now.monotonic,
        };
        if !timeout.is_zero() && self.is_over(since, timeout) {
            Progress::Failed
        } else {
            Progress::Converging
        }
    }

    /// The limit for a classification: a first copy may take as long as `syncTimeout` says, also when the specification
    /// changes while it is being made.
    pub fn convergence_limit(&self, instance: &Instance) -> Duration {
        match (instance.status.current_generation, &instance.spec.init_mode) {
            (0, Some(InstanceInitMode::Resync)) => self.spec.sync_timeout,
            _ => self.spec.convergence_timeout,
        }
    }

    pub fn condition(&mut self, instance: &Instance) -> Condition {
        if !self.keeper_is_healthy(instance) {
            return Condition::Failed;
        }
        match self.progress(instance, self.convergence_limit(instance)) {
            Progress::Failed => Condition::Failed,
            Progress::Converging => Condition::Converging,
            Progress::Converged if instance.status.healthy => Condition::Good,
            Progress::Converged => Condition::Failed,
        }
    }

    /// Uids of the instances of a kind that are valid beside `primary` and in a condition.
    pub fn instances_in(&mut self, primary: &Instance, kind: Kind, condition: Condition) -> Vec<InstanceUid> {
        let instances: Vec<Instance> = self.data.instances.values().cloned().collect();
        instances
            .iter()
            .filter(|instance| Kind::of(instance) == kind)
            .filter(|instance| validity(primary, instance) == Validity::Valid)
            .filter(|instance| self.condition(instance) == condition)
            .map(|instance| instance.uid.clone())
            .collect()
    }

    /// Start the clock of every instance that has not reached its generation; forget the others.
    fn remember_convergence(&mut self) {
        let now = self.now.monotonic;
        let before = std::mem::take(&mut self.memory.convergence);
        for instance in self.data.instances.values() {
            if instance.status.current_generation == instance.generation {
                continue;
            }
            let since = match before.get(&instance.uid) {
                Some(entry) if entry.generation == instance.generation => entry.since,
                _ => now,
            };
            let generation = instance.generation;
            self.memory.convergence.insert(instance.uid.clone(), Convergence { generation, since });
        }
        let instances = &self.data.instances;
        self.memory.trouble.retain(|uid, _| instances.contains_key(uid));
        self.memory.stalls.retain(|uid, _| instances.contains_key(uid));
        self.memory.admissions.retain(|uid, _| instances.contains_key(uid));
        self.memory.marks.retain(|uid, _| instances.contains_key(uid));
    }
}

/// Whether an instance stands at the head of the cluster, or once stood there, or follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A primary, or the head of a standby cluster; also one that was that before.
    Head,
    /// A standby inside the cluster.
    Standby,
    /// Neither can be told from the document.
    Unknown,
}

impl Kind {
    pub fn of(instance: &Instance) -> Kind {
        let follows = instance.spec.follow_config.as_ref().and_then(|follow| follow.follow_type.as_ref());
        match (&instance.spec.role, follows) {
            (Some(Role::Primary), _) | (Some(Role::Standby), Some(FollowType::External)) => Kind::Head,
            (Some(Role::Standby), Some(FollowType::Internal)) => Kind::Standby,
            _ => Kind::Unknown,
        }
    }
}

/// Whether an instance has the primary's data.
pub(super) fn validity(primary: &Instance, instance: &Instance) -> Validity {
    let (own, reference) = (&instance.status, &primary.status);
    if own.current_generation == 0 {
        Validity::Unknown
    } else if !own.system_identifier.is_empty() && own.system_identifier != reference.system_identifier {
        Validity::OtherSystem
    } else if is_different_branch(reference.into(), own.into()) {
        Validity::OtherBranch
    } else {
        Validity::Valid
    }
}
