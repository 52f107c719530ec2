//! SIGUSR1: the keeper ends, and leaves PostgreSQL to the next one.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancelled by SIGUSR1, from now on.
///
/// With the first process of a container everything in it is killed, PostgreSQL too: such a keeper stays.
///
/// # Errors
/// The operating system refuses to tell of the signal.
pub(crate) fn follow_signals() -> anyhow::Result<CancellationToken> {
    let mut signals = signal(SignalKind::user_defined1()).context("cannot listen to SIGUSR1")?;
    let token = CancellationToken::new();
    let departs = token.clone();
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            if rustix::process::getpid().is_init() {
                tracing::warn!(
                    "SIGUSR1 is ignored: PostgreSQL would be killed with this keeper, which is the first process here; SIGTERM ends both in order"
                );
                continue;
            }
            tracing::info!(signal = "SIGUSR1", "signal received");
            departs.cancel();
        }
    });
    Ok(token)
}
