//! What becomes of the settings that are not PostgreSQL's defaults.

use std::collections::BTreeMap;

use stolon_core::postgres::{Owner, is_recovery_parameter, owner};
use stolon_core::settings;

use super::super::finding::{Finding, Subject, counted};
use super::super::inventory::{Destination, Inventory, Method, Source};

/// What becomes of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It comes along with the copy and is taken over into `pgParameters`.
    TakenOver,
    /// It stays behind unless the operator gives it.
    LeftBehind,
    /// The cluster sets it itself.
    Managed,
    /// It says where files are, whom to follow, or how to recover.
    Meaningless,
    /// The new major has no such setting.
    Gone,
}

/// The settings by what becomes of them, and those that wait for a restart.
pub fn findings(legacy: &Inventory, destination: &Destination, method: Method) -> Vec<Finding> {
    let mut by_fate: BTreeMap<Fate, Vec<&str>> = BTreeMap::new();
    let configured = legacy.settings.iter().filter(|(_, setting)| setting.source != Source::Default);
    for (name, setting) in configured {
        let fate = fate(legacy, destination, method, name, setting.source);
        by_fate.entry(fate).or_default().push(name);
    }
    let mut findings: Vec<Finding> =
        by_fate.into_iter().map(|(fate, names)| of_fate(legacy, fate, &names)).collect();
    let pending: Vec<String> = legacy
        .settings
        .iter()
        .filter(|(_, setting)| setting.is_pending)
        .map(|(name, _)| name.clone())
        .collect();
    if !pending.is_empty() {
        findings.push(
            Finding::warning(
                Subject::Settings,
                "these wait for a restart of the legacy; the new cluster starts with the values that wait",
            )
            .names(pending),
        );
    }
    findings.extend(archive(legacy));
    findings
}

fn fate(legacy: &Inventory, destination: &Destination, method: Method, name: &str, source: Source) -> Fate {
    let theirs = destination.keepers.first().map_or(legacy.major(), |keeper| keeper.version.major);
    let is_known =
        !settings::MAJORS.contains(&theirs) || name.contains('.') || settings::exists(theirs, name);
    match owner(name) {
        Owner::Managed => Fate::Managed,
        Owner::Reserved => Fate::Meaningless,
        Owner::Operator | Owner::Shared if is_recovery_parameter(name) => Fate::Meaningless,
        Owner::Operator | Owner::Shared if !is_known => Fate::Gone,
        Owner::Operator | Owner::Shared => {
            let comes_along = method == Method::Physical
                && destination.merges_parameters
                && source == Source::CopiedFile
                && stolon_core::postgres::is_reported(name);
            if comes_along { Fate::TakenOver } else { Fate::LeftBehind }
        }
    }
}

fn of_fate(legacy: &Inventory, fate: Fate, names: &[&str]) -> Finding {
    let number = counted(names.len() as u64, "setting", "settings");
    let listed = names.iter().map(|name| shown(legacy, name));
    match fate {
        Fate::TakenOver => Finding::ok(
            Subject::Settings,
            format!(
                "{number} of postgresql.conf and ALTER SYSTEM: taken over into pgParameters with the copy"
            ),
        )
        .names(listed),
        Fate::LeftBehind => {
            Finding::warning(Subject::Settings, format!("{number} that do not come along by themselves"))
                .hint(patch(legacy, names))
                .names(listed)
        }
        Fate::Managed => {
            Finding::ok(Subject::Settings, format!("{number} that the cluster sets itself")).names(listed)
        }
        Fate::Meaningless => Finding::ok(
            Subject::Settings,
            format!("{number} of files, of recovery, or of whom to follow: a keeper makes its own"),
        )
        .names(names.iter().map(|name| (*name).to_owned())),
        Fate::Gone => {
            Finding::warning(Subject::Settings, format!("{number} that the new major does not have"))
                .hint("its release notes say what took their place")
                .names(listed)
        }
    }
}

/// Commands and connection strings may hold passwords.
fn may_be_secret(name: &str) -> bool {
    name.ends_with("_command")
        || name.ends_with("conninfo")
        || name.contains("password")
        || name.contains("secret")
}

fn shown(legacy: &Inventory, name: &str) -> String {
    match may_be_secret(name) {
        true => name.to_owned(),
        false => format!("{name} = {}", legacy.setting(name)),
    }
}

/// The command that gives the settings to the new cluster.
fn patch(legacy: &Inventory, names: &[&str]) -> String {
    let open = names.iter().filter(|name| !may_be_secret(name));
    let given: BTreeMap<&str, &str> = open.map(|name| (*name, legacy.setting(name))).collect();
    let document = serde_json::json!({ "pgParameters": given }).to_string();
    let hidden: Vec<&str> = names.iter().copied().filter(|name| may_be_secret(name)).collect();
    let rest = match hidden.is_empty() {
        true => String::new(),
        false => format!("; and {}, which may hold secrets and are not shown", hidden.join(", ")),
    };
    match given.is_empty() {
        true => format!("give them with stolonctl update --patch{rest}"),
        false => format!("stolonctl update --patch {}{rest}", in_shell(&document)),
    }
}

/// One word of a shell.
pub fn in_shell(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn archive(legacy: &Inventory) -> Option<Finding> {
    let mode = legacy.setting("archive_mode");
    (!matches!(mode, "" | "off")).then(|| {
        Finding::warning(
            Subject::Archive,
            "the legacy archives its WAL, and until `migrate finish` it and the new cluster are two: never into one archive",
        )
        .hint("give the new cluster an archive of its own (archive_mode and archive_command in pgParameters), and take a first backup after the switch")
    })
}
