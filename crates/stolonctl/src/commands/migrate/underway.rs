//! A migration that is under way, with everything that a step of it works with.

use stolon_model::{ClusterDocument, Migration};
use stolon_runtime::{CommonArgs, Shutdown};
use tokio_util::sync::CancellationToken;

use super::legacy::{Legacy, SourceArgs};
use super::record;
use crate::stored_cluster::StoredCluster;

/// What a step begins with.
pub struct Underway {
    /// Where the record lies.
    pub cluster: StoredCluster,
    /// The cluster data as they were at the beginning.
    pub document: ClusterDocument,
    /// The record in them.
    pub migration: Migration,
    /// The server that the command line names, else the record.
    pub legacy: Legacy,
    /// A signal came.
    pub stop: CancellationToken,
}

impl Underway {
    /// Read the record.
    ///
    /// # Errors
    /// There is none, the connection string cannot be used, or the store does not answer.
    pub async fn open(
        common: &CommonArgs,
        source: &SourceArgs,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Underway> {
        let stop = shutdown.token();
        let cluster = StoredCluster::open(common)?;
        let document = cluster.workable_document().await?.value;
        let migration = record::of(&document).ok_or_else(record::nothing_under_way)?.clone();
        let legacy = source.legacy(Some(&migration), &stop)?;
        Ok(Underway { cluster, document, migration, legacy, stop })
    }
}
