//! How much of the world is explored.

use clap::ValueEnum;

use crate::model::Action;

/// The bound of a check: within it every order and every placement of faults is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Seconds from the steady state; in each of them everybody who can has one turn.
    pub ticks: u8,
    /// Faults in all; see [`Action`] for what counts as one. The first strikes in the first second: before it the cluster is in its steady
    /// state, and a second of that is like another.
    pub faults: u8,
    /// What has happened already at the start, besides.
    pub given: Vec<Action>,
    /// Whether what was lost comes back.
    pub recovery: Recovery,
    /// How the cluster replicates.
    pub replication: Replication,
    /// A guard that is taken away: the check must then find what it guards against.
    pub without: Option<Guard>,
}

/// Whether hosts, links and streams that were lost come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// At the beginning of any second, or never.
    AnyTime,
    /// Never.
    Never,
}

/// How the cluster replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Replication {
    /// Commits wait for one standby.
    Synchronous,
    /// Commits wait for nobody.
    Asynchronous,
}

/// Something that keeps the cluster safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guard {
    /// The sentinel opens proxies to another primary only when each has acknowledged that it closed.
    Acknowledgement,
    /// The proxy closes at its deadline.
    Deadline,
    /// Only standbys that hold every acknowledged commit are elected.
    SynchronousSet,
    /// Cluster data are written only over what was read.
    CompareAndPut,
}

impl Guard {
    /// Faults that it takes to see what the guard is good for.
    pub fn faults(self) -> Vec<Action> {
        match self {
            Guard::Acknowledgement => vec![Action::CutOff(0)],
            Guard::Deadline => vec![Action::CutOffProxy, Action::CutOff(0)],
            Guard::SynchronousSet => vec![Action::Crash(0), Action::Crash(1)],
            Guard::CompareAndPut => vec![Action::Pause(0), Action::TakeOver, Action::CutOff(0)],
        }
    }
}
