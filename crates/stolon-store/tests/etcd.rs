//! The store in etcd keeps the contract, while etcd is killed, paused, restarted and compacted.

mod away;
mod certificates;
mod slow;
mod suite;

use std::time::{Duration, Instant};

use away::learns_that_the_store_is_away;
use certificates::Certificates;
use etcd_client::{Client, CompactionOptions, GetOptions, PutOptions, ResignOptions};
use stolon_model::{KeeperReport, SentinelUid};
use stolon_store::{
    Backend, Campaign, ClusterStore, EtcdStore, Expected, Key, KvClusterStore, KvStore, StoreError,
    StoreOptions, WatchScope,
};
use stolon_testkit::etcd::Etcd;
use suite::{document, within};

const PATH: &str = "stolon/cluster/test";
const TIMEOUT: Duration = Duration::from_secs(10);
const PRICES: slow::Prices = slow::Prices { report: 1, news: 0, holding: 4 };

fn options(endpoints: &str, timeout: Duration) -> StoreOptions {
    StoreOptions { timeout, ..StoreOptions::new(Backend::Etcdv3, endpoints, "test") }
}

fn kv(endpoints: &str, timeout: Duration) -> EtcdStore {
    EtcdStore::new(&options(endpoints, timeout)).expect("a store")
}

fn cluster(endpoints: &str, timeout: Duration) -> KvClusterStore<EtcdStore> {
    KvClusterStore::new(kv(endpoints, timeout), PATH)
}

async fn raw(endpoint: &str) -> Client {
    Client::connect([endpoint], None).await.expect("a plain client")
}

