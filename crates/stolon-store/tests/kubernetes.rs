//! The store in Kubernetes keeps the contract, while the API server is killed, paused and restarted.

#[allow(dead_code, reason = "files are named by a kubeconfig here, not by flags")]
mod certificates;
mod outages;
#[allow(dead_code, reason = "some checks are for stores of any keys")]
mod suite;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certificates::Certificates;
use serde_json::json;
use stolon_model::{Document as _, KeeperReport, KeeperUid, ProxyReport, SentinelUid};
use stolon_store::{
    Backend, BootInstant, Campaign, Changes, ClusterStore, Contender, Entry, Expected, Key, KubernetesAccess,
    KubernetesStore, KvClusterStore, KvStore, Look, Publication, Revision, Selector, StoreError,
    StoreOptions, Version, Watch, WatchScope,
};
use stolon_testkit::kubernetes::{ApiServer, Gone};
use suite::{document, within};

const CLUSTER: &str = "test";
const CONFIG_MAP: &str = "stolon-cluster-test";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const TIMEOUT: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(20);

fn options(api: &ApiServer, timeout: Duration) -> StoreOptions {
    let kubeconfig = api.kubeconfig_file("config", json!({}), json!({})).expect("a kubeconfig file");
    let kubernetes = KubernetesAccess { kubeconfig: Some(kubeconfig), ..KubernetesAccess::default() };
    StoreOptions { timeout, kubernetes, ..StoreOptions::new(Backend::Kubernetes, "", CLUSTER) }
}

fn kv(api: &ApiServer, timeout: Duration) -> KubernetesStore {
    KubernetesStore::new(&options(api, timeout)).expect("a store")
}

fn cluster(api: &ApiServer, timeout: Duration) -> KvClusterStore<KubernetesStore> {
    KvClusterStore::new(kv(api, timeout), CLUSTER)
}

/// A client that reports for everybody, each in a pod of its own, as no program does.
struct Everybody {
    store: KubernetesStore,
    api: Arc<ApiServer>,
}

impl Everybody {
    /// The store as whoever reports under this key uses it.
    fn of(&self, key: &Key) -> KubernetesStore {
        self.pod(key).map_or_else(|| self.store.clone(), |pod| self.store.in_pod(&pod))
    }

    /// The pod of whoever reports under this key.
    fn pod(&self, key: &Key) -> Option<String> {
        let parts: Vec<&str> = key.as_str().split('/').collect();
        let [cluster, folder, "info", uid] = parts[..] else { return None };
        let component = match folder {
            "keepers" => "stolon-keeper",
            "proxies" => "stolon-proxy",
            _ => "stolon-sentinel",
        };
        let pod = format!("{cluster}-{component}-{uid}");
        self.api.ensure_pod(&pod, component, cluster);
        Some(pod)
    }
}

#[async_trait]
impl KvStore for Everybody {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.store.get(key).await
    }

    async fn list(&self, parent: &Key) -> Result<Vec<Entry>, StoreError> {
        self.store.list(parent).await
    }

    async fn look(&self, selector: &Selector, since: Version) -> Result<Look, StoreError> {
        self.store.look(selector, since).await
    }

    fn changes(&self, selector: Selector) -> Changes {
        self.store.changes(selector)
    }

    async fn publish(&self, publication: Publication) -> Result<Look, StoreError> {
        self.of(&publication.key).publish(publication).await
    }

    async fn put(&self, key: &Key, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), StoreError> {
        self.of(key).put(key, value, ttl).await
    }

    async fn compare_and_put(
        &self,
        key: &Key,
        value: Vec<u8>,
        expected: Expected,
    ) -> Result<Revision, StoreError> {
        self.store.compare_and_put(key, value, expected).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        if let (Some(pod), Some((folder, _))) = (self.pod(key), key.as_str().rsplit_once('/')) {
            // A report that cannot be read has the name of its pod.
            self.store.delete(&Key::new(folder).child(&pod)).await?;
        }
        self.store.delete(key).await
    }

    fn watch(&self, selectors: Vec<Selector>) -> Watch {
        self.store.watch(selectors)
    }

    async fn leader(&self, place: &Key) -> Result<Option<String>, StoreError> {
        self.store.leader(place).await
    }

    fn contender(&self, place: &Key, name: &str) -> Box<dyn Contender> {
        self.store.contender(place, name)
    }

    fn requests(&self) -> u64 {
        self.store.requests()
    }
}

