//! Connections to another PostgreSQL, encrypted and proven as far as `sslmode` says (PostgreSQL manual, "SSL Support").

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use stolon_tls::{AnyCertificate, AnyName, authorities, certificates};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::credentials::ClientCertificate;
use crate::replication::Failure;

/// How well a connection is protected: libpq's `sslmode`, each one more than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Everything goes in the clear.
    Disable,
    /// TLS is used where the server has it, without proof of who answers.
    #[default]
    Prefer,
    /// TLS must be used, without proof of who answers.
    Require,
    /// An authority that we know has signed the server's certificate.
    VerifyCa,
    /// The same, and the certificate names the address that we connect to.
    VerifyFull,
}

impl SslMode {
    /// All of them, from the weakest to the strongest.
    pub const ALL: [Self; 5] = [Self::Disable, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// The word of libpq.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// Whether nothing may go in the clear.
    pub fn requires_tls(self) -> bool {
        self >= Self::Require
    }

    /// Whether the server has to prove who it is.
    pub fn verifies(self) -> bool {
        self >= Self::VerifyCa
    }
}

/// How keepers connect to the PostgreSQL of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerTls {
    /// How well.
    pub mode: SslMode,
    /// The authorities (PEM), absolute, for the modes that verify.
    pub ca_file: Option<PathBuf>,
}

/// Either kind of connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection, before anything of PostgreSQL's protocol is said.
pub(crate) struct Connected {
    pub(crate) stream: Box<dyn Stream>,
    /// What SCRAM is bound to; none without TLS.
    pub(crate) endpoint: Option<Vec<u8>>,
}

/// Connects to `host`, a name or an address. The files are read anew each time, so that they can be replaced.
pub(crate) async fn connect(
    host: &str,
    port: &str,
    tls: &PeerTls,
    certificate: Option<&ClientCertificate>,
) -> Result<Connected, Failure> {
    let port = port.parse::<u16>().map_err(|_| Failure::Protocol("that is no port".to_owned()))?;
    let (files, own) = (tls.clone(), certificate.cloned());
    let config = tokio::task::spawn_blocking(move || config(&files, own.as_ref()));
    let config = config.await.map_err(|error| Failure::Protocol(error.to_string()))??;
    let mut stream = TcpStream::connect((host, port)).await?;
    if tls.mode == SslMode::Disable {
        return Ok(Connected { stream: Box::new(stream), endpoint: None });
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    match stream.read_u8().await? {
        b'N' if tls.mode.requires_tls() => Err(Failure::NoTls),
        b'N' => Ok(Connected { stream: Box::new(stream), endpoint: None }),
        b'S' => {
            // What is no name cannot be shown to the server, which does not need it.
            let name = ServerName::try_from(host.to_owned());
            let name = name.unwrap_or_else(|_| ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into()));
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            let endpoint =
                stream.get_ref().1.peer_certificates().and_then(|chain| endpoint_of(chain.first()?));
            Ok(Connected { stream: Box::new(stream), endpoint })
        }
        _ => Err(Failure::Protocol("the question for TLS was not answered as PostgreSQL does".to_owned())),
    }
}

/// The hash of a certificate that a connection over TLS is known by: that of its signature, but at least SHA-256; none for signatures
/// that have none (RFC 5929, section 4.1, `tls-server-end-point`).
fn endpoint_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    use ring::digest::{SHA256, SHA384, SHA512, digest};
    use x509_parser::oid_registry as oid;
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let signed_with = &parsed.signature_algorithm.algorithm;
    let is = |known: &[oid::Oid<'_>]| known.contains(signed_with);
    let hash =
        if is(&[oid::OID_PKCS1_SHA1WITHRSA, oid::OID_PKCS1_SHA256WITHRSA, oid::OID_SIG_ECDSA_WITH_SHA256]) {
            &SHA256
        } else if is(&[oid::OID_PKCS1_SHA384WITHRSA, oid::OID_SIG_ECDSA_WITH_SHA384]) {
            &SHA384
        } else if is(&[oid::OID_PKCS1_SHA512WITHRSA, oid::OID_SIG_ECDSA_WITH_SHA512]) {
            &SHA512
        } else {
            return None;
        };
    Some(digest(hash, certificate).as_ref().to_vec())
}

fn config(tls: &PeerTls, own: Option<&ClientCertificate>) -> Result<Arc<ClientConfig>, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Protocol(error.to_string()))?;
    let builder = match (tls.mode, &tls.ca_file) {
        (SslMode::VerifyCa | SslMode::VerifyFull, Some(file)) => {
            let verifier = WebPkiServerVerifier::builder_with_provider(
                Arc::new(authorities(file).map_err(files)?),
                provider,
            );
            let verifier = verifier.build().map_err(|error| unusable(file, error))?;
            match tls.mode {
                SslMode::VerifyFull => builder.with_webpki_verifier(verifier),
                _ => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName::new(verifier))),
            }
        }
        // An empty list proves nobody: what should be verified and cannot be is refused.
        (SslMode::VerifyCa | SslMode::VerifyFull, None) => {
            builder.with_root_certificates(RootCertStore::empty())
        }
        (SslMode::Disable | SslMode::Prefer | SslMode::Require, _) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate::default()))
        }
    };
    let Some(ClientCertificate { certificate, key }) = own else {
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let chain = certificates(certificate).map_err(files)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error))?;
    let config = builder.with_client_auth_cert(chain, secret);
    Ok(Arc::new(config.map_err(|error| unusable(certificate, error))?))
}

fn files(error: stolon_tls::Unusable) -> Failure {
    Failure::Files(error.to_string())
}

fn unusable(file: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::Files(format!("{}: {error}", file.display()))
}
