//! The connection to one endpoint at a time, and what to do when it fails.
//!
//! A client that balances over all endpoints keeps sending to a dead one. Here one endpoint is in use
//! until it fails; then the next one that answers a small question takes its place. So a request that
//! must not be repeated is only ever sent over a connection that has answered before.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, GetOptions};
use stolon_model::with_causes;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Endpoint;

use super::endpoints::{Endpoints, Scheme};
use super::tls::TlsFiles;
use crate::{StoreError, StoreOptions, TlsVerification};

/// How often an open watch is asked for a sign of life. etcd hangs up on clients that ask more than every 5 s.
const SIGN_OF_LIFE: Duration = Duration::from_secs(7);
/// The shortest time that an endpoint gets before the next one is tried.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(100);

/// Whether a request may be sent again when its answer did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Sending it twice has the effect of sending it once.
    Safe,
    /// Sending it twice may be wrong: without an answer the outcome is unknown.
    Never,
}

/// A connection that has answered.
#[derive(Clone)]
pub struct Link {
    /// The client of this connection.
    pub client: Client,
    endpoint: usize,
    /// Names this connection; later ones have higher numbers.
    pub number: u64,
}

/// All connections of a store, one at a time.
pub struct Links {
    endpoints: Vec<(String, Endpoint)>,
    tls: Option<TlsFiles>,
    timeout: Duration,
    current: watch::Sender<Option<Link>>,
    next_endpoint: AtomicUsize,
    connecting: Mutex<u64>,
    requests: AtomicU64,
}

/// Why one attempt did not give an answer.
enum Failed {
    /// The request did not reach the store.
    NotSent(String),
    /// The request may have reached the store.
    NoAnswer(String),
    /// The store refused.
    Refused(StoreError),
}

