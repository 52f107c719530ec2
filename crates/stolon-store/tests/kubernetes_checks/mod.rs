//! What the store in Kubernetes keeps, on any API server.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use stolon_model::{Document as _, KeeperReport, ProxyReport, SentinelUid};
use stolon_store::{
    Backend, BootInstant, Campaign, Changes, ClusterStore, Contender, Entry, Expected, Key, KubernetesAccess,
    KubernetesStore, KvClusterStore, KvStore, Look, Publication, Revision, Selector, StoreError,
    StoreOptions, Version, Watch,
};
use stolon_testkit::kubernetes::Api;

use super::outages;
use super::suite::{self, document, within};

pub const CLUSTER: &str = "test";
pub const CONFIG_MAP: &str = "stolon-cluster-test";
pub const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
pub const TIMEOUT: Duration = Duration::from_secs(10);
pub const TTL: Duration = Duration::from_secs(20);

pub fn options(api: &impl Api, timeout: Duration) -> StoreOptions {
    let kubeconfig = api.programs_kubeconfig_file().expect("a kubeconfig file");
    let kubernetes = KubernetesAccess { kubeconfig: Some(kubeconfig), ..KubernetesAccess::default() };
    StoreOptions { timeout, kubernetes, ..StoreOptions::new(Backend::Kubernetes, "", CLUSTER) }
}

pub fn kv(api: &impl Api, timeout: Duration) -> KubernetesStore {
    KubernetesStore::new(&options(api, timeout)).expect("a store")
}

pub fn cluster(api: &impl Api, timeout: Duration) -> KvClusterStore<KubernetesStore> {
    KvClusterStore::new(kv(api, timeout), CLUSTER)
}

/// A client that reports for everybody, each in a pod of its own, as no program does.
struct Everybody<A> {
    store: KubernetesStore,
    api: Arc<A>,
}

impl<A: Api + 'static> Everybody<A> {
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
        self.api.make_pod(&pod, component, cluster).expect("a pod");
        Some(pod)
    }
}

#[async_trait]
impl<A: Api + 'static> KvStore for Everybody<A> {
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

impl<A: Api> outages::Server for A {
    fn pause(&self) {
        self.freeze().expect("pause");
    }

    fn resume(&self) {
        self.thaw().expect("resume");
    }

    fn kill(&mut self) {
        self.end().expect("kill");
    }

    async fn restart(&mut self) {
        self.begin_again().expect("restart");
    }
}

/// The suite, each program in a pod of its own.
pub async fn conformance(api: impl Api + 'static) {
    let api = Arc::new(api);
    let options = options(&*api, TIMEOUT);
    conformance_with(&api, &options).await;
}

/// The suite, with these options.
pub async fn conformance_with(api: &Arc<impl Api + 'static>, options: &StoreOptions) {
    let connect =
        || Everybody { store: KubernetesStore::new(options).expect("a store"), api: Arc::clone(api) };
    suite::run_on_documents(connect).await;
}

/// A pod with these labels, and the store as the program in it uses it.
pub fn in_pod(api: &impl Api, name: &str, component: &str) -> KvClusterStore<KubernetesStore> {
    api.make_pod(name, component, CLUSTER).expect("a pod");
    KvClusterStore::new(kv(api, TIMEOUT).in_pod(name), CLUSTER)
}

fn annotation(api: &impl Api, resource: &str, name: &str, annotation: &str) -> Option<String> {
    let object = api.find(resource, name).expect("asked")?;
    object["metadata"]["annotations"][annotation].as_str().map(str::to_owned)
}

pub async fn objects_are_those_that_stolon_knows(api: &impl Api) {
    let store = in_pod(api, "stolon-keeper-0", "stolon-keeper");
    assert_eq!(store.cluster_document().await, Ok(None));
    store.put_cluster_document(&document("a")).await.expect("put");
    let stored = annotation(api, "configmaps", CONFIG_MAP, "stolon-clusterdata");
    assert_eq!(stored, Some(document("a").to_json()));
    let report = KeeperReport { uid: "keeper0".into(), ..KeeperReport::default() };
    store.put_keeper_report(&report, TTL).await.expect("put");
    let stored = annotation(api, "pods", "stolon-keeper-0", "stolon-status");
    assert_eq!(stored, Some(report.to_json()));
    assert_eq!(store.keeper_reports().await.expect("read").keys().collect::<Vec<_>>(), [&"keeper0".into()]);

    // Stolon replaces the text and nothing else, and something else in the same object is none of our business.
    let read = store.cluster_document().await.expect("read").expect("there");
    api.write("configmaps", CONFIG_MAP, json!({ "metadata": { "labels": { "theirs": "1" } } }))
        .expect("written");
    let written = store
        .compare_and_put_cluster_document(&document("b"), Expected::Revision(read.revision))
        .await
        .expect("a label is no change of the document");
    let object = api.find("configmaps", CONFIG_MAP).expect("asked").expect("there");
    assert_eq!(object["metadata"]["labels"]["theirs"], "1", "what others write stays");
    let theirs = json!({ "metadata": { "annotations": { "stolon-clusterdata": document("c").to_json() } } });
    api.write("configmaps", CONFIG_MAP, theirs).expect("written");
    let refused = store.compare_and_put_cluster_document(&document("d"), Expected::Revision(written)).await;
    assert_eq!(refused, Err(StoreError::Conflict));
    assert_eq!(store.cluster_document().await.expect("read").expect("there").value, document("c"));
}

