//! The server process: our child, or one that an earlier keeper left; its end noticed at once, its last words kept.

use std::ffi::OsString;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use stolon_core::Backoff;
use stolon_core::keeper::{ConfigFile, ConfigMerge, LineProblem};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config;
use crate::environment::{Environment, prepare_environment};
use crate::error::{PostgresError, Result};
use crate::explain;
use crate::limit::Limit;
use crate::local::LocalPostgres;
use crate::process::{push_tail, read_lines, status_in_words};
use crate::process_table::Held;
use crate::quote;
use crate::server_log::{self, LogEnds};

/// What is known of the server process without asking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// None of ours runs, by our own will.
    Stopped,
    /// Ours runs: our child, or one that was taken over. It may not accept connections yet.
    Running {
        /// Of the postmaster.
        pid: u32,
    },
    /// It ended without being asked to.
    Died {
        /// Exit code or signal in words.
        status: String,
        /// One sentence made from its last words.
        explanation: String,
        /// The last lines of its log.
        tail: Vec<String>,
    },
}

impl ServerState {
    /// True while ours runs.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

const READY_POLL: Duration = Duration::from_millis(5);
const READY_ASK: Duration = Duration::from_millis(500);
/// What has not answered after this is asked anew.
const READY_ANSWER: Duration = Duration::from_secs(5);
const RECOVERY_POLL: Duration = Duration::from_millis(100);
const RELOAD_PATIENCE: Duration = Duration::from_secs(2);
const PID_FILE_POLL: Duration = Duration::from_millis(5);
const EXIT_POLL: Duration = Duration::from_millis(10);
const LAST_WORDS: Duration = Duration::from_millis(50);
const LAST_WORDS_ON_DISK: Duration = Duration::from_secs(1);
/// Between nudges of a promotion: at first, and of one that hangs, which would fill the server's log.
const NUDGE_INTERVALS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
const PROMOTION_POLL: Duration = Duration::from_millis(3);
/// What the kernel tells nobody but the parent of a process.
const UNKNOWN_STATUS: &str = "exit status unknown: an earlier keeper had started it";

/// How the end of a server is learned.
enum Bond {
    /// As its parent.
    Child(Child),
    /// An earlier keeper was that.
    Adopted(Arc<Held>),
}

impl LocalPostgres {
    /// The server process as its parent sees it; changes at once when it ends.
    pub fn server(&self) -> watch::Receiver<ServerState> {
        self.inner.state.subscribe()
    }

    /// The last lines of the server's log, oldest first, passwords masked.
    pub fn log_tail(&self) -> Vec<String> {
        self.inner.log_tail.lock().iter().cloned().collect()
    }

    /// Why a standby receives no WAL, in the server's last words about it.
    pub fn replication_failure(&self) -> Option<String> {
        explain::replication_failure(&self.log_tail())
    }

    /// Starts the server as our child with the files written before ([`LocalPostgres::write_config`], same `merge`), and
    /// returns once it owns PGDATA (`postmaster.pid`). [`LocalPostgres::wait_ready`] waits for connections.
    pub async fn start(&self, merge: ConfigMerge, limit: &Limit) -> Result<()> {
        if self.inner.state.borrow().is_running() {
            return Err(PostgresError::Invalid("PostgreSQL is already running".to_owned()));
        }
        loop {
            let server = self.clone();
            let prepare = move || {
                config::disable_alter_system(&server.data_directory())?;
                server.forget_stale_pid_file()?;
                let arguments = server.arguments(merge, &server.prepare_sockets()?);
                Ok((server.program("postgres"), arguments, server.open_log()?))
            };
            let (program, arguments, log) =
                self.on_disk("preparing the start of PostgreSQL", limit, prepare).await?;
            let pid = self.spawn(&program, &arguments, log, limit).await?;
            match self.wait_for_pid_file(pid, limit).await {
                Err(PostgresError::ServerExited { tail, .. }) if previous_server_lingers(&tail) => {
                    // Backends of a killed postmaster notice within milliseconds that they are orphans.
                    limit.pause("waiting for the previous server's processes", EXIT_POLL).await?;
                }
                other => return other,
            }
        }
    }

    /// The command line of a server.
    pub(crate) fn arguments(&self, merge: ConfigMerge, sockets: &[PathBuf]) -> Vec<OsString> {
        let directory = self.data_directory();
        let mut arguments = vec!["-D".into(), directory.clone().into_os_string()];
        let mut set = |name: &str, value: &Path| {
            let mut setting = OsString::from(format!("{name}="));
            setting.push(value);
            arguments.extend(["-c".into(), setting]);
        };
        set("unix_socket_directories", quote::directory_list(sockets).as_ref());
        // A configuration file that came with the data may name the places of another machine.
        set("data_directory", &directory);
        set("hba_file", &directory.join("pg_hba.conf"));
        set("ident_file", &directory.join("pg_ident.conf"));
        if merge == ConfigMerge::WithExisting {
            set("config_file", &directory.join(config::MERGED_FILE));
            set("external_pid_file", Path::new(""));
            set("logging_collector", Path::new("off"));
        }
        arguments
    }

