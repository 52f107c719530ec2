//! What a data directory is, seen from its files alone.

use std::io::ErrorKind;
use std::path::Path;

use stolon_core::keeper::{Data, DataKind, Present};
use stolon_core::postgres::Version;

use crate::error::{PostgresError, Result};

/// Without these, and the directories of WAL and of transactions, nothing is left of an instance. What else may be missing PostgreSQL
/// makes anew, or names when it is started.
const DECISIVE: &[&str] = &["base", "global", "global/pg_control"];

/// Looks at `path`. `binaries` decides which signal files count; none: the data's own version.
pub(crate) fn examine(path: &Path, binaries: Option<Version>) -> Result<Data> {
    let mut entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Data::Absent),
        Err(error) => return Err(PostgresError::io("read", path)(error)),
    };
    if entries.next().is_none() {
        return Ok(Data::Absent);
    }
    let Some(version) = data_version(path)? else {
        return Ok(Data::Incomplete { missing: vec!["PG_VERSION".to_owned()] });
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
        return Ok(Data::Incomplete { missing });
    }
    let signals = binaries.unwrap_or(version).has_signal_files();
    let standby = path.join(if signals { "standby.signal" } else { "recovery.conf" }).exists();
    Ok(Data::Present(Present {
        version,
        kind: if standby { DataKind::Standby } else { DataKind::Primary },
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
pub(crate) fn system_identifier(path: &Path) -> Result<String> {
    use std::io::Read;
    let file = path.join("global/pg_control");
    let mut bytes = [0_u8; 8];
    std::fs::File::open(&file)
        .and_then(|mut open| open.read_exact(&mut bytes))
        .map_err(PostgresError::io("read", &file))?;
    Ok(u64::from_ne_bytes(bytes).to_string())
}
