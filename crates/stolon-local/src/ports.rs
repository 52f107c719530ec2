//! Ports that nobody uses.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use anyhow::bail;

/// Below the ports that the kernel gives to outgoing connections, so that a port stays ours while its server
/// restarts.
const RANGE: std::ops::Range<u16> = 10_000..32_000;

/// Hands out ports, none of them twice, nor one that another process of ours has handed out: a server may take a while until it listens.
#[derive(Debug, Default)]
pub struct Ports {
    claims: Vec<Claim>,
    kept: BTreeSet<u16>,
}

/// Tells our other processes on this machine that a port is spoken for, as long as it lives: a name that leaves no file behind.
#[derive(Debug)]
struct Claim {
    _held: UnixListener,
}

impl Claim {
    fn on(port: u16) -> io::Result<Claim> {
        let name = SocketAddr::from_abstract_name(format!("stolon-port-{port}"))?;
        Ok(Claim { _held: UnixListener::bind_addr(&name)? })
    }
}

impl Ports {
    /// A port of 127.0.0.1 that nobody listens on.
    ///
    /// # Errors
    /// No free port was found in a thousand attempts.
    pub fn take(&mut self) -> anyhow::Result<u16> {
        for _ in 0..1000 {
            let random = RandomState::new().build_hasher().finish();
            let port = RANGE.start + (random % u64::from(RANGE.end - RANGE.start)) as u16;
            if self.kept.contains(&port) || !is_free(port) {
                continue;
            }
            // Ours, too, is taken then.
            if let Ok(claim) = Claim::on(port) {
                self.claims.push(claim);
                return Ok(port);
            }
        }
        bail!("no free port was found between {} and {}", RANGE.start, RANGE.end)
    }

    /// Keep a port from being handed out.
    pub fn keep(&mut self, port: u16) {
        self.kept.insert(port);
    }
}

/// True when a server could listen at this port.
pub fn is_free(port: u16) -> bool {
    try_port(port).is_ok()
}

/// Whether a server could listen on 127.0.0.1 at this port, and PostgreSQL could make its socket file.
///
/// # Errors
/// Why no server could listen there.
pub fn try_port(port: u16) -> io::Result<()> {
    TcpListener::bind(("127.0.0.1", port))?;
    let socket = format!("/tmp/.s.PGSQL.{port}");
    match Path::new(&socket).exists() {
        true => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("the socket file {socket} of a PostgreSQL is there"),
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_free_and_none_comes_twice() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
        let mut ports = Ports::default();
        assert_ne!(ports.take().unwrap(), ports.take().unwrap());
    }

    #[test]
    fn what_one_has_handed_out_no_other_one_does() {
        let mut ports = Ports::default();
        let port = ports.take().unwrap();
        assert!(is_free(port) && Claim::on(port).is_err());
        drop(ports);
        Claim::on(port).unwrap();
    }
}
