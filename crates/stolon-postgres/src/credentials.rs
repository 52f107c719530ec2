//! Who the keeper is to a PostgreSQL, with the secret kept out of every log.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use secrecy::{ExposeSecret, SecretString};
use stolon_core::keeper::PasswordProtocol;

/// How a user of the keeper proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// With a password (`md5` in `pg_hba.conf`, which admits SCRAM verifiers too).
    Md5,
    /// With a password, by SCRAM alone.
    ScramSha256,
    /// With a client certificate that names the role.
    Cert,
    /// Not at all.
    Trust,
}

impl AuthMethod {
    /// The word of `pg_hba.conf` and of the `--pg-…-auth-method` flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::ScramSha256 => "scram-sha-256",
            Self::Cert => "cert",
            Self::Trust => "trust",
        }
    }

    /// Whether it takes a password.
    pub fn takes_password(self) -> bool {
        matches!(self, Self::Md5 | Self::ScramSha256)
    }
}

/// A password that can be replaced while the keeper runs: all clones are the same one.
#[derive(Clone, Debug)]
pub struct Password(Arc<RwLock<SecretString>>);

impl Password {
    /// The password itself, for quoting and for connections only.
    pub fn get(&self) -> SecretString {
        self.0.read().clone()
    }

    /// Puts another one in its place, for all clones.
    pub fn replace(&self, new: SecretString) -> Replaced {
        let mut known = self.0.write();
        if known.expose_secret() == new.expose_secret() {
            return Replaced::Same;
        }
        *known = new;
        Replaced::Other
    }
}

impl<T: Into<SecretString>> From<T> for Password {
    fn from(password: T) -> Self {
        Self(Arc::new(RwLock::new(password.into())))
    }
}

/// Whether a password that was given is another one than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is the one that was known.
    Same,
    /// It is another one.
    Other,
}

/// The files of a client certificate, absolute, since PostgreSQL reads them too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and those between it and an authority (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

/// One of the two users that the keeper knows.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Role name.
    pub username: String,
    /// How it proves itself.
    pub auth: AuthMethod,
    /// Empty with [`AuthMethod::Cert`] and [`AuthMethod::Trust`].
    pub password: Password,
    /// Shown to servers that ask for it, whatever the method.
    pub certificate: Option<ClientCertificate>,
}

impl Credentials {
    /// The password itself, for quoting and for connections only: none with a method that takes none.
    pub fn password_to_send(&self) -> Option<SecretString> {
        Some(self.password.get())
            .filter(|password| self.auth.takes_password() && !password.expose_secret().is_empty())
    }

    /// How the password may be proven to a server that is said to store it for `stored`.
    pub(crate) fn protocol(&self, stored: PasswordProtocol) -> PasswordProtocol {
        match self.auth {
            AuthMethod::Md5 => stored,
            AuthMethod::ScramSha256 | AuthMethod::Cert | AuthMethod::Trust => PasswordProtocol::Scram,
        }
    }
}
