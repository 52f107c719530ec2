//! Verdicts and their grounds: why a keeper counts as failed, a primary is replaced, an instance is taken away, or cannot be elected.

#![allow(missing_docs, reason = "the names of the fields say what the docs of the variants leave open")]

use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

use stolon_model::{DiskFault, KeeperUid, Lsn, Timeline};

use super::challenge::Unanswered;
use super::reasons::Seconds;
use super::switchover_reasons::{Unfit, Wish};

/// Why a keeper counts as failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperFault {
    /// It does not report.
    Silent { silent_for: Duration },
    /// It did not answer a challenge, and the keepers of standbys are refused at the port of its PostgreSQL.
    Refused { witnesses: Vec<KeeperUid>, within: Duration },
    /// An operator used `stolonctl failkeeper`.
    ForcedByOperator,
}

/// Why the primary must be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrimaryFault {
    /// Its keeper does not report.
    KeeperSilent { keeper: KeeperUid, silent_for: Duration },
    /// Its keeper did not answer a challenge, and the keepers of standbys are refused at its port.
    KeeperRefused { keeper: KeeperUid, witnesses: Vec<KeeperUid>, within: Duration, quiet_for: Duration },
    /// Its keeper reports, but not that PostgreSQL works.
    InstanceDown { keeper: KeeperUid, down_for: Duration },
    /// The document names a keeper that is not registered.
    KeeperUnknown { keeper: KeeperUid },
    /// An operator used `stolonctl failkeeper`.
    ForcedByOperator { keeper: KeeperUid },
    /// It works, but has not reached its generation in time.
    NotConverged { keeper: KeeperUid, generation: i64, within: Duration },
    /// Its PostgreSQL ends unexpectedly again and again.
    KeepsCrashing { keeper: KeeperUid, restarts: u32 },
    /// Its disk has been full for longer than `failInterval`, and there is somebody with room.
    DiskFull { keeper: KeeperUid },
    /// It held more before: its host was set back.
    WentBack { keeper: KeeperUid, own: Lsn, before: Lsn },
    /// It hands over: it was stopped in order, and its successor has everything.
    HandedOver { keeper: KeeperUid, wish: Wish },
}

/// Why an instance was taken from its keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalReason {
    /// It was the primary before.
    FormerPrimary,
    /// It is a copy of another database.
    OtherSystem,
    /// It holds WAL that the primary does not have.
    OtherBranch,
    /// The primary no longer has the WAL that it needs.
    MissingWal,
    /// Its keeper no longer has its data.
    DataLost,
    /// It does not work, and there are enough others that do.
    NotNeeded,
    /// There are more standbys than wanted.
    Surplus,
    /// An operator wants its data to be made anew.
    Requested,
    /// Its keeper still holds a former primary, and goes on with that.
    FormerDataKept,
}

/// Why an instance cannot be elected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Its keeper does not report.
    KeeperFailed,
    /// It does not work.
    Unhealthy,
    /// It was never complete.
    NeverReported,
    /// It has not reached its generation.
    NotConverged { generation: i64, current: i64 },
    /// It is a copy of another database.
    OtherSystem,
    /// It holds WAL that the primary does not have.
    OtherBranch,
    /// It is on another timeline than the primary.
    OtherTimeline { own: Timeline, primary: Timeline },
    /// It is too far behind.
    Lag { bytes: i64, limit: u32 },
    /// Its keeper was started with `--can-be-master=false`.
    Forbidden,
    /// The priority of its keeper is 0.
    PriorityZero,
    /// It is not known to hold every acknowledged commit.
    NotSynchronous,
    /// Another member of the quorum is ahead of it, and holds what it may lack.
    NotFurthest,
    /// Commits wait for a quorum, of which too few work to tell who holds everything.
    TooFewToCompare { found: usize, needed: usize },
    /// It follows nothing that this cluster knows.
    FollowsNothing,
    /// It held more before: its host was set back.
    WentBack { own: Lsn, before: Lsn },
    /// Its keeper has not reported since the operator asked for another primary.
    NotSeenSinceRequest,
    /// Its keeper has not reported since this sentinel began to watch.
    NotSeenYet,
    /// Its PostgreSQL ends unexpectedly again and again.
    KeepsCrashing { restarts: u32 },
    /// It cannot take part in a planned change of the primary.
    CannotHandOver(Unfit),
    /// Its disk has no room, or takes nothing.
    Disk { fault: DiskFault },
}

impl Display for KeeperFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Silent { silent_for } => write!(f, "no new report for {}", Seconds(*silent_for)),
            Self::Refused { witnesses, within } => Unanswered { witnesses, within: *within }.fmt(f),
            Self::ForcedByOperator => f.write_str("the operator asked for it (stolonctl failkeeper)"),
        }
    }
}

