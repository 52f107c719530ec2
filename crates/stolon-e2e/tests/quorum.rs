//! Commits that wait for any one of two standbys: a slow one delays nobody, and is not elected over the one that has acknowledged.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use rustix::process::{Signal, kill_process};
use serde_json::json;
use stolon_model::Quorum;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_cluster, start_writing, wait_for};

const ROWS: usize = 200_000;
const COMMITS: usize = 20;

/// The keepers of the quorum that holds everything, once it asks for one of two.
async fn members(cluster: &Cluster) -> anyhow::Result<BTreeSet<usize>> {
    wait_for("a quorum of two that is in force", PATIENCE, async || {
        let data = cluster.data().await?;
        let primary = data.primary().context("no primary")?;
        let asked = primary.quorum().context("commits wait for all")?;
        let known: &[Quorum] = primary.status.quorums.as_deref().unwrap_or_default();
        ensure!(known == [asked.clone()] && asked.members().len() == 2, "{known:?} of {asked:?}");
        let keepers = asked.members().iter().filter_map(|uid| data.instances.get(uid));
        let numbers =
            keepers.map(|it| Ok(it.spec.keeper_uid.as_str().trim_start_matches("keeper").parse()?));
        Ok(Some(numbers.collect::<anyhow::Result<BTreeSet<usize>>>()?))
    })
    .await
}

#[test]
fn a_slow_member_delays_nobody_and_is_not_elected_over_the_one_that_acknowledged() {
    let plan = Plan::new(3).spec(json!({
        "synchronousReplication": true,
        "maxSynchronousStandbys": 2,
        "synchronousQuorum": 1,
    }));
    on_cluster(plan, async |cluster| {
        let primary = cluster.primary().await?;
        let both = members(cluster).await?;
        // The first by every order but that of positions.
        let (slow, ahead) = (*both.first().context("a member")?, *both.last().context("another one")?);
        let status = cluster.stolonctl(&["status"], "").await?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        let sentence = format!("commits wait for any 1 of keeper{slow}, keeper{ahead}");
        let other = format!("commits wait for any 1 of keeper{ahead}, keeper{slow}");
        ensure!(status.contains(&sentence) || status.contains(&other), "{status}");

        let session = cluster.session().await?;
        session.rows("create table promised (id int primary key)", QUERY).await?;
        let receivers = cluster.backends(slow, "walreceiver")?;
        ensure!(receivers.len() == 1, "no WAL receiver on keeper{slow}");
        kill_process(receivers[0], Signal::STOP)?;
        // Each within the time of a query, although one of the two confirms nothing.
        for row in 0..COMMITS {
            session.rows(&format!("insert into promised values (-{row} - 1)"), QUERY).await?;
        }
        session.rows(&format!("insert into promised select generate_series(1, {ROWS})"), QUERY).await?;

        cluster.kill_keeper_and_postgres(primary).await?;
        kill_process(receivers[0], Signal::CONT)?;
        let elected = cluster.wait_other_primary(primary, PATIENCE).await?;
        ensure!(elected == ahead, "keeper{elected} was elected, keeper{ahead} has the rows");
        wait_for("all acknowledged rows on the new primary", PATIENCE, async || {
            let session = cluster.instance(elected).connect(QUERY).await?;
            ensure!(session.value("select pg_is_in_recovery()", QUERY).await? == "f", "not promoted yet");
            let there: usize = session.value("select count(*) from promised", QUERY).await?.parse()?;
            ensure!(there == ROWS + COMMITS, "{there} of {} acknowledged rows are there", ROWS + COMMITS);
            Ok(Some(()))
        })
        .await?;

        // Whoever was stopped follows the new primary, and what is written meanwhile is kept when that one goes, too.
        cluster.wait_writable(PATIENCE).await?;
        let writing = start_writing(cluster).await?;
        cluster.start_service(&format!("keeper{primary}"))?;
        members(cluster).await?;
        cluster.kill_keeper_and_postgres(elected).await?;
        cluster.wait_other_primary(elected, PATIENCE).await?;
        cluster.wait_writable(PATIENCE).await?;
        let verdict = writing.stop().await.check(&cluster.proxy()).await?;
        ensure!(verdict.lost.is_empty(), "{} rows are lost", verdict.lost.len());
        Ok(())
    });
}
