//! A store that goes back in time while clients write, and requests of operators on a running cluster.

use std::process::Output;

use anyhow::{Context, ensure};
use stolon_model::{ClusterDocument, Document};
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_cluster, wait_for};

/// What B was given after A had died.
const ROWS: usize = 5000;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn rows(cluster: &Cluster, number: usize) -> anyhow::Result<usize> {
    let session = cluster.instance(number).connect(QUERY).await?;
    Ok(session.value("select count(*) from kept", QUERY).await?.parse()?)
}

/// A dies, B is promoted and written; then the store holds the document from before, and A's keeper is started.
/// Returns the numbers of A and B.
async fn go_back(cluster: &mut Cluster) -> anyhow::Result<(usize, usize)> {
    let old = cluster.primary().await?;
    cluster.session().await?.rows("create table kept (id int)", QUERY).await?;
    let saved = cluster.stolonctl_ok(&["clusterdata", "read"], "").await?;
    let saved_document = ClusterDocument::from_json(&saved)?;
    let saved_epoch = saved_document.cluster.as_ref().and_then(|cluster| cluster.epoch);
    cluster.kill_keeper_and_postgres(old).await?;
    let new = cluster.wait_other_primary(old, PATIENCE).await?;
    cluster.wait_writable(PATIENCE).await?;
    let insert = format!("insert into kept select generate_series(1, {ROWS})");
    cluster.session().await?.rows(&insert, QUERY).await?;
    wait_for("what the new primary has served under", PATIENCE, async || {
        let served = cluster.report(new).await?.activity.and_then(|activity| activity.served);
        Ok(served.filter(|served| Some(served.epoch) > saved_epoch))
    })
    .await?;
    let refused = cluster.stolonctl(&["clusterdata", "write", "--yes"], &saved).await?;
    ensure!(!refused.status.success() && stderr(&refused).contains("--allow-data-loss"), "{refused:?}");
    cluster.store.put_cluster_document(&saved_document).await?;
    cluster.start_service(&format!("keeper{old}"))?;
    Ok((old, new))
}

/// Wait until the leader holds everything, and says whom it has to thank for that.
async fn wait_held(cluster: &Cluster, ahead: usize) -> anyhow::Result<()> {
    let keeper = format!("keeper{ahead}");
    wait_for("a sentinel that holds", PATIENCE, async || {
        let reports = cluster.store.sentinel_reports().await?;
        let newer = reports.values().find_map(|report| report.newer.as_ref()).context("nobody holds")?;
        Ok(newer.keepers.iter().flatten().any(|(uid, _)| uid.as_str() == keeper).then_some(()))
    })
    .await
}

/// Nobody may lose what the newest primary took, whatever the store says and whoever is started.
#[test]
fn a_document_from_before_a_failover_costs_nothing() {
    on_cluster(Plan::new(2), async |cluster| {
        let (old, new) = go_back(cluster).await?;
        wait_held(cluster, new).await?;
        wait_for("the keeper that was started", PATIENCE, async || cluster.report(old).await.map(Some))
            .await?;

        // Everything says so, and the client stays where the newest data are.
        let shown = cluster.stolonctl(&["settle"], "").await?;
        ensure!(shown.status.code() == Some(1), "{shown:?}");
        ensure!(stdout(&shown).starts_with(&format!("keeper{new}: db ")), "{shown:?}");
        let status = stdout(&cluster.stolonctl(&["status"], "").await?);
        ensure!(status.contains("older than what keepers have served under"), "{status}");
        ensure!(status.contains("stolonctl settle --take-newest"), "{status}");
        ensure!(status.contains("are older than what this keeper served under"), "{status}");
        let sentinel = cluster.log("sentinel1");
        ensure!(sentinel.contains("older than what keepers have served under"), "{sentinel}");
        wait_for("a proxy that says why it stays", PATIENCE, async || {
            let log = cluster.log("proxy1");
            Ok(log.contains("are older than what this proxy has seen").then_some(()))
        })
        .await?;
        cluster.session().await?.rows("insert into kept values (0)", QUERY).await?;
        ensure!(rows(cluster, new).await? == ROWS + 1, "rows are lost");

        // The newest it is: the cluster is whole again, with everything.
        let taken = cluster.stolonctl(&["settle", "--take-newest"], "").await?;
        ensure!(taken.status.success(), "{taken:?}");
        ensure!(stderr(&taken) == format!("the newest data are those of keeper keeper{new}\n"), "{taken:?}");
        wait_for(
            "the newest primary",
            PATIENCE,
            async || Ok((cluster.primary().await? == new).then_some(())),
        )
        .await?;
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await?;
        ensure!(rows(cluster, new).await? == ROWS + 1, "rows are lost");
        wait_for("a standby with every row", PATIENCE, async || {
            let there = rows(cluster, old).await?;
            ensure!(there == ROWS + 1, "{there} rows");
            Ok(Some(()))
        })
        .await?;
        let settled = cluster.stolonctl_ok(&["settle"], "").await?;
        ensure!(settled.starts_with("nobody has served under newer cluster data"), "{settled}");
        ensure!(cluster.primary().await? == new, "the primary changed again");
        Ok(())
    });
}