impl Display for PrimaryFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::KeeperSilent { keeper, silent_for } => {
                write!(f, "keeper {keeper} has not reported for {}", Seconds(*silent_for))
            }
            Self::KeeperRefused { keeper, witnesses, within, quiet_for: _ } => {
                write!(f, "keeper {keeper} has failed: {}", Unanswered { witnesses, within: *within })
            }
            Self::InstanceDown { keeper, down_for } => {
                write!(f, "keeper {keeper} has not reported a working PostgreSQL for {}", Seconds(*down_for))
            }
            Self::KeeperUnknown { keeper } => write!(f, "its keeper {keeper} is not in the cluster data"),
            Self::ForcedByOperator { keeper } => {
                write!(f, "the operator asked keeper {keeper} to fail (stolonctl failkeeper)")
            }
            Self::NotConverged { keeper, generation, within } => write!(
                f,
                "keeper {keeper} did not apply generation {generation} within convergenceTimeout ({})",
                Seconds(*within)
            ),
            Self::HandedOver { keeper, wish } => write!(f, "keeper {keeper} hands over: {wish}"),
            Self::KeepsCrashing { keeper, restarts } => write!(
                f,
                "PostgreSQL of keeper {keeper} ended unexpectedly {restarts} times within a minute (maxRestartsPerMinute)"
            ),
            Self::DiskFull { keeper } => write!(f, "the disk of keeper {keeper} is full"),
            Self::WentBack { keeper, own, before } => write!(
                f,
                "PostgreSQL of keeper {keeper} is at {own} but was at {before} before: its host was set back to an earlier state"
            ),
        }
    }
}

impl Display for RemovalReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::FormerPrimary => "it was the primary before, its keeper will make it a standby",
            Self::OtherSystem => "its system identifier is not the primary's",
            Self::OtherBranch => "it holds WAL that the primary does not have",
            Self::MissingWal => "it does not advance and the primary no longer has the WAL that it needs",
            Self::DataLost => "its keeper no longer has its data",
            Self::NotNeeded => "its PostgreSQL does not work and there are enough standbys without it",
            Self::Surplus => "there are more standbys than maxStandbysPerSender",
            Self::Requested => "the operator asked for a fresh copy (stolonctl reinit)",
            Self::FormerDataKept => {
                "its keeper still holds the db that was the primary before, and goes on with that"
            }
        })
    }
}

impl Display for Rejection {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::KeeperFailed => f.write_str("its keeper has failed"),
            Self::Unhealthy => f.write_str("its PostgreSQL does not work"),
            Self::NeverReported => f.write_str("its keeper has never reported it as complete"),
            Self::NotConverged { generation, current } => {
                write!(f, "it is at generation {current} and not yet at {generation}")
            }
            Self::OtherSystem => f.write_str("its system identifier is not the primary's"),
            Self::OtherBranch => f.write_str("it holds WAL that the primary does not have"),
            Self::OtherTimeline { own, primary } => {
                write!(f, "it is on timeline {own}, the primary was on {primary}")
            }
            Self::Lag { bytes, limit } => {
                write!(f, "it is {bytes} bytes behind, more than maxStandbyLag ({limit})")
            }
            Self::Forbidden => f.write_str("its keeper was started with --can-be-master=false"),
            Self::PriorityZero => {
                f.write_str("its keeper has the priority 0 (--failover-priority, stolonctl priority)")
            }
            Self::NotSynchronous => f.write_str("it is not known to hold every acknowledged commit"),
            Self::NotFurthest => f.write_str("another member of the quorum is ahead of it"),
            Self::TooFewToCompare { found, needed } => write!(
                f,
                "{needed} members of the quorum must be compared to tell who holds every acknowledged commit, and {found} can be"
            ),
            Self::FollowsNothing => f.write_str("the cluster data do not say what it follows"),
            Self::WentBack { own, before } => {
                write!(
                    f,
                    "it is at {own} but was at {before} before: its host was set back to an earlier state"
                )
            }
            Self::NotSeenSinceRequest => f.write_str("its keeper has not reported since the request"),
            Self::NotSeenYet => f.write_str("its keeper has not reported since this sentinel began to watch"),
            Self::CannotHandOver(unfit) => unfit.fmt(f),
            Self::Disk { fault: DiskFault::Full } => f.write_str("its disk is full"),
            Self::Disk { fault: DiskFault::Hangs } => f.write_str("its disk hangs"),
            Self::Disk { .. } => f.write_str("its disk takes nothing"),
            Self::KeepsCrashing { restarts } => {
                write!(f, "its PostgreSQL ended unexpectedly {restarts} times within a minute")
            }
        }
    }
}
