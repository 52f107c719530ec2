//! How a step ended: what was learned, or a typed failure. Nothing here is found out by reading sentences; the sentences
//! are for people.

use stolon_model::Parameters;

/// How a step ended. A step ends exactly once, also when it is called off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// It is done.
    Done(Learned),
    /// It is not. What it left behind is found by the next look.
    Failed(StepFailure),
}

impl StepOutcome {
    /// Done, and there is nothing to tell.
    pub const DONE: StepOutcome = StepOutcome::Done(Learned::Nothing);
}

/// What a step that succeeded has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The step has nothing to tell.
    Nothing,
    /// [`super::Step::CheckSettings`]: these would be refused; empty: the server would start as far as settings go.
    Rejected(Vec<RejectedSetting>),
    /// [`super::Step::Reload`]: lines that the running server did not take.
    NotInForce(Vec<LineProblem>),
    /// [`super::Step::CaptureParameters`]: everything in the files, as written.
    Configured(Parameters),
    /// [`super::Step::SetUpRoles`].
    Roles(Vec<RoleChange>),
    /// [`super::Step::EnsureSlots`].
    Slots(SlotChanges),
    /// [`super::Step::TerminateClients`]: how many sessions were ended.
    SessionsEnded(u64),
    /// [`super::Step::SetAside`]: where the data are now.
    KeptAt(String),
}

/// Why a step did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFailure {
    /// What decides how it goes on.
    pub kind: FailureKind,
    /// One sentence for people, without secrets.
    pub sentence: String,
    /// What a person can do about it.
    pub hint: Option<String>,
}

/// The kinds of failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// We called it off ([`super::Effect::CallOff`], or the end of the keeper).
    CalledOff,
    /// Its own limit passed.
    TimedOut,
    /// The server ended while it was started or waited for.
    ServerExited(ServerDeath),
    /// The port, or the socket, belongs to another process; found before anything was changed, where that can be.
    PortTaken,
    /// No space where our data is.
    DiskFullHere,
    /// No space at the source of a copy; what we have is not in the way.
    DiskFullAtSource,
    /// The source of a copy cannot be used now; nothing here was touched.
    Source(SourceTrouble),
    /// A program of PostgreSQL is not installed; nothing here was touched.
    NoProgram,
    /// These data cannot be rewound, however often it is tried; nothing here was touched.
    NotRewindable,
    /// What was rewound needs WAL that its source has not any more.
    LacksWal,
    /// Everything else: a file operation, a tool, a query.
    Other,
}

/// What is wrong with the source of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceTrouble {
    /// No connection.
    Unreachable,
    /// User or password refused.
    Refused,
    /// No wal sender is free.
    Busy,
    /// Our slot is not there yet.
    NoSlot,
    /// Another database cluster answers there.
    OtherCluster,
    /// Something else.
    Other,
}

/// How a server ended without being asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerDeath {
    /// Exit code or signal in words.
    pub status: String,
    /// One sentence made from its last words.
    pub explanation: String,
    /// What its last words give as the cause, as far as that decides something.
    pub cause: DeathCause,
}

/// Why a server ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeathCause {
    /// `pg_hba.conf` has lines, counted from 1, that it does not take.
    HbaLines(Vec<u32>),
    /// Its port or socket is taken.
    PortTaken,
    /// No space.
    DiskFull,
    /// Its data are from a server with higher limits, which have to hold here (PostgreSQL manual, "Hot Standby", administrator's overview).
    LimitsTooLow,
    /// Something else, settings perhaps.
    Other,
}

/// A parameter that the binary refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedSetting {
    /// Its name as written; empty when the refusal names none.
    pub name: String,
    /// Its value as written.
    pub value: String,
    /// PostgreSQL's own words.
    pub message: String,
    /// A value that it would accept instead: the list of libraries without those that are missing.
    pub instead: Option<String>,
    /// Where it stands.
    pub origin: Origin,
}

/// Where a refused parameter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In [`super::Config::parameters`]: leave it out, or take `instead`.
    Parameters,
    /// In [`super::Config::recovery`].
    Recovery,
    /// In a file that came with the data: [`super::Step::CommentOut`] mends it.
    ExistingFile {
        /// Path of the file.
        path: String,
        /// Its line, from 1.
        line: u32,
    },
    /// Nothing in particular: a combination, or the machine (`message` says).
    Unknown,
}

/// A line of a configuration file that a running server did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineProblem {
    /// Which file.
    pub file: ConfigFile,
    /// From 1.
    pub line: u32,
    /// The parameter; empty for other files.
    pub name: String,
    /// PostgreSQL's words.
    pub error: String,
}

/// One of the files that the keeper writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigFile {
    /// `postgresql.conf`, or a file that it includes.
    Parameters,
    /// `pg_hba.conf`.
    Hba,
}

/// What was done to the roles of a new cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleChange {
    /// The replication user is the superuser, which may replicate now.
    ReplicationAddedToSuperuser,
    /// The superuser has a password now.
    SuperuserPasswordSet,
    /// The replication user exists now.
    ReplicationRoleCreated,
    /// The user that reads files for rewinds exists now.
    RewindRoleCreated,
}

/// What was done to the replication slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotChanges {
    /// Made.
    pub created: Vec<String>,
    /// Dropped.
    pub dropped: Vec<String>,
    /// Could not be made or dropped now, with the reason: tried again with the next step.
    pub kept: Vec<(String, String)>,
}
