//! A plain PostgreSQL for tests, and running a test as a user that PostgreSQL accepts.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// The user that PostgreSQL runs as when the tests run as root, which it refuses.
const UNPRIVILEGED_USER: &str = "postgres";
/// In the environment of a test that runs as another user: where that user reaches the programs.
const PROGRAMS: &str = "STOLON_TEST_PROGRAMS";
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The directory of PostgreSQL's programs: `STOLON_TEST_PG_BIN`, else Debian's newest, else where `postgres` is in `PATH`.
pub fn bin_directory() -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os("STOLON_TEST_PG_BIN") {
        return Ok(given.into());
    }
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = debian
        .filter_map(|entry| {
            entry.file_name().to_string_lossy().parse::<u16>().ok().map(|major| (major, entry.path()))
        })
        .map(|(major, path)| (major, path.join("bin")))
        .filter(|(_, path)| path.join("postgres").is_file())
        .max();
    if let Some((_, path)) = newest {
        return Ok(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find(|directory| directory.join("postgres").is_file())
        .context("no PostgreSQL is installed: apt-get install postgresql")
}

/// A port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("cannot look for a free port")?;
    Ok(listener.local_addr()?.port())
}

/// A command that runs `program` as a user that PostgreSQL accepts: ourselves, or `postgres` when we are root.
pub fn unprivileged_command(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", UNPRIVILEGED_USER, "--regid", UNPRIVILEGED_USER, "--init-groups", "--"]);
    command.arg(program);
    command
}

/// Runs the body of the test `name` (its full path in the test binary) as a user that PostgreSQL accepts: here when we are not root, else
/// in a child process of this test binary.
///
/// # Panics
/// When the child fails, so that the test does.
pub fn as_unprivileged_user(name: &str, body: impl FnOnce()) {
    if !rustix::process::geteuid().is_root() {
        return body();
    }
    let binary = reachable_test_binary().expect("the test binary can be run by another user");
    let mut command = unprivileged_command(&binary.path);
    if let Some(copies) = &binary.copies {
        command.env(PROGRAMS, copies.path());
    }
    let status = command
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .current_dir("/")
        // The other user cannot enter ours, where libpq would look for certificates.
        .env_remove("HOME")
        .status()
        .expect("setpriv is installed");
    assert!(status.success(), "{name} failed as user {UNPRIVILEGED_USER}: see above");
}

/// The path of a program of this project for a test to run: where it was built, or where the user that the test runs as can reach it.
pub fn program(built: &str) -> PathBuf {
    let built = PathBuf::from(built);
    match (std::env::var_os(PROGRAMS), built.file_name()) {
        (Some(copies), Some(name)) => Path::new(&copies).join(name),
        _ => built,
    }
}

/// The running test binary; a copy of it, with the programs that were built beside it, when it lies below a directory that
/// another user cannot enter.
struct TestBinary {
    path: PathBuf,
    copies: Option<tempfile::TempDir>,
}

fn reachable_test_binary() -> anyhow::Result<TestBinary> {
    let path = std::env::current_exe()?;
    let reachable = unprivileged_command(Path::new("test")).arg("-x").arg(&path).status()?.success();
    if reachable {
        return Ok(TestBinary { path, copies: None });
    }
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
    let copy = directory.path().join("tests");
    std::fs::copy(&path, &copy)?;
    // Test binaries are in `deps`, programs one level up.
    let built = path.ancestors().nth(2).context("the test binary has no directory")?;
    for entry in std::fs::read_dir(built)?.flatten() {
        let name = entry.file_name();
        let is_program = name.to_str().is_some_and(|name| name.starts_with("stolon") && !name.contains('.'));
        if is_program && entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), directory.path().join(name))?;
        }
    }
    Ok(TestBinary { path: copy, copies: Some(directory) })
}

