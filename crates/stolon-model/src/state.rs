//! The two documents that a keeper keeps on its own disk. Field names are Go's, capitalised.

use crate::json::document;
use crate::spec::Parameters;
use crate::uid::{ClusterUid, InstanceUid, KeeperUid};

document! {
    /// File `keeperstate`: who this keeper is.
    pub struct KeeperState {
        /// Uid of the keeper, chosen once.
        uid: KeeperUid = "UID", keep;
        /// The cluster that the keeper last belonged to; empty before the first.
        cluster_uid: ClusterUid = "ClusterUID", keep;
    }
}

document! {
    /// File `dbstate`: which instance lies in the data directory, and how far it is.
    pub struct InstanceState {
        /// Uid of the instance; empty: none.
        uid: InstanceUid = "UID", keep;
        /// The last generation that was fully reached.
        generation: i64 = "Generation", keep;
        /// Whether the creation of the instance has begun and not ended: what lies there is worth nothing.
        initializing: bool = "Initializing", keep;
        /// Parameters found at initialisation.
        init_pg_parameters: Option<Parameters> = "InitPGParameters", keep;
    }
}
