//! Options of sockets.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// When a silent peer counts as gone.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Probes on a connection without traffic.
    pub keepalive: TcpKeepalive,
    /// How long what was sent may go without an acknowledgement, and how long a peer may take nothing in; `None`: as the system
    /// has it. Without this limit a peer that vanished while data were on their way to it is noticed after a quarter of an
    /// hour: probes are sent only where nothing is on its way (tcp(7), `TCP_USER_TIMEOUT`).
    pub user_timeout: Option<Duration>,
}

/// No delay for small packets, and limits for a silent peer. A socket that refuses is used as it is: the next read or write
/// shows what is wrong with it.
pub(crate) fn prepare(stream: &TcpStream, options: &SocketOptions) {
    let socket = SockRef::from(stream);
    let outcome = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&options.keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(options.user_timeout));
    if let Err(error) = outcome {
        tracing::debug!(%error, "cannot set the options of a connection");
    }
}

/// Make the close of both a reset, which frees peers that do not read any more.
pub(crate) fn reset_on_close(streams: [&TcpStream; 2]) {
    for stream in streams {
        if let Err(error) = stream.set_zero_linger() {
            tracing::debug!(%error, "cannot reset a connection");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::Flags;

    fn options(flags: &[&str]) -> crate::ProxyOptions {
        let flags = ["stolon-proxy"].iter().chain(flags);
        Flags::parse_from(flags).proxy_options().unwrap()
    }

    #[test]
    fn unacknowledged_data_are_waited_for_as_long_as_unanswered_probes() {
        let default = options(&[]);
        assert_eq!(default.client_socket.user_timeout, Some(Duration::from_secs(150)));
        assert_eq!(default.server_socket.user_timeout, Some(Duration::from_secs(150)));
        let flags = ["--tcp-keepalive-idle=60", "--tcp-keepalive-interval=10", "--tcp-keepalive-count=3"];
        let patient = options(&flags);
        assert_eq!(patient.client_socket.user_timeout, Some(Duration::from_secs(90)));
        assert_eq!(patient.server_socket.user_timeout, Some(Duration::from_secs(150)));
    }

    #[tokio::test]
    async fn the_options_are_the_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream, &options(&[]).client_socket);
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(15));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(150)));
    }
}
