//! The flags that say how PostgreSQL servers of other keepers are connected to.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use stolon_postgres::{AuthMethod, ClientCertificate, PeerTls, SslMode};
use stolon_runtime::UsageError;

/// TLS between the servers.
#[derive(Debug, clap::Args)]
pub(crate) struct PeerFlags {
    /// How keepers connect to the PostgreSQL of each other: disable, prefer, require, verify-ca or verify-full (libpq's sslmode). From
    /// require on, the superuser and the replication user are admitted over TLS only
    #[arg(long, default_value = "prefer", value_name = "MODE")]
    pg_ssl_mode: String,

    /// Certificates of the authorities that may have signed those of the PostgreSQL servers (PEM)
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pg_ssl_ca_file: String,

    /// Certificate that the replication user shows to the PostgreSQL of others (PEM)
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pg_repl_cert_file: String,

    /// Private key of that certificate (PEM, mode 0600)
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pg_repl_key: String,

    /// Certificate that the superuser shows to the PostgreSQL of others (PEM)
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pg_su_cert_file: String,

    /// Private key of that certificate (PEM, mode 0600)
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pg_su_key: String,
}

const CA_FILE: &str = "--pg-ssl-ca-file";

/// What was given, checked.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) tls: PeerTls,
    pub(crate) superuser: Option<ClientCertificate>,
    pub(crate) replication: Option<ClientCertificate>,
}

impl PeerFlags {
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn check(&self, superuser: AuthMethod, replication: AuthMethod) -> Result<Peers, UsageError> {
        let mode =
            SslMode::ALL.into_iter().find(|mode| mode.as_str() == self.pg_ssl_mode).ok_or_else(|| {
                UsageError::new(
                    "--pg-ssl-mode must be one of: disable, prefer, require, verify-ca, verify-full",
                )
                .hint(format!("it is {:?}", self.pg_ssl_mode))
            })?;
        let ca_file = file(CA_FILE, &self.pg_ssl_ca_file)?;
        match (mode.verifies(), &ca_file) {
            (true, None) => {
                return Err(UsageError::new(format!(
                    "--pg-ssl-mode {} needs --pg-ssl-ca-file",
                    mode.as_str()
                ))
                .hint(
                    "name the file with the certificate of the authority that signed those of the servers",
                ));
            }
            (false, Some(_)) => {
                return Err(UsageError::new(format!(
                    "--pg-ssl-ca-file has no effect with --pg-ssl-mode {}",
                    mode.as_str()
                ))
                .hint(
                    "use verify-full, or verify-ca where certificates do not name the servers' addresses",
                ));
            }
            (true, Some(file)) => Holds::Certificates.check(CA_FILE, file)?,
            (false, None) => {}
        }
        let repl =
            User { role: "repl", auth: replication, files: [&self.pg_repl_cert_file, &self.pg_repl_key] };
        let su = User { role: "su", auth: superuser, files: [&self.pg_su_cert_file, &self.pg_su_key] };
        Ok(Peers {
            replication: repl.certificate(mode)?,
            superuser: su.certificate(mode)?,
            tls: PeerTls { mode, ca_file },
        })
    }
}

struct User<'a> {
    role: &'static str,
    auth: AuthMethod,
    files: [&'a str; 2],
}

impl User<'_> {
    fn certificate(&self, mode: SslMode) -> Result<Option<ClientCertificate>, UsageError> {
        let role = self.role;
        let names = [format!("--pg-{role}-cert-file"), format!("--pg-{role}-key")];
        let certificate = file(&names[0], self.files[0])?;
        let key = file(&names[1], self.files[1])?;
        if self.auth == AuthMethod::Cert && !mode.requires_tls() {
            return Err(UsageError::new(format!(
                "--pg-{role}-auth-method cert needs --pg-ssl-mode require, verify-ca or verify-full"
            ))
            .hint("a certificate is shown over TLS only; verify-full also has the server prove itself"));
        }
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                warn_of_open_key(&key);
                Holds::Certificates.check(&names[0], &certificate)?;
                Holds::Key.check(&names[1], &key)?;
                Ok(Some(ClientCertificate { certificate, key }))
            }
            (None, None) if self.auth != AuthMethod::Cert => Ok(None),
            _ => Err(UsageError::new(format!("{} and {} are needed together", names[0], names[1])).hint(
                format!(
                    "--pg-{role}-auth-method cert needs them, and so does a server that asks for certificates"
                ),
            )),
        }
    }
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Certificates,
    Key,
}

impl Holds {
    /// OpenSSL reads several kinds of each (openssl-format-options(1)); all of their labels end so (RFC 7468, section 4).
    fn is_in(self, text: &str) -> bool {
        let end = match self {
            Holds::Certificates => "CERTIFICATE-----",
            Holds::Key => "PRIVATE KEY-----",
        };
        text.lines().any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(end))
    }

    fn check(self, flag: &str, path: &Path) -> Result<(), UsageError> {
        let text = std::fs::read_to_string(path).map(SecretString::from).unwrap_or_default();
        if self.is_in(text.expose_secret()) {
            return Ok(());
        }
        let what = match self {
            Holds::Certificates => "certificate",
            Holds::Key => "private key",
        };
        Err(UsageError::new(format!("{flag}: {} holds no {what}", path.display()))
            .hint("the file must be in the PEM format, with lines such as -----BEGIN CERTIFICATE-----"))
    }
}

/// PostgreSQL reads the file as well, from another directory.
fn file(flag: &str, path: &str) -> Result<Option<PathBuf>, UsageError> {
    if path.is_empty() {
        return Ok(None);
    }
    let refuse = |error: std::io::Error| {
        UsageError::new(format!("cannot read {flag}: {path}: {error}"))
            .hint("it must name a file that the user of this keeper may read")
    };
    let absolute = std::path::absolute(path).map_err(refuse)?;
    std::fs::File::open(&absolute).map_err(refuse)?;
    Ok(Some(absolute))
}

/// libpq uses no key that others may read; root's may be readable by its group (PostgreSQL manual, "SSL Support", "Client Certificates").
fn warn_of_open_key(path: &Path) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let allowed = if metadata.uid() == 0 { 0o640 } else { 0o600 };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & !allowed != 0 {
        tracing::warn!(
            "key file {} permissions {mode:04o} are too open, PostgreSQL wants 0600",
            path.display()
        );
    }
}
