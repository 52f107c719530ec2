//! A proxy in this process, between real sockets, on a store that can be made to fail.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stolon_model::ProxyUid;
use support::{Client, Cluster, Mood, MoodyStore, PATIENCE, Running, Server, eventually, free_port, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A cluster with the primary `a` and the standby `b`, and a proxy that is admitted.
async fn admitted(flags: &[&str]) -> (Arc<MoodyStore>, Cluster, Server, Server, Running) {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let store = MoodyStore::new();
    let mut cluster = Cluster::new(&[("db1", a.address), ("db2", b.address)]);
    cluster.write(store.inner()).await;
    let proxy = start(&store, "p1", flags);
    cluster.admit(store.inner(), "db1", 1).await;
    (store, cluster, a, b, proxy)
}

#[tokio::test]
async fn a_proxy_forwards_once_it_is_admitted_and_says_so_before() {
    let a = Server::start("a").await;
    let store = MoodyStore::new();
    let mut cluster = Cluster::new(&[("db1", a.address)]);
    cluster.primary = Some("db1");
    let proxy = start(&store, "p1", &[]);

    // Without cluster data clients are accepted and closed, and nothing is published.
    let refused = eventually("an open listener", async || match Client::try_connect(proxy.address).await {
        Err(end) if end == "closed" => Ok(()),
        other => Err(format!("{:?}", other.map(|(_, name)| name))),
    });
    refused.await;
    assert!(store.inner().proxy_reports().await.unwrap().is_empty());

    cluster.write(store.inner()).await;
    cluster.acknowledged(store.inner()).await;
    assert_eq!(Client::try_connect(proxy.address).await.err().as_deref(), Some("closed"));

    cluster.admit(store.inner(), "db1", 1).await;
    let (mut client, name) = Client::connect(proxy.address).await;
    assert_eq!(name, "a");
    assert_eq!(client.ask("hello").await.unwrap(), "a hello");
    let report = store.inner().proxy_reports().await.unwrap().into_values().next().unwrap();
    assert_eq!(report.proxy_timeout, 2_000_000_000);
    let published = store.published.lock().unwrap().clone();
    let first = published.iter().find(|(generation, _)| *generation == cluster.generation).unwrap();
    assert_eq!(first.1, 0, "the generation is published before a connection is let through");
}

#[tokio::test]
async fn the_first_report_names_the_timeout_that_holds() {
    let store = MoodyStore::new();
    let a = Server::start("a").await;
    let mut cluster = Cluster::new(&[("db1", a.address)]);
    cluster.write(store.inner()).await;
    store.mood.send_replace(Mood::SilentForWrites);
    let _proxy = start(&store, "p1", &[]);
    eventually("a publication", async || match store.published.lock().unwrap().is_empty() {
        true => Err("none".to_owned()),
        false => Ok(()),
    })
    .await;
    store.mood.send_replace(Mood::Good);
    let timeout = async || {
        let reports = store.inner().proxy_reports().await.unwrap();
        reports.into_values().next().map(|report| report.proxy_timeout)
    };
    let mut seen = Vec::new();
    eventually("the specification's timeout", async || {
        if let Some(now) = timeout().await {
            seen.push(now);
        }
        match seen.last() {
            Some(2_000_000_000) => Ok(()),
            last => Err(format!("{last:?}")),
        }
    })
    .await;
    assert_eq!(seen.first(), Some(&2_000_000_000), "nothing was open before, so that no other one ever held");
}

#[tokio::test]
async fn an_end_of_input_passes_through_and_the_answer_comes_back() {
    let (_store, _cluster, _a, _b, proxy) = admitted(&[]).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    client.say("last words").await.unwrap();
    client.stream.get_mut().shutdown().await.unwrap();
    assert_eq!(client.end().await, ("a last words\na bye\n".to_owned(), None));
}

#[tokio::test]
async fn an_end_of_output_leaves_the_other_direction_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = MoodyStore::new();
    let mut cluster = Cluster::new(&[("db1", listener.local_addr().unwrap())]);
    cluster.write(store.inner()).await;
    let proxy = start(&store, "p1", &[]);
    cluster.admit(store.inner(), "db1", 1).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"only this\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    });
    let (mut client, greeting) = Client::connect(proxy.address).await;
    assert_eq!(greeting, "only this");
    assert_eq!(client.line().await.unwrap(), "");
    client.say("still here").await.unwrap();
    client.stream.get_mut().shutdown().await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, server).await.unwrap().unwrap(), "still here\n");
}

