//! Who comes to a primary directly while its keeper, or everybody, is without the store (docs/design/012-lease.md).

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use stolon_testkit::local::Target;
use stolon_testkit::local::writes::{Writes, Writing};
use stolon_testkit::{
    Cluster, PATIENCE, Plan, QUERY, SlowRoad, StoreKind, on_prepared, outage, passes, wait_for,
};

/// Three quarters of the `failInterval` of these tests, and as much for a machine that is busy.
const LEASE: Duration = Duration::from_millis(3_750);
const SLACK: Duration = Duration::from_secs(4);
/// Several times as long.
const OUTAGE: Duration = Duration::from_secs(20);

const SHUT: &str = "the lease of this primary is over: clients are locked out here";

/// Ordinary clients that know only this server. The superuser is let in always.
async fn write_to(cluster: &Cluster, keeper: usize) -> anyhow::Result<Writing> {
    let door = cluster.instance(keeper);
    let session = door.connect(QUERY).await?;
    let role = "create role app login password 'of the app'; grant create on schema public to app";
    session.rows(role, QUERY).await?;
    let (user, password) = ("app".to_owned(), "of the app".to_owned());
    let writes = Writes {
        doors: vec![Target { user, password, ..door }],
        clients: 2,
        pause: Duration::from_millis(5),
        limit: Duration::from_secs(15),
    };
    let writing = writes.start().await?;
    wait_for("rows", PATIENCE, async || Ok((writing.acknowledged() > 50).then_some(()))).await?;
    Ok(writing)
}

async fn is_promoted(cluster: &Cluster, keeper: usize) -> bool {
    let Ok(session) = cluster.instance(keeper).connect(QUERY).await else { return false };
    session.value("select pg_is_in_recovery()", QUERY).await.is_ok_and(|answer| answer == "f")
}

/// The primary's keeper loses the store, nobody else does, and its standbys stream on: clients of the old primary are out before the new
/// one takes writes, so that none of their rows is lost, and none is promised by two.
#[test]
fn a_primary_that_is_cut_off_lets_its_clients_go_before_another_one_is_promoted() {
    on_prepared(Plan::new(2).store(StoreKind::Etcd), async |cluster| {
        let port = cluster.layout.store_endpoints.rsplit(':').next().unwrap_or_default().parse()?;
        let roads = [SlowRoad::to(port, Duration::ZERO).await?, SlowRoad::to(port, Duration::ZERO).await?];
        for (index, road) in roads.iter().enumerate() {
            cluster.add_flag(&format!("keeper{}", index + 1), "--store-endpoints", &road.endpoint())?;
        }
        cluster.start_answering(2).await?;
        let old = cluster.primary().await?;
        let writing = write_to(cluster, old).await?;
        let mut roads = Vec::from(roads);
        let cut = roads.remove(old - 1);
        let begun = Instant::now();
        drop(cut);
        let new = 3 - old;
        wait_for("a promotion", PATIENCE, async || Ok(is_promoted(cluster, new).await.then_some(()))).await?;
        let promoted = Instant::now();
        // Nobody is told of anything there any more, for as long as it is cut off.
        passes(LEASE + SLACK).await;
        let last = writing.last_acknowledged().map(|last| last.saturating_duration_since(begun));
        let promoted = promoted - begun;
        println!("the last row {last:?} after the cut, the promotion {promoted:?} after it");
        ensure!(last.is_some_and(|last| last < promoted), "rows until {last:?}, promoted after {promoted:?}");
        ensure!(cluster.log(&format!("keeper{old}")).contains(SHUT), "it was not the lease");
        let verdict = writing.stop().await.check(&cluster.instance(new)).await?;
        ensure!(verdict.lost.is_empty(), "lost {:?}", verdict.lost);
        ensure!(verdict.unexpected.is_empty(), "rows from nowhere: {:?}", verdict.unexpected);
        // It is started again where it reaches the store.
        let (name, endpoints) = (format!("keeper{old}"), cluster.layout.store_endpoints.clone());
        cluster.kill_keeper_and_postgres(old).await?;
        cluster.add_flag(&name, "--store-endpoints", &endpoints)?;
        cluster.start_service(&name)?;
        cluster.wait_streaming(1, PATIENCE).await
    });
}

