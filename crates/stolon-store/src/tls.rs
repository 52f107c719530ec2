//! TLS: the certificates of the endpoints and of this client.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use stolon_model::{Advise as _, with_causes};
use stolon_tls::AnyCertificate;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::endpoints::Scheme;
use crate::{StoreError, StoreOptions, TlsVerification};

/// A certificate or a key, as PEM.
#[derive(Clone)]
pub enum Pem {
    /// In a file.
    File(PathBuf),
    /// Given itself.
    Given(SecretSlice<u8>),
}

impl Pem {
    fn read(&self) -> Result<Cow<'_, [u8]>, String> {
        match self {
            Pem::File(path) => {
                std::fs::read(path).map(Cow::Owned).map_err(|error| format!("{}: {error}", path.display()))
            }
            Pem::Given(bytes) => Ok(Cow::Borrowed(bytes.expose_secret())),
        }
    }

    fn place(&self) -> String {
        match self {
            Pem::File(path) => path.display().to_string(),
            Pem::Given(_) => "what is given".to_owned(),
        }
    }
}

/// Certificate and key of this client that another program issues while this one runs, as PEM.
#[derive(Default)]
pub struct Issued {
    pair: Mutex<Option<(SecretString, SecretString)>>,
}

impl Issued {
    /// Take over what was issued; whether it is another one.
    pub fn replace(&self, pair: Option<(SecretString, SecretString)>) -> bool {
        let text = |pair: &Option<(SecretString, SecretString)>| {
            pair.as_ref().map(|(one, two)| (one.expose_secret().to_owned(), two.expose_secret().to_owned()))
        };
        let mut now = self.pair.lock();
        let is_another = text(&now) != text(&pair);
        *now = pair;
        is_another
    }

    fn read(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let pair = self.pair.lock();
        let (certificate, key) = pair.as_ref()?;
        Some((certificate.expose_secret().as_bytes().to_vec(), key.expose_secret().as_bytes().to_vec()))
    }
}

/// What TLS is made from.
#[derive(Clone)]
pub struct TlsSources {
    /// Certificate and key of this client.
    pub identity: Option<(Pem, Pem)>,
    /// Where another program issues them: those count, once they are there.
    pub issued: Option<Arc<Issued>>,
    /// Those that may sign the certificate of the store; `None`: the machine's.
    pub authorities: Option<Pem>,
    /// Whether the store must prove who it is.
    pub verification: TlsVerification,
    /// What to look at when something is wrong.
    pub hint: &'static str,
}

impl TlsSources {
    /// What the TLS flags say.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: only half of a client certificate is given.
    fn from_flags(options: &StoreOptions) -> Result<Self, StoreError> {
        let file = |path: &PathBuf| Pem::File(path.clone());
        let identity = match (&options.cert_file, &options.key_file) {
            (Some(certificate), Some(key)) => Some((file(certificate), file(key))),
            (None, None) => None,
            (Some(_), None) => return Err(half("--store-cert-file", "--store-key")),
            (None, Some(_)) => return Err(half("--store-key", "--store-cert-file")),
        };
        Ok(TlsSources {
            identity,
            issued: None,
            authorities: options.ca_file.as_ref().map(file),
            verification: options.tls_verification,
            hint: "check --store-ca-file, --store-cert-file and --store-key",
        })
    }

    fn refuse(&self, cause: impl std::fmt::Display) -> StoreError {
        StoreError::configuration(format!("cannot create store tls config: {cause}"), self.hint)
    }
}

/// The files that TLS is made from. They are read anew for each connection, so that certificates can be replaced while the
/// programs run. (A handshake is the only time at which they matter.)
pub struct TlsFiles {
    sources: TlsSources,
    /// For when the files make no sense, as in the middle of their replacement.
    last_good: Mutex<Tls>,
}

impl TlsFiles {
    /// Read the files for the first time, if the scheme needs them.
    ///
    /// # Errors
    /// [`StoreError::Configuration`], see [`Tls::new`].
    pub fn for_scheme(scheme: Scheme, options: &StoreOptions) -> Result<Option<Self>, StoreError> {
        match scheme {
            Scheme::Https => Ok(Some(Self::new(TlsSources::from_flags(options)?)?)),
            Scheme::Http => {
                warn_of_unused_tls(options);
                Ok(None)
            }
        }
    }

    /// Read the files for the first time.
    ///
    /// # Errors
    /// [`StoreError::Configuration`], see [`Tls::new`].
    pub fn new(sources: TlsSources) -> Result<Self, StoreError> {
        let last_good = Mutex::new(Tls::new(&sources)?);
        Ok(TlsFiles { sources, last_good })
    }

