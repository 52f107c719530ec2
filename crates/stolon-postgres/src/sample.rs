//! What a running server says about itself, over one connection that is kept.

use stolon_model::{Lsn, Parameters, Timeline, TimelineHistoryEntry};

/// One look at a server that answered every query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Decimal.
    pub system_identifier: String,
    /// Current timeline.
    pub timeline: Timeline,
    /// Primary: flushed. Standby: the greater of received and replayed.
    pub lsn: Lsn,
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// The whole history of `timeline`, oldest first (published: the last two).
    pub timelines_history: Vec<TimelineHistoryEntry>,
    /// `pg_file_settings`, later rows win, nothing filtered.
    pub configured_parameters: Parameters,
    /// `pg_stat_replication`.
    pub replication: Vec<ReplicationRow>,
    /// Names of parameters that wait for a restart.
    pub pending_restart: Vec<String>,
    /// Values in force of `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// Name of the oldest WAL file; empty when segments are not 16 MiB.
    pub older_wal_file: String,
}

/// A row of `pg_stat_replication`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationRow {
    /// `stolon_` and the instance UID for our standbys.
    pub application_name: String,
    /// `streaming`, `catchup`, …
    pub state: String,
    /// `sync`, `potential`, `quorum`, `async`.
    pub sync_state: String,
    /// What the standby has flushed.
    pub flush_lsn: Option<Lsn>,
}

/// What the start gate of synchronous replication needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationLook {
    /// `pg_stat_replication`.
    pub rows: Vec<ReplicationRow>,
    /// Value in force of `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// The primary's flush position, read after the other two; none on a standby.
    pub flushed: Option<Lsn>,
}
