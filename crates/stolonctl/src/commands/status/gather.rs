//! What `status` shows, and where it comes from.

use std::collections::BTreeMap;

use serde::Serialize;
use stolon_core::condition::{Evidence, Finding, findings};
use stolon_core::sentinel::{Leadership, violations};
use stolon_model::{
    ClusterData, ClusterDocument, InstanceUid, KeeperReport, KeeperUid, Pause, SentinelUid, Timestamp,
    UsableCluster,
};
use stolon_runtime::Failure;
use stolon_store::Versioned;

use super::activity::{self, Activity};
use super::failover::{self, FailoverLine};
use super::instances::{self, InstanceLine};
use super::slots::{self, SlotLine};
use crate::stored_cluster::{StoredCluster, cannot_get, checked};

/// The whole answer; the JSON has the fields in this order.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Sorted by uid.
    pub sentinels: Vec<SentinelLine>,
    /// Sorted by uid.
    pub proxies: Vec<ProxyLine>,
    /// Sorted by uid.
    pub keepers: Vec<KeeperLine>,
    /// The cluster as a whole.
    pub cluster: ClusterLine,
    /// How many rules the cluster data break; the sentences are among the problems.
    #[serde(skip)]
    pub broken_rules: usize,
    /// What is wrong, the worst first; for `--check`.
    #[serde(skip)]
    pub findings: Vec<Finding>,
    /// The tree of keepers below the primary; text only.
    #[serde(skip)]
    pub tree: Vec<String>,
}

/// A sentinel that reports.
#[derive(Clone, Debug, Serialize)]
pub struct SentinelLine {
    /// Uid.
    pub uid: String,
    /// Whether it leads.
    pub leader: bool,
}

/// A proxy that reports.
#[derive(Clone, Debug, Serialize)]
pub struct ProxyLine {
    /// Uid.
    pub uid: String,
    /// The generation that the proxy has applied.
    pub generation: i64,
}

/// A registered keeper.
#[derive(Clone, Debug, Serialize)]
pub struct KeeperLine {
    /// Uid.
    pub uid: String,
    /// Where its PostgreSQL listens, or why that is not known.
    pub listen_address: String,
    /// Whether the keeper reports.
    pub healthy: bool,
    /// Whether its PostgreSQL works.
    pub pg_healthy: bool,
    /// The generation that it must reach.
    pub pg_wanted_generation: i64,
    /// The generation that it has reached.
    pub pg_current_generation: i64,
    /// What its PostgreSQL is.
    #[serde(flatten)]
    pub instance: InstanceLine,
    /// Its replication slots, those that hold most first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<SlotLine>,
    /// What it is doing and what troubles it, when there is something to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
}

/// The cluster as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterLine {
    /// Whether there are cluster data to work with; says nothing about PostgreSQL.
    pub available: bool,
    /// The keeper of the primary; empty when there is none.
    pub master_keeper_uid: String,
    /// The primary; empty when there is none.
    pub master_db_uid: String,
    /// The pause that an operator asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<PausedLine>,
    /// What a failure of the primary would come to now; absent without a primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<FailoverLine>,
    /// What troubles the cluster, one sentence each: why there is no failover, for example.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Nobody is elected for a while.
#[derive(Clone, Debug, Serialize)]
pub struct PausedLine {
    /// When it began.
    pub since: String,
    /// When it lapses.
    pub until: String,
    /// Who asked for it.
    pub operator: String,
    /// The reason that was given.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// All of it, for people.
    #[serde(skip)]
    pub sentence: String,
}

impl From<&Pause> for PausedLine {
    fn from(pause: &Pause) -> PausedLine {
        PausedLine {
            since: pause.since.to_string(),
            until: pause.until.to_string(),
            operator: pause.operator.clone(),
            reason: pause.reason.clone(),
            sentence: Finding::Paused(pause.clone()).to_string(),
        }
    }
}

