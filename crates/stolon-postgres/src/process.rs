//! Child tools: their own process group, a cleaned environment, an end when the caller says so.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::environment::{Environment, prepare_environment};
use crate::error::{Disk, PostgresError, Result};
use crate::explain;
use crate::limit::Limit;

/// How many of a program's last lines are kept to explain a failure.
pub(crate) const TAIL_LINES: usize = 60;
/// Environment variable of every tool and its children: the directory of the keeper that runs it.
pub(crate) const TOOL_OF: &str = "STOLON_TOOL_OF";
const LONGEST_LINE: usize = 8 * 1024;
const TERMINATION_PATIENCE: Duration = Duration::from_secs(3);

/// A program to run to its end.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Environment,
    pub(crate) extra_environment: Vec<(&'static str, OsString)>,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    /// Last lines of stdout and stderr, passwords masked.
    pub(crate) tail: Vec<String>,
}

impl Finished {
    /// The failure of a tool in words, unless it succeeded.
    pub(crate) fn success(self, tool: &str) -> Result<Finished> {
        let full = explain::full_disk(&self.tail);
        self.unless(full, tool)
    }

    /// The same for a tool that copies from another server, whose disk may be the full one.
    pub(crate) fn success_of_copy(self, tool: &str) -> Result<Finished> {
        let full = explain::full_disk_of_copy(&self.tail);
        self.unless(full, tool)
    }

    fn unless(self, full: Option<Disk>, tool: &str) -> Result<Finished> {
        if self.status.success() {
            return Ok(self);
        }
        if let Some(disk) = full {
            return Err(PostgresError::DiskFull { what: format!("running {tool}"), disk });
        }
        let explanation = explain::tool_failure(tool, &self.tail)
            .unwrap_or_else(|| format!("it ended with {} and said nothing", status_in_words(self.status)));
        Err(PostgresError::Tool { tool: tool.to_owned(), explanation, tail: self.tail })
    }
}

impl Tool {
    pub(crate) fn new(name: &str, program: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            program,
            arguments: Vec::new(),
            environment: Environment::Clean,
            extra_environment: Vec::new(),
        }
    }

    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn args<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.extra_environment.push((name, value.into()));
        self
    }

    pub(crate) fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Runs it to its end. Each line (also those that end in a carriage return) goes to `on_line`. When the limit
    /// ends, or this future is dropped, the whole process group is killed.
    pub(crate) async fn run(self, limit: &Limit, on_line: impl FnMut(&str) + Send) -> Result<Finished> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        prepare_environment(&mut command, self.environment);
        command.envs(self.extra_environment.iter().map(|(name, value)| (name, value)));
        let (mut child, mut group) = spawn(command, &self.program, limit).await?;
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let heard = Mutex::new(Heard { stdout: String::new(), tail: VecDeque::new(), on_line });
        let listen = async {
            let out = read_lines(stdout, |line| heard.lock().hear_stdout(line));
            let err = read_lines(stderr, |line| heard.lock().hear(line));
            tokio::join!(out, err);
        };
        let ended = {
            tokio::pin!(listen);
            let both = async {
                // Whoever holds the pipes may outlive the child: its exit decides.
                let status = tokio::select! {
                    status = child.wait() => status,
                    () = &mut listen => return child.wait().await,
                };
                let _ = tokio::time::timeout(Duration::from_millis(500), &mut listen).await;
                status
            };
            limit.guard(&self.name, both).await
        };
        let status = match ended {
            Ok(status) => status.map_err(|source| PostgresError::Io {
                what: format!("cannot wait for {}", self.name),
                source,
            })?,
            Err(called_off) => {
                group.terminate(&mut child).await;
                return Err(called_off);
            }
        };
        group.release();
        let heard = heard.into_inner();
        Ok(Finished { status, stdout: heard.stdout, tail: heard.tail.into() })
    }

    /// Runs it quietly; a failure is an error.
    pub(crate) async fn output(self, limit: &Limit) -> Result<Finished> {
        let name = self.name.clone();
        self.run(limit, |line| tracing::debug!("{line}")).await?.success(&name)
    }
}

/// Starts a program, in a process group of its own, away from the keeper's one thread: its file may lie on a disk that hangs. Who has given
/// up when it runs at last leaves nothing of it.
pub(crate) async fn spawn(mut command: Command, program: &Path, limit: &Limit) -> Result<(Child, Group)> {
    let name = program.display().to_string();
    command.process_group(0);
    let spawned = tokio::task::spawn_blocking(move || {
        let child = command.spawn()?;
        let group = Group::of(&child);
        Ok((child, group))
    });
    let spawned = limit.guard(&format!("starting {name}"), spawned).await?;
    let spawned = spawned.map_err(std::io::Error::other).flatten();
    spawned.map_err(|source| PostgresError::Spawn { program: name, source })
}

struct Heard<F> {
    stdout: String,
    tail: VecDeque<String>,
    on_line: F,
}

impl<F: FnMut(&str)> Heard<F> {
    fn hear_stdout(&mut self, line: &str) {
        if self.stdout.len() < 1 << 20 {
            self.stdout.push_str(line);
            self.stdout.push('\n');
        }
        self.hear(line);
    }

    fn hear(&mut self, line: &str) {
        let line = explain::mask_passwords(line);
        (self.on_line)(&line);
        push_tail(&mut self.tail, line.into_owned());
    }
}

pub(crate) fn push_tail(tail: &mut VecDeque<String>, line: String) {
    if tail.len() == TAIL_LINES {
        tail.pop_front();
    }
    tail.push_back(line);
}

/// Calls `on_line` for each non-empty line until the end of the stream.
pub(crate) async fn read_lines(stream: Option<impl AsyncRead + Unpin>, mut on_line: impl FnMut(&str)) {
    let Some(mut stream) = stream else { return };
    let mut pending = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        let read = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        for &byte in &buffer[..read] {
            let ends = matches!(byte, b'\n' | b'\r');
            if !ends {
                pending.push(byte);
            }
            if (ends || pending.len() >= LONGEST_LINE) && !pending.is_empty() {
                on_line(&String::from_utf8_lossy(&pending));
                pending.clear();
            }
        }
    }
    if !pending.is_empty() {
        on_line(&String::from_utf8_lossy(&pending));
    }
}

/// The process group of a child; kills it when dropped, unless released.
pub(crate) struct Group {
    id: Option<Pid>,
}

impl Group {
    fn of(child: &Child) -> Self {
        Self { id: child.id().and_then(pid) }
    }

    pub(crate) fn release(&mut self) {
        self.id = None;
    }

    async fn terminate(&mut self, child: &mut Child) {
        self.signal(Signal::TERM);
        let _ = tokio::time::timeout(TERMINATION_PATIENCE, child.wait()).await;
        self.signal(Signal::KILL);
        let _ = tokio::time::timeout(TERMINATION_PATIENCE, child.wait()).await;
        self.release();
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id {
            let _ = rustix::process::kill_process_group(id, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

pub(crate) fn pid(raw: u32) -> Option<Pid> {
    i32::try_from(raw).ok().and_then(Pid::from_raw)
}

/// Exit code or signal in words.
pub(crate) fn status_in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "killed with SIGKILL".to_owned(),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "unknown status".to_owned(),
    }
}
