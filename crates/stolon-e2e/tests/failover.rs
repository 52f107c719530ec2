//! What happens when something dies, under clients that write all the time.

use std::time::Instant;

use anyhow::ensure;
use rustix::process::Signal;
use serde_json::json;
use stolon_testkit::{
    Cluster, PATIENCE, Plan, QUERY, StoreKind, on_cluster, signal_all, start_writing, wait_for,
    writes_are_back,
};

/// Lose the primary's keeper and PostgreSQL; afterwards everybody but the dead one goes on, and it comes back.
async fn lose_the_primary(
    cluster: &mut Cluster,
    standbys: usize,
) -> anyhow::Result<stolon_testkit::local::writes::Verdict> {
    let old = cluster.primary().await?;
    let writing = start_writing(cluster).await?;
    let postmaster = cluster.postmaster(old)?.as_raw_nonzero();
    cluster.kill_keeper_and_postgres(old).await?;
    let died = Instant::now();
    let new = cluster.wait_other_primary(old, PATIENCE).await?;
    writes_are_back(&writing, died).await?;
    let ledger = writing.stop().await;
    let verdict = ledger.check(&cluster.proxy()).await?;
    ensure!(verdict.unexpected.is_empty(), "rows from nowhere: {:?}", verdict.unexpected);

    let dead = std::path::PathBuf::from(format!("/proc/{postmaster}"));
    ensure!(!dead.exists(), "a zombie that PostgreSQL would take for a running server");
    cluster.start_service(&format!("keeper{old}"))?;
    cluster.wait_streaming(standbys, PATIENCE).await?;
    let returned = cluster.instance(old);
    wait_for("the old primary as a standby with all rows", PATIENCE, async || {
        let session = returned.connect(QUERY).await?;
        ensure!(session.value("select pg_is_in_recovery()", QUERY).await? == "t", "it takes writes");
        let there: usize = session.value("select count(*) from acknowledged_writes", QUERY).await?.parse()?;
        Ok((there >= verdict.acknowledged - verdict.lost.len()).then_some(()))
    })
    .await?;
    ensure!(cluster.primary().await? == new, "the primary changed again");
    Ok(verdict)
}

#[test]
fn a_lost_primary_is_replaced_and_returns_as_a_standby() {
    on_cluster(Plan::new(2), async |cluster| {
        // Asynchronous: what the standby did not have yet is lost, and nothing else happens.
        lose_the_primary(cluster, 1).await.map(drop)
    });
}

#[test]
fn synchronous_replication_loses_no_acknowledged_row() {
    let plan = Plan::new(3).spec(json!({ "synchronousReplication": true })).store(StoreKind::Etcd);
    on_cluster(plan, async |cluster| {
        cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
        let verdict = lose_the_primary(cluster, 2).await?;
        ensure!(verdict.lost.is_empty(), "lost {} of {}", verdict.lost.len(), verdict.acknowledged);
        Ok(())
    });
}

#[test]
fn a_dead_postmaster_is_restarted_in_place() {
    on_cluster(Plan::new(2).spec(json!({ "failInterval": "20s" })), async |cluster| {
        let primary = cluster.primary().await?;
        let writing = start_writing(cluster).await?;
        let before = cluster.postmaster(primary)?;
        cluster.kill_postmaster(primary)?;
        writes_are_back(&writing, Instant::now()).await?;
        ensure!(cluster.primary().await? == primary, "a failover for nothing");
        ensure!(cluster.postmaster(primary)? != before);
        let verdict = writing.stop().await.check(&cluster.proxy()).await?;
        ensure!(verdict.lost.is_empty() && verdict.unexpected.is_empty(), "{verdict:?}");
        cluster.wait_streaming(1, PATIENCE).await
    });
}

#[test]
fn a_frozen_primary_is_replaced_and_gets_no_client_when_it_wakes() {
    on_cluster(Plan::new(2), async |cluster| {
        let old = cluster.primary().await?;
        let family = stolon_testkit::local::tree(cluster.process(&format!("keeper{old}"))?.pid());
        signal_all(&family, Signal::STOP)?;
        let new = cluster.wait_other_primary(old, PATIENCE).await?;
        cluster.wait_writable(PATIENCE).await?;
        let marker = "create table after_the_freeze (id int)";
        cluster.session().await?.rows(marker, QUERY).await?;
        signal_all(&family, Signal::CONT)?;
        cluster.wait_streaming(1, PATIENCE).await?;
        let session = cluster.session().await?;
        session.rows("insert into after_the_freeze values (1)", QUERY).await?;
        ensure!(cluster.primary().await? == new, "the frozen primary was elected again");
        Ok(())
    });
}

#[test]
fn the_sentinel_may_die_and_another_one_takes_over() {
    let plan = Plan { sentinels: 2, ..Plan::new(2) };
    on_cluster(plan, async |cluster| {
        let leader = cluster.store.leader().await?;
        // Which of the two leads does not show in its name: stop one in good order, then lose the primary.
        cluster.stop_service("sentinel1").await?;
        wait_for("a leader", PATIENCE, async || Ok(cluster.store.leader().await?)).await?;
        ensure!(leader.is_some(), "nobody led before");
        lose_the_primary(cluster, 1).await.map(drop)
    });
}
