//! The parameters of `postgresql.conf` (docs: "Parameters that the cluster manages").

use std::collections::BTreeMap;

use stolon_model::{InstanceUid, Parameters, STOLON_PREFIX, SlotWalBound, replication_name};

use super::slot_sync::SlotSync;
use super::slots::bound;
use crate::postgres::{
    RECOVERY_INIT_SYNC_METHOD, RESTART_AFTER_CRASH, Version, WAL_RETRIEVE_RETRY_INTERVAL, is_reported,
    parameter,
};
use crate::settings;

/// Kept for standbys even without slots: 8 segments of 16 MiB.
const LEAST_WAL_SEGMENTS: u64 = 8;
const MEGABYTES_OF_A_SEGMENT: u64 = 16;

/// What the control data of a copied cluster demands of a server that recovers it
/// (PostgreSQL manual, "Hot Standby", administrator's overview).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// At least this many.
    pub max_connections: u64,
    /// At least this many.
    pub max_worker_processes: u64,
    /// At least this many.
    pub max_wal_senders: u64,
    /// At least this many.
    pub max_prepared_transactions: u64,
    /// At least this many.
    pub max_locks_per_transaction: u64,
    /// Must be on when true.
    pub track_commit_timestamp: bool,
    /// What the data were last written with. Demands nothing.
    pub wal_level: WalLevel,
}

/// How much the WAL tells (PostgreSQL manual, `wal_level`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalLevel {
    /// `replica` or less, under whatever name.
    #[default]
    Replica,
    /// `logical`: publications and logical slots need it.
    Logical,
}

impl Demands {
    /// The limits by name, in order.
    pub(crate) fn limits(&self) -> [(&'static str, u64); 5] {
        [
            ("max_connections", self.max_connections),
            ("max_locks_per_transaction", self.max_locks_per_transaction),
            ("max_prepared_transactions", self.max_prepared_transactions),
            ("max_wal_senders", self.max_wal_senders),
            ("max_worker_processes", self.max_worker_processes),
        ]
    }
}

/// A setting that the real PostgreSQL refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The value that was refused; another one is tried again.
    pub value: String,
    /// What it takes instead; none: the setting is left out.
    pub instead: Option<String>,
    /// How that is known.
    pub ground: RefusalGround,
    /// One sentence for people.
    pub sentence: String,
}

/// How it is known that a setting is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalGround {
    /// The binaries were asked; they can be asked again.
    Asked,
    /// A server did not start with it. Only a start can tell whether it is right now, so it waits for another value.
    DidNotStart,
}

/// Refused settings by lower-case name.
pub type Refusals = BTreeMap<String, Refusal>;

/// What the parameters are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterGoal {
    /// `pgParameters`.
    pub user: Parameters,
    /// Parameters captured at initialisation count too.
    pub include_captured: bool,
    /// `--pg-listen-address`.
    pub listen_address: String,
    /// `--pg-port`.
    pub port: String,
    /// `maxStandbys`.
    pub max_standbys: u16,
    /// `additionalWalSenders`.
    pub additional_wal_senders: u16,
    /// `maxSlotWalKeepSize`.
    pub slot_wal_bound: SlotWalBound,
    /// `usePgrewind`.
    pub use_pg_rewind: bool,
    /// Whether logical slots are copied to standbys.
    pub slot_sync: SlotSync,
    /// Names for `synchronous_standby_names`; empty when commits need not wait.
    pub synchronous_names: Vec<String>,
    /// How many of them must acknowledge, whichever they are; none: all. Where PostgreSQL cannot be asked for that, all.
    pub synchronous_quorum: Option<u16>,
    /// What has reached the disk before a server that crashed recovers.
    pub sync_after_crash: SyncAfterCrash,
}

