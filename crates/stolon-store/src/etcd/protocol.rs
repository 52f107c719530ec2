//! How etcd is spoken to through its version 3 interface.

use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Channel, Client, ConnectOptions, GetOptions};
use stolon_model::with_causes;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::endpoints::{ETCD, Endpoints};
use crate::link::{Failed, Protocol};
use crate::tls::TlsFiles;
use crate::{StoreError, StoreOptions};

/// How often an open watch is asked for a sign of life. etcd hangs up on clients that ask more than every 5 s.
const SIGN_OF_LIFE: Duration = Duration::from_secs(7);

/// All connections to etcd.
pub type Links = crate::link::Links<Etcd>;

/// The protocol.
pub struct Etcd {
    endpoints: Vec<Endpoint>,
    tls: Option<TlsFiles>,
}

/// Nothing is connected yet.
///
/// # Errors
/// [`StoreError::Configuration`]: the flags make no sense.
pub fn links(options: &StoreOptions) -> Result<Links, StoreError> {
    let endpoints = Endpoints::parse(&options.endpoints, &ETCD)?;
    let tls = TlsFiles::for_scheme(endpoints.scheme, options)?;
    let make = |url: &String| {
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|error| {
                StoreError::configuration(
                    format!("{url} is not an endpoint: {error}"),
                    "an endpoint looks like http://127.0.0.1:2379",
                )
            })?
            .connect_timeout(options.timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(SIGN_OF_LIFE)
            .keep_alive_timeout(options.timeout.max(Duration::from_secs(1)))
            .keep_alive_while_idle(false)
            .buffer_size(64);
        // What cannot be used is found now, and not when it is first needed.
        let _ = tls.as_ref().map(|tls| tls.apply(&endpoint)).transpose()?;
        Ok(endpoint)
    };
    let made = endpoints.urls.iter().map(make).collect::<Result<_, StoreError>>()?;
    Ok(Links::new(Etcd { endpoints: made, tls }, endpoints.urls, options.timeout))
}

#[async_trait]
impl Protocol for Etcd {
    type Client = Client;
    type Error = etcd_client::Error;

    async fn connect(&self, endpoint: usize) -> Result<Client, String> {
        let endpoint = &self.endpoints[endpoint];
        match &self.tls {
            None => connect(endpoint).await,
            Some(tls) => connect(&tls.apply(endpoint).map_err(|error| error.to_string())?).await,
        }
    }

    fn classify(operation: &str, error: etcd_client::Error) -> Failed {
        classify(operation, error)
    }

    fn hint(&self) -> &'static str {
        "check that etcd runs and has a majority of its members, and check --store-endpoints"
    }
}

/// Connect, and ask a small question that the endpoint can answer by itself.
async fn connect(endpoint: &Endpoint) -> Result<Client, String> {
    let channel = endpoint.connect().await.map_err(|error| with_causes(&error))?;
    let options = ConnectOptions::new().with_require_leader(true);
    let mut client = Client::from_channel(Channel::Tonic(channel), Some(options))
        .await
        .map_err(|error| with_causes(&error))?;
    let question = GetOptions::new().with_serializable().with_count_only();
    match client.get("stolon", Some(question)).await {
        // Whoever refuses has answered. Roles grant what lies below a cluster, and nothing else.
        Err(etcd_client::Error::GRpcStatus(status)) if status.code() == Code::PermissionDenied => Ok(client),
        Err(error) => Err(with_causes(&error)),
        Ok(_) => Ok(client),
    }
}

fn classify(operation: &str, error: etcd_client::Error) -> Failed {
    let etcd_client::Error::GRpcStatus(status) = &error else {
        return match error {
            etcd_client::Error::TransportError(_) => Failed::NoAnswer(with_causes(&error)),
            other => Failed::NoAnswer(other.to_string()),
        };
    };
    if is_connect_error(status) {
        return Failed::NotSent(with_causes(status));
    }
    let message = status.message().to_owned();
    match status.code() {
        // The member knows that it cannot pass the request on. etcd has no code for this alone: by the same one it says that a request
        // timed out on its way, which may have been carried out.
        Code::Unavailable if message.contains("no leader") => Failed::NotSent(message),
        Code::Unavailable | Code::Internal | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => {
            Failed::NoAnswer(with_causes(status))
        }
        code => Failed::Refused(StoreError::Refused {
            operation: operation.to_owned(),
            cause: message,
            hint: match code {
                Code::ResourceExhausted => "the value is too large for etcd, or etcd is out of space: see `etcdctl endpoint status` and `etcdctl alarm list`",
                Code::PermissionDenied | Code::Unauthenticated => "etcd does not let this client in: check its users and --store-cert-file",
                Code::Unimplemented => "this is not etcd 3.4 or later: check --store-endpoints",
                _ => "see the log of etcd",
            }
            .to_owned(),
        }),
    }
}

fn is_connect_error(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// True if the store says that there is no such lease. In what is asked here nothing else can be missing: etcd says of a key that is
/// not there that it found none, and that is no error. The client has an error of its own for a renewal that gave no time.
pub fn is_lease_missing(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => status.code() == Code::NotFound,
        etcd_client::Error::LeaseKeepAliveError(_) => true,
        _ => false,
    }
}