/// The store is away for everybody: nobody who comes directly notices. With it one standby is lost, which might be elected without
/// our knowing: they are let go. They come back with the store.
async fn pledges_decide(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_answering(3).await?;
    let primary = cluster.primary().await?;
    let in_sync = match cluster.data().await?.cluster.spec.synchronous_replication {
        Some(true) => cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?,
        _ => Vec::new(),
    };
    let writing = write_to(cluster, primary).await?;
    cluster.server.kill()?;
    passes(outage(OUTAGE)).await;
    let log = format!("keeper{primary}");
    ensure!(!cluster.log(&log).contains(SHUT), "clients were locked out");

    let standby = (1..=3).find(|keeper| *keeper != primary && !in_sync.contains(keeper)).unwrap_or(1);
    cluster.kill_keeper_and_postgres(standby).await?;
    wait_for("clients that are locked out", PATIENCE, async || {
        Ok(cluster.log(&log).contains(SHUT).then_some(()))
    })
    .await?;
    passes(Duration::from_secs(1)).await;
    let before = writing.acknowledged();
    passes(SLACK).await;
    ensure!(writing.acknowledged() == before, "rows are acknowledged without a lease");
    cluster.server.restart().await?;
    wait_for("rows again", PATIENCE, async || Ok((writing.acknowledged() > before + 50).then_some(())))
        .await?;
    ensure!(cluster.primary().await? == primary, "the primary was replaced");
    // Whoever asks later why writes stood still finds it, once.
    let told = wait_for("an entry in the history", PATIENCE, async || {
        let history = cluster.stolonctl_ok(&["history"], "").await?;
        let lines: Vec<_> =
            history.lines().filter(|line| line.contains("locked out")).map(str::to_owned).collect();
        Ok((!lines.is_empty()).then_some(lines))
    })
    .await?;
    println!("{told:?}");
    ensure!(told.len() == 1 && told.iter().all(|line| line.contains("has let them in again")), "{told:?}");
    cluster.start_service(&format!("keeper{standby}"))?;
    let verdict = writing.stop().await.check(&cluster.instance(primary)).await?;
    ensure!(verdict.lost.is_empty(), "lost {:?}", verdict.lost);
    Ok(())
}

#[test]
fn direct_clients_are_let_go_when_a_standby_is_lost_with_the_store() {
    on_prepared(Plan::new(3).store(StoreKind::Etcd), pledges_decide);
}

#[test]
fn so_are_those_of_a_synchronous_primary_that_could_go_on() {
    let plan = Plan::new(3).spec(json!({ "synchronousReplication": true })).store(StoreKind::Etcd);
    on_prepared(plan, pledges_decide);
}

/// In asynchronous mode a server that ends without the store comes back where all others pledge.
#[test]
fn a_primary_that_ends_while_the_store_is_away_comes_back_behind_its_gate() {
    let plan = Plan::new(2).spec(json!({ "synchronousReplication": false })).store(StoreKind::Etcd);
    on_prepared(plan, async |cluster| {
        cluster.start_answering(2).await?;
        let primary = cluster.primary().await?;
        let writing = write_to(cluster, primary).await?;
        cluster.server.kill()?;
        passes(LEASE + SLACK).await;
        let died = Instant::now();
        cluster.kill_postmaster(primary)?;
        wait_for("rows again", PATIENCE, async || {
            Ok(writing.last_acknowledged().is_some_and(|last| last > died + QUERY / 10).then_some(()))
        })
        .await?;
        ensure!(
            cluster.log(&format!("keeper{primary}")).contains("clients are let in"),
            "no gate was opened"
        );
        cluster.server.restart().await?;
        cluster.wait_writable(PATIENCE).await?;
        ensure!(cluster.primary().await? == primary, "the primary was replaced");
        let verdict = writing.stop().await.check(&cluster.instance(primary)).await?;
        ensure!(verdict.lost.is_empty(), "lost {:?}", verdict.lost);
        Ok(())
    });
}
