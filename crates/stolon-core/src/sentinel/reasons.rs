//! What changed and why, and what did not change and why not: values for logs, metrics, status and tests.

#![allow(missing_docs, reason = "the names of the fields say what the docs of the variants leave open")]

use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

use super::ahead::Ahead;
use super::recover_reasons::{self, Held};
use super::switchover_reasons::{SwitchoverChange, SwitchoverWait};
use super::verdicts::{KeeperFault, PrimaryFault, Rejection, RemovalReason};
use crate::evidence::Evidence;
use stolon_model::{
    Hindrance, InstanceInitMode, InstanceUid, KeeperUid, LockoutReport, Lsn, Pause, ProxyUid, Quorum,
    ServerAddress, Timeline,
};

/// One thing that a round changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A keeper reported for the first time.
    KeeperRegistered { keeper: KeeperUid },
    /// A keeper process was started anew.
    KeeperRestarted { keeper: KeeperUid },
    /// A keeper has failed.
    KeeperFailed { keeper: KeeperUid, because: KeeperFault },
    /// A keeper reports again.
    KeeperRecovered { keeper: KeeperUid },
    /// A keeper without instance was forgotten.
    KeeperForgotten { keeper: KeeperUid },
    /// An instance has failed.
    InstanceFailed { instance: InstanceUid, keeper: KeeperUid },
    /// An instance works again.
    InstanceRecovered { instance: InstanceUid, keeper: KeeperUid },
    /// The first instance of the cluster was given to a keeper.
    InitialInstanceChosen { instance: InstanceUid, keeper: KeeperUid, init_mode: InstanceInitMode },
    /// Adopted data start as a primary although the specification asks for a standby cluster.
    AdoptedAsPrimary { instance: InstanceUid },
    /// The first instance was not made in time; another keeper may try.
    InitializationGivenUp { instance: InstanceUid, keeper: KeeperUid, after: Duration },
    /// The first instance works.
    ClusterInitialized { instance: InstanceUid, keeper: KeeperUid },
    /// Another instance becomes the primary.
    PrimaryElected { from: InstanceUid, to: InstanceUid, keeper: KeeperUid, lsn: Lsn, because: PrimaryFault },
    /// The primary of a standby cluster becomes one that takes writes.
    StandbyClusterPromoted { instance: InstanceUid },
    /// Clients are sent nowhere until the next primary takes over.
    ProxiesClosed { generation: i64, because: PrimaryFault },
    /// Clients are sent to the primary.
    ProxiesOpened { to: InstanceUid, generation: i64 },
    /// Proxies send clients to the legacy server of a migration, which serves.
    ProxiesOpenedToLegacy { address: ServerAddress, generation: i64 },
    /// The set of proxies that may forward changes.
    EnabledProxiesChanged { enabled: Vec<ProxyUid>, generation: i64 },
    /// A keeper was given a standby to make.
    StandbyAdded { instance: InstanceUid, keeper: KeeperUid },
    /// A standby is complete.
    StandbyReady { instance: InstanceUid, keeper: KeeperUid },
    /// An instance was taken from its keeper.
    InstanceRemoved { instance: InstanceUid, keeper: KeeperUid, because: RemovalReason },
    /// Commits wait for other standbys than before.
    SynchronousSetChanged { primary: InstanceUid, from: Vec<InstanceUid>, to: Vec<InstanceUid> },
    /// A standby now holds every acknowledged commit.
    StandbyInSync { instance: InstanceUid },
    /// Commits wait for another quorum than before.
    QuorumChanged { primary: InstanceUid, quorum: Quorum },
    /// Everything that was ever acknowledged is on as many standbys as the quorum asks for.
    QuorumInForce { primary: InstanceUid, quorum: Quorum },
    /// Standbys receive nothing, since they are about to be compared.
    ReceivingStopped { primary: InstanceUid, standbys: Vec<InstanceUid> },
    /// They receive again from the primary that they follow.
    ReceivingResumed { primary: InstanceUid, standbys: Vec<InstanceUid> },
    /// Too few standbys: commits wait until there are enough.
    CommitsBlocked { primary: InstanceUid, minimum: u16 },
    /// There are enough standbys again.
    CommitsUnblocked { primary: InstanceUid },
    /// Commits no longer wait for standbys.
    SynchronousReplicationOff { primary: InstanceUid },
    /// The time of an operator's pause is over.
    PauseLapsed { pause: Pause },
    /// A planned change of the primary goes on, or has ended.
    Switchover(SwitchoverChange),
    /// A former primary is back that holds what an operator has given up.
    GivenUp { instance: InstanceUid, keeper: KeeperUid, timeline: Timeline, from: Lsn, to: Lsn },
    /// A primary lets its ordinary clients go, because it is to be replaced.
    Fenced { instance: InstanceUid, keeper: KeeperUid, because: PrimaryFault },
    /// A primary had locked its ordinary clients out because its lease was over.
    LockedOut { keeper: KeeperUid, lockout: LockoutReport, mark: String },
    /// A primary that was fenced stays after all.
    LetIn { instance: InstanceUid, keeper: KeeperUid },
}

