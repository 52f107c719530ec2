//! One PostgreSQL with its data directory, binaries and users.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stolon_model::NewConfig;
use tokio::sync::watch;

use crate::*;

/// What does not change while a keeper runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The keeper's own directory; PGDATA is `postgres` below it.
    pub keeper_directory: PathBuf,
    /// `--pg-bin-path`; none: found through `PATH`.
    pub bin_path: Option<PathBuf>,
    /// `--pg-port`.
    pub port: String,
    /// Directory of the unix socket (`/tmp`).
    pub socket_directory: PathBuf,
    /// The superuser.
    pub superuser: Credentials,
    /// The replication user.
    pub replication: Credentials,
}

/// One PostgreSQL. Cheap to clone; all clones are the same one. Calls that change it
/// (start, stop, base backup, …) must not overlap; [`LocalPostgres::sample`] and the other looks may.
#[derive(Clone, Debug)]
pub struct LocalPostgres {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) state: watch::Sender<ServerState>,
}

/// Bytes copied, of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// So far.
    pub bytes_done: u64,
    /// In all; 0 when unknown.
    pub bytes_total: u64,
}

/// Where long steps say how far they are.
pub type ProgressSender = watch::Sender<Progress>;

/// Options of [`LocalPostgres::initdb`].
pub type InitdbOptions = NewConfig;

/// What becomes of data that stands in PGDATA when a copy is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldData {
    /// Copied beside it (`postgres.new`) and exchanged when complete, so that the last good copy is never lost.
    /// Needs room for both. Where PGDATA is a mount point, or has tablespaces or a `pg_wal` elsewhere,
    /// this is the same as [`OldData::DeleteFirst`].
    KeepUntilCopied,
    /// Deleted before the copy starts.
    DeleteFirst,
}

/// Options of [`LocalPostgres::base_backup`].
#[derive(Clone, Debug)]
pub struct BaseBackup {
    /// Where from.
    pub source: Source,
    /// A slot that exists there; none: the copy uses a temporary one.
    pub slot: Option<String>,
    /// What becomes of the data that we have.
    pub old_data: OldData,
}

/// What was done about a server that ran in PGDATA when we came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphanOutcome {
    /// There was none.
    None,
    /// It was stopped.
    Stopped {
        /// Of the postmaster.
        pid: u32,
    },
}

/// A line of a configuration file that a running server did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// `postgresql.conf`, `pg_hba.conf`.
    pub file: String,
    /// From 1.
    pub line: i32,
    /// The parameter, empty for other files.
    pub name: String,
    /// PostgreSQL's words.
    pub error: String,
}

/// What [`LocalPostgres::refresh_slots`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotPlan {
    /// Made.
    pub created: Vec<String>,
    /// Dropped.
    pub dropped: Vec<String>,
    /// Unwanted but in use: tried again next time. With the reason.
    pub kept: Vec<(String, String)>,
}

impl LocalPostgres {
    /// Nothing is touched or run.
    pub fn new(options: Options) -> Self {
        let (state, _) = watch::channel(ServerState::Stopped);
        Self { inner: Arc::new(Inner { options, state }) }
    }

    /// PGDATA, absolute.
    pub fn data_directory(&self) -> PathBuf {
        unimplemented!()
    }

    /// Of the binaries, cached by file identity.
    pub async fn version(&self, limit: &Limit) -> Result<Version> {
        unimplemented!()
    }

    /// What stands at PGDATA.
    pub fn facts(&self) -> Result<DataDirectory> {
        unimplemented!()
    }

    /// `pg_controldata` of PGDATA.
    pub async fn control_data(&self, limit: &Limit) -> Result<ControlData> {
        unimplemented!()
    }

    /// `primary_conninfo` for following `source` (with the password, as the reference writes it).
    pub fn replication_conninfo(&self, source: &Source) -> String {
        unimplemented!()
    }

    // ---- configuration ----

    /// Writes postgresql.conf, pg_hba.conf and the signal file (docs: "Files"). Returns whether anything changed on disk.
    /// [`Merge::WithExisting`] writes `stolon-temp-postgresql.conf` instead of postgresql.conf.
    pub async fn write_config(&self, files: &ConfigFiles, merge: Merge, limit: &Limit) -> Result<bool> {
        unimplemented!()
    }

    /// What the last [`LocalPostgres::write_config`] of this process wrote.
    pub fn last_written(&self) -> Option<ConfigFiles> {
        unimplemented!()
    }

    /// Asks the real binary, beside the running server, which of these settings it would refuse. Empty: it would start
    /// as far as settings go. Works without a data directory too (then combinations are not seen).
    pub async fn check_settings(
        &self,
        files: &ConfigFiles,
        merge: Merge,
        limit: &Limit,
    ) -> Result<Vec<RejectedSetting>> {
        unimplemented!()
    }

    /// Comments lines out of a configuration file that came with the data (inside PGDATA only).
    pub fn comment_out(&self, rejected: &[RejectedSetting]) -> Result<()> {
        unimplemented!()
    }

    // ---- making data ----

    /// `initdb`. A failure leaves nothing behind.
    pub async fn initdb(&self, options: &InitdbOptions, limit: &Limit) -> Result<()> {
        unimplemented!()
    }

