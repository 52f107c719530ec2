//! Keepers that are killed, or told to leave, under clients that write all the time: PostgreSQL goes on, and nobody notices.

use std::path::PathBuf;

use anyhow::ensure;
use rustix::process::Signal;
use serde_json::json;
use stolon_testkit::local::writes::Writing;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_cluster, start_writing, wait_for};

/// How many rows failed or are of unknown outcome.
fn troubles(writing: &Writing) -> u64 {
    let ledger = writing.ledger();
    ledger.failed + ledger.unknown.len() as u64
}

async fn more_rows(writing: &Writing) -> anyhow::Result<()> {
    let before = writing.acknowledged();
    wait_for("more rows", PATIENCE, async || Ok((writing.acknowledged() > before + 20).then_some(()))).await
}

/// The keeper ends in this way, and another one begins.
async fn is_replaced(cluster: &mut Cluster, number: usize, signal: Signal) -> anyhow::Result<()> {
    let name = format!("keeper{number}");
    let before = cluster.report(number).await?.boot_uuid;
    let process = cluster.process(&name)?.clone();
    process.signal(signal);
    let status = process.exited().await;
    ensure!(status.success() == (signal == Signal::USR1), "{name}: {status}");
    let word = format!("between the keepers of {number}, after {signal:?}");
    let session = cluster.instance(number).connect(QUERY).await?;
    session.rows(&format!("do $$ begin raise log '{word}'; end $$"), QUERY).await?;
    cluster.start_service(&name)?;
    wait_for("the new keeper to be known", PATIENCE, async || {
        let boot = cluster.report(number).await?.boot_uuid;
        let known = &cluster.data().await?.keepers[&format!("keeper{number}").as_str().into()].status;
        Ok((boot != before && known.boot_uuid == boot).then_some(()))
    })
    .await?;
    wait_for("what was logged in between", PATIENCE, async || {
        Ok(cluster.log(&name).contains(&word).then_some(()))
    })
    .await
}

/// Another path to the same program.
fn another_path(cluster: &Cluster) -> anyhow::Result<PathBuf> {
    let programs = cluster.layout.directory.join("upgraded");
    std::fs::create_dir_all(&programs)?;
    let keeper = programs.join("stolon-keeper");
    std::fs::copy(cluster.layout.programs.join("stolon-keeper"), &keeper)?;
    Ok(keeper)
}

async fn keepers_are_replaced(cluster: &mut Cluster, standbys: usize) -> anyhow::Result<()> {
    let primary = cluster.primary().await?;
    let standby = if primary == 1 { 2 } else { 1 };
    let numbers = [primary, standby];
    let postmasters = numbers.map(|number| cluster.postmaster(number).ok());
    let writing = start_writing(cluster).await?;
    more_rows(&writing).await?;
    let before = troubles(&writing);
    for signal in [Signal::KILL, Signal::USR1] {
        if signal == Signal::USR1 {
            let upgraded = another_path(cluster)?;
            numbers
                .into_iter()
                .try_for_each(|number| cluster.replace_program(&format!("keeper{number}"), &upgraded))?;
        }
        for number in [standby, primary] {
            is_replaced(cluster, number, signal).await?;
            more_rows(&writing).await?;
        }
    }
    ensure!(troubles(&writing) == before, "somebody noticed: {}", writing.last_failure());
    ensure!(numbers.map(|number| cluster.postmaster(number).ok()) == postmasters, "it was restarted");
    ensure!(cluster.primary().await? == primary, "another primary was elected");

    // What was taken over is handed over, and replaced, like any other.
    let new = cluster.replace_primary(standbys, PATIENCE).await?;
    ensure!(new != primary);
    let verdict = writing.stop().await.check(&cluster.proxy()).await?;
    ensure!(verdict.unexpected.is_empty(), "rows from nowhere: {:?}", verdict.unexpected);
    Ok(())
}

#[test]
fn nobody_notices_that_keepers_are_replaced() {
    on_cluster(Plan::new(2), async |cluster| keepers_are_replaced(cluster, 1).await);
}

#[test]
fn nobody_notices_that_keepers_of_a_synchronous_cluster_are_replaced() {
    let plan = Plan::new(3).spec(json!({ "synchronousReplication": true }));
    on_cluster(plan, async |cluster| {
        cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
        keepers_are_replaced(cluster, 2).await
    });
}
