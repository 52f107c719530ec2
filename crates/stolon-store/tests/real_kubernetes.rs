//! The store in Kubernetes on a real API server: `cargo xtask kubernetes` builds one and runs this.

mod away;
mod kubernetes_checks;
mod outages;
#[allow(dead_code, reason = "some checks are for stores of any keys")]
mod suite;

use kubernetes_checks::{CLUSTER, TIMEOUT, TTL, options};
use stolon_model::{Document as _, KeeperReport, SentinelUid};
use stolon_store::{
    ClusterStore as _, KubernetesAccess, KubernetesStore, KvClusterStore, StoreError, StoreOptions,
};
use stolon_testkit::kubernetes::real::{Names, RealApiServer};
use stolon_testkit::kubernetes::{Api, real};
use suite::{document, within};

/// One whose Roles hold for the cluster of the checks.
async fn api() -> RealApiServer {
    RealApiServer::start(Names::One(CLUSTER)).await.expect("an API server")
}

#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn conformance() {
    let api = RealApiServer::start(Names::Any).await.expect("an API server");
    kubernetes_checks::conformance(api).await;
}

#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn objects_are_those_that_stolon_knows() {
    kubernetes_checks::objects_are_those_that_stolon_knows(&api().await).await;
}

#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn a_report_stays_as_long_as_its_pod() {
    kubernetes_checks::a_report_stays_as_long_as_its_pod(&api().await).await;
}

#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn stolons_election_and_ours_exclude_each_other() {
    kubernetes_checks::stolons_election_and_ours_exclude_each_other(&api().await).await;
}

#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn a_leader_goes_on_while_the_document_is_written_all_the_time() {
    kubernetes_checks::a_leader_goes_on_while_the_document_is_written_all_the_time(&api().await).await;
}

#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn a_watch_does_not_sleep_through_a_restart() {
    kubernetes_checks::a_watch_does_not_sleep_through_a_restart(&mut api().await).await;
}

#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn every_call_ends_while_the_api_server_is_paused_or_dead() {
    kubernetes_checks::every_call_ends_while_the_api_server_is_paused_or_dead(&mut api().await).await;
}

#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn a_leader_cut_off_from_the_api_server_knows_and_comes_back() {
    kubernetes_checks::a_leader_cut_off_from_the_api_server_knows_and_comes_back(&mut api().await).await;
}

#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn leadership_survives_a_restart_and_ends_when_its_record_is_removed() {
    let mut api = api().await;
    kubernetes_checks::leadership_survives_a_restart_and_ends_when_its_record_is_removed(&mut api).await;
}

fn store_of(access: KubernetesAccess, api: &RealApiServer) -> KvClusterStore<KubernetesStore> {
    let options = StoreOptions { kubernetes: access, ..options(api, TIMEOUT) };
    KvClusterStore::new(KubernetesStore::new(&options).expect("a store").in_pod("keeper-0"), CLUSTER)
}

/// What a pod with this service account finds.
fn in_cluster(api: &RealApiServer, account: &str) -> KubernetesAccess {
    KubernetesAccess {
        service_host: Some("127.0.0.1".into()),
        service_port: Some(api.port().to_string()),
        service_account: api.service_account_directory(account).expect("an account"),
        ..KubernetesAccess::default()
    }
}

/// Keepers and proxies get a Role of their own: they cannot change the cluster data, whoever takes one over.
#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn a_member_reads_the_document_and_writes_its_report_alone() {
    let api = api().await;
    api.make_pod("keeper-0", "stolon-keeper", CLUSTER).expect("a pod");
    let sentinel = store_of(in_cluster(&api, real::SENTINEL), &api);
    let member = store_of(in_cluster(&api, real::MEMBER), &api);
    let mut feed = member.follow_document();
    sentinel.put_cluster_document(&document("a")).await.expect("a sentinel writes");
    within("the document", async {
        while feed.latest().and_then(Result::ok).and_then(|seen| seen.value).is_none() {
            feed.changed().await;
        }
    })
    .await;
    let report = KeeperReport { uid: "k".into(), ..KeeperReport::default() };
    member.put_keeper_report(&report, TTL).await.expect("a report");
    assert_eq!(member.keeper_reports().await.expect("read").len(), 1);
    let error = member.put_cluster_document(&document("b")).await.expect_err("that is not for it");
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert_eq!(sentinel.cluster_document().await.expect("read").expect("there").value, document("a"));
}