    /// Runs `dataRestoreCommand` (`%d`, `%%`) into a fresh PGDATA. A failure leaves nothing behind.
    pub async fn restore(&self, command: &str, progress: &ProgressSender, limit: &Limit) -> Result<()> {
        unimplemented!()
    }

    /// Looks at a source without touching anything: reachable, same cluster (when `system_identifier` is given), slot there, wal sender free.
    pub async fn examine_source(
        &self,
        source: &Source,
        system_identifier: Option<&str>,
        slot: Option<&str>,
        limit: &Limit,
    ) -> Result<SourceFacts> {
        unimplemented!()
    }

    /// [`LocalPostgres::examine_source`] again and again until the slot is there; other problems end it at once.
    pub async fn wait_for_source(
        &self,
        source: &Source,
        system_identifier: Option<&str>,
        slot: Option<&str>,
        limit: &Limit,
    ) -> Result<SourceFacts> {
        unimplemented!()
    }

    /// `pg_basebackup`. On failure with [`OldData::KeepUntilCopied`] the old data stands as before.
    pub async fn base_backup(
        &self,
        backup: &BaseBackup,
        progress: &ProgressSender,
        limit: &Limit,
    ) -> Result<()> {
        unimplemented!()
    }

    /// `pg_rewind` against a running primary, as the superuser. The server must be stopped.
    pub async fn rewind(&self, source: &Source, progress: &ProgressSender, limit: &Limit) -> Result<()> {
        unimplemented!()
    }

    /// Deletes PGDATA with its tablespaces and what a broken-off copy left. The server must be stopped.
    pub async fn remove_data(&self, limit: &Limit) -> Result<()> {
        unimplemented!()
    }

    // ---- the server process ----

    /// The server process as its parent sees it; changes at once when it ends.
    pub fn server(&self) -> watch::Receiver<ServerState> {
        self.inner.state.subscribe()
    }

    /// Stops a server that runs in PGDATA and is not our child (left by a killed keeper): fast, then immediate.
    pub async fn stop_orphan(&self, limit: &Limit) -> Result<OrphanOutcome> {
        unimplemented!()
    }

    /// Starts the server as our child with the files written before ([`LocalPostgres::write_config`], same `merge`), and returns
    /// once it owns PGDATA (`postmaster.pid`). [`LocalPostgres::wait_ready`] waits for connections.
    pub async fn start(&self, merge: Merge, limit: &Limit) -> Result<()> {
        unimplemented!()
    }

    /// Until the server answers SQL; [`PostgresError::ServerExited`] at once when it ends instead.
    pub async fn wait_ready(&self, limit: &Limit) -> Result<()> {
        unimplemented!()
    }

    /// Until recovery to a target has ended: signal file gone, `pg_is_in_recovery()` false.
    /// [`PostgresError::ServerExited`] at once when the server ends instead.
    pub async fn wait_recovery_end(&self, limit: &Limit) -> Result<()> {
        unimplemented!()
    }

    /// Stops our child and returns when it is gone. No child: nothing. With [`StopMode::Fast`] it escalates to SIGQUIT after
    /// `patience`, and to SIGKILL at the end of `limit`.
    pub async fn stop(&self, mode: StopMode, patience: Duration, limit: &Limit) -> Result<()> {
        unimplemented!()
    }

    /// Makes the running server read its files again, waits until it has, and returns the lines it did not take.
    pub async fn reload(&self, limit: &Limit) -> Result<Vec<ConfigProblem>> {
        unimplemented!()
    }

    /// Makes a running standby a primary: `pg_promote`, then waits until it is out of recovery, nudging it meanwhile.
    /// Starts a checkpoint in the background.
    pub async fn promote(&self, limit: &Limit) -> Result<()> {
        unimplemented!()
    }

    // ---- SQL ----

    /// Sets passwords and makes the replication user, for a new cluster. Returns log lines of the reference
    /// (`superuser password set`, `replication role created`, …).
    pub async fn set_up_roles(&self, limit: &Limit) -> Result<Vec<&'static str>> {
        unimplemented!()
    }

    /// One look at the running server.
    pub async fn sample(&self, limit: &Limit) -> Result<Sample> {
        unimplemented!()
    }

    /// Only what the start gate of synchronous replication needs: cheap enough to be polled.
    /// The rows of `pg_stat_replication`, the names in force, and then the flush position.
    pub async fn replication(&self, limit: &Limit) -> Result<ReplicationLook> {
        unimplemented!()
    }

    /// Names of parameters that wait for a restart.
    pub async fn pending_restart(&self, limit: &Limit) -> Result<Vec<String>> {
        unimplemented!()
    }

    /// Makes exactly `wanted` the physical slots whose names start with `stolon_`; invalidated ones are made anew.
    pub async fn refresh_slots(
        &self,
        wanted: &std::collections::BTreeSet<String>,
        limit: &Limit,
    ) -> Result<SlotPlan> {
        unimplemented!()
    }

    /// Ends the sessions of all clients but the superuser and the replication user. Returns how many.
    pub async fn terminate_clients(&self, limit: &Limit) -> Result<u64> {
        unimplemented!()
    }
}
