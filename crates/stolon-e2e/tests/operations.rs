//! What operators ask of a cluster that works: to hold still, for a while.

use anyhow::ensure;
use stolon_testkit::{Cluster, PATIENCE, Plan, on_cluster, wait_for};

async fn status(cluster: &Cluster) -> anyhow::Result<String> {
    let shown = cluster.stolonctl(&["status"], "").await?;
    Ok(String::from_utf8_lossy(&shown.stdout).into_owned())
}

#[test]
fn nobody_is_elected_while_the_cluster_is_paused_and_somebody_is_when_it_is_resumed() {
    on_cluster(Plan::new(2), async |cluster| {
        let old = cluster.primary().await?;
        cluster.stolonctl_ok(&["pause", "--for", "20m", "--reason", "new switches"], "").await?;
        cluster.kill_keeper_and_postgres(old).await?;
        // The sentinel has found out, and would have replaced it by now.
        let told = wait_for("why nobody is elected", PATIENCE, async || {
            let shown = status(cluster).await?;
            Ok(shown.contains("is not replaced while the cluster is paused").then_some(shown))
        })
        .await?;
        let first = told.lines().next().unwrap_or_default();
        ensure!(
            first.starts_with("the cluster is paused until ") && first.contains("new switches"),
            "{told}"
        );
        ensure!(cluster.primary().await? == old, "somebody was elected");
        let check = cluster.stolonctl(&["status", "--check"], "").await?;
        ensure!(check.status.code() == Some(2), "{check:?}");

        let refused = cluster.stolonctl(&["failkeeper", &format!("keeper{old}")], "").await?;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && why.contains("stolonctl resume"), "{why}");

        cluster.stolonctl_ok(&["resume"], "").await?;
        cluster.wait_other_primary(old, PATIENCE).await?;
        let history = cluster.stolonctl_ok(&["history"], "").await?;
        let entered: Vec<&str> =
            ["pause until", "resume", "failover"].into_iter().filter(|what| history.contains(what)).collect();
        ensure!(entered.len() == 3, "{history}");
        Ok(())
    });
}

#[test]
fn a_pause_that_nobody_ends_lapses_and_what_was_left_undone_is_done() {
    on_cluster(Plan::new(2), async |cluster| {
        let old = cluster.primary().await?;
        cluster.stolonctl_ok(&["pause", "--for", "20s"], "").await?;
        cluster.kill_keeper_and_postgres(old).await?;
        wait_for("why nobody is elected", PATIENCE, async || {
            Ok(status(cluster).await?.contains("is not replaced while").then_some(()))
        })
        .await?;
        cluster.wait_other_primary(old, PATIENCE).await?;
        ensure!(cluster.data().await?.cluster.pause.is_none(), "the pause is still there");
        let history = cluster.stolonctl_ok(&["history"], "").await?;
        ensure!(history.contains("resumed"), "{history}");
        Ok(())
    });
}
