//! Plans: what to do now, and why.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stolon_model::{Advise, InstanceUid, Lsn, NewConfig};

use super::goal::{LeaveAlone, StopReason};
use super::observation::{Config, Gate};
use super::outcome::RejectedSetting;
use super::recovery::Upstream;
use super::store_commands::NotAllowed;
use super::warrant::DestroyWarrant;
use crate::postgres::Version;

/// What to do now. A prefix of the way to the goal: where a step depends on what the one before it did, the plan
/// ends with [`Step::Reobserve`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order; the first failure ends the plan.
    pub steps: Vec<Step>,
    /// Why these steps.
    pub because: Vec<Reason>,
    /// What keeps us from the goal although there is nothing to do about it here.
    pub trouble: Option<Trouble>,
    /// Parameters that were left out or changed, one sentence each.
    pub parameter_problems: Vec<String>,
    /// A parameter waits for a restart that nobody makes.
    pub restart: PendingRestart,
    /// When to look again without being woken.
    pub next_look: NextLook,
    /// What follows a step that fails.
    pub at_failure: AtFailure,
}

impl Plan {
    /// Steps with their reason.
    pub(super) fn of(because: Reason, steps: Vec<Step>) -> Self {
        Plan { steps, because: vec![because], ..Plan::default() }
    }

    /// Nothing can be done here.
    pub(super) fn stuck(trouble: Trouble) -> Self {
        Plan { trouble: Some(trouble), ..Plan::default() }
    }

    pub(super) fn troubled(mut self, trouble: Option<Trouble>) -> Self {
        self.trouble = trouble;
        self
    }

    pub(super) fn with_problems(mut self, config: &Config) -> Self {
        self.parameter_problems = config.problems.iter().map(|problem| problem.sentence.clone()).collect();
        self
    }
}

/// Whether PostgreSQL waits for a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PendingRestart {
    /// Every setting is in force.
    #[default]
    No,
    /// Some settings take effect with the next start.
    Yes,
}

/// What follows a step that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtFailure {
    /// It is tried again after a pause.
    #[default]
    TryAgain,
    /// PostgreSQL is stopped first: its clients must be out, and cannot be locked out while it runs.
    Stop,
}

