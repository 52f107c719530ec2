//! What TLS is made from, in files (PEM).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A file that TLS cannot be made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    file: PathBuf,
    cause: String,
}

impl Unusable {
    fn new(file: &Path, cause: impl std::fmt::Display) -> Self {
        Unusable { file: file.to_owned(), cause: cause.to_string() }
    }

    /// Which one.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.cause)
    }
}

impl std::error::Error for Unusable {}

/// Whom somebody is by his certificate, and the key that proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The file of the certificate, with those between it and its authority.
    pub certificate: PathBuf,
    /// The file of its private key.
    pub key: PathBuf,
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Unusable> {
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| Unusable::new(&self.key, error))?;
        Ok((certificates(&self.certificate)?, key))
    }
}

/// All certificates in a file.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let found: Vec<_> = found.map_err(|error| Unusable::new(file, error))?;
    match found.is_empty() {
        true => Err(Unusable::new(file, "it holds no certificate")),
        false => Ok(found),
    }
}

/// The authorities in a file.
///
/// # Errors
/// It cannot be read, holds no certificate, or one that is none of an authority.
pub fn authorities(file: &Path) -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| Unusable::new(file, error))?;
    }
    Ok(roots)
}

/// For a server that is `identity`. With `clients` a client may show a certificate, and one that it shows must be signed by an authority of
/// that file.
///
/// # Errors
/// The file that makes no sense.
pub fn server_config(identity: &Identity, clients: Option<&Path>) -> Result<ServerConfig, Unusable> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Unusable::new(&identity.certificate, error))?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(authorities(file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = verifier.allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(|error| Unusable::new(file, error))?)
        }
    };
    let (chain, key) = identity.read()?;
    builder.with_single_cert(chain, key).map_err(|error| Unusable::new(&identity.certificate, error))
}

/// For a client that wants a server whose certificate names it and is signed by an authority of `servers`, and that shows its own where it has one.
///
/// # Errors
/// The file that makes no sense.
pub fn client_config(servers: &Path, identity: Option<&Identity>) -> Result<ClientConfig, Unusable> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Unusable::new(servers, error))?
        .with_root_certificates(authorities(servers)?);
    let Some(identity) = identity else { return Ok(builder.with_no_client_auth()) };
    let (chain, key) = identity.read()?;
    builder.with_client_auth_cert(chain, key).map_err(|error| Unusable::new(&identity.certificate, error))
}
