//! A program that this process started: its log, its end, signals to it.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::sync::watch;

use crate::orphans;

/// How a stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The program ended within the limit.
    InTime(ExitStatus),
    /// The program still runs.
    Not,
}

/// A program that this process started. All copies stand for the same program. Dropping them leaves it running; it gets a
/// signal when this process ends.
#[derive(Clone, Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: PathBuf,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Start a program with both outputs appended to `log`. Call inside a tokio runtime, from a thread that
    /// lives as long as the program should.
    ///
    /// # Errors
    /// The log cannot be opened or the program cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Process> {
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("the log {} of {name} cannot be opened", log.display()))?;
        let errors = output.try_clone().with_context(|| format!("the log of {name} cannot be shared"))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let pid = child
            .id()
            .and_then(|pid| Pid::from_raw(pid as i32))
            .context("a new process has no process id")?;
        orphans::is_ours(pid);
        let (ended, exit) = watch::channel(None);
        tokio::spawn(async move {
            // A child can only be waited for once, and this is the only place.
            let status = child.wait().await.unwrap_or_else(|_| ExitStatus::from_raw(-1));
            orphans::is_no_more(pid);
            ended.send_replace(Some(status));
        });
        Ok(Process { name: name.to_owned(), pid, log: log.to_path_buf(), exit })
    }

    /// Name of the program, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id; may be used again after the end.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The file of the log, which both outputs go to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Exit status, if the program has ended.
    pub fn exit(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Wait for the end of the program.
    pub async fn exited(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        // The sender lives until it has sent.
        exit.wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|status| *status)
            .unwrap_or_else(|| ExitStatus::from_raw(-1))
    }

    /// Send a signal, unless the program has ended.
    pub fn signal(&self, signal: Signal) {
        if self.exit().is_none() {
            // The program may end at this very moment.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// SIGTERM, then wait for the end, at most `limit`.
    pub async fn stop(&self, limit: Duration) -> Stopped {
        self.signal(Signal::TERM);
        match tokio::time::timeout(limit, self.exited()).await {
            Ok(status) => Stopped::InTime(status),
            Err(_) => Stopped::Not,
        }
    }
}

/// How a process ended, in words.
pub fn describe_exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended".to_owned(),
        (Some(code), _) => format!("failed with exit status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// The last lines of a log; empty when it cannot be read.
pub fn tail(log: &Path, lines: usize) -> Vec<String> {
    const AT_MOST: u64 = 64 * 1024;
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(AT_MOST)))?;
        let mut bytes = Vec::new();
        file.take(AT_MOST).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Account;

    #[tokio::test]
    async fn output_goes_to_the_log_and_the_end_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut command = Account::Own.command("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let process = Process::start("sh", command, &log).unwrap();
        assert_eq!(describe_exit(process.exited().await), "failed with exit status 3");
        assert_eq!(tail(&log, 1), ["two"]);
        assert_eq!(tail(&log, 9), ["one", "two"]);
    }

    #[tokio::test]
    async fn a_program_that_ignores_the_request_is_said_to_run_on() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Account::Own.command("sh");
        command.args(["-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]);
        let process = Process::start("sh", command, &directory.path().join("log")).unwrap();
        while tail(process.log(), 1).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(process.stop(Duration::from_millis(200)).await, Stopped::Not);
        process.signal(Signal::KILL);
        assert_eq!(describe_exit(process.exited().await), "was killed by signal 9");
    }
}
