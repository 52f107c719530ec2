//! Cluster data that decisions can be made on.

use crate::cluster::{BadClusterData, ClusterData, ClusterDocument};
use crate::effective::EffectiveSpec;

/// Cluster data and their validated specification. It is made where a document is read; whoever has one need not
/// check anything again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsableCluster {
    data: ClusterData,
    spec: EffectiveSpec,
}

impl UsableCluster {
    /// The cluster data.
    pub fn data(&self) -> &ClusterData {
        &self.data
    }

    /// Their specification, with its defaults filled in.
    pub fn spec(&self) -> &EffectiveSpec {
        &self.spec
    }

    /// The cluster data alone.
    pub fn into_data(self) -> ClusterData {
        self.data
    }
}

impl TryFrom<ClusterData> for UsableCluster {
    type Error = BadClusterData;

    fn try_from(data: ClusterData) -> Result<Self, BadClusterData> {
        let spec = data.cluster.spec.validate().map_err(BadClusterData::Spec)?;
        Ok(UsableCluster { data, spec })
    }
}

impl TryFrom<ClusterDocument> for UsableCluster {
    type Error = BadClusterData;

    fn try_from(document: ClusterDocument) -> Result<Self, BadClusterData> {
        ClusterData::try_from(document)?.try_into()
    }
}
