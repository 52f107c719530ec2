//! Would this PostgreSQL accept these settings? The real binary is asked, beside the running server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use stolon_core::keeper::{Config, ConfigMerge, Origin, RejectedSetting};
use stolon_core::postgres::{Owner, PARAMETERS, owner, parameter};

use crate::config::{self, ConfigFiles};
use crate::error::{PostgresError, Result};
use crate::explain;
use crate::files::{fresh_private_directory, write_atomically};
use crate::limit::Limit;
use crate::local::LocalPostgres;
use crate::trial::{Existing, Line, Trial, own_lines, replacement};

/// Directory below the keeper's own in which settings are tried.
const SCRATCH: &str = "settings-check";
/// Each round takes out at least one setting; more than this many mistakes are reported by the next check.
const MOST_ROUNDS: usize = 25;

impl LocalPostgres {
    /// Asks the real binary, beside the running server and without touching it or PGDATA, which of these settings it would
    /// refuse; empty means that it would start as far as settings go. From PostgreSQL 15 on this goes as far as loading libraries and TLS
    /// certificates and checking combinations, once there is a data directory; otherwise each setting is looked at for itself.
    ///
    /// With [`ConfigMerge::WithExisting`] the postgresql.conf that came with the data is looked at too.
    pub async fn check_settings(
        &self,
        config: &Config,
        merge: ConfigMerge,
        limit: &Limit,
    ) -> Result<Vec<RejectedSetting>> {
        let version = self.version(limit).await?;
        let files = &self.files(config, version);
        let scratch = self.inner.options.keeper_directory.join(SCRATCH);
        let (data, directory) = (self.data_directory(), scratch.clone());
        let prepare = move || {
            fresh_private_directory(&directory)?;
            let whole = version.computes_settings_offline() && copy_identity(&data, &directory)?;
            let existing = match merge {
                ConfigMerge::WithExisting => Existing::read(&data.join("postgresql.conf"))?,
                ConfigMerge::Replace => None,
            };
            Ok((whole, existing))
        };
        let (whole, existing) = self.on_disk("preparing the check of settings", limit, prepare).await?;
        let mut trial = Trial { own: own_lines(files, version), existing, directory: scratch.clone() };
        let mut rejected = unwritable(files);
        let libraries = self.library_directory(limit).await;
        for round in 0..MOST_ROUNDS {
            let lines = trial.lines();
            let (listed, known) = (trial.lines(), libraries.clone());
            let look = move || Ok(missing_libraries(&listed, known.as_deref()));
            let mut found = self.look_at_disk("looking for libraries", limit, look).await?;
            if found.is_empty() {
                let messages = self.ask(&trial, &lines, whole, limit).await?;
                found = refusals(&messages, &lines, &trial);
            }
            tracing::debug!("settings check, round {round}: {} refused", found.len());
            let before = rejected.len();
            for refused in found {
                if trial.take_out(&refused) || refused.origin == Origin::Unknown {
                    rejected.push(refused);
                }
            }
            if rejected.len() == before || rejected.iter().any(|refused| refused.origin == Origin::Unknown) {
                break;
            }
        }
        let clear = move || fresh_private_directory(&scratch);
        self.on_disk("clearing up after the check of settings", limit, clear).await?;
        Ok(rejected)
    }

