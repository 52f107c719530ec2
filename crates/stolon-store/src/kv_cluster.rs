//! A [`ClusterStore`] on top of any [`KvStore`]: the key layout and the JSON (docs: "Keys in the store").

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use stolon_model::{
    Advise as _, ClusterDocument, Document, KeeperReport, KeeperUid, ProxyReport, ProxyUid, SentinelReport,
    SentinelUid,
};

use crate::decoded::Decoded;
use crate::feed::{Held, KvFeed, Weight};
use crate::timed::{RequestLatencies, Timed};
use crate::{
    BootInstant, Campaign, ClusterStore, DocumentFeed, DocumentRead, Entry, Everything, EverythingFeed,
    Expected, Feed, Key, KvStore, Notice, Publication, Revision, Selector, StoreError, Tells, Versioned,
    Watch, WatchScope,
};

/// The documents of one cluster in a key-value store.
pub struct KvClusterStore<K> {
    store: Arc<Timed<K>>,
    cluster: Key,
    /// The feeds of the cluster document, which every publication confirms.
    document_feeds: Mutex<Vec<Weak<KvFeed>>>,
    /// What was last published of each report, to tell whether more than positions changed since.
    published: Mutex<BTreeMap<Key, Entry>>,
}

impl<K: KvStore> KvClusterStore<K> {
    /// The cluster at `path` (see [`crate::cluster_path`]).
    pub fn new(store: K, path: &str) -> Self {
        KvClusterStore {
            store: Arc::new(Timed::new(store)),
            cluster: Key::new(path),
            document_feeds: Mutex::default(),
            published: Mutex::default(),
        }
    }

    /// The store itself.
    pub fn kv(&self) -> &K {
        &self.store.store
    }

    fn document_key(&self) -> Key {
        document_key(&self.cluster)
    }

    fn reports_key(&self, kind: Reports) -> Key {
        kind.below(&self.cluster)
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
    ) -> Result<DocumentRead, StoreError> {
        let key = self.reports_key(kind).child(uid);
        let value = report.to_json().into_bytes();
        // The revision only has to differ from that of the report before it.
        let number = self.published.lock().get(&key).map_or(0, |last| last.revision.0 + 1);
        let entry = Entry { key: key.clone(), value: value.clone(), revision: Revision(number) };
        let notice = match weigh_report(kind, self.published.lock().get(&key), Some(&entry)) {
            Weight::Wakes => Notice::Wake,
            Weight::Quiet => Notice::Quiet,
        };
        let feeds: Vec<_> = self.document_feeds.lock().iter().filter_map(Weak::upgrade).collect();
        let known: Vec<_> = feeds.iter().map(|feed| feed.version()).collect();
        let asked_at = BootInstant::now();
        let publication = Publication { key: key.clone(), value, ttl, notice, read: self.document_key() };
        let look = self.store.publish(publication).await?;
        for (feed, known) in feeds.iter().zip(known) {
            feed.absorb_look(look.clone(), asked_at, known);
        }
        self.published.lock().insert(key, entry);
        Ok(StoredDocument::read(look.changed.first()).map(StoredDocument::present))
    }

    async fn remove_report(&self, kind: Reports, uid: &str) -> Result<(), StoreError> {
        let key = self.reports_key(kind).child(uid);
        self.published.lock().remove(&key);
        self.store.delete(&key).await
    }

    async fn reports<R: Document, U: Ord>(
        &self,
        kind: Reports,
        uid: impl Fn(&R) -> U,
    ) -> Result<BTreeMap<U, R>, StoreError> {
        let entries = self.store.list(&self.reports_key(kind)).await?;
        Ok(readable_reports(entries.iter(), uid))
    }

    /// The value at the document's key.
    async fn stored_document(&self) -> Result<StoredDocument, StoreError> {
        StoredDocument::read(self.store.get(&self.document_key()).await?.as_ref())
    }
}

/// Whose reports.
#[derive(Clone, Copy)]
pub(crate) enum Reports {
    Keepers,
    Sentinels,
    Proxies,
}

impl Reports {
    /// The key that they are below.
    pub(crate) fn below(self, cluster: &Key) -> Key {
        cluster.child(match self {
            Reports::Keepers => "keepers/info",
            Reports::Sentinels => "sentinels/info",
            Reports::Proxies => "proxies/info",
        })
    }
}

