//! What a data directory is, seen from its files alone.

use crate::version::Version;

/// What stands at PGDATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataDirectory {
    /// Nothing.
    Absent,
    /// An empty directory.
    Empty,
    /// Some of an instance, or something else.
    Partial {
        /// Files and directories of an instance that are missing.
        missing: Vec<String>,
    },
    /// An instance.
    Initialised(Initialised),
}

/// An instance as its files show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initialised {
    /// From `PG_VERSION`.
    pub version: Version,
    /// From the signal files.
    pub role: LocalRole,
    /// `recovery.signal` (or, before PostgreSQL 12, a `recovery.conf` without `recovery.done`) stands there:
    /// recovery to a target has not ended.
    pub recovery_pending: bool,
    /// The first eight bytes of `global/pg_control` in decimal.
    pub system_identifier: String,
}

/// What an instance would start as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalRole {
    /// Without `standby.signal`.
    Primary,
    /// With `standby.signal`.
    Standby,
}
