//! The flags of a user that `pg_rewind` reads the files of the primary as, in the place of the superuser.

use std::path::Path;

use secrecy::SecretString;
use stolon_postgres::{AuthMethod, Credentials};
use stolon_runtime::{UsageError, check_name};

use crate::flags::LONGEST_NAME;
use crate::password_source::PasswordSource;

/// Both or neither.
#[derive(Debug, clap::Args)]
pub(crate) struct RewindFlags {
    /// Name of a user that may read the files of a server, for pg_rewind (PostgreSQL 11 and later); the keeper makes it in a new cluster
    /// (default: the superuser)
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    pg_rewind_username: String,

    /// File that holds the password of that user
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pg_rewind_passwordfile: String,
}

impl RewindFlags {
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn check(&self, others: [&Credentials; 2]) -> Result<Option<Credentials>, UsageError> {
        let name = self.pg_rewind_username.as_str();
        match (name, self.pg_rewind_passwordfile.as_str()) {
            ("", "") => return Ok(None),
            ("", _) => {
                return Err(UsageError::new(
                    "--pg-rewind-passwordfile has no effect without --pg-rewind-username",
                )
                .hint("name the user, or leave both out for the superuser"));
            }
            (_, "") => {
                return Err(UsageError::new("--pg-rewind-username needs --pg-rewind-passwordfile")
                    .hint("put the password into a file of mode 0600 and name the file"));
            }
            _ => {}
        }
        check_name("--pg-rewind-username", name, LONGEST_NAME)?;
        if others.iter().any(|other| other.username == name) {
            return Err(UsageError::new(format!(
                "--pg-rewind-username {name} is a user that keepers have already"
            ))
            .hint(
                "leave it out to rewind as the superuser, or name a user of its own, which has fewer rights",
            ));
        }
        let none = SecretString::default();
        // A new role needs nothing weaker.
        let auth = AuthMethod::ScramSha256;
        let source = PasswordSource {
            role: "rewind",
            auth,
            given: &none,
            file: Path::new(&self.pg_rewind_passwordfile),
        };
        let password = source.strip("rewind user", source.read("rewind user")?)?;
        Ok(Some(Credentials {
            username: name.to_owned(),
            auth,
            password: password.into(),
            certificate: None,
        }))
    }

    /// `--pg-rewind-passwordfile`.
    pub(crate) fn password_file(&self) -> &String {
        &self.pg_rewind_passwordfile
    }
}