    async fn spawn(
        &self,
        program: &Path,
        arguments: &[OsString],
        log: LogEnds,
        limit: &Limit,
    ) -> Result<u32> {
        let mut command = Command::new(program);
        command.args(arguments);
        prepare_environment(&mut command, Environment::Clean);
        command.stdin(Stdio::null()).stderr(Stdio::from(log.server));
        let log = server_log::receiver(log.keeper)?;
        self.inner.log_tail.lock().clear();
        let (child, mut group) = crate::process::spawn(command, program, limit).await?;
        group.release();
        let pid = child.id().unwrap_or_default();
        self.takes_charge(pid, Held::of(pid).map(Arc::new));
        self.watch_over(Bond::Child(child), Some(log));
        Ok(pid)
    }

    /// From now on this is our server.
    pub(crate) fn takes_charge(&self, pid: u32, postmaster: Option<Arc<Held>>) {
        self.inner.stopping.store(false, Ordering::SeqCst);
        *self.inner.postmaster.lock() = postmaster;
        self.inner.state.send_replace(ServerState::Running { pid });
    }

    /// The end of a server that an earlier keeper started is noticed, and what it says is heard.
    pub(crate) fn watch_over_adopted(&self, postmaster: Arc<Held>, log: Option<Receiver>) {
        self.inner.log_tail.lock().clear();
        self.watch_over(Bond::Adopted(postmaster), log);
    }

    fn watch_over(&self, bond: Bond, log: Option<Receiver>) {
        let server = self.clone();
        let listener = tokio::spawn(async move {
            read_lines(log, |line| server.hear(line)).await;
        });
        tokio::spawn(self.clone().supervise(bond, listener));
        tokio::spawn(self.clone().keep_record());
    }

    fn hear(&self, line: &str) {
        let line = explain::mask_passwords(line);
        self.inner.options.log.take(&line);
        push_tail(&mut self.inner.log_tail.lock(), line.into_owned());
    }

    /// Notices the end of the server the moment it comes, and says so.
    async fn supervise(self, bond: Bond, mut listener: JoinHandle<()>) {
        let status = match bond {
            Bond::Child(mut child) => {
                let status = child.wait().await;
                status.map_or_else(|error| error.to_string(), status_in_words)
            }
            Bond::Adopted(postmaster) => {
                postmaster.ended().await;
                UNKNOWN_STATUS.to_owned()
            }
        };
        if tokio::time::timeout(LAST_WORDS, &mut listener).await.is_err() {
            // What outlives the postmaster may write yet, and is read with the words of the next one.
            listener.abort();
            let _ = listener.await;
        }
        self.disconnect();
        let state = if self.inner.stopping.load(Ordering::SeqCst) {
            ServerState::Stopped
        } else {
            let tail = self.last_words().await;
            ServerState::Died { status, explanation: explain::explain_startup_failure(&tail), tail }
        };
        self.inner.state.send_replace(state);
    }

    /// The log's last lines; with a logging collector those of its newest file too.
    async fn last_words(&self) -> Vec<String> {
        let mut tail = self.log_tail();
        const COLLECTED: &str = "Future log output will appear in directory \"";
        let directory = tail
            .iter()
            .rev()
            .find_map(|line| Some(line.split_once(COLLECTED)?.1.split('"').next()?.to_owned()));
        if let Some(directory) = directory {
            let directory = self.data_directory().join(directory);
            let read = tokio::task::spawn_blocking(move || crate::files::last_lines(&directory));
            // A disk that hangs may well be what it died of.
            if let Ok(Ok(lines)) = tokio::time::timeout(LAST_WORDS_ON_DISK, read).await {
                tail.extend(lines);
            }
        }
        tail
    }

    async fn wait_for_pid_file(&self, pid: u32, limit: &Limit) -> Result<()> {
        loop {
            self.still_running()?;
            if self.read_pid_file(limit).await?.is_some_and(|file| file.pid == pid) {
                return Ok(());
            }
            limit.pause("the start of PostgreSQL", PID_FILE_POLL).await?;
        }
    }

    /// An error that explains it when our child is not running.
    fn still_running(&self) -> Result<u32> {
        match &*self.inner.state.borrow() {
            ServerState::Running { pid } => Ok(*pid),
            ServerState::Stopped => Err(PostgresError::NotRunning),
            ServerState::Died { status, explanation, tail } => Err(PostgresError::ServerExited {
                status: status.clone(),
                explanation: explanation.clone(),
                tail: tail.clone(),
            }),
        }
    }

