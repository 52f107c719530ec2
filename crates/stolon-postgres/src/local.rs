//! One PostgreSQL with its data directory, binaries and users.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use stolon_core::keeper::{Config, ConfigMerge, Data, FoundServer, OldData, Progress, Upstream};
use stolon_core::postgres::Version;
use stolon_model::Timeline;
use tokio::sync::watch;

use crate::config::{self, ConfigFiles};
use crate::conninfo::{self, Parted};
use crate::control_data::ControlData;
use crate::credentials::Credentials;
use crate::data_directory;
use crate::error::{PostgresError, Result};
use crate::files::{Written, remove_if_there, write_atomically};
use crate::limit::Limit;
use crate::log_sink::LogSink;
use crate::process::{TOOL_OF, Tool};
use crate::process_table::Held;
use crate::quote::{self, PgpassHost};
use crate::server::ServerState;
use crate::tablespaces::TablespaceMapping;
use crate::tls::PeerTls;

/// What does not change while a keeper runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The keeper's own directory; PGDATA is `postgres` below it.
    pub keeper_directory: PathBuf,
    /// `--pg-bin-path`; none: found through `PATH`.
    pub bin_path: Option<PathBuf>,
    /// `--pg-listen-address`: where nobody else may listen on the port.
    pub listen_addresses: String,
    /// `--pg-port`.
    pub port: String,
    /// Directory of a second unix socket, for people (`/tmp`). The keeper's own is below its directory.
    pub public_socket_directory: PathBuf,
    /// The superuser.
    pub superuser: Credentials,
    /// The replication user.
    pub replication: Credentials,
    /// Who reads the files of a source for `pg_rewind`, where its PostgreSQL can grant that; none: the superuser.
    pub rewinder: Option<Credentials>,
    /// How the PostgreSQL of others is connected to.
    pub tls: PeerTls,
    /// Where their tablespaces are put here.
    pub tablespace_mapping: TablespaceMapping,
    /// Gets the server's log.
    pub log: LogSink,
}

/// One PostgreSQL. Cheap to clone; all clones are the same one. Calls that change it
/// (start, stop, base backup, …) must not overlap; [`LocalPostgres::sample`] and the other looks may.
#[derive(Clone, Debug)]
pub struct LocalPostgres {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) state: watch::Sender<ServerState>,
    /// The postmaster while it runs, and the last one afterwards.
    pub(crate) postmaster: Mutex<Option<Arc<Held>>>,
    /// Its end, when it comes, is our own will.
    pub(crate) stopping: AtomicBool,
    pub(crate) log_tail: Mutex<VecDeque<String>>,
    version: Mutex<Option<(Identity, Version)>>,
    /// The highest timeline that this server, as a standby, was seen to receive.
    pub(crate) last_timeline: Mutex<Option<Timeline>>,
    pub(crate) connection: tokio::sync::Mutex<Option<tokio_postgres::Client>>,
    /// Whose turn it is to work with files, and whose to look at them.
    disk: Turns,
    /// The directory of our own socket, once it was made.
    pub(crate) sockets: Mutex<Option<PathBuf>>,
    /// The name of the account that we run under, once looked up.
    pub(crate) account: OnceLock<Option<String>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("options", &self.options)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

/// Where long steps say how far they are.
pub type ProgressSender = watch::Sender<Progress>;

/// Options of [`LocalPostgres::base_backup`].
#[derive(Clone, Debug)]
pub struct BaseBackup {
    /// Where from.
    pub source: Upstream,
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
    /// It runs on, in our charge ([`LocalPostgres::take_over`]).
    TakenOver {
        /// Of the postmaster.
        pid: u32,
        /// What it is.
        found: FoundServer,
    },
}