async fn raw_keys(client: &mut Client) -> Vec<String> {
    let options = GetOptions::new().with_all_keys().with_keys_only();
    let answer = client.get("", Some(options)).await.expect("all keys");
    answer.kvs().iter().map(|entry| entry.key_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn conformance() {
    let etcd = Etcd::single().await.expect("etcd");
    suite::run(|| kv(&etcd.endpoints(), TIMEOUT)).await;
}

#[tokio::test]
async fn conformance_with_a_dead_first_endpoint_of_three() {
    let mut etcd = Etcd::three().await.expect("etcd");
    etcd.kill(0).expect("kill");
    suite::run(|| kv(&etcd.endpoints(), TIMEOUT)).await;
}

#[tokio::test]
async fn keys_and_leases_are_those_that_stolon_knows() {
    let etcd = Etcd::single().await.expect("etcd");
    let mut raw = raw(&etcd.endpoint(0)).await;
    let store = stolon_store::open(&options(&etcd.endpoints(), TIMEOUT)).expect("a store");
    store.put_cluster_document(&document("a")).await.expect("put");
    let report = KeeperReport { uid: "keeper1".into(), ..KeeperReport::default() };
    for _ in 0..5 {
        store.put_keeper_report(&report, Duration::from_secs(5)).await.expect("put");
    }
    let leases = raw.leases().await.expect("leases");
    assert_eq!(leases.leases().len(), 1, "each process keeps one lease");
    let first = leases.leases()[0].id();
    let time = raw.lease_time_to_live(first, None).await.expect("its time");
    assert_eq!(time.granted_ttl(), 20, "the floor");

    // The lease may be ended by others; the report comes back with a new one.
    raw.lease_revoke(first).await.expect("revoke");
    assert!(store.keeper_reports().await.expect("read").is_empty());
    store.put_keeper_report(&report, Duration::from_secs(5)).await.expect("put");
    assert_eq!(store.keeper_reports().await.expect("read").len(), 1);
    // Another time to live is another lease.
    store.put_keeper_report(&report, Duration::from_millis(30_500)).await.expect("put");
    let key = format!("{PATH}/keepers/info/keeper1");
    let lease = raw.get(key.as_str(), None).await.expect("get").kvs()[0].lease();
    assert_eq!(raw.lease_time_to_live(lease, None).await.expect("its time").granted_ttl(), 31);

    let mut campaign = store.campaign(SentinelUid::from("5e5e5e5e"));
    let leadership = within("leadership", campaign.elected()).await;
    let below = GetOptions::new().with_prefix();
    let candidates = raw.get(format!("{PATH}/sentinel-leader/"), Some(below)).await.expect("get");
    let [candidate] = candidates.kvs() else { panic!("one candidate: {candidates:?}") };
    assert_eq!(candidate.value(), b"5e5e5e5e");
    assert_eq!(candidate.key_str().expect("text"), format!("{PATH}/sentinel-leader/{:x}", candidate.lease()));
    assert_eq!(raw.lease_time_to_live(candidate.lease(), None).await.expect("its time").granted_ttl(), 20);
    let mut other = store.campaign(SentinelUid::from("6f6f6f6f"));
    assert!(is_refused(&mut other).await);
    assert_eq!(raw_keys(&mut raw).await.len(), 4, "candidates have keys, too");
    other.withdraw().await;
    assert_eq!(raw_keys(&mut raw).await.len(), 3, "a withdrawal is known when it returns");
    leadership.resign().await;
    assert_eq!(raw_keys(&mut raw).await, [format!("{PATH}/clusterdata"), key]);
}

#[tokio::test]
async fn etcds_own_election_and_ours_exclude_each_other() {
    let etcd = Etcd::single().await.expect("etcd");
    let mut raw = raw(&etcd.endpoint(0)).await;
    let place = format!("{PATH}/sentinel-leader");
    let store = cluster(&etcd.endpoints(), TIMEOUT);

    let theirs = raw.lease_grant(20, None).await.expect("lease").id();
    let won = raw.campaign(place.as_str(), "theirs", theirs).await.expect("campaign");
    assert_eq!(store.leader().await.expect("leader"), Some("theirs".into()));
    let mut ours = store.campaign(SentinelUid::from("ours"));
    assert!(is_refused(&mut ours).await);
    let leader = won.leader().expect("a leader").clone();
    raw.resign(Some(ResignOptions::new().with_leader(leader))).await.expect("resign");
    let leadership = within("ours after theirs", ours.elected()).await;
    assert_eq!(raw.leader(place.as_str()).await.expect("leader").kv().expect("a leader").value(), b"ours");

    let mut election = raw.election_client();
    let theirs_again = tokio::spawn(async move { election.campaign(place.as_str(), "theirs", theirs).await });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!theirs_again.is_finished(), "ours excludes theirs");
    assert!(leadership.is_held());
    leadership.resign().await;
    within("theirs after ours", theirs_again).await.expect("task").expect("campaign");
    assert_eq!(store.leader().await.expect("leader"), Some("theirs".into()));
}

async fn is_refused(candidate: &mut Campaign) -> bool {
    tokio::time::timeout(Duration::from_millis(700), candidate.elected()).await.is_err()
}

#[tokio::test]
async fn a_watch_does_not_sleep_through_a_restart() {
    let mut etcd = Etcd::single().await.expect("etcd");
    let store = cluster(&etcd.endpoints(), TIMEOUT);
    let (mut watch, mut feed) = (store.watch(WatchScope::ClusterData), store.follow_document());
    store.put_cluster_document(&document("u0")).await.expect("put");
    seen(&store, &mut watch, "u0").await;
    for round in 1..=3 {
        within("an answer", async { while feed.at_most(TIMEOUT).await.is_err() {} }).await;
        etcd.kill(0).expect("kill");
        learns_that_the_store_is_away(&mut feed).await;
        etcd.restart(0).expect("restart");
        etcd.wait_ready().await.expect("ready");
        let uid = format!("u{round}");
        // Written by somebody else, as soon as that is possible at all, and then compacted away.
        let mut raw = raw(&etcd.endpoint(0)).await;
        let json = stolon_model::Document::to_json(&document(&uid));
        let key = format!("{PATH}/clusterdata");
        let put = raw.put(key.as_str(), json, None).await.expect("put");
        let now = put.header().expect("a header").revision();
        raw.compact(now, Some(CompactionOptions::new().with_physical())).await.expect("compact");
        seen(&store, &mut watch, &uid).await;
    }
    // And while nothing breaks, it goes on.
    store.put_cluster_document(&document("last")).await.expect("put");
    seen(&store, &mut watch, "last").await;
}

async fn seen(store: &KvClusterStore<EtcdStore>, watch: &mut stolon_store::Watch, uid: &str) {
    within(&format!("a wake after the write of {uid}"), async {
        loop {
            watch.changed().await;
            // The connection may break at this very moment: then it wakes again.
            if let Ok(Some(read)) = store.cluster_document().await
                && read.value == document(uid)
            {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn every_call_ends_while_etcd_is_paused_or_dead() {
    let timeout = Duration::from_secs(1);
    let mut etcd = Etcd::single().await.expect("etcd");
    let store = cluster(&etcd.endpoints(), timeout);
    store.put_cluster_document(&document("a")).await.expect("put");
    let read = store.cluster_document().await.expect("read").expect("there");
    etcd.pause(0).expect("pause");
    let begun = Instant::now();
    let expected = Expected::Revision(read.revision);
    let error = store.compare_and_put_cluster_document(&document("b"), expected).await.expect_err("paused");
    assert!(matches!(error, StoreError::Unknown { .. }), "the write was sent: {error:?}");
    let error = store.cluster_document().await.expect_err("paused");
    assert!(matches!(error, StoreError::Timeout { .. }), "{error:?}");
    assert!(error.to_string().contains("1s (--store-timeout)"), "{error}");
    let error = store.put_cluster_document(&document("c")).await.expect_err("paused");
    assert!(matches!(error, StoreError::Timeout { .. }), "over no connection nothing is sent: {error:?}");
    let error = store.leader().await.expect_err("paused");
    assert!(matches!(error, StoreError::Timeout { .. }), "{error:?}");
    // Four calls of one second; the bound only says that none of them hangs.
    assert!(begun.elapsed() < Duration::from_secs(30));

    etcd.resume(0).expect("resume");
    let now = within("an answer after the pause", async {
        loop {
            match store.cluster_document().await {
                Ok(read) => return read.expect("there"),
                Err(error) => assert!(
                    matches!(error, StoreError::Timeout { .. } | StoreError::Unreachable { .. }),
                    "{error:?}"
                ),
            }
        }
    })
    .await;
    assert!(now.value == document("a") || now.value == document("b"), "{:?}", now.value);

    etcd.kill(0).expect("kill");
    let error = store.cluster_document().await.expect_err("dead");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&etcd.endpoint(0)), "{error}");
    assert!(stolon_model::Advise::hint(&error).is_some(), "{error}");
    let error = store.put_cluster_document(&document("d")).await.expect_err("dead");
    assert!(matches!(error, StoreError::Unreachable { .. }), "nothing was sent: {error:?}");
    etcd.restart(0).expect("restart");
    etcd.wait_ready().await.expect("ready");
    store.put_cluster_document(&document("e")).await.expect("put after the restart");
}

#[tokio::test]
async fn a_paused_first_endpoint_of_three_does_not_use_up_the_time() {
    let etcd = Etcd::three().await.expect("etcd");
    etcd.pause(0).expect("pause");
    let store = cluster(&etcd.endpoints(), Duration::from_secs(4));
    // The other two may have to elect a leader first.
    within("the others to agree", async {
        while store.put_cluster_document(&document("a")).await.is_err() {}
    })
    .await;
    assert!(store.cluster_document().await.expect("read").is_some());

    // The endpoint in use pauses: reads turn to another within their time.
    let paused = 1;
    etcd.resume(0).expect("resume");
    etcd.pause(paused).expect("pause");
    within("reads over another endpoint", async { while store.cluster_document().await.is_err() {} }).await;
    // They may have to elect a leader once more: a write that gets no answer is followed by a read.
    within("a write over another endpoint", async {
        loop {
            let Ok(read) = store.cluster_document().await else { continue };
            let read = read.expect("there");
            let expected = Expected::Revision(read.revision);
            match store.compare_and_put_cluster_document(&document("b"), expected).await {
                _ if read.value == document("b") => return,
                Ok(_) => return,
                Err(StoreError::Unknown { .. } | StoreError::Timeout { .. } | StoreError::Conflict) => {}
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
    assert_eq!(store.cluster_document().await.expect("read").expect("there").value, document("b"));
}

#[tokio::test]
async fn a_watch_moves_to_another_endpoint() {
    let mut etcd = Etcd::three().await.expect("etcd");
    let watcher = cluster(&etcd.endpoints(), TIMEOUT);
    let mut watch = watcher.watch(WatchScope::ClusterData);
    within("the watch to open", watch.changed()).await;
    etcd.kill(0).expect("kill");
    let writer = cluster(&etcd.endpoint(1), TIMEOUT);
    within("the others to agree", async {
        while writer.put_cluster_document(&document("moved")).await.is_err() {}
    })
    .await;
    seen(&watcher, &mut watch, "moved").await;
}

#[tokio::test]
async fn a_leader_cut_off_from_etcd_knows_before_a_successor_can_win() {
    let etcd = Etcd::single().await.expect("etcd");
    let store = cluster(&etcd.endpoints(), Duration::from_secs(2));
    let mut campaign = store.campaign(SentinelUid::from("first"));
    let leadership = within("leadership", campaign.elected()).await;
    let paused = Instant::now();
    etcd.pause(0).expect("pause");
    within("the loss", leadership.lost()).await;
    assert!(!leadership.is_held());
    let known_after = paused.elapsed();
    assert!(known_after < Duration::from_secs(20), "known after {known_after:?}, the lease is 20 s");
    etcd.resume(0).expect("resume");
    drop(leadership);
    // It takes part again by itself.
    let leadership = within("leadership again", campaign.elected()).await;
    assert!(leadership.is_held());
    assert_eq!(store.leader().await.expect("leader"), Some("first".into()));
}

#[tokio::test]
async fn leadership_survives_a_restart_and_ends_when_its_key_is_removed() {
    let mut etcd = Etcd::single().await.expect("etcd");
    let store = cluster(&etcd.endpoints(), Duration::from_secs(2));
    let mut campaign = store.campaign(SentinelUid::from("first"));
    let leadership = within("leadership", campaign.elected()).await;
    etcd.kill(0).expect("kill");
    etcd.restart(0).expect("restart");
    etcd.wait_ready().await.expect("ready");
    assert!(leadership.is_held());
    assert_eq!(store.leader().await.expect("leader"), Some("first".into()));
    let mut other = store.campaign(SentinelUid::from("second"));
    assert!(is_refused(&mut other).await);
    let mut raw = raw(&etcd.endpoint(0)).await;
    for key in raw_keys(&mut raw).await {
        raw.delete(key, None).await.expect("delete");
    }
    within("the loss", leadership.lost()).await;
}

#[tokio::test]
async fn refusals_are_said() {
    let etcd = Etcd::single().await.expect("etcd");
    let store = kv(&etcd.endpoints(), TIMEOUT);
    // etcd takes requests of at most 1.5 MiB.
    let error = store.put(&Key::new("a"), vec![b'x'; 4 << 20], None).await.expect_err("too large");
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("larger than max"), "{error}");
    assert!(store.get(&Key::new("a")).await.expect("the connection goes on").is_none());
    let mut raw = raw(&etcd.endpoint(0)).await;
    raw.put("a", "x", Some(PutOptions::new())).await.expect("put");
    assert!(store.get(&Key::new("a")).await.expect("get").is_some());
}

#[tokio::test]
async fn tls_proves_both_sides() {
    let certificates = Certificates::new();
    let etcd = Etcd::start(1, certificates.access()).await.expect("etcd");
    let good = certificates.shown_in(options(&etcd.endpoints(), TIMEOUT));
    let ask = async |options: &StoreOptions| EtcdStore::new(options)?.get(&Key::new("a")).await;
    certificates::tls_proves_both_sides(&certificates, &good, ask).await;
    let no_certificate = StoreOptions { ca_file: Some(certificates.path("client.key")), ..good };
    let error = ask(&no_certificate).await.expect_err("a key is no certificate");
    assert!(error.to_string().contains("no certificate"), "{error}");
}

#[tokio::test]
async fn certificates_that_were_replaced_are_used() {
    let certificates = Certificates::new();
    let mut etcd = Etcd::start(1, certificates.access()).await.expect("etcd");
    let options = certificates.shown_in(options(&etcd.endpoints(), TIMEOUT));
    let store = EtcdStore::new(&options).expect("a store");
    let key = Key::new("a");
    within("the first answer", async { while store.put(&key, b"1".to_vec(), None).await.is_err() {} }).await;

    // Files that make no sense do no harm, also not to a new connection.
    etcd.kill(0).expect("kill");
    let good = std::fs::read(certificates.path("client.key")).expect("read");
    std::fs::write(certificates.path("client.key"), "half a key").expect("write");
    etcd.restart(0).expect("restart");
    within("an answer with the old files", async { while store.get(&key).await.is_err() {} }).await;
    std::fs::write(certificates.path("client.key"), good).expect("write");

    // Another authority signs all of them: what was read at the start proves nothing to anybody any more.
    etcd.kill(0).expect("kill");
    certificates.make();
    etcd.restart(0).expect("restart");
    within("an answer with the new files", async { while store.get(&key).await.is_err() {} }).await;
    assert_eq!(store.get(&key).await.expect("get").expect("there").value, b"1");
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
