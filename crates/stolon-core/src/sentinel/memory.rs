//! What a sentinel remembers between rounds. It is not stored: a sentinel that starts watches for one round before it
//! decides anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::PrimaryFault;
use super::pause::PauseSighting;
use stolon_model::{
    Challenge, ClusterSpec, ClusterUid, InfoUid, InstanceUid, KeeperReport, KeeperUid, Lsn, ProxyReport,
    ProxyUid,
};

/// What a sentinel remembers between rounds: plain data that the program keeps and passes back.
/// All times are readings of the monotonic clock of [`super::Now`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The cluster that the memory is about. For another cluster it is emptied.
    pub cluster_uid: Option<ClusterUid>,
    /// When the store was last heard of; `None`: never.
    pub last_read: Option<Duration>,
    /// Whether the last round was decided as the leader.
    pub led: bool,
    /// The highest epoch that the document ever had, in the store and not only in a decision.
    pub epoch: u64,
    /// How far each instance ever was.
    pub marks: BTreeMap<InstanceUid, crate::timeline::Mark>,
    /// Keepers that were registered when the view was last read.
    pub registered: BTreeSet<KeeperUid>,
    /// The reports of keepers that were removed or forgotten: they prove no life any more.
    pub dismissed: BTreeMap<KeeperUid, InfoUid>,
    /// The pause in the cluster data, whether or not it still holds.
    pub pause: Option<PauseSighting>,
    /// The request of an operator to replace the primary.
    pub request: Option<Request>,
    /// Reports of keepers; also of those that should report and do not.
    pub keepers: BTreeMap<KeeperUid, KeeperSighting>,
    /// Since when an instance has not been reported to work.
    pub trouble: BTreeMap<InstanceUid, Duration>,
    /// Instances whose position has stopped.
    pub stalls: BTreeMap<InstanceUid, Stall>,
    /// Instances that have not reached their generation.
    pub convergence: BTreeMap<InstanceUid, Convergence>,
    /// Reports of proxies.
    pub proxies: BTreeMap<ProxyUid, ProxySighting>,
    /// Since when clients are sent nowhere.
    pub closed: Option<Closed>,
    /// Standbys on their way into the set of those that hold every acknowledged commit.
    pub admissions: BTreeMap<InstanceUid, Admission>,
    /// An orderly replacement of a working primary.
    pub handover: Option<Handover>,
    /// A primary that was asked to let its clients go before it is replaced.
    pub fenced: Option<Fenced>,
    /// The challenge of the primary's keeper.
    pub challenge: Option<Challenged>,
    /// The last challenge that proved nothing.
    pub unproven: Option<Unproven>,
    /// Keepers that count as failed on evidence, until they report.
    pub refused: BTreeMap<KeeperUid, Refused>,
    /// The planned change of the primary that is under way.
    pub switchover: Option<SwitchoverSighting>,
    /// The last replacement of a working primary because it did not reach its generation.
    pub demotion: Option<Demotion>,
    /// Keepers that did not make the first instance in time, the last one last: others are tried before them.
    pub given_up: Vec<KeeperUid>,
}

impl Memory {
    /// Whether something goes by positions that are yet to be reported.
    pub fn awaits_positions(&self) -> bool {
        self.handover.is_some()
            || self.switchover.is_some()
            || self.request.is_some()
            || !self.admissions.is_empty()
    }
}

/// An operator wants a primary to be replaced (`stolonctl failkeeper`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The keeper of the primary.
    pub keeper: KeeperUid,
    /// When the request was found in the store: who reports later is alive.
    pub since: Duration,
}

/// What is known of a keeper's reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperSighting {
    /// The last report; `None`: there never was one.
    pub report: Option<Arc<KeeperReport>>,
    /// Whether a report was seen to change, the only proof of life.
    pub life: Life,
    /// When the last report was first seen, or when the keeper was first missed.
    pub since: Duration,
}

/// Whether a keeper has shown life to this sentinel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The report was there when this sentinel began; it may be old.
    Unproven,
    /// The report appeared or changed while this sentinel ran.
    Proven,
}

/// An instance whose position was the same in every report since then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The position.
    pub lsn: Lsn,
    /// When it was first reported.
    pub since: Duration,
}

/// An instance that has not reached its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convergence {
    /// The generation to reach.
    pub generation: i64,
    /// Since when it is wanted.
    pub since: Duration,
}

/// What is known of a proxy's reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySighting {
    /// The last report.
    pub report: ProxyReport,
    /// When the report was first seen.
    pub since: Duration,
}