/// Ask everything at once; the first failure, in this order, is the answer.
pub async fn gather(cluster: &StoredCluster) -> Result<Status, Failure> {
    let store = &cluster.store;
    let (leader, sentinels, proxies, document, keepers) = tokio::join!(
        store.leader(),
        store.sentinel_reports(),
        store.proxy_reports(),
        store.cluster_document(),
        store.keeper_reports(),
    );
    let leader = leader.map_err(|error| Failure::because("cannot get leader sentinel", &error))?;
    let sentinels = sentinels.map_err(|error| Failure::because("cannot get sentinels info", &error))?;
    let proxies = proxies.map_err(|error| Failure::because("cannot get proxies info", &error))?;
    let found: Option<Versioned<ClusterDocument>> = document.map_err(cannot_get)?;
    let document = found.map(|found| found.value);
    let available = document.as_ref().is_some_and(|document| document.instances.is_some());
    let cluster = checked(document)?;
    let data = cluster.data();
    let reports = keepers.map_err(|error| Failure::because("cannot get keepers info", &error))?;

    let holds =
        leader.as_ref().and_then(|leader| sentinels.get(leader)).and_then(|report| report.holds.clone());
    let sentinels: Vec<SentinelUid> = sentinels.into_keys().collect();
    let evidence = Evidence {
        cluster: &cluster,
        keepers: &reports,
        proxies: &proxies,
        sentinels: &sentinels,
        leader: leader.as_ref(),
    };
    let findings = findings(evidence);
    let leadership = if leader.is_some() { Leadership::Held } else { Leadership::Vacant };
    let sentinels = sentinels
        .into_iter()
        .map(|uid| SentinelLine { leader: leader.as_ref() == Some(&uid), uid: uid.to_string() })
        .collect();
    let proxies = proxies
        .into_iter()
        .map(|(uid, report)| ProxyLine { uid: uid.to_string(), generation: report.generation })
        .collect();
    Ok(Status {
        sentinels,
        proxies,
        keepers: keeper_lines(data, &reports),
        cluster: ClusterLine {
            failover: failover::of_cluster(&cluster, &reports, leadership),
            ..cluster_line(&cluster, &reports, holds.unwrap_or_default(), &findings, available)
        },
        broken_rules: violations(data).len(),
        tree: tree(data),
        findings,
    })
}

fn keeper_lines(data: &ClusterData, reports: &BTreeMap<KeeperUid, KeeperReport>) -> Vec<KeeperLine> {
    let now = Timestamp::utc(jiff::Timestamp::now());
    data.keepers
        .iter()
        .map(|(uid, keeper)| {
            let instance = data.instance_of(uid);
            let listen_address = match instance.map(|instance| &instance.status) {
                None => "(no db assigned)".to_owned(),
                Some(status) if status.listen_address.is_empty() => "(unknown)".to_owned(),
                Some(status) => format!("{}:{}", status.listen_address, status.port),
            };
            KeeperLine {
                uid: uid.to_string(),
                listen_address,
                healthy: keeper.status.healthy,
                pg_healthy: instance.is_some_and(|instance| instance.status.healthy),
                pg_wanted_generation: instance.map_or(0, |instance| instance.generation),
                pg_current_generation: instance.map_or(0, |instance| instance.status.current_generation),
                instance: instances::line_of(data, reports, uid, now),
                slots: slots::of_keeper(data, reports.get(uid)),
                activity: reports.get(uid).and_then(activity::of_keeper),
            }
        })
        .collect()
}

fn cluster_line(
    cluster: &UsableCluster,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
    holds: Vec<String>,
    findings: &[Finding],
    available: bool,
) -> ClusterLine {
    let data = cluster.data();
    let primary = data.cluster.status.primary.clone().unwrap_or_default();
    ClusterLine {
        available,
        master_keeper_uid: data
            .primary()
            .map(|instance| instance.spec.keeper_uid.to_string())
            .unwrap_or_default(),
        master_db_uid: primary.to_string(),
        paused: data.cluster.pause.as_ref().map(PausedLine::from),
        failover: None,
        problems: activity::of_cluster(cluster, reports, holds, findings),
    }
}

/// The keepers below the primary, depth first over the followers. An instance that the cluster data do not hold is
/// skipped, and so is one that was shown already.
fn tree(data: &ClusterData) -> Vec<String> {
    let Some(primary) = data.primary() else { return Vec::new() };
    let mut lines = vec![format!("{} (master)", primary.spec.keeper_uid)];
    let mut shown = vec![primary.uid.clone()];
    branches(data, &data.cluster.status.primary.clone().unwrap_or_default(), "", &mut shown, &mut lines);
    lines
}

fn branches(
    data: &ClusterData,
    parent: &InstanceUid,
    prefix: &str,
    shown: &mut Vec<InstanceUid>,
    lines: &mut Vec<String>,
) {
    let followers =
        data.instances.get(parent).and_then(|instance| instance.spec.followers.as_deref()).unwrap_or(&[]);
    for (index, uid) in followers.iter().enumerate() {
        let Some(follower) = data.instances.get(uid) else { continue };
        if shown.contains(uid) {
            continue;
        }
        shown.push(uid.clone());
        let (branch, below) =
            if index + 1 == followers.len() { ("└─", "  ") } else { ("├─", "│ ") };
        lines.push(format!("{prefix}{branch}{}", follower.spec.keeper_uid));
        branches(data, uid, &format!("{prefix}{below}"), shown, lines);
    }
}
