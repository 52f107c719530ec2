//! The stores: one contract, several backends, one conformance suite.
//!
//! A store holds the cluster data and the reports. Programs speak to [`ClusterStore`], which knows the
//! documents; backends implement [`KvStore`], which knows keys and bytes; [`KvClusterStore`] joins
//! the two. [`open`] makes the one that the flags ask for.
//!
//! # The contract
//!
//! Every backend keeps these promises, and the conformance suite (`tests/suite`) runs the same
//! checks against each of them for real.
//!
//! 1. **Reads are linearizable.** A read sees every write that was acknowledged before it began.
//! 2. **Compare-and-put is the only guard.** Of several writers that expect the same revision exactly
//!    one succeeds; the others get [`StoreError::Conflict`]. Leadership is advice, not a guard.
//! 3. **Revisions** are opaque, differ between any two writes of a key and never come back.
//! 4. **An unknown outcome is said, never hidden.** A write whose answer did not arrive is
//!    [`StoreError::Unknown`]; it may take effect later and is never repeated by the store itself.
//! 5. **Every call ends** within the store timeout, whatever the store does.
//! 6. **Time to live** ends with the process that put the key. As long as that goes on and reaches the store, the key stays.
//!    After the process ended, or lost the store, the key is there for at least a third of its time to live after its last
//!    put, and is gone one time to live later at the latest. A time to live below [`MINIMUM_TTL`] counts as that. A put
//!    without one takes an earlier one away. A key that somebody removed is not made again. In Kubernetes nothing has a time to live: a
//!    report stays as long as the pod of its writer.
//! 7. **Watches never sleep through a change.** A [`Watch`] covers everything from the call that made
//!    it on. It may wake for no reason, and it wakes after each reconnection. A [`Notice::Quiet`] write wakes only where the
//!    store carries changes by itself.
//! 8. **One leader.** A [`Leadership`] knows that it is lost before a successor can win, also if the
//!    process was frozen or cut off. A successor wins as soon as the leader resigns, and at the latest
//!    one lease after the leader was last heard of.
//! 9. **A feed never looks younger than it is.** A [`Feed`] holds everything that was acknowledged before the moment that it
//!    names, whether its news came late, twice, or not at all.
//!
//! This crate knows nothing of what the documents mean, and decides nothing about clusters.

mod changes;
mod clock;
mod cluster_feed;
mod cluster_store;
mod consul;
mod decoded;
mod election;
mod endpoints;
mod error;
mod etcd;
mod etcdv2;
mod feed;
mod http;
mod kept;
mod kubernetes;
mod kv;
mod kv_cluster;
mod leases;
mod leaving;
mod link;
mod listen;
mod memory;
mod options;
mod path;
mod sqlite;
mod timed;
mod tls;
mod watch;

pub use changes::{Change, Changes, News, Tells};
pub use clock::BootInstant;
pub use cluster_feed::{DocumentFeed, EverythingFeed, Feed, FeedNews, Seen, Tolerance};
pub use cluster_store::{ClusterStore, DocumentRead, Everything, Versioned, WatchScope};
pub use consul::{CatalogueAccess, ConsulStore, Service, ServiceCatalogue};
pub use election::{Campaign, Contender, Leadership, Renewal, Tenure};
pub use error::StoreError;
pub use etcd::EtcdStore;
pub use etcdv2::EtcdV2Store;
pub use feed::Attention;
pub use kubernetes::KubernetesStore;
pub use kv::{
    Entry, Expected, Key, KvStore, Look, MINIMUM_TTL, Notice, Publication, Revision, Selector, Version,
};
pub use kv_cluster::KvClusterStore;
pub use memory::MemoryStore;
pub use options::{
    Backend, BadBackend, ConsulAccess, KubernetesAccess, StoreOptions, TlsVerification, open, open_existing,
};
pub use path::cluster_path;
pub use sqlite::SqliteStore;
pub use timed::{Latencies, RequestLatencies};
pub use watch::{Waker, Watch};
