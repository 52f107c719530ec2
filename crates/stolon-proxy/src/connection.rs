//! One client's connection.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;

use crate::client_address::ClientAddress;
use crate::destination::Destination;
use crate::proxy::ProxyOptions;
use crate::session::{Session, Side};
use crate::socket::{prepare, reset_on_close};

/// How much is read at once. The buffer belongs to the thread: an idle connection holds none.
const CHUNK: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Why forwarding ended.
enum End {
    /// Both sides sent everything.
    Finished,
    /// The connection to one side broke.
    Broken(io::Error),
    /// The destination was closed, or its deadline passed.
    Closed,
    /// The session was idle, and the primary is to be relieved.
    Idle,
}

/// What PostgreSQL says to sessions that it ends (`57P01`), so that clients know it for that.
const ADMIN_SHUTDOWN: &[u8] =
    b"E\0\0\0\x5eSFATAL\0VFATAL\0C57P01\0Mterminating connection: another server becomes the primary, reconnect\0\0";

/// A session that passes, and who waits for it to be idle.
#[derive(Default)]
struct Passing {
    session: Mutex<Session>,
    moved: Notify,
}

impl Passing {
    fn passes(&self, side: Side, bytes: &[u8]) {
        let mut session = self.session.lock();
        session.passes(side, bytes);
        if session.is_idle() {
            self.moved.notify_one();
        }
    }

    /// Returns when nothing is under way.
    async fn idle(&self) {
        while !self.session.lock().is_idle() {
            self.moved.notified().await;
        }
    }
}

/// Connect the client to the destination and forward in both directions until both have ended, one breaks, or the
/// destination is closed. Every error ends the connection.
pub(crate) async fn serve(client: TcpStream, destination: Arc<Destination>, options: Arc<ProxyOptions>) {
    prepare(&client, &options.client_socket);
    let Some(server) = connect(&destination, &options).await else { return };
    prepare(&server, &options.server_socket);
    let (mut client, mut server) = (client, server);
    let passing = Passing::default();
    let ended_when_idle = async {
        destination.ending.cancelled().await;
        passing.idle().await;
    };
    let end = tokio::select! {
        biased;
        () = destination.closed.cancelled() => End::Closed,
        end = introduce_and_forward(&mut client, &mut server, &destination, options.client_address, &passing) => end,
        () = ended_when_idle => End::Idle,
    };
    match end {
        End::Finished => tracing::debug!("connection ended"),
        End::Broken(error) => tracing::debug!(%error, "connection broken"),
        End::Closed => reset_on_close([&client, &server]),
        End::Idle => {
            drop(server);
            // The client may be gone, or read nothing.
            let _ = client.try_write(ADMIN_SHUTDOWN);
            let _ = client.shutdown().await;
        }
    }
}

async fn connect(destination: &Destination, options: &ProxyOptions) -> Option<TcpStream> {
    let connecting = tokio::time::timeout(options.connect_timeout, TcpStream::connect(destination.address));
    let outcome = tokio::select! {
        biased;
        () = destination.closed.cancelled() => return None,
        outcome = connecting => outcome,
    };
    let error = match outcome {
        Ok(Ok(server)) => {
            destination.unreachable.store(false, Ordering::Relaxed);
            return Some(server);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {}", stolon_model::GoDuration::from(options.connect_timeout)),
    };
    if !destination.unreachable.swap(true, Ordering::Relaxed) {
        tracing::warn!(address = %destination.address, error, "cannot connect to the primary, clients are turned away");
    }
    None
}

async fn introduce_and_forward(
    client: &mut TcpStream,
    server: &mut TcpStream,
    destination: &Destination,
    address: ClientAddress,
    passing: &Passing,
) -> End {
    let introduced = match address.header(client) {
        Ok(header) => server.write_all(&header).await,
        Err(error) => Err(error),
    };
    match introduced {
        Ok(()) => forward_both(client, server, destination, passing).await,
        Err(error) => End::Broken(error),
    }
}

async fn forward_both(
    client: &mut TcpStream,
    server: &mut TcpStream,
    destination: &Destination,
    passing: &Passing,
) -> End {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let outcome = tokio::try_join!(
        forward(from_client, to_server, destination, |bytes| passing.passes(Side::Client, bytes)),
        forward(from_server, to_client, destination, |bytes| passing.passes(Side::Server, bytes))
    );
    match outcome {
        Ok(_) => End::Finished,
        Err(end) => end,
    }
}

/// Forward in one direction, until its end was passed on. `passes` is told of everything when it has been taken by the receiver's
/// side of this host, or waits for it.
async fn forward(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    destination: &Destination,
    passes: impl Fn(&[u8]),
) -> Result<(), End> {
    loop {
        let rest = copy(&mut from, &mut to, destination, &passes).await?;
        let Some(rest) = rest else {
            // The peer may be gone already.
            let _ = to.shutdown().await;
            return Ok(());
        };
        write_rest(&mut to, &rest, destination).await?;
        passes(&rest);
    }
}

/// Copy until the end (`None`) or until the receiver blocks: the bytes that it did not take are returned.
async fn copy(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    destination: &Destination,
    passes: &impl Fn(&[u8]),
) -> Result<Option<Vec<u8>>, End> {
    poll_fn(|context| {
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                let mut chunk = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *from).poll_read(context, &mut chunk)).map_err(End::Broken)?;
                let chunk = chunk.filled();
                if chunk.is_empty() {
                    return Poll::Ready(Ok(None));
                }
                if destination.is_over() {
                    return Poll::Ready(Err(End::Closed));
                }
                let written = match Pin::new(&mut *to).poll_write(context, chunk) {
                    Poll::Ready(written) => written.map_err(End::Broken)?,
                    Poll::Pending => 0,
                };
                passes(&chunk[..written]);
                if written < chunk.len() {
                    return Poll::Ready(Ok(Some(chunk[written..].to_vec())));
                }
            }
        })
    })
    .await
}

async fn write_rest(to: &mut WriteHalf<'_>, mut rest: &[u8], destination: &Destination) -> Result<(), End> {
    while !rest.is_empty() {
        to.writable().await.map_err(End::Broken)?;
        if destination.is_over() {
            return Err(End::Closed);
        }
        match to.try_write(rest) {
            Ok(0) => return Err(End::Broken(io::ErrorKind::WriteZero.into())),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(End::Broken(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use stolon_runtime::BootInstant;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// As after a freeze: the time is over, and the loop that would close everything has not run yet.
    #[tokio::test]
    async fn no_byte_is_forwarded_when_the_time_is_over() {
        let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let past = BootInstant::from_milliseconds(1);
        let destination = Arc::new(Destination::new(backend.local_addr().unwrap(), past));
        let options = Arc::new(crate::Flags::parse_from(["stolon-proxy"]).proxy_options().unwrap());

        let mut client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
        client.write_all(b"late").await.unwrap();
        let serving = serve(front.accept().await.unwrap().0, destination, options);
        tokio::time::timeout(std::time::Duration::from_secs(30), serving).await.expect("an end");
        let (mut server, _) = backend.accept().await.unwrap();
        let mut received = Vec::new();
        assert_eq!(
            server.read_to_end(&mut received).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
        assert_eq!(received, b"");
        let mut received = Vec::new();
        assert_eq!(
            client.read_to_end(&mut received).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }
}
