//! What is going on and what is wrong, in sentences.

use std::collections::BTreeMap;

use serde::Serialize;
use stolon_core::sentinel::violations;
use stolon_model::{ClusterData, Instance, KeeperReport, KeeperUid};

/// What a keeper reports beyond what Stolon's keepers report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Activity {
    /// The step under way, for example `base backup`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// Bytes copied so far by that step.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes_done: u64,
    /// Bytes to copy in all.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes_total: u64,
    /// Why its last pass did not reach its goal, and what to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// Why its standby receives nothing from the instance that it follows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub replication_problem: String,
    /// Parameters that were left out or need attention.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parameter_problems: Vec<String>,
    /// PostgreSQL must be restarted before all its parameters are in force.
    #[serde(skip_serializing_if = "is_false")]
    pub pending_restart: bool,
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// What a keeper is doing and what troubles it, if anything.
pub fn of_keeper(report: &KeeperReport) -> Option<Activity> {
    let said = report.activity.as_ref()?;
    let activity = Activity {
        step: said.step.clone(),
        bytes_done: said.bytes_done,
        bytes_total: said.bytes_total,
        problem: said.problem.clone(),
        replication_problem: said.replication_problem.clone(),
        parameter_problems: said.parameter_problems.clone().unwrap_or_default(),
        pending_restart: said.pending_restart,
    };
    (activity != Activity::default()).then_some(activity)
}

impl Activity {
    /// One line each.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if !self.step.is_empty() {
            sentences.push(format!("{}{}", self.step, progress(self.bytes_done, self.bytes_total)));
        }
        if !self.problem.is_empty() {
            sentences.push(format!("problem: {}", self.problem));
        }
        if !self.replication_problem.is_empty() {
            sentences.push(format!("problem: {}", self.replication_problem));
        }
        sentences.extend(self.parameter_problems.iter().cloned());
        if self.pending_restart {
            sentences.push("PostgreSQL must be restarted before all its parameters are in force".to_owned());
        }
        sentences.iter().map(|sentence| sentence.replace('\n', " ")).collect()
    }
}

/// `, 12.0 MiB of 30.5 MiB (39%)`
fn progress(done: u64, total: u64) -> String {
    match (done, total) {
        (0, 0) => String::new(),
        (done, 0) => format!(", {}", bytes(done)),
        (done, total) => {
            let percent = u128::from(done.min(total)) * 100 / u128::from(total);
            format!(", {} of {} ({percent}%)", bytes(done), bytes(total))
        }
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // Shown with one digit after the point; the loss of precision is far below that.
    let mut size = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    format!("{size:.1} {unit}")
}

/// What troubles the cluster as a whole. The reasons of the leading sentinel, or, where it gives none (Stolon's sentinels give none),
/// what the cluster data tell.
pub fn of_cluster(
    data: &ClusterData,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
    holds: Vec<String>,
) -> Vec<String> {
    let mut problems = if holds.is_empty() { told_by_cluster_data(data, reports) } else { holds };
    problems
        .extend(violations(data).iter().map(|violation| format!("the cluster data are broken: {violation}")));
    for (uid, report) in reports.iter().filter(|(uid, _)| !data.keepers.contains_key(*uid)) {
        let sentences = of_keeper(report).map(|activity| activity.sentences()).unwrap_or_default();
        problems
            .extend(sentences.iter().map(|sentence| format!("{uid}, which is not registered: {sentence}")));
    }
    problems
}

fn told_by_cluster_data(data: &ClusterData, reports: &BTreeMap<KeeperUid, KeeperReport>) -> Vec<String> {
    match data.primary() {
        Some(primary) => no_failover(data, primary),
        None if reports.is_empty() && data.keepers.is_empty() => {
            vec![
                "no keeper reports: start stolon-keeper on the machines that are to hold the data".to_owned(),
            ]
        }
        None => Vec::new(),
    }
}

/// Why a primary that does not work is still the primary.
fn no_failover(data: &ClusterData, primary: &Instance) -> Vec<String> {
    let keeper_works =
        |keeper: &KeeperUid| data.keepers.get(keeper).is_some_and(|keeper| keeper.status.healthy);
    let keeper = &primary.spec.keeper_uid;
    let fault = match (keeper_works(keeper), primary.status.healthy) {
        (true, true) => return Vec::new(),
        (true, false) => format!("PostgreSQL of the master keeper {keeper} does not work"),
        (false, _) => format!("the master keeper {keeper} does not report"),
    };
    let mut sentences: Vec<String> = data
        .instances
        .values()
        .filter(|instance| instance.uid != primary.uid)
        .map(|standby| match rejection(data, primary, standby, keeper_works(&standby.spec.keeper_uid)) {
            Some(reason) => format!("{} cannot take over: {reason}", standby.spec.keeper_uid),
            None => format!("{} can take over in the leading sentinel's next round", standby.spec.keeper_uid),
        })
        .collect();
    match sentences.is_empty() {
        true => vec![format!("{fault}, and there is no standby that could take over")],
        false => {
            sentences.insert(0, fault);
            sentences
        }
    }
}

/// Why a standby cannot take over, as far as the cluster data tell.
fn rejection(
    data: &ClusterData,
    primary: &Instance,
    standby: &Instance,
    keeper_works: bool,
) -> Option<String> {
    let spec = data.cluster.spec.effective();
    let status = &standby.status;
    let may = data.keepers.get(&standby.spec.keeper_uid).and_then(|keeper| keeper.status.can_be_primary);
    let lag = primary.status.lsn.ahead_of(status.lsn);
    if !keeper_works {
        Some("its keeper does not report".to_owned())
    } else if status.current_generation == 0 {
        Some("its copy was never complete".to_owned())
    } else if !status.healthy {
        Some("its PostgreSQL does not work".to_owned())
    } else if may == Some(false) {
        Some("its keeper was started with --can-be-master=false".to_owned())
    } else if status.timeline != primary.status.timeline {
        Some(format!("it is on timeline {}, the master on {}", status.timeline, primary.status.timeline))
    } else if primary.spec.synchronous_replication {
        let in_sync =
            primary.status.synchronous_standbys.as_ref().is_some_and(|known| known.contains(&standby.uid));
        (!in_sync).then(|| "it is not known to hold every acknowledged commit".to_owned())
    } else if lag > i64::from(spec.max_standby_lag) {
        Some(format!("it is {lag} bytes behind, maxStandbyLag is {}", spec.max_standby_lag))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_readable() {
        assert_eq!(progress(0, 0), "");
        assert_eq!(progress(1536, 0), ", 1.5 KiB");
        assert_eq!(progress(12 << 20, 31_981_568), ", 12.0 MiB of 30.5 MiB (39%)");
        assert_eq!(progress(5, 3), ", 5 B of 3 B (100%)");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }
}