pub(crate) fn document_key(cluster: &Key) -> Key {
    cluster.child("clusterdata")
}

/// Everything, with what is known of when reports came.
fn everything_held(
    decoded: &mut Decoded,
    cluster: &Key,
    held: &BTreeMap<String, Held>,
) -> Result<Everything, StoreError> {
    let mut everything = decoded.everything(cluster, held.values().map(|held| &held.entry))?;
    let keepers = Reports::Keepers.below(cluster).children_prefix();
    let of_keeper = |(key, held): (&String, &Held)| Some((key.strip_prefix(&keepers)?.into(), held.arrived));
    everything.arrivals = held.iter().filter_map(of_keeper).collect();
    Ok(everything)
}

/// What a change means to a sentinel. Reports of sentinels and the election do not concern it.
fn weigh_everything(cluster: &Selector, old: Option<&Entry>, new: Option<&Entry>) -> Weight {
    let Some(key) = new.or(old).map(|entry| entry.key.as_str()) else { return Weight::Quiet };
    let cluster = Key::from(cluster.clone());
    if key == document_key(&cluster).as_str() {
        return Weight::Wakes;
    }
    let is_below = |kind: &Reports| Selector::Below(kind.below(&cluster)).contains(key);
    match [Reports::Keepers, Reports::Proxies].into_iter().find(is_below) {
        Some(kind) => weigh_report(kind, old, new),
        None => Weight::Quiet,
    }
}

/// A report in which only positions moved can wait for the next look.
fn weigh_report(kind: Reports, old: Option<&Entry>, new: Option<&Entry>) -> Weight {
    let (Some(old), Some(new)) = (old, new) else { return Weight::Wakes };
    let says_the_same = match kind {
        Reports::Keepers => {
            both(old, new).is_some_and(|(old, new): (KeeperReport, KeeperReport)| old.says_the_same_as(&new))
        }
        Reports::Proxies => both(old, new).is_some_and(|(old, new): (ProxyReport, ProxyReport)| {
            (old.uid, old.generation, old.proxy_timeout) == (new.uid, new.generation, new.proxy_timeout)
        }),
        Reports::Sentinels => true,
    };
    if says_the_same { Weight::Quiet } else { Weight::Wakes }
}

fn both<D: Document>(old: &Entry, new: &Entry) -> Option<(D, D)> {
    Some((decode(old).ok()?, decode(new).ok()?))
}

/// Keeps what was made of the copy, until something else was written.
fn remembering<K: PartialEq + Send + 'static, T: Clone + Send + 'static>(
    key: impl Fn(&BTreeMap<String, Held>) -> K + Send + 'static,
    mut make: impl FnMut(&BTreeMap<String, Held>) -> Result<T, StoreError> + Send + 'static,
) -> crate::cluster_feed::Read<T> {
    let mut made: Option<(K, Result<T, StoreError>)> = None;
    Box::new(move |copy| {
        copy.with(|entries| {
            let now = key(entries);
            match &made {
                Some((then, value)) if *then == now => value.clone(),
                _ => {
                    let value = make(entries);
                    made = Some((now, value.clone()));
                    value
                }
            }
        })
    })
}

fn arrivals(entries: &BTreeMap<String, Held>) -> Vec<(String, Revision, BootInstant)> {
    entries.iter().map(|(key, held)| (key.clone(), held.entry.revision, held.arrived)).collect()
}

pub(crate) enum StoredDocument {
    Absent,
    Null(Revision),
    Present(Box<Versioned<ClusterDocument>>),
}

