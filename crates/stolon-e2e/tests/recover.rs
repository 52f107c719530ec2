//! A new primary that is lost for good right after its election, while the former one's data are intact.

use std::process::Output;

use anyhow::ensure;
use serde_json::json;
use stolon_model::InstanceUid;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_cluster, wait_for};

const BEFORE: usize = 1000;
const AFTER: usize = 5000;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn rows(cluster: &Cluster, number: usize) -> anyhow::Result<usize> {
    let session = cluster.instance(number).connect(QUERY).await?;
    Ok(session.value("select count(*) from kept", QUERY).await?.parse()?)
}

async fn elected(cluster: &Cluster) -> anyhow::Result<InstanceUid> {
    Ok(cluster.data().await?.cluster.status.primary.unwrap_or_default())
}

/// A dies with acknowledged rows, and B is promoted and has converged, so that A is taken out of the document. Returns their numbers.
async fn replace(cluster: &mut Cluster) -> anyhow::Result<(usize, usize)> {
    let old = cluster.primary().await?;
    let former = elected(cluster).await?;
    let session = cluster.session().await?;
    session.rows("create table kept (id int)", QUERY).await?;
    session.rows(&format!("insert into kept select generate_series(1, {BEFORE})"), QUERY).await?;
    drop(session);
    cluster.kill_keeper_and_postgres(old).await?;
    let new = cluster.wait_other_primary(old, PATIENCE).await?;
    wait_for("the end of the former primary in the document", PATIENCE, async || {
        Ok((!cluster.data().await?.instances.contains_key(&former)).then_some(()))
    })
    .await?;
    Ok((old, new))
}

/// In synchronous mode B has acknowledged nothing: A comes back by itself, and B follows it when it is back.
#[test]
fn in_synchronous_mode_the_former_primary_comes_back_by_itself() {
    on_cluster(Plan::new(2).spec(json!({ "synchronousReplication": true })), async |cluster| {
        cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
        let former = elected(cluster).await?;
        let (old, new) = replace(cluster).await?;
        cluster.kill_keeper_and_postgres(new).await?;
        cluster.start_service(&format!("keeper{old}"))?;
        wait_for("the former primary", PATIENCE, async || {
            Ok((elected(cluster).await? == former).then_some(()))
        })
        .await?;
        wait_for("what it holds, for clients", PATIENCE, async || {
            let session = cluster.session().await?;
            let found: usize = session.value("select count(*) from kept", QUERY).await?.parse()?;
            ensure!(found == BEFORE, "{found} rows");
            Ok(Some(()))
        })
        .await?;
        cluster.start_service(&format!("keeper{new}"))?;
        cluster.wait_streaming(1, PATIENCE).await?;
        cluster.wait_writable(PATIENCE).await?;
        ensure!(cluster.primary().await? == old && elected(cluster).await? == former);
        ensure!(rows(cluster, new).await? == BEFORE, "what follows it has other rows");
        let history = cluster.stolonctl_ok(&["history"], "").await?;
        ensure!(history.matches("failover").count() >= 2, "{history}");
        Ok(())
    });
}

/// In asynchronous mode B has acknowledged rows, and they are lost only when an operator says so. B follows when it is back, and what it
/// held is named.
#[test]
fn in_asynchronous_mode_an_operator_goes_on_from_the_former_primary() {
    on_cluster(Plan::new(2), async |cluster| {
        let (old, new) = replace(cluster).await?;
        let (there, gone) = (format!("keeper{old}"), format!("keeper{new}"));
        cluster.wait_writable(PATIENCE).await?;
        let insert = format!("insert into kept select generate_series(1, {AFTER})");
        cluster.session().await?.rows(&insert, QUERY).await?;
        let refused = cluster.stolonctl(&["recover", &there, "--allow-data-loss"], "").await?;
        ensure!(text(&refused).contains("works, or has failInterval"), "{refused:?}");

        cluster.kill_keeper_and_postgres(new).await?;
        cluster.start_service(&there)?;
        let way_out = format!("stolonctl recover {there} says what would be lost");
        wait_for("the way out", PATIENCE, async || {
            let status = text(&cluster.stolonctl(&["status"], "").await?);
            Ok(status.contains(&way_out).then_some(()))
        })
        .await?;
        ensure!(
            text(&cluster.stolonctl(&["recover"], "").await?).contains(&format!("keeper {there} holds db "))
        );
        let asked = cluster.stolonctl(&["recover", &there], "").await?;
        let said = text(&asked);
        ensure!(
            asked.status.code() == Some(1) && said.contains("lost would be what was committed on timeline 2"),
            "{said}"
        );
        ensure!(
            said.contains("the primary until ")
                && said.contains(&format!("on keeper {gone}, on timeline 2 at ")),
            "{said}"
        );
        ensure!(cluster.primary().await? == new, "asking changed something");

        cluster.stolonctl_ok(&["recover", &there, "--allow-data-loss"], "").await?;
        cluster.wait_writable(PATIENCE).await?;
        ensure!(cluster.primary().await? == old && rows(cluster, old).await? == BEFORE);

        cluster.start_service(&gone)?;
        cluster.wait_streaming(1, PATIENCE).await?;
        ensure!(cluster.primary().await? == old, "the lost one has taken over again");
        wait_for("a standby with the same rows", PATIENCE, async || {
            let found = rows(cluster, new).await?;
            ensure!(found == BEFORE, "{found} rows");
            Ok(Some(()))
        })
        .await?;
        let history = cluster.stolonctl_ok(&["history"], "").await?;
        ensure!(
            history.contains("given up") && history.contains("what it wrote on timeline 2 from "),
            "{history}"
        );
        ensure!(history.contains(&format!("recover {there} --allow-data-loss")), "{history}");
        Ok(())
    });
}
