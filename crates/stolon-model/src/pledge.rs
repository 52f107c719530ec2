//! What keepers promise each other, and proxies, while the store is away (docs: design/012-lease.md). Spoken between programs, never stored in
//! the store.

use crate::json::document;
use crate::time::GoDuration;
use crate::uid::{ClusterUid, InstanceUid};

document! {
    /// The keeper of a primary wants an instance not to be promoted for a while.
    pub struct PledgeRequest {
        /// The cluster.
        cluster_uid: ClusterUid = "clusterUID", omit;
        /// The primary that is to stay.
        primary: InstanceUid = "master", omit;
        /// The instance that is asked.
        instance: InstanceUid = "dbUID", omit;
    }
}

document! {
    /// An instance is not promoted for a while. Written to disk before the first one is given: a keeper that starts after it does not know
    /// when it was given last.
    pub struct Pledge {
        /// From the moment at which it was given; zero: none is in force.
        term: GoDuration = "term", keep;
    }
}

document! {
    /// An instance cannot be replaced as the primary for a while.
    pub struct Voucher {
        /// The instance.
        instance: InstanceUid = "dbUID", omit;
        /// From the moment at which the question was asked.
        remaining: GoDuration = "remaining", keep;
    }
}
