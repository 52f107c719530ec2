//! The record of a migration in the cluster data.

use stolon_model::{ClusterDocument, Migration, MigrationMethod, MigrationStage, ProxyHandover};
use stolon_runtime::Failure;

use crate::stored_cluster::Edit;

/// The migration that is under way.
pub fn of(document: &ClusterDocument) -> Option<&Migration> {
    document.cluster.as_ref()?.status.migration.as_ref()
}

/// The migration that is under way, to be changed.
///
/// # Errors
/// There is none.
pub fn to_change(document: &mut ClusterDocument) -> Result<&mut Migration, Failure> {
    let cluster = document.cluster.as_mut();
    cluster.and_then(|cluster| cluster.status.migration.as_mut()).ok_or_else(nothing_under_way)
}

/// Send clients nowhere for a moment: proxies let go of them, and hold new ones.
pub fn hold_clients(document: &mut ClusterDocument, handover: ProxyHandover) {
    send_nowhere(document, Some(handover));
}

/// Send clients nowhere, until further notice: proxies let go of them and refuse new ones, so that they try the other address that they know.
pub fn turn_clients_away(document: &mut ClusterDocument) {
    send_nowhere(document, None);
}

/// Also where they are sent nowhere already: the time that a sentinel gives whoever is at work begins with the new generation.
fn send_nowhere(document: &mut ClusterDocument, handover: Option<ProxyHandover>) {
    let proxy = document.proxy.get_or_insert_default();
    proxy.spec.primary = None;
    proxy.spec.legacy = None;
    proxy.generation += 1;
    proxy.spec.handover = handover;
}

/// Whether clients are sent to the cluster.
pub fn lets_clients_in(document: &ClusterDocument) -> bool {
    document.proxy.as_ref().is_some_and(|proxy| proxy.spec.primary.is_some())
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
        Some(MigrationStage::RollingBack) => {
            "the cluster is being closed, so that the legacy server takes over again"
        }
        Some(MigrationStage::RolledBack) => {
            "the legacy server has taken over again; the cluster stays closed"
        }
        Some(MigrationStage::Aborting) => "it is being given up",
        Some(MigrationStage::Finishing) => "what was made on the legacy server is being removed",
        Some(MigrationStage::Unknown(word)) => word,
    };
    words.to_owned()
}

/// The migration is over: the change that takes its record out. Never fails, like every change that nothing stands against.
pub fn forget(document: &mut ClusterDocument) -> anyhow::Result<Edit> {
    let Some(cluster) = document.cluster.as_mut() else { return Ok(Edit::Unneeded) };
    cluster.status.migration = None;
    Ok(Edit::Write)
}
