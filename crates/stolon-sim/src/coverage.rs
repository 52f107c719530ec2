//! How far runs get. A campaign that never reaches what is hard proves nothing.

use std::collections::BTreeMap;

/// Something that a campaign must have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Another primary was elected.
    Failover,
    /// A second one within a minute of the first.
    DoubleFailover,
    /// `pg_rewind` succeeded.
    Rewind,
    /// `pg_rewind` failed.
    RewindFailed,
    /// A base backup succeeded.
    Copy,
    /// A base backup failed.
    CopyFailed,
    /// Fewer synchronous standbys than wanted, with a primary that works.
    DegradedSynchronousSet,
    /// Everything was on as many standbys as a quorum asks for.
    QuorumInForce,
    /// Standbys were told to receive nothing, and compared.
    Compared,
    /// Commits were made to wait for nobody known.
    CommitsBlocked,
    /// The store was set back.
    StoreRollback,
    /// An operator settled what to go on from after that.
    Settled,
    /// The store was emptied.
    StoreWiped,
    /// A server stood still.
    HungServer,
    /// A server died again and again.
    CrashLoop,
    /// A promotion took longer than four seconds.
    SlowPromotion,
    /// The answer to a write of the document was lost after it was written.
    UnknownWrite,
    /// Somebody else wrote the document between reading and writing.
    Conflict,
    /// The lead went from one sentinel to another.
    LeaderChanged,
    /// A primary that was deposed still ran.
    DeposedPrimaryRan,
    /// A commit of the asynchronous mode was lost, as it may be.
    AsynchronousLoss,
    /// A proxy closed because it could not check.
    ProxyExpired,
    /// A synchronous primary was started behind its gate.
    GateClosed,
    /// A restarted synchronous primary let its clients in.
    GateOpened,
    /// A wait for standbys was cancelled.
    WaitCancelled,
    /// A client's write ended without a word about its fate.
    UnknownOutcome,
    /// A step was called off.
    CalledOff,
    /// An operator made a keeper fail.
    ForcedFailure,
    /// An operator's or a keeper's request for another primary was fulfilled.
    SwitchoverDone,
    /// It was refused.
    SwitchoverRefused,
    /// It was taken back before the primary was stopped for it.
    SwitchoverTakenBack,
    /// It was taken back after that.
    SwitchoverTakenBackLate,
    /// A keeper that was told to end waited until another one had its primary.
    RelievedBeforeItsEnd,
    /// It waited in vain.
    EndedWithoutRelief,
    /// It was told that nobody is fit yet.
    HeirAwaited,
    /// A keeper took over what an earlier one had left running.
    TakenOver,
    /// A keeper was told to end and to leave its server.
    Departed,
    /// An operator paused the cluster.
    Paused,
    /// An operator saw that nobody could take over, and asked for nothing.
    SwitchoverNotAsked,
    /// An operator ended a pause.
    Resumed,
    /// An operator changed the specification.
    Updated,
    /// An operator had the data of a standby made anew.
    ReinitAsked,
    /// An operator had a server restarted.
    RestartAsked,
    /// An operator had a server read its files.
    ReloadAsked,
    /// An operator chose the priority of a keeper.
    PriorityChosen,
    /// An operator removed a keeper.
    KeeperRemoved,
    /// An operator removed a keeper that ran.
    RemovedWhileItRan,
    /// A keeper was added.
    KeeperJoined,
    /// An operator went on from what another keeper than that of the lost primary held.
    Recovered,
    /// An operator made the cluster anew.
    MadeAnew,
    /// A lookup of a name failed.
    NamesFailed,
    /// A lookup of a name took long.
    NamesLate,
    /// Data were removed under a keeper.
    DataLost,
    /// A keeper was to show that it lives.
    Challenged,
    /// It did not, and was found failed on evidence.
    FailedOnEvidence,
    /// A keeper pledged not to promote its instance.
    Pledged,
    /// A proxy was told that its primary cannot be replaced for a while.
    Vouched,
    /// A promotion waited for the end of a pledge.
    PledgeAwaited,
    /// A primary locked its clients out because its lease was over.
    LeaseOver,
    /// A primary was asked to let its clients go before it was replaced.
    ClientsOut,
    /// A former primary came back by itself, since its successor was lost.
    FormerReturned,
    /// The cluster was whole again at the end.
    Converged,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 62] = [
        Point::Failover,
        Point::DoubleFailover,
        Point::Rewind,
        Point::RewindFailed,
        Point::Copy,
        Point::CopyFailed,
        Point::DegradedSynchronousSet,
        Point::QuorumInForce,
        Point::Compared,
        Point::CommitsBlocked,
        Point::StoreRollback,
        Point::Settled,
        Point::StoreWiped,
        Point::HungServer,
        Point::CrashLoop,
        Point::SlowPromotion,
        Point::UnknownWrite,
        Point::Conflict,
        Point::LeaderChanged,
        Point::DeposedPrimaryRan,
        Point::AsynchronousLoss,
        Point::ProxyExpired,
        Point::GateClosed,
        Point::GateOpened,
        Point::WaitCancelled,
        Point::UnknownOutcome,
        Point::CalledOff,
        Point::ForcedFailure,
        Point::SwitchoverDone,
        Point::SwitchoverRefused,
        Point::SwitchoverTakenBack,
        Point::SwitchoverTakenBackLate,
        Point::RelievedBeforeItsEnd,
        Point::EndedWithoutRelief,
        Point::HeirAwaited,
        Point::TakenOver,
        Point::Departed,
        Point::Paused,
        Point::SwitchoverNotAsked,
        Point::Resumed,
        Point::Updated,
        Point::ReinitAsked,
        Point::RestartAsked,
        Point::ReloadAsked,
        Point::PriorityChosen,
        Point::KeeperRemoved,
        Point::RemovedWhileItRan,
        Point::KeeperJoined,
        Point::Recovered,
        Point::MadeAnew,
        Point::NamesFailed,
        Point::NamesLate,
        Point::DataLost,
        Point::Challenged,
        Point::FailedOnEvidence,
        Point::Pledged,
        Point::Vouched,
        Point::PledgeAwaited,
        Point::LeaseOver,
        Point::ClientsOut,
        Point::FormerReturned,
        Point::Converged,
    ];
}

/// How often each point was reached, and why things did not happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    points: BTreeMap<Point, u64>,
    holds: BTreeMap<String, u64>,
    /// Commits that clients were told of.
    pub acknowledged: u64,
}

impl Coverage {
    /// A point was reached.
    pub fn reached(&mut self, point: Point) {
        *self.points.entry(point).or_default() += 1;
    }

    /// Something did not happen, for a reason of this kind.
    pub fn held(&mut self, kind: String) {
        *self.holds.entry(kind).or_default() += 1;
    }

    /// How often a point was reached.
    pub fn count(&self, point: Point) -> u64 {
        self.points.get(&point).copied().unwrap_or(0)
    }

    /// How often each kind of hold was seen.
    pub fn holds(&self) -> &BTreeMap<String, u64> {
        &self.holds
    }

    /// Another run's as well.
    pub fn add(&mut self, other: &Coverage) {
        for (point, count) in &other.points {
            *self.points.entry(*point).or_default() += count;
        }
        for (kind, count) in &other.holds {
            *self.holds.entry(kind.clone()).or_default() += count;
        }
        self.acknowledged += other.acknowledged;
    }

    /// What was never reached.
    pub fn missing(&self) -> Vec<Point> {
        Point::ALL.into_iter().filter(|point| self.count(*point) == 0).collect()
    }
}
