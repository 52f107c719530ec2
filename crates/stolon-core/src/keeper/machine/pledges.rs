//! What keepers promise each other while the store is away (docs/design/012-lease.md).
//!
//! A primary can be replaced only by somebody who is promoted. While nobody can read the store the keepers of all other instances pledge to the
//! primary's not to promote theirs, each for a while, and the primary's keeper vouches for its instance to proxies.

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_model::{InstanceUid, Pledge, PledgeRequest};

use super::Machine;
use super::course::Pursuit;
use super::orders::UNKNOWN_UNTIL_ASKED;
use crate::keeper::event::{Effect, StateFile};
use crate::keeper::goal::{Goal, InstanceGoal, InstanceRole};
use crate::keeper::inquiry::{Office, Vouched};
use crate::keeper::say::Saying;
use crate::keeper::step::Step;

/// The cluster data are confirmed in a rhythm. When that is so late nobody has answered.
const LATE: Duration = Duration::from_millis(500);
/// A store that does not answer a question that was asked for a pledge's sake is waited for no longer than a twentieth of the term, and no longer
/// than this: the primary that wants the pledge has little time left.
const HESITATION: Duration = Duration::from_millis(700);
/// What has not answered within this is asked again.
const PATIENCE: Duration = Duration::from_secs(1);
/// So often is a pledge renewed within its term, but not more often than `SHORTEST_PAUSE`, nor less often than `LONGEST_PAUSE`.
const RENEWALS: u32 = 10;
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Pledges of others, and our own.
#[derive(Debug, Default)]
pub(super) struct Pledges {
    /// When each instance was asked that has not answered yet.
    asked: BTreeMap<InstanceUid, Duration>,
    /// Until when each is not promoted, as far as that may be counted on.
    held: BTreeMap<InstanceUid, Duration>,
    /// When they are asked again.
    due: Duration,
    /// The voucher was told of.
    told: Told,
    /// Until when our own instance is not promoted.
    bound: Duration,
    /// An earlier keeper may have pledged for so long just before we began.
    inherited: Duration,
    note: Note,
    /// Questions that wait for a reading of the cluster data, or for the note.
    waiting: Vec<Waiting>,
}

/// A question that is not answered yet.
#[derive(Debug)]
struct Waiting {
    number: u64,
    request: PledgeRequest,
    since: Duration,
}

/// What is said to whoever wants a pledge.
enum Reply {
    Now(Option<Duration>),
    /// It is not known yet.
    Later,
}

/// Whether people were told that proxies go on without the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    GoesOn,
}

/// What stands on the disk for the keeper after us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Note {
    /// Nothing is pledged.
    #[default]
    Nothing,
    /// It is being written.
    Writing,
    /// For at most so long.
    Term(Duration),
}

impl Pledges {
    /// `pledged`: what an earlier keeper left.
    pub(super) fn after(pledged: Duration) -> Self {
        let note = if pledged.is_zero() { Note::Nothing } else { Note::Term(pledged) };
        Pledges { inherited: pledged, note, ..Pledges::default() }
    }

    /// Our clock begins: what an earlier keeper pledged was pledged before.
    pub(super) fn begins(&mut self, now: Duration) {
        self.bound = now + self.inherited;
    }

    /// The note is written; none: perhaps not.
    pub(super) fn noted(&mut self, file: Option<&StateFile>) {
        self.note = match file {
            Some(StateFile::Pledged(pledge)) if pledge.term.to_std().is_zero() => Note::Nothing,
            Some(StateFile::Pledged(pledge)) => Note::Term(pledge.term.to_std()),
            // It may have reached the disk all the same; that costs a wait.
            _ => Note::Nothing,
        };
    }
}

/// So much of a pledge is counted on by whom it was given to: no clock is more than a tenth too fast or too slow.
pub(super) fn counted_on(term: Duration) -> Duration {
    term * 3 / 4
}

impl Machine {
    /// Whether the store has not answered lately: it did not the last time, or its answer is overdue.
    fn store_is_silent(&self) -> bool {
        let Some((_, as_of)) = self.orders.known() else { return false };
        self.orders.doubt().is_some() || self.now.saturating_sub(as_of) >= self.overdue()
    }

    /// How old the cluster data are when their confirmation is overdue. A lease leaves less time: three fifths of what is counted on of it.
    fn overdue(&self) -> Duration {
        let usual = self.orders.pace().oldest_reading() + LATE;
        let lease = self.orders.known().and_then(|(cluster, _)| cluster.spec().lease_term());
        lease.map_or(usual, |term| usual.min(counted_on(term) * 3 / 5))
    }

    /// How long a pledge holds in this cluster; none: nobody gives any.
    fn pledge_term(&self) -> Option<Duration> {
        self.orders.known().and_then(|(cluster, _)| cluster.spec().pledge_term())
    }

