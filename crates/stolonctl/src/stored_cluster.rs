//! One cluster in its store, as the commands see it.

use std::sync::Arc;
use std::time::Duration;

use crate::operator;
use stolon_core::Backoff;
pub use stolon_core::operator::Edit;
use stolon_model::{
    BadClusterData, ClusterData, ClusterDocument, ClusterSpec, HistoryEntry, Timestamp, UsableCluster,
    spec_changes,
};
use stolon_runtime::{CommonArgs, Failure, UsageError};
use stolon_store::{ClusterStore, Expected, StoreError, StoreOptions, Versioned};

/// How often a conditional write is begun anew after somebody else wrote. The leading sentinel writes all the time,
/// so one collision is no reason to give up.
const ATTEMPTS: u32 = 10;

/// What is said of a store that cannot be.
pub const CANNOT_OPEN: &str = "cannot create kv store";

/// One cluster in its store.
#[derive(Clone)]
pub struct StoredCluster {
    /// The store.
    pub store: Arc<dyn ClusterStore>,
    /// `--store-timeout`: no request takes longer.
    pub timeout: Duration,
}

impl StoredCluster {
    /// Open the store that the flags name, for a cluster that is to be there. Nothing is sent yet, and no file is made.
    ///
    /// # Errors
    /// A flag is missing or wrong.
    pub fn open(common: &CommonArgs) -> Result<StoredCluster, UsageError> {
        Self::opened(common, CANNOT_OPEN, stolon_store::open_existing)
    }

    /// [`StoredCluster::open`] for a command that may put the first cluster into the store. `complaint` is said of one that cannot be.
    ///
    /// # Errors
    /// A flag is missing or wrong.
    pub fn open_or_make(common: &CommonArgs, complaint: &str) -> Result<StoredCluster, UsageError> {
        Self::opened(common, complaint, stolon_store::open)
    }

    fn opened(
        common: &CommonArgs,
        complaint: &str,
        open: impl FnOnce(&StoreOptions) -> Result<Arc<dyn ClusterStore>, StoreError>,
    ) -> Result<StoredCluster, UsageError> {
        let options: StoreOptions = common.store_options()?;
        let store = open(&options).map_err(|error| UsageError::because(complaint, &error))?;
        Ok(StoredCluster { store, timeout: options.timeout })
    }

    /// The document as it lies in the store, whatever it says.
    ///
    /// # Errors
    /// The store does not answer, or what it holds cannot be read.
    pub async fn document(&self) -> Result<Option<Versioned<ClusterDocument>>, Failure> {
        self.store.cluster_document().await.map_err(cannot_get)
    }

    /// The document, which must exist and be of our format, with a cluster and a specification.
    ///
    /// # Errors
    /// There is no such document, or it cannot be worked with.
    pub async fn workable_document(&self) -> Result<Versioned<ClusterDocument>, Failure> {
        let found = self.document().await?.ok_or_else(no_cluster_data)?;
        ClusterData::try_from(found.value.clone()).map_err(unworkable)?;
        Ok(found)
    }

    /// The cluster data with a valid specification.
    ///
    /// # Errors
    /// There are none, or they cannot be worked with.
    pub async fn cluster_data(&self) -> Result<UsableCluster, Failure> {
        checked(self.document().await?.map(|found| found.value))
    }

    /// The same, for commands that say `cannot get cluster data` also of data that cannot be worked with.
    ///
    /// # Errors
    /// There are none, or they cannot be worked with.
    pub async fn cluster_data_to_change(&self) -> Result<UsableCluster, Failure> {
        let document = self.document().await?.map(|found| found.value);
        checked(document).map_err(|Failure { message, hint }| Failure {
            message: format!("cannot get cluster data: {message}"),
            hint,
        })
    }

    /// Change the document with a conditional write, begun anew when somebody else wrote in between. The history of the cluster gets
    /// an entry for `command`, with what it changed of the specification, which is returned: a line for each field.
    ///
    /// # Errors
    /// Those of reading, of `edit` and of the write. Nothing was written unless the message says that this is not known.
    pub async fn change(
        &self,
        command: &str,
        mut edit: impl FnMut(&mut ClusterDocument) -> anyhow::Result<Edit>,
    ) -> anyhow::Result<Vec<String>> {
        let mut changed = Vec::new();
        self.amend(|document| {
            changed.clear();
            let before = spec_of(document);
            let edited = edit(document)?;
            if edited == Edit::Write {
                changed = spec_changes(&before, &spec_of(document));
                record(document, command, changed.clone());
            }
            Ok(edited)
        })
        .await?;
        Ok(changed)
    }