    /// One run of the binary over the trial; its complaints, none when it accepts.
    async fn ask(&self, trial: &Trial, lines: &[Line], whole: bool, limit: &Limit) -> Result<Vec<String>> {
        let directory = self.data_directory();
        let scratch = trial.directory.as_path();
        let text = trial.text();
        let path = self.on_disk("writing settings to try", limit, move || text.write()).await?;
        let mut tool = self.tool("postgres").arg("-D").arg(scratch);
        // Loads libraries and checks combinations before it can tell; the other is told at once.
        tool = tool.arg("-C").arg(if whole { "shared_memory_size" } else { "data_directory" });
        let mut set = |name: &str, value: &Path| {
            let mut setting = OsString::from(format!("{name}="));
            setting.push(value);
            tool.arguments.push("-c".into());
            tool.arguments.push(setting);
        };
        set("config_file", &path);
        set("data_directory", scratch);
        set("hba_file", &scratch.join("pg_hba.conf"));
        set("ident_file", &scratch.join("pg_ident.conf"));
        for (name, value) in [
            ("external_pid_file", ""),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("log_line_prefix", ""),
            ("log_error_verbosity", "default"),
            ("log_min_messages", "warning"),
            ("lc_messages", "C"),
        ] {
            set(name, Path::new(value));
        }
        // The trial stands elsewhere.
        for (file, usual) in PARAMETERS.iter().filter_map(|file| Some((file, file.file_in_data?))) {
            let wanted = lines.iter().rev().find(|line| line.name.eq_ignore_ascii_case(file.name));
            let value = wanted.map_or(usual, |line| line.value.as_str());
            if !value.is_empty() && !Path::new(value).is_absolute() {
                set(file.name, &directory.join(value));
            }
        }
        let finished = tool.run(limit, |line| tracing::debug!("settings check: {line}")).await?;
        Ok(if finished.status.success() { Vec::new() } else { finished.tail })
    }

    /// Where `$libdir` is.
    async fn library_directory(&self, limit: &Limit) -> Option<PathBuf> {
        if let Ok(told) = self.tool("pg_config").arg("--pkglibdir").output(limit).await {
            let told = PathBuf::from(told.stdout.trim());
            let look = move || Ok(Some(told).filter(|path| path.is_dir()));
            return self.look_at_disk("looking for the libraries of PostgreSQL", limit, look).await.ok()?;
        }
        let server = self.clone();
        let beside_binaries = move || {
            let postgres = std::fs::canonicalize(server.program("postgres")).ok();
            Ok(postgres
                .and_then(|path| Some(path.parent()?.parent()?.join("lib")))
                .filter(|lib| lib.is_dir()))
        };
        self.look_at_disk("looking for the libraries of PostgreSQL", limit, beside_binaries).await.ok()?
    }

    /// Comments the refused lines out of configuration files that came with the data; where something is accepted instead, that takes
    /// their place. Only files below PGDATA are changed; a line
    /// elsewhere is an error.
    pub async fn comment_out(&self, rejected: &[RejectedSetting], limit: &Limit) -> Result<()> {
        let (directory, rejected) = (self.data_directory(), rejected.to_vec());
        let work = move || comment_out(&directory, &rejected);
        self.on_disk("commenting out what is not accepted", limit, work).await
    }
}

fn comment_out(directory: &Path, rejected: &[RejectedSetting]) -> Result<()> {
    for refused in rejected {
        let Origin::ExistingFile { path, line } = &refused.origin else { continue };
        let file = Path::new(path);
        if !file.starts_with(directory) {
            return Err(PostgresError::Invalid(format!(
                "line {line} of {path} is not accepted ({}) and lies outside of the data directory",
                refused.message
            )));
        }
        let text = std::fs::read_to_string(file).map_err(PostgresError::io("read", file))?;
        let mut mended = String::with_capacity(text.len() + 32);
        for (number, content) in (1_u32..).zip(text.lines()) {
            if number == *line && !content.trim_start().starts_with('#') {
                mended.push_str(&replacement(refused));
            }
            mended.push_str(content);
            mended.push('\n');
        }
        write_atomically(file, mended.as_bytes())?;
    }
    Ok(())
}

/// What a server needs in its data directory to get as far as computing settings. False without a data directory.
fn copy_identity(directory: &Path, scratch: &Path) -> Result<bool> {
    let version = directory.join("PG_VERSION");
    let control = directory.join("global/pg_control");
    if !version.exists() || !control.exists() {
        return Ok(false);
    }
    fresh_private_directory(&scratch.join("global"))?;
    for (from, to) in [(version, "PG_VERSION"), (control, "global/pg_control")] {
        let content = std::fs::read(&from).map_err(PostgresError::io("read", &from))?;
        write_atomically(&scratch.join(to), &content)?;
    }
    Ok(true)
}

