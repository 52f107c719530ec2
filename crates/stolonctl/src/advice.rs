//! What is legal and yet probably a mistake: a warning on stderr, or a refusal with `--strict`.

use std::collections::BTreeSet;

use stolon_core::settings::{self, ProblemKind, SettingProblem};
use stolon_model::{ClusterDocument, ClusterSpec, Parameters, UnknownField};
use stolon_runtime::UsageError;

use crate::output;
use crate::stored_cluster::StoredCluster;

/// What is done about warnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Print them and go on.
    Warn,
    /// Print them and change nothing.
    Refuse,
}

impl Strictness {
    /// `--strict`.
    pub fn from_flag(strict: bool) -> Self {
        if strict { Strictness::Refuse } else { Strictness::Warn }
    }
}

/// One thing to say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Advice {
    /// Probably a mistake.
    Warning(String),
    /// Without effect, and harmless.
    Notice(String),
}

/// Print every piece of advice once.
///
/// # Errors
/// There are warnings, and `--strict` was given.
pub fn give(advice: &[Advice], strictness: Strictness) -> Result<(), UsageError> {
    let mut said = BTreeSet::new();
    let mut warnings = 0;
    for advice in advice.iter().filter(|advice| said.insert(*advice)) {
        match advice {
            Advice::Warning(sentence) => {
                warnings += 1;
                output::note(&format!("warning: {sentence}"));
            }
            Advice::Notice(sentence) => output::note(&format!("note: {sentence}")),
        }
    }
    match (strictness, warnings) {
        (_, 0) | (Strictness::Warn, _) => Ok(()),
        (Strictness::Refuse, count) => Err(UsageError::new(format!(
            "refused because of --strict: {count} warning{}",
            if count == 1 { "" } else { "s" }
        ))
        .hint("nothing was changed; correct the specification, or leave --strict out")),
    }
}

/// Refuses what could never be done, and is not stored already: a specification from before keeps its other fields changeable.
///
/// # Errors
/// The first such thing.
pub fn refuse_impossible(what: &str, old: &ClusterSpec, new: &ClusterSpec) -> Result<(), UsageError> {
    let known = old.impossibilities();
    match new.impossibilities().into_iter().find(|found| !known.contains(found)) {
        Some(found) => Err(UsageError::because(what, &found)),
        None => Ok(()),
    }
}

/// Keys that nobody reads.
pub fn about_unknown(fields: &[UnknownField]) -> Vec<Advice> {
    let told = |field: &UnknownField| match belongs_in_parameters(field) {
        true => format!(
            "{name} is not a field of a cluster specification and is ignored: a parameter of PostgreSQL belongs in \
             pgParameters: {{\"pgParameters\":{{\"{name}\":\"…\"}}}}",
            name = field.path
        ),
        false => field.to_string(),
    };
    fields.iter().map(|field| Advice::Warning(told(field))).collect()
}

fn belongs_in_parameters(field: &UnknownField) -> bool {
    settings::MAJORS.clone().any(|major| settings::exists(major, &field.path))
}

/// Everything about a whole specification.
pub fn about_spec(spec: &ClusterSpec, majors: &BTreeSet<u16>) -> Vec<Advice> {
    let empty = Parameters::new();
    let mut advice = about_fields(spec);
    advice.extend(about_parameters(spec.pg_parameters.as_ref().unwrap_or(&empty), majors));
    advice
}

/// The same for a patched one; of the parameters only those that the patch mentions.
pub fn about_changed_spec(
    spec: &ClusterSpec,
    mentioned: &BTreeSet<String>,
    majors: &BTreeSet<u16>,
) -> Vec<Advice> {
    let mut changed = spec.clone();
    if let Some(parameters) = changed.pg_parameters.as_mut() {
        parameters.retain(|name, _| mentioned.contains(name));
    }
    about_spec(&changed, majors)
}

fn about_fields(spec: &ClusterSpec) -> Vec<Advice> {
    let mut advice: Vec<Advice> = spec
        .remarks()
        .into_iter()
        .map(|remark| match remark.is_warning() {
            true => Advice::Warning(remark.to_string()),
            false => Advice::Notice(remark.to_string()),
        })
        .collect();
    let restore = spec.pitr_config.as_ref().map_or("", |config| &config.data_restore_command);
    if uses_removed_option(restore) {
        let sentence =
            "dataRestoreCommand: pg_basebackup has no option -x since PostgreSQL 10: write -X stream";
        advice.push(Advice::Warning(sentence.to_owned()));
    }
    advice
}

/// `pg_basebackup … -x`, as guides for PostgreSQL 9 have it. A word of several short options counts if `x` is the last.
fn uses_removed_option(command: &str) -> bool {
    let mut words = command.split_whitespace().skip_while(|word| !word.ends_with("pg_basebackup"));
    words.any(|word| {
        let letters = word.strip_prefix('-').unwrap_or_default();
        letters.ends_with('x') && letters.len() <= 3 && letters.chars().all(|letter| "Prvgx".contains(letter))
    })
}

/// The major versions that the keepers have reported so far, as the cluster data and the keepers themselves say.
/// Reports that cannot be read are left out.
pub async fn known_majors(cluster: &StoredCluster, document: Option<&ClusterDocument>) -> BTreeSet<u16> {
    let keepers = document.and_then(|document| document.keepers.as_ref());
    let registered = keepers
        .into_iter()
        .flat_map(|keepers| keepers.values())
        .map(|keeper| &keeper.status.postgres_binary_version);
    let reports = cluster.store.keeper_reports().await.unwrap_or_default();
    let reported = reports.values().map(|report| &report.postgres_binary_version);
    registered
        .chain(reported)
        .filter_map(|version| u16::try_from(version.major).ok())
        .filter(|major| *major > 0)
        .collect()
}

/// Parameters that PostgreSQL will not accept, in the keepers' words.
fn about_parameters(parameters: &Parameters, majors: &BTreeSet<u16>) -> Vec<Advice> {
    if majors.is_empty() {
        return refused_by_every_version(parameters);
    }
    majors
        .iter()
        .flat_map(|major| settings::check(*major, parameters))
        .map(|problem| advice_on(&problem, problem.to_string()))
        .collect()
}

/// The problems that every supported version has, for a cluster of which no keeper has reported its version.
fn refused_by_every_version(parameters: &Parameters) -> Vec<Advice> {
    let (first, last) = (*settings::MAJORS.start(), *settings::MAJORS.end());
    let older: Vec<Vec<SettingProblem>> =
        (first..last).map(|major| settings::check(major, parameters)).collect();
    settings::check(last, parameters)
        .iter()
        .filter(|problem| older.iter().all(|problems| problems.iter().any(|other| other.name == problem.name)))
        .map(|problem| match problem.kind {
            ProblemKind::Unknown | ProblemKind::BadValue | ProblemKind::OutOfRange => advice_on(
                problem,
                format!(
                    "{problem} (no keeper has reported its version yet; no PostgreSQL from {first} to {last} accepts it)"
                ),
            ),
            _ => advice_on(problem, problem.to_string()),
        })
        .collect()
}

fn advice_on(problem: &SettingProblem, sentence: String) -> Advice {
    if problem.is_error() { Advice::Warning(sentence) } else { Advice::Notice(sentence) }
}
