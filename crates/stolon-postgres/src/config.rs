//! The configuration files of an instance: their text, and writing them so that a crash leaves the old or the new one.

use std::path::Path;

use stolon_core::keeper::{Config, ConfigMerge, HbaDatabase, HbaLine, HbaUser, RecoveryMode, Upstream};
use stolon_core::postgres::{Version, is_recovery_parameter};
use stolon_model::Parameters;

use crate::error::{PostgresError, Result};
use crate::files::{Written, remove_if_there, sync_parent, write_atomically};
use crate::quote;

/// The text of what an instance is to read at its next start or reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfigFiles {
    /// `postgresql.conf`, values raw.
    pub(crate) parameters: Parameters,
    /// Which signal file is written; existing ones stay with [`RecoveryMode::None`].
    pub(crate) mode: RecoveryMode,
    /// `primary_conninfo`, `restore_command`, …; values raw. Not written with [`RecoveryMode::None`].
    pub(crate) recovery: Parameters,
    /// Lines of `pg_hba.conf`.
    pub(crate) hba: Vec<String>,
}

impl ConfigFiles {
    /// `conninfo` makes the connection string for following somebody, secrets included.
    pub(crate) fn of(config: &Config, conninfo: impl FnOnce(&Upstream) -> String) -> Self {
        let mut recovery = config.recovery.parameters.clone();
        if let Some(upstream) = &config.recovery.upstream {
            recovery.insert("primary_conninfo".to_owned(), conninfo(upstream));
        }
        ConfigFiles {
            parameters: config.parameters.clone(),
            mode: config.recovery.mode,
            recovery,
            hba: config.hba.iter().map(hba_line).collect(),
        }
    }
}

fn hba_line(line: &HbaLine) -> String {
    let rule = match line {
        HbaLine::Verbatim(text) => return text.clone(),
        HbaLine::Rule(rule) => rule,
    };
    let database = match rule.database {
        HbaDatabase::Named(name) => name,
        HbaDatabase::Replication => "replication",
        HbaDatabase::All => "all",
    };
    let user = match &rule.user {
        HbaUser::Named(name) => quote::hba_name(name),
        HbaUser::All => "all".into(),
    };
    match rule.columns() {
        (kind, None) => format!("{kind} {database} {user} {}", rule.method),
        (kind, Some(address)) => format!("{kind} {database} {user} {address} {}", rule.method),
    }
}

/// Name of the file for foreign data.
pub(crate) const MERGED_FILE: &str = "stolon-temp-postgresql.conf";

/// What `ALTER SYSTEM` had set where foreign data come from; PostgreSQL reads it after their `postgresql.conf`.
const MERGED_ALTER_SYSTEM: &str = "stolon-temp-postgresql.auto.conf";

/// Names that PostgreSQL can take in a configuration file.
pub(crate) fn is_valid_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$'))
}

/// Values that stay on their line.
pub(crate) fn is_valid_value(value: &str) -> bool {
    !value.contains(['\n', '\r', '\0'])
}

/// The text of `postgresql.conf`: sorted, one line for each parameter, names that differ only in case once (the last in sort order wins,
/// which are the managed ones since they are in lower case), nothing that would break the file.
pub(crate) fn parameter_lines(files: &ConfigFiles, version: Version) -> String {
    let (mut includes, mut lines) = (String::new(), String::new());
    let mut written = std::collections::BTreeMap::new();
    for (name, value) in &files.parameters {
        if is_valid_name(name) && is_valid_value(value) {
            written.insert(name.to_ascii_lowercase(), (name, value));
        }
    }
    for (name, value) in &files.parameters {
        if written.get(&name.to_ascii_lowercase()).is_some_and(|(winner, _)| *winner == name) {
            // What other files say comes first, so that nothing in them overrides what is managed.
            let part =
                if name.to_ascii_lowercase().starts_with("include") { &mut includes } else { &mut lines };
            part.push_str(&format!("{name} = {}\n", quote::parameter_value(value)));
        }
    }
    if version.has_signal_files() && files.mode != RecoveryMode::None {
        lines.push_str(&recovery_lines(&files.recovery));
    }
    includes + &lines
}