impl StoredDocument {
    pub(crate) fn read(entry: Option<&Entry>) -> Result<Self, StoreError> {
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

    pub(crate) fn present(self) -> Option<Versioned<ClusterDocument>> {
        match self {
            StoredDocument::Absent | StoredDocument::Null(_) => None,
            StoredDocument::Present(document) => Some(*document),
        }
    }
}

pub(crate) fn decode<D: Document>(entry: &Entry) -> Result<D, StoreError> {
    let refuse = |cause: String| StoreError::Decode { key: entry.key.to_string(), cause };
    let text = std::str::from_utf8(&entry.value).map_err(|error| refuse(error.to_string()))?;
    D::from_json(text).map_err(|error| refuse(error.to_string()))
}

/// One bad report must not hide the others. Empty values are reports that are just being written.
pub(crate) fn readable_report<R: Document>(entry: &Entry) -> Option<R> {
    if entry.value.is_empty() {
        return None;
    }
    match decode(entry) {
        Ok(report) => Some(report),
        Err(error) => {
            let error = error.explained().on_one_line();
            tracing::warn!(key = %entry.key, error, "a report in the store is left out");
            None
        }
    }
}

pub(crate) fn readable_reports<'a, R: Document, U: Ord>(
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
        Decoded::default().everything(&self.cluster, entries.iter())
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
        self.put_report(Reports::Keepers, report.uid.as_str(), report, ttl).await.map(|_| ())
    }

    async fn keeper_reports(&self) -> Result<BTreeMap<KeeperUid, KeeperReport>, StoreError> {
        self.reports(Reports::Keepers, |report: &KeeperReport| report.uid.clone()).await
    }

    async fn remove_keeper_report(&self, uid: &KeeperUid) -> Result<(), StoreError> {
        self.remove_report(Reports::Keepers, uid.as_str()).await
    }

    async fn put_sentinel_report(&self, report: &SentinelReport, ttl: Duration) -> Result<(), StoreError> {
        self.put_report(Reports::Sentinels, report.uid.as_str(), report, ttl).await.map(|_| ())
    }

    async fn sentinel_reports(&self) -> Result<BTreeMap<SentinelUid, SentinelReport>, StoreError> {
        self.reports(Reports::Sentinels, |report: &SentinelReport| report.uid.clone()).await
    }

    async fn remove_sentinel_report(&self, uid: &SentinelUid) -> Result<(), StoreError> {
        self.remove_report(Reports::Sentinels, uid.as_str()).await
    }

    async fn put_proxy_report(&self, report: &ProxyReport, ttl: Duration) -> Result<(), StoreError> {
        self.publish_proxy_report(report, ttl).await.map(|_| ())
    }

    async fn publish_proxy_report(
        &self,
        report: &ProxyReport,
        ttl: Duration,
    ) -> Result<DocumentRead, StoreError> {
        self.put_report(Reports::Proxies, report.uid.as_str(), report, ttl).await
    }

    async fn proxy_reports(&self) -> Result<BTreeMap<ProxyUid, ProxyReport>, StoreError> {
        self.reports(Reports::Proxies, |report: &ProxyReport| report.uid.clone()).await
    }

    async fn remove_proxy_report(&self, uid: &ProxyUid) -> Result<(), StoreError> {
        self.remove_report(Reports::Proxies, uid.as_str()).await
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

    fn follow_document(&self) -> DocumentFeed {
        let key = self.document_key();
        let selector = Selector::Key(key.clone());
        let changes = self.store.changes(selector.clone());
        let copy = Arc::new(KvFeed::new(self.store.clone(), selector, |_, _, _| Weight::Wakes));
        let mut feeds = self.document_feeds.lock();
        feeds.retain(|feed| feed.strong_count() > 0);
        feeds.push(Arc::downgrade(&copy));
        let read = remembering(arrivals, move |entries| {
            let stored = entries.get(key.as_str()).map(|held| &held.entry);
            Ok(StoredDocument::read(stored)?.present())
        });
        // A document is never written quietly.
        Feed::start(copy, changes, Tells::Everything, read)
    }

    fn follow_everything(&self) -> EverythingFeed {
        let cluster = self.cluster.clone();
        let selector = Selector::Below(cluster.clone());
        let changes = self.store.changes(selector.clone());
        let (tells, copy) =
            (changes.tells(), Arc::new(KvFeed::new(self.store.clone(), selector, weigh_everything)));
        let mut decoded = Decoded::default();
        let read = remembering(arrivals, move |entries| everything_held(&mut decoded, &cluster, entries));
        Feed::start(copy, changes, tells, read)
    }

    async fn leader(&self) -> Result<Option<SentinelUid>, StoreError> {
        Ok(self.store.leader(&self.election_key()).await?.map(SentinelUid::from))
    }

    fn campaign(&self, uid: SentinelUid) -> Campaign {
        Campaign::new(self.store.contender(&self.election_key(), uid.as_str()))
    }

    fn requests(&self) -> u64 {
        self.store.requests()
    }

    fn latencies(&self) -> RequestLatencies {
        self.store.latencies()
    }
}
