//! Options of sockets.

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// No delay for small packets, and probes on a silent connection. A socket that refuses is used as it is: the
/// next read or write tells what is wrong with it.
pub(crate) fn prepare(stream: &TcpStream, keepalive: &TcpKeepalive) {
    let socket = SockRef::from(stream);
    if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(keepalive)) {
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
