//! TLS: the certificates of the endpoints and of this client.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use stolon_model::{Advise as _, with_causes};
use stolon_tls::AnyCertificate;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::endpoints::Scheme;
use crate::{StoreError, StoreOptions, TlsVerification};

/// The files that the TLS flags name. They are read anew for each connection, so that certificates can be replaced while the
/// programs run. (A handshake is the only time at which they matter.)
pub struct TlsFiles {
    options: StoreOptions,
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
            Scheme::Https => {
                let last_good = Mutex::new(Tls::new(options)?);
                Ok(Some(TlsFiles { options: options.clone(), last_good }))
            }
            Scheme::Http => {
                warn_of_unused_tls(options);
                Ok(None)
            }
        }
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
        let read = Tls::new(&self.options).and_then(|tls| Ok((make(&tls)?, tls)));
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

/// What the TLS flags say.
struct Tls {
    /// Certificate and key of this client, as PEM.
    identity: Option<(Vec<u8>, Vec<u8>)>,
    /// As PEM; `None`: those of the machine.
    authorities: Option<Vec<u8>>,
    verification: TlsVerification,
}

impl Tls {
    /// Read the files that the flags name.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: a file cannot be read or used, or only half of a client certificate is
    /// given.
    fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        let identity = match (&options.cert_file, &options.key_file) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            (None, None) => None,
            (Some(_), None) => return Err(half("--store-cert-file", "--store-key")),
            (None, Some(_)) => return Err(half("--store-key", "--store-cert-file")),
        };
        let authorities = options.ca_file.as_deref().map(authorities).transpose()?;
        Ok(Tls { identity, authorities, verification: options.tls_verification })
    }

    fn apply(&self, endpoint: Endpoint) -> Result<Endpoint, StoreError> {
        let mut config = ClientTlsConfig::new();
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        match (self.verification, &self.authorities) {
            (TlsVerification::Skip, _) => {
                endpoint.tls_config_with_verifier(config, Arc::new(AnyCertificate::default()))
            }
            (TlsVerification::Full, Some(pem)) => {
                endpoint.tls_config(config.ca_certificate(Certificate::from_pem(pem)))
            }
            (TlsVerification::Full, None) => endpoint.tls_config(config.with_native_roots()),
        }
        .map_err(|error| refuse(with_causes(&error)))
    }

    fn client_config(&self) -> Result<ClientConfig, StoreError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(refuse)?;
        let builder = match self.verification {
            TlsVerification::Skip => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate::default()))
            }
            TlsVerification::Full => builder.with_root_certificates(self.roots()?),
        };
        let Some((certificate, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>().map_err(refuse)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(refuse)?;
        builder.with_client_auth_cert(chain, key).map_err(refuse)
    }

    fn roots(&self) -> Result<RootCertStore, StoreError> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    roots.add(certificate.map_err(refuse)?).map_err(refuse)?;
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

fn refuse(cause: impl std::fmt::Display) -> StoreError {
    StoreError::configuration(
        format!("cannot create store tls config: {cause}"),
        "check --store-ca-file, --store-cert-file and --store-key",
    )
}

fn half(given: &str, missing: &str) -> StoreError {
    StoreError::configuration(
        format!("cannot create store tls config: {given} is given without {missing}"),
        "a client certificate needs both",
    )
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|error| refuse(format_args!("{}: {error}", path.display())))
}

fn authorities(path: &Path) -> Result<Vec<u8>, StoreError> {
    let pem = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| refuse(format_args!("{}: {error}", path.display())))?;
    if certificates.is_empty() {
        return Err(refuse(format_args!("{}: it holds no certificate", path.display())));
    }
    Ok(pem)
}

fn warn_of_unused_tls(options: &StoreOptions) {
    let files = [&options.cert_file, &options.key_file, &options.ca_file];
    if files.iter().any(|file| file.is_some()) || options.tls_verification == TlsVerification::Skip {
        tracing::warn!(
            "the TLS flags of the store are not used, since its endpoints are http (write https:// to use them)"
        );
    }
}
