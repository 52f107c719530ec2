//! One round: what was seen, the draft of the next document, and what to remember. The steps of [`super::reconcile`] share it.
//!
//! Questions take `&self` and change nothing. A rule that would decide otherwise later returns when, as [`Wake`].

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_model::{
    FollowType, Instance, InstanceInitMode, InstanceUid, Keeper, KeeperUid, Phase, Role, Served,
};

use super::ahead::{ahead, known_epoch, next_epoch};
use super::draft::Draft;
use super::joined::joined;
use super::memory::{Convergence, Memory};
use super::seen::Seen;
use super::wake::{Limit, Wake};
use super::{BrokenDocument, Decision, Hold, Standing, UidSource, Weight};
use crate::timeline::is_different_branch;

/// Whether an instance does what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Converged,
    /// It still may, until then.
    Converging(Wake),
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

pub(super) struct Round<'a> {
    pub seen: &'a Seen<'a>,
    pub draft: Draft<'a>,
    pub memory: Memory,
    holds: Vec<Hold>,
}

impl<'a> Round<'a> {
    pub fn on(seen: &'a Seen<'a>, memory: Memory) -> Self {
        let draft = Draft::of(seen.document(), seen.now.wall);
        Round { seen, draft, memory, holds: Vec::new() }
    }

    /// Remember, but leave the document as it is.
    pub fn only_watched(mut self, wake: Wake) -> Decision {
        self.draft = Draft::of(self.seen.document(), self.seen.now.wall);
        self.decided(wake)
    }

    /// The decision, and when it would be another one.
    pub fn decided(mut self, wake: Wake) -> Decision {
        self.remember_convergence();
        let weight = self.draft.weight();
        if weight == Weight::Decisive {
            let (document, reports) = (self.seen.document(), self.seen.view.keepers);
            let known = known_epoch(document, self.memory.epoch, reports, self.last_words());
            self.draft.raise_epoch(next_epoch(document, known, self.seen.now.wall));
        }
        self.memory.epoch = self.memory.epoch.max(self.seen.document().cluster.epoch.unwrap_or(0));
        self.memory.led = self.seen.view.standing == Standing::Leader;
        let (next, changes) = self.draft.finished();
        let wake_at = self.seen.wake.or(wake).after(self.seen.now.monotonic);
        Decision { next, memory: self.memory, changes, holds: self.holds, weight, wake_at }
    }

    /// Whether the cluster data are older than what was seen or served before: then nothing is decided on them.
    pub fn store_went_back(&mut self) -> bool {
        let document = self.seen.document();
        let ahead = ahead(document, self.seen.view.keepers, self.last_words());
        if !ahead.is_empty() {
            self.hold(Hold::StoreWentBack { ahead });
            return true;
        }
        let before = self.memory.epoch;
        let older = document.cluster.epoch.filter(|epoch| *epoch < before);
        if let Some(epoch) = older {
            self.hold(Hold::DocumentWentBack { epoch, before });
        }
        older.is_some()
    }

    /// What keepers served under that do not report any more, as they said it last.
    fn last_words(&self) -> impl Iterator<Item = (&KeeperUid, &Served)> {
        let known = joined(&self.memory.keepers, self.seen.view.keepers);
        let silent = known.filter(|(_, _, report)| report.is_none());
        silent.filter_map(|(uid, sighting, _)| {
            Some((uid, sighting.report.as_ref()?.activity.as_ref()?.served.as_ref()?))
        })
    }

    pub fn hold(&mut self, hold: Hold) {
        self.holds.push(hold);
    }

    /// Whether the document turned out to be one that this version cannot work on.
    pub fn is_broken(&self) -> bool {
        self.holds.iter().any(|hold| matches!(hold, Hold::BrokenDocument { .. }))
    }

    /// What is to be done depends on how far the cluster is.
    pub fn follow_phase(&mut self, uids: &mut dyn UidSource) -> Wake {
        let wake = self.guide_proxies_of_migration();
        let phase = match self.draft.cluster.status.phase.clone() {
            Some(Phase::Initializing) => self.initialise(uids),
            Some(Phase::Normal) => self.keep_steady(uids),
            phase => {
                let phase = phase.map(|phase| phase.to_string()).unwrap_or_default();
                self.hold(Hold::BrokenDocument { what: BrokenDocument::Phase { phase } });
                Wake::NEVER
            }
        };
        wake.or(phase)
    }

    pub fn keeper_of(&self, instance: &Instance) -> Option<&Keeper> {
        self.draft.keepers.get(&instance.spec.keeper_uid)
    }

    pub fn keeper_is_healthy(&self, instance: &Instance) -> bool {
        self.keeper_of(instance).is_some_and(|keeper| keeper.status.healthy)
    }

    /// Commits should wait for standbys. A standby cluster never does that.
    pub fn wants_synchronous(&self) -> bool {
        self.seen.spec.synchronous_replication && self.seen.spec.role == Role::Primary
    }

    /// Whether an instance does what is asked of it within `timeout`; zero waits for ever.
    pub fn progress(&self, instance: &Instance, timeout: Duration) -> Progress {
        if instance.status.current_generation == instance.generation {
            return Progress::Converged;
        }
        if timeout.is_zero() {
            return Progress::Converging(Wake::NEVER);
        }
        let since = match self.memory.convergence.get(&instance.uid) {
            Some(entry) if entry.generation == instance.generation => entry.since,
            _ => self.seen.now.monotonic,
        };
        match self.seen.limit(since, timeout) {
            Limit::Over => Progress::Failed,
            limit => Progress::Converging(limit.wake()),
        }
    }

    /// The limit for a classification: a first copy may take as long as `syncTimeout` says, also when the specification
    /// changes while it is being made.
    pub fn convergence_limit(&self, instance: &Instance) -> Duration {
        match (instance.status.current_generation, &instance.spec.init_mode) {
            (0, Some(InstanceInitMode::Resync)) => self.seen.spec.sync_timeout,
            _ => self.seen.spec.convergence_timeout,
        }
    }

    /// Start the clock of every instance that has not reached its generation; forget the others.
    fn remember_convergence(&mut self) {
        let now = self.seen.now.monotonic;
        let before = std::mem::take(&mut self.memory.convergence);
        for instance in self.draft.instances.values() {
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
        let instances = &self.draft.instances;
        self.memory.trouble.retain(|uid, _| instances.contains_key(uid));
        self.memory.admissions.retain(|uid, _| instances.contains_key(uid));
        retain_those_in(&mut self.memory.stalls, instances);
        retain_those_in(&mut self.memory.marks, instances);
    }
}

/// Forget the entries of a map that holds one for nearly every instance.
fn retain_those_in<T>(map: &mut BTreeMap<InstanceUid, T>, instances: &BTreeMap<InstanceUid, Instance>) {
    let gone = joined(map.keys().map(|uid| (uid, ())), instances);
    let gone: Vec<InstanceUid> =
        gone.filter(|(_, (), instance)| instance.is_none()).map(|(uid, ..)| uid.clone()).collect();
    for uid in gone {
        map.remove(&uid);
    }
}

/// Whether an instance stands at the head of the cluster, or once stood there, or follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A primary, or the head of a standby cluster; also one that was that before.
    Head,
    /// A standby inside the cluster.
    Standby,
    /// The document tells neither.
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
