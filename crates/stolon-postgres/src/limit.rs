//! How long a call may take, and who may call it off.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::PostgresError;

/// A deadline and a cancellation; every call of this crate that can wait takes one.
#[derive(Clone, Debug)]
pub struct Limit {
    deadline: Option<Instant>,
    cancel: CancellationToken,
}

impl Limit {
    /// Ends `duration` from now, or on cancellation.
    pub fn within(duration: Duration, cancel: &CancellationToken) -> Self {
        Self { deadline: Some(Instant::now() + duration), cancel: cancel.clone() }
    }

    /// Ends only on cancellation (`syncTimeout` 0, base backups).
    pub fn unlimited(cancel: &CancellationToken) -> Self {
        Self { deadline: None, cancel: cancel.clone() }
    }

    /// The same cancellation with a deadline that is not later than `duration` from now.
    pub fn at_most(&self, duration: Duration) -> Self {
        let wanted = Instant::now() + duration;
        let deadline = self.deadline.map_or(wanted, |deadline| deadline.min(wanted));
        Self { deadline: Some(deadline), cancel: self.cancel.clone() }
    }

    /// The same cancellation with a deadline of its own.
    pub fn renewed(&self, duration: Duration) -> Self {
        Self::within(duration, &self.cancel)
    }

    /// For tidying up after a call that was called off itself.
    pub(crate) fn for_tidying_up() -> Self {
        Self::within(Duration::from_secs(600), &CancellationToken::new())
    }

    /// Time until the deadline; none without one.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Runs `work` within this limit. `what` names it in the error, as in "waiting for …".
    /// The future is dropped when the limit ends.
    pub async fn guard<T>(&self, what: &str, work: impl Future<Output = T>) -> Result<T, PostgresError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(PostgresError::Cancelled { what: what.to_owned() }),
            done = work => Ok(done),
            () = self.expired() => Err(PostgresError::Timeout { what: what.to_owned() }),
        }
    }

    /// Sleeps for one step of a poll; an error when the limit ends first.
    pub async fn pause(&self, what: &str, duration: Duration) -> Result<(), PostgresError> {
        self.guard(what, tokio::time::sleep(duration)).await
    }

    /// An error when the limit has already ended.
    pub fn check(&self, what: &str) -> Result<(), PostgresError> {
        if self.cancel.is_cancelled() {
            return Err(PostgresError::Cancelled { what: what.to_owned() });
        }
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => {
                Err(PostgresError::Timeout { what: what.to_owned() })
            }
            _ => Ok(()),
        }
    }

    async fn expired(&self) {
        match self.deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    }
}
