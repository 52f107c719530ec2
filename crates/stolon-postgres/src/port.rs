//! Whether the server will have its port: found out before hours are spent on a copy that it could not run on.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpSocket, lookup_host};

use crate::error::{PostgresError, Result};
use crate::limit::Limit;
use crate::local::LocalPostgres;

impl LocalPostgres {
    /// # Errors
    /// [`PostgresError::PortTaken`]: another process listens on the port, at one of the addresses at least. PostgreSQL itself would go
    /// on where it has any of them, and leave the other process those that connect to the rest.
    pub(crate) async fn port_must_be_free(&self, limit: &Limit) -> Result<()> {
        let options = &self.inner.options;
        // A port that makes no sense is PostgreSQL's to refuse.
        let Ok(port) = options.port.parse::<u16>() else { return Ok(()) };
        for address in
            options.listen_addresses.split(',').map(str::trim).filter(|address| !address.is_empty())
        {
            let addresses: Vec<IpAddr> = match address {
                "*" => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
                name => {
                    let found =
                        limit.guard("looking up the listen address", lookup_host((name, port))).await?;
                    found.map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default()
                }
            };
            for address in addresses {
                // An address that this host does not have is PostgreSQL's to name.
                if bind(SocketAddr::new(address, port))
                    .is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
                {
                    return Err(PostgresError::PortTaken { address, port });
                }
            }
        }
        Ok(())
    }
}

/// As PostgreSQL binds, without listening: nobody could come in meanwhile.
fn bind(address: SocketAddr) -> std::io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}
