//! A store that goes away under clients that write all the time: as long as the keepers of all instances pledge to the primary's, proxies go on.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::process::Signal;
use serde_json::json;
use stolon_testkit::local::writes::Writing;
use stolon_testkit::{
    Cluster, PATIENCE, Plan, QUERY, StoreKind, on_prepared, outage, passes, signal_all, start_writing,
    wait_for, writes_are_back,
};

/// Several times as long as any pledge or voucher.
const OUTAGE: Duration = Duration::from_secs(20);
/// After that every pledge and every voucher is over: `failInterval` and `proxyTimeout` of the tests, and as much for a machine that is busy.
const PLEDGES_OVER: Duration = Duration::from_secs(16);

const VOUCHED_FOR: &str = "the store is away: clients go on to the primary";
const CLOSED: &str = "no check succeeded within the proxy timeout";

async fn goes_on_by_vouchers(cluster: &Cluster) -> anyhow::Result<()> {
    wait_for("vouchers", PATIENCE, async || Ok(cluster.log("proxy1").contains(VOUCHED_FOR).then_some(())))
        .await
}

/// How many rows failed or are of unknown outcome. On a machine that is busy a client may have connected late at the beginning.
fn troubles(writing: &Writing) -> u64 {
    let ledger = writing.ledger();
    ledger.failed + ledger.unknown.len() as u64
}

/// No more than `before`.
fn ensure_untouched(writing: &Writing, before: u64) -> anyhow::Result<()> {
    let more = troubles(writing) - before;
    ensure!(more == 0, "{more} failed or unknown: {}", writing.last_failure());
    Ok(())
}

/// The store is away for long, comes back, and the primary is lost after that.
async fn nobody_is_cut(cluster: &mut Cluster, standbys: usize) -> anyhow::Result<()> {
    let primary = cluster.primary().await?;
    let writing = start_writing(cluster).await?;
    let (before, troubles) = (writing.acknowledged(), troubles(&writing));
    cluster.server.kill()?;
    let away = outage(OUTAGE);
    passes(away).await;
    ensure_untouched(&writing, troubles)?;
    let during = writing.acknowledged() - before;
    ensure!(during > 100, "{during} rows in {away:?}");
    cluster.server.restart().await?;
    let back = Instant::now();
    let reported = cluster.report(primary).await?.info_uid;
    wait_for("another report", PATIENCE, async || {
        Ok((cluster.report(primary).await?.info_uid != reported).then_some(()))
    })
    .await?;
    passes(PLEDGES_OVER.saturating_sub(back.elapsed())).await;
    ensure_untouched(&writing, troubles)?;
    ensure!(cluster.log("proxy1").contains(VOUCHED_FOR), "nobody vouched");
    ensure!(!cluster.log("proxy1").contains(CLOSED), "the proxy has closed");
    println!("{during} rows acknowledged in {away:?} without a store, none failed");
    ensure!(cluster.primary().await? == primary, "an outage of the store is no reason for a failover");

    // What was pledged is over: it holds up no failover.
    cluster.kill_keeper_and_postgres(primary).await?;
    let died = Instant::now();
    cluster.wait_other_primary(primary, PATIENCE).await?;
    writes_are_back(&writing, died).await?;
    let verdict = writing.stop().await.check(&cluster.proxy()).await?;
    ensure!(verdict.unexpected.is_empty(), "rows from nowhere: {:?}", verdict.unexpected);
    cluster.start_service(&format!("keeper{primary}"))?;
    cluster.wait_streaming(standbys, PATIENCE).await
}

#[test]
fn clients_write_on_without_a_store() {
    on_prepared(Plan::new(2).store(StoreKind::Etcd), async |cluster| {
        cluster.start_answering(2).await?;
        nobody_is_cut(cluster, 1).await
    });
}

#[test]
fn clients_of_a_synchronous_cluster_write_on_without_a_store() {
    let plan = Plan::new(3).spec(json!({ "synchronousReplication": true })).store(StoreKind::Etcd);
    on_prepared(plan, async |cluster| {
        cluster.start_answering(3).await?;
        cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
        nobody_is_cut(cluster, 2).await
    });
}

/// One that does not pledge may be elected without the primary's knowing.
#[test]
fn a_standby_that_is_lost_with_the_store_closes_the_proxies() {
    on_prepared(Plan::new(3).store(StoreKind::Etcd), async |cluster| {
        cluster.start_answering(3).await?;
        let primary = cluster.primary().await?;
        let standby = if primary == 1 { 2 } else { 1 };
        let writing = start_writing(cluster).await?;
        let troubles = troubles(&writing);
        cluster.server.kill()?;
        goes_on_by_vouchers(cluster).await?;
        ensure_untouched(&writing, troubles)?;
        cluster.kill_keeper_and_postgres(standby).await?;
        wait_for("proxies that close", PLEDGES_OVER, async || {
            Ok(cluster.log("proxy1").contains(CLOSED).then_some(()))
        })
        .await?;
        let stopped = Instant::now();
        cluster.server.restart().await?;
        writes_are_back(&writing, stopped).await?;
        ensure!(cluster.primary().await? == primary, "the primary was replaced");
        cluster.start_service(&format!("keeper{standby}"))?;
        let verdict = writing.stop().await.check(&cluster.proxy()).await?;
        ensure!(verdict.lost.is_empty(), "lost {:?}", verdict.lost);
        Ok(())
    });
}

/// A host that stands still, with everything on it, vouches for nothing when it goes on.
#[test]
fn a_primary_that_freezes_with_the_store_away_is_let_go_and_replaced_when_that_is_back() {
    on_prepared(Plan::new(2).store(StoreKind::Etcd), async |cluster| {
        cluster.start_answering(2).await?;
        let primary = cluster.primary().await?;
        let writing = start_writing(cluster).await?;
        let troubles = troubles(&writing);
        cluster.server.kill()?;
        goes_on_by_vouchers(cluster).await?;
        ensure_untouched(&writing, troubles)?;
        let mut frozen = stolon_testkit::local::tree(cluster.postmaster(primary)?);
        frozen.push(cluster.process(&format!("keeper{primary}"))?.pid());
        signal_all(&frozen, Signal::STOP)?;
        wait_for("proxies that close", PLEDGES_OVER, async || {
            Ok(cluster.log("proxy1").contains(CLOSED).then_some(()))
        })
        .await?;
        cluster.server.restart().await?;
        let back = Instant::now();
        let new = cluster.wait_other_primary(primary, PATIENCE).await?;
        writes_are_back(&writing, back).await?;
        signal_all(&frozen, Signal::CONT)?;
        // Who was the primary follows, and takes no write.
        let old = cluster.instance(primary);
        wait_for("the old primary as a standby", PATIENCE, async || {
            let session = old.connect(QUERY).await?;
            Ok((session.value("select pg_is_in_recovery()", QUERY).await? == "t").then_some(()))
        })
        .await?;
        ensure!(cluster.primary().await? == new, "the primary changed again");
        let verdict = writing.stop().await.check(&cluster.proxy()).await?;
        ensure!(verdict.unexpected.is_empty(), "rows from nowhere: {:?}", verdict.unexpected);
        Ok(())
    });
}
