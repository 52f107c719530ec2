//! The store in etcd's version 2 interface keeps the contract, while etcd is killed, paused and restarted.

mod away;
mod certificates;
mod outages;
mod slow;
mod suite;

use std::time::Duration;

use certificates::Certificates;
use stolon_model::{KeeperReport, SentinelUid};
use stolon_store::{
    Backend, Campaign, ClusterStore, EtcdV2Store, Key, KvClusterStore, KvStore, StoreError, StoreOptions,
    WatchScope,
};
use stolon_testkit::etcd::Etcd;
use suite::{document, within};

const PATH: &str = "stolon/cluster/test";
const TIMEOUT: Duration = Duration::from_secs(10);
/// There are no transactions, and a question is answered with one change.
const PRICES: slow::Prices = slow::Prices { report: 2, news: 1, holding: 6 };

fn options(endpoints: &str, timeout: Duration) -> StoreOptions {
    StoreOptions {
        prefix: "/stolon/cluster".to_owned(),
        timeout,
        ..StoreOptions::new(Backend::Etcdv2, endpoints, "test")
    }
}

fn kv(endpoints: &str, timeout: Duration) -> EtcdV2Store {
    EtcdV2Store::new(&options(endpoints, timeout)).expect("a store")
}

fn cluster(endpoints: &str, timeout: Duration) -> KvClusterStore<EtcdV2Store> {
    KvClusterStore::new(kv(endpoints, timeout), PATH)
}

impl outages::Server for Etcd {
    fn pause(&self) {
        Etcd::pause(self, 0).expect("pause");
    }

    fn resume(&self) {
        Etcd::resume(self, 0).expect("resume");
    }

    fn kill(&mut self) {
        Etcd::kill(self, 0).expect("kill");
    }

    async fn restart(&mut self) {
        Etcd::restart(self, 0).expect("restart");
        self.wait_ready().await.expect("ready");
    }
}

/// A request that this project did not write, as Stolon's client makes it.
async fn raw(etcd: &Etcd, method: &str, path: &str, form: &str) -> String {
    let (_, body) = stolon_testkit::http(etcd.client_port(0), method, path, form).await.expect("an answer");
    body
}

fn field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!("\"{name}\":"))?;
    Some(rest.split([',', '}']).next()?.trim_matches('"'))
}

#[tokio::test]
async fn conformance() {
    let etcd = Etcd::single().await.expect("etcd");
    suite::run(|| kv(&etcd.endpoints(), TIMEOUT)).await;
}

#[tokio::test]
async fn conformance_over_tls_with_a_client_certificate() {
    let certificates = Certificates::new();
    let etcd = Etcd::start(1, certificates.access()).await.expect("etcd");
    let options = certificates.shown_in(options(&etcd.endpoints(), TIMEOUT));
    suite::run(|| EtcdV2Store::new(&options).expect("a store")).await;
}

