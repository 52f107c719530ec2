//! Whether PostgreSQL would take the parameters that the operator wants, told before PostgreSQL is asked.
//!
//! Known are the parameters of every major in [`MAJORS`] from its own view `pg_settings`. What cannot be known, such
//! as the content of texts, the parameters of extensions and majors that the table does not cover, passes.

mod table;
mod value;

use stolon_model::Parameters;
use stolon_model::nearest::nearest;

pub use table::MAJORS;

use crate::postgres::{Owner, owner};
use table::Row;
use value::Refusal;

/// What is wrong with a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// No such parameter in this major.
    Unknown,
    /// PostgreSQL could not even read the name.
    BadName,
    /// The value is not of the parameter's type.
    BadValue,
    /// The value is beyond the parameter's limits.
    OutOfRange,
    /// The parameter tells something and cannot be set.
    ReadOnly,
    /// The same parameter is given again in another case.
    Duplicate,
    /// It belongs to the keeper, or to another field of the specification.
    Reserved,
    /// The cluster sets it itself: the given value is ignored. A notice, not an error.
    Managed,
}

/// A parameter that is not handed to PostgreSQL, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingProblem {
    /// The parameter as it was given.
    pub name: String,
    /// What is wrong.
    pub kind: ProblemKind,
    /// The same as one sentence for people, without a full stop.
    pub sentence: String,
}

impl SettingProblem {
    /// False for a mere notice.
    pub fn is_error(&self) -> bool {
        self.kind != ProblemKind::Managed
    }
}

impl std::fmt::Display for SettingProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// What took the place of parameters that no longer exist.
const REPLACED_BY: [(&str, &str); 9] = [
    ("checkpoint_segments", "max_wal_size"),
    ("force_parallel_mode", "debug_parallel_query"),
    ("promote_trigger_file", "stolonctl promote"),
    ("replication_timeout", "wal_sender_timeout"),
    ("trigger_file", "stolonctl promote"),
    ("unix_socket_directory", "unix_socket_directories"),
    ("vacuum_defer_cleanup_age", "hot_standby_feedback"),
    ("wal_keep_segments", "wal_keep_size"),
    ("log_directory_mode", "log_file_mode"),
];

/// Everything that is wrong with `parameters` for PostgreSQL `major`, by name.
pub fn check(major: u16, parameters: &Parameters) -> Vec<SettingProblem> {
    parameters.iter().filter_map(|(name, value)| problem(major, parameters, name, value)).collect()
}

/// The parameters that can be handed to PostgreSQL `major`, and why the others cannot.
pub fn accepted(major: u16, parameters: &Parameters) -> (Parameters, Vec<SettingProblem>) {
    let problems = check(major, parameters);
    let mut kept = parameters.clone();
    kept.retain(|name, _| !problems.iter().any(|problem| problem.name == *name));
    (kept, problems)
}

/// Whether a change of a parameter may come into force only with a restart of PostgreSQL `major`. Also true where that is not
/// known: of the parameters of extensions, and of majors older than the table. Newer ones are taken for the newest that is known.
pub fn may_need_restart(major: u16, name: &str) -> bool {
    table::find(major.min(*MAJORS.end()), name).is_none_or(|row| row.needs_restart)
}

/// Whether PostgreSQL `major`, one of [`MAJORS`], has the parameter.
pub fn exists(major: u16, name: &str) -> bool {
    table::find(major, name).is_some()
}

fn problem(major: u16, parameters: &Parameters, name: &str, value: &str) -> Option<SettingProblem> {
    let found = |kind, sentence| Some(SettingProblem { name: name.to_owned(), kind, sentence });
    if !is_readable_name(name) {
        let sentence =
            format!("{name:?} cannot be the name of a parameter: it consists of letters, digits and _");
        return found(ProblemKind::BadName, sentence);
    }
    if value.contains(['\n', '\0']) {
        let sentence = format!("the value of {name} must be one line of text");
        return found(ProblemKind::BadValue, sentence);
    }
    if let Some(sentence) = managed(name, value) {
        return found(ProblemKind::Managed, sentence);
    }
    if owner(name) == Owner::Reserved {
        let sentence = format!("{name} is managed by the keeper and cannot be set in pgParameters");
        return found(ProblemKind::Reserved, sentence);
    }
    if let Some(again) = later_spelling(parameters, name) {
        let sentence = format!("{name} is given again as {again}, which counts: remove one of them");
        return found(ProblemKind::Duplicate, sentence);
    }
    if name.contains('.') || !MAJORS.contains(&major) {
        return None;
    }
    let Some(row) = table::find(major, name) else {
        if table::may_exist(name) {
            return None;
        }
        return found(ProblemKind::Unknown, unknown(major, name));
    };
    let (kind, sentence) = row_problem(major, &row, value)?;
    found(kind, sentence)
}

fn row_problem(major: u16, row: &Row<'_>, value: &str) -> Option<(ProblemKind, String)> {
    if row.is_read_only {
        let sentence = format!("{} cannot be set: it only tells how PostgreSQL was built or runs", row.name);
        return Some((ProblemKind::ReadOnly, sentence));
    }
    match value::check(major, row.name, &row.kind, value) {
        Ok(()) => None,
        Err(Refusal::WrongType(rest)) => Some((ProblemKind::BadValue, format!("{} {rest}", row.name))),
        Err(Refusal::OutOfRange(rest)) => Some((ProblemKind::OutOfRange, format!("{} {rest}", row.name))),
    }
}

fn managed(name: &str, value: &str) -> Option<String> {
    if owner(name) == Owner::Managed {
        return Some(format!("{name} is set by the cluster itself: the value given for it is ignored"));
    }
    if name.eq_ignore_ascii_case("wal_level") && !matches!(value, "replica" | "logical") {
        return Some(format!(
            "wal_level is set by the cluster itself: {value:?} is ignored, only logical is taken over"
        ));
    }
    None
}

fn unknown(major: u16, name: &str) -> String {
    let instead = REPLACED_BY.iter().find(|(old, _)| old.eq_ignore_ascii_case(name));
    let instead = instead.map(|(_, new)| format!(": use {new} instead")).unwrap_or_default();
    if let Some((known, first, last)) = table::in_other_majors(name) {
        let majors = match (first, last) {
            (first, _) if first > major => format!("PostgreSQL {first} and later"),
            (_, last) => format!("PostgreSQL {last} and earlier"),
        };
        return format!("{known} is a parameter of {majors}, not of {major}{instead}");
    }
    let meant = match nearest(name, table::names(major)) {
        Some(meant) if instead.is_empty() => format!(": did you mean {meant}?"),
        _ => instead,
    };
    format!("{name} is not a parameter of PostgreSQL {major}{meant}")
}

/// The other spelling of `name` that stands last, if that is not `name` itself.
fn later_spelling<'p>(parameters: &'p Parameters, name: &str) -> Option<&'p str> {
    let last = parameters.keys().rfind(|other| other.eq_ignore_ascii_case(name))?;
    (last != name).then_some(last)
}

/// What the configuration file's grammar reads as a name: an identifier, or two with a dot between them.
fn is_readable_name(name: &str) -> bool {
    let is_identifier = |part: &str| {
        !part.is_empty()
            && !part.starts_with(|first: char| first.is_ascii_digit())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii())
    };
    match name.split_once('.') {
        Some((class, parameter)) => is_identifier(class) && is_identifier(parameter),
        None => is_identifier(name),
    }
}
