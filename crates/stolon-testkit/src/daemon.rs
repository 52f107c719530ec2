//! A server that a test starts, freezes, kills and starts again.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitStatus};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use stolon_local::Ports;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// No server takes longer to start or stop, on however slow a machine.
pub const START: Duration = Duration::from_secs(30);

/// It ended before it was ready, as it does when another program has taken one of its ports.
#[derive(Debug)]
pub struct EndedAtOnce {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said.
    pub log: String,
}

impl std::fmt::Display for EndedAtOnce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the server ended at once ({}); its log:\n{}", self.status, self.log)
    }
}

impl std::error::Error for EndedAtOnce {}

/// Start something, and again where its ports were taken: one that was free a moment ago may be taken by the time it is asked for.
pub async fn start_on_free_ports<T>(start: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut failure = None;
    for _ in 0..5 {
        match start().await {
            Ok(started) => return Ok(started),
            Err(error) if error.is::<EndedAtOnce>() => failure = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(failure.unwrap_or_else(|| anyhow::anyhow!("nothing was started")))
}

/// A process, while it runs. Dropping it kills it.
#[derive(Default)]
pub struct Daemon {
    process: Option<Child>,
}

impl Daemon {
    /// Start the program; `missing` says how to get it.
    pub fn start(&mut self, command: &mut Command, missing: &str) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "this server still runs");
        let process = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => anyhow::anyhow!("{missing}"),
            _ => anyhow::Error::new(error).context(format!("starting {:?}", command.get_program())),
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Whether it was started and not killed.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// How it ended by itself, if it did.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let process = self.process.as_mut().context("this server does not run")?;
        process.try_wait().context("looking after a server")
    }

    /// Freeze it: it keeps its connections and answers nothing.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)?;
        // Its threads stop one after the other; until the last one has, it may still answer.
        let process = self.process.as_ref().context("this server does not run")?;
        let threads = format!("/proc/{}/task", process.id());
        let deadline = Instant::now() + START;
        while !all_stopped(&threads)? {
            ensure!(Instant::now() < deadline, "the server does not stop at SIGSTOP");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Let it go on.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let process = self.process.as_ref().context("this server does not run")?;
        kill_process(Pid::from_child(process), signal).context("signalling a server")
    }

    /// Kill it with SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("this server does not run")?;
        process.kill().context("killing a server")?;
        process.wait().context("waiting for the end of a server")?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Whether every thread has stopped: the field after the name in its `stat` is `T`.
fn all_stopped(threads: &str) -> anyhow::Result<bool> {
    for thread in std::fs::read_dir(threads)? {
        let stat = std::fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
        let is_stopped = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'));
        if !is_stopped && !stat.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Ports that nobody uses, all different, and those of this test until its process ends.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    static HANDED_OUT: LazyLock<Mutex<Ports>> = LazyLock::new(Mutex::default);
    let mut ports = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    (0..count).map(|_| ports.take()).collect()
}

/// The status and the body of the answer to a request over plain http.
///
/// # Errors
/// There is no answer in time.
pub async fn http(port: u16, method: &str, path: &str, body: &str) -> anyhow::Result<(u16, String)> {
    http_at((Ipv4Addr::LOCALHOST, port).into(), method, path, body).await
}

/// [`http`] of another address.
///
/// # Errors
/// There is no answer in time.
pub async fn http_at(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> anyhow::Result<(u16, String)> {
    let asking = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n");
        let form = "Content-Type: application/x-www-form-urlencoded\r\n\r\n";
        stream.write_all(format!("{head}{form}{body}").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
        let status = head.split_whitespace().nth(1).context("an answer without a status")?.parse()?;
        Ok((status, body.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(2), asking).await?
}

/// The body of the answer to a question over plain http; empty if there is none.
pub async fn answer(port: u16, path: &str) -> String {
    http(port, "GET", path, "").await.map(|(_, body)| body).unwrap_or_default()
}

/// Send a signal to all of them. Some may be gone by then: those that wake first end others, and some end by themselves.
///
/// # Errors
/// One may not be signalled.
pub fn signal_all(processes: &[Pid], signal: Signal) -> anyhow::Result<()> {
    for pid in processes {
        match kill_process(*pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
