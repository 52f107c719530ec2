//! The HTTP endpoints of keepers: how they prove who they are, and who may ask for more than a status code (docs/security.md).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use secrecy::{ExposeSecret as _, SecretString};
use stolon_tls::{Identity, client_config, server_config};
use subtle::{Choice, ConstantTimeEq as _};
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

use crate::UsageError;
use crate::limited_listener::Shown;
use crate::reread::Reread;

/// The options of those who ask, or are, such an endpoint.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct EndpointFlags {
    /// Certificate of this program (PEM): a keeper answers over TLS with it, and whoever asks a keeper and has no token shows it
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    http_cert_file: String,

    /// Private key of that certificate (PEM)
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    http_key: String,

    /// Certificates of the authorities that may have signed those of keepers (PEM): a keeper that answers over TLS is asked only if one of
    /// them has
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    http_ca_file: String,

    /// File of the tokens, one on each line, that keepers tell more than a status code for: each of them is accepted, the first is shown
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    http_token_file: String,
}

const CERTIFICATE: &str = "--http-cert-file";
const KEY: &str = "--http-key";
const AUTHORITIES: &str = "--http-ca-file";
const CLIENTS: &str = "--http-client-ca-file";
const TOKENS: &str = "--http-token-file";

/// What an endpoint demands, and how it proves itself.
#[derive(Clone)]
pub struct Protection {
    tls: Option<Reread<Arc<ServerConfig>>>,
    tokens: Option<Reread<Tokens>>,
    clients: Clients,
}

/// Whether clients may prove themselves by a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clients {
    Anonymous,
    MayShowCertificate,
}

/// What whoever asks may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Everything,
    /// Status codes.
    CodesOnly,
}

/// What one needs to ask endpoints.
#[derive(Clone, Default)]
pub(crate) struct Asking {
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) token: Option<SecretString>,
}

/// What is accepted; the first is shown.
#[derive(Clone, Default)]
struct Tokens(Vec<SecretString>);

impl EndpointFlags {
    /// What asks the endpoints of keepers.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn asker(&self) -> Result<crate::Asker, UsageError> {
        let identity = self.identity()?;
        if identity.is_some() && self.http_ca_file.is_empty() {
            return Err(UsageError::new(format!("{CERTIFICATE} needs {AUTHORITIES}")).hint(
                "name the file with the certificate of the authority that signed those of the keepers",
            ));
        }
        let servers = file(AUTHORITIES, &self.http_ca_file)?;
        let tokens = file(TOKENS, &self.http_token_file)?;
        if servers.is_none() && tokens.is_none() {
            return Ok(crate::Asker::plain());
        }
        // One proof is enough, and a certificate of an authority that the other one does not know ends the handshake.
        let identity = identity.filter(|_| tokens.is_none());
        let read = move || {
            let tls = servers.as_deref().map(|servers| client_config(servers, identity.as_ref()));
            let tls = tls.transpose().map_err(|flaw| match servers.as_deref() == Some(flaw.file()) {
                true => unusable(AUTHORITIES, &flaw.to_string()),
                false => unusable(CERTIFICATE, &flaw.to_string()),
            })?;
            let token = tokens.as_deref().map(Tokens::read).transpose()?;
            Ok(Asking { tls: tls.map(Arc::new), token: token.and_then(|it| it.0.into_iter().next()) })
        };
        Ok(crate::Asker::new(Reread::new("the files that keepers are asked with", read)?))
    }

    /// How the endpoint of a keeper answers; `clients`: the file of `--http-client-ca-file`, or empty.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn protection(&self, clients: &str) -> Result<Protection, UsageError> {
        let identity = self.identity()?;
        let clients = file(CLIENTS, clients)?;
        if clients.is_some() && identity.is_none() {
            return Err(UsageError::new(format!("{CLIENTS} needs {CERTIFICATE} and {KEY}"))
                .hint("clients show certificates over TLS only, and the keeper has to prove itself first"));
        }
        let shown = if clients.is_some() { Clients::MayShowCertificate } else { Clients::Anonymous };
        let tls = identity.map(|identity| {
            let read = move || match server_config(&identity, clients.as_deref()) {
                Ok(config) => Ok(Arc::new(config)),
                Err(flaw) if clients.as_deref() == Some(flaw.file()) => {
                    Err(unusable(CLIENTS, &flaw.to_string()))
                }
                Err(flaw) => Err(unusable(CERTIFICATE, &flaw.to_string())),
            };
            Reread::new("the TLS files of the HTTP endpoint", read)
        });
        let tokens = file(TOKENS, &self.http_token_file)?;
        let tokens =
            tokens.map(|path| Reread::new("the tokens of the HTTP endpoint", move || Tokens::read(&path)));
        Ok(Protection { tls: tls.transpose()?, tokens: tokens.transpose()?, clients: shown })
    }

    fn identity(&self) -> Result<Option<Identity>, UsageError> {
        match (file(CERTIFICATE, &self.http_cert_file)?, file(KEY, &self.http_key)?) {
            (Some(certificate), Some(key)) => Ok(Some(Identity { certificate, key })),
            (None, None) => Ok(None),
            _ => Err(UsageError::new(format!("{CERTIFICATE} and {KEY} are needed together"))
                .hint("one is of no use without the other")),
        }
    }
}

