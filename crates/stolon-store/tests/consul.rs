//! The store in Consul keeps the contract, while Consul is killed, paused and restarted.

mod away;
mod certificates;
mod outages;
mod slow;
mod suite;

use std::time::Duration;

use certificates::Certificates;
use stolon_model::{KeeperReport, SentinelUid};
use stolon_store::{
    Backend, Campaign, ClusterStore, ConsulAccess, ConsulStore, Key, KvClusterStore, KvStore, StoreError,
    StoreOptions,
};
use stolon_testkit::consul::Consul;
use stolon_testkit::etcd::Access;
use suite::{document, within};

const PATH: &str = "stolon/cluster/test";
const TIMEOUT: Duration = Duration::from_secs(10);
/// What Consul's own clients mark a lock with.
const FLAGS: u64 = 3_304_740_253_564_472_344;
/// A question is answered with one change; a session of ten seconds is renewed.
const PRICES: slow::Prices = slow::Prices { report: 1, news: 1, holding: 9 };

fn options(endpoint: &str, timeout: Duration) -> StoreOptions {
    StoreOptions {
        prefix: "/stolon/cluster".to_owned(),
        timeout,
        ..StoreOptions::new(Backend::Consul, endpoint, "test")
    }
}

fn kv(endpoint: &str, timeout: Duration) -> ConsulStore {
    ConsulStore::new(&options(endpoint, timeout)).expect("a store")
}

fn cluster(endpoint: &str, timeout: Duration) -> KvClusterStore<ConsulStore> {
    KvClusterStore::new(kv(endpoint, timeout), PATH)
}

impl outages::Server for Consul {
    fn pause(&self) {
        Consul::pause(self).expect("pause");
    }

    fn resume(&self) {
        Consul::resume(self).expect("resume");
    }

    fn kill(&mut self) {
        Consul::kill(self).expect("kill");
    }

    async fn restart(&mut self) {
        Consul::restart(self).expect("restart");
        self.wait_ready().await.expect("ready");
    }
}

/// A request that this project did not write, as Stolon's client makes it.
async fn raw(consul: &Consul, method: &str, path: &str, body: &str) -> String {
    let (status, body) =
        stolon_testkit::http(consul.client_port(), method, path, body).await.expect("an answer");
    assert!(status == 200 || status == 404, "{method} {path}: {status} {body}");
    body
}

fn field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!("\"{name}\":"))?;
    Some(rest.trim_start().split([',', '}', '\n']).next()?.trim().trim_matches('"'))
}

