//! What a failure of the primary would come to now.

use std::collections::BTreeMap;

use serde::Serialize;
use stolon_core::sentinel::{Leadership, Loss, readiness};
use stolon_model::{KeeperReport, KeeperUid, UsableCluster};

/// Who would take over, and what would be lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailoverLine {
    /// Whether somebody would take over within `failInterval` and some seconds.
    pub ready: bool,
    /// The keeper of who would take over; empty: nobody can.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub keeper_uid: String,
    /// Its db.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub db_uid: String,
    /// WAL that it lacks, by the last reports; 0 in synchronous mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_bytes: Option<u64>,
    /// For how many seconds it has lacked the oldest of that; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_seconds: Option<u64>,
    /// How many standbys, and which, a commit waits for, where any so many will do; empty: it waits for all of them, or for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub quorum: String,
    /// Why the others could not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<RejectedLine>,
    /// All of it but the others, for people.
    pub sentence: String,
}

/// Why a standby could not take over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RejectedLine {
    /// Its keeper.
    pub keeper_uid: String,
    /// Why not.
    pub reason: String,
}

/// None: there is no primary.
pub fn of_cluster(
    cluster: &UsableCluster,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
    leadership: Leadership,
) -> Option<FailoverLine> {
    let readiness = readiness(cluster, |uid| reports.get(uid), leadership)?;
    let sentence = readiness.to_string();
    let rejected = readiness
        .rejected
        .iter()
        .map(|(keeper, reason)| RejectedLine { keeper_uid: keeper.to_string(), reason: reason.to_string() });
    let rejected = rejected.collect();
    let ready = readiness.successor.is_some() && readiness.impediment.is_none();
    let successor = readiness.successor;
    let (loss_bytes, loss_seconds) = match successor.as_ref().map(|successor| successor.loss) {
        None => (None, None),
        Some(Loss::Nothing) => (Some(0), Some(0)),
        Some(Loss::UpTo { bytes, behind }) => (Some(bytes), behind.map(|behind| behind.as_secs())),
    };
    let uids = successor.map(|it| (it.keeper.to_string(), it.instance.to_string()));
    let (keeper_uid, db_uid) = uids.unwrap_or_default();
    let quorum = quorum(cluster).unwrap_or_default();
    Some(FailoverLine { ready, keeper_uid, db_uid, loss_bytes, loss_seconds, quorum, rejected, sentence })
}

fn quorum(cluster: &UsableCluster) -> Option<String> {
    let data = cluster.data();
    let quorum = data.primary()?.quorum()?;
    let keeper = |uid| data.instances.get(uid).map_or_else(String::new, |it| it.spec.keeper_uid.to_string());
    let members: Vec<String> = quorum.members().iter().map(keeper).collect();
    Some(format!("commits wait for any {} of {}", quorum.required, members.join(", ")))
}
