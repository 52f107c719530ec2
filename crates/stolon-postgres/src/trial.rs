//! Settings on trial: ours, after those of a configuration file that came with the data.

use std::path::{Path, PathBuf};

use stolon_core::keeper::{Origin, RecoveryMode, RejectedSetting};
use stolon_core::postgres::Version;

use crate::config::{self, ConfigFiles};
use crate::error::{PostgresError, Result};
use crate::files::write_atomically;
use crate::quote;

/// Name under which a file that came with the data is tried.
const EXISTING: &str = "existing.conf";
const TRIAL: &str = "trial.conf";
/// A setting with the place where it stands.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) text: String,
    pub(crate) origin: Origin,
}

/// What is tried: our own settings after those of the file that came with the data.
pub(crate) struct Trial {
    pub(crate) own: Vec<Line>,
    pub(crate) existing: Option<Existing>,
    pub(crate) directory: PathBuf,
}

/// A configuration file that came with the data. Its lines keep their numbers.
pub(crate) struct Existing {
    path: PathBuf,
    lines: Vec<String>,
}

/// What stands before a line that is commented out.
pub(crate) fn replacement(refused: &RejectedSetting) -> String {
    let instead = refused.instead.as_ref();
    let setting = instead.map(|value| format!("{} = {} ", refused.name, quote::parameter_value(value)));
    format!("{}# not accepted here: ", setting.unwrap_or_default())
}

pub(crate) fn own_lines(files: &ConfigFiles, version: Version) -> Vec<Line> {
    let writable = |name: &str, value: &str| config::is_valid_name(name) && config::is_valid_value(value);
    let mut lines = Vec::new();
    for (name, value) in files.parameters.iter().filter(|(name, value)| writable(name, value)) {
        let text = format!("{name} = {}", quote::parameter_value(value));
        lines.push(Line { name: name.clone(), value: value.clone(), text, origin: Origin::Parameters });
    }
    if version.has_signal_files() && files.mode != RecoveryMode::None {
        for (name, value) in files.recovery.iter().filter(|(name, value)| writable(name, value)) {
            let text = format!("{name} = {}", quote::recovery_value(value));
            lines.push(Line { name: name.clone(), value: value.clone(), text, origin: Origin::Recovery });
        }
    }
    lines
}

impl Existing {
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read(path) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(PostgresError::io("read", path)(error)),
        };
        Ok(Some(Self { path: path.to_owned(), lines: text.lines().map(str::to_owned).collect() }))
    }

    /// Its settings: of several lines for one name, the last.
    fn settings(&self) -> Vec<Line> {
        let mut settings: Vec<Line> = Vec::new();
        for (number, text) in (1_u32..).zip(&self.lines) {
            let Some((name, value)) = parse_setting(text) else { continue };
            settings.retain(|earlier| !earlier.name.eq_ignore_ascii_case(&name));
            let origin = Origin::ExistingFile { path: self.path.display().to_string(), line: number };
            settings.push(Line { name, value, text: text.clone(), origin });
        }
        settings
    }

    /// A copy that stands in another directory: relative includes still find their files.
    fn text_elsewhere(&self) -> String {
        let home = self.path.parent().unwrap_or(Path::new("/")).display().to_string();
        let mut text = String::new();
        for line in &self.lines {
            let directive = ["include", "include_if_exists", "include_dir"].iter().find_map(|word| {
                let rest = line.trim_start().strip_prefix(word)?;
                let rest = rest.trim_start().trim_start_matches('=').trim_start();
                let file = rest.strip_prefix('\'')?.split('\'').next()?;
                (!file.starts_with('/'))
                    .then(|| format!("{word} {}", quote::recovery_value(&format!("{home}/{file}"))))
            });
            text.push_str(directive.as_deref().unwrap_or(line));
            text.push('\n');
        }
        text
    }
}

/// Reads `name = value`, also without the sign and with quotes (PostgreSQL manual, "Parameter Interaction via the Configuration File").
pub fn parse_setting(text: &str) -> Option<(String, String)> {
    let text = text.trim_start();
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$')))?;
    let (name, rest) = text.split_at(end);
    if !config::is_valid_name(name) || name.starts_with("include") {
        return None;
    }
    let rest = rest.trim_start().trim_start_matches('=').trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next().unwrap_or_default(),
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next().unwrap_or_default(),
    };
    Some((name.to_owned(), value.to_owned()))
}

