//! Kubernetes: the API server as a store.
//!
//! * The cluster document and the leader's record are annotations of one ConfigMap, each report is an annotation of the pod that the
//!   program runs in. There is one place for each; other keys do not exist.
//! * Every write of the ConfigMap replaces all of it, on the condition that it is still in the state that was seen
//!   (`resourceVersion`). Since the leader's renewals change that state too, a refused write looks again and decides by what it finds.
//! * Nothing has a time to live: a report stays as long as its pod, or until the next program in it reports.

mod access;
mod election;
mod exec;
mod kubeconfig;
mod listening;
mod mirror;
mod objects;
mod place;
mod protocol;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use self::election::KubernetesContender;
use self::mirror::Mirror;
use self::objects::{ConfigMap, List, Pod};
use self::place::{Component, DOCUMENT, LEADER, Place, REPORT, Selected, WRITE};
use self::protocol::{Client, JSON, Links, MERGE_PATCH, said};
use crate::http::Answer;
use crate::link::{Failed, Repeat};
use crate::{
    Changes, Contender, Entry, Expected, Key, KvStore, Look, Publication, Revision, Selector, StoreError,
    StoreOptions, Version, Watch,
};

/// A store in Kubernetes. Clones share the connections and what is known.
#[derive(Clone)]
pub struct KubernetesStore {
    shared: Arc<Shared>,
    /// The pod that this process runs in; `None`: it reports nothing.
    pod: Option<String>,
}

struct Shared {
    links: Arc<Links>,
    mirror: Mirror,
    /// Somebody was told that nobody finds this pod.
    told_of_labels: AtomicBool,
}