impl outages::Server for ApiServer {
    fn pause(&self) {
        ApiServer::pause(self);
    }

    fn resume(&self) {
        ApiServer::resume(self);
    }

    fn kill(&mut self) {
        ApiServer::kill(self).expect("kill");
    }

    async fn restart(&mut self) {
        ApiServer::restart(self).expect("restart");
    }
}

#[tokio::test]
async fn conformance() {
    let api = Arc::new(ApiServer::start().expect("an API server"));
    let connect = || Everybody { store: kv(&api, TIMEOUT), api: Arc::clone(&api) };
    suite::run_on_documents(connect).await;
}

#[tokio::test]
async fn conformance_over_tls_with_a_client_certificate() {
    let certificates = Certificates::new();
    let api = Arc::new(ApiServer::with(certificates.access(), 0).expect("an API server"));
    let path = |name| certificates.path(name);
    let kubeconfig = api
        .kubeconfig_file(
            "tls-config",
            json!({ "certificate-authority": path("ca.pem") }),
            json!({ "client-certificate": path("client.pem"), "client-key": path("client.key") }),
        )
        .expect("a kubeconfig file");
    let options = with_kubeconfig(&api, kubeconfig);
    let connect =
        || Everybody { store: KubernetesStore::new(&options).expect("a store"), api: Arc::clone(&api) };
    suite::run_on_documents(connect).await;
}

fn with_kubeconfig(api: &ApiServer, kubeconfig: std::path::PathBuf) -> StoreOptions {
    let kubernetes = KubernetesAccess { kubeconfig: Some(kubeconfig), ..KubernetesAccess::default() };
    StoreOptions { kubernetes, ..options(api, TIMEOUT) }
}

/// A pod with these labels, and the store as the program in it uses it.
fn in_pod(api: &ApiServer, name: &str, component: &str) -> KvClusterStore<KubernetesStore> {
    api.ensure_pod(name, component, CLUSTER);
    KvClusterStore::new(kv(api, TIMEOUT).in_pod(name), CLUSTER)
}

fn annotation(api: &ApiServer, resource: &str, name: &str, annotation: &str) -> Option<String> {
    let object = api.object(resource, name)?;
    object["metadata"]["annotations"][annotation].as_str().map(str::to_owned)
}

#[tokio::test]
async fn objects_are_those_that_stolon_knows() {
    let api = ApiServer::start().expect("an API server");
    let store = in_pod(&api, "stolon-keeper-0", "stolon-keeper");
    assert_eq!(store.cluster_document().await, Ok(None));
    store.put_cluster_document(&document("a")).await.expect("put");
    let stored = annotation(&api, "configmaps", CONFIG_MAP, "stolon-clusterdata");
    assert_eq!(stored, Some(document("a").to_json()));
    let report = KeeperReport { uid: "keeper0".into(), ..KeeperReport::default() };
    store.put_keeper_report(&report, TTL).await.expect("put");
    let stored = annotation(&api, "pods", "stolon-keeper-0", "stolon-status");
    assert_eq!(stored, Some(report.to_json()));
    assert_eq!(store.keeper_reports().await.expect("read").keys().collect::<Vec<_>>(), [&"keeper0".into()]);

    // Stolon replaces the text and nothing else, and something else in the same object is none of our business.
    let read = store.cluster_document().await.expect("read").expect("there");
    api.merge("configmaps", CONFIG_MAP, json!({ "metadata": { "labels": { "theirs": "1" } } }));
    let written = store
        .compare_and_put_cluster_document(&document("b"), Expected::Revision(read.revision))
        .await
        .expect("a label is no change of the document");
    let object = api.object("configmaps", CONFIG_MAP).expect("there");
    assert_eq!(object["metadata"]["labels"]["theirs"], "1", "what others write stays");
    let theirs = json!({ "metadata": { "annotations": { "stolon-clusterdata": document("c").to_json() } } });
    api.merge("configmaps", CONFIG_MAP, theirs);
    let refused = store.compare_and_put_cluster_document(&document("d"), Expected::Revision(written)).await;
    assert_eq!(refused, Err(StoreError::Conflict));
    assert_eq!(store.cluster_document().await.expect("read").expect("there").value, document("c"));
}

