//! What a keeper sees of its own instance.

use std::collections::{BTreeMap, BTreeSet};

use stolon_model::{InstanceUid, Lsn, Parameters, Quorum, Timeline, TimelineHistoryEntry, Timestamp};

use super::hba::HbaLine;
use super::look::OrderlyEnd;
use super::parameters::{Demands, ParameterProblem, Refusals, WalLevel};
use super::recovery::RecoverySettings;
use super::slots::SlotRow;
use super::step::OldData;
use crate::postgres::Version;

/// Everything that a plan depends on besides the goal.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Of the binaries.
    pub version: Version,
    /// `dbstate`.
    pub local: LocalState,
    /// What stands at PGDATA.
    pub data: Data,
    /// What the control data demanded when the server was stopped, if it replays WAL of a cluster that was run with
    /// these limits; stays the same while it runs.
    pub demands: Option<Demands>,
    /// What the data were last written with when the server was stopped.
    pub wal_level: WalLevel,
    /// The server process.
    pub server: Server,
    /// Where a primary that does not run has ended, if it did so in order.
    pub ended: Option<OrderlyEnd>,
    /// The planned change of the primary for which a checkpoint was tried already.
    pub checkpoint_tried: Option<String>,
    /// The last request that the server read its files again that was carried out.
    pub reloaded: Option<String>,
    /// What the running server works with; none when that is not known.
    pub applied: Option<Config>,
    /// Whether ordinary clients were let in: the start gate of synchronous replication, and the fence of a primary whose lease was over.
    pub gate: Gate,
    /// Whether a primary may serve ordinary clients.
    pub lease: Lease,
    /// Settings that the real PostgreSQL refused.
    pub refusals: Refusals,
    /// Lines of `pgHBA` that the real PostgreSQL refused, with its words.
    pub refused_hba: BTreeMap<String, String>,
    /// Names of the slots on disk.
    pub slots_on_disk: BTreeSet<String>,
    /// What slots may hold by the room that there is, in megabytes; none while that is not known.
    pub room_for_slots: Option<u64>,
    /// Up to where the data reach at least: where they were last seen to work in this cluster, which is written down every now and then, or
    /// their last checkpoint, if it is later; none: they never worked in it.
    pub position: Option<Lsn>,
    /// Whether `ALTER SYSTEM` has come through.
    pub alter_system: AlterSystem,
    /// How far the making of the wanted instance got in this process.
    pub attempt: Attempt,
    /// Whether a primary's restart has waited for its standbys long enough.
    pub restart_patience: Patience,
}

/// What the keeper wrote down about its instance (`dbstate`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalState {
    /// Empty: none.
    pub uid: InstanceUid,
    /// The last generation that was reached.
    pub generation: i64,
    /// The data is half-made.
    pub initializing: bool,
    /// Captured at initialisation.
    pub captured: Option<Parameters>,
}

/// What stands at PGDATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing, or an empty directory.
    Absent,
    /// Something that is no complete instance.
    Incomplete {
        /// What is missing.
        missing: Vec<String>,
    },
    /// It cannot be told.
    Unreadable(String),
    /// An instance.
    Present(Present),
}

/// An instance as its files show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// `PG_VERSION`.
    pub version: Version,
    /// By the signal files.
    pub kind: DataKind,
    /// From the control data, decimal.
    pub system_identifier: String,
}

/// What an instance would start as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKind {
    /// Without `standby.signal`.
    Primary,
    /// With `standby.signal`.
    Standby,
}

/// The server process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// It does not run.
    Stopped,
    /// It runs; what it said about itself, when it answered.
    Running(Option<Live>),
}

