//! What is going on and what is wrong, in sentences.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use stolon_core::condition::Finding;
use stolon_core::sentinel::{Eligibility, eligibility, violations};
use stolon_model::{
    ByteCount, FailOutcome, Keeper, KeeperReport, KeeperUid, PendingParameter, RequestKind, Switchover,
    UsableCluster,
};

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
    /// How often PostgreSQL ended unexpectedly within the minute before the report.
    #[serde(skip_serializing_if = "is_none")]
    pub restarts: u32,
    /// Parameters that were left out or need attention.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parameter_problems: Vec<String>,
    /// PostgreSQL must be restarted before all its parameters are in force.
    #[serde(skip_serializing_if = "is_false")]
    pub pending_restart: bool,
    /// The parameters that wait for that restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending_parameters: Vec<Pending>,
}

/// A parameter that waits for a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// Its name.
    pub name: String,
    /// The value that PostgreSQL runs with.
    pub in_force: String,
    /// The value that it would start with; null: its default.
    pub wanted: Option<String>,
}

impl From<&PendingParameter> for Pending {
    fn from(pending: &PendingParameter) -> Pending {
        let PendingParameter { name, in_force, wanted } = pending.clone();
        Pending { name, in_force, wanted }
    }
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = self.wanted.as_deref().unwrap_or("its default");
        write!(f, "{} ({} → {wanted})", self.name, self.in_force)
    }
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_none(count: &u32) -> bool {
    *count == 0
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
        restarts: said.restarts,
        parameter_problems: said.parameter_problems.clone().unwrap_or_default(),
        pending_restart: said.pending_restart,
        pending_parameters: said.pending_parameters.iter().flatten().map(Pending::from).collect(),
    };
    (activity != Activity::default()).then_some(activity)
}

impl Activity {
    fn restart_sentence(&self) -> Option<String> {
        let how = "stolonctl restart, or set automaticPgRestart";
        let pending: Vec<String> = self.pending_parameters.iter().map(Pending::to_string).collect();
        self.pending_restart.then(|| match pending.is_empty() {
            true => "PostgreSQL must be restarted before all its parameters are in force".to_owned(),
            false => format!("PostgreSQL must be restarted for {}: {how}", pending.join(", ")),
        })
    }

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
        if self.restarts > 0 {
            let times =
                if self.restarts == 1 { "once".to_owned() } else { format!("{} times", self.restarts) };
            sentences.push(format!("problem: PostgreSQL ended unexpectedly {times} within a minute"));
        }
        sentences.extend(self.parameter_problems.iter().cloned());
        sentences.extend(self.restart_sentence());
        sentences.iter().map(|sentence| sentence.replace('\n', " ")).collect()
    }
}

/// `, 12.0 MiB of 30.5 MiB (39%)`
fn progress(done: u64, total: u64) -> String {
    match (done, total) {
        (0, 0) => String::new(),
        (done, 0) => format!(", {}", ByteCount(done)),
        (done, total) => {
            let percent = u128::from(done.min(total)) * 100 / u128::from(total);
            format!(", {} of {} ({percent}%)", ByteCount(done), ByteCount(total))
        }
    }
}

/// What troubles the cluster as a whole: what nobody else tells first, then the reasons of the leading sentinel, or, where it gives none (Stolon's sentinels give none),
/// what the cluster data tell.
pub fn of_cluster(
    cluster: &UsableCluster,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
    holds: Vec<String>,
    findings: &[Finding],
) -> Vec<String> {
    let data = cluster.data();
    let mut problems: Vec<String> =
        findings.iter().filter(|it| is_told_here(it)).map(Finding::to_string).collect();
    problems.extend(if holds.is_empty() { told_by_cluster_data(cluster, reports, findings) } else { holds });
    problems.extend(data.keepers.values().filter_map(of_request));
    problems.extend(data.cluster.status.switchover.as_ref().map(of_switchover));
    problems
        .extend(violations(data).iter().map(|violation| format!("the cluster data are broken: {violation}")));
    for (uid, report) in reports.iter().filter(|(uid, _)| !data.keepers.contains_key(*uid)) {
        let sentences = of_keeper(report).map(|activity| activity.sentences()).unwrap_or_default();
        problems
            .extend(sentences.iter().map(|sentence| format!("{uid}, which is not registered: {sentence}")));
    }
    problems
}

