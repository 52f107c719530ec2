//! What a keeper's machine is told, and what it asks for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stolon_model::{
    BootUuid, DiskFault, InstanceState, InstanceUid, KeeperReport, KeeperState, KeeperUid, Lsn, Parameters,
    Pledge, PledgeRequest, SentinelReport, SentinelUid, Served, SlotReport, Timeline, UsableCluster,
};

use super::archiver::Archiver;
use super::look::Look;
use super::observation::{DataKind, Gate};
use super::outcome::{ServerDeath, StepOutcome};
use super::room::Room;
use super::say::Saying;
use super::step::Step;

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The first event. The keeper took over before it what an earlier one left running, or stopped it.
    Started(Found),
    /// The look that [`Effect::Look`] asked for.
    Looked(Box<Look>),
    /// The server ended without being asked to; told at once, also while a step runs, and before that step's end.
    ServerDied(ServerDeath),
    /// How far the step under way is.
    StepProgressed(Progress),
    /// The step that [`Effect::Take`] asked for has ended.
    StepEnded(StepOutcome),
    /// The cluster data may be others than before (a store's watch).
    ClusterChanged,
    /// The answer to [`Effect::ReadCluster`].
    ClusterRead {
        /// What the cluster data are.
        read: ClusterRead,
        /// They hold everything that was acknowledged before this time of the machine's clock.
        as_of: Duration,
    },
    /// The answer to [`Effect::ReadOwnReport`]: what stands in the store under our uid. `Err`: the store did not answer.
    OwnReportRead(Result<Option<Box<KeeperReport>>, String>),
    /// The answer to [`Effect::ReadReports`]. `Err`: the store did not answer.
    ReportsRead(Result<Box<Reports>, String>),
    /// The report is in the store.
    ReportTaken,
    /// It is not, or nobody knows: one sentence.
    ReportRefused(String),
    /// The process of the WAL receiver that [`Effect::WatchReceiver`] named has ended. Told once for each that was named, whether or not
    /// another one was named meanwhile.
    ReceiverEnded {
        /// Its number.
        process: u32,
    },
    /// The answer to [`Effect::Knock`].
    Knocked(Knocked),
    /// The keeper of a primary wants a pledge; answered by [`Effect::AnswerPledge`].
    PledgeAsked {
        /// By which the answer finds its way.
        number: u64,
        /// What is wanted.
        request: PledgeRequest,
    },
    /// The answer to [`Effect::AskForPledge`].
    PledgeAnswered {
        /// The instance that was asked.
        instance: InstanceUid,
        /// For how long it is not promoted; none: it said no, or nothing.
        term: Option<Duration>,
    },
    /// A file is written, or is not.
    Saved(StateFileKind, Result<(), String>),
    /// The time of [`Effect::WakeAt`] has come. May come too early, too often, and too late.
    TimePassed,
    /// The keeper is to end, answered by [`Effect::End`]: at once, or, where it has the primary and somebody could take over, when that has
    /// happened.
    EndRequested {
        /// No longer than this is waited for it.
        patience: Duration,
    },
    /// The keeper is to end and leave its server running, answered by [`Effect::End`]. The step under way is ended first; what takes long is
    /// called off.
    DepartureRequested,
    /// The keeper is to end at once: nothing is begun any more.
    StopRequested,
}

/// What runs when a keeper begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No server.
    Nothing,
    /// A server that an earlier keeper left: of the instance that our data directory holds, complete, healthy, started as we would have.
    Server(FoundServer),
}

/// What is known of a server that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundServer {
    /// Whether it replays WAL.
    pub role: DataKind,
    /// Whether the rules of access let clients in, as their file has them. What is in force may be what the file had before.
    pub gate: Gate,
}

/// What became of a connection that was only begun to see whether there is somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knocked {
    /// A kernel answered, for every address of the name, that nobody listens there (`ECONNREFUSED`).
    Refused,
    /// Somebody listens.
    Accepted,
    /// Anything else, which says nothing.
    Unanswered,
}

