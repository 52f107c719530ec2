//! The contract of the stores as checks. Every backend runs all of them, against the real thing.
//!
//! A subject is a way to connect: each call gives a client of its own to the same store.

pub mod feeds;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stolon_model::{ClusterDocument, KeeperReport, KeeperUid, ProxyReport, SentinelUid};
use stolon_store::{
    Campaign, ClusterStore, Everything, Expected, Key, KvClusterStore, KvStore, Leadership, MINIMUM_TTL,
    StoreError, Watch, WatchScope,
};

/// No condition of the suite takes longer, on however slow a machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Run every check. `connect` gives a new client of the same store each time.
pub async fn run<S: KvStore>(connect: impl Fn() -> S) {
    let expiry = expiry([connect(), connect(), connect()], connect());
    let rest = async {
        keys(connect()).await;
        feeds::values(connect()).await;
        run_on_documents(&connect).await;
    };
    // Both at once, since waiting for expiry takes its time.
    tokio::join!(expiry, rest);
}

/// Run the checks that need no keys but those of the documents of a cluster, and nothing with a time to live.
pub async fn run_on_documents<S: KvStore>(connect: impl Fn() -> S) {
    compare_and_put(connect(), connect()).await;
    contention((0..4).map(|_| connect()).collect()).await;
    watches(connect(), connect()).await;
    documents(connect(), connect()).await;
    feeds::run(connect(), connect()).await;
    elections(connect(), connect()).await;
    requests(connect()).await;
}

/// The outcome, or a failure of the test after [`PATIENCE`].
pub async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what}: waited {PATIENCE:?}"),
    }
}

/// A path that no other check uses.
pub fn fresh(check: &str) -> Key {
    Key::new(format!("conformance-{check}-{}", uuid::Uuid::new_v4().simple()))
}

async fn value<S: KvStore>(store: &S, key: &Key) -> Option<String> {
    let entry = store.get(key).await.expect("get");
    entry.map(|entry| String::from_utf8(entry.value).expect("text"))
}

/// Keys appear, are listed below their parent in order, and go.
async fn keys<S: KvStore>(store: S) {
    let parent = fresh("keys");
    let key = parent.child("info/b");
    assert_eq!(value(&store, &key).await, None);
    assert!(store.list(&parent.child("info")).await.expect("list").is_empty());
    store.put(&key, b"1".to_vec(), None).await.expect("put");
    store.put(&key, b"2".to_vec(), None).await.expect("put over");
    store.put(&parent.child("info/a"), Vec::new(), None).await.expect("put an empty value");
    let odd = "\u{0}ÿ\n &%+=".as_bytes().to_vec();
    store.put(&parent.child("info/c/d"), odd.clone(), None).await.expect("put odd characters");
    let bytes = parent.child("bytes");
    if takes(store.put(&bytes, vec![0, 255, 10], None).await) {
        assert_eq!(store.get(&bytes).await.expect("get").expect("there").value, [0, 255, 10]);
    }
    store.put(&parent.child("info2"), b"sibling".to_vec(), None).await.expect("put a sibling");
    takes(store.put(&parent.child("info"), b"parent".to_vec(), None).await);
    let listed = store.list(&parent.child("info")).await.expect("list");
    let found: Vec<(String, Vec<u8>)> = listed.into_iter().map(|e| (e.key.to_string(), e.value)).collect();
    let at = |name: &str| parent.child(name).to_string();
    assert_eq!(found, [(at("info/a"), vec![]), (at("info/b"), b"2".to_vec()), (at("info/c/d"), odd)]);
    store.delete(&key).await.expect("delete");
    store.delete(&key).await.expect("delete what is not there");
    assert_eq!(value(&store, &key).await, None);
    assert_eq!(store.list(&parent.child("info")).await.expect("list").len(), 2);
}