/// When to look again without being woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NextLook {
    /// After the usual interval.
    #[default]
    Later,
    /// In some tens of milliseconds: somebody waits for what is about to happen.
    Soon,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Stop PostgreSQL if it runs, and wait until it is gone.
    Stop,
    /// Stop PostgreSQL so that its successor receives its end. PostgreSQL waits for its standbys then, and one of them may hang: so
    /// it gets no longer than clients may wait, and is told to end at once after that.
    HandOver,
    /// End all processes of PostgreSQL at once: none of them may acknowledge anything any more.
    Kill,
    /// Remember whether clients are let in; the next [`Step::Configure`] says so to PostgreSQL.
    SetGate(Gate),
    /// Write down that the instance is half-made.
    MarkInitializing(InstanceUid),
    /// Keep the data of another cluster beside PGDATA, under a name made from its instance.
    SetAside {
        /// The instance that it was.
        instance: InstanceUid,
        /// It makes room for this one.
        warrant: DestroyWarrant,
    },
    /// Delete the data.
    Wipe(DestroyWarrant),
    /// `initdb`.
    InitDb(NewConfig),
    /// Run the restore command into an empty data directory.
    Restore(String),
    /// Make sure, changing nothing, that the source can be copied from; wait a little for our slot there.
    ExamineSource {
        /// The server to copy from.
        upstream: Upstream,
        /// What it must be; none when not known.
        system_identifier: Option<String>,
        /// Our slot there.
        slot: String,
    },
    /// Have the archive get what the server that ran here had yet to archive, as far as that succeeds.
    Archive,
    /// Copy everything.
    BaseBackup {
        /// Where from.
        upstream: Upstream,
        /// Our slot there.
        slot: String,
        /// What becomes of what is here.
        old_data: OldData,
        /// It replaces what is here.
        warrant: DestroyWarrant,
    },
    /// Rewind what is here to where it can follow the primary.
    Rewind {
        /// The primary.
        upstream: Upstream,
        /// It changes what is here.
        warrant: DestroyWarrant,
    },
    /// Ask the binaries, beside the running server and changing nothing, which settings they would refuse.
    CheckSettings {
        /// What is to be written.
        config: Box<Config>,
        /// Whether a `postgresql.conf` that came with the data counts.
        merge: ConfigMerge,
    },
    /// Comment out, in files that came with the data, settings that were refused there.
    CommentOut(Vec<RejectedSetting>),
    /// Write the configuration files.
    Configure {
        /// What to write.
        config: Box<Config>,
        /// Whether a `postgresql.conf` that came with the data counts.
        merge: ConfigMerge,
    },
    /// Start PostgreSQL.
    Start(ConfigMerge),
    /// Until it accepts connections. It is given up when it has shown no progress of its recovery for this long; none = never.
    WaitReady(Option<Duration>),
    /// The same for what was rewound. It is given up at once when its source has not any more what it needs to become consistent: no
    /// patience brings that back.
    WaitFollowing(Option<Duration>),
    /// Until recovery has ended; none = for ever.
    WaitRecoveryEnd(Option<Duration>),
    /// Remember the configured parameters.
    CaptureParameters,
    /// Make the users of a new cluster.
    SetUpRoles,
    /// Write down that the instance is complete, with the captured parameters.
    Finish(InstanceUid),
    /// Make PostgreSQL read its configuration again.
    Reload,
    /// Make the standby a primary.
    Promote,
    /// Make these the replication slots that are ours.
    EnsureSlots(BTreeSet<String>),
    /// Drop these slots unless they are in use by now; each with the WAL that it holds, in bytes.
    DropSlots(BTreeMap<String, u64>),
    /// Drop these logical slots, which are in the way of copies of the primary's.
    DropStaleSlots(BTreeSet<String>),
    /// Let the WAL before these positions go, which the consumers of these slots need no more.
    AdvanceSlots(BTreeMap<String, Lsn>),
    /// Write everything to the disk that is not there yet, so that a stop takes little time; for this planned change of the primary.
    Checkpoint(String),
    /// What is here needs no rewind to follow its source: take it as if it had been rewound.
    TakeAsRewound,
    /// End the sessions of all clients, after the access rules were read again. A server that does not do so is ended itself.
    TerminateClients,
    /// Write down that this generation is reached.
    Commit(i64),
    /// Look again, then plan again.
    Reobserve,
}

/// Whether a `postgresql.conf` that came with the data counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigMerge {
    /// Ours replaces it.
    Replace,
    /// It is read before ours; for the first start of foreign data.
    WithExisting,
}

/// What becomes of data that stands in PGDATA when a copy is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OldData {
    /// Copied beside it and exchanged when complete, so that the last good copy is never lost. Needs room for both. Where that
    /// cannot be done (PGDATA is a mount point, has tablespaces, or a `pg_wal` elsewhere) the same as the other.
    #[default]
    KeepUntilCopied,
    /// Deleted before the copy starts.
    DeleteFirst,
}

impl Step {
    /// True for what only changes what the machine remembers or has written down; no instance ever sees such a step.
    pub fn is_taken_by_machine(&self) -> bool {
        matches!(
            self,
            Step::SetGate(_)
                | Step::MarkInitializing(_)
                | Step::Finish(_)
                | Step::Commit(_)
                | Step::TakeAsRewound
                | Step::Reobserve
        )
    }

    /// True for what only its end, or somebody else, ends.
    pub fn takes_long(&self) -> bool {
        matches!(
            self,
            Step::Restore(_)
                | Step::Archive
                | Step::BaseBackup { .. }
                | Step::Rewind { .. }
                | Step::WaitRecoveryEnd(_)
                | Step::WaitReady(_)
                | Step::WaitFollowing(_)
                | Step::Checkpoint(_)
        )
    }

    /// True for what brings a server up, and fails when it ends.
    pub fn is_start(&self) -> bool {
        matches!(
            self,
            Step::Start(_) | Step::WaitReady(_) | Step::WaitFollowing(_) | Step::WaitRecoveryEnd(_)
        )
    }

