//! Who the keeper is to a PostgreSQL, with the secret kept out of every log.

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

/// A password; `Debug` does not show it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself: for quoting and for connections only.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "Password(none)" } else { "Password(***)" })
    }
}

/// One of the two users that the keeper knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Role name.
    pub username: String,
    /// How it proves itself.
    pub auth: AuthMethod,
    /// Empty with [`AuthMethod::Trust`].
    pub password: Password,
}

impl Credentials {
    /// The password to send: none with [`AuthMethod::Trust`].
    pub fn password_to_send(&self) -> Option<&Password> {
        (self.auth != AuthMethod::Trust && !self.password.is_empty()).then_some(&self.password)
    }
}