/// One thing that did not happen in a round, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// This sentinel has just begun and must first see which keepers report.
    FirstRound,
    /// There is no keeper that could make the first instance.
    NoKeepers,
    /// The keeper whose data is to be adopted has not reported.
    KeeperNotAvailable { keeper: KeeperUid },
    /// The document contradicts itself, or says something that this version does not know.
    BrokenDocument { what: BrokenDocument },
    /// The first instance is being made.
    AwaitingInitialization { instance: InstanceUid, keeper: KeeperUid },
    /// The primary must be replaced, but no instance may take its place.
    NoEligibleStandby { primary: InstanceUid, because: PrimaryFault, rejected: Vec<(InstanceUid, Rejection)> },
    /// The primary must be replaced; its successor is promoted once no client can reach it any more.
    AwaitingFence { successor: InstanceUid, proxies: Vec<ProxyUid>, stays: Vec<ProxyUid> },
    /// Clients that come to the old primary directly may still be there, by what its keeper has said.
    AwaitingClientsOut { successor: InstanceUid, keeper: KeeperUid },
    /// An operator wants another primary, which is promoted once it has everything that the old one has.
    AwaitingCatchUp { successor: InstanceUid, lsn: Option<Lsn> },
    /// A working primary does not reach its generation, and replacing it did not help before.
    NotDemotedAgain { primary: InstanceUid, keeper: KeeperUid, generation: i64 },
    /// The primary's PostgreSQL refuses connections of standbys: its keeper is asked for a sign of life.
    Challenged { keeper: KeeperUid, refused: Vec<KeeperUid> },
    /// The primary works but cannot reach its generation, and another one would meet the same problem.
    Hindered { primary: InstanceUid, keeper: KeeperUid, hindrance: Hindrance },
    /// The store went back in time: keepers have served under newer cluster data. Nothing is decided until an operator chooses.
    StoreWentBack { ahead: Vec<Ahead> },
    /// This sentinel has seen newer cluster data than those in the store.
    DocumentWentBack { epoch: u64, before: u64 },
    /// The primary has not reached its generation or does not work: standbys do not change until then.
    AwaitingPrimary { primary: InstanceUid, keeper: KeeperUid, generation: i64, current: i64 },
    /// Clients are not sent to the primary until it is ready.
    NotOpened { primary: InstanceUid },
    /// Clients wait until it is made sure that what they write goes back to the legacy server of a migration.
    AwaitingWayBack,
    /// What is written to the legacy server of a migration still comes here, and nobody else may write.
    MovingIn,
    /// The legacy server of a migration has taken over again, or is about to.
    MovedBack,
    /// Clients are sent neither to the legacy server of a migration nor to the cluster, since one of them is being closed.
    BetweenServers,
    /// Clients are not sent to the primary before these proxies have cut the connections to the one before.
    AwaitingProxies { proxies: Vec<ProxyUid>, stays: Vec<ProxyUid>, generation: i64 },
    /// The set of synchronous standbys does not change until these hold every acknowledged commit.
    AwaitingSync { primary: InstanceUid, standbys: Vec<InstanceUid> },
    /// Nobody can be elected by this quorum alone before what was acknowledged by the one before is on enough of its members.
    AwaitingQuorum { primary: InstanceUid, quorum: Quorum },
    /// The primary must be replaced; who is elected is known once these have said where they end.
    AwaitingPositions { primary: InstanceUid, standbys: Vec<InstanceUid> },
    /// Commits have been waiting for these standbys for seconds, and nobody could take their place.
    CommitsWait { primary: InstanceUid, standbys: Vec<InstanceUid> },
    /// There is no standby, and no keeper that could make one.
    NoFreeKeeper,
    /// An operator has paused the cluster.
    Paused { pause: Pause },
    /// The primary must be replaced, but not while the cluster is paused.
    NotReplaced { primary: InstanceUid, because: PrimaryFault },
    /// A planned change of the primary waits.
    Switchover(SwitchoverWait),
    /// Nobody may take over by itself, and an operator could go on from what this keeper holds.
    WayOut(Held),
}

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokenDocument {
    /// The elected primary is not in `dbs`.
    PrimaryMissing { primary: Option<InstanceUid> },
    /// Neither initializing nor normal.
    Phase { phase: String },
    /// None of new, existing, pitr.
    InitMode { init_mode: String },
}

