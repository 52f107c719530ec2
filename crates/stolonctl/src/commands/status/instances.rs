//! What each keeper's PostgreSQL is and does, from the cluster data and the reports.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use stolon_model::{
    ClusterData, DEFAULT_PRIORITY, Instance, KeeperReport, KeeperStatus, KeeperUid, Lsn, PostgresVersion,
    Timestamp,
};

/// What Stolon's `status` does not tell of an instance. Absent is what nobody knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InstanceLine {
    /// `master` or `standby`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Of a standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
    /// Timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u64>,
    /// Position in the WAL: flushed on the master, received on a standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// How far a standby is behind the master's position, in bytes. Both are as old as the keepers' last reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// Of PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where the keeper stands.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Whether it is preferred, where any keeper is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover_priority: Option<u32>,
    /// When PostgreSQL was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// For how long it has run.
    #[serde(skip)]
    pub uptime: Option<Duration>,
}

/// What commits have to do with a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Replication {
    /// Commits do not wait for it.
    Async,
    /// Commits wait for it, and it is in sync.
    Sync,
    /// Commits wait for a quorum that it is a member of, and that holds everything.
    Quorum,
    /// Commits wait for it, and it is not in sync.
    Late,
}

impl Replication {
    /// As `status` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Replication::Async => "async",
            Replication::Sync => "sync",
            Replication::Quorum => "quorum",
            Replication::Late => "late",
        }
    }
}

/// The instance of one keeper at the time `now`.
pub fn line_of(
    data: &ClusterData,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
    keeper: &KeeperUid,
    now: Timestamp,
) -> InstanceLine {
    let report = reports.get(keeper);
    let version = report.map(|report| &report.postgres_binary_version).and_then(version);
    let status = data.keepers.get(keeper).map(|keeper| &keeper.status);
    let zone = status.map(|status| status.zone.clone()).unwrap_or_default();
    let has_choice = data.keepers.values().any(|keeper| keeper.status.priority() != DEFAULT_PRIORITY);
    let failover_priority = status.filter(|_| has_choice).map(KeeperStatus::priority);
    let Some(instance) = data.instance_of(keeper) else {
        return InstanceLine { version, zone, failover_priority, ..InstanceLine::default() };
    };
    let primary = data.primary();
    let is_primary = primary.is_some_and(|primary| primary.uid == instance.uid);
    let state = report.and_then(|report| report.postgres_state.as_ref()).filter(|it| it.uid == instance.uid);
    let works = state.filter(|state| state.healthy);
    let position = works.map(|state| state.lsn);
    let behind = |primary: &Instance| {
        Some(position_of(primary, reports)?.ahead_of(position?)).map(|lag| u64::try_from(lag).unwrap_or(0))
    };
    let started = report.and_then(|report| report.activity.as_ref()).and_then(|activity| activity.started);
    let age = started.map(|started| now.instant().duration_since(started.instant()));
    InstanceLine {
        role: Some(if is_primary { "master" } else { "standby" }),
        replication: primary.filter(|_| !is_primary).map(|primary| replication(primary, instance, reports)),
        timeline: works.map(|state| state.timeline.0),
        position: position.map(|lsn| lsn.to_string()),
        lag_bytes: primary.filter(|_| !is_primary).and_then(behind),
        version,
        zone,
        failover_priority,
        started_at: started.map(|started| started.instant().to_string()),
        uptime: age.map(|age| Duration::try_from(age).unwrap_or_default()),
    }
}

fn version(version: &PostgresVersion) -> Option<String> {
    (version.major != 0).then(|| format!("{}.{}", version.major, version.minor))
}

fn position_of(instance: &Instance, reports: &BTreeMap<KeeperUid, KeeperReport>) -> Option<Lsn> {
    let state = reports.get(&instance.spec.keeper_uid)?.postgres_state.as_ref()?;
    (state.uid == instance.uid && state.healthy).then_some(state.lsn)
}

fn replication(
    primary: &Instance,
    standby: &Instance,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
) -> Replication {
    let waits = primary.spec.synchronous_replication
        && primary.spec.synchronous_standbys.iter().flatten().any(|uid| *uid == standby.uid);
    if waits && let Some(asked) = primary.quorum() {
        let report = reports.get(&primary.spec.keeper_uid).and_then(|report| report.activity.as_ref());
        let holds = report.and_then(|activity| activity.quorum.as_ref()).is_some_and(|it| it.quorum == asked);
        return if holds { Replication::Quorum } else { Replication::Late };
    }
    let state = reports.get(&primary.spec.keeper_uid).and_then(|report| report.postgres_state.as_ref());
    let in_sync = state.and_then(|state| state.synchronous_standbys.as_ref());
    match (waits, in_sync.is_some_and(|in_sync| in_sync.contains(&standby.uid))) {
        (false, _) => Replication::Async,
        (true, true) => Replication::Sync,
        (true, false) => Replication::Late,
    }
}

/// Rounded to its two greatest units: `3d 4h`, `4h 12m`, `12m 5s`, `5s`.
pub fn rounded(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_rounded_to_what_matters() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3_600, "1h 0m"), (86_399, "23h 59m"), (266_400, "3d 2h")]
        {
            assert_eq!(rounded(Duration::from_secs(seconds)), expected);
        }
    }
}
