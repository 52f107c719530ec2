//! Commits that wait for any so many of the synchronous standbys (docs/design/016-quorum.md).
//!
//! No member is known to hold everything. What is known is by which rules a commit may have been acknowledged: among `n - k + 1` members of
//! `k of n` there is one that has acknowledged it, whichever those were. So that many of each rule are compared, after nothing can come to
//! them any more, and who is furthest ahead holds everything.

use std::collections::{BTreeMap, BTreeSet};

use stolon_model::{Instance, InstanceUid, KeeperReport, Quorum, QuorumReport};

use super::draft::Commits;
use super::eligibility::synchronous_holders;
use super::followers::follows;
use super::round::{Round, Validity, validity};
use super::sync::Limits;
use super::{Hold, Rejection};
use crate::timeline::Mark;

/// So many rules may be in force at a time. A change waits while there are as many: what is asked for has to show who holds what.
const RULES: usize = 4;

/// The rules by which a commit of a primary may have been acknowledged, where any so many are waited for. Empty: nobody knows.
pub(super) fn rules(primary: &Instance) -> &[Quorum] {
    primary.status.quorums.as_deref().unwrap_or_default()
}

/// Whether enough members of each rule are among these.
pub(super) fn suffices(
    rules: &[Quorum],
    is_among: impl Fn(&InstanceUid) -> Option<()>,
) -> Result<(), Rejection> {
    let short = rules.iter().find_map(|rule| {
        let found = rule.members().iter().filter(|uid| is_among(uid).is_some()).count();
        (found < rule.to_compare()).then(|| Rejection::TooFewToCompare { found, needed: rule.to_compare() })
    });
    match short {
        _ if rules.is_empty() => Err(Rejection::NotSynchronous),
        Some(short) => Err(short),
        None => Ok(()),
    }
}

/// Who holds every acknowledged commit, where no standby alone is known to.
pub(super) enum Comparison {
    /// Each standby that is in sync does.
    NotNeeded,
    /// These do.
    Final(BTreeSet<InstanceUid>),
    /// That is known once these receive nothing any more.
    Awaited(BTreeSet<InstanceUid>),
    /// Too few can be compared.
    Short(Rejection),
}

