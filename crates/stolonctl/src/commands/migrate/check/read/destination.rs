//! What the store tells about the cluster that the legacy is to move into. There may be no cluster yet: keepers report before.

use stolon_core::postgres::Version;
use stolon_model::KeeperReport;

use super::super::inventory::{Destination, DestinationKeeper, Room};
use crate::stored_cluster::{StoredCluster, cannot_get};

/// What the keepers report, and what the specification says, if there is one.
///
/// # Errors
/// The store does not answer.
pub async fn destination(cluster: &StoredCluster) -> anyhow::Result<Destination> {
    let document = cluster.document().await?;
    let spec = document.and_then(|found| found.value.cluster?.spec);
    let reports = cluster.store.keeper_reports().await.map_err(cannot_get)?;
    Ok(Destination {
        keepers: reports.values().filter_map(keeper).collect(),
        has_hba: spec.as_ref().is_some_and(|spec| spec.pg_hba.is_some()),
        merges_parameters: spec.as_ref().is_none_or(|spec| spec.effective().merge_pg_parameters),
    })
}

/// None for a keeper that has not found out yet what it runs.
fn keeper(report: &KeeperReport) -> Option<DestinationKeeper> {
    let said = &report.postgres_binary_version;
    let version = Version { major: u16::try_from(said.major).ok()?, minor: u16::try_from(said.minor).ok()? };
    (version.major > 0).then(|| DestinationKeeper { uid: report.uid.clone(), version, room: room(report) })
}

/// Of the file system that its data are on. Reports say so once there is a PGDATA.
fn room(report: &KeeperReport) -> Option<Room> {
    let systems = report.activity.as_ref()?.file_systems.as_ref()?;
    let holds_data = |uses: &Vec<String>| uses.iter().any(|it| it == "data");
    let data = systems.iter().find(|system| system.uses.as_ref().is_some_and(holds_data))?;
    Some(Room { free: data.free_bytes, total: data.total_bytes })
}
