//! A real etcd, of one or more members, on free ports: killed, paused and restarted at will.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::daemon::{Daemon, EndedAtOnce, START, answer, free_ports, start_on_free_ports};

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

/// A running etcd. Dropping it kills all members and removes their files.
pub struct Etcd {
    members: Vec<Member>,
    access: Access,
    directory: tempfile::TempDir,
}

struct Member {
    client_port: u16,
    peer_port: u16,
    daemon: Daemon,
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
        start_on_free_ports(async || Self::try_start(members, access.clone()).await).await
    }

    async fn try_start(members: usize, access: Access) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("etcd-").tempdir().context("a directory for etcd")?;
        let ports = free_ports(members * 2)?;
        let members = ports
            .chunks_exact(2)
            .map(|ports| Member { client_port: ports[0], peer_port: ports[1], daemon: Daemon::default() })
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
        self.members[member].daemon.pause()
    }

    /// Let a frozen member go on.
    ///
    /// # Errors
    /// The member does not run.
    pub fn resume(&self, member: usize) -> anyhow::Result<()> {
        self.members[member].daemon.resume()
    }

    /// Kill a member with SIGKILL, and wait until it is gone. Its data stays.
    ///
    /// # Errors
    /// The member does not run.
    pub fn kill(&mut self, member: usize) -> anyhow::Result<()> {
        self.members[member].daemon.kill()
    }

    /// Start a killed member again, on the same ports and with the same data. Does not wait for it.
    ///
    /// # Errors
    /// etcd cannot be started.
    pub fn restart(&mut self, member: usize) -> anyhow::Result<()> {
        self.spawn(member)
    }

    /// Wait until every member that runs (and is not paused) answers, with a leader.
    ///
    /// # Errors
    /// A member ends, or does not answer.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        for member in 0..self.members.len() {
            while self.members[member].daemon.is_running() && !self.is_healthy(member).await {
                if let Some(status) = self.members[member].daemon.ended()? {
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
        answer(self.members[member].client_port, "/health").await.contains(r#""health":"true""#)
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
            .arg("--enable-v2")
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
        let missing = "etcd is not installed, and this test needs it (Debian: apt-get install etcd-server)";
        self.members[member].daemon.start(&mut command, missing)
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