    /// Our instance, if it is the primary that proxies are sent to by the last cluster data.
    fn serves_proxies(&self) -> Option<&InstanceGoal> {
        let Goal::Reach(goal) = self.orders.goal() else { return None };
        let is_here = goal.uid == self.disk.local.uid && !self.disk.local.initializing;
        let is_open = self.orders_in_short().is_some_and(|orders| orders.office == Office::Primary);
        (is_here && is_open).then_some(&**goal)
    }

    /// All other instances, each with the address at which its keeper can be asked, if it has one.
    pub(super) fn others(&self, own: &InstanceUid) -> Vec<(InstanceUid, Option<String>)> {
        let Some(data) = self.orders.data() else { return Vec::new() };
        let others = data.instances.iter().filter(|(uid, _)| *uid != own);
        let address = |keeper| data.keepers.get(keeper).map(|keeper| keeper.status.http_address.clone());
        others
            .map(|(uid, it)| {
                (uid.clone(), address(&it.spec.keeper_uid).filter(|address| !address.is_empty()))
            })
            .collect()
    }

    /// Until when our instance cannot be replaced, since no other one can be promoted.
    pub(super) fn vouched(&self) -> Option<Vouched> {
        let (goal, term) = (self.serves_proxies()?, self.pledge_term()?);
        let mut formers = self.orders.data()?.cluster.status.formers.iter().flatten();
        if formers.any(|former| former.complete) {
            // It may come back without a promotion, and nobody asks its keeper for a pledge.
            return None;
        }
        let mut until = self.now + counted_on(term);
        for (other, _) in self.others(&goal.uid) {
            until = until.min(*self.pledges.held.get(&other)?);
        }
        (until > self.now).then(|| Vouched { instance: goal.uid.clone(), until })
    }

    /// The other instances whose keepers have not pledged, or not for long enough.
    pub(super) fn not_pledged(&self) -> Vec<InstanceUid> {
        let holds = |uid: &InstanceUid| self.pledges.held.get(uid).is_some_and(|until| *until > self.now);
        let others = self.others(&self.disk.local.uid).into_iter();
        others.map(|(uid, _)| uid).filter(|uid| !holds(uid)).collect()
    }

    /// Asks the keepers of all other instances while the store is away.
    pub(super) fn ask_for_pledges_when_due(&mut self) {
        self.tell_of_voucher();
        self.drop_note();
        if self.now < self.pledges.due || !self.store_is_silent() {
            return;
        }
        let (Some(goal), Some(term)) = (self.serves_proxies(), self.pledge_term()) else { return };
        let primary = goal.uid.clone();
        let others = self.others(&primary);
        self.pledges.due = self.now + (term / RENEWALS).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.pledges.held.retain(|held, _| others.iter().any(|(other, _)| other == held));
        for (instance, address) in others {
            let Some(address) = address.filter(|_| !self.pledges.asked.contains_key(&instance)) else {
                continue;
            };
            self.pledges.asked.insert(instance.clone(), self.now);
            let cluster_uid = self.orders.cluster().clone();
            let request = PledgeRequest { cluster_uid, primary: primary.clone(), instance };
            self.ask_for(Effect::AskForPledge { address, request, within: PATIENCE });
        }
    }

    /// A pledge counts from before it was asked for: it cannot have been given earlier.
    pub(super) fn pledge_answered(&mut self, instance: &InstanceUid, term: Option<Duration>) {
        let Some(asked) = self.pledges.asked.remove(instance) else { return };
        let Some(term) = term else { return };
        let until = asked + counted_on(term);
        let held = self.pledges.held.entry(instance.clone()).or_default();
        *held = until.max(*held);
    }

    fn tell_of_voucher(&mut self) {
        let goes_on = self.store_is_silent() && self.vouched().is_some();
        match (self.pledges.told, goes_on) {
            (Told::Nothing, true) => {
                self.pledges.told = Told::GoesOn;
                self.say(Saying::VouchedFor);
            }
            (Told::GoesOn, false) => {
                self.pledges.told = Told::Nothing;
                if self.store_is_silent() {
                    self.say(Saying::VouchedForNoMore);
                }
            }
            _ => {}
        }
    }

    /// When somebody is to be asked, or told.
    pub(super) fn pledge_wake(&self) -> Option<Duration> {
        let waiting = self.pledges.waiting.iter().map(|it| it.since + self.hesitation());
        waiting.filter(|end| *end > self.now).chain(self.asking_wake()).min()
    }