/// Names and values that are not even written.
fn unwritable(files: &ConfigFiles) -> Vec<RejectedSetting> {
    let reject = |name: &String, value: &String, message: &str| RejectedSetting {
        name: name.clone(),
        value: value.clone(),
        message: message.to_owned(),
        instead: None,
        origin: Origin::Parameters,
    };
    let mut rejected = Vec::new();
    for (name, value) in &files.parameters {
        if !config::is_valid_name(name) {
            rejected.push(reject(name, value, "this is no name of a parameter"));
        } else if !config::is_valid_value(value) {
            rejected.push(reject(name, value, "the value holds a line break"));
        }
    }
    rejected
}

/// Lists of libraries that name one without a file.
fn missing_libraries(lines: &[Line], libraries: Option<&Path>) -> Vec<RejectedSetting> {
    let Some(directory) = libraries else { return Vec::new() };
    // With a search path of the user's own, only PostgreSQL itself can tell.
    if lines.iter().any(|line| line.name.eq_ignore_ascii_case("dynamic_library_path")) {
        return Vec::new();
    }
    let mut rejected = Vec::new();
    for line in lines.iter().filter(|line| is_library_list(&line.name)) {
        let names = split_list(&line.value);
        let (there, missing): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| library_exists(name, &line.name, directory));
        if !missing.is_empty() {
            rejected.push(RejectedSetting {
                name: line.name.clone(),
                value: line.value.clone(),
                message: format!(
                    "the library {} is not installed in {}",
                    missing.join(", "),
                    directory.display()
                ),
                instead: Some(there.join(",")),
                origin: line.origin.clone(),
            });
        }
    }
    rejected
}

