//! Watching ConfigMap and pods: what changed is told with its value.

use std::time::Duration;

use hyper::Method;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::KubernetesStore;
use super::objects::{ConfigMap, List, Pod};
use super::place::{Component, Selected};
use super::protocol::Client;
use crate::http::Lines;
use crate::link::Failed;
use crate::listen::{Ended, Heard};
use crate::{BootInstant, Key, KvStore as _, Look, News, Revision, Selector, Version};

/// How long the API server goes on with one answer, in seconds; a connection that died silently is noticed some time after that.
const WAIT: u64 = 60;
/// Between two looks, where this client may not watch.
const POLL: Duration = Duration::from_secs(5);

/// Tell of each change, over as many connections as it takes.
pub async fn listen(store: KubernetesStore, selector: Selector, news: mpsc::Sender<News>) {
    let selected = match Selected::of(&selector) {
        Ok(selected) => selected,
        Err(error) => {
            tracing::error!(%error, "this cannot be watched");
            return;
        }
    };
    let links = &store.shared.links;
    let listener = Listener {
        store: &store,
        cluster: &selected.cluster,
        selector: &selector,
        news,
        told: Mutex::default(),
    };
    let config_map = async {
        if selected.in_config_map {
            crate::listen::listen(links.clone(), &listener.news, |client| {
                listener.follow(client, Kind::ConfigMap)
            })
            .await;
        }
    };
    let pods = async {
        if !selected.components.is_empty() {
            crate::listen::listen(links.clone(), &listener.news, |client| {
                listener.follow(client, Kind::Pods)
            })
            .await;
        }
    };
    tokio::join!(config_map, pods);
}

/// What is watched.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    ConfigMap,
    Pods,
}

struct Listener<'a> {
    store: &'a KubernetesStore,
    cluster: &'a str,
    selector: &'a Selector,
    news: mpsc::Sender<News>,
    /// What was last told.
    told: Mutex<Option<Vec<(Key, Revision)>>>,
}

/// What happened (Kubernetes documentation: "API Concepts", watches).
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: super::objects::ListMetadata,
}

/// Why an answer ended.
enum Over {
    /// Its time was over. The next one begins with this state.
    At(String),
    /// The state that it was to begin with is forgotten.
    Forgotten,
}

