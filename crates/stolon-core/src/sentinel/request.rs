//! What operators ask for: `stolonctl failkeeper`.
//!
//! A request is for the moment it was made in. It lapses when another primary was elected meanwhile, or when no sentinel wrote for
//! longer than it takes to notice a failure; and whoever takes the place of a primary that works must have shown life since.

use std::time::Duration;

use stolon_model::{FailOutcome, FailRequest, Instance, InstanceUid, KeeperUid, Timestamp};

use super::memory::Request;
use super::round::Round;
use super::{Hold, PrimaryFault, Rejection};

/// How long it is shown what became of a request.
const SHOWN: Duration = Duration::from_secs(600);

impl Round<'_> {
    /// Take the request about a keeper in, once: whether it counts as failed in this round.
    pub fn take_request(&mut self, uid: &KeeperUid) -> bool {
        self.tidy_request(uid);
        let Some(keeper) = self.data.keepers.get_mut(uid) else { return false };
        if !std::mem::take(&mut keeper.status.force_fail) {
            return false;
        }
        let request = keeper.status.fail_request.clone().filter(|request| request.outcome.is_none());
        if let Some(why) = request.and_then(|request| self.lapse(&request)) {
            self.conclude(uid, FailOutcome::Lapsed, why);
            return false;
        }
        if self.data.primary().is_some_and(|primary| primary.spec.keeper_uid == *uid) {
            self.memory.request = Some(Request { keeper: uid.clone(), since: self.now.monotonic });
        } else {
            self.conclude(uid, FailOutcome::Counted, "it was not the primary's");
        }
        true
    }

    fn lapse(&self, request: &FailRequest) -> Option<&'static str> {
        let limit = self.spec.sleep_interval * 2 + self.spec.fail_interval;
        if request.primary != self.data.cluster.status.primary {
            return Some("another primary was elected after it was made");
        }
        (!request.made_for.is_never() && self.age(request.made_for) > limit)
            .then_some("no sentinel was at work when it was made")
    }

    /// By the clock on the wall.
    fn age(&self, since: Timestamp) -> Duration {
        let age = self.now.wall.instant().duration_since(since.instant());
        Duration::try_from(age).unwrap_or(Duration::ZERO)
    }

    /// What became of a request is shown for a while. One that nobody remembers any more was taken by a sentinel that led before.
    fn tidy_request(&mut self, uid: &KeeperUid) {
        let Some(status) = self.data.keepers.get(uid).map(|keeper| &keeper.status) else { return };
        let Some(request) = &status.fail_request else { return };
        let is_ours = self.memory.request.as_ref().is_some_and(|request| request.keeper == *uid);
        if request.outcome.is_some() && self.age(request.decided_at) > SHOWN {
            if let Some(keeper) = self.data.keepers.get_mut(uid) {
                keeper.status.fail_request = None;
            }
        } else if request.outcome.is_none() && !status.force_fail && !is_ours {
            self.conclude(uid, FailOutcome::Lapsed, "the sentinel that had taken it no longer leads");
        }
    }

    /// Write down what became of a request, where it can be told.
    fn conclude(&mut self, uid: &KeeperUid, outcome: FailOutcome, because: impl Into<String>) {
        let wall = self.now.wall;
        let request = self.data.keepers.get_mut(uid).and_then(|keeper| keeper.status.fail_request.as_mut());
        if let Some(request) = request.filter(|request| request.outcome.is_none()) {
            request.outcome = Some(outcome);
            request.because = because.into();
            request.decided_at = wall;
        }
    }

    /// A primary whose replacement an operator has asked for.
    pub fn is_requested(&self, primary: &Instance) -> bool {
        self.memory.request.as_ref().is_some_and(|request| request.keeper == primary.spec.keeper_uid)
    }

    /// A request is over once another instance is the primary, for whatever reason.
    pub fn forget_request_of_others(&mut self, primary: &Instance) {
        if let Some(request) =
            self.memory.request.take_if(|request| request.keeper != primary.spec.keeper_uid)
        {
            self.conclude(&request.keeper, FailOutcome::Replaced, format!("{} is the primary", primary.uid));
        }
    }

    /// The operator's wish is fulfilled.
    pub fn fulfil_request(&mut self, successor: &InstanceUid) {
        if let Some(request) = self.memory.request.take() {
            self.conclude(&request.keeper, FailOutcome::Replaced, format!("db {successor} was elected"));
        }
    }

    /// An instance whose keeper has not reported since the request may be gone already.
    pub fn not_seen_since_request(&self, instance: &Instance) -> Option<Rejection> {
        let request = self.memory.request.as_ref()?;
        let seen = self.memory.keepers.get(&instance.spec.keeper_uid).map(|sighting| sighting.since);
        (!seen.is_some_and(|seen| seen > request.since)).then_some(Rejection::NotSeenSinceRequest)
    }

    /// Nobody can take over: wait for signs of life for a moment, then let the request go.
    pub fn let_request_go(
        &mut self,
        primary: &Instance,
        because: &PrimaryFault,
        rejected: &[(InstanceUid, Rejection)],
    ) {
        let Some(request) = self.memory.request.clone() else { return };
        let may_report = rejected.iter().any(|(_, why)| *why == Rejection::NotSeenSinceRequest);
        let patience = self.spec.sleep_interval * 2 + self.view.usual_delay * 2;
        if may_report && !self.is_over(request.since, patience) {
            return;
        }
        self.memory.request = None;
        let hold = Hold::NoEligibleStandby {
            primary: primary.uid.clone(),
            because: because.clone(),
            rejected: rejected.to_vec(),
        };
        self.conclude(&request.keeper, FailOutcome::Nothing, hold.to_string());
    }
}
