//! A slow road: a forwarder that holds every byte back for half of a round trip in each direction.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// So many pieces may be on the road in one direction of one connection.
const ON_THE_ROAD: usize = 1024;

/// A forwarder to a port of this machine. Dropping it cuts every connection.
pub struct SlowRoad {
    port: u16,
    microseconds: Arc<AtomicU64>,
    _forwarding: AbortOnDropHandle<()>,
}

impl SlowRoad {
    /// A road to that port of 127.0.0.1 on which a question and its answer take a round trip longer. Call inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// The machine gives no port.
    pub async fn to(port: u16, round_trip: Duration) -> anyhow::Result<SlowRoad> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a port for a slow road")?;
        let own = listener.local_addr()?.port();
        let microseconds = Arc::new(AtomicU64::new(0));
        let forwarding = tokio::spawn(accept(listener, port, Arc::clone(&microseconds)));
        let road = SlowRoad { port: own, microseconds, _forwarding: AbortOnDropHandle::new(forwarding) };
        road.set_round_trip(round_trip);
        Ok(road)
    }

    /// The port of 127.0.0.1 where the road begins.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the road begins, as `--store-endpoints` wants it.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What is sent from now on takes so long, there and back together.
    pub fn set_round_trip(&self, round_trip: Duration) {
        let half = u64::try_from(round_trip.as_micros() / 2).unwrap_or(u64::MAX);
        self.microseconds.store(half, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, port: u16, half: Arc<AtomicU64>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        connections.spawn(serve(client, port, Arc::clone(&half)));
        while connections.try_join_next().is_some() {}
    }
}

/// Ends when one side does, which closes the other one.
async fn serve(client: TcpStream, port: u16, half: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    // Without it the kernel would hold small pieces back on top of the delay.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = carry(from_client, to_server, &half) => {}
        () = carry(from_server, to_client, &half) => {}
    }
}

/// Every piece arrives later by the same time, however many are on their way.
async fn carry(from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin, half: &AtomicU64) {
    let (sender, receiver) = mpsc::channel(ON_THE_ROAD);
    tokio::join!(pick_up(from, sender, half), deliver(to, receiver));
}

async fn pick_up(mut from: impl AsyncRead + Unpin, road: mpsc::Sender<(Instant, Vec<u8>)>, half: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let arrival = Instant::now() + Duration::from_micros(half.load(Ordering::Relaxed));
        if road.send((arrival, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn deliver(mut to: impl AsyncWrite + Unpin, mut road: mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Some((arrival, piece)) = road.recv().await {
        tokio::time::sleep_until(arrival).await;
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
}