/// Seconds with one digit, `6.1s`.
pub(super) struct Seconds(pub Duration);

impl Display for Seconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{:.1}s", self.0.as_secs_f64())
    }
}

/// `a, b, c`, or `none`.
pub(super) struct List<'a, T>(pub &'a [T]);

impl<T: Display> Display for List<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, item) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{item}")?;
        }
        Ok(())
    }
}

/// `any 2 of a, b, c`.
struct InWords<'a>(&'a Quorum);

impl Display for InWords<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "any {} of {}", self.0.required, List(self.0.members()))
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::KeeperRegistered { keeper } => write!(f, "keeper {keeper} has joined the cluster"),
            Self::KeeperRestarted { keeper } => write!(f, "keeper {keeper} was restarted"),
            Self::KeeperFailed { keeper, because } => write!(f, "keeper {keeper} has failed: {because}"),
            Self::KeeperRecovered { keeper } => write!(f, "keeper {keeper} reports again"),
            Self::KeeperForgotten { keeper } => write!(
                f,
                "keeper {keeper} is removed from the cluster data: it has no db and has not reported for longer than deadKeeperRemovalInterval"
            ),
            Self::InstanceFailed { instance, keeper } => {
                write!(
                    f,
                    "db {instance} on keeper {keeper} has failed: its keeper has, or its PostgreSQL was not reported to work for longer than failInterval"
                )
            }
            Self::InstanceRecovered { instance, keeper } => {
                write!(f, "db {instance} on keeper {keeper} works again")
            }
            Self::InitialInstanceChosen { instance, keeper, init_mode } => write!(
                f,
                "initializing cluster: keeper {keeper} makes the first db {instance} with initMode {}",
                init_mode.as_str()
            ),
            Self::AdoptedAsPrimary { instance } => write!(
                f,
                "warning: the specification asks for a standby cluster, but adopted data (initMode existing) start as a primary: \
                 db {instance} will take writes"
            ),
            Self::InitializationGivenUp { instance, keeper, after } => write!(
                f,
                "keeper {keeper} did not make the first db {instance} within initTimeout ({}): choosing a keeper again, others first",
                Seconds(*after)
            ),
            Self::ClusterInitialized { instance, keeper } => {
                write!(f, "the cluster is initialized: db {instance} on keeper {keeper} is its primary")
            }
            Self::PrimaryElected { from, to, keeper, lsn, because } => write!(
                f,
                "electing db as the new master: {to} on keeper {keeper}, last seen at {lsn}, replaces {from} because {because}"
            ),
            Self::StandbyClusterPromoted { instance } => {
                write!(
                    f,
                    "db {instance} leaves its outside primary and takes writes: the cluster's role is master now"
                )
            }
            Self::Fenced { instance, keeper, because } => {
                write!(
                    f,
                    "db {instance} on keeper {keeper} locks its clients out before another one is elected, because {because}"
                )
            }
            Self::LockedOut { keeper, lockout, mark: _ } => {
                let LockoutReport { instance, why, lasted, replaced, .. } = lockout;
                let seconds = lasted.to_std().as_secs();
                let end =
                    if *replaced { "until another db was elected" } else { "and has let them in again" };
                write!(
                    f,
                    "db {instance} on keeper {keeper} locked its clients out for {seconds} s, {end}: its lease was over, since {why}"
                )
            }
            Self::LetIn { instance, keeper } => {
                write!(f, "db {instance} on keeper {keeper} stays the primary and lets its clients in again")
            }
            Self::ProxiesClosed { generation, because } => {
                write!(f, "proxies cut all connections (generation {generation}) because {because}")
            }
            Self::ProxiesOpened { to, generation } => {
                write!(f, "proxies send clients to db {to} (generation {generation})")
            }
            Self::ProxiesOpenedToLegacy { address, generation } => {
                write!(f, "proxies send clients to the legacy server at {address} (generation {generation})")
            }
            Self::EnabledProxiesChanged { enabled, generation } => {
                write!(f, "enabled proxies (generation {generation}): {}", List(enabled))
            }
            Self::StandbyAdded { instance, keeper } => {
                write!(f, "keeper {keeper} makes a new standby, db {instance}")
            }
            Self::StandbyReady { instance, keeper } => {
                write!(f, "standby db {instance} on keeper {keeper} is complete")
            }
            Self::InstanceRemoved { instance, keeper, because } => {
                write!(f, "db {instance} is taken from keeper {keeper}: {because}")
            }
            Self::SynchronousSetChanged { primary, from, to } => {
                write!(f, "commits on db {primary} now wait for {} (before: {})", List(to), List(from))
            }
            Self::StandbyInSync { instance } => {
                write!(f, "standby db {instance} holds every acknowledged commit")
            }
            Self::QuorumChanged { primary, quorum } => {
                write!(f, "commits on db {primary} now wait for {}", InWords(quorum))
            }
            Self::QuorumInForce { primary, quorum } => {
                write!(f, "every acknowledged commit of db {primary} is on {}", InWords(quorum))
            }
            Self::ReceivingStopped { primary, standbys } => write!(
                f,
                "these standbys of db {primary} receive nothing any more, so that they can be compared: {}",
                List(standbys)
            ),
            Self::ReceivingResumed { primary, standbys } => {
                write!(f, "these standbys receive again from db {primary}: {}", List(standbys))
            }
            Self::CommitsBlocked { primary, minimum } => write!(
                f,
                "commits on db {primary} block: fewer than minSynchronousStandbys ({minimum}) standbys can acknowledge them"
            ),
            Self::CommitsUnblocked { primary } => {
                write!(f, "commits on db {primary} no longer block: there are enough synchronous standbys")
            }
            Self::Switchover(change) => change.fmt(f),
            Self::GivenUp { instance, keeper, timeline, from, to } => {
                recover_reasons::given_up(f, instance, keeper, *timeline, *from, *to)
            }
            Self::SynchronousReplicationOff { primary } => {
                write!(f, "commits on db {primary} no longer wait for standbys")
            }
            Self::PauseLapsed { pause } => write!(f, "the pause {pause} is over"),
        }
    }
}

