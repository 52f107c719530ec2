//! The listening socket and the loop that accepts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use stolon_runtime::BootInstant;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use crate::connection::serve;
use crate::destination::Destination;
use crate::guests::{Guest, Guests};
use crate::metrics::Metrics;
use crate::proxy::ProxyOptions;
use crate::resolve::resolve;

/// Clients that may wait for `accept`.
const BACKLOG: i32 = 4096;

/// Pause after an error that may pass, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// What each accepted connection needs.
#[derive(Clone)]
pub(crate) struct Reception {
    pub options: Arc<ProxyOptions>,
    /// Where clients go now.
    pub route: watch::Receiver<Option<Arc<Destination>>>,
    /// Until when clients wait that would go nowhere.
    pub hold: watch::Receiver<Option<BootInstant>>,
    /// How many more connections the file descriptors suffice for; some are kept for the store.
    pub room: Arc<Semaphore>,
    /// How many each client has.
    pub guests: Guests,
    pub metrics: Metrics,
}

/// An open listening socket. Dropping it closes the socket, soon; [`Listener::close`] at once.
pub(crate) struct Listener {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Listener {
    /// Listen and accept from now on.
    pub async fn open(reception: Reception) -> io::Result<Listener> {
        let listener = bind(&reception.options.listen_address, &reception.options.port).await?;
        let address = listener.local_addr()?;
        Ok(Listener { address, accepting: tokio::spawn(accept(listener, reception)) })
    }

    /// Close the socket. Accepted connections go on.
    pub async fn close(mut self) {
        self.accepting.abort();
        // The task was cancelled just now, so its outcome says nothing.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// An unspecified IPv4 address, and no address at all, mean every address of IPv4 and IPv6.
async fn bind(host: &str, port: &str) -> io::Result<TcpListener> {
    let every = host.is_empty() || host == "0.0.0.0";
    let mut addresses = resolve(if every { "0.0.0.0" } else { host.trim_matches(['[', ']']) }, port).await?;
    if every {
        let port = addresses.first().map_or(0, SocketAddr::port);
        addresses.insert(0, SocketAddr::from(([0u16; 8], port)));
    }
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{host:?} has no address"));
    for address in addresses {
        match bind_to(address, every) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn bind_to(address: SocketAddr, every: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if every && address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accept for ever: no error ends the loop.
async fn accept(listener: TcpListener, reception: Reception) {
    let mut in_trouble = false;
    loop {
        let Some(permit) = room(&reception.room).await else { return };
        match listener.accept().await {
            Ok((client, peer)) => {
                in_trouble = false;
                tracing::debug!(client = %peer, "connection accepted");
                receive(client, peer, permit, &reception);
            }
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut in_trouble, true) {
                    tracing::error!(%error, "cannot accept connections, trying again");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The client went away before it was accepted.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
        || error.raw_os_error() == Some(rustix::io::Errno::PROTO.raw_os_error())
}

/// Waits while file descriptors are short; further clients wait in the kernel.
async fn room(room: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(room).try_acquire_owned() {
        return Some(permit);
    }
    tracing::warn!("the limit of open files is reached, new clients wait until a connection ends");
    Arc::clone(room).acquire_owned().await.ok()
}

/// What one connection takes of what there is not enough of.
type Room = (OwnedSemaphorePermit, Guest);

/// Start a connection; while clients are sent nowhere close it at once, or have it wait for the next primary. One that comes from where
/// there are enough of is closed, too.
fn receive(client: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit, reception: &Reception) {
    let destination = open_destination(reception);
    if destination.is_none() && holds_until(reception).is_none() {
        return;
    }
    let Some(guest) = reception.guests.admit(peer.ip()) else { return };
    let room = (permit, guest);
    match destination {
        Some(destination) => start(client, room, reception, &destination),
        None => drop(tokio::spawn(wait_for_primary(client, room, reception.clone()))),
    }
}

fn open_destination(reception: &Reception) -> Option<Arc<Destination>> {
    reception.route.borrow().clone().filter(|destination| !destination.is_over())
}

fn holds_until(reception: &Reception) -> Option<BootInstant> {
    reception.hold.borrow().filter(|until| !until.is_past())
}

/// A client is let through to the next primary, or turned away when the wait is over. Nothing was read from it yet.
async fn wait_for_primary(client: TcpStream, room: Room, mut reception: Reception) {
    while let Some(until) = holds_until(&reception) {
        tokio::select! {
            changed = reception.route.changed() => if changed.is_err() { return },
            changed = reception.hold.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(until.remaining()) => {}
        }
        if let Some(destination) = open_destination(&reception) {
            return start(client, room, &reception, &destination);
        }
    }
}

fn start(client: TcpStream, room: Room, reception: &Reception, destination: &Arc<Destination>) {
    let metrics = reception.metrics.clone();
    metrics.connections_accepted.inc();
    metrics.connections.inc();
    let serving = serve(client, Arc::clone(destination), Arc::clone(&reception.options));
    destination.connections.spawn(async move {
        serving.await;
        metrics.connections.dec();
        drop(room);
    });
}