/// What to do with a ConfigMap that was seen.
enum Change {
    /// Write it with these annotations.
    Write(Vec<(&'static str, Option<String>)>),
    /// It is as it must be.
    Nothing,
}

impl KubernetesStore {
    /// The store of the options' Kubernetes. Nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: there is no way to an API server, or the cluster's name can be none there.
    pub fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        place::check_cluster_name(&options.cluster_name)?;
        let shared = Shared {
            links: Arc::new(protocol::links(options)?),
            mirror: Mirror::default(),
            told_of_labels: AtomicBool::new(false),
        };
        Ok(KubernetesStore { shared: Arc::new(shared), pod: options.kubernetes.pod_name.clone() })
    }

    /// The same store, for what runs in another pod.
    pub fn in_pod(&self, name: &str) -> Self {
        KubernetesStore { shared: Arc::clone(&self.shared), pod: Some(name.to_owned()) }
    }

    async fn ask(
        &self,
        operation: &str,
        repeat: Repeat,
        method: Method,
        path: &(impl Fn(&Client) -> String + Sync),
        body: protocol::Body<'_>,
    ) -> Result<Answer, StoreError> {
        let method = &method;
        self.shared
            .links
            .ask(operation, repeat, move |client: Client| async move {
                client.ask(operation, method.clone(), &path(&client), body).await
            })
            .await
    }

    /// Read the ConfigMap, linearizable.
    async fn read_config(
        &self,
        operation: &str,
        cluster: &str,
    ) -> Result<Option<Arc<ConfigMap>>, StoreError> {
        let known = self.shared.mirror.newest_config(cluster);
        let path = |client: &Client| client.paths.config_map(cluster);
        let answer = self.ask(operation, Repeat::Safe, Method::GET, &path, None).await?;
        let found = match answer.status {
            StatusCode::NOT_FOUND => None,
            _ => Some(ConfigMap::new(parse(operation, &answer)?)),
        };
        self.shared.mirror.answer_config(cluster, found.clone(), known);
        Ok(found.map(Arc::new))
    }

    /// Read the pods of these programs, linearizable: without `resourceVersion` a list is as of now (Kubernetes documentation: "API
    /// Concepts", resource versions).
    async fn read_pods(
        &self,
        operation: &str,
        cluster: &str,
        components: &[Component],
    ) -> Result<List<Pod>, StoreError> {
        let known = self.shared.mirror.newest_pods(cluster);
        let path = |client: &Client| client.paths.pod_list(cluster, components);
        let answer = self.ask(operation, Repeat::Safe, Method::GET, &path, None).await?;
        let list: List<Pod> = parse(operation, &answer)?;
        if components.len() == Component::ALL.len() {
            let version = list.metadata.resource_version.parse().unwrap_or(known);
            self.shared.mirror.answer_pods(cluster, &list.items, version, known);
        }
        Ok(list)
    }

    /// The selected keys, linearizable. The document is read first: if it is still the same when something is written on what was
    /// read, all of it was so at the moment at which the reports were read.
    async fn read(&self, operation: &str, selector: &Selector) -> Result<Vec<Entry>, StoreError> {
        let Selected { cluster, in_config_map, components } = Selected::of(selector)?;
        let mut entries = Vec::new();
        if in_config_map && let Some(map) = self.read_config(operation, &cluster).await? {
            entries.extend(map.document(&cluster).into_iter().chain(map.leader(&cluster)));
        }
        if !components.is_empty() {
            let pods = self.read_pods(operation, &cluster, &components).await?.items;
            entries.extend(pods.iter().filter_map(|pod| pod.report(&cluster)));
        }
        entries.retain(|entry| selector.contains(entry.key.as_str()));
        entries.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(entries)
    }

    /// Change the ConfigMap: `decide` says what to do with the one that is there. It is asked again when somebody else was quicker.
    ///
    /// # Errors
    /// Those of `decide`, on what was read just now.
    async fn change_config(
        &self,
        operation: &str,
        cluster: &str,
        decide: impl Fn(Option<&ConfigMap>) -> Result<Change, StoreError> + Send + Sync,
    ) -> Result<Option<Arc<ConfigMap>>, StoreError> {
        let begun = Instant::now();
        // What is known may be old, which the state that goes along with the write tells.
        let mut seen = self.shared.mirror.config_map(cluster);
        if seen.as_deref().is_none_or(|map| !matches!(decide(Some(map)), Ok(Change::Write(_)))) {
            seen = self.read_config(operation, cluster).await?;
        }
        loop {
            let Change::Write(annotations) = decide(seen.as_deref())? else { return Ok(seen) };
            let map = match &seen {
                Some(map) => map.with(&annotations),
                None => ConfigMap::to_be_made(cluster).with(&annotations),
            };
            if let Some(written) = self.send_config(operation, cluster, &map).await? {
                return Ok(Some(written));
            }
            let timeout = self.shared.links.timeout();
            if begun.elapsed() > timeout {
                let cause = "others write it all the time".to_owned();
                return Err(StoreError::Timeout { operation: operation.to_owned(), timeout, cause });
            }
            seen = self.read_config(operation, cluster).await?;
        }
    }

    /// Write a ConfigMap. `None`: it is not in the state any more that it was seen in.
    async fn send_config(
        &self,
        operation: &str,
        cluster: &str,
        map: &ConfigMap,
    ) -> Result<Option<Arc<ConfigMap>>, StoreError> {
        let text = map.json();
        let path = |client: &Client| match map.version() {
            Some(_) => client.paths.config_map(cluster),
            None => client.paths.config_maps(),
        };
        let method = if map.version().is_some() { Method::PUT } else { Method::POST };
        let answer = self.ask(operation, Repeat::Never, method, &path, Some((&text, JSON))).await?;
        match answer.status {
            status if status.is_success() => {
                let written = answer.json().map_err(|failed| unclear(operation, failed))?;
                let written = ConfigMap::new(written);
                self.shared.mirror.hear_config(cluster, written.clone(), true);
                Ok(Some(Arc::new(written)))
            }
            // A ConfigMap to be made in a namespace that is not there is not found either.
            StatusCode::NOT_FOUND if map.version().is_none() => Err(StoreError::Refused {
                operation: operation.to_owned(),
                cause: said(&answer),
                hint: "check the namespace: --kube-namespace, or that of the pod".to_owned(),
            }),
            _ => Ok(None),
        }
    }

    /// Write an annotation of a pod, or take it away.
    async fn patch_pod(
        &self,
        operation: &str,
        pod: &str,
        report: Option<&str>,
    ) -> Result<Option<Pod>, StoreError> {
        let patch = json!({ "metadata": { "annotations": { REPORT: report } } }).to_string();
        let path = |client: &Client| client.paths.pod(pod);
        let body = Some((patch.as_str(), MERGE_PATCH));
        let answer = self.ask(operation, Repeat::Never, Method::PATCH, &path, body).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                answer.json().map(Some).map_err(|failed| unclear(operation, failed))
            }
            _ => Err(refused(operation, said(&answer), "see the log of the API server")),
        }
    }

    /// Publish the report of this process.
    async fn report(&self, key: &Key, value: &[u8]) -> Result<(), StoreError> {
        let Place::Report(cluster, component) = Place::of(key)? else { return Err(place_of_its_own(key)) };
        let operation = format!("writing {key}");
        let Some(own) = &self.pod else {
            return Err(StoreError::configuration(
                "missing required env variable \"POD_NAME\"",
                "set POD_NAME to the name of the pod (valueFrom.fieldRef: metadata.name)",
            ));
        };
        let text = text(&operation, value)?;
        let Some(pod) = self.patch_pod(&operation, own, Some(text)).await? else {
            let hint = "check that POD_NAME is the name of this pod, and its namespace";
            return Err(refused(&operation, format!("there is no pod {own:?}"), hint));
        };
        if !pod.is_found(&cluster, component) && !self.shared.told_of_labels.swap(true, Ordering::Relaxed) {
            tracing::error!(
                pod = own,
                component = component.label(),
                cluster,
                "nobody finds this pod: it lacks the labels component and stolon-cluster"
            );
        }
        Ok(())
    }
}