#[tokio::test]
async fn a_new_destination_resets_sessions_before_it_is_acknowledged() {
    let (store, mut cluster, _a, b, proxy) = admitted(&[]).await;
    let (mut first, _) = Client::connect(proxy.address).await;
    let (mut second, _) = Client::connect(proxy.address).await;

    cluster.primary = None;
    cluster.write(store.inner()).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.end().await.1, Some(ErrorKind::ConnectionReset));
    }
    cluster.acknowledged(store.inner()).await;
    assert_eq!(Client::try_connect(proxy.address).await.err().as_deref(), Some("closed"));

    cluster.primary = Some("db2");
    cluster.write(store.inner()).await;
    let (mut third, name) = Client::connect(proxy.address).await;
    assert_eq!(name, "b");

    // Straight from one to the other, as after a missed hand-over.
    cluster.primary = Some("db1");
    cluster.write(store.inner()).await;
    assert_eq!(third.end().await.1, Some(ErrorKind::ConnectionReset));
    cluster.acknowledged(store.inner()).await;
    assert_eq!(Client::connect(proxy.address).await.1, "a");
    assert_eq!(b.received(), "");

    let published = store.published.lock().unwrap().clone();
    for generation in [cluster.generation, cluster.generation - 2] {
        let (_, connections) = published.iter().find(|(published, _)| *published == generation).unwrap();
        assert_eq!(*connections, 0, "generation {generation} in {published:?}");
    }
}

#[tokio::test]
async fn sessions_live_through_generations_that_change_nothing_for_them() {
    let (store, mut cluster, _a, _b, proxy) = admitted(&[]).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    cluster.enabled.push(ProxyUid::from("p2"));
    cluster.write(store.inner()).await;
    cluster.acknowledged(store.inner()).await;
    assert_eq!(client.ask("still").await.unwrap(), "a still");
}

