//! A slow road: a forwarder that holds every byte back for half of a round trip in each direction, or for as long as a direction is silent.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// So many pieces may be on the road in one direction of one connection.
const ON_THE_ROAD: usize = 1024;

/// In which direction nothing arrives any more, as if the other side had vanished: connections stand, and nobody is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Everything arrives.
    Nowhere,
    /// What clients send.
    ToServer,
    /// What the server answers.
    ToClient,
    /// Nothing arrives.
    BothWays,
}

impl Silence {
    fn holds_back(self, direction: Silence) -> bool {
        self == Silence::BothWays || self == direction
    }
}

/// What holds bytes back.
#[derive(Clone)]
struct Rules {
    half: Arc<AtomicU64>,
    silence: watch::Receiver<Silence>,
}

/// A forwarder to a port of this machine. Dropping it cuts every connection.
pub struct SlowRoad {
    port: u16,
    microseconds: Arc<AtomicU64>,
    silence: watch::Sender<Silence>,
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
        let (silence, listening) = watch::channel(Silence::Nowhere);
        let rules = Rules { half: Arc::clone(&microseconds), silence: listening };
        let forwarding = tokio::spawn(accept(listener, port, rules));
        let road =
            SlowRoad { port: own, microseconds, silence, _forwarding: AbortOnDropHandle::new(forwarding) };
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

    /// From now on nothing arrives there. What was held back arrives when the silence ends.
    pub fn fall_silent(&self, silence: Silence) {
        self.silence.send_replace(silence);
    }

    /// What is sent from now on takes so long, there and back together.
    pub fn set_round_trip(&self, round_trip: Duration) {
        let half = u64::try_from(round_trip.as_micros() / 2).unwrap_or(u64::MAX);
        self.microseconds.store(half, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, port: u16, rules: Rules) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        connections.spawn(serve(client, port, rules.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Ends when one side does, which closes the other one; of that, too, nothing is heard in a direction that is silent.
async fn serve(client: TcpStream, port: u16, rules: Rules) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    // Without it the kernel would hold small pieces back on top of the delay.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let silence = rules.silence.clone();
    tokio::select! {
        () = carry(from_client, to_server, rules.clone(), Silence::ToServer) => {}
        () = carry(from_server, to_client, rules, Silence::ToClient) => {}
    }
    until_heard(silence, Silence::BothWays).await;
}

/// Every piece arrives later by the same time, however many are on their way.
async fn carry(from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin, rules: Rules, direction: Silence) {
    let (sender, receiver) = mpsc::channel(ON_THE_ROAD);
    tokio::join!(pick_up(from, sender, &rules.half), deliver(to, receiver, rules.silence, direction));
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

async fn deliver(
    mut to: impl AsyncWrite + Unpin,
    mut road: mpsc::Receiver<(Instant, Vec<u8>)>,
    silence: watch::Receiver<Silence>,
    direction: Silence,
) {
    while let Some((arrival, piece)) = road.recv().await {
        tokio::time::sleep_until(arrival).await;
        until_heard(silence.clone(), direction).await;
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
    until_heard(silence, direction).await;
}

/// A road that is taken away is silent no more.
async fn until_heard(mut silence: watch::Receiver<Silence>, direction: Silence) {
    let _ = silence.wait_for(|silence| !silence.holds_back(direction)).await;
}
