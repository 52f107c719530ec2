//! What the server is told of a client's address: version 2 of the PROXY protocol (HAProxy, "The PROXY protocol", section 2.2).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tokio::net::TcpStream;

/// Whether the server learns where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// It sees the proxy's own address. PostgreSQL itself understands nothing else.
    Hidden,
    /// Each connection to it begins with a header.
    ProxyProtocol,
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, of a connection that is passed on.
const VERSION_AND_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

impl ClientAddress {
    /// What the connection to the server begins with.
    pub(crate) fn header(self, client: &TcpStream) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Hidden => Ok(Vec::new()),
            Self::ProxyProtocol => Ok(header(client.peer_addr()?, client.local_addr()?)),
        }
    }
}

fn header(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (family, addresses) = match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (TCP_OVER_IPV4, [from.octets(), to.octets()].concat()),
        (from, to) => (TCP_OVER_IPV6, [wide(from).octets(), wide(to).octets()].concat()),
    };
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([VERSION_AND_COMMAND, family, 0, (addresses.len() + ports.len()) as u8]);
    bytes.extend(addresses);
    bytes.extend(ports);
    bytes
}

fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_both_ends_in_the_order_of_the_network() {
        let [client, proxy] = ["10.1.2.3:258", "[::ffff:10.0.0.9]:5432"].map(|text| text.parse().unwrap());
        let expected =
            [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[10, 1, 2, 3, 10, 0, 0, 9, 1, 2, 21, 56]];
        assert_eq!(header(client, proxy), expected.concat());
        let wide = header("[fd00::1]:1".parse().unwrap(), proxy);
        assert_eq!((wide[13], wide[15], wide.len()), (0x21, 36, 52));
    }
}
