//! What is legal and yet probably not meant: said on stderr, or refused with `--strict`.

use std::collections::BTreeSet;

use stolon_model::json::{Decode, Node, NodeKind};
use stolon_model::{ClusterDocument, ClusterSpec, InitMode, Parameters, Role};
use stolon_runtime::UsageError;

use crate::output;
use crate::session::Session;

/// What becomes of advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Say it and go on.
    Warn,
    /// Say it and change nothing.
    Refuse,
}

impl Strictness {
    /// `--strict`.
    pub fn from_flag(strict: bool) -> Self {
        if strict { Strictness::Refuse } else { Strictness::Warn }
    }
}

/// Say it all, once each.
///
/// # Errors
/// There is something to say, and it is to be refused.
pub fn give(advice: &[String], strictness: Strictness) -> Result<(), UsageError> {
    let distinct: BTreeSet<&String> = advice.iter().collect();
    let mut said = BTreeSet::new();
    for sentence in advice.iter().filter(|sentence| said.insert(*sentence)) {
        output::note(&format!("warning: {sentence}"));
    }
    match (strictness, distinct.len()) {
        (_, 0) | (Strictness::Warn, _) => Ok(()),
        (Strictness::Refuse, count) => Err(UsageError::new(format!(
            "refused because of --strict: {count} warning{}",
            if count == 1 { "" } else { "s" }
        ))
        .hint("nothing was changed; correct the specification, or leave --strict out")),
    }
}

/// Keys that nobody reads, in a text that is known to be JSON.
pub fn about_text(text: &str) -> Vec<String> {
    let unknown = stolon_model::unknown_fields(text).unwrap_or_default();
    unknown.iter().map(ToString::to_string).collect()
}

/// Everything about a whole specification.
pub fn about_spec(spec: &ClusterSpec, majors: &BTreeSet<u16>) -> Vec<String> {
    let empty = Parameters::new();
    let mut advice = about_fields(spec);
    advice.extend(about_parameters(spec.pg_parameters.as_ref().unwrap_or(&empty), majors));
    advice
}

/// The same for a changed one; of the parameters only those that the change mentions (`None`: all).
pub fn about_changed_spec(
    spec: &ClusterSpec,
    mentioned: Option<&BTreeSet<String>>,
    majors: &BTreeSet<u16>,
) -> Vec<String> {
    let mut changed = spec.clone();
    if let (Some(parameters), Some(mentioned)) = (changed.pg_parameters.as_mut(), mentioned) {
        parameters.retain(|name, _| mentioned.contains(name));
    }
    about_spec(&changed, majors)
}

/// Names of the parameters that a patch mentions.
pub fn parameters_mentioned(patch: &str) -> BTreeSet<String> {
    let Ok(Node { kind: NodeKind::Object(entries), .. }) = Node::parse(patch) else { return BTreeSet::new() };
    let is_parameters =
        |key: &str| ClusterSpec::SHAPE.field(key).is_some_and(|(name, _)| name == "pgParameters");
    entries
        .iter()
        .filter(|(key, _)| is_parameters(key))
        .filter_map(|(_, value)| match &value.kind {
            NodeKind::Object(parameters) => Some(parameters),
            _ => None,
        })
        .flatten()
        .map(|(name, _)| name.clone())
        .collect()
}

fn about_fields(spec: &ClusterSpec) -> Vec<String> {
    let mut advice = Vec::new();
    let effective = spec.effective();
    if effective.sleep_interval.is_zero() {
        advice.push(
            "sleepInterval is 0s: Stolon's own programs would go round without a pause, ours wait a little"
                .to_owned(),
        );
    }
    if effective.init_mode == InitMode::Existing && effective.role == Role::Standby {
        advice.push(
            "initMode \"existing\" with role \"standby\": the adopted data become a primary that takes writes; \
             use initMode \"pitr\" for a standby cluster"
                .to_owned(),
        );
    }
    advice
}

/// The major versions that the keepers have reported so far, as the cluster data and the keepers themselves say.
/// What cannot be read is not known.
pub async fn known_majors(session: &Session, document: Option<&ClusterDocument>) -> BTreeSet<u16> {
    let keepers = document.and_then(|document| document.keepers.as_ref());
    let registered = keepers
        .into_iter()
        .flat_map(|keepers| keepers.values())
        .map(|keeper| &keeper.status.postgres_binary_version);
    let reports = session.store.keeper_reports().await.unwrap_or_default();
    let reported = reports.values().map(|report| &report.postgres_binary_version);
    registered
        .chain(reported)
        .filter_map(|version| u16::try_from(version.major).ok())
        .filter(|major| *major > 0)
        .collect()
}

/// Parameters that PostgreSQL will not accept, in the keepers' words.
fn about_parameters(parameters: &Parameters, majors: &BTreeSet<u16>) -> Vec<String> {
    let checkable: BTreeSet<u16> =
        majors.iter().copied().filter(|major| settings::MAJORS.contains(major)).collect();
    if checkable.is_empty() {
        return refused_by_every_version(parameters);
    }
    checkable
        .iter()
        .flat_map(|major| settings::check(*major, parameters))
        .map(|problem| problem.to_string())
        .collect()
}

/// No keeper has said yet which PostgreSQL it runs: only what none of them would accept is worth a word.
fn refused_by_every_version(parameters: &Parameters) -> Vec<String> {
    let versions: Vec<Vec<settings::SettingProblem>> =
        settings::MAJORS.iter().map(|major| settings::check(*major, parameters)).collect();
    let Some((newest, older)) = versions.split_last() else { return Vec::new() };
    let (Some(first), Some(last)) = (settings::MAJORS.first(), settings::MAJORS.last()) else {
        return Vec::new();
    };
    newest
        .iter()
        .filter(|problem| older.iter().all(|problems| problems.iter().any(|other| other.name == problem.name)))
        .map(|problem| {
            format!(
                "{problem} (no keeper has reported its version yet; no PostgreSQL from {first} to {last} accepts it)"
            )
        })
        .collect()
}

mod settings {
    pub struct SettingProblem {
        pub name: String,
        pub sentence: String,
    }
    impl std::fmt::Display for SettingProblem {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&self.sentence)
        }
    }
    pub const MAJORS: [u16; 2] = [15, 18];
    pub fn check(_: u16, _: &stolon_model::Parameters) -> Vec<SettingProblem> {
        Vec::new()
    }
}