/// Everything else stands in the tables, or among the reasons of the sentinel.
fn is_told_here(finding: &Finding) -> bool {
    matches!(
        finding,
        Finding::NobodyToWaitFor { .. }
            | Finding::CommitsWait(_)
            | Finding::TooFewForQuorum { .. }
            | Finding::CommitsStall(_)
            | Finding::NobodyDecides { .. }
            | Finding::PrimaryDisk(..)
            | Finding::StandbyDisk(..)
            | Finding::LittleRoom { .. }
            | Finding::Archiving(..)
            | Finding::SlotNearBound { .. }
            | Finding::SlotsNotCopied(..)
            | Finding::CannotReach(..)
    )
}

/// What became of the last request about a keeper.
fn of_request(keeper: &Keeper) -> Option<String> {
    let request = keeper.status.fail_request.as_ref()?;
    let command = request.kind.as_ref().map_or("failkeeper", RequestKind::as_str);
    let outcome = match request.outcome.as_ref() {
        None => return Some(format!("stolonctl {command} {}: under way", keeper.uid)),
        Some(FailOutcome::Replaced) => "done",
        Some(FailOutcome::Counted) if request.kind.is_some() => "carried out",
        Some(FailOutcome::Counted) => "counted as failed once",
        Some(FailOutcome::Lapsed) => "lapsed",
        Some(FailOutcome::Nothing | FailOutcome::Unknown(_)) => "nothing happened",
    };
    Some(format!("stolonctl {command} {}: {outcome}, {}", keeper.uid, request.because))
}

/// How far a planned change of the primary is, or what became of the last one.
fn of_switchover(record: &Switchover) -> String {
    let who = if record.leaving { "switchover (the primary's keeper was told to end)" } else { "switchover" };
    match (&record.outcome, &record.stage) {
        (None, None) => format!("{who}: asked for"),
        (None, Some(stage)) => format!("{who}: under way, {}", stage.as_str()),
        (Some(outcome), _) => format!("{who}: {}, {}", outcome.as_str(), record.because),
    }
}

fn told_by_cluster_data(
    cluster: &UsableCluster,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
    findings: &[Finding],
) -> Vec<String> {
    let data = cluster.data();
    match data.primary() {
        Some(_) => findings
            .iter()
            .find(|it| matches!(it, Finding::PrimarySilent(_) | Finding::PrimaryFailed(_)))
            .map_or_else(Vec::new, |fault| no_failover(cluster, fault, reports)),
        None if reports.is_empty() && data.keepers.is_empty() => {
            vec![
                "no keeper reports: start stolon-keeper on the machines that are to hold the data".to_owned(),
            ]
        }
        None => Vec::new(),
    }
}

/// Why a primary that does not work is still the primary.
fn no_failover(
    cluster: &UsableCluster,
    fault: &Finding,
    reports: &BTreeMap<KeeperUid, KeeperReport>,
) -> Vec<String> {
    let mut sentences: Vec<String> = eligibility(cluster, reports)
        .into_iter()
        .map(|Eligibility { keeper, rejection, .. }| match rejection {
            Some(reason) => format!("{keeper} cannot take over: {reason}"),
            None => format!("{keeper} can take over in the leading sentinel's next round"),
        })
        .collect();
    match sentences.is_empty() {
        true => vec![format!("{fault}, and there is no standby that could take over")],
        false => {
            sentences.insert(0, fault.to_string());
            sentences
        }
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
    }
}