    /// In words, for people who wait for it; none for what takes no time.
    pub fn name(&self) -> Option<&'static str> {
        Some(match self {
            Step::Stop | Step::HandOver => "stopping PostgreSQL",
            Step::Kill => "ending PostgreSQL at once",
            Step::SetAside { .. } => "setting old data aside",
            Step::Wipe(_) => "deleting old data",
            Step::InitDb(_) => "creating the database cluster",
            Step::Restore(_) => "restoring the backup",
            Step::ExamineSource { .. } => "looking at the source of the copy",
            Step::Archive => "archiving what the server had left",
            Step::BaseBackup { .. } => "base backup",
            Step::Rewind { .. } => "rewinding",
            Step::Start(_) => "starting PostgreSQL",
            Step::WaitReady(_) | Step::WaitFollowing(_) => "waiting for PostgreSQL to accept connections",
            Step::WaitRecoveryEnd(_) => "recovering",
            Step::Promote => "promoting",
            Step::Checkpoint(_) => "writing a checkpoint",
            _ => return None,
        })
    }
}

/// Why steps are taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Nothing may be touched.
    #[error("{0}")]
    LeftAlone(LeaveAlone),
    /// PostgreSQL must not run.
    #[error("{0}")]
    MustStop(StopReason),
    /// Another instance is assigned than the one here.
    #[error("current db UID different than cluster data db UID")]
    AssignedAnew,
    /// The last attempt to make the instance did not end.
    #[error("db is half-made, making it again")]
    HalfMade,
    /// `initdb` is wanted.
    #[error("initializing the database cluster")]
    New,
    /// A backup is to be restored.
    #[error("restoring the database cluster")]
    Restore,
    /// Restored data is to be recovered.
    #[error("recovering the restored database cluster")]
    Recover,
    /// Data that is here is to be adopted.
    #[error("adopting the existing database cluster")]
    Adopt,
    /// A copy is wanted.
    #[error("syncing from followed db {0}")]
    Copy(InstanceUid),
    /// Data that is here can be rewound.
    #[error("syncing using pg_rewind from db {0}")]
    Rewind(InstanceUid),
    /// Data that is here can follow as it is.
    #[error("following db {0} as it is: it was stopped in order, and the other one has everything")]
    FollowAsItIs(InstanceUid),
    /// Rewound data turned out to be on another branch.
    #[error("the rewound db is on another timeline branch, doing a full resync")]
    OtherBranch,
    /// It does not run, and must.
    #[error("starting database")]
    NotRunning,
    /// It runs but does not answer yet.
    #[error("waiting for the database to accept connections")]
    NotReady,
    /// A standby is asked to be the primary.
    #[error("promoting to master")]
    Elected,
    /// Another instance was elected.
    #[error("db {0} was elected: clients are locked out here")]
    Deposed(InstanceUid),
    /// Another instance is about to be elected.
    #[error(
        "this db is about to be replaced: its clients are locked out first, so that no two dbs take writes"
    )]
    Fenced,
    /// The configuration differs from the wanted one.
    #[error("postgres parameters changed, reloading postgres instance")]
    ParametersChanged,
    /// Commits wait for others than before.
    #[error("synchronous_standby_names changes from \"{from}\" to \"{to}\"")]
    SynchronousNamesChanged {
        /// In force.
        from: String,
        /// Wanted.
        to: String,
    },
    /// `postgresql.auto.conf` is a file again.
    #[error("ALTER SYSTEM has set something, which is taken back: pgParameters is the place for it")]
    AlteredSystem,
    /// `pg_hba.conf` differs from the wanted one.
    #[error("postgres hba entries changed, reloading postgres instance")]
    HbaChanged,
    /// Standby settings differ.
    #[error("following settings changed ({0}), reloading postgres instance")]
    FollowChanged(String),
    /// Standby settings differ in what only a start takes.
    #[error("following settings changed ({0}), restarting postgres instance")]
    FollowChangedRestart(String),
    /// Nobody knows whether another instance was elected.
    #[error("the lease of this primary is over: clients are locked out here")]
    LeaseOver,
    /// Clients stay out until the standbys are in sync.
    #[error("clients are locked out until the synchronous standbys are in sync")]
    Gated,
    /// They are in sync.
    #[error("synchronous standbys are in sync, clients are let in")]
    GateOpens,
    /// Nothing keeps clients out any more, in asynchronous mode.
    #[error("clients are let in")]
    LetIn,
    /// A changed parameter needs a restart.
    #[error("restarting postgres instance for {0}")]
    RestartFor(String),
    /// An operator asked for it.
    #[error("restarting postgres instance, since the operator asked for it (stolonctl restart)")]
    RestartAsked,
    /// An operator asked for it.
    #[error("reloading postgres instance, since the operator asked for it (stolonctl reload)")]
    ReloadAsked,
}