    /// Runs `work`, unless the server ends first.
    async fn while_running<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut state = self.server();
        tokio::select! {
            biased;
            _ = state.wait_for(|state| !state.is_running()) => {
                self.still_running()?;
                Err(PostgresError::NotRunning)
            }
            done = work => done,
        }
    }

    /// Until the server lets a new client in and answers it; [`PostgresError::ServerExited`] at once when it ends instead, and
    /// [`PostgresError::Sql`] at once when it refuses our user.
    ///
    /// The server says in `postmaster.pid` when it accepts connections (PostgreSQL source, pidfile.h; from 10 on),
    /// which costs nothing to look at. Asking before that would only fill its log.
    pub async fn wait_ready(&self, limit: &Limit) -> Result<()> {
        let mut questions = Backoff::new(READY_POLL, READY_ASK);
        let mut asked = Instant::now();
        let mut refused_until = asked;
        loop {
            let says_ready = self.read_pid_file(limit).await?.is_some_and(|file| file.ready);
            if (says_ready && Instant::now() >= refused_until) || asked.elapsed() >= READY_ASK {
                match self.while_running(self.asks_as_a_client(&limit.at_most(READY_ANSWER))).await {
                    Ok(()) => return Ok(()),
                    Err(PostgresError::Sql { code, message, .. })
                        if code.as_deref().is_some_and(is_final_refusal) =>
                    {
                        let user = &self.inner.options.superuser.username;
                        let what = format!("the superuser \"{user}\" cannot log in to the local PostgreSQL");
                        return Err(PostgresError::Sql { what, message, code });
                    }
                    // Not yet: it says no or nothing, or has not made its socket.
                    Err(
                        PostgresError::Sql { .. } | PostgresError::Io { .. } | PostgresError::Timeout { .. },
                    ) => {}
                    Err(other) => return Err(other),
                }
                asked = Instant::now();
                refused_until = asked + questions.next_pause();
            }
            let pause = limit.pause("waiting for PostgreSQL to accept connections", READY_POLL);
            self.while_running(pause).await?;
        }
    }

    /// Ends only when the server has said that whom it streams from has not any more what it asks for.
    pub async fn until_it_lacks_wal(&self) -> PostgresError {
        loop {
            if let Some(words) = explain::lacking_wal(&self.log_tail()) {
                return PostgresError::LacksWal { words };
            }
            tokio::time::sleep(READY_ASK).await;
        }
    }

    /// A session that is kept would go on answering where nobody new is let in.
    async fn asks_as_a_client(&self, limit: &Limit) -> Result<()> {
        self.query_anew("ask it anything", "SELECT 1", limit).await.map(|_| ())
    }

    /// Until recovery to a target has ended: signal file gone, and `pg_is_in_recovery()` false, since the file goes
    /// before the end-of-recovery checkpoint. [`PostgresError::ServerExited`] at once when the server ends instead.
    pub async fn wait_recovery_end(&self, limit: &Limit) -> Result<()> {
        let directory = self.data_directory();
        let signals = self.version(limit).await?.has_signal_files();
        loop {
            let directory = directory.clone();
            let look = move || match signals {
                true => Ok(!directory.join("recovery.signal").exists()),
                false => Ok(directory.join("recovery.done").exists()),
            };
            let over = self.look_at_disk("looking for the end of recovery", limit, look).await?;
            if over && !self.while_running(self.recovering(limit)).await? {
                return Ok(());
            }
            let pause = limit.pause("waiting for the end of recovery", RECOVERY_POLL);
            self.while_running(pause).await?;
        }
    }

    /// In recovery, or not ready to say.
    async fn recovering(&self, limit: &Limit) -> Result<bool> {
        match self.is_in_recovery(limit).await {
            Err(PostgresError::Sql { code, .. }) if !code.as_deref().is_some_and(is_final_refusal) => {
                Ok(true)
            }
            Err(PostgresError::Io { .. }) => Ok(true),
            other => other,
        }
    }

