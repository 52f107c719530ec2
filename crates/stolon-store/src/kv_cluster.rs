//! A [`ClusterStore`] on top of any [`KvStore`]: the key layout and the JSON (docs: "Keys in the store").

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use stolon_model::{
    ClusterDocument, Document, KeeperReport, KeeperUid, ProxyReport, ProxyUid, SentinelReport, SentinelUid,
};

use crate::{
    Campaign, ClusterStore, Entry, Everything, Expected, Key, KvStore, Revision, Selector, StoreError,
    Versioned, Watch, WatchScope,
};

/// The documents of one cluster in a key-value store.
pub struct KvClusterStore<K> {
    store: K,
    cluster: Key,
}

impl<K: KvStore> KvClusterStore<K> {
    /// The cluster at `path` (see [`crate::cluster_path`]).
    pub fn new(store: K, path: &str) -> Self {
        KvClusterStore { store, cluster: Key::new(path) }
    }

    /// The store itself.
    pub fn kv(&self) -> &K {
        &self.store
    }

    fn document_key(&self) -> Key {
        self.cluster.child("clusterdata")
    }

    fn reports_key(&self, kind: Reports) -> Key {
        self.cluster.child(match kind {
            Reports::Keepers => "keepers/info",
            Reports::Sentinels => "sentinels/info",
            Reports::Proxies => "proxies/info",
        })
    }

    fn election_key(&self) -> Key {
        self.cluster.child("sentinel-leader")
    }

    async fn put_report(
        &self,
        kind: Reports,
        uid: &str,
        report: &impl Document,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let key = self.reports_key(kind).child(uid);
        let json = report.to_json().into_bytes();
        self.store.put(&key, json, Some(ttl)).await
    }

    async fn reports<R: Document, U: Ord>(
        &self,
        kind: Reports,
        uid: impl Fn(&R) -> U,
    ) -> Result<BTreeMap<U, R>, StoreError> {
        let entries = self.store.list(&self.reports_key(kind)).await?;
        Ok(readable_reports(entries.iter(), uid))
    }

    /// What lies at the document's key.
    async fn stored_document(&self) -> Result<StoredDocument, StoreError> {
        StoredDocument::read(self.store.get(&self.document_key()).await?.as_ref())
    }
}

#[derive(Clone, Copy)]
enum Reports {
    Keepers,
    Sentinels,
    Proxies,
}

enum StoredDocument {
    Absent,
    Null(Revision),
    Present(Box<Versioned<ClusterDocument>>),
}

impl StoredDocument {
    fn read(entry: Option<&Entry>) -> Result<Self, StoreError> {
        let Some(entry) = entry else { return Ok(StoredDocument::Absent) };
        match std::str::from_utf8(&entry.value) {
            Ok(text) if text.trim() == "null" => Ok(StoredDocument::Null(entry.revision)),
            Ok(_) => {
                let value = decode(entry)?;
                Ok(StoredDocument::Present(Box::new(Versioned { value, revision: entry.revision })))
            }
            Err(error) => Err(StoreError::Decode { key: entry.key.to_string(), cause: error.to_string() }),
        }
    }

    fn present(self) -> Option<Versioned<ClusterDocument>> {
        match self {
            StoredDocument::Absent | StoredDocument::Null(_) => None,
            StoredDocument::Present(document) => Some(*document),
        }
    }
}

fn decode<D: Document>(entry: &Entry) -> Result<D, StoreError> {
    let refuse = |cause: String| StoreError::Decode { key: entry.key.to_string(), cause };
    let text = std::str::from_utf8(&entry.value).map_err(|error| refuse(error.to_string()))?;
    D::from_json(text).map_err(|error| refuse(error.to_string()))
}

/// One bad report must not hide the others. Empty values are reports that are just being written.
fn readable_report<R: Document>(entry: &Entry) -> Option<R> {
    if entry.value.is_empty() {
        return None;
    }
    match decode(entry) {
        Ok(report) => Some(report),
        Err(error) => {
            tracing::warn!(key = %entry.key, %error, "a report in the store is left out");
            None
        }
    }
}

/// What a proxy does that cannot be understood is not known, and that is not the same as a proxy that has closed: nobody may
/// take its silence for consent to another primary.
fn all_proxy_reports<'a>(
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<BTreeMap<ProxyUid, ProxyReport>, StoreError> {
    let written = entries.filter(|entry| !entry.value.is_empty());
    let reports = written.map(decode::<ProxyReport>);
    reports.map(|report| report.map(|report| (report.uid.clone(), report))).collect()
}

