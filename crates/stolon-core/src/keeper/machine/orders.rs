//! What is asked of us: the last cluster data that could be worked with, how old they are, and what is in doubt about them.

use std::sync::Arc;
use std::time::Duration;

use stolon_model::{ClusterData, ClusterUid, EffectiveSpec, Parameters, UsableCluster};

use super::patience::RestartUnderWay;
use super::served::ServedMark;
use super::survivor::Survivor;
use crate::Backoff;
use crate::keeper::event::ClusterRead;
use crate::keeper::goal::{
    Goal, Identity, InstanceGoal, InstanceRole, LeaveAlone, RestartPolicy, StopReason,
};
use crate::keeper::observation::{Data, DataKind, Gate, Lease, Observation, Server};
use crate::keeper::part::Part;

/// The store must not be flooded when somebody sets an interval to nothing.
pub(super) const LEAST_INTERVAL: Duration = Duration::from_millis(100);
/// What is older is read again before something is done that only one may do. A store's answers may themselves take long: to this
/// comes the time of two of them.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// The store itself is to answer, however young what is known may be.
pub(super) const UNKNOWN_UNTIL_ASKED: Duration = Duration::ZERO;

/// Each report brings the cluster data along, once in a sleep interval and as much later as the store takes to answer. What came
/// with the last one is as good as what a question of its own would bring, and what changes is told by the store in any case.
const CONFIRMED_BY_REPORTS: f64 = 1.5;

/// A store that does not answer is asked again after this, and then less and less often.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// What is asked of us.
#[derive(Debug)]
pub(super) struct Orders {
    /// From the last cluster data that could be worked with.
    goal: Goal,
    /// Why the store's present word is not known.
    doubt: Option<LeaveAlone>,
    /// The last cluster data that could be worked with.
    usable: Option<Arc<UsableCluster>>,
    cluster: ClusterUid,
    epoch: Option<u64>,
    part: Option<Part>,
    specified: Parameters,
    pace: Pace,
    reading: Reading,
    retries: Backoff,
    /// A server that was taken over, until it is decided what becomes of it.
    survivor: Option<Survivor>,
}

/// When the cluster data were read.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    /// The reading under way was begun then.
    asked: Option<Duration>,
    /// What is known holds everything that was acknowledged before.
    known: Option<Duration>,
    /// So long do answers take. One that takes far longer, because the process was frozen meanwhile, hardly counts.
    latency: Duration,
    /// When the reading under way has ended, another one is to follow it, no older than this.
    again: Option<Duration>,
    /// The store has answered at least once.
    answered: bool,
    /// The next reading is due then.
    due: Duration,
}

/// How often things are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// `sleepInterval`, not below what the store can bear.
    pub(super) sleep: Duration,
    /// `requestTimeout`.
    pub(super) request: Duration,
    /// `failInterval`.
    pub(super) fail: Duration,
}

impl Pace {
    fn of(spec: &EffectiveSpec) -> Self {
        Pace {
            sleep: spec.sleep_interval.max(LEAST_INTERVAL),
            request: spec.request_timeout.max(LEAST_INTERVAL),
            fail: spec.fail_interval,
        }
    }

    /// So old may the cluster data be that are read because time passed, or because the store told of a change.
    pub(super) fn oldest_reading(self) -> Duration {
        self.sleep.mul_f64(CONFIRMED_BY_REPORTS)
    }
}

impl Default for Pace {
    /// The defaults of a specification.
    fn default() -> Self {
        Pace {
            sleep: Duration::from_secs(5),
            request: Duration::from_secs(10),
            fail: Duration::from_secs(20),
        }
    }
}

/// What a reading changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// We are asked for the same as before.
    Nothing,
    /// For something else.
    Goal,
}

impl Orders {
    /// Nothing is known yet but the cluster that an earlier keeper belonged to.
    pub(super) fn new(cluster: ClusterUid) -> Self {
        Orders {
            goal: Goal::LeaveAlone(LeaveAlone::NoClusterData),
            doubt: None,
            usable: None,
            cluster,
            epoch: None,
            part: None,
            specified: Parameters::new(),
            pace: Pace::default(),
            reading: Reading::default(),
            retries: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
            survivor: None,
        }
    }

    /// Something no older than `at_most` is to be read now. Returns that age if the reading is to begin; where one is under way, another
    /// one follows it.
    pub(super) fn ask(&mut self, now: Duration, at_most: Duration) -> Option<Duration> {
        if self.reading.asked.is_some() {
            let again = self.reading.again.map_or(at_most, |age| age.min(at_most));
            self.reading.again = Some(again);
            return None;
        }
        (self.reading.asked, self.reading.again) = (Some(now), None);
        Some(at_most)
    }

