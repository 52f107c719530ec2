//! What `pg_control` says about a data directory, read with `pg_controldata`.

use std::collections::BTreeMap;

use stolon_core::keeper::{Demands, OrderlyEnd, WalLevel};
use stolon_model::{Lsn, Timeline};

use crate::error::{PostgresError, Result};

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
    /// The settings that the WAL was written with; `max_wal_senders` is 0 before PostgreSQL 12.
    pub demands: Demands,
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

impl ControlData {
    /// Where a primary has ended that was stopped in order: its last record is the checkpoint.
    pub fn orderly_end(&self) -> Option<OrderlyEnd> {
        let Self { state, timeline, checkpoint, .. } = *self;
        (state == ClusterState::ShutDown).then_some(OrderlyEnd { timeline, checkpoint })
    }

    /// Reads the output of `pg_controldata` (in English).
    ///
    /// # Errors
    /// A field is missing, or holds something else.
    pub fn parse(output: &str) -> Result<Self> {
        let fields: BTreeMap<&str, &str> = output
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        let text = |name: &str| {
            fields
                .get(name)
                .copied()
                .ok_or_else(|| PostgresError::Invalid(format!("pg_controldata does not tell \"{name}\"")))
        };
        let number = |name: &str| {
            let value = text(name)?;
            value.parse::<u64>().map_err(|_| bad(name, value))
        };
        let position = |name: &str| {
            let value = text(name)?;
            value.parse::<Lsn>().map_err(|_| bad(name, value))
        };
        Ok(Self {
            system_identifier: text("Database system identifier")?.to_owned(),
            state: match text("Database cluster state")? {
                "shut down" => ClusterState::ShutDown,
                "shut down in recovery" => ClusterState::ShutDownInRecovery,
                "in production" => ClusterState::InProduction,
                "in archive recovery" => ClusterState::InArchiveRecovery,
                _ => ClusterState::Other,
            },
            timeline: Timeline(number("Latest checkpoint's TimeLineID")?),
            checkpoint: position("Latest checkpoint location")?,
            min_recovery_end: position("Minimum recovery ending location")?,
            demands: Demands {
                max_connections: number("max_connections setting")?,
                max_worker_processes: number("max_worker_processes setting")?,
                max_wal_senders: fields.get("max_wal_senders setting").map_or(Ok(0), |value| {
                    value.parse().map_err(|_| bad("max_wal_senders setting", value))
                })?,
                max_prepared_transactions: number("max_prepared_xacts setting")?,
                max_locks_per_transaction: number("max_locks_per_xact setting")?,
                track_commit_timestamp: text("track_commit_timestamp setting")? == "on",
                wal_level: match text("wal_level setting")? {
                    "logical" => WalLevel::Logical,
                    _ => WalLevel::Replica,
                },
            },
            wal_segment_size: number("Bytes per WAL segment")?,
        })
    }
}

fn bad(name: &str, value: &str) -> PostgresError {
    PostgresError::Invalid(format!("pg_controldata says \"{value}\" for \"{name}\""))
}
