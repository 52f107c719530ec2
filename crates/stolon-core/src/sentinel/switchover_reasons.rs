//! What is said of a planned change of the primary.

#![allow(missing_docs, reason = "the names of the fields say what the docs of the variants leave open")]

use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

use stolon_model::{InstanceUid, KeeperUid, Lsn, ProxyUid, SwitchoverOutcome, SwitchoverStage};

use super::Rejection;

/// Who wants another primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// An operator used `stolonctl switchover`.
    Operator,
    /// The primary's keeper was told to end.
    Leaving,
}

/// What keeps an instance, or the primary, from taking part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Its keeper is Stolon's, or older than planned changes.
    OldKeeper,
    /// It was told to end.
    Leaves,
    /// It receives nothing: its keeper's words.
    ReceivesNothing(String),
    /// It was the primary before, and follows nobody.
    NotAStandby,
    /// The operator wants another one.
    NotWanted,
    /// It has no copies of these logical slots, whose consumers would find none there.
    LacksSlots(Vec<String>),
}

/// Why a planned change of the primary is not begun, or does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Another primary was elected after it was made.
    OtherPrimary,
    /// No sentinel was at work when it was made.
    TooLate,
    /// The run of the primary's keeper that was told to end is over, and another one has the primary.
    LeavesNoMore,
    /// It did not come about in its time.
    TimeIsOver(Duration),
    /// Clients have waited for so long.
    Paused(Duration),
    /// A stage that this sentinel does not know.
    UnknownStage(String),
    /// The head of a standby cluster takes no writes.
    StandbyCluster,
    /// Clients go to the legacy server of a migration, or nowhere.
    Migration,
    /// The primary does not work, or has not reached its generation.
    PrimaryNotReady,
    /// The primary's keeper does not report.
    PrimarySilent,
    /// The primary's keeper cannot do its part.
    PrimaryUnfit(Unfit),
    /// The primary has reported an end before what it had.
    EndWentBack { end: Lsn, before: Lsn },
    /// A keeper says that it cannot do its part.
    Trouble { keeper: KeeperUid, why: String },
    /// An operator has paused the cluster.
    ClusterPaused,
    /// An operator used `stolonctl failkeeper` on the primary's keeper.
    Forced,
    /// The wanted keeper has no instance.
    NoInstance(KeeperUid),
    /// The wanted keeper has the primary already.
    IsPrimary(KeeperUid),
    /// Nobody is fit.
    Nobody(Vec<(InstanceUid, Rejection)>),
    /// The successor is not fit any more.
    Successor(InstanceUid, Rejection),
}

/// A planned change of the primary goes on, or has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchoverChange {
    /// It has reached a stage.
    Reached { to: InstanceUid, stage: SwitchoverStage, wish: Wish },
    /// It is over.
    Ended { outcome: SwitchoverOutcome, because: String },
}

/// What a planned change of the primary waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchoverWait {
    /// It cannot be begun yet.
    Begin(Obstacle),
    /// The primary's keeper writes a checkpoint.
    Checkpoint { keeper: KeeperUid },
    /// The successor is too far behind.
    Successor(InstanceUid, Rejection),
    /// Proxies end their sessions.
    Proxies { proxies: Vec<ProxyUid> },
    /// The primary's keeper stops its PostgreSQL.
    Stop { keeper: KeeperUid },
    /// The successor lacks the end.
    End { successor: InstanceUid, end: Lsn },
}

impl Display for Wish {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Operator => "the operator asked for it (stolonctl switchover)",
            Self::Leaving => "it was told to end",
        })
    }
}

impl Display for Unfit {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::OldKeeper => {
                f.write_str("its keeper knows no switchover: it is Stolon's, or older than this sentinel")
            }
            Self::Leaves => f.write_str("its keeper was told to end"),
            Self::ReceivesNothing(why) => write!(f, "it receives no WAL: {why}"),
            Self::NotAStandby => f.write_str("it was the primary before and follows nobody"),
            Self::NotWanted => f.write_str("another keeper is asked for"),
            Self::LacksSlots(slots) => write!(
                f,
                "it has no copy yet of the logical slots {}, whose consumers would find none there (with syncLogicalSlots off nobody waits \
                 for them)",
                slots.join(", ")
            ),
        }
    }
}

