//! Commits do not wait for a standby that has stopped confirming, where another one keeps up.

use std::time::Instant;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use stolon_testkit::{Cluster, PATIENCE, Plan, on_cluster, start_writing, wait_for, writes_are_back};

fn synchronous(keepers: usize) -> Plan {
    Plan::new(keepers).uninitialised().spec(json!({ "initMode": "new", "synchronousReplication": true }))
}

/// Who is waited for, once it is one.
async fn waited_for(cluster: &Cluster) -> anyhow::Result<usize> {
    let set = cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
    set.first().copied().context("nobody is waited for")
}

fn name(number: usize) -> String {
    format!("keeper{number}")
}

/// What receives WAL on a standby. While it is stopped, PostgreSQL and the keeper there work, and nothing is confirmed.
fn receiver(cluster: &Cluster, number: usize) -> anyhow::Result<Pid> {
    cluster.backends(number, "walreceiver")?.first().copied().context("nothing receives WAL there")
}

#[test]
fn a_synchronous_standby_that_stops_confirming_is_exchanged() {
    on_cluster(synchronous(3), async |cluster| {
        cluster.wait_streaming(2, PATIENCE).await?;
        let slow = waited_for(cluster).await?;
        let writing = start_writing(cluster).await?;
        let receiver = receiver(cluster, slow)?;
        kill_process(receiver, Signal::STOP)?;
        let back = writes_are_back(&writing, Instant::now()).await;
        let next = cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1 && set != [name(slow)]).await;
        kill_process(receiver, Signal::CONT)?;
        back.and(next)?;
        cluster.wait_streaming(2, PATIENCE).await?;
        let verdict = writing.stop().await.check(&cluster.proxy()).await?;
        ensure!(verdict.lost.is_empty(), "{} rows are lost", verdict.lost.len());
        Ok(())
    });
}

#[test]
fn commits_that_wait_for_the_only_standby_say_so() {
    on_cluster(synchronous(2), async |cluster| {
        cluster.wait_streaming(1, PATIENCE).await?;
        let only = waited_for(cluster).await?;
        let writing = start_writing(cluster).await?;
        let receiver = receiver(cluster, only)?;
        kill_process(receiver, Signal::STOP)?;
        let said = wait_for("the sentence in the status", PATIENCE, async || {
            let status = cluster.stolonctl(&["status"], "").await?;
            let text = String::from_utf8_lossy(&status.stdout).into_owned();
            Ok(text.contains("have confirmed nothing for seconds").then_some(()))
        })
        .await;
        let set = cluster.wait_synchronous_set(PATIENCE, |set| set == [name(only)]).await;
        kill_process(receiver, Signal::CONT)?;
        said?;
        set.context("it is waited for all the same")?;
        writes_are_back(&writing, Instant::now()).await?;
        let verdict = writing.stop().await.check(&cluster.proxy()).await?;
        ensure!(verdict.lost.is_empty(), "{} rows are lost", verdict.lost.len());
        Ok(())
    });
}
