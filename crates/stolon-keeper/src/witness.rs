//! What a keeper learns of its primary without a connection of its own: when the WAL receiver ends, and whether anybody listens
//! (docs/design/008-evidence.md).

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use stolon_core::keeper::Knocked;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, lookup_host};

/// Between looks at a process that cannot be held by a descriptor.
const POLL: Duration = Duration::from_millis(250);

/// Returns when the process with this number has ended, at once if there is none.
pub(crate) async fn end_of(process: u32) {
    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else { return };
    let descriptor = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(descriptor) => when_readable(descriptor).ok(),
        Err(Errno::SRCH) => return,
        // The kernel is older than 5.3, or a filter of system calls refuses it.
        Err(_) => None,
    };
    let Some(descriptor) = descriptor else { return poll_end_of(process).await };
    if descriptor.readable().await.is_err() {
        poll_end_of(process).await;
    }
}

#[allow(
    deprecated,
    reason = "what takes its place is unsafe; a descriptor that is owned closes nobody else's"
)]
fn when_readable(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

async fn poll_end_of(process: u32) {
    let directory = PathBuf::from(format!("/proc/{process}"));
    while directory.exists() {
        tokio::time::sleep(POLL).await;
    }
}

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
    use std::process::Command;

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

    #[tokio::test]
    async fn the_end_of_a_process_is_told() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let mut end = Box::pin(end_of(child.id()));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut end).await;
        assert!(early.is_err(), "it runs");
        child.kill().unwrap();
        tokio::time::timeout(LIMIT, end).await.unwrap();
        child.wait().unwrap();
        tokio::time::timeout(LIMIT, end_of(child.id())).await.expect("there is none");
        tokio::time::timeout(LIMIT, poll_end_of(child.id())).await.expect("there is none");
    }
}