    fn asking_wake(&self) -> Option<Duration> {
        self.serves_proxies()?;
        self.pledge_term()?;
        let (_, as_of) = self.orders.known()?;
        let silent_at = match self.orders.doubt() {
            Some(_) => self.now,
            None => as_of + self.overdue(),
        };
        let due = self.pledges.due.max(silent_at);
        // What is due already and not done yet waits for those who were asked.
        (due > self.now).then_some(due)
    }

    fn hesitation(&self) -> Duration {
        self.pledge_term().map_or(HESITATION, |term| (term / 20).min(HESITATION))
    }

    /// The keeper of a primary asks. Perhaps we do not know yet that the store is away: then it is read first.
    pub(super) fn pledge_asked(&mut self, number: u64, request: PledgeRequest) {
        self.pledges.waiting.push(Waiting { number, request, since: self.now });
        if !self.store_is_silent() {
            self.read_cluster(UNKNOWN_UNTIL_ASKED);
        }
        self.answer_who_waits();
    }

    /// Answers what can be answered by now.
    pub(super) fn answer_who_waits(&mut self) {
        for question in std::mem::take(&mut self.pledges.waiting) {
            match self.reply(&question) {
                Reply::Later => self.pledges.waiting.push(question),
                Reply::Now(term) => self.ask_for(Effect::AnswerPledge { number: question.number, term }),
            }
        }
    }

    /// Whether our instance is not promoted for a while from now on. The first time in an outage that has to be written down before.
    fn reply(&mut self, question: &Waiting) -> Reply {
        let request = &question.request;
        let Some(term) = self.pledge_term().filter(|_| self.may_pledge(request)) else {
            return Reply::Now(None);
        };
        if self.now.saturating_sub(question.since) >= PATIENCE {
            return Reply::Now(None);
        }
        let hesitates = self.now.saturating_sub(question.since) < self.hesitation();
        match (self.store_is_silent(), self.orders.is_being_read()) {
            (false, true) if hesitates => return Reply::Later,
            (false, false) => return Reply::Now(None),
            // A store that takes so long has not answered. To pledge costs time, and never safety.
            (true, _) | (false, true) => {}
        }
        match self.pledges.note {
            Note::Term(noted) if noted >= term => {}
            Note::Writing => return Reply::Later,
            Note::Term(_) | Note::Nothing => {
                self.pledges.note = Note::Writing;
                self.save(StateFile::Pledged(Pledge { term: term.into() }));
                return Reply::Later;
            }
        }
        if self.pledges.bound <= self.now {
            self.say(Saying::Pledges { term, primary: request.primary.clone() });
        }
        self.pledges.bound = self.pledges.bound.max(self.now + term);
        Reply::Now(Some(term))
    }

    /// The note is written, or is not: then nothing is pledged until it is.
    pub(super) fn pledge_noted(&mut self, file: Option<&StateFile>) {
        self.pledges.noted(file);
        if file.is_none() {
            for Waiting { number, .. } in std::mem::take(&mut self.pledges.waiting) {
                self.ask_for(Effect::AnswerPledge { number, term: None });
            }
        }
        self.answer_who_waits();
    }

    /// Whether our last cluster data know the same primary, and nobody is about to take its place.
    fn may_pledge(&self, request: &PledgeRequest) -> bool {
        let Goal::Reach(goal) = self.orders.goal() else { return false };
        let Some(data) = self.orders.data() else { return false };
        let stays = Some(&request.primary);
        goal.uid == request.instance
            && matches!(goal.role, InstanceRole::Standby(_))
            && data.cluster.uid == request.cluster_uid
            && data.cluster.status.primary.as_ref() == stays
            && data.proxy.spec.primary.as_ref() == stays
            && self.pursuit.step_under_way() != Some(&Step::Promote)
    }

    /// Once the store answers again, and what was pledged is over, the keeper after us need not wait.
    fn drop_note(&mut self) {
        let is_over =
            self.pledges.bound <= self.now && self.orders.known().is_some() && !self.store_is_silent();
        if is_over && matches!(self.pledges.note, Note::Term(_)) {
            self.pledges.note = Note::Writing;
            self.save(StateFile::Pledged(Pledge::default()));
        }
    }

    /// Whether a pledge forbids a step: one that makes a primary of what is here, be it by promotion or by the start of what was one
    /// before.
    pub(super) fn pledge_forbids(&self, step: &Step) -> bool {
        let Pursuit::Course(course) = &self.pursuit else { return false };
        let takes_over = matches!(step, Step::Promote | Step::Start(_)) && course.makes_primary(step);
        takes_over && self.now < self.pledges.bound
    }

    /// The promotion is planned again when the pledge is over.
    pub(super) fn await_end_of_pledge(&mut self) {
        let until = self.pledges.bound;
        self.say(Saying::AwaitsPledge { remaining: until - self.now });
        self.pursuit = Pursuit::Rest { until };
    }
}