async fn stolons_session(consul: &Consul, behavior: &str) -> String {
    let body = format!(r#"{{"Behavior":"{behavior}","LockDelay":"1ms","TTL":"10s"}}"#);
    let created = raw(consul, "PUT", "/v1/session/create", &body).await;
    field(&created, "ID").expect("a session").to_owned()
}

#[tokio::test]
async fn conformance() {
    let consul = Consul::single().await.expect("consul");
    suite::run(|| kv(&consul.endpoint(), TIMEOUT)).await;
}

#[tokio::test]
async fn conformance_over_tls_with_a_client_certificate() {
    let certificates = Certificates::new();
    let consul = Consul::start(certificates.access(), None).await.expect("consul");
    let options = certificates.shown_in(options(&consul.endpoint(), TIMEOUT));
    suite::run(|| ConsulStore::new(&options).expect("a store")).await;
}

#[tokio::test]
async fn keys_and_sessions_are_those_that_stolon_knows() {
    let consul = Consul::single().await.expect("consul");
    let store = stolon_store::open(&options(&consul.endpoint(), TIMEOUT)).expect("a store");
    store.put_cluster_document(&document("a")).await.expect("put");
    let keys = async || raw(&consul, "GET", "/v1/kv/?keys", "").await;
    assert!(
        keys().await.contains(&format!("\"{PATH}/clusterdata\"")),
        "without a leading slash: {}",
        keys().await
    );
    // A report that Stolon's client has made: it is taken over, and lives with this process from now on.
    let key = format!("/v1/kv/{PATH}/keepers/info/keeper1");
    let theirs = stolons_session(&consul, "delete").await;
    assert_eq!(raw(&consul, "PUT", &format!("{key}?acquire={theirs}&flags={FLAGS}"), "{}").await, "true");
    let report = KeeperReport { uid: "keeper1".into(), ..KeeperReport::default() };
    for _ in 0..3 {
        store.put_keeper_report(&report, Duration::from_secs(5)).await.expect("put");
    }
    raw(&consul, "PUT", &format!("/v1/session/destroy/{theirs}"), "").await;
    assert_eq!(store.keeper_reports().await.expect("read").len(), 1);
    let pair = raw(&consul, "GET", &key, "").await;
    assert_eq!(field(&pair, "Flags"), Some(FLAGS.to_string().as_str()));
    let session = field(&pair, "Session").expect("a session").to_owned();
    let session = raw(&consul, "GET", &format!("/v1/session/info/{session}"), "").await;
    assert_eq!(
        (field(&session, "TTL"), field(&session, "Behavior")),
        (Some("10s"), Some("delete")),
        "the floor"
    );
    let sessions = raw(&consul, "GET", "/v1/session/list", "").await;
    assert_eq!(sessions.matches("\"ID\"").count(), 1, "each process keeps one session: {sessions}");

    // The session may be ended by others; the report comes back with a new one.
    let id = field(&session, "ID").expect("an id").to_owned();
    raw(&consul, "PUT", &format!("/v1/session/destroy/{id}"), "").await;
    assert!(store.keeper_reports().await.expect("read").is_empty());
    store.put_keeper_report(&report, Duration::from_secs(5)).await.expect("put");
    assert_eq!(store.keeper_reports().await.expect("read").len(), 1);
}

#[tokio::test]
async fn stolons_election_and_ours_exclude_each_other() {
    let consul = Consul::single().await.expect("consul");
    let store = cluster(&consul.endpoint(), TIMEOUT);
    let lock = format!("/v1/kv/{PATH}/sentinel-leader");
    let theirs = stolons_session(&consul, "release").await;
    let acquire = format!("{lock}?acquire={theirs}&flags={FLAGS}");
    assert_eq!(raw(&consul, "PUT", &acquire, "theirs").await, "true");
    assert_eq!(store.leader().await.expect("leader"), Some("theirs".into()));
    let mut ours = store.campaign(SentinelUid::from("ours"));
    assert!(is_refused(&mut ours).await);
    raw(&consul, "PUT", &format!("{lock}?release={theirs}&flags={FLAGS}"), "theirs").await;
    let leadership = within("ours after theirs", ours.elected()).await;
    let pair = raw(&consul, "GET", &lock, "").await;
    assert_eq!(field(&pair, "Value"), Some("b3Vycw=="), "the uid of the sentinel");
    assert_eq!(
        field(&pair, "Flags"),
        Some(FLAGS.to_string().as_str()),
        "or their client takes it for no lock"
    );
    assert_eq!(raw(&consul, "PUT", &acquire, "theirs").await, "false", "ours excludes theirs");
    leadership.resign().await;
    assert_eq!(store.leader().await.expect("leader"), None, "a name without a session leads nobody");
    within("theirs after ours", async {
        while raw(&consul, "PUT", &acquire, "theirs").await != "true" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn is_refused(candidate: &mut Campaign) -> bool {
    tokio::time::timeout(Duration::from_millis(700), candidate.elected()).await.is_err()
}

#[tokio::test]
async fn a_watch_does_not_sleep_through_a_restart() {
    let mut consul = Consul::single().await.expect("consul");
    let endpoint = consul.endpoint();
    outages::a_watch_does_not_sleep_through_a_restart(&mut consul, |timeout| cluster(&endpoint, timeout))
        .await;
}

#[tokio::test]
async fn every_call_ends_while_consul_is_paused_or_dead() {
    let mut consul = Consul::single().await.expect("consul");
    let endpoint = consul.endpoint();
    outages::every_call_ends_while_it_is_paused_or_dead(&mut consul, |timeout| cluster(&endpoint, timeout))
        .await;
}

#[tokio::test]
async fn a_leader_cut_off_from_consul_knows_and_comes_back() {
    let mut consul = Consul::single().await.expect("consul");
    let (endpoint, lease) = (consul.endpoint(), Duration::from_secs(10));
    let connect = |timeout| cluster(&endpoint, timeout);
    outages::a_leader_cut_off_knows_and_comes_back(&mut consul, lease, connect).await;
}

#[tokio::test]
async fn leadership_survives_a_restart_and_ends_when_its_key_is_removed() {
    let mut consul = Consul::single().await.expect("consul");
    let endpoint = consul.endpoint();
    let connect = |timeout| cluster(&endpoint, timeout);
    outages::leadership_survives_a_restart_and_ends_when_its_key_is_removed(&mut consul, PATH, connect).await;
}

#[tokio::test]
async fn everything_costs_one_round_trip() {
    let consul = Consul::single().await.expect("consul");
    let connect = |endpoint: &str| cluster(endpoint, Duration::from_secs(5));
    slow::everything_costs_one_round_trip(consul.client_port(), PRICES, connect).await;
}

#[tokio::test]
async fn leadership_is_kept_from_afar() {
    let consul = Consul::single().await.expect("consul");
    let connect = |endpoint: &str| cluster(endpoint, Duration::from_secs(5));
    slow::leadership_is_kept_from_afar(consul.client_port(), PRICES, connect).await;
}

#[tokio::test]
async fn refusals_are_said() {
    let consul = Consul::single().await.expect("consul");
    let store = kv(&consul.endpoint(), TIMEOUT);
    let error = store.put(&Key::new("a"), vec![b'x'; 600 << 10], None).await.expect_err("too large");
    assert!(matches!(&error, StoreError::Refused { hint, .. } if hint.contains("too large")), "{error:?}");
    assert!(store.get(&Key::new("a")).await.expect("it goes on").is_none());
    let two = StoreOptions { endpoints: "a:1,b:2".to_owned(), ..options("", TIMEOUT) };
    let error = ConsulStore::new(&two).err().expect("two endpoints");
    assert_eq!(error.to_string(), "consul does not support multiple endpoints");
}

#[tokio::test]
async fn a_token_lets_in() {
    const TOKEN: &str = "3f2504e0-4f89-11d3-9a0c-0305e82c3301";
    let consul = Consul::start(Access::Http, Some(TOKEN)).await.expect("consul");
    let with = |variable: &str, value: &str| {
        let consul_access = ConsulAccess::from_variables(|name| (name == variable).then(|| value.to_owned()));
        let options = StoreOptions { consul: consul_access, ..options(&consul.endpoint(), TIMEOUT) };
        ConsulStore::new(&options)
    };
    let key = Key::new("a");
    let put = async |store: ConsulStore| store.put(&key, b"x".to_vec(), None).await;
    within("the token to be known", async {
        while put(with("CONSUL_HTTP_TOKEN", TOKEN).expect("a store")).await.is_err() {}
    })
    .await;
    let stranger = with("", "").expect("a store");
    let error = stranger.put(&key, b"x".to_vec(), None).await.expect_err("without a token");
    assert!(
        matches!(&error, StoreError::Refused { hint, .. } if hint.contains("CONSUL_HTTP_TOKEN")),
        "{error:?}"
    );
    let error = stranger.put(&key, b"x".to_vec(), Some(TIMEOUT)).await.expect_err("without a token");
    assert!(
        matches!(&error, StoreError::Refused { hint, .. } if hint.contains("CONSUL_HTTP_TOKEN")),
        "{error:?}"
    );

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("write");
    let file = file.display().to_string();
    put(with("CONSUL_HTTP_TOKEN_FILE", &file).expect("a store")).await.expect("with a token from a file");
    let error = with("CONSUL_HTTP_TOKEN_FILE", "/no/such/file").err().expect("no file");
    assert!(matches!(&error, StoreError::Configuration { .. }), "{error:?}");
    let shown = format!("{:?}", ConsulAccess::from_variables(|_| Some("secret".to_owned())));
    assert_eq!(
        shown.matches("secret").count(),
        2,
        "only the file's and the namespace's name are shown: {shown}"
    );
}

#[tokio::test]
async fn tls_proves_both_sides() {
    let certificates = Certificates::new();
    let mut consul = Consul::start(certificates.access(), None).await.expect("consul");
    let good = certificates.shown_in(options(&consul.endpoint(), TIMEOUT));
    let ask = async |options: &StoreOptions| ConsulStore::new(options)?.get(&Key::new("a")).await;
    certificates::tls_proves_both_sides(&certificates, &good, ask).await;

    // Another authority signs all of them: what was read at the start proves nothing to anybody any more.
    let store = ConsulStore::new(&good).expect("a store");
    store.put(&Key::new("a"), b"1".to_vec(), None).await.expect("put");
    consul.kill().expect("kill");
    certificates.make();
    consul.restart().expect("restart");
    within("an answer with the new files", async { while store.get(&Key::new("a")).await.is_err() {} }).await;
}