pub async fn a_report_stays_as_long_as_its_pod(api: &impl Api) {
    let store = in_pod(api, "proxy-a", "stolon-proxy");
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
    api.write("pods", "proxy-a", unlabelled).expect("written");
    within("a pod without its label", async {
        while is_known(&feed, "second") {
            feed.changed().await
        }
    })
    .await;
    api.write("pods", "proxy-a", json!({ "metadata": { "labels": { "component": "stolon-proxy" } } }))
        .expect("written");
    within("the pod again", async {
        while !is_known(&feed, "second") {
            feed.changed().await
        }
    })
    .await;
    api.remove_pod("proxy-a").expect("removed");
    within("the end of the pod", async {
        while is_known(&feed, "second") {
            feed.changed().await
        }
    })
    .await;
    let error = store.put_proxy_report(&report("third"), TTL).await.expect_err("there is no such pod");
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
}

pub async fn stolons_election_and_ours_exclude_each_other(api: &impl Api) {
    let store = cluster(api, TIMEOUT);
    let record = |holder: &str, renewed: &str, seconds: u64| {
        let text = format!(
            r#"{{"holderIdentity":"{holder}","leaseDurationSeconds":{seconds},"acquireTime":"2026-11-22T08:47:45Z","renewTime":"{renewed}","leaderTransitions":1}}"#
        );
        json!({ "metadata": { "annotations": { LEADER: text } } })
    };
    api.write("configmaps", CONFIG_MAP, record("theirs", "2026-11-22T08:47:45Z", 15)).expect("written");
    assert_eq!(store.leader().await, Ok(Some("theirs".into())));
    let mut ours = store.campaign(SentinelUid::from("ours"));
    assert!(is_refused(&mut ours, Duration::from_secs(10)).await);
    api.write("configmaps", CONFIG_MAP, record("theirs", "2026-11-22T08:47:47Z", 15)).expect("written");
    let renewed = BootInstant::now();
    // Longer than a lease since the campaign began, and not since it was renewed.
    assert!(is_refused(&mut ours, Duration::from_secs(10)).await, "it was renewed");
    let leadership = within("ours after theirs has expired", ours.elected()).await;
    assert!(renewed.elapsed() >= Duration::from_secs(14), "{:?}", renewed.elapsed());
    let text = annotation(api, "configmaps", CONFIG_MAP, LEADER).expect("a record");
    let found: serde_json::Value = serde_json::from_str(&text).expect("a record");
    assert_eq!(
        (&found["holderIdentity"], &found["leaderTransitions"]),
        (&json!("ours"), &json!(2)),
        "{text}"
    );
    leadership.resign().await;
    assert_eq!(store.leader().await, Ok(None));
    // One of theirs that takes what nobody holds excludes ours.
    api.write("configmaps", CONFIG_MAP, record("theirs", "2026-11-22T08:48:00Z", 15)).expect("written");
    assert!(is_refused(&mut ours, Duration::from_secs(2)).await);
}

async fn is_refused(candidate: &mut Campaign, time: Duration) -> bool {
    tokio::time::timeout(time, candidate.elected()).await.is_err()
}

pub async fn a_leader_goes_on_while_the_document_is_written_all_the_time(api: &impl Api) {
    let (store, writer) = (cluster(api, TIMEOUT), cluster(api, TIMEOUT));
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

pub async fn a_watch_does_not_sleep_through_a_restart(api: &mut impl Api) {
    let options = options(api, TIMEOUT);
    let connect = |timeout| connect(&options, timeout);
    outages::a_watch_does_not_sleep_through_a_restart(api, connect).await;
}

fn connect(options: &StoreOptions, timeout: Duration) -> KvClusterStore<KubernetesStore> {
    let options = StoreOptions { timeout, ..options.clone() };
    KvClusterStore::new(KubernetesStore::new(&options).expect("a store"), CLUSTER)
}

pub async fn every_call_ends_while_the_api_server_is_paused_or_dead(api: &mut impl Api) {
    let options = options(api, TIMEOUT);
    let connect = |timeout| connect(&options, timeout);
    outages::every_call_ends_while_it_is_paused_or_dead(api, connect).await;
}

pub async fn a_leader_cut_off_from_the_api_server_knows_and_comes_back(api: &mut impl Api) {
    let options = options(api, TIMEOUT);
    let connect = |timeout| connect(&options, timeout);
    outages::a_leader_cut_off_knows_and_comes_back(api, Duration::from_secs(15), connect).await;
}

pub async fn leadership_survives_a_restart_and_ends_when_its_record_is_removed(api: &mut impl Api) {
    let options = options(api, TIMEOUT);
    let connect = |timeout| connect(&options, timeout);
    outages::leadership_survives_a_restart_and_ends_when_its_key_is_removed(api, CLUSTER, connect).await;
}