impl LocalPostgres {
    /// Nothing is touched or run.
    pub fn new(options: Options) -> Self {
        let (state, _) = watch::channel(ServerState::Stopped);
        let inner = Inner {
            options,
            state,
            postmaster: Mutex::new(None),
            stopping: AtomicBool::new(false),
            log_tail: Mutex::new(VecDeque::new()),
            version: Mutex::new(None),
            last_timeline: Mutex::new(None),
            connection: tokio::sync::Mutex::new(None),
            disk: Turns::default(),
            sockets: Mutex::new(None),
            account: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// PGDATA: `postgres` in the keeper's directory.
    pub fn data_directory(&self) -> PathBuf {
        let path = self.inner.options.keeper_directory.join("postgres");
        std::path::absolute(&path).unwrap_or(path)
    }

    /// What does not change.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(crate) fn secrets_directory(&self) -> PathBuf {
        self.inner.options.keeper_directory.join("secrets")
    }

    /// Path of a program of PostgreSQL: below `--pg-bin-path`, else found through `PATH`, else its bare name. May wait for the disk.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        if let Some(directory) = &self.inner.options.bin_path {
            return directory.join(name);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|directory| directory.join(name))
            .find(|program| program.is_file())
            .unwrap_or_else(|| PathBuf::from(name))
    }

    /// Asked before anything is changed for a tool to work on.
    pub(crate) async fn must_have(&self, name: &'static str, limit: &Limit) -> Result<()> {
        let server = self.clone();
        let look = move || {
            let program = server.program(name);
            if program.is_file() {
                return Ok(());
            }
            let source = std::io::ErrorKind::NotFound.into();
            Err(PostgresError::Spawn { program: program.display().to_string(), source })
        };
        self.look_at_disk("looking for a program", limit, look).await
    }

    pub(crate) fn tool(&self, name: &str) -> Tool {
        // Without a directory it is found by who starts it, away from this thread.
        let directory = self.inner.options.bin_path.as_deref();
        let program = directory.map_or_else(|| name.into(), |directory| directory.join(name));
        self.marked(Tool::new(name, program))
    }

    /// What the next keeper can find and end if this one is killed.
    pub(crate) fn marked(&self, tool: Tool) -> Tool {
        tool.env(TOOL_OF, &self.inner.options.keeper_directory)
    }

    /// Of the binaries, cached until the file of `postgres` is replaced.
    pub async fn version(&self, limit: &Limit) -> Result<Version> {
        let limit = &limit.at_most(VERSION_LIMIT);
        let server = self.clone();
        let look = move || {
            let program = server.program("postgres");
            Ok((Identity::of(&program), program))
        };
        let (identity, program) = self.look_at_disk("looking at the binaries", limit, look).await?;
        if let Some((known, version)) = &*self.inner.version.lock()
            && identity.as_ref() == Some(known)
        {
            return Ok(*version);
        }
        let banner = self.tool("postgres").arg("-V").output(limit).await?.stdout;
        let version = Version::from_banner(&banner).ok_or_else(|| {
            PostgresError::Invalid(format!("{} -V does not tell a version: {banner:?}", program.display()))
        })?;
        *self.inner.version.lock() = identity.map(|identity| (identity, version));
        Ok(version)
    }

    /// Of the binaries, if it was asked for before.
    pub(crate) fn known_version(&self) -> Option<Version> {
        self.inner.version.lock().as_ref().map(|(_, version)| *version)
    }

    /// What stands at PGDATA. May wait for the disk.
    pub fn facts(&self) -> Result<Data> {
        data_directory::examine(&self.data_directory(), self.known_version())
    }

    /// `pg_controldata` of PGDATA.
    pub async fn control_data(&self, limit: &Limit) -> Result<ControlData> {
        let tool = self.tool("pg_controldata").arg("-D").arg(self.data_directory());
        ControlData::parse(&tool.output(&limit.at_most(VERSION_LIMIT)).await?.stdout)
    }

    /// The text of the configuration.
    pub(crate) fn files(&self, config: &Config, version: Version) -> ConfigFiles {
        let mut files = ConfigFiles::of(config, |upstream| self.replication_conninfo(upstream, version));
        if let (Some(parted), Some(conninfo)) =
            (self.parted(config), files.recovery.get_mut("primary_conninfo"))
        {
            *conninfo = parted.conninfo;
        }
        files
    }

    /// The connection string that the specification gives a standby cluster, if it has a password.
    fn parted(&self, config: &Config) -> Option<Parted> {
        let conninfo = config.recovery.parameters.get("primary_conninfo")?;
        conninfo::part(conninfo, self.outside_pass_file().to_str()?)
    }

    /// Holds the password that the server logs in with where it streams from: beside PGDATA, so that no copy of it takes the file along.
    pub(crate) fn replication_pass_file(&self) -> PathBuf {
        self.beside_data("replication.pgpass")
    }

    /// The same, for a primary outside the cluster.
    fn outside_pass_file(&self) -> PathBuf {
        self.beside_data("outside.pgpass")
    }

    fn beside_data(&self, name: &str) -> PathBuf {
        let path = self.inner.options.keeper_directory.join(name);
        std::path::absolute(&path).unwrap_or(path)
    }

    /// A server reads the file at each of its attempts, so that a new password is in force without a reload.
    fn write_replication_pass_file(&self) -> Result<()> {
        let who = &self.inner.options.replication;
        let line = who
            .password_to_send()
            .map(|password| quote::pgpass_line(PgpassHost::Any, &who.username, password.expose_secret()));
        write_pass_file(&self.replication_pass_file(), line)
    }

    fn write_outside_pass_file(&self, outside: Option<&Parted>) -> Result<()> {
        // No other connection string names this file.
        let line = outside.map(|parted| quote::pgpass_line(PgpassHost::Any, "*", &parted.password));
        write_pass_file(&self.outside_pass_file(), line)
    }

    /// Has the server use a replication password that was replaced ([`Password::replace`](crate::Password::replace)) from its
    /// next attempt on. Connections that it has stay.
    pub async fn renew_password_file(&self, limit: &Limit) -> Result<()> {
        let server = self.clone();
        self.on_disk("writing the replication password", limit, move || server.write_replication_pass_file())
            .await
    }

    /// Writes postgresql.conf, pg_hba.conf and the signal file of `config.recovery.mode`, each atomically and only when its content
    /// differs. True when anything changed on disk. [`ConfigMerge::WithExisting`] writes `stolon-temp-postgresql.conf`,
    /// which includes the postgresql.conf that stands there. Names and values that would break the file are left out;
    /// [`LocalPostgres::check_settings`] names them.
    pub async fn write_config(&self, config: &Config, merge: ConfigMerge, limit: &Limit) -> Result<bool> {
        let version = self.version(limit).await?;
        let (server, files, outside) = (self.clone(), self.files(config, version), self.parted(config));
        let write = move || {
            server.write_replication_pass_file()?;
            server.write_outside_pass_file(outside.as_ref())?;
            let mapped = server.write_account_map()?;
            let written = config::write(&server.data_directory(), &files, merge, version)?;
            if merge == ConfigMerge::Replace {
                config::disable_alter_system(&server.data_directory())?;
            }
            Ok([mapped, written].contains(&Written::Replaced))
        };
        self.on_disk("writing the configuration", limit, write).await
    }

    /// Works with files away from the keeper's one thread, since a disk may hang: one piece of work at a time, so that those that wait do
    /// not pile up. What has begun goes on when the limit ends, and what comes later waits for it.
    pub(crate) async fn on_disk<T: Send + 'static>(
        &self,
        what: &str,
        limit: &Limit,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        away(&self.inner.disk.work, what, limit, work).await
    }

    /// The same for what only looks at files: no work holds it up, and of looks, too, one is under way at a time.
    pub(crate) async fn look_at_disk<T: Send + 'static>(
        &self,
        what: &str,
        limit: &Limit,
        look: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        away(&self.inner.disk.look, what, limit, look).await
    }
}

fn write_pass_file(file: &Path, line: Option<SecretString>) -> Result<()> {
    match line {
        Some(line) => write_atomically(file, line.expose_secret().as_bytes()).map(drop),
        None => remove_if_there(file).map(drop),
    }
}

/// One piece of work, and one look, at a time.
#[derive(Default)]
struct Turns {
    work: Arc<tokio::sync::Mutex<()>>,
    look: Arc<tokio::sync::Mutex<()>>,
}

async fn away<T: Send + 'static>(
    turns: &Arc<tokio::sync::Mutex<()>>,
    what: &str,
    limit: &Limit,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let turn = limit.guard(what, Arc::clone(turns).lock_owned()).await?;
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    match limit.guard(what, done).await? {
        Ok(done) => done,
        Err(error) => Err(PostgresError::Invalid(format!("{what}: {error}"))),
    }
}

const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// Tells whether a file is still the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
    modified: i64,
    size: u64,
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: metadata.mtime(),
            size: metadata.size(),
        })
    }
}
