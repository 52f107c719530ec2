//! What each major of PostgreSQL says about its parameters (view `pg_settings`), kept in `pg_settings.tsv`.

use std::ops::RangeInclusive;

/// The majors that the table covers.
pub const MAJORS: RangeInclusive<u16> = 10..=18;

const TABLE: &str = include_str!("pg_settings.tsv");

/// Parameters that only some builds or minor versions of a major have: nothing is said against them.
const OF_SOME_BUILDS: [&str; 15] = [
    "composite_type_mismatch",
    "debug_deadlocks",
    "extension_destdir",
    "log_btree_build_stats",
    "optimize_bounded_sort",
    "output_plugin_libraries",
    "trace_lock_oidmin",
    "trace_lock_table",
    "trace_locks",
    "trace_lwlocks",
    "trace_notify",
    "trace_sort",
    "trace_syncscan",
    "trace_userlocks",
    "wal_debug",
];

/// Parameters that exist but that `pg_settings` never shows, and directives of `postgresql.conf`.
const NEVER_SHOWN: [&str; 9] = [
    "default_with_oids",
    "include",
    "include_dir",
    "include_if_exists",
    "is_superuser",
    "role",
    "seed",
    "session_authorization",
    "ssl_renegotiation_limit",
];

/// Old names that are still understood, and their new ones.
const OLD_NAMES: [(&str, &str); 3] =
    [("sort_mem", "work_mem"), ("ssl_ecdh_curve", "ssl_groups"), ("vacuum_mem", "maintenance_work_mem")];

/// What a parameter takes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind<'t> {
    Bool,
    Integer { unit: &'t str, least: f64, most: f64 },
    Real { unit: &'t str, least: f64, most: f64 },
    Text,
    Enum(Vec<&'t str>),
}

/// A parameter in the majors from `first` to `last`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row<'t> {
    pub name: &'t str,
    pub first: u16,
    pub last: u16,
    pub kind: Kind<'t>,
    /// It tells something and cannot be set.
    pub is_read_only: bool,
    /// Only a start takes a new value.
    pub needs_restart: bool,
}

/// Every row of the table, by name and major.
pub(super) fn rows() -> impl Iterator<Item = Row<'static>> {
    lines().filter_map(row)
}

fn lines() -> impl Iterator<Item = &'static str> {
    TABLE.lines().filter(|line| !line.starts_with('#'))
}

/// The rows of one parameter, by major. Names match without regard to case.
fn rows_of(name: &str) -> impl Iterator<Item = Row<'static>> {
    let is_it =
        move |line: &&str| line.split('\t').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
    lines().filter(is_it).filter_map(row)
}

fn row(line: &str) -> Option<Row<'_>> {
    let mut columns = line.split('\t');
    let mut next = || columns.next();
    let (name, first, last) = (next()?, next()?.parse().ok()?, next()?.parse().ok()?);
    let (vartype, unit, least, most, context) = (next()?, next()?, next()?, next()?, next()?);
    let limit = |text: &str| text.parse::<f64>().ok();
    let kind = match vartype {
        "bool" => Kind::Bool,
        "integer" => Kind::Integer { unit, least: limit(least)?, most: limit(most)? },
        "real" => Kind::Real { unit, least: limit(least)?, most: limit(most)? },
        "enum" => Kind::Enum(next()?.split(',').collect()),
        _ => Kind::Text,
    };
    Some(Row {
        name,
        first,
        last,
        kind,
        is_read_only: context == "internal",
        needs_restart: context == "postmaster",
    })
}

/// The parameter as `major` knows it. Names match without regard to case.
pub(super) fn find(major: u16, name: &str) -> Option<Row<'static>> {
    let is_old = |(old, _): &&(&str, &str)| old.eq_ignore_ascii_case(name);
    let today = OLD_NAMES.iter().find(is_old).map(|(_, new)| *new);
    let in_major = |row: &Row<'_>| (row.first..=row.last).contains(&major);
    rows_of(name).find(in_major).or_else(|| rows_of(today?).find(in_major))
}

/// True for a name against which nothing can be said although `major` does not show it.
pub(super) fn may_exist(name: &str) -> bool {
    let is = |known: &&str| known.eq_ignore_ascii_case(name);
    OF_SOME_BUILDS.iter().chain(&NEVER_SHOWN).any(is)
}

/// The name that other majors know, with the first and the last of them.
pub(super) fn in_other_majors(name: &str) -> Option<(&'static str, u16, u16)> {
    let mut found: Option<(&'static str, u16, u16)> = None;
    for row in rows_of(name) {
        found = Some(match found {
            None => (row.name, row.first, row.last),
            Some((name, first, last)) => (name, first.min(row.first), last.max(row.last)),
        });
    }
    found
}

/// Every name of `major` that can be set.
pub(super) fn names(major: u16) -> impl Iterator<Item = &'static str> {
    rows().filter(move |row| (row.first..=row.last).contains(&major) && !row.is_read_only).map(|row| row.name)
}
