//! A planned change of the primary (docs: design/007-hand-over.md): `stolonctl switchover`, and a primary's keeper that is told to end.
//!
//! The successor is elected only with proof that it has everything: the old primary was stopped in order, says where its shutdown
//! checkpoint begins, and the successor holds more than that. Until then everything can go back. The record in the document holds all
//! that the next sentinel needs to go on.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use stolon_model::{
    ClientsGo, ClusterData, GoDuration, Instance, InstanceUid, KeeperReport, KeeperUid, Lsn, ProxyHandover,
    Role, Switchover, SwitchoverOutcome, SwitchoverReport, SwitchoverStage, UsableCluster,
};

use crate::logical_slots::lacking;

use super::eligibility::{Eligibility, Question, eligibility_to_relieve, priority};
use super::memory::{Life, SwitchoverSighting};
use super::request::SHOWN;
use super::round::{Kind, Round};
use super::switchover_reasons::{Obstacle, SwitchoverWait, Unfit, Wish};
use super::wake::{Limit, Wake};
use super::{Hold, PrimaryFault, Rejection};

/// Sessions that are busy when the primary is relieved have so long to become idle.
const GRACE: Duration = Duration::from_secs(1);
/// No client waits longer than this, or than `failInterval`, for a planned change.
const PAUSE: Duration = Duration::from_secs(10);
/// Proxies hold new clients a little longer: the primary is to be open again by then.
const HOLD: Duration = Duration::from_secs(15);
/// For how long the request of a keeper that is told to end counts. The keeper itself waits as long as it likes.
const LEAVING: Duration = Duration::from_secs(60);

/// How a planned change stands in this round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Handing {
    /// There is none.
    Nothing,
    /// It is under way, and clients are served.
    ClientsServed(Wake),
    /// It is under way, and clients wait: nothing else is decided meanwhile.
    ClientsWait(Wake),
    /// The successor was elected.
    Elected(InstanceUid),
}

/// Who would relieve the primary if `stolonctl switchover` were used now, or every reason why nobody would: as far as the cluster data and the
/// reports tell.
///
/// # Errors
/// Nobody can, for this reason.
pub fn fitness(
    cluster: &UsableCluster,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
    to: Option<&KeeperUid>,
) -> Result<Eligibility, Obstacle> {
    let data = cluster.data();
    let primary = data.primary().ok_or(Obstacle::PrimaryNotReady)?;
    let keeper_works = data.keepers.get(&primary.spec.keeper_uid).is_some_and(|keeper| keeper.status.healthy);
    if !keeper_works || !primary.status.healthy || primary.status.current_generation != primary.generation {
        return Err(Obstacle::PrimaryNotReady);
    }
    let instance = to.map(|keeper| (keeper, data.instance_of(keeper).map(|instance| &instance.uid)));
    hindered(data, cluster.spec().role.clone(), primary, reports.get(&primary.spec.keeper_uid), instance)?;
    let (mut fit, mut rejected) = (Vec::new(), Vec::new());
    for candidate in eligibility_to_relieve(cluster, reports) {
        let Some(instance) = data.instances.get(&candidate.instance) else { continue };
        let report = reports.get(&candidate.keeper);
        let slots = match cluster.spec().sync_logical_slots {
            true => lacking(reports.get(&primary.spec.keeper_uid), report),
            false => Vec::new(),
        };
        let lacks = (!slots.is_empty()).then_some(Unfit::LacksSlots(slots));
        let unfit = unfit(instance, report, to).or(lacks).map(Rejection::CannotHandOver);
        match candidate.rejection.clone().or(unfit) {
            // Whoever is chosen receives everything before it is elected: who is preferred comes before who is ahead.
            None => fit.push(((Reverse(priority(data, instance)), Reverse(instance.status.lsn)), candidate)),
            Some(why) => rejected.push((candidate.instance, why)),
        }
    }
    fit.sort_by(|(one, _), (other, _)| one.cmp(other));
    let best = fit.into_iter().next().map(|(_, candidate)| candidate);
    best.ok_or(Obstacle::Nobody(rejected))
}