#[tokio::test]
async fn a_silent_store_closes_everything_after_the_timeout() {
    let (store, _cluster, _a, _b, proxy) = admitted(&[]).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    store.mood.send_replace(Mood::Silent);
    assert_eq!(client.end().await.1, Some(ErrorKind::ConnectionReset));
    eventually("a closed listener", async || match TcpStream::connect(proxy.address).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    store.mood.send_replace(Mood::Good);
    assert_eq!(Client::connect(proxy.address).await.1, "a");
}

/// The sentinel goes by the timeout that was published last: a proxy that went on by a longer one from before would forward to a primary
/// that was replaced meanwhile.
#[tokio::test]
async fn a_lowered_timeout_holds_at_once() {
    let (store, mut cluster, _a, _b, proxy) = admitted(&[]).await;
    let published = async |milliseconds: i64| {
        eventually("the report of another timeout", async || {
            let reports = store.inner().proxy_reports().await.map_err(|error| error.to_string())?;
            match reports.values().all(|report| report.proxy_timeout == milliseconds * 1_000_000) {
                true => Ok(()),
                false => Err(format!("{reports:?}")),
            }
        })
        .await;
    };
    cluster.timeout_ms = 3_600_000;
    cluster.write(store.inner()).await;
    published(3_600_000).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    cluster.timeout_ms = 2000;
    cluster.write(store.inner()).await;
    published(2000).await;
    store.mood.send_replace(Mood::Silent);
    assert_eq!(client.end().await.1, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_failing_store_closes_everything_but_may_leave_the_listener() {
    let (store, _cluster, _a, _b, proxy) = admitted(&["--stop-listening=false"]).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    store.mood.send_replace(Mood::Failing);
    assert_eq!(client.end().await.1, Some(ErrorKind::ConnectionReset));
    assert_eq!(Client::try_connect(proxy.address).await.err().as_deref(), Some("closed"));
    store.mood.send_replace(Mood::Good);
    assert_eq!(Client::connect(proxy.address).await.1, "a");
}

#[tokio::test]
async fn a_short_failure_of_the_store_is_invisible() {
    let (store, cluster, _a, _b, proxy) = admitted(&[]).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    store.mood.send_replace(Mood::Failing);
    let before = store.published.lock().unwrap().len();
    // The store is back well before the timeout of two seconds; the proxy tries again by itself.
    tokio::time::timeout(Duration::from_millis(500), client.line()).await.unwrap_err();
    store.mood.send_replace(Mood::Good);
    eventually("the next publication", async || match store.published.lock().unwrap().len() > before {
        true => Ok(()),
        false => Err("none".to_owned()),
    })
    .await;
    assert_eq!(client.ask("there").await.unwrap(), "a there");
    cluster.acknowledged(store.inner()).await;
}

#[tokio::test]
async fn a_slow_check_never_opens() {
    let (store, mut cluster, a, _b, proxy) = admitted(&[]).await;
    cluster.primary = None;
    cluster.write(store.inner()).await;
    cluster.acknowledged(store.inner()).await;
    let before = store.published.lock().unwrap().len();

    // The publication of "open to a" hangs; meanwhile the sentinel gives up on us and moves on.
    store.mood.send_replace(Mood::SilentForWrites);
    cluster.primary = Some("db1");
    cluster.write(store.inner()).await;
    eventually("the hanging publication", async || match store.published.lock().unwrap().len() > before {
        true => Ok(()),
        false => Err("none".to_owned()),
    })
    .await;
    cluster.primary = Some("db2");
    cluster.write(store.inner()).await;
    store.mood.send_replace(Mood::Good);
    assert_eq!(Client::connect(proxy.address).await.1, "b");
    assert_eq!(a.received(), "");
}

/// A proxy that no sentinel has heard of yet, and that is about to open to `a` by the document that is there.
async fn about_to_open(
    prepare: impl FnOnce(Arc<MoodyStore>),
) -> (Arc<MoodyStore>, Cluster, Running, Server, Server) {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let store = MoodyStore::new();
    let mut cluster = Cluster::new(&[("db1", a.address), ("db2", b.address)]);
    cluster.primary = Some("db1");
    cluster.enabled = vec![ProxyUid::from("p1")];
    cluster.write(store.inner()).await;
    prepare(store.clone());
    let proxy = start(&store, "p1", &["--stop-listening=false"]);
    eventually("silence", async || match *store.mood.borrow() {
        Mood::Silent => Ok(()),
        mood => Err(format!("{mood:?}")),
    })
    .await;
    (store, cluster, proxy, a, b)
}

#[tokio::test]
async fn what_was_read_is_read_again_before_opening() {
    let silence_after_publication = |store: Arc<MoodyStore>| {
        let shared = store.clone();
        let hook = move || _ = shared.mood.send_replace(Mood::Silent);
        *store.on_publication.lock().unwrap() = Some(Box::new(hook));
    };
    let (store, mut cluster, proxy, a, _b) = about_to_open(silence_after_publication).await;
    assert_eq!(Client::try_connect(proxy.address).await.err().as_deref(), Some("closed"));
    cluster.primary = Some("db2");
    cluster.write(store.inner()).await;
    store.mood.send_replace(Mood::Good);
    assert_eq!(Client::connect(proxy.address).await.1, "b");
    assert_eq!(a.received(), "");
}

#[tokio::test]
async fn a_check_that_was_frozen_does_not_open() {
    let freeze_in_second_look = |store: Arc<MoodyStore>| {
        let shared = store.clone();
        let install = move || {
            let moody = shared.clone();
            let freeze = move || {
                // Blocks the whole runtime, as SIGSTOP would, for more than the timeout.
                std::thread::sleep(Duration::from_millis(2200));
                moody.mood.send_replace(Mood::Silent);
            };
            *shared.on_read.lock().unwrap() = Some(Box::new(freeze));
        };
        *store.on_publication.lock().unwrap() = Some(Box::new(install));
    };
    let (store, _cluster, proxy, _a, _b) = about_to_open(freeze_in_second_look).await;
    assert_eq!(Client::try_connect(proxy.address).await.err().as_deref(), Some("closed"));
    store.mood.send_replace(Mood::Good);
    assert_eq!(Client::connect(proxy.address).await.1, "a");
}

#[tokio::test]
async fn everything_arrives_in_order_also_when_the_reader_is_slow() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = MoodyStore::new();
    let mut cluster = Cluster::new(&[("db1", listener.local_addr().unwrap())]);
    cluster.write(store.inner()).await;
    let proxy = start(&store, "p1", &[]);
    cluster.admit(store.inner(), "db1", 1).await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut from, mut to) = stream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
        }
    });
    let data: Vec<u8> = (0..12_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let stream = eventually("an echo", async || {
        let mut stream = TcpStream::connect(proxy.address).await.map_err(|error| error.to_string())?;
        let mut byte = [0];
        stream.write_all(b"x").await.map_err(|error| error.to_string())?;
        stream.read_exact(&mut byte).await.map_err(|error| error.to_string())?;
        Ok(stream)
    })
    .await;
    let (mut from, mut to) = stream.into_split();
    let sent = data.clone();
    let writer = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut back = Vec::with_capacity(data.len());
    let mut chunk = vec![0; 10_000];
    loop {
        let length = tokio::time::timeout(PATIENCE, from.read(&mut chunk)).await.unwrap().unwrap();
        if length == 0 {
            break;
        }
        back.extend_from_slice(&chunk[..length]);
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert!(back == data, "{} of {} bytes came back", back.len(), data.len());
}

#[tokio::test]
async fn a_stop_drains_and_withdraws_the_report_last() {
    let (store, _cluster, _a, _b, proxy) = admitted(&["--drain-timeout=20s"]).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    proxy.shutdown.request();
    eventually("a closed listener", async || match TcpStream::connect(proxy.address).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(client.ask("one more").await.unwrap(), "a one more");
    assert_eq!(store.inner().proxy_reports().await.unwrap().len(), 1);
    client.stream.get_mut().shutdown().await.unwrap();
    client.end().await;
    tokio::time::timeout(PATIENCE, proxy.task).await.unwrap().unwrap();
    assert!(store.inner().proxy_reports().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_drain_ends_and_a_second_signal_ends_it_at_once() {
    let (_store, _cluster, _a, _b, proxy) = admitted(&["--drain-timeout=100ms"]).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    proxy.shutdown.request();
    assert_eq!(client.end().await.1, Some(ErrorKind::ConnectionReset));
    tokio::time::timeout(PATIENCE, proxy.task).await.unwrap().unwrap();

    let (_store, _cluster, _a, _b, proxy) = admitted(&["--drain-timeout=1h"]).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    proxy.shutdown.request();
    proxy.shutdown.request();
    assert_eq!(client.end().await.1, Some(ErrorKind::ConnectionReset));
    tokio::time::timeout(PATIENCE, proxy.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_does_not_outlive_the_primary() {
    let (store, mut cluster, _a, _b, proxy) = admitted(&["--drain-timeout=1h"]).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    proxy.shutdown.request();
    cluster.primary = None;
    cluster.write(store.inner()).await;
    assert_eq!(client.end().await.1, Some(ErrorKind::ConnectionReset));
    tokio::time::timeout(PATIENCE, proxy.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn two_proxies_serve_the_same_cluster() {
    let a = Server::start("a").await;
    let store = MoodyStore::new();
    let mut cluster = Cluster::new(&[("db1", a.address)]);
    cluster.write(store.inner()).await;
    let (first, second) = (start(&store, "p1", &[]), start(&store, "p2", &[]));
    cluster.admit(store.inner(), "db1", 2).await;
    for proxy in [&first, &second] {
        assert_eq!(Client::connect(proxy.address).await.1, "a");
    }
    first.shutdown.request();
    tokio::time::timeout(PATIENCE, first.task).await.unwrap().unwrap();
    let left: Vec<_> = store.inner().proxy_reports().await.unwrap().into_keys().collect();
    assert_eq!(left, [ProxyUid::from("p2")]);
    assert_eq!(Client::connect(second.address).await.1, "a");
}

#[tokio::test]
async fn an_unreachable_primary_turns_clients_away_and_is_tried_again() {
    let store = MoodyStore::new();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut cluster = Cluster::new(&[("db1", address)]);
    cluster.write(store.inner()).await;
    let proxy = start(&store, "p1", &[]);
    cluster.admit(store.inner(), "db1", 1).await;
    eventually("a refusal", async || match Client::try_connect(proxy.address).await {
        Err(_) => Ok(()),
        Ok((_, name)) => Err(name),
    })
    .await;
    reports_unreachable(&store, &address.to_string()).await;
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"late\n").await;
        }
    });
    assert_eq!(Client::connect(proxy.address).await.1, "late");
    reports_unreachable(&store, "").await;
}

async fn reports_unreachable(store: &MoodyStore, expected: &str) {
    eventually("the proxy's report", async || {
        let reports = store.inner().proxy_reports().await.unwrap();
        let told = reports.get(&ProxyUid::from("p1")).map(|report| report.unreachable.clone());
        if told.as_deref() == Some(expected) { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

/// Its host has vanished: whoever connects there is answered neither yes nor no.
#[tokio::test]
async fn a_primary_that_does_not_answer_costs_a_client_no_more_than_the_limit() {
    let silent = TcpSocket::new_v4().unwrap();
    silent.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let silent = silent.listen(1).unwrap();
    let address = silent.local_addr().unwrap();
    // Nobody accepts them, and when the queue is full the kernel answers no more.
    let mut queue = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await
    {
        queue.push(stream.unwrap());
        assert!(queue.len() < 100, "the queue has no end");
    }
    let store = MoodyStore::new();
    let mut cluster = Cluster::new(&[("db1", address)]);
    cluster.write(store.inner()).await;
    let proxy = start(&store, "p1", &["--connect-timeout=200ms"]);
    cluster.admit(store.inner(), "db1", 1).await;
    let begun = tokio::time::Instant::now();
    let mut client = Client { stream: BufReader::new(TcpStream::connect(proxy.address).await.unwrap()) };
    assert_eq!(client.end().await.0, "", "whoever was not let in was told something");
    assert!(
        begun.elapsed() >= Duration::from_millis(200),
        "the client was not held for as long as the limit"
    );
}

#[tokio::test]
async fn bad_cluster_data_closes_everything() {
    let (store, mut cluster, _a, _b, proxy) = admitted(&[]).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    let mut document = cluster.document();
    document.format_version = 2;
    store.inner().put_cluster_document(&document).await.unwrap();
    assert_eq!(client.end().await.1, Some(ErrorKind::ConnectionReset));
    cluster.write(store.inner()).await;
    assert_eq!(Client::connect(proxy.address).await.1, "a");
}

/// Half a second a round trip with a timeout of three seconds: what opens a destination takes two seconds.
#[tokio::test]
async fn a_slow_store_closes_nothing_for_good() {
    let a = Server::start("a").await;
    let store = MoodyStore::new();
    store.mood.send_replace(Mood::Slow(Duration::from_millis(500)));
    let mut cluster = Cluster::new(&[("db1", a.address)]);
    (cluster.check_interval_ms, cluster.timeout_ms) = (1000, 3000);
    cluster.write(store.inner()).await;
    let proxy = start(&store, "p1", &[]);
    cluster.admit(store.inner(), "db1", 1).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    let before = store.published.lock().unwrap().len();
    eventually("five more publications", async || match store.published.lock().unwrap().len() - before {
        published if published >= 5 => Ok(()),
        published => Err(format!("{published}")),
    })
    .await;
    assert_eq!(client.ask("still").await.unwrap(), "a still");
}

/// The data go back to where another instance was the primary.
#[tokio::test]
async fn older_cluster_data_move_nobody() {
    let (store, mut cluster, _a, b, proxy) = admitted(&[]).await;
    let older = Cluster { primary: Some("db2"), ..cluster.clone() }.document();
    cluster.write(store.inner()).await;
    cluster.acknowledged(store.inner()).await;
    let (mut client, _) = Client::connect(proxy.address).await;
    store.inner().put_cluster_document(&older).await.unwrap();
    eventually("a report that acknowledges nothing", async || {
        let reports = store.inner().proxy_reports().await.map_err(|error| error.to_string())?;
        match reports.values().all(|report| report.generation < 0) {
            true => Ok(()),
            false => Err(format!("{reports:?}")),
        }
    })
    .await;
    assert_eq!(client.ask("here").await.unwrap(), "a here");
    assert_eq!(Client::connect(proxy.address).await.1, "a");
    assert_eq!(b.received(), "");
}

#[tokio::test]
async fn one_client_cannot_take_all_connections() {
    let (_store, _cluster, _a, _b, proxy) = admitted(&["--connections-per-client=2"]).await;
    let (mut first, _) = Client::connect(proxy.address).await;
    let (mut second, _) = Client::connect(proxy.address).await;
    assert!(Client::try_connect(proxy.address).await.is_err());
    assert_eq!(first.ask("hello").await.unwrap(), second.ask("hello").await.unwrap());
    // The place of one that has gone is free again.
    first.stream.get_mut().shutdown().await.unwrap();
    first.end().await;
    eventually("another connection", async || Client::try_connect(proxy.address).await.map(drop)).await;
}

#[tokio::test]
async fn a_server_that_understands_it_learns_where_a_client_comes_from() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = MoodyStore::new();
    let mut cluster = Cluster::new(&[("db1", listener.local_addr().unwrap())]);
    cluster.write(store.inner()).await;
    let proxy = start(&store, "p1", &["--send-proxy-protocol"]);
    cluster.admit(store.inner(), "db1", 1).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"welcome\n").await.unwrap();
        let mut received = vec![0; 34];
        stream.read_exact(&mut received).await.unwrap();
        received
    });
    let (mut client, _) = Client::connect(proxy.address).await;
    client.say("hello").await.unwrap();
    let received = tokio::time::timeout(PATIENCE, server).await.unwrap().unwrap();
    let own = client.stream.get_ref().local_addr().unwrap().port().to_be_bytes();
    let port = proxy.address.port().to_be_bytes();
    let expected =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[127, 0, 0, 1, 127, 0, 0, 1], &own, &port, b"hello\n"];
    assert_eq!(received.as_slice(), expected.concat());
}
