//! An instance of the real PostgreSQL under test, in a directory of its own.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use secrecy::ExposeSecret;
use stolon_core::keeper::{
    Config, ConfigMerge, Data, HbaLine, OldData, PasswordProtocol, Present, Progress, RecoveryMode, Upstream,
    UpstreamSlots,
};
use stolon_model::NewConfig;
use stolon_postgres::*;
use stolon_testkit::postgres::{as_unprivileged_user, bin_directory, free_port};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// One deadline for whatever a test waits for.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Defines a test that runs as an unprivileged user on a current-thread runtime, as the keeper does.
#[macro_export]
macro_rules! instance_test {
    ($name:ident, $body:expr) => {
        #[test]
        fn $name() {
            $crate::support::run(stringify!($name), $body);
        }
    };
}

pub fn run<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    as_unprivileged_user(name, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    });
}

/// A disk of a few megabytes, mounted by root for the test that it starts as another user.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// None when we are not root, or root of a container that may not mount.
    pub fn mount() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let path = Self::path_for(std::process::id());
        std::fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        let mounted =
            mount.args(["-t", "tmpfs", "-o", "size=24m,mode=0777", "none"]).arg(&path).status().unwrap();
        mounted.success().then_some(Self { path })
    }

    /// A directory on the disk that our parent has mounted.
    pub fn directory() -> Option<tempfile::TempDir> {
        let parent = rustix::process::getppid()?.as_raw_nonzero().get();
        let path = Self::path_for(parent.try_into().ok()?);
        path.exists().then(|| tempfile::tempdir_in(path).unwrap())
    }

    fn path_for(pid: u32) -> PathBuf {
        std::env::temp_dir().join(format!("stolon-small-disk-{pid}"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// A keeper's directory whose PGDATA is a mount point of the same file system, bound by root for the test that it starts as another user.
pub struct BoundDirectory {
    path: PathBuf,
}

impl BoundDirectory {
    /// None when we are not root, or root of a container that may not mount.
    pub fn mount() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let path = Self::path_for(std::process::id());
        let data = path.join("postgres");
        std::fs::create_dir_all(&data).unwrap();
        let owned = Command::new("chown").args(["-R", "postgres"]).arg(&path).status().unwrap();
        let bound = Command::new("mount").arg("--bind").args([&data, &data]).status().unwrap();
        (owned.success() && bound.success()).then_some(Self { path })
    }

    /// The one that our parent has bound.
    pub fn of_parent() -> Option<PathBuf> {
        let parent = rustix::process::getppid()?.as_raw_nonzero().get();
        let path = Self::path_for(parent.try_into().ok()?);
        path.exists().then_some(path)
    }

    fn path_for(pid: u32) -> PathBuf {
        std::env::temp_dir().join(format!("stolon-bound-{pid}"))
    }
}

impl Drop for BoundDirectory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path.join("postgres")).status();
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

pub fn limit() -> Limit {
    Limit::within(DEADLINE, &CancellationToken::new())
}

pub fn progress() -> ProgressSender {
    watch::channel(Progress::default()).0
}

/// A keeper's PostgreSQL; the server is killed when this is dropped.
pub struct Instance {
    pub postgres: LocalPostgres,
    pub directory: tempfile::TempDir,
    pub port: String,
    pub name: String,
}

#[derive(Clone)]
pub struct Passwords {
    pub superuser: String,
    pub replication: String,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { superuser: "supersecret".into(), replication: "replsecret".into() }
    }
}

pub fn credentials(username: &str, password: &str) -> Credentials {
    Credentials {
        username: username.into(),
        auth: AuthMethod::Md5,
        password: password.into(),
        certificate: None,
    }
}

impl Instance {
    pub fn new(name: &str, passwords: &Passwords) -> Self {
        Self::in_directory(name, passwords, tempfile::Builder::new().prefix("stolon-pg-").tempdir().unwrap())
    }

    pub fn in_directory(name: &str, passwords: &Passwords, directory: tempfile::TempDir) -> Self {
        Self::with(name, passwords, directory, |_| {})
    }

    /// With options that `change` has changed.
    pub fn with(
        name: &str,
        passwords: &Passwords,
        directory: tempfile::TempDir,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let mut options = Options {
            keeper_directory: directory.path().to_owned(),
            bin_path: Some(bin_directory().unwrap()),
            listen_addresses: "127.0.0.1".into(),
            port: free_port().unwrap().to_string(),
            public_socket_directory: directory.path().to_owned(),
            superuser: credentials("stolon", &passwords.superuser),
            replication: credentials("repluser", &passwords.replication),
            rewinder: None,
            tls: PeerTls::default(),
            tablespace_mapping: TablespaceMapping::default(),
            log: LogSink::new(|line| eprintln!("{line}")),
        };
        change(&mut options);
        let port = options.port.clone();
        Self { postgres: LocalPostgres::new(options), directory, port, name: name.into() }
    }

    /// A second keeper process on the same data.
    pub fn reopened(&self) -> LocalPostgres {
        LocalPostgres::new(self.postgres.options().clone())
    }