    /// An endpoint of etcd's version 3 interface with this TLS configuration.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the certificates make no sense, and never did.
    pub fn apply(&self, endpoint: &Endpoint) -> Result<Endpoint, StoreError> {
        self.read_anew(|tls| tls.apply(endpoint.clone()))
    }

    /// What a connection of our own needs.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the certificates make no sense, and never did.
    pub fn client_config(&self) -> Result<ClientConfig, StoreError> {
        self.read_anew(Tls::client_config)
    }

    fn read_anew<T>(&self, make: impl Fn(&Tls) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut last_good = self.last_good.lock();
        let read = Tls::new(&self.sources).and_then(|tls| Ok((make(&tls)?, tls)));
        match read {
            Ok((made, tls)) => {
                *last_good = tls;
                Ok(made)
            }
            Err(error) => {
                let with_old = make(&last_good)?;
                let error = error.explained().on_one_line();
                tracing::warn!(
                    error,
                    "the certificate files of the store make no sense now, those that were read last are used"
                );
                Ok(with_old)
            }
        }
    }
}

/// What was read.
struct Tls {
    sources: TlsSources,
    /// Certificate and key of this client, as PEM.
    identity: Option<(Vec<u8>, Vec<u8>)>,
    /// As PEM; `None`: those of the machine.
    authorities: Option<Vec<u8>>,
}

impl Tls {
    /// Read the sources.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: a file cannot be read or used.
    fn new(sources: &TlsSources) -> Result<Self, StoreError> {
        let read = |pem: &Pem| Ok(pem.read().map_err(|cause| sources.refuse(cause))?.into_owned());
        let issued = sources.issued.as_ref().and_then(|issued| issued.read());
        let identity = match (issued, &sources.identity) {
            (Some(issued), _) => Some(issued),
            (None, Some((certificate, key))) => Some((read(certificate)?, read(key)?)),
            (None, None) => None,
        };
        let authorities = sources.authorities.as_ref().map(|pem| authorities(sources, pem)).transpose()?;
        Ok(Tls { identity, authorities, sources: sources.clone() })
    }

    fn refuse(&self, cause: impl std::fmt::Display) -> StoreError {
        self.sources.refuse(cause)
    }

    fn apply(&self, endpoint: Endpoint) -> Result<Endpoint, StoreError> {
        let mut config = ClientTlsConfig::new();
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        match (self.sources.verification, &self.authorities) {
            (TlsVerification::Skip, _) => {
                endpoint.tls_config_with_verifier(config, Arc::new(AnyCertificate::default()))
            }
            (TlsVerification::Full, Some(pem)) => {
                endpoint.tls_config(config.ca_certificate(Certificate::from_pem(pem)))
            }
            (TlsVerification::Full, None) => endpoint.tls_config(config.with_native_roots()),
        }
        .map_err(|error| self.refuse(with_causes(&error)))
    }

    fn client_config(&self) -> Result<ClientConfig, StoreError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| self.refuse(error))?;
        let builder = match self.sources.verification {
            TlsVerification::Skip => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate::default()))
            }
            TlsVerification::Full => builder.with_root_certificates(self.roots()?),
        };
        let Some((certificate, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| self.refuse(error))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| self.refuse(error))?;
        builder.with_client_auth_cert(chain, key).map_err(|error| self.refuse(error))
    }

    fn roots(&self) -> Result<RootCertStore, StoreError> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|error| self.refuse(error))?;
                    roots.add(certificate).map_err(|error| self.refuse(error))?;
                }
            }
            None => {
                // Some of the machine's certificates may be of a kind that nobody uses any more.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        Ok(roots)
    }
}

fn half(given: &str, missing: &str) -> StoreError {
    StoreError::configuration(
        format!("cannot create store tls config: {given} is given without {missing}"),
        "a client certificate needs both",
    )
}

fn authorities(sources: &TlsSources, pem: &Pem) -> Result<Vec<u8>, StoreError> {
    let read = pem.read().map_err(|cause| sources.refuse(cause))?;
    let certificates = CertificateDer::pem_slice_iter(&read)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| sources.refuse(format_args!("{}: {error}", pem.place())))?;
    if certificates.is_empty() {
        return Err(sources.refuse(format_args!("{}: it holds no certificate", pem.place())));
    }
    Ok(read.into_owned())
}

fn warn_of_unused_tls(options: &StoreOptions) {
    let files = [&options.cert_file, &options.key_file, &options.ca_file];
    if files.iter().any(|file| file.is_some()) || options.tls_verification == TlsVerification::Skip {
        tracing::warn!(
            "the TLS flags of the store are not used, since its endpoints are http (write https:// to use them)"
        );
    }
}