fn recovery_lines(recovery: &Parameters) -> String {
    recovery
        .iter()
        .filter(|(name, value)| is_valid_name(name) && is_valid_value(value))
        .map(|(name, value)| format!("{name} = {}\n", quote::recovery_value(value)))
        .collect()
}

/// Writes everything that a start or reload reads. The order is that of the reference: settings, access rules, then what makes a
/// standby of it.
pub(crate) fn write(
    directory: &Path,
    files: &ConfigFiles,
    merge: ConfigMerge,
    version: Version,
) -> Result<Written> {
    let mut changed = Written::Unchanged;
    let mut put = |name: &str, content: &str| -> Result<()> {
        if write_atomically(&directory.join(name), content.as_bytes())? == Written::Replaced {
            changed = Written::Replaced;
        }
        Ok(())
    };
    let lines = parameter_lines(files, version);
    match merge {
        ConfigMerge::Replace => put("postgresql.conf", &lines)?,
        ConfigMerge::WithExisting => {
            keep_alter_system(directory)?;
            let came_along = ["postgresql.conf", MERGED_ALTER_SYSTEM].into_iter();
            let first: String = came_along
                .filter(|name| directory.join(name).exists())
                .map(|name| format!("include '{name}'\n"))
                .collect();
            put(MERGED_FILE, &format!("{first}{lines}"))?;
        }
    }
    let hba: String = files.hba.iter().map(|line| format!("{line}\n")).collect();
    put("pg_hba.conf", &hba)?;
    match (files.mode, version.has_signal_files()) {
        (RecoveryMode::None, _) => {}
        (RecoveryMode::Standby, true) => put("standby.signal", "")?,
        (RecoveryMode::Recovery, true) => {
            // A standby.signal that came with a backup would win over recovery.signal.
            if remove_if_there(&directory.join("standby.signal"))? == Written::Replaced {
                sync_parent(&directory.join("standby.signal"))?;
            }
            put("recovery.signal", "")?;
        }
        (mode, false) => {
            let first = if mode == RecoveryMode::Standby { "standby_mode = 'on'\n" } else { "" };
            put("recovery.conf", &format!("{first}{}", recovery_lines(&files.recovery)))?;
        }
    }
    Ok(changed)
}

/// Puts what `ALTER SYSTEM` had set in a place that [`disable_alter_system`] leaves alone.
fn keep_alter_system(directory: &Path) -> Result<()> {
    let path = directory.join("postgresql.auto.conf");
    if !std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
        return Ok(());
    }
    let text = std::fs::read_to_string(&path).map_err(PostgresError::io("read", &path))?;
    // What it, or `pg_basebackup -R`, has set for a recovery was for another one than that which is to come.
    let is_wanted = |line: &&str| {
        let name =
            line.trim_start().split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
        !name.starts_with('#') && !is_recovery_parameter(name)
    };
    let lines: String = text.lines().filter(is_wanted).map(|line| format!("{line}\n")).collect();
    if !lines.trim().is_empty() {
        write_atomically(&directory.join(MERGED_ALTER_SYSTEM), lines.as_bytes())?;
    }
    Ok(())
}

/// Whether `ALTER SYSTEM` fails.
pub(crate) fn is_alter_system_disabled(directory: &Path) -> bool {
    let link = std::fs::read_link(directory.join("postgresql.auto.conf"));
    link.is_ok_and(|target| target == Path::new("/dev/null"))
}