/// What a reading of the cluster data gave.
#[derive(Clone, Debug)]
pub enum ClusterRead {
    /// Cluster data whose specification is valid.
    Usable(Arc<UsableCluster>),
    /// There is none.
    Absent,
    /// There is something that cannot be worked with: one sentence.
    Invalid(String),
    /// The store did not answer: one sentence.
    Unanswered(String),
}

/// The reports of those that may know of newer cluster data than those in the store.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    /// Of keepers.
    pub keepers: BTreeMap<KeeperUid, KeeperReport>,
    /// Of sentinels, which remember the last words of keepers that do not report any more.
    pub sentinels: BTreeMap<SentinelUid, SentinelReport>,
}

/// Something is to be done. Effects of one event are to be begun in their order; none waits for another.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Look at PostgreSQL, with a new connection, and answer with [`Event::Looked`]. Never asked for while a look is under way. May
    /// run beside a step.
    Look {
        /// What does not answer within this is silent.
        within: Duration,
    },
    /// Take a step, and answer with [`Event::StepEnded`]. Never asked for while a step is under way, and never with a step that is
    /// taken by the machine itself ([`Step::is_taken_by_machine`]).
    Take {
        /// The step.
        step: Box<Step>,
        /// Limit of one request to PostgreSQL.
        request_timeout: Duration,
    },
    /// Call off the step under way, which then ends with [`super::FailureKind::CalledOff`] unless it has just ended otherwise.
    CallOff,
    /// Read the cluster data, and answer with [`Event::ClusterRead`]. Never asked for while a reading is under way.
    ReadCluster {
        /// What is known already will do if it is not older.
        at_most: Duration,
    },
    /// Read the report that stands in the store under our uid, and answer with [`Event::OwnReportRead`].
    ReadOwnReport,
    /// Read the reports of keepers and sentinels, and answer with [`Event::ReportsRead`]. Never asked for while such a reading is under way.
    ReadReports,
    /// Send [`Event::ReceiverEnded`] when this process of our PostgreSQL ends, at once if it has ended.
    WatchReceiver {
        /// Its number.
        process: u32,
    },
    /// Open a TCP connection, close it again without a word, and answer with [`Event::Knocked`]. Never asked for while one is under way.
    Knock {
        /// A name or an address.
        address: String,
        /// A number.
        port: String,
        /// What has not answered within this is unanswered.
        within: Duration,
    },
    /// Ask the keeper of another instance for a pledge, and answer with [`Event::PledgeAnswered`]. Never asked for while the same instance is
    /// being asked.
    AskForPledge {
        /// Where the keeper answers, `host:port`.
        address: String,
        /// What is wanted.
        request: PledgeRequest,
        /// What has not answered within this says nothing.
        within: Duration,
    },
    /// Answer [`Event::PledgeAsked`].
    AnswerPledge {
        /// Of that event.
        number: u64,
        /// For how long ours is not promoted; none: no.
        term: Option<Duration>,
    },
    /// Put a report into the store, with a new `info_uid`, and answer with [`Event::ReportTaken`] or [`Event::ReportRefused`]. Never
    /// asked for while a publication is under way.
    Publish {
        /// What. `info_uid` is empty.
        report: Box<KeeperReport>,
        /// How long it counts.
        ttl: Duration,
        /// A store that has not taken it within this, in whole milliseconds, refuses it.
        limit: Duration,
    },
    /// Replace a file so that a crash leaves the old content or the new, flushed; answer with [`Event::Saved`]. Never asked for while
    /// a file of the same kind is being written.
    Save(Box<StateFile>),
    /// Send [`Event::TimePassed`] at this time of the machine's clock; replaces an earlier one.
    WakeAt(Duration),
    /// Something that people want to read.
    Say(Box<Saying>),
    /// Something to be counted.
    Measure(Measure),
    /// End, as [`Event::EndRequested`] or [`Event::DepartureRequested`] asked for: nothing is waited for any more.
    End,
    /// End, without having been asked to.
    Exit(Exit),
}

/// Bytes copied, of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// So far.
    pub bytes_done: u64,
    /// In all; 0 when unknown.
    pub bytes_total: u64,
}