/// What Stolon's programs need, and no more.
const STOLONS_ROLE: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: { name: stolons-own }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: stolons-own }
rules:
- { apiGroups: [""], resources: [configmaps], verbs: [get, create, update] }
- { apiGroups: [""], resources: [pods], verbs: [get, list, patch] }
- { apiGroups: [""], resources: [events], verbs: [create, patch, update] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: stolons-own }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: stolons-own }
subjects: [{ kind: ServiceAccount, name: stolons-own }]
"#;

#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn what_stolon_may_is_enough() {
    let api = api().await;
    api.apply(STOLONS_ROLE).expect("a Role");
    api.make_pod("keeper-0", "stolon-keeper", CLUSTER).expect("a pod");
    let store = store_of(in_cluster(&api, "stolons-own"), &api);
    let mut feed = store.follow_everything();
    store.put_cluster_document(&document("a")).await.expect("put");
    let report = KeeperReport { uid: "k".into(), ..KeeperReport::default() };
    store.put_keeper_report(&report, TTL).await.expect("a report");
    within("document and report", async {
        let is_known = |feed: &stolon_store::EverythingFeed| {
            let seen = feed.latest().and_then(Result::ok);
            seen.is_some_and(|seen| seen.value.document.is_some() && seen.value.keepers.len() == 1)
        };
        while !is_known(&feed) {
            feed.changed().await;
        }
    })
    .await;
    let mut campaign = store.campaign(SentinelUid::from("first"));
    within("leadership", campaign.elected()).await.resign().await;
}

/// An API server keeps no object with more annotations than it allows, and says so.
#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn what_is_too_long_is_refused_with_its_reason() {
    let api = api().await;
    let store = store_of(in_cluster(&api, real::SENTINEL), &api);
    let error = store.put_cluster_document(&document(&"x".repeat(256 << 10))).await.expect_err("too long");
    let hint = stolon_model::Advise::hint(&error).unwrap_or_default().into_owned();
    assert!(matches!(error, StoreError::Refused { .. }) && hint.contains("256 KiB"), "{error:?}");
}

/// As kubectl's `--context` and `--namespace` choose.
#[tokio::test]
#[ignore = "needs a real API server: cargo xtask kubernetes"]
async fn a_context_and_a_namespace_are_chosen() {
    let api = api().await;
    api.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: databases }\n").expect("a namespace");
    let kubeconfig = api.admin_kubeconfig_file().expect("a kubeconfig file");
    let admin = |namespace: Option<&str>| KubernetesAccess {
        kubeconfig: Some(kubeconfig.clone()),
        context: Some("admin".to_owned()),
        namespace: namespace.map(str::to_owned),
        ..KubernetesAccess::default()
    };
    let (here, there) = (store_of(admin(None), &api), store_of(admin(Some("databases")), &api));
    here.put_cluster_document(&document("here")).await.expect("put");
    there.put_cluster_document(&document("there")).await.expect("put");
    assert_eq!(here.cluster_document().await.expect("read").expect("there").value, document("here"));
    let path = "/api/v1/namespaces/databases/configmaps/stolon-cluster-test";
    let found = api.get(path).expect("a ConfigMap in that namespace");
    let text = found["metadata"]["annotations"]["stolon-clusterdata"].as_str().expect("cluster data");
    assert_eq!(stolon_model::ClusterDocument::from_json(text).expect("cluster data"), document("there"));
    // The Roles of pods end with their namespace.
    let elsewhere =
        KubernetesAccess { namespace: Some("databases".to_owned()), ..in_cluster(&api, real::SENTINEL) };
    let error = store_of(elsewhere, &api).cluster_document().await.expect_err("it may not");
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
}
