//! Feeds: what a store tells of changes, confirmed by reads, never younger than it is.

use std::time::Duration;

use stolon_model::{
    KeeperReport, KeeperUid, Lsn, PostgresState, ProxyReport, ProxyUid, SentinelReport, SentinelUid,
};
use stolon_store::{
    Attention, BootInstant, ClusterStore, DocumentFeed, Everything, EverythingFeed, Expected, KvClusterStore,
    KvStore, Tolerance,
};

use super::{document, fresh, within};

const TTL: Duration = Duration::from_secs(20);
/// Nobody is woken within this.
const SILENCE: Duration = Duration::from_millis(400);

/// All checks; each client is a process of its own.
pub async fn run<S: KvStore>(reader: S, writer: S) {
    let cluster = fresh("feeds");
    let reader = KvClusterStore::new(reader, cluster.as_str());
    let writer = KvClusterStore::new(writer, cluster.as_str());
    documents(&reader, &writer).await;
    publications(&reader, &writer).await;
    reports(&reader, &writer).await;
    removals(&reader, &writer).await;
}

fn uid_in(feed: &DocumentFeed) -> Option<String> {
    let seen = feed.latest()?.expect("readable");
    seen.value.map(|read| stolon_model::Document::to_json(&read.value))
}

/// Nothing is known before the first read; every change arrives by itself; a question makes the answer young.
async fn documents<S: KvStore>(reader: &KvClusterStore<S>, writer: &KvClusterStore<S>) {
    let mut feed = reader.follow_document();
    let before = BootInstant::now();
    let seen = feed.at_most(Duration::ZERO).await.expect("a question");
    assert_eq!(seen.value, None, "there is none yet");
    assert!(seen.as_of >= before, "it was asked for after that");
    let first =
        writer.compare_and_put_cluster_document(&document("a"), Expected::Absent).await.expect("make");
    let json = |uid: &str| Some(stolon_model::Document::to_json(&document(uid)));
    until(&mut feed, "the first document", |feed| uid_in(feed) == json("a")).await;
    for round in 0..5 {
        let uid = format!("u{round}");
        writer.put_cluster_document(&document(&uid)).await.expect("put");
        until(&mut feed, &uid, |feed| uid_in(feed) == json(&uid)).await;
    }
    let asked_at = BootInstant::now();
    let seen = feed.at_most(Duration::ZERO).await.expect("a question");
    assert!(seen.as_of >= asked_at, "a question is never answered from memory");
    let read = reader.cluster_document().await.expect("read");
    assert_eq!(seen.value, read, "it has the revision that a write needs");
    assert_ne!(read.expect("there").revision, first);

    // What is young enough costs nothing, however much was written meanwhile.
    let requests = reader.requests();
    let again = feed.at_most(Duration::from_secs(600)).await.expect("no question");
    assert_eq!((again.value, again.as_of), (seen.value, seen.as_of));
    assert_eq!(reader.requests(), requests);
}

/// A report confirms the document in the same request, and news that only arrive do not make it younger.
async fn publications<S: KvStore>(reader: &KvClusterStore<S>, writer: &KvClusterStore<S>) {
    let mut feed = reader.follow_document();
    feed.at_most(Duration::ZERO).await.expect("a question");
    let settled = feed.latest().expect("known").expect("readable").as_of;
    let json = Some(stolon_model::Document::to_json(&document("told")));
    writer.put_cluster_document(&document("told")).await.expect("put");
    until(&mut feed, "what is told", |feed| uid_in(feed) == json).await;
    let as_of = feed.latest().expect("known").expect("readable").as_of;
    // A store that only says that something changed is asked, so that its answer is young.
    assert!(as_of >= settled);

    let proxy = ProxyReport { uid: "p".into(), ..ProxyReport::default() };
    reader.put_proxy_report(&proxy, TTL).await.expect("the first report, which may need a lease");
    writer.put_cluster_document(&document("found")).await.expect("put");
    let (before, requests) = (BootInstant::now(), reader.requests());
    reader.put_proxy_report(&proxy, TTL).await.expect("a report");
    let seen = feed.latest().expect("known").expect("readable");
    assert!(seen.as_of >= before, "the report has confirmed it");
    assert_eq!(
        seen.value.expect("there").value,
        document("found"),
        "and has found what it may not have been told"
    );
    // Others use this client too: a watch that looks for itself.
    assert!(reader.requests() - requests <= 3, "{} requests", reader.requests() - requests);
    reader.remove_proxy_report(&proxy.uid).await.expect("remove");
}