impl Round<'_> {
    /// Have commits wait for any so many of the standbys, where that is wanted and possible. None: it is not.
    pub fn choose_quorum(&mut self, primary: &Instance, good: &BTreeSet<InstanceUid>) -> Option<()> {
        let required = self.seen.spec.synchronous_quorum.filter(|_| self.knows_quorums(primary))?;
        let asked = primary.quorum();
        let listed: BTreeSet<InstanceUid> =
            primary.spec.synchronous_standbys.iter().flatten().cloned().collect();
        let good: BTreeSet<InstanceUid> =
            good.iter().filter(|uid| self.can_be_compared(uid)).cloned().collect();
        let limits = Limits::of_quorum(self.seen.spec, required);
        let able = self.able(primary, &listed, &good, &limits);
        let next = self.next_set(primary, &listed, &able, &limits);
        // One that waits for its predecessor in its place goes on doing so: as long as it does, the predecessor may come back.
        let is_late = asked.is_none() && !next.is_subset(&good);
        if next.is_empty() || is_late {
            return None;
        }
        let commits = match next.len() < limits.minimum {
            true => Commits::Blocked { minimum: u16::try_from(limits.minimum).unwrap_or(u16::MAX) },
            false => Commits::Free,
        };
        let members = u16::try_from(next.len()).unwrap_or(u16::MAX);
        let required = match commits {
            // All of them, and one that nobody has.
            Commits::Blocked { .. } => members.saturating_add(1),
            _ => required.min(members),
        };
        self.memory.admissions.clear();
        self.ask_for_quorum(primary, asked, Quorum::of(required, next), commits);
        Some(())
    }

    fn ask_for_quorum(&mut self, primary: &Instance, asked: Option<Quorum>, next: Quorum, commits: Commits) {
        let mut rules = match &asked {
            Some(asked) if self.is_in_force(primary, asked) => vec![asked.clone()],
            Some(_) => rules(primary).to_vec(),
            None => self.rule_of_all(primary),
        };
        let next = match asked {
            Some(asked) if rules.len() >= RULES && !rules.contains(&next) => asked,
            _ => next,
        };
        // Where nobody knows who holds what, that is known once the primary has shown it.
        if !rules.is_empty() && !rules.contains(&next) {
            rules.push(next.clone());
        }
        if rules != [next.clone()] {
            self.hold(Hold::AwaitingQuorum { primary: primary.uid.clone(), quorum: next.clone() });
        }
        self.draft.set_quorum(&primary.uid, &next, rules, commits);
    }

    /// Where all are waited for, each of those that are in sync holds everything.
    fn rule_of_all(&self, primary: &Instance) -> Vec<Quorum> {
        let mut holders = synchronous_holders(primary);
        holders.retain(|uid| {
            self.draft.instances.get(uid).is_some_and(|instance| self.went_back(instance).is_none())
        });
        let required = u16::try_from(holders.len()).unwrap_or(u16::MAX);
        if holders.is_empty() { Vec::new() } else { vec![Quorum::of(required, holders)] }
    }

    /// Whether a primary that works says that everything that it ever acknowledged is on as many members of this quorum as it asks for.
    fn is_in_force(&self, primary: &Instance, asked: &Quorum) -> bool {
        let says = QuorumReport { generation: primary.generation, quorum: asked.clone() };
        let report =
            self.seen.in_charge.get(&primary.uid).filter(|_| self.seen.working.contains_key(&primary.uid));
        let told = report.and_then(|report| report.activity.as_ref()?.quorum.as_ref());
        primary.status.current_generation == primary.generation && told == Some(&says)
    }

    /// Whether its keeper can wait for a quorum, and have a standby receive nothing. Keepers of Stolon can neither.
    fn knows_quorums(&self, instance: &Instance) -> bool {
        let report = self.last_report(&instance.spec.keeper_uid);
        report.and_then(|report| report.activity.as_ref()).is_some_and(|activity| activity.stopped.is_some())
    }

    fn can_be_compared(&self, uid: &InstanceUid) -> bool {
        self.draft.instances.get(uid).is_some_and(|instance| self.knows_quorums(instance))
    }

    /// Compare the members of the primary's quorums, of which none alone is known to hold everything.
    pub fn compare(&self, primary: &Instance) -> Comparison {
        if primary.quorum().is_none() {
            return Comparison::NotNeeded;
        }
        let rules = rules(primary);
        let members: BTreeSet<&InstanceUid> = rules.iter().flat_map(Quorum::members).collect();
        let at: BTreeMap<&InstanceUid, Mark> =
            members.iter().filter_map(|uid| Some((*uid, self.final_position(primary, uid)?))).collect();
        if suffices(rules, |uid| at.get(uid).map(|_| ())).is_ok() {
            let furthest = at.values().max().copied();
            let there = at.into_iter().filter(|(_, mark)| Some(*mark) == furthest);
            return Comparison::Final(there.map(|(uid, _)| uid.clone()).collect());
        }
        match suffices(rules, |uid| self.may_answer(primary, uid)) {
            Ok(()) => Comparison::Awaited(members.into_iter().cloned().collect()),
            Err(why) => Comparison::Short(why),
        }
    }

    /// Where a member ends to which nothing can come any more. Both come from one report, which was made for the cluster data in the store:
    /// it stands until they are replaced.
    fn final_position(&self, primary: &Instance, uid: &InstanceUid) -> Option<Mark> {
        let stored = self.seen.document().instances.get(uid).filter(|stored| is_stopped(stored, primary))?;
        let report = self.last_report(&stored.spec.keeper_uid)?;
        let mark = final_mark(report, stored)?;
        let is_whole = self.is_whole(primary, uid);
        (is_whole && mark.timeline == primary.status.timeline).then_some(mark)
    }

    /// Whether an instance is a copy of the primary that has lost nothing.
    fn is_whole(&self, primary: &Instance, uid: &InstanceUid) -> bool {
        let Some(instance) = self.draft.instances.get(uid) else { return false };
        validity(primary, instance) == Validity::Valid && self.went_back(instance).is_none()
    }

    /// Whether a member may soon tell where it ends.
    fn may_answer(&self, primary: &Instance, uid: &InstanceUid) -> Option<()> {
        let instance = self.draft.instances.get(uid)?;
        let works = self.keeper_is_healthy(instance) && instance.status.healthy;
        let is_there = follows(instance, &primary.uid) && instance.status.timeline == primary.status.timeline;
        (works && is_there && self.knows_quorums(instance) && self.is_whole(primary, uid)).then_some(())
    }
}

fn is_stopped(stored: &Instance, primary: &Instance) -> bool {
    stored.spec.stops_receiving && follows(stored, &primary.uid)
}

fn final_mark(report: &KeeperReport, stored: &Instance) -> Option<Mark> {
    let state = report.postgres_state.as_ref()?;
    let stopped = report.activity.as_ref()?.stopped;
    let is_it = state.healthy && state.uid == stored.uid && state.generation == stored.generation;
    (is_it && stopped == Some(stored.generation)).then_some(Mark { timeline: state.timeline, lsn: state.lsn })
}