fn library_exists(name: &str, list: &str, directory: &Path) -> bool {
    let path = match name.strip_prefix("$libdir/") {
        Some(rest) => directory.join(rest),
        None if name.starts_with('/') => PathBuf::from(name),
        None if list.eq_ignore_ascii_case("local_preload_libraries") => directory.join("plugins").join(name),
        None => directory.join(name),
    };
    path.is_file() || path.with_file_name(format!("{}.so", file_name(&path))).is_file()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn split_list(value: &str) -> Vec<String> {
    value
        .split(',')
        .map(|name| name.trim().trim_matches('"').to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Reads the complaints of one run.
fn refusals(messages: &[String], lines: &[Line], trial: &Trial) -> Vec<RejectedSetting> {
    let serious = |message: &&String| {
        ["LOG:", "WARNING:", "ERROR:", "FATAL:", "PANIC:"].iter().any(|level| message.starts_with(level))
            || message.starts_with("postgres: ")
    };
    let mut rejected: Vec<RejectedSetting> = Vec::new();
    for line in messages.iter().filter(serious) {
        let message = explain::message_of(line);
        if message.starts_with("configuration file ") && message.contains("contains errors") {
            continue;
        }
        let Some(refused) = attribute(message, lines, trial) else { continue };
        let known = |other: &RejectedSetting| other.name == refused.name && other.origin == refused.origin;
        if !rejected.iter().any(known) {
            rejected.push(refused);
        }
    }
    if rejected.is_empty() && !messages.is_empty() {
        rejected.push(RejectedSetting {
            name: String::new(),
            value: String::new(),
            message: explain::explain_startup_failure(messages),
            instead: None,
            origin: Origin::Unknown,
        });
    }
    rejected
}

/// Whose fault a complaint is: the file and line that it names, else a setting that it names, else a library's list, else TLS.
fn attribute(message: &str, lines: &[Line], trial: &Trial) -> Option<RejectedSetting> {
    // The places of the trial mean nothing to anybody else.
    let told = message.split(" in file \"").next().unwrap_or(message);
    let reject = |line: &Line, instead: Option<String>| RejectedSetting {
        name: line.name.clone(),
        value: line.value.clone(),
        message: told.to_owned(),
        instead,
        origin: line.origin.clone(),
    };
    if let Some((path, number)) = file_and_line(message) {
        let (name, origin) = trial.place(&path, number)?;
        if let Some(line) =
            lines.iter().find(|line| line.origin == origin && (name.is_empty() || line.name == name))
        {
            return Some(reject(line, None));
        }
        let name = quoted(message).find(|word| config::is_valid_name(word)).unwrap_or_default().to_owned();
        let message = told.to_owned();
        return Some(RejectedSetting { name, value: String::new(), message, instead: None, origin });
    }
    if let Some(line) = named_setting(message, lines) {
        return Some(reject(line, None));
    }
    // A library that is there but cannot be loaded.
    for line in lines.iter().filter(|line| is_library_list(&line.name)) {
        let names = split_list(&line.value);
        let blamed = |name: &String| {
            quoted(message).any(|word| file_name(Path::new(word)).trim_end_matches(".so") == name)
        };
        if names.iter().any(blamed) {
            let rest: Vec<String> = names.into_iter().filter(|name| !blamed(name)).collect();
            return Some(reject(line, Some(rest.join(","))));
        }
    }
    if message.contains("certificate") || message.contains("private key") {
        return lines
            .iter()
            .find(|line| line.name.eq_ignore_ascii_case("ssl"))
            .map(|line| reject(line, None));
    }
    None
}

fn is_library_list(name: &str) -> bool {
    parameter(name).is_some_and(|parameter| parameter.is_library_list)
}

/// The setting that a message names: in quotes, else as a word. Of several, one that is not a matter of course for a cluster.
fn named_setting<'a>(message: &str, lines: &'a [Line]) -> Option<&'a Line> {
    let words = message.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.')));
    let is = |line: &&Line, word: &str| line.name.eq_ignore_ascii_case(word.trim_matches('.'));
    let managed = |line: &&Line| matches!(owner(&line.name), Owner::Managed | Owner::Shared);
    let mut named: Vec<&Line> = quoted(message)
        .chain(words)
        .filter_map(|word| lines.iter().find(|line| is(line, word)))
        .filter(|line| line.name.contains('_') || message.contains(&format!("\"{}\"", line.name)))
        .collect();
    named.sort_by_key(managed);
    named.into_iter().next()
}

fn quoted(message: &str) -> impl Iterator<Item = &str> {
    message.split('"').skip(1).step_by(2)
}

/// Reads `in file "/x/y.conf" line 7` and `line 7 of file "…"`.
fn file_and_line(message: &str) -> Option<(String, u32)> {
    let (_, rest) = message.split_once("file \"")?;
    let (path, rest) = rest.split_once('"')?;
    let (_, rest) = rest.split_once("line ").or_else(|| message.split_once("line "))?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((path.to_owned(), digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, value: &str) -> Line {
        Line { name: name.into(), value: value.into(), text: String::new(), origin: Origin::Parameters }
    }

    #[test]
    fn complaints_find_their_setting() {
        let own = || {
            vec![
                line("max_connections", "x"),
                line("max_conections", "1"),
                line("archive_mode", "on"),
                line("wal_level", "minimal"),
                line("shared_preload_libraries", "pg_stat_statements,nolib"),
            ]
        };
        let lines = own();
        let trial = Trial { own: own(), existing: None, directory: "/s".into() };
        for (message, name) in [
            (
                "unrecognized configuration parameter \"max_conections\" in file \"/s/trial.conf\" line 3",
                "max_conections",
            ),
            ("invalid value for parameter \"max_connections\": \"x\"", "max_connections"),
            (
                "0 is outside the valid range for parameter \"max_connections\" (1 .. 262143)",
                "max_connections",
            ),
            ("WAL archival (archive_mode=on) requires wal_level \"replica\" or higher", "archive_mode"),
            ("could not load library \"/usr/lib/nolib.so\": bad", "shared_preload_libraries"),
        ] {
            let refused = attribute(message, &lines, &trial).expect(message);
            assert_eq!(refused.name, name, "{message}");
        }
        let library = attribute("could not access file \"nolib\": No such file or directory", &lines, &trial);
        assert_eq!(library.unwrap().instead.as_deref(), Some("pg_stat_statements"));
        let message = "unrecognized configuration parameter \"foo\" in file \"/d/more.conf\" line 9";
        let foreign = attribute(message, &lines, &trial).unwrap();
        assert_eq!(foreign.origin, Origin::ExistingFile { path: "/d/more.conf".into(), line: 9 });
        assert_eq!(foreign.message, "unrecognized configuration parameter \"foo\"");
    }
}
