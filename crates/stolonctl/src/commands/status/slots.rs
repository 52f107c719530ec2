//! Replication slots, and the WAL that they keep their servers from removing.

use serde::Serialize;
use stolon_model::{ByteCount, ClusterData, KeeperReport, SlotReport};

/// A replication slot of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotLine {
    /// Its name.
    pub name: String,
    /// The keeper whose standby it is for; absent: it is for somebody outside the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keeper: Option<String>,
    /// Whether somebody streams from it.
    pub active: bool,
    /// Whether it is a logical one that survives a failover.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub failover: bool,
    /// Whether it is a standby's copy of the primary's, ready to take its place.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub synced: bool,
    /// WAL that it keeps from being removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_bytes: Option<u64>,
    /// How much more may be written before its WAL is removed all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_bytes: Option<u64>,
    /// PostgreSQL's own word, from version 13 on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub wal_status: String,
}

/// The slots of the server of one keeper.
pub fn of_keeper(data: &ClusterData, report: Option<&KeeperReport>) -> Vec<SlotLine> {
    let activity = report.and_then(|report| report.activity.as_ref());
    let slots = activity.into_iter().flat_map(|activity| activity.slots.iter().flatten());
    slots.map(|slot| line(data, slot)).collect()
}

fn line(data: &ClusterData, slot: &SlotReport) -> SlotLine {
    SlotLine {
        name: slot.name.clone(),
        keeper: data.keeper_of_slot(&slot.name).map(ToString::to_string),
        active: slot.active,
        failover: slot.failover,
        synced: slot.synced,
        held_bytes: slot.held_bytes,
        left_bytes: slot.left_bytes,
        wal_status: slot.wal_status.clone(),
    }
}

/// Above the rows of [`row`].
pub const HEADER: [&str; 6] = ["KEEPER", "SLOT", "OF", "STATE", "HOLDS", "LEFT"];

/// A slot of the server of `keeper` as the text shows it.
pub fn row(keeper: &str, slot: &SlotLine) -> Vec<String> {
    let known = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
    let bytes = |count: Option<u64>| known(count.map(|count| ByteCount(count).to_string()));
    let state = match (slot.wal_status.as_str(), slot.active) {
        ("lost", _) => "lost",
        _ if slot.synced => "copy",
        (_, true) => "streaming",
        (_, false) => "nobody streams",
    };
    let (of, holds, left) = (known(slot.keeper.clone()), bytes(slot.held_bytes), bytes(slot.left_bytes));
    vec![keeper.to_owned(), slot.name.clone(), of, state.to_owned(), holds, left]
}