/// What a [`PostgresServer`] is like.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Name of the first user.
    pub superuser: String,
    /// The password of that user.
    pub password: String,
    /// Lines of `postgresql.conf`, values unquoted.
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf`.
    pub hba: Vec<String>,
    /// More options of `initdb`.
    pub initdb: Vec<String>,
    /// The directory of PostgreSQL's programs; none: [`bin_directory`].
    pub programs: Option<PathBuf>,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            superuser: "postgres".to_owned(),
            password: "secret".to_owned(),
            parameters: BTreeMap::new(),
            hba: vec![
                "local all all trust".to_owned(),
                "host all all 127.0.0.1/32 md5".to_owned(),
                "host replication all 127.0.0.1/32 md5".to_owned(),
            ],
            initdb: Vec::new(),
            programs: None,
        }
    }
}

/// A PostgreSQL of its own in a temporary directory, listening on 127.0.0.1 and on a socket in that directory. Stopped at once,
/// and deleted, when dropped.
#[derive(Debug)]
pub struct PostgresServer {
    directory: tempfile::TempDir,
    bin: PathBuf,
    config: PostgresConfig,
    port: u16,
    child: Option<Child>,
}

/// A temporary directory of the user that PostgreSQL runs as.
fn own_directory() -> anyhow::Result<tempfile::TempDir> {
    let directory = tempfile::Builder::new().prefix("stolon-testkit-pg").tempdir()?;
    if rustix::process::geteuid().is_root() {
        let owner = format!("{UNPRIVILEGED_USER}:{UNPRIVILEGED_USER}");
        let status = Command::new("chown").arg(owner).arg(directory.path()).status()?;
        ensure!(status.success(), "there is no user {UNPRIVILEGED_USER}: apt-get install postgresql");
    }
    Ok(directory)
}

impl PostgresServer {
    /// `initdb`, then start; ready when this returns.
    pub fn start(config: PostgresConfig) -> anyhow::Result<Self> {
        let bin = config.programs.clone().map_or_else(bin_directory, Ok)?;
        let directory = own_directory()?;
        let mut server = Self { directory, bin, config, port: free_port()?, child: None };
        server.initdb()?;
        server.write_config()?;
        server.start_again()?;
        Ok(server)
    }

    /// A standby of this server: a copy of its data that streams from it; ready when this returns. From version 12 on.
    pub fn start_standby(&self) -> anyhow::Result<Self> {
        let directory = own_directory()?;
        let config = self.config.clone();
        let mut standby = Self { directory, bin: self.bin.clone(), config, port: free_port()?, child: None };
        let output = unprivileged_command(&self.bin.join("pg_basebackup"))
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", &self.config.superuser])
            .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "-D"])
            .arg(standby.data_directory())
            .env("PGPASSWORD", &self.config.password)
            .current_dir("/")
            .output()?;
        ensure!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        standby.write_config()?;
        standby.start_again()?;
        Ok(standby)
    }

    /// Another server with the same data, which goes its own way. This one is stopped for the copy.
    pub fn start_copy(&mut self) -> anyhow::Result<Self> {
        self.stop()?;
        let directory = own_directory()?;
        let status = Command::new("cp")
            .arg("--archive")
            .args([self.data_directory(), directory.path().join("data")])
            .status()?;
        ensure!(status.success(), "the data cannot be copied");
        self.start_again()?;
        let config = self.config.clone();
        let mut copy = Self { directory, bin: self.bin.clone(), config, port: free_port()?, child: None };
        copy.write_config()?;
        copy.start_again()?;
        Ok(copy)
    }

    fn initdb(&self) -> anyhow::Result<()> {
        let mut password = tempfile::NamedTempFile::new()?;
        writeln!(password, "{}", self.config.password)?;
        std::fs::set_permissions(password.path(), std::fs::Permissions::from_mode(0o644))?;
        let output = unprivileged_command(&self.bin.join("initdb"))
            .args(["--no-sync", "--auth=trust", "-U", &self.config.superuser, "--pwfile"])
            .arg(password.path())
            .args(&self.config.initdb)
            .arg("-D")
            .arg(self.data_directory())
            .current_dir("/")
            .output()?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn write_config(&self) -> anyhow::Result<()> {
        let mut lines = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n",
            self.port,
            self.socket_directory().display()
        );
        for (name, value) in &self.config.parameters {
            lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        let mut file =
            std::fs::OpenOptions::new().append(true).open(self.data_directory().join("postgresql.conf"))?;
        file.write_all(lines.as_bytes())?;
        let mut hba = self.config.hba.join("\n");
        hba.push('\n');
        Ok(std::fs::write(self.data_directory().join("pg_hba.conf"), hba)?)
    }

    /// Starts it, also after [`PostgresServer::stop`] or [`PostgresServer::kill`].
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "it runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let child = unprivileged_command(&self.bin.join("postgres"))
            .arg("-D")
            .arg(self.data_directory())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let child = self.child.insert(child);
        let deadline = Instant::now() + START_LIMIT;
        let pid_file = self.directory.path().join("data/postmaster.pid");
        // The eighth line says "ready" (PostgreSQL source, pidfile.h).
        let ready = || {
            let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
            text.lines().nth(7).is_some_and(|line| matches!(line.trim(), "ready" | "standby"))
        };
        while !ready() {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                bail!("PostgreSQL ended with {status}:\n{}", self.log());
            }
            if Instant::now() > deadline {
                bail!("PostgreSQL is not ready after {START_LIMIT:?}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Fast shutdown.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(rustix::process::Signal::INT);
        let Some(child) = &mut self.child else { return Ok(()) };
        let deadline = Instant::now() + STOP_LIMIT;
        while child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "PostgreSQL does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = None;
        Ok(())
    }

    /// `kill -9` of the postmaster.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        if let Some(pid) = id.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Directory of PostgreSQL's programs.
    pub fn bin_directory(&self) -> &Path {
        &self.bin
    }

    /// PGDATA.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Directory of the socket.
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// A connection as the first user to database `postgres`, over TCP with the password.
    pub async fn connect(&self) -> anyhow::Result<tokio_postgres::Client> {
        self.connect_to("postgres").await
    }

    /// The same to another database.
    pub async fn connect_to(&self, database: &str) -> anyhow::Result<tokio_postgres::Client> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(&self.config.superuser).dbname(database);
        config.password(&self.config.password);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::QUIT);
        if let Some(mut child) = self.child.take() {
            let deadline = Instant::now() + Duration::from_secs(5);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