fn refused(operation: &str, cause: String, hint: &str) -> StoreError {
    StoreError::Refused { operation: operation.to_owned(), cause, hint: hint.to_owned() }
}

/// A question was answered with something else than what was asked for.
fn parse<T: serde::de::DeserializeOwned>(operation: &str, answer: &Answer) -> Result<T, StoreError> {
    match answer.status.is_success() {
        true => answer.json().map_err(|failed| match failed {
            Failed::Refused(error) => error,
            Failed::NotSent(cause) | Failed::NoAnswer(cause) => {
                refused(operation, cause, "is this a Kubernetes API server?")
            }
        }),
        false => Err(refused(operation, said(answer), "see the log of the API server")),
    }
}

/// A write was answered with something that cannot be read.
fn unclear(operation: &str, failed: Failed) -> StoreError {
    match failed {
        Failed::Refused(error) => error,
        Failed::NotSent(cause) | Failed::NoAnswer(cause) => {
            StoreError::Unknown { operation: operation.to_owned(), cause }
        }
    }
}

fn place_of_its_own(key: &Key) -> StoreError {
    refused(&format!("the key {key}"), "the leader's record is written by elections only".to_owned(), "")
}

fn text<'a>(operation: &str, value: &'a [u8]) -> Result<&'a str, StoreError> {
    std::str::from_utf8(value)
        .map_err(|error| refused(operation, format!("the value is no text: {error}"), "annotations are text"))
}

/// The annotations of a new document.
fn document(text: &str) -> Change {
    let write = uuid::Uuid::new_v4().simple().to_string();
    Change::Write(vec![(DOCUMENT, Some(text.to_owned())), (WRITE, Some(write))])
}

