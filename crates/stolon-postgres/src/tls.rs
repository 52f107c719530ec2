//! Connections to another PostgreSQL, over TLS where it has it, as `sslmode=prefer` makes them (PostgreSQL manual, "SSL Support"):
//! encrypted against who listens in, without proof of who answers.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use stolon_tls::AnyCertificate;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::replication::Failure;

/// Either kind of connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Whether TLS is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    /// It is used where the server has it.
    Preferred,
    /// Everything goes in the clear.
    No,
}

/// Connects to `host`, a name or an address.
pub(crate) async fn connect(host: &str, port: &str, tls: Tls) -> Result<Box<dyn Stream>, Failure> {
    let port = port.parse::<u16>().map_err(|_| Failure::Protocol("that is no port".to_owned()))?;
    let mut stream = TcpStream::connect((host, port)).await?;
    if tls == Tls::No {
        return Ok(Box::new(stream));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    match stream.read_u8().await? {
        b'N' => Ok(Box::new(stream)),
        b'S' => {
            // What is no name cannot be shown to the server, which does not need it.
            let name = ServerName::try_from(host.to_owned());
            let name = name.unwrap_or_else(|_| ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into()));
            Ok(Box::new(TlsConnector::from(config()?).connect(name, stream).await?))
        }
        _ => Err(Failure::Protocol("the question for TLS was not answered as PostgreSQL does".to_owned())),
    }
}

fn config() -> Result<Arc<ClientConfig>, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Protocol(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate::default()))
        .with_no_client_auth();
    Ok(Arc::new(config))
}
