//! What operators ask for: `stolonctl failkeeper`.
//!
//! A request is for the moment in which it was made. It lapses when another primary was elected meanwhile, or when no sentinel wrote for
//! longer than it takes to notice a failure. An instance that takes the place of a primary that works must have shown life since.

use std::time::Duration;

use stolon_model::{FailOutcome, FailRequest, Instance, InstanceUid, Keeper, KeeperUid, Pause, Timestamp};

use super::memory::Request;
use super::pause::Standstill;
use super::round::Round;
use super::wake::Wake;
use super::{Hold, Rejection};

/// How long it is shown what became of a request.
pub(super) const SHOWN: Duration = Duration::from_secs(600);

impl Round<'_> {
    /// Take the requests of operators; returns the keepers that count as failed in this round.
    pub fn take_requests(&mut self) -> Vec<KeeperUid> {
        let asks = |keeper: &&Keeper| keeper.status.force_fail || keeper.status.fail_request.is_some();
        let asked: Vec<KeeperUid> =
            self.draft.keepers.values().filter(asks).map(|keeper| keeper.uid.clone()).collect();
        if let Standstill::Holds(pause, _) = &self.seen.standstill {
            asked.iter().for_each(|uid| self.refuse_request(uid, pause));
            return Vec::new();
        }
        asked.into_iter().filter(|uid| self.take_request(uid)).collect()
    }

    /// A request that comes while the cluster is paused, or was under way when the pause began, comes to nothing: whoever paused
    /// the cluster counts on it.
    fn refuse_request(&mut self, uid: &KeeperUid, pause: &Pause) {
        self.draft.take_force_fail(uid);
        let why = format!("the cluster is paused {pause}; stolonctl resume ends the pause");
        self.draft.conclude_request(uid, FailOutcome::Nothing, why);
        self.tidy_request(uid);
    }

    /// Take the request about a keeper, once. True if the keeper counts as failed in this round.
    fn take_request(&mut self, uid: &KeeperUid) -> bool {
        self.tidy_request(uid);
        if !self.draft.take_force_fail(uid) {
            return false;
        }
        let request = self.draft.keepers.get(uid).and_then(|keeper| keeper.status.fail_request.as_ref());
        let open = request.filter(|request| request.outcome.is_none());
        if let Some(why) = open.and_then(|request| self.lapse(request)) {
            self.draft.conclude_request(uid, FailOutcome::Lapsed, why.to_owned());
            return false;
        }
        if self.draft.primary().is_some_and(|primary| primary.spec.keeper_uid == *uid) {
            self.memory.request = Some(Request { keeper: uid.clone(), since: self.seen.now.monotonic });
        } else {
            self.draft.conclude_request(uid, FailOutcome::Counted, "its db was not the primary".to_owned());
        }
        true
    }

    pub fn lapse(&self, request: &FailRequest) -> Option<&'static str> {
        let limit = self.seen.spec.sleep_interval * 2 + self.seen.spec.fail_interval;
        if request.primary != self.draft.cluster.status.primary {
            return Some("another primary was elected after it was made");
        }
        (!request.made_for.is_never() && self.age(request.made_for) > limit)
            .then_some("no sentinel was at work when it was made")
    }

    /// The time since then, by the wall clock.
    pub fn age(&self, since: Timestamp) -> Duration {
        let age = self.seen.now.wall.instant().duration_since(since.instant());
        Duration::try_from(age).unwrap_or(Duration::ZERO)
    }

    /// What became of a request is shown for a while. A request that this sentinel does not remember was taken by one that led before.
    fn tidy_request(&mut self, uid: &KeeperUid) {
        let Some(status) = self.draft.keepers.get(uid).map(|keeper| &keeper.status) else { return };
        let Some(request) = &status.fail_request else { return };
        if let (Some(kind), None) = (&request.kind, &request.outcome) {
            let (request, kind) = (request.clone(), kind.clone());
            return self.watch_errand(uid, &request, &kind);
        }
        let is_ours = self.memory.request.as_ref().is_some_and(|request| request.keeper == *uid);
        if request.outcome.is_some() && self.age(request.decided_at) > SHOWN {
            self.draft.drop_request(uid);
        } else if request.outcome.is_none() && !status.force_fail && !is_ours {
            let why = "the sentinel that had taken it no longer leads".to_owned();
            self.draft.conclude_request(uid, FailOutcome::Lapsed, why);
        }
    }

    /// Whether an operator has asked for the replacement of this primary.
    pub fn is_requested(&self, primary: &Instance) -> bool {
        self.memory.request.as_ref().is_some_and(|request| request.keeper == primary.spec.keeper_uid)
    }

    /// A request is over once another instance is the primary, for whatever reason.
    pub fn forget_request_of_others(&mut self, primary: &Instance) {
        if let Some(request) =
            self.memory.request.take_if(|request| request.keeper != primary.spec.keeper_uid)
        {
            let why = format!("{} is the primary", primary.uid);
            self.draft.conclude_request(&request.keeper, FailOutcome::Replaced, why);
        }
    }

    /// Note that the request was fulfilled.
    pub fn fulfil_request(&mut self, successor: &InstanceUid) {
        if let Some(request) = self.memory.request.take() {
            let why = format!("db {successor} was elected");
            self.draft.conclude_request(&request.keeper, FailOutcome::Replaced, why);
        }
    }

    /// An instance whose keeper has not reported since the request may be gone already.
    pub fn not_seen_since_request(&self, instance: &Instance) -> Option<Rejection> {
        let request = self.memory.request.as_ref()?;
        let seen = self.memory.keepers.get(&instance.spec.keeper_uid).map(|sighting| sighting.since);
        (!seen.is_some_and(|seen| seen > request.since)).then_some(Rejection::NotSeenSinceRequest)
    }

    /// No standby can take over: wait for signs of life for a moment, then conclude the request.
    pub fn let_request_go(&mut self, hold: &Hold) -> Wake {
        let (Some(request), Hold::NoEligibleStandby { rejected, .. }) = (&self.memory.request, hold) else {
            return Wake::NEVER;
        };
        let may_report = rejected.iter().any(|(_, why)| *why == Rejection::NotSeenSinceRequest);
        let patience = self.seen.spec.sleep_interval * 2 + self.seen.view.usual_delay * 2;
        let limit = self.seen.limit(request.since, patience);
        if may_report && !limit.is_over() {
            return limit.wake();
        }
        self.draft.conclude_request(&request.keeper, FailOutcome::Nothing, hold.to_string());
        self.memory.request = None;
        Wake::NEVER
    }
}
