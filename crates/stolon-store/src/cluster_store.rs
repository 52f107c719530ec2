//! What the programs see of a store: the documents of one cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stolon_model::{
    ClusterDocument, KeeperReport, KeeperUid, ProxyReport, ProxyUid, SentinelReport, SentinelUid,
};

use crate::{
    BootInstant, Campaign, DocumentFeed, EverythingFeed, Expected, RequestLatencies, Revision, StoreError,
    Watch,
};

/// A value with the revision it was read at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// For [`ClusterStore::compare_and_put_cluster_document`].
    pub revision: Revision,
}

/// Everything that a sentinel decides on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Everything {
    /// The cluster document; a stored JSON `null` counts as absent.
    pub document: Option<Versioned<ClusterDocument>>,
    /// The reports of all keepers, by the uid inside. Reports that cannot be read are logged and left out.
    pub keepers: BTreeMap<KeeperUid, Arc<KeeperReport>>,
    /// When the report of each keeper came here. Known of what is followed; a reading by itself leaves it empty.
    pub arrivals: BTreeMap<KeeperUid, BootInstant>,
    /// The reports of all proxies, by the uid inside, that can be read.
    pub proxies: BTreeMap<ProxyUid, ProxyReport>,
    /// The proxies, by their keys, whose report cannot be read: they may be forwarding.
    pub unreadable_proxies: BTreeSet<ProxyUid>,
}

/// What a watch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchScope {
    /// The cluster document.
    ClusterData,
    /// Everything that a sentinel decides on: the cluster document and the reports of keepers and proxies.
    /// Reports of sentinels and the election wake nobody.
    Everything,
}

/// What was found where the cluster document lies; a stored JSON `null` counts as absent.
pub type DocumentRead = Result<Option<Versioned<ClusterDocument>>, StoreError>;

/// The store of one cluster. Every call ends within the store timeout.
#[async_trait]
pub trait ClusterStore: Send + Sync {
    /// The cluster document, linearizable. A stored JSON `null` counts as absent, here and for
    /// [`Expected::Absent`].
    async fn cluster_document(&self) -> Result<Option<Versioned<ClusterDocument>>, StoreError>;

    /// Everything that a sentinel decides on, linearizable, as of one moment and in one request.
    async fn everything(&self) -> Result<Everything, StoreError>;

    /// Write the cluster document, whatever is there: for `init` and `clusterdata write` only.
    async fn put_cluster_document(&self, document: &ClusterDocument) -> Result<(), StoreError>;

    /// Write the cluster document if it is still the one that was read, or still absent.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it is not; [`StoreError::Unknown`] if no answer came.
    async fn compare_and_put_cluster_document(
        &self,
        document: &ClusterDocument,
        expected: Expected,
    ) -> Result<Revision, StoreError>;

    /// Publish a keeper's report. One in which only positions moved since this process' last one wakes nobody. The same
    /// request reads the cluster document for the feeds of this store.
    /// `ttl`: see [`crate::MINIMUM_TTL`] and the contract.
    async fn put_keeper_report(&self, report: &KeeperReport, ttl: Duration) -> Result<(), StoreError>;

    /// The reports of all keepers, by the uid inside. Reports that cannot be read are logged and left out.
    async fn keeper_reports(&self) -> Result<BTreeMap<KeeperUid, KeeperReport>, StoreError>;

    /// Withdraw a keeper's report at once.
    async fn remove_keeper_report(&self, uid: &KeeperUid) -> Result<(), StoreError>;

    /// Publish a sentinel's report; it need not be repeated while it says the same, but see the contract: a lease can be lost.
    async fn put_sentinel_report(&self, report: &SentinelReport, ttl: Duration) -> Result<(), StoreError>;

    /// The reports of all sentinels, by the uid inside. Reports that cannot be read are logged and left out.
    async fn sentinel_reports(&self) -> Result<BTreeMap<SentinelUid, SentinelReport>, StoreError>;

    /// Withdraw a sentinel's report at once.
    async fn remove_sentinel_report(&self, uid: &SentinelUid) -> Result<(), StoreError>;

    /// Publish a proxy's report. The same request reads the cluster document for the feeds of this store.
    /// `ttl`: three times as long as it must stay there after the proxy lost the store.
    async fn put_proxy_report(&self, report: &ProxyReport, ttl: Duration) -> Result<(), StoreError>;

    /// Publish a proxy's report and read the cluster document, as of one moment and in one request.
    ///
    /// # Errors
    /// Those of the publication; then nothing was read. Those of the reading are in the answer.
    async fn publish_proxy_report(
        &self,
        report: &ProxyReport,
        ttl: Duration,
    ) -> Result<DocumentRead, StoreError> {
        self.put_proxy_report(report, ttl).await?;
        Ok(self.cluster_document().await)
    }

    /// The reports of all proxies, by the uid inside. Reports that cannot be read are logged and left out.
    async fn proxy_reports(&self) -> Result<BTreeMap<ProxyUid, ProxyReport>, StoreError>;

    /// Withdraw a proxy's report at once.
    async fn remove_proxy_report(&self, uid: &ProxyUid) -> Result<(), StoreError>;

    /// Wake after changes from now on. Make the watch first, then read. Call inside a tokio runtime.
    fn watch(&self, scope: WatchScope) -> Watch;

    /// The cluster document, kept up to date: by what the store carries, by this store's own publications, and by reads where
    /// somebody asks for something younger. Call inside a tokio runtime.
    fn follow_document(&self) -> DocumentFeed;

    /// The same for everything that a sentinel decides on. Reports in which only positions moved wake nobody, see
    /// [`crate::Feed::attend`]. Call inside a tokio runtime.
    fn follow_everything(&self) -> EverythingFeed;

    /// The leading sentinel, as the store sees it.
    async fn leader(&self) -> Result<Option<SentinelUid>, StoreError>;

    /// Try to become the leader, for as long as the campaign lives. Call inside a tokio runtime.
    fn campaign(&self, uid: SentinelUid) -> Campaign;

    /// Requests sent to the store so far.
    fn requests(&self) -> u64;

    /// How long the store took to answer so far; watches and the leadership are not in it.
    fn latencies(&self) -> RequestLatencies;
}
