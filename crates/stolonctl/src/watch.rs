//! Showing something again and again, on a terminal in place of the picture before.

use std::io::IsTerminal;
use std::time::Duration;

use stolon_model::Explained;
use stolon_runtime::explained;
use tokio_util::sync::CancellationToken;

use crate::output;

const INTERVAL: Duration = Duration::from_secs(2);
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Show what `picture` gives until `stop`. What cannot be told is said, and asked again.
///
/// # Errors
/// The output cannot be written.
pub async fn watch(
    stop: &CancellationToken,
    mut picture: impl AsyncFnMut() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let clear = if std::io::stdout().is_terminal() { CLEAR } else { "" };
    let pictures = async {
        loop {
            let picture = picture().await.unwrap_or_else(|error| {
                let Explained { sentence, hint } = explained(&error);
                let hint = hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
                format!("{sentence}\n{hint}")
            });
            output::result(&format!("{clear}{picture}"))?;
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        ended = pictures => ended,
    }
}
