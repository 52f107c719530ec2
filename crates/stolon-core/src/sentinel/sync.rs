//! Which standbys must acknowledge commits.
//!
//! Three lists meet here. `S`, in the primary's specification: those it waits for. `T`, in its status: those known to hold every
//! acknowledged commit. `R`, in its last report: those that PostgreSQL shows in sync. `S` changes only while `T` equals it (or is
//! rolled back to it), and a member leaves only when it is not needed any more: so at any time every member of both
//! `T` and `S` holds every acknowledged commit, and only those can be elected.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use stolon_model::{EffectiveSpec, Instance, InstanceUid, StandbyPace};

use super::Hold;
use super::draft::Commits;
use super::joined::joined;
use super::memory::Admission;
use super::round::Round;

/// The set of standbys to wait for next, and what bounds it.
pub(super) struct Limits {
    pub minimum: usize,
    maximum: usize,
    /// PostgreSQL can wait for several standbys (9.6 and later).
    several: bool,
}

impl Limits {
    /// Where any so many are waited for: fewer than these do not acknowledge, unless the primary may go on alone. Old members need not stay until
    /// new ones hold everything, since the rules of both are kept.
    pub fn of_quorum(spec: &EffectiveSpec, required: u16) -> Self {
        let minimum = match spec.min_synchronous_standbys {
            0 => 0,
            least => least.max(required),
        };
        Limits { minimum: minimum.into(), maximum: spec.max_synchronous_standbys.into(), several: false }
    }
}

