//! An acknowledged commit survives also when the standby that is being admitted lags far behind.
//!
//! PostgreSQL shows every standby that streams as `sync`, however much of the log it still has to flush. Commits that were
//! acknowledged before it was asked for are not on it: whoever counts it too early, and elects it, loses them.

use anyhow::{Context, ensure};
use rustix::process::{Signal, kill_process};
use serde_json::json;
use stolon_testkit::{PATIENCE, Plan, QUERY, on_cluster, wait_for};

const ROWS: usize = 200_000;

#[test]
fn a_standby_that_lags_is_not_elected_over_the_one_that_acknowledged() {
    let plan = Plan::new(3).spec(json!({
        "synchronousReplication": true,
        "minSynchronousStandbys": 1,
        "maxSynchronousStandbys": 1,
    }));
    on_cluster(plan, async |cluster| {
        let primary = cluster.primary().await?;
        let synchronous = cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?[0];
        let lagging = 6 - primary - synchronous;

        // The third instance stops receiving; its keeper and its PostgreSQL look healthy.
        let receivers = cluster.backends(lagging, "walreceiver")?;
        ensure!(receivers.len() == 1, "no WAL receiver on keeper{lagging}");
        kill_process(receivers[0], Signal::STOP)?;
        let session = cluster.session().await?;
        session.rows("create table promised (id int primary key)", QUERY).await?;
        session.rows(&format!("insert into promised select generate_series(1, {ROWS})"), QUERY).await?;

        cluster.patch(json!({ "maxSynchronousStandbys": 2 })).await?;
        let asked_for = wait_for("the lagging standby to be asked for", PATIENCE, async || {
            let data = cluster.data().await?;
            let primary = data.primary().context("no primary")?;
            let asked = primary.spec.synchronous_standbys.iter().flatten().count();
            Ok((asked == 2 && primary.status.current_generation >= primary.generation).then_some(()))
        });
        asked_for.await?;
        // Three more reports of the primary, so that the sentinel has had every chance to count it.
        let mut seen = std::collections::BTreeSet::new();
        wait_for("reports of the primary", PATIENCE, async || {
            seen.insert(cluster.report(primary).await?.info_uid);
            Ok((seen.len() > 3).then_some(()))
        })
        .await?;

        cluster.kill_keeper_and_postgres(primary).await?;
        kill_process(receivers[0], Signal::CONT)?;
        let elected = cluster.wait_other_primary(primary, PATIENCE).await?;
        ensure!(elected == synchronous, "keeper{elected} was elected, keeper{synchronous} has the rows");
        wait_for("all acknowledged rows on the new primary", PATIENCE, async || {
            let session = cluster.instance(elected).connect(QUERY).await?;
            ensure!(session.value("select pg_is_in_recovery()", QUERY).await? == "f", "not promoted yet");
            let there: usize = session.value("select count(*) from promised", QUERY).await?.parse()?;
            ensure!(there == ROWS, "{there} of {ROWS} acknowledged rows are there");
            Ok(Some(()))
        })
        .await
    });
}
