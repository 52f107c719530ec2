//! `stolonctl` on a test cluster.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::cluster::{Cluster, PATIENCE};

impl Cluster {
    /// Run `stolonctl` on this cluster, with `typed` on its input.
    ///
    /// # Errors
    /// The command cannot be run, or does not end.
    pub async fn stolonctl(&self, arguments: &[&str], typed: &str) -> anyhow::Result<Output> {
        self.stolonctl_within(arguments, typed, PATIENCE).await
    }

    async fn stolonctl_within(
        &self,
        arguments: &[&str],
        typed: &str,
        limit: Duration,
    ) -> anyhow::Result<Output> {
        let mut command = self.layout.stolonctl();
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that reads nothing may have ended.
            let _ = stdin.write_all(typed.as_bytes()).await;
        }
        tokio::time::timeout(limit, child.wait_with_output())
            .await
            .context("stolonctl does not end")?
            .context("stolonctl")
    }

    /// Run `stolonctl`, which must succeed; returns what it printed.
    ///
    /// # Errors
    /// The command fails.
    pub async fn stolonctl_ok(&self, arguments: &[&str], typed: &str) -> anyhow::Result<String> {
        succeeded(arguments, self.stolonctl(arguments, typed).await?)
    }

    /// [`Cluster::stolonctl_ok`] without input, for what takes longer.
    ///
    /// # Errors
    /// The command fails, or does not end within `limit`.
    pub async fn stolonctl_ok_within(&self, arguments: &[&str], limit: Duration) -> anyhow::Result<String> {
        succeeded(arguments, self.stolonctl_within(arguments, "", limit).await?)
    }

    /// `stolonctl update --patch`, which must succeed.
    ///
    /// # Errors
    /// The command fails.
    pub async fn patch(&self, patch: Value) -> anyhow::Result<()> {
        self.stolonctl_ok(&["update", "--patch", &patch.to_string()], "").await.map(drop)
    }
}

/// What a command printed, which must have succeeded.
fn succeeded(arguments: &[&str], output: Output) -> anyhow::Result<String> {
    let printed = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (answer, errors) = (printed(&output.stdout), printed(&output.stderr));
    ensure!(output.status.success(), "stolonctl {arguments:?}: {errors}\n{answer}");
    Ok(answer)
}
