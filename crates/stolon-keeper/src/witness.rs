//! What a keeper learns of its primary without a connection of its own: whether anybody listens (docs/design/008-evidence.md).

use std::io::ErrorKind;
use std::time::Duration;

use stolon_core::keeper::Knocked;
use tokio::net::{TcpStream, lookup_host};

/// Connects, says nothing, and hangs up, all within this time.
pub(crate) async fn knock(address: String, port: String, within: Duration) -> Knocked {
    tokio::time::timeout(within, knock_at_all(&address, &port)).await.unwrap_or(Knocked::Unanswered)
}

/// A name may have several addresses: where one of them says nothing, somebody may still listen there.
async fn knock_at_all(address: &str, port: &str) -> Knocked {
    let Ok(port) = port.parse::<u16>() else { return Knocked::Unanswered };
    let Ok(addresses) = lookup_host((address, port)).await else { return Knocked::Unanswered };
    let mut found = Knocked::Unanswered;
    let mut silent = false;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(_) => return Knocked::Accepted,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => found = Knocked::Refused,
            Err(_) => silent = true,
        }
    }
    if silent { Knocked::Unanswered } else { found }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_port_is_open_or_closed_and_what_does_not_answer_is_neither() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let at = |address: &str, port: &str| knock(address.to_owned(), port.to_owned(), LIMIT);
        assert_eq!(at("127.0.0.1", &port).await, Knocked::Accepted);
        drop(listener);
        assert_eq!(at("127.0.0.1", &port).await, Knocked::Refused);
        assert_eq!(at("no-such-name.invalid", &port).await, Knocked::Unanswered);
        assert_eq!(at("127.0.0.1", "none").await, Knocked::Unanswered);
        // A backlog that is full drops what comes: no answer within the limit.
        let full =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
        let full = full.unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        rustix::net::bind(&full, &any).unwrap();
        rustix::net::listen(&full, 0).unwrap();
        let address = std::net::SocketAddr::try_from(rustix::net::getsockname(&full).unwrap()).unwrap();
        let _first = TcpStream::connect(address).await.unwrap();
        let short = Duration::from_millis(200);
        assert_eq!(
            knock("127.0.0.1".to_owned(), address.port().to_string(), short).await,
            Knocked::Unanswered
        );
    }
}
