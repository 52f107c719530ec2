//! The record of a migration in the cluster data.

use stolon_model::{ClusterDocument, Migration, MigrationMethod, MigrationStage};
use stolon_runtime::Failure;

/// The migration that is under way.
pub fn of(document: &ClusterDocument) -> Option<&Migration> {
    document.cluster.as_ref()?.status.migration.as_ref()
}

/// There is none.
pub fn nothing_under_way() -> Failure {
    Failure::new("no migration into this cluster is under way")
        .hint("stolonctl migrate start --source … begins one; --cluster-name says which cluster is meant")
}

/// The method in a word.
pub fn method(record: &Migration) -> &str {
    record.method.as_ref().map_or("physical", MigrationMethod::as_str)
}

/// How far it is, in words.
pub fn stage_in_words(stage: Option<&MigrationStage>) -> String {
    let words = match stage {
        None => "it is being prepared",
        Some(MigrationStage::Following) => "the cluster copies the legacy server, or follows it",
        Some(MigrationStage::Switching) => {
            "the legacy server is being closed, so that the cluster takes over"
        }
        Some(MigrationStage::TakingBack) => "the switch is being taken back: the legacy server opens again",
        Some(MigrationStage::Promoting) => "the cluster is being promoted; there is no way back any more",
        Some(MigrationStage::Switched) => "the cluster takes writes",
        Some(MigrationStage::Aborting) => "it is being given up",
        Some(MigrationStage::Finishing) => "what was made on the legacy server is being removed",
        Some(MigrationStage::Unknown(word)) => word,
    };
    words.to_owned()
}
