//! What an operator is told of a cluster.

use anyhow::ensure;

use crate::cluster::{Cluster, PATIENCE};
use crate::wait::wait_for;

impl Cluster {
    /// Wait until all these parts stand in one line of `stolonctl status`, and return that line.
    ///
    /// # Errors
    /// They do not in time; with the whole status.
    pub async fn wait_said(&self, parts: &[&str]) -> anyhow::Result<String> {
        wait_for(&format!("{parts:?} in stolonctl status"), PATIENCE, async || {
            let text = self.status().await?;
            let found = text.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            ensure!(found.is_some(), "the status is\n{text}");
            Ok(found.map(ToOwned::to_owned))
        })
        .await
    }

    /// Wait until `stolonctl status` tells of no keeper's problem.
    ///
    /// # Errors
    /// It still does in the end.
    pub async fn wait_nothing_said(&self) -> anyhow::Result<()> {
        wait_for("a status without problems", PATIENCE, async || {
            let text = self.status().await?;
            ensure!(!text.contains(": problem: "), "the status is\n{text}");
            Ok(Some(()))
        })
        .await
    }

    /// A cluster that is not well has an exit status of its own, so that is not looked at.
    async fn status(&self) -> anyhow::Result<String> {
        let output = self.stolonctl(&["status"], "").await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
