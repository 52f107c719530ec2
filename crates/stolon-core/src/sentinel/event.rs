//! What a sentinel's machine is told, and what it asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use stolon_model::{
    BadClusterData, ClusterDocument, ClusterUid, Explained, HistoryEntry, KeeperReport, KeeperUid,
    ProxyReport, ProxyUid, SentinelReport,
};

use super::{Change, Hold, Loss, Standing};

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The machine begins: the first event.
    Started,
    /// The store may hold something else than before (its watch).
    StoreChanged,
    /// The answer to [`Effect::ReadView`].
    ViewRead(Box<Reading>),
    /// The store did not answer [`Effect::ReadView`].
    ViewUnreadable(Explained),
    /// The answer to [`Effect::CompareAndPut`].
    WriteEnded(WriteOutcome),
    /// The answer to [`Effect::PublishReport`].
    ReportEnded(Result<(), Explained>),
    /// This sentinel leads now, or leads no longer.
    StandingChanged(Standing),
    /// The time of [`Effect::WakeAt`] has come. May come too early, too often, and too late.
    TimePassed,
}

/// All that a sentinel decides on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The reading shows everything that was written before this time of the machine's clock.
    pub as_of: Duration,
    /// The cluster data.
    pub document: Option<ClusterDocument>,
    /// The reports of all keepers.
    pub keepers: BTreeMap<KeeperUid, Arc<KeeperReport>>,
    /// The reports of all proxies that can be read.
    pub proxies: BTreeMap<ProxyUid, ProxyReport>,
    /// Proxies whose report cannot be read: they may be forwarding.
    pub unreadable_proxies: BTreeSet<ProxyUid>,
    /// What the store told by itself.
    pub told: Told,
}

/// What the store told by itself, between two questions. Times are of the machine's clock. The default: it tells nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// When something new was last told. All that was told before is in the reading, in the order in which it was written.
    pub last: Duration,
    /// When the report of a keeper came here; one that is missing came with the reading.
    pub keepers: BTreeMap<KeeperUid, Duration>,
}

/// How a conditional write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The document is in the store.
    Written,
    /// Another writer was faster. Nothing was changed.
    Conflict,
    /// No answer came: it may have happened, may still happen, or may not.
    Unknown(Explained),
    /// Nothing was changed.
    Failed(Explained),
}

/// What is to be done. Effects of one event are begun in their order; none waits for another.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Get a [`Reading`], and answer with [`Event::ViewRead`] or [`Event::ViewUnreadable`]. Never asked for while a reading or a
    /// write is under way.
    ReadView {
        /// It may be as of so long ago. Where what is known is older, the store is asked; zero always asks, linearizable.
        at_most: Duration,
        /// It may be known without a question for as long as the store told something new within this time.
        silence: Duration,
    },
    /// Write the cluster data under a condition, and answer with [`Event::WriteEnded`]. Never asked for while a reading or another
    /// write is under way.
    CompareAndPut {
        /// The content.
        document: Arc<ClusterDocument>,
        /// The condition.
        expected: Expected,
    },
    /// Publish the own report, and answer with [`Event::ReportEnded`]. Never asked for while one is under way.
    PublishReport {
        /// The content.
        report: Box<SentinelReport>,
        /// How long it counts.
        ttl: Duration,
    },
    /// Send [`Event::StoreChanged`] after these changes, until another effect says otherwise. The first one is
    /// [`Attention::Matters`].
    Attend(Attention),
    /// Send [`Event::TimePassed`] at this time of the machine's clock; replaces an earlier one.
    WakeAt(Duration),
    /// Log something.
    Say(Saying),
    /// Update a metric.
    Measure(Measure),
}

/// Which changes are worth a round of their own. Every other change is seen by the next round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// All but reports that only repeat a sign of life, with positions that moved.
    Matters,
    /// Every one: something waits for a position.
    Positions,
}

/// What must lie in the store for a write to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The document of the last [`Reading`].
    AsRead,
    /// No document.
    Absent,
}

/// What a sentinel says to people, as values. The program chooses words and levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saying {
    /// Something was changed.
    Changed(Change),
    /// Something is not changed, for another reason than before.
    Held(Hold),
    /// An operator did something to the cluster.
    Operated(HistoryEntry),
    /// The specification is another one than before, and nobody has told who changed it: a line for each field.
    SpecificationChanged(Vec<String>),
    /// A cluster was made from the initial specification.
    Created,
    /// The specification of the cluster that was made says nothing of where its own users may come from, so that they may come from anywhere.
    AccessLeftOpen,
    /// Another sentinel made it at the same time.
    CreatedByAnother,
    /// Another writer was faster; the decision is made again.
    DecidingAgain,
    /// A round could not be completed, for another reason than before.
    Trouble(Trouble),
    /// Rounds are completed again.
    TroubleOver,
    /// The own report did not reach the store, for another reason than before.
    ReportRefused(Explained),
}

/// Why a round is not completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The store does not answer.
    Unreadable(Explained),
    /// The cluster data cannot be worked with.
    Unusable(BadClusterData),
    /// There is no cluster, and no initial specification.
    NoCluster,
    /// The cluster data are gone. No new cluster is made in their place: its keepers would overwrite their databases.
    Vanished(ClusterUid),
    /// What was decided was not written.
    NotWritten(Explained),
    /// It is not known whether the decision was written.
    WriteUnknown(Explained),
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// A round was completed as the leader.
    RoundCompleted,
    /// This many things were left undone, each with a reason.
    Holds(usize),
    /// Whether this sentinel leads and an operator's pause holds.
    Paused(bool),
    /// What would be lost if the primary failed now; none: nobody could take over, or this sentinel does not lead.
    LossAtFailover(Option<Loss>),
    /// How many former primaries an operator could go on from; none while this sentinel does not lead.
    FormerPrimaries(usize),
}