#[tokio::test]
async fn a_dead_first_endpoint_of_three_is_left_and_a_watch_moves() {
    let mut etcd = Etcd::three().await.expect("etcd");
    let store = cluster(&etcd.endpoints(), Duration::from_secs(4));
    let mut watch = store.watch(WatchScope::ClusterData);
    within("the watch to open", watch.changed()).await;
    etcd.kill(0).expect("kill");
    let writer = cluster(&etcd.endpoint(1), TIMEOUT);
    within("the others to agree", async {
        while writer.put_cluster_document(&document("moved")).await.is_err() {}
    })
    .await;
    within("a wake and a read over another endpoint", async {
        loop {
            watch.changed().await;
            if let Ok(Some(read)) = store.cluster_document().await
                && read.value == document("moved")
            {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn keys_are_those_that_stolon_knows() {
    let etcd = Etcd::single().await.expect("etcd");
    let store = stolon_store::open(&options(&etcd.endpoints(), TIMEOUT)).expect("a store");
    store.put_cluster_document(&document("a")).await.expect("put");
    let found = raw(&etcd, "GET", &format!("/v2/keys/{PATH}/clusterdata"), "").await;
    assert_eq!(field(&found, "key"), Some(format!("/{PATH}/clusterdata").as_str()), "{found}");
    assert_eq!(field(&found, "ttl"), None, "{found}");
    let key = format!("/v2/keys/{PATH}/keepers/info/keeper1");
    raw(&etcd, "PUT", &key, "value=%7B%7D&ttl=20").await;
    let report = KeeperReport { uid: "keeper1".into(), ..KeeperReport::default() };
    store.put_keeper_report(&report, Duration::from_secs(5)).await.expect("put over Stolon's");
    let found = raw(&etcd, "GET", &key, "").await;
    assert!(matches!(field(&found, "ttl"), Some("19" | "20")), "the floor: {found}");
    // A change that somebody else makes with a condition, as Stolon's sentinel does.
    let expected = store.cluster_document().await.expect("read").expect("there").revision;
    let swap = format!("value=null&prevExist=true&prevIndex={}", expected.0);
    let swapped = raw(&etcd, "PUT", &format!("/v2/keys/{PATH}/clusterdata"), &swap).await;
    assert_eq!(field(&swapped, "action"), Some("compareAndSwap"), "{swapped}");
    assert_eq!(store.cluster_document().await.expect("read"), None);
    assert_eq!("etcd".parse(), Ok(Backend::Etcdv2), "Stolon's other name");
}

#[tokio::test]
async fn stolons_election_and_ours_exclude_each_other() {
    let etcd = Etcd::single().await.expect("etcd");
    let store = cluster(&etcd.endpoints(), TIMEOUT);
    let lock = format!("/v2/keys/{PATH}/sentinel-leader");
    let theirs = raw(&etcd, "PUT", &lock, "value=theirs&ttl=20&prevExist=false").await;
    assert_eq!(store.leader().await.expect("leader"), Some("theirs".into()));
    let mut ours = store.campaign(SentinelUid::from("ours"));
    assert!(is_refused(&mut ours).await);
    let renewal =
        format!("value=theirs&ttl=20&prevIndex={}", field(&theirs, "modifiedIndex").expect("an index"));
    let (renewed, requests) = (raw(&etcd, "PUT", &lock, &renewal).await, store.requests());
    assert_eq!(field(&renewed, "action"), Some("compareAndSwap"), "{renewed}");
    assert!(is_refused(&mut ours).await);
    assert!(store.requests() - requests <= 1, "a renewal of theirs is no reason to try");
    raw(&etcd, "DELETE", &lock, "").await;
    let leadership = within("ours after theirs", ours.elected()).await;
    let refused = raw(&etcd, "PUT", &lock, "value=theirs&ttl=20&prevExist=false").await;
    assert_eq!(field(&refused, "errorCode"), Some("105"), "ours excludes theirs: {refused}");
    leadership.resign().await;
    assert_eq!(store.leader().await.expect("leader"), None);
    // One that ends without a word is succeeded when its time is over.
    raw(&etcd, "PUT", &lock, "value=theirs&ttl=2&prevExist=false").await;
    within("ours after theirs has expired", ours.elected()).await;
}

async fn is_refused(candidate: &mut Campaign) -> bool {
    tokio::time::timeout(Duration::from_millis(700), candidate.elected()).await.is_err()
}

/// etcd remembers a thousand events of all keys together.
#[tokio::test]
async fn a_watch_does_not_sleep_through_what_etcd_has_forgotten() {
    let etcd = Etcd::single().await.expect("etcd");
    let store = cluster(&etcd.endpoints(), TIMEOUT);
    let mut watch = store.watch(WatchScope::ClusterData);
    within("the watch to open", watch.changed()).await;
    for number in 0..1_100 {
        raw(&etcd, "PUT", "/v2/keys/elsewhere", &format!("value={number}")).await;
    }
    for uid in ["one", "two"] {
        store.put_cluster_document(&document(uid)).await.expect("put");
        within(uid, async {
            loop {
                watch.changed().await;
                if store.cluster_document().await.expect("read").expect("there").value == document(uid) {
                    return;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_watch_does_not_sleep_through_a_restart() {
    let mut etcd = Etcd::single().await.expect("etcd");
    let endpoint = etcd.endpoints();
    outages::a_watch_does_not_sleep_through_a_restart(&mut etcd, |timeout| cluster(&endpoint, timeout)).await;
}

#[tokio::test]
async fn every_call_ends_while_etcd_is_paused_or_dead() {
    let mut etcd = Etcd::single().await.expect("etcd");
    let endpoint = etcd.endpoints();
    outages::every_call_ends_while_it_is_paused_or_dead(&mut etcd, |timeout| cluster(&endpoint, timeout))
        .await;
}

#[tokio::test]
async fn a_leader_cut_off_from_etcd_knows_and_comes_back() {
    let mut etcd = Etcd::single().await.expect("etcd");
    let (endpoint, lease) = (etcd.endpoints(), Duration::from_secs(20));
    let connect = |timeout| cluster(&endpoint, timeout);
    outages::a_leader_cut_off_knows_and_comes_back(&mut etcd, lease, connect).await;
}

#[tokio::test]
async fn leadership_survives_a_restart_and_ends_when_its_key_is_removed() {
    let mut etcd = Etcd::single().await.expect("etcd");
    let endpoint = etcd.endpoints();
    let connect = |timeout| cluster(&endpoint, timeout);
    outages::leadership_survives_a_restart_and_ends_when_its_key_is_removed(&mut etcd, PATH, connect).await;
}

#[tokio::test]
async fn everything_costs_one_round_trip() {
    let etcd = Etcd::single().await.expect("etcd");
    let connect = |endpoint: &str| cluster(endpoint, Duration::from_secs(5));
    slow::everything_costs_one_round_trip(etcd.client_port(0), PRICES, connect).await;
}

#[tokio::test]
async fn leadership_is_kept_from_afar() {
    let etcd = Etcd::single().await.expect("etcd");
    let connect = |endpoint: &str| cluster(endpoint, Duration::from_secs(5));
    slow::leadership_is_kept_from_afar(etcd.client_port(0), PRICES, connect).await;
}

#[tokio::test]
async fn refusals_are_said() {
    let etcd = Etcd::single().await.expect("etcd");
    let store = kv(&etcd.endpoints(), TIMEOUT);
    store.put(&Key::new("a/b"), b"x".to_vec(), None).await.expect("put");
    let error = store.put(&Key::new("a"), b"x".to_vec(), None).await.expect_err("it has keys below it");
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    let error = store.put(&Key::new("c"), vec![255], None).await.expect_err("no text");
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn tls_proves_both_sides() {
    let certificates = Certificates::new();
    let etcd = Etcd::start(1, certificates.access()).await.expect("etcd");
    let good = certificates.shown_in(options(&etcd.endpoints(), TIMEOUT));
    let ask = async |options: &StoreOptions| EtcdV2Store::new(options)?.get(&Key::new("a")).await;
    certificates::tls_proves_both_sides(&certificates, &good, ask).await;
}
