//! The connection to one endpoint at a time, and what to do when it fails.
//!
//! A client that balances over all endpoints keeps sending to a dead one. Here one endpoint is in use
//! until it fails; then the next one that answers a small question takes its place. So a request that
//! must not be repeated is only ever sent over a connection that has answered before.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::StoreError;

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

/// How a kind of store is spoken to.
#[async_trait]
pub trait Protocol: Send + Sync + 'static {
    /// Speaks to one endpoint.
    type Client: Clone + Send + Sync;
    /// What a request fails with.
    type Error: Send;

    /// Connect to the endpoint with this place in the list, and ask a small question that it can only answer while it works.
    async fn connect(&self, endpoint: usize) -> Result<Self::Client, String>;

    /// What a failure says about the request.
    fn classify(operation: &str, error: Self::Error) -> Failed;

    /// What to do when no endpoint can be reached.
    fn hint(&self) -> &'static str;
}

/// A connection that has answered.
#[derive(Clone)]
pub struct Link<C> {
    /// The client of this connection.
    pub client: C,
    endpoint: usize,
    /// Names this connection; later ones have higher numbers.
    number: u64,
}

/// All connections of a store, one at a time.
pub struct Links<P: Protocol> {
    protocol: P,
    urls: Vec<String>,
    timeout: Duration,
    current: watch::Sender<Option<Link<P::Client>>>,
    next_endpoint: AtomicUsize,
    connecting: Mutex<u64>,
    requests: AtomicU64,
}

/// Why one attempt did not give an answer.
pub enum Failed {
    /// The request did not reach the store.
    NotSent(String),
    /// The request may have reached the store.
    NoAnswer(String),
    /// The store refused.
    Refused(StoreError),
}

impl<P: Protocol> Links<P> {
    /// Nothing is connected yet. Every call ends within the timeout.
    pub fn new(protocol: P, urls: Vec<String>, timeout: Duration) -> Self {
        Links {
            protocol,
            urls,
            timeout,
            current: watch::Sender::new(None),
            next_endpoint: AtomicUsize::new(0),
            connecting: Mutex::new(0),
            requests: AtomicU64::new(0),
        }
    }

    /// Requests sent so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// A request is sent outside of [`Links::ask`].
    pub fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns when this connection is given up or replaced.
    pub async fn left(&self, link: &Link<P::Client>) {
        let mut current = self.current.subscribe();
        let is_other =
            |now: &Option<Link<P::Client>>| now.as_ref().is_none_or(|now| now.number != link.number);
        // The sender lives as long as these links.
        let _ = current.wait_for(is_other).await;
    }

    /// Ask the store, within its timeout: first over the connection in use, then at each endpoint.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] only with [`Repeat::Never`].
    pub async fn ask<T, F>(
        &self,
        operation: &str,
        repeat: Repeat,
        request: impl Fn(P::Client) -> F + Send + Sync,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, P::Error>> + Send,
    {
        let deadline = Instant::now() + self.timeout;
        let mut failures: Vec<String> = Vec::new();
        // The connection in use may be stale, so each endpoint gets a turn after it.
        let attempts = self.urls.len() + usize::from(self.current.borrow().is_some());
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
            self.count_request();
            let answer = tokio::time::timeout_at(end, request(link.client.clone())).await;
            let failed = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => P::classify(operation, error),
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
        Err(StoreError::Unreachable { cause, hint: self.protocol.hint().to_owned() })
    }

    /// The connection in use, or a new one to the next endpoint in turn.
    ///
    /// # Errors
    /// That endpoint does not answer; the next call tries the next one.
    pub async fn link(&self, deadline: Instant) -> Result<Link<P::Client>, String> {
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
        let at = self.next_endpoint.load(Ordering::Relaxed) % self.urls.len();
        let url = &self.urls[at];
        self.count_request();
        let client = match tokio::time::timeout_at(deadline, self.protocol.connect(at)).await {
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
    pub fn give_up(&self, failed: &Link<P::Client>) {
        self.current.send_if_modified(|current| {
            let is_in_use = current.as_ref().is_some_and(|link| link.number == failed.number);
            if is_in_use {
                *current = None;
                self.next_endpoint.store(failed.endpoint + 1, Ordering::Relaxed);
            }
            is_in_use
        });
    }

    fn blame(&self, link: &Link<P::Client>, cause: &str) -> String {
        format!("{}: {cause}", self.urls[link.endpoint])
    }

    /// How long any one call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How many endpoints there are.
    pub fn endpoint_count(&self) -> usize {
        self.urls.len()
    }
}

/// What is left of the time, shared out among the attempts that are left.
fn turn_end(deadline: Instant, attempts: usize) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    let share = left / u32::try_from(attempts.max(1)).unwrap_or(u32::MAX);
    deadline.min(Instant::now() + share.max(SHORTEST_ATTEMPT))
}
