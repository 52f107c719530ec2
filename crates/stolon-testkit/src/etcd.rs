//! A real etcd, of one or more members, on free ports: killed, paused and restarted at will.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// No etcd takes longer to start, on however slow a machine.
const START: Duration = Duration::from_secs(30);

/// How clients reach the members.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// Plain `http`.
    #[default]
    Http,
    /// `https`, for `127.0.0.1`.
    Https {
        /// The members' certificate.
        certificate: PathBuf,
        /// Key of that certificate.
        key: PathBuf,
        /// Clients must have a certificate that this one has signed.
        client_authority: Option<PathBuf>,
    },
}

/// etcd ended before it was ready, as it does when another program has taken one of its ports.
#[derive(Debug)]
struct EndedAtOnce {
    status: std::process::ExitStatus,
    log: String,
}

impl std::fmt::Display for EndedAtOnce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "etcd ended at once ({}); its log:\n{}", self.status, self.log)
    }
}

impl std::error::Error for EndedAtOnce {}

/// A running etcd. Dropping it kills all members and removes their files.
pub struct Etcd {
    members: Vec<Member>,
    access: Access,
    directory: tempfile::TempDir,
}

struct Member {
    client_port: u16,
    peer_port: u16,
    process: Option<Child>,
}

impl Etcd {
    /// One member, ready.
    ///
    /// # Errors
    /// etcd is not installed, or does not start.
    pub async fn single() -> anyhow::Result<Self> {
        Self::start(1, Access::Http).await
    }

    /// Three members, ready.
    ///
    /// # Errors
    /// etcd is not installed, or does not start.
    pub async fn three() -> anyhow::Result<Self> {
        Self::start(3, Access::Http).await
    }

    /// So many members, ready.
    ///
    /// # Errors
    /// etcd is not installed, or does not start.
    pub async fn start(members: usize, access: Access) -> anyhow::Result<Self> {
        // A port that was free a moment ago may be taken by the time etcd asks for it.
        let mut failure = None;
        for _ in 0..5 {
            match Self::try_start(members, access.clone()).await {
                Ok(etcd) => return Ok(etcd),
                Err(error) if error.is::<EndedAtOnce>() => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow::anyhow!("etcd was not started")))
    }