    /// [`StoredCluster::change`] without an entry in the history.
    ///
    /// # Errors
    /// The same.
    pub async fn amend(
        &self,
        mut edit: impl FnMut(&mut ClusterDocument) -> anyhow::Result<Edit>,
    ) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        for _ in 0..ATTEMPTS {
            let Versioned { value: mut document, revision } = self.workable_document().await?;
            match edit(&mut document)? {
                Edit::Unneeded => return Ok(()),
                Edit::Write => {}
            }
            let expected = Expected::Revision(revision);
            match self.store.compare_and_put_cluster_document(&document, expected).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict) => tokio::time::sleep(backoff.next_pause()).await,
                Err(error) => return Err(cannot_update(&error).into()),
            }
        }
        Err(Failure::new(format!("failed to update cluster data after {ATTEMPTS} retries"))
            .hint("others keep writing the cluster data; nothing was changed, try again")
            .into())
    }
}

fn spec_of(document: &ClusterDocument) -> ClusterSpec {
    document.cluster.as_ref().and_then(|cluster| cluster.spec.clone()).unwrap_or_default()
}

/// Enter a command into the history of the cluster.
pub fn record(document: &mut ClusterDocument, command: &str, details: Vec<String>) {
    let now = Timestamp::utc(jiff::Timestamp::now());
    if let Some(cluster) = &mut document.cluster {
        cluster.status.record(HistoryEntry::of_operator(now, operator::name(), command, details));
    }
}

/// The cluster data of a document, with a valid specification.
///
/// # Errors
/// There are none, or they cannot be worked with.
pub fn checked(document: Option<ClusterDocument>) -> Result<UsableCluster, Failure> {
    UsableCluster::try_from(document.ok_or_else(no_cluster_data)?).map_err(unworkable)
}

/// The error for cluster data that could not be read from the store.
pub fn cannot_get(error: StoreError) -> Failure {
    Failure::because("cannot get cluster data", &error)
}

fn cannot_update(error: &StoreError) -> Failure {
    let failure = Failure::because("cannot update cluster data", error);
    match error {
        StoreError::Unknown { .. } => {
            failure.hint("the change may have been made or not: stolonctl spec and stolonctl status show it")
        }
        _ => failure,
    }
}

fn no_cluster_data() -> Failure {
    Failure::new("nil cluster data: <nil>")
        .hint("the store holds no cluster of this name; stolonctl init creates one, --cluster-name, --store-prefix and --store-endpoints say which one is meant")
}

fn unworkable(error: BadClusterData) -> Failure {
    Failure::new(error.to_string()).hint(match error {
        BadClusterData::Spec(_) => {
            "the stored specification is invalid; stolonctl update with a valid one repairs it"
        }
        _ => {
            "stolonctl clusterdata write puts a saved document back, stolonctl init creates the cluster anew"
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use stolon_model::Document;
    use stolon_store::{KvClusterStore, MemoryStore};

    use super::*;

    /// Somebody else writes between the read and the write of each of the first `collisions` attempts.
    async fn failed_keeper(collisions: u32) -> (anyhow::Result<Vec<String>>, ClusterDocument) {
        let store = MemoryStore::new();
        let open = || KvClusterStore::new(store.clone(), "stolon/cluster/c");
        let spec = ClusterSpec::from_json(r#"{"initMode":"new"}"#).unwrap();
        let document = ClusterDocument::from(ClusterData::initial("c".into(), spec, Timestamp::ZERO));
        open().put_cluster_document(&document).await.unwrap();
        let cluster = StoredCluster { store: Arc::new(open()), timeout: Duration::from_secs(5) };
        let mut attempts = 0;
        let changed = cluster
            .change("update", |document| {
                attempts += 1;
                if attempts <= collisions {
                    let mut other = document.clone();
                    other.cluster.as_mut().unwrap().generation += 1;
                    let busy = open();
                    let write = async move { busy.put_cluster_document(&other).await.unwrap() };
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    std::thread::spawn(move || runtime.block_on(write)).join().unwrap();
                }
                document.cluster.as_mut().unwrap().status.current_generation = 77;
                Ok(Edit::Write)
            })
            .await;
        (changed, open().cluster_document().await.unwrap().unwrap().value)
    }

    /// Stolon tries once, and fails under a busy leader. What the other one wrote is kept.
    #[tokio::test]
    async fn a_write_that_meets_another_one_is_begun_anew() {
        let (changed, document) = failed_keeper(3).await;
        changed.unwrap();
        let cluster = document.cluster.unwrap();
        assert_eq!((cluster.generation, cluster.status.current_generation), (4, 77));
        assert_eq!(cluster.status.history.unwrap().len(), 1, "one command, however often it was tried");
    }

    #[tokio::test]
    async fn it_is_given_up_at_last_and_changes_nothing() {
        let (changed, document) = failed_keeper(u32::MAX).await;
        assert!(changed.unwrap_err().to_string().contains("after 10 retries"));
        assert_eq!(document.cluster.unwrap().status.current_generation, 0);
    }
}
