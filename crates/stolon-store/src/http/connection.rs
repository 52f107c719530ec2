//! One connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use stolon_model::with_causes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::StoreError;
use crate::tls::TlsFiles;

/// Where an endpoint is, and how it is reached.
#[derive(Clone)]
pub struct Address {
    /// Host and port.
    authority: String,
    name: ServerName<'static>,
    tls: Option<Arc<TlsFiles>>,
    timeout: Duration,
}

impl Address {
    /// The address in a URL of [`crate::endpoints::Endpoints`].
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the host can be none.
    pub fn from_url(url: &str, timeout: Duration) -> Result<Self, StoreError> {
        let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| {
            StoreError::configuration(
                format!("{host:?} is no host: {error}"),
                "--store-endpoints: give the name or the address of a host",
            )
        })?;
        Ok(Address {
            authority: authority.to_owned(),
            name,
            tls: None,
            timeout: super::connect_timeout(timeout),
        })
    }

    /// The same address, whose certificate is for this name.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the name can be none.
    pub fn named(self, name: Option<&str>) -> Result<Self, StoreError> {
        let Some(name) = name else { return Ok(self) };
        let server = ServerName::try_from(name.to_owned()).map_err(|error| {
            StoreError::configuration(format!("{name:?} is no name of a server: {error}"), "tls-server-name")
        })?;
        Ok(Address { name: server, ..self })
    }

    /// The same address, reached with TLS.
    pub fn with_tls(&self, tls: Option<Arc<TlsFiles>>) -> Self {
        Address { tls, ..self.clone() }
    }

    /// Host and port.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

/// A connection to an endpoint. Dropping it closes it, whatever is under way.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _driving: AbortOnDropHandle<()>,
}

impl Connection {
    /// Connect. Ends within the time that an address allows.
    ///
    /// # Errors
    /// What happened, in words.
    pub async fn open(address: &Address) -> Result<Self, String> {
        match tokio::time::timeout(address.timeout, Self::try_open(address)).await {
            Ok(opened) => opened,
            Err(_) => Err("no connection in time".to_owned()),
        }
    }

    async fn try_open(address: &Address) -> Result<Self, String> {
        let stream = TcpStream::connect(&address.authority).await.map_err(|error| with_causes(&error))?;
        stream.set_nodelay(true).map_err(|error| with_causes(&error))?;
        let Some(tls) = &address.tls else { return Self::over(stream).await };
        let config = tls.client_config().map_err(|error| error.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(address.name.clone(), stream)
            .await
            .map_err(|error| with_causes(&error))?;
        Self::over(stream).await
    }

    async fn over<S>(stream: S) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| with_causes(&error))?;
        let driving = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "a connection to the store ended");
            }
        });
        Ok(Connection { sender, _driving: AbortOnDropHandle::new(driving) })
    }

    /// True if nothing can be sent any more.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Send a request and wait for the head of its answer.
    ///
    /// # Errors
    /// With the request, where none of it was sent.
    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, (hyper::Error, Option<Request<Full<Bytes>>>)> {
        if let Err(error) = self.sender.ready().await {
            return Err((error, Some(request)));
        }
        self.sender.try_send_request(request).await.map_err(|mut failed| {
            let unsent = failed.take_message();
            (failed.into_error(), unsent)
        })
    }
}
