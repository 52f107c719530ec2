//! Former primaries whose successor is lost: as long as their data are there and nobody else can have acknowledged a commit since, they come
//! back by themselves (docs: design/013-recover.md).

use std::collections::{BTreeMap, BTreeSet};

use stolon_model::{
    FAKE_STANDBY, FormerPrimary, Instance, InstanceUid, Keeper, KeeperReport, KeeperUid, Lsn, Role,
};

use super::PrimaryFault;
use super::draft::Holding;
use super::eligibility::{disk_trouble, unexpected_restarts};
use super::memory::Life;
use super::round::{Kind, Round};

/// A former primary that may come back, and the highest generation that its keeper knows of it.
pub(super) struct Returning {
    pub former: FormerPrimary,
    pub served: i64,
}

impl Round<'_> {
    /// Remember a primary that is replaced. One that was set back with its host has lost what it acknowledged.
    pub fn remember_former(&mut self, old: &Instance, successor: &InstanceUid, because: &PrimaryFault) {
        let was_set_back = matches!(because, PrimaryFault::WentBack { .. }) || self.went_back(old).is_some();
        let holding = if was_set_back { Holding::LessThanItHad } else { Holding::Everything };
        self.draft.remember_former(old, successor, holding);
    }

    /// The former primary that comes back in the place of `primary`, for which there is no other successor; the last one first.
    pub fn returning(&self, primary: &Instance) -> Option<Returning> {
        let formers = self.draft.cluster.status.formers.iter().flatten().rev();
        let mut complete = formers.filter(|former| former.complete && former.instance != primary.uid);
        complete.find_map(|former| self.can_return(former))
    }

    fn can_return(&self, former: &FormerPrimary) -> Option<Returning> {
        let keeper = self.draft.keepers.get(&former.keeper)?;
        let is_alive = self.memory.keepers.get(&former.keeper).is_some_and(|it| it.life == Life::Proven);
        let report = self.seen.fresh.get(&former.keeper).copied()?;
        let served = generation_held(former, report)?;
        // One that is still in the document runs, behind its gate; what was taken out of it is stopped.
        let instance = self.draft.instances.get(&former.instance);
        let works =
            instance.is_none_or(|it| it.status.healthy && self.seen.working.contains_key(&former.instance));
        let is_fit = keeper.status.healthy
            && works
            && is_alive
            && keeper.status.may_be_primary()
            && disk_trouble(Some(report)).is_none()
            && unexpected_restarts(Some(report)) <= self.seen.spec.max_restarts_per_minute;
        is_fit.then(|| Returning { former: former.clone(), served })
    }

    /// Keep what the document remembers of former primaries true: the last step of a round, after everything that may let somebody
    /// acknowledge a commit.
    pub fn keep_formers(&mut self) {
        if self.draft.cluster.status.formers.is_none() {
            return;
        }
        let is_known = |primary| self.may_acknowledge(primary) || self.may_have_shown(primary);
        if self.draft.primary().is_none_or(is_known) {
            self.draft.void_formers();
        }
        self.name_given_up();
        let elected = self.draft.cluster.status.primary.clone();
        let fresh = &self.seen.fresh;
        let keepers = self.draft.cluster.status.formers.iter().flatten().map(|former| former.keeper.clone());
        let registered: BTreeSet<KeeperUid> =
            keepers.filter(|keeper| self.draft.keepers.contains_key(keeper)).collect();
        self.draft.retain_formers(|former| {
            let is_there = fresh.get(&former.keeper).is_none_or(|report| may_hold(former, report));
            is_there && registered.contains(&former.keeper) && elected.as_ref() != Some(&former.instance)
        });
    }

    /// Whether a primary may have shown commits that nobody acknowledged: one that was started again shows those that waited when it ended
    /// (PostgreSQL manual, "Synchronous Replication"), and a reader counts on what it saw. Its keeper tells how often it ended, and not
    /// what was before the keeper began.
    fn may_have_shown(&self, primary: &Instance) -> bool {
        let keeper = &primary.spec.keeper_uid;
        let boot = |keepers: &BTreeMap<KeeperUid, Keeper>| {
            keepers.get(keeper).map(|keeper| keeper.status.boot_uuid.clone())
        };
        let is_anew = boot(&self.seen.document().keepers) != boot(&self.draft.keepers);
        is_anew || unexpected_restarts(self.seen.fresh.get(keeper).copied()) > 0
    }

    /// A former primary is back whose last writes an operator has given up: they are named, since nobody will see them again.
    fn name_given_up(&mut self) {
        let given_up =
            self.draft.cluster.status.formers.iter().flatten().filter(|it| it.given_up_from.is_some());
        let named = given_up.filter_map(|former| {
            let report = self.seen.fresh.get(&former.keeper)?;
            let state = report.postgres_state.as_ref().filter(|state| state.uid == former.instance)?;
            let served = report.activity.as_ref().and_then(|activity| activity.served.as_ref());
            let served = served.filter(|it| it.instance == former.instance && it.timeline == former.timeline);
            let to = served.map_or(Lsn(0), |served| served.lsn).max(state.lsn).max(former.lsn);
            Some((former.keeper.clone(), to))
        });
        for (keeper, to) in named.collect::<Vec<_>>() {
            self.draft.name_given_up(&keeper, to);
        }
    }

    /// Whether an instance was a primary before.
    pub fn is_head(&self, uid: &InstanceUid) -> bool {
        self.draft.instances.get(uid).is_some_and(|instance| Kind::of(instance) == Kind::Head)
    }

    /// Whether a primary may tell a client that it has committed, by the document. Commits wait for every name on the list: none is
    /// acknowledged while one of them is nobody's, or is that of a former primary, which follows nobody. The head of a standby
    /// cluster takes no writes.
    fn may_acknowledge(&self, primary: &Instance) -> bool {
        let spec = &primary.spec;
        if spec.role == Some(Role::Standby) {
            return false;
        }
        let is_blocked = spec.external_synchronous_standbys.iter().flatten().any(|name| name == FAKE_STANDBY);
        let follows_nobody = |uid| {
            let instance = self.draft.instances.get(uid);
            instance.is_some_and(|it| Kind::of(it) == Kind::Head && it.spec.follow_config.is_none())
        };
        let waits_in_vain = spec.synchronous_standbys.iter().flatten().any(follows_nobody);
        let waits_for_all = spec.synchronous_quorum == 0;
        !(spec.synchronous_replication && (is_blocked || waits_in_vain && waits_for_all))
    }
}

/// The highest generation that a keeper knows of a former primary whose data it reports to hold; none if it holds others, or none.
fn generation_held(former: &FormerPrimary, report: &KeeperReport) -> Option<i64> {
    let state = report.postgres_state.as_ref().filter(|state| state.uid == former.instance)?;
    let served = report.activity.as_ref().and_then(|activity| activity.served.as_ref());
    let served = served.filter(|served| served.instance == former.instance);
    // A host that was set back to before that timeline has lost what was acknowledged on it.
    let is_older = served.is_some_and(|served| served.timeline < former.timeline);
    (!is_older && state.generation != 0)
        .then(|| served.map_or(0, |served| served.generation).max(state.generation))
}

/// Whether a keeper may still hold a former primary, by its report. One that has not looked yet says nothing, and a disk that is not
/// mounted yet may come back.
fn may_hold(former: &FormerPrimary, report: &KeeperReport) -> bool {
    let held = report.postgres_state.as_ref().map(|state| &state.uid);
    held.is_none_or(|held| held.is_empty() || *held == former.instance)
}