impl Trial {
    /// What counts, our own last.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let overridden = |line: &Line| self.own.iter().any(|own| own.name.eq_ignore_ascii_case(&line.name));
        let existing = self.existing.iter().flat_map(Existing::settings).filter(|line| !overridden(line));
        let own = self.own.iter().map(|line| Line {
            name: line.name.clone(),
            value: line.value.clone(),
            text: line.text.clone(),
            origin: line.origin.clone(),
        });
        existing.chain(own).collect()
    }

    /// What is written to be tried: our own settings from line 2 on.
    pub(crate) fn text(&self) -> Text {
        let existing = self.existing.as_ref().map(Existing::text_elsewhere);
        let first = existing.as_ref().map_or_else(String::new, |_| format!("include '{EXISTING}'"));
        let own = std::iter::once(first).chain(self.own.iter().map(|line| line.text.clone()));
        Text { existing, own: own.map(|line| line + "\n").collect(), directory: self.directory.clone() }
    }

    /// The place that a complaint names, in the words of those who gave us the settings.
    pub(crate) fn place(&self, path: &str, number: u32) -> Option<(String, Origin)> {
        if Path::new(path) == self.directory.join(TRIAL) {
            let line = self.own.get(usize::try_from(number).ok()?.checked_sub(2)?)?;
            return Some((line.name.clone(), line.origin.clone()));
        }
        let path = match &self.existing {
            Some(existing) if Path::new(path) == self.directory.join(EXISTING) => {
                existing.path.display().to_string()
            }
            _ => path.to_owned(),
        };
        Some((String::new(), Origin::ExistingFile { path, line: number }))
    }

    /// Takes a refused setting out, or puts in what is accepted instead. False when it is not there.
    pub(crate) fn take_out(&mut self, refused: &RejectedSetting) -> bool {
        match &refused.origin {
            Origin::Parameters | Origin::Recovery => take_out(&mut self.own, refused),
            Origin::ExistingFile { path, line } => {
                let Some(existing) = self.existing.as_mut().filter(|file| file.path == Path::new(path))
                else {
                    return false;
                };
                let at = usize::try_from(*line).ok().and_then(|line| line.checked_sub(1));
                let Some(text) = at.and_then(|at| existing.lines.get_mut(at)) else { return false };
                if text.trim_start().starts_with('#') {
                    return false;
                }
                *text = format!("{}{text}", replacement(refused));
                true
            }
            Origin::Unknown => false,
        }
    }
}

/// The files of a trial.
pub(crate) struct Text {
    existing: Option<String>,
    own: String,
    directory: PathBuf,
}

impl Text {
    /// Writes them, and returns the path of the one to begin with.
    pub(crate) fn write(&self) -> Result<PathBuf> {
        if let Some(existing) = &self.existing {
            write_atomically(&self.directory.join(EXISTING), existing.as_bytes())?;
        }
        let path = self.directory.join(TRIAL);
        write_atomically(&path, self.own.as_bytes())?;
        Ok(path)
    }
}

/// Takes a refused setting out of the trial, or puts in what is accepted instead. False when it is not there.
fn take_out(lines: &mut Vec<Line>, refused: &RejectedSetting) -> bool {
    let here = |line: &Line| {
        line.name == refused.name && line.origin == refused.origin && line.value == refused.value
    };
    let Some(at) = lines.iter().position(here) else { return false };
    match &refused.instead {
        Some(value) if *value != refused.value => {
            lines[at].text = format!("{} = {}", refused.name, quote::parameter_value(value));
            lines[at].value.clone_from(value);
        }
        _ => {
            lines.remove(at);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_file_are_read() {
        for (text, expected) in [
            ("max_connections = 100\t\t# (change requires restart)", Some(("max_connections", "100"))),
            ("  log_line_prefix='%m [%p] '  # x", Some(("log_line_prefix", "%m [%p] "))),
            ("fsync off", Some(("fsync", "off"))),
            ("#port = 5432", None),
            ("include 'x.conf'", None),
            ("", None),
        ] {
            let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(parse_setting(text), expected, "{text}");
        }
    }
}
