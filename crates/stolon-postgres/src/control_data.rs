//! What `pg_control` says about a data directory, read with `pg_controldata`.

use stolon_model::{Lsn, Timeline};

/// The facts of `pg_controldata` that a keeper needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    /// Database system identifier in decimal.
    pub system_identifier: String,
    /// How the server last ended.
    pub state: ClusterState,
    /// Latest checkpoint's timeline.
    pub timeline: Timeline,
    /// Latest checkpoint's position.
    pub checkpoint: Lsn,
    /// Minimum recovery ending position; zero when it never was a standby.
    pub min_recovery_end: Lsn,
    /// The settings that the WAL was written with: a server that recovers it needs at least these.
    pub max_connections: u64,
    /// See [`ControlData::max_connections`].
    pub max_worker_processes: u64,
    /// See [`ControlData::max_connections`]; 0 before PostgreSQL 12.
    pub max_wal_senders: u64,
    /// See [`ControlData::max_connections`].
    pub max_prepared_transactions: u64,
    /// See [`ControlData::max_connections`].
    pub max_locks_per_transaction: u64,
    /// Must be the same on a server that recovers it.
    pub track_commit_timestamp: bool,
    /// Bytes of one WAL segment.
    pub wal_segment_size: u64,
}

/// "Database cluster state".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// `shut down`.
    ShutDown,
    /// `shut down in recovery`.
    ShutDownInRecovery,
    /// `in production`: running, or crashed as a primary.
    InProduction,
    /// `in archive recovery`: running, or crashed as a standby.
    InArchiveRecovery,
    /// `in crash recovery`, `shutting down`, `starting up` and whatever later versions add.
    Other,
}

impl ClusterState {
    /// True when the server ended in order.
    pub fn is_clean(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShutDownInRecovery)
    }
}