impl Display for Obstacle {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::OtherPrimary => f.write_str("another primary was elected after it was asked for"),
            Self::TooLate => f.write_str("no sentinel was at work when it was asked for"),
            Self::LeavesNoMore => {
                f.write_str("the primary's keeper was told to end in an earlier run, and does not leave now")
            }
            Self::TimeIsOver(limit) => write!(f, "it did not come about within {}s", limit.as_secs_f64()),
            Self::Paused(limit) => {
                write!(f, "clients could not write for {}s, and it was not done", limit.as_secs_f64())
            }
            Self::UnknownStage(word) => write!(f, "this sentinel does not know the stage \"{word}\""),
            Self::StandbyCluster => f.write_str("a standby cluster has no primary that takes writes"),
            Self::Migration => {
                f.write_str("a migration into this cluster is under way, and the cluster serves no clients")
            }
            Self::PrimaryNotReady => {
                f.write_str("the primary does not work, or has not reached its generation")
            }
            Self::PrimarySilent => f.write_str("the primary's keeper does not report"),
            Self::PrimaryUnfit(unfit) => write!(f, "the primary cannot hand over: {unfit}"),
            Self::EndWentBack { end, before } => {
                write!(f, "the primary ended at {end} but was at {before} before: its host was set back")
            }
            Self::Trouble { keeper, why } => write!(f, "keeper {keeper}: {why}"),
            Self::ClusterPaused => f.write_str("the cluster is paused (stolonctl resume ends the pause)"),
            Self::Forced => f.write_str("stolonctl failkeeper was used on the primary's keeper"),
            Self::NoInstance(keeper) => write!(f, "keeper {keeper} has no db"),
            Self::IsPrimary(keeper) => write!(f, "keeper {keeper} has the primary already"),
            Self::Nobody(rejected) => {
                f.write_str("no db can take over")?;
                if rejected.is_empty() {
                    return f.write_str(": there is no other one");
                }
                for (instance, rejection) in rejected {
                    write!(f, "; {instance}: {rejection}")?;
                }
                Ok(())
            }
            Self::Successor(instance, rejection) => write!(f, "db {instance} cannot take over: {rejection}"),
        }
    }
}

impl Display for SwitchoverChange {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Reached { to, stage, wish } => {
                let what = match stage {
                    SwitchoverStage::Checkpoint => "the primary writes a checkpoint",
                    SwitchoverStage::Closing => "clients wait, and sessions end where they are idle",
                    SwitchoverStage::Stopping => "the primary stops",
                    SwitchoverStage::Unknown(word) => word,
                };
                write!(f, "switchover to db {to} ({wish}): {what}")
            }
            Self::Ended { outcome, because } => {
                write!(f, "switchover {}: {because}", outcome.as_str())
            }
        }
    }
}

impl Display for SwitchoverWait {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Begin(obstacle) => write!(f, "the switchover cannot begin yet: {obstacle}"),
            Self::Checkpoint { keeper } => {
                write!(f, "the switchover waits for the checkpoint of keeper {keeper}")
            }
            Self::Successor(instance, rejection) => {
                write!(f, "the switchover waits for db {instance}: {rejection}")
            }
            Self::Proxies { proxies } => {
                let names: Vec<String> = proxies.iter().map(ToString::to_string).collect();
                write!(f, "the switchover waits for proxies to end their sessions: {}", names.join(", "))
            }
            Self::Stop { keeper } => {
                write!(f, "the switchover waits for keeper {keeper} to stop PostgreSQL in order")
            }
            Self::End { successor, end } => {
                write!(f, "the switchover waits for db {successor} to hold the shutdown checkpoint at {end}")
            }
        }
    }
}
