//! What operators ask of a cluster that works: to hold still for a while, to restart, to copy data anew.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use stolon_testkit::local::writes::Writes;
use stolon_testkit::{Cluster, PATIENCE, Plan, QUERY, on_cluster, wait_for};

async fn status(cluster: &Cluster) -> anyhow::Result<String> {
    let shown = cluster.stolonctl(&["status"], "").await?;
    Ok(String::from_utf8_lossy(&shown.stdout).into_owned())
}

#[test]
fn nobody_is_elected_while_the_cluster_is_paused_and_somebody_is_when_it_is_resumed() {
    on_cluster(Plan::new(2), async |cluster| {
        let old = cluster.primary().await?;
        cluster.stolonctl_ok(&["pause", "--for", "20m", "--reason", "new switches"], "").await?;
        cluster.kill_keeper_and_postgres(old).await?;
        // The sentinel has found out, and would have replaced it by now.
        let told = wait_for("why nobody is elected", PATIENCE, async || {
            let shown = status(cluster).await?;
            Ok(shown.contains("is not replaced while the cluster is paused").then_some(shown))
        })
        .await?;
        let first = told.lines().next().unwrap_or_default();
        ensure!(
            first.starts_with("the cluster is paused until ") && first.contains("new switches"),
            "{told}"
        );
        ensure!(cluster.primary().await? == old, "somebody was elected");
        let check = cluster.stolonctl(&["status", "--check"], "").await?;
        ensure!(check.status.code() == Some(2), "{check:?}");

        let refused = cluster.stolonctl(&["failkeeper", &format!("keeper{old}")], "").await?;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && why.contains("stolonctl resume"), "{why}");

        cluster.stolonctl_ok(&["resume"], "").await?;
        cluster.wait_other_primary(old, PATIENCE).await?;
        let history = cluster.stolonctl_ok(&["history"], "").await?;
        let entered: Vec<&str> =
            ["pause until", "resume", "failover"].into_iter().filter(|what| history.contains(what)).collect();
        ensure!(entered.len() == 3, "{history}");
        Ok(())
    });
}

#[test]
fn a_pause_that_nobody_ends_lapses_and_what_was_left_undone_is_done() {
    on_cluster(Plan::new(2), async |cluster| {
        let old = cluster.primary().await?;
        cluster.stolonctl_ok(&["pause", "--for", "20s"], "").await?;
        cluster.kill_keeper_and_postgres(old).await?;
        wait_for("why nobody is elected", PATIENCE, async || {
            Ok(status(cluster).await?.contains("is not replaced while").then_some(()))
        })
        .await?;
        cluster.wait_other_primary(old, PATIENCE).await?;
        ensure!(cluster.data().await?.cluster.pause.is_none(), "the pause is still there");
        let history = cluster.stolonctl_ok(&["history"], "").await?;
        ensure!(history.contains("resumed"), "{history}");
        Ok(())
    });
}

#[test]
fn every_postgresql_is_restarted_one_at_a_time_under_load() {
    on_cluster(Plan::new(3).spec(json!({ "synchronousReplication": true })), async |cluster| {
        cluster.wait_synchronous_set(PATIENCE, |set| set.len() == 1).await?;
        let primary = cluster.primary().await?;
        cluster.patch(json!({ "pgParameters": { "max_connections": "150" } })).await?;
        wait_for("a restart to be pending everywhere", PATIENCE, async || {
            for number in 1..=3 {
                let activity = cluster.report(number).await?.activity.unwrap_or_default();
                if !activity.pending_restart {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        let before: Vec<_> = (1..=3).map(|number| cluster.postmaster(number)).collect::<Result<_, _>>()?;
        let writes = Writes {
            doors: vec![cluster.proxy()],
            clients: 2,
            pause: Duration::from_millis(20),
            limit: Duration::from_secs(15),
        };
        let writing = writes.start().await?;
        let told = cluster.stolonctl(&["restart", "--all", "--if-pending"], "").await?;
        let told_text = String::from_utf8_lossy(&told.stderr).into_owned();
        ensure!(told.status.success(), "{told_text}");
        let done: Vec<&str> = told_text.lines().filter(|line| line.ends_with("was restarted")).collect();
        ensure!(done.len() == 3 && done[2].contains(&format!("keeper{primary}:")), "{told_text}");
        for number in 1..=3 {
            let session = cluster.instance(number).connect(QUERY).await?;
            ensure!(session.value("show max_connections", QUERY).await? == "150");
            ensure!(cluster.postmaster(number)? != before[number - 1], "keeper{number} was not restarted");
        }
        ensure!(
            told_text.contains(&format!("keeper keeper{primary} has the primary: handing it over")),
            "{told_text}"
        );
        ensure!(cluster.primary().await? != primary, "it was relieved, so that clients hardly wait");
        let verdict = writing.stop().await.check(&cluster.proxy()).await?;
        ensure!(verdict.lost.is_empty() && verdict.unexpected.is_empty(), "{verdict:?}");
        let again = cluster.stolonctl(&["restart", "--all", "--if-pending"], "").await?;
        let nothing = String::from_utf8_lossy(&again.stderr).into_owned();
        ensure!(nothing.matches("nothing waits for a restart").count() == 3, "{nothing}");
        Ok(())
    });
}

#[test]
fn the_data_of_a_standby_are_copied_anew_on_request_and_those_of_the_primary_are_not() {
    on_cluster(Plan::new(2), async |cluster| {
        let primary = cluster.primary().await?;
        let standby = 3 - primary;
        let refused = cluster.stolonctl(&["reinit", &format!("keeper{primary}")], "").await?;
        ensure!(!refused.status.success(), "{refused:?}");
        // What only a fresh copy lacks.
        let mark = cluster.data_directory(standby).join("a_mark");
        std::fs::write(&mark, "")?;
        cluster.stolonctl_ok(&["reinit", &format!("keeper{standby}"), "--timeout", "2m"], "").await?;
        ensure!(!mark.exists(), "the old data are still there");
        cluster.wait_streaming(1, PATIENCE).await?;
        let history = cluster.stolonctl_ok(&["history"], "").await?;
        ensure!(history.contains("reinit keeper"), "{history}");
        Ok(())
    });
}

/// What stands in files beside the configuration, a certificate for example, is read only when somebody says so.
#[test]
fn postgresql_reads_its_files_again_on_request() {
    on_cluster(Plan::new(2), async |cluster| {
        let read_at = async |cluster: &Cluster, number: usize| {
            let session = cluster.instance(number).connect(QUERY).await?;
            session.value("select pg_conf_load_time()", QUERY).await
        };
        let primary = cluster.primary().await?;
        let before = [read_at(cluster, 1).await?, read_at(cluster, 2).await?];
        let one = cluster.stolonctl(&["reload", &format!("keeper{primary}")], "").await?;
        ensure!(one.status.success(), "{one:?}");
        ensure!(read_at(cluster, primary).await? != before[primary - 1]);
        ensure!(read_at(cluster, 3 - primary).await? == before[2 - primary], "only the one that was named");
        let all = cluster.stolonctl(&["reload", "--all"], "").await?;
        let told = String::from_utf8_lossy(&all.stderr).into_owned();
        ensure!(all.status.success() && told.matches("has read its files").count() == 2, "{told}");
        ensure!(read_at(cluster, 3 - primary).await? != before[2 - primary]);
        Ok(())
    });
}