    /// Makes the running server read its files again, waits until it has, and returns the lines it did not take; a timeout when it
    /// does not get to it. A server that says that it does not accept connections yet is only told; one that does not answer although it
    /// should is told, too, and an error, since nobody knows whether it listened.
    pub async fn reload(&self, limit: &Limit) -> Result<Vec<LineProblem>> {
        const LOADED: &str = "SELECT pg_conf_load_time()";
        let before = self.query_value("ask when the configuration was loaded", LOADED, limit).await;
        self.signal_server(Signal::HUP)?;
        let before = match before {
            Ok(before) => before,
            Err(_) if self.says_starting(limit).await? => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let short = limit.at_most(RELOAD_PATIENCE);
        while self.query_value("ask when the configuration was loaded", LOADED, limit).await? == before {
            if let Err(timeout) = short.pause("the reload", PID_FILE_POLL).await {
                limit.check("the reload")?;
                // A file with a mistake is not loaded. Without one the server just has not got to it.
                let problems = self.config_problems(limit).await?;
                return if problems.is_empty() { Err(timeout) } else { Ok(problems) };
            }
        }
        self.have_standbys_answer(limit).await;
        self.config_problems(limit).await
    }

    /// Commits that wait are released when a standby's answer arrives, not when `synchronous_standby_names` names that standby: an idle one
    /// answers only every `wal_receiver_status_interval`, 10 seconds. A little WAL is answered at once. Our own commits do
    /// not wait (`synchronous_commit` is local); on a standby, and where no names are set, nothing is written.
    async fn have_standbys_answer(&self, limit: &Limit) {
        let sql = "SELECT pg_logical_emit_message(true, 'stolon', 'reloaded') \
                   WHERE NOT pg_is_in_recovery() AND current_setting('synchronous_standby_names') <> ''";
        if let Err(error) = self.query("have the standbys answer", sql, limit).await {
            tracing::warn!(%error, "waiting commits may hang until the standbys answer by themselves");
        }
    }

    /// Lines of the configuration files that the running server does not take. A parameter that left the file and whose default
    /// waits for a restart is listed by PostgreSQL without a file: there is nothing wrong with any line.
    pub async fn config_problems(&self, limit: &Limit) -> Result<Vec<LineProblem>> {
        let sql = "SELECT 'parameters', coalesce(sourceline, 0), coalesce(name, ''), error FROM pg_file_settings f \
                   WHERE error IS NOT NULL AND sourcefile IS NOT NULL AND NOT EXISTS \
                   (SELECT FROM pg_settings s WHERE s.name = lower(f.name) AND s.pending_restart); \
                   SELECT 'hba', coalesce(line_number, 0), '', error FROM pg_hba_file_rules WHERE error IS NOT NULL";
        let answers = self.query("look for mistakes in the configuration files", sql, limit).await?;
        let text =
            |row: &tokio_postgres::SimpleQueryRow, column| row.get(column).unwrap_or_default().to_owned();
        Ok(answers
            .iter()
            .flatten()
            .map(|row| LineProblem {
                file: if text(row, 0) == "hba" { ConfigFile::Hba } else { ConfigFile::Parameters },
                line: text(row, 1).parse().unwrap_or_default(),
                name: text(row, 2),
                error: text(row, 3),
            })
            .collect())
    }

    /// Makes a running standby a primary and waits until it is out of recovery. A primary is left as it is.
    ///
    /// The startup process may have just gone to sleep for `wal_retrieve_retry_interval` after losing its upstream, and then notices a
    /// promotion only seconds later. A SIGHUP wakes it up; reading the configuration again is harmless.
    pub async fn promote(&self, limit: &Limit) -> Result<()> {
        if !self.while_running(self.is_in_recovery(limit)).await? {
            return Ok(());
        }
        // What pg_promote() does (PostgreSQL source, xlogfuncs.c), without needing SQL.
        let request = self.data_directory().join("promote");
        let ask = move || std::fs::write(&request, "").map_err(PostgresError::io("write", &request));
        self.on_disk("asking for the promotion", limit, ask).await?;
        self.signal_server(Signal::USR1)?;
        let mut pauses = Backoff::new(NUDGE_INTERVALS.0, NUDGE_INTERVALS.1);
        let mut nudge_at = Instant::now() + pauses.next_pause();
        loop {
            self.still_running()?;
            match self.while_running(self.is_in_recovery(limit)).await {
                Ok(false) => break,
                Ok(true) | Err(PostgresError::Sql { .. }) => {}
                Err(other) => return Err(other),
            }
            if Instant::now() >= nudge_at {
                nudge_at = Instant::now() + pauses.next_pause();
                self.signal_server(Signal::HUP)?;
            }
            limit.pause("the promotion", PROMOTION_POLL).await?;
        }
        self.checkpoint_in_background(limit);
        Ok(())
    }

    pub(crate) fn signal_server(&self, signal: Signal) -> Result<()> {
        self.still_running()?;
        let postmaster = self.postmaster().ok_or(PostgresError::NotRunning)?;
        postmaster.signal(signal);
        Ok(())
    }

    /// The process of the server that runs.
    pub(crate) fn postmaster(&self) -> Option<Arc<Held>> {
        self.inner.postmaster.lock().clone()
    }
}

pub(crate) fn previous_server_lingers(tail: &[String]) -> bool {
    tail.iter().any(|line| line.contains("pre-existing shared memory block"))
}

/// SQLSTATEs that waiting does not mend: wrong password, no such user, no rule for it, no such database.
fn is_final_refusal(code: &str) -> bool {
    matches!(code, "28P01" | "28000" | "3D000")
}