#[tokio::test]
async fn a_report_stays_as_long_as_its_pod() {
    let api = ApiServer::start().expect("an API server");
    let store = in_pod(&api, "proxy-a", "stolon-proxy");
    let mut feed = store.follow_everything();
    let report = |uid: &str| ProxyReport { uid: uid.into(), ..ProxyReport::default() };
    let is_known = |feed: &stolon_store::EverythingFeed, uid: &str| {
        let seen = feed.latest().and_then(Result::ok);
        seen.is_some_and(|seen| seen.value.proxies.contains_key(&uid.into()))
    };
    store.put_proxy_report(&report("first"), TTL).await.expect("put");
    within("the first report", async {
        while !is_known(&feed, "first") {
            feed.changed().await
        }
    })
    .await;
    // The next program in the same pod: the one before it has ended.
    store.put_proxy_report(&report("second"), TTL).await.expect("put");
    within("the second report", async {
        while !is_known(&feed, "second") {
            feed.changed().await
        }
    })
    .await;
    assert!(!is_known(&feed, "first"));
    let unlabelled = json!({ "metadata": { "labels": { "component": null } } });
    api.merge("pods", "proxy-a", unlabelled);
    within("a pod without its label", async {
        while is_known(&feed, "second") {
            feed.changed().await
        }
    })
    .await;
    api.merge("pods", "proxy-a", json!({ "metadata": { "labels": { "component": "stolon-proxy" } } }));
    within("the pod again", async {
        while !is_known(&feed, "second") {
            feed.changed().await
        }
    })
    .await;
    api.delete_pod("proxy-a");
    within("the end of the pod", async {
        while is_known(&feed, "second") {
            feed.changed().await
        }
    })
    .await;
    let error = store.put_proxy_report(&report("third"), TTL).await.expect_err("there is no such pod");
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn stolons_election_and_ours_exclude_each_other() {
    let api = ApiServer::start().expect("an API server");
    let store = cluster(&api, TIMEOUT);
    let record = |holder: &str, renewed: &str, seconds: u64| {
        let text = format!(
            r#"{{"holderIdentity":"{holder}","leaseDurationSeconds":{seconds},"acquireTime":"2026-11-22T08:47:45Z","renewTime":"{renewed}","leaderTransitions":1}}"#
        );
        json!({ "metadata": { "annotations": { LEADER: text } } })
    };
    api.merge("configmaps", CONFIG_MAP, record("theirs", "2026-11-22T08:47:45Z", 15));
    assert_eq!(store.leader().await, Ok(Some("theirs".into())));
    let mut ours = store.campaign(SentinelUid::from("ours"));
    assert!(is_refused(&mut ours, Duration::from_secs(10)).await);
    api.merge("configmaps", CONFIG_MAP, record("theirs", "2026-11-22T08:47:47Z", 15));
    let renewed = BootInstant::now();
    // Longer than a lease since the campaign began, and not since it was renewed.
    assert!(is_refused(&mut ours, Duration::from_secs(10)).await, "it was renewed");
    let leadership = within("ours after theirs has expired", ours.elected()).await;
    assert!(renewed.elapsed() >= Duration::from_secs(14), "{:?}", renewed.elapsed());
    let text = annotation(&api, "configmaps", CONFIG_MAP, LEADER).expect("a record");
    let found: serde_json::Value = serde_json::from_str(&text).expect("a record");
    assert_eq!(
        (&found["holderIdentity"], &found["leaderTransitions"]),
        (&json!("ours"), &json!(2)),
        "{text}"
    );
    leadership.resign().await;
    assert_eq!(store.leader().await, Ok(None));
    // One of theirs that takes what nobody holds excludes ours.
    api.merge("configmaps", CONFIG_MAP, record("theirs", "2026-11-22T08:48:00Z", 15));
    assert!(is_refused(&mut ours, Duration::from_secs(2)).await);
}

async fn is_refused(candidate: &mut Campaign, time: Duration) -> bool {
    tokio::time::timeout(time, candidate.elected()).await.is_err()
}

#[tokio::test]
async fn a_leader_goes_on_while_the_document_is_written_all_the_time() {
    let api = ApiServer::start().expect("an API server");
    let (store, writer) = (cluster(&api, TIMEOUT), cluster(&api, TIMEOUT));
    let mut campaign = store.campaign(SentinelUid::from("first"));
    let leadership = within("leadership", campaign.elected()).await;
    let writing = async {
        for round in 0..u64::MAX {
            writer.put_cluster_document(&document(&format!("u{round}"))).await.expect("put");
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let longer_than_a_lease = Duration::from_secs(17);
    tokio::select! {
        () = writing => {}
        () = leadership.lost() => panic!("it was lost"),
        () = tokio::time::sleep(longer_than_a_lease) => {}
    }
    assert!(leadership.is_held());
    assert_eq!(store.leader().await, Ok(Some("first".into())));
}

#[tokio::test]
async fn a_watch_does_not_sleep_through_what_is_forgotten_or_cut_off() {
    for gone in [Gone::ByEvent, Gone::ByStatus] {
        let mut api = ApiServer::start().expect("an API server");
        let store = in_pod(&api, "keeper-0", "stolon-keeper");
        let mut watch = store.watch(WatchScope::Everything);
        within("the watch to open", watch.changed()).await;
        let report =
            |info: &str| KeeperReport { uid: "k".into(), info_uid: info.into(), ..KeeperReport::default() };
        for round in 0..4 {
            match round {
                0 => {}
                1 => api.drop_connections(),
                2 => {
                    // What is written while nobody watches is forgotten before anybody does again.
                    outages::Server::kill(&mut api);
                    api.merge(
                        "configmaps",
                        CONFIG_MAP,
                        json!({ "metadata": { "labels": { "round": "2" } } }),
                    );
                    api.forget_history(gone);
                    outages::Server::restart(&mut api).await;
                }
                _ => api.forget_history(gone),
            }
            let uid = format!("u{round}");
            within("a write", async { while store.put_cluster_document(&document(&uid)).await.is_err() {} })
                .await;
            within("a report", async { while store.put_keeper_report(&report(&uid), TTL).await.is_err() {} })
                .await;
            within(&uid, async {
                loop {
                    watch.changed().await;
                    if let Ok(seen) = store.everything().await
                        && seen.document.map(|read| read.value) == Some(document(&uid))
                        && seen
                            .keepers
                            .get(&KeeperUid::from("k"))
                            .is_some_and(|report| report.info_uid.as_str() == uid)
                    {
                        return;
                    }
                }
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_watch_does_not_sleep_through_a_restart() {
    let mut api = ApiServer::start().expect("an API server");
    let options = options(&api, TIMEOUT);
    let connect = |timeout| connect(&options, timeout);
    outages::a_watch_does_not_sleep_through_a_restart(&mut api, connect).await;
}

fn connect(options: &StoreOptions, timeout: Duration) -> KvClusterStore<KubernetesStore> {
    let options = StoreOptions { timeout, ..options.clone() };
    KvClusterStore::new(KubernetesStore::new(&options).expect("a store"), CLUSTER)
}

#[tokio::test]
async fn every_call_ends_while_the_api_server_is_paused_or_dead() {
    let mut api = ApiServer::start().expect("an API server");
    let options = options(&api, TIMEOUT);
    let connect = |timeout| connect(&options, timeout);
    outages::every_call_ends_while_it_is_paused_or_dead(&mut api, connect).await;
}

#[tokio::test]
async fn a_leader_cut_off_from_the_api_server_knows_and_comes_back() {
    let mut api = ApiServer::start().expect("an API server");
    let options = options(&api, TIMEOUT);
    let connect = |timeout| connect(&options, timeout);
    outages::a_leader_cut_off_knows_and_comes_back(&mut api, Duration::from_secs(15), connect).await;
}

#[tokio::test]
async fn leadership_survives_a_restart_and_ends_when_its_record_is_removed() {
    let mut api = ApiServer::start().expect("an API server");
    let options = options(&api, TIMEOUT);
    let connect = |timeout| connect(&options, timeout);
    outages::leadership_survives_a_restart_and_ends_when_its_key_is_removed(&mut api, CLUSTER, connect).await;
}

/// What is asked of the API server: it serves others, too.
#[tokio::test]
async fn nothing_is_asked_that_is_known() {
    let api = ApiServer::start().expect("an API server");
    let store = in_pod(&api, "proxy-a", "stolon-proxy");
    let other = in_pod(&api, "keeper-0", "stolon-keeper");
    store.put_cluster_document(&document("a")).await.expect("put");
    let (mut documents, mut all) = (store.follow_document(), store.follow_everything());
    within("the first reads", async {
        while documents.latest().is_none() || all.latest().is_none() {
            tokio::select! { () = documents.changed() => {}, () = all.changed() => {} }
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = store.requests();
    other.put_cluster_document(&document("b")).await.expect("put");
    let report = KeeperReport { uid: "k".into(), ..KeeperReport::default() };
    other.put_keeper_report(&report, TTL).await.expect("put");
    within("all of it", async {
        loop {
            let told = documents.latest().and_then(Result::ok).and_then(|seen| seen.value);
            let seen = all.latest().and_then(Result::ok).map(|seen| seen.value.keepers.len());
            if told.is_some_and(|read| read.value == document("b")) && seen == Some(1) {
                return;
            }
            tokio::select! { () = documents.changed() => {}, () = all.changed() => {} }
        }
    })
    .await;
    assert_eq!(store.requests() - before, 0, "news carry what changed");
    let proxy = ProxyReport { uid: "p".into(), ..ProxyReport::default() };
    store.publish_proxy_report(&proxy, TTL).await.expect("a report").expect("a document");
    assert_eq!(store.requests() - before, 2, "a report, and a look at the document");
    let read = documents.at_most(Duration::from_secs(600)).await.expect("known").value.expect("there");
    store
        .compare_and_put_cluster_document(&document("c"), Expected::Revision(read.revision))
        .await
        .expect("write");
    assert_eq!(store.requests() - before, 3, "a write on what is known is one request");
}

#[tokio::test]
async fn who_may_not_watch_looks_now_and_then() {
    let api = ApiServer::start().expect("an API server");
    for resource in ["configmaps", "pods"] {
        api.forbid("watch", resource);
    }
    api.forbid("list", "configmaps");
    let store = in_pod(&api, "keeper-0", "stolon-keeper");
    let mut feed = store.follow_document();
    store.put_cluster_document(&document("a")).await.expect("put");
    let is_known = |feed: &stolon_store::DocumentFeed| {
        feed.latest()
            .and_then(Result::ok)
            .and_then(|seen| seen.value)
            .is_some_and(|read| read.value == document("a"))
    };
    within("the document", async {
        while !is_known(&feed) {
            feed.changed().await
        }
    })
    .await;
    let mut campaign = store.campaign(SentinelUid::from("first"));
    within("leadership", campaign.elected()).await.resign().await;
}

#[tokio::test]
async fn refusals_are_said() {
    let api = ApiServer::start().expect("an API server");
    let store = in_pod(&api, "keeper-0", "stolon-keeper");
    let refused = |outcome: Result<(), StoreError>, said: &str| {
        let error = outcome.expect_err(said);
        let hint = stolon_model::Advise::hint(&error).unwrap_or_default().into_owned();
        assert!(
            matches!(error, StoreError::Refused { .. }) && format!("{error} {hint}").contains(said),
            "{error:?}"
        );
    };
    let long = format!(r#"{{"formatVersion":1,"cluster":{{"uid":"{}"}}}}"#, "x".repeat(256 << 10));
    let long = stolon_model::Document::from_json(&long).expect("a document");
    refused(store.put_cluster_document(&long).await, "256 KiB");
    api.forbid("patch", "pods");
    let report = KeeperReport { uid: "k".into(), ..KeeperReport::default() };
    refused(store.put_keeper_report(&report, TTL).await, "docs/kubernetes.md");
    let reader = cluster(&api, TIMEOUT);
    let error = reader.put_keeper_report(&report, TTL).await.expect_err("it has no pod");
    assert!(error.to_string().contains("POD_NAME"), "{error}");
    let odd = StoreOptions { cluster_name: "a/b".to_owned(), ..options(&api, TIMEOUT) };
    assert!(matches!(stolon_store::open(&odd).err(), Some(StoreError::Configuration { .. })));
    // A failure of the server's says nothing of what became of a write.
    api.fail(Some(503));
    let error = store.put_cluster_document(&document("a")).await.expect_err("it fails");
    assert!(matches!(error, StoreError::Unknown { .. } | StoreError::Unreachable { .. }), "{error:?}");
    api.fail(None);
    within("a write after that", async {
        while store.put_cluster_document(&document("a")).await.is_err() {}
    })
    .await;
}

#[tokio::test]
async fn a_pod_is_let_in_by_its_service_account_and_a_new_token_is_used_at_once() {
    let certificates = Certificates::new();
    let access = stolon_testkit::etcd::Access::Https {
        certificate: certificates.path("server.pem"),
        key: certificates.path("server.key"),
        client_authority: None,
    };
    let api = ApiServer::with(access, 0).expect("an API server");
    let account = api.path().join("serviceaccount");
    std::fs::create_dir(&account).expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(account.join(name), text).expect("write");
    std::fs::copy(certificates.path("ca.pem"), account.join("ca.crt")).expect("copy");
    write("namespace", "default");
    write("token", "first");
    api.demand_token("first");
    let kubernetes = KubernetesAccess {
        service_host: Some("127.0.0.1".into()),
        service_port: Some(api.port().to_string()),
        service_account: account.clone(),
        ..KubernetesAccess::default()
    };
    let options = StoreOptions { kubernetes, ..options(&api, TIMEOUT) };
    let store = stolon_store::open(&options).expect("a store");
    store.put_cluster_document(&document("a")).await.expect("it is let in");
    api.demand_token("second");
    let error = store.cluster_document().await.expect_err("the token is over");
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    write("token", "second");
    assert_eq!(store.cluster_document().await.expect("read").expect("there").value, document("a"));
    std::fs::copy(certificates.path("other-ca.pem"), account.join("ca.crt")).expect("copy");
    let stranger = stolon_store::open(&options).expect("a store");
    let error = stranger.cluster_document().await.expect_err("signed by somebody else");
    assert!(
        matches!(&error, StoreError::Unreachable { cause, .. } if cause.contains("certificate")),
        "{error:?}"
    );
}
