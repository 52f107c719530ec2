//! The state of a cluster, as its store tells it.

use std::collections::BTreeMap;
use std::sync::Arc;

use stolon_model::{
    ClusterData, ClusterDocument, Instance, KeeperReport, KeeperUid, ProxyReport, ProxyUid, Role, SentinelUid,
};
use stolon_store::{ClusterStore, StoreError};

/// One look at the store.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The cluster, once there is one.
    pub data: Option<ClusterData>,
    /// Reports of keepers.
    pub keepers: BTreeMap<KeeperUid, KeeperReport>,
    /// Reports of proxies.
    pub proxies: BTreeMap<ProxyUid, ProxyReport>,
    /// The leading sentinel.
    pub leader: Option<SentinelUid>,
}

impl View {
    /// Look at the store.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn look(store: &Arc<dyn ClusterStore>) -> Result<View, StoreError> {
        let document: Option<ClusterDocument> = store.cluster_document().await?.map(|found| found.value);
        Ok(View {
            data: document.and_then(|document| ClusterData::try_from(document).ok()),
            keepers: store.keeper_reports().await?,
            proxies: store.proxy_reports().await?,
            leader: store.leader().await?,
        })
    }

    /// The keeper whose instance is the elected primary.
    pub fn primary_keeper(&self) -> Option<&KeeperUid> {
        Some(&self.data.as_ref()?.primary()?.spec.keeper_uid)
    }

    /// The keeper that proxies send clients to.
    pub fn route(&self) -> Option<&KeeperUid> {
        let data = self.data.as_ref()?;
        let uid = data.proxy.spec.primary.as_ref()?;
        Some(&data.instances.get(uid)?.spec.keeper_uid)
    }

    /// Lines for people. Positions, which change all the time, only where the lines are redrawn.
    pub fn lines(&self, with_positions: bool) -> Vec<String> {
        let Some(data) = &self.data else {
            return vec!["  no cluster yet".to_owned()];
        };
        let mut lines: Vec<String> = Vec::new();
        let mut names: Vec<&KeeperUid> = data.keepers.keys().chain(self.keepers.keys()).collect();
        names.sort();
        names.dedup();
        for keeper in names {
            lines.push(self.keeper_line(data, keeper, with_positions));
            lines.extend(self.troubles(keeper));
        }
        lines.push(self.route_line(data));
        lines
    }

    fn keeper_line(&self, data: &ClusterData, keeper: &KeeperUid, with_positions: bool) -> String {
        let Some(instance) = data.instance_of(keeper) else {
            return match data.keepers.get(keeper) {
                Some(known) if !known.status.healthy => format!("  {keeper:<10} does not report"),
                _ => format!("  {keeper:<10} waits for a task{}", self.activity(keeper, with_positions)),
            };
        };
        let role = match instance.spec.role {
            Some(Role::Primary) if data.cluster.status.primary.as_ref() == Some(&instance.uid) => "primary",
            Some(Role::Primary) => "deposed",
            _ => "standby",
        };
        let status = &instance.status;
        let health = match (status.healthy, status.current_generation >= instance.generation) {
            // A new instance counts as healthy in the document before it exists.
            _ if status.current_generation == 0 => "being made",
            (true, true) => "healthy",
            (true, false) => "healthy, changing",
            (false, _) => "not healthy",
        };
        let synchronous = match data.primary() {
            Some(primary) if in_sync(primary, instance) => ", synchronous",
            _ => "",
        };
        let address = match status.port.as_str() {
            "" => String::new(),
            port => format!("{}:{port}", status.listen_address),
        };
        let position = match (with_positions, data.primary()) {
            (false, _) => String::new(),
            (true, Some(primary)) if role == "standby" && status.healthy => {
                format!("  {} bytes behind", primary.status.lsn.ahead_of(status.lsn).max(0))
            }
            (true, _) => format!("  at {}", status.lsn),
        };
        format!(
            "  {keeper:<10} {role:<8} {address:<16} {health}{synchronous}{position}{}",
            self.activity(keeper, with_positions)
        )
    }

    fn activity(&self, keeper: &KeeperUid, with_positions: bool) -> String {
        let Some(activity) = self.keepers.get(keeper).and_then(|report| report.activity.as_ref()) else {
            return String::new();
        };
        match (activity.step.as_str(), activity.bytes_total) {
            ("", _) => String::new(),
            (step, total) if total > 0 && with_positions => {
                format!("  [{step} {} %]", activity.bytes_done.min(total) * 100 / total)
            }
            (step, _) => format!("  [{step}]"),
        }
    }

    fn troubles(&self, keeper: &KeeperUid) -> Vec<String> {
        let Some(activity) = self.keepers.get(keeper).and_then(|report| report.activity.as_ref()) else {
            return Vec::new();
        };
        [&activity.problem, &activity.replication_problem]
            .into_iter()
            .filter(|problem| !problem.is_empty())
            .chain(activity.parameter_problems.iter().flatten())
            .flat_map(|sentence| sentence.lines())
            .map(|line| format!("    ! {line}"))
            .collect()
    }

    fn route_line(&self, data: &ClusterData) -> String {
        let leader = match &self.leader {
            Some(leader) => format!("sentinel {leader} leads"),
            None => "no sentinel leads".to_owned(),
        };
        let proxies = self.proxies.len();
        let open = data.proxy.spec.enabled_proxies.iter().flatten().count();
        let route = match self.route() {
            None if data.legacy_for_clients().is_some() => {
                format!("{open} of {proxies} proxies forward to the legacy server")
            }
            Some(keeper) => format!("{open} of {proxies} proxies forward to {keeper}"),
            None => "proxies are closed".to_owned(),
        };
        format!("  {leader}, {route}")
    }
}

/// True when commits of the primary wait for this instance and it has caught up.
fn in_sync(primary: &Instance, instance: &Instance) -> bool {
    let lists = [&primary.spec.synchronous_standbys, &primary.status.synchronous_standbys];
    lists.iter().all(|list| list.iter().flatten().any(|uid| uid == &instance.uid))
}