/// What keeps anybody from relieving this primary.
fn hindered(
    data: &ClusterData,
    role: Role,
    primary: &Instance,
    report: Option<&KeeperReport>,
    to: Option<(&KeeperUid, Option<&InstanceUid>)>,
) -> Result<(), Obstacle> {
    if role != Role::Primary {
        return Err(Obstacle::StandbyCluster);
    }
    if data.clients_go() != ClientsGo::ToCluster {
        return Err(Obstacle::Migration);
    }
    match to {
        Some((keeper, None)) => return Err(Obstacle::NoInstance(keeper.clone())),
        Some((keeper, Some(instance))) if *instance == primary.uid => {
            return Err(Obstacle::IsPrimary(keeper.clone()));
        }
        _ => {}
    }
    let activity = report.and_then(|report| report.activity.as_ref());
    match activity.is_some_and(|activity| activity.hands_over) {
        true => Ok(()),
        false => Err(Obstacle::PrimaryUnfit(Unfit::OldKeeper)),
    }
}

/// Why an instance that may be elected cannot be elected in a planned change.
fn unfit(instance: &Instance, report: Option<&KeeperReport>, to: Option<&KeeperUid>) -> Option<Unfit> {
    if to.is_some_and(|keeper| *keeper != instance.spec.keeper_uid) {
        return Some(Unfit::NotWanted);
    }
    if Kind::of(instance) != Kind::Standby {
        return Some(Unfit::NotAStandby);
    }
    let Some(activity) = report.and_then(|report| report.activity.as_ref()) else {
        return Some(Unfit::OldKeeper);
    };
    if !activity.hands_over {
        return Some(Unfit::OldKeeper);
    }
    if activity.leaving {
        return Some(Unfit::Leaves);
    }
    let why = &activity.replication_problem;
    (!why.is_empty()).then(|| Unfit::ReceivesNothing(why.clone()))
}