/// Clients are sent nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The generation of the proxy section that says so.
    pub generation: i64,
    /// Since when: everyone who read the document later knows it.
    pub since: Duration,
    /// Whether the document that says so was found in the store; until then `since` is only when it was decided.
    pub in_store: bool,
}

/// How far a standby is on its way into the set of standbys that hold every acknowledged commit.
///
/// Commits acknowledged before the primary waited for the standby are no concern of its acknowledgements. So the
/// standby must first reach the position that the primary had when it certainly waited already: the position in
/// the *second* report in which the primary has the generation that names the standby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The primary has reported that it waits for the standby, in this report.
    Awaited {
        /// Uid of the primary.
        primary: InstanceUid,
        /// The report.
        info_uid: InfoUid,
    },
    /// The position to reach.
    Gate {
        /// Uid of the primary.
        primary: InstanceUid,
        /// The position.
        lsn: Lsn,
    },
}

impl Admission {
    pub(super) fn primary(&self) -> &InstanceUid {
        match self {
            Self::Awaited { primary, .. } | Self::Gate { primary, .. } => primary,
        }
    }
}

/// An orderly replacement of a working primary: clients cannot write any more, and the standby catches up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The primary that is to be replaced.
    pub from: InstanceUid,
    /// Why it is.
    pub because: PrimaryFault,
    /// Since when no proxy forwards any more.
    pub closed_at: Duration,
    /// How many looks its keeper had completed by then; 0 where it does not count them.
    pub looks: u64,
    /// Its position in the first report of a look that was begun after that.
    pub final_lsn: Option<Lsn>,
}

/// The document has a primary let its clients go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The primary.
    pub instance: InstanceUid,
    /// Since when: everyone who read the document later knows it.
    pub since: Duration,
}

/// The primary's keeper is to show that it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenged {
    /// As it stands in the document.
    pub challenge: Challenge,
    /// The keeper's last report when the challenge was decided on: every other one is an answer.
    pub last: Option<InfoUid>,
    /// When it was found in the store.
    pub in_store: Option<Duration>,
}

/// A challenge proved nothing: the keeper lives, or nobody was refused any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproven {
    /// The keeper that was challenged.
    pub keeper: KeeperUid,
    /// When that was known.
    pub at: Duration,
}

/// A keeper did not answer, and its PostgreSQL was gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its last report: another one lifts the verdict.
    pub last: Option<InfoUid>,
    /// The keepers that were refused.
    pub witnesses: Vec<KeeperUid>,
    /// How long it had for an answer.
    pub within: Duration,
}

/// A planned change of the primary that this sentinel has found in the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchoverSighting {
    /// Its uid.
    pub uid: String,
    /// When it was found.
    pub since: Duration,
}

/// A working primary was replaced because it did not reach its generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demotion {
    /// The specification at that time: the next primary meets the same one.
    pub spec: ClusterSpec,
    /// When it was demoted.
    pub at: Duration,
    /// How often this happened in a row.
    pub count: u32,
}

impl Memory {
    /// What stays true however long nothing was seen: how far everything ever was.
    pub(super) fn after_blindness(&self) -> Memory {
        Memory { epoch: self.epoch, marks: self.marks.clone(), ..Memory::default() }
    }

    /// A write without an answer turned out to have been made: what belongs to the decision is remembered after all. What was
    /// seen since then stays.
    pub(super) fn take_over(&mut self, decided: Memory) {
        let Memory { request, closed, admissions, handover, switchover, demotion, given_up, .. } = decided;
        (self.challenge, self.unproven, self.refused) =
            (decided.challenge, decided.unproven, decided.refused);
        (self.request, self.closed, self.admissions) = (request, closed, admissions);
        (self.handover, self.demotion, self.given_up) = (handover, demotion, given_up);
        self.switchover = switchover;
    }

    /// What to remember when the write of a decision was refused: the reports count as not yet seen, so that a
    /// later round acts on them, but running timers keep running.
    pub(super) fn of_refused_write(self, before: &Memory) -> Memory {
        if before.last_read.is_none() || before.cluster_uid != self.cluster_uid {
            // A first round decides nothing. Reports that were there already must be remembered, or they would count as signs of life.
            return self;
        }
        Memory {
            cluster_uid: self.cluster_uid,
            last_read: self.last_read,
            led: self.led,
            pause: self.pause,
            fenced: self.fenced,
            trouble: self.trouble,
            proxies: self.proxies,
            epoch: self.epoch,
            marks: self.marks,
            ..before.clone()
        }
    }
}