/// How a server that crashed makes sure, before it recovers, that what the one before it wrote is on the disk (PostgreSQL manual,
/// `recovery_init_sync_method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncAfterCrash {
    /// It opens and syncs each file of the data directory, one after the other.
    EachFile,
    /// It has the kernel sync whole file systems. Only for kernels that say when that fails: Linux 5.8 and newer.
    FileSystems,
}

/// What is known of the instance.
#[derive(Clone, Copy, Debug)]
pub struct ParameterFacts<'a> {
    /// Of the binaries.
    pub version: Version,
    /// Captured at initialisation.
    pub captured: Option<&'a Parameters>,
    /// Set when the server will recover a copied cluster.
    pub demands: Option<&'a Demands>,
    /// What the real PostgreSQL refused.
    pub refusals: &'a Refusals,
    /// Slots that exist or are wanted: PostgreSQL does not start with room for fewer.
    pub slots: u64,
    /// What slots may hold by the room that there is, in megabytes; none while that is not known.
    pub room_for_slots: Option<u64>,
}

/// The parameters, and what became of those that could not be taken as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedParameters {
    /// By lower-case name, values raw.
    pub parameters: Parameters,
    /// One sentence each, in order of name.
    pub problems: Vec<ParameterProblem>,
}

/// A parameter that was left out, or changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParameterProblem {
    /// Its name as written.
    pub name: String,
    /// One sentence for people.
    pub sentence: String,
}

/// PostgreSQL's bound on what slots hold (release notes 13).
const MAX_SLOT_WAL_KEEP_SIZE: &str = "max_slot_wal_keep_size";

/// The parameters of `postgresql.conf`. Managed ones win over the operator's, the operator's over captured ones.
pub fn wanted_parameters(goal: &ParameterGoal, facts: ParameterFacts<'_>) -> WantedParameters {
    let mut wanted = WantedParameters::default();
    let mut theirs = Parameters::new();
    if goal.include_captured {
        theirs
            .extend(facts.captured.into_iter().flatten().filter(|(name, _)| is_reported(name)).map(lowered));
    }
    theirs.extend(goal.user.iter().map(lowered));
    wanted.parameters = admit(theirs, facts, &mut wanted.problems);
    let mut managed = managed_parameters(goal, facts, &wanted.parameters);
    match lacks_for_slots(goal, facts, &managed) {
        None => managed.extend(goal.slot_sync.parameters()),
        Some(lack) => wanted.problems.extend(lack),
    }
    if facts.version.has_wal_keep_size() {
        wanted.parameters.remove("wal_keep_segments");
    }
    wanted.parameters.extend(managed);
    // Given on the command line: only whoever starts the server knows which directories it can have.
    wanted.parameters.remove("unix_socket_directories");
    if let Some(demands) = facts.demands {
        raise(&mut wanted, demands);
    }
    wanted.problems.sort();
    wanted.problems.dedup();
    wanted
}

fn lowered((name, value): (&String, &String)) -> (String, String) {
    (name.to_ascii_lowercase(), value.clone())
}

/// Leaves out what this PostgreSQL would not take.
fn admit(
    mut theirs: Parameters,
    facts: ParameterFacts<'_>,
    problems: &mut Vec<ParameterProblem>,
) -> Parameters {
    if facts.version.has_wal_keep_size() {
        translate_wal_keep_segments(&mut theirs);
    }
    let (mut accepted, refused) = settings::accepted(facts.version.major, &theirs);
    problems.extend(
        refused
            .iter()
            .map(|problem| ParameterProblem { name: problem.name.clone(), sentence: problem.to_string() }),
    );
    for (name, refusal) in facts.refusals {
        if accepted.get(name) != Some(&refusal.value) {
            continue;
        }
        match &refusal.instead {
            Some(instead) => accepted.insert(name.clone(), instead.clone()),
            None => accepted.remove(name),
        };
        problems.push(ParameterProblem { name: name.clone(), sentence: refusal.sentence.clone() });
    }
    accepted
}

