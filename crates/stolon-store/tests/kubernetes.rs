//! The store in Kubernetes keeps the contract, while the API server is killed, paused and restarted.

mod away;
#[allow(dead_code, reason = "files are named by a kubeconfig here, not by flags")]
mod certificates;
mod kubernetes_checks;
mod outages;
#[allow(dead_code, reason = "some checks are for stores of any keys")]
mod suite;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use certificates::Certificates;
use kubernetes_checks::{CONFIG_MAP, TIMEOUT, TTL, cluster, in_pod, options};
use serde_json::json;
use stolon_model::{KeeperReport, KeeperUid, ProxyReport, SentinelUid};
use stolon_store::{ClusterStore, Expected, KubernetesAccess, StoreError, StoreOptions, WatchScope};
use stolon_testkit::kubernetes::{ApiServer, Gone};
use suite::{document, within};

fn api() -> ApiServer {
    ApiServer::start().expect("an API server")
}

#[tokio::test]
async fn conformance() {
    kubernetes_checks::conformance(api()).await;
}

#[tokio::test]
async fn objects_are_those_that_stolon_knows() {
    kubernetes_checks::objects_are_those_that_stolon_knows(&api()).await;
}

#[tokio::test]
async fn a_report_stays_as_long_as_its_pod() {
    kubernetes_checks::a_report_stays_as_long_as_its_pod(&api()).await;
}

#[tokio::test]
async fn stolons_election_and_ours_exclude_each_other() {
    kubernetes_checks::stolons_election_and_ours_exclude_each_other(&api()).await;
}

#[tokio::test]
async fn a_leader_goes_on_while_the_document_is_written_all_the_time() {
    kubernetes_checks::a_leader_goes_on_while_the_document_is_written_all_the_time(&api()).await;
}

#[tokio::test]
async fn a_watch_does_not_sleep_through_a_restart() {
    kubernetes_checks::a_watch_does_not_sleep_through_a_restart(&mut api()).await;
}

#[tokio::test]
async fn every_call_ends_while_the_api_server_is_paused_or_dead() {
    kubernetes_checks::every_call_ends_while_the_api_server_is_paused_or_dead(&mut api()).await;
}

#[tokio::test]
async fn a_leader_cut_off_from_the_api_server_knows_and_comes_back() {
    kubernetes_checks::a_leader_cut_off_from_the_api_server_knows_and_comes_back(&mut api()).await;
}

#[tokio::test]
async fn leadership_survives_a_restart_and_ends_when_its_record_is_removed() {
    kubernetes_checks::leadership_survives_a_restart_and_ends_when_its_record_is_removed(&mut api()).await;
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
    let options = with_kubeconfig(&*api, kubeconfig);
    kubernetes_checks::conformance_with(&api, &options).await;
}

fn with_kubeconfig(api: &ApiServer, kubeconfig: PathBuf) -> StoreOptions {
    let kubernetes = KubernetesAccess { kubeconfig: Some(kubeconfig), ..KubernetesAccess::default() };
    StoreOptions { kubernetes, ..options(api, TIMEOUT) }
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
    // One of the document, and one each of document and pods for everything.
    within("the watches to open", async {
        while api.watches() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // Both lists of the second feed have asked it to look, at most once each, before these news reach it.
    for round in 0..3 {
        let news = document(&format!("round {round}"));
        other.put_cluster_document(&news).await.expect("put");
        within("the news", async {
            loop {
                let one = documents.latest().and_then(Result::ok).and_then(|seen| seen.value);
                let all_of_it = all.latest().and_then(Result::ok).and_then(|seen| seen.value.document);
                if [one, all_of_it].iter().flatten().filter(|read| read.value == news).count() == 2 {
                    return;
                }
                tokio::select! { () = documents.changed() => {}, () = all.changed() => {} }
            }
        })
        .await;
    }
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

/// A user who is let in by a program that prints a file.
fn by_program(file: &std::path::Path) -> serde_json::Value {
    let exec = json!({
        "apiVersion": "client.authentication.k8s.io/v1beta1", "command": "cat", "args": [file],
    });
    json!({ "exec": exec })
}

fn credential(status: serde_json::Value) -> String {
    let version = "client.authentication.k8s.io/v1beta1";
    json!({ "apiVersion": version, "kind": "ExecCredential", "status": status }).to_string()
}

#[tokio::test]
async fn another_program_lets_in_and_is_asked_again_when_its_token_is_over() {
    let api = api();
    api.demand_token("first");
    let file = api.path().join("credential");
    std::fs::write(&file, credential(json!({ "token": "first" }))).expect("write");
    let kubeconfig = api.kubeconfig_file("exec", json!({}), by_program(&file)).expect("a kubeconfig file");
    let store = stolon_store::open(&with_kubeconfig(&api, kubeconfig)).expect("a store");
    store.put_cluster_document(&document("a")).await.expect("it is let in");
    api.demand_token("second");
    std::fs::write(&file, credential(json!({ "token": "second" }))).expect("write");
    let error = store.cluster_document().await.expect_err("the first token is over");
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert_eq!(store.cluster_document().await.expect("read").expect("there").value, document("a"));
    std::fs::remove_file(&file).expect("removed");
    api.demand_token("third");
    store.cluster_document().await.expect_err("the second token is over");
    let error = store.cluster_document().await.expect_err("the program fails");
    assert!(error.to_string().contains("No such file"), "what it says on stderr: {error}");
}

#[tokio::test]
async fn another_program_gives_certificates_and_connections_show_the_newest() {
    let certificates = Certificates::new();
    let api = ApiServer::with(certificates.access(), 0).expect("an API server");
    let file = api.path().join("credential");
    let text = |name| std::fs::read_to_string(certificates.path(name)).expect("read");
    let over = "2020-01-01T00:00:00Z";
    let pair = json!({
        "clientCertificateData": text("client.pem"), "clientKeyData": text("client.key"), "expirationTimestamp": over,
    });
    let cluster = json!({ "certificate-authority": certificates.path("ca.pem") });
    let kubeconfig = api.kubeconfig_file("exec", cluster, by_program(&file)).expect("a kubeconfig file");
    std::fs::write(&file, credential(json!({ "token": "only", "expirationTimestamp": over })))
        .expect("write");
    let store = stolon_store::open(&with_kubeconfig(&api, kubeconfig)).expect("a store");
    let error = store.cluster_document().await.expect_err("without a certificate");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    std::fs::write(&file, credential(pair)).expect("write");
    store.put_cluster_document(&document("a")).await.expect("it is let in");
}
