//! Waiting for conditions.

use std::time::Duration;

use anyhow::bail;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(40);

/// Look again and again until `probe` finds something.
///
/// # Errors
/// Nothing within `limit`; with what the last look said.
pub async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut last = "not yet".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(Some(found))) => return Ok(found),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => last = format!("{error:#}"),
            Err(_) => {
                bail!("{what}: not within {limit:?}; the last look did not end, the one before said: {last}")
            }
        }
        if tokio::time::Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}: {last}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Let time pass that is itself a part of what is tested: an outage, a term.
pub async fn passes(time: Duration) {
    tokio::time::sleep(time).await;
}