impl Round<'_> {
    /// Choose whom the primary waits for. `good` are the standbys that work.
    pub fn choose_synchronous_standbys(&mut self, primary: &Instance, good: &BTreeSet<InstanceUid>) {
        if self.choose_quorum(primary, good).is_some() {
            return;
        }
        let without_quorum;
        let primary = match primary.spec.synchronous_quorum {
            0 => primary,
            _ => {
                self.draft.leave_quorum(&primary.uid);
                let Some(left) = self.draft.instances.get(&primary.uid) else { return };
                without_quorum = left.clone();
                &without_quorum
            }
        };
        let listed: BTreeSet<InstanceUid> =
            primary.spec.synchronous_standbys.iter().flatten().cloned().collect();
        // Who was set back with its host has lost what it acknowledged, and is admitted anew.
        let has_all = |uid: &&InstanceUid| {
            self.draft.instances.get(*uid).is_none_or(|instance| self.went_back(instance).is_none())
        };
        let known: BTreeSet<InstanceUid> =
            primary.status.synchronous_standbys.iter().flatten().filter(has_all).cloned().collect();
        let (listed, known) = self.settle(primary, listed, known, good);
        // A standby that is listed again later has missed what was acknowledged in between, so it begins anew.
        self.memory.admissions.retain(|uid, _| listed.contains(uid) && !known.contains(uid));
        if listed != known {
            let standbys = listed.difference(&known).cloned().collect();
            self.hold(Hold::AwaitingSync { primary: primary.uid.clone(), standbys });
            return self.draft.set_synchronous_standbys(&primary.uid, &listed, &known, Commits::Unchanged);
        }
        let limits = self.limits(primary);
        let able = self.able(primary, &listed, good, &limits);
        let next = self.next_set(primary, &listed, &able, &limits);
        let known = known.intersection(&next).cloned().collect();
        let commits = match next.len() < limits.minimum {
            true => Commits::Blocked { minimum: self.seen.spec.min_synchronous_standbys },
            false => Commits::Free,
        };
        self.draft.set_synchronous_standbys(&primary.uid, &next, &known, commits);
    }

    /// Bring `T` up to date with what was reported; give up newcomers that will not come.
    fn settle(
        &mut self,
        primary: &Instance,
        listed: BTreeSet<InstanceUid>,
        known: BTreeSet<InstanceUid>,
        good: &BTreeSet<InstanceUid>,
    ) -> (BTreeSet<InstanceUid>, BTreeSet<InstanceUid>) {
        if listed == known {
            return (listed, known);
        }
        let mut known: BTreeSet<InstanceUid> = known.intersection(&listed).cloned().collect();
        let pending: Vec<InstanceUid> = listed.difference(&known).cloned().collect();
        for standby in pending {
            if self.holds_every_commit(primary, &standby) {
                self.memory.admissions.remove(&standby);
                self.draft.note_in_sync(&standby);
                known.insert(standby);
            }
        }
        // Commits wait for newcomers, too: one that does not keep up is let go where others make the minimum.
        let enough = known.intersection(good).count() >= self.limits(primary).minimum.max(1);
        // Nobody is waited for who is still to come to the primary's timeline while another one is there already.
        let others = self.admissible(primary, good).any(|instance| !listed.contains(&instance.uid));
        let hopeless = |uid: &&InstanceUid| {
            !good.contains(*uid)
                || others && !self.is_on_timeline_of(primary, uid)
                || enough && self.pace_of(primary, uid) == Some(&StandbyPace::Stalled)
        };
        let listed = match listed.difference(&known).any(|uid| hopeless(&uid)) {
            true => known.clone(),
            false => listed,
        };
        (listed, known)
    }

    /// True once a listed standby has everything that was acknowledged before the primary waited for it.
    ///
    /// PostgreSQL shows a standby in sync as soon as it streams, however much it still has to write. So the standby must
    /// reach the position that the primary had in the second report in which it certainly waited for it.
    fn holds_every_commit(&mut self, primary: &Instance, standby: &InstanceUid) -> bool {
        let Some(working) = self.seen.working.get(&primary.uid).copied() else { return false };
        let waits =
            primary.status.current_generation == primary.generation && working.in_sync.contains(standby);
        if !waits {
            self.memory.admissions.remove(standby);
            return false;
        }
        let admission =
            self.memory.admissions.get(standby).filter(|admission| admission.primary() == &primary.uid);
        let awaited = Admission::Awaited { primary: primary.uid.clone(), info_uid: working.info_uid.clone() };
        let gate = match admission {
            None => {
                self.memory.admissions.insert(standby.clone(), awaited);
                return false;
            }
            Some(Admission::Awaited { info_uid, .. }) if info_uid == working.info_uid => return false,
            Some(Admission::Awaited { .. }) => {
                let lsn = primary.status.lsn;
                let gate = Admission::Gate { primary: primary.uid.clone(), lsn };
                self.memory.admissions.insert(standby.clone(), gate);
                lsn
            }
            Some(Admission::Gate { lsn, .. }) => *lsn,
        };
        let reports = self.seen.working.contains_key(standby);
        reports && self.draft.instances.get(standby).is_some_and(|instance| instance.status.lsn >= gate)
    }

    fn limits(&self, primary: &Instance) -> Limits {
        let version = self.keeper_of(primary).map(|keeper| keeper.status.postgres_binary_version.clone());
        match version {
            Some(version) if version.major == 9 && version.minor <= 5 => {
                Limits { minimum: 1, maximum: 1, several: false }
            }
            _ => Limits {
                minimum: self.seen.spec.min_synchronous_standbys.into(),
                maximum: self.seen.spec.max_synchronous_standbys.into(),
                several: true,
            },
        }
    }

    /// How a standby keeps up by the last report of its primary, if that tells.
    fn pace_of(&self, primary: &Instance, standby: &InstanceUid) -> Option<&StandbyPace> {
        self.seen.working.get(&primary.uid)?.standby_pace?.get(standby)
    }

    /// Those who work and keep up. A standby that is frozen, or cut off from the primary alone, may work by all that its keeper says;
    /// one that was just made may be hours behind. Whoever has confirmed nothing for seconds leaves as long as others make the minimum, and is
    /// not taken. Nobody leaves whom nobody can replace: that commits wait is what the operator asked for then.
    pub(super) fn able(
        &mut self,
        primary: &Instance,
        previous: &BTreeSet<InstanceUid>,
        good: &BTreeSet<InstanceUid>,
        limits: &Limits,
    ) -> BTreeSet<InstanceUid> {
        let pace = |uid: &InstanceUid| self.pace_of(primary, uid);
        let is_stalled = |uid: &&InstanceUid| pace(uid) == Some(&StandbyPace::Stalled);
        let stalled: Vec<InstanceUid> = previous.intersection(good).filter(is_stalled).cloned().collect();
        // Where somebody is to be replaced, only one who certainly keeps up can do that.
        let is_able = |uid: &&InstanceUid| match pace(uid) {
            Some(StandbyPace::Stalled) => false,
            Some(StandbyPace::InStep) => true,
            Some(StandbyPace::Behind | StandbyPace::Unknown(_)) | None => {
                stalled.is_empty() || previous.contains(*uid)
            }
        };
        let able: BTreeSet<InstanceUid> = good.iter().filter(is_able).cloned().collect();
        let members = able.intersection(previous);
        let newcomers = self.admissible(primary, &able).map(|instance| &instance.uid);
        let candidates: BTreeSet<&InstanceUid> = members.chain(newcomers).collect();
        if candidates.len() >= limits.minimum.max(1) {
            return able;
        }
        if !stalled.is_empty() {
            self.hold(Hold::CommitsWait { primary: primary.uid.clone(), standbys: stalled });
        }
        good.clone()
    }

    pub(super) fn next_set(
        &self,
        primary: &Instance,
        previous: &BTreeSet<InstanceUid>,
        good: &BTreeSet<InstanceUid>,
        limits: &Limits,
    ) -> BTreeSet<InstanceUid> {
        let exists = |uid: &&InstanceUid| self.draft.instances.contains_key(*uid);
        let lsn = |uid: &InstanceUid| self.draft.instances.get(uid).map(|instance| instance.status.lsn);
        let mut kept: Vec<&InstanceUid> =
            previous.iter().filter(exists).filter(|uid| good.contains(*uid)).collect();
        // Those in another zone first, of these the one that is furthest ahead.
        kept.sort_by_cached_key(|uid| {
            (!self.stands_elsewhere(primary, uid), Reverse(lsn(uid)), (*uid).clone())
        });
        kept.truncate(limits.maximum);
        let mut next: BTreeSet<InstanceUid> = kept.iter().copied().cloned().collect();
        let newcomers = self.newcomers(primary, good);
        if limits.several
            && kept.len() == limits.maximum
            && let Some((leaves, comes)) = self.exchange_for_zone(primary, &kept, previous, &newcomers)
        {
            next.remove(&leaves);
            next.insert(comes);
        }
        for newcomer in newcomers {
            if next.len() < limits.maximum {
                next.insert(newcomer);
            }
        }
        // Standbys that do not work may come back: waiting for them is better than waiting for none.
        for uid in previous.iter().filter(exists) {
            if next.len() < limits.minimum {
                next.insert(uid.clone());
            }
        }
        // Commits would block anyway. Whoever has yet to come to the primary's timeline lets them go on as soon as it streams; otherwise that
        // had to be reported first, and the primary told.
        if next.len() < limits.minimum {
            let mut to_come: Vec<&Instance> =
                self.fit(good).filter(|instance| !next.contains(&instance.uid)).collect();
            to_come.sort_by_cached_key(|instance| (Reverse(instance.status.lsn), instance.uid.clone()));
            to_come.truncate(limits.minimum - next.len());
            next.extend(to_come.into_iter().map(|instance| instance.uid.clone()));
        }
        // In two steps: the old members stay until the new ones hold everything.
        if limits.several && !next.is_subset(previous) {
            next.extend(previous.iter().filter(exists).cloned());
        }
        next
    }

    /// A zone that is lost takes all with it that stand in it: one of those that commits wait for is to stand elsewhere than the primary. Where
    /// none does, the last of `kept` makes room for one that does, and that certainly keeps up.
    fn exchange_for_zone(
        &self,
        primary: &Instance,
        kept: &[&InstanceUid],
        previous: &BTreeSet<InstanceUid>,
        newcomers: &[InstanceUid],
    ) -> Option<(InstanceUid, InstanceUid)> {
        if kept.iter().any(|uid| self.stands_elsewhere(primary, uid)) {
            return None;
        }
        let comes = newcomers.iter().find(|uid| {
            !previous.contains(uid)
                && self.stands_elsewhere(primary, uid)
                && self.pace_of(primary, uid) == Some(&StandbyPace::InStep)
        })?;
        Some(((*kept.last()?).clone(), comes.clone()))
    }

    /// Whether an instance stands in another zone than the primary, by what both keepers say.
    fn stands_elsewhere(&self, primary: &Instance, uid: &InstanceUid) -> bool {
        // Where the primary's keeper names no zone, nobody else is looked up.
        let Some(own) = self.keeper_of(primary).filter(|own| !own.status.zone.is_empty()) else {
            return false;
        };
        let keeper = self.draft.instances.get(uid).and_then(|instance| self.keeper_of(instance));
        keeper.is_some_and(|other| own.status.stands_elsewhere_than(&other.status))
    }

    /// Who may be waited for at all, of these.
    fn fit<'a>(&'a self, good: &'a BTreeSet<InstanceUid>) -> impl Iterator<Item = &'a Instance> {
        let instances = joined(good.iter().map(|uid| (uid, ())), &self.draft.instances);
        instances.filter_map(|(_, (), instance)| instance).filter(|instance| {
            self.keeper_of(instance).and_then(|keeper| keeper.status.can_be_synchronous_replica)
                != Some(false)
        })
    }

    /// Who could be waited for, of these.
    fn admissible<'a>(
        &'a self,
        primary: &'a Instance,
        good: &'a BTreeSet<InstanceUid>,
    ) -> impl Iterator<Item = &'a Instance> {
        self.fit(good).filter(|instance| instance.status.timeline == primary.status.timeline)
    }

    fn is_on_timeline_of(&self, primary: &Instance, uid: &InstanceUid) -> bool {
        let instance = self.draft.instances.get(uid);
        instance.is_some_and(|instance| instance.status.timeline == primary.status.timeline)
    }

    /// Who could be waited for: those in another zone that keep up, then the one that is furthest ahead.
    fn newcomers(&self, primary: &Instance, good: &BTreeSet<InstanceUid>) -> Vec<InstanceUid> {
        let mut newcomers: Vec<&Instance> = self.admissible(primary, good).collect();
        let is_preferred = |uid: &InstanceUid| {
            let lags = matches!(self.pace_of(primary, uid), Some(StandbyPace::Behind | StandbyPace::Stalled));
            self.stands_elsewhere(primary, uid) && !lags
        };
        newcomers.sort_by_cached_key(|instance| {
            (!is_preferred(&instance.uid), Reverse(instance.status.lsn), instance.uid.clone())
        });
        newcomers.into_iter().map(|instance| instance.uid.clone()).collect()
    }

    /// Commits wait for no standby.
    pub fn leave_synchronous_mode(&mut self, primary: &InstanceUid) {
        self.memory.admissions.clear();
        self.draft.leave_synchronous_mode(primary);
    }
}