/// Whether a store takes what it may refuse.
fn takes(outcome: Result<(), StoreError>) -> bool {
    match outcome {
        Ok(()) => true,
        Err(StoreError::Refused { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Only what was read can be replaced, and what is absent can be made only once.
async fn compare_and_put<S: KvStore>(one: S, other: S) {
    let key = fresh("cas").child("clusterdata");
    let conflict = |outcome: Result<_, StoreError>| assert_eq!(outcome, Err(StoreError::Conflict));
    let first = one.compare_and_put(&key, b"1".to_vec(), Expected::Absent).await.expect("make");
    conflict(other.compare_and_put(&key, b"x".to_vec(), Expected::Absent).await);
    let read = other.get(&key).await.expect("get").expect("there");
    assert_eq!((read.value.as_slice(), read.revision), (b"1".as_slice(), first));
    let second =
        other.compare_and_put(&key, b"2".to_vec(), Expected::Revision(first)).await.expect("replace");
    assert_ne!(first, second);
    conflict(one.compare_and_put(&key, b"x".to_vec(), Expected::Revision(first)).await);
    // The same bytes written again are another revision.
    one.put(&key, b"2".to_vec(), None).await.expect("put");
    conflict(other.compare_and_put(&key, b"x".to_vec(), Expected::Revision(second)).await);
    one.delete(&key).await.expect("delete");
    conflict(other.compare_and_put(&key, b"x".to_vec(), Expected::Revision(second)).await);
    let anew = one.compare_and_put(&key, b"1".to_vec(), Expected::Absent).await.expect("make anew");
    assert_ne!(anew, first, "revisions never come back");
    conflict(other.compare_and_put(&key, b"x".to_vec(), Expected::Revision(first)).await);
    assert_eq!(value(&one, &key).await.as_deref(), Some("1"));
}

/// Clients that add one to the same number never lose an addition.
async fn contention<S: KvStore>(clients: Vec<S>) {
    const ROUNDS: u64 = 15;
    let key = fresh("contention").child("clusterdata");
    let total = clients.len() as u64 * ROUNDS;
    let additions = clients.iter().map(|client| async {
        for _ in 0..ROUNDS {
            add_one(client, &key).await;
        }
    });
    within("additions under contention", futures::future::join_all(additions)).await;
    assert_eq!(value(&clients[0], &key).await, Some(total.to_string()));
}

/// Add one to the number at `key`, however often it takes.
pub async fn add_one<S: KvStore>(client: &S, key: &Key) {
    loop {
        let entry = client.get(key).await.expect("get");
        let (number, expected) = match &entry {
            None => (0, Expected::Absent),
            Some(entry) => {
                let number: u64 = std::str::from_utf8(&entry.value).expect("text").parse().expect("a number");
                (number, Expected::Revision(entry.revision))
            }
        };
        match client.compare_and_put(key, (number + 1).to_string().into_bytes(), expected).await {
            Ok(_) => return,
            Err(StoreError::Conflict) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A key with a time to live stays as long as its writer, and ends some time after it.
async fn expiry<S: KvStore>([ended, living, writer]: [S; 3], reader: S) {
    let parent = fresh("expiry");
    let at = |name: &str| parent.child(name);
    let short = Some(Duration::from_secs(1));
    ended.put(&at("ended"), b"x".to_vec(), short).await.expect("put");
    for name in ["living", "freed", "withdrawn", "removed"] {
        living.put(&at(name), b"x".to_vec(), short).await.expect("put");
    }
    living.put(&at("freed"), b"y".to_vec(), None).await.expect("put without a time to live");
    living.delete(&at("withdrawn")).await.expect("delete");
    writer.delete(&at("removed")).await.expect("delete what somebody else put");
    drop(ended);
    let (end, is_gone) = (Instant::now(), async |name| reader.get(&at(name)).await.expect("get").is_none());
    while !is_gone("ended").await {
        assert!(end.elapsed() < PATIENCE, "it never expires");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(end.elapsed() >= MINIMUM_TTL / 3, "gone after {:?}", end.elapsed());
    assert_eq!(reader.list(&parent).await.expect("list").len(), 2, "the expired key is not listed");
    // More than one whole time to live after its only put, and after anything else was written.
    tokio::time::sleep(MINIMUM_TTL * 5 / 4 - end.elapsed().min(MINIMUM_TTL)).await;
    assert!(!is_gone("living").await, "it stays while its writer goes on");
    assert!(is_gone("withdrawn").await && is_gone("removed").await, "what was removed is not kept");
    assert!(!is_gone("freed").await, "a put without a time to live takes the earlier one away");
    drop(living);
    let end = Instant::now();
    writer.put(&at("ended"), b"x".to_vec(), short).await.expect("put after expiry");
    while !is_gone("living").await {
        assert!(end.elapsed() < PATIENCE, "it never expires");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(!is_gone("freed").await && !is_gone("ended").await);
}

/// A watch sees every kind of change by anybody, from the moment it was made.
async fn watches<S: KvStore>(watcher: S, writer: S) {
    let cluster = fresh("watches");
    let (watcher, writer) =
        (KvClusterStore::new(watcher, cluster.as_str()), KvClusterStore::new(writer, cluster.as_str()));
    let mut data = watcher.watch(WatchScope::ClusterData);
    let mut everything = watcher.watch(WatchScope::Everything);
    let first = writer
        .compare_and_put_cluster_document(&document("a"), Expected::Absent)
        .await
        .expect("a write before the watch was first asked");
    within("the first change", data.changed()).await;
    within("the first change, for everything", everything.changed()).await;
    for round in 0..5 {
        sees(
            &mut data,
            &watcher,
            &format!("put {round}"),
            async |store| store.cluster_document().await.expect("read").expect("there").value,
            document(&format!("u{round}")),
            writer.put_cluster_document(&document(&format!("u{round}"))),
        )
        .await;
    }
    let report = keeper_report("k1", "i1");
    sees(
        &mut everything,
        &watcher,
        "a report",
        async |store| store.keeper_reports().await.expect("read").len(),
        1,
        writer.put_keeper_report(&report, Duration::from_secs(20)),
    )
    .await;
    sees(
        &mut everything,
        &watcher,
        "a removal",
        async |store| store.keeper_reports().await.expect("read").len(),
        0,
        writer.remove_keeper_report(&KeeperUid::from("k1")),
    )
    .await;
    let refused = writer.compare_and_put_cluster_document(&document("x"), Expected::Revision(first)).await;
    assert_eq!(refused, Err(StoreError::Conflict));
}

/// Write, then be woken until what was written is seen.
async fn sees<S: KvStore, T: PartialEq + std::fmt::Debug>(
    watch: &mut Watch,
    store: &KvClusterStore<S>,
    what: &str,
    look: impl AsyncFn(&KvClusterStore<S>) -> T,
    wanted: T,
    write: impl Future<Output = Result<(), StoreError>>,
) {
    write.await.expect("write");
    within(what, async {
        loop {
            watch.changed().await;
            if look(store).await == wanted {
                return;
            }
        }
    })
    .await;
}

/// A document that can be told from others.
pub fn document(uid: &str) -> ClusterDocument {
    let json = format!(r#"{{"formatVersion":1,"cluster":{{"uid":"{uid}"}},"keepers":null}}"#);
    stolon_model::Document::from_json(&json).expect("a document")
}

fn keeper_report(uid: &str, info: &str) -> KeeperReport {
    KeeperReport { uid: uid.into(), info_uid: info.into(), ..KeeperReport::default() }
}

/// Documents come back as they went in, and a bad report does not hide the good ones.
async fn documents<S: KvStore>(one: S, raw: S) {
    let cluster = fresh("documents");
    let store = KvClusterStore::new(one, cluster.as_str());
    assert_eq!(store.cluster_document().await.expect("read"), None);
    store.put_cluster_document(&document("a")).await.expect("put");
    let read = store.cluster_document().await.expect("read").expect("there");
    assert_eq!(read.value, document("a"));
    let next = store
        .compare_and_put_cluster_document(&document("b"), Expected::Revision(read.revision))
        .await
        .expect("replace");
    let key = cluster.child("clusterdata");
    assert_eq!(raw.get(&key).await.expect("get").expect("there").revision, next);

    raw.put(&key, b"null".to_vec(), None).await.expect("put null");
    assert_eq!(store.cluster_document().await.expect("read"), None, "null counts as absent");
    assert_eq!(store.everything().await.expect("read"), Everything::default(), "null counts as absent");
    store
        .compare_and_put_cluster_document(&document("c"), Expected::Absent)
        .await
        .expect("make in place of null");
    let refused = store.compare_and_put_cluster_document(&document("d"), Expected::Absent).await;
    assert_eq!(refused, Err(StoreError::Conflict));
    raw.put(&key, b"{\"formatVersion\":".to_vec(), None).await.expect("put half a document");
    assert!(matches!(store.cluster_document().await, Err(StoreError::Decode { .. })));
    assert!(matches!(store.everything().await, Err(StoreError::Decode { .. })));
    store.put_cluster_document(&document("e")).await.expect("put");

    let ttl = Duration::from_secs(30);
    store.put_keeper_report(&keeper_report("k1", "i1"), ttl).await.expect("put");
    store.put_keeper_report(&keeper_report("k2", "i2"), ttl).await.expect("put");
    store.put_keeper_report(&keeper_report("k2", "i3"), ttl).await.expect("put again");
    raw.put(&cluster.child("keepers/info/bad"), b"{\"uid\":7".to_vec(), None)
        .await
        .expect("put a bad report");
    raw.put(&cluster.child("keepers/info/empty"), Vec::new(), None).await.expect("put an empty report");
    let reports = store.keeper_reports().await.expect("the good reports");
    let found: Vec<(&str, &str)> = reports.iter().map(|(k, r)| (k.as_str(), r.info_uid.as_str())).collect();
    assert_eq!(found, [("k1", "i1"), ("k2", "i3")]);

    let proxy = ProxyReport { uid: "p".into(), generation: 3, ..ProxyReport::default() };
    store.put_proxy_report(&proxy, ttl).await.expect("put");
    let raw_json = raw.get(&cluster.child("proxies/info/p")).await.expect("get").expect("there").value;
    assert_eq!(String::from_utf8(raw_json).expect("text"), stolon_model::Document::to_json(&proxy));
    assert_eq!(store.proxy_reports().await.expect("read").len(), 1);
    let everything = store.everything().await.expect("all that a sentinel decides on");
    assert_eq!(everything.document, store.cluster_document().await.expect("read"));
    let decoded: BTreeMap<_, _> =
        everything.keepers.iter().map(|(uid, report)| (uid.clone(), (**report).clone())).collect();
    assert_eq!(decoded, reports);
    assert!(everything.proxies.values().eq([&proxy]));
    let unclear = cluster.child("proxies/info/unclear");
    raw.put(&unclear, b"{\"UID\":7".to_vec(), None).await.expect("put a bad report");
    let everything = store.everything().await.expect("one bad report stops nobody");
    let unreadable: Vec<_> = everything.unreadable_proxies.iter().map(|uid| uid.as_str()).collect();
    assert!(
        unreadable.len() == 1 && unreadable[0].ends_with("unclear"),
        "it may be forwarding: {unreadable:?}"
    );
    assert!(everything.proxies.values().eq([&proxy]));
    assert_eq!(store.proxy_reports().await.expect("for people").len(), 1);
    raw.delete(&unclear).await.expect("delete");
    store.remove_proxy_report(&proxy.uid).await.expect("remove");
    assert!(store.proxy_reports().await.expect("read").is_empty());
    let sentinel = stolon_model::SentinelReport { uid: "s".into(), ..Default::default() };
    store.put_sentinel_report(&sentinel, ttl).await.expect("put");
    assert_eq!(store.sentinel_reports().await.expect("read").into_values().collect::<Vec<_>>(), [sentinel]);
}

/// One leader at a time; the next one as soon as it resigns, is dropped or withdraws.
async fn elections<S: KvStore>(one: S, other: S) {
    let cluster = fresh("elections");
    let one = Arc::new(KvClusterStore::new(one, cluster.as_str()));
    let other = KvClusterStore::new(other, cluster.as_str());
    assert_eq!(other.leader().await.expect("leader"), None);
    let mut first = one.campaign(SentinelUid::from("first"));
    let leadership = within("the first to lead", first.elected()).await;
    assert!(leadership.is_held());
    assert_eq!(other.leader().await.expect("leader"), Some("first".into()));

    let mut second = other.campaign(SentinelUid::from("second"));
    assert!(is_refused(&mut second).await, "there is one leader already");
    assert!(leadership.is_held());
    let lost = leadership.lost();
    assert!(tokio::time::timeout(Duration::from_millis(50), lost).await.is_err(), "it is not lost");

    leadership.resign().await;
    let leadership = within("the second after a resignation", second.elected()).await;
    assert_eq!(one.leader().await.expect("leader"), Some("second".into()));

    // The first campaigns again, and wins when the leadership is just dropped.
    assert!(is_refused(&mut first).await);
    drop(leadership);
    let leadership = within("the first after a drop", first.elected()).await;
    assert_eq!(other.leader().await.expect("leader"), Some("first".into()));

    // Candidates that withdraw, with a word or without, leave no gap behind them.
    assert!(is_refused(&mut second).await);
    drop(second);
    let mut second = other.campaign(SentinelUid::from("second again"));
    assert!(is_refused(&mut second).await);
    within("a withdrawal", second.withdraw()).await;
    let mut third = other.campaign(SentinelUid::from("third"));
    assert!(is_refused(&mut third).await);
    leadership.resign().await;
    let leadership: Leadership = within("the third after a withdrawal", third.elected()).await;
    assert!(leadership.is_held());
    leadership.resign().await;
    drop((first, third));
    within("nobody leads any more", async {
        while other.leader().await.expect("leader").is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// True if the candidate does not win in the time that a free place would take it.
async fn is_refused(candidate: &mut Campaign) -> bool {
    tokio::time::timeout(Duration::from_millis(700), candidate.elected()).await.is_err()
}

/// Requests are counted.
async fn requests<S: KvStore>(store: S) {
    let before = store.requests();
    store.get(&fresh("requests").child("clusterdata")).await.expect("get");
    assert!(store.requests() > before);
}