impl Listener<'_> {
    async fn follow(&self, client: Client, kind: Kind) -> Ended {
        let mut heard = Heard::Nothing;
        loop {
            match self.follow_from_now(&client, kind, &mut heard).await {
                Ok(()) => {}
                Err(Failed::Refused(error)) => {
                    tracing::warn!(%error, "this client may not watch, and looks every {POLL:?} instead");
                    return self.poll().await;
                }
                Err(Failed::NotSent(cause) | Failed::NoAnswer(cause)) => {
                    return Ended::Failed { cause, heard };
                }
            }
            if self.news.is_closed() {
                return Ended::NobodyListens;
            }
        }
    }

    /// Returns when changes were missed, or when nobody listens.
    async fn follow_from_now(&self, client: &Client, kind: Kind, heard: &mut Heard) -> Result<(), Failed> {
        let mut from = self.list(client, kind).await?;
        *heard = Heard::Something;
        if self.news.send(News::Anew).await.is_err() {
            return Ok(());
        }
        loop {
            match self.watch(client, kind, from).await? {
                Over::At(state) => from = state,
                Over::Forgotten => return Ok(()),
            }
            if self.news.is_closed() {
                return Ok(());
            }
        }
    }

    fn path(&self, client: &Client, kind: Kind) -> String {
        match kind {
            Kind::ConfigMap => client.paths.config_map_list(self.cluster),
            Kind::Pods => client.paths.pod_list(self.cluster, &Component::ALL),
        }
    }

    /// List what is there; gives the state that it is there in.
    async fn list(&self, client: &Client, kind: Kind) -> Result<String, Failed> {
        let links = &self.store.shared.links;
        let mirror = &self.store.shared.mirror;
        links.count_request();
        let path = self.path(client, kind);
        let known = match kind {
            Kind::ConfigMap => mirror.newest_config(self.cluster),
            Kind::Pods => mirror.newest_pods(self.cluster),
        };
        let asking = client.ask("listing what is watched", Method::GET, &path, None);
        let answer = in_time(links.timeout(), asking).await?;
        match kind {
            Kind::ConfigMap => {
                let list: List<serde_json::Value> = answer.json()?;
                let found = list.items.into_iter().next().map(ConfigMap::new);
                mirror.answer_config(self.cluster, found, known);
                Ok(list.metadata.resource_version)
            }
            Kind::Pods => {
                let list: List<Pod> = answer.json()?;
                let version = list.metadata.resource_version.parse().unwrap_or(known);
                mirror.answer_pods(self.cluster, &list.items, version, known);
                Ok(list.metadata.resource_version)
            }
        }
    }

    /// Follow one answer.
    async fn watch(&self, client: &Client, kind: Kind, mut from: String) -> Result<Over, Failed> {
        let links = &self.store.shared.links;
        let asked_at = BootInstant::now();
        let path = format!(
            "{}&watch=true&allowWatchBookmarks=true&timeoutSeconds={WAIT}&resourceVersion={from}",
            self.path(client, kind)
        );
        links.count_request();
        let opening = client.watch("waiting for changes", &path);
        let Some(mut lines) = in_time(links.timeout(), opening).await? else { return Ok(Over::Forgotten) };
        loop {
            let patience = (asked_at + Duration::from_secs(WAIT) + links.timeout()).remaining();
            let Some(line) = next(&mut lines, patience).await? else { return Ok(Over::At(from)) };
            let event: Event<'_> = serde_json::from_slice(&line).map_err(unreadable)?;
            match event.kind {
                "ADDED" | "MODIFIED" => self.hear(kind, event.object, true)?,
                "DELETED" => self.hear(kind, event.object, false)?,
                "BOOKMARK" => {}
                // Its state is too old as a rule; listing what is there helps in any case.
                _ => return Ok(Over::Forgotten),
            }
            let bookmark: Bookmark = serde_json::from_str(event.object.get()).map_err(unreadable)?;
            from = bookmark.metadata.resource_version;
            if self.tell(asked_at).await == Told::Nobody {
                return Ok(Over::At(from));
            }
        }
    }

    /// Take over what an object says.
    fn hear(&self, kind: Kind, object: &RawValue, is_there: bool) -> Result<(), Failed> {
        let mirror = &self.store.shared.mirror;
        match kind {
            Kind::ConfigMap => {
                let map = ConfigMap::new(serde_json::from_str(object.get()).map_err(unreadable)?);
                mirror.hear_config(self.cluster, map, is_there);
            }
            Kind::Pods => {
                let pod: Pod = serde_json::from_str(object.get()).map_err(unreadable)?;
                mirror.hear_pod(self.cluster, &pod, is_there);
            }
        }
        Ok(())
    }

    /// Tell of all selected keys as they are known, unless that was told already: others read, write and listen as well, so that
    /// what is known says nothing of what this reader was told. They are complete as of some moment before that of the answer
    /// that is followed, which is all that news may say of its age.
    async fn tell(&self, asked_at: BootInstant) -> Told {
        let news = match self.store.shared.mirror.look(self.selector) {
            Ok(Some(look)) => {
                let mut told = self.told.lock();
                let now = Some(self.revisions(&look));
                if *told == now {
                    return Told::Somebody;
                }
                *told = now;
                News::Found { look, asked_at }
            }
            _ => News::Look,
        };
        match self.news.send(news).await {
            Ok(()) => Told::Somebody,
            Err(_) => Told::Nobody,
        }
    }

    /// What tells a look from others. That the leader renewed its record is news to whoever asks for that only.
    fn revisions(&self, look: &Look) -> Vec<(Key, Revision)> {
        let is_asked_for = |key: &Key| {
            !key.as_str().ends_with("/sentinel-leader") || *self.selector == Selector::Key(key.clone())
        };
        let entries = look.changed.iter().filter(|entry| is_asked_for(&entry.key));
        entries.map(|entry| (entry.key.clone(), entry.revision)).collect()
    }

    /// Look again and again, for as long as that works.
    async fn poll(&self) -> Ended {
        loop {
            let asked_at = BootInstant::now();
            let news = match self.store.look(self.selector, Version::START).await {
                Ok(look) => News::Found { look, asked_at },
                Err(error) => return Ended::Failed { cause: error.to_string(), heard: Heard::Something },
            };
            if self.news.send(news).await.is_err() {
                return Ended::NobodyListens;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

#[derive(PartialEq)]
enum Told {
    Somebody,
    Nobody,
}

async fn in_time<T>(
    patience: Duration,
    asking: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    match tokio::time::timeout(patience, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(Failed::NoAnswer("no answer".to_owned())),
    }
}

async fn next(lines: &mut Lines, patience: Duration) -> Result<Option<bytes::Bytes>, Failed> {
    match tokio::time::timeout(patience, lines.next()).await {
        Ok(line) => line.map_err(Failed::NoAnswer),
        Err(_) => Err(Failed::NoAnswer("the answer does not end".to_owned())),
    }
}

fn unreadable(error: serde_json::Error) -> Failed {
    Failed::NoAnswer(format!("the answer cannot be read: {error}"))
}
