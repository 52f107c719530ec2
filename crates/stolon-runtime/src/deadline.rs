//! No wait without an end.

use std::time::Duration;

use stolon_model::GoDuration;
use tokio_util::sync::CancellationToken;

/// A wait ended before what it waited for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeadlineError {
    /// The time was over.
    #[error("{what} took longer than {}", GoDuration::from(*.limit))]
    Expired {
        /// What was waited for, for example `reading the cluster data`.
        what: String,
        /// For how long.
        limit: Duration,
    },
    /// The program stops.
    #[error("{what} was cancelled: the program stops")]
    Cancelled {
        /// What was waited for.
        what: String,
    },
}

/// Wait for `future`, at most for `limit` and only until `token` is cancelled.
///
/// # Errors
/// [`DeadlineError`]; the future is dropped then.
pub async fn with_deadline<T>(
    what: &str,
    limit: Duration,
    token: &CancellationToken,
    future: impl Future<Output = T>,
) -> Result<T, DeadlineError> {
    tokio::select! {
        biased;
        value = future => Ok(value),
        () = token.cancelled() => Err(DeadlineError::Cancelled { what: what.to_owned() }),
        () = tokio::time::sleep(limit) => Err(DeadlineError::Expired { what: what.to_owned(), limit }),
    }
}
