//! Cluster data that a person or a broken program wrote can be judged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stolon_core::sentinel::violations;
use stolon_model::{ClusterDocument, Document as _, UsableCluster};

fuzz_target!(|text: &str| {
    let Ok(document) = ClusterDocument::from_json(text) else { return };
    if let Ok(cluster) = UsableCluster::try_from(document) {
        violations(cluster.data());
    }
});
