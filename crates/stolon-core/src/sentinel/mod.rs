//! What the sentinel decides.
//!
//! [`Machine`] is the whole program without IO. [`reconcile`] decides: from one view of a cluster it makes the
//! cluster data that should be, and says what changed and why, and what did not change and why not. It remembers only what is
//! in [`Memory`], and knows the time only from [`Now`].

mod ahead;
mod challenge;
mod check;
mod draft;
mod election;
mod eligibility;
mod errand;
mod event;
mod fence;
mod followers;
mod formers;
mod health;
mod heartbeat;
mod history;
mod init;
mod joined;
mod machine;
mod memory;
mod migration;
mod pause;
mod proxy;
mod quorum;
mod readiness;
mod reasons;
mod recover;
mod recover_reasons;
mod removal;
mod request;
mod round;
mod seen;
mod settle;
mod spare;
mod standbys;
mod steady;
mod switchover;
mod switchover_reasons;
mod sync;
mod verdicts;
mod wake;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use stolon_model::{
    ClusterData, ClusterUid, InstanceUid, KeeperReport, KeeperUid, ProxyReport, ProxyUid, Timestamp,
    UsableCluster,
};

pub use crate::evidence::Evidence;
pub use ahead::{Ahead, Older, SawNewer, Witnesses, older_than};
pub use check::{Violation, violations};
pub use eligibility::{Eligibility, eligibility};
pub use event::{Attention, Effect, Event, Expected, Measure, Reading, Saying, Told, Trouble, WriteOutcome};
pub use machine::{Machine, Setup};
pub use memory::{
    Admission, Challenged, Closed, Convergence, Demotion, Fenced, Handover, KeeperSighting, Life, Memory,
    ProxySighting, Refused, Request, Stall, SwitchoverSighting, Unproven,
};
pub use pause::PauseSighting;
pub use readiness::{Impediment, Leadership, Loss, Readiness, Successor, readiness};
pub use reasons::{BrokenDocument, Change, Hold};
pub use recover::{CannotRecover, former_primaries_held, held, recover};
pub use recover_reasons::{Held, Was, WouldBeLost};
use round::Round;
use seen::Seen;
pub use settle::{CannotSettle, accept_loss, newest, take_newest};
pub use spare::{CannotSpare, spare};
pub use switchover::fitness;
pub use switchover_reasons::{Obstacle, SwitchoverChange, SwitchoverWait, Unfit, Wish};
pub use verdicts::{KeeperFault, PrimaryFault, Rejection, RemovalReason};
use wake::Wake;

/// What a sentinel sees at one moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The cluster data.
    pub cluster: &'a UsableCluster,
    /// The reports of all keepers.
    pub keepers: &'a BTreeMap<KeeperUid, Arc<KeeperReport>>,
    /// The reports of all proxies.
    pub proxies: &'a BTreeMap<ProxyUid, ProxyReport>,
    /// Proxies whose report cannot be read: they may be forwarding.
    pub unreadable_proxies: &'a BTreeSet<ProxyUid>,
    /// Whether this sentinel may decide.
    pub standing: Standing,
    /// When the view began to be read, on the clock of [`Now`]: it shows the store as it was then, or later.
    pub read_at: Duration,
    /// How long requests to the store usually take at the most.
    pub usual_delay: Duration,
    /// What the store told by itself, on the same clock.
    pub told: &'a Told,
}

impl<'a> View<'a> {
    /// The last report of a keeper.
    pub fn report_of(&self, keeper: &KeeperUid) -> Option<&'a KeeperReport> {
        self.keepers.get(keeper).map(|report| &**report)
    }

    /// When the store was last heard of: it answered, or told something new.
    pub fn heard(&self) -> Duration {
        self.read_at.max(self.told.last)
    }
}

/// Whether a sentinel may decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The leader, whose decisions are written.
    Leader,
    /// A follower, which watches so that it can lead at once when the leader is gone.
    Follower,
}

/// The time. The monotonic clock decides; the wall clock is for stamps and for forgetting dead keepers.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Time since an arbitrary moment; never jumps.
    pub monotonic: Duration,
    /// The wall clock.
    pub wall: Timestamp,
}

/// The source of uids of new instances.
pub trait UidSource {
    /// A uid that was never used before.
    fn instance_uid(&mut self) -> InstanceUid;

    /// The same for a cluster.
    fn cluster_uid(&mut self) -> ClusterUid {
        ClusterUid::from(self.instance_uid().as_str())
    }
}

/// What a round decided.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The cluster data to write; equal to what was read when nothing changes.
    pub next: ClusterData,
    /// What to remember.
    pub memory: Memory,
    /// What changes, and why.
    pub changes: Vec<Change>,
    /// What does not change, and why not.
    pub holds: Vec<Hold>,
    /// How urgent the difference is.
    pub weight: Weight,
    /// The earliest moment, on the monotonic clock, at which the same view would be decided otherwise.
    pub wake_at: Option<Duration>,
}

/// How urgent the difference between what was read and what was decided is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// A keeper or a proxy must act on it: write at once.
    Decisive,
    /// Times and positions only: write as a sign of life, once per sleep interval.
    Routine,
}

impl Decision {
    /// What to remember if the write of this decision did not succeed: the next round must act on the same reports.
    pub fn memory_of_refused_write(self, before: &Memory) -> Memory {
        self.memory.of_refused_write(before)
    }
}

/// Decide on what one view of the cluster shows.
///
/// A round sees (`Seen`, which never changes), drafts the next document (`Draft`, which notes each change) and remembers
/// ([`Memory`]).
pub fn reconcile(view: &View<'_>, memory: &Memory, now: Now, uids: &mut dyn UidSource) -> Decision {
    let (seen, memory) = Seen::of(view, memory, now);
    let mut round = Round::on(&seen, memory);
    if seen.is_first {
        // What another leader stored may be minutes or days old.
        round.hold(Hold::FirstRound);
        return round.decided(Wake::NEVER);
    }
    if view.standing == Standing::Follower {
        round.see_instances();
        return round.only_watched(Wake::NEVER);
    }
    if round.store_went_back() {
        // Keepers start nothing meanwhile: who does not work is given its time once somebody has settled.
        round.memory.trouble.clear();
        return round.decided(Wake::NEVER);
    }
    round.note_lockouts();
    let wake = round.honour_pause();
    round.register_keepers();
    round.see_instances();
    let evidence = round.weigh_evidence(uids);
    let verdicts = evidence.or(round.judge_keepers()).or(round.judge_instances());
    let wake = wake.or(verdicts).or(round.follow_phase(uids));
    if round.is_broken() {
        return round.only_watched(wake);
    }
    round.keep_formers();
    round.draft.copy_specification(seen.spec);
    round.draft.count_generations();
    round.decided(wake)
}