/// Makes `postgresql.auto.conf` a link to `/dev/null`: `ALTER SYSTEM` fails instead of
/// changing what the cluster specification says.
pub(crate) fn disable_alter_system(directory: &Path) -> Result<()> {
    let path = directory.join("postgresql.auto.conf");
    if is_alter_system_disabled(directory) {
        return Ok(());
    }
    remove_if_there(&path)?;
    std::os::unix::fs::symlink("/dev/null", &path).map_err(PostgresError::io("link", &path))?;
    sync_parent(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn settings_are_sorted_and_nothing_breaks_out_of_its_line() {
        let files = ConfigFiles {
            parameters: parameters(&[
                ("work_mem", "4MB"),
                ("Port", "1"),
                ("port", "5432"),
                ("archive_command", "echo 'x'"),
                ("bad name", "1"),
                ("evil", "1\nport = 9"),
                ("my.option", r"a\b"),
                ("include_if_exists", "more.conf"),
            ]),
            mode: RecoveryMode::Standby,
            recovery: parameters(&[("primary_conninfo", r"password=a\ b host=x")]),
            hba: vec![],
        };
        let text = parameter_lines(&files, Version { major: 15, minor: 0 });
        assert_eq!(
            text,
            "include_if_exists = 'more.conf'\narchive_command = 'echo ''x'''\nmy.option = 'a\\b'\nport = '5432'\nwork_mem = '4MB'\n\
             primary_conninfo = 'password=a\\\\ b host=x'\n"
        );
    }

    #[test]
    fn what_alter_system_had_set_where_data_come_from_counts() {
        let directory = tempfile::tempdir().unwrap();
        let version = Version { major: 15, minor: 0 };
        let files = ConfigFiles { parameters: parameters(&[("port", "5432")]), ..ConfigFiles::default() };
        let merged = || std::fs::read_to_string(directory.path().join(MERGED_FILE)).unwrap();
        write(directory.path(), &files, ConfigMerge::WithExisting, version).unwrap();
        assert_eq!(merged(), "port = '5432'\n");

        std::fs::write(directory.path().join("postgresql.conf"), "work_mem = '1MB'\n").unwrap();
        let set = "# Do not edit this file manually!\nwork_mem = '7MB'\nrestore_command = 'x'\nprimary_conninfo = 'y'\n";
        std::fs::write(directory.path().join("postgresql.auto.conf"), set).unwrap();
        // The second time the original is gone.
        for _ in 0..2 {
            write(directory.path(), &files, ConfigMerge::WithExisting, version).unwrap();
            assert_eq!(
                merged(),
                "include 'postgresql.conf'\ninclude 'stolon-temp-postgresql.auto.conf'\nport = '5432'\n"
            );
            let kept = std::fs::read_to_string(directory.path().join(MERGED_ALTER_SYSTEM)).unwrap();
            assert_eq!(kept, "work_mem = '7MB'\n");
            disable_alter_system(directory.path()).unwrap();
        }
    }

    #[test]
    fn files_are_private_and_only_rewritten_when_they_change() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let version = Version { major: 15, minor: 0 };
        let mut files = ConfigFiles { hba: vec!["local all all trust".into()], ..ConfigFiles::default() };
        std::fs::write(directory.path().join("standby.signal"), "").unwrap();
        files.mode = RecoveryMode::Recovery;
        assert_eq!(
            write(directory.path(), &files, ConfigMerge::Replace, version).unwrap(),
            Written::Replaced
        );
        assert_eq!(
            write(directory.path(), &files, ConfigMerge::Replace, version).unwrap(),
            Written::Unchanged
        );
        assert!(!directory.path().join("standby.signal").exists());
        for name in ["postgresql.conf", "pg_hba.conf", "recovery.signal"] {
            let mode = std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3, "no temporary file is left");
        disable_alter_system(directory.path()).unwrap();
        disable_alter_system(directory.path()).unwrap();
        let link = std::fs::read_link(directory.path().join("postgresql.auto.conf")).unwrap();
        assert_eq!(link, Path::new("/dev/null"));
    }
}
