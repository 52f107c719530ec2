//! The configuration files of an instance: their text, and writing them so that a crash leaves the old or the new one.

use stolon_model::Parameters;

/// What an instance is to read at its next start or reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFiles {
    /// `postgresql.conf`, values raw.
    pub parameters: Parameters,
    /// Standby or recovery settings.
    pub recovery: Recovery,
    /// Lines of `pg_hba.conf`.
    pub hba: Vec<String>,
}

/// Standby or recovery settings with the mode that they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Which signal file is written.
    pub mode: RecoveryMode,
    /// `primary_conninfo`, `restore_command`, …; values raw.
    pub parameters: Parameters,
}

/// How a server starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryMode {
    /// As a primary; recovery parameters are not written. Existing signal files stay.
    #[default]
    None,
    /// As a standby (`standby.signal`).
    Standby,
    /// Recovering to a target, then promoting itself (`recovery.signal`).
    Recovery,
}

/// Whether the `postgresql.conf` that came with the data counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Our files replace it.
    Replace,
    /// Start-up of foreign data: it is included before our own parameters
    /// (`stolon-temp-postgresql.conf`).
    WithExisting,
}
