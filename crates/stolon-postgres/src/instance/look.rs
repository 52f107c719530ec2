//! One look at everything.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::SystemTime;

use stolon_core::keeper::{AlterSystem, ControlLook, Data, Look, ServerLook};

use super::LocalInstance;
use crate::error::PostgresError;
use crate::limit::Limit;
use crate::local::LocalPostgres;
use crate::process_table::startup_process_of;

impl LocalInstance {
    /// Looks at everything, which changes nothing and may run beside a step. What has not answered when the limit ends is silent.
    pub async fn look(&self, limit: &Limit) -> Look {
        let postgres = &self.postgres;
        // Asked first: whether signal files or a recovery.conf make a standby is for the binaries to say.
        let version = postgres.version(limit).await.map_err(|error| error.to_string());
        let data = postgres.facts().unwrap_or_else(|error| Data::Unreadable(error.to_string()));
        let server = self.server(limit).await;
        let is_instance = matches!(data, Data::Present(_));
        let control = match is_instance && server == ServerLook::Stopped {
            true => self.control(limit).await,
            false => ControlLook::NotRead,
        };
        let alter_system = match server.is_running() && !postgres.is_alter_system_disabled() {
            true => AlterSystem::Possible,
            false => AlterSystem::Refused,
        };
        Look { version, data, server, control, slots_on_disk: self.slots_on_disk(), alter_system }
    }

    async fn server(&self, limit: &Limit) -> ServerLook {
        if !self.postgres.server().borrow().is_running() {
            return ServerLook::Stopped;
        }
        if self.postgres.says_starting() {
            return ServerLook::Starting;
        }
        match self.postgres.sample(limit).await {
            Ok(answer) => ServerLook::Answering(Box::new(answer)),
            Err(error @ PostgresError::Stranger { .. }) => ServerLook::Stranger(error.to_string()),
            // It may have ended since.
            Err(_) if !self.postgres.server().borrow().is_running() => ServerLook::Stopped,
            Err(error) => ServerLook::Silent(error.to_string()),
        }
    }

    async fn control(&self, limit: &Limit) -> ControlLook {
        match self.postgres.control_data(limit).await {
            Ok(control) => ControlLook::Demands(control.demands),
            Err(PostgresError::Spawn { program, source }) if source.kind() == ErrorKind::NotFound => {
                ControlLook::NoProgram(program)
            }
            Err(error) => ControlLook::Unreadable(error.to_string()),
        }
    }

    fn slots_on_disk(&self) -> BTreeSet<String> {
        let directory = self.postgres.data_directory().join("pg_replslot");
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// Where a recovery stands: what its process says that it replays, and when the control file was last written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RecoveryProgress {
    /// `postgres: startup recovering 000000010000000000000007`.
    replays: Option<String>,
    /// Written with every restart point, and when pages reach the disk that demand more WAL.
    control: Option<SystemTime>,
}

impl LocalPostgres {
    /// Where a recovery stands, without asking the server, which does not answer yet.
    pub(crate) fn recovery_progress(&self) -> RecoveryProgress {
        let directory = self.data_directory();
        RecoveryProgress {
            replays: startup_process_of(&directory),
            control: std::fs::metadata(directory.join("global/pg_control"))
                .and_then(|file| file.modified())
                .ok(),
        }
    }

    /// True while the server itself says that it does not accept connections yet, or no more, so that asking it would only fill its log
    /// (PostgreSQL source, `pidfile.h`: the eighth line of `postmaster.pid`, since version 10).
    pub fn says_starting(&self) -> bool {
        let path = self.data_directory().join("postmaster.pid");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        matches!(text.lines().nth(7).map(str::trim), Some("starting" | "stopping"))
    }
}
