//! A keeper that is told to end while it has the primary: it asks for a successor first (docs: design/007-hand-over.md).

use std::time::Duration;

use stolon_model::{ClusterData, Role, Switchover, SwitchoverOutcome};

use super::Machine;
use crate::keeper::event::Effect;
use crate::keeper::goal::{Goal, StopReason};
use crate::keeper::say::{NoHandOver, Parting, Saying};
use crate::keeper::step::Step;

/// A sentinel that is at work answers a request within this.
const ANSWER: Duration = Duration::from_secs(1);

/// What is waited for before the keeper ends.
#[derive(Debug)]
pub(super) struct Leaving {
    told: Duration,
    patience: Duration,
    /// A change that relieves us was seen under way.
    under_way: bool,
    /// Whether it was said that somebody is waited for.
    heir: Heir,
}

/// Whoever is to have the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heir {
    /// Nothing was said about anybody.
    Unsaid,
    /// It was said that nobody is fit yet.
    Awaited,
}

impl Machine {
    /// The keeper is to end, and may wait for so long until somebody else has the primary.
    pub(super) fn end_requested(&mut self, patience: Duration) {
        if self.leaving.is_some() {
            return;
        }
        match self.may_hand_over(patience) {
            Ok(()) => {
                self.say(Saying::HandsOver { within: patience });
                self.leaving =
                    Some(Leaving { told: self.now, patience, under_way: false, heir: Heir::Unsaid });
            }
            Err(why) => {
                self.say(Saying::NoHandOver(why));
                self.end();
            }
        }
    }

    /// Whether somebody is worth waiting for, by what is known here.
    fn may_hand_over(&self, patience: Duration) -> Result<(), NoHandOver> {
        let is_primary =
            self.orders.goal().is_to_serve() || *self.orders.goal() == Goal::Stop(StopReason::HandsOver);
        let Some((cluster, _)) = self.orders.known().filter(|_| is_primary) else {
            return Err(NoHandOver::NoPrimary);
        };
        let data = cluster.data();
        if !self.is_primary_of(data) || cluster.spec().role != Role::Primary {
            return Err(NoHandOver::NoPrimary);
        }
        if patience.is_zero() {
            return Err(NoHandOver::TurnedOff);
        }
        if self.orders.doubt().is_some() {
            return Err(NoHandOver::StoreAway);
        }
        if data.cluster.pause.is_some() {
            return Err(NoHandOver::Paused);
        }
        if self.has_heir(data) { Ok(()) } else { Err(NoHandOver::Nobody) }
    }

    fn is_primary_of(&self, data: &ClusterData) -> bool {
        data.primary().is_some_and(|primary| {
            primary.spec.keeper_uid == self.identity.keeper && primary.uid == self.disk.local.uid
        })
    }

    /// Whether another instance has a keeper that is well by the cluster data. Whether it is fit, or may be soon, is for the sentinel to say.
    fn has_heir(&self, data: &ClusterData) -> bool {
        let mut others = data.instances.values().filter(|instance| instance.uid != self.disk.local.uid);
        others.any(|instance| {
            data.keepers.get(&instance.spec.keeper_uid).is_some_and(|keeper| keeper.status.healthy)
        })
    }

    /// Ends once there is nothing more to wait for.
    pub(super) fn leave_when_done(&mut self) {
        let Some(mut leaving) = self.leaving.take() else { return };
        if leaving.heir == Heir::Unsaid
            && let Some(why) = self.obstacle()
        {
            leaving.heir = Heir::Awaited;
            self.say(Saying::AwaitsHeir(why));
        }
        match self.parting(&mut leaving) {
            Some(parting) => {
                self.say(Saying::Parts(parting));
                self.end();
            }
            None => self.leaving = Some(leaving),
        }
    }

    fn parting(&self, leaving: &mut Leaving) -> Option<Parting> {
        let waited = self.now.saturating_sub(leaving.told);
        let late = (waited >= leaving.patience).then_some(Parting::TimeIsOver);
        let Some(data) = self.orders.data() else { return Some(Parting::NotAsked) };
        if !self.is_primary_of(data) {
            return Some(Parting::Relieved);
        }
        let record = data.cluster.status.switchover.as_ref();
        if record.is_some_and(|record| self.relieves_us(record, data)) {
            leaving.under_way = true;
            return late.map(|late| self.obstacle().map_or(late, Parting::NobodyInTime));
        }
        let answer = record.filter(|record| record.uid == self.identity.boot.as_str());
        if let Some(Switchover { outcome: Some(outcome), because, .. }) = answer {
            return Some(match outcome {
                SwitchoverOutcome::Done => Parting::Relieved,
                _ => Parting::Refused(because.clone()),
            });
        }
        if leaving.under_way {
            return Some(Parting::TakenBack);
        }
        late.or((waited >= ANSWER).then_some(Parting::NotAsked))
    }

    /// Why what we asked for cannot be begun yet.
    fn obstacle(&self) -> Option<String> {
        let record = self.orders.data()?.cluster.status.switchover.as_ref()?;
        let is_ours = record.is_open() && record.uid == self.identity.boot.as_str();
        (is_ours && record.stage.is_none() && !record.because.is_empty()).then(|| record.because.clone())
    }

    fn relieves_us(&self, record: &Switchover, data: &ClusterData) -> bool {
        record.is_open() && record.from == data.cluster.status.primary
    }

    /// When the waiting ends if nothing happens before.
    pub(super) fn leaving_wake(&self) -> Option<Duration> {
        let leaving = self.leaving.as_ref()?;
        let patience = if leaving.under_way { leaving.patience } else { leaving.patience.min(ANSWER) };
        Some(leaving.told + patience)
    }

    /// The keeper is to end, and leaves its server to the next one (docs: design/011-keeper-upgrade.md). A promotion, a start or a stop is not
    /// left half-way; what takes long is begun again by the next keeper.
    pub(super) fn departure_requested(&mut self) {
        self.stopping = true;
        let step = self.pursuit.step_under_way();
        if step.is_some_and(|step| step.takes_long() || matches!(step, Step::InitDb(_))) {
            self.ask_for(Effect::CallOff);
        }
        self.ask_for(Effect::End);
    }

    fn end(&mut self) {
        self.stop();
        self.ask_for(Effect::End);
    }
}