impl Display for Hold {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::FirstRound => f.write_str(
                "this sentinel decides nothing in its first round: it must first see which keepers report",
            ),
            Self::NoKeepers => f.write_str("cannot choose initial master: no keepers registered"),
            Self::KeeperNotAvailable { keeper } => {
                write!(f, "cannot choose initial master: keeper \"{keeper}\" state not available")
            }
            Self::BrokenDocument { what } => write!(f, "the cluster data are left as they are: {what}"),
            Self::AwaitingInitialization { instance, keeper } => {
                write!(f, "waiting for keeper {keeper} to make the first db {instance}")
            }
            Self::NoEligibleStandby { primary, because, rejected } => {
                write!(
                    f,
                    "no eligible standby for db {primary}, which should be replaced because {because}"
                )?;
                if rejected.is_empty() {
                    return f.write_str("; there is no other db");
                }
                for (instance, rejection) in rejected {
                    write!(f, "; {instance}: {rejection}")?;
                }
                Ok(())
            }
            Self::AwaitingFence { successor, proxies, stays } => {
                write!(
                    f,
                    "db {successor} is promoted as soon as no client can reach the old primary; waiting for proxies: {}",
                    List(proxies)
                )?;
                StillOpen(stays).fmt(f)
            }
            Self::AwaitingClientsOut { successor, keeper } => {
                write!(
                    f,
                    "db {successor} is promoted as soon as keeper {keeper} has locked the clients of the old primary out, or its lease is over"
                )
            }
            Self::AwaitingCatchUp { successor, lsn: Some(lsn) } => {
                write!(
                    f,
                    "db {successor} is promoted as soon as it has reached {lsn}, the end of the old primary"
                )
            }
            Self::AwaitingCatchUp { successor, lsn: None } => {
                write!(f, "db {successor} is promoted as soon as the old primary has reported where it ended")
            }
            Self::NotDemotedAgain { primary, keeper, generation } => write!(
                f,
                "db {primary} works, but keeper {keeper} does not apply generation {generation}; another primary would \
                 meet the same specification, so it is not replaced again yet: see the log of keeper {keeper}"
            ),
            Self::Challenged { keeper, refused } => {
                let refused = List(refused);
                write!(
                    f,
                    "keeper {keeper} is asked for a sign of life: its PostgreSQL refuses connections of {refused}"
                )
            }
            Self::Hindered { primary, keeper, hindrance } => {
                let what = match hindrance {
                    Hindrance::Slot => "make a replication slot",
                    Hindrance::StateFile => "write its state files",
                    Hindrance::Unknown(word) => word,
                };
                write!(
                    f,
                    "db {primary} works, but keeper {keeper} cannot {what}; another primary would meet the same problem, so it is not \
                     replaced: see the log of keeper {keeper}"
                )
            }
            Self::StoreWentBack { ahead } => {
                f.write_str("the cluster data in the store are older than what keepers have served under")?;
                for Ahead { keeper, served, evidence } in ahead {
                    write!(f, "; {keeper} served db {}", served.instance)?;
                    match evidence {
                        Evidence::Epoch { document } => {
                            write!(f, " under epoch {} (store: {document})", served.epoch)?
                        }
                        Evidence::Generation { document } => {
                            write!(f, " at generation {} (store: {document})", served.generation)?;
                        }
                        Evidence::Timeline { document } => {
                            write!(f, " on timeline {} (store: {document})", served.timeline)?;
                        }
                    }
                    write!(f, ", up to {}", served.lsn)?;
                }
                f.write_str(
                    "; nothing is elected, removed or copied until an operator chooses: `stolonctl settle --take-newest`, or \
                     `stolonctl settle --accept-data-loss KEEPER,...`",
                )
            }
            Self::DocumentWentBack { epoch, before } => write!(
                f,
                "the cluster data in the store (epoch {epoch}) are older than those that this sentinel has seen (epoch {before}); nothing \
                 is elected, removed or copied until an operator makes them the newest: `stolonctl settle --accept-data-loss`"
            ),
            Self::AwaitingPrimary { primary, keeper, generation, current } if generation == current => {
                write!(f, "waiting for the primary db {primary} on keeper {keeper} to work again")
            }
            Self::AwaitingPrimary { primary, keeper, generation, current } => write!(
                f,
                "waiting for keeper {keeper} to bring the primary db {primary} from generation {current} to {generation}"
            ),
            Self::NotOpened { primary } => {
                write!(
                    f,
                    "proxies stay closed until the primary db {primary} works and has reached its generation"
                )
            }
            Self::AwaitingWayBack => {
                f.write_str("proxies stay closed for a moment, while the way back of the migration is made")
            }
            Self::MovingIn => f.write_str(
                "proxies stay closed until the migration is switched: the legacy server takes the writes",
            ),
            Self::MovedBack => f.write_str(
                "proxies stay closed: the database has moved back to the legacy server of the migration",
            ),
            Self::BetweenServers => f.write_str(
                "proxies stay closed while the migration goes from one side to the other, or is given up",
            ),
            Self::AwaitingProxies { proxies, stays, generation } => {
                write!(
                    f,
                    "waiting for proxies to cut their connections (generation {generation}): {}",
                    List(proxies)
                )?;
                StillOpen(stays).fmt(f)
            }
            Self::AwaitingSync { primary, standbys } => write!(
                f,
                "waiting for these standbys to hold every acknowledged commit of db {primary}: {}",
                List(standbys)
            ),
            Self::AwaitingQuorum { primary, quorum } => {
                write!(
                    f,
                    "waiting for every acknowledged commit of db {primary} to be on {}",
                    InWords(quorum)
                )
            }
            Self::AwaitingPositions { primary, standbys } => write!(
                f,
                "db {primary} is replaced as soon as enough of its standbys receive nothing any more and have said where they end: {}",
                List(standbys)
            ),
            Self::CommitsWait { primary, standbys } => write!(
                f,
                "commits on db {primary} wait for standbys that have confirmed nothing for seconds, and no other standby keeps up: {}",
                List(standbys)
            ),
            Self::Switchover(wait) => wait.fmt(f),
            Self::WayOut(held) => held.as_way_out(f),
            Self::NoFreeKeeper => f.write_str(
                "there is no standby and no free keeper that could make one: start another keeper",
            ),
            Self::Paused { pause } => write!(
                f,
                "the cluster is paused {pause}: nobody is elected, no keeper or db is removed, and no PostgreSQL is restarted for its \
                 parameters; `stolonctl resume` ends the pause"
            ),
            Self::NotReplaced { primary, because } => {
                write!(f, "db {primary} is not replaced while the cluster is paused, although {because}")
            }
        }
    }
}

