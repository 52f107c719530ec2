//! One look at PostgreSQL and its data directory: facts, nothing judged.
//!
//! A look changes nothing, may run beside a step, and always ends with a [`Look`]: what could not be found out is a value
//! that says so, never a missing answer. Each fact stands for itself, so that a binary that cannot tell its version hides
//! neither that the server runs nor what the data directory holds.

use std::sync::Arc;
use std::time::Duration;

use std::collections::{BTreeMap, BTreeSet};

use stolon_model::{Lsn, Parameters, Timeline, TimelineHistoryEntry, Timestamp};

use super::archiver::Archiver;
use super::observation::{AlterSystem, Data};
use super::parameters::Demands;
use super::recovery::PasswordProtocol;
use super::room::Room;
use super::slots::SlotRow;
use crate::postgres::Version;

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Of the binaries (`postgres -V`), or why it is not known: one sentence.
    pub version: Result<Version, String>,
    /// What stands at PGDATA.
    pub data: Data,
    /// The server process, and what it said.
    pub server: ServerLook,
    /// From `pg_controldata`, of an instance that does not run, or of a standby, whose control file tells when its primary's limits change.
    pub control: ControlLook,
    /// Where a primary that does not run has ended, by its control data; none if it did not end in order.
    pub ended: Option<OrderlyEnd>,
    /// Where the last checkpoint of an instance that does not run lies, by its control data: the data reach that far at least.
    pub checkpoint: Option<Lsn>,
    /// Names of all replication slots on disk, ours and others: PostgreSQL does not start with room for fewer.
    pub slots_on_disk: BTreeSet<String>,
    /// Room on the file systems.
    pub room: Room,
    /// Whether `ALTER SYSTEM` can have come through. [`AlterSystem::Refused`] while no server runs.
    pub alter_system: AlterSystem,
}

impl Look {
    /// What our own instance said, if it answered.
    pub fn instance_answer(&self) -> Option<&Answer> {
        self.server.answer().filter(|_| matches!(self.data, Data::Present(_)))
    }
}

/// The end of a primary that was stopped in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderlyEnd {
    /// Its timeline.
    pub timeline: Timeline,
    /// Where its last record begins, the shutdown checkpoint.
    pub checkpoint: Lsn,
}

/// The server process, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerLook {
    /// No child of ours runs. A server that ended by itself is told by [`super::Event::ServerDied`] besides.
    Stopped,
    /// It says itself that it accepts no connections yet, or no more, so that it was not asked.
    Starting,
    /// It runs, and did not answer every question within the time of the look.
    Silent(String),
    /// Our child runs, and something else answers where it should: that is believed nothing, and left alone.
    Stranger(String),
    /// It answered every question.
    Answering(Box<Answer>),
}

impl ServerLook {
    /// True while our child runs.
    pub fn is_running(&self) -> bool {
        !matches!(self, Self::Stopped)
    }

    /// What it said, if it answered.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Answering(answer) => Some(answer),
            _ => None,
        }
    }
}

/// What a running server says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Decimal.
    pub system_identifier: String,
    /// Current timeline.
    pub timeline: Timeline,
    /// Primary: flushed, read after everything else. Standby: the greater of received and replayed.
    pub lsn: Lsn,
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// Whether a standby receives WAL from the server that it follows.
    pub receiver: WalReceiver,
    /// The process of the WAL receiver while WAL streams in; none on a primary.
    pub receiver_process: Option<u32>,
    /// Whether a standby may still receive something.
    pub intake: Intake,
    /// The whole history of `timeline`, oldest first.
    pub history: Vec<TimelineHistoryEntry>,
    /// `pg_file_settings`, later rows win, nothing filtered.
    pub configured_parameters: Arc<Parameters>,
    /// How the passwords of the superuser and the replication user can be checked, by `pg_authid`.
    pub passwords: PasswordProtocol,
    /// `pg_stat_replication`, standbys only.
    pub replication: Vec<ReplicationRow>,
    /// `pg_replication_slots` without temporary ones.
    pub slots: Vec<SlotRow>,
    /// Value in force of `synchronous_standby_names`, read before `lsn`.
    pub synchronous_standby_names: String,
    /// Parameters that wait for a restart, without those that mean nothing to a primary, with the values that the server runs with.
    pub pending_restart: BTreeMap<String, String>,
    /// `pg_postmaster_start_time()`.
    pub started: Timestamp,
    /// How the archiving of WAL goes; none where the server archives none.
    pub archiver: Option<Archiver>,
    /// Name of the oldest WAL file; empty when segments are not 16 MiB.
    pub older_wal_file: String,
}

/// Whether WAL may still come to a standby from the server that it followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intake {
    /// It may. Also said of a primary.
    #[default]
    Open,
    /// The standby is told to stream from nobody, has no WAL receiver, and has read all WAL that it ever flushed: its position is what it
    /// holds.
    Shut,
}

/// Whether a standby receives WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WalReceiver {
    /// `pg_stat_wal_receiver` has a row. Also said of a primary, which needs none.
    #[default]
    Streaming,
    /// It has none; with the server's last words about it.
    Absent(Option<String>),
}

/// A row of `pg_stat_replication`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationRow {
    /// `stolon_` and the instance UID for our standbys.
    pub application_name: String,
    /// `sync`, `potential`, `quorum`, `async`.
    pub sync_state: String,
    /// What the standby has flushed.
    pub flush_lsn: Option<Lsn>,
    /// How long the last WAL took until it was replayed there; none while nothing new is written.
    pub replay_lag: Option<Duration>,
}

/// The control data of a server that does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlLook {
    /// The server runs, or there is no instance.
    NotRead,
    /// What they demand of the next start.
    Demands(Demands),
    /// `pg_controldata` is not installed: where it should be.
    NoProgram(String),
    /// `pg_controldata` failed: one sentence.
    Unreadable(String),
}