/// What a running server says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// It replays WAL.
    pub in_recovery: bool,
    /// Timeline of PostgreSQL.
    pub timeline: Timeline,
    /// Position in the WAL.
    pub lsn: Lsn,
    /// History of the timeline.
    pub history: Vec<TimelineHistoryEntry>,
    /// Standbys that are in sync and have flushed what they must.
    pub in_sync: BTreeSet<InstanceUid>,
    /// The quorum that is in force and has acknowledged everything that was written before.
    pub quorum: Option<Quorum>,
    /// Parameters that wait for a restart.
    pub pending_restart: Vec<String>,
    /// Its replication slots.
    pub slots: Vec<SlotRow>,
    /// `pg_postmaster_start_time()`.
    pub started: Timestamp,
}

/// The start gate of synchronous replication: after a start clients stay out until the standbys are in sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// Clients are let in.
    #[default]
    Open,
    /// They are not.
    Closed,
}

/// Whether a primary may serve ordinary clients (docs: design/012-lease.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lease {
    /// As far as a lease goes, always: the cluster has none, or not all keepers can be asked.
    #[default]
    Unlimited,
    /// The cluster data that name it were read within the term.
    Read,
    /// They were not, and the keepers of all other instances have pledged not to promote theirs.
    Pledged,
    /// Neither: another one may have been elected.
    Over,
}

/// Whether `ALTER SYSTEM` can work. Its file is a link to `/dev/null`, which a server with `fsync = off` replaces by a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlterSystem {
    /// `ALTER SYSTEM` fails.
    #[default]
    Refused,
    /// It works, or has worked.
    Possible,
}

/// Whether a wait may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Patience {
    /// The wait may go on.
    #[default]
    Left,
    /// It has lasted long enough.
    Spent,
}

/// The configuration of a server, without passwords.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `postgresql.conf`, values raw.
    pub parameters: Parameters,
    /// What was left out of it, and why.
    pub problems: Vec<ParameterProblem>,
    /// `pg_hba.conf`.
    pub hba: Vec<HbaLine>,
    /// Standby and recovery settings.
    pub recovery: RecoverySettings,
}

/// How far the making of an instance got. Memory of one process: after a restart of the keeper a half-made
/// instance is made from the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Which instance is being made.
    pub instance: InstanceUid,
    /// What has been done.
    pub stage: Stage,
    /// Failures since that stage was reached.
    pub failures: u32,
    /// Failures of `pg_rewind`, and rewound data that could not be used.
    pub rewind_failures: u32,
    /// What becomes of what is here when it is copied again.
    pub old_data: OldData,
}

/// What has been done to make an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nothing that counts.
    #[default]
    Nothing,
    /// The restore command succeeded.
    Restored,
    /// Recovery reached its end.
    Recovered,
    /// A base backup is complete.
    Copied,
    /// `pg_rewind` succeeded.
    Rewound,
}

/// In-place attempts to start what was restored or copied, before it is fetched again.
const START_ATTEMPTS: u32 = 3;
/// Attempts to rewind before everything is copied.
pub(super) const REWIND_ATTEMPTS: u32 = 2;

impl Attempt {
    /// The memory of making `instance`: this one, or a new one if another was being made.
    pub fn at(self, instance: &InstanceUid) -> Self {
        if &self.instance == instance {
            self
        } else {
            Attempt { instance: instance.clone(), ..Self::default() }
        }
    }

    /// A step brought us to `stage`.
    pub fn reached(&mut self, stage: Stage) {
        self.stage = stage;
        self.failures = 0;
    }

    /// The server could not be started, or did not come up, at this stage.
    pub fn start_failed(&mut self) {
        self.failures += 1;
        match self.stage {
            Stage::Rewound => self.rewind_is_useless(),
            _ if self.failures >= START_ATTEMPTS => self.reached(Stage::Nothing),
            _ => {}
        }
    }

    /// What is here cannot be rewound: it did not come up, or is a mixture that another source does not mend.
    pub fn rewind_is_useless(&mut self) {
        self.rewind_failures = REWIND_ATTEMPTS;
        self.reached(Stage::Nothing);
    }
}

impl Observation {
    /// True while the server process runs.
    pub fn is_running(&self) -> bool {
        matches!(self.server, Server::Running(_))
    }
}
