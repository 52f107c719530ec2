//! The part of a keeper in a planned change of the primary (docs: design/007-hand-over.md).

use stolon_model::{ClusterData, InstanceUid, KeeperUid, SwitchoverOutcome, SwitchoverStage};

use super::goal::StopReason;

/// What a planned change of the primary asks of a keeper, with the uid of the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Write a checkpoint.
    Checkpoint(String),
    /// Stop PostgreSQL in order, and say where it ended.
    Stop(String),
    /// Say what was received when nothing more comes.
    Receive(String),
}

impl Part {
    /// The part of `keeper`, if there is a change under way in which it has one.
    pub fn of(cluster: &ClusterData, keeper: &KeeperUid) -> Option<Part> {
        let record = cluster.cluster.status.switchover.as_ref().filter(|record| record.is_open())?;
        let own = &cluster.instance_of(keeper)?.uid;
        let is_primary =
            cluster.cluster.status.primary.as_ref() == Some(own) && record.from.as_ref() == Some(own);
        let is_successor = record.successor.as_ref() == Some(own);
        let uid = record.uid.clone();
        match &record.stage {
            Some(SwitchoverStage::Checkpoint) if is_primary => Some(Part::Checkpoint(uid)),
            Some(SwitchoverStage::Stopping) if is_primary => Some(Part::Stop(uid)),
            Some(SwitchoverStage::Stopping) if is_successor => Some(Part::Receive(uid)),
            _ => None,
        }
    }

    /// By which everybody knows which change is meant.
    pub fn uid(&self) -> &str {
        match self {
            Part::Checkpoint(uid) | Part::Stop(uid) | Part::Receive(uid) => uid,
        }
    }
}

/// Why the instance `own` of `keeper` must be stopped for a planned change. One that was relieved stays stopped, so that it can follow its
/// successor without a rewind; but only while the successor is healthy by the document, since nobody else may be left.
pub(super) fn stop_reason(
    cluster: &ClusterData,
    keeper: &KeeperUid,
    own: &InstanceUid,
) -> Option<StopReason> {
    if let Some(Part::Stop(_)) = Part::of(cluster, keeper) {
        return Some(StopReason::HandsOver);
    }
    let record = cluster.cluster.status.switchover.as_ref()?;
    let was_relieved = record.outcome == Some(SwitchoverOutcome::Done) && record.from.as_ref() == Some(own);
    let primary = cluster.primary().filter(|primary| primary.uid != *own)?;
    let keeper = cluster.keepers.get(&primary.spec.keeper_uid)?;
    let is_well =
        record.successor.as_ref() == Some(&primary.uid) && primary.status.healthy && keeper.status.healthy;
    (was_relieved && is_well).then_some(StopReason::HandedOver)
}
