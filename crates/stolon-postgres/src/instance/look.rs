//! One look at everything.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, SystemTime};

use stolon_core::keeper::{AlterSystem, ControlLook, Data, DataKind, Demands, Look, OrderlyEnd, ServerLook};
use stolon_core::postgres::Version;
use stolon_model::Lsn;

use tokio::time::Instant;

use super::LocalInstance;
use crate::config;
use crate::error::{PostgresError, Result};
use crate::limit::Limit;
use crate::local::LocalPostgres;
use crate::process_table::startup_process_of;
use crate::room::ServerRuns;

/// A busy standby writes its control file all the time.
const CONTROL_PAUSE: Duration = Duration::from_secs(10);

/// What the control file of a running standby said.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownControl {
    /// When the server had written it.
    written: SystemTime,
    at: Instant,
    demands: Demands,
}

/// What the files show.
struct DiskLook {
    version: std::result::Result<Version, String>,
    data: Data,
    slots_on_disk: BTreeSet<String>,
    alter_system: AlterSystem,
}

/// What the control data say.
struct Control {
    look: ControlLook,
    /// Where a primary has ended, if it did so in order.
    ended: Option<OrderlyEnd>,
    /// Where the last checkpoint lies.
    checkpoint: Option<Lsn>,
}

impl Control {
    /// Nothing but what is demanded, or why that is not known.
    fn only(look: ControlLook) -> Self {
        Control { look, ended: None, checkpoint: None }
    }
}

impl LocalInstance {
    /// Looks at everything, which changes nothing and may run beside a step. What has not answered when the limit ends is silent, and what
    /// a disk has not shown by then cannot be read.
    pub(super) async fn see(&self, limit: &Limit) -> Look {
        let runs = match self.postgres.server().borrow().is_running() {
            true => ServerRuns::Yes,
            false => ServerRuns::No,
        };
        let room = self.room.look(self.postgres.data_directory(), runs);
        let (disk, server, room) = tokio::join!(self.disk(limit), self.server(limit), room);
        let DiskLook { version, data, slots_on_disk, alter_system } = disk;
        let is_instance = matches!(data, Data::Present(_));
        let is_standby = matches!(&data, Data::Present(present) if present.kind == DataKind::Standby);
        let Control { look: control, ended, checkpoint } = match &server {
            ServerLook::Stopped if is_instance => self.control(limit).await,
            ServerLook::Answering(answer) if is_standby && answer.in_recovery => {
                // Whoever may be restarted must not come back with less than its primary has by now.
                let age = if answer.pending_restart.is_empty() { CONTROL_PAUSE } else { Duration::ZERO };
                Control::only(self.control_of_standby(age, limit).await)
            }
            _ => Control::only(ControlLook::NotRead),
        };
        let alter_system = if server.is_running() { alter_system } else { AlterSystem::Refused };
        Look { version, data, server, control, ended, checkpoint, slots_on_disk, room, alter_system }
    }

    async fn disk(&self, limit: &Limit) -> DiskLook {
        // Asked first: whether signal files or a recovery.conf make a standby is for the binaries to say.
        let version = self.postgres.version(limit).await.map_err(|error| error.to_string());
        let postgres = self.postgres.clone();
        let look = move || {
            let alter_system = match config::is_alter_system_disabled(&postgres.data_directory()) {
                true => AlterSystem::Refused,
                false => AlterSystem::Possible,
            };
            let data = postgres.facts().unwrap_or_else(|error| Data::Unreadable(error.to_string()));
            Ok((data, slots_on_disk(&postgres.data_directory()), alter_system))
        };
        let seen =
            self.postgres.look_at_disk("looking at the files of the data directory", limit, look).await;
        let (data, slots_on_disk, alter_system) = seen.unwrap_or_else(|error| {
            (Data::Unreadable(error.to_string()), BTreeSet::new(), AlterSystem::Refused)
        });
        DiskLook { version, data, slots_on_disk, alter_system }
    }

    async fn server(&self, limit: &Limit) -> ServerLook {
        if !self.postgres.server().borrow().is_running() {
            return ServerLook::Stopped;
        }
        let looked = match self.postgres.says_starting(limit).await {
            Ok(true) => return ServerLook::Starting,
            Ok(false) => self.postgres.sample(limit).await,
            Err(error) => Err(error),
        };
        match looked {
            Ok(answer) => ServerLook::Answering(Box::new(answer)),
            Err(error @ PostgresError::Stranger { .. }) => ServerLook::Stranger(error.to_string()),
            // It may have ended since.
            Err(_) if !self.postgres.server().borrow().is_running() => ServerLook::Stopped,
            Err(error) => ServerLook::Silent(error.to_string()),
        }
    }

    /// The control file is written with every restart point, and when the limits of the primary change: it is read again when it was
    /// written, and what was read is older than `age`.
    async fn control_of_standby(&self, age: Duration, limit: &Limit) -> ControlLook {
        let file = self.postgres.data_directory().join("global/pg_control");
        let look = move || {
            let metadata = std::fs::metadata(&file).map_err(PostgresError::io("look at", &file))?;
            metadata.modified().map_err(PostgresError::io("look at", &file))
        };
        let Ok(written) = self.postgres.look_at_disk("looking at the control file", limit, look).await else {
            return ControlLook::NotRead;
        };
        let known = *self.read_control.lock();
        if let Some(known) = known
            && (known.written == written || known.at.elapsed() < age)
        {
            return ControlLook::Demands(known.demands);
        }
        match self.control(limit).await.look {
            ControlLook::Demands(demands) => {
                *self.read_control.lock() = Some(KnownControl { written, at: Instant::now(), demands });
                ControlLook::Demands(demands)
            }
            // The server itself says what is wrong with it.
            _ => ControlLook::NotRead,
        }
    }

    async fn control(&self, limit: &Limit) -> Control {
        match self.postgres.control_data(limit).await {
            Ok(control) => Control {
                look: ControlLook::Demands(control.demands),
                ended: control.orderly_end(),
                checkpoint: Some(control.checkpoint),
            },
            Err(PostgresError::Spawn { program, source }) if source.kind() == ErrorKind::NotFound => {
                Control::only(ControlLook::NoProgram(program))
            }
            Err(error) => Control::only(ControlLook::Unreadable(error.to_string())),
        }
    }
}

fn slots_on_disk(data: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(data.join("pg_replslot")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
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
    /// Where a recovery stands, without asking the server, which does not answer yet; none when the disk does not show it.
    pub(crate) async fn recovery_progress(&self, limit: &Limit) -> Option<RecoveryProgress> {
        let directory = self.data_directory();
        let look = move || {
            let control = std::fs::metadata(directory.join("global/pg_control"));
            Ok(RecoveryProgress {
                replays: startup_process_of(&directory),
                control: control.and_then(|file| file.modified()).ok(),
            })
        };
        self.look_at_disk("looking at how far the recovery is", limit, look).await.ok()
    }

    /// True while the server itself says that it does not accept connections yet, or no more, so that asking it would only fill its log
    /// (PostgreSQL source, `pidfile.h`: the eighth line of `postmaster.pid`, since version 10).
    pub(crate) async fn says_starting(&self, limit: &Limit) -> Result<bool> {
        let file = self.read_pid_file(limit).await?;
        Ok(file.is_some_and(|file| file.starting || file.stopping))
    }
}
