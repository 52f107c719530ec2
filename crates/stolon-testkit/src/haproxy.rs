//! Debian's HAProxy, with the configuration of the documentation.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::daemon::{Daemon, free_ports};

/// The configuration that the documentation shows.
const CONFIGURATION: &str = include_str!("../../../docs/haproxy.cfg");
/// The page, with what each server needs for checks over TLS.
const PAGE: &str = include_str!("../../../docs/haproxy.md");
/// What that is; `FILE` is that of the authorities.
const OVER_TLS: &str = "check-ssl verify required ca-file FILE";
/// The program, in its directory.
pub const PROGRAM: &str = "usr/sbin/haproxy";

/// Where `cargo xtask fixtures` puts it.
pub fn directory() -> PathBuf {
    crate::fixtures_directory().join("haproxy")
}

/// A server of the configuration: the port of its PostgreSQL, and of its keeper's health checks.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Of PostgreSQL.
    pub postgres: u16,
    /// Of `--http-listen-address`.
    pub checks: u16,
}

/// A running HAProxy. Dropping it kills it.
pub struct HaProxy {
    _daemon: Daemon,
    _directory: tempfile::TempDir,
    /// Where the primary is reached.
    pub primary: u16,
    /// Where standbys are reached.
    pub standbys: u16,
}

impl HaProxy {
    /// Run it in front of three servers.
    ///
    /// # Errors
    /// It is not there, or the machine refuses something.
    pub fn start(backends: [Backend; 3]) -> anyhow::Result<HaProxy> {
        HaProxy::configured(backends, "")
    }

    /// The same with checks over TLS, of keepers whose certificate an authority of this file has signed.
    ///
    /// # Errors
    /// The documentation says something else, and those of [`HaProxy::start`].
    pub fn start_over_tls(backends: [Backend; 3], authorities: &Path) -> anyhow::Result<HaProxy> {
        anyhow::ensure!(PAGE.contains(&format!("`{OVER_TLS}`")), "the page no longer says {OVER_TLS}");
        let words = OVER_TLS.replace("FILE", authorities.to_str().context("a path in UTF-8")?);
        HaProxy::configured(backends, &format!(" {words}"))
    }

    fn configured(backends: [Backend; 3], at_each_server: &str) -> anyhow::Result<HaProxy> {
        let ports = free_ports(2)?;
        let [primary, standbys] = ports.as_slice() else { anyhow::bail!("two ports were asked for") };
        let directory = tempfile::Builder::new().prefix("haproxy-").tempdir()?;
        let configuration = directory.path().join("haproxy.cfg");
        std::fs::write(&configuration, configuration_of(*primary, *standbys, backends, at_each_server))?;
        let log = File::create(directory.path().join("haproxy.log"))?;
        let mut command = Command::new(program());
        command.arg("-db").arg("-f").arg(&configuration).env("LD_LIBRARY_PATH", libraries());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut daemon = Daemon::default();
        daemon
            .start(&mut command, "HAProxy is not there: cargo xtask fixtures fetches it")
            .context("HAProxy")?;
        Ok(HaProxy { _daemon: daemon, _directory: directory, primary: *primary, standbys: *standbys })
    }
}

/// The documented file with the addresses of these servers, and more words at the line of each.
fn configuration_of(primary: u16, standbys: u16, backends: [Backend; 3], at_each_server: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in CONFIGURATION.lines() {
        let mut line = line
            .replace("*:5000", &format!("127.0.0.1:{primary}"))
            .replace("*:5001", &format!("127.0.0.1:{standbys}"));
        for (index, backend) in backends.iter().enumerate() {
            let documented = format!("192.0.2.{}:5432", index + 1);
            if line.contains(&documented) {
                line = line
                    .replace(&documented, &format!("127.0.0.1:{}", backend.postgres))
                    .replace("port 8008", &format!("port {}{at_each_server}", backend.checks));
            }
        }
        lines.push(line);
    }
    lines.push(String::new());
    lines.join("\n")
}

fn program() -> PathBuf {
    directory().join(PROGRAM)
}

fn libraries() -> PathBuf {
    directory().join(Path::new("usr/lib/x86_64-linux-gnu"))
}