    /// A reading has ended, and gave what was known at `as_of`.
    pub(super) fn read(
        &mut self,
        now: Duration,
        read: ClusterRead,
        as_of: Duration,
        us: &Identity,
        served: &ServedMark,
    ) -> Change {
        let asked = self.reading.asked.take().unwrap_or(now);
        let slower = 2 * self.reading.latency + LEAST_INTERVAL;
        self.reading.latency = now.saturating_sub(asked).min(slower);
        self.reading.answered |= !matches!(read, ClusterRead::Unanswered(_));
        let goal = match read {
            ClusterRead::Unanswered(error) => {
                self.reading.due = now + self.retries.next_pause().min(self.pace.sleep);
                return self.doubted(LeaveAlone::Unusable(format!("error retrieving cluster data: {error}")));
            }
            ClusterRead::Invalid(error) => self.nothing_asked(LeaveAlone::Unusable(error)),
            ClusterRead::Absent => self.nothing_asked(LeaveAlone::NoClusterData),
            ClusterRead::Usable(cluster) => {
                let goal = self.goal_of(&cluster, us, served);
                self.usable = Some(cluster);
                goal
            }
        };
        self.retries.reset();
        let known = as_of.min(now);
        self.reading.known = Some(known);
        // What is about to be too old is asked for then; a slow store's answer that is too old when it comes, not at once.
        let too_old = (known + self.pace.oldest_reading()).max(now + LEAST_INTERVAL);
        self.reading.due = too_old.min(now + self.pace.sleep);
        let changed = self.doubt.take().is_some() || !goal.asks_the_same_as(&self.goal);
        self.goal = goal;
        if changed { Change::Goal } else { Change::Nothing }
    }

    /// A store that does not answer takes nothing back: what is known stays, in doubt.
    fn doubted(&mut self, why: LeaveAlone) -> Change {
        match self.doubt.replace(why) {
            Some(_) => Change::Nothing,
            None => Change::Goal,
        }
    }

    fn goal_of(&mut self, cluster: &UsableCluster, us: &Identity, served: &ServedMark) -> Goal {
        self.pace = Pace::of(cluster.spec());
        self.cluster = cluster.data().cluster.uid.clone();
        if let Some(older) = served.is_ahead_of(cluster.data()) {
            return self.nothing_asked(LeaveAlone::OlderThanServed(older));
        }
        self.part = Part::of(cluster.data(), &us.keeper);
        self.epoch = cluster.data().cluster.epoch;
        self.specified = cluster.spec().pg_parameters.clone().unwrap_or_default();
        let Some(survivor) = self.survivor.take() else { return Goal::of(cluster, us) };
        let (goal, undecided) = survivor.judged(cluster, us);
        self.survivor = undecided;
        goal
    }

    fn nothing_asked(&mut self, why: LeaveAlone) -> Goal {
        self.part = None;
        self.condemned().map_or(Goal::LeaveAlone(why), Goal::Stop)
    }

    /// Why a server that was taken over is stopped, if that is decided.
    fn condemned(&self) -> Option<StopReason> {
        self.survivor.as_ref().and_then(Survivor::condemned)
    }

    /// A server runs that an earlier keeper left.
    pub(super) fn takes_over(&mut self, survivor: Survivor) {
        self.survivor = Some(survivor);
    }

    /// It takes writes. True if that is news.
    pub(super) fn survivor_is_primary(&mut self) -> bool {
        self.survivor.as_mut().is_some_and(Survivor::is_primary)
    }

    /// It runs no more.
    pub(super) fn survivor_ended(&mut self) -> Change {
        if self.survivor.take().is_none() {
            return Change::Nothing;
        }
        match &self.goal {
            Goal::LeaveAlone(LeaveAlone::BootNotAcknowledged) => {
                self.goal = Goal::Stop(StopReason::BootNotAcknowledged);
            }
            Goal::Stop(StopReason::NothingKnown) => self.goal = Goal::LeaveAlone(LeaveAlone::NoClusterData),
            _ => {}
        }
        Change::Goal
    }

    /// When it is given up if no cluster data can be worked with until then.
    pub(super) fn survivor_is_forlorn_at(&self) -> Option<Duration> {
        let survivor = self.survivor.as_ref().filter(|_| self.usable.is_none())?;
        survivor.is_forlorn_at(self.pace.fail)
    }

    /// Gives it up when that time has come.
    pub(super) fn survivor_may_be_forlorn(&mut self, now: Duration) -> Change {
        let is_forlorn = self.survivor_is_forlorn_at().is_some_and(|at| now >= at);
        match self.survivor.as_mut().filter(|_| is_forlorn) {
            Some(survivor) => {
                self.goal = Goal::Stop(survivor.condemn());
                Change::Goal
            }
            None => Change::Nothing,
        }
    }

    /// Our part in a planned change of the primary, as it was last known.
    pub(super) fn part(&self) -> Option<&Part> {
        self.part.as_ref()
    }