/// The keeper with the newest data is gone for good. What it held can be given up by name, although its report has gone with it.
#[test]
fn what_a_dead_keeper_held_can_be_given_up() {
    on_cluster(Plan::new(2), async |cluster| {
        let (old, new) = go_back(cluster).await?;
        wait_held(cluster, new).await?;
        cluster.kill_keeper_and_postgres(new).await?;
        let gone = format!("keeper{new}").as_str().into();
        // It would end by itself, a minute later.
        cluster.store.remove_keeper_report(&gone).await?;
        wait_held(cluster, new).await?;
        let taken = cluster.stolonctl(&["settle", "--take-newest"], "").await?;
        ensure!(stderr(&taken).contains("has served last and does not report"), "{taken:?}");
        cluster.stolonctl_ok(&["settle", "--accept-data-loss", &format!("keeper{new}")], "").await?;
        cluster.wait_writable(PATIENCE).await?;
        ensure!(cluster.primary().await? == old, "another primary");
        ensure!(rows(cluster, old).await? == 0, "what was given up is there");
        cluster.start_service(&format!("keeper{new}"))?;
        cluster.wait_streaming(1, PATIENCE).await
    });
}

/// The command waits for the sentinel, and says what became of it: done, or nothing and why.
#[test]
fn failkeeper_says_what_became_of_it() {
    on_cluster(Plan::new(2), async |cluster| {
        let old = cluster.primary().await?;
        let replaced = cluster.stolonctl(&["failkeeper", &format!("keeper{old}")], "").await?;
        ensure!(replaced.status.success(), "{replaced:?}");
        ensure!(stderr(&replaced).starts_with(&format!("keeper keeper{old} was replaced: ")), "{replaced:?}");
        let new = cluster.primary().await?;
        ensure!(new != old, "it said so, and is not");
        cluster.wait_writable(PATIENCE).await?;
        cluster.wait_streaming(1, PATIENCE).await?;

        // Its only standby has just died: the healthy primary stays, and the request does not outlive its moment.
        cluster.kill_keeper_and_postgres(old).await?;
        let kept = cluster.stolonctl(&["failkeeper", &format!("keeper{new}")], "").await?;
        ensure!(kept.status.code() == Some(1), "{kept:?}");
        ensure!(stderr(&kept).starts_with(&format!("keeper keeper{new} was not replaced: ")), "{kept:?}");
        cluster.wait_writable(PATIENCE).await?;
        cluster.start_service(&format!("keeper{old}"))?;
        cluster.wait_streaming(1, PATIENCE).await?;
        ensure!(cluster.primary().await? == new, "the request fired later");

        // Nobody is there to take it.
        cluster.stop_service("sentinel1").await?;
        let nobody = cluster.stolonctl(&["failkeeper", &format!("keeper{new}")], "").await?;
        ensure!(stderr(&nobody).contains("no sentinel leads now"), "{nobody:?}");
        Ok(())
    });
}
/// Removed right after its end, a keeper is not brought back by the report that it left behind; started again, it is back.
#[test]
fn a_removed_keeper_stays_away_until_it_reports() {
    on_cluster(Plan::new(2), async |cluster| {
        let standby = 3 - cluster.primary().await?;
        let name = format!("keeper{standby}");
        let uid = name.as_str().into();
        cluster.kill_keeper_and_postgres(standby).await?;
        cluster.stolonctl_ok(&["removekeeper", &name], "").await?;
        let writes = cluster.data().await?.change_time;
        wait_for("decisions after the removal", PATIENCE, async || {
            cluster.session().await?.rows("select pg_logical_emit_message(true, 'test', '')", QUERY).await?;
            let data = cluster.data().await?;
            ensure!(!data.keepers.contains_key(&uid), "{name} is back");
            let age = data.change_time.instant().duration_since(writes.instant());
            Ok((age.as_secs() >= 5).then_some(()))
        })
        .await?;
        cluster.start_service(&name)?;
        cluster.wait_streaming(1, PATIENCE).await
    });
}