/// A leftover of PostgreSQL 12 and older, whose name would keep a newer server from starting.
fn translate_wal_keep_segments(parameters: &mut Parameters) {
    let segments = parameters.remove("wal_keep_segments").and_then(|text| text.trim().parse::<u64>().ok());
    if let (Some(segments), false) = (segments, parameters.contains_key("wal_keep_size")) {
        let megabytes = segments.saturating_mul(MEGABYTES_OF_A_SEGMENT);
        parameters.insert("wal_keep_size".to_owned(), format!("{megabytes}MB"));
    }
}

fn managed_parameters(goal: &ParameterGoal, facts: ParameterFacts<'_>, theirs: &Parameters) -> Parameters {
    let version = facts.version;
    let mut managed = Parameters::new();
    let mut set = |name: &str, value: String| {
        managed.insert(name.to_owned(), value);
    };
    set("hot_standby", "on".to_owned());
    set("wal_level", wal_level(version, theirs));
    if version.has_allow_alter_system() {
        set("allow_alter_system", "off".to_owned());
    }
    if version.has_wal_keep_size() {
        let least = (LEAST_WAL_SEGMENTS * MEGABYTES_OF_A_SEGMENT).to_string();
        set("wal_keep_size", theirs.get("wal_keep_size").cloned().unwrap_or(least));
    } else {
        let segments = theirs.get("wal_keep_segments").and_then(|text| text.trim().parse::<u64>().ok());
        set("wal_keep_segments", segments.unwrap_or_default().max(LEAST_WAL_SEGMENTS).to_string());
    }
    set("listen_addresses", goal.listen_address.clone());
    set("port", goal.port.clone());
    if version.has_wal_status()
        && !theirs.contains_key(MAX_SLOT_WAL_KEEP_SIZE)
        && let Some(megabytes) = bound(goal.slot_wal_bound, facts.room_for_slots)
    {
        set(MAX_SLOT_WAL_KEEP_SIZE, format!("{megabytes}MB"));
    }
    set("max_replication_slots", u64::from(goal.max_standbys).max(facts.slots).to_string());
    let senders = 2 * u64::from(goal.max_standbys) + 2 + u64::from(goal.additional_wal_senders);
    set("max_wal_senders", senders.to_string());
    if goal.use_pg_rewind {
        set("wal_log_hints", "on".to_owned());
    }
    let quorum = goal.synchronous_quorum.filter(|_| version.can_stop_receiving());
    set("synchronous_standby_names", synchronous_standby_names(&goal.synchronous_names, quorum));
    let restart_after_crash = (!goal.synchronous_names.is_empty()).then_some(RESTART_AFTER_CRASH);
    let syncs_file_systems = goal.sync_after_crash == SyncAfterCrash::FileSystems;
    let sync =
        (syncs_file_systems && version.has_recovery_init_sync_method()).then_some(RECOVERY_INIT_SYNC_METHOD);
    let defaults = [Some(WAL_RETRIEVE_RETRY_INTERVAL), restart_after_crash, sync];
    for ours in defaults.iter().flatten().filter(|ours| !theirs.contains_key(ours.name)) {
        set(ours.name, ours.own_default.unwrap_or_default().to_owned());
    }
    managed
}

/// Why logical slots cannot be copied although that is asked for; none: they can. Nothing to say where it is not asked for.
fn lacks_for_slots(
    goal: &ParameterGoal,
    facts: ParameterFacts<'_>,
    managed: &Parameters,
) -> Option<Option<ParameterProblem>> {
    if goal.slot_sync == SlotSync::Off {
        return Some(None);
    }
    let sentence = if !facts.version.has_slot_synchronisation() {
        format!(
            "syncLogicalSlots is without effect: PostgreSQL {} copies no logical slots, 17 and newer do",
            facts.version
        )
    } else if managed.get("wal_level").map(String::as_str) != Some("logical") {
        "syncLogicalSlots is without effect as long as wal_level is not logical: set it in pgParameters"
            .to_owned()
    } else {
        return None;
    };
    Some(Some(ParameterProblem { name: "syncLogicalSlots".to_owned(), sentence }))
}