    /// How old the reading may be that is to follow the one that has just ended, if one is.
    pub(super) fn must_read_again(&mut self) -> Option<Duration> {
        self.reading.again.take()
    }

    /// Whether a reading is under way.
    pub(super) fn is_being_read(&self) -> bool {
        self.reading.asked.is_some()
    }

    /// When the next reading is due if nothing happens before; none while one is under way.
    pub(super) fn due(&self) -> Option<Duration> {
        self.reading.asked.is_none().then_some(self.reading.due)
    }

    /// The last cluster data that could be worked with, and as of when they are.
    pub(super) fn known(&self) -> Option<(&UsableCluster, Duration)> {
        Some((self.usable.as_deref()?, self.reading.known?))
    }

    /// Whether the store was asked once, and has answered or not.
    pub(super) fn is_known(&self) -> bool {
        self.reading.known.is_some() || self.doubt.is_some()
    }

    /// Whether the store has answered once.
    pub(super) fn has_answered(&self) -> bool {
        self.reading.answered
    }

    /// Whether what is known is young enough for something that only one may do.
    pub(super) fn freshness(&self, now: Duration) -> Freshness {
        if self.doubt.is_some() {
            return Freshness::InDoubt;
        }
        let limit = FRESH + 2 * self.reading.latency;
        match self.reading.known {
            Some(as_of) if now.saturating_sub(as_of) <= limit => Freshness::Fresh,
            _ => Freshness::Stale,
        }
    }

    /// What is to be pursued now. In doubt that is what an earlier word allows without the store's present one: a server that was
    /// in our charge comes back where nobody can be harmed by it, as a standby, or as a primary behind its gate; and no primary is restarted.
    pub(super) fn goal_for(&self, seen: &Observation, restart: RestartUnderWay) -> Goal {
        match (&self.doubt, &self.goal) {
            (None, goal) => goal.clone(),
            (Some(_), goal) if self.condemned().is_some() => goal.clone(),
            (Some(_), Goal::Reach(goal)) if is_harmless(goal, seen, restart) => {
                let mut goal = goal.clone();
                if let InstanceRole::Primary(_) = goal.role {
                    goal.restart = RestartPolicy::Manual;
                }
                Goal::Reach(goal)
            }
            (Some(doubt), _) => Goal::LeaveAlone(doubt.clone()),
        }
    }

    /// What is asked of us, as it was last known.
    pub(super) fn goal(&self) -> &Goal {
        &self.goal
    }

    /// Why the store's present word is not known.
    pub(super) fn doubt(&self) -> Option<&LeaveAlone> {
        self.doubt.as_ref()
    }

    /// The last cluster data that could be worked with.
    pub(super) fn data(&self) -> Option<&ClusterData> {
        self.usable.as_ref().map(|usable| usable.data())
    }

    pub(super) fn cluster(&self) -> &ClusterUid {
        &self.cluster
    }

    /// Of the last cluster data that could be worked with.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// What the specification sets by name, for the report of parameters.
    pub(super) fn specified(&self) -> &Parameters {
        &self.specified
    }

    pub(super) fn pace(&self) -> Pace {
        self.pace
    }
}

/// How sure we are of what is asked of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It was read just now.
    Fresh,
    /// It was read a while ago.
    Stale,
    /// The store did not answer the last time.
    InDoubt,
}

/// Nobody is harmed by a standby, nor by a primary that runs already and goes on. One that starts in synchronous mode opens its gate
/// only when the standbys that acknowledged its commits follow it again, which they do not once another one was elected. One that was
/// stopped only to be started again would run, too, if it had not been; and so may one that nobody can replace, since all others have pledged.
/// A lease decides by itself whether clients come to it.
fn is_harmless(goal: &InstanceGoal, seen: &Observation, restart: RestartUnderWay) -> bool {
    if seen.local.uid != goal.uid || seen.local.initializing {
        return false;
    }
    let Data::Present(present) = &seen.data else { return false };
    let primary = match &goal.role {
        InstanceRole::Standby(_) => return present.kind == DataKind::Standby,
        InstanceRole::Primary(primary) => primary,
    };
    let has_standbys = primary.synchronous.as_ref().is_some_and(|standbys| !standbys.is_empty());
    let is_deposed = primary.deposed.is_some();
    match &seen.server {
        Server::Stopped => {
            let is_pledged = seen.lease == Lease::Pledged;
            let comes_back = has_standbys || is_pledged || restart == RestartUnderWay::Yes;
            comes_back && !is_deposed && present.kind == DataKind::Primary
        }
        Server::Running(None) => present.kind == DataKind::Primary,
        Server::Running(Some(live)) => {
            let is_leased = seen.lease != Lease::Unlimited;
            !live.in_recovery && (is_deposed || has_standbys || is_leased || seen.gate == Gate::Open)
        }
    }
}

#[cfg(test)]
#[path = "orders_tests.rs"]
mod tests;
