//! Names of hosts and services.

use std::io;
use std::net::SocketAddr;

/// All addresses of a host and port. Uses the system's resolver, in a thread of its own, where the host is a name.
pub(crate) async fn resolve(host: &str, port: &str) -> io::Result<Vec<SocketAddr>> {
    let port = port_number(port)?;
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// A number, or the name of a service in `/etc/services`.
pub(crate) fn port_number(port: &str) -> io::Result<u16> {
    if let Ok(number) = port.parse() {
        return Ok(number);
    }
    let services = std::fs::read_to_string("/etc/services").unwrap_or_default();
    service_port(&services, port).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{port:?} is neither a port nor a service"))
    })
}

/// The TCP port of a service in the format of `/etc/services`.
fn service_port(services: &str, name: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let official = words.next()?;
        let port = words.next()?.strip_suffix("/tcp")?;
        let known = official == name || words.any(|alias| alias == name);
        known.then(|| port.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_name_and_alias() {
        let services = "# x\ndomain 53/udp\npostgresql\t5432/tcp\tpostgres # DB\npostgresql 5432/udp\n";
        assert_eq!(service_port(services, "postgresql"), Some(5432));
        assert_eq!(service_port(services, "postgres"), Some(5432));
        assert_eq!(service_port(services, "domain"), None);
        assert_eq!(service_port(services, "DB"), None);
    }

    #[tokio::test]
    async fn numbers_need_no_resolver() {
        assert_eq!(resolve("127.0.0.1", "80").await.unwrap(), ["127.0.0.1:80".parse().unwrap()]);
        assert_eq!(resolve("::1", "80").await.unwrap(), ["[::1]:80".parse().unwrap()]);
        assert!(resolve("127.0.0.1", "70000").await.is_err());
    }
}
