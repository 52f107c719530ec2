//! One cluster in its store, as the commands see it.

use std::sync::Arc;
use std::time::Duration;

use stolon_model::{ClusterData, ClusterDocument};
use stolon_runtime::{Backoff, CommonArgs, Failure, UsageError};
use stolon_store::{ClusterStore, Expected, StoreError, StoreOptions, Versioned};

/// How often a conditional write is begun anew after somebody else wrote. The leading sentinel writes all the time,
/// so one collision is no reason to give up.
const ATTEMPTS: u32 = 10;

/// What an edit of the cluster data asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Write the changed document.
    Write,
    /// Everything is as it should be.
    Unneeded,
}

/// One cluster in its store.
pub struct Session {
    /// The store.
    pub store: Arc<dyn ClusterStore>,
    /// `--store-timeout`: no request takes longer.
    pub timeout: Duration,
}

impl Session {
    /// Open the store that the flags name. Nothing is sent yet.
    ///
    /// # Errors
    /// A flag is missing or wrong.
    pub fn open(common: &CommonArgs) -> anyhow::Result<Session> {
        let options: StoreOptions = common.store_options()?;
        let store = stolon_store::open(&options)
            .map_err(|error| UsageError::new(format!("cannot create kv store: {error}")))?;
        Ok(Session { store, timeout: options.timeout })
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
    /// It does not, or is not.
    pub async fn workable_document(&self) -> Result<Versioned<ClusterDocument>, Failure> {
        let found = self.document().await?.ok_or_else(no_cluster_data)?;
        ClusterData::try_from(found.value.clone()).map_err(unworkable)?;
        Ok(found)
    }

    /// The cluster data with a valid specification.
    ///
    /// # Errors
    /// There are none, or they cannot be worked with.
    pub async fn cluster_data(&self) -> Result<ClusterData, Failure> {
        checked(self.document().await?.map(|found| found.value))
    }

    /// Change the document with a conditional write, begun anew when somebody else wrote in between.
    ///
    /// # Errors
    /// Those of `read` and `edit`, and of the write. Nothing was written unless the message says that this is not known.
    pub async fn change(
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

/// The cluster data of a document, with a valid specification.
///
/// # Errors
/// There are none, or they cannot be worked with.
pub fn checked(document: Option<ClusterDocument>) -> Result<ClusterData, Failure> {
    let data = ClusterData::try_from(document.ok_or_else(no_cluster_data)?).map_err(unworkable)?;
    data.cluster.spec.validate().map_err(|invalid| {
        Failure::new(format!("clusterdata validation failed: {invalid}"))
            .hint("the stored specification is invalid; stolonctl update with a valid one repairs it")
    })?;
    Ok(data)
}

/// The store did not give the cluster data.
pub fn cannot_get(error: StoreError) -> Failure {
    Failure::new(format!("cannot get cluster data: {error}"))
}

fn cannot_update(error: &StoreError) -> Failure {
    let failure = Failure::new(format!("cannot update cluster data: {error}"));
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

fn unworkable(error: stolon_model::BadClusterData) -> Failure {
    Failure::new(error.to_string()).hint(
        "stolonctl clusterdata write puts a saved document back, stolonctl init creates the cluster anew",
    )
}