fn readable_reports<'a, R: Document, U: Ord>(
    entries: impl Iterator<Item = &'a Entry>,
    uid: impl Fn(&R) -> U,
) -> BTreeMap<U, R> {
    entries.filter_map(readable_report).map(|report| (uid(&report), report)).collect()
}

#[async_trait]
impl<K: KvStore> ClusterStore for KvClusterStore<K> {
    async fn cluster_document(&self) -> Result<Option<Versioned<ClusterDocument>>, StoreError> {
        Ok(self.stored_document().await?.present())
    }

    async fn everything(&self) -> Result<Everything, StoreError> {
        let entries = self.store.list(&self.cluster).await?;
        let document = self.document_key();
        let below = |kind| {
            let selector = Selector::Below(self.reports_key(kind));
            entries.iter().filter(move |entry| selector.contains(entry.key.as_str()))
        };
        Ok(Everything {
            document: StoredDocument::read(entries.iter().find(|entry| entry.key == document))?.present(),
            keepers: readable_reports(below(Reports::Keepers), |report: &KeeperReport| report.uid.clone()),
            proxies: all_proxy_reports(below(Reports::Proxies))?,
        })
    }

    async fn put_cluster_document(&self, document: &ClusterDocument) -> Result<(), StoreError> {
        self.store.put(&self.document_key(), document.to_json().into_bytes(), None).await
    }

    async fn compare_and_put_cluster_document(
        &self,
        document: &ClusterDocument,
        expected: Expected,
    ) -> Result<Revision, StoreError> {
        let key = self.document_key();
        let json = document.to_json().into_bytes();
        match self.store.compare_and_put(&key, json.clone(), expected).await {
            Err(StoreError::Conflict) if expected == Expected::Absent => match self.stored_document().await {
                Ok(StoredDocument::Null(revision)) => {
                    self.store.compare_and_put(&key, json, Expected::Revision(revision)).await
                }
                _ => Err(StoreError::Conflict),
            },
            outcome => outcome,
        }
    }

    async fn put_keeper_report(&self, report: &KeeperReport, ttl: Duration) -> Result<(), StoreError> {
        self.put_report(Reports::Keepers, report.uid.as_str(), report, ttl).await
    }

    async fn keeper_reports(&self) -> Result<BTreeMap<KeeperUid, KeeperReport>, StoreError> {
        self.reports(Reports::Keepers, |report: &KeeperReport| report.uid.clone()).await
    }

    async fn remove_keeper_report(&self, uid: &KeeperUid) -> Result<(), StoreError> {
        self.store.delete(&self.reports_key(Reports::Keepers).child(uid.as_str())).await
    }

    async fn put_sentinel_report(&self, report: &SentinelReport, ttl: Duration) -> Result<(), StoreError> {
        self.put_report(Reports::Sentinels, report.uid.as_str(), report, ttl).await
    }

    async fn sentinel_reports(&self) -> Result<BTreeMap<SentinelUid, SentinelReport>, StoreError> {
        self.reports(Reports::Sentinels, |report: &SentinelReport| report.uid.clone()).await
    }

    async fn remove_sentinel_report(&self, uid: &SentinelUid) -> Result<(), StoreError> {
        self.store.delete(&self.reports_key(Reports::Sentinels).child(uid.as_str())).await
    }

    async fn put_proxy_report(&self, report: &ProxyReport, ttl: Duration) -> Result<(), StoreError> {
        self.put_report(Reports::Proxies, report.uid.as_str(), report, ttl).await
    }

    async fn proxy_reports(&self) -> Result<BTreeMap<ProxyUid, ProxyReport>, StoreError> {
        self.reports(Reports::Proxies, |report: &ProxyReport| report.uid.clone()).await
    }

    async fn remove_proxy_report(&self, uid: &ProxyUid) -> Result<(), StoreError> {
        self.store.delete(&self.reports_key(Reports::Proxies).child(uid.as_str())).await
    }

    fn watch(&self, scope: WatchScope) -> Watch {
        let document = Selector::Key(self.document_key());
        self.store.watch(match scope {
            WatchScope::ClusterData => vec![document],
            WatchScope::Everything => vec![
                document,
                Selector::Below(self.reports_key(Reports::Keepers)),
                Selector::Below(self.reports_key(Reports::Proxies)),
            ],
        })
    }

    async fn leader(&self) -> Result<Option<SentinelUid>, StoreError> {
        Ok(self.store.leader(&self.election_key()).await?.map(SentinelUid))
    }

    fn campaign(&self, uid: SentinelUid) -> Campaign {
        Campaign::new(self.store.contender(&self.election_key(), uid.as_str()))
    }

    fn requests(&self) -> u64 {
        self.store.requests()
    }
}