impl Round<'_> {
    /// Take a planned change of the primary one stage further, or end it.
    pub fn hand_over(&mut self, primary: &Instance) -> Handing {
        self.tidy_switchover();
        self.hear_of_leaving(primary);
        let Some(record) = self.draft.cluster.status.switchover.clone().filter(Switchover::is_open) else {
            self.memory.switchover = None;
            return Handing::Nothing;
        };
        self.notice_switchover(&record);
        if let Err((outcome, obstacle)) = self.may_go_on(&record, primary) {
            self.end_switchover(outcome, &obstacle, primary);
            return Handing::Nothing;
        }
        match &record.stage {
            None => self.begin_switchover(&record, primary),
            Some(SwitchoverStage::Checkpoint) => self.await_checkpoint(&record, primary),
            Some(SwitchoverStage::Closing) => self.await_proxies(&record, primary),
            Some(SwitchoverStage::Stopping) => self.await_end(&record, primary),
            Some(SwitchoverStage::Unknown(_)) => Handing::Nothing,
        }
    }

    /// The primary has to be replaced, for another reason.
    pub fn take_switchover_back(&mut self, primary: &Instance) {
        self.end_switchover(SwitchoverOutcome::Failed, &Obstacle::PrimaryNotReady, primary);
    }

    /// What became of it is shown for a while.
    fn tidy_switchover(&mut self) {
        let record = self.draft.cluster.status.switchover.as_ref();
        if record.is_some_and(|record| !record.is_open() && self.age(record.decided_at) > SHOWN) {
            self.draft.drop_switchover();
        }
    }

    /// A keeper that is told to end asks once in its run.
    fn hear_of_leaving(&mut self, primary: &Instance) {
        let Some(report) = self.seen.fresh.get(&primary.spec.keeper_uid) else { return };
        let is_leaving = report.activity.as_ref().is_some_and(|activity| activity.leaving);
        let uid = report.boot_uuid.to_string();
        let before = self.draft.cluster.status.switchover.as_ref();
        if !is_leaving || before.is_some_and(|before| before.is_open() || before.uid == uid) {
            return;
        }
        self.draft.ask_for_switchover(Switchover {
            uid,
            from: Some(primary.uid.clone()),
            leaving: true,
            made_for: stolon_model::Timestamp::utc(self.seen.now.wall.instant()),
            epoch: self.draft.cluster.epoch,
            timeout: GoDuration::from(LEAVING),
            ..Switchover::default()
        });
    }

    fn notice_switchover(&mut self, record: &Switchover) {
        if self.memory.switchover.as_ref().is_none_or(|known| known.uid != record.uid) {
            let since = self.seen.now.monotonic;
            self.memory.switchover = Some(SwitchoverSighting { uid: record.uid.clone(), since });
        }
    }

    /// Whether nothing that has happened meanwhile ends it.
    fn may_go_on(
        &self,
        record: &Switchover,
        primary: &Instance,
    ) -> Result<(), (SwitchoverOutcome, Obstacle)> {
        use SwitchoverOutcome::{Failed, Lapsed};
        if record.from.as_ref() != Some(&primary.uid) {
            return Err((Lapsed, Obstacle::OtherPrimary));
        }
        let spec = self.seen.spec;
        if self.is_paused() {
            let outcome = if record.stage.is_none() { SwitchoverOutcome::Refused } else { Failed };
            return Err((outcome, Obstacle::ClusterPaused));
        }
        if record.leaving && !self.wants_to_leave(record, primary) {
            return Err((Lapsed, Obstacle::LeavesNoMore));
        }
        let lateness = spec.sleep_interval * 2 + spec.fail_interval;
        let age = self.age(record.made_for);
        let timeout = record.timeout.to_std();
        if record.stage.is_none() && !record.leaving && age > lateness {
            return Err((Lapsed, Obstacle::TooLate));
        }
        if self.switchover_limit(timeout).is_over() || age > timeout + lateness {
            return Err((Failed, Obstacle::TimeIsOver(timeout)));
        }
        if let Some(SwitchoverStage::Unknown(word)) = &record.stage {
            return Err((Failed, Obstacle::UnknownStage(word.clone())));
        }
        if self.is_requested(primary) {
            return Err((Failed, Obstacle::Forced));
        }
        if !self.keeper_is_healthy(primary) || self.has_left(&primary.spec.keeper_uid) {
            return Err((Failed, Obstacle::PrimarySilent));
        }
        let is_stopping = record.stage == Some(SwitchoverStage::Stopping);
        if !primary.status.healthy && !is_stopping {
            return Err((Failed, Obstacle::PrimaryNotReady));
        }
        let pause = self.pause();
        let clients_wait = is_stopping || record.stage == Some(SwitchoverStage::Closing);
        if clients_wait && self.seen.limit(self.closed_since(), pause).is_over() {
            return Err((Failed, Obstacle::Paused(pause)));
        }
        let trouble = self.in_trouble(record, primary).or_else(|| self.successor_has_left(record));
        trouble.map_or(Ok(()), |trouble| Err((Failed, trouble)))
    }

    /// Whether the primary's keeper is the run that was told to end, by its last report: a store that goes back in time may bring back what an
    /// earlier run asked for.
    fn wants_to_leave(&self, record: &Switchover, primary: &Instance) -> bool {
        let Some(report) = self.last_report(&primary.spec.keeper_uid) else { return true };
        let is_leaving = report.activity.as_ref().is_some_and(|activity| activity.leaving);
        is_leaving && report.boot_uuid.as_str() == record.uid
    }

    /// Whether a keeper has taken its report along, which is the last thing that one does that was told to end.
    fn has_left(&self, keeper: &KeeperUid) -> bool {
        !self.seen.view.keepers.contains_key(keeper)
    }

    fn successor_has_left(&self, record: &Switchover) -> Option<Obstacle> {
        let successor = self.draft.instances.get(record.successor.as_ref()?)?;
        let leaves = Rejection::CannotHandOver(Unfit::Leaves);
        self.has_left(&successor.spec.keeper_uid).then(|| Obstacle::Successor(successor.uid.clone(), leaves))
    }

    /// A keeper that takes part says that it cannot.
    fn in_trouble(&self, record: &Switchover, primary: &Instance) -> Option<Obstacle> {
        let successor = record.successor.as_ref().and_then(|uid| self.draft.instances.get(uid));
        let keepers = [Some(primary), successor].into_iter().flatten().map(|it| &it.spec.keeper_uid);
        let mut troubles = keepers.filter_map(|keeper| {
            let why = &self.answer_to(record, keeper)?.trouble;
            (!why.is_empty()).then(|| Obstacle::Trouble { keeper: keeper.clone(), why: why.clone() })
        });
        troubles.next()
    }

    /// How long clients may wait. It ends before a primary that was stopped for this counts as failed.
    fn pause(&self) -> Duration {
        PAUSE.min(self.seen.spec.fail_interval)
    }

    fn switchover_limit(&self, span: Duration) -> Limit {
        let since = self.memory.switchover.as_ref().map_or(self.seen.now.monotonic, |known| known.since);
        self.seen.limit(since, span)
    }

    /// What a keeper has answered, if it has shown life to this sentinel: a report that was there before may be of another time.
    fn answer_to(&self, record: &Switchover, keeper: &KeeperUid) -> Option<&SwitchoverReport> {
        let sighting = self.memory.keepers.get(keeper).filter(|sighting| sighting.life == Life::Proven)?;
        let answer = sighting.report.as_ref()?.activity.as_ref()?.switchover.as_ref()?;
        (answer.uid == record.uid).then_some(answer)
    }

    /// It is over, and the old primary stays. One that was stopped is given its time to start.
    fn end_switchover(&mut self, outcome: SwitchoverOutcome, obstacle: &Obstacle, primary: &Instance) {
        // One that is over keeps its last stage, and says nothing of a primary that fails later.
        let open = self.draft.cluster.status.switchover.as_ref().filter(|record| record.is_open());
        if open.is_some_and(|record| record.stage == Some(SwitchoverStage::Stopping))
            && let Some(trouble) = self.memory.trouble.get_mut(&primary.uid)
        {
            *trouble = self.seen.now.monotonic;
        }
        self.draft.conclude_switchover(outcome, obstacle.to_string());
        self.memory.switchover = None;
    }

    /// Who is fit? What may pass by itself is waited for: a moment for an operator, and for a keeper that is told to end as long as it waits.
    fn begin_switchover(&mut self, record: &Switchover, primary: &Instance) -> Handing {
        match self.successor_for(record, primary) {
            Ok(successor) => {
                self.draft.begin_switchover(&successor, wish(record));
                Handing::ClientsServed(Wake::NEVER)
            }
            Err(obstacle) => {
                let (patience, may_pass) = match record.leaving {
                    true => (record.timeout.to_std(), self.somebody_comes(&obstacle, primary)),
                    false => {
                        let moment = self.seen.spec.sleep_interval * 2 + self.seen.view.usual_delay * 2;
                        (moment, obstacle.may_pass())
                    }
                };
                let limit = self.switchover_limit(patience);
                if limit.is_over() || !may_pass {
                    self.end_switchover(SwitchoverOutcome::Refused, &obstacle, primary);
                    return Handing::Nothing;
                }
                self.draft.note_obstacle(&obstacle);
                self.hold(Hold::Switchover(SwitchoverWait::Begin(obstacle)));
                Handing::ClientsServed(limit.wake())
            }
        }
    }

    /// Whether a keeper that is told to end, and could do so at once, waits for somebody: one whose keeper is there, stays, and knows its part.
    fn somebody_comes(&self, obstacle: &Obstacle, primary: &Instance) -> bool {
        let passes = |instance: &&Instance| match obstacle {
            Obstacle::Nobody(rejected) => {
                rejected.iter().any(|(uid, why)| *uid == instance.uid && why.may_pass())
            }
            _ => obstacle.may_pass() && instance.uid != primary.uid,
        };
        self.draft.instances.values().filter(passes).any(|instance| {
            let keeper = &instance.spec.keeper_uid;
            let activity = self.last_report(keeper).and_then(|report| report.activity.as_ref());
            let takes_part = activity.is_some_and(|activity| activity.hands_over && !activity.leaving);
            let status = self.draft.keepers.get(keeper).map(|keeper| &keeper.status);
            let may_be_elected = status.is_some_and(|status| {
                status.healthy && status.can_be_primary != Some(false) && status.priority() > 0
            });
            takes_part && may_be_elected && !self.has_left(keeper)
        })
    }

    fn successor_for(&self, record: &Switchover, primary: &Instance) -> Result<InstanceUid, Obstacle> {
        if primary.status.current_generation != primary.generation || !self.is_known_to_work(primary) {
            return Err(Obstacle::PrimaryNotReady);
        }
        let instance = record.to.as_ref().map(|keeper| {
            let instance = self.draft.instance_of(keeper);
            (keeper, instance.map(|instance| &instance.uid))
        });
        let (role, report) = (self.seen.spec.role.clone(), self.last_report(&primary.spec.keeper_uid));
        hindered(&self.draft, role, primary, report, instance)?;
        let (mut fit, mut rejected) = self.candidates(primary);
        // As in `fitness`.
        let preference =
            |uid: &InstanceUid| self.draft.instances.get(uid).map(|it| priority(&self.draft, it));
        fit.sort_by_key(|uid| Reverse(preference(uid)));
        for uid in fit {
            let Some(candidate) = self.draft.instances.get(&uid) else { continue };
            let lacks = || self.lacks_slots(record, primary, candidate);
            match self.unfit_now(candidate, record.to.as_ref()).or_else(lacks) {
                None => return Ok(uid),
                Some(why) => rejected.push((uid, why)),
            }
        }
        Err(Obstacle::Nobody(rejected))
    }

    /// A keeper that is told to end does not wait for slots: it would end all the same.
    fn lacks_slots(
        &self,
        record: &Switchover,
        primary: &Instance,
        candidate: &Instance,
    ) -> Option<Rejection> {
        if !self.seen.spec.sync_logical_slots || record.leaving {
            return None;
        }
        let report = |instance: &Instance| self.last_report(&instance.spec.keeper_uid);
        let slots = lacking(report(primary), report(candidate));
        (!slots.is_empty()).then_some(Rejection::CannotHandOver(Unfit::LacksSlots(slots)))
    }

    fn unfit_now(&self, candidate: &Instance, to: Option<&KeeperUid>) -> Option<Rejection> {
        let keeper = &candidate.spec.keeper_uid;
        let left = self.has_left(keeper).then_some(Unfit::Leaves);
        if let Some(unfit) = unfit(candidate, self.last_report(keeper), to).or(left) {
            return Some(Rejection::CannotHandOver(unfit));
        }
        (!self.is_known_to_work(candidate)).then_some(Rejection::Unhealthy)
    }

    /// Why the chosen successor is not fit any more.
    fn successor_is_lost(&self, record: &Switchover, primary: &Instance) -> Option<Rejection> {
        let instance = record.successor.as_ref().and_then(|uid| self.draft.instances.get(uid));
        let Some(instance) = instance else { return Some(Rejection::NeverReported) };
        let question = Question::about(primary, &self.draft, self.seen.spec);
        question.rejection(instance).or_else(|| self.went_back(instance)).or_else(|| {
            let report = self.last_report(&instance.spec.keeper_uid);
            // When the primary stops nobody receives anything: that is no reason then.
            unfit(instance, report, None)
                .filter(|unfit| !matches!(unfit, Unfit::ReceivesNothing(_)))
                .map(Rejection::CannotHandOver)
        })
    }

    fn await_checkpoint(&mut self, record: &Switchover, primary: &Instance) -> Handing {
        let limit = self.switchover_limit(record.timeout.to_std()).wake();
        let successor = record.successor.clone().unwrap_or_default();
        match self.successor_is_lost(record, primary) {
            // It receives what is missing while the checkpoint is written.
            Some(lag @ Rejection::Lag { .. }) => {
                self.hold(Hold::Switchover(SwitchoverWait::Successor(successor, lag)));
                return Handing::ClientsServed(limit);
            }
            Some(why) => {
                let obstacle = Obstacle::Successor(successor, why);
                self.end_switchover(SwitchoverOutcome::Failed, &obstacle, primary);
                return Handing::Nothing;
            }
            None => {}
        }
        let keeper = &primary.spec.keeper_uid;
        if !self.answer_to(record, keeper).is_some_and(|answer| answer.checkpointed) {
            self.hold(Hold::Switchover(SwitchoverWait::Checkpoint { keeper: keeper.clone() }));
            return Handing::ClientsServed(limit);
        }
        self.close_for_switchover(record);
        self.await_proxies(record, primary)
    }

    fn close_for_switchover(&mut self, record: &Switchover) {
        let handover = ProxyHandover { grace: GoDuration::from(GRACE), hold: GoDuration::from(HOLD) };
        self.draft.close_for_switchover(handover, wish(record));
        self.note_closed();
    }

    fn await_proxies(&mut self, record: &Switchover, primary: &Instance) -> Handing {
        if let Some(why) = self.successor_is_lost(record, primary)
            && !matches!(why, Rejection::Lag { .. })
        {
            let obstacle = Obstacle::Successor(record.successor.clone().unwrap_or_default(), why);
            self.end_switchover(SwitchoverOutcome::Failed, &obstacle, primary);
            return Handing::Nothing;
        }
        if self.draft.proxy.spec.primary.is_some() {
            // Somebody has edited the document: clients must be away before the primary is stopped.
            self.close_for_switchover(record);
        }
        self.note_closed();
        let wake = self.seen.limit(self.closed_since(), self.pause()).wake();
        let awaited = self.open_proxies_left();
        if !awaited.proxies.is_empty() {
            self.hold(Hold::Switchover(SwitchoverWait::Proxies { proxies: awaited.proxies }));
            return Handing::ClientsWait(wake.or(awaited.wake));
        }
        self.draft.reach_stage(SwitchoverStage::Stopping, wish(record));
        Handing::ClientsWait(wake)
    }

    /// The old primary says where it ended, the successor that it has more than that.
    fn await_end(&mut self, record: &Switchover, primary: &Instance) -> Handing {
        self.note_closed();
        let wake = self.seen.limit(self.closed_since(), self.pause()).wake();
        let Some(successor) =
            record.successor.as_ref().and_then(|uid| self.draft.instances.get(uid)).cloned()
        else {
            let lost = Obstacle::Successor(InstanceUid::default(), Rejection::NeverReported);
            self.end_switchover(SwitchoverOutcome::Failed, &lost, primary);
            return Handing::Nothing;
        };
        let keeper = &primary.spec.keeper_uid;
        let Some(end) = self.end_of(record, primary) else {
            self.hold(Hold::Switchover(SwitchoverWait::Stop { keeper: keeper.clone() }));
            return Handing::ClientsWait(wake);
        };
        if end < primary.status.lsn {
            let obstacle = Obstacle::EndWentBack { end, before: primary.status.lsn };
            self.end_switchover(SwitchoverOutcome::Failed, &obstacle, primary);
            return Handing::Nothing;
        }
        self.draft.note_end(end);
        if !self.holds_more_than(end, record, primary, &successor) || self.draft.proxy.spec.primary.is_some()
        {
            let wait = SwitchoverWait::End { successor: successor.uid, end };
            self.hold(Hold::Switchover(wait));
            return Handing::ClientsWait(wake);
        }
        let because = PrimaryFault::HandedOver { keeper: keeper.clone(), wish: wish(record) };
        self.elect(primary, &successor.uid, because);
        let because = format!("keeper {} has the primary", successor.spec.keeper_uid);
        self.draft.conclude_switchover(SwitchoverOutcome::Done, because);
        self.memory.switchover = None;
        Handing::Elected(successor.uid)
    }

    /// Where the old primary has ended, by its keeper's word, on the timeline that it was on.
    fn end_of(&self, record: &Switchover, primary: &Instance) -> Option<Lsn> {
        let answer = self.answer_to(record, &primary.spec.keeper_uid)?;
        answer.end.filter(|_| answer.timeline == primary.status.timeline)
    }

    /// Whether the successor holds the record that begins at `end`, which is the last one, and may be elected as far as anything else is
    /// concerned. It receives nothing any more, and was seen at work a moment ago.
    fn holds_more_than(
        &self,
        end: Lsn,
        record: &Switchover,
        primary: &Instance,
        successor: &Instance,
    ) -> bool {
        let answer = self.answer_to(record, &successor.spec.keeper_uid);
        let holds = answer.is_some_and(|answer| {
            answer.timeline == primary.status.timeline && answer.received.is_some_and(|lsn| lsn > end)
        });
        let lost = self.successor_is_lost(record, primary);
        let is_fit = lost.is_none_or(|why| matches!(why, Rejection::Lag { .. }));
        holds && is_fit && self.is_known_to_work(successor)
    }
}

impl Obstacle {
    /// Whether it may pass by itself within moments.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::PrimaryNotReady => true,
            Self::Nobody(rejected) => rejected.iter().any(|(_, why)| why.may_pass()),
            _ => false,
        }
    }
}

impl Rejection {
    /// Whether it may pass by itself within moments: a standby starts, catches up, is on its way to another timeline, or is about to be waited for.
    fn may_pass(&self) -> bool {
        match self {
            Self::NotSeenYet
            | Self::NeverReported
            | Self::NotConverged { .. }
            | Self::Unhealthy
            | Self::OtherTimeline { .. }
            | Self::NotSynchronous
            | Self::Lag { .. } => true,
            Self::CannotHandOver(unfit) => {
                matches!(unfit, Unfit::ReceivesNothing(_) | Unfit::LacksSlots(_))
            }
            _ => false,
        }
    }
}

fn wish(record: &Switchover) -> Wish {
    match record.leaving {
        true => Wish::Leaving,
        false => Wish::Operator,
    }
}