/// What there is to say about proxies that do not close, at the end of a sentence.
struct StillOpen<'a>(&'a [ProxyUid]);

impl Display for StillOpen<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(
            f,
            "; still open to the primary of newer cluster data that they have seen: {}; such a proxy closes when it is restarted, or \
             when an operator has settled which data are the newest (`stolonctl settle`)",
            List(self.0)
        )
    }
}

impl Display for BrokenDocument {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::PrimaryMissing { primary: Some(primary) } => {
                write!(f, "db {primary} is named as the master but is not in dbs")
            }
            Self::PrimaryMissing { primary: None } => {
                f.write_str("the phase is normal but no master is named")
            }
            Self::Phase { phase } => {
                write!(f, "unknown cluster phase \"{phase}\" (expected initializing or normal)")
            }
            Self::InitMode { init_mode } => {
                write!(f, "unknown init mode \"{init_mode}\" (expected new, existing or pitr)")
            }
        }
    }
}

impl Hold {
    /// True when `other` says the same apart from how long something has lasted: not worth another log line.
    pub fn is_same_as(&self, other: &Hold) -> bool {
        match (self, other) {
            (
                Self::NoEligibleStandby { primary, because, rejected },
                Self::NoEligibleStandby {
                    primary: other_primary,
                    because: other_because,
                    rejected: other_rejected,
                },
            ) => {
                let kinds = |rejected: &[(InstanceUid, Rejection)]| -> Vec<_> {
                    rejected.iter().map(|(uid, why)| (uid.clone(), std::mem::discriminant(why))).collect()
                };
                primary == other_primary
                    && std::mem::discriminant(because) == std::mem::discriminant(other_because)
                    && kinds(rejected) == kinds(other_rejected)
            }
            (
                Self::NotReplaced { primary, because },
                Self::NotReplaced { primary: other_primary, because: other_because },
            ) => {
                primary == other_primary
                    && std::mem::discriminant(because) == std::mem::discriminant(other_because)
            }
            // Who is refused changes from one moment to the next.
            (Self::Challenged { keeper, .. }, Self::Challenged { keeper: other, .. }) => keeper == other,
            (this, other) => this == other,
        }
    }
}
