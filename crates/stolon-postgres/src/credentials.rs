//! Who the keeper is to a PostgreSQL, with the secret kept out of every log.

use secrecy::{ExposeSecret, SecretString};

/// How a user of the keeper proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// With a password (`md5` in `pg_hba.conf`, which admits SCRAM verifiers too).
    Md5,
    /// Not at all.
    Trust,
}

impl AuthMethod {
    /// The word of `pg_hba.conf` and of the `--pg-…-auth-method` flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Trust => "trust",
        }
    }
}

/// One of the two users that the keeper knows.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Role name.
    pub username: String,
    /// How it proves itself.
    pub auth: AuthMethod,
    /// Empty with [`AuthMethod::Trust`].
    pub password: SecretString,
}

impl Credentials {
    /// The password itself, for quoting and for connections only: none with [`AuthMethod::Trust`].
    pub fn password_to_send(&self) -> Option<&str> {
        Some(self.password.expose_secret())
            .filter(|password| self.auth != AuthMethod::Trust && !password.is_empty())
    }
}