fn wal_level(version: Version, theirs: &Parameters) -> String {
    match theirs.get("wal_level").map(String::as_str) {
        Some("logical") => "logical",
        _ if version.has_wal_level_replica() => "replica",
        _ => "hot_standby",
    }
    .to_owned()
}

/// Names in the form of `synchronous_standby_names`: all of them must acknowledge, or as many as the quorum says.
fn synchronous_standby_names(names: &[String], quorum: Option<u16>) -> String {
    match (names, quorum) {
        ([], _) => String::new(),
        (names, Some(required)) => format!("ANY {required} ({})", names.join(",")),
        ([name], None) => name.clone(),
        (names, None) => format!("{} ({})", names.len(), names.join(",")),
    }
}

/// The names for `synchronous_standby_names`: ours, then literal ones.
pub fn synchronous_names(standbys: &[InstanceUid], external: &[String]) -> Vec<String> {
    standbys.iter().map(replication_name).chain(external.iter().cloned()).collect()
}

/// The instances among application names.
pub fn instances_of(application_names: &[String]) -> Vec<InstanceUid> {
    application_names
        .iter()
        .filter_map(|name| name.strip_prefix(STOLON_PREFIX))
        .map(InstanceUid::from)
        .collect()
}

/// Raises limits to what the copied cluster was run with: with less, recovery stops. Somebody who asked for less is told.
fn raise(wanted: &mut WantedParameters, demands: &Demands) {
    let parameters = &mut wanted.parameters;
    for (name, demanded) in demands.limits() {
        let default = parameter(name).and_then(|parameter| parameter.standby_limit).unwrap_or_default();
        let ours = parameters.get(name).map_or(Some(default), |text| text.trim().parse::<u64>().ok());
        let Some(ours) = ours.filter(|ours| *ours < demanded) else { continue };
        if parameters.insert(name.to_owned(), demanded.to_string()).is_some() && name != "max_wal_senders" {
            let sentence = format!(
                "{name} is {demanded} instead of {ours} as long as this PostgreSQL recovers data that were written with {demanded}"
            );
            wanted.problems.push(ParameterProblem { name: name.to_owned(), sentence });
        }
    }
    if demands.track_commit_timestamp {
        parameters.insert("track_commit_timestamp".to_owned(), "on".to_owned());
    }
}

/// The configured parameters of a first instance as they are written down, to be taken over.
pub fn captured_parameters(configured: &Parameters) -> Parameters {
    reported_parameters(configured, |_| false)
}

/// The configured parameters as they are reported: without those that are managed here. `specified` says
/// whether the operator set a parameter, so that our own defaults stay our own.
pub fn reported_parameters(configured: &Parameters, specified: impl Fn(&str) -> bool) -> Parameters {
    let is_ours = |name: &str, value: &str| {
        parameter(name).is_some_and(|ours| ours.own_default == Some(value) && !specified(ours.name))
    };
    configured
        .iter()
        .filter(|(name, _)| is_reported(name))
        .filter(|(name, value)| !is_ours(name, value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The reported parameters, and what the operator asked for beyond them: what was left out because PostgreSQL does not take it. The
/// sentinel makes the first primary's report the specification's `pgParameters`; what is complained about, and tried again, must not be
/// forgotten there.
pub fn with_what_was_left_out(mut reported: Parameters, asked: &Parameters) -> Parameters {
    let is_there =
        |reported: &Parameters, name: &str| reported.keys().any(|known| known.eq_ignore_ascii_case(name));
    for (name, value) in asked {
        if is_reported(name) && !is_there(&reported, name) {
            reported.insert(name.clone(), value.clone());
        }
    }
    reported
}

#[cfg(test)]
#[path = "parameters_tests.rs"]
mod tests;
