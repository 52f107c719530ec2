//! A real Consul of one server, on free ports: killed, paused and restarted at will.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::daemon::{Daemon, EndedAtOnce, START, answer, free_ports, start_on_free_ports};
use crate::etcd::Access;

/// A running Consul. Dropping it kills the server and removes its files.
pub struct Consul {
    daemon: Daemon,
    ports: Vec<u16>,
    access: Access,
    management_token: Option<String>,
    directory: tempfile::TempDir,
}

impl Consul {
    /// A server that lets everybody in, ready.
    ///
    /// # Errors
    /// Consul is not there, or does not start.
    pub async fn single() -> anyhow::Result<Self> {
        Self::start(Access::Http, None).await
    }

    /// A server, ready. With a management token nobody is let in without a token.
    ///
    /// # Errors
    /// Consul is not there, or does not start.
    pub async fn start(access: Access, management_token: Option<&str>) -> anyhow::Result<Self> {
        start_on_free_ports(async || {
            let mut consul = Consul {
                daemon: Daemon::default(),
                ports: free_ports(3)?,
                access: access.clone(),
                management_token: management_token.map(str::to_owned),
                directory: tempfile::Builder::new()
                    .prefix("consul-")
                    .tempdir()
                    .context("a directory for Consul")?,
            };
            consul.restart()?;
            consul.wait_ready().await?;
            Ok(consul)
        })
        .await
    }

    /// As `--store-endpoints` wants it.
    pub fn endpoint(&self) -> String {
        let scheme = if self.is_plain() { "http" } else { "https" };
        format!("{scheme}://127.0.0.1:{}", self.client_port())
    }

    /// The port that clients use.
    pub fn client_port(&self) -> u16 {
        self.ports[0]
    }

    fn is_plain(&self) -> bool {
        matches!(self.access, Access::Http)
    }

    /// Freeze the server: it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// The server does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.daemon.pause()
    }

    /// Let a frozen server go on.
    ///
    /// # Errors
    /// The server does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.daemon.resume()
    }

    /// Kill the server with SIGKILL, and wait until it is gone. Its data stays.
    ///
    /// # Errors
    /// The server does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.daemon.kill()
    }

    /// Start a killed server again, on the same ports and with the same data. Does not wait for it.
    ///
    /// # Errors
    /// Consul cannot be started.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let configuration = self.path().join("consul.json");
        std::fs::write(&configuration, self.configuration().to_string())
            .context("the configuration of Consul")?;
        let log = File::create(self.log_path()).context("the log of Consul")?;
        let mut command = Command::new(program());
        command.arg("agent").arg("-config-file").arg(configuration);
        command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
        self.daemon.start(
            &mut command,
            &format!(
                "Consul is not at {}, and this test needs it (cargo xtask fixtures)",
                program().display()
            ),
        )
    }

    fn configuration(&self) -> Value {
        let unused = -1;
        let (http, https) = match self.access {
            Access::Http => (i32::from(self.client_port()), unused),
            Access::Https { .. } => (unused, i32::from(self.client_port())),
        };
        let mut configuration = json!({
            "server": true,
            "bootstrap_expect": 1,
            "data_dir": self.path().join("data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": {
                "http": http, "https": https, "dns": unused, "grpc": unused,
                "server": self.ports[1], "serf_lan": self.ports[2], "serf_wan": unused,
            },
            // Leaders are elected quickly, so that tests that kill one are quick.
            "performance": { "raft_multiplier": 1 },
            "disable_update_check": true,
        });
        if let Access::Https { certificate, key, client_authority } = &self.access {
            configuration["cert_file"] = json!(certificate);
            configuration["key_file"] = json!(key);
            if let Some(authority) = client_authority {
                configuration["ca_file"] = json!(authority);
                configuration["verify_incoming_https"] = json!(true);
            }
        }
        if let Some(token) = &self.management_token {
            let tokens = json!({ "master": token, "agent": token });
            configuration["acl"] = json!({ "enabled": true, "default_policy": "deny", "tokens": tokens });
        }
        configuration
    }

    /// Wait until the server answers, and knows itself.
    ///
    /// # Errors
    /// It ends, or does not answer.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while !self.is_ready().await {
            if let Some(status) = self.daemon.ended()? {
                bail!(EndedAtOnce { status, log: self.log() });
            }
            ensure!(
                Instant::now() < deadline,
                "Consul is not ready after {START:?}; its log:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Over plain http by asking, otherwise by its log. Sessions need a node that is registered.
    async fn is_ready(&self) -> bool {
        if !self.is_plain() || self.management_token.is_some() {
            return self.log().contains("Synced node info");
        }
        answer(self.client_port(), "/v1/catalog/nodes?consistent").await.contains("ModifyIndex")
    }

    fn log_path(&self) -> PathBuf {
        self.path().join("consul.log")
    }

    /// What it has logged since it was last started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Where data and log are.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// The program, in its directory.
pub const PROGRAM: &str = "usr/bin/consul";

/// Where `cargo xtask fixtures` puts it.
pub fn directory() -> PathBuf {
    crate::fixtures_directory().join("consul-1.8.7")
}

fn program() -> PathBuf {
    directory().join(PROGRAM)
}
