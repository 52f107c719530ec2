//! The file of commands that the cluster data may name.

use std::path::Path;

use stolon_core::keeper::StoreCommands;
use stolon_postgres::SslMode;
use stolon_runtime::UsageError;

/// What `--allowed-commands` says, read once: a keeper starts anew with another list.
///
/// # Errors
/// The file cannot be read, others may write it, or a line of it is none.
pub(crate) fn allowed_commands(path: &str, mode: SslMode) -> Result<StoreCommands, UsageError> {
    if path.is_empty() {
        return Ok(StoreCommands::All);
    }
    let refuse = |cause: &dyn std::fmt::Display, hint: &str| {
        UsageError::new(format!("cannot use --allowed-commands {path}: {cause}")).hint(hint)
    };
    let may_read =
        "it must name a file of text that the user of this keeper may read; an empty one allows nothing";
    if is_open_to_others(Path::new(path)).map_err(|error| refuse(&error, may_read))? {
        let hint = format!("chmod o-w {path}, once you have looked at what it says");
        return Err(refuse(&"every user of this machine may write it", &hint));
    }
    let text = std::fs::read_to_string(path).map_err(|error| refuse(&error, may_read))?;
    let commands = StoreCommands::listed(&text).map_err(|error| {
        refuse(&error, "for example: archive_command = pgbackrest --stanza=main archive-push %p")
    })?;
    if !mode.verifies() {
        tracing::warn!(
            "--allowed-commands without --pg-ssl-mode verify-full: a standby copies whatever answers where the cluster data say that \
             its primary is, and with it who is superuser"
        );
    }
    Ok(commands)
}

fn is_open_to_others(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path)?;
    // A device that holds nothing allows nothing.
    Ok(metadata.is_file() && metadata.permissions().mode() & 0o002 != 0)
}