/// What keeps an instance from its goal: one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The cluster data believes that the data is here.
    #[error("this keeper's data does not belong to db {0}: it was lost or replaced")]
    DataLost(InstanceUid),
    /// PGDATA is not what it was.
    #[error("the data directory of db {instance} is not complete any more: {missing}")]
    DataGone {
        /// Which instance.
        instance: InstanceUid,
        /// What is missing.
        missing: String,
    },
    /// What PGDATA is cannot be told, perhaps because its disk hangs.
    #[error("the data directory of db {instance} cannot be read: {why}")]
    DataUnreadable {
        /// Which instance.
        instance: InstanceUid,
        /// One sentence.
        why: String,
    },
    /// The document asks for something that makes no sense.
    #[error("the cluster data does not say how to make this db: {0}")]
    CannotBeMade(String),
    /// There is nothing to adopt.
    #[error("there is no database cluster to adopt in the data directory: {0}")]
    NothingToAdopt(String),
    /// The binaries cannot run the data.
    #[error("the data is of PostgreSQL {data}, the binaries are of PostgreSQL {binaries}")]
    OtherMajor {
        /// Of the data.
        data: Version,
        /// Of the binaries.
        binaries: Version,
    },
    /// A primary cannot become a standby without being made anew.
    #[error("cannot go from master to standby: waiting for the sentinel to have this db made anew")]
    CannotDemote,
    /// A primary that cannot know whether it still is one.
    #[error(
        "clients are locked out: the cluster data could not be read within the lease of this primary, and the keepers of other dbs that could take its place have not all pledged to wait"
    )]
    LeaseOver,
    /// It holds less than what it was elected for.
    #[error("db {instance} is not promoted: it is at {own} but was at {before} when it was elected")]
    WentBack {
        /// Which instance.
        instance: InstanceUid,
        /// Where it is.
        own: Lsn,
        /// Where it was.
        before: Lsn,
    },
    /// The followed instance is not in the cluster data.
    #[error("the followed db {0} is not in the cluster data")]
    FollowedMissing(InstanceUid),
    /// A copy cannot be made without knowing from whom.
    #[error("the db to copy from is not in the cluster data")]
    SourceMissing,
    /// The source has not said where it is.
    #[error("db {0} has not published its address yet")]
    NoAddress(InstanceUid),
    /// PostgreSQL refuses recovery without it.
    #[error("recovery needs pitrConfig.archiveRecoverySettings.restoreCommand")]
    NoRestoreCommand,
    /// PostgreSQL takes only one.
    #[error("only one recovery target can be set, not {0}")]
    SeveralTargets(String),
    /// Our operator has not allowed how it is to be made.
    #[error(transparent)]
    NotAllowed(NotAllowed),
}

impl Advise for Trouble {
    fn hint(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::DataLost(_) => "the sentinel replaces the db by itself when another one can take over".into(),
            Self::DataGone { .. } => "bring the data back; or, beside a primary that works, `stolonctl removekeeper` has this keeper make a new standby".into(),
            Self::OtherMajor { data, binaries } => {
                format!("restore data of PostgreSQL {binaries}, or point --pg-bin-path at PostgreSQL {data}").into()
            }
            Self::WentBack { .. } => "it is promoted once it has replayed that; if its host was set back to an earlier state, another standby that holds everything is elected, or the former primary returns".into(),
            Self::LeaseOver => "clients are let in by themselves when this keeper reads the store again, or when it reaches the keepers of all other dbs".into(),
            Self::NotAllowed(refused) => return refused.hint(),
            Self::NoRestoreCommand => "without an archive, `/bin/false` will do for a complete backup".into(),
            _ => return None,
        })
    }
}