/// All that a sentinel decides on arrives; a report in which only positions moved wakes nobody who does not ask for that.
async fn reports<S: KvStore>(reader: &KvClusterStore<S>, writer: &KvClusterStore<S>) {
    let mut feed = reader.follow_everything();
    let at = |lsn: u64, info: &str| KeeperReport {
        uid: "k".into(),
        info_uid: info.into(),
        postgres_state: Some(PostgresState { lsn: Lsn(lsn), healthy: true, ..PostgresState::default() }),
        ..KeeperReport::default()
    };
    let keeper = KeeperUid::from("k");
    writer.put_keeper_report(&at(1, "i1"), TTL).await.expect("put");
    let seen = |feed: &EverythingFeed| feed.latest().and_then(Result::ok).map(|seen| seen.value);
    let lsn = |feed: &EverythingFeed| {
        seen(feed)?.keepers.get(&keeper)?.postgres_state.as_ref().map(|state| state.lsn)
    };
    until(&mut feed, "a report", |feed| lsn(feed) == Some(Lsn(1))).await;
    while tokio::time::timeout(SILENCE, feed.changed()).await.is_ok() {}
    let second_written = BootInstant::now();
    writer.put_keeper_report(&at(2, "i2"), TTL).await.expect("put");
    let sentinel = SentinelReport { uid: "s".into(), ..SentinelReport::default() };
    writer.put_sentinel_report(&sentinel, TTL).await.expect("put");
    let woken = tokio::time::timeout(SILENCE, feed.changed()).await;
    assert!(woken.is_err(), "a position wakes nobody, a sentinel's report neither");
    let everything = feed.at_most(Duration::ZERO).await.expect("a question").value;
    assert_eq!(lsn(&feed), Some(Lsn(2)), "but it is there");
    let arrivals = everything.arrivals.clone();
    let read = Everything { arrivals: arrivals.clone(), ..reader.everything().await.expect("read") };
    assert_eq!(everything, read, "and it is what a read gives");
    assert_eq!(arrivals.keys().collect::<Vec<_>>(), [&keeper]);
    assert!(arrivals[&keeper] >= second_written, "it came after it was written");
    silence(&feed).await;
    let later = seen(&feed).expect("known").arrivals;
    assert_eq!(later, arrivals, "and does not come again because it is looked at");

    let mut unhealthy = at(3, "i3");
    unhealthy.postgres_state = Some(PostgresState { healthy: false, ..PostgresState::default() });
    writer.put_keeper_report(&unhealthy, TTL).await.expect("put");
    within("a report that says something", feed.changed()).await;
    feed.attend(Attention::Everything);
    let proxy = ProxyReport { uid: "q".into(), generation: 7, ..ProxyReport::default() };
    writer.put_proxy_report(&proxy, TTL).await.expect("put");
    let shown =
        |feed: &EverythingFeed| seen(feed).and_then(|seen| seen.proxies.get(&ProxyUid::from("q")).cloned());
    until(&mut feed, "a proxy", |feed| shown(feed) == Some(proxy.clone())).await;
    writer.remove_sentinel_report(&SentinelUid::from("s")).await.expect("remove");
}

/// A store that has said nothing for a while is asked, however young what is known is.
async fn silence(feed: &EverythingFeed) {
    let age = Duration::from_secs(600);
    let known = feed.at_most(Duration::ZERO).await.expect("a question");
    let asked_at = BootInstant::now();
    let patient = feed.within(Tolerance { age, silence: age }).await.expect("what is known");
    assert!(patient.as_of >= known.as_of);
    let impatient = feed.within(Tolerance { age, silence: Duration::ZERO }).await.expect("a question");
    assert!(impatient.as_of >= asked_at, "nothing was told for longer than that");
}

/// A removal is seen, told or not.
async fn removals<S: KvStore>(reader: &KvClusterStore<S>, writer: &KvClusterStore<S>) {
    let mut feed = reader.follow_everything();
    let keeper = KeeperUid::from("k");
    let has = |feed: &EverythingFeed| {
        let seen = feed.latest().and_then(Result::ok).map(|seen| seen.value);
        seen.is_some_and(|seen| seen.keepers.contains_key(&keeper))
    };
    until(&mut feed, "the report", |feed| has(feed)).await;
    writer.remove_keeper_report(&keeper).await.expect("remove");
    until(&mut feed, "the removal", |feed| !has(feed)).await;
    writer
        .put_keeper_report(&KeeperReport { uid: keeper.clone(), ..Default::default() }, TTL)
        .await
        .expect("put");
    writer.remove_keeper_report(&keeper).await.expect("remove");
    let seen = feed.at_most(Duration::ZERO).await.expect("a question").value;
    assert!(!seen.keepers.contains_key(&keeper), "a question finds every removal");
}

/// Looks give what is newer, and say how much there is.
pub async fn values<S: KvStore>(store: S) {
    use stolon_store::{Notice, Publication, Selector, Version};
    let parent = fresh("looks");
    let (one, two) = (parent.child("a/one"), parent.child("a/two"));
    let below = Selector::Below(parent.child("a"));
    store.put(&one, b"1".to_vec(), None).await.expect("put");
    let first = store.look(&below, Version::START).await.expect("look");
    assert_eq!((first.changed.len(), first.count), (1, 1));
    store.put(&parent.child("ab"), b"no".to_vec(), None).await.expect("put beside it");
    let publication = Publication {
        key: two.clone(),
        value: b"2".to_vec(),
        ttl: TTL,
        notice: Notice::Quiet,
        read: one.clone(),
    };
    let read = store.publish(publication).await.expect("publish");
    assert_eq!(read.changed.iter().map(|entry| &entry.key).collect::<Vec<_>>(), [&one]);
    let second = store.look(&below, first.version).await.expect("look");
    let found: Vec<_> = second.changed.iter().map(|entry| &entry.key).collect();
    assert!(found.contains(&&two), "{found:?}: what is newer is given; a store may give all");
    assert_eq!(second.count, 2, "what is older is counted");
    assert!(second.version >= read.version && read.version > first.version);
    store.delete(&one).await.expect("delete");
    let third = store.look(&below, second.version).await.expect("look");
    assert!(third.count == 1 && third.changed.iter().all(|entry| entry.key == two));
    let at_one = store.look(&Selector::Key(one), Version::START).await.expect("look");
    assert_eq!((at_one.changed.len(), at_one.count), (0, 0));
}

async fn until<T>(
    feed: &mut stolon_store::Feed<T>,
    what: &str,
    is_so: impl Fn(&stolon_store::Feed<T>) -> bool,
) {
    within(what, async {
        while !is_so(feed) {
            feed.changed().await;
        }
    })
    .await;
}
