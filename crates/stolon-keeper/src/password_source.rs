//! Where the password of a user is given, and what can be wrong about it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use stolon_postgres::AuthMethod;
use stolon_runtime::UsageError;

use crate::password_files::without_line_end;

/// Where the password of a user comes from.
pub(crate) struct PasswordSource<'a> {
    /// As flags call the user: `--pg-<role>-…`.
    pub(crate) role: &'static str,
    pub(crate) auth: AuthMethod,
    pub(crate) given: &'a SecretString,
    pub(crate) file: &'a Path,
}

impl PasswordSource<'_> {
    fn has_file(&self) -> bool {
        !self.file.as_os_str().is_empty()
    }

    pub(crate) fn check_without_password(&self, user: &str) -> Result<(), UsageError> {
        let (role, method) = (self.role, self.auth.as_str());
        if self.auth.takes_password() {
            return Ok(());
        }
        if self.auth == AuthMethod::Trust {
            tracing::warn!(
                "password-less trust authentication for the {user} user: whoever comes from a keeper's address is let in, and without defaultSUReplAccessMode strict whoever comes from this host; everybody else needs a line of pgHBA"
            );
        }
        if self.given.expose_secret().is_empty() && !self.has_file() {
            return Ok(());
        }
        Err(UsageError::new(format!(
            "can not utilize --pg-{role}-auth-method {method} together with --pg-{role}-password or --pg-{role}-passwordfile"
        ))
        .hint("leave the password out, or use the method md5"))
    }

    pub(crate) fn check_given(&self) -> Result<(), UsageError> {
        let role = self.role;
        match (self.auth.takes_password(), self.given.expose_secret().is_empty(), self.has_file()) {
            (true, true, false) => Err(UsageError::new(format!(
                "one of --pg-{role}-password or --pg-{role}-passwordfile is required"
            ))
            .hint("put the password into a file of mode 0600 and name the file")),
            (true, false, true) => Err(UsageError::new(format!(
                "only one of --pg-{role}-password or --pg-{role}-passwordfile must be provided"
            ))
            .hint("keep the file")),
            _ => Ok(()),
        }
    }

    pub(crate) fn read(&self, user: &str) -> Result<SecretString, UsageError> {
        if !self.has_file() {
            return Ok(self.given.clone());
        }
        let role = self.role;
        if let Ok(metadata) = std::fs::metadata(self.file) {
            let mode = metadata.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                tracing::warn!(
                    "password file {} permissions {mode:04o} are too open, use 0600",
                    self.file.display()
                );
            }
        }
        std::fs::read_to_string(self.file).map(SecretString::from).map_err(|error| {
            UsageError::new(format!("cannot read pg {user} password: {}: {error}", self.file.display()))
                .hint(format!("--pg-{role}-passwordfile must name a file that the keeper may read, holding the {user} password"))
        })
    }

    pub(crate) fn strip(&self, user: &str, password: SecretString) -> Result<SecretString, UsageError> {
        let password = password.expose_secret();
        if password.is_empty() && self.has_file() {
            return Err(UsageError::new(format!(
                "the {user} password file {} is empty",
                self.file.display()
            ))
            .hint("write the password into the file"));
        }
        let stripped = without_line_end(password);
        if stripped.len() < password.len() {
            tracing::warn!("{user} password contain trailing new line, removing");
            if stripped.is_empty() {
                return Err(UsageError::new(format!(
                    "{user} password is empty after removing trailing new line"
                ))
                .hint("write the password into the file"));
            }
        }
        Ok(SecretString::from(stripped))
    }
}