/// A file in the keeper's data directory (docs: "Files in a keeper's data directory").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateFile {
    /// `dbstate`.
    Instance(InstanceState),
    /// `keeperstate`.
    Keeper(KeeperState),
    /// The parameters that PostgreSQL last came up with.
    Proven(Parameters),
    /// The highest point that this keeper served at.
    Served(Served),
    /// Which run of a keeper reported last from here.
    Boot(BootUuid),
    /// What this keeper pledges while the store is away.
    Pledged(Pledge),
}

impl StateFile {
    /// Which file it is.
    pub fn kind(&self) -> StateFileKind {
        match self {
            Self::Instance(_) => StateFileKind::Instance,
            Self::Keeper(_) => StateFileKind::Keeper,
            Self::Proven(_) => StateFileKind::Proven,
            Self::Served(_) => StateFileKind::Served,
            Self::Boot(_) => StateFileKind::Boot,
            Self::Pledged(_) => StateFileKind::Pledged,
        }
    }
}

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum StateFileKind {
    /// `dbstate`.
    #[error("the instance")]
    Instance,
    /// `keeperstate`.
    #[error("the keeper")]
    Keeper,
    /// The parameters that PostgreSQL last came up with.
    #[error("proven parameters")]
    Proven,
    /// The highest point that this keeper served at.
    #[error("what was served")]
    Served,
    /// Which run of a keeper reported last from here.
    #[error("the keeper's boot")]
    Boot,
    /// What this keeper pledges while the store is away.
    #[error("pledges")]
    Pledged,
}

/// A gauge changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Usable cluster data was read now.
    ValidUpdate,
    /// The goal is reached now.
    SyncSuccess,
    /// `sleepInterval`.
    SleepInterval(Duration),
    /// The role that is asked of us; none: undefined.
    TargetRole(Option<DataKind>),
    /// What the data directory holds; none: undefined.
    LocalRole(Option<DataKind>),
    /// Whether a reload that is wanted has not succeeded yet.
    NeedsReload(bool),
    /// Whether parameters wait for a restart.
    NeedsRestart(bool),
    /// Whether the lease of the primary here is over, so that ordinary clients are locked out.
    LeaseOver(bool),
    /// What the last look found of the server.
    Health(Health),
    /// What the server said in the last look that it answered.
    Position(Box<Position>),
    /// The slots of the server in the same look.
    Slots(Vec<SlotReport>),
    /// How the archiving of WAL goes; none where the server archives none.
    Archiver(Option<Archiver>),
    /// Room on the file systems, where it is known.
    Room(Room),
    /// What is wrong with the disks, by what was written there.
    Disk(Option<DiskFault>),
    /// The keeper does its work. That it does not is said by [`Saying::Trouble`].
    Ready,
}

/// Whether PostgreSQL works, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Healthy,
    /// No process of ours runs.
    Stopped,
    /// It accepts no connections yet, or no more.
    Starting,
    /// It did not answer in time.
    Silent,
    /// Something else answers in its place.
    Stranger,
    /// What stands in its data directory is no complete instance.
    NoInstance,
    /// It answers, and its disk takes nothing.
    Disk,
    /// The look itself does not end.
    LookHangs,
}

/// Where a server is in its WAL, and how far behind it those are that follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The timeline.
    pub timeline: Timeline,
    /// The position.
    pub lsn: Lsn,
    /// Whether a standby receives WAL; a primary needs none.
    pub receives_wal: bool,
    /// The standbys that stream from it.
    pub standbys: Vec<StandbyLag>,
}

/// How far a standby is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyLag {
    /// Which one.
    pub instance: InstanceUid,
    /// What it has not flushed yet, in bytes.
    pub unflushed: u64,
    /// How long WAL takes until it is replayed there; nothing while nothing new is written.
    pub replay: Duration,
}

/// Why the keeper ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Another keeper with our uid lives; with the address of its PostgreSQL, if it has one.
    Namesake {
        /// host:port.
        address: Option<String>,
    },
    /// The note for the next keeper cannot be written, so that nobody could tell us from a namesake: one sentence.
    NoNote(String),
}