impl Links {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError::Configuration`]: the flags make no sense.
    pub fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        let endpoints = Endpoints::parse(&options.endpoints)?;
        let tls = match endpoints.scheme {
            Scheme::Https => Some(TlsFiles::new(options)?),
            Scheme::Http => {
                warn_of_unused_tls(options);
                None
            }
        };
        let make = |url: String| {
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
            Ok((url, endpoint))
        };
        Ok(Links {
            endpoints: endpoints.urls.into_iter().map(make).collect::<Result<_, StoreError>>()?,
            tls,
            timeout: options.timeout,
            current: watch::Sender::new(None),
            next_endpoint: AtomicUsize::new(0),
            connecting: Mutex::new(0),
            requests: AtomicU64::new(0),
        })
    }

    /// Requests sent so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Tells when the connection is given up or replaced.
    pub fn subscribe(&self) -> watch::Receiver<Option<Link>> {
        self.current.subscribe()
    }

    /// Ask the store, within its timeout: first over the connection in use, then at each endpoint.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] only with [`Repeat::Never`].
    pub async fn ask<T, F>(
        &self,
        operation: &str,
        repeat: Repeat,
        request: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let deadline = Instant::now() + self.timeout;
        let mut failures: Vec<String> = Vec::new();
        // The connection in use may be stale, so each endpoint gets a turn after it.
        let attempts = self.endpoints.len() + usize::from(self.current.borrow().is_some());
        for attempt in 0..attempts {
            let end = turn_end(deadline, attempts - attempt);
            let link = match self.link(end).await {
                Ok(link) => link,
                Err(cause) => {
                    failures.push(cause);
                    if Instant::now() >= deadline {
                        break;
                    }
                    continue;
                }
            };
            let end = if repeat == Repeat::Never { deadline } else { end };
            self.requests.fetch_add(1, Ordering::Relaxed);
            let answer = tokio::time::timeout_at(end, request(link.client.clone())).await;
            let failed = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => classify(operation, error),
                Err(_) => Failed::NoAnswer("no answer".to_owned()),
            };
            let cause = match failed {
                Failed::Refused(error) => return Err(error),
                Failed::NotSent(cause) => cause,
                Failed::NoAnswer(cause) => {
                    if repeat == Repeat::Never {
                        let cause = self.blame(&link, &cause);
                        self.give_up(&link);
                        return Err(StoreError::Unknown { operation: operation.to_owned(), cause });
                    }
                    cause
                }
            };
            failures.push(self.blame(&link, &cause));
            self.give_up(&link);
            if Instant::now() >= deadline {
                break;
            }
        }
        failures.dedup();
        let cause = failures.join("; ");
        if Instant::now() >= deadline {
            return Err(StoreError::Timeout {
                operation: operation.to_owned(),
                timeout: self.timeout,
                cause,
            });
        }
        Err(StoreError::Unreachable {
            cause,
            hint: "check that etcd runs and has a majority of its members, and check --store-endpoints"
                .to_owned(),
        })
    }

    /// The connection in use, or a new one to the next endpoint in turn.
    ///
    /// # Errors
    /// That endpoint does not answer; the next call tries the next one.
    pub async fn link(&self, deadline: Instant) -> Result<Link, String> {
        let in_use = || self.current.borrow().clone();
        if let Some(link) = in_use() {
            return Ok(link);
        }
        let Ok(mut numbers) = tokio::time::timeout_at(deadline, self.connecting.lock()).await else {
            return Err("another request is still waiting for a connection".to_owned());
        };
        if let Some(link) = in_use() {
            return Ok(link);
        }
        let at = self.next_endpoint.load(Ordering::Relaxed) % self.endpoints.len();
        let (url, endpoint) = &self.endpoints[at];
        self.requests.fetch_add(1, Ordering::Relaxed);
        let client = match tokio::time::timeout_at(deadline, self.connect(endpoint)).await {
            Ok(Ok(client)) => client,
            failed => {
                self.next_endpoint.store(at + 1, Ordering::Relaxed);
                let cause = match failed {
                    Ok(Err(cause)) => cause,
                    _ => "no answer".to_owned(),
                };
                tracing::debug!(endpoint = url, cause, "this endpoint of the store does not answer");
                return Err(format!("{url}: {cause}"));
            }
        };
        *numbers += 1;
        let link = Link { client, endpoint: at, number: *numbers };
        tracing::debug!(endpoint = url, "connected to the store");
        self.current.send_replace(Some(link.clone()));
        Ok(link)
    }

    /// Use this connection no more, and turn to the next endpoint.
    pub fn give_up(&self, failed: &Link) {
        self.current.send_if_modified(|current| {
            let is_in_use = current.as_ref().is_some_and(|link| link.number == failed.number);
            if is_in_use {
                *current = None;
                self.next_endpoint.store(failed.endpoint + 1, Ordering::Relaxed);
            }
            is_in_use
        });
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Client, String> {
        match &self.tls {
            None => connect(endpoint).await,
            Some(tls) => connect(&tls.apply(endpoint).map_err(|error| error.to_string())?).await,
        }
    }

    fn blame(&self, link: &Link, cause: &str) -> String {
        format!("{}: {cause}", self.endpoints[link.endpoint].0)
    }

    /// How long any one call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How many endpoints there are.
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }
}

/// What is left of the time, shared out among the attempts that are left.
fn turn_end(deadline: Instant, attempts: usize) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    let share = left / u32::try_from(attempts.max(1)).unwrap_or(u32::MAX);
    deadline.min(Instant::now() + share.max(SHORTEST_ATTEMPT))
}

/// Connect, and ask a small question that the endpoint can answer by itself.
async fn connect(endpoint: &Endpoint) -> Result<Client, String> {
    let channel = endpoint.connect().await.map_err(|error| with_causes(&error))?;
    let options = ConnectOptions::new().with_require_leader(true);
    let mut client = Client::from_channel(Channel::Tonic(channel), Some(options))
        .await
        .map_err(|error| with_causes(&error))?;
    let question = GetOptions::new().with_serializable().with_count_only();
    client.get("stolon", Some(question)).await.map_err(|error| with_causes(&error))?;
    Ok(client)
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
        // The member knows that it cannot pass the request on. etcd has no code of its own for this, only these words.
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

/// True if the store says that there is no such lease.
pub fn is_lease_missing(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            status.code() == Code::NotFound && status.message().contains("lease not found")
        }
        etcd_client::Error::LeaseKeepAliveError(message) => message.contains("lease not found"),
        _ => false,
    }
}

fn warn_of_unused_tls(options: &StoreOptions) {
    let files = [&options.cert_file, &options.key_file, &options.ca_file];
    if files.iter().any(|file| file.is_some()) || options.tls_verification == TlsVerification::Skip {
        tracing::warn!(
            "the TLS flags of the store are not used, since its endpoints are http (write https:// to use them)"
        );
    }
}
