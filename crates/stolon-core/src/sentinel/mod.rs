//! The sentinel's decision: from what all the others report to the next version of the cluster data.
//!
//! [`reconcile`] reads top to bottom; each rule lives in the file that is named for its concern. The order of
//! the steps matters: later ones see what earlier ones did.

pub mod check;
mod classify;
mod convergence;
mod election;
mod fence;
mod followers;
mod health;
mod heartbeat;
mod init;
mod memory;
mod proxy;
mod reasons;
mod removal;
mod round;
mod stamp;
mod standbys;
mod sync;

use std::collections::BTreeMap;
use std::time::Duration;

use stolon_model::{
    ClusterData, InstanceUid, KeeperReport, KeeperUid, Phase, ProxyReport, ProxyUid, Role, Timestamp,
};

pub use memory::{
    Admission, Closed, Convergence, Demotion, Handover, KeeperSighting, Life, Memory, ProxySighting, Stall,
};
pub use reasons::{
    BrokenDocument, Change, ClosingReason, Hold, KeeperFault, PrimaryFault, Rejection, RemovalReason,
};

use election::Outcome;
use heartbeat::FirstLook;
use round::Round;

/// What a sentinel sees of the store at one moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The truth so far. Its specification must be valid.
    pub cluster: &'a ClusterData,
    /// What keepers say.
    pub keepers: &'a BTreeMap<KeeperUid, KeeperReport>,
    /// What proxies say.
    pub proxies: &'a BTreeMap<ProxyUid, ProxyReport>,
}

/// The time, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// A clock that only moves forward, from any origin. Every rule but one uses it.
    pub monotonic: Duration,
    /// The time of day, for what people read and for keepers that were away for days.
    pub wall: Timestamp,
}

/// Where new identities and dice come from.
pub trait UidSource {
    /// A new identity for an instance: 8 hexadecimal digits that no other instance has.
    fn instance_uid(&mut self) -> InstanceUid;

    /// A number below `count`, all equally likely. `count` is at least 1.
    fn choose(&mut self, count: usize) -> usize;
}

/// How soon a decision must be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Not at all: the document is not to be touched.
    Nothing,
    /// With the next sign of life of the leader, at least once per sleep interval: only positions and times moved.
    Routine,
    /// At once.
    AtOnce,
}

/// What a round decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The next version of the cluster data. Without changes it differs from the last one in times and positions.
    pub next: ClusterData,
    /// What to remember when `next` was written, or need not be.
    pub memory: Memory,
    /// What to remember when writing `next` failed.
    pub memory_if_refused: Memory,
    /// What changed, and why.
    pub changes: Vec<Change>,
    /// What did not, and why not.
    pub holds: Vec<Hold>,
    /// When the verdict may change without anything new being seen, on the monotonic clock.
    pub wake_at: Option<Duration>,
    /// How soon `next` must be written.
    pub urgency: Urgency,
}

/// Look at the view and remember it, without deciding anything: what a sentinel does that does not lead.
/// It can then take over without losing the time in which others were already silent.
pub fn observe(view: &View<'_>, memory: &Memory, now: Now) -> Memory {
    let (mut memory, _) = heartbeat::look(view, memory, now);
    memory.led = false;
    memory
}

/// Decide the next version of the cluster data. Pure: the same arguments give the same decision.
pub fn reconcile(view: &View<'_>, memory: &Memory, now: Now, uids: &mut dyn UidSource) -> Decision {
    let begin_anew = Memory::default();
    let memory = if took_over_blind(view, memory, now) { &begin_anew } else { memory };
    let mut round = Round::begin(view, memory, now, uids);
    if round.sightings.first == FirstLook::Yes {
        round.hold(Hold::FirstRound);
        return round.finish();
    }
    health::keepers(&mut round);
    health::instances(&mut round);
    match view.cluster.cluster.status.phase.clone() {
        Some(Phase::Initializing) => init::advance(&mut round),
        Some(Phase::Normal) if round.primary().is_none() => {
            let primary = view.cluster.cluster.status.primary.clone();
            let what = BrokenDocument::PrimaryMissing { primary };
            return round.leave_untouched(Hold::BrokenDocument { what });
        }
        Some(Phase::Normal) => run(&mut round),
        other => {
            let phase = other.map(|phase| phase.as_str().to_owned()).unwrap_or_default();
            return round.leave_untouched(Hold::BrokenDocument { what: BrokenDocument::Phase { phase } });
        }
    }
    stamp::instances(&mut round);
    let decision = round.finish();
    debug_assert!(
        !check::violations(view.cluster).is_empty() || check::violations(&decision.next).is_empty(),
        "a good document became a bad one: {:?}",
        check::violations(&decision.next)
    );
    decision
}

/// True when this sentinel leads from now on and has not watched without a gap until now.
fn took_over_blind(view: &View<'_>, memory: &Memory, now: Now) -> bool {
    let pause = memory.last_read.map(|last_read| now.monotonic.saturating_sub(last_read));
    let longest = heartbeat::longest_pause(&view.cluster.cluster.spec.effective());
    !memory.led && pause.is_some_and(|pause| pause > longest)
}

/// Phase "normal": the cluster has a primary.
fn run(round: &mut Round<'_>) {
    removal::dead_keepers(round);
    let Some(primary) = round.primary().cloned() else { return };
    match election::decide(round, &primary) {
        Outcome::Elected | Outcome::Fencing => {}
        Outcome::Stays => {
            proxy::manage(round, &primary);
            promote_standby_cluster(round, &primary.uid);
            if primary.status.healthy && convergence::is_converged(&primary) {
                manage_standbys(round, &primary.uid);
            } else {
                await_primary(round, &primary);
            }
        }
    }
    followers::update(round, &primary.uid);
}

fn promote_standby_cluster(round: &mut Round<'_>, primary: &InstanceUid) {
    if round.spec.role != Role::Primary {
        return;
    }
    let Some(primary) = round.next.instances.get_mut(primary) else { return };
    if primary.spec.role != Some(Role::Primary) {
        round.changes.push(Change::StandbyClusterPromoted { instance: primary.uid.clone() });
    }
    primary.spec.role = Some(Role::Primary);
    primary.spec.follow_config = None;
}

/// Everything about standbys, in the only situation in which it is safe: the primary works and does what it is
/// asked to.
fn manage_standbys(round: &mut Round<'_>, primary_uid: &InstanceUid) {
    let Some(primary) = round.next.instances.get(primary_uid).cloned() else { return };
    removal::useless_instances(round, &primary);
    let sets = classify::standbys(round, &primary);
    standbys::settle(round, &sets.good);
    sync::manage(round, &primary, &sets.good);
    standbys::balance(round, primary_uid, &sets);
    standbys::point_at(round, primary_uid);
}

fn await_primary(round: &mut Round<'_>, primary: &stolon_model::Instance) {
    if primary.status.healthy {
        round.hold(Hold::AwaitingPrimary {
            primary: primary.uid.clone(),
            keeper: primary.spec.keeper_uid.clone(),
            generation: primary.generation,
            current: primary.status.current_generation,
        });
    }
}
