//! Small HTTP servers for programs and probes: few connections, each for one answer, and none for long.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::middleware;
use axum::response::Response;
use stolon_model::Advise;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::endpoint::{Protection, judge};
use crate::limited_listener::{LimitedListener, Limits, Shown};

/// Scrapes and health checks are few and answered in milliseconds.
pub(crate) const LIMITS: Limits = Limits { connections: 16, time: Duration::from_secs(10) };

/// What a server is for, and which option says where it listens.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// In the middle of a sentence: `metrics`.
    pub name: &'static str,
    /// `--metrics-listen-address`
    pub option: &'static str,
}

/// The server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve {} at {address}: {cause}", service.name)]
pub struct HttpError {
    service: Service,
    address: String,
    cause: std::io::Error,
}

impl Advise for HttpError {
    fn hint(&self) -> Option<Cow<'static, str>> {
        Some(format!("choose a free host:port for {}", self.service.option).into())
    }
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

impl HttpServer {
    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Listen at `host:port` (an empty host: all addresses) and serve in the background. What whoever asks may be told stands in each request as
/// [`crate::Access`].
///
/// # Errors
/// The address is taken or cannot be resolved. Whether that ends the program is the caller's choice.
pub async fn serve_routes(
    service: Service,
    address: &str,
    protection: &Protection,
    routes: Router,
) -> Result<HttpServer, HttpError> {
    serve_within(LIMITS, service, address, protection, routes).await
}

pub(crate) async fn serve_within(
    limits: Limits,
    service: Service,
    address: &str,
    protection: &Protection,
    routes: Router,
) -> Result<HttpServer, HttpError> {
    let failed = |cause| HttpError { service, address: address.to_owned(), cause };
    let listener = match address.strip_prefix(':') {
        Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind(format!("0.0.0.0:{port}")).await.map_err(failed)?,
        },
        None => TcpListener::bind(address).await.map_err(failed)?,
    };
    let bound = listener.local_addr().map_err(failed)?;
    let routes = routes
        .layer(middleware::from_fn_with_state(protection.clone(), judge))
        .layer(middleware::map_response(one_answer_per_connection))
        .into_make_service_with_connect_info::<Shown>();
    let listener = LimitedListener::new(listener, limits, protection.tls());
    let serving = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "{} http server error", service.name);
        }
    });
    Ok(HttpServer { address: bound, _serving: AbortOnDropHandle::new(serving) })
}

/// A connection that waits for another request would keep others out.
async fn one_answer_per_connection(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
