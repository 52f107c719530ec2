//! Whole clusters on stores that are servers: a store that goes away and comes back, then a failover.

use std::time::{Duration, Instant};

use anyhow::ensure;
use stolon_testkit::{Cluster, PATIENCE, Plan, StoreKind, on_cluster, outage, passes, wait_for};

/// How long it takes until everything works again; twice what it may take on a machine that does nothing else.
const BACK: Duration = Duration::from_secs(10);

/// A proxy has forwarded for as long as it may without the store.
const CLOSED: &str = "no check succeeded within the proxy timeout";
/// Who led has led for as long as it may.
const LEADS_NO_MORE: &str = "this sentinel no longer leads";

#[test]
fn everything_works_again_after_an_outage_of_consul() {
    on_cluster(Plan::new(2).store(StoreKind::Consul), works_again);
}

#[test]
fn everything_works_again_after_an_outage_of_etcd_version_2() {
    on_cluster(Plan::new(2).store(StoreKind::EtcdV2), works_again);
}

#[test]
fn everything_works_again_after_an_outage_of_etcd() {
    on_cluster(Plan::new(2).store(StoreKind::Etcd), works_again);
}

#[test]
fn everything_works_again_after_an_outage_of_kubernetes() {
    on_cluster(Plan::new(2).store(StoreKind::Kubernetes), works_again);
}

async fn works_again(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.wait_streaming(1, PATIENCE).await?;
    let primary = cluster.primary().await?;
    cluster.server.kill()?;
    let gone = Instant::now();
    // The keepers cannot be asked, so that nobody vouches for the primary.
    for (program, sentence) in [("proxy1", CLOSED), ("sentinel1", LEADS_NO_MORE)] {
        wait_for(sentence, PATIENCE, async || Ok(cluster.log(program).contains(sentence).then_some(())))
            .await?;
    }
    passes(outage(Duration::ZERO).saturating_sub(gone.elapsed())).await;

    cluster.server.restart().await?;
    let back = Instant::now();
    let left = || BACK.saturating_sub(back.elapsed());
    let mut first = Vec::new();
    for keeper in [1, 2] {
        let report = wait_for("a report", left(), async || Ok(cluster.report(keeper).await.ok())).await?;
        first.push(report.info_uid);
    }
    wait_for("a leader", left(), async || Ok(cluster.store.leader().await.ok().flatten())).await?;
    for (keeper, first) in [1, 2].into_iter().zip(&first) {
        wait_for("another report", left(), async || {
            Ok(cluster.report(keeper).await.ok().filter(|report| report.info_uid != *first))
        })
        .await?;
    }
    cluster.wait_writable(left()).await?;
    println!("everything worked {:?} after the store was back", back.elapsed());
    ensure!(cluster.primary().await? == primary, "an outage of the store is no reason for a failover");

    // And the leader decides.
    cluster.kill_keeper_and_postgres(primary).await?;
    cluster.wait_other_primary(primary, PATIENCE).await?;
    cluster.wait_writable(PATIENCE).await
}