/// One that can be opened.
fn file(flag: &str, path: &str) -> Result<Option<PathBuf>, UsageError> {
    if path.is_empty() {
        return Ok(None);
    }
    match std::fs::File::open(path) {
        Ok(_) => Ok(Some(PathBuf::from(path))),
        Err(error) => Err(UsageError::new(format!("cannot read {flag}: {path}: {error}"))
            .hint("it must name a file that the user of this program may read")),
    }
}

fn unusable(flag: &str, why: &str) -> UsageError {
    let hint = match flag {
        TOKENS => {
            "write a token into it, of at least 16 printable characters without spaces: openssl rand -hex 32"
        }
        _ => {
            "the file must be in the PEM format, with lines such as -----BEGIN CERTIFICATE-----; certificate and key must belong together"
        }
    };
    UsageError::new(format!("{flag}: {why}")).hint(hint)
}

/// A shorter one can be guessed.
const SHORTEST_TOKEN: usize = 16;

impl Tokens {
    fn read(path: &Path) -> Result<Tokens, UsageError> {
        let failed = |why: &str| unusable(TOKENS, &format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| failed(&error.to_string()))?;
        let text = SecretString::from(text);
        let lines = text.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty());
        let tokens: Vec<SecretString> = lines.map(SecretString::from).collect();
        let is_token = |token: &SecretString| {
            let token = token.expose_secret();
            token.len() >= SHORTEST_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic())
        };
        match tokens.is_empty() {
            true => Err(failed("it holds no token")),
            false if !tokens.iter().all(is_token) => Err(failed("a line of it is no token")),
            false => Ok(Tokens(tokens)),
        }
    }

    fn accept(&self, shown: &str) -> bool {
        // All of them are compared, each in a time that does not tell where they differ.
        let is_same = |token: &SecretString| token.expose_secret().as_bytes().ct_eq(shown.as_bytes());
        self.0.iter().fold(Choice::from(0), |found, token| found | is_same(token)).into()
    }
}

impl std::fmt::Debug for Protection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Protection { tls, tokens, clients } = self;
        write!(f, "Protection {{ tls: {}, tokens: {}, {clients:?} }}", tls.is_some(), tokens.is_some())
    }
}

impl Protection {
    /// Everything is told to everybody, in the clear.
    pub fn none() -> Self {
        Protection { tls: None, tokens: None, clients: Clients::Anonymous }
    }

    /// Before the address at which others reach it.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { crate::HTTPS } else { "" }
    }

    pub(crate) fn tls(&self) -> Option<Reread<Arc<ServerConfig>>> {
        self.tls.clone()
    }

    async fn access(&self, connection: &Shown, headers: &HeaderMap) -> Access {
        if self.tokens.is_none() && self.clients == Clients::Anonymous || connection.is_certificate() {
            return Access::Everything;
        }
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (Some(shown), Some(tokens)) = (shown.and_then(bearer), &self.tokens) else {
            return Access::CodesOnly;
        };
        match tokens.get().await.accept(shown) {
            true => Access::Everything,
            false => Access::CodesOnly,
        }
    }
}

/// `Authorization: Bearer …` (RFC 6750, section 2.1; the scheme in any case: RFC 9110, section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Tells the routes what whoever asks may be told.
pub(crate) async fn judge(
    State(protection): State<Protection>,
    ConnectInfo(connection): ConnectInfo<Shown>,
    mut request: Request,
    next: Next,
) -> Response {
    let access = protection.access(&connection, request.headers()).await;
    request.extensions_mut().insert(access);
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read at the start, once, names the option whose file makes no sense.
    #[test]
    fn a_file_that_makes_no_sense_is_named_with_its_option() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["keeper".to_owned()]).unwrap();
        let sound = EndpointFlags {
            http_cert_file: write("keeper.pem", &cert.pem()),
            http_key: write("keeper.key", &signing_key.serialize_pem()),
            http_ca_file: write("ca.pem", &cert.pem()),
            http_token_file: write("tokens", "0123456789abcdef"),
        };
        let (nonsense, short) = (write("nonsense", "nothing"), write("short", "0123456789abcde"));
        let proofs = |flags: &EndpointFlags, clients: &str| -> Result<(), UsageError> {
            flags.protection(clients)?;
            flags.asker().map(drop)
        };
        proofs(&sound, &sound.http_ca_file).unwrap();
        let named = |flags: EndpointFlags, clients: &str, flag: &str, path: &str| {
            let why = proofs(&flags, clients).unwrap_err();
            assert!(why.message.starts_with(&format!("{flag}: {path}: ")), "{}", why.message);
            assert!(why.hint.is_some(), "{}", why.message);
        };
        named(EndpointFlags { http_ca_file: nonsense.clone(), ..sound.clone() }, "", AUTHORITIES, &nonsense);
        named(
            EndpointFlags { http_cert_file: nonsense.clone(), ..sound.clone() },
            "",
            CERTIFICATE,
            &nonsense,
        );
        named(EndpointFlags { http_token_file: short.clone(), ..sound.clone() }, "", TOKENS, &short);
        named(sound, &nonsense, CLIENTS, &nonsense);
    }
}