    /// What stands at PGDATA, which must be an instance.
    pub fn present(&self) -> Present {
        match self.postgres.facts().unwrap() {
            Data::Present(present) => present,
            other => panic!("{other:?} is no instance"),
        }
    }

    pub fn files(&self, more: &[(&str, &str)]) -> Config {
        let mut parameters: BTreeMap<String, String> = [
            ("port", self.port.as_str()),
            ("listen_addresses", "127.0.0.1"),
            ("wal_level", "replica"),
            ("hot_standby", "on"),
            ("max_wal_senders", "10"),
            ("max_replication_slots", "10"),
            ("wal_log_hints", "on"),
            ("wal_keep_size", "128"),
            ("shared_buffers", "16MB"),
            ("fsync", "off"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        for (name, value) in more {
            parameters.insert((*name).to_owned(), (*value).to_owned());
        }
        let hba = [
            "local postgres stolon md5",
            "local replication repluser md5",
            "host all stolon 127.0.0.1/32 md5",
            "host replication repluser 127.0.0.1/32 md5",
            "host all all 127.0.0.1/32 md5",
        ];
        Config { parameters, hba: hba.map(str::to_owned).map(HbaLine::Verbatim).into(), ..Config::default() }
    }

    pub fn standby_files(&self, of: &Instance, more: &[(&str, &str)]) -> Config {
        let mut files = self.files(more);
        files.recovery.mode = RecoveryMode::Standby;
        files.recovery.upstream = Some(of.source_for(self));
        files.recovery.parameters.insert("primary_slot_name".into(), self.slot());
        files
    }

    pub fn slot(&self) -> String {
        format!("stolon_{}", self.name)
    }

    pub fn source_for(&self, other: &Instance) -> Upstream {
        Upstream {
            host: "127.0.0.1".into(),
            port: self.port.clone(),
            application_name: other.slot(),
            passwords: PasswordProtocol::default(),
            slots: UpstreamSlots::Left,
        }
    }

    pub async fn start(&self, files: &Config) {
        self.postgres.write_config(files, ConfigMerge::Replace, &limit()).await.unwrap();
        self.postgres.start(ConfigMerge::Replace, &limit()).await.unwrap();
        self.postgres.wait_ready(&limit()).await.unwrap();
    }

    pub async fn stop(&self) {
        self.postgres.stop(StopMode::Fast, DEADLINE, &limit()).await.unwrap();
    }

    /// `kill -9` of the postmaster, seen.
    pub async fn crash(&self) {
        let mut server = self.postgres.server();
        kill(self.pid(), rustix::process::Signal::KILL);
        let died = server.wait_for(|state| !state.is_running());
        tokio::time::timeout(DEADLINE, died).await.unwrap().unwrap();
    }

    /// initdb, start, roles: a new cluster as a keeper makes it.
    pub async fn create(&self, more: &[(&str, &str)]) {
        self.postgres.initdb(&NewConfig::default(), &limit()).await.unwrap();
        self.start(&self.files(more)).await;
        self.postgres.set_up_roles(&limit()).await.unwrap();
    }

    /// A running standby of `primary`.
    pub async fn follow(&self, primary: &Instance, more: &[(&str, &str)]) {
        let slots = [self.slot()].into();
        primary.postgres.refresh_slots(&slots, &limit()).await.unwrap();
        self.copy(primary, OldData::KeepUntilCopied).await.unwrap();
        self.start(&self.standby_files(primary, more)).await;
    }

    pub async fn copy(&self, primary: &Instance, old_data: OldData) -> Result<()> {
        let backup = BaseBackup { source: primary.source_for(self), slot: Some(self.slot()), old_data };
        self.postgres.base_backup(&backup, &progress(), &limit()).await
    }

    pub async fn sql(&self) -> tokio_postgres::Client {
        let mut config = tokio_postgres::Config::new();
        let superuser = &self.postgres.options().superuser;
        config
            .host("127.0.0.1")
            .port(self.port.parse().unwrap())
            .user(&superuser.username)
            .dbname("postgres");
        config.password(superuser.password_to_send().unwrap().expose_secret());
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub async fn run(&self, sql: &str) {
        self.sql().await.batch_execute(sql).await.unwrap();
    }

    pub fn pid(&self) -> i32 {
        match *self.postgres.server().borrow() {
            ServerState::Running { pid } => pid.try_into().unwrap(),
            ref other => panic!("not running: {other:?}"),
        }
    }

    pub fn data(&self) -> std::path::PathBuf {
        self.postgres.data_directory()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let ServerState::Running { pid } = *self.postgres.server().borrow() {
            kill(pid.try_into().unwrap(), rustix::process::Signal::QUIT);
        }
    }
}

pub fn kill(pid: i32, signal: rustix::process::Signal) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal);
}

/// Waits until `condition` holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let limit = limit();
    while !condition().await {
        limit.pause(what, Duration::from_millis(10)).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Names and values of everything below a directory, to see that nothing changed.
pub fn fingerprint(directory: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        found.push((entry.path().display().to_string(), metadata.len()));
        if metadata.is_dir() {
            found.extend(fingerprint(&entry.path()));
        }
    }
    found.sort();
    found
}
