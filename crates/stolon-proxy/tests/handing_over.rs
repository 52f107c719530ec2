//! What clients of a proxy see while another keeper gets the primary in good order (docs: design/007-hand-over.md).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stolon_model::{GoDuration, ProxyHandover};
use support::{Client, Cluster, MoodyStore, PATIENCE, Running, Server, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Far longer than anything here may take.
const LONG: Duration = Duration::from_secs(120);

const READY: &[u8] = b"Z\0\0\0\x05I";
/// A query that is answered at once, and one that never is.
const QUICK: &[u8] = b"Q\0\0\0\x0aquick\0";
const ENDLESS: &[u8] = b"Q\0\0\0\x0cendless\0";

/// Speaks as much of the protocol as a session needs to become idle, or not.
struct Protocol {
    address: SocketAddr,
    /// So many queries have come.
    queries: watch::Receiver<usize>,
    _task: AbortOnDropHandle<()>,
}

impl Protocol {
    async fn start() -> Protocol {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (came, queries) = watch::channel(0);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, came.clone()));
            }
        });
        Protocol { address, queries, _task: AbortOnDropHandle::new(task) }
    }

    async fn has_queries(&mut self, count: usize) {
        let come = self.queries.wait_for(|come| *come >= count);
        tokio::time::timeout(PATIENCE, come).await.expect("the queries come").unwrap();
    }
}

async fn serve(mut stream: TcpStream, came: watch::Sender<usize>) -> std::io::Result<()> {
    let length = stream.read_u32().await?;
    stream.read_exact(&mut vec![0; length as usize - 4]).await?;
    stream.write_all(&[b"R\0\0\0\x08\0\0\0\0", READY].concat()).await?;
    loop {
        let mut query = vec![0; 1];
        stream.read_exact(&mut query).await?;
        let length = stream.read_u32().await?;
        let mut text = vec![0; length as usize - 4];
        stream.read_exact(&mut text).await?;
        came.send_modify(|count| *count += 1);
        if text.starts_with(b"quick") {
            stream.write_all(&[b"C\0\0\0\x0cSELECT\0\0", READY].concat()).await?;
        }
    }
}

/// A client whose session is idle.
async fn session(proxy: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(b"\0\0\0\x08\0\x03\0\0").await.unwrap();
    until_ready(&mut stream).await;
    stream
}

async fn until_ready(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    while !seen.ends_with(READY) {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("an answer");
        seen.push(byte.expect("the session goes on"));
    }
}

/// What is read until the connection ends.
async fn last_words(mut stream: TcpStream) -> Vec<u8> {
    let mut words = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut words)).await;
    // One that was cut in the middle may end with an error.
    drop(end.expect("the connection ends"));
    words
}

fn handover(grace: Duration, hold: Duration) -> Option<ProxyHandover> {
    Some(ProxyHandover { grace: GoDuration::from(grace), hold: GoDuration::from(hold) })
}

/// A proxy that is admitted to the primary at `address`.
async fn admitted(address: SocketAddr) -> (Arc<MoodyStore>, Cluster, Running) {
    let store = MoodyStore::new();
    let mut cluster = Cluster::new(&[("db1", address)]);
    cluster.timeout_ms = 60_000;
    cluster.write(store.inner()).await;
    let proxy = start(&store, "p1", &[]);
    cluster.admit(store.inner(), "db1", 1).await;
    (store, cluster, proxy)
}

async fn close(cluster: &mut Cluster, store: &MoodyStore, grace: Duration, hold: Duration) {
    (cluster.primary, cluster.handover) = (None, handover(grace, hold));
    cluster.write(store.inner()).await;
}

#[tokio::test]
async fn an_idle_session_is_told_at_once_and_one_that_becomes_idle_then() {
    let server = Protocol::start().await;
    let (store, mut cluster, proxy) = admitted(server.address).await;
    let idle = session(proxy.address).await;
    let mut used = session(proxy.address).await;
    used.write_all(QUICK).await.unwrap();
    until_ready(&mut used).await;
    close(&mut cluster, &store, LONG, LONG).await;
    for stream in [idle, used] {
        let words = String::from_utf8_lossy(&last_words(stream).await).into_owned();
        assert!(words.contains("C57P01"), "{words:?}");
    }
    cluster.acknowledged(store.inner()).await;
}

#[tokio::test]
async fn a_busy_session_goes_on_until_the_end_of_its_grace() {
    let mut server = Protocol::start().await;
    let (store, mut cluster, proxy) = admitted(server.address).await;
    let mut busy = session(proxy.address).await;
    busy.write_all(ENDLESS).await.unwrap();
    server.has_queries(1).await;
    let grace = Duration::from_secs(1);
    let told = Instant::now();
    close(&mut cluster, &store, grace, LONG).await;
    let words = last_words(busy).await;
    assert!(told.elapsed() >= grace, "it was cut after {:?}", told.elapsed());
    assert!(words.is_empty(), "nobody may put words into a session in the middle: {words:?}");
    cluster.acknowledged(store.inner()).await;
}

#[tokio::test]
async fn a_new_client_waits_and_is_let_through_to_the_next_primary() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let (store, mut cluster, proxy) = admitted(a.address).await;
    cluster.instances.push(("db2", b.address));
    close(&mut cluster, &store, Duration::ZERO, LONG).await;
    cluster.acknowledged(store.inner()).await;
    let mut waiting = TcpStream::connect(proxy.address).await.unwrap();
    // What it says meanwhile is for the next primary.
    waiting.write_all(b"hello\n").await.unwrap();
    (cluster.primary, cluster.handover) = (Some("db2"), None);
    cluster.write(store.inner()).await;
    let mut client = Client { stream: tokio::io::BufReader::new(waiting) };
    assert_eq!(client.line().await.unwrap(), "b");
    assert_eq!(client.line().await.unwrap(), "b hello");
    assert_eq!(a.received(), "");
}

#[tokio::test]
async fn a_new_client_is_turned_away_when_the_wait_is_over() {
    let a = Server::start("a").await;
    let (store, mut cluster, proxy) = admitted(a.address).await;
    let hold = Duration::from_secs(1);
    let told = Instant::now();
    close(&mut cluster, &store, Duration::ZERO, hold).await;
    cluster.acknowledged(store.inner()).await;
    let waiting = TcpStream::connect(proxy.address).await.unwrap();
    assert_eq!(last_words(waiting).await, b"");
    assert!(told.elapsed() >= hold, "it was turned away after {:?}", told.elapsed());
    let late = TcpStream::connect(proxy.address).await.unwrap();
    assert_eq!(last_words(late).await, b"", "the next one does not wait");
}