#[async_trait]
impl KvStore for KubernetesStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let selector = Selector::Key(key.clone());
        Ok(self.read(&format!("reading {key}"), &selector).await?.pop())
    }

    async fn list(&self, parent: &Key) -> Result<Vec<Entry>, StoreError> {
        self.read(&format!("listing {parent}"), &Selector::Below(parent.clone())).await
    }

    async fn look(&self, selector: &Selector, _since: Version) -> Result<Look, StoreError> {
        let operation = "looking for changes";
        let Selected { cluster, in_config_map, components } = Selected::of(selector)?;
        if in_config_map {
            self.read_config(operation, &cluster).await?;
        }
        if !components.is_empty() {
            self.read_pods(operation, &cluster, &Component::ALL).await?;
        }
        let look = self.shared.mirror.look(selector)?;
        look.ok_or_else(|| refused(operation, "the answer is incomplete".to_owned(), ""))
    }

    async fn publish(&self, publication: Publication) -> Result<Look, StoreError> {
        let Publication { key, value, ttl: _, notice: _, read } = publication;
        self.report(&key, &value).await?;
        self.look(&Selector::Key(read), Version::START).await
    }

    async fn put(&self, key: &Key, value: Vec<u8>, _ttl: Option<Duration>) -> Result<(), StoreError> {
        let Place::Document(cluster) = Place::of(key)? else { return self.report(key, &value).await };
        let operation = format!("writing {key}");
        let text = text(&operation, &value)?;
        self.change_config(&operation, &cluster, |_| Ok(document(text))).await.map(|_| ())
    }

    async fn compare_and_put(
        &self,
        key: &Key,
        value: Vec<u8>,
        expected: Expected,
    ) -> Result<Revision, StoreError> {
        let Place::Document(cluster) = Place::of(key)? else { return Err(place_of_its_own(key)) };
        let operation = format!("writing {key}");
        let text = text(&operation, &value)?;
        let revision = |map: Option<&ConfigMap>| map?.document(&cluster).map(|entry| entry.revision);
        let written = self
            .change_config(&operation, &cluster, |map| {
                let found = revision(map).map_or(Expected::Absent, Expected::Revision);
                if found == expected { Ok(document(text)) } else { Err(StoreError::Conflict) }
            })
            .await?;
        let unknown = || StoreError::Unknown { operation, cause: "the answer has no document".to_owned() };
        revision(written.as_deref()).ok_or_else(unknown)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let operation = format!("removing {key}");
        let (cluster, annotations) = match Place::of(key)? {
            Place::Document(cluster) => (cluster, vec![(DOCUMENT, None), (WRITE, None)]),
            Place::Leader(cluster) => (cluster, vec![(LEADER, None)]),
            Place::Report(cluster, component) => {
                for pod in self.read_pods(&operation, &cluster, &[component]).await?.items {
                    if pod.report(&cluster).is_some_and(|report| report.key == *key) {
                        self.patch_pod(&operation, pod.name(), None).await?;
                    }
                }
                return Ok(());
            }
        };
        let remove = |map: Option<&ConfigMap>| {
            let is_there = map.is_some_and(|map| map.annotation(annotations[0].0).is_some());
            Ok(if is_there { Change::Write(annotations.clone()) } else { Change::Nothing })
        };
        self.change_config(&operation, &cluster, remove).await.map(|_| ())
    }

    fn watch(&self, selectors: Vec<Selector>) -> Watch {
        Watch::of_any(selectors.into_iter().map(|selector| self.changes(selector)).collect())
    }

    fn changes(&self, selector: Selector) -> Changes {
        let store = self.clone();
        Changes::by_task(|news| listening::listen(store, selector, news))
    }

    async fn leader(&self, place: &Key) -> Result<Option<String>, StoreError> {
        let Some(entry) = self.get(place).await? else { return Ok(None) };
        Ok(election::holder(&String::from_utf8_lossy(&entry.value)))
    }

    fn contender(&self, place: &Key, name: &str) -> Box<dyn Contender> {
        Box::new(KubernetesContender::new(self.clone(), place.clone(), name.to_owned()))
    }

    fn requests(&self) -> u64 {
        self.shared.links.requests()
    }
}
