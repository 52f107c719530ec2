//! What a data directory is, seen from its files alone.

use std::io::ErrorKind;
use std::path::Path;

use crate::error::{PostgresError, Result};
use crate::version::Version;

/// What stands at PGDATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataDirectory {
    /// Nothing.
    Absent,
    /// An empty directory.
    Empty,
    /// Some of an instance, or something else.
    Partial {
        /// Files and directories of an instance that are missing.
        missing: Vec<String>,
    },
    /// An instance.
    Initialised(Initialised),
}

/// An instance as its files show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initialised {
    /// From `PG_VERSION`.
    pub version: Version,
    /// From the signal files.
    pub role: LocalRole,
    /// `recovery.signal` (or, before PostgreSQL 12, a `recovery.conf` without `recovery.done`) stands there:
    /// recovery to a target has not ended.
    pub recovery_pending: bool,
    /// The first eight bytes of `global/pg_control` in decimal.
    pub system_identifier: String,
}

/// What an instance would start as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalRole {
    /// Without `standby.signal`.
    Primary,
    /// With `standby.signal`.
    Standby,
}

/// Without these, and the directories of WAL and of transactions, nothing is left of an instance. What else may be missing PostgreSQL
/// makes anew, or names when it is started.
const DECISIVE: &[&str] = &["base", "global", "global/pg_control"];

/// Looks at `path`. `binaries` decides which signal files count; none: the data's own version.
pub(crate) fn examine(path: &Path, binaries: Option<Version>) -> Result<DataDirectory> {
    let mut entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(DataDirectory::Absent),
        Err(error) => return Err(PostgresError::io("read", path)(error)),
    };
    if entries.next().is_none() {
        return Ok(DataDirectory::Empty);
    }
    let Some(version) = data_version(path)? else {
        return Ok(DataDirectory::Partial { missing: vec!["PG_VERSION".to_owned()] });
    };
    let of_version: [&str; 2] =
        if version.has_pg_wal() { ["pg_wal", "pg_xact"] } else { ["pg_xlog", "pg_clog"] };
    let missing: Vec<String> = DECISIVE
        .iter()
        .chain(&of_version)
        .filter(|name| !path.join(name).exists())
        .map(|name| (*name).to_owned())
        .collect();
    if !missing.is_empty() {
        return Ok(DataDirectory::Partial { missing });
    }
    let signals = binaries.unwrap_or(version).has_signal_files();
    let (standby, pending) = if signals {
        (path.join("standby.signal").exists(), path.join("recovery.signal").exists())
    } else {
        let there = path.join("recovery.conf").exists();
        (there, there && !path.join("recovery.done").exists())
    };
    Ok(DataDirectory::Initialised(Initialised {
        version,
        role: if standby { LocalRole::Standby } else { LocalRole::Primary },
        recovery_pending: pending,
        system_identifier: system_identifier(path)?,
    }))
}

/// The version in `PG_VERSION`; none when there is no such file.
pub(crate) fn data_version(path: &Path) -> Result<Option<Version>> {
    let file = path.join("PG_VERSION");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(PostgresError::io("read", &file)(error)),
    };
    let line = text.lines().next().unwrap_or_default();
    match Version::from_numbers(line) {
        Some(version) => Ok(Some(version)),
        None => Err(PostgresError::Invalid(format!("{} holds no version: \"{line}\"", file.display()))),
    }
}

/// The system identifier: the first eight bytes of `pg_control`, in the machine's order
/// (PostgreSQL source, `ControlFileData`).
fn system_identifier(path: &Path) -> Result<String> {
    use std::io::Read;
    let file = path.join("global/pg_control");
    let mut bytes = [0_u8; 8];
    std::fs::File::open(&file)
        .and_then(|mut open| open.read_exact(&mut bytes))
        .map_err(PostgresError::io("read", &file))?;
    Ok(u64::from_ne_bytes(bytes).to_string())
}

impl DataDirectory {
    /// The instance, when there is one.
    pub fn initialised(&self) -> Option<&Initialised> {
        match self {
            Self::Initialised(instance) => Some(instance),
            _ => None,
        }
    }
}
