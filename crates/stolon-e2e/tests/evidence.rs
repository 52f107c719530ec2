//! Failures that are decided on evidence, with the timings that nobody chose (docs/design/008-evidence.md).

use anyhow::ensure;
use rustix::process::{Signal, kill_process};
use serde_json::json;
use stolon_testkit::{Cluster, PATIENCE, Plan, on_cluster, wait_for};

/// A cluster with the default timings: `failInterval` is 20 s.
fn default_timings(keepers: usize) -> Plan {
    Plan::new(keepers).uninitialised().spec(json!({ "initMode": "new" }))
}

/// The sentence of the last failover in the history of the cluster.
async fn last_failover(cluster: &Cluster) -> anyhow::Result<Option<String>> {
    let history = cluster.data().await?.cluster.status.history.unwrap_or_default();
    let failover = history.iter().rev().find(|entry| entry.what == "failover");
    Ok(failover.map(|entry| entry.details.iter().flatten().cloned().collect::<Vec<_>>().join("; ")))
}

#[test]
fn a_killed_primary_is_replaced_on_evidence_with_default_timings() {
    for synchronous in [false, true] {
        let plan = default_timings(3).spec(json!({ "synchronousReplication": synchronous }));
        on_cluster(plan, async |cluster| {
            cluster.wait_streaming(2, PATIENCE).await?;
            if synchronous {
                cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
            }
            let old = cluster.primary().await?;
            cluster.kill_keeper_and_postgres(old).await?;
            cluster.wait_other_primary(old, PATIENCE).await?;
            cluster.wait_writable(PATIENCE).await?;
            let why = last_failover(cluster).await?.unwrap_or_default();
            ensure!(why.contains("no answer to a challenge"), "it was not evidence: {why}");
            cluster.start_service(&format!("keeper{old}"))?;
            cluster.wait_streaming(2, PATIENCE).await
        });
    }
}

#[test]
fn a_keeper_that_is_frozen_beside_a_healthy_server_is_not_replaced_on_evidence() {
    on_cluster(Plan::new(2), async |cluster| {
        let old = cluster.primary().await?;
        let keeper = cluster.process(&format!("keeper{old}"))?.pid();
        kill_process(keeper, Signal::STOP)?;
        let new = cluster.wait_other_primary(old, PATIENCE).await;
        kill_process(keeper, Signal::CONT)?;
        new?;
        let why = last_failover(cluster).await?.unwrap_or_default();
        ensure!(why.contains("has not reported for"), "silence is all that there is: {why}");
        cluster.wait_streaming(1, PATIENCE).await
    });
}

#[test]
fn a_postmaster_that_dies_under_a_keeper_that_lives_is_no_failover() {
    on_cluster(default_timings(2), async |cluster| {
        let primary = cluster.primary().await?;
        let before = cluster.postmaster(primary)?;
        cluster.kill_postmaster(primary)?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        ensure!(cluster.postmaster(primary)? != before);
        // Whatever was asked is over.
        wait_for("no challenge", PATIENCE, async || {
            Ok(cluster.data().await?.cluster.status.challenge.is_none().then_some(()))
        })
        .await?;
        ensure!(last_failover(cluster).await?.is_none() && cluster.primary().await? == primary);
        Ok(())
    });
}