    async fn try_start(members: usize, access: Access) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("etcd-").tempdir().context("a directory for etcd")?;
        let ports = free_ports(members * 2)?;
        let members = ports
            .chunks_exact(2)
            .map(|ports| Member { client_port: ports[0], peer_port: ports[1], process: None })
            .collect();
        let mut etcd = Etcd { members, access, directory };
        for member in 0..etcd.members.len() {
            etcd.spawn(member)?;
        }
        etcd.wait_ready().await?;
        Ok(etcd)
    }

    /// All members, as `--store-endpoints` wants them.
    pub fn endpoints(&self) -> String {
        let all: Vec<String> = (0..self.members.len()).map(|member| self.endpoint(member)).collect();
        all.join(",")
    }

    /// One member.
    pub fn endpoint(&self, member: usize) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.members[member].client_port)
    }

    /// The port that clients of a member use.
    pub fn client_port(&self, member: usize) -> u16 {
        self.members[member].client_port
    }

    fn scheme(&self) -> &'static str {
        match self.access {
            Access::Http => "http",
            Access::Https { .. } => "https",
        }
    }

    /// Freeze a member: it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// The member does not run.
    pub fn pause(&self, member: usize) -> anyhow::Result<()> {
        self.signal(member, Signal::STOP)?;
        // Its threads stop one after the other; until the last one has, it may still answer.
        let process = self.members[member].process.as_ref().context("this member of etcd does not run")?;
        let threads = format!("/proc/{}/task", process.id());
        let deadline = Instant::now() + START;
        while !all_stopped(&threads)? {
            ensure!(Instant::now() < deadline, "etcd does not stop at SIGSTOP");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Let a frozen member go on.
    ///
    /// # Errors
    /// The member does not run.
    pub fn resume(&self, member: usize) -> anyhow::Result<()> {
        self.signal(member, Signal::CONT)
    }

    fn signal(&self, member: usize, signal: Signal) -> anyhow::Result<()> {
        let process = self.members[member].process.as_ref().context("this member of etcd does not run")?;
        kill_process(Pid::from_child(process), signal).context("signalling etcd")
    }

    /// Kill a member with SIGKILL, and wait until it is gone. Its data stays.
    ///
    /// # Errors
    /// The member does not run.
    pub fn kill(&mut self, member: usize) -> anyhow::Result<()> {
        let mut process = self.members[member].process.take().context("this member of etcd does not run")?;
        process.kill().context("killing etcd")?;
        process.wait().context("waiting for the end of etcd")?;
        Ok(())
    }

    /// Start a killed member again, on the same ports and with the same data. Does not wait for it.
    ///
    /// # Errors
    /// etcd cannot be started.
    pub fn restart(&mut self, member: usize) -> anyhow::Result<()> {
        ensure!(self.members[member].process.is_none(), "this member of etcd still runs");
        self.spawn(member)
    }

    /// Wait until every member that runs (and is not paused) answers, with a leader.
    ///
    /// # Errors
    /// A member ends, or does not answer.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        for member in 0..self.members.len() {
            while self.members[member].process.is_some() && !self.is_healthy(member).await {
                let process = self.members[member].process.as_mut().context("it runs")?;
                if let Some(status) = process.try_wait().context("looking after etcd")? {
                    bail!(EndedAtOnce { status, log: self.log(member) });
                }
                ensure!(
                    Instant::now() < deadline,
                    "etcd is not ready after {START:?}; its log:\n{}",
                    self.log(member)
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Whether a member is healthy: over plain http by its health endpoint, with https by its log.
    async fn is_healthy(&self, member: usize) -> bool {
        let Access::Http = self.access else {
            return self.log(member).contains("serving client traffic securely");
        };
        let asking = async {
            let address = (Ipv4Addr::LOCALHOST, self.members[member].client_port);
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            stream.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer.contains(r#""health":"true""#))
        };
        matches!(tokio::time::timeout(Duration::from_secs(2), asking).await, Ok(Ok(true)))
    }

    fn spawn(&mut self, member: usize) -> anyhow::Result<()> {
        let peers: Vec<String> = (0..self.members.len()).map(|peer| self.initial_peer(peer)).collect();
        let own = &self.members[member];
        let log = File::create(self.log_path(member)).context("the log of etcd")?;
        let client = self.endpoint(member);
        let peer = format!("http://127.0.0.1:{}", own.peer_port);
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.directory.path().join(format!("member{member}")))
            .args(["--name", &format!("member{member}")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(",")])
            // Leaders are elected in half a second, so that tests that kill one are quick.
            .args(["--heartbeat-interval", "100", "--election-timeout", "500"])
            .args(["--logger", "zap", "--log-outputs", "stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Access::Https { certificate, key, client_authority } = &self.access {
            command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
            if let Some(authority) = client_authority {
                command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(authority);
            }
        }
        let process = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                anyhow::anyhow!(
                    "etcd is not installed, and this test needs it (Debian: apt-get install etcd-server)"
                )
            }
            _ => anyhow::Error::new(error).context("starting etcd"),
        })?;
        self.members[member].process = Some(process);
        Ok(())
    }

    fn initial_peer(&self, member: usize) -> String {
        format!("member{member}=http://127.0.0.1:{}", self.members[member].peer_port)
    }

    fn log_path(&self, member: usize) -> PathBuf {
        self.path().join(format!("member{member}.log"))
    }

    /// What a member has logged since it was last started.
    pub fn log(&self, member: usize) -> String {
        std::fs::read_to_string(self.log_path(member)).unwrap_or_default()
    }

    /// Where data and logs are.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
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

/// Ports that were free just now, all different.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let listeners = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<Vec<_>, _>>()
        .context("looking for free ports")?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
