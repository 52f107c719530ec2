//! TLS: the certificates of the endpoints and of this client.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use stolon_model::with_causes;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::{StoreError, StoreOptions, TlsVerification};

/// The files that the TLS flags name. They are read anew for each connection, so that certificates can be replaced while the
/// programs run. (A handshake is the only time at which they matter.)
pub struct TlsFiles {
    options: StoreOptions,
    /// For when the files make no sense, as in the middle of their replacement.
    last_good: Mutex<Tls>,
}

impl TlsFiles {
    /// Read the files for the first time.
    ///
    /// # Errors
    /// [`StoreError::Configuration`], see [`Tls::new`].
    pub fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        Ok(TlsFiles { options: options.clone(), last_good: Mutex::new(Tls::new(options)?) })
    }

    /// An endpoint with this TLS configuration.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the certificates make no sense, and never did.
    pub fn apply(&self, endpoint: &Endpoint) -> Result<Endpoint, StoreError> {
        let mut last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        let read = Tls::new(&self.options).and_then(|tls| Ok((tls.apply(endpoint.clone())?, tls)));
        match read {
            Ok((endpoint, tls)) => {
                *last_good = tls;
                Ok(endpoint)
            }
            Err(error) => {
                let with_old = last_good.apply(endpoint.clone())?;
                tracing::warn!(%error, "the certificate files of the store make no sense now, those that were read last are used");
                Ok(with_old)
            }
        }
    }
}

/// What the TLS flags say.
#[derive(Clone)]
struct Tls {
    config: ClientTlsConfig,
    verification: TlsVerification,
}

impl Tls {
    /// Read the files that the flags name.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: a file cannot be read or used, or only half of a client certificate is
    /// given.
    fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        let mut config = ClientTlsConfig::new();
        match (&options.cert_file, &options.key_file) {
            (Some(certificate), Some(key)) => {
                config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            (None, None) => {}
            (Some(_), None) => return Err(half("--store-cert-file", "--store-key")),
            (None, Some(_)) => return Err(half("--store-key", "--store-cert-file")),
        }
        let authorities = options.ca_file.as_deref().map(authorities).transpose()?;
        config = match (options.tls_verification, authorities) {
            (TlsVerification::Skip, _) => config,
            (TlsVerification::Full, Some(pem)) => config.ca_certificate(Certificate::from_pem(pem)),
            (TlsVerification::Full, None) => config.with_native_roots(),
        };
        Ok(Tls { config, verification: options.tls_verification })
    }

    /// An endpoint with this TLS configuration.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the certificates make no sense.
    fn apply(&self, endpoint: Endpoint) -> Result<Endpoint, StoreError> {
        let config = self.config.clone();
        match self.verification {
            TlsVerification::Full => endpoint.tls_config(config),
            TlsVerification::Skip => endpoint.tls_config_with_verifier(config, Arc::new(Anybody::new())),
        }
        .map_err(|error| refuse(with_causes(&error)))
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

/// Accepts any certificate (`--store-skip-tls-verify`); the signatures of the handshake must hold.
#[derive(Debug)]
struct Anybody {
    provider: CryptoProvider,
}

impl Anybody {
    fn new() -> Self {
        Anybody { provider: rustls::crypto::ring::default_provider() }
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
