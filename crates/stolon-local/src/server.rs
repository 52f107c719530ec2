//! A PostgreSQL that nobody manages: what a cluster is migrated from.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use stolon_model::Explained;
use tokio::io::AsyncWriteExt;

use crate::{Account, Process, Target};

/// How long initdb, createuser or pgbench may take.
const TOOL_LIMIT: Duration = Duration::from_secs(600);

/// A plain PostgreSQL server, with a superuser `postgres`.
#[derive(Clone, Debug)]
pub struct Server {
    /// Directory of the data, the logs and the password file.
    pub directory: PathBuf,
    /// PostgreSQL's programs.
    pub pg_bin: PathBuf,
    /// The account that runs the server.
    pub account: Account,
    /// Port on 127.0.0.1.
    pub port: u16,
    /// The password of `postgres`.
    pub password: String,
}

impl Server {
    /// `initdb`, with `settings` appended to `postgresql.conf` and password authentication for everybody.
    ///
    /// # Errors
    /// initdb fails, with its own message.
    pub async fn create(&self, settings: &str) -> anyhow::Result<()> {
        self.account.make_directory(&self.directory)?;
        let password_file = self.directory.join("password");
        self.account.write_private(&password_file, &self.password)?;
        let data = self.data();
        let arguments = [
            "--pgdata".as_ref(),
            data.as_os_str(),
            "--username=postgres".as_ref(),
            "--auth=scram-sha-256".as_ref(),
            "--pwfile".as_ref(),
            password_file.as_os_str(),
            "--encoding=UTF8".as_ref(),
            "--locale=C.UTF-8".as_ref(),
            "--no-sync".as_ref(),
        ];
        self.tool("initdb", &arguments, "").await?;
        let configuration = data.join("postgresql.conf");
        let text = std::fs::read_to_string(&configuration).context("initdb left no postgresql.conf")?;
        let fixed = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '/tmp'\n{settings}\n",
            self.port
        );
        self.account.write_private(&configuration, &format!("{text}\n{fixed}"))
    }

    /// Start the server and wait until it accepts connections.
    ///
    /// # Errors
    /// The server ends, or accepts no connection within a minute; with the end of its log.
    pub async fn start(&self) -> anyhow::Result<Process> {
        let log = self.directory.join("server.log");
        let mut command = self.account.command(self.pg_bin.join("postgres"));
        command.arg("-D").arg(self.data()).current_dir(&self.directory);
        let process = Process::start("legacy PostgreSQL", command, &log)?;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let failure = match self.target().connect(Duration::from_secs(5)).await {
                Ok(_) => return Ok(process),
                Err(failure) => failure,
            };
            if process.exit().is_some() || tokio::time::Instant::now() > deadline {
                bail!("PostgreSQL did not start: {failure:#}\n{}", crate::tail(&log, 10).join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `createuser -P` with these options, as the migration guide says; `password` answers its prompts.
    ///
    /// # Errors
    /// createuser fails, with its own message.
    pub async fn create_user(&self, options: &[&str], name: &str, password: &str) -> anyhow::Result<()> {
        let port = self.port.to_string();
        let mut arguments: Vec<&std::ffi::OsStr> = options.iter().map(|option| (*option).as_ref()).collect();
        arguments
            .extend(["-U", "postgres", "-h", "127.0.0.1", "-p", &port, "-P", name].map(std::ffi::OsStr::new));
        self.tool("createuser", &arguments, &format!("{password}\n{password}\n")).await.map(drop)
    }

    /// Run one of PostgreSQL's programs as `postgres`, with `input` typed in. Returns what it printed.
    ///
    /// # Errors
    /// The program fails, with its own message.
    pub async fn tool(
        &self,
        name: &str,
        arguments: &[&std::ffi::OsStr],
        input: &str,
    ) -> anyhow::Result<String> {
        // Without a terminal to ask at, PostgreSQL's programs read passwords from their input.
        let mut command = self.account.expendable_command("setsid");
        command
            .arg("--wait")
            .arg(self.pg_bin.join(name))
            .args(arguments)
            .env("PGPASSWORD", &self.password)
            .current_dir(&self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let mut stdin = child.stdin.take().context("no input to write to")?;
        let typed = input.to_owned();
        // A program need not read input that it does not ask for.
        let typing = tokio::spawn(async move { drop(stdin.write_all(typed.as_bytes()).await) });
        let Ok(output) = tokio::time::timeout(TOOL_LIMIT, child.wait_with_output()).await else {
            bail!("{name} did not end within {TOOL_LIMIT:?}");
        };
        typing.abort();
        let output = output.with_context(|| format!("{name} cannot be waited for"))?;
        if !output.status.success() {
            bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// PGDATA.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// How to connect as superuser.
    pub fn target(&self) -> Target {
        Target {
            port: self.port,
            user: "postgres".to_owned(),
            password: self.password.clone(),
            database: "postgres".to_owned(),
        }
    }
}

/// True when a directory holds PostgreSQL's server programs.
pub(crate) fn has_server(directory: &Path) -> bool {
    ["postgres", "initdb", "pg_basebackup"].iter().all(|program| directory.join(program).is_file())
}

impl Server {
    /// Where PostgreSQL's programs are: in `PATH`, or where Debian puts major 15.
    ///
    /// # Errors
    /// No directory holds them.
    pub fn find_programs() -> anyhow::Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/lib/postgresql/15/bin")])
            .find(|directory| has_server(directory))
            .with_context(|| {
                Explained::new("PostgreSQL's server programs were not found")
                    .with_hint("apt-get install postgresql-15, or name their directory with --pg-bin-path")
            })
    }
}
